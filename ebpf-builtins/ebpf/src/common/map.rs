//! Definitions of BTF maps, and the helper calls on them with aligned keys.
//!
//! aya-ebpf's own map types are not used: its LPM key is a packed struct, which makes the key's stores and loads
//! byte by byte.

use aya_ebpf::helpers::generated::{bpf_map_lookup_elem, bpf_map_update_elem};
use core::ffi::c_void;
use core::ptr::NonNull;

/// A map definition as loaders read it from BTF: integers are the lengths of arrays that fields point to.
///
/// `TYPE` is of `enum bpf_map_type`, `FLAGS` are those of `BPF_MAP_CREATE`.
#[repr(C)]
pub struct Map<K, V, const TYPE: usize, const MAX_ENTRIES: usize, const FLAGS: usize> {
    r#type: *const [i32; TYPE],
    key: *const K,
    value: *const V,
    max_entries: *const [i32; MAX_ENTRIES],
    map_flags: *const [i32; FLAGS],
}

// SAFETY: the pointers are never followed; the kernel synchronises what the helpers do.
unsafe impl<K, V, const T: usize, const M: usize, const F: usize> Sync for Map<K, V, T, M, F> {}

impl<K, V, const T: usize, const M: usize, const F: usize> Map<K, V, T, M, F> {
    #[expect(clippy::new_without_default, reason = "only for statics")]
    pub const fn new() -> Self {
        use core::ptr::null;
        Self {
            r#type: null(),
            key: null(),
            value: null(),
            max_entries: null(),
            map_flags: null(),
        }
    }

    /// Returns the address that stands for the map in helper calls.
    #[inline(always)]
    pub fn id(&self) -> *mut c_void {
        core::ptr::from_ref(self).cast_mut().cast()
    }

    /// Looks a key up; the value is this CPU's for per-CPU maps. It is there until the program ends (what is deleted is
    /// freed after a grace period), but others may write it.
    #[inline(always)]
    pub fn get(&self, key: &K) -> Option<NonNull<V>> {
        let key = core::ptr::from_ref(key).cast_mut().cast();
        // SAFETY: `key` is readable for the key's size.
        NonNull::new(unsafe { bpf_map_lookup_elem(self.id(), key) }.cast())
    }

    /// Sets a key's value, this CPU's for per-CPU maps (a new element has zeros on the others).
    /// Returns whether the kernel took it.
    #[inline(always)]
    pub fn set(&self, key: &K, value: &V) -> bool {
        self.set_with(key, value, 0)
    }

    /// As [`Self::set`] with flags of `bpf_map_update_elem`.
    #[inline(always)]
    pub fn set_with(&self, key: &K, value: &V, flags: u64) -> bool {
        let (key, value) = (
            core::ptr::from_ref(key).cast_mut().cast(),
            core::ptr::from_ref(value).cast_mut().cast(),
        );
        // SAFETY: both are readable for the sizes that the map was created with.
        unsafe { bpf_map_update_elem(self.id(), key, value, flags) == 0 }
    }
}

/// A map without keys: a stack, or a ring buffer (without values, too; its size is in bytes).
#[repr(C)]
pub struct Keyless<const TYPE: usize, const VALUE_SIZE: usize, const MAX_ENTRIES: usize> {
    r#type: *const [i32; TYPE],
    value_size: *const [i32; VALUE_SIZE],
    max_entries: *const [i32; MAX_ENTRIES],
}

// SAFETY: as for `Map`.
unsafe impl<const T: usize, const V: usize, const M: usize> Sync for Keyless<T, V, M> {}

impl<const T: usize, const V: usize, const M: usize> Keyless<T, V, M> {
    #[expect(clippy::new_without_default, reason = "only for statics")]
    pub const fn new() -> Self {
        use core::ptr::null;
        Self {
            r#type: null(),
            value_size: null(),
            max_entries: null(),
        }
    }

    /// Returns the address that stands for the map in helper calls.
    #[inline(always)]
    pub fn id(&self) -> *mut c_void {
        core::ptr::from_ref(self).cast_mut().cast()
    }
}

use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, bpf_map_type as ty};

const NO_PREALLOC: usize = BPF_F_NO_PREALLOC as usize;

pub type LpmTrie<K, V, const MAX: usize> = Map<K, V, { ty::BPF_MAP_TYPE_LPM_TRIE as usize }, MAX, NO_PREALLOC>;
/// Elements are allocated when they are first set.
pub type PerCpuHash<K, V, const MAX: usize> = Map<K, V, { ty::BPF_MAP_TYPE_PERCPU_HASH as usize }, MAX, NO_PREALLOC>;
pub type Hash<K, V, const MAX: usize> = Map<K, V, { ty::BPF_MAP_TYPE_HASH as usize }, MAX, NO_PREALLOC>;
/// Forgets what was not used for long when it is full.
pub type LruHash<K, V, const MAX: usize> = Map<K, V, { ty::BPF_MAP_TYPE_LRU_HASH as usize }, MAX, 0>;
pub type LruPerCpuHash<K, V, const MAX: usize> = Map<K, V, { ty::BPF_MAP_TYPE_LRU_PERCPU_HASH as usize }, MAX, 0>;
/// Memory for all elements from the start: taking one never fails for want of it.
pub type FullHash<K, V, const MAX: usize> = Map<K, V, { ty::BPF_MAP_TYPE_HASH as usize }, MAX, 0>;
pub type Array<V, const MAX: usize> = Map<u32, V, { ty::BPF_MAP_TYPE_ARRAY as usize }, MAX, 0>;
/// An array that user space maps into its memory.
pub type SharedArray<V, const MAX: usize> = Map<u32, V, { ty::BPF_MAP_TYPE_ARRAY as usize }, MAX, { BPF_F_MMAPABLE as usize }>;
pub type PerCpuArray<V, const MAX: usize> = Map<u32, V, { ty::BPF_MAP_TYPE_PERCPU_ARRAY as usize }, MAX, 0>;
pub type ProgArray<const MAX: usize> = Map<u32, u32, { ty::BPF_MAP_TYPE_PROG_ARRAY as usize }, MAX, 0>;
/// Numbers, the last one that was put there first.
pub type Stack<const MAX: usize> = Keyless<{ ty::BPF_MAP_TYPE_STACK as usize }, 4, MAX>;
pub type RingBuf<const BYTES: usize> = Keyless<{ ty::BPF_MAP_TYPE_RINGBUF as usize }, 0, BYTES>;
