//! Hooks of cgroups on system calls of sockets.

use super::hooks::Hook;

/// A hook of `cgroup:PATH:HOOK`.
#[derive(Debug, PartialEq, Eq)]
pub struct CgroupHook {
    /// The last word of the attach point; the ELF section is `cgroup/` and this.
    pub name: &'static str,
    /// What blocks there can use.
    pub hook: Hook,
    /// `enum bpf_attach_type`, include/uapi/linux/bpf.h.
    pub attach_type: u32,
    pub family: AddressFamily,
    /// Whether `deny()` makes the system call fail; the kernel takes no other answer than "allow" from the rest.
    pub can_deny: bool,
    pub doc: &'static str,
}

/// Which sockets a hook sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressFamily {
    V4,
    V6,
    /// No address is known there.
    None,
}

macro_rules! cgroup_hooks {
    ($($name:literal $hook:ident $number:literal $family:ident $can_deny:literal $doc:literal;)*) => {
        /// Every such hook.
        pub static CGROUP_HOOKS: &[CgroupHook] = &[$(CgroupHook {
            name: $name,
            hook: Hook::$hook,
            attach_type: $number,
            family: AddressFamily::$family,
            can_deny: $can_deny,
            doc: $doc,
        },)*];
    };
}

cgroup_hooks! {
    "connect4" CgroupSockAddr 10 V4 true "connect(2) of an IPv4 socket; the address it wants to reach";
    "connect6" CgroupSockAddr 11 V6 true "connect(2) of an IPv6 socket";
    "bind4" CgroupSockAddr 8 V4 true "bind(2) of an IPv4 socket; the address it wants to have";
    "bind6" CgroupSockAddr 9 V6 true "bind(2) of an IPv6 socket";
    "sendmsg4" CgroupSockAddr 14 V4 true "sendmsg(2) of an unconnected IPv4 UDP socket; where to";
    "sendmsg6" CgroupSockAddr 15 V6 true "sendmsg(2) of an unconnected IPv6 UDP socket";
    "recvmsg4" CgroupSockAddr 19 V4 false "recvmsg(2) of an IPv4 UDP socket, as it returns; where from";
    "recvmsg6" CgroupSockAddr 20 V6 false "recvmsg(2) of an IPv6 UDP socket, as it returns";
    "getpeername4" CgroupSockAddr 29 V4 false "getpeername(2) of an IPv4 socket; the answer";
    "getpeername6" CgroupSockAddr 30 V6 false "getpeername(2) of an IPv6 socket";
    "getsockname4" CgroupSockAddr 31 V4 false "getsockname(2) of an IPv4 socket; the answer";
    "getsockname6" CgroupSockAddr 32 V6 false "getsockname(2) of an IPv6 socket";
    "post_bind4" CgroupPostBind 12 V4 true "after bind(2) of an IPv4 socket; the address it has, with the port that the kernel chose";
    "post_bind6" CgroupPostBind 13 V6 true "after bind(2) of an IPv6 socket";
    "sock_create" CgroupSock 2 None true "socket(2) of the IP families";
    "sock_release" CgroupSock 34 None false "the end of such a socket";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_unique() {
        for (i, hook) in CGROUP_HOOKS.iter().enumerate() {
            assert!(
                CGROUP_HOOKS[..i]
                    .iter()
                    .all(|h| h.name != hook.name && h.attach_type != hook.attach_type),
                "{}",
                hook.name
            );
        }
    }

    #[test]
    fn names_say_the_family() {
        for hook in CGROUP_HOOKS {
            let family = match hook.name.as_bytes().last() {
                Some(b'4') => AddressFamily::V4,
                Some(b'6') => AddressFamily::V6,
                _ => AddressFamily::None,
            };
            assert_eq!(hook.family, family, "{}", hook.name);
        }
    }
}
