//! The laboratory itself, without a daemon: if these fail, no other result
//! means anything.

use std::net::SocketAddrV4;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::lab::probe::{
    PacketSocket, PingFlow, PingOptions, Receivers, Transfer, ping, ping_within, send_broadcasts,
    send_multicasts,
};
use crate::lab::{Host, Lab, MAX_MTU, Netns, PORT, ensure, secs, until};

fn quick() -> PingOptions {
    PingOptions {
        timeout: Duration::from_millis(300),
        ..PingOptions::default()
    }
}

#[test]
fn hosts_ping_each_other_over_the_underlay() {
    let lab = Lab::new();
    let (a, b) = (lab.host("a"), lab.host("b"));
    let v4 = ping(&a.netns, b.v4(), PingOptions::default());
    let v6 = ping(&a.netns, b.v6(), PingOptions::default());
    assert!(v4.is_clean() && v4.rtts.len() == 5, "{v4:?}");
    assert!(v6.is_clean() && v6.received == 5, "{v6:?}");
    let there = lab.underlay.tally(a.id, b.id);
    assert!(there.frames >= 10 && there.dropped == 0, "{there:?}");
}

#[test]
fn nothing_is_seen_of_it_on_the_machine() {
    let devices = || {
        std::fs::read_to_string("/proc/net/dev")
            .unwrap()
            .lines()
            .count()
    };
    let before = devices();
    let lab = Lab::new();
    let host = lab.host("a");
    assert_eq!(devices(), before);
    assert!(host.netns.links().contains(&"eth0".to_owned()));
    host.write_state("canary", b"x");
    assert!(!std::path::Path::new("/run/state").exists());
    assert_eq!(host.state_files(), [("canary".to_owned(), b"x".to_vec())]);
    // Another process of root can open the namespace by its path.
    assert!(std::fs::File::open(host.netns.path()).is_ok());
}

#[test]
fn a_child_lives_in_the_namespace_and_dies_with_its_thread() {
    let lab = Lab::new();
    let host = lab.host("a");
    let mut child: Child = thread::scope(|scope| {
        let spawner = scope.spawn(|| {
            let child = resident_process(&host);
            let proc = format!("/proc/{}", child.id());
            let devices = std::fs::read_to_string(format!("{proc}/net/dev")).unwrap();
            assert!(devices.contains("eth0"), "{devices}");
            let seen = [proc.as_str(), "root", "sys/class/net/eth0"].join("/");
            assert!(
                std::fs::symlink_metadata(seen).is_ok(),
                "its /sys is its own"
            );
            child
        });
        spawner.join().unwrap()
    });
    until(secs(5), "the child is killed", || {
        child.try_wait().unwrap().is_some()
    });
}

const RESIDENT: &str = "WOVE_LAB_RESIDENT";

fn resident_process(host: &Host) -> Child {
    let mut command = Command::new(std::env::current_exe().expect("/proc is mounted"));
    command.args(["--exact", "laboratory::resident"]);
    command.env(RESIDENT, "1");
    command.stdout(Stdio::null()).stderr(Stdio::null());
    host.netns.place(&mut command, None);
    command.spawn().expect("this program starts again")
}

#[test]
fn resident() {
    // The child of another test; by itself it has nothing to show.
    if std::env::var_os(RESIDENT).is_some() {
        thread::sleep(secs(60));
    }
}

#[test]
fn a_cut_separates_and_heals() {
    let lab = Lab::new();
    let (a, b) = (lab.host("a"), lab.host("b"));
    let flow = PingFlow::start(&a.netns, b.v4(), Duration::from_millis(10));
    flow.wait_answer(secs(5));
    lab.cut(&a, &b);
    assert_eq!(ping(&a.netns, b.v4(), quick()).received, 0);
    lab.heal(&a, &b);
    flow.wait_answer(secs(5));
    let report = flow.stop();
    assert!(report.lost > 5 && report.received > 5, "{report:?}");
    assert_eq!(report.sent, report.lost + report.received);
    assert!(report.longest_gap >= Duration::from_millis(60));
    assert!(!report.outages.is_empty());
    lab.underlay.rules(|rules| rules.set_down(b.id, true));
    assert_eq!(ping(&a.netns, b.v6(), quick()).received, 0);
}

#[test]
fn segments_are_separate_networks() {
    let lab = Lab::new();
    let a = lab.host_on("a", &[0]);
    let b = lab.host_on("b", &[0, 1]);
    let c = lab.host_on("c", &[1]);
    ping_within(secs(5), &a.netns, b.v4());
    ping_within(secs(5), &b.netns, c.v4());
    assert_eq!(ping(&a.netns, c.v4(), quick()).received, 0);
}

#[test]
fn loss_duplication_and_delay_are_as_asked() {
    let lab = Lab::new();
    let (a, b) = (lab.host("a"), lab.host("b"));
    ping_within(secs(5), &a.netns, b.v4());
    lab.underlay.rules(|rules| {
        let there = rules.pair(a.id, b.id);
        there.loss = 0.3;
        let back = rules.pair(b.id, a.id);
        back.duplicate = 1.0;
        back.reorder = 0.1;
        back.delay = Duration::from_millis(20);
        back.jitter = Duration::from_millis(5);
    });
    let options = PingOptions {
        count: 200,
        interval: Duration::from_millis(2),
        ..quick()
    };
    let report = ping(&a.netns, b.v4(), options);
    assert!((30..90).contains(&report.lost), "{report:?}");
    assert_eq!(report.duplicates, report.received);
    assert!(report.rtts.iter().all(|rtt| rtt.as_millis() >= 20));
}

#[test]
fn a_black_hole_swallows_long_packets_only() {
    let lab = Lab::new();
    let (a, b) = (lab.host("a"), lab.host("b"));
    let of = |size| PingOptions { size, ..quick() };
    lab.underlay
        .rules(|r| r.both(a.id, b.id, |pair| pair.mtu = Some(1280)));
    assert_eq!(ping(&a.netns, b.v4(), of(1280 - 28 + 1)).received, 0);
    assert_eq!(ping(&a.netns, b.v4(), of(1280 - 28)).received, 5);
    assert_eq!(ping(&a.netns, b.v6(), of(1280 - 48)).received, 5);
    lab.heal(&a, &b);
    for host in [&a, &b] {
        host.set_mtu(MAX_MTU);
    }
    let dropped = lab.underlay.watch(0, |frame| frame.len() > 8900);
    assert_eq!(ping(&a.netns, b.v4(), of(8900)).received, 5);
    assert_eq!(dropped.hits(), 10);
}

#[test]
fn udp_alone_can_be_blocked() {
    let lab = Lab::new();
    let (a, b) = (lab.host("a"), lab.host("b"));
    lab.underlay
        .rules(|r| r.everywhere(|pair| pair.udp_mtu = Some(0)));
    ping_within(secs(5), &a.netns, b.v4());
    let at = || [(&b.netns, b.v4())];
    let none = Receivers::start(at());
    send_broadcasts(&a.netns, a.v4(), 0..10, Duration::from_millis(1));
    assert!(none.finish(Duration::from_millis(100))[0].is_empty());
    assert!(lab.underlay.udp_tally(9000).frames == 0);
}

#[test]
fn a_capture_finds_plaintext() {
    let lab = Lab::new();
    let (a, b) = (lab.host("a"), lab.host("b"));
    let canary = b"plaintext-canary";
    let watch = lab.underlay.watch_for(canary);
    ping_within(secs(5), &a.netns, b.v4());
    assert_eq!(watch.hits(), 0);
    let took = Transfer::run(&a.netns, &b.netns, b.v4(), 2_000_000, canary);
    assert!(took.is_ok(), "{took:?}");
    assert!(watch.hits() > 100 && watch.frames().len() == 1);
    assert!(lab.underlay.delivered().bytes > 2_000_000);
}

#[test]
fn a_fake_address_sends_and_counts_answers() {
    let lab = Lab::new();
    let a = lab.host("a");
    let open = || std::net::UdpSocket::bind((a.v4(), PORT)).unwrap();
    let echo = a.netns.run(open);
    echo.set_read_timeout(Some(secs(5))).unwrap();
    let fake = lab.underlay.fake(0, 1);
    fake.send(4000, a.endpoint(), b"who is there");
    let mut buffer = [0; 100];
    let (length, from) = echo.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"who is there");
    assert_eq!(from, SocketAddrV4::new(fake.ip(), 4000).into());
    echo.send_to(b"nobody", from).unwrap();
    until(secs(5), "the answer is counted", || fake.bytes() == (12, 6));
    assert_eq!(fake.received(), [b"nobody"]);
}

#[test]
fn broadcasts_and_multicasts_arrive_once() {
    let lab = Lab::new();
    let (a, b, c) = (lab.host("a"), lab.host("b"), lab.host("c"));
    let receivers = Receivers::start([(&b.netns, b.v4()), (&c.netns, c.v4())]);
    for host in [&a, &b, &c] {
        // The tests' broadcast is that of a /24.
        let address = std::net::IpAddr::V4(host.v4());
        host.netns.delete_address("eth0", address);
        host.netns.add_address("eth0", address, 24);
    }
    let receivers_again = receivers.finish(Duration::ZERO);
    assert!(receivers_again.iter().all(|counts| counts.is_empty()));
    let receivers = Receivers::start([(&b.netns, b.v4()), (&c.netns, c.v4())]);
    send_broadcasts(&a.netns, a.v4(), 0..20, Duration::from_millis(1));
    send_multicasts(&a.netns, a.v4(), 20..40, Duration::from_millis(1));
    for counts in receivers.finish(Duration::from_millis(200)) {
        ensure(counts.len() == 40, format_args!("{counts:?}"));
        ensure(
            counts.values().all(|copies| *copies == 1),
            format_args!("{counts:?}"),
        );
    }
}

#[test]
fn arp_by_hand_finds_the_neighbour() {
    let lab = Lab::new();
    let (a, b) = (lab.host("a"), lab.host("b"));
    let socket = PacketSocket::open(&a.netns, "eth0");
    let answers = socket.who_has(a.v4(), b.v4(), Duration::from_millis(300));
    assert_eq!(answers, Vec::from_iter(b.netns.link_mac("eth0")));
}

#[test]
fn interfaces_are_made_and_unmade() {
    let netns = Netns::new();
    netns.add_veth("left", "right");
    netns.add_bridge("bridge");
    netns.set_mtu("left", 1400);
    netns.set_up("left");
    netns.set_down("left");
    let address = "10.1.2.3".parse().unwrap();
    netns.add_address("left", address, 24);
    assert!(netns.addresses("left").contains(&address));
    netns.delete_address("left", address);
    assert!(!netns.addresses("left").contains(&address));
    netns.delete_link("right");
    assert_eq!(netns.link_index("left"), None);
    assert!(netns.links().contains(&"bridge".to_owned()));
}
