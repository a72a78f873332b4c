//! Names for numbers: kernel symbols, user names, cgroup paths, stacks. Everything is read at the first need.

use crate::sys::bpf;
use crate::sys::cgroup::Cgroup2;
use crate::usym::Process;
use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use weir_compiler::types::StackMode;

/// `BPF_F_STACK_BUILD_ID`
const STACK_BUILD_ID: u32 = 1 << 5;

/// Resolves what only user space can. One for each printing thread.
#[derive(Debug, Default)]
pub struct Symbols {
    kernel: OnceCell<Vec<(u64, Box<str>)>>,
    users: OnceCell<HashMap<u64, String>>,
    cgroups: RefCell<HashMap<u64, String>>,
    /// One map for each depth: a value holds that many frames.
    stacks: Vec<OwnedFd>,
    processes: RefCell<HashMap<u32, Process>>,
    /// Offset of the boot clock to the time of day, nanoseconds.
    boot_offset: OnceCell<i128>,
    /// The same of the TAI clock: whole seconds.
    tai_offset: OnceCell<i128>,
}

impl Symbols {
    /// Uses these stack-trace maps for `KStack` and `UStack` ids.
    #[must_use]
    pub fn with_stacks(stacks: Vec<OwnedFd>) -> Self {
        Self { stacks, ..Self::default() }
    }

    fn kernel(&self) -> &[(u64, Box<str>)] {
        self.kernel
            .get_or_init(|| parse_kallsyms(&std::fs::read_to_string("/proc/kallsyms").unwrap_or_default()))
    }

    /// Names a kernel address: `tcp_sendmsg+18`, or the number where no symbol covers it.
    #[must_use]
    pub fn ksym(&self, addr: u64, offset: bool) -> String {
        let table = self.kernel();
        let index = table.partition_point(|(start, _)| *start <= addr);
        match index.checked_sub(1).map(|i| &table[i]) {
            Some((start, name)) if offset => format!("{name}+{}", addr - start),
            Some((_, name)) => name.to_string(),
            None => format!("0x{addr:x}"),
        }
    }

    /// Names an address of a process: `malloc+12`, with the file for [`StackMode::Perf`], or the number where nothing is
    /// known of it. For [`StackMode::Raw`] the symbol stands alone, as `usym` prints it.
    #[must_use]
    pub fn usym(&self, pid: u32, addr: u64, mode: StackMode) -> String {
        let mut processes = self.processes.borrow_mut();
        let process = processes.entry(pid).or_insert_with(|| Process::open(pid));
        match process.find(addr) {
            Some(found) => match mode {
                StackMode::Raw | StackMode::BuildId => found.name,
                StackMode::Bpftrace => format!("{}+{}", found.name, found.offset),
                StackMode::Perf => format!("{}+{} ({})", found.name, found.offset, found.file),
            },
            None => format!("0x{addr:x}"),
        }
    }

    /// Names a user; the number where the system knows none.
    #[must_use]
    pub fn username(&self, uid: u64) -> String {
        let users = self
            .users
            .get_or_init(|| parse_passwd(&std::fs::read_to_string("/etc/passwd").unwrap_or_default()));
        users.get(&uid).cloned().unwrap_or_else(|| uid.to_string())
    }

    /// Names a cgroup by its path below the cgroup v2 root: `unified:/system.slice`; the number where it is gone.
    #[must_use]
    pub fn cgroup_path(&self, id: u64) -> String {
        if let Some(path) = self.cgroups.borrow().get(&id) {
            return path.clone();
        }
        let mut cgroups = self.cgroups.borrow_mut();
        if let Ok(root) = Cgroup2::get() {
            root.walk("/", &mut |path, id| {
                cgroups.insert(id, format!("{}:{path}", root.name()));
            });
        }
        cgroups.entry(id).or_insert_with(|| id.to_string()).clone()
    }

    /// Reads the addresses of a stack from the stack map, innermost first.
    #[must_use]
    pub fn stack(&self, id: u32, depth: u32) -> Option<Vec<u64>> {
        let value = self.recorded(id, depth * 8, 0)?;
        let words = value.chunks_exact(8).map(|w| u64::from_ne_bytes(w.try_into().unwrap_or_default()));
        Some(words.take(depth as usize).take_while(|addr| *addr != 0).collect())
    }

    /// Reads the frames of a stack that was recorded with build ids, innermost first.
    #[must_use]
    pub fn build_ids(&self, id: u32, depth: u32) -> Option<Vec<Frame>> {
        Some(build_ids(&self.recorded(id, depth * 32, STACK_BUILD_ID)?))
    }

    /// Reads a stack from the map with values of that size and kind.
    fn recorded(&self, id: u32, bytes: u32, kind: u32) -> Option<Vec<u8>> {
        if id.cast_signed() < 0 {
            return None;
        }
        let fits =
            |map: &&OwnedFd| bpf::map_info(map.as_fd()).is_ok_and(|info| info.value_size == bytes && info.flags & STACK_BUILD_ID == kind);
        let map = self.stacks.iter().find(fits)?;
        let mut value = vec![0u8; bytes as usize];
        bpf::map_lookup(map.as_fd(), &id.to_ne_bytes(), &mut value, "stacks")
            .ok()?
            .then_some(value)
    }

    /// Returns how far the time of day is from the TAI clock, in nanoseconds.
    #[must_use]
    pub fn tai_offset(&self) -> i128 {
        use crate::sys::proc::clock_ns;
        const SECOND: i128 = 1_000_000_000;
        *self.tai_offset.get_or_init(|| {
            let apart = i128::from(clock_ns(libc::CLOCK_REALTIME)) - i128::from(clock_ns(libc::CLOCK_TAI));
            // The two were not read at the same moment, and are whole seconds apart.
            (apart + SECOND / 2).div_euclid(SECOND) * SECOND
        })
    }

    /// Converts nanoseconds of the boot clock to nanoseconds since 1970.
    #[must_use]
    pub fn boot_to_realtime(&self, boot_ns: u64) -> i128 {
        use crate::sys::proc::clock_ns;
        let offset = self
            .boot_offset
            .get_or_init(|| i128::from(clock_ns(libc::CLOCK_REALTIME)) - i128::from(clock_ns(libc::CLOCK_BOOTTIME)));
        i128::from(boot_ns) + offset
    }
}

/// One frame of a stack that was recorded with build ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The build id of the file, and the offset in it.
    File(String, u64),
    /// Nothing is known of the file at this address.
    Address(u64),
}

/// Takes the frames of a `struct bpf_stack_build_id[]` apart: status, 20 bytes of build id, offset or address.
fn build_ids(value: &[u8]) -> Vec<Frame> {
    let frames = value.chunks_exact(32).map_while(|frame| {
        let at = u64::from_ne_bytes(frame[24..].try_into().unwrap_or_default());
        match i32::from_ne_bytes(frame[..4].try_into().unwrap_or_default()) {
            1 => Some(Frame::File(frame[4..24].iter().map(|b| format!("{b:02x}")).collect(), at)),
            2 => Some(Frame::Address(at)),
            _ => None,
        }
    });
    frames.collect()
}

/// Reads `ADDRESS TYPE NAME [MODULE]` lines of text symbols into a sorted table.
fn parse_kallsyms(text: &str) -> Vec<(u64, Box<str>)> {
    let mut table: Vec<(u64, Box<str>)> = text
        .lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            let addr = u64::from_str_radix(words.next()?, 16).ok().filter(|a| *a != 0)?;
            let kind = words.next()?;
            matches!(kind, "t" | "T" | "w" | "W").then_some(())?;
            Some((addr, words.next()?.into()))
        })
        .collect();
    // Aliases of one address: the first in the kernel's order stays.
    table.sort_by_key(|(addr, _)| *addr);
    table.dedup_by_key(|(addr, _)| *addr);
    table
}

fn parse_passwd(text: &str) -> HashMap<u64, String> {
    let mut users = HashMap::new();
    for line in text.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        if let [name, _, uid, ..] = fields[..]
            && let Ok(uid) = uid.parse()
        {
            users.entry(uid).or_insert_with(|| name.to_owned());
        }
    }
    users
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_with_build_ids() {
        let frame = |status: i32, id: u8, at: u64| [&status.to_ne_bytes()[..], &[id; 20], &at.to_ne_bytes()].concat();
        let value = [frame(1, 0xa2, 0x110), frame(2, 0, 0x7f00), frame(0, 0, 0), frame(1, 1, 1)].concat();
        assert_eq!(build_ids(&value), [Frame::File("a2".repeat(20), 0x110), Frame::Address(0x7f00)]);
    }

    #[test]
    fn kallsyms_are_sorted_and_searched() {
        let table = parse_kallsyms("ffffffff81000100 T b\nffffffff81000000 t a\n0000000000000000 A zero\nffffffff81000200 d data\n");
        assert_eq!(table.len(), 2);
        let symbols = Symbols {
            kernel: OnceCell::from(table),
            ..Symbols::default()
        };
        assert_eq!(symbols.ksym(0xffff_ffff_8100_0104, true), "b+4");
        assert_eq!(symbols.ksym(0xffff_ffff_8100_00ff, false), "a");
        assert_eq!(symbols.ksym(0x10, true), "0x10");
    }

    #[test]
    fn the_first_name_of_a_uid_wins() {
        let users = parse_passwd("root:x:0:0:root:/root:/bin/sh\ntoor:x:0:0::/:/bin/sh\n");
        assert_eq!(users[&0], "root");
    }
}
