//! The sessions of one host, by the number of the other end.

use super::time::Time;

/// Handshakes that cross or repeat leave several sessions that are all good:
/// so many are kept, as the engine does for a while.
const KEPT: usize = 4;

/// A session with another host.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    /// The other end.
    pub(crate) peer: u32,
    /// Its launch.
    pub(crate) life: u32,
    /// The session that sends, and others that still receive; zero is none.
    ids: [u64; KEPT],
    opened_at: Time,
    /// When something was sent or received last.
    pub(crate) used_at: Time,
    /// When a notice that it does not exist is heeded again.
    pub(crate) notice_at: Time,
    /// Whether the mesh has a usable link over it.
    pub(crate) linked: bool,
}

/// Two handshakes within this time count as crossing, as in the engine.
const CROSSING: std::time::Duration = std::time::Duration::from_secs(5);

impl Session {
    /// A session fresh from its handshake.
    pub(crate) fn new(peer: u32, life: u32, id: u64, now: Time) -> Self {
        Self {
            peer,
            life,
            ids: [id, 0, 0, 0],
            opened_at: now,
            used_at: now,
            notice_at: now,
            linked: false,
        }
    }

    /// What to send with.
    pub(crate) fn sending(&self) -> u64 {
        self.ids[0]
    }

    /// Whether a datagram on this session is accepted.
    pub(crate) fn knows(&self, id: u64) -> bool {
        self.ids.contains(&id)
    }

    /// One more handshake is done. Of two that cross both ends keep the same.
    pub(crate) fn add(&mut self, id: u64, now: Time) {
        if self.knows(id) {
            return;
        }
        let stays = now.since(self.opened_at) < CROSSING && self.ids[0] > id;
        let place = usize::from(stays);
        self.ids.copy_within(place..KEPT - 1, place + 1);
        self.ids[place] = id;
        self.opened_at = now;
    }
}

/// All sessions of a host.
#[derive(Debug, Default)]
pub(crate) struct Sessions(Vec<Session>);

impl Sessions {
    pub(crate) fn get(&self, peer: u32) -> Option<&Session> {
        self.find(peer).ok().map(|at| &self.0[at])
    }

    pub(crate) fn get_mut(&mut self, peer: u32) -> Option<&mut Session> {
        self.find(peer).ok().map(|at| &mut self.0[at])
    }

    /// Puts a session in place of what there was with the same host.
    pub(crate) fn insert(&mut self, session: Session) {
        match self.find(session.peer) {
            Ok(at) => self.0[at] = session,
            Err(at) => self.0.insert(at, session),
        }
    }

    pub(crate) fn remove(&mut self, peer: u32) {
        if let Ok(at) = self.find(peer) {
            self.0.remove(at);
        }
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Session> {
        self.0.iter()
    }

    /// Those with a usable link.
    pub(crate) fn linked(&self) -> impl Iterator<Item = u32> {
        self.0
            .iter()
            .filter(|session| session.linked)
            .map(|session| session.peer)
    }

    fn find(&self, peer: u32) -> Result<usize, usize> {
        self.0.binary_search_by_key(&peer, |session| session.peer)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn both_ends_of_crossing_handshakes_send_on_the_same_session() {
        let opened = |order: [u64; 2]| {
            let mut session = Session::new(1, 1, order[0], Time(0));
            session.add(order[1], Time(0) + Duration::from_millis(30));
            session
        };
        let (here, there) = (opened([7, 9]), opened([9, 7]));
        assert_eq!((here.sending(), there.sending()), (9, 9));
        assert!(here.knows(7) && there.knows(7));
    }

    #[test]
    fn a_later_handshake_replaces_an_old_session() {
        let mut session = Session::new(1, 1, 9, Time(0));
        for id in [1, 2, 3, 4] {
            session.add(id, Time(0) + Duration::from_secs(6 * id));
        }
        assert_eq!(session.sending(), 4);
        assert!(session.knows(1) && !session.knows(9));
    }
}
