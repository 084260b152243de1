//! Stacks are whole, right, and in the right proportion: on every interpreter.

use std::collections::{BTreeMap, BTreeSet};

use libtest_mimic::Failed;
use tempfile::TempDir;

use crate::interpreter::Interpreter;
use crate::pylow::{Finished, Pylow, text};
use crate::stack::{self, Stacks};
use crate::target::Target;
use crate::{Outcome, Suite};

/// Where every stack of a plain program starts: the program, or a thread of it.
const ROOTS: &[&str] = &["<module>", "Thread._bootstrap", "_bootstrap"];

pub(crate) fn add_to(suite: &mut Suite) {
    suite.on("stack_truth", |_| true, stack_truth);
    suite.on("on_cpu_complete", |_| true, on_cpu_complete);
    suite.on("off_cpu_complete", |_| true, off_cpu_complete);
    suite.on_both_ends("cpu_split", |_| true, cpu_split);
    suite.on_both_ends("recursion_200", |_| true, recursion_200);
    suite.on("without_the_gil", |_| true, without_the_gil);
    suite.on("sub_interpreters", |it| it.minor >= 8, sub_interpreters);
}

/// Every stack of every getppid() is the one the program wrote down: names, files, lines, whole, none more or less.
fn stack_truth(interpreter: &Interpreter) -> Outcome {
    let target = Target::start(interpreter, "stack_truth.py", &[])?;
    compare_truth(target)
}

/// The same for a program that is started already.
pub(crate) fn compare_truth(mut target: Target) -> Outcome {
    let directory = TempDir::new()?;
    let output = directory.path().join("x.folded");
    let pid = target.pid.to_string();
    let mut pylow =
        Pylow::start(&["flame", &pid, "--event", "syscall:getppid", "--output", text(&output), "--duration", "60"])?;
    pylow.attached()?;
    target.go()?;
    target.wait_for("done")?;
    let finished = pylow.interrupt()?;
    finished.expect_code(0)?;

    let mut told: BTreeMap<String, i64> = BTreeMap::new();
    for stack in target.told("stack") {
        *told.entry(stack.to_owned()).or_default() += 1;
    }
    let all: i64 = told.values().sum();
    for (stack, weight) in &Stacks::read(&output)?.0 {
        *told.entry(stack.clone()).or_default() -= *weight as i64;
    }
    told.retain(|_, difference| *difference != 0);
    if told.is_empty() && all > 0 {
        return Ok(());
    }
    let missing: i64 = told.values().filter(|it| **it > 0).sum();
    let wrong: i64 = -told.values().filter(|it| **it < 0).sum::<i64>();
    let show = |sign: i64| told.iter().filter(move |(_, it)| **it * sign > 0).take(4).collect::<Vec<_>>();
    let (absent, odd) = (show(1), show(-1));
    Err(format!("of {all} stacks {missing} are missing, {wrong} are not the program's\nmissing: {absent:#?}\nnot its own: {odd:#?}\n{finished}").into())
}

/// On-CPU at 999 Hz: at least 99.9 % of the stacks reach the root, and every name and line exists.
fn on_cpu_complete(interpreter: &Interpreter) -> Outcome {
    let mut target = Target::start(interpreter, "busy.py", &[])?;
    let stacks = flame(&target, &["--frequency", "999", "--duration", "3"])?.0;
    target.go()?;
    target.wait_for("done")?;
    let places: BTreeSet<String> = target.told("at").map(str::to_owned).collect();
    stacks.expect_complete(ROOTS, 300)?;
    stacks.expect_places(&places)
}

/// The same for the time threads wait.
fn off_cpu_complete(interpreter: &Interpreter) -> Outcome {
    let mut target = Target::start(interpreter, "waiting.py", &[])?;
    let (stacks, finished) = flame(&target, &["--off-cpu", "--duration", "2"])?;
    target.go()?;
    target.wait_for("done")?;
    stacks.expect_complete(ROOTS, 1)?;
    for function in ["sleeper", "pipe_reader", "socket_reader", "queue_reader", "lock_taker", "feeder"] {
        if stacks.weight_through(function) == 0 {
            return Err(format!("no wait of {function}\n{}{finished}", stacks.head()).into());
        }
    }
    Ok(())
}

/// 70 : 30 by the program's own clock comes out within 2 points.
fn cpu_split(interpreter: &Interpreter) -> Outcome {
    let mut target = Target::start(interpreter, "split.py", &[])?;
    let stacks = flame(&target, &["--frequency", "499", "--duration", "6"])?.0;
    target.go()?;
    target.wait_for("done")?;
    expect_shares(&stacks, &target, 1000, 2.0)
}

/// 200 calls deep, all of them there.
fn recursion_200(interpreter: &Interpreter) -> Outcome {
    let mut target = Target::start(interpreter, "deep.py", &["200"])?;
    let stacks = flame(&target, &["--frequency", "499", "--duration", "3"])?.0;
    target.go()?;
    target.wait_for("done")?;
    stacks.expect_complete(ROOTS, 200)?;
    let at_bottom = |frames: &[&str]| frames.iter().any(|frame| stack::name(frame) == "bottom");
    let whole = |frames: &[&str]| frames.iter().filter(|frame| stack::name(frame) == "down").count() == 200;
    let (all, complete) = (stacks.weight(at_bottom), stacks.weight(|frames| at_bottom(frames) && whole(frames)));
    match all > 200 && complete == all {
        true => Ok(()),
        false => Err(format!("{complete} of {all} stacks at the bottom have 200 calls").into()),
    }
}

/// A thread that computes without the GIL is seen in full and in its true proportion.
fn without_the_gil(interpreter: &Interpreter) -> Outcome {
    let mut target = Target::start(interpreter, "nogil.py", &[])?;
    let stacks = flame(&target, &["--frequency", "499", "--duration", "3"])?.0;
    target.go()?;
    target.wait_for("done")?;
    stacks.expect_complete(ROOTS, 200)?;
    expect_shares(&stacks, &target, 200, 8.0)
}

/// Code of a sub-interpreter, by name and to its root.
fn sub_interpreters(interpreter: &Interpreter) -> Outcome {
    let directory = TempDir::new()?;
    let flag = directory.path().join("stop");
    let mut target = Target::start(interpreter, "subinterpreters.py", &[text(&flag)])?;
    let (stacks, finished) = flame(&target, &["--frequency", "499", "--duration", "3"])?;
    target.go()?;
    target.wait_for("done")?;
    stacks.expect_complete(ROOTS, 200)?;
    let inside = stacks.weight(|frames| {
        let path: Vec<_> = frames.iter().map(|frame| stack::name(frame)).collect();
        path.windows(3).any(|names| names == ["<module>", "outermost", "inside"])
    });
    match inside * 10 > stacks.total() * 9 {
        true => Ok(()),
        false => Err(format!("{inside} of {} inside\n{}{finished}", stacks.total(), stacks.head()).into()),
    }
}

/// Runs `pylow flame PID` with `arguments` until its duration is over.
pub(crate) fn flame(target: &Target, arguments: &[&str]) -> Result<(Stacks, Finished), Failed> {
    let directory = TempDir::new()?;
    let output = directory.path().join("x.folded");
    let pid = target.pid.to_string();
    let mut all = vec!["flame", &pid, "--output", text(&output)];
    all.extend(arguments);
    let finished = Pylow::start(&all)?.finish()?;
    finished.expect_code(0)?;
    Ok((Stacks::read(&output)?, finished))
}

/// Shares of samples are the shares of CPU time that the program told (`used NAME SECONDS`), to so many points.
fn expect_shares(stacks: &Stacks, target: &Target, at_least: u64, points: f64) -> Outcome {
    let used = target.told_numbers("used");
    let samples: Vec<u64> = used.iter().map(|(name, _)| stacks.weight_through(name)).collect();
    let (all_used, all_samples): (f64, u64) = (used.iter().map(|(_, used)| used).sum(), samples.iter().sum());
    if all_samples < at_least {
        return Err(format!("only {all_samples} samples, {at_least} wanted\n{}", stacks.head()).into());
    }
    for ((name, used), samples) in used.iter().zip(samples) {
        let (truth, seen) = (100.0 * used / all_used, 100.0 * samples as f64 / all_samples as f64);
        if (truth - seen).abs() > points {
            return Err(format!("{name}: {seen:.1} % of {all_samples} samples, {truth:.1} % of CPU time").into());
        }
    }
    Ok(())
}
