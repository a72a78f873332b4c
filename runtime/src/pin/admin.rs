//! Named instances from outside: listing them, ending one, asking one to read its files again.

use super::record::{self, Control, ListState};
use super::{OURS, PinError, Record, lock, ours, parse_filter_name};
use crate::attach::tc::remove_clsact_if_empty;
use crate::attach::turn::Turn;
use crate::inspect::MapState;
use crate::inspect::maps::state;
use crate::sys::bpf::query::{self, LinkPlace, ObjectKind};
use crate::sys::netlink::{Filter, Link, Netlink};
use crate::sys::netns::{self, Netns};
use crate::sys::{Result as SysResult, SysError, bpf, proc};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long an owner has for an answer: reading a long list takes a while.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// Long enough for one that is about to go on.
const STOPPED_FOR: Duration = Duration::from_secs(2);

/// How long an owner has been waited for.
struct Patience {
    since: Instant,
    owner: Option<u32>,
    /// Since when it has been stopped whenever it was looked at. A debugger stops one for moments.
    stopped_since: Option<Instant>,
}

impl Patience {
    fn with(record: Option<&Record>) -> Self {
        // A number of another pid namespace is somebody else's here.
        let ours = record.map(|r| &r.owner).filter(|o| o.pid_namespace == proc::pid_namespace());
        Self {
            since: Instant::now(),
            owner: ours.map(|o| o.pid),
            stopped_since: None,
        }
    }

    /// Waits a little.
    ///
    /// # Errors
    /// When it takes too long, or the owner does nothing at all.
    fn wait(&mut self, name: &str) -> Result<(), PinError> {
        let name = || name.to_owned();
        if let Some(pid) = self.owner.filter(|pid| proc::is_stopped(*pid)) {
            if self.stopped_since.get_or_insert_with(Instant::now).elapsed() > STOPPED_FOR {
                return Err(PinError::Stopped { name: name(), pid });
            }
        } else {
            self.stopped_since = None;
        }
        if self.since.elapsed() > ANSWER_WITHIN {
            return Err(PinError::NoAnswer { name: name() });
        }
        std::thread::sleep(Duration::from_millis(20));
        Ok(())
    }
}

/// A named instance as a person wants to see it.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    pub name: String,
    /// Nothing when its start was killed before it had said.
    #[serde(flatten)]
    pub record: Option<Record>,
    /// Whether the weir of its last start runs.
    pub owner_alive: bool,
    /// Where its programs are: `xdp:veth0`, `tc:veth0:ingress`, `cgroup:sock_create`. Empty: it judges nothing.
    pub attached: Vec<String>,
    /// How full its lists are.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lists: Vec<ListState>,
    /// Maps that can be full.
    pub maps: Vec<MapState>,
}

/// What an owner says to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub good: bool,
    pub text: String,
}

/// What somebody has left in force under a name: open, so that it can be read when the name has been given back.
#[derive(Debug)]
pub struct Left {
    pub record: Record,
    /// As its owner last said.
    pub lists: Vec<ListState>,
    /// By their names there.
    maps: HashMap<String, OwnedFd>,
    rules: Option<OwnedFd>,
}

impl Left {
    /// Opens it; `None` where there is no name, or nobody has said what it stands for.
    #[must_use]
    pub fn open(name: &str) -> Option<Self> {
        let dir = folder(name).ok()?;
        let record = Record::read(&dir)?;
        let is_known = record.is_of_this_version() && record.settled;
        let files = fs::read_dir(&dir).into_iter().flatten().flatten().map(|e| e.path());
        let map = |path: std::path::PathBuf| {
            let symbol = path.file_name()?.to_str()?.strip_prefix("map_")?.to_owned();
            let (kind, fd) = query::by_pin(&path).ok()?;
            (kind == ObjectKind::Map).then_some((symbol, fd))
        };
        Some(Self {
            record,
            lists: Control::open(&dir).map(|control| control.lists()).unwrap_or_default(),
            maps: files.filter(|_| is_known).filter_map(map).collect(),
            rules: record::open_rules(&dir).filter(|_| is_known),
        })
    }

    /// A map by its symbol. One of another version of weir may mean something else by the same bytes.
    pub(crate) fn map(&self, symbol: &str) -> Option<OwnedFd> {
        self.maps.get(symbol)?.try_clone().ok()
    }

    /// The rules that its owner has written down.
    pub(crate) fn rules<T: DeserializeOwned>(&self) -> Option<T> {
        record::value(self.rules.as_ref()?)
    }
}

/// Whether this process may see what is pinned.
///
/// # Errors
/// The folder is there, and reading it is refused.
pub fn visible() -> Result<(), PinError> {
    let dir = super::usual(super::lasting());
    match fs::read_dir(&dir) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Err(SysError::new("read", dir.display().to_string(), e).into()),
        _ => Ok(()),
    }
}

/// Lists the names that are taken.
#[must_use]
pub fn names() -> Vec<String> {
    let entries = ours().and_then(|dir| fs::read_dir(dir).ok()).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The folder of a name that is taken.
fn folder(name: &str) -> Result<std::path::PathBuf, PinError> {
    let known = names();
    match ours() {
        Some(dir) if known.iter().any(|k| k == name) => Ok(dir.join(name)),
        _ => Err(PinError::Unknown {
            name: name.to_owned(),
            known,
        }),
    }
}

/// Runs in the namespace that the interfaces of an instance are in; `None` when that is gone.
fn there<T: Send>(record: &Record, work: impl FnOnce() -> T + Send) -> Option<T> {
    if netns::here() == Some(record.netns) {
        return Some(work());
    }
    Netns::open(&netns::find(record.netns)?).ok()?.run(work).ok()
}

fn links(record: &Record) -> Vec<Link> {
    there(record, || Netlink::open().and_then(|mut n| n.links()))
        .and_then(Result::ok)
        .unwrap_or_default()
}

/// Looks at one named instance.
///
/// # Errors
/// When there is none of the name.
pub fn status(name: &str) -> Result<Status, PinError> {
    let dir = folder(name)?;
    let record = Record::read(&dir);
    let owner_alive = matches!(lock(&dir), Ok(None));
    let links = record.as_ref().map(links).unwrap_or_default();
    let iface = |ifindex: u32| {
        let found = links.iter().find(|l| l.ifindex == ifindex);
        found.map_or_else(|| format!("interface {ifindex}"), |l| l.name.clone())
    };
    let (mut attached, mut maps) = (Vec::new(), Vec::new());
    let mut files: Vec<_> = fs::read_dir(&dir).into_iter().flatten().flatten().map(|e| e.path()).collect();
    files.sort();
    for path in files {
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Ok((kind, fd)) = query::by_pin(&path) else { continue };
        match kind {
            ObjectKind::Map if file.starts_with("map_") => {
                maps.extend(state(fd.as_fd(), true).ok().filter(|m| m.can_fill));
            }
            ObjectKind::Link => match query::link_details(fd.as_fd()).map(|d| d.place) {
                Ok(LinkPlace::Xdp { ifindex }) if ifindex != 0 => attached.push(format!("xdp:{}", iface(ifindex))),
                Ok(LinkPlace::Tcx { ifindex, .. }) if ifindex != 0 => {
                    let direction = if file.starts_with("link_ingress") { "ingress" } else { "egress" };
                    attached.push(format!("tc:{}:{direction}", iface(ifindex)));
                }
                Ok(LinkPlace::Cgroup { cgroup_id, .. }) if cgroup_id != 0 => {
                    attached.push(format!("cgroup:{}", file.trim_start_matches("link_cgroup_")));
                }
                _ => {}
            },
            _ => {}
        }
    }
    if let Some(record) = &record {
        let filters = there(record, || filters(name, &links)).and_then(Result::ok).unwrap_or_default();
        for (link, filter, _) in filters {
            let direction = if filter.ingress { "ingress" } else { "egress" };
            attached.push(format!("tc:{}:{direction}", link.name));
        }
    }
    Ok(Status {
        name: name.to_owned(),
        record,
        owner_alive,
        attached,
        lists: Control::open(&dir).map(|control| control.lists()).unwrap_or_default(),
        maps,
    })
}

/// The filters of an instance in clsact chains, each with whether weir made the qdisc.
fn filters(name: &str, links: &[Link]) -> SysResult<Vec<(Link, Filter, bool)>> {
    let mut found = Vec::new();
    let mut netlink = Netlink::open()?;
    for link in links {
        for ingress in [true, false] {
            for filter in netlink.filters(link.ifindex, ingress, &link.name)? {
                let made = match parse_filter_name(&filter.name) {
                    Some((owner, made)) if owner == name => made,
                    _ => continue,
                };
                found.push((link.clone(), filter, made));
            }
        }
    }
    Ok(found)
}

/// Removes filters in clsact chains, except those that are to stay.
pub(super) fn remove_filters(name: &str, record: &Record, stays: &(dyn Fn(u32, bool) -> bool + Sync)) -> SysResult<()> {
    let go = || -> SysResult<Vec<(Link, Filter, bool)>> {
        let mut all = filters(name, &Netlink::open()?.links()?)?;
        all.retain(|(link, filter, _)| !stays(link.ifindex, filter.ingress));
        Ok(all)
    };
    let work = || -> SysResult<()> {
        // Mostly there are none, and who has the turn need not be waited for.
        if go()?.is_empty() {
            return Ok(());
        }
        let turn = Turn::take();
        for (link, filter, made) in go()? {
            let mut netlink = Netlink::open()?;
            match netlink.filter_delete(&filter, &link.name) {
                Err(e) if e.errno() != libc::ENOENT => return Err(e),
                _ => {}
            }
            if made {
                remove_clsact_if_empty(&turn, &mut netlink, link.ifindex, &link.name)?;
            }
        }
        Ok(())
    };
    there(record, work).unwrap_or(Ok(()))
}

/// Takes a link from what it is on, whoever else holds it, and removes its pin.
pub(super) fn let_go(path: &Path) -> SysResult<()> {
    if let Ok((ObjectKind::Link, fd)) = query::by_pin(path) {
        match bpf::link_detach(fd.as_fd(), &path.display().to_string()) {
            // Gone already, by itself.
            Err(e) if !matches!(e.errno(), libc::ENOLINK | libc::ENOENT | libc::ENODEV) => return Err(e),
            _ => {}
        }
    }
    fs::remove_file(path).map_err(|e| SysError::new("remove the pin", path.display().to_string(), e))
}

/// Ends an instance: nothing of it is left.
pub(super) fn remove(name: &str, dir: &Path) -> SysResult<()> {
    if let Some(record) = Record::read(dir) {
        remove_filters(name, &record, &|_, _| false)?;
    }
    let paths = fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path());
    // The record goes last: until then it can be ended once more.
    let (record, others): (Vec<_>, Vec<_>) = paths.partition(|p| p.file_name().is_some_and(|f| f == "record"));
    for path in others.into_iter().chain(record) {
        let_go(&path)?;
    }
    match fs::remove_dir(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            return Err(SysError::new("remove the pin", dir.display().to_string(), e));
        }
        _ => {}
    }
    if let Some(all) = dir.parent().filter(|p| p.ends_with(OURS)) {
        // Only when it was the last one.
        let _ = fs::remove_dir(all);
    }
    Ok(())
}

/// Ends a named instance. Its owner, if it runs, ends too; the pid is given then.
///
/// # Errors
/// When there is none of the name, or the kernel refuses.
pub fn stop(name: &str) -> Result<Option<u32>, PinError> {
    let dir = folder(name)?;
    let error = |e| SysError::new("take the pin", dir.display().to_string(), e);
    if let Some(_lock) = lock(&dir).map_err(error)? {
        remove(name, &dir)?;
        return Ok(None);
    }
    let record = Record::read(&dir);
    if let Some(control) = Control::open(&dir) {
        control.stop();
    }
    // It looks about once a second, removes everything, and ends.
    let mut patience = Patience::with(record.as_ref());
    while dir.exists() {
        match lock(&dir) {
            // It ended without, or died.
            Ok(Some(_lock)) => {
                remove(name, &dir)?;
                break;
            }
            _ => patience.wait(name)?,
        }
    }
    Ok(record.map(|r| r.owner.pid))
}

/// Asks the owner of a named instance to read its files again. `None` when it has no owner: then a start has to do it.
///
/// # Errors
/// When there is none of the name, or its owner does not answer.
pub fn reload(name: &str) -> Result<Option<Answer>, PinError> {
    let dir = folder(name)?;
    let is_free = || lock(&dir).map(|l| l.is_some());
    let error = |e| SysError::new("take the pin", dir.display().to_string(), e);
    let Some(control) = Control::open(&dir).filter(|_| !is_free().unwrap_or(true)) else {
        return Ok(None);
    };
    let number = proc::clock_ns(libc::CLOCK_BOOTTIME);
    control.ask(number);
    let mut patience = Patience::with(Record::read(&dir).as_ref());
    loop {
        if let Some(answer) = control.answer_to(number) {
            return Ok(Some(answer));
        }
        if is_free().map_err(error)? {
            return Ok(None);
        }
        patience.wait(name)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    use std::process::Command;

    #[test]
    fn only_an_owner_that_stays_stopped_is_stopped() {
        let mut owner = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = owner.id();
        let signal = |signal, stopped| {
            kill(Pid::from_raw(pid.cast_signed()), signal).unwrap();
            let end = Instant::now() + Duration::from_secs(5);
            while proc::is_stopped(pid) != stopped && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(1));
            }
            assert_eq!(proc::is_stopped(pid), stopped);
        };
        let long_ago = Instant::now().checked_sub(STOPPED_FOR * 5).unwrap();
        let mut patience = Patience {
            since: long_ago,
            owner: Some(pid),
            stopped_since: None,
        };
        signal(Signal::SIGSTOP, true);
        // However long it was waited for before.
        assert!(patience.wait("a").is_ok() && patience.wait("a").is_ok());
        signal(Signal::SIGCONT, false);
        patience.stopped_since = Some(long_ago);
        assert!(patience.wait("a").is_ok());
        signal(Signal::SIGSTOP, true);
        assert!(patience.wait("a").is_ok());
        patience.stopped_since = Some(long_ago);
        let result = patience.wait("a");
        owner.kill().unwrap();
        owner.wait().unwrap();
        assert!(matches!(result, Err(PinError::Stopped { pid: of, .. }) if of == pid), "{result:?}");
    }
}
