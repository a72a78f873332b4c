//! C types: from the kernel's BTF, from a tracepoint's format, from casts in the script.

use super::check::{Checker, nearest_name};
use super::{CTy, Expr, ExprKind, Space, Ty};
use crate::btf::{Btf, BtfType, TypeId};
use crate::kernel::TracepointField;
use crate::types::Type;
use weir_parser::ast::{self, TypeExprKind};
use weir_parser::{Diagnostic, Span};

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

impl Checker<'_> {
    /// Resolves a type as written in a cast or a declaration.
    pub(super) fn type_expr(&mut self, ty: &ast::TypeExpr) -> Ty {
        match &ty.kind {
            TypeExprKind::Name(name) => match name.as_str() {
                "bool" => Ty::Bool,
                "string" => Ty::Str { cap: 1024 },
                "inet" => Ty::Inet,
                "macaddr_t" => Ty::Mac,
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
            TypeExprKind::TypeOf(expr) => self.expr(expr).ty,
            _ => match self.c_type(ty) {
                Some(CTy::Enum { id, .. }) => self.enumeration(id),
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
            TypeExprKind::Name(name) => {
                if let Some((bits, signed)) = int_name(name) {
                    return Some(CTy::Int { bits, signed });
                }
                match name.as_str() {
                    "void" => return Some(CTy::Void),
                    "char" => return Some(CTy::Char),
                    _ => {}
                }
                let kernel = self.kernel;
                let btf = self.need_btf(kernel, ty.span)?;
                if let Some(id) = btf
                    .find_typedef(name)
                    .or_else(|| btf.find_base(name))
                    .or_else(|| btf.find_struct(name))
                {
                    return Some(from_btf(btf, id));
                }
                let near = nearest_name(name, btf.typedef_names()).map(str::to_owned);
                self.unknown_type(ty.span, name, near)
            }
            TypeExprKind::Struct(name) | TypeExprKind::Union(name) | TypeExprKind::Enum(name) => {
                let kernel = self.kernel;
                let btf = self.need_btf(kernel, ty.span)?;
                let (found, word, near) = match &ty.kind {
                    TypeExprKind::Struct(_) => (btf.find_struct(name), "struct", nearest_name(name, btf.struct_names())),
                    TypeExprKind::Union(_) => (btf.find_union(name), "union", nearest_name(name, btf.union_names())),
                    _ => (btf.find_enum(name), "enum", nearest_name(name, btf.enum_names())),
                };
                match found {
                    Some(id) => Some(from_btf(btf, id)),
                    None => {
                        let near = near.map(|n| format!("{word} {n}"));
                        self.unknown_type(ty.span, &format!("{word} {name}"), near)
                    }
                }
            }
            TypeExprKind::Pointer(to) => Some(CTy::Ptr(Box::new(self.c_type(to)?))),
            TypeExprKind::Array(elem, len) => Some(CTy::Array {
                elem: Box::new(self.c_type(elem)?),
                len: u32::try_from(*len).unwrap_or(u32::MAX),
            }),
            TypeExprKind::Sized(..) | TypeExprKind::TypeOf(_) => {
                self.error(Diagnostic::error("bad-type", ty.span, "this is not a C type"));
                None
            }
        }
    }

    fn unknown_type<T>(&mut self, span: Span, name: &str, near: Option<String>) -> Option<T> {
        let mut d = Diagnostic::error("unknown-type", span, format!("this kernel has no type `{name}`"));
        if let Some(near) = near {
            d = d.help(format!("did you mean `{near}`?"));
        }
        self.error(d);
        None
    }

    /// Returns the kernel's types, or says that there are none.
    pub(super) fn need_btf<'k>(&mut self, kernel: &'k dyn crate::kernel::KernelInfo, span: Span) -> Option<&'k Btf> {
        let btf = kernel.btf();
        if btf.is_none() {
            self.error(
                Diagnostic::error(
                    "no-types",
                    span,
                    "this kernel has no type information (CONFIG_DEBUG_INFO_BTF is not set)",
                )
                .help("use a `tracepoint`, whose arguments need none"),
            );
        }
        btf
    }

    /// The type of an enumeration's values.
    pub(super) fn enumeration(&self, id: u32) -> Ty {
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

    /// Returns the size of a C type, from BTF where it takes that.
    pub(super) fn c_size(&self, ty: &CTy) -> Option<u32> {
        match ty {
            CTy::Struct { id, .. } => self.kernel.btf()?.size_of(TypeId(*id)),
            CTy::Array { elem, len } => Some(self.c_size(elem)? * len),
            other => other.size(),
        }
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
            let d = Diagnostic::error("no-members", base.span, format!("`{to}` has no member `{}`", name.name))
                .help("cast it to a pointer to its struct first");
            self.error(d);
            return self.failed(span);
        };
        let Some(btf) = self.kernel.btf() else { return self.failed(span) };
        let Some(field) = btf.member(TypeId(*id), &name.name) else {
            let word = if *union { "union" } else { "struct" };
            let mut d = Diagnostic::error(
                "unknown-member",
                name.span,
                format!("`{word} {type_name}` has no member `{}`", name.name),
            );
            if let Some(near) = nearest_name(&name.name, btf.member_names(TypeId(*id))) {
                d = d.help(format!("did you mean `{near}`?"));
            }
            self.error(d);
            return self.failed(span);
        };
        let ty = from_btf(btf, field.ty);
        // Inside of a union the kernel loses the type.
        let own = btf.composite(TypeId(*id)).is_some_and(|c| c.members().any(|m| m.name == name.name));
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
        if field.bitfield_size > 0 {
            let (CTy::Int { bits, signed } | CTy::Enum { bits, signed, .. }) = ty else {
                return self.failed(span);
            };
            // Read the whole unit of the declared type that the bits lie in.
            let unit = u32::from(bits);
            let start = field.bit_offset / unit * unit;
            let shift = u8::try_from(field.bit_offset - start).unwrap_or(0);
            let width = u8::try_from(field.bitfield_size).unwrap_or(64);
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
        let place = place(field.byte_offset());
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
        tracepoint_field(field, category == "syscalls", span)
    }
}

fn tracepoint_field(field: &TracepointField, syscall: bool, span: Span) -> Expr {
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
    let ty = if field.ty.contains('*') {
        let to = if field.ty.contains("char") { CTy::Char } else { CTy::Void };
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
