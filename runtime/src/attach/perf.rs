//! Programs on perf events: `interval` (a clock on one CPU), `profile` (a clock on each CPU), `software`, `hardware`, `watchpoint`.

use super::{Attacher, Point};
use crate::error::Error;
use crate::sys::perf::{self, Whose};
use crate::sys::{Result, proc};
use std::os::fd::OwnedFd;
use std::time::Duration;

/// Attaches to a clock on the first running CPU.
///
/// # Errors
/// What the kernel says.
pub fn interval(attacher: &mut Attacher<'_>, place: &Point<'_>, period: Duration) -> std::result::Result<(), Error> {
    let cpu = proc::online_cpus().first().copied().unwrap_or(0);
    let point = format!("interval:{period:?}");
    // The event is made running: linked first, it would miss nothing either, since it ticks only after a whole period.
    let event = perf::clock(period, Whose::Cpu(cpu), &point);
    attacher.link_event(place, &point, event)
}

/// Attaches to a clock on every running CPU.
///
/// # Errors
/// What the kernel says.
pub fn profile(attacher: &mut Attacher<'_>, place: &Point<'_>, period: Duration) -> std::result::Result<(), Error> {
    let point = format!("profile:{period:?}");
    everywhere(attacher, place, &point, |whose| perf::clock(period, whose, &point))
}

/// Attaches to a counter on every running CPU.
///
/// # Errors
/// What the kernel says.
pub fn counter(
    attacher: &mut Attacher<'_>,
    place: &Point<'_>,
    hardware: bool,
    (event, config, count): (&str, u64, u64),
) -> std::result::Result<(), Error> {
    let point = format!("{}:{event}:{count}", if hardware { "hardware" } else { "software" });
    everywhere(attacher, place, &point, |whose| {
        perf::counter(hardware, config, count, whose, &point)
    })
}

/// Watches an address of the kernel, or of the process that is looked at.
///
/// # Errors
/// What the kernel says.
pub fn watchpoint(attacher: &mut Attacher<'_>, place: &Point<'_>, address: u64, len: u32, mode: u32) -> std::result::Result<(), Error> {
    let point = format!("watchpoint:{address:#x}:{len}");
    everywhere(attacher, place, &point, |whose| perf::watchpoint(address, len, mode, whose, &point))
}

/// One event on every CPU, or one for the process that is looked at.
fn everywhere(
    attacher: &mut Attacher<'_>,
    place: &Point<'_>,
    point: &str,
    open: impl Fn(Whose) -> Result<OwnedFd>,
) -> std::result::Result<(), Error> {
    if let Some(pid) = attacher.pid {
        return attacher.link_event(place, point, open(Whose::Process(pid)));
    }
    for cpu in proc::online_cpus() {
        attacher.link_event(place, point, open(Whose::Cpu(cpu)))?;
    }
    Ok(())
}
