//! The kernel's side of the back end's tests: raw `bpf()`, without a loader library between the code and the verifier.

#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::print_stdout, reason = "a test says what it skipped")]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use weir_compiler::backend::{Compiled, Insn, RelocKind};

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_TEST_RUN: libc::c_long = 10;

pub const BPF_MAP_TYPE_ARRAY: u32 = 2;
pub const BPF_MAP_TYPE_HASH: u32 = 1;
pub const BPF_PROG_TYPE_XDP: u32 = 6;
/// Makes the verifier remember a state at every jump, so that pruning happens in small programs too.
pub const BPF_F_TEST_STATE_FREQ: u32 = 1 << 3;
pub const BPF_PSEUDO_MAP_FD: u8 = 1;
pub const BPF_PSEUDO_MAP_VALUE: u8 = 2;

/// The part of `union bpf_attr` that `BPF_PROG_LOAD` reads here.
#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
}

#[repr(C)]
#[derive(Default)]
struct RunAttr {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
}

#[repr(C)]
#[derive(Default)]
struct MapAttr {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct ElemAttr {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<i32> {
    // SAFETY: `attr` is the `bpf_attr` of this command, and the addresses in it are those of live buffers.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result as i32)
    }
}

/// Loads a program; the error has the verifier's log.
pub fn load(prog_type: u32, insns: &[Insn]) -> Result<OwnedFd, (io::Error, String)> {
    load_with_flags(prog_type, insns, 0)
}

/// The same with flags such as [`BPF_F_TEST_STATE_FREQ`].
pub fn load_with_flags(prog_type: u32, insns: &[Insn], prog_flags: u32) -> Result<OwnedFd, (io::Error, String)> {
    let code: Vec<u8> = insns.iter().flat_map(|i| i.to_bytes()).collect();
    let mut attr = LoadAttr {
        prog_type,
        insn_cnt: insns.len() as u32,
        insns: code.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        prog_flags,
        ..LoadAttr::default()
    };
    if let Ok(fd) = bpf(BPF_PROG_LOAD, &mut attr) {
        // SAFETY: the kernel has just given us this descriptor.
        return Ok(unsafe { OwnedFd::from_raw_fd(fd) });
    }
    // Once more, to learn why.
    let mut log = vec![0u8; 1 << 24];
    (attr.log_level, attr.log_size, attr.log_buf) = (1, log.len() as u32, log.as_mut_ptr() as u64);
    match bpf(BPF_PROG_LOAD, &mut attr) {
        // SAFETY: the kernel has just given us this descriptor.
        Ok(fd) => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        Err(e) => {
            let len = log.iter().position(|b| *b == 0).unwrap_or(log.len());
            Err((e, String::from_utf8_lossy(&log[..len]).into_owned()))
        }
    }
}

/// Runs a loaded program once on a packet; returns its result and the packet afterwards.
pub fn run(program: &OwnedFd, packet: &[u8]) -> io::Result<(u32, Vec<u8>)> {
    let mut out = vec![0u8; packet.len() + 256];
    let mut attr = RunAttr {
        prog_fd: program.as_raw_fd() as u32,
        data_size_in: packet.len() as u32,
        data_size_out: out.len() as u32,
        data_in: packet.as_ptr() as u64,
        data_out: out.as_mut_ptr() as u64,
        repeat: 1,
        ..RunAttr::default()
    };
    bpf(BPF_PROG_TEST_RUN, &mut attr)?;
    out.truncate(attr.data_size_out as usize);
    Ok((attr.retval, out))
}

/// Creates a map with 4-byte keys.
pub fn map(map_type: u32, value_size: u32, max_entries: u32) -> io::Result<OwnedFd> {
    let mut attr = MapAttr {
        map_type,
        key_size: 4,
        value_size,
        max_entries,
        map_flags: 0,
    };
    let fd = bpf(BPF_MAP_CREATE, &mut attr)?;
    // SAFETY: the kernel has just given us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub fn map_get(map: &OwnedFd, key: u32, value: &mut [u8]) -> io::Result<()> {
    let mut attr = ElemAttr {
        map_fd: map.as_raw_fd() as u32,
        key: std::ptr::from_ref(&key) as u64,
        value: value.as_mut_ptr() as u64,
        ..ElemAttr::default()
    };
    bpf(BPF_MAP_LOOKUP_ELEM, &mut attr).map(drop)
}

pub fn map_set(map: &OwnedFd, key: u32, value: &[u8]) -> io::Result<()> {
    let mut attr = ElemAttr {
        map_fd: map.as_raw_fd() as u32,
        key: std::ptr::from_ref(&key) as u64,
        value: value.as_ptr() as u64,
        ..ElemAttr::default()
    };
    bpf(BPF_MAP_UPDATE_ELEM, &mut attr).map(drop)
}

/// The instructions with the relocations done, as a loader would: maps by index, `.rodata` in `rodata`.
pub fn link(compiled: &Compiled, maps: &[&OwnedFd], rodata: Option<&OwnedFd>) -> Vec<Insn> {
    let mut insns = compiled.insns.clone();
    for reloc in &compiled.relocs {
        let at = reloc.insn as usize;
        match reloc.kind {
            RelocKind::Map(index) => {
                insns[at].set_src(BPF_PSEUDO_MAP_FD);
                insns[at].imm = maps[index as usize].as_raw_fd();
            }
            RelocKind::Rodata(_) => {
                insns[at].set_src(BPF_PSEUDO_MAP_VALUE);
                insns[at + 1].imm = insns[at].imm;
                insns[at].imm = rodata.expect("the program has read-only data").as_raw_fd();
            }
            RelocKind::Subprog(_) | RelocKind::SubprogAddr(_) => panic!("tests of single functions"),
        }
    }
    insns
}

/// Whether this process may load programs: the answer of the kernel to the smallest program there is. Tests skip on a
/// "no" and say so.
pub fn permitted() -> bool {
    // r0 = 0; exit
    let nothing = [Insn::new(0xb7, 0, 0, 0, 0), Insn::new(0x95, 0, 0, 0, 0)];
    match load(BPF_PROG_TYPE_XDP, &nothing) {
        Ok(_) => true,
        Err((e, _)) if matches!(e.raw_os_error(), Some(libc::EPERM | libc::ENOSYS)) => {
            println!("skipped: bpf() is not permitted here ({e})");
            false
        }
        Err((e, log)) => panic!("the kernel refuses `r0 = 0; exit`: {e}\n{log}"),
    }
}

/// The instruction set levels of this kernel: v4 came with Linux 6.6, and a program that needs it tells.
pub fn levels() -> &'static [weir_compiler::backend::Isa] {
    use weir_compiler::backend::Isa;
    static LEVELS: std::sync::OnceLock<Vec<Isa>> = std::sync::OnceLock::new();
    LEVELS.get_or_init(|| {
        // `r0 = 0; r0 = (s8)r0; exit`
        let program = [
            Insn::new(0xb7, 0, 0, 0, 0),
            Insn::new(0xbf, 0, 0, 8, 0),
            Insn::new(0x95, 0, 0, 0, 0),
        ];
        match load(BPF_PROG_TYPE_XDP, &program) {
            Ok(_) => vec![Isa::V3, Isa::V4],
            Err((e, _)) => {
                let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
                let mut numbers = release.split(['.', '-']).map_while(|n| n.parse::<u32>().ok());
                let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
                assert!(version < (6, 6), "Linux {} should have v4 instructions: {e}", release.trim());
                eprintln!("skipped: instruction set v4: Linux {} does not have it", release.trim());
                vec![Isa::V3]
            }
        }
    })
}
