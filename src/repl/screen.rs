//! Where everything that the REPL says goes: above the line being typed on a terminal, else straight to standard output.
//!
//! On a terminal, what jobs print from their own threads is queued, and one thread shows it, in pieces that the terminal takes
//! ([`super::pace`]): through the line editor while a line is being typed, and by itself at other times. What a command answers is shown
//! at once, before all that waits. While a full-screen view is on, everything is held back and shown after it.

use super::pace::Pace;
use crate::out;
use crate::render::Failure;
use crate::repl::INTERRUPTED;
use std::io::{self, Write};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Bytes held back at most while a view is on; what is more is dropped and counted.
const MOST_HELD: usize = 1 << 20;

/// Bytes of jobs that wait at most; a job that has more to say waits, too.
const MOST_QUEUED: usize = 256 << 10;

/// Bytes that a command writes at once: between two such pieces Ctrl-C ends it.
const PIECE: usize = 512;

/// How long what waits is shown for when the session ends.
const LEAVING: Duration = Duration::from_secs(2);

/// How often it is looked whether more comes than is shown.
const LOOK: Duration = Duration::from_secs(5);

/// Prints a text above the prompt.
pub type Above = Box<dyn FnMut(String) + Send>;

/// A way to the screen: of a job, or of what the user has just asked for.
#[derive(Clone)]
pub struct Screen {
    shared: Arc<Shared>,
    of_a_job: bool,
}

#[derive(Default)]
struct Shared {
    inner: Mutex<Inner>,
    changed: Condvar,
    /// How fast the terminal is; `None` for what is none.
    pace: Option<Arc<Pace>>,
}

#[derive(Default)]
struct Inner {
    /// A line is being typed.
    typing: bool,
    /// Whole lines of jobs that nobody has seen.
    queue: String,
    /// The thread has a piece in its hands, which it writes itself.
    writing: bool,
    in_flight: bool,
    /// A command writes.
    answering: bool,
    /// A view is on.
    held: bool,
    dropped: usize,
    /// Jobs are being ended: they need not wait.
    ending: bool,
    /// More comes than can be shown, and the user knows.
    behind: bool,
}

impl Screen {
    /// One that writes to standard output.
    pub fn plain() -> Self {
        Self {
            shared: Arc::default(),
            of_a_job: false,
        }
    }

    /// One for a terminal with a line editor.
    ///
    /// # Errors
    /// There are no threads left.
    pub fn above(mut above: Above, pace: Arc<Pace>) -> Result<Self, Failure> {
        let shared = Shared {
            pace: Some(Arc::clone(&pace)),
            ..Shared::default()
        };
        let screen = Self {
            shared: Arc::new(shared),
            of_a_job: false,
        };
        let theirs = screen.clone();
        let thread = std::thread::Builder::new().name("weir-screen".to_owned());
        thread
            .spawn(move || {
                let mut progress = Progress::new();
                loop {
                    theirs.wait_for_lines();
                    let (room, question) = pace.next();
                    let Some((text, typing)) = theirs.take(room) else { continue };
                    let bytes = text.len();
                    let piece = ask(text, question);
                    if typing {
                        above(piece);
                    } else {
                        // A terminal that has gone is noticed by the next line.
                        let _ = out::stdout(&piece);
                    }
                    theirs.taken();
                    pace.taken(bytes, !question.is_empty());
                    theirs.look(&mut progress, bytes);
                }
            })
            .map_err(|e| Failure::new(format!("cannot start a thread: {e}")))?;
        Ok(screen)
    }

    /// The way for a job, whose output waits until there is room for it.
    pub fn of_a_job(&self) -> Self {
        Self {
            of_a_job: true,
            ..self.clone()
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.shared.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_while(&self, condition: impl FnMut(&mut Inner) -> bool) -> MutexGuard<'_, Inner> {
        let waited = self.shared.changed.wait_while(self.lock(), condition);
        waited.unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_for_lines(&self) {
        drop(self.wait_while(|inner| !inner.has_lines()));
    }

    /// The next lines, of so many bytes if the first is no longer, and whether a line is being typed.
    fn take(&self, room: usize) -> Option<(String, bool)> {
        let mut inner = self.lock();
        if !inner.has_lines() {
            return None;
        }
        let len = piece(&inner.queue, room);
        let text: String = inner.queue.drain(..len).collect();
        inner.in_flight = true;
        inner.writing = !inner.typing;
        self.shared.changed.notify_all();
        Some((text, inner.typing))
    }

    fn taken(&self) {
        let mut inner = self.lock();
        (inner.in_flight, inner.writing) = (false, false);
        self.shared.changed.notify_all();
    }

    /// Says so when more comes than the terminal takes.
    fn look(&self, progress: &mut Progress, bytes: usize) {
        let mut inner = self.lock();
        if inner.queue.is_empty() {
            inner.behind = false;
            *progress = Progress::new();
            return;
        }
        progress.bytes += bytes;
        if progress.since.elapsed() < LOOK {
            return;
        }
        if inner.queue.len() > progress.bytes {
            inner.behind = true;
            let lines = lines(&inner.queue);
            let note = format!("({lines} lines wait: this terminal takes fewer than the jobs print; Ctrl-C leaves them out)\n");
            inner.queue.insert_str(0, &note);
        }
        *progress = Progress::new();
    }

    /// Shows a text; it ends with a line break.
    pub fn print(&self, text: &str) {
        if text.is_empty() {
            return;
        }
        if self.shared.pace.is_none() {
            // A reader that has gone is noticed by the next command.
            let _ = out::stdout(text);
            return;
        }
        if !self.of_a_job && !self.lock().typing {
            self.answer(text);
            return;
        }
        let full = |inner: &mut Inner| !inner.held && !inner.ending && inner.queue.len() >= MOST_QUEUED;
        let mut inner = self.wait_while(full);
        if inner.held && inner.queue.len() + text.len() > MOST_HELD {
            inner.dropped += text.len();
            return;
        }
        inner.queue.push_str(text);
        self.shared.changed.notify_all();
    }

    /// Writes what the user has asked for, until Ctrl-C.
    fn answer(&self, text: &str) {
        self.wait_while(|inner| inner.writing || inner.answering).answering = true;
        let mut rest = text;
        // A word about what was interrupted is short.
        let stopped = || text.len() > PIECE && INTERRUPTED.load(Ordering::Acquire);
        while !rest.is_empty() && !stopped() {
            let most = rest.floor_char_boundary(PIECE);
            let len = rest[..most].rfind('\n').or_else(|| rest.find('\n')).map_or(rest.len(), |at| at + 1);
            let (piece, more) = rest.split_at(len);
            if out::stdout(piece).is_err() {
                break;
            }
            rest = more;
        }
        self.lock().answering = false;
        self.shared.changed.notify_all();
    }

    /// From here on a line is being typed, and the editor takes what is to be shown.
    pub fn typing(&self) {
        let mut inner = self.wait_while(|inner| inner.writing);
        inner.typing = true;
        drop(inner);
        // Ctrl-C may have thrown away what was on its way to the terminal, the question in it too.
        if let Some(pace) = &self.shared.pace {
            pace.void();
        }
        self.shared.changed.notify_all();
    }

    /// The line is there: from here on the editor takes nothing.
    pub fn typed(&self) {
        self.lock().typing = false;
        if let Some(pace) = &self.shared.pace {
            pace.void();
        }
        self.shared.changed.notify_all();
    }

    /// Leaves out what waits, if the terminal cannot show it soon, and says how much that was.
    pub fn skip(&self) {
        let mut inner = self.lock();
        if !inner.behind {
            return;
        }
        let left_out = lines(&std::mem::take(&mut inner.queue));
        inner.behind = false;
        drop(inner);
        self.shared.changed.notify_all();
        self.print(&format!("({left_out} lines were left out)\n"));
    }

    /// Whether jobs are being ended: then what they still have to say does not hold them up.
    pub fn ending(&self, ending: bool) {
        self.lock().ending = ending;
        self.shared.changed.notify_all();
    }

    /// How fast the terminal is.
    pub fn pace(&self) -> Option<&Pace> {
        self.shared.pace.as_deref()
    }

    /// No line will be typed any more: shows what waits, if that takes no time.
    pub fn close(&self) {
        let waits = |inner: &mut Inner| inner.in_flight || !inner.queue.is_empty();
        let waited = self.shared.changed.wait_timeout_while(self.lock(), LEAVING, waits);
        let (mut inner, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let left_out = lines(&std::mem::take(&mut inner.queue));
        drop(inner);
        if left_out > 0 {
            self.print(&format!("({left_out} lines were left out)\n"));
        }
    }

    /// Holds everything back until [`Self::release`].
    pub fn hold(&self) {
        self.wait_while(|inner| inner.writing).held = true;
    }

    pub fn release(&self) {
        let mut inner = self.lock();
        inner.held = false;
        let dropped = std::mem::take(&mut inner.dropped);
        if dropped > 0 {
            inner
                .queue
                .push_str(&format!("({dropped} bytes of output were not kept while the view was on)\n"));
        }
        self.shared.changed.notify_all();
    }

    /// A writer for one job: whole lines go to the screen.
    pub fn writer(&self) -> Lines {
        Lines {
            screen: self.clone(),
            line: Vec::new(),
        }
    }
}

impl Inner {
    fn has_lines(&self) -> bool {
        !self.queue.is_empty() && !self.held && !self.answering
    }
}

/// What was shown since the last look.
struct Progress {
    since: Instant,
    bytes: usize,
}

impl Progress {
    fn new() -> Self {
        Self {
            since: Instant::now(),
            bytes: 0,
        }
    }
}

/// How many bytes the whole lines have that fit into so many, or the first line if it does not.
fn piece(lines: &str, room: usize) -> usize {
    let end = |at: Option<usize>| at.map(|at| at + 1);
    let bytes = lines.as_bytes();
    let most = bytes.len().min(room);
    let whole = end(bytes[..most].iter().rposition(|b| *b == b'\n'));
    let first = || end(bytes.iter().position(|b| *b == b'\n'));
    whole.or_else(first).unwrap_or(bytes.len())
}

/// The question before the last line break: the editor draws the line again behind that.
fn ask(mut text: String, question: &str) -> String {
    let at = text.len() - usize::from(text.ends_with('\n'));
    text.insert_str(at, question);
    text
}

fn lines(text: &str) -> usize {
    text.bytes().filter(|b| *b == b'\n').count()
}

/// Collects what a job writes and hands on whole lines, so that two jobs never share one.
pub struct Lines {
    screen: Screen,
    line: Vec<u8>,
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(bytes);
        if let Some(end) = memchr_last(&self.line) {
            let rest = self.line.split_off(end + 1);
            let lines = std::mem::replace(&mut self.line, rest);
            self.screen.print(&String::from_utf8_lossy(&lines));
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        if !self.line.is_empty() {
            self.line.push(b'\n');
            self.screen.print(&String::from_utf8_lossy(&self.line));
        }
    }
}

fn memchr_last(bytes: &[u8]) -> Option<usize> {
    bytes.iter().rposition(|b| *b == b'\n')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A screen with a line editor that shows texts as long as there are any left in `takes`.
    fn edited(takes: usize) -> (Screen, Arc<Mutex<String>>) {
        let seen = Arc::new(Mutex::new(String::new()));
        let theirs = Arc::clone(&seen);
        let mut left = takes;
        let above = move |text: String| {
            if left == 0 {
                loop {
                    std::thread::park();
                }
            }
            left -= 1;
            theirs.lock().unwrap().push_str(&text);
        };
        let screen = Screen::above(Box::new(above), Arc::default()).unwrap();
        screen.typing();
        (screen.of_a_job(), seen)
    }

    fn wait(mut good: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !good() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(good());
    }

    fn shown(seen: &Mutex<String>, text: &str) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while *seen.lock().unwrap() != text && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(*seen.lock().unwrap(), text);
    }

    #[test]
    fn lines_of_two_jobs_are_never_mixed() {
        let (screen, seen) = edited(usize::MAX);
        let (mut a, mut b) = (screen.writer(), screen.writer());
        a.write_all(b"one ").unwrap();
        b.write_all(b"two\nthr").unwrap();
        a.write_all(b"more\n").unwrap();
        shown(&seen, "two\none more\n");
        drop(b);
        shown(&seen, "two\none more\nthr\n");
    }

    #[test]
    fn a_view_holds_output_back_and_says_what_it_dropped() {
        let (screen, seen) = edited(usize::MAX);
        screen.hold();
        screen.print("a\n");
        screen.print(&"x".repeat(MOST_HELD));
        assert_eq!(*seen.lock().unwrap(), "");
        screen.release();
        shown(&seen, "a\n(1048576 bytes of output were not kept while the view was on)\n");
    }

    #[test]
    fn pieces_are_whole_lines() {
        let lines = "first\nsecond\nof more bytes than there is room\n";
        let two = "first\nsecond\n".len();
        assert_eq!(piece(lines, 14), two);
        assert_eq!(piece(&lines[two..], 14), lines.len() - two);
        assert_eq!(piece(lines, lines.len()), lines.len());
        assert_eq!(ask("a\nb\n".to_owned(), "?"), "a\nb?\n");
    }

    /// The editor stops taking texts when a line has been typed; nobody else may wait for it then.
    #[test]
    fn an_editor_that_takes_nothing_holds_up_jobs_alone() {
        let (screen, seen) = edited(1);
        screen.print("shown\n");
        shown(&seen, "shown\n");
        let job = screen.clone();
        let job = std::thread::spawn(move || (0..10_000).for_each(|i| job.print(&format!("line {i} {}\n", "x".repeat(80)))));
        wait(|| screen.lock().queue.len() >= MOST_QUEUED && screen.lock().in_flight);
        // More than the queue takes: the job waits, commands do not, and neither does a job that ends.
        screen.typed();
        assert!(!job.is_finished());
        screen.ending(true);
        job.join().unwrap();
        assert!(screen.lock().queue.len() > MOST_QUEUED);
        // What cannot be shown is left out.
        screen.lock().behind = true;
        screen.skip();
        wait(|| screen.lock().queue.len() < 100);
    }
}
