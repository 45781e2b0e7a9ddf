//! Answers about the domain and about addresses of the mesh (RFC 1034, RFC 1035),
//! with EDNS (RFC 6891), truncation, and negative answers (RFC 2308).

use std::net::IpAddr;

use gossip::names;
use hickory_proto::{
    op::{Edns, Message, MessageType, Metadata, OpCode, ResponseCode},
    rr::{
        DNSClass, Name, RData, Record, RecordType,
        rdata::{A, AAAA, NS, PTR, SOA},
    },
};
use ipnet::IpNet;

use super::{super::snapshot::StationMap, MAX_DATAGRAM, NameMap, TTL, question::Question};

/// Bytes of a header.
const HEADER: usize = 12;
/// Bytes of an answer whose name is a pointer to the question, without its data.
const ANSWER: usize = 12;
/// Bytes of our EDNS record.
const OPT: usize = 11;
/// The most names of one address that are told.
const POINTERS: usize = 16;

/// How a query came, and so how long its answer may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// In one datagram.
    Datagram,
    /// Over a connection.
    Stream,
}

/// What answers are made of.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The names.
    pub names: &'a NameMap,
    /// The addresses of the mesh: nobody else knows their names.
    pub stations: &'a StationMap,
    /// Networks of the overlay, likewise.
    pub networks: &'a [IpNet],
    /// Whether there are other servers to ask.
    pub forwards: bool,
    /// Rises with every query: where the rotation of addresses begins.
    pub turn: usize,
}

/// What to do about a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Send this.
    Answer {
        /// The message.
        bytes: Vec<u8>,
        /// What it says.
        code: ResponseCode,
    },
    /// Ask another server.
    Forward,
    /// It is no query.
    Drop,
}

/// The domain that is answered for.
#[derive(Clone, Debug)]
pub struct Zone {
    domain: Name,
    labels: Vec<Box<[u8]>>,
    soa: Record,
    ns: Record,
}

impl Zone {
    /// A zone for a domain as [`names::canonical`] has it; none if it is too long.
    pub fn new(domain: &str) -> Option<Self> {
        let domain = names::canonical(domain)?;
        let name = Name::from_ascii(format!("{domain}.")).ok()?;
        let inside = |label: &str| Name::from_ascii(format!("{label}.{domain}.")).ok();
        let (server, person) = (inside("ns")?, inside("hostmaster")?);
        let soa = SOA::new(server.clone(), person, 1, 3600, 600, 86_400, TTL);
        Some(Self {
            labels: domain.split('.').map(|l| l.as_bytes().into()).collect(),
            soa: Record::from_rdata(name.clone(), TTL, RData::SOA(soa)),
            ns: Record::from_rdata(name.clone(), TTL, RData::NS(NS(server))),
            domain: name,
        })
    }

    /// Answers a query, or says who has to. Never fails: what cannot be read is
    /// answered with an error, and what is no query not at all.
    pub fn answer(&self, query: &[u8], transport: Transport, view: View<'_>) -> Outcome {
        let Some([_, _, flags, _]) = query.first_chunk().filter(|_| query.len() >= HEADER) else {
            return Outcome::Drop;
        };
        if flags & 0x80 != 0 {
            return Outcome::Drop;
        }
        let Ok(query) = Message::from_vec(query) else {
            return broken(query);
        };
        let mut reply = Reply::to(&query, transport, view);
        let question = match &query.queries[..] {
            _ if query.metadata.op_code != OpCode::Query => {
                return reply.finish(ResponseCode::NotImp);
            }
            _ if query.edns.as_ref().is_some_and(|edns| edns.version() > 0) => {
                return reply.finish(ResponseCode::BADVERS);
            }
            [question] => question,
            _ => return reply.finish(ResponseCode::FormErr),
        };
        let about = Question::of(question.name(), &self.labels);
        let ours = matches!(about, Question::Domain | Question::InDomain(_));
        if question.query_class() != DNSClass::IN {
            return match ours || !reply.may_forward() {
                true => reply.finish(ResponseCode::Refused),
                false => Outcome::Forward,
            };
        }
        let kind = question.query_type();
        match about {
            Question::Domain => self.about_domain(kind, reply),
            Question::InDomain(name) => {
                let addresses = name.and_then(|name| view.names.lookup(&name));
                self.about_name(addresses, question.name(), kind, reply)
            }
            Question::Short(name) => match view.names.lookup(&name) {
                Some(addresses) if !addresses.is_empty() => {
                    self.about_name(Some(addresses), question.name(), kind, reply)
                }
                Some(_) | None => reply.pass_on(),
            },
            Question::Address(address) => {
                let names = view.names.names_of(&address);
                let ours = !names.is_empty()
                    || view.stations.ips.contains_key(&address)
                    || view.networks.iter().any(|net| net.contains(&address));
                if !ours {
                    return reply.pass_on();
                }
                reply.message.metadata.authoritative = true;
                let pointers = names.iter().take(POINTERS).filter_map(|name| {
                    let name = Name::from_ascii(&**name).ok()?;
                    name.append_domain(&self.domain).ok()
                });
                if matches!(kind, RecordType::PTR | RecordType::ANY) {
                    let pointers: Vec<Name> = pointers.collect();
                    reply.fill(
                        question.name(),
                        pointers.into_iter().map(|name| RData::PTR(PTR(name))),
                    );
                }
                match names.is_empty() {
                    true => reply.negative(&self.soa, ResponseCode::NXDomain),
                    false => reply.finish_or_deny(&self.soa),
                }
            }
            Question::Other => reply.pass_on(),
        }
    }

    fn about_domain(&self, kind: RecordType, mut reply: Reply) -> Outcome {
        reply.message.metadata.authoritative = true;
        if matches!(kind, RecordType::SOA | RecordType::ANY) {
            reply.message.add_answer(self.soa.clone());
        }
        if matches!(kind, RecordType::NS | RecordType::ANY) {
            reply.message.add_answer(self.ns.clone());
        }
        reply.finish_or_deny(&self.soa)
    }

    fn about_name(
        &self,
        addresses: Option<&[IpAddr]>,
        name: &Name,
        kind: RecordType,
        mut reply: Reply,
    ) -> Outcome {
        reply.message.metadata.authoritative = true;
        let Some(addresses) = addresses else {
            return reply.negative(&self.soa, ResponseCode::NXDomain);
        };
        let wanted = |address: &&IpAddr| match kind {
            RecordType::A => address.is_ipv4(),
            RecordType::AAAA => address.is_ipv6(),
            RecordType::ANY => true,
            _ => false,
        };
        let mut found: Vec<IpAddr> = addresses.iter().filter(wanted).copied().collect();
        if !found.is_empty() {
            let start = reply.turn % found.len();
            found.rotate_left(start);
        }
        reply.fill(name, found.into_iter().map(data));
        reply.finish_or_deny(&self.soa)
    }
}

fn data(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    }
}

/// Of something that looks like a query from its header alone.
fn broken(query: &[u8]) -> Outcome {
    let [high, low, ..] = query else {
        return Outcome::Drop;
    };
    let code = ResponseCode::FormErr;
    let id = u16::from_be_bytes([*high, *low]);
    encoded(&Message::error_msg(id, OpCode::Query, code))
}

fn encoded(message: &Message) -> Outcome {
    let code = message.metadata.response_code;
    match message.to_vec() {
        Ok(bytes) => Outcome::Answer { bytes, code },
        Err(_) => Outcome::Drop,
    }
}

/// An answer that is being made.
struct Reply {
    message: Message,
    /// Bytes it may have.
    limit: usize,
    /// Bytes it has at least.
    size: usize,
    turn: usize,
}

impl Reply {
    fn to(query: &Message, transport: Transport, view: View<'_>) -> Self {
        let mut message = Message::new(query.metadata.id, MessageType::Response, OpCode::Query);
        message.metadata = Metadata::response_from_request(&query.metadata);
        message.metadata.recursion_available = view.forwards;
        message.queries.clone_from(&query.queries);
        let questions = query.queries.iter().map(|q| q.name().len() + 1 + 4);
        let mut size = HEADER + questions.sum::<usize>();
        let mut limit = 512;
        if let Some(theirs) = &query.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(MAX_DATAGRAM);
            message.set_edns(edns);
            size += OPT;
            limit = usize::from(theirs.max_payload().clamp(512, MAX_DATAGRAM));
        }
        if transport == Transport::Stream {
            limit = usize::from(u16::MAX);
        }
        Self {
            message,
            limit,
            size,
            turn: view.turn,
        }
    }

    /// Adds answers as long as there is room, and says if there is not.
    fn fill(&mut self, name: &Name, answers: impl Iterator<Item = RData>) {
        for data in answers {
            self.size += ANSWER
                + match &data {
                    RData::A(_) => 4,
                    RData::AAAA(_) => 16,
                    RData::PTR(name) => name.len() + 1,
                    _ => 0,
                };
            if self.size > self.limit {
                self.message.metadata.truncation = true;
                return;
            }
            self.message
                .add_answer(Record::from_rdata(name.clone(), TTL, data));
        }
    }

    fn may_forward(&self) -> bool {
        let metadata = &self.message.metadata;
        metadata.recursion_desired && metadata.recursion_available
    }

    fn pass_on(self) -> Outcome {
        let metadata = &self.message.metadata;
        match (metadata.recursion_desired, metadata.recursion_available) {
            (true, true) => Outcome::Forward,
            (true, false) => self.finish(ResponseCode::ServFail),
            (false, _) => self.finish(ResponseCode::Refused),
        }
    }

    /// What is there exists; if that is nothing, it says so.
    fn finish_or_deny(self, soa: &Record) -> Outcome {
        match self.message.answers.is_empty() && !self.message.metadata.truncation {
            true => self.negative(soa, ResponseCode::NoError),
            false => self.finish(ResponseCode::NoError),
        }
    }

    fn negative(mut self, soa: &Record, code: ResponseCode) -> Outcome {
        self.message.metadata.authoritative = true;
        self.message.add_authority(soa.clone());
        self.finish(code)
    }

    fn finish(mut self, code: ResponseCode) -> Outcome {
        self.message.metadata.response_code = code;
        if let Some(edns) = &mut self.message.edns {
            edns.set_rcode_high(code.high());
        }
        encoded(&self.message)
    }
}

#[cfg(test)]
mod tests;
