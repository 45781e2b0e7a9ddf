//! Kernel ESP over `NETLINK_XFRM`: the encryption of the fast path.
//!
//! Policies say that VXLAN to and from a peer passes only through ESP; security
//! associations hold the keys for it. The kernel enforces both on its own: with
//! a policy and without an association nothing passes, whether wove runs,
//! crashed, or has not begun. So policies come before the path and go after it.
//!
//! | file | what |
//! |---|---|
//! | `message` | what is said and answered, as values and as bytes |
//! | `captures/` | what iproute2 says for the same commands, for the tests |
//!
//! Written by hand rather than with `netlink-packet-xfrm`, whose messages show
//! keys when printed, are printed by its connection at level TRACE, and are not
//! wiped. It decides nothing: [`crate::engine::esp`] says what is due when.

mod message;

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use anyhow::{Context, Result, anyhow, bail};
use rand::{TryRngCore, rngs::OsRng};
use socket2::{Domain, Socket, Type};

pub use message::{FoundSa, Policy, Rule, Sa, SaId, Traffic};

use super::netlink::{Connection, unless};
use crate::engine::esp::{EspKey, SPIS};

/// A connection to the XFRM of the namespace it was opened in. It blocks, for
/// microseconds.
pub struct Xfrm(Connection);

/// All of ours that the kernel has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Security associations.
    pub sas: BTreeSet<FoundSa>,
    /// Policies.
    pub policies: BTreeSet<Policy>,
}

/// Why the kernel cannot encrypt the fast path, for `status`; none if it can.
/// Tries it out, with an association that is used by nothing and removed at once.
pub fn fault() -> Option<String> {
    let mut xfrm = match Xfrm::open() {
        Ok(xfrm) => xfrm,
        Err(error) => return Some(format!("kernel has no ESP: {error:#}")),
    };
    let loopbacks = [
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
    ];
    // No peer is reached by a family that the kernel does not have at all.
    let has = |address: &IpAddr| address.is_ipv4() || has_ipv6();
    loopbacks.into_iter().filter(has).find_map(|address| {
        let error = xfrm.try_out(address).err()?;
        Some(match no_esp(&error, address) {
            Some(missing) => format!("kernel has no ESP: {missing}"),
            None => format!("kernel refuses ESP: {error:#}"),
        })
    })
}

/// Whether the kernel has IPv6 (it may be started with `ipv6.disable=1`).
fn has_ipv6() -> bool {
    let opened = Socket::new(Domain::IPV6, Type::DGRAM, None);
    !opened.is_err_and(|error| error.raw_os_error() == Some(libc::EAFNOSUPPORT))
}

/// [`Xfrm::clear`] where there may be no XFRM: then there is nothing.
pub fn clear_all() -> Result<()> {
    match Xfrm::open() {
        Ok(mut xfrm) => xfrm.clear(),
        Err(_) => Ok(()),
    }
}

/// What the kernel lacks, if it says that it lacks something.
fn no_esp(error: &anyhow::Error, address: IpAddr) -> Option<String> {
    let (module, family) = match address {
        IpAddr::V4(_) => ("esp4", "IPv4"),
        IpAddr::V6(_) => ("esp6", "IPv6"),
    };
    match error.downcast_ref::<io::Error>()?.raw_os_error()? {
        libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT => {
            Some(format!("load the module {module} ({family})"))
        }
        libc::ENOSYS | libc::ENOENT => Some(format!(
            "no rfc4106(gcm(aes)): load the modules {module} and gcm"
        )),
        _ => None,
    }
}

impl Xfrm {
    /// Connects.
    ///
    /// # Errors
    /// The kernel has no XFRM.
    pub fn open() -> Result<Self> {
        let opened = Connection::open(libc::NETLINK_XFRM);
        Ok(Self(opened.context(
            "no netlink socket for XFRM: load the module xfrm_user",
        )?))
    }

    /// Puts a security association into the kernel. Says `false` if there is
    /// one with this SPI already, of whomever: the receiver chooses another.
    pub fn add(&mut self, sa: &Sa) -> Result<bool> {
        let request = message::add_sa(sa, self.0.begin());
        let added = unless(self.0.ask(&request, |_| {}), libc::EEXIST);
        let added = added.with_context(|| format!("ESP to {} failed", sa.id.destination))?;
        Ok(added.is_some())
    }

    /// Takes a security association from the kernel; one that is gone is fine.
    pub fn remove(&mut self, id: &SaId) -> Result<()> {
        let request = message::delete_sa(id, self.0.begin());
        unless(self.0.ask(&request, |_| {}), libc::ESRCH)
            .with_context(|| format!("ESP to {} cannot be removed", id.destination))?;
        Ok(())
    }

    /// Sets what becomes of the traffic. A policy of ours is replaced without a
    /// moment between the two.
    ///
    /// # Errors
    /// There is one for the same traffic that is not ours; the kernel refuses.
    pub fn set(&mut self, policy: &Policy) -> Result<()> {
        let peer = policy.traffic.peer;
        let request = message::set_policy(policy, false, self.0.begin());
        let set = unless(self.0.ask(&request, |_| {}), libc::EEXIST)
            .with_context(|| format!("no policy can be set for {peer}"))?;
        if set.is_some() {
            return Ok(());
        }
        if self.policy(&policy.traffic)?.is_none() {
            bail!("there is an XFRM policy for {peer} that is not wove's: remove it");
        }
        let request = message::set_policy(policy, true, self.0.begin());
        self.0
            .ask(&request, |_| {})
            .with_context(|| format!("the policy for {peer} cannot be replaced"))
    }

    /// Takes our policy for this traffic from the kernel, if there is one.
    pub fn unset(&mut self, traffic: &Traffic) -> Result<()> {
        if self.policy(traffic)?.is_none() {
            return Ok(());
        }
        let request = message::delete_policy(traffic, self.0.begin());
        unless(self.0.ask(&request, |_| {}), libc::ENOENT)
            .with_context(|| format!("the policy for {} cannot be removed", traffic.peer))?;
        Ok(())
    }

    /// All of ours, of this launch or another.
    pub fn found(&mut self) -> Result<Found> {
        let mut found = Found::default();
        let request = message::list_sas(self.0.begin());
        self.0
            .ask(&request, |answer| {
                found.sas.extend(message::read_sa(answer));
            })
            .context("security associations cannot be listed")?;
        let request = message::list_policies(self.0.begin());
        self.0
            .ask(&request, |answer| {
                found.policies.extend(message::read_policy(answer));
            })
            .context("XFRM policies cannot be listed")?;
        Ok(found)
    }

    /// Removes all of ours, the policies last. The VXLAN device must be gone by
    /// then, that of an earlier launch included: without the policies it would
    /// send in clear.
    ///
    /// # Errors
    /// All that went wrong, in one; what could be removed is.
    pub fn clear(&mut self) -> Result<()> {
        let found = self.found()?;
        let mut errors = Vec::new();
        for sa in &found.sas {
            errors.extend(self.remove(&sa.id).err());
        }
        for policy in &found.policies {
            errors.extend(self.unset(&policy.traffic).err());
        }
        if errors.is_empty() {
            return Ok(());
        }
        let texts: Vec<String> = errors.iter().map(|error| format!("{error:#}")).collect();
        Err(anyhow!(texts.join("; ")))
    }

    /// Our policy for this traffic.
    fn policy(&mut self, traffic: &Traffic) -> Result<Option<Policy>> {
        let request = message::get_policy(traffic, self.0.begin());
        let mut found = None;
        let asked = self
            .0
            .ask(&request, |answer| found = message::read_policy(answer));
        unless(asked, libc::ENOENT)
            .with_context(|| format!("the policy for {} cannot be read", traffic.peer))?;
        Ok(found)
    }

    fn try_out(&mut self, address: IpAddr) -> Result<()> {
        let mut random = [0; 4];
        OsRng.try_fill_bytes(&mut random)?;
        let spi = u32::from_ne_bytes(random) | SPIS.start;
        let sa = Sa {
            id: SaId {
                source: address,
                destination: address,
                spi,
            },
            // The discard port.
            port: 9,
            key: EspKey::new([0; EspKey::LEN]),
        };
        let request = message::add_sa(&sa, self.0.begin());
        self.0.ask(&request, |_| {})?;
        self.remove(&sa.id)
    }
}

#[cfg(test)]
mod tests;
