//! Two halves that do not see each other for a long time, and then do again.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use proto::record::{RecordKey, Version};
use rand::{
    Rng,
    seq::{IndexedRandom, SliceRandom},
};

use super::{Run, Scenario, Start};
use crate::sim::{identity::mac, reach::Numbers, time::Time, world::World};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "partition",
    about: "two halves apart for half an hour, with changes on both sides: until they are one again",
    start: Start::Warm,
    spoils: false,
    rewrites: false,
    run,
};

const DURATION_S: u64 = 1800;
/// Shares of the peers that learn a station, die for good, and are restarted meanwhile.
const LEARN: f64 = 0.01;
const DIE: f64 = 0.005;
const RESTART: f64 = 0.01;
const STEP: Duration = Duration::from_millis(100);
/// Before the halves meet again nothing changes for so long, the end of which
/// is measured as the idle rate; the meeting is measured for as long.
const QUIET: Duration = Duration::from_secs(90);
const MEASURED: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(50);
/// Halves that are not one by then never will be.
const PATIENCE: Duration = Duration::from_secs(300);

/// What happens to a peer while the halves are apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    Learns,
    Dies,
    Restarts,
}

fn run(run: &mut Run<'_>) {
    let duration = run.duration(DURATION_S);
    let mut numbers: Vec<u32> = run.world.numbers().collect();
    numbers.shuffle(&mut run.rng);
    let half = Numbers::new(&numbers[..numbers.len() / 2]);
    run.world
        .shared
        .wan
        .partition(|host| u8::from(half.contains(host)));
    let dead = live_apart(run, duration.saturating_sub(QUIET));
    run.world.run_for(QUIET.saturating_sub(MEASURED));
    let before = received(run.world);
    run.world.run_for(MEASURED);
    let idle = received(run.world) - before;
    let idle_rate = idle as f64 / run.world.running().len() as f64 / MEASURED.as_secs_f64();
    run.figures.set("idle_bytes_in_per_peer_s", idle_rate);
    let difference = difference(run.world);
    meet(run, &dead, idle, difference);
    dead.into_iter().for_each(|peer| run.relaunch(peer));
}

/// Lets the two halves have their changes. Returns who died.
fn live_apart(run: &mut Run<'_>, duration: Duration) -> Vec<u32> {
    let fates = [
        (Fate::Learns, LEARN),
        (Fate::Dies, DIE),
        (Fate::Restarts, RESTART),
    ];
    let counts: Vec<(Fate, usize)> = fates.map(|(fate, share)| (fate, run.share(share))).into();
    let total = counts.iter().map(|(_, count)| count).sum();
    let running = run.world.running();
    let mut chosen = running
        .choose_multiple(&mut run.rng, total)
        .copied()
        .collect::<Vec<_>>();
    let mut due: BTreeMap<(Time, u32), Fate> = BTreeMap::new();
    for (fate, count) in counts {
        for peer in chosen.split_off(chosen.len().saturating_sub(count)) {
            let at = run.world.now + duration.mul_f64(run.rng.random_range(0.0..1.0));
            due.insert((at, peer), fate);
        }
    }
    let mut dead = Vec::new();
    let end = run.world.now + duration;
    while run.world.now < end {
        while let Some(entry) = due
            .first_entry()
            .filter(|entry| entry.key().0 <= run.world.now)
        {
            let ((_, peer), fate) = entry.remove_entry();
            match fate {
                Fate::Learns => learn(run, peer),
                Fate::Dies => {
                    run.world.crash(peer);
                    dead.push(peer);
                }
                Fate::Restarts => restart(run, peer),
            }
        }
        run.world.run_for(STEP);
    }
    dead
}

fn learn(run: &mut Run<'_>, peer: u32) {
    let mac = mac(0x4000_0000 | peer);
    run.world.with(peer, |host, net| {
        host.learn_station(mac, net);
    });
}

/// Ends a peer and launches it at once, with targets on its own side.
fn restart(run: &mut Run<'_>, peer: u32) {
    let links: Vec<u32> = run.world.host(peer).linked();
    let targets: Vec<u32> = links.choose_multiple(&mut run.rng, 3).copied().collect();
    run.world.stop(peer);
    run.world.launch(peer, &targets);
}

/// Joins the halves and measures what follows. `idle` is what all receive in
/// [`MEASURED`] without that, `difference` what they have to learn, in bytes.
fn meet(run: &mut Run<'_>, dead: &[u32], idle: u64, difference: Option<u64>) {
    let running = run.world.running();
    run.world.shared.wan.heal();
    let (begun, before) = (run.world.now, received(run.world));
    let healed = heal(run.world, &running);
    let heal_s = healed.unwrap_or(PATIENCE).as_secs_f64();
    if healed.is_none() {
        run.violated(format!("not one mesh {heal_s} s after the heal"));
    }
    run.world
        .run_for(MEASURED.saturating_sub(run.world.now.since(begun)));
    let beyond = (received(run.world) - before).saturating_sub(idle);
    let holds = |observer: &u32, peer: &u32| {
        let view = run.world.view(*observer);
        view.is_some_and(|view| view.reaches(*peer))
    };
    let zombies = running
        .iter()
        .flat_map(|observer| dead.iter().filter(move |peer| holds(observer, peer)))
        .count();
    run.figures.set("heal_s", heal_s);
    run.figures.set("zombies", zombies as f64);
    run.figures
        .set("heal_bytes_per_peer", beyond as f64 / running.len() as f64);
    if let Some(difference) = difference.filter(|difference| *difference > 0) {
        run.figures.set(
            "difference_per_peer",
            difference as f64 / running.len() as f64,
        );
        run.figures
            .set("heal_bytes_ratio", beyond as f64 / difference as f64);
    }
}

/// Goes on until everybody reaches everybody. Says how long that took, if it came to it.
fn heal(world: &mut World, running: &[u32]) -> Option<Duration> {
    let (begun, everybody) = (world.now, Numbers::new(running));
    let mut suspect = 0;
    while !world.all_reach(running, &everybody, &mut suspect) {
        if world.now.since(begun) >= PATIENCE {
            return None;
        }
        let reaches_all = |peer: &&u32| {
            let view = world.view(**peer);
            view.is_some_and(|view| view.reachable_count() + 1 >= running.len())
        };
        let (count, all) = (running.iter().filter(reaches_all).count(), running.len());
        world
            .progress
            .phase(format!("partition, {count} of {all} reach all"));
        world.run_for(LOOK);
    }
    Some(world.now - begun)
}

/// What all peers received so far, in bytes.
fn received(world: &World) -> u64 {
    world.traffic().iter().map(|traffic| traffic.in_bytes).sum()
}

/// Encoded bytes of what each peer lacks of the newest records of those that
/// run, summed up; nothing if the core does not show its records.
fn difference(world: &World) -> Option<u64> {
    let running = world.running();
    // Replicas with equal fingerprints are equal: few are different.
    let mut kinds: HashMap<(u64, usize), (u32, u64)> = HashMap::new();
    for peer in &running {
        let view = world.view(*peer)?;
        let kind = kinds.entry((view.fingerprint(), view.record_count()));
        kind.or_insert((*peer, 0)).1 += 1;
    }
    let mut newest: HashMap<RecordKey, (Version, u64)> = HashMap::new();
    let replicas: Vec<(u32, u64)> = kinds.into_values().collect();
    for (peer, _) in &replicas {
        let view = world.view(*peer)?;
        for record in view.records() {
            let owner = view.number(&record.key.owner);
            let runs = owner.is_some_and(|owner| world.host(owner).runs());
            let known = newest.get(&record.key);
            if runs && known.is_none_or(|(version, _)| *version < record.version) {
                newest.insert(record.key, (record.version, record.encode().len() as u64));
            }
        }
    }
    let total: u64 = newest.values().map(|(_, size)| size).sum();
    let mut lacking = 0;
    for (peer, count) in replicas {
        let held = world.view(peer)?.records();
        let current = held.iter().filter_map(|record| {
            let (version, size) = newest.get(&record.key)?;
            (*version == record.version).then_some(*size)
        });
        lacking += (total - current.sum::<u64>()) * count;
    }
    (total > 0).then_some(lacking)
}
