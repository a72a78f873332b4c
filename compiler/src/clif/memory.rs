//! Working memory: small things on the stack, large ones in per-CPU scratch.

use super::{Generator, plain};
use crate::tables::helper;
use cranelift_codegen::ir::types::I64;
use cranelift_codegen::ir::{Block, InstBuilder, StackSlot, StackSlotData, StackSlotKind, Value};

/// Values up to this size lie on the stack.
const STACK_VALUE_BYTES: u32 = 64;
/// Of the kernel's 512 bytes; the rest is for spilled registers.
const STACK_BUDGET_BYTES: u32 = 320;

/// Where things lie in one program.
#[derive(Debug)]
pub(crate) struct Memory {
    pub entry: Block,
    pub body: Block,
    /// Address of the program's scratch; its value is set once the size is known.
    scratch: Value,
    stack_bytes: u32,
    scratch_bytes: u32,
    /// Bytes at the start of scratch that always stay zero.
    zero_bytes: u32,
    index_slot: Option<StackSlot>,
}

/// The zero region that scratch starts with, when there is scratch.
const ZERO_BYTES: u32 = 1032;

impl Memory {
    pub fn new(entry: Block, body: Block, scratch: Value) -> Self {
        Self {
            entry,
            body,
            scratch,
            stack_bytes: 0,
            scratch_bytes: 0,
            zero_bytes: 0,
            index_slot: None,
        }
    }

    pub fn scratch_bytes(&self) -> u32 {
        self.scratch_bytes
    }
}

impl Generator<'_> {
    /// Returns the address of `size` bytes of memory, aligned to 8, with unknown content.
    pub fn memory_slot(&mut self, size: u32) -> Value {
        let size = size.next_multiple_of(8);
        if size <= STACK_VALUE_BYTES && self.memory.stack_bytes + size <= STACK_BUDGET_BYTES {
            self.memory.stack_bytes += size;
            let slot = self
                .b
                .create_sized_stack_slot(StackSlotData::new(StackSlotKind::ExplicitSlot, size, 3));
            return self.b.ins().stack_addr(I64, slot, 0);
        }
        self.scratch_slot(size)
    }

    /// Returns the address of 8 bytes on the stack that everything shares: written right before a helper reads them.
    pub fn index_slot(&mut self) -> Value {
        let slot = match self.memory.index_slot {
            Some(slot) => slot,
            None => {
                let slot = self
                    .b
                    .create_sized_stack_slot(StackSlotData::new(StackSlotKind::ExplicitSlot, 8, 3));
                self.memory.index_slot = Some(slot);
                slot
            }
        };
        self.b.ins().stack_addr(I64, slot, 0)
    }

    /// Returns scratch memory; never called for what the entry block itself needs.
    fn scratch_slot(&mut self, size: u32) -> Value {
        if self.memory.scratch_bytes == 0 {
            self.memory.zero_bytes = ZERO_BYTES;
            self.memory.scratch_bytes = ZERO_BYTES;
        }
        let offset = self.memory.scratch_bytes;
        self.memory.scratch_bytes += size.next_multiple_of(8);
        self.b.ins().iadd_imm_s(self.memory.scratch, i64::from(offset))
    }

    /// Returns the address of `size` bytes that are zero, to read from.
    pub fn zeros(&mut self, size: u32) -> Value {
        if size <= STACK_VALUE_BYTES && self.memory.stack_bytes + size <= STACK_BUDGET_BYTES {
            let pointer = self.memory_slot(size);
            self.zero(pointer, 0, size);
            return pointer;
        }
        let _ = self.scratch_slot(0);
        // Histograms with many buckets need more than the usual region.
        if size > self.memory.zero_bytes {
            return self.scratch_slot(size);
        }
        self.memory.scratch
    }

    /// Writes zeros in whole words; `size` is a multiple of 8 or less than 8.
    pub fn zero(&mut self, pointer: Value, offset: u32, size: u32) {
        if size > 128 {
            let from = self.zeros(size);
            let to = self.b.ins().iadd_imm_s(pointer, i64::from(offset));
            let size = self.int(i64::from(size));
            self.helper(helper::PROBE_READ_KERNEL, &[to, size, from]);
            return;
        }
        let zero = self.int(0);
        for at in (0..size.next_multiple_of(8)).step_by(8) {
            self.b.ins().store(plain(), zero, pointer, i32::try_from(offset + at).unwrap_or(0));
        }
    }

    /// Copies text of `from_size` bytes to a place of `to_size` bytes, zero-filled.
    pub fn copy_text(&mut self, from: Value, from_size: u32, to: Value, offset: u32, to_size: u32) {
        let n = from_size.min(to_size) / 8 * 8;
        if n > 128 {
            let target = self.b.ins().iadd_imm_s(to, i64::from(offset));
            let size = self.int(i64::from(n));
            self.helper(helper::PROBE_READ_KERNEL, &[target, size, from]);
        } else {
            for at in (0..n).step_by(8) {
                let word = self.b.ins().load(I64, plain(), from, i32::try_from(at).unwrap_or(0));
                self.b.ins().store(plain(), word, to, i32::try_from(offset + at).unwrap_or(0));
            }
        }
        if to_size > n {
            self.zero(to, offset + n, to_size - n);
        }
    }

    /// Puts literal text into memory, zero-filled to whole words.
    pub fn literal(&mut self, text: &[u8], size: u32) -> Value {
        let pointer = self.memory_slot(size);
        for at in (0..size.next_multiple_of(8)).step_by(8) {
            let mut word = [0; 8];
            let start = usize::try_from(at).unwrap_or(0).min(text.len());
            let end = (start + 8).min(text.len());
            word[..end - start].copy_from_slice(&text[start..end]);
            let word = self.int(i64::from_le_bytes(word));
            self.b.ins().store(plain(), word, pointer, i32::try_from(at).unwrap_or(0));
        }
        pointer
    }
}
