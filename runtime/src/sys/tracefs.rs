//! Access to tracefs, mounted or not.
//!
//! Where nobody has mounted it (containers, `ip netns exec`, minimal systems) it is mounted privately; see [`mount`].

use super::mount::{self, owned};
use super::{Result, SysError};
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};

/// An open tracefs directory.
#[derive(Debug)]
pub struct Tracefs {
    root: OwnedFd,
}

impl Tracefs {
    /// Opens tracefs where it is mounted, else mounts it privately.
    ///
    /// # Errors
    /// When it is not mounted and may not be (`EPERM` without CAP_SYS_ADMIN), or the kernel has none (`ENODEV`).
    pub fn open() -> Result<Self> {
        for dir in ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"] {
            // An empty directory is the mount point alone. `events` exists in every tracefs.
            if let Ok(tracefs) = Self::at(dir)
                && tracefs.exists("events")
            {
                return Ok(tracefs);
            }
        }
        let root = mount::private(c"tracefs").map_err(|e| SysError::new("mount", "tracefs", e))?;
        Ok(Self { root })
    }

    fn at(dir: &str) -> io::Result<Self> {
        use std::os::unix::fs::OpenOptionsExt;
        let file = File::options().read(true).custom_flags(libc::O_DIRECTORY).open(dir)?;
        Ok(Self { root: file.into() })
    }

    fn open_file(&self, path: &str, flags: libc::c_int) -> io::Result<File> {
        let path = CString::new(path).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
        // SAFETY: a NUL-terminated path, a live directory descriptor.
        let fd = unsafe { libc::openat(self.root.as_raw_fd(), path.as_ptr(), flags | libc::O_CLOEXEC) };
        Ok(File::from(owned(fd.into())?))
    }

    /// Returns whether a file is there.
    #[must_use]
    pub fn exists(&self, path: &str) -> bool {
        self.open_file(path, libc::O_PATH).is_ok()
    }

    /// Reads a file, `events/tcp/tcp_probe/format` for example.
    ///
    /// # Errors
    /// What open or read say.
    pub fn read(&self, path: &str) -> io::Result<String> {
        // Most files are shorter than a page, and tracefs makes their text anew for each read from the start.
        let mut bytes = Vec::with_capacity(4096);
        self.open_file(path, libc::O_RDONLY)?.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Lists the names in a directory, sorted.
    ///
    /// # Errors
    /// What open or getdents say.
    pub fn list(&self, path: &str) -> io::Result<Vec<String>> {
        // The link in /proc leads into the private mount too.
        let dir = std::fs::read_dir(format!("/proc/self/fd/{}/{path}", self.root.as_raw_fd()))?;
        let mut names = Vec::new();
        for entry in dir {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    /// Reads the number of a tracepoint; `None` when there is no such tracepoint.
    ///
    /// # Errors
    /// When the file is there but cannot be read.
    pub fn tracepoint_id(&self, category: &str, name: &str) -> Result<Option<u64>> {
        let path = format!("events/{category}/{name}/id");
        match self.read(&path) {
            Ok(text) => Ok(text.trim().parse().ok()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(SysError::new("read tracepoint", format!("{category}:{name}"), e)),
        }
    }
}
