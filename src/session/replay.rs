//! Recorded events instead of a live process.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use super::{Consumer, Monitor, Timing};
use crate::error::{Context, Result};
use crate::event::Event;
use crate::event::record::{Reader, Recorded};

/// Feeds the events of `path` to `consumer`.
pub fn replay(path: &Path, monitor: &mut dyn Monitor, consumer: &mut dyn Consumer) -> Result<()> {
    let file = File::open(path).context(|| format!("cannot read {}", path.display()))?;
    for recorded in Reader::new(BufReader::new(file)) {
        match recorded.context(|| format!("cannot replay {}", path.display()))? {
            Recorded::Event(event) => {
                if let Event::Started(started) = &event {
                    consumer.attaching(&started.processes, Timing { duration: None })?;
                }
                consumer.event(&event)?;
            }
            Recorded::Cut { line } => monitor.warn(&format!(
                "{} stops at line {line}: its recorder was killed; the report shows what was written until then",
                path.display()
            )),
        }
    }
    monitor.done();
    Ok(())
}
