//! `tc:IFACE:ingress|egress`: a tcx link where the kernel has them, else a filter in the clsact qdisc.
//!
//! A clsact filter is not tied to a descriptor. Its name says who owns it ([`Tag`]); we remove it at the end, the
//! [`reaper`](super::reaper) when we are killed, the next start or `weir clean` when both were killed. Meanwhile the
//! program sees from the heartbeat that nobody is there any more.

use super::interfaces::{Attempt, Order, Place, ProgramName, point_name};
use super::reaper::{Entry, Reaper, Remains};
use super::turn::Turn;
use crate::error::{Error, Left, Notice};
use crate::pin::{self, LinkName, Pin};
use crate::sys::bpf::query::LinkPlace;
use crate::sys::bpf::{self, LinkTarget, TcxPlace, link_create};
use crate::sys::netlink::{Filter, IngressQdisc, Netlink};
use crate::sys::{Result as SysResult, SysError, netns, proc};
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use weir_compiler::object::Direction;

/// Priority of our filters: before those without a priority (the kernel gives 49152 and down), after what a person
/// puts first by hand.
const PRIORITY: u16 = 40000;

/// The owner of a filter, as its name says: `weir:PID:START:PIDNS[:c]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag {
    pub pid: u32,
    /// Start time of the process in clock ticks since boot.
    pub start: u64,
    /// Inode of the pid namespace that the pid belongs to.
    pub pid_namespace: u64,
    /// Whether weir made the qdisc, so that the last one of us takes it along.
    pub made_clsact: bool,
}

impl Tag {
    /// Makes the tag of this process.
    #[must_use]
    pub fn ours(made_clsact: bool) -> Self {
        let pid = std::process::id();
        Self {
            pid,
            start: proc::start_time(pid).unwrap_or(0),
            pid_namespace: proc::pid_namespace(),
            made_clsact,
        }
    }

    /// Reads a filter's name; `None` when it is not one of ours.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let mut parts = name.strip_prefix("weir:")?.split(':');
        let tag = Self {
            pid: parts.next()?.parse().ok()?,
            start: parts.next()?.parse().ok()?,
            pid_namespace: parts.next()?.parse().ok()?,
            made_clsact: parts.next() == Some("c"),
        };
        Some(tag)
    }

    /// Returns whether the owner is dead. An owner in another pid namespace cannot be seen and counts as alive.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.pid_namespace == proc::pid_namespace() && proc::start_time(self.pid) != Some(self.start)
    }
}

impl Tag {
    /// Returns whether both name the same process.
    #[must_use]
    pub fn is_same_owner(&self, other: &Tag) -> bool {
        (self.pid, self.start, self.pid_namespace) == (other.pid, other.start, other.pid_namespace)
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "weir:{}:{}:{}{}",
            self.pid,
            self.start,
            self.pid_namespace,
            if self.made_clsact { ":c" } else { "" }
        )
    }
}

/// A filter that we made; dropping it removes it, and the qdisc when that is ours and empty.
#[derive(Debug)]
pub struct ClsactFilter {
    filter: Filter,
    iface: String,
    netns: Option<String>,
    /// What that name stood for ([`netns::identity`]).
    namespace: Option<(u64, u64)>,
    made_clsact: bool,
    /// It belongs to a named instance, which outlives us.
    kept: bool,
    /// Where to leave word of what cannot be removed.
    remains: Remains,
}

impl Drop for ClsactFilter {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let mut qdisc = false;
        let remove = || -> SysResult<()> {
            let turn = Turn::take();
            let mut netlink = Netlink::open()?;
            if let Err(e) = netlink.filter_delete(&self.filter, &self.iface) {
                // Gone with its interface or qdisc, or by somebody else's hand.
                let left = netlink.filters(self.filter.ifindex, self.filter.ingress, &self.iface)?;
                let is_it = |f: &Filter| (f.priority, f.handle, &f.name) == (self.filter.priority, self.filter.handle, &self.filter.name);
                if left.iter().any(is_it) {
                    return Err(e);
                }
            }
            qdisc = self.made_clsact;
            if self.made_clsact {
                remove_clsact_if_empty(&turn, &mut netlink, self.filter.ifindex, &self.iface)?;
            }
            Ok(())
        };
        let removed = match self.netns.as_deref() {
            // Who has the name now may have just such a filter.
            Some(name) if netns::identity(name) != self.namespace => {
                let gone = std::io::Error::from_raw_os_error(libc::ENOENT);
                Err(SysError::new("open network namespace", name, gone))
            }
            netns => netns::run_in(netns, remove).flatten(),
        };
        // For want of memory, descriptors or threads, mostly: the helper process has its own, and holds namespaces that have lost their names.
        if let Err(error) = removed {
            let entry = Entry {
                netns: self.netns.clone(),
                ifindex: self.filter.ifindex,
                iface: self.iface.clone(),
                makes_clsact: qdisc,
            };
            let error = error.to_string();
            self.remains.add(if qdisc {
                (entry, Left::Qdisc { error })
            } else {
                let direction = if self.filter.ingress { "ingress" } else { "egress" };
                let (priority, handle) = (self.filter.priority, self.filter.handle);
                (
                    entry,
                    Left::Filter {
                        direction,
                        priority,
                        handle,
                        error,
                    },
                )
            });
        }
    }
}

/// Removes a clsact qdisc without filters.
///
/// # Errors
/// What the kernel says.
pub fn remove_clsact_if_empty(_turn: &Turn, netlink: &mut Netlink, ifindex: u32, iface: &str) -> SysResult<bool> {
    if netlink.ingress_qdisc(ifindex, iface)? != IngressQdisc::Clsact {
        return Ok(false);
    }
    let (_, ingress) = netlink.filters_and_count(ifindex, true, iface)?;
    let (_, egress) = netlink.filters_and_count(ifindex, false, iface)?;
    if ingress + egress > 0 {
        return Ok(false);
    }
    netlink.clsact_delete(ifindex, iface)?;
    Ok(true)
}

/// Attaches by a tcx link.
///
/// # Errors
/// When the program that ours goes beside is not there, or the kernel refuses.
pub(super) fn attach_tcx(attempt: &Attempt<'_>, direction: Direction) -> Result<OwnedFd, Error> {
    let Attempt {
        link,
        program,
        netns,
        span,
        ..
    } = *attempt;
    let ingress = direction == Direction::Ingress;
    let name = LinkName::tc(link.ifindex, ingress);
    if let Some(pin) = attempt.pin {
        let here = |place| matches!(place, LinkPlace::Tcx { ifindex, .. } if ifindex == link.ifindex);
        if let Some(fd) = pin.adopt(&name, program, here)? {
            return Ok(fd);
        }
    }
    let place = match &attempt.settings.order {
        // Several of one script keep their order.
        Some(Order { before: false, .. }) if let Some(previous) = attempt.previous => Some(TcxPlace {
            before: false,
            program: bpf::prog_info(previous)?.id,
        }),
        Some(order) => Some(place(attempt, order, direction)?),
        None => None,
    };
    let target = LinkTarget::Tcx {
        ifindex: link.ifindex,
        ingress,
        place,
    };
    let fd = netns::run_in(netns, || link_create(program, target, &link.name))?;
    let fd = fd.map_err(|source| Error::Attach {
        point: point_name(Place::Tc(direction), link, netns),
        span,
        source,
    })?;
    if let Some(pin) = attempt.pin {
        pin.keep(&name, fd.as_fd())?;
    }
    Ok(fd)
}

/// Finds the program of the chain that `--before` or `--after` names.
fn place(attempt: &Attempt<'_>, order: &Order, direction: Direction) -> Result<TcxPlace, Error> {
    let Attempt { link, netns, span, .. } = *attempt;
    let ingress = direction == Direction::Ingress;
    let point = || point_name(Place::Tc(direction), link, netns);
    let ids = netns::run_in(netns, || bpf::tcx_programs(link.ifindex, ingress))?.map_err(|e| Error::Attach {
        point: point(),
        span,
        source: SysError::new("list the programs of", &link.name, e),
    })?;
    let chain: Vec<(u32, String)> = ids
        .into_iter()
        .map(|id| {
            let info = bpf::prog_by_id(id).and_then(|fd| bpf::prog_info(fd.as_fd()));
            (id, info.map(|i| i.name).unwrap_or_default())
        })
        .collect();
    let is_it = |(id, name): &&(u32, String)| match &order.program {
        ProgramName::Id(wanted) => id == wanted,
        // The kernel keeps 15 bytes of a name.
        ProgramName::Name(wanted) => !name.is_empty() && name.as_bytes() == &wanted.as_bytes()[..wanted.len().min(15)],
    };
    let mut found = chain.iter().filter(is_it);
    // Of several of one name: in front of the first, behind the last.
    let found = if order.before { found.next() } else { found.next_back() };
    match found {
        Some((id, _)) => Ok(TcxPlace {
            before: order.before,
            program: *id,
        }),
        None => Err(Error::NoProgramInChain {
            program: order.program.to_string(),
            point: point(),
            chain,
            span,
        }),
    }
}

/// Attaches by a filter in the clsact qdisc, which is made if there is none.
///
/// # Errors
/// When another qdisc is in the way, or the kernel refuses.
pub(super) fn attach_clsact(attempt: &Attempt<'_>, direction: Direction, reaper: &mut Reaper) -> Result<ClsactFilter, Error> {
    let mut removed = 0;
    let attached = attach_in_turn(attempt, direction, reaper, &mut removed);
    if removed > 0 {
        // Whoever reads it may be slow: others do not wait for that.
        (attempt.observer)(&Notice::RemovedStale { count: removed });
    }
    attached
}

/// Does so, and says how many filters of dead owners it has removed.
fn attach_in_turn(attempt: &Attempt<'_>, direction: Direction, reaper: &mut Reaper, removed: &mut usize) -> Result<ClsactFilter, Error> {
    let Attempt {
        link,
        program,
        netns,
        span,
        ..
    } = *attempt;
    let attach_error = |source| Error::Attach {
        point: point_name(Place::Tc(direction), link, netns),
        span,
        source,
    };
    let ingress = direction == Direction::Ingress;
    // Until the filter is in its place: from then on its name says whose the qdisc is.
    let turn = netns::run_in(netns, Turn::take)?;
    // What dead owners left would see every packet before we do.
    *removed = netns::run_in(netns, || super::reaper::clean_link(&turn, link))?.map_err(attach_error)?;
    if let Some(pin) = attempt.pin
        && let Some(filter) = netns::run_in(netns, || adopt_filter(attempt, pin, ingress, reaper.remains()))?.map_err(attach_error)?
    {
        return Ok(filter);
    }
    let present = netns::run_in(netns, || Netlink::open()?.ingress_qdisc(link.ifindex, &link.name))?.map_err(attach_error)?;
    // The reaper hears of it before it exists: killed in between, it finds nothing, or a qdisc that can only be ours.
    let entry = Entry {
        netns: netns.map(str::to_owned),
        ifindex: link.ifindex,
        iface: link.name.clone(),
        makes_clsact: present == IngressQdisc::Nothing,
    };
    reaper.watch(&entry)?;
    let ensure = || -> SysResult<Result<bool, String>> {
        let mut netlink = Netlink::open()?;
        match netlink.ingress_qdisc(link.ifindex, &link.name)? {
            IngressQdisc::Other(kind) => Ok(Err(kind)),
            IngressQdisc::Nothing => netlink.clsact_add(link.ifindex, &link.name).map(|()| Ok(true)),
            IngressQdisc::Clsact => {
                // Another weir may have made it: then whoever of us is last removes it.
                let mut ours = false;
                for ingress in [true, false] {
                    let filters = netlink.filters(link.ifindex, ingress, &link.name)?;
                    ours |= filters.iter().any(|f| made_clsact_of(&f.name));
                }
                Ok(Ok(ours))
            }
        }
    };
    let made_clsact = netns::run_in(netns, ensure)?
        .map_err(attach_error)?
        .map_err(|kind| Error::IngressQdisc {
            iface: link.name.clone(),
            kind,
            span,
        })?;
    let wanted = Filter {
        ifindex: link.ifindex,
        ingress,
        // The kernel puts the newest filter of one priority first: users of one script, which go in their order, have one each.
        priority: attempt.settings.priority.unwrap_or(PRIORITY).saturating_add(attempt.earlier),
        protocol_be: 0,
        handle: 0,
        name: match attempt.pin {
            Some(pin) => pin::filter_name(pin.name(), made_clsact),
            None => Tag::ours(made_clsact).to_string(),
        },
        ..Filter::default()
    };
    let added = netns::run_in(netns, || Netlink::open()?.filter_add(&wanted, program, &link.name))?;
    let filter = match added {
        Ok(filter) => filter,
        Err(e) => {
            if made_clsact {
                let _ = netns::run_in(netns, || {
                    remove_clsact_if_empty(&turn, &mut Netlink::open()?, link.ifindex, &link.name)
                });
            }
            return Err(attach_error(e));
        }
    };
    // It takes a turn of its own when it is dropped.
    drop(turn);
    let mut attached = ClsactFilter {
        filter: Filter { ingress, ..filter },
        iface: link.name.clone(),
        netns: netns.map(str::to_owned),
        namespace: netns.and_then(netns::identity),
        made_clsact,
        kept: false,
        remains: reaper.remains(),
    };
    if entry.makes_clsact {
        // From here on the filter's name says whose the qdisc is, and somebody else may come to rely on it.
        reaper.watch(&Entry {
            makes_clsact: false,
            ..entry
        })?;
    }
    if let Some(pin) = attempt.pin {
        pin.keep_filter(LinkName::tc(link.ifindex, ingress));
        attached.kept = true;
    }
    Ok(attached)
}

/// Whether the name of a filter says that a weir made the qdisc.
fn made_clsact_of(name: &str) -> bool {
    pin::parse_filter_name(name).map_or_else(|| Tag::parse(name).is_some_and(|tag| tag.made_clsact), |(_, made)| made)
}

/// Gives the filter that a named instance left here the new program.
fn adopt_filter(attempt: &Attempt<'_>, pin: &Pin, ingress: bool, remains: Remains) -> SysResult<Option<ClsactFilter>> {
    let link = attempt.link;
    let mut netlink = Netlink::open()?;
    let filters = netlink.filters(link.ifindex, ingress, &link.name)?;
    let is_ours = |f: &Filter| pin::parse_filter_name(&f.name).is_some_and(|(name, _)| name == pin.name());
    let Some(filter) = filters.into_iter().find(is_ours) else {
        return Ok(None);
    };
    netlink.filter_replace(&filter, attempt.program, &link.name)?;
    pin.keep_filter(LinkName::tc(link.ifindex, ingress));
    pin.adopted();
    Ok(Some(ClsactFilter {
        made_clsact: made_clsact_of(&filter.name),
        filter,
        iface: link.name.clone(),
        netns: attempt.netns.map(str::to_owned),
        namespace: attempt.netns.and_then(netns::identity),
        kept: true,
        remains,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_say_who_owns_a_filter() {
        let ours = Tag::ours(true);
        assert_eq!(Tag::parse(&ours.to_string()), Some(ours.clone()));
        assert!(!ours.is_stale());
        assert!(
            Tag {
                pid: u32::MAX / 2,
                ..ours.clone()
            }
            .is_stale()
        );
        assert!(
            Tag {
                start: ours.start + 1,
                ..ours.clone()
            }
            .is_stale()
        );
        assert!(
            !Tag {
                pid_namespace: 1,
                start: 0,
                ..ours
            }
            .is_stale()
        );
        assert_eq!(Tag::parse("cil_from_container"), None);
        assert_eq!(Tag::parse("weir:x"), None);
    }
}
