//! Lists of address prefixes: from files (one a line, `#` and `;` comments), from standard input, and from scripts.

use super::Params;
use crate::error::Error;
use std::net::IpAddr;
use std::path::Path;
use std::sync::OnceLock;
use weir_ebpf_builtins::{Lpm4, Lpm6};
use weir_parser::Span;
use weir_stdlib::prefix::Range;
use weir_stdlib::{ParamValue, PrefixError, as_in_packets, parse_duration, parse_prefix, with_line_feeds, without_comment};

/// The key of a trie.
pub trait Key: Copy + Eq + Send + std::fmt::Debug {
    /// Bits of an address.
    const WIDTH: u32;
    /// Lists are in this order: neighbours in the trie are inserted one after the other.
    fn order(&self) -> (u128, u32);
    /// From what [`Self::order`] gives.
    fn new(addr: u128, len_bits: u32) -> Self;
    /// Adds the element as the kernel wants it: its key, which is its value, too.
    fn write(&self, out: &mut Vec<u8>);
    fn prefix(&self) -> (IpAddr, u32);
}

impl Key for Lpm4 {
    const WIDTH: u32 = 32;
    fn order(&self) -> (u128, u32) {
        (u128::from(u32::from_be_bytes(self.addr)), self.len_bits)
    }
    fn new(addr: u128, len_bits: u32) -> Self {
        let addr = (addr as u32).to_be_bytes();
        Self { len_bits, addr }
    }
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.len_bits.to_ne_bytes());
        out.extend_from_slice(&self.addr);
    }
    fn prefix(&self) -> (IpAddr, u32) {
        (self.addr.into(), self.len_bits)
    }
}

impl Key for Lpm6 {
    const WIDTH: u32 = 128;
    fn order(&self) -> (u128, u32) {
        (u128::from_be_bytes(self.addr), self.len_bits)
    }
    fn new(addr: u128, len_bits: u32) -> Self {
        let addr = addr.to_be_bytes();
        Self { len_bits, addr }
    }
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.len_bits.to_ne_bytes());
        out.extend_from_slice(&self.addr);
    }
    fn prefix(&self) -> (IpAddr, u32) {
        (self.addr.into(), self.len_bits)
    }
}

/// Returns elements as bytes.
#[must_use]
pub fn bytes<'a, K: Key + 'a>(keys: impl IntoIterator<Item = &'a K>) -> Vec<u8> {
    let mut out = Vec::new();
    keys.into_iter().for_each(|key| key.write(&mut out));
    out
}

/// One line of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<K> {
    pub key: K,
    /// What the line itself says of how long it lasts, in nanoseconds.
    pub ttl: Option<u64>,
}

/// Prefixes of both families, sorted, without doubles.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prefixes {
    pub v4: Vec<Entry<Lpm4>>,
    pub v6: Vec<Entry<Lpm6>>,
}

/// Of doubles, the one that lasts longest counts; without a time of its own, an entry lasts as the list says.
fn sort<K: Key>(entries: &mut Vec<Entry<K>>) {
    sort_by_key(entries);
    entries.dedup_by(|later, first| {
        let is_double = later.key == first.key;
        if is_double {
            first.ttl = first.ttl.zip(later.ttl).map(|(one, other)| one.max(other));
        }
        is_double
    });
}

/// Bits of an entry's place in the list, where they stand behind an IPv4 prefix in one word.
const PLACE_BITS: u32 = 26;
const DIGIT_BITS: usize = 10;

fn sort_by_key<K: Key>(entries: &mut Vec<Entry<K>>) {
    if K::WIDTH != 32 || entries.len() >= 1 << PLACE_BITS {
        entries.sort_unstable_by_key(|entry| entry.key.order());
        return;
    }
    // Numbers with the place behind them, ten bits at a time: of a million entries a twentieth of what comparing them takes.
    let words = entries.iter().zip(0_u64..).map(|(entry, place)| {
        let (addr, len) = entry.key.order();
        (addr as u64) << 32 | u64::from(len) << PLACE_BITS | place
    });
    let mut words: Vec<u64> = words.collect();
    let mut sorted = vec![0; words.len()];
    for shift in (PLACE_BITS..u64::BITS).step_by(DIGIT_BITS) {
        let digit = |word: u64| (word >> shift) as usize & ((1 << DIGIT_BITS) - 1);
        let mut ends = [0; 1 << DIGIT_BITS];
        words.iter().for_each(|word| ends[digit(*word)] += 1);
        let mut begin = 0;
        for end in &mut ends {
            begin += std::mem::replace(end, begin);
        }
        for word in &words {
            let place = &mut ends[digit(*word)];
            sorted[*place] = *word;
            *place += 1;
        }
        std::mem::swap(&mut words, &mut sorted);
    }
    let place = |word: &u64| (word & ((1 << PLACE_BITS) - 1)) as usize;
    *entries = words.iter().map(|word| entries[place(word)]).collect();
}

impl Prefixes {
    /// Parses `10.0.0.0/8`, `10.0.0.1`, `2001:db8::/32` and adds it.
    ///
    /// # Errors
    /// What is wrong with it, and what to write instead.
    pub fn add(&mut self, text: &str, ttl: Option<u64>) -> Result<(), String> {
        let parsed = parse_prefix(text).map_err(|error| match error {
            PrefixError::Address => format!("expected an address or a prefix, found `{}`", shortened(text)),
            PrefixError::Length { max } => {
                let len = text.split_once('/').map_or("", |(_, len)| len);
                format!("expected a prefix length from 0 to {max}, found `{}`", shortened(len))
            }
            PrefixError::HostBits { meant } => {
                let addr = text.split('/').next().unwrap_or(text);
                format!("`{text}` has host bits beyond the prefix; write `{meant}` or `{addr}`")
            }
        })?;
        let (addr, len) = as_in_packets(parsed);
        let len_bits = u32::from(len);
        match addr {
            IpAddr::V4(a) => {
                let key = Lpm4 {
                    len_bits,
                    addr: a.octets(),
                };
                self.v4.push(Entry { key, ttl });
            }
            IpAddr::V6(a) => {
                let key = Lpm6 {
                    len_bits,
                    addr: a.octets(),
                };
                self.v6.push(Entry { key, ttl });
            }
        }
        Ok(())
    }

    /// Parses a line without its comment: a prefix, and perhaps `ttl=10m`.
    fn add_line(&mut self, line: &str) -> Result<(), String> {
        let mut words = line.split_whitespace();
        let Some(prefix) = words.next() else { return Ok(()) };
        if prefix.split('/').next().is_none_or(|a| a.parse::<IpAddr>().is_err()) {
            // Whatever this line is, it is not a prefix with something behind it.
            return self.add(line.trim(), None);
        }
        let mut ttl = None;
        for word in words {
            let time = word
                .strip_prefix("ttl=")
                .ok_or_else(|| format!("expected `ttl=…` or nothing behind the prefix, found `{}`", shortened(word)))?;
            let ns = parse_duration(time).filter(|ns| *ns >= SHORTEST_TTL);
            ttl = Some(ns.ok_or_else(|| format!("expected a time of at least 1s such as `ttl=10m`, found `{}`", shortened(word)))?);
        }
        self.add(prefix, ttl)
    }

    fn sort(&mut self) {
        sort(&mut self.v4);
        sort(&mut self.v6);
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    /// The number of the first bad line (from 1), what is wrong with it, and how many more there are.
    pub fn parse(text: &str) -> Result<Self, (usize, String)> {
        let mut prefixes = Self::default();
        // Some editors start a file with a byte order mark.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let text = with_line_feeds(text);
        let mut bad = text.lines().enumerate().filter_map(|(i, line)| {
            let line = without_comment(line);
            Some((i + 1, line, prefixes.add_line(line).err()?))
        });
        if let Some((number, line, message)) = bad.next() {
            // Whether one line is to be mended, or the whole file is of another kind.
            let also = match bad.count() {
                0 => String::new(),
                1 => "; another line is bad, too".to_owned(),
                n => format!("; {n} other lines are bad, too"),
            };
            // Only for the line that is shown: a range may be hundreds of prefixes.
            return Err((number, range(line).unwrap_or(message) + &also));
        }
        prefixes.sort();
        Ok(prefixes)
    }
}

/// What is said of a range of addresses (`10.0.0.1-10.0.0.9`), if that is what a line is.
fn range(line: &str) -> Option<String> {
    let range = Range::parse(line)?;
    let lines = if range.prefixes.len() > 1 { ", a line each" } else { "" };
    let (first, last, write) = (range.first, range.last, range.instead(""));
    Some(format!(
        "expected an address or a prefix, found the range `{first}-{last}`; write {write}{lines}"
    ))
}

/// Clocks are looked at once a second.
const SHORTEST_TTL: u64 = 1_000_000_000;

/// As much of a text as a message should repeat.
fn shortened(text: &str) -> String {
    const MOST: usize = 60;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Larger than a list of ten million prefixes.
const MAX_FILE_BYTES: u64 = 512 << 20;

/// Reads a file of prefixes.
///
/// # Errors
/// When it cannot be read, or a line is bad: named as `file:line`.
pub fn read_file(path: &Path, span: Span) -> Result<Prefixes, Error> {
    parse(path, &read_text(path, span)?, span)
}

/// Reads a file as text.
///
/// # Errors
/// When it cannot be read, is no regular file, or is too large.
pub(super) fn read_text(path: &Path, span: Span) -> Result<String, Error> {
    let failed = |source| Error::ReadFile {
        path: path.to_owned(),
        span,
        source,
    };
    // A device or a pipe may never end; nothing is opened before that is known.
    let info = std::fs::metadata(path).map_err(failed)?;
    if !info.is_file() {
        return Err(failed(std::io::Error::other("it is not a regular file")));
    }
    if info.len() > MAX_FILE_BYTES {
        return Err(failed(std::io::Error::other(format!(
            "it is larger than {} MiB",
            MAX_FILE_BYTES >> 20
        ))));
    }
    let text = std::fs::read(path).map_err(failed)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

pub(super) fn parse(path: &Path, text: &str, span: Span) -> Result<Prefixes, Error> {
    Prefixes::parse(text).map_err(|(line, message)| Error::PrefixFile {
        path: path.to_owned(),
        line,
        message,
        span,
    })
}

/// Reads standard input to its end. Once: a script that must be compiled again asks again.
fn read_stdin(span: Span) -> Result<Prefixes, Error> {
    static TEXT: OnceLock<String> = OnceLock::new();
    let path = Path::new("standard input");
    if TEXT.get().is_none() {
        let text = std::io::read_to_string(std::io::stdin()).map_err(|source| Error::ReadFile {
            path: path.to_owned(),
            span,
            source,
        })?;
        // Nobody else sets it: natives are loaded by one thread.
        let _ = TEXT.set(text);
    }
    parse(path, TEXT.get().map_or("", String::as_str), span)
}

/// Reads a parameter that is a list, a file or standard input; `None` when it is not given.
pub(crate) fn param(params: &Params<'_>, name: &str) -> Result<Option<(Prefixes, Span)>, Error> {
    let Some((value, span)) = params.get(name) else { return Ok(None) };
    let list = match value {
        ParamValue::File(path) => return Ok(Some((read_file(Path::new(path), span)?, span))),
        ParamValue::Stdin => return Ok(Some((read_stdin(span)?, span))),
        ParamValue::List(list) => list.clone(),
        ParamValue::Str(one) => vec![one.clone()],
        _ => return Err(Error::Object(format!("parameter `{name}` is no list of prefixes"))),
    };
    let mut prefixes = Prefixes::default();
    for entry in &list {
        prefixes
            .add(entry, None)
            .map_err(|message| Error::Param { message, help: None, span })?;
    }
    prefixes.sort();
    Ok(Some((prefixes, span)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_have_comments_blank_lines_and_both_families() {
        let text = "# bad guys\n192.0.2.0/24\n\n 10.0.0.1 # host\n2001:db8::/32\n10.0.0.1\n0.0.0.0/0\n";
        let p = Prefixes::parse(text).unwrap();
        let keys: Vec<_> = p.v4.iter().map(|e| (e.key.addr, e.key.len_bits)).collect();
        assert_eq!(keys, [([0; 4], 0), ([10, 0, 0, 1], 32), ([192, 0, 2, 0], 24)]);
        assert_eq!(p.v6[0].key.len_bits, 32);
        assert_eq!(bytes(p.v4.iter().map(|e| &e.key)).len(), 24);
        assert_eq!(bytes(p.v6.iter().map(|e| &e.key)).len(), 20);
    }

    #[test]
    fn published_lists_and_logs_are_taken_as_they_are() {
        let p = Prefixes::parse("; a list\n1.10.16.0/20 ; SBL256894\n::ffff:192.0.2.1\n192.0.2.1\n::ffff:0:0/96\n").unwrap();
        let v4: Vec<_> = p.v4.iter().map(|e| (e.key.addr, e.key.len_bits)).collect();
        assert_eq!(v4, [([1, 10, 16, 0], 20), ([192, 0, 2, 1], 32)]);
        // Not all of IPv4.
        let v6: Vec<_> = p.v6.iter().map(|e| e.key.prefix().1).collect();
        assert_eq!(v6, [96]);
    }

    #[test]
    fn lines_end_as_any_system_ends_them() {
        for end in ["\n", "\r\n", "\r"] {
            let text = ["# bad guys", "10.0.0.1 ttl=10m", "", "10.0.0.2", "foo"].join(end);
            let p = Prefixes::parse(text.trim_end_matches("foo")).unwrap();
            assert_eq!(p.v4.len(), 2, "{end:?}");
            assert_eq!(
                Prefixes::parse(&text).unwrap_err(),
                (5, "expected an address or a prefix, found `foo`".to_owned()),
                "{end:?}"
            );
        }
        assert_eq!(Prefixes::parse("# bad\r10.0.0.1\r10.0.0.2\n10.0.0.3\r\n").unwrap().v4.len(), 3);
    }

    #[test]
    fn a_line_may_say_how_long_it_lasts() {
        let p = Prefixes::parse("10.0.0.1 ttl=10m # for now\n10.0.0.2\n10.0.0.1 ttl=1h\n10.0.0.2 ttl=5s\n").unwrap();
        let ttls: Vec<_> = p.v4.iter().map(|e| e.ttl).collect();
        // Of doubles, the longest; an entry that lasts as the list says is not shortened by its double.
        assert_eq!(ttls, [Some(3_600_000_000_000), None]);
        for (text, message) in [
            ("10.0.0.1 10m", "expected `ttl=…` or nothing behind the prefix, found `10m`"),
            (
                "10.0.0.1 ttl=10",
                "expected a time of at least 1s such as `ttl=10m`, found `ttl=10`",
            ),
            (
                "10.0.0.1 ttl=10ms",
                "expected a time of at least 1s such as `ttl=10m`, found `ttl=10ms`",
            ),
        ] {
            assert_eq!(Prefixes::parse(text).unwrap_err(), (1, message.to_owned()));
        }
    }

    #[test]
    fn what_to_write_is_found_out_only_for_the_line_that_is_shown() {
        let took = |line: &str| {
            let text = line.repeat(2000);
            let before = crate::sys::proc::clock_ns(libc::CLOCK_THREAD_CPUTIME_ID);
            let (_, message) = Prefixes::parse(&text).unwrap_err();
            assert!(message.ends_with("1999 other lines are bad, too"), "{message}");
            crate::sys::proc::clock_ns(libc::CLOCK_THREAD_CPUTIME_ID) - before
        };
        // Each is 254 prefixes; the others only look alike.
        let ranges = took("::1-ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe\n");
        let words = took("::1-ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffg\n");
        assert!(ranges < 4 * words, "{ranges} ns of ranges, {words} ns of words");
    }

    #[test]
    fn entries_are_sorted_whatever_their_order_was() {
        let mut text = String::new();
        for i in 0..2000_u32 {
            let addr = std::net::Ipv4Addr::from(i.wrapping_mul(2_654_435_769) & 0xffff_ff00);
            text.push_str(&format!(
                "{addr}/{}\n{addr}\n2001:db8:{:x}::/48\n",
                24 + i % 8,
                i.wrapping_mul(40_503) & 0xffff
            ));
        }
        let prefixes = Prefixes::parse(&text).unwrap();
        assert!(prefixes.v4.is_sorted_by(|a, b| a.key.order() < b.key.order()) && prefixes.v4.len() > 3000);
        assert!(prefixes.v6.is_sorted_by(|a, b| a.key.order() < b.key.order()) && prefixes.v6.len() > 1000);
    }

    #[test]
    fn bad_lines_are_named_and_say_the_fix() {
        let error = |text: &str| Prefixes::parse(text).unwrap_err();
        assert_eq!(
            error("10.0.0.1\nfoo\n"),
            (2, "expected an address or a prefix, found `foo`".to_owned())
        );
        assert_eq!(
            error("10.0.0.0/33"),
            (1, "expected a prefix length from 0 to 32, found `33`".to_owned())
        );
        assert_eq!(
            error("not an address # x").1,
            "expected an address or a prefix, found `not an address`"
        );
        assert_eq!(error("10.0.0.0/+8").0, 1);
        assert_eq!(
            error("10.1.2.3/8"),
            (
                1,
                "`10.1.2.3/8` has host bits beyond the prefix; write `10.0.0.0/8` or `10.1.2.3`".to_owned()
            )
        );
        assert!(error("2001:db8::1/32").1.contains("write `2001:db8::/32`"));
        assert_eq!(
            error("10.0.0.1\nfoo\n10.0.0.2\n1.2.3.4/33\n"),
            (
                2,
                "expected an address or a prefix, found `foo`; another line is bad, too".to_owned()
            )
        );
        assert_eq!(
            error("foo\nbar\n10.0.0.2\nbaz\n"),
            (
                1,
                "expected an address or a prefix, found `foo`; 2 other lines are bad, too".to_owned()
            )
        );
        // The fix of a range is a few prefixes, or many.
        assert_eq!(
            error("10.0.0.1 - 10.0.0.6").1,
            "expected an address or a prefix, found the range `10.0.0.1-10.0.0.6`; write `10.0.0.1`, `10.0.0.2/31`, `10.0.0.4/31`, `10.0.0.6`, a line each"
        );
        assert_eq!(
            error("2001:db8::-2001:db8::ffff").1,
            "expected an address or a prefix, found the range `2001:db8::-2001:db8::ffff`; write `2001:db8::/112`"
        );
        assert_eq!(
            error("10.0.0.1-10.0.0.254").1,
            "expected an address or a prefix, found the range `10.0.0.1-10.0.0.254`; write the 14 prefixes from `10.0.0.1` to `10.0.0.254`, a line each"
        );
        assert_eq!(
            error("0.0.0.0-255.255.255.255").1,
            "expected an address or a prefix, found the range `0.0.0.0-255.255.255.255`; write `0.0.0.0/0`"
        );
        for text in ["10.0.0.9-10.0.0.1", "10.0.0.1-2001:db8::1", "10.0.0.1-20", "a-b"] {
            assert_eq!(error(text).1, format!("expected an address or a prefix, found `{text}`"));
        }
    }
}
