//! Records become events here: stacks are resolved, waits paired with their ends, processes followed as they come and go.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::Monitor;
use super::follow::{Follower, Found, Seen};
use super::waits::{Pending, Waits};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{EndReason, Event, Process, Stack, StackStatus, Stamp};
use crate::probe::{self, NativeRecord, Plan, Probe, Record, StackCause, StackRecord};
use crate::symbol::{CodeKey, NativeStack, RecordString, SymbolRecord, Symbolizer};
use crate::target::python::layout::Layout;
use crate::target::{Target, clock, process, syscall};

/// __TASK_STOPPED and __TASK_TRACED, include/linux/sched.h.
const STOPPED: u32 = 4 | 8;
/// TASK_UNINTERRUPTIBLE, include/linux/sched.h.
const UNINTERRUPTIBLE: u32 = 2;

/// Receives finished events.
pub(super) type Emit<'a> = dyn FnMut(Event) -> Result<()> + 'a;

/// One followed process.
struct Followed {
    process: Process,
    layout: Option<Arc<Layout>>,
    /// Present for processes that were there from the start: tells them from a later owner of the same pid.
    target: Option<Target>,
    /// It stays followed when it is no Python: it may become one, or fork one.
    lasting: bool,
    /// Number of the request to look at it whose answer counts.
    ticket: u64,
    /// When the look began that found `layout`; 0 for one that was there from the start or came from the parent.
    looked_ns: u64,
    /// When the walker learned of `layout`: what it forked before began without.
    known_ns: u64,
}

/// The process that pylow starts.
struct Command {
    tgid: u32,
    /// Why it is no Python.
    other: Option<Error>,
}

/// The state of one run.
pub(super) struct Assembler {
    symbolizer: Symbolizer,
    followed: HashMap<u32, Followed>,
    ever: HashSet<u32>,
    /// Those that were gone at the last look for lost exit notices.
    vanished: HashSet<u32>,
    natives: HashMap<u32, NativeRecord>,
    waits: Waits,
    command: Option<Command>,
    /// Some process was a Python.
    any_python: bool,
    execed: bool,
    tid: Option<u32>,
    native: bool,
    /// Samples that came without the native stack that was asked for.
    native_missing: u64,
    fault_weight: u64,
    last_ns: u64,
}

impl Assembler {
    pub(super) fn new(plan: &Plan, targets: &[Target], started_ns: u64) -> Result<Self> {
        let mut assembler = Self {
            symbolizer: Symbolizer::new(),
            followed: HashMap::new(),
            ever: HashSet::new(),
            vanished: HashSet::new(),
            natives: HashMap::new(),
            waits: Waits::default(),
            command: None,
            any_python: targets.iter().any(|target| target.layout.is_some()),
            execed: false,
            tid: plan.tid,
            native: plan.native,
            native_missing: 0,
            fault_weight: plan.faults_every.unwrap_or(1).into(),
            last_ns: started_ns,
        };
        if plan.kernel {
            assembler.symbolizer.prepare_kernel();
        }
        for target in targets {
            assembler.follow(target.process.clone(), target.layout.clone(), Some(target.clone()));
            if let Some(followed) = assembler.followed.get_mut(&target.tgid) {
                followed.lasting = target.layout.is_none();
                followed.known_ns = 0;
            }
        }
        Ok(assembler)
    }

    fn follow(&mut self, process: Process, layout: Option<Arc<Layout>>, target: Option<Target>) {
        let tgid = process.tgid;
        self.symbolizer.add_process(tgid, layout.clone());
        if self.native {
            self.symbolizer.prepare_native(tgid);
        }
        self.ever.insert(tgid);
        let (lasting, ticket) = self.followed.get(&tgid).map_or((false, 0), |known| (known.lasting, known.ticket));
        let known_ns = clock::monotonic_ns();
        let followed = Followed { process, layout, target, lasting, ticket, looked_ns: 0, known_ns };
        self.followed.insert(tgid, followed);
    }

    /// `target` is the process that pylow starts; until its exec it is a copy of pylow.
    pub(super) fn started(&mut self, target: &Target) {
        self.symbolizer.forget(target.tgid);
        self.symbolizer.add_process(target.tgid, None);
        self.command = Some(Command { tgid: target.tgid, other: None });
    }

    /// Asks to look at the processes that are no Python yet.
    pub(super) fn look_at_unknown(&mut self, follower: &Follower) {
        for (tgid, followed) in &mut self.followed {
            if followed.layout.is_none() {
                followed.ticket = follower.look_at(*tgid);
            }
        }
    }

    /// Keeps that some process was a Python, also when it has ended since.
    pub(super) fn note_python(&mut self, found: &Found) {
        self.any_python |= matches!(found.seen, Seen::Python(_) | Seen::Ended { python: true });
    }

    /// The error for a command that neither was a Python nor started one.
    pub(super) fn require_python(&mut self, command: &str, children: bool) -> Result<()> {
        if self.any_python {
            return Ok(());
        }
        let other = self.command.as_mut().and_then(|command| command.other.take());
        let err = match other {
            Some(err) => err.context(format!("`{command}` is no Python process that can be looked at")),
            None => Error::target_gone(format!("no Python was seen in `{command}` until it ended")),
        };
        Err(match children {
            true => err.hint("none was seen in the processes it started either: does it start a Python at all?"),
            false => err.hint("if it starts Python processes of its own, follow them by --children"),
        })
    }

    /// What keeps names from being found, for the reader of the report.
    pub(super) fn warn(&self, monitor: &mut dyn Monitor) {
        if let Some(problem) = self.symbolizer.kernel_problem() {
            monitor.warn(&format!("kernel functions are shown as [kernel]: {}", problem.message()));
        }
    }

    /// Stacks that show Python frames only since their native stack was lost.
    pub(super) fn native_missing(&self) -> u64 {
        self.native_missing
    }

    /// Every process that was followed at some time.
    pub(super) fn tgids(&self) -> Vec<u32> {
        let mut tgids: Vec<u32> = self.ever.iter().copied().collect();
        tgids.sort_unstable();
        tgids
    }

    /// Threads that wait already get a pending wait, with the stack read from outside. See `Wait::before`.
    pub(super) fn note_blocked(
        &mut self,
        probe: &Probe<'_>,
        targets: &[Target],
        since_ns: u64,
        monitor: &mut dyn Monitor,
    ) -> Result<()> {
        for target in targets {
            // Marked before they are looked at: a thread that runs on in between then reports the end of its wait.
            let mut tids = process::threads(target.tgid)?;
            tids.retain(|tid| self.tid.is_none_or(|only| only == *tid));
            probe.already_blocked(&tids, since_ns)?;
            match super::waits::blocked_threads(target, since_ns) {
                Ok(blocked) => {
                    blocked.into_iter().filter(|pending| tids.contains(&pending.at.tid)).for_each(|pending| {
                        self.waits.begin(pending);
                    })
                }
                Err(err) if err.kind() == ErrorKind::TargetGone => {}
                Err(err) => {
                    monitor.warn(&format!("waits that began before the attach are not seen: {}", err.message()));
                }
            }
        }
        Ok(())
    }

    /// Takes in one batch of records.
    pub(super) fn take(
        &mut self,
        batch: Vec<Record>,
        probe: &Probe<'_>,
        follower: &Follower,
        emit: &mut Emit<'_>,
    ) -> Result<()> {
        for record in batch {
            self.record(record, probe, follower, emit)?;
        }
        probe.unmark_known(&keys(self.symbolizer.take_removed()))?;
        probe.mark_known(&keys(self.symbolizer.take_new()))
    }

    fn record(&mut self, record: Record, probe: &Probe<'_>, follower: &Follower, emit: &mut Emit<'_>) -> Result<()> {
        match record {
            Record::Symbol(symbol) => self.symbolizer.symbol_record(&symbol_record(&symbol)),
            Record::Native(native) => {
                self.natives.insert(native.at.tid, native);
            }
            Record::Stack(stack) => self.stack(&stack, emit)?,
            Record::Resume { at, blocked_at_ns, blocked_ns, runqueue_ns } => {
                self.last_ns = self.last_ns.max(at.ktime_ns);
                if let Some(wait) = self.waits.end(at.tid, blocked_at_ns, blocked_ns, runqueue_ns) {
                    emit(Event::Wait(wait))?;
                }
            }
            Record::Fork { at, child } => self.forked(at, child, follower, emit)?,
            Record::Exec { at } => self.execed(at, probe, follower)?,
            Record::Exit { at } => self.exited(at, emit)?,
        }
        Ok(())
    }

    fn stack(&mut self, record: &StackRecord, emit: &mut Emit<'_>) -> Result<()> {
        let at = record.at;
        self.last_ns = self.last_ns.max(at.ktime_ns);
        let native = self.natives.remove(&at.tid).filter(|native| native.at.ktime_ns == at.ktime_ns);
        self.native_missing += u64::from(self.native && native.is_none());
        let stack = self.resolve(record, native);
        match record.cause {
            StackCause::Sample => {
                let (class, module) = self.symbolizer.class_of(at.tgid, record.user_ip, stack.status);
                emit(Event::Sample { at, class, module, stack })
            }
            StackCause::Syscall { number } => emit(Event::Syscall { at, name: syscall::name(number), stack }),
            StackCause::Function => emit(Event::Function { at, stack }),
            StackCause::Fault => emit(Event::Fault { at, address: record.args[0], weight: self.fault_weight, stack }),
            StackCause::Block { state } => {
                let gil = record.syscall.is_some_and(syscall::is_futex) && self.in_gil(at.tgid, record.args[0]);
                self.waits.begin(Pending {
                    at,
                    before: false,
                    stopped: state & STOPPED != 0,
                    uninterruptible: state & UNINTERRUPTIBLE != 0,
                    syscall: record.syscall.map(syscall::name),
                    args: record.args,
                    gil,
                    stack,
                });
                Ok(())
            }
        }
    }

    fn resolve(&mut self, record: &StackRecord, native: Option<NativeRecord>) -> Arc<Stack> {
        let native = native.as_ref().map(|native| NativeStack {
            ip: native.ip,
            sp: native.sp,
            bp: native.bp,
            lr: native.lr,
            bytes: &native.stack,
        });
        self.symbolizer.stack(
            record.at.tgid,
            &record.python,
            &record.kernel,
            native.as_ref(),
            StackStatus(record.status),
        )
    }

    fn in_gil(&self, tgid: u32, address: u64) -> bool {
        let layout = self.followed.get(&tgid).and_then(|followed| followed.layout.as_ref());
        layout.is_some_and(|layout| layout.gils.iter().any(|(start, end)| (*start..*end).contains(&address)))
    }

    fn execed(&mut self, at: Stamp, probe: &Probe<'_>, follower: &Follower) -> Result<()> {
        let tgid = at.tgid;
        let Some(followed) = self.followed.get_mut(&tgid) else { return Ok(()) };
        // Records are read some time after they were made: what was found may be the new program already.
        if followed.looked_ns > at.ktime_ns {
            return Ok(());
        }
        if let Some(command) = self.command.as_mut().filter(|command| command.tgid == tgid) {
            command.other = None;
        }
        followed.layout = None;
        followed.ticket = follower.look_at(tgid);
        self.symbolizer.forget(tgid);
        self.symbolizer.add_process(tgid, None);
        self.waits.forget(tgid);
        // An answer about the old program may have come in since its end.
        probe.renew(tgid, None)
    }

    fn forked(&mut self, at: Stamp, child: u32, follower: &Follower, emit: &mut Emit<'_>) -> Result<()> {
        let Some(parent) = self.followed.get(&at.tgid) else { return Ok(()) };
        // The child may have ended already; then it is still what its parent was.
        // A fresh fork is what its parent was; what it becomes by exec is looked at then.
        let process = Process { tgid: child, threads: 1, ..parent.process.clone() };
        let layout = parent.layout.clone();
        let walked = layout.is_some() && parent.known_ns < at.ktime_ns;
        self.follow(process.clone(), layout, None);
        if let Some(followed) = self.followed.get_mut(&child) {
            followed.lasting = true;
            if !walked {
                followed.ticket = follower.look_at(child);
            }
        }
        emit(Event::Appeared { at, process })
    }

    fn exited(&mut self, at: Stamp, emit: &mut Emit<'_>) -> Result<()> {
        if self.followed.remove(&at.tgid).is_none() {
            return Ok(());
        }
        self.symbolizer.forget(at.tgid);
        self.waits.forget(at.tgid);
        emit(Event::Exited { at })
    }

    /// A process that appeared or execed was looked at: it is Python, or something else.
    pub(super) fn found(
        &mut self,
        found: Found,
        probe: &Probe<'_>,
        monitor: &mut dyn Monitor,
        emit: &mut Emit<'_>,
    ) -> Result<()> {
        self.note_python(&found);
        let tgid = found.tgid;
        let Some(followed) = self.followed.get(&tgid).filter(|followed| followed.ticket == found.ticket) else {
            return Ok(());
        };
        let at = Stamp { ktime_ns: self.last_ns, tgid, tid: tgid, cpu: 0 };
        match found.seen {
            Seen::Python(target) => {
                probe.renew(tgid, target.layout.as_deref())?;
                let process = target.process.clone();
                self.follow(process.clone(), target.layout.clone(), Some(target));
                if let Some(followed) = self.followed.get_mut(&tgid) {
                    followed.looked_ns = found.looked_ns;
                }
                emit(Event::Appeared { at, process })
            }
            Seen::Other(err) if followed.lasting => {
                if let Some(command) = self.command.as_mut().filter(|command| command.tgid == tgid) {
                    monitor.warn(&format!("{}, but is followed in case it becomes one", err.message()));
                    command.other = Some(err);
                }
                Ok(())
            }
            Seen::Other(err) => {
                probe.unfollow(tgid)?;
                monitor.warn(&format!("process {tgid} became another program: {}", err.message()));
                self.execed = true;
                self.exited(at, emit)
            }
            // Its exit is told by a record, or seen by `drop_vanished`.
            Seen::Ended { .. } => Ok(()),
        }
    }

    /// Ends processes whose exit notice was lost: gone now and at the look before. Of others the notice, and the events
    /// ahead of it that still need the process, are on their way.
    pub(super) fn drop_vanished(&mut self, emit: &mut Emit<'_>) -> Result<()> {
        let gone: HashSet<u32> = self
            .followed
            .iter()
            .filter(|(tgid, followed)| match &followed.target {
                Some(target) => !target.still_same(),
                None => process::status(**tgid).is_err(),
            })
            .map(|(tgid, _)| *tgid)
            .collect();
        let before = std::mem::replace(&mut self.vanished, gone);
        let gone: Vec<u32> = self.vanished.intersection(&before).copied().collect();
        for tgid in gone {
            self.exited(Stamp { ktime_ns: self.last_ns, tgid, tid: tgid, cpu: 0 }, emit)?;
        }
        Ok(())
    }

    /// Why the run is over, when nobody is left.
    pub(super) fn over(&self) -> Option<EndReason> {
        self.followed.is_empty().then_some(if self.execed { EndReason::TargetExeced } else { EndReason::TargetExited })
    }

    /// Emits the waits that did not end.
    pub(super) fn finish(&mut self, now_ns: u64, emit: &mut Emit<'_>) -> Result<()> {
        for wait in self.waits.still_open(now_ns) {
            emit(Event::Wait(wait))?;
        }
        Ok(())
    }
}

/// The plain values of a symbol record.
fn symbol_record(record: &probe::SymbolRecord) -> SymbolRecord<'_> {
    fn string(raw: &probe::RawString) -> RecordString<'_> {
        RecordString { state: raw.state, length: raw.length, bytes: &raw.bytes }
    }
    SymbolRecord {
        key: CodeKey { tgid: record.tgid, code: record.code, hash: record.hash },
        first_line: record.first_line,
        name: string(&record.name),
        file: string(&record.file),
        lines: &record.lines,
        lines_length: record.lines_bytes,
    }
}

fn keys(symbols: Vec<CodeKey>) -> Vec<probe::SymbolKey> {
    symbols.into_iter().map(|CodeKey { tgid, code, hash }| probe::SymbolKey { tgid, code, hash }).collect()
}
