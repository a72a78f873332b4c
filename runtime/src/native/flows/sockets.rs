//! Whose packets a flow has, as its record tells it, and who gets them.

use weir_ebpf_builtins::abi::net::Flow;
use weir_ebpf_builtins::flows::{self as object, Key, Record};

/// What is known of the socket of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Socket {
    /// There was none: it is between others.
    Unseen,
    /// One of the kernel's own, or none where the kernel itself has sent.
    Kernels,
    Cookie(u64),
}

impl Socket {
    /// The sender's.
    pub fn of(record: &Record) -> Self {
        match record.cookie {
            0 if record.state & object::STATE_KERNEL != 0 => Socket::Kernels,
            0 => Socket::Unseen,
            cookie => Socket::Cookie(cookie),
        }
    }

    pub fn cookie(self) -> Option<u64> {
        match self {
            Socket::Cookie(cookie) => Some(cookie),
            Socket::Unseen | Socket::Kernels => None,
        }
    }
}

/// The flow of the answers.
pub(super) fn back(key: Key) -> Key {
    let flow = key.flow;
    Key {
        flow: Flow {
            src: flow.dst,
            dst: flow.src,
            sport: flow.dport,
            dport: flow.sport,
            ..flow
        },
        direction: if key.direction == object::DIRECTION_EGRESS {
            object::DIRECTION_INGRESS
        } else {
            object::DIRECTION_EGRESS
        },
        ..key
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_comes_later_has_the_flow_that_the_kernel_has_answered() {
        let mut record = Record::default();
        assert_eq!((Socket::of(&record), Socket::of(&record).cookie()), (Socket::Unseen, None));
        record.state = object::STATE_KERNEL | object::STATE_SEQ;
        assert_eq!((Socket::of(&record), Socket::of(&record).cookie()), (Socket::Kernels, None));
        record.cookie = 7;
        assert_eq!((Socket::of(&record), Socket::of(&record).cookie()), (Socket::Cookie(7), Some(7)));
    }
}
