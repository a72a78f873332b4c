//! Builder of BTF blobs: types in, bytes out. Knows the encoding and nothing of what the types are for.
//!
//! A type that is added twice is stored once, so that callers may ask for `u32` wherever they need it. The output
//! depends on the order of the calls alone.
//!
//! Format: kernel `Documentation/bpf/btf.rst`.

use crate::FxHashMap;
use crate::btf::{Kind, TypeId};

/// Encoding bits of an integer type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum IntEncoding {
    Unsigned = 0,
    Signed = 1,
    Char = 2,
    Bool = 4,
}

/// `BTF_FUNC_*` and `BTF_VAR_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum LinkageKind {
    Static = 0,
    Global = 1,
}

/// A member of a struct or union.
#[derive(Clone, Copy, Debug)]
pub struct Field<'a> {
    pub name: &'a str,
    pub ty: TypeId,
    pub bit_offset: u32,
    /// Bits of a bit-field, else 0.
    pub bitfield_size: u8,
}

impl<'a> Field<'a> {
    /// Makes a member that is not a bit-field.
    #[must_use]
    pub fn at_byte(name: &'a str, ty: TypeId, offset: u32) -> Field<'a> {
        Field {
            name,
            ty,
            bit_offset: offset * 8,
            bitfield_size: 0,
        }
    }
}

/// Collects types and strings.
#[derive(Debug)]
pub struct BtfBuilder {
    strings: Vec<u8>,
    string_offsets: FxHashMap<String, u32>,
    types: Vec<u8>,
    known: FxHashMap<Vec<u8>, TypeId>,
    count: u32,
}

impl Default for BtfBuilder {
    fn default() -> Self {
        // Offset 0 is the empty string.
        Self {
            strings: vec![0],
            string_offsets: FxHashMap::default(),
            types: Vec::new(),
            known: FxHashMap::default(),
            count: 0,
        }
    }
}

impl BtfBuilder {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a string and returns its offset. What follows a NUL is cut off.
    pub fn string(&mut self, text: &str) -> u32 {
        let text = text.split('\0').next().unwrap_or_default();
        if text.is_empty() {
            return 0;
        }
        if let Some(&offset) = self.string_offsets.get(text) {
            return offset;
        }
        let offset = self.strings.len() as u32;
        self.strings.extend_from_slice(text.as_bytes());
        self.strings.push(0);
        self.string_offsets.insert(text.to_owned(), offset);
        offset
    }

    fn add(&mut self, kind: Kind, flag: bool, vlen: usize, name: &str, size_or_type: u32, extra: &[u32]) -> TypeId {
        let name = self.string(name);
        let info = u32::from(flag) << 31 | (kind as u32) << 24 | (vlen as u32 & 0xffff);
        let bytes: Vec<u8> = [name, info, size_or_type]
            .iter()
            .chain(extra)
            .flat_map(|word| word.to_le_bytes())
            .collect();
        if let Some(&id) = self.known.get(&bytes) {
            return id;
        }
        self.types.extend_from_slice(&bytes);
        self.count += 1;
        self.known.insert(bytes, TypeId(self.count));
        TypeId(self.count)
    }

    pub fn int(&mut self, name: &str, size: u32, encoding: IntEncoding) -> TypeId {
        self.add(Kind::Int, false, 0, name, size, &[u32::from(encoding as u8) << 24 | (size * 8)])
    }

    pub fn float(&mut self, name: &str, size: u32) -> TypeId {
        self.add(Kind::Float, false, 0, name, size, &[])
    }

    pub fn ptr(&mut self, target: TypeId) -> TypeId {
        self.add(Kind::Ptr, false, 0, "", target.0, &[])
    }

    pub fn array(&mut self, elem: TypeId, index: TypeId, len: u32) -> TypeId {
        self.add(Kind::Array, false, 0, "", 0, &[elem.0, index.0, len])
    }

    pub fn structure(&mut self, name: &str, size: u32, fields: &[Field<'_>]) -> TypeId {
        self.composite(Kind::Struct, name, size, fields)
    }

    pub fn union(&mut self, name: &str, size: u32, fields: &[Field<'_>]) -> TypeId {
        self.composite(Kind::Union, name, size, fields)
    }

    fn composite(&mut self, kind: Kind, name: &str, size: u32, fields: &[Field<'_>]) -> TypeId {
        let flag = fields.iter().any(|f| f.bitfield_size != 0);
        let extra: Vec<u32> = fields
            .iter()
            .flat_map(|f| {
                let offset = if flag {
                    u32::from(f.bitfield_size) << 24 | f.bit_offset & 0xff_ffff
                } else {
                    f.bit_offset
                };
                [self.string(f.name), f.ty.0, offset]
            })
            .collect();
        self.add(kind, flag, fields.len(), name, size, &extra)
    }

    /// Adds an enum of up to 4 bytes.
    pub fn enumeration(&mut self, name: &str, size: u32, signed: bool, values: &[(&str, i32)]) -> TypeId {
        let extra: Vec<u32> = values
            .iter()
            .flat_map(|(name, value)| [self.string(name), value.cast_unsigned()])
            .collect();
        self.add(Kind::Enum, signed, values.len(), name, size, &extra)
    }

    /// Adds an enum of 8 bytes.
    pub fn enumeration64(&mut self, name: &str, signed: bool, values: &[(&str, i64)]) -> TypeId {
        let extra: Vec<u32> = values
            .iter()
            .flat_map(|(name, value)| {
                [
                    self.string(name),
                    (*value & 0xffff_ffff) as u32,
                    (*value >> 32 & 0xffff_ffff) as u32,
                ]
            })
            .collect();
        self.add(Kind::Enum64, signed, values.len(), name, 8, &extra)
    }

    pub fn forward(&mut self, name: &str, union: bool) -> TypeId {
        self.add(Kind::Fwd, union, 0, name, 0, &[])
    }

    pub fn typedef(&mut self, name: &str, target: TypeId) -> TypeId {
        self.add(Kind::Typedef, false, 0, name, target.0, &[])
    }

    /// Adds `const`, `volatile` or `restrict`.
    pub fn qualifier(&mut self, kind: Kind, target: TypeId) -> TypeId {
        debug_assert!(matches!(kind, Kind::Const | Kind::Volatile | Kind::Restrict));
        self.add(kind, false, 0, "", target.0, &[])
    }

    pub fn type_tag(&mut self, name: &str, target: TypeId) -> TypeId {
        self.add(Kind::TypeTag, false, 0, name, target.0, &[])
    }

    /// Adds a tag of a declaration; `component` is the index of the member or parameter, or -1.
    pub fn decl_tag(&mut self, name: &str, target: TypeId, component: i32) -> TypeId {
        self.add(Kind::DeclTag, false, 0, name, target.0, &[component.cast_unsigned()])
    }

    pub fn func_proto(&mut self, ret: TypeId, params: &[(&str, TypeId)]) -> TypeId {
        let extra: Vec<u32> = params.iter().flat_map(|(name, ty)| [self.string(name), ty.0]).collect();
        self.add(Kind::FuncProto, false, params.len(), "", ret.0, &extra)
    }

    pub fn func(&mut self, name: &str, proto: TypeId, linkage: LinkageKind) -> TypeId {
        self.add(Kind::Func, false, linkage as usize, name, proto.0, &[])
    }

    pub fn var(&mut self, name: &str, ty: TypeId, linkage: LinkageKind) -> TypeId {
        self.add(Kind::Var, false, 0, name, ty.0, &[linkage as u32])
    }

    /// Adds a section with its variables as `(var, offset, size)`, in ascending order of their offsets.
    pub fn datasec(&mut self, name: &str, size: u32, variables: &[(TypeId, u32, u32)]) -> TypeId {
        let extra: Vec<u32> = variables.iter().flat_map(|&(var, offset, size)| [var.0, offset, size]).collect();
        self.add(Kind::DataSec, false, variables.len(), name, size, &extra)
    }

    /// Returns the blob: header, types, strings.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        let (types, strings) = (self.types.len() as u32, self.strings.len() as u32);
        let mut blob = Vec::with_capacity(24 + self.types.len() + self.strings.len());
        blob.extend_from_slice(&[0x9f, 0xeb, 1, 0]);
        for word in [24, 0, types, types, strings] {
            blob.extend_from_slice(&u32::to_le_bytes(word));
        }
        blob.extend_from_slice(&self.types);
        blob.extend_from_slice(&self.strings);
        blob
    }
}
