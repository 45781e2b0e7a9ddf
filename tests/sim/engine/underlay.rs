//! The network between hosts: what [`Netem`] does, and what a datagram's size
//! and content make of it. Knows hosts by number, and nothing of peers.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::netem::Netem;

/// What a rule does with a datagram.
pub enum Fate {
    /// It goes on.
    Pass,
    /// It is lost.
    Drop,
    /// These arrive in its place, from the same address.
    Become(Vec<Vec<u8>>),
}

/// A datagram that is about to leave.
pub struct Leaving<'a> {
    pub from: usize,
    pub to: usize,
    /// Whether TCP carries it.
    pub tcp: bool,
    pub datagram: &'a [u8],
}

/// Decides about each datagram.
pub type Rule = Box<dyn FnMut(&Leaving<'_>) -> Fate>;

/// The network.
pub struct Underlay {
    pub netem: Netem,
    /// Share of datagrams that arrive twice.
    pub duplicates: f64,
    pub rule: Option<Rule>,
    /// Largest UDP payload that passes from one host to another, in bytes.
    /// Larger ones vanish without a word.
    holes: BTreeMap<(usize, usize), usize>,
    hosts: BTreeMap<SocketAddr, usize>,
}

impl Underlay {
    pub fn new() -> Self {
        let mut netem = Netem::new();
        netem.latency = (Duration::from_millis(2), Duration::from_millis(20));
        let (holes, hosts) = Default::default();
        Self {
            netem,
            duplicates: 0.0,
            rule: None,
            holes,
            hosts,
        }
    }

    /// Gives an address to a host; what it had before leads nowhere.
    pub fn settle(&mut self, host: usize, address: SocketAddr) {
        self.hosts.retain(|_, other| *other != host);
        self.hosts.insert(address, host);
    }

    /// The host at an address.
    pub fn host_at(&self, address: SocketAddr) -> Option<usize> {
        self.hosts.get(&address).copied()
    }

    /// Limits the payload that passes between two hosts, in both directions.
    pub fn limit(&mut self, a: usize, b: usize, payload: usize) {
        self.holes.insert((a, b), payload);
        self.holes.insert((b, a), payload);
    }

    /// What arrives of a datagram, and after how long.
    pub fn carry(
        &mut self,
        rng: &mut ChaCha8Rng,
        (from, to): (usize, usize),
        datagram: Vec<u8>,
    ) -> Vec<(Duration, Vec<u8>)> {
        let hole = self.holes.get(&(from, to));
        if hole.is_some_and(|limit| datagram.len() > *limit) || !self.netem.passes(from, to) {
            return Vec::new();
        }
        let mut datagrams = match self.judge(from, to, false, &datagram) {
            Fate::Pass => vec![datagram],
            Fate::Drop => Vec::new(),
            Fate::Become(others) => others,
        };
        if self.duplicates > 0.0 && rng.random_bool(self.duplicates) {
            datagrams.extend(datagrams.first().cloned());
        }
        let arriving = datagrams
            .into_iter()
            .filter_map(|bytes| Some((self.netem.carry(rng, from, to)?, bytes)));
        arriving.collect()
    }

    /// The same by TCP: all of it arrives, and in order.
    pub fn carry_stream(&mut self, (from, to): (usize, usize), datagram: &[u8]) -> Vec<Vec<u8>> {
        if !self.netem.passes(from, to) {
            return Vec::new();
        }
        match self.judge(from, to, true, datagram) {
            Fate::Pass => vec![datagram.to_vec()],
            Fate::Drop => Vec::new(),
            Fate::Become(others) => others,
        }
    }

    fn judge(&mut self, from: usize, to: usize, tcp: bool, datagram: &[u8]) -> Fate {
        let leaving = Leaving {
            from,
            to,
            tcp,
            datagram,
        };
        self.rule.as_mut().map_or(Fate::Pass, |rule| rule(&leaving))
    }
}
