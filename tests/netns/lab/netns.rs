//! A network namespace without a name, kept alive by a descriptor of this
//! process, so that it vanishes with the process however that ends.
//!
//! A host's namespace also has mounts of its own: `/run` is an empty tmpfs,
//! `/sys` shows the namespace's devices. Must not know daemons or the underlay.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{OnceLock, mpsc};
use std::thread::{self, JoinHandle};
use std::{io, panic, process};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

use super::sys::{self, Entry};

/// A network namespace, and for a host a mount namespace.
#[derive(Debug)]
pub(crate) struct Netns {
    net: OwnedFd,
    mnt: Option<OwnedFd>,
    resident: OnceLock<Resident>,
}

impl Netns {
    /// A namespace for a container: loopback is up, there is nothing else.
    pub(crate) fn new() -> Self {
        Self::make(false)
    }

    /// A namespace for a host, with a private `/run` and `/sys`.
    pub(crate) fn host() -> Self {
        Self::make(true)
    }

    /// The namespace at a path; it lives as long as the value.
    pub(crate) fn of(path: &str) -> Self {
        let net = File::open(path).unwrap_or_else(|e| panic!("{path}: {e}"));
        Self {
            net: net.into(),
            mnt: None,
            resident: OnceLock::new(),
        }
    }

    fn make(mounts: bool) -> Self {
        let made = thread::spawn(move || -> io::Result<Self> {
            unshare(CloneFlags::CLONE_NEWNET)?;
            let net = File::open("/proc/thread-self/ns/net")?.into();
            let mnt = mounts.then(private_mounts).transpose()?;
            Ok(Self {
                net,
                mnt,
                resident: OnceLock::new(),
            })
        });
        let made = made.join().expect("making a namespace does not panic");
        let namespace = made.expect("unshare needs root (CAP_SYS_ADMIN): run the suite as root");
        namespace.set_up("lo");
        namespace
    }

    /// Runs `work` on a thread inside the namespace. Sockets made there stay
    /// in the namespace wherever they are used; a child does not outlive it.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            self.enter().expect("an open namespace can be entered");
            work()
        };
        thread::scope(|scope| match scope.spawn(inside).join() {
            Ok(value) => value,
            Err(cause) => panic::resume_unwind(cause),
        })
    }

    /// Makes `command` run inside the namespace, as `user` if one is given,
    /// and die with the thread that spawns it.
    pub(crate) fn place(&self, command: &mut Command, user: Option<u32>) {
        let copy = |fd: &OwnedFd| fd.try_clone().expect("descriptors are left");
        let entry = Entry {
            net: Some(copy(&self.net)),
            mnt: self.mnt.as_ref().map(copy),
            user,
        };
        sys::enter_before_exec(command, entry);
    }

    /// A path by which another process of root can open the network namespace.
    /// It leads nowhere once the namespace is dropped.
    pub(crate) fn path(&self) -> PathBuf {
        let resident = self.resident.get_or_init(|| Resident::of(&self.net));
        resident.path.clone()
    }

    /// The descriptor of the network namespace.
    pub(super) fn descriptor(&self) -> i32 {
        self.net.as_raw_fd()
    }

    /// Switches the offloads of an interface: segmentation and checksums of
    /// what it sends, and joining of what it receives.
    pub(crate) fn set_offloads(&self, interface: &str, on: bool) {
        self.run(|| sys::set_offloads(interface, on))
            .unwrap_or_else(|e| panic!("offloads of {interface}: {e}"));
    }

    /// Writes one value below `/proc/sys`.
    pub(crate) fn sysctl(&self, key: &str, value: &str) {
        let path = format!("/proc/sys/{key}");
        self.run(|| std::fs::write(&path, value))
            .unwrap_or_else(|e| panic!("{path}: {e}"));
    }

    /// Mounts a tmpfs of `bytes` at `path`, which hides what was there, from
    /// this host only.
    pub(crate) fn mount_tmpfs(&self, path: &str, bytes: usize) {
        assert!(self.mnt.is_some(), "only a host has mounts of its own");
        self.run(|| {
            std::fs::create_dir_all(path)?;
            tmpfs(path, &format!("size={bytes},mode=700"))
        })
        .unwrap_or_else(|e| panic!("tmpfs on {path}: {e}"));
    }

    fn enter(&self) -> io::Result<()> {
        setns(&self.net, CloneFlags::CLONE_NEWNET)?;
        if let Some(mnt) = &self.mnt {
            // A thread that shares its root directory may not change mounts.
            unshare(CloneFlags::CLONE_FS)?;
            setns(mnt, CloneFlags::CLONE_NEWNS)?;
        }
        Ok(())
    }
}

/// A thread that does nothing in a namespace but be there: a thread's number is
/// not soon another's, as that of a descriptor is where tests run side by side.
#[derive(Debug)]
struct Resident {
    path: PathBuf,
    leave: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Resident {
    fn of(net: &OwnedFd) -> Self {
        let net = net.try_clone().expect("descriptors are left");
        let (leave, stay) = mpsc::channel();
        let (tell, told) = mpsc::channel();
        let thread = thread::spawn(move || {
            setns(net, CloneFlags::CLONE_NEWNET).expect("an open namespace can be entered");
            tell.send(nix::unistd::gettid()).expect("it is waited for");
            // Ends when the other end is dropped.
            let _ = stay.recv();
        });
        let thread_id = told.recv().expect("the thread enters");
        Self {
            path: PathBuf::from(format!("/proc/{}/task/{thread_id}/ns/net", process::id())),
            leave: Some(leave),
            thread: Some(thread),
        }
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        drop(self.leave.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        // The kernel takes a joined thread away a little later.
        while self.path.exists() {
            thread::yield_now();
        }
    }
}

fn private_mounts() -> io::Result<OwnedFd> {
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS)?;
    let nothing: Option<&str> = None;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(nothing, "/", nothing, private, nothing)?;
    let groups = File::open("/sys/fs/cgroup");
    mount(
        Some("sysfs"),
        "/sys",
        Some("sysfs"),
        MsFlags::empty(),
        nothing,
    )?;
    // Container engines need them where they were.
    if let Ok(groups) = groups {
        let below = format!("/proc/self/fd/{}", groups.as_raw_fd());
        let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
        mount(
            Some(below.as_str()),
            "/sys/fs/cgroup",
            nothing,
            bind,
            nothing,
        )?;
    }
    // A kernel without BPF has no such directory; the daemon copes with that.
    let _ = mount(
        Some("bpf"),
        "/sys/fs/bpf",
        Some("bpf"),
        MsFlags::empty(),
        nothing,
    );
    tmpfs("/run", "size=64m,mode=755")?;
    Ok(File::open("/proc/thread-self/ns/mnt")?.into())
}

fn tmpfs(path: &str, options: &str) -> io::Result<()> {
    mount(
        Some("tmpfs"),
        path,
        Some("tmpfs"),
        MsFlags::empty(),
        Some(options),
    )?;
    Ok(())
}
