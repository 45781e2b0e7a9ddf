//! What is sent to other servers, and what counts as their answer (RFC 5452).

use std::net::{IpAddr, SocketAddr};

/// Bytes of a header.
const HEADER: usize = 12;
/// Servers asked for one query.
const SERVERS: usize = 3;
/// The port of a server.
const PORT: u16 = 53;

/// A query as it is sent to another server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forwarded {
    bytes: Vec<u8>,
    /// What the client called it.
    id: [u8; 2],
    /// Where the question ends.
    end: usize,
}

/// What an answer of another server is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is the client's.
    Good,
    /// The server cannot say; another may.
    Unable,
    /// It does not answer this query.
    Foreign,
}

impl Forwarded {
    /// The client's query under a random number of our own; none unless it has
    /// exactly one question.
    pub fn new(query: &[u8], id: u16) -> Option<Self> {
        let end = question_end(query)?;
        let mut bytes = query.to_vec();
        let [a, b, ..] = *query else { return None };
        bytes[..2].copy_from_slice(&id.to_be_bytes());
        let id = [a, b];
        Some(Self { bytes, id, end })
    }

    /// What to send.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What an answer is worth. It has to repeat number and question.
    pub fn judge(&self, answer: &[u8]) -> Verdict {
        let Some(question) = answer.get(HEADER..self.end) else {
            return Verdict::Foreign;
        };
        let same = answer[..2] == self.bytes[..2]
            && answer[2] & 0x80 != 0
            && answer[4..6] == [0, 1]
            && question.eq_ignore_ascii_case(&self.bytes[HEADER..self.end]);
        match answer[3] & 0x0f {
            _ if !same => Verdict::Foreign,
            // Not able, not implemented, not willing.
            2 | 4 | 5 => Verdict::Unable,
            _ => Verdict::Good,
        }
    }

    /// An answer as the client expects it.
    pub fn for_client(&self, mut answer: Vec<u8>) -> Vec<u8> {
        answer[..2].copy_from_slice(&self.id);
        answer
    }

    /// That nobody could say.
    pub fn failure(&self) -> Vec<u8> {
        let mut answer = self.bytes[..self.end].to_vec();
        answer[2] = answer[2] & 0x79 | 0x80;
        answer[3] = 0x82;
        answer[6..HEADER].fill(0);
        self.for_client(answer)
    }
}

/// Where the question of a query ends; none unless there is exactly one.
fn question_end(query: &[u8]) -> Option<usize> {
    if query.get(4..6)? != [0, 1] {
        return None;
    }
    let mut at = HEADER;
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1 + length;
        match length {
            0 => break,
            1..=63 => {}
            // A question that points elsewhere is no client's.
            _ => return None,
        }
    }
    let end = at + 4;
    (end <= query.len()).then_some(end)
}

/// The servers in a file like resolv.conf(5), those left out that are `own`.
pub fn servers(text: &str, own: impl Fn(&IpAddr) -> bool) -> Vec<SocketAddr> {
    let addresses = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let address = words
            .next()
            .filter(|word| *word == "nameserver")
            .and(words.next())?;
        address.parse::<IpAddr>().ok()
    });
    addresses
        .filter(|address| !own(address) && !address.is_unspecified())
        .take(SERVERS)
        .map(|address| SocketAddr::new(address, PORT))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A query for `a.b`, type A.
    const QUERY: &[u8] =
        b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x01b\x00\x00\x01\x00\x01";

    fn answer(forwarded: &Forwarded, code: u8) -> Vec<u8> {
        let mut answer = forwarded.bytes().to_vec();
        answer[2] |= 0x80;
        answer[3] |= code;
        answer
    }

    #[test]
    fn an_answer_repeats_number_and_question() {
        let forwarded = Forwarded::new(QUERY, 0xabcd).unwrap();
        assert_eq!(forwarded.bytes()[..2], [0xab, 0xcd]);
        let good = answer(&forwarded, 3);
        assert_eq!(forwarded.judge(&good), Verdict::Good);
        assert_eq!(forwarded.judge(&answer(&forwarded, 2)), Verdict::Unable);
        for at in [0, 1, 2, 5, 13, 19] {
            let mut other = good.clone();
            other[at] ^= 0x80;
            assert_eq!(forwarded.judge(&other), Verdict::Foreign, "byte {at}");
        }
        let mut case = good.clone();
        case[13] = b'A';
        assert_eq!(forwarded.judge(&case), Verdict::Good);
        assert_eq!(forwarded.judge(&good[..19]), Verdict::Foreign);
        assert_eq!(forwarded.for_client(good)[..2], [0x12, 0x34]);
        let failure = forwarded.failure();
        assert_eq!(failure[..4], [0x12, 0x34, 0x81, 0x82]);
        assert_eq!(failure[12..], QUERY[12..]);
    }

    #[test]
    fn servers_are_read_from_resolv_conf() {
        let text = "# x\nnameserver 127.0.0.83\nsearch a\n nameserver 192.0.2.1 # y\nnameserver\n\
                    nameserver fe80::1%eth0\nnameserver 2001:db8::1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\n";
        let own = |address: &IpAddr| address.is_loopback();
        let expected = ["192.0.2.1:53", "[2001:db8::1]:53", "192.0.2.2:53"];
        assert_eq!(
            servers(text, own),
            expected.map(|text| text.parse().unwrap())
        );
    }

    proptest! {
        #[test]
        fn nothing_received_panics(bytes in prop::collection::vec(any::<u8>(), 0..80), cut in 0usize..30) {
            if let Some(forwarded) = Forwarded::new(&bytes, 7) {
                let _ = forwarded.failure();
                forwarded.judge(&bytes);
            }
            let forwarded = Forwarded::new(QUERY, 7).unwrap();
            if forwarded.judge(&bytes) != Verdict::Foreign {
                forwarded.for_client(bytes);
            }
            let answer = answer(&forwarded, 0);
            forwarded.judge(&answer[..cut.min(answer.len())]);
        }
    }
}
