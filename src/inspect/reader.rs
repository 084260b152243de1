//! Memory of a process that moves while it is read: pages are kept, ranges are remembered, and what was made of them is
//! believed only after every range was read again and had not changed.
//!
//! Two readings that agree mean that each range held its bytes from its first to its second reading, so that between
//! them every range held what was seen; unless memory was freed and used again in a rhythm that fits both readings. Hence
//! the ranges are read again more than once, each time in one system call, which leaves a rhythm a few microseconds.

use std::collections::HashMap;

use crate::target::memory::Memory;

const PAGE: usize = 4096;
/// One read may not be longer: nothing shown of an object is.
const MAX_READ: usize = 1 << 20;
/// User addresses are lower, with four page-table levels on x86_64 and with 48 bits on arm64.
pub(super) const ADDRESS_END: u64 = 1 << 48;
/// A value is read this many times before it is said to move.
pub(super) const TRIES: usize = 4;
/// A value is believed after this many repeated readings.
const ROUNDS: usize = 3;

/// Why nothing was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Not mapped, not an address, or not what it should be.
    Unreadable,
    /// More reads or bytes than one value may cost.
    Budget,
}

/// Result of a read.
pub(super) type Read<T> = Result<T, Fault>;

/// What could be made of memory that moves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stable<T> {
    /// Read, and found unchanged.
    Value(T),
    /// Unreadable, and nothing that led there changed.
    Unreadable,
    /// It changed under every try.
    Moving,
}

impl<T> Stable<T> {
    /// The value, if there is one.
    pub(super) fn value(self) -> Option<T> {
        match self {
            Self::Value(value) => Some(value),
            Self::Unreadable | Self::Moving => None,
        }
    }
}

/// Reads pages of one process and remembers which ranges were looked at.
#[derive(Debug)]
pub(super) struct Reader {
    memory: Memory,
    pages: HashMap<u64, Option<Box<[u8; PAGE]>>>,
    ranges: Vec<(u64, usize)>,
    reads_left: usize,
}

impl Reader {
    /// A reader without pages.
    pub(super) fn new(memory: Memory) -> Self {
        Self { memory, pages: HashMap::new(), ranges: Vec::new(), reads_left: 0 }
    }

    /// Forgets pages and ranges; from here on at most `reads` reads.
    pub(super) fn restart(&mut self, reads: usize) {
        self.pages.clear();
        self.ranges.clear();
        self.reads_left = reads;
    }

    /// Makes a value by `make` until all it read is found unchanged, at most [`TRIES`] times of `reads` reads each.
    pub(super) fn stable<T>(&mut self, reads: usize, mut make: impl FnMut(&mut Self) -> Read<T>) -> Stable<T> {
        for _ in 0..TRIES {
            self.restart(reads);
            let made = make(self);
            if self.verify() {
                return made.map_or(Stable::Unreadable, Stable::Value);
            }
        }
        Stable::Moving
    }

    /// Reads every range again, [`ROUNDS`] times: true when none ever changed.
    pub(super) fn verify(&mut self) -> bool {
        self.ranges.sort_unstable();
        self.ranges.dedup();
        let mut seen = Vec::new();
        for &(address, length) in &self.ranges {
            for (page, start, end) in pieces(address, length) {
                let Some(Some(bytes)) = self.pages.get(&page) else { return false };
                seen.extend_from_slice(&bytes[start..end]);
            }
        }
        (0..ROUNDS).all(|_| self.memory.gather(&self.ranges).is_ok_and(|now| now == seen))
    }

    fn page(&mut self, page: u64) -> Option<&[u8; PAGE]> {
        let memory = self.memory;
        self.pages
            .entry(page)
            .or_insert_with(|| {
                let mut bytes = Box::new([0; PAGE]);
                memory.read(page * PAGE as u64, bytes.as_mut_slice()).ok().map(|()| bytes)
            })
            .as_deref()
    }

    /// `length` bytes from `address`.
    pub(super) fn bytes(&mut self, address: u64, length: usize) -> Read<Vec<u8>> {
        if length > MAX_READ {
            return Err(Fault::Budget);
        }
        let mut buffer = vec![0; length];
        self.fill(address, &mut buffer)?;
        Ok(buffer)
    }

    fn fill(&mut self, address: u64, buffer: &mut [u8]) -> Read<()> {
        self.reads_left = self.reads_left.checked_sub(1).ok_or(Fault::Budget)?;
        if address < PAGE as u64 || address >= ADDRESS_END {
            return Err(Fault::Unreadable);
        }
        let mut done = 0;
        for (page, start, end) in pieces(address, buffer.len()) {
            let bytes = self.page(page).ok_or(Fault::Unreadable)?;
            buffer[done..done + end - start].copy_from_slice(&bytes[start..end]);
            done += end - start;
        }
        self.ranges.push((address, buffer.len()));
        Ok(())
    }

    fn array<const N: usize>(&mut self, address: u64) -> Read<[u8; N]> {
        let mut buffer = [0; N];
        self.fill(address, &mut buffer)?;
        Ok(buffer)
    }

    /// One byte.
    pub(super) fn u8(&mut self, address: u64) -> Read<u8> {
        self.array::<1>(address).map(|[byte]| byte)
    }

    /// A little-endian u32.
    pub(super) fn u32(&mut self, address: u64) -> Read<u32> {
        self.array(address).map(u32::from_le_bytes)
    }

    /// A little-endian u64.
    pub(super) fn u64(&mut self, address: u64) -> Read<u64> {
        self.array(address).map(u64::from_le_bytes)
    }

    /// A pointer, perhaps tagged or null: below the end of the address space, so that offsets can be added to it.
    pub(super) fn pointer(&mut self, address: u64) -> Read<u64> {
        match self.u64(address)? {
            pointer @ 0..ADDRESS_END => Ok(pointer),
            _ => Err(Fault::Unreadable),
        }
    }

    /// A little-endian f64.
    pub(super) fn f64(&mut self, address: u64) -> Read<f64> {
        self.array(address).map(f64::from_le_bytes)
    }

    /// `count` little-endian u64.
    pub(super) fn words(&mut self, address: u64, count: usize) -> Read<Vec<u64>> {
        let bytes = self.bytes(address, count.checked_mul(8).ok_or(Fault::Budget)?)?;
        Ok(bytes.chunks_exact(8).map(word).collect())
    }

    /// A C string of at most `limit` bytes; longer ones are unreadable.
    pub(super) fn c_string(&mut self, address: u64, limit: usize) -> Read<String> {
        let mut text = Vec::new();
        while text.len() < limit {
            // To the end of the page at most: the next one need not be mapped.
            let at = address.checked_add(text.len() as u64).ok_or(Fault::Unreadable)?;
            let length = (PAGE - (at % PAGE as u64) as usize).min(32).min(limit - text.len());
            let piece = self.bytes(at, length)?;
            match piece.iter().position(|&byte| byte == 0) {
                Some(end) => {
                    text.extend_from_slice(&piece[..end]);
                    return String::from_utf8(text).map_err(|_| Fault::Unreadable);
                }
                None => text.extend_from_slice(&piece),
            }
        }
        Err(Fault::Unreadable)
    }
}

/// The little-endian u64 at the start of `bytes`; missing bytes are zero.
pub(super) fn word(bytes: &[u8]) -> u64 {
    bytes.iter().take(8).rev().fold(0, |word, &byte| word << 8 | u64::from(byte))
}

/// The pieces of a range, page by page: number of the page, first byte and end in it.
fn pieces(address: u64, length: usize) -> impl Iterator<Item = (u64, usize, usize)> {
    let mut at = address;
    let end = address.saturating_add(length as u64);
    std::iter::from_fn(move || {
        (at < end).then(|| {
            let start = (at % PAGE as u64) as usize;
            let stop = PAGE.min(start + (end - at) as usize);
            let page = at / PAGE as u64;
            at += (stop - start) as u64;
            (page, start, stop)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    fn own() -> Reader {
        let mut reader = Reader::new(Memory::of(std::process::id()));
        reader.restart(100);
        reader
    }

    #[test]
    fn a_range_over_several_pages_is_whole() {
        let data: Vec<u8> = (0..3 * PAGE).map(|i| (i / 7) as u8).collect();
        let address = data.as_ptr() as u64;
        assert_eq!(own().bytes(address, data.len()), Ok(data));
    }

    #[test]
    fn a_change_is_noticed() {
        let cell = AtomicU64::new(1);
        let address = cell.as_ptr() as u64;
        let mut reader = own();
        assert_eq!(reader.u64(address), Ok(1));
        assert!(reader.verify());
        assert_eq!(reader.u64(address), Ok(1));
        cell.store(2, Ordering::SeqCst);
        assert!(!reader.verify());
        let always = reader.stable(10, |reader| {
            let value = reader.u64(address)?;
            cell.fetch_add(1, Ordering::SeqCst);
            Ok(value)
        });
        assert_eq!(always, Stable::Moving);
        assert_eq!(reader.stable(10, |reader| reader.u64(address)), Stable::Value(cell.load(Ordering::SeqCst)));
    }

    #[test]
    fn garbage_is_refused_at_once() {
        let mut reader = own();
        assert_eq!(reader.u64(0), Err(Fault::Unreadable));
        assert_eq!(reader.u64(8), Err(Fault::Unreadable));
        assert_eq!(reader.u64(u64::MAX - 3), Err(Fault::Unreadable));
        assert_eq!(reader.bytes(4096, usize::MAX), Err(Fault::Budget));
        assert_eq!(reader.words(1 << 40, usize::MAX), Err(Fault::Budget));
        reader.restart(1);
        let value = 5u64;
        assert_eq!(reader.u64(&raw const value as u64), Ok(5));
        assert_eq!(reader.u64(&raw const value as u64), Err(Fault::Budget));
    }
}
