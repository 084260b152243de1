//! `pylow dump PID`: every thread of a process at this moment, without stopping it.

mod native;

use clap::Args;

use crate::command::args::TargetArgs;
use crate::command::{Direct, Env, Named};
use crate::error::{Error, Result};
use crate::inspect::{self, LocalValue, PythonFrame, SnapshotOptions, ThreadSnapshot};
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
    /// Native frames too: C extensions, the interpreter's callees, libc
    #[arg(long)]
    native: bool,
    /// Only this thread (id as `ps -L` shows it)
    #[arg(long, value_name = "TID", help_heading = "Filters")]
    tid: Option<u32>,
}

impl Named for Dump {
    const NAME: &'static str = "dump";
    const ABOUT: &'static str = "Show every thread's stack, what it waits for and who holds the GIL, at this moment";
    const EXAMPLES: &'static [(&'static str, &'static str)] = &[
        ("pylow dump 4821", "stacks of all threads; the process is not stopped"),
        ("pylow dump 4821 --locals", "with local variables"),
        ("pylow dump 4821 --native", "with the C library, extension modules and kernel functions it waits in"),
    ];
}

impl Direct for Dump {
    fn run(&self, env: &mut Env<'_>) -> Result<()> {
        for target in session::targets(&self.target.required()?)? {
            let target = target?;
            let options = SnapshotOptions { locals: self.locals };
            let mut threads: Vec<Thread> = match self.native {
                true => native::threads(&target, options, env.btf.as_deref())?,
                false => inspect::snapshot(&target, options)?.into_iter().map(Thread::from).collect(),
            };
            if let Some(tid) = self.tid {
                threads.retain(|thread| thread.tid == tid);
                if threads.is_empty() {
                    return Err(Error::usage(format!("the target has no thread {tid}"))
                        .hint(format!("`pylow dump {}` lists its threads", target.tgid)));
                }
            }
            env.sink.block(Block::Threads(Threads { title: title(&target, threads.len()), threads }))?;
        }
        Ok(())
    }
}

fn title(target: &Target, threads: usize) -> Title {
    let python = target.process.python.as_deref().unwrap_or("unknown");
    let count = units::plural(threads as u64, "thread");
    Title::section(format!("PID {} CPython {python} {}: {count}", target.tgid, target.process.command))
}

impl From<ThreadSnapshot> for Thread {
    fn from(thread: ThreadSnapshot) -> Self {
        Self {
            tid: thread.tid,
            name: thread.name,
            state: thread.state.to_string(),
            holds_gil: thread.holds_gil,
            frames: thread.frames.into_iter().map(ThreadFrame::from).collect(),
            remark: thread.remark,
        }
    }
}

impl From<PythonFrame> for ThreadFrame {
    fn from(python: PythonFrame) -> Self {
        let local = |local: LocalValue| Local { name: local.name, type_name: local.type_name, value: local.value };
        Self { frame: python.frame, locals: python.locals.map(|locals| locals.into_iter().map(local).collect()) }
    }
}
