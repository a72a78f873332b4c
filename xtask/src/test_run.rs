//! What a packet costs in an XDP program, in fractions of a nanosecond.
//!
//! `BPF_PROG_TEST_RUN` itself tells whole nanoseconds: too coarse for programs of fifteen. So the call is timed, over many packets. That is
//! only right for a program that is attached somewhere: for another one each call puts it into the kernel's table of XDP programs and
//! takes it out again, and waits for all processors twice.

use anyhow::{Context, Result, ensure};
use aya_obj::generated::{bpf_attr, bpf_cmd};
use std::ffi::CString;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Instant;

/// Packets of a run: the call itself takes some microseconds, and a busy machine has quiet moments, but short ones.
const PACKETS: u32 = 100_000;

fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> Result<i64> {
    // SAFETY: the attribute is as long as is said, and what it points to lives in the callers.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command as u32, std::ptr::from_mut(attr), size_of::<bpf_attr>()) };
    ensure!(result >= 0, "bpf: {}", std::io::Error::last_os_error());
    Ok(result)
}

fn zeroed() -> bpf_attr {
    // SAFETY: integers.
    unsafe { std::mem::zeroed() }
}

fn owned(fd: i64) -> OwnedFd {
    // SAFETY: a new descriptor, and nobody else's.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}

/// What came of a run.
pub struct Ran {
    pub verdict: u64,
    /// Of the call, for each packet.
    pub ns: f64,
    /// What the kernel says of the same, in whole numbers and without the time in which it ran something else.
    pub kernel_ns: f64,
}

/// A program that is attached somewhere.
pub struct Program(OwnedFd);

impl Program {
    /// # Errors
    /// There is no such program.
    pub fn of_id(id: &str) -> Result<Self> {
        let mut attr = zeroed();
        attr.__bindgen_anon_6.__bindgen_anon_1.prog_id = id.parse().context("an id that is no number")?;
        bpf(bpf_cmd::BPF_PROG_GET_FD_BY_ID, &mut attr).map(|fd| Self(owned(fd)))
    }

    /// # Errors
    /// Nothing is pinned there.
    pub fn pinned(path: &Path) -> Result<Self> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        let mut attr = zeroed();
        attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
        bpf(bpf_cmd::BPF_OBJ_GET, &mut attr).map(|fd| Self(owned(fd)))
    }

    /// Runs it on a frame again and again.
    ///
    /// # Errors
    /// The kernel does not run it.
    pub fn run(&self, frame: &[u8]) -> Result<Ran> {
        let mut attr = zeroed();
        // SAFETY: the fields of this command.
        let test = unsafe { &mut attr.test };
        test.prog_fd = self.0.as_raw_fd() as u32;
        test.data_in = frame.as_ptr() as u64;
        test.data_size_in = frame.len() as u32;
        test.repeat = PACKETS;
        let begin = Instant::now();
        bpf(bpf_cmd::BPF_PROG_TEST_RUN, &mut attr)?;
        let ns = begin.elapsed().as_nanos() as f64 / f64::from(PACKETS);
        // SAFETY: as above.
        let (verdict, kernel_ns) = unsafe { (attr.test.retval.into(), attr.test.duration.into()) };
        Ok(Ran { verdict, ns, kernel_ns })
    }
}
