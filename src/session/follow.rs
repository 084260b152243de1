//! Looks at processes that appeared or became another program, on a thread of its own: a young Python takes a while until
//! it can be walked, and events must not wait for it.

use std::thread;

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::error::Result;
use crate::target::Target;

/// What was found of one process.
pub(super) struct Found {
    pub(super) tgid: u32,
    pub(super) target: Result<Target>,
}

/// The thread's two ends.
pub(super) struct Follower {
    requests: Sender<u32>,
    results: Receiver<Found>,
}

impl Follower {
    pub(super) fn start() -> Self {
        let (requests, wanted) = unbounded::<u32>();
        let (found, results) = unbounded();
        thread::spawn(move || {
            for tgid in wanted {
                if found.send(Found { tgid, target: Target::open(tgid) }).is_err() {
                    return;
                }
            }
        });
        Self { requests, results }
    }

    /// Asks to look at a process.
    pub(super) fn look_at(&self, tgid: u32) {
        // Only fails when the thread panicked, which its silence then shows.
        let _ = self.requests.send(tgid);
    }

    pub(super) fn results(&self) -> &Receiver<Found> {
        &self.results
    }
}
