//! What natives show for a process where there is none, each word with a pid of 0. `flows` and `retransmits` document them.

/// Nobody listens, say, or a rule of the firewall refuses.
pub(super) use weir_ebpf_builtins::abi::KERNEL;
/// There is a socket, and no process is known that has it.
pub(super) const UNKNOWN: &str = "?";
/// No socket was seen: it is between others.
pub(super) const UNSEEN: &str = "-";
