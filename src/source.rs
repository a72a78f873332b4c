//! Where the script's text comes from: a file, standard input, or the command line.

use crate::render::Failure;
use std::ffi::OsStr;
use std::io::{ErrorKind, Read};
use weir_compiler::hir::nearest_name;
use weir_compiler::pipeline::Source;

/// Larger files are not scripts, and spans are 32-bit.
const MAX_BYTES: u64 = 16 << 20;

/// Reads the script. As in bpftrace, text of `-e` and of standard input is called `stdin` in messages.
///
/// # Errors
/// When there is none, or it cannot be read, or it is not text.
pub fn read(program: Option<&str>, file: Option<&OsStr>) -> Result<Source, Failure> {
    let stdin = |text| Source {
        name: "stdin".to_owned(),
        text,
    };
    match (program, file) {
        (Some(text), _) => Ok(stdin(text.to_owned())),
        (None, Some(file)) if file == "-" => Ok(stdin(read_text(std::io::stdin().lock(), "standard input")?)),
        (None, Some(file)) => {
            let name = file.display().to_string();
            let opened = std::fs::File::open(file).map_err(|e| cannot_read(&name, &e))?;
            let text = read_text(opened, &name)?;
            Ok(Source { name, text })
        }
        (None, None) => Err(Failure::new("no script")
            .help("`weir FILE`, `weir -e 'PROGRAM'`, or `weir -` to read it from standard input; `weir -h` says more")),
    }
}

fn read_text(reader: impl Read, name: &str) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    reader
        .take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| cannot_read(name, &e))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Failure::new(format!(
            "`{name}` is larger than {} MiB: that is no script",
            MAX_BYTES >> 20
        )));
    }
    // Some editors start a file with a byte order mark.
    if bytes.starts_with(b"\xef\xbb\xbf") {
        bytes.drain(..3);
    }
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        let line = 1 + e.as_bytes()[..at].iter().filter(|b| **b == b'\n').count();
        let failure = Failure::new(format!(
            "`{name}` is not UTF-8 text: byte 0x{:02x} in line {line}",
            e.as_bytes()[at]
        ));
        if e.as_bytes().starts_with(b"\x7fELF") {
            failure.help("this is an ELF file; weir runs scripts")
        } else {
            failure
        }
    })
}

fn cannot_read(name: &str, error: &std::io::Error) -> Failure {
    match error.kind() {
        ErrorKind::NotFound => {
            let failure = Failure::new(format!("there is no file `{name}`"));
            // What people type who forget `-e`.
            if name.contains(['{', ' ']) {
                failure.help("to run a program from the command line, write `weir -e 'PROGRAM'`")
            } else {
                let whole = crate::args::whole();
                let commands: Vec<&str> = whole.get_subcommands().map(clap::Command::get_name).collect();
                match nearest_name(name, commands.into_iter()) {
                    Some(command) => failure.help(format!("nor a command of that name; did you mean `weir {command}`?")),
                    None => failure,
                }
            }
        }
        ErrorKind::IsADirectory => Failure::new(format!("`{name}` is a directory")),
        _ => Failure::new(format!("cannot read `{name}`: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_the_command_line_is_called_stdin() {
        let source = read(Some("BEGIN {}"), None).unwrap();
        assert_eq!((source.name.as_str(), source.text.as_str()), ("stdin", "BEGIN {}"));
    }

    #[test]
    fn what_is_no_text_is_named_with_its_line() {
        let failure = read_text(&b"BEGIN {}\n// \xff\n"[..], "x.bt").unwrap_err();
        assert_eq!(failure.message, "`x.bt` is not UTF-8 text: byte 0xff in line 2");
        let failure = read_text(&b"\x7fELF\x02\xff"[..], "a.out").unwrap_err();
        assert!(failure.help.is_some());
    }

    #[test]
    fn a_missing_file_is_named() {
        let failure = read(None, Some(OsStr::new("/no/such/script.bt"))).unwrap_err();
        assert_eq!(failure.message, "there is no file `/no/such/script.bt`");
        assert_eq!(failure.help, None);
        let mistyped = read(None, Some(OsStr::new("sttus"))).unwrap_err();
        assert_eq!(
            mistyped.help.as_deref(),
            Some("nor a command of that name; did you mean `weir status`?")
        );
        assert!(
            read(None, Some(OsStr::new("BEGIN { exit(); }")))
                .unwrap_err()
                .help
                .unwrap()
                .contains("-e")
        );
        assert!(read(None, Some(OsStr::new("/"))).unwrap_err().message.contains("is a directory"));
        assert!(read(None, None).is_err());
    }
}
