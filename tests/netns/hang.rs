//! A disk that does not answer, and a kernel that takes no orders about devices: links
//! and frames must not wait for either.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use tempfile::TempDir;

use crate::ipam::{PASSWORD, attach};
use crate::lab::probe::ping_within;
use crate::lab::{Container, Host, Lab, ensure, eventually, secs};

/// Longer than a silent link lives.
const HANGS: u64 = 12;

/// What makes a daemon's disk or kernel hang (`lab/hang.c`).
struct Hang {
    folder: TempDir,
}

impl Hang {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("there is a place for files");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/netns/lab/hang.c");
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
            .args([&folder.path().join("hang.so"), &source])
            .status();
        let built = built.expect("cc runs: Rust needs it, too");
        assert!(built.success(), "{} is not compiled", source.display());
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn launch(&self, host: &Host, arguments: &[&str]) {
        host.start_with(arguments, |command| {
            command.env("LD_PRELOAD", self.path("hang.so"));
            command.env("WOVE_HANG", self.folder.path());
        });
        host.wait_ready();
    }

    fn begin(&self, what: &str) {
        fs::write(self.path(what), "").expect("the folder can be written");
    }

    fn end(&self, what: &str) {
        fs::remove_file(self.path(what)).expect("it was made before");
    }
}

/// Two hosts with a container each; the first one's disk and kernel can hang.
fn pair(lab: &Lab, hang: &Hang, prepare: impl FnOnce(&Host)) -> ([Host; 2], [Container; 2]) {
    let hosts = ["hangs", "other"].map(|name| lab.host(name));
    prepare(&hosts[0]);
    let seed = hosts[1].endpoint().to_string();
    hosts[1].launch(PASSWORD);
    hang.launch(&hosts[0], &[PASSWORD, &[seed.as_str()]].concat());
    let containers = [1, 2].map(Container::new);
    let addresses = [0, 1].map(|at| attach(&hosts[at], &containers[at], &[]));
    ping_within(secs(20), &containers[0].netns, addresses[1]);
    (hosts, containers)
}

/// What both daemons know of the link between them.
fn links(hosts: &[Host; 2]) -> [usize; 2] {
    [0, 1].map(|at| hosts[at].log.count("link down"))
}

/// Attaches one more container to the host of which this hangs: longer than a silent
/// link lives, and until `noticed`.
fn attach_late(
    lab: &Lab,
    what: &str,
    prepare: impl FnOnce(&Host),
    noticed: impl FnOnce(&Host),
) -> (Host, Vec<Container>) {
    let hang = Hang::new();
    let (hosts, containers) = pair(lab, &hang, prepare);
    let (new, before) = (Container::new(3), links(&hosts));
    hang.begin(what);
    thread::scope(|scope| {
        let attaching = scope.spawn(|| attach(&hosts[0], &new, &[]));
        noticed(&hosts[0]);
        thread::sleep(secs(HANGS));
        assert_eq!(links(&hosts), before, "a link went down");
        hosts[0].status().expect("clients are served");
        ensure(!attaching.is_finished(), "it is done already");
        hang.end(what);
        let address = attaching.join().expect("the address comes at last");
        ping_within(secs(10), &containers[1].netns, address);
    });
    let known = hosts[0].json(&["ps"]).expect("ps answers");
    assert_eq!(known.as_array().map(Vec::len), Some(2), "{known}");
    let [host, _] = hosts;
    (host, containers.into_iter().chain([new]).collect())
}

#[test]
fn a_disk_that_hangs_costs_no_link_and_no_attachment() {
    let lab = Lab::new();
    lab.tolerate("the disk of the state directory");
    let (host, _containers) = attach_late(&lab, "disk", as_ever, |host| {
        let said = "the disk of the state directory has not answered";
        host.log.wait_for(secs(30), said);
    });
    let said = "the disk of the state directory answers again";
    host.log.wait_for(secs(10), said);
    let known = host.json(&["ps"]).expect("ps answers");
    host.kill();
    host.relaunch();
    assert_eq!(host.json(&["ps"]).expect("ps answers"), known);
}

/// A change of its host that a daemon looks at.
fn change(host: &Host) {
    host.also_at([10, 99, 0, 201].into());
}

fn as_ever(_: &Host) {}

#[test]
fn a_kernel_that_takes_no_orders_costs_no_link() {
    let lab = Lab::new();
    attach_late(&lab, "kernel", as_ever, change);
}

#[test]
fn nor_does_it_while_the_fast_path_is_tried_again_and_again() {
    let lab = Lab::new();
    lab.tolerate("no kernel fast path");
    let take_its_name = |host: &Host| host.netns.add_bridge("wove-vx");
    let (host, _containers) = attach_late(&lab, "kernel", take_its_name, change);
    host.netns.delete_link("wove-vx");
    eventually(secs(30), "the fast path is made at last", || {
        let made = host.netns.link_index("wove-vx");
        made.ok_or_else(|| "no device".to_owned())
    });
}

#[test]
fn secrets_are_in_force_once_the_disk_has_taken_them() {
    let lab = Lab::new();
    let hang = Hang::new();
    let (hosts, _containers) = pair(&lab, &hang, as_ever);
    let before = links(&hosts);
    let accepted = || hosts[0].json(&["token"]).expect("token answers")["accepted"].clone();
    hang.begin("disk");
    let outcomes = thread::scope(|scope| {
        let adding = [(); 2].map(|()| scope.spawn(|| hosts[0].cli(&["token", "add"])));
        thread::sleep(secs(HANGS));
        assert_eq!(links(&hosts), before, "a link went down");
        let waiting = adding.iter().filter(|adding| !adding.is_finished());
        assert_eq!(
            waiting.count(),
            1,
            "one waits for the disk, one for nothing"
        );
        assert_eq!(accepted(), 1);
        hang.end("disk");
        adding.map(|adding| adding.join().expect("wove runs"))
    });
    let (_, refused): (Vec<_>, Vec<_>) = outcomes.iter().partition(|o| o.status.success());
    let [refused] = refused.as_slice() else {
        panic!("{outcomes:?}");
    };
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("waits for the disk: try again"), "{said}");
    assert_eq!(accepted(), 2);
}
