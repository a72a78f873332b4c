//! Removes clsact filters whose owner died: a helper process that outlives us by a moment, and [`clean`].
//!
//! The helper is our own executable with a hidden argument. It reads lines from a pipe and does nothing until the
//! pipe ends, which it does however we die; then it removes the filters whose owner is gone. Only used on kernels without tcx.

use super::Observer;
use super::tc::{Tag, remove_clsact_if_empty};
use super::turn::Turn;
use crate::error::{Error, Left, Notice};
use crate::sys::netlink::{Filter, Link, Netlink};
use crate::sys::netns::{self, Netns};
use crate::sys::{Result as SysResult, SysError};
use std::ffi::OsString;
use std::io::{BufRead, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

/// The argument with which the binary must call [`reaper_main`].
pub const REAPER_ARG: &str = "__reap";

/// The last line of an owner that has cleaned up itself.
const DONE: &str = "done\n";
/// The last line of an owner that could not remove everything: the helper tries, and ends with a failure if it cannot either.
const SWEEP: &str = "sweep\n";
/// Before what the owner could not remove, and the entry that it is on.
const LEFT: &str = "left ";
/// Before the name of a network namespace that is to be let go of.
const LEAVE: &str = "leave ";

/// An interface that has, or is about to have, a filter of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub netns: Option<String>,
    pub ifindex: u32,
    pub iface: String,
    /// The owner is about to make the clsact qdisc; until it has a filter in it nothing else says whose that is.
    pub makes_clsact: bool,
}

impl Entry {
    /// One line; interface names have no blanks, namespaces come last.
    fn to_line(&self) -> String {
        format!(
            "{} {} {} {}\n",
            self.ifindex,
            self.iface,
            u8::from(self.makes_clsact),
            self.netns.as_deref().unwrap_or("")
        )
    }

    fn parse(line: &str) -> Option<Self> {
        let mut parts = line.trim_end_matches('\n').splitn(4, ' ');
        Some(Self {
            ifindex: parts.next()?.parse().ok()?,
            iface: parts.next()?.to_owned(),
            makes_clsact: parts.next()? == "1",
            netns: parts.next().filter(|n| !n.is_empty()).map(str::to_owned),
        })
    }
}

/// One filter on an interface: direction, priority, handle.
type Place = (bool, u16, u32);

/// One thing that stays, as the helper is told: `left INGRESS PRIORITY HANDLE ENTRY` for a filter. Of a qdisc the entry says enough; it has
/// no filter, and no filter has the handle 0.
fn left_line(entry: &Entry, left: &Left) -> String {
    let (ingress, priority, handle) = match left {
        Left::Filter {
            direction,
            priority,
            handle,
            ..
        } => (*direction == "ingress", *priority, *handle),
        Left::Qdisc { .. } => (true, 0, 0),
    };
    format!("{LEFT}{} {priority} {handle} {}", u8::from(ingress), entry.to_line())
}

/// Reads such a line without its first word.
fn parse_left(line: &str) -> Option<(Place, Entry)> {
    let mut parts = line.splitn(4, ' ');
    let place = (parts.next()? == "1", parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    Some((place, Entry::parse(parts.next()?)?))
}

/// What the owner could not remove. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Remains(Arc<Mutex<Vec<(Entry, Left)>>>);

impl Remains {
    pub fn add(&self, remains: (Entry, Left)) {
        self.0.lock().unwrap_or_else(|e| e.into_inner()).push(remains);
    }

    /// Takes out what stays on these interfaces.
    fn take(&self, of: impl Fn(&Entry) -> bool) -> Vec<(Entry, Left)> {
        let mut all = self.0.lock().unwrap_or_else(|e| e.into_inner());
        all.extract_if(.., |(entry, _)| of(entry)).collect()
    }
}

/// The helper process. Dropping it lets it go; what the owner could not remove it tries once more, and what stays all the same is said.
pub struct Reaper {
    child: Child,
    remains: Remains,
    observer: Observer,
}

impl Reaper {
    /// Starts our own executable with `args` as the helper.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(args: &[OsString], observer: &Observer) -> Result<Self, Error> {
        let mut command = Command::new("/proc/self/exe");
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        // SAFETY: setsid is async-signal-safe and touches no memory of ours.
        unsafe {
            command.pre_exec(|| {
                // Away from the terminal's group: Ctrl-C is for the owner.
                libc::setsid();
                Ok(())
            });
        }
        let child = command.spawn().map_err(|e| SysError::new("start helper", "/proc/self/exe", e))?;
        let mut reaper = Self {
            child,
            remains: Remains::default(),
            observer: observer.clone(),
        };
        reaper.send(&format!("{}\n", Tag::ours(false)))?;
        Ok(reaper)
    }

    /// Where to leave word of what cannot be removed.
    #[must_use]
    pub fn remains(&self) -> Remains {
        self.remains.clone()
    }

    /// Tells the helper of an interface to look at after our death.
    ///
    /// # Errors
    /// When the helper is gone.
    pub fn watch(&mut self, entry: &Entry) -> SysResult<()> {
        self.send(&entry.to_line())
    }

    /// Lets go of a network namespace whose name is gone: the helper's hold would keep it alive. It removes the filters there that have
    /// been dropped, which we can no longer reach ourselves.
    ///
    /// # Errors
    /// When the helper is gone.
    pub fn leave(&mut self, netns: &str) -> SysResult<()> {
        let left = self.remains.take(|entry| entry.netns.as_deref() == Some(netns));
        let left = left.iter().map(|(entry, left)| left_line(entry, left)).collect::<String>();
        self.send(&format!("{left}{LEAVE}{netns}\n"))
    }

    fn send(&mut self, line: &str) -> SysResult<()> {
        let error = |e| SysError::new("reach helper", "reaper", e);
        let pipe = self
            .child
            .stdin
            .as_mut()
            .ok_or_else(|| error(std::io::Error::from_raw_os_error(libc::EPIPE)))?;
        pipe.write_all(line.as_bytes()).map_err(error)
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        let remains = self.remains.take(|_| true);
        let told = remains.iter().map(|(entry, left)| left_line(entry, left)).collect::<String>();
        let _ = self.send(&(told + if remains.is_empty() { DONE } else { SWEEP }));
        drop(self.child.stdin.take());
        let done = self.child.wait().is_ok_and(|status| status.success());
        for (entry, left) in remains.into_iter().filter(|_| !done) {
            let Entry { netns, iface, .. } = entry;
            if netns.as_deref().is_some_and(|name| netns::identity(name).is_none()) {
                // It goes with its namespace, to which no command leads.
                continue;
            }
            (self.observer)(&Notice::Remains { iface, netns, left });
        }
    }
}

/// The helper's whole life: reads entries until the pipe ends, then removes what is stale on those interfaces.
/// Call it first thing in `main` when the first argument is [`REAPER_ARG`], and end with a failure when it returns false: an owner that could
/// not remove everything itself then hears that something is left.
#[must_use]
pub fn reaper_main() -> bool {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGPIPE] {
        // SAFETY: ignoring a signal installs no handler.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    let mut lines = std::io::stdin().lock().lines().map_while(Result::ok);
    let Some(owner) = lines.next().as_deref().and_then(Tag::parse) else {
        return false;
    };
    let mut watched: Vec<(Entry, Option<Netns>)> = Vec::new();
    let mut left: Vec<(Place, Entry)> = Vec::new();
    for line in lines {
        if line == DONE.trim_end() {
            return true;
        }
        if line == SWEEP.trim_end() {
            let results: Vec<bool> = left.iter().map(|left| remove_left(left, &watched, &owner)).collect();
            return !results.contains(&false);
        }
        if let Some(name) = line.strip_prefix(LEAVE) {
            for left in left.extract_if(.., |(_, entry)| entry.netns.as_deref() == Some(name)) {
                let _ = remove_left(&left, &watched, &owner);
            }
            watched.retain(|(entry, _)| entry.netns.as_deref() != Some(name));
            continue;
        }
        if let Some(line) = line.strip_prefix(LEFT) {
            left.extend(parse_left(line));
            continue;
        }
        let Some(entry) = Entry::parse(&line) else { break };
        // Opened now: the name may be gone later, the namespace is not as long as we hold it.
        let netns = entry.netns.as_deref().and_then(|n| Netns::open(n).ok());
        // What was said last of an interface counts.
        watched.retain(|(known, _)| (&known.netns, known.ifindex) != (&entry.netns, entry.ifindex));
        watched.push((entry, netns));
    }
    // The pipe ends while the owner is still dying.
    while !owner.is_stale() {
        let something_left = |(entry, netns): &(Entry, Option<Netns>)| entry.makes_clsact || has_filters(entry, netns.as_ref(), &owner);
        if !watched.iter().any(something_left) {
            return true;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    for (entry, netns) in &watched {
        let _ = remove(entry, netns.as_ref(), |_, tag| tag.is_stale());
    }
    true
}

/// Removes what a living owner could not, and nothing else of it: several sessions of one process, each with a helper of its own, may have
/// filters on one interface, and all bear the same name.
fn remove_left((place, entry): &(Place, Entry), watched: &[(Entry, Option<Netns>)], owner: &Tag) -> bool {
    let known = |(known, _): &&(Entry, Option<Netns>)| (&known.netns, known.ifindex) == (&entry.netns, entry.ifindex);
    let netns = watched.iter().find(known).and_then(|(_, netns)| netns.as_ref());
    remove(entry, netns, |filter, tag| {
        tag.is_same_owner(owner) && (filter.ingress, filter.priority, filter.handle) == *place
    })
}

/// Removes the filters that `which` picks from an entry's interface, and a clsact that is then nobody's. Returns whether nothing is left.
fn remove(entry: &Entry, netns: Option<&Netns>, which: impl Fn(&Filter, &Tag) -> bool + Sync) -> bool {
    let link = Link {
        ifindex: entry.ifindex,
        name: entry.iface.clone(),
        ..Link::default()
    };
    let clean = || -> SysResult<()> {
        let turn = Turn::take();
        let removed = clean_link_of(&turn, &link, &which);
        if entry.makes_clsact {
            remove_clsact_if_empty(&turn, &mut Netlink::open()?, link.ifindex, &link.name)?;
        }
        removed.map(drop)
    };
    let result = match (netns, &entry.netns) {
        (Some(netns), _) => netns.run(clean).flatten(),
        (None, None) => clean(),
        // It was there and could not be opened.
        (None, Some(name)) if netns::identity(name).is_some() => return false,
        // The namespace was gone when we heard of it, and its interfaces with it.
        (None, Some(_)) => Ok(()),
    };
    result.is_ok()
}

/// Returns whether the owner's filters are still there.
fn has_filters(entry: &Entry, netns: Option<&Netns>, owner: &Tag) -> bool {
    let look = || -> SysResult<bool> {
        let mut netlink = Netlink::open()?;
        for ingress in [true, false] {
            if netlink
                .filters(entry.ifindex, ingress, &entry.iface)?
                .iter()
                .filter_map(|f| Tag::parse(&f.name))
                .any(|t| t.is_same_owner(owner))
            {
                return Ok(true);
            }
        }
        Ok(false)
    };
    let result = match (netns, &entry.netns) {
        (Some(netns), _) => netns.run(look),
        (None, None) => Ok(look()),
        (None, Some(name)) => return netns::identity(name).is_some(),
    };
    matches!(result, Ok(Ok(true)))
}

/// Removes the filters of dead owners from one interface, in the calling thread's network namespace.
///
/// # Errors
/// What the kernel says.
pub fn clean_link(turn: &Turn, link: &Link) -> SysResult<usize> {
    clean_link_of(turn, link, &|_, tag| tag.is_stale())
}

fn clean_link_of(turn: &Turn, link: &Link, which: &dyn Fn(&Filter, &Tag) -> bool) -> SysResult<usize> {
    let mut netlink = Netlink::open()?;
    let mut removed = 0;
    let mut made_clsact = false;
    for ingress in [true, false] {
        for filter in netlink.filters(link.ifindex, ingress, &link.name)? {
            let Some(tag) = Tag::parse(&filter.name).filter(|tag| which(&filter, tag)) else {
                continue;
            };
            match netlink.filter_delete(&filter, &link.name) {
                Ok(()) => removed += 1,
                Err(e) if e.errno() == libc::ENOENT => {}
                Err(e) => return Err(e),
            }
            made_clsact |= tag.made_clsact;
        }
    }
    if made_clsact {
        remove_clsact_if_empty(turn, &mut netlink, link.ifindex, &link.name)?;
    }
    Ok(removed)
}

/// A filter whose owner is dead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stale {
    pub netns: Option<String>,
    pub iface: String,
    pub ingress: bool,
    pub priority: u16,
    pub handle: u32,
    /// The process that made it.
    pub owner: u32,
}

/// Calls `here` in our network namespace and in those of `ip netns`; others are left out when they cannot be entered.
fn everywhere<T: Send>(here: impl Fn(Option<&str>) -> SysResult<Vec<T>> + Sync) -> SysResult<Vec<T>> {
    let mut all = here(None)?;
    // Ours may have a name, too.
    let own = netns::here();
    for name in netns::named().into_iter().filter(|name| netns::identity(name) != own) {
        if let Ok(Ok(found)) = netns::run_in(Some(&name), || here(Some(&name))) {
            all.extend(found);
        }
    }
    Ok(all)
}

/// Finds the filters of dead owners on every interface of our network namespace and of those of `ip netns`.
///
/// # Errors
/// When our own namespace cannot be looked at.
pub fn stale() -> SysResult<Vec<Stale>> {
    everywhere(|netns| {
        let mut netlink = Netlink::open()?;
        let mut all = Vec::new();
        for link in netlink.links()? {
            for ingress in [true, false] {
                for filter in netlink.filters(link.ifindex, ingress, &link.name)? {
                    if let Some(tag) = Tag::parse(&filter.name).filter(Tag::is_stale) {
                        all.push(Stale {
                            netns: netns.map(str::to_owned),
                            iface: link.name.clone(),
                            ingress,
                            priority: filter.priority,
                            handle: filter.handle,
                            owner: tag.pid,
                        });
                    }
                }
            }
        }
        Ok(all)
    })
}

/// Removes what [`stale`] finds, and says how many that were.
///
/// # Errors
/// When our own namespace cannot be looked at.
pub fn clean() -> SysResult<usize> {
    let removed = everywhere(|_| {
        let links = Netlink::open()?.links()?;
        let turn = Turn::take();
        links.iter().map(|link| clean_link(&turn, link)).collect::<SysResult<Vec<usize>>>()
    })?;
    Ok(removed.into_iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_survive_the_pipe() {
        for netns in [None, Some("blue".to_owned()), Some("/proc/7/ns/net".to_owned())] {
            let entry = Entry {
                netns,
                ifindex: 3,
                iface: "veth0".to_owned(),
                makes_clsact: true,
            };
            assert_eq!(Entry::parse(&entry.to_line()), Some(entry.clone()));
            let filter = Left::Filter {
                direction: "egress",
                priority: 40000,
                handle: 7,
                error: "no memory".to_owned(),
            };
            let qdisc = Left::Qdisc { error: String::new() };
            for (left, place) in [(filter, (false, 40000, 7)), (qdisc, (true, 0, 0))] {
                let line = left_line(&entry, &left);
                assert_eq!(line.strip_prefix(LEFT).and_then(parse_left), Some((place, entry.clone())));
            }
        }
        assert_eq!(Entry::parse("x"), None);
    }
}
