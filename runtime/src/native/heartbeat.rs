//! Shows the programs of a native at TC that somebody is there.
//!
//! A tcx link goes with its owner. A filter in clsact may outlive it, and without a name it must not decide any more then: its program
//! lets everything pass when the last beat is ten seconds old.

use super::engine::Maps;
use crate::error::Error;
use crate::kernel::Kernel;
use crate::pin::Pin;
use crate::sys::{bpf, proc};
use std::os::fd::AsFd;
use weir_compiler::kernel::{Feature, KernelInfo, Support};

/// The map, in every native that decides at TC.
const MAP: &str = weir_ebpf_builtins::HEARTBEAT;

/// Tells whether programs at TC have to be shown it. With a pin they are meant to outlive us.
pub(super) fn is_needed(kernel: &Kernel, pin: Option<&Pin>) -> bool {
    pin.is_none() && !matches!(kernel.feature(Feature::Tcx), Support::Yes)
}

/// Shows it once; about every second.
///
/// # Errors
/// What the kernel says.
pub(super) fn beat(maps: &Maps) -> Result<(), Error> {
    let map = maps.get(MAP).ok_or_else(|| Error::Object(format!("no map `{MAP}`")))?;
    let now = proc::clock_ns(libc::CLOCK_BOOTTIME);
    Ok(bpf::map_update(
        map.fd.as_fd(),
        &0u32.to_ne_bytes(),
        &now.to_ne_bytes(),
        0,
        &map.symbol,
    )?)
}
