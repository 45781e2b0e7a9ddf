//! Figures: names and numbers, and what is made of many measurements.

use serde::{Serialize, Serializer, ser::SerializeMap};

/// Named numbers, in the order they were set.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures(Vec<(String, f64)>);

impl Figures {
    pub(crate) fn set(&mut self, name: impl Into<String>, value: f64) {
        self.0.push((name.into(), value));
    }

    pub(crate) fn get(&self, name: &str) -> Option<f64> {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| *value)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, f64)> {
        self.0.iter().map(|(name, value)| (name.as_str(), *value))
    }

    /// Sets `<name>_p50_s`, `<name>_p99_s` and `<name>_max_s` of times in
    /// seconds. Sorts them.
    pub(crate) fn set_times(&mut self, name: &str, seconds: &mut [f64]) {
        seconds.sort_unstable_by(f64::total_cmp);
        for (suffix, share) in [("p50", 0.5), ("p99", 0.99), ("max", 1.0)] {
            self.set(format!("{name}_{suffix}_s"), percentile(seconds, share));
        }
    }
}

impl Serialize for Figures {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            // Counts are written as what they are.
            if value.fract() == 0.0 && value.abs() < 1e15 {
                map.serialize_entry(name, &(*value as i64))?;
            } else {
                map.serialize_entry(name, value)?;
            }
        }
        map.end()
    }
}

/// The smallest value that this share of the sorted values does not exceed
/// (nearest rank); zero if there are none.
pub(crate) fn percentile(sorted: &[f64], share: f64) -> f64 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    let last = sorted.len().saturating_sub(1);
    sorted
        .get(rank.saturating_sub(1).min(last))
        .copied()
        .unwrap_or_default()
}

/// The mean; zero if there are no values.
pub(crate) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_by_nearest_rank() {
        let values: Vec<f64> = (1..=200).map(f64::from).collect();
        let at = |share| percentile(&values, share);
        assert_eq!(
            (at(0.5), at(0.99), at(1.0), at(0.0)),
            (100.0, 198.0, 200.0, 1.0)
        );
        assert_eq!((percentile(&[], 0.5), percentile(&[7.0], 0.99)), (0.0, 7.0));
    }

    #[test]
    fn counts_are_written_as_integers() {
        let mut figures = Figures::default();
        figures.set("a", 3.0);
        figures.set_times("b", &mut [0.5, 0.25]);
        let text = serde_json::to_string(&figures).unwrap();
        assert_eq!(
            text,
            r#"{"a":3,"b_p50_s":0.25,"b_p99_s":0.5,"b_max_s":0.5}"#
        );
    }
}
