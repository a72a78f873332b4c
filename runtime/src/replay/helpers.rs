//! Stand-ins for the kernel's helpers. Programs call them with what they would hand to the kernel; a map is the address of a
//! [`MemoryMap`].
//!
//! All state hangs on one pointer of the thread, set for as long as a program runs.

use super::frame::Frame;
use super::maps::MemoryMap;
use std::cell::Cell;

/// What helpers reach.
#[derive(Debug)]
pub struct State {
    pub frame: Frame,
    /// Time of the packet, for every clock.
    pub now_ns: u64,
    random: u64,
    /// Records that the program sent: length, bytes, padded to words.
    pub records: Vec<u8>,
    /// The record that is being filled in place.
    reserved: Box<[u64; RESERVED_WORDS]>,
    /// Its size while it is in use.
    reserved_bytes: usize,
    /// Memory of the arrays: what may be copied without asking.
    pub regions: Vec<(u64, u64)>,
    /// What `redirect` returns at the hook that runs.
    pub redirect: u64,
    /// Packets that were also sent elsewhere.
    pub cloned: u64,
}

/// The compiler reserves up to 256 bytes in place.
const RESERVED_WORDS: usize = 64;

/// More records than this wait only in a program that loops; the rest are lost, as in a ring that is full.
const MAX_RECORD_BYTES: usize = 8 << 20;

impl State {
    #[must_use]
    pub fn new(frame: Frame, regions: Vec<(u64, u64)>) -> Self {
        Self {
            frame,
            now_ns: 0,
            random: 0x2545_f491_4f6c_dd1d,
            records: Vec::new(),
            reserved: Box::new([0; RESERVED_WORDS]),
            reserved_bytes: 0,
            regions,
            redirect: 0,
            cloned: 0,
        }
    }

    fn push(&mut self, record: &[u8]) -> bool {
        if self.records.len() + record.len() > MAX_RECORD_BYTES {
            return false;
        }
        self.records.extend((record.len() as u64).to_ne_bytes());
        self.records.extend(record);
        let len = self.records.len().next_multiple_of(8);
        self.records.resize(len, 0);
        true
    }
}

thread_local! {
    static STATE: Cell<*mut State> = const { Cell::new(std::ptr::null_mut()) };
}

/// Runs `work` with the helpers on this state.
pub fn with<T>(state: &mut State, work: impl FnOnce() -> T) -> T {
    let old = STATE.replace(state);
    let result = work();
    STATE.set(old);
    result
}

/// Gives the state to one helper.
fn state<'a>() -> &'a mut State {
    // SAFETY: programs run inside `with` only, on this thread, and no helper keeps the reference while it calls code of the
    // program again.
    unsafe { &mut *STATE.get() }
}

fn map<'a>(map: u64) -> &'a MemoryMap {
    // SAFETY: programs get the addresses of maps from us alone, and the maps live as long as the programs.
    unsafe { &*(map as *const MemoryMap) }
}

fn bytes<'a>(pointer: u64, len: usize) -> &'a [u8] {
    // SAFETY: the compiler hands helpers the addresses of that many bytes: what the kernel's verifier would have checked.
    unsafe { std::slice::from_raw_parts(pointer as *const u8, len) }
}

const fn error(errno: i32) -> u64 {
    (-(errno as i64)) as u64
}

/// Runs a body that a helper calls back. Two arguments are enough for it to find the rest in registers; all four are given.
fn call_back(function: u64, args: [u64; 4]) -> u64 {
    // SAFETY: the address is that of a compiled subprogram, `extern "C"` with up to four words; more arguments in registers than
    // it looks at do no harm.
    let function: extern "C" fn(u64, u64, u64, u64) -> u64 = unsafe { std::mem::transmute(function as *const ()) };
    function(args[0], args[1], args[2], args[3])
}

extern "C" fn map_lookup_elem(m: u64, key: u64) -> u64 {
    let m = map(m);
    m.lookup(bytes(key, m.key_size())).map_or(0, |v| v as u64)
}

extern "C" fn map_update_elem(m: u64, key: u64, value: u64, flags: u64) -> u64 {
    let m = map(m);
    let (key, value) = (bytes(key, m.key_size()), bytes(value, m.value_size()));
    m.update(key, value, flags).map_or_else(|e| error(e.errno()), |()| 0)
}

extern "C" fn map_delete_elem(m: u64, key: u64) -> u64 {
    let m = map(m);
    m.delete(bytes(key, m.key_size())).map_or_else(|e| error(e.errno()), |()| 0)
}

extern "C" fn map_lookup_percpu_elem(m: u64, key: u64, cpu: u64) -> u64 {
    if cpu == 0 { map_lookup_elem(m, key) } else { 0 }
}

extern "C" fn for_each_map_elem(m: u64, function: u64, ctx: u64, _flags: u64) -> u64 {
    let target = map(m);
    let mut visited = 0;
    for (key, value) in target.entries() {
        if !target.still_has(&key) {
            continue;
        }
        visited += 1;
        if call_back(function, [m, key.as_ptr() as u64, value as u64, ctx]) != 0 {
            break;
        }
    }
    visited
}

extern "C" fn bpf_loop(n: u64, function: u64, ctx: u64, _flags: u64) -> u64 {
    // The kernel takes a `u32`, at most 1 << 23.
    let n = u64::from(n as u32);
    if n > 1 << 23 {
        return error(libc::E2BIG);
    }
    for i in 0..n {
        if call_back(function, [i, ctx, 0, 0]) != 0 {
            return i + 1;
        }
    }
    n
}

extern "C" fn clock() -> u64 {
    state().now_ns
}

extern "C" fn jiffies() -> u64 {
    // 250 a second.
    state().now_ns / 4_000_000
}

extern "C" fn zero() -> u64 {
    0
}

extern "C" fn random() -> u64 {
    let state = state();
    // xorshift64
    state.random ^= state.random << 13;
    state.random ^= state.random >> 7;
    state.random ^= state.random << 17;
    state.random & 0xffff_ffff
}

extern "C" fn pid_tgid() -> u64 {
    let pid = u64::from(std::process::id());
    pid << 32 | pid
}

extern "C" fn uid_gid() -> u64 {
    // SAFETY: both only read.
    let (uid, gid) = unsafe { (libc::getuid(), libc::getgid()) };
    u64::from(gid) << 32 | u64::from(uid)
}

extern "C" fn comm(to: u64, len: u64) -> u64 {
    let mut name = [0; 16];
    name[..4].copy_from_slice(b"weir");
    let len = (len as usize).min(name.len());
    // SAFETY: the program hands over `len` bytes of its own memory.
    unsafe { std::ptr::copy_nonoverlapping(name.as_ptr(), to as *mut u8, len) };
    0
}

/// Reads memory of ours that may not be there: a script can compute any address.
fn read_checked(to: u64, len: usize, from: u64) -> bool {
    let end = from.saturating_add(len as u64);
    if state().regions.iter().any(|(a, b)| *a <= from && end <= *b) {
        // SAFETY: both ranges are memory of the program: the source was just checked, the target is the compiler's.
        unsafe { std::ptr::copy(from as *const u8, to as *mut u8, len) };
        return true;
    }
    let (local, remote) = (
        libc::iovec {
            iov_base: to as *mut libc::c_void,
            iov_len: len,
        },
        libc::iovec {
            iov_base: from as *mut libc::c_void,
            iov_len: len,
        },
    );
    // SAFETY: the kernel checks the source; the target is `len` bytes of the program's own memory.
    let n = unsafe { libc::process_vm_readv(libc::getpid(), &raw const local, 1, &raw const remote, 1, 0) };
    usize::try_from(n) == Ok(len)
}

extern "C" fn probe_read(to: u64, len: u64, from: u64) -> u64 {
    let len = len as u32 as usize;
    if read_checked(to, len, from) {
        return 0;
    }
    // SAFETY: the target is `len` bytes of the program's own memory; the kernel clears it, too.
    unsafe { std::ptr::write_bytes(to as *mut u8, 0, len) };
    error(libc::EFAULT)
}

extern "C" fn probe_read_str(to: u64, len: u64, from: u64) -> u64 {
    let len = u64::from(len as u32);
    for i in 0..len {
        let last = i + 1 == len;
        let target = (to + i) as *mut u8;
        if last {
            // SAFETY: byte `i` of the program's own `len` bytes.
            unsafe { *target = 0 };
            return len;
        }
        if !read_checked(to + i, 1, from + i) {
            // SAFETY: as above.
            unsafe { std::ptr::write_bytes(to as *mut u8, 0, len as usize) };
            return error(libc::EFAULT);
        }
        // SAFETY: as above, just written.
        if unsafe { *target } == 0 {
            return i + 1;
        }
    }
    0
}

extern "C" fn ringbuf_output(_ring: u64, data: u64, len: u64, _flags: u64) -> u64 {
    if state().push(bytes(data, len as usize)) {
        0
    } else {
        error(libc::EAGAIN)
    }
}

extern "C" fn ringbuf_reserve(_ring: u64, len: u64, _flags: u64) -> u64 {
    let state = state();
    let len = len as usize;
    if state.reserved_bytes != 0 || len > RESERVED_WORDS * 8 || state.records.len() + len > MAX_RECORD_BYTES {
        return 0;
    }
    state.reserved_bytes = len;
    state.reserved.as_mut_ptr() as u64
}

extern "C" fn ringbuf_submit(record: u64, _flags: u64) -> u64 {
    let state = state();
    let len = std::mem::take(&mut state.reserved_bytes);
    state.push(bytes(record, len));
    0
}

extern "C" fn ringbuf_discard(_record: u64, _flags: u64) -> u64 {
    state().reserved_bytes = 0;
    0
}

extern "C" fn packet_length(_ctx: u64) -> u64 {
    u64::from(state().frame.wire_length)
}

extern "C" fn load_bytes(_ctx: u64, offset: u64, to: u64, len: u64) -> u64 {
    let (offset, len) = (u64::from(offset as u32), u64::from(len as u32));
    match state().frame.at(offset, len) {
        // SAFETY: the source is in the packet, the target is `len` bytes of the program's own memory.
        Some(from) => unsafe {
            std::ptr::copy_nonoverlapping(from, to as *mut u8, len as usize);
            0
        },
        None => error(libc::EFAULT),
    }
}

/// `bpf_skb_store_bytes` without its flag `RECOMPUTE_CSUM`, and `bpf_xdp_store_bytes`.
extern "C" fn store_bytes(_ctx: u64, offset: u64, from: u64, len: u64, _flags: u64) -> u64 {
    let (offset, len) = (u64::from(offset as u32), u64::from(len as u32));
    match state().frame.at(offset, len) {
        // SAFETY: the target is in the packet, the source is `len` bytes of the program's own memory.
        Some(to) => unsafe {
            std::ptr::copy_nonoverlapping(from as *const u8, to, len as usize);
            0
        },
        None => error(libc::EFAULT),
    }
}

/// Everything that was captured is linear already.
extern "C" fn pull_data(_ctx: u64, len: u64) -> u64 {
    if u64::from(len as u32) <= state().frame.captured() as u64 {
        0
    } else {
        error(libc::ENOMEM)
    }
}

extern "C" fn adjust_meta(_ctx: u64, delta: u64) -> u64 {
    if state().frame.adjust_meta(i64::from(delta as i32)) {
        0
    } else {
        error(libc::EINVAL)
    }
}

/// Tags are in the frame here, never beside it as a driver leaves them; a script asks for that before it changes one.
extern "C" fn no_tag() -> u64 {
    error(libc::EINVAL)
}

extern "C" fn redirect(_ifindex: u64, _flags: u64) -> u64 {
    state().redirect
}

extern "C" fn clone_redirect(_ctx: u64, _ifindex: u64, _flags: u64) -> u64 {
    state().cloned += 1;
    0
}

fn fold(mut sum: u64) -> u16 {
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// One's complement sum of 16-bit words in memory order.
fn sum(bytes: &[u8]) -> u64 {
    bytes
        .chunks(2)
        .map(|w| u64::from(u16::from_ne_bytes([w[0], *w.get(1).unwrap_or(&0)])))
        .sum()
}

/// `bpf_csum_diff`: the difference of two blocks on top of a seed, not folded to 16 bits by the kernel before 6.13; every user folds.
extern "C" fn csum_diff(from: u64, from_len: u64, to: u64, to_len: u64, seed: u64) -> u64 {
    let (from_len, to_len) = (from_len as u32 as usize, to_len as u32 as usize);
    let mut total = u64::from(seed as u32);
    if from_len > 0 {
        total += bytes(from, from_len)
            .chunks(2)
            .map(|w| u64::from(!u16::from_ne_bytes([w[0], *w.get(1).unwrap_or(&0)])))
            .sum::<u64>();
    }
    if to_len > 0 {
        total += sum(bytes(to, to_len));
    }
    u64::from(fold(total))
}

/// `BPF_F_MARK_MANGLED_0`, `BPF_F_MARK_ENFORCE`, and the size of what changed in the low bits.
const MARK_MANGLED_0: u64 = 1 << 5;
const MARK_ENFORCE: u64 = 1 << 6;
const FIELD_MASK: u64 = 0xf;

/// Puts a checksum of the packet right for a word that changed: `bpf_l3_csum_replace` and `bpf_l4_csum_replace`.
fn csum_replace(offset: u64, from: u64, to: u64, flags: u64, may_be_missing: bool) -> u64 {
    let Some(place) = state().frame.at(u64::from(offset as u32), 2) else {
        return error(libc::EFAULT);
    };
    // SAFETY: two bytes of the packet.
    let old = unsafe { place.cast::<u16>().read_unaligned() };
    if may_be_missing && flags & MARK_MANGLED_0 != 0 && flags & MARK_ENFORCE == 0 && old == 0 {
        return 0;
    }
    let changed = match flags & FIELD_MASK {
        // The difference was computed before.
        0 => u64::from(fold(to & 0xffff_ffff)),
        2 => u64::from(!(from as u16)) + (to & 0xffff),
        4 => {
            let from = !(from as u32);
            u64::from(from & 0xffff) + u64::from(from >> 16) + (to & 0xffff) + (to >> 16 & 0xffff)
        }
        _ => return error(libc::EINVAL),
    };
    let mut new = !fold(u64::from(!old) + changed);
    if may_be_missing && flags & MARK_MANGLED_0 != 0 && new == 0 {
        new = 0xffff;
    }
    // SAFETY: as above.
    unsafe { place.cast::<u16>().write_unaligned(new) };
    0
}

extern "C" fn l3_csum_replace(_ctx: u64, offset: u64, from: u64, to: u64, flags: u64) -> u64 {
    csum_replace(offset, from, to, flags, false)
}

extern "C" fn l4_csum_replace(_ctx: u64, offset: u64, from: u64, to: u64, flags: u64) -> u64 {
    csum_replace(offset, from, to, flags, true)
}

/// Returns the stand-in for a helper, `None` for what only a kernel can do.
#[must_use]
pub fn address(helper: u32) -> Option<u64> {
    use weir_compiler::tables::helper as h;
    let address = match helper {
        h::MAP_LOOKUP_ELEM => map_lookup_elem as *const (),
        h::MAP_UPDATE_ELEM => map_update_elem as *const (),
        h::MAP_DELETE_ELEM => map_delete_elem as *const (),
        h::MAP_LOOKUP_PERCPU_ELEM => map_lookup_percpu_elem as *const (),
        h::FOR_EACH_MAP_ELEM => for_each_map_elem as *const (),
        h::LOOP => bpf_loop as *const (),
        h::KTIME_GET_NS | h::KTIME_GET_BOOT_NS | h::KTIME_GET_COARSE_NS | h::KTIME_GET_TAI_NS => clock as *const (),
        h::JIFFIES64 => jiffies as *const (),
        h::GET_PRANDOM_U32 => random as *const (),
        h::GET_SMP_PROCESSOR_ID | h::GET_NUMA_NODE_ID => zero as *const (),
        h::GET_CURRENT_PID_TGID => pid_tgid as *const (),
        h::GET_CURRENT_UID_GID => uid_gid as *const (),
        h::GET_CURRENT_COMM => comm as *const (),
        h::PROBE_READ_KERNEL | h::PROBE_READ_USER => probe_read as *const (),
        h::PROBE_READ_KERNEL_STR | h::PROBE_READ_USER_STR => probe_read_str as *const (),
        h::RINGBUF_OUTPUT => ringbuf_output as *const (),
        h::RINGBUF_RESERVE => ringbuf_reserve as *const (),
        h::RINGBUF_SUBMIT => ringbuf_submit as *const (),
        h::XDP_GET_BUFF_LEN => packet_length as *const (),
        h::SKB_LOAD_BYTES | h::XDP_LOAD_BYTES => load_bytes as *const (),
        h::SKB_PULL_DATA => pull_data as *const (),
        h::SKB_STORE_BYTES | h::XDP_STORE_BYTES => store_bytes as *const (),
        h::SKB_VLAN_POP | h::SKB_VLAN_PUSH => no_tag as *const (),
        h::XDP_ADJUST_META => adjust_meta as *const (),
        h::REDIRECT => redirect as *const (),
        h::CLONE_REDIRECT => clone_redirect as *const (),
        h::CSUM_DIFF => csum_diff as *const (),
        h::L3_CSUM_REPLACE => l3_csum_replace as *const (),
        h::L4_CSUM_REPLACE => l4_csum_replace as *const (),
        // A packet without a socket, as the kernel says it.
        h::SKB_CGROUP_ID | h::GET_SOCKET_COOKIE => zero as *const (),
        // `bpf_ringbuf_discard`
        133 => ringbuf_discard as *const (),
        _ => return None,
    };
    Some(address as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state_with(packet: &[u8]) -> State {
        let mut frame = Frame::new().unwrap();
        frame.set(packet, weir_compiler::object::LinkLayer::Ethernet, packet.len() as u32);
        State::new(frame, Vec::new())
    }

    #[test]
    fn a_checksum_stays_right_when_a_word_changes() {
        // An IPv4 header whose checksum is at 10.
        let mut header = vec![0x45, 0, 0, 20, 0, 1, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        let check = !fold(sum(&header));
        header[10..12].copy_from_slice(&check.to_ne_bytes());
        let (old, new) = (u32::from_ne_bytes([10, 0, 0, 2]), u32::from_ne_bytes([192, 168, 7, 9]));
        let mut state = state_with(&header);
        with(&mut state, || {
            assert_eq!(store_bytes(0, 16, (&raw const new) as u64, 4, 0), 0);
            assert_eq!(l3_csum_replace(0, 10, u64::from(old), u64::from(new), 4), 0);
            assert_eq!(l3_csum_replace(0, 19, 0, 0, 2), error(libc::EFAULT));
            assert_eq!(l3_csum_replace(0, 10, 0, 0, 3), error(libc::EINVAL));
        });
        let bytes = state.frame.bytes().to_vec();
        assert_eq!(&bytes[16..], [192, 168, 7, 9]);
        assert_eq!(fold(sum(&bytes)), 0xffff);
        // The same by a difference computed before.
        let back = with(&mut state, || {
            let diff = csum_diff((&raw const new) as u64, 4, (&raw const old) as u64, 4, 0);
            assert_eq!(store_bytes(0, 16, (&raw const old) as u64, 4, 0), 0);
            l3_csum_replace(0, 10, 0, diff, 0)
        });
        assert_eq!(back, 0);
        assert_eq!(state.frame.bytes(), header);
    }

    #[test]
    fn a_missing_udp_checksum_stays_missing() {
        let mut state = state_with(&[0, 0, 0xff, 0xff]);
        with(&mut state, || {
            assert_eq!(l4_csum_replace(0, 0, 1, 2, 2 | MARK_MANGLED_0), 0);
            assert_eq!(l4_csum_replace(0, 2, 0, 0, 2 | MARK_MANGLED_0), 0);
        });
        assert_eq!(state.frame.bytes(), [0, 0, 0xff, 0xff]);
    }

    #[test]
    fn an_address_that_is_not_there_is_an_error() {
        let mut state = state_with(&[]);
        let text = b"abc\0";
        let mut to = [9_u8; 4];
        with(&mut state, || {
            assert_eq!(probe_read(to.as_mut_ptr() as u64, 4, 1), error(libc::EFAULT));
            assert_eq!(to, [0; 4]);
            assert_eq!(probe_read(to.as_mut_ptr() as u64, 4, text.as_ptr() as u64), 0);
            assert_eq!(&to, text);
            assert_eq!(probe_read_str(to.as_mut_ptr() as u64, 3, text.as_ptr() as u64), 3);
            assert_eq!(&to[..3], b"ab\0");
            assert_eq!(probe_read_str(to.as_mut_ptr() as u64, 4, text.as_ptr() as u64), 4);
        });
    }

    #[test]
    fn records_are_kept_in_order_and_a_second_reservation_waits() {
        let mut state = state_with(&[]);
        with(&mut state, || {
            let first = ringbuf_reserve(0, 8, 0);
            assert_ne!(first, 0);
            assert_eq!(ringbuf_reserve(0, 8, 0), 0);
            // SAFETY: eight bytes were reserved.
            unsafe { *(first as *mut u64) = 7 };
            ringbuf_submit(first, 0);
            assert_eq!(ringbuf_output(0, b"abc".as_ptr() as u64, 3, 0), 0);
        });
        let expected = [
            &8_u64.to_ne_bytes()[..],
            &7_u64.to_ne_bytes(),
            &3_u64.to_ne_bytes(),
            b"abc\0\0\0\0\0",
        ]
        .concat();
        assert_eq!(state.records, expected);
    }
}
