//! Types of modules ("split BTF"): their numbers and names go on where those of the kernel end.
//!
//! Several modules all start at the same number, so each is renumbered on its way behind what is there. The result is one
//! blob like any other; what is there already keeps its numbers.

use super::{Btf, BtfError, BtfType, COMMON, HEADER_MIN, Kind, MAGIC, TypeId, scan, u32_at};

/// One module's share of the types.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    name: String,
    /// Its first type, and the first one behind it.
    first: u32,
    end: u32,
    /// What the kernel calls the first one where it is asked about this module.
    own_first: u32,
}

/// A function of a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModuleFunc {
    pub id: TypeId,
    /// What the kernel calls it in the types of the module.
    pub own_id: u32,
}

impl Btf {
    /// Returns these types and behind them those of modules: name, and contents of `/sys/kernel/btf/NAME`.
    ///
    /// # Errors
    /// A module's blob is damaged, or belongs to another kernel.
    pub fn with_modules(&self, modules: &[(String, Vec<u8>)]) -> Result<Btf, BtfError> {
        // Where the kernel's own end, which is what modules count from.
        let (base_types, base_strings) = self.base.unwrap_or((self.type_count(), self.strings.1 as u32));
        let mut types = self.type_section().to_vec();
        let mut strings = self.string_section().to_vec();
        let mut parts = self.parts.clone();
        let mut count = self.type_count();
        for (name, blob) in modules {
            let split = Btf::from_bytes(blob.clone())?;
            let section = split.type_section();
            let shift = Shift {
                from_type: base_types,
                types: count - base_types,
                from_string: base_strings,
                strings: strings.len() as u32 - base_strings,
            };
            let (mut at, mut added) = (0, 0);
            while (at as usize) < section.len() {
                let damaged = BtfError::Types {
                    last_good: added,
                    offset: at,
                };
                let head = scan::head(section, at).ok_or(damaged)?;
                shift
                    .copy(&section[at as usize..(at + head.len) as usize], head.kind, &mut types)
                    .ok_or(damaged)?;
                at += head.len;
                added += 1;
            }
            strings.extend_from_slice(split.string_section());
            parts.push(Part {
                name: name.clone(),
                first: count + 1,
                end: count + 1 + added,
                own_first: base_types + 1,
            });
            count += added;
        }
        let mut data = Vec::with_capacity(HEADER_MIN + types.len() + strings.len());
        data.extend_from_slice(&MAGIC.to_le_bytes());
        data.extend_from_slice(&[1, 0]);
        for word in [HEADER_MIN, 0, types.len(), types.len(), strings.len()] {
            data.extend_from_slice(&(word as u32).to_le_bytes());
        }
        data.extend_from_slice(&types);
        data.extend_from_slice(&strings);
        let mut all = Btf::from_bytes(data)?;
        all.parts = parts;
        all.base = Some((base_types, base_strings));
        Ok(all)
    }

    fn part(&self, module: &str) -> Option<&Part> {
        self.parts.iter().find(|p| p.name == module)
    }

    /// Whether the types of a module are among these.
    #[must_use]
    pub fn has_module(&self, module: &str) -> bool {
        self.part(module).is_some()
    }

    /// Whether a type is the kernel's own, not that of a module.
    #[must_use]
    pub fn is_own(&self, id: TypeId) -> bool {
        self.base.is_none_or(|(types, _)| id.0 <= types)
    }

    /// Lists the functions of a module whose types are known.
    pub fn module_funcs(&self, module: &str) -> impl Iterator<Item = (&str, ModuleFunc)> {
        let part = self.part(module);
        part.into_iter().flat_map(move |part| {
            (part.first..part.end).filter_map(move |id| match self.type_by_id(TypeId(id)) {
                Some(BtfType::Func { name, .. }) => Some((
                    name,
                    ModuleFunc {
                        id: TypeId(id),
                        own_id: id - part.first + part.own_first,
                    },
                )),
                _ => None,
            })
        })
    }
}

/// How far numbers of types and places of names move; those of the kernel itself stay.
struct Shift {
    from_type: u32,
    types: u32,
    from_string: u32,
    strings: u32,
}

impl Shift {
    fn id(&self, id: u32) -> u32 {
        if id > self.from_type { id + self.types } else { id }
    }

    fn name(&self, offset: u32) -> u32 {
        if offset >= self.from_string {
            offset + self.strings
        } else {
            offset
        }
    }

    /// Appends one type.
    fn copy(&self, ty: &[u8], kind: Kind, out: &mut Vec<u8>) -> Option<()> {
        let word = |n: u32| u32_at(ty, n * 4);
        let mut put = |word: u32| out.extend_from_slice(&word.to_le_bytes());
        put(self.name(word(0)?));
        put(word(1)?);
        let third = word(2)?;
        put(match kind {
            Kind::Ptr
            | Kind::Typedef
            | Kind::Volatile
            | Kind::Const
            | Kind::Restrict
            | Kind::Func
            | Kind::FuncProto
            | Kind::Var
            | Kind::DeclTag
            | Kind::TypeTag => self.id(third),
            Kind::Int | Kind::Array | Kind::Struct | Kind::Union | Kind::Enum | Kind::Fwd | Kind::DataSec | Kind::Float | Kind::Enum64 => {
                third
            }
        });
        // What each word of the elements is, in turn.
        let elements: &[Word] = match kind {
            Kind::Array => &[Word::Type, Word::Type, Word::Plain],
            Kind::Struct | Kind::Union => &[Word::Name, Word::Type, Word::Plain],
            Kind::Enum => &[Word::Name, Word::Plain],
            Kind::Enum64 => &[Word::Name, Word::Plain, Word::Plain],
            Kind::FuncProto => &[Word::Name, Word::Type],
            Kind::DataSec => &[Word::Type, Word::Plain, Word::Plain],
            _ => &[Word::Plain],
        };
        for (n, what) in (COMMON / 4..ty.len() as u32 / 4).zip(elements.iter().cycle()) {
            let word = word(n)?;
            put(match what {
                Word::Type => self.id(word),
                Word::Name => self.name(word),
                Word::Plain => word,
            });
        }
        Some(())
    }
}

#[derive(Clone, Copy)]
enum Word {
    Type,
    Name,
    Plain,
}
