//! The forms of a native: its programs on interfaces are loaded once for each kind of interface that they may meet, since packets start with
//! Ethernet on some and with the IP header on others (tun, WireGuard, IP tunnels).
//!
//! Both forms share all maps but their constants and their program arrays: blocks on events, and whoever comes behind, have two forms, too.

use crate::attach::chain::Behind;
use crate::error::Error;
use crate::kernel::Kernel;
use crate::load::{AttachTo, Elf};
use crate::maps::{self, Map};
use crate::pin::Pin;
use crate::sys::bpf;
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use weir_compiler::object::{LinkLayer, MapKind, NativeInstance, ProgramKind};
use weir_ebpf_builtins::{CHAIN, RODATA_IP_FIRST, blocklist::RODATA_CHAIN_NEXT, of_ip};
use weir_stdlib::{Attach, ProgramDecl};

/// The section of the settings.
const SETTINGS: &str = ".rodata";

/// A program in the kernel.
#[derive(Debug)]
pub(super) struct Program {
    pub decl: &'static ProgramDecl,
    /// What packets start with where it goes; of those that see none, Ethernet.
    pub link_layer: LinkLayer,
    pub fd: OwnedFd,
}

impl Program {
    /// Its name among all programs of the instance.
    pub fn symbol(&self) -> String {
        symbol(self.decl.symbol, self.link_layer)
    }
}

/// What something that each form has of its own is called.
pub(super) fn symbol(name: &str, link_layer: LinkLayer) -> String {
    match link_layer {
        LinkLayer::Ethernet => name.to_owned(),
        LinkLayer::None => of_ip(name),
    }
}

/// One form on its way into the kernel.
struct Form {
    link_layer: LinkLayer,
    elf: Elf,
}

/// All forms of an instance.
pub(super) struct Forms<'a> {
    spec: &'a NativeInstance,
    /// Those that are loaded; the first has the programs that see no packets, too.
    wanted: Vec<LinkLayer>,
    forms: Vec<Form>,
}

impl<'a> Forms<'a> {
    /// Prepares the forms; `behind` tells who comes behind each on the XDP hook.
    pub fn new(spec: &'a NativeInstance, wanted: Vec<LinkLayer>, mut elf: Elf, behind: &[(LinkLayer, Behind)]) -> Result<Self, Error> {
        elf.load_btf();
        let mut forms = Vec::new();
        if wanted.contains(&LinkLayer::None) {
            let mut ip = elf.again()?;
            ip.set_rodata(RODATA_IP_FIRST, 1)?;
            if elf.map(CHAIN).is_some() {
                let chained = behind
                    .iter()
                    .any(|(layer, behind)| *layer == LinkLayer::None && *behind != Behind::Nobody);
                ip.set_rodata(RODATA_CHAIN_NEXT, u32::from(chained))?;
            }
            let link_layer = LinkLayer::None;
            forms.push(Form { link_layer, elf: ip });
        }
        let link_layer = LinkLayer::Ethernet;
        forms.insert(0, Form { link_layer, elf });
        Ok(Self { spec, wanted, forms })
    }

    /// Makes the maps, by their symbols.
    pub fn maps(&self, sizes: &[(&'static str, u32)], keep: &[&'static str], pin: Option<&Pin>) -> Result<HashMap<String, Map>, Error> {
        let mut maps = HashMap::new();
        for Form { link_layer, elf } in &self.forms {
            for name in elf.map_names() {
                let symbol = symbol(name, *link_layer);
                let mut made = Map {
                    fd: super::placeholder()?,
                    kind: MapKind::Array,
                    symbol: symbol.clone(),
                    key_size: 0,
                    value_size: 0,
                    max_entries: 0,
                    has_set_word: false,
                };
                let kind = elf.map(name).map_or(MapKind::Array, |map| super::map_kind(map.map_type()));
                if *link_layer == LinkLayer::None && !is_own(name, kind) {
                    continue;
                }
                let resize = |attr: &mut bpf::MapAttr<'_>| {
                    if let Some((_, size)) = sizes.iter().find(|(map, _)| *map == name) {
                        attr.max_entries = *size;
                    }
                    made.kind = super::map_kind(attr.kind);
                    (made.key_size, made.value_size, made.max_entries) = (attr.key_size, attr.value_size, attr.max_entries);
                };
                let before = pin.filter(|_| keep.contains(&name));
                made.fd = elf.create_map_or(name, resize, |attr| before?.kept_map(name, attr))?;
                maps.insert(symbol, made);
            }
        }
        Ok(maps)
    }

    /// Loads the programs that the parameters ask for, in the order of the declaration.
    pub fn programs(mut self, maps: &HashMap<String, Map>, skip: &[&str], kernel: &Kernel) -> Result<Vec<Program>, Error> {
        for Form { link_layer, elf } in &mut self.forms {
            let fds = elf.map_names().filter_map(|name| {
                let map = maps.get(&symbol(name, *link_layer)).or_else(|| maps.get(name))?;
                Some((name.to_owned(), map.fd.as_fd()))
            });
            let fds: HashMap<String, BorrowedFd<'_>> = fds.collect();
            elf.relocate(&fds)?;
            if let Some(settings) = fds.get(SETTINGS) {
                elf.specialise(SETTINGS, *settings);
            }
        }
        let mut programs: Vec<Program> = Vec::new();
        for decl in self.spec.programs().filter(|p| !skip.contains(&p.symbol)) {
            for Form { link_layer, elf } in &self.forms {
                let sees_packets = matches!(decl.attach, Attach::Xdp | Attach::TcIngress | Attach::TcEgress);
                let wanted = if sees_packets {
                    self.wanted.contains(link_layer)
                } else {
                    *link_layer == LinkLayer::Ethernet
                };
                if !wanted {
                    continue;
                }
                let same = programs
                    .iter()
                    .find(|p| p.decl.symbol == decl.symbol && p.link_layer == *link_layer);
                let fd = match same {
                    // One program for both directions.
                    Some(same) => maps::dup(same.fd.as_fd(), decl.symbol)?,
                    None => self.load(elf, decl, kernel)?,
                };
                programs.push(Program {
                    decl,
                    link_layer: *link_layer,
                    fd,
                });
            }
        }
        Ok(programs)
    }

    fn load(&self, elf: &Elf, decl: &ProgramDecl, kernel: &Kernel) -> Result<OwnedFd, Error> {
        let (kind, target) = match decl.attach {
            Attach::Xdp => (ProgramKind::Xdp, AttachTo::default()),
            Attach::TcIngress | Attach::TcEgress => (ProgramKind::SchedCls, AttachTo::default()),
            Attach::Cgroup(name) => (ProgramKind::of_cgroup(super::cgroup_hook(name)?), AttachTo::default()),
            Attach::CgroupSetsockopt => (ProgramKind::CgroupSockopt, AttachTo::default()),
            Attach::RawTracepoint(_) => (ProgramKind::RawTracepoint, AttachTo::default()),
            Attach::Iter(name) => (ProgramKind::Iter, AttachTo::kernel(super::iterator_id(kernel, name, self.spec)?)),
        };
        let loaded = elf.load_program(decl.symbol, kind, &target);
        loaded.map_err(|e| e.into_error(None, Some(self.spec.span)))
    }
}

/// Whether each form has this map of its own.
fn is_own(name: &str, kind: MapKind) -> bool {
    kind == MapKind::ProgArray || name.starts_with(".rodata")
}
