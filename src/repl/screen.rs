//! Where everything that the REPL says goes: above the line being typed on a terminal, else straight to standard output.
//!
//! Jobs write from their own threads. While a full-screen view is on, what they say is held back and shown after it.

use crate::out;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes held back at most while a view is on; what is more is dropped and counted.
const MOST_HELD: usize = 1 << 20;

/// Prints a text above the prompt.
pub type Above = Box<dyn FnMut(String) + Send>;

#[derive(Clone)]
pub struct Screen(Arc<Mutex<Inner>>);

struct Inner {
    above: Option<Above>,
    held: Option<Vec<u8>>,
    dropped: usize,
}

impl Screen {
    pub fn new(above: Option<Above>) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            above,
            held: None,
            dropped: 0,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows a text; it ends with a line break.
    pub fn print(&self, text: &str) {
        if !text.is_empty() {
            self.lock().put(text);
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
        match &mut self.above {
            Some(above) => above(text.to_owned()),
            // A reader that has gone is noticed by the next command.
            None => drop(out::stdout(text)),
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

    fn recorded() -> (Screen, Arc<Mutex<String>>) {
        let seen = Arc::new(Mutex::new(String::new()));
        let theirs = Arc::clone(&seen);
        let screen = Screen::new(Some(Box::new(move |text| theirs.lock().unwrap().push_str(&text))));
        (screen, seen)
    }

    #[test]
    fn lines_of_two_jobs_are_never_mixed() {
        let (screen, seen) = recorded();
        let (mut a, mut b) = (screen.writer(), screen.writer());
        a.write_all(b"one ").unwrap();
        b.write_all(b"two\nthr").unwrap();
        a.write_all(b"more\n").unwrap();
        assert_eq!(*seen.lock().unwrap(), "two\none more\n");
        drop(b);
        assert_eq!(*seen.lock().unwrap(), "two\none more\nthr\n");
    }

    #[test]
    fn a_view_holds_output_back_and_says_what_it_dropped() {
        let (screen, seen) = recorded();
        screen.hold();
        screen.print("a\n");
        screen.print(&"x".repeat(MOST_HELD));
        assert_eq!(*seen.lock().unwrap(), "");
        screen.release();
        assert!(seen.lock().unwrap().starts_with("a\n(1048576 bytes"));
    }
}
