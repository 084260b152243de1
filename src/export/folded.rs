//! Folded stacks: `root;...;leaf weight`.

use std::io::Write;

use super::not_empty;
use crate::aggregate::stacks::StackFold;
use crate::error::Result;

/// Writes one line per distinct stack, sorted; the weight is in the unit people read, samples or microseconds.
pub fn write_folded(fold: &StackFold, mut out: impl Write) -> Result<()> {
    not_empty(fold)?;
    for line in fold.folded_lines() {
        writeln!(out, "{line}")?;
    }
    Ok(())
}
