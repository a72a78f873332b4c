//! Where everything that the REPL says goes: above the line being typed on a terminal, else straight to standard output.
//!
//! Jobs write from their own threads. While a line is being typed, what they say is queued, and one thread hands it to the line
//! editor; that thread alone ever waits for the editor, which takes nothing while a command runs. At all other times everyone writes
//! to the terminal. While a full-screen view is on, everything is held back and shown after it.

use crate::out;
use crate::render::Failure;
use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Bytes held back at most while a view is on; what is more is dropped and counted.
const MOST_HELD: usize = 1 << 20;

/// Bytes that wait for the line editor at most; who writes more waits, too.
const MOST_QUEUED: usize = 256 << 10;

/// Bytes that are handed to the line editor at once, if no line is longer.
const CHUNK: usize = 16 << 10;

/// Longer than the editor takes to show a text, if it takes it at all.
const SHOWN: Duration = Duration::from_millis(50);

/// Prints a text above the prompt.
pub type Above = Box<dyn FnMut(String) + Send>;

#[derive(Clone)]
pub struct Screen(Arc<Shared>);

#[derive(Default)]
struct Shared {
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Default)]
struct Inner {
    /// A line is being typed.
    typing: bool,
    queue: VecDeque<String>,
    queued: usize,
    /// What the line editor is being given.
    in_flight: Option<String>,
    held: Option<Vec<u8>>,
    dropped: usize,
}

impl Screen {
    /// One that writes to standard output.
    pub fn plain() -> Self {
        Self(Arc::default())
    }

    /// One for a terminal with a line editor.
    ///
    /// # Errors
    /// There are no threads left.
    pub fn above(mut above: Above) -> Result<Self, Failure> {
        let screen = Self::plain();
        let theirs = screen.clone();
        let thread = std::thread::Builder::new().name("weir-screen".to_owned());
        thread
            .spawn(move || {
                loop {
                    above(theirs.next());
                    theirs.lock().in_flight = None;
                    theirs.0.changed.notify_all();
                }
            })
            .map_err(|e| Failure::new(format!("cannot start a thread: {e}")))?;
        Ok(screen)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, inner: MutexGuard<'a, Inner>) -> MutexGuard<'a, Inner> {
        self.0.changed.wait(inner).unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for something to show above the line.
    fn next(&self) -> String {
        let mut inner = self.lock();
        while !inner.typing || inner.queue.is_empty() {
            inner = self.wait(inner);
        }
        let mut text = String::new();
        while let Some(more) = inner.queue.pop_front_if(|more| text.is_empty() || text.len() + more.len() <= CHUNK) {
            inner.queued -= more.len();
            text.push_str(&more);
        }
        inner.in_flight = Some(text.clone());
        self.0.changed.notify_all();
        text
    }

    /// Shows a text; it ends with a line break.
    pub fn print(&self, text: &str) {
        if text.is_empty() {
            return;
        }
        let mut inner = self.lock();
        while inner.typing && inner.held.is_none() && inner.queued >= MOST_QUEUED {
            inner = self.wait(inner);
        }
        inner.put(text);
        self.0.changed.notify_all();
    }

    /// From here on a line is being typed, and the editor takes what is to be shown.
    pub fn typing(&self) {
        self.lock().typing = true;
        self.0.changed.notify_all();
    }

    /// The line is there: from here on everybody writes to the terminal.
    pub fn typed(&self) {
        let mut inner = self.lock();
        inner.typing = false;
        let queue = std::mem::take(&mut inner.queue);
        inner.queued = 0;
        for text in queue {
            inner.put(&text);
        }
        self.0.changed.notify_all();
    }

    /// No line will be typed any more: shows what the editor was given and did not take.
    pub fn close(&self) {
        let stuck = |inner: &mut Inner| inner.in_flight.is_some();
        let waited = self.0.changed.wait_timeout_while(self.lock(), SHOWN, stuck);
        let (mut inner, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if let Some(text) = inner.in_flight.take() {
            inner.put(&text);
        }
    }

    /// Holds everything back until [`Self::release`].
    pub fn hold(&self) {
        self.lock().held.get_or_insert_default();
    }

    pub fn release(&self) {
        let mut inner = self.lock();
        let held = inner.held.take().unwrap_or_default();
        let dropped = std::mem::take(&mut inner.dropped);
        if !held.is_empty() {
            inner.put(&String::from_utf8_lossy(&held));
        }
        if dropped > 0 {
            inner.put(&format!("({dropped} bytes of output were not kept while the view was on)\n"));
        }
        self.0.changed.notify_all();
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
    fn put(&mut self, text: &str) {
        if let Some(held) = &mut self.held {
            if held.len() + text.len() <= MOST_HELD {
                held.extend_from_slice(text.as_bytes());
            } else {
                self.dropped += text.len();
            }
            return;
        }
        if self.typing {
            self.queued += text.len();
            self.queue.push_back(text.to_owned());
        } else {
            // A reader that has gone is noticed by the next command.
            let _ = out::stdout(text);
        }
    }
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
        let screen = Screen::above(Box::new(above)).unwrap();
        screen.typing();
        (screen, seen)
    }

    fn shown(seen: &Mutex<String>, text: &str) {
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while *seen.lock().unwrap() != text && std::time::Instant::now() < deadline {
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

    /// The editor stops taking texts when a line has been typed; nobody else may wait for it then.
    #[test]
    fn an_editor_that_takes_nothing_holds_nobody_up() {
        let (screen, seen) = edited(1);
        screen.print("shown\n");
        shown(&seen, "shown\n");
        let job = screen.clone();
        let job = std::thread::spawn(move || (0..10_000).for_each(|i| job.print(&format!("line {i} {}\n", "x".repeat(80)))));
        let waits = |inner: &Inner| inner.queued >= MOST_QUEUED && inner.in_flight.is_some();
        while !waits(&screen.lock()) {
            std::thread::yield_now();
        }
        // More than the queue takes: the job waits now, and goes on when the line is there.
        screen.typed();
        job.join().unwrap();
        assert_eq!(screen.lock().in_flight.as_deref().map(|t| &t[..7]), Some("line 0 "));
        screen.close();
        assert_eq!(screen.lock().in_flight, None);
    }
}
