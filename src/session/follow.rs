//! Looks at processes that appeared or became another program, on a thread of its own: a young Python takes a while until
//! it can be walked, and events must not wait for it. No process waits for another one either: each is looked at once
//! and, while it can't be walked, a little later again.

use std::cell::Cell;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};

use crate::error::{Error, ErrorKind};
use crate::target::{self, Look, START_UP, Target, clock};

/// Pauses between two looks at a process: short while it starts, long when it seems to be something else.
const SHORTEST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// What was found of one process.
pub(super) struct Found {
    pub(super) tgid: u32,
    /// Of the request: a later one makes this answer void.
    pub(super) ticket: u64,
    /// When the look began that saw this, CLOCK_MONOTONIC nanoseconds.
    pub(super) looked_ns: u64,
    pub(super) seen: Seen,
}

/// What a process is.
pub(super) enum Seen {
    /// A Python that can be walked.
    Python(Target),
    /// Not one, and why.
    Other(Error),
    /// It ended before it could be walked; whether it had begun to be a Python.
    Ended { python: bool },
}

/// The thread's two ends.
pub(super) struct Follower {
    requests: Sender<Request>,
    results: Receiver<Found>,
    tickets: Cell<u64>,
}

impl Follower {
    pub(super) fn start() -> Self {
        let (requests, wanted) = unbounded();
        let (found, results) = unbounded();
        thread::spawn(move || look_at_all(&wanted, &found));
        Self { requests, results, tickets: Cell::new(0) }
    }

    /// Asks to look at a process; an earlier request for it is void. Gives the number that the answer will have.
    pub(super) fn look_at(&self, tgid: u32) -> u64 {
        let ticket = self.tickets.get() + 1;
        self.tickets.set(ticket);
        let now = Instant::now();
        // Only fails when the thread panicked, which its silence then shows.
        let _ = self.requests.send(Request { tgid, ticket, asked: now, next: now, python: false });
        ticket
    }

    pub(super) fn results(&self) -> &Receiver<Found> {
        &self.results
    }

    /// No more requests: what is known of the processes asked for.
    pub(super) fn finish(self) -> impl Iterator<Item = Found> {
        drop(self.requests);
        self.results.into_iter()
    }
}

/// A process to look at.
struct Request {
    tgid: u32,
    ticket: u64,
    asked: Instant,
    next: Instant,
    /// An interpreter was seen that could not be walked yet.
    python: bool,
}

fn look_at_all(wanted: &Receiver<Request>, found: &Sender<Found>) {
    let mut pending: Vec<Request> = Vec::new();
    loop {
        let next = pending.iter().map(|request| request.next).min();
        let received = match next {
            Some(next) => wanted.recv_deadline(next),
            None => wanted.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match received {
            Ok(request) => {
                pending.retain(|other| other.tgid != request.tgid);
                pending.push(request);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        let now = Instant::now();
        pending.retain_mut(|request| {
            let looked_ns = clock::monotonic_ns();
            let seen = if request.next <= now { request.look() } else { None };
            let settled = seen.is_some();
            if let Some(seen) = seen {
                // Only fails when the run is over.
                let _ = found.send(Found { tgid: request.tgid, ticket: request.ticket, looked_ns, seen });
            }
            !settled
        });
    }
    let looked_ns = clock::monotonic_ns();
    for Request { tgid, ticket, python, .. } in pending {
        let _ = found.send(Found { tgid, ticket, looked_ns, seen: Seen::Ended { python } });
    }
}

impl Request {
    /// Looks once; None when it is worth another look.
    fn look(&mut self) -> Option<Seen> {
        let waited = self.asked.elapsed();
        let over = waited >= START_UP;
        self.next = Instant::now() + (waited / 8).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
        match Target::look(self.tgid) {
            Ok(Look::Python(target)) => Some(Seen::Python(target)),
            Ok(Look::Unsettled(target)) => {
                self.python = true;
                over.then_some(Seen::Python(target))
            }
            Ok(Look::Young(why)) => {
                self.python = true;
                over.then(|| Seen::Other(target::not_up(self.tgid, why, START_UP)))
            }
            Ok(Look::NotPython) => over.then(|| Seen::Other(target::not_python(self.tgid))),
            // Half mapped, many an interpreter can't be read.
            Ok(Look::Failed(err)) => over.then_some(Seen::Other(err)),
            Err(err) if err.kind() == ErrorKind::TargetGone => Some(Seen::Ended { python: self.python }),
            Err(err) => Some(Seen::Other(err)),
        }
    }
}
