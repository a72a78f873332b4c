//! Series over time: a line for each interval, its value as a place between the least and the greatest.

use super::{Context, json, time};
use crate::maps::{Cell, Point};
use std::io::Write;
use weir_compiler::types::MapValue;

/// Columns between the two edges.
const WIDTH: i128 = 51;
const SECOND: u64 = 1_000_000_000;

/// How times are shown: their column's head, and how many digits behind the second.
fn columns(interval: u64) -> (&'static str, usize) {
    match interval {
        // As bpftrace has it.
        i if i % SECOND == 0 => ("hh:mm:ss.ns", 9),
        i if i % 1_000_000 == 0 => ("hh:mm:ss.ms", 3),
        i if i % 1000 == 0 => ("hh:mm:ss.us", 6),
        _ => ("hh:mm:ss.ns", 9),
    }
}

/// When an interval began, in nanoseconds since 1970.
fn start(epoch: u64, interval: u64, ctx: &Context) -> i128 {
    i128::from(epoch) * i128::from(interval) + ctx.symbols.tai_offset()
}

/// The number of the last interval of a series.
pub fn newest(cell: &Cell) -> Option<u64> {
    match cell {
        Cell::Series(points) => points.last().map(|p| p.epoch),
        _ => None,
    }
}

/// Appends the lines of a series, each with its line break, up to the interval `newest`. Values are divided by `div` (0 as 1).
pub fn text(kind: &MapValue, points: &[Point], newest: u64, div: u32, ctx: &Context, out: &mut Vec<u8>) {
    let (MapValue::TSeries { interval, .. }, Some(first), Some(last)) = (kind, points.first(), points.last()) else {
        return;
    };
    let value = |p: &Point| p.value / i128::from(div.max(1));
    let values = points.iter().map(value);
    let (mut min, mut max) = values.fold((i128::MAX, i128::MIN), |(min, max), v| (min.min(v), max.max(v)));
    if min == max {
        (min, max) = (min - 1, max + 1);
    }
    let place = |v: i128| usize::try_from((v - min) * (WIDTH + 1) / (max - min)).unwrap_or(0);
    let (head, digits) = columns(*interval);
    let indent = 10 + digits;
    let width = WIDTH as usize;
    let scale = |out: &mut Vec<u8>| {
        let (min, max) = (min.to_string(), max.to_string());
        let room = (width + 2).saturating_sub(min.len());
        let _ = writeln!(out, "{:indent$}{min}{max:>room$}", "");
    };
    scale(out);
    let _ = writeln!(out, "{head:indent$}|{:_<width$}|", "");
    for epoch in first.epoch..=last.epoch.max(newest) {
        let at = start(epoch, *interval, ctx);
        let mut line = vec![b' '; width + 2];
        (line[0], line[width + 1]) = (b'|', b'|');
        if min < 0 && max > 0 {
            line[place(0)] = b'.';
        }
        let point = points.iter().find(|p| p.epoch == epoch).map(value);
        if let Some(v) = point {
            line[place(v)] = b'*';
        }
        out.extend_from_slice(&time::strftime("%H:%M:%S", at));
        let fraction = format!("{:09}", at.rem_euclid(i128::from(SECOND)));
        let _ = write!(out, ".{} ", &fraction[..digits]);
        out.extend_from_slice(&line);
        let _ = match point {
            Some(v) => writeln!(out, " {v}"),
            None => writeln!(out, " -"),
        };
    }
    let _ = writeln!(out, "{:indent$}v{:_<width$}v", "", "");
    scale(out);
}

/// Appends the JSON array of a series: its intervals that have a value.
pub fn json(kind: &MapValue, points: &[Point], div: u32, ctx: &Context, out: &mut Vec<u8>) {
    let MapValue::TSeries { interval, .. } = kind else { return };
    out.push(b'[');
    for (i, point) in points.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        let at = start(point.epoch, *interval, ctx);
        out.extend_from_slice(b"{\"interval_start\":\"");
        out.extend_from_slice(&time::strftime("%Y-%m-%d %H:%M:%S", at));
        let _ = write!(out, ".{:09}\",\"value\":", at.rem_euclid(i128::from(SECOND)));
        json::integer(point.value / i128::from(div.max(1)), out);
        out.push(b'}');
    }
    out.push(b']');
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_compiler::types::Series;

    fn show(interval: u64, points: &[(u64, i128)], newest: u64) -> (Vec<String>, String) {
        let kind = MapValue::TSeries {
            interval,
            count: 10,
            series: Series::Last,
            signed: true,
        };
        let points: Vec<Point> = points.iter().map(|&(epoch, value)| Point { epoch, value }).collect();
        let ctx = Context::default();
        let (mut t, mut j) = (Vec::new(), Vec::new());
        text(&kind, &points, newest, 0, &ctx, &mut t);
        json(&kind, &points, 0, &ctx, &mut j);
        let lines = String::from_utf8(t).unwrap().lines().map(str::to_owned).collect();
        (lines, String::from_utf8(j).unwrap())
    }

    /// Without the hour, which is the time zone's, and what is behind the second.
    fn bare(line: &str) -> &str {
        &line[line.find(['|', '*']).unwrap()..]
    }

    #[test]
    fn values_stand_between_the_least_and_the_greatest() {
        let (lines, json) = show(100_000_000, &[(1, -5), (2, 0), (3, 4), (5, 5)], 6);
        assert_eq!(lines[0], format!("{:13}-5{:51}", "", 5).replace("-5 ", "-5 "));
        assert_eq!(lines[1], format!("hh:mm:ss.ms  |{}|", "_".repeat(51)));
        assert_eq!(bare(&lines[2]), format!("*{:25}.{:25}| -5", "", ""));
        assert_eq!(bare(&lines[3]), format!("|{:25}*{:25}| 0", "", ""));
        assert_eq!(bare(&lines[4]), format!("|{:25}.{:19}*{:5}| 4", "", "", ""));
        assert_eq!(bare(&lines[5]), format!("|{:25}.{:25}| -", "", ""));
        assert_eq!(bare(&lines[6]), format!("|{:25}.{:25}* 5", "", ""));
        assert_eq!(bare(&lines[7]), format!("|{:25}.{:25}| -", "", ""));
        assert_eq!(lines[8], format!("{:13}v{}v", "", "_".repeat(51)));
        assert_eq!(lines[9], lines[0]);
        assert_eq!(json.matches("interval_start").count(), 4);
        assert!(
            json.starts_with("[{\"interval_start\":\"") && json.contains(".100000000\",\"value\":-5},{"),
            "{json}"
        );
    }

    #[test]
    fn times_have_the_digits_that_the_interval_needs() {
        for (interval, head, at) in [
            (SECOND, "hh:mm:ss.ns ", 19),
            (1_000_000, "hh:mm:ss.ms ", 13),
            (5000, "hh:mm:ss.us ", 16),
            (7, "hh:mm:ss.ns ", 19),
        ] {
            let (lines, _) = show(interval, &[(3, 7)], 0);
            assert!(lines[1].starts_with(head), "{lines:?}");
            assert_eq!(lines[1].find('|'), Some(at));
            assert_eq!(lines[2].find('|'), Some(at));
            // One value alone stands in the middle.
            assert_eq!(lines[2].find('*'), Some(at + 26));
            assert!(lines[0].contains('6') && lines[0].ends_with('8'));
        }
        assert_eq!(show(SECOND, &[], 5), (vec![], "[]".to_owned()));
    }
}
