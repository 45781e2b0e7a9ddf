//! Network namespaces: named ones, those of a process, and work done inside one.
//!
//! A thread that enters a namespace is made for it and ends there: a thread of
//! the runtime never changes its namespace.

#[cfg(test)]
pub(in crate::shell) mod lab;

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File, OpenOptions},
    io::ErrorKind,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
};

use super::sys::nsfs;

/// Where named namespaces live, as iproute2 has it.
pub const DIRECTORY: &str = "/run/netns";

const OWN: &str = "/proc/thread-self/ns/net";

/// An open network namespace; it exists at least as long as this value.
#[derive(Debug)]
pub struct Namespace {
    file: File,
    identity: Identity,
}

/// What tells two namespaces apart, whatever paths they were opened by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    /// Device number of the namespace file system.
    pub device: u64,
    /// Inode number there.
    pub inode: u64,
}

impl Namespace {
    /// Opens a namespace by path, `/run/netns/c1` or `/proc/42/ns/net`.
    ///
    /// # Errors
    /// The path is missing, or is not a namespace; [`is_missing`] tells the first.
    pub fn open(path: &Path) -> Result<Self> {
        // Non-blocking: a hostile path may be a FIFO that nobody writes to.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)
            .with_context(|| {
                format!(
                    "network namespace {} cannot be opened: is the container running?",
                    path.display()
                )
            })?;
        // A path of a container that is gone may lead to a namespace of another kind.
        ensure!(
            nsfs::kind(&file).is_ok_and(|kind| kind == CloneFlags::CLONE_NEWNET),
            "{} is not a network namespace: give a name under {DIRECTORY} or /proc/PID/ns/net",
            path.display()
        );
        let meta = file.metadata()?;
        Ok(Self {
            identity: Identity {
                device: meta.dev(),
                inode: meta.ino(),
            },
            file,
        })
    }

    /// The namespace of the calling thread.
    pub fn current() -> Result<Self> {
        Self::open(Path::new(OWN))
    }

    /// A new, anonymous namespace; it ends with its last user.
    pub fn fresh() -> Result<Self> {
        on_own_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)
                .context("a network namespace cannot be made: run as root")?;
            Self::current()
        })
    }

    /// Another handle to the same namespace.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn try_clone(&self) -> Result<Self> {
        Ok(Self {
            file: self.file.try_clone()?,
            identity: self.identity,
        })
    }

    /// What tells this namespace from others.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Runs `work` inside, on a thread of its own, and waits for it.
    ///
    /// # Errors
    /// The namespace cannot be entered (no privilege, or not a network
    /// namespace), or what `work` says.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        on_own_thread(|| {
            self.enter()?;
            work()
        })
    }

    /// As [`Namespace::run`], for a caller that must not block.
    pub async fn run_async<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inside = Self {
            file: self.file.try_clone()?,
            identity: self.identity,
        };
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let job = move || {
            let result = inside.enter().and_then(|()| work());
            // A caller that has gone away needs no answer.
            let _ = sender.send(result);
        };
        thread::Builder::new()
            .name("netns".into())
            .spawn(job)
            .context("no thread for the namespace")?;
        receiver
            .await
            .context("the thread inside the namespace died")?
    }

    fn enter(&self) -> Result<()> {
        setns(&self.file, CloneFlags::CLONE_NEWNET).context(
            "the network namespace cannot be entered: run as root, and give a network namespace",
        )
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Whether an error of [`Namespace::open`] says that there is no such namespace (any more).
pub fn is_missing(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|cause| {
        cause.kind() == ErrorKind::NotFound || cause.raw_os_error() == Some(libc::ESRCH)
    })
}

/// What tells the namespace at a path from others, if there is one.
pub fn identity_of(path: &Path) -> Option<Identity> {
    let meta = fs::metadata(path).ok()?;
    Some(Identity {
        device: meta.dev(),
        inode: meta.ino(),
    })
}

/// The path of a named namespace.
///
/// # Errors
/// A name that would leave the directory.
pub fn path_of(name: &str) -> Result<PathBuf> {
    let sane = !name.is_empty() && name.len() <= 255 && !name.contains(['/', '\0']);
    ensure!(
        sane && name != "." && name != "..",
        "'{name}' is not a name for a network namespace"
    );
    Ok(Path::new(DIRECTORY).join(name))
}

/// All namespaces that have a name or a process, each by one path.
///
/// # Errors
/// The processes cannot be listed.
pub fn all() -> Result<BTreeMap<Identity, PathBuf>> {
    let mut found = BTreeMap::new();
    let named = fs::read_dir(DIRECTORY).into_iter().flatten().flatten();
    for path in named.map(|entry| entry.path()) {
        if let Some(identity) = identity_of(&path) {
            found.insert(identity, path);
        }
    }
    for entry in fs::read_dir("/proc").context("processes cannot be listed")? {
        let name = entry.context("processes cannot be listed")?.file_name();
        let pid = name.to_str().and_then(|name| name.parse().ok());
        let Some(path) = pid.map(path_of_process) else {
            continue;
        };
        // It may have ended meanwhile.
        if let Some(identity) = identity_of(&path) {
            found.entry(identity).or_insert(path);
        }
    }
    Ok(found)
}

/// The path of a process's namespace.
pub fn path_of_process(pid: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/ns/net"))
}

/// Makes a named namespace, so that `ip netns` sees it too.
///
/// # Errors
/// The name is taken or not a name, or no privilege; nothing is left behind.
pub fn create(name: &str) -> Result<Namespace> {
    let path = path_of(name)?;
    share_directory()?;
    let made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o444)
        .open(&path);
    made.with_context(|| {
        format!(
            "network namespace '{name}' cannot be made at {}",
            path.display()
        )
    })?;
    let pinned = Namespace::fresh().and_then(|fresh| {
        fresh.run(|| {
            let bind = mount(
                Some(OWN),
                &path,
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            );
            bind.with_context(|| format!("namespace cannot be kept at {}", path.display()))
        })?;
        Ok(fresh)
    });
    if pinned.is_err() {
        let _ = fs::remove_file(&path);
    }
    pinned
}

/// Removes a named namespace; one that is not there is fine.
pub fn delete(name: &str) -> Result<()> {
    let path = path_of(name)?;
    match umount2(&path, MntFlags::MNT_DETACH) {
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
        Err(error) => bail!("{} cannot be unmounted: {error}", path.display()),
    }
    match fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{} cannot be removed", path.display()))
        }
        _ => Ok(()),
    }
}

/// Makes the directory a shared mount, so that a namespace made here is seen
/// (and, unmounted, gone) in every mount namespace.
fn share_directory() -> Result<()> {
    let made = DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(DIRECTORY);
    made.with_context(|| format!("{DIRECTORY} cannot be made"))?;
    let none = None::<&str>;
    let share = || {
        mount(
            none,
            DIRECTORY,
            none,
            MsFlags::MS_SHARED | MsFlags::MS_REC,
            none,
        )
    };
    match share() {
        Ok(()) => return Ok(()),
        Err(Errno::EINVAL) => {} // Not a mount point yet.
        Err(error) => {
            return Err(error)
                .with_context(|| format!("{DIRECTORY} cannot be shared: run as root"));
        }
    }
    let bind = mount(
        Some(DIRECTORY),
        DIRECTORY,
        none,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        none,
    );
    bind.and_then(|()| share())
        .with_context(|| format!("{DIRECTORY} cannot be made a mount point"))
}

fn on_own_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().spawn_scoped(scope, work);
        match thread.context("this host has no thread left")?.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

#[cfg(test)]
pub(in crate::shell) mod testing {
    //! Namespaces for tests that need root; the machine's own is never touched.

    use super::*;

    /// Runs `work` in a new network namespace; fails the test when not root.
    pub(in crate::shell) fn in_fresh_namespace<T: Send>(work: impl FnOnce() -> T + Send) -> T {
        assert!(
            nix::unistd::geteuid().is_root(),
            "this test makes network namespaces: run it as root"
        );
        Namespace::fresh().unwrap().run(|| Ok(work())).unwrap()
    }

    /// Runs `work` with an empty /run and `small` KiB of tmpfs there, seen by nobody else.
    pub(in crate::shell) fn with_private_run<T: Send>(
        kib: u32,
        work: impl FnOnce() -> T + Send,
    ) -> T {
        assert!(
            nix::unistd::geteuid().is_root(),
            "this test mounts a tmpfs: run it as root"
        );
        let none = None::<&str>;
        on_own_thread(|| {
            unshare(CloneFlags::CLONE_NEWNS)?;
            mount(none, "/", none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none)?;
            let size = format!("size={kib}k");
            mount(
                Some("tmpfs"),
                "/run",
                Some("tmpfs"),
                MsFlags::empty(),
                Some(size.as_str()),
            )?;
            Ok(work())
        })
        .unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use testing::{in_fresh_namespace, with_private_run};

    #[test]
    fn a_named_namespace_is_made_found_and_removed() {
        with_private_run(1024, || {
            let made = create("c1").unwrap();
            let found = Namespace::open(&path_of("c1").unwrap()).unwrap();
            assert_eq!(made.identity(), found.identity());
            assert_ne!(made.identity(), Namespace::current().unwrap().identity());
            assert!(create("c1").is_err());
            let inside = found.run(|| Ok(Namespace::current()?.identity())).unwrap();
            assert_eq!(inside, made.identity());
            delete("c1").unwrap();
            delete("c1").unwrap();
            assert!(is_missing(
                &Namespace::open(&path_of("c1").unwrap()).unwrap_err()
            ));
        });
    }

    #[test]
    fn what_is_no_namespace_is_refused() {
        for path in ["/dev/null", "/proc/self/ns/mnt", "/proc/self/ns"] {
            let error = Namespace::open(Path::new(path)).unwrap_err();
            assert!(
                error.to_string().contains("not a network namespace"),
                "{path}: {error}"
            );
        }
        assert!(is_missing(
            &Namespace::open(Path::new("/nowhere")).unwrap_err()
        ));
        assert!(is_missing(
            &Namespace::open(&path_of_process(u32::MAX)).unwrap_err()
        ));
        for name in ["", ".", "..", "a/b", "a\0b"] {
            assert!(path_of(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn work_inside_leaves_the_caller_where_it_was() {
        in_fresh_namespace(|| {
            let before = Namespace::current().unwrap().identity();
            let other = Namespace::fresh().unwrap();
            let seen = other.run(|| Ok(Namespace::current()?.identity())).unwrap();
            assert_eq!(seen, other.identity());
            assert_eq!(Namespace::current().unwrap().identity(), before);
        });
    }
}
