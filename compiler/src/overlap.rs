//! Patterns that can name the same place, taken apart: a place has one program, with the blocks of all patterns that name it.
//!
//! Input: the patterns on one kind of hook. Output: for each its [`Part`]s, such that every name, also one that comes later, is in
//! exactly one part of one pattern. Pure.

use crate::hir::{glob_match, glob_step, is_glob};

/// What the patterns name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// `*` is all interfaces but the loopback.
    Interfaces,
    /// Paths; a `*` stays within one directory.
    Cgroups,
}

/// Some of what a pattern names: that which all of `also` name, too, and none of `except`. Indices of patterns.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Part {
    pub also: Vec<usize>,
    pub except: Vec<usize>,
}

/// More programs than this for the patterns of one script are a mistake.
pub const MAX_PARTS: usize = 64;

const LOOPBACK: &str = "lo";

/// Takes apart what pattern number `i` names. Of those that overlap, the first one has what they share. Stops behind [`MAX_PARTS`].
#[must_use]
pub fn parts(names: Names, patterns: &[&str], i: usize) -> Vec<Part> {
    let this = patterns[i];
    let others = (0..patterns.len()).filter(|j| *j != i && patterns[*j] != this && meet(names, this, patterns[*j]));
    if !is_glob(this) {
        // A name is in all patterns that match it or in none: nothing is left to choose.
        return vec![Part {
            also: others.collect(),
            except: Vec::new(),
        }];
    }
    let (globs, mut except): (Vec<usize>, Vec<usize>) = others.partition(|j| is_glob(patterns[*j]) && *j > i);
    // Exact names, and what an earlier pattern has already.
    except.sort_unstable();
    let mut out = Vec::new();
    choose(names, patterns, &globs, &mut Vec::new(), &mut |also| {
        let left_out = globs.iter().filter(|j| !also.contains(j));
        let except: Vec<usize> = except.iter().chain(left_out).copied().collect();
        let inside = |e: &usize| is_glob(patterns[*e]) && also.iter().chain([&i]).any(|a| covers(names, patterns[*e], patterns[*a]));
        if !except.iter().any(inside) {
            out.push(Part {
                also: also.to_vec(),
                except,
            });
        }
        out.len() <= MAX_PARTS
    });
    out
}

/// Visits every choice among `rest` whose patterns can all meet, until `visit` has enough.
fn choose(names: Names, patterns: &[&str], rest: &[usize], chosen: &mut Vec<usize>, visit: &mut impl FnMut(&[usize]) -> bool) -> bool {
    let Some((first, rest)) = rest.split_first() else {
        return visit(chosen);
    };
    if !choose(names, patterns, rest, chosen, visit) {
        return false;
    }
    if chosen.iter().all(|c| meet(names, patterns[*c], patterns[*first])) {
        chosen.push(*first);
        let more = choose(names, patterns, rest, chosen, visit);
        chosen.pop();
        return more;
    }
    true
}

/// Whether something can have a name that both patterns match.
#[must_use]
pub fn meet(names: Names, a: &str, b: &str) -> bool {
    match names {
        Names::Interfaces => {
            let loopback = |x: &str, y: &str| x == "*" && y == LOOPBACK;
            globs_meet(a, b) && !loopback(a, b) && !loopback(b, a)
        }
        Names::Cgroups => {
            let (a, b) = (components(a), components(b));
            a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| globs_meet(a, b))
        }
    }
}

/// Whether a path is one that the pattern names.
#[must_use]
pub fn path_matches(pattern: &str, path: &str) -> bool {
    let (pattern, path) = (components(pattern), components(path));
    pattern.len() == path.len() && pattern.iter().zip(&path).all(|(p, n)| glob_match(p, n))
}

fn components(path: &str) -> Vec<&str> {
    path.split('/').filter(|p| !p.is_empty()).collect()
}

/// Whether `a` certainly matches all that `b` matches. A "no" costs a program that is never attached.
fn covers(names: Names, a: &str, b: &str) -> bool {
    let all = |a: &str, b: &str| {
        let literal = a.strip_suffix('*').filter(|l| !is_glob(l));
        a == b || literal.is_some_and(|l| b.split(['*', '?', '[']).next().is_some_and(|start| start.starts_with(l)))
    };
    match names {
        Names::Interfaces => all(a, b) && !(a == "*" && a != b && glob_match(b, LOOPBACK)),
        Names::Cgroups => {
            let (a, b) = (components(a), components(b));
            a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| all(a, b))
        }
    }
}

/// One character of a pattern: which bytes it matches. `None` is a `*`.
type Step = Option<[bool; 256]>;

fn steps(pattern: &str) -> Vec<Step> {
    let pattern = pattern.as_bytes();
    let mut out = Vec::new();
    let mut at = 0;
    while at < pattern.len() {
        if pattern[at] == b'*' {
            out.push(None);
            at += 1;
            continue;
        }
        let mut set = [false; 256];
        let mut next = at + 1;
        for byte in 1..=u8::MAX {
            if let Some(after) = glob_step(pattern, at, byte) {
                set[usize::from(byte)] = true;
                next = after;
            }
        }
        out.push(Some(set));
        at = next;
    }
    out
}

/// Whether there is a text that both patterns match.
fn globs_meet(a: &str, b: &str) -> bool {
    let (a, b) = (steps(a), steps(b));
    // From the ends: whether what is behind `i` and behind `j` meets.
    let mut meets = vec![vec![false; b.len() + 1]; a.len() + 1];
    for i in (0..=a.len()).rev() {
        for j in (0..=b.len()).rev() {
            meets[i][j] = match (a.get(i), b.get(j)) {
                (None, None) => true,
                (Some(None), _) => meets[i + 1][j] || j < b.len() && meets[i][j + 1],
                (_, Some(None)) => meets[i][j + 1] || i < a.len() && meets[i + 1][j],
                (Some(Some(x)), Some(Some(y))) => meets[i + 1][j + 1] && x.iter().zip(y).any(|(x, y)| *x && *y),
                _ => false,
            };
        }
    }
    meets[0][0]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every pattern's parts that a name is in: the patterns of each.
    fn places(names: Names, patterns: &[&str], name: &str, is: impl Fn(&str, &str) -> bool) -> Vec<Vec<usize>> {
        let mut found = Vec::new();
        for (i, pattern) in patterns.iter().enumerate() {
            for part in parts(names, patterns, i) {
                let in_it = is(pattern, name)
                    && (!is_glob(pattern) || part.also.iter().all(|j| is(patterns[*j], name)))
                    && !part.except.iter().any(|j| is(patterns[*j], name));
                if in_it {
                    let mut all = part.also.clone();
                    all.push(i);
                    all.sort_unstable();
                    found.push(all);
                }
            }
        }
        found
    }

    #[test]
    fn every_name_is_in_one_part_with_all_its_patterns() {
        let is = |pattern: &str, name: &str| glob_match(pattern, name) && !(pattern == "*" && name == "lo");
        let sets: &[&[&str]] = &[
            &["veth0", "veth*"],
            &["veth*", "veth0", "*"],
            &["*", "lo", "l*", "lxc?"],
            &["a*", "*a", "*b*", "ab", "[!a]*"],
            &["eth[0-2]", "eth?", "*1", "eth1"],
        ];
        let names = [
            "veth0", "veth1", "lo", "lxc1", "lxc22", "a", "ab", "aba", "ba", "b", "xbx", "eth0", "eth1", "eth7", "q1",
        ];
        for patterns in sets {
            for name in names {
                let expected: Vec<usize> = (0..patterns.len()).filter(|i| is(patterns[*i], name)).collect();
                let found = places(Names::Interfaces, patterns, name, is);
                if expected.is_empty() {
                    assert!(found.is_empty(), "{patterns:?} {name}: {found:?}");
                } else {
                    assert_eq!(found, [expected], "{patterns:?} {name}");
                }
            }
        }
    }

    #[test]
    fn paths_are_taken_apart_by_directory() {
        let patterns = ["/a/*", "/a/b", "/*/b", "/a", "/*"];
        for path in ["/a", "/b", "/a/b", "/a/c", "/c/b", "/c/d", "/a/b/c", "/"] {
            let expected: Vec<usize> = (0..patterns.len()).filter(|i| path_matches(patterns[*i], path)).collect();
            let found = places(Names::Cgroups, &patterns, path, path_matches);
            assert_eq!(found.len(), usize::from(!expected.is_empty()), "{path}: {found:?}");
            assert!(found.iter().all(|f| *f == expected), "{path}: {found:?}");
        }
    }

    #[test]
    fn a_part_that_nothing_can_be_in_is_left_out() {
        // What is not in `*` is not in `veth*` either.
        assert_eq!(parts(Names::Interfaces, &["veth*", "*"], 0).len(), 1);
        assert_eq!(parts(Names::Interfaces, &["veth*", "*"], 1).len(), 1);
        // `l*` has the loopback, which `*` has not.
        assert_eq!(parts(Names::Interfaces, &["l*", "*"], 0).len(), 2);
        let many: Vec<String> = ('a'..='j').map(|c| format!("*{c}*")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(parts(Names::Interfaces, &many, 0).len() > MAX_PARTS);
    }

    #[test]
    fn patterns_meet_when_a_text_matches_both() {
        for (a, b, expected) in [
            ("veth*", "*0", true),
            ("veth*", "eth*", false),
            ("a?", "?b", true),
            ("a?", "abc", false),
            ("[a-c]x", "[!a-b]x", true),
            ("[ab]x", "[!ab]x", false),
            ("*a", "*b", false),
            ("*a*", "*b*", true),
            ("", "*", true),
        ] {
            assert_eq!(globs_meet(a, b), expected, "{a} {b}");
            assert_eq!(globs_meet(b, a), expected, "{b} {a}");
        }
    }
}
