//! Pins and links that outlive their maker: naming an object in the BPF file system, and giving a link another program.

use super::{bpf_cmd, call, ufd, zeroed};
use crate::sys::{Result, SysError};
use std::ffi::CString;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Names a map, program or link. The last part of the path must not contain a dot.
///
/// # Errors
/// `EEXIST` when the name is taken.
pub fn pin(object: BorrowedFd<'_>, path: &Path) -> Result<()> {
    let error = |e| SysError::new("pin", path.display().to_string(), e);
    let text = CString::new(path.as_os_str().as_bytes()).map_err(|_| error(io::Error::from_raw_os_error(libc::EINVAL)))?;
    let mut attr = zeroed();
    attr.__bindgen_anon_4.pathname = text.as_ptr() as u64;
    attr.__bindgen_anon_4.bpf_fd = ufd(object);
    call(bpf_cmd::BPF_OBJ_PIN, &mut attr).map(drop).map_err(error)
}

/// Gives a link another program: every packet, or call, meets the old one or the new one. XDP since Linux 5.9, cgroups 5.7, tcx 6.6.
///
/// # Errors
/// `ENOLINK` when what the link was on is gone.
pub fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>, name: &str) -> Result<()> {
    let mut attr = zeroed();
    attr.link_update.link_fd = ufd(link);
    attr.link_update.__bindgen_anon_1.new_prog_fd = ufd(program);
    call(bpf_cmd::BPF_LINK_UPDATE, &mut attr)
        .map(drop)
        .map_err(|e| SysError::new("exchange the program of", name, e))
}
