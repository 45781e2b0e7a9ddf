//! Every transition, some stories, and two ends with two kernels under chance.

use std::collections::{BTreeMap, BTreeSet};

use crypto::{Hello, Identity, Initiator, Responder, Secret, Session};
use proto::datagram::{Datagram, Handshake};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{association::OFFER, *};

#[expect(
    clippy::disallowed_methods,
    reason = "a test needs some origin of time; no result depends on it"
)]
pub(in super::super) fn origin() -> Instant {
    Instant::now()
}

#[test]
fn every_transition() {
    use Input::*;
    use Phase::*;
    const INPUTS: [Input; 5] = [Installed, Taken, Superseded, Lingered, Lost];
    for (phase, next) in [
        // Input:      Installed  Taken       Superseded  Lingered    Lost
        (
            Installing,
            [Waiting, Installing, Retiring, Installing, Gone],
        ),
        (Waiting, [Waiting, Used, Retiring, Waiting, Gone]),
        (Used, [Used, Used, Retiring, Used, Gone]),
        (Retiring, [Retiring, Retiring, Retiring, Gone, Gone]),
        (Gone, [Gone, Gone, Gone, Gone, Gone]),
    ] {
        for (input, next) in INPUTS.into_iter().zip(next) {
            assert_eq!(phase.next(input), next, "{phase:?} {input:?}");
        }
    }
}

fn actions(esp: &mut Esp) -> Vec<Action> {
    std::iter::from_fn(|| esp.poll_action()).collect()
}

fn install(direction: Direction, session: u32, spi: u32) -> Action {
    Action::Install {
        direction,
        session,
        spi,
    }
}

fn tell(session: u32, notice: Notice) -> Action {
    Action::Tell { session, notice }
}

#[test]
fn the_receiver_installs_offers_and_repeats() {
    let now = origin();
    let mut esp = Esp::new();
    assert_eq!(actions(&mut esp), [Action::Guard]);
    esp.begin(1, 1000, now);
    assert_eq!(actions(&mut esp), [install(Direction::In, 1, 1000)]);
    esp.installed(Direction::In, 1000, now);
    let offer = tell(1, Notice::Offer(1000));
    assert_eq!(actions(&mut esp), [offer]);
    esp.tick(now + OFFER / 2);
    assert_eq!(actions(&mut esp), []);
    esp.tick(now + OFFER);
    assert_eq!(actions(&mut esp), [offer]);
    esp.told(1, Notice::Taken(1000), now + OFFER);
    esp.tick(now + OFFER * 100);
    assert_eq!(actions(&mut esp), []);
    assert!(!esp.is_up(), "that is the other direction");
}

#[test]
fn the_sender_installs_directs_and_confirms() {
    let now = origin();
    let mut esp = up(now);
    assert!(esp.is_up() && esp.reason().is_none());
    // The peer did not hear it.
    esp.told(1, Notice::Offer(2000), now);
    assert_eq!(actions(&mut esp), [tell(1, Notice::Taken(2000))]);
}

/// Sends under index 2000 of session 1.
fn up(now: Instant) -> Esp {
    let mut esp = Esp::new();
    esp.begin(1, 1000, now);
    actions(&mut esp);
    esp.told(1, Notice::Offer(2000), now);
    assert_eq!(actions(&mut esp), [install(Direction::Out, 1, 2000)]);
    esp.installed(Direction::Out, 2000, now);
    assert!(!esp.is_up());
    assert_eq!(actions(&mut esp), [Action::Direct { spi: 2000 }]);
    esp.directed(2000, now);
    assert_eq!(actions(&mut esp), [tell(1, Notice::Taken(2000))]);
    esp
}

#[test]
fn who_sends_under_a_key_that_is_not_there_gets_another() {
    let now = origin();
    let mut esp = up(now);
    esp.told(1, Notice::Taken(999), now);
    assert_eq!(
        actions(&mut esp),
        [],
        "there is one that it has not taken yet"
    );
    esp.installed(Direction::In, 1000, now);
    esp.told(1, Notice::Taken(1000), now);
    actions(&mut esp);
    esp.told(1, Notice::Taken(999), now);
    assert_eq!(actions(&mut esp), [Action::Renew { session: 1 }]);
    esp.told(7, Notice::Taken(999), now);
    assert_eq!(actions(&mut esp), [], "of no session that is known");
    esp.remind();
    assert_eq!(actions(&mut esp), [tell(1, Notice::Taken(2000))]);
    // The peer began anew: what it offers by itself is another matter.
    esp.renew_inbound(now);
    assert_eq!(actions(&mut esp), [Action::Renew { session: 1 }]);
    assert!(esp.is_up());
    esp.tick(now + LINGER);
    let (direction, spi) = (Direction::In, 1000);
    assert_eq!(actions(&mut esp), [Action::Remove { direction, spi }]);
}

#[test]
fn an_old_key_lingers_and_goes() {
    let now = origin();
    let mut esp = up(now);
    esp.begin(2, 1001, now);
    esp.told(2, Notice::Offer(2001), now);
    esp.installed(Direction::Out, 2001, now);
    esp.directed(2001, now);
    actions(&mut esp);
    esp.tick(now + LINGER - Duration::from_millis(1));
    assert_eq!(actions(&mut esp), []);
    // The old session is over, whatever comes late.
    esp.told(1, Notice::Offer(2002), now);
    assert_eq!(actions(&mut esp), []);
    esp.tick(now + LINGER);
    let (direction, spi) = (Direction::Out, 2000);
    assert_eq!(actions(&mut esp), [Action::Remove { direction, spi }]);
    assert!(esp.is_up());
}

#[test]
fn what_the_kernel_lost_is_replaced_under_another_index() {
    let now = origin();
    let mut esp = up(now);
    esp.failed(Direction::Out, 2000, "flushed".to_owned(), now);
    assert_eq!(
        actions(&mut esp),
        [Action::Block, tell(1, Notice::Lost(2000))]
    );
    assert_eq!(esp.reason().as_deref(), Some("flushed"));
    esp.told(1, Notice::Lost(1000), now);
    esp.failed(Direction::In, 1000, "flushed".to_owned(), now);
    assert_eq!(actions(&mut esp), [Action::Renew { session: 1 }]);
}

#[test]
fn what_is_lost_is_said_until_there_is_another_key() {
    let now = origin();
    let mut esp = up(now);
    esp.failed(Direction::Out, 2000, "flushed".to_owned(), now);
    let lost = tell(1, Notice::Lost(2000));
    assert_eq!(actions(&mut esp), [Action::Block, lost]);
    for (after, expected) in [(0, None), (1, Some(lost)), (2, None), (3, Some(lost))] {
        esp.tick(now + OFFER * after);
        assert_eq!(actions(&mut esp), Vec::from_iter(expected), "{after}");
    }
    let later = now + OFFER * 4;
    esp.told(1, Notice::Offer(2001), later);
    assert_eq!(actions(&mut esp), [install(Direction::Out, 1, 2001)]);
    esp.tick(later + OFFER * 100);
    assert_eq!(actions(&mut esp), [], "it is on its way");
    esp.installed(Direction::Out, 2001, later);
    esp.directed(2001, later);
    actions(&mut esp);
    esp.tick(later + OFFER * 200);
    assert_eq!(actions(&mut esp), []);
}

#[test]
fn whatever_is_lost_on_the_way_a_flushed_key_is_replaced_in_the_same_session() {
    for seed in 0..100 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut now = origin();
        let mut ends = [End::new(), End::new()];
        for end in &mut ends {
            end.esp.begin(1, index(&mut rng), now);
        }
        for flush in 0..5 {
            for _ in 0..800 {
                now += Duration::from_millis(100);
                for at in [0, 1] {
                    let end = &mut ends[at];
                    while let Some((session, notice)) = end.notices.pop_front() {
                        end.esp.told(session, notice, now);
                    }
                    end.esp.tick(now);
                    let told = end.work(&mut rng, now);
                    let told = told.into_iter().filter(|_| rng.random_ratio(2, 3));
                    ends[1 - at].notices.extend(told);
                }
            }
            let up = |end: &End| end.esp.is_up() && end.directed.is_some();
            assert!(ends.iter().all(up), "seed {seed}, flush {flush}");
            let end = &mut ends[flush % 2];
            for spi in std::mem::take(&mut end.outbound) {
                let why = "flushed".to_owned();
                end.esp.failed(Direction::Out, spi, why, now);
            }
        }
    }
}

#[test]
fn a_peer_that_loses_everything_is_not_served_for_ever() {
    let now = origin();
    let mut esp = Esp::new();
    let mut renewed = 0;
    esp.begin(1, 1000, now);
    for spi in 1000..2000 {
        esp.told(1, Notice::Offer(spi + 5000), now);
        esp.installed(Direction::In, spi, now);
        esp.told(1, Notice::Lost(spi), now);
        for action in actions(&mut esp) {
            if action == (Action::Renew { session: 1 }) {
                esp.begin(1, spi + 1, now);
                renewed += 1;
            }
        }
    }
    assert_eq!(renewed, INDEXES - 1);
    let most = INDEXES as usize;
    assert!(esp.inbound.len() <= most && esp.outbound.len() <= most);
}

#[test]
fn the_policies_go_last() {
    let now = origin();
    let mut esp = up(now);
    esp.end();
    let removed = |direction, spi| Action::Remove { direction, spi };
    assert_eq!(
        actions(&mut esp),
        [
            Action::Block,
            removed(Direction::In, 1000),
            removed(Direction::Out, 2000),
            Action::Unguard,
        ]
    );
    assert!(!esp.is_up());
}

#[test]
fn nonsense_of_the_peer_does_nothing() {
    let now = origin();
    let mut esp = up(now);
    for (session, notice) in [
        (1, Notice::Offer(0)),
        (1, Notice::Offer(255)),
        (7, Notice::Offer(3000)),
        (7, Notice::Offer(2000)),
        (1, Notice::Taken(2000)),
        (7, Notice::Taken(1000)),
        (1, Notice::Lost(2000)),
        (7, Notice::Lost(1000)),
    ] {
        esp.told(session, notice, now);
        assert_eq!(actions(&mut esp), [], "{session} {notice:?}");
    }
    assert!(esp.is_up());
}

/// One end, its kernel, and what is on the way to it.
struct End {
    esp: Esp,
    inbound: BTreeSet<u32>,
    outbound: BTreeSet<u32>,
    /// The policy: under which index packets leave.
    directed: Option<u32>,
    guarded: bool,
    /// Keys of this end's sending that were ever used.
    spent: BTreeSet<u32>,
    notices: VecDeque<(u32, Notice)>,
}

impl End {
    fn new() -> Self {
        Self {
            esp: Esp::new(),
            inbound: BTreeSet::new(),
            outbound: BTreeSet::new(),
            directed: None,
            guarded: false,
            spent: BTreeSet::new(),
            notices: VecDeque::new(),
        }
    }

    /// Does what is to be done; gives what is to be told.
    fn work(&mut self, rng: &mut ChaCha8Rng, now: Instant) -> Vec<(u32, Notice)> {
        let mut told = Vec::new();
        while let Some(action) = self.esp.poll_action() {
            match action {
                Action::Guard => self.guarded = true,
                Action::Unguard => self.guarded = false,
                Action::Block => self.directed = None,
                Action::Renew { session } => self.esp.begin(session, index(rng), now),
                Action::Tell { session, notice } => told.push((session, notice)),
                Action::Direct { spi } => {
                    assert!(self.outbound.contains(&spi), "directed into nothing");
                    self.directed = Some(spi);
                    self.esp.directed(spi, now);
                }
                Action::Remove { direction, spi } => {
                    self.kernel(direction).remove(&spi);
                }
                Action::Install { direction, spi, .. } => {
                    if rng.random_ratio(1, 20) {
                        self.esp.failed(direction, spi, "full".to_owned(), now);
                        continue;
                    }
                    if direction == Direction::Out {
                        assert!(self.spent.insert(spi), "a key is used twice");
                    }
                    self.kernel(direction).insert(spi);
                    self.esp.installed(direction, spi, now);
                }
            }
        }
        told
    }

    fn kernel(&mut self, direction: Direction) -> &mut BTreeSet<u32> {
        match direction {
            Direction::In => &mut self.inbound,
            Direction::Out => &mut self.outbound,
        }
    }
}

fn index(rng: &mut ChaCha8Rng) -> u32 {
    rng.random_range(SPIS)
}

#[test]
fn under_chance_nothing_is_lost_and_nothing_leaves_in_clear() {
    let mut rekeyed = 0;
    for seed in 0..200 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut now = origin();
        let mut ends = [End::new(), End::new()];
        // Indexes under which packets may be on the way, and until when.
        let mut flying: BTreeMap<(usize, u32), Instant> = BTreeMap::new();
        for step in 0..3000 {
            now += Duration::from_millis(rng.random_range(0..100));
            if step % 600 == 0 {
                // Each end hears of the new session at its own time.
                let session = step / 600 + 1;
                for end in &mut ends {
                    end.esp.begin(session, index(&mut rng), now);
                }
            }
            let at = rng.random_range(0..2);
            let told = {
                let end = &mut ends[at];
                if let Some((session, notice)) = end.notices.pop_front() {
                    end.esp.told(session, notice, now);
                }
                end.esp.tick(now);
                end.work(&mut rng, now)
            };
            for notice in told {
                if rng.random_ratio(4, 5) {
                    ends[1 - at].notices.push_back(notice);
                }
            }
            for (from, end) in ends.iter().enumerate() {
                assert!(end.guarded || step < 100, "seed {seed}");
                let Some(spi) = end.directed else { continue };
                assert!(
                    end.outbound.contains(&spi),
                    "seed {seed}: sent into nothing"
                );
                flying.insert((1 - from, spi), now + LINGER / 2);
            }
            flying.retain(|_, until| *until > now);
            for (to, spi) in flying.keys() {
                assert!(ends[*to].inbound.contains(spi), "seed {seed}: lost");
            }
        }
        // Every session but unlucky ones came into use, at both ends.
        rekeyed += ends.iter().map(|end| end.spent.len()).sum::<usize>();
        for end in &ends {
            assert!(end.esp.is_up(), "seed {seed}");
            assert!(end.inbound.len() <= 3 && end.outbound.len() <= 3);
        }
    }
    assert!(rekeyed >= 200 * 10, "{rekeyed}");
}

#[test]
fn both_ends_derive_the_same_keys_and_no_two_are_alike() {
    let (a, b) = sessions();
    let bytes = |key: EspKey| *key.as_bytes();
    let there = bytes(EspKey::outbound(&a, 1000));
    assert_eq!(there, bytes(EspKey::inbound(&b, 1000)));
    assert_eq!(
        bytes(EspKey::outbound(&b, 1000)),
        bytes(EspKey::inbound(&a, 1000))
    );
    assert_ne!(there, bytes(EspKey::inbound(&a, 1000)));
    assert_ne!(there[..32], bytes(EspKey::outbound(&a, 1001))[..32]);
    assert_ne!(there[32..], there[..4]);
    assert_eq!(there[..32], *a.export_send(b"esp key \x00\x00\x03\xe8"));
    assert_eq!(there[32..], a.export_send(b"esp salt\x00\x00\x03\xe8")[..4]);
    assert_eq!(format!("{:?}", EspKey::new([7; 36])), "EspKey(..)");
}

/// Both ends of one.
pub(in super::super) fn sessions() -> (Session, Session) {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let [a, b] = [(); 2].map(|()| Identity::generate(&mut rng));
    let hello = Hello::new(1, 1, "x");
    let secret = Secret::generate(&mut rng);
    let (mut initiator, first) = Initiator::start(&a, &hello, 1, &mut rng).unwrap();
    let (mut responder, second) =
        Responder::accept(&b, &hello, 2, &handshake(&first), &mut rng).unwrap();
    let (at_a, third) = initiator
        .read_response(&handshake(&second), &secret)
        .unwrap();
    let at_b = responder.complete(&handshake(&third), &[secret]).unwrap();
    (at_a.session, at_b.session)
}

fn handshake(datagram: &[u8]) -> Handshake<'_> {
    match Datagram::parse(datagram) {
        Ok(Datagram::Handshake(message)) => message,
        other => panic!("{other:?}"),
    }
}
