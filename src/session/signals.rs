//! Ctrl-C ends collection and prints the report; a second one ends the program.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crossbeam_channel::{Receiver, bounded};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::iterator::Signals;

use crate::error::{Context, Result};

/// Exit code of the second Ctrl-C, as shells report it.
const INTERRUPTED: i32 = 130;

/// One message for each request to end.
pub(super) fn interrupts() -> Result<Receiver<()>> {
    let (sender, receiver) = bounded(4);
    let once = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        // Order matters: the first signal finds the flag unset, sets it, and only the second one exits.
        flag::register_conditional_shutdown(signal, INTERRUPTED, Arc::clone(&once))
            .context(|| "cannot handle signals".to_owned())?;
        flag::register(signal, Arc::clone(&once)).context(|| "cannot handle signals".to_owned())?;
    }
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context(|| "cannot handle signals".to_owned())?;
    std::thread::spawn(move || {
        for _ in signals.forever() {
            // A full channel already holds the request.
            let _ = sender.try_send(());
        }
    });
    Ok(receiver)
}
