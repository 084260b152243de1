//! Stacks: frames leaf first, and what is known of their completeness.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Which world a frame belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FrameKind {
    /// A Python function.
    Python,
    /// A function of machine code in user space.
    Native,
    /// A kernel function.
    Kernel,
}

/// One frame of a stack.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Frame {
    /// Which world.
    pub kind: FrameKind,
    /// Qualified name where the interpreter has one (3.11+), else the plain name; a symbol, or `module+0x12` without one.
    pub function: Arc<str>,
    /// Python: co_filename. Native: the mapped file, or the source file when `line` is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub file: Option<Arc<str>>,
    /// The line being executed; absent for instructions without one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub line: Option<u32>,
}

/// What is known of one stack: bits of `enum stack_status` in `bpf/pylow.h`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StackStatus(pub u32);

impl StackStatus {
    /// The walk reached the outermost Python frame.
    pub const ROOT: Self = Self(1);
    /// More frames than the limit: the root side is missing.
    pub const TRUNCATED: Self = Self(2);
    /// A frame's memory was not readable.
    pub const FAULT: Self = Self(4);
    /// The thread has no Python thread state.
    pub const NO_THREAD: Self = Self(8);
    /// A thread state without a frame.
    pub const NO_FRAMES: Self = Self(16);
    /// Some code object was unreadable.
    pub const CODE_FAULT: Self = Self(32);
    /// The garbage collector was running in this thread.
    pub const GC: Self = Self(64);
    /// The thread held the GIL.
    pub const HOLDS_GIL: Self = Self(128);
    /// The sample interrupted kernel code.
    pub const IN_KERNEL: Self = Self(256);
    /// The process has no (known) interpreter.
    pub const NOT_PYTHON: Self = Self(512);

    /// The chain ended at a generator's frame that was just being linked or unlinked: its callers are missing.
    pub const TORN: Self = Self(1024);

    /// Bits that say what happened at that moment, not which stack it is.
    pub const MOMENTARY: Self = Self(Self::GC.0 | Self::HOLDS_GIL.0 | Self::IN_KERNEL.0);

    /// Without the bits of `other`.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Some bit of `other` is set.
    pub fn has_any(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// All bits of `other` are set.
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whole: reached the root with every frame named, or there was nothing of Python to walk.
    pub fn is_complete(self) -> bool {
        (self.has(Self::ROOT) && !self.has(Self::CODE_FAULT))
            || self.has(Self::NO_THREAD)
            || self.has(Self::NO_FRAMES)
            || self.has(Self::NOT_PYTHON)
    }
}

/// Frames, leaf first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Stack {
    /// Leaf first.
    pub frames: Vec<Frame>,
    /// How complete.
    pub status: StackStatus,
}

impl Stack {
    /// The innermost Python frame.
    pub fn python_leaf(&self) -> Option<&Frame> {
        self.frames.iter().find(|frame| frame.kind == FrameKind::Python)
    }
}
