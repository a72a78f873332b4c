//! Reader of kernel BTF (type information): finds types by name, decodes them, follows them to fields.
//!
//! Input: one BTF blob (`/sys/kernel/btf/vmlinux`, a fixture, the `.BTF` section of an object). Output: types, fields
//! and enumerators by name. It is not a writer ([`crate::elf::btf_build`]) and it does not judge types.
//!
//! Construction checks the header and nothing else. A name is looked up by searching the string section for it,
//! because strings are few and unique while hashing all of them would cost more than a script's handful of look-ups.
//! The first questions walk the type section as far as they need (`scan`). When that has cost as much as an index,
//! or all types are wanted, one pass records where each type starts and chains types by the offset of their name.
//!
//! Damaged input never panics: every access is bounds-checked, every walk is bounded, a type that does not decode is
//! `None`, and [`Btf::check`] says whether the whole blob could be walked.
//!
//! Format: kernel `Documentation/bpf/btf.rst`. Types of modules are appended, see `module`.

mod decode;
mod find;
mod module;
mod name;
mod scan;
mod tracepoint;

pub use decode::{ArrayInfo, BtfType, Composite, EnumInfo, FuncProtoInfo, IntInfo, Linkage};
pub use decode::{DataSecInfo, Enumerator, Enumerators, Member, Members, Param, Params, Variable, Variables};
pub use find::FieldRef;
pub use module::ModuleFunc;

use scan::Scan;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// Id of a type within one [`Btf`]; 0 is `void`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TypeId(pub u32);

impl TypeId {
    /// `void`, and the absence of a type.
    pub const VOID: TypeId = TypeId(0);
}

/// What is wrong with a BTF blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BtfError {
    #[error("BTF is too short for its header: {0} bytes")]
    TooShort(usize),
    #[error("not little-endian BTF: the magic number is {0:#06x}, expected 0xeb9f")]
    Magic(u16),
    #[error("unknown BTF version {0}, expected 1")]
    Version(u8),
    #[error("BTF header points outside of the {0} bytes of data")]
    Bounds(usize),
    #[error("BTF types are damaged after type {last_good}, {offset} bytes into the type section")]
    Types { last_good: u32, offset: u32 },
}

/// The kinds of BTF types, numbered as in the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    Int = 1,
    Ptr = 2,
    Array = 3,
    Struct = 4,
    Union = 5,
    Enum = 6,
    Fwd = 7,
    Typedef = 8,
    Volatile = 9,
    Const = 10,
    Restrict = 11,
    Func = 12,
    FuncProto = 13,
    Var = 14,
    DataSec = 15,
    Float = 16,
    DeclTag = 17,
    TypeTag = 18,
    Enum64 = 19,
}

impl Kind {
    fn from_info(info: u32) -> Option<Kind> {
        Some(match (info >> 24) & 0x1f {
            1 => Kind::Int,
            2 => Kind::Ptr,
            3 => Kind::Array,
            4 => Kind::Struct,
            5 => Kind::Union,
            6 => Kind::Enum,
            7 => Kind::Fwd,
            8 => Kind::Typedef,
            9 => Kind::Volatile,
            10 => Kind::Const,
            11 => Kind::Restrict,
            12 => Kind::Func,
            13 => Kind::FuncProto,
            14 => Kind::Var,
            15 => Kind::DataSec,
            16 => Kind::Float,
            17 => Kind::DeclTag,
            18 => Kind::TypeTag,
            19 => Kind::Enum64,
            _ => return None,
        })
    }

    /// Returns the bytes that follow the 12 common ones for a type with `vlen` elements.
    fn extra(self, vlen: u32) -> u32 {
        /// Fixed bytes, and bytes of each element.
        const BYTES: [(u8, u8); 32] = {
            let mut bytes = [(0, 0); 32];
            bytes[Kind::Int as usize] = (4, 0);
            bytes[Kind::Var as usize] = (4, 0);
            bytes[Kind::DeclTag as usize] = (4, 0);
            bytes[Kind::Array as usize] = (12, 0);
            bytes[Kind::Struct as usize] = (0, 12);
            bytes[Kind::Union as usize] = (0, 12);
            bytes[Kind::DataSec as usize] = (0, 12);
            bytes[Kind::Enum64 as usize] = (0, 12);
            bytes[Kind::Enum as usize] = (0, 8);
            bytes[Kind::FuncProto as usize] = (0, 8);
            bytes
        };
        let (fixed, each) = BYTES[self as usize];
        u32::from(fixed) + u32::from(each) * vlen
    }
}

/// Some of the kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct KindSet(u32);

impl KindSet {
    const fn of(kinds: &[Kind]) -> Self {
        let (mut set, mut i) = (0, 0);
        while i < kinds.len() {
            set |= 1 << kinds[i] as u32;
            i += 1;
        }
        Self(set)
    }

    fn contains(self, kind: Kind) -> bool {
        self.0 & 1 << kind as u32 != 0
    }
}

/// Bytes of every type before its kind's own data: name offset, info, size or type.
const COMMON: u32 = 12;
const MAGIC: u16 = 0xeb9f;
const HEADER_MIN: usize = 24;

/// The types of one BTF blob.
pub struct Btf {
    data: Box<dyn AsRef<[u8]> + Send + Sync>,
    /// Start and length of the type section in `data`.
    types: (usize, usize),
    /// Start and length of the string section in `data`.
    strings: (usize, usize),
    scan: Mutex<Scan>,
    index: OnceLock<Index>,
    /// Modules whose types were appended, and how many types and bytes of names there were before the first.
    parts: Vec<module::Part>,
    base: Option<(u32, u32)>,
}

/// Where types are. All offsets count from the start of the type section.
struct Index {
    /// Of type `i + 1`.
    offsets: Vec<u32>,
    /// Hash of a name offset to the first type with such a hash, 0 for none; a power of two of them.
    heads: Vec<u32>,
    /// Next type with the same hash after type `i + 1`, 0 for none.
    next: Vec<u32>,
    /// Every enum and enum64, in order.
    enums: Vec<u32>,
    damage: Option<BtfError>,
}

impl Index {
    fn bucket(heads: usize, name_off: u32) -> usize {
        // Fibonacci hashing; `heads` is a power of two.
        (name_off.wrapping_mul(0x9e37_79b9) >> 8) as usize & (heads - 1)
    }

    fn build(section: &[u8]) -> Index {
        // Types of kernels take 20 bytes on average, so that this rarely reallocates.
        let mut offsets = Vec::with_capacity(section.len() / 18);
        let mut names = Vec::with_capacity(section.len() / 18);
        let mut enums = Vec::new();
        let mut damage = None;
        let mut at = 0u32;
        while (at as usize) < section.len() {
            let Some(head) = scan::head(section, at) else {
                damage = Some(BtfError::Types {
                    last_good: offsets.len() as u32,
                    offset: at,
                });
                break;
            };
            offsets.push(at);
            names.push(head.name);
            if matches!(head.kind, Kind::Enum | Kind::Enum64) {
                enums.push(offsets.len() as u32);
            }
            at += head.len;
        }
        let mut heads = vec![0u32; offsets.len().next_power_of_two().max(16)];
        let mut next = vec![0u32; offsets.len()];
        // Backwards, so that a chain lists the lowest id first: the first of two types with one name wins.
        for (i, name) in names.iter().enumerate().rev().filter(|(_, name)| **name != 0) {
            let head = &mut heads[Self::bucket(offsets.len().next_power_of_two().max(16), *name)];
            next[i] = *head;
            *head = i as u32 + 1;
        }
        Index {
            offsets,
            heads,
            next,
            enums,
            damage,
        }
    }
}

impl std::fmt::Debug for Btf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Btf")
            .field("types", &self.types.1)
            .field("strings", &self.strings.1)
            .finish_non_exhaustive()
    }
}

impl Btf {
    /// Takes a blob and checks its header.
    ///
    /// # Errors
    /// When the header is not that of little-endian BTF version 1, or points outside of the data.
    pub fn new(data: Box<dyn AsRef<[u8]> + Send + Sync>) -> Result<Btf, BtfError> {
        let bytes = (*data).as_ref();
        let too_short = BtfError::TooShort(bytes.len());
        if bytes.len() < HEADER_MIN {
            return Err(too_short);
        }
        let magic = u16::from_le_bytes([bytes[0], bytes[1]]);
        if magic != MAGIC {
            return Err(BtfError::Magic(magic));
        }
        if bytes[2] != 1 {
            return Err(BtfError::Version(bytes[2]));
        }
        let word = |at| u32_at(bytes, at).map(|w| w as usize).ok_or(too_short);
        let header = word(4)?;
        let section = |offset: usize, len: usize| -> Result<(usize, usize), BtfError> {
            let start = header + offset;
            if header < HEADER_MIN || start.saturating_add(len) > bytes.len() || u32::try_from(len).is_err() {
                return Err(BtfError::Bounds(bytes.len()));
            }
            Ok((start, len))
        };
        let types = section(word(8)?, word(12)?)?;
        let strings = section(word(16)?, word(20)?)?;
        Ok(Btf {
            data,
            types,
            strings,
            scan: Mutex::default(),
            index: OnceLock::new(),
            parts: Vec::new(),
            base: None,
        })
    }

    /// Takes a blob held in memory; see [`Btf::new`].
    ///
    /// # Errors
    /// As [`Btf::new`].
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Btf, BtfError> {
        Btf::new(Box::new(bytes))
    }

    /// Walks all types once.
    ///
    /// # Errors
    /// Where the type section could not be read on; the types before that are usable all the same.
    pub fn check(&self) -> Result<(), BtfError> {
        self.index().damage.map_or(Ok(()), Err)
    }

    /// Returns the highest type id (ids start at 1).
    #[must_use]
    pub fn type_count(&self) -> u32 {
        self.index().offsets.len() as u32
    }

    /// Lists the ids of all types except `void`.
    pub fn ids(&self) -> impl Iterator<Item = TypeId> + '_ {
        (1..=self.type_count()).map(TypeId)
    }

    fn index(&self) -> &Index {
        self.index.get_or_init(|| Index::build(self.type_section()))
    }

    fn scan(&self) -> MutexGuard<'_, Scan> {
        self.scan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn section(&self, (start, len): (usize, usize)) -> &[u8] {
        // The holder might hand out less than at construction: nothing then decodes.
        (*self.data).as_ref().get(start..start + len).unwrap_or_default()
    }

    fn type_section(&self) -> &[u8] {
        self.section(self.types)
    }

    fn string_section(&self) -> &[u8] {
        self.section(self.strings)
    }

    /// Returns the text at an offset of the string section; empty when there is none or it is not UTF-8.
    fn string(&self, offset: u32) -> &str {
        let tail = self.string_section().get(offset as usize..).unwrap_or_default();
        let len = memchr::memchr(0, tail).unwrap_or(0);
        std::str::from_utf8(&tail[..len]).unwrap_or_default()
    }

    /// Returns every offset of the string section where exactly `name` stands. Linkers keep one of each.
    fn string_offsets<'a>(&'a self, name: &'a str) -> impl Iterator<Item = u32> + 'a {
        let strings = self.string_section();
        let usable = !name.is_empty() && !name.contains('\0');
        memchr::memmem::find_iter(strings, name.as_bytes())
            .filter(move |&at| {
                let before = at.checked_sub(1).and_then(|i| strings.get(i));
                usable && before == Some(&0) && strings.get(at + name.len()) == Some(&0)
            })
            .map(|at| at as u32)
    }

    /// Returns where in the type section a type starts.
    fn offset(&self, id: TypeId) -> Option<u32> {
        match self.index.get() {
            Some(index) => index.offsets.get((id.0 as usize).checked_sub(1)?).copied(),
            None => self.scan().offset(self.type_section(), id),
        }
    }

    /// Returns the first three words of a type: name offset, info, size or type.
    fn common(&self, id: TypeId) -> Option<(u32, u32, u32, u32)> {
        self.head_words(self.offset(id)?)
    }

    /// As [`Btf::common`], of the type that starts at an offset. The first number is where what follows them starts.
    fn head_words(&self, at: u32) -> Option<(u32, u32, u32, u32)> {
        let section = self.type_section();
        Some((
            at + COMMON,
            u32_at(section, at)?,
            u32_at(section, at + 4)?,
            u32_at(section, at + 8)?,
        ))
    }

    /// Returns the kind of a type; `None` for `void` and for ids that do not exist.
    #[must_use]
    pub fn kind(&self, id: TypeId) -> Option<Kind> {
        Kind::from_info(self.common(id)?.2)
    }
}

/// Reads a little-endian word.
fn u32_at(bytes: &[u8], at: u32) -> Option<u32> {
    let at = at as usize;
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}
