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
/// Volatile, or the compiler would take the default. weir puts the value in its place when it loads the program, and takes out what was
/// only there to decide by it; for other loaders the verifier removes the branches that depend on it (the section is frozen), and the
/// reading stays. Read a setting where it matters: what is kept over a call takes a register, or room on the stack.
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
