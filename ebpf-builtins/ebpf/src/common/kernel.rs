//! Reading the kernel's own memory, at offsets that weir takes from its types.

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
