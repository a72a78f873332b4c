//! The entry point of type checking: natives, blocks, and the types of maps.
//!
//! A map may be read before the block that fixes its type, so the blocks are checked until the types of the maps no
//! longer change; only the last round's diagnostics count.

use super::{Block, Map, MapId, MapValueTy, Program, Space, Stmt, StmtKind, Ty, Var, VarId};
use crate::kernel::KernelInfo;
use crate::object::{Config, MissingProbes, NativeInstance};
use crate::tables::Hook;
use crate::types::Type;
use std::collections::HashMap;
use weir_parser::{Diagnostic, Span, ast};

/// What the command line says about the script.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// `$1`, `$2`, …
    pub positional: Vec<String>,
    /// Names and values for `config`, from the environment; they win over the script's own.
    pub config: Vec<(String, String)>,
    /// `--name=value` after the script, in order; `None` for `--name` alone.
    pub named: Vec<(String, Option<String>)>,
    /// Process that `-c` has started.
    pub child: Option<u32>,
    /// `--unsafe`: functions that change the system are allowed.
    pub unsafe_functions: bool,
    /// `-k`: failures of helpers are told.
    pub helper_errors: bool,
    /// Maps that are there already, of earlier entries of the same session; their types stand.
    pub maps: Vec<Map>,
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
            ast::Item::Import(_) | ast::Item::MapDecl(_) | ast::Item::Probe(_) | ast::Item::Macro(_) | ast::Item::Fn(_) => {}
        }
    }
    let macros = super::macros::collect(program, &mut early);
    let types = super::script_types::collect(program, kernel.btf(), &defines, &mut early);
    let functions = super::functions::collect(program, &macros, &mut early);
    environment(&options.config, &mut config, &mut early);
    let (decls, initial) = map_declarations(program, kernel, &mut early);
    let mut maps: Vec<MapState> = options.maps.iter().map(MapState::existing).collect();
    loop {
        let mut cx = Checker::new(
            kernel,
            options,
            &natives,
            &defines,
            &macros,
            &types,
            &functions,
            &config,
            &decls,
            &initial,
            maps.clone(),
        );
        for item in &program.items {
            if let ast::Item::Probe(probe) = item {
                cx.probe(probe);
            }
        }
        cx.uncalled_functions();
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
        check_declarations(&cx.maps, &decls, &mut diagnostics);
        check_existing(&cx.maps, &options.maps, &decls, &mut diagnostics);
        never_assigned(&cx.maps, &mut diagnostics);
        shared_interfaces(&natives, &mut diagnostics);
        let blocks = cx.blocks;
        let sets = cx.sets;
        let declared = |name: &str| {
            let existing = options.maps.iter().find(|m| m.name == name);
            decls.get(name).copied().or_else(|| existing.and_then(|m| m.declared))
        };
        let maps: Vec<Map> = cx.maps.into_iter().map(|m| m.finish(declared, &initial)).collect();
        super::lints::lint(&blocks, &maps, kernel, &mut diagnostics);
        return (
            Program {
                blocks,
                maps,
                natives,
                config,
                cpus: kernel.cpus(),
                sets,
                helper_errors: options.helper_errors,
            },
            diagnostics,
        );
    }
}

/// More would be gigabytes of kernel memory.
const MAX_MAP_ENTRIES: u64 = 1 << 26;

/// Maps that something reads or prints, and nothing ever fills.
fn never_assigned(maps: &[MapState], out: &mut Vec<Diagnostic>) {
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

/// Two XDP natives cannot share an interface.
fn shared_interfaces(natives: &[NativeInstance], out: &mut Vec<Diagnostic>) {
    let iface = |n: &NativeInstance| {
        let at = n.native.params.iter().position(|p| p.ty == weir_stdlib::ParamType::Iface)?;
        n.params[at].clone()
    };
    for (i, native) in natives.iter().enumerate() {
        if let Some(other) = natives[..i]
            .iter()
            .find(|o| o.native.hook == native.native.hook && iface(o) == iface(native))
        {
            out.push(
                Diagnostic::error(
                    "native-twice",
                    native.span,
                    format!("`{}` and `{}` want the XDP hook of one interface", native.alias, other.alias),
                )
                .with(other.span, "the other instance")
                .help("give one instance both lists"),
            );
        }
    }
}

/// Applies the settings of the environment, which win over the script's own.
fn environment(settings: &[(String, String)], config: &mut Config, out: &mut Vec<Diagnostic>) {
    for (name, text) in settings {
        let value = match text.parse() {
            Ok(n) => ast::ExprKind::Int(n),
            Err(_) if text == "true" || text == "false" => ast::ExprKind::Bool(text == "true"),
            Err(_) => ast::ExprKind::Str(text.clone().into_bytes()),
        };
        match set(name, &value, config) {
            Setting::Done | Setting::Ignored => {}
            Setting::BadValue => out.push(Diagnostic::error(
                "bad-config",
                Span::default(),
                format!("the environment's `BPFTRACE_{}` cannot be `{text}`", name.to_ascii_uppercase()),
            )),
            Setting::Unknown => out.push(Diagnostic::warning(
                "unknown-config",
                Span::default(),
                format!("the environment's `BPFTRACE_{}` is no setting", name.to_ascii_uppercase()),
            )),
        }
    }
}

const KNOWN_SETTINGS: &[&str] = &[
    "max_map_keys",
    "max_strlen",
    "missing_probes",
    "print_maps_on_exit",
    "str_trunc_trailer",
    "stack_mode",
];

/// What a setting takes.
#[derive(Clone, Copy)]
enum Takes {
    Int,
    Bool,
    Text,
    /// One of these words.
    Word(&'static [&'static str]),
}

const UNSTABLE: Takes = Takes::Word(&["enable", "warn", "error", "disable"]);

/// Settings of bpftrace that have no meaning here, and what they take.
const IGNORED_SETTINGS: &[(&str, Takes)] = &[
    ("cache_user_symbols", Takes::Word(&["PER_PID", "PER_PROGRAM", "NONE"])),
    ("cpp_demangle", Takes::Bool),
    ("lazy_symbolication", Takes::Bool),
    ("license", Takes::Text),
    ("log_size", Takes::Int),
    ("max_bpf_progs", Takes::Int),
    ("max_cat_bytes", Takes::Int),
    ("max_probes", Takes::Int),
    ("on_stack_limit", Takes::Int),
    ("perf_rb_pages", Takes::Int),
    ("show_debug_info", Takes::Bool),
    ("unstable_tseries", UNSTABLE),
    ("unstable_dw_ustack", UNSTABLE),
    ("unstable_typeinfo", UNSTABLE),
    ("unstable_import_statement", UNSTABLE),
    ("unstable_import", UNSTABLE),
    ("unstable_macro", UNSTABLE),
    ("unstable_map_decl", UNSTABLE),
    ("use_blazesym", Takes::Bool),
];

impl Takes {
    fn accepts(self, value: &ast::ExprKind) -> bool {
        use ast::ExprKind as E;
        match (self, value) {
            (Takes::Int, E::Int(_)) | (Takes::Bool, E::Bool(_) | E::Int(0 | 1)) | (Takes::Text, E::Str(_) | E::Name(_)) => true,
            (Takes::Word(words), E::Name(word)) => words.iter().any(|w| w.eq_ignore_ascii_case(word)),
            (Takes::Word(words), E::Str(word)) => words.iter().any(|w| w.as_bytes().eq_ignore_ascii_case(word)),
            // The older form of the unstable settings.
            (Takes::Word(_), E::Bool(_) | E::Int(0 | 1)) => true,
            _ => false,
        }
    }

    fn expected(self) -> String {
        match self {
            Takes::Int => "it takes a number".to_owned(),
            Takes::Bool => "it takes `true` or `false`".to_owned(),
            Takes::Text => "it takes a string".to_owned(),
            Takes::Word(words) => format!("it takes one of `{}`", words.join("`, `")),
        }
    }
}

/// What a setting takes, in the words of a help line.
fn expected_value(key: &str) -> Option<String> {
    let known = match key {
        "max_map_keys" => "it takes a number above 0".to_owned(),
        "max_strlen" => format!("it takes a number from 1 to {MAX_STRLEN}"),
        "print_maps_on_exit" => Takes::Bool.expected(),
        "str_trunc_trailer" => Takes::Text.expected(),
        "missing_probes" => Takes::Word(&["error", "warn", "ignore"]).expected(),
        "stack_mode" => Takes::Word(&["bpftrace", "perf", "raw"]).expected(),
        _ => {
            return IGNORED_SETTINGS
                .iter()
                .find(|(name, _)| *name == key)
                .map(|(_, takes)| takes.expected());
        }
    };
    Some(known)
}

enum Setting {
    Done,
    BadValue,
    Unknown,
    Ignored,
}

fn set(name: &str, value: &ast::ExprKind, config: &mut Config) -> Setting {
    let key = name.to_ascii_lowercase();
    let key = key.strip_prefix("bpftrace_").unwrap_or(&key);
    let done = match (key, value) {
        ("max_map_keys", ast::ExprKind::Int(n)) if *n >= 1 => u32::try_from(*n).map(|n| config.max_map_keys = n).is_ok(),
        ("max_strlen", ast::ExprKind::Int(n)) if (1..=MAX_STRLEN).contains(n) => {
            config.max_strlen = u32::try_from(*n).unwrap_or(1024);
            true
        }
        ("print_maps_on_exit", ast::ExprKind::Bool(b)) => {
            config.print_maps_on_exit = *b;
            true
        }
        ("print_maps_on_exit", ast::ExprKind::Int(n @ 0..=1)) => {
            config.print_maps_on_exit = *n != 0;
            true
        }
        ("str_trunc_trailer", ast::ExprKind::Str(s)) => {
            config.str_trunc_trailer = String::from_utf8_lossy(s).into_owned();
            true
        }
        ("missing_probes", ast::ExprKind::Name(word)) => missing_probes(word.as_bytes(), config),
        ("missing_probes", ast::ExprKind::Str(word)) => missing_probes(word, config),
        ("stack_mode", ast::ExprKind::Name(word)) => stack_mode(word, config),
        ("stack_mode", ast::ExprKind::Str(word)) => stack_mode(&String::from_utf8_lossy(word), config),
        _ => {
            return if KNOWN_SETTINGS.contains(&key) {
                Setting::BadValue
            } else if let Some((_, takes)) = IGNORED_SETTINGS.iter().find(|(name, _)| *name == key) {
                if takes.accepts(value) {
                    Setting::Ignored
                } else {
                    Setting::BadValue
                }
            } else {
                Setting::Unknown
            };
        }
    };
    if done { Setting::Done } else { Setting::BadValue }
}

/// Longest string, in bytes: a few of them must fit into the working memory of a program.
const MAX_STRLEN: u64 = 8192;

fn stack_mode(word: &str, config: &mut Config) -> bool {
    match crate::types::StackMode::by_name(word) {
        Some(mode) => config.stack_mode = mode,
        None => return false,
    }
    true
}

fn config_block(block: &ast::Config, config: &mut Config, out: &mut Vec<Diagnostic>) {
    for (name, value) in &block.entries {
        match set(&name.name, &value.kind, config) {
            Setting::Done | Setting::Ignored => {}
            Setting::BadValue => {
                let key = name.name.to_ascii_lowercase();
                let key = key.strip_prefix("bpftrace_").unwrap_or(&key);
                let mut d = Diagnostic::error("bad-config", value.span, format!("`{key}` cannot have this value"));
                if let Some(expected) = expected_value(key) {
                    d = d.help(expected);
                }
                out.push(d);
            }
            Setting::Unknown => {
                let d = Diagnostic::error("unknown-config", name.span, format!("unknown setting `{}`", name.name));
                let all = KNOWN_SETTINGS.iter().copied().chain(IGNORED_SETTINGS.iter().map(|(name, _)| *name));
                out.push(nearest(d, &name.name.to_ascii_lowercase(), all));
            }
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
pub fn nearest_name<'n>(name: &str, candidates: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let mut best: Option<(&str, f64)> = None;
    for candidate in candidates {
        let score = strsim::jaro_winkler(name, candidate);
        if score > 0.8 && best.is_none_or(|(_, s)| score > s) {
            best = Some((candidate, score));
        }
    }
    best.map(|(name, _)| name)
}

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

    fn is_per_cpu(self) -> bool {
        matches!(self, DeclaredKind::PerCpuHash | DeclaredKind::PerCpuLruHash)
    }
}

/// Keys of maps that are filled from a file, by name.
pub(super) type Initial = HashMap<String, Vec<Vec<u8>>>;

fn map_declarations(program: &ast::Program, kernel: &dyn KernelInfo, out: &mut Vec<Diagnostic>) -> (HashMap<String, MapDecl>, Initial) {
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
            match super::sets::file_prefixes(file, kernel, max_entries, out) {
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
fn check_declarations(maps: &[MapState], decls: &HashMap<String, MapDecl>, out: &mut Vec<Diagnostic>) {
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
fn check_existing(maps: &[MapState], existing: &[Map], decls: &HashMap<String, MapDecl>, out: &mut Vec<Diagnostic>) {
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
    /// A map of an earlier entry. Its spans are empty: the text that made it is another one.
    fn existing(map: &Map) -> Self {
        Self {
            name: map.name.clone(),
            key: Some(map.key.clone()),
            key_span: Span::default(),
            value: Some(map.value.clone()),
            value_span: Span::default(),
        }
    }

    fn finish(self, declared: impl Fn(&str) -> Option<MapDecl>, initial: &Initial) -> Map {
        Map {
            initial: initial.get(&self.name).cloned().unwrap_or_default(),
            declared: declared(&self.name),
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
    pub macros: &'a super::macros::Macros<'a>,
    pub types: &'a super::script_types::ScriptTypes,
    pub functions: &'a HashMap<String, &'a ast::FnDef>,
    /// Functions of the script that something has called.
    pub called: std::collections::HashSet<String>,
    /// The functions that are being written out, the innermost last.
    pub inside: Vec<super::functions::Inside>,
    pub macro_depth: usize,
    /// Number of macro uses so far.
    pub expansions: usize,
    /// Number of `limit` statements so far.
    pub limits: u32,
    pub config: &'a Config,
    pub decls: &'a HashMap<String, MapDecl>,
    pub initial: &'a Initial,
    pub maps: Vec<MapState>,
    pub blocks: Vec<Block>,
    pub sets: Vec<super::SetMap>,
    pub diagnostics: Vec<Diagnostic>,
    // The block being checked.
    pub hook: Hook,
    pub native: Option<usize>,
    pub event: usize,
    /// Where the block's arguments come from.
    pub target: super::probes::Target,
    /// What `probe` says, for messages.
    pub site: String,
    pub cgroup_hook: Option<&'static crate::tables::CgroupHook>,
    /// Set when the block's meaning depends on which of its attach points it runs at.
    pub site_dependent: bool,
    pub vars: Vec<Var>,
    pub scopes: Vec<HashMap<String, VarId>>,
    /// Types of the variables after the round before, by number.
    pub var_hints: Vec<Ty>,
    /// Set when an assignment gave a variable a wider type than it was used with before.
    pub var_grew: bool,
    pub loops: usize,
    /// `#define`s that are being written out.
    pub expanding: Vec<String>,
    /// Of these, loops whose body the kernel calls.
    pub callbacks: usize,
    /// Where the block being checked runs.
    pub point: Option<crate::object::AttachPoint>,
}

impl<'a> Checker<'a> {
    #[allow(clippy::too_many_arguments, reason = "each is a table that the one caller has just made")]
    fn new(
        kernel: &'a dyn KernelInfo,
        options: &'a Options,
        natives: &'a [NativeInstance],
        defines: &'a HashMap<String, ast::Expr>,
        macros: &'a super::macros::Macros<'a>,
        types: &'a super::script_types::ScriptTypes,
        functions: &'a HashMap<String, &'a ast::FnDef>,
        config: &'a Config,
        decls: &'a HashMap<String, MapDecl>,
        initial: &'a Initial,
        maps: Vec<MapState>,
    ) -> Self {
        Self {
            kernel,
            options,
            natives,
            defines,
            macros,
            types,
            functions,
            called: std::collections::HashSet::new(),
            inside: Vec::new(),
            macro_depth: 0,
            expansions: 0,
            limits: 0,
            config,
            decls,
            initial,
            maps,
            blocks: Vec::new(),
            sets: Vec::new(),
            diagnostics: Vec::new(),
            hook: Hook::RunOnce,
            native: None,
            event: 0,
            target: super::probes::Target::None,
            site: String::new(),
            cgroup_hook: None,
            site_dependent: false,
            vars: Vec::new(),
            scopes: Vec::new(),
            var_hints: Vec::new(),
            var_grew: false,
            loops: 0,
            expanding: Vec::new(),
            callbacks: 0,
            point: None,
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
                let (same, other): (Vec<_>, Vec<_>) = rest.into_iter().partition(|s| s.shares_code(&first));
                rest = other;
                for site in same {
                    block.names.push(site.names);
                    block.attach.push(site.attach);
                }
            }
            self.blocks.push(block);
        }
    }

    /// Checks a block until the types of its variables stand still: one may grow after it has been used.
    fn block(&mut self, probe: &ast::Probe, site: &super::probes::Site) -> (Block, bool) {
        self.var_hints = Vec::new();
        loop {
            let diagnostics = self.diagnostics.len();
            let (block, dependent) = self.block_once(probe, site);
            let types: Vec<Ty> = block.vars.iter().map(|v| v.ty.clone()).collect();
            let failed = self.diagnostics[diagnostics..].iter().any(Diagnostic::is_error);
            if failed || types == self.var_hints {
                return (block, dependent);
            }
            if self.var_hints.is_empty() && !self.var_grew {
                return (block, dependent);
            }
            self.diagnostics.truncate(diagnostics);
            self.var_hints = types;
        }
    }

    fn block_once(&mut self, probe: &ast::Probe, site: &super::probes::Site) -> (Block, bool) {
        self.var_grew = false;
        self.hook = site.hook;
        self.native = site.native.map(|(instance, _)| instance);
        self.event = site.native.map_or(0, |(_, event)| event);
        self.target = site.target.clone();
        self.site.clone_from(&site.names.probe);
        self.cgroup_hook = site.cgroup_hook();
        self.site_dependent = false;
        self.vars = Vec::new();
        self.scopes = vec![HashMap::new()];
        self.inside.clear();
        self.loops = 0;
        self.callbacks = 0;
        self.point = Some(site.attach.point.clone());
        let predicate = probe.predicate.as_ref().map(|p| self.condition(p));
        let body = self.statements(&probe.body);
        let block = Block {
            hook: site.hook,
            attach: vec![site.attach.clone()],
            names: vec![site.names.clone()],
            probe_type: site.probe_type,
            wants: self.target.wants(self.kernel),
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
        let filled = self.initial.contains_key(&name);
        self.maps.push(MapState {
            name,
            key: filled.then_some(Some(Ty::Prefix)),
            key_span: span,
            value: filled.then_some(MapValueTy::Plain(Ty::I64)),
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

    pub fn declare_var(&mut self, name: &str, ty: Ty, span: Span) -> VarId {
        let ty = match self.var_hints.get(self.vars.len()) {
            Some(hint) => unify(hint, &ty).unwrap_or(ty),
            None => ty,
        };
        self.vars.push(Var {
            name: name.to_owned(),
            ty,
            span,
            declared: false,
            addressed: false,
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

/// Joins two uses of an aggregation: signed if one of them is.
fn unify_aggregate(old: &crate::types::MapValue, new: &crate::types::MapValue) -> Option<crate::types::MapValue> {
    use crate::types::MapValue as V;
    Some(match (old, new) {
        (V::Sum { signed: a }, V::Sum { signed: b }) => V::Sum { signed: *a || *b },
        (V::Min { signed: a }, V::Min { signed: b }) => V::Min { signed: *a || *b },
        (V::Max { signed: a }, V::Max { signed: b }) => V::Max { signed: *a || *b },
        (V::Avg { signed: a }, V::Avg { signed: b }) => V::Avg { signed: *a || *b },
        (V::Stats { signed: a }, V::Stats { signed: b }) => V::Stats { signed: *a || *b },
        (a, b) if a == b => a.clone(),
        _ => return None,
    })
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
        // What is kept is a number to the kernel, whatever it was.
        Ty::Ptr { to, space: Space::Btf } => Ty::Ptr {
            to: to.clone(),
            space: Space::Kernel,
        },
        Ty::Tuple(fields) => Ty::Tuple(fields.iter().map(storable).collect()),
        Ty::Record(fields) => Ty::Record(fields.iter().map(|(name, ty)| (name.clone(), storable(ty))).collect()),
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
        (Ty::Buf { cap: x }, Ty::Buf { cap: y }) => Ty::Buf { cap: *x.max(y) },
        (Ty::Int { .. } | Ty::Bool, Ty::Kept(Type::Enum { .. })) | (Ty::Kept(Type::Enum { .. }), Ty::Int { .. } | Ty::Bool) => Ty::I64,
        (Ty::Record(x), Ty::Record(y)) if x.len() == y.len() && x.iter().zip(y).all(|(x, y)| x.0 == y.0) => {
            let fields = x.iter().zip(y).map(|((name, x), (_, y))| Some((name.clone(), unify(x, y)?)));
            Ty::Record(fields.collect::<Option<_>>()?)
        }
        (Ty::Ptr { to: x, space: s }, Ty::Ptr { to: y, space: t }) if x == y && s != t => Ty::Ptr {
            to: x.clone(),
            space: if *s == Space::User || *t == Space::User {
                Space::User
            } else {
                Space::Kernel
            },
        },
        (Ty::Ptr { space, .. }, Ty::Ptr { .. }) if a != b => Ty::Ptr {
            to: Box::new(super::CTy::Void),
            space: *space,
        },
        (Ty::Tuple(x), Ty::Tuple(y)) if x.len() == y.len() => Ty::Tuple(x.iter().zip(y).map(|(x, y)| unify(x, y)).collect::<Option<_>>()?),
        (a, b) if a == b => a.clone(),
        _ => return None,
    })
}
