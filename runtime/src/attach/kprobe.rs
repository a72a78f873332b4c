//! `kprobe:FUNCTION` and `kretprobe:FUNCTION`: one by the kprobe PMU, many by one link where the kernel has such links.

use super::{Attacher, Handle, Point};
use crate::error::{Error, Notice};
use crate::sys::bpf::{LinkTarget, link_create};
use crate::sys::perf::{KprobePmu, KprobeTarget};
use crate::sys::{ATTACH, SysError, perf, proc};
use std::ffi::CString;
use std::os::fd::BorrowedFd;
use weir_compiler::kernel::{Feature, KernelInfo, Support};
use weir_compiler::object::{Attach, AttachPoint};
use weir_parser::Span;

/// Attaches to one function. With `pattern` a function that the kernel refuses is left out.
///
/// # Errors
/// When the kernel has no kprobes, the function does not exist (`ENOENT`), or may not be probed (`EINVAL`).
pub fn attach(attacher: &mut Attacher<'_>, place: &Point<'_>, target: &KprobeTarget<'_>, pattern: bool) -> Result<(), Error> {
    let kind = if target.ret { "kretprobe" } else { "kprobe" };
    let module = target.module.map_or_else(String::new, |m| format!("{m}:"));
    let point = match target.offset {
        0 => format!("{kind}:{module}{}", target.function),
        offset => format!("{kind}:{module}{}+{offset}", target.function),
    };
    if let Support::No(reason) = attacher.kernel.feature(Feature::Kprobe) {
        let span = place.span;
        return Err(Error::NoKprobes { point, reason, span });
    }
    let cpu = proc::online_cpus().first().copied().unwrap_or(0);
    let event = perf::kprobe(target, KprobePmu::read(), cpu);
    match attacher.link_event(place, &point, event) {
        // Of two static functions with one name the kernel takes none, and some functions it protects.
        Err(Error::Attach { source, .. }) if pattern && refused(&source) => {
            attacher.left_out(place.span, &format!("{module}{}", target.function));
            Ok(())
        }
        // The event is there, but not for a program that calls `bpf_override_return`.
        Err(Error::Attach { source, span, .. }) if source.what == ATTACH && source.errno() == libc::EINVAL => {
            Err(Error::NotInjectable { point, span })
        }
        result => result,
    }
}

fn refused(error: &SysError) -> bool {
    matches!(
        error.errno(),
        libc::EINVAL | libc::EADDRNOTAVAIL | libc::ENOENT | libc::EOPNOTSUPP | libc::EILSEQ
    )
}

/// Attaches one program to many functions by one link.
///
/// # Errors
/// What the kernel says.
pub fn attach_many(attacher: &mut Attacher<'_>, program: BorrowedFd<'_>, attach: &[Attach], span: Span) -> Result<(), Error> {
    let mut names = Vec::new();
    let mut cookies = Vec::new();
    let mut exits = false;
    for (i, a) in (0u64..).zip(attach) {
        if let AttachPoint::Kprobe { function, ret, .. } = &a.point
            && let Ok(name) = CString::new(function.as_str())
        {
            names.push(name);
            cookies.push(i);
            exits = *ret;
        }
    }
    let point = format!("{} functions", names.len());
    link_some(attacher, program, &names, &cookies, exits).map_err(|source| Error::Attach { point, span, source })
}

/// One link, or, when the kernel refuses a function among them (it does not say which), several for the others.
fn link_some(attacher: &mut Attacher<'_>, program: BorrowedFd<'_>, names: &[CString], cookies: &[u64], ret: bool) -> Result<(), SysError> {
    let target = LinkTarget::KprobeMulti {
        functions: names,
        cookies,
        ret,
    };
    match link_create(program, target, "functions") {
        Ok(link) => {
            attacher.push(Handle::Link(link));
            attacher.attached.probes += names.len();
            Ok(())
        }
        Err(e) if names.len() > 1 && (refused(&e) || e.errno() == libc::ESRCH) => {
            let half = names.len() / 2;
            link_some(attacher, program, &names[..half], &cookies[..half], ret)?;
            link_some(attacher, program, &names[half..], &cookies[half..], ret)
        }
        Err(e) if refused(&e) || e.errno() == libc::ESRCH => {
            attacher.left_out(Span::default(), &names[0].to_string_lossy());
            Ok(())
        }
        Err(e) => Err(e),
    }
}

/// Says which functions of a pattern could not be probed.
pub(super) fn report_left_out(attacher: &Attacher<'_>) {
    let Some((span, names)) = &attacher.left_out else { return };
    let shown: Vec<String> = names.iter().take(5).map(|n| format!("`{n}`")).collect();
    let rest = names.len().saturating_sub(shown.len());
    let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
    (attacher.observer)(&Notice::Other {
        message: format!(
            "{} functions that the kernel refuses to probe were left out: {}{more}",
            names.len(),
            shown.join(", ")
        ),
        span: Some(*span),
    });
}
