//! Readable summary of an object for `-d elf`: sections, maps, functions with their relocations.
//!
//! Reads what the writer wrote, and any other BPF object as far as it is built alike; never panics on damaged input.

use super::{INSN, R_BPF_64_32};
use crate::btf::{Btf, BtfType, TypeId};
use object::read::elf::ElfFile64;
use object::{LittleEndian, Object, ObjectSection, ObjectSymbol, RelocationFlags, RelocationTarget, SectionIndex, SectionKind, SymbolKind};
use std::fmt::Write as _;

type Elf<'a> = ElfFile64<'a, LittleEndian>;

/// Describes an object. What is not an object is described as such.
#[must_use]
pub fn dump(elf: &[u8]) -> String {
    let file = match Elf::parse(elf) {
        Ok(file) => file,
        Err(e) => return format!("not a little-endian 64-bit ELF object: {e}\n"),
    };
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write_sections(&mut out, &file);
    let _ = write_maps(&mut out, &file);
    let _ = write_functions(&mut out, &file);
    out
}

fn write_sections(out: &mut String, file: &Elf<'_>) -> std::fmt::Result {
    writeln!(out, "sections")?;
    for section in file.sections() {
        let name = section.name().unwrap_or("?");
        if section.size() > 0 && !name.starts_with(".rel") && !name.is_empty() {
            writeln!(out, "  {name}: {} bytes", section.size())?;
        }
    }
    Ok(())
}

fn section_data<'a>(file: &Elf<'a>, name: &str) -> Option<&'a [u8]> {
    file.section_by_name(name)?.data().ok()
}

/// Lists the maps that `.BTF` defines.
fn write_maps(out: &mut String, file: &Elf<'_>) -> std::fmt::Result {
    let Some(btf) = section_data(file, ".BTF").and_then(|data| Btf::from_bytes(data.to_vec()).ok()) else {
        return Ok(());
    };
    let mut lines = Vec::new();
    for id in btf.ids() {
        let Some(BtfType::DataSec(section)) = btf.type_by_id(id) else {
            continue;
        };
        for variable in section.variables() {
            let Some(BtfType::Var { name, ty, .. }) = btf.type_by_id(variable.var) else {
                continue;
            };
            if section.name == ".maps" {
                lines.push(format!("  {name}: {}", describe_map(&btf, ty)));
            } else {
                lines.push(format!(
                    "  {}: {name}, {} bytes at {}",
                    section.name, variable.size, variable.offset
                ));
            }
        }
    }
    if !lines.is_empty() {
        writeln!(out, "maps\n{}", lines.join("\n"))?;
    }
    Ok(())
}

fn describe_map(btf: &Btf, definition: TypeId) -> String {
    let pointee = |field: &str| match btf.resolved(btf.member(definition, field)?.ty)? {
        BtfType::Ptr(target) => Some(target),
        _ => None,
    };
    let number = |field: &str| match btf.resolved(pointee(field)?)? {
        BtfType::Array(array) => Some(array.len),
        _ => None,
    };
    let mut parts = vec![number("type").map_or("?".to_owned(), kind_name)];
    for field in ["key", "value"] {
        if let Some(ty) = pointee(field) {
            parts.push(format!("{field} {} bytes ({})", btf.size_of(ty).unwrap_or(0), btf.c_name(ty)));
        }
    }
    if let Some(entries) = number("max_entries") {
        parts.push(format!("max {entries}"));
    }
    if let Some(flags) = number("map_flags") {
        parts.push(format!("flags {flags:#x}"));
    }
    parts.join(", ")
}

/// Names a map type as bpftool does.
fn kind_name(kind: u32) -> String {
    match kind {
        1 => "hash",
        2 => "array",
        3 => "prog_array",
        5 => "percpu_hash",
        6 => "percpu_array",
        7 => "stack_trace",
        9 => "lru_hash",
        10 => "lru_percpu_hash",
        11 => "lpm_trie",
        27 => "ringbuf",
        _ => return format!("type {kind}"),
    }
    .to_owned()
}

/// Lists programs, then subprograms, each with its relocations.
fn write_functions(out: &mut String, file: &Elf<'_>) -> std::fmt::Result {
    for (title, in_text) in [("programs", false), ("subprograms", true)] {
        let mut functions = Vec::new();
        for symbol in file.symbols().filter(|s| s.kind() == SymbolKind::Text) {
            let Some(index) = symbol.section_index() else { continue };
            let Ok(section) = file.section_by_index(index) else { continue };
            if section.kind() == SectionKind::Text && (section.name() == Ok(".text")) == in_text {
                functions.push((index, symbol));
            }
        }
        functions.sort_by_key(|(index, symbol)| (index.0, symbol.address()));
        if !functions.is_empty() {
            writeln!(out, "{title}")?;
        }
        for (index, symbol) in functions {
            let section = file.section_by_index(index).ok();
            let section = section.as_ref().and_then(|s| s.name().ok()).unwrap_or("?");
            let count = symbol.size() / INSN as u64;
            writeln!(out, "  {} ({section}): {count} instructions", symbol.name().unwrap_or("?"))?;
            write_relocations(out, file, index, symbol.address()..symbol.address().saturating_add(symbol.size()))?;
        }
    }
    Ok(())
}

fn write_relocations(out: &mut String, file: &Elf<'_>, index: SectionIndex, range: std::ops::Range<u64>) -> std::fmt::Result {
    let Ok(section) = file.section_by_index(index) else { return Ok(()) };
    let data = section.data().unwrap_or_default();
    for (offset, relocation) in section.relocations().filter(|(offset, _)| range.contains(offset)) {
        let RelocationTarget::Symbol(symbol) = relocation.target() else {
            continue;
        };
        let Ok(symbol) = file.symbol_by_index(symbol) else { continue };
        let target = symbol.section_index().and_then(|i| file.section_by_index(i).ok());
        let target = target.as_ref().and_then(|s| s.name().ok()).unwrap_or("?");
        let name = symbol.name().unwrap_or("?");
        let what = match (relocation.flags(), target) {
            (RelocationFlags::Elf { r_type: R_BPF_64_32 }, _) => format!("call {name}"),
            (_, ".maps") => format!("map {name}"),
            (_, ".text") => format!("address of {name}"),
            _ => {
                let imm = usize::try_from(offset)
                    .ok()
                    .and_then(|at| data.get(at + 4..at + 8))
                    .and_then(|b| b.try_into().ok());
                format!("{target} + {}", imm.map_or(0, u32::from_le_bytes))
            }
        };
        writeln!(out, "    {}: {what}", (offset - range.start) / INSN as u64)?;
    }
    Ok(())
}
