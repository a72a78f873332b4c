//! `:watch @m`: a map in full screen, redrawn in place, with what changed since the last look and how it went before that.

use crate::repl::maps::Workspace;
use crate::repl::pace::Pace;
use crate::repl::tty;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use std::collections::HashMap;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};
use weir_compiler::types::Type;
use weir_runtime::format::value::{self, Spacing};
use weir_runtime::format::{Context, sint, uint};
use weir_runtime::maps::{Cell, Row, Snapshot};

const PERIOD: Duration = Duration::from_secs(1);
/// How often it is looked whether a slow line has shown everything, and how long that is waited for.
const BEHIND: Duration = Duration::from_millis(50);
const LATEST: Duration = Duration::from_secs(10);
/// Looks that a sparkline remembers.
const HISTORY: usize = 24;
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// The terminal while a view is on: raw, on the other screen. Dropping it puts everything back.
struct View {
    old: Termios,
}

impl View {
    fn enter() -> io::Result<Self> {
        let stdin = io::stdin();
        tty::typing(true);
        let old = tcgetattr(stdin.as_fd())?;
        let mut raw = old.clone();
        cfmakeraw(&mut raw);
        tcsetattr(stdin.as_fd(), SetArg::TCSANOW, &raw)?;
        write_out("\x1b[?1049h\x1b[?25l")?;
        Ok(Self { old })
    }
}

impl Drop for View {
    fn drop(&mut self) {
        let _ = write_out("\x1b[?25h\x1b[?1049l");
        let _ = tcsetattr(io::stdin().as_fd(), SetArg::TCSANOW, &self.old);
        tty::typing(false);
    }
}

fn write_out(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Shows the map until a key is pressed. `read` gives its content.
///
/// # Errors
/// When there is no terminal, or the map can no longer be read.
pub fn watch(name: &str, workspace: &Workspace, pace: Option<&Pace>, read: impl Fn() -> Result<Snapshot, String>) -> Result<(), String> {
    let view = View::enter().map_err(|e| format!("a view needs a terminal: {e}"))?;
    let mut history = History::default();
    let ctx = workspace.context();
    loop {
        let snapshot = read()?;
        let (rows, columns) = size();
        history.take_in(&snapshot);
        let lines = draw(name, &snapshot, &history, &ctx, rows, columns);
        let mut text = String::from("\x1b[H");
        for line in lines {
            text.push_str(&line);
            text.push_str("\x1b[K\r\n");
        }
        text.push_str("\x1b[J");
        text.push_str(pace.map_or("", |pace| pace.next().1));
        write_out(&text).map_err(|e| e.to_string())?;
        let drawn = Instant::now();
        // A slow line has not shown one picture when the next is due.
        let behind = || pace.is_some_and(Pace::behind) && drawn.elapsed() < LATEST;
        while drawn.elapsed() < PERIOD || behind() {
            match key_within(PERIOD.saturating_sub(drawn.elapsed()).max(BEHIND)) {
                Some(true) => {
                    drop(view);
                    return Ok(());
                }
                Some(false) => {}
                // The terminal was resized.
                None => break,
            }
        }
    }
}

/// Waits for a key; whatever was typed is taken away. Nothing after a signal.
fn key_within(time: Duration) -> Option<bool> {
    let stdin = io::stdin();
    let mut fds = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
    let key = poll(&mut fds, PollTimeout::try_from(time).unwrap_or(PollTimeout::ZERO)).ok()? > 0;
    if key {
        // Past the buffer of `Stdin`, which would keep for later what does not fit.
        let _ = nix::unistd::read(stdin.as_fd(), &mut [0; 64]);
    }
    Some(key)
}

fn size() -> (usize, usize) {
    weir_runtime::sys::terminal::size(io::stdout().as_fd()).unwrap_or((24, 80))
}

/// What the last looks have seen, by key.
#[derive(Default)]
struct History(HashMap<Vec<u8>, Vec<i128>>);

impl History {
    fn take_in(&mut self, snapshot: &Snapshot) {
        for row in &snapshot.rows {
            let seen = self.0.entry(row.key.clone()).or_default();
            seen.push(number(snapshot, row));
            if seen.len() > HISTORY + 1 {
                seen.remove(0);
            }
        }
        // What is gone from the map is forgotten.
        self.0.retain(|key, _| snapshot.rows.iter().any(|r| r.key == *key));
    }

    fn delta(&self, key: &[u8]) -> i128 {
        match self.0.get(key).map(Vec::as_slice) {
            Some([.., before, now]) => now - before,
            _ => 0,
        }
    }

    /// Changes from look to look, as bars.
    fn spark(&self, key: &[u8]) -> String {
        let seen = self.0.get(key).map_or(&[][..], Vec::as_slice);
        let deltas: Vec<i128> = seen.windows(2).map(|w| (w[1] - w[0]).max(0)).collect();
        let most = deltas.iter().copied().max().unwrap_or(0).max(1);
        deltas.iter().map(|d| BARS[usize::try_from(d * 7 / most).unwrap_or(0)]).collect()
    }
}

/// The number that stands for a row.
fn number(snapshot: &Snapshot, row: &Row) -> i128 {
    match &row.value {
        Cell::Int(n) => *n,
        Cell::Stats { count, .. } => i128::from(*count),
        Cell::Series(points) => points.last().map_or(0, |p| p.value),
        Cell::Hist(counts) => counts.iter().map(|c| i128::from(*c)).sum(),
        Cell::Plain(bytes) => match &snapshot.value {
            weir_compiler::types::MapValue::Plain(Type::Int { signed: false, .. }) => i128::from(uint(bytes)),
            weir_compiler::types::MapValue::Plain(Type::Int { .. }) => i128::from(sint(bytes)),
            _ => 0,
        },
    }
}

fn draw(name: &str, snapshot: &Snapshot, history: &History, ctx: &Context, rows: usize, columns: usize) -> Vec<String> {
    let total: i128 = snapshot.rows.iter().map(|r| history.delta(&r.key)).sum();
    let mut lines = vec![
        cut(
            &format!(
                "{name}   {} entries   {total:+} in the last second   any key returns",
                snapshot.rows.len()
            ),
            columns,
        ),
        String::new(),
    ];
    let room = rows.saturating_sub(4);
    // The largest first: the bottom of what is sorted ascending.
    let shown: Vec<&Row> = snapshot.rows.iter().rev().take(room).collect();
    let texts: Vec<(String, String, String)> = shown.iter().map(|row| cells(snapshot, row, history, ctx)).collect();
    let width =
        |i: fn(&(String, String, String)) -> &String, most: usize| texts.iter().map(|t| i(t).chars().count()).max().unwrap_or(0).min(most);
    let key_width = width(|t| &t.0, columns / 2);
    let value_width = width(|t| &t.1, 30);
    let delta_width = width(|t| &t.2, 12);
    for (row, (key, value, delta)) in shown.iter().zip(&texts) {
        let key = cut(key, key_width);
        let line = format!(
            "{key:key_width$}  {value:>value_width$}  {delta:>delta_width$}  {}",
            history.spark(&row.key)
        );
        lines.push(cut(&line, columns));
    }
    if snapshot.rows.len() > shown.len() {
        lines.push(cut(&format!("… and {} more", snapshot.rows.len() - shown.len()), columns));
    }
    if snapshot.rows.is_empty() {
        lines.push("(empty)".to_owned());
    }
    lines
}

fn cells(snapshot: &Snapshot, row: &Row, history: &History, ctx: &Context) -> (String, String, String) {
    let mut key = Vec::new();
    if let Some(ty) = &snapshot.key {
        value::key_text(ty, &row.key, ctx, Spacing::Spaced, &mut key);
    }
    let key = String::from_utf8_lossy(&key).replace(['\n', '\r', '\x1b'], " ");
    let shown = match (&row.value, &snapshot.value) {
        (Cell::Plain(bytes), weir_compiler::types::MapValue::Plain(ty)) => {
            let mut out = Vec::new();
            value::text(ty, bytes, ctx, &mut out);
            String::from_utf8_lossy(&out).replace(['\n', '\r', '\x1b'], " ")
        }
        (Cell::Stats { sum, count }, _) => format!("avg {} of {count}", Cell::average(*sum, *count)),
        _ => number(snapshot, row).to_string(),
    };
    let delta = history.delta(&row.key);
    let delta = if delta == 0 { String::new() } else { format!("{delta:+}") };
    (key, shown, delta)
}

/// At most so many characters; what is cut ends in `…`.
fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(most.saturating_sub(1)).collect();
    short.push('…');
    short
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_compiler::types::MapValue;

    fn snapshot(rows: &[(u8, i128)]) -> Snapshot {
        let rows = rows.iter().map(|(k, v)| Row {
            key: u64::from(*k).to_le_bytes().to_vec(),
            value: Cell::Int(*v),
        });
        Snapshot {
            name: "@x".into(),
            key: Some(Type::U64),
            value: MapValue::Count,
            rows: rows.collect(),
        }
    }

    #[test]
    fn a_view_shows_the_largest_with_changes_and_history() {
        let mut history = History::default();
        history.take_in(&snapshot(&[(1, 5), (2, 10)]));
        history.take_in(&snapshot(&[(1, 5), (2, 14)]));
        let last = snapshot(&[(1, 6), (2, 22)]);
        history.take_in(&last);
        let lines = draw("@x", &last, &history, &Context::default(), 24, 80);
        assert_eq!(lines[0], "@x   2 entries   +9 in the last second   any key returns");
        assert_eq!(lines[2], "2  22  +8  ▄█");
        assert_eq!(lines[3], "1   6  +1  ▁█");
    }

    #[test]
    fn a_small_terminal_says_how_much_it_does_not_show() {
        let rows: Vec<(u8, i128)> = (0..30).map(|i| (i, i128::from(i))).collect();
        let lines = draw("@x", &snapshot(&rows), &History::default(), &Context::default(), 10, 12);
        assert!(lines.iter().all(|l| l.chars().count() <= 12), "{lines:?}");
        assert_eq!(lines.last().map(String::as_str), Some("… and 24 mo…"));
    }
}
