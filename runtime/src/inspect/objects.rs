//! Programs and maps as a person wants to see them. Everything is read once and kept for one picture of the node.

use super::maps::{self, MapState, User};
use super::owners::{Owner, Owners};
use super::pinned::Pinned;
use super::returns;
use crate::sys::bpf::query::{self, LinkDetails, ObjectKind};
use crate::sys::{Result, proc};
use serde::Serialize;
use std::collections::BTreeMap;
use std::os::fd::AsFd;
use weir_compiler::btf::{Btf, BtfType, TypeId};

/// The kernel keeps this many bytes of a program's name.
const KERNEL_NAME: usize = 15;
const STATS_SWITCH: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// A loaded program.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Program {
    pub id: u32,
    /// Whole where its BTF has it, else the kernel's 15 bytes.
    pub name: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub tag: String,
    /// Seconds since 1970.
    pub loaded_at: u64,
    /// Nanoseconds of the boot clock: orders programs loaded within one second.
    #[serde(skip)]
    pub load_time_ns: u64,
    pub age_s: u64,
    pub uid: u32,
    /// Since the kernel's statistics were switched on.
    pub run_count: u64,
    pub run_time_ns: u64,
    pub owners: Vec<Owner>,
    pub pins: Vec<Pinned>,
    pub maps: Vec<MapState>,
    /// All values that it can return, when its code says so.
    pub returns: Option<Vec<i32>>,
}

impl Program {
    /// The name of the instance that it is of, as in `weir status`.
    #[must_use]
    pub fn named(&self) -> Option<&str> {
        self.pins.iter().find_map(|pin| pin.instance.as_deref())
    }

    /// Whether a process or a pin keeps it, and not only the place where it is attached.
    #[must_use]
    pub fn is_owned(&self) -> bool {
        !self.owners.is_empty() || !self.pins.is_empty()
    }
}

/// What is loaded, by id, found out as it is asked for.
#[derive(Debug)]
pub struct Objects {
    pub owners: Owners,
    pub links: Vec<LinkDetails>,
    programs: BTreeMap<u32, Program>,
    maps: BTreeMap<u32, MapState>,
    boot_ns: u64,
    real_s: u64,
    /// Whether maps are counted: a big one takes a moment.
    count_maps: bool,
}

impl Objects {
    /// Lists links and holders.
    ///
    /// # Errors
    /// `EPERM` without CAP_SYS_ADMIN.
    pub fn read(count_maps: bool) -> Result<Self> {
        // The first question decides whether we may ask at all.
        query::ids(ObjectKind::Program)?;
        let mut links = Vec::new();
        for id in query::ids(ObjectKind::Link)? {
            // Gone since the list was made.
            if let Ok(link) = query::by_id(ObjectKind::Link, id).and_then(|fd| query::link_details(fd.as_fd())) {
                links.push(link);
            }
        }
        Ok(Self {
            owners: Owners::read(),
            links,
            programs: BTreeMap::new(),
            maps: BTreeMap::new(),
            boot_ns: proc::clock_ns(libc::CLOCK_BOOTTIME),
            real_s: proc::clock_ns(libc::CLOCK_REALTIME) / 1_000_000_000,
            count_maps,
        })
    }

    /// Finds out about a program.
    ///
    /// # Errors
    /// `ENOENT` when it is gone.
    pub fn program(&mut self, id: u32) -> Result<Program> {
        if let Some(known) = self.programs.get(&id) {
            return Ok(known.clone());
        }
        let fd = query::by_id(ObjectKind::Program, id)?;
        let info = query::prog_details(fd.as_fd())?;
        let name = if info.name.len() == KERNEL_NAME && info.func_infos > 0 {
            whole_name(info.btf_id, query::prog_main_func(fd.as_fd()).ok().flatten()).filter(|n| n.starts_with(&info.name))
        } else {
            None
        };
        let age_s = self.boot_ns.saturating_sub(info.load_time_ns) / 1_000_000_000;
        let code = query::prog_code(fd.as_fd(), info.code_bytes).unwrap_or_default();
        let mut map_states = Vec::new();
        for map in info.map_ids {
            if let Ok(map) = self.map(map) {
                map_states.push(map);
            }
        }
        let program = Program {
            id,
            name: name.unwrap_or(info.name),
            kind: program_type(info.kind),
            tag: info.tag,
            loaded_at: self.real_s.saturating_sub(age_s),
            load_time_ns: info.load_time_ns,
            age_s,
            uid: info.uid,
            run_count: info.run_count,
            run_time_ns: info.run_time_ns,
            owners: self.owners.processes(ObjectKind::Program, id),
            pins: self.owners.pins(ObjectKind::Program, id),
            maps: map_states,
            returns: returns::values(&code),
        };
        self.programs.insert(id, program.clone());
        Ok(program)
    }

    /// Finds out about a map.
    ///
    /// # Errors
    /// `ENOENT` when it is gone.
    pub fn map(&mut self, id: u32) -> Result<MapState> {
        if let Some(known) = self.maps.get(&id) {
            return Ok(known.clone());
        }
        let fd = query::by_id(ObjectKind::Map, id)?;
        let mut state = maps::state(fd.as_fd(), self.count_maps)?;
        state.owners = self.owners.processes(ObjectKind::Map, id);
        state.pins = self.owners.pins(ObjectKind::Map, id);
        self.maps.insert(id, state.clone());
        Ok(state)
    }

    /// Finds out about every program that is loaded.
    ///
    /// # Errors
    /// `EPERM` without CAP_SYS_ADMIN.
    pub fn all_programs(&mut self) -> Result<Vec<Program>> {
        let ids = query::ids(ObjectKind::Program)?;
        Ok(ids.into_iter().filter_map(|id| self.program(id).ok()).collect())
    }

    /// Finds out about every map.
    ///
    /// # Errors
    /// `EPERM` without CAP_SYS_ADMIN.
    pub fn all_maps(&mut self) -> Result<Vec<MapState>> {
        let ids = query::ids(ObjectKind::Map)?;
        let mut all: Vec<MapState> = ids.into_iter().filter_map(|id| self.map(id).ok()).collect();
        for id in query::ids(ObjectKind::Program)? {
            let Ok(program) = query::by_id(ObjectKind::Program, id).and_then(|fd| query::prog_details(fd.as_fd())) else {
                continue;
            };
            for map in all.iter_mut().filter(|m| program.map_ids.contains(&m.id)) {
                map.used_by.push(User {
                    id,
                    name: program.name.clone(),
                });
            }
        }
        Ok(all)
    }
}

/// Whether the kernel counts runs of programs now.
#[must_use]
pub fn statistics_are_on() -> bool {
    std::fs::read_to_string(STATS_SWITCH).is_ok_and(|text| text.trim() != "0")
}

/// The name of a function in a BTF object of the kernel.
#[must_use]
pub fn whole_name(btf_id: u32, func: Option<u32>) -> Option<String> {
    let func = func?;
    let fd = query::by_id(ObjectKind::Btf, btf_id).ok()?;
    let btf = Btf::from_bytes(query::btf_bytes(fd.as_fd()).ok()?).ok()?;
    match btf.type_by_id(TypeId(func))? {
        BtfType::Func { name, .. } => Some(name.to_owned()),
        _ => None,
    }
}

/// Names an `enum bpf_prog_type` as bpftool does.
#[must_use]
pub fn program_type(kind: u32) -> String {
    const NAMES: [&str; 33] = [
        "unspec",
        "socket_filter",
        "kprobe",
        "sched_cls",
        "sched_act",
        "tracepoint",
        "xdp",
        "perf_event",
        "cgroup_skb",
        "cgroup_sock",
        "lwt_in",
        "lwt_out",
        "lwt_xmit",
        "sock_ops",
        "sk_skb",
        "cgroup_device",
        "sk_msg",
        "raw_tracepoint",
        "cgroup_sock_addr",
        "lwt_seg6local",
        "lirc_mode2",
        "sk_reuseport",
        "flow_dissector",
        "cgroup_sysctl",
        "raw_tracepoint_writable",
        "cgroup_sockopt",
        "tracing",
        "struct_ops",
        "ext",
        "lsm",
        "sk_lookup",
        "syscall",
        "netfilter",
    ];
    NAMES
        .get(kind as usize)
        .map_or_else(|| format!("type {kind}"), |name| (*name).to_owned())
}
