//! A connection to the kernel's routing netlink (rtnetlink(7)), and its errors in words.

use std::io;

use anyhow::{Context, Result, anyhow};
use rtnetlink::Handle;
use tokio::{sync::Mutex, task::JoinHandle};

/// A connection in the namespace of the thread that opened it; closed when dropped.
#[derive(Debug)]
pub(super) struct Netlink {
    pub(super) handle: Handle,
    /// The kernel answers one dump per socket at a time; a second gets EBUSY.
    pub(super) dump: Mutex<()>,
    task: JoinHandle<()>,
}

impl Netlink {
    /// Opens a connection; must be called within a tokio runtime.
    pub(super) fn open() -> Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection().context("no netlink socket")?;
        Ok(Self {
            handle,
            dump: Mutex::default(),
            task: tokio::spawn(connection),
        })
    }
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Runs `work` on a small runtime of its own, with a connection opened on this thread.
pub(super) fn block_on<T>(work: impl AsyncFnOnce(Netlink) -> Result<T>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async { work(Netlink::open()?).await })
}

/// What the kernel answered, as an error that says what to do where that is known.
pub(super) fn explain(error: rtnetlink::Error) -> anyhow::Error {
    let rtnetlink::Error::NetlinkError(message) = &error else {
        return anyhow!("netlink: {error}");
    };
    let cause = io::Error::from_raw_os_error(message.raw_code().saturating_neg());
    match cause.raw_os_error() {
        Some(libc::EPERM) => {
            anyhow::Error::new(cause).context("wove needs CAP_NET_ADMIN (run as root)")
        }
        Some(libc::EOPNOTSUPP) => anyhow::Error::new(cause)
            .context("the kernel cannot do this: load the modules bridge and veth (modprobe)"),
        _ => cause.into(),
    }
}

/// Turns "it is not there" (or "it is there already") of the given kind into `None`.
pub(super) fn unless<T>(result: Result<T, rtnetlink::Error>, errnos: &[i32]) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(rtnetlink::Error::NetlinkError(message))
            if errnos.contains(&message.raw_code().saturating_neg()) =>
        {
            Ok(None)
        }
        Err(error) => Err(explain(error)),
    }
}
