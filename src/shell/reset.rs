//! `wove reset` where no daemon runs: what a dead one left behind.

use std::path::Path;

use anyhow::{Context, Result};

use super::{
    daemon, esp,
    host::{Host, TunnelConfig},
    store::Store,
};

/// Removes the fast path and wove's devices of `bridge` from this host, puts back
/// what was changed in containers' files, then removes the state directory.
///
/// # Errors
/// A daemon holds the state directory, or the kernel refuses.
pub fn reset_host(state_dir: &Path, bridge: &str) -> Result<()> {
    let store = Store::open(state_dir).context("nothing was reset")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let host = Host::new()?;
        // Before the device goes: what is left would be in clear.
        esp::take_down(&host, &TunnelConfig::new(bridge, 0)).await?;
        host.tear_down(bridge).await
    })?;
    daemon::restore_from(&store);
    store.erase()?;
    Ok(())
}
