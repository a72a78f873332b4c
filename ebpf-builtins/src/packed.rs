//! The objects as they are embedded: packed (deflate, by `build.rs`), unpacked on first use, which takes a fraction of a millisecond.

use std::ops::Deref;

/// What the bytes of an object are made of, so that ELF readers can cast from their address.
#[repr(C, align(16))]
#[derive(Clone, Copy)]
struct Chunk([u8; CHUNK]);

const CHUNK: usize = 16;

/// The bytes of an ELF file, 16-byte aligned.
pub struct Object {
    chunks: Vec<Chunk>,
    len: usize,
}

impl Object {
    /// Reads what `build.rs` has written.
    ///
    /// # Panics
    /// The bytes are others; a test unpacks each object.
    pub(crate) fn unpack(packed: &[u8]) -> Self {
        let (len, stream) = packed.split_first_chunk().expect("the length is in front");
        let len = u32::from_le_bytes(*len) as usize;
        let mut chunks = vec![Chunk([0; CHUNK]); len.div_ceil(CHUNK)];
        // SAFETY: chunks are plain bytes without padding, so this is their memory, initialised and borrowed for as long as the slice lives.
        let bytes = unsafe { std::slice::from_raw_parts_mut(chunks.as_mut_ptr().cast::<u8>(), len) };
        let written = miniz_oxide::inflate::decompress_slice_iter_to_slice(bytes, std::iter::once(stream), false, true);
        assert_eq!(written, Ok(len), "an embedded object is damaged");
        Self { chunks, len }
    }
}

impl Deref for Object {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: as in `unpack`; `len` is no more than the chunks have.
        unsafe { std::slice::from_raw_parts(self.chunks.as_ptr().cast::<u8>(), self.len) }
    }
}

/// The object of that name in `objects/`.
macro_rules! object {
    ($name:literal) => {
        std::sync::LazyLock::new(|| crate::packed::Object::unpack(include_bytes!(concat!(env!("OUT_DIR"), "/", $name))))
    };
}
pub(crate) use object;
