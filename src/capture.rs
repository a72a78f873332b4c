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
pub fn output(file: Option<&Path>, pcap: Option<&Path>) -> Output {
    match (file, pcap) {
        (Some(file), _) => Output::File(file.to_owned()),
        (None, Some(pcap)) if is_stdout(pcap) => Output::Stderr,
        (None, _) => Output::Stdout,
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
        (Some(_), Some(pcap)) if is_stdout(pcap) && std::io::stdout().is_terminal() => Some(error(
            "capture-to-terminal",
            "`--pcap -` writes packets, and standard output is a terminal",
            "pipe it: `weir --pcap - … | tshark -r -`, or give a file: `--pcap FILE`",
        )),
        _ => None,
    }
}
