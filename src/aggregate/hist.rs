//! Distributions: power-of-two buckets for reports, percentiles for sentences.

use crate::error::{Error, Result};
use crate::report::{Bucket, Histogram, Title, Unit};
use crate::units::{log2_bounds, log2_slot};

/// Counts by floor(log2(value)).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log2 {
    slots: Vec<u64>,
}

impl Log2 {
    /// Counts one value.
    pub fn add(&mut self, value: u64) {
        let slot = log2_slot(value);
        if self.slots.len() <= slot {
            self.slots.resize(slot + 1, 0);
        }
        self.slots[slot] += 1;
    }

    /// Adds counts by slot, as the kernel keeps them.
    pub fn add_slots(&mut self, slots: &[u64]) {
        if self.slots.len() < slots.len() {
            self.slots.resize(slots.len(), 0);
        }
        for (sum, count) in self.slots.iter_mut().zip(slots) {
            *sum += count;
        }
    }

    /// Values counted.
    pub fn count(&self) -> u64 {
        self.slots.iter().sum()
    }

    /// As a block: from the lowest bucket with a count to the highest, without gaps.
    pub fn histogram(&self, title: Title, unit: Unit) -> Histogram {
        let first = self.slots.iter().position(|&count| count > 0).unwrap_or(0);
        let end = self.slots.iter().rposition(|&count| count > 0).map_or(0, |last| last + 1);
        let bucket = |slot: usize| {
            let (low, high) = log2_bounds(slot);
            Bucket { low, high, count: self.slots[slot] }
        };
        Histogram { title, unit, buckets: (first..end).map(bucket).collect() }
    }
}

/// Values to three significant digits, for percentiles.
#[derive(Clone, Debug)]
pub struct Percentiles {
    histogram: hdrhistogram::Histogram<u64>,
}

impl Percentiles {
    /// An empty one; it grows with the largest value, to some 200 KiB at a minute in nanoseconds.
    pub fn new() -> Result<Self> {
        let mut histogram = hdrhistogram::Histogram::new(3)
            .map_err(|err| Error::failed("cannot make a histogram").because(err.to_string()))?;
        histogram.auto(true);
        Ok(Self { histogram })
    }

    /// Counts one value.
    pub fn add(&mut self, value: u64) {
        // An automatic histogram grows for any value; were there no memory for it, its upper end counts it.
        if self.histogram.record(value).is_err() {
            self.histogram.saturating_record(value);
        }
    }

    /// Values counted.
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// The value that `percent` of all values do not pass; absent without values.
    pub fn at(&self, percent: f64) -> Option<u64> {
        // The histogram's buckets are 0.1 % wide: their upper end may pass the largest value that was counted.
        (!self.histogram.is_empty()).then(|| self.histogram.value_at_percentile(percent).min(self.histogram.max()))
    }

    /// Mean of all values; absent without values.
    pub fn mean(&self) -> Option<u64> {
        (!self.histogram.is_empty()).then(|| self.histogram.mean().round() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_have_no_gaps_and_no_empty_ends() {
        let mut log2 = Log2::default();
        for value in [5, 6, 70, 0] {
            log2.add(value);
        }
        log2.add_slots(&[0, 0, 3]);
        let histogram = log2.histogram(Title::map("@x"), Unit::Ns);
        let rows: Vec<_> = histogram.buckets.iter().map(|it| (it.low, it.high, it.count)).collect();
        assert_eq!(rows, [(0, 1, 1), (2, 3, 0), (4, 7, 5), (8, 15, 0), (16, 31, 0), (32, 63, 0), (64, 127, 1)]);
        assert_eq!(log2.count(), 7);
        assert!(Log2::default().histogram(Title::map("@x"), Unit::Ns).buckets.is_empty());
    }

    #[test]
    fn percentiles_are_within_a_thousandth() {
        let mut percentiles = Percentiles::new().unwrap();
        assert_eq!(percentiles.at(99.0), None);
        for value in 1..=100_000_u64 {
            percentiles.add(value * 1_000);
        }
        let p99 = percentiles.at(99.0).unwrap();
        assert!((98_900_000..=99_100_000).contains(&p99), "{p99}");
        assert!((99_900_000..=100_100_000).contains(&percentiles.at(100.0).unwrap()));
        assert!((49_900_000..=50_100_000).contains(&percentiles.mean().unwrap()));
        assert_eq!(percentiles.count(), 100_000);
    }
}
