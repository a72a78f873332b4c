//! Look-ups over the types: by name, fields through anonymous members, sizes, enumerators, names for suggestions.

use super::scan::value_of;
use super::{Btf, BtfType, Composite, FuncProtoInfo, Index, Kind, KindSet, TypeId};

const STRUCT: KindSet = KindSet::of(&[Kind::Struct]);
const UNION: KindSet = KindSet::of(&[Kind::Union]);
const ENUM: KindSet = KindSet::of(&[Kind::Enum, Kind::Enum64]);
const TYPEDEF: KindSet = KindSet::of(&[Kind::Typedef]);
const FUNC: KindSet = KindSet::of(&[Kind::Func]);
const BASE: KindSet = KindSet::of(&[Kind::Int, Kind::Float]);

/// Modifiers and typedefs in a row; the kernel itself refuses more than 32.
const MAX_CHAIN: u32 = 64;
/// Members looked at for one field, so that damaged types that contain themselves end.
const MAX_MEMBERS: u32 = 100_000;
/// Anonymous structs in each other.
const MAX_NESTING: u32 = 16;

/// Where a field is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldRef {
    /// From the start of the struct that was asked, through anonymous members. A multiple of 8 unless it is a bit-field.
    pub bit_offset: u32,
    /// Bits, or 0 when it is not a bit-field.
    pub bitfield_size: u32,
    pub ty: TypeId,
}

impl FieldRef {
    /// Returns the byte that the field starts in.
    #[must_use]
    pub fn byte_offset(&self) -> u32 {
        self.bit_offset / 8
    }
}

impl Btf {
    /// Returns the first type of some kinds with this name.
    fn find(&self, name: &str, kinds: KindSet) -> Option<TypeId> {
        let section = self.type_section();
        if self.index.get().is_none() {
            let mut scan = self.scan();
            if let Some(known) = scan.known(name, kinds) {
                return known;
            }
            if !scan.index_pays(section) {
                let offsets: Vec<u32> = self.string_offsets(name).collect();
                let found = scan.find(section, &offsets, kinds);
                scan.remember(name, kinds, found);
                return found;
            }
        }
        let index = self.index();
        for offset in self.string_offsets(name) {
            let mut id = *index.heads.get(Index::bucket(index.heads.len(), offset))?;
            while id != 0 {
                let (_, name_off, info, _) = self.common(TypeId(id))?;
                if name_off == offset && Kind::from_info(info).is_some_and(|kind| kinds.contains(kind)) {
                    return Some(TypeId(id));
                }
                id = index.next[id as usize - 1];
            }
        }
        None
    }

    /// Finds `struct NAME` (a definition, not a forward declaration).
    #[must_use]
    pub fn find_struct(&self, name: &str) -> Option<TypeId> {
        self.find(name, STRUCT)
    }

    /// Finds `union NAME`.
    #[must_use]
    pub fn find_union(&self, name: &str) -> Option<TypeId> {
        self.find(name, UNION)
    }

    /// Finds `enum NAME`.
    #[must_use]
    pub fn find_enum(&self, name: &str) -> Option<TypeId> {
        self.find(name, ENUM)
    }

    #[must_use]
    pub fn find_typedef(&self, name: &str) -> Option<TypeId> {
        self.find(name, TYPEDEF)
    }

    /// Finds a function by its symbol.
    #[must_use]
    pub fn find_func(&self, name: &str) -> Option<TypeId> {
        self.find(name, FUNC)
    }

    /// Finds an integer or floating-point type by its C name (`int`, `long unsigned int`, `_Bool`).
    #[must_use]
    pub fn find_base(&self, name: &str) -> Option<TypeId> {
        self.find(name, BASE)
    }

    /// Returns the prototype of a named function.
    #[must_use]
    pub fn func_proto(&self, name: &str) -> Option<FuncProtoInfo<'_>> {
        match self.type_by_id(self.find_func(name)?)? {
            BtfType::Func { proto, .. } => match self.type_by_id(proto)? {
                BtfType::FuncProto(proto) => Some(proto),
                _ => None,
            },
            _ => None,
        }
    }

    /// Follows typedefs and `const`, `volatile`, `restrict`, type tags to what they stand for. Of a damaged endless
    /// chain it returns some type in it.
    #[must_use]
    pub fn resolve(&self, id: TypeId) -> TypeId {
        let mut id = id;
        for _ in 0..MAX_CHAIN {
            match self.common(id) {
                Some((_, _, info, target)) => match Kind::from_info(info) {
                    Some(Kind::Typedef | Kind::Const | Kind::Volatile | Kind::Restrict | Kind::TypeTag) => id = TypeId(target),
                    _ => return id,
                },
                None => return id,
            }
        }
        id
    }

    /// Decodes what a type stands for; see [`Btf::resolve`].
    #[must_use]
    pub fn resolved(&self, id: TypeId) -> Option<BtfType<'_>> {
        self.type_by_id(self.resolve(id))
    }

    /// Returns the struct or union that a type stands for.
    #[must_use]
    pub fn composite(&self, id: TypeId) -> Option<Composite<'_>> {
        match self.resolved(id)? {
            BtfType::Struct(composite) | BtfType::Union(composite) => Some(composite),
            _ => None,
        }
    }

    /// Returns the size in bytes; `None` where there is none (`void`, functions, forward declarations).
    #[must_use]
    pub fn size_of(&self, id: TypeId) -> Option<u32> {
        let mut id = id;
        let mut count = 1u32;
        for _ in 0..MAX_CHAIN {
            let size = match self.resolved(id)? {
                BtfType::Int(int) => int.size,
                BtfType::Ptr(_) => 8,
                BtfType::Struct(composite) | BtfType::Union(composite) => composite.size,
                BtfType::Enum(info) => info.size,
                BtfType::Float { size, .. } => size,
                BtfType::DataSec(section) => section.size,
                BtfType::Var { ty, .. } => {
                    id = ty;
                    continue;
                }
                BtfType::Array(array) => {
                    count = count.checked_mul(array.len)?;
                    id = array.elem;
                    continue;
                }
                _ => return None,
            };
            return count.checked_mul(size);
        }
        None
    }

    /// Finds a field of a struct or union (or of a typedef of one), also inside its anonymous members.
    #[must_use]
    pub fn member(&self, id: TypeId, name: &str) -> Option<FieldRef> {
        if name.is_empty() {
            return None;
        }
        self.visit_fields(id, &mut |field_name, field| (field_name == name).then_some(field))
    }

    /// Lists the fields of a struct or union that can be named, those of anonymous members in their place.
    #[must_use]
    pub fn fields(&self, id: TypeId) -> Vec<(&str, FieldRef)> {
        let mut fields = Vec::new();
        let _: Option<()> = self.visit_fields(id, &mut |name, field| {
            fields.push((name, field));
            None
        });
        fields
    }

    /// Calls `visit` for each field that can be named until it returns something.
    fn visit_fields<'a, T>(&'a self, id: TypeId, visit: &mut dyn FnMut(&'a str, FieldRef) -> Option<T>) -> Option<T> {
        let mut budget = MAX_MEMBERS;
        let mut stack = vec![(0u32, self.composite(id)?.members())];
        while let Some((base, members)) = stack.last_mut() {
            let base = *base;
            let Some(member) = members.next() else {
                stack.pop();
                continue;
            };
            budget = budget.checked_sub(1)?;
            let Some(bit_offset) = base.checked_add(member.bit_offset) else {
                continue;
            };
            if !member.name.is_empty() {
                let found = visit(
                    member.name,
                    FieldRef {
                        bit_offset,
                        bitfield_size: member.bitfield_size,
                        ty: member.ty,
                    },
                );
                if found.is_some() {
                    return found;
                }
            } else if stack.len() < MAX_NESTING as usize
                && let Some(inner) = self.composite(member.ty)
            {
                stack.push((bit_offset, inner.members()));
            }
        }
        None
    }

    /// Finds an enumerator by name in all enums: its value and its enum.
    #[must_use]
    pub fn enumerator(&self, name: &str) -> Option<(i64, TypeId)> {
        let mut scan = self.scan();
        if let Some(known) = scan.known_enumerator(name) {
            return known;
        }
        let section = self.type_section();
        let found = self.string_offsets(name).find_map(|offset| {
            scan.enums(section, |id, at| {
                let value = value_of(&self.decode(at)?, offset)?;
                Some((value, id))
            })
        });
        scan.remember_enumerator(name, found);
        found
    }

    fn names(&self, kinds: KindSet) -> impl Iterator<Item = &str> {
        self.ids().filter_map(move |id| {
            let (_, name_off, info, _) = self.common(id)?;
            (name_off != 0 && Kind::from_info(info).is_some_and(|kind| kinds.contains(kind))).then(|| self.string(name_off))
        })
    }

    /// Lists the names of all structs, in the order of their ids. For "did you mean".
    pub fn struct_names(&self) -> impl Iterator<Item = &str> {
        self.names(STRUCT)
    }

    pub fn union_names(&self) -> impl Iterator<Item = &str> {
        self.names(UNION)
    }

    pub fn enum_names(&self) -> impl Iterator<Item = &str> {
        self.names(ENUM)
    }

    pub fn typedef_names(&self) -> impl Iterator<Item = &str> {
        self.names(TYPEDEF)
    }

    pub fn func_names(&self) -> impl Iterator<Item = &str> {
        self.names(FUNC)
    }

    /// Lists all enumerators with their values.
    pub fn enumerators(&self) -> impl Iterator<Item = (&str, i64)> {
        self.index()
            .enums
            .iter()
            .filter_map(|&id| match self.type_by_id(TypeId(id)) {
                Some(BtfType::Enum(info)) => Some(info.values().map(|e| (e.name, e.value))),
                _ => None,
            })
            .flatten()
    }

    /// Lists the names of the fields of a struct or union, those of anonymous members too. For "did you mean".
    pub fn member_names(&self, id: TypeId) -> impl Iterator<Item = &str> {
        self.fields(id).into_iter().map(|(name, _)| name)
    }
}
