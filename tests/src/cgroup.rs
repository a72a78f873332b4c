//! A cgroup of our own, and processes in it that use sockets.
//!
//! Input: nothing. Output: a [`Cgroup`] below the root of the cgroup v2 hierarchy, wherever that is, removed when the value goes.

use crate::net::{Netns, TempDir};
use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// A cgroup without processes, or with those of [`Cgroup::run`].
pub struct Cgroup {
    name: String,
    dir: PathBuf,
    /// Where we have mounted the hierarchy, if nobody had.
    mounted: Option<TempDir>,
}

impl Cgroup {
    /// Makes one.
    ///
    /// # Errors
    /// The kernel has no cgroup v2, or we are not root.
    pub fn new() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let mounts = std::fs::read_to_string("/proc/self/mounts")?;
        let found = mounts.lines().find_map(|line| {
            let mut fields = line.split(' ');
            let place = fields.nth(1)?;
            (fields.next() == Some("cgroup2")).then(|| PathBuf::from(place))
        });
        let (root, mounted) = match found {
            Some(root) => (root, None),
            None => {
                let dir = TempDir::new()?;
                let none: Option<&str> = None;
                nix::mount::mount(none, dir.path(), Some("cgroup2"), nix::mount::MsFlags::empty(), none)
                    .context("cannot mount cgroup v2")?;
                (dir.path().to_owned(), Some(dir))
            }
        };
        let name = format!("weirtest-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = root.join(&name);
        std::fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(Self { name, dir, mounted })
    }

    /// Its path from the root of the hierarchy.
    pub fn path(&self) -> String {
        format!("/{}", self.name)
    }

    /// Its path in the file system.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Runs the closure in a process of this cgroup and the network namespace. It must not allocate much: it runs between fork and
    /// exec. What it fails with is returned.
    ///
    /// # Errors
    /// No process could be made.
    pub fn run(&self, ns: &Netns, mut work: impl FnMut() -> io::Result<()> + Send + Sync + 'static) -> Result<io::Result<()>> {
        let procs = File::options().write(true).open(self.dir.join("cgroup.procs"))?;
        let (procs_fd, ns_fd) = (procs.as_raw_fd(), ns.file().as_raw_fd());
        let mut command = Command::new("/bin/true");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // SAFETY: plain system calls on descriptors that live until the child has started; the closures of tests use sockets only.
        unsafe {
            command.pre_exec(move || {
                if libc::write(procs_fd, c"0".as_ptr().cast(), 1) != 1 || libc::setns(ns_fd, libc::CLONE_NEWNET) != 0 {
                    // Told from what the work fails with.
                    return Err(io::Error::from_raw_os_error(libc::ENOTRECOVERABLE));
                }
                work()
            });
        }
        match command.spawn() {
            Ok(mut child) => {
                ensure!(child.wait()?.success(), "the process in the cgroup failed");
                Ok(Ok(()))
            }
            Err(e) if e.raw_os_error() == Some(libc::ENOTRECOVERABLE) => {
                anyhow::bail!("a process cannot enter {} or the network namespace", self.dir.display())
            }
            Err(e) => Ok(Err(e)),
        }
    }
}

impl Cgroup {
    /// Makes a cgroup below this one.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn below(&self, name: &str) -> Result<Cgroup> {
        let dir = self.dir.join(name);
        std::fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(Cgroup {
            name: format!("{}/{name}", self.name),
            dir,
            mounted: None,
        })
    }

    /// Puts a process into this cgroup and the network namespace that does nothing and stays until the value goes.
    ///
    /// # Errors
    /// No process could be made.
    pub fn resident(&self, ns: &Netns) -> Result<Resident> {
        let procs = File::options().write(true).open(self.dir.join("cgroup.procs"))?;
        let (procs_fd, ns_fd) = (procs.as_raw_fd(), ns.file().as_raw_fd());
        let mut command = Command::new("/bin/sleep");
        command.arg("600").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // SAFETY: plain system calls on descriptors that live until the child has started.
        unsafe {
            command.pre_exec(move || {
                if libc::write(procs_fd, c"0".as_ptr().cast(), 1) != 1 || libc::setns(ns_fd, libc::CLONE_NEWNET) != 0 {
                    return Err(io::Error::last_os_error());
                }
                Ok(())
            });
        }
        Ok(Resident(command.spawn().context("cannot put a process into the cgroup")?))
    }
}

/// A process that does nothing.
pub struct Resident(Child);

impl Drop for Resident {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir(&self.dir) {
            eprintln!("test support: {}: {error}", self.dir.display());
        }
        if let Some(mounted) = &self.mounted {
            let _ = nix::mount::umount2(mounted.path(), nix::mount::MntFlags::MNT_DETACH);
        }
    }
}
