//! Addresses that the mesh gives out: who waits for them, and what is kept.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    time::{Duration, Instant},
};

use gossip::space::Saved;
use ipnet::{IpNet, Ipv4Net};
use proto::ShortId;
use tokio::sync::oneshot;

use super::{
    Daemon, Ending,
    work::{Answer, HOST},
};
use crate::{
    engine::{Failure, Naming, Reply, TakenOver},
    shell::store::Store,
};

/// How long a client waits for an address. Below the patience of the control socket.
const PATIENCE: Duration = Duration::from_secs(25);
/// How long it waits for a takeover.
const TAKEOVER: Duration = Duration::from_secs(8);
/// How long leaving for good may take.
const LEAVE: Duration = Duration::from_secs(3);
/// What stands for the whole range.
const DEFAULT: &str = "default";

/// Everybody who waits for the address space.
#[derive(Default)]
pub(super) struct Waiting {
    next: u64,
    orders: Vec<Order>,
    takeovers: Vec<Takeover>,
    primes: Vec<(Instant, oneshot::Sender<Answer>)>,
    leaving: Option<(Instant, oneshot::Sender<Answer>)>,
}

/// Where addresses go.
enum Place {
    Container {
        netns: PathBuf,
        ifname: String,
        naming: Naming,
    },
    Host,
}

/// A client that waits for addresses.
struct Order {
    place: Place,
    given: Vec<IpNet>,
    /// Addresses that are still to come, by number of the wish.
    wanted: Vec<(u64, Ipv4Net)>,
    fresh: Vec<IpNet>,
    until: Instant,
    reply: oneshot::Sender<Answer>,
}

/// A client that waits for takeovers.
struct Takeover {
    peers: Vec<(String, ShortId, u32)>,
    until: Instant,
    reply: oneshot::Sender<Answer>,
}

fn refusal(message: impl Into<String>) -> Answer {
    Err(Failure {
        message: message.into(),
    })
}

/// What the launch before kept of the address space.
///
/// # Errors
/// The file is damaged, or is about another range.
pub(super) fn load(store: &Store, range: Ipv4Net) -> anyhow::Result<Option<Saved>> {
    let Some(saved) = store.space()? else {
        return Ok(None);
    };
    let before = Ipv4Net::new(Ipv4Addr::from_bits(saved.base), saved.prefix)?;
    anyhow::ensure!(
        before == range,
        "this peer owns addresses of {before}, and --ipalloc-range says {range}: launch it with --ipalloc-range {before}, \
         or run `wove reset` on every peer and launch all of them with the new range"
    );
    Ok(Some(saved))
}

impl Daemon {
    /// Keeps what must not be forgotten, before anything that follows from it is sent.
    pub(super) fn save_space(&mut self) {
        if let Some(saved) = self.router.take_space_saved()
            && let Err(error) = self.store.save_space(&saved)
        {
            tracing::error!("what this peer owns of the address space is not kept: {error:#}");
        }
    }

    pub(super) fn attach_with(
        &mut self,
        (netns, ifname): (PathBuf, String),
        addresses: Vec<IpNet>,
        subnets: &[String],
        naming: Naming,
        reply: oneshot::Sender<Answer>,
    ) {
        let place = Place::Container {
            netns,
            ifname,
            naming,
        };
        self.order(place, addresses, subnets, reply);
    }

    pub(super) fn expose_with(
        &mut self,
        addresses: Vec<IpNet>,
        subnets: &[String],
        reply: oneshot::Sender<Answer>,
    ) {
        self.order(Place::Host, addresses, subnets, reply);
    }

    fn order(
        &mut self,
        place: Place,
        given: Vec<IpNet>,
        subnets: &[String],
        reply: oneshot::Sender<Answer>,
    ) {
        let now = Instant::now();
        let subnets = match self.parse_subnets(subnets) {
            Ok(subnets) => subnets,
            Err(why) => {
                let _ = reply.send(refusal(why));
                return;
            }
        };
        if let Place::Container { netns, .. } = &place
            && !subnets.is_empty()
            && !netns.exists()
        {
            let why = format!(
                "network namespace {} cannot be opened: is the container running?",
                netns.display()
            );
            let _ = reply.send(refusal(why));
            return;
        }
        let present = self.addresses_at(&place);
        let mut order = Order {
            place,
            given,
            wanted: Vec::new(),
            fresh: Vec::new(),
            until: now + PATIENCE,
            reply,
        };
        for subnet in subnets {
            // Doing it twice is the same as doing it once.
            let has = present.iter().find(|net| {
                net.prefix_len() == subnet.prefix_len()
                    && matches!(net.addr(), IpAddr::V4(ip) if subnet.contains(&ip))
            });
            match has {
                Some(net) => order.given.push(*net),
                None => {
                    self.waiting.next += 1;
                    order.wanted.push((self.waiting.next, subnet));
                }
            }
        }
        let wanted = order.wanted.clone();
        if wanted.is_empty() {
            return self.carry_out(order);
        }
        self.waiting.orders.push(order);
        for (id, subnet) in wanted {
            self.router.allocate(id, subnet, now);
        }
    }

    fn carry_out(&mut self, order: Order) {
        let fresh = order.fresh.iter().map(IpNet::addr).collect();
        let addresses = [order.given, order.fresh].concat();
        match order.place {
            Place::Container {
                netns,
                ifname,
                naming,
            } => {
                self.attach(netns, ifname, (addresses, fresh), naming, order.reply);
            }
            Place::Host => self.expose(addresses, false, fresh, order.reply),
        }
    }

    fn addresses_at(&self, place: &Place) -> Vec<IpNet> {
        let attachment = self.attachments.iter().find(|a| match place {
            Place::Container { netns, ifname, .. } => {
                a.netns == netns.to_string_lossy() && a.ifname == *ifname
            }
            Place::Host => a.netns == HOST,
        });
        attachment.map(|a| a.addresses.clone()).unwrap_or_default()
    }

    fn parse_subnets(&self, subnets: &[String]) -> Result<Vec<Ipv4Net>, String> {
        let Some(range) = self.router.space_range() else {
            return match subnets.is_empty() {
                true => Ok(Vec::new()),
                false => Err("this peer was launched without an address range: give an address, for example 10.32.1.5/24".into()),
            };
        };
        let parse = |text: &String| {
            let text = text.strip_prefix("net:").unwrap_or(text);
            if text == DEFAULT {
                return Ok(range);
            }
            let subnet = text.parse::<Ipv4Net>().map_err(|_| {
                format!(
                    "net:{text} is no subnet of {range}: addresses are given out of IPv4 subnets"
                )
            })?;
            if subnet.addr() != subnet.network() {
                return Err(format!(
                    "{subnet} is an address and no subnet: write net:{}",
                    subnet.trunc()
                ));
            }
            if subnet.prefix_len() > 30 {
                return Err(format!(
                    "{subnet} has no address to give: a subnet has a prefix of 30 at most"
                ));
            }
            if !range.contains(&subnet) {
                return Err(format!(
                    "{subnet} is not within {range}, the range of --ipalloc-range"
                ));
            }
            Ok(subnet)
        };
        subnets.iter().map(parse).collect()
    }

    /// The addresses at a place that are in these subnets.
    pub(super) fn in_subnets(
        &self,
        netns: &str,
        ifname: Option<&str>,
        subnets: &[String],
    ) -> Result<Vec<IpNet>, String> {
        let subnets = self.parse_subnets(subnets)?;
        let here = self
            .attachments
            .iter()
            .filter(|a| a.netns == netns && ifname.is_none_or(|name| a.ifname == name));
        let addresses = here.flat_map(|a| a.addresses.iter().copied());
        let inside = addresses.filter(|net| {
            subnets.iter().any(|subnet| {
                net.prefix_len() == subnet.prefix_len()
                    && matches!(net.addr(), IpAddr::V4(ip) if subnet.contains(&ip))
            })
        });
        Ok(inside.collect())
    }

    /// The space has an address for somebody, or a reason why not.
    pub(super) fn take_address(&mut self, id: u64, result: Result<Ipv4Addr, String>) {
        let has = |order: &Order| order.wanted.iter().any(|(wish, _)| *wish == id);
        let Some(at) = self.waiting.orders.iter().position(has) else {
            // Whoever waited has gone.
            if let Ok(address) = result {
                self.router.release_address(address.into(), Instant::now());
            }
            return;
        };
        let address = match result {
            Ok(address) => address,
            Err(why) => return self.give_up(at, &why),
        };
        let order = &mut self.waiting.orders[at];
        let subnet = order.wanted.iter().find(|(wish, _)| *wish == id);
        let prefix = subnet.map_or(32, |(_, subnet)| subnet.prefix_len());
        order.wanted.retain(|(wish, _)| *wish != id);
        if let Ok(net) = Ipv4Net::new(address, prefix) {
            order.fresh.push(net.into());
        }
        if order.wanted.is_empty() {
            let order = self.waiting.orders.remove(at);
            self.carry_out(order);
        }
    }

    fn give_up(&mut self, at: usize, why: &str) {
        let now = Instant::now();
        let order = self.waiting.orders.remove(at);
        for (id, _) in &order.wanted {
            self.router.give_up(*id, now);
        }
        for net in &order.fresh {
            self.router.release_address(net.addr(), now);
        }
        let _ = order.reply.send(refusal(why));
    }

    /// Addresses that were given and not used after all.
    pub(super) fn release(&mut self, addresses: &[IpAddr]) {
        let now = Instant::now();
        let used = |ip: &IpAddr| {
            let all = self.attachments.iter().flat_map(|a| &a.addresses);
            all.map(IpNet::addr).any(|used| used == *ip)
        };
        let unused: Vec<IpAddr> = addresses.iter().filter(|ip| !used(ip)).copied().collect();
        for ip in unused {
            self.router.release_address(ip, now);
        }
    }

    pub(super) fn prime(&mut self, reply: oneshot::Sender<Answer>) {
        if self.router.space_range().is_none() {
            let _ = reply.send(refusal("this peer was launched without an address range"));
            return;
        }
        let now = Instant::now();
        self.router.prime(now);
        self.waiting.primes.push((now + PATIENCE, reply));
    }

    pub(super) fn take_over(
        &mut self,
        peers: Vec<String>,
        force: bool,
        reply: oneshot::Sender<Answer>,
    ) {
        let now = Instant::now();
        let mut taken = Vec::new();
        for name in peers {
            match self.router.take_over(&name, force, now) {
                Ok(peer) => taken.push((name, peer, self.router.owned_by(peer))),
                Err(why) => {
                    let _ = reply.send(refusal(why));
                    return;
                }
            }
        }
        self.waiting.takeovers.push(Takeover {
            peers: taken,
            until: now + TAKEOVER,
            reply,
        });
    }

    /// Gives back what this peer owns, then ends.
    pub(super) fn leave_for_good(&mut self, reply: oneshot::Sender<Answer>) {
        let now = Instant::now();
        if self.router.leave_space(now) {
            self.waiting.leaving = Some((now + LEAVE, reply));
        } else {
            self.ending = Some((Ending::Reset, Some(reply)));
        }
    }

    /// Answers those whose time has come.
    pub(super) fn look_after_waiting(&mut self) {
        let now = Instant::now();
        while let Some(at) = self
            .waiting
            .orders
            .iter()
            .position(|order| order.until <= now)
        {
            let state = self
                .router
                .status(now)
                .ipam
                .map(|ipam| ipam.state)
                .unwrap_or_default();
            self.give_up(
                at,
                &format!(
                    "no address after {} s: {state}; see `wove status ipam`",
                    PATIENCE.as_secs()
                ),
            );
        }
        let ready = self.router.is_primed();
        for (until, reply) in std::mem::take(&mut self.waiting.primes) {
            if ready {
                let _ = reply.send(Ok(Reply::Done));
            } else if until <= now {
                let state = self
                    .router
                    .status(now)
                    .ipam
                    .map(|ipam| ipam.state)
                    .unwrap_or_default();
                let _ = reply.send(refusal(format!("the range is not divided yet: {state}")));
            } else {
                self.waiting.primes.push((until, reply));
            }
        }
        for takeover in std::mem::take(&mut self.waiting.takeovers) {
            let left = |peer: ShortId| self.router.owned_by(peer);
            let done = takeover
                .peers
                .iter()
                .all(|(_, peer, before)| *before == 0 || left(*peer) < *before);
            if done || takeover.until <= now {
                let taken = takeover.peers.iter().map(|(name, peer, before)| TakenOver {
                    peer: name.clone(),
                    addresses: before.saturating_sub(left(*peer)),
                });
                let taken = taken.collect();
                let _ = takeover.reply.send(match done {
                    true => Ok(Reply::TakenOver { taken }),
                    false => refusal("not enough of the peers that decide have agreed yet: it goes on; see `wove status ipam`"),
                });
            } else {
                self.waiting.takeovers.push(takeover);
            }
        }
        let left = self.router.has_left_space();
        if let Some((until, reply)) = self.waiting.leaving.take() {
            if left || until <= now {
                self.ending = Some((Ending::Reset, Some(reply)));
            } else {
                self.waiting.leaving = Some((until, reply));
            }
        }
    }
}
