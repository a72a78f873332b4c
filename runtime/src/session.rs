//! One run of a script: load, `begin`, attach, print until something ends it, `end`, maps, detach.

use crate::attach::interfaces::Settings;
use crate::attach::reaper::REAPER_ARG;
use crate::attach::{self, Attached, Attacher, Observer, run_once};
use crate::capture::{CaptureFile, CaptureTarget};
use crate::error::{Error, Notice};
use crate::format::Context;
use crate::kernel::Kernel;
use crate::load;
use crate::maps;
use crate::native::heartbeat::Heart;
use crate::native::{self, Instance, upkeep, upkeep::Upkeep};
use crate::printer::{Command, Outputs, Printer, Report, Shared};
use crate::ring::Ring;
use crate::sink::{Buffering, JsonSink, Sink, Stdout, TextSink, stdout};
use crate::symbols::Symbols;
use crate::sys::bpf;
use crate::sys::proc;
use nix::sys::eventfd::EventFd;
use std::ffi::OsString;
use std::fs::File;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep_until};
use weir_compiler::object::{AttachPoint, MapRole, MapSpec, Object};
use weir_parser::Span;

/// A second signal this soon is the first one again: `timeout` and terminals send it to the process and to its group.
const SIGNAL_GRACE: Duration = Duration::from_millis(100);
/// How often natives, copies of their maps and namespaces are looked after.
const TICK: Duration = Duration::from_secs(1);

/// Where output goes.
#[derive(Clone, Default)]
pub enum Output {
    #[default]
    Stdout,
    /// Standard output has something else on it.
    Stderr,
    File(PathBuf),
    /// What the function gives, which is called once.
    Writer(Arc<dyn Fn() -> Box<dyn io::Write + Send> + Send + Sync>),
}

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Output::Stdout => f.write_str("Stdout"),
            Output::Stderr => f.write_str("Stderr"),
            Output::File(path) => f.debug_tuple("File").field(path).finish(),
            Output::Writer(_) => f.write_str("Writer"),
        }
    }
}

impl Output {
    /// Returns what messages call it.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        match self {
            Output::Stdout | Output::Writer(_) => PathBuf::from("standard output"),
            Output::Stderr => PathBuf::from("standard error"),
            Output::File(path) => path.clone(),
        }
    }
}

/// Maps that outlive one script: the script's map of that name (a map of stacks: of that symbol) is the one with this
/// descriptor.
pub type SharedMaps = Vec<(String, Arc<OwnedFd>)>;

/// How output is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OutputFormat {
    #[default]
    Text,
    Json,
}

/// How a run goes.
#[derive(Clone)]
pub struct Options {
    pub output: Output,
    pub format: OutputFormat,
    pub buffering: Buffering,
    /// No `Attached N probes`.
    pub quiet: bool,
    /// Ends the run as `exit()` would.
    pub timeout: Option<Duration>,
    /// Prints `__BPFTRACE_NOTIFY_PROBES_ATTACHED` on the output once everything is attached.
    pub notify_attached: bool,
    /// How to get along with other programs on the same hooks.
    pub attach: Settings,
    /// Arguments with which our own executable calls [`crate::reaper_main`].
    pub reaper_args: Vec<OsString>,
    /// Where `capture` writes to; without it captured packets go nowhere.
    pub capture: Option<CaptureTarget>,
    /// Hears everything that a person should hear; called from any thread.
    pub observer: Observer,
    /// Tells where in the script something is, for structured output.
    pub places: Option<crate::printer::Places>,
    /// Only events of this process, where the kind of probe can tell.
    pub pid: Option<u32>,
    /// A pidfd: the run ends when that process does.
    pub until_exit: Option<Arc<OwnedFd>>,
    /// Called once everything is attached and said.
    pub on_attached: Option<Arc<dyn Fn() + Send + Sync>>,
    /// Maps that are there already, by the name they have in the script.
    pub maps: SharedMaps,
    /// Whether SIGINT, SIGTERM and SIGHUP end the run; otherwise they are somebody else's.
    pub signals: bool,
    /// Ends the run as a signal would, when notified.
    pub stop: Option<Arc<tokio::sync::Notify>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            output: Output::Stdout,
            format: OutputFormat::Text,
            buffering: Buffering::Auto,
            quiet: false,
            timeout: None,
            notify_attached: std::env::var_os("__BPFTRACE_NOTIFY_PROBES_ATTACHED").is_some_and(|v| v == "1"),
            attach: Settings::default(),
            reaper_args: vec![REAPER_ARG.into()],
            capture: None,
            observer: Arc::new(|_| {}),
            places: None,
            pid: None,
            until_exit: None,
            on_attached: None,
            maps: Vec::new(),
            signals: true,
            stop: None,
        }
    }
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("output", &self.output)
            .field("format", &self.format)
            .finish_non_exhaustive()
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The exit code for the process.
    pub code: i32,
    pub reason: Reason,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// `exit()`
    Exit,
    /// A script with nothing but `begin` and `end`.
    Nothing,
    Timeout,
    /// SIGINT, SIGTERM or SIGHUP.
    Signal,
    /// A second signal: nothing was printed after it.
    Interrupted,
    /// The reader of our output has gone.
    OutputClosed,
    /// The process that was watched has ended.
    ProcessEnded,
}

/// A script that is attached.
pub struct Session {
    runtime: tokio::runtime::Runtime,
    signals: Signals,
    shared: Arc<Shared>,
    attached: Option<Attached>,
    upkeep: Upkeep,
    printer: Printer,
    /// `exit()` was called, with this code.
    exit: Option<i32>,
    /// The reader of our output has gone, or writing failed.
    output: Result<bool, (Option<PathBuf>, io::Error)>,
    options: Options,
    started: Instant,
    heart: Option<Heart>,
}

/// The maps of a running script, for others than its own printing thread.
#[derive(Clone, Debug)]
pub struct MapsHandle(Arc<Shared>);

impl MapsHandle {
    /// Opens the maps of the script itself, and those with its stacks, once more: they outlive it as long as they are held.
    ///
    /// # Errors
    /// When there are too many open files.
    pub fn own(&self) -> Result<Vec<(MapSpec, maps::Map)>, Error> {
        self.0.own_maps()
    }

    /// What is needed to write down values of these maps.
    ///
    /// # Errors
    /// When there are too many open files.
    pub fn context(&self) -> Result<Context, Error> {
        context(&self.0.object, &self.0.loaded, false, false)
    }

    /// Lists the maps of natives, as the script names them: `@bl.hits`.
    #[must_use]
    pub fn of_natives(&self) -> Vec<String> {
        self.declared().into_iter().map(|(name, _)| name).collect()
    }

    /// Lists the same with their declarations.
    #[must_use]
    pub fn declared(&self) -> Vec<(String, &'static weir_stdlib::MapDecl)> {
        self.0.natives.iter().flat_map(Instance::declared).collect()
    }

    /// Reads a native's map.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn snapshot(&self, name: &str) -> Result<Option<maps::Snapshot>, Error> {
        let found = self.0.native_maps().find(|(n, _)| n == name);
        found.map(|(_, map)| self.0.snapshot(map, false)).transpose()
    }
}

fn context(object: &Object, loaded: &load::Loaded, escapes: bool, screen: bool) -> Result<Context, Error> {
    let mut stacks: Vec<OwnedFd> = Vec::new();
    for (spec, map) in object.maps.iter().zip(&loaded.maps) {
        if matches!(spec.role, MapRole::Stacks) {
            stacks.push(maps::dup(map.fd.as_fd(), "stacks")?);
        }
    }
    Ok(Context {
        symbols: Symbols::with_stacks(stacks),
        trunc_trailer: object.config.str_trunc_trailer.clone(),
        max_strlen: object.config.max_strlen,
        escapes,
        screen,
    })
}

/// What is listened to: what ends a run, and what the script has blocks for.
struct Signals {
    end: Vec<Signal>,
    /// In the order of [`signal_names`].
    script: Vec<Signal>,
}

impl Signals {
    /// Must be called inside the runtime.
    fn new(object: &Object, ending: bool) -> Result<Self, Error> {
        let listen = |kind| signal(kind).map_err(|e| Error::Sys(crate::sys::SysError::new("handle", "signals", e)));
        let mut script = Vec::new();
        for (name, span) in signal_names(object) {
            let full = if name.starts_with("SIG") {
                name.to_owned()
            } else {
                format!("SIG{name}")
            };
            let number = full.parse::<nix::sys::signal::Signal>().map_err(|_| Error::Param {
                message: format!("no signal `{name}`"),
                help: Some("write a name such as `SIGUSR1`".to_owned()),
                span,
            })?;
            script.push(listen(SignalKind::from_raw(number as i32))?);
        }
        let end = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        Ok(Self {
            end: end.into_iter().filter(|_| ending).map(listen).collect::<Result<_, _>>()?,
            script,
        })
    }

    /// Waits for any of them; returns its index.
    async fn any(signals: &mut [Signal]) -> usize {
        std::future::poll_fn(|cx| {
            for (i, signal) in signals.iter_mut().enumerate() {
                if signal.poll_recv(cx).is_ready() {
                    return Poll::Ready(i);
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// Lists the signals that a script has blocks for, each once.
fn signal_names(object: &Object) -> Vec<(&str, Span)> {
    let mut names: Vec<(&str, Span)> = Vec::new();
    for attach in object.programs.iter().flat_map(|p| &p.attach) {
        if let AttachPoint::Signal { name } = &attach.point
            && !names.iter().any(|(known, _)| known == name)
        {
            names.push((name, attach.span));
        }
    }
    names
}

/// Waits for the end of a process; for ever where there is none to wait for.
async fn process_ended(process: Option<&AsyncFd<Arc<OwnedFd>>>) {
    match process {
        Some(process) => drop(process.readable().await),
        None => std::future::pending().await,
    }
}

/// Waits to be told to stop; for ever where nobody can tell.
async fn stopped(stop: Option<&tokio::sync::Notify>) {
    match stop {
        Some(stop) => stop.notified().await,
        None => std::future::pending().await,
    }
}

/// Fails if the control loop and the signals would not get their descriptors: tokio panics then.
fn spare_descriptors() -> Result<(), Error> {
    const WANTED: usize = 8;
    let error = |e: nix::errno::Errno| crate::sys::SysError::new("open", "descriptors of the control loop", e.into());
    let all: Result<Vec<EventFd>, _> = (0..WANTED).map(|_| EventFd::new()).collect();
    all.map(drop).map_err(|e| Error::Sys(error(e)))
}

/// Opens where output goes.
///
/// # Errors
/// When the file cannot be made.
pub fn make_sink(output: &Output, format: OutputFormat, buffering: Buffering) -> Result<Box<dyn Sink>, Error> {
    let file: io::Result<Box<dyn io::Write + Send>> = match output {
        Output::Writer(writer) => {
            return Ok(match format {
                OutputFormat::Text => Box::new(TextSink::new(writer(), buffering).without_end()),
                OutputFormat::Json => Box::new(JsonSink::new(writer(), buffering)),
            });
        }
        Output::Stdout => stdout().map(|file| Box::new(Stdout(file)) as _),
        Output::Stderr => io::stderr().as_fd().try_clone_to_owned().map(|fd| Box::new(File::from(fd)) as _),
        Output::File(path) => File::create(path).map(|file| Box::new(file) as _),
    };
    let file = file.map_err(|source| Error::Output {
        path: output.path(),
        source,
    })?;
    Ok(match format {
        OutputFormat::Text => Box::new(TextSink::new(file, buffering)),
        OutputFormat::Json => Box::new(JsonSink::new(file, buffering)),
    })
}

impl Session {
    /// Loads a script, runs its `begin` blocks, attaches everything else.
    ///
    /// # Errors
    /// [`Error::Rejected`] before anything has run; everything else that can be refused. Nothing is left behind.
    pub fn start(object: Object, kernel: &Kernel, options: Options) -> Result<Self, Error> {
        let upkeep = Upkeep::new(&object)?;
        let natives = native::load_all(&object, kernel)?;
        upkeep::tell(&natives, &options.observer);
        let shared = |name: &str| options.maps.iter().find(|(n, _)| n == name).map(|(_, fd)| fd.as_fd());
        let loaded = load::load_with(
            &object,
            &|instance, symbol| natives.get(instance).and_then(|n| n.map_fd(symbol)),
            &shared,
        )?;
        let mut sink = make_sink(&options.output, options.format, options.buffering)?;
        sink.hold();
        let capture = options.capture.as_ref().map(CaptureFile::create).transpose()?;
        let escapes = matches!(options.output, Output::Stdout)
            && options.format == OutputFormat::Text
            && std::io::IsTerminal::is_terminal(&std::io::stdout());

        spare_descriptors()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| Error::Sys(crate::sys::SysError::new("start", "control loop", e)))?;
        // Before anything is attached, so that a signal never finds us without a handler.
        let signals = {
            let _guard = runtime.enter();
            Signals::new(&object, options.signals)?
        };

        let ring = match loaded.map_with(&object, |role| matches!(role, MapRole::Ring)) {
            Some(map) => Some(Ring::new(maps::dup(map.fd.as_fd(), "ring buffer")?, loaded.ring_size)?),
            None => None,
        };
        // What a writer gets is shown there, too: by the REPL.
        let screen = matches!(options.output, Output::Stdout | Output::Writer(_)) && options.format == OutputFormat::Text;
        let ctx = context(&object, &loaded, escapes, screen)?;
        let shared = Arc::new(Shared {
            object,
            loaded,
            natives,
            replayed: None,
        });
        let printer = Printer::start(
            Arc::clone(&shared),
            ring,
            Outputs {
                sink,
                capture,
                places: options.places.clone(),
            },
            ctx,
            Arc::clone(&options.observer),
        )?;

        let started = Instant::now();
        let mut session = Self {
            runtime,
            signals,
            shared,
            attached: None,
            upkeep,
            printer,
            exit: None,
            output: Ok(false),
            options,
            started,
            heart: None,
        };
        for (i, native) in session.shared.natives.iter().enumerate() {
            native.keep_copies(i, &session.shared.object, &session.shared.loaded)?;
        }
        match session.begin().and_then(|()| session.attach(kernel)) {
            Ok(()) => Ok(session),
            Err(error) => {
                // The printing thread may be the last to let go of all this, after the process has ended.
                let said = session.printer.ask(Command::Abandon);
                session.or_signal(said);
                session.shared.natives.iter().for_each(native::Instance::give_up);
                Err(error)
            }
        }
    }

    fn begin(&mut self) -> Result<(), Error> {
        let map = |role: fn(&MapRole) -> bool| self.shared.loaded.map_with(&self.shared.object, role);
        // Tells programs in clsact chains that we are alive.
        if let Some(map) = map(|role| matches!(role, MapRole::Heartbeat)) {
            self.heart = Some(Heart::start(map)?);
        }
        if let Some(map) = self
            .shared
            .loaded
            .map_with(&self.shared.object, |role| matches!(role, MapRole::Started))
        {
            let now = proc::clock_ns(libc::CLOCK_BOOTTIME).to_ne_bytes();
            bpf::map_update(map.fd.as_fd(), &0u32.to_ne_bytes(), &now, 0, &map.symbol)?;
        }
        if run_once::run(&self.shared.object, &self.shared.loaded, |p| *p == AttachPoint::Begin)? > 0 {
            let drained = self.printer.ask(Command::Drain);
            if self.or_signal(drained) {
                self.exit.get_or_insert(0);
            }
            self.read_reports();
        }
        Ok(())
    }

    /// Takes in what the printing thread has said so far.
    fn read_reports(&mut self) {
        while let Ok(report) = self.printer.reports.try_recv() {
            self.take_in(report);
        }
    }

    fn take_in(&mut self, report: Report) {
        match report {
            Report::Exit(code) => {
                self.exit.get_or_insert(code);
            }
            Report::Closed => self.output = Ok(true),
            Report::Failed(path, e) => self.output = Err((path, e)),
        }
    }

    fn attach(&mut self, kernel: &Kernel) -> Result<(), Error> {
        let shared = Arc::clone(&self.shared);
        let mut attacher = Attacher::new(
            kernel,
            &self.options.observer,
            &self.options.reaper_args,
            self.options.attach.clone(),
        );
        attacher.pid = self.options.pid;
        if self.exit.is_some() {
            // `begin` has called `exit()`: the rest would be detached at once. bpftrace attaches it all the same, and says how much.
            attacher.attached.probes = attach::probes(&shared.object);
        } else {
            attacher.use_names(&shared.object, &shared.loaded)?;
            for (i, native) in shared.natives.iter().enumerate() {
                native.connect(i, &shared.object, &self.shared.loaded)?;
            }
            for native in &shared.natives {
                native.attach(&mut attacher)?;
            }
            attacher.attach_all(&shared.object, &self.shared.loaded)?;
            for native in &shared.natives {
                native.attached()?;
            }
        }
        let attached = attacher.finish();
        let probes = attached.probes;
        self.attached = Some(attached);
        self.renew_copies()?;
        let test_hook = self.options.notify_attached;
        if !self.options.quiet && self.options.format == OutputFormat::Text {
            (self.options.observer)(&Notice::Attached { probes });
        }
        let told = (!self.options.quiet).then_some(probes);
        let said = self.printer.ask(|done| Command::Attached {
            probes: told,
            test_hook,
            done,
        });
        if self.or_signal(said) {
            self.exit.get_or_insert(0);
        }
        if let Some(attached) = &self.options.on_attached {
            attached();
        }
        Ok(())
    }

    /// Returns a handle on the maps of the script and of its natives, which reads them from any thread while it runs.
    #[must_use]
    pub fn maps(&self) -> MapsHandle {
        MapsHandle(Arc::clone(&self.shared))
    }

    /// Runs the iterators, each over all of its objects; those that are to have a name get it. All of them or none.
    fn iterate(&mut self) -> Result<(), Error> {
        let iterators = self.attached.as_ref().map(|a| a.iterators.as_slice()).unwrap_or_default();
        let mut named = Vec::new();
        for iterator in iterators {
            let done = iterator.pin().and_then(|path| match path {
                None => Ok(iterator.run().map(|()| None)?),
                path => Ok(path),
            });
            match done {
                Ok(path) => named.extend(path),
                Err(e) => {
                    for path in named {
                        // Made a moment ago; it is the first error that is told.
                        let _ = std::fs::remove_file(path);
                    }
                    return Err(e);
                }
            }
        }
        for path in named {
            let path = path.display().to_string();
            (self.options.observer)(&Notice::Named { path });
        }
        Ok(())
    }

    /// Returns how many probes are attached.
    #[must_use]
    pub fn probes(&self) -> usize {
        self.attached.as_ref().map_or(0, |a| a.probes)
    }

    /// Runs until the script ends, then prints what is left and detaches.
    ///
    /// # Errors
    /// When output cannot be written (a closed pipe is no error), or an `end` block cannot be run.
    pub fn run(mut self) -> Result<Outcome, Error> {
        let outcome = self.run_to_end();
        self.shared.natives.iter().for_each(native::Instance::ended);
        upkeep::tell(&self.shared.natives, &self.options.observer);
        outcome
    }

    fn run_to_end(&mut self) -> Result<Outcome, Error> {
        let deadline = self.options.timeout.map(|t| self.started + t);
        let watched = self.options.until_exit.is_some();
        if self.exit.is_none() {
            self.iterate()?;
        }
        let reason = if self.exit.is_none() && !watched && run_once::only_runs_once(&self.shared.object) {
            Reason::Nothing
        } else {
            self.wait(deadline)?
        };
        if let Some(attached) = self.attached.take() {
            attached.detach();
        }
        for notice in self.shared.natives.iter().filter_map(native::Instance::farewell) {
            (self.options.observer)(&notice);
        }
        if reason != Reason::OutputClosed {
            // Answered before `end` runs: what it sends must not be taken for records behind `exit()`.
            let resumed = self.printer.ask(Command::Resume);
            if self.or_second_signal(resumed) {
                return Ok(Outcome {
                    code: 130,
                    reason: Reason::Interrupted,
                });
            }
            self.renew_copies()?;
            run_once::run(&self.shared.object, &self.shared.loaded, |p| *p == AttachPoint::End)?;
            let print_maps = self.shared.object.config.print_maps_on_exit;
            let finished = self.printer.ask(|done| Command::Finish { print_maps, done });
            if self.or_second_signal(finished) {
                return Ok(Outcome {
                    code: 130,
                    reason: Reason::Interrupted,
                });
            }
            self.read_reports();
        }
        let code = self.exit.unwrap_or(0);
        match std::mem::replace(&mut self.output, Ok(false)) {
            Ok(false) => Ok(Outcome { code, reason }),
            Ok(true) => Ok(Outcome {
                code,
                reason: Reason::OutputClosed,
            }),
            Err((path, source)) => Err(Error::Output {
                path: path.unwrap_or_else(|| self.options.output.path()),
                source,
            }),
        }
    }

    /// Waits for the printing thread; returns true when a signal came first.
    fn or_signal(&mut self, done: impl Future) -> bool {
        let signals = &mut self.signals.end;
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                _ = done => false,
                _ = Signals::any(signals) => true,
            }
        })
    }

    /// As [`Self::or_signal`], deaf to what arrives within [`SIGNAL_GRACE`].
    fn or_second_signal(&mut self, done: impl Future) -> bool {
        let signals = &mut self.signals.end;
        let second = async {
            tokio::time::sleep(SIGNAL_GRACE).await;
            std::future::poll_fn(|cx| {
                for signal in &mut *signals {
                    // Registers for the next one, too.
                    let _ = signal.poll_recv(cx);
                }
                Poll::Ready(())
            })
            .await;
            Signals::any(signals).await
        };
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                _ = done => false,
                _ = second => true,
            }
        })
    }

    /// Shows the script's programs how the maps of natives are now.
    fn renew_copies(&self) -> Result<(), Error> {
        self.shared.natives.iter().try_for_each(native::Instance::renew_copies)
    }

    /// Runs the blocks of a signal.
    fn run_signal(&mut self, index: usize) -> Result<(), Error> {
        self.renew_copies()?;
        let shared = Arc::clone(&self.shared);
        if let Some((wanted, _)) = signal_names(&shared.object).get(index) {
            let is_it = |point: &AttachPoint| matches!(point, AttachPoint::Signal { name } if name == wanted);
            run_once::run(&shared.object, &shared.loaded, is_it)?;
        }
        Ok(())
    }

    /// Registers what becomes readable when interfaces come or go.
    fn watch_interfaces(&self) -> Result<Option<AsyncFd<BorrowedFd<'static>>>, Error> {
        let fd = self.attached.as_ref().and_then(|a| a.interfaces.ready());
        self.watch(fd, "interfaces")
    }

    /// Registers a descriptor that belongs to `self` until the control loop has ended.
    fn watch(&self, fd: Option<RawFd>, what: &'static str) -> Result<Option<AsyncFd<BorrowedFd<'static>>>, Error> {
        let Some(fd) = fd else { return Ok(None) };
        let _guard = self.runtime.enter();
        // SAFETY: the descriptor belongs to a part of `self` that outlives the control loop and with it this registration.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        // SAFETY: as above: it stays open, and the same, as long as the registration lives.
        unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }
            .map(Some)
            .map_err(|e| Error::Sys(crate::sys::SysError::new("wait for", what, e.into())))
    }

    /// The control loop. What the printing thread has said before is taken into account.
    fn wait(&mut self, deadline: Option<Instant>) -> Result<Reason, Error> {
        enum Wake {
            Said(Report),
            End(Reason),
            Signal(usize),
            Interfaces,
            Cgroups,
            Files,
            Reload,
            Tick,
            Timers,
        }
        let interfaces = self.watch_interfaces()?;
        let cgroups = self.watch(self.attached.as_ref().and_then(|a| a.cgroups.ready()), "cgroups")?;
        let files = self.watch(self.upkeep.ready(), "files")?;
        let mut next_tick = Instant::now() + TICK;
        let mut timers = Timers::new(&self.shared.object);
        let process = {
            let _guard = self.runtime.enter();
            // SAFETY: the descriptor is open as long as the `Arc` that the registration holds.
            let watch = |process| unsafe { AsyncFd::register_with_interest(process, Interest::READABLE) };
            let watched = self.options.until_exit.clone().map(watch).transpose();
            watched.map_err(|e| Error::Sys(crate::sys::SysError::new("watch", "process", e.into())))?
        };
        loop {
            if !matches!(self.output, Ok(false)) {
                return Ok(Reason::OutputClosed);
            }
            if self.exit.is_some() {
                return Ok(Reason::Exit);
            }
            let Signals { end, script } = &mut self.signals;
            let reports = &mut self.printer.reports;
            let namespaces = self.attached.as_ref().is_some_and(|a| a.interfaces.looks_into_namespaces());
            let ticks = self.shared.natives.iter().any(native::Instance::wants_ticks);
            let due = self.upkeep.due();
            let timer = timers.next();
            let wake = self.runtime.block_on(async {
                tokio::select! {
                    report = reports.recv() => report.map_or(Wake::End(Reason::OutputClosed), Wake::Said),
                    _ = Signals::any(end) => Wake::End(Reason::Signal),
                    () = process_ended(process.as_ref()) => Wake::End(Reason::ProcessEnded),
                    () = stopped(self.options.stop.as_deref()) => Wake::End(Reason::Signal),
                    i = Signals::any(script) => Wake::Signal(i),
                    () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => Wake::End(Reason::Timeout),
                    () = changed(interfaces.as_ref()) => Wake::Interfaces,
                    () = changed(cgroups.as_ref()) => Wake::Cgroups,
                    () = changed(files.as_ref()) => Wake::Files,
                    () = sleep_until(due.map_or_else(Instant::now, Instant::from_std)), if due.is_some() => Wake::Reload,
                    () = sleep_until(timer.unwrap_or_else(Instant::now)), if timer.is_some() => Wake::Timers,
                    () = sleep_until(next_tick), if namespaces || ticks => Wake::Tick,
                }
            });
            match wake {
                Wake::Said(report) => self.take_in(report),
                Wake::End(reason) => return Ok(reason),
                Wake::Signal(i) => self.run_signal(i)?,
                Wake::Interfaces => {
                    if let Some(attached) = &mut self.attached {
                        attached.interfaces.refresh();
                    }
                    for (device, there) in self.shared.loaded.renew_devices(&self.shared.object) {
                        (self.options.observer)(&Notice::Device {
                            name: device.name,
                            there,
                            span: device.span,
                        });
                    }
                }
                Wake::Cgroups => {
                    if let Some(attached) = &mut self.attached {
                        attached.cgroups.refresh();
                    }
                }
                Wake::Files => self.upkeep.take_in(),
                Wake::Reload => self.upkeep.reload(&self.shared.natives, &self.options.observer),
                Wake::Timers => {
                    self.renew_copies()?;
                    for period in timers.due() {
                        let is_it = |point: &AttachPoint| *point == AttachPoint::Timer { period };
                        run_once::run(&self.shared.object, &self.shared.loaded, is_it)?;
                    }
                }
                Wake::Tick => {
                    self.renew_copies()?;
                    if Upkeep::tick(&self.shared.natives, &self.options.observer) {
                        return Ok(Reason::Signal);
                    }
                    if let Some(attached) = &mut self.attached {
                        attached.interfaces.check_namespaces();
                    }
                    next_tick = Instant::now() + TICK;
                }
            }
        }
    }
}

/// When the blocks on intervals are due that weir itself runs.
struct Timers(Vec<(Duration, Instant)>);

impl Timers {
    fn new(object: &Object) -> Self {
        let mut periods: Vec<Duration> = Vec::new();
        for attach in object.programs.iter().flat_map(|p| &p.attach) {
            if let AttachPoint::Timer { period } = attach.point
                && !periods.contains(&period)
            {
                periods.push(period);
            }
        }
        let now = Instant::now();
        Self(periods.into_iter().map(|period| (period, now + period)).collect())
    }

    fn next(&self) -> Option<Instant> {
        self.0.iter().map(|(_, next)| *next).min()
    }

    /// Lists the periods that are over and begins them anew. Those that were missed are not made up for.
    fn due(&mut self) -> Vec<Duration> {
        let now = Instant::now();
        let mut due = Vec::new();
        for (period, next) in self.0.iter_mut().filter(|(_, next)| *next <= now) {
            due.push(*period);
            while *next <= now {
                *next += (*period).max(Duration::from_millis(1));
            }
        }
        due
    }
}

/// Waits until a watched descriptor is readable; for ever where nobody wants to know.
async fn changed(watched: Option<&AsyncFd<BorrowedFd<'static>>>) {
    if let Some(fd) = watched
        && let Ok(mut guard) = fd.readable().await
    {
        // Everything that is there is taken in each time.
        guard.clear_ready();
        return;
    }
    std::future::pending().await
}
