//! WireGuard in userspace, of whatever make.

use std::{fs, path::PathBuf, process};

use anyhow::Result;

use super::{DEVICE, FAR, NEAR, Stage, Standing, address, ends, shown};

/// `program` takes the device's name as its last argument and serves `wg` at the usual socket.
pub(super) fn up(stage: &mut Stage, program: &str) -> Result<Standing> {
    // The socket is named after the device, and all namespaces share its directory.
    let device = |name: &str| format!("wc{}{}", &name[..1], process::id());
    let mut public = Vec::new();
    for (host, name, _) in ends(stage) {
        let secret = stage.run(host, "wg genkey")?;
        let secret = stage.write(&format!("{name}.key"), &secret)?;
        public.push(stage.run(host, &format!("sh {}", shown(&derive(stage, &secret)?)))?);
        let _ = fs::remove_file(socket(&device(name)));
        stage.start(host, &format!("{program} {}", device(name)))?;
    }
    for ((host, name, other), (public, overlay)) in ends(stage)
        .into_iter()
        .zip([(&public[1], FAR), (&public[0], NEAR)])
    {
        let own = device(name);
        let path = socket(&own);
        stage.until(DEVICE, "socket for wg", |_| path.exists())?;
        let secret = shown(&stage.path(&format!("{name}.key"))).to_string();
        stage.run(
            host,
            &format!(
                "wg set {own} listen-port 51820 private-key {secret} peer {} allowed-ips {overlay}/32 endpoint {other}:51820",
                public.trim()
            ),
        )?;
        // The same name on both hosts makes them alike.
        stage.run(host, &format!("ip link set {own} name wg0"))?;
    }
    address(stage, "wg0", 1420)
}

fn socket(device: &str) -> PathBuf {
    PathBuf::from(format!("/var/run/wireguard/{device}.sock"))
}

/// A script that prints the public key of a secret one: it is read from standard input.
fn derive(stage: &Stage, secret: &std::path::Path) -> Result<PathBuf> {
    stage.write("derive", &format!("wg pubkey < {}\n", shown(secret)))
}
