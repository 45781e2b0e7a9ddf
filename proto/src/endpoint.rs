//! Where a datagram is sent to or came from: an address, and what carries
//! datagrams there.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

/// One end of the underlay, as the other end sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Endpoint {
    /// Datagrams of UDP.
    Udp(SocketAddr),
    /// Datagrams on a TCP connection with this address. There is one such
    /// connection at a time.
    Tcp(SocketAddr),
}

impl Endpoint {
    /// The address, whatever carries datagrams there.
    pub fn address(self) -> SocketAddr {
        match self {
            Self::Udp(address) | Self::Tcp(address) => address,
        }
    }

    /// The IP address.
    pub fn ip(self) -> IpAddr {
        self.address().ip()
    }

    /// The address, if it is reached by UDP.
    pub fn udp(self) -> Option<SocketAddr> {
        match self {
            Self::Udp(address) => Some(address),
            Self::Tcp(_) => None,
        }
    }

    /// Whether it is reached by TCP.
    pub fn is_tcp(self) -> bool {
        matches!(self, Self::Tcp(_))
    }

    /// Bytes of the headers below a datagram: IP and UDP. A TCP segment has no
    /// place among datagrams, so it counts as if UDP carried it.
    pub fn headers(self) -> usize {
        if self.address().is_ipv6() { 48 } else { 28 }
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self::Udp(address)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Udp(address) => write!(f, "{address}"),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_see_what_carries_it() {
        let address = SocketAddr::from(([192, 0, 2, 1], 443));
        assert_eq!(Endpoint::from(address).to_string(), "192.0.2.1:443");
        assert_eq!(Endpoint::Tcp(address).to_string(), "tcp://192.0.2.1:443");
        assert_ne!(Endpoint::Udp(address), Endpoint::Tcp(address));
        assert_eq!(Endpoint::Tcp(address).udp(), None);
    }
}
