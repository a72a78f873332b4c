//! ELF writer: machine code, maps, constants and source lines to one BPF object that aya, libbpf and bpftool load.
//!
//! Input: encoded instructions with relocations and lines ([`Input`]). Output: bytes, the same for the same input. It
//! does not know the script and does not look into instructions except to check that a relocation sits on the
//! instruction that it patches.
//!
//! What the loaders want, and what is therefore fixed here:
//! - subprograms are global hidden functions in `.text` (libbpf relocates calls and addresses only there) but `static` in
//!   BTF, since the kernel takes only static functions as callbacks and checks global ones without their callers' facts;
//! - maps are BTF-defined in `.maps`, key and value given as types; constants are the `.rodata` section;
//! - where any function has line information every one has it, from its first instruction on, or the kernel refuses all.

pub mod btf_build;
mod btf_ext;
mod dump;
mod map_btf;
mod section;

pub use dump::dump;
pub use section::section_name;

use crate::object::{MapRole, MapSpec, ProgramKind};
use btf_build::{BtfBuilder, IntEncoding, LinkageKind};
use btf_ext::{LineInfo, SectionInfo};
use object::write::{Object, Relocation, SectionId, Symbol, SymbolId, SymbolSection};
use object::{Architecture, BinaryFormat, Endianness, RelocationFlags, SectionKind, SymbolFlags, SymbolKind, SymbolScope};
use std::collections::HashSet;

/// One instruction as the kernel reads it: opcode, registers, 16-bit offset, 32-bit immediate. `ld_imm64` takes two.
pub type RawInsn = [u8; 8];

/// The variable that `.rodata` consists of.
pub const RODATA_SYMBOL: &str = "weir_rodata";
/// Size of a ring buffer that the compiler gave none, for loaders that do not choose one.
pub const DEFAULT_RING_BYTES: u32 = 256 * 1024;

const INSN: usize = 8;
const LD_IMM64: u8 = 0x18;
const CALL: u8 = 0x85;
const PSEUDO_CALL: u8 = 1;
const R_BPF_64_64: u32 = 1;
const R_BPF_64_32: u32 = 10;

/// Everything that goes into an object.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    pub programs: &'a [Program<'a>],
    /// [`RelocKind::Subprog`] names them by their index here.
    pub subprograms: &'a [Subprogram<'a>],
    /// [`RelocKind::Map`] names them by their index here. One may have the role `Rodata`.
    pub maps: &'a [MapSpec],
}

/// A program: what the kernel loads.
#[derive(Clone, Copy, Debug)]
pub struct Program<'a> {
    /// A C identifier, unique in the object.
    pub name: &'a str,
    /// See [`section_name`]. Programs may share one.
    pub section: &'a str,
    /// Says what the context is in the program's type.
    pub kind: ProgramKind,
    pub code: Code<'a>,
}

/// A function that programs call, or whose address they pass on.
#[derive(Clone, Copy, Debug)]
pub struct Subprogram<'a> {
    /// A C identifier, unique in the object.
    pub name: &'a str,
    /// Number of arguments (64-bit each), at most 5.
    pub params: u8,
    pub code: Code<'a>,
}

#[derive(Clone, Copy, Debug)]
pub struct Code<'a> {
    pub insns: &'a [RawInsn],
    pub relocs: &'a [Reloc],
    pub lines: &'a [Line<'a>],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reloc {
    /// Index into the function's instructions; `ld_imm64` counts as two.
    pub insn: u32,
    pub kind: RelocKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelocKind {
    /// `ld_imm64` of a map: index into [`Input::maps`].
    Map(u32),
    /// Call: index into [`Input::subprograms`].
    Subprog(u32),
    /// `ld_imm64` of a function's address: index into [`Input::subprograms`].
    SubprogAddr(u32),
    /// `ld_imm64` of an address in `.rodata`: bytes from its start.
    Rodata(u32),
}

/// Which line of the script the instructions from `insn` on are from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    pub insn: u32,
    pub file: &'a str,
    /// The line itself, shown by the kernel and by bpftool.
    pub text: &'a str,
    /// From 1.
    pub line: u32,
    /// From 1; columns above 1023 are stored as 1023.
    pub col: u32,
}

/// Why no object was written. Each is an error of the compiler, not of the script.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ElfError {
    #[error("`{0}` is not a C identifier")]
    BadName(String),
    #[error("`{0}` is defined twice")]
    DuplicateName(String),
    #[error("function `{0}` has no instructions")]
    NoCode(String),
    #[error("`{name}` has {params} parameters, expected at most 5")]
    TooManyParams { name: String, params: u8 },
    #[error("relocation of `{function}` at instruction {insn}: {why}")]
    Relocation { function: String, insn: u32, why: &'static str },
    #[error("section `{0}` is reserved")]
    ReservedSection(String),
    #[error("a second read-only data section `{0}`")]
    SecondRodata(String),
    #[error("map `{name}`: {why}")]
    Map { name: String, why: &'static str },
    #[error("the object could not be encoded: {0}")]
    Encode(String),
}

/// Writes an object.
///
/// # Errors
/// When the input contradicts itself; see [`ElfError`].
pub fn write(input: &Input<'_>) -> Result<Vec<u8>, ElfError> {
    check_names(input)?;
    let mut writer = Writer::new(input);
    writer.maps(input.maps)?;
    writer.subprograms(input.subprograms)?;
    for program in input.programs {
        writer.program(program)?;
    }
    writer.relocate_all(input)?;
    writer.finish()
}

fn check_names(input: &Input<'_>) -> Result<(), ElfError> {
    let names = input.programs.iter().map(|p| p.name);
    let names = names.chain(input.subprograms.iter().map(|s| s.name));
    let maps = input
        .maps
        .iter()
        .filter(|m| !matches!(m.role, MapRole::Rodata { .. }))
        .map(|m| m.name.as_str());
    let mut seen = HashSet::from([RODATA_SYMBOL, section::LICENSE_SYMBOL]);
    for name in names.chain(maps) {
        let identifier = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') && !name.starts_with(|c: char| c.is_ascii_digit());
        if name.is_empty() || !identifier {
            return Err(ElfError::BadName(name.to_owned()));
        }
        if !seen.insert(name) {
            return Err(ElfError::DuplicateName(name.to_owned()));
        }
    }
    Ok(())
}

/// A function in its section.
struct Placed<'a> {
    name: &'a str,
    code: Code<'a>,
    section: SectionId,
    /// Bytes from the start of the section.
    offset: u64,
    /// See [`second_halves`].
    second_halves: Vec<bool>,
}

struct Writer<'a> {
    object: Object<'static>,
    btf: BtfBuilder,
    /// Of each section with code, in the order of their creation.
    infos: Vec<(SectionId, SectionInfo)>,
    placed: Vec<Placed<'a>>,
    /// Symbol of each map; `None` for the one that is `.rodata`.
    maps: Vec<Option<SymbolId>>,
    subprograms: Vec<SymbolId>,
    /// Symbol and size of `.rodata`.
    rodata: Option<(SymbolId, u32)>,
    has_lines: bool,
}

impl<'a> Writer<'a> {
    fn new(input: &Input<'_>) -> Self {
        let mut object = Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
        let license = object.add_section(Vec::new(), b"license".to_vec(), SectionKind::Data);
        object.append_section_data(license, b"GPL\0", 1);
        add_symbol(
            &mut object,
            section::LICENSE_SYMBOL,
            license,
            0..4,
            SymbolKind::Data,
            SymbolScope::Dynamic,
        );
        let codes = input
            .programs
            .iter()
            .map(|p| &p.code)
            .chain(input.subprograms.iter().map(|s| &s.code));
        Self {
            object,
            btf: BtfBuilder::new(),
            infos: Vec::new(),
            placed: Vec::new(),
            maps: Vec::new(),
            subprograms: Vec::new(),
            rodata: None,
            has_lines: codes.into_iter().any(|code| !code.lines.is_empty()),
        }
    }

    fn maps(&mut self, maps: &[MapSpec]) -> Result<(), ElfError> {
        let mut section = None;
        let mut variables = Vec::new();
        let mut end = 0;
        for map in maps {
            if let MapRole::Rodata { data } = &map.role {
                self.rodata(&map.name, data)?;
                self.maps.push(None);
                continue;
            }
            let (ty, size) = map_btf::definition(&mut self.btf, map)?;
            let section = *section.get_or_insert_with(|| self.object.add_section(Vec::new(), b".maps".to_vec(), SectionKind::Data));
            self.object.append_section_data(section, &vec![0; size as usize], 8);
            variables.push((self.btf.var(&map.name, ty, LinkageKind::Global), end, size));
            let range = u64::from(end)..u64::from(end + size);
            self.maps.push(Some(add_symbol(
                &mut self.object,
                &map.name,
                section,
                range,
                SymbolKind::Data,
                SymbolScope::Dynamic,
            )));
            end += size;
        }
        if !variables.is_empty() {
            self.btf.datasec(".maps", end, &variables);
        }
        Ok(())
    }

    fn rodata(&mut self, name: &str, data: &[u8]) -> Result<(), ElfError> {
        if self.rodata.is_some() {
            return Err(ElfError::SecondRodata(name.to_owned()));
        }
        if data.is_empty() {
            return Err(ElfError::Map {
                name: name.to_owned(),
                why: "there is no data in it",
            });
        }
        let section = self.object.add_section(Vec::new(), b".rodata".to_vec(), SectionKind::ReadOnlyData);
        self.object.append_section_data(section, data, 8);
        let range = 0..data.len() as u64;
        let symbol = add_symbol(
            &mut self.object,
            RODATA_SYMBOL,
            section,
            range,
            SymbolKind::Data,
            SymbolScope::Dynamic,
        );
        let len = data.len() as u32;
        let char = self.btf.int("char", 1, IntEncoding::Signed);
        let index = self.btf.int("__ARRAY_SIZE_TYPE__", 4, IntEncoding::Unsigned);
        let array = self.btf.array(char, index, len);
        let constant = self.btf.qualifier(crate::btf::Kind::Const, array);
        let var = self.btf.var(RODATA_SYMBOL, constant, LinkageKind::Global);
        self.btf.datasec(".rodata", len, &[(var, 0, len)]);
        self.rodata = Some((symbol, len));
        Ok(())
    }

    fn subprograms(&mut self, subprograms: &[Subprogram<'a>]) -> Result<(), ElfError> {
        if subprograms.is_empty() {
            return Ok(());
        }
        let section = self.code_section(".text");
        for subprogram in subprograms {
            if subprogram.params > 5 {
                return Err(ElfError::TooManyParams {
                    name: subprogram.name.to_owned(),
                    params: subprogram.params,
                });
            }
            let word = self.btf.int("unsigned long", 8, IntEncoding::Unsigned);
            let names = ["a", "b", "c", "d", "e"];
            let params: Vec<_> = names
                .iter()
                .take(usize::from(subprogram.params))
                .map(|name| (*name, word))
                .collect();
            let ret = self.btf.int("long", 8, IntEncoding::Signed);
            let proto = self.btf.func_proto(ret, &params);
            let ty = self.btf.func(subprogram.name, proto, LinkageKind::Static);
            let symbol = self.place(subprogram.name, subprogram.code, section, ty.0, SymbolScope::Linkage)?;
            self.subprograms.push(symbol);
        }
        Ok(())
    }

    fn program(&mut self, program: &Program<'a>) -> Result<(), ElfError> {
        let reserved = ["license", "version", "maps"].iter().any(|s| program.section.starts_with(s));
        if program.section.is_empty() || program.section.starts_with('.') || reserved {
            return Err(ElfError::ReservedSection(program.section.to_owned()));
        }
        let section = self.code_section(program.section);
        let context = match section::context_struct(program.kind) {
            // Only the name matters to the kernel; loaders replace nothing in it.
            Some(name) => self.btf.structure(name, 0, &[]),
            None => crate::btf::TypeId::VOID,
        };
        let pointer = self.btf.ptr(context);
        let ret = self.btf.int("int", 4, IntEncoding::Signed);
        let proto = self.btf.func_proto(ret, &[("ctx", pointer)]);
        let ty = self.btf.func(program.name, proto, LinkageKind::Global);
        self.place(program.name, program.code, section, ty.0, SymbolScope::Dynamic)?;
        Ok(())
    }

    /// Returns the section with this name, making it when there is none.
    fn code_section(&mut self, name: &str) -> SectionId {
        let name_offset = self.btf.string(name);
        if let Some((section, _)) = self.infos.iter().find(|(_, info)| info.name == name_offset) {
            return *section;
        }
        let section = self.object.add_section(Vec::new(), name.as_bytes().to_vec(), SectionKind::Text);
        self.infos.push((
            section,
            SectionInfo {
                name: name_offset,
                ..SectionInfo::default()
            },
        ));
        section
    }

    /// Puts a function at the end of a section.
    fn place(&mut self, name: &'a str, code: Code<'a>, section: SectionId, ty: u32, scope: SymbolScope) -> Result<SymbolId, ElfError> {
        if code.insns.is_empty() {
            return Err(ElfError::NoCode(name.to_owned()));
        }
        let offset = self.object.append_section_data(section, code.insns.as_flattened(), INSN as u64);
        let second_halves = second_halves(code.insns);
        let lines = self.lines(name, &code, &second_halves, offset as u32);
        if let Some((_, info)) = self.infos.iter_mut().find(|(id, _)| *id == section) {
            info.funcs.push((offset as u32, ty));
            info.lines.extend(lines);
        }
        self.placed.push(Placed {
            name,
            code,
            section,
            offset,
            second_halves,
        });
        let range = offset..offset + code.insns.as_flattened().len() as u64;
        Ok(add_symbol(&mut self.object, name, section, range, SymbolKind::Text, scope))
    }

    /// Returns the lines as the kernel demands them: ascending, one for the first instruction, none inside `ld_imm64`.
    fn lines(&mut self, name: &str, code: &Code<'_>, second_halves: &[bool], offset: u32) -> Vec<LineInfo> {
        if !self.has_lines {
            return Vec::new();
        }
        let mut lines: Vec<Line<'_>> = code.lines.to_vec();
        lines.retain(|line| second_halves.get(line.insn as usize) == Some(&false));
        lines.sort_by_key(|line| line.insn);
        lines.dedup_by_key(|line| line.insn);
        match lines.first().copied() {
            Some(first) if first.insn != 0 => lines.insert(0, Line { insn: 0, ..first }),
            Some(_) => {}
            None => lines.push(Line {
                insn: 0,
                file: "weir",
                text: name,
                line: 0,
                col: 0,
            }),
        }
        // Two instructions of one line need one entry.
        lines.dedup_by(|next, kept| (next.file, next.text, next.line, next.col) == (kept.file, kept.text, kept.line, kept.col));
        lines
            .iter()
            .map(|line| LineInfo {
                offset: offset + line.insn * INSN as u32,
                file: self.btf.string(line.file),
                text: self.btf.string(line.text.lines().next().unwrap_or_default()),
                line: line.line,
                col: line.col,
            })
            .collect()
    }

    fn relocate_all(&mut self, input: &Input<'_>) -> Result<(), ElfError> {
        for placed in std::mem::take(&mut self.placed) {
            let mut relocs: Vec<Reloc> = placed.code.relocs.to_vec();
            relocs.sort_by_key(|reloc| reloc.insn);
            for pair in relocs.windows(2) {
                if pair[0].insn == pair[1].insn {
                    return Err(bad_reloc(&placed, pair[0], "there are two for one instruction"));
                }
            }
            for reloc in relocs {
                self.relocate(&placed, reloc, input)?;
            }
        }
        Ok(())
    }

    /// Adds one relocation and sets the instruction's fields to what loaders expect before they patch it.
    fn relocate(&mut self, placed: &Placed<'_>, reloc: Reloc, input: &Input<'_>) -> Result<(), ElfError> {
        let bad = |why| bad_reloc(placed, reloc, why);
        let insn = *placed
            .code
            .insns
            .get(reloc.insn as usize)
            .ok_or_else(|| bad("the function is shorter"))?;
        let is_call = matches!(reloc.kind, RelocKind::Subprog(_));
        let second_half = placed.second_halves.get(reloc.insn as usize) == Some(&true);
        if second_half || insn[0] != if is_call { CALL } else { LD_IMM64 } {
            return Err(bad(if is_call {
                "the instruction is not a call"
            } else {
                "the instruction is not `ld_imm64`"
            }));
        }
        let subprogram = |index: u32| {
            self.subprograms
                .get(index as usize)
                .copied()
                .ok_or_else(|| bad("there is no such subprogram"))
        };
        let (symbol, imm) = match reloc.kind {
            RelocKind::Map(index) => {
                let symbol = self.maps.get(index as usize).copied().ok_or_else(|| bad("there is no such map"))?;
                (symbol.ok_or_else(|| bad("read-only data is not addressed as a map"))?, 0)
            }
            RelocKind::Subprog(index) => (subprogram(index)?, -1),
            RelocKind::SubprogAddr(index) => {
                let callee = input.subprograms.get(index as usize).map(|s| s.name);
                // libbpf and aya append a function where its address is taken; its own would make it recurse.
                if callee == Some(placed.name) {
                    return Err(bad("a function passes on its own address"));
                }
                (subprogram(index)?, 0)
            }
            RelocKind::Rodata(offset) => {
                let (symbol, len) = self.rodata.ok_or_else(|| bad("there is no read-only data"))?;
                if offset >= len {
                    return Err(bad("it points behind the read-only data"));
                }
                (symbol, offset.cast_signed())
            }
        };
        let at = placed.offset + u64::from(reloc.insn) * INSN as u64;
        let data = self.object.section_mut(placed.section).data_mut();
        let patched = data
            .get_mut(at as usize..at as usize + INSN)
            .ok_or_else(|| bad("the section is shorter"))?;
        // Source register: 1 marks a call within the object; loaders set that of `ld_imm64`.
        patched[1] = insn[1] & 0x0f | if is_call { PSEUDO_CALL << 4 } else { 0 };
        patched[4..8].copy_from_slice(&imm.to_le_bytes());
        let r_type = if is_call { R_BPF_64_32 } else { R_BPF_64_64 };
        let relocation = Relocation {
            offset: at,
            symbol,
            addend: 0,
            flags: RelocationFlags::Elf { r_type },
        };
        self.object
            .add_relocation(placed.section, relocation)
            .map_err(|e| ElfError::Encode(e.to_string()))
    }

    fn finish(mut self) -> Result<Vec<u8>, ElfError> {
        let infos: Vec<SectionInfo> = self.infos.into_iter().map(|(_, info)| info).collect();
        for (name, data) in [(".BTF", self.btf.finish()), (".BTF.ext", btf_ext::encode(&infos))] {
            let section = self.object.add_section(Vec::new(), name.as_bytes().to_vec(), SectionKind::Other);
            self.object.append_section_data(section, &data, 4);
        }
        self.object.write().map_err(|e| ElfError::Encode(e.to_string()))
    }
}

fn bad_reloc(placed: &Placed<'_>, reloc: Reloc, why: &'static str) -> ElfError {
    ElfError::Relocation {
        function: placed.name.to_owned(),
        insn: reloc.insn,
        why,
    }
}

/// Returns for each instruction whether it is the second half of an `ld_imm64`.
fn second_halves(insns: &[RawInsn]) -> Vec<bool> {
    let mut after_first = false;
    insns
        .iter()
        .map(|insn| {
            let second = after_first;
            after_first = !second && insn[0] == LD_IMM64;
            second
        })
        .collect()
}

fn add_symbol(
    object: &mut Object<'_>,
    name: &str,
    section: SectionId,
    range: std::ops::Range<u64>,
    kind: SymbolKind,
    scope: SymbolScope,
) -> SymbolId {
    object.add_symbol(Symbol {
        name: name.as_bytes().to_vec(),
        value: range.start,
        size: range.end - range.start,
        kind,
        scope,
        weak: false,
        section: SymbolSection::Section(section),
        flags: SymbolFlags::None,
    })
}
