//! The table in a real kernel, in a namespace of its own.

#![expect(clippy::disallowed_methods, reason = "a test needs sockets")]

use std::{net::UdpSocket, thread, time::Duration};

use proptest::prelude::*;
use socket2::SockRef;

use super::{
    super::{
        netlink::wire,
        netns::{lab::ip, testing::in_fresh_namespace},
    },
    *,
};

const PORT: u16 = 6784;

fn clear(addresses: &[&str]) -> BTreeSet<IpAddr> {
    addresses.iter().map(|ip| ip.parse().unwrap()).collect()
}

/// Whether a datagram to itself comes to a port of this namespace, if the VXLAN
/// device sends it.
fn passes(address: &str, port: u16) -> bool {
    passes_with(DEVICE_PRIORITY, address, port)
}

fn passes_with(priority: u32, address: &str, port: u16) -> bool {
    let address: IpAddr = address.parse().unwrap();
    let socket = UdpSocket::bind((address, port)).unwrap();
    SockRef::from(&socket).set_priority(priority).unwrap();
    let sent = socket.send_to(b"clear", (address, port));
    // The kernel says at once if it may not leave.
    sent.is_ok() && socket.recv(&mut [0; 8]).is_ok()
}

fn in_namespace(test: impl FnOnce() + Send) {
    in_fresh_namespace(|| {
        ip("link set lo up");
        test();
    });
}

#[test]
fn nothing_passes_in_clear_but_what_is_allowed() {
    in_namespace(|| {
        assert!(passes("127.0.0.1", PORT));
        let mut barrier = Barrier::raise("wove-vx", PORT).unwrap();
        for address in ["127.0.0.1", "::1"] {
            assert!(!passes(address, PORT), "{address}");
            assert!(passes(address, PORT + 1), "{address}");
        }
        barrier.allow(clear(&["127.0.0.1"])).unwrap();
        assert!(passes("127.0.0.1", PORT) && !passes("::1", PORT));
        assert!(!passes_with(0, "127.0.0.1", PORT), "a user's");
        assert!(!passes_with(6, "127.0.0.1", PORT), "a user's");
        assert!(passes_with(0, "127.0.0.1", PORT + 1));
        barrier.allow(clear(&["::1", "192.0.2.7"])).unwrap();
        assert!(!passes("127.0.0.1", PORT) && passes("::1", PORT));
        assert!(!barrier.check().unwrap(), "nobody changed it");

        // Another launch, after a crash: nobody is trusted yet.
        let mut other = Barrier::raise("wove-vx", PORT).unwrap();
        assert!(!passes("::1", PORT) && !other.check().unwrap());
        remove("wove-vx").unwrap();
        assert!(passes("::1", PORT));
        remove("wove-vx").unwrap();
    });
}

#[test]
fn what_somebody_changes_is_put_back() {
    in_namespace(|| {
        let mut barrier = Barrier::raise("wove-vx", PORT).unwrap();
        barrier.allow(clear(&["127.0.0.1"])).unwrap();
        let mut connection = connect().unwrap();
        remove("wove-vx").unwrap();
        assert!(passes("::1", PORT));
        assert!(barrier.check().unwrap(), "it was removed");
        assert!(!passes("::1", PORT) && passes("127.0.0.1", PORT));
        commit(&mut connection, "wove-vx", |batch| {
            batch.change(&["::1".parse().unwrap()], true);
        })
        .unwrap();
        assert!(barrier.check().unwrap(), "an address more");
        assert!(!passes("::1", PORT) && passes("127.0.0.1", PORT));
        commit(&mut connection, "wove-vx", |batch| batch.replace(PORT + 1)).unwrap();
        assert!(barrier.check().unwrap(), "other rules");
        assert!(!barrier.check().unwrap());
        // It is not there when addresses change.
        remove("wove-vx").unwrap();
        barrier.allow(clear(&["::1"])).unwrap();
        assert!(passes("::1", PORT) && !passes("127.0.0.1", PORT));
        // More than fit one message.
        let many = (0..2500).map(|n| std::net::Ipv6Addr::from_bits(n).into());
        barrier.allow(many.collect()).unwrap();
        // The kernel's table of them grows in the background.
        let is_settled = (0..200).any(|_| {
            thread::sleep(Duration::from_millis(20));
            !barrier.check().unwrap()
        });
        assert!(is_settled);
    });
}

#[test]
fn tables_of_others_stay() {
    in_namespace(|| {
        let mut connection = connect().unwrap();
        let foreign = |request: &mut Connection| {
            let mut begin = || request.begin();
            let mut batch = Batch::new("wove-vx", &mut begin);
            batch.foreign_table();
            let bytes = batch.finish();
            request.ask(&bytes, |_| {}).unwrap();
        };
        foreign(&mut connection);
        let error = Barrier::raise("wove-vx", PORT).err().unwrap();
        assert!(error.to_string().contains("not wove's"), "{error}");
        remove("wove-vx").unwrap();
        assert_eq!(owner(&mut connection, "wove-vx").unwrap(), Owner::Foreign);
        let _other = Barrier::raise("other-vx", PORT).unwrap();
        remove("wove-vx").unwrap();
        assert_eq!(owner(&mut connection, "other-vx").unwrap(), Owner::Wove);
    });
}

proptest! {
    #[test]
    fn no_answer_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        for message in wire::messages(&bytes) {
            message::read_addresses(&message);
            message::is_ours(&message);
        }
        let message = wire::Message { kind: message::NEWTABLE, sequence: 0, payload: &bytes };
        message::read_addresses(&message);
        message::is_ours(&message);
    }
}
