//! `kprobe:FUNCTION` and `kretprobe:FUNCTION` by the kprobe PMU and bpf_link.

use super::{Attacher, Handle};
use crate::error::Error;
use crate::sys::bpf::{LinkTarget, link_create};
use crate::sys::perf::{KprobePmu, KprobeTarget};
use crate::sys::{perf, proc};
use std::os::fd::{AsFd, BorrowedFd};
use weir_compiler::kernel::{Feature, KernelInfo, Support};
use weir_parser::Span;

/// Attaches to one function.
///
/// # Errors
/// When the kernel has no kprobes, the function does not exist (`ENOENT`), or may not be probed (`EINVAL`).
pub fn attach(attacher: &mut Attacher<'_>, program: BorrowedFd<'_>, target: &KprobeTarget<'_>, span: Span) -> Result<(), Error> {
    let kind = if target.ret { "kretprobe" } else { "kprobe" };
    let point = match target.offset {
        0 => format!("{kind}:{}", target.function),
        offset => format!("{kind}:{}+{offset}", target.function),
    };
    if let Support::No(reason) = attacher.kernel.feature(Feature::Kprobe) {
        return Err(Error::NoKprobes { point, reason, span });
    }
    let attach_error = |source| Error::Attach {
        point: point.clone(),
        span,
        source,
    };
    let cpu = proc::online_cpus().first().copied().unwrap_or(0);
    let event = perf::kprobe(target, KprobePmu::read(), cpu).map_err(attach_error)?;
    let link = link_create(program, LinkTarget::PerfEvent(event.as_fd()), &point).map_err(attach_error)?;
    attacher.push(Handle::Perf { link, event });
    Ok(())
}
