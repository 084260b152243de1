//! `--function` and `--file`: only events whose stack passes through a place reach the fold.

use std::io;

use super::Fold;
use super::args::FilterArgs;
use crate::error::Result;
use crate::event::{Event, Stack};
use crate::report::Sink;

/// A fold behind a filter.
pub(super) struct Filtered {
    inner: Box<dyn Fold>,
    filter: FilterArgs,
}

impl Filtered {
    pub(super) fn new(inner: Box<dyn Fold>, filter: &FilterArgs) -> Self {
        Self { inner, filter: filter.clone() }
    }

    fn passes(&self, event: &Event) -> bool {
        event.stack().is_none_or(|stack| self.stack_passes(stack))
    }

    fn stack_passes(&self, stack: &Stack) -> bool {
        let function = self.filter.function.as_deref();
        let file = self.filter.file.as_deref();
        if function.is_none() && file.is_none() {
            return true;
        }
        stack.frames.iter().any(|frame| {
            function.is_none_or(|name| is_function(&frame.function, name))
                && file.is_none_or(|path| frame.file.as_ref().is_some_and(|file| file.ends_with(path)))
        })
    }
}

/// `execute` and `Query.execute` both name `Query.execute`.
fn is_function(qualified: &str, name: &str) -> bool {
    qualified == name || qualified.strip_suffix(name).is_some_and(|class| class.ends_with('.'))
}

impl Fold for Filtered {
    fn prepare(&mut self) -> Result<()> {
        self.inner.prepare()
    }

    fn event(&mut self, event: &Event, sink: &mut dyn Sink) -> io::Result<()> {
        if self.passes(event) { self.inner.event(event, sink) } else { Ok(()) }
    }

    fn finish(&mut self, sink: &mut dyn Sink) -> Result<()> {
        self.inner.finish(sink)
    }
}

#[cfg(test)]
mod tests {
    use super::is_function;

    #[test]
    fn names_match_plain_and_qualified() {
        assert!(is_function("Query.execute", "execute"));
        assert!(is_function("Query.execute", "Query.execute"));
        assert!(!is_function("Query.reexecute", "execute"));
        assert!(!is_function("execute_all", "execute"));
    }
}
