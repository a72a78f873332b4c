//! C types: from the kernel's BTF, from a tracepoint's format, from casts in the script.

use super::check::{Checker, nearest_name};
use super::script_types::{ScriptTypes, Word};
use super::{CTy, Expr, ExprKind, Space, Ty};
use crate::btf::{Btf, BtfType, TypeId};
use crate::kernel::{KernelInfo, TracepointField};
use crate::types::{StructField, Type};
use weir_parser::ast::{self, TypeExprKind};
use weir_parser::{Diagnostic, Span};

/// Structs in structs that are printed.
const MAX_PRINTED_DEPTH: u32 = 8;

/// Translates a BTF type; what scripts cannot use becomes [`CTy::Opaque`].
pub(super) fn from_btf(btf: &Btf, id: TypeId) -> CTy {
    from_btf_nested(btf, id, 0)
}

fn from_btf_nested(btf: &Btf, id: TypeId, depth: u32) -> CTy {
    let id = btf.resolve(id);
    if depth > 8 {
        return CTy::Opaque(btf.c_name(id));
    }
    match btf.type_by_id(id) {
        Some(BtfType::Void) => CTy::Void,
        Some(BtfType::Int(int))
            if int.char || (int.size == 1 && matches!(int.name, "char" | "unsigned char" | "signed char") && int.name == "char") =>
        {
            CTy::Char
        }
        Some(BtfType::Int(int)) if int.size <= 8 => CTy::Int {
            bits: u8::try_from(int.size * 8).unwrap_or(64),
            signed: int.signed,
        },
        Some(BtfType::Enum(info)) => CTy::Enum {
            name: info.name.to_owned(),
            id: id.0,
            bits: u8::try_from(info.size * 8).unwrap_or(32),
            signed: info.signed,
        },
        Some(BtfType::Ptr(to)) => CTy::Ptr(Box::new(from_btf_nested(btf, to, depth + 1))),
        Some(BtfType::Array(array)) => CTy::Array {
            elem: Box::new(from_btf_nested(btf, array.elem, depth + 1)),
            len: array.len,
        },
        Some(BtfType::Struct(s)) => CTy::Struct {
            name: s.name.to_owned(),
            id: id.0,
            union: false,
        },
        Some(BtfType::Union(s)) => CTy::Struct {
            name: s.name.to_owned(),
            id: id.0,
            union: true,
        },
        _ => CTy::Opaque(btf.c_name(id)),
    }
}

/// Returns the integer type of a C or bpftrace type name.
fn int_name(name: &str) -> Option<(u8, bool)> {
    Some(match name {
        "int8" | "int8_t" | "s8" | "__s8" => (8, true),
        "int16" | "int16_t" | "s16" | "__s16" | "short" => (16, true),
        "int32" | "int32_t" | "s32" | "__s32" | "int" | "pid_t" => (32, true),
        "int64" | "int64_t" | "s64" | "__s64" | "long" | "ssize_t" | "loff_t" => (64, true),
        "uint8" | "uint8_t" | "u8" | "__u8" => (8, false),
        "uint16" | "uint16_t" | "u16" | "__u16" | "__be16" => (16, false),
        "uint32" | "uint32_t" | "u32" | "__u32" | "__be32" | "uid_t" | "gid_t" | "unsigned" => (32, false),
        "uint64" | "uint64_t" | "u64" | "__u64" | "__be64" | "size_t" => (64, false),
        _ => return None,
    })
}

/// Resolves a type that is no pointer, array or `typeof`: a name, or a word and a name.
/// The kernel's types are not touched for what needs none.
pub(super) fn leaf_type(ty: &ast::TypeExpr, kernel: Option<&dyn KernelInfo>, own: &ScriptTypes, out: &mut Vec<Diagnostic>) -> Option<CTy> {
    match &ty.kind {
        TypeExprKind::Name(name) => {
            if let Some((bits, signed)) = int_name(name) {
                return Some(CTy::Int { bits, signed });
            }
            match name.as_str() {
                "void" => return Some(CTy::Void),
                "char" => return Some(CTy::Char),
                "bool" => return Some(CTy::Int { bits: 8, signed: false }),
                _ => {}
            }
            let found = [Word::Struct, Word::Union, Word::Enum].into_iter().find_map(|w| own.find(w, name));
            if found.is_some() {
                return found;
            }
            let btf = need_btf(kernel, ty.span, out)?;
            if let Some(id) = btf
                .find_typedef(name)
                .or_else(|| btf.find_base(name))
                .or_else(|| btf.find_struct(name))
            {
                return Some(from_btf(btf, id));
            }
            let near = nearest_name(name, btf.typedef_names()).map(str::to_owned);
            unknown_type(ty.span, name, near, out)
        }
        TypeExprKind::Struct(name) | TypeExprKind::Union(name) | TypeExprKind::Enum(name) => {
            let word = match &ty.kind {
                TypeExprKind::Struct(_) => Word::Struct,
                TypeExprKind::Union(_) => Word::Union,
                _ => Word::Enum,
            };
            if let Some(found) = own.find(word, name) {
                return Some(found);
            }
            let near_own = nearest_name(name, own.names(word)).map(str::to_owned);
            let btf = need_btf(kernel, ty.span, out)?;
            let found = match word {
                Word::Struct => btf.find_struct(name),
                Word::Union => btf.find_union(name),
                Word::Enum => btf.find_enum(name),
            };
            if let Some(id) = found {
                return Some(from_btf(btf, id));
            }
            let near = near_own.or_else(|| {
                let near = match word {
                    Word::Struct => nearest_name(name, btf.struct_names()),
                    Word::Union => nearest_name(name, btf.union_names()),
                    Word::Enum => nearest_name(name, btf.enum_names()),
                };
                near.map(str::to_owned)
            });
            let word = word.text();
            unknown_type(ty.span, &format!("{word} {name}"), near.map(|n| format!("{word} {n}")), out)
        }
        TypeExprKind::Pointer(_) | TypeExprKind::Array(..) | TypeExprKind::Sized(..) | TypeExprKind::TypeOf(_) => {
            out.push(Diagnostic::error("bad-type", ty.span, "this is not a C type"));
            None
        }
    }
}

fn unknown_type<T>(span: Span, name: &str, near: Option<String>, out: &mut Vec<Diagnostic>) -> Option<T> {
    let mut d = Diagnostic::error("unknown-type", span, format!("this kernel has no type `{name}`"));
    if let Some(near) = near {
        d = d.help(format!("did you mean `{near}`?"));
    }
    out.push(d);
    None
}

/// Returns the kernel's types, or says that there are none.
fn need_btf<'k>(kernel: Option<&'k dyn KernelInfo>, span: Span, out: &mut Vec<Diagnostic>) -> Option<&'k Btf> {
    let btf = kernel.and_then(KernelInfo::btf);
    if btf.is_none() {
        let error = |message: &str| Diagnostic::error("no-types", span, message);
        out.push(if kernel.is_some_and(KernelInfo::any_interface) {
            error("a replay has no kernel, and so none of its types").help("packets are read by fields: `ip.src`, `pkt.u16[off]`")
        } else {
            error("this kernel has no type information (CONFIG_DEBUG_INFO_BTF is not set)")
                .help("use a `tracepoint`, whose arguments need none")
        });
    }
    btf
}

/// Returns the size of a C type in bytes.
pub(super) fn size_of(ty: &CTy, kernel: Option<&dyn KernelInfo>, own: &ScriptTypes) -> Option<u32> {
    match ty {
        CTy::Struct { id, .. } if ScriptTypes::owns(*id) => own.size(*id),
        CTy::Struct { id, .. } => kernel?.btf()?.size_of(TypeId(*id)),
        CTy::Array { elem, len } => size_of(elem, kernel, own)?.checked_mul(*len),
        other => other.size(),
    }
}

/// Returns the alignment of a C type in bytes. BTF does not say it: it follows from the members.
pub(super) fn align_of(ty: &CTy, kernel: Option<&dyn KernelInfo>, own: &ScriptTypes) -> u32 {
    fn nested(ty: &CTy, kernel: Option<&dyn KernelInfo>, own: &ScriptTypes, depth: u32) -> u32 {
        match ty {
            CTy::Struct { id, .. } if ScriptTypes::owns(*id) => own.align(*id).unwrap_or(1),
            CTy::Struct { id, .. } => match kernel.and_then(KernelInfo::btf) {
                Some(btf) if depth < 8 => btf
                    .fields(TypeId(*id))
                    .into_iter()
                    .map(|(_, field)| nested(&from_btf(btf, field.ty), kernel, own, depth + 1))
                    .max()
                    .unwrap_or(1),
                _ => 8,
            },
            CTy::Array { elem, .. } => nested(elem, kernel, own, depth),
            other => other.size().unwrap_or(1).max(1),
        }
    }
    nested(ty, kernel, own, 0)
}

/// Returns the C type of a value, where it has one.
pub(super) fn as_c(ty: &Ty) -> Option<CTy> {
    Some(match ty {
        Ty::Bool => CTy::Int { bits: 8, signed: false },
        Ty::Int { bits, signed } => CTy::Int {
            bits: *bits,
            signed: *signed,
        },
        Ty::Ptr { to, .. } => CTy::Ptr(to.clone()),
        Ty::Obj { ty, .. } => ty.clone(),
        Ty::Str { cap } => CTy::Array {
            elem: Box::new(CTy::Char),
            len: *cap,
        },
        Ty::Kept(kept) => kept_as_c(kept)?,
        _ => return None,
    })
}

fn kept_as_c(ty: &Type) -> Option<CTy> {
    Some(match ty {
        Type::Int { bits, signed } => CTy::Int {
            bits: *bits,
            signed: *signed,
        },
        Type::Enum { .. } => CTy::Int { bits: 64, signed: true },
        Type::Array { elem, len } => CTy::Array {
            elem: Box::new(kept_as_c(elem)?),
            len: *len,
        },
        Type::Struct { name, id, union, .. } => CTy::Struct {
            name: name.clone(),
            id: *id,
            union: *union,
        },
        Type::Str { cap } => CTy::Array {
            elem: Box::new(CTy::Char),
            len: *cap,
        },
        Type::Ptr { pointee } => CTy::Ptr(Box::new(CTy::Opaque(pointee.clone()))),
        _ => return None,
    })
}

impl Checker<'_> {
    /// Resolves a type as written in a cast or a declaration.
    pub(super) fn type_expr(&mut self, ty: &ast::TypeExpr) -> Ty {
        match &ty.kind {
            TypeExprKind::Name(name) => match name.as_str() {
                "bool" => Ty::Bool,
                "string" => Ty::Str { cap: 1024 },
                "inet" => Ty::Inet,
                "macaddr_t" => Ty::Mac,
                "void" => Ty::Void,
                _ => match self.c_type(ty) {
                    Some(CTy::Int { bits, signed }) => Ty::Int { bits, signed },
                    Some(CTy::Char) => Ty::Int { bits: 8, signed: true },
                    Some(CTy::Enum { id, .. }) => self.enumeration(id),
                    Some(CTy::Ptr(to)) => Ty::Ptr { to, space: Space::Kernel },
                    Some(other) => {
                        self.error(
                            Diagnostic::error("bad-type", ty.span, format!("a value of type `{other}` is not possible here"))
                                .help(format!("`{other} *`")),
                        );
                        Ty::Error
                    }
                    None => Ty::Error,
                },
            },
            TypeExprKind::Sized(name, n) if name == "string" => Ty::Str {
                cap: u32::try_from(*n).unwrap_or(u32::MAX).clamp(1, 65536),
            },
            TypeExprKind::Pointer(to) => match self.c_type(to) {
                Some(to) => Ty::Ptr {
                    to: Box::new(to),
                    space: Space::Kernel,
                },
                None => Ty::Error,
            },
            TypeExprKind::TypeOf(expr) => match self.value(expr).ty {
                Ty::Obj { ty, space } => match self.kept_object(&ty) {
                    Some(kept) => Ty::Kept(kept),
                    None => Ty::Obj { ty, space },
                },
                other => other,
            },
            _ => match self.c_type(ty) {
                Some(CTy::Enum { id, .. }) => self.enumeration(id),
                Some(CTy::Array { elem, len }) if *elem == CTy::Char && len > 0 => Ty::Str { cap: len },
                Some(array @ CTy::Array { .. }) if self.kept_object(&array).is_some() => {
                    self.kept_object(&array).map_or(Ty::Error, Ty::Kept)
                }
                Some(other) => {
                    self.error(
                        Diagnostic::error("bad-type", ty.span, format!("a value of type `{other}` is not possible here"))
                            .help(format!("`({other} *)`")),
                    );
                    Ty::Error
                }
                None => Ty::Error,
            },
        }
    }

    fn c_type(&mut self, ty: &ast::TypeExpr) -> Option<CTy> {
        match &ty.kind {
            TypeExprKind::Pointer(to) => Some(CTy::Ptr(Box::new(self.c_type(to)?))),
            TypeExprKind::Array(elem, len) => Some(CTy::Array {
                elem: Box::new(self.c_type(elem)?),
                len: u32::try_from(*len).unwrap_or(u32::MAX),
            }),
            TypeExprKind::TypeOf(expr) => {
                let found = self.expr(expr).ty;
                if found == Ty::Error {
                    return None;
                }
                let c = as_c(&found);
                if c.is_none() {
                    let d = Diagnostic::error("bad-type", ty.span, format!("`{found}` is not a C type"));
                    self.error(d);
                }
                c
            }
            // A function's types are met at each of its calls, and looking for near names takes a while: said once is enough.
            _ if self.diagnostics.iter().any(|d| d.span == ty.span && d.code == "unknown-type") => None,
            _ => leaf_type(ty, Some(self.kernel), self.types, &mut self.diagnostics),
        }
    }

    /// Returns the kernel's types, or says that there are none.
    pub(super) fn need_btf<'k>(&mut self, kernel: &'k dyn crate::kernel::KernelInfo, span: Span) -> Option<&'k Btf> {
        need_btf(Some(kernel), span, &mut self.diagnostics)
    }

    /// The type of an enumeration's values.
    pub(super) fn enumeration(&self, id: u32) -> Ty {
        if let Some((name, values)) = self.types.enumeration(id) {
            return Ty::Kept(Type::Enum {
                name: name.to_owned(),
                values: values.to_vec(),
            });
        }
        match self.kernel.btf().and_then(|b| b.type_by_id(TypeId(id))) {
            Some(BtfType::Enum(info)) if !info.name.is_empty() => Ty::Kept(Type::Enum {
                name: info.name.to_owned(),
                values: info.values().map(|v| (v.name.to_owned(), v.value)).collect(),
            }),
            Some(BtfType::Enum(info)) => Ty::Int {
                bits: 64,
                signed: info.signed,
            },
            _ => Ty::I64,
        }
    }

    /// Returns the size of a C type, from BTF or the script where it takes that.
    pub(super) fn c_size(&self, ty: &CTy) -> Option<u32> {
        size_of(ty, Some(self.kernel), self.types)
    }

    /// Returns where a member lies: offset in bits, width of a bitfield or 0, type.
    fn field_of(&self, id: u32, name: &str) -> Option<(u32, u32, CTy)> {
        if ScriptTypes::owns(id) {
            let field = self.types.fields(id).iter().find(|f| f.name == name)?;
            return Some((field.bit_offset, field.bits, field.ty.clone()));
        }
        let btf = self.kernel.btf()?;
        let field = btf.member(TypeId(id), name)?;
        Some((field.bit_offset, field.bitfield_size, from_btf(btf, field.ty)))
    }

    /// Lists the members of a struct or union as [`Self::field_of`] finds them.
    fn fields_of(&self, id: u32) -> Vec<(String, u32, u32, CTy)> {
        if ScriptTypes::owns(id) {
            let fields = self.types.fields(id).iter();
            return fields.map(|f| (f.name.clone(), f.bit_offset, f.bits, f.ty.clone())).collect();
        }
        let Some(btf) = self.kernel.btf() else { return Vec::new() };
        let fields = btf.fields(TypeId(id)).into_iter();
        fields
            .map(|(name, f)| (name.to_owned(), f.bit_offset, f.bitfield_size, from_btf(btf, f.ty)))
            .collect()
    }

    /// Returns the type of a whole C object as it is kept and printed; `None` where it cannot be.
    pub(super) fn kept_object(&self, ty: &CTy) -> Option<Type> {
        self.kept_nested(ty, 0)
    }

    fn kept_nested(&self, ty: &CTy, depth: u32) -> Option<Type> {
        if depth > MAX_PRINTED_DEPTH {
            return None;
        }
        Some(match ty {
            CTy::Int { bits, signed } | CTy::Enum { bits, signed, .. } if depth == 0 || matches!(ty, CTy::Int { .. }) => Type::Int {
                bits: *bits,
                signed: *signed,
            },
            CTy::Enum { id, .. } => match self.enumeration(*id) {
                Ty::Kept(ty) => ty,
                _ => return None,
            },
            CTy::Int { bits, signed } => Type::Int {
                bits: *bits,
                signed: *signed,
            },
            CTy::Char => Type::Int { bits: 8, signed: true },
            CTy::Ptr(to) => Type::Ptr { pointee: to.to_string() },
            CTy::Array { elem, len } if **elem == CTy::Char && *len > 0 => Type::Str { cap: *len },
            CTy::Array { elem, len } => {
                let elem = match &**elem {
                    CTy::Enum { bits, signed, .. } => Type::Int {
                        bits: *bits,
                        signed: *signed,
                    },
                    other => self.kept_nested(other, depth + 1)?,
                };
                Type::Array {
                    elem: Box::new(elem),
                    len: *len,
                }
            }
            CTy::Struct { name, id, union } => {
                let mut fields = Vec::new();
                for (name, bit_offset, width, ty) in self.fields_of(*id) {
                    let (Some(size), Some(kept)) = (self.c_size(&ty), self.kept_nested(&ty, depth + 1)) else {
                        continue;
                    };
                    let (offset, bits) = if width > 0 {
                        let unit = size * 8;
                        let start = bit_offset / unit * unit;
                        let shift = u8::try_from(bit_offset - start).unwrap_or(0);
                        (start / 8, Some((shift, u8::try_from(width).unwrap_or(64))))
                    } else {
                        (bit_offset / 8, None)
                    };
                    fields.push(StructField {
                        name,
                        offset,
                        size,
                        bits,
                        ty: kept,
                    });
                }
                Type::Struct {
                    name: name.clone(),
                    id: *id,
                    union: *union,
                    size: self.c_size(ty)?,
                    fields,
                }
            }
            CTy::Void | CTy::Opaque(_) => return None,
        })
    }

    /// Makes what lies in the program's own memory an object whose parts can be named.
    pub(super) fn own_object(base: Expr) -> Expr {
        let object = match &base.ty {
            Ty::Kept(ty @ (Type::Struct { .. } | Type::Array { .. })) => kept_as_c(ty),
            Ty::Str { .. } => as_c(&base.ty),
            _ => None,
        };
        let Some(ty) = object else { return base };
        let span = base.span;
        let kind = ExprKind::Place {
            base: Box::new(base),
            offset: 0,
        };
        let space = Space::Kernel;
        Self::make(kind, Ty::Obj { ty, space }, span)
    }

    /// `base.name` and `base->name` on something that has members.
    pub(super) fn member(&mut self, base: Expr, name: &ast::Ident, span: Span) -> Expr {
        if let Ty::Record(fields) = &base.ty {
            return match fields.iter().position(|(n, _)| *n == name.name) {
                Some(index) => {
                    let ty = fields[index].1.clone();
                    let kind = ExprKind::TupleGet {
                        base: Box::new(base),
                        index,
                    };
                    Expr { kind, ty, span }
                }
                None => {
                    let names: Vec<&str> = fields.iter().map(|(n, _)| n.as_str()).collect();
                    let message = format!("the record has no field `{}`", name.name);
                    let d = Diagnostic::error("unknown-member", name.span, message).help(format!("it has `{}`", names.join("`, `")));
                    self.error(d);
                    self.failed(span)
                }
            };
        }
        let base = if matches!(base.ty, Ty::Kept(Type::Struct { .. })) {
            Self::own_object(base)
        } else {
            base
        };
        let (to, space) = match &base.ty {
            Ty::Ptr { to, space } => ((**to).clone(), *space),
            Ty::Obj { ty: CTy::Ptr(to), space } => ((**to).clone(), *space),
            Ty::Obj { ty, space } => (ty.clone(), *space),
            Ty::Error => return self.failed(span),
            other => {
                let d = Diagnostic::error(
                    "no-members",
                    base.span,
                    format!("a value of type `{other}` has no member `{}`", name.name),
                );
                self.error(d);
                return self.failed(span);
            }
        };
        let CTy::Struct {
            id,
            name: type_name,
            union,
        } = &to
        else {
            let mut d = Diagnostic::error("no-members", base.span, format!("`{to}` has no member `{}`", name.name));
            d = if to == CTy::Void && self.kernel.btf().is_none() {
                d.help("this kernel has no type information (CONFIG_DEBUG_INFO_BTF is not set), so nobody knows what it points to")
            } else {
                d.help("cast it to a pointer to its struct first")
            };
            self.error(d);
            return self.failed(span);
        };
        let Some((bit_offset, bitfield_size, ty)) = self.field_of(*id, &name.name) else {
            let word = if *union { "union" } else { "struct" };
            let mut d = Diagnostic::error(
                "unknown-member",
                name.span,
                format!("`{word} {type_name}` has no member `{}`", name.name),
            );
            let names: Vec<String> = self.fields_of(*id).into_iter().map(|f| f.0).collect();
            if let Some(near) = nearest_name(&name.name, names.iter().map(String::as_str)) {
                d = d.help(format!("did you mean `{near}`?"));
            }
            self.error(d);
            return self.failed(span);
        };
        // Inside of a union the kernel loses the type.
        let own = self
            .kernel
            .btf()
            .and_then(|btf| btf.composite(TypeId(*id)))
            .is_some_and(|c| c.members().any(|m| m.name == name.name));
        let space = if space == Space::Btf && (*union || !own) {
            Space::Kernel
        } else {
            space
        };
        let place = |offset| Expr {
            kind: ExprKind::Place {
                base: Box::new(base.clone()),
                offset,
            },
            ty: Ty::Obj { ty: ty.clone(), space },
            span,
        };
        if bitfield_size > 0 {
            let (bits, signed) = match ty {
                CTy::Int { bits, signed } | CTy::Enum { bits, signed, .. } => (bits, signed),
                CTy::Char => (8, true),
                _ => return self.failed(span),
            };
            // Read the whole unit of the declared type that the bits lie in.
            let unit = u32::from(bits);
            let start = bit_offset / unit * unit;
            let shift = u8::try_from(bit_offset - start).unwrap_or(0);
            let width = u8::try_from(bitfield_size).unwrap_or(64);
            let read = ExprKind::Read {
                place: Box::new(place(start / 8)),
                size: unit / 8,
                bits: Some((shift, width)),
            };
            return Expr {
                kind: read,
                ty: Ty::Int { bits, signed },
                span,
            };
        }
        let place = place(bit_offset / 8);
        self.load(place)
    }

    /// Reads a scalar; structs and arrays stay places.
    pub(super) fn load(&mut self, place: Expr) -> Expr {
        let Ty::Obj { ty, space } = &place.ty else { return place };
        let (value_ty, size) = match ty {
            CTy::Int { bits, signed } => (
                Ty::Int {
                    bits: *bits,
                    signed: *signed,
                },
                u32::from(*bits) / 8,
            ),
            CTy::Char => (Ty::Int { bits: 8, signed: true }, 1),
            CTy::Enum { id, bits, signed, .. } => {
                let kind = self.enumeration(*id);
                let (number, size, span) = (
                    Ty::Int {
                        bits: *bits,
                        signed: *signed,
                    },
                    u32::from(*bits) / 8,
                    place.span,
                );
                let read = ExprKind::Read {
                    place: Box::new(place),
                    size,
                    bits: None,
                };
                let read = Expr {
                    kind: read,
                    ty: number,
                    span,
                };
                return Expr {
                    kind: ExprKind::Convert(Box::new(read)),
                    ty: kind,
                    span,
                };
            }
            // What a kernel object points to is in the kernel unless the script says otherwise.
            CTy::Ptr(to) => (
                Ty::Ptr {
                    to: to.clone(),
                    space: match space {
                        Space::User => Space::User,
                        // The kernel follows its own structs.
                        Space::Btf if matches!(**to, CTy::Struct { .. }) => Space::Btf,
                        _ => Space::Kernel,
                    },
                },
                8,
            ),
            CTy::Void | CTy::Struct { .. } | CTy::Array { .. } | CTy::Opaque(_) => return place,
        };
        let span = place.span;
        Expr {
            kind: ExprKind::Read {
                place: Box::new(place),
                size,
                bits: None,
            },
            ty: value_ty,
            span,
        }
    }

    pub(super) fn failed(&self, span: Span) -> Expr {
        Expr {
            kind: ExprKind::Error,
            ty: Ty::Error,
            span,
        }
    }

    /// `args.name` in a tracepoint.
    pub(super) fn tracepoint_arg(&mut self, category: &str, event: &str, name: &ast::Ident, span: Span) -> Expr {
        let Some(fields) = self.kernel.tracepoint(category, event) else {
            return self.failed(span);
        };
        // Of a system call no type tells what its arguments are called: each is a number, where the script is only judged.
        let unnamed = fields
            .iter()
            .find(|f| category == "syscalls" && f.name == "args" && f.array.is_some());
        if let (true, Some(args)) = (self.options.judged_only, unnamed)
            && fields.iter().all(|f| f.name != name.name)
        {
            let any = TracepointField {
                name: name.name.clone(),
                size: 8,
                array: None,
                ..args.clone()
            };
            return tracepoint_field(&any, None, true, span);
        }
        let Some(field) = fields.iter().find(|f| f.name == name.name) else {
            let mut d = Diagnostic::error(
                "unknown-arg",
                name.span,
                format!("`tracepoint:{category}:{event}` has no argument `{}`", name.name),
            );
            let names = || fields.iter().map(|f| f.name.as_str()).filter(|n| !n.starts_with("common_"));
            d = match nearest_name(&name.name, names()) {
                Some(near) => d.help(format!("did you mean `{near}`?")),
                None => d.help(format!("it has `{}`", names().collect::<Vec<_>>().join("`, `"))),
            };
            self.error(d);
            return self.failed(span);
        };
        let target = field.ty.contains('*').then(|| self.pointed_at(&field.ty, name.span)).flatten();
        tracepoint_field(field, target, category == "syscalls", span)
    }

    /// What a pointer leads to whose type is written as in C, `const struct sockaddr *`; `None` for what is no pointer, and `void`
    /// for what this kernel's types do not know.
    fn pointed_at(&self, text: &str, span: Span) -> Option<CTy> {
        let words: Vec<&str> = text
            .split_inclusive('*')
            .flat_map(|part| part.split_ascii_whitespace())
            .flat_map(|word| match word.strip_suffix('*') {
                Some(word) => [word, "*"],
                None => [word, ""],
            })
            .filter(|word| !matches!(*word, "" | "const" | "volatile" | "__user"))
            .collect();
        let stars = words.iter().filter(|word| **word == "*").count();
        let kind = match words.get(..words.len() - stars)? {
            ["struct", name] => TypeExprKind::Struct((*name).to_owned()),
            ["union", name] => TypeExprKind::Union((*name).to_owned()),
            ["enum", name] => TypeExprKind::Enum((*name).to_owned()),
            names => TypeExprKind::Name(names.join(" ")),
        };
        let named = ast::TypeExpr { kind, span };
        let leaf = leaf_type(&named, Some(self.kernel), self.types, &mut Vec::new()).unwrap_or(CTy::Void);
        (1..stars)
            .try_fold(leaf, |to, _| Some(CTy::Ptr(Box::new(to))))
            .filter(|_| stars > 0)
    }
}

/// The value of an argument; `target` is what it leads to where it is a pointer.
fn tracepoint_field(field: &TracepointField, target: Option<CTy>, syscall: bool, span: Span) -> Expr {
    let offset = field.offset;
    if field.data_loc {
        let ty = Ty::Ptr {
            to: Box::new(CTy::Char),
            space: Space::Kernel,
        };
        return Expr {
            kind: ExprKind::DataLoc { offset },
            ty,
            span,
        };
    }
    if let Some(len) = field.array {
        let bits = u8::try_from(field.size / len.max(1) * 8).unwrap_or(8);
        let elem = if field.ty.trim() == "char" {
            CTy::Char
        } else {
            CTy::Int {
                bits,
                signed: field.signed,
            }
        };
        let base = Expr {
            kind: ExprKind::Builtin(crate::tables::BuiltinKind::Ctx),
            ty: Ty::Ptr {
                to: Box::new(CTy::Void),
                space: Space::Context,
            },
            span,
        };
        let ty = Ty::Obj {
            ty: CTy::Array { elem: Box::new(elem), len },
            space: Space::Context,
        };
        return Expr {
            kind: ExprKind::Place {
                base: Box::new(base),
                offset,
            },
            ty,
            span,
        };
    }
    let ty = if let Some(to) = target {
        Ty::Ptr {
            to: Box::new(to),
            space: if syscall { Space::User } else { Space::Kernel },
        }
    } else if field.ty == "bool" {
        Ty::Bool
    } else {
        Ty::Int {
            bits: u8::try_from(field.size * 8).unwrap_or(64),
            signed: field.signed,
        }
    };
    Expr {
        kind: ExprKind::CtxLoad { offset, size: field.size },
        ty,
        span,
    }
}
