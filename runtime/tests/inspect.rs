//! Inspection before hooks that weir's own scripts do not use: cgroups, socket lookup, flow dissector, netfilter; and big maps.
//!
//! Needs root. Programs are two instructions long and live in namespaces and cgroups that the test makes.

#![allow(clippy::unwrap_used)] // A panic is the failure.

mod common;

use aya_obj::generated::{bpf_insn, bpf_prog_type};
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use weir_runtime::inspect::maps::{dump, state};
use weir_runtime::inspect::{FindingKind, HookKind, Node, Place, Scope, Selector, collect, select};
use weir_runtime::sys::bpf::{self, MapAttr, ProgAttr};

const BPF_PROG_ATTACH: i64 = 8;
const BPF_PROG_DETACH: i64 = 9;
const BPF_LINK_CREATE: i64 = 28;
const ALLOW_MULTI: u32 = 2;
const CGROUP_INET_EGRESS: u32 = 1;
const FLOW_DISSECTOR: u32 = 17;
const SK_LOOKUP: u32 = 36;
const NETFILTER: u32 = 45;
/// `BPF_PROG_TYPE_SK_LOOKUP`, `BPF_PROG_TYPE_NETFILTER`
const TYPE_SK_LOOKUP: u32 = 30;
const TYPE_NETFILTER: u32 = 32;

fn sys_bpf(cmd: i64, words: &[u32]) -> std::io::Result<i32> {
    let mut attr = [0u32; 32];
    attr[..words.len()].copy_from_slice(words);
    // SAFETY: `attr` is larger than what these commands read, and holds no pointers.
    let ret = unsafe { libc::syscall(libc::SYS_bpf, cmd, attr.as_mut_ptr(), size_of_val(&attr)) };
    if ret < 0 {
        Err(std::io::Error::last_os_error())
    } else {
        Ok(ret as i32)
    }
}

/// A program that returns a constant.
fn program(name: &str, kind: u32, attach_type: u32, returns: i32) -> OwnedFd {
    try_program(name, kind, attach_type, returns).unwrap()
}

fn try_program(name: &str, kind: u32, attach_type: u32, returns: i32) -> Result<OwnedFd, bpf::ProgLoadError> {
    let insn = |code: u8, imm: i32| {
        // SAFETY: plain integers and bit fields; zero is register 0 twice, offset 0.
        let mut insn: bpf_insn = unsafe { std::mem::zeroed() };
        insn.code = code;
        insn.imm = imm;
        insn
    };
    let insns = [insn(0xb7, returns), insn(0x95, 0)];
    bpf::prog_load(&ProgAttr::new(name, kind, attach_type, &insns))
}

fn id_of(program: &OwnedFd) -> u32 {
    bpf::prog_info(program.as_fd()).unwrap().id
}

/// A cgroup of our own, removed at the end.
struct Cgroup {
    path: PathBuf,
    below: String,
}

impl Cgroup {
    fn new(parent: Option<&Cgroup>, name: &str) -> Self {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let line = mounts.lines().find(|l| l.split(' ').nth(2) == Some("cgroup2"));
        let mount = line.expect("cgroup2 is mounted").split(' ').nth(1).unwrap();
        let below = format!("{}/{name}", parent.map_or("", |p| &p.below));
        let path = PathBuf::from(format!("{mount}{below}"));
        fs::create_dir(&path).unwrap();
        Self { path, below }
    }

    fn attach(&self, program: &OwnedFd) -> OwnedFd {
        let dir = File::open(&self.path).unwrap();
        let words = [dir.as_raw_fd() as u32, program.as_raw_fd() as u32, CGROUP_INET_EGRESS, ALLOW_MULTI];
        sys_bpf(BPF_PROG_ATTACH, &words).unwrap();
        dir.into()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.path);
    }
}

fn node() -> Node {
    collect(&Scope::default()).unwrap()
}

#[test]
fn cgroups_show_their_effective_order_and_lose_one_program() {
    if !common::root() {
        return;
    }
    let kind = bpf_prog_type::BPF_PROG_TYPE_CGROUP_SKB as u32;
    let name = format!("weirtest-{}", std::process::id());
    let parent = Cgroup::new(None, &name);
    let child = Cgroup::new(Some(&parent), "child");
    let above = program("above", kind, CGROUP_INET_EGRESS, 1);
    let below = program("below", kind, CGROUP_INET_EGRESS, 1);
    parent.attach(&above);
    child.attach(&below);
    let shown = |path: &str| -> Vec<(u32, Option<String>, String)> {
        let node = node();
        let cgroup = node.cgroups.iter().find(|c| c.path == path).cloned();
        let one = |a: &weir_runtime::inspect::Attachment| match &a.at {
            Place::Cgroup {
                attach_type, flags, from, ..
            } => {
                assert_eq!(attach_type, "inet_egress");
                (a.program.as_ref().unwrap().id, from.clone(), flags.clone())
            }
            other => panic!("{other:?}"),
        };
        cgroup.into_iter().flat_map(|c| c.programs).map(|a| one(&a)).collect()
    };
    let multi = || "multi".to_owned();
    assert_eq!(shown(&parent.below), [(id_of(&above), None, multi())]);
    // The cgroup's own program runs first, then those of its ancestors.
    assert_eq!(
        shown(&child.below),
        [(id_of(&below), None, multi()), (id_of(&above), Some(parent.below.clone()), multi())]
    );
    let selector = Selector::Program {
        id: id_of(&above),
        interface: None,
    };
    let found = select(&selector).unwrap().found;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].place, format!("cgroup {}", parent.below));
    found[0].run().unwrap();
    assert_eq!(shown(&parent.below), []);
    assert_eq!(shown(&child.below), [(id_of(&below), None, multi())]);
    // Gone is gone: it says so instead of removing something else.
    assert!(found[0].run().is_err());
}

/// Runs on a thread in a network namespace of its own.
fn in_own_netns(work: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: unshare changes only this thread's namespace.
            let ret = unsafe { libc::unshare(libc::CLONE_NEWNET) };
            assert_eq!(ret, 0, "{}", std::io::Error::last_os_error());
            work();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

fn link_create(program: &OwnedFd, target: BorrowedFd<'_>, attach_type: u32) -> OwnedFd {
    let words = [program.as_raw_fd() as u32, target.as_raw_fd() as u32, attach_type];
    let fd = sys_bpf(BPF_LINK_CREATE, &words).unwrap();
    // SAFETY: a new descriptor that nobody else owns.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

#[test]
fn hooks_of_a_namespace_are_shown_and_emptied() {
    if !common::root() {
        return;
    }
    in_own_netns(|| {
        let netns = File::open("/proc/thread-self/ns/net").unwrap();
        let lookup = program("lookup", TYPE_SK_LOOKUP, SK_LOOKUP, 1);
        let _link = link_create(&lookup, netns.as_fd(), SK_LOOKUP);
        let dissector = program("dissector", bpf_prog_type::BPF_PROG_TYPE_FLOW_DISSECTOR as u32, FLOW_DISSECTOR, 0);
        sys_bpf(BPF_PROG_ATTACH, &[0, dissector.as_raw_fd() as u32, FLOW_DISSECTOR]).unwrap();
        let shown = || -> Vec<(HookKind, u32, bool)> {
            let hooks = node().namespaces[0].hooks.clone();
            let one = |h: weir_runtime::inspect::Hook| {
                let program = &h.programs[0];
                (h.hook, program.program.as_ref().unwrap().id, program.link_id.is_some())
            };
            hooks.into_iter().map(one).collect()
        };
        let (lookup_id, dissector_id) = (id_of(&lookup), id_of(&dissector));
        assert_eq!(
            shown(),
            [
                (HookKind::SkLookup, lookup_id, true),
                (HookKind::FlowDissector, dissector_id, false)
            ]
        );
        for id in [lookup_id, dissector_id] {
            let found = select(&Selector::Program { id, interface: None }).unwrap().found;
            assert_eq!(found.len(), 1, "{found:?}");
            found[0].run().unwrap();
        }
        assert_eq!(shown(), []);
        // Nothing is left for the kernel to refuse.
        assert!(sys_bpf(BPF_PROG_DETACH, &[0, dissector.as_raw_fd() as u32, FLOW_DISSECTOR]).is_err());
    });
}

#[test]
fn netfilter_programs_are_shown_by_hook_and_priority() {
    if !common::root() {
        return;
    }
    // They came with Linux 6.4, and need CONFIG_NETFILTER_BPF_LINK.
    if let Err(e) = try_program("probe", TYPE_NETFILTER, NETFILTER, 1) {
        println!("skipped: this kernel has no netfilter programs: {e}");
        return;
    }
    in_own_netns(|| {
        let late = program("late", TYPE_NETFILTER, NETFILTER, 1);
        let early = program("early", TYPE_NETFILTER, NETFILTER, 1);
        let create = |program: &OwnedFd, priority: i32| {
            // prog_fd, target_fd, attach_type, flags, then pf (IPv4), hook (LOCAL_IN), priority, flags
            let words = [program.as_raw_fd() as u32, 0, NETFILTER, 0, 2, 1, priority.cast_unsigned(), 0];
            let fd = sys_bpf(BPF_LINK_CREATE, &words).unwrap();
            // SAFETY: a new descriptor that nobody else owns.
            unsafe { OwnedFd::from_raw_fd(fd) }
        };
        let _links = [create(&late, 10), create(&early, -5)];
        let shown: Vec<(u32, String)> = node()
            .netfilter
            .iter()
            .map(|a| (a.program.as_ref().unwrap().id, a.at.text()))
            .collect();
        assert_eq!(
            shown,
            [
                (id_of(&early), "ip input prio -5".to_owned()),
                (id_of(&late), "ip input prio 10".to_owned())
            ]
        );
    });
}

fn hash(name: &str, max_entries: u32) -> OwnedFd {
    let attr = MapAttr {
        name,
        kind: 1,
        key_size: 4,
        value_size: 8,
        max_entries,
        ..MapAttr::default()
    };
    bpf::map_create(&attr).unwrap()
}

fn fill(map: &OwnedFd, entries: u32) {
    let keys: Vec<u8> = (0..entries).flat_map(u32::to_ne_bytes).collect();
    let values: Vec<u8> = (0..entries).flat_map(|i| u64::from(i * 2).to_ne_bytes()).collect();
    bpf::map_update_many(map.as_fd(), &keys, &values, 4, 8, "test").unwrap();
}

#[test]
fn a_million_entries_are_counted_and_read_in_seconds() {
    if !common::root() {
        return;
    }
    // An emulated processor takes as long for a tenth.
    let million = if std::env::var_os("WEIR_TEST_VM").is_some() {
        100_000
    } else {
        1_000_000
    };
    let map = hash("million", million);
    fill(&map, million);
    let start = Instant::now();
    let counted = state(map.as_fd(), true).unwrap();
    let all = dump(map.as_fd()).unwrap();
    // One system call for each would take longer than this even on a fast machine with a debug build.
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert_eq!((counted.entries, counted.pressure()), (Some(million.into()), Some(100)));
    let sum: u64 = all.elements.iter().map(|(_, v)| u64::from_ne_bytes(v.try_into().unwrap())).sum();
    assert_eq!(sum, (0..u64::from(million)).map(|i| i * 2).sum::<u64>());
}

#[test]
fn every_kind_of_map_that_can_be_counted_is() {
    if !common::root() {
        return;
    }
    let flags_no_prealloc = 1;
    // Kind, key, value, entries put in.
    for (kind, key_size, value_size, flags) in [
        (1, 4, 8, 0),
        (5, 4, 8, 0),
        (9, 4, 8, 0),
        (10, 4, 8, 0),
        (11, 8, 8, flags_no_prealloc),
    ] {
        let attr = MapAttr {
            name: "counted",
            kind,
            key_size,
            value_size,
            max_entries: 100,
            flags,
            btf: None,
            card: 0,
        };
        let map = bpf::map_create(&attr).unwrap();
        let mut value = vec![0u8; 8 * 1024];
        value[0] = 1;
        for i in 0..7u32 {
            // The key of a trie starts with its length in bits.
            let key: Vec<u8> = if kind == 11 {
                [32u32.to_ne_bytes(), i.to_ne_bytes()].concat()
            } else {
                i.to_ne_bytes().to_vec()
            };
            bpf::map_update(map.as_fd(), &key, &value, 0, "counted").unwrap();
        }
        let found = state(map.as_fd(), true).unwrap();
        assert_eq!((found.entries, found.pressure()), (Some(7), Some(7)), "{}", found.kind);
        assert_eq!(dump(map.as_fd()).unwrap().elements.iter().count(), 7, "{}", found.kind);
    }
    // An array has a value in every slot: it is never full, and has no count.
    let array = MapAttr {
        name: "array",
        kind: 2,
        key_size: 4,
        value_size: 8,
        max_entries: 3,
        ..MapAttr::default()
    };
    let array = bpf::map_create(&array).unwrap();
    assert_eq!(state(array.as_fd(), true).unwrap().entries, None);
    assert_eq!(dump(array.as_fd()).unwrap().elements.iter().count(), 3);
    // A program array counts its occupied slots, by asking each.
    let progs = MapAttr {
        name: "progs",
        kind: 3,
        key_size: 4,
        value_size: 4,
        max_entries: 5,
        ..MapAttr::default()
    };
    let progs = bpf::map_create(&progs).unwrap();
    let tail = program("tail", bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS as u32, 0, 0);
    bpf::map_update(progs.as_fd(), &3u32.to_ne_bytes(), &tail.as_raw_fd().to_ne_bytes(), 0, "progs").unwrap();
    assert_eq!(state(progs.as_fd(), true).unwrap().entries, Some(1));
    // A queue cannot be read without taking from it.
    let queue = MapAttr {
        name: "queue",
        kind: 22,
        key_size: 0,
        value_size: 8,
        max_entries: 5,
        ..MapAttr::default()
    };
    let queue = bpf::map_create(&queue).unwrap();
    assert_eq!(dump(queue.as_fd()).unwrap_err().errno(), libc::EOPNOTSUPP);
}

#[test]
fn a_map_nearly_full_is_a_finding() {
    if !common::root() {
        return;
    }
    in_own_netns(|| {
        let map = hash("nearly_full", 10);
        fill(&map, 8);
        // r1 = map; r0 = 1; exit
        // SAFETY: plain integers and bit fields.
        let mut insns: [bpf_insn; 4] = unsafe { std::mem::zeroed() };
        insns[0].code = 0x18;
        insns[0].set_dst_reg(1);
        insns[0].set_src_reg(1);
        insns[0].imm = map.as_raw_fd();
        insns[2].code = 0xb7;
        insns[2].imm = 1;
        insns[3].code = 0x95;
        let user = bpf::prog_load(&ProgAttr::new("user", TYPE_SK_LOOKUP, SK_LOOKUP, &insns)).unwrap();
        let netns = File::open("/proc/thread-self/ns/net").unwrap();
        let _link = link_create(&user, netns.as_fd(), SK_LOOKUP);
        let map_id = bpf::map_info(map.as_fd()).unwrap().id;
        let found: Vec<_> = node()
            .findings
            .into_iter()
            .filter(|f| f.map == Some(map_id))
            .map(|f| (f.kind, f.program, f.message))
            .collect();
        let message = format!(
            "map `nearly_full` (id {map_id}) of `user` (id {}) is 80 % full: 8 of 10",
            id_of(&user)
        );
        assert_eq!(found, [(FindingKind::MapPressure, Some(id_of(&user)), message)]);
        // One less is none.
        bpf::map_delete(map.as_fd(), &0u32.to_ne_bytes(), "nearly_full").unwrap();
        assert!(!node().findings.iter().any(|f| f.map == Some(map_id)));
    });
}
