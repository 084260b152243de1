//! Reading another process's memory: process_vm_readv, never ptrace. The target is not stopped and may move underneath:
//! whoever believes a value reads it twice, or checks what it leads to.

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
            Some(libc::EPERM) => {
                Err(Error::not_permitted(format!("not permitted to read the memory of process {}", self.tgid))
                    .because("process_vm_readv: the kernel asks for the right to trace it")
                    .hint(super::process::permission_hint()))
            }
            _ => Err(Error::from(err).context(format!(
                "cannot read {} bytes at {address:#x} of process {}",
                buffer.len(),
                self.tgid
            ))),
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
