//! Interface patterns to interfaces, in any network namespace.

use crate::error::Error;
use crate::sys::netlink::{Link, Netlink};
use crate::sys::netns;
use weir_compiler::object::IfacePattern;
use weir_parser::Span;

const ARPHRD_LOOPBACK: u16 = 772;

/// Matches a glob with `*`, `?` and `[abc]`, `[a-z]`, `[!x]`.
#[must_use]
pub fn glob(pattern: &str, name: &str) -> bool {
    fn inner(p: &[char], n: &[char]) -> bool {
        match p.first() {
            None => n.is_empty(),
            Some('*') => (0..=n.len()).any(|skip| inner(&p[1..], &n[skip..])),
            Some('?') => !n.is_empty() && inner(&p[1..], &n[1..]),
            Some('[') => match (p.iter().position(|c| *c == ']'), n.first()) {
                (Some(end), Some(c)) if end > 1 => set(&p[1..end], *c) && inner(&p[end + 1..], &n[1..]),
                _ => n.first() == Some(&'[') && inner(&p[1..], &n[1..]),
            },
            Some(c) => n.first() == Some(c) && inner(&p[1..], &n[1..]),
        }
    }
    fn set(s: &[char], c: char) -> bool {
        let (negated, s) = if s[0] == '!' { (true, &s[1..]) } else { (false, s) };
        let mut i = 0;
        let mut found = false;
        while i < s.len() {
            if i + 2 < s.len() && s[i + 1] == '-' {
                found |= (s[i]..=s[i + 2]).contains(&c);
                i += 3;
            } else {
                found |= s[i] == c;
                i += 1;
            }
        }
        found != negated
    }
    inner(&pattern.chars().collect::<Vec<_>>(), &name.chars().collect::<Vec<_>>())
}

/// Finds the interfaces that a pattern names. `*` is all but the loopback.
///
/// # Errors
/// When there is none, or the network namespace cannot be entered.
pub fn resolve(pattern: &IfacePattern, span: Span) -> Result<Vec<Link>, Error> {
    let is_glob = pattern.pattern.contains(['*', '?', '[']);
    let links = netns::run_in(pattern.netns.as_deref(), || {
        let mut netlink = Netlink::open()?;
        if is_glob {
            let all = netlink.links()?;
            let wanted = |l: &Link| glob(&pattern.pattern, &l.name) && !(pattern.pattern == "*" && l.arphrd == ARPHRD_LOOPBACK);
            Ok(all.into_iter().filter(wanted).collect())
        } else {
            netlink.link(&pattern.pattern).map(|l| l.into_iter().collect::<Vec<_>>())
        }
    })??;
    if links.is_empty() {
        let known = netns::run_in(pattern.netns.as_deref(), || Netlink::open().and_then(|mut n| n.links()))??;
        return Err(Error::NoInterface {
            pattern: pattern.pattern.clone(),
            netns: pattern.netns.clone(),
            known: known.into_iter().map(|l| l.name).collect(),
            span,
        });
    }
    Ok(links)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs() {
        for (pattern, name, matches) in [
            ("veth0", "veth0", true),
            ("veth0", "veth01", false),
            ("lxc*", "lxc12", true),
            ("*", "anything", true),
            ("v*0", "veth10", true),
            ("veth?", "veth1", true),
            ("veth?", "veth", false),
            ("eth[0-2]", "eth1", true),
            ("eth[!0]", "eth0", false),
            ("eth[ab]", "etha", true),
        ] {
            assert_eq!(glob(pattern, name), matches, "{pattern} {name}");
        }
    }
}
