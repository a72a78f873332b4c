//! The pass list: from text to an object, with the text form of every stage on the way.

use crate::backend::{self, Isa};
use crate::elf;
use crate::kernel::{Feature, KernelInfo, Support};
use crate::object::{MapRole, MapSpec, Object};
use crate::{clif, hir, plan};
use std::time::{Duration, Instant};
use weir_parser::params::{Param, Params};
use weir_parser::{Diagnostic, LineIndex, SourceId, Span};

/// Largest value of a per-CPU map (`PCPU_MIN_UNIT_SIZE`).
const MAX_SCRATCH_BYTES: u32 = 32768;

/// A point of the pipeline whose text form can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Tokens,
    Ast,
    Hir,
    Plan,
    Clif,
    /// After the optimiser.
    Opt,
    Lir,
    Bpf,
    Elf,
}

impl Stage {
    pub const ALL: [Stage; 9] = [
        Stage::Tokens,
        Stage::Ast,
        Stage::Hir,
        Stage::Plan,
        Stage::Clif,
        Stage::Opt,
        Stage::Lir,
        Stage::Bpf,
        Stage::Elf,
    ];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Stage::Tokens => "tokens",
            Stage::Ast => "ast",
            Stage::Hir => "hir",
            Stage::Plan => "plan",
            Stage::Clif => "clif",
            Stage::Opt => "opt",
            Stage::Lir => "lir",
            Stage::Bpf => "bpf",
            Stage::Elf => "elf",
        }
    }
}

/// One source text and the name it is known by in messages.
#[derive(Clone, Debug)]
pub struct Source {
    pub name: String,
    pub text: String,
}

#[derive(Clone, Debug)]
pub struct Options {
    pub script: hir::Options,
    /// Run the optimiser. A kernel that rejects its code may accept the unoptimised one.
    pub optimise: bool,
    /// Stages to print; compilation stops after the last of them when `stop_after_dump` is set.
    pub dump: Vec<Stage>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            script: hir::Options::default(),
            optimise: true,
            dump: Vec::new(),
        }
    }
}

/// What came out. `object` is missing exactly when `diagnostics` has an error or `internal` is set.
#[derive(Debug, Default)]
pub struct Output {
    pub object: Option<Object>,
    pub diagnostics: Vec<Diagnostic>,
    /// A bug of the compiler: stage and message.
    pub internal: Option<(&'static str, String)>,
    /// The script's maps, those of earlier entries among them, for the entries that follow.
    pub maps: Vec<hir::Map>,
    /// What the script takes on its command line.
    pub parameters: Vec<Param>,
    /// How long the parts of the way took, in its order.
    pub times: Vec<(&'static str, Duration)>,
    /// Scripts that this one imports, in the order of the numbers in spans, the first of them 1.
    pub imports: Vec<Source>,
    /// Requested text forms, as far as compilation came.
    pub dumps: Vec<(Stage, String)>,
}

impl Output {
    fn failed(&self) -> bool {
        self.internal.is_some() || self.diagnostics.iter().any(Diagnostic::is_error)
    }
}

/// Measures one part after the other.
struct Clock(Instant);

impl Clock {
    fn lap(&mut self, out: &mut Output, part: &'static str) {
        let now = Instant::now();
        out.times.push((part, now - self.0));
        self.0 = now;
    }
}

/// Compiles a script. Stops after the first stage that reports an error.
pub fn compile(source: &Source, kernel: &dyn KernelInfo, options: &Options) -> Output {
    let mut out = Output::default();
    if let Some(front) = front(source, kernel, options, &mut out) {
        if let Some(memory) = kernel.memory() {
            out.diagnostics.extend(too_much_memory(&front.plan.maps, kernel.cpus(), memory));
        }
        if out.failed() {
            return out;
        }
        back(source, kernel, options, front, &mut out);
    }
    out
}

/// Compiles a script for use without a kernel: the code stays CLIF, and the object's ELF is empty.
pub fn compile_portable(source: &Source, kernel: &dyn KernelInfo, options: &Options) -> (Output, Option<clif::Code>) {
    let mut out = Output::default();
    let Some(Front { program, plan, code, .. }) = front(source, kernel, options, &mut out) else {
        return (out, None);
    };
    out.object = Some(object(Vec::new(), &[], &out.imports, program, plan));
    (out, Some(code))
}

/// What a script and those that it imports take on the command line. Errors in them are passed over.
pub fn parameters(source: &Source, kernel: &dyn KernelInfo) -> Params {
    let mut imports = Vec::new();
    // Reading a script once more is for those that import.
    if source.text.contains("import") {
        let mut parsed = weir_parser::parse(SourceId(0), &source.text);
        imports = crate::import::resolve(source, &mut parsed.program, kernel, &mut Vec::new());
    }
    of_all(source, &imports)
}

fn of_all(source: &Source, imports: &[Source]) -> Params {
    Params::of_all(std::iter::once(source).chain(imports).map(|s| s.text.as_str()))
}

/// What is known before anything depends on the machine.
struct Front {
    program: hir::Program,
    plan: plan::Plan,
    code: clif::Code,
    clock: Clock,
}

/// From text to CLIF. `None` when there was an error.
fn front(source: &Source, kernel: &dyn KernelInfo, options: &Options, out: &mut Output) -> Option<Front> {
    let wants = |stage| options.dump.contains(&stage);
    let id = SourceId(0);
    if wants(Stage::Tokens) {
        out.dumps.push((Stage::Tokens, weir_parser::tokens_text(id, &source.text)));
    }
    let mut clock = Clock(Instant::now());
    let mut parsed = weir_parser::parse(id, &source.text);
    clock.lap(out, "parse");
    out.diagnostics = parsed.diagnostics;
    if wants(Stage::Ast) {
        out.dumps.push((Stage::Ast, weir_parser::dump(&parsed.program)));
    }
    if out.failed() {
        return None;
    }
    out.imports = crate::import::resolve(source, &mut parsed.program, kernel, &mut out.diagnostics);
    if out.failed() {
        return None;
    }
    out.parameters = of_all(source, &out.imports).named;
    let script = options.script.with_words_read(&out.parameters);
    let (program, mut diagnostics) = hir::check(&parsed.program, kernel, &script);
    out.diagnostics.append(&mut diagnostics);
    hir::unknown_parameters(&out.parameters, &script, &mut out.diagnostics);
    for d in &mut out.diagnostics {
        // Sources are numbered: the script, then what it imports.
        let text = std::iter::once(source).chain(&out.imports).nth(d.span.source.0 as usize);
        d.settle(text.map_or("", |s| &s.text));
    }
    if out.failed() {
        return None;
    }
    if wants(Stage::Hir) {
        out.dumps.push((Stage::Hir, hir::text::dump(&program)));
    }
    clock.lap(out, "check");
    out.maps.clone_from(&program.maps);
    let mut plan = plan::plan(&program, kernel, !options.script.portable);
    let code = clif::generate(&program, &mut plan);
    plan.refused.sort_by_key(|d| (d.span.source.0, d.span.start));
    for mut d in std::mem::take(&mut plan.refused) {
        let text = std::iter::once(source).chain(&out.imports).nth(d.span.source.0 as usize);
        d.settle(text.map_or("", |s| &s.text));
        out.diagnostics.push(d);
    }
    for map in &plan.maps {
        if matches!(map.role, MapRole::Scratch) && map.value_size > MAX_SCRATCH_BYTES {
            let program = plan.programs.iter().find(|p| map.name.ends_with(&p.name));
            let message = format!(
                "this block needs {} bytes of working memory, the kernel allows {MAX_SCRATCH_BYTES}",
                map.value_size
            );
            let d = Diagnostic::error("memory-too-large", program.map(|p| p.span).unwrap_or_default(), message);
            out.diagnostics
                .push(d.help("read shorter strings: `str(p, 100)`, or lower `max_strlen` in the `config` block"));
        }
    }
    if out.failed() {
        return None;
    }
    if wants(Stage::Plan) {
        out.dumps.push((Stage::Plan, plan::dump(&plan)));
    }
    if wants(Stage::Clif) {
        let programs = code.programs.iter().zip(&plan.programs).map(|(f, p)| (p.name.as_str(), f));
        let bodies = code.subprograms.iter().map(|s| (s.name.as_str(), &s.function));
        let text: Vec<String> = programs
            .chain(bodies)
            .map(|(name, f)| format!("; {name}\n{}", clif::dump(f)))
            .collect();
        out.dumps.push((Stage::Clif, text.join("\n")));
    }
    clock.lap(out, "code");
    Some(Front {
        program,
        plan,
        code,
        clock,
    })
}

/// From CLIF to the object.
fn back(source: &Source, kernel: &dyn KernelInfo, options: &Options, front: Front, out: &mut Output) {
    let Front {
        program,
        plan,
        code,
        mut clock,
    } = front;
    let clif::Code {
        programs: functions,
        subprograms,
    } = code;
    let isa = match kernel.feature(Feature::IsaV4) {
        Support::Yes => Isa::V4,
        Support::No(_) | Support::Unknown(_) => Isa::V3,
    };
    let opts = backend::Options {
        isa,
        optimise: options.optimise,
    };
    // Programs first, then the bodies of their loops.
    let bodies: Vec<Body> = subprograms
        .iter()
        .map(|s| Body {
            name: s.name.clone(),
            params: s.params,
            program: s.program,
            parent: s.parent,
        })
        .collect();
    let named = plan.programs.iter().map(|p| (p.name.clone(), p.span)).zip(functions);
    let named_bodies = subprograms
        .into_iter()
        .map(|s| ((s.name, plan.programs[s.program].span), s.function));
    let mut backend = backend::Backend::default();
    let mut compiled: Vec<Code> = Vec::new();
    for ((name, span), function) in named.chain(named_bodies) {
        let input = backend::Input {
            func: function.func,
            name: &name,
            consts: &function.consts,
            opts,
        };
        match backend.compile(input) {
            Ok(code) => compiled.push((code, function.spans)),
            Err(error) => return not_compiled(span, error, out),
        }
    }
    let (code, body_code) = compiled.split_at(plan.programs.len());
    for (i, body) in bodies.iter().enumerate() {
        let bytes = chain_bytes(i, &bodies, body_code, &code[body.program].0);
        if bytes > backend::MAX_STACK_BYTES {
            out.diagnostics.push(stack_too_large(plan.programs[body.program].span, bytes));
            return;
        }
    }
    if let Some(diagnostic) = too_many_maps(&compiled, &plan) {
        out.diagnostics.push(diagnostic);
        return;
    }
    backend_dumps(out, options, &compiled, &plan, &bodies);
    clock.lap(out, "back end");
    match write_object(source, &out.imports, program, plan, &compiled, &bodies) {
        Ok(object) => {
            if options.dump.contains(&Stage::Elf) {
                out.dumps.push((Stage::Elf, elf::dump(&object.elf)));
            }
            clock.lap(out, "object");
            out.object = Some(object);
        }
        Err(error) => out.internal = Some(("elf", error.to_string())),
    }
}

/// Says why a program could not be compiled: too large, or a bug of ours.
fn not_compiled(span: Span, error: backend::BackendError, out: &mut Output) {
    use backend::BackendError as E;
    match error {
        E::StackTooLarge { bytes, .. } => out.diagnostics.push(stack_too_large(span, bytes)),
        E::TooLong { insns, .. } => {
            let limit = format!("{insns} instructions, the kernel allows {}", backend::MAX_INSNS);
            out.diagnostics.push(too_long(span, &limit));
        }
        E::BranchOutOfRange { distance, .. } => {
            let limit = format!("a jump over {distance} instructions, kernels before 6.6 allow 32767");
            out.diagnostics.push(too_long(span, &limit));
        }
        error => out.internal = Some(("backend", error.to_string())),
    }
}

/// What the kernel adds to each entry of a hash (`struct htab_elem`).
const ENTRY_BYTES: u64 = 48;

/// Bytes of one entry of a map of the script, where room for all entries is made at the start.
fn entry_bytes(map: &MapSpec, cpus: u32) -> Option<u64> {
    let preallocated = matches!(map.role, MapRole::User { .. }) && map.flags & plan::NO_PREALLOC == 0;
    let copies = if map.kind.is_per_cpu() { u64::from(cpus) } else { 1 };
    let value = u64::from(map.value_size.next_multiple_of(8)) * copies;
    preallocated.then(|| ENTRY_BYTES + u64::from(map.key_size.next_multiple_of(8)) + value)
}

/// Maps that the machine has no room for: the kernel would look for it for minutes before it says so, and others would be killed for it.
fn too_much_memory(maps: &[MapSpec], cpus: u32, memory: u64) -> Option<Diagnostic> {
    let gib = |bytes: u64| format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30));
    let sizes = maps
        .iter()
        .filter_map(|map| Some((map, entry_bytes(map, cpus)?)))
        .map(|(map, entry)| (map, entry, entry.saturating_mul(map.max_entries.into())));
    let total = sizes.clone().fold(0u64, |sum, (_, _, bytes)| sum.saturating_add(bytes));
    let (map, entry, bytes) = sizes.max_by_key(|(_, _, bytes)| *bytes)?;
    let MapRole::User { name, span, .. } = &map.role else { return None };
    if total <= memory / 4 {
        return None;
    }
    let others = if total > bytes {
        format!(", all maps together {}", gib(total))
    } else {
        String::new()
    };
    let message = format!(
        "`{name}` has room for {} keys, which takes {} of memory{others}; this machine has {}",
        map.max_entries,
        gib(bytes),
        gib(memory)
    );
    let d = if total > memory {
        Diagnostic::error("map-memory", *span, message)
    } else {
        Diagnostic::warning("map-memory", *span, message)
    };
    let fit = (memory / 4 / entry).max(1);
    Some(d.help(format!(
        "lower `max_map_keys` in the `config` block, or declare the map with less room, as in `let {name} = hash(N);`: {fit} keys take a quarter of the memory"
    )))
}

/// Maps that one program may use (`MAX_USED_MAPS` of the kernel).
const MAX_USED_MAPS: usize = 64;

/// The kernel's limit, found before the kernel is asked.
fn too_many_maps(compiled: &[Code], plan: &plan::Plan) -> Option<Diagnostic> {
    for ((code, _), program) in compiled.iter().zip(&plan.programs) {
        let mut maps: Vec<u32> = code
            .relocs
            .iter()
            .filter_map(|r| {
                if let backend::RelocKind::Map(map) = r.kind {
                    Some(map)
                } else {
                    None
                }
            })
            .collect();
        maps.sort_unstable();
        maps.dedup();
        if maps.len() > MAX_USED_MAPS {
            let message = format!(
                "this block uses {} maps, the kernel allows {MAX_USED_MAPS} in one program",
                maps.len()
            );
            return Some(
                Diagnostic::error("too-many-maps", program.span, message)
                    .help("use one map with a name in its key: `@m[\"a\", key]` instead of `@a[key]`"),
            );
        }
    }
    None
}

type Code = (backend::Compiled, Vec<Span>);

/// What is known of a loop's body besides its code.
struct Body {
    name: String,
    params: u8,
    program: usize,
    parent: Option<usize>,
}

/// Stack of a loop's body and all that call it; the kernel rounds each up to 32 bytes.
fn chain_bytes(body: usize, bodies: &[Body], code: &[Code], program: &backend::Compiled) -> u32 {
    let round = |bytes: u32| bytes.max(1).next_multiple_of(32);
    let mut sum = round(program.stack_bytes);
    let mut at = Some(body);
    while let Some(i) = at {
        sum += round(code[i].0.stack_bytes);
        at = bodies[i].parent;
    }
    sum
}

fn stack_too_large(span: Span, bytes: u32) -> Diagnostic {
    let message = format!("this block needs {bytes} bytes of stack, the kernel allows 512");
    Diagnostic::error("stack-too-large", span, message).help("split the block, or use fewer keys and variables at once")
}

fn too_long(span: Span, limit: &str) -> Diagnostic {
    let message = format!("this block is too long: it takes {limit}");
    Diagnostic::error("block-too-long", span, message)
        .help("split it into several blocks, or use a loop or a map with a key for what it repeats")
}

fn backend_dumps(out: &mut Output, options: &Options, compiled: &[Code], plan: &plan::Plan, bodies: &[Body]) {
    for stage in [Stage::Opt, Stage::Lir, Stage::Bpf] {
        if !options.dump.contains(&stage) {
            continue;
        }
        let texts: Vec<String> = compiled
            .iter()
            .zip(plan.programs.iter().map(|p| &p.name).chain(bodies.iter().map(|b| &b.name)))
            .map(|((code, _), name)| {
                let text = match stage {
                    Stage::Opt => code.clif_text(),
                    Stage::Lir => code.lir_text(),
                    _ => backend::disassemble(&code.insns, &code.relocs, &|kind| reloc_name(kind, plan)),
                };
                format!(
                    "; {} ({} instructions, {} bytes of stack)\n{text}",
                    name,
                    code.insns.len(),
                    code.stack_bytes
                )
            })
            .collect();
        out.dumps.push((stage, texts.join("\n")));
    }
}

fn reloc_name(kind: backend::RelocKind, plan: &plan::Plan) -> String {
    match kind {
        backend::RelocKind::Map(map) => usize::try_from(map)
            .ok()
            .and_then(|m| plan.maps.get(m))
            .map_or_else(|| format!("map {map}"), |m| m.name.clone()),
        backend::RelocKind::Subprog(n) | backend::RelocKind::SubprogAddr(n) => format!("subprogram {n}"),
        backend::RelocKind::Rodata(offset) => format!("rodata + {offset}"),
    }
}

fn write_object(
    source: &Source,
    imports: &[Source],
    program: hir::Program,
    plan: plan::Plan,
    compiled: &[Code],
    bodies: &[Body],
) -> Result<Object, elf::ElfError> {
    let sources: Vec<&Source> = std::iter::once(source).chain(imports).collect();
    let indexes: Vec<LineIndex<'_>> = sources.iter().map(|s| LineIndex::new(&s.text)).collect();
    let mut parts = Vec::new();
    for (code, spans) in compiled {
        let insns: Vec<elf::RawInsn> = code.insns.iter().map(|i| i.to_bytes()).collect();
        let relocs: Vec<elf::Reloc> = code
            .relocs
            .iter()
            .map(|r| elf::Reloc {
                insn: r.insn,
                kind: match r.kind {
                    backend::RelocKind::Map(n) => elf::RelocKind::Map(n),
                    backend::RelocKind::Subprog(n) => elf::RelocKind::Subprog(n),
                    backend::RelocKind::SubprogAddr(n) => elf::RelocKind::SubprogAddr(n),
                    backend::RelocKind::Rodata(n) => elf::RelocKind::Rodata(n),
                },
            })
            .collect();
        let lines: Vec<elf::Line<'_>> = code
            .lines
            .iter()
            .filter_map(|(insn, location)| {
                let span = usize::try_from(*location).ok().and_then(|l| spans.get(l))?;
                let number = usize::try_from(span.source.0).ok()?;
                let (index, source) = (indexes.get(number)?, sources.get(number)?);
                let (line, col) = index.line_col(span.start);
                Some(elf::Line {
                    insn: *insn,
                    file: &source.name,
                    text: index.line_text(line),
                    line,
                    col,
                })
            })
            .collect();
        parts.push((insns, relocs, lines));
    }
    let programs: Vec<elf::Program<'_>> = plan
        .programs
        .iter()
        .zip(&parts)
        .map(|(p, (insns, relocs, lines))| elf::Program {
            name: &p.name,
            section: &p.section,
            kind: p.kind,
            code: elf::Code { insns, relocs, lines },
        })
        .collect();
    let subprograms: Vec<elf::Subprogram<'_>> = bodies
        .iter()
        .zip(&parts[plan.programs.len()..])
        .map(|(body, (insns, relocs, lines))| elf::Subprogram {
            name: &body.name,
            params: body.params,
            code: elf::Code { insns, relocs, lines },
        })
        .collect();
    let bytes = elf::write(&elf::Input {
        programs: &programs,
        subprograms: &subprograms,
        maps: &plan.maps,
    })?;
    Ok(object(bytes, compiled, imports, program, plan))
}

/// Without code, in `compiled`, the programs have no instructions either.
fn object(elf: Vec<u8>, compiled: &[Code], imports: &[Source], program: hir::Program, plan: plan::Plan) -> Object {
    let instructions = |i: usize| compiled.get(i).map_or(0, |(code, _)| code.insns.len());
    let programs = plan
        .programs
        .into_iter()
        .enumerate()
        .map(|(i, p)| crate::object::ProgramSpec {
            name: p.name,
            section: p.section,
            kind: p.kind,
            attach: p.attach,
            instructions: u32::try_from(instructions(i)).unwrap_or(u32::MAX),
            span: p.span,
        })
        .collect();
    Object {
        elf,
        programs,
        maps: plan.maps,
        events: plan.events,
        counters: plan.counters,
        card: plan.card,
        natives: program.natives,
        config: program.config,
        imports: imports.iter().map(|s| (s.name.clone(), s.text.clone())).collect(),
    }
}
