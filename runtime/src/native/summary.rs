//! `print(@ALIAS)`: what a native has found out, on one screen.

use super::fit::{self, Column, Kind};
use crate::format::Context;
use crate::format::value::{self, Spacing};
use crate::maps::{Cell, Row, Snapshot};
use weir_compiler::types::{MapValue, Type};
use weir_stdlib::MapShape;

/// Rows of a table, unless the script says how many.
pub(crate) const TOP: u32 = 10;

/// So many counters are shown with their zeros.
const FEW: usize = 6;

/// So many columns of a table are always shown where there is room, its key included.
const FIRST: usize = 5;

/// Everything is that far from the left.
const INDENT: usize = 2;

/// Writes counters on a line, and tables with their most important rows first. `columns` are those of the screen, if it is one that has an
/// edge: there lines are made to fit.
#[must_use]
pub(crate) fn text(title: &str, maps: &[(MapShape, Snapshot)], top: u32, columns: Option<usize>, ctx: &Context) -> Vec<u8> {
    let top = if top == 0 { TOP } else { top };
    let mut out: String = title
        .lines()
        .map(|line| fit::wrapped(line.trim_start(), line.len() - line.trim_start().len(), columns))
        .collect();
    for (shape, snapshot) in maps {
        let short = snapshot.name.split_once('.').map_or(snapshot.name.as_str(), |(_, name)| name);
        match &snapshot.value {
            MapValue::Plain(Type::Record(_)) => {
                table(short, *shape, snapshot, top, columns, ctx, &mut out);
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
                out.push_str(&fit::wrapped(&format!("{short}: {}", parts.join(", ")), INDENT, columns));
            }
        }
    }
    out.into_bytes()
}

fn table(name: &str, shape: MapShape, snapshot: &Snapshot, top: u32, screen: Option<usize>, ctx: &Context, out: &mut String) {
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
    let key = keys(shape, snapshot, &shown, ctx);
    let mut values = values(snapshot, &shown, ctx);
    // Of the columns behind the first, those that say nothing of any row only make the lines too long for the screen.
    let mut index = 0;
    values.retain(|column| {
        index += 1;
        index < FIRST || column.cells.iter().any(|cell| !matches!(cell.as_str(), "0" | "-"))
    });
    let whole = Column {
        name: head.clone(),
        kind: Kind::Key,
        cells: (0..shown.len())
            .map(|row| key.iter().map(|part| part.cells[row].as_str()).collect::<Vec<_>>().join(", "))
            .collect(),
    };
    let columns: Vec<Column> = std::iter::once(whole).chain(values.iter().cloned()).collect();
    let Some(screen) = screen.filter(|screen| INDENT + fit::width(&columns) > *screen) else {
        return lines(&columns, out);
    };
    let spare = if let MapShape::Table { spare, .. } = shape { spare } else { &[] };
    let fitted = fit::fit(key.into_iter().chain(values).collect(), spare, screen.saturating_sub(INDENT));
    let mut caption = head;
    if !fitted.same.is_empty() {
        caption.push_str(&format!("; the same in all: {}", fitted.same.join(", ")));
    }
    if !fitted.left_out.is_empty() {
        caption.push_str(&format!("; no room for: {}", fitted.left_out.join(", ")));
    }
    out.push_str(&fit::wrapped(&caption, INDENT, Some(screen)));
    lines(&fitted.columns, out);
}

fn lines(columns: &[Column], out: &mut String) {
    let rows = columns.first().map_or(0, |c| c.cells.len());
    let widths: Vec<usize> = columns.iter().map(|c| fit::width(std::slice::from_ref(c))).collect();
    for row in std::iter::once(None).chain((0..rows).map(Some)) {
        for (i, (column, width)) in columns.iter().zip(&widths).enumerate() {
            let cell = row.map_or(&column.name, |row| &column.cells[row]);
            let padding = " ".repeat(width - cell.chars().count());
            out.push_str("  ");
            match column.kind {
                // Nothing is behind it that would have to stand in a line.
                Kind::Key if i + 1 == columns.len() => out.push_str(cell),
                Kind::Key => out.push_str(&format!("{cell}{padding}")),
                Kind::Text | Kind::Number => out.push_str(&format!("{padding}{cell}")),
            }
        }
        out.push('\n');
    }
}

/// The parts of the keys.
fn keys(shape: MapShape, snapshot: &Snapshot, rows: &[&Row], ctx: &Context) -> Vec<Column> {
    let Some(ty) = &snapshot.key else { return Vec::new() };
    let parts: Vec<(&Type, u32)> = match ty {
        Type::Tuple(_) => ty.fields().into_iter().zip(ty.field_offsets()).collect(),
        _ => vec![(ty, 0)],
    };
    let column = |((ty, offset), name): ((&Type, u32), &str)| Column {
        name: name.to_owned(),
        kind: Kind::Key,
        cells: rows
            .iter()
            .map(|row| {
                let at = offset as usize;
                let mut text = Vec::new();
                let bytes = row.key.get(at..at + ty.size() as usize).unwrap_or(&row.key);
                value::key_text(ty, bytes, ctx, Spacing::Spaced, &mut text);
                String::from_utf8_lossy(&text).into_owned()
            })
            .collect(),
    };
    parts.into_iter().zip(shape.key_names()).map(column).collect()
}

fn values(snapshot: &Snapshot, rows: &[&Row], ctx: &Context) -> Vec<Column> {
    let MapValue::Plain(record @ Type::Record(fields)) = &snapshot.value else {
        return Vec::new();
    };
    let column = |((name, ty), offset): (&(String, Type), u32)| Column {
        name: name.clone(),
        kind: if matches!(ty, Type::Int { .. }) { Kind::Number } else { Kind::Text },
        cells: rows
            .iter()
            .map(|row| {
                let mut text = Vec::new();
                let at = offset as usize;
                let bytes = if let Cell::Plain(bytes) = &row.value {
                    bytes.as_slice()
                } else {
                    &[]
                };
                value::text(ty, bytes.get(at..at + ty.size() as usize).unwrap_or(&[]), ctx, &mut text);
                String::from_utf8_lossy(&text).into_owned()
            })
            .collect(),
    };
    fields.iter().zip(record.field_offsets()).map(column).collect()
}

#[cfg(test)]
mod tests {
    use super::super::engine::{Value, snapshot, text_bytes};
    use super::*;
    use weir_stdlib::{Column, KeyShape, MapShape};

    const SHAPE: MapShape = MapShape::Table {
        key: KeyShape::Text("process"),
        spare: &[],
        columns: &[Column::count("sent"), Column::text("ratio")],
    };

    const WIDE: MapShape = MapShape::Table {
        key: KeyShape::Text("process"),
        spare: &["a"],
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
        let table = [(SHAPE, table)];
        let text = |top| String::from_utf8(super::text("@rt: x", &table, top, None, &Context::default())).unwrap();
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
            super::text("@rt: x", &[(WIDE, wide)], 0, None, &Context::default()),
            b"@rt: x\n  processes  a  b  c  d  loud  shy\n  y          0  0  0  0     5    0\n  x          0  0  0  0     0    3\n"
        );
        let none = snapshot("@rt.processes".to_owned(), SHAPE, Vec::new());
        let text = super::text("@rt: x", &[(SHAPE, none)], 0, None, &Context::default());
        assert_eq!(text, b"@rt: x\n  processes: none\n");
    }

    #[test]
    fn a_narrow_screen_has_what_fits_and_is_told_the_rest() {
        let row = |name: &str, counts: [u64; 7]| (text_bytes(name), counts.map(Value::Count).to_vec());
        let rows = vec![row("x", [10, 0, 0, 4, 0, 0, 3]), row("a-very-long-name", [7, 0, 0, 5, 0, 5, 0])];
        let map = [(WIDE, snapshot("@rt.processes".to_owned(), WIDE, rows))];
        let text = |columns| String::from_utf8(super::text("@rt: x\n  and more of it", &map, 0, columns, &Context::default())).unwrap();
        let whole = "@rt: x\n  and more of it\n  processes          a  b  c  d  loud  shy\n  a-very-long-name   7  0  0  5     5    0\n  \
                     x                 10  0  0  4     0    3\n";
        assert_eq!((text(None).as_str(), text(Some(42)).as_str()), (whole, whole));
        assert_eq!(
            text(Some(41)),
            "@rt: x\n  and more of it\n  processes; the same in all: c 0\n  process            a  b  d  loud  shy\n  \
             a-very-long-name   7  0  5     5    0\n  x                 10  0  4     0    3\n"
        );
        assert_eq!(
            text(Some(28)),
            "@rt: x\n  and more of it\n  processes; the same in\n    all: b 0, c 0; no room\n    for: a\n  process       d  loud  shy\n  \
             a-very…-name  5     5    0\n  x             4     0    3\n"
        );
    }

    /// What a narrow screen goes without is there, once, and not what tells rows apart.
    #[test]
    fn spare_columns_are_columns() {
        for map in weir_stdlib::NATIVES.iter().flat_map(|native| native.maps) {
            let MapShape::Table { columns, spare, .. } = map.shape else {
                continue;
            };
            let names: Vec<&str> = map
                .shape
                .key_names()
                .into_iter()
                .skip(1)
                .chain(columns.iter().map(|c| c.name))
                .collect();
            for (i, name) in spare.iter().enumerate() {
                assert!(names.contains(name) && !spare[..i].contains(name), "{}: {name}", map.name);
            }
        }
    }
}
