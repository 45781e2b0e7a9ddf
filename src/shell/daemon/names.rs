//! Names: what this host calls its containers, what operators add, and what a
//! container is given so that it can ask.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use ipnet::IpNet;
use tokio::sync::oneshot;

use super::{
    Daemon,
    dress::{Dressed, Dressing, Inside, default_name},
    keeper::Document,
    kept::{Kept, Key, restore},
    work::{Answer, Done, answer_of, failure},
};
use crate::{
    engine::{Attachment, DnsCommand, Naming, Reply, Snapshot, status::DnsStatus},
    shell::{
        config::{DnsConfig, check_name},
        dns::{Door, Resolver, Settings, Surroundings},
        etc::Place,
        netns::{self, Identity, Namespace},
        store::Store,
    },
};

/// Where this host's name servers are named.
pub(super) const RESOLV_CONF: &str = "/etc/resolv.conf";
/// How often it is looked whether namespaces with open doors are still there: an
/// open socket would keep one alive.
pub(super) const VIGIL: Duration = Duration::from_millis(200);
/// The key of this host's own door.
const HOST_DOOR: &str = "host";
/// Addresses of one name that an operator may add.
const BY_HAND: usize = 1024;

/// Names on this host.
pub(super) struct Names {
    config: Option<DnsConfig>,
    resolver: Option<Resolver>,
    kept: Kept,
    /// Namespaces in which names are answered, by path.
    doors: BTreeMap<String, Identity>,
}

impl Names {
    /// What was kept, and the resolver running if there is to be one.
    pub(super) fn new(
        config: Option<DnsConfig>,
        store: &Store,
        snapshot: Arc<Snapshot>,
    ) -> Result<Self> {
        let kept = Kept::load(store)?;
        let resolver = config
            .as_ref()
            .map(|config| start(config, snapshot))
            .transpose()?;
        Ok(Self {
            config,
            resolver,
            kept,
            doors: BTreeMap::new(),
        })
    }

    pub(super) fn publish(&self, snapshot: &Arc<Snapshot>) {
        if let Some(resolver) = &self.resolver {
            resolver.publish(Arc::clone(snapshot));
        }
    }

    pub(super) fn has_doors(&self) -> bool {
        !self.doors.is_empty()
    }

    fn domain(&self) -> &str {
        self.config.as_ref().map_or("", |config| &config.domain)
    }

    /// A name without the domain, from what people type.
    fn relative(&self, text: &str) -> Result<String> {
        let name =
            check_name(text).map_err(|why| anyhow::anyhow!("{text:?} is not a name: {why}"))?;
        let domain = self.domain();
        let inside = name.strip_suffix(domain).filter(|_| !domain.is_empty());
        match inside.map(|inside| inside.strip_suffix('.')) {
            Some(Some(inside)) => Ok(inside.to_owned()),
            Some(None) if inside == Some("") => {
                bail!("{text} is the domain itself: give a name in it")
            }
            _ if text.ends_with('.') => bail!("{text} is not in the domain {domain}"),
            _ => Ok(name),
        }
    }
}

fn start(config: &DnsConfig, snapshot: Arc<Snapshot>) -> Result<Resolver> {
    let settings = Settings {
        domain: config.domain.clone(),
        upstream: config.upstream.clone(),
        resolv_conf: RESOLV_CONF.into(),
        listen: config.listen,
    };
    let resolver = Resolver::start(&settings, snapshot)?;
    if let Some(listen) = config.listen {
        let door = Door::at(listen).context("--dns-listen")?;
        resolver.open(HOST_DOOR.to_owned(), door);
    }
    Ok(resolver)
}

fn key_of(attachment: &Attachment) -> Key {
    (attachment.netns.clone(), attachment.ifname.clone())
}

impl Daemon {
    /// Tells the mesh our names as they now are, and the resolver our surroundings.
    pub(super) fn tell_names(&mut self) {
        let Some(resolver) = &self.names.resolver else {
            return;
        };
        let attached = self.attachments.iter().flat_map(|attachment| {
            let addresses = attachment.addresses.iter().map(IpNet::addr);
            addresses.flat_map(|address| {
                let names = attachment.naming.names.iter();
                names.map(move |name| (name.clone(), address))
            })
        });
        let by_hand = self
            .names
            .kept
            .by_hand
            .iter()
            .flat_map(|(name, addresses)| addresses.iter().map(|address| (name.clone(), *address)));
        let names: Vec<(String, IpAddr)> = attached.chain(by_hand).collect();
        let exposed = self
            .exposed()
            .into_iter()
            .flat_map(|exposed| &exposed.addresses);
        let networks: BTreeSet<IpNet> = self
            .attachments
            .iter()
            .flat_map(|attachment| &attachment.addresses)
            .map(IpNet::trunc)
            .filter(|net| net.prefix_len() > 0)
            .collect();
        resolver.set_surroundings(Surroundings {
            own: self
                .endpoints
                .iter()
                .copied()
                .chain(exposed.map(IpNet::addr))
                .collect(),
            networks: networks.into_iter().collect(),
        });
        self.router.set_names(names, Instant::now());
    }

    /// What an attachment is to be called, from what is asked and what was before.
    pub(super) fn naming_for(&self, netns: &Path, ifname: &str, asked: Naming) -> Result<Naming> {
        let before = self
            .attachments
            .iter()
            .find(|a| Path::new(&a.netns) == netns && a.ifname == ifname)
            .map(|a| &a.naming)
            // The path may mean another container by now.
            .filter(|b| match (&asked.container, &b.container) {
                (Some(asked), Some(before)) => asked == before,
                _ => true,
            });
        let relative = |names: &[String]| -> Result<Vec<String>> {
            names.iter().map(|name| self.names.relative(name)).collect()
        };
        let mut names = match before {
            _ if asked.nameless => Vec::new(),
            _ if !asked.names.is_empty() => relative(&asked.names)?,
            Some(before) => before.names.clone(),
            None if !asked.called.is_empty() => relative(&asked.called)?,
            None => default_name(netns).into_iter().collect(),
        };
        let hostname = asked
            .hostname
            .or_else(|| before.and_then(|b| b.hostname.clone()));
        if let Some(hostname) = &hostname
            && !asked.nameless
        {
            names.insert(0, self.names.relative(hostname)?);
        }
        let mut seen = BTreeSet::new();
        names.retain(|name| seen.insert(name.clone()));
        let dns = asked.dns || before.is_some_and(|b| b.dns);
        ensure!(
            !asked.dns || self.names.resolver.is_some(),
            "names are switched off on this host (--no-dns): attach without --dns"
        );
        Ok(Naming {
            names,
            called: Vec::new(),
            nameless: asked.nameless,
            hostname,
            dns,
            container: asked
                .container
                .or_else(|| before.and_then(|b| b.container.clone())),
        })
    }

    /// How a container gets what the naming of its interfaces asks for: of this one
    /// as given, of the others as it was.
    pub(super) fn dressing(&self, netns: PathBuf, ifname: &str, naming: &Naming) -> Dressing {
        let container = naming.container.as_deref();
        let mut dressing = self.dressing_without(netns, ifname, container);
        dressing.inside.push(self.inside(ifname, &[], naming));
        dressing.inside.sort_by(|a, b| a.ifname.cmp(&b.ifname));
        dressing
    }

    /// The same without this one.
    pub(super) fn dressing_without(
        &self,
        netns: PathBuf,
        ifname: &str,
        container: Option<&str>,
    ) -> Dressing {
        let path = netns.to_string_lossy().into_owned();
        let others = self.attachments.iter();
        let mut inside: Vec<Inside> = others
            .filter(|other| other.netns == path && other.ifname != ifname)
            .map(|other| self.inside(&other.ifname, &other.addresses, &other.naming))
            .collect();
        inside.sort_by(|a, b| a.ifname.cmp(&b.ifname));
        Dressing {
            place: Place::of(&netns),
            netns,
            inside,
            domain: self.names.domain().to_owned(),
            known: self.names.kept.files_of(&path, container),
            has_door: self.names.doors.contains_key(&path),
        }
    }

    fn inside(&self, ifname: &str, addresses: &[IpNet], naming: &Naming) -> Inside {
        let mut naming = naming.clone();
        naming.dns &= self.names.resolver.is_some();
        Inside {
            ifname: ifname.to_owned(),
            addresses: addresses.iter().map(IpNet::addr).collect(),
            naming,
        }
    }

    /// Keeps what a container was given.
    pub(super) fn keep_dressed(&mut self, attachment: &Attachment, dressed: Dressed) {
        let key = key_of(attachment);
        let container = attachment.naming.container.as_deref();
        let changed = self.names.kept.keep_files(&key, container, dressed.files);
        if let (Some((door, identity)), Some(resolver)) = (dressed.door, &self.names.resolver) {
            resolver.open(key.0.clone(), door);
            self.names.doors.insert(key.0, identity);
        }
        if changed {
            self.save_names();
        }
    }

    /// A container is detached or gone.
    pub(super) fn undress(&mut self, attachment: &Attachment) {
        let key = key_of(attachment);
        let in_use = |other: &Attachment| other.netns == key.0 && other.naming.dns;
        if !self.attachments.iter().any(in_use) {
            self.close_door(&key.0);
        }
        if self.attachments.iter().any(|other| other.netns == key.0) {
            // The files are for all interfaces together.
            return;
        }
        let files = self.names.kept.take_files(&key.0);
        if files.is_empty() {
            return;
        }
        self.save_names();
        if let Some(place) = Place::of(Path::new(&attachment.netns)) {
            tokio::task::spawn_blocking(move || restore(&place, &files));
        }
    }

    /// An interface of a container went by itself: its files are to say so.
    fn dress_anew(&self, gone: &Attachment) {
        let netns = PathBuf::from(&gone.netns);
        let container = gone.naming.container.as_deref();
        let dressing = self.dressing_without(netns, &gone.ifname, container);
        let (attachment, done) = (gone.clone(), self.done_tx.clone());
        self.beside.spawn(async move {
            match dressing.put_on().await {
                Ok(dressed) => {
                    let dressed = Box::new(dressed);
                    let dressed = Done::Dressed {
                        attachment,
                        dressed,
                    };
                    let _ = done.send(dressed).await;
                }
                Err(error) => tracing::debug!("a container's files stay: {error:#}"),
            }
        });
    }

    pub(super) fn keep_dressed_anew(&mut self, attachment: &Attachment, dressed: Dressed) {
        let netns = &attachment.netns;
        if self.attachments.iter().any(|a| a.netns == *netns) {
            return self.keep_dressed(attachment, dressed);
        }
        // Gone as well meanwhile, and what it had is put back already.
        if let Some(place) = Place::of(Path::new(netns)) {
            tokio::task::spawn_blocking(move || restore(&place, &dressed.files));
        }
    }

    pub(super) fn close_door(&mut self, netns: &str) {
        if self.names.doors.remove(netns).is_some()
            && let Some(resolver) = &self.names.resolver
        {
            resolver.close(netns.to_owned());
        }
    }

    fn save_names(&self) {
        self.save_names_then(|_| {});
    }

    fn save_names_then(&self, then: impl FnOnce(&Result<()>) + Send + 'static) {
        let kept = self.names.kept.clone();
        let write = move |store: &Store| kept.save(store);
        self.keeper.keep(Document::Names, write, then);
    }

    /// Opens what was open before the last stop, and tells the names.
    pub(super) async fn restore_names(&mut self) {
        let attached: Vec<Attachment> = self.attachments.clone();
        if self.names.resolver.is_some() {
            for attachment in attached.iter().filter(|a| a.naming.dns) {
                if self.names.doors.contains_key(&attachment.netns) {
                    continue;
                }
                let opened = open_door(Path::new(&attachment.netns)).await;
                match opened {
                    Ok(door) => {
                        let files = self.names.kept.files_of(&attachment.netns, None);
                        let door = Some(door);
                        self.keep_dressed(attachment, Dressed { files, door });
                    }
                    Err(error) => tracing::warn!(
                        netns = attachment.netns,
                        "names are not answered in a container: {error:#}"
                    ),
                }
            }
        }
        // Whatever of `ip netns` is gone has left its files; a process has none left.
        let lost = |(netns, _): &Key| !attached.iter().any(|a| a.netns == *netns);
        let is_named = |place: &Place| matches!(place, Place::Named(_));
        self.names
            .kept
            .restore(|key, place| lost(key) && is_named(place));
        self.names.kept.put_aside(lost);
        self.save_names();
        self.tell_names();
    }

    /// What was changed in files; for the end of everything.
    pub(super) fn all_files(&self) -> Kept {
        self.names.kept.clone()
    }

    /// A namespace has another path.
    pub(super) fn move_door(&mut self, from: &str, to: &str) {
        if let Some(identity) = self.names.doors.remove(from)
            && let Some(resolver) = &self.names.resolver
        {
            resolver.rename(from.to_owned(), to.to_owned());
            self.names.doors.insert(to.to_owned(), identity);
        }
        // The files were those of the container that is gone.
        self.names.kept.put_aside(|gone| gone.0 == from);
        self.save_names();
    }

    /// Closes the doors of namespaces that are gone, lest they stay for our sockets.
    pub(super) fn keep_vigil(&mut self) {
        // A process may still be there: if not, the door is closed.
        let sought = self.follow_strayed();
        let is_there = |netns: &str, identity: &Identity| {
            netns::identity_of(Path::new(netns)) == Some(*identity)
        };
        let gone: Vec<String> = self
            .names
            .doors
            .iter()
            .filter(|(netns, identity)| !sought.contains(*netns) && !is_there(netns, identity))
            .map(|(netns, _)| netns.clone())
            .collect();
        for netns in gone {
            tracing::debug!(netns, "a namespace is gone: its door is closed");
            self.close_door(&netns);
        }
    }

    /// Looks which attached containers are gone, after links have changed.
    pub(super) fn look_for_vanished(&mut self) {
        let containers: Vec<Attachment> = self.containers().cloned().collect();
        if containers.is_empty() {
            return;
        }
        if std::mem::replace(&mut self.looking, true) {
            self.look_again = true;
            return;
        }
        let (host, done) = (Arc::clone(&self.host), self.done_tx.clone());
        self.beside.spawn(async move {
            let result = host.vanished(&containers).await;
            let _ = done.send(Done::Vanished { result }).await;
        });
    }

    /// Forgets containers that are gone: their addresses and names are free at once.
    pub(super) fn handle_vanished(&mut self, result: Result<Vec<Attachment>>) {
        self.looking = false;
        match result {
            Ok(vanished) => {
                // It may have been attached anew meanwhile.
                let mut gone = vanished;
                // What is being done about a container will say so itself; then it is looked again.
                gone.retain(|attachment| {
                    let is_busy = self.turns.contains_key(&attachment.netns);
                    !is_busy && self.attachments.contains(attachment)
                });
                self.attachments.retain(|a| !gone.contains(a));
                for attachment in gone {
                    tracing::info!(
                        netns = attachment.netns,
                        ifname = attachment.ifname,
                        "an attached container is gone"
                    );
                    let netns = &attachment.netns;
                    let lives_on = self.attachments.iter().any(|a| a.netns == *netns);
                    if attachment.naming.container.is_some() && !lives_on {
                        self.names.kept.put_aside(|gone| gone.0 == *netns);
                        self.save_names();
                    }
                    if lives_on {
                        self.dress_anew(&attachment);
                    }
                    let gone = attachment.addresses.clone();
                    let empty = Attachment {
                        addresses: Vec::new(),
                        ..attachment
                    };
                    self.record(empty, &gone, None);
                }
            }
            Err(error) => tracing::debug!("attached containers cannot be listed: {error:#}"),
        }
        if std::mem::take(&mut self.look_again) {
            self.look_for_vanished();
        }
    }

    /// What an operator asks about names.
    pub(super) fn dns(&mut self, command: DnsCommand, reply: oneshot::Sender<Answer>) {
        match self.do_dns(command) {
            // What changed is to be kept first.
            Ok(Reply::Done) => {
                self.tell_names();
                self.save_names_then(|kept| {
                    let _ = reply.send(answer_of(kept, Reply::Done));
                });
            }
            answer => {
                let _ = reply.send(answer.map_err(|error| failure(&error)));
            }
        }
    }

    fn do_dns(&mut self, command: DnsCommand) -> Result<Reply> {
        ensure!(
            self.names.resolver.is_some(),
            "names are switched off on this host: launch without --no-dns"
        );
        match command {
            DnsCommand::Add { name, addresses } => {
                let name = self.names.relative(&name)?;
                let held = self.names.kept.by_hand.entry(name.clone()).or_default();
                held.extend(addresses.iter().map(IpAddr::to_canonical));
                if held.len() > BY_HAND {
                    for address in &addresses {
                        held.remove(&address.to_canonical());
                    }
                    bail!("{name} would have more than {BY_HAND} addresses: remove some first");
                }
            }
            DnsCommand::Remove { name, addresses } => self.remove_by_hand(&name, &addresses)?,
            DnsCommand::Lookup { name } => return self.look_up(name),
        }
        Ok(Reply::Done)
    }

    fn remove_by_hand(&mut self, text: &str, addresses: &[IpAddr]) -> Result<()> {
        let name = self.names.relative(text)?;
        let Some(held) = self.names.kept.by_hand.get_mut(&name) else {
            let attached = self
                .attachments
                .iter()
                .any(|a| a.naming.names.contains(&name));
            ensure!(
                !attached,
                "{name} is the name of an attached container: detach that, or attach it again with another --name"
            );
            bail!(
                "{name} was not added on this host: remove it where `wove status dns` says it comes from"
            );
        };
        let canonical: Vec<IpAddr> = addresses.iter().map(IpAddr::to_canonical).collect();
        if let Some(address) = canonical.iter().find(|address| !held.contains(address)) {
            bail!("{name} was not given {address} on this host: nothing was removed");
        }
        held.retain(|address| !canonical.is_empty() && !canonical.contains(address));
        if held.is_empty() {
            self.names.kept.by_hand.remove(&name);
        }
        Ok(())
    }

    fn look_up(&self, text: String) -> Result<Reply> {
        let directory = self.router.mesh().directory();
        let domain = self.names.domain();
        let found: Vec<String> = match text.parse::<IpAddr>() {
            Ok(address) => directory
                .names_of(&address.to_canonical())
                .map(|name| format!("{name}.{domain}"))
                .collect(),
            Err(_) => {
                let name = self.names.relative(&text)?;
                let addresses = directory.lookup(&name).unwrap_or_default();
                addresses.iter().map(ToString::to_string).collect()
            }
        };
        ensure!(
            !found.is_empty(),
            "{text} is not known in the mesh: `wove status dns` lists what is"
        );
        Ok(Reply::Names { name: text, found })
    }

    /// Fills in what the router cannot know.
    pub(super) fn dns_status(&self, status: &mut DnsStatus) {
        let domain = self.names.domain();
        for name in &mut status.names {
            name.name = match domain {
                "" => std::mem::take(&mut name.name),
                domain => format!("{}.{domain}", name.name),
            };
        }
        let Some(resolver) = &self.names.resolver else {
            return;
        };
        status.enabled = true;
        status.domain = domain.to_owned();
        status.listen = self.names.config.as_ref().and_then(|config| config.listen);
        status.inside = self.names.doors.len();
        status.upstream = resolver.upstream();
        status.counters = resolver.counters();
    }
}

/// Binds sockets inside a namespace.
pub(super) async fn open_door(netns: &Path) -> Result<(Door, Identity)> {
    let namespace = Namespace::open(netns)?;
    Ok((Door::inside(&namespace).await?, namespace.identity()))
}
