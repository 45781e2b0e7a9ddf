//! The engine's own times, each with its reason.

use std::time::Duration;

/// How often the router looks at its sessions and paths.
pub const TICK: Duration = Duration::from_millis(100);
/// How often it looks at a path in doubt: what depends on it stands still.
pub const URGENT: Duration = Duration::from_millis(25);
/// Waits before the first and before the second repetition of a handshake message,
/// doubling from then on.
pub const RETRANSMIT: Duration = Duration::from_millis(250);
/// How long an unanswered handshake is kept up.
pub const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(4);
/// How long a peer that is said to have refused a handshake may still confirm it.
pub const REJECT_GRACE: Duration = Duration::from_millis(500);
/// How long a session that was replaced still receives.
pub const OVERLAP: Duration = Duration::from_secs(30);
/// How long a responder remembers a handshake that was not completed.
pub const RESPONSE_AGE: Duration = Duration::from_secs(5);
/// A direct path that carries no link is probed this often while frames flow.
pub const PROBE: Duration = Duration::from_millis(500);
/// A direct path without an answer for this long is no path any more.
pub const PATH_DEAD: Duration = Duration::from_secs(2);
/// How long an address that was announced elsewhere is not answered from memory.
pub const DOUBT: Duration = Duration::from_secs(5);
/// A direct path without frames is not trusted any more after this long: frames
/// are relayed until it proved again that it works.
pub const PATH_STALE: Duration = Duration::from_secs(10);
/// A path that answered within this time is not left for another address.
pub const PATH_FRESH: Duration = Duration::from_millis(1800);
/// Frames within this time make a path active.
pub const ACTIVE: Duration = Duration::from_secs(5);
/// A session that carries neither a link nor frames for this long ends.
pub const IDLE: Duration = Duration::from_secs(300);
/// How long frames wait for a session.
pub const PENDING_AGE: Duration = Duration::from_secs(5);
/// Direct attempts towards a peer whose frames are relayed.
pub const DIRECT_RETRY: Duration = Duration::from_secs(3);
/// Pause before ESP is tried again with a peer for whom the kernel refused it.
pub const ESP_RETRY: Duration = Duration::from_secs(5);
/// Within one such attempt, when endpoints are probed: the first probes open the
/// NATs on the way, and are lost on those of the other end.
pub const ROUNDS: [Duration; 3] = [
    Duration::ZERO,
    Duration::from_millis(300),
    Duration::from_millis(900),
];
/// A path that broke is said to the peer at the earliest so long after the last
/// attempt.
pub const MEET_AGAIN: Duration = Duration::from_millis(500);
/// Frames go out and none come in for this long, or they came in without a pause and
/// stay away for this long: the path is asked whether it works.
pub const HUSH: Duration = Duration::from_millis(200);
/// A path that owes an answer for this long is asked again; a multiple of its
/// round-trip time if that is more.
pub const ASK_AGAIN: Duration = Duration::from_millis(100);
/// A path that owes an answer for this long is gone round, if there is a way, but
/// not given up yet; a multiple of its round-trip time if that is more.
pub const SUSPECT: Duration = Duration::from_millis(200);
/// How long the path of a peer that was heard elsewhere has to show that it still
/// works; a multiple of its round-trip time if that is more.
pub const GRACE: Duration = Duration::from_millis(150);
/// How long an address that a peer did not move to is not looked at again.
pub const HOLD: Duration = Duration::from_secs(3);
/// A neighbour whose UDP is silent for this long and a round-trip time is tried
/// over TCP: a little before its link would be given up.
pub const TCP_SUSPECT: Duration = Duration::from_millis(1300);
/// The peer with the higher id leaves the first attempt to the other.
pub const TCP_COURTESY: Duration = Duration::from_millis(200);
/// Who is dialled and does not answer by UDP for this long is dialled by TCP, too.
pub const TCP_DELAY: Duration = Duration::from_millis(900);
/// What a link over TCP costs more than its round-trip time: a relay is better.
pub const TCP_HANDICAP: Duration = Duration::from_secs(1);
/// Two handshakes that cross within this time count as one meeting.
pub const CROSSING: Duration = Duration::from_secs(5);
