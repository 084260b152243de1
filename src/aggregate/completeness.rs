//! What a report does not contain, said in one line.

use crate::event::{Loss, Stack, StackStatus};
use crate::report::Note;
use crate::units::{count, plural, share};

/// Counts whole and broken stacks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Completeness {
    stacks: u64,
    complete: u64,
    truncated: u64,
    unreadable: u64,
}

impl Completeness {
    /// Counts one stack.
    pub fn add(&mut self, stack: &Stack) {
        self.stacks += 1;
        if stack.status.is_complete() {
            self.complete += 1;
        } else if stack.status.has(StackStatus::TRUNCATED) {
            self.truncated += 1;
        } else if stack.status.has(StackStatus::FAULT) || stack.status.has(StackStatus::CODE_FAULT) {
            self.unreadable += 1;
        }
    }

    /// Stacks counted.
    pub fn stacks(&self) -> u64 {
        self.stacks
    }

    /// Of them, whole.
    pub fn complete(&self) -> u64 {
        self.complete
    }

    /// `1.2 % of events lost (12 of 1,000: no room in the ring buffer), 99.4 % of stacks complete (...)`; nothing when
    /// everything arrived whole.
    pub fn note(&self, loss: Option<&Loss>) -> Option<Note> {
        let mut said: Vec<String> = loss.map(lost).unwrap_or_default();
        said.extend(self.incomplete());
        (!said.is_empty()).then(|| Note { text: said.join(", "), loss: loss.copied() })
    }

    fn incomplete(&self) -> Option<String> {
        if self.complete == self.stacks {
            return None;
        }
        let other = self.stacks - self.complete - self.truncated - self.unreadable;
        let reasons: Vec<String> = [
            (self.truncated, "deeper than the limit"),
            (self.unreadable, "with unreadable memory"),
            (other, "taken while a generator was entered or left"),
        ]
        .iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, reason)| format!("{} {reason}", count(*number)))
        .collect();
        Some(format!("{} of stacks complete ({})", share(self.complete, self.stacks), reasons.join(", ")))
    }
}

fn lost(loss: &Loss) -> Vec<String> {
    let mut said = Vec::new();
    if loss.lost > 0 {
        let of = format!("{} of {}", count(loss.lost), count(loss.generated));
        said.push(format!("{} of events lost ({of}: no room in the ring buffer)", share(loss.lost, loss.generated)));
    }
    if loss.native_lost > 0 {
        said.push(format!("{} lost, those samples show Python frames only", plural(loss.native_lost, "native stack")));
    }
    if loss.process_lost > 0 {
        said.push(format!("{} lost, a child may be missing", plural(loss.process_lost, "process notice")));
    }
    if loss.collided > 0 {
        said.push(format!("{} forgotten as two threads shared a slot", plural(loss.collided, "wait")));
    }
    if loss.undecodable > 0 {
        said.push(format!("{} of an unknown kind or length", plural(loss.undecodable, "record")));
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completeness(stacks: &[(StackStatus, u64)]) -> Completeness {
        let mut completeness = Completeness::default();
        for &(status, times) in stacks {
            for _ in 0..times {
                completeness.add(&Stack { frames: vec![], status });
            }
        }
        completeness
    }

    #[test]
    fn nothing_is_said_when_all_arrived_whole() {
        let whole = completeness(&[(StackStatus::ROOT, 5), (StackStatus::NO_THREAD, 2)]);
        assert_eq!(whole.note(None), None);
        assert_eq!(whole.note(Some(&Loss { generated: 7, probe_ns: 9, ..Loss::default() })), None);
        assert_eq!(Completeness::default().note(None), None);
    }

    #[test]
    fn loss_and_broken_stacks_are_one_line() {
        let broken = completeness(&[
            (StackStatus::ROOT, 994),
            (StackStatus::TRUNCATED, 3),
            (StackStatus::FAULT, 2),
            (StackStatus::default(), 1),
        ]);
        let loss = Loss { generated: 1_000, lost: 12, native_lost: 1, ..Loss::default() };
        let note = broken.note(Some(&loss)).unwrap();
        assert_eq!(
            note.text,
            "1.2 % of events lost (12 of 1,000: no room in the ring buffer), \
             1 native stack lost, those samples show Python frames only, \
             99.4 % of stacks complete (3 deeper than the limit, 2 with unreadable memory, \
             1 taken while a generator was entered or left)"
        );
        assert_eq!(note.loss, Some(loss));
    }
}
