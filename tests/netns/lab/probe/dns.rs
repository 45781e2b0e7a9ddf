//! A client that asks for names, by datagram or over a connection.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};

use crate::lab::Netns;

/// Where a container with `--dns` asks.
pub(crate) const INSIDE: &str = "127.0.0.83:53";
/// How long one answer may take before it counts as none.
const PATIENCE: Duration = Duration::from_secs(6);

/// The number of the next query.
static NEXT: AtomicU16 = AtomicU16::new(1);

/// What is asked, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask<'a> {
    pub(crate) name: &'a str,
    pub(crate) kind: RecordType,
    /// The longest datagram taken, in bytes; 0 without EDNS.
    pub(crate) payload: u16,
    pub(crate) stream: bool,
}

impl<'a> Ask<'a> {
    /// By datagram, without EDNS.
    pub(crate) fn plain(name: &'a str, kind: RecordType) -> Self {
        Self {
            name,
            kind,
            payload: 0,
            stream: false,
        }
    }

    /// The query's bytes.
    pub(crate) fn message(&self) -> Vec<u8> {
        let mut message = Message::new(
            NEXT.fetch_add(1, Ordering::Relaxed),
            MessageType::Query,
            OpCode::Query,
        );
        message.metadata.recursion_desired = true;
        let name = Name::from_ascii(self.name).expect("tests ask for names");
        message.add_query(Query::query(name, self.kind));
        if self.payload > 0 {
            let mut edns = Edns::new();
            edns.set_max_payload(self.payload);
            message.set_edns(edns);
        }
        message.to_vec().expect("a query can be encoded")
    }
}

/// What the server at an address answers inside a namespace; none if it does not.
pub(crate) fn ask_at(netns: &Netns, server: &str, ask: Ask<'_>) -> Option<Message> {
    let server: SocketAddr = server.parse().expect("an address");
    let query = ask.message();
    let answer = netns.run(|| match ask.stream {
        true => by_stream(server, &query),
        false => by_datagram(server, &query),
    })?;
    let message = Message::from_vec(&answer).expect("an answer can be read");
    assert_eq!(answer[..2], query[..2], "the answer's number");
    Some(message)
}

/// The same at the door inside, for its answers' data and its code.
pub(crate) fn resolve(netns: &Netns, name: &str, kind: RecordType) -> Result<Vec<String>, String> {
    let answer = ask_at(netns, INSIDE, Ask::plain(name, kind)).ok_or("no answer")?;
    match answer.metadata.response_code {
        ResponseCode::NoError => Ok(data(&answer)),
        code => Err(code.to_string()),
    }
}

/// The data of the answers, in their order.
pub(crate) fn data(message: &Message) -> Vec<String> {
    message
        .answers
        .iter()
        .map(|record| record.data.to_string())
        .collect()
}

fn by_datagram(server: SocketAddr, query: &[u8]) -> Option<Vec<u8>> {
    let any = if server.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(server).ok()?;
    socket.set_read_timeout(Some(PATIENCE)).ok()?;
    socket.send(query).ok()?;
    let mut answer = vec![0; 65_535];
    let length = socket.recv(&mut answer).ok()?;
    answer.truncate(length);
    Some(answer)
}

fn by_stream(server: SocketAddr, query: &[u8]) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&server, PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let length = u16::try_from(query.len()).ok()?;
    stream
        .write_all(&[&length.to_be_bytes(), query].concat())
        .ok()?;
    let mut length = [0; 2];
    stream.read_exact(&mut length).ok()?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer).ok()?;
    Some(answer)
}
