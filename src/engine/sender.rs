//! The last step of a frame on its way to one peer: cut, joined with others,
//! sealed.
//!
//! ```text
//! super-frame   ─▶ one content for each segment, cut into the datagram
//! small frames  ─▶ one content for all of a burst that follow one another
//! other frames  ─▶ one content each; fragments where the path is narrower
//! ```
//!
//! Each datagram is of use alone: losing one costs no other. A checksum is left
//! for the receiver, who leaves it to its kernel, if the peer understands that:
//! the seal protects what it would.

use proto::{
    PeerId,
    content::{self, Frames, SharedFrame},
};

use super::{
    counters::DropReason,
    mss::{self, TcpChecksum},
    output::Output,
    seal::Lane,
    segment::{Load, Sum, SuperFrame, complete},
    snapshot::{Path, Snapshot},
};

/// The longest frame that shares a content with others, in bytes.
const SMALL: usize = 512;

/// Small frames that wait for the end of their burst.
#[derive(Debug, Default)]
pub struct Sender {
    to: Option<PeerId>,
    /// A content of [`Frames`].
    waiting: Vec<u8>,
    count: usize,
    /// The next flow of TCP shall slow down.
    congested: bool,
}

impl Sender {
    /// Sends a frame to a peer with which there is a session. The checksum of
    /// the frame may be completed in place, and its MSS lowered.
    pub fn send(
        &mut self,
        snapshot: &Snapshot,
        (peer, path): (PeerId, &Path),
        load: Load,
        frame: &mut [u8],
        out: &mut impl Output,
    ) -> Result<(), DropReason> {
        let sum = match load {
            Load::Super(parts) => {
                self.flush(snapshot, out);
                return self.send_super(snapshot, (peer, path), parts, frame, out);
            }
            Load::Frame(sum) => sum,
        };
        if let Some(room) = snapshot.packet_room(path) {
            let checksum = match sum {
                Sum::Complete => TcpChecksum::Complete,
                Sum::Left => TcpChecksum::Partial,
            };
            mss::clamp_with(frame, room, checksum);
        }
        let unsummed = sum == Sum::Left && path.shares;
        if sum == Sum::Left && !unsummed {
            complete(frame);
        }
        let frame = SharedFrame {
            unsummed,
            bytes: frame,
        };
        if path.shares && frame.bytes.len() <= SMALL {
            return self.wait(snapshot, (peer, path), frame, out);
        }
        self.flush(snapshot, out);
        send_one(snapshot, (peer, path), frame, out)
    }

    /// Whether the queue in front of here stands, and the next flow of TCP
    /// shall be told.
    pub fn set_congested(&mut self, congested: bool) {
        self.congested = congested;
    }

    /// Sends what waits.
    pub fn flush(&mut self, snapshot: &Snapshot, out: &mut impl Output) {
        let Some(peer) = self.to.take() else {
            return;
        };
        let sent = snapshot
            .paths
            .get(&peer)
            .ok_or(DropReason::NoRoute)
            .and_then(|path| self.send_waiting(snapshot, (peer, path), out));
        if let Err(reason) = sent {
            snapshot.shared.counters.add(reason, self.count as u64);
        }
    }

    fn wait(
        &mut self,
        snapshot: &Snapshot,
        (peer, path): (PeerId, &Path),
        frame: SharedFrame<'_>,
        out: &mut impl Output,
    ) -> Result<(), DropReason> {
        let room = snapshot.room(path).ok_or(DropReason::NoRoute)?;
        let more = Frames::HEADER + frame.bytes.len();
        if self.to != Some(peer) || self.waiting.len() + more > room {
            self.flush(snapshot, out);
        }
        if self.to.is_none() {
            if content::FRAMES.len() + more > room {
                return send_one(snapshot, (peer, path), frame, out);
            }
            self.to = Some(peer);
            self.count = 0;
            self.waiting.clear();
            self.waiting.extend_from_slice(&content::FRAMES);
        }
        self.count += 1;
        frame.emit(&mut self.waiting);
        Ok(())
    }

    fn send_waiting(
        &self,
        snapshot: &Snapshot,
        to: (PeerId, &Path),
        out: &mut impl Output,
    ) -> Result<(), DropReason> {
        let frames = Frames::new(&self.waiting[content::FRAMES.len()..]);
        let mut each = frames.flatten();
        if self.count == 1
            && let Some(frame) = each.next()
        {
            return send_one(snapshot, to, frame, out);
        }
        let mut lane = Lane::find(snapshot, to, to.1.protection)?;
        lane.send(snapshot, [&self.waiting, &[], &[]], out)?;
        each.for_each(|frame| to.1.counters.sent(frame.bytes.len()));
        Ok(())
    }

    fn send_super(
        &mut self,
        snapshot: &Snapshot,
        to: (PeerId, &Path),
        mut parts: SuperFrame,
        frame: &mut [u8],
        out: &mut impl Output,
    ) -> Result<(), DropReason> {
        let mut lane = Lane::find(snapshot, to, to.1.protection)?;
        parts.keep_within(lane.room().saturating_sub(content::FRAME_HEADER));
        lane.expect(parts.count());
        let (tag, sum) = if to.1.shares {
            (&content::UNSUMMED, Sum::Left)
        } else {
            (&content::FRAME, Sum::Complete)
        };
        let mut miss = self.congested && parts.is_tcp();
        if miss {
            self.congested = false;
            miss = !parts.mark(frame);
        }
        let (mut bytes, mut frames) = (0, 0);
        let sent = parts.cut(frame, sum, |headers, payload| {
            if std::mem::take(&mut miss) {
                snapshot.shared.counters.count(DropReason::Congestion);
                return Ok(());
            }
            lane.send(snapshot, [tag, headers, payload], out)?;
            bytes += headers.len() + payload.len();
            frames += 1;
            Ok(())
        });
        to.1.counters.sent_together(bytes, frames);
        sent
    }
}

fn send_one(
    snapshot: &Snapshot,
    to: (PeerId, &Path),
    frame: SharedFrame<'_>,
    out: &mut impl Output,
) -> Result<(), DropReason> {
    let tag = if frame.unsummed {
        &content::UNSUMMED
    } else {
        &content::FRAME
    };
    let mut lane = Lane::find(snapshot, to, to.1.protection)?;
    lane.send(snapshot, [tag, frame.bytes, &[]], out)?;
    to.1.counters.sent(frame.bytes.len());
    Ok(())
}

#[cfg(test)]
mod tests;
