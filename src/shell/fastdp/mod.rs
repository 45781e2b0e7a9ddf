//! The kernel fast path: loads the programs, keeps their maps in step with
//! the engine's snapshots, reads what they count.
//!
//! | file | what |
//! |---|---|
//! | `fastdp.bpf.c`, `kernel.h` | the programs, and how the kernel calls them |
//! | `fastdp.bpf.o`, `build` | them compiled, and the command that did it |
//! | `table` | snapshots as contents of the maps, and the differences |
//!
//! It knows interface indexes, and nothing of how the devices are made (`host`
//! does that) or of what makes a path good (the engine does).

mod table;

use std::{collections::BTreeMap, net::IpAddr};

use anyhow::{Context, Result};
use aya::{
    Ebpf, EbpfLoader, include_bytes_aligned,
    maps::{Array, HashMap, MapData, PerCpuArray, PerCpuHashMap, PerCpuValues},
    programs::{
        SchedClassifier, TcAttachType,
        tc::{NlOptions, SchedClassifierLink, TcAttachOptions, qdisc_add_clsact},
    },
    util::nr_cpus,
};
use proto::MacAddr;

use super::host::{Tunnel, TunnelConfig};
use crate::engine::{
    DropReason, Snapshot,
    counters::{PeerCounters, PeerTotals},
};
use table::{Change, PeerEntry, Table};

static OBJECT: &[u8] = include_bytes_aligned!("fastdp.bpf.o");

/// Values of `enum drop` in the programs, in order.
const DROPS: [DropReason; 3] = [
    DropReason::ForeignVni,
    DropReason::ForeignSource,
    DropReason::Malformed,
];

/// Ahead of all others on devices that are ours alone.
const PRIORITY: u16 = 1;

/// Changes what is there, and adds nothing.
const BPF_EXIST: u64 = 2;

/// Counters of one peer in the kernel: frames and bytes received, sent.
type Tally = [u64; 4];

/// The loaded programs and their maps. Dropping it takes them off the TAP; on the
/// VXLAN device they stay, for it must not be without them.
pub(super) struct FastDp {
    programs: Ebpf,
    /// On the TAP.
    link: Option<SchedClassifierLink>,
    settings: Array<MapData, [u32; 2]>,
    stations: HashMap<MapData, [u8; 8], u32>,
    locals: HashMap<MapData, [u8; 8], u64>,
    peers: HashMap<MapData, u32, [u32; 14]>,
    tallies: PerCpuHashMap<MapData, u32, Tally>,
    drops: PerCpuArray<MapData, u64>,
    table: Table,
    bound: Option<IpAddr>,
    cpus: usize,
    counted: BTreeMap<u32, (Tally, std::sync::Arc<PeerCounters>)>,
    dropped: [u64; DROPS.len()],
    seen: BTreeMap<MacAddr, u64>,
}

impl FastDp {
    /// Loads the programs into the kernel. `bound` is the local address that
    /// datagrams leave from, if the operator chose one.
    ///
    /// # Errors
    /// The kernel refuses: no BPF, or no right to use it.
    pub(super) fn load(bound: Option<IpAddr>) -> Result<Self> {
        let mut programs = EbpfLoader::new().btf(None).load(OBJECT)?;
        for name in ["to_peer", "from_peer", "probe"] {
            program(&mut programs, name)?.load()?;
        }
        Ok(Self {
            link: None,
            settings: Array::try_from(map(&mut programs, "settings")?)?,
            stations: HashMap::try_from(map(&mut programs, "stations")?)?,
            locals: HashMap::try_from(map(&mut programs, "locals")?)?,
            peers: HashMap::try_from(map(&mut programs, "peers")?)?,
            tallies: PerCpuHashMap::try_from(map(&mut programs, "tallies")?)?,
            drops: PerCpuArray::try_from(map(&mut programs, "drops")?)?,
            table: Table::default(),
            bound: bound.filter(|ip| !ip.is_unspecified()),
            cpus: nr_cpus().map_err(|(_, error)| error)?,
            counted: BTreeMap::new(),
            dropped: [0; DROPS.len()],
            seen: BTreeMap::new(),
            programs,
        })
    }

    /// Puts the programs on the devices, anew if they were there: the VXLAN device
    /// is a new one each time. The maps stay, so paths go on.
    pub(super) fn attach(&mut self, config: &TunnelConfig, tunnel: Tunnel) -> Result<()> {
        self.link = None;
        self.settings.set(0, [tunnel.tap, tunnel.device], 0)?;
        let (tap, device) = (config.tap.as_str(), config.name.as_str());
        for (name, interface, way) in [
            ("from_peer", device, TcAttachType::Ingress),
            ("probe", device, TcAttachType::Egress),
            ("to_peer", tap, TcAttachType::Egress),
        ] {
            // Fails if it is there, and then attaching does not.
            let _ = qdisc_add_clsact(interface);
            // Not by a link of the newer kind (tcx): that ends with the daemon,
            // and the device would be unguarded after a crash.
            let options = TcAttachOptions::Netlink(NlOptions {
                priority: PRIORITY,
                ..NlOptions::default()
            });
            let program = program(&mut self.programs, name)?;
            let link = program
                .attach_with_options(interface, way, options)
                .with_context(|| format!("program {name} on '{interface}'"))?;
            let link = program.take_link(link)?;
            if interface == tap {
                self.link = Some(link);
            } else {
                // Dropped, it would take the program off, also where the device
                // stays; it has nothing else to free.
                std::mem::forget(link);
            }
        }
        Ok(())
    }

    /// Leaves all frames to userspace, or no longer. While the devices are made
    /// anew, which takes its time on a busy kernel, they would go nowhere.
    pub(super) fn hold(&mut self, on: bool) {
        for (index, value) in self.table.peers() {
            let value = if on { table::not_up(*value) } else { *value };
            // A peer that the kernel did not take has no frames by it.
            let _ = self.peers.insert(index, value, BPF_EXIST);
        }
    }

    /// Brings the maps in step with a snapshot. What the kernel does not take
    /// goes by sleeve.
    pub(super) fn apply(&mut self, snapshot: &Snapshot) {
        let mut refused = 0_u32;
        for change in self.table.update(snapshot, self.bound) {
            let done = match change {
                Change::Peer(index, entry) => self.put_peer(index, &entry),
                Change::NoPeer(index) => self.take_peer(index),
                Change::Station(mac, index) => self.stations.insert(key(mac), index, 0),
                Change::NoStation(mac) => self.stations.remove(&key(mac)),
                Change::Local(mac) => self.locals.insert(key(mac), 0, 0),
                Change::NoLocal(mac) => {
                    self.seen.remove(&mac);
                    self.locals.remove(&key(mac))
                }
            };
            refused += u32::from(done.is_err());
        }
        if refused > 0 {
            tracing::debug!(refused, "the kernel did not take all of the fast path");
        }
    }

    /// Adds what the kernel counted since the last call to the snapshot's counters.
    pub(super) fn count(&mut self, snapshot: &Snapshot) {
        for (index, (before, counters)) in &mut self.counted {
            let Ok(values) = self.tallies.get(index, 0) else {
                continue;
            };
            let mut now = Tally::default();
            for value in values.iter() {
                now.iter_mut().zip(value).for_each(|(sum, v)| *sum += v);
            }
            if now == *before {
                continue;
            }
            let more: Vec<u64> = now
                .iter()
                .zip(&*before)
                .map(|(now, before)| now.saturating_sub(*before))
                .collect();
            *before = now;
            counters.carried_by_kernel(PeerTotals {
                rx_frames: more[0],
                rx_bytes: more[1],
                tx_frames: more[2],
                tx_bytes: more[3],
            });
        }
        for ((slot, reason), before) in (0..).zip(DROPS).zip(&mut self.dropped) {
            let Ok(values) = self.drops.get(&slot, 0) else {
                continue;
            };
            let now: u64 = values.iter().sum();
            let counters = &snapshot.shared.counters;
            counters.add(reason, now.saturating_sub(*before));
            *before = now;
        }
    }

    /// Local stations that sent something this way since the last call.
    pub(super) fn awake(&mut self) -> Vec<MacAddr> {
        let mut awake = Vec::new();
        for mac in self.table.locals() {
            let Ok(at) = self.locals.get(&key(*mac), 0) else {
                continue;
            };
            if self.seen.insert(*mac, at) != Some(at) && at != 0 {
                awake.push(*mac);
            }
        }
        awake
    }

    /// Whether any peer may be reached this way.
    pub(super) fn in_use(&self) -> bool {
        !self.counted.is_empty()
    }

    fn put_peer(&mut self, index: u32, entry: &PeerEntry) -> Result<(), aya::maps::MapError> {
        if !self.counted.contains_key(&index) {
            let zero = PerCpuValues::try_from(vec![Tally::default(); self.cpus])?;
            self.tallies.insert(index, zero, 0)?;
        }
        self.counted
            .entry(index)
            .or_insert_with(|| (Tally::default(), entry.counters.clone()));
        self.peers.insert(index, entry.value, 0)
    }

    fn take_peer(&mut self, index: u32) -> Result<(), aya::maps::MapError> {
        let removed = self.peers.remove(&index);
        self.counted.remove(&index);
        removed.and(self.tallies.remove(&index))
    }
}

fn program<'a>(programs: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier> {
    let program = programs.program_mut(name);
    let program = program.with_context(|| format!("the object has no program {name}"))?;
    Ok(program.try_into()?)
}

fn map(programs: &mut Ebpf, name: &str) -> Result<aya::maps::Map> {
    programs
        .take_map(name)
        .with_context(|| format!("the object has no map {name}"))
}

/// `struct mac` of the programs.
fn key(mac: MacAddr) -> [u8; 8] {
    let mut key = [0; 8];
    key[..6].copy_from_slice(&mac.0);
    key
}

#[cfg(test)]
mod tests {
    use std::{path::Path, process::Command};

    /// Whoever changes the source has to build it; where there is no clang of
    /// the same version this cannot be told.
    #[test]
    fn the_object_is_what_its_source_says() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/shell/fastdp");
        let version = Command::new("clang").arg("--version").output();
        let same = version.is_ok_and(|out| {
            let text = String::from_utf8_lossy(&out.stdout);
            text.contains("clang version 14.") && Path::new("/usr/bin/llvm-strip").exists()
        });
        if !same {
            return println!("not checked: the object was built with clang 14 (Debian 12)");
        }
        let made = tempfile::NamedTempFile::new().unwrap();
        let built = Command::new(folder.join("build")).arg(made.path()).status();
        assert!(built.unwrap().success(), "src/shell/fastdp/build fails");
        let (made, kept) = (std::fs::read(made.path()).unwrap(), super::OBJECT);
        assert!(
            made == kept,
            "fastdp.bpf.o is old: run src/shell/fastdp/build"
        );
    }
}
