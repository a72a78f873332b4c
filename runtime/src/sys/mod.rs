//! Thin wrappers around the system calls that weir needs, with typed errors. No policy here.

pub mod bpf;
pub mod cgroup;
pub mod mmap;
pub mod mount;
pub mod netlink;
pub mod netns;
pub mod perf;
pub mod proc;
pub mod terminal;
pub mod tracefs;

use std::io;

/// What was tried when an existing program could not be linked to its place.
pub const ATTACH: &str = "attach to";

/// A system call that the kernel refused: what was tried, on what, and why.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} `{object}`: {source}")]
pub struct SysError {
    /// A verb phrase: `create map`.
    pub what: &'static str,
    /// The name of the thing, in the user's words.
    pub object: String,
    pub source: io::Error,
}

impl SysError {
    pub fn new(what: &'static str, object: impl Into<String>, source: io::Error) -> Self {
        Self {
            what,
            object: object.into(),
            source,
        }
    }

    /// Makes one from the calling thread's `errno`.
    pub fn last(what: &'static str, object: impl Into<String>) -> Self {
        Self::new(what, object, io::Error::last_os_error())
    }

    /// Returns the errno, 0 when there is none.
    #[must_use]
    pub fn errno(&self) -> i32 {
        self.source.raw_os_error().unwrap_or(0)
    }

    /// Says what a person can do about it, where the errno tells.
    #[must_use]
    pub fn help(&self) -> Option<String> {
        match self.errno() {
            libc::EPERM | libc::EACCES => Some(
                "run as root, or with the capabilities CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN; in a container the seccomp profile may refuse \
                 bpf(2) too"
                    .to_owned(),
            ),
            libc::EMFILE => Some("allow weir more open files (`ulimit -n`), or narrow the pattern: every probe takes one".to_owned()),
            libc::ENOMEM => Some("the kernel has no memory for it; make maps smaller (`max_map_keys`)".to_owned()),
            _ => None,
        }
    }
}

/// Returns an error's words without the number that the standard library puts behind them.
#[must_use]
pub fn describe(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

pub type Result<T> = std::result::Result<T, SysError>;
