//! Kernel ESP below VXLAN: what leaves, what is let in, and what is left behind.
//!
//! Here are two hosts without daemons, in [`daemons`] and [`strangers`] those with. Under a kernel
//! without ESP all run in one virtual machine (`tests/vm/run`), which the first
//! of them starts.

mod daemons;
mod strangers;

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};
use std::{fs, thread};

use socket2::{Protocol, Socket, Type};
use wove::engine::esp::{Action, Direction, Esp, EspKey, LINGER, Notice};
use wove::shell::xfrm::{Policy, Rule, Sa, SaId, Traffic, Xfrm};

use crate::lab::probe::{PingFlow, PingOptions, ping, ping_within};
use crate::lab::{Host, Lab, Watch, ensure, facts, secs};

const VXLAN: u16 = 6784;
const CANARY: &[u8] = b"canary in a coal mine";
/// One host: its VXLAN device, its kernel's XFRM, its end of the agreement.
struct End<'a> {
    host: &'a Host,
    local: IpAddr,
    peer: IpAddr,
    inner: Ipv4Addr,
    esp: Esp,
    xfrm: Xfrm,
    next_spi: u32,
    told: VecDeque<(u32, Notice)>,
}

/// Two of them, and what is seen between.
struct Pair<'a> {
    ends: [End<'a>; 2],
    /// Runs ahead of the real one by what the test skips.
    now: Instant,
    clear: Watch,
    esp: Watch,
    canary: Watch,
}

impl<'a> Pair<'a> {
    fn new(lab: &Lab, hosts: [&'a Host; 2], address: impl Fn(&Host) -> IpAddr) -> Self {
        let end = |at: usize| {
            let (host, other) = (hosts[at], hosts[1 - at]);
            let mut end = End {
                host,
                local: address(host),
                peer: address(other),
                inner: Ipv4Addr::new(10, 77, 0, at as u8 + 1),
                esp: Esp::new(),
                xfrm: host.netns.run(Xfrm::open).expect("XFRM"),
                next_spi: 1000 * (at as u32 + 1),
                told: VecDeque::new(),
            };
            // The policies come before the path.
            end.work(Instant::now());
            host.netns.add_vxlan("vx", (end.local, end.peer), VXLAN);
            host.netns.set_mtu("vx", 1300);
            host.netns.set_up("vx");
            host.netns.add_address("vx", end.inner.into(), 24);
            end
        };
        Self {
            ends: [end(0), end(1)],
            now: Instant::now(),
            clear: lab
                .underlay
                .watch(1, |frame| facts(frame).port == Some(VXLAN)),
            esp: lab.underlay.watch(0, |frame| facts(frame).esp),
            canary: lab.underlay.watch_for(CANARY),
        }
    }

    /// A new session, and all that the ends do and tell each other until quiet.
    fn rekey(&mut self, session: u32) {
        for end in &mut self.ends {
            end.begin(session, self.now);
        }
        self.settle();
    }

    fn settle(&mut self) {
        for _ in 0..20 {
            for at in 0..2 {
                let told = self.ends[at].work(self.now);
                self.ends[1 - at].told.extend(told);
            }
        }
    }

    /// As if old keys had lingered.
    fn linger(&mut self) {
        self.now += LINGER;
        for end in &mut self.ends {
            end.esp.tick(self.now);
        }
        self.settle();
    }

    /// Three pings, none of which may be answered.
    fn is_silent(&self) -> bool {
        self.pings(Duration::from_millis(500)) == 0
    }

    /// Three pings, all of which must be answered.
    fn is_open(&self) -> bool {
        self.pings(secs(2)) == 3
    }

    fn pings(&self, timeout: Duration) -> u64 {
        let options = PingOptions {
            count: 3,
            pattern: CANARY.to_vec(),
            timeout,
            ..PingOptions::default()
        };
        let [a, b] = &self.ends;
        ping(&a.host.netns, b.inner, options).received
    }

    /// Frames that came out of the second host's VXLAN device.
    fn received(&self) -> u64 {
        let read = || fs::read_to_string("/sys/class/net/vx/statistics/rx_packets");
        let text = self.ends[1].host.netns.run(read).expect("a VXLAN device");
        text.trim().parse().expect("a number")
    }
}

impl End<'_> {
    fn begin(&mut self, session: u32, now: Instant) {
        self.next_spi += 1;
        self.esp.begin(session, self.next_spi, now);
    }

    /// What the daemon will do: carries out what is due, and gives what is to be told.
    fn work(&mut self, now: Instant) -> Vec<(u32, Notice)> {
        while let Some((session, notice)) = self.told.pop_front() {
            self.esp.told(session, notice, now);
        }
        let mut told = Vec::new();
        while let Some(action) = self.esp.poll_action() {
            match action {
                Action::Guard => {
                    self.set(Direction::Out, Rule::Block);
                    self.set(Direction::In, Rule::Protect { spi: None });
                }
                Action::Install {
                    direction,
                    session,
                    spi,
                } => {
                    let sa = Sa {
                        id: self.id(direction, spi),
                        port: VXLAN,
                        key: key(session, spi),
                    };
                    assert!(self.xfrm.add(&sa).expect("an association"));
                    self.esp.installed(direction, spi, now);
                }
                Action::Direct { spi } => {
                    self.set(Direction::Out, Rule::Protect { spi: Some(spi) });
                    self.esp.directed(spi, now);
                }
                Action::Block => self.set(Direction::Out, Rule::Block),
                Action::Remove { direction, spi } => {
                    let id = self.id(direction, spi);
                    self.xfrm.remove(&id).expect("removed");
                }
                Action::Unguard => {
                    for direction in [Direction::In, Direction::Out] {
                        let traffic = self.traffic(direction);
                        self.xfrm.unset(&traffic).expect("removed");
                    }
                }
                Action::Renew { session } => self.begin(session, now),
                Action::Tell { session, notice } => told.push((session, notice)),
            }
        }
        told
    }

    fn set(&mut self, direction: Direction, rule: Rule) {
        let traffic = self.traffic(direction);
        self.xfrm.set(&Policy { traffic, rule }).expect("a policy");
    }

    fn traffic(&self, direction: Direction) -> Traffic {
        Traffic {
            direction,
            peer: self.peer,
            port: VXLAN,
        }
    }

    fn id(&self, direction: Direction, spi: u32) -> SaId {
        let (source, destination) = match direction {
            Direction::In => (self.peer, self.local),
            Direction::Out => (self.local, self.peer),
        };
        SaId {
            source,
            destination,
            spi,
        }
    }
}

/// Both ends come to the same; how is the engine's business.
fn key(session: u32, spi: u32) -> EspKey {
    let mut bytes = [7; EspKey::LEN];
    bytes[..4].copy_from_slice(&session.to_ne_bytes());
    bytes[4..8].copy_from_slice(&spi.to_ne_bytes());
    EspKey::new(bytes)
}

#[test]
fn vxlan_goes_through_esp_or_not_at_all() {
    let lab = Lab::new();
    if lab.ran_with_esp() {
        return;
    }
    let hosts = [lab.host("a"), lab.host("b")];
    let hosts = [&hosts[0], &hosts[1]];
    let v4: fn(&Host) -> IpAddr = |host| host.v4().into();
    let v6: fn(&Host) -> IpAddr = |host| host.v6().into();
    for address in [v4, v6] {
        let mut pair = Pair::new(&lab, hosts, address);
        // Before there are keys.
        assert!(pair.is_silent());
        assert_eq!((pair.clear.hits(), pair.esp.hits()), (0, 0));

        // One end is careless: the other takes nothing in clear.
        let careless = pair.ends[0].traffic(Direction::Out);
        pair.ends[0].xfrm.unset(&careless).expect("removed");
        assert!(pair.is_silent());
        ensure(pair.clear.hits() > 0, "the first host sent in clear");
        assert_eq!(pair.received(), 0);
        pair.ends[0].set(Direction::Out, Rule::Block);

        let (clear, canary) = (pair.clear.hits(), pair.canary.hits());
        pair.rekey(1);
        let [a, b] = &pair.ends;
        assert!(a.esp.is_up() && b.esp.is_up());
        ping_within(secs(5), &a.host.netns, b.inner);
        ensure(pair.esp.hits() > 0, "there is ESP");

        // Nothing is lost while keys change under a flow.
        let interval = Duration::from_millis(20);
        let flow = PingFlow::start(&a.host.netns, b.inner, interval);
        for session in 2..6 {
            thread::sleep(Duration::from_millis(500));
            pair.rekey(session);
            thread::sleep(Duration::from_millis(500));
            pair.linger();
        }
        let report = flow.stop();
        ensure(
            report.sent > 30 && report.lost == 0,
            format_args!("{report:?}"),
        );
        for end in &mut pair.ends {
            let found = end.xfrm.found().expect("a list");
            assert_eq!((found.sas.len(), found.policies.len()), (2, 2));
            assert!(found.sas.iter().all(|sa| sa.packets > 0), "{found:?}");
        }
        assert!(pair.is_open());

        // The kernel is robbed of its keys: nothing passes until there are others.
        let [a, _] = &mut pair.ends;
        let sas = a.xfrm.found().expect("a list").sas;
        for sa in &sas {
            a.xfrm.remove(&sa.id).expect("removed");
        }
        assert!(pair.is_silent());
        let [a, _] = &mut pair.ends;
        for sa in &sas {
            let direction = if sa.id.source == a.local {
                Direction::Out
            } else {
                Direction::In
            };
            a.esp
                .failed(direction, sa.id.spi, "flushed".to_owned(), pair.now);
        }
        pair.settle();
        assert!(pair.is_open());

        // The end: the path first, then the keys, then the policies.
        for end in &mut pair.ends {
            end.host.netns.delete_link("vx");
            end.esp.end();
            end.work(pair.now);
            assert_eq!(end.xfrm.found().expect("a list"), Default::default());
        }
        assert_eq!((pair.clear.hits(), pair.canary.hits()), (clear, canary));
    }
}

#[test]
fn a_member_cannot_speak_with_anothers_address() {
    let lab = Lab::new();
    if lab.ran_with_esp() {
        return;
    }
    let hosts = [lab.host("a"), lab.host("b")];
    let mut pair = Pair::new(&lab, [&hosts[0], &hosts[1]], |host| host.v4().into());
    let [a, b] = &mut pair.ends;
    // A third member's key at the second host, which the first one uses.
    let spi = 5000;
    let (mut sent, mut expected) = (a.id(Direction::Out, spi), b.id(Direction::In, spi));
    expected.source = Ipv4Addr::new(10, 99, 9, 9).into();
    for (end, id) in [(&mut *a, &sent), (&mut *b, &expected)] {
        let (id, port) = (*id, VXLAN);
        let key = key(1, spi);
        assert!(end.xfrm.add(&Sa { id, port, key }).expect("an association"));
    }
    a.set(Direction::Out, Rule::Protect { spi: Some(spi) });
    assert!(pair.is_silent());
    ensure(pair.esp.hits() > 0, "it was sent");
    assert_eq!(pair.received(), 0);
    // It was opened, and refused for its address.
    let read = || fs::read_to_string("/proc/thread-self/net/xfrm_stat");
    let counters = hosts[1].netns.run(read).expect("a kernel that counts");
    let refused = counters
        .lines()
        .find_map(|line| line.strip_prefix("XfrmInStateMismatch"));
    ensure(refused.is_some_and(|count| count.trim() != "0"), &counters);

    // With a key of its own it is let in.
    let [a, b] = &mut pair.ends;
    sent.spi += 1;
    for end in [&mut *a, &mut *b] {
        let (id, port) = (sent, VXLAN);
        let key = key(1, spi);
        assert!(end.xfrm.add(&Sa { id, port, key }).expect("an association"));
    }
    let rule = Rule::Protect {
        spi: Some(sent.spi),
    };
    a.set(Direction::Out, rule);
    // There is no way back.
    assert!(pair.is_silent());
    ensure(pair.received() > 0, "it is let in");
}

#[test]
fn what_is_ours_is_found_and_removed_and_nothing_else() {
    let lab = Lab::new();
    if lab.ran_with_esp() {
        return;
    }
    let hosts = [lab.host("a"), lab.host("b")];
    let mut pair = Pair::new(&lab, [&hosts[0], &hosts[1]], |host| host.v4().into());
    pair.rekey(1);
    // What iproute2 says, with another stamp.
    let foreign = Foreign::new(&hosts[0]);
    foreign.ask(include_str!("../../src/shell/xfrm/captures/sa_v4.hex"), 0);
    foreign.ask(
        include_str!("../../src/shell/xfrm/captures/policy_out_v4.hex"),
        0,
    );

    // Another launch, after a crash.
    let [a, _] = &mut pair.ends;
    let mut xfrm = a.host.netns.run(Xfrm::open).expect("XFRM");
    let found = xfrm.found().expect("a list");
    let ids: BTreeMap<u32, SaId> = found.sas.iter().map(|sa| (sa.id.spi, sa.id)).collect();
    let expected = [(Direction::In, 1001), (Direction::Out, 2001)];
    let expected = expected.map(|(direction, spi)| (spi, a.id(direction, spi)));
    assert_eq!(ids, BTreeMap::from(expected));
    let policies: Vec<_> = found.policies.iter().map(|policy| policy.rule).collect();
    let any = Rule::Protect { spi: None };
    assert_eq!(policies, [any, Rule::Protect { spi: Some(2001) }]);

    // An index that is taken, and a policy of somebody else.
    let taken = Sa {
        id: a.id(Direction::In, 1001),
        port: VXLAN,
        key: key(9, 9),
    };
    assert!(!xfrm.add(&taken).expect("an answer"));
    let traffic = Traffic {
        peer: Ipv4Addr::new(192, 0, 2, 2).into(),
        ..a.traffic(Direction::Out)
    };
    let rule = Rule::Block;
    let error = xfrm.set(&Policy { traffic, rule }).unwrap_err();
    ensure(error.to_string().contains("not wove's"), &error);
    xfrm.unset(&traffic).expect("nothing of ours");

    xfrm.clear().expect("removed");
    assert_eq!(xfrm.found().expect("a list"), Default::default());
    xfrm.clear().expect("nothing left");
    // The other's are still there: they can be removed, once.
    foreign.ask(
        include_str!("../../src/shell/xfrm/captures/delete_sa.hex"),
        0,
    );
    foreign.ask(
        include_str!("../../src/shell/xfrm/captures/delete_sa.hex"),
        libc::ESRCH,
    );
    assert!(xfrm.set(&Policy { traffic, rule }).is_err());
}

/// Some other program that uses XFRM on a host.
struct Foreign(Socket);

impl Foreign {
    fn new(host: &Host) -> Self {
        let (domain, protocol) = (libc::AF_NETLINK, libc::NETLINK_XFRM);
        let open = || Socket::new(domain.into(), Type::RAW, Some(Protocol::from(protocol)));
        Self(host.netns.run(open).expect("a netlink socket"))
    }

    /// Says what was captured, under a `reqid` that is not wove's.
    fn ask(&self, capture: &str, errno: i32) {
        let lines = capture.lines().filter(|line| !line.starts_with('#'));
        let words = lines.flat_map(str::split_whitespace);
        let mut bytes: Vec<u8> = words
            .map(|hex| u8::from_str_radix(hex, 16).expect("hexadecimal"))
            .collect();
        let ours = bytes.windows(4).position(|word| word == *b"evow");
        if let Some(at) = ours {
            bytes[at..at + 4].copy_from_slice(&[1, 0, 0, 0]);
        }
        self.say(&bytes, errno);
    }

    /// As `ip xfrm state flush`.
    fn flush_sas(&self) {
        self.flush(0x1c, &[0, 0, 0, 0]);
    }

    /// As `ip xfrm policy flush`.
    fn flush_policies(&self) {
        self.flush(0x1d, &[]);
    }

    fn flush(&self, kind: u16, body: &[u8]) {
        let length = 16 + body.len() as u32;
        // NLM_F_REQUEST, NLM_F_ACK
        let header = [length, u32::from(kind) | 5 << 16, 1, 0];
        let header = header.iter().flat_map(|word| word.to_ne_bytes());
        self.say(&header.chain(body.iter().copied()).collect::<Vec<_>>(), 0);
    }

    fn say(&self, message: &[u8], errno: i32) {
        self.0.send(message).expect("sent");
        let mut answer = [0; 4096];
        let length = std::io::Read::read(&mut &self.0, &mut answer).expect("an answer");
        assert!(length >= 20);
        let code = i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]);
        assert_eq!(code, -errno);
    }
}
