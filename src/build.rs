//! `weir build`: the BPF object of a script, in a file.

use crate::args::{Build, split_rest};
use crate::compile::Job;
use crate::render::{Failure, Kind, Message, Renderer};
use crate::{out, source};
use std::path::Path;
use std::process::ExitCode;
use weir_compiler::object::{AttachPoint, FunctionOf, Object};
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
        judged_only: false,
        warnings: !args.quiet,
    };
    let (Some(object), _) = job.compile(&renderer, true, &[]) else {
        return Ok(ExitCode::FAILURE);
    };
    write(&object, &args.output, &renderer, args.quiet)?;
    Ok(ExitCode::SUCCESS)
}

/// Writes an object file, and warns of what is not in it.
///
/// # Errors
/// When it cannot be written, or whoever loads it would attach it to something else than the script says.
pub fn write(object: &Object, path: &Path, renderer: &Renderer, quiet: bool) -> Result<(), Failure> {
    let points = || object.programs.iter().flat_map(|p| &p.attach).map(|a| &a.point);
    if let Some(failure) = points().find_map(nowhere) {
        return Err(failure);
    }
    std::fs::write(path, &object.elf).map_err(|e| Failure::new(format!("cannot write `{}`: {e}", path.display())))?;
    if quiet {
        return Ok(());
    }
    let warn = |text, help: String| {
        let message = Message {
            kind: Kind::Warning,
            text,
            help: vec![help],
            ..Message::default()
        };
        out::stderr(&renderer.message(&[], &message));
    };
    if !object.natives.is_empty() {
        let names: Vec<&str> = object.natives.iter().map(|n| n.native.name).collect();
        let text = format!("the object holds the script's own programs only, not those of {}", names.join(", "));
        warn(text, "run the script with weir to have both loaded and connected".to_owned());
    }
    for (text, help) in points().filter_map(without_name) {
        warn(text, help);
    }
    Ok(())
}

/// Says of an attach point that the name of a section cannot tell it.
fn nowhere(point: &AttachPoint) -> Option<Failure> {
    let AttachPoint::Fentry {
        of: FunctionOf::Program(id),
        function,
        ret,
        ..
    } = point
    else {
        return None;
    };
    let word = if *ret { "fexit" } else { "fentry" };
    let message = format!("an object file cannot say that `{word}:bpf:{id}:{function}` is of a BPF program that runs here");
    Some(Failure::new(message).help("run the script with weir"))
}

/// Says of an iterator that its name is not in the object.
fn without_name(point: &AttachPoint) -> Option<(String, String)> {
    let AttachPoint::Iter { kind, pin: Some(name), .. } = point else {
        return None;
    };
    let text = format!("the object does not hold the name `{name}` of `iter:{kind}:{name}`");
    let help = format!("`bpftool iter pin FILE /sys/fs/bpf/{name}` gives it one");
    Some((text, help))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_section_cannot_name_is_told() {
        let fentry = |of, ret| AttachPoint::Fentry {
            of,
            function: "guard".to_owned(),
            btf_id: 3,
            ret,
        };
        let refused = |of, ret| nowhere(&fentry(of, ret)).map(|failure| failure.message);
        let why = refused(FunctionOf::Program(7), false).unwrap_or_default();
        assert!(why.contains("`fentry:bpf:7:guard`"), "{why}");
        let why = refused(FunctionOf::Program(7), true).unwrap_or_default();
        assert!(why.contains("`fexit:bpf:7:guard`"), "{why}");
        assert_eq!(refused(FunctionOf::Kernel, false), None);
        assert_eq!(refused(FunctionOf::Module("veth".to_owned()), true), None);

        let iter = |pin: Option<&str>| {
            without_name(&AttachPoint::Iter {
                kind: "task".to_owned(),
                btf_id: 3,
                pin: pin.map(str::to_owned),
            })
        };
        assert!(iter(Some("tasks")).is_some_and(|(text, _)| text.contains("`iter:task:tasks`")));
        assert_eq!(iter(None), None);
    }
}
