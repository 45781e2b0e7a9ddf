//! The status as OpenMetrics text. It knows neither who scrapes nor over what.
//!
//! | name | type | labels | what |
//! |---|---|---|---|
//! | `wove_build_info` | gauge | `version` | always 1 |
//! | `wove_router_info` | gauge | `peer`, `nickname` | always 1; who this peer is |
//! | `wove_ready` | gauge | | 1 when frames are carried |
//! | `wove_encryption_enabled` | gauge | | 1 when frames are encrypted |
//! | `wove_uptime_seconds` | gauge | | since launch |
//! | `wove_mtu_bytes` | gauge | | MTU of the overlay |
//! | `wove_connections` | gauge | `state` | connections, every state present |
//! | `wove_paths` | gauge | `path` | established connections, every path present |
//! | `wove_ciphers` | gauge | `cipher` | established connections, every cipher present; `none` is in clear |
//! | `wove_targets` | gauge | `state` | targets, every state present |
//! | `wove_peers_known`, `wove_peers_reachable` | gauge | | peers, this one included |
//! | `wove_stations` | gauge | | MAC addresses known in the mesh |
//! | `wove_names` | gauge | | pairs of name and address known in the mesh |
//! | `wove_warnings` | gauge | | what wants a person's attention |
//! | `wove_sessions` | gauge | | sessions held |
//! | `wove_records` | gauge | | records in the replica |
//! | `wove_resident_memory_bytes` | gauge | | resident memory of the daemon |
//! | `wove_handshakes_total` | counter | | handshakes completed |
//! | `wove_dns_queries_total` | counter | `result` | queries for names, by what became of them |
//! | `wove_dropped_total` | counter | `reason` | frames and datagrams dropped |
//! | `wove_control_received_bytes_total`, `wove_control_sent_bytes_total` | counter | | control datagrams |
//! | `wove_peer_received_bytes_total`, `wove_peer_sent_bytes_total` | counter | `peer`, `nickname` | bytes of frames |
//! | `wove_peer_received_frames_total`, `wove_peer_sent_frames_total` | counter | `peer`, `nickname` | frames |
//! | `wove_peer_fastdp_received_bytes_total`, `wove_peer_fastdp_sent_bytes_total` | counter | `peer`, `nickname` | bytes of them that the kernel carried |
//! | `wove_peer_fastdp_received_frames_total`, `wove_peer_fastdp_sent_frames_total` | counter | `peer`, `nickname` | frames of them that the kernel carried |
//! | `wove_peer_rtt_seconds` | gauge | `peer`, `nickname` | round-trip time, once measured |
//! | `wove_peer_path_mtu_bytes` | gauge | `peer`, `nickname` | proven path MTU, once proven |
//! | `wove_peer_key_age_seconds` | gauge | `peer`, `nickname` | since the keys were agreed, while established |
//! | `wove_peer_state` | gauge | `peer`, `nickname`, `state`, `path` | always 1; how the peer is reached now |
//!
//! A connection whose peer is not known yet counts in `wove_connections` only.

use std::{collections::BTreeMap, fmt};

use crypto::Cipher;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeGaugeValue, EncodeMetric, text},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::{Registry, Unit},
};
use proto::PeerId;

use super::view;
use crate::engine::{
    Status,
    status::{ConnectionState, ConnectionStatus, PathKind, TargetState},
};

/// The media type of [`encode`]'s text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The text of a scrape. Takes the status whole: it is made for this one scrape.
pub fn encode(status: Status) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(StatusCollector(status)));
    let mut out = String::new();
    if let Err(error) = text::encode(&mut out, &registry) {
        tracing::error!(%error, "the metrics cannot be written");
    }
    out
}

/// Resident memory of this process in bytes, by the kernel's word.
pub fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??;
    pages.checked_mul(u64::try_from(page).ok()?)
}

#[derive(Debug)]
struct StatusCollector(Status);

impl Collector for StatusCollector {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut writer = Writer(encoder);
        router(&mut writer, &self.0)?;
        mesh(&mut writer, &self.0)?;
        counters(&mut writer, &self.0)?;
        peers(&mut writer, &self.0)
    }
}

/// Labels of one sample.
type Labels = Vec<(&'static str, String)>;

/// Writes families, each with all its samples at once, as OpenMetrics asks.
struct Writer<'a>(DescriptorEncoder<'a>);

impl Writer<'_> {
    fn gauge<N: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        value: N,
    ) -> fmt::Result {
        let encoder = self
            .0
            .encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
        ConstGauge::new(value).encode(encoder)
    }

    fn counter(&mut self, name: &str, help: &str, unit: Option<Unit>, value: u64) -> fmt::Result {
        let encoder = self
            .0
            .encode_descriptor(name, help, unit.as_ref(), MetricType::Counter)?;
        ConstCounter::new(value).encode(encoder)
    }

    fn gauges<N: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        samples: impl IntoIterator<Item = (Labels, N)>,
    ) -> fmt::Result {
        let mut encoder = self
            .0
            .encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
        for (labels, value) in samples {
            ConstGauge::new(value).encode(encoder.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn counters(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        samples: impl IntoIterator<Item = (Labels, u64)>,
    ) -> fmt::Result {
        let mut encoder =
            self.0
                .encode_descriptor(name, help, unit.as_ref(), MetricType::Counter)?;
        for (labels, value) in samples {
            ConstCounter::new(value).encode(encoder.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

fn router(w: &mut Writer<'_>, status: &Status) -> fmt::Result {
    let router = &status.router;
    let build = vec![("version", view::printable(&status.version))];
    w.gauges(
        "wove_build_info",
        "The version of wove, always 1",
        None,
        [(build, 1_u64)],
    )?;
    let who = peer_labels(router.peer, &router.nickname);
    w.gauges(
        "wove_router_info",
        "Who this peer is, always 1",
        None,
        [(who, 1_u64)],
    )?;
    w.gauge(
        "wove_ready",
        "1 when frames are carried",
        None,
        u64::from(router.ready),
    )?;
    w.gauge(
        "wove_encryption_enabled",
        "1 when frames are encrypted",
        None,
        u64::from(router.encryption),
    )?;
    w.gauge(
        "wove_uptime",
        "Time since launch",
        Some(Unit::Seconds),
        router.uptime_s,
    )?;
    w.gauge(
        "wove_mtu",
        "MTU of the overlay",
        Some(Unit::Bytes),
        u64::from(router.mtu),
    )
}

fn mesh(w: &mut Writer<'_>, status: &Status) -> fmt::Result {
    use ConnectionState::{Connecting, Established, Failed, Pending, Retrying};
    let connections = [Established, Pending, Connecting, Retrying, Failed].map(|state| {
        let count = status
            .connections
            .iter()
            .filter(|c| c.state == state)
            .count();
        (vec![("state", view::state(state).to_owned())], count)
    });
    w.gauges(
        "wove_connections",
        "Connections by state",
        None,
        connections,
    )?;
    let established = || {
        let connections = status.connections.iter();
        connections.filter(|c| c.state == Established)
    };
    let paths = [
        PathKind::Fastdp,
        PathKind::Sleeve,
        PathKind::Relay,
        PathKind::Tcp,
    ]
    .map(|path| {
        let label = vec![("path", view::path(path).to_owned())];
        (label, established().filter(|c| c.path == path).count())
    });
    w.gauges("wove_paths", "Established connections by path", None, paths)?;
    let ciphers = [Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305].map(|cipher| cipher.to_string());
    let in_clear = established().filter(|c| !ciphers.contains(&c.cipher));
    let none = (vec![("cipher", "none".to_owned())], in_clear.count());
    let sealed = ciphers.iter().map(|cipher| {
        let label = vec![("cipher", cipher.clone())];
        (label, established().filter(|c| c.cipher == *cipher).count())
    });
    w.gauges(
        "wove_ciphers",
        "Established connections by cipher",
        None,
        sealed.chain([none]),
    )?;
    use TargetState as T;
    let targets = [T::Connected, T::Connecting, T::Waiting, T::Failed].map(|state| {
        let count = status.targets.iter().filter(|t| t.state == state).count();
        (vec![("state", view::target_state(state).to_owned())], count)
    });
    w.gauges("wove_targets", "Targets by state", None, targets)?;
    let reachable = status.peers.iter().filter(|p| p.reachable).count();
    w.gauge(
        "wove_peers_known",
        "Peers known, this one included",
        None,
        status.peers.len(),
    )?;
    w.gauge(
        "wove_peers_reachable",
        "Peers with a route, this one included",
        None,
        reachable,
    )?;
    w.gauge(
        "wove_stations",
        "MAC addresses known in the mesh",
        None,
        status.stations.len(),
    )?;
    w.gauge(
        "wove_names",
        "Pairs of name and address known in the mesh",
        None,
        status.dns.names.len(),
    )?;
    w.gauge(
        "wove_warnings",
        "What wants a person's attention",
        None,
        status.warnings.len(),
    )
}

fn counters(w: &mut Writer<'_>, status: &Status) -> fmt::Result {
    let c = &status.counters;
    w.gauge("wove_sessions", "Sessions held", None, c.sessions)?;
    w.gauge("wove_records", "Records in the replica", None, c.records)?;
    w.gauge(
        "wove_resident_memory",
        "Resident memory of the daemon",
        Some(Unit::Bytes),
        c.resident_bytes,
    )?;
    w.counter(
        "wove_handshakes",
        "Handshakes completed",
        None,
        c.handshakes,
    )?;
    let drops = c
        .drops
        .iter()
        .map(|(reason, count)| (vec![("reason", view::printable(reason))], *count));
    w.counters(
        "wove_dropped",
        "Frames and datagrams dropped, by reason",
        None,
        drops,
    )?;
    let dns = &status.dns.counters;
    let queries = [
        ("answered", dns.answered),
        ("unknown", dns.unknown),
        ("forwarded", dns.forwarded),
        ("failed", dns.failed),
        ("refused", dns.refused),
    ];
    w.counters(
        "wove_dns_queries",
        "Queries for names, by what became of them",
        None,
        queries.map(|(result, count)| (vec![("result", result.to_owned())], count)),
    )?;
    w.counter(
        "wove_control_received",
        "Control datagrams received",
        Some(Unit::Bytes),
        c.control_rx_bytes,
    )?;
    w.counter(
        "wove_control_sent",
        "Control datagrams sent",
        Some(Unit::Bytes),
        c.control_tx_bytes,
    )
}

fn peers(w: &mut Writer<'_>, status: &Status) -> fmt::Result {
    // Two samples with equal labels would make a scraper refuse the whole text.
    let known = status
        .connections
        .iter()
        .filter(|c| c.peer != PeerId::default());
    let by_peer: BTreeMap<PeerId, &ConnectionStatus> = known.map(|c| (c.peer, c)).collect();
    let each = || {
        by_peer
            .values()
            .map(|c| (peer_labels(c.peer, &c.nickname), *c))
    };
    let count = |of: fn(&ConnectionStatus) -> u64| each().map(move |(labels, c)| (labels, of(c)));

    let bytes = || Some(Unit::Bytes);
    w.counters(
        "wove_peer_received",
        "Bytes of frames from the peer",
        bytes(),
        count(|c| c.rx_bytes),
    )?;
    w.counters(
        "wove_peer_sent",
        "Bytes of frames to the peer",
        bytes(),
        count(|c| c.tx_bytes),
    )?;
    w.counters(
        "wove_peer_received_frames",
        "Frames from the peer",
        None,
        count(|c| c.rx_frames),
    )?;
    w.counters(
        "wove_peer_sent_frames",
        "Frames to the peer",
        None,
        count(|c| c.tx_frames),
    )?;
    w.counters(
        "wove_peer_fastdp_received",
        "Bytes of frames from the peer that the kernel carried",
        Some(Unit::Bytes),
        count(|c| c.fastdp.rx_bytes),
    )?;
    w.counters(
        "wove_peer_fastdp_sent",
        "Bytes of frames to the peer that the kernel carried",
        Some(Unit::Bytes),
        count(|c| c.fastdp.tx_bytes),
    )?;
    w.counters(
        "wove_peer_fastdp_received_frames",
        "Frames from the peer that the kernel carried",
        None,
        count(|c| c.fastdp.rx_frames),
    )?;
    w.counters(
        "wove_peer_fastdp_sent_frames",
        "Frames to the peer that the kernel carried",
        None,
        count(|c| c.fastdp.tx_frames),
    )?;

    // Microseconds stay exact in an f64 up to 285 years.
    let rtt = each()
        .filter(|(_, c)| c.rtt_us > 0)
        .map(|(labels, c)| (labels, c.rtt_us as f64 / 1e6));
    w.gauges("wove_peer_rtt", "Round-trip time", Some(Unit::Seconds), rtt)?;
    let mtu = each()
        .filter(|(_, c)| c.mtu > 0)
        .map(|(labels, c)| (labels, u64::from(c.mtu)));
    w.gauges("wove_peer_path_mtu", "Proven path MTU", bytes(), mtu)?;
    let established = each().filter(|(_, c)| c.state == ConnectionState::Established);
    let age = established.map(|(labels, c)| (labels, c.key_age_s));
    w.gauges(
        "wove_peer_key_age",
        "Time since the keys were agreed",
        Some(Unit::Seconds),
        age,
    )?;
    let state = each().map(|(mut labels, c)| {
        labels.push(("state", view::state(c.state).to_owned()));
        labels.push(("path", view::path(c.path).to_owned()));
        (labels, 1_u64)
    });
    w.gauges(
        "wove_peer_state",
        "How the peer is reached now, always 1",
        None,
        state,
    )
}

fn peer_labels(peer: PeerId, nickname: &str) -> Labels {
    vec![
        ("peer", peer.to_string()),
        ("nickname", view::printable(nickname)),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::shell::view::sample;

    /// Samples as `(name{labels}, value)`; panics on what is not OpenMetrics.
    fn parse(text: &str) -> BTreeMap<String, f64> {
        let mut samples = BTreeMap::new();
        let mut families = BTreeSet::new();
        assert!(text.ends_with("# EOF\n"));
        for line in text.lines() {
            if let Some(family) = line.strip_prefix("# TYPE ") {
                assert!(families.insert(family.to_owned()), "twice: {family}");
                continue;
            }
            if line.starts_with('#') {
                continue;
            }
            let (series, value) = line.rsplit_once(' ').unwrap();
            assert!(series.starts_with("wove_"), "{line}");
            let value = value.parse().unwrap();
            assert!(
                samples.insert(series.to_owned(), value).is_none(),
                "twice: {series}"
            );
        }
        samples
    }

    #[test]
    fn a_scrape_has_every_documented_metric() {
        let samples = parse(&encode(sample::status()));
        let own = include_str!("metrics.rs")
            .lines()
            .take_while(|line| line.starts_with("//!"));
        let rows = own
            .filter_map(|line| line.strip_prefix("//! | `wove_"))
            .map(|row| row.split('|').next().unwrap());
        let names = rows
            .flat_map(|names| names.split(", "))
            .map(|name| name.trim().trim_matches('`'));
        let names: Vec<_> = names.map(|name| name.trim_start_matches("wove_")).collect();
        assert!(names.len() > 25, "{names:?}");
        for name in names {
            let full = format!("wove_{name}");
            let found = samples
                .keys()
                .any(|series| series.split('{').next() == Some(full.as_str()));
            assert!(found, "{full} is documented, not scraped");
        }
    }

    #[test]
    fn values_carry_their_units() {
        let samples = parse(&encode(sample::status()));
        let beta = format!("peer=\"{}\",nickname=\"beta\"", sample::BETA);
        for (series, value) in [
            (format!("wove_peer_received_bytes_total{{{beta}}}"), 1536.0),
            (format!("wove_peer_rtt_seconds{{{beta}}}"), 210e-6),
            (
                format!("wove_peer_state{{{beta},state=\"established\",path=\"sleeve\"}}"),
                1.0,
            ),
            ("wove_dropped_total{reason=\"replay\"}".to_owned(), 7.0),
            ("wove_connections{state=\"established\"}".to_owned(), 1.0),
            ("wove_connections{state=\"failed\"}".to_owned(), 0.0),
            ("wove_ciphers{cipher=\"AES-256-GCM\"}".to_owned(), 1.0),
            ("wove_ciphers{cipher=\"none\"}".to_owned(), 0.0),
            ("wove_targets{state=\"waiting\"}".to_owned(), 1.0),
            ("wove_resident_memory_bytes".to_owned(), f64::from(8 << 20)),
        ] {
            assert_eq!(samples.get(&series), Some(&value), "{series}");
        }
    }

    #[test]
    fn hostile_names_and_duplicates_do_not_break_a_scrape() {
        let mut status = sample::status();
        status.connections[0].nickname = "a\"b\\c\nd} 1\u{1b}".into();
        status.connections.push(status.connections[0].clone());
        status.connections.push(status.connections[1].clone());
        status.router.uptime_s = f64::NAN;
        let text = encode(status);
        assert!(!text.contains('\u{1b}'));
        assert!(
            parse(&text)
                .keys()
                .any(|series| series.contains("a\\\"b\\\\c"))
        );
    }

    #[test]
    fn memory_is_counted() {
        assert!(resident_bytes().is_some_and(|bytes| bytes > 1 << 20));
    }
}
