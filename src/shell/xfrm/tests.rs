//! Messages against what iproute2 says, and against damage. The kernel itself
//! is asked in `tests/netns`, which has namespaces.

use proptest::prelude::*;

use super::{
    super::netlink::{outcome, wire::*},
    message::*,
    *,
};
use crate::engine::esp::Direction;

/// Where the number of a request is: the only thing that differs.
const SEQUENCE: std::ops::Range<usize> = 8..12;

/// The bytes in a file of `captures/`, made with the command in its first line
/// by `strace -e trace=sendmsg -e write=all`.
fn capture(text: &str) -> Vec<u8> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let words = lines.flat_map(str::split_whitespace);
    words
        .map(|hex| u8::from_str_radix(hex, 16).unwrap())
        .collect()
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn sa(source: &str, destination: &str) -> Sa {
    Sa {
        id: SaId {
            source: address(source),
            destination: address(destination),
            spi: 0x1234_5678,
        },
        port: 6784,
        key: EspKey::new(std::array::from_fn(|i| i as u8)),
    }
}

fn traffic(direction: Direction, peer: &str) -> Traffic {
    Traffic {
        direction,
        peer: address(peer),
        port: 6784,
    }
}

fn out_v4() -> Policy {
    Policy {
        traffic: traffic(Direction::Out, "192.0.2.2"),
        rule: Rule::Protect {
            spi: Some(0x1234_5678),
        },
    }
}

fn in_v6() -> Policy {
    Policy {
        traffic: traffic(Direction::In, "fd00::2"),
        rule: Rule::Block,
    }
}

#[test]
fn requests_are_those_of_iproute2() {
    let v4 = sa("192.0.2.1", "192.0.2.2");
    let v6 = sa("fd00::1", "fd00::2");
    for (name, ours, theirs) in [
        ("sa_v4", add_sa(&v4, 0), include_str!("captures/sa_v4.hex")),
        ("sa_v6", add_sa(&v6, 0), include_str!("captures/sa_v6.hex")),
        (
            "delete_sa",
            delete_sa(&v4.id, 0),
            include_str!("captures/delete_sa.hex"),
        ),
        (
            "policy_out_v4",
            set_policy(&out_v4(), false, 0),
            include_str!("captures/policy_out_v4.hex"),
        ),
        (
            "policy_in_block_v6",
            set_policy(&in_v6(), true, 0),
            include_str!("captures/policy_in_block_v6.hex"),
        ),
        (
            "delete_policy",
            delete_policy(&in_v6().traffic, 0),
            include_str!("captures/delete_policy.hex"),
        ),
    ] {
        let mut theirs = capture(theirs);
        theirs[SEQUENCE].fill(0);
        // iproute2 does not say NLM_F_CREATE, which XFRM does not look at.
        let mut ours = ours.to_vec();
        ours[7] = theirs[7];
        assert_eq!(ours, theirs, "{name}");
    }
}

fn only(bytes: &[u8]) -> Message<'_> {
    messages(bytes).next().unwrap()
}

#[test]
fn what_is_set_is_found_again() {
    // The kernel's lists have the form of the requests.
    let sa = sa("fd00::1", "fd00::2");
    let found = read_sa(&only(&add_sa(&sa, 0))).unwrap();
    assert_eq!((found.id, found.packets), (sa.id, 0));
    let any = Rule::Protect { spi: None };
    for policy in [
        out_v4(),
        in_v6(),
        Policy {
            rule: any,
            ..in_v6()
        },
    ] {
        let mut bytes = set_policy(&policy, false, 0);
        assert_eq!(read_policy(&only(&bytes)), Some(policy));
        // Somebody else's.
        let stamp = STAMP.to_ne_bytes();
        let at = bytes.windows(4).position(|w| w == stamp).unwrap();
        bytes[at] ^= 1;
        assert_eq!(read_policy(&only(&bytes)), None);
    }
}

#[test]
fn a_foreign_association_is_not_ours() {
    let mut bytes = add_sa(&sa("192.0.2.1", "192.0.2.2"), 0);
    let at = bytes.windows(4).position(|w| w == STAMP.to_ne_bytes());
    bytes[at.unwrap()] ^= 1;
    assert_eq!(read_sa(&only(&bytes)), None);
}

#[test]
fn an_answer_may_hold_several_messages() {
    let one = set_policy(&out_v4(), false, 7);
    let two = set_policy(&in_v6(), false, 7);
    let both = [one.to_vec(), two.to_vec()].concat();
    let found: Vec<_> = messages(&both).filter_map(|m| read_policy(&m)).collect();
    assert_eq!(found, [out_v4(), in_v6()]);
    assert!(messages(&both).all(|m| m.sequence == 7));
}

#[test]
fn errors_are_told_in_words() {
    for (errno, words) in [
        (libc::EPROTONOSUPPORT, "load the module esp4 (IPv4)"),
        (
            libc::ENOSYS,
            "no rfc4106(gcm(aes)): load the modules esp4 and gcm",
        ),
    ] {
        let error = unless(Err(io::Error::from_raw_os_error(errno)), 0).unwrap_err();
        let said = no_esp(&error, IpAddr::V4(Ipv4Addr::LOCALHOST));
        assert_eq!(said.as_deref(), Some(words));
    }
    let error = unless(Err(io::Error::from_raw_os_error(libc::EPERM)), 0).unwrap_err();
    assert!(format!("{error:#}").contains("run as root"));
    assert_eq!(no_esp(&error, IpAddr::V4(Ipv4Addr::LOCALHOST)), None);
}

proptest! {
    #[test]
    fn damaged_answers_never_panic(bytes: Vec<u8>, cut in 0usize..400, flip in 0usize..400, with: u8) {
        for text in [include_str!("captures/sa_v4.hex"), include_str!("captures/policy_out_v4.hex")] {
            let mut damaged = capture(text);
            let at = flip % damaged.len();
            damaged[at] ^= with;
            damaged.truncate(cut);
            for bytes in [&damaged, &bytes] {
                for message in messages(bytes) {
                    let _ = (read_sa(&message), read_policy(&message));
                    let _ = (outcome(&message), attributes(message.payload).count());
                }
            }
        }
    }
}
