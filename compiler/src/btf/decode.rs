//! Decoding of one BTF type into its parts. Lists (members, enumerators, parameters) are iterators over the blob.

use super::{Btf, Kind, TypeId, u32_at};

/// A decoded type. Names are empty where the type has none.
#[derive(Clone, Debug)]
pub enum BtfType<'a> {
    Void,
    Int(IntInfo<'a>),
    Ptr(TypeId),
    Array(ArrayInfo),
    Struct(Composite<'a>),
    Union(Composite<'a>),
    /// `enum` and `enum64`.
    Enum(EnumInfo<'a>),
    Fwd {
        name: &'a str,
        union: bool,
    },
    Typedef {
        name: &'a str,
        target: TypeId,
    },
    Volatile(TypeId),
    Const(TypeId),
    Restrict(TypeId),
    TypeTag {
        name: &'a str,
        target: TypeId,
    },
    Func {
        name: &'a str,
        proto: TypeId,
        linkage: Linkage,
    },
    FuncProto(FuncProtoInfo<'a>),
    Var {
        name: &'a str,
        ty: TypeId,
        linkage: Linkage,
    },
    DataSec(DataSecInfo<'a>),
    Float {
        name: &'a str,
        /// Bytes.
        size: u32,
    },
    DeclTag {
        name: &'a str,
        target: TypeId,
        /// Index of the member or parameter, or -1 for the target itself.
        component: i32,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Linkage {
    Static,
    Global,
    Extern,
}

impl Linkage {
    fn from_raw(raw: u32) -> Linkage {
        match raw {
            0 => Linkage::Static,
            1 => Linkage::Global,
            _ => Linkage::Extern,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IntInfo<'a> {
    pub name: &'a str,
    /// Bytes.
    pub size: u32,
    /// Bits of the value; fewer than the size has only in bit-fields of old compilers.
    pub bits: u8,
    /// First bit of the value within the size.
    pub offset: u8,
    pub signed: bool,
    pub char: bool,
    pub bool: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArrayInfo {
    pub elem: TypeId,
    pub index: TypeId,
    /// Elements; 0 for a flexible array.
    pub len: u32,
}

/// A struct or union.
#[derive(Clone, Copy)]
pub struct Composite<'a> {
    pub name: &'a str,
    /// Bytes.
    pub size: u32,
    pub(super) btf: &'a Btf,
    raw: &'a [u8],
    /// Member offsets carry the width of bit-fields.
    flagged: bool,
}

impl std::fmt::Debug for Composite<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Composite")
            .field("name", &self.name)
            .field("size", &self.size)
            .field("members", &self.members().collect::<Vec<_>>())
            .finish()
    }
}

impl<'a> Composite<'a> {
    #[must_use]
    pub fn members(&self) -> Members<'a> {
        Members { composite: *self }
    }
}

/// A member as declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member<'a> {
    /// Empty for an anonymous struct or union and for padding bit-fields.
    pub name: &'a str,
    pub ty: TypeId,
    /// From the start of the struct.
    pub bit_offset: u32,
    /// Bits, or 0 when it is not a bit-field.
    pub bitfield_size: u32,
}

#[derive(Clone, Debug)]
pub struct Members<'a> {
    composite: Composite<'a>,
}

/// Takes the first `N` words off a list.
fn take_words<const N: usize>(raw: &mut &[u8]) -> Option<[u32; N]> {
    let (head, tail) = raw.split_at_checked(N * 4)?;
    let mut words = [0; N];
    for (word, at) in words.iter_mut().zip((0..).step_by(4)) {
        *word = u32_at(head, at)?;
    }
    *raw = tail;
    Some(words)
}

impl<'a> Iterator for Members<'a> {
    type Item = Member<'a>;

    fn next(&mut self) -> Option<Member<'a>> {
        let btf = self.composite.btf;
        let [name, ty, offset] = take_words(&mut self.composite.raw)?;
        let ty = TypeId(ty);
        let (bit_offset, bitfield_size) = if self.composite.flagged {
            (offset & 0xff_ffff, offset >> 24)
        } else {
            // Old compilers say it with an integer type that has fewer bits.
            match btf.type_by_id(ty) {
                Some(BtfType::Int(int)) if int.offset != 0 || u32::from(int.bits) != int.size.saturating_mul(8) => {
                    (offset.saturating_add(u32::from(int.offset)), u32::from(int.bits))
                }
                _ => (offset, 0),
            }
        };
        Some(Member {
            name: btf.string(name),
            ty,
            bit_offset,
            bitfield_size,
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let len = self.composite.raw.len() / 12;
        (len, Some(len))
    }
}

/// An `enum` or `enum64`.
#[derive(Clone, Copy)]
pub struct EnumInfo<'a> {
    pub name: &'a str,
    /// Bytes.
    pub size: u32,
    pub signed: bool,
    pub(super) btf: &'a Btf,
    pub(super) raw: &'a [u8],
    pub(super) wide: bool,
}

impl std::fmt::Debug for EnumInfo<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EnumInfo")
            .field("name", &self.name)
            .field("size", &self.size)
            .field("signed", &self.signed)
            .field("values", &self.values().collect::<Vec<_>>())
            .finish()
    }
}

impl<'a> EnumInfo<'a> {
    #[must_use]
    pub fn values(&self) -> Enumerators<'a> {
        Enumerators { info: *self }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enumerator<'a> {
    pub name: &'a str,
    /// An unsigned 64-bit value above `i64::MAX` wraps around.
    pub value: i64,
}

#[derive(Clone, Debug)]
pub struct Enumerators<'a> {
    info: EnumInfo<'a>,
}

impl<'a> Enumerators<'a> {
    /// Takes the next one as name offset and value.
    pub(super) fn next_raw(&mut self) -> Option<(u32, i64)> {
        if self.info.wide {
            let [name, low, high] = take_words(&mut self.info.raw)?;
            Some((name, (u64::from(high) << 32 | u64::from(low)).cast_signed()))
        } else {
            let [name, value] = take_words(&mut self.info.raw)?;
            Some((
                name,
                if self.info.signed {
                    i64::from(value.cast_signed())
                } else {
                    i64::from(value)
                },
            ))
        }
    }
}

impl<'a> Iterator for Enumerators<'a> {
    type Item = Enumerator<'a>;

    fn next(&mut self) -> Option<Enumerator<'a>> {
        let (name, value) = self.next_raw()?;
        Some(Enumerator {
            name: self.info.btf.string(name),
            value,
        })
    }
}

#[derive(Clone, Copy)]
pub struct FuncProtoInfo<'a> {
    /// `void` when it returns nothing.
    pub ret: TypeId,
    btf: &'a Btf,
    raw: &'a [u8],
}

impl std::fmt::Debug for FuncProtoInfo<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FuncProtoInfo")
            .field("ret", &self.ret)
            .field("params", &self.params().collect::<Vec<_>>())
            .finish()
    }
}

impl<'a> FuncProtoInfo<'a> {
    #[must_use]
    pub fn params(&self) -> Params<'a> {
        Params { proto: *self }
    }

    /// Returns whether it ends in `...`.
    #[must_use]
    pub fn is_variadic(&self) -> bool {
        self.params().last().is_some_and(|p| p.ty == TypeId::VOID && p.name.is_empty())
    }
}

/// A parameter; type `void` without a name stands for `...`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Param<'a> {
    pub name: &'a str,
    pub ty: TypeId,
}

#[derive(Clone, Debug)]
pub struct Params<'a> {
    proto: FuncProtoInfo<'a>,
}

impl<'a> Iterator for Params<'a> {
    type Item = Param<'a>;

    fn next(&mut self) -> Option<Param<'a>> {
        let [name, ty] = take_words(&mut self.proto.raw)?;
        Some(Param {
            name: self.proto.btf.string(name),
            ty: TypeId(ty),
        })
    }
}

/// The variables of one section of an object.
#[derive(Clone, Copy)]
pub struct DataSecInfo<'a> {
    pub name: &'a str,
    /// Bytes.
    pub size: u32,
    raw: &'a [u8],
}

impl std::fmt::Debug for DataSecInfo<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DataSecInfo")
            .field("name", &self.name)
            .field("size", &self.size)
            .field("variables", &self.variables().collect::<Vec<_>>())
            .finish()
    }
}

impl<'a> DataSecInfo<'a> {
    #[must_use]
    pub fn variables(&self) -> Variables<'a> {
        Variables { raw: self.raw }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variable {
    /// A [`BtfType::Var`].
    pub var: TypeId,
    /// Bytes from the start of the section.
    pub offset: u32,
    /// Bytes.
    pub size: u32,
}

#[derive(Clone, Debug)]
pub struct Variables<'a> {
    raw: &'a [u8],
}

impl Iterator for Variables<'_> {
    type Item = Variable;

    fn next(&mut self) -> Option<Variable> {
        let [var, offset, size] = take_words(&mut self.raw)?;
        Some(Variable {
            var: TypeId(var),
            offset,
            size,
        })
    }
}

impl Btf {
    /// Decodes a type; `None` when there is no such type.
    #[must_use]
    pub fn type_by_id(&self, id: TypeId) -> Option<BtfType<'_>> {
        if id == TypeId::VOID {
            return Some(BtfType::Void);
        }
        self.decode(self.offset(id)?)
    }

    /// Decodes the type that starts at an offset of the type section.
    pub(super) fn decode(&self, at: u32) -> Option<BtfType<'_>> {
        let (extra_at, name_off, info, size_or_type) = self.head_words(at)?;
        let kind = Kind::from_info(info)?;
        let flagged = info >> 31 == 1;
        let extra_len = kind.extra(info & 0xffff) as usize;
        let raw = self.type_section().get(extra_at as usize..extra_at as usize + extra_len)?;
        let name = self.string(name_off);
        let target = TypeId(size_or_type);
        let word = |n: u32| u32_at(raw, n * 4);
        Some(match kind {
            Kind::Int => {
                let data = word(0)?;
                let encoding = (data >> 24) & 0xf;
                BtfType::Int(IntInfo {
                    name,
                    size: size_or_type,
                    bits: data.to_le_bytes()[0],
                    offset: data.to_le_bytes()[2],
                    signed: encoding & 1 != 0,
                    char: encoding & 2 != 0,
                    bool: encoding & 4 != 0,
                })
            }
            Kind::Ptr => BtfType::Ptr(target),
            Kind::Array => BtfType::Array(ArrayInfo {
                elem: TypeId(word(0)?),
                index: TypeId(word(1)?),
                len: word(2)?,
            }),
            Kind::Struct => BtfType::Struct(Composite {
                name,
                size: size_or_type,
                btf: self,
                raw,
                flagged,
            }),
            Kind::Union => BtfType::Union(Composite {
                name,
                size: size_or_type,
                btf: self,
                raw,
                flagged,
            }),
            Kind::Enum | Kind::Enum64 => BtfType::Enum(EnumInfo {
                name,
                size: size_or_type,
                signed: flagged,
                btf: self,
                raw,
                wide: kind == Kind::Enum64,
            }),
            Kind::Fwd => BtfType::Fwd { name, union: flagged },
            Kind::Typedef => BtfType::Typedef { name, target },
            Kind::Volatile => BtfType::Volatile(target),
            Kind::Const => BtfType::Const(target),
            Kind::Restrict => BtfType::Restrict(target),
            Kind::TypeTag => BtfType::TypeTag { name, target },
            Kind::Func => BtfType::Func {
                name,
                proto: target,
                linkage: Linkage::from_raw(info & 0xffff),
            },
            Kind::FuncProto => BtfType::FuncProto(FuncProtoInfo {
                ret: target,
                btf: self,
                raw,
            }),
            Kind::Var => BtfType::Var {
                name,
                ty: target,
                linkage: Linkage::from_raw(word(0)?),
            },
            Kind::DataSec => BtfType::DataSec(DataSecInfo {
                name,
                size: size_or_type,
                raw,
            }),
            Kind::Float => BtfType::Float { name, size: size_or_type },
            Kind::DeclTag => BtfType::DeclTag {
                name,
                target,
                component: word(0)?.cast_signed(),
            },
        })
    }
}
