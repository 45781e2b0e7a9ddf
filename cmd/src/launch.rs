//! The options of `wove launch`, and the configuration they make.
#![allow(
    rustdoc::broken_intra_doc_links,
    reason = "help lines are read by clap, and brackets mean optional"
)]

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, ValueEnum, builder::BoolishValueParser};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use wove::{
    engine::Ranges,
    shell::{
        Config,
        config::{self, DnsConfig, IpallocInit, LogFormat, MTU_RANGE, Secrets},
        logging,
    },
};

use crate::{args, failure::Failure};

/// Longest file of secrets that is read, in bytes.
const MAX_SECRETS: u64 = 64 * 1024;
/// Longest secret, in bytes.
const MAX_SECRET: usize = 1024;
/// Bit of CAP_NET_ADMIN in the kernel's capability masks (capabilities(7)).
const CAP_NET_ADMIN: u32 = 12;

/// The options of `wove launch`.
#[derive(Args, Clone, Debug)]
#[command(args_override_self = true)]
pub struct LaunchArgs {
    /// Peers to start from: host[:port], [v6]:port or an IPv6 address
    ///
    /// The port is 6783 unless given; with tcp:// before it, by TCP alone. Names are resolved afresh on every dial;
    /// one that does not resolve is a warning and is tried again.
    #[arg(value_name = "PEER", env = "WOVE_PEERS", value_delimiter = ',')]
    pub peers: Vec<String>,

    /// Directory of keys, targets and addresses; made with mode 0700 if absent
    #[arg(long, env = "WOVE_STATE_DIR", value_name = "DIR", default_value = config::DEFAULT_STATE_DIR)]
    pub state_dir: PathBuf,

    /// UDP and TCP port of the underlay; open it between hosts
    #[arg(long, env = "WOVE_PORT", value_name = "PORT", default_value_t = config::DEFAULT_PORT,
          value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,

    /// Local address to bind [default: every address]
    #[arg(long, env = "WOVE_HOST", value_name = "IP")]
    pub host: Option<IpAddr>,

    /// Label shown beside this peer's id, at most 64 bytes [default: the host name]
    #[arg(long, env = "WOVE_NICKNAME", value_name = "NAME", value_parser = parse_nickname)]
    pub nickname: Option<String>,

    /// Name of wove's bridge, 1 to 15 bytes
    #[arg(long, env = "WOVE_BRIDGE", value_name = "NAME", default_value = config::DEFAULT_BRIDGE,
          value_parser = args::parse_ifname)]
    pub bridge: String,

    /// MTU of the overlay in bytes, 576 to 65521 [default: the underlay's less 104]
    #[arg(long, env = "WOVE_MTU", value_name = "BYTES",
          value_parser = clap::value_parser!(u32).range(i64::from(*MTU_RANGE.start())..=i64::from(*MTU_RANGE.end())))]
    pub mtu: Option<u32>,

    /// The range of addresses that containers get, the same on all peers; empty: none are given out
    #[arg(long, env = "WOVE_IPALLOC_RANGE", help_heading = "Addresses", value_name = "CIDR",
          default_value = config::DEFAULT_RANGE, value_parser = parse_range)]
    pub ipalloc_range: Range,

    /// The range of IPv6 addresses beside it, the same on all peers; off: none are given out
    #[arg(long, env = "WOVE_IPALLOC_RANGE6", help_heading = "Addresses", value_name = "CIDR|off",
          default_value = config::DEFAULT_RANGE6, value_parser = parse_range6)]
    pub ipalloc_range6: Range6,

    /// How the range is first divided: consensus, consensus=N, seed=ID,ID,... or observer
    ///
    /// By consensus of N peers, by default of as many as PEERs are named and
    /// this one; among the peers with these ids; or by others.
    #[arg(long, env = "WOVE_IPALLOC_INIT", help_heading = "Addresses", value_name = "HOW",
          default_value = "consensus", value_parser = parse_init)]
    pub ipalloc_init: IpallocInit,

    /// A peer that is silent for so long is dead, if a majority agrees: 90s, 30m, 24h, 7d
    #[arg(long, env = "WOVE_IPALLOC_DEAD_AFTER", help_heading = "Addresses", value_name = "TIME",
          default_value = "24h", value_parser = parse_dead_after)]
    pub ipalloc_dead_after: Duration,

    /// Carry every frame through userspace, none through the kernel
    #[arg(long, env = "WOVE_NO_FASTDP", value_parser = BoolishValueParser::new())]
    pub no_fastdp: bool,

    /// Dial only the peers named here, not those heard of from them
    #[arg(long, env = "WOVE_NO_DISCOVERY", value_parser = BoolishValueParser::new())]
    pub no_discovery: bool,

    /// Most connections at once, up to 320; 0 means 200
    #[arg(long, env = "WOVE_CONN_LIMIT", value_name = "N", default_value_t = 0)]
    pub conn_limit: u32,

    /// Start from the targets of the last run; takes no PEER
    #[arg(long, env = "WOVE_RESUME", value_parser = BoolishValueParser::new())]
    pub resume: bool,

    /// Secrets of the network.
    #[command(flatten)]
    pub secrets: SecretArgs,

    /// Names.
    #[command(flatten)]
    pub dns: DnsArgs,

    /// Where to serve /metrics, /healthz, /status, /status.json and a page, read-only: ip:port [default: off]
    #[arg(
        long,
        env = "WOVE_HTTP_ADDR",
        help_heading = "Observation",
        value_name = "IP:PORT"
    )]
    pub http_addr: Option<SocketAddr>,

    /// What to log: error, warn, info, debug, trace, or per module as in wove::engine=debug,info
    #[arg(long, env = "WOVE_LOG_LEVEL", help_heading = "Observation", value_name = "FILTER", default_value = config::DEFAULT_LOG_FILTER,
          value_parser = parse_filter)]
    pub log_level: String,

    /// How to log, on standard error
    #[arg(
        long,
        env = "WOVE_LOG_FORMAT",
        help_heading = "Observation",
        value_name = "FORMAT",
        default_value = "text"
    )]
    pub log_format: LogFormatArg,
}

/// The network's secrets. Several are valid at once, so that one can be
/// replaced on host after host; the first is offered first, tokens before
/// passwords. On the command line every user of the host can read them: prefer
/// the files or the environment.
#[derive(Args, Clone, Debug)]
#[command(
    next_help_heading = "Security (with no secret: the network of the last run, or a new one)"
)]
pub struct SecretArgs {
    /// Join with this token, as `wove token` prints it on a member; may be repeated
    ///
    /// Every user of this host can read it in the list of processes; prefer
    /// --token-file or the environment.
    #[arg(
        long,
        env = "WOVE_TOKEN",
        hide_env_values = true,
        value_name = "TOKEN",
        value_delimiter = ','
    )]
    pub token: Vec<String>,

    /// Join with the tokens in this file, one a line; may be repeated
    #[arg(
        long,
        env = "WOVE_TOKEN_FILE",
        value_name = "FILE",
        value_delimiter = ','
    )]
    pub token_file: Vec<PathBuf>,

    /// Join with this password; may be repeated
    ///
    /// Every user of this host can read it in the list of processes; prefer
    /// --password-file or the environment.
    #[arg(
        long,
        env = "WOVE_PASSWORD",
        hide_env_values = true,
        value_name = "PASSWORD"
    )]
    pub password: Vec<String>,

    /// Join with the passwords in this file, one a line; may be repeated
    #[arg(
        long,
        env = "WOVE_PASSWORD_FILE",
        value_name = "FILE",
        value_delimiter = ','
    )]
    pub password_file: Vec<PathBuf>,

    /// Send frames in clear; the secret still decides who may join
    #[arg(long, env = "WOVE_NO_ENCRYPTION", value_parser = BoolishValueParser::new())]
    pub no_encryption: bool,

    /// Agree on fresh keys with each peer after this, 1s to 2m; they change without a gap
    #[arg(long, env = "WOVE_REKEY_AFTER", value_name = "TIME", default_value = "2m",
          value_parser = parse_rekey)]
    pub rekey_after: Duration,

    /// Underlay networks between whose hosts frames travel in clear; both ends must agree
    #[arg(
        long,
        env = "WOVE_TRUSTED_SUBNETS",
        value_name = "CIDR",
        value_delimiter = ','
    )]
    pub trusted_subnets: Vec<IpNet>,
}

/// Names.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Names")]
pub struct DnsArgs {
    /// Tell no names and answer none
    #[arg(long, env = "WOVE_NO_DNS", value_parser = BoolishValueParser::new())]
    pub no_dns: bool,

    /// The domain of names; give all hosts the same
    #[arg(long, env = "WOVE_DNS_DOMAIN", value_name = "DOMAIN", default_value = config::DEFAULT_DOMAIN,
          value_parser = parse_domain)]
    pub dns_domain: String,

    /// Answer at this address of the host, too: this host, and containers of the mesh
    #[arg(long, env = "WOVE_DNS_LISTEN", value_name = "IP[:PORT]", value_parser = parse_server)]
    pub dns_listen: Option<SocketAddr>,

    /// Servers to ask for other names [default: those in /etc/resolv.conf]
    #[arg(long, env = "WOVE_DNS_UPSTREAM", value_name = "IP[:PORT],...", value_delimiter = ',',
          value_parser = parse_server)]
    pub dns_upstream: Vec<SocketAddr>,
}

impl DnsArgs {
    fn config(self) -> Option<DnsConfig> {
        (!self.no_dns).then_some(DnsConfig {
            domain: self.dns_domain,
            listen: self.dns_listen,
            upstream: self.dns_upstream,
        })
    }
}

/// How to log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormatArg {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

impl LaunchArgs {
    /// The configuration that these options make; reads the files of secrets.
    pub fn config(self, socket: PathBuf) -> Result<Config, Failure> {
        if self.resume && !self.peers.is_empty() {
            return Err(Failure::Usage(
                "--resume starts from the targets of the last run and takes no PEER".into(),
            ));
        }
        let peers = self
            .peers
            .iter()
            .map(|peer| peer_address(peer))
            .collect::<Result<_, _>>()?;
        if let Some(range) = self.ipalloc_range.0 {
            Ranges::new(range, self.ipalloc_range6.0).map_err(Failure::Usage)?;
        }
        let secrets = self.secrets.read()?;
        Ok(Config {
            state_dir: absolute(&self.state_dir)?,
            socket: absolute(&socket)?,
            port: self.port,
            host: self.host,
            nickname: self.nickname,
            secrets,
            encrypt: !self.secrets.no_encryption,
            rekey_after: self.secrets.rekey_after,
            trusted_subnets: self.secrets.trusted_subnets,
            bridge: self.bridge,
            mtu: self.mtu,
            ipalloc_range: self.ipalloc_range.0,
            ipalloc_range6: self.ipalloc_range6.0,
            ipalloc_init: self.ipalloc_init,
            ipalloc_dead_after: self.ipalloc_dead_after,
            fastdp: !self.no_fastdp,
            discovery: !self.no_discovery,
            conn_limit: Some(self.conn_limit).filter(|limit| *limit > 0),
            resume: self.resume,
            peers,
            dns: self.dns.config(),
            http_addr: self.http_addr,
            log_filter: self.log_level,
            log_format: match self.log_format {
                LogFormatArg::Text => LogFormat::Text,
                LogFormatArg::Json => LogFormat::Json,
            },
        })
    }
}

impl SecretArgs {
    /// All secrets, those on the command line before those in files.
    fn read(&self) -> Result<Secrets, Failure> {
        Ok(Secrets {
            tokens: gather("token", &self.token, &self.token_file)?,
            passwords: gather("password", &self.password, &self.password_file)?,
        })
    }
}

/// One secret may come by two ways, as from the environment and a file; it counts once.
fn gather(what: &str, given: &[String], files: &[PathBuf]) -> Result<Vec<String>, Failure> {
    let mut secrets = Vec::new();
    let mut add = |secret: &str| {
        check_secret(what, secret)?;
        if !secrets.iter().any(|known| known == secret) {
            secrets.push(secret.to_owned());
        }
        Ok::<_, Failure>(())
    };
    given.iter().try_for_each(|secret| add(secret))?;
    for file in files {
        read_lines(what, file)?
            .iter()
            .try_for_each(|secret| add(secret))?;
    }
    Ok(secrets)
}

fn check_secret(what: &str, secret: &str) -> Result<(), Failure> {
    if secret.is_empty() {
        return Err(Failure::failed(format!(
            "an empty {what} keeps nobody out: give a {what}, or leave the option away"
        )));
    }
    if secret.len() > MAX_SECRET {
        return Err(Failure::failed(format!(
            "a {what} is longer than {MAX_SECRET} bytes: is it the right file?"
        )));
    }
    Ok(())
}

/// The lines of a file of secrets; empty ones and the ends of lines do not count.
fn read_lines(what: &str, file: &Path) -> Result<Vec<String>, Failure> {
    use std::io::Read;
    let failed = |why: &dyn std::fmt::Display| {
        Failure::failed(format!(
            "the {what} file {} cannot be read: {why}; one {what} a line is expected",
            file.display()
        ))
    };
    let mut text = String::new();
    let opened = fs::File::open(file).map_err(|error| failed(&error))?;
    opened
        .take(MAX_SECRETS + 1)
        .read_to_string(&mut text)
        .map_err(|error| failed(&error))?;
    if text.len() as u64 > MAX_SECRETS {
        return Err(failed(&"it is longer than 64 KiB"));
    }
    let lines: Vec<String> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .map(str::to_owned)
        .collect();
    match lines.is_empty() {
        true => Err(failed(&"it is empty")),
        false => Ok(lines),
    }
}

/// The address of a peer as the daemon knows it.
pub fn peer_address(text: &str) -> Result<String, Failure> {
    config::parse_peer(text.trim()).map_err(|error| Failure::Usage(error.to_string()))
}

/// Refuses when this process may not change the network of the host.
pub fn check_privilege(command: &str) -> Result<(), Failure> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    if may_administer(&status) {
        return Ok(());
    }
    Err(Failure::failed(format!(
        "wove {command} needs root (CAP_NET_ADMIN): run it with sudo or as a systemd service"
    )))
}

fn may_administer(proc_status: &str) -> bool {
    let mask = proc_status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"));
    let mask = mask
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0);
    mask >> CAP_NET_ADMIN & 1 == 1
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path)
        .map_err(|error| Failure::failed(format!("{} is no path: {error}", path.display())))
}

fn parse_nickname(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > 64 || text.chars().any(char::is_control) {
        return Err("a nickname has 1 to 64 bytes and no control character".into());
    }
    Ok(text.to_owned())
}

/// A range, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range(pub Option<Ipv4Net>);

fn parse_range(text: &str) -> Result<Range, String> {
    if text.is_empty() {
        return Ok(Range(None));
    }
    let Ok(range) = text.parse::<Ipv4Net>() else {
        return Err("give an IPv4 range such as 10.32.0.0/12, or nothing".into());
    };
    if range.addr() != range.network() {
        return Err(format!(
            "this is an address within {}: give the range itself",
            range.trunc()
        ));
    }
    if !(8..=30).contains(&range.prefix_len()) {
        return Err(
            "a range has a prefix of 8 to 30: of two addresses or one there is none to give".into(),
        );
    }
    Ok(Range(Some(range)))
}

/// An IPv6 range, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range6(pub Option<Ipv6Net>);

fn parse_range6(text: &str) -> Result<Range6, String> {
    if text.is_empty() || text == "off" {
        return Ok(Range6(None));
    }
    let Ok(range) = text.parse::<Ipv6Net>() else {
        return Err("give an IPv6 range such as fd00:32::/64, or off".into());
    };
    if range.addr() != range.network() {
        return Err(format!(
            "this is an address within {}: give the range itself",
            range.trunc()
        ));
    }
    let base = range.addr();
    if range.prefix_len() < 16
        || base.is_unspecified()
        || base.is_multicast()
        || base.is_unicast_link_local()
    {
        return Err(
            "these are no addresses for containers: give a range such as fd00:32::/64".into(),
        );
    }
    Ok(Range6(Some(range)))
}

fn parse_init(text: &str) -> Result<IpallocInit, String> {
    let (how, value) = text.split_once('=').unwrap_or((text, ""));
    match (how, value) {
        ("consensus", "") => Ok(IpallocInit::Consensus(None)),
        ("consensus", count) => match count.parse() {
            Ok(count @ 1..=1000) => Ok(IpallocInit::Consensus(Some(count))),
            Ok(_) | Err(_) => Err("write consensus=N with a number of peers, 1 to 1000".into()),
        },
        ("seed", ids) => {
            let ids: Result<Vec<_>, _> = ids.split(',').map(str::parse).collect();
            match ids {
                Ok(ids) if ids.len() <= 64 => Ok(IpallocInit::Seeds(ids)),
                Ok(_) | Err(_) => Err("write seed=ID,ID,... with up to 64 whole ids of 32 digits, as `wove status -o json` shows them".into()),
            }
        }
        ("observer", "") => Ok(IpallocInit::Observer),
        _ => Err("write consensus, consensus=N, seed=ID,ID,... or observer".into()),
    }
}

fn parse_dead_after(text: &str) -> Result<Duration, String> {
    let possible = Duration::from_secs(10)..=Duration::from_secs(366 * 86_400);
    parse_time(text, &possible, "10 s to 366 days")
}

fn parse_rekey(text: &str) -> Result<Duration, String> {
    parse_time(text, &config::REKEY_RANGE, "1 s to 2 minutes")
}

/// A time in seconds, minutes, hours or days, within what is possible.
fn parse_time(
    text: &str,
    possible: &RangeInclusive<Duration>,
    words: &str,
) -> Result<Duration, String> {
    let wrong = || "write a number and s, m, h or d: 90s, 30m, 24h".to_owned();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    let unit = match &text[digits.len()..] {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let time = number.checked_mul(unit).map(Duration::from_secs);
    time.filter(|time| possible.contains(time))
        .ok_or_else(|| format!("give a time of {words}"))
}

fn parse_domain(text: &str) -> Result<String, String> {
    config::check_domain(text).map_err(str::to_owned)
}

/// The address of a name server; the port is 53 unless given.
fn parse_server(text: &str) -> Result<SocketAddr, String> {
    let alone = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53));
    let server = alone.or_else(|_| text.parse());
    let server = server.map_err(|_| "write IP, IP:PORT or [v6]:PORT")?;
    if server.port() == 0 || server.ip().is_unspecified() || server.ip().is_multicast() {
        return Err("this is no address of a server: name one address".into());
    }
    Ok(server)
}

fn parse_filter(text: &str) -> Result<String, String> {
    logging::check_filter(text).map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests;
