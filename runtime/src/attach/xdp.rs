//! `xdp:IFACE[:MODE]` by bpf_link: gone when we are, never in place of somebody else's program unless forced to.

use super::interfaces::{Attempt, Place, point_name};
use crate::error::{Error, ForeignProgram, Notice};
use crate::pin::LinkName;
use crate::sys::bpf::query::LinkPlace;
use crate::sys::bpf::{self, LinkTarget, link_create};
use crate::sys::netlink::{Link, Netlink};
use crate::sys::{Result as SysResult, SysError, netns, proc};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;
use weir_compiler::object::XdpMode;

const SKB_MODE: u32 = 1 << 1;
const DRV_MODE: u32 = 1 << 2;
const HW_MODE: u32 = 1 << 3;

/// Frames up to this size need nothing special of a driver.
const USUAL_MTU: u32 = 1500;

/// A program on an interface; dropping it detaches, then puts back what was there before.
#[derive(Debug)]
pub struct OnXdp {
    _link: OwnedFd,
    /// After the link.
    _displaced: Option<Displaced>,
    mode: &'static str,
}

impl OnXdp {
    /// The mode in force.
    #[must_use]
    pub fn mode(&self) -> &'static str {
        self.mode
    }
}

/// Somebody else's program that `--force` took away and that can be put back.
#[derive(Debug)]
struct Displaced {
    program: OwnedFd,
    ifindex: u32,
    iface: String,
    netns: Option<String>,
    /// `XDP_FLAGS_*` of its mode.
    flags: u32,
}

impl Drop for Displaced {
    fn drop(&mut self) {
        // The interface may be gone; then there is nothing to put back.
        let _ = netns::run_in(self.netns.as_deref(), || {
            Netlink::open()?.xdp_set(self.ifindex, Some(self.program.as_fd()), self.flags, &self.iface)
        });
    }
}

/// Attaches to one interface.
///
/// # Errors
/// When somebody else's program is there, or the driver cannot and `mode` leaves no other way.
pub(super) fn attach(attempt: &Attempt<'_>, mode: XdpMode) -> Result<OnXdp, Error> {
    let Attempt { link, span, .. } = *attempt;
    let point = || point_name(Place::Xdp(mode), link, attempt.netns);
    let first = match mode {
        XdpMode::Auto | XdpMode::Native => DRV_MODE,
        XdpMode::Generic => SKB_MODE,
        XdpMode::Offload => HW_MODE,
    };
    // The card and the machine each have room for one program.
    let there = |link: &Link| match mode {
        XdpMode::Offload => Some(link.xdp.offload).filter(|id| *id != 0),
        _ => link.xdp.in_machine(),
    };
    if let Some(adopted) = adopt(attempt, mode)? {
        return Ok(adopted);
    }
    // Asked first: a native attach over a generic program is refused with another errno than EBUSY.
    let displaced = match there(link) {
        Some(id) if attempt.settings.force => displace(attempt, id)?,
        Some(id) => return Err(foreign(attempt, id)),
        None => None,
    };
    let done = |fd: OwnedFd, mode| {
        if let Some(pin) = attempt.pin {
            pin.keep(&LinkName::xdp(link.ifindex), fd.as_fd())?;
        }
        Ok(OnXdp {
            _link: fd,
            // What was there before cannot come back while a pin holds the place.
            _displaced: displaced.filter(|_| attempt.pin.is_none()),
            mode,
        })
    };
    let refused = match create(attempt, first)? {
        Ok(fd) => return done(fd, mode.asked_for().unwrap_or("native")),
        Err(e) => e,
    };
    // Somebody was faster.
    if refused.errno() == libc::EBUSY
        && let Some(id) = current(attempt).and_then(|l| there(&l))
    {
        return Err(foreign(attempt, id));
    }
    let not_the_driver = matches!(refused.errno(), libc::EPERM | libc::EACCES | libc::ENODEV);
    match mode {
        XdpMode::Auto if !not_the_driver => {
            let fd = create(attempt, SKB_MODE)?.map_err(|source| Error::Attach {
                point: point(),
                span,
                source,
            })?;
            (attempt.observer)(&Notice::XdpGeneric {
                iface: link.name.clone(),
                asked: attempt.asked,
                reason: reason(&refused, link),
                span,
            });
            done(fd, "generic")
        }
        XdpMode::Native if !not_the_driver => Err(Error::NoNativeXdp {
            iface: link.name.clone(),
            asked: attempt.asked,
            span,
            reason: reason(&refused, link),
        }),
        XdpMode::Offload if !not_the_driver => Err(Error::NoOffload {
            iface: link.name.clone(),
            what: "this program".to_owned(),
            reason: reason(&refused, link),
            map: None,
            span,
        }),
        _ => Err(Error::Attach {
            point: point(),
            span,
            source: refused,
        }),
    }
}

/// Gives the link that a named instance left on this interface the new program.
fn adopt(attempt: &Attempt<'_>, mode: XdpMode) -> Result<Option<OnXdp>, Error> {
    let Attempt { link, span, .. } = *attempt;
    let Some(pin) = attempt.pin else { return Ok(None) };
    let generic = link.xdp.generic != 0;
    if pin.before().is_some()
        && link.xdp.in_machine().is_some()
        && (generic && mode == XdpMode::Native || !generic && mode == XdpMode::Generic)
    {
        let now = if generic { "generic" } else { "native" };
        return Err(Error::Param {
            message: format!("`{}` runs in {now} mode on `{}`, and a link keeps its mode", pin.name(), link.name),
            help: Some(format!("end it first (`weir stop {}`), or leave `mode` out", pin.name())),
            span,
        });
    }
    let here = |place| matches!(place, LinkPlace::Xdp { ifindex } if ifindex == link.ifindex);
    let fd = pin.adopt(&LinkName::xdp(link.ifindex), attempt.program, here)?;
    Ok(fd.map(|fd| OnXdp {
        _link: fd,
        _displaced: None,
        mode: if generic { "generic" } else { "native" },
    }))
}

/// Why a driver does not take a program. What the kernel says is an errno; the usual reason stands beside it.
fn reason(refused: &SysError, link: &Link) -> String {
    let text = refused.source.to_string();
    let text = text.split(" (os error").next().unwrap_or_default().to_lowercase();
    if link.mtu > USUAL_MTU {
        format!(
            "{text}; with its MTU of {} the driver would have to split packets, which not every driver can for XDP: try an MTU of {USUAL_MTU}",
            link.mtu
        )
    } else {
        text
    }
}

fn foreign(attempt: &Attempt<'_>, id: u32) -> Error {
    Error::ForeignXdp {
        iface: attempt.link.name.clone(),
        asked: attempt.asked,
        program: describe(id),
        span: attempt.span,
    }
}

/// Takes somebody else's program away. One that hangs on a link cannot be put back: the link is its owner's.
fn displace(attempt: &Attempt<'_>, id: u32) -> Result<Option<Displaced>, Error> {
    let Attempt { link, span, netns, .. } = *attempt;
    let iface = &link.name;
    let attach_error = |source| Error::Attach {
        point: format!("xdp:{iface}"),
        span,
        source,
    };
    let flags = match link.xdp {
        xdp if xdp.generic == id => SKB_MODE,
        xdp if xdp.offload == id => HW_MODE,
        _ => DRV_MODE,
    };
    let foreign = describe(id);
    let take = || -> SysResult<Option<OwnedFd>> {
        let program = bpf::prog_by_id(id)?;
        match bpf::xdp_link(link.ifindex, id)? {
            Some(theirs) => bpf::link_detach(theirs.as_fd(), iface).map(|()| None),
            None => Netlink::open()?.xdp_set(link.ifindex, None, flags, iface).map(|()| Some(program)),
        }
    };
    let program = netns::run_in(netns, take)?.map_err(attach_error)?;
    (attempt.observer)(&Notice::XdpDisplaced {
        iface: iface.clone(),
        program: foreign,
        comes_back: program.is_some() && attempt.pin.is_none(),
        span,
    });
    Ok(program.map(|program| Displaced {
        program,
        ifindex: link.ifindex,
        iface: iface.clone(),
        netns: netns.map(str::to_owned),
        flags,
    }))
}

fn create(attempt: &Attempt<'_>, flags: u32) -> Result<Result<OwnedFd, SysError>, Error> {
    let Attempt { link, program, netns, .. } = *attempt;
    let target = LinkTarget::Xdp {
        ifindex: link.ifindex,
        flags,
    };
    Ok(netns::run_in(netns, || link_create(program, target, &link.name))?)
}

fn current(attempt: &Attempt<'_>) -> Option<Link> {
    netns::run_in(attempt.netns, || Netlink::open().ok()?.link(&attempt.link.name).ok()?).ok()?
}

/// Finds out what can be told about a program.
#[must_use]
pub fn describe(id: u32) -> ForeignProgram {
    let info = bpf::prog_by_id(id).and_then(|fd| bpf::prog_info(fd.as_fd()));
    let (name, age) = match info {
        Ok(info) => {
            let age = proc::clock_ns(libc::CLOCK_BOOTTIME).saturating_sub(info.load_time_ns);
            (info.name, Some(Duration::from_nanos(age)))
        }
        Err(_) => (String::new(), None),
    };
    ForeignProgram {
        id,
        name,
        age,
        owners: owners(id),
    }
}

/// Finds the processes that hold a program open, as far as we may look into them.
fn owners(id: u32) -> Vec<(u32, String)> {
    let wanted = format!("prog_id:\t{id}");
    let mut found = Vec::new();
    for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(pid) = process.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        let mut fds = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let holds = fds.any(|fd| {
            // Only descriptors of bpf objects are worth a look.
            std::fs::read_link(fd.path()).is_ok_and(|target| target.to_string_lossy().starts_with("anon_inode:bpf"))
                && std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{}", fd.file_name().to_string_lossy()))
                    .is_ok_and(|info| info.lines().any(|l| l == wanted))
        });
        if holds && pid != std::process::id() {
            found.push((pid, owner(pid)));
        }
    }
    found
}

/// A process as a person knows it: another weir by its script, everything else by its name.
fn owner(pid: u32) -> String {
    /// So much of a command line says which one it is.
    const SHOWN: usize = 60;
    let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let comm = comm.trim();
    if comm != "weir" {
        return comm.to_owned();
    }
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<String> = line
        .split(|b| *b == 0)
        .skip(1)
        .map(|w| String::from_utf8_lossy(w).split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    let line = format!("weir {}", words.join(" "));
    let line = line.trim();
    match line.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}
