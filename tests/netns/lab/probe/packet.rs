//! Raw Ethernet frames of one interface, and ARP by hand.
//! Must not know daemons.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use super::super::netns::Netns;
use super::super::sys;
use super::super::underlay::{Mac, arp, arp_answer};

/// An AF_PACKET socket on one interface.
pub(crate) struct PacketSocket {
    file: File,
    mac: Mac,
}

impl PacketSocket {
    /// Opens one; the interface must exist.
    pub(crate) fn open(netns: &Netns, interface: &str) -> Self {
        let index = netns.link_index(interface);
        let index = index.unwrap_or_else(|| panic!("there is no interface {interface}"));
        let open = || -> io::Result<File> {
            let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
            socket.set_read_timeout(Some(Duration::from_millis(20)))?;
            let socket = OwnedFd::from(socket);
            sys::bind_packet(&socket, index)?;
            Ok(File::from(socket))
        };
        let mac = netns.link_mac(interface);
        Self {
            file: netns.run(open).expect("root opens packet sockets"),
            mac: mac.expect("an Ethernet interface has a MAC address"),
        }
    }

    /// Sends one frame.
    pub(crate) fn send(&self, frame: &[u8]) {
        (&self.file).write_all(frame).expect("the interface is up");
    }

    /// Sends one frame, if the interface is there and up and takes it.
    pub(crate) fn try_send(&self, frame: &[u8]) -> bool {
        (&self.file).write_all(frame).is_ok()
    }

    /// Reads frames, those sent by this host included, until one is accepted.
    pub(crate) fn find<T>(
        &self,
        limit: Duration,
        mut accepts: impl FnMut(&[u8]) -> Option<T>,
    ) -> Option<T> {
        let started = Instant::now();
        let mut buffer = vec![0; 1 << 16];
        while started.elapsed() < limit {
            let Ok(length) = (&self.file).read(&mut buffer) else {
                continue;
            };
            if let Some(found) = accepts(&buffer[..length]) {
                return Some(found);
            }
        }
        None
    }

    /// Asks by ARP who has an address; every MAC that answers within `limit`.
    pub(crate) fn who_has(&self, from: Ipv4Addr, wanted: Ipv4Addr, limit: Duration) -> Vec<Mac> {
        self.send(&arp(1, (self.mac, from), ([0; 6], wanted)));
        let mut answers = Vec::new();
        self.find(limit, |frame| -> Option<()> {
            if let Some((mac, ip)) = arp_answer(frame)
                && ip == wanted
                && !answers.contains(&mac)
            {
                answers.push(mac);
            }
            None
        });
        answers
    }
}
