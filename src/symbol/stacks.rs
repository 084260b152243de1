//! Equal stacks are one stack: folds compare pointers, and most stacks need no resolving at all.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::event::Stack;

/// Words of keys kept (16 MB), and frames of stacks kept that nobody else holds (about 10 MB).
const WORD_LIMIT: usize = 2_000_000;
const FRAME_LIMIT: usize = 200_000;

/// Stacks by the words the kernel sent, and by content.
#[derive(Debug, Default)]
pub(super) struct Stacks {
    by_words: HashMap<Box<[u64]>, Arc<Stack>>,
    words: usize,
    by_content: HashSet<Arc<Stack>>,
    frames: usize,
    /// Frames of stacks that were still in use at the last pruning.
    frames_in_use: usize,
}

impl Stacks {
    /// The stack resolved earlier from `words`.
    pub(super) fn known(&self, words: &[u64]) -> Option<Arc<Stack>> {
        self.by_words.get(words).cloned()
    }

    /// `words` will always resolve to `stack`.
    pub(super) fn remember(&mut self, words: &[u64], stack: &Arc<Stack>) {
        if self.words > WORD_LIMIT {
            self.by_words.clear();
            self.words = 0;
        }
        self.words += words.len();
        self.by_words.insert(words.into(), Arc::clone(stack));
    }

    /// The one copy of `stack`.
    pub(super) fn intern(&mut self, stack: Stack) -> Arc<Stack> {
        if let Some(known) = self.by_content.get(&stack) {
            return Arc::clone(known);
        }
        if self.frames > FRAME_LIMIT + 2 * self.frames_in_use {
            self.prune();
        }
        self.frames += stack.frames.len();
        let stack = Arc::new(stack);
        self.by_content.insert(Arc::clone(&stack));
        stack
    }

    fn prune(&mut self) {
        self.by_words.clear();
        self.words = 0;
        self.by_content.retain(|stack| Arc::strong_count(stack) > 1);
        self.frames = self.by_content.iter().map(|stack| stack.frames.len()).sum();
        self.frames_in_use = self.frames;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Frame, FrameKind, StackStatus};

    fn stack(function: &str) -> Stack {
        let frame = Frame { kind: FrameKind::Python, function: function.into(), file: None, line: None };
        Stack { frames: vec![frame], status: StackStatus::ROOT }
    }

    #[test]
    fn equal_stacks_are_one() {
        let mut stacks = Stacks::default();
        let first = stacks.intern(stack("f"));
        assert!(Arc::ptr_eq(&first, &stacks.intern(stack("f"))));
        assert!(!Arc::ptr_eq(&first, &stacks.intern(stack("g"))));
        stacks.remember(&[1, 2], &first);
        assert!(Arc::ptr_eq(&first, &stacks.known(&[1, 2]).unwrap()));
        assert!(stacks.known(&[1]).is_none());
    }

    #[test]
    fn only_stacks_in_use_survive_pruning() {
        let mut stacks = Stacks::default();
        let held = stacks.intern(stack("held"));
        for i in 0..=FRAME_LIMIT + 1 {
            stacks.intern(stack(&i.to_string()));
        }
        assert!(stacks.by_content.len() < 10);
        assert!(Arc::ptr_eq(&held, &stacks.intern(stack("held"))));
    }
}
