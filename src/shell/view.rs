//! A status as people and scripts see it: one summary, one table per page, one
//! JSON shape, for the command line and the status page alike. It knows
//! neither sockets nor HTML, and it trusts no text that came from a peer.

use std::{collections::BTreeMap, fmt, time::Duration};

use comfy_table::presets::NOTHING;
use serde_json::{Value, json};

use crate::engine::{
    Status,
    status::{ConnectionState, ConnectionStatus, DnsStatus, PathKind, TargetState},
};

#[cfg(test)]
pub(crate) mod sample;

/// A part of the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    /// Peers with which there is a session, or should be.
    Connections,
    /// Every known peer.
    Peers,
    /// The addresses that are dialled.
    Targets,
    /// MAC addresses in the mesh.
    Stations,
    /// The address space.
    Ipam,
    /// The names.
    Dns,
}

impl Page {
    /// The pages that are tables in this version.
    pub const TABLES: [Self; 5] = [
        Self::Connections,
        Self::Peers,
        Self::Targets,
        Self::Stations,
        Self::Dns,
    ];

    /// The key of this part in [`contract`].
    pub fn key(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Peers => "peers",
            Self::Targets => "targets",
            Self::Stations => "stations",
            Self::Ipam => "ipam",
            Self::Dns => "dns",
        }
    }
}

/// The status in the shape that scripts rely on. `ipam` is empty where
/// no addresses are given out.
pub fn contract(status: &Status) -> Value {
    let mut value = serde_json::to_value(status).unwrap_or_else(|_| json!({}));
    if let Value::Object(parts) = &mut value
        && status.ipam.is_none()
    {
        parts.insert("ipam".into(), json!({}));
    }
    value
}

/// Rows under a header. `Display` aligns the columns with spaces; an empty cell
/// is a dash, so that a script that splits on spaces counts right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// What the rows are.
    pub title: &'static str,
    /// Names of the columns.
    pub header: &'static [&'static str],
    /// As many cells each as the header.
    pub rows: Vec<Vec<String>>,
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = comfy_table::Table::new();
        table
            .load_style(NOTHING)
            .set_header(self.header.iter().copied());
        for row in &self.rows {
            table.add_row(row.iter().map(|cell| match printable(cell) {
                text if text.is_empty() => "-".to_owned(),
                text => text,
            }));
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        table
            .lines()
            .try_for_each(|line| writeln!(f, "{}", line.trim_end()))
    }
}

/// The table of a page.
pub fn table(status: &Status, page: Page) -> Table {
    match page {
        Page::Connections => connections(status),
        Page::Peers => peers(status),
        Page::Targets => targets(status),
        Page::Stations => stations(status),
        Page::Dns => dns(status),
        Page::Ipam => ipam(status),
    }
}

fn ipam(status: &Status) -> Table {
    let owners = status.ipam.iter().flat_map(|ipam| {
        ipam.owners.iter().map(|owner| {
            let percent = f64::from(owner.owned) * 100.0 / f64::from(ipam.total.max(1));
            vec![
                owner.peer.chars().take(8).collect(),
                owner.nickname.clone(),
                owner.owned.to_string(),
                format!("{percent:.1}%"),
                owner.held.to_string(),
                if owner.local {
                    ipam.used.to_string()
                } else {
                    String::new()
                },
                if owner.reachable { "yes" } else { "no" }.to_owned(),
            ]
        })
    });
    Table {
        title: "ipam",
        header: &[
            "PEER",
            "NICKNAME",
            "OWNED",
            "SHARE",
            "HELD",
            "USED",
            "REACHABLE",
        ],
        rows: owners.collect(),
    }
}

/// The address space in words, and who owns how much.
pub fn ipam_text(status: &Status) -> String {
    let Some(space) = &status.ipam else {
        return "This peer gives out no addresses: it was launched without a range.\n".into();
    };
    let mut text = format!(
        "{:>9}: {}\n{:>9}: {}\n{:>9}: {} here\n",
        "State",
        printable(&space.state),
        "Range",
        printable(
            &[Some(space.range.clone()), space.range6.clone()]
                .into_iter()
                .flatten()
                .collect::<Vec<_>>()
                .join(" and ")
        ),
        "Used",
        space.used
    );
    if space.waiting > 0 {
        text += &format!("{:>9}: {} for an address\n", "Waiting", space.waiting);
    }
    if space.unknown > 0 {
        text += &format!(
            "{:>9}: {} addresses, on their way or of peers not heard of\n",
            "Unknown", space.unknown
        );
    }
    for claim in &space.claims {
        text += &format!(
            "{:>9}: {claim} is in use here and belongs to another peer\n",
            "Claim"
        );
    }
    for conflict in &space.conflicts {
        text += &format!("{:>9}: {}\n", "Conflict", printable(conflict));
    }
    if space.owners.is_empty() {
        return text;
    }
    text + "\n" + &ipam(status).to_string()
}

fn connections(status: &Status) -> Table {
    let row = |c: &ConnectionStatus| {
        vec![
            if c.outbound { "->" } else { "<-" }.to_owned(),
            c.address.clone(),
            c.peer.short(),
            c.nickname.clone(),
            state(c.state).to_owned(),
            if c.state == ConnectionState::Established {
                path(c.path).to_owned()
            } else {
                String::new()
            },
            known(u64::from(c.mtu), |mtu| mtu.to_string()),
            known(c.rtt_us, rtt),
            c.cipher.clone(),
            known(c.key_age_s, span),
            bytes(c.rx_bytes),
            bytes(c.tx_bytes),
            c.reason.clone(),
        ]
    };
    Table {
        title: "connections",
        header: &[
            "DIR", "ADDRESS", "PEER", "NICKNAME", "STATE", "PATH", "MTU", "RTT", "CIPHER",
            "KEY-AGE", "RX", "TX", "REASON",
        ],
        rows: status.connections.iter().map(row).collect(),
    }
}

fn peers(status: &Status) -> Table {
    let rows = status.peers.iter().map(|p| {
        vec![
            p.peer.short(),
            p.nickname.clone(),
            if p.reachable { "yes" } else { "no" }.to_owned(),
            if p.reachable {
                p.hops.to_string()
            } else {
                String::new()
            },
            if p.reachable {
                p.next_hop.short()
            } else {
                String::new()
            },
            p.version.clone(),
            p.links
                .iter()
                .map(|link| link.short())
                .collect::<Vec<_>>()
                .join(","),
        ]
    });
    Table {
        title: "peers",
        header: &[
            "PEER",
            "NICKNAME",
            "REACHABLE",
            "HOPS",
            "NEXT-HOP",
            "VERSION",
            "LINKS",
        ],
        rows: rows.collect(),
    }
}

fn targets(status: &Status) -> Table {
    let rows = status.targets.iter().map(|t| {
        let waits = t.state == TargetState::Waiting;
        let retry = if waits {
            format!("{:.0}s", t.retry_in_s.max(0.0))
        } else {
            String::new()
        };
        vec![
            t.address.clone(),
            target_state(t.state).to_owned(),
            retry,
            t.reason.clone(),
        ]
    });
    Table {
        title: "targets",
        header: &["ADDRESS", "STATE", "RETRY-IN", "REASON"],
        rows: rows.collect(),
    }
}

fn stations(status: &Status) -> Table {
    let names: BTreeMap<_, _> = status
        .peers
        .iter()
        .map(|p| (p.peer, p.nickname.as_str()))
        .collect();
    let rows = status.stations.iter().map(|s| {
        vec![
            s.mac.to_string(),
            s.peer.short(),
            names.get(&s.peer).copied().unwrap_or_default().to_owned(),
            s.ips
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(","),
        ]
    });
    Table {
        title: "stations",
        header: &["MAC", "PEER", "NICKNAME", "IPS"],
        rows: rows.collect(),
    }
}

fn dns(status: &Status) -> Table {
    let names: BTreeMap<_, _> = status
        .peers
        .iter()
        .map(|p| (p.peer, p.nickname.as_str()))
        .collect();
    let rows = status.dns.names.iter().map(|n| {
        vec![
            n.name.clone(),
            n.address.to_string(),
            n.peer.short(),
            names.get(&n.peer).copied().unwrap_or_default().to_owned(),
        ]
    });
    Table {
        title: "dns",
        header: &["NAME", "ADDRESS", "PEER", "NICKNAME"],
        rows: rows.collect(),
    }
}

/// What `wove status` says first: labels and values.
pub fn summary(status: &Status) -> Vec<(&'static str, String)> {
    let router = &status.router;
    let links: usize = status.peers.iter().map(|p| p.links.len()).sum();
    let reachable = status.peers.iter().filter(|p| p.reachable).count();
    let yes_no = |yes| if yes { "yes" } else { "no" }.to_owned();
    let mut lines = vec![
        ("Version", status.version.clone()),
        ("Peer", format!("{} ({})", router.peer, router.nickname)),
        ("Port", format!("{}/udp", router.port)),
        (
            "Encryption",
            if router.encryption {
                "enabled"
            } else {
                "disabled"
            }
            .to_owned(),
        ),
        ("Ready", yes_no(router.ready)),
        (
            "Uptime",
            span(
                Duration::try_from_secs_f64(router.uptime_s)
                    .unwrap_or_default()
                    .as_secs(),
            ),
        ),
        ("Bridge", format!("{} (mtu {})", router.bridge, router.mtu)),
        (
            "Connections",
            counted(status.connections.iter().map(|c| state(c.state))),
        ),
        ("Paths", counted(established(status).map(|c| path(c.path)))),
        (
            "Peers",
            format!(
                "{} ({reachable} reachable, {links} links)",
                status.peers.len()
            ),
        ),
        (
            "Targets",
            counted(status.targets.iter().map(|t| target_state(t.state))),
        ),
        ("Stations", status.stations.len().to_string()),
        ("Names", names(&status.dns)),
        ("Dropped", dropped(status)),
    ];
    if status.counters.resident_bytes > 0 {
        lines.push(("Memory", bytes(status.counters.resident_bytes)));
    }
    lines
}

fn names(dns: &DnsStatus) -> String {
    match dns.enabled {
        true => format!("{} ({})", dns.names.len(), dns.domain),
        false => "off".to_owned(),
    }
}

/// The summary and the warnings as text.
pub fn summary_text(status: &Status) -> String {
    let mut out = String::new();
    for (label, value) in summary(status) {
        out += &format!("{label:>12}: {}\n", printable(&value));
    }
    if !status.warnings.is_empty() {
        out += &format!("\n{:>12}:\n", "Warnings");
        status
            .warnings
            .iter()
            .for_each(|warning| out += &format!("  - {}\n", printable(warning)));
    }
    out
}

fn established(status: &Status) -> impl Iterator<Item = &ConnectionStatus> {
    status
        .connections
        .iter()
        .filter(|c| c.state == ConnectionState::Established)
}

/// `3 (2 established, 1 failed)`; the parts in the order of the alphabet.
fn counted(words: impl Iterator<Item = &'static str>) -> String {
    let mut counts = BTreeMap::<_, usize>::new();
    words.for_each(|word| *counts.entry(word).or_default() += 1);
    let total: usize = counts.values().sum();
    match counts.is_empty() {
        true => "0".to_owned(),
        false => format!("{total} ({})", listed(counts)),
    }
}

fn dropped(status: &Status) -> String {
    let drops = status
        .counters
        .drops
        .iter()
        .filter(|(_, count)| **count > 0);
    let total = drops
        .clone()
        .fold(0_u64, |sum, (_, count)| sum.saturating_add(*count));
    match total {
        0 => "0".to_owned(),
        _ => format!("{total} ({})", listed(drops)),
    }
}

fn listed<W: fmt::Display, N: fmt::Display>(counts: impl IntoIterator<Item = (W, N)>) -> String {
    counts
        .into_iter()
        .map(|(word, count)| format!("{count} {word}"))
        .collect::<Vec<_>>()
        .join(", ")
}

/// The word for a connection's state.
pub fn state(state: ConnectionState) -> &'static str {
    match state {
        ConnectionState::Established => "established",
        ConnectionState::Pending => "pending",
        ConnectionState::Connecting => "connecting",
        ConnectionState::Retrying => "retrying",
        ConnectionState::Failed => "failed",
    }
}

/// The word for a path.
pub fn path(path: PathKind) -> &'static str {
    match path {
        PathKind::Fastdp => "fastdp",
        PathKind::Sleeve => "sleeve",
        PathKind::Relay => "relay",
        PathKind::Tcp => "tcp",
    }
}

/// The word for a target's state.
pub fn target_state(state: TargetState) -> &'static str {
    match state {
        TargetState::Connected => "connected",
        TargetState::Connecting => "connecting",
        TargetState::Waiting => "waiting",
        TargetState::Failed => "failed",
    }
}

/// Text that cannot steer a terminal: control characters, and those that turn
/// the direction of writing, become U+FFFD. Nicknames come from other hosts.
pub fn printable(text: &str) -> String {
    let steers =
        |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars()
        .map(|c| if steers(c) { '\u{fffd}' } else { c })
        .collect()
}

fn known(value: u64, text: impl Fn(u64) -> String) -> String {
    if value == 0 {
        String::new()
    } else {
        text(value)
    }
}

fn rtt(us: u64) -> String {
    match us {
        0..1000 => format!("{us}us"),
        1000..1_000_000 => format!("{}.{}ms", us / 1000, us / 100 % 10),
        _ => format!("{}.{}s", us / 1_000_000, us / 100_000 % 10),
    }
}

fn span(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m{}s", seconds % 60),
        3600..86400 => format!("{hours}h{}m", minutes % 60),
        _ => format!("{days}d{}h", hours % 24),
    }
}

fn bytes(count: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count}B");
    }
    let power = (count.ilog2() / 10).min(6);
    let tenths = (u128::from(count) * 10) >> (10 * power);
    format!(
        "{}.{}{}",
        tenths / 10,
        tenths % 10,
        units[power as usize - 1]
    )
}

#[cfg(test)]
mod tests;
