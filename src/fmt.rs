//! `weir fmt`: scripts in one form, with their comments.

use crate::args::Fmt;
use crate::render::{Failure, Renderer};
use crate::{out, source};
use std::ffi::OsStr;
use std::path::Path;
use std::process::ExitCode;
use weir_parser::FormatError;

pub fn main(args: &Fmt) -> Result<ExitCode, Failure> {
    let renderer = Renderer::for_stderr();
    let (mut wrong, mut unformatted) = (false, Vec::new());
    for file in &args.files {
        let source = source::read(None, Some(file))?;
        let text = match weir_parser::format(&source.text) {
            Ok(text) => text,
            Err(FormatError::Syntax(diagnostics)) => {
                out::stderr(&renderer.diagnostics(&[source], &diagnostics));
                wrong = true;
                continue;
            }
            Err(FormatError::Changed(what)) => {
                let message = format!(
                    "internal error: formatting `{}` would lose {what}; it was left as it is",
                    source.name
                );
                return Err(Failure::new(message).help("please report it with the script"));
            }
        };
        let same = text == source.text;
        if args.check {
            if !same {
                unformatted.push(source.name);
            }
        } else if file == OsStr::new("-") {
            out::stdout(&text)?;
        } else if !same {
            write(Path::new(file), &text)?;
        }
    }
    out::stdout(&unformatted.iter().map(|name| format!("{name}\n")).collect::<String>())?;
    Ok(if wrong || !unformatted.is_empty() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// Replaces a file in one step, so that a full disk or a power cut leaves the old text; mode and owner stay.
fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let refuse = |e: &dyn std::fmt::Display| Failure::new(format!("cannot write `{}`: {e}", path.display()));
    // Behind a link it is the file that changes.
    let path = &path.canonicalize().map_err(|e| refuse(&e))?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".weir-fmt");
    let new = path.with_file_name(name);
    let done = std::fs::write(&new, text).and_then(|()| {
        use std::os::unix::fs::MetadataExt;
        let old = std::fs::metadata(path)?;
        std::fs::set_permissions(&new, old.permissions())?;
        let made = std::fs::metadata(&new)?;
        if (made.uid(), made.gid()) != (old.uid(), old.gid()) {
            std::os::unix::fs::chown(&new, Some(old.uid()), Some(old.gid()))?;
        }
        std::fs::rename(&new, path)
    });
    if done.is_err() {
        // The attempt, if it came that far.
        let _ = std::fs::remove_file(&new);
    }
    done.map_err(|e| refuse(&e))
}
