//! `--pcap`: where packets that `capture()` takes go, and what does not go together with it.

use crate::render::Message;
use std::io::IsTerminal;
use std::path::Path;
use weir_compiler::object::{EventAction, Object};
use weir_runtime::{CaptureTarget, Output};

/// Whether a path means standard output.
fn is_stdout(pcap: &Path) -> bool {
    pcap == Path::new("-")
}

pub fn target(pcap: &Path) -> CaptureTarget {
    if is_stdout(pcap) {
        CaptureTarget::Stdout
    } else {
        CaptureTarget::File(pcap.to_owned())
    }
}

/// Where text goes: with packets on standard output it must go elsewhere.
pub fn output<'p>(file: Option<&Path>, packets: impl IntoIterator<Item = &'p Path>) -> Output {
    match file {
        Some(file) => Output::File(file.to_owned()),
        None if packets.into_iter().any(is_stdout) => Output::Stderr,
        None => Output::Stdout,
    }
}

/// Says what is wrong when two files of packets are standard output, or it is a terminal.
pub fn refuse_stdout(switches: &[(&str, Option<&Path>)]) -> Option<Message<'static>> {
    let to_stdout: Vec<&str> = switches.iter().filter(|(_, p)| p.is_some_and(is_stdout)).map(|(s, _)| *s).collect();
    match to_stdout.as_slice() {
        [first, second, ..] => Some(Message {
            code: "capture-twice",
            text: format!("`{first} -` and `{second} -` would both write to standard output"),
            help: vec!["give one of them a file".to_owned()],
            ..Message::default()
        }),
        [switch] if std::io::stdout().is_terminal() => Some(Message {
            code: "capture-to-terminal",
            text: format!("`{switch} -` writes packets, and standard output is a terminal"),
            help: vec![format!("pipe it: `… {switch} - | tshark -r -`, or give a file: `{switch} FILE`")],
            ..Message::default()
        }),
        _ => None,
    }
}

/// Says what is wrong when a script with `capture()` has no file for it, or the other way round.
pub fn refuse(object: &Object, pcap: Option<&Path>) -> Option<Message<'static>> {
    let capture = object.events.iter().find(|e| matches!(e.action, EventAction::Capture { .. }));
    let error = |code: &'static str, text: &str, help: &str| Message {
        code,
        text: text.to_owned(),
        help: vec![help.to_owned()],
        ..Message::default()
    };
    match (capture, pcap) {
        (Some(event), None) => Some(Message {
            span: Some(event.span),
            ..error(
                "capture-without-file",
                "`capture()` has no file to write to",
                "say where with `--pcap FILE`, or stream it: `weir --pcap - … | tshark -r -`",
            )
        }),
        (None, Some(_)) => Some(error(
            "nothing-to-capture",
            "`--pcap` is given, but the script captures nothing",
            "write `capture();` in an `xdp:` or `tc:` block",
        )),
        (Some(_), pcap) => refuse_stdout(&[("--pcap", pcap)]),
        _ => None,
    }
}
