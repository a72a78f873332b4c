//! Shows programs at TC that somebody is there.
//!
//! A tcx link goes with its owner. A filter in clsact may outlive it, and without a name it must not decide any more then: its program
//! lets everything pass when the last beat is ten seconds old. A thread of its own beats: whoever reads a long list again while packets come at
//! full speed may be busy for longer than that, and is there all the same.

use crate::error::Error;
use crate::kernel::Kernel;
use crate::maps::{self, Map};
use crate::pin::Pin;
use crate::sys::{Result as SysResult, SysError, bpf, proc};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;
use weir_compiler::kernel::{Feature, KernelInfo, Support};

const PERIOD: Duration = Duration::from_secs(1);

/// Tells whether programs at TC have to be shown it. With a pin they are meant to outlive us.
pub(super) fn is_needed(kernel: &Kernel, pin: Option<&Pin>) -> bool {
    pin.is_none() && !matches!(kernel.feature(Feature::Tcx), Support::Yes)
}

/// Beats until it is dropped.
#[derive(Debug)]
pub(crate) struct Heart {
    /// Closed to end it.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Heart {
    /// Beats once, and from then on by itself: writes the time of the monotonic clock. It stands still while the
    /// machine sleeps: nothing is open until the first beat after that.
    ///
    /// # Errors
    /// What the kernel says; no more threads.
    pub fn start(map: &Map) -> Result<Self, Error> {
        let map = maps::dup(map.fd.as_fd(), &map.symbol)?;
        beat(&map)?;
        let (stop, stopped) = channel::<()>();
        let thread = std::thread::Builder::new().name("heartbeat".to_owned()).spawn(move || {
            while stopped.recv_timeout(PERIOD) == Err(RecvTimeoutError::Timeout) {
                // Without it everything passes: the safe side.
                let _ = beat(&map);
            }
        });
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread.map_err(|e| Error::Sys(SysError::new("start", "the heartbeat", e)))?),
        })
    }
}

impl Drop for Heart {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // It does nothing that panics.
            let _ = thread.join();
        }
    }
}

fn beat(map: &OwnedFd) -> SysResult<()> {
    let now = proc::clock_ns(libc::CLOCK_MONOTONIC);
    bpf::map_update(map.as_fd(), &0u32.to_ne_bytes(), &now.to_ne_bytes(), 0, "heartbeat")
}
