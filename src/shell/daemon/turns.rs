//! One at a time: what is asked about one container is done in turn, so that doing
//! something twice at once is the same as doing it once, too, and its files are
//! written by one at a time.
//!
//! Who detaches what somebody still waits for an address for does not wait with
//! him; and who has gone away waits no longer.

use std::{
    collections::{BTreeMap, VecDeque},
    path::Path,
};

use tokio::sync::oneshot;

use super::{
    Daemon,
    work::{Done, HOST},
};
use crate::{
    engine::{Command, Failure},
    shell::{api::Request, netns::identity_of},
};

/// How many may wait for one container.
const WAITING: usize = 16;

/// An interface: its namespace and its name. All of the host's own are one.
pub(super) type Place = (String, String);

/// Namespaces about which something is being done, and what is to follow.
pub(super) type Turns = BTreeMap<String, VecDeque<Request>>;

impl Daemon {
    /// Does what is asked, or has it wait for its turn.
    pub(super) fn take_turn(&mut self, request: Request) {
        if Self::names_container(&request.command) {
            // It may be one of those, by another path.
            let strayed = self.strayed();
            if !strayed.is_empty() {
                return self.follow(strayed, Some(request));
            }
        }
        self.queue(request);
    }

    /// The same for a request that is about what is known where it is.
    pub(super) fn queue(&mut self, mut request: Request) {
        self.call_by_known_path(&mut request.command);
        let Some(place) = place_of(&request.command) else {
            return self.handle_request(request);
        };
        if matches!(
            request.command,
            Command::Detach { .. } | Command::Hide { .. }
        ) {
            self.give_up_at(&place, "it was detached meanwhile");
        }
        match self.turns.get_mut(&place.0) {
            None => self.begin_turn(place, request),
            Some(queue) if queue.len() < WAITING => queue.push_back(request),
            Some(_) => {
                let message = format!("{} is busy: try again", place.0);
                let _ = request.reply.send(Err(Failure { message }));
            }
        }
    }

    /// A namespace has many paths: one of each process in it, and containers may
    /// share one. All mean the path by which it was attached first, else the same
    /// interface would be taken for several, and what fails for one undone for all.
    fn call_by_known_path(&self, command: &mut Command) {
        let (netns, naming) = match command {
            Command::Attach { netns, naming, .. } => (netns, Some(naming)),
            Command::Detach { netns, .. } => (netns, None),
            _ => return,
        };
        let known = || {
            let attached = self.containers().map(|attachment| &attachment.netns);
            attached.chain(self.turns.keys()).map(Path::new)
        };
        if known().any(|path| path == netns) {
            return;
        }
        let Some(identity) = identity_of(netns) else {
            return;
        };
        let is_it = |path: &&Path| identity_of(path) == Some(identity);
        if let Some(path) = known().find(is_it).map(Path::to_owned) {
            *netns = path;
            if let Some(naming) = naming {
                // It is known as a part of the first.
                naming.container = None;
            }
        }
    }

    fn begin_turn(&mut self, place: Place, request: Request) {
        self.turns.entry(place.0.clone()).or_default();
        let (reply, mut answer) = oneshot::channel();
        let mut client = request.reply;
        let done = self.done_tx.clone();
        self.beside.spawn(async move {
            let answered = tokio::select! {
                biased;
                answered = &mut answer => answered,
                () = client.closed() => {
                    let _ = done.send(Done::Deserted(place.clone())).await;
                    answer.await
                }
            };
            if let Ok(answered) = answered {
                // A client that went away needs no answer.
                let _ = client.send(answered);
            }
            let _ = done.send(Done::Turn(place.0)).await;
        });
        self.handle_request(Request {
            command: request.command,
            reply,
        });
    }

    pub(super) fn end_turn(&mut self, netns: &str) {
        self.end_pledge(netns);
        let next = self.turns.get_mut(netns).and_then(VecDeque::pop_front);
        match next.and_then(|next| Some((place_of(&next.command)?, next))) {
            Some((place, next)) => self.begin_turn(place, next),
            None => {
                self.turns.remove(netns);
                // Something may have gone before it was known, or meanwhile.
                self.look_for_vanished();
            }
        }
    }
}

fn place_of(command: &Command) -> Option<Place> {
    match command {
        Command::Attach { netns, ifname, .. } | Command::Detach { netns, ifname, .. } => {
            Some((netns.to_string_lossy().into_owned(), ifname.clone()))
        }
        Command::Expose { .. } | Command::Hide { .. } => Some(host()),
        _ => None,
    }
}

/// What stands for all interfaces of the host itself.
pub(super) fn host() -> Place {
    (HOST.to_owned(), String::new())
}
