//! The client's side of the control socket: one command, one answer, within
//! bounds of time and size. It knows nothing of what a command means.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{Request, StatusCode, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{
    net::UnixStream,
    runtime::Runtime,
    time::{sleep, timeout},
};
use wove::engine::{Command, Failure as Refusal, Reply};

use crate::failure::Failure;

/// A little more than the daemon gives itself, so that its own word comes first.
const ANSWER_WITHIN: Duration = Duration::from_secs(35);
/// How long a daemon may take to go once it said it would.
const GONE_WITHIN: Duration = Duration::from_secs(30);
/// How often to look whether it is gone.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// The longest answer that is read, in bytes: a report of a mesh of thousands.
const MAX_ANSWER: usize = 64 << 20;

/// Asks the daemon behind one socket.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
    runtime: Runtime,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum ClientError {
    /// Nobody answers there.
    NoDaemon(PathBuf),
    /// Anything else, in one line.
    Failed(String),
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::NoDaemon(socket) => Self::Failed(format!(
                "no wove daemon answers on {}: start one with `wove launch`, or name its socket with --socket",
                socket.display()
            )),
            ClientError::Failed(line) => Self::Failed(line),
        }
    }
}

impl Client {
    /// A client of the daemon on `socket`; it connects when it asks.
    pub fn new(socket: PathBuf) -> Result<Self, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = runtime
            .map_err(|error| Failure::failed(format!("the client cannot start: {error}")))?;
        Ok(Self { socket, runtime })
    }

    /// Asks, and waits for the answer.
    pub fn ask(&self, command: &Command) -> Result<Reply, ClientError> {
        self.runtime.block_on(async {
            let stream = connect(&self.socket).await?;
            self.exchange(stream, command).await
        })
    }

    /// Asks for what ends the daemon, and waits until it is gone.
    pub fn ask_the_last(&self, command: &Command) -> Result<Reply, ClientError> {
        self.runtime.block_on(async {
            let stream = connect(&self.socket).await?;
            let daemon = stream
                .peer_cred()
                .ok()
                .and_then(|peer| peer.pid())
                .filter(|pid| *pid > 0);
            let reply = self.exchange(stream, command).await?;
            let gone = timeout(GONE_WITHIN, gone(daemon, &self.socket)).await;
            gone.map_err(|_| {
                let what = daemon.map_or_else(
                    || "the daemon".to_owned(),
                    |pid| format!("the daemon (process {pid})"),
                );
                ClientError::Failed(format!(
                    "{what} is still there after {GONE_WITHIN:?}: see its log, or kill it"
                ))
            })?;
            Ok(reply)
        })
    }

    async fn exchange(&self, stream: UnixStream, command: &Command) -> Result<Reply, ClientError> {
        let exchanged = timeout(ANSWER_WITHIN, exchange(stream, command)).await;
        let (code, body) = exchanged
            .map_err(|_| {
                let socket = self.socket.display();
                ClientError::Failed(format!(
                    "the daemon on {socket} did not answer within {ANSWER_WITHIN:?}: see its log"
                ))
            })?
            .map_err(|error| self.strange(&error.to_string()))?;
        if code == StatusCode::OK {
            return serde_json::from_slice(&body).map_err(|error| self.strange(&error.to_string()));
        }
        match serde_json::from_slice::<Refusal>(&body) {
            Ok(refusal) => Err(ClientError::Failed(refusal.message)),
            Err(_) => Err(self.strange(&format!("HTTP status {code}"))),
        }
    }

    fn strange(&self, why: &str) -> ClientError {
        ClientError::Failed(format!(
            "the answer on {} is not understood ({why}): does the daemon have another version? see `wove version`",
            self.socket.display()
        ))
    }
}

async fn connect(socket: &Path) -> Result<UnixStream, ClientError> {
    UnixStream::connect(socket)
        .await
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::NoDaemon(socket.to_owned())
            }
            io::ErrorKind::PermissionDenied => ClientError::Failed(format!(
                "you may not use {}: only root and the daemon's own user may; try again with sudo",
                socket.display()
            )),
            _ => ClientError::Failed(format!(
                "{} cannot be used: {error}; is it the daemon's socket?",
                socket.display()
            )),
        })
}

async fn exchange(stream: UnixStream, command: &Command) -> anyhow::Result<(StatusCode, Bytes)> {
    let body = Full::new(Bytes::from(serde_json::to_vec(command)?));
    let request = Request::post("/v1/command")
        .header("host", "wove")
        .header("content-type", "application/json");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let response = sender.send_request(request.body(body)?).await?;
    let code = response.status();
    let answer = Limited::new(response.into_body(), MAX_ANSWER)
        .collect()
        .await;
    Ok((
        code,
        answer.map_err(|error| anyhow::anyhow!(error))?.to_bytes(),
    ))
}

/// A daemon whose process cannot be seen (another PID namespace) is gone when
/// its socket is silent; the socket alone would mislead when systemd starts
/// another daemon at once.
async fn gone(daemon: Option<i32>, socket: &Path) {
    loop {
        let gone = match daemon {
            Some(pid) => is_gone(&fs::read_to_string(format!("/proc/{pid}/stat"))),
            None => UnixStream::connect(socket).await.is_err(),
        };
        if gone {
            return;
        }
        sleep(LOOK_EVERY).await;
    }
}

/// A zombie is gone, too: it waits only for its parent (proc(5), the state
/// follows the last bracket).
fn is_gone(stat: &io::Result<String>) -> bool {
    let Ok(stat) = stat else {
        return true;
    };
    let state = stat.rsplit_once(')').map(|(_, rest)| rest.trim_start());
    state.is_some_and(|state| state.starts_with(['Z', 'X']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_gone_when_dead_or_unreaped() {
        assert!(is_gone(&Err(io::ErrorKind::NotFound.into())));
        assert!(is_gone(&Ok("42 (a) b) Z 1 42".into())));
        assert!(!is_gone(&Ok("42 (Z) S 1 42".into())));
    }

    #[test]
    fn no_daemon_says_what_to_do() {
        let client = Client::new("/nonexistent/wove.sock".into()).unwrap();
        let error = client.ask(&Command::Status).unwrap_err();
        let line = Failure::from(error).line().unwrap();
        assert_eq!(
            line,
            "wove: no wove daemon answers on /nonexistent/wove.sock: start one with `wove launch`, or name its socket with --socket"
        );
    }
}
