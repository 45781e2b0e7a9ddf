//! What was counted once is kept in mind: no gift to the dead brings it to anybody with a
//! lower epoch, and whoever was said to be gone and comes back is told before it uses any of
//! that.

use proto::space::{self as wire, Counted, Gift};

use super::{
    Space,
    census::runs_of,
    span::{self, Span},
};

/// So many runs that were counted are kept in mind.
const COUNTED: usize = 128;

impl Space {
    /// From now on a run is nobody's, or somebody's with this epoch: what we gave away or
    /// ceded of it with a lower one is not ours to give any more, nor comes back.
    pub(super) fn note_counted(&mut self, run: Span, epoch: u32) {
        self.withdraw_claims_to(run, epoch);
        let is_covered = |(old, before): &(Span, u32)| {
            let all = run.meet(*old) == Some(*old);
            all && *before <= epoch
        };
        self.counted.retain(|old| !is_covered(old));
        self.counted.push((run, epoch));
        let surplus = self.counted.len().saturating_sub(COUNTED);
        self.counted.drain(..surplus);
        self.dirty.saved = true;
    }

    /// Whether some of a run was counted with a higher epoch than this, or may be by what we
    /// agree with.
    pub(super) fn is_counted_above(&self, span: Span, epoch: u32) -> bool {
        let agreed = self.census.iter().flat_map(|census| {
            let runs = runs_of(census).into_iter();
            runs.map(|run| (run, census.epoch))
        });
        let mut all = self.counted.iter().copied().chain(agreed);
        all.any(|(run, counted)| counted > epoch && run.meet(span).is_some())
    }

    /// Whether the receiver of a gift says that some of that was counted: it will never take
    /// it up, and another census settles whose it is.
    pub(super) fn is_refused(&self, gift: &Gift) -> bool {
        let span = Span::new(gift.start, gift.len);
        let said = self.heard.get(&gift.to);
        let mut counted = said.into_iter().flat_map(|said| &said.counted);
        counted.any(|told| {
            let run = Span::new(told.start, told.len);
            told.epoch > gift.epoch && run.meet(span).is_some()
        })
    }

    /// What those whom we guard are told of it: the latest, for whoever comes back had what
    /// was counted since it was there. More has no room beside the acks.
    pub(super) fn told_counted(&self) -> Vec<Counted> {
        let older = self.counted.len().saturating_sub(wire::COUNTED);
        let counted = self.counted.iter().skip(older);
        let told = counted.map(|(run, epoch)| Counted {
            start: run.start,
            len: run.len(),
            epoch: *epoch,
        });
        told.collect()
    }

    /// Of what the guards that answered this launch say that it was counted nothing is ours:
    /// they took us for dead.
    pub(super) fn yield_to_census(&mut self) {
        let guards = self.mine.guards.iter().chain(&self.mine.former);
        let answered = guards.filter(|guard| {
            let ack = self.ack_of(**guard, self.me);
            ack.is_some_and(|ack| ack.instance == self.instance)
        });
        let told = answered.filter_map(|guard| self.heard.get(guard));
        let told: Vec<Counted> = told.flat_map(|said| &said.counted).copied().collect();
        for told in told {
            let Some(run) = Span::new(told.start, told.len).meet(self.range()) else {
                continue;
            };
            let below = self.mine.blocks.iter();
            let below = below.filter(|block| block.epoch < told.epoch);
            let lost: Vec<Span> = below
                .filter_map(|block| Span::of(block).meet(run))
                .collect();
            for span in lost {
                self.lose(span);
                self.warn_of_use(
                    span,
                    "were taken by others while this peer was said to be gone",
                );
            }
            self.note_counted(run, told.epoch);
        }
    }

    /// Nothing of a run that we gave away or ceded with a lower epoch is told of any more.
    pub(super) fn withdraw_claims_to(&mut self, run: Span, epoch: u32) {
        let mine = &mut self.mine;
        let before = mine.gifts.len();
        mine.gifts.retain(|gift| {
            let given = Span::new(gift.start, gift.len);
            gift.epoch >= epoch || given.meet(run).is_none()
        });
        self.changed |= mine.gifts.len() != before;
        let ceded = std::mem::take(&mut mine.ceded);
        mine.ceded = ceded
            .into_iter()
            .flat_map(|(heir, life, block)| {
                let mut parts = vec![block];
                if block.epoch < epoch {
                    span::cut(&mut parts, run);
                }
                parts.into_iter().map(move |part| (heir, life, part))
            })
            .collect();
    }
}
