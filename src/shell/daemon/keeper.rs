//! Keeps what must survive a restart, beside the loop: a disk may take seconds, or not
//! answer at all, and no link is to end for that.
//!
//! One thread writes, one document after the other. Of a document that waits the latest
//! counts, so what waits is bounded however long the disk takes. What the disk refuses
//! is tried again every second.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use tokio::{
    sync::{Notify, oneshot},
    time::timeout,
};

use crate::shell::store::Store;

/// Between one attempt and the next.
const AGAIN: Duration = Duration::from_secs(1);
/// A disk that takes longer is said to be slow.
const SLOW: Duration = Duration::from_secs(3);
/// How many may wait for one document; more have the first ones turned away.
const WAITING: usize = 64;
/// How long the disk has for what still waits when the daemon ends.
const FAREWELL: Duration = Duration::from_secs(5);

type Write = Box<dyn Fn(&Store) -> Result<()> + Send>;
type Then = Box<dyn FnOnce(&Result<()>) + Send>;

/// What of the state directory changes while the daemon runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Document {
    /// What this peer owns of the address space. Where the disk does not take it the
    /// mesh goes on: others keep it in mind, too.
    Space,
    Attachments,
    Names,
    Targets,
}

impl Document {
    fn words(self) -> &'static str {
        match self {
            Self::Space => "what this peer owns of the address space",
            Self::Attachments => "what is attached",
            Self::Names => "what containers are called",
            Self::Targets => "the targets",
        }
    }
}

/// The thread that writes, and what waits for it.
pub(super) struct Keeper {
    shared: Arc<Shared>,
    ended: Option<oneshot::Receiver<()>>,
    /// It was said that the disk is slow.
    said: bool,
}

#[derive(Default)]
struct Shared {
    desk: Mutex<Desk>,
    changed: Condvar,
    space_kept: Notify,
}

#[derive(Default)]
struct Desk {
    orders: BTreeMap<Document, Order>,
    /// What is being written, and since when.
    writing: Option<(Document, Instant)>,
    ending: bool,
}

struct Order {
    write: Write,
    /// Who waits for it.
    then: Vec<Then>,
    due: Instant,
    /// It was tried before.
    again: bool,
}

impl Keeper {
    /// Starts the thread.
    pub(super) fn start(store: Arc<Store>) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let (end, ended) = oneshot::channel();
        let desk = Arc::clone(&shared);
        let keep = move || {
            desk.run(&store);
            drop(store);
            let _ = end.send(());
        };
        thread::Builder::new()
            .name("wove-keeper".to_owned())
            .spawn(keep)?;
        Ok(Self {
            shared,
            ended: Some(ended),
            said: false,
        })
    }

    /// Has a document written soon, in place of what still waits of it; then says how
    /// the first attempt went.
    pub(super) fn keep(
        &self,
        document: Document,
        write: impl Fn(&Store) -> Result<()> + Send + 'static,
        then: impl FnOnce(&Result<()>) + Send + 'static,
    ) {
        let mut desk = self.shared.desk();
        let before = desk.orders.remove(&document);
        let again = before.as_ref().is_some_and(|order| order.again);
        let mut waiting = before.map_or_else(Vec::new, |order| order.then);
        if waiting.len() >= WAITING {
            waiting.remove(0)(&Err(anyhow!("the disk of the state directory is too slow")));
        }
        waiting.push(Box::new(then));
        let order = Order {
            write: Box::new(write),
            then: waiting,
            due: Instant::now(),
            again,
        };
        desk.orders.insert(document, order);
        self.shared.changed.notify_all();
    }

    /// The same for the address space; see [`Keeper::space_kept`].
    pub(super) fn keep_space(&self, write: impl Fn(&Store) -> Result<()> + Send + 'static) {
        let shared = Arc::clone(&self.shared);
        self.keep(Document::Space, write, move |_| {
            shared.space_kept.notify_one();
        });
    }

    /// Waits until the disk took the address space, or refused it.
    pub(super) async fn space_kept(&self) {
        self.shared.space_kept.notified().await;
    }

    /// For how long the disk has not answered, if that is too long.
    pub(super) fn stuck(&self) -> Option<Duration> {
        let (_, since) = self.shared.desk().writing?;
        Some(since.elapsed()).filter(|waited| *waited >= SLOW)
    }

    /// Says once that the disk does not answer, and once that it does again.
    pub(super) fn watch(&mut self) {
        let stuck = self.stuck();
        let said = std::mem::replace(&mut self.said, stuck.is_some());
        match stuck {
            Some(waited) if !said => tracing::warn!(
                "the disk of the state directory has not answered for {} s: \
                 frames are carried, addresses are given out when it does",
                waited.as_secs()
            ),
            None if said => tracing::warn!("the disk of the state directory answers again"),
            Some(_) | None => {}
        }
    }

    /// Ends the thread once all was tried that waits.
    ///
    /// # Errors
    /// The disk does not answer.
    pub(super) async fn end(&mut self) -> Result<()> {
        self.shared.end();
        let Some(ended) = self.ended.take() else {
            return Ok(());
        };
        let answered = timeout(FAREWELL, ended).await.is_ok();
        anyhow::ensure!(
            answered,
            "the disk of the state directory has not answered for {} s: what it held before is intact",
            FAREWELL.as_secs()
        );
        Ok(())
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.shared.end();
    }
}

impl Shared {
    fn desk(&self) -> MutexGuard<'_, Desk> {
        // What it holds is consistent after each single statement.
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self) {
        self.desk().ending = true;
        self.changed.notify_all();
    }

    fn run(&self, store: &Store) {
        while let Some((document, order)) = self.next() {
            let result = (order.write)(store);
            match &result {
                Ok(()) if order.again => {
                    tracing::warn!("{} is kept again", document.words());
                }
                Ok(()) => {}
                Err(error) if order.again => {
                    tracing::debug!("{} is still not kept: {error:#}", document.words());
                }
                Err(error) => tracing::error!(
                    "{} is not kept, and tried again every second: {error:#}",
                    document.words()
                ),
            }
            order.then.into_iter().for_each(|then| then(&result));
            let mut desk = self.desk();
            desk.writing = None;
            if result.is_err() && !desk.ending {
                let again = Order {
                    write: order.write,
                    then: Vec::new(),
                    due: Instant::now() + AGAIN,
                    again: true,
                };
                desk.orders
                    .entry(document)
                    .and_modify(|newer| newer.again = true)
                    .or_insert(again);
            }
        }
    }

    /// Waits for the next document that is due; none once all was tried and nothing
    /// more will come.
    fn next(&self) -> Option<(Document, Order)> {
        let mut desk = self.desk();
        loop {
            let ending = desk.ending;
            let now = Instant::now();
            let is_due = |order: &Order| ending || order.due <= now;
            let due = desk.orders.iter().find(|(_, order)| is_due(order));
            if let Some(document) = due.map(|(document, _)| *document) {
                let order = desk.orders.remove(&document)?;
                desk.writing = Some((document, now));
                return Some((document, order));
            }
            if ending {
                return None;
            }
            let next = desk.orders.values().map(|order| order.due).min();
            let wait = next.map_or(Duration::MAX, |due| due.saturating_duration_since(now));
            let waited = self.changed.wait_timeout(desk, wait);
            (desk, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, sync::mpsc};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn keeper() -> (tempfile::TempDir, Arc<Store>, Keeper) {
        let parent = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(&parent.path().join("state")).unwrap());
        let keeper = Keeper::start(Arc::clone(&store)).unwrap();
        (parent, store, keeper)
    }

    fn targets(name: &str) -> impl Fn(&Store) -> Result<()> + Send + use<> {
        let targets = [name.to_owned()];
        move |store| Ok(store.save_targets(&targets)?)
    }

    #[test]
    fn what_the_disk_refused_is_tried_again_and_the_latest_counts() {
        let (parent, store, keeper) = keeper();
        let (state, away) = (store.directory(), parent.path().join("away"));
        fs::rename(state, &away).unwrap();
        let (tell, told) = mpsc::channel();
        for name in ["a:1", "b:1"] {
            let tell = tell.clone();
            keeper.keep(Document::Targets, targets(name), move |result| {
                tell.send(result.is_ok()).unwrap();
            });
            assert!(!told.recv_timeout(LONG).unwrap());
        }
        fs::rename(&away, state).unwrap();
        let began = Instant::now();
        while store.targets().unwrap().is_none() {
            assert!(began.elapsed() < LONG, "it is not tried again");
            thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(store.targets().unwrap().unwrap(), ["b:1"]);
    }

    #[test]
    fn while_the_disk_hangs_nobody_waits_and_only_the_latest_is_kept() {
        let (_parent, store, mut keeper) = keeper();
        let (go_on, gate) = mpsc::channel::<()>();
        let gate = Mutex::new(gate);
        let (begin, begun) = mpsc::channel();
        keeper.keep_space(move |_| {
            begin.send(())?;
            Ok(gate.lock().unwrap().recv()?)
        });
        begun.recv_timeout(LONG).unwrap();
        let (tell, told) = mpsc::channel();
        let count = 10 * WAITING;
        for n in 0..count {
            let tell = tell.clone();
            keeper.keep(
                Document::Targets,
                targets(&format!("h:{n}")),
                move |result| tell.send((n, result.is_ok())).unwrap(),
            );
        }
        assert_eq!(keeper.shared.desk().orders.len(), 1);
        let turned_away: Vec<_> = told.try_iter().collect();
        assert!(
            turned_away
                .into_iter()
                .eq((0..count - WAITING).map(|n| (n, false)))
        );
        go_on.send(()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            keeper.space_kept().await;
            keeper.end().await.unwrap();
        });
        // Everybody who waited hears of it.
        assert!(
            told.try_iter()
                .eq((count - WAITING..count).map(|n| (n, true)))
        );
        assert_eq!(
            store.targets().unwrap().unwrap(),
            [format!("h:{}", count - 1)]
        );
        assert!(Arc::into_inner(store).is_some(), "the thread has ended");
    }
}
