//! C types that the script defines itself, laid out as the C compiler of x86-64 would.
//!
//! Input: the `struct`, `union` and `enum` definitions of the tree. Output: [`ScriptTypes`], whose numbers stand beside those
//! of the kernel's BTF in [`CTy::Struct`] and [`CTy::Enum`]. A type of the script hides one of the kernel's with the same name.

use super::CTy;
use super::check::nearest;
use super::ctypes::{align_of, leaf_type, size_of};
use crate::kernel::KernelInfo;
use std::collections::HashMap;
use weir_parser::ast::{self, BinaryOp, FieldType, TypeBody, TypeExpr, TypeExprKind, UnaryOp};
use weir_parser::{Diagnostic, Span};

/// Numbers of the script's types have this bit, those of BTF never do.
const SCRIPT_BIT: u32 = 1 << 31;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Word {
    Struct,
    Union,
    Enum,
}

impl Word {
    pub fn text(self) -> &'static str {
        match self {
            Word::Struct => "struct",
            Word::Union => "union",
            Word::Enum => "enum",
        }
    }
}

/// A member, with those of unnamed structs in their place.
#[derive(Clone, Debug)]
pub(super) struct Field {
    pub name: String,
    pub bit_offset: u32,
    /// 0 for what is no bitfield.
    pub bits: u32,
    pub ty: CTy,
}

#[derive(Clone, Debug)]
struct ScriptType {
    name: String,
    word: Word,
    /// `None` until it is laid out.
    size: Option<u32>,
    align: u32,
    fields: Vec<Field>,
    values: Vec<(String, i64)>,
    signed: bool,
    span: Span,
}

/// All types of one script.
#[derive(Clone, Debug, Default)]
pub(super) struct ScriptTypes {
    types: Vec<ScriptType>,
    names: HashMap<(Word, String), u32>,
    enumerators: HashMap<String, (i64, u32)>,
}

impl ScriptTypes {
    fn get(&self, id: u32) -> Option<&ScriptType> {
        (id & SCRIPT_BIT != 0).then(|| self.types.get((id & !SCRIPT_BIT) as usize))?
    }

    /// Whether the number is that of a type of the script.
    pub fn owns(id: u32) -> bool {
        id & SCRIPT_BIT != 0
    }

    /// Finds a type by its word and name.
    pub fn find(&self, word: Word, name: &str) -> Option<CTy> {
        let id = *self.names.get(&(word, name.to_owned()))?;
        self.c_type(id)
    }

    fn c_type(&self, id: u32) -> Option<CTy> {
        let ty = self.get(id)?;
        let name = ty.name.clone();
        Some(match ty.word {
            Word::Enum => CTy::Enum {
                name,
                id,
                bits: u8::try_from(ty.size.unwrap_or(4) * 8).unwrap_or(32),
                signed: ty.signed,
            },
            word => CTy::Struct {
                name,
                id,
                union: word == Word::Union,
            },
        })
    }

    pub fn size(&self, id: u32) -> Option<u32> {
        self.get(id)?.size
    }

    pub fn align(&self, id: u32) -> Option<u32> {
        self.get(id).map(|t| t.align)
    }

    pub fn fields(&self, id: u32) -> &[Field] {
        self.get(id).map_or(&[], |t| &t.fields)
    }

    /// Returns name and values of an enumeration.
    pub fn enumeration(&self, id: u32) -> Option<(&str, &[(String, i64)])> {
        self.get(id).map(|t| (t.name.as_str(), t.values.as_slice()))
    }

    /// Returns the value of an enumerator and the number of its enumeration.
    pub fn enumerator(&self, name: &str) -> Option<(i64, u32)> {
        self.enumerators.get(name).copied()
    }

    pub fn names(&self, word: Word) -> impl Iterator<Item = &str> {
        self.names.keys().filter(move |(w, _)| *w == word).map(|(_, name)| name.as_str())
    }
}

/// Lays out the types of a script.
pub(super) fn collect(
    program: &ast::Program,
    kernel: Option<&dyn KernelInfo>,
    defines: &HashMap<String, ast::Expr>,
    out: &mut Vec<Diagnostic>,
) -> ScriptTypes {
    let mut builder = Builder {
        kernel,
        defines,
        types: ScriptTypes::default(),
        out,
    };
    // A pointer may name a type that comes later.
    let ids: Vec<Option<u32>> = program.types.iter().map(|def| builder.register(def)).collect();
    for (def, id) in program.types.iter().zip(ids) {
        if let Some(id) = id {
            builder.lay_out(def, id);
        }
    }
    builder.types
}

struct Builder<'a> {
    kernel: Option<&'a dyn KernelInfo>,
    defines: &'a HashMap<String, ast::Expr>,
    types: ScriptTypes,
    out: &'a mut Vec<Diagnostic>,
}

fn word_of(body: &TypeBody) -> Word {
    match body {
        TypeBody::Struct(_) => Word::Struct,
        TypeBody::Union(_) => Word::Union,
        TypeBody::Enum(_) => Word::Enum,
    }
}

impl Builder<'_> {
    /// Gives the definition its number; `None` for a second one of the same name.
    fn register(&mut self, def: &ast::TypeDef) -> Option<u32> {
        let word = word_of(&def.body);
        let id = SCRIPT_BIT | u32::try_from(self.types.types.len()).unwrap_or(0);
        let name = def.name.as_ref().map(|n| n.name.clone()).unwrap_or_default();
        if let Some(ident) = &def.name {
            if let Some(first) = self.types.names.get(&(word, name.clone())).and_then(|id| self.types.get(*id)) {
                let message = format!("`{} {name}` is defined twice", word.text());
                self.out
                    .push(Diagnostic::error("duplicate-type", ident.span, message).with(first.span, "first here"));
                return None;
            }
            self.types.names.insert((word, name.clone()), id);
        }
        self.types.types.push(ScriptType {
            name,
            word,
            size: None,
            align: 1,
            fields: Vec::new(),
            values: Vec::new(),
            signed: false,
            span: def.name.as_ref().map_or(def.span, |n| n.span),
        });
        Some(id)
    }

    fn lay_out(&mut self, def: &ast::TypeDef, id: u32) {
        let (mut size, mut align, mut fields) = (0, 1, Vec::new());
        match &def.body {
            TypeBody::Enum(list) => return self.enumeration(list, id),
            TypeBody::Struct(list) => {
                // In bits, so that bitfields fit in.
                let mut at: u64 = 0;
                for field in list {
                    let Some((ty, field_size, field_align)) = self.field_type(field) else {
                        continue;
                    };
                    let field_align = if def.packed { 1 } else { field_align };
                    let Some(bits) = field.bits else {
                        at = at.next_multiple_of(u64::from(field_align) * 8);
                        self.add(field, ty, at, 0, &mut fields);
                        at += u64::from(field_size) * 8;
                        align = align.max(field_align);
                        continue;
                    };
                    let unit = u64::from(field_size) * 8;
                    if bits > unit || !matches!(ty, CTy::Int { .. } | CTy::Char | CTy::Enum { .. }) {
                        let message = format!("a bitfield of {bits} bits in a type of {unit}");
                        let d = Diagnostic::error("bad-bitfield", field.span, message);
                        self.out.push(d.help("bitfields are integers, no wider than their type"));
                        continue;
                    }
                    if bits == 0 {
                        at = at.next_multiple_of(unit);
                        continue;
                    }
                    // One that would cross a border of its type starts behind it.
                    if !def.packed && at / unit != (at + bits - 1) / unit {
                        at = at.next_multiple_of(unit);
                    }
                    self.add(field, ty, at, bits, &mut fields);
                    at += bits;
                    if field.name.is_some() {
                        align = align.max(field_align);
                    }
                }
                size = at.div_ceil(8);
            }
            TypeBody::Union(list) => {
                for field in list {
                    let Some((ty, field_size, field_align)) = self.field_type(field) else {
                        continue;
                    };
                    self.add(field, ty, 0, field.bits.unwrap_or(0), &mut fields);
                    size = size.max(u64::from(field_size));
                    align = align.max(if def.packed { 1 } else { field_align });
                }
            }
        }
        let size = size.next_multiple_of(u64::from(align));
        let Some(size) = u32::try_from(size).ok().filter(|size| size.checked_mul(8).is_some()) else {
            self.out
                .push(Diagnostic::error("type-too-large", def.span, "this type is larger than 512 MiB"));
            // It is known, so nothing else is wrong with it.
            self.types.types[(id & !SCRIPT_BIT) as usize].size = Some(0);
            return;
        };
        let ty = &mut self.types.types[(id & !SCRIPT_BIT) as usize];
        (ty.size, ty.align, ty.fields) = (Some(size), align, fields);
    }

    /// Adds a member, or those of an unnamed struct.
    fn add(&mut self, field: &ast::FieldDef, ty: CTy, at: u64, bits: u64, fields: &mut Vec<Field>) {
        let bit_offset = u32::try_from(at).unwrap_or(u32::MAX);
        let Some(name) = &field.name else {
            if let CTy::Struct { id, .. } = &ty {
                for inner in self.types.fields(*id).to_vec() {
                    self.named(
                        Field {
                            bit_offset: bit_offset.saturating_add(inner.bit_offset),
                            ..inner
                        },
                        field.span,
                        fields,
                    );
                }
            }
            return;
        };
        let new = Field {
            name: name.name.clone(),
            bit_offset,
            bits: u32::try_from(bits).unwrap_or(0),
            ty,
        };
        self.named(new, name.span, fields);
    }

    fn named(&mut self, field: Field, span: Span, fields: &mut Vec<Field>) {
        if fields.iter().any(|f| f.name == field.name) {
            let message = format!("the member `{}` is there twice", field.name);
            self.out.push(Diagnostic::error("duplicate-member", span, message));
        } else {
            fields.push(field);
        }
    }

    /// Returns type, size and alignment of a member.
    fn field_type(&mut self, field: &ast::FieldDef) -> Option<(CTy, u32, u32)> {
        let ty = match &field.ty {
            FieldType::Type(ty) => self.c_type(ty)?,
            FieldType::Inline(def, lengths) => {
                let id = self.register(def)?;
                self.lay_out(def, id);
                let mut ty = self.types.c_type(id)?;
                for len in lengths.iter().rev() {
                    ty = CTy::Array {
                        elem: Box::new(ty),
                        len: u32::try_from(*len).unwrap_or(u32::MAX),
                    };
                }
                ty
            }
        };
        let size = size_of(&ty, self.kernel, &self.types);
        let align = align_of(&ty, self.kernel, &self.types);
        let Some(size) = size else {
            let mut elem = &ty;
            while let CTy::Array { elem: inner, .. } = elem {
                elem = inner;
            }
            if !std::ptr::eq(elem, &raw const ty) && size_of(elem, self.kernel, &self.types).is_some() {
                let d = Diagnostic::error("type-too-large", field.span, "this type is larger than 512 MiB");
                self.out.push(d.help("make the array shorter"));
                return None;
            }
            let d = Diagnostic::error("incomplete-type", field.span, format!("the size of `{ty}` is not known here"));
            self.out.push(d.help("define it before, or use a pointer"));
            return None;
        };
        Some((ty, size, align))
    }

    fn c_type(&mut self, ty: &TypeExpr) -> Option<CTy> {
        match &ty.kind {
            TypeExprKind::Pointer(to) => Some(CTy::Ptr(Box::new(match &to.kind {
                // What is only pointed to need not be known.
                TypeExprKind::Struct(name) | TypeExprKind::Union(name) | TypeExprKind::Enum(name) => {
                    let mut errors = Vec::new();
                    let found = leaf_type(to, self.kernel, &self.types, &mut errors);
                    found.unwrap_or_else(|| CTy::Opaque(format!("struct {name}")))
                }
                _ => self.c_type(to)?,
            }))),
            TypeExprKind::Array(elem, len) => Some(CTy::Array {
                elem: Box::new(self.c_type(elem)?),
                len: u32::try_from(*len).unwrap_or(u32::MAX),
            }),
            _ => leaf_type(ty, self.kernel, &self.types, self.out),
        }
    }

    fn enumeration(&mut self, list: &[(ast::Ident, Option<ast::Expr>)], id: u32) {
        let mut next: i64 = 0;
        let mut values = Vec::new();
        for (name, value) in list {
            if let Some(value) = value {
                next = match self.constant(value, 0) {
                    Some(n) => n,
                    None => {
                        let d = Diagnostic::error(
                            "not-constant",
                            value.span,
                            format!("the value of `{}` must be a constant", name.name),
                        );
                        self.out.push(d);
                        next
                    }
                };
            }
            if self.types.enumerators.contains_key(&name.name) {
                let d = Diagnostic::error(
                    "duplicate-enumerator",
                    name.span,
                    format!("the enumerator `{}` is defined twice", name.name),
                );
                self.out.push(d);
            } else {
                self.types.enumerators.insert(name.name.clone(), (next, id));
            }
            values.push((name.name.clone(), next));
            next = next.wrapping_add(1);
        }
        let signed = values.iter().any(|(_, v)| *v < 0);
        let wide = values.iter().any(|(_, v)| {
            if signed {
                i32::try_from(*v).is_err()
            } else {
                u32::try_from(*v).is_err()
            }
        });
        let ty = &mut self.types.types[(id & !SCRIPT_BIT) as usize];
        let size = if wide { 8 } else { 4 };
        (ty.size, ty.align, ty.values, ty.signed) = (Some(size), size, values, signed);
    }

    /// Computes a constant of C.
    fn constant(&mut self, e: &ast::Expr, depth: u32) -> Option<i64> {
        use ast::ExprKind as E;
        if depth > 64 {
            return None;
        }
        Some(match &e.kind {
            E::Int(n) => n.cast_signed(),
            E::Name(name) => match self.types.enumerator(name) {
                Some((value, _)) => value,
                None => match self.defines.get(name).cloned() {
                    Some(value) => self.constant(&value, depth + 1)?,
                    None => {
                        let d = Diagnostic::error("unknown-name", e.span, format!("unknown constant `{name}`"));
                        let d = nearest(d, name, self.types.enumerators.keys().map(String::as_str));
                        self.out.push(d);
                        0
                    }
                },
            },
            E::Unary { op, expr } => {
                let n = self.constant(expr, depth + 1)?;
                match op {
                    UnaryOp::Neg => n.wrapping_neg(),
                    UnaryOp::BitNot => !n,
                    UnaryOp::Plus => n,
                    _ => return None,
                }
            }
            E::Binary { op, left, right } => {
                let (a, b) = (self.constant(left, depth + 1)?, self.constant(right, depth + 1)?);
                match op {
                    BinaryOp::Div => a.checked_div(b)?,
                    BinaryOp::Shr => a.checked_shr(u32::try_from(b).ok()?)?,
                    _ => super::ops::fold(*op, a, b)?,
                }
            }
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn types(text: &str) -> ScriptTypes {
        let parsed = weir_parser::parse(weir_parser::SourceId(0), text);
        assert!(!parsed.has_errors(), "{:?}", parsed.diagnostics);
        let mut out = Vec::new();
        let types = collect(&parsed.program, None, &HashMap::new(), &mut out);
        assert!(out.is_empty(), "{out:?}");
        types
    }

    /// `name@bit` of every member, and size and alignment of the last type, as the C compiler has them.
    fn layout(text: &str) -> String {
        let types = types(text);
        let last = types.types.iter().rev().find(|t| !t.name.is_empty()).unwrap();
        let fields: Vec<String> = last.fields.iter().map(|f| format!("{}@{}", f.name, f.bit_offset)).collect();
        format!("{} : {} {}", fields.join(" "), last.size.unwrap(), last.align)
    }

    #[test]
    fn layouts_are_those_of_the_c_compiler() {
        // Each line checked against gcc's offsetof, sizeof and _Alignof.
        assert_eq!(layout("struct a { char c; int i; char d; long l; };"), "c@0 i@32 d@64 l@128 : 24 8");
        assert_eq!(layout("struct a { char c; short s[3]; };"), "c@0 s@16 : 8 2");
        assert_eq!(layout("struct a { int a:3; int b:5; unsigned int c:24; };"), "a@0 b@3 c@8 : 4 4");
        assert_eq!(layout("struct a { int a:3; int b:30; };"), "a@0 b@32 : 8 4");
        assert_eq!(layout("struct a { char c; int b:4; int :0; int d:1; };"), "c@0 b@8 d@32 : 8 4");
        assert_eq!(
            layout("struct __attribute__((packed)) a { char c; int i; long l; };"),
            "c@0 i@8 l@40 : 13 1"
        );
        assert_eq!(layout("union a { int a; long b; char c[9]; };"), "a@0 b@0 c@0 : 16 8");
        assert_eq!(
            layout("struct a { int x; struct { int y; char z; }; union { int p; short q; }; struct { char r; } named; };"),
            "x@0 y@32 z@64 p@96 q@96 named@128 : 20 4"
        );
        assert_eq!(
            layout("struct b { char c[3]; }; struct a { struct b b[2]; void *p; struct a *next; };"),
            "b@0 p@64 next@128 : 24 8"
        );
        assert_eq!(layout("struct a { char c; enum { X, Y } e; };"), "c@0 e@32 : 8 4");
    }

    #[test]
    fn enumerators_count_on() {
        let types = types("enum e { A, B = 5, C, D = C << 2, E = -1, F };");
        let value = |name| types.enumerator(name).unwrap().0;
        assert_eq!(
            [value("A"), value("B"), value("C"), value("D"), value("E"), value("F")],
            [0, 5, 6, 24, -1, 0]
        );
    }
}
