//! Attach points on the path of packets.

use super::Site;
use crate::hir::check::{Checker, interface_help, nearest_name};
use crate::object::{AttachPoint, Direction, IfacePattern, LinkLayer, XdpMode};
use crate::tables::Hook;
use weir_parser::{Diagnostic, Span, ast};

impl Checker<'_> {
    pub(super) fn xdp_site(&mut self, point: &ast::AttachPoint, parts: &[String], out: &mut Vec<Site>, wrong: impl Fn(&str) -> Diagnostic) {
        let (iface, mode) = match parts.get(1..).unwrap_or_default() {
            [iface] => (iface, XdpMode::Auto),
            [iface, mode] => match mode.as_str() {
                "native" => (iface, XdpMode::Native),
                "generic" => (iface, XdpMode::Generic),
                "offload" if crate::hir::is_glob(iface) => {
                    let d = Diagnostic::error(
                        crate::card::CODE,
                        point.parts[1].span,
                        "a program in a card, and its maps, belong to that card: a pattern may name several",
                    );
                    return self.error(d.help(format!("name one interface, or write `xdp:{iface}:native`")));
                }
                "offload" => (iface, XdpMode::Offload),
                _ => return self.error(wrong("has an unknown mode")),
            },
            _ => return self.error(wrong("has the wrong number of parts")),
        };
        for iface in self.iface(iface, point.parts[1].span) {
            out.push(Site::new(Hook::Xdp, point.span, parts, AttachPoint::Xdp { iface, mode }));
        }
    }

    pub(super) fn tc_site(&mut self, point: &ast::AttachPoint, parts: &[String], out: &mut Vec<Site>, wrong: impl Fn(&str) -> Diagnostic) {
        let [iface, direction] = parts.get(1..).unwrap_or_default() else {
            return self.error(wrong("has the wrong number of parts"));
        };
        let direction = match direction.as_str() {
            "ingress" | "from_pod" => Direction::Ingress,
            "egress" | "to_pod" => Direction::Egress,
            _ => return self.error(wrong("has an unknown direction")),
        };
        for iface in self.iface(iface, point.parts[1].span) {
            out.push(Site::new(Hook::Tc, point.span, parts, AttachPoint::Tc { iface, direction }));
        }
    }

    /// Resolves the interface of an attach point. A pattern is two: one for interfaces with Ethernet, one for those whose packets start
    /// with IP, since the code differs.
    fn iface(&mut self, word: &str, span: Span) -> Vec<IfacePattern> {
        let pattern = IfacePattern::parse(word);
        if pattern.pattern.is_empty() {
            self.error(Diagnostic::error("no-interface", span, "the interface is missing"));
            return Vec::new();
        }
        let with = |link_layer| IfacePattern {
            link_layer,
            ..pattern.clone()
        };
        let either = [LinkLayer::Ethernet, LinkLayer::None];
        // A script is judged for machines with other interfaces than this one, too.
        if self.kernel.any_interface() || self.options.judged_only {
            return either.map(with).to_vec();
        }
        let (interfaces, place) = match &pattern.netns {
            None => (self.kernel.interfaces(), String::new()),
            Some(netns) => match self.kernel.interfaces_in(netns) {
                Ok(interfaces) => (interfaces, format!(" in network namespace `{netns}`")),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                    let d = Diagnostic::error("no-netns", span, format!("there is no network namespace `{netns}`"));
                    let named = self.kernel.network_namespaces();
                    self.error(d.help(match nearest_name(netns, named.iter().map(String::as_str)) {
                        Some(near) => format!("did you mean `{near}`?"),
                        None if named.is_empty() => "write a name of `ip netns`, a pid, or a path; there are no names".to_owned(),
                        None => format!("write a name of `ip netns` (there are `{}`), a pid, or a path", named.join("`, `")),
                    }));
                    return Vec::new();
                }
                // It may be for others to look into; attaching says so.
                Err(_) => return vec![pattern],
            },
        };
        let name = &pattern.pattern;
        if !pattern.is_glob() && !interfaces.iter().any(|i| i == name) {
            let d = Diagnostic::error("no-interface", span, format!("there is no interface `{name}`{place}"));
            self.error(d.help(interface_help(name, &interfaces)));
            return Vec::new();
        }
        let layers = if pattern.is_glob() {
            either.to_vec()
        } else {
            match self.kernel.link_layer(name, pattern.netns.as_deref()) {
                Some(layer) => vec![layer],
                None => {
                    let d = Diagnostic::error(
                        "link-layer",
                        span,
                        format!("packets of `{name}` start with neither Ethernet nor IP"),
                    );
                    self.error(d.help("weir reads packets of Ethernet interfaces and of IP tunnels"));
                    Vec::new()
                }
            }
        };
        layers.into_iter().map(with).collect()
    }
}
