//! Who connected and has not shown yet that he is a peer: few at once, few from
//! one address, and the oldest gives way to the newest, so that who holds
//! connections open keeps nobody out.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

/// Unknown connections at once.
const SEATS: usize = 256;
/// From one address; of IPv6, from one network of 64 bits.
const SEATS_PER_ADDRESS: usize = 8;

/// The unknown.
#[derive(Clone, Default)]
pub(super) struct Lobby {
    seats: Arc<Mutex<Vec<Taken>>>,
}

struct Taken {
    address: IpAddr,
    leave: Arc<Notify>,
}

/// One of them; given back when dropped.
pub(super) struct Seat {
    lobby: Lobby,
    leave: Arc<Notify>,
}

impl Lobby {
    /// A seat, if this address has not too many.
    pub(super) fn take_seat(&self, ip: IpAddr) -> Option<Seat> {
        let address = network(ip);
        let mut seats = self.seats();
        if seats.iter().filter(|s| s.address == address).count() >= SEATS_PER_ADDRESS {
            return None;
        }
        if seats.len() >= SEATS {
            seats.remove(0).leave.notify_one();
        }
        let leave = Arc::new(Notify::new());
        seats.push(Taken {
            address,
            leave: Arc::clone(&leave),
        });
        drop(seats);
        let lobby = self.clone();
        Some(Seat { lobby, leave })
    }

    fn seats(&self) -> MutexGuard<'_, Vec<Taken>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// Waits until somebody newer needs the seat.
    pub(super) async fn needed(&self) {
        self.leave.notified().await;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut seats = self.lobby.seats();
        seats.retain(|s| !Arc::ptr_eq(&s.leave, &self.leave));
    }
}

fn network(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) >> 64 << 64).into()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    #[test]
    fn one_address_has_few_seats_and_gets_them_back() {
        let lobby = Lobby::default();
        let ip = |n: u16| IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, n));
        let mut seats: Vec<_> = (0..8).filter_map(|n| lobby.take_seat(ip(n))).collect();
        assert_eq!(seats.len(), SEATS_PER_ADDRESS);
        assert!(lobby.take_seat(ip(9)).is_none());
        seats.pop();
        assert!(lobby.take_seat(ip(9)).is_some());
    }

    #[tokio::test]
    async fn the_oldest_gives_way() {
        let lobby = Lobby::default();
        let ip = |n: u32| IpAddr::from(Ipv4Addr::from(n));
        let seats: Vec<_> = (0..=256).filter_map(|n| lobby.take_seat(ip(n))).collect();
        assert_eq!(seats.len(), SEATS + 1);
        seats[0].needed().await;
        assert_eq!(lobby.seats().len(), SEATS);
    }
}
