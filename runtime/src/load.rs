//! Object → maps and programs in the kernel. Nothing is attached here.
//!
//! The ELF is parsed by aya-obj; vmlinux BTF is never looked at. Everything made is owned by descriptors.

use crate::attach::iface;
use crate::card::Card;
use crate::error::Error;
use crate::maps::{self, Map};
use crate::ring;
use crate::sys::bpf::query::{self, ObjectKind};
use crate::sys::bpf::{self, MapAttr, ProgAttr, ProgLoadError};
use crate::sys::proc;
use aya_obj::btf::BtfFeatures;
use aya_obj::generated::bpf_insn;
use aya_obj::generated::{bpf_attach_type as attach_type, bpf_prog_type as prog_type};
use std::collections::{HashMap, HashSet};
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use weir_compiler::object::{AttachPoint, Device, FunctionOf, MapKind, MapRole, MapSpec, Object, ProgramKind, ProgramSpec};

mod specialise;

const BPF_F_RDONLY_PROG: u32 = 1 << 7;
const BPF_F_XDP_HAS_FRAGS: u32 = 1 << 5;
const BPF_XDP: u32 = 37;

/// `BPF_PROG_LOAD` arguments of each kind of program: type, expected attach type, flags.
pub fn kernel_kind(kind: ProgramKind) -> (u32, u32, u32) {
    match kind {
        ProgramKind::RunOnce | ProgramKind::RawTracepoint | ProgramKind::NativeEventTrace => {
            (prog_type::BPF_PROG_TYPE_RAW_TRACEPOINT as u32, 0, 0)
        }
        ProgramKind::Tracepoint => (prog_type::BPF_PROG_TYPE_TRACEPOINT as u32, 0, 0),
        ProgramKind::Kprobe | ProgramKind::Uprobe => (prog_type::BPF_PROG_TYPE_KPROBE as u32, 0, 0),
        ProgramKind::KprobeMulti => (
            prog_type::BPF_PROG_TYPE_KPROBE as u32,
            attach_type::BPF_TRACE_KPROBE_MULTI as u32,
            0,
        ),
        ProgramKind::Fentry => (prog_type::BPF_PROG_TYPE_TRACING as u32, attach_type::BPF_TRACE_FENTRY as u32, 0),
        ProgramKind::Fexit => (prog_type::BPF_PROG_TYPE_TRACING as u32, attach_type::BPF_TRACE_FEXIT as u32, 0),
        ProgramKind::Iter => (prog_type::BPF_PROG_TYPE_TRACING as u32, attach_type::BPF_TRACE_ITER as u32, 0),
        ProgramKind::PerfEvent => (prog_type::BPF_PROG_TYPE_PERF_EVENT as u32, 0, 0),
        // Programs in one program array must agree in all three, so every XDP program of weir is the same here.
        ProgramKind::Xdp | ProgramKind::NativeEventXdp => (prog_type::BPF_PROG_TYPE_XDP as u32, BPF_XDP, BPF_F_XDP_HAS_FRAGS),
        ProgramKind::SchedCls | ProgramKind::NativeEventTc => (prog_type::BPF_PROG_TYPE_SCHED_CLS as u32, 0, 0),
        ProgramKind::CgroupSkb(direction) => (
            prog_type::BPF_PROG_TYPE_CGROUP_SKB as u32,
            crate::attach::cgroup::skb_attach_type(direction),
            0,
        ),
        ProgramKind::CgroupSockAddr(attach_type) => (prog_type::BPF_PROG_TYPE_CGROUP_SOCK_ADDR as u32, attach_type, 0),
        ProgramKind::CgroupSockopt => (
            prog_type::BPF_PROG_TYPE_CGROUP_SOCKOPT as u32,
            attach_type::BPF_CGROUP_SETSOCKOPT as u32,
            0,
        ),
        ProgramKind::CgroupSock(attach_type) => (prog_type::BPF_PROG_TYPE_CGROUP_SOCK as u32, attach_type, 0),
    }
}

/// A parsed BPF ELF file on its way into the kernel.
pub(crate) struct Elf {
    object: aya_obj::Object,
    btf: Option<OwnedFd>,
    file: Vec<u8>,
}

/// A source line: where instructions of a program come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineInfo {
    pub insn: u32,
    /// From 1.
    pub line: u32,
    /// From 1.
    pub column: u32,
}

impl Elf {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let mut object = aya_obj::Object::parse(bytes).map_err(|e| Error::Object(describe(&e)))?;
        // All of these are there since Linux 5.19; older kernels are not supported.
        let features = BtfFeatures::new(true, true, true, true, true, true, true, true);
        object.fixup_and_sanitize_btf(&features).map_err(|e| Error::Object(describe(&e)))?;
        Ok(Self {
            object,
            btf: None,
            file: bytes.to_vec(),
        })
    }

    /// The same once more, with the same constants so far. Before [`Self::relocate`].
    pub(crate) fn again(&self) -> Result<Self, Error> {
        let mut again = Self::parse(&self.file)?;
        for (symbol, map) in &mut again.object.maps {
            if let Some(here) = self.map(symbol) {
                map.data_mut().copy_from_slice(here.data());
            }
        }
        again.btf = self.btf.as_ref().map(|fd| maps::dup(fd.as_fd(), "BTF")).transpose()?;
        Ok(again)
    }

    /// Loads the object's own BTF. A kernel that refuses it loses names and line numbers, nothing else.
    pub(crate) fn load_btf(&mut self) {
        self.btf = self.object.btf.as_ref().and_then(|btf| bpf::btf_load(&btf.to_bytes()).ok());
    }

    pub(crate) fn map(&self, symbol: &str) -> Option<&aya_obj::Map> {
        self.object.maps.get(symbol)
    }

    pub(crate) fn map_names(&self) -> impl Iterator<Item = &str> {
        self.object.maps.keys().map(String::as_str)
    }

    /// Sets a `u32` variable of `.rodata`.
    pub(crate) fn set_rodata(&mut self, symbol: &str, value: u32) -> Result<(), Error> {
        let bytes = value.to_le_bytes();
        self.object
            .patch_map_data(std::iter::once((symbol, (&bytes[..], true))).collect())
            .map_err(|e| Error::Object(format!("{symbol}: {}", describe(&e))))
    }

    /// Creates a map as the ELF says, with these changes: `max_entries`, flags, sizes. Data sections are filled, read-only ones frozen.
    pub(crate) fn create_map(&self, symbol: &str, change: impl FnOnce(&mut MapAttr<'_>)) -> Result<OwnedFd, Error> {
        self.create_map_or(symbol, change, |_| None)
    }

    /// As [`Self::create_map`], but one that is there already is taken instead, as it is.
    pub(crate) fn create_map_or(
        &self,
        symbol: &str,
        change: impl FnOnce(&mut MapAttr<'_>),
        there: impl FnOnce(&MapAttr<'_>) -> Option<OwnedFd>,
    ) -> Result<OwnedFd, Error> {
        let map = self.map(symbol).ok_or_else(|| Error::Object(format!("no map `{symbol}`")))?;
        let ids = match map {
            aya_obj::Map::Btf(m) => (m.def.btf_key_type_id, m.def.btf_value_type_id),
            aya_obj::Map::Legacy(_) => (0, 0),
        };
        let mut attr = MapAttr {
            name: symbol,
            kind: map.map_type(),
            key_size: map.key_size(),
            value_size: map.value_size(),
            max_entries: map.max_entries(),
            flags: map.map_flags(),
            btf: self.btf.as_ref().map(|fd| (fd.as_fd(), ids.0, ids.1)),
            card: 0,
        };
        change(&mut attr);
        if let Some(fd) = there(&attr) {
            return Ok(fd);
        }
        let fd = bpf::map_create(&attr)?;
        if !map.data().is_empty() {
            if map.data().iter().any(|b| *b != 0) {
                bpf::map_update(fd.as_fd(), &0u32.to_ne_bytes(), map.data(), 0, symbol)?;
            }
            if attr.flags & BPF_F_RDONLY_PROG != 0 {
                bpf::map_freeze(fd.as_fd(), symbol)?;
            }
        }
        Ok(fd)
    }

    /// Puts the maps' descriptors and the subprograms into the code. Once, after all maps are made.
    pub(crate) fn relocate(&mut self, fds: &HashMap<String, BorrowedFd<'_>>) -> Result<(), Error> {
        let text_sections: HashSet<usize> = self.object.functions.keys().map(|(section, _)| *section).collect();
        let maps = self.object.maps.clone();
        let with_fds = maps
            .iter()
            .filter_map(|(name, map)| Some((name.as_str(), fds.get(name)?.as_raw_fd(), map)));
        self.object
            .relocate_maps(with_fds, &text_sections)
            .map_err(|e| Error::Object(describe(&e)))?;
        self.object.relocate_calls(&text_sections).map_err(|e| Error::Object(describe(&e)))
    }

    /// Puts the numbers of a read-only section, which nothing changes any more, where the code reads them, and leaves out what they make idle. After [`Self::relocate`].
    pub(crate) fn specialise(&mut self, section: &str, map: BorrowedFd<'_>) {
        let Some(data) = self.object.maps.get(section).map(|map| map.data().to_vec()) else {
            return;
        };
        for program in self.object.programs.values() {
            if let Some(function) = self.object.functions.get_mut(&program.function_key()) {
                let followed = specialise::specialise(function, map.as_raw_fd(), &data);
                debug_assert!(followed, "{}", function.name);
            }
        }
    }

    fn function(&self, symbol: &str) -> Result<&aya_obj::Function, Error> {
        let program = self
            .object
            .programs
            .get(symbol)
            .ok_or_else(|| Error::Object(format!("no program `{symbol}`")))?;
        self.object
            .functions
            .get(&program.function_key())
            .ok_or_else(|| Error::Object(format!("no code for program `{symbol}`")))
    }

    /// `target` is for a program that belongs to a function, or to a card.
    pub(crate) fn load_program(&self, symbol: &str, kind: ProgramKind, target: &AttachTo) -> Result<OwnedFd, ProgramError> {
        let function = self.function(symbol)?;
        let (prog_type, expected_attach_type, flags) = kernel_kind(kind);
        // A card has no packets of several pieces.
        let flags = if target.card == 0 { flags } else { 0 };
        let func_info = function.func_info.func_info_bytes();
        let line_info = function.line_info.line_info_bytes();
        let license: CString = self.object.license.clone();
        let attr = ProgAttr {
            name: symbol,
            kind: prog_type,
            expected_attach_type,
            attach_btf_id: target.btf_id,
            attach_to: target.of.as_ref().map(AsFd::as_fd),
            flags,
            insns: &function.instructions,
            license: &license,
            btf: self.btf.as_ref().map(AsFd::as_fd),
            func_info: (&func_info, 8),
            line_info: (&line_info, 16),
            card: target.card,
        };
        Ok(bpf::prog_load(&attr)?)
    }

    /// Lists where the instructions of a program come from, ascending.
    pub(crate) fn lines(&self, symbol: &str) -> Vec<LineInfo> {
        let Ok(function) = self.function(symbol) else { return Vec::new() };
        let info = function.line_info.line_info.iter();
        info.map(|l| LineInfo {
            insn: l.insn_off,
            line: l.line_col >> 10,
            column: l.line_col & 0x3ff,
        })
        .collect()
    }

    /// Returns the instructions of a program, for reports.
    pub(crate) fn instructions(&self, symbol: &str) -> Result<&[bpf_insn], Error> {
        Ok(&self.function(symbol)?.instructions)
    }
}

/// Why one program was not loaded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProgramError {
    #[error(transparent)]
    Load(#[from] ProgLoadError),
    #[error(transparent)]
    Other(#[from] Error),
}

impl ProgramError {
    pub(crate) fn into_error(self, program: Option<usize>, span: Option<weir_parser::Span>) -> Error {
        match self {
            ProgramError::Load(ProgLoadError::Rejected { name, log, .. }) => Error::Rejected { program, name, log, span },
            ProgramError::Load(ProgLoadError::Sys(e)) => Error::Sys(e),
            ProgramError::Other(e) => e,
        }
    }
}

/// Joins an error and its sources.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}

/// The name of a map in the ELF: constants are a section there, not a symbol of `.maps`.
fn elf_name(spec: &MapSpec) -> &str {
    if matches!(spec.role, MapRole::Rodata { .. }) {
        ".rodata"
    } else {
        &spec.name
    }
}

/// Gives the descriptor of a native's map by instance and symbol.
pub type NativeMaps<'a> = dyn Fn(usize, &str) -> Option<BorrowedFd<'a>> + 'a;

/// A script in the kernel, attached nowhere.
#[derive(Debug, Default)]
pub struct Loaded {
    /// In the order of [`Object::maps`].
    pub maps: Vec<Map>,
    /// In the order of [`Object::programs`].
    pub programs: Vec<OwnedFd>,
    /// Size in bytes of the ring buffer, 0 when there is none.
    pub ring_size: u32,
}

impl Loaded {
    /// Finds the map with a role.
    #[must_use]
    pub fn map_with(&self, object: &Object, role: impl Fn(&MapRole) -> bool) -> Option<&Map> {
        object
            .maps
            .iter()
            .zip(&self.maps)
            .find(|(spec, _)| role(&spec.role))
            .map(|(_, map)| map)
    }

    /// Looks up again the devices that the script sends packets to: one that came back has another number. Returns those that have
    /// gone, and those that are there again, since the last look.
    pub fn renew_devices(&self, object: &Object) -> Vec<(Device, bool)> {
        let mut changed = Vec::new();
        for (spec, map) in object.maps.iter().zip(&self.maps) {
            let MapRole::Devices { devices } = &spec.role else { continue };
            for (number, device) in (0_u32..).zip(devices) {
                let key = number.to_ne_bytes();
                let mut old = [0; 8];
                let now = iface::device(device).map_or(0, u64::from);
                let known = bpf::map_lookup(map.fd.as_fd(), &key, &mut old, &spec.name);
                let old = u64::from_ne_bytes(old);
                if !matches!(known, Ok(true)) || old == now {
                    continue;
                }
                if bpf::map_update(map.fd.as_fd(), &key, &now.to_ne_bytes(), 0, &spec.name).is_ok() {
                    changed.push((device.clone(), now != 0));
                }
            }
        }
        changed
    }
}

/// Creates the maps and loads the programs of an object.
///
/// # Errors
/// [`Error::Rejected`] when the verifier says no to a program, else what the kernel says.
pub fn load(object: &Object, natives: &NativeMaps<'_>) -> Result<Loaded, Error> {
    load_with(object, natives, &|_| None)
}

/// Puts keys into a map, all with the same number as value.
fn fill(map: BorrowedFd<'_>, spec: &MapSpec, keys: &[Vec<u8>], number: u64) -> Result<(), Error> {
    let value_size = spec.value_size as usize;
    let mut value = vec![0; value_size];
    value[..8].copy_from_slice(&number.to_ne_bytes());
    Ok(bpf::map_update_many(
        map,
        &keys.concat(),
        &value.repeat(keys.len()),
        spec.key_size as usize,
        value_size,
        &spec.name,
    )?)
}

/// As [`load`]; a map of the script that `existing` knows by its name is that one.
///
/// # Errors
/// As those of [`load`].
pub fn load_with<'a>(
    object: &Object,
    natives: &NativeMaps<'_>,
    existing: &dyn Fn(&str) -> Option<BorrowedFd<'a>>,
) -> Result<Loaded, Error> {
    let mut elf = Elf::parse(&object.elf)?;
    elf.load_btf();
    let card = object.card.as_ref().map(Card::find).transpose()?;
    let mut maps = Vec::with_capacity(object.maps.len());
    let mut ring_size = 0;
    for (index, spec) in object.maps.iter().enumerate() {
        let there = match &spec.role {
            MapRole::User { name, .. } => existing(name),
            MapRole::Stacks => existing(&spec.name),
            _ => None,
        };
        let card = card.as_ref().filter(|card| card.has(index));
        let create = || match card {
            Some(card) => card.create_map(&elf, spec),
            None => elf.create_map(elf_name(spec), |_| {}),
        };
        let fd = match (&spec.role, there) {
            (_, Some(fd)) => maps::dup(fd, &spec.name)?,
            (MapRole::Native { instance, map }, None) => {
                let fd = natives(*instance, map).ok_or_else(|| Error::Object(format!("native {instance} has no map `{map}`")))?;
                maps::dup(fd, map)?
            }
            (MapRole::Ring, None) => {
                ring_size = if spec.max_entries == 0 {
                    ring::choose_size(proc::available_memory())
                } else {
                    spec.max_entries
                };
                elf.create_map(&spec.name, |attr| attr.max_entries = ring_size)?
            }
            (MapRole::Devices { devices }, None) => {
                let fd = elf.create_map(elf_name(spec), |_| {})?;
                for (number, device) in (0_u32..).zip(devices) {
                    let ifindex = u64::from(iface::device(device)?);
                    bpf::map_update(fd.as_fd(), &number.to_ne_bytes(), &ifindex.to_ne_bytes(), 0, &spec.name)?;
                }
                fd
            }
            (MapRole::Names { names }, None) => {
                let fd = elf.create_map(elf_name(spec), |_| {})?;
                for (i, name) in (0u32..).zip(names) {
                    let mut value = name.clone().into_bytes();
                    value.resize(spec.value_size as usize, 0);
                    bpf::map_update(fd.as_fd(), &i.to_ne_bytes(), &value, 0, &spec.name)?;
                }
                fd
            }
            (MapRole::Set { keys }, None) => {
                let fd = create()?;
                fill(fd.as_fd(), spec, keys, 0)?;
                fd
            }
            (MapRole::User { initial, .. }, None) if !initial.is_empty() => {
                let fd = create()?;
                fill(fd.as_fd(), spec, initial, 1)?;
                fd
            }
            (_, None) => create()?,
        };
        maps.push(Map {
            fd,
            kind: spec.kind,
            symbol: spec.name.clone(),
            key_size: spec.key_size,
            value_size: spec.value_size,
            has_set_word: spec.has_set_word(),
            max_entries: if spec.kind == MapKind::RingBuf {
                ring_size
            } else {
                spec.max_entries
            },
        });
    }
    let fds = object
        .maps
        .iter()
        .zip(&maps)
        .map(|(spec, map)| (elf_name(spec).to_owned(), map.fd.as_fd()))
        .collect();
    elf.relocate(&fds)?;
    drop(fds);
    let mut programs = Vec::with_capacity(object.programs.len());
    for (i, spec) in object.programs.iter().enumerate() {
        programs.push(match card.as_ref().filter(|_| spec.is_in_card()) {
            Some(card) => card.load_program(&elf, spec)?,
            None => elf
                .load_program(&spec.name, spec.kind, &AttachTo::of(spec)?)
                .map_err(|e| e.into_error(Some(i), Some(spec.span)))?,
        });
    }
    Ok(Loaded { maps, programs, ring_size })
}

/// What a program is for: a function, a card; nothing by default.
#[derive(Debug, Default)]
pub(crate) struct AttachTo {
    btf_id: u32,
    /// The module's types or the BPF program, where it is not the kernel's own.
    of: Option<OwnedFd>,
    /// The number of the card's interface, 0 for none.
    card: u32,
}

impl AttachTo {
    /// A network card.
    pub(crate) fn card(ifindex: u32) -> Self {
        Self {
            card: ifindex,
            ..Self::default()
        }
    }

    /// A function of the kernel itself.
    pub(crate) fn kernel(btf_id: u32) -> Self {
        Self { btf_id, ..Self::default() }
    }

    fn of(spec: &ProgramSpec) -> Result<Self, Error> {
        Ok(match spec.attach.first().map(|a| &a.point) {
            Some(AttachPoint::Iter { btf_id, .. }) => Self::kernel(*btf_id),
            Some(AttachPoint::Fentry { of, btf_id, .. }) => Self {
                btf_id: *btf_id,
                of: match of {
                    FunctionOf::Kernel => None,
                    FunctionOf::Module(module) => Some(query::module_btf(module)?),
                    FunctionOf::Program(id) => Some(query::by_id(ObjectKind::Program, *id)?),
                },
                card: 0,
            },
            _ => Self::default(),
        })
    }
}

/// Lists where the instructions of a program come from, for messages about verifier logs.
#[must_use]
pub fn program_lines(object: &Object, program: usize) -> Vec<LineInfo> {
    let Some(spec) = object.programs.get(program) else {
        return Vec::new();
    };
    Elf::parse(&object.elf).map(|elf| elf.lines(&spec.name)).unwrap_or_default()
}

/// Returns the number of instructions of each program, as the kernel will see them.
///
/// # Errors
/// When the ELF cannot be read.
pub fn program_sizes(object: &Object) -> Result<Vec<(String, usize)>, Error> {
    let elf = Elf::parse(&object.elf)?;
    object
        .programs
        .iter()
        .map(|p| Ok((p.name.clone(), elf.instructions(&p.name)?.len())))
        .collect()
}
