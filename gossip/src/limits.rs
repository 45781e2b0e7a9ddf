//! What a record may hold. Everything beyond is refused before it is verified.

use proto::record::{Body, MAX_BODY, Name, Record, Topic};

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
/// `-` and `_`, in lower case, with dots between, and not too long. What people
/// type is brought into this form by [`crate::names::canonical`].
pub fn is_name(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b))
    };
    text.len() <= NAME_LENGTH && text.split('.').all(is_label)
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
        _ => return Err(Refusal::Unreadable),
    };
    if within {
        Ok(body)
    } else {
        Err(Refusal::OverLimit)
    }
}
