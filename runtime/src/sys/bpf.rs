//! The `bpf(2)` system call: maps, programs, BTF, links, object information.
//!
//! Every wrapper takes a name for its error message. Structures are those of the kernel's uapi, from aya-obj.

pub mod pin;
pub mod query;

use super::{Result, SysError};
use aya_obj::generated::{
    BPF_F_AFTER, BPF_F_BEFORE, BPF_F_ID, bpf_attr, bpf_cmd, bpf_insn, bpf_link_info, bpf_map_info, bpf_map_type, bpf_prog_info,
};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Bytes of verifier log to ask for first; doubled until the log fits.
const LOG_SIZE: usize = 256 * 1024;
/// The kernel's own limit on the log buffer is `u32::MAX >> 2`; more than this nobody reads.
const MAX_LOG_SIZE: usize = 64 * 1024 * 1024;

fn zeroed() -> bpf_attr {
    // SAFETY: bpf_attr is a union of plain integers; all zero is a valid value and what the kernel wants in unused bytes.
    unsafe { std::mem::zeroed() }
}

fn call(cmd: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i64> {
    // SAFETY: attr is a valid, fully initialised bpf_attr of the size given, and every pointer in it was made by the
    // caller from a live slice.
    let ret = unsafe { libc::syscall(libc::SYS_bpf, cmd as libc::c_uint, std::ptr::from_mut(attr), size_of::<bpf_attr>()) };
    if ret < 0 { Err(io::Error::last_os_error()) } else { Ok(ret) }
}

fn call_fd(cmd: bpf_cmd, attr: &mut bpf_attr) -> io::Result<OwnedFd> {
    let ret = call(cmd, attr)?;
    let fd = i32::try_from(ret).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    // SAFETY: the kernel has just given us this descriptor, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn ufd(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

fn ptr<T>(slice: &[T]) -> u64 {
    slice.as_ptr() as u64
}

/// Writes a kernel object name: at most 15 bytes, other characters than letters, digits, `_` and `.` become `_`.
fn object_name(name: &str) -> [libc::c_char; 16] {
    let mut out = [0; 16];
    for (to, byte) in out.iter_mut().zip(name.bytes()).take(15) {
        let ok = byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'.';
        *to = libc::c_char::from_ne_bytes([if ok { byte } else { b'_' }]);
    }
    out
}

fn name_of(raw: &[libc::c_char]) -> String {
    let bytes: Vec<u8> = raw.iter().map(|c| c.cast_unsigned()).take_while(|b| *b != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What `BPF_MAP_CREATE` takes.
#[derive(Clone, Copy, Debug, Default)]
pub struct MapAttr<'a> {
    pub name: &'a str,
    /// `enum bpf_map_type`
    pub kind: u32,
    pub key_size: u32,
    pub value_size: u32,
    pub max_entries: u32,
    pub flags: u32,
    /// The object's BTF with the ids of the key's and the value's type.
    pub btf: Option<(BorrowedFd<'a>, u32, u32)>,
    /// The card that it lies in, by its interface in the calling thread's network namespace; 0 for the machine's own memory.
    pub card: u32,
}

/// Creates a map. When the kernel refuses the BTF types of key and value, it is made without them.
///
/// # Errors
/// What the kernel says; `EPERM` without CAP_BPF.
pub fn map_create(map: &MapAttr<'_>) -> Result<OwnedFd> {
    let mut attr = zeroed();
    attr.__bindgen_anon_1.map_type = map.kind;
    attr.__bindgen_anon_1.key_size = map.key_size;
    attr.__bindgen_anon_1.value_size = map.value_size;
    attr.__bindgen_anon_1.max_entries = map.max_entries;
    attr.__bindgen_anon_1.map_flags = map.flags;
    attr.__bindgen_anon_1.map_name = object_name(map.name);
    attr.__bindgen_anon_1.map_ifindex = map.card;
    if let Some((btf, key, value)) = map.btf.filter(|(_, key, value)| *key != 0 && *value != 0) {
        attr.__bindgen_anon_1.btf_fd = ufd(btf);
        attr.__bindgen_anon_1.btf_key_type_id = key;
        attr.__bindgen_anon_1.btf_value_type_id = value;
        if let Ok(fd) = call_fd(bpf_cmd::BPF_MAP_CREATE, &mut attr) {
            return Ok(fd);
        }
        attr.__bindgen_anon_1.btf_fd = 0;
        attr.__bindgen_anon_1.btf_key_type_id = 0;
        attr.__bindgen_anon_1.btf_value_type_id = 0;
    }
    call_fd(bpf_cmd::BPF_MAP_CREATE, &mut attr).map_err(|e| SysError::new("create map", map.name, e))
}

fn elem_attr(map: BorrowedFd<'_>, key: u64, value: u64, flags: u64) -> bpf_attr {
    let mut attr = zeroed();
    attr.__bindgen_anon_2.map_fd = ufd(map);
    attr.__bindgen_anon_2.key = key;
    attr.__bindgen_anon_2.__bindgen_anon_1.value = value;
    attr.__bindgen_anon_2.flags = flags;
    attr
}

/// Reads one element into `value`, which for a per-CPU map holds one value (rounded up to 8 bytes) for every possible
/// CPU. Returns false when there is no such key.
///
/// # Errors
/// What the kernel says, except that the key is not there.
pub fn map_lookup(map: BorrowedFd<'_>, key: &[u8], value: &mut [u8], name: &str) -> Result<bool> {
    let mut attr = elem_attr(map, ptr(key), value.as_mut_ptr() as u64, 0);
    match call(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attr) {
        Ok(_) => Ok(true),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(e) => Err(SysError::new("read map", name, e)),
    }
}

/// Finds out how many values an element of a per-CPU map has, from how many the kernel writes.
///
/// # Errors
/// What the kernel says; `EPERM` without CAP_BPF.
pub fn values_of_an_element() -> Result<u32> {
    /// `NR_CPUS` is nowhere larger.
    const MOST: usize = 8192;
    let attr = MapAttr {
        name: "cpus",
        kind: bpf_map_type::BPF_MAP_TYPE_PERCPU_ARRAY as u32,
        key_size: 4,
        value_size: 8,
        max_entries: 1,
        ..MapAttr::default()
    };
    let map = map_create(&attr)?;
    let mut values = vec![0xff; MOST * 8];
    map_lookup(map.as_fd(), &[0; 4], &mut values, attr.name)?;
    Ok(values.chunks_exact(8).take_while(|value| *value == [0; 8]).count() as u32)
}

/// Writes one element; `flags` is `BPF_ANY` (0), `BPF_NOEXIST` (1) or `BPF_EXIST` (2).
///
/// # Errors
/// What the kernel says; `E2BIG` when the map is full.
pub fn map_update(map: BorrowedFd<'_>, key: &[u8], value: &[u8], flags: u64, name: &str) -> Result<()> {
    let mut attr = elem_attr(map, ptr(key), ptr(value), flags);
    call(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr)
        .map(drop)
        .map_err(|e| SysError::new("write map", name, e))
}

/// Puts a value into a map without keys (a stack, a queue).
///
/// # Errors
/// What the kernel says; `E2BIG` when it is full.
pub fn map_push(map: BorrowedFd<'_>, value: &[u8], name: &str) -> Result<()> {
    // The kernel wants no key, and an empty slice has an address.
    let mut attr = elem_attr(map, 0, ptr(value), 0);
    let pushed = call(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr);
    pushed.map(drop).map_err(|e| SysError::new("write map", name, e))
}

/// Deletes one element. Returns false when there is no such key.
///
/// # Errors
/// What the kernel says, except that the key is not there.
pub fn map_delete(map: BorrowedFd<'_>, key: &[u8], name: &str) -> Result<bool> {
    let mut attr = elem_attr(map, ptr(key), 0, 0);
    match call(bpf_cmd::BPF_MAP_DELETE_ELEM, &mut attr) {
        Ok(_) => Ok(true),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(e) => Err(SysError::new("delete from map", name, e)),
    }
}

/// Finds the key after `key` (the first one for `None`). Returns false at the end.
///
/// # Errors
/// What the kernel says.
pub fn map_next_key(map: BorrowedFd<'_>, key: Option<&[u8]>, next: &mut [u8], name: &str) -> Result<bool> {
    let mut attr = elem_attr(map, key.map_or(0, ptr), next.as_mut_ptr() as u64, 0);
    match call(bpf_cmd::BPF_MAP_GET_NEXT_KEY, &mut attr) {
        Ok(_) => Ok(true),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(e) => Err(SysError::new("iterate map", name, e)),
    }
}

/// Makes a map read-only for user space (programs may still write unless `BPF_F_RDONLY_PROG`).
///
/// # Errors
/// What the kernel says.
pub fn map_freeze(map: BorrowedFd<'_>, name: &str) -> Result<()> {
    let mut attr = elem_attr(map, 0, 0, 0);
    call(bpf_cmd::BPF_MAP_FREEZE, &mut attr)
        .map(drop)
        .map_err(|e| SysError::new("freeze map", name, e))
}

/// All elements of a map: keys and values one after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Elements {
    pub keys: Vec<u8>,
    pub values: Vec<u8>,
    pub key_size: usize,
    pub value_size: usize,
}

impl Elements {
    /// Iterates over `(key, value)`.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.keys
            .chunks_exact(self.key_size.max(1))
            .zip(self.values.chunks_exact(self.value_size.max(1)))
    }
}

/// Reads every element of a map, in batches where the map type has them, else one by one. `value_size` is what one
/// lookup gives (all CPUs of a per-CPU map).
///
/// A map that changes meanwhile is read as the kernel allows: elements may be missed, none is given twice.
///
/// # Errors
/// What the kernel says.
pub fn map_elements(map: BorrowedFd<'_>, key_size: usize, value_size: usize, max_entries: u32, name: &str) -> Result<Elements> {
    match map_elements_batch(map, key_size, value_size, max_entries, name) {
        // EINVAL, ENOTSUPP (524): no batch operations for this type; ENOSPC: a bucket larger than the buffer.
        Err(e) if matches!(e.errno(), libc::EINVAL | 524 | libc::EOPNOTSUPP | libc::ENOSPC) => {
            map_elements_single(map, key_size, value_size, name)
        }
        result => result,
    }
}

fn map_elements_batch(map: BorrowedFd<'_>, key_size: usize, value_size: usize, max_entries: u32, name: &str) -> Result<Elements> {
    let mut all = Elements {
        key_size,
        value_size,
        ..Elements::default()
    };
    map_batches(map, key_size, value_size, max_entries, name, |_, keys, values| {
        all.keys.extend_from_slice(keys);
        all.values.extend_from_slice(values);
    })?;
    Ok(all)
}

/// Hands every element of a map to `each` in batches: how many, their keys, their values.
///
/// # Errors
/// What the kernel says; `EINVAL` or `ENOTSUPP` (524) for kinds of maps without batches, `ENOSPC` when a bucket of a hash
/// is larger than a batch.
pub fn map_batches(
    map: BorrowedFd<'_>,
    key_size: usize,
    value_size: usize,
    max_entries: u32,
    name: &str,
    mut each: impl FnMut(usize, &[u8], &[u8]),
) -> Result<()> {
    // A hash bucket must fit in one batch, so not too small; 1 MiB of values at a time is plenty.
    let chunk = (1024 * 1024 / value_size.max(1))
        .clamp(64, 4096)
        .min((max_entries as usize).max(64));
    let mut keys = vec![0u8; chunk * key_size];
    let mut values = vec![0u8; chunk * value_size];
    // The cursor is a u32 for hashes and a key for tries.
    let mut cursor = vec![0u8; key_size.max(4)];
    let mut first = true;
    loop {
        let mut attr = zeroed();
        attr.batch.in_batch = if first { 0 } else { ptr(&cursor) };
        attr.batch.out_batch = cursor.as_mut_ptr() as u64;
        attr.batch.keys = keys.as_mut_ptr() as u64;
        attr.batch.values = values.as_mut_ptr() as u64;
        attr.batch.count = u32::try_from(chunk).unwrap_or(u32::MAX);
        attr.batch.map_fd = ufd(map);
        let result = call(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attr);
        // SAFETY: the kernel writes `count` as an integer in every case; the union member was set above.
        let count = unsafe { attr.batch.count } as usize;
        let end = match result {
            Ok(_) => false,
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => true,
            Err(e) => return Err(SysError::new("read map", name, e)),
        };
        let count = count.min(chunk);
        each(count, &keys[..count * key_size], &values[..count * value_size]);
        if end || count == 0 {
            return Ok(());
        }
        first = false;
    }
}

fn map_elements_single(map: BorrowedFd<'_>, key_size: usize, value_size: usize, name: &str) -> Result<Elements> {
    let mut all = Elements {
        key_size,
        value_size,
        ..Elements::default()
    };
    let mut seen = std::collections::HashSet::new();
    let mut key: Option<Vec<u8>> = None;
    let mut next = vec![0u8; key_size];
    let mut value = vec![0u8; value_size];
    while map_next_key(map, key.as_deref(), &mut next, name)? {
        // When the key that we stand on is deleted, the kernel starts over: stop instead of counting twice.
        if !seen.insert(next.clone()) {
            break;
        }
        if map_lookup(map, &next, &mut value, name)? {
            all.keys.extend_from_slice(&next);
            all.values.extend_from_slice(&value);
        }
        key = Some(next.clone());
    }
    Ok(all)
}

/// Writes many elements, in batches of at most 4096, or one by one where the map has no batches.
///
/// # Errors
/// What the kernel says; `E2BIG`/`ENOSPC` when the map is full.
pub fn map_update_many(map: BorrowedFd<'_>, keys: &[u8], values: &[u8], key_size: usize, value_size: usize, name: &str) -> Result<()> {
    for (keys, values) in keys.chunks(4096 * key_size).zip(values.chunks(4096 * value_size)) {
        let mut attr = zeroed();
        attr.batch.keys = ptr(keys);
        attr.batch.values = ptr(values);
        attr.batch.count = u32::try_from(keys.len() / key_size).unwrap_or(u32::MAX);
        attr.batch.map_fd = ufd(map);
        match call(bpf_cmd::BPF_MAP_UPDATE_BATCH, &mut attr) {
            Ok(_) => {}
            Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | 524 | libc::EOPNOTSUPP)) => {
                for (key, value) in keys.chunks_exact(key_size).zip(values.chunks_exact(value_size)) {
                    map_update(map, key, value, 0, name)?;
                }
            }
            Err(e) => return Err(SysError::new("write map", name, e)),
        }
    }
    Ok(())
}

/// Deletes many elements, in batches of at most 4096, or one by one where that is refused. Keys that are not there are passed over.
///
/// # Errors
/// What the kernel says.
pub fn map_delete_many(map: BorrowedFd<'_>, keys: &[u8], key_size: usize, name: &str) -> Result<()> {
    for keys in keys.chunks(4096 * key_size) {
        let mut attr = zeroed();
        attr.batch.keys = ptr(keys);
        attr.batch.count = u32::try_from(keys.len() / key_size).unwrap_or(u32::MAX);
        attr.batch.map_fd = ufd(map);
        // A batch ends at the first key that is not there.
        if call(bpf_cmd::BPF_MAP_DELETE_BATCH, &mut attr).is_err() {
            for key in keys.chunks_exact(key_size) {
                map_delete(map, key, name)?;
            }
        }
    }
    Ok(())
}

/// Loads BTF into the kernel.
///
/// # Errors
/// What the kernel says.
pub fn btf_load(btf: &[u8]) -> Result<OwnedFd> {
    let mut attr = zeroed();
    attr.__bindgen_anon_7.btf = ptr(btf);
    attr.__bindgen_anon_7.btf_size = u32::try_from(btf.len()).unwrap_or(u32::MAX);
    call_fd(bpf_cmd::BPF_BTF_LOAD, &mut attr).map_err(|e| SysError::new("load the types of", "BTF", e))
}

/// What `BPF_PROG_LOAD` takes.
#[derive(Clone, Copy, Debug)]
pub struct ProgAttr<'a> {
    pub name: &'a str,
    /// `enum bpf_prog_type`
    pub kind: u32,
    /// `enum bpf_attach_type`, 0 where the type has none.
    pub expected_attach_type: u32,
    /// The function of an fentry program or an iterator, as a BTF type id; else 0.
    pub attach_btf_id: u32,
    /// Whose function that is, where it is not vmlinux's: the BTF of a module, or a BPF program.
    pub attach_to: Option<BorrowedFd<'a>>,
    /// `BPF_F_XDP_HAS_FRAGS`, …
    pub flags: u32,
    pub insns: &'a [bpf_insn],
    /// NUL-terminated.
    pub license: &'a std::ffi::CStr,
    pub btf: Option<BorrowedFd<'a>>,
    /// Records of `struct bpf_func_info`, with the size of one.
    pub func_info: (&'a [u8], u32),
    pub line_info: (&'a [u8], u32),
    /// The card that it is for, as in [`MapAttr`].
    pub card: u32,
}

impl<'a> ProgAttr<'a> {
    /// A program of instructions alone, that belongs to no function and no card.
    #[must_use]
    pub fn new(name: &'a str, kind: u32, expected_attach_type: u32, insns: &'a [bpf_insn]) -> Self {
        Self {
            name,
            kind,
            expected_attach_type,
            attach_btf_id: 0,
            attach_to: None,
            flags: 0,
            insns,
            license: c"GPL",
            btf: None,
            func_info: (&[], 8),
            line_info: (&[], 16),
            card: 0,
        }
    }
}

/// Why a program was not loaded.
#[derive(Debug, thiserror::Error)]
pub enum ProgLoadError {
    /// The verifier said no.
    #[error("the kernel's verifier rejected program `{name}`: {source}")]
    Rejected { name: String, log: String, source: io::Error },
    #[error(transparent)]
    Sys(#[from] SysError),
}

/// Loads a program. The verifier log is asked for only after a first refusal: making it costs time.
///
/// # Errors
/// [`ProgLoadError::Rejected`] with the log when the verifier has one, else what the kernel says.
pub fn prog_load(prog: &ProgAttr<'_>) -> std::result::Result<OwnedFd, ProgLoadError> {
    let mut log = Vec::new();
    let first = match try_load(prog, &mut log) {
        Ok(fd) => return Ok(fd),
        Err(e) => e,
    };
    // EPERM and EBADF have no log; everything else may be the verifier's.
    if first.raw_os_error() == Some(libc::EPERM) {
        return Err(SysError::new("load program", prog.name, first).into());
    }
    let mut size = LOG_SIZE;
    loop {
        log.resize(size, 0);
        match try_load(prog, &mut log) {
            // Memory pressure can make the first try fail and this one work.
            Ok(fd) => return Ok(fd),
            Err(e) if e.raw_os_error() == Some(libc::ENOSPC) && size < MAX_LOG_SIZE => size *= 4,
            Err(e) => {
                let end = log.iter().position(|b| *b == 0).unwrap_or(log.len());
                if end == 0 {
                    return Err(SysError::new("load program", prog.name, e).into());
                }
                let text = String::from_utf8_lossy(&log[..end]).into_owned();
                return Err(ProgLoadError::Rejected {
                    name: prog.name.to_owned(),
                    log: text,
                    source: e,
                });
            }
        }
    }
}

fn try_load(prog: &ProgAttr<'_>, log: &mut [u8]) -> io::Result<OwnedFd> {
    // The kernel answers EAGAIN when a signal interrupts the verifier.
    for _ in 0..5 {
        let mut attr = zeroed();
        attr.__bindgen_anon_3.prog_type = prog.kind;
        attr.__bindgen_anon_3.insn_cnt = u32::try_from(prog.insns.len()).unwrap_or(u32::MAX);
        attr.__bindgen_anon_3.insns = ptr(prog.insns);
        attr.__bindgen_anon_3.license = prog.license.as_ptr() as u64;
        attr.__bindgen_anon_3.prog_flags = prog.flags;
        attr.__bindgen_anon_3.prog_name = object_name(prog.name);
        attr.__bindgen_anon_3.expected_attach_type = prog.expected_attach_type;
        attr.__bindgen_anon_3.attach_btf_id = prog.attach_btf_id;
        attr.__bindgen_anon_3.prog_ifindex = prog.card;
        if let Some(fd) = prog.attach_to {
            // `attach_btf_obj_fd` is the same field.
            attr.__bindgen_anon_3.__bindgen_anon_1.attach_prog_fd = ufd(fd);
        }
        if let Some(btf) = prog.btf {
            attr.__bindgen_anon_3.prog_btf_fd = ufd(btf);
            let (info, size) = prog.func_info;
            if !info.is_empty() {
                attr.__bindgen_anon_3.func_info = ptr(info);
                attr.__bindgen_anon_3.func_info_rec_size = size;
                attr.__bindgen_anon_3.func_info_cnt = info.len() as u32 / size;
            }
            let (info, size) = prog.line_info;
            if !info.is_empty() {
                attr.__bindgen_anon_3.line_info = ptr(info);
                attr.__bindgen_anon_3.line_info_rec_size = size;
                attr.__bindgen_anon_3.line_info_cnt = info.len() as u32 / size;
            }
        }
        if !log.is_empty() {
            attr.__bindgen_anon_3.log_level = 1;
            attr.__bindgen_anon_3.log_size = u32::try_from(log.len()).unwrap_or(u32::MAX);
            attr.__bindgen_anon_3.log_buf = log.as_mut_ptr() as u64;
        }
        match call_fd(bpf_cmd::BPF_PROG_LOAD, &mut attr) {
            Err(e) if e.raw_os_error() == Some(libc::EAGAIN) => {}
            result => return result,
        }
    }
    Err(io::Error::from_raw_os_error(libc::EAGAIN))
}

/// Runs a raw tracepoint program once, on the calling CPU, and returns its return value.
///
/// # Errors
/// What the kernel says. Needs Linux 5.10.
pub fn prog_run(prog: BorrowedFd<'_>, name: &str) -> Result<u32> {
    let mut attr = zeroed();
    attr.test.prog_fd = ufd(prog);
    call(bpf_cmd::BPF_PROG_TEST_RUN, &mut attr).map_err(|e| SysError::new("run program", name, e))?;
    // SAFETY: the kernel has written the result into this member of the union.
    Ok(unsafe { attr.test.retval })
}

/// What a link is made of besides the program.
#[derive(Clone, Copy, Debug)]
pub enum LinkTarget<'a> {
    /// `BPF_PERF_EVENT` on a perf event (tracepoint, kprobe, clock), with the number that the program can ask for. Linux 5.15.
    PerfEvent { event: BorrowedFd<'a>, cookie: u64 },
    /// `BPF_TRACE_KPROBE_MULTI` on functions by name, the cookie of each beside it. Linux 5.18.
    KprobeMulti {
        functions: &'a [CString],
        cookies: &'a [u64],
        ret: bool,
    },
    /// `BPF_TRACE_FENTRY` or `_FEXIT` on the function that the program was loaded for.
    Tracing { exit: bool },
    /// `BPF_TRACE_ITER`; reading needs [`iter_create`].
    Iter,
    /// `BPF_XDP` on an interface of the calling thread's network namespace; `XDP_FLAGS_*`. Linux 5.9.
    Xdp { ifindex: u32, flags: u32 },
    /// `BPF_TCX_INGRESS` or `_EGRESS`, at the end of the chain unless `place` says otherwise. Linux 6.6.
    Tcx {
        ifindex: u32,
        ingress: bool,
        place: Option<TcxPlace>,
    },
    /// An `enum bpf_attach_type` of cgroups, on the cgroup v2 directory of this descriptor. Linux 5.7.
    Cgroup { dir: BorrowedFd<'a>, attach_type: u32 },
}

/// Beside which program of a tcx chain a new one goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcxPlace {
    /// Else behind it.
    pub before: bool,
    /// Id of a program in the chain.
    pub program: u32,
}

/// Attaches a program. The link lives as long as its descriptor.
///
/// # Errors
/// What the kernel says.
pub fn link_create(prog: BorrowedFd<'_>, target: LinkTarget<'_>, name: &str) -> Result<OwnedFd> {
    use aya_obj::generated::bpf_attach_type::{BPF_PERF_EVENT, BPF_TCX_EGRESS, BPF_TCX_INGRESS, BPF_XDP};
    use aya_obj::generated::bpf_attach_type::{BPF_TRACE_FENTRY, BPF_TRACE_FEXIT, BPF_TRACE_ITER, BPF_TRACE_KPROBE_MULTI};
    let mut attr = zeroed();
    let symbols: Vec<*const libc::c_char>;
    attr.link_create.__bindgen_anon_1.prog_fd = ufd(prog);
    match target {
        LinkTarget::PerfEvent { event, cookie } => {
            attr.link_create.__bindgen_anon_2.target_fd = ufd(event);
            attr.link_create.attach_type = BPF_PERF_EVENT as u32;
            attr.link_create.__bindgen_anon_3.perf_event.bpf_cookie = cookie;
        }
        LinkTarget::KprobeMulti { functions, cookies, ret } => {
            symbols = functions.iter().map(|f| f.as_ptr()).collect();
            attr.link_create.attach_type = BPF_TRACE_KPROBE_MULTI as u32;
            attr.link_create.__bindgen_anon_3.kprobe_multi.flags = u32::from(ret);
            attr.link_create.__bindgen_anon_3.kprobe_multi.cnt = u32::try_from(symbols.len()).unwrap_or(u32::MAX);
            attr.link_create.__bindgen_anon_3.kprobe_multi.syms = ptr(&symbols);
            attr.link_create.__bindgen_anon_3.kprobe_multi.cookies = ptr(&cookies[..symbols.len()]);
        }
        LinkTarget::Tracing { exit } => {
            attr.link_create.attach_type = if exit { BPF_TRACE_FEXIT as u32 } else { BPF_TRACE_FENTRY as u32 };
        }
        LinkTarget::Iter => attr.link_create.attach_type = BPF_TRACE_ITER as u32,
        LinkTarget::Xdp { ifindex, flags } => {
            attr.link_create.__bindgen_anon_2.target_ifindex = ifindex;
            attr.link_create.attach_type = BPF_XDP as u32;
            attr.link_create.flags = flags;
        }
        LinkTarget::Tcx { ifindex, ingress, place } => {
            attr.link_create.__bindgen_anon_2.target_ifindex = ifindex;
            attr.link_create.attach_type = if ingress { BPF_TCX_INGRESS as u32 } else { BPF_TCX_EGRESS as u32 };
            if let Some(place) = place {
                attr.link_create.flags = BPF_F_ID | if place.before { BPF_F_BEFORE } else { BPF_F_AFTER };
                attr.link_create.__bindgen_anon_3.tcx.__bindgen_anon_1.relative_id = place.program;
            }
        }
        LinkTarget::Cgroup { dir, attach_type } => {
            attr.link_create.__bindgen_anon_2.target_fd = ufd(dir);
            attr.link_create.attach_type = attach_type;
        }
    }
    call_fd(bpf_cmd::BPF_LINK_CREATE, &mut attr).map_err(|e| SysError::new(super::ATTACH, name, e))
}

/// Makes the descriptor whose reading runs an iterator once.
///
/// # Errors
/// What the kernel says.
pub fn iter_create(link: BorrowedFd<'_>, name: &str) -> Result<OwnedFd> {
    let mut attr = zeroed();
    attr.iter_create.link_fd = ufd(link);
    call_fd(bpf_cmd::BPF_ITER_CREATE, &mut attr).map_err(|e| SysError::new("run iterator", name, e))
}

/// Attaches a program to a raw tracepoint by name.
///
/// # Errors
/// What the kernel says; `ENOENT` when there is no such tracepoint.
pub fn raw_tracepoint_open(prog: BorrowedFd<'_>, tracepoint: &std::ffi::CStr) -> Result<OwnedFd> {
    let mut attr = zeroed();
    attr.raw_tracepoint.name = tracepoint.as_ptr() as u64;
    attr.raw_tracepoint.prog_fd = ufd(prog);
    call_fd(bpf_cmd::BPF_RAW_TRACEPOINT_OPEN, &mut attr)
        .map_err(|e| SysError::new("attach to raw tracepoint", tracepoint.to_string_lossy(), e))
}

/// Lists the ids of the programs in a tcx chain of interface `ifindex`, in the order in which they run. Linux 6.6.
///
/// # Errors
/// What the kernel says; `EINVAL` from kernels without tcx.
pub fn tcx_programs(ifindex: u32, ingress: bool) -> io::Result<Vec<u32>> {
    use aya_obj::generated::bpf_attach_type::{BPF_TCX_EGRESS, BPF_TCX_INGRESS};
    // The kernel allows no more in one chain.
    let mut ids = [0u32; 64];
    let mut attr = zeroed();
    attr.query.__bindgen_anon_1.target_ifindex = ifindex;
    attr.query.attach_type = if ingress { BPF_TCX_INGRESS as u32 } else { BPF_TCX_EGRESS as u32 };
    attr.query.prog_ids = ids.as_mut_ptr() as u64;
    attr.query.__bindgen_anon_2.prog_cnt = ids.len() as u32;
    call(bpf_cmd::BPF_PROG_QUERY, &mut attr)?;
    // SAFETY: the kernel writes the count as an integer; the member was set above.
    let count = unsafe { attr.query.__bindgen_anon_2.prog_cnt } as usize;
    Ok(ids[..count.min(ids.len())].to_vec())
}

/// Finds the link that holds XDP program `program` on interface `ifindex` of the calling thread's network namespace. `None` when
/// it was attached without a link.
///
/// # Errors
/// What the kernel says; `EPERM` without CAP_SYS_ADMIN.
pub fn xdp_link(ifindex: u32, program: u32) -> Result<Option<OwnedFd>> {
    use aya_obj::generated::bpf_link_type::BPF_LINK_TYPE_XDP;
    let mut id = 0;
    loop {
        let mut attr = zeroed();
        attr.__bindgen_anon_6.__bindgen_anon_1.start_id = id;
        match call(bpf_cmd::BPF_LINK_GET_NEXT_ID, &mut attr) {
            Ok(_) => {}
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
            Err(e) => return Err(SysError::new("list", "links", e)),
        }
        // SAFETY: the kernel has written the id, a plain integer.
        id = unsafe { attr.__bindgen_anon_6.next_id };
        let mut attr = zeroed();
        attr.__bindgen_anon_6.__bindgen_anon_1.link_id = id;
        // It may be gone by now.
        let Ok(link) = call_fd(bpf_cmd::BPF_LINK_GET_FD_BY_ID, &mut attr) else {
            continue;
        };
        let info: bpf_link_info = info(link.as_fd(), "ask about link")?;
        if info.type_ != BPF_LINK_TYPE_XDP as u32 || info.prog_id != program {
            continue;
        }
        // SAFETY: of a link of this type the kernel has filled this member.
        if unsafe { info.__bindgen_anon_1.xdp.ifindex } == ifindex {
            return Ok(Some(link));
        }
    }
}

/// Detaches a link that somebody else holds: it stays, attached to nothing. Linux 5.9.
///
/// # Errors
/// What the kernel says.
pub fn link_detach(link: BorrowedFd<'_>, name: &str) -> Result<()> {
    let mut attr = zeroed();
    attr.link_detach.link_fd = ufd(link);
    call(bpf_cmd::BPF_LINK_DETACH, &mut attr)
        .map(drop)
        .map_err(|e| SysError::new("detach the program of", name, e))
}

/// Opens a loaded program by id.
///
/// # Errors
/// `ENOENT` when it is gone, `EPERM` without CAP_SYS_ADMIN.
pub fn prog_by_id(id: u32) -> Result<OwnedFd> {
    let mut attr = zeroed();
    attr.__bindgen_anon_6.__bindgen_anon_1.prog_id = id;
    call_fd(bpf_cmd::BPF_PROG_GET_FD_BY_ID, &mut attr).map_err(|e| SysError::new("open program", id.to_string(), e))
}

fn info<T>(fd: BorrowedFd<'_>, what: &'static str) -> Result<T> {
    // SAFETY: the info structures are plain integers, all zero is valid (and asks for no arrays).
    let mut out: T = unsafe { std::mem::zeroed() };
    let mut attr = zeroed();
    attr.info.bpf_fd = ufd(fd);
    attr.info.info_len = size_of::<T>() as u32;
    attr.info.info = std::ptr::from_mut(&mut out) as u64;
    call(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr).map_err(|e| SysError::new(what, "descriptor", e))?;
    Ok(out)
}

/// What the kernel says of a loaded program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgInfo {
    pub id: u32,
    /// At most 15 bytes.
    pub name: String,
    /// Nanoseconds of the boot clock.
    pub load_time_ns: u64,
    pub verified_insns: u32,
}

/// Asks about a program.
///
/// # Errors
/// What the kernel says.
pub fn prog_info(prog: BorrowedFd<'_>) -> Result<ProgInfo> {
    let raw: bpf_prog_info = info(prog, "ask about program")?;
    Ok(ProgInfo {
        id: raw.id,
        name: name_of(&raw.name),
        load_time_ns: raw.load_time,
        verified_insns: raw.verified_insns,
    })
}

/// What the kernel says of a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapInfo {
    pub id: u32,
    pub name: String,
    pub kind: u32,
    pub key_size: u32,
    pub value_size: u32,
    pub max_entries: u32,
    pub flags: u32,
}

/// Asks about a map.
///
/// # Errors
/// What the kernel says.
pub fn map_info(map: BorrowedFd<'_>) -> Result<MapInfo> {
    let raw: bpf_map_info = info(map, "ask about map")?;
    Ok(MapInfo {
        id: raw.id,
        name: name_of(&raw.name),
        kind: raw.type_,
        key_size: raw.key_size,
        value_size: raw.value_size,
        max_entries: raw.max_entries,
        flags: raw.map_flags,
    })
}

/// Returns the id of a link.
///
/// # Errors
/// What the kernel says.
pub fn link_id(link: &OwnedFd) -> Result<u32> {
    let raw: bpf_link_info = info(link.as_fd(), "ask about link")?;
    Ok(raw.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn object_names_are_cut_and_cleaned() {
        assert_eq!(name_of(&object_name("AT_retransmits-long")), "AT_retransmits_");
        assert_eq!(name_of(&object_name(".rodata")), ".rodata");
    }

    #[test]
    fn elements_pair_up() {
        let e = Elements {
            keys: vec![1, 0, 2, 0],
            values: vec![9, 8],
            key_size: 2,
            value_size: 1,
        };
        assert_eq!(e.iter().collect::<Vec<_>>(), [(&[1u8, 0][..], &[9u8][..]), (&[2, 0], &[8])]);
    }
}
