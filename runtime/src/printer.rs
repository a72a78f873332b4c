//! The printing thread: drains the ring buffer, formats, writes. A blocked terminal blocks only it.
//!
//! The control loop talks to it by [`Command`]s; it answers with [`Report`]s. After `exit()` the records behind it are
//! dropped, as bpftrace does, until the control loop has detached and runs `end`.

use crate::attach::Observer;
use crate::capture::CaptureFile;
use crate::error::{Error, Notice, UPDATE, errno_text};
use crate::format::{Context, printf, sint, time, uint, value};
use crate::load::Loaded;
use crate::maps::{self, Contents, Map};
use crate::native::{Instance, summary};
use crate::replay::maps::MemoryMap;
use crate::ring::Ring;
use crate::sink::{Place, Problem, Sink};
use crate::sys::proc::possible_cpus;
use crate::sys::{Result as SysResult, SysError, terminal};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use weir_compiler::object::{CounterSpec, EventAction, EventField, MapRef, MapRole, MapSpec, Object, TextKind};
use weir_compiler::types::{MapValue, Type};
use weir_parser::Span;

/// Bytes of records between two looks at the commands.
const BATCH: usize = 1 << 20;
/// How often the counters of losses are read at most.
const COUNTERS_EVERY: Duration = Duration::from_millis(200);

/// Tells where in the text of the script something is.
pub type Places = Arc<dyn Fn(Span) -> Option<Place> + Send + Sync>;

/// What both threads read.
#[derive(Debug)]
pub struct Shared {
    pub object: Object,
    pub loaded: Loaded,
    pub natives: Vec<Instance>,
    /// In a replay: the maps, in the order of [`Object::maps`]; `loaded` is empty then.
    pub replayed: Option<Vec<MemoryMap>>,
}

/// From the control loop. Every command is answered when it is done.
pub enum Command {
    /// Print everything that is in the ring.
    Drain(oneshot::Sender<()>),
    /// Say that everything is attached, then go on.
    Attached {
        /// How many, where that is to be said.
        probes: Option<usize>,
        test_hook: bool,
        done: oneshot::Sender<()>,
    },
    /// Records count again after `exit()`: the `end` programs come.
    Resume(oneshot::Sender<()>),
    /// Print the rest, the maps if wanted, and end.
    Finish { print_maps: bool, done: oneshot::Sender<()> },
    /// The start has failed: print what there is, and end.
    Abandon(oneshot::Sender<()>),
}

/// To the control loop.
#[derive(Debug)]
pub enum Report {
    /// `exit(code)`
    Exit(i32),
    /// The reader of our output has gone.
    Closed,
    /// Writing failed otherwise, to the capture file if there is a path.
    Failed(Option<PathBuf>, io::Error),
}

/// The control loop's end.
#[derive(Debug)]
pub struct Printer {
    /// `None` only while being dropped.
    commands: Option<Sender<Command>>,
    wake: Arc<EventFd>,
    pub reports: mpsc::UnboundedReceiver<Report>,
}

impl Printer {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the thread or its descriptors cannot be made.
    pub fn start(shared: Arc<Shared>, ring: Option<Ring>, outputs: Outputs, ctx: Context, observer: Observer) -> SysResult<Self> {
        let error = |e: io::Error| SysError::new("start", "printing thread", e);
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).map_err(|e| error(e.into()))?;
        let wake = Arc::new(wake);
        let (commands, receiver) = channel();
        let (reporter, reports) = mpsc::unbounded_channel();
        let mut worker = Worker::new(shared, ring, outputs, ctx, observer, reporter);
        let their_wake = Arc::clone(&wake);
        std::thread::Builder::new()
            .name("weir-print".to_owned())
            .spawn(move || worker.run(&receiver, &their_wake))
            .map_err(error)?;
        Ok(Self {
            commands: Some(commands),
            wake,
            reports,
        })
    }

    fn send(&self, command: Command) {
        // A thread that is gone cannot answer; the sender of the answer is dropped and the waiter sees that.
        let _ = self.commands.as_ref().map(|c| c.send(command));
        let _ = self.wake.write(1);
    }

    /// Asks for something and returns where the answer comes.
    pub fn ask(&self, command: impl FnOnce(oneshot::Sender<()>) -> Command) -> oneshot::Receiver<()> {
        let (done, answer) = oneshot::channel();
        self.send(command(done));
        answer
    }
}

impl Drop for Printer {
    /// Lets the thread end. It is not waited for: a terminal may block it.
    fn drop(&mut self) {
        drop(self.commands.take());
        let _ = self.wake.write(1);
    }
}

/// Where results go.
pub struct Outputs {
    pub sink: Box<dyn Sink>,
    /// What `capture` writes to.
    pub capture: Option<CaptureFile>,
    /// Tells where in the script something is, for structured output.
    pub places: Option<Places>,
}

/// Does what records say. In a live run it has a thread of its own; a replay calls it between packets.
pub(crate) struct Worker {
    shared: Arc<Shared>,
    ring: Option<Ring>,
    sink: Box<dyn Sink>,
    capture: Option<CaptureFile>,
    ctx: Context,
    observer: Observer,
    places: Option<Places>,
    reporter: mpsc::UnboundedSender<Report>,
    /// `exit()` was seen.
    exited: bool,
    /// Nobody reads our output any more.
    closed: bool,
    /// Last values of the counters.
    counters: Vec<u64>,
    lost_total: u64,
    counters_read: Instant,
    buf: Vec<u8>,
    /// Aggregations without a key that `zero` has set back: they are there, with nothing in them.
    zeroed: Vec<MapRef>,
    /// Natives of which entries have been deleted, until the last of them is.
    deleted: Vec<usize>,
}

impl Worker {
    pub(crate) fn new(
        shared: Arc<Shared>,
        ring: Option<Ring>,
        outputs: Outputs,
        ctx: Context,
        observer: Observer,
        reporter: mpsc::UnboundedSender<Report>,
    ) -> Self {
        let counters = vec![0; shared.object.counters.len()];
        Self {
            shared,
            ring,
            sink: outputs.sink,
            capture: outputs.capture,
            ctx,
            observer,
            places: outputs.places,
            reporter,
            exited: false,
            closed: false,
            counters,
            lost_total: 0,
            counters_read: Instant::now(),
            buf: Vec::new(),
            zeroed: Vec::new(),
            deleted: Vec::new(),
        }
    }

    /// Returns whether `exit()` was seen, or nobody reads our output any more.
    pub(crate) fn is_done(&self) -> bool {
        self.exited || self.closed
    }

    /// Records count again after `exit()`: the `end` programs come.
    pub(crate) fn resume(&mut self) {
        self.exited = false;
    }

    /// The capture file, for what only a replay knows of interfaces.
    pub(crate) fn capture_mut(&mut self) -> Option<&mut CaptureFile> {
        self.capture.as_mut()
    }

    fn run(&mut self, commands: &Receiver<Command>, wake: &EventFd) {
        loop {
            let more = self.drain(BATCH);
            loop {
                match commands.try_recv() {
                    Ok(Command::Drain(done)) => {
                        self.drain(usize::MAX);
                        self.write(|sink, _| sink.flush());
                        self.write_capture(CaptureFile::flush);
                        let _ = done.send(());
                    }
                    Ok(Command::Attached { probes, test_hook, done }) => {
                        self.attached(probes, test_hook);
                        let _ = done.send(());
                    }
                    Ok(Command::Resume(done)) => {
                        self.drain(usize::MAX);
                        self.exited = false;
                        let _ = done.send(());
                    }
                    Ok(Command::Finish { print_maps, done }) => {
                        self.finish(print_maps);
                        let _ = done.send(());
                        return;
                    }
                    Ok(Command::Abandon(done)) => {
                        self.drain(usize::MAX);
                        self.write(|sink, _| sink.release().and_then(|()| sink.flush()));
                        self.write_capture(CaptureFile::flush);
                        let _ = done.send(());
                        return;
                    }
                    Err(std::sync::mpsc::TryRecvError::Empty) => break,
                    // The session is gone.
                    Err(std::sync::mpsc::TryRecvError::Disconnected) => return,
                }
            }
            self.check_counters(false);
            if more {
                continue;
            }
            self.write(|sink, _| sink.idle());
            self.write_capture(CaptureFile::flush);
            self.wait(wake);
        }
    }

    fn wait(&self, wake: &EventFd) {
        let mut fds = vec![PollFd::new(wake.as_fd(), PollFlags::POLLIN)];
        if let Some(ring) = &self.ring {
            fds.push(PollFd::new(ring.fd(), PollFlags::POLLIN));
        }
        // Losses without a record must be heard of, too.
        let timeout = if self.counters.is_empty() {
            PollTimeout::NONE
        } else {
            PollTimeout::from(1000u16)
        };
        let _ = poll(&mut fds, timeout);
        let _ = wake.read();
    }

    /// Writes to the sink, unless nobody reads any more.
    fn write(&mut self, write: impl FnOnce(&mut dyn Sink, &Context) -> io::Result<()>) {
        if self.closed {
            return;
        }
        if let Err(e) = write(&mut *self.sink, &self.ctx) {
            self.closed = true;
            let _ = self.reporter.send(if e.kind() == io::ErrorKind::BrokenPipe {
                Report::Closed
            } else {
                Report::Failed(None, e)
            });
        }
    }

    /// Writes to the capture file. The reader of a stream that ends (`tshark -c 10`) ends the run.
    fn write_capture(&mut self, write: impl FnOnce(&mut CaptureFile) -> io::Result<()>) {
        let Some(capture) = self.capture.as_mut().filter(|_| !self.closed) else {
            return;
        };
        if let Err(e) = write(capture) {
            self.closed = true;
            let _ = self.reporter.send(if e.kind() == io::ErrorKind::BrokenPipe {
                Report::Closed
            } else {
                Report::Failed(Some(capture.path().to_owned()), e)
            });
        }
    }

    fn drain(&mut self, limit: usize) -> bool {
        let Some(ring) = self.ring.take() else { return false };
        let more = ring.drain(limit, |record| {
            if !self.exited && !self.closed {
                self.record(record);
            }
            true
        });
        self.ring = Some(ring);
        self.end_deleted();
        more
    }

    /// Ends what natives' entries that were deleted stood for, those of several records at once.
    fn end_deleted(&mut self) {
        for instance in std::mem::take(&mut self.deleted) {
            let shared = Arc::clone(&self.shared);
            if let Err(e) = shared.native(instance).and_then(Instance::deleted) {
                self.complain(&e);
            }
        }
    }

    /// Does what one record says.
    pub(crate) fn record(&mut self, record: &[u8]) {
        let shared = Arc::clone(&self.shared);
        let id = uint(record.get(..4).unwrap_or(&[])) as usize;
        let Some(event) = shared.object.events.get(id) else {
            (self.observer)(&Notice::Other {
                message: format!("internal error: record {id} is unknown"),
                span: None,
            });
            return;
        };
        let field = |f: &EventField| slice(record, f);
        if !matches!(event.action, EventAction::Delete { .. }) {
            self.end_deleted();
        }
        match &event.action {
            EventAction::Printf { format, args } => {
                self.buf.clear();
                printf::printf(format, args, record, &self.ctx, &mut self.buf);
                let text = std::mem::take(&mut self.buf);
                self.write(|sink, _| sink.printf(&text));
                self.buf = text;
            }
            EventAction::Text { what, format, args } => {
                let mut text = Vec::new();
                printf::printf(format, args, record, &self.ctx, &mut text);
                self.text(*what, &text, event.span);
            }
            EventAction::Join { separator, args } => {
                let texts: Vec<Vec<u8>> = args
                    .iter()
                    .map(|a| value::string(field(a), &self.ctx))
                    .take_while(|t| !t.is_empty())
                    .collect();
                let mut line = texts.join(separator.as_bytes());
                line.push(b'\n');
                self.write(|sink, _| sink.text("join", &line));
            }
            EventAction::PrintValue(value) => self.write(|sink, ctx| sink.value(&value.ty, field(value), ctx)),
            EventAction::PrintMap { map, top, div } => self.print_map(*map, *top, *div),
            EventAction::PrintMapKey { map, key } => {
                let snapshot = shared.snapshot_key(*map, field(key));
                match snapshot {
                    Ok(snapshot) => self.write(|sink, ctx| sink.map(&snapshot, 0, 0, ctx)),
                    Err(e) => self.complain(&e),
                }
            }
            EventAction::Clear(map) | EventAction::Zero(map) => {
                let zero = matches!(event.action, EventAction::Zero(_));
                if !zero {
                    self.zeroed.retain(|zeroed| zeroed != map);
                } else if !self.zeroed.contains(map) && shared.is_scalar_in_use(*map) {
                    self.zeroed.push(*map);
                }
                if let Err(e) = shared.clear(*map, zero) {
                    self.complain(&e);
                }
            }
            EventAction::Delete { instance, map, key } => {
                let deleted = shared.native(*instance).and_then(|native| native.delete(*map, field(key)));
                match deleted {
                    Err(e) => self.complain(&e),
                    Ok(()) if self.deleted.contains(instance) => {}
                    Ok(()) => self.deleted.push(*instance),
                }
            }
            EventAction::PrintNative { instance, top } => self.print_native(*instance, *top),
            EventAction::Exit { code } => {
                self.exited = true;
                let code = code.as_ref().map_or(0, |f| match &f.ty {
                    Type::Int { signed: false, .. } => uint(field(f)) as i32,
                    _ => sint(field(f)) as i32,
                });
                let _ = self.reporter.send(Report::Exit(code));
            }
            EventAction::DividedByZero => {
                let message = "Divide or modulo by 0 detected. This can lead to unexpected results. 1 is being used as the result.";
                self.problem(
                    &Problem {
                        kind: "runtime_error",
                        msg: message,
                        helper: None,
                        place: None,
                    },
                    event.span,
                    || Notice::Script {
                        message: message.to_owned(),
                        error: false,
                        span: event.span,
                    },
                );
            }
            EventAction::HelperError { call, code } => {
                let code = sint(field(code));
                let helper = call.name();
                let msg = errno_text(code);
                self.problem(
                    &Problem {
                        kind: "helper_error",
                        msg: &msg,
                        helper: Some((helper, code)),
                        place: None,
                    },
                    event.span,
                    || Notice::Helper {
                        helper,
                        code,
                        span: event.span,
                    },
                );
            }
            EventAction::Capture { program } => {
                let program = shared.object.programs.get(*program);
                self.write_capture(|capture| program.map_or(Ok(()), |p| capture.record(p, record)));
            }
            EventAction::Time { format } => self.write(|sink, _| sink.time(&time::now(format))),
        }
    }

    /// Does what `errorf`, `warnf`, `cat` and `system` ask for.
    fn text(&mut self, what: TextKind, text: &[u8], span: Span) {
        match what {
            TextKind::Print => self.write(|sink, _| sink.printf(text)),
            TextKind::Error | TextKind::Warning => {
                // In JSON a line break of the script's stays; on the terminal one ends the line in any case.
                let whole = String::from_utf8_lossy(text);
                let message = whole.trim_end_matches('\n').to_owned();
                let error = what == TextKind::Error;
                let problem = Problem {
                    kind: if error { "errorf" } else { "warnf" },
                    msg: &whole,
                    helper: None,
                    place: None,
                };
                self.problem(&problem, span, || Notice::Script {
                    message: message.clone(),
                    error,
                    span,
                });
            }
            TextKind::Cat => {
                let path = String::from_utf8_lossy(text).into_owned();
                match read_start(&path, self.shared.object.config.max_cat_bytes) {
                    Ok(content) => self.write(|sink, _| sink.text("cat", &content)),
                    Err(e) => (self.observer)(&Notice::Other {
                        message: format!("cannot read `{path}`: {e}"),
                        span: Some(span),
                    }),
                }
            }
            TextKind::System => {
                // What the script has printed so far comes first.
                self.write(|sink, _| sink.flush());
                let command = OsStr::from_bytes(text);
                match std::process::Command::new("/bin/sh")
                    .arg("-c")
                    .arg(command)
                    .stdin(Stdio::null())
                    .output()
                {
                    Ok(output) => {
                        // What failed without a word has nothing to show.
                        if output.status.success() || !output.stdout.is_empty() {
                            self.write(|sink, _| sink.text("syscall", &output.stdout));
                        }
                        if !output.status.success() {
                            (self.observer)(&Notice::Other {
                                message: format!("the command failed: {}", output.status),
                                span: Some(span),
                            });
                        }
                        if !output.stderr.is_empty() {
                            (self.observer)(&Notice::Other {
                                message: String::from_utf8_lossy(&output.stderr).trim_end().to_owned(),
                                span: Some(span),
                            });
                        }
                    }
                    Err(e) => (self.observer)(&Notice::Other {
                        message: format!("cannot run a shell: {e}"),
                        span: Some(span),
                    }),
                }
            }
        }
    }

    /// Says what went wrong: in the output where that is structured, else to the observer.
    fn problem(&mut self, problem: &Problem<'_>, span: Span, notice: impl FnOnce() -> Notice) {
        if !self.sink.is_structured() {
            (self.observer)(&notice());
            return;
        }
        let place = self.places.as_ref().and_then(|places| places(span));
        let placed = Problem { place, ..problem.clone() };
        self.write(|sink, _| sink.problem(&placed));
    }

    fn print_map(&mut self, map: MapRef, top: u32, div: u32) {
        match self.shared.snapshot_top(map, top) {
            Ok(mut snapshot) => {
                if snapshot.key.is_none() && snapshot.rows.is_empty() {
                    snapshot.rows.extend(maps::unassigned(&snapshot.value));
                }
                let histogram = matches!(snapshot.value, MapValue::Hist { .. } | MapValue::LHist { .. });
                if histogram && snapshot.key.is_none() && !self.zeroed.contains(&map) {
                    snapshot.rows.retain(|row| !maps::is_untouched(&snapshot.value, &row.value));
                }
                // As in bpftrace: a number is zero before anything was assigned to it; of the rest nothing is shown.
                if !snapshot.rows.is_empty() {
                    self.write(|sink, ctx| sink.map(&snapshot, top, div, ctx));
                }
            }
            Err(e) => self.complain(&e),
        }
    }

    /// `print(@ALIAS)`: as text one screen, else every map.
    fn print_native(&mut self, instance: usize, top: u32) {
        let shared = Arc::clone(&self.shared);
        let Some(native) = shared.natives.get(instance) else { return };
        // Numbers with names are all there whatever is asked for.
        let made = if top == 0 && !self.sink.is_structured() {
            summary::TOP
        } else {
            top
        };
        let snapshots = match native.snapshots(made, !self.sink.is_structured()) {
            Ok(snapshots) => snapshots,
            Err(e) => return self.complain(&e),
        };
        if self.sink.is_structured() {
            for snapshot in &snapshots {
                // Numbers with names are all important.
                let top = if snapshot.value == MapValue::Count { 0 } else { top };
                self.write(|sink, ctx| sink.map(snapshot, top, 0, ctx));
            }
            return;
        }
        let maps: Vec<_> = native.shapes().zip(snapshots).collect();
        let stdout = io::stdout();
        let columns = self
            .ctx
            .screen
            .then(|| terminal::size(stdout.as_fd()))
            .flatten()
            .map(|(_, columns)| columns);
        let text = summary::text(&native.title(), &maps, top, columns, &self.ctx);
        self.write(|sink, _| sink.printf(&text));
    }

    fn complain(&self, error: &Error) {
        (self.observer)(&Notice::Other {
            message: error.to_string(),
            span: error.span(),
        });
    }

    fn attached(&mut self, probes: Option<usize>, test_hook: bool) {
        self.drain(usize::MAX);
        self.write(|sink, _| match probes {
            Some(probes) => sink.attached(probes),
            // Nothing stands in front of what `begin` has printed.
            None => sink.release(),
        });
        if test_hook {
            self.write(|sink, _| sink.raw_line("__BPFTRACE_NOTIFY_PROBES_ATTACHED"));
        }
        self.write(|sink, _| sink.flush());
    }

    pub(crate) fn finish(&mut self, print_maps: bool) {
        self.drain(usize::MAX);
        self.check_counters(true);
        self.write(|sink, _| sink.end());
        if print_maps {
            let shared = Arc::clone(&self.shared);
            let tables = |map: &MapRef| match map {
                MapRef::Native { instance, .. } => shared.natives.get(*instance).is_some_and(Instance::has_tables),
                MapRef::Own(_) => false,
            };
            for map in shared.printed_at_exit() {
                // Their tables are for looking into; as text, one screen tells what is in them.
                if tables(&map) && !self.sink.is_structured() {
                    continue;
                }
                match shared.snapshot(map, !self.zeroed.contains(&map)) {
                    Ok(snapshot) if snapshot.rows.is_empty() => {}
                    Ok(snapshot) => self.write(|sink, ctx| sink.map(&snapshot, 0, 0, ctx)),
                    Err(e) => self.complain(&e),
                }
            }
            if !self.sink.is_structured() {
                let natives = shared.natives.iter().enumerate();
                natives
                    .filter(|(_, n)| n.has_tables())
                    .for_each(|(instance, _)| self.print_native(instance, 0));
            }
        }
        self.write(|sink, _| sink.flush());
        self.write_capture(CaptureFile::flush);
        if self.lost_total > 0 {
            (self.observer)(&Notice::LostEventsTotal { count: self.lost_total });
        }
    }

    /// Reports what was lost or refused since the last look.
    fn check_counters(&mut self, now: bool) {
        if self.counters.is_empty() || (!now && self.counters_read.elapsed() < COUNTERS_EVERY) {
            return;
        }
        self.counters_read = Instant::now();
        let shared = Arc::clone(&self.shared);
        for (i, spec) in shared.object.counters.iter().enumerate() {
            let Some(value) = shared.counter(i) else { continue };
            let new = value.saturating_sub(self.counters[i]);
            if new == 0 || matches!(spec, CounterSpec::Limited { .. }) && !worth_saying(self.counters[i], new, now) {
                continue;
            }
            self.counters[i] = value;
            match spec {
                CounterSpec::LostEvents => {
                    self.lost_total += new;
                    self.write(|sink, _| sink.lost_events(new));
                    if !self.sink.is_structured() {
                        (self.observer)(&Notice::LostEvents { count: new });
                    }
                }
                CounterSpec::LostCaptures => (self.observer)(&Notice::LostCaptures { count: new }),
                CounterSpec::MapFull { map, span } => {
                    let spec = shared.object.maps.get(*map);
                    let (name, max_entries) = spec.map_or((String::new(), 0), |m| (user_name(&m.role, &m.name), m.max_entries));
                    let notice = Notice::MapFull {
                        map: name,
                        lpm: spec.is_some_and(|m| m.kind == weir_compiler::object::MapKind::LpmTrie),
                        max_entries,
                        refused: new,
                        span: *span,
                    };
                    let code = -i64::from(libc::E2BIG);
                    let problem = Problem {
                        kind: "helper_error",
                        msg: &errno_text(code),
                        helper: Some((UPDATE, code)),
                        place: None,
                    };
                    self.problem(&problem, *span, || notice.clone());
                }
                CounterSpec::Limited { span } => (self.observer)(&Notice::Limited { count: new, span: *span }),
                CounterSpec::NoMetadata { span } => (self.observer)(&Notice::NoMetadata { count: new, span: *span }),
                CounterSpec::NoDevice { device, span } => (self.observer)(&Notice::NoDevice {
                    device: device.clone(),
                    count: new,
                    span: *span,
                }),
                CounterSpec::ScratchExhausted => (self.observer)(&Notice::ScratchExhausted { count: new }),
            }
        }
    }
}

/// Whether to say what `limit` has held back since it was last said: at once, then each time that it is ten times as much, and at the end.
/// That it holds back is what it is there for.
fn worth_saying(said: u64, new: u64, ending: bool) -> bool {
    ending || said == 0 || new / 9 >= said
}

fn slice<'a>(record: &'a [u8], field: &EventField) -> &'a [u8] {
    let start = (field.offset as usize).min(record.len());
    let end = (start + field.ty.size() as usize).min(record.len());
    &record[start..end]
}

fn read_start(path: &str, bytes: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    std::fs::File::open(path)?.take(bytes).read_to_end(&mut content)?;
    Ok(content)
}

/// Names a map as the script does, with the `@`.
fn user_name(role: &MapRole, symbol: &str) -> String {
    match role {
        MapRole::User { name, .. } if name.starts_with('@') => name.clone(),
        MapRole::User { name, .. } => format!("@{name}"),
        _ => symbol.to_owned(),
    }
}

impl Shared {
    /// Reads a map.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn snapshot(&self, map: MapRef, skip_untouched: bool) -> Result<crate::maps::Snapshot, Error> {
        match map {
            MapRef::Own(i) => {
                let (spec, map) = self.own(i)?;
                let MapRole::User { key, value, .. } = &spec.role else {
                    return Err(Error::Object(format!("map {i} is not the script's")));
                };
                Ok(map.snapshot(&user_name(&spec.role, &spec.name), key.as_ref(), value, skip_untouched)?)
            }
            MapRef::Native { instance, map } => self.native(instance)?.snapshot(map),
        }
    }

    /// Whether it is a map without keys that something was assigned to.
    fn is_scalar_in_use(&self, map: MapRef) -> bool {
        let MapRef::Own(i) = map else { return false };
        let scalar = self
            .own(i)
            .is_ok_and(|(spec, _)| matches!(spec.role, MapRole::User { key: None, .. }));
        scalar && self.snapshot(map, true).is_ok_and(|s| !s.rows.is_empty())
    }

    /// Reads a map for whoever shows the `top` most important entries only (0: all).
    fn snapshot_top(&self, map: MapRef, top: u32) -> Result<crate::maps::Snapshot, Error> {
        match map {
            MapRef::Native { instance, map } => self.native(instance)?.snapshot_top(map, top),
            MapRef::Own(_) => self.snapshot(map, false),
        }
    }

    fn snapshot_key(&self, map: MapRef, key: &[u8]) -> Result<crate::maps::Snapshot, Error> {
        match map {
            MapRef::Own(i) => {
                let (spec, map) = self.own(i)?;
                let MapRole::User { key: Some(ty), value, .. } = &spec.role else {
                    return Err(Error::Object(format!("map {i} has no keys")));
                };
                Ok(map.snapshot_key(&user_name(&spec.role, &spec.name), ty, key, value)?)
            }
            MapRef::Native { instance, map } => self.native(instance)?.snapshot_key(map, key),
        }
    }

    fn clear(&self, map: MapRef, zero: bool) -> Result<(), Error> {
        match map {
            MapRef::Own(i) => {
                let (_, map) = self.own(i)?;
                if zero { map.zero() } else { map.clear() }.map_err(Error::Sys)
            }
            MapRef::Native { instance, map } => self.native(instance)?.clear(map, zero),
        }
    }

    fn own(&self, i: usize) -> Result<(&weir_compiler::object::MapSpec, &dyn Contents), Error> {
        let map = match &self.replayed {
            Some(maps) => maps.get(i).map(|m| m as &dyn Contents),
            None => self.loaded.maps.get(i).map(|m| m as &dyn Contents),
        };
        self.object.maps.get(i).zip(map).ok_or_else(|| Error::Object(format!("no map {i}")))
    }

    fn native(&self, i: usize) -> Result<&Instance, Error> {
        self.natives.get(i).ok_or_else(|| Error::Object(format!("no native {i}")))
    }

    /// Opens every map of the script itself, and those with its stacks, once more.
    pub fn own_maps(&self) -> Result<Vec<(MapSpec, Map)>, Error> {
        let both = self.object.maps.iter().zip(&self.loaded.maps);
        both.filter(|(spec, _)| matches!(spec.role, MapRole::User { .. } | MapRole::Stacks))
            .map(|(spec, map)| Ok((spec.clone(), map.duplicate()?)))
            .collect()
    }

    /// Lists the maps of natives with their names, `@ALIAS.map`.
    pub fn native_maps(&self) -> impl Iterator<Item = (String, MapRef)> {
        self.natives.iter().enumerate().flat_map(|(instance, native)| {
            let names = native.map_names().into_iter().enumerate();
            names.map(move |(map, name)| (name, MapRef::Native { instance, map }))
        })
    }

    /// Lists the maps in the order in which they are printed at exit: by name, then those of natives.
    fn printed_at_exit(&self) -> Vec<MapRef> {
        let mut own: Vec<(String, usize)> = self
            .object
            .maps
            .iter()
            .enumerate()
            .filter(|(_, m)| matches!(m.role, MapRole::User { .. }))
            .map(|(i, m)| (user_name(&m.role, &m.name), i))
            .collect();
        own.sort();
        let natives = self
            .natives
            .iter()
            .enumerate()
            .flat_map(|(instance, n)| n.printed_at_exit().map(move |map| MapRef::Native { instance, map }));
        own.into_iter().map(|(_, i)| MapRef::Own(i)).chain(natives).collect()
    }

    /// Reads one counter, all CPUs together.
    fn counter(&self, index: usize) -> Option<u64> {
        let key = u32::try_from(index).ok()?.to_ne_bytes();
        let mut total: Option<u64> = None;
        // Programs in a card count in a map of their own.
        for (i, _) in self
            .object
            .maps
            .iter()
            .enumerate()
            .filter(|(_, m)| matches!(m.role, MapRole::Counters))
        {
            let (_, map) = self.own(i).ok()?;
            let Some(raw) = map.get(&key).ok()? else { continue };
            debug_assert!(raw.len() <= 8 * possible_cpus() as usize);
            let sum = raw.chunks_exact(8).map(uint).fold(0, u64::wrapping_add);
            total = Some(total.unwrap_or(0).wrapping_add(sum));
        }
        total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_back_is_said_at_once_then_seldom_then_at_the_end() {
        let mut said = 0;
        let mut told = Vec::new();
        for total in (100..=100_000).step_by(100) {
            if worth_saying(said, total - said, false) {
                told.push(total - said);
                said = total;
            }
        }
        assert_eq!(told, [100, 900, 9000, 90_000]);
        assert!(!worth_saying(said, 5, false) && worth_saying(said, 5, true));
    }
}
