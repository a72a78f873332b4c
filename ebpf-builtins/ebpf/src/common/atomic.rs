//! Atomic additions without their result, which this target's library does not have. Who uses them names the feature
//! `asm_experimental_arch`, and is named in `RUSTC_BOOTSTRAP` by `cargo xtask builtins`.

use core::arch::asm;

/// Adds to a word that other CPUs add to as well.
///
/// # Safety
/// `at` must be writable and aligned.
#[inline(always)]
pub unsafe fn add64(at: *mut u64, by: u64) {
    // SAFETY: the caller's.
    unsafe { asm!("lock *(u64 *)({at} + 0) += {by}", at = in(reg) at, by = in(reg) by) }
}

/// As [`add64`].
///
/// # Safety
/// As there.
#[inline(always)]
pub unsafe fn add32(at: *mut u32, by: u32) {
    // SAFETY: the caller's.
    unsafe { asm!("lock *(u32 *)({at} + 0) += {by}", at = in(reg) at, by = in(wreg) by) }
}

/// Sets bits of a word in which other CPUs set bits as well.
///
/// # Safety
/// As there.
#[inline(always)]
pub unsafe fn or32(at: *mut u32, bits: u32) {
    // SAFETY: the caller's.
    unsafe { asm!("lock *(u32 *)({at} + 0) |= {bits}", at = in(reg) at, bits = in(wreg) bits) }
}
