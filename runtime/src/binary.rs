//! Programs and libraries on disk: where they are, their functions, their static events.

use object::read::elf::{ElfFile64, ProgramHeader};
use object::{Endianness, Object, ObjectSection, ObjectSegment, ObjectSymbol, SymbolFlags, elf};
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use weir_compiler::hir::glob_match;
use weir_compiler::kernel::{UsdtProbe, UserFunction, UserSymbol};

/// Files above this size are not searched for symbols.
const MAX_FILE_BYTES: u64 = 1 << 30;

type Elf<'a> = ElfFile64<'a, Endianness>;

/// Finds a program or library by path, name in `PATH`, name of a library (`c`, `libc`, `libc.so.6`) or pattern of paths.
///
/// # Errors
/// Why there is none.
pub fn find(name: &str) -> Result<Vec<String>, String> {
    if name.is_empty() {
        return Err("the attach point names no program or library".to_owned());
    }
    if name.contains(['*', '?', '[']) {
        let found = by_pattern(name);
        return if found.is_empty() {
            Err(format!("no program or library matches `{name}`"))
        } else {
            Ok(found)
        };
    }
    if name.contains('/') {
        // By one name, so that a link and what it points to are one.
        return match std::fs::canonicalize(name) {
            Ok(path) if path.is_file() => Ok(vec![path.to_string_lossy().into_owned()]),
            Ok(_) => Err(format!("`{name}` is not a file")),
            Err(e) => Err(format!("there is no program or library `{name}`: {}", crate::sys::describe(&e))),
        };
    }
    in_path(name)
        .or_else(|| library(name))
        .map(|path| vec![path])
        .ok_or_else(|| format!("there is no program `{name}` in PATH and no library of that name"))
}

fn in_path(name: &str) -> Option<String> {
    let path = std::env::var_os("PATH")?;
    let runs = |p: &PathBuf| p.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    let found = std::env::split_paths(&path).map(|dir| dir.join(name)).find(runs)?;
    Some(std::fs::canonicalize(&found).unwrap_or(found).to_string_lossy().into_owned())
}

/// Finds a library as the dynamic linker would: by its cache.
fn library(name: &str) -> Option<String> {
    let cache = parse_ld_cache(&std::fs::read("/etc/ld.so.cache").ok()?)?;
    let fits = |lib: &str| {
        let stem = lib.split(".so").next().unwrap_or(lib);
        lib == name || stem == name || stem.strip_prefix("lib") == Some(name)
    };
    let (_, path) = cache.iter().find(|(lib, _)| fits(lib))?;
    let path = Path::new(path);
    Some(
        std::fs::canonicalize(path)
            .unwrap_or_else(|_| path.to_owned())
            .to_string_lossy()
            .into_owned(),
    )
}

/// Reads the dynamic linker's cache: names and paths of the libraries for x86-64.
fn parse_ld_cache(bytes: &[u8]) -> Option<Vec<(String, String)>> {
    const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
    const HEADER: usize = 48;
    const ENTRY: usize = 24;
    /// `FLAG_X8664_LIB64 | FLAG_ELF_LIBC6`
    const X86_64: u32 = 0x303;
    // An older table may stand before this one.
    let start = memchr::memmem::find(bytes, MAGIC)?;
    let cache = &bytes[start..];
    let word = |at: usize| Some(u32::from_le_bytes(cache.get(at..at + 4)?.try_into().ok()?));
    let text = |at: u32| {
        let tail = cache.get(at as usize..)?;
        let end = memchr::memchr(0, tail)?;
        Some(String::from_utf8_lossy(&tail[..end]).into_owned())
    };
    let count = word(20)? as usize;
    let entries = (0..count).filter_map(|i| {
        let at = HEADER + i * ENTRY;
        (word(at)? == X86_64).then_some(())?;
        Some((text(word(at + 4)?)?, text(word(at + 8)?)?))
    });
    Some(entries.collect())
}

/// Lists the files that a pattern of paths matches; without a `/` it is looked for in `PATH`.
fn by_pattern(pattern: &str) -> Vec<String> {
    let mut found = Vec::new();
    if pattern.starts_with('/') {
        let parts: Vec<&str> = pattern.split('/').filter(|p| !p.is_empty()).collect();
        walk(Path::new("/"), &parts, &mut found);
    } else if pattern != "*" {
        let path = std::env::var_os("PATH").unwrap_or_default();
        for dir in std::env::split_paths(&path) {
            walk(&dir, &[pattern], &mut found);
        }
    }
    let mut files: Vec<String> = found
        .into_iter()
        .filter(|p| p.is_file() && is_elf(p))
        .map(|p| std::fs::canonicalize(&p).unwrap_or(p).to_string_lossy().into_owned())
        .collect();
    files.sort();
    files.dedup();
    files
}

fn walk(dir: &Path, parts: &[&str], out: &mut Vec<PathBuf>) {
    let Some((first, rest)) = parts.split_first() else {
        out.push(dir.to_owned());
        return;
    };
    if !first.contains(['*', '?', '[']) {
        return walk(&dir.join(first), rest, out);
    }
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if glob_match(first, &entry.file_name().to_string_lossy()) {
            walk(&entry.path(), rest, out);
        }
    }
}

fn is_elf(path: &Path) -> bool {
    use std::io::Read;
    let mut magic = [0; 4];
    std::fs::File::open(path).and_then(|mut f| f.read_exact(&mut magic)).is_ok() && magic == elf::ELFMAG
}

fn read(path: &str) -> Result<Vec<u8>, String> {
    let cannot = |e: std::io::Error| format!("cannot read `{path}`: {}", crate::sys::describe(&e));
    if std::fs::metadata(path).map_err(cannot)?.len() > MAX_FILE_BYTES {
        return Err(format!("`{path}` is too large to search for symbols"));
    }
    std::fs::read(path).map_err(cannot)
}

fn parse<'a>(path: &str, data: &'a [u8]) -> Result<Elf<'a>, String> {
    let script = data.starts_with(b"#!");
    Elf::parse(data).map_err(|e| {
        if script {
            format!("`{path}` is a script, not a program")
        } else {
            format!("`{path}` is not a 64-bit program or library: {e}")
        }
    })
}

/// Translates an address, as the symbol table has it, to an offset in the file.
fn file_offset(file: &Elf<'_>, address: u64) -> Option<u64> {
    file.segments().find_map(|s| {
        let (offset, size) = s.file_range();
        let inside = address.checked_sub(s.address())?;
        (inside < size).then_some(offset + inside)
    })
}

/// As [`file_offset`], only where code is.
fn code_offset_of(file: &Elf<'_>, address: u64) -> Option<u64> {
    let endian = file.endian();
    file.elf_program_headers().iter().find_map(|p| {
        let code = p.p_type(endian) == elf::PT_LOAD && p.p_flags(endian) & elf::PF_X != 0;
        let inside = address.checked_sub(p.p_vaddr(endian))?;
        (code && inside < p.p_filesz(endian)).then_some(p.p_offset(endian) + inside)
    })
}

/// Translates an address, as `nm` prints it, to an offset in the file; `None` outside of its code.
#[must_use]
pub fn code_offset(path: &str, address: u64) -> Option<u64> {
    let data = read(path).ok()?;
    code_offset_of(&parse(path, &data).ok()?, address)
}

/// Translates an offset in the code of a file to an address, as `nm` prints it.
#[must_use]
pub fn code_address(path: &str, offset: u64) -> Option<u64> {
    let data = read(path).ok()?;
    let file = parse(path, &data).ok()?;
    let endian = file.endian();
    file.elf_program_headers().iter().find_map(|p| {
        let code = p.p_type(endian) == elf::PT_LOAD && p.p_flags(endian) & elf::PF_X != 0;
        let inside = offset.checked_sub(p.p_offset(endian))?;
        (code && inside < p.p_filesz(endian)).then_some(p.p_vaddr(endian) + inside)
    })
}

/// Lists functions and variables of a file, by name.
///
/// # Errors
/// Why it cannot be read.
pub fn symbols(path: &str) -> Result<Vec<UserSymbol>, String> {
    let data = read(path)?;
    let file = parse(path, &data)?;
    let mut found: BTreeMap<String, UserSymbol> = BTreeMap::new();
    for symbol in file.symbols().chain(file.dynamic_symbols()) {
        let SymbolFlags::Elf { st_info, .. } = symbol.flags() else {
            continue;
        };
        if !matches!(st_info & 0xf, elf::STT_FUNC | elf::STT_OBJECT) || symbol.is_undefined() {
            continue;
        }
        if let Ok(name) = symbol.name()
            && !name.is_empty()
        {
            found.entry(name.to_owned()).or_insert_with(|| UserSymbol {
                name: name.to_owned(),
                address: symbol.address(),
                size: symbol.size(),
            });
        }
    }
    Ok(found.into_values().collect())
}

/// Lists the functions of a file, by name.
///
/// # Errors
/// Why it cannot be read.
pub fn functions(path: &str) -> Result<Vec<UserFunction>, String> {
    let data = read(path)?;
    let file = parse(path, &data)?;
    let mut found: BTreeMap<String, UserFunction> = BTreeMap::new();
    for symbol in file.symbols().chain(file.dynamic_symbols()) {
        let kind = match symbol.flags() {
            SymbolFlags::Elf { st_info, .. } => st_info & 0xf,
            _ => continue,
        };
        let indirect = kind == elf::STT_GNU_IFUNC;
        if !(kind == elf::STT_FUNC || indirect) || symbol.is_undefined() {
            continue;
        }
        if let (Ok(name), Some(offset)) = (symbol.name(), code_offset_of(&file, symbol.address()))
            && !name.is_empty()
        {
            found.entry(name.to_owned()).or_insert_with(|| UserFunction {
                name: name.to_owned(),
                demangled: demangle(name),
                offset,
                indirect,
            });
        }
    }
    Ok(found.into_values().collect())
}

fn demangle(name: &str) -> Option<String> {
    if !name.starts_with("_Z") {
        return None;
    }
    cpp_demangle::Symbol::new(name).ok()?.demangle().ok()
}

/// Lists the static events of a file, as their notes say.
///
/// # Errors
/// Why it cannot be read.
pub fn usdt_probes(path: &str) -> Result<Vec<UsdtProbe>, String> {
    let data = read(path)?;
    let file = parse(path, &data)?;
    let Some(notes) = file.section_by_name(".note.stapsdt").and_then(|s| s.data().ok()) else {
        return Ok(Vec::new());
    };
    // Where that section has moved (by prelink), everything has.
    let base = file.section_by_name(".stapsdt.base").map(|s| s.address());
    let mut out: Vec<UsdtProbe> = parse_notes(notes)
        .into_iter()
        .filter_map(|note| {
            let moved = base.map_or(0, |b| b.wrapping_sub(note.base));
            let semaphore = match note.semaphore {
                0 => 0,
                // Where it is not in the file, the kernel cannot count it up; the event may fire all the same.
                address => file_offset(&file, address.wrapping_add(moved)).unwrap_or(0),
            };
            Some(UsdtProbe {
                offset: code_offset_of(&file, note.pc.wrapping_add(moved))?,
                semaphore,
                provider: note.provider,
                name: note.name,
                args: note.args,
            })
        })
        .collect();
    out.sort_by(|a, b| (&a.provider, &a.name, a.offset).cmp(&(&b.provider, &b.name, b.offset)));
    Ok(out)
}

struct Note {
    pc: u64,
    base: u64,
    semaphore: u64,
    provider: String,
    name: String,
    args: String,
}

/// Reads the notes of type 3 and name `stapsdt`; damaged ones end the list.
fn parse_notes(mut bytes: &[u8]) -> Vec<Note> {
    let mut out = Vec::new();
    let word = |b: &[u8], at: usize| Some(u32::from_le_bytes(b.get(at..at + 4)?.try_into().ok()?) as usize);
    while let (Some(name_size), Some(desc_size), Some(kind)) = (word(bytes, 0), word(bytes, 4), word(bytes, 8)) {
        let desc_at = 12 + name_size.next_multiple_of(4);
        let (Some(name), Some(desc)) = (bytes.get(12..12 + name_size), bytes.get(desc_at..desc_at + desc_size)) else {
            break;
        };
        if kind == 3 && name == b"stapsdt\0" {
            out.extend(parse_note(desc));
        }
        let end = (desc_at + desc_size.next_multiple_of(4)).min(bytes.len());
        bytes = &bytes[end..];
    }
    out
}

fn parse_note(desc: &[u8]) -> Option<Note> {
    let word = |at: usize| Some(u64::from_le_bytes(desc.get(at..at + 8)?.try_into().ok()?));
    let mut texts = desc.get(24..)?.split(|b| *b == 0).map(|t| String::from_utf8_lossy(t).into_owned());
    Some(Note {
        pc: word(0)?,
        base: word(8)?,
        semaphore: word(16)?,
        provider: texts.next()?,
        name: texts.next()?,
        args: texts.next()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_c_library_is_found_by_every_name() {
        let full = find("libc.so.6").unwrap();
        assert_eq!(find("libc").unwrap(), full);
        assert_eq!(find("c").unwrap(), full);
        assert_eq!(find(&full[0]).unwrap(), full);
        let functions = functions(&full[0]).unwrap();
        let find = |name: &str| functions.iter().find(|f| f.name == name).unwrap();
        assert!(!find("malloc").indirect && find("malloc").offset > 0);
        assert!(find("strlen").indirect, "{:?}", find("strlen"));
    }

    #[test]
    fn symbols_have_addresses_and_offsets_lead_back_to_them() {
        let libc = &find("libc.so.6").unwrap()[0];
        let symbols = symbols(libc).unwrap();
        let malloc = symbols.iter().find(|s| s.name == "malloc").unwrap();
        let environ = symbols.iter().find(|s| s.name == "environ").unwrap();
        assert_eq!(environ.size, 8);
        let offset = code_offset(libc, malloc.address).unwrap();
        assert_eq!(code_address(libc, offset), Some(malloc.address));
        assert_eq!(code_address(libc, u64::MAX), None);
    }

    #[test]
    fn programs_are_found_in_path_and_by_pattern() {
        let sh = find("sh").unwrap();
        assert!(sh[0].starts_with('/'), "{sh:?}");
        assert!(find("/bin/s[h]").unwrap().contains(&sh[0]), "{:?}", find("/bin/s[h]"));
        assert!(find("no-such-program").unwrap_err().contains("PATH"));
        assert!(find("/no/such/file").unwrap_err().contains("/no/such/file"));
        assert!(find("/bin").unwrap_err().contains("not a file"));
    }

    #[test]
    fn damaged_notes_and_caches_end_quietly() {
        assert!(parse_notes(&[1, 0, 0, 0, 255, 255, 255, 255, 3, 0, 0, 0]).is_empty());
        assert!(parse_notes(&[0; 7]).is_empty());
        assert!(parse_ld_cache(b"nothing").is_none());
        assert_eq!(parse_ld_cache(b"glibc-ld.so.cache1.1").map(|c| c.len()), None);
    }

    #[test]
    fn cpp_names_are_read() {
        assert_eq!(demangle("_ZN2ns1fEi").as_deref(), Some("ns::f(int)"));
        assert_eq!(demangle("main"), None);
    }
}
