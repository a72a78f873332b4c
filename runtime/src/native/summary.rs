//! `print(@ALIAS)`: what a native has found out, on one screen.

use crate::format::Context;
use crate::format::value::{self, Spacing};
use crate::maps::{Cell, Row, Snapshot};
use weir_compiler::types::{MapValue, Type};

/// Rows of a table, unless the script says how many.
pub(crate) const TOP: u32 = 10;

/// So many counters are shown with their zeros.
const FEW: usize = 6;

/// So many columns of a table are always shown, its key included.
const FIRST: usize = 5;

/// Writes counters on a line, and tables with their most important rows first.
#[must_use]
pub(crate) fn text(title: String, snapshots: &[Snapshot], top: u32, ctx: &Context) -> Vec<u8> {
    let top = if top == 0 { TOP } else { top };
    let mut out = title;
    out.push('\n');
    for snapshot in snapshots {
        let short = snapshot.name.split_once('.').map_or(snapshot.name.as_str(), |(_, name)| name);
        match &snapshot.value {
            MapValue::Plain(Type::Record(fields)) => {
                let names: Vec<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
                table(short, snapshot, &names, top, ctx, &mut out);
            }
            _ => {
                let parts = snapshot.rows.iter().map(|row| {
                    let name = String::from_utf8_lossy(&row.key);
                    let number = match row.value {
                        Cell::Int(n) => n.to_string(),
                        _ => String::new(),
                    };
                    format!("{} {number}", name.trim_end_matches('\0'))
                });
                let parts: Vec<String> = parts.collect();
                // Of many counters most have nothing to say.
                let parts: Vec<String> = if parts.len() > FEW {
                    parts.into_iter().filter(|part| !part.ends_with(" 0")).collect()
                } else {
                    parts
                };
                let parts = if parts.is_empty() { vec!["nothing yet".to_owned()] } else { parts };
                out.push_str(&format!("  {short}: {}\n", parts.join(", ")));
            }
        }
    }
    out.into_bytes()
}

fn table(name: &str, snapshot: &Snapshot, columns: &[&str], top: u32, ctx: &Context, out: &mut String) {
    if snapshot.rows.is_empty() {
        out.push_str(&format!("  {name}: none\n"));
        return;
    }
    let shown: Vec<&Row> = snapshot.top(top).iter().rev().collect();
    let all = snapshot.rows.len();
    let head = if shown.len() < all {
        format!("{name} (first {} of {all})", shown.len())
    } else {
        name.to_owned()
    };
    let mut lines: Vec<Vec<String>> = vec![std::iter::once(head).chain(columns.iter().map(|c| (*c).to_owned())).collect()];
    lines.extend(shown.iter().map(|row| cells(snapshot, row, ctx)));
    // Of the columns behind the first, those that say nothing of any row only make the lines too long for the screen.
    let is_quiet = |column: usize| lines.iter().skip(1).all(|line| matches!(line[column].as_str(), "0" | "-"));
    let told: Vec<bool> = (0..=columns.len()).map(|column| column < FIRST || !is_quiet(column)).collect();
    for line in &mut lines {
        let mut told = told.iter();
        line.retain(|_| told.next().copied().unwrap_or(true));
    }
    let width = |column: usize| {
        lines
            .iter()
            .map(|l| l.get(column).map_or(0, |c| c.chars().count()))
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..lines[0].len()).map(width).collect();
    for line in &lines {
        out.push_str("  ");
        for (i, (cell, width)) in line.iter().zip(&widths).enumerate() {
            // The key stands at the left, numbers at the right.
            let padding = " ".repeat(width - cell.chars().count());
            if i == 0 {
                out.push_str(&format!("{cell}{padding}"));
            } else {
                out.push_str(&format!("  {padding}{cell}"));
            }
        }
        out.push('\n');
    }
}

fn cells(snapshot: &Snapshot, row: &Row, ctx: &Context) -> Vec<String> {
    let mut key = Vec::new();
    if let Some(ty) = &snapshot.key {
        value::key_text(ty, &row.key, ctx, Spacing::Spaced, &mut key);
    }
    let mut cells = vec![String::from_utf8_lossy(&key).into_owned()];
    if let (MapValue::Plain(record), Cell::Plain(bytes)) = (&snapshot.value, &row.value) {
        for (ty, offset) in record.fields().into_iter().zip(record.field_offsets()) {
            let mut text = Vec::new();
            let at = offset as usize;
            value::text(ty, bytes.get(at..at + ty.size() as usize).unwrap_or(&[]), ctx, &mut text);
            cells.push(String::from_utf8_lossy(&text).into_owned());
        }
    }
    cells
}

#[cfg(test)]
mod tests {
    use super::super::engine::{Value, snapshot, text_bytes};
    use super::*;
    use weir_stdlib::{Column, KeyShape, MapShape};

    const SHAPE: MapShape = MapShape::Table {
        key: KeyShape::Text("process"),
        columns: &[Column::count("sent"), Column::text("ratio")],
    };

    const WIDE: MapShape = MapShape::Table {
        key: KeyShape::Text("process"),
        columns: &[
            Column::count("a"),
            Column::count("b"),
            Column::count("c"),
            Column::count("d"),
            Column::count("quiet"),
            Column::count("loud"),
            Column::count("shy"),
        ],
    };

    #[test]
    fn the_most_important_row_is_first_and_columns_line_up() {
        let rows = [("curl", 7, "0%"), ("nginx", 1234, "5.00%")];
        let rows = rows.map(|(name, n, ratio)| (text_bytes(name), vec![Value::Count(n), Value::Text(ratio.to_owned())]));
        let table = snapshot("@rt.processes".to_owned(), SHAPE, rows.to_vec());
        let text = |top| {
            String::from_utf8(super::text(
                "@rt: x".to_owned(),
                std::slice::from_ref(&table),
                top,
                &Context::default(),
            ))
            .unwrap()
        };
        assert_eq!(
            text(0),
            "@rt: x\n  processes  sent  ratio\n  nginx      1234  5.00%\n  curl          7     0%\n"
        );
        assert_eq!(
            text(1),
            "@rt: x\n  processes (first 1 of 2)  sent  ratio\n  nginx                     1234  5.00%\n"
        );
        let row = |name: &str, counts: [u64; 7]| (text_bytes(name), counts.map(Value::Count).to_vec());
        let rows = vec![row("x", [0, 0, 0, 0, 0, 0, 3]), row("y", [0, 0, 0, 0, 0, 5, 0])];
        let wide = snapshot("@rt.processes".to_owned(), WIDE, rows);
        assert_eq!(
            super::text("@rt: x".to_owned(), &[wide], 0, &Context::default()),
            b"@rt: x\n  processes  a  b  c  d  loud  shy\n  y          0  0  0  0     5    0\n  x          0  0  0  0     0    3\n"
        );
        let none = snapshot("@rt.processes".to_owned(), SHAPE, Vec::new());
        let text = super::text("@rt: x".to_owned(), &[none], 0, &Context::default());
        assert_eq!(text, b"@rt: x\n  processes: none\n");
    }
}
