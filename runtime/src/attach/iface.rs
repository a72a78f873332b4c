//! Interface patterns to interfaces, in any network namespace.

use crate::error::Error;
use crate::sys::netlink::{Link, Netlink};
use crate::sys::netns;
use weir_compiler::hir::glob_match;
use weir_compiler::object::IfacePattern;
use weir_parser::Span;

const ARPHRD_ETHER: u16 = 1;
const ARPHRD_LOOPBACK: u16 = 772;

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
            let wanted = |l: &Link| glob_match(&pattern.pattern, &l.name) && !(pattern.pattern == "*" && l.arphrd == ARPHRD_LOOPBACK);
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
    // Packet fields are found from the Ethernet header on; a filter that looks at the wrong bytes is worse than none.
    let (ethernet, other): (Vec<_>, Vec<_>) = links.into_iter().partition(|l| matches!(l.arphrd, ARPHRD_ETHER | ARPHRD_LOOPBACK));
    match other.into_iter().next() {
        Some(link) if ethernet.is_empty() || !is_glob => Err(Error::NotEthernet { iface: link.name, span }),
        _ => Ok(ethernet),
    }
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
            assert_eq!(glob_match(pattern, name), matches, "{pattern} {name}");
        }
    }
}
