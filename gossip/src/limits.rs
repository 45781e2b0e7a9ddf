//! What a record may hold. Everything beyond is refused before it is verified.

use proto::{
    record::{Body, MAX_BODY, Name, Record, Topic},
    space::{self, Division, Guard, Space},
};

/// Parts of links that one peer may have.
pub const LINK_PARTS: u8 = 4;
/// Links in one part.
pub const PART_LINKS: usize = 90;
/// Parts of stations that one peer may have.
pub const STATION_PARTS: u16 = 256;
/// IP addresses of one station.
pub const STATION_IPS: usize = 8;
/// Parts of names that one peer may have.
pub const NAME_PARTS: u16 = 256;
/// Pairs of name and address of one peer.
pub const NAMES_PER_PEER: usize = 4096;
/// Bytes of a name, without the domain.
pub const NAME_LENGTH: usize = 180;
/// Labels of a name, without the domain: each of them is a name above it to look after.
pub const NAME_LABELS: usize = 16;
/// Endpoints in a node record.
pub const NODE_ENDPOINTS: usize = 16;
/// Bytes of a nickname.
pub const NODE_NICKNAME: usize = 64;
/// Bytes of a version text.
pub const NODE_VERSION: usize = 32;

/// Why an authentic or unchecked record is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The body cannot be read, or is not about the topic.
    Unreadable,
    /// The body breaks a limit of its kind.
    OverLimit,
    /// Too many peers are known already.
    TooManyPeers,
}

impl Refusal {
    /// For people.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Unreadable => "content not understood",
            Self::OverLimit => "content over the limit",
            Self::TooManyPeers => "too many peers known",
        }
    }
}

/// Whether a text is a name as records have it: labels of 1 to 63 letters, digits,
/// `-` and `_`, in lower case, with dots between, not too many and not too long. What people
/// type is brought into this form by [`crate::names::canonical`].
pub fn is_name(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b))
    };
    text.len() <= NAME_LENGTH
        && text.split('.').all(is_label)
        && text.split('.').count() <= NAME_LABELS
}

/// Reads the body and holds it against the limits of its kind.
pub(crate) fn checked_body(record: &Record) -> Result<&Body, Refusal> {
    if record.body.len() > MAX_BODY {
        return Err(Refusal::OverLimit);
    }
    let body = record.content().ok_or(Refusal::Unreadable)?;
    let within = match (&record.key.topic, body) {
        (Topic::Node, Body::Node(node)) => {
            node.nickname.len() <= NODE_NICKNAME
                && node.version.len() <= NODE_VERSION
                && node.endpoints.len() <= NODE_ENDPOINTS
        }
        (Topic::Links(part), Body::Links(links)) => {
            *part < LINK_PARTS
                && links.links.len() <= PART_LINKS
                && links.links.is_sorted_by(|a, b| a.peer < b.peer)
        }
        (Topic::Stations(part), Body::Stations(stations)) => {
            let ips = |station: &proto::record::Station| station.ips.len() <= STATION_IPS;
            *part < STATION_PARTS
                && stations.stations.is_sorted_by(|a, b| a.mac < b.mac)
                && stations
                    .stations
                    .iter()
                    .all(|station| ips(station) && !station.mac.is_multicast())
        }
        (Topic::Names(part), Body::Names(names)) => {
            let sane = |name: &Name| {
                is_name(&name.name)
                    && !name.addresses.is_empty()
                    && name.addresses.is_sorted_by(|a, b| a < b)
            };
            *part < NAME_PARTS
                && names.names.is_sorted_by(|a, b| a.name < b.name)
                && names.names.iter().all(sane)
        }
        (Topic::Space, Body::Space(space)) => is_space(space),
        (Topic::Guard, Body::Guard(guard)) => is_guard(guard),
        (Topic::Division, Body::Division(division)) => is_division(division),
        _ => return Err(Refusal::Unreadable),
    };
    if within {
        Ok(body)
    } else {
        Err(Refusal::OverLimit)
    }
}

/// A division into shares needs a range with addresses to give.
fn is_range(prefix: u8) -> bool {
    (space::RANGE_PREFIX_MIN..=space::RANGE_PREFIX_MAX).contains(&prefix)
}

pub(crate) fn is_space(said: &Space) -> bool {
    if !is_range(said.ring.prefix) {
        return false;
    }
    let end = 1u32 << (32 - said.ring.prefix);
    let inside =
        |start: u32, len: u32| len > 0 && start.checked_add(len).is_some_and(|after| after <= end);
    let epochs = |epoch: u32| epoch <= space::EPOCH_MAX;
    // Another follows on a life that ended, and must be one that can be said.
    let ended = |life: u32| life < space::EPOCH_MAX;
    said.guards.len() <= space::GUARDS
        && said.former.len() <= space::GUARDS
        && said.blocks.len() <= space::BLOCKS
        && said.gifts.len() <= space::GIFTS
        && said.taken.len() <= space::TAKEN
        && said.lost.len() <= space::LOST
        && said.claims.len() <= space::CLAIMS
        && epochs(said.life)
        && said
            .blocks
            .iter()
            .all(|block| inside(block.start, block.len) && epochs(block.epoch))
        && said.blocks.is_sorted_by(|a, b| a.start + a.len <= b.start)
        && said
            .gifts
            .iter()
            .all(|gift| inside(gift.start, gift.len) && epochs(gift.epoch))
        && said.taken.iter().all(|taken| {
            let mut runs = taken.runs.iter();
            ended(taken.life)
                && taken.runs.len() <= space::BLOCKS
                && runs.all(|(start, len)| inside(*start, *len))
        })
        && said.lost.iter().all(|lost| ended(lost.life))
        && said.claims.iter().all(|at| *at < end)
        && said.ask.is_none_or(|ask| inside(ask.start, ask.len))
        && said.range6.is_none_or(|range| range.prefix <= 128)
}

pub(crate) fn is_guard(said: &Guard) -> bool {
    said.acks.len() <= space::WARDS
        && said.votes.len() <= space::VOTES
        && said.gone.len() <= space::GONE
        && said.votes.iter().all(|vote| vote.life < space::EPOCH_MAX)
        && said.acks.iter().all(|ack| ack.life <= space::EPOCH_MAX)
        && said.counted.len() <= space::COUNTED
        && said.counted.iter().all(|run| {
            let end = run.start.checked_add(run.len);
            run.len > 0 && end.is_some() && run.epoch <= space::EPOCH_MAX
        })
}

pub(crate) fn is_division(said: &Division) -> bool {
    if !is_range(said.prefix) {
        return false;
    }
    let end = 1u32 << (32 - said.prefix);
    let inside =
        |start: u32, len: u32| len > 0 && start.checked_add(len).is_some_and(|after| after <= end);
    said.roll.len() <= space::ROLL + 1
        && said.call.as_ref().is_none_or(|call| {
            call.guards.len() <= 2 * space::GUARDS && call.life <= space::EPOCH_MAX
        })
        && said.census.as_ref().is_none_or(|census| {
            (1..=space::CENSUS).contains(&census.runs.len())
                && census.epoch <= space::EPOCH_MAX
                && census.runs.iter().all(|(start, len)| inside(*start, *len))
        })
        && said.accepted.as_ref().is_none_or(|(_, value)| {
            (1..=space::FOUNDERS).contains(&value.founders.len())
                && value.founders.is_sorted_by(|a, b| a < b)
        })
}
