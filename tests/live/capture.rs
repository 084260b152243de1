//! A recording replays to the same report.

use tempfile::TempDir;

use crate::interpreter::Interpreter;
use crate::pylow::{run, text};
use crate::target::Target;
use crate::{Outcome, Suite};

/// Commands whose report is folded from events.
const COMMANDS: &[&str] = &["pycpu", "cpu-bound", "syscall", "triage"];

pub(crate) fn add_to(suite: &mut Suite) {
    suite.once("replay_equals_record", replay_equals_record);
    suite.once("replay_equals_record_flame", replay_equals_record_flame);
}

fn replay_equals_record(interpreter: &Interpreter) -> Outcome {
    let directory = TempDir::new()?;
    let target = Target::start(interpreter, "busy.py", &[])?;
    let pid = target.pid.to_string();
    for command in COMMANDS {
        let file = directory.path().join(format!("{command}.events"));
        let recorded = run(&[command, &pid, "--duration", "1", "--record", text(&file)])?;
        let replayed = run(&[command, "--replay", text(&file)])?;
        let (before, after) = (report(&recorded.stdout), report(&replayed.stdout));
        if before != after || before.is_empty() {
            let odd = before.iter().zip(&after).find(|(before, after)| before != after);
            return Err(format!("{command}: {odd:#?}\nrecorded\n{recorded}\nreplayed\n{replayed}").into());
        }
    }
    Ok(())
}

/// A flame graph is a file: the same stacks with the same weights.
fn replay_equals_record_flame(interpreter: &Interpreter) -> Outcome {
    let directory = TempDir::new()?;
    let path = |name: &str| directory.path().join(name);
    let (events, live, again) = (path("events"), path("live.folded"), path("again.folded"));
    let target = Target::start(interpreter, "busy.py", &[])?;
    let pid = target.pid.to_string();
    run(&["flame", &pid, "--duration", "1", "--record", text(&events), "--output", text(&live)])?;
    run(&["flame", "--replay", text(&events), "--output", text(&again)])?;
    let (live, again) = (std::fs::read_to_string(&live)?, std::fs::read_to_string(&again)?);
    match live == again && !live.is_empty() {
        true => Ok(()),
        false => Err(format!("recorded\n{live}\nreplayed\n{again}").into()),
    }
}

/// Lines of the report without its banner, which says where it is from.
fn report(stdout: &str) -> Vec<&str> {
    let banner = ["Attaching", "✓ Attached", "Replaying"];
    stdout.lines().filter(|line| !banner.iter().any(|start| line.starts_with(start))).collect()
}
