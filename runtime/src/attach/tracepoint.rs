//! `tracepoint:CATEGORY:NAME` by perf event and bpf_link.

use super::{Attacher, Point};
use crate::error::Error;
use crate::sys::{SysError, perf, proc};

/// Attaches to one tracepoint. One event on one CPU is enough: programs run wherever the tracepoint is hit.
///
/// # Errors
/// When the tracepoint does not exist, tracefs is not to be had, or the kernel refuses.
pub fn attach(attacher: &mut Attacher<'_>, place: &Point<'_>, category: &str, name: &str) -> Result<(), Error> {
    let point = format!("tracepoint:{category}:{name}");
    let tracefs = attacher
        .kernel
        .tracefs()
        .map_err(|why| place.error(&point, SysError::new("look up tracepoint", &point, std::io::Error::other(why))))?;
    let id = tracefs
        .tracepoint_id(category, name)
        .map_err(|e| place.error(&point, e))?
        .ok_or_else(|| Error::NoTracepoint {
            category: category.to_owned(),
            name: name.to_owned(),
            span: place.span,
        })?;
    let cpu = proc::online_cpus().first().copied().unwrap_or(0);
    let event = perf::tracepoint(id, cpu, &point);
    attacher.link_event(place, &point, event)
}
