//! Reading another process's memory: process_vm_readv, never ptrace. The target is not stopped and may move underneath:
//! whoever believes a value reads it twice, or checks what it leads to.

use crate::error::{Error, Result};

/// No page of a supported architecture is smaller.
const PAGE: u64 = 4096;

/// Memory of one process.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    tgid: u32,
}

impl Memory {
    /// Memory of the process `tgid`; nothing is checked yet.
    pub fn of(tgid: u32) -> Self {
        Self { tgid }
    }

    /// Which process.
    pub fn tgid(&self) -> u32 {
        self.tgid
    }

    /// Fills `buffer` from `address`, all or nothing.
    pub fn read(&self, address: u64, buffer: &mut [u8]) -> Result<()> {
        let local = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: buffer.len() };
        // SAFETY: `local` describes `buffer`, which is exclusively borrowed; the kernel checks `remote`.
        let got = unsafe { libc::process_vm_readv(self.tgid as libc::pid_t, &local, 1, &remote, 1, 0) };
        if got == buffer.len() as isize {
            return Ok(());
        }
        if got >= 0 {
            return Err(Error::failed(format!("only {got} of {} bytes readable at {address:#x}", buffer.len())));
        }
        Err(self.explain(std::io::Error::last_os_error(), address, buffer.len()))
    }

    /// The bytes from `address` up to the first page that is not readable, at most `limit`.
    pub fn readable(&self, address: u64, limit: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; limit];
        // One range a page: the kernel reads whole ranges, and stops before the first that it can't.
        let end = address.saturating_add(limit as u64);
        let mut ranges = Vec::new();
        let mut start = address;
        while start < end && ranges.len() < libc::UIO_MAXIOV as usize {
            let next = end.min((start | (PAGE - 1)).saturating_add(1));
            ranges.push(libc::iovec { iov_base: start as *mut libc::c_void, iov_len: (next - start) as usize });
            start = next;
        }
        let local = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        let (tgid, count) = (self.tgid as libc::pid_t, ranges.len() as libc::c_ulong);
        // SAFETY: `local` describes `bytes`, which is exclusively borrowed; the kernel checks the ranges.
        let got = unsafe { libc::process_vm_readv(tgid, &local, 1, ranges.as_ptr(), count, 0) };
        let err = std::io::Error::last_os_error();
        match (usize::try_from(got), err.raw_os_error()) {
            (Ok(got), _) => bytes.truncate(got),
            (Err(_), Some(libc::EFAULT)) => bytes.clear(),
            (Err(_), _) => return Err(self.explain(err, address, limit)),
        }
        Ok(bytes)
    }

    fn explain(&self, err: std::io::Error, address: u64, length: usize) -> Error {
        let tgid = self.tgid;
        match err.raw_os_error() {
            Some(libc::ESRCH) => Error::target_gone(format!("process {tgid} is gone")),
            Some(libc::EPERM) => Error::not_permitted(format!("not permitted to read the memory of process {tgid}"))
                .because("process_vm_readv: the kernel asks for the right to trace it")
                .hint(super::process::permission_hint()),
            _ => Error::from(err).context(format!("cannot read {length} bytes at {address:#x} of process {tgid}")),
        }
    }

    /// The bytes of all `ranges` (address, length) behind each other, read in as few calls as the kernel allows: as close
    /// to one moment as reading without stopping gets. All or nothing.
    pub fn gather(&self, ranges: &[(u64, usize)]) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        for part in ranges.chunks(libc::UIO_MAXIOV as usize) {
            let remote: Vec<libc::iovec> = part
                .iter()
                .map(|&(address, length)| libc::iovec { iov_base: address as *mut libc::c_void, iov_len: length })
                .collect();
            let start = bytes.len();
            bytes.resize(start + part.iter().map(|(_, length)| length).sum::<usize>(), 0);
            let buffer = &mut bytes[start..];
            let local = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
            let (tgid, count) = (self.tgid as libc::pid_t, remote.len() as libc::c_ulong);
            // SAFETY: `local` describes `buffer`, which is exclusively borrowed; the kernel checks `remote`.
            let got = unsafe { libc::process_vm_readv(tgid, &local, 1, remote.as_ptr(), count, 0) };
            if got < 0 {
                let what = format!("cannot read {count} ranges of process {tgid}");
                return Err(Error::from(std::io::Error::last_os_error()).context(what));
            }
            if got != buffer.len() as isize {
                return Err(Error::failed(format!("only {got} of {} bytes readable in {count} ranges", buffer.len())));
            }
        }
        Ok(bytes)
    }

    /// `length` bytes from `address`.
    pub fn bytes(&self, address: u64, length: usize) -> Result<Vec<u8>> {
        let mut buffer = vec![0; length];
        self.read(address, &mut buffer)?;
        Ok(buffer)
    }

    /// A little-endian u64.
    pub fn u64(&self, address: u64) -> Result<u64> {
        let mut buffer = [0; 8];
        self.read(address, &mut buffer)?;
        Ok(u64::from_le_bytes(buffer))
    }

    /// A little-endian u32.
    pub fn u32(&self, address: u64) -> Result<u32> {
        let mut buffer = [0; 4];
        self.read(address, &mut buffer)?;
        Ok(u32::from_le_bytes(buffer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_stops_at_the_first_unreadable_page() {
        let page = PAGE as usize;
        // SAFETY: asks for fresh memory anywhere; touches nothing that exists.
        let base = unsafe {
            libc::mmap(std::ptr::null_mut(), 4 * page, libc::PROT_READ, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
        };
        assert_ne!(base, libc::MAP_FAILED);
        let base = base as u64;
        // SAFETY: the third page of the mapping above, which nothing else uses.
        assert_eq!(unsafe { libc::mprotect((base + 2 * PAGE) as *mut libc::c_void, page, libc::PROT_NONE) }, 0);
        let memory = Memory::of(std::process::id());
        let length = |address, limit| memory.readable(address, limit).unwrap().len();
        assert_eq!(length(base + 8, 1 << 20), 2 * page - 8);
        assert_eq!(length(base + 8, 100), 100);
        assert_eq!(length(base + PAGE - 8, 16), 16);
        assert_eq!(length(base + 2 * PAGE, page), 0);
        // SAFETY: the mapping made above.
        unsafe { libc::munmap(base as *mut libc::c_void, 4 * page) };
    }
}
