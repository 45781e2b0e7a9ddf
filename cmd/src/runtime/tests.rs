//! Against a small engine made for the test.
#![expect(
    clippy::disallowed_methods,
    reason = "the engine needs a thread of its own"
)]

use std::io::{Read, Write};

use super::*;

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// Answers one request with this, on a socket in a directory of its own.
fn engine(
    status: &str,
    body: &str,
) -> (tempfile::TempDir, PathBuf, std::thread::JoinHandle<String>) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("engine.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        let mut byte = [0];
        while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
            request.push(byte[0]);
        }
        stream.write_all(answer.as_bytes()).unwrap();
        String::from_utf8(request).unwrap()
    });
    (directory, path, thread)
}

fn ask(sockets: &[PathBuf], name: &str) -> Result<Container, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(find_on(sockets, name))
}

fn refusal(status: &str, body: &str) -> String {
    let (_directory, path, thread) = engine(status, body);
    let error = ask(&[path], "web1").unwrap_err().line().unwrap();
    thread.join().unwrap();
    error
}

fn inspection(state: &str, more: &str) -> String {
    format!(r#"{{"Id":"{ID}","Name":"/web1","State":{state},"Mounts":[]{more}}}"#)
}

#[test]
fn a_running_container_has_a_process_and_names() {
    let state = r#"{"Status":"running","Running":true,"Pid":4242}"#;
    let more = r#","Config":{"Hostname":"shop"},"HostConfig":{"NetworkMode":"bridge"}"#;
    let (_directory, path, thread) = engine("200 OK", &inspection(state, more));
    // One that is not there is passed over.
    let found = ask(&["/nowhere.sock".into(), path], "web1").unwrap();
    let names = vec!["web1".to_owned(), "shop".to_owned()];
    assert_eq!(
        found,
        Container {
            id: ID.into(),
            pid: 4242,
            names
        }
    );
    assert!(
        thread
            .join()
            .unwrap()
            .starts_with("GET /containers/web1/json HTTP/1.1\r\n")
    );
}

#[test]
fn a_host_name_made_up_from_the_id_is_no_name() {
    let state = r#"{"Running":true,"Pid":7}"#;
    let more = r#","Config":{"Hostname":"0123456789ab"}"#;
    let (_directory, path, thread) = engine("200 OK", &inspection(state, more));
    assert_eq!(ask(&[path], "web1").unwrap().names, ["web1"]);
    thread.join().unwrap();
}

#[test]
fn what_cannot_be_attached_is_said_with_the_cause() {
    let exited = inspection(r#"{"Status":"exited","Running":false,"Pid":0}"#, "");
    let host = inspection(
        r#"{"Running":true,"Pid":7}"#,
        r#","HostConfig":{"NetworkMode":"host"}"#,
    );
    let table = [
        ("200 OK", exited.as_str(), "is not running (exited)"),
        ("200 OK", host.as_str(), "use `wove expose`"),
        ("200 OK", "{", "not understood"),
        (
            "404 Not Found",
            r#"{"message":"no such container"}"#,
            "no container is called web1",
        ),
        (
            "404 Not Found",
            r#"{"message":"more than one result for container name or ID web1"}"#,
            "more than one result",
        ),
        (
            "500 Oops",
            r#"{"message":"multiple IDs found"}"#,
            "multiple IDs found",
        ),
        ("500 Oops", "x", "500"),
    ];
    for (status, body, expected) in table {
        let error = refusal(status, body);
        assert!(error.contains(expected), "{error}");
    }
    let error = ask(&["/nowhere.sock".into()], "web1")
        .unwrap_err()
        .line()
        .unwrap();
    assert!(
        error.contains("no container engine answers at /nowhere.sock"),
        "{error}"
    );
    for bad in ["", "a b", "../x", "a/json?x", "a\r\nHost: x"] {
        assert!(matches!(ask(&[], bad), Err(Failure::Usage(_))), "{bad:?}");
    }
}

#[test]
fn a_socket_in_the_environment_is_the_only_one() {
    assert_eq!(
        sockets(Some("unix:///x.sock".into())),
        [PathBuf::from("/x.sock")]
    );
    assert_eq!(sockets(Some("tcp://h:1".into())).len(), SOCKETS.len());
}
