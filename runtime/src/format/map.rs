//! Whole maps to text and JSON.

use super::value::{self, Spacing};
use super::{Context, hist, json, series};
use crate::maps::{Cell, Row, Snapshot};
use std::io::Write;
use weir_compiler::types::{MapValue, Type};

/// Divides as `print(@m, top, div)` asks; 0 as 1.
fn div(v: i128, by: u32) -> i128 {
    v / i128::from(by.max(1))
}

fn plain_div(ty: &Type, bytes: &[u8], by: u32) -> Option<i128> {
    match ty {
        Type::Int { signed, .. } if by > 1 => {
            let v = if *signed {
                i128::from(super::sint(bytes))
            } else {
                i128::from(super::uint(bytes))
            };
            Some(div(v, by))
        }
        _ => None,
    }
}

/// Appends a map as text: a line for each row; histograms with an empty line after each.
pub fn text(snapshot: &Snapshot, top: u32, by: u32, ctx: &Context, out: &mut Vec<u8>) {
    // All series of a map end with the newest, so that one that has ended shows it.
    let newest = snapshot.rows.iter().filter_map(|row| series::newest(&row.value)).max().unwrap_or(0);
    for row in snapshot.top(top) {
        out.extend_from_slice(snapshot.name.as_bytes());
        if let Some(key) = &snapshot.key {
            out.push(b'[');
            value::key_text(key, &row.key, ctx, Spacing::Spaced, out);
            out.push(b']');
        }
        out.push(b':');
        if let Cell::Hist(counts) = &row.value {
            out.push(b'\n');
            hist::text(&snapshot.value, counts, by, out);
        } else if let Cell::Series(points) = &row.value {
            out.push(b'\n');
            series::text(&snapshot.value, points, newest, by, ctx, out);
        } else {
            out.push(b' ');
            row_text(&snapshot.value, row, by, ctx, out);
        }
        out.push(b'\n');
    }
}

/// Appends the value of a row alone, as `print(@m[k])` and `printf("%d", @m[k])` show it.
fn row_text(kind: &MapValue, row: &Row, by: u32, ctx: &Context, out: &mut Vec<u8>) {
    let _ = match (&row.value, kind) {
        (Cell::Plain(bytes), MapValue::Plain(ty)) => match plain_div(ty, bytes, by) {
            Some(v) => write!(out, "{v}"),
            None => {
                value::text(ty, bytes, ctx, out);
                Ok(())
            }
        },
        (Cell::Int(v), _) => write!(out, "{}", div(*v, by)),
        (Cell::Stats { sum, count }, MapValue::Stats { .. }) => {
            let average = div(Cell::average(*sum, *count), by);
            write!(out, "{{ .count = {count}, .average = {average}, .total = {sum} }}")
        }
        (Cell::Stats { sum, count }, _) => write!(out, "{}", div(Cell::average(*sum, *count), by)),
        (Cell::Hist(counts), _) => {
            hist::text(kind, counts, by, out);
            Ok(())
        }
        (Cell::Series(points), _) => {
            series::text(kind, points, 0, by, ctx, out);
            Ok(())
        }
        (Cell::Plain(bytes), _) => out.write_all(bytes),
    };
}

/// Returns the `type` of a map in JSON.
#[must_use]
pub fn json_type(kind: &MapValue) -> &'static str {
    match kind {
        MapValue::Avg { .. } | MapValue::Stats { .. } => "stats",
        MapValue::Hist { .. } | MapValue::LHist { .. } => "hist",
        MapValue::TSeries { .. } => "tseries",
        _ => "map",
    }
}

/// Appends `{"@name": value}` or `{"@name": {"key": value, …}}`.
pub fn json(snapshot: &Snapshot, top: u32, by: u32, ctx: &Context, out: &mut Vec<u8>) {
    out.push(b'{');
    json::string(&snapshot.name, out);
    out.extend_from_slice(b": ");
    match &snapshot.key {
        None => match snapshot.top(top).first() {
            Some(row) => row_json(&snapshot.value, row, by, ctx, out),
            None => out.extend_from_slice(b"null"),
        },
        Some(key) => {
            out.push(b'{');
            for (i, row) in snapshot.top(top).iter().enumerate() {
                if i > 0 {
                    out.extend_from_slice(b", ");
                }
                json::key(key, &row.key, ctx, out);
                out.extend_from_slice(b": ");
                row_json(&snapshot.value, row, by, ctx, out);
            }
            out.push(b'}');
        }
    }
    out.push(b'}');
}

fn row_json(kind: &MapValue, row: &Row, by: u32, ctx: &Context, out: &mut Vec<u8>) {
    match (&row.value, kind) {
        (Cell::Plain(bytes), MapValue::Plain(ty)) => match plain_div(ty, bytes, by) {
            Some(v) => json::integer(v, out),
            None => json::value(ty, bytes, ctx, out),
        },
        (Cell::Int(v), _) => json::integer(div(*v, by), out),
        (Cell::Stats { sum, count }, MapValue::Stats { .. }) => {
            let _ = write!(out, "{{\"count\": {count}, \"average\": ");
            json::integer(div(Cell::average(*sum, *count), by), out);
            out.extend_from_slice(b", \"total\": ");
            json::integer(*sum, out);
            out.push(b'}');
        }
        (Cell::Stats { sum, count }, _) => json::integer(div(Cell::average(*sum, *count), by), out),
        (Cell::Hist(counts), _) => hist::json(kind, counts, by, out),
        (Cell::Series(points), _) => series::json(kind, points, by, ctx, out),
        (Cell::Plain(_), _) => out.extend_from_slice(b"null"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(s: &Snapshot, top: u32, by: u32) -> (String, String) {
        let ctx = Context::default();
        let (mut t, mut j) = (Vec::new(), Vec::new());
        text(s, top, by, &ctx, &mut t);
        json(s, top, by, &ctx, &mut j);
        (String::from_utf8(t).unwrap(), String::from_utf8(j).unwrap())
    }

    fn scalar(value: MapValue, cell: Cell) -> Snapshot {
        Snapshot {
            name: "@x".into(),
            key: None,
            value,
            rows: vec![Row { key: vec![], value: cell }],
        }
    }

    #[test]
    fn scalars() {
        let plain = scalar(MapValue::Plain(Type::I64), Cell::Plain(5i64.to_le_bytes().to_vec()));
        assert_eq!(show(&plain, 0, 0), ("@x: 5\n".into(), r#"{"@x": 5}"#.into()));
        let stats = scalar(MapValue::Stats { signed: true }, Cell::Stats { sum: 12, count: 2 });
        assert_eq!(
            show(&stats, 0, 0),
            (
                "@x: { .count = 2, .average = 6, .total = 12 }\n".into(),
                r#"{"@x": {"count": 2, "average": 6, "total": 12}}"#.into()
            )
        );
        let avg = scalar(MapValue::Avg { signed: true }, Cell::Stats { sum: 7, count: 2 });
        assert_eq!(show(&avg, 0, 0), ("@x: 3\n".into(), r#"{"@x": 3}"#.into()));
    }

    #[test]
    fn keys_lose_their_parentheses() {
        let key = Type::Tuple(vec![Type::Str { cap: 16 }, Type::I64]);
        let bytes = [&b"bpftrace\0\0\0\0\0\0\0\0"[..], &2i64.to_le_bytes()].concat();
        let s = Snapshot {
            name: "@complex".into(),
            key: Some(key),
            value: MapValue::Count,
            rows: vec![Row {
                key: bytes,
                value: Cell::Int(5),
            }],
        };
        assert_eq!(
            show(&s, 0, 0),
            ("@complex[bpftrace, 2]: 5\n".into(), r#"{"@complex": {"bpftrace,2": 5}}"#.into())
        );
    }

    #[test]
    fn top_and_div() {
        let row = |k: i64, v: i128| Row {
            key: k.to_le_bytes().to_vec(),
            value: Cell::Int(v),
        };
        let s = Snapshot {
            name: "@".into(),
            key: Some(Type::I64),
            value: MapValue::Count,
            rows: vec![row(1, 10), row(2, 25), row(3, 35)],
        };
        assert_eq!(show(&s, 2, 10), ("@[2]: 2\n@[3]: 3\n".into(), r#"{"@": {"2": 2, "3": 3}}"#.into()));
    }

    #[test]
    fn histograms_stand_under_their_name() {
        let mut counts = vec![0u64; 66];
        counts[3] = 1;
        let s = Snapshot {
            name: "@h".into(),
            key: Some(Type::I64),
            value: MapValue::Hist { bits: 0 },
            rows: vec![Row {
                key: 1i64.to_le_bytes().to_vec(),
                value: Cell::Hist(counts),
            }],
        };
        let (text, json) = show(&s, 0, 0);
        assert_eq!(text, format!("@h[1]:\n[2, 4)                 1 |{}|\n\n", "@".repeat(52)));
        assert_eq!(json, r#"{"@h": {"1": [{"min": 2, "max": 3, "count": 1}]}}"#);
        assert_eq!(json_type(&s.value), "hist");
    }

    #[test]
    fn an_empty_map_prints_nothing() {
        let s = Snapshot {
            name: "@m".into(),
            key: Some(Type::I64),
            value: MapValue::Count,
            rows: vec![],
        };
        assert_eq!(show(&s, 0, 0), (String::new(), r#"{"@m": {}}"#.into()));
    }
}
