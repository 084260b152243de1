//! Reading another process's memory: process_vm_readv, never ptrace. The target is not stopped and may move underneath:
//! whoever believes a value reads it twice (`read_stable`).

use crate::error::{Error, Result};

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
        let err = std::io::Error::last_os_error();
        match err.raw_os_error() {
            Some(libc::ESRCH) => Err(Error::target_gone(format!("process {} is gone", self.tgid))),
            _ => Err(Error::from(err).context(format!("cannot read {} bytes at {address:#x} of process {}", buffer.len(), self.tgid))),
        }
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
