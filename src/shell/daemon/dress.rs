//! What a container is given so that it can ask for names: a door to the
//! resolver inside, and its files and host name.

use std::{
    collections::BTreeSet,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use ipnet::IpNet;

use super::names::{RESOLV_CONF, open_door};
use crate::{
    engine::Naming,
    shell::{
        dns::{Door, INSIDE},
        etc::{self, Changed, Place},
        netns::Identity,
    },
};

const HOSTS: &str = "/etc/hosts";
/// Servers that a C library looks at.
const SERVERS: usize = 3;
/// Domains that it looks at.
const DOMAINS: usize = 6;

/// What is to be done, and what was done before.
pub(super) struct Dressing {
    pub(super) netns: PathBuf,
    pub(super) place: Option<Place>,
    pub(super) naming: Naming,
    pub(super) domain: String,
    pub(super) known: Vec<Changed>,
    pub(super) has_door: bool,
}

/// What was done.
#[derive(Debug, Default)]
pub(super) struct Dressed {
    pub(super) files: Vec<Changed>,
    pub(super) door: Option<(Door, Identity)>,
}

impl Dressing {
    /// Does it; on failure what was changed before is put back.
    ///
    /// # Errors
    /// Something else answers inside, or a file cannot be written safely.
    pub(super) async fn put_on(self, addresses: &[IpNet]) -> Result<Dressed> {
        let door = match self.naming.dns && !self.has_door {
            true => Some(open_door(&self.netns).await?),
            false => None,
        };
        let addresses: Vec<IpAddr> = addresses.iter().map(IpNet::addr).collect();
        let files = tokio::task::spawn_blocking(move || self.write(&addresses))
            .await
            .context("the container's files were not written")??;
        Ok(Dressed { files, door })
    }

    fn write(&self, addresses: &[IpAddr]) -> Result<Vec<Changed>> {
        if let (Some(hostname), Some(Place::Process(pid))) = (&self.naming.hostname, &self.place) {
            let short = hostname.split('.').next().unwrap_or(hostname);
            etc::set_host_name(*pid, short)?;
        }
        let wanted = self.naming.dns || self.naming.hostname.is_some();
        let Some(place) = self.place.as_ref().filter(|_| wanted) else {
            return Ok(self.known.clone());
        };
        let known = |file: &str| self.known.iter().find(|changed| changed.file == file);
        let hosts = etc::change(place, "hosts", known("hosts"), |before| {
            hosts(
                &own_or(before, place, HOSTS),
                addresses,
                &self.naming.names,
                &self.domain,
            )
        })?;
        if !self.naming.dns {
            return Ok(vec![hosts]);
        }
        let fallback = !uses_musl(place);
        let resolv = etc::change(place, "resolv.conf", known("resolv.conf"), |before| {
            resolv_conf(&own_or(before, place, RESOLV_CONF), &self.domain, fallback)
        });
        match resolv {
            Ok(resolv) => Ok(vec![hosts, resolv]),
            Err(error) => {
                let _ = etc::restore(place, &hosts);
                Err(error)
            }
        }
    }
}

/// What a file held; where a namespace of `ip netns` has none, this host's counts.
fn own_or(before: Option<&str>, place: &Place, path: &str) -> String {
    match (before, place) {
        (Some(before), _) => before.to_owned(),
        (None, Place::Named(_)) => fs::read_to_string(path).unwrap_or_default(),
        (None, Place::Process(_)) => String::new(),
    }
}

/// Whether names are resolved by musl, which asks all servers at once and takes the
/// first answer: that of one who does not know the mesh, as often as not.
fn uses_musl(place: &Place) -> bool {
    let Place::Process(pid) = place else {
        return false;
    };
    let entries = fs::read_dir(Path::new(&format!("/proc/{pid}/root")).join("lib"));
    entries
        .into_iter()
        .flatten()
        .flatten()
        .any(|entry| entry.file_name().to_string_lossy().starts_with("ld-musl-"))
}

/// Our resolver first; with `fallback`, the servers there were for when it is down.
fn resolv_conf(before: &str, domain: &str, fallback: bool) -> String {
    let mut out = String::from("# Written by wove; `wove detach` puts back what was here.\n");
    out += &format!("nameserver {}\n", INSIDE.ip());
    let words = |line: &str| -> Vec<String> { line.split_whitespace().map(Into::into).collect() };
    let lines: Vec<Vec<String>> = before.lines().map(words).collect();
    let values = |key: &str| {
        let found = lines
            .iter()
            .filter(|line| line.first().is_some_and(|word| word == key));
        found
            .flat_map(|line| line[1..].iter().cloned())
            .collect::<Vec<_>>()
    };
    let is_other = |server: &&String| {
        // What is on the loopback of somebody else cannot be asked from here.
        server
            .parse::<IpAddr>()
            .is_ok_and(|address| !address.is_loopback())
    };
    let servers = values("nameserver");
    for server in servers
        .iter()
        .filter(is_other)
        .take(SERVERS - 1)
        .filter(|_| fallback)
    {
        out += &format!("nameserver {server}\n");
    }
    let mut seen = BTreeSet::new();
    let domains: Vec<String> = std::iter::once(domain.to_owned())
        .chain(values("search"))
        .chain(values("domain"))
        .filter(|domain| domain != "." && seen.insert(domain.clone()))
        .take(DOMAINS)
        .collect();
    out += &format!("search {}\n", domains.join(" "));
    let options = values("options");
    if !options.is_empty() {
        out += &format!("options {}\n", options.join(" "));
    }
    out
}

/// What there was, and the container's own names.
fn hosts(before: &str, addresses: &[IpAddr], names: &[String], domain: &str) -> String {
    let mut out = before.to_owned();
    if !out.is_empty() && !out.ends_with('\n') {
        out.push('\n');
    }
    let all: Vec<String> = names
        .iter()
        .flat_map(|name| match domain {
            "" => vec![name.clone()],
            domain => vec![format!("{name}.{domain}"), name.clone()],
        })
        .collect();
    if all.is_empty() {
        return out;
    }
    out += "# Written by wove\n";
    for address in addresses {
        out += &format!("{address}\t{}\n", all.join(" "));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_resolver_comes_first_and_the_others_stay() {
        let before = "nameserver 127.0.0.53\nnameserver 192.0.2.1\nnameserver 192.0.2.2\n\
                      nameserver 192.0.2.3\nsearch example.com wove.local\noptions edns0 ndots:2\n";
        let text = resolv_conf(before, "wove.local", true);
        assert_eq!(
            text.lines().skip(1).collect::<Vec<_>>(),
            [
                "nameserver 127.0.0.83",
                "nameserver 192.0.2.1",
                "nameserver 192.0.2.2",
                "search wove.local example.com",
                "options edns0 ndots:2"
            ]
        );
        let alone = resolv_conf("", "wove.local", true);
        assert!(alone.ends_with("nameserver 127.0.0.83\nsearch wove.local\n"));
        assert!(!resolv_conf(before, "wove.local", false).contains("192.0.2"));
    }

    #[test]
    fn hosts_name_the_container() {
        let addresses = ["10.32.1.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        let names = ["web".to_owned(), "a.b".to_owned()];
        assert_eq!(
            hosts("127.0.0.1 localhost", &addresses, &names, "w.l"),
            "127.0.0.1 localhost\n# Written by wove\n10.32.1.1\tweb.w.l web a.b.w.l a.b\nfd00::1\tweb.w.l web a.b.w.l a.b\n"
        );
        assert_eq!(hosts("x\n", &addresses, &[], "w.l"), "x\n");
    }
}
