//! A namespace may outlive the process by which it was attached: a pod's does when a
//! container in it is started anew, and so does one that two containers share. Then it is
//! known by another process in it, and keeps its addresses.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Result;

use super::{Daemon, work::Done};
use crate::{
    engine::{Attachment, Command},
    shell::{api::Request, netns::identity_of},
};

/// A namespace that was found at another path.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Move {
    from: String,
    to: PathBuf,
}

/// What was looked for, and what was found.
pub(super) struct Search {
    strayed: BTreeSet<String>,
    found: Result<BTreeSet<Move>>,
    /// What is to be done then.
    request: Option<Request>,
}

impl Daemon {
    /// Whether a request is about a container: it may be known by another path.
    pub(super) fn names_container(command: &Command) -> bool {
        matches!(command, Command::Attach { .. } | Command::Detach { .. })
    }

    /// Attached namespaces whose paths lead nowhere. What is being done about one will say
    /// so itself.
    pub(super) fn strayed(&self) -> BTreeSet<String> {
        let containers = self.containers().map(|attachment| &attachment.netns);
        let is_strayed = |netns: &&String| {
            !self.turns.contains_key(*netns) && identity_of(Path::new(netns)).is_none()
        };
        containers.filter(is_strayed).cloned().collect()
    }

    /// Looks where else those live on whose paths lead nowhere, once for each; says which.
    pub(super) fn follow_strayed(&mut self) -> BTreeSet<String> {
        let mut strayed = self.strayed();
        strayed.retain(|netns| !self.unfound.contains(netns));
        if !strayed.is_empty() && !self.following {
            self.follow(strayed.clone(), None);
        }
        strayed
    }

    /// Looks where else they live on, and does what is asked for after that.
    pub(super) fn follow(&mut self, strayed: BTreeSet<String>, request: Option<Request>) {
        let known = self.containers().filter(|a| strayed.contains(&a.netns));
        let known: Vec<Attachment> = known.cloned().collect();
        let (host, done) = (Arc::clone(&self.host), self.done_tx.clone());
        self.following = true;
        self.beside.spawn(async move {
            let found = host.follow(&known).await.map(moves);
            let search = Box::new(Search {
                strayed,
                found,
                request,
            });
            let _ = done.send(Done::Followed(search)).await;
        });
    }

    pub(super) fn handle_followed(&mut self, search: Search) {
        self.following = false;
        match search.found {
            Ok(moves) => {
                let mut unfound = search.strayed;
                for Move { from, to } in moves {
                    unfound.remove(&from);
                    self.move_to(&from, &to);
                }
                for netns in &unfound {
                    // Else our socket alone would keep a namespace.
                    self.close_door(netns);
                }
                self.unfound.extend(unfound);
                let known: BTreeSet<&String> = self.attachments.iter().map(|a| &a.netns).collect();
                self.unfound.retain(|netns| known.contains(netns));
            }
            Err(error) => tracing::debug!("namespaces cannot be followed: {error:#}"),
        }
        if let Some(request) = search.request {
            self.queue(request);
        }
    }

    fn move_to(&mut self, from: &str, to: &Path) {
        tracing::info!(
            netns = from,
            to = %to.display(),
            "the process by which a container was attached is gone, its namespace is not"
        );
        let to = to.to_string_lossy();
        for attachment in self.attachments.iter_mut().filter(|a| a.netns == from) {
            attachment.netns = to.clone().into_owned();
        }
        self.move_door(from, &to);
        self.save_attachments(|_| {});
    }

    /// The same at a launch: puts the paths of a list right.
    pub(super) async fn find_again(&self, places: &mut [Attachment]) {
        let is_lost = |a: &&Attachment| identity_of(Path::new(&a.netns)).is_none();
        let lost: Vec<Attachment> = places.iter().filter(is_lost).cloned().collect();
        if lost.is_empty() {
            return;
        }
        let moves = self.host.follow(&lost).await.map(moves);
        let moves = moves.unwrap_or_else(|error| {
            tracing::warn!("namespaces cannot be followed: {error:#}");
            BTreeSet::new()
        });
        for place in places {
            if let Some(found) = moves.iter().find(|found| found.from == place.netns) {
                place.netns = found.to.to_string_lossy().into_owned();
            }
        }
    }
}

/// One for each namespace, however many interfaces it has.
fn moves(found: Vec<(Attachment, PathBuf)>) -> BTreeSet<Move> {
    let moves = found.into_iter().map(|(attachment, to)| Move {
        from: attachment.netns,
        to,
    });
    moves.collect()
}
