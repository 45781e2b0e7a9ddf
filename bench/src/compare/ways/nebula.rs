//! nebula without a lighthouse: each knows where the other is.

use std::time::Duration;

use anyhow::Result;

use super::{FAR, Host, NEAR, Stage, Standing, ends, shown};

pub(super) fn up(stage: &mut Stage) -> Result<Standing> {
    stage.run(Host::Near, "nebula-cert ca -name compare -duration 24h")?;
    for (host, name, other) in ends(stage) {
        let (own, theirs) = if host == Host::Near {
            (NEAR, FAR)
        } else {
            (FAR, NEAR)
        };
        stage.run(host, &format!("nebula-cert sign -name {name} -ip {own}/24"))?;
        let file = |end: &str| stage.path(&format!("{name}.{end}")).display().to_string();
        let config = format!(
            "pki: {{ca: {}, cert: {}, key: {}}}\n\
             static_host_map: {{\"{theirs}\": [\"{other}:4242\"]}}\n\
             lighthouse: {{am_lighthouse: false, hosts: []}}\n\
             listen: {{host: 0.0.0.0, port: 4242, batch: 64}}\n\
             cipher: aes\n\
             tun: {{dev: neb0, mtu: 1420, tx_queue: 500}}\n\
             logging: {{level: error}}\n\
             firewall: {{outbound: [{{port: any, proto: any, host: any}}], inbound: [{{port: any, proto: any, host: any}}]}}\n",
            shown(&stage.path("ca.crt")),
            file("crt"),
            file("key"),
        );
        let config = stage.write(&format!("{name}.yml"), &config)?;
        stage.start(host, &format!("nebula -config {}", shown(&config)))?;
    }
    let standing = Standing::overlay()?;
    stage.until(Duration::from_secs(10), "ping through nebula", |stage| {
        stage.reaches(standing.far)
    })?;
    Ok(standing)
}
