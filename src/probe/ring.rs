//! The ring's reader: a thread of its own, so that slow work on events never lets the ring run full.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam_channel::Sender;
use libbpf_rs::{MapHandle, RingBufferBuilder};

use super::decode::{Record, decode};
use crate::error::{Error, Result};

/// Records are submitted without wake-ups (each would preempt the target), so the reader looks this often.
const POLL: Duration = Duration::from_millis(50);

/// Reads the ring of one run.
pub struct Reader {
    events: MapHandle,
    stop: Arc<AtomicBool>,
    undecodable: Arc<AtomicU64>,
}

/// Ends a [`Reader`] from another thread.
#[derive(Clone, Debug)]
pub struct Stopper(Arc<AtomicBool>);

impl Stopper {
    /// The reader returns after one more look into the ring. Detach first: then nothing is missed.
    pub fn stop(&self) {
        self.0.store(true, Ordering::Release);
    }
}

impl Reader {
    pub(super) fn new(events: MapHandle, undecodable: Arc<AtomicU64>) -> Self {
        Self { events, stop: Arc::default(), undecodable }
    }

    /// What ends this reader.
    pub fn stopper(&self) -> Stopper {
        Stopper(Arc::clone(&self.stop))
    }

    /// Decodes records into `batches` until stopped. Undecodable records are counted.
    pub fn read(&self, batches: &Sender<Vec<Record>>) -> Result<()> {
        let batch = Mutex::new(Vec::new());
        let mut builder = RingBufferBuilder::new();
        let take = |bytes: &[u8]| {
            match (decode(bytes), batch.lock()) {
                (Ok(record), Ok(mut batch)) => batch.push(record),
                _ => {
                    self.undecodable.fetch_add(1, Ordering::Relaxed);
                }
            }
            0
        };
        builder.add(&self.events, take).map_err(|err| Error::failed(format!("cannot read the ring: {err}")))?;
        let ring = builder.build().map_err(|err| Error::failed(format!("cannot read the ring: {err}")))?;
        loop {
            // Read before the last look: what the detached programs sent is then in the ring.
            let last = self.stop.load(Ordering::Acquire);
            // An interrupted or timed-out poll means the same as a successful one: look into the ring.
            ring.poll_raw(if last { Duration::ZERO } else { POLL });
            ring.consume_raw();
            let records = batch.lock().map(|mut batch| std::mem::take(&mut *batch)).unwrap_or_default();
            if !records.is_empty() && batches.send(records).is_err() {
                return Ok(());
            }
            if last {
                return Ok(());
            }
        }
    }
}
