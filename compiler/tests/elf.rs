//! The ELF writer: what it writes loads with libbpf (bpftool) into the running kernel, and parses and relocates with aya.

#![allow(clippy::unwrap_used)] // Helpers of tests: a panic is the failure.

use std::collections::HashSet;
use std::path::PathBuf;
use std::process::Command;
use weir_compiler::elf::{self, Code, ElfError, Input, Line, Program, RawInsn, Reloc, RelocKind, Subprogram};
use weir_compiler::object::{AttachPoint, Direction, IfacePattern, MapKind, MapRole, MapSpec, ProgramKind, XdpMode};
use weir_compiler::types::{MapValue, Type};
use weir_parser::Span;

const SCRIPT: &str = "count.weir";
const FIRST_LINE: &str = "xdp:eth1 { @seen = count(); }";

fn insn(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> RawInsn {
    let mut raw = [0; 8];
    raw[0] = code;
    raw[1] = src << 4 | dst;
    raw[2..4].copy_from_slice(&off.to_le_bytes());
    raw[4..8].copy_from_slice(&imm.to_le_bytes());
    raw
}

fn mov(dst: u8, imm: i32) -> RawInsn {
    insn(0xb7, dst, 0, 0, imm)
}

fn mov_reg(dst: u8, src: u8) -> RawInsn {
    insn(0xbf, dst, src, 0, 0)
}

fn add(dst: u8, imm: i32) -> RawInsn {
    insn(0x07, dst, 0, 0, imm)
}

fn helper(id: i32) -> RawInsn {
    insn(0x85, 0, 0, 0, id)
}

fn exit() -> RawInsn {
    insn(0x95, 0, 0, 0, 0)
}

/// `ld_imm64` of zero, to be relocated.
fn address(dst: u8) -> [RawInsn; 2] {
    [insn(0x18, dst, 0, 0, 0), [0; 8]]
}

fn map(name: &str, kind: MapKind, key_size: u32, value_size: u32, max_entries: u32) -> MapSpec {
    MapSpec {
        name: name.to_owned(),
        kind,
        key_size,
        value_size,
        max_entries,
        flags: 0,
        role: MapRole::Scratch,
    }
}

fn rodata(data: &[u8]) -> MapSpec {
    let role = MapRole::Rodata { data: data.to_vec() };
    MapSpec {
        name: "rodata".to_owned(),
        kind: MapKind::Array,
        key_size: 4,
        value_size: data.len() as u32,
        max_entries: 1,
        flags: 0,
        role,
    }
}

/// Counts in a hash map, reads constants, writes to a ring buffer, calls a subprogram and loops with a callback.
/// It returns `XDP_PASS` (2) only if the constant (second word of `.rodata`), the call and the loop gave what they should.
struct Sample {
    maps: Vec<MapSpec>,
    main: (Vec<RawInsn>, Vec<Reloc>),
    callee: Vec<RawInsn>,
    callback: Vec<RawInsn>,
}

impl Sample {
    fn new() -> Sample {
        let mut data = vec![0xaa; 8];
        data.extend_from_slice(&40u64.to_le_bytes());
        let mut code = Vec::new();
        let mut relocs = Vec::new();
        let mut load = |code: &mut Vec<RawInsn>, dst, kind| {
            relocs.push(Reloc {
                insn: code.len() as u32,
                kind,
            });
            code.extend(address(dst));
        };
        // Key 7 at fp-8, value 1 at fp-16, loop count at fp-24.
        code.extend([insn(0x7a, 10, 0, -8, 7), insn(0x7a, 10, 0, -16, 1), insn(0x7a, 10, 0, -24, 0)]);
        load(&mut code, 1, RelocKind::Map(0));
        // bpf_map_update_elem(map, key, value, BPF_ANY)
        code.extend([mov_reg(2, 10), add(2, -8), mov_reg(3, 10), add(3, -16), mov(4, 0), helper(2)]);
        load(&mut code, 1, RelocKind::Map(1));
        // bpf_ringbuf_reserve(ring, 16, 0)
        code.extend([mov(2, 16), mov(3, 0), helper(131)]);
        code.extend([insn(0x55, 0, 0, 2, 0), mov(0, 0), exit()]);
        code.extend([
            insn(0x7a, 0, 0, 0, 5),
            insn(0x7a, 0, 0, 8, 6),
            mov_reg(1, 0),
            mov(2, 0),
            helper(132),
        ]);
        // r6 = constant 40
        load(&mut code, 1, RelocKind::Rodata(8));
        code.push(insn(0x79, 6, 1, 0, 0));
        // bpf_loop(3, callback, fp - 24, 0)
        code.push(mov(1, 3));
        load(&mut code, 2, RelocKind::SubprogAddr(1));
        code.extend([mov_reg(3, 10), add(3, -24), mov(4, 0), helper(181)]);
        code.push(insn(0x79, 7, 10, -24, 0));
        // r0 = callee(r6) = r6 + 2
        code.push(mov_reg(1, 6));
        relocs.push(Reloc {
            insn: code.len() as u32,
            kind: RelocKind::Subprog(0),
        });
        code.push(insn(0x85, 0, 0, 0, 0));
        // 42 and three rounds: pass; else abort.
        code.extend([
            insn(0x55, 0, 0, 3, 42),
            insn(0x55, 7, 0, 2, 3),
            mov(0, 2),
            exit(),
            mov(0, 0),
            exit(),
        ]);
        Sample {
            maps: vec![
                map("seen", MapKind::Hash, 8, 8, 16),
                map("ring", MapKind::RingBuf, 0, 0, 65536),
                rodata(&data),
            ],
            main: (code, relocs),
            callee: vec![mov_reg(0, 1), add(0, 2), exit()],
            // (*ctx)++
            callback: vec![insn(0x79, 1, 2, 0, 0), add(1, 1), insn(0x7b, 2, 1, 0, 0), mov(0, 0), exit()],
        }
    }

    fn write(&self) -> Result<Vec<u8>, ElfError> {
        // Out of order, not at the first instruction and inside an `ld_imm64`: all of this is for the writer to mend.
        let lines = [
            Line {
                insn: 20,
                file: SCRIPT,
                text: "  $x = f(40);\n",
                line: 2,
                col: 3,
            },
            Line {
                insn: 1,
                file: SCRIPT,
                text: FIRST_LINE,
                line: 1,
                col: 1,
            },
            Line {
                insn: 4,
                file: SCRIPT,
                text: "inside",
                line: 9,
                col: 1,
            },
        ];
        let subprograms = [
            Subprogram {
                name: "callee",
                params: 1,
                code: Code {
                    insns: &self.callee,
                    relocs: &[],
                    lines: &[],
                },
            },
            Subprogram {
                name: "callback",
                params: 2,
                code: Code {
                    insns: &self.callback,
                    relocs: &[],
                    lines: &[],
                },
            },
        ];
        let programs = [Program {
            name: "weir_xdp_0",
            section: "xdp.frags",
            kind: ProgramKind::Xdp,
            code: Code {
                insns: &self.main.0,
                relocs: &self.main.1,
                lines: &lines,
            },
        }];
        elf::write(&Input {
            programs: &programs,
            subprograms: &subprograms,
            maps: &self.maps,
        })
    }
}

/// A directory in bpffs and an object file, both removed at the end.
struct Loaded {
    pins: PathBuf,
    file: PathBuf,
}

impl Loaded {
    /// Loads with bpftool; `None` where the machine cannot (no root, no bpftool, no bpffs).
    fn load(name: &str, elf: &[u8]) -> Option<Loaded> {
        // SAFETY: no arguments, cannot fail.
        let root = unsafe { libc::geteuid() } == 0;
        let bpffs = std::path::Path::new("/sys/fs/bpf");
        let tool = Command::new("bpftool").arg("version").output().is_ok_and(|o| o.status.success());
        if !root || !tool || !bpffs.is_dir() {
            eprintln!("skipped: needs root, bpftool and bpffs");
            return None;
        }
        let id = format!("weir_{name}_{}", std::process::id());
        let loaded = Loaded {
            pins: bpffs.join(&id),
            file: std::env::temp_dir().join(format!("{id}.o")),
        };
        std::fs::write(&loaded.file, elf).unwrap();
        loaded.bpftool(&["prog", "loadall", loaded.file.to_str().unwrap(), loaded.pins.to_str().unwrap()]);
        Some(loaded)
    }

    fn bpftool(&self, args: &[&str]) -> String {
        let out = Command::new("bpftool").args(args).output().unwrap();
        let (stdout, stderr) = (
            String::from_utf8_lossy(&out.stdout).into_owned(),
            String::from_utf8_lossy(&out.stderr).into_owned(),
        );
        assert!(out.status.success(), "bpftool {args:?}: {stdout}{stderr}");
        stdout
    }

    fn pin(&self, program: &str) -> String {
        self.pins.join(program).to_str().unwrap().to_owned()
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.pins);
        let _ = std::fs::remove_file(&self.file);
    }
}

#[test]
fn same_input_same_bytes() {
    assert_eq!(Sample::new().write().unwrap(), Sample::new().write().unwrap());
}

#[test]
fn libbpf_loads_it_and_shows_lines() {
    let elf = Sample::new().write().unwrap();
    let Some(loaded) = Loaded::load("sample", &elf) else { return };
    let pin = loaded.pin("weir_xdp_0");
    let listing = loaded.bpftool(&["prog", "dump", "xlated", "pinned", &pin, "linum"]);
    assert!(
        listing.contains(&format!("; {FIRST_LINE} [file:{SCRIPT} line_num:1 line_col:1]")),
        "{listing}"
    );
    assert!(
        listing.contains("; $x = f(40); [file:count.weir line_num:2 line_col:3]"),
        "{listing}"
    );
    assert!(!listing.contains("inside"), "{listing}");
    assert!(listing.contains("int weir_xdp_0(struct xdp_md * ctx):"), "{listing}");
    assert!(listing.contains("callee(") && listing.contains("callback("), "{listing}");
}

#[test]
fn the_kernel_runs_it() {
    let elf = Sample::new().write().unwrap();
    let Some(loaded) = Loaded::load("run", &elf) else { return };
    let packet = loaded.file.with_extension("bin");
    std::fs::write(&packet, [0u8; 64]).unwrap();
    let pin = loaded.pin("weir_xdp_0");
    let out = loaded.bpftool(&["prog", "run", "pinned", &pin, "data_in", packet.to_str().unwrap()]);
    std::fs::remove_file(&packet).unwrap();
    assert!(out.contains("Return value: 2"), "{out}");
}

#[test]
fn every_kind_of_section_loads() {
    let point = |category: &str, name: &str| AttachPoint::Tracepoint {
        category: category.to_owned(),
        name: name.to_owned(),
    };
    let iface = IfacePattern {
        pattern: "veth0".to_owned(),
        netns: None,
        link_layer: weir_compiler::object::LinkLayer::Ethernet,
        overlap: weir_compiler::object::Overlap::default(),
    };
    let kinds = [
        (
            ProgramKind::Xdp,
            AttachPoint::Xdp {
                iface: iface.clone(),
                mode: XdpMode::Auto,
            },
            "xdp.frags",
        ),
        (
            ProgramKind::NativeEventXdp,
            AttachPoint::NativeEvent {
                instance: 0,
                event: 0,
                link_layer: weir_compiler::object::LinkLayer::Ethernet,
            },
            "xdp.frags",
        ),
        (
            ProgramKind::SchedCls,
            AttachPoint::Tc {
                iface,
                direction: Direction::Ingress,
            },
            "classifier",
        ),
        (
            ProgramKind::Tracepoint,
            point("sched", "sched_switch"),
            "tracepoint/sched/sched_switch",
        ),
        (
            ProgramKind::RawTracepoint,
            AttachPoint::RawTracepoint {
                name: "sched_switch".to_owned(),
            },
            "raw_tp/sched_switch",
        ),
        (ProgramKind::RunOnce, AttachPoint::Begin, "raw_tp"),
        (ProgramKind::RunOnce, AttachPoint::End, "raw_tp"),
        (
            ProgramKind::PerfEvent,
            AttachPoint::Interval {
                period: std::time::Duration::from_secs(1),
            },
            "perf_event",
        ),
        (
            ProgramKind::Kprobe,
            AttachPoint::Kprobe {
                module: None,
                function: "tcp_connect".to_owned(),
                offset: 0,
                ret: false,
                pattern: false,
            },
            "kprobe/tcp_connect",
        ),
        (
            ProgramKind::Kprobe,
            AttachPoint::Kprobe {
                module: None,
                function: "tcp_connect".to_owned(),
                offset: 0,
                ret: true,
                pattern: false,
            },
            "kretprobe/tcp_connect",
        ),
    ];
    let insns = [mov(0, 0), exit()];
    let sections: Vec<String> = kinds.iter().map(|(kind, point, _)| elf::section_name(*kind, point, true)).collect();
    let names: Vec<String> = (0..kinds.len()).map(|i| format!("prog_{i}")).collect();
    let programs: Vec<Program<'_>> = kinds
        .iter()
        .enumerate()
        .map(|(i, (kind, _, expected))| {
            assert_eq!(sections[i], *expected);
            Program {
                name: &names[i],
                section: &sections[i],
                kind: *kind,
                code: Code {
                    insns: &insns,
                    relocs: &[],
                    lines: &[],
                },
            }
        })
        .collect();
    let elf = elf::write(&Input {
        programs: &programs,
        subprograms: &[],
        maps: &[],
    })
    .unwrap();
    let parsed = aya_obj::Object::parse(&elf).unwrap();
    assert_eq!(parsed.programs.len(), kinds.len());
    let Some(loaded) = Loaded::load("kinds", &elf) else { return };
    for name in &names {
        let shown = loaded.bpftool(&["prog", "show", "pinned", &loaded.pin(name)]);
        assert!(shown.contains(&format!("name {name}")) && shown.contains("gpl"), "{shown}");
    }
}

/// One map of each kind, all used by one program.
fn all_maps() -> Vec<MapSpec> {
    let mut trie = map("trie", MapKind::LpmTrie, 20, 8, 16);
    trie.flags = 1;
    vec![
        map("hash", MapKind::Hash, 24, 16, 16),
        map("array", MapKind::Array, 4, 528, 1),
        map("tails", MapKind::ProgArray, 4, 4, 8),
        map("cpu_hash", MapKind::PerCpuHash, 5, 24, 16),
        map("cpu_array", MapKind::PerCpuArray, 4, 8, 3),
        map("stacks", MapKind::StackTrace, 4, 127 * 8, 64),
        map("lru", MapKind::LruHash, 6, 2, 64),
        map("cpu_lru", MapKind::LruPerCpuHash, 40, 8, 64),
        trie,
        map("events", MapKind::RingBuf, 0, 0, 0),
    ]
}

#[test]
fn every_kind_of_map() {
    let maps = all_maps();
    let mut insns = Vec::new();
    let mut relocs = Vec::new();
    for i in 0..maps.len() {
        relocs.push(Reloc {
            insn: insns.len() as u32,
            kind: RelocKind::Map(i as u32),
        });
        insns.extend(address(1));
    }
    insns.extend([mov(0, 0), exit()]);
    let programs = [Program {
        name: "prog",
        section: "raw_tp",
        kind: ProgramKind::RunOnce,
        code: Code {
            insns: &insns,
            relocs: &relocs,
            lines: &[],
        },
    }];
    let elf = elf::write(&Input {
        programs: &programs,
        subprograms: &[],
        maps: &maps,
    })
    .unwrap();

    let parsed = aya_obj::Object::parse(&elf).unwrap();
    for spec in &maps {
        let map = &parsed.maps[&spec.name];
        let entries = if spec.max_entries == 0 {
            elf::DEFAULT_RING_BYTES
        } else {
            spec.max_entries
        };
        let found = (map.map_type(), map.key_size(), map.value_size(), map.max_entries(), map.map_flags());
        assert_eq!(
            found,
            (spec.kind as u32, spec.key_size, spec.value_size, entries, spec.flags),
            "{}",
            spec.name
        );
    }

    let Some(loaded) = Loaded::load("maps", &elf) else { return };
    let shown = loaded.bpftool(&["prog", "show", "pinned", &loaded.pin("prog")]);
    let ids = shown.split("map_ids ").nth(1).unwrap().split_whitespace().next().unwrap();
    let listings: Vec<String> = ids.split(',').map(|id| loaded.bpftool(&["map", "show", "id", id])).collect();
    assert_eq!(listings.len(), maps.len());
    for spec in &maps {
        let entries = if spec.max_entries == 0 {
            elf::DEFAULT_RING_BYTES
        } else {
            spec.max_entries
        };
        let sizes = format!("key {}B  value {}B  max_entries {entries} ", spec.key_size, spec.value_size);
        assert!(
            listings
                .iter()
                .any(|l| l.contains(&format!("name {} ", spec.name)) && l.contains(&sizes)),
            "{}: {listings:?}",
            spec.name
        );
    }
}

/// Maps of the script with every type in a key or a value: the kernel checks the sizes, bpftool shows the fields.
#[test]
fn script_types_of_maps() {
    let u64 = Type::U64;
    let key = Type::Tuple(vec![
        Type::Str { cap: 16 },
        Type::Inet,
        Type::Flow,
        Type::Mac,
        Type::Prefix,
        Type::USym,
        Type::KStack {
            depth: 8,
            mode: weir_compiler::types::StackMode::Bpftrace,
        },
        Type::Buf { cap: 6 },
        Type::Bool,
        Type::Int { bits: 16, signed: true },
        Type::Enum {
            name: "e".to_owned(),
            values: Vec::new(),
        },
        Type::Array {
            elem: Box::new(Type::U32),
            len: 3,
        },
    ]);
    let record = Type::Record(vec![("bytes".to_owned(), u64.clone()), ("name".to_owned(), Type::Str { cap: 5 })]);
    let values = [
        MapValue::Plain(record.clone()),
        MapValue::Count,
        MapValue::Sum { signed: true },
        MapValue::Min { signed: false },
        MapValue::Hist { bits: 0 },
        MapValue::LHist {
            min: 0,
            max: 100,
            step: 10,
        },
    ];
    let user = |i: usize, key: Option<Type>, value: MapValue| {
        let (kind, key_size, max_entries) = match (&key, value.is_per_cpu()) {
            (None, false) => (MapKind::Array, 4, 1),
            (None, true) => (MapKind::PerCpuArray, 4, 1),
            (Some(key), false) => (MapKind::Hash, key.size(), 16),
            (Some(key), true) => (MapKind::PerCpuHash, key.size(), 16),
        };
        let value_size = value.size(key.is_none());
        let role = MapRole::User {
            name: format!("@m{i}"),
            key,
            value,
            initial: Vec::new(),
            span: Span::default(),
        };
        MapSpec {
            name: format!("m{i}"),
            kind,
            key_size,
            value_size,
            max_entries,
            flags: 0,
            role,
        }
    };
    let maps: Vec<MapSpec> = values
        .into_iter()
        .flat_map(|value| [(None, value.clone()), (Some(key.clone()), value)])
        .chain([(None, MapValue::Plain(Type::Str { cap: 3 }))])
        .enumerate()
        .map(|(i, (key, value))| user(i, key, value))
        .collect();
    let mut insns = Vec::new();
    let mut relocs = Vec::new();
    // m1[stack] = …, with a zero key and value; all other maps are only named.
    for i in 0..maps.len() {
        relocs.push(Reloc {
            insn: insns.len() as u32,
            kind: RelocKind::Map(i as u32),
        });
        insns.extend(address(1));
    }
    insns.extend([mov(0, 0), exit()]);
    let programs = [Program {
        name: "prog",
        section: "raw_tp",
        kind: ProgramKind::RunOnce,
        code: Code {
            insns: &insns,
            relocs: &relocs,
            lines: &[],
        },
    }];
    let elf = elf::write(&Input {
        programs: &programs,
        subprograms: &[],
        maps: &maps,
    })
    .unwrap();
    let parsed = aya_obj::Object::parse(&elf).unwrap();
    for spec in &maps {
        let map = &parsed.maps[&spec.name];
        assert_eq!(
            (map.key_size(), map.value_size()),
            (spec.key_size, spec.value_size),
            "{:?}",
            spec.role
        );
    }
    let Some(loaded) = Loaded::load("types", &elf) else { return };
    let shown = loaded.bpftool(&["prog", "show", "pinned", &loaded.pin("prog")]);
    let ids = shown.split("map_ids ").nth(1).unwrap().split_whitespace().next().unwrap();
    let ids: Vec<&str> = ids.split(',').collect();
    assert_eq!(ids.len(), maps.len());
    let id = |name: &str| {
        let of = |id: &&&str| loaded.bpftool(&["map", "show", "id", id]).contains(&format!("name {name} "));
        ids.iter().find(of).unwrap().to_string()
    };
    // The first, a scalar record, always has its element; bpftool reads only through the type.
    let dump = loaded.bpftool(&["map", "dump", "id", &id("m0")]);
    let words: String = dump.split_whitespace().collect();
    assert_eq!(
        words, r#"[{"key":0,"value":{"value":{"bytes":0,"name":""},"assigned":0}}]"#,
        "{dump}"
    );
    // A key of 240 bytes by its fields: the source address starts with 10.
    let mut entry = vec!["map".to_owned(), "update".to_owned(), "id".to_owned(), id("m1"), "key".to_owned()];
    let mut bytes = vec![0u8; key.size() as usize];
    bytes[..4].copy_from_slice(b"curl");
    bytes[key.field_offsets()[2] as usize] = 10;
    entry.extend(bytes.iter().map(u8::to_string));
    entry.push("value".to_owned());
    entry.extend((0..record.size()).map(|i| u8::from(i == 0).to_string()));
    loaded.bpftool(&entry.iter().map(String::as_str).collect::<Vec<_>>());
    let words: String = loaded.bpftool(&["map", "dump", "id", &id("m1")]).split_whitespace().collect();
    assert!(
        words.contains(r#""f0":"curl""#) && words.contains(r#""f2":{"saddr":[10,0"#) && words.contains(r#""bytes":1"#),
        "{words}"
    );
}

#[test]
fn aya_parses_and_relocates() {
    let elf = Sample::new().write().unwrap();
    let mut object = aya_obj::Object::parse(&elf).unwrap();
    assert_eq!(object.license.to_str(), Ok("GPL"));
    let program = &object.programs["weir_xdp_0"];
    assert!(matches!(program.section, aya_obj::ProgramSection::Xdp { frags: true, .. }));
    let key = program.function_key();
    let mut names: Vec<&str> = object.maps.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, [".rodata", "ring", "seen"]);
    let maps = object.maps.clone();
    let fd = |name: &str| match name {
        "seen" => 11,
        "ring" => 12,
        _ => 13,
    };
    let text: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
    let text = text.into_iter().collect();
    object
        .relocate_maps(maps.iter().map(|(name, map)| (name.as_str(), fd(name), map)), &text)
        .unwrap();
    object.relocate_calls(&text).unwrap();
    let linked = &object.functions[&key];
    let sample = Sample::new();
    assert_eq!(
        linked.instructions.len(),
        sample.main.0.len() + sample.callee.len() + sample.callback.len()
    );
    let loads: Vec<(u8, i32, i32)> = linked
        .instructions
        .windows(2)
        .filter(|pair| pair[0].code == 0x18)
        .map(|pair| (pair[0].src_reg(), pair[0].imm, pair[1].imm))
        .collect();
    // Source register 1: map by descriptor; 2: address in a map's value, here at byte 8; 4: address of a function.
    assert_eq!(loads[..3], [(1, 11, 0), (1, 12, 0), (2, 13, 8)]);
    assert_eq!(loads[3].0, 4);
    let call = linked.instructions.iter().position(|i| i.code == 0x85 && i.src_reg() == 1).unwrap();
    let target = (call as i32 + 1 + linked.instructions[call].imm) as usize;
    // The callee starts with `r0 = r1`.
    let first = linked.instructions[target];
    assert_eq!((first.code, first.dst_reg(), first.src_reg()), (0xbf, 0, 1));
    assert_eq!(linked.func_info.func_info.len(), 3);
    let offsets: Vec<u32> = linked.line_info.line_info.iter().map(|l| l.insn_off).collect();
    assert!(offsets.is_sorted_by(|a, b| a < b), "{offsets:?}");
    assert_eq!(offsets[0], 0);
}

fn program_with<'a>(insns: &'a [RawInsn], relocs: &'a [Reloc]) -> Program<'a> {
    Program {
        name: "prog",
        section: "xdp",
        kind: ProgramKind::Xdp,
        code: Code { insns, relocs, lines: &[] },
    }
}

#[test]
fn contradictions_are_errors() {
    let insns = [address(1)[0], address(1)[1], insn(0x85, 0, 0, 0, 0), mov(0, 0), exit()];
    let maps = [map("seen", MapKind::Hash, 8, 8, 16), rodata(&[1, 2, 3, 4])];
    let with_reloc = |insn, kind| {
        let relocs = [Reloc { insn, kind }];
        elf::write(&Input {
            programs: &[program_with(&insns, &relocs)],
            subprograms: &[],
            maps: &maps,
        })
        .map(|_| ())
    };
    assert_eq!(with_reloc(0, RelocKind::Map(0)), Ok(()));
    assert_eq!(with_reloc(0, RelocKind::Rodata(3)), Ok(()));
    for (insn, kind) in [
        (0, RelocKind::Map(2)),
        (0, RelocKind::Map(1)),
        (1, RelocKind::Map(0)),
        (2, RelocKind::Map(0)),
        (3, RelocKind::Subprog(0)),
        (2, RelocKind::Subprog(0)),
        (0, RelocKind::SubprogAddr(0)),
        (0, RelocKind::Rodata(4)),
        (9, RelocKind::Map(0)),
    ] {
        assert!(
            matches!(with_reloc(insn, kind), Err(ElfError::Relocation { .. })),
            "{insn} {kind:?}"
        );
    }
    let named = |name: &str| {
        elf::write(&Input {
            programs: &[Program {
                name,
                ..program_with(&insns, &[])
            }],
            subprograms: &[],
            maps: &maps,
        })
    };
    assert_eq!(named("seen").unwrap_err(), ElfError::DuplicateName("seen".to_owned()));
    assert_eq!(named("1st").unwrap_err(), ElfError::BadName("1st".to_owned()));
    assert_eq!(named("@x").unwrap_err(), ElfError::BadName("@x".to_owned()));
    assert_eq!(named("").unwrap_err(), ElfError::BadName(String::new()));
    let empty = elf::write(&Input {
        programs: &[program_with(&[], &[])],
        subprograms: &[],
        maps: &[],
    });
    assert_eq!(empty.unwrap_err(), ElfError::NoCode("prog".to_owned()));
    let full = elf::write(&Input {
        programs: &[program_with(&insns, &[])],
        subprograms: &[],
        maps: &[map("m", MapKind::Hash, 8, 8, 0)],
    });
    assert!(matches!(full.unwrap_err(), ElfError::Map { .. }));
}

#[test]
fn dump_is_readable() {
    let text = elf::dump(&Sample::new().write().unwrap());
    expect_test::expect![[r#"
        sections
          license: 4 bytes
          .maps: 48 bytes
          .rodata: 16 bytes
          .text: 64 bytes
          xdp.frags: 344 bytes
          .BTF: 858 bytes
          .BTF.ext: 160 bytes
          .symtab: 192 bytes
          .strtab: 59 bytes
          .shstrtab: 83 bytes
        maps
          .rodata: weir_rodata, 16 bytes at 0
          seen: hash, key 8 bytes (unsigned long), value 8 bytes (unsigned long), max 16
          ring: ringbuf, max 65536
        programs
          weir_xdp_0 (xdp.frags): 43 instructions
            3: map seen
            11: map ring
            24: .rodata + 8
            28: address of callback
            36: call callee
        subprograms
          callee (.text): 3 instructions
          callback (.text): 5 instructions
    "#]]
    .assert_eq(&text);
}

#[test]
fn dump_of_damaged_objects_does_not_panic() {
    let good = Sample::new().write().unwrap();
    assert!(elf::dump(b"text").starts_with("not a little-endian 64-bit ELF object"));
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x5a;
        let _ = elf::dump(&bad);
        if at % 7 == 0 {
            let _ = elf::dump(&good[..at]);
        }
    }
}
