//! Small facts from `/proc` and `/sys`: processes, CPUs, clocks.

use super::bpf;
use std::fs;
use std::io::{self, Read};

/// Reads the start time of a process in clock ticks since boot; `None` when there is no such process, or only its
/// zombie: that holds nothing any more.
///
/// With the pid it names a process for good: pids are used again, start times are not.
#[must_use]
pub fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command name is in parentheses and may contain anything; state is the first field after it, start time the 20th.
    let mut rest = stat[stat.rfind(')')? + 1..].split_ascii_whitespace();
    let state = rest.next()?;
    if matches!(state, "Z" | "X" | "x") {
        return None;
    }
    rest.nth(18)?.parse().ok()
}

/// Whether a process is stopped (SIGSTOP, Ctrl-Z, a debugger): it does nothing until somebody lets it go on.
#[must_use]
pub fn is_stopped(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rfind(')').and_then(|at| stat[at + 1..].split_ascii_whitespace().next());
    matches!(state, Some("T" | "t"))
}

/// Reads who started a process, or who has taken its place; 0 for none that can be seen from here.
#[must_use]
pub fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // As for `start_time`: behind the name come state and parent.
    stat[stat.rfind(')')? + 1..].split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Returns the inode number of our pid namespace: pids of others mean nothing here.
#[must_use]
pub fn pid_namespace() -> u64 {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self/ns/pid").map_or(0, |m| m.ino())
}

/// Parses a CPU list as in `/sys/devices/system/cpu/online`: `0-3,8`.
#[must_use]
pub fn parse_cpu_list(text: &str) -> Vec<u32> {
    let mut cpus = Vec::new();
    for part in text.trim().split(',').filter(|p| !p.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.trim().parse::<u32>(), last.trim().parse::<u32>()) {
            cpus.extend(first..=last.min(first.saturating_add(65535)));
        }
    }
    cpus
}

/// Lists the CPUs that are running.
#[must_use]
pub fn online_cpus() -> Vec<u32> {
    let mut cpus = parse_cpu_list(&fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default());
    if cpus.is_empty() {
        // A container without /sys.
        cpus = stat_cpus(&fs::read_to_string("/proc/stat").unwrap_or_default());
    }
    if cpus.is_empty() { vec![0] } else { cpus }
}

/// The CPUs of `/proc/stat`: those that are running.
fn stat_cpus(text: &str) -> Vec<u32> {
    let number = |line: &str| line.strip_prefix("cpu")?.split_ascii_whitespace().next()?.parse().ok();
    // The first line, without a number, is of all together.
    text.lines().skip(1).map_while(number).collect()
}

/// Returns how many CPUs the kernel counts as possible: the number of values in an element of a per-CPU map.
#[must_use]
pub fn possible_cpus() -> u32 {
    static CPUS: std::sync::OnceLock<u32> = std::sync::OnceLock::new();
    *CPUS.get_or_init(|| {
        let list = parse_cpu_list(&fs::read_to_string("/sys/devices/system/cpu/possible").unwrap_or_default());
        match list.len() {
            // Not to be guessed: the kernel writes so many values to our memory. Who may not ask it reads no maps either.
            0 => bpf::values_of_an_element().unwrap_or_else(|_| online_cpus().len() as u32),
            len => len as u32,
        }
    })
}

/// Returns how many bytes of memory the machine has.
#[must_use]
pub fn memory() -> Option<u64> {
    // SAFETY: sysinfo is plain integers.
    let mut info: libc::sysinfo = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel fills a sysinfo.
    let ret = unsafe { libc::sysinfo(&raw mut info) };
    (ret == 0).then(|| info.totalram.saturating_mul(u64::from(info.mem_unit)))
}

/// Reads a clock in nanoseconds; `clock` is `CLOCK_MONOTONIC`, `CLOCK_BOOTTIME`, `CLOCK_REALTIME`, …
#[must_use]
pub fn clock_ns(clock: libc::clockid_t) -> u64 {
    // SAFETY: timespec is plain integers; the kernel fills it.
    let mut ts: libc::timespec = unsafe { std::mem::zeroed() };
    // SAFETY: ts is a live timespec; an unknown clock leaves it zero.
    unsafe { libc::clock_gettime(clock, &raw mut ts) };
    ts.tv_sec.cast_unsigned() * 1_000_000_000 + ts.tv_nsec.cast_unsigned()
}

/// Returns the memory that the kernel calls available, in bytes (`MemAvailable`).
#[must_use]
pub fn available_memory() -> Option<u64> {
    let mut text = [0u8; 512];
    let n = fs::File::open("/proc/meminfo").ok()?.read(&mut text).ok()?;
    let text = std::str::from_utf8(&text[..n]).ok()?;
    let line = text.lines().find(|l| l.starts_with("MemAvailable:"))?;
    line.split_ascii_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Reads a whole file whose size the kernel does not tell, or tells wrongly (`/sys`, `/proc`).
///
/// # Errors
/// What open or read say.
pub fn read_all(path: &str) -> io::Result<Vec<u8>> {
    fs::read(path)
}

/// Reads a path of a table of mounts, where blanks, tabs, line ends and backslashes are octal numbers: `\040`.
#[must_use]
pub fn unescaped(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut path = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.get(..3).and_then(|number| u8::from_str_radix(number, 8).ok()) {
            Some(byte) => {
                path.push(char::from(byte));
                path.push_str(&part[3..]);
            }
            None => {
                path.push('\\');
                path.push_str(part);
            }
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_in_tables_of_mounts() {
        assert_eq!(unescaped("/sys/fs/bpf"), "/sys/fs/bpf");
        assert_eq!(unescaped(r"/a\040b\011c\012d\134e"), "/a b\tc\nd\\e");
        assert_eq!(unescaped(r"\134040\04ä\"), r"\040\04ä\");
    }

    #[test]
    fn cpu_lists() {
        assert_eq!(parse_cpu_list("0-2,5\n"), [0, 1, 2, 5]);
        assert_eq!(parse_cpu_list("0\n"), [0]);
        assert_eq!(parse_cpu_list(""), Vec::<u32>::new());
    }

    #[test]
    fn cpus_without_sys() {
        assert_eq!(stat_cpus("cpu  1 2\ncpu0 1 2\ncpu3 1 2\nintr 5\ncpu9 1\n"), [0, 3]);
        assert_eq!(stat_cpus(""), Vec::<u32>::new());
        let stat = fs::read_to_string("/proc/stat").unwrap();
        assert_eq!(stat_cpus(&stat), online_cpus());
        match bpf::values_of_an_element() {
            Ok(values) => assert_eq!(values, possible_cpus()),
            Err(error) => assert_eq!(error.errno(), libc::EPERM, "{error}"),
        }
    }

    #[test]
    fn our_own_start_time_is_known_and_no_other_pids() {
        assert!(start_time(std::process::id()).unwrap() > 0);
        assert_eq!(parent(std::process::id()), Some(std::os::unix::process::parent_id()));
        assert_eq!(start_time(u32::MAX / 2), None);
    }
}
