//! Sees to it that what must not be forgotten is kept: what the disk does not take now,
//! it may take in a moment.

use std::time::{Duration, Instant};

/// Between one attempt and the next.
const AGAIN: Duration = Duration::from_secs(1);

/// The latest of something that is to be kept, until it is.
pub(super) struct Keeper<T> {
    unkept: Option<(T, Instant)>,
    failing: bool,
}

impl<T> Default for Keeper<T> {
    fn default() -> Self {
        Self {
            unkept: None,
            failing: false,
        }
    }
}

impl<T> Keeper<T> {
    /// Keeps what is new at once, and tries again with what could not be kept. Gives the
    /// error of the first failure in a row.
    pub(super) fn keep<E>(
        &mut self,
        fresh: Option<T>,
        now: Instant,
        save: impl FnOnce(&T) -> Result<(), E>,
    ) -> Option<E> {
        if let Some(fresh) = fresh {
            self.unkept = Some((fresh, now));
        }
        let (due, at) = self.unkept.as_mut().filter(|(_, at)| now >= *at)?;
        *at = now + AGAIN;
        match save(due) {
            Ok(()) => {
                (self.unkept, self.failing) = (None, false);
                None
            }
            Err(error) => {
                let first = !std::mem::replace(&mut self.failing, true);
                first.then_some(error)
            }
        }
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "a test needs some instant to count from"
)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_kept_is_tried_again_and_the_latest_counts() {
        let (mut keeper, mut now) = (Keeper::default(), Instant::now());
        let mut kept = Vec::new();
        let mut try_to = |fresh, now, works: bool| {
            let error = keeper.keep(fresh, now, |value| match works {
                true => {
                    kept.push(*value);
                    Ok(())
                }
                false => Err("disk full"),
            });
            (error, kept.clone())
        };
        assert_eq!(try_to(Some(1), now, false), (Some("disk full"), vec![]));
        // It is said once, and not tried without a pause.
        assert_eq!(try_to(None, now, true), (None, vec![]));
        assert_eq!(try_to(Some(2), now, false), (None, vec![]));
        now += AGAIN;
        assert_eq!(try_to(None, now, true), (None, vec![2]));
        assert_eq!(try_to(None, now + AGAIN, true), (None, vec![2]));
        assert_eq!(try_to(Some(3), now, true), (None, vec![2, 3]));
        assert_eq!(try_to(Some(4), now, false).0, Some("disk full"));
    }
}
