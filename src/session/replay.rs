//! Recorded events instead of a live process.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use super::{Consumer, Monitor, Timing};
use crate::error::{Context, Result};
use crate::event::Event;
use crate::event::record::Reader;

/// Feeds the events of `path` to `consumer`.
pub fn replay(path: &Path, monitor: &mut dyn Monitor, consumer: &mut dyn Consumer) -> Result<()> {
    let file = File::open(path).context(|| format!("cannot read {}", path.display()))?;
    let reader = Reader::new(BufReader::new(file)).map_err(|err| err.context(format!("cannot replay {}", path.display())))?;
    let mut ended = false;
    for event in reader {
        let event = event.map_err(|err| err.context(format!("cannot replay {}", path.display())))?;
        if let Event::Started(started) = &event {
            consumer.attaching(&started.processes, Timing { duration: None })?;
        }
        ended |= matches!(event, Event::Ended(_));
        consumer.event(&event)?;
    }
    if !ended {
        monitor.warn(&format!("{} has no end: its recorder was killed, the report shows what was written until then", path.display()));
    }
    monitor.done();
    Ok(())
}
