//! What will be in the kernel: maps, programs, attach points.
//!
//! Input: [`hir::Program`]. Output: [`Plan`]. The code generator adds what only it knows: event formats, counters,
//! sizes of working memory. Not here: code.

use crate::card;
use crate::hir::{self, MapValueTy, is_glob};
use crate::kernel::{Feature, KernelInfo, Support};
use crate::native_maps;
use crate::object::{
    Attach, AttachPoint, Card, CounterSpec, Device, Direction, EventSpec, MapKind, MapRole, MapSpec, NativeInstance, ProgramKind,
};
use crate::overlap;
use crate::tables::{Hook, IFNAME_BYTES};
use crate::types::MapValue;
use std::collections::HashMap;
use std::fmt::Write;
use weir_parser::{Diagnostic, Span};

#[derive(Debug, Default)]
pub struct Plan {
    /// The script's maps first, in the order of [`hir::Program::maps`].
    pub maps: Vec<MapSpec>,
    pub programs: Vec<Program>,
    pub events: Vec<EventSpec>,
    pub counters: Vec<CounterSpec>,
    /// Index of the ring buffer among the maps, once anything needs it.
    pub ring: Option<usize>,
    pub counter_map: Option<usize>,
    /// The counters of programs in a card.
    pub card_counter_map: Option<usize>,
    pub heartbeat: Option<usize>,
    pub card: Option<Card>,
    /// What the script asks of a card that no card has.
    pub refused: Vec<Diagnostic>,
    pub max_map_keys: u32,
    /// Maps by name, the first `named` of them.
    map_numbers: HashMap<String, usize>,
    named: usize,
    /// Counters by what they count; of a map that is full only the map matters.
    counter_numbers: HashMap<CounterSpec, usize>,
}

#[derive(Debug)]
pub struct Program {
    /// Symbol in the object.
    pub name: String,
    pub section: String,
    pub kind: ProgramKind,
    pub hook: Hook,
    pub attach: Vec<Attach>,
    /// The network namespace of the interfaces whose packets it sees, as the script names it.
    pub netns: Option<String>,
    /// Indices into [`hir::Program::blocks`], in script order.
    pub blocks: Vec<usize>,
    pub span: Span,
}

/// Ring buffer of a script that cannot send often, in bytes.
const QUIET_RING_BYTES: u32 = 256 * 1024;

/// Entries of the map of interface names.
const MAX_INTERFACES: u32 = 4096;

/// `BPF_F_NO_PREALLOC`
pub const NO_PREALLOC: u32 = 1;

/// Decides maps and programs. What is not `owned` by a running weir has no heartbeat: it is for whoever loads the object.
#[must_use]
pub fn plan(program: &hir::Program, kernel: &dyn KernelInfo, owned: bool) -> Plan {
    let mut plan = Plan {
        max_map_keys: program.config.max_map_keys,
        ..Plan::default()
    };
    plan.card = card::of(program, &mut plan.refused);
    let in_card = |map: usize| plan.card.as_ref().is_some_and(|c| c.maps.contains(&map));
    let maps = program.maps.iter().enumerate().map(|(i, map)| match map.copy {
        Some(copy) => copy_of_native(map, copy, &program.natives),
        None => user_map(map, program.config.max_map_keys, in_card(i)),
    });
    plan.maps = maps.collect();
    // Blocks that share a hook on an interface become one program; every other block is one of its own.
    let mut shared: Vec<(Attach, Vec<usize>)> = Vec::new();
    for (index, block) in program.blocks.iter().enumerate() {
        let shares = block.hook.has_verdict();
        if !shares {
            plan.add_program(program, kernel, vec![index], block.attach.clone());
            continue;
        }
        for attach in &block.attach {
            match shared.iter_mut().find(|(a, _)| one_place(&a.point, &attach.point, kernel)) {
                // Two names of one place stand in one block, where names do not count.
                Some((_, blocks)) if blocks.last() == Some(&index) => {}
                Some((_, blocks)) => blocks.push(index),
                None => shared.push((attach.clone(), vec![index])),
            }
        }
    }
    let shared = taken_apart(&shared);
    let mut groups: Vec<(Vec<usize>, Vec<Attach>)> = Vec::new();
    for (attach, blocks) in shared {
        match groups
            .iter_mut()
            .find(|(b, a)| *b == blocks && same_kind(&a[0].point, &attach.point))
        {
            Some((_, attaches)) => attaches.push(attach),
            None => groups.push((blocks, vec![attach])),
        }
    }
    for (blocks, attach) in groups {
        plan.add_program(program, kernel, blocks, attach);
    }
    let tc = plan.programs.iter().any(|p| p.kind == ProgramKind::SchedCls);
    if owned && tc && kernel.feature(Feature::Tcx) != Support::Yes {
        plan.maps.push(MapSpec {
            name: "weir_heartbeat".to_owned(),
            kind: MapKind::Array,
            key_size: 4,
            value_size: 8,
            max_entries: 1,
            flags: 0,
            role: MapRole::Heartbeat,
        });
        plan.heartbeat = Some(plan.maps.len() - 1);
    }
    plan
}

/// Whether both are the same place. For packets of a file every interface is.
fn one_place(a: &AttachPoint, b: &AttachPoint, kernel: &dyn KernelInfo) -> bool {
    if !kernel.any_interface() {
        return a == b;
    }
    match (a, b) {
        (AttachPoint::Xdp { iface: x, .. }, AttachPoint::Xdp { iface: y, .. }) => x.link_layer == y.link_layer,
        (AttachPoint::Tc { iface: x, direction: d }, AttachPoint::Tc { iface: y, direction: e }) => d == e && x.link_layer == y.link_layer,
        _ => a == b,
    }
}

/// Takes patterns apart where they overlap: a place gets one program, with the blocks of all patterns that name it.
fn taken_apart(shared: &[(Attach, Vec<usize>)]) -> Vec<(Attach, Vec<usize>)> {
    let mut out = Vec::new();
    for (i, (attach, _)) in shared.iter().enumerate() {
        let rivals: Vec<usize> = (0..shared.len())
            .filter(|j| *j == i || same_hook(&shared[*j].0.point, &attach.point))
            .collect();
        let patterns: Vec<&str> = rivals
            .iter()
            .filter_map(|j| shared[*j].0.point.pattern().map(|(_, pattern)| pattern))
            .collect();
        let (Some((names, _)), true) = (attach.point.pattern(), patterns.len() == rivals.len()) else {
            out.push(shared[i].clone());
            continue;
        };
        let Some(at) = rivals.iter().position(|j| *j == i) else { continue };
        for part in overlap::parts(names, &patterns, at) {
            let mut attach = attach.clone();
            let named = |which: &[usize]| which.iter().map(|j| patterns[*j].to_owned()).collect();
            if let Some(overlap) = attach.point.overlap_mut()
                && is_glob(patterns[at])
            {
                overlap.also = named(&part.also);
                overlap.except = named(&part.except);
            }
            let mut blocks: Vec<usize> = part
                .also
                .iter()
                .chain([&at])
                .flat_map(|j| shared[rivals[*j]].1.iter().copied())
                .collect();
            blocks.sort_unstable();
            blocks.dedup();
            out.push((attach, blocks));
        }
    }
    out
}

/// Whether both are one hook of the places that they name.
pub(crate) fn same_hook(a: &AttachPoint, b: &AttachPoint) -> bool {
    match (a, b) {
        (AttachPoint::Xdp { mode: m, .. }, AttachPoint::Xdp { mode: n, .. }) => m == n && same_kind(a, b),
        (AttachPoint::NativeEvent { .. }, _) => false,
        _ => same_kind(a, b),
    }
}

/// Whether one program can serve both: a native's event belongs to its own instance.
fn same_kind(a: &AttachPoint, b: &AttachPoint) -> bool {
    match (a, b) {
        // What a program sends packets to has its number in one network namespace; and what is in a card is nowhere else.
        (AttachPoint::Xdp { iface: x, .. }, AttachPoint::Xdp { iface: y, .. }) => {
            x.link_layer == y.link_layer && x.netns == y.netns && a.is_in_card() == b.is_in_card()
        }
        (AttachPoint::Tc { iface: x, direction: d }, AttachPoint::Tc { iface: y, direction: e }) => {
            d == e && x.link_layer == y.link_layer && x.netns == y.netns
        }
        (AttachPoint::CgroupSkb { direction: x, .. }, AttachPoint::CgroupSkb { direction: y, .. }) => x == y,
        (AttachPoint::Cgroup { hook: x, .. }, AttachPoint::Cgroup { hook: y, .. }) => x == y,
        _ => false,
    }
}

/// What programs see of a native's map. Few of them are full: memory is taken by what is there.
fn copy_of_native(map: &hir::Map, copy: hir::Copied, natives: &[NativeInstance]) -> MapSpec {
    let native = &natives[copy.instance];
    let decl = &native.native.maps[copy.map];
    let (key, value) = (native_maps::key_type(decl.shape), native_maps::value_type(decl.shape));
    debug_assert_eq!(map.key.as_ref().and_then(hir::Ty::stored).as_ref(), Some(&key));
    MapSpec {
        name: format!("copy{}_{}{}", copy.instance, decl.name, if copy.lpm { "_lpm" } else { "" }),
        kind: if copy.lpm { MapKind::LpmTrie } else { MapKind::Hash },
        key_size: key.size(),
        value_size: value.size().next_multiple_of(8),
        max_entries: native_maps::room(native, decl),
        flags: NO_PREALLOC,
        role: MapRole::Copy {
            instance: copy.instance,
            map: copy.map,
            key,
            value: MapValue::Plain(value),
        },
    }
}

fn user_map(map: &hir::Map, max_map_keys: u32, in_card: bool) -> MapSpec {
    let scalar = map.key.is_none();
    let key = map.key.as_ref().and_then(hir::Ty::stored);
    let value = match &map.value {
        MapValueTy::Plain(ty) => MapValue::Plain(ty.stored().unwrap_or(crate::types::Type::I64)),
        MapValueTy::Agg(agg) => agg.clone(),
    };
    let lru = map
        .declared
        .is_some_and(|d| matches!(d.kind, hir::DeclaredKind::LruHash | hir::DeclaredKind::PerCpuLruHash));
    // What is counted is counted for each CPU, whatever word declared the map. A card has none of ours, and adds atomically.
    let per_cpu_by_word = map.declared.is_some_and(|d| d.kind.is_per_cpu());
    let per_cpu = value.is_per_cpu() && (!in_card || per_cpu_by_word);
    let kind = match (scalar, per_cpu, lru) {
        (true, false, _) => MapKind::Array,
        (true, true, _) => MapKind::PerCpuArray,
        (false, false, false) => MapKind::Hash,
        (false, true, false) => MapKind::PerCpuHash,
        (false, false, true) => MapKind::LruHash,
        (false, true, true) => MapKind::LruPerCpuHash,
    };
    let lpm = map.declared.is_some_and(|d| d.kind == hir::DeclaredKind::Lpm) && !scalar;
    let kind = if lpm { MapKind::LpmTrie } else { kind };
    // Plain values are written in whole words.
    let value_size = value.size(scalar).next_multiple_of(8);
    MapSpec {
        name: format!("AT_{}", map.name.trim_start_matches('@')),
        kind,
        key_size: key.as_ref().map_or(4, crate::types::Type::size),
        value_size,
        max_entries: if scalar {
            1
        } else {
            map.declared.map_or(max_map_keys, |d| d.max_entries)
        },
        flags: if lpm { NO_PREALLOC } else { 0 },
        role: MapRole::User {
            name: map.name.clone(),
            key,
            value,
            initial: map.initial.clone(),
            span: map.span,
        },
    }
}

impl Plan {
    fn add_program(&mut self, program: &hir::Program, kernel: &dyn KernelInfo, blocks: Vec<usize>, mut attach: Vec<Attach>) {
        let Some(&first) = blocks.first() else { return };
        let block = &program.blocks[first];
        if hir::visit::names_map(block, &|map| program.maps[map].copy.is_some()) {
            for attach in &mut attach {
                if let AttachPoint::Interval { period } = attach.point {
                    attach.point = AttachPoint::Timer { period };
                }
            }
        }
        let number = self.programs.len();
        let point = &attach[0].point;
        let many = attach.len() > 1 && kernel.feature(Feature::KprobeMulti) == Support::Yes;
        let at_entry = |a: &Attach| matches!(a.point, AttachPoint::Kprobe { offset: 0, .. });
        let (kind, word) = match point {
            AttachPoint::Begin => (ProgramKind::RunOnce, "begin".to_owned()),
            AttachPoint::End => (ProgramKind::RunOnce, "end".to_owned()),
            AttachPoint::Signal { .. } => (ProgramKind::RunOnce, "signal".to_owned()),
            AttachPoint::Timer { .. } => (ProgramKind::RunOnce, "interval".to_owned()),
            AttachPoint::Interval { .. } => (ProgramKind::PerfEvent, "interval".to_owned()),
            AttachPoint::Profile { .. } => (ProgramKind::PerfEvent, "profile".to_owned()),
            AttachPoint::Counter { event, .. } => (ProgramKind::PerfEvent, event.clone()),
            AttachPoint::Watchpoint { .. } => (ProgramKind::PerfEvent, "watchpoint".to_owned()),
            AttachPoint::Tracepoint { name, .. } => (ProgramKind::Tracepoint, name.clone()),
            AttachPoint::RawTracepoint { name } => (ProgramKind::RawTracepoint, name.clone()),
            AttachPoint::Kprobe { function, .. } if many && attach.iter().all(at_entry) => (ProgramKind::KprobeMulti, function.clone()),
            AttachPoint::Kprobe { function, .. } => (ProgramKind::Kprobe, function.clone()),
            AttachPoint::Fentry { function, ret: false, .. } => (ProgramKind::Fentry, function.clone()),
            AttachPoint::Fentry { function, ret: true, .. } => (ProgramKind::Fexit, function.clone()),
            AttachPoint::Uprobe { function, .. } => (ProgramKind::Uprobe, function.clone()),
            AttachPoint::Usdt { name, .. } => (ProgramKind::Uprobe, name.clone()),
            AttachPoint::Iter { kind, .. } => (ProgramKind::Iter, kind.clone()),
            AttachPoint::Xdp { .. } => (ProgramKind::Xdp, "xdp".to_owned()),
            AttachPoint::Tc { direction, .. } => (
                ProgramKind::SchedCls,
                if *direction == Direction::Ingress { "ingress" } else { "egress" }.to_owned(),
            ),
            AttachPoint::CgroupSkb { direction, .. } => {
                let word = if *direction == Direction::Ingress { "ingress" } else { "egress" };
                (ProgramKind::CgroupSkb(*direction), word.to_owned())
            }
            AttachPoint::Cgroup { hook, .. } => (ProgramKind::of_cgroup(hook), hook.name.to_owned()),
            AttachPoint::NativeEvent { instance, event, .. } => {
                let native = &program.natives[*instance];
                let word = format!("{}_{}", native.alias, native.native.events[*event].name);
                let kind = match native.event_hook(*event) {
                    weir_stdlib::Hook::Xdp => ProgramKind::NativeEventXdp,
                    weir_stdlib::Hook::Tc => ProgramKind::NativeEventTc,
                    weir_stdlib::Hook::Trace => ProgramKind::NativeEventTrace,
                };
                (kind, word)
            }
        };
        let netns = match point {
            AttachPoint::NativeEvent { instance, .. } => program.natives[*instance].iface().and_then(|i| i.netns),
            point => point.iface().and_then(|i| i.netns.clone()),
        };
        let section = crate::elf::section_name(kind, point, true);
        let clean: String = word
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' })
            .collect();
        self.programs.push(Program {
            name: format!("w{number}_{clean}"),
            section,
            kind,
            hook: block.hook,
            attach,
            netns,
            blocks,
            span: block.span,
        });
    }

    /// Adds a map, or returns the one of that name.
    pub fn map(&mut self, spec: MapSpec) -> usize {
        match self.map_number(&spec.name) {
            Some(index) => index,
            None => {
                self.maps.push(spec);
                self.maps.len() - 1
            }
        }
    }

    /// Finds a map by its name.
    pub fn map_number(&mut self, name: &str) -> Option<usize> {
        for (index, map) in self.maps.iter().enumerate().skip(self.named) {
            // Of several of one name the first.
            self.map_numbers.entry(map.name.clone()).or_insert(index);
        }
        self.named = self.maps.len();
        self.map_numbers.get(name).copied()
    }

    /// Returns the ring buffer, made at its first use. A small one is enough while only blocks that run at most on an interval
    /// send anything; with a `busy` sender the runtime takes what memory allows.
    pub fn ring(&mut self, busy: bool) -> usize {
        if let Some(ring) = self.ring {
            if busy {
                self.maps[ring].max_entries = 0;
            }
            return ring;
        }
        let spec = MapSpec {
            name: "weir_ring".to_owned(),
            kind: MapKind::RingBuf,
            key_size: 0,
            value_size: 0,
            max_entries: if busy { 0 } else { QUIET_RING_BYTES },
            flags: 0,
            role: MapRole::Ring,
        };
        let index = self.map(spec);
        self.ring = Some(index);
        index
    }

    /// Returns the map of counters, which for programs in a card is one of their own, and the number of this counter in it.
    pub fn counter(&mut self, counter: CounterSpec, in_card: bool) -> (usize, usize) {
        let (known, name, kind) = if in_card {
            (self.card_counter_map, "weir_card_counts", MapKind::Array)
        } else {
            (self.counter_map, "weir_counters", MapKind::PerCpuArray)
        };
        let map = known.unwrap_or_else(|| {
            self.map(MapSpec {
                name: name.to_owned(),
                kind,
                key_size: 4,
                value_size: 8,
                max_entries: 1,
                flags: 0,
                role: MapRole::Counters,
            })
        });
        if in_card {
            self.card_counter_map = Some(map);
        } else {
            self.counter_map = Some(map);
        }
        let key = match &counter {
            CounterSpec::MapFull { map, .. } => CounterSpec::MapFull {
                map: *map,
                span: Span::default(),
            },
            other => other.clone(),
        };
        let number = *self.counter_numbers.entry(key).or_insert_with(|| {
            self.counters.push(counter);
            self.counters.len() - 1
        });
        for map in [self.counter_map, self.card_counter_map].into_iter().flatten() {
            self.maps[map].max_entries = u32::try_from(self.counters.len()).unwrap_or(1);
        }
        (map, number)
    }

    /// Returns the map with the names of a program's interfaces.
    pub fn interfaces(&mut self, program: usize) -> usize {
        let netns = self.programs[program].netns.clone();
        let known = |m: &MapSpec| matches!(&m.role, MapRole::Interfaces { netns: n } if *n == netns);
        if let Some(index) = self.maps.iter().position(known) {
            return index;
        }
        let others = self.maps.iter().filter(|m| matches!(m.role, MapRole::Interfaces { .. })).count();
        self.map(MapSpec {
            name: match others {
                0 => "weir_interfaces".to_owned(),
                n => format!("weir_interfaces{n}"),
            },
            kind: MapKind::Hash,
            key_size: 4,
            value_size: IFNAME_BYTES,
            max_entries: MAX_INTERFACES,
            flags: 0,
            role: MapRole::Interfaces { netns },
        })
    }

    /// Returns the map of devices and the number in it of the one that a program sends packets to.
    pub fn device(&mut self, program: usize, name: &str, span: Span) -> (usize, usize) {
        let netns = self.programs[program].netns.clone();
        let map = self.map(MapSpec {
            name: "weir_devices".to_owned(),
            kind: MapKind::Array,
            key_size: 4,
            value_size: 8,
            max_entries: 1,
            flags: 0,
            role: MapRole::Devices { devices: Vec::new() },
        });
        let spec = &mut self.maps[map];
        let MapRole::Devices { devices } = &mut spec.role else {
            return (map, 0);
        };
        let number = match devices.iter().position(|d| d.name == name && d.netns == netns) {
            Some(number) => number,
            None => {
                devices.push(Device {
                    name: name.to_owned(),
                    netns,
                    span,
                });
                devices.len() - 1
            }
        };
        spec.max_entries = u32::try_from(devices.len()).unwrap_or(1);
        (map, number)
    }

    /// Returns the stand-in for a map of a native.
    pub fn native_map(&mut self, instance: usize, name: &str, kind: MapKind, key_size: u32, value_size: u32, max_entries: u32) -> usize {
        self.map(MapSpec {
            name: format!("native{instance}_{name}"),
            kind,
            key_size,
            value_size,
            max_entries,
            flags: 0,
            role: MapRole::Native {
                instance,
                map: name.to_owned(),
            },
        })
    }
}

/// Text form, for `-d plan`.
#[must_use]
pub fn dump(plan: &Plan) -> String {
    let mut out = String::new();
    for (i, map) in plan.maps.iter().enumerate() {
        let kind = format!("{:?}", map.kind).to_lowercase();
        write!(
            out,
            "map {i} {} {kind} key {} value {} entries {}",
            map.name, map.key_size, map.value_size, map.max_entries
        )
        .ok();
        match &map.role {
            MapRole::User { name, key, value, .. } => match key {
                Some(key) => writeln!(out, "  # {name}[{key}]: {value}").ok(),
                None => writeln!(out, "  # {name}: {value}").ok(),
            },
            other => writeln!(
                out,
                "  # {}",
                format!("{other:?}").split([' ', '{']).next().unwrap_or_default().to_lowercase()
            )
            .ok(),
        };
    }
    for (i, program) in plan.programs.iter().enumerate() {
        let blocks: Vec<String> = program.blocks.iter().map(ToString::to_string).collect();
        writeln!(
            out,
            "program {i} {} section {} blocks {}",
            program.name,
            program.section,
            blocks.join(" ")
        )
        .ok();
        for attach in &program.attach {
            writeln!(out, "  attach {:?}", attach.point).ok();
        }
    }
    for (i, event) in plan.events.iter().enumerate() {
        writeln!(out, "event {i} {} bytes {:?}", event.size, event.action).ok();
    }
    for (i, counter) in plan.counters.iter().enumerate() {
        match counter {
            CounterSpec::LostEvents => writeln!(out, "counter {i} lost events"),
            CounterSpec::LostCaptures => writeln!(out, "counter {i} lost captures"),
            CounterSpec::MapFull { map, .. } => writeln!(out, "counter {i} map {map} full"),
            CounterSpec::NoMetadata { .. } => writeln!(out, "counter {i} no metadata"),
            CounterSpec::NoDevice { device, .. } => writeln!(out, "counter {i} no device {device}"),
            CounterSpec::Limited { .. } => writeln!(out, "counter {i} limited"),
            CounterSpec::ScratchExhausted => writeln!(out, "counter {i} no working memory"),
        }
        .ok();
    }
    out
}
