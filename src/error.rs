//! One error type: what happened, why, and what to do. Its kind decides the exit code.

use std::fmt;
use std::io;

/// Result of every fallible function of the crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, as far as the caller can act on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Anything without a kind of its own: exit code 1.
    Failed,
    /// The command line asks for something that can't be: exit code 2.
    Usage,
    /// A right is missing: exit code 3.
    NotPermitted,
    /// This kernel or this target can't be worked with: exit code 4.
    Unsupported,
    /// The target does not exist or ended before anything was seen: exit code 5.
    TargetGone,
}

impl ErrorKind {
    /// Process exit code for this kind.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotPermitted => 3,
            Self::Unsupported => 4,
            Self::TargetGone => 5,
        }
    }
}

/// An error for a person: message, reasons from the outside in, hint.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    reasons: Vec<String>,
    hint: Option<String>,
    closed_pipe: bool,
}

impl Error {
    /// An error of `kind`. Messages are lower case, without a final period.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), reasons: Vec::new(), hint: None, closed_pipe: false }
    }

    /// An error without a kind of its own.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Failed, message)
    }

    /// A command line that can't be.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Usage, message)
    }

    /// A missing right.
    pub fn not_permitted(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotPermitted, message)
    }

    /// A kernel or target that can't be worked with.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }

    /// A target that is not there (any more).
    pub fn target_gone(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::TargetGone, message)
    }

    /// Adds one line that says why, printed below the message.
    #[must_use]
    pub fn because(mut self, reason: impl Into<String>) -> Self {
        self.reasons.push(reason.into());
        self
    }

    /// Sets the next step, printed after `hint:`.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Puts `message` in front; the old message becomes the first reason.
    #[must_use]
    pub fn context(mut self, message: impl Into<String>) -> Self {
        let inner = std::mem::replace(&mut self.message, message.into());
        self.reasons.insert(0, inner);
        self
    }

    /// What kind of error this is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What to do about it.
    pub fn next_step(&self) -> Option<String> {
        self.hint.clone()
    }

    /// The reader of our output closed its end, which is no failure of ours.
    pub fn is_closed_pipe(&self) -> bool {
        self.closed_pipe
    }

    /// The first line, without reasons and hint.
    pub fn message(&self) -> &str {
        &self.message
    }
}

/// `error: what`, then indented reasons, then `hint: next step`.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.message)?;
        for reason in &self.reasons {
            write!(f, "\n  {}", reason.replace('\n', "\n  "))?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\nhint: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

impl From<io::Error> for Error {
    fn from(err: io::Error) -> Self {
        let kind = match err.kind() {
            io::ErrorKind::PermissionDenied => ErrorKind::NotPermitted,
            _ => ErrorKind::Failed,
        };
        Self { closed_pipe: err.kind() == io::ErrorKind::BrokenPipe, ..Self::new(kind, err.to_string()) }
    }
}

/// Adds context to any result whose error can become an [`Error`].
pub trait Context<T> {
    /// Says what was being done when the error happened.
    fn context(self, message: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, message: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|err| err.into().context(message()))
    }
}
