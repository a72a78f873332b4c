//! What runs in the background of a REPL: scripts, each with a thread of its own, and regular prints of a map.

use crate::render::Renderer;
use crate::repl::screen::Screen;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use weir_compiler::object::Object;
use weir_compiler::pipeline::Source;
use weir_runtime::{Error, Kernel, MapsHandle, Notice, Options, Output, Session, SharedMaps};

/// How long a job may take to detach before we stop waiting for it.
const PATIENCE: Duration = Duration::from_secs(5);

pub struct Job {
    pub number: usize,
    /// The entry, on one line.
    pub title: String,
    pub started: Instant,
    pub probes: usize,
    /// The maps of natives; `None` for what is no script.
    pub maps: Option<MapsHandle>,
    control: Control,
    thread: Option<JoinHandle<()>>,
}

/// How a job is told to stop, and how it says that it has.
#[derive(Clone, Default)]
struct Control {
    stop: Arc<Notify>,
    stopping: Arc<AtomicBool>,
    done: Arc<AtomicBool>,
    /// What ended it, if not the user.
    failure: Arc<Mutex<Option<String>>>,
}

impl Job {
    /// Loads and attaches a script on a new thread; returns when it runs, or has been refused.
    ///
    /// # Errors
    /// What [`Session::start`] says.
    pub fn script(
        number: usize,
        title: String,
        source: &Source,
        object: Object,
        maps: SharedMaps,
        screen: &Screen,
    ) -> Result<Self, Box<Error>> {
        let control = Control::default();
        let writer = screen.clone();
        let imports = object.imports.iter().map(|(name, text)| Source {
            name: name.clone(),
            text: text.clone(),
        });
        let sources: Vec<Source> = std::iter::once(source.clone()).chain(imports).collect();
        let (renderer, heard) = (Renderer::for_stderr(), screen.clone());
        let options = Options {
            output: Output::Writer(Arc::new(move || Box::new(writer.writer()))),
            quiet: true,
            notify_attached: false,
            maps,
            signals: false,
            stop: Some(Arc::clone(&control.stop)),
            observer: Arc::new(move |notice: &Notice| heard.print(&renderer.notice(&sources, notice))),
            ..Options::default()
        };
        let (tell, told) = channel();
        let theirs = control.clone();
        let thread = std::thread::Builder::new().name(format!("weir-job-{number}")).spawn(move || {
            let kernel = Kernel::new();
            match Session::start(object, &kernel, options) {
                Err(error) => drop(tell.send(Err(Box::new(error)))),
                Ok(session) => {
                    let _ = tell.send(Ok((session.maps(), session.probes())));
                    if let Err(error) = session.run() {
                        *theirs.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
                    }
                }
            }
            theirs.done.store(true, Ordering::Release);
        });
        let internal = |message: &str| Box::new(Error::Object(message.to_owned()));
        let thread = thread.map_err(|e| internal(&format!("no thread for the job: {e}")))?;
        let (maps, probes) = told.recv().map_err(|_| internal("the job's thread has died"))??;
        Ok(Self {
            number,
            title,
            started: Instant::now(),
            probes,
            maps: Some(maps),
            control,
            thread: Some(thread),
        })
    }

    /// Does something regularly until it is stopped.
    ///
    /// # Errors
    /// When there can be no more threads.
    pub fn every(number: usize, title: String, period: Duration, mut work: impl FnMut() + Send + 'static) -> std::io::Result<Self> {
        let control = Control::default();
        let theirs = control.clone();
        let thread = std::thread::Builder::new().name(format!("weir-job-{number}")).spawn(move || {
            let mut next = Instant::now() + period;
            while !theirs.stopping.load(Ordering::Acquire) {
                let now = Instant::now();
                if now >= next {
                    work();
                    // A period that was missed is not made up for.
                    next = (next + period).max(now);
                } else {
                    std::thread::park_timeout(next - now);
                }
            }
            theirs.done.store(true, Ordering::Release);
        })?;
        Ok(Self {
            number,
            title,
            started: Instant::now(),
            probes: 0,
            maps: None,
            control,
            thread: Some(thread),
        })
    }

    pub fn is_done(&self) -> bool {
        self.control.done.load(Ordering::Acquire)
    }

    /// What ended it, if that was an error.
    pub fn failure(&self) -> Option<String> {
        self.control.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks it to stop.
    pub fn ask_to_stop(&self) {
        self.control.stopping.store(true, Ordering::Release);
        self.control.stop.notify_one();
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }

    /// Waits until it has detached; false when it takes too long.
    pub fn wait(&mut self) -> bool {
        self.maps = None;
        let end = Instant::now() + PATIENCE;
        while !self.is_done() {
            if Instant::now() > end {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.thread.take().is_none_or(|thread| thread.join().is_ok())
    }
}
