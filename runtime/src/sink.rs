//! Where output goes: text or JSON, on standard output or in a file.

use crate::format::{Context, json, map, value};
use crate::maps::Snapshot;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use weir_compiler::types::Type;

/// When buffered output is handed to the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Buffering {
    /// When nothing more is waiting to be printed, or 64 KiB are full.
    #[default]
    Auto,
    /// After each line.
    Line,
    /// When 64 KiB are full, and at the end.
    Full,
    /// At once.
    None,
}

/// A place in a script: file, line and column from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub file: String,
    pub line: u32,
    pub column: u32,
}

/// Something that went wrong while a script ran.
#[derive(Clone, Debug)]
pub struct Problem<'a> {
    /// `helper_error`, `runtime_error`, `errorf`, `warnf`
    pub kind: &'static str,
    pub msg: &'a str,
    /// Name and return value of the helper.
    pub helper: Option<(&'static str, i64)>,
    pub place: Option<Place>,
}

/// Receives what a script prints. All errors are those of writing.
#[expect(clippy::missing_errors_doc, reason = "every error is a failed write of the output")]
pub trait Sink: Send {
    /// `printf`: text as it is.
    fn printf(&mut self, text: &[u8]) -> io::Result<()>;
    /// `time`
    fn time(&mut self, text: &[u8]) -> io::Result<()>;
    /// `join`, `cat`, `system` (`syscall`): text with the name of its kind.
    fn text(&mut self, kind: &str, text: &[u8]) -> io::Result<()>;
    /// `print` of a value.
    fn value(&mut self, ty: &Type, bytes: &[u8], ctx: &Context) -> io::Result<()>;
    /// `print` of a map, and every map at exit.
    fn map(&mut self, snapshot: &Snapshot, top: u32, div: u32, ctx: &Context) -> io::Result<()>;
    /// Returns whether messages about the run belong into the output, too ([`Sink::attached`], [`Sink::lost_events`]).
    fn is_structured(&self) -> bool;
    /// Holds back what comes until [`Sink::attached`], where the output tells that first: `begin` runs before.
    fn hold(&mut self) {}
    /// Lets go of what was held back, also when nothing could be attached.
    fn release(&mut self) -> io::Result<()> {
        Ok(())
    }
    fn attached(&mut self, probes: usize) -> io::Result<()>;
    fn lost_events(&mut self, count: u64) -> io::Result<()>;
    /// Something went wrong; only where the output is structured.
    fn problem(&mut self, problem: &Problem<'_>) -> io::Result<()>;
    /// A line outside the format (the test hook of bpftrace's environment).
    fn raw_line(&mut self, line: &str) -> io::Result<()>;
    /// The script has ended; the maps follow.
    fn end(&mut self) -> io::Result<()>;
    /// Nothing more is waiting to be printed right now.
    fn idle(&mut self) -> io::Result<()>;
    fn flush(&mut self) -> io::Result<()>;
}

/// Counts as written, flushes as asked.
#[derive(Debug)]
struct Out<W: Write> {
    writer: BufWriter<W>,
    buffering: Buffering,
}

impl<W: Write> Out<W> {
    fn new(writer: W, buffering: Buffering) -> Self {
        Self {
            writer: BufWriter::with_capacity(64 * 1024, writer),
            buffering,
        }
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.writer.write_all(bytes)?;
        match self.buffering {
            Buffering::None => self.writer.flush(),
            Buffering::Line if bytes.contains(&b'\n') => self.writer.flush(),
            _ => Ok(()),
        }
    }

    fn idle(&mut self) -> io::Result<()> {
        if self.buffering == Buffering::Auto {
            self.writer.flush()
        } else {
            Ok(())
        }
    }
}

/// bpftrace's text.
#[derive(Debug)]
pub struct TextSink<W: Write> {
    out: Out<W>,
    buf: Vec<u8>,
    /// Whether the end is marked by two empty lines, as bpftrace does.
    marks_end: bool,
}

impl<W: Write> TextSink<W> {
    pub fn new(writer: W, buffering: Buffering) -> Self {
        Self {
            out: Out::new(writer, buffering),
            buf: Vec::new(),
            marks_end: true,
        }
    }

    /// For output that goes on after the script.
    #[must_use]
    pub fn without_end(mut self) -> Self {
        self.marks_end = false;
        self
    }
}

impl<W: Write + Send> Sink for TextSink<W> {
    fn printf(&mut self, text: &[u8]) -> io::Result<()> {
        self.out.put(text)
    }

    fn time(&mut self, text: &[u8]) -> io::Result<()> {
        self.out.put(text)
    }

    fn text(&mut self, kind: &str, text: &[u8]) -> io::Result<()> {
        self.out.put(text)?;
        // bpftrace ends a command's output with a line break of its own.
        if kind == "syscall" { self.out.put(b"\n") } else { Ok(()) }
    }

    fn value(&mut self, ty: &Type, bytes: &[u8], ctx: &Context) -> io::Result<()> {
        self.buf.clear();
        value::text(ty, bytes, ctx, &mut self.buf);
        self.buf.push(b'\n');
        self.out.put(&self.buf)
    }

    fn map(&mut self, snapshot: &Snapshot, top: u32, div: u32, ctx: &Context) -> io::Result<()> {
        self.buf.clear();
        map::text(snapshot, top, div, ctx, &mut self.buf);
        self.out.put(&self.buf)
    }

    fn is_structured(&self) -> bool {
        false
    }

    fn attached(&mut self, _probes: usize) -> io::Result<()> {
        Ok(())
    }

    fn lost_events(&mut self, _count: u64) -> io::Result<()> {
        Ok(())
    }

    fn problem(&mut self, _problem: &Problem<'_>) -> io::Result<()> {
        Ok(())
    }

    fn raw_line(&mut self, line: &str) -> io::Result<()> {
        self.out.put(line.as_bytes())?;
        self.out.put(b"\n")
    }

    fn end(&mut self) -> io::Result<()> {
        if self.marks_end { self.out.put(b"\n\n") } else { Ok(()) }
    }

    fn idle(&mut self) -> io::Result<()> {
        self.out.idle()
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.writer.flush()
    }
}

/// bpftrace's JSON: one object a line.
#[derive(Debug)]
pub struct JsonSink<W: Write> {
    out: Out<W>,
    buf: Vec<u8>,
    /// What `begin` has printed: it follows the line that tells how many probes there are.
    held: Option<Vec<u8>>,
}

impl<W: Write> JsonSink<W> {
    pub fn new(writer: W, buffering: Buffering) -> Self {
        Self {
            out: Out::new(writer, buffering),
            buf: Vec::new(),
            held: None,
        }
    }

    /// Writes the line that stands in `buf`.
    fn put(&mut self) -> io::Result<()> {
        match &mut self.held {
            Some(held) => {
                held.extend_from_slice(&self.buf);
                Ok(())
            }
            None => self.out.put(&self.buf),
        }
    }

    /// Writes `{"type": "KIND", "data": …}`.
    fn line(&mut self, kind: &str, data: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        self.buf.clear();
        write!(self.buf, "{{\"type\": \"{kind}\", \"data\": ")?;
        data(&mut self.buf);
        self.buf.extend_from_slice(b"}\n");
        self.put()
    }
}

impl<W: Write + Send> Sink for JsonSink<W> {
    fn printf(&mut self, text: &[u8]) -> io::Result<()> {
        self.line("printf", |out| json::bytes(text, out))
    }

    fn time(&mut self, text: &[u8]) -> io::Result<()> {
        self.line("time", |out| json::bytes(text, out))
    }

    fn text(&mut self, kind: &str, text: &[u8]) -> io::Result<()> {
        self.line(kind, |out| json::bytes(text, out))
    }

    fn value(&mut self, ty: &Type, bytes: &[u8], ctx: &Context) -> io::Result<()> {
        self.line("value", |out| json::value(ty, bytes, ctx, out))
    }

    fn map(&mut self, snapshot: &Snapshot, top: u32, div: u32, ctx: &Context) -> io::Result<()> {
        self.line(map::json_type(&snapshot.value), |out| map::json(snapshot, top, div, ctx, out))
    }

    fn is_structured(&self) -> bool {
        true
    }

    fn release(&mut self) -> io::Result<()> {
        match self.held.take() {
            Some(held) => self.out.put(&held),
            None => Ok(()),
        }
    }

    fn hold(&mut self) {
        self.held.get_or_insert_default();
    }

    fn attached(&mut self, probes: usize) -> io::Result<()> {
        self.out
            .put(format!("{{\"type\": \"attached_probes\", \"count\": {probes}, \"data\": {{\"probes\": {probes}}}}}\n").as_bytes())?;
        self.release()
    }

    fn lost_events(&mut self, count: u64) -> io::Result<()> {
        self.buf.clear();
        writeln!(
            self.buf,
            "{{\"type\": \"lost_events\", \"count\": {count}, \"data\": {{\"events\": {count}}}}}"
        )?;
        self.put()
    }

    fn problem(&mut self, problem: &Problem<'_>) -> io::Result<()> {
        self.buf.clear();
        write!(self.buf, "{{\"type\": \"{}\", \"msg\": ", problem.kind)?;
        json::string(problem.msg, &mut self.buf);
        if let Some((helper, code)) = problem.helper {
            write!(self.buf, ", \"helper\": \"{helper}\", \"retcode\": {code}")?;
        }
        if let Some(place) = &problem.place {
            self.buf.extend_from_slice(b", \"filename\": ");
            json::string(&place.file, &mut self.buf);
            write!(self.buf, ", \"line\": {}, \"col\": {}", place.line, place.column)?;
        }
        self.buf.extend_from_slice(b"}\n");
        self.put()
    }

    fn raw_line(&mut self, line: &str) -> io::Result<()> {
        self.release()?;
        self.out.put(line.as_bytes())?;
        self.out.put(b"\n")
    }

    fn end(&mut self) -> io::Result<()> {
        self.release()
    }

    fn idle(&mut self) -> io::Result<()> {
        self.out.idle()
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.writer.flush()
    }
}

/// The bytes of standard output, not line-buffered as the standard library's own handle is.
///
/// # Errors
/// When standard output is closed.
pub fn stdout() -> io::Result<File> {
    use std::os::fd::AsFd;
    Ok(File::from(io::stdout().as_fd().try_clone_to_owned()?))
}

/// Writes to [`stdout`] while nobody else does: a pipe or socket that is full takes what two threads write in pieces.
///
/// # Errors
/// What write(2) says.
pub fn write_alone(mut stdout: &File, bytes: &[u8]) -> io::Result<()> {
    let _alone = io::stdout().lock();
    stdout.write_all(bytes)
}

/// What a script prints on standard output.
#[derive(Debug)]
pub struct Stdout(pub File);

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        write_alone(&self.0, bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::maps::{Cell, Row};
    use std::sync::{Arc, Mutex};
    use weir_compiler::types::MapValue;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Shared {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    fn everything(sink: &mut dyn Sink) {
        let ctx = Context::default();
        sink.attached(1).unwrap();
        sink.printf(b"test 5").unwrap();
        sink.time(b"12:00:00\n").unwrap();
        sink.value(&Type::I64, &5i64.to_le_bytes(), &ctx).unwrap();
        let row = |value| Row { key: vec![], value };
        let mut s = Snapshot {
            name: "@scalar".into(),
            key: None,
            value: MapValue::Plain(Type::I64),
            rows: vec![row(Cell::Plain(5i64.to_le_bytes().to_vec()))],
        };
        sink.map(&s, 0, 0, &ctx).unwrap();
        s = Snapshot {
            name: "@stats".into(),
            key: None,
            value: MapValue::Stats { signed: true },
            rows: vec![row(Cell::Stats { sum: 12, count: 2 })],
        };
        sink.map(&s, 0, 0, &ctx).unwrap();
        sink.lost_events(5).unwrap();
        let place = Place {
            file: "stdin".into(),
            line: 1,
            column: 87,
        };
        let problem = Problem {
            kind: "helper_error",
            msg: "Bad address",
            helper: Some(("probe_read_user", -14)),
            place: Some(place),
        };
        sink.problem(&problem).unwrap();
        sink.end().unwrap();
        sink.flush().unwrap();
    }

    #[test]
    fn json_lines_are_bpftraces_byte_for_byte() {
        let out = Shared::default();
        everything(&mut JsonSink::new(out.clone(), Buffering::Full));
        assert_eq!(
            out.text(),
            r#"{"type": "attached_probes", "count": 1, "data": {"probes": 1}}
{"type": "printf", "data": "test 5"}
{"type": "time", "data": "12:00:00\n"}
{"type": "value", "data": 5}
{"type": "map", "data": {"@scalar": 5}}
{"type": "stats", "data": {"@stats": {"count": 2, "average": 6, "total": 12}}}
{"type": "lost_events", "count": 5, "data": {"events": 5}}
{"type": "helper_error", "msg": "Bad address", "helper": "probe_read_user", "retcode": -14, "filename": "stdin", "line": 1, "col": 87}
"#
        );
    }

    #[test]
    fn what_begin_prints_follows_the_number_of_probes() {
        let out = Shared::default();
        let mut sink = JsonSink::new(out.clone(), Buffering::None);
        sink.hold();
        sink.printf(b"first").unwrap();
        assert_eq!(out.text(), "");
        sink.attached(1).unwrap();
        sink.printf(b"then").unwrap();
        let lines = [
            r#"{"type": "attached_probes", "count": 1, "data": {"probes": 1}}"#,
            r#"{"type": "printf", "data": "first"}"#,
            r#"{"type": "printf", "data": "then"}"#,
        ];
        assert_eq!(out.text(), lines.join("\n") + "\n");
        // Nothing is lost where nothing was attached.
        let out = Shared::default();
        let mut sink = JsonSink::new(out.clone(), Buffering::None);
        sink.hold();
        sink.printf(b"alone").unwrap();
        sink.release().unwrap();
        assert_eq!(out.text(), "{\"type\": \"printf\", \"data\": \"alone\"}\n");
    }

    #[test]
    fn text_is_bpftraces() {
        let out = Shared::default();
        everything(&mut TextSink::new(out.clone(), Buffering::Full));
        assert_eq!(
            out.text(),
            "test 512:00:00\n5\n@scalar: 5\n@stats: { .count = 2, .average = 6, .total = 12 }\n\n\n"
        );
    }

    #[test]
    fn buffering_decides_when_output_is_seen() {
        let out = Shared::default();
        let mut sink = TextSink::new(out.clone(), Buffering::Auto);
        sink.printf(b"a\n").unwrap();
        assert_eq!(out.text(), "");
        sink.idle().unwrap();
        assert_eq!(out.text(), "a\n");
        let mut sink = TextSink::new(out.clone(), Buffering::Line);
        sink.printf(b"b").unwrap();
        assert_eq!(out.text(), "a\n");
        sink.printf(b"c\n").unwrap();
        assert_eq!(out.text(), "a\nbc\n");
    }
}
