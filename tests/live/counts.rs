//! Exact counts are exact.

use std::collections::BTreeMap;

use tempfile::TempDir;

use crate::interpreter::Interpreter;
use crate::pylow::{Pylow, text};
use crate::target::{Target, until};
use crate::{Outcome, Suite};

pub(crate) fn add_to(suite: &mut Suite) {
    suite.on_both_ends("syscall_counts", |_| true, syscall_counts);
    suite.once("function_calls", function_calls);
}

/// `flame --event uprobe:` takes a stack at every call of the function, from each of its callers, and at no other.
fn function_calls(interpreter: &Interpreter) -> Outcome {
    let directory = TempDir::new()?;
    let output = directory.path().join("calls.folded");
    let mut target = Target::start(interpreter, "function_calls.py", &[])?;
    let pid = target.pid.to_string();
    let event = ["--event", "uprobe:libz:crc32"];
    let mut pylow =
        Pylow::start(&[&["flame", &pid][..], &event, &["--output", text(&output), "--duration", "60"]].concat())?;
    pylow.attached()?;
    target.go()?;
    target.wait_for("done")?;
    let finished = pylow.interrupt()?;
    finished.expect_code(0)?;
    let folded = std::fs::read_to_string(&output)?;
    for (name, truth) in target.told_numbers("count") {
        let seen: u64 = folded
            .lines()
            .filter_map(|line| line.rsplit_once(' '))
            .filter(|(stack, _)| stack.rsplit(';').next().is_some_and(|leaf| leaf.starts_with(&format!("{name} ("))))
            .filter_map(|(_, count)| count.parse::<u64>().ok())
            .sum();
        if seen as f64 != truth {
            return Err(format!("{name}: {seen}, the program made {truth}\n{folded}\n{finished}").into());
        }
    }
    Ok(())
}

/// `pylow syscall` counts what the program has counted itself.
fn syscall_counts(interpreter: &Interpreter) -> Outcome {
    let directory = TempDir::new()?;
    let answer = directory.path().join("answer");
    let target = Target::start(interpreter, "counts.py", &[text(&answer)])?;
    let pid = target.pid.to_string();
    let mut pylow = Pylow::start(&["syscall", &pid, "--duration", "60", "--top", "100"])?;
    pylow.attached()?;
    target.signal(libc::SIGUSR1);
    until("the program's answer", || answer.exists().then_some(()))?;
    let finished = pylow.interrupt()?;
    finished.expect_code(0)?;
    let counted = counts(&finished.stdout);
    let mut wrong = Vec::new();
    for (name, truth) in target.told_numbers("count") {
        // pread64() and epoll_wait() are what the C library makes of them on x86_64; elsewhere there is epoll_pwait().
        let seen = counted.get(name.as_str()).or_else(|| counted.get(name.replace("_wait", "_pwait").as_str()));
        if seen.copied().unwrap_or(0) as f64 != truth {
            wrong.push(format!("{name}: {seen:?}, the program made {truth}"));
        }
    }
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(format!("{}\n{finished}", wrong.join("\n")).into()),
    }
}

/// `  sys_enter_read: 231` and what follows.
fn counts(report: &str) -> BTreeMap<&str, u64> {
    report.lines().filter_map(count).collect()
}

fn count(line: &str) -> Option<(&str, u64)> {
    let (name, rest) = line.trim().strip_prefix("sys_enter_")?.split_once(':')?;
    let number: String = rest.trim_start().chars().take_while(char::is_ascii_digit).collect();
    Some((name, number.parse().ok()?))
}
