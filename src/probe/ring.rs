//! The ring's reader: a thread of its own, so that slow work on events never lets the ring run full.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::Sender;
use libbpf_rs::{MapHandle, RingBufferBuilder};

use super::decode::{Record, decode};
use crate::error::{Error, Result};

/// Records are submitted without wake-ups (each would preempt the target), so the reader looks this often.
const POLL: Duration = Duration::from_millis(50);

/// Reads `events` into `batches` until `stop` is set and the ring is empty. Undecodable records are counted.
pub(super) fn read(
    events: &MapHandle,
    batches: &Sender<Vec<Record>>,
    stop: &AtomicBool,
    undecodable: &AtomicU64,
) -> Result<()> {
    let mut batch = Vec::new();
    let pending = std::sync::Mutex::new(&mut batch);
    let mut builder = RingBufferBuilder::new();
    builder
        .add(events, |bytes| {
            match (decode(bytes), pending.lock()) {
                (Ok(record), Ok(mut pending)) => pending.push(record),
                _ => {
                    undecodable.fetch_add(1, Ordering::Relaxed);
                }
            }
            0
        })
        .map_err(|err| Error::failed(format!("cannot read the ring: {err}")))?;
    let ring = builder.build().map_err(|err| Error::failed(format!("cannot read the ring: {err}")))?;
    loop {
        // Set before the ring is drained: everything the detached programs sent is then in it.
        let last = stop.load(Ordering::Acquire);
        // EINTR and the time-out are the same to us: look into the ring.
        ring.poll_raw(if last { Duration::ZERO } else { POLL });
        ring.consume_raw();
        if let Ok(mut pending) = pending.lock() {
            let records = std::mem::take(&mut **pending);
            if !records.is_empty() && batches.send(records).is_err() {
                return Ok(());
            }
        }
        if last {
            return Ok(());
        }
    }
}
