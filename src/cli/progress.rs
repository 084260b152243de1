//! Progress and warnings on stderr; progress only when it is a terminal.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use crate::session::{Monitor, Status};
use crate::units;

/// Turns of the spinner.
const SPINNER: [char; 4] = ['|', '/', '-', '\\'];

/// Writes to stderr.
pub(super) struct Progress {
    show: bool,
    turn: usize,
    shown: bool,
}

impl Progress {
    pub(super) fn new(quiet: bool) -> Self {
        Self { show: !quiet && io::stderr().is_terminal(), turn: 0, shown: false }
    }

    fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            // A terminal that went away has nobody to tell.
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

impl Monitor for Progress {
    fn progress(&mut self, status: &Status) {
        if !self.show {
            return;
        }
        self.turn = (self.turn + 1) % SPINNER.len();
        let seconds = |time: Duration| format!("{:.0}s", time.as_secs_f64());
        let total = status.total.map_or(String::new(), |total| format!(" of {}", seconds(total)));
        let text = format!(
            "{} {}{total}, {} events",
            SPINNER[self.turn],
            seconds(status.elapsed),
            units::count(status.events)
        );
        let _ = write!(io::stderr(), "\r\x1b[K{text}");
        let _ = io::stderr().flush();
        self.shown = true;
    }

    fn done(&mut self) {
        self.clear();
    }

    fn warn(&mut self, text: &str) {
        self.clear();
        let _ = writeln!(io::stderr(), "warning: {text}");
    }
}

/// Columns of the terminal that stdout is.
pub(super) fn terminal_width() -> Option<usize> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the call writes a winsize to the pointer, which is one.
    let result = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &raw mut size) };
    (result == 0 && size.ws_col > 0).then_some(usize::from(size.ws_col))
}
