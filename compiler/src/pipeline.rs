//! The pass list: from text to an object, with the text form of every stage on the way.

use crate::backend::{self, Isa};
use crate::elf;
use crate::kernel::{Feature, KernelInfo, Support};
use crate::object::Object;
use crate::{clif, hir, plan};
use weir_parser::{Diagnostic, LineIndex, SourceId, Span};

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
    /// Requested text forms, as far as compilation came.
    pub dumps: Vec<(Stage, String)>,
}

impl Output {
    fn failed(&self) -> bool {
        self.internal.is_some() || self.diagnostics.iter().any(Diagnostic::is_error)
    }
}

/// Compiles a script. Stops after the first stage that reports an error.
pub fn compile(source: &Source, kernel: &dyn KernelInfo, options: &Options) -> Output {
    let mut out = Output::default();
    let wants = |stage| options.dump.contains(&stage);
    let id = SourceId(0);
    if wants(Stage::Tokens) {
        out.dumps.push((Stage::Tokens, weir_parser::tokens_text(id, &source.text)));
    }
    let parsed = weir_parser::parse(id, &source.text);
    out.diagnostics = parsed.diagnostics;
    if wants(Stage::Ast) {
        out.dumps.push((Stage::Ast, weir_parser::dump(&parsed.program)));
    }
    if out.failed() {
        return out;
    }
    let (program, mut diagnostics) = hir::check(&parsed.program, kernel, &options.script);
    out.diagnostics.append(&mut diagnostics);
    if out.failed() {
        return out;
    }
    if wants(Stage::Hir) {
        out.dumps.push((Stage::Hir, hir::text::dump(&program)));
    }
    let mut plan = plan::plan(&program, kernel);
    let functions = clif::generate(&program, &mut plan);
    if wants(Stage::Plan) {
        out.dumps.push((Stage::Plan, plan::dump(&plan)));
    }
    if wants(Stage::Clif) {
        let text: Vec<String> = functions
            .iter()
            .zip(&plan.programs)
            .map(|(f, p)| format!("; {}\n{}", p.name, clif::dump(f)))
            .collect();
        out.dumps.push((Stage::Clif, text.join("\n")));
    }
    let isa = match kernel.feature(Feature::IsaV4) {
        Support::Yes => Isa::V4,
        Support::No(_) | Support::Unknown(_) => Isa::V3,
    };
    let opts = backend::Options {
        isa,
        optimise: options.optimise,
    };
    let mut compiled = Vec::new();
    for (function, program) in functions.into_iter().zip(&plan.programs) {
        let input = backend::Input {
            func: function.func,
            name: &program.name,
            consts: &function.consts,
            opts,
        };
        match backend::compile(input) {
            Ok(code) => compiled.push((code, function.spans)),
            Err(backend::BackendError::StackTooLarge { bytes, .. }) => {
                out.diagnostics.push(
                    Diagnostic::error(
                        "stack-too-large",
                        program.span,
                        format!("this block needs {bytes} bytes of stack, the kernel allows 512"),
                    )
                    .help("split the block, or use fewer keys and variables at once"),
                );
                return out;
            }
            Err(error) => {
                out.internal = Some(("backend", error.to_string()));
                return out;
            }
        }
    }
    backend_dumps(&mut out, options, &compiled, &plan);
    match write_object(source, program, plan, &compiled) {
        Ok(object) => {
            if wants(Stage::Elf) {
                out.dumps.push((Stage::Elf, elf::dump(&object.elf)));
            }
            out.object = Some(object);
        }
        Err(error) => out.internal = Some(("elf", error.to_string())),
    }
    out
}

type Code = (backend::Compiled, Vec<Span>);

fn backend_dumps(out: &mut Output, options: &Options, compiled: &[Code], plan: &plan::Plan) {
    for stage in [Stage::Opt, Stage::Lir, Stage::Bpf] {
        if !options.dump.contains(&stage) {
            continue;
        }
        let texts: Vec<String> = compiled
            .iter()
            .zip(&plan.programs)
            .map(|((code, _), program)| {
                let text = match stage {
                    Stage::Opt => code.clif_text.clone(),
                    Stage::Lir => code.lir_text.clone(),
                    _ => backend::disassemble(&code.insns, &code.relocs, &|kind| reloc_name(kind, plan)),
                };
                format!(
                    "; {} ({} instructions, {} bytes of stack)\n{text}",
                    program.name,
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

fn write_object(source: &Source, program: hir::Program, plan: plan::Plan, compiled: &[Code]) -> Result<Object, elf::ElfError> {
    let index = LineIndex::new(&source.text);
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
    let bytes = elf::write(&elf::Input {
        programs: &programs,
        subprograms: &[],
        maps: &plan.maps,
    })?;
    let programs = plan
        .programs
        .into_iter()
        .map(|p| crate::object::ProgramSpec {
            name: p.name,
            section: p.section,
            kind: p.kind,
            attach: p.attach,
            span: p.span,
        })
        .collect();
    Ok(Object {
        elf: bytes,
        programs,
        maps: plan.maps,
        events: plan.events,
        counters: plan.counters,
        natives: program.natives,
        config: program.config,
    })
}
