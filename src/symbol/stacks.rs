//! Equal stacks are one stack: folds compare pointers, and most stacks need no resolving at all.

use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::event::{Frame, Stack};

/// Words of keys kept (16 MB), and frames of stacks kept that nobody else holds (about 10 MB).
const WORD_LIMIT: usize = 2_000_000;
const FRAME_LIMIT: usize = 200_000;

/// A stack compared by the addresses of its names: they are interned, so equal names are the same one.
#[derive(Clone, Debug)]
struct Identity(Arc<Stack>);

impl Identity {
    /// One frame's part: names, line.
    fn of(frame: &Frame) -> (*const u8, *const u8, Option<u32>) {
        let file = frame.file.as_ref().map_or(std::ptr::null(), |file| file.as_ptr());
        (frame.function.as_ptr(), file, frame.line)
    }
}

impl Hash for Identity {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.status.hash(state);
        for frame in &self.0.frames {
            Self::of(frame).hash(state);
        }
    }
}

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        let (one, other) = (&*self.0, &*other.0);
        let same = |(one, other): (&Frame, &Frame)| one.kind == other.kind && Self::of(one) == Self::of(other);
        one.status == other.status
            && one.frames.len() == other.frames.len()
            && one.frames.iter().zip(&other.frames).all(same)
    }
}

impl Eq for Identity {}

/// Stacks by the words the kernel sent, and by content.
#[derive(Debug, Default)]
pub(super) struct Stacks {
    by_words: HashMap<Box<[u64]>, Arc<Stack>>,
    words: usize,
    by_content: HashSet<Identity>,
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

    /// The one copy of `stack`, whose names are interned.
    pub(super) fn intern(&mut self, stack: Stack) -> Arc<Stack> {
        let stack = Identity(Arc::new(stack));
        if let Some(known) = self.by_content.get(&stack) {
            return Arc::clone(&known.0);
        }
        if self.frames > FRAME_LIMIT + 2 * self.frames_in_use {
            self.prune();
        }
        self.frames += stack.0.frames.len();
        self.by_content.insert(stack.clone());
        stack.0
    }

    fn prune(&mut self) {
        self.by_words.clear();
        self.words = 0;
        self.by_content.retain(|stack| Arc::strong_count(&stack.0) > 1);
        self.frames = self.by_content.iter().map(|stack| stack.0.frames.len()).sum();
        self.frames_in_use = self.frames;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{FrameKind, StackStatus};
    use crate::symbol::names::Names;

    fn stack(names: &mut Names, function: &str) -> Stack {
        let frame = Frame { kind: FrameKind::Python, function: names.intern(function), file: None, line: None };
        Stack { frames: vec![frame], status: StackStatus::ROOT }
    }

    #[test]
    fn equal_stacks_are_one() {
        let (mut stacks, names) = (Stacks::default(), &mut Names::default());
        let first = stacks.intern(stack(names, "f"));
        assert!(Arc::ptr_eq(&first, &stacks.intern(stack(names, "f"))));
        assert!(!Arc::ptr_eq(&first, &stacks.intern(stack(names, "g"))));
        let mut elsewhere = stack(names, "f");
        elsewhere.frames[0].line = Some(1);
        assert!(!Arc::ptr_eq(&first, &stacks.intern(elsewhere)));
        stacks.remember(&[1, 2], &first);
        assert!(Arc::ptr_eq(&first, &stacks.known(&[1, 2]).unwrap()));
        assert!(stacks.known(&[1]).is_none());
    }

    #[test]
    fn only_stacks_in_use_survive_pruning() {
        let (mut stacks, names) = (Stacks::default(), &mut Names::default());
        let held = stacks.intern(stack(names, "held"));
        for i in 0..=FRAME_LIMIT + 1 {
            stacks.intern(stack(names, &i.to_string()));
        }
        assert!(stacks.by_content.len() < 10);
        assert!(Arc::ptr_eq(&held, &stacks.intern(stack(names, "held"))));
    }
}
