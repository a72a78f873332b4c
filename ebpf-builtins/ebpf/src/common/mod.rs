//! What all natives are made of. No program of its own.

pub mod headers;
pub mod heartbeat;
pub mod ipv6;
pub mod kernel;
pub mod map;
pub mod packet;

/// Defines settings: `u32` variables of `.rodata` that user space sets before loading.
///
/// The section is named although it would be the default: LLVM then leaves the variable alone. Otherwise it may let a
/// constant of the program with the same bytes (a map key 0, say) share the variable's place, and user space would
/// change both.
macro_rules! settings {
    ($($name:ident = $default:expr;)*) => {
        $(
            #[unsafe(no_mangle)]
            #[unsafe(link_section = ".rodata")]
            static $name: u32 = $default;
        )*
    };
}
pub(crate) use settings;

/// Reads a setting.
///
/// The verifier knows its value (the section is frozen) and removes the branches that depend on it, so a feature that
/// is switched off costs no more than the reading. Volatile, or the compiler would take the default.
macro_rules! setting {
    ($name:ident) => {{
        // SAFETY: a static `u32`; nothing writes it while the program exists.
        unsafe { core::ptr::read_volatile(&raw const $name) }
    }};
}
pub(crate) use setting;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Never linked: nothing here panics, and the verifier would refuse the endless loop.
    loop {}
}
