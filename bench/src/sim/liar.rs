//! A peer that lies: it runs the mesh like everybody, but what it says is
//! distorted on the way out. By turns it passes nothing on, claims links to
//! everybody, forges the records of others, and floods its neighbours. It
//! answers pings all the time, so nobody has cause to drop it for silence.

use std::{sync::Arc, time::Duration};

use proto::{message::GossipMessage, record::Record};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{
    core_api::{false_links, forged, map_records, nonsense, push},
    host::Host,
    net::Net,
    queue::What,
    time::Time,
};

/// How long each way of lying lasts.
const TURN: Duration = Duration::from_secs(10);
/// How often lies are told that nobody asked for.
const TICK: Duration = Duration::from_millis(100);
/// Claims of links to everybody per second, at most.
const CLAIM_EVERY: u64 = 10;
/// Messages to each neighbour per tick while flooding: 300 a second.
const FLOOD: usize = 30;
/// Records of others kept to be forged.
const KEPT: usize = 64;

/// What a liar remembers.
pub(crate) struct Liar {
    members: u32,
    /// Where in the turns it began; each begins elsewhere.
    offset: u32,
    ticks: u64,
    /// What it heard, to forge it.
    kept: Vec<Arc<Record>>,
    rng: ChaCha8Rng,
}

/// A way of lying.
#[derive(Clone, Copy, PartialEq)]
enum Lie {
    Withhold,
    Claim,
    Forge,
    Flood,
}

impl Liar {
    /// A liar in a mesh of so many.
    pub(crate) fn new(members: u32) -> Self {
        Self {
            members,
            offset: 0,
            ticks: 0,
            kept: Vec::new(),
            rng: ChaCha8Rng::seed_from_u64(0),
        }
    }

    fn lie(&self, now: Time) -> Lie {
        let turn = now.0 / TURN.as_nanos() as u64 + u64::from(self.offset);
        [Lie::Withhold, Lie::Claim, Lie::Forge, Lie::Flood][turn as usize % 4]
    }

    /// What is sent instead of a message, if anything is.
    pub(crate) fn distort(
        &mut self,
        ours: u32,
        message: GossipMessage,
        now: Time,
    ) -> Option<GossipMessage> {
        let lie = self.lie(now);
        map_records(message, ours, |record| match lie {
            Lie::Withhold => None,
            Lie::Claim | Lie::Flood => Some(record),
            Lie::Forge => {
                if self.kept.len() < KEPT {
                    self.kept.push(Arc::clone(&record));
                }
                Some(Arc::new(forged(&record, ours, self.rng.random())))
            }
        })
    }
}

impl Host {
    /// From now on this peer lies.
    pub(crate) fn begin_to_lie(&mut self, mut liar: Liar, net: &mut Net<'_>) {
        liar.offset = self.number;
        liar.rng = ChaCha8Rng::seed_from_u64(self.rng.random());
        self.liar = Some(Box::new(liar));
        self.schedule(net.now + TICK, What::Lie, net);
    }

    /// Tells lies that nobody asked for.
    pub(crate) fn lie(&mut self, net: &mut Net<'_>) {
        let Some(mut liar) = self.liar.take() else {
            return;
        };
        liar.ticks += 1;
        for (to, message) in self.lies(&mut liar, net.now) {
            self.say(to, message, net);
        }
        self.liar = Some(liar);
        self.schedule(net.now + TICK, What::Lie, net);
    }

    fn lies(&self, liar: &mut Liar, now: Time) -> Vec<(u32, GossipMessage)> {
        let neighbours: Vec<u32> = self.sessions.linked().collect();
        let Some(mesh) = &self.mesh else {
            return Vec::new();
        };
        match liar.lie(now) {
            Lie::Claim if liar.ticks.is_multiple_of(CLAIM_EVERY) => {
                let (members, ticks) = (liar.members, liar.ticks);
                let claims = false_links(self.number, mesh.epoch(), ticks, members, &mut liar.rng);
                let all = claims.iter().map(|claim| push(vec![Arc::clone(claim)]));
                let all: Vec<GossipMessage> = all.collect();
                let to_all = |message: GossipMessage| {
                    neighbours.iter().map(move |to| (*to, message.clone()))
                };
                all.into_iter().flat_map(to_all).collect()
            }
            Lie::Flood => {
                let mut flood = Vec::new();
                for to in neighbours {
                    for _ in 0..FLOOD {
                        flood.push((
                            to,
                            nonsense(self.number, &liar.kept, liar.members, &mut liar.rng),
                        ));
                    }
                }
                flood
            }
            Lie::Withhold | Lie::Claim | Lie::Forge => Vec::new(),
        }
    }
}
