//! What an operator can ask of a running daemon, and its answers.

use std::{net::IpAddr, path::PathBuf};

use ipnet::IpNet;
use proto::MacAddr;
use serde::{Deserialize, Serialize};

use super::{Status, text};

/// A client's request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "lowercase")]
pub enum Command {
    /// Add targets; with `replace`, drop the others.
    Connect {
        /// `host[:port]`, `[v6]:port`.
        peers: Vec<String>,
        /// Whether the list replaces the present one.
        replace: bool,
    },
    /// Drop targets; links that are up stay.
    Forget {
        /// As they were given.
        peers: Vec<String>,
    },
    /// The present state.
    Status,
    /// The state with everything that helps a developer.
    Report,
    /// Give a network namespace an interface on the overlay.
    Attach {
        /// A path the daemon can open, such as `/run/netns/c1` or `/proc/42/ns/net`.
        netns: PathBuf,
        /// Name of the interface inside.
        ifname: String,
        /// Its addresses, each with a prefix length.
        addresses: Vec<IpNet>,
        /// What it is called.
        #[serde(flatten, default)]
        naming: Naming,
        /// Subnets out of which it gets an address each: `default` or a CIDR.
        #[serde(default)]
        subnets: Vec<String>,
    },
    /// Take addresses from such an interface; with none given, all, and the interface too.
    Detach {
        /// As for `Attach`.
        netns: PathBuf,
        /// Name of the interface inside.
        ifname: String,
        /// The addresses.
        addresses: Vec<IpNet>,
        /// Those out of these subnets, too.
        #[serde(default)]
        subnets: Vec<String>,
    },
    /// Give this host addresses on the overlay.
    Expose {
        /// Its addresses.
        addresses: Vec<IpNet>,
        /// Subnets out of which it gets an address each.
        #[serde(default)]
        subnets: Vec<String>,
    },
    /// Take addresses from this host; none given means all.
    Hide {
        /// The addresses.
        addresses: Vec<IpNet>,
        /// Those out of these subnets, too.
        #[serde(default)]
        subnets: Vec<String>,
    },
    /// Have the range divided, although nobody needs an address yet.
    Prime,
    /// Take over the addresses of peers that are gone.
    Rmpeer {
        /// Ids, starts of ids, or nicknames.
        peers: Vec<String>,
        /// Also of peers that live.
        force: bool,
    },
    /// What is attached and exposed.
    Ps,
    /// Look up or change names.
    Dns(DnsCommand),
    /// Show or change the network secrets.
    Token(TokenCommand),
    /// Change what is logged.
    LogLevel {
        /// A filter such as `info` or `wove::engine=debug`.
        filter: String,
    },
    /// Shut down; containers keep their interfaces.
    Stop,
    /// Remove everything wove made on this host, forget the network, shut down.
    Reset,
}

/// What to do about names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "lowercase")]
pub enum DnsCommand {
    /// Give a name addresses, besides those it has.
    Add {
        /// With or without the domain.
        name: String,
        /// Inside the overlay or outside.
        addresses: Vec<IpAddr>,
    },
    /// Take addresses from a name that was added on this host; none given means all.
    Remove {
        /// With or without the domain.
        name: String,
        /// The addresses.
        addresses: Vec<IpAddr>,
    },
    /// The addresses of a name, or the names of an address.
    Lookup {
        /// With or without the domain.
        name: String,
    },
}

/// What to do about network secrets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "lowercase")]
pub enum TokenCommand {
    /// Print the token others join with.
    Show,
    /// Accept another secret beside the present ones; a new one if none is given.
    Add {
        /// A token.
        token: Option<String>,
    },
    /// Make an accepted secret the one to join with and to offer first.
    Prefer {
        /// A token.
        token: String,
    },
    /// Accept a secret no longer; sessions that exist stay until their rekey.
    Remove {
        /// A token.
        token: String,
    },
}

/// The daemon's answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "lowercase")]
pub enum Reply {
    /// Done, nothing to say.
    Done,
    /// Done, with warnings (a name that does not resolve, for one).
    Warned {
        /// One line each.
        warnings: Vec<String>,
    },
    /// The state.
    Status(Box<Status>),
    /// The report: free-form.
    Report {
        /// Its content.
        report: serde_json::Value,
    },
    /// What was attached, or what is left after a detach.
    Attached(Attachment),
    /// Addresses that were given or taken.
    Addresses {
        /// The addresses.
        addresses: Vec<IpNet>,
    },
    /// A name's addresses, or an address's names.
    Names {
        /// The name or address asked for.
        name: String,
        /// Addresses, or names with the domain.
        found: Vec<String>,
    },
    /// What is attached and exposed.
    Attachments {
        /// Containers, and the host itself under `netns` = "host".
        attachments: Vec<Attachment>,
    },
    /// Addresses were taken over.
    TakenOver {
        /// From whom, and how many.
        taken: Vec<TakenOver>,
    },
    /// A token.
    Token {
        /// The token to join with; none when the network has a password only.
        token: Option<String>,
        /// A line to run on another host.
        join: String,
        /// How many secrets are accepted.
        accepted: usize,
    },
}

/// What was taken over of one peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakenOver {
    /// As it was named.
    pub peer: String,
    /// How many addresses.
    pub addresses: u32,
}

/// An interface on the overlay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Path of the namespace, or `host`.
    pub netns: String,
    /// The interface inside.
    pub ifname: String,
    /// Its MAC address.
    #[serde(with = "text")]
    pub mac: MacAddr,
    /// Its addresses.
    pub addresses: Vec<IpNet>,
    /// What it is called.
    #[serde(flatten, default)]
    pub naming: Naming,
}

/// What an attached container is called, and what it was given for that.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Naming {
    /// Names without the domain. In a request: none means those of before, else `called`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// Only in a request: what its engine calls it; none means the default.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub called: Vec<String>,
    /// Nobody is told a name.
    #[serde(default, skip_serializing_if = "is_false")]
    pub nameless: bool,
    /// The host name set inside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Whether names are answered inside, and resolv.conf and hosts written.
    #[serde(default, skip_serializing_if = "is_false")]
    pub dns: bool,
    /// The container engine's id of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// Why a command was not done: what, why, what to do, in one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The line.
    pub message: String,
}
