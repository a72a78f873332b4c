//! Memory maps with an owner.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// A mapping that is unmapped when dropped.
#[derive(Debug)]
pub struct Mmap {
    addr: *mut libc::c_void,
    len: usize,
}

// SAFETY: the mapping is plain memory, owned by this value alone; who writes to it is up to its users.
unsafe impl Send for Mmap {}
// SAFETY: as above; shared access only reads through `as_ref` or through atomics.
unsafe impl Sync for Mmap {}

impl Mmap {
    /// Maps `len` bytes of `fd` from `offset`, shared (or private when `private`).
    ///
    /// # Errors
    /// What mmap(2) says.
    pub fn new(fd: BorrowedFd<'_>, len: usize, offset: usize, writable: bool, private: bool) -> io::Result<Self> {
        let prot = if writable {
            libc::PROT_READ | libc::PROT_WRITE
        } else {
            libc::PROT_READ
        };
        let flags = if private { libc::MAP_PRIVATE } else { libc::MAP_SHARED };
        let offset = libc::off_t::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
        // SAFETY: a new mapping at an address that the kernel chooses; arguments are checked by the kernel.
        let addr = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags, fd.as_raw_fd(), offset) };
        if addr == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { addr, len })
    }

    /// Returns the address of the first byte.
    #[must_use]
    pub fn as_ptr(&self) -> *mut u8 {
        self.addr.cast()
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl AsRef<[u8]> for Mmap {
    /// Only for mappings that nobody writes (files, vmlinux BTF).
    fn as_ref(&self) -> &[u8] {
        // SAFETY: addr..addr+len is mapped readable as long as self lives.
        unsafe { std::slice::from_raw_parts(self.addr.cast(), self.len) }
    }
}

impl Drop for Mmap {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping made in `new`, not used after this.
        unsafe { libc::munmap(self.addr, self.len) };
    }
}
