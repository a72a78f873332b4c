//! Working memory: small things on the stack, large ones in per-CPU scratch.

use super::value::Room;
use super::{Generator, plain};
use crate::tables::helper;
use cranelift_codegen::ir::types::I64;
use cranelift_codegen::ir::{Block, InstBuilder, StackSlot, StackSlotData, StackSlotKind, Value};

/// Values up to this size lie on the stack.
const STACK_VALUE_BYTES: u32 = 64;
/// Of the kernel's 512 bytes; the rest is for spilled registers.
pub(crate) const STACK_BUDGET_BYTES: u32 = 320;
/// The same for a program that has loops: the bodies' stack comes on top of its own.
pub(crate) const LOOP_STACK_BUDGET_BYTES: u32 = 96;

/// Where things lie in one program.
#[derive(Debug)]
pub(crate) struct Memory {
    pub entry: Block,
    pub body: Block,
    /// Address of the program's scratch; its value is set once the size is known.
    scratch: Value,
    stack_budget: u32,
    stack_bytes: u32,
    /// Slots that statements behind may use again, and those of the statement at hand.
    free_slots: Vec<(u32, StackSlot)>,
    live_slots: Vec<(u32, StackSlot)>,
    scratch_bytes: u32,
    scratch_peak: u32,
    /// Bytes at the start of scratch that always stay zero.
    zero_bytes: u32,
    /// Whether scratch is one of several slots, with a word that says that it is taken.
    taken_word: bool,
    index_slot: Option<StackSlot>,
    shared_slot: Option<StackSlot>,
}

/// See [`Memory::mark`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark {
    slots: usize,
    scratch_bytes: u32,
}

/// The zero region that scratch starts with, when there is scratch.
const ZERO_BYTES: u32 = 1032;
/// Where the word lies that says that a slot of scratch is taken.
pub(crate) const TAKEN_OFFSET: i32 = ZERO_BYTES as i32;
/// How many runs of one program may be under way on one CPU at once.
pub(crate) const SLOTS: u32 = 4;

impl Memory {
    pub fn new(entry: Block, body: Block, scratch: Value, stack_budget: u32, taken_word: bool) -> Self {
        Self {
            entry,
            body,
            scratch,
            stack_budget,
            stack_bytes: 0,
            free_slots: Vec::new(),
            live_slots: Vec::new(),
            scratch_bytes: 0,
            scratch_peak: 0,
            zero_bytes: 0,
            taken_word,
            index_slot: None,
            shared_slot: None,
        }
    }

    /// Goes on in scratch behind what another function of the program holds there.
    pub fn continue_at(&mut self, scratch_bytes: u32) {
        self.scratch_bytes = scratch_bytes;
        self.scratch_peak = scratch_bytes;
        self.zero_bytes = ZERO_BYTES;
    }

    /// Returns how much of scratch is in use right now.
    pub fn scratch_bytes(&self) -> u32 {
        self.scratch_bytes
    }

    /// Returns how much of scratch was in use at most.
    pub fn scratch_peak(&self) -> u32 {
        self.scratch_peak
    }

    /// Returns the address of scratch.
    pub fn frame(&self) -> Value {
        self.scratch
    }

    /// Remembers what is in use before a statement.
    pub fn mark(&self) -> Mark {
        Mark {
            slots: self.live_slots.len(),
            scratch_bytes: self.scratch_bytes,
        }
    }

    /// Gives back what a statement has used: no value of it outlives it.
    pub fn release(&mut self, mark: Mark) {
        self.free_slots.extend(self.live_slots.drain(mark.slots..));
        // The zero region, once there, stays.
        let start = self.zero_bytes + if self.taken_word && self.zero_bytes > 0 { 8 } else { 0 };
        self.scratch_bytes = mark.scratch_bytes.max(start);
    }
}

impl Generator<'_, '_> {
    /// Returns the address of `size` bytes of memory, aligned to 8, with unknown content.
    pub fn memory_slot(&mut self, size: u32) -> Value {
        let size = size.next_multiple_of(8);
        let free = self.memory.free_slots.iter().position(|(s, _)| *s == size);
        if let Some(free) = free {
            let (_, slot) = self.memory.free_slots.swap_remove(free);
            self.memory.live_slots.push((size, slot));
            return self.b.ins().stack_addr(I64, slot, 0);
        }
        if size <= STACK_VALUE_BYTES && self.memory.stack_bytes + size <= self.memory.stack_budget {
            self.memory.stack_bytes += size;
            let slot = self
                .b
                .create_sized_stack_slot(StackSlotData::new(StackSlotKind::ExplicitSlot, size, 3));
            self.memory.live_slots.push((size, slot));
            return self.b.ins().stack_addr(I64, slot, 0);
        }
        self.scratch_slot(size)
    }

    /// The address of a place in working memory.
    pub fn room(&mut self, room: Room) -> Value {
        match room {
            Room::At(pointer) => pointer,
            Room::Frame(offset) => self.b.ins().iadd_imm_s(self.memory.scratch, i64::from(offset)),
        }
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

    /// Returns the address of the two words that the bodies of loops get. The kernel wants them on the stack.
    pub fn shared_slot(&mut self) -> Value {
        let slot = match self.memory.shared_slot {
            Some(slot) => slot,
            None => {
                let data = StackSlotData::new(StackSlotKind::ExplicitSlot, 16, 3);
                let slot = self.b.create_sized_stack_slot(data);
                self.memory.shared_slot = Some(slot);
                slot
            }
        };
        self.b.ins().stack_addr(I64, slot, 0)
    }

    /// Returns scratch memory; never called for what the entry block itself needs.
    pub fn scratch_slot(&mut self, size: u32) -> Value {
        let offset = self.frame_room(size);
        self.room(Room::Frame(offset))
    }

    /// Takes room in scratch; returns its offset, which is the same in the bodies of loops.
    pub fn frame_room(&mut self, size: u32) -> u32 {
        self.card_lacks_memory();
        if self.memory.scratch_bytes == 0 {
            self.memory.zero_bytes = ZERO_BYTES;
            self.memory.scratch_bytes = ZERO_BYTES + if self.memory.taken_word { 8 } else { 0 };
        }
        let offset = self.memory.scratch_bytes;
        self.memory.scratch_bytes += size.next_multiple_of(8);
        self.memory.scratch_peak = self.memory.scratch_peak.max(self.memory.scratch_bytes);
        offset
    }

    /// Returns the address of `size` bytes that are zero, to read from.
    pub fn zeros(&mut self, size: u32) -> Value {
        if size <= STACK_VALUE_BYTES && self.memory.stack_bytes + size <= self.memory.stack_budget {
            let pointer = self.memory_slot(size);
            self.zero(pointer, 0, size);
            return pointer;
        }
        let _ = self.scratch_slot(0);
        // Histograms with many buckets need more than the usual region; what they get may have been in use before.
        if size > self.memory.zero_bytes {
            let pointer = self.scratch_slot(size);
            self.zero(pointer, 0, size);
            return pointer;
        }
        self.memory.scratch
    }

    /// Writes zeros in whole words; `size` is a multiple of 8 or less than 8.
    pub fn zero(&mut self, pointer: Value, offset: u32, size: u32) {
        if size > 128 {
            for at in (0..size).step_by(ZERO_BYTES as usize) {
                let n = ZERO_BYTES.min(size - at);
                let from = self.zeros(n);
                let to = self.b.ins().iadd_imm_s(pointer, i64::from(offset + at));
                let n = self.int(i64::from(n));
                self.helper(helper::PROBE_READ_KERNEL, &[to, n, from]);
            }
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
