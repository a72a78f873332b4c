//! Loads the blocklist, fills its lists, runs packets through it in the kernel, reads its counters.

use crate::oracle::{Counters, Entry, Lists, Settings};
use aya::maps::lpm_trie::Key;
use aya::maps::{Array, LpmTrie, MapData, PerCpuArray, PerCpuHashMap};
use aya::programs::{ProgramError, SchedClassifier, TestRun, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::AtomicU64;
use weir_ebpf_builtins::blocklist as bl;
use weir_ebpf_builtins::exact::{Family, Memory, Tables};
use weir_ebpf_builtins::{Record4, Record6};

pub const XDP_DROP: u32 = 1;
pub const XDP_PASS: u32 = 2;
pub const XDP_TX: u32 = 3;
pub const TC_ACT_SHOT: u32 = 2;
/// Whoever comes next decides.
pub const TC_ACT_UNSPEC: u32 = u32::MAX;

pub struct Rig {
    pub ebpf: Ebpf,
    /// Lists go to the second set.
    second_set: bool,
    spill_every: usize,
    tables: [Option<Tables>; 2],
}

impl Rig {
    /// Loads the object. `None`, with a word on standard error, when this user may not load BPF programs.
    pub fn load(settings: &Settings, max_hits: u32) -> Option<Self> {
        Self::load_at(settings, max_hits, false)
    }

    /// The same with the program at TC: only one of the two, for their program arrays take one type of programs.
    pub fn load_tc(settings: &Settings, max_hits: u32) -> Option<Self> {
        Self::load_at(settings, max_hits, true)
    }

    fn load_at(settings: &Settings, max_hits: u32, tc: bool) -> Option<Self> {
        // SAFETY: no arguments, no failure.
        if unsafe { libc::geteuid() } != 0 {
            eprintln!("skipped: loading BPF programs needs root");
            return None;
        }
        let words = [
            (bl::RODATA_MATCH, settings.fields),
            (bl::RODATA_FAMILIES, settings.families),
            (bl::RODATA_ALLOW_FAMILIES, settings.allow_families),
            (bl::RODATA_PROTO, settings.proto),
            (bl::RODATA_ONLY_PORTS, settings.ports.is_some().into()),
            (bl::RODATA_ATOMIC, settings.second_set.into()),
            (bl::RODATA_EXACT, settings.exact),
            (bl::RODATA_FLAT, if settings.flat { settings.exact & bl::IPV4 } else { 0 }),
            (bl::RODATA_SIEVE, if settings.sieve { settings.exact } else { 0 }),
            (bl::RODATA_DRY_RUN, settings.dry_run.into()),
            (bl::RODATA_EVENT_DROP, settings.event_drop.into()),
            (bl::RODATA_EVENT_ALLOW, settings.event_allow.into()),
            (bl::RODATA_CHAIN_NEXT, settings.chain_next.into()),
        ];
        let nodes4 = match (settings.flat, settings.second_set) {
            (false, _) => ROOM,
            (true, false) => ROOM + bl::FLAT_NODES,
            (true, true) => ROOM + 2 * bl::FLAT_NODES,
        };
        let mut loader = EbpfLoader::new();
        loader
            .btf(None)
            .map_max_entries(bl::HITS4, max_hits)
            .map_max_entries(bl::HITS6, max_hits)
            .map_max_entries(bl::NODES4, if settings.exact & bl::IPV4 != 0 { nodes4 } else { 1 })
            .map_max_entries(bl::RECORDS4, if settings.exact & bl::IPV4 != 0 { ROOM } else { 1 })
            .map_max_entries(bl::NODES6, if settings.exact & bl::IPV6 != 0 { ROOM } else { 1 })
            .map_max_entries(bl::RECORDS6, if settings.exact & bl::IPV6 != 0 { ROOM } else { 1 })
            .map_max_entries(bl::SIEVE4, SIEVE_ROOM)
            .map_max_entries(bl::SIEVE6, SIEVE_ROOM)
            .map_max_entries(bl::SWAP4, 1 << 16)
            .map_max_entries(bl::SWAP6, 1 << 16);
        for (name, value) in &words {
            loader.override_global(name, value, true);
        }
        let mut ebpf = loader.load(&bl::OBJECT).unwrap();
        if tc {
            let program: &mut SchedClassifier = ebpf.program_mut(bl::TC).unwrap().try_into().unwrap();
            program.load().unwrap();
        } else {
            let program: &mut Xdp = ebpf.program_mut(bl::PROGRAM).unwrap().try_into().unwrap();
            program.load().unwrap();
        }
        let second_set = settings.second_set;
        let mut state: Array<&mut MapData, [u32; bl::STATE_WORDS]> = ebpf.map_mut(bl::STATE).unwrap().try_into().unwrap();
        let mut words = [0; bl::STATE_WORDS];
        words[bl::STATE_ACTIVE] = second_set.into();
        words[bl::STATE_SPILLED] = (settings.spill_every > 0).into();
        state.set(0, words, 0).unwrap();
        let sets = if second_set { 2 } else { 1 };
        let tables = [
            (bl::IPV4, Family::V4, bl::NODES4, bl::RECORDS4, size_of::<Record4>()),
            (bl::IPV6, Family::V6, bl::NODES6, bl::RECORDS6, size_of::<Record6>()),
        ]
        .map(|(flag, family, nodes, records, record)| {
            (settings.exact & flag != 0).then(|| {
                let mut tables = Tables::new(family, sets);
                let room = ROOM as usize;
                let mut room_of_nodes = room;
                if settings.flat && family == Family::V4 {
                    tables = tables.flat();
                    room_of_nodes = nodes4 as usize;
                }
                tables
                    .move_to(
                        memory(&ebpf, nodes, room_of_nodes * bl::NODE_SLOTS * 4),
                        memory(&ebpf, records, room * record),
                    )
                    .unwrap();
                if settings.sieve {
                    tables = tables.with_sieve();
                    let sieve = if family == Family::V4 { bl::SIEVE4 } else { bl::SIEVE6 };
                    tables.move_sieve_to(memory(&ebpf, sieve, SIEVE_ROOM as usize * 8)).unwrap();
                }
                tables
            })
        });
        if let Some((low, high)) = settings.ports {
            let mut words = [0_u64; bl::PORT_WORDS];
            for port in low..=high {
                let bit = usize::from(port.swap_bytes());
                words[bit / 64] |= 1 << (bit % 64);
            }
            let mut ports: Array<&mut MapData, [u64; bl::PORT_WORDS]> = ebpf.map_mut(bl::PORTS).unwrap().try_into().unwrap();
            ports.set(0, words, 0).unwrap();
        }
        Some(Self {
            ebpf,
            second_set,
            spill_every: settings.spill_every,
            tables,
        })
    }

    /// How long the program is that the kernel runs.
    pub fn translated_bytes(&self) -> u32 {
        let program: &Xdp = self.ebpf.program(bl::PROGRAM).unwrap().try_into().unwrap();
        program.info().unwrap().size_translated().unwrap()
    }

    /// Runs one packet at TC and returns the verdict.
    pub fn run_tc(&self, packet: &[u8]) -> u32 {
        let program: &SchedClassifier = self.ebpf.program(bl::TC).unwrap().try_into().unwrap();
        let options = TestRunOptions {
            data_in: Some(packet),
            ..TestRunOptions::default()
        };
        program.test_run(options).unwrap().return_value
    }

    /// Takes an entry of the block list out of the exact tables.
    pub fn remove(&mut self, (address, len): Entry) {
        let (tables, bits) = match address {
            IpAddr::V4(address) => (&mut self.tables[0], u128::from(address.to_bits()) << 96),
            IpAddr::V6(address) => (&mut self.tables[1], address.to_bits()),
        };
        assert!(tables.as_mut().unwrap().remove(self.second_set.into(), (bits, len.into())));
    }

    /// Fills the tries and tables.
    pub fn set(&mut self, lists: &Lists) {
        let (block4, block6) = if self.second_set {
            (bl::SWAP4, bl::SWAP6)
        } else {
            (bl::BLOCK4, bl::BLOCK6)
        };
        for (list, v4, v6) in [(&lists.block, block4, block6), (&lists.allow, bl::ALLOW4, bl::ALLOW6)] {
            for (index, entry) in list.iter().enumerate() {
                let (tables, bits) = match entry.0 {
                    IpAddr::V4(address) => (&mut self.tables[0], u128::from(address.to_bits()) << 96),
                    IpAddr::V6(address) => (&mut self.tables[1], address.to_bits()),
                };
                let spilled = self.spill_every > 0 && index % self.spill_every == 0;
                if let Some(tables) = tables
                    && v4 == block4
                    && !spilled
                {
                    tables.insert(self.second_set.into(), (bits, entry.1.into())).unwrap();
                    continue;
                }
                match entry.0 {
                    IpAddr::V4(address) => self.insert(v4, address.octets(), lpm::<8>(*entry)),
                    IpAddr::V6(address) => self.insert(v6, address.octets(), lpm::<20>(*entry)),
                }
            }
        }
    }

    fn insert<const ADDRESS: usize, const VALUE: usize>(&mut self, map: &str, address: [u8; ADDRESS], value: [u8; VALUE])
    where
        [u8; ADDRESS]: aya::Pod,
        [u8; VALUE]: aya::Pod,
    {
        let len = u32::from_le_bytes(value[..4].try_into().unwrap());
        let mut trie: LpmTrie<&mut MapData, [u8; ADDRESS], [u8; VALUE]> = self.ebpf.map_mut(map).unwrap().try_into().unwrap();
        trie.insert(&Key::new(len, address), value, 0).unwrap();
    }

    /// Runs one packet and returns the verdict.
    pub fn run(&self, packet: &[u8]) -> u32 {
        self.run_many(packet, 1)
    }

    /// Runs a packet whose first buffer has only `linear` bytes; `None` if the kernel cannot.
    pub fn run_short(&self, packet: &[u8], linear: u32) -> Option<u32> {
        // `struct xdp_md`; `data_end` says how long the first buffer is to be.
        let context: Vec<u8> = [0, linear, 0, 0, 0, 0].iter().flat_map(|word: &u32| word.to_le_bytes()).collect();
        self.try_run(packet, Some(&context), 1).ok()
    }

    /// Runs a packet `repeat` times and returns the last verdict.
    pub fn run_many(&self, packet: &[u8], repeat: u32) -> u32 {
        self.try_run(packet, None, repeat).unwrap()
    }

    fn try_run(&self, packet: &[u8], context: Option<&[u8]>, repeat: u32) -> Result<u32, ProgramError> {
        let program: &Xdp = self.ebpf.program(bl::PROGRAM).unwrap().try_into().unwrap();
        let options = TestRunOptions {
            data_in: Some(packet),
            ctx_in: context,
            repeat,
            ..TestRunOptions::default()
        };
        program.test_run(options).map(|r| r.return_value)
    }

    pub fn counters(&self) -> Counters {
        let mut counters = Counters::default();
        let stats: PerCpuArray<&MapData, u64> = self.ebpf.map(bl::STATS_MAP).unwrap().try_into().unwrap();
        for (index, stat) in counters.stats.iter_mut().enumerate() {
            *stat = stats.get(&(index as u32), 0).unwrap().iter().sum();
        }
        let hits: PerCpuHashMap<&MapData, [u8; 8], [u64; 2]> = self.ebpf.map(bl::HITS4).unwrap().try_into().unwrap();
        for entry in hits.iter() {
            let (key, values) = entry.unwrap();
            let address: [u8; 4] = key[4..].try_into().unwrap();
            counters.hits.insert((address.into(), key[0]), sum(&values));
        }
        let hits: PerCpuHashMap<&MapData, [u8; 20], [u64; 2]> = self.ebpf.map(bl::HITS6).unwrap().try_into().unwrap();
        for entry in hits.iter() {
            let (key, values) = entry.unwrap();
            let address: [u8; 16] = key[4..].try_into().unwrap();
            counters.hits.insert((address.into(), key[0]), sum(&values));
        }
        for (family, tables) in self.tables.iter().enumerate() {
            for ((bits, len), hits) in tables.iter().flat_map(Tables::hits) {
                let address = match family {
                    0 => IpAddr::from(((bits >> 96) as u32).to_be_bytes()),
                    _ => IpAddr::from(bits.to_be_bytes()),
                };
                let [packets, total] = counters.hits.entry((address, len as u8)).or_default();
                *packets += hits.packets;
                *total += hits.bytes;
            }
        }
        counters
    }

    /// File descriptor of a map, valid as long as the rig.
    pub fn map_fd(&self, name: &str) -> RawFd {
        use aya::maps::Map;
        let (Map::ProgramArray(data) | Map::PerCpuArray(data)) = self.ebpf.map(name).unwrap() else {
            panic!("{name}")
        };
        data.fd().as_fd().as_raw_fd()
    }

    /// Puts a program into a slot of a program array.
    pub fn put(&self, programs: &str, slot: u32, program: &OwnedFd) {
        let value = program.as_raw_fd() as u32;
        let attr = MapElem {
            map: self.map_fd(programs) as u32,
            pad: 0,
            key: (&raw const slot) as u64,
            value: (&raw const value) as u64,
            flags: 0,
        };
        bpf(2, &attr).unwrap();
    }
}

/// Elements of the exact tables' maps.
const ROOM: u32 = 1 << 14;
/// Of the sieve, for two sets.
const SIEVE_ROOM: u32 = 2 * bl::SIEVE_WORDS;

/// Maps a map of so many bytes into memory, which stays until the process ends.
fn memory(ebpf: &Ebpf, name: &str, len: usize) -> Memory {
    use aya::maps::Map;
    let Map::Array(data) = ebpf.map(name).unwrap() else {
        panic!("{name}")
    };
    // SAFETY: a new mapping of a map that is that large (`load` says so); words of it are only used as atomics.
    let memory: &'static [AtomicU64] = unsafe {
        let fd = data.fd().as_fd().as_raw_fd();
        let at = libc::mmap(
            std::ptr::null_mut(),
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            fd,
            0,
        );
        assert_ne!(at, libc::MAP_FAILED, "{name}");
        std::slice::from_raw_parts(at.cast(), len / 8)
    };
    Memory::Lent {
        memory,
        owner: Box::new(()),
    }
}

fn sum(values: &[[u64; 2]]) -> [u64; 2] {
    values.iter().fold([0, 0], |[packets, bytes], [p, b]| [packets + p, bytes + b])
}

/// An entry as `Lpm4` (N = 8) or `Lpm6` (N = 20).
fn lpm<const N: usize>((address, len): Entry) -> [u8; N] {
    let mut out = [0; N];
    out[..4].copy_from_slice(&u32::from(len).to_le_bytes());
    match address {
        IpAddr::V4(a) => out[4..8].copy_from_slice(&a.octets()),
        IpAddr::V6(a) => out[4..20].copy_from_slice(&a.octets()),
    }
    out
}

/// `union bpf_attr` of `BPF_MAP_LOOKUP_ELEM` and `BPF_MAP_UPDATE_ELEM`.
#[repr(C)]
struct MapElem {
    map: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// `union bpf_attr` of `BPF_MAP_CREATE`.
#[repr(C)]
struct MapCreate {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
}

/// `union bpf_attr` of `BPF_PROG_LOAD`, its first fields.
#[repr(C)]
struct ProgLoad {
    kind: u32,
    insns_len: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    version: u32,
    flags: u32,
    name: [u8; 16],
    ifindex: u32,
    attach_type: u32,
}

fn bpf<T>(command: libc::c_int, attr: &T) -> std::io::Result<RawFd> {
    // SAFETY: `attr` has the layout of the command's `union bpf_attr`, and what it points to outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attr), size_of::<T>()) };
    if result < 0 {
        Err(std::io::Error::last_os_error())
    } else {
        Ok(result as RawFd)
    }
}

/// An XDP program by its instructions, loaded as programs behind a native must be: with `BPF_F_XDP_HAS_FRAGS` and for the
/// attach type `BPF_XDP`.
pub fn load_xdp(insns: &[u64]) -> OwnedFd {
    let mut log = vec![0_u8; 1 << 16];
    let attr = ProgLoad {
        kind: 6,
        insns_len: insns.len() as u32,
        insns: insns.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log_level: 1,
        log_size: log.len() as u32,
        log: log.as_mut_ptr() as u64,
        version: 0,
        flags: 1 << 5,
        name: [0; 16],
        ifindex: 0,
        attach_type: 37,
    };
    match bpf(5, &attr) {
        // SAFETY: a new file descriptor that nobody else owns.
        Ok(fd) => unsafe { OwnedFd::from_raw_fd(fd) },
        Err(error) => panic!("{error}: {}", String::from_utf8_lossy(&log).trim_end_matches('\0')),
    }
}

/// An array with one element of `value_size` bytes.
pub fn array(value_size: u32) -> OwnedFd {
    let fd = bpf(
        0,
        &MapCreate {
            kind: 2,
            key_size: 4,
            value_size,
            max_entries: 1,
        },
    )
    .unwrap();
    // SAFETY: a new file descriptor that nobody else owns.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Reads the element of such an array.
pub fn read_array<const N: usize>(array: &OwnedFd) -> [u64; N] {
    let (key, mut value) = (0_u32, [0_u64; N]);
    let attr = MapElem {
        map: array.as_raw_fd() as u32,
        pad: 0,
        key: (&raw const key) as u64,
        value: value.as_mut_ptr() as u64,
        flags: 0,
    };
    bpf(1, &attr).unwrap();
    value
}

/// Encodes BPF instructions.
pub mod insn {
    use std::os::fd::RawFd;

    const fn raw(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> u64 {
        code as u64 | (dst as u64) << 8 | (src as u64) << 12 | (off as u16 as u64) << 16 | (imm as u32 as u64) << 32
    }
    pub const fn mov(dst: u8, imm: i32) -> u64 {
        raw(0xb7, dst, 0, 0, imm)
    }
    pub const fn mov_reg(dst: u8, src: u8) -> u64 {
        raw(0xbf, dst, src, 0, 0)
    }
    pub const fn add(dst: u8, imm: i32) -> u64 {
        raw(0x07, dst, 0, 0, imm)
    }
    pub const fn load(dst: u8, src: u8, off: i16) -> u64 {
        raw(0x79, dst, src, off, 0)
    }
    pub const fn load32(dst: u8, src: u8, off: i16) -> u64 {
        raw(0x61, dst, src, off, 0)
    }
    pub const fn store(dst: u8, off: i16, src: u8) -> u64 {
        raw(0x7b, dst, src, off, 0)
    }
    pub const fn store_imm(dst: u8, off: i16, imm: i32) -> u64 {
        raw(0x7a, dst, 0, off, imm)
    }
    pub const fn jump_if(dst: u8, not: bool, imm: i32, off: i16) -> u64 {
        raw(if not { 0x55 } else { 0x15 }, dst, 0, off, imm)
    }
    pub const fn sub_reg(dst: u8, src: u8) -> u64 {
        raw(0x1f, dst, src, 0, 0)
    }
    pub const fn call(helper: i32) -> u64 {
        raw(0x85, 0, 0, 0, helper)
    }
    pub const EXIT: u64 = raw(0x95, 0, 0, 0, 0);
    pub const fn map(dst: u8, fd: RawFd) -> [u64; 2] {
        [raw(0x18, dst, 1, 0, fd), 0]
    }
}
