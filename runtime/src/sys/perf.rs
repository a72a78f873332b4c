//! `perf_event_open(2)`: tracepoints, probes in code, counters, watches, clocks. The events are disabled until a BPF link enables them.

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

/// Whose events count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Every task's, on one CPU.
    Cpu(u32),
    /// One process's, wherever it runs.
    Process(u32),
}

fn open(attr: &mut perf_event_attr, whose: Whose) -> io::Result<OwnedFd> {
    let (pid, cpu) = match whose {
        Whose::Cpu(cpu) => (-1, cpu.cast_signed()),
        Whose::Process(pid) => (pid.cast_signed(), -1),
    };
    // SAFETY: attr is initialised and of the size it says.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            std::ptr::from_mut(attr),
            pid as libc::pid_t,
            cpu,
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
    open(&mut attr, Whose::Cpu(cpu)).map_err(|e| SysError::new("open tracepoint", name, e))
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
    open(&mut attr, Whose::Cpu(cpu)).map_err(|e| SysError::new(what, &symbol, e))
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

/// Opens a uprobe at `offset` of a file, through the PMU that `/sys/bus/event_source/devices/uprobe` names. `semaphore` is the file
/// offset of the counter that tells a program that somebody listens, or 0.
///
/// # Errors
/// `ENODEV` when the kernel has no uprobes, else what the kernel says.
pub fn uprobe(path: &str, offset: u64, semaphore: u64, ret: bool, whose: Whose) -> Result<OwnedFd> {
    let what = if ret { "open uretprobe" } else { "open uprobe" };
    let dir = "/sys/bus/event_source/devices/uprobe";
    let read = |file: &str| std::fs::read_to_string(format!("{dir}/{file}")).ok();
    let kind = read("type").and_then(|t| t.trim().parse().ok());
    let kind = kind.ok_or_else(|| SysError::new(what, path, io::Error::from_raw_os_error(libc::ENODEV)))?;
    let bit = |file: &str, usual: u32| {
        let text = read(file).unwrap_or_default();
        let bits = text.trim().strip_prefix("config:").unwrap_or_default();
        bits.split('-').next().and_then(|b| b.parse().ok()).unwrap_or(usual)
    };
    let name = CString::new(path).map_err(|_| SysError::new(what, path, io::Error::from_raw_os_error(libc::EINVAL)))?;
    let mut attr = attr(kind);
    attr.config = semaphore << bit("format/ref_ctr_offset", 32);
    if ret {
        attr.config |= 1 << bit("format/retprobe", 0);
    }
    attr.__bindgen_anon_3.uprobe_path = name.as_ptr() as u64;
    attr.__bindgen_anon_4.probe_offset = offset;
    open(&mut attr, whose).map_err(|e| SysError::new(what, path, e))
}

/// Opens a counter of the kernel (`software`) or the processor (`hardware`) that fires at every `count`-th event.
///
/// # Errors
/// What the kernel says; `ENOENT` and `EOPNOTSUPP` where the machine cannot count it.
pub fn counter(hardware: bool, config: u64, count: u64, whose: Whose, name: &str) -> Result<OwnedFd> {
    let kind = if hardware {
        perf_type_id::PERF_TYPE_HARDWARE
    } else {
        perf_type_id::PERF_TYPE_SOFTWARE
    };
    let mut attr = attr(kind as u32);
    attr.config = config;
    attr.__bindgen_anon_1.sample_period = count.max(1);
    open(&mut attr, whose).map_err(|e| SysError::new("open counter", name, e))
}

/// Opens a watch on `len` bytes at an address; `mode` is of `HW_BREAKPOINT_R` 1, `_W` 2, `_X` 4.
///
/// # Errors
/// What the kernel says; `ENOSPC` when the processor's few are all in use.
pub fn watchpoint(address: u64, len: u32, mode: u32, whose: Whose, name: &str) -> Result<OwnedFd> {
    let mut attr = attr(perf_type_id::PERF_TYPE_BREAKPOINT as u32);
    attr.bp_type = mode;
    attr.__bindgen_anon_1.sample_period = 1;
    attr.__bindgen_anon_3.bp_addr = address;
    attr.__bindgen_anon_4.bp_len = u64::from(len);
    open(&mut attr, whose).map_err(|e| SysError::new("watch", name, e))
}

/// Opens a clock that ticks every `period`: on one CPU, or while a process runs.
///
/// # Errors
/// What the kernel says.
pub fn clock(period: Duration, whose: Whose, name: &str) -> Result<OwnedFd> {
    let mut attr = attr(perf_type_id::PERF_TYPE_SOFTWARE as u32);
    attr.config = PERF_COUNT_SW_CPU_CLOCK;
    attr.__bindgen_anon_1.sample_period = u64::try_from(period.as_nanos()).unwrap_or(u64::MAX).max(1);
    open(&mut attr, whose).map_err(|e| SysError::new("open clock for", name, e))
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
