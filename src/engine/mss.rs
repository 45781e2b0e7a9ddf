//! Lowering the TCP maximum segment size that a container offers, so that
//! what it is sent fits the path (RFC 9293, section 3.7.1; RFC 6691).
//!
//! Rewrites a frame in place and knows nothing of where the limit comes from.

use proto::{
    ethernet::{NetworkLayer, ethertype},
    ip::{
        IPV4_HEADER, IPV6_HEADER, Ipv4Packet, Ipv6Packet, TCP_HEADER, TcpSegment, Transport,
        protocol, updated_checksum,
    },
};

/// Never lowered further: hosts refuse or misbehave with less (Linux: 88).
const SMALLEST: usize = 88;

/// What the TCP checksum of a frame covers when it reaches [`clamp_with`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpChecksum {
    /// The whole segment, as on a wire: it is corrected for the change.
    Complete,
    /// The pseudo header only, to be completed by the device (a TAP with
    /// `VIRTIO_NET_HDR_F_NEEDS_CSUM`): it does not cover the option.
    Partial,
}

/// Lowers the MSS option of a SYN so that no packet of the connection exceeds
/// `largest_ip_packet` bytes, and corrects the checksum. Returns whether the
/// frame was changed; everything else is left as it is.
pub fn clamp(frame: &mut [u8], largest_ip_packet: usize) -> bool {
    clamp_with(frame, largest_ip_packet, TcpChecksum::Complete)
}

/// [`clamp`] for a frame whose checksum may be left to the device.
pub fn clamp_with(frame: &mut [u8], largest_ip_packet: usize, checksum: TcpChecksum) -> bool {
    let Some((tcp, fixed_headers)) = tcp_start(frame) else {
        return false;
    };
    let segment = &mut frame[tcp.offset..tcp.end];
    let Some((at, offered)) = offered_mss(segment) else {
        return false;
    };
    let largest = largest_ip_packet
        .saturating_sub(fixed_headers)
        .max(SMALLEST);
    let Ok(lowered) = u16::try_from(largest) else {
        return false;
    };
    if offered <= lowered {
        return false;
    }
    if checksum == TcpChecksum::Complete {
        correct_checksum(segment, at, offered, lowered);
    }
    segment[at..at + 2].copy_from_slice(&lowered.to_be_bytes());
    true
}

/// Where the TCP header of a frame is, and the bytes of fixed headers that the
/// MSS leaves out. Most frames are done with after one or two comparisons.
fn tcp_start(frame: &[u8]) -> Option<(Transport, usize)> {
    let network = NetworkLayer::find(frame).ok()?;
    let packet = &frame[network.offset..];
    let (transport, header) = match network.ethertype {
        ethertype::IPV4 => (
            Ipv4Packet::new_checked(packet).ok()?.transport(),
            IPV4_HEADER,
        ),
        ethertype::IPV6 => (
            Ipv6Packet::new_checked(packet).ok()?.transport().ok()?,
            IPV6_HEADER,
        ),
        _ => return None,
    };
    if transport.protocol != protocol::TCP || transport.fragment_offset != 0 {
        return None;
    }
    let (offset, end) = (
        network.offset + transport.offset,
        network.offset + transport.end,
    );
    Some((
        Transport {
            offset,
            end,
            ..transport
        },
        header + TCP_HEADER,
    ))
}

fn offered_mss(segment: &[u8]) -> Option<(usize, u16)> {
    let segment = TcpSegment::new_checked(segment).ok()?;
    if !segment.is_syn() {
        return None;
    }
    segment.mss()
}

fn correct_checksum(segment: &mut [u8], at: usize, old: u16, new: u16) {
    const FIELD: usize = TcpSegment::<&[u8]>::CHECKSUM;
    let Some(field) = segment.get_mut(FIELD..FIELD + 2) else {
        return;
    };
    // An option may start at an odd offset, where each byte weighs as much as
    // its neighbour does in an aligned word.
    let aligned = |word: u16| if at % 2 == 1 { word.swap_bytes() } else { word };
    let sum = u16::from_be_bytes([field[0], field[1]]);
    field.copy_from_slice(&updated_checksum(sum, aligned(old), aligned(new)).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proto::ip::{Checksum, Ipv6Repr};
    use std::net::{Ipv4Addr, Ipv6Addr};

    const SYN: u8 = 2;
    const ACK: u8 = 16;

    fn segment(flags: u8, options: &[u8]) -> Vec<u8> {
        assert_eq!(options.len() % 4, 0);
        let mut out = vec![
            0x12, 0x34, 0, 80, 1, 2, 3, 4, 0, 0, 0, 0, 0, flags, 0xff, 0xff, 0, 0, 0, 0,
        ];
        out[12] = ((20 + options.len()) as u8 / 4) << 4;
        out.extend_from_slice(options);
        out
    }

    fn with_checksum(mut segment: Vec<u8>, pseudo: Checksum) -> Vec<u8> {
        let sum = pseudo.bytes(&segment).finish();
        segment[16..18].copy_from_slice(&sum.to_be_bytes());
        segment
    }

    fn v4(tags: &[u8], segment: Vec<u8>) -> Vec<u8> {
        let pseudo = v4_pseudo(segment.len());
        let segment = with_checksum(segment, pseudo);
        let total = (24 + segment.len()) as u16;
        // With one word of IP options, which the MSS does not count.
        let mut ip = vec![
            0x46, 0, 0, 0, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 1, 1, 1, 1,
        ];
        ip[2..4].copy_from_slice(&total.to_be_bytes());
        [&[2; 12][..], tags, &[8, 0], &ip, &segment].concat()
    }

    fn v4_pseudo(len: usize) -> Checksum {
        Checksum::pseudo_ipv4(
            Ipv4Addr::new(10, 0, 0, 1),
            Ipv4Addr::new(10, 0, 0, 2),
            6,
            len as u16,
        )
    }

    fn v6(first: u8, extensions: &[u8], segment: Vec<u8>) -> Vec<u8> {
        let pseudo = v6_pseudo(segment.len());
        let segment = with_checksum(segment, pseudo);
        let ip = Ipv6Repr {
            source: Ipv6Addr::LOCALHOST,
            destination: Ipv6Addr::LOCALHOST,
            next_header: first,
            hop_limit: 64,
            payload_len: (extensions.len() + segment.len()) as u16,
        };
        [
            &[2; 12][..],
            &[0x86, 0xdd],
            &ip.emit(),
            extensions,
            &segment,
        ]
        .concat()
    }

    fn v6_pseudo(len: usize) -> Checksum {
        Checksum::pseudo_ipv6(Ipv6Addr::LOCALHOST, Ipv6Addr::LOCALHOST, 6, len as u32)
    }

    fn mss_of(frame: &[u8], tcp: usize) -> u16 {
        TcpSegment::new_checked(&frame[tcp..])
            .unwrap()
            .mss()
            .unwrap()
            .1
    }

    #[test]
    fn a_large_offer_is_lowered_and_the_checksum_holds() {
        let aligned = [2, 4, 5, 0xb4];
        let odd = [1, 2, 4, 5, 0xb4, 1, 1, 0];
        for options in [&aligned[..], &odd] {
            for flags in [SYN, SYN | ACK] {
                let tags = [
                    &[][..],
                    &[0x81, 0, 0, 7],
                    &[0x88, 0xa8, 0, 7, 0x81, 0, 0, 9],
                ];
                for tags in tags {
                    let tcp = 14 + tags.len() + 24;
                    let mut frame = v4(tags, segment(flags, options));
                    assert!(clamp(&mut frame, 1400));
                    assert_eq!(mss_of(&frame, tcp), 1360);
                    assert!(v4_pseudo(frame.len() - tcp).bytes(&frame[tcp..]).is_valid());
                    assert!(!clamp(&mut frame, 1400), "once is enough");
                }
                let mut frame = v6(60, &[6, 0, 1, 4, 0, 0, 0, 0], segment(flags, options));
                assert!(clamp(&mut frame, 1400));
                assert_eq!(mss_of(&frame, 62), 1340);
                assert!(v6_pseudo(frame.len() - 62).bytes(&frame[62..]).is_valid());
            }
        }
    }

    #[test]
    fn everything_else_stays_as_it_is() {
        let offer = [2, 4, 5, 0xb4];
        let mut udp = v4(&[], segment(SYN, &offer));
        udp[14 + 9] = 17;
        let mut later_fragment = v4(&[], segment(SYN, &offer));
        later_fragment[14 + 7] = 3;
        let v6_fragment = [6, 0, 0, 8, 0, 0, 0, 1];
        for (what, frame) in [
            ("small offer", v4(&[], segment(SYN, &[2, 4, 2, 0]))),
            ("exact offer", v4(&[], segment(SYN, &[2, 4, 5, 0x50]))),
            ("no SYN", v4(&[], segment(ACK, &offer))),
            ("no option", v4(&[], segment(SYN, &[1, 1, 1, 0]))),
            ("UDP", udp),
            ("later fragment", later_fragment),
            (
                "later fragment, v6",
                v6(44, &v6_fragment, segment(SYN, &offer)),
            ),
            (
                "three tags",
                v4(&[0x81, 0, 0, 1].repeat(3), segment(SYN, &offer)),
            ),
            ("truncated", v4(&[], segment(SYN, &offer))[..60].to_vec()),
        ] {
            let mut after = frame.clone();
            assert!(!clamp(&mut after, 1400), "{what}");
            assert_eq!(after, frame, "{what}");
        }
    }

    #[test]
    fn a_first_fragment_and_an_absurd_limit_are_handled() {
        let mut first = v6(
            44,
            &[6, 0, 0, 1, 0, 0, 0, 1],
            segment(SYN, &[2, 4, 5, 0xb4]),
        );
        assert!(clamp(&mut first, 1400));
        let mut frame = v4(&[], segment(SYN, &[2, 4, 5, 0xb4]));
        assert!(clamp(&mut frame, 0));
        assert_eq!(usize::from(mss_of(&frame, 38)), SMALLEST);
        assert!(!clamp(&mut frame, usize::MAX));
    }

    #[test]
    fn a_partial_checksum_is_left_to_the_device() {
        let mut frame = v4(&[], segment(SYN, &[2, 4, 5, 0xb4]));
        let before = frame[38 + 16..38 + 18].to_vec();
        assert!(clamp_with(&mut frame, 1400, TcpChecksum::Partial));
        assert_eq!(mss_of(&frame, 38), 1360);
        assert_eq!(frame[38 + 16..38 + 18], before);
    }

    proptest! {
        #[test]
        fn the_checksum_always_holds(mss: u16, limit in 0usize..70_000, nops in 0usize..4, ports: [u8; 4]) {
            let mut options = vec![1; nops];
            options.extend_from_slice(&[2, 4]);
            options.extend_from_slice(&mss.to_be_bytes());
            options.resize(8, 0);
            let mut tcp = segment(SYN, &options);
            tcp[..4].copy_from_slice(&ports);
            let mut frame = v4(&[], tcp);
            clamp(&mut frame, limit);
            prop_assert!(v4_pseudo(frame.len() - 38).bytes(&frame[38..]).is_valid());
            let largest = limit.saturating_sub(40).max(SMALLEST);
            prop_assert_eq!(usize::from(mss_of(&frame, 38)), usize::from(mss).min(largest));
        }

        #[test]
        fn no_bytes_make_it_panic(
            kind in prop::sample::select(vec![[8u8, 0, 0x45], [0x86, 0xdd, 0x60], [0x81, 0, 0]]),
            mut bytes in prop::collection::vec(any::<u8>(), 0..120), limit: usize,
        ) {
            if let Some(version) = bytes.first_mut() {
                *version = kind[2];
            }
            let mut frame = [&[2; 12][..], &kind[..2], &bytes].concat();
            clamp(&mut frame, limit);
        }
    }
}
