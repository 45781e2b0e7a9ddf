//! What people and scripts read.

use super::*;

#[test]
fn the_summary_counts() {
    let text = summary_text(&sample::status());
    for line in [
        "     Version: 0.1.0",
        "        Peer: 01010101010101010101010101010101 (alpha)",
        "  Encryption: enabled",
        "      Uptime: 1h1m",
        " Connections: 2 (1 established, 1 retrying)",
        "       Paths: 1 (1 sleeve)",
        "       Peers: 2 (2 reachable, 2 links)",
        "     Targets: 2 (1 connected, 1 waiting)",
        "       Names: 1 (wove.local)",
        "     Dropped: 7 (7 replay)",
        "  - nickname alpha: used twice; rename one",
    ] {
        assert!(text.lines().any(|l| l == line), "{line:?} in\n{text}");
    }
}

#[test]
fn a_table_aligns_and_fills_every_cell() {
    let text = table(&sample::status(), Page::Connections).to_string();
    let lines: Vec<Vec<&str>> = text
        .lines()
        .map(|l| l.split_whitespace().collect())
        .collect();
    assert_eq!(lines[0][..4], ["DIR", "ADDRESS", "PEER", "NICKNAME"]);
    assert_eq!(
        lines[1][..6],
        [
            "->",
            "10.0.0.2:6783",
            "02020202",
            "beta",
            "established",
            "sleeve"
        ]
    );
    assert_eq!(
        lines[1][6..12],
        ["1400", "210us", "AES-256-GCM", "12s", "1.5KiB", "3.0MiB"]
    );
    assert_eq!(lines[2][2..6], ["00000000", "-", "retrying", "-"]);
    let at = text
        .lines()
        .map(|l| l.find("ADDRESS").or(l.find("10.0.0.")));
    assert!(
        at.clone()
            .all(|column| column == at.clone().next().flatten()),
        "{text}"
    );
}

#[test]
fn every_page_has_its_table() {
    let text = |page| table(&sample::status(), page).to_string();
    assert!(text(Page::Peers).contains("beta"));
    assert!(text(Page::Targets).contains("waiting"));
    assert!(text(Page::Targets).contains("3s"));
    assert!(text(Page::Stations).contains("10.32.0.5,fd00::5"));
    assert!(text(Page::Dns).contains("web.wove.local  10.32.0.5  02020202  beta"));
    assert!(text(Page::Ipam).starts_with("PEER"));
}

#[test]
fn the_address_space_is_told_in_words() {
    let mut status = sample::status();
    assert!(ipam_text(&status).contains("without a range"));
    status.ipam = Some(sample::ipam());
    let text = ipam_text(&status);
    for line in [
        "State: ready",
        "Range: 10.32.0.0/12 and fd00:1::/64",
        "Used: 2 here",
        "Claim: 10.33.0.1 is in use here",
        "Claim: fd00:1::1:1 is in use here",
        "Conflict: gamma: allocates from 10.50.0.0/16",
        "02020202  beta",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    let ipam = &contract(&status)["ipam"];
    assert_eq!(ipam["range6"], "fd00:1::/64");
    assert_eq!(
        ipam["claims"],
        serde_json::json!(["10.33.0.1", "fd00:1::1:1"])
    );
}

#[test]
fn the_json_has_the_keys_of_the_contract() {
    let json = contract(&sample::status());
    let has = |value: &Value, keys: &[&str]| {
        keys.iter()
            .for_each(|key| assert!(value.get(key).is_some(), "{key} in {value}"));
    };
    has(
        &json,
        &[
            "version",
            "router",
            "connections",
            "targets",
            "peers",
            "stations",
            "ipam",
            "dns",
        ],
    );
    has(
        &json["router"],
        &[
            "peer",
            "nickname",
            "port",
            "encryption",
            "uptime_s",
            "ready",
        ],
    );
    has(
        &json["connections"][0],
        &[
            "peer", "nickname", "address", "outbound", "state", "path", "reason",
        ],
    );
    has(
        &json["connections"][0],
        &[
            "cipher",
            "mtu",
            "rtt_us",
            "rx_bytes",
            "tx_bytes",
            "key_age_s",
        ],
    );
    has(
        &json["targets"][0],
        &["address", "state", "reason", "retry_in_s"],
    );
    has(
        &json["peers"][0],
        &["peer", "nickname", "reachable", "hops", "next_hop", "links"],
    );
    has(&json["stations"][0], &["mac", "peer", "ips"]);
    assert_eq!(json["connections"][0]["state"], "established");
    assert_eq!(json["connections"][0]["path"], "sleeve");
}

#[test]
fn the_words_are_those_of_the_json() {
    let word = |value: Value| value.as_str().unwrap_or_default().to_owned();
    for kind in [
        PathKind::Fastdp,
        PathKind::Sleeve,
        PathKind::Relay,
        PathKind::Tcp,
    ] {
        assert_eq!(word(json!(kind)), path(kind));
    }
    for kind in [
        TargetState::Connected,
        TargetState::Connecting,
        TargetState::Waiting,
        TargetState::Failed,
    ] {
        assert_eq!(word(json!(kind)), target_state(kind));
    }
    assert_eq!(
        word(json!(ConnectionState::Retrying)),
        state(ConnectionState::Retrying)
    );
}

#[test]
fn hostile_text_cannot_steer_the_terminal() {
    let mut status = sample::status();
    status.connections[0].nickname = "\u{1b}]0;x\u{7}\nroot\u{202e}".into();
    status.warnings = vec!["a\u{1b}[2Jb".into()];
    let text = summary_text(&status) + &table(&status, Page::Connections).to_string();
    assert!(!text.contains(['\u{1b}', '\u{7}', '\u{202e}']));
    assert_eq!(
        table(&status, Page::Connections)
            .to_string()
            .lines()
            .count(),
        3
    );
}

#[test]
fn quantities_read_well() {
    assert_eq!(
        [rtt(999), rtt(1500), rtt(2_500_000)],
        ["999us", "1.5ms", "2.5s"]
    );
    assert_eq!(
        [span(59), span(61), span(3700), span(90000)],
        ["59s", "1m1s", "1h1m", "1d1h"]
    );
    assert_eq!(
        [bytes(0), bytes(1023), bytes(1536), bytes(u64::MAX)],
        ["0B", "1023B", "1.5KiB", "15.9EiB"]
    );
}

#[test]
fn an_absurd_uptime_is_not_fatal() {
    let mut status = sample::status();
    status.router.uptime_s = -1.0;
    status.targets[1].retry_in_s = f64::NAN;
    assert!(summary_text(&status).contains("Uptime: 0s"));
    assert!(!table(&status, Page::Targets).to_string().is_empty());
}
