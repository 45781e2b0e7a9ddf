//! What the underlay does to the frames of each directed pair of hosts.
//! Pure: time and randomness come in.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::wire::Facts;

/// A host of the underlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct HostId(pub(crate) usize);

/// What happens to frames from one host to another.
#[derive(Clone, Debug, Default)]
pub(crate) struct PairRule {
    /// Nothing passes.
    pub(crate) cut: bool,
    /// The chance of a frame to be lost, 0 to 1.
    pub(crate) loss: f64,
    /// How long a frame takes.
    pub(crate) delay: Duration,
    /// How much longer it may take, evenly distributed.
    pub(crate) jitter: Duration,
    /// The chance of a frame to arrive twice.
    pub(crate) duplicate: f64,
    /// The chance of a frame to be overtaken by those of the next 5 ms.
    pub(crate) reorder: f64,
    /// IP packets longer than this vanish, and no ICMP says so.
    pub(crate) mtu: Option<usize>,
    /// UDP packets longer than this vanish; 0 blocks UDP.
    pub(crate) udp_mtu: Option<usize>,
    /// UDP to these ports vanishes.
    pub(crate) udp_blocked: BTreeSet<u16>,
    /// ESP vanishes.
    pub(crate) esp_blocked: bool,
}

/// How long an overtaken frame is held back.
const HELD_BACK: Duration = Duration::from_millis(5);

/// The rules of all pairs. They may be changed while frames flow.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    default: PairRule,
    pairs: BTreeMap<(HostId, HostId), PairRule>,
    down: BTreeSet<HostId>,
}

impl Rules {
    /// The rule of one direction.
    pub(crate) fn pair(&mut self, from: HostId, to: HostId) -> &mut PairRule {
        self.pairs
            .entry((from, to))
            .or_insert_with(|| self.default.clone())
    }

    /// Changes both directions.
    pub(crate) fn both(&mut self, a: HostId, b: HostId, mut change: impl FnMut(&mut PairRule)) {
        change(self.pair(a, b));
        change(self.pair(b, a));
    }

    /// Changes every pair, those to come included.
    pub(crate) fn everywhere(&mut self, mut change: impl FnMut(&mut PairRule)) {
        change(&mut self.default);
        self.pairs.values_mut().for_each(change);
    }

    /// Takes all links of a host down, or up again.
    pub(crate) fn set_down(&mut self, host: HostId, down: bool) {
        if down {
            self.down.insert(host);
        } else {
            self.down.remove(&host);
        }
    }

    /// The delays after which copies of a frame arrive; none if it is dropped.
    pub(super) fn judge(
        &self,
        from: HostId,
        to: HostId,
        facts: &Facts,
        rng: &mut ChaCha8Rng,
    ) -> Vec<Duration> {
        let rule = self.pairs.get(&(from, to)).unwrap_or(&self.default);
        if self.down.contains(&from) || self.down.contains(&to) || rule.drops(facts, rng) {
            return Vec::new();
        }
        let copies = 1 + usize::from(chance(rule.duplicate, rng));
        (0..copies).map(|_| rule.travel(rng)).collect()
    }
}

impl PairRule {
    fn drops(&self, facts: &Facts, rng: &mut ChaCha8Rng) -> bool {
        let longer = |limit: Option<usize>| limit.is_some_and(|bytes| facts.packet > bytes);
        self.cut
            || longer(self.mtu)
            || facts.udp && longer(self.udp_mtu)
            || facts.esp && self.esp_blocked
            || facts
                .port
                .is_some_and(|port| self.udp_blocked.contains(&port))
            || chance(self.loss, rng)
    }

    fn travel(&self, rng: &mut ChaCha8Rng) -> Duration {
        let late = chance(self.reorder, rng);
        let held = if late { HELD_BACK } else { Duration::ZERO };
        let jitter = if self.jitter.is_zero() {
            Duration::ZERO
        } else {
            self.jitter.mul_f64(rng.random())
        };
        self.delay + held + jitter
    }
}

// Rolls no dice for what cannot happen, so a rule more does not shift the others.
fn chance(of: f64, rng: &mut ChaCha8Rng) -> bool {
    of > 0.0 && rng.random_bool(of.min(1.0))
}

#[test]
fn each_rule_drops_what_it_says() {
    use rand::SeedableRng;
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let (a, b) = (HostId(0), HostId(1));
    let big_udp = Facts {
        packet: 1400,
        udp: true,
        esp: false,
        port: Some(6784),
    };
    let passes = |change: &dyn Fn(&mut Rules)| {
        let mut rules = Rules::default();
        change(&mut rules);
        rules
            .judge(a, b, &big_udp, &mut ChaCha8Rng::seed_from_u64(1))
            .len()
    };
    assert_eq!(passes(&|_| ()), 1);
    assert_eq!(passes(&|r| r.pair(a, b).cut = true), 0);
    assert_eq!(passes(&|r| r.pair(b, a).cut = true), 1);
    assert_eq!(passes(&|r| r.everywhere(|p| p.cut = true)), 0);
    assert_eq!(passes(&|r| r.pair(a, b).mtu = Some(1399)), 0);
    assert_eq!(passes(&|r| r.pair(a, b).mtu = Some(1400)), 1);
    assert_eq!(passes(&|r| r.pair(a, b).udp_mtu = Some(700)), 0);
    assert_eq!(passes(&|r| r.pair(a, b).udp_blocked = [6784].into()), 0);
    assert_eq!(passes(&|r| r.pair(a, b).esp_blocked = true), 1);
    assert_eq!(passes(&|r| r.set_down(b, true)), 0);
    assert_eq!(passes(&|r| r.pair(a, b).duplicate = 1.0), 2);
    let mut rules = Rules::default();
    rules.pair(a, b).loss = 0.5;
    let passed: usize = (0..1000)
        .map(|_| rules.judge(a, b, &big_udp, &mut rng).len())
        .sum();
    assert!((400..600).contains(&passed), "{passed}");
}
