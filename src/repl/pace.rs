//! How much a terminal takes: the output of jobs is never so far ahead of what is shown that a key would have to wait for it.
//!
//! Between us and the eyes lie buffers that hold seconds of a slow line (12 KiB in a pseudo-terminal, far more in ssh), and the kernel does
//! not say how full they are. So the terminal is asked: behind each piece of output stands the question that every terminal answers
//! (`ESC [ 5 n`), and the next piece waits for the answer. How long that took says how large pieces may be. Input: answers and keys,
//! from the thread that reads the terminal ([`super::tty`]). A terminal that never answers gets little while somebody types, and else what
//! it turns out to take.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Asks for the terminal's state.
pub const QUESTION: &str = "\x1b[5n";

/// Bytes of the smallest pieces; those of class `n` have 2ⁿ times as many.
const LEAST: usize = 64;
/// The largest class: 64 KiB.
const TOP: u32 = 10;
/// How much longer than the smallest pieces a piece may take.
const SLACK: Duration = Duration::from_millis(60);
/// Pieces before a class that was too large is tried again.
const HOLD: u32 = 16;
/// So long after a key somebody is typing.
const TYPING: Duration = Duration::from_secs(3);
/// So long after a key nobody is, and it does no harm to find out how much a terminal takes that does not say so: that fills its buffers.
const AWAY: Duration = Duration::from_secs(30);
/// How long a terminal that has answered before may take, and one that has not.
const PATIENCE: Duration = Duration::from_secs(10);
const FIRST: Duration = Duration::from_millis(400);

/// Bytes a second for a terminal that says nothing: half of what a line of 9600 baud carries.
const QUIET: f64 = 480.0;
/// How often that is raised while nobody is there.
const RAISE: Duration = Duration::from_secs(1);
/// What a pseudo-terminal holds.
const BUFFERS: f64 = (12 << 10) as f64;
/// A line on which the greeting takes longer is slow: about 2 KB a second.
const SLOW: Duration = Duration::from_millis(40);
/// About what the line being typed takes when it is drawn again.
const PROMPT: usize = 64;

#[derive(Default)]
pub struct Pace {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Somebody reads the answers.
    heard: bool,
    /// Questions without an answer.
    open: usize,
    /// There has been an answer, at all, and since the last piece.
    answers: bool,
    answered: bool,
    /// The last piece may not have come to the terminal.
    void: bool,
    key: Option<Instant>,
    /// The greeting stands between two questions; when the first was answered.
    greeting: bool,
    greeted: Option<Instant>,
    /// Few bytes should be spent on colours.
    slow: bool,
    line: Line,
    mute: Mute,
}

impl Pace {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From here on answers are heard.
    pub fn listen(&self) {
        self.lock().heard = true;
    }

    /// Whether an answer may be among what comes from the terminal.
    pub fn asked(&self) -> bool {
        self.lock().open > 0
    }

    /// The first text, so that its way to the screen can be timed.
    pub fn greeting(&self, text: &str) -> String {
        let mut state = self.lock();
        if !state.heard {
            return text.to_owned();
        }
        state.open += 2;
        state.greeting = true;
        format!("{QUESTION}{text}{QUESTION}")
    }

    /// Whether the line is so slow that colours would hold up what is typed.
    pub fn slow(&self) -> bool {
        self.lock().slow
    }

    /// An answer has come.
    pub fn answer(&self) {
        let mut state = self.lock();
        if state.greeting {
            let first = *state.greeted.get_or_insert_with(Instant::now);
            if state.answers {
                state.slow = first.elapsed() > SLOW;
                state.greeting = false;
            }
        }
        state.open = state.open.saturating_sub(1);
        state.answers = true;
        state.answered = true;
        self.changed.notify_all();
    }

    /// Whether the terminal has not shown everything yet, as far as it says.
    pub fn behind(&self) -> bool {
        let state = self.lock();
        state.answers && state.open > 0 && !state.answered
    }

    /// A key has been pressed.
    pub fn key(&self) {
        self.lock().key = Some(Instant::now());
    }

    /// The line editor has stopped, or starts: what was shown last is not waited for.
    pub fn void(&self) {
        self.lock().void = true;
        self.changed.notify_all();
    }

    /// How many bytes the next piece should have, and what is asked behind it.
    pub fn next(&self) -> (usize, &'static str) {
        let mut state = self.lock();
        state.answered = false;
        state.void = false;
        // A terminal that says nothing is asked some times more, in case it was only late.
        let asks = state.heard && (state.answers || state.open < 4);
        state.open += usize::from(asks);
        let room = if state.answers || asks {
            state.line.room()
        } else {
            state.mute.room()
        };
        (room, if asks { QUESTION } else { "" })
    }

    /// Waits until the terminal has taken the piece.
    pub fn taken(&self, bytes: usize, asked: bool) {
        let start = Instant::now();
        let mut state = self.lock();
        if asked {
            let patience = if state.answers { PATIENCE } else { FIRST };
            let waits = |s: &mut State| !s.answered && !s.void;
            let waited = self.changed.wait_timeout_while(state, patience, waits);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        if state.void {
            return;
        }
        let took = start.elapsed();
        let idle = state.key.map_or(AWAY, |at| at.elapsed());
        if state.answers {
            if !asked || !state.answered {
                return;
            }
            state.line.took(bytes, took);
            state.slow = state.line.slow().unwrap_or(state.slow);
            if idle < TYPING && took > SLACK / 2 {
                // Half of a slow line is for what is typed.
                self.pause(state, took.min(SLACK * 3));
            }
            return;
        }
        let pause = state.mute.took(bytes + PROMPT, idle < AWAY, took, ready);
        self.pause(state, pause);
    }

    fn pause(&self, state: MutexGuard<'_, State>, time: Duration) {
        drop(self.changed.wait_timeout_while(state, time, |s| !s.void));
    }

    /// Waits until nothing is open any more, so that no answer reaches who reads the terminal next.
    pub fn quiet(&self) {
        let state = self.lock();
        let time = if state.answers { SLACK * 16 } else { Duration::ZERO };
        drop(self.changed.wait_timeout_while(state, time, |s| s.open > 0));
    }
}

/// Whether standard output takes more right now.
fn ready() -> bool {
    let out = std::io::stdout();
    let mut fds = [PollFd::new(out.as_fd(), PollFlags::POLLOUT)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|n| n > 0)
}

/// A terminal that answers.
#[derive(Default)]
struct Line {
    class: u32,
    /// What the quickest pieces took: the way there and back.
    base: Option<Duration>,
    /// Pieces of this class so far, and the best of them; one alone may have been late for other reasons.
    pieces: u32,
    best: Option<Duration>,
    hold: u32,
}

impl Line {
    fn room(&self) -> usize {
        LEAST << self.class
    }

    fn took(&mut self, bytes: usize, took: Duration) {
        self.hold = self.hold.saturating_sub(1);
        // The way can become longer; one piece that was late has not made it so.
        let longer = |base: Duration| {
            let more = took.saturating_sub(base) / 4;
            took.min(if self.class == 0 { base + more } else { base })
        };
        let base = self.base.map_or(took, longer);
        self.base = Some(base);
        self.pieces += 1;
        let best = self.best.map_or(took, |best| best.min(took));
        self.best = Some(best);
        if best <= base + SLACK {
            // The first may have come behind much else.
            let known = self.class > 0 || self.pieces > 2;
            if known && self.hold == 0 && self.class < TOP && bytes * 2 > self.room() {
                self.change(self.class + 1);
            }
        } else if self.pieces >= 2 && self.class > 0 {
            self.change(self.class - 1);
            self.hold = HOLD;
        }
        if self.pieces >= HOLD {
            (self.pieces, self.best) = (0, None);
        }
    }

    /// Whether it is slow, if pieces tell.
    fn slow(&self) -> Option<bool> {
        let (small, large) = (self.hold > 0 && self.class <= 1, self.class >= 4);
        (small || large).then_some(small)
    }

    fn change(&mut self, class: u32) {
        (self.class, self.pieces, self.best) = (class, 0, None);
    }
}

/// A terminal that does not answer.
struct Mute {
    /// Bytes a second, and the most that it turned out to take.
    rate: f64,
    most: Option<f64>,
    /// When the rate was last raised.
    raised: Instant,
    /// When it left [`QUIET`], and the bytes since then.
    since: Instant,
    bytes: usize,
}

impl Default for Mute {
    fn default() -> Self {
        let now = Instant::now();
        Self {
            rate: QUIET,
            most: None,
            raised: now,
            since: now,
            bytes: 0,
        }
    }
}

impl Mute {
    fn room(&self) -> usize {
        ((self.rate / 10.0) as usize).clamp(LEAST, LEAST << TOP)
    }

    /// How long to wait after a piece. While nobody is there, it tries how much the terminal takes, until that takes no more.
    fn took(&mut self, bytes: usize, typing: bool, took: Duration, ready: impl Fn() -> bool) -> Duration {
        self.bytes += bytes;
        let calm = self.most.map_or(QUIET, |most| most.min(QUIET));
        if typing {
            self.rate = calm;
            self.raised = Instant::now();
        } else if !ready() {
            // Its buffers are full: what has gone through is what it takes.
            let time = self.since.elapsed().as_secs_f64().max(0.1);
            let through = ((self.bytes as f64 - BUFFERS) / time).max(QUIET / 2.0);
            self.most = Some(through / 2.0);
            self.rate = through / 2.0;
            return Duration::from_secs_f64((BUFFERS / through).min(60.0));
        } else if self.raised.elapsed() > RAISE {
            if self.rate <= calm {
                (self.since, self.bytes) = (Instant::now(), 0);
            }
            let more = self.rate * 4.0;
            self.rate = self.most.map_or(more, |most| more.min(most)).min(4e6);
            self.raised = Instant::now();
        }
        Duration::from_secs_f64(bytes as f64 / self.rate).saturating_sub(took)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs pieces over a line of so many bytes a second with a way of this length, and returns the size they settle at.
    fn settled(rate: f64, way: Duration, jitter: Duration) -> usize {
        let mut line = Line::default();
        // When the first comes, the line has much to carry already.
        line.took(LEAST, way * 100);
        let mut sizes = Vec::new();
        for i in 0..400_u32 {
            let bytes = line.room();
            let late = if i % 3 == 0 { jitter } else { Duration::ZERO };
            line.took(bytes, way + late + Duration::from_secs_f64((bytes + PROMPT) as f64 / rate));
            sizes.push(bytes);
        }
        sizes.sort_unstable();
        sizes[sizes.len() / 2]
    }

    #[test]
    fn pieces_are_as_large_as_a_line_takes_at_once() {
        let (near, far) = (Duration::from_millis(1), Duration::from_millis(300));
        let none = Duration::ZERO;
        assert_eq!(settled(960.0, near, none), 64);
        assert_eq!(settled(11_520.0, near, none), 512);
        assert_eq!(settled(10e6, near, none), LEAST << TOP);
        // A long way is no slow line, and neither is one on which some pieces are late.
        assert_eq!(settled(10e6, far, none), LEAST << TOP);
        assert_eq!(settled(10e6, far, Duration::from_millis(200)), LEAST << TOP);
        assert_eq!(settled(960.0, far, none), 64);
    }

    #[test]
    fn a_way_that_becomes_longer_is_learnt() {
        let mut line = Line::default();
        for way in [5, 400].map(Duration::from_millis) {
            for _ in 0..400 {
                line.took(line.room(), way);
            }
            assert_eq!(line.room(), LEAST << TOP, "{way:?}");
        }
    }

    #[test]
    fn who_never_answers_gets_little_while_somebody_types() {
        let mut mute = Mute::default();
        for _ in 0..10 {
            let pause = mute.took(480, true, Duration::ZERO, || true);
            assert_eq!(pause, Duration::from_secs(1));
        }
        // Full: from then on half of what went through.
        mute.bytes = 1 << 20;
        mute.rate = 1e6;
        mute.since = Instant::now() - Duration::from_secs(10);
        mute.took(480, false, Duration::ZERO, || false);
        let most = mute.most.unwrap_or(0.0);
        assert!((45_000.0..55_000.0).contains(&most), "{most}");
        mute.raised = Instant::now() - RAISE * 2;
        mute.took(480, false, Duration::ZERO, || true);
        assert!((mute.rate - most).abs() < 1.0, "{} and {most}", mute.rate);
    }

    #[test]
    fn an_answer_ends_the_wait_and_so_does_an_editor_that_stops() {
        let pace = std::sync::Arc::new(Pace::default());
        assert_eq!(pace.next().1, "", "nobody would hear the answer");
        pace.listen();
        let asked = pace.next().1;
        assert!(asked == QUESTION && pace.asked());
        pace.answer();
        pace.taken(64, true);
        assert!(!pace.asked());
        let _ = pace.next();
        let theirs = std::sync::Arc::clone(&pace);
        let waits = std::thread::spawn(move || theirs.taken(64, true));
        let start = Instant::now();
        pace.void();
        waits.join().unwrap();
        assert!(start.elapsed() < PATIENCE / 2, "{:?}", start.elapsed());
    }
}
