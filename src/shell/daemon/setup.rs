//! What the router is told at launch, from the settings and what was kept.

use anyhow::{Context, Result};
use gossip::space::{Init, SpaceConfig};
use rand::{TryRngCore, rngs::OsRng};

use super::ipam;
use crate::{
    engine::{CAPABILITIES, Ranges, RouterConfig, SpaceSetup},
    shell::{
        config::{Config, IpallocInit},
        store::Store,
    },
};

/// How this peer takes part in the address space; none without a range.
pub(super) fn space_setup(config: &Config, store: &Store) -> Result<Option<SpaceSetup>> {
    let Some(range) = config.ipalloc_range else {
        return Ok(None);
    };
    let ranges = Ranges::new(range, config.ipalloc_range6).map_err(anyhow::Error::msg)?;
    let init = match &config.ipalloc_init {
        IpallocInit::Consensus(count) => {
            // Whoever resumes is no more alone than at the launch before.
            let seeds = match config.resume {
                true => store.targets()?.map_or(0, |targets| targets.len()),
                false => config.peers.len(),
            };
            Init::Consensus(count.map_or(seeds + 1, |count| count as usize))
        }
        IpallocInit::Seeds(seeds) => {
            Init::Seeds(seeds.iter().map(proto::PeerId::short_id).collect())
        }
        IpallocInit::Observer => Init::Observer,
    };
    Ok(Some(SpaceSetup {
        config: SpaceConfig {
            base: range.network(),
            prefix: range.prefix_len(),
            range6: ranges.range6(),
            init,
            dead_after: config.ipalloc_dead_after,
        },
        saved: ipam::load(store, range)?,
    }))
}

pub(super) fn router_config(
    config: &Config,
    space: Option<SpaceSetup>,
    epoch: u64,
    (underlay, mtu): (u32, u32),
) -> Result<RouterConfig> {
    let mut mesh = gossip::Config {
        discovery: config.discovery,
        ..gossip::Config::default()
    };
    if let Some(limit) = config.conn_limit {
        mesh.link_limit = usize::try_from(limit).unwrap_or(usize::MAX).min(320);
    }
    Ok(RouterConfig {
        nickname: config.nickname.clone().unwrap_or_default(),
        port: config.port,
        encrypt: config.encrypt,
        rekey_after: config.rekey_after,
        epoch,
        datagram_limit: datagram_limit(underlay),
        mtu,
        bridge: config.bridge.clone(),
        mesh,
        space,
        seed: {
            let mut seed = [0; 32];
            OsRng
                .try_fill_bytes(&mut seed)
                .context("the kernel gives no randomness")?;
            seed
        },
        version: env!("CARGO_PKG_VERSION").to_owned(),
        capabilities: CAPABILITIES,
    })
}

/// The host's name, at most 64 bytes of it.
pub(super) fn host_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(
        name.trim()
            .chars()
            .filter(char::is_ascii)
            .take(64)
            .collect(),
    )
}

/// The largest UDP payload over IPv4 on an underlay of that MTU.
fn datagram_limit(underlay: u32) -> usize {
    usize::try_from(underlay).unwrap_or(1500).saturating_sub(28)
}
