//! The entry point of type checking: natives, blocks, and the types of maps.
//!
//! A map may be read before the block that fixes its type, so the blocks are checked until the types of the maps no
//! longer change; only the last round's diagnostics count.

use super::{Block, Map, MapId, MapValueTy, Program, Stmt, StmtKind, Ty, Var, VarId};
use crate::kernel::KernelInfo;
use crate::object::{Config, MissingProbes, NativeInstance};
use crate::tables::Hook;
use std::collections::HashMap;
use weir_parser::{Diagnostic, Span, ast};

/// What the command line says about the script.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// `$1`, `$2`, …
    pub positional: Vec<String>,
    /// Names and values for `config`, from the environment; they win over the script's own.
    pub config: Vec<(String, String)>,
}

/// Checks a whole script.
pub fn check(program: &ast::Program, kernel: &dyn KernelInfo, options: &Options) -> (Program, Vec<Diagnostic>) {
    let mut natives = Vec::new();
    let mut early = Vec::new();
    let mut defines = HashMap::new();
    let mut config = Config::default();
    for item in &program.items {
        match item {
            ast::Item::Use(item) => {
                if let Some(instance) = super::probes::native_instance(item, &natives, options, &mut early) {
                    natives.push(instance);
                }
            }
            ast::Item::Define(define) => {
                if let Some(value) = &define.value {
                    defines.insert(define.name.name.clone(), value.clone());
                }
            }
            ast::Item::Config(block) => config_block(block, &mut config, &mut early),
            ast::Item::Include(include) => {
                if kernel.btf().is_none() {
                    early.push(
                        Diagnostic::warning(
                            "no-types",
                            include.span,
                            format!("`{}` is not read and this kernel has no BTF", include.path),
                        )
                        .help("weir takes types from the kernel's BTF, never from headers"),
                    );
                }
            }
            ast::Item::MapDecl(_) | ast::Item::Probe(_) => {}
            ast::Item::Import(item) => early.push(unsupported(item.span, "import")),
            ast::Item::Macro(item) => early.push(unsupported(item.span, "macro")),
            ast::Item::Fn(item) => early.push(unsupported(item.span, "fn")),
        }
    }
    let decls = map_declarations(program, &mut early);
    let mut maps: Vec<MapState> = Vec::new();
    loop {
        let mut cx = Checker::new(kernel, options, &natives, &defines, config.missing_probes, maps.clone());
        for item in &program.items {
            if let ast::Item::Probe(probe) = item {
                cx.probe(probe);
            }
        }
        if cx.maps != maps {
            maps = cx.maps;
            continue;
        }
        let mut diagnostics = early;
        if !program.items.iter().any(|i| matches!(i, ast::Item::Probe(_) | ast::Item::Use(_))) && diagnostics.is_empty() {
            diagnostics.push(
                Diagnostic::error("no-probes", Span::default(), "the script has no probe")
                    .help("for example `begin { printf(\"hello\\n\"); }`"),
            );
        }
        diagnostics.append(&mut cx.diagnostics);
        super::lints::lint(&cx.blocks, &mut diagnostics);
        let blocks = cx.blocks;
        let maps = cx.maps.into_iter().map(|m| m.finish(&decls)).collect();
        return (
            Program {
                blocks,
                maps,
                natives,
                config,
            },
            diagnostics,
        );
    }
}

fn unsupported(span: Span, what: &str) -> Diagnostic {
    Diagnostic::error("unsupported", span, format!("`{what}` is not supported by this version of weir"))
}

fn config_block(block: &ast::Config, config: &mut Config, out: &mut Vec<Diagnostic>) {
    const KNOWN: &[&str] = &[
        "max_map_keys",
        "max_strlen",
        "missing_probes",
        "print_maps_on_exit",
        "str_trunc_trailer",
    ];
    for (name, value) in &block.entries {
        let key = name.name.to_ascii_lowercase();
        let key = key.strip_prefix("bpftrace_").unwrap_or(&key);
        let ok = match (key, &value.kind) {
            ("max_map_keys", ast::ExprKind::Int(n)) => u32::try_from(*n).map(|n| config.max_map_keys = n).is_ok(),
            ("max_strlen", ast::ExprKind::Int(n)) => u32::try_from(*n).map(|n| config.max_strlen = n).is_ok() && *n <= 65536,
            ("print_maps_on_exit", ast::ExprKind::Bool(b)) => {
                config.print_maps_on_exit = *b;
                true
            }
            ("print_maps_on_exit", ast::ExprKind::Int(n)) => {
                config.print_maps_on_exit = *n != 0;
                *n <= 1
            }
            ("str_trunc_trailer", ast::ExprKind::Str(s)) => {
                config.str_trunc_trailer = String::from_utf8_lossy(s).into_owned();
                true
            }
            ("missing_probes", ast::ExprKind::Name(word)) => missing_probes(word.as_bytes(), config),
            ("missing_probes", ast::ExprKind::Str(word)) => missing_probes(word, config),
            _ => {
                if KNOWN.contains(&key) {
                    false
                } else {
                    let mut d = Diagnostic::error("unknown-config", name.span, format!("unknown setting `{}`", name.name));
                    d = nearest(d, key, KNOWN.iter().copied());
                    out.push(d);
                    true
                }
            }
        };
        if !ok {
            out.push(Diagnostic::error(
                "bad-config",
                value.span,
                format!("`{key}` cannot have this value"),
            ));
        }
    }
}

fn missing_probes(word: &[u8], config: &mut Config) -> bool {
    config.missing_probes = match word {
        b"error" => MissingProbes::Error,
        b"warn" => MissingProbes::Warn,
        b"ignore" => MissingProbes::Ignore,
        _ => return false,
    };
    true
}

/// Adds "did you mean" when a name is close enough.
pub(super) fn nearest<'n>(diagnostic: Diagnostic, name: &str, candidates: impl Iterator<Item = &'n str>) -> Diagnostic {
    match nearest_name(name, candidates) {
        Some(best) => diagnostic.help(format!("did you mean `{best}`?")),
        None => diagnostic,
    }
}

/// Returns the most similar name, if one is similar at all.
pub(super) fn nearest_name<'n>(name: &str, candidates: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let mut best: Option<(&str, f64)> = None;
    for candidate in candidates {
        let score = strsim::jaro_winkler(name, candidate);
        if score > 0.8 && best.is_none_or(|(_, s)| score > s) {
            best = Some((candidate, score));
        }
    }
    best.map(|(name, _)| name)
}

fn map_declarations(program: &ast::Program, out: &mut Vec<Diagnostic>) -> HashMap<String, u32> {
    let mut decls = HashMap::new();
    for item in &program.items {
        let ast::Item::MapDecl(decl) = item else { continue };
        let size = match (decl.kind.name.as_str(), decl.args.as_slice()) {
            (
                "hash" | "percpuhash",
                [
                    ast::Expr {
                        kind: ast::ExprKind::Int(n),
                        ..
                    },
                ],
            ) if *n >= 1 => u32::try_from(*n).ok(),
            ("hash" | "percpuhash", _) => None,
            _ => {
                out.push(
                    Diagnostic::error(
                        "unsupported",
                        decl.kind.span,
                        format!("`{}` maps are not supported by this version of weir", decl.kind.name),
                    )
                    .help(format!("`let @{} = hash(N);`", decl.map.name)),
                );
                continue;
            }
        };
        match size {
            Some(size) => {
                decls.insert(format!("@{}", decl.map.name), size);
            }
            None => out.push(
                Diagnostic::error(
                    "bad-map-size",
                    decl.span,
                    format!("`{}` takes the number of entries, 1 or more", decl.kind.name),
                )
                .help(format!("`let @{} = {}(10000);`", decl.map.name, decl.kind.name)),
            ),
        }
    }
    decls
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
}

impl MapState {
    fn finish(self, decls: &HashMap<String, u32>) -> Map {
        Map {
            max_entries: decls.get(&self.name).copied(),
            name: self.name,
            key: self.key.unwrap_or(None),
            value: self.value.unwrap_or(MapValueTy::Plain(Ty::I64)),
            span: self.value_span,
        }
    }
}

pub(super) struct Checker<'a> {
    pub kernel: &'a dyn KernelInfo,
    pub options: &'a Options,
    pub natives: &'a [NativeInstance],
    pub defines: &'a HashMap<String, ast::Expr>,
    pub missing_probes: MissingProbes,
    pub maps: Vec<MapState>,
    pub blocks: Vec<Block>,
    pub diagnostics: Vec<Diagnostic>,
    // The block being checked.
    pub hook: Hook,
    pub native: Option<usize>,
    pub event: usize,
    pub tracepoint: Option<(String, String)>,
    /// Set when the block's meaning depends on which of its attach points it runs at.
    pub site_dependent: bool,
    pub vars: Vec<Var>,
    pub scopes: Vec<HashMap<String, VarId>>,
    pub loops: usize,
    pub define_depth: usize,
}

impl<'a> Checker<'a> {
    fn new(
        kernel: &'a dyn KernelInfo,
        options: &'a Options,
        natives: &'a [NativeInstance],
        defines: &'a HashMap<String, ast::Expr>,
        missing_probes: MissingProbes,
        maps: Vec<MapState>,
    ) -> Self {
        Self {
            kernel,
            options,
            natives,
            defines,
            missing_probes,
            maps,
            blocks: Vec::new(),
            diagnostics: Vec::new(),
            hook: Hook::RunOnce,
            native: None,
            event: 0,
            tracepoint: None,
            site_dependent: false,
            vars: Vec::new(),
            scopes: Vec::new(),
            loops: 0,
            define_depth: 0,
        }
    }

    pub fn error(&mut self, diagnostic: Diagnostic) {
        self.diagnostics.push(diagnostic);
    }

    /// Checks one probe: once for each group of attach points that can share code.
    fn probe(&mut self, probe: &ast::Probe) {
        let sites = self.sites(probe);
        let mut rest: Vec<super::probes::Site> = sites;
        while !rest.is_empty() {
            let first = rest.remove(0);
            let errors = self.diagnostics.len();
            let (mut block, dependent) = self.block(probe, &first);
            let failed = self.diagnostics[errors..].iter().any(Diagnostic::is_error);
            if failed {
                // The same text would give the same errors again for every other site.
                self.blocks.push(block);
                return;
            }
            if !dependent {
                let (same, other): (Vec<_>, Vec<_>) = rest.into_iter().partition(|s| s.hook == first.hook && s.native == first.native);
                rest = other;
                block.attach.extend(same.into_iter().map(|s| s.attach));
            }
            self.blocks.push(block);
        }
    }

    fn block(&mut self, probe: &ast::Probe, site: &super::probes::Site) -> (Block, bool) {
        self.hook = site.hook;
        self.native = site.native.map(|(instance, _)| instance);
        self.event = site.native.map_or(0, |(_, event)| event);
        self.tracepoint = site.tracepoint.clone();
        self.site_dependent = false;
        self.vars = Vec::new();
        self.scopes = vec![HashMap::new()];
        self.loops = 0;
        let predicate = probe.predicate.as_ref().map(|p| self.condition(p));
        let body = self.statements(&probe.body);
        let block = Block {
            hook: site.hook,
            attach: vec![site.attach.clone()],
            probe_text: site.text.clone(),
            func: site.func.clone(),
            predicate,
            body,
            vars: std::mem::take(&mut self.vars),
            native: self.native,
            span: probe.span,
        };
        (block, self.site_dependent)
    }

    pub fn statements(&mut self, block: &ast::Block) -> Vec<Stmt> {
        self.scopes.push(HashMap::new());
        let mut out = Vec::new();
        for stmt in &block.stmts {
            self.statement(stmt, &mut out);
        }
        if let Some(value) = &block.value {
            // The last statement may leave out its semicolon.
            let stmt = ast::Stmt {
                kind: ast::StmtKind::Expr((**value).clone()),
                span: value.span,
            };
            self.statement(&stmt, &mut out);
        }
        self.scopes.pop();
        out
    }

    /// Returns the map's number, made at its first mention.
    pub fn map(&mut self, name: &str, span: Span) -> MapId {
        let name = format!("@{name}");
        if let Some(id) = self.maps.iter().position(|m| m.name == name) {
            return id;
        }
        self.maps.push(MapState {
            name,
            key: None,
            key_span: span,
            value: None,
            value_span: span,
        });
        self.maps.len() - 1
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
                Some(ty) => self.maps[id].key = Some(Some(ty)),
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
        let state = &self.maps[id];
        let merged = match (&state.value, &value) {
            (None, MapValueTy::Plain(ty)) => Some(MapValueTy::Plain(storable(ty))),
            (None, agg) => Some(agg.clone()),
            (Some(MapValueTy::Plain(old)), MapValueTy::Plain(new)) => unify(old, &storable(new)).map(MapValueTy::Plain),
            (Some(MapValueTy::Agg(old)), MapValueTy::Agg(new)) if agg_compatible(old, new) => Some(MapValueTy::Agg(old.clone())),
            _ => None,
        };
        match merged {
            Some(merged) => {
                let first = self.maps[id].value.is_none();
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

    pub fn declare_var(&mut self, name: &str, ty: Ty, span: Span) -> VarId {
        self.vars.push(Var {
            name: name.to_owned(),
            ty,
            span,
        });
        let id = self.vars.len() - 1;
        if let Some(scope) = self.scopes.last_mut() {
            scope.insert(name.to_owned(), id);
        }
        id
    }

    pub fn lookup_var(&self, name: &str) -> Option<VarId> {
        self.scopes.iter().rev().find_map(|s| s.get(name)).copied()
    }

    pub fn stmt(kind: StmtKind, span: Span) -> Stmt {
        Stmt { kind, span }
    }
}

/// Aggregations differ in nothing but the sign, which the first use decides.
fn agg_compatible(old: &crate::types::MapValue, new: &crate::types::MapValue) -> bool {
    use crate::types::MapValue as V;
    matches!(
        (old, new),
        (V::Sum { .. }, V::Sum { .. })
            | (V::Min { .. }, V::Min { .. })
            | (V::Max { .. }, V::Max { .. })
            | (V::Avg { .. }, V::Avg { .. })
            | (V::Stats { .. }, V::Stats { .. })
    ) || old == new
}

pub(super) fn describe_value(value: &MapValueTy) -> String {
    match value {
        MapValueTy::Plain(ty) => ty.to_string(),
        MapValueTy::Agg(agg) => agg.to_string(),
    }
}

/// Returns the type as a map or variable keeps it: integers in 64 bits, character arrays as strings.
pub(super) fn storable(ty: &Ty) -> Ty {
    match ty {
        Ty::Int { signed, .. } => Ty::Int { bits: 64, signed: *signed },
        Ty::Str { cap } => Ty::Str {
            cap: cap.next_multiple_of(8).max(8),
        },
        Ty::Obj {
            ty: super::CTy::Array { elem, len },
            ..
        } if **elem == super::CTy::Char => Ty::Str {
            cap: len.next_multiple_of(8),
        },
        Ty::Tuple(fields) => Ty::Tuple(fields.iter().map(storable).collect()),
        other => other.clone(),
    }
}

/// Returns the type that holds values of both.
pub(super) fn unify(a: &Ty, b: &Ty) -> Option<Ty> {
    Some(match (a, b) {
        (Ty::Error, other) | (other, Ty::Error) => other.clone(),
        (Ty::Int { bits: x, signed: s }, Ty::Int { bits: y, signed: t }) => Ty::Int {
            bits: *x.max(y),
            signed: *s || *t,
        },
        (Ty::Int { bits, signed }, Ty::Bool) | (Ty::Bool, Ty::Int { bits, signed }) => Ty::Int {
            bits: *bits,
            signed: *signed,
        },
        (Ty::Str { cap: x }, Ty::Str { cap: y }) => Ty::Str { cap: *x.max(y) },
        (Ty::Ptr { space, .. }, Ty::Ptr { .. }) if a != b => Ty::Ptr {
            to: Box::new(super::CTy::Void),
            space: *space,
        },
        (Ty::Tuple(x), Ty::Tuple(y)) if x.len() == y.len() => Ty::Tuple(x.iter().zip(y).map(|(x, y)| unify(x, y)).collect::<Option<_>>()?),
        (a, b) if a == b => a.clone(),
        _ => return None,
    })
}
