//! What is said to the kernel's XFRM and what it says, as values and as bytes
//! (`include/uapi/linux/xfrm.h`). Pure: no socket.
//!
//! Every security association and every policy of ours bears [`STAMP`], so that
//! they are found again after a crash and no others are touched.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use zeroize::Zeroizing;

use super::super::netlink::wire::{Message, Request, attributes, u16_at, u32_at, u64_at};
use crate::engine::esp::{Direction, EspKey};

/// The `reqid` of all that is ours: "wove". Other programs count up from 1.
pub(super) const STAMP: u32 = 0x776f_7665;
/// Priority of our policies, ahead of what other programs use.
const PRIORITY: u32 = 0x776f;
/// How far packets may overtake each other, in packets.
const REPLAY_WINDOW: u32 = 1024;
/// Packets under one key: as for sessions.
const MOST_PACKETS: u64 = crypto::rekey::REJECT_AFTER_MESSAGES;
/// Seconds after which the kernel forgets a key by itself, when nobody is left
/// to do it: a minute more than a session lives.
const MOST_SECONDS: u64 = crypto::rekey::REJECT_AFTER_TIME.as_secs() + 60;

pub(super) const NEWSA: u16 = 0x10;
const DELSA: u16 = 0x11;
const GETSA: u16 = 0x12;
pub(super) const NEWPOLICY: u16 = 0x13;
const DELPOLICY: u16 = 0x14;
const GETPOLICY: u16 = 0x15;
const UPDPOLICY: u16 = 0x19;

const ALG_AEAD: u16 = 18;
const TMPL: u16 = 5;
const SRCADDR: u16 = 13;
const REPLAY_ESN: u16 = 23;

const ESP: u8 = 50;
const UDP: u8 = 17;
const TRANSPORT: u8 = 0;
/// `XFRM_STATE_ESN`.
const WITH_ESN: u8 = 128;
const ANY_ALGORITHM: u32 = u32::MAX;
const UNLIMITED: u64 = u64::MAX;
const ALGORITHM: &[u8] = b"rfc4106(gcm(aes))";
const ALGORITHM_NAME: usize = 64;
const ICV_BITS: u32 = 128;

const ACK: u16 = libc::NLM_F_ACK as u16;
const DUMP: u16 = libc::NLM_F_DUMP as u16;

/// Bytes of `struct xfrm_usersa_info` and `xfrm_userpolicy_info`.
const SA_INFO: usize = 224;
const POLICY_INFO: usize = 168;

/// By what the kernel knows a security association.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SaId {
    /// Where the packets come from.
    pub source: IpAddr,
    /// Where they go.
    pub destination: IpAddr,
    /// The index that the receiver chose.
    pub spi: u32,
}

/// A security association: ESP in transport mode, for UDP to one port.
#[derive(Debug)]
pub struct Sa {
    /// By what it is known.
    pub id: SaId,
    /// The UDP port of VXLAN.
    pub port: u16,
    /// What it encrypts with.
    pub key: EspKey,
}

/// A security association of ours that the kernel has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FoundSa {
    /// By what it is known.
    pub id: SaId,
    /// Packets it has carried.
    pub packets: u64,
}

/// What a policy applies to: UDP to `port`, to or from a peer, whatever the
/// local address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Traffic {
    /// From here, or to here.
    pub direction: Direction,
    /// The peer's address.
    pub peer: IpAddr,
    /// The UDP port of VXLAN.
    pub port: u16,
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// It is dropped.
    Block,
    /// It goes, or must have come, through ESP under a key of ours, by that
    /// security association if one is named; else it is dropped.
    Protect {
        /// The one to use.
        spi: Option<u32>,
    },
}

/// A policy of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Policy {
    /// What it applies to.
    pub traffic: Traffic,
    /// What becomes of it.
    pub rule: Rule,
}

/// Puts a security association into the kernel.
pub(super) fn add_sa(sa: &Sa, sequence: u32) -> Zeroizing<Vec<u8>> {
    let id = &sa.id;
    let mut request = Request::new(NEWSA, ACK | libc::NLM_F_CREATE as u16, sequence);
    // The association's own selector: under its key nothing but VXLAN between
    // these two passes, so a member cannot speak with another's address.
    selector(&mut request, Some(id.source), Some(id.destination), sa.port);
    address(&mut request, Some(id.destination));
    request.bytes(&id.spi.to_be_bytes());
    request.u8(ESP);
    request.zeros(3);
    address(&mut request, Some(id.source));
    limits(&mut request, MOST_PACKETS, MOST_SECONDS);
    request.zeros(32 + 12); // current lifetime, statistics
    request.u32(0); // sequence number of a key manager
    request.u32(STAMP);
    request.u16(family(id.destination));
    request.u8(TRANSPORT);
    request.u8(0); // the window is in an attribute of its own
    request.u8(WITH_ESN);
    request.zeros(7);
    request.attribute(ALG_AEAD, |request| {
        let key = sa.key.as_bytes();
        request.bytes(ALGORITHM);
        request.zeros(ALGORITHM_NAME - ALGORITHM.len());
        request.u32(u32::try_from(key.len() * 8).expect("a key is short"));
        request.u32(ICV_BITS);
        request.bytes(key);
    });
    request.attribute(REPLAY_ESN, |request| {
        request.u32(REPLAY_WINDOW / 32); // words of the bitmap
        request.zeros(16); // sequence numbers
        request.u32(REPLAY_WINDOW);
    });
    request.finish()
}

/// Takes a security association from the kernel.
pub(super) fn delete_sa(id: &SaId, sequence: u32) -> Zeroizing<Vec<u8>> {
    let mut request = Request::new(DELSA, ACK, sequence);
    address(&mut request, Some(id.destination));
    request.bytes(&id.spi.to_be_bytes());
    request.u16(family(id.destination));
    request.u8(ESP);
    request.u8(0);
    request.attribute(SRCADDR, |request| address(request, Some(id.source)));
    request.finish()
}

/// Asks for all security associations.
pub(super) fn list_sas(sequence: u32) -> Zeroizing<Vec<u8>> {
    Request::new(GETSA, DUMP, sequence).finish()
}

/// Puts a policy into the kernel: a new one, or in the place of the one that
/// applies to the same, without a moment between them.
pub(super) fn set_policy(policy: &Policy, replace: bool, sequence: u32) -> Zeroizing<Vec<u8>> {
    let kind = if replace { UPDPOLICY } else { NEWPOLICY };
    let traffic = &policy.traffic;
    let mut request = Request::new(kind, ACK | libc::NLM_F_CREATE as u16, sequence);
    traffic_selector(&mut request, traffic);
    limits(&mut request, UNLIMITED, 0);
    request.zeros(32); // current lifetime
    request.u32(PRIORITY);
    request.u32(0); // index: the kernel's choice
    request.u8(direction(traffic.direction));
    request.u8(u8::from(policy.rule == Rule::Block)); // XFRM_POLICY_ALLOW, _BLOCK
    request.zeros(6);
    let spi = match policy.rule {
        Rule::Block => 0,
        Rule::Protect { spi } => spi.unwrap_or(0),
    };
    // A block has a template too: there is no other place for the stamp.
    request.attribute(TMPL, |request| {
        address(request, None); // transport mode: those of the packet
        request.bytes(&spi.to_be_bytes());
        request.u8(ESP);
        request.zeros(3);
        request.u16(family(traffic.peer));
        request.zeros(2);
        address(request, None);
        request.u32(STAMP);
        request.u8(TRANSPORT);
        request.zeros(3); // per session, required
        for _ in 0..3 {
            request.u32(ANY_ALGORITHM);
        }
    });
    request.finish()
}

/// Takes a policy from the kernel, whosever it is.
pub(super) fn delete_policy(traffic: &Traffic, sequence: u32) -> Zeroizing<Vec<u8>> {
    policy_id(Request::new(DELPOLICY, ACK, sequence), traffic)
}

/// Asks for the policy that applies to this, whosever it is.
pub(super) fn get_policy(traffic: &Traffic, sequence: u32) -> Zeroizing<Vec<u8>> {
    policy_id(Request::new(GETPOLICY, ACK, sequence), traffic)
}

/// Asks for all policies.
pub(super) fn list_policies(sequence: u32) -> Zeroizing<Vec<u8>> {
    Request::new(GETPOLICY, DUMP, sequence).finish()
}

/// A security association in an answer, if it is ours.
pub(super) fn read_sa(message: &Message<'_>) -> Option<FoundSa> {
    let info = message.payload.get(..SA_INFO)?;
    if message.kind != NEWSA || u32_at(info, 208)? != STAMP {
        return None;
    }
    let family = u16_at(info, 212)?;
    Some(FoundSa {
        id: SaId {
            source: read_address(info, 80, family)?,
            destination: read_address(info, 56, family)?,
            spi: u32::from_be(u32_at(info, 72)?),
        },
        packets: u64_at(info, 168)?,
    })
}

/// A policy in an answer, if it is ours.
pub(super) fn read_policy(message: &Message<'_>) -> Option<Policy> {
    let (info, rest) = message.payload.split_at_checked(POLICY_INFO)?;
    let (_, template) = attributes(rest).find(|(kind, _)| *kind == TMPL)?;
    if message.kind != NEWPOLICY || u32_at(template, 44)? != STAMP {
        return None;
    }
    let family = u16_at(info, 40)?;
    let (direction, peer_at) = match info.get(160)? {
        0 => (Direction::In, 16),
        1 => (Direction::Out, 0),
        _ => return None,
    };
    let spi = u32::from_be(u32_at(template, 16)?);
    Some(Policy {
        traffic: Traffic {
            direction,
            peer: read_address(info, peer_at, family)?,
            port: u16::from_be(u16_at(info, 32)?),
        },
        rule: match info.get(161)? {
            0 => Rule::Protect {
                spi: (spi != 0).then_some(spi),
            },
            _ => Rule::Block,
        },
    })
}

fn policy_id(mut request: Request, traffic: &Traffic) -> Zeroizing<Vec<u8>> {
    traffic_selector(&mut request, traffic);
    request.u32(0); // index: by selector
    request.u8(direction(traffic.direction));
    request.zeros(3);
    request.finish()
}

fn traffic_selector(request: &mut Request, traffic: &Traffic) {
    match traffic.direction {
        Direction::In => selector(request, Some(traffic.peer), None, traffic.port),
        Direction::Out => selector(request, None, Some(traffic.peer), traffic.port),
    }
}

/// UDP to `port`, from one address to another; none stands for all. At least
/// one is given.
fn selector(request: &mut Request, source: Option<IpAddr>, destination: Option<IpAddr>, port: u16) {
    let given = source.or(destination);
    let prefix = |address: Option<IpAddr>| match address {
        None => 0,
        Some(IpAddr::V4(_)) => 32,
        Some(IpAddr::V6(_)) => 128,
    };
    address(request, destination);
    address(request, source);
    request.bytes(&port.to_be_bytes());
    request.bytes(&[0xff, 0xff]); // exactly this port
    request.zeros(4); // from any port
    request.u16(given.map_or(0, family));
    request.u8(prefix(destination));
    request.u8(prefix(source));
    request.u8(UDP);
    request.zeros(3 + 4 + 4); // any interface, any user
}

/// `struct xfrm_lifetime_cfg`.
fn limits(request: &mut Request, packets: u64, seconds: u64) {
    request.u64(UNLIMITED); // bytes, soft and hard
    request.u64(UNLIMITED);
    request.u64(UNLIMITED); // packets, soft and hard
    request.u64(packets);
    request.u64(0); // seconds since it was added, soft and hard
    request.u64(seconds);
    request.zeros(16); // seconds since it was used
}

fn address(request: &mut Request, address: Option<IpAddr>) {
    match address {
        None => request.zeros(16),
        Some(IpAddr::V4(address)) => {
            request.bytes(&address.octets());
            request.zeros(12);
        }
        Some(IpAddr::V6(address)) => request.bytes(&address.octets()),
    }
}

fn read_address(bytes: &[u8], at: usize, family: u16) -> Option<IpAddr> {
    let bytes = bytes.get(at..)?;
    match i32::from(family) {
        libc::AF_INET => Some(Ipv4Addr::from(*bytes.first_chunk::<4>()?).into()),
        libc::AF_INET6 => Some(Ipv6Addr::from(*bytes.first_chunk::<16>()?).into()),
        _ => None,
    }
}

fn family(address: IpAddr) -> u16 {
    match address {
        IpAddr::V4(_) => libc::AF_INET as u16,
        IpAddr::V6(_) => libc::AF_INET6 as u16,
    }
}

fn direction(direction: Direction) -> u8 {
    match direction {
        Direction::In => 0,
        Direction::Out => 1,
    }
}
