//! `uprobe`, `uretprobe` and `usdt`: places in the code of a file, by the uprobe PMU and bpf_link.

use super::{Attacher, Point};
use crate::error::Error;
use crate::sys::perf::{self, Whose};
use crate::sys::proc;

/// A place in the code of a file.
#[derive(Clone, Copy, Debug)]
pub struct Code<'a> {
    /// The attach point, for messages.
    pub point: &'a str,
    pub path: &'a str,
    pub offset: u64,
    /// File offset of the counter of listeners, or 0: the kernel counts there while we are attached, in every process.
    pub semaphore: u64,
    pub ret: bool,
}

/// Attaches to one place in all processes, or in the one that is looked at.
///
/// # Errors
/// When the kernel has no uprobes (`ENODEV`), or the place is not in code that runs.
pub fn attach(attacher: &mut Attacher<'_>, place: &Point<'_>, code: &Code<'_>) -> Result<(), Error> {
    let whose = match attacher.pid {
        Some(pid) => Whose::Process(pid),
        None => Whose::Cpu(proc::online_cpus().first().copied().unwrap_or(0)),
    };
    let event = perf::uprobe(code.path, code.offset, code.semaphore, code.ret, whose);
    attacher.link_event(place, code.point, event)
}
