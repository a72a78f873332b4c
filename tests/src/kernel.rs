//! A picture of what is in the kernel: BPF programs, maps, links, BTF objects, pins, and one namespace's traffic control.
//!
//! What it is: the oracle of "leaves nothing behind", by plain `bpf()` calls and `tc`. What it is not: weir's own inspection.
//! Input: the running kernel. Output: sets that can be compared.
//! Source of numbers and layouts: the kernel's include/uapi/linux/bpf.h (6.18; append-only).

use crate::net::Netns;
use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::time::Instant;

const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_PROG_QUERY: libc::c_long = 16;

/// Enough of any info structure for what is read here.
const INFO_LEN: usize = 256;

/// A kind of BPF object that has ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Program,
    Map,
    Link,
    Btf,
}

impl Kind {
    const ALL: [Kind; 4] = [Kind::Program, Kind::Map, Kind::Link, Kind::Btf];

    /// The commands "next id" and "descriptor by id".
    fn commands(self) -> (libc::c_long, libc::c_long) {
        match self {
            Kind::Program => (11, 13),
            Kind::Map => (12, 14),
            Kind::Link => (31, 30),
            Kind::Btf => (23, 19),
        }
    }

    /// The word that `/proc/PID/fdinfo` has for the id.
    fn fdinfo_key(self) -> &'static str {
        match self {
            Kind::Program => "prog_id:",
            Kind::Map => "map_id:",
            Kind::Link => "link_id:",
            Kind::Btf => "btf_id:",
        }
    }
}

/// One BPF object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Object {
    pub kind: Kind,
    pub id: u32,
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.kind, self.id)
    }
}

impl Object {
    /// With its name. Only for objects that stay: the kernel (seen on 6.18) leaks a program array whose last user closes it
    /// twice in short order, and to ask for a dying map's name is to be such a user.
    fn with_name(self) -> String {
        match name_of(self) {
            Some(name) if !name.is_empty() => format!("{self} `{name}`"),
            _ => self.to_string(),
        }
    }
}

/// `bpf(command, attr)`; the attribute is given as its leading 32-bit words, the rest is zero.
fn bpf(command: libc::c_long, words: &mut [u32; 32]) -> std::io::Result<i32> {
    // SAFETY: `words` is 128 bytes, more than any command used here reads or writes, and pointers in it point to live buffers.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, words.as_mut_ptr(), size_of_val(words)) };
    if result < 0 {
        Err(std::io::Error::last_os_error())
    } else {
        Ok(result as i32)
    }
}

fn objects() -> Result<BTreeSet<Object>> {
    let all = Kind::ALL.into_iter().map(objects_of).collect::<Result<Vec<_>>>()?;
    Ok(all.into_iter().flatten().collect())
}

/// All objects of that kind in the kernel.
///
/// # Errors
/// No right to list them.
pub fn objects_of(kind: Kind) -> Result<BTreeSet<Object>> {
    let mut all = BTreeSet::new();
    let mut id = 0;
    loop {
        let mut words = [0; 32];
        words[0] = id;
        match bpf(kind.commands().0, &mut words) {
            Ok(_) => id = words[1],
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => return Ok(all),
            Err(e) => return Err(e).with_context(|| format!("cannot list BPF objects ({kind:?})")),
        }
        all.insert(Object { kind, id });
    }
}

/// A `bpf()` command that returns a descriptor, with the leading words of its attribute.
fn bpf_fd(command: libc::c_long, leading: &[u32]) -> std::io::Result<OwnedFd> {
    let mut words = [0; 32];
    words[..leading.len()].copy_from_slice(leading);
    let fd = bpf(command, &mut words)?;
    // SAFETY: the commands used here return a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Lets an XDP program send copies of a frame, as if they had come to an interface of the calling thread's namespace; returns when all
/// are sent, with the nanoseconds that one took. Not by a clock around the call: the kernel waits for all processors before and after.
/// Linux 5.18 or newer.
///
/// # Errors
/// The interface, its driver or the program does not take them.
pub fn send_frames(program: &OwnedFd, iface: &str, frame: &[u8], count: u32) -> std::io::Result<u32> {
    const LIVE_FRAMES: u32 = 2;
    let index = nix::net::if_::if_nametoindex(iface)?;
    // `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
    let context = [0, frame.len() as u32, 0, index, 0, 0];
    let halves = |address: u64| [address as u32, (address >> 32) as u32];
    let mut words = [0; 32];
    words[0] = program.as_raw_fd() as u32;
    words[2] = frame.len() as u32;
    words[4..6].copy_from_slice(&halves(frame.as_ptr() as u64));
    words[8] = count;
    words[10] = size_of_val(&context) as u32;
    words[12..14].copy_from_slice(&halves(context.as_ptr() as u64));
    words[16] = LIVE_FRAMES;
    bpf(BPF_PROG_TEST_RUN, &mut words)?;
    Ok(words[9])
}

/// Holds an object, so that this process is its owner until the descriptor is closed.
///
/// # Errors
/// It is gone.
pub fn open(object: Object) -> std::io::Result<OwnedFd> {
    bpf_fd(object.kind.commands().1, &[object.id])
}

/// The start of the object's `struct bpf_prog_info`, `bpf_map_info` …; what is in `buffer` before goes to the kernel.
fn info(object: Object, mut buffer: [u8; INFO_LEN]) -> std::io::Result<[u8; INFO_LEN]> {
    let fd = open(object)?;
    let address = buffer.as_mut_ptr() as u64;
    let mut words = [0; 32];
    words[..4].copy_from_slice(&[fd.as_raw_fd() as u32, INFO_LEN as u32, address as u32, (address >> 32) as u32]);
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut words)?;
    Ok(buffer)
}

fn u32_at(buffer: &[u8; INFO_LEN], at: usize) -> u32 {
    (0..4).fold(0, |n, i| n | u32::from(buffer[at + i]) << (8 * i))
}

fn u64_at(buffer: &[u8; INFO_LEN], at: usize) -> u64 {
    u64::from(u32_at(buffer, at)) | u64::from(u32_at(buffer, at + 4)) << 32
}

/// The name in `struct bpf_prog_info` or `struct bpf_map_info`.
fn name_of(object: Object) -> Option<String> {
    let at = match object.kind {
        Kind::Program => 64,
        Kind::Map => 24,
        Kind::Link | Kind::Btf => return None,
    };
    let bytes = info(object, [0; INFO_LEN]).ok()?;
    let name = &bytes[at..at + 16];
    Some(String::from_utf8_lossy(name.split(|b| *b == 0).next().unwrap_or_default()).into_owned())
}

/// Whether it is the BTF of a kernel module: the kernel loads modules when somebody asks for what is in them.
fn is_of_a_module(object: Object) -> bool {
    const KERNEL_BTF: usize = 28;
    object.kind == Kind::Btf && info(object, [0; INFO_LEN]).is_ok_and(|answer| u32_at(&answer, KERNEL_BTF) != 0)
}

/// The ids of the maps that a program uses.
fn maps_of_program(id: u32) -> Vec<u32> {
    const NR_MAP_IDS: usize = 52;
    const MAP_IDS: usize = 56;
    let mut ids = [0u32; 64];
    let mut request = [0; INFO_LEN];
    request[NR_MAP_IDS..NR_MAP_IDS + 4].copy_from_slice(&(ids.len() as u32).to_le_bytes());
    request[MAP_IDS..MAP_IDS + 8].copy_from_slice(&(ids.as_mut_ptr() as u64).to_le_bytes());
    let Ok(answer) = info(Object { kind: Kind::Program, id }, request) else {
        return Vec::new();
    };
    ids[..ids.len().min(u32_at(&answer, NR_MAP_IDS) as usize)].to_vec()
}

/// Nanoseconds in the program and its runs since [`enable_stats`].
///
/// # Errors
/// The program is gone.
pub fn run_stats(program: Object) -> std::io::Result<(u64, u64)> {
    const RUN_TIME_NS: usize = 192;
    const RUN_CNT: usize = 200;
    let answer = info(program, [0; INFO_LEN])?;
    Ok((u64_at(&answer, RUN_TIME_NS), u64_at(&answer, RUN_CNT)))
}

/// Instructions of a program as the kernel has rewritten them.
///
/// # Errors
/// The program is gone.
pub fn instructions(program: Object) -> std::io::Result<u32> {
    const XLATED_PROG_LEN: usize = 20;
    Ok(u32_at(&info(program, [0; INFO_LEN])?, XLATED_PROG_LEN) / 8)
}

/// Switches the run-time statistics of all programs on until the descriptor is closed, so they end with this process however
/// it ends (kernel 5.8).
///
/// # Errors
/// No right to do so.
pub fn enable_stats() -> std::io::Result<OwnedFd> {
    const BPF_ENABLE_STATS: libc::c_long = 32;
    bpf_fd(BPF_ENABLE_STATS, &[])
}

/// The objects that a process holds by descriptors, and what those hold in turn.
pub fn held_by(pid: u32) -> BTreeSet<Object> {
    let mut held = BTreeSet::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo")).into_iter().flatten().flatten() {
        let Ok(text) = fs::read_to_string(entry.path()) else { continue };
        for line in text.lines() {
            for kind in Kind::ALL {
                let id = line.strip_prefix(kind.fdinfo_key()).and_then(|v| v.trim().parse().ok());
                // A link of a kind without a program says 0.
                held.extend(id.filter(|id| *id != 0).map(|id| Object { kind, id }));
            }
        }
    }
    let programs: Vec<u32> = held.iter().filter(|o| o.kind == Kind::Program).map(|o| o.id).collect();
    held.extend(
        programs
            .into_iter()
            .flat_map(maps_of_program)
            .map(|id| Object { kind: Kind::Map, id }),
    );
    held
}

/// What all other processes hold.
fn held_by_others() -> BTreeSet<Object> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes
        .filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| *pid != std::process::id());
    pids.flat_map(held_by).collect()
}

fn pins() -> BTreeSet<PathBuf> {
    fn walk(dir: &Path, found: &mut BTreeSet<PathBuf>) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => walk(&entry.path(), found),
                // The kernel's own iterators lie here on some systems.
                _ if entry.file_name().to_string_lossy().ends_with(".debug") => {}
                _ => drop(found.insert(entry.path())),
            }
        }
    }
    let mut found = BTreeSet::new();
    walk(Path::new("/sys/fs/bpf"), &mut found);
    found
}

/// Qdiscs and filters of a namespace, and the XDP programs on its interfaces, one per line.
fn traffic_control(ns: &Netns) -> Result<BTreeSet<String>> {
    let mut lines = BTreeSet::new();
    let links = ns.ip(&["-o", "link", "show"])?;
    for line in links.lines() {
        let name = line.split(": ").nth(1).and_then(|n| n.split('@').next()).unwrap_or_default();
        for word in ["xdp", "prog/xdp"] {
            if line.split_whitespace().any(|w| w.starts_with(word)) {
                lines.insert(format!("{name}: has an XDP program"));
            }
        }
        for hook in ["ingress", "egress"] {
            let filters = ns.tc(&["filter", "show", "dev", name, hook]).unwrap_or_default();
            lines.extend(filters.lines().map(|l| format!("{name} {hook}: {}", l.trim())));
        }
    }
    lines.extend(ns.tc(&["qdisc", "show"])?.lines().map(|l| l.trim().to_owned()));
    Ok(lines)
}

/// The state at one moment.
pub struct KernelState {
    objects: BTreeSet<Object>,
    pins: BTreeSet<PathBuf>,
    control: BTreeSet<String>,
}

impl KernelState {
    /// Takes the picture; with a namespace its traffic control is in it.
    ///
    /// # Errors
    /// No right to list BPF objects, or `tc` is missing.
    pub fn now(ns: Option<&Netns>) -> Result<Self> {
        let control = ns.map(traffic_control).transpose()?.unwrap_or_default();
        Ok(Self {
            objects: objects()?,
            pins: pins(),
            control,
        })
    }

    /// What is left and what is gone since `self`, at this moment: BPF objects, and the rest in words. What another live
    /// process holds is its own: the machine may be shared.
    ///
    /// # Errors
    /// As [`KernelState::now`].
    pub fn changes(&self, ns: Option<&Netns>) -> Result<(Vec<Object>, Vec<String>)> {
        let after = Self::now(ns)?;
        let mut objects: Vec<Object> = after.objects.difference(&self.objects).copied().collect();
        if !objects.is_empty() {
            let others = held_by_others();
            objects.retain(|o| !others.contains(o) && !is_of_a_module(*o));
        }
        let mut changes: Vec<String> = Vec::new();
        changes.extend(after.pins.difference(&self.pins).map(|p| format!("left: pin {}", p.display())));
        changes.extend(after.control.difference(&self.control).map(|l| format!("left: {l}")));
        changes.extend(self.control.difference(&after.control).map(|l| format!("gone: {l}")));
        Ok((objects, changes))
    }

    /// Fails unless everything that came since `self` has gone again and everything that was there still is.
    /// The kernel frees programs and maps some time after their last user, so it asks until then.
    ///
    /// # Errors
    /// Names what is left or gone.
    pub fn assert_same(&self, ns: Option<&Netns>) -> Result<()> {
        let deadline = Instant::now() + crate::patience() / 3;
        loop {
            let (objects, mut trouble) = self.changes(ns)?;
            if objects.is_empty() && trouble.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                trouble.extend(objects.into_iter().map(|o| format!("left: {}", o.with_name())));
                bail!("the kernel is not as it was:\n  {}", trouble.join("\n  "));
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }
}

/// Fails unless all of these objects are gone, after a grace as in [`KernelState::assert_same`].
///
/// # Errors
/// Names those that still exist.
pub fn assert_gone(ours: &BTreeSet<Object>) -> Result<()> {
    let deadline = Instant::now() + crate::patience() / 3;
    loop {
        let all = objects()?;
        let left: Vec<Object> = ours.intersection(&all).copied().collect();
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!(
                "left in the kernel: {}",
                left.into_iter().map(Object::with_name).collect::<Vec<_>>().join(", ")
            );
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

/// Makes a small array map, owned by the returned descriptor: something to be found left behind.
///
/// # Errors
/// No right to make one.
pub fn make_map() -> std::io::Result<OwnedFd> {
    const BPF_MAP_CREATE: libc::c_long = 0;
    const BPF_MAP_TYPE_ARRAY: u32 = 2;
    // Type, key size, value size, entries.
    bpf_fd(BPF_MAP_CREATE, &[BPF_MAP_TYPE_ARRAY, 4, 8, 1])
}

/// Whether the kernel knows tcx (6.6): it can be asked which programs an interface has there.
///
/// # Errors
/// The kernel's own, `EINVAL` when it does not know the attach type.
pub fn query_tcx() -> std::io::Result<()> {
    const LOOPBACK: u32 = 1;
    let mut words = [0; 32];
    words[..2].copy_from_slice(&[LOOPBACK, BPF_TCX_INGRESS]);
    bpf(BPF_PROG_QUERY, &mut words).map(drop)
}

/// What kind of program [`load_program`] makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgramType {
    SchedCls = 3,
    Xdp = 6,
    CgroupSkb = 8,
    FlowDissector = 22,
    SkLookup = 30,
    /// From 6.4 on.
    Netfilter = 32,
}

impl ProgramType {
    /// What such a program says at its load that it is for; 0 where it says nothing.
    fn attach_type(self) -> u32 {
        match self {
            ProgramType::SchedCls | ProgramType::Xdp | ProgramType::CgroupSkb => 0,
            ProgramType::FlowDissector => BPF_FLOW_DISSECTOR,
            ProgramType::SkLookup => BPF_SK_LOOKUP,
            ProgramType::Netfilter => BPF_NETFILTER,
        }
    }
}

const BPF_FLOW_DISSECTOR: u32 = 17;
const BPF_SK_LOOKUP: u32 = 36;
const BPF_NETFILTER: u32 = 45;

/// Loads a program of somebody else: it returns `verdict` and does nothing more. Owned by the returned descriptor.
///
/// # Errors
/// No right to load one.
pub fn load_program(kind: ProgramType, name: &str, verdict: i32) -> std::io::Result<OwnedFd> {
    const BPF_PROG_LOAD: libc::c_long = 5;
    // r0 = verdict; exit
    let code: [u32; 4] = [0x0000_00b7, verdict.cast_unsigned(), 0x0000_0095, 0];
    let (insns, license) = (code.as_ptr() as u64, c"GPL".as_ptr() as u64);
    let mut words = [0; 32];
    words[..6].copy_from_slice(&[
        kind as u32,
        2,
        insns as u32,
        (insns >> 32) as u32,
        license as u32,
        (license >> 32) as u32,
    ]);
    for (i, byte) in name.bytes().take(15).enumerate() {
        words[12 + i / 4] |= u32::from(byte) << (8 * (i % 4));
    }
    words[17] = kind.attach_type();
    let fd = bpf(BPF_PROG_LOAD, &mut words)?;
    // SAFETY: the command returns a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The id of a program.
///
/// # Errors
/// It is none.
pub fn program_id(program: &OwnedFd) -> Result<u32> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", program.as_raw_fd()))?;
    let id = text.lines().find_map(|l| l.strip_prefix("prog_id:")?.trim().parse().ok());
    id.with_context(|| format!("no program: {text}"))
}

const BPF_TCX_INGRESS: u32 = 46;

/// Attaches a program at the end of an interface's tcx ingress chain, until the returned link is closed.
///
/// # Errors
/// No interface, or what the kernel says.
pub fn attach_tcx(ns: &Netns, iface: &str, program: &OwnedFd) -> Result<OwnedFd> {
    const BPF_LINK_CREATE: libc::c_long = 28;
    ns.run(|| {
        let index = nix::net::if_::if_nametoindex(iface)?;
        bpf_fd(BPF_LINK_CREATE, &[program.as_raw_fd() as u32, index, BPF_TCX_INGRESS]).context("cannot attach by tcx")
    })
}

/// Attaches an XDP program to an interface by a link, in generic mode, until the returned link is closed.
///
/// # Errors
/// No interface, or what the kernel says.
pub fn attach_xdp(ns: &Netns, iface: &str, program: &OwnedFd) -> Result<OwnedFd> {
    const BPF_LINK_CREATE: libc::c_long = 28;
    const BPF_XDP: u32 = 37;
    const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
    ns.run(|| {
        let index = nix::net::if_::if_nametoindex(iface)?;
        let attr = [program.as_raw_fd() as u32, index, BPF_XDP, XDP_FLAGS_SKB_MODE];
        bpf_fd(BPF_LINK_CREATE, &attr).context("cannot attach by an XDP link")
    })
}

/// Attaches a program to what the host sends into a netkit device, until the returned link is closed (kernel 6.7).
///
/// # Errors
/// No interface, or what the kernel says.
pub fn attach_netkit(ns: &Netns, iface: &str, program: &OwnedFd) -> Result<OwnedFd> {
    const BPF_LINK_CREATE: libc::c_long = 28;
    const BPF_NETKIT_PRIMARY: u32 = 54;
    ns.run(|| {
        let index = nix::net::if_::if_nametoindex(iface)?;
        bpf_fd(BPF_LINK_CREATE, &[program.as_raw_fd() as u32, index, BPF_NETKIT_PRIMARY]).context("cannot attach to a netkit device")
    })
}

/// Attaches a socket lookup or flow dissector program to a network namespace, until the returned link is closed.
///
/// # Errors
/// What the kernel says.
pub fn attach_netns(ns: &Netns, kind: ProgramType, program: &OwnedFd) -> Result<OwnedFd> {
    const BPF_LINK_CREATE: libc::c_long = 28;
    let attr = [program.as_raw_fd() as u32, ns.file().as_raw_fd() as u32, kind.attach_type()];
    bpf_fd(BPF_LINK_CREATE, &attr).context("cannot attach to a network namespace")
}

/// Attaches a program to what a cgroup's sockets receive, behind those that are there, until the returned link is closed.
///
/// # Errors
/// What the kernel says.
pub fn attach_cgroup(group: &Path, program: &OwnedFd) -> Result<OwnedFd> {
    const BPF_LINK_CREATE: libc::c_long = 28;
    const BPF_CGROUP_INET_INGRESS: u32 = 0;
    let group = fs::File::open(group)?;
    let attr = [program.as_raw_fd() as u32, group.as_raw_fd() as u32, BPF_CGROUP_INET_INGRESS];
    bpf_fd(BPF_LINK_CREATE, &attr).context("cannot attach to a cgroup")
}

/// Attaches a program to the IPv4 packets for this namespace (`LOCAL_IN`), until the returned link is closed (kernel 6.4).
///
/// # Errors
/// What the kernel says.
pub fn attach_netfilter(ns: &Netns, priority: i32, program: &OwnedFd) -> Result<OwnedFd> {
    const BPF_LINK_CREATE: libc::c_long = 28;
    const NFPROTO_IPV4: u32 = 2;
    const NF_INET_LOCAL_IN: u32 = 1;
    let attr = [program.as_raw_fd() as u32, 0, BPF_NETFILTER, 0];
    let place = [NFPROTO_IPV4, NF_INET_LOCAL_IN, priority.cast_unsigned()];
    let attr: Vec<u32> = attr.into_iter().chain(place).collect();
    ns.run(|| bpf_fd(BPF_LINK_CREATE, &attr).context("cannot attach to netfilter"))
}

/// The names of the programs of an interface's tcx ingress chain, in their order.
///
/// # Errors
/// No interface, or what the kernel says.
pub fn tcx_chain(ns: &Netns, iface: &str) -> Result<Vec<String>> {
    let mut ids = [0u32; 64];
    let at = ids.as_mut_ptr() as u64;
    let count = ns.run(|| {
        let index = nix::net::if_::if_nametoindex(iface)?;
        let mut words = [0; 32];
        words[..7].copy_from_slice(&[index, BPF_TCX_INGRESS, 0, 0, at as u32, (at >> 32) as u32, 64]);
        bpf(BPF_PROG_QUERY, &mut words).context("cannot list the tcx programs")?;
        Ok(words[6] as usize)
    })?;
    let name = |id: &u32| {
        name_of(Object {
            kind: Kind::Program,
            id: *id,
        })
        .unwrap_or_default()
    };
    Ok(ids[..count].iter().map(name).collect())
}

/// Loads an fentry program for a type that is no function, which a kernel with such programs finds out (`EINVAL`) and one that refuses them
/// does not look at.
///
/// # Errors
/// The kernel's own, `EPERM` when it refuses such programs.
pub fn load_fentry() -> std::io::Result<()> {
    const BPF_PROG_LOAD: libc::c_long = 5;
    const BPF_PROG_TYPE_TRACING: u32 = 26;
    const BPF_TRACE_FENTRY: u32 = 24;
    // r0 = 0; exit
    let insns: [u64; 2] = [0xb7, 0x95];
    let license = c"GPL";
    let mut words = [0; 32];
    words[..2].copy_from_slice(&[BPF_PROG_TYPE_TRACING, 2]);
    let pointer = |words: &mut [u32; 32], at: usize, p: u64| {
        words[at] = p as u32;
        words[at + 1] = (p >> 32) as u32;
    };
    pointer(&mut words, 2, insns.as_ptr() as u64);
    pointer(&mut words, 4, license.as_ptr() as u64);
    // expected_attach_type, attach_btf_id
    words[17] = BPF_TRACE_FENTRY;
    words[27] = 1;
    match bpf(BPF_PROG_LOAD, &mut words) {
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        other => other.map(drop),
    }
}

/// Opens and closes a breakpoint on data, as `watchpoint` does.
///
/// # Errors
/// What the kernel says.
pub fn open_watchpoint() -> std::io::Result<()> {
    const PERF_TYPE_BREAKPOINT: u32 = 5;
    const HW_BREAKPOINT_W: u32 = 2;
    static WATCHED: AtomicU64 = AtomicU64::new(0);
    // `struct perf_event_attr`: type, size, …, bp_type at 52, bp_addr, bp_len.
    let mut attr = [0_u64; 16];
    attr[0] = u64::from(PERF_TYPE_BREAKPOINT) | (128 << 32);
    attr[2] = 1;
    attr[6] = u64::from(HW_BREAKPOINT_W) << 32;
    attr[7] = WATCHED.as_ptr() as u64;
    attr[8] = 8;
    open_event(&attr)
}

/// Opens and closes a counter of the processor's instructions, as `hardware` does.
///
/// # Errors
/// What the kernel says.
pub fn open_counter() -> std::io::Result<()> {
    const PERF_TYPE_HARDWARE: u32 = 0;
    const PERF_COUNT_HW_INSTRUCTIONS: u64 = 1;
    let mut attr = [0_u64; 16];
    attr[0] = u64::from(PERF_TYPE_HARDWARE) | (128 << 32);
    attr[1] = PERF_COUNT_HW_INSTRUCTIONS;
    attr[2] = 1_000_000;
    open_event(&attr)
}

/// Opens and closes an event of this process, which is a `struct perf_event_attr`.
fn open_event(attr: &[u64; 16]) -> std::io::Result<()> {
    // SAFETY: the struct lives through the call; this process, any CPU, no group.
    let fd = unsafe { libc::syscall(libc::SYS_perf_event_open, attr.as_ptr(), 0, -1, -1, 0) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor.
    drop(unsafe { OwnedFd::from_raw_fd(fd as i32) });
    Ok(())
}

/// Loads a program that decides what a function returns, attached nowhere.
///
/// # Errors
/// What the kernel says; `EINVAL` where it has no such helper.
pub fn load_override() -> std::io::Result<()> {
    const BPF_PROG_LOAD: libc::c_long = 5;
    const BPF_PROG_TYPE_KPROBE: u32 = 2;
    const OVERRIDE_RETURN: u64 = 58;
    // r2 = 0; call; r0 = 0; exit
    let insns: [u64; 4] = [0x02b7, 0x85 | OVERRIDE_RETURN << 32, 0xb7, 0x95];
    let license = c"GPL";
    let mut words = [0; 32];
    words[..2].copy_from_slice(&[BPF_PROG_TYPE_KPROBE, 4]);
    for (at, pointer) in [(2, insns.as_ptr() as u64), (4, license.as_ptr() as u64)] {
        words[at] = pointer as u32;
        words[at + 1] = (pointer >> 32) as u32;
    }
    bpf(BPF_PROG_LOAD, &mut words).map(drop)
}
