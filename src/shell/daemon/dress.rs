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

use super::{
    kept::restore,
    names::{RESOLV_CONF, open_door},
};
use crate::{
    engine::Naming,
    shell::{
        config::check_name,
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

/// An interface in a container, and what it is called.
#[derive(Clone, Debug)]
pub(super) struct Inside {
    pub(super) ifname: String,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) naming: Naming,
}

impl Inside {
    /// Whether the container's files are to say something of it.
    fn is_told(&self) -> bool {
        self.naming.dns || self.naming.hostname.is_some()
    }
}

/// What is to be done for all interfaces of a namespace, and what was done before.
pub(super) struct Dressing {
    pub(super) netns: PathBuf,
    pub(super) place: Option<Place>,
    /// Ascending by name, so that whatever comes last writes the same.
    pub(super) inside: Vec<Inside>,
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
    pub(super) async fn put_on(self) -> Result<Dressed> {
        let door = match self.asks() && !self.has_door {
            true => Some(open_door(&self.netns).await?),
            false => None,
        };
        let files = tokio::task::spawn_blocking(move || self.write())
            .await
            .context("the container's files were not written")??;
        Ok(Dressed { files, door })
    }

    /// The same with the addresses that an interface has by now.
    pub(super) fn with_addresses(mut self, ifname: &str, addresses: &[IpNet]) -> Self {
        let here = self.inside.iter_mut().find(|one| one.ifname == ifname);
        if let Some(here) = here {
            here.addresses = addresses.iter().map(IpNet::addr).collect();
        }
        self
    }

    /// Whether names are answered inside.
    fn asks(&self) -> bool {
        self.inside.iter().any(|one| one.naming.dns)
    }

    fn write(&self) -> Result<Vec<Changed>> {
        let Some(place) = &self.place else {
            return Ok(Vec::new());
        };
        let mut files = Vec::new();
        let written = self.write_in(place, &mut files);
        if written.is_err() {
            // What was given before stays.
            let fresh = |file: &&Changed| self.known(&file.file).is_none();
            for file in files.iter().filter(fresh) {
                let _ = etc::restore(place, file);
            }
        }
        written.map(|()| files)
    }

    fn write_in(&self, place: &Place, files: &mut Vec<Changed>) -> Result<()> {
        let hostname = self
            .inside
            .iter()
            .find_map(|one| one.naming.hostname.as_deref());
        match (hostname, place) {
            (Some(hostname), Place::Process(pid)) => {
                let short = hostname.split('.').next().unwrap_or(hostname);
                files.extend(etc::set_host_name(*pid, short, self.known(etc::HOST_NAME))?);
            }
            _ => self.undo(place, etc::HOST_NAME),
        }
        let told: Vec<&Inside> = self.inside.iter().filter(|one| one.is_told()).collect();
        if told.is_empty() {
            self.undo(place, "hosts");
        } else {
            files.push(etc::change(
                place,
                "hosts",
                self.known("hosts"),
                |before| hosts(&own_or(before, place, HOSTS), &told, &self.domain),
            )?);
        }
        if !self.asks() {
            self.undo(place, "resolv.conf");
            return Ok(());
        }
        let fallback = !uses_musl(place);
        let known = self.known("resolv.conf");
        files.push(etc::change(place, "resolv.conf", known, |before| {
            resolv_conf(&own_or(before, place, RESOLV_CONF), &self.domain, fallback)
        })?);
        Ok(())
    }

    fn known(&self, file: &str) -> Option<&Changed> {
        self.known.iter().find(|changed| changed.file == file)
    }

    /// Puts back what was there, if we changed it.
    fn undo(&self, place: &Place, file: &str) {
        if let Some(known) = self.known(file) {
            restore(place, std::slice::from_ref(known));
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
fn hosts(before: &str, inside: &[&Inside], domain: &str) -> String {
    let mut out = before.to_owned();
    if !out.is_empty() && !out.ends_with('\n') {
        out.push('\n');
    }
    let mut lines = String::new();
    for one in inside {
        let names = one.naming.names.iter();
        let all: Vec<String> = names
            .flat_map(|name| match domain {
                "" => vec![name.clone()],
                domain => vec![format!("{name}.{domain}"), name.clone()],
            })
            .collect();
        for address in one.addresses.iter().filter(|_| !all.is_empty()) {
            lines += &format!("{address}\t{}\n", all.join(" "));
        }
    }
    if !lines.is_empty() {
        out += "# Written by wove\n";
    }
    out + &lines
}

/// What a namespace is called unless the operator says: the name that it has for
/// `ip netns`, or the host name of a process that has one of its own.
pub(super) fn default_name(netns: &Path) -> Option<String> {
    let name = match Place::of(netns)? {
        Place::Named(name) => name,
        Place::Process(pid) => etc::host_name(pid)?,
    };
    let canonical = check_name(&name).ok();
    if canonical.is_none() {
        tracing::info!(
            name,
            "a container's own name cannot be told: give it one with --name"
        );
    }
    canonical
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
        let inside = |names: &[&str]| Inside {
            ifname: "wove0".into(),
            addresses: vec!["10.32.1.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            naming: Naming {
                names: names.iter().map(|name| (*name).to_owned()).collect(),
                ..Naming::default()
            },
        };
        assert_eq!(
            hosts("127.0.0.1 localhost", &[&inside(&["web", "a.b"])], "w.l"),
            "127.0.0.1 localhost\n# Written by wove\n10.32.1.1\tweb.w.l web a.b.w.l a.b\nfd00::1\tweb.w.l web a.b.w.l a.b\n"
        );
        assert_eq!(hosts("x\n", &[&inside(&[])], "w.l"), "x\n");
    }
}
