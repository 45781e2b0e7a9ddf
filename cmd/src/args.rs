//! The command line: every command of the contract with operators. It only
//! reads; nothing is done here.
#![allow(
    rustdoc::broken_intra_doc_links,
    reason = "help lines are read by clap, and brackets mean optional"
)]

use std::{net::IpAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;
use wove::shell::{config, view::Page};

use crate::launch::LaunchArgs;

const EXAMPLES: &str = "Examples:
  wove launch                                    make a network, and say how to join it
  wove launch --token-file /etc/wove/token b c   join the network of hosts b and c
  wove attach --netns c1                         give a namespace an address
  wove status connections                        who is connected, and how
  wove status -o json                            the same for scripts

Exit status: 0 done, 1 failed, 2 not understood.";

const LAUNCH_EXAMPLES: &str = "Examples:
  wove launch                             the network of the last run, or a new one
  WOVE_TOKEN=... wove launch host-b       join the network of host-b
  wove launch --token-file tokens host-b  the same; several tokens, one a line, are all accepted
  wove launch --resume                    join by the targets of the last run

It stays in the foreground until SIGTERM or SIGINT, and tells systemd when it is ready.
Every option can be given in the environment as WOVE_<NAME>; lists are separated by commas
(a password is one, whatever it holds).";

const ATTACH_EXAMPLES: &str = "Examples:
  wove attach --netns c1                              an address of each family
  wove attach --netns c1 net:10.32.7.0/24             one of a subnet
  wove attach --netns c1 net:default net:10.32.7.0/24 both
  wove attach --netns c1 10.32.1.5/24                 this one
  wove attach --pid 4242 --ifname mesh0 10.32.1.6/24 fd00:32::6/64
  wove attach --container web1 --dns --name web 10.32.1.7/24

Doing it twice is the same as doing it once. Names are told without the domain.";

const DNS_EXAMPLES: &str = "Examples:
  wove dns add printer 192.0.2.7       a name for something outside
  wove dns remove printer              no longer
  wove dns lookup web                  all addresses of a name
  wove dns lookup 10.32.1.7            all names of an address";

const RMPEER_HELP: &str =
    "It is your word that the peer and its containers are gone: its addresses are given out anew.
It may be run on any number of the peers that are left, at once or one after the other.

Example:
  wove rmpeer host-c";

/// wove joins the containers of many hosts to one encrypted network
#[derive(Parser, Clone, Debug)]
#[command(name = "wove", version, after_help = EXAMPLES, disable_help_subcommand = false)]
pub struct Cli {
    /// The daemon's control socket
    #[arg(long, global = true, env = "WOVE_SOCKET", value_name = "PATH", default_value = config::DEFAULT_SOCKET)]
    pub socket: PathBuf,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// How to answer.
#[derive(Args, Clone, Copy, Debug)]
pub struct OutputArgs {
    /// For people, or for scripts
    #[arg(
        short,
        long,
        global = true,
        value_name = "FORMAT",
        default_value = "text"
    )]
    pub output: Output,
}

/// How to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    Text,
    /// For scripts
    Json,
}

/// The commands. Help lines are their documentation.
#[derive(Subcommand, Clone, Debug)]
pub enum Command {
    /// Run a peer on this host
    #[command(after_help = LAUNCH_EXAMPLES)]
    Launch(Box<LaunchArgs>),
    /// Show it all on one machine: three peers in a line, on network namespaces (needs root)
    Demo {
        /// Leave it standing
        #[arg(long)]
        keep: bool,
    },
    /// Everything that a client asks of a daemon.
    #[command(flatten)]
    Client(ClientCommand),
    /// Print a script that completes commands and options in a shell
    #[command(
        after_help = "Example:\n  wove completions bash > /usr/share/bash-completion/completions/wove"
    )]
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// The shells that can complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[expect(missing_docs, reason = "they are names")]
pub enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// What a client asks of a daemon.
#[derive(Subcommand, Clone, Debug)]
pub enum ClientCommand {
    /// Dial more peers
    Connect {
        /// Dial only these from now on; links that are up stay
        #[arg(long)]
        replace: bool,
        /// host[:port], [v6]:port or an IPv6 address, each also with tcp:// before it
        ///
        /// The port is 6783 unless given.
        #[arg(required = true, value_name = "PEER")]
        peers: Vec<String>,
        /// How to answer.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Dial peers no longer; links that are up stay
    Forget {
        /// As they were given to `launch` or `connect`
        #[arg(required = true, value_name = "PEER")]
        peers: Vec<String>,
        /// How to answer.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Show the state of this peer and its mesh
    #[command(after_help = "With -o json, a part prints what the whole has under its key.")]
    Status {
        /// A part of it [default: a summary; with -o json everything]
        #[arg(value_name = "PART")]
        page: Option<PageArg>,
        /// How to answer.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Print everything that helps a developer, as JSON
    Report {
        /// How to answer.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Give a running container or namespace an interface on the overlay
    #[command(after_help = ATTACH_EXAMPLES)]
    Attach(AttachArgs),
    /// Take addresses from such an interface; with none given, all, and the interface too
    Detach(DetachArgs),
    /// Give this host addresses on the overlay
    #[command(after_help = "Examples:\n  wove expose\n  wove expose 10.32.0.1/24")]
    Expose(AddressArgs),
    /// Take addresses of the overlay from this host; with none given, all
    Hide(AddressArgs),
    /// List what is attached and exposed
    Ps {
        /// How to answer.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Show the token to join with, or change which are accepted
    #[command(
        after_help = "To replace a token without losing a frame: `add` the new one on every host,
`prefer` it on every host, then `remove` the old one. TOKEN - reads it from standard input."
    )]
    Token {
        /// What to do about it [default: show].
        #[command(subcommand)]
        action: Option<TokenAction>,
        /// How to answer.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Change what the daemon logs, until it stops
    LogLevel {
        /// error, warn, info, debug, trace, or per module as in wove::engine=debug,info
        filter: String,
        /// How to answer.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Stop the daemon and wait until it is gone; containers keep their interfaces
    Stop {
        /// How to answer.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Stop the daemon, remove all it made on this host, forget the network
    Reset(ResetArgs),
    /// Print the version of this command, and of the daemon if one answers
    Version {
        /// How to answer.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Look up names, or change those that belong to no container
    #[command(after_help = DNS_EXAMPLES)]
    Dns {
        /// What to do about them.
        #[command(subcommand)]
        action: DnsAction,
        /// How to answer.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Take over the addresses of peers that are gone for good
    #[command(after_help = RMPEER_HELP)]
    Rmpeer {
        /// Id, start of it, or nickname
        #[arg(required = true, value_name = "PEER")]
        peers: Vec<String>,
        /// Also from a peer that can be reached: what it does not hold
        #[arg(long)]
        force: bool,
        /// How to answer.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Have the range divided now, although nobody needs an address yet
    Prime {
        /// How to answer.
        #[command(flatten)]
        output: OutputArgs,
    },
}

/// A part of the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PageArg {
    /// Peers with which there is a session, or should be
    Connections,
    /// Every known peer, and how to reach it
    Peers,
    /// The addresses that are dialled
    Targets,
    /// MAC addresses in the mesh, and behind whom they live
    Stations,
    /// The address space
    Ipam,
    /// The names
    Dns,
}

impl From<PageArg> for Page {
    fn from(page: PageArg) -> Self {
        match page {
            PageArg::Connections => Self::Connections,
            PageArg::Peers => Self::Peers,
            PageArg::Targets => Self::Targets,
            PageArg::Stations => Self::Stations,
            PageArg::Ipam => Self::Ipam,
            PageArg::Dns => Self::Dns,
        }
    }
}

/// Which namespace, which interface, which addresses.
#[derive(Args, Clone, Debug)]
pub struct AttachArgs {
    /// Which interface.
    #[command(flatten)]
    pub inside: InsideArgs,
    /// What it is called.
    #[command(flatten)]
    pub naming: NamingArgs,
    /// How to answer.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// An interface inside a namespace, and addresses of it.
#[derive(Args, Clone, Debug)]
pub struct InsideArgs {
    /// Which namespace.
    #[command(flatten)]
    pub place: PlaceArgs,
    /// Name of the interface inside, 1 to 15 bytes
    #[arg(long, value_name = "NAME", default_value = "wove0", value_parser = parse_ifname)]
    pub ifname: String,
    /// 10.32.1.5/24, fd00:32::5/64, net:10.32.7.0/24 or net:default; without any, attach takes net:default, and detach takes away all addresses and the interface
    #[arg(value_name = "ADDR", value_parser = parse_address)]
    pub addresses: Vec<Address>,
}

/// Which namespace, which interface, which addresses to take.
#[derive(Args, Clone, Debug)]
pub struct DetachArgs {
    /// Which interface.
    #[command(flatten)]
    pub inside: InsideArgs,
    /// How to answer.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// What a container is called.
#[derive(Args, Clone, Debug)]
pub struct NamingArgs {
    /// Tell the mesh this name for it; may be repeated
    ///
    /// Without the option: the name of the container, or of the namespace, or the
    /// host name of a process that has one of its own. Several containers may have one name.
    #[arg(long = "name", value_name = "NAME", value_parser = parse_name)]
    pub names: Vec<String>,
    /// Tell nobody a name for it
    #[arg(long, conflicts_with_all = ["names", "hostname"])]
    pub no_name: bool,
    /// Set its host name, write it into its hosts file, and tell it as a name
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    pub hostname: Option<String>,
    /// Answer names inside, and write its resolv.conf and hosts for that
    #[arg(long)]
    pub dns: bool,
}

/// What to do about names.
#[derive(Subcommand, Clone, Debug)]
pub enum DnsAction {
    /// Give a name addresses, besides those it has
    Add {
        /// The name, with or without the domain
        #[arg(value_name = "NAME")]
        name: String,
        /// Addresses, of containers or of anything else
        #[arg(required = true, value_name = "IP")]
        addresses: Vec<IpAddr>,
    },
    /// Take addresses from a name that was added on this host; with none given, all
    Remove {
        /// The name, with or without the domain
        #[arg(value_name = "NAME")]
        name: String,
        /// The addresses
        #[arg(value_name = "IP")]
        addresses: Vec<IpAddr>,
    },
    /// Print all addresses of a name, or all names of an address
    Lookup {
        /// The name, with or without the domain, or the address
        #[arg(value_name = "NAME|IP")]
        name: String,
    },
}

/// Which namespace: exactly one of three.
#[derive(Args, Clone, Debug)]
#[group(required = true, multiple = false)]
pub struct PlaceArgs {
    /// A namespace of `ip netns`, or the path of one
    #[arg(long, value_name = "NAME|PATH", value_parser = parse_netns)]
    pub netns: Option<PathBuf>,
    /// The namespace of a process
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub pid: Option<u32>,
    /// A container of Docker or podman, by name or id
    #[arg(long, value_name = "ID")]
    pub container: Option<String>,
}

/// Addresses of this host.
#[derive(Args, Clone, Debug)]
pub struct AddressArgs {
    /// 10.32.0.1/24, fd00:32::1/64, net:10.32.7.0/24 or net:default
    #[arg(value_name = "ADDR", value_parser = parse_address)]
    pub addresses: Vec<Address>,
    /// How to answer.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// What `reset` needs to work without a daemon.
#[derive(Args, Clone, Debug)]
pub struct ResetArgs {
    /// Clean this host even if no daemon answers
    #[arg(long)]
    pub force: bool,
    /// With --force: the state directory the daemon had
    #[arg(long, env = "WOVE_STATE_DIR", value_name = "DIR", default_value = config::DEFAULT_STATE_DIR)]
    pub state_dir: PathBuf,
    /// With --force: the bridge the daemon had
    #[arg(long, env = "WOVE_BRIDGE", value_name = "NAME", default_value = config::DEFAULT_BRIDGE, value_parser = parse_ifname)]
    pub bridge: String,
    /// How to answer.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// What to do about tokens.
#[derive(Subcommand, Clone, Debug)]
pub enum TokenAction {
    /// Print the token to join with
    Show,
    /// Accept another token beside the present ones; a new one if none is given
    Add {
        /// A token, or - for standard input
        token: Option<String>,
    },
    /// Join with this accepted token from now on, and offer it first
    Prefer {
        /// A token, or - for standard input
        token: String,
    },
    /// Accept this token no longer; sessions stay until their next rekey
    Remove {
        /// A token, or - for standard input
        token: String,
    },
}

/// An address as the operator gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// This one.
    Exact(IpNet),
    /// One of a subnet, `net:CIDR` or `net:default`.
    FromSubnet(String),
}

fn parse_address(text: &str) -> Result<Address, String> {
    if let Some(subnet) = text.strip_prefix("net:") {
        return match subnet == "default" || subnet.parse::<IpNet>().is_ok() {
            true => Ok(Address::FromSubnet(text.to_owned())),
            false => Err("write net:CIDR or net:default".into()),
        };
    }
    let Ok(address) = text.parse::<IpNet>() else {
        return Err("an address has a prefix length, as in 10.32.1.5/24 or fd00:32::5/64".into());
    };
    let ip = address.addr();
    if ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() {
        return Err("this is no address of a host".into());
    }
    let is_subnet = ip == address.network() && address.prefix_len() < address.max_prefix_len() - 1;
    if is_subnet && ip.is_ipv4() {
        return Err("this is the subnet itself: give an address in it".into());
    }
    let v4 = match address {
        IpNet::V4(v4) => Some(v4),
        IpNet::V6(_) => None,
    };
    if v4.is_some_and(|v4| v4.prefix_len() < 31 && v4.addr() == v4.broadcast()) {
        return Err("this is the subnet's broadcast address: give another one in it".into());
    }
    Ok(Address::Exact(address))
}

fn parse_name(text: &str) -> Result<String, String> {
    config::check_name(text)?;
    Ok(text.to_owned())
}

/// A bare name is one of `ip netns`; a path is made absolute, for the daemon works elsewhere.
fn parse_netns(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() || text == "." || text == ".." || text.contains('\0') {
        return Err("give the name of a namespace, or its path".into());
    }
    if text.contains('/') {
        return std::path::absolute(text).map_err(|error| error.to_string());
    }
    Ok(PathBuf::from("/run/netns").join(text))
}

/// Checks the name of an interface.
pub fn parse_ifname(text: &str) -> Result<String, String> {
    config::check_ifname(text).map_err(str::to_owned)?;
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests;
