//! What natives show for a process where there is none, each word with a pid of 0. `flows` and `retransmits` document them.

/// The kernel itself has sent it: nobody listens, say, or a rule of the firewall refuses.
pub(super) const KERNEL: &str = "kernel";
/// There is a socket, and no process is known that has it.
pub(super) const UNKNOWN: &str = "?";
/// No socket was seen: it is between others.
pub(super) const UNSEEN: &str = "-";
