//! Attach points on the path of packets.

use super::Site;
use crate::hir::check::{Checker, nearest_name};
use crate::object::{AttachPoint, Direction, IfacePattern, XdpMode};
use crate::tables::Hook;
use weir_parser::{Diagnostic, Span, ast};

impl Checker<'_> {
    pub(super) fn xdp_site(&mut self, point: &ast::AttachPoint, parts: &[String], out: &mut Vec<Site>, wrong: impl Fn(&str) -> Diagnostic) {
        let (iface, mode) = match parts.get(1..).unwrap_or_default() {
            [iface] => (iface, XdpMode::Auto),
            [iface, mode] => match mode.as_str() {
                "native" => (iface, XdpMode::Native),
                "generic" => (iface, XdpMode::Generic),
                "offload" => (iface, XdpMode::Offload),
                _ => return self.error(wrong("has an unknown mode")),
            },
            _ => return self.error(wrong("has the wrong number of parts")),
        };
        if let Some(iface) = self.iface(iface, point.parts[1].span) {
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
        if let Some(iface) = self.iface(iface, point.parts[1].span) {
            out.push(Site::new(Hook::Tc, point.span, parts, AttachPoint::Tc { iface, direction }));
        }
    }

    fn iface(&mut self, word: &str, span: Span) -> Option<IfacePattern> {
        let (pattern, netns) = match word.split_once('@') {
            Some((pattern, netns)) => (pattern, Some(netns.to_owned())),
            None => (word, None),
        };
        if pattern.is_empty() {
            self.error(Diagnostic::error("no-interface", span, "the interface is missing"));
            return None;
        }
        let glob = pattern.contains(['*', '?', '[']);
        if !glob && netns.is_none() {
            let interfaces = self.kernel.interfaces();
            if !interfaces.iter().any(|i| i == pattern) {
                let d = Diagnostic::error("no-interface", span, format!("there is no interface `{pattern}`"));
                let d = match nearest_name(pattern, interfaces.iter().map(String::as_str)) {
                    Some(near) => d.help(format!("did you mean `{near}`?")),
                    None => d.help(format!("there are `{}`", interfaces.join("`, `"))),
                };
                self.error(d);
                return None;
            }
        }
        Some(IfacePattern {
            pattern: pattern.to_owned(),
            netns,
        })
    }
}
