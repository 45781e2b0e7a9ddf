//! Which frames were sent, and where each arrived how often.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    time::Instant,
};

/// Whom a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// One host.
    Host(usize),
    /// All others.
    Everybody,
}

/// A frame that a container sent.
#[derive(Clone, Debug)]
pub struct Sent {
    pub from: usize,
    pub to: Audience,
    pub at: Instant,
    digest: u64,
    arrivals: BTreeMap<usize, Arrival>,
}

/// One or several arrivals of a frame at a host.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    pub first: Instant,
    pub count: u32,
}

/// All marked frames; a frame's mark is its number here.
#[derive(Default)]
pub struct Ledger {
    /// Arrivals at a third host: nobody knew where the receiver lives.
    pub strays: u64,
    sent: Vec<Sent>,
}

impl Ledger {
    /// The mark of the next frame.
    pub fn next(&self) -> u64 {
        self.sent.len() as u64
    }

    /// Enters a frame.
    pub fn sent(&mut self, from: usize, to: Audience, frame: &[u8], at: Instant) {
        let digest = digest(frame);
        let arrivals = BTreeMap::new();
        self.sent.push(Sent {
            from,
            to,
            at,
            digest,
            arrivals,
        });
    }

    /// Notes an arrival; an error if that frame must not arrive there.
    pub fn arrived(
        &mut self,
        id: u64,
        at_host: usize,
        frame: &[u8],
        now: Instant,
    ) -> Result<(), String> {
        let sent = usize::try_from(id)
            .ok()
            .and_then(|id| self.sent.get_mut(id))
            .ok_or("a frame arrived that was never sent")?;
        if sent.digest != digest(frame) {
            return Err(format!("frame {id} was changed on its way to {at_host}"));
        }
        if sent.from == at_host {
            return Err(format!("frame {id} came back to {at_host}"));
        }
        self.strays += u64::from(matches!(sent.to, Audience::Host(host) if host != at_host));
        let arrival = sent.arrivals.entry(at_host).or_insert(Arrival {
            first: now,
            count: 0,
        });
        arrival.count += 1;
        if arrival.count > 1 {
            return Err(format!("frame {id} came to {at_host} twice"));
        }
        Ok(())
    }

    /// Frames from number `first` on.
    pub fn since(&self, first: u64) -> impl Iterator<Item = (u64, &Sent)> {
        let start = usize::try_from(first).unwrap_or(usize::MAX);
        (first..).zip(self.sent.iter().skip(start))
    }
}

impl Sent {
    /// When the frame came to a host.
    pub fn arrival(&self, host: usize) -> Option<Instant> {
        self.arrivals.get(&host).map(|arrival| arrival.first)
    }
}

fn digest(frame: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    frame.hash(&mut hasher);
    hasher.finish()
}
