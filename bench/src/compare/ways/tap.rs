//! Overlays of Ethernet: tinc, vpncloud and fastd, each of two hosts that know each other.

use std::{fs, thread, time::Duration};

use anyhow::{Context, Result};

use super::{Host, Stage, Standing, address, ends, shown};

/// As a switch, with its own choice of cipher.
pub(super) fn tinc(stage: &mut Stage) -> Result<Standing> {
    for (host, name, _) in ends(stage) {
        fs::create_dir_all(stage.path(&format!("{name}/hosts")))?;
        let connect = if host == Host::Far {
            "ConnectTo = near\n"
        } else {
            ""
        };
        stage.write(
            &format!("{name}/tinc.conf"),
            &format!("Name = {name}\nMode = switch\nDeviceType = tap\nInterface = tinc0\nAddressFamily = ipv4\n{connect}"),
        )?;
        let own = stage.underlay(host);
        stage.write(
            &format!("{name}/hosts/{name}"),
            &format!("Address = {own}\nPort = 655\n"),
        )?;
        // It asks where to put the keys; nobody answers, so it takes the usual places.
        stage.run(
            host,
            &format!("tincd -c {} -K2048", shown(&stage.path(name))),
        )?;
    }
    for (one, other) in [("near", "far"), ("far", "near")] {
        let from = stage.path(&format!("{one}/hosts/{one}"));
        fs::copy(&from, stage.path(&format!("{other}/hosts/{one}")))
            .context("the other's host file")?;
    }
    for (host, name, _) in ends(stage) {
        let (config, pid) = (stage.path(name), stage.path(&format!("{name}.pid")));
        stage.start(
            host,
            &format!("tincd -D -c {} --pidfile={}", shown(&config), shown(&pid)),
        )?;
    }
    let standing = address(stage, "tinc0", 1410)?;
    // It finds the path MTU before it sends by UDP.
    thread::sleep(Duration::from_secs(4));
    Ok(standing)
}

/// As a switch, with AES-128.
pub(super) fn vpncloud(stage: &mut Stage) -> Result<Standing> {
    for (host, _, other) in ends(stage) {
        // It does not start without one.
        stage.run(host, &format!("ip route add default via {other}"))?;
        let own = stage.underlay(host);
        stage.start(
            host,
            &format!(
                "vpncloud --no-port-forwarding -t tap -m switch -d vpnc0 -p compare-compare --algorithm aes128 \
                 -l {own}:3210 -c {other}:3210"
            ),
        )?;
    }
    let standing = address(stage, "vpnc0", 1413)?;
    thread::sleep(Duration::from_secs(2));
    Ok(standing)
}

/// With a TAP and its fastest method that encrypts.
pub(super) fn fastd(stage: &mut Stage) -> Result<Standing> {
    let mut keys = Vec::new();
    for (host, ..) in ends(stage) {
        let said = stage.run(host, "fastd --generate-key")?;
        let word = |name: &str| {
            let line = said.lines().find_map(|line| line.strip_prefix(name));
            line.map(|key| key.trim().to_owned())
                .with_context(|| format!("fastd says no {name} key"))
        };
        keys.push((word("Secret:")?, word("Public:")?));
    }
    for (number, (host, name, other)) in ends(stage).into_iter().enumerate() {
        let (own, secret, public) = (stage.underlay(host), &keys[number].0, &keys[1 - number].1);
        let config = format!(
            "log level warn;\nmode tap;\ninterface \"fastd0\";\nmtu 1406;\nbind {own}:10000;\nmethod \"salsa2012+umac\";\n\
             secret \"{secret}\";\npeer \"other\" {{ key \"{public}\"; remote {other}:10000; }}\n"
        );
        let config = stage.write(&format!("{name}.conf"), &config)?;
        stage.start(host, &format!("fastd -c {}", shown(&config)))?;
    }
    address(stage, "fastd0", 1406)
}
