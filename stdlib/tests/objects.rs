//! What the declarations say about an object is in that object.

#![allow(clippy::unwrap_used, reason = "a failed test may panic; its helpers too")]

use aya_obj::{Map, Object, ProgramSection};
use weir_ebpf_builtins::blocklist as object;
use weir_stdlib::blocklist::{BLOCKLIST, MAX_DEFAULT, MAX_HITS_DEFAULT, STATS};
use weir_stdlib::decl::{EventVarType, ParamType};
use weir_stdlib::{Attach, MapShape, NATIVES, Native, ValueShape};

/// The object of each native; a native without a line here fails every test.
fn object_of(native: &Native) -> Object {
    let bytes = match native.name {
        "blocklist" => &object::OBJECT[..],
        "flows" => &weir_ebpf_builtins::flows::OBJECT[..],
        "identity" => &weir_ebpf_builtins::identity::OBJECT[..],
        "retransmits" => &weir_ebpf_builtins::retransmits::OBJECT[..],
        other => panic!("no object for `{other}`"),
    };
    Object::parse(bytes).unwrap()
}

#[test]
fn every_map_is_there_and_has_its_shape() {
    for native in NATIVES {
        let object = object_of(native);
        for map in native.maps {
            let made_by_the_runtime = matches!(map.shape, MapShape::Known(_) | MapShape::Table { .. });
            assert_eq!(map.symbols.is_empty(), made_by_the_runtime, "{}", map.name);
            for symbol in map.symbols {
                let found: &Map = object
                    .maps
                    .get(*symbol)
                    .unwrap_or_else(|| panic!("{}: no map {symbol}", native.name));
                match map.shape {
                    MapShape::ByPrefix(ValueShape::PacketsBytes) => {
                        assert!(matches!((found.key_size(), found.value_size()), (8 | 20, 16)), "{symbol}");
                    }
                    MapShape::Counters(names) => {
                        assert_eq!((found.key_size(), found.value_size()), (4, 8), "{symbol}");
                        // There may be more that are shown as a part of one.
                        assert!(found.max_entries() as usize >= names.len(), "{symbol}");
                    }
                    MapShape::Known(_) | MapShape::Table { .. } => panic!("{symbol} belongs to a map that only the runtime knows"),
                }
            }
        }
    }
}

#[test]
fn every_program_is_there() {
    for native in NATIVES {
        let object = object_of(native);
        for program in native.programs {
            let section = &object
                .programs
                .get(program.symbol)
                .unwrap_or_else(|| panic!("{}: no program {}", native.name, program.symbol))
                .section;
            let fits = match program.attach {
                Attach::Xdp => matches!(section, ProgramSection::Xdp { frags: true, .. }),
                Attach::TcIngress | Attach::TcEgress => matches!(section, ProgramSection::SchedClassifier),
                Attach::Cgroup("sock_create" | "sock_release") => matches!(section, ProgramSection::CgroupSock { .. }),
                Attach::Cgroup(_) => matches!(section, ProgramSection::CgroupSockAddr { .. }),
                Attach::CgroupSetsockopt => matches!(section, ProgramSection::CgroupSockopt { .. }),
                Attach::RawTracepoint(_) => matches!(section, ProgramSection::RawTracePoint),
                Attach::Iter(_) => matches!(section, ProgramSection::Iter { .. }),
            };
            assert!(fits, "{} {}: {section:?}", native.name, program.symbol);
        }
    }
}

#[test]
fn every_event_has_a_slot_and_its_variables_a_place() {
    for native in NATIVES {
        let object = object_of(native);
        let mut slots: Vec<u32> = native.events.iter().map(|e| e.slot).collect();
        slots.sort_unstable();
        assert_eq!(
            slots,
            (0..object.maps["EVENTS"].max_entries()).collect::<Vec<u32>>(),
            "{}",
            native.name
        );
        assert_eq!(object.maps["EVENT"].value_size(), native.event_size, "{}", native.name);
        assert_eq!(object.maps["EVENT"].max_entries(), native.records(), "{}", native.name);
        assert_eq!(object.maps.get("CHAIN").map(Map::max_entries), native.is_on_xdp().then_some(1));
        for var in native.events.iter().flat_map(|e| e.vars) {
            let (size, align) = match var.ty {
                EventVarType::U32 => (4, 4),
                EventVarType::U64 => (8, 8),
                EventVarType::Prefix | EventVarType::Inet => (24, 8),
                EventVarType::Flow => (40, 8),
                EventVarType::Text { cap } => {
                    assert_eq!(cap % 8, 0, "{}", var.name);
                    (cap, 8)
                }
            };
            assert_eq!(var.offset % align, 0, "{}", var.name);
            assert!(var.offset + size <= native.event_size, "{}", var.name);
        }
    }
}

#[test]
fn the_declared_defaults_of_retransmits_are_the_objects() {
    use weir_ebpf_builtins::retransmits as rt;
    use weir_stdlib::retransmits::{KEEP_DEFAULT, MAX_DEFAULT, MAX_DESTINATIONS_DEFAULT, RETRANSMITS};
    let object = object_of(&RETRANSMITS);
    let default = |name: &str| RETRANSMITS.params.iter().find(|p| p.name == name).unwrap().default;
    for (name, value, map) in [
        ("max", MAX_DEFAULT, Some(rt::SOCKS)),
        ("max", MAX_DEFAULT, Some(rt::CLOSED)),
        ("max_destinations", MAX_DESTINATIONS_DEFAULT, Some(rt::DESTS)),
        ("keep", KEEP_DEFAULT, None),
    ] {
        assert_eq!(default(name), value.to_string());
        if let Some(map) = map {
            assert_eq!(u64::from(object.maps[map].max_entries()), value, "{map}");
        }
    }
}

#[test]
fn the_blocklists_declared_defaults_are_the_objects() {
    let object = object_of(&BLOCKLIST);
    let default = |name: &str| BLOCKLIST.params.iter().find(|p| p.name == name).unwrap().default;
    assert_eq!(default("max"), MAX_DEFAULT.to_string());
    assert_eq!(u64::from(object.maps[object::BLOCK4].max_entries()), MAX_DEFAULT);
    assert_eq!(default("max_hits"), MAX_HITS_DEFAULT.to_string());
    assert_eq!(u64::from(object.maps[object::HITS6].max_entries()), MAX_HITS_DEFAULT);
    assert_eq!(default("match"), "\"src\"");
    for param in BLOCKLIST.params {
        if let ParamType::Choice(words) = param.ty {
            let quoted: Vec<String> = words.iter().map(|w| format!("\"{w}\"")).collect();
            assert!(param.required || quoted.iter().any(|w| w == param.default), "{}", param.name);
        }
    }
    for (index, name) in [
        (object::STAT_PASSED, "passed"),
        (object::STAT_DROPPED, "dropped"),
        (object::STAT_ALLOWED, "allowed"),
        (object::STAT_MALFORMED, "malformed"),
        (object::STAT_NON_IP, "non_ip"),
        (object::STAT_NEIGHBOUR, "neighbour"),
        (object::STAT_UNCOUNTED, "uncounted"),
    ] {
        assert_eq!(STATS[index as usize], name);
    }
}
