//! Looking after the host: what others removed is made again, what changed is told.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use anyhow::Result;

use super::{Daemon, DataPlane, Tap, work::Done};

impl Daemon {
    /// Looks after what no event tells.
    pub(super) async fn care(&mut self) {
        if !self.plane.is_running() {
            let result = self.restart_plane().await;
            let failing = std::mem::replace(&mut self.stalled, result.is_err());
            match result {
                Ok(()) => {}
                Err(error) if failing => {
                    tracing::debug!("no frames are carried yet: {error:#}");
                }
                Err(error) => {
                    tracing::warn!("no frames are carried, trying again each second: {error:#}");
                }
            }
        }
        if self.damaged && !self.repairing {
            self.repair();
        }
        self.keeper.watch();
        self.care_for_fast();
        self.follow_strayed();
    }

    /// A data thread has ended: somebody deleted the TAP, as a rule.
    async fn restart_plane(&mut self) -> Result<()> {
        // The other one as well: the device cannot be opened while it has it.
        self.plane.stop();
        let tap = Arc::new(Tap::open(&self.host_config.tap)?);
        self.bridge_mac = self.host.set_up(self.host_config.clone()).await?.mac;
        let (udp, streams) = (Arc::clone(&self.udp), Arc::clone(&self.streams));
        let (snapshot, seen) = (self.router.snapshot(), self.plane.seen());
        let (plane, upcalls) = DataPlane::start(tap, udp, streams, snapshot, seen)?;
        (self.plane, self.upcalls) = (plane, upcalls);
        tracing::warn!(
            tap = self.host_config.tap,
            "repaired: the data threads had ended: started again on a new TAP device"
        );
        self.remake_fast(None);
        Ok(())
    }

    /// The kernel reports a change of links or addresses.
    pub(super) fn care_for_host(&mut self) {
        self.survey();
        self.look_for_vanished();
        if self.repairing {
            self.repair_again = true;
        } else {
            self.repair();
        }
    }

    /// Looks at the tunnel and at the addresses of this host. On a busy host the kernel
    /// may take seconds to answer.
    pub(super) fn survey(&mut self) {
        if std::mem::replace(&mut self.surveying, true) {
            self.survey_again = true;
            return;
        }
        let (host, done) = (Arc::clone(&self.host), self.done_tx.clone());
        let tunnel = self.tunnel();
        self.beside.spawn(async move {
            // First what loses frames until it is mended.
            if let Some((config, tunnel)) = tunnel {
                let fault = host.tunnel_fault(&config, tunnel).await;
                let _ = done.send(Done::Tunnel { tunnel, fault }).await;
            }
            let addresses = host.local_addresses().await;
            let _ = done.send(Done::Surveyed { addresses }).await;
        });
    }

    pub(super) fn handle_surveyed(&mut self, addresses: Result<Vec<IpAddr>>) {
        self.surveying = false;
        self.update_endpoints(addresses);
        if std::mem::take(&mut self.survey_again) {
            self.survey();
        }
    }

    pub(super) fn update_endpoints(&mut self, addresses: Result<Vec<IpAddr>>) {
        let addresses = match addresses {
            Ok(addresses) => addresses,
            Err(error) => {
                return tracing::warn!("cannot list the addresses of this host: {error:#}");
            }
        };
        let bound = self.config.host;
        let addresses: BTreeSet<IpAddr> = addresses
            .into_iter()
            .filter(|ip| bound.is_none_or(|b| b == *ip || b.is_unspecified()))
            .collect();
        if addresses == self.endpoints {
            return;
        }
        let port = self.config.port;
        let endpoints = addresses
            .iter()
            .map(|ip| SocketAddr::new(*ip, port))
            .collect();
        self.endpoints = addresses;
        self.router.set_endpoints(endpoints, Instant::now());
        self.tell_names();
    }
}
