//! Datagrams that came by TCP, on their way to the data thread that opens them.
//!
//! Each holds on to the room that its connection was given, so all together are
//! bounded, and whoever sends much waits for himself alone.

use std::{
    mem,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use arc_swap::ArcSwapOption;
use tokio::sync::OwnedSemaphorePermit;

use crate::shell::wait::Waker;

/// One datagram.
pub(crate) struct Inbound {
    /// By which connection.
    pub(crate) from: SocketAddr,
    /// Its bytes.
    pub(crate) datagram: Vec<u8>,
    /// Given back with the datagram.
    pub(super) _room: OwnedSemaphorePermit,
}

/// What came in and was not handled yet.
#[derive(Default)]
pub(crate) struct Inbox {
    waiting: Mutex<Vec<Inbound>>,
    /// Spares the lock to who finds nothing.
    any: AtomicBool,
    waker: ArcSwapOption<Waker>,
}

impl Inbox {
    /// Who is to be woken.
    pub(crate) fn wakes(&self, waker: Arc<Waker>) {
        self.waker.store(Some(waker));
    }

    pub(super) fn put(&self, inbound: Inbound) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.push(inbound);
        drop(waiting);
        if !self.any.swap(true, Ordering::AcqRel)
            && let Some(waker) = &*self.waker.load()
        {
            waker.wake();
        }
    }

    /// Takes everything, in the order of each connection.
    pub(crate) fn take(&self) -> Vec<Inbound> {
        if !self.any.swap(false, Ordering::AcqRel) {
            return Vec::new();
        }
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        mem::take(&mut *waiting)
    }
}
