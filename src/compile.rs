//! Script to object, with the compiler's own bugs turned into messages.

use crate::render::{Failure, Renderer};
use crate::{out, report};
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use weir_compiler::clif::Code;
use weir_compiler::hir;
use weir_compiler::kernel::KernelInfo;
use weir_compiler::object::Object;
use weir_compiler::pipeline::{self, Source, Stage};
use weir_parser::Diagnostic;
use weir_parser::params::{Default, Param, Words};
use weir_runtime::Kernel;

/// One compilation, with all that it takes.
pub struct Job<'a, K = Kernel> {
    pub source: &'a Source,
    pub kernel: &'a K,
    /// The script's arguments.
    pub args: Vec<String>,
    /// `--unsafe`
    pub allow_unsafe: bool,
    /// `-k`
    pub helper_errors: bool,
    /// The object is for other kernels, too.
    pub portable: bool,
    /// The process that `-c` has started.
    pub child: Option<u32>,
    /// Whether warnings and lints are shown.
    pub warnings: bool,
    /// `-v`: how long the compiler took is said.
    pub times: bool,
    /// Nothing will run: what is not given, and interfaces that are not here, stand for some that fit.
    pub judged_only: bool,
}

impl<K: KernelInfo> Job<'_, K> {
    /// Compiles, prints the stages asked for, and tells the author what is to be told.
    ///
    /// Returns nothing when an error was shown.
    pub fn compile(&self, renderer: &Renderer, optimise: bool, dump: &[Stage]) -> (Option<Object>, Vec<(Stage, String)>) {
        let output = self.output(optimise, dump);
        let told = self.tell(renderer, output.diagnostics, output.imports, output.internal);
        let object = told.then_some(output.object).flatten();
        if self.times && object.is_some() {
            out::stderr(&times_text(&output.times));
        }
        (object, output.dumps)
    }

    /// Compiles and says nothing.
    pub fn output(&self, optimise: bool, dump: &[Stage]) -> pipeline::Output {
        let options = self.options(optimise, dump);
        guarded(|| pipeline::compile(self.source, self.kernel, &options))
    }

    /// Compiles for a replay, and tells the author what is to be told.
    ///
    /// Returns nothing when an error was shown.
    pub fn compile_portable(&self, renderer: &Renderer) -> Option<(Object, Code)> {
        let options = self.options(true, &[]);
        let mut code = None;
        let output = guarded(|| {
            let (output, compiled) = pipeline::compile_portable(self.source, self.kernel, &options);
            code = compiled;
            output
        });
        let told = self.tell(renderer, output.diagnostics, output.imports, output.internal);
        told.then_some(output.object).flatten().zip(code)
    }

    /// Whether the script's own arguments ask for a list of what it takes.
    pub fn wants_help(&self) -> bool {
        let parameters = pipeline::parameters(self.source, self.kernel).named;
        Words::read(&self.args, &parameters).named.iter().any(|(name, _)| name == hir::HELP)
    }

    /// Prints what the script takes on its command line. Returns nothing where `--help` is the script's own.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn help(&self, renderer: &Renderer) -> Result<Option<ExitCode>, Failure> {
        let output = self.output(true, &[]);
        if output.parameters.iter().any(|p| p.name == hir::HELP) {
            return Ok(None);
        }
        let ok = output.object.is_some();
        if !self.tell(renderer, output.diagnostics, output.imports, output.internal) || !ok {
            return Ok(Some(ExitCode::FAILURE));
        }
        out::stdout(&help_text(&self.source.name, &output.parameters))?;
        Ok(Some(ExitCode::SUCCESS))
    }

    fn options(&self, optimise: bool, dump: &[Stage]) -> pipeline::Options {
        let script = hir::Options {
            words: self.args.clone(),
            child: self.child,
            helper_errors: self.helper_errors,
            portable: self.portable,
            config: config_from_env(),
            unsafe_functions: self.allow_unsafe,
            judged_only: self.judged_only,
            ..hir::Options::default()
        };
        pipeline::Options {
            script,
            optimise,
            dump: dump.to_vec(),
        }
    }

    /// Shows what the compiler has to say. Returns false after an internal error.
    fn tell(
        &self,
        renderer: &Renderer,
        diagnostics: Vec<Diagnostic>,
        imports: Vec<Source>,
        internal: Option<(&'static str, String)>,
    ) -> bool {
        let shown: Vec<Diagnostic> = diagnostics.into_iter().filter(|d| d.is_error() || self.warnings).collect();
        let sources: Vec<Source> = std::iter::once(self.source.clone()).chain(imports).collect();
        out::stderr(&renderer.diagnostics(&sources, &shown));
        if let Some((stage, message)) = &internal {
            out::stderr(&report::internal(renderer, self.source, stage, message));
        }
        internal.is_none()
    }
}

/// `compiled in 2.1 ms: parse 0.1, check 0.4, …`
fn times_text(times: &[(&'static str, Duration)]) -> String {
    let ms = |time: &Duration| time.as_secs_f64() * 1e3;
    let total: f64 = times.iter().map(|(_, time)| ms(time)).sum();
    let parts: Vec<String> = times.iter().map(|(part, time)| format!("{part} {:.2}", ms(time))).collect();
    format!("compiled in {total:.2} ms: {}\n", parts.join(", "))
}

/// One line for each parameter: how it is written, what it is for.
fn help_text(script: &str, parameters: &[Param]) -> String {
    if parameters.is_empty() {
        return format!("`{script}` takes no named parameters\n");
    }
    let written = |p: &Param| match &p.default {
        Default::Switch | Default::Required => format!("--{}", p.name),
        Default::Int(default) | Default::Text(default) => format!("--{}={default}", p.name),
    };
    let width = parameters.iter().map(|p| written(p).chars().count()).max().unwrap_or(0);
    let mut text = format!("Parameters of `{script}`, given after `--`, with their defaults:\n");
    for p in parameters {
        let line = format!("  {:width$}  {}", written(p), p.doc);
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Settings of the environment: `BPFTRACE_MAX_STRLEN=200` is `max_strlen = 200`.
pub fn config_from_env() -> Vec<(String, String)> {
    // bpftrace's variables that are no settings of the `config` block.
    const OTHERS: &[&str] = &["color", "btf", "kernel_build", "kernel_source", "vmlinux"];
    let setting = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        let name = name.to_str()?.strip_prefix("BPFTRACE_")?.to_ascii_lowercase();
        (!OTHERS.contains(&name.as_str())).then_some(())?;
        Some((name, value.into_string().ok()?))
    };
    std::env::vars_os().filter_map(setting).collect()
}

/// Runs the compiler; a panic in it is an internal error like any other.
pub fn guarded(work: impl FnOnce() -> pipeline::Output) -> pipeline::Output {
    let place = Arc::new(Mutex::new(String::new()));
    let old = take_hook();
    let theirs = Arc::clone(&place);
    set_hook(Box::new(move |info| {
        *theirs.lock().unwrap_or_else(PoisonError::into_inner) = info.to_string();
    }));
    let result = catch_unwind(AssertUnwindSafe(work));
    set_hook(old);
    result.unwrap_or_else(|_| {
        let message = place.lock().unwrap_or_else(PoisonError::into_inner).clone();
        pipeline::Output {
            internal: Some(("panic", message)),
            ..pipeline::Output::default()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_listed_with_their_defaults() {
        let param = |name: &str, default: Default, doc: &str| Param {
            name: name.to_owned(),
            default,
            doc: doc.to_owned(),
        };
        let port = param("port", Default::Int("80".to_owned()), "what to count");
        let text = help_text("x.bt", &[port, param("quiet", Default::Switch, "")]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1..], ["  --port=80  what to count", "  --quiet"]);
        assert_eq!(help_text("x.bt", &[]), "`x.bt` takes no named parameters\n");
    }

    #[test]
    fn a_panic_of_the_compiler_is_an_internal_error() {
        let output = guarded(|| panic!("no such block"));
        let (stage, message) = output.internal.unwrap();
        assert_eq!(stage, "panic");
        assert!(message.contains("no such block") && message.contains("compile.rs"), "{message}");
    }
}
