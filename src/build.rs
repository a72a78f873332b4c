//! `weir build`: the BPF object of a script, in a file.

use crate::args::{Build, split_rest};
use crate::compile::Job;
use crate::render::{Failure, Kind, Message, Renderer};
use crate::{out, source};
use std::path::Path;
use std::process::ExitCode;
use weir_compiler::object::Object;
use weir_runtime::Kernel;

pub fn main(args: &Build) -> Result<ExitCode, Failure> {
    let (file, script_args) = split_rest(args.program.as_deref(), &args.rest).map_err(Failure::new)?;
    let source = source::read(args.program.as_deref(), file)?;
    let renderer = Renderer::for_stderr();
    let job = Job {
        source: &source,
        kernel: &Kernel::new(),
        args: script_args,
        // Building runs nothing.
        allow_unsafe: true,
        helper_errors: false,
        portable: true,
        child: None,
        times: args.verbose,
        warnings: !args.quiet,
    };
    let (Some(object), _) = job.compile(&renderer, true, &[]) else {
        return Ok(ExitCode::FAILURE);
    };
    write(&object, &args.output)?;
    if !args.quiet && !object.natives.is_empty() {
        let names: Vec<&str> = object.natives.iter().map(|n| n.native.name).collect();
        let text = format!("the object holds the script's own programs only, not those of {}", names.join(", "));
        let help = vec!["run the script with weir to have both loaded and connected".to_owned()];
        out::stderr(&renderer.message(
            &[],
            &Message {
                kind: Kind::Warning,
                text,
                help,
                ..Message::default()
            },
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes an object file.
///
/// # Errors
/// When it cannot be written.
pub fn write(object: &Object, path: &Path) -> Result<(), Failure> {
    std::fs::write(path, &object.elf).map_err(|e| Failure::new(format!("cannot write `{}`: {e}", path.display())))
}
