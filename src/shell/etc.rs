//! The resolv.conf and hosts of a container, and its host name.
//!
//! A namespace of `ip netns` has its files in /etc/netns/NAME, which `ip netns
//! exec` lays over /etc. The files of a process are in its own root. There
//! nothing is trusted: no symbolic link is followed, only what is a file is
//! touched, and it is done with the rights of the user that is root inside, so
//! that a container can have written what it could write itself and no more. A file
//! of the kernel (/proc/sys) may be mounted there: it asks for other rights than
//! those, so it is refused; and so are this host's own files, which a process has
//! that shares them.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{Read, Seek, Write},
    os::{
        fd::{AsFd, AsRawFd},
        unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    errno::Errno,
    fcntl::{self, OFlag, OpenHow, ResolveFlag, openat2},
    sched::{CloneFlags, setns},
    sys::{
        stat::Mode,
        statfs::{self, FsType, fstatfs},
    },
    unistd::{Gid, Uid, UnlinkatFlags, setfsgid, setfsuid, unlinkat},
};
use serde::{Deserialize, Serialize};

use super::netns;

/// Where `ip netns exec` looks for files of a namespace.
const NAMED: &str = "/etc/netns";
/// The longest file that is read, in bytes.
const LONGEST: u64 = 64 * 1024;

/// Whose files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Of a namespace of `ip netns`.
    Named(String),
    /// Of a process.
    Process(u32),
}

impl Place {
    /// By the path of a network namespace; none if it tells of no files.
    pub(super) fn of(netns: &Path) -> Option<Self> {
        if let Ok(name) = netns.strip_prefix(netns::DIRECTORY) {
            let name = name.to_str().filter(|name| netns::path_of(name).is_ok())?;
            return Some(Self::Named(name.to_owned()));
        }
        let pid = netns.strip_prefix("/proc").ok()?.to_str()?;
        let pid = pid.strip_suffix("/ns/net")?.parse().ok()?;
        Some(Self::Process(pid))
    }
}

/// A file that was changed, and what it takes to undo that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Changed {
    /// `resolv.conf`, `hosts`, or [`HOST_NAME`].
    pub file: String,
    /// What it held; none if there was none.
    pub before: Option<String>,
    /// What was written.
    pub written: String,
}

/// Replaces what is in a file by what `make` makes of it. Doing it again with
/// what came of it the last time as `known` keeps what was there at first.
///
/// # Errors
/// The file is behind a symbolic link, is no file, or cannot be written.
pub(super) fn change(
    place: &Place,
    file: &str,
    known: Option<&Changed>,
    make: impl FnOnce(Option<&str>) -> String + Send,
) -> Result<Changed> {
    in_place(place, |directory| {
        let (mut open, found) = directory.open(file)?;
        let before = match known {
            Some(known) if found.as_deref() == Some(&*known.written) => known.before.clone(),
            Some(_) | None => found,
        };
        let written = make(before.as_deref());
        fill(&mut open, &written)
            .with_context(|| format!("{file} of the container cannot be written"))?;
        Ok(Changed {
            file: file.to_owned(),
            before,
            written,
        })
    })
}

/// Puts back what was there, unless somebody else has changed the file since. A
/// container that is gone needs nothing.
pub(super) fn restore(place: &Place, changed: &Changed) -> Result<()> {
    if changed.file == HOST_NAME {
        return restore_host_name(place, changed);
    }
    in_place(place, |directory| {
        // One file is read and written, whatever becomes of its path meanwhile.
        let Some(mut open) = directory.open_present(&changed.file)? else {
            return Ok(());
        };
        if read(&changed.file, &open)? != changed.written {
            return Ok(());
        }
        match &changed.before {
            Some(before) => fill(&mut open, before)?,
            None => directory.remove(&changed.file)?,
        }
        Ok(())
    })
}

/// The host name of a process, if it is not simply that of this host.
pub(super) fn host_name(pid: u32) -> Option<String> {
    in_uts(pid, || {
        let name = fs::read_to_string(HOST_NAME_AT)?;
        Ok(name.trim().to_owned())
    })
    .ok()
    .flatten()
}

/// Sets the host name of a process that has one of its own; gives what it takes to
/// undo that. Doing it again with what came of it the last time as `known` keeps
/// the name that was there at first.
///
/// # Errors
/// The kernel refuses.
pub(super) fn set_host_name(
    pid: u32,
    name: &str,
    known: Option<&Changed>,
) -> Result<Option<Changed>> {
    in_uts(pid, || {
        let found = fs::read_to_string(HOST_NAME_AT)?.trim().to_owned();
        let before = match known {
            Some(known) if found == known.written => known.before.clone(),
            Some(_) | None => Some(found),
        };
        fs::write(HOST_NAME_AT, name).context("the container's host name cannot be set")?;
        Ok(Changed {
            file: HOST_NAME.to_owned(),
            before,
            written: name.to_owned(),
        })
    })
}

fn restore_host_name(place: &Place, changed: &Changed) -> Result<()> {
    let (Place::Process(pid), Some(before)) = (place, &changed.before) else {
        return Ok(());
    };
    in_uts(*pid, || {
        if fs::read_to_string(HOST_NAME_AT)?.trim() == changed.written {
            fs::write(HOST_NAME_AT, before)?;
        }
        Ok(())
    })
    .map(drop)
}

/// What stands for a host name among changed files.
pub(super) const HOST_NAME: &str = "hostname";
const HOST_NAME_AT: &str = "/proc/sys/kernel/hostname";

/// Runs `work` in the UTS namespace of a process; not at all if that is ours.
fn in_uts<T: Send>(pid: u32, work: impl FnOnce() -> Result<T> + Send) -> Result<Option<T>> {
    let theirs = File::open(format!("/proc/{pid}/ns/uts"))
        .with_context(|| format!("process {pid} is gone"))?;
    let ours = fs::metadata("/proc/self/ns/uts")?;
    if theirs.metadata()?.ino() == ours.ino() {
        return Ok(None);
    }
    on_own_thread(|| {
        setns(&theirs, CloneFlags::CLONE_NEWUTS)
            .context("the container's host name cannot be reached")?;
        work().map(Some)
    })
}

/// An open directory with the files.
struct Directory {
    root: File,
    /// From the root to the files.
    inner: PathBuf,
    /// Whether it is of `ip netns`, and may be made and removed.
    named: Option<PathBuf>,
}

fn in_place<T: Send>(
    place: &Place,
    work: impl FnOnce(&Directory) -> Result<T> + Send,
) -> Result<T> {
    match place {
        Place::Named(name) => {
            let path = Path::new(NAMED).join(name);
            let mut builder = DirBuilder::new();
            builder
                .recursive(true)
                .mode(0o755)
                .create(&path)
                .with_context(|| format!("{} cannot be made", path.display()))?;
            let directory = Directory {
                root: open_directory(&path)?,
                inner: PathBuf::new(),
                named: Some(path.clone()),
            };
            let done = work(&directory);
            // Stays if there is anything else in it.
            let _ = fs::remove_dir(&path);
            done
        }
        Place::Process(pid) => {
            let root = open_directory(Path::new(&format!("/proc/{pid}/root")))?;
            let uid = inside_root(&format!("/proc/{pid}/uid_map"))?;
            let gid = inside_root(&format!("/proc/{pid}/gid_map"))?;
            on_own_thread(move || {
                become_root_of(uid, gid)?;
                let directory = Directory {
                    root,
                    inner: "etc".into(),
                    named: None,
                };
                directory.ensure_not_ours()?;
                work(&directory)
            })
        }
    }
}

impl Directory {
    /// Opens a file to be changed, making it if absent; gives what was in it.
    fn open(&self, name: &str) -> Result<(File, Option<String>)> {
        if let Some(file) = self.open_present(name)? {
            let text = read(name, &file)?;
            return Ok((file, Some(text)));
        }
        let create = OFlag::O_CREAT | OFlag::O_EXCL;
        let made = self.open_with(name, OFlag::O_RDWR | create);
        Ok((made.map_err(|errno| explain(name, errno))?, None))
    }

    /// Opens a file that is there. Anything else is not opened at all: that alone
    /// can make a device do something, and root inside may be root of the host.
    fn open_present(&self, name: &str) -> Result<Option<File>> {
        let found = match self.open_with(name, OFlag::O_PATH) {
            Err(Errno::ENOENT) => return Ok(None),
            found => found.map_err(|errno| explain(name, errno))?,
        };
        ensure!(
            found.metadata()?.is_file() && !KERNELS.contains(&fstatfs(&found)?.filesystem_type()),
            "{name} of the container is not a file: give it one, or attach without --dns"
        );
        ensure!(
            self.named.is_some() || !is_ours(&found, &ours().join(name)),
            "{OURS}"
        );
        // What was found, and not what is by now at its path.
        let path = format!("/proc/self/fd/{}", found.as_raw_fd());
        // Non-blocking: somebody may hold a lease on it.
        let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let opened = fcntl::open(path.as_str(), flags, Mode::empty());
        let opened = opened.map_err(|errno| explain(name, errno))?;
        Ok(Some(opened.into()))
    }

    fn open_with(&self, name: &str, flags: OFlag) -> Result<File, Errno> {
        let flags = flags | OFlag::O_CLOEXEC;
        let mut how = OpenHow::new().flags(flags).resolve(
            ResolveFlag::RESOLVE_IN_ROOT
                | ResolveFlag::RESOLVE_NO_SYMLINKS
                | ResolveFlag::RESOLVE_NO_MAGICLINKS,
        );
        if flags.contains(OFlag::O_CREAT) {
            how = how.mode(Mode::from_bits_truncate(0o644));
        }
        openat2(self.root.as_fd(), &self.inner.join(name), how).map(File::from)
    }

    /// A process may have a network of its own and this host's files.
    fn ensure_not_ours(&self) -> Result<()> {
        // If it cannot be opened, what is to be done with it will say so.
        if let Ok(etc) = self.itself() {
            ensure!(!is_ours(&etc, &ours()), "{OURS}");
        }
        Ok(())
    }

    fn itself(&self) -> Result<File, Errno> {
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_SYMLINKS);
        let inner = match self.named {
            Some(_) => Path::new("."),
            None => &self.inner,
        };
        openat2(self.root.as_fd(), inner, how).map(File::from)
    }

    fn remove(&self, name: &str) -> Result<()> {
        let directory = self.itself()?;
        match unlinkat(directory, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(explain(name, errno)),
        }
    }
}

/// In the daemon's root, whatever this thread's is.
const OUR_ROOT: &str = "/proc/self/root";
const OURS: &str = "the process has this host's own files in /etc, and they cannot be changed for it alone: \
                    give it others, or attach without --dns and --hostname";

/// What the kernel shows as files, and to write to does something.
const KERNELS: [FsType; 15] = [
    statfs::PROC_SUPER_MAGIC,
    statfs::SYSFS_MAGIC,
    statfs::CGROUP_SUPER_MAGIC,
    statfs::CGROUP2_SUPER_MAGIC,
    statfs::DEBUGFS_MAGIC,
    statfs::TRACEFS_MAGIC,
    statfs::SECURITYFS_MAGIC,
    statfs::SELINUX_MAGIC,
    statfs::SMACK_MAGIC,
    statfs::BPF_FS_MAGIC,
    statfs::RDTGROUP_SUPER_MAGIC,
    statfs::XENFS_SUPER_MAGIC,
    statfs::NSFS_MAGIC,
    // Configfs and efivarfs.
    FsType(0x6265_6570),
    FsType(0xde5e_81e4),
];

fn ours() -> PathBuf {
    Path::new(OUR_ROOT).join("etc")
}

/// Whether an open file or directory is the one at a path of this host.
fn is_ours(open: &File, path: &Path) -> bool {
    let [Ok(theirs), Ok(ours)] = [open.metadata(), fs::metadata(path)] else {
        return false;
    };
    (theirs.dev(), theirs.ino()) == (ours.dev(), ours.ino())
}

/// From now on this thread has the rights to files of a user and a group, and no others.
fn become_root_of(uid: u32, gid: u32) -> Result<()> {
    // The kernel says who one was, not whether that changed; nobody has the last id.
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    setfsgid(gid);
    setfsuid(uid);
    let changed = (
        setfsuid(Uid::from_raw(u32::MAX)),
        setfsgid(Gid::from_raw(u32::MAX)),
    );
    ensure!(
        changed == (uid, gid),
        "wove may not act as the container's root: it needs CAP_SETUID and CAP_SETGID, or attach without --dns"
    );
    Ok(())
}

fn open_directory(path: &Path) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
        .open(path)
        .with_context(|| {
            format!(
                "{} cannot be opened: is the container running?",
                path.display()
            )
        })
}

fn read(name: &str, file: &File) -> Result<String> {
    let mut text = String::new();
    let length = file
        .take(LONGEST + 1)
        .read_to_string(&mut text)
        .with_context(|| format!("{name} of the container cannot be read"))?;
    ensure!(
        length as u64 <= LONGEST,
        "{name} of the container is longer than {LONGEST} bytes: attach without --dns"
    );
    Ok(text)
}

/// Overwrites in place: the file may be mounted there, and others have it open.
fn fill(file: &mut File, text: &str) -> std::io::Result<()> {
    file.rewind()?;
    file.write_all(text.as_bytes())?;
    file.set_len(text.len() as u64)
}

fn explain(name: &str, errno: Errno) -> anyhow::Error {
    let hint = match errno {
        Errno::ELOOP => "it is behind a symbolic link, which is not followed into a container",
        Errno::EROFS => "its file system is read-only",
        Errno::EACCES | Errno::EPERM => "root of the container may not write it",
        _ => "attach without --dns, or give it one",
    };
    anyhow::Error::new(errno).context(format!("{name} of the container cannot be changed: {hint}"))
}

/// Who root of a process's user namespace is outside (user_namespaces(7)).
fn inside_root(map: &str) -> Result<u32> {
    // Without user namespaces in the kernel everybody's root is ours.
    if !Path::new("/proc/self/uid_map").exists() {
        return Ok(0);
    }
    let text = fs::read_to_string(map).context("the process is gone")?;
    for line in text.lines() {
        let mut numbers = line.split_whitespace().map(str::parse::<u32>);
        if let (Some(Ok(0)), Some(Ok(outside))) = (numbers.next(), numbers.next()) {
            return Ok(outside);
        }
    }
    bail!("the container has no root user: attach without --dns")
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
mod tests;
