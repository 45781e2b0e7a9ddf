//! Other servers: which they are, and asking them.

use std::{
    fs::{self, File},
    io::{self, Read},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::fs::MetadataExt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use rand::{TryRngCore, rngs::OsRng};
use tokio::{
    io::AsyncReadExt,
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use super::{INSIDE, Settings, door::write_message};
use crate::engine::dns::{
    Transport,
    forward::{Forwarded, Verdict, servers},
};

/// How often the file is looked at.
pub(super) const REFRESH: Duration = Duration::from_secs(2);
/// How often each server is tried for one query.
const ROUNDS: usize = 2;
/// How long a server has to answer.
const PATIENCE: Duration = Duration::from_millis(1500);
/// How long all of them have: clients give up after 5 s.
const IN_ALL: Duration = Duration::from_millis(4500);
/// The longest file that is read, in bytes.
const MAX_FILE: u64 = 64 * 1024;

/// The servers.
pub(super) struct Upstream {
    servers: ArcSwap<Vec<SocketAddr>>,
    /// The file that names them; none if the operator did.
    file: Option<PathBuf>,
    listen: Option<SocketAddr>,
    seen: Mutex<Option<Stamp>>,
}

/// What changes when a file does.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp(u64, u64, i64, i64);

impl Upstream {
    pub(super) fn new(settings: &Settings) -> Self {
        let named = settings.upstream.clone();
        let upstream = Self {
            file: named.is_empty().then(|| settings.resolv_conf.clone()),
            servers: ArcSwap::new(Arc::new(named)),
            listen: settings.listen,
            seen: Mutex::default(),
        };
        upstream.refresh();
        upstream
    }

    pub(super) fn servers(&self) -> Arc<Vec<SocketAddr>> {
        self.servers.load_full()
    }

    /// Reads the file again if it has changed.
    pub(super) fn refresh(&self) {
        let Some(path) = &self.file else { return };
        let stamp = fs::metadata(path)
            .ok()
            .map(|file| Stamp(file.ino(), file.len(), file.mtime(), file.mtime_nsec()));
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if stamp.is_some() && *seen == stamp {
            return;
        }
        *seen = stamp;
        let mut text = String::new();
        let read = File::open(path).and_then(|file| file.take(MAX_FILE).read_to_string(&mut text));
        if let Err(error) = read {
            tracing::debug!(path = %path.display(), %error, "no other name servers are known");
        }
        let own = |address: &IpAddr| {
            *address == INSIDE.ip() || self.listen.is_some_and(|listen| listen.ip() == *address)
        };
        self.servers.store(Arc::new(servers(&text, own)));
    }

    /// Asks one server after the other, twice; says whether one could tell. None if
    /// the query cannot be passed on.
    pub(super) async fn ask(&self, query: &[u8], transport: Transport) -> Option<(Vec<u8>, bool)> {
        let forwarded = Forwarded::new(query, random_id()?)?;
        let servers = self.servers();
        let all = async {
            for server in (0..ROUNDS).flat_map(|_| servers.iter()) {
                let asked = async {
                    match transport {
                        Transport::Datagram => by_datagram(*server, &forwarded).await,
                        Transport::Stream => by_stream(*server, &forwarded).await,
                    }
                };
                match timeout(PATIENCE, asked).await {
                    Ok(Ok(Some(answer))) => return Some(answer),
                    Ok(Ok(None)) => tracing::debug!(%server, "a name server is not able to answer"),
                    Ok(Err(error)) => tracing::debug!(%server, %error, "a name server fails"),
                    Err(_) => tracing::debug!(%server, "a name server is silent"),
                }
            }
            None
        };
        match timeout(IN_ALL, all).await.ok().flatten() {
            Some(answer) => Some((forwarded.for_client(answer), true)),
            None => Some((forwarded.failure(), false)),
        }
    }
}

/// Every try has a socket of its own, so a random port.
async fn by_datagram(server: SocketAddr, query: &Forwarded) -> io::Result<Option<Vec<u8>>> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(query.bytes()).await?;
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        let length = socket.recv(&mut buffer).await?;
        match query.judge(&buffer[..length]) {
            Verdict::Good => {
                buffer.truncate(length);
                return Ok(Some(buffer));
            }
            Verdict::Unable => return Ok(None),
            Verdict::Foreign => {}
        }
    }
}

async fn by_stream(server: SocketAddr, query: &Forwarded) -> io::Result<Option<Vec<u8>>> {
    let mut stream = TcpStream::connect(server).await?;
    write_message(&mut stream, query.bytes()).await?;
    let length = usize::from(stream.read_u16().await?);
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer).await?;
    Ok(match query.judge(&answer) {
        Verdict::Good => Some(answer),
        Verdict::Unable | Verdict::Foreign => None,
    })
}

fn random_id() -> Option<u16> {
    let mut bytes = [0; 2];
    OsRng.try_fill_bytes(&mut bytes).ok()?;
    Some(u16::from_be_bytes(bytes))
}
