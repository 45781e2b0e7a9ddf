//! Containers by name or id: asked of Docker and podman over their unix sockets,
//! which speak the same HTTP (Docker Engine API, `GET /containers/ID/json`).

use std::{
    env,
    path::{Path, PathBuf},
    time::Duration,
};

use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, StatusCode, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::{net::UnixStream, time::timeout};

use crate::failure::Failure;

/// Where they answer.
const SOCKETS: [&str; 3] = [
    "/var/run/docker.sock",
    "/run/podman/podman.sock",
    "/var/run/podman/podman.sock",
];
/// How long one may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest answer that is read, in bytes.
const LONGEST: usize = 4 << 20;

/// A running container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// Its whole id.
    pub id: String,
    /// A process in it, in the namespaces of this host.
    pub pid: u32,
    /// What it is called: its name, and its host name if that is not made up from its id.
    pub names: Vec<String>,
}

/// What an engine says of a container.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspection {
    id: String,
    #[serde(default)]
    name: String,
    state: State,
    #[serde(default)]
    config: Config,
    #[serde(default)]
    host_config: HostConfig,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct State {
    #[serde(default)]
    running: bool,
    #[serde(default)]
    pid: u32,
    #[serde(default)]
    status: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Config {
    #[serde(default)]
    hostname: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HostConfig {
    #[serde(default)]
    network_mode: String,
}

#[derive(Debug, Deserialize)]
struct Trouble {
    message: String,
}

/// Finds a running container by name or id, or by the start of its id.
pub fn find(name: &str) -> Result<Container, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("nothing can be asked: {error}")))?;
    runtime.block_on(find_on(&sockets(env::var("DOCKER_HOST").ok()), name))
}

/// The engines' sockets, one that the operator names before the usual ones.
fn sockets(docker_host: Option<String>) -> Vec<PathBuf> {
    let named = docker_host
        .as_deref()
        .and_then(|host| host.strip_prefix("unix://"));
    let usual = SOCKETS.iter().map(Path::new);
    match named {
        Some(path) => vec![path.into()],
        None => usual.map(Into::into).collect(),
    }
}

async fn find_on(sockets: &[PathBuf], name: &str) -> Result<Container, Failure> {
    check(name)?;
    let mut engines = 0;
    let mut trouble = None;
    for socket in sockets {
        let Ok(stream) = UnixStream::connect(socket).await else {
            continue;
        };
        engines += 1;
        match timeout(PATIENCE, inspect(stream, name)).await {
            Ok(Ok(Some(found))) => return running(name, found),
            Ok(Ok(None)) => {}
            Ok(Err(why)) => trouble = Some((socket, why)),
            Err(_) => trouble = Some((socket, "no answer".to_owned())),
        }
    }
    Err(Failure::failed(match trouble {
        Some((socket, why)) => format!(
            "the container engine at {} cannot say who {name} is: {why}",
            socket.display()
        ),
        None if engines == 0 => format!(
            "no container engine answers at {}: is Docker or podman running (for podman: `systemctl start podman.socket`)? Or name the container's process with --pid",
            sockets
                .iter()
                .map(|s| s.display().to_string())
                .collect::<Vec<_>>()
                .join(", ")
        ),
        None => format!("no container is called {name}: `docker ps` or `podman ps` lists them"),
    }))
}

/// A name ends up in the request's line.
fn check(name: &str) -> Result<(), Failure> {
    let known = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    if name.is_empty() || name.len() > 255 || !name.bytes().all(known) {
        return Err(Failure::Usage(format!(
            "{name:?} is neither name nor id of a container"
        )));
    }
    Ok(())
}

/// None if the engine does not know it.
async fn inspect(stream: UnixStream, name: &str) -> Result<Option<Inspection>, String> {
    let text = |error: hyper::Error| error.to_string();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(text)?;
    let connection = tokio::spawn(connection);
    let request = Request::get(format!("/containers/{name}/json"))
        .header("Host", "localhost")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let answer = sender.send_request(request).await.map_err(text)?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), LONGEST).collect().await;
    let body = body.map_err(|error| error.to_string())?.to_bytes();
    connection.abort();
    match status {
        StatusCode::OK => serde_json::from_slice(&body)
            .map(Some)
            .map_err(|error| format!("its answer is not understood: {error}")),
        other => {
            let said = serde_json::from_slice::<Trouble>(&body);
            let message = said.map(|trouble| trouble.message);
            match message {
                // Podman answers so as well when several ids begin like this.
                Ok(message) if message.contains("more than one") => Err(message),
                _ if other == StatusCode::NOT_FOUND => Ok(None),
                Ok(message) => Err(message),
                Err(_) => Err(other.to_string()),
            }
        }
    }
}

fn running(name: &str, found: Inspection) -> Result<Container, Failure> {
    if !found.state.running || found.state.pid == 0 {
        let status = Some(found.state.status).filter(|status| !status.is_empty());
        return Err(Failure::failed(format!(
            "container {name} is not running ({}): start it, then attach it",
            status.as_deref().unwrap_or("stopped")
        )));
    }
    if found.host_config.network_mode == "host" {
        return Err(Failure::failed(format!(
            "container {name} has the network of this host: use `wove expose` to give the host an address"
        )));
    }
    let own = found.name.trim_start_matches('/').to_owned();
    let hostname = found.config.hostname;
    let made_up = hostname.is_empty() || found.id.starts_with(&hostname);
    let names = [Some(own), (!made_up).then_some(hostname)];
    let is_name = |name: &String| wove::shell::config::check_name(name).is_ok();
    let mut names: Vec<String> = names.into_iter().flatten().filter(is_name).collect();
    names.dedup();
    Ok(Container {
        id: found.id,
        pid: found.state.pid,
        names,
    })
}

#[cfg(test)]
mod tests;
