//! Reading weir's text output: which maps were printed, with which keys and values.
//!
//! Input: standard output. Output: keys and values as text. Format: bpftrace's `@name[key]: value`.

use std::collections::BTreeMap;

/// The last printed state of a map: key text (empty for a scalar) to value text.
///
/// `name` is with its `@`: `@dns`, `@`, `@bl.hits`.
pub fn map(text: &str, name: &str) -> BTreeMap<String, String> {
    text.lines().filter_map(|line| entry(line, name)).collect()
}

fn entry(line: &str, name: &str) -> Option<(String, String)> {
    let rest = line.strip_prefix(name)?;
    if let Some(value) = rest.strip_prefix(": ") {
        return Some((String::new(), value.to_owned()));
    }
    // The key may hold brackets of its own (`[::1]:443`), the separator ends it.
    let (key, value) = rest.strip_prefix('[')?.split_once("]: ")?;
    Some((key.to_owned(), value.to_owned()))
}

/// A map as [`map`] returns it, from literals.
pub fn entries<K: ToString, V: ToString>(pairs: impl IntoIterator<Item = (K, V)>) -> BTreeMap<String, String> {
    pairs.into_iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
}

/// All whole numbers in the text.
pub fn numbers(text: &str) -> Vec<u64> {
    text.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_told_apart_and_the_last_print_wins() {
        let text = "@: 1\n@[a]: 2\n@dns[10.0.0.1, 53]: 3\nnoise\n@dns[10.0.0.1, 53]: 4\n@d[[::1]:443 > x]: 5\n";
        assert_eq!(map(text, "@"), entries([("", 1), ("a", 2)]));
        assert_eq!(map(text, "@dns"), entries([("10.0.0.1, 53", 4)]));
        assert_eq!(map(text, "@d"), entries([("[::1]:443 > x", 5)]));
        assert!(map(text, "@dn").is_empty());
        assert_eq!(numbers("{ .packets = 7, .bytes = 420 }"), [7, 420]);
    }
}
