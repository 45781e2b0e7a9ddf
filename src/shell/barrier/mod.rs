//! The second barrier against VXLAN in clear, beside the policies of `xfrm`: a
//! table of nftables that drops all of it, but to and from addresses with which
//! frames in clear were agreed. And the only one against VXLAN that users of
//! this host make: the kernel would encrypt it as ours. What it forwards it
//! does not: policies are for all sources, keys for this host's address alone.
//!
//! ```text
//! table inet wove-vx {
//!     set clear4 { type ipv4_addr; }
//!     chain out { type filter hook output priority 300;
//!         udp dport 6784 meta priority != 776f:0 drop
//!         udp dport 6784 rt ipsec missing ip daddr != @clear4 drop }
//!     chain in { type filter hook input priority 300;
//!         udp dport 6784 meta secpath missing ip saddr != @clear4 drop }
//! }                                                    and the same for IPv6
//! ```
//!
//! It needs no peer to be known: what nobody agreed on is dropped. So whoever
//! flushes policies, or nftables, takes away one of two. It bears the name of
//! the VXLAN device and goes with that. It knows no peers and no keys.

mod message;

use std::{collections::BTreeSet, net::IpAddr};

use anyhow::{Context, Result, bail};

use super::netlink::{Connection, unless};
use message::Batch;

/// The priority (`SO_PRIORITY`) of what the VXLAN device sends: a program on it
/// sets that. Users without `CAP_NET_RAW` or `CAP_NET_ADMIN` get none above 6.
/// Not a mark: those lead to other routes, and are restored from connections.
const DEVICE_PRIORITY: u32 = 0x776f_0000;

/// The table, kept as it should be.
pub struct Barrier {
    connection: Connection,
    table: String,
    port: u16,
    clear: BTreeSet<IpAddr>,
    /// What the kernel says of it, as long as nobody changed it.
    made: Vec<Vec<u8>>,
}

impl Barrier {
    /// Puts the table in place, with nothing in clear; one of an earlier launch
    /// is replaced without a moment between the two.
    ///
    /// # Errors
    /// The kernel has no nftables; the name is taken by a table that is not
    /// wove's.
    pub fn raise(table: &str, port: u16) -> Result<Self> {
        let mut barrier = Self {
            connection: connect()?,
            table: table.to_owned(),
            port,
            clear: BTreeSet::new(),
            made: Vec::new(),
        };
        if owner(&mut barrier.connection, table)? == Owner::Foreign {
            bail!("there is a table inet {table} that is not wove's: remove it");
        }
        barrier.replace()?;
        Ok(barrier)
    }

    /// Lets exactly these addresses pass in clear.
    pub fn allow(&mut self, clear: BTreeSet<IpAddr>) -> Result<()> {
        if clear == self.clear {
            return Ok(());
        }
        let more: Vec<IpAddr> = clear.difference(&self.clear).copied().collect();
        let less: Vec<IpAddr> = self.clear.difference(&clear).copied().collect();
        self.clear = clear;
        let changed = self.commit(|batch| {
            batch.change(&less, false);
            batch.change(&more, true);
        });
        match changed {
            Ok(()) => Ok(()),
            // Somebody removed it, or what was in it.
            Err(_) => self.replace(),
        }
    }

    /// Puts it back if somebody changed it; says whether that was so.
    pub fn check(&mut self) -> Result<bool> {
        // A listing lacks some addresses while the kernel's table of them grows, so one is not believed.
        if self.is_as_made() || self.is_as_made() {
            return Ok(false);
        }
        self.replace()?;
        Ok(true)
    }

    fn is_as_made(&mut self) -> bool {
        !self.made.is_empty()
            && self.look().is_ok_and(|found| found == self.made)
            && self.addresses().is_ok_and(|found| found == self.clear)
    }

    fn replace(&mut self) -> Result<()> {
        self.made.clear();
        let (port, clear) = (self.port, self.clear.iter().copied().collect::<Vec<_>>());
        self.commit(|batch| {
            batch.replace(port);
            batch.change(&clear, true);
        })?;
        self.made = self.look()?;
        Ok(())
    }

    fn commit(&mut self, content: impl FnOnce(&mut Batch<'_>)) -> Result<()> {
        commit(&mut self.connection, &self.table, content)
    }

    /// All but the addresses, as bytes.
    fn look(&mut self) -> Result<Vec<Vec<u8>>> {
        let mut found = Vec::new();
        for part in message::get_parts(&self.table) {
            let request = message::get_part(part, self.connection.begin());
            self.connection.ask(&request, |answer| {
                // Without the number of the last change, of whomever.
                found.push(answer.payload.get(4..).unwrap_or_default().to_vec());
            })?;
        }
        Ok(found)
    }

    fn addresses(&mut self) -> Result<BTreeSet<IpAddr>> {
        let mut found = BTreeSet::new();
        for is_v4 in [true, false] {
            let request = message::get_addresses(&self.table, is_v4, self.connection.begin());
            self.connection.ask(&request, |answer| {
                found.extend(message::read_addresses(answer));
            })?;
        }
        Ok(found)
    }
}

/// Whether the table is there, and wove's.
pub fn is_raised(table: &str) -> Result<bool> {
    Ok(owner(&mut connect()?, table)? == Owner::Wove)
}

/// Removes the table, if it is there and wove's. The VXLAN device must be gone.
pub fn remove(table: &str) -> Result<()> {
    let Ok(mut connection) = connect() else {
        // No nftables, no table.
        return Ok(());
    };
    if owner(&mut connection, table).ok() != Some(Owner::Wove) {
        return Ok(());
    }
    let removed = commit(&mut connection, table, |batch| batch.delete());
    removed.with_context(|| format!("the table inet {table} cannot be removed"))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Nobody,
    Wove,
    Foreign,
}

fn connect() -> Result<Connection> {
    let opened = Connection::open(libc::NETLINK_NETFILTER);
    opened.context("no netlink socket for nftables: load the module nf_tables")
}

fn owner(connection: &mut Connection, table: &str) -> Result<Owner> {
    let mut owner = Owner::Nobody;
    let request = message::get_table(table, connection.begin());
    let asked = connection.ask(&request, |answer| {
        owner = if message::is_ours(answer) {
            Owner::Wove
        } else {
            Owner::Foreign
        };
    });
    unless(asked, libc::ENOENT).context("nftables does not answer: load the module nf_tables")?;
    Ok(owner)
}

fn commit(
    connection: &mut Connection,
    table: &str,
    content: impl FnOnce(&mut Batch<'_>),
) -> Result<()> {
    let mut begun = false;
    let mut next = || {
        if std::mem::replace(&mut begun, true) {
            connection.next()
        } else {
            connection.begin()
        }
    };
    let mut batch = Batch::new(table, &mut next);
    content(&mut batch);
    let request = batch.finish();
    unless(connection.ask(&request, |_| {}), 0)?;
    Ok(())
}

#[cfg(test)]
mod tests;
