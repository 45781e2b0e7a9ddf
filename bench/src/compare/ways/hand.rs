//! Kernel VXLAN between two hosts.

use anyhow::Result;

use super::{Stage, Standing, address, ends};

pub(super) fn up(stage: &mut Stage) -> Result<Standing> {
    for (host, _, other) in ends(stage) {
        let own = stage.underlay(host);
        let device = format!(
            "ip link add vx0 type vxlan id 42 dstport 4789 local {own} remote {other} dev eth0"
        );
        stage.run(host, &device)?;
    }
    address(stage, "vx0", 1450)
}
