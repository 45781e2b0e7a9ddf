//! What an operator can see: one serialisable value behind the text tables,
//! the JSON and the metrics.

use std::net::{IpAddr, SocketAddr};

use proto::{MacAddr, PeerId};
use serde::{Deserialize, Serialize};

use super::text;

/// The whole state of a peer, as `wove status -o json` prints it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The version of wove.
    pub version: String,
    /// This peer.
    pub router: RouterStatus,
    /// Every peer with which this one has a session or tries to.
    pub connections: Vec<ConnectionStatus>,
    /// The addresses the dialer keeps trying.
    pub targets: Vec<TargetStatus>,
    /// Every peer it knows of, itself included.
    pub peers: Vec<PeerStatus>,
    /// MAC addresses known in the mesh.
    pub stations: Vec<StationStatus>,
    /// The address space; none if this peer takes no part in it.
    #[serde(default)]
    pub ipam: Option<IpamStatus>,
    /// What wants a person's attention, newest last: `{what}: {why}; {what to do}`.
    pub warnings: Vec<String>,
    /// Counters of this peer.
    pub counters: CounterStatus,
    /// Names; a daemon of an older version does not say.
    #[serde(default)]
    pub dns: DnsStatus,
}

/// Names, and who answers for them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsStatus {
    /// Whether this peer answers, and tells names of its own.
    pub enabled: bool,
    /// The domain.
    pub domain: String,
    /// Where this host is answered; containers are in their own namespace.
    pub listen: Option<SocketAddr>,
    /// Attached containers in which names are answered.
    pub inside: usize,
    /// Servers that are asked for everything else.
    pub upstream: Vec<SocketAddr>,
    /// Names of everybody who can be reached, with the domain.
    pub names: Vec<NameStatus>,
    /// What was asked.
    pub counters: DnsCounters,
}

/// One address of a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameStatus {
    /// The name.
    pub name: String,
    /// One of its addresses.
    pub address: IpAddr,
    /// Who says so.
    #[serde(with = "text")]
    pub peer: PeerId,
}

/// Queries since launch, by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsCounters {
    /// Answered from the mesh.
    pub answered: u64,
    /// Denied: there is no such name.
    pub unknown: u64,
    /// Answered by another server.
    pub forwarded: u64,
    /// Answered with an error.
    pub failed: u64,
    /// Not answered: not allowed to ask, no query, or too many at once.
    pub refused: u64,
}

/// This peer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RouterStatus {
    /// Its id.
    #[serde(with = "text")]
    pub peer: PeerId,
    /// Its label.
    pub nickname: String,
    /// UDP port.
    pub port: u16,
    /// Whether frames are encrypted.
    pub encryption: bool,
    /// Seconds since launch.
    pub uptime_s: f64,
    /// Whether it carries frames.
    pub ready: bool,
    /// MTU of the overlay, in bytes.
    pub mtu: u32,
    /// Name of the bridge.
    pub bridge: String,
}

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConnectionState {
    /// A session with a proven path.
    Established,
    /// A session whose path is not proven yet.
    Pending,
    /// A handshake is under way.
    Connecting,
    /// It failed and will be tried again.
    Retrying,
    /// It was refused; trying again needs a change.
    Failed,
}

/// How frames reach a peer now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PathKind {
    /// Kernel VXLAN.
    Fastdp,
    /// Sealed datagrams, directly.
    Sleeve,
    /// Sealed end to end, through other peers.
    Relay,
    /// Sealed datagrams over TCP.
    Tcp,
}

/// One connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConnectionStatus {
    /// The other peer; all zero while it is not known.
    #[serde(with = "text")]
    pub peer: PeerId,
    /// Its label; empty while it is not known.
    pub nickname: String,
    /// `ip:port`, or the next hop's id for a relayed path.
    pub address: String,
    /// Whether this peer opened it.
    pub outbound: bool,
    /// How far it has come.
    pub state: ConnectionState,
    /// How frames travel.
    pub path: PathKind,
    /// Why not a better path, or why this state.
    pub reason: String,
    /// `AES-256-GCM`, `ChaCha20-Poly1305` or `none`.
    pub cipher: String,
    /// Proven path MTU: the largest IP packet that fits, in bytes.
    pub mtu: u32,
    /// Round-trip time in microseconds; 0 while unknown.
    pub rtt_us: u64,
    /// Bytes of frames received.
    pub rx_bytes: u64,
    /// Bytes of frames sent.
    pub tx_bytes: u64,
    /// Frames received.
    pub rx_frames: u64,
    /// Frames sent.
    pub tx_frames: u64,
    /// What of all that the kernel carried; a daemon of an older version does not say.
    #[serde(default)]
    pub fastdp: KernelTraffic,
    /// Seconds since the keys were agreed.
    pub key_age_s: u64,
    /// Whether this peer is a neighbour (a link that carries gossip).
    pub link: bool,
}

/// Frames that went by the fast path, super-frames counted as on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelTraffic {
    /// Bytes of frames received.
    pub rx_bytes: u64,
    /// Bytes of frames sent.
    pub tx_bytes: u64,
    /// Frames received.
    pub rx_frames: u64,
    /// Frames sent.
    pub tx_frames: u64,
}

/// How a target is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TargetState {
    /// A link with the peer behind it is up.
    Connected,
    /// A handshake is under way.
    Connecting,
    /// It will be tried again.
    Waiting,
    /// It was refused.
    Failed,
}

/// One target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TargetStatus {
    /// As the operator wrote it, with the port.
    pub address: String,
    /// How it is doing.
    pub state: TargetState,
    /// The last error, or empty.
    pub reason: String,
    /// Seconds until it is tried again; 0 when connected.
    pub retry_in_s: f64,
}

/// One known peer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its id.
    #[serde(with = "text")]
    pub peer: PeerId,
    /// Its label.
    pub nickname: String,
    /// Whether a route exists.
    pub reachable: bool,
    /// Links on the route; 0 for this peer itself.
    pub hops: u32,
    /// The first peer on the route; its own id for a neighbour.
    #[serde(with = "text")]
    pub next_hop: PeerId,
    /// Its neighbours, by its own word.
    #[serde(with = "text::list")]
    pub links: Vec<PeerId>,
    /// The version of wove it runs.
    pub version: String,
}

/// One station.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StationStatus {
    /// The MAC address.
    #[serde(with = "text")]
    pub mac: MacAddr,
    /// The peer it lives behind.
    #[serde(with = "text")]
    pub peer: PeerId,
    /// Its IP addresses.
    pub ips: Vec<IpAddr>,
}

/// The address space.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpamStatus {
    /// What it waits for, or `ready`.
    pub state: String,
    /// The range.
    pub range: String,
    /// The IPv6 range beside it.
    pub range6: Option<String>,
    /// Names the first division; none before it.
    pub ring: Option<String>,
    /// Addresses in the range.
    pub total: u32,
    /// Addresses in use on this host.
    pub used: u32,
    /// How many wait for an address here.
    pub waiting: usize,
    /// Addresses whose owner this peer has not heard of.
    pub unknown: u32,
    /// Addresses in use on this host that belong to other peers.
    pub claims: Vec<IpAddr>,
    /// Which peers allocate otherwise than this one, and what to do about it.
    pub conflicts: Vec<String>,
    /// The peers that keep in mind what this one owns.
    pub guards: Vec<String>,
    /// Who owns how much.
    pub owners: Vec<OwnerStatus>,
}

/// What one peer has of the address space.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnerStatus {
    /// The start of its id.
    pub peer: String,
    /// Its label; empty if it is not known.
    pub nickname: String,
    /// Addresses that it owns.
    pub owned: u32,
    /// Of these, what it may use without asking, and keeps when it is silent.
    pub held: u32,
    /// Whether it can be reached.
    pub reachable: bool,
    /// Whether it is the peer that was asked.
    pub local: bool,
}

/// Counters since launch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterStatus {
    /// Frames and datagrams dropped, by reason; reasons that never occurred may be absent.
    pub drops: std::collections::BTreeMap<String, u64>,
    /// Bytes of control datagrams received.
    pub control_rx_bytes: u64,
    /// Bytes of control datagrams sent.
    pub control_tx_bytes: u64,
    /// Sessions held.
    pub sessions: u64,
    /// Handshakes completed.
    pub handshakes: u64,
    /// Records in the replica.
    pub records: u64,
    /// Resident memory in bytes; filled in by the shell.
    pub resident_bytes: u64,
}
