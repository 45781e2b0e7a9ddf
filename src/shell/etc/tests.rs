//! Files of this process's own root, in a mount namespace of the test's own.

use std::os::unix::fs::symlink;

use nix::{
    mount::{MsFlags, mount},
    sched::unshare,
};

use super::*;

/// Runs `work` with an empty tmpfs at /etc, seen by nobody else.
fn with_private_etc(work: impl FnOnce(&Place) + Send) {
    with_private_etc_and(|place, _| work(place));
}

/// The same, with the hosts file of this host.
fn with_private_etc_and(work: impl FnOnce(&Place, &File) + Send) {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test mounts a tmpfs: run it as root"
    );
    let none = None::<&str>;
    on_own_thread(|| {
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(none, "/", none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none)?;
        let hosts = File::open("/etc/hosts")?;
        mount(
            Some("tmpfs"),
            "/etc",
            Some("tmpfs"),
            MsFlags::empty(),
            Some("size=256k"),
        )?;
        // The root of a thread's own mount namespace: only threads of it see that.
        let tid = nix::unistd::gettid().as_raw();
        work(&Place::Process(u32::try_from(tid).unwrap()), &hosts);
        Ok(())
    })
    .unwrap();
}

fn set(place: &Place, known: Option<&Changed>, text: &str) -> Result<Changed> {
    change(place, "hosts", known, |_| text.to_owned())
}

#[test]
fn a_file_is_changed_again_and_put_back() {
    with_private_etc(|place| {
        fs::write("/etc/hosts", "old and longer than the new one").unwrap();
        let first = set(place, None, "one").unwrap();
        assert_eq!(
            first.before.as_deref(),
            Some("old and longer than the new one")
        );
        let second = set(place, Some(&first), "two").unwrap();
        assert_eq!(second.before, first.before);
        assert_eq!(fs::read_to_string("/etc/hosts").unwrap(), "two");
        restore(place, &second).unwrap();
        assert_eq!(fs::read_to_string("/etc/hosts").ok(), first.before);
        restore(place, &second).unwrap();
        assert_eq!(fs::read_to_string("/etc/hosts").ok(), first.before);
    });
}

#[test]
fn a_file_that_was_not_there_goes_and_one_that_others_changed_stays() {
    with_private_etc(|place| {
        let made = set(place, None, "one").unwrap();
        assert_eq!(made.before, None);
        restore(place, &made).unwrap();
        assert!(!Path::new("/etc/hosts").exists());
        let made = set(place, None, "one").unwrap();
        fs::write("/etc/hosts", "theirs").unwrap();
        restore(place, &made).unwrap();
        assert_eq!(fs::read_to_string("/etc/hosts").unwrap(), "theirs");
    });
}

#[test]
fn nothing_behind_a_link_and_nothing_that_is_no_file_is_touched() {
    with_private_etc(|place| {
        fs::write("/etc/other", "other").unwrap();
        symlink("/etc/other", "/etc/hosts").unwrap();
        let error = format!("{:#}", set(place, None, "one").unwrap_err());
        assert!(error.contains("symbolic link"), "{error}");
        assert_eq!(fs::read_to_string("/etc/other").unwrap(), "other");
        fs::remove_file("/etc/hosts").unwrap();
        nix::unistd::mkfifo("/etc/hosts", Mode::S_IRWXU).unwrap();
        assert!(set(place, None, "one").is_err());
        fs::remove_file("/etc/hosts").unwrap();
        fs::write("/etc/hosts", vec![b'x'; 70_000]).unwrap();
        assert!(format!("{:#}", set(place, None, "one").unwrap_err()).contains("longer"));
    });
}

#[test]
fn what_is_no_file_is_not_even_opened() {
    let parent = tempfile::tempdir().unwrap();
    let directory = Directory {
        root: open_directory(parent.path()).unwrap(),
        inner: PathBuf::new(),
        named: None,
    };
    // To open a socket fails, which would be another error.
    let _socket = std::os::unix::net::UnixListener::bind(parent.path().join("hosts")).unwrap();
    let error = directory.open("hosts").map(drop).unwrap_err();
    let error = format!("{error:#}");
    assert!(error.contains("is not a file"), "{error}");
    assert!(directory.open_present("resolv.conf").unwrap().is_none());
    let (mut made, before) = directory.open("resolv.conf").unwrap();
    assert_eq!(before, None);
    fill(&mut made, "long text").unwrap();
    let (mut present, before) = directory.open("resolv.conf").unwrap();
    assert_eq!(before.as_deref(), Some("long text"));
    fill(&mut present, "text").unwrap();
    let (_, before) = directory.open("resolv.conf").unwrap();
    assert_eq!(before.as_deref(), Some("text"));
}

#[test]
fn a_file_of_the_kernel_is_none_wherever_it_is_mounted() {
    with_private_etc(|place| {
        fs::write("/etc/hosts", "").unwrap();
        let (kernel, none) = (Some("/proc/sys/kernel/hostname"), None::<&str>);
        mount(kernel, "/etc/hosts", none, MsFlags::MS_BIND, none).unwrap();
        let before = fs::read_to_string("/etc/hosts").unwrap();
        let error = format!("{:#}", set(place, None, "theirs").unwrap_err());
        assert!(error.contains("is not a file"), "{error}");
        let changed = Changed {
            file: "hosts".to_owned(),
            before: Some("theirs".to_owned()),
            written: before.clone(),
        };
        assert!(restore(place, &changed).is_err());
        assert_eq!(fs::read_to_string("/etc/hosts").unwrap(), before);
    });
}

#[test]
fn the_files_of_this_host_are_not_changed_for_a_process() {
    let ours = fs::read_to_string("/etc/hosts").unwrap();
    let place = Place::Process(std::process::id());
    let error = format!("{:#}", set(&place, None, "theirs").unwrap_err());
    assert!(error.contains("this host's own files"), "{error}");
    assert_eq!(fs::read_to_string("/etc/hosts").unwrap(), ours);
    // Nor one file alone, in a directory of its own.
    with_private_etc_and(|place, hosts| {
        fs::write("/etc/hosts", "").unwrap();
        let shared = format!("/proc/thread-self/fd/{}", hosts.as_raw_fd());
        let none = None::<&str>;
        mount(Some(&*shared), "/etc/hosts", none, MsFlags::MS_BIND, none).unwrap();
        let error = format!("{:#}", set(place, None, "theirs").unwrap_err());
        assert!(error.contains("this host's own files"), "{error}");
    });
    assert_eq!(fs::read_to_string("/etc/hosts").unwrap(), ours);
}

#[test]
fn files_of_a_named_namespace_are_beside_it() {
    with_private_etc(|_| {
        let place = Place::Named("c1".into());
        let made = set(&place, None, "one").unwrap();
        assert_eq!(fs::read_to_string("/etc/netns/c1/hosts").unwrap(), "one");
        restore(&place, &made).unwrap();
        assert!(!Path::new("/etc/netns/c1").exists());
    });
}

#[test]
fn a_place_follows_from_the_path_of_a_namespace() {
    let of = |path: &str| Place::of(Path::new(path));
    assert_eq!(of("/run/netns/c1"), Some(Place::Named("c1".into())));
    assert_eq!(of("/proc/42/ns/net"), Some(Place::Process(42)));
    for other in [
        "/run/netns",
        "/run/netns/a/b",
        "/proc/x/ns/net",
        "/tmp/ns",
        "/run/netns/..",
    ] {
        assert_eq!(of(other), None, "{other}");
    }
}

#[test]
fn a_host_name_is_read_and_set_only_where_it_is_its_own() {
    let own = std::process::id();
    assert_eq!(host_name(own), None);
    assert_eq!(set_host_name(own, "never", None).unwrap(), None);
    on_own_thread(|| {
        unshare(CloneFlags::CLONE_NEWUTS)?;
        let tid = u32::try_from(nix::unistd::gettid().as_raw())?;
        let before = host_name(tid);
        let first = set_host_name(tid, "mine", None)?.expect("it has one of its own");
        assert_eq!(host_name(tid).as_deref(), Some("mine"));
        let again = set_host_name(tid, "other", Some(&first))?.expect("it has one of its own");
        assert_eq!(again.before, first.before);
        restore(&Place::Process(tid), &first)?;
        assert_eq!(
            host_name(tid).as_deref(),
            Some("other"),
            "not ours to change"
        );
        restore(&Place::Process(tid), &again)?;
        assert_eq!(host_name(tid), before);
        Ok(())
    })
    .unwrap();
}
