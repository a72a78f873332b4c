//! Whether anybody is there whom a filter belongs to.
//!
//! On kernels without tcx a filter is not tied to its owner, and stays for a while when that is killed. What decides on packets must not.

use super::map::Array;
use aya_ebpf::helpers::generated::bpf_ktime_get_ns;

const TEN_SECONDS: u64 = 10_000_000_000;

/// Tells whether user space has shown itself within ten seconds: it writes the time of the monotonic clock to `heartbeat`.
/// That clock stands still while the machine sleeps, so that an owner which slept as long is there when it wakes.
#[inline(always)]
pub fn is_owned(heartbeat: &'static Array<u64, 1>) -> bool {
    let first = 0;
    heartbeat.get(&first).is_some_and(|beat| {
        // SAFETY: a word that is written as a whole.
        let beat = unsafe { beat.read_volatile() };
        // SAFETY: no arguments.
        unsafe { bpf_ktime_get_ns() }.wrapping_sub(beat) < TEN_SECONDS
    })
}
