//! `perf_event_open(2)`: tracepoints, kprobes, clocks. The events are disabled until a BPF link enables them.

use super::{Result, SysError};
use aya_obj::generated::{perf_event_attr, perf_type_id};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 1 << 3;
const PERF_EVENT_IOC_ENABLE: libc::c_ulong = 0x2400;
const PERF_COUNT_SW_CPU_CLOCK: u64 = 0;

fn attr(kind: u32) -> perf_event_attr {
    // SAFETY: perf_event_attr is plain integers and bit fields; all zero is valid.
    let mut attr: perf_event_attr = unsafe { std::mem::zeroed() };
    attr.size = size_of::<perf_event_attr>() as u32;
    attr.type_ = kind;
    attr
}

fn open(attr: &mut perf_event_attr, cpu: u32) -> io::Result<OwnedFd> {
    // SAFETY: attr is initialised and of the size it says; pid -1 with a CPU means every task on that CPU.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            std::ptr::from_mut(attr),
            -1 as libc::pid_t,
            cpu.cast_signed(),
            -1 as libc::c_int,
            PERF_FLAG_FD_CLOEXEC,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor (it fits in an int).
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Opens tracepoint `id` (its `id` file in tracefs). BPF programs on it run on every CPU, whichever `cpu` is given.
///
/// # Errors
/// What the kernel says.
pub fn tracepoint(id: u64, cpu: u32, name: &str) -> Result<OwnedFd> {
    let mut attr = attr(perf_type_id::PERF_TYPE_TRACEPOINT as u32);
    attr.config = id;
    attr.__bindgen_anon_1.sample_period = 1;
    open(&mut attr, cpu).map_err(|e| SysError::new("open tracepoint", name, e))
}

/// A function to probe.
#[derive(Clone, Debug)]
pub struct KprobeTarget<'a> {
    pub module: Option<&'a str>,
    pub function: &'a str,
    pub offset: u64,
    pub ret: bool,
}

/// Opens a kprobe through the PMU type that `/sys/bus/event_source/devices/kprobe` names; nothing appears in tracefs.
///
/// # Errors
/// `kprobe_type` is `None`: `ENODEV`, the kernel has no kprobes; else what the kernel says.
pub fn kprobe(target: &KprobeTarget<'_>, pmu: Option<KprobePmu>, cpu: u32) -> Result<OwnedFd> {
    let symbol = target
        .module
        .map_or_else(|| target.function.to_owned(), |m| format!("{m}:{}", target.function));
    let what = if target.ret { "open kretprobe" } else { "open kprobe" };
    let pmu = pmu.ok_or_else(|| SysError::new(what, &symbol, io::Error::from_raw_os_error(libc::ENODEV)))?;
    let name = CString::new(symbol.as_str()).map_err(|_| SysError::new(what, &symbol, io::Error::from_raw_os_error(libc::EINVAL)))?;
    let mut attr = attr(pmu.kind);
    attr.config = if target.ret { 1 << pmu.retprobe_bit } else { 0 };
    attr.__bindgen_anon_3.kprobe_func = name.as_ptr() as u64;
    attr.__bindgen_anon_4.probe_offset = target.offset;
    open(&mut attr, cpu).map_err(|e| SysError::new(what, &symbol, e))
}

/// How this kernel names kprobes in `perf_event_attr`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KprobePmu {
    pub kind: u32,
    pub retprobe_bit: u32,
}

impl KprobePmu {
    /// Reads `/sys/bus/event_source/devices/kprobe`; `None` when the kernel has no kprobes.
    #[must_use]
    pub fn read() -> Option<Self> {
        let dir = "/sys/bus/event_source/devices/kprobe";
        let kind = std::fs::read_to_string(format!("{dir}/type")).ok()?.trim().parse().ok()?;
        let format = std::fs::read_to_string(format!("{dir}/format/retprobe")).unwrap_or_default();
        let retprobe_bit = format.trim().strip_prefix("config:").and_then(|bit| bit.parse().ok()).unwrap_or(0);
        Some(Self { kind, retprobe_bit })
    }
}

/// Opens a clock that ticks every `period` on one CPU.
///
/// # Errors
/// What the kernel says.
pub fn clock(period: Duration, cpu: u32, name: &str) -> Result<OwnedFd> {
    let mut attr = attr(perf_type_id::PERF_TYPE_SOFTWARE as u32);
    attr.config = PERF_COUNT_SW_CPU_CLOCK;
    attr.__bindgen_anon_1.sample_period = u64::try_from(period.as_nanos()).unwrap_or(u64::MAX).max(1);
    open(&mut attr, cpu).map_err(|e| SysError::new("open clock for", name, e))
}

/// Starts an event (clocks tick only when enabled).
///
/// # Errors
/// What the kernel says.
pub fn enable(event: BorrowedFd<'_>, name: &str) -> Result<()> {
    // SAFETY: an ioctl without argument memory on a perf event that we hold.
    let ret = unsafe { libc::ioctl(event.as_raw_fd(), PERF_EVENT_IOC_ENABLE, 0) };
    if ret < 0 { Err(SysError::last("enable", name)) } else { Ok(()) }
}
