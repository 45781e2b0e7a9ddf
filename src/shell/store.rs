//! The state directory: what a peer must still know after a restart or a power cut.
//!
//! One file per document, written whole and atomically (write, fsync, rename,
//! fsync of the directory) and read back only if a checksum holds. What a
//! document means is the caller's; this module knows bytes, lines and JSON.
//! Nothing damaged is ever taken for absent: a peer that silently started
//! afresh would lose its identity or hand out addresses twice.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError},
    io::{self, ErrorKind, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use thiserror::Error;

use gossip::space::Saved;

use crate::engine::Attachment;
use sealed::{LONGEST_FILE, open_sealed, seal};

mod sealed;

const LOCK: &str = "lock";
const UNFINISHED: &str = ".new-";

/// What can be wrong with the state directory. Each message says what, why and what to do.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The directory cannot be made, opened or read.
    #[error(
        "state directory {path}: {cause}; check its owner and mode, or choose another with --state-dir"
    )]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// Others can read it and it holds what is not ours, so it is left as it is.
    #[error(
        "state directory {path} {cause}: choose another with --state-dir, or make it yours alone (chmod 700)"
    )]
    NotOurs {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: &'static str,
    },
    /// Another process has it open.
    #[error(
        "state directory {path} is in use by another wove: stop that one, or choose another with --state-dir"
    )]
    Locked {
        /// Which.
        path: PathBuf,
    },
    /// A file is torn, changed, or not ours.
    #[error(
        "{path} is damaged ({cause}): restore it from a backup, or run `wove reset --force` to start as a new peer"
    )]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What does not hold.
        cause: &'static str,
    },
    /// A file cannot be read.
    #[error("{path} cannot be read: {cause}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// A file cannot be written; the old one is intact.
    #[error("{path} cannot be saved: {cause}; what it held before is intact")]
    Write {
        /// Which.
        path: PathBuf,
        /// Why: a full disk, for one.
        cause: io::Error,
    },
}

type Result<T> = std::result::Result<T, StoreError>;

/// An open state directory, locked against other daemons until dropped.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    _lock: File,
}

impl Store {
    /// Opens the directory, making it (mode 0700) if need be, and locks it.
    pub fn open(directory: &Path) -> Result<Self> {
        let fail = |cause| StoreError::Directory {
            path: directory.to_owned(),
            cause,
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(fail)?;
        claim(directory)?;
        let path = directory.join(LOCK);
        let options = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path);
        let lock = options.map_err(fail)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::Locked {
                    path: directory.to_owned(),
                });
            }
            Err(TryLockError::Error(cause)) => return Err(fail(cause)),
        }
        remove_unfinished(directory).map_err(fail)?;
        Ok(Self {
            directory: directory.to_owned(),
            _lock: lock,
        })
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The peer's secret keys; none on a first launch.
    pub fn identity(&self) -> Result<Option<[u8; 64]>> {
        let Some(bytes) = self.load("identity")? else {
            return Ok(None);
        };
        let identity = bytes
            .try_into()
            .map_err(|_| self.damaged("identity", "length"))?;
        Ok(Some(identity))
    }

    /// Saves the peer's secret keys. An epoch is there before them, so that
    /// keys without an epoch always mean a lost file.
    pub fn save_identity(&self, identity: &[u8; 64]) -> Result<()> {
        if self.epoch()?.is_none() {
            self.save("epoch", &0u64.to_le_bytes())?;
        }
        self.save("identity", identity)
    }

    /// Counts a launch: the epoch that this one's records carry. It is on disk before this returns.
    ///
    /// # Errors
    /// Also when a peer that has keys has lost its epoch: an old number would
    /// make the others ignore all that this peer says.
    pub fn next_epoch(&self) -> Result<u64> {
        let last = match self.epoch()? {
            Some(epoch) => epoch,
            None if self.identity()?.is_some() => return Err(self.damaged("epoch", "missing")),
            None => 0,
        };
        let next = last
            .checked_add(1)
            .ok_or_else(|| self.damaged("epoch", "value"))?;
        self.save("epoch", &next.to_le_bytes())?;
        Ok(next)
    }

    /// The network's secrets, one a line.
    pub fn network(&self) -> Result<Option<Vec<String>>> {
        self.load_lines("network")
    }

    /// Saves the network's secrets.
    pub fn save_network(&self, secrets: &[String]) -> Result<()> {
        self.save("network", lines(secrets).as_bytes())
    }

    /// The addresses that the dialer keeps trying.
    pub fn targets(&self) -> Result<Option<Vec<String>>> {
        self.load_lines("targets")
    }

    /// Saves the targets.
    pub fn save_targets(&self, targets: &[String]) -> Result<()> {
        self.save("targets", lines(targets).as_bytes())
    }

    /// What is attached and exposed; empty on a first launch.
    pub fn attachments(&self) -> Result<Vec<Attachment>> {
        let Some(bytes) = self.load("attachments")? else {
            return Ok(Vec::new());
        };
        serde_json::from_slice(&bytes).map_err(|_| self.damaged("attachments", "content"))
    }

    /// Saves what is attached and exposed.
    pub fn save_attachments(&self, attachments: &[Attachment]) -> Result<()> {
        let write = |error: serde_json::Error| self.write_error("attachments", error.into());
        let bytes = serde_json::to_vec(attachments).map_err(write)?;
        self.save("attachments", &bytes)
    }

    /// What this peer owns of the address space; none on a first launch.
    pub fn space(&self) -> Result<Option<Saved>> {
        let Some(bytes) = self.load("space")? else {
            return Ok(None);
        };
        let saved = serde_json::from_slice(&bytes);
        saved
            .map(Some)
            .map_err(|_| self.damaged("space", "content"))
    }

    /// Saves what this peer owns of the address space.
    pub fn save_space(&self, saved: &Saved) -> Result<()> {
        let write = |error: serde_json::Error| self.write_error("space", error.into());
        let bytes = serde_json::to_vec(saved).map_err(write)?;
        self.save("space", &bytes)
    }

    /// The payload of a document; none if it was never saved.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] or [`StoreError::Read`].
    pub fn load(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let path = self.path(name);
        let bytes = match read_bounded(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(cause) => return Err(StoreError::Read { path, cause }),
        };
        let payload =
            open_sealed(name, &bytes).map_err(|cause| StoreError::Damaged { path, cause })?;
        Ok(Some(payload.to_vec()))
    }

    /// Replaces a document, all of it or nothing.
    ///
    /// # Errors
    /// [`StoreError::Write`], with what was there before intact.
    pub fn save(&self, name: &str, payload: &[u8]) -> Result<()> {
        let fail = |cause| self.write_error(name, cause);
        let sealed = seal(name, payload).ok_or_else(|| fail(ErrorKind::FileTooLarge.into()))?;
        let mut file = tempfile::Builder::new()
            .prefix(UNFINISHED)
            .tempfile_in(&self.directory)
            .map_err(fail)?;
        file.write_all(&sealed).map_err(fail)?;
        file.as_file().sync_all().map_err(fail)?;
        file.persist(self.path(name))
            .map_err(|error| fail(error.error))?;
        File::open(&self.directory)
            .and_then(|directory| directory.sync_all())
            .map_err(fail)
    }

    /// Forgets everything (`wove reset`): the next launch is a new peer.
    pub fn erase(self) -> Result<()> {
        // The keys go first: should this be interrupted, what is left is not
        // taken for a peer that lost its other files.
        for name in [
            "identity",
            "epoch",
            "space",
            "network",
            "targets",
            "attachments",
            "names",
        ] {
            match fs::remove_file(self.path(name)) {
                Err(cause) if cause.kind() != ErrorKind::NotFound => {
                    return Err(self.write_error(name, cause));
                }
                _ => {}
            }
        }
        let synced = File::open(&self.directory).and_then(|directory| directory.sync_all());
        synced.map_err(|cause| StoreError::Directory {
            path: self.directory.clone(),
            cause,
        })
    }

    fn epoch(&self) -> Result<Option<u64>> {
        let Some(bytes) = self.load("epoch")? else {
            return Ok(None);
        };
        let bytes = bytes
            .try_into()
            .map_err(|_| self.damaged("epoch", "length"))?;
        Ok(Some(u64::from_le_bytes(bytes)))
    }

    fn load_lines(&self, name: &'static str) -> Result<Option<Vec<String>>> {
        let Some(bytes) = self.load(name)? else {
            return Ok(None);
        };
        let text = String::from_utf8(bytes).map_err(|_| self.damaged(name, "content"))?;
        Ok(Some(text.lines().map(str::to_owned).collect()))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// That a document's content is not what it should be.
    pub(in crate::shell) fn damaged(&self, name: &str, cause: &'static str) -> StoreError {
        StoreError::Damaged {
            path: self.path(name),
            cause,
        }
    }

    fn write_error(&self, name: &str, cause: io::Error) -> StoreError {
        StoreError::Write {
            path: self.path(name),
            cause,
        }
    }
}

/// Sees to it that the directory is ours alone; never touches a foreign one.
fn claim(directory: &Path) -> Result<()> {
    let path = || directory.to_owned();
    let fail = |cause| StoreError::Directory {
        path: path(),
        cause,
    };
    let meta = fs::metadata(directory).map_err(fail)?;
    if meta.uid() != nix::unistd::geteuid().as_raw() {
        return Err(StoreError::NotOurs {
            path: path(),
            cause: "belongs to another user",
        });
    }
    if meta.mode() & 0o077 == 0 {
        return Ok(());
    }
    let mut entries = fs::read_dir(directory).map_err(fail)?;
    if entries.next().is_some() && !directory.join(LOCK).exists() {
        return Err(StoreError::NotOurs {
            path: path(),
            cause: "is open to others and not empty",
        });
    }
    fs::set_permissions(directory, Permissions::from_mode(0o700)).map_err(fail)
}

/// Removes what a daemon that was killed while saving left behind.
fn remove_unfinished(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(LONGEST_FILE as u64 + 1)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn lines(values: &[String]) -> String {
    values
        .iter()
        .flat_map(|value| [value.as_str(), "\n"])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shell::netns::testing::with_private_run;

    fn fresh() -> (tempfile::TempDir, Store) {
        let parent = tempfile::tempdir().unwrap();
        let store = Store::open(&parent.path().join("state")).unwrap();
        (parent, store)
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn what_is_saved_is_there_after_a_restart() {
        let (_parent, store) = fresh();
        assert_eq!(store.identity().unwrap(), None);
        assert_eq!(store.network().unwrap(), None);
        store.save_identity(&[7; 64]).unwrap();
        store.save_network(&["one".into(), "two".into()]).unwrap();
        store.save_targets(&[]).unwrap();
        let attachment = Attachment {
            netns: "/run/netns/c1".into(),
            ifname: "wove0".into(),
            mac: proto::MacAddr([2, 0, 0, 0, 0, 1]),
            addresses: vec!["10.32.0.1/12".parse().unwrap()],
            naming: Default::default(),
        };
        store
            .save_attachments(std::slice::from_ref(&attachment))
            .unwrap();
        let directory = store.directory().to_owned();
        assert_eq!(
            (mode(&directory), mode(&directory.join("identity"))),
            (0o700, 0o600)
        );
        drop(store);

        let store = Store::open(&directory).unwrap();
        assert_eq!(store.identity().unwrap(), Some([7; 64]));
        assert_eq!(store.network().unwrap().unwrap(), ["one", "two"]);
        assert_eq!(store.targets().unwrap(), Some(vec![]));
        assert_eq!(store.attachments().unwrap(), [attachment]);
        store.erase().unwrap();
        assert_eq!(Store::open(&directory).unwrap().identity().unwrap(), None);
    }

    #[test]
    fn every_launch_has_a_higher_epoch_and_a_lost_one_is_said() {
        let (_parent, store) = fresh();
        assert_eq!(store.next_epoch().unwrap(), 1);
        store.save_identity(&[7; 64]).unwrap();
        assert_eq!(store.next_epoch().unwrap(), 2);
        fs::remove_file(store.path("epoch")).unwrap();
        let error = store.next_epoch().unwrap_err().to_string();
        assert!(error.contains("epoch is damaged (missing)"), "{error}");
        assert!(
            store.epoch().unwrap().is_none(),
            "nothing is started afresh"
        );
    }

    #[test]
    fn a_damaged_file_names_itself_its_cause_and_the_cure() {
        let (_parent, store) = fresh();
        store.save_identity(&[7; 64]).unwrap();
        let path = store.path("identity");
        fs::write(&path, b"hello, this is not a file of that kind").unwrap();
        let error = store.identity().unwrap_err().to_string();
        let name = path.display();
        assert_eq!(
            error,
            format!(
                "{name} is damaged (not a file of wove): restore it from a backup, or run `wove reset --force` to start as a new peer"
            )
        );
        store.save("identity", &[1; 63]).unwrap();
        assert!(matches!(
            store.identity(),
            Err(StoreError::Damaged {
                cause: "length",
                ..
            })
        ));
    }

    #[test]
    fn two_daemons_cannot_share_a_directory() {
        let (_parent, store) = fresh();
        let error = Store::open(store.directory()).unwrap_err();
        assert!(matches!(error, StoreError::Locked { .. }), "{error}");
    }

    #[test]
    fn a_directory_that_is_not_ours_is_left_alone() {
        let parent = tempfile::tempdir().unwrap();
        fs::set_permissions(parent.path(), Permissions::from_mode(0o755)).unwrap();
        fs::write(parent.path().join("thesis.txt"), "x").unwrap();
        assert!(matches!(
            Store::open(parent.path()),
            Err(StoreError::NotOurs { .. })
        ));
        assert_eq!(mode(parent.path()), 0o755);
        fs::remove_file(parent.path().join("thesis.txt")).unwrap();
        Store::open(parent.path()).unwrap();
        assert_eq!(mode(parent.path()), 0o700);
    }

    #[test]
    fn what_a_killed_daemon_left_half_written_is_removed() {
        let (_parent, store) = fresh();
        let left = store.path(".new-abc");
        fs::write(&left, "half").unwrap();
        let directory = store.directory().to_owned();
        drop(store);
        Store::open(&directory).unwrap();
        assert!(!left.exists());
    }

    #[test]
    fn a_full_disk_is_said_and_keeps_the_old_file() {
        with_private_run(64, || {
            let store = Store::open(Path::new("/run/state")).unwrap();
            store.save_targets(&["old".into()]).unwrap();
            let error = store
                .save_targets(&["x".repeat(100_000)])
                .unwrap_err()
                .to_string();
            assert!(
                error.contains("/run/state/targets cannot be saved: No space left"),
                "{error}"
            );
            assert_eq!(store.targets().unwrap().unwrap(), ["old"]);
            assert_eq!(
                fs::read_dir("/run/state").unwrap().count(),
                2,
                "nothing half-written is left"
            );
        });
    }
}
