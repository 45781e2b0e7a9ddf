//! Two daemons of wove, or three with one that relays; the hosts themselves are on the overlay.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};

use super::{Compare, FAR, Host, NEAR, Stage, Standing, Topology};

/// A daemon listens, or two are linked, after this.
const READY: Duration = Duration::from_secs(20);

pub(super) fn up(stage: &mut Stage, options: &Compare) -> Result<Standing> {
    let binary = fs::canonicalize(&options.wove)
        .with_context(|| format!("no wove at {}: build it first", options.wove.display()))?;
    let binary = binary.display().to_string();
    stage.write(
        "password",
        "a password that is long enough for a benchmark\n",
    )?;
    restrict(stage)?;
    let seed = match stage.topology() {
        Topology::Direct => stage.underlay(Host::Near),
        Topology::Relay => stage.underlay(Host::Between),
    };
    let more = &options.wove_options;
    for host in stage.hosts() {
        let name = format!("{host:?}").to_lowercase();
        // The far host reaches the one between on its own segment.
        let seed = match (stage.topology(), host) {
            (Topology::Relay, Host::Far) => "192.0.3.3".to_owned(),
            _ => seed.to_string(),
        };
        let launch = format!(
            "{binary} launch {more} --nickname {name} --password-file password --state-dir {name} --socket {name}.sock {seed}"
        );
        stage.start(*host, &launch)?;
        let status = format!("{binary} status --socket {name}.sock");
        stage.until(READY, "answer to `wove status`", |stage| {
            stage.run(*host, &status).is_ok()
        })?;
    }
    for (host, name, address) in [(Host::Near, "near", NEAR), (Host::Far, "far", FAR)] {
        stage.run(
            host,
            &format!("{binary} expose --socket {name}.sock {address}/24"),
        )?;
    }
    let standing = Standing::overlay()?;
    // Past the search for the path MTU, too.
    stage.until(READY, "ping through wove", |stage| {
        stage.reaches(standing.far)
    })?;
    std::thread::sleep(Duration::from_secs(2));
    Ok(standing)
}

/// wove takes no secret from a file that others may read.
fn restrict(stage: &Stage) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let path = stage.path("password");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    ensure!(path.is_file(), "the password was not written");
    Ok(())
}
