//! Names for addresses of processes: from `/proc/PID/maps` and the symbol tables of the files mapped there.
//!
//! What is read at the first question stays: a process that has gone meanwhile still has names.

use object::{Object, ObjectSegment, ObjectSymbol, SymbolKind};
use std::collections::HashMap;
use std::sync::Arc;

/// Files above this size are not searched for symbols.
const MAX_FILE_BYTES: u64 = 512 << 20;

/// An executable mapping of a file.
#[derive(Debug)]
struct Mapping {
    start: u64,
    end: u64,
    file_offset: u64,
    file: String,
}

/// Symbols of one file, by address as the file has them.
#[derive(Debug, Default)]
struct Table {
    /// Start, size (0 when not known), name; sorted.
    symbols: Vec<(u64, u64, Box<str>)>,
    /// File offset, size, address of each segment.
    segments: Vec<(u64, u64, u64)>,
}

/// A process as it was when it was first asked about.
#[derive(Debug, Default)]
pub struct Process {
    root: String,
    mappings: Vec<Mapping>,
    tables: HashMap<String, Arc<Table>>,
}

/// Where an address is.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    pub name: String,
    pub offset: u64,
    /// Path of the file, as the process sees it.
    pub file: String,
}

impl Process {
    /// Reads the mappings; none where the process has gone.
    #[must_use]
    pub fn open(pid: u32) -> Self {
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
        Self {
            root: format!("/proc/{pid}/root"),
            mappings: parse_maps(&maps),
            tables: HashMap::new(),
        }
    }

    /// Finds the symbol that an address is in.
    pub fn find(&mut self, addr: u64) -> Option<Found> {
        let mapping = self.mappings.iter().find(|m| (m.start..m.end).contains(&addr))?;
        let (file, at) = (mapping.file.clone(), addr - mapping.start + mapping.file_offset);
        let root = &self.root;
        let table = self
            .tables
            .entry(file.clone())
            .or_insert_with(|| Arc::new(Table::read(&format!("{root}{file}")).unwrap_or_default()));
        let (name, offset) = table.find(at)?;
        Some(Found { name, offset, file })
    }
}

impl Table {
    fn read(path: &str) -> Option<Self> {
        if std::fs::metadata(path).ok()?.len() > MAX_FILE_BYTES {
            return None;
        }
        let data = std::fs::read(path).ok()?;
        let file = object::File::parse(&*data).ok()?;
        let mut symbols: Vec<(u64, u64, Box<str>)> = file
            .symbols()
            .chain(file.dynamic_symbols())
            .filter(|s| s.kind() == SymbolKind::Text && s.is_definition())
            .filter_map(|s| Some((s.address(), s.size(), s.name().ok()?.into())))
            .collect();
        symbols.sort();
        symbols.dedup_by_key(|s| s.0);
        let segments = file
            .segments()
            .map(|s| {
                let (offset, size) = s.file_range();
                (offset, size, s.address())
            })
            .collect();
        Some(Self { symbols, segments })
    }

    /// Finds the symbol at an offset of the file, and how far into it that is.
    fn find(&self, file_offset: u64) -> Option<(String, u64)> {
        let (start, _, address) = self
            .segments
            .iter()
            .find(|(start, size, _)| (*start..start + size).contains(&file_offset))?;
        let address = file_offset - start + address;
        let index = self.symbols.partition_point(|(start, ..)| *start <= address).checked_sub(1)?;
        let (start, size, name) = &self.symbols[index];
        (*size == 0 || address < start + size).then(|| (name.to_string(), address - start))
    }
}

/// Reads the executable mappings of files: `START-END r-xp OFFSET DEV INODE PATH`.
fn parse_maps(text: &str) -> Vec<Mapping> {
    let parse = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        let executable = words.next()?.contains('x');
        let file_offset = u64::from_str_radix(words.next()?, 16).ok()?;
        let file = line.find('/').map(|at| line[at..].to_owned())?;
        executable.then_some(Mapping {
            start: u64::from_str_radix(start, 16).ok()?,
            end: u64::from_str_radix(end, 16).ok()?,
            file_offset,
            file,
        })
    };
    text.lines().filter_map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[inline(never)]
    fn somewhere() -> u64 {
        std::hint::black_box(7)
    }

    #[test]
    fn a_function_of_our_own_is_found() {
        assert_eq!(somewhere(), 7);
        let mut process = Process::open(std::process::id());
        let found = process.find(somewhere as fn() -> u64 as usize as u64).unwrap();
        assert!(found.name.contains("somewhere"), "{found:?}");
        assert_eq!(found.offset, 0);
        assert_eq!(process.find(8), None);
    }

    #[test]
    fn only_executable_mappings_of_files_count() {
        let maps = parse_maps(
            "55d000-55e000 r--p 00000000 08:01 12 /usr/bin/a b\n55e000-560000 r-xp 00001000 08:01 12                 /usr/bin/a b\n7f0000-7f1000 r-xp 00000000 00:00 0 [vdso]\n",
        );
        assert_eq!(maps.len(), 1);
        assert_eq!(
            (maps[0].start, maps[0].file_offset, maps[0].file.as_str()),
            (0x55e000, 0x1000, "/usr/bin/a b")
        );
    }
}
