//! Aligned text: columns as wide as they must be, headings, colours on a terminal.

use std::fmt::Write;

/// Escape sequences, or nothing.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    colour: bool,
}

impl Style {
    /// In colour when standard output is a terminal and `NO_COLOR` is not set.
    pub fn for_stdout() -> Self {
        let is_terminal = nix::unistd::isatty(std::io::stdout()).unwrap_or(false);
        let forbidden = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        Self {
            colour: is_terminal && !forbidden,
        }
    }

    #[cfg(test)]
    pub fn plain() -> Self {
        Self { colour: false }
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    pub fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    pub fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    pub fn warn(self, text: &str) -> String {
        self.paint("1;33", text)
    }
}

/// Rows of cells with lines of text between them.
#[derive(Debug)]
pub struct Table {
    style: Style,
    head: Vec<&'static str>,
    /// Columns that are right-aligned.
    right: &'static [&'static str],
    lines: Vec<Line>,
    indent: usize,
}

#[derive(Debug)]
enum Line {
    Text(String),
    Row(Vec<String>),
}

impl Table {
    pub fn new(style: Style, head: Vec<&'static str>, right: &'static [&'static str], indent: usize) -> Self {
        Self {
            style,
            head,
            right,
            lines: Vec::new(),
            indent,
        }
    }

    pub fn text(&mut self, line: impl Into<String>) {
        self.lines.push(Line::Text(line.into()));
    }

    pub fn row(&mut self, cells: Vec<String>) {
        self.lines.push(Line::Row(cells));
    }

    pub fn has_rows(&self) -> bool {
        self.lines.iter().any(|l| matches!(l, Line::Row(_)))
    }

    /// Writes it out. Columns where no row has anything are left out.
    pub fn render(&self) -> String {
        let rows = || {
            self.lines
                .iter()
                .filter_map(|l| if let Line::Row(cells) = l { Some(cells) } else { None })
        };
        let width = |i: usize| rows().filter_map(|r| r.get(i)).map(|c| c.chars().count()).max().unwrap_or(0);
        let used: Vec<(usize, usize)> = (0..self.head.len())
            .filter(|i| width(*i) > 0)
            .map(|i| (i, width(i).max(self.head[i].chars().count())))
            .collect();
        let line = |cells: &dyn Fn(usize) -> String| {
            let mut text = " ".repeat(self.indent);
            for (n, (i, width)) in used.iter().enumerate() {
                if n > 0 {
                    text.push_str("  ");
                }
                let cell = cells(*i);
                let pad = " ".repeat(width.saturating_sub(cell.chars().count()));
                if self.right.contains(&self.head[*i]) {
                    text += &pad;
                    text += &cell;
                } else {
                    text += &cell;
                    text += &pad;
                }
            }
            text.trim_end().to_owned()
        };
        let mut out = String::new();
        if !used.is_empty() {
            // Writing to a `String` cannot fail.
            let _ = writeln!(out, "{}", self.style.dim(&line(&|i| self.head[i].to_owned())));
        }
        for entry in &self.lines {
            let _ = match entry {
                Line::Text(text) => writeln!(out, "{text}"),
                Line::Row(cells) => writeln!(out, "{}", line(&|i| cells.get(i).cloned().unwrap_or_default())),
            };
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_empty_ones_left_out() {
        let mut table = Table::new(Style::plain(), vec!["A", "N", "EMPTY", "B"], &["N"], 2);
        table.text("group");
        table.row(vec!["long".into(), "1".into(), String::new(), "x".into()]);
        table.row(vec!["s".into(), "100".into(), String::new(), "y".into()]);
        assert_eq!(table.render(), "  A       N  B\ngroup\n  long    1  x\n  s     100  y\n");
    }
}
