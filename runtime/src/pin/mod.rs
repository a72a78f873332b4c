//! Named instances of natives: what `pin="NAME"` keeps in the kernel when weir is gone, and what the next start takes over.
//!
//! Each has a folder `weir/NAME` in the BPF file system: the links (which alone keep packets judged), maps and programs, a `record` of
//! who it is, and a `control` map through which `weir stop` and `weir reload` speak to its owner. The owner holds a lock on the folder.
//! A start with the same name builds everything anew beside what is there, except the maps that count, and then gives each link the new
//! program: every packet is judged by the old instance or by the new one. Filters in clsact have no links; their name says whose they are.

mod admin;
mod record;

pub use admin::{Answer, Left, Status, names, reload, status, stop, visible};
pub use record::{ListState, Owner, Record};

use crate::sys::bpf::query::{self, LinkPlace, ObjectKind};
use crate::sys::bpf::{self, pin as sys};
use crate::sys::{Result as SysResult, SysError, describe, proc};
use record::Control;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Where BPF file systems are mounted by everybody.
const USUAL: &str = "/sys/fs/bpf";
/// Our own folder there.
const OURS: &str = "weir";
/// Somebody who looks holds the lock for a moment.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why a named instance cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    #[error("there is no BPF file system for pins: {0}")]
    NoFileSystem(String),
    #[error("`{name}` is pinned by a weir that runs{}", .owner.as_ref().map_or(String::new(), |o| format!(" (pid {})", o.pid)))]
    Busy { name: String, owner: Option<Owner> },
    #[error("nothing is pinned as `{name}`")]
    Unknown { name: String, known: Vec<String> },
    #[error("`{name}` is a `{native}`")]
    OtherNative { name: String, native: String },
    #[error("the weir that runs `{name}` does not answer")]
    NoAnswer { name: String },
    #[error("the weir that runs `{name}` (pid {pid}) is stopped")]
    Stopped { name: String, pid: u32 },
    #[error(transparent)]
    Sys(#[from] SysError),
}

impl PinError {
    /// What to do about it.
    #[must_use]
    pub fn help(&self) -> Option<String> {
        match self {
            PinError::NoFileSystem(_) => Some("mount one: `mount -t bpf bpf /sys/fs/bpf`".to_owned()),
            PinError::Busy { name, .. } => Some(format!(
                "take another name, or end that one: `weir stop {name}`; `weir status` says more"
            )),
            PinError::Unknown { known, .. } if known.is_empty() => Some("nothing is: `pin=\"NAME\"` in a script does it".to_owned()),
            PinError::Unknown { name, known } => {
                let near = weir_compiler::hir::nearest_name(name, known.iter().map(String::as_str));
                Some(match near {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("there are: {}", known.join(", ")),
                })
            }
            PinError::OtherNative { name, .. } => Some(format!("take another name, or end that one first: `weir stop {name}`")),
            PinError::NoAnswer { .. } => Some("`weir status` names its process".to_owned()),
            PinError::Stopped { pid, .. } => Some(format!("it does so once it goes on: `kill -CONT {pid}`")),
            PinError::Sys(e) => e.help(),
        }
    }
}

/// The process whose mounts last: of ourselves, our parent, its parent and so on the last that we may look at. Nothing where it sees what
/// we see. `ip netns exec` runs its command in a namespace of mounts with a BPF file system of its own, which ends with the command: what
/// is pinned there is gone when weir is.
fn lasting() -> Option<u32> {
    let mounts = |pid: u32| fs::metadata(format!("/proc/{pid}/ns/mnt")).map(|m| m.ino()).ok();
    let ours = mounts(std::process::id())?;
    let ancestors = std::iter::successors(Some(std::process::id()), |pid| proc::parent(*pid).filter(|p| *p != 0));
    let (pid, theirs) = ancestors.filter_map(|pid| mounts(pid).map(|m| (pid, m))).last()?;
    (theirs != ours).then_some(pid)
}

/// The usual place, as a process sees it.
fn usual(seen_by: Option<u32>) -> PathBuf {
    seen_by.map_or_else(|| PathBuf::from(USUAL), |pid| format!("/proc/{pid}/root{USUAL}").into())
}

/// Finds the BPF file system, and mounts it where nobody has.
fn file_system() -> Result<PathBuf, PinError> {
    const MAGIC: nix::sys::statfs::FsType = nix::sys::statfs::FsType(0xcafe_4a11);
    let lasting = lasting();
    let path = usual(lasting);
    if nix::sys::statfs::statfs(&path).is_ok_and(|fs| fs.filesystem_type() == MAGIC) {
        return Ok(path);
    }
    let failed = |e: io::Error| PinError::NoFileSystem(format!("mounting one at {USUAL} failed ({})", describe(&e)));
    let mount = || nix::mount::mount(Some("bpf"), USUAL, Some("bpf"), nix::mount::MsFlags::empty(), Some("mode=0700"));
    let Some(pid) = lasting else {
        mount().map_err(|e| failed(e.into()))?;
        return Ok(path);
    };
    let mounts = File::open(format!("/proc/{pid}/ns/mnt")).map_err(failed)?;
    let there = || -> nix::Result<()> {
        // A thread that shares its working directory with others may not go elsewhere.
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS)?;
        nix::sched::setns(&mounts, nix::sched::CloneFlags::CLONE_NEWNS)?;
        mount()
    };
    let result = std::thread::scope(|scope| scope.spawn(there).join());
    match result {
        Ok(done) => done.map(|()| path).map_err(|e| failed(e.into())),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Where in a BPF file system something with this name goes: a path, or a name in the usual place.
///
/// # Errors
/// There is no such file system, and none can be mounted.
pub fn path(name: &str) -> Result<PathBuf, PinError> {
    Ok(if name.starts_with('/') {
        name.into()
    } else {
        file_system()?.join(name)
    })
}

/// The folder of all named instances; nothing is made.
pub(crate) fn ours() -> Option<PathBuf> {
    Some(usual(lasting()).join(OURS)).filter(|dir| dir.is_dir())
}

/// The name of a filter in clsact that belongs to a named instance: `weir:pin:NAME[:c]`.
#[must_use]
pub fn filter_name(name: &str, made_clsact: bool) -> String {
    format!("weir:pin:{name}{}", if made_clsact { ":c" } else { "" })
}

/// Reads it: the instance, and whether weir made the qdisc.
#[must_use]
pub fn parse_filter_name(text: &str) -> Option<(&str, bool)> {
    let rest = text.strip_prefix("weir:pin:")?;
    Some(rest.strip_suffix(":c").map_or((rest, false), |name| (name, true)))
}

/// Takes the lock of a folder; `None` when somebody else has it.
fn lock(dir: &Path) -> io::Result<Option<File>> {
    let file = File::open(dir)?;
    // SAFETY: a live descriptor.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
        return Ok(Some(file));
    }
    let error = io::Error::last_os_error();
    if error.kind() == io::ErrorKind::WouldBlock {
        Ok(None)
    } else {
        Err(error)
    }
}

/// The name of a link's pin.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LinkName(String);

impl LinkName {
    pub fn xdp(ifindex: u32) -> Self {
        Self(format!("link_xdp_{ifindex}"))
    }

    pub fn tc(ifindex: u32, ingress: bool) -> Self {
        Self(format!("link_{}_{ifindex}", if ingress { "ingress" } else { "egress" }))
    }

    pub fn cgroup(hook: &str) -> Self {
        Self(format!("link_cgroup_{hook}"))
    }
}

/// A named instance that this process owns.
#[derive(Debug)]
pub struct Pin {
    name: String,
    dir: PathBuf,
    /// Held as long as we live.
    _lock: File,
    /// What its last owner left.
    before: Option<Record>,
    /// Links and filters (by interface and direction) of this start; others are let go of.
    used: Mutex<BTreeSet<LinkName>>,
    /// From now on it outlives us.
    kept: AtomicBool,
    /// Cleared away: the name may be somebody else's by now.
    cleared: AtomicBool,
    /// Somebody has ended it.
    stopped: AtomicBool,
    /// The last request to read its files again.
    asked: Mutex<u64>,
    /// What was last said of its lists.
    held: Mutex<Vec<ListState>>,
}

impl Pin {
    /// Takes a name: makes its folder, or takes over what is in it.
    ///
    /// # Errors
    /// When another weir has it, it is another native's, or there is no BPF file system.
    pub fn open(name: &str, native: &str) -> Result<Self, PinError> {
        let dir = file_system()?.join(OURS).join(name);
        let error = |e| SysError::new("take the pin", dir.display().to_string(), e);
        let deadline = Instant::now() + PATIENCE;
        let held = loop {
            fs::create_dir_all(&dir).map_err(error)?;
            let held = match lock(&dir) {
                // Between the two somebody may have removed it.
                Ok(Some(file)) if same(&file, &dir) => break file,
                Ok(held) => held,
                Err(e) if e.kind() == io::ErrorKind::NotFound => None,
                Err(e) => return Err(error(e).into()),
            };
            drop(held);
            if Instant::now() > deadline {
                return Err(PinError::Busy {
                    owner: Record::read(&dir).map(|r| r.owner),
                    name: name.to_owned(),
                });
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let before = Record::read(&dir);
        if let Some(record) = before.as_ref().filter(|r| r.native != native) {
            return Err(PinError::OtherNative {
                name: name.to_owned(),
                native: record.native.clone(),
            });
        }
        Ok(Self {
            name: name.to_owned(),
            dir,
            _lock: held,
            before,
            used: Mutex::default(),
            kept: AtomicBool::new(false),
            cleared: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            asked: Mutex::default(),
            held: Mutex::default(),
        })
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What its last owner left, if it had one.
    #[must_use]
    pub fn before(&self) -> Option<&Record> {
        self.before.as_ref()
    }

    /// Opens a map that its last owner pinned. One of another version of weir may mean something else by the same bytes.
    pub(crate) fn map(&self, symbol: &str) -> Option<OwnedFd> {
        self.before.as_ref().filter(|r| r.is_of_this_version())?;
        let (kind, fd) = query::by_pin(&self.dir.join(format!("map_{symbol}"))).ok()?;
        (kind == ObjectKind::Map).then_some(fd)
    }

    /// Reads the rules that its last owner has written down, as [`Self::map`] does.
    pub(crate) fn rules<T: DeserializeOwned>(&self) -> Option<T> {
        self.before.as_ref().filter(|r| r.is_of_this_version())?;
        record::value(&record::open_rules(&self.dir)?)
    }

    /// Writes down the rules that are in force now, for who looks when we may be gone.
    pub(crate) fn keep_rules(&self, rules: &impl Serialize) {
        if record::put_rules(&self.dir, rules).is_err() {
            // Better none than others.
            self.forget_rules();
        }
    }

    /// Others are about to be put in force: whoever kills us meanwhile leaves it open which are.
    pub(crate) fn forget_rules(&self) {
        record::forget_rules(&self.dir);
    }

    /// As [`Self::map`], if it is of the shape that is wanted now.
    pub(crate) fn kept_map(&self, symbol: &str, wanted: &bpf::MapAttr<'_>) -> Option<OwnedFd> {
        let fd = self.map(symbol)?;
        let found = bpf::map_info(fd.as_fd()).ok()?;
        let same = (found.kind, found.key_size, found.value_size, found.max_entries)
            == (wanted.kind, wanted.key_size, wanted.value_size, wanted.max_entries);
        same.then_some(fd)
    }

    /// Writes who it is, before anything is attached. Until [`Self::settle`] the maps are still its last owner's.
    pub(crate) fn introduce(&self, record: &Record) -> Result<(), PinError> {
        Control::make(&self.dir)?;
        let version = self.before.as_ref().map_or(&record.version, |before| &before.version).clone();
        let begun = Record {
            settled: false,
            version,
            ..record.clone()
        };
        begun.write(&self.dir)?;
        Ok(())
    }

    fn used(&self) -> std::sync::MutexGuard<'_, BTreeSet<LinkName>> {
        // A set that a panic left is as good as before.
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the pinned link another program. `None` when there is none, or what it was on is gone.
    pub(crate) fn adopt(&self, link: &LinkName, program: BorrowedFd<'_>, fits: impl Fn(LinkPlace) -> bool) -> SysResult<Option<OwnedFd>> {
        let path = self.dir.join(&link.0);
        let Ok((ObjectKind::Link, fd)) = query::by_pin(&path) else {
            return Ok(None);
        };
        if query::link_details(fd.as_fd()).is_ok_and(|d| fits(d.place)) {
            match sys::link_update(fd.as_fd(), program, &self.name) {
                Ok(()) => {
                    self.used().insert(link.clone());
                    self.adopted();
                    return Ok(Some(fd));
                }
                Err(e) if e.errno() == libc::ENOLINK => {}
                Err(e) => return Err(e),
            }
        }
        fs::remove_file(&path).map_err(|e| SysError::new("remove the pin", path.display().to_string(), e))?;
        Ok(None)
    }

    /// Keeps a new link.
    pub(crate) fn keep(&self, link: &LinkName, fd: BorrowedFd<'_>) -> SysResult<()> {
        sys::pin(fd, &self.dir.join(&link.0))?;
        self.used().insert(link.clone());
        Ok(())
    }

    /// Part of it is in force with what this start has made: from now on it outlives us.
    pub(crate) fn adopted(&self) {
        self.kept.store(true, Ordering::Relaxed);
    }

    /// Notes that a filter in clsact is of this start.
    pub(crate) fn keep_filter(&self, link: LinkName) {
        self.used().insert(link);
    }

    /// Lets go of the links on an interface that is gone.
    pub(crate) fn forget_interface(&self, ifindex: u32) {
        for link in [LinkName::xdp(ifindex), LinkName::tc(ifindex, true), LinkName::tc(ifindex, false)] {
            // Most of them are not there.
            let _ = fs::remove_file(self.dir.join(&link.0));
            self.used().remove(&link);
        }
    }

    /// Everything is attached: pins maps and programs, and lets go of what the last start had and this one has not.
    pub(crate) fn settle<'a>(
        &self,
        maps: impl Iterator<Item = (&'a str, BorrowedFd<'a>)>,
        programs: impl Iterator<Item = (&'a str, BorrowedFd<'a>)>,
    ) -> Result<(), PinError> {
        let mut files = BTreeSet::new();
        let maps = maps.map(|(symbol, fd)| (format!("map_{symbol}"), fd));
        for (file, fd) in maps.chain(programs.map(|(symbol, fd)| (format!("prog_{symbol}"), fd))) {
            replace(fd, &self.dir, &file)?;
            files.insert(file);
        }
        self.adopted();
        let used = self.used().clone();
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let file = entry.file_name().to_string_lossy().into_owned();
            if file.starts_with("link_") && !used.contains(&LinkName(file.clone())) {
                admin::let_go(&entry.path())?;
            } else if (file.starts_with("map_") || file.starts_with("prog_")) && !files.contains(&file) {
                // What is left keeps nothing in force.
                let _ = fs::remove_file(entry.path());
            }
        }
        let of_this_start = |ifindex, ingress| used.contains(&LinkName::tc(ifindex, ingress));
        if let Some(mut record) = Record::read(&self.dir) {
            admin::remove_filters(&self.name, &record, &of_this_start)?;
            if self.before.is_some() {
                // The last owner's; ours are written once we have started, which we have where nothing was taken over.
                self.forget_rules();
            }
            record.settled = true;
            record.version = env!("CARGO_PKG_VERSION").to_owned();
            record.write(&self.dir)?;
        }
        Ok(())
    }

    /// Whether somebody has ended it since; from then on it is no longer ours to keep.
    pub(crate) fn is_stopped(&self) -> bool {
        if !self.stopped.load(Ordering::Relaxed) && Control::open(&self.dir).is_none_or(|c| c.stopped()) {
            self.stopped.store(true, Ordering::Relaxed);
        }
        self.stopped.load(Ordering::Relaxed)
    }

    /// Says how full its lists are, for who asks when we may be gone.
    pub(crate) fn hold(&self, lists: Vec<ListState>) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        // Before it is in force, what is in force may be the last owner's, whose lists nobody tells from our start on: the control map is
        // ours then. Once it has been ended, the name may be somebody else's.
        if *held != lists
            && self.kept.load(Ordering::Relaxed)
            && !self.is_stopped()
            && let Some(control) = Control::open(&self.dir)
        {
            control.hold(&lists);
            *held = lists;
        }
    }

    /// A request to read its files again that has not been answered.
    pub(crate) fn asked_to_reload(&self) -> Option<u64> {
        let request = Control::open(&self.dir)?.request();
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        (request != *asked).then(|| {
            *asked = request;
            request
        })
    }

    /// Answers it.
    pub(crate) fn answer(&self, request: u64, good: bool, text: &str) {
        if let Some(control) = Control::open(&self.dir) {
            control.answer(
                request,
                &Answer {
                    good,
                    text: text.to_owned(),
                },
            );
        }
    }

    /// Whether it goes on when we end.
    #[must_use]
    pub fn outlives(&self) -> bool {
        self.kept.load(Ordering::Relaxed) && !self.stopped.load(Ordering::Relaxed)
    }
}

impl Pin {
    /// After a start that failed, or when somebody has ended it: nothing of it stays. Nobody is left to hear of failures.
    pub(crate) fn clear_away(&self) {
        let over = self.stopped.load(Ordering::Relaxed) || (!self.kept.load(Ordering::Relaxed) && self.before.is_none());
        if over {
            if !self.cleared.swap(true, Ordering::Relaxed) {
                let _ = admin::remove(&self.name, &self.dir);
            }
        } else if !self.kept.load(Ordering::Relaxed)
            && let Some(before) = &self.before
        {
            // What is in force is all its last owner's, and so is what is said of it.
            let _ = before.write(&self.dir);
        }
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.clear_away();
    }
}

/// Whether a path still stands for an open folder.
fn same(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

/// Pins an object in the place of whatever has the name.
fn replace(object: BorrowedFd<'_>, dir: &Path, file: &str) -> SysResult<()> {
    let (new, path) = (dir.join(format!("new_{file}")), dir.join(file));
    // Of a start that was killed here.
    let _ = fs::remove_file(&new);
    sys::pin(object, &new)?;
    fs::rename(&new, &path).map_err(|e| SysError::new("pin", path.display().to_string(), e))
}

/// Makes a map of one kind: an array of bytes.
fn byte_array(name: &str, value_size: u32, max_entries: u32) -> SysResult<OwnedFd> {
    const ARRAY: u32 = 2;
    bpf::map_create(&bpf::MapAttr {
        name,
        kind: ARRAY,
        key_size: 4,
        value_size,
        max_entries,
        ..bpf::MapAttr::default()
    })
}

/// Who we are.
pub(crate) fn this_process() -> Owner {
    let pid = std::process::id();
    Owner {
        pid,
        start: proc::start_time(pid).unwrap_or(0),
        pid_namespace: proc::pid_namespace(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_filters_say_whose_they_are() {
        assert_eq!(parse_filter_name(&filter_name("bad-hosts", true)), Some(("bad-hosts", true)));
        assert_eq!(parse_filter_name(&filter_name("bad", false)), Some(("bad", false)));
        assert_eq!(parse_filter_name("weir:12:34:56:c"), None);
    }

    #[test]
    fn unknown_names_are_answered_with_the_nearest() {
        let unknown = |known: &[&str]| {
            let known = known.iter().map(|n| (*n).to_owned()).collect();
            PinError::Unknown {
                name: "bads".to_owned(),
                known,
            }
            .help()
            .unwrap()
        };
        assert_eq!(unknown(&["bad", "pods"]), "did you mean `bad`?");
        assert_eq!(unknown(&["pods", "zone"]), "there are: pods, zone");
        assert!(unknown(&[]).contains("pin="));
    }
}
