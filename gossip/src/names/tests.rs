//! Names against a model, and what single changes do.

use proptest::prelude::*;
use proto::record::{Body, Record, RecordKey, Topic, Version};

use super::*;
use crate::limits::checked_body;

fn id(n: u8) -> PeerId {
    PeerId([n; 16])
}

fn ip(n: u8) -> IpAddr {
    [10, 0, 0, n].into()
}

fn name(text: &str, addresses: &[u8]) -> Name {
    Name {
        name: text.into(),
        addresses: addresses.iter().map(|n| ip(*n)).collect(),
    }
}

fn standing(reachable: bool) -> Standing {
    let launch = 0;
    Standing { reachable, launch }
}

fn names_of(directory: &Directory, address: u8) -> Vec<String> {
    let address = ip(address);
    let names = directory.names_of(&address);
    names.map(ToString::to_string).collect()
}

#[test]
fn a_name_has_the_addresses_of_all_its_owners() {
    let mut directory = Directory::default();
    directory.report(id(1), 0, (1, &[name("web", &[1, 2])]), standing(true));
    directory.report(id(2), 0, (1, &[name("web", &[2, 3])]), standing(true));
    directory.report(id(3), 0, (1, &[name("web", &[4])]), standing(false));
    assert_eq!(directory.lookup("web"), Some(vec![ip(1), ip(2), ip(3)]));
    assert_eq!(names_of(&directory, 2), ["web"]);
    directory.reach_changed(&id(1), false);
    assert_eq!(directory.lookup("web"), Some(vec![ip(2), ip(3)]));
    directory.reach_changed(&id(3), true);
    directory.remove(&id(2));
    assert_eq!(directory.lookup("web"), Some(vec![ip(4)]));
    directory.report(id(3), 0, (1, &[]), standing(true));
    assert_eq!(directory.lookup("web"), None);
    assert!(names_of(&directory, 2).is_empty());
}

#[test]
fn a_name_that_is_withdrawn_leaves_the_others_of_its_address() {
    let mut directory = Directory::default();
    let names = [name("a", &[1]), name("b", &[1]), name("c", &[1])];
    directory.report(id(1), 0, (1, &names), standing(true));
    directory.report(id(2), 0, (1, &names[..1]), standing(true));
    directory.report(id(1), 0, (1, &names[2..]), standing(true));
    assert_eq!(names_of(&directory, 1), ["a", "c"]);
    directory.remove(&id(2));
    assert_eq!(names_of(&directory, 1), ["c"]);
}

#[test]
fn what_was_said_before_a_launch_counts_no_more() {
    let mut directory = Directory::default();
    directory.report(id(1), 0, (1, &[name("old", &[1])]), standing(true));
    directory.report(id(1), 1, (1, &[name("kept", &[2])]), standing(true));
    directory.relaunched(id(1), 2);
    assert_eq!(directory.lookup("old"), None);
    let (reachable, launch) = (true, 2);
    let standing = Standing { reachable, launch };
    directory.report(id(1), 1, (2, &[name("kept", &[2])]), standing);
    directory.report(id(1), 0, (1, &[name("old", &[1])]), standing);
    assert_eq!(directory.lookup("old"), None);
    assert_eq!(directory.lookup("kept"), Some(vec![ip(2)]));
}

#[test]
fn a_name_above_others_exists_without_addresses() {
    let mut directory = Directory::default();
    directory.report(
        id(1),
        0,
        (1, &[name("a.b.c", &[1]), name("b.c", &[2])]),
        standing(true),
    );
    let changed = directory.take_changed();
    assert_eq!(changed.names.len(), 3, "{changed:?}");
    assert_eq!(directory.lookup("c"), Some(vec![]));
    assert_eq!(directory.lookup("b.c"), Some(vec![ip(2)]));
    directory.report(id(1), 0, (1, &[name("a.b.c", &[1])]), standing(true));
    assert_eq!(directory.lookup("b.c"), Some(vec![]));
    directory.report(id(1), 0, (1, &[]), standing(true));
    assert_eq!(
        (directory.lookup("c"), directory.lookup("b.c")),
        (None, None)
    );
    assert!(directory.names.is_empty() && directory.addresses.is_empty());
}

#[test]
fn names_are_brought_into_one_form() {
    assert_eq!(canonical("Web.API."), Some("web.api".into()));
    assert_eq!(canonical("a_b-1"), Some("a_b-1".into()));
    assert!(canonical(&"a.".repeat(16)).is_some());
    let long = [
        "a".repeat(64),
        "a.".repeat(17),
        format!("{}.", "a".repeat(60)).repeat(3),
    ];
    let bad = ["", ".", "a..b", ".a", "a b", "\u{e4}", "a\0"];
    for bad in bad.into_iter().chain(long.iter().map(String::as_str)) {
        assert_eq!(canonical(bad), None, "{bad:?}");
    }
}

#[test]
fn the_number_of_names_is_bounded() {
    let mut local = LocalNames::new();
    let many = (0..5000u32).map(|n| (format!("name-{n}"), IpAddr::from(n.to_be_bytes())));
    assert!(!local.set(many));
    let told: usize = local
        .take_changed()
        .iter()
        .flat_map(|(_, names)| &names.names)
        .map(|name| name.addresses.len())
        .sum();
    assert_eq!(told, NAMES_PER_PEER);
}

/// Launch, whether in reach, and what each part said in which launch.
type Model = (u64, bool, BTreeMap<u16, (u64, Given)>);
type Given = BTreeSet<(String, IpAddr)>;

fn pairs() -> impl Strategy<Value = BTreeSet<(String, IpAddr)>> {
    let label = prop_oneof![Just("a"), Just("bb"), Just("long-label-of-some-length")];
    let text = prop::collection::vec(label, 1..5).prop_map(|labels| labels.join("."));
    let address = prop_oneof![
        any::<u8>().prop_map(ip),
        any::<u8>().prop_map(|n| [0xfd00, 0, 0, 0, 0, 0, 0, u16::from(n)].into())
    ];
    prop::collection::btree_set((text, address), 0..120)
}

proptest! {
    #[test]
    fn parts_fit_a_record_and_hold_every_name(steps in prop::collection::vec(pairs(), 1..6)) {
        let (mut local, mut directory) = (LocalNames::new(), Directory::default());
        for pairs in steps {
            prop_assert!(local.set(pairs.clone()));
            for (part, names) in local.take_changed() {
                let topic = Topic::Names(part);
                let body = Body::Names(names.clone()).encode();
                prop_assert!(body.len() <= MAX_BODY);
                let record = Record::new(RecordKey { owner: id(1), topic }, Version::default(), body);
                prop_assert!(checked_body(&record).is_ok());
                directory.report(id(1), part, (1, &names.names), standing(true));
            }
            let held: BTreeSet<(String, IpAddr)> =
                directory.iter().map(|(name, address, _)| (name.to_owned(), address)).collect();
            prop_assert_eq!(&held, &pairs);
            for (name, address) in &pairs {
                prop_assert!(directory.names_of(address).any(|n| **n == **name));
            }
        }
    }

    /// Whatever happens in whatever order, only the last word of each counts.
    #[test]
    fn the_directory_follows_from_the_last_state_alone(
        steps in prop::collection::vec((0u8..4, 0u16..3, 1u64..3, pairs(), 0u8..6, any::<bool>()), 0..30)
    ) {
        let mut directory = Directory::default();
        let mut last: BTreeMap<PeerId, Model> = BTreeMap::new();
        for (peer, part, epoch, pairs, kind, flag) in steps {
            let peer = id(peer);
            let model = last.entry(peer).or_default();
            match kind {
                0 => {
                    directory.reach_changed(&peer, flag);
                    model.1 = flag;
                }
                1 => {
                    directory.relaunched(peer, epoch);
                    model.0 = epoch;
                }
                2 => {
                    directory.remove(&peer);
                    last.remove(&peer);
                }
                _ => {
                    let mut grouped: BTreeMap<&str, Vec<IpAddr>> = BTreeMap::new();
                    pairs.iter().for_each(|(name, address)| grouped.entry(name).or_default().push(*address));
                    let names: Vec<Name> = grouped
                        .into_iter()
                        .map(|(name, addresses)| Name { name: name.into(), addresses })
                        .collect();
                    model.1 = flag;
                    let standing = Standing { reachable: flag, launch: model.0 };
                    directory.report(peer, part, (epoch, &names), standing);
                    model.2.insert(part, (epoch, pairs));
                }
            }
        }
        let expected: BTreeSet<(String, IpAddr, PeerId)> = last
            .iter()
            .filter(|(_, model)| model.1)
            .flat_map(|(peer, model)| {
                let parts = model.2.values().filter(|(epoch, _)| *epoch >= model.0);
                parts.flat_map(|(_, pairs)| pairs.iter().map(|(name, address)| (name.clone(), *address, *peer)))
            })
            .collect();
        let held: BTreeSet<_> =
            directory.iter().map(|(name, address, owner)| (name.to_owned(), address, owner)).collect();
        prop_assert_eq!(held, expected);
    }
}
