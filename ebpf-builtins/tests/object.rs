//! The committed objects have everything that `weir_ebpf_builtins` says they have. Needs no privilege.

#![allow(clippy::unwrap_used, reason = "a failed test may panic; its helpers too")]

use aya_obj::generated::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, bpf_map_type};
use aya_obj::{Object, ProgramSection};
use std::collections::{BTreeSet, HashMap};
use weir_ebpf_builtins::blocklist as bl;
use weir_ebpf_builtins::{EventRecord, Lpm4, Lpm6, PacketsBytes, Prefix, Record4, Record6};

#[test]
fn records_lie_as_documented() {
    use std::mem::{align_of, offset_of, size_of};
    assert_eq!((size_of::<Prefix>(), align_of::<Prefix>()), (24, 8));
    assert_eq!(
        (offset_of!(Prefix, len_bits), offset_of!(Prefix, family), offset_of!(Prefix, addr)),
        (0, 4, 8)
    );
    assert_eq!((size_of::<EventRecord>(), align_of::<EventRecord>()), (32, 8));
    assert_eq!(
        (
            offset_of!(EventRecord, verdict),
            offset_of!(EventRecord, slot),
            offset_of!(EventRecord, prefix)
        ),
        (0, 4, 8)
    );
    assert_eq!(
        (size_of::<Record4>(), offset_of!(Record4, key), offset_of!(Record4, mask)),
        (32, 4, 12)
    );
    assert_eq!((size_of::<Record6>(), offset_of!(Record6, key)), (40, 4));
    // Counters are added to atomically, so they are aligned.
    assert_eq!((offset_of!(Record4, hits), offset_of!(Record6, hits)), (16, 24));
    assert_eq!((size_of::<Lpm4>(), size_of::<Lpm6>(), size_of::<PacketsBytes>()), (8, 20, 16));
}

#[test]
fn blocklist_has_its_program() {
    assert_eq!(bl::OBJECT.as_ptr().addr() % 16, 0);
    let object = Object::parse(&bl::OBJECT).unwrap();
    assert_eq!(object.license.to_bytes(), b"GPL");
    assert!(object.btf.is_some() && object.btf_ext.is_some(), "BTF was stripped");
    let programs: BTreeSet<&str> = object.programs.keys().map(String::as_str).collect();
    assert_eq!(programs, BTreeSet::from([bl::PROGRAM, bl::TC]));
    assert!(matches!(object.programs[bl::TC].section, ProgramSection::SchedClassifier));
    let section = &object.programs[bl::PROGRAM].section;
    assert!(matches!(section, ProgramSection::Xdp { frags: true, .. }), "{section:?}");
}

#[test]
fn blocklist_has_its_maps() {
    use bpf_map_type::*;
    let object = Object::parse(&bl::OBJECT).unwrap();
    let declared: BTreeSet<&str> = bl::MAPS.iter().copied().chain([".rodata"]).collect();
    let found: BTreeSet<&str> = object.maps.keys().map(String::as_str).collect();
    assert_eq!(found, declared);

    let lpm4 = size_of::<Lpm4>() as u32;
    let lpm6 = size_of::<Lpm6>() as u32;
    let hits = size_of::<PacketsBytes>() as u32;
    let record = size_of::<EventRecord>() as u32;
    for (name, kind, key, value, entries, flags) in [
        (bl::BLOCK4, BPF_MAP_TYPE_LPM_TRIE, lpm4, lpm4, 1 << 20, BPF_F_NO_PREALLOC),
        (bl::BLOCK6, BPF_MAP_TYPE_LPM_TRIE, lpm6, lpm6, 1 << 20, BPF_F_NO_PREALLOC),
        (bl::SWAP4, BPF_MAP_TYPE_LPM_TRIE, lpm4, lpm4, 1, BPF_F_NO_PREALLOC),
        (bl::SWAP6, BPF_MAP_TYPE_LPM_TRIE, lpm6, lpm6, 1, BPF_F_NO_PREALLOC),
        (bl::STATE, BPF_MAP_TYPE_ARRAY, 4, 8, 1, 0),
        (bl::NODES4, BPF_MAP_TYPE_ARRAY, 4, 1024, 1, BPF_F_MMAPABLE),
        (bl::NODES6, BPF_MAP_TYPE_ARRAY, 4, 1024, 1, BPF_F_MMAPABLE),
        (bl::RECORDS4, BPF_MAP_TYPE_ARRAY, 4, 32, 1, BPF_F_MMAPABLE),
        (bl::RECORDS6, BPF_MAP_TYPE_ARRAY, 4, 40, 1, BPF_F_MMAPABLE),
        (bl::SIEVE4, BPF_MAP_TYPE_ARRAY, 4, 8, 1, BPF_F_MMAPABLE),
        (bl::SIEVE6, BPF_MAP_TYPE_ARRAY, 4, 8, 1, BPF_F_MMAPABLE),
        (bl::PORTS, BPF_MAP_TYPE_ARRAY, 4, 8 * bl::PORT_WORDS as u32, 1, 0),
        (bl::ALLOW4, BPF_MAP_TYPE_LPM_TRIE, lpm4, lpm4, 1 << 20, BPF_F_NO_PREALLOC),
        (bl::ALLOW6, BPF_MAP_TYPE_LPM_TRIE, lpm6, lpm6, 1 << 20, BPF_F_NO_PREALLOC),
        (bl::HITS4, BPF_MAP_TYPE_PERCPU_HASH, lpm4, hits, 1 << 16, BPF_F_NO_PREALLOC),
        (bl::HITS6, BPF_MAP_TYPE_PERCPU_HASH, lpm6, hits, 1 << 16, BPF_F_NO_PREALLOC),
        (bl::PAST4, BPF_MAP_TYPE_HASH, lpm4, hits, 1 << 16, BPF_F_NO_PREALLOC),
        (bl::PAST6, BPF_MAP_TYPE_HASH, lpm6, hits, 1 << 16, BPF_F_NO_PREALLOC),
        (bl::STATS_MAP, BPF_MAP_TYPE_PERCPU_ARRAY, 4, 8, bl::STATS, 0),
        (bl::EVENT, BPF_MAP_TYPE_PERCPU_ARRAY, 4, record, 1, 0),
        (bl::EVENTS, BPF_MAP_TYPE_PROG_ARRAY, 4, 4, bl::SLOT_ALLOW + 1, 0),
        (bl::EVENTS_TC, BPF_MAP_TYPE_PROG_ARRAY, 4, 4, bl::SLOT_ALLOW + 1, 0),
        (bl::CHAIN, BPF_MAP_TYPE_PROG_ARRAY, 4, 4, 1, 0),
    ] {
        let map = &object.maps[name];
        assert_eq!(
            (map.map_type(), map.key_size(), map.value_size(), map.max_entries(), map.map_flags()),
            (kind as u32, key, value, entries, flags),
            "{name}"
        );
    }
}

/// The settings are where a loader looks for them, with the documented defaults.
#[test]
fn blocklist_has_its_settings() {
    let mut object = Object::parse(&bl::OBJECT).unwrap();
    let words = |object: &Object| {
        let mut words: Vec<u32> = object.maps[".rodata"]
            .data()
            .chunks(4)
            .map(|w| u32::from_le_bytes(w.try_into().unwrap()))
            .collect();
        words.sort_unstable();
        words
    };
    let mut defaults = vec![0; bl::RODATA.len() - 2];
    defaults.extend([bl::MATCH_SRC, bl::IPV4 | bl::IPV6]);
    assert_eq!(words(&object), defaults);
    let values: Vec<[u8; 4]> = (0..bl::RODATA.len() as u32).map(|i| (100 + i).to_le_bytes()).collect();
    let globals: HashMap<&str, (&[u8], bool)> = bl::RODATA
        .iter()
        .zip(&values)
        .map(|(name, v)| (*name, (v.as_slice(), true)))
        .collect();
    object.patch_map_data(globals).unwrap();
    assert_eq!(
        words(&object),
        (100..).take(bl::RODATA.len()).collect::<Vec<u32>>(),
        "two settings at one place, or one missing"
    );
}

#[test]
fn identity_has_its_maps_programs_and_settings() {
    use weir_ebpf_builtins::identity as id;
    assert_eq!(id::OBJECT.as_ptr().addr() % 16, 0);
    let mut object = Object::parse(&id::OBJECT).unwrap();
    assert_eq!(object.license.to_bytes(), b"GPL");
    assert!(object.btf.is_some() && object.btf_ext.is_some(), "BTF was stripped");
    let declared: BTreeSet<&str> = id::MAPS.iter().copied().chain([".rodata"]).collect();
    let found: BTreeSet<&str> = object.maps.keys().map(String::as_str).collect();
    assert_eq!(found, declared);
    let programs: BTreeSet<&str> = object.programs.keys().map(String::as_str).collect();
    let expected = [
        id::CREATE,
        id::CONNECT4,
        id::CONNECT6,
        id::SENDMSG4,
        id::SENDMSG6,
        id::SETSOCKOPT,
        id::FROM_POD_PROGRAM,
        id::TO_POD_PROGRAM,
    ];
    assert_eq!(programs, BTreeSet::from(expected));
    for (name, key, value) in [
        (id::RULES, 4, size_of::<id::Rule>()),
        (id::POLICY, 4, size_of::<id::Policy>()),
        (id::CACHE, size_of::<id::Question>(), size_of::<id::Answer>()),
        (id::FLOWS, size_of::<id::Flow>(), 4),
        (id::DENIED, size_of::<id::Denied>(), size_of::<PacketsBytes>()),
        (id::EVENT, 4, size_of::<id::EventRecord>()),
    ] {
        let map = &object.maps[name];
        assert_eq!((map.key_size() as usize, map.value_size() as usize), (key, value), "{name}");
    }
    let values: Vec<[u8; 4]> = (0..id::RODATA.len() as u32).map(|i| (100 + i).to_le_bytes()).collect();
    let globals: HashMap<&str, (&[u8], bool)> = id::RODATA
        .iter()
        .zip(&values)
        .map(|(name, v)| (*name, (v.as_slice(), true)))
        .collect();
    object.patch_map_data(globals).unwrap();
    let mut words: Vec<u32> = object.maps[".rodata"]
        .data()
        .chunks(4)
        .map(|w| u32::from_le_bytes(w.try_into().unwrap()))
        .collect();
    words.sort_unstable();
    let expected: Vec<u32> = (100..100 + id::RODATA.len() as u32).collect();
    assert_eq!(words, expected, "two settings at one place, or one missing");
}

/// Filters compare the beat with the clock that it is written by: the one that stands still while the machine sleeps.
#[test]
fn heartbeats_are_read_by_the_monotonic_clock() {
    use aya_obj::generated::{BPF_CALL, BPF_JMP, bpf_func_id};
    for (name, bytes) in [
        ("blocklist", &bl::OBJECT[..]),
        ("identity", &weir_ebpf_builtins::identity::OBJECT[..]),
    ] {
        let object = Object::parse(bytes).unwrap();
        let instructions = object.functions.values().flat_map(|f| &f.instructions);
        let calls = instructions.filter(|i| u32::from(i.code) == BPF_JMP | BPF_CALL && i.src_reg() == 0);
        let helpers: BTreeSet<i32> = calls.map(|i| i.imm).collect();
        assert!(
            helpers.contains(&(bpf_func_id::BPF_FUNC_ktime_get_ns as i32)),
            "{name}: {helpers:?}"
        );
        assert!(!helpers.contains(&(bpf_func_id::BPF_FUNC_ktime_get_boot_ns as i32)), "{name}");
    }
}

/// Sets every one of these to another number; each must have a place of its own.
fn settings_are_apart(bytes: &[u8], names: &[&str]) {
    let mut object = Object::parse(bytes).unwrap();
    let values: Vec<[u8; 4]> = (0..names.len() as u32).map(|i| (100 + i).to_le_bytes()).collect();
    let globals: HashMap<&str, (&[u8], bool)> = names.iter().zip(&values).map(|(name, v)| (*name, (v.as_slice(), true))).collect();
    object.patch_map_data(globals).unwrap();
    let data = object.maps[".rodata"].data();
    for (name, value) in names.iter().zip(&values) {
        assert!(data.chunks(4).any(|word| word == value), "two settings at one place: `{name}`");
    }
}

#[test]
fn retransmits_has_its_maps_and_settings() {
    use aya_obj::generated::bpf_map_type::*;
    use weir_ebpf_builtins::abi::net::{Flow, Inet};
    use weir_ebpf_builtins::retransmits as rt;
    assert_eq!((size_of::<Inet>(), size_of::<Flow>(), size_of::<rt::Conn>()), (24, 40, 128));
    let object = Object::parse(&rt::OBJECT).unwrap();
    assert_eq!(object.license.to_bytes(), b"GPL");
    let (conn, dest) = (size_of::<rt::Conn>() as u32, size_of::<rt::Dest>() as u32);
    let expected = [
        (rt::SOCKS, BPF_MAP_TYPE_HASH, 8, conn, 1 << 16),
        (rt::CLOSED, BPF_MAP_TYPE_HASH, 16, conn, 1 << 16),
        (rt::DESTS, BPF_MAP_TYPE_PERCPU_HASH, 24, dest, 1 << 14),
        (
            rt::LISTENERS,
            BPF_MAP_TYPE_LRU_HASH,
            16,
            size_of::<weir_ebpf_builtins::Owner>() as u32,
            4096,
        ),
        (rt::LAST, BPF_MAP_TYPE_PERCPU_ARRAY, 4, 16, 1),
        (rt::STATS_MAP, BPF_MAP_TYPE_PERCPU_ARRAY, 4, 8, rt::STATS),
        (
            weir_ebpf_builtins::EVENT,
            BPF_MAP_TYPE_PERCPU_ARRAY,
            4,
            size_of::<rt::Event>() as u32,
            rt::SLOTS,
        ),
        (weir_ebpf_builtins::EVENTS, BPF_MAP_TYPE_PROG_ARRAY, 4, 4, rt::SLOTS),
    ];
    let declared: BTreeSet<&str> = expected.iter().map(|(name, ..)| *name).chain([".rodata"]).collect();
    assert_eq!(object.maps.keys().map(String::as_str).collect::<BTreeSet<&str>>(), declared);
    for (name, kind, key, value, entries) in expected {
        let map = &object.maps[name];
        assert_eq!(
            (map.map_type(), map.key_size(), map.value_size(), map.max_entries()),
            (kind as u32, key, value, entries),
            "{name}"
        );
    }
    let offsets = rt::OFFSETS.iter().chain(rt::OFFSETS_IPV6).map(|(name, ..)| *name);
    let names: Vec<&str> = offsets
        .chain([rt::RODATA_CA_MASK, rt::RODATA_SKB_SEGS, rt::RODATA_NETNS])
        .chain(rt::RODATA_EVENTS.iter().copied())
        .collect();
    settings_are_apart(&rt::OBJECT, &names);
}
