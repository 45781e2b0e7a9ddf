//! The control socket, spoken to as a client would.

use std::future::pending;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::shell::view::sample;

/// A backend that does a little: enough to see every kind of answer.
async fn backend(mut queue: mpsc::Receiver<Request>) {
    let mut never_answered = Vec::new();
    while let Some(Request { command, reply }) = queue.recv().await {
        let answer = match command {
            Command::Status => Ok(Reply::Status(Box::new(sample::status()))),
            Command::Report => Ok(Reply::Report {
                report: json!({"deep": true}),
            }),
            Command::Connect { peers, .. } => Ok(Reply::Warned { warnings: peers }),
            Command::Stop => {
                never_answered.push(reply);
                continue;
            }
            _ => Err(Failure {
                message: "no: it cannot be; do something else".into(),
            }),
        };
        let _ = reply.send(answer);
    }
}

struct Daemon {
    _directory: tempfile::TempDir,
    path: PathBuf,
}

async fn launch() -> Daemon {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run/wove.sock");
    let socket = ControlSocket::bind(&path).await.unwrap();
    let (handle, queue) = Handle::channel_within(Duration::from_millis(200));
    tokio::spawn(backend(queue));
    tokio::spawn(socket.serve(handle, pending()));
    Daemon {
        _directory: directory,
        path,
    }
}

impl Daemon {
    async fn ask(&self, request: &str) -> (u16, Value) {
        let mut stream = UnixStream::connect(&self.path).await.unwrap();
        // The daemon may refuse, and close, before it has read everything.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let code = head.split(' ').nth(1).unwrap().parse().unwrap();
        (code, serde_json::from_str(body).unwrap())
    }

    async fn command(&self, body: &str) -> (u16, Value) {
        let length = body.len();
        self.ask(&format!(
            "POST /v1/command HTTP/1.1\r\nHost: wove\r\nContent-Length: {length}\r\n\r\n{body}"
        ))
        .await
    }
}

#[tokio::test]
async fn commands_are_answered() {
    let daemon = launch().await;
    let (code, reply) = daemon
        .command(r#"{"command":"connect","peers":["b:1"],"replace":false}"#)
        .await;
    assert_eq!(
        (code, reply),
        (200, json!({"reply": "warned", "warnings": ["b:1"]}))
    );
    let (code, reply) = daemon.command(r#"{"command":"status"}"#).await;
    assert_eq!(
        (code, &reply["reply"], &reply["version"]),
        (200, &json!("status"), &json!("0.1.0"))
    );
    let (code, status) = daemon
        .ask("GET /v1/status HTTP/1.1\r\nHost: wove\r\n\r\n")
        .await;
    assert_eq!((code, &status["ipam"]), (200, &json!({})));
    let (code, report) = daemon
        .ask("GET /v1/report HTTP/1.1\r\nHost: wove\r\n\r\n")
        .await;
    assert_eq!((code, report), (200, json!({"deep": true})));
}

#[tokio::test]
async fn what_is_not_done_says_why() {
    let daemon = launch().await;
    let huge = format!(
        r#"{{"command":"loglevel","filter":"{}"}}"#,
        "x".repeat(MAX_BODY)
    );
    let table = [
        (422, daemon.command(r#"{"command":"ps"}"#).await),
        (400, daemon.command("{").await),
        (400, daemon.command(r#"{"command":"explode"}"#).await),
        (400, daemon.command(&"[".repeat(2000)).await),
        (413, daemon.command(&huge).await),
        (504, daemon.command(r#"{"command":"stop"}"#).await),
        (
            404,
            daemon.ask("GET /v2 HTTP/1.1\r\nHost: wove\r\n\r\n").await,
        ),
        (
            405,
            daemon
                .ask("DELETE /v1/status HTTP/1.1\r\nHost: wove\r\n\r\n")
                .await,
        ),
    ];
    for (expected, (code, body)) in table {
        assert_eq!(code, expected, "{body}");
        assert!(
            body["message"]
                .as_str()
                .is_some_and(|line| !line.is_empty() && !line.contains('\n')),
            "{body}"
        );
    }
}

#[tokio::test]
async fn the_socket_is_private_and_single() {
    let daemon = launch().await;
    let mode = fs::metadata(&daemon.path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let directory = fs::metadata(daemon.path.parent().unwrap())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(directory & 0o777, 0o700);
    let second = ControlSocket::bind(&daemon.path).await;
    assert!(matches!(second, Err(BindError::Taken(_))), "{second:?}");
    assert_eq!(daemon.command(r#"{"command":"status"}"#).await.0, 200);
}

#[tokio::test]
async fn a_dead_socket_is_replaced_and_a_living_stranger_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("wove.sock");
    let stranger = std::os::unix::net::UnixListener::bind(&path).unwrap();
    assert!(matches!(
        ControlSocket::bind(&path).await,
        Err(BindError::Taken(_))
    ));
    drop(stranger);
    let socket = ControlSocket::bind(&path).await.unwrap();
    drop(socket.file);
    assert!(!path.exists());
    fs::write(&path, "precious").unwrap();
    assert!(matches!(
        ControlSocket::bind(&path).await,
        Err(BindError::NotASocket(_))
    ));
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[tokio::test]
async fn told_to_stop_it_finishes_the_answer_under_way() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("wove.sock");
    let socket = ControlSocket::bind(&path).await.unwrap();
    let (handle, mut queue) = Handle::channel();
    let (stop, stopped) = oneshot::channel::<()>();
    let server = tokio::spawn(socket.serve(handle, async { drop(stopped.await) }));
    let daemon = Daemon {
        _directory: directory,
        path: path.clone(),
    };
    let client = tokio::spawn(async move { daemon.command(r#"{"command":"stop"}"#).await });
    let request = queue.recv().await.unwrap();
    stop.send(()).unwrap();
    request.reply.send(Ok(Reply::Done)).unwrap();
    assert_eq!(client.await.unwrap(), (200, json!({"reply": "done"})));
    server.await.unwrap();
    assert!(!path.exists());
}

#[tokio::test]
async fn a_full_queue_and_a_gone_daemon_are_told_apart() {
    let (handle, queue) = Handle::channel_within(Duration::from_millis(20));
    for _ in 0..QUEUE {
        let late = handle.ask(Command::Ps).await;
        assert!(matches!(late, Err(AskError::Late(_))), "{late:?}");
    }
    assert!(matches!(handle.ask(Command::Ps).await, Err(AskError::Busy)));
    drop(queue);
    assert!(matches!(
        handle.ask(Command::Ps).await,
        Err(AskError::Stopping)
    ));
}

#[test]
fn root_and_the_daemons_user_may_command() {
    assert!(is_allowed(0, 1000) && is_allowed(1000, 1000) && is_allowed(0, 0));
    assert!(!is_allowed(1000, 0) && !is_allowed(1001, 1000));
}
