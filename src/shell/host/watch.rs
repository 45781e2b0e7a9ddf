//! Noticing that links or addresses of the host change, by whomever.
//!
//! Any number of changes becomes one notice: the listener looks at everything
//! again, so a storm costs it no memory and at most one more look.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use futures_util::StreamExt;
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::{
    MulticastGroup, new_multicast_connection,
    packet_core::{NetlinkMessage, NetlinkPayload},
};
use tokio::{sync::Notify, task::JoinHandle};

use super::Host;

const GROUPS: [MulticastGroup; 4] = [
    MulticastGroup::Link,
    MulticastGroup::Tc,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
];

/// Pause before a broken connection is opened again.
const PAUSE: Duration = Duration::from_millis(200);

/// What kind of thing changed since the last notice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// A device came, went or changed: time for [`Host::repair`].
    pub links: bool,
    /// An address came or went: time for [`Host::local_addresses`].
    pub addresses: bool,
}

/// Notices of changes; ends when dropped.
#[derive(Debug)]
pub struct Watch {
    seen: Arc<Seen>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Seen {
    links: AtomicBool,
    addresses: AtomicBool,
    notify: Notify,
}

impl Host {
    /// Starts to watch. wove's own changes are noticed like any others.
    pub fn watch(&self) -> Result<Watch> {
        let seen = Arc::new(Seen::default());
        let listener = Listener::open()?;
        Ok(Watch {
            task: tokio::spawn(listen(listener, Arc::clone(&seen))),
            seen,
        })
    }
}

impl Watch {
    /// Waits until something has changed since the last call.
    pub async fn changed(&self) -> Change {
        loop {
            let links = self.seen.links.swap(false, Ordering::Relaxed);
            let addresses = self.seen.addresses.swap(false, Ordering::Relaxed);
            if links || addresses {
                return Change { links, addresses };
            }
            self.seen.notify.notified().await;
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Messages =
    std::pin::Pin<Box<dyn futures_util::Stream<Item = NetlinkMessage<RouteNetlinkMessage>> + Send>>;

struct Listener {
    connection: JoinHandle<()>,
    messages: Messages,
    /// Keeps the connection open.
    _handle: rtnetlink::Handle,
}

impl Listener {
    fn open() -> Result<Self> {
        let (connection, handle, messages) =
            new_multicast_connection(&GROUPS).context("no netlink socket for notices")?;
        let messages = messages.map(|(message, _)| message).boxed();
        Ok(Self {
            connection: tokio::spawn(connection),
            messages,
            _handle: handle,
        })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

async fn listen(mut listener: Listener, seen: Arc<Seen>) {
    loop {
        while let Some(message) = listener.messages.next().await {
            seen.take(&message);
        }
        // The socket fails when more happens than it can hold: what was lost
        // may have been anything.
        tracing::debug!("netlink notices were lost; opening the connection again");
        tokio::time::sleep(PAUSE).await;
        if let Ok(new) = Listener::open() {
            listener = new;
            seen.note(true, true);
        }
    }
}

impl Seen {
    fn take(&self, message: &NetlinkMessage<RouteNetlinkMessage>) {
        let NetlinkPayload::InnerMessage(inner) = &message.payload else {
            return;
        };
        match inner {
            // A program that is taken off its device is as good as a device lost.
            RouteNetlinkMessage::NewLink(_)
            | RouteNetlinkMessage::DelLink(_)
            | RouteNetlinkMessage::DelTrafficFilter(_)
            | RouteNetlinkMessage::DelQueueDiscipline(_) => self.note(true, false),
            RouteNetlinkMessage::NewAddress(_) | RouteNetlinkMessage::DelAddress(_) => {
                self.note(false, true)
            }
            _ => {}
        }
    }

    fn note(&self, links: bool, addresses: bool) {
        self.links.fetch_or(links, Ordering::Relaxed);
        self.addresses.fetch_or(addresses, Ordering::Relaxed);
        self.notify.notify_one();
    }
}
