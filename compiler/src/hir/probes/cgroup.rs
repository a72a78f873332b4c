//! Attach points of cgroups: `cgroup:PATH:HOOK` and `cgroup_skb:PATH:ingress|egress`.

use super::{Site, glob_match, is_glob};
use crate::hir::check::{Checker, nearest_name};
use crate::object::{AttachPoint, CgroupPattern, Direction};
use crate::tables::{CGROUP_HOOKS, Hook};
use weir_parser::{Diagnostic, Span, ast};

impl Checker<'_> {
    pub(super) fn cgroup_skb_site(
        &mut self,
        point: &ast::AttachPoint,
        parts: &[String],
        out: &mut Vec<Site>,
        wrong: impl Fn(&str) -> Diagnostic,
    ) {
        let [path, direction] = parts.get(1..).unwrap_or_default() else {
            return self.error(wrong("has the wrong number of parts"));
        };
        let direction = match direction.as_str() {
            "ingress" => Direction::Ingress,
            "egress" => Direction::Egress,
            _ => return self.error(wrong("has an unknown direction")),
        };
        for path in self.cgroups(path, point.parts[1].span) {
            out.push(Site::new(
                Hook::CgroupSkb,
                point.span,
                parts,
                AttachPoint::CgroupSkb { path, direction },
            ));
        }
    }

    pub(super) fn cgroup_site(
        &mut self,
        point: &ast::AttachPoint,
        parts: &[String],
        out: &mut Vec<Site>,
        wrong: impl Fn(&str) -> Diagnostic,
    ) {
        let [path, word] = parts.get(1..).unwrap_or_default() else {
            return self.error(wrong("has the wrong number of parts"));
        };
        let mut hooks = CGROUP_HOOKS.iter().filter(|h| glob_match(word, h.name)).peekable();
        if hooks.peek().is_none() {
            let d = Diagnostic::error("unknown-hook", point.parts[2].span, format!("a cgroup has no hook `{word}`"));
            let names = || CGROUP_HOOKS.iter().map(|h| h.name);
            return self.error(match (word.as_str(), nearest_name(word, names())) {
                ("ingress" | "egress", _) => d.help(format!("packets are at `cgroup_skb:{path}:{word}`")),
                (_, Some(near)) => d.help(format!("did you mean `{near}`?")),
                _ => d.help(format!("there are `{}`", names().collect::<Vec<_>>().join("`, `"))),
            });
        }
        let paths = self.cgroups(path, point.parts[1].span);
        for hook in hooks {
            for path in &paths {
                let path = path.clone();
                out.push(Site::new(hook.hook, point.span, parts, AttachPoint::Cgroup { path, hook }));
            }
        }
    }

    /// Resolves a path. A pattern stays one: cgroups come and go.
    fn cgroups(&mut self, path: &str, span: Span) -> Vec<CgroupPattern> {
        let found = match self.kernel.cgroups(path) {
            Ok(found) => found,
            Err(why) => {
                let d = Diagnostic::error("no-cgroups", span, format!("cgroups cannot be looked up: {why}"));
                self.error(d);
                return Vec::new();
            }
        };
        if is_glob(path) {
            return vec![CgroupPattern::new(self.kernel.cgroup_path(path))];
        }
        if found.is_empty() {
            let d = Diagnostic::error("no-cgroup", span, format!("no cgroup v2 directory is called `{path}`"));
            let all = self.kernel.cgroups_below("/");
            let full = format!("/{}", path.trim_start_matches('/'));
            let near = nearest_name(&full, all.iter().map(String::as_str));
            self.error(match near {
                Some(near) => d.help(format!("did you mean `{near}`?")),
                None => d.help("a path counts from the root of the cgroup v2 hierarchy: `/`, `/system.slice/nginx.service`"),
            });
        }
        found.into_iter().map(CgroupPattern::new).collect()
    }
}
