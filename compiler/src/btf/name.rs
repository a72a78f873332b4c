//! C spelling of types, for messages: `struct sock *`, `char[16]`, `int (*)(struct sock *)`.

use super::{Btf, BtfType, TypeId};

/// Types looked at for one name; damaged types may contain themselves.
const MAX_TYPES: u32 = 256;

impl Btf {
    /// Returns the C name of a type. Anonymous structs are `struct { … }`.
    #[must_use]
    pub fn c_name(&self, id: TypeId) -> String {
        self.declare(id, String::new(), &mut MAX_TYPES.clone())
    }

    /// Spells a declaration of `inner`: C types grow outwards from the declared name.
    fn declare(&self, id: TypeId, inner: String, left: &mut u32) -> String {
        let Some(rest) = left.checked_sub(1) else { return "…".to_owned() };
        *left = rest;
        let named = |keyword: &str, name: &str| {
            let name = if name.is_empty() { "{ … }" } else { name };
            join(&format!("{keyword}{name}"), &inner)
        };
        match self.type_by_id(id) {
            None => join(&format!("<type {}>", id.0), &inner),
            Some(BtfType::Void) => join("void", &inner),
            Some(BtfType::Int(int)) => join(int.name, &inner),
            Some(BtfType::Float { name, .. } | BtfType::Typedef { name, .. } | BtfType::Func { name, .. }) => join(name, &inner),
            Some(BtfType::Var { name, .. } | BtfType::DeclTag { name, .. }) => join(name, &inner),
            Some(BtfType::DataSec(section)) => join(section.name, &inner),
            Some(BtfType::Struct(composite)) => named("struct ", composite.name),
            Some(BtfType::Union(composite)) => named("union ", composite.name),
            Some(BtfType::Fwd { name, union }) => named(if union { "union " } else { "struct " }, name),
            Some(BtfType::Enum(info)) => named("enum ", info.name),
            Some(BtfType::Ptr(target)) => self.declare(target, format!("*{inner}"), left),
            Some(BtfType::TypeTag { target, .. }) => self.declare(target, inner, left),
            Some(BtfType::Const(target)) => self.qualify("const", target, inner, left),
            Some(BtfType::Volatile(target)) => self.qualify("volatile", target, inner, left),
            Some(BtfType::Restrict(target)) => self.qualify("restrict", target, inner, left),
            Some(BtfType::Array(array)) => self.declare(array.elem, format!("{}[{}]", group(inner), array.len), left),
            Some(BtfType::FuncProto(proto)) => {
                let variadic = proto.is_variadic();
                let shown = *left as usize + 1;
                let mut params: Vec<String> = proto
                    .params()
                    .take(shown)
                    .map(|p| self.declare(p.ty, String::new(), left))
                    .collect();
                if variadic && let Some(last) = params.last_mut() {
                    "...".clone_into(last);
                }
                let params = if params.is_empty() { "void".to_owned() } else { params.join(", ") };
                self.declare(proto.ret, format!("{}({params})", group(inner)), left)
            }
        }
    }

    /// Spells a qualifier: before a base type, after the star of a pointer.
    fn qualify(&self, qualifier: &str, target: TypeId, inner: String, left: &mut u32) -> String {
        match self.type_by_id(target) {
            Some(BtfType::Ptr(pointee)) => {
                let inner = if inner.is_empty() {
                    qualifier.to_owned()
                } else {
                    format!("{qualifier} {inner}")
                };
                self.declare(pointee, format!("*{inner}"), left)
            }
            _ => format!("{qualifier} {}", self.declare(target, inner, left)),
        }
    }
}

/// Puts a declarator after a type.
fn join(ty: &str, inner: &str) -> String {
    if inner.is_empty() || inner.starts_with('[') {
        format!("{ty}{inner}")
    } else {
        format!("{ty} {inner}")
    }
}

/// Brackets a pointer declarator that an array or a function follows.
fn group(inner: String) -> String {
    if inner.starts_with('*') { format!("({inner})") } else { inner }
}
