//! One copy of every name: the same file and function names come from many code objects and processes.

use std::collections::HashSet;
use std::sync::Arc;

/// Below this many names nothing is pruned.
const PRUNE_FLOOR: usize = 16_384;

/// Interned names. Those nobody else holds go away whenever their number has doubled.
#[derive(Debug, Default)]
pub(super) struct Names {
    held: HashSet<Arc<str>>,
    prune_at: usize,
}

impl Names {
    /// The shared copy of `name`.
    pub(super) fn intern(&mut self, name: &str) -> Arc<str> {
        if let Some(held) = self.held.get(name) {
            return Arc::clone(held);
        }
        if self.held.len() >= self.prune_at.max(PRUNE_FLOOR) {
            self.held.retain(|held| Arc::strong_count(held) > 1);
            self.prune_at = self.held.len() * 2;
        }
        let name: Arc<str> = Arc::from(name);
        self.held.insert(Arc::clone(&name));
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_names_share_one_copy() {
        let mut names = Names::default();
        let first = names.intern("run");
        assert!(Arc::ptr_eq(&first, &names.intern("run")));
        assert!(!Arc::ptr_eq(&first, &names.intern("ran")));
    }

    #[test]
    fn names_nobody_holds_are_pruned() {
        let mut names = Names::default();
        let kept = names.intern("kept");
        for i in 0..3 * PRUNE_FLOOR {
            names.intern(&i.to_string());
        }
        assert!(names.held.len() <= PRUNE_FLOOR + 1);
        assert!(Arc::ptr_eq(&kept, &names.intern("kept")));
    }
}
