//! The resolver over real sockets, in network namespaces of their own.
#![expect(
    clippy::disallowed_methods,
    reason = "this is the shell: threads and sockets live here"
)]

use std::{
    collections::HashMap,
    io::{Read, Write},
    net::{TcpStream, UdpSocket},
    time::Duration,
};

use gossip::Directory;
use hickory_proto::{
    op::{Message, MessageType, OpCode, Query},
    rr::{Name, RecordType},
};
use proto::{MacAddr, PeerId};

use super::*;
use crate::{
    engine::{
        dns::NameMap,
        snapshot::{Shared as Forwarding, StationMap},
    },
    shell::{
        host::switch_loopback_on,
        netns::{Namespace, testing::in_fresh_namespace},
    },
};

fn snapshot(names: &[(&str, &str)]) -> Arc<Snapshot> {
    let pairs = names
        .iter()
        .map(|(name, address)| (*name, address.parse().unwrap()));
    let (directory, changed) = Directory::sample(pairs);
    let mut map = NameMap::default();
    map.update(&directory, &changed);
    let mut snapshot = Snapshot::empty(Arc::new(Forwarding::new(PeerId::default(), 1)));
    snapshot.names = Arc::new(map);
    let ips = HashMap::from([([10, 32, 0, 1].into(), MacAddr::default())]);
    snapshot.stations = Arc::new(StationMap {
        ips,
        ..StationMap::default()
    });
    Arc::new(snapshot)
}

fn settings(upstream: &[&str]) -> Settings {
    Settings {
        domain: "wove.local".into(),
        upstream: upstream
            .iter()
            .map(|server| server.parse().unwrap())
            .collect(),
        resolv_conf: "/nowhere".into(),
        listen: None,
    }
}

fn query(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(9, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.to_vec().unwrap()
}

/// Asks by datagram until there is an answer: doors are opened by and by.
fn ask(to: SocketAddr, name: &str) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(6)))
        .unwrap();
    let mut buffer = [0; 2000];
    for _ in 0..100 {
        socket.send_to(&query(name, RecordType::A), to).unwrap();
        match socket.recv(&mut buffer) {
            Ok(length) => return Message::from_vec(&buffer[..length]).unwrap(),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
    panic!("no answer from {to}");
}

fn ask_by_stream(to: SocketAddr, name: &str) -> Message {
    let mut stream = TcpStream::connect(to).unwrap();
    let query = query(name, RecordType::A);
    stream
        .write_all(&(query.len() as u16).to_be_bytes())
        .unwrap();
    stream.write_all(&query).unwrap();
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer).unwrap();
    Message::from_vec(&answer).unwrap()
}

/// A server that answers every query with this code, or, without one, not at all.
fn server(at: &str, code: Option<u8>) -> JoinHandle<u32> {
    let socket = UdpSocket::bind(at).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(8)))
        .unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 600];
        let mut asked = 0;
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            asked += 1;
            let Some(code) = code else { continue };
            buffer[2] |= 0x80;
            buffer[3] = buffer[3] & 0xf0 | code;
            socket.send_to(&buffer[..length], from).unwrap();
        }
        asked
    })
}

fn code(message: &Message) -> ResponseCode {
    message.metadata.response_code
}

#[test]
fn a_door_inside_answers_there_and_nowhere_else() {
    in_fresh_namespace(|| {
        switch_loopback_on().unwrap();
        let resolver = Resolver::start(&settings(&[]), snapshot(&[("web", "10.32.0.1")])).unwrap();
        let container = Namespace::fresh().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let door = runtime.block_on(Door::inside(&container)).unwrap();
        resolver.open("c".into(), door);
        let answer = container
            .run(|| Ok(ask(INSIDE, "web.wove.local.")))
            .unwrap();
        assert_eq!(answer.answers.len(), 1);
        let answer = container
            .run(|| Ok(ask_by_stream(INSIDE, "web.wove.local.")))
            .unwrap();
        assert_eq!(answer.answers.len(), 1);
        assert!(TcpStream::connect(INSIDE).is_err(), "not answered outside");
        // Another server there is not disturbed.
        assert!(runtime.block_on(Door::inside(&container)).is_err());
        resolver.publish(snapshot(&[]));
        let answer = container
            .run(|| Ok(ask(INSIDE, "web.wove.local.")))
            .unwrap();
        assert_eq!(code(&answer), ResponseCode::NXDomain);
        resolver.close("c".into());
        for _ in 0..200 {
            if container
                .run(|| Ok(TcpStream::connect(INSIDE).is_err()))
                .unwrap()
            {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("the door stays open");
    });
}

#[test]
fn the_hosts_door_answers_this_host_and_nobody_else() {
    in_fresh_namespace(|| {
        switch_loopback_on().unwrap();
        let resolver = Resolver::start(&settings(&[]), snapshot(&[("web", "10.32.0.1")])).unwrap();
        let at: SocketAddr = "127.0.0.1:5353".parse().unwrap();
        resolver.open("host".into(), Door::at(at).unwrap());
        assert_eq!(ask(at, "web.wove.local.").answers.len(), 1);
        let own = Surroundings {
            own: [IpAddr::from([192, 0, 2, 1])].into(),
            networks: Vec::new(),
        };
        resolver.set_surroundings(own);
        let may = |address: [u8; 4]| resolver.shared.may_ask(address.into());
        assert!(may([127, 0, 0, 9]) && may([192, 0, 2, 1]) && may([10, 32, 0, 1]));
        assert!(!may([192, 0, 2, 2]) && !may([10, 32, 0, 2]));
    });
}

#[test]
fn others_are_asked_one_after_the_other() {
    in_fresh_namespace(|| {
        switch_loopback_on().unwrap();
        let servers = ["127.0.1.1:53", "127.0.1.2:53", "127.0.1.3:53"];
        let silent = server(servers[0], None);
        let unable = server(servers[1], Some(2));
        let good = server(servers[2], Some(3));
        let resolver = Resolver::start(&settings(&servers), snapshot(&[])).unwrap();
        let at: SocketAddr = "127.0.0.1:5353".parse().unwrap();
        resolver.open("host".into(), Door::at(at).unwrap());
        let answer = ask(at, "example.com.");
        assert_eq!(
            (code(&answer), answer.metadata.id),
            (ResponseCode::NXDomain, 9)
        );
        assert_eq!(resolver.counters().forwarded, 1);
        let asked = [silent, unable, good].map(|server| server.join().unwrap());
        assert!(asked.iter().all(|asked| *asked == 1), "{asked:?}");
    });
}

#[test]
fn what_nobody_can_tell_is_a_failure_and_our_own_names_need_nobody() {
    in_fresh_namespace(|| {
        switch_loopback_on().unwrap();
        // Nobody is there: the kernel says so at once.
        let resolver = Resolver::start(
            &settings(&["127.0.1.1:53"]),
            snapshot(&[("web", "10.32.0.1")]),
        )
        .unwrap();
        let at: SocketAddr = "127.0.0.1:5353".parse().unwrap();
        resolver.open("host".into(), Door::at(at).unwrap());
        assert_eq!(code(&ask(at, "example.com.")), ResponseCode::ServFail);
        assert_eq!(ask(at, "web.wove.local.").answers.len(), 1);
        assert_eq!(resolver.counters().failed, 1);
    });
}

#[test]
fn servers_are_read_again_when_the_file_changes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("resolv.conf");
    std::fs::write(&path, "nameserver 192.0.2.1\n").unwrap();
    let settings = Settings {
        resolv_conf: path.clone(),
        listen: Some("192.0.2.9:53".parse().unwrap()),
        ..settings(&[])
    };
    let upstream = Upstream::new(&settings);
    assert_eq!(*upstream.servers(), ["192.0.2.1:53".parse().unwrap()]);
    std::fs::write(&path, "nameserver 192.0.2.9\nnameserver 192.0.2.22\n").unwrap();
    upstream.refresh();
    assert_eq!(*upstream.servers(), ["192.0.2.22:53".parse().unwrap()]);
    std::fs::remove_file(&path).unwrap();
    upstream.refresh();
    assert!(upstream.servers().is_empty());
}
