//! Hand-assembled objects, network namespaces that clean up after themselves, and captured output.

#![allow(dead_code, clippy::unwrap_used)] // Each test file uses its part; a panic is the failure.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use weir_compiler::elf::{self, Code, Input, Line, RawInsn, Reloc, RelocKind};
use weir_compiler::object::{
    Attach, AttachPoint, Config, CounterSpec, EventAction, EventSpec, FormatPart, MapKind, MapRole, MapSpec, NativeInstance, Object,
    ProgramKind, ProgramSpec,
};
use weir_compiler::types::{MapValue, Type};
use weir_parser::Span;
use weir_runtime::{Notice, Options, Output, OutputFormat};

pub fn insn(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> RawInsn {
    let mut raw = [0; 8];
    raw[0] = code;
    raw[1] = src << 4 | dst;
    raw[2..4].copy_from_slice(&off.to_le_bytes());
    raw[4..8].copy_from_slice(&imm.to_le_bytes());
    raw
}

/// A program under construction.
#[derive(Clone, Default)]
pub struct Asm {
    pub insns: Vec<RawInsn>,
    pub relocs: Vec<Reloc>,
}

impl Asm {
    pub fn push(mut self, code: u8, dst: u8, src: u8, off: i16, imm: i32) -> Self {
        self.insns.push(insn(code, dst, src, off, imm));
        self
    }

    pub fn mov(self, dst: u8, imm: i32) -> Self {
        self.push(0xb7, dst, 0, 0, imm)
    }

    /// `dst = map`
    pub fn map(mut self, dst: u8, map: u32) -> Self {
        self.relocs.push(Reloc {
            insn: self.insns.len() as u32,
            kind: RelocKind::Map(map),
        });
        self.insns.push(insn(0x18, dst, 0, 0, 0));
        self.insns.push([0; 8]);
        self
    }

    pub fn call(self, helper: i32) -> Self {
        self.push(0x85, 0, 0, 0, helper)
    }

    /// Sends a record (id, then 64-bit words) to the ring buffer in map `ring`.
    pub fn emit(mut self, ring: u32, id: i32, words: &[i32]) -> Self {
        let size = 8 + 8 * words.len() as i16;
        self = self.push(0x7a, 10, 0, -size, id);
        for (i, word) in words.iter().enumerate() {
            self = self.push(0x7a, 10, 0, -size + 8 + 8 * i as i16, *word);
        }
        self.map(1, ring)
            .push(0xbf, 2, 10, 0, 0)
            .push(0x07, 2, 0, 0, -i32::from(size))
            .mov(3, i32::from(size))
            .mov(4, 0)
            .call(130)
    }

    /// Adds 1 to the first word of element 0 of an array map.
    pub fn count(self, map: u32) -> Self {
        self.push(0x62, 10, 0, -4, 0)
            .map(1, map)
            .push(0xbf, 2, 10, 0, 0)
            .push(0x07, 2, 0, 0, -4)
            .call(1)
            // if r0 == 0 skip 2; r1 = 1; *(r0) += r1
            .push(0x15, 0, 0, 2, 0)
            .mov(1, 1)
            .push(0xdb, 0, 1, 0, 0)
    }

    pub fn ret(self, value: i32) -> Self {
        self.mov(0, value).push(0x95, 0, 0, 0, 0)
    }
}

pub fn span() -> Span {
    Span::default()
}

#[derive(Default)]
pub struct Builder {
    programs: Vec<(ProgramSpec, Asm)>,
    maps: Vec<MapSpec>,
    events: Vec<EventSpec>,
    counters: Vec<CounterSpec>,
    natives: Vec<NativeInstance>,
}

impl Builder {
    pub fn program(mut self, kind: ProgramKind, points: &[AttachPoint], asm: Asm) -> Self {
        let name = format!("p{}", self.programs.len());
        let section = elf::section_name(kind, &points[0], true);
        let attach = points
            .iter()
            .map(|point| Attach {
                point: point.clone(),
                span: span(),
            })
            .collect();
        self.programs.push((
            ProgramSpec {
                name,
                section,
                kind,
                attach,
                instructions: asm.insns.len() as u32,
                span: span(),
            },
            asm,
        ));
        self
    }

    fn map(mut self, name: &str, kind: MapKind, sizes: (u32, u32, u32), role: MapRole) -> Self {
        let (key_size, value_size, max_entries) = sizes;
        self.maps.push(MapSpec {
            name: name.to_owned(),
            kind,
            key_size,
            value_size,
            max_entries,
            flags: 0,
            role,
        });
        self
    }

    pub fn ring(self) -> Self {
        self.map("ring", MapKind::RingBuf, (0, 0, 0), MapRole::Ring)
    }

    /// A scalar `@name = count()`.
    pub fn count(self, name: &str) -> Self {
        let role = MapRole::User {
            name: name.to_owned(),
            key: None,
            value: MapValue::Count,
            initial: Vec::new(),
            span: span(),
        };
        self.map(&format!("AT_{name}"), MapKind::PerCpuArray, (4, 8, 1), role)
    }

    pub fn counters(mut self, counters: &[CounterSpec]) -> Self {
        self.counters = counters.to_vec();
        self.map("counters", MapKind::PerCpuArray, (4, 8, counters.len() as u32), MapRole::Counters)
    }

    pub fn heartbeat(self) -> Self {
        self.map("heartbeat", MapKind::Array, (4, 8, 1), MapRole::Heartbeat)
    }

    pub fn native_map(self, instance: usize, symbol: &str, kind: MapKind, sizes: (u32, u32, u32)) -> Self {
        self.map(
            symbol,
            kind,
            sizes,
            MapRole::Native {
                instance,
                map: symbol.to_owned(),
            },
        )
    }

    pub fn native(mut self, native: NativeInstance) -> Self {
        self.natives.push(native);
        self
    }

    pub fn event(mut self, action: EventAction, size: u32) -> Self {
        self.events.push(EventSpec {
            action,
            size,
            span: span(),
        });
        self
    }

    pub fn printf(self, text: &str) -> Self {
        self.event(
            EventAction::Printf {
                format: vec![FormatPart::Text(text.to_owned())],
                args: vec![],
            },
            8,
        )
    }

    pub fn exit(self) -> Self {
        self.event(EventAction::Exit { code: None }, 8)
    }

    pub fn build(self) -> Object {
        let line = [Line {
            insn: 0,
            file: "test.weir",
            text: "the only line",
            line: 1,
            col: 1,
        }];
        let programs: Vec<_> = self
            .programs
            .iter()
            .map(|(spec, asm)| elf::Program {
                name: &spec.name,
                section: &spec.section,
                kind: spec.kind,
                code: Code {
                    insns: &asm.insns,
                    relocs: &asm.relocs,
                    lines: &line,
                },
            })
            .collect();
        let elf = elf::write(&Input {
            programs: &programs,
            subprograms: &[],
            maps: &self.maps,
        })
        .unwrap();
        Object {
            card: None,
            imports: Vec::new(),
            elf,
            programs: self.programs.into_iter().map(|(spec, _)| spec).collect(),
            maps: self.maps,
            events: self.events,
            counters: self.counters,
            natives: self.natives,
            config: Config::default(),
        }
    }
}

pub fn int_field(offset: u32) -> weir_compiler::object::EventField {
    weir_compiler::object::EventField { offset, ty: Type::I64 }
}

/// Arguments that make the test binary run the test `reaper_entry` alone.
pub const REAPER: [&str; 3] = ["--exact", "reaper_entry", "--nocapture"];

/// A file for output, removed in the end, and the notices of a run.
pub struct Capture {
    pub path: PathBuf,
    pub notices: Arc<Mutex<Vec<String>>>,
}

static NEXT: AtomicU32 = AtomicU32::new(0);

impl Capture {
    pub fn new() -> Self {
        let name = format!("weir-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Self {
            path: std::env::temp_dir().join(name),
            notices: Arc::default(),
        }
    }

    pub fn options(&self, format: OutputFormat) -> Options {
        let notices = Arc::clone(&self.notices);
        Options {
            output: Output::File(self.path.clone()),
            reaper_args: REAPER.map(Into::into).to_vec(),
            format,
            observer: Arc::new(move |n: &Notice| notices.lock().unwrap().push(n.to_string())),
            ..Options::default()
        }
    }

    pub fn text(&self) -> String {
        std::fs::read_to_string(&self.path).unwrap()
    }

    pub fn notices(&self) -> Vec<String> {
        self.notices.lock().unwrap().clone()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Runs a command that must succeed.
pub fn run(command: &str) -> String {
    let mut words = command.split_whitespace();
    let out = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(out.status.success(), "{command}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// Two network namespaces joined by a veth pair: `va` (10.77.0.1) in `NAMEa`, `vb` (10.77.0.2) in `NAMEb`.
pub struct Net {
    pub a: String,
    pub b: String,
}

impl Net {
    pub fn new() -> Self {
        let id = format!("weirt{}x{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let net = Self {
            a: format!("{id}a"),
            b: format!("{id}b"),
        };
        run(&format!("ip netns add {}", net.a));
        run(&format!("ip netns add {}", net.b));
        run(&format!("ip -n {} link add name va type veth peer name vb netns {}", net.a, net.b));
        for (ns, dev, addr) in [(&net.a, "va", "10.77.0.1"), (&net.b, "vb", "10.77.0.2")] {
            run(&format!("ip -n {ns} addr add {addr}/24 dev {dev}"));
            run(&format!("ip -n {ns} link set {dev} up"));
            run(&format!("ip -n {ns} link set lo up"));
        }
        net
    }

    /// Sends UDP datagrams from `vb` to `va`; each is one packet.
    pub fn send(&self, count: usize) {
        let netns = weir_runtime::sys::netns::Netns::open(&self.b).unwrap();
        netns
            .run(|| {
                let socket = std::net::UdpSocket::bind("10.77.0.2:0").unwrap();
                for _ in 0..count {
                    socket.send_to(b"hello", "10.77.0.1:9").unwrap();
                }
            })
            .unwrap();
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for ns in [&self.a, &self.b] {
            let _ = Command::new("ip").args(["netns", "del", ns]).output();
        }
    }
}

/// Everything of ours that the kernel still has: programs by the names that [`Builder`] gives are too common, so ids of all.
pub fn prog_ids() -> Vec<String> {
    let text = run("bpftool prog show");
    text.lines()
        .filter_map(|l| l.split_once(": ").filter(|(id, _)| id.bytes().all(|b| b.is_ascii_digit())))
        .map(|(id, _)| id.to_owned())
        .collect()
}

/// Whether tests may touch the kernel; says so when not.
pub fn root() -> bool {
    // SAFETY: geteuid has no arguments and cannot fail.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        eprintln!("skipped: needs root");
    }
    root
}
