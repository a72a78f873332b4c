//! `xdp:IFACE[:MODE]` by bpf_link: gone when we are, never in place of somebody else's program.

use super::{Attacher, Handle, iface};
use crate::error::{Error, ForeignProgram, Notice};
use crate::sys::bpf::{self, LinkTarget, link_create};
use crate::sys::netlink::{Link, Netlink};
use crate::sys::{SysError, netns, proc};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;
use weir_compiler::object::{IfacePattern, XdpMode};
use weir_parser::Span;

const SKB_MODE: u32 = 1 << 1;
const DRV_MODE: u32 = 1 << 2;
const HW_MODE: u32 = 1 << 3;

/// Attaches to every interface that the pattern names.
///
/// # Errors
/// When there is none, somebody else's program is there, or the driver cannot and `mode` leaves no other way.
pub fn attach(
    attacher: &mut Attacher<'_>,
    program: BorrowedFd<'_>,
    pattern: &IfacePattern,
    mode: XdpMode,
    span: Span,
) -> Result<(), Error> {
    for link in iface::resolve(pattern, span)? {
        attach_to(attacher, program, &link, pattern.netns.as_deref(), mode, span)?;
    }
    Ok(())
}

/// Attaches to one interface.
///
/// # Errors
/// As [`attach`].
pub fn attach_to(
    attacher: &mut Attacher<'_>,
    program: BorrowedFd<'_>,
    link: &Link,
    netns: Option<&str>,
    mode: XdpMode,
    span: Span,
) -> Result<(), Error> {
    // Asked first: a native attach over a generic program is refused with another errno than EBUSY.
    if let Some(id) = link.xdp.any() {
        return Err(Error::ForeignXdp {
            iface: link.name.clone(),
            program: describe(id),
            span,
        });
    }
    let first = match mode {
        XdpMode::Auto | XdpMode::Native => DRV_MODE,
        XdpMode::Generic => SKB_MODE,
        XdpMode::Offload => HW_MODE,
    };
    let refused = match create(program, link, netns, first)? {
        Ok(fd) => {
            attacher.push(Handle::Link(fd));
            return Ok(());
        }
        Err(e) => e,
    };
    // Somebody was faster.
    if refused.errno() == libc::EBUSY
        && let Some(id) = current(link, netns).and_then(|l| l.xdp.any())
    {
        return Err(Error::ForeignXdp {
            iface: link.name.clone(),
            program: describe(id),
            span,
        });
    }
    match mode {
        XdpMode::Auto => {
            let fd = create(program, link, netns, SKB_MODE)?.map_err(|source| Error::Attach {
                point: format!("xdp:{}", link.name),
                span,
                source,
            })?;
            attacher.push(Handle::Link(fd));
            let reason = refused
                .source
                .to_string()
                .split(" (os error")
                .next()
                .unwrap_or_default()
                .to_lowercase();
            (attacher.observer)(&Notice::XdpGeneric {
                iface: link.name.clone(),
                reason,
                span,
            });
            Ok(())
        }
        XdpMode::Native => Err(Error::NoNativeXdp {
            iface: link.name.clone(),
            span,
            source: refused,
        }),
        _ => Err(Error::Attach {
            point: format!("xdp:{}", link.name),
            span,
            source: refused,
        }),
    }
}

fn create(program: BorrowedFd<'_>, link: &Link, netns: Option<&str>, flags: u32) -> Result<Result<OwnedFd, SysError>, Error> {
    let target = LinkTarget::Xdp {
        ifindex: link.ifindex,
        flags,
    };
    Ok(netns::run_in(netns, || link_create(program, target, &link.name))?)
}

fn current(link: &Link, netns: Option<&str>) -> Option<Link> {
    netns::run_in(netns, || Netlink::open().ok()?.link(&link.name).ok()?).ok()?
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
            let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            found.push((pid, comm.trim().to_owned()));
        }
    }
    found
}
