//! HTTP/1 connections with bounds: how many at once, how long each may last,
//! how much it may send. It knows neither who connects nor what is asked.

use std::{future::Future, pin::pin, time::Duration};

use axum::{Router, extract::DefaultBodyLimit, serve::Listener};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{task::JoinSet, time::timeout};

/// What a server allows its clients.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Connections at once; more wait in the kernel's backlog.
    pub(super) connections: usize,
    /// From accept to the last byte of the answer.
    pub(super) lifetime: Duration,
    /// Bytes of a request body.
    pub(super) body: usize,
}

/// How long a request's head may take; a client sends it at once.
const HEAD: Duration = Duration::from_secs(5);
/// How long answers under way may take once the server is told to stop.
const DRAIN: Duration = Duration::from_secs(2);
/// The most bytes of a request's head that are buffered.
const MAX_HEAD: usize = 16 * 1024;

/// Answers connections with the router that `route` picks for each, until
/// `until` resolves; then finishes the answers under way. One request a
/// connection, so that a client cannot hold one for nothing.
pub(super) async fn serve<L: Listener>(
    mut listener: L,
    limits: Limits,
    route: impl Fn(&L::Io) -> Router,
    until: impl Future<Output = ()>,
) {
    let mut until = pin!(until);
    let mut connections = JoinSet::new();
    loop {
        let free = connections.len() < limits.connections;
        tokio::select! {
            () = &mut until => break,
            Some(_) = connections.join_next() => {}
            (io, _) = listener.accept(), if free => {
                let router = route(&io).layer(DefaultBodyLimit::max(limits.body));
                connections.spawn(timeout(limits.lifetime, answer(io, router)));
            }
        }
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    if timeout(DRAIN, drained).await.is_err() {
        tracing::debug!("clients were cut off while their answers were under way");
    }
}

async fn answer<I>(io: I, router: Router)
where
    I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .keep_alive(false)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(io), TowerToHyperService::new(router))
        .await;
    if let Err(error) = served {
        tracing::trace!(%error, "a client's connection broke");
    }
}
