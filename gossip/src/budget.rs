//! How much an owner may say.

/// How many changes an owner may make.
#[derive(Clone, Copy, Debug)]
pub struct Allowance {
    /// At once.
    pub burst: u16,
    /// Per second.
    pub rate: u16,
    /// The time in tenths of a second.
    pub now: u32,
}

/// A token bucket in six bytes, for each of ten thousand owners.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Budget {
    spent: u16,
    /// In tenths of a second since the start; bytes, for these need no padding.
    at: [u8; 4],
}

impl Budget {
    /// Spends one; false if there is none left.
    pub(crate) fn spend(&mut self, allowance: Allowance) -> bool {
        let Allowance { burst, rate, now } = allowance;
        let since = now.saturating_sub(u32::from_ne_bytes(self.at));
        let regained = u64::from(since) * u64::from(rate) / 10;
        if regained > 0 {
            let regained = u16::try_from(regained).unwrap_or(u16::MAX);
            self.spent = self.spent.saturating_sub(regained);
            self.at = now.to_ne_bytes();
        }
        let room = self.spent < burst;
        self.spent += u16::from(room);
        room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_used_up_and_comes_back() {
        let mut budget = Budget::default();
        let mut spend = |now| {
            let allowance = Allowance {
                burst: 3,
                rate: 20,
                now,
            };
            budget.spend(allowance)
        };
        assert_eq!((0..10).filter(|_| spend(0)).count(), 3);
        assert!(spend(1) && spend(1) && !spend(1));
        assert!(spend(u32::MAX));
    }
}
