//! A world that is warm from the start, and the waiting until one is quiet.
//!
//! Ten thousand peers that boot through gossip cost minutes of wall time, so
//! most scenarios begin with a mesh that is up. What is warm about it: peers
//! have no targets; a random regular graph of sessions is open without any
//! handshake; for the first seconds nothing but heartbeats travels, while links
//! come up over those sessions; then every mesh is given all records, as signed,
//! and is handed, in a few rounds, what others have had to say since. The rest
//! happens as always: replicas are compared, routes calculated, neighbours sought
//! or pruned. The mesh is left alone until everybody reaches everybody and all
//! hold the same records, and for another 30 s.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use gossip::replica::Replica;
use proto::record::Record;
use rand::{
    Rng, RngCore,
    seq::{IndexedRandom, SliceRandom},
};

use super::{
    core_api::{own_records, push},
    host::Host,
    identity::id,
    net::Net,
    wan::Reach,
    world::World,
};

/// Records handed over in one message.
const CHUNK: usize = 32;
/// Links are up after this, unless many pings in a row are lost.
const LINKING: Duration = Duration::from_secs(3);
/// Rounds of handing out what changed meanwhile, and the time between: when
/// routes are known, some peers seek further neighbours. Ends when no more than
/// one in [`FEW`] peers has news; the rest spreads as always.
const ROUNDS: usize = 6;
const ROUND: Duration = Duration::from_millis(1500);
const FEW: usize = 50;
/// Peers that are handed something at once, and the pause before the next.
const BATCH: u32 = 1000;
const PAUSE: Duration = Duration::from_millis(300);
/// Draws of a partner for a peer that has too few links.
const DRAWS: usize = 200;
/// Those whom a peer knows at its launch, where nobody reaches all.
const TARGETS: usize = 3;
/// How often it is looked whether a world is quiet.
const LOOK: Duration = Duration::from_millis(200);
/// How long a fresh warm world is left alone.
const REST: Duration = Duration::from_secs(30);
/// A world that is not quiet by then never will be.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

/// Why a world is not quiet.
pub(crate) type Unrest = String;

/// Sessions between pairs, one for each.
#[derive(Default)]
struct Edges {
    all: Vec<(u32, u32)>,
    /// The lesser end first.
    pairs: BTreeSet<(u32, u32)>,
}

impl Edges {
    /// Adds one that `dialler` began, unless there is one.
    fn add(&mut self, dialler: u32, other: u32) -> bool {
        let is_new = self.pairs.insert((dialler.min(other), dialler.max(other)));
        if is_new {
            self.all.push((dialler, other));
        }
        is_new
    }
}

impl Host {
    /// Hands the mesh some records, by one of its neighbours.
    fn hand(&mut self, records: &[Arc<Record>], net: &mut Net<'_>) {
        let Some(neighbour) = self.sessions.iter().next().map(|session| session.peer) else {
            return;
        };
        for records in records.chunks(CHUNK) {
            if let Some(mesh) = &mut self.mesh {
                mesh.handle_message(id(neighbour), push(records.to_vec()), net.instant());
            }
            self.drain(net);
        }
    }
}

impl World {
    /// Launches all peers into a mesh that is up. Says if it does not settle.
    pub(crate) fn warm(&mut self) -> Result<(), Unrest> {
        self.progress.phase("warm start");
        let (config, peers) = (self.config.clone(), self.setup.peers);
        self.each(|host, net| {
            if host.number < peers {
                host.launch(&config, &[], net);
            }
        });
        let edges = self.edges();
        for (count, (a, b)) in (1..).zip(&edges) {
            // Sessions are named as if the first end had begun, but in no range that handshakes use.
            let session = u64::from(*a) << 32 | 0xf000_0000 | count;
            for (here, there) in [(*a, *b), (*b, *a)] {
                let life = self.host(there).life;
                self.with(here, |host, net| host.open_warm(there, life, session, net));
            }
        }
        self.shared.quiet = true;
        self.run_for(LINKING);
        let mut told = self.preload();
        for _ in 0..ROUNDS {
            self.run_for(ROUND);
            if self.hand_out(&mut told) <= peers as usize / FEW {
                break;
            }
        }
        self.shared.quiet = false;
        self.settle(PATIENCE)?;
        self.run_for(REST);
        Ok(())
    }

    /// Launches all peers as people do: each knows the first host of its group,
    /// and those know the very first. Where nobody reaches all of the others,
    /// each knows a few that it reaches.
    pub(crate) fn launch_all(&mut self, groups: u32) -> Result<(), Unrest> {
        self.progress.phase("launch");
        let groups = groups.max(1);
        for number in 0..self.setup.peers {
            let seed = if number < groups { 0 } else { number % groups };
            let targets = match self.setup.reach {
                Reach::Groups { .. } => self.some_connected(number),
                Reach::All | Reach::Bridged { .. } if number == 0 => Vec::new(),
                Reach::All | Reach::Bridged { .. } => vec![seed],
            };
            self.launch(number, &targets);
        }
        self.settle(PATIENCE)?;
        self.run_for(REST * 2);
        Ok(())
    }

    fn some_connected(&mut self, number: u32) -> Vec<u32> {
        let connects = |other: &u32| *other != number && self.shared.wan.connects(number, *other);
        let connected: Vec<u32> = (0..self.setup.peers).filter(connects).collect();
        let some = connected.choose_multiple(&mut self.rng, TARGETS);
        some.copied().collect()
    }

    /// Gives every mesh what all say of themselves now. Returns that, by peer.
    fn preload(&mut self) -> Vec<Vec<Arc<Record>>> {
        let own = self.statements();
        let mut stock = Replica::new(self.config.owner_limit, self.rng.next_u64());
        for record in own.iter().flatten() {
            stock.merge(record, |_, _| true);
        }
        self.each(|host, net| {
            if let Some(mesh) = &mut host.mesh {
                mesh.preload(&stock, net.instant());
            }
            host.drain(net);
        });
        own
    }

    /// What those who run say of themselves now.
    fn statements(&self) -> Vec<Vec<Arc<Record>>> {
        let running = self.running().into_iter();
        running
            .map(|number| own_records(self.host(number)))
            .collect()
    }

    /// Hands every mesh what everybody says of itself now and was not handed
    /// out before. Says how much that was.
    fn hand_out(&mut self, told: &mut Vec<Vec<Arc<Record>>>) -> usize {
        let own = self.statements();
        let is_news = |told: &[Arc<Record>], record: &Arc<Record>| {
            told.iter().all(|known| !Arc::ptr_eq(known, record))
        };
        let news = own.iter().zip(&*told).flat_map(|(own, told)| {
            own.iter()
                .filter(move |record| is_news(told, record))
                .cloned()
        });
        let all: Vec<_> = news.collect();
        *told = own;
        // What follows from the records takes much memory until routes are
        // calculated, a moment later: not for all peers at once.
        let batches = self.setup.peers.div_ceil(BATCH);
        for batch in 0..batches {
            self.each(|host, net| {
                if host.number % batches == batch {
                    host.hand(&all, net);
                }
            });
            self.run_for(PAUSE);
        }
        all.len()
    }

    /// A random graph in which every peer has the links that the mesh seeks:
    /// everybody in a small mesh, else the union of random rings, on which everybody
    /// dialled the next. Who dialled comes first.
    fn edges(&mut self) -> Vec<(u32, u32)> {
        let peers = self.setup.peers;
        let wan = &self.shared.wan;
        let connects = |a: u32, b: u32| a != b && wan.connects(a, b);
        let mut edges = Edges::default();
        if peers as usize <= self.config.full_mesh_up_to {
            let pairs = (0..peers).flat_map(|a| (0..a).map(move |b| (b, a)));
            pairs
                .filter(|(a, b)| connects(*a, *b))
                .for_each(|(a, b)| _ = edges.add(a, b));
            return edges.all;
        }
        let mut ring: Vec<u32> = (0..peers).collect();
        for _ in 0..self.config.degree_of(peers as usize).div_ceil(2) {
            ring.shuffle(&mut self.rng);
            let pairs = ring.iter().zip(ring.iter().cycle().skip(1));
            pairs
                .filter(|(a, b)| connects(**a, **b))
                .for_each(|(a, b)| _ = edges.add(*a, *b));
        }
        self.complete(&mut edges);
        edges.all
    }

    /// Adds links of peers that have too few, because not all of their neighbours
    /// on the rings can be reached.
    fn complete(&mut self, edges: &mut Edges) {
        let peers = self.setup.peers;
        let wanted = self.config.degree_of(peers as usize);
        let mut counts = vec![0; peers as usize];
        for (a, b) in &edges.all {
            counts[*a as usize] += 1;
            counts[*b as usize] += 1;
        }
        for a in 0..peers {
            for _ in 0..DRAWS {
                let b = self.rng.random_range(0..peers);
                if counts[a as usize] >= wanted {
                    break;
                }
                let suits = a != b && counts[b as usize] < wanted;
                if suits && self.shared.wan.connects(a, b) && edges.add(a, b) {
                    counts[a as usize] += 1;
                    counts[b as usize] += 1;
                }
            }
        }
    }

    /// Waits until everybody reaches everybody and all hold the same records.
    pub(crate) fn settle(&mut self, limit: Duration) -> Result<(), Unrest> {
        let running = self.running();
        let mut unrest = None;
        let mut suspect = 0;
        let settled = self.run_until(limit, LOOK, |world| {
            unrest = world.unrest(&running, &mut suspect);
            unrest.is_none()
        });
        match settled {
            Some(_) => Ok(()),
            None => Err(unrest.unwrap_or_default()),
        }
    }

    /// Some of those whom a peer does not reach, for people.
    fn missed(&self, peer: u32, running: &[u32]) -> String {
        const NAMED: usize = 4;
        let reaches = |other: &u32| {
            let view = self.view(peer);
            view.is_some_and(|view| view.reaches(*other))
        };
        let missed = running.iter().filter(|other| !reaches(other));
        let named = missed.take(NAMED).map(|other| {
            let (launched, links) = (self.host(*other).launched_at, self.links(*other));
            format!(
                "{other} ({links} links, launched at {:.0} s)",
                launched.seconds()
            )
        });
        named.collect::<Vec<_>>().join(", ")
    }

    /// Why the world is not quiet, if it is not. Looks at the last culprit first.
    fn unrest(&self, running: &[u32], suspect: &mut usize) -> Option<Unrest> {
        let first = self.view(*running.first()?)?.fingerprint();
        let expected = running.len() - 1;
        for turn in 0..running.len() {
            let at = (*suspect + turn) % running.len();
            let view = self.view(running[at])?;
            let reached = view.reachable_count();
            let text = if reached > expected {
                let gone = view.reached().into_iter();
                let gone: Vec<u32> = gone
                    .filter(|other| running.binary_search(other).is_err())
                    .collect();
                let peer = running[at];
                format!("peer {peer} reaches {reached} of {expected}, still {gone:?}, who are gone")
            } else if reached < expected {
                let missed = self.missed(running[at], running);
                format!(
                    "peer {} reaches {reached} of {expected}, not {missed}",
                    running[at]
                )
            } else if view.fingerprint() != first {
                format!(
                    "peers {} and {} hold different records",
                    running[0], running[at]
                )
            } else {
                continue;
            };
            *suspect = at;
            return Some(text);
        }
        None
    }
}
