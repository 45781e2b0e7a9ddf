//! What survives a restart, and what a launch makes of it.

use super::{Saved, Space};

impl Space {
    pub(super) fn restore(&mut self, saved: Saved) {
        self.ring = saved.ring;
        self.mine = saved.mine;
        self.division = saved.division;
        self.dirty.division = self.division.is_some();
        self.wards = saved.wards.iter().map(|(ward, _)| *ward).collect();
        self.table = saved.wards.into_iter().collect();
        let wards = self.wards.clone();
        wards.into_iter().for_each(|ward| self.note_entry(ward));
        self.guard = saved.guard;
        self.roll = saved.roll;
        self.census = saved.census;
        self.counted = saved.counted;
        self.farewells = saved.farewells;
        // What was said of launches before counts for them alone.
        self.guard.acks.clear();
        self.guard.counted.clear();
        // Whoever ended before its farewell was carried out is back.
        self.guard.gone.retain(|peer| *peer != self.me);
        self.note_gone();
        self.dirty.guard = true;
    }

    /// What is to be saved before anything else is sent; none if nothing changed.
    pub fn take_saved(&mut self) -> Option<Saved> {
        std::mem::take(&mut self.dirty.saved).then(|| self.saved())
    }

    /// What a restart needs.
    pub fn saved(&self) -> Saved {
        let wards = self.wards.iter();
        Saved {
            base: self.config.base.to_bits(),
            prefix: self.config.prefix,
            ring: self.ring,
            mine: self.mine.clone(),
            division: self.division.clone(),
            wards: wards
                .filter_map(|ward| Some((*ward, self.table.get(ward)?.clone())))
                .collect(),
            guard: self.guard.clone(),
            roll: self.roll.clone(),
            census: self.census.clone(),
            counted: self.counted.clone(),
            farewells: self.farewells.clone(),
        }
    }
}
