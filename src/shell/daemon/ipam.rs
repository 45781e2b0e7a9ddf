//! Addresses that the mesh gives out: who waits for them, and what is kept.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Result;
use gossip::space::Saved;
use ipnet::{IpNet, Ipv4Net};
use tokio::sync::oneshot;

use super::{
    Daemon, MIN_MTU, turns,
    work::{Answer, HOST},
};
use crate::{
    engine::{Failure, Naming, Ranges, Status, Wanted},
    shell::{host::NoIpv6, store::Store},
};

/// How long a client waits for an address. Below the patience of the control socket.
pub(super) const PATIENCE: Duration = Duration::from_secs(25);

/// Everybody who waits for an address.
#[derive(Default)]
pub(super) struct Waiting {
    next: u64,
    orders: Vec<Order>,
    /// Addresses given by hand that a namespace is getting just now.
    pledged: BTreeMap<String, Vec<IpAddr>>,
    /// Why addresses of the ranges are not given out here.
    pub(super) overlap: Option<String>,
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

impl Place {
    fn key(&self) -> turns::Place {
        match self {
            Self::Container { netns, ifname, .. } => {
                (netns.to_string_lossy().into_owned(), ifname.clone())
            }
            Self::Host => turns::host(),
        }
    }
}

/// A client that waits for addresses.
struct Order {
    place: Place,
    given: Given,
    /// Addresses that are still to come, by number of the wish.
    wanted: Vec<(u64, Wanted)>,
    until: Instant,
    reply: oneshot::Sender<Answer>,
}

/// The addresses of an order.
#[derive(Default)]
pub(super) struct Given {
    /// All.
    pub(super) addresses: Vec<IpNet>,
    /// Those that were given out for it.
    pub(super) fresh: Vec<IpAddr>,
    /// Those that need not be where the kernel has no IPv6.
    pub(super) optional: Vec<IpNet>,
}

impl Given {
    /// What to try instead where a device cannot have IPv6 addresses, as the error
    /// says; none if those were asked for.
    pub(super) fn without_optional(&self, error: &anyhow::Error) -> Option<Vec<IpNet>> {
        let mut fewer = self.addresses.clone();
        fewer.retain(|net| !self.optional.contains(net));
        (error.is::<NoIpv6>() && fewer.len() < self.addresses.len()).then_some(fewer)
    }

    fn add(&mut self, nets: &[IpNet], optional: bool) {
        let is_optional = |net: &&IpNet| optional && net.addr().is_ipv6();
        self.optional.extend(nets.iter().filter(is_optional));
        self.addresses.extend(nets);
    }
}

pub(super) fn refusal(message: impl Into<String>) -> Answer {
    Err(Failure {
        message: message.into(),
    })
}

/// What the launch before kept of the address space.
///
/// # Errors
/// The file is damaged, or is about another range.
pub(super) fn load(store: &Store, range: Ipv4Net) -> Result<Option<Saved>> {
    let Some(saved) = store.space()? else {
        return Ok(None);
    };
    let before = Ipv4Net::new(Ipv4Addr::from_bits(saved.base), saved.prefix)?;
    anyhow::ensure!(
        before == range,
        "this peer owns addresses of {before}, and --ipalloc-range says {range}: launch it with --ipalloc-range {before}, \
         or run `wove reset` (here `wove reset --force`) on every peer and launch all of them with the new range"
    );
    Ok(Some(saved))
}

impl Daemon {
    /// Keeps what must not be forgotten; what follows from it is said after that.
    pub(super) fn save_space(&mut self) {
        if let Some(saved) = self.router.take_space_saved() {
            self.keeper
                .keep_space(move |store| Ok(store.save_space(&saved)?));
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

    /// Looks whether this host routes addresses of the ranges elsewhere. Whoever
    /// owns some already goes on: what was right when it began stays.
    pub(super) async fn look_for_overlaps(&mut self) {
        let Some(ranges) = self.router.ranges() else {
            return;
        };
        let nets = [IpNet::V4(ranges.v4)]
            .into_iter()
            .chain(ranges.v6.map(IpNet::V6));
        for net in nets {
            match self.host.route_within(net).await {
                Ok(None) => {}
                Ok(Some(route)) => {
                    let why = format!(
                        "{net} overlaps with the route of this host to {route}: launch all peers with another --ipalloc-range{}",
                        if net.addr().is_ipv6() { "6" } else { "" }
                    );
                    tracing::warn!("{why}");
                    if !self.router.is_primed() {
                        self.waiting.overlap = Some(why);
                    }
                }
                Err(error) => tracing::warn!("routes are not known: {error:#}"),
            }
        }
    }

    /// Whoever waits for addresses at a place hears why there will be none.
    pub(super) fn give_up_at(&mut self, place: &turns::Place, why: &str) {
        let is_there = |order: &Order| order.place.key() == *place;
        if let Some(at) = self.waiting.orders.iter().position(is_there) {
            self.give_up(at, why);
        }
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
        if let Some(why) = self.is_taken(&place, &given) {
            let _ = reply.send(refusal(why));
            return;
        }
        let present = self.addresses_at(&place);
        // Nobody is to get these meanwhile; they are free again if it fails.
        let fresh: Vec<IpAddr> = given.iter().map(IpNet::addr).collect();
        fresh
            .iter()
            .for_each(|ip| self.router.hold_address(*ip, now));
        let (netns, _) = place.key();
        self.waiting.pledged.insert(netns, fresh.clone());
        let mut order = Order {
            place,
            given: Given {
                addresses: given,
                fresh,
                optional: Vec::new(),
            },
            wanted: Vec::new(),
            until: now + PATIENCE,
            reply,
        };
        for wanted in subnets {
            match self.has_already(&wanted, &present) {
                Some(nets) => order.given.add(&nets, true),
                None => {
                    self.waiting.next += 1;
                    order.wanted.push((self.waiting.next, wanted));
                }
            }
        }
        if let Some(why) = self
            .waiting
            .overlap
            .as_ref()
            .filter(|_| !order.wanted.is_empty())
        {
            let _ = order.reply.send(refusal(why));
            return self.release(&order.given.fresh);
        }
        let wishes = order.wanted.iter();
        let wishes: Vec<_> = wishes.map(|(id, wanted)| (*id, wanted.span)).collect();
        if wishes.is_empty() {
            return self.carry_out(order);
        }
        self.waiting.orders.push(order);
        for (id, span) in wishes {
            self.router.allocate(id, span, now);
        }
    }

    /// Whether an address of the ranges that is given by hand is in use at another
    /// place of this host, and why it is refused then.
    fn is_taken(&self, place: &Place, given: &[IpNet]) -> Option<String> {
        let ranges = self.router.ranges()?;
        let (netns, ifname) = place.key();
        let others = self.attachments.iter().filter(|other| {
            let is_here = other.netns == netns && (netns == HOST || other.ifname == ifname);
            // What is gone was not noticed yet, perhaps.
            !is_here && (other.netns == HOST || Path::new(&other.netns).exists())
        });
        let mut used = others.flat_map(|other| other.addresses.iter().map(move |net| (other, net)));
        let is_given = |ip: IpAddr| {
            ranges.offset(ip).is_some() && given.iter().any(|wanted| wanted.addr() == ip)
        };
        if let Some((other, net)) = used.find(|(_, net)| is_given(net.addr())) {
            return Some(format!(
                "{} is in use by {} of {}: detach it there first, or give another",
                net.addr(),
                other.ifname,
                other.netns
            ));
        }
        let pledged = self.waiting.pledged.iter();
        let mut pledged = pledged
            .filter(|(other, _)| **other != netns)
            .flat_map(|(other, ips)| ips.iter().map(move |ip| (other, *ip)));
        let (other, ip) = pledged.find(|(_, ip)| is_given(*ip))?;
        Some(format!(
            "{ip} is being given to {other} just now: give another"
        ))
    }

    /// What was to be given to a namespace is its own by now, or is not.
    pub(super) fn end_pledge(&mut self, netns: &str) {
        self.waiting.pledged.remove(netns);
    }

    /// Doing it twice is the same as doing it once: the addresses that a place has
    /// of what is wanted, and the IPv6 one should it lack that alone.
    fn has_already(&self, wanted: &Wanted, present: &[IpNet]) -> Option<Vec<IpNet>> {
        let first = wanted.nets.first()?;
        let is_it =
            |net: &&IpNet| net.addr().is_ipv4() == first.addr().is_ipv4() && wanted.fits(net);
        let present = present.iter().find(is_it)?;
        let both = self.router.ranges().and_then(|ranges| {
            let at = ranges.offset(present.addr())?;
            Some(ranges.addresses(at, wanted)).filter(|_| self.router.owns_offset(at))
        });
        Some(both.unwrap_or_else(|| vec![*present]))
    }

    fn carry_out(&mut self, order: Order) {
        match order.place {
            Place::Container {
                netns,
                ifname,
                naming,
            } => self.attach(netns, ifname, order.given, naming, order.reply),
            Place::Host => self.expose(order.given, order.reply),
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

    fn parse_subnets(&self, subnets: &[String]) -> Result<Vec<Wanted>, String> {
        if subnets.is_empty() {
            return Ok(Vec::new());
        }
        let ranges = self.ranges()?;
        let mut all: Vec<Wanted> = Vec::new();
        for text in subnets {
            let wanted = ranges.parse(text)?;
            if !all.contains(&wanted) {
                all.push(wanted);
            }
        }
        Ok(all)
    }

    /// The ranges, as far as interfaces here can have their addresses.
    fn ranges(&self) -> Result<Ranges, String> {
        let ranges = self.router.ranges().ok_or(
            "this peer was launched without an address range: give an address, for example 10.32.1.5/24",
        )?;
        let v6 = ranges.v6.filter(|_| self.host_config.mtu >= MIN_MTU);
        Ok(Ranges { v6, ..ranges })
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
        let inside = |net: &IpNet| subnets.iter().any(|subnet| subnet.fits(net));
        Ok(addresses.filter(inside).collect())
    }

    /// The space has an address for somebody, or a reason why not.
    pub(super) fn take_address(&mut self, id: u64, result: Result<u32, String>) {
        let has = |order: &Order| order.wanted.iter().any(|(wish, _)| *wish == id);
        let Some(place) = self.waiting.orders.iter().position(has) else {
            // Whoever waited has gone.
            if let Ok(at) = result {
                self.router.release_offset(at, Instant::now());
            }
            return;
        };
        let at = match result {
            Ok(at) => at,
            Err(why) => {
                let order = &self.waiting.orders[place];
                let wish = order.wanted.iter().find(|(wish, _)| *wish == id);
                let nets = wish.map(|(_, wanted)| wanted.to_string());
                let why = format!("{}: {why}", nets.unwrap_or_default());
                return self.give_up(place, &why);
            }
        };
        let ranges = self.router.ranges();
        let order = &mut self.waiting.orders[place];
        for (_, wanted) in order.wanted.extract_if(.., |(wish, _)| *wish == id) {
            let nets = ranges.map(|ranges| ranges.addresses(at, &wanted));
            let nets = nets.unwrap_or_default();
            order.given.fresh.extend(nets.iter().map(IpNet::addr));
            order.given.add(&nets, wanted.nets.len() > 1);
        }
        if order.wanted.is_empty() {
            let order = self.waiting.orders.remove(place);
            self.carry_out(order);
        }
    }

    fn give_up(&mut self, place: usize, why: &str) {
        let now = Instant::now();
        let order = self.waiting.orders.remove(place);
        for (id, _) in &order.wanted {
            self.router.give_up(*id, now);
        }
        self.release(&order.given.fresh);
        let _ = order.reply.send(refusal(why));
    }

    /// Addresses that were given and not used after all, or are used no more.
    pub(super) fn release(&mut self, addresses: &[IpAddr]) {
        let Some(ranges) = self.router.ranges() else {
            return;
        };
        let offset = |ip: &IpAddr| ranges.offset(*ip);
        let all = self.attachments.iter().flat_map(|a| &a.addresses);
        let used: BTreeSet<u32> = all.filter_map(|net| ranges.offset(net.addr())).collect();
        let gone: BTreeSet<u32> = addresses.iter().filter_map(offset).collect();
        let now = Instant::now();
        for at in gone.difference(&used) {
            self.router.release_offset(*at, now);
        }
    }

    /// Leaves of the claims those that are in use here: an offset stands for two addresses.
    pub(super) fn trim_claims(&self, status: &mut Status) {
        if let Some(ipam) = &mut status.ipam {
            let all = self.attachments.iter().flat_map(|a| &a.addresses);
            let used: BTreeSet<IpAddr> = all.map(IpNet::addr).collect();
            ipam.claims.retain(|ip| used.contains(ip));
        }
    }

    /// Answers those whose time has come.
    pub(super) fn look_after_orders(&mut self) {
        let now = Instant::now();
        let is_late = |order: &Order| order.until <= now;
        while let Some(at) = self.waiting.orders.iter().position(is_late) {
            let (state, limit) = (self.space_state(), PATIENCE.as_secs());
            let why = format!("no address after {limit} s: {state}; see `wove status ipam`");
            self.give_up(at, &why);
        }
    }

    /// How the address space is, in words.
    pub(super) fn space_state(&self) -> String {
        if let Some(stuck) = self.keeper.stuck() {
            let seconds = stuck.as_secs();
            return format!("the disk of the state directory has not answered for {seconds} s");
        }
        let ipam = self.router.status(Instant::now()).ipam;
        ipam.map(|ipam| ipam.state).unwrap_or_default()
    }
}
