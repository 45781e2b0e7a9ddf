//! What a daemon is told at launch, and how operators write the address of a
//! peer. It knows neither the command line nor the environment.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
    time::Duration,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proto::PeerId;

use crate::engine::dns::Zone;

/// Where keys, targets and addresses are kept unless told otherwise.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/wove";
/// Where the daemon answers its clients unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/wove/wove.sock";
/// The UDP port of a peer unless told otherwise.
pub const DEFAULT_PORT: u16 = 6783;
/// The bridge unless told otherwise.
pub const DEFAULT_BRIDGE: &str = "wove";
/// The domain of names unless told otherwise.
pub const DEFAULT_DOMAIN: &str = "wove.local";
/// The range of addresses unless told otherwise.
pub const DEFAULT_RANGE: &str = "10.32.0.0/12";
/// The IPv6 range of addresses unless told otherwise: a unique local one (RFC
/// 4193). It is the same for all, as the IPv4 range is, so that nothing has to be
/// agreed on, and a secret can be replaced.
pub const DEFAULT_RANGE6: &str = "fd77:6f76:6500::/64";
/// How long a peer must be silent to be dead, unless told otherwise.
pub const DEFAULT_DEAD_AFTER: Duration = Duration::from_secs(24 * 3600);
/// The ages at which keys can be asked to be replaced; the upper end unless told otherwise.
pub const REKEY_RANGE: RangeInclusive<Duration> =
    Duration::from_secs(1)..=crypto::rekey::REKEY_AFTER_TIME;
/// What is logged unless told otherwise.
pub const DEFAULT_LOG_FILTER: &str = "info";
/// The overlay MTUs that can be asked for, in bytes. The upper end is what the
/// kernel accepts for a TAP device.
pub const MTU_RANGE: RangeInclusive<u32> = 576..=65521;

/// Everything a daemon is told at launch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Directory of keys, targets and addresses; made with mode 0700 if absent.
    pub state_dir: PathBuf,
    /// The unix socket on which clients are answered; at most 103 bytes.
    pub socket: PathBuf,
    /// UDP port of the underlay, 1 to 65535.
    pub port: u16,
    /// The local address to bind; none means every address.
    pub host: Option<IpAddr>,
    /// Label shown beside the peer's id, at most 64 bytes; none means the host name.
    pub nickname: Option<String>,
    /// The network's secrets. With none, and none in the state directory, the
    /// daemon makes a new network.
    pub secrets: Secrets,
    /// Whether frames are encrypted.
    pub encrypt: bool,
    /// Age at which the keys of a session are replaced, within [`REKEY_RANGE`].
    pub rekey_after: Duration,
    /// Underlay networks between whose hosts frames travel in clear; both ends must agree.
    pub trusted_subnets: Vec<IpNet>,
    /// Name of the Linux bridge, 1 to 15 bytes.
    pub bridge: String,
    /// MTU of the overlay in bytes, within [`MTU_RANGE`]; none means found by probing.
    pub mtu: Option<u32>,
    /// The range from which addresses are given out; none: no addresses are.
    pub ipalloc_range: Option<Ipv4Net>,
    /// The IPv6 range beside it; none: no IPv6 addresses are given out.
    pub ipalloc_range6: Option<Ipv6Net>,
    /// How it is divided at first.
    pub ipalloc_init: IpallocInit,
    /// A peer that is silent for so long is dead, if a majority agrees.
    pub ipalloc_dead_after: Duration,
    /// Whether the kernel may carry frames where it can.
    pub fastdp: bool,
    /// Whether peers that were only heard of are dialled, too.
    pub discovery: bool,
    /// The most connections held at once, 1 to 320; none means 200.
    pub conn_limit: Option<u32>,
    /// Whether to dial the targets of the last run instead of `peers`.
    pub resume: bool,
    /// The seeds, each as [`parse_peer`] returns it.
    pub peers: Vec<String>,
    /// Names, and who answers for them; none switches them off.
    pub dns: Option<DnsConfig>,
    /// Where metrics and the status page are served, read-only; none means nowhere.
    pub http_addr: Option<SocketAddr>,
    /// What is logged: `info`, or `wove::engine=debug,info`.
    pub log_filter: String,
    /// How it is logged.
    pub log_format: LogFormat,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            state_dir: DEFAULT_STATE_DIR.into(),
            socket: DEFAULT_SOCKET.into(),
            port: DEFAULT_PORT,
            host: None,
            nickname: None,
            secrets: Secrets::default(),
            encrypt: true,
            rekey_after: *REKEY_RANGE.end(),
            trusted_subnets: Vec::new(),
            bridge: DEFAULT_BRIDGE.into(),
            mtu: None,
            ipalloc_range: DEFAULT_RANGE.parse().ok(),
            ipalloc_range6: DEFAULT_RANGE6.parse().ok(),
            ipalloc_init: IpallocInit::default(),
            ipalloc_dead_after: DEFAULT_DEAD_AFTER,
            fastdp: true,
            discovery: true,
            conn_limit: None,
            resume: false,
            peers: Vec::new(),
            dns: Some(DnsConfig::default()),
            http_addr: None,
            log_filter: DEFAULT_LOG_FILTER.into(),
            log_format: LogFormat::Text,
        }
    }
}

/// How names are answered for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsConfig {
    /// The domain, as [`check_domain`] returns it.
    pub domain: String,
    /// An address of this host at which it and the containers of the mesh are
    /// answered, beside the containers' own.
    pub listen: Option<SocketAddr>,
    /// Servers to ask for other names; none means those of the host's resolv.conf.
    pub upstream: Vec<SocketAddr>,
}

impl Default for DnsConfig {
    fn default() -> Self {
        Self {
            domain: DEFAULT_DOMAIN.into(),
            listen: None,
            upstream: Vec::new(),
        }
    }
}

/// A domain in lower case and without the dot at its end.
pub fn check_domain(text: &str) -> Result<String, &'static str> {
    check_name(text).and_then(|domain| match Zone::new(&domain) {
        Some(_) => Ok(domain),
        None => Err("a domain is shorter than 180 bytes"),
    })
}

/// A name of a container in lower case and without the dot at its end.
pub fn check_name(text: &str) -> Result<String, &'static str> {
    gossip::names::canonical(text).ok_or(
        "a name has up to 16 labels of 1 to 63 letters, digits, dashes or underscores, dots between, and at most 180 bytes",
    )
}

/// How the range is first divided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IpallocInit {
    /// By consensus of so many peers; none: of as many as there are seeds, and this one.
    Consensus(Option<u32>),
    /// Among these peers, the same list on all of them, without a vote.
    Seeds(Vec<PeerId>),
    /// By others.
    Observer,
}

impl Default for IpallocInit {
    fn default() -> Self {
        Self::Consensus(None)
    }
}

/// Secrets as the operator gave them. All are accepted at once; the first of
/// the tokens, or of the passwords if there is no token, is offered first.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secrets {
    /// Tokens, as `wove token` prints them.
    pub tokens: Vec<String>,
    /// Passwords; each is stretched before use.
    pub passwords: Vec<String>,
}

impl std::fmt::Debug for Secrets {
    /// Counts only: a configuration is logged, a secret never.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} tokens, {} passwords",
            self.tokens.len(),
            self.passwords.len()
        )
    }
}

/// How a line is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Why a text is not the address of a peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not the address of a peer ({why}): write host[:port], [v6]:port or an IPv6 address, \
     each also with tcp:// before it"
)]
pub struct PeerAddressError {
    /// What was given, cut to a readable length.
    text: String,
    /// What is wrong with it.
    why: &'static str,
}

/// Reads `host[:port]`, `[v6][:port]` or a bare IPv6 address, each also with
/// `tcp://` before it, and returns it with its port, [`DEFAULT_PORT`] if it had none; names come out in lower
/// case, addresses in their shortest form, so that equal targets are equal texts.
pub fn parse_peer(text: &str) -> Result<String, PeerAddressError> {
    let malformed = |why| PeerAddressError {
        text: text.chars().take(80).collect(),
        why,
    };
    let by_tcp = text
        .split_at_checked(TCP.len())
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(TCP));
    let (scheme, address) = by_tcp.map_or(("", text), |(_, address)| (TCP, address));
    let (host, port) = split_peer(address).map_err(malformed)?;
    Ok(format!("{scheme}{host}:{port}"))
}

/// Before the peers that are dialled by TCP alone.
const TCP: &str = "tcp://";

fn split_peer(text: &str) -> Result<(String, u16), &'static str> {
    if let Ok(v6) = text.parse::<Ipv6Addr>() {
        return Ok((format!("[{v6}]"), DEFAULT_PORT));
    }
    if let Some(rest) = text.strip_prefix('[') {
        let (v6, port) = rest.split_once(']').ok_or("the bracket is not closed")?;
        let v6: Ipv6Addr = v6
            .parse()
            .map_err(|_| "what is in brackets is not an IPv6 address")?;
        return Ok((format!("[{v6}]"), parse_port(port)?));
    }
    let (host, port) = match text.find(':') {
        Some(colon) => text.split_at(colon),
        None => (text, ""),
    };
    check_host(host)?;
    Ok((host.to_ascii_lowercase(), parse_port(port)?))
}

/// Reads `:port` or nothing.
fn parse_port(text: &str) -> Result<u16, &'static str> {
    if text.is_empty() {
        return Ok(DEFAULT_PORT);
    }
    let digits = text
        .strip_prefix(':')
        .ok_or("only a port may follow the bracket")?;
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err("the port is not a number");
    }
    match digits.parse() {
        Ok(0) | Err(_) => Err("a port is 1 to 65535"),
        Ok(port) => Ok(port),
    }
}

/// Accepts an IPv4 address or a name that a resolver could know (RFC 1123, and
/// the underscore that people use).
fn check_host(host: &str) -> Result<(), &'static str> {
    let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if host.is_empty() {
        return Err("the host is missing");
    }
    if host.len() > 253 {
        return Err("the host is longer than 253 bytes");
    }
    if !host.bytes().all(known) || host.starts_with(['-', '.']) || host.contains("..") {
        return Err("the host is neither a name nor an address");
    }
    let looks_like_v4 = host.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if looks_like_v4 && host.parse::<std::net::Ipv4Addr>().is_err() {
        return Err("the host is not a complete IPv4 address");
    }
    Ok(())
}

/// Checks the name of a network interface: 1 to 15 bytes, no slash, colon or space.
pub fn check_ifname(name: &str) -> Result<(), &'static str> {
    let bad = |b: u8| !b.is_ascii_graphic() || matches!(b, b'/' | b':' | b'%');
    if name.is_empty() || name.len() > 15 {
        return Err("an interface name has 1 to 15 bytes");
    }
    if name == "." || name == ".." || name.starts_with('-') || name.bytes().any(bad) {
        return Err(
            "an interface name has no slash, colon, percent sign or space and starts with no dash",
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_peer_address_is_normalised() {
        let table = [
            ("b.example", "b.example:6783"),
            ("B.Example:7000", "b.example:7000"),
            ("host_1", "host_1:6783"),
            ("10.0.0.1", "10.0.0.1:6783"),
            ("10.0.0.1:1", "10.0.0.1:1"),
            ("2001:DB8:0::1", "[2001:db8::1]:6783"),
            ("[2001:db8::1]", "[2001:db8::1]:6783"),
            ("[::1]:65535", "[::1]:65535"),
        ];
        for (text, expected) in table {
            assert_eq!(parse_peer(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn a_malformed_peer_address_is_refused() {
        let table = [
            "",
            ":6783",
            "host:",
            "host:0",
            "host:65536",
            "host:+1",
            "host:x",
            "a b",
            "-x",
            ".x",
            "a..b",
            "[::1",
            "[::1]6783",
            "[host]:1",
            "10.0.0",
            "1:2:3",
            "host/24",
            "http://host",
            "a\u{1b}[31m",
            "fe80::1%eth0",
        ];
        for text in table {
            let refused = parse_peer(text);
            assert!(refused.is_err(), "{text:?}: {refused:?}");
        }
        assert!(parse_peer(&"a".repeat(254)).is_err());
    }

    #[test]
    fn tcp_is_a_scheme() {
        for (text, expected) in [
            ("tcp://b:443", "tcp://b:443"),
            ("TCP://[::1]", "tcp://[::1]:6783"),
            ("tcp://B", "tcp://b:6783"),
        ] {
            assert_eq!(parse_peer(text).as_deref(), Ok(expected));
        }
        for text in ["tcp://", "tcp:/b", "udp://b", "tcp://b:0", "tcp://tcp://b"] {
            let refused = parse_peer(text);
            assert!(refused.is_err(), "{text}: {refused:?}");
        }
    }

    #[test]
    fn interface_names_are_those_of_the_kernel() {
        for good in ["wove", "wove0", "br-1.2", "exactly15bytes_"] {
            assert_eq!(check_ifname(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "a b",
            "a:b",
            "-x",
            "a%d",
            "sixteen_bytes__x",
            "caf\u{e9}",
        ] {
            assert!(check_ifname(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_configuration_never_prints_its_secrets() {
        let secrets = Secrets {
            tokens: vec!["hunter2".into()],
            passwords: vec!["swordfish".into()],
        };
        let text = format!(
            "{:?}",
            Config {
                secrets,
                ..Config::default()
            }
        );
        assert!(text.contains("1 tokens, 1 passwords"));
        assert!(!text.contains("hunter2") && !text.contains("swordfish"));
    }

    proptest! {
        #[test]
        fn normalising_is_idempotent_and_never_panics(text in "\\PC{0,40}|[a-z0-9.:\\[\\]-]{0,24}") {
            if let Ok(address) = parse_peer(&text) {
                prop_assert_eq!(parse_peer(&address), Ok(address.clone()));
            }
        }
    }
}
