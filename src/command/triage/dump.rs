//! `pylow dump PID`: every thread of a process at this moment, without stopping it.

use clap::Args;

use crate::command::args::TargetArgs;
use crate::command::{Direct, Env, Named};
use crate::error::Result;
use crate::inspect::{self, SnapshotOptions, ThreadSnapshot};
use crate::report::{Block, Local, Thread, ThreadFrame, Threads, Title};
use crate::session;
use crate::target::Target;
use crate::units;

/// Arguments.
#[derive(Args)]
pub struct Dump {
    #[command(flatten)]
    target: TargetArgs,
    /// Local variables of every frame: name, type, short value; names that look like secrets are masked
    #[arg(long)]
    locals: bool,
}

impl Named for Dump {
    const NAME: &'static str = "dump";
    const ABOUT: &'static str = "Show every thread's stack, what it waits for and who holds the GIL, at this moment";
    const EXAMPLES: &'static [(&'static str, &'static str)] = &[
        ("pylow dump 4821", "stacks of all threads; the process is not stopped"),
        ("pylow dump 4821 --locals", "with local variables"),
    ];
}

impl Direct for Dump {
    fn run(&self, env: &mut Env<'_>) -> Result<()> {
        for target in session::targets(&self.target.required()?)? {
            let target = target?;
            env.sink.block(Block::Threads(threads(&target, self.locals)?))?;
        }
        Ok(())
    }
}

fn threads(target: &Target, locals: bool) -> Result<Threads> {
    let threads: Vec<Thread> = inspect::snapshot(target, SnapshotOptions { locals })?.into_iter().map(thread).collect();
    let python = target.process.python.as_deref().unwrap_or("unknown");
    let count = units::plural(threads.len() as u64, "thread");
    let title = format!("PID {} CPython {python} {}: {count}", target.tgid, target.process.command);
    Ok(Threads { title: Title::section(title), threads })
}

fn thread(thread: ThreadSnapshot) -> Thread {
    let frames = thread.frames.into_iter().map(|(frame, locals)| {
        let local =
            |local: inspect::LocalValue| Local { name: local.name, type_name: local.type_name, value: local.value };
        ThreadFrame { frame, locals: locals.map(|locals| locals.into_iter().map(local).collect()) }
    });
    Thread {
        tid: thread.tid,
        name: thread.name,
        state: thread.state.to_string(),
        holds_gil: thread.holds_gil,
        frames: frames.collect(),
        remark: thread.remark,
    }
}
