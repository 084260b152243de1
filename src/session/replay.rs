//! Recorded events instead of a live process.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use super::{Consumer, Monitor, Timing};
use crate::error::{Context, Error, Result};
use crate::event::record::{Reader, Recorded};
use crate::event::{Event, Observed};

/// Feeds the events of `path` to `consumer`, if the record has what `wanted` says.
pub fn replay(path: &Path, wanted: &Observed, monitor: &mut dyn Monitor, consumer: &mut dyn Consumer) -> Result<()> {
    let file = File::open(path).context(|| format!("cannot read {}", path.display()))?;
    for recorded in Reader::new(BufReader::new(file)) {
        match recorded.context(|| format!("cannot replay {}", path.display()))? {
            Recorded::Event(event) => {
                if let Event::Started(started) = &event {
                    if let Some(lacking) = started.observed.lacks(wanted) {
                        return Err(Error::usage(format!("{} has no {lacking}", path.display()))
                            .because("it was recorded by a command, or with flags, that did not look for them")
                            .hint("replay it with the command and flags that recorded it"));
                    }
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
