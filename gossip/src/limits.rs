//! What a record may hold. Everything beyond is refused before it is verified.

use proto::record::{Body, MAX_BODY, Record, Topic};

/// Parts of links that one peer may have.
pub const LINK_PARTS: u8 = 4;
/// Links in one part.
pub const PART_LINKS: usize = 90;
/// Parts of stations that one peer may have.
pub const STATION_PARTS: u16 = 256;
/// IP addresses of one station.
pub const STATION_IPS: usize = 8;
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
        _ => return Err(Refusal::Unreadable),
    };
    if within {
        Ok(body)
    } else {
        Err(Refusal::OverLimit)
    }
}
