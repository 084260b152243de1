//! Numbers for equal stacks, so that a stack is kept once however often it is seen.

use std::collections::HashMap;
use std::sync::Arc;

use super::Stack;

/// Distinct stacks, numbered from 0 in the order they were first seen. Memory grows with distinct stacks only.
#[derive(Clone, Debug, Default)]
pub struct StackTable {
    stacks: Vec<Arc<Stack>>,
    by_content: HashMap<Arc<Stack>, u32>,
    /// Address of an `Arc` that `stacks` keeps alive, so no other stack can ever have it.
    by_address: HashMap<usize, u32>,
}

impl StackTable {
    /// The number of a stack, and whether this is the first time it was seen. A producer that hands out one `Arc` per
    /// distinct stack pays for an address look-up; any other for hashing the frames.
    pub fn insert(&mut self, stack: &Arc<Stack>) -> (u32, bool) {
        let address = Arc::as_ptr(stack) as usize;
        if let Some(&id) = self.by_address.get(&address) {
            return (id, false);
        }
        if let Some(&id) = self.by_content.get(stack) {
            return (id, false);
        }
        let id = self.stacks.len() as u32;
        self.stacks.push(Arc::clone(stack));
        self.by_content.insert(Arc::clone(stack), id);
        self.by_address.insert(address, id);
        (id, true)
    }

    /// The stack of a number that [`insert`](Self::insert) gave.
    pub fn get(&self, id: u32) -> Option<&Arc<Stack>> {
        self.stacks.get(id as usize)
    }

    /// Distinct stacks so far.
    pub fn len(&self) -> usize {
        self.stacks.len()
    }

    /// No stack was seen.
    pub fn is_empty(&self) -> bool {
        self.stacks.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Frame, FrameKind, StackStatus};

    fn stack(function: &str) -> Arc<Stack> {
        let frame = Frame { kind: FrameKind::Python, function: function.into(), file: None, line: None };
        Arc::new(Stack { frames: vec![frame], status: StackStatus::ROOT })
    }

    #[test]
    fn equal_stacks_have_one_number_whoever_owns_them() {
        let mut table = StackTable::default();
        let first = stack("a");
        assert_eq!(table.insert(&first), (0, true));
        assert_eq!(table.insert(&first), (0, false));
        assert_eq!(table.insert(&stack("a")), (0, false));
        assert_eq!(table.insert(&stack("b")), (1, true));
        assert_eq!(table.len(), 2);
    }

    #[test]
    fn a_reused_address_is_not_mistaken_for_the_old_stack() {
        let mut table = StackTable::default();
        table.insert(&stack("kept"));
        // Each of these is dropped before the next is made, so the allocator may well hand out one address again.
        for index in 0..1_000 {
            let name = format!("f{}", index % 7);
            let (id, _) = table.insert(&stack(&name));
            let found = table.get(id).map(|it| it.frames[0].function.to_string());
            assert_eq!(found.as_deref(), Some(name.as_str()));
        }
        assert_eq!(table.len(), 8);
    }
}
