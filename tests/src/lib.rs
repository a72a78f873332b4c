//! Support for the system tests: everything a test needs to put real traffic before a real `weir` and to see what is left.
//!
//! What it is: namespaces and links that remove themselves ([`net`]), traffic with exact counts ([`traffic`], [`frame`]), a driver
//! for the program ([`weir`]), a picture of the kernel's BPF objects and traffic control ([`kernel`]), feature probes
//! ([`features`]) and the list-of-tests harness ([`harness`]).
//! What it is not: it shares no code with weir, so that it can contradict it.
//! Needs root, iproute2, and a kernel with BPF.

pub mod cgroup;
pub mod features;
pub mod frame;
pub mod gate;
pub mod harness;
pub mod kernel;
pub mod net;
pub mod output;
pub mod pcapng;
pub mod terminal;
pub mod traffic;
pub mod victim;
pub mod weir;

use anyhow::{Result, bail};
use std::time::{Duration, Instant};

/// How long to wait for something that should happen at once. An emulated machine is an order of magnitude slower.
pub fn patience() -> Duration {
    Duration::from_secs(if in_vm() { 120 } else { 30 })
}

/// Whether we run in a virtual machine of `cargo xtask`, which says so.
pub fn in_vm() -> bool {
    std::env::var_os("WEIR_TEST_VM").is_some()
}

/// Asks again and again until the answer is there.
///
/// # Errors
/// The question failed, or there was no answer within [`patience`].
pub fn wait_for<T>(what: &str, mut question: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + patience();
    loop {
        if let Some(answer) = question()? {
            return Ok(answer);
        }
        if Instant::now() > deadline {
            bail!("waited {:?} in vain for {what}", patience());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
