//! With whom frames in clear are agreed on, and when that ends.

use std::net::SocketAddr;

use super::{
    super::{
        super::{
            esp::tests::{origin, sessions},
            fastdp::tests::offer,
        },
        esp::tests::{meet, place, router},
    },
    *,
};

const PEER: PeerId = PeerId([2; 16]);
const TRUSTED: &str = "192.0.2.7:6783";
const OTHER: &str = "198.51.100.7:6783";

/// The peer is at an address that this end trusts.
fn trusting(now: Instant) -> Router {
    let mut router = router(now);
    meet(&mut router, PEER, sessions().0, now);
    place(&mut router, PEER, TRUSTED, now);
    router
}

fn hear(router: &mut Router, offer: VxlanOffer, esp: bool, from: &str, now: Instant) {
    let origin = Origin::Direct(Endpoint::Udp(from.parse().unwrap()));
    router.handle_offer(PEER, (offer, esp), origin, now);
}

fn fast(router: &Router) -> Entry {
    router.peers[&PEER].fast.entry().unwrap()
}

fn is_clear(router: &Router) -> bool {
    !fast(router).wish.esp
}

#[test]
fn clear_frames_that_rest_on_trust_end_when_a_local_address_goes() {
    let now = origin();
    for (protection, stays) in [(Protection::Sealed, false), (Protection::Clear, true)] {
        let mut router = trusting(now);
        router.peers.get_mut(&PEER).unwrap().sessions[0].protection = protection;
        let [one, two, other]: [SocketAddr; 3] =
            ["192.0.2.1:6783", "192.0.2.2:6783", "198.51.100.1:6783"]
                .map(|address| address.parse().unwrap());
        router.set_endpoints(vec![one, two], now);
        hear(&mut router, offer(9), false, TRUSTED, now);
        let peer = router.peers.get_mut(&PEER).unwrap();
        for token in 0..2 {
            peer.fast.probed(token, now);
            peer.fast.answered(token, now);
        }
        router.dirty.fast = true;
        router.set_endpoints(vec![one, two, other], now);
        let before = fast(&router);
        assert!(before.up, "one more is no reason");
        assert!(router.snapshot.fast[&before.wish.index].up);
        router.set_endpoints(vec![one, other], now);
        let after = fast(&router);
        assert_eq!((after.up, after == before), (stays, stays));
        let table = &router.snapshot.fast;
        assert_eq!(table.values().any(|way| way.up), stays, "at once");
        // The peer still agrees, and says so.
        hear(&mut router, offer(10), false, TRUSTED, now);
        assert_eq!(fast(&router).vni, Some(10));
    }
}

#[test]
fn an_offer_in_clear_counts_only_from_where_the_peer_is() {
    let now = origin();
    let mut router = trusting(now);
    for from in [OTHER, "192.0.2.8:6783"] {
        hear(&mut router, offer(9), false, from, now);
        assert_eq!(fast(&router).source, None, "{from}");
    }
    hear(&mut router, offer(9), false, "192.0.2.7:1024", now);
    assert_eq!(fast(&router).source, Some("192.0.2.7".parse().unwrap()));
    // By the session nothing is hidden anyway.
    let mut router = trusting(now);
    router.peers.get_mut(&PEER).unwrap().sessions[0].protection = Protection::Clear;
    hear(&mut router, offer(9), false, OTHER, now);
    assert_eq!(fast(&router).source, Some("198.51.100.7".parse().unwrap()));
}

#[test]
fn what_a_peer_insists_on_is_over_when_it_moves() {
    let now = origin();
    let mut router = trusting(now);
    assert!(is_clear(&router));
    hear(&mut router, offer(9), true, TRUSTED, now);
    assert!(!is_clear(&router));
    // Lost and found at the same place: it still does.
    router.lose_direct(PEER, now);
    place(&mut router, PEER, TRUSTED, now);
    assert!(!is_clear(&router));
    router.lose_direct(PEER, now);
    place(&mut router, PEER, "192.0.2.8:6783", now);
    assert!(is_clear(&router));
    place(&mut router, PEER, OTHER, now);
    assert!(!is_clear(&router), "not trusted");
}

#[test]
fn what_a_peer_insists_on_is_over_when_this_host_may_have_moved() {
    let now = origin();
    let mut router = trusting(now);
    let [here, there]: [SocketAddr; 2] =
        ["192.0.2.1:6783", "198.51.100.1:6783"].map(|address| address.parse().unwrap());
    router.set_endpoints(vec![here], now);
    hear(&mut router, offer(9), true, TRUSTED, now);
    router.set_endpoints(vec![here, there], now);
    assert!(!is_clear(&router), "one more is no reason");
    router.set_endpoints(vec![there], now);
    assert!(is_clear(&router));
}

#[test]
fn esp_is_asked_of_a_peer_only_where_it_is() {
    let now = origin();
    let answer = |from| {
        let mut router = trusting(now);
        place(&mut router, PEER, OTHER, now);
        assert!(!is_clear(&router));
        router.transmits.clear();
        hear(&mut router, offer(9), false, from, now);
        let answers = router.transmits.iter().map(|sent| sent.datagram.len());
        answers.collect::<Vec<_>>()
    };
    // What is sealed tells by its length whether it is an offer or a refusal.
    let (offer, refusal) = (answer(OTHER), answer(TRUSTED));
    assert_eq!((offer.len(), refusal.len()), (1, 1));
    assert!(offer > refusal, "{offer:?} {refusal:?}");
}

#[test]
fn the_default_mtu_leaves_room_for_esp_over_either() {
    assert_eq!(carried(1400, false) + IPV4, 1450);
    assert_eq!(carried(1396, true) + IPV6, 1500);
    assert_eq!(carried(1397, true) + IPV6, 1504);
    assert_eq!(carried(1400, true) + IPV4, 1484);
}
