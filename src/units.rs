//! Durations, sizes, counts and shares as text.
