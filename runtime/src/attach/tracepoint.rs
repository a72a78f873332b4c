//! `tracepoint:CATEGORY:NAME` by perf event and bpf_link.

use super::{Attacher, Handle};
use crate::error::Error;
use crate::sys::bpf::{LinkTarget, link_create};
use crate::sys::{SysError, perf, proc};
use std::os::fd::{AsFd, BorrowedFd};
use weir_parser::Span;

/// Attaches to one tracepoint. One event on one CPU is enough: programs run wherever the tracepoint is hit.
///
/// # Errors
/// When the tracepoint does not exist, tracefs is not to be had, or the kernel refuses.
pub fn attach(attacher: &mut Attacher<'_>, program: BorrowedFd<'_>, category: &str, name: &str, span: Span) -> Result<(), Error> {
    let point = format!("tracepoint:{category}:{name}");
    let attach_error = |source| Error::Attach {
        point: point.clone(),
        span,
        source,
    };
    let tracefs = attacher
        .kernel
        .tracefs()
        .map_err(|why| attach_error(SysError::new("look up tracepoint", &point, std::io::Error::other(why))))?;
    let id = tracefs
        .tracepoint_id(category, name)
        .map_err(attach_error)?
        .ok_or_else(|| Error::NoTracepoint {
            category: category.to_owned(),
            name: name.to_owned(),
            span,
        })?;
    let cpu = proc::online_cpus().first().copied().unwrap_or(0);
    let event = perf::tracepoint(id, cpu, &point).map_err(attach_error)?;
    let link = link_create(program, LinkTarget::PerfEvent(event.as_fd()), &point).map_err(attach_error)?;
    attacher.push(Handle::Perf { link, event });
    Ok(())
}
