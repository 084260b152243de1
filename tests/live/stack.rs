//! Folded stacks, and what must be true of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use libtest_mimic::Failed;

/// Distinct stacks with their weights. A Python frame is `name (file:line)` with the file's last component.
#[derive(Debug, Default)]
pub(crate) struct Stacks(pub(crate) BTreeMap<String, u64>);

impl Stacks {
    /// Reads what `pylow flame --output x.folded` wrote.
    pub(crate) fn read(path: &Path) -> Result<Self, Failed> {
        let text = fs::read_to_string(path).map_err(|err| format!("{}: {err}", path.display()))?;
        let mut stacks = Self::default();
        for line in text.lines() {
            let (stack, weight) = line.rsplit_once(' ').ok_or_else(|| format!("not a folded line: {line}"))?;
            let weight: u64 = weight.parse().map_err(|_| format!("not a folded line: {line}"))?;
            let stack: Vec<_> = stack.split(';').map(shorten).collect();
            *stacks.0.entry(stack.join(";")).or_default() += weight;
        }
        Ok(stacks)
    }

    pub(crate) fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// Weight of the stacks for which `holds`.
    pub(crate) fn weight(&self, holds: impl Fn(&[&str]) -> bool) -> u64 {
        let counted = self.0.iter().filter(|(stack, _)| holds(&stack.split(';').collect::<Vec<_>>()));
        counted.map(|(_, weight)| weight).sum()
    }

    /// Weight of the stacks that go through the function.
    pub(crate) fn weight_through(&self, function: &str) -> u64 {
        self.weight(|stack| stack.iter().any(|frame| name(frame) == function))
    }

    /// At least 99.9 % of the weight starts in one of the functions `roots`, and there is enough of it to say so.
    pub(crate) fn expect_complete(&self, roots: &[&str], at_least: u64) -> Result<(), Failed> {
        let total = self.total();
        let complete = self.weight(|stack| roots.contains(&name(stack[0])));
        if total < at_least {
            return Err(format!("only {total} seen, {at_least} wanted\n{}", self.head()).into());
        }
        if complete * 1000 < total * 999 {
            let odd: Vec<_> = self.0.iter().filter(|(stack, _)| !roots.contains(&name(stack))).take(8).collect();
            return Err(format!("{complete} of {total} start at a root of {roots:?}; others: {odd:#?}").into());
        }
        Ok(())
    }

    /// Every Python frame is at one of `places`: `file line name`.
    pub(crate) fn expect_places(&self, places: &BTreeSet<String>) -> Result<(), Failed> {
        for frame in self.0.keys().flat_map(|stack| stack.split(';')) {
            let known = place(frame).is_none_or(|(name, file, line)| places.contains(&format!("{file} {line} {name}")));
            if !known {
                return Err(format!("the program has no such place: {frame}").into());
            }
        }
        Ok(())
    }

    /// A few stacks for a message.
    pub(crate) fn head(&self) -> String {
        self.0.iter().take(8).map(|(stack, weight)| format!("{stack} {weight}\n")).collect()
    }
}

/// `name (/long/path/file.py:7)` with the file's last component; other frames as they are.
fn shorten(frame: &str) -> String {
    match place_of(frame) {
        Some((name, path, line)) => {
            let file = path.rsplit('/').next().unwrap_or(path);
            format!("{name} ({file}:{line})")
        }
        None => frame.to_owned(),
    }
}

fn place_of(frame: &str) -> Option<(&str, &str, &str)> {
    let (name, place) = frame.strip_suffix(')')?.split_once(" (")?;
    let (path, line) = place.rsplit_once(':')?;
    Some((name, path, line))
}

/// Name, file and line of a Python frame.
pub(crate) fn place(frame: &str) -> Option<(&str, &str, u32)> {
    let (name, file, line) = place_of(frame)?;
    Some((name, file, line.parse().ok()?))
}

/// `name` of `name (file:line)`.
pub(crate) fn name(frame: &str) -> &str {
    frame.split(" (").next().unwrap_or(frame)
}
