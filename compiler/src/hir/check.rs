//! The entry point of type checking: natives, blocks, and the types of maps.
//!
//! A map may be read before the block that fixes its type, so the blocks are checked until the types of the maps no
//! longer change; only the last round's diagnostics count.

use super::map_types::{Initial, MapDecl, MapState, check_declarations, check_existing, map_declarations, never_assigned};
use super::settings::{Settings, config_block, environment};
use super::unify::unify;
use super::{Block, Map, Program, Stmt, StmtKind, Ty, Var, VarId};
use crate::kernel::KernelInfo;
use crate::object::{Config, NativeInstance};
use crate::tables::Hook;
use std::collections::{HashMap, HashSet, VecDeque};
use weir_parser::params::{Param, Words};
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
    /// What stands behind the script as it was written: read into the two above once it is known what the script takes.
    pub words: Vec<String>,
    /// Process that `-c` has started.
    pub child: Option<u32>,
    /// `--unsafe`: functions that change the system are allowed.
    pub unsafe_functions: bool,
    /// `-k`: failures of helpers are told.
    pub helper_errors: bool,
    /// The code will run on other kernels than this one, too: what a helper tells is not read from the kernel's structs.
    pub portable: bool,
    /// Maps that are there already, of earlier entries of the same session; their types stand.
    pub maps: Vec<Map>,
    /// The script is only judged: parameters that are not given stand for values that fit, and interfaces that are not on this machine are
    /// on another.
    pub judged_only: bool,
}

impl Options {
    /// Reads the words behind the script.
    #[must_use]
    pub fn with_words_read(&self, parameters: &[Param]) -> Self {
        let mut out = self.clone();
        let read = Words::read(&std::mem::take(&mut out.words), parameters);
        out.named.extend(read.named);
        out.positional.extend(read.positional);
        out
    }
}

/// Checks a whole script.
pub fn check(program: &ast::Program, kernel: &dyn KernelInfo, options: &Options) -> (Program, Vec<Diagnostic>) {
    let mut natives = Vec::new();
    let mut failed_uses = Vec::new();
    let mut early = Vec::new();
    let mut defines = HashMap::new();
    let mut settings = Settings::default();
    for item in &program.items {
        match item {
            ast::Item::Use(item) => {
                if let Some(instance) = super::probes::native_instance(item, program, &natives, options, &mut early) {
                    natives.push(instance);
                } else {
                    failed_uses.push(item.alias.as_ref().unwrap_or(&item.native).name.clone());
                }
            }
            ast::Item::Define(define) => {
                if let Some(value) = &define.value {
                    defines.insert(define.name.name.clone(), value.clone());
                }
            }
            ast::Item::Config(block) => config_block(block, &mut settings, &mut early),
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
    let types = super::script_types::collect(program, Some(kernel), &defines, &mut early);
    let functions = super::functions::collect(program, &macros, &mut early);
    environment(&options.config, &mut settings, &mut early);
    let (decls, initial) = map_declarations(program, kernel, options, &mut early);
    let defaults = super::probes::attach_defaults(program);
    let mut maps: Vec<MapState> = options.maps.iter().map(MapState::existing).collect();
    let probes: Vec<&ast::Probe> = program.items.iter().filter_map(probe_item).collect();
    let mut sites: Option<Vec<Sites>> = None;
    let mut self_assigned = false;
    loop {
        let mut cx = Checker::new(
            kernel,
            options,
            &natives,
            &defines,
            &macros,
            &types,
            &functions,
            &settings,
            &decls,
            &defaults,
            &initial,
            maps.clone(),
        );
        cx.self_assigned = self_assigned;
        cx.failed_uses = &failed_uses;
        // Where the probes are depends on no type: the kernel is asked once, however many rounds there are.
        let sites = sites.get_or_insert_with(|| probes.iter().map(|probe| cx.resolve(probe)).collect());
        for (probe, sites) in probes.iter().zip(sites.iter()) {
            cx.diagnostics.extend_from_slice(&sites.diagnostics);
            cx.probe(probe, &sites.found);
        }
        cx.uncalled_functions();
        if cx.maps != maps {
            maps = cx.maps;
            continue;
        }
        if !self_assigned && cx.diagnostics.iter().any(|d| d.code == "unassigned-map") {
            self_assigned = true;
            continue;
        }
        let mut diagnostics = early;
        let does_something = |item: &ast::Item| match item {
            ast::Item::Probe(probe) => !probe.attach_points.iter().all(super::probes::is_left_out),
            item => matches!(item, ast::Item::Use(_)),
        };
        if !program.items.iter().any(does_something) && diagnostics.is_empty() {
            diagnostics.push(
                Diagnostic::error("no-probes", Span::default(), "the script has no probe")
                    .help("for example `begin { printf(\"hello\\n\"); }`"),
            );
        }
        diagnostics.append(&mut cx.diagnostics);
        check_declarations(&cx.maps, &decls, &mut diagnostics);
        check_existing(&cx.maps, &options.maps, &decls, &mut diagnostics);
        never_assigned(&cx.maps, &mut diagnostics);
        let blocks = cx.blocks;
        too_long(&blocks, &mut diagnostics);
        let (sets, comm_offset) = (cx.sets, cx.comm_offset);
        let declared = |name: &str| {
            let existing = options.maps.iter().find(|m| m.name == name);
            decls.get(name).copied().or_else(|| existing.and_then(|m| m.declared))
        };
        let maps: Vec<Map> = cx.maps.into_iter().map(|m| m.finish(declared, &initial)).collect();
        super::lints::lint(&blocks, &maps, &natives, kernel, &mut diagnostics);
        return (
            Program {
                blocks,
                maps,
                natives,
                config: settings.config,
                cpus: kernel.cpus(),
                comm_offset,
                sets,
                helper_errors: options.helper_errors,
            },
            diagnostics,
        );
    }
}

fn probe_item(item: &ast::Item) -> Option<&ast::Probe> {
    match item {
        ast::Item::Probe(probe) => Some(probe),
        _ => None,
    }
}

/// The places of one probe, and what was said while they were looked for.
struct Sites {
    found: Vec<super::probes::Site>,
    diagnostics: Vec<Diagnostic>,
}

/// Statements of one block. The kernel follows a million instructions of a program, and a statement is about ten at least.
const MAX_STATEMENTS: u64 = 10_000;

/// Says it before the compiler and the kernel have worked for minutes to find it out.
fn too_long(blocks: &[Block], out: &mut Vec<Diagnostic>) {
    for block in blocks {
        let n = super::visit::count(&block.body);
        if let (true, Some(first)) = (n > MAX_STATEMENTS, block.body.first()) {
            let message = format!("this block is too long for the kernel: it has {n} statements, {MAX_STATEMENTS} are the most");
            out.push(Diagnostic::error("too-long", first.span, message).help("use a loop: `for ($i : 0..100) { … }`"));
        }
    }
}

/// An argument that nothing reads is a slip of the pen, as in `--prot=80`.
pub fn unknown_parameters(parameters: &[Param], options: &Options, out: &mut Vec<Diagnostic>) {
    for (name, _) in &options.named {
        if parameters.iter().any(|p| p.name == *name) || name == HELP {
            continue;
        }
        let d = Diagnostic::error(
            "unknown-parameter",
            Span::default(),
            format!("the script has no parameter `--{name}`"),
        );
        let d = match nearest_name(name, parameters.iter().map(|p| p.name.as_str())) {
            Some(near) => d.help(format!("did you mean `--{near}`?")),
            None if parameters.is_empty() => d.help("it takes named parameters where it asks for them: `getopt(\"name\", default)`"),
            None => d.help(format!("`-- --{HELP}` lists what it takes")),
        };
        out.push(d);
    }
}

/// The named argument that asks for a list of the others.
pub const HELP: &str = "help";

/// Adds "did you mean" when a name is close enough.
pub(super) fn nearest<'n>(diagnostic: Diagnostic, name: &str, candidates: impl Iterator<Item = &'n str>) -> Diagnostic {
    match nearest_name(name, candidates) {
        Some(best) => diagnostic.help(format!("did you mean `{best}`?")),
        None => diagnostic,
    }
}

/// What to write instead of the name of an interface that is not there. A program on a wrong one may cut somebody off: all are
/// shown beside the one that is near.
#[must_use]
pub fn interface_help(name: &str, interfaces: &[String]) -> String {
    const MOST: usize = 16;
    let near = nearest_name(name, interfaces.iter().map(String::as_str));
    let all = match interfaces.len() {
        0 => "there are none".to_owned(),
        1..=MOST => format!("there are `{}`", interfaces.join("`, `")),
        more => format!("there are `{}` and {} more", interfaces[..MOST].join("`, `"), more - MOST),
    };
    match near {
        Some(near) => format!("did you mean `{near}`? {all}"),
        None => all,
    }
}

/// Returns the most similar name, if one is similar at all.
pub fn nearest_name<'n>(name: &str, candidates: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let mut best: Option<(&str, f64)> = None;
    for candidate in candidates {
        let score = if are_swapped(name, candidate) {
            1.0
        } else {
            strsim::jaro_winkler(name, candidate)
        };
        if score > 0.8 && best.is_none_or(|(_, s)| score > s) {
            best = Some((candidate, score));
        }
    }
    best.map(|(name, _)| name)
}

/// Whether two neighbouring letters have changed places, and nothing else: in a short word that is little alike, and easily typed.
fn are_swapped(a: &str, b: &str) -> bool {
    strsim::osa_distance(a, b) == 1 && strsim::levenshtein(a, b) == 2
}

pub(super) struct Checker<'a> {
    pub kernel: &'a dyn KernelInfo,
    pub options: &'a Options,
    pub natives: &'a [NativeInstance],
    /// What `use` would have named, had it been right: nobody needs to hear that it is unknown.
    pub failed_uses: &'a [String],
    /// Where parameters stand that are not given, if the script is only judged.
    pub stand_ins: HashSet<Span>,
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
    /// Pieces of code that macros, functions and `#define`s have come to so far.
    pub written_out: usize,
    /// What that was before the probe being checked; each of its places is as much again, and no fault of the author.
    written_before: usize,
    /// Number of `limit` statements so far.
    pub limits: u32,
    pub config: &'a Config,
    pub settings: &'a Settings,
    pub decls: &'a HashMap<String, MapDecl>,
    /// What parameters in attach points are where nobody gives them.
    pub attach_defaults: &'a HashMap<String, String>,
    pub initial: &'a Initial,
    pub maps: Vec<MapState>,
    /// See [`Program::comm_offset`].
    pub comm_offset: Option<u32>,
    /// The script's own maps by name.
    pub map_numbers: HashMap<String, super::MapId>,
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
    /// The family of addresses that all attach points of the block have, if it is one.
    pub family: Option<crate::tables::AddressFamily>,
    /// Set when the block's meaning depends on which of its attach points it runs at.
    pub site_dependent: bool,
    pub vars: Vec<Var>,
    pub scopes: Vec<HashMap<String, VarId>>,
    /// Types of the variables after the round before, by number.
    pub var_hints: Vec<Ty>,
    /// Set when an assignment gave a variable a wider type than it was used with before.
    pub var_grew: bool,
    /// The map whose value is being checked.
    pub assigning: Option<super::MapId>,
    /// Nothing but their own values was found for maps that have no type: they hold numbers.
    pub self_assigned: bool,
    pub loops: usize,
    /// `#define`s that are being written out.
    pub expanding: Vec<String>,
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
        settings: &'a Settings,
        decls: &'a HashMap<String, MapDecl>,
        attach_defaults: &'a HashMap<String, String>,
        initial: &'a Initial,
        maps: Vec<MapState>,
    ) -> Self {
        // Copies of natives' maps have names that no script can write.
        let own = maps.iter().enumerate().filter(|(_, m)| m.copy.is_none());
        let map_numbers = own.map(|(id, m)| (m.name.clone(), id)).collect();
        Self {
            kernel,
            options,
            natives,
            failed_uses: &[],
            stand_ins: HashSet::new(),
            defines,
            macros,
            types,
            functions,
            called: std::collections::HashSet::new(),
            inside: Vec::new(),
            macro_depth: 0,
            expansions: 0,
            written_out: 0,
            written_before: 0,
            limits: 0,
            config: &settings.config,
            settings,
            decls,
            attach_defaults,
            initial,
            maps,
            map_numbers,
            comm_offset: None,
            blocks: Vec::new(),
            sets: Vec::new(),
            diagnostics: Vec::new(),
            hook: Hook::RunOnce,
            native: None,
            event: 0,
            target: super::probes::Target::None,
            site: String::new(),
            cgroup_hook: None,
            family: None,
            site_dependent: false,
            vars: Vec::new(),
            scopes: Vec::new(),
            var_hints: Vec::new(),
            var_grew: false,
            assigning: None,
            self_assigned: false,
            loops: 0,
            expanding: Vec::new(),
            point: None,
        }
    }

    pub fn error(&mut self, diagnostic: Diagnostic) {
        self.diagnostics.push(diagnostic);
    }

    /// Says what this kernel lacks, and whether to go on: a script that will not run here may be meant for another machine, and the rest
    /// of it can be right or wrong all the same.
    pub fn lacking(&mut self, mut diagnostic: Diagnostic) -> bool {
        let judged = self.options.judged_only;
        if judged {
            diagnostic.severity = weir_parser::Severity::Warning;
        }
        self.diagnostics.push(diagnostic);
        judged
    }

    fn resolve(&mut self, probe: &ast::Probe) -> Sites {
        let found = self.sites(probe);
        Sites {
            found,
            diagnostics: std::mem::take(&mut self.diagnostics),
        }
    }

    /// Checks one probe: once for each group of attach points that can share code.
    fn probe(&mut self, probe: &ast::Probe, sites: &[super::probes::Site]) {
        let mut rest: VecDeque<super::probes::Site> = sites.iter().cloned().collect();
        self.written_before = self.written_out;
        let mut families = sites.iter().map(|s| s.cgroup_hook().map(|h| h.family));
        let first = families.next().flatten();
        self.family = first.filter(|_| families.all(|f| f == first));
        while let Some(first) = rest.pop_front() {
            let errors = self.diagnostics.len();
            let (mut block, dependent) = self.block(probe, &first);
            let failed = self.diagnostics[errors..].iter().any(Diagnostic::is_error);
            if failed {
                // The same text would give the same errors again for every other site.
                self.blocks.push(block);
                return;
            }
            if !dependent {
                let (same, other): (VecDeque<_>, VecDeque<_>) = rest.into_iter().partition(|s| s.shares_code(&first));
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
        self.written_out = self.written_before;
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
            written: None,
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

#[cfg(test)]
mod tests {
    use super::nearest_name;

    #[test]
    fn letters_that_changed_places_are_near_and_other_letters_are_not() {
        let near = |name| nearest_name(name, ["web", "batch", "db"].into_iter());
        assert_eq!(near("wbe"), Some("web"));
        assert_eq!(near("bd"), Some("db"));
        assert_eq!(near("bacth"), Some("batch"));
        assert_eq!(near("xyz"), None);
        assert_eq!(near("q"), None);
    }
}
