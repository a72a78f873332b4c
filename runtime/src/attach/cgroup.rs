//! `cgroup:PATH:HOOK` and `cgroup_skb:PATH:DIRECTION` by bpf_link: beside what others have attached there, and gone with us or with the
//! cgroup.

use super::{Attacher, Handle};
use crate::error::{Error, Notice};
use crate::sys::SysError;
use crate::sys::bpf::{LinkTarget, link_create};
use crate::sys::cgroup::Cgroup2;
use aya_obj::generated::bpf_attach_type;
use std::os::fd::{AsFd, BorrowedFd};
use weir_compiler::object::Direction;
use weir_compiler::tables::CgroupHook;
use weir_parser::Span;

/// `BPF_CGROUP_INET_INGRESS` or `_EGRESS`.
#[must_use]
pub fn skb_attach_type(direction: Direction) -> u32 {
    match direction {
        Direction::Ingress => bpf_attach_type::BPF_CGROUP_INET_INGRESS as u32,
        Direction::Egress => bpf_attach_type::BPF_CGROUP_INET_EGRESS as u32,
    }
}

/// Attaches to the packets of a cgroup's sockets.
///
/// # Errors
/// When the cgroup is gone, or the kernel refuses.
pub fn attach_skb(attacher: &mut Attacher<'_>, program: BorrowedFd<'_>, path: &str, direction: Direction, span: Span) -> Result<(), Error> {
    let word = if direction == Direction::Ingress { "ingress" } else { "egress" };
    link(
        attacher,
        program,
        path,
        skb_attach_type(direction),
        format!("cgroup_skb:{path}:{word}"),
        span,
    )
}

/// Attaches to a system call of sockets.
///
/// # Errors
/// When the cgroup is gone, or the kernel refuses.
pub fn attach(attacher: &mut Attacher<'_>, program: BorrowedFd<'_>, path: &str, hook: &CgroupHook, span: Span) -> Result<(), Error> {
    link(
        attacher,
        program,
        path,
        hook.attach_type,
        format!("cgroup:{path}:{}", hook.name),
        span,
    )
}

/// Attaches to setsockopt(2).
///
/// # Errors
/// When the cgroup is gone, or the kernel refuses.
pub fn attach_setsockopt(attacher: &mut Attacher<'_>, program: BorrowedFd<'_>, path: &str, span: Span) -> Result<(), Error> {
    let attach_type = bpf_attach_type::BPF_CGROUP_SETSOCKOPT as u32;
    link(attacher, program, path, attach_type, format!("cgroup:{path}:setsockopt"), span)
}

fn link(
    attacher: &mut Attacher<'_>,
    program: BorrowedFd<'_>,
    path: &str,
    attach_type: u32,
    point: String,
    span: Span,
) -> Result<(), Error> {
    let attach_error = |source| Error::Attach {
        point: point.clone(),
        span,
        source,
    };
    let refused = |e| SysError::new("open cgroup", path, e);
    let root = Cgroup2::get().map_err(|why| attach_error(refused(std::io::Error::other(why))))?;
    let dir = root.open_dir(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::NoCgroup {
            path: path.to_owned(),
            span,
        },
        _ => attach_error(refused(e)),
    })?;
    let target = LinkTarget::Cgroup {
        dir: dir.as_fd(),
        attach_type,
    };
    let fd = link_create(program, target, &point).map_err(attach_error)?;
    attacher.push(Handle::Link(fd));
    if attacher.verbose {
        (attacher.observer)(&Notice::AttachedTo { point });
    }
    Ok(())
}
