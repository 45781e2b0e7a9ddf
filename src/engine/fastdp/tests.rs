//! The machine of the fast path: its table, and its times.

#![expect(clippy::disallowed_methods, reason = "any instant will do as origin")]

use super::*;

const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));
const TICK: Duration = Duration::from_millis(100);

pub(in super::super) fn offer(vni: u32) -> VxlanOffer {
    VxlanOffer {
        vni,
        port: 6784,
        room: 1400,
    }
}

fn wish(index: u32) -> Wish {
    Wish {
        index,
        address: ADDRESS,
        esp: false,
    }
}

/// A path, its clock, and a peer that answers or not.
struct Story {
    path: FastPath,
    now: Instant,
    token: u64,
    probes: u64,
    offers: u64,
}

impl Story {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            path: FastPath::new(now),
            now,
            token: 0,
            probes: 0,
            offers: 0,
        }
    }

    /// Both ends want it and have each other's offer.
    fn offered() -> Self {
        let mut story = Self::new();
        story.path.allow(wish(7), story.now);
        assert!(story.path.offered(offer(9), ADDRESS, story.now));
        story
    }

    fn run(&mut self, span: Duration, answers: bool, active: bool) {
        let end = self.now + span;
        while self.now < end {
            self.now += TICK;
            let chores = self.path.tick(active, self.now);
            self.offers += u64::from(chores.offer);
            if chores.probe.is_some() {
                self.probes += 1;
                self.token += 1;
                self.path.probed(self.token, self.now);
                if answers {
                    self.path.heard();
                    self.path
                        .answered(self.token, self.now + Duration::from_millis(1));
                }
            }
        }
    }

    /// Time until it is up, or not any more.
    fn until(&mut self, up: bool, answers: bool) -> Duration {
        let start = self.now;
        while self.path.is_up() != up {
            self.run(TICK, answers, true);
            assert!(
                self.now - start < Duration::from_secs(60),
                "{:?}",
                self.path
            );
        }
        self.now - start
    }
}

#[test]
fn the_table_is_what_the_diagram_says() {
    use Input::*;
    use Phase::*;
    let phases = [Barred, Offering, Declined, Proving, Up, Resting];
    let inputs = [Bar, Allow, Offer, Decline, Proven, Silent, Rested];
    let moves = [
        (Barred, Allow, Offering),
        (Proving, Proven, Up),
        (Proving, Silent, Resting),
        (Up, Silent, Resting),
        (Resting, Rested, Proving),
    ];
    for phase in phases {
        for input in inputs {
            let expected = match input {
                Bar => Barred,
                Offer if phase != Barred => Proving,
                Decline if phase != Barred => Declined,
                _ => moves
                    .iter()
                    .find(|(from, on, _)| (*from, *on) == (phase, input))
                    .map_or(phase, |(_, _, to)| *to),
            };
            assert_eq!(phase.next(input), expected, "{phase:?} {input:?}");
        }
    }
}

#[test]
fn it_is_up_soon_and_probed_at_the_pace_of_its_traffic() {
    let mut story = Story::offered();
    assert!(story.until(true, true) <= Duration::from_millis(300));
    story.probes = 0;
    story.run(Duration::from_secs(10), true, true);
    assert!((30..=45).contains(&story.probes), "{}", story.probes);
    story.probes = 0;
    story.run(Duration::from_secs(10), true, false);
    assert!((9..=12).contains(&story.probes), "{}", story.probes);
    assert!(story.path.is_up());
}

#[test]
fn silence_ends_it_within_a_second_and_answers_bring_it_back() {
    for flap in 0..6 {
        let mut story = Story::offered();
        for _ in 0..=flap {
            story.until(true, true);
            story.run(Duration::from_millis(1700), true, true);
            let down = story.until(false, false);
            assert!(down < Duration::from_secs(1), "{down:?}");
            story.run(Duration::from_secs(20), false, true);
            let back = story.until(true, true);
            assert!(back < Duration::from_secs(5), "{back:?}");
        }
    }
}

#[test]
fn a_few_lost_probes_do_not_end_it() {
    let mut story = Story::offered();
    story.until(true, true);
    for _ in 0..50 {
        story.run(TICK * 3, false, true);
        story.run(TICK * 5, true, true);
        assert!(story.path.is_up());
    }
}

#[test]
fn a_blocked_path_costs_little() {
    let mut story = Story::offered();
    story.run(Duration::from_secs(60), false, false);
    story.probes = 0;
    story.run(Duration::from_secs(160), false, false);
    assert!(story.probes <= 130, "{}", story.probes);
    let reason = story.path.reason(1500, 1450).unwrap();
    assert!(reason.contains("6784"), "{reason}");
    let reason = story.path.reason(1400, 1450).unwrap();
    assert_eq!(reason, "path MTU 1400 < 1450");
}

#[test]
fn a_new_identifier_is_proven_anew_and_the_old_one_is_never_used() {
    let mut story = Story::offered();
    story.until(true, true);
    assert!(
        !story.path.offered(offer(9), ADDRESS, story.now),
        "nothing new"
    );
    assert!(story.path.is_up());
    assert!(story.path.offered(offer(10), ADDRESS, story.now));
    let entry = story.path.entry().unwrap();
    assert_eq!((entry.vni, entry.up), (Some(10), false));
    story.path.bar(Bar::Encrypted("why".to_owned()));
    assert_eq!(story.path.entry(), None);
    assert!(!story.path.offered(offer(11), ADDRESS, story.now), "barred");
    assert_eq!(story.path.refusal(), Some(Decline::Encrypted));
    story.path.allow(wish(8), story.now);
    assert_eq!(story.path.entry().unwrap().vni, None);
}

#[test]
fn offers_go_on_until_they_are_heard_and_after_a_refusal() {
    let mut story = Story::new();
    story.path.allow(wish(7), story.now);
    story.run(Duration::from_secs(1), false, true);
    assert!((2..=4).contains(&story.offers), "{}", story.offers);
    story.path.declined(Decline::Disabled, story.now);
    let reason = story.path.reason(1500, 1450).unwrap();
    assert!(reason.contains("--no-fastdp"), "{reason}");
    story.offers = 0;
    story.run(Duration::from_secs(30), false, false);
    assert!((1..=4).contains(&story.offers), "{}", story.offers);
    story.path.offered(offer(9), ADDRESS, story.now);
    story.until(true, true);
}

#[test]
fn an_answer_that_nobody_asked_for_proves_nothing() {
    let mut story = Story::offered();
    for token in 100..120 {
        story.path.answered(token, story.now);
    }
    assert!(!story.path.is_up());
}

#[test]
fn what_the_peer_sent_before_it_heard_of_the_end_is_let_in() {
    let mut story = Story::offered();
    story.run(Duration::from_secs(1), true, true);
    assert!(story.path.is_up());
    story.path.leave(story.now);
    story.path.allow(wish(8), story.now);
    let entries: Vec<Entry> = story.path.entries().collect();
    let [current, left] = entries[..] else {
        panic!("{entries:?}");
    };
    assert_eq!((current.wish.index, left.wish.index), (8, 7));
    assert_eq!(
        (left.source, left.vni, left.up),
        (Some(ADDRESS), None, false)
    );
    story.run(LINGER, false, true);
    assert_eq!(story.path.entries().count(), 1);

    // Again and again: a few, and none once the peer is launched anew.
    for index in 9..20 {
        assert!(story.path.offered(offer(index), ADDRESS, story.now));
        story.path.leave(story.now);
        story.path.allow(wish(index), story.now);
    }
    assert_eq!(story.path.entries().count(), 1 + MOST_LEFT);
    story.path.bar(Bar::Indirect);
    story.path.forget_left();
    assert_eq!(story.path.entries().count(), 0);
}

#[test]
fn inside_esp_nothing_lingers() {
    let mut story = Story::new();
    let esp = Wish {
        esp: true,
        ..wish(7)
    };
    story.path.allow(esp, story.now);
    assert!(story.path.offered(offer(9), ADDRESS, story.now));
    story.path.leave(story.now);
    assert_eq!(story.path.entries().count(), 0);
}
