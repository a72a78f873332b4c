//! Bytes of the kernel to text and JSON, by [`Type`](weir_compiler::types::Type) alone. The forms are bpftrace's.
//!
//! Text is bytes, not `str`: strings of the kernel need not be UTF-8 and go out as they are. JSON is always UTF-8.

mod gfp;
pub mod hist;
pub mod json;
pub mod map;
pub mod printf;
mod series;
mod syscalls;
pub mod time;
pub mod value;

use crate::symbols::Symbols;

/// What formatting needs besides the bytes.
#[derive(Debug)]
pub struct Context {
    pub symbols: Symbols,
    /// Appended to a string that filled its room (`str_trunc_trailer`).
    pub trunc_trailer: String,
    /// Longest text that `str` reads (`max_strlen`).
    pub max_strlen: u32,
    /// Control characters in text of the kernel are shown as `\x1b`: on a terminal they would move the cursor, or worse.
    pub escapes: bool,
    /// Text goes to standard output, which may be a terminal: tables of natives fit it then.
    pub screen: bool,
}

impl Default for Context {
    fn default() -> Self {
        Self {
            symbols: Symbols::default(),
            trunc_trailer: "..".to_owned(),
            max_strlen: 1024,
            escapes: false,
            screen: false,
        }
    }
}

/// Reads a little-endian unsigned integer of up to 8 bytes.
pub fn uint(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    let len = bytes.len().min(8);
    word[..len].copy_from_slice(&bytes[..len]);
    u64::from_le_bytes(word)
}

/// Reads a little-endian two's complement integer of up to 8 bytes.
pub fn sint(bytes: &[u8]) -> i64 {
    let bits = 8 * bytes.len().clamp(1, 8);
    (uint(bytes) << (64 - bits)).cast_signed() >> (64 - bits)
}
