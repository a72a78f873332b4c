//! `interval` (a clock on one CPU) and `profile` (a clock on each CPU) by perf events.

use super::{Attacher, Handle};
use crate::error::Error;
use crate::sys::bpf::{LinkTarget, link_create};
use crate::sys::{perf, proc};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;
use weir_parser::Span;

/// Attaches to a clock on the first running CPU.
///
/// # Errors
/// What the kernel says.
pub fn interval(attacher: &mut Attacher<'_>, program: BorrowedFd<'_>, period: Duration, span: Span) -> Result<(), Error> {
    let cpu = proc::online_cpus().first().copied().unwrap_or(0);
    one(attacher, program, period, cpu, "interval", span)
}

/// Attaches to a clock on every running CPU.
///
/// # Errors
/// What the kernel says.
pub fn profile(attacher: &mut Attacher<'_>, program: BorrowedFd<'_>, period: Duration, span: Span) -> Result<(), Error> {
    for cpu in proc::online_cpus() {
        one(attacher, program, period, cpu, "profile", span)?;
    }
    Ok(())
}

fn one(attacher: &mut Attacher<'_>, program: BorrowedFd<'_>, period: Duration, cpu: u32, kind: &str, span: Span) -> Result<(), Error> {
    let point = format!("{kind}:{period:?}");
    let attach_error = |source| Error::Attach {
        point: point.clone(),
        span,
        source,
    };
    // The event is made running: linked first, it would miss nothing either, since it ticks only after a whole period.
    let event = perf::clock(period, cpu, &point).map_err(attach_error)?;
    let link = link_create(program, LinkTarget::PerfEvent(event.as_fd()), &point).map_err(attach_error)?;
    attacher.push(Handle::Perf { link, event });
    Ok(())
}
