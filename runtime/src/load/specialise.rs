//! Settings become numbers in the code: what is in `.rodata` is known when a native is loaded, and so is all that is computed of it.
//!
//! The verifier knows those numbers as well and takes out the branches that they decide, but it leaves what was computed for these
//! branches: with a short list that was up to a sixth of what a packet costs. Input: code that has its maps, the descriptor of the map of
//! settings and what is in it. Output: the same program, shorter. Assumes: a program that the verifier takes, and a map that is frozen
//! with just these bytes. Guarantees: on every path the same calls, stores and results in the same order; code that it cannot follow
//! stays as it was.
//!
//! Three steps over the instructions as they are: which numbers the registers and their places on the stack have, and where that leads
//! (forwards); which of them are used again (backwards); moving together what is left, with jumps, functions and lines. Over and over,
//! until nothing becomes shorter; from the second time on, jumps lead past jumps.

use aya_obj::Function;
use aya_obj::generated::bpf_insn;
use std::collections::BTreeSet;

const CLASS: u8 = 0x07;
const LD: u8 = 0x00;
const LDX: u8 = 0x01;
const ST: u8 = 0x02;
const STX: u8 = 0x03;
const ALU: u8 = 0x04;
const JMP: u8 = 0x05;
const JMP32: u8 = 0x06;
const ALU64: u8 = 0x07;

/// In `code` of arithmetic and jumps: the second operand is a register.
const FROM_REGISTER: u8 = 0x08;
/// In `code` of arithmetic and jumps: the operation.
const OPERATION: u8 = 0xf0;
/// Operations of arithmetic.
const NEG: u8 = 0x80;
const MOV: u8 = 0xb0;
/// In `code` of loads and stores: how memory is addressed.
const MODE: u8 = 0xe0;
const MODE_MEM: u8 = 0x60;
const MODE_SIGNED: u8 = 0x80;
const MODE_ATOMIC: u8 = 0xc0;

const LD_IMM64: u8 = 0x18;
/// `src` of [`LD_IMM64`]: a map's descriptor, and in the upper half an offset in its first element.
const MAP_VALUE: u8 = 2;
/// `src` of [`LD_IMM64`]: a function of the program itself, as for a call.
const PSEUDO_FUNC: u8 = 4;
/// `src` of [`CALL`]: a function of the program itself.
const PSEUDO_CALL: u8 = 1;
const ADD64: u8 = 0x07;
const MOV32: u8 = 0xb4;
const MOV64: u8 = 0xb7;
const JA: u8 = 0x05;
const JA32: u8 = 0x06;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;

/// Of these registers something is known; the last one, the stack's, is always used and never changes.
const REGISTERS: usize = 10;
type Set = u16;

/// What a register has in it.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Value {
    Unknown,
    Number(u64),
    /// The address of a byte of the settings.
    Setting(i64),
    /// An address on the stack, from its end.
    Local(i64),
    /// One of several such addresses.
    SomeLocal,
}

type Registers = [Value; REGISTERS];

use Value::{Local, Number, Setting, SomeLocal, Unknown};

/// Bytes of a program's stack.
const STACK: i64 = 512;
/// Number of the register that has the end of the stack.
const FRAME: u8 = 10;

/// A number on the stack.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Slot {
    at: i64,
    len: i64,
    number: u64,
}

/// What is known before an instruction.
#[derive(Clone, PartialEq, Debug)]
struct Known {
    registers: Registers,
    slots: Vec<Slot>,
}

impl Known {
    /// At the start of a function.
    fn at_start() -> Self {
        Self {
            registers: [Unknown; REGISTERS],
            slots: Vec::new(),
        }
    }

    fn register(&self, number: u8) -> Value {
        if number == FRAME {
            return Local(0);
        }
        self.registers.get(usize::from(number)).copied().unwrap_or(Unknown)
    }

    /// What is known on both of two ways.
    fn join(&self, other: &Self) -> Self {
        let both = |r: usize| match (self.registers[r], other.registers[r]) {
            (left, right) if left == right => left,
            (Local(_) | SomeLocal, _) | (_, Local(_) | SomeLocal) => SomeLocal,
            _ => Unknown,
        };
        Self {
            registers: std::array::from_fn(both),
            slots: self.slots.iter().filter(|slot| other.slots.contains(slot)).copied().collect(),
        }
    }

    /// Something was written to the stack.
    fn store(&mut self, at: i64, len: i64, value: Value, private: Private) {
        self.slots.retain(|slot| slot.at + slot.len <= at || at + len <= slot.at);
        if let (Number(number), true) = (value, private.has(at, len)) {
            let number = if len == 8 { number } else { number & ((1 << (len * 8)) - 1) };
            self.slots.push(Slot { at, len, number });
            self.slots.sort_unstable_by_key(|slot| slot.at);
        }
    }
}

/// The part of the stack that no address leads to: what is there is read and written by its place only.
#[derive(Clone, Copy)]
struct Private {
    end: i64,
}

impl Private {
    const NOTHING: Self = Self { end: -STACK };

    fn has(self, at: i64, len: i64) -> bool {
        at >= -STACK && at + len <= self.end
    }
}

/// The settings: the descriptor of their map, and what is in it.
#[derive(Clone, Copy)]
struct Settings<'a> {
    map: i32,
    data: &'a [u8],
}

impl Settings<'_> {
    fn read(&self, at: i64, len: usize) -> Option<u64> {
        let at = usize::try_from(at).ok()?;
        let bytes = self.data.get(at..at.checked_add(len)?)?;
        let mut number = [0; 8];
        // Both ends of the number are those of this machine, as is the program's.
        let place = if cfg!(target_endian = "big") { 8 - len } else { 0 };
        number[place..place + len].copy_from_slice(bytes);
        Some(u64::from_ne_bytes(number))
    }
}

/// How many bytes a load or store moves.
fn size(code: u8) -> usize {
    match code & 0x18 {
        0x00 => 4,
        0x08 => 2,
        0x10 => 1,
        _ => 8,
    }
}

fn is_wide(insn: &bpf_insn) -> bool {
    insn.code == LD_IMM64
}

fn operand(insn: &bpf_insn, known: &Known) -> Value {
    if insn.code & FROM_REGISTER == 0 {
        return Number(i64::from(insn.imm) as u64);
    }
    known.register(insn.src_reg())
}

/// What arithmetic makes of two numbers; `None` for what is left to the kernel.
fn computed(code: u8, left: u64, right: u64) -> Option<u64> {
    let is_32 = code & CLASS == ALU;
    let (left, right) = if is_32 {
        (left & 0xffff_ffff, right & 0xffff_ffff)
    } else {
        (left, right)
    };
    let bits = if is_32 { 31 } else { 63 };
    let distance = (right & bits) as u32;
    let result = match code & OPERATION {
        0x00 => left.wrapping_add(right),
        0x10 => left.wrapping_sub(right),
        0x20 => left.wrapping_mul(right),
        0x40 => left | right,
        0x50 => left & right,
        0x60 => left << distance,
        0x70 => left >> distance,
        NEG => left.wrapping_neg(),
        0xa0 => left ^ right,
        MOV => right,
        0xc0 if is_32 => ((left as u32 as i32) >> distance) as u32 as u64,
        0xc0 => ((left as i64) >> distance) as u64,
        _ => return None,
    };
    Some(if is_32 { result & 0xffff_ffff } else { result })
}

/// Whether it is a jump with a condition, as far as these are known; what a newer kernel has may do anything.
fn is_conditional(code: u8) -> bool {
    matches!(code & CLASS, JMP | JMP32) && matches!(code & OPERATION, 0x10..=0x70 | 0xa0..=0xd0)
}

/// Whether a conditional jump between two numbers is taken.
fn jumps(code: u8, left: u64, right: u64) -> Option<bool> {
    let (left, right, left_signed, right_signed) = if code & CLASS == JMP32 {
        let (left, right) = (left as u32, right as u32);
        (u64::from(left), u64::from(right), i64::from(left as i32), i64::from(right as i32))
    } else {
        (left, right, left as i64, right as i64)
    };
    Some(match code & OPERATION {
        0x10 => left == right,
        0x20 => left > right,
        0x30 => left >= right,
        0x40 => left & right != 0,
        0x50 => left != right,
        0x60 => left_signed > right_signed,
        0x70 => left_signed >= right_signed,
        0xa0 => left < right,
        0xb0 => left <= right,
        0xc0 => left_signed < right_signed,
        0xd0 => left_signed <= right_signed,
        _ => return None,
    })
}

/// What an instruction writes to its destination. `None`: it is none that is known to do that and nothing else.
fn written_value(code: &[bpf_insn], at: usize, known: &Known, settings: Settings<'_>) -> Option<Value> {
    let insn = &code[at];
    let old = known.registers.get(usize::from(insn.dst_reg())).copied()?;
    match insn.code & CLASS {
        LD if is_wide(insn) => {
            let upper = code.get(at + 1)?.imm;
            Some(match insn.src_reg() {
                0 => Number(u64::from(insn.imm as u32) | u64::from(upper as u32) << 32),
                MAP_VALUE if insn.imm == settings.map => Setting(i64::from(upper)),
                _ => Unknown,
            })
        }
        LDX if insn.code & MODE == MODE_MEM => {
            let len = size(insn.code);
            let read = match known.register(insn.src_reg()) {
                Setting(address) => settings.read(address + i64::from(insn.off), len),
                Local(address) => {
                    let (from, len) = (address + i64::from(insn.off), len as i64);
                    known
                        .slots
                        .iter()
                        .find(|slot| slot.at == from && slot.len == len)
                        .map(|slot| slot.number)
                }
                _ => None,
            };
            Some(read.map_or(Unknown, Number))
        }
        LDX if insn.code & MODE == MODE_SIGNED => Some(Unknown),
        ALU | ALU64 => {
            let is_move = insn.code & OPERATION == MOV;
            // An offset is for operations with a sign.
            if insn.off != 0 {
                return Some(Unknown);
            }
            Some(match (old, operand(insn, known)) {
                (_, Number(right)) if is_move => computed(insn.code, 0, right).map_or(Unknown, Number),
                (_, right) if is_move && insn.code & CLASS == ALU64 => right,
                (Number(left), Number(right)) => computed(insn.code, left, right).map_or(Unknown, Number),
                (Local(left), Number(right)) if insn.code == ADD64 => Local(left.wrapping_add(right as i64)),
                _ => Unknown,
            })
        }
        _ => None,
    }
}

/// A jump to the next instruction.
fn no_op() -> bpf_insn {
    bpf_insn {
        code: JA,
        _bitfield_align_1: [],
        _bitfield_1: bpf_insn::new_bitfield_1(0, 0),
        off: 0,
        imm: 0,
    }
}

/// The instruction that makes a register a number, in one slot; `None` if it takes two.
fn load_number(dst: u8, number: u64) -> Option<bpf_insn> {
    let (code, imm) = match (u32::try_from(number), i32::try_from(number as i64)) {
        (Ok(number), _) => (MOV32, number as i32),
        (_, Ok(number)) => (MOV64, number),
        _ => return None,
    };
    let mut insn = bpf_insn { code, imm, ..no_op() };
    insn.set_dst_reg(dst);
    Some(insn)
}

/// Where an instruction jumps to, or which function it calls or takes the address of.
fn target(code: &[bpf_insn], at: usize) -> Option<usize> {
    let insn = &code[at];
    let distance = match insn.code {
        EXIT => return None,
        CALL if insn.src_reg() == PSEUDO_CALL => insn.imm as isize,
        CALL => return None,
        LD_IMM64 if insn.src_reg() == PSEUDO_FUNC => insn.imm as isize,
        JA32 => insn.imm as isize,
        code if matches!(code & CLASS, JMP | JMP32) => isize::from(insn.off),
        _ => return None,
    };
    (at + 1).checked_add_signed(distance)
}

/// Where the functions start that are called, or whose address is taken.
fn functions(code: &[bpf_insn]) -> BTreeSet<usize> {
    let mut functions = BTreeSet::new();
    let mut at = 0;
    while at < code.len() {
        let insn = &code[at];
        if insn.code == CALL || is_wide(insn) {
            functions.extend(target(code, at));
        }
        at += if is_wide(insn) { 2 } else { 1 };
    }
    functions
}

/// Notes what a store does. `None` for one that is not known.
fn store(insn: &bpf_insn, known: &mut Known, private: Private) -> Option<()> {
    match (insn.code & CLASS, insn.code & MODE) {
        // Some give back what was there, in the source register or the first. Newer ones do something else.
        (STX, MODE_ATOMIC) if (0..0x100).contains(&insn.imm) => {
            known.registers[0] = Unknown;
            *known.registers.get_mut(usize::from(insn.src_reg()))? = Unknown;
        }
        (_, MODE_MEM) => {
            if let Local(address) = known.register(insn.dst_reg()) {
                let value = if insn.code & CLASS == ST {
                    Number(i64::from(insn.imm) as u64)
                } else {
                    known.register(insn.src_reg())
                };
                known.store(address + i64::from(insn.off), size(insn.code) as i64, value, private);
            }
        }
        _ => return None,
    }
    Some(())
}

/// What is known before each instruction; nothing before one that is never reached.
struct Flow {
    before: Vec<Option<Known>>,
    /// Conditional jumps that always go one way: whether they jump.
    decided: Vec<Option<bool>>,
    private: Private,
    /// The lowest address on the stack that is in a register or used as one, or all of it if that cannot be said.
    lowest: i64,
}

impl Flow {
    /// `None` for code that leads out of itself.
    fn of(code: &[bpf_insn], settings: Settings<'_>) -> Option<Self> {
        // Once to see which part of the stack is private, once with what is there.
        let first = Self::with(code, settings, Private::NOTHING)?;
        Self::with(code, settings, Private { end: first.lowest })
    }

    fn with(code: &[bpf_insn], settings: Settings<'_>, private: Private) -> Option<Self> {
        let mut flow = Self {
            before: vec![None; code.len()],
            decided: vec![None; code.len()],
            private,
            lowest: 0,
        };
        let functions = functions(code);
        // The first of them: the fewer ways to an instruction are still open, the less often it is looked at.
        let mut todo = BTreeSet::new();
        flow.reach(0, &Known::at_start(), &mut todo)?;
        while let Some(at) = todo.pop_first() {
            let mut known = flow.before[at].clone()?;
            let insn = code[at];
            let next = at + if is_wide(&insn) { 2 } else { 1 };
            flow.note_addresses(&insn, &known);
            let goes_on = match insn.code & CLASS {
                JMP | JMP32 => flow.jump(code, at, &mut known, &mut todo)?,
                ST | STX => {
                    store(&insn, &mut known, private)?;
                    true
                }
                _ => {
                    let value = written_value(code, at, &known, settings)?;
                    known.registers[usize::from(insn.dst_reg())] = value;
                    if let Local(address) = value
                        && address != 0
                    {
                        flow.lowest = flow.lowest.min(address);
                    }
                    if is_wide(&insn) && insn.src_reg() == PSEUDO_FUNC {
                        // Helpers call it with addresses on this stack, from which it may go anywhere.
                        flow.lowest = -STACK;
                        flow.reach(target(code, at)?, &Known::at_start(), &mut todo)?;
                    }
                    true
                }
            };
            if goes_on {
                // Into another function: behind a call that does not come back, which is not known here.
                if functions.contains(&next) {
                    return None;
                }
                flow.reach(next, &known, &mut todo)?;
            }
        }
        Some(flow)
    }

    /// Follows a jump, a call or the end. Returns whether the next instruction comes next, too.
    fn jump(&mut self, code: &[bpf_insn], at: usize, known: &mut Known, todo: &mut BTreeSet<usize>) -> Option<bool> {
        let insn = &code[at];
        let to = target(code, at);
        match insn.code {
            EXIT => Some(false),
            CALL => {
                if let Some(function) = to {
                    self.reach(function, &Known::at_start(), todo)?;
                }
                known.registers[..6].fill(Unknown);
                Some(true)
            }
            JA | JA32 => {
                self.reach(to?, known, todo)?;
                Some(false)
            }
            code if is_conditional(code) => {
                let decided = match (known.register(insn.dst_reg()), operand(insn, known)) {
                    (Number(left), Number(right)) => jumps(code, left, right),
                    _ => None,
                };
                self.decided[at] = decided;
                if decided != Some(false) {
                    self.reach(to?, known, todo)?;
                }
                Some(decided != Some(true))
            }
            _ => None,
        }
    }

    /// Notes which addresses on the stack an instruction uses otherwise than as `r10` and a distance.
    ///
    /// Helpers read and write upwards from an address; an address in memory, or computed with what is not known, may be any. For functions
    /// that helpers call see [`Self::with`].
    fn note_addresses(&mut self, insn: &bpf_insn, known: &Known) {
        let is_local = |register: u8| matches!(known.register(register), Local(_) | SomeLocal);
        let (dst, src) = (insn.dst_reg(), insn.src_reg());
        let class = insn.code & CLASS;
        let is_atomic = class == STX && insn.code & MODE == MODE_ATOMIC;
        let through = match class {
            LDX => Some(src),
            ST | STX => Some(dst),
            _ => None,
        };
        let lowest = match through.map(|register| (register, known.register(register))) {
            Some((FRAME, _)) if !is_atomic => 0,
            Some((_, Local(address))) => address + i64::from(insn.off),
            Some((_, SomeLocal)) if insn.off < 0 => -STACK,
            _ => 0,
        };
        let escapes = match class {
            STX => is_local(src),
            ALU | ALU64 => {
                let is_move = insn.code & OPERATION == MOV;
                let right = insn.code & FROM_REGISTER != 0 && is_local(src);
                let is_known = insn.code & CLASS == ALU64 && insn.off == 0;
                let moves = is_move && (!right || is_known);
                let adds = insn.code == ADD64 && is_known && !matches!(known.register(dst), SomeLocal);
                (right || is_local(dst)) && !moves && !adds
            }
            JMP if insn.code == CALL => src == PSEUDO_CALL && (1..6).any(is_local),
            _ => false,
        };
        self.lowest = self.lowest.min(if escapes { -STACK } else { lowest });
    }

    /// Notes what is known on one more way to an instruction.
    fn reach(&mut self, at: usize, known: &Known, todo: &mut BTreeSet<usize>) -> Option<()> {
        let before = self.before.get_mut(at)?;
        let joined = match before {
            None => known.clone(),
            Some(before) => before.join(known),
        };
        if before.as_ref() != Some(&joined) {
            *before = Some(joined);
            todo.insert(at);
        }
        Some(())
    }
}

fn bit(register: u8) -> Set {
    if usize::from(register) < REGISTERS { 1 << register } else { 0 }
}

/// Whether an instruction does nothing but write its destination.
fn is_pure(insn: &bpf_insn) -> bool {
    match insn.code & CLASS {
        ALU | ALU64 | LDX => true,
        LD => is_wide(insn),
        _ => false,
    }
}

/// The registers that a call reads: those of the helpers that natives call most, or all that a call may read.
fn arguments(call: &bpf_insn) -> Set {
    use aya_obj::generated::bpf_func_id as id;
    let is = |helper: id| call.src_reg() == 0 && call.imm == helper as i32;
    let count = if is(id::BPF_FUNC_ktime_get_ns) {
        0
    } else if is(id::BPF_FUNC_xdp_get_buff_len) || is(id::BPF_FUNC_get_socket_cookie) {
        1
    } else if is(id::BPF_FUNC_map_lookup_elem) || is(id::BPF_FUNC_map_delete_elem) {
        2
    } else if is(id::BPF_FUNC_tail_call) || is(id::BPF_FUNC_probe_read_kernel) {
        3
    } else if is(id::BPF_FUNC_map_update_elem) || is(id::BPF_FUNC_xdp_load_bytes) || is(id::BPF_FUNC_skb_load_bytes) {
        4
    } else {
        5
    };
    ((1 << (count + 1)) - 1) & !1
}

/// The registers that an instruction reads, and those that have nothing of before in them afterwards.
fn uses(insn: &bpf_insn) -> (Set, Set) {
    let (dst, src) = (bit(insn.dst_reg()), bit(insn.src_reg()));
    let right = if insn.code & FROM_REGISTER == 0 { 0 } else { src };
    match insn.code & CLASS {
        LD => (0, dst),
        LDX => (src, dst),
        ST => (dst, 0),
        STX if insn.code & MODE == MODE_ATOMIC => (dst | src | bit(0), 0),
        STX => (dst | src, 0),
        ALU | ALU64 if insn.code & OPERATION == MOV => (right, dst),
        ALU | ALU64 => (dst | right, dst),
        _ => match insn.code {
            CALL => (arguments(insn), 0b11_1111),
            EXIT => (bit(0), Set::MAX),
            JA | JA32 => (0, 0),
            _ => (dst | right, 0),
        },
    }
}

/// What is used again: registers, and a bit for each byte of the stack.
#[derive(Clone, Copy, PartialEq, Default)]
struct Live {
    registers: Set,
    stack: [u64; STACK as usize / 64],
}

impl Live {
    fn either(self, other: Self) -> Self {
        Self {
            registers: self.registers | other.registers,
            stack: std::array::from_fn(|word| self.stack[word] | other.stack[word]),
        }
    }

    /// Bits of the bytes of an access relative to the end of the stack; none of one beyond it.
    fn bytes(at: i64, len: i64) -> impl Iterator<Item = (usize, u64)> {
        let from = (at + STACK).clamp(0, STACK);
        let to = (at + STACK + len).clamp(0, STACK);
        (from..to).map(|byte| (byte as usize / 64, 1 << (byte % 64)))
    }

    fn has(&self, at: i64, len: i64) -> bool {
        Self::bytes(at, len).any(|(word, bit)| self.stack[word] & bit != 0)
    }

    fn set(&mut self, at: i64, len: i64, live: bool) {
        for (word, bit) in Self::bytes(at, len) {
            if live {
                self.stack[word] |= bit;
            } else {
                self.stack[word] &= !bit;
            }
        }
    }
}

/// The place that an instruction loads from or stores to relative to `r10`.
fn place(insn: &bpf_insn) -> (i64, i64) {
    (i64::from(insn.off), size(insn.code) as i64)
}

/// Whether an instruction stores to the part of the stack that is private.
fn is_private_store(insn: &bpf_insn, private: Private) -> bool {
    let (at, len) = place(insn);
    matches!(insn.code & CLASS, ST | STX) && insn.code & MODE == MODE_MEM && insn.dst_reg() == FRAME && private.has(at, len)
}

/// Whether nobody needs what an instruction does.
fn is_idle(insn: &bpf_insn, after: &Live, private: Private) -> bool {
    let (_, written) = uses(insn);
    if is_private_store(insn, private) {
        let (at, len) = place(insn);
        return !after.has(at, len);
    }
    is_pure(insn) && written != 0 && written & after.registers == 0
}

/// Which instructions are to stay: those that are reached, without what is written for nobody.
fn needed(code: &[bpf_insn], flow: &Flow) -> Vec<bool> {
    let mut live = vec![Live::default(); code.len() + 1];
    let after = |live: &[Live], at: usize| -> Live {
        let insn = &code[at];
        let next = || live.get(at + if is_wide(insn) { 2 } else { 1 }).copied().unwrap_or_default();
        let there = || target(code, at).and_then(|to| live.get(to).copied()).unwrap_or_default();
        match insn.code {
            EXIT => Live::default(),
            JA | JA32 => there(),
            CALL => next(),
            code if matches!(code & CLASS, JMP | JMP32) => match flow.decided[at] {
                Some(true) => there(),
                Some(false) => next(),
                None => next().either(there()),
            },
            _ => next(),
        }
    };
    let mut changed = true;
    while std::mem::take(&mut changed) {
        for at in (0..code.len()).rev().filter(|at| flow.before[*at].is_some()) {
            let insn = &code[at];
            let mut before = after(&live, at);
            if flow.decided[at].is_none() && !is_idle(insn, &before, flow.private) {
                let (read, written) = uses(insn);
                before.registers = before.registers & !written | read;
                let (from, len) = place(insn);
                if is_private_store(insn, flow.private) {
                    before.set(from, len, false);
                } else if insn.code & CLASS == LDX && insn.src_reg() == FRAME {
                    before.set(from, len, true);
                }
            }
            changed |= live[at] != before;
            live[at] = before;
        }
    }
    let mut stays = vec![false; code.len()];
    for at in (0..code.len()).filter(|at| flow.before[*at].is_some()) {
        let insn = &code[at];
        stays[at] = !is_idle(insn, &after(&live, at), flow.private) && flow.decided[at] != Some(false);
        if is_wide(insn) {
            stays[at + 1] = stays[at];
        }
    }
    stays
}

/// Where each instruction comes to be when only those stay that are needed; one that does not, where the next one does.
fn places(needed: &[bool]) -> Vec<usize> {
    let mut places = Vec::with_capacity(needed.len() + 1);
    let mut place = 0;
    for stays in needed {
        places.push(place);
        place += usize::from(*stays);
    }
    places.push(place);
    places
}

/// Makes settings numbers, and leaves out what is not needed then. Returns whether it did; if not, the code is as it was.
pub(super) fn specialise(function: &mut Function, map: i32, data: &[u8]) -> bool {
    let settings = Settings { map, data };
    let Some((code, places)) = shortest(&function.instructions, settings) else {
        return false;
    };
    function.instructions = code;
    let len = function.instructions.len();
    let functions = &mut function.func_info;
    move_info(&mut functions.func_info, &places, len, |info| &mut info.insn_off);
    functions.num_info = functions.func_info.len() as u32;
    let lines = &mut function.line_info;
    move_info(&mut lines.line_info, &places, len, |info| &mut info.insn_off);
    lines.num_info = lines.line_info.len() as u32;
    true
}

/// Moves what is told about instructions along with them. Of several that have come together the last one is right: the others belong to
/// what is gone.
fn move_info<T>(all: &mut Vec<T>, places: &[usize], len: usize, offset: impl Fn(&mut T) -> &mut u32) {
    all.retain_mut(|info| {
        let offset = offset(info);
        let place = places.get(*offset as usize).copied().filter(|place| *place < len);
        *offset = place.unwrap_or(len) as u32;
        place.is_some()
    });
    all.reverse();
    all.dedup_by_key(|info| *offset(info));
    all.reverse();
}

/// The shortest code that comes out, and where each instruction has gone.
fn shortest(before: &[bpf_insn], settings: Settings<'_>) -> Option<(Vec<bpf_insn>, Vec<usize>)> {
    let (mut code, mut places) = shorter(before, settings)?;
    loop {
        lead_past_jumps(&mut code);
        let (again, moved) = shorter(&code, settings)?;
        places.iter_mut().for_each(|place| *place = moved[*place]);
        if again.len() == code.len() {
            return Some((again, places));
        }
        code = again;
    }
}

/// Lets jumps to a jump lead to where that leads.
fn lead_past_jumps(code: &mut [bpf_insn]) {
    for at in 0..code.len() {
        let is_jump = matches!(code[at].code & CLASS, JMP | JMP32) && !matches!(code[at].code, CALL | EXIT | JA32);
        let Some(mut to) = target(code, at).filter(|_| is_jump) else {
            continue;
        };
        // A ring of jumps has no end.
        for _ in 0..code.len() {
            match code.get(to).and_then(|insn| target(code, to).filter(|_| insn.code == JA)) {
                Some(next) => to = next,
                None => break,
            }
        }
        if let Ok(off) = i16::try_from(to as isize - (at + 1) as isize) {
            code[at].off = off;
        }
    }
}

/// The code without what is not needed, and where each instruction has gone.
fn shorter(before: &[bpf_insn], settings: Settings<'_>) -> Option<(Vec<bpf_insn>, Vec<usize>)> {
    let mut flow = Flow::of(before, settings)?;
    let mut code = before.to_vec();
    let mut is_second = vec![false; code.len()];
    for at in 0..code.len() {
        let Some(known) = flow.before[at].clone() else { continue };
        let insn = code[at];
        if flow.decided[at] == Some(true) {
            code[at] = no_op();
            code[at].off = insn.off;
        }
        let number = match written_value(before, at, &known, settings) {
            Some(Number(number)) if is_pure(&insn) => number,
            _ => continue,
        };
        if let Some(load) = load_number(insn.dst_reg(), number) {
            code[at] = load;
            // Its second slot is none any more; nobody jumps there.
            is_second[at + 1..]
                .iter_mut()
                .take(usize::from(is_wide(&insn)))
                .for_each(|second| *second = true);
        }
    }
    for at in (0..code.len()).filter(|at| is_second[*at]) {
        code[at] = no_op();
        flow.before[at] = Some(Known::at_start());
    }
    let mut stays = needed(&code, &flow);
    let places = places_without_jumps_to_the_next(&code, &mut stays);
    let mut left = Vec::with_capacity(places.last().copied()?);
    for at in (0..code.len()).filter(|at| stays[*at]) {
        let mut insn = code[at];
        if let Some(to) = target(&code, at) {
            let distance = *places.get(to)? as isize - (places[at] + 1) as isize;
            match insn.code {
                CALL | LD_IMM64 | JA32 => insn.imm = distance.try_into().ok()?,
                _ => insn.off = distance.try_into().ok()?,
            }
        }
        left.push(insn);
    }
    Some((left, places))
}

/// As [`places`]; a jump to what is next is not needed either.
fn places_without_jumps_to_the_next(code: &[bpf_insn], stays: &mut [bool]) -> Vec<usize> {
    loop {
        let places = places(stays);
        let mut changed = false;
        for at in 0..code.len() {
            let is_jump = stays[at] && matches!(code[at].code, JA | JA32);
            let to = target(code, at).and_then(|to| places.get(to).copied());
            if is_jump && to == Some(places[at] + 1) {
                stays[at] = false;
                changed = true;
            }
        }
        if !changed {
            return places;
        }
    }
}

#[cfg(test)]
mod tests;
