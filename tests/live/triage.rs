//! One seeded fault, one verdict: the right class, or UNSURE, never a wrong one.

use crate::interpreter::Interpreter;
use crate::pylow::{Finished, run};
use crate::target::{Target, program_path};
use crate::{Outcome, Suite};

type Test = fn(&Interpreter) -> Outcome;

pub(crate) fn add_to(suite: &mut Suite) {
    let tests: &[(&str, Test)] = &[
        ("triage_cpu", |it| cpu(it)),
        ("triage_io", |it| verdict(it, "io", &["I/O BOUND"])),
        ("triage_syscalls", |it| verdict(it, "syscalls", &["SYSCALL STORM"])),
        ("triage_gil", |it| verdict(it, "gil", &["GIL", "LOCK/GIL", "LOCK"])),
        ("triage_lock", |it| verdict(it, "lock", &["LOCK"])),
        ("triage_idle", |it| verdict(it, "idle", &["HEALTHY", "IDLE"])),
        ("triage_deadlock", |it| verdict(it, "deadlock", &["DEADLOCK", "STUCK"])),
        ("triage_memory", |it| verdict(it, "memory", &["MEMORY"])),
    ];
    for (name, test) in tests {
        suite.on_both_ends(name, |_| true, *test);
    }
}

/// The class is right, and so is the line.
fn cpu(interpreter: &Interpreter) -> Outcome {
    let finished = triage(interpreter, "cpu")?;
    expect_class(&finished, &["CPU BOUND"])?;
    let program = std::fs::read_to_string(program_path("faults.py"))?;
    let hot = program.lines().position(|line| line.contains("# the hot line")).ok_or("no hot line")? + 1;
    // The loop's head is the line before.
    let named = [hot - 1, hot].iter().any(|line| finished.stdout.contains(&format!("faults.py:{line}")));
    match named {
        true => Ok(()),
        false => Err(format!("faults.py:{hot} is not named\n{finished}").into()),
    }
}

fn verdict(interpreter: &Interpreter, fault: &str, classes: &[&str]) -> Outcome {
    expect_class(&triage(interpreter, fault)?, classes)
}

fn triage(interpreter: &Interpreter, fault: &str) -> Result<Finished, libtest_mimic::Failed> {
    let target = Target::start(interpreter, "faults.py", &[fault])?;
    run(&["triage", &target.pid.to_string()])
}

fn expect_class(finished: &Finished, classes: &[&str]) -> Outcome {
    let verdict = finished.stdout.lines().find_map(|line| line.strip_prefix("VERDICT"));
    let verdict = verdict.ok_or_else(|| format!("no verdict\n{finished}"))?.trim();
    let unsure = verdict.starts_with("UNSURE");
    match unsure || classes.iter().any(|class| verdict.starts_with(class)) {
        true => Ok(()),
        false => Err(format!("`{verdict}` for a fault of {classes:?}\n{finished}").into()),
    }
}
