//! Verdicts and doctor's checks: the blocks that answer.

use std::io::{self, Write};

use super::layout::{columns, pad, wrap};
use super::{Ink, Style};
use crate::render::escape::visible;
use crate::report::{Check, Checks, Confidence, Evidence, Verdict};

/// Columns of what a line of checks is about.
const SUBJECT_COLUMNS: usize = 18;
/// Blanks between the two columns of evidence.
const EVIDENCE_GAP: usize = 4;

pub(super) fn write_verdict(verdict: &Verdict, style: Style, out: &mut impl Write) -> io::Result<()> {
    write_evidence(&verdict.evidence, style, out)?;
    if !verdict.evidence.is_empty() {
        writeln!(out)?;
    }
    let confidence = match verdict.confidence {
        Confidence::High => "high",
        Confidence::Medium => "medium",
        Confidence::Low => "low",
    };
    let class = style.paint(Ink::Bold, &visible(&verdict.class));
    writeln!(out, "VERDICT   {class}   confidence: {confidence}")?;
    for line in wrap(&visible(&verdict.text.join(" ")), style.width.saturating_sub(2)) {
        writeln!(out, "  {line}")?;
    }
    if let Some(next) = &verdict.next {
        writeln!(out, "NEXT      {}", style.paint(Ink::Bold, &visible(next)))?;
    }
    Ok(())
}

/// `name : text    name : text`, two a line where they fit.
fn write_evidence(evidence: &[Evidence], style: Style, out: &mut impl Write) -> io::Result<()> {
    let cells: Vec<(String, String)> =
        evidence.iter().map(|it| (visible(&it.name).into_owned(), visible(&it.text).into_owned())).collect();
    let widest = |index: usize, step: usize, of: fn(&(String, String)) -> &String| {
        cells.iter().skip(index).step_by(step).map(|cell| columns(of(cell))).max().unwrap_or(0)
    };
    let left_name = widest(0, 2, |cell| &cell.0);
    let left_text = widest(0, 2, |cell| &cell.1);
    let right_name = widest(1, 2, |cell| &cell.0);
    let right_text = widest(1, 2, |cell| &cell.1);
    let set = |(name, text): &(String, String), width| format!("{} : {text}", pad(name, width));
    if left_name + 3 + left_text + EVIDENCE_GAP + right_name + 3 + right_text > style.width {
        let width = left_name.max(right_name);
        return cells.iter().try_for_each(|cell| writeln!(out, "{}", set(cell, width)));
    }
    for pair in cells.chunks(2) {
        match pair {
            [left, right] => {
                let left = pad(&set(left, left_name), left_name + 3 + left_text + EVIDENCE_GAP);
                writeln!(out, "{left}{}", set(right, right_name))?;
            }
            _ => pair.iter().try_for_each(|cell| writeln!(out, "{}", set(cell, left_name)))?,
        }
    }
    Ok(())
}

pub(super) fn write_checks(checks: &Checks, style: Style, out: &mut impl Write) -> io::Result<()> {
    let subject = pad(&visible(&checks.subject), SUBJECT_COLUMNS - 1);
    writeln!(out, "{}", format!("{subject} {}", visible(&checks.summary)).trim_end())?;
    let ability_columns = checks.checks.iter().map(|check| columns(&visible(&check.ability))).max().unwrap_or(0);
    checks.checks.iter().try_for_each(|check| write_check(check, ability_columns, style, out))
}

/// `  ✗ native lines  no debug info: install libc6-dbg`, further lines below the evidence.
fn write_check(check: &Check, ability_columns: usize, style: Style, out: &mut impl Write) -> io::Result<()> {
    let mark = if check.ok { style.paint(Ink::Green, "✓") } else { style.paint(Ink::Red, "✗") };
    let said = match &check.fix {
        Some(fix) => format!("{}: {fix}", check.evidence),
        None => check.evidence.clone(),
    };
    let indent = "  ✓ ".chars().count() + ability_columns + 2;
    let lines = wrap(&visible(&said), style.width.saturating_sub(indent));
    let ability = pad(&visible(&check.ability), ability_columns);
    let first = lines.first().map_or("", String::as_str);
    writeln!(out, "{}", format!("  {mark} {ability}  {first}").trim_end())?;
    lines.iter().skip(1).try_for_each(|line| writeln!(out, "{}{line}", " ".repeat(indent)))
}
