//! Makes a table fit a screen.
//!
//! Input: columns as text, and how many characters a line has room for. Output: columns that are narrow enough, and words for what is not in
//! them. First goes what is the same in all rows, which is told once; then the middle of long names and addresses, as long as keys that differ
//! still look different; then what the native's declaration says a narrow screen does without; then more of the names. No number is ever cut: a
//! screen that is too narrow even for what is left has lines that wrap.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hasher};
use std::net::{Ipv4Addr, SocketAddrV4};

/// Names and addresses are this long at least, while there are columns that a narrow screen does without. Names of processes and
/// `ingress/from_pod` are whole then, and of an IPv6 address the network's first and the host's last digits are there.
const READABLE: usize = 16;
/// And this long always.
const SHORTEST: usize = 9;
/// Between columns.
const GAP: usize = 2;
/// What names and addresses end with: blanks, and the brackets around an IPv6 address.
const BETWEEN_WORDS: [char; 3] = [' ', '[', ']'];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A part of the key, at the left.
    Key,
    Text,
    Number,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Column {
    pub name: String,
    pub kind: Kind,
    /// One for each row.
    pub cells: Vec<String>,
}

/// A table that fits, and what is not in it.
#[derive(Debug)]
pub(super) struct Fitted {
    pub columns: Vec<Column>,
    /// What is the same in all rows: `interface veth0`.
    pub same: Vec<String>,
    /// Names of columns that there was no room for.
    pub left_out: Vec<String>,
}

impl Column {
    fn shorten(&mut self, longest: usize) {
        self.name = shortened(&self.name, longest);
        if self.kind != Kind::Number {
            for cell in &mut self.cells {
                *cell = shortened(cell, longest);
            }
        }
    }
}

/// How long the longest line is.
pub(super) fn width(columns: &[Column]) -> usize {
    let longest = |c: &Column| c.cells.iter().chain([&c.name]).map(|text| text.chars().count()).max().unwrap_or(0);
    with_gaps(columns.iter().map(longest))
}

fn with_gaps(widths: impl ExactSizeIterator<Item = usize>) -> usize {
    GAP * widths.len().saturating_sub(1) + widths.sum::<usize>()
}

/// A column, and what of its width depends on how long names may be. A table may have 65536 rows and is tried at many lengths.
struct Measured {
    column: Column,
    /// Of each cell and of the name: how many characters always stay, and the length of each word that may lose its middle. Most cells have
    /// one of few such shapes.
    shapes: HashSet<Vec<usize>>,
}

impl Measured {
    fn new(column: Column) -> Self {
        let mut shapes = HashSet::new();
        let mut shape = Vec::new();
        let cells = column.cells.iter().map(|cell| (cell, column.kind == Kind::Number));
        for (text, stays) in cells.chain([(&column.name, false)]) {
            shape.clear();
            shape.push(0);
            for piece in text.split_inclusive(BETWEEN_WORDS) {
                let word = piece.trim_end_matches(BETWEEN_WORDS);
                let count = word.chars().count();
                shape[0] += piece.len() - word.len();
                if stays || count <= SHORTEST || is_number(word) {
                    shape[0] += count;
                } else {
                    shape.push(count);
                }
            }
            if !shapes.contains(&shape) {
                shapes.insert(shape.clone());
            }
        }
        Self { column, shapes }
    }

    fn width(&self, longest: usize) -> usize {
        let width = |shape: &Vec<usize>| shape[0] + shape[1..].iter().map(|word| longest.min(*word)).sum::<usize>();
        self.shapes.iter().map(width).max().unwrap_or(0)
    }
}

/// How long the longest line is when no name and no address is longer than this.
fn width_with(columns: &[Measured], longest: usize) -> usize {
    with_gaps(columns.iter().map(|c| c.width(longest)))
}

/// The longest word that may lose its middle.
fn longest_word(columns: &[Measured]) -> usize {
    let words = columns.iter().flat_map(|c| &c.shapes).flat_map(|shape| &shape[1..]);
    words.max().map_or(SHORTEST, |longest| *longest)
}

/// How long names and addresses may be for lines of this length: the longest of `at_least` and more that will do.
fn longest_for(columns: &[Measured], at_least: usize, room: usize) -> Option<usize> {
    if width_with(columns, at_least) > room {
        return None;
    }
    let end = longest_word(columns).max(at_least) + 1;
    Some(first(at_least + 1, end, |longest| width_with(columns, longest) > room) - 1)
}

/// How long names and addresses must be for rows to look different whose keys are: the shortest of `SHORTEST` and more that will do.
fn shortest_for(columns: &[Measured]) -> usize {
    let all = different_rows(columns, usize::MAX);
    first(SHORTEST, longest_word(columns), |longest| different_rows(columns, longest) == all)
}

/// How many keys look different when no name and no address in them is longer than this.
fn different_rows(columns: &[Measured], longest: usize) -> usize {
    let keys: Vec<&Column> = columns.iter().map(|c| &c.column).filter(|c| c.kind == Kind::Key).collect();
    let rows = keys.first().map_or(0, |key| key.cells.len());
    let hash_of = |row: usize| {
        let mut hasher = DefaultHasher::new();
        for key in &keys {
            shorten_into(&key.cells[row], longest, |part| hasher.write(part.as_bytes()));
            hasher.write_u8(b'\n');
        }
        hasher.finish()
    };
    // Hashes do: should two be the same by chance, names are a little longer than they need be.
    (0..rows).map(hash_of).collect::<HashSet<u64>>().len()
}

/// The first number of a range from which on something holds, else its end.
fn first(mut start: usize, mut end: usize, holds: impl Fn(usize) -> bool) -> usize {
    while start < end {
        let middle = start.midpoint(end);
        if holds(middle) {
            end = middle;
        } else {
            start = middle + 1;
        }
    }
    start
}

/// Makes lines at most this long. `spare` are the columns that a narrow screen does without, the first one first.
pub(super) fn fit(columns: Vec<Column>, spare: &[&str], room: usize) -> Fitted {
    let mut columns: Vec<Measured> = columns.into_iter().map(Measured::new).collect();
    let (mut same, mut left_out) = (Vec::new(), Vec::new());
    // The first column tells the rows apart.
    for index in (1..columns.len()).rev() {
        if width_with(&columns, usize::MAX) <= room {
            break;
        }
        let column = &columns[index].column;
        if let [first, rest @ ..] = &column.cells[..]
            && !rest.is_empty()
            && rest.iter().all(|cell| cell == first)
        {
            same.insert(0, format!("{} {first}", column.name));
            columns.remove(index);
        }
    }
    let mut shortest = shortest_for(&columns);
    let mut leave_out = |columns: &mut Vec<Measured>, index: usize| {
        let Measured { column, .. } = columns.remove(index);
        let was_key = column.kind == Kind::Key;
        left_out.push(column.name);
        was_key
    };
    let mut spare = spare.iter();
    let longest = loop {
        if let Some(longest) = longest_for(&columns, READABLE.max(shortest), room) {
            break longest;
        }
        let Some(name) = spare.next() else {
            break loop {
                match longest_for(&columns, shortest, room) {
                    None if columns.len() > 2 => {
                        let index = least(&columns);
                        if leave_out(&mut columns, index) {
                            shortest = shortest_for(&columns);
                        }
                    }
                    longest => break longest.unwrap_or(shortest),
                }
            };
        };
        if let Some(index) = columns.iter().skip(1).position(|c| c.column.name == *name)
            && leave_out(&mut columns, index + 1)
        {
            shortest = shortest_for(&columns);
        }
    };
    let mut columns: Vec<Column> = columns.into_iter().map(|c| c.column).collect();
    columns.iter_mut().for_each(|c| c.shorten(longest));
    Fitted { columns, same, left_out }
}

/// Which column goes when it is not said: of several numbers the last one, else the last column.
fn least(columns: &[Measured]) -> usize {
    let numbers: Vec<usize> = (0..columns.len()).filter(|i| columns[*i].column.kind == Kind::Number).collect();
    match numbers[..] {
        [_, .., last] => last,
        _ => columns.len() - 1,
    }
}

/// A text in which no name and no IPv6 address is longer than this: `fd00:1…3:4567`.
fn shortened(text: &str, longest: usize) -> String {
    let mut out = String::with_capacity(text.len());
    shorten_into(text, longest, |part| out.push_str(part));
    out
}

/// Hands the parts of a shortened text to `push`, one after the other.
fn shorten_into(text: &str, longest: usize, mut push: impl FnMut(&str)) {
    // A text has no more characters than bytes.
    if text.len() <= longest {
        return push(text);
    }
    for piece in text.split_inclusive(BETWEEN_WORDS) {
        let word = piece.trim_end_matches(BETWEEN_WORDS);
        let count = word.chars().count();
        if count <= longest || is_number(word) {
            push(piece);
            continue;
        }
        let head = longest / 2;
        let byte_of = |character: usize| word.char_indices().nth(character).map_or(word.len(), |(byte, _)| byte);
        push(&word[..byte_of(head)]);
        push("…");
        push(&word[byte_of(count - (longest - head - 1))..]);
        push(&piece[word.len()..]);
    }
}

/// Whether a word is nothing but numbers: an IPv4 address, with or without a port, a count, a ratio.
fn is_number(word: &str) -> bool {
    let is_plain = || word.chars().all(|c| c.is_ascii_digit() || ".,%/-".contains(c));
    is_plain() || word.parse::<Ipv4Addr>().is_ok() || word.parse::<SocketAddrV4>().is_ok()
}

/// Breaks a text at blanks into lines at most this long; those behind the first are further in.
pub(super) fn wrapped(text: &str, indent: usize, room: Option<usize>) -> String {
    let mut out = " ".repeat(indent);
    let mut column = indent;
    let further_in = indent + 2;
    for (i, word) in text.split(' ').enumerate() {
        let count = word.chars().count();
        if i > 0 && room.is_some_and(|room| column + 1 + count > room) {
            out.push('\n');
            out.push_str(&" ".repeat(further_in));
            column = further_in;
        } else if i > 0 {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += count;
    }
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: &str = "fd77:1234:5678:9abc:def0:1122:3344:5566";

    fn column(name: &str, kind: Kind, cells: &[&str]) -> Column {
        Column {
            name: name.to_owned(),
            kind,
            cells: cells.iter().map(|cell| (*cell).to_owned()).collect(),
        }
    }

    fn flows() -> Vec<Column> {
        let six = format!("[{ADDRESS}]:52420 > [fd77::789]:15001 tcp");
        vec![
            column("flow", Kind::Key, &[&six, "10.77.120.111:45336 > 10.77.120.112:5432 tcp"]),
            column("interface", Kind::Key, &["veth0", "veth0"]),
            column("bytes", Kind::Number, &["18446744073709551615", "64"]),
            column("known_by", Kind::Text, &["kernel", "estimate"]),
            column("process", Kind::Text, &["checkout-svc-7d", "curl"]),
        ]
    }

    fn names(columns: &[Column]) -> Vec<&str> {
        columns.iter().map(|c| c.name.as_str()).collect()
    }

    #[test]
    fn what_fits_stays_as_it_is() {
        let fitted = fit(flows(), &[], width(&flows()));
        assert_eq!((fitted.columns, fitted.same.len(), fitted.left_out.len()), (flows(), 0, 0));
    }

    #[test]
    fn the_same_is_told_once_then_addresses_are_shortened_then_columns_go() {
        let without_interface = width(&flows()) - "interface".len() - GAP;
        let fitted = fit(flows(), &["known_by"], width(&flows()) - 1);
        assert_eq!(fitted.same, ["interface veth0"]);
        assert_eq!((width(&fitted.columns), fitted.left_out.len()), (without_interface, 0));
        let fitted = fit(flows(), &["known_by"], without_interface - 20);
        let [six, four] = &fitted.columns[0].cells[..] else { panic!() };
        assert_eq!(six, "[fd77:1234…3344:5566]:52420 > [fd77::789]:15001 tcp");
        assert_eq!(four, "10.77.120.111:45336 > 10.77.120.112:5432 tcp");
        assert_eq!(fitted.columns[3].cells[0], "checkout-svc-7d");
        let fitted = fit(flows(), &["known_by"], 85);
        assert_eq!(
            (names(&fitted.columns), &fitted.left_out[..]),
            (vec!["flow", "bytes", "process"], &["known_by".to_owned()][..])
        );
        assert_eq!(fitted.columns[2].cells[0], "checkou…svc-7d");
        assert!(width(&fitted.columns) <= 85);
    }

    #[test]
    fn numbers_are_never_cut_and_every_width_has_an_end() {
        for room in 0..200 {
            let fitted = fit(flows(), &["known_by", "no such"], room);
            let bytes = fitted.columns.iter().find(|c| c.name == "bytes").unwrap();
            assert_eq!(bytes.cells, flows()[2].cells);
            assert!(fitted.columns[0].cells[1].contains("10.77.120.111:45336"));
            assert!(width(&fitted.columns) <= room || fitted.columns.len() == 2, "{room}: {fitted:?}");
        }
    }

    #[test]
    fn keys_that_differ_look_different_at_every_width() {
        let in_their_middle = [
            (
                "[2001:db8:a:1:0:aa11:bb22:100]:443 > [fd77::1]:15001 tcp",
                "[2001:db8:b:2:0:cc33:bb22:100]:443 > [fd77::1]:15001 tcp",
            ),
            ("checkout-7d9f8c6b5-x2x9z-worker", "checkout-5c4f8c6b5-q1x9z-worker"),
        ];
        for (one, other) in in_their_middle {
            for room in 0..120 {
                let columns = vec![
                    column("key", Kind::Key, &[one, other]),
                    column("packets", Kind::Number, &["12", "345"]),
                    column("bytes", Kind::Number, &["678", "9012"]),
                ];
                let fitted = fit(columns, &[], room);
                let cells = &fitted.columns[0].cells;
                assert_ne!(cells[0], cells[1], "{room}");
                assert!(width(&fitted.columns) <= room || fitted.columns.len() == 2, "{room}: {fitted:?}");
            }
        }
        // Only the two columns together are a key.
        let both = vec![
            column("from", Kind::Key, &["checkout-one-worker", "checkout-one-worker"]),
            column("to", Kind::Key, &["payments-7d9f8c6b5-worker", "payments-5c4f8c6b5-worker"]),
            column("packets", Kind::Number, &["12", "345"]),
        ];
        let fitted = fit(both, &[], 30);
        assert_eq!(fitted.left_out, ["packets"]);
        assert_eq!(fitted.columns[1].cells, ["payments-7…b5-worker", "payments-5…b5-worker"]);
    }

    #[test]
    fn one_row_has_nothing_in_common() {
        let one = vec![column("flow", Kind::Key, &["a"]), column("vlan", Kind::Number, &["5"])];
        assert_eq!(fit(one.clone(), &[], 3).columns, one);
        assert_eq!(fit(vec![column("flow", Kind::Key, &[])], &[], 1).columns.len(), 1);
    }

    #[test]
    fn words_are_shortened_in_their_middle() {
        for (text, longest, short) in [
            (ADDRESS, 12, "fd77:1…:5566"),
            (ADDRESS, 9, "fd77…5566"),
            ("frontend-7d9f8c6b5-x2x9z", 12, "fronte…x2x9z"),
            ("frontend -> 192.168.100.100 tcp/8080", 9, "frontend -> 192.168.100.100 tcp/8080"),
            ("ééééééééééé", 9, "éééé…éééé"),
            ("12345678901234", 9, "12345678901234"),
        ] {
            assert_eq!(shortened(text, longest), short);
        }
    }

    #[test]
    fn lines_break_at_blanks() {
        assert_eq!(wrapped("stats: a 1, b 2, c 3", 2, None), "  stats: a 1, b 2, c 3\n");
        assert_eq!(wrapped("stats: a 1, b 2, c 3", 2, Some(14)), "  stats: a 1,\n    b 2, c 3\n");
        assert_eq!(wrapped("abcdefgh", 2, Some(3)), "  abcdefgh\n");
    }
}
