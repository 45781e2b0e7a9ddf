//! Hosts behind gateways that translate addresses: who reaches whom directly,
//! and what a new address outside costs.

use std::time::Duration;

use crate::lab::probe::{PingFlow, ping_within};
use crate::lab::{Gate, Host, Lab, Nat, ensure, secs};

const PACE: Duration = Duration::from_millis(20);

/// A hub that all reach, and hosts behind gateways of these kinds, without the
/// kernel's fast path: what can be reached is about UDP port 6783.
pub(crate) fn behind(lab: &Lab, kinds: &[Nat]) -> (Host, Vec<Gate>) {
    let hub = lab.host("hub");
    hub.launch(&["--no-fastdp"]);
    let token = hub.token();
    let gates: Vec<_> = kinds
        .iter()
        .enumerate()
        .map(|(at, nat)| lab.behind(*nat, &format!("n{at}"), at + 1))
        .collect();
    for gate in &gates {
        gate.inside.join(&token, &[&hub], &["--no-fastdp"]);
    }
    (hub, gates)
}

#[test]
fn every_pair_communicates_and_directly_where_it_can() {
    let lab = Lab::new();
    let kinds = [Nat::ALL, Nat::ALL].concat();
    let (hub, gates) = behind(&lab, &kinds);
    hub.wait_peers(secs(30), gates.len() + 1);
    let containers: Vec<_> = gates.iter().map(|gate| gate.inside.container()).collect();
    for left in 0..4 {
        for right in 4..8 {
            let pair = format!("{:?} and {:?}", kinds[left], kinds[right]);
            let (a, b) = (&gates[left].inside, &gates[right].inside);
            a.wait_station(secs(15), &containers[right]);
            b.wait_station(secs(15), &containers[left]);
            ping_within(secs(10), &containers[left].netns, containers[right].v4);
            let flow = PingFlow::start(&containers[left].netns, containers[right].v4, PACE);
            flow.wait_answer(secs(10));
            let path = match kinds[left].can_meet(kinds[right]) {
                true => "sleeve",
                false => "relay",
            };
            for (from, to) in [(a, b), (b, a)] {
                from.wait_connection(secs(20), to, |c| c["path"] == path);
            }
            flow.wait_answer(secs(5));
            let report = flow.stop();
            ensure(report.lost == 0, format_args!("{pair}: {report:?}"));
        }
    }
}
