//! The daemon's side of the control socket: commands in, answers out (design
//! D14). It knows nothing of what a command does; it asks a [`Handle`].
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/status` | the status, as `wove status -o json` prints it |
//! | `GET /v1/report` | the report |
//! | `POST /v1/command` | a JSON [`Command`]: its [`Reply`] |
//!
//! Whatever is not done answers with a JSON [`Failure`]: 400 not understood,
//! 403 not allowed, 404 and 405 no such request, 413 too large, 422 refused by
//! the daemon, 503 busy or stopping, 504 no answer in time.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    future::Future,
    io,
    os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use nix::fcntl::{Flock, FlockArg};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::{
    metrics,
    serve::{self, Limits},
    view,
};
use crate::engine::{Command, Failure, Reply, Status};

/// How long a command may take before its client is told so. The command
/// itself goes on.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// The largest request body, in bytes.
pub const MAX_BODY: usize = 64 * 1024;
/// Commands that wait for the daemon at once; more are refused as busy.
const QUEUE: usize = 64;

const LIMITS: Limits = Limits {
    connections: 64,
    lifetime: Duration::from_secs(45),
    body: MAX_BODY,
};

/// A command on its way to whoever does it, and where the answer goes.
#[derive(Debug)]
pub struct Request {
    /// What is asked.
    pub command: Command,
    /// Where to answer; the client may be gone by then.
    pub reply: oneshot::Sender<Result<Reply, Failure>>,
}

/// Asks the daemon. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    requests: mpsc::Sender<Request>,
    within: Duration,
}

/// Why a command has no reply.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The daemon says no.
    #[error(transparent)]
    Refused(#[from] Failure),
    /// Too many commands wait.
    #[error("the daemon is busy: {QUEUE} commands wait already; try again")]
    Busy,
    /// Nobody takes commands any more.
    #[error("the daemon is stopping: it takes no more commands")]
    Stopping,
    /// It takes too long.
    #[error(
        "the daemon did not answer within {0:?}: the command may still be done; see `wove status`"
    )]
    Late(Duration),
}

impl Handle {
    /// A handle and the bounded queue it fills.
    pub fn channel() -> (Self, mpsc::Receiver<Request>) {
        Self::channel_within(ANSWER_WITHIN)
    }

    /// The same with another patience than [`ANSWER_WITHIN`].
    pub fn channel_within(within: Duration) -> (Self, mpsc::Receiver<Request>) {
        let (requests, queue) = mpsc::channel(QUEUE);
        (Self { requests, within }, queue)
    }

    /// Asks, and waits for the answer.
    pub async fn ask(&self, command: Command) -> Result<Reply, AskError> {
        let (reply, answer) = oneshot::channel();
        self.requests
            .try_send(Request { command, reply })
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => AskError::Busy,
                mpsc::error::TrySendError::Closed(_) => AskError::Stopping,
            })?;
        let answered = timeout(self.within, answer)
            .await
            .map_err(|_| AskError::Late(self.within))?;
        let mut reply = answered.map_err(|_| AskError::Stopping)??;
        if let Reply::Status(status) = &mut reply {
            fill_resident(status);
        }
        Ok(reply)
    }

    /// Asks for the status.
    pub async fn status(&self) -> Result<Box<Status>, AskError> {
        match self.ask(Command::Status).await? {
            Reply::Status(status) => Ok(status),
            _ => Err(unexpected("status")),
        }
    }
}

/// The engine cannot know the memory of the process it runs in.
fn fill_resident(status: &mut Status) {
    if status.counters.resident_bytes == 0 {
        status.counters.resident_bytes = metrics::resident_bytes().unwrap_or(0);
    }
}

fn unexpected(what: &str) -> AskError {
    AskError::Refused(Failure {
        message: format!("the daemon answered something else than a {what}: report this"),
    })
}

/// Why the control socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another daemon has it.
    #[error(
        "a wove daemon already answers on {0}: stop it with `wove stop`, or give this one another --socket"
    )]
    Taken(PathBuf),
    /// Something else is there.
    #[error("{0} exists and is not a socket: remove it, or give another --socket")]
    NotASocket(PathBuf),
    /// The file system refuses.
    #[error(
        "the control socket {path} cannot be made: {error}; check the directory, or give another --socket"
    )]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// The control socket of a daemon; its file goes away with it.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    file: SocketFile,
}

/// The socket's file, and the lock that says whose it is. The lock outlives a
/// look at the socket: two daemons launched at once cannot both find it dead.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    inode: u64,
    _lock: Flock<File>,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|file| file.ino() == self.inode);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "the control socket stays behind");
        }
    }
}

impl ControlSocket {
    /// Makes the socket with mode 0600, and its directory if absent. A socket
    /// on which nobody answers is replaced; one that answers is an error.
    pub async fn bind(path: &Path) -> Result<Self, BindError> {
        let failed = |error| BindError::Io {
            path: path.to_owned(),
            error,
        };
        if let Some(directory) = path.parent() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(directory)
                .map_err(failed)?;
        }
        let lock = lock(path)?;
        refuse_the_living(path).await?;
        // Bound beside its place and renamed into it, so that it never exists
        // under its name with another mode, and a dead one is replaced at once.
        let fresh = beside(path, "new");
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let listener = UnixListener::bind(&fresh).map_err(failed)?;
        fs::set_permissions(&fresh, Permissions::from_mode(0o600)).map_err(failed)?;
        let inode = fs::symlink_metadata(&fresh).map_err(failed)?.ino();
        fs::rename(&fresh, path).map_err(failed)?;
        Ok(Self {
            listener,
            file: SocketFile {
                path: path.to_owned(),
                inode,
                _lock: lock,
            },
        })
    }

    /// Answers clients until `until` resolves, then finishes the answers under way.
    pub async fn serve(self, handle: Handle, until: impl Future<Output = ()>) {
        let Self { listener, file } = self;
        let open = router(handle);
        let closed = Router::new().fallback(forbidden);
        let route = |client: &UnixStream| {
            if may_command(client) {
                open.clone()
            } else {
                closed.clone()
            }
        };
        serve::serve(listener, LIMITS, route, until).await;
        drop(file);
    }
}

fn lock(path: &Path) -> Result<Flock<File>, BindError> {
    let failed = |error| BindError::Io {
        path: path.to_owned(),
        error,
    };
    let options = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .clone();
    let file = options.open(beside(path, "lock")).map_err(failed)?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        nix::errno::Errno::EWOULDBLOCK => BindError::Taken(path.to_owned()),
        other => failed(other.into()),
    })
}

/// Refuses a path on which something answers, or that is not a socket.
async fn refuse_the_living(path: &Path) -> Result<(), BindError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            return Err(BindError::Io {
                path: path.to_owned(),
                error,
            });
        }
        Ok(file) if !file.file_type().is_socket() => {
            return Err(BindError::NotASocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path).await {
        Ok(_) => Err(BindError::Taken(path.to_owned())),
        Err(_) => Ok(()),
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

/// The socket's mode keeps others out already; this holds when someone widened it.
fn may_command(client: &UnixStream) -> bool {
    let Ok(credentials) = client.peer_cred() else {
        return false;
    };
    let allowed = is_allowed(credentials.uid(), nix::unistd::geteuid().as_raw());
    if !allowed {
        tracing::warn!(
            uid = credentials.uid(),
            pid = credentials.pid(),
            "a user who is not root was refused on the control socket"
        );
    }
    allowed
}

fn is_allowed(client: u32, own: u32) -> bool {
    client == 0 || client == own
}

/// The routes of the control socket, for whoever may use them.
fn router(handle: Handle) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/report", get(report))
        .route("/v1/command", post(command))
        .fallback(async || failure(StatusCode::NOT_FOUND, "no such request: see `wove help`"))
        .method_not_allowed_fallback(async || {
            failure(
                StatusCode::METHOD_NOT_ALLOWED,
                "no such request: see `wove help`",
            )
        })
        .with_state(handle)
}

async fn status(State(handle): State<Handle>) -> Result<Response, AskError> {
    let status = handle.status().await?;
    Ok(Json(view::contract(&status)).into_response())
}

async fn report(State(handle): State<Handle>) -> Result<Response, AskError> {
    match handle.ask(Command::Report).await? {
        Reply::Report { report } => Ok(Json(report).into_response()),
        _ => Err(unexpected("report")),
    }
}

async fn command(State(handle): State<Handle>, body: Result<Bytes, BytesRejection>) -> Response {
    let body = match body {
        Ok(body) => body,
        Err(rejected) => {
            return failure(
                rejected.status(),
                &format!("the command cannot be read: {rejected}"),
            );
        }
    };
    match serde_json::from_slice::<Command>(&body) {
        Ok(command) => handle.ask(command).await.map(Json).into_response(),
        Err(error) => {
            let why = format!(
                "the command is not understood: {error}; client and daemon may be of different versions"
            );
            failure(StatusCode::BAD_REQUEST, &why)
        }
    }
}

async fn forbidden() -> Response {
    failure(
        StatusCode::FORBIDDEN,
        "only root and the daemon's own user may command it: try again with sudo",
    )
}

fn failure(code: StatusCode, message: &str) -> Response {
    (
        code,
        Json(Failure {
            message: message.to_owned(),
        }),
    )
        .into_response()
}

impl IntoResponse for AskError {
    fn into_response(self) -> Response {
        let code = match self {
            Self::Refused(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Busy | Self::Stopping => StatusCode::SERVICE_UNAVAILABLE,
            Self::Late(_) => StatusCode::GATEWAY_TIMEOUT,
        };
        failure(code, &self.to_string())
    }
}

#[cfg(test)]
mod tests;
