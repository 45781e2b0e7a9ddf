//! The layout of headers, byte by byte.

use wove_proto::{
    PeerId,
    content::{self, BroadcastHeader, FragmentHeader, RelayHeader},
    datagram::{
        Handshake, Protection, RejectReason, Stage, TransportHeader, emit_cookie_reply, emit_reject,
    },
};

const A: PeerId = PeerId([0xaa; 16]);
const B: PeerId = PeerId([0xbb; 16]);

#[test]
fn transport_header() {
    let mut header = TransportHeader {
        protection: Protection::Sealed,
        receiver: 0x0102_0304,
        counter: 0x0a0b_0c0d_0e0f_1011,
    };
    let bytes = [0x10, 0, 0, 0, 1, 2, 3, 4, 10, 11, 12, 13, 14, 15, 16, 17];
    assert_eq!(header.emit(), bytes);
    header.protection = Protection::Clear;
    assert_eq!(header.emit()[0], 0x11);
}

#[test]
fn handshake_header() {
    let stages = [
        (Stage::Initiation, 1),
        (Stage::Response, 2),
        (Stage::Completion, 3),
    ];
    for (stage, kind) in stages {
        let handshake = Handshake {
            stage,
            sender: 1,
            receiver: 2,
            cookie: [9; 16],
            noise: b"noise",
        };
        let mut bytes = vec![kind, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2];
        bytes.extend_from_slice(&[9; 16]);
        bytes.extend_from_slice(b"noise");
        assert_eq!(handshake.emit(), bytes);
    }
}

#[test]
fn cookie_reply_and_rejections() {
    let mut cookie = vec![4, 1, 0, 0, 0, 0, 0, 7];
    cookie.extend_from_slice(&[5; 16]);
    assert_eq!(emit_cookie_reply(7, &[5; 16]), cookie);
    let reasons = [
        (RejectReason::Secret, 1),
        (RejectReason::Version, 2),
        (RejectReason::Limit, 3),
        (RejectReason::Identity, 4),
    ];
    for (reason, number) in reasons {
        assert_eq!(emit_reject(7, reason), [5, 1, number, 0, 0, 0, 0, 7]);
    }
}

#[test]
fn content_headers() {
    assert_eq!((content::CONTROL, content::FRAME), ([1], [2]));

    let relay = RelayHeader {
        hops: 24,
        distance: 0x0102_0304,
        source: A,
        destination: B,
    }
    .emit();
    assert_eq!(relay[..6], [3, 24, 1, 2, 3, 4]);
    assert_eq!(
        (&relay[6..22], &relay[22..]),
        (&[0xaa; 16][..], &[0xbb; 16][..])
    );

    let broadcast = BroadcastHeader {
        hops: 3,
        source: A,
        sequence: 0x0102,
    }
    .emit();
    assert_eq!(broadcast[..2], [4, 3]);
    assert_eq!(broadcast[2..18], [0xaa; 16]);
    assert_eq!(broadcast[18..], [0, 0, 0, 0, 0, 0, 1, 2]);

    let fragment = FragmentHeader {
        id: 0x0102_0304,
        index: 5,
        count: 6,
    }
    .emit();
    assert_eq!(fragment, [5, 1, 2, 3, 4, 5, 6]);
}
