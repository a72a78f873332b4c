//! Maps of the script: their declarations, and their types as the blocks fix them.

use super::check::{Checker, Options, nearest};
use super::unify::{describe_value, storable, unify, unify_aggregate};
use super::{Copied, Expr, Map, MapId, MapValueTy, Ty};
use crate::kernel::KernelInfo;
use std::collections::HashMap;
use weir_parser::{Diagnostic, Span, ast};

/// More would be gigabytes of kernel memory.
const MAX_MAP_ENTRIES: u64 = 1 << 26;

/// What `let @m = KIND(N);` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapDecl {
    pub kind: DeclaredKind,
    pub max_entries: u32,
    pub span: Span,
}

/// The words of a map's declaration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeclaredKind {
    Hash,
    LruHash,
    PerCpuHash,
    PerCpuLruHash,
    /// Keyed by prefix; a lookup finds the longest that matches.
    Lpm,
}

impl DeclaredKind {
    const ALL: [(&'static str, DeclaredKind); 6] = [
        ("lpm", DeclaredKind::Lpm),
        ("hash", DeclaredKind::Hash),
        ("lruhash", DeclaredKind::LruHash),
        ("percpuhash", DeclaredKind::PerCpuHash),
        ("percpulruhash", DeclaredKind::PerCpuLruHash),
        ("lrupercpuhash", DeclaredKind::PerCpuLruHash),
    ];

    pub(crate) fn is_per_cpu(self) -> bool {
        matches!(self, DeclaredKind::PerCpuHash | DeclaredKind::PerCpuLruHash)
    }
}

/// Keys of maps that are filled from a file, by name.
pub(super) type Initial = HashMap<String, Vec<Vec<u8>>>;

pub(super) fn map_declarations(
    program: &ast::Program,
    kernel: &dyn KernelInfo,
    options: &Options,
    out: &mut Vec<Diagnostic>,
) -> (HashMap<String, MapDecl>, Initial) {
    let mut decls: HashMap<String, MapDecl> = HashMap::new();
    let mut initial = Initial::new();
    for item in &program.items {
        let ast::Item::MapDecl(decl) = item else { continue };
        let Some((_, kind)) = DeclaredKind::ALL.iter().find(|(name, _)| *name == decl.kind.name) else {
            let d = Diagnostic::error(
                "unknown-map-kind",
                decl.kind.span,
                format!("unknown kind of map `{}`", decl.kind.name),
            );
            let d = nearest(d, &decl.kind.name, DeclaredKind::ALL.iter().map(|(n, _)| *n));
            out.push(d.help(format!("`let @{} = hash(N);`", decl.map.name)));
            continue;
        };
        let (args, file) = match decl.args.as_slice() {
            [size, file] if *kind == DeclaredKind::Lpm => (std::slice::from_ref(size), Some(file)),
            args => (args, None),
        };
        let max_entries = match args {
            [
                ast::Expr {
                    kind: ast::ExprKind::Int(n),
                    ..
                },
            ] if (1..=MAX_MAP_ENTRIES).contains(n) => u32::try_from(*n).ok(),
            _ => None,
        };
        let Some(max_entries) = max_entries else {
            let message = format!("`{}` takes the number of entries, from 1 to {MAX_MAP_ENTRIES}", decl.kind.name);
            let d = Diagnostic::error("bad-map-size", decl.span, message);
            out.push(d.help(format!("`let @{} = {}(10000);`", decl.map.name, decl.kind.name)));
            continue;
        };
        let name = format!("@{}", decl.map.name);
        if let Some(file) = file {
            match super::sets::file_prefixes(file, kernel, options, max_entries, out) {
                Some(keys) => initial.insert(name.clone(), keys),
                None => continue,
            };
        }
        let new = MapDecl {
            kind: *kind,
            max_entries,
            span: decl.kind.span,
        };
        if let Some(first) = decls.insert(name.clone(), new) {
            out.push(
                Diagnostic::error("duplicate-map", decl.map.span, format!("`{name}` is declared twice")).with(first.span, "first here"),
            );
        }
    }
    (decls, initial)
}

/// Compares the declarations with how the maps are used.
pub(super) fn check_declarations(maps: &[MapState], decls: &HashMap<String, MapDecl>, out: &mut Vec<Diagnostic>) {
    for map in maps {
        let Some(decl) = decls.get(&map.name) else { continue };
        if map.key == Some(None) {
            let d = Diagnostic::error(
                "map-kind",
                decl.span,
                format!("`{}` is a scalar and cannot be declared as a hash", map.name),
            )
            .with(map.key_span, "used without a key here");
            out.push(d);
            continue;
        }
        if decl.kind == DeclaredKind::Lpm && matches!(map.value, Some(MapValueTy::Agg(_))) {
            let d = Diagnostic::error(
                "map-kind",
                decl.span,
                format!("`{}` is keyed by prefix and holds plain values only", map.name),
            )
            .with(map.value_span, "aggregated here")
            .help(format!("`{}[…] += 1`", map.name));
            out.push(d);
        }
        if decl.kind.is_per_cpu() && matches!(map.value, Some(MapValueTy::Plain(_))) {
            let d = Diagnostic::error(
                "map-kind",
                decl.span,
                format!("`{}` holds plain values, which are not kept for each CPU", map.name),
            )
            .with(map.value_span, "assigned here")
            .help(if decl.kind == DeclaredKind::PerCpuHash {
                "`hash`"
            } else {
                "`lruhash`"
            });
            out.push(d);
        }
    }
}

/// Finds uses that an existing map is too small for, and declarations that differ from its own.
pub(super) fn check_existing(maps: &[MapState], existing: &[Map], decls: &HashMap<String, MapDecl>, out: &mut Vec<Diagnostic>) {
    for (state, map) in maps.iter().zip(existing) {
        let changed = |what: &str, span: Span, old: String, new: String| {
            Diagnostic::error(
                "map-exists",
                span,
                format!(
                    "the {what} of `{}` is `{old}` since an earlier entry, and this would make it `{new}`",
                    map.name
                ),
            )
            .help("use another map, or read less: `str(p, 64)`")
        };
        if let (Some(Some(new)), Some(old)) = (&state.key, &map.key)
            && new != old
        {
            out.push(changed("key", state.key_span, old.to_string(), new.to_string()));
        }
        if let Some(new) = &state.value
            && *new != map.value
        {
            out.push(changed("value", state.value_span, describe_value(&map.value), describe_value(new)));
        }
        if let Some(decl) = decls.get(&map.name)
            && map
                .declared
                .is_none_or(|old| (old.kind, old.max_entries) != (decl.kind, decl.max_entries))
        {
            let message = format!("`{}` exists since an earlier entry and cannot be declared anew", map.name);
            out.push(Diagnostic::error("map-exists", decl.span, message).help("use another name"));
        }
    }
}

/// Maps that something reads or prints, and nothing ever fills.
pub(super) fn never_assigned(maps: &[MapState], out: &mut Vec<Diagnostic>) {
    // With another error the assignment may be there and have failed.
    if out.iter().any(Diagnostic::is_error) {
        return;
    }
    for map in maps.iter().filter(|m| m.value.is_none()) {
        let d = Diagnostic::error("unassigned-map", map.key_span, format!("`{}` is never assigned", map.name));
        let others: Vec<&str> = maps.iter().filter(|m| m.value.is_some()).map(|m| m.name.as_str()).collect();
        out.push(nearest(d, &map.name, others.into_iter()));
    }
}

/// What is known of a map so far.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct MapState {
    pub name: String,
    /// `None`: not known; `Some(None)`: scalar.
    pub key: Option<Option<Ty>>,
    pub key_span: Span,
    pub value: Option<MapValueTy>,
    pub value_span: Span,
    pub copy: Option<Copied>,
    /// The type of what is assigned, before it is widened: what `sizeof` tells.
    pub written: Option<Ty>,
}

impl MapState {
    /// A map of an earlier entry. Its spans are empty: the text that made it is another one.
    pub fn existing(map: &Map) -> Self {
        Self {
            name: map.name.clone(),
            key: Some(map.key.clone()),
            key_span: Span::default(),
            value: Some(map.value.clone()),
            value_span: Span::default(),
            copy: None,
            written: None,
        }
    }

    pub fn finish(self, declared: impl Fn(&str) -> Option<MapDecl>, initial: &Initial) -> Map {
        Map {
            initial: initial.get(&self.name).cloned().unwrap_or_default(),
            declared: declared(&self.name),
            name: self.name,
            key: self.key.unwrap_or(None),
            value: self.value.unwrap_or(MapValueTy::Plain(Ty::I64)),
            // Where the script first names it.
            span: self.key_span,
            copy: self.copy,
        }
    }
}

/// Whether a value has no bytes: the kernel has no maps for such.
fn is_nothing(ty: &Ty) -> bool {
    ty.stored().is_some_and(|ty| ty.size() == 0)
}

impl Checker<'_> {
    /// Returns the map's number, made at its first mention.
    pub fn map(&mut self, name: &str, span: Span) -> MapId {
        let name = format!("@{name}");
        if let Some(&id) = self.map_numbers.get(&name) {
            return id;
        }
        self.map_numbers.insert(name.clone(), self.maps.len());
        let filled = self.initial.contains_key(&name);
        self.maps.push(MapState {
            name,
            key: filled.then_some(Some(Ty::Prefix)),
            key_span: span,
            value: filled.then_some(MapValueTy::Plain(Ty::I64)),
            value_span: span,
            copy: None,
            written: None,
        });
        self.maps.len() - 1
    }

    /// Notes the type of a value that is assigned to a map.
    pub fn written_to_map(&mut self, id: MapId, value: &Expr) {
        if value.ty == Ty::Error {
            return;
        }
        let written = self.written_type(value);
        let state = &mut self.maps[id];
        state.written = match &state.written {
            Some(old) => unify(old, &written),
            None => Some(written),
        };
    }

    /// Notes that a map is counted up or down: it may become any number.
    pub fn counted_in_map(&mut self, id: MapId) {
        let state = &mut self.maps[id];
        if let Some(MapValueTy::Plain(ty @ Ty::Int { .. })) = &state.value {
            state.written = Some(ty.clone());
        }
    }

    /// Fixes or checks the key type of a map.
    pub fn map_key(&mut self, id: MapId, key: Option<&Ty>, span: Span) {
        if key == Some(&Ty::Error) {
            return;
        }
        if let Some(ty) = key
            && ty.stored().is_none()
        {
            let message = format!("a value of type `{ty}` cannot be a map key");
            self.error(Diagnostic::error("bad-key", span, message));
            return;
        }
        if key.is_some_and(is_nothing) {
            let d = Diagnostic::error("bad-key", span, "the empty tuple `()` cannot be a map key");
            self.error(d.help("leave the brackets out where there is only one value"));
            return;
        }
        let state = &self.maps[id];
        match (&state.key, key) {
            (None, key) => {
                let key = key.map(storable);
                let state = &mut self.maps[id];
                state.key = Some(key);
                state.key_span = span;
            }
            (Some(None), None) => {}
            (Some(Some(old)), Some(new)) => match unify(old, &storable(new)) {
                Some(ty) => {
                    let state = &mut self.maps[id];
                    if state.key_span == Span::default() && state.key.as_ref().and_then(Option::as_ref) != Some(&ty) {
                        // An earlier entry's map: where it would have to change is what the author must see.
                        state.key_span = span;
                    }
                    state.key = Some(Some(ty));
                }
                None => {
                    let d = Diagnostic::error(
                        "key-type",
                        span,
                        format!("the key of `{}` is `{old}` elsewhere and `{new}` here", state.name),
                    )
                    .with(state.key_span, format!("`{old}` here"));
                    self.error(d);
                }
            },
            (Some(Some(old)), None) => {
                let d = Diagnostic::error("key-missing", span, format!("`{}` needs a key of type `{old}`", state.name))
                    .with(state.key_span, "used with a key here");
                self.error(d);
            }
            (Some(None), Some(_)) => {
                let d = Diagnostic::error("key-unexpected", span, format!("`{}` is a scalar and takes no key", state.name))
                    .with(state.key_span, "used without a key here")
                    .help("give one of the two another name");
                self.error(d);
            }
        }
    }

    /// Fixes or checks the value type of a map.
    pub fn map_value(&mut self, id: MapId, value: MapValueTy, span: Span) {
        if value == MapValueTy::Plain(Ty::Error) {
            return;
        }
        if let MapValueTy::Plain(ty) = &value
            && ty.stored().is_none()
        {
            let message = if *ty == Ty::Void {
                "this has no value to assign".to_owned()
            } else {
                format!("a value of type `{ty}` cannot be kept in a map")
            };
            self.error(Diagnostic::error("bad-value", span, message));
            return;
        }
        if matches!(&value, MapValueTy::Plain(ty) if is_nothing(ty)) {
            let d = Diagnostic::error("bad-value", span, "the empty tuple `()` cannot be kept in a map");
            self.error(d.help("keep `1` where only the key matters"));
            return;
        }
        let state = &self.maps[id];
        let merged = match (&state.value, &value) {
            (None, MapValueTy::Plain(ty)) => Some(MapValueTy::Plain(storable(ty))),
            (None, agg) => Some(agg.clone()),
            (Some(MapValueTy::Plain(old)), MapValueTy::Plain(new)) => unify(old, &storable(new)).map(MapValueTy::Plain),
            (Some(MapValueTy::Agg(old)), MapValueTy::Agg(new)) => unify_aggregate(old, new).map(MapValueTy::Agg),
            _ => None,
        };
        match merged {
            Some(merged) => {
                let state = &self.maps[id];
                let first = state.value.is_none() || (state.value_span == Span::default() && state.value.as_ref() != Some(&merged));
                self.maps[id].value = Some(merged);
                if first {
                    self.maps[id].value_span = span;
                }
            }
            None => {
                let old = state.value.as_ref().map(describe_value).unwrap_or_default();
                let d = Diagnostic::error(
                    "value-type",
                    span,
                    format!("`{}` holds `{old}` elsewhere and `{}` here", state.name, describe_value(&value)),
                )
                .with(state.value_span, format!("`{old}` here"))
                .help("use another map");
                self.error(d);
            }
        }
    }
}
