//! Where the data path writes to, and what it tells the control thread.

use std::net::IpAddr;

use proto::{Endpoint, MacAddr, PeerId, datagram::SessionIndex};

use super::layers::{self, Layers};

/// Effects of handling one frame or datagram. The shell backs it with batches
/// that are flushed after each read; a simulation with plain vectors.
pub trait Output {
    /// Appends a datagram of `len` zero bytes for `to`; if `fill` returns
    /// false the datagram is taken back.
    fn datagram(&mut self, to: Endpoint, len: usize, fill: impl FnOnce(&mut [u8]) -> bool);

    /// Delivers a frame to the local bridge.
    fn frame(&mut self, frame: &[u8]);

    /// Delivers a frame to the local bridge whose TCP or UDP checksum is left;
    /// `layers` are the frame's. By default it is completed.
    fn unsummed_frame(&mut self, frame: &[u8], layers: &Layers) {
        let mut frame = frame.to_vec();
        layers::complete(
            &mut frame[..layers.end],
            layers.transport,
            layers.checksum(),
        );
        self.frame(&frame);
    }

    /// Tells the control thread. May be lost under overload; nothing that
    /// cannot be repeated goes this way.
    fn upcall(&mut self, upcall: Upcall);
}

/// Keeps all effects, for who looks at them: simulations and tests.
#[derive(Debug, Default)]
pub struct Effects {
    /// Datagrams, each with where it is to go.
    pub datagrams: Vec<(Endpoint, Vec<u8>)>,
    /// Frames for the bridge, their checksums complete.
    pub frames: Vec<Vec<u8>>,
    /// What the control thread is told.
    pub upcalls: Vec<Upcall>,
}

impl Output for Effects {
    fn datagram(&mut self, to: Endpoint, len: usize, fill: impl FnOnce(&mut [u8]) -> bool) {
        let mut datagram = vec![0; len];
        if fill(&mut datagram) {
            self.datagrams.push((to, datagram));
        }
    }

    fn frame(&mut self, frame: &[u8]) {
        self.frames.push(frame.to_vec());
    }

    fn upcall(&mut self, upcall: Upcall) {
        self.upcalls.push(upcall);
    }
}

/// Where a datagram came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Straight from an address.
    Direct(Endpoint),
    /// Through relays, from a peer.
    Relayed(PeerId),
    /// Through the kernel's VXLAN, with the identifier of this index.
    Tunnel(u32),
}

/// What the data path leaves to the control thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upcall {
    /// A handshake, cookie or reject datagram.
    Handshake {
        /// The datagram.
        datagram: Vec<u8>,
        /// Whether it begins a handshake. All others belong to one that is under way,
        /// or are dismissed at next to no cost.
        begins: bool,
        /// Where it came from.
        origin: Origin,
    },
    /// A control message, opened.
    Control {
        /// Who sealed it.
        peer: PeerId,
        /// With which session (our index).
        session: SessionIndex,
        /// The encoded message.
        message: Vec<u8>,
        /// Where it came from.
        origin: Origin,
    },
    /// A transport datagram for a session this peer does not have.
    UnknownSession {
        /// Its index.
        receiver: SessionIndex,
        /// Its counter.
        counter: u64,
        /// Where it came from.
        from: Endpoint,
    },
    /// A peer was heard from an address that is not its path.
    Moved {
        /// The peer.
        peer: PeerId,
        /// The address.
        from: Endpoint,
    },
    /// A local container was seen.
    Station {
        /// Its MAC address.
        mac: MacAddr,
        /// IP addresses it showed.
        ips: Vec<IpAddr>,
    },
    /// A frame for a peer with which there is no session yet.
    Pending {
        /// The peer.
        peer: PeerId,
        /// The frame.
        frame: Vec<u8>,
    },
    /// A station elsewhere showed an address that the snapshot gives to
    /// another: its announcement outran gossip.
    Doubt {
        /// The address.
        ip: IpAddr,
    },
    /// A broadcast of a source whose tree is not in the snapshot.
    TreeWanted {
        /// The source.
        source: PeerId,
    },
}
