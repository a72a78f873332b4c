//! Histograms: buckets to labels, bars and JSON ranges.

use std::io::Write;
use weir_compiler::types::MapValue;

const BAR_WIDTH: usize = 52;

/// One bucket: `low <= value < high`; an open end is `None`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    pub low: Option<i128>,
    pub high: Option<i128>,
    pub count: u64,
}

/// Returns the buckets from the first to the last that is not empty; nothing for other kinds of maps.
#[must_use]
pub fn buckets(kind: &MapValue, counts: &[u64]) -> Vec<Bucket> {
    let Some(first) = counts.iter().position(|c| *c != 0) else {
        return Vec::new();
    };
    let last = counts.iter().rposition(|c| *c != 0).unwrap_or(first);
    (first..=last)
        .filter_map(|i| {
            let (low, high) = match kind {
                MapValue::Hist { bits } => hist_range(i as u64, *bits),
                MapValue::LHist { min, max, step } => lhist_range(i, *min, *max, *step),
                _ => return None,
            };
            Some(Bucket {
                low,
                high,
                count: counts[i],
            })
        })
        .collect()
}

/// The range of bucket `index`, numbered as [`MapValue::Hist`] says.
fn hist_range(index: u64, bits: u8) -> (Option<i128>, Option<i128>) {
    let parts = 1i128 << bits;
    match i128::from(index) {
        0 => (None, Some(0)),
        // For 0 bits: bucket 1 is 0. Else buckets 1… are the values below 2^bits.
        i if i <= parts => (Some(i - 1), Some(i)),
        i => {
            let above = i - 1 - parts;
            let power = i128::from(bits) + above / parts;
            let width = 1i128 << (power - i128::from(bits));
            let low = (1i128 << power) + (above % parts) * width;
            (Some(low), Some(low + width))
        }
    }
}

fn lhist_range(index: usize, min: i64, max: i64, step: i64) -> (Option<i128>, Option<i128>) {
    let (min, max, step) = (i128::from(min), i128::from(max), i128::from(step.max(1)));
    let steps = (max - min) / step;
    match index as i128 {
        0 => (None, Some(min)),
        i if i > steps => (Some(max), None),
        i => (Some(min + (i - 1) * step), Some(min + i * step)),
    }
}

/// Writes a bound with the suffix that goes into all parts of its power of two, as bpftrace does: `512`, `1K`, `3M`; with two bits `1280`,
/// `2048`, `4K`, `5K`.
fn suffixed(v: i128, bits: u8) -> String {
    let power = v.max(1).ilog2();
    let tens = power.saturating_sub(u32::from(bits)) / 10;
    let suffix = ["", "K", "M", "G", "T", "P", "E"].get(tens as usize).copied().unwrap_or_default();
    format!("{}{suffix}", v >> (10 * tens))
}

fn bound(kind: &MapValue, v: i128) -> String {
    match kind {
        // Linear histograms go no further than M, and only where the step is in K.
        MapValue::LHist { step, .. } if step % 1024 != 0 => v.to_string(),
        MapValue::LHist { .. } if v != 0 && v % (1 << 20) == 0 => format!("{}M", v >> 20),
        MapValue::LHist { .. } if v != 0 && v % 1024 == 0 => format!("{}K", v >> 10),
        MapValue::LHist { .. } => v.to_string(),
        MapValue::Hist { bits } => suffixed(v, *bits),
        _ => v.to_string(),
    }
}

fn label(kind: &MapValue, bucket: &Bucket) -> String {
    match (bucket.low, bucket.high) {
        (None, Some(high)) => format!("(..., {})", bound(kind, high)),
        (Some(low), None) => format!("[{}, ...)", bound(kind, low)),
        (Some(low), Some(high)) if low + 1 == high => format!("[{}]", bound(kind, low)),
        (Some(low), Some(high)) => format!("[{}, {})", bound(kind, low), bound(kind, high)),
        (None, None) => String::new(),
    }
}

/// Appends the lines of a histogram, each with its line break. Counts are divided by `div` (0 as 1); bars show what is left of them.
pub fn text(kind: &MapValue, counts: &[u64], div: u32, out: &mut Vec<u8>) {
    let buckets = buckets(kind, counts);
    let div = u64::from(div.max(1));
    let max = buckets.iter().map(|b| b.count / div).max().unwrap_or(1).max(1);
    for bucket in &buckets {
        // In single precision, as bpftrace does it: the last cell of a bar must not differ.
        let count = bucket.count / div;
        let width = (count as f32 / max as f32 * BAR_WIDTH as f32) as usize;
        let bar = "@".repeat(width.min(BAR_WIDTH));
        let _ = writeln!(out, "{:<16}{count:>8} |{bar:<BAR_WIDTH$}|", label(kind, bucket));
    }
}

/// Appends the JSON array of a histogram: `max` is inclusive.
pub fn json(kind: &MapValue, counts: &[u64], div: u32, out: &mut Vec<u8>) {
    out.push(b'[');
    for (i, bucket) in buckets(kind, counts).iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        out.push(b'{');
        if let Some(low) = bucket.low {
            out.extend_from_slice(b"\"min\": ");
            super::json::integer(low, out);
            out.extend_from_slice(b", ");
        }
        if let Some(high) = bucket.high {
            out.extend_from_slice(b"\"max\": ");
            super::json::integer(high - 1, out);
            out.extend_from_slice(b", ");
        }
        let _ = write!(out, "\"count\": {}}}", bucket.count / u64::from(div.max(1)));
    }
    out.push(b']');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(kind: &MapValue, set: &[(usize, u64)], len: usize) -> (String, String) {
        let mut counts = vec![0; len];
        for (i, n) in set {
            counts[*i] = *n;
        }
        let (mut t, mut j) = (Vec::new(), Vec::new());
        text(kind, &counts, 0, &mut t);
        json(kind, &counts, 0, &mut j);
        (String::from_utf8(t).unwrap(), String::from_utf8(j).unwrap())
    }

    #[test]
    fn powers_of_two_with_bars() {
        let (text, json) = show(&MapValue::Hist { bits: 0 }, &[(0, 1), (3, 2), (4, 1), (6, 1)], 66);
        assert_eq!(
            text,
            "\
(..., 0)               1 |@@@@@@@@@@@@@@@@@@@@@@@@@@                          |
[0]                    0 |                                                    |
[1]                    0 |                                                    |
[2, 4)                 2 |@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@|
[4, 8)                 1 |@@@@@@@@@@@@@@@@@@@@@@@@@@                          |
[8, 16)                0 |                                                    |
[16, 32)               1 |@@@@@@@@@@@@@@@@@@@@@@@@@@                          |
"
        );
        assert!(
            json.starts_with("[{\"max\": -1, \"count\": 1},{\"min\": 0, \"max\": 0, \"count\": 0},"),
            "{json}"
        );
        assert!(json.ends_with("{\"min\": 16, \"max\": 31, \"count\": 1}]"), "{json}");
    }

    #[test]
    fn labels_have_binary_suffixes() {
        let labels = |i: usize| {
            show(&MapValue::Hist { bits: 0 }, &[(i, 1)], 66)
                .0
                .split("  ")
                .next()
                .unwrap()
                .trim()
                .to_owned()
        };
        assert_eq!(labels(2 + 9), "[512, 1K)");
        assert_eq!(labels(2 + 10), "[1K, 2K)");
        assert_eq!(labels(2 + 19), "[512K, 1M)");
        assert_eq!(labels(2 + 40), "[1T, 2T)");
        assert_eq!(labels(2 + 63), "[8E, 16E)");
        assert_eq!(
            show(&MapValue::Hist { bits: 0 }, &[(65, 1)], 66).1,
            r#"[{"min": 9223372036854775808, "max": "18446744073709551615", "count": 1}]"#
        );
    }

    #[test]
    fn finer_buckets() {
        let kind = MapValue::Hist { bits: 2 };
        // 4 single values, then 4 parts of each power from 4 on.
        let range = |i| hist_range(i, 2);
        assert_eq!(range(1), (Some(0), Some(1)));
        assert_eq!(range(4), (Some(3), Some(4)));
        assert_eq!(range(5), (Some(4), Some(5)));
        assert_eq!(range(9), (Some(8), Some(10)));
        assert_eq!(range(12), (Some(14), Some(16)));
        let last = u64::from(MapValue::hist_bucket_count(2)) - 1;
        assert_eq!(range(last).1, Some(1 << 64));
        assert_eq!(show(&kind, &[(9, 1)], 256).0.split("  ").next(), Some("[8, 10)"));
        // Both bounds of a part have the suffix that all parts of their powers can have.
        let bounds = |bits, values: &[i128]| values.iter().map(|v| suffixed(*v, bits)).collect::<Vec<_>>();
        assert_eq!(bounds(0, &[0, 512, 1024, 1 << 20]), ["0", "512", "1K", "1M"]);
        assert_eq!(bounds(1, &[768, 1024, 1536, 2048, 2 << 20]), ["768", "1024", "1536", "2K", "2M"]);
        assert_eq!(
            bounds(2, &[1792, 2048, 4096, 5120, 2560 << 10, 3 << 20]),
            ["1792", "2048", "4K", "5K", "2560K", "3072K"]
        );
        assert_eq!(bounds(5, &[1008, 1024, 2944]), ["1008", "1024", "2944"]);
    }

    #[test]
    fn linear() {
        let kind = MapValue::LHist { min: 0, max: 10, step: 2 };
        let (text, json) = show(&kind, &[(0, 1), (3, 2), (6, 1)], 7);
        let labels: Vec<_> = text.lines().map(|l| l[..16].trim()).collect();
        assert_eq!(labels, ["(..., 0)", "[0, 2)", "[2, 4)", "[4, 6)", "[6, 8)", "[8, 10)", "[10, ...)"]);
        assert!(json.starts_with(r#"[{"max": -1, "count": 1},{"min": 0, "max": 1, "count": 0}"#));
        assert!(json.ends_with(r#"{"min": 10, "count": 1}]"#));
        let kib = MapValue::LHist {
            min: 0,
            max: 4096,
            step: 1024,
        };
        assert_eq!(show(&kib, &[(2, 1)], 6).0[..16].trim(), "[1K, 2K)");
    }

    #[test]
    fn an_empty_histogram_has_no_lines() {
        assert_eq!(show(&MapValue::Hist { bits: 0 }, &[], 66), (String::new(), "[]".to_owned()));
    }
}
