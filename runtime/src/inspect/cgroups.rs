//! Programs on cgroups: each cgroup's own, and the effective order in which they run.

use super::objects::Objects;
use super::{Attachment, Cgroup, Place};
use crate::sys::bpf::query::{self, HookTarget, LinkPlace};
use crate::sys::cgroup::Cgroup2;
use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};

/// `enum bpf_attach_type` of cgroup hooks, with the kernel's names in lower case.
const HOOKS: &[(u32, &str)] = &[
    (0, "inet_ingress"),
    (1, "inet_egress"),
    (2, "inet_sock_create"),
    (3, "sock_ops"),
    (6, "device"),
    (8, "inet4_bind"),
    (9, "inet6_bind"),
    (10, "inet4_connect"),
    (11, "inet6_connect"),
    (12, "inet4_post_bind"),
    (13, "inet6_post_bind"),
    (14, "udp4_sendmsg"),
    (15, "udp6_sendmsg"),
    (18, "sysctl"),
    (19, "udp4_recvmsg"),
    (20, "udp6_recvmsg"),
    (21, "getsockopt"),
    (22, "setsockopt"),
    (29, "inet4_getpeername"),
    (30, "inet6_getpeername"),
    (31, "inet4_getsockname"),
    (32, "inet6_getsockname"),
    (34, "inet_sock_release"),
    (49, "unix_connect"),
    (50, "unix_sendmsg"),
    (51, "unix_recvmsg"),
    (52, "unix_getpeername"),
    (53, "unix_getsockname"),
];

const ALLOW_OVERRIDE: u32 = 1;
const ALLOW_MULTI: u32 = 2;

/// Looks at every cgroup of the unified hierarchy.
pub fn read(objects: &mut Objects) -> Vec<Cgroup> {
    let mut found = Vec::new();
    if let Ok(hierarchy) = Cgroup2::get() {
        let mut looker = Looker {
            from: HashMap::new(),
            objects,
        };
        hierarchy.walk("/", &mut |path, id| {
            if let Ok(dir) = hierarchy.open_dir(path) {
                found.extend(looker.cgroup(&dir, path, id));
            }
        });
    }
    found
}

struct Looker<'a> {
    /// Where a program was first seen on a kind of hook: an ancestor comes before those that inherit.
    from: HashMap<(u32, u32), String>,
    objects: &'a mut Objects,
}

impl Looker<'_> {
    fn cgroup(&mut self, dir: &OwnedFd, path: &str, id: u64) -> Option<Cgroup> {
        let mut programs = Vec::new();
        for (attach_type, name) in HOOKS {
            let target = HookTarget::Fd(dir.as_fd());
            let Ok(own) = query::prog_query(target, *attach_type, false) else {
                continue;
            };
            // What a cgroup only inherits is shown where it is.
            if own.programs.is_empty() {
                continue;
            }
            let effective = query::prog_query(target, *attach_type, true).unwrap_or_else(|_| own.clone());
            for program in &effective.programs {
                let is_own = own.programs.iter().any(|p| p.id == program.id);
                if is_own {
                    self.from.entry((*attach_type, program.id)).or_insert_with(|| path.to_owned());
                }
                let link = self.objects.links.iter().find(|l| {
                    l.prog_id == program.id
                        && matches!(l.place, LinkPlace::Cgroup { cgroup_id, attach_type: at } if cgroup_id == id && at == *attach_type)
                });
                let from = if is_own {
                    None
                } else {
                    self.from.get(&(*attach_type, program.id)).cloned()
                };
                programs.push(Attachment {
                    at: Place::Cgroup {
                        attach_type: (*name).to_owned(),
                        raw_type: *attach_type,
                        flags: flags(own.flags),
                        from,
                    },
                    link_id: link.map(|l| l.id),
                    program: self.objects.program(program.id).ok(),
                });
            }
        }
        (!programs.is_empty()).then(|| Cgroup {
            path: path.to_owned(),
            id,
            programs,
        })
    }
}

fn flags(raw: u32) -> String {
    let mut words = Vec::new();
    if raw & ALLOW_MULTI != 0 {
        words.push("multi");
    }
    if raw & ALLOW_OVERRIDE != 0 {
        words.push("override");
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_words() {
        assert_eq!(flags(0), "");
        assert_eq!(flags(ALLOW_MULTI), "multi");
        assert_eq!(flags(ALLOW_OVERRIDE), "override");
    }
}
