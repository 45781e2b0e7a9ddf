//! Which containers have an interface of ours, as the marks on the host's ends tell.

use std::collections::BTreeSet;

use anyhow::Result;

use super::{Host, names};
use crate::engine::{Attachment, Naming};

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

    async fn marks(&self) -> Result<BTreeSet<String>> {
        let bridge = self.config()?.bridge;
        let links = self.netlink.links().await?;
        let veths = links.into_iter().filter(|link| link.is_veth_of(&bridge));
        Ok(veths.map(|link| link.alias).collect())
    }
}
