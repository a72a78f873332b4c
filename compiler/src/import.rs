//! `import "file.bt";` and `import "directory";`: the items of other scripts, as if they stood in this one.
//!
//! A path is relative to the script that names it. Every file is taken once, however often it is named, so that files may import
//! each other. Not here: reading files, which is the kernel trait's part.

use crate::kernel::KernelInfo;
use crate::pipeline::Source;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use weir_parser::{Diagnostic, SourceId, ast};

/// Puts what is imported in the place of the imports. Returns the other sources, numbered from 1.
pub(crate) fn resolve(main: &Source, program: &mut ast::Program, kernel: &dyn KernelInfo, out: &mut Vec<Diagnostic>) -> Vec<Source> {
    let mut importer = Importer {
        kernel,
        sources: Vec::new(),
        seen: HashSet::from([PathBuf::from(&main.name)]),
        out,
    };
    importer.program(&main.name, program, true);
    importer.sources
}

struct Importer<'a> {
    kernel: &'a dyn KernelInfo,
    sources: Vec<Source>,
    seen: HashSet<PathBuf>,
    out: &'a mut Vec<Diagnostic>,
}

impl Importer<'_> {
    fn program(&mut self, name: &str, program: &mut ast::Program, root: bool) {
        let mut items = Vec::new();
        for item in std::mem::take(&mut program.items) {
            match item {
                ast::Item::Import(import) => {
                    for mut other in self.import(name, &import) {
                        items.append(&mut other.items);
                        program.types.append(&mut other.types);
                    }
                }
                ast::Item::Config(config) if !root => {
                    let d = Diagnostic::error("config-in-import", config.span, "only the script that is run has a `config` block");
                    self.out.push(d.help("move it there"));
                }
                other => items.push(other),
            }
        }
        program.items = items;
    }

    fn import(&mut self, from: &str, import: &ast::Import) -> Vec<ast::Program> {
        if let Some(why) = unusable(&import.path) {
            let d = Diagnostic::error("import-kind", import.path_span, format!("`{}` cannot be imported", import.path));
            self.out.push(d.help(why));
            return Vec::new();
        }
        // Scripts of the command line have no directory of their own.
        let folder = Path::new(from).parent().unwrap_or_else(|| Path::new(""));
        let path = folder.join(&import.path);
        let files = match self.kernel.import(&path) {
            Ok(files) => files,
            Err(why) => {
                self.out.push(Diagnostic::error("import", import.path_span, why));
                return Vec::new();
            }
        };
        let mut programs = Vec::new();
        for (name, text) in files {
            if !self.seen.insert(PathBuf::from(&name)) {
                continue;
            }
            let id = SourceId(u32::try_from(self.sources.len() + 1).unwrap_or(u32::MAX));
            let parsed = weir_parser::parse(id, &text);
            self.out.extend(parsed.diagnostics);
            self.sources.push(Source { name: name.clone(), text });
            let mut program = parsed.program;
            self.program(&name, &mut program, false);
            programs.push(program);
        }
        programs
    }
}

/// Why a file of this name is no script.
fn unusable(path: &str) -> Option<&'static str> {
    if path.ends_with(".bpf.c") || path.ends_with(".c") {
        Some("that takes a C compiler, which weir works without; write it as `fn` or `macro`")
    } else if path.ends_with(".h") {
        Some("types come from the kernel's BTF; others can be written as `struct name { … };` in a script")
    } else {
        None
    }
}
