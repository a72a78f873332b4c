//! Other network namespaces: setns(2) is per thread, so work in one is done on a short-lived thread.

use super::{Result, SysError};
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};

/// Of include/uapi/linux/nsfs.h.
const NS_GET_NSTYPE: libc::c_ulong = 0xb703;

/// A network namespace named in a script: a name of `ip netns`, a pid, or a path.
#[derive(Debug)]
pub struct Netns {
    fd: OwnedFd,
    name: String,
}

impl Netns {
    /// Opens it.
    ///
    /// # Errors
    /// `ENOENT` when there is none of that name or pid.
    pub fn open(name: &str) -> Result<Self> {
        let file = File::open(path(name)).map_err(|e| SysError::new("open network namespace", name, e))?;
        Ok(Self {
            fd: file.into(),
            name: name.to_owned(),
        })
    }

    /// Takes over a descriptor of one.
    #[must_use]
    pub fn from_fd(fd: OwnedFd, name: &str) -> Self {
        Self { fd, name: name.to_owned() }
    }

    #[must_use]
    pub fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Runs `work` on a thread inside the namespace and returns what it returns.
    ///
    /// # Errors
    /// When the namespace cannot be entered (`EPERM` without CAP_SYS_ADMIN), or there can be no more threads.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let fd = self.fd.as_raw_fd();
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().spawn_scoped(scope, move || {
                // SAFETY: setns changes only this thread's namespace, with a descriptor that outlives the scope.
                let ret = unsafe { libc::setns(fd, libc::CLONE_NEWNET) };
                if ret < 0 {
                    return Err(SysError::last("enter network namespace", &self.name));
                }
                Ok(work())
            });
            let thread = thread.map_err(|e| SysError::new("start a thread in network namespace", &self.name, e))?;
            match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}

/// Where `ip netns` keeps the names.
const NAMED: &str = "/run/netns";

/// A name of `ip netns`, a pid, or a path, as a path.
#[must_use]
pub fn path(name: &str) -> String {
    if name.contains('/') {
        name.to_owned()
    } else if name.bytes().all(|b| b.is_ascii_digit()) && !name.is_empty() {
        format!("/proc/{name}/ns/net")
    } else {
        format!("{NAMED}/{name}")
    }
}

/// Tells namespaces apart: device and inode of what the name stands for now, `None` when it stands for nothing.
#[must_use]
pub fn identity(name: &str) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let meta = std::fs::metadata(path(name)).ok()?;
    Some((meta.dev(), meta.ino()))
}

/// The calling thread's network namespace.
pub const HERE: &str = "/proc/thread-self/ns/net";

/// Tells whether a name that stands for something stands for a network namespace, and not for a file or a namespace of another kind.
#[must_use]
pub fn is_one(name: &str) -> bool {
    let Ok(file) = File::open(path(name)) else { return false };
    // SAFETY: an ioctl without argument memory, on a live descriptor; what is no namespace refuses it.
    let kind = unsafe { libc::ioctl(file.as_raw_fd(), NS_GET_NSTYPE) };
    kind == libc::CLONE_NEWNET
}

/// The namespace of the calling thread, as [`identity`] tells it.
#[must_use]
pub fn here() -> Option<(u64, u64)> {
    identity(HERE)
}

/// Finds a name by which a namespace can be opened: of `ip netns`, else a process in it. `None` when nobody is in it any more.
#[must_use]
pub fn find(wanted: (u64, u64)) -> Option<String> {
    let is_it = |name: &String| identity(name) == Some(wanted);
    named().into_iter().find(is_it).or_else(|| {
        let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let mut names = processes.map(|p| p.file_name().to_string_lossy().into_owned());
        names.find(|name| name.bytes().all(|b| b.is_ascii_digit()) && is_it(name))
    })
}

/// Moves the calling thread, for good.
///
/// # Errors
/// When it cannot be entered.
pub fn enter(netns: &Netns) -> Result<()> {
    // SAFETY: setns changes only this thread's namespace, with a live descriptor.
    let ret = unsafe { libc::setns(netns.fd.as_raw_fd(), libc::CLONE_NEWNET) };
    if ret < 0 {
        return Err(SysError::last("enter network namespace", &netns.name));
    }
    Ok(())
}

/// Lists the names of `ip netns`, sorted.
#[must_use]
pub fn named() -> Vec<String> {
    let entries = std::fs::read_dir(NAMED).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Runs `work` in the named namespace, or right here for `None`.
///
/// # Errors
/// When the namespace cannot be opened or entered.
pub fn run_in<T: Send>(netns: Option<&str>, work: impl FnOnce() -> T + Send) -> Result<T> {
    match netns {
        None => Ok(work()),
        Some(name) => Netns::open(name)?.run(work),
    }
}
