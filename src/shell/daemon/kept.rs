//! What is kept of names over a restart: those added by hand, and what was
//! changed in containers' files, so that it can be put back.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::Path,
    time::Duration,
};

use anyhow::Result;
use serde::{Deserialize, Serialize};
use tokio::{task::spawn_blocking, time::timeout};

use crate::shell::{
    etc::{self, Changed, Place},
    store::Store,
};

/// The document of the state directory.
const DOCUMENT: &str = "names";
/// Stopped containers whose files are remembered.
const STOPPED: usize = 64;
/// How long the file systems of all containers have at the end of everything.
const PATIENCE: Duration = Duration::from_secs(5);

/// Which interface: the namespace's path, and the interface's name.
pub(super) type Key = (String, String);

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    /// Added with `wove dns add`.
    pub(super) by_hand: BTreeMap<String, BTreeSet<IpAddr>>,
    files: Vec<Given>,
}

/// What was changed in a container's files, for all its interfaces together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Given {
    /// One of the interfaces; none while the container is stopped.
    place: Option<Key>,
    /// Its id, by which it is known again when it is started anew: an engine may
    /// have kept the files.
    container: Option<String>,
    files: Vec<Changed>,
}

impl Given {
    fn is_in(&self, netns: &str) -> bool {
        self.place.as_ref().is_some_and(|place| place.0 == netns)
    }
}

impl Kept {
    pub(super) fn load(store: &Store) -> Result<Self> {
        let Some(bytes) = store.load(DOCUMENT)? else {
            return Ok(Self::default());
        };
        Ok(serde_json::from_slice(&bytes).map_err(|_| store.damaged(DOCUMENT, "content"))?)
    }

    pub(super) fn save(&self, store: &Store) -> Result<()> {
        Ok(store.save(DOCUMENT, &serde_json::to_vec(self)?)?)
    }

    /// What the container in a namespace was given, or the same container before it
    /// was stopped.
    pub(super) fn files_of(&self, netns: &str, container: Option<&str>) -> Vec<Changed> {
        let here = |given: &&Given| given.is_in(netns);
        let before = |given: &&Given| {
            given.place.is_none() && container.is_some() && given.container.as_deref() == container
        };
        let found = self.files.iter().find(here);
        let found = found.or_else(|| self.files.iter().find(before));
        found.map(|given| given.files.clone()).unwrap_or_default()
    }

    /// In place of what is known of the interface and of the container. Says whether
    /// anything was or is.
    pub(super) fn keep_files(
        &mut self,
        key: &Key,
        container: Option<&str>,
        files: Vec<Changed>,
    ) -> bool {
        let changed = !files.is_empty() || !self.files_of(&key.0, container).is_empty();
        self.take_files(&key.0);
        let is_stopped = |given: &Given| given.place.is_none();
        let is_it = |given: &Given| given.container.as_deref() == container;
        self.files
            .retain(|given| !(is_stopped(given) && is_it(given)));
        if !files.is_empty() {
            self.files.push(Given {
                place: Some(key.clone()),
                container: container.map(str::to_owned),
                files,
            });
        }
        changed
    }

    /// Forgets what the container in a namespace was given.
    pub(super) fn take_files(&mut self, netns: &str) -> Vec<Changed> {
        let files = self.files_of(netns, None);
        self.files.retain(|given| !given.is_in(netns));
        files
    }

    /// The containers of such interfaces are gone. Those that have an id may come back.
    pub(super) fn put_aside(&mut self, is_gone: impl Fn(&Key) -> bool) {
        for given in &mut self.files {
            given.place = given.place.take().filter(|key| !is_gone(key));
        }
        let may_return = |given: &Given| given.place.is_some() || given.container.is_some();
        self.files.retain(may_return);
        let stopped = self.files.iter().filter(|given| given.place.is_none());
        let mut surplus = stopped.count().saturating_sub(STOPPED);
        self.files.retain(|given| {
            let forgotten = surplus > 0 && given.place.is_none();
            surplus -= usize::from(forgotten);
            !forgotten
        });
    }

    /// Puts back the files of such interfaces, as far as they are there.
    pub(super) fn restore(&self, concerns: impl Fn(&Key, &Place) -> bool) {
        for given in &self.files {
            let Some(key) = &given.place else { continue };
            let place = Place::of(Path::new(&key.0));
            if let Some(place) = place.filter(|place| concerns(key, place)) {
                restore(&place, &given.files);
            }
        }
    }

    /// Puts back all files; not for longer than a moment, for a container's file
    /// system may be one that never answers.
    pub(super) async fn restore_all(self) {
        let restoring = spawn_blocking(move || self.restore(|_, _| true));
        match timeout(PATIENCE, restoring).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!("containers' files stay as they are: {error}"),
            Err(_) => tracing::warn!(
                "some containers' hosts, resolv.conf and host name stay as they are: \
                 a file system has not answered for {} s",
                PATIENCE.as_secs()
            ),
        }
    }
}

/// Puts back what was in a container's files, as far as they are there.
pub(super) fn restore(place: &Place, files: &[Changed]) {
    for file in files {
        if let Err(error) = etc::restore(place, file) {
            tracing::debug!(
                ?place,
                file = file.file,
                "a container's file stays: {error:#}"
            );
        }
    }
}

/// Puts back all files that a daemon changed that is gone.
pub(in crate::shell) fn restore_from(store: &Store) {
    match Kept::load(store) {
        Ok(kept) => kept.restore(|_, _| true),
        Err(error) => tracing::warn!("containers' files stay as they are: {error:#}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u32) -> Key {
        (format!("/proc/{n}/ns/net"), "wove0".into())
    }

    fn files(text: &str) -> Vec<Changed> {
        vec![Changed {
            file: "hosts".into(),
            before: Some(text.into()),
            written: "ours".into(),
        }]
    }

    #[test]
    fn a_container_is_known_again_when_it_is_started_anew() {
        let mut kept = Kept::default();
        kept.keep_files(&key(1), Some("id"), files("first"));
        kept.keep_files(&key(2), None, files("nameless"));
        kept.put_aside(|gone| *gone == key(1) || *gone == key(2));
        assert!(kept.files_of(&key(1).0, None).is_empty());
        assert!(kept.files_of(&key(2).0, None).is_empty());
        assert_eq!(kept.files_of(&key(3).0, Some("id")), files("first"));
        kept.keep_files(&key(3), Some("id"), files("first"));
        assert_eq!(kept.files.len(), 1);
        assert_eq!(kept.take_files(&key(3).0), files("first"));
        assert_eq!(kept, Kept::default());
    }

    #[test]
    fn only_so_many_stopped_containers_are_remembered() {
        let mut kept = Kept::default();
        for n in 0..100 {
            kept.keep_files(&key(n), Some(&n.to_string()), files("x"));
            kept.put_aside(|gone| *gone == key(n));
        }
        assert_eq!(kept.files.len(), STOPPED);
        assert!(kept.files_of(&key(0).0, Some("0")).is_empty());
        assert!(!kept.files_of(&key(0).0, Some("99")).is_empty());
    }

    #[test]
    fn it_survives_a_restart_and_damage_is_said() {
        let parent = tempfile::tempdir().unwrap();
        let store = Store::open(&parent.path().join("state")).unwrap();
        let mut kept = Kept::load(&store).unwrap();
        assert_eq!(kept, Kept::default());
        kept.by_hand
            .entry("x".into())
            .or_default()
            .insert([192, 0, 2, 1].into());
        kept.keep_files(&key(1), Some("id"), files("x"));
        kept.save(&store).unwrap();
        assert_eq!(Kept::load(&store).unwrap(), kept);
        store.save(DOCUMENT, b"[]").unwrap();
        let error = Kept::load(&store).unwrap_err().to_string();
        assert!(error.contains("names is damaged (content)"), "{error}");
    }
}
