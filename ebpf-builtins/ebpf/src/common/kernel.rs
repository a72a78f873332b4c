//! Reading the kernel's own memory, at offsets that weir takes from its types.

use crate::abi::Owner;
use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use core::ffi::c_void;
use core::mem::MaybeUninit;

/// Reads from the kernel's memory; zeros where there is none.
#[inline(always)]
pub fn peek<T: Default>(object: u64, offset: u32) -> T {
    let mut value = MaybeUninit::<T>::uninit();
    let from = (object + u64::from(offset)) as *const c_void;
    // SAFETY: the helper writes the whole value, zeros if it fails; every caller's `T` is made of integers.
    unsafe {
        bpf_probe_read_kernel(value.as_mut_ptr().cast(), size_of::<T>() as u32, from);
        value.assume_init()
    }
}

/// Returns the process of a thread, by offsets in `task_struct`. Threads have names of their own, which tell less, and are many.
#[inline(always)]
pub fn process_of(task: u64, group_leader: u32, tgid: u32, comm: u32) -> Owner {
    let leader = peek(task, group_leader);
    Owner {
        comm: peek(leader, comm),
        pid: u64::from(peek::<u32>(leader, tgid)),
    }
}

/// The same by the settings that those have who look at threads.
#[allow(unused_macros, reason = "shared by all natives")]
macro_rules! process {
    ($task:expr) => {
        $crate::common::kernel::process_of($task, setting!(TASK_LEADER), setting!(TASK_TGID), setting!(TASK_COMM))
    };
}
#[allow(unused_imports, reason = "shared by all natives")]
pub(crate) use process;
