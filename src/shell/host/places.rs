//! Which containers have an interface of ours, as the marks on the host's ends tell.

use std::{collections::BTreeSet, path::PathBuf};

use anyhow::{Context, Result};

use super::{Host, bridge::Wanted, names};
use crate::{
    engine::{Attachment, Naming},
    shell::netns,
};

impl Host {
    /// The places of all veths of ours: path of the namespace and name inside, as
    /// they were when they were attached. MAC and addresses are left out.
    pub async fn places(&self) -> Result<Vec<Attachment>> {
        let bridge = self.config()?.bridge;
        let aliases = self.marks().await?;
        let place = |alias: &String| {
            let (ifname, netns) = names::place_of_mark(alias, &bridge)?;
            Some(Attachment {
                netns: netns.to_owned(),
                ifname: ifname.to_owned(),
                mac: proto::MacAddr::default(),
                addresses: Vec::new(),
                naming: Naming::default(),
            })
        };
        Ok(aliases.iter().filter_map(place).collect())
    }

    /// Where the namespaces of interfaces are whose paths lead there no longer, as far as
    /// they have a name or a process. The marks say so, too, from then on.
    ///
    /// # Errors
    /// Links or processes cannot be listed, or a mark cannot be changed.
    pub async fn follow(&self, strayed: &[Attachment]) -> Result<Vec<(Attachment, PathBuf)>> {
        let bridge = self.config()?.bridge;
        let links = self.netlink.links().await?;
        let end_of = |place: &Attachment| {
            let mark = names::mark_of_veth(&bridge, &place.ifname, &place.netns);
            let mut ends = links.iter();
            ends.find(|link| link.alias == mark && link.is_veth_of(&bridge))
        };
        let sought = strayed
            .iter()
            .filter_map(|place| Some((place, end_of(place)?)));
        let sought: Vec<_> = sought.collect();
        if sought.is_empty() {
            return Ok(Vec::new());
        }
        let homes = tokio::task::spawn_blocking(netns::all)
            .await
            .context("namespaces were not listed")??;
        let mut found = Vec::new();
        for (place, end) in sought {
            // The host's end is named after the namespace.
            let is_home =
                |identity| names::host_ifname(&bridge, identity, &place.ifname) == end.name;
            let Some(home) = homes.iter().find(|(identity, _)| is_home(**identity)) else {
                continue;
            };
            let wanted = Wanted {
                alias: names::mark_of_veth(&bridge, &place.ifname, &home.1.to_string_lossy()),
                ..Wanted::default()
            };
            self.netlink
                .settle(end.clone(), &wanted, &mut Vec::new())
                .await?;
            found.push((place.clone(), home.1.clone()));
        }
        Ok(found)
    }

    async fn marks(&self) -> Result<BTreeSet<String>> {
        let bridge = self.config()?.bridge;
        let links = self.netlink.links().await?;
        let veths = links.into_iter().filter(|link| link.is_veth_of(&bridge));
        Ok(veths.map(|link| link.alias).collect())
    }
}
