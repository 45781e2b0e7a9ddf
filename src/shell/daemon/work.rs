//! Work that takes its time beside the loop: the kernel and the resolver.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use gossip::{DialId, Target};
use ipnet::IpNet;
use tokio::{sync::oneshot, time::timeout};

use super::{
    Daemon, dress::Dressed, fast::Made, follow::Search, ipam::Given, keeper::Document,
    network::Change, turns::Place,
};
use crate::{
    engine::{Attachment, Failure, Naming, Reply},
    shell::{
        host::{Host, Stays, Tunnel},
        store::Store,
    },
};

/// What a client gets.
pub(super) type Answer = Result<Reply, Failure>;

/// What stands for the namespace of the host itself.
pub(super) const HOST: &str = "host";
/// How long a name may take to resolve.
const RESOLVE: Duration = Duration::from_secs(5);
/// The kernel reports changes in flurries; repair waits for the end of one.
const SETTLE: Duration = Duration::from_millis(200);

/// Work that was finished.
pub(super) enum Done {
    /// A name was resolved, or not.
    Resolved {
        dial: DialId,
        result: Result<Vec<SocketAddr>, String>,
    },
    /// An interface was attached, changed or removed.
    Attached {
        attachment: Attachment,
        gone: Vec<IpNet>,
        dressed: Option<Box<Dressed>>,
        reply: oneshot::Sender<Answer>,
    },
    /// What was asked about a namespace was done.
    Turn(String),
    /// Nobody waits any more for what is being done about an interface.
    Deserted(Place),
    /// A container's files were written anew.
    Dressed {
        attachment: Attachment,
        dressed: Box<Dressed>,
    },
    /// It was looked where namespaces live on whose paths lead nowhere.
    Followed(Box<Search>),
    /// Before the end of everything containers and host lost their addresses, or did not.
    Emptied {
        result: Result<()>,
        reply: oneshot::Sender<Answer>,
    },
    /// Attached containers that are gone were looked for.
    Vanished { result: Result<Vec<Attachment>> },
    /// Something failed; addresses that were to be used are free again.
    Failed {
        error: anyhow::Error,
        unused: Vec<IpAddr>,
        reply: oneshot::Sender<Answer>,
    },
    /// It was looked whether everything of a tunnel is there.
    Tunnel {
        tunnel: Tunnel,
        fault: Result<Option<String>>,
    },
    /// The fast path was made, or not.
    Fast(Box<Made>),
    /// The disk has taken other secrets, or not.
    Secrets {
        change: Change,
        kept: Result<()>,
        reply: oneshot::Sender<Answer>,
    },
    /// The host's addresses were listed.
    Surveyed { addresses: Result<Vec<IpAddr>> },
    /// The host was put in order.
    Repaired { result: Result<Vec<String>> },
}

impl Done {
    /// The addresses are free again, unless they stay where they are.
    fn failed(error: anyhow::Error, fresh: Vec<IpAddr>, reply: oneshot::Sender<Answer>) -> Self {
        let stays = error.is::<Stays>();
        Self::Failed {
            error,
            unused: if stays { Vec::new() } else { fresh },
            reply,
        }
    }
}

/// What the last client hears.
pub(super) fn ended(result: &Result<()>) -> Answer {
    match result {
        Ok(()) => Ok(Reply::Done),
        Err(error) => Err(failure(error)),
    }
}

/// What is answered when something was done, which may not be kept.
pub(super) fn answer_of(kept: &Result<()>, reply: Reply) -> Answer {
    match kept {
        Ok(()) => Ok(reply),
        Err(error) => Err(Failure {
            message: format!(
                "done, but it will not survive a restart unless the disk takes it soon: {error:#}"
            ),
        }),
    }
}

/// An error as one line.
pub(super) fn failure(error: &anyhow::Error) -> Failure {
    Failure {
        message: format!("{error:#}").replace('\n', " "),
    }
}

/// Takes from a container what it was given just now: all if it was not attached
/// before, else what it did not have.
async fn undo_attach(
    host: &Host,
    (netns, ifname): (&Path, &str),
    mut given: Vec<IpNet>,
    before: Option<Vec<IpNet>>,
) -> Result<()> {
    if let Some(before) = before {
        given.retain(|net| !before.contains(net));
        // None would mean all.
        if given.is_empty() {
            return Ok(());
        }
    } else {
        given.clear();
    }
    host.detach(netns, ifname, &given).await.map(drop)
}

impl Daemon {
    pub(super) fn resolve(&self, dial: DialId, target: Target) {
        let done = self.done_tx.clone();
        self.beside.spawn(async move {
            let lookup = timeout(
                RESOLVE,
                tokio::net::lookup_host(target.authority().to_owned()),
            )
            .await;
            let result = match lookup {
                Ok(Ok(addresses)) => Ok(addresses.collect()),
                Ok(Err(error)) => Err(format!("the name does not resolve: {error}")),
                Err(_) => Err("the name does not resolve: no name server answers".to_owned()),
            };
            let _ = done.send(Done::Resolved { dial, result }).await;
        });
    }

    pub(super) fn repair(&mut self) {
        self.repairing = true;
        let (host, done) = (Arc::clone(&self.host), self.done_tx.clone());
        self.beside.spawn(async move {
            tokio::time::sleep(SETTLE).await;
            let result = host
                .repair()
                .await
                .map(|repairs| repairs.iter().map(ToString::to_string).collect());
            let _ = done.send(Done::Repaired { result }).await;
        });
    }

    pub(super) fn attach(
        &self,
        netns: PathBuf,
        ifname: String,
        given: Given,
        naming: Naming,
        reply: oneshot::Sender<Answer>,
    ) {
        let naming = match self.naming_for(&netns, &ifname, naming) {
            Ok(naming) => naming,
            Err(error) => {
                let done = self.done_tx.clone();
                self.beside.spawn(async move {
                    let unused = given.fresh;
                    let failed = Done::Failed {
                        error,
                        unused,
                        reply,
                    };
                    let _ = done.send(failed).await;
                });
                return;
            }
        };
        let dressing = self.dressing(netns.clone(), &ifname, &naming);
        let before = self.attached(&netns, &ifname);
        let before = before.map(|known| known.addresses.clone());
        let (host, config, done) = (
            Arc::clone(&self.host),
            self.host_config.clone(),
            self.done_tx.clone(),
        );
        self.beside.spawn(async move {
            let attach = |addresses: Vec<IpNet>| {
                let (host, netns, ifname) = (&host, &netns, &ifname);
                async move { host.attach(netns, ifname, &addresses, config.mtu).await }
            };
            let attached = match attach(given.addresses.clone()).await {
                Err(error) => match given.without_optional(&error) {
                    Some(fewer) => attach(fewer).await,
                    None => Err(error),
                },
                attached => attached,
            };
            let outcome = match attached {
                Ok(attached) => match dressing
                    .with_addresses(&ifname, &attached.addresses)
                    .put_on()
                    .await
                {
                    Ok(dressed) => Done::Attached {
                        attachment: Attachment {
                            netns: netns.to_string_lossy().into_owned(),
                            ifname,
                            mac: attached.mac,
                            addresses: attached.addresses,
                            naming,
                        },
                        gone: Vec::new(),
                        dressed: Some(Box::new(dressed)),
                        reply,
                    },
                    Err(error) => {
                        let mut given_now = given.addresses;
                        given_now.retain(|net| attached.addresses.contains(net));
                        let place = (netns.as_path(), ifname.as_str());
                        let undone = undo_attach(&host, place, given_now, before).await;
                        let error = Stays::unless(undone, &ifname, error);
                        Done::failed(error, given.fresh, reply)
                    }
                },
                Err(error) => Done::failed(error, given.fresh, reply),
            };
            let _ = done.send(outcome).await;
        });
    }

    pub(super) fn detach(
        &self,
        netns: PathBuf,
        ifname: String,
        addresses: Vec<IpNet>,
        reply: oneshot::Sender<Answer>,
    ) {
        let (host, done) = (Arc::clone(&self.host), self.done_tx.clone());
        let known = self.attached(&netns, &ifname).cloned();
        let dressing = known
            .as_ref()
            .map(|known| self.dressing(netns.clone(), &ifname, &known.naming));
        let container = known.as_ref().and_then(|a| a.naming.container.as_deref());
        let undressing = Some(self.dressing_without(netns.clone(), &ifname, container));
        let undressing = undressing.filter(|dressing| !dressing.inside.is_empty());
        self.beside.spawn(async move {
            let outcome = match host.detach(&netns, &ifname, &addresses).await {
                Ok(left) => {
                    let dressing = match left.is_empty() {
                        true => undressing,
                        false => dressing.map(|dressing| dressing.with_addresses(&ifname, &left)),
                    };
                    let dressed = match dressing {
                        Some(dressing) => dressing.put_on().await.ok().map(Box::new),
                        None => None,
                    };
                    let mut attachment = known.unwrap_or_else(|| Attachment {
                        netns: netns.to_string_lossy().into_owned(),
                        ifname,
                        mac: proto::MacAddr::default(),
                        addresses: Vec::new(),
                        naming: Naming::default(),
                    });
                    let gone = attachment
                        .addresses
                        .iter()
                        .filter(|a| !left.contains(a))
                        .copied()
                        .collect();
                    attachment.addresses = left;
                    Done::Attached {
                        attachment,
                        gone,
                        dressed,
                        reply,
                    }
                }
                Err(error) => Done::Failed {
                    error,
                    unused: Vec::new(),
                    reply,
                },
            };
            let _ = done.send(outcome).await;
        });
    }

    pub(super) fn expose(&self, given: Given, reply: oneshot::Sender<Answer>) {
        let host = Arc::clone(&self.host);
        let unused = given.fresh.clone();
        self.change_exposed(unused, reply, async move {
            match host.expose(&given.addresses).await {
                Err(error) => match given.without_optional(&error) {
                    Some(fewer) => host.expose(&fewer).await,
                    None => Err(error),
                },
                exposed => exposed,
            }
        });
    }

    pub(super) fn hide(&self, addresses: Vec<IpNet>, reply: oneshot::Sender<Answer>) {
        let host = Arc::clone(&self.host);
        self.change_exposed(Vec::new(), reply, async move {
            host.hide(&addresses).await.map(drop)
        });
    }

    fn change_exposed(
        &self,
        unused: Vec<IpAddr>,
        reply: oneshot::Sender<Answer>,
        change: impl Future<Output = Result<()>> + Send + 'static,
    ) {
        let (host, mac, done) = (
            Arc::clone(&self.host),
            self.bridge_mac,
            self.done_tx.clone(),
        );
        let ifname = self.host_config.bridge.clone();
        let before = self.exposed().map(|a| a.addresses.clone());
        self.beside.spawn(async move {
            let (changed, unused) = match change.await {
                // In use from now on, even if that cannot be seen.
                Ok(()) => (host.exposed().await, Vec::new()),
                Err(error) => (Err(error), unused),
            };
            let outcome = match changed {
                Ok(addresses) => Done::Attached {
                    gone: {
                        let before = before.unwrap_or_default().into_iter();
                        before.filter(|a| !addresses.contains(a)).collect()
                    },
                    attachment: Attachment {
                        netns: HOST.to_owned(),
                        ifname,
                        mac,
                        addresses,
                        naming: Naming::default(),
                    },
                    dressed: None,
                    reply,
                },
                Err(error) => Done::failed(error, unused, reply),
            };
            let _ = done.send(outcome).await;
        });
    }

    pub(super) fn handle_done(&mut self, done: Done) {
        match done {
            Done::Resolved { dial, result } => {
                self.router.handle_resolved(dial, result, Instant::now())
            }
            Done::Attached {
                attachment,
                gone,
                dressed,
                reply,
            } => {
                if let Some(dressed) = dressed {
                    self.keep_dressed(&attachment, *dressed);
                }
                self.record(attachment, &gone, Some(reply));
            }
            Done::Turn(netns) => self.end_turn(&netns),
            Done::Deserted(place) => self.give_up_at(&place, "nobody waits for it any more"),
            Done::Dressed {
                attachment,
                dressed,
            } => self.keep_dressed_anew(&attachment, *dressed),
            Done::Followed(search) => self.handle_followed(*search),
            Done::Emptied { result, reply } => self.handle_emptied(result, reply),
            Done::Vanished { result } => self.handle_vanished(result),
            Done::Failed {
                error,
                unused,
                reply,
            } => {
                self.release(&unused);
                let _ = reply.send(Err(failure(&error)));
            }
            Done::Tunnel { tunnel, fault } => self.handle_fault(tunnel, fault),
            Done::Fast(made) => self.handle_made(*made),
            Done::Secrets {
                change,
                kept,
                reply,
            } => self.handle_secrets(change, kept, reply),
            Done::Surveyed { addresses } => self.handle_surveyed(addresses),
            Done::Repaired { result } => {
                self.repairing = false;
                if std::mem::take(&mut self.repair_again) {
                    self.repair();
                }
                let failing = std::mem::replace(&mut self.damaged, result.is_err());
                match result {
                    Ok(repairs) => repairs
                        .iter()
                        .for_each(|what| tracing::warn!("repaired: {what}")),
                    Err(error) if failing => {
                        tracing::debug!("the host is still not in order: {error:#}")
                    }
                    Err(error) => tracing::warn!("the host is not in order: {error:#}"),
                }
            }
        }
    }

    /// Keeps what was attached, tells the mesh, and whoever asked for it.
    pub(super) fn record(
        &mut self,
        attachment: Attachment,
        gone: &[IpNet],
        reply: Option<oneshot::Sender<Answer>>,
    ) {
        let now = Instant::now();
        let same = |a: &Attachment| a.netns == attachment.netns && a.ifname == attachment.ifname;
        if let Some(old) = self
            .attachments
            .iter()
            .find(|a| same(a) && a.mac != attachment.mac)
        {
            self.router.detach_station(old.mac, now);
        }
        self.attachments.retain(|a| !same(a));
        if attachment.addresses.is_empty() {
            self.undress(&attachment);
            self.router.detach_station(attachment.mac, now);
        } else {
            gone.iter()
                .for_each(|net| self.router.detach_address(attachment.mac, net.addr(), now));
            let ips: Vec<_> = attachment.addresses.iter().map(IpNet::addr).collect();
            self.router.attach_station(attachment.mac, &ips, now);
            ips.iter().for_each(|ip| self.router.hold_address(*ip, now));
            self.attachments.push(attachment.clone());
        }
        let gone: Vec<IpAddr> = gone.iter().map(IpNet::addr).collect();
        self.release(&gone);
        self.tell_names();
        self.save_attachments(|kept| {
            if let Some(reply) = reply {
                let _ = reply.send(answer_of(kept, Reply::Attached(attachment)));
            }
        });
    }

    pub(super) fn save_attachments(&self, then: impl FnOnce(&Result<()>) + Send + 'static) {
        let attachments = self.attachments.clone();
        let write = move |store: &Store| Ok(store.save_attachments(&attachments)?);
        self.keeper.keep(Document::Attachments, write, then);
    }

    /// Finds again what was attached before the last stop. An interface that is
    /// gone is forgotten, not made anew: its namespace's path may mean another
    /// container by now.
    pub(super) async fn restore_attachments(&mut self) -> Result<()> {
        let known = self.store.attachments()?;
        let (exposed, mut containers): (Vec<_>, Vec<_>) =
            known.into_iter().partition(|a| a.netns == HOST);
        self.find_again(&mut containers).await;
        // Also what this launch knows nothing of: its state may be lost.
        let mut places = containers.clone();
        let same = |a: &Attachment, b: &Attachment| a.netns == b.netns && a.ifname == b.ifname;
        let mut marked = self.host.places().await?;
        self.find_again(&mut marked).await;
        for place in marked {
            if !places.iter().any(|known| same(known, &place)) {
                places.push(place);
            }
        }
        let mut found = self.host.attachments(&places).await?;
        let is_found = |place: &&Attachment| found.iter().any(|found| same(found, place));
        for lost in places.iter().filter(|place| !is_found(place)) {
            // What others may have from now on must not be in the mesh any more.
            let netns = Path::new(&lost.netns);
            if let Err(error) = self.host.detach(netns, &lost.ifname, &[]).await {
                tracing::warn!(
                    netns = lost.netns,
                    "an attached container is gone, not so its interface: {error:#}"
                );
            }
        }
        found.retain(|attachment| !attachment.addresses.is_empty());
        for lost in containers.iter().filter(|a| {
            !found
                .iter()
                .any(|f| f.netns == a.netns && f.ifname == a.ifname)
        }) {
            tracing::info!(
                netns = lost.netns,
                ifname = lost.ifname,
                "an attached container is gone"
            );
        }
        for attachment in found {
            self.keep(attachment);
        }
        for attachment in exposed {
            let addresses = self.expose_again(attachment.addresses).await;
            if !addresses.is_empty() {
                self.keep(Attachment {
                    mac: self.bridge_mac,
                    addresses,
                    ..attachment
                });
            }
        }
        self.store.save_attachments(&self.attachments)?;
        Ok(())
    }

    /// Gives the host its addresses again, as far as the kernel takes them by now;
    /// tells which it has.
    async fn expose_again(&self, addresses: Vec<IpNet>) -> Vec<IpNet> {
        let Err(error) = self.host.expose(&addresses).await else {
            return addresses;
        };
        tracing::warn!("not all addresses of this host are exposed any more: {error:#}");
        // IPv6 may have been switched off since.
        let v4 = addresses.iter().filter(|net| net.addr().is_ipv4());
        let v4: Vec<IpNet> = v4.copied().collect();
        if let Err(error) = self.host.expose(&v4).await {
            tracing::warn!("nor are those of IPv4: {error:#}");
        }
        // Those that it has nobody else may have.
        let present = self.host.exposed().await.unwrap_or_default();
        let is_present = |net: &IpNet| present.contains(net);
        addresses.into_iter().filter(is_present).collect()
    }

    fn keep(&mut self, attachment: Attachment) {
        let ips: Vec<_> = attachment.addresses.iter().map(IpNet::addr).collect();
        let now = Instant::now();
        self.router.attach_station(attachment.mac, &ips, now);
        ips.iter().for_each(|ip| self.router.hold_address(*ip, now));
        self.attachments.push(attachment);
    }

    fn attached(&self, netns: &Path, ifname: &str) -> Option<&Attachment> {
        let same = |a: &&Attachment| Path::new(&a.netns) == netns && a.ifname == ifname;
        self.attachments.iter().find(same)
    }

    /// What is attached, the host itself left out.
    pub(super) fn containers(&self) -> impl Iterator<Item = &Attachment> {
        self.attachments.iter().filter(|a| a.netns != HOST)
    }

    pub(super) fn exposed(&self) -> Option<&Attachment> {
        self.attachments.iter().find(|a| a.netns == HOST)
    }
}
