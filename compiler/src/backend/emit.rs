//! Encodes allocated [`super::lir`]: moves, branches, frame, line table.
//!
//! Two steps. First every block becomes a list of instructions, with jumps to blocks still symbolic; blocks that only
//! jump are skipped over. Then jumps get their distance; with V4 one that does not fit 16 bits goes through `gotol`.

use super::insn::{Insn, PSEUDO_CALL, SRC_IMM, SRC_REG, alu, atomic, class, jmp, mode};
use super::lir::{AluOp, AtomicOp, Base, Callee, Cc, Cond, Lir, Mem, Op, Size, Src, Sym, Width};
use super::regalloc::{Allocated, Loc, Move};
use super::{BackendError, Isa, MAX_STACK_BYTES, Reloc, RelocKind};

pub(super) struct Code {
    pub insns: Vec<Insn>,
    pub relocs: Vec<Reloc>,
    pub lines: Vec<(u32, u32)>,
    pub stack_bytes: u32,
}

const FRAME: u8 = 10;

/// An instruction whose place is not known yet.
#[derive(Clone, Copy)]
enum Item {
    Plain(Insn),
    /// Both slots of a 64-bit load.
    Wide(Insn, Insn, Option<RelocKind>),
    Call(Insn, RelocKind),
    /// A jump to a block; the code says which.
    Jump(Insn, usize),
}

struct Placed {
    item: Item,
    loc: u32,
}

/// Encodes one function.
pub(super) fn emit(lir: &Lir, allocated: &Allocated, name: &str, isa: Isa) -> Result<Code, BackendError> {
    let stack_bytes = lir.slot_bytes.saturating_add(allocated.num_spills.saturating_mul(8));
    if stack_bytes > MAX_STACK_BYTES {
        return Err(BackendError::StackTooLarge {
            function: name.to_owned(),
            bytes: stack_bytes,
        });
    }
    let mut emitter = Emitter {
        lir,
        items: Vec::new(),
        starts: vec![0; lir.blocks.len()],
        loc: !0,
    };
    let forward = forwards(lir, allocated);
    // Blocks that have code, the cold ones last. The entry is never passed through.
    let mut order: Vec<usize> = (0..lir.blocks.len()).filter(|b| forward[*b] == *b).collect();
    order.sort_by_key(|b| *b != 0 && lir.blocks[*b].cold);
    for (at, &index) in order.iter().enumerate() {
        emitter.starts[index] = emitter.items.len();
        let block = &lir.blocks[index];
        let next = order.get(at + 1).copied();
        for (position, inst) in block.insts.iter().enumerate() {
            let assigned = allocated.assigned(index, position);
            emitter.loc = inst.loc;
            emitter.moves(assigned.before);
            match &inst.op {
                Op::Jump => emitter.goto(forward[block.succs[0].block], next),
                Op::Branch(cond) => {
                    emitter.branch(
                        cond,
                        assigned.regs,
                        forward[block.succs[0].block],
                        forward[block.succs[1].block],
                        next,
                    );
                }
                op => emitter.op(op, assigned.regs),
            }
            emitter.moves(assigned.after);
        }
    }
    let Emitter { items, starts, .. } = emitter;
    let (insns, relocs, mut lines) = link(&items, &starts, name, isa)?;
    // The kernel wants a line for the first instruction of a function.
    if let Some((insn, _)) = lines.first_mut() {
        *insn = 0;
    }
    Ok(Code {
        insns,
        relocs,
        lines,
        stack_bytes,
    })
}

/// For each block the block that really runs when it is jumped to: blocks with nothing but a jump are passed through.
fn forwards(lir: &Lir, allocated: &Allocated) -> Vec<usize> {
    let only_jumps = |index: usize| match lir.blocks[index].insts.as_slice() {
        [inst] if index != 0 && inst.op == Op::Jump && allocated.assigned(index, 0).before.is_empty() => {
            Some(lir.blocks[index].succs[0].block)
        }
        _ => None,
    };
    let mut target: Vec<Option<usize>> = vec![None; lir.blocks.len()];
    let mut path = Vec::new();
    for start in 0..lir.blocks.len() {
        let mut block = start;
        let end = loop {
            if let Some(known) = target[block] {
                break known;
            }
            // Where a loop of empty blocks closes, its start stands for all of it.
            target[block] = Some(block);
            path.push(block);
            match only_jumps(block) {
                Some(next) => block = next,
                None => break block,
            }
        };
        for passed in path.drain(..) {
            target[passed] = Some(end);
        }
    }
    target
        .into_iter()
        .enumerate()
        .map(|(block, target)| target.unwrap_or(block))
        .collect()
}

struct Emitter<'a> {
    lir: &'a Lir,
    items: Vec<Placed>,
    /// First item of each block.
    starts: Vec<usize>,
    loc: u32,
}

impl Emitter<'_> {
    fn push(&mut self, item: Item) {
        self.items.push(Placed { item, loc: self.loc });
    }

    fn insn(&mut self, code: u8, dst: u8, src: u8, off: i16, imm: i32) {
        self.push(Item::Plain(Insn::new(code, dst, src, off, imm)));
    }

    fn moves(&mut self, moves: &[Move]) {
        for step in moves {
            match (step.from, step.to) {
                (Loc::Reg(from), Loc::Reg(to)) => self.insn(class::ALU64 | alu::MOV | SRC_REG, to, from, 0, 0),
                (Loc::Reg(from), Loc::Spill(slot)) => {
                    self.insn(class::STX | mode::MEM | size_code(Size::D), FRAME, from, self.spill(slot), 0)
                }
                (Loc::Spill(slot), Loc::Reg(to)) => self.insn(class::LDX | mode::MEM | size_code(Size::D), to, FRAME, self.spill(slot), 0),
                // regalloc2 goes through a register by itself.
                (Loc::Spill(_), Loc::Spill(_)) => {}
            }
        }
    }

    /// Offset of a spill slot; the frame was checked to be at most 512 bytes.
    fn spill(&self, slot: u32) -> i16 {
        -((self.lir.slot_bytes + 8 * (slot + 1)) as i16)
    }

    fn goto(&mut self, target: usize, next: Option<usize>) {
        if next != Some(target) {
            self.push(Item::Jump(Insn::new(class::JMP | jmp::JA, 0, 0, 0, 0), target));
        }
    }

    fn branch(&mut self, cond: &Cond, regs: &[u8], mut yes: usize, mut no: usize, next: Option<usize>) {
        if yes == no {
            return self.goto(yes, next);
        }
        let mut cond = *cond;
        // Make the arm that follows the fall-through; a bit test has no inverse.
        if cond.cc == Cc::NotSet || (next == Some(yes) && cond.cc != Cc::Set) {
            cond = cond.negate();
            std::mem::swap(&mut yes, &mut no);
        }
        let insn = conditional(&cond, regs, 0);
        self.push(Item::Jump(insn, yes));
        self.goto(no, next);
    }

    fn constant(&mut self, dst: u8, value: i64) {
        if let Ok(imm) = i32::try_from(value) {
            self.insn(class::ALU64 | alu::MOV | SRC_IMM, dst, 0, 0, imm);
        } else if let Ok(imm) = u32::try_from(value) {
            self.insn(class::ALU32 | alu::MOV | SRC_IMM, dst, 0, 0, imm as i32);
        } else {
            self.wide(dst, value, None);
        }
    }

    fn wide(&mut self, dst: u8, value: i64, reloc: Option<RelocKind>) {
        let first = Insn::new(class::LD | mode::IMM | size_code(Size::D), dst, 0, 0, value as i32);
        self.push(Item::Wide(first, Insn::new(0, 0, 0, 0, (value >> 32) as i32), reloc));
    }

    /// Base register and offset of an address; takes the base's register from `regs`.
    fn address(&self, mem: &Mem, regs: &mut std::slice::Iter<'_, u8>) -> (u8, i16) {
        match mem.base {
            Base::Reg(_) => (take(regs), mem.off),
            Base::Slot(slot) => (FRAME, (self.lir.slot_offsets[slot as usize] + i32::from(mem.off)) as i16),
        }
    }

    /// One LIR operation that is not a branch.
    fn op(&mut self, op: &Op, regs: &[u8]) {
        let mut regs = regs.iter();
        match op {
            Op::Params(_) => {}
            Op::Const { value, .. } => self.constant(take(&mut regs), *value),
            Op::Sym { sym, .. } => {
                let dst = take(&mut regs);
                let (kind, addend) = match sym {
                    Sym::Map(i) => (RelocKind::Map(*i), 0),
                    Sym::Rodata(off) => (RelocKind::Rodata(*off), i64::from(*off)),
                    Sym::SubprogAddr(i) => (RelocKind::SubprogAddr(*i), 0),
                };
                self.wide(dst, addend, Some(kind));
            }
            Op::SlotAddr { slot, off, .. } => {
                let dst = take(&mut regs);
                self.insn(class::ALU64 | alu::MOV | SRC_REG, dst, FRAME, 0, 0);
                self.insn(
                    class::ALU64 | alu::ADD | SRC_IMM,
                    dst,
                    0,
                    0,
                    self.lir.slot_offsets[*slot as usize] + off,
                );
            }
            Op::Mov { width, .. } => {
                let src = take(&mut regs);
                let dst = take(&mut regs);
                if *width == Width::W32 || src != dst {
                    self.insn(alu_class(*width) | alu::MOV | SRC_REG, dst, src, 0, 0);
                }
            }
            Op::MovSx { width, from, .. } => {
                let src = take(&mut regs);
                self.insn(alu_class(*width) | alu::MOV | SRC_REG, take(&mut regs), src, from.bits() as i16, 0);
            }
            Op::Alu { op, width, rhs, .. } => {
                let dst = take(&mut regs);
                let (code, off) = alu_code(*op);
                match rhs {
                    Src::Reg(_) => self.insn(alu_class(*width) | code | SRC_REG, dst, take(&mut regs), off, 0),
                    Src::Imm(imm) => self.insn(alu_class(*width) | code | SRC_IMM, dst, 0, off, *imm),
                }
            }
            Op::Neg { width, .. } => self.insn(alu_class(*width) | alu::NEG, take(&mut regs), 0, 0, 0),
            // To big-endian, which on a little-endian machine is a swap; older than the unconditional one of V4.
            Op::Swap { bits, .. } => self.insn(class::ALU32 | alu::END | SRC_REG, take(&mut regs), 0, 0, *bits as i32),
            Op::Load { size, signed, mem, .. } => {
                let (base, off) = self.address(mem, &mut regs);
                let mode = if *signed { mode::MEMSX } else { mode::MEM };
                self.insn(class::LDX | mode | size_code(*size), take(&mut regs), base, off, 0);
            }
            Op::Store { size, mem, src } => {
                let (base, off) = self.address(mem, &mut regs);
                match src {
                    Src::Reg(_) => self.insn(class::STX | mode::MEM | size_code(*size), base, take(&mut regs), off, 0),
                    Src::Imm(imm) => self.insn(class::ST | mode::MEM | size_code(*size), base, 0, off, *imm),
                }
            }
            Op::Atomic {
                op, width, mem, fetched, ..
            } => {
                let (base, off) = self.address(mem, &mut regs);
                let fetch = if fetched.is_some() { atomic::FETCH } else { 0 };
                let imm = match op {
                    AtomicOp::Add => i32::from(alu::ADD) | fetch,
                    AtomicOp::And => i32::from(alu::AND) | fetch,
                    AtomicOp::Or => i32::from(alu::OR) | fetch,
                    AtomicOp::Xor => i32::from(alu::XOR) | fetch,
                    AtomicOp::Xchg => atomic::XCHG,
                };
                self.insn(class::STX | mode::ATOMIC | width_code(*width), base, take(&mut regs), off, imm);
            }
            Op::CmpXchg { width, mem, .. } => {
                let (base, off) = self.address(mem, &mut regs);
                self.insn(
                    class::STX | mode::ATOMIC | width_code(*width),
                    base,
                    take(&mut regs),
                    off,
                    atomic::CMPXCHG,
                );
            }
            Op::Call { callee, .. } => match callee {
                Callee::Helper(id) => self.insn(class::JMP | jmp::CALL, 0, 0, 0, *id as i32),
                Callee::Subprog(id) => {
                    self.push(Item::Call(
                        Insn::new(class::JMP | jmp::CALL, 0, PSEUDO_CALL, 0, -1),
                        RelocKind::Subprog(*id),
                    ));
                }
            },
            Op::Select { cond, no, .. } => {
                let dst = take(&mut regs);
                let operands = 1 + usize::from(matches!(cond.rhs, Src::Reg(_)));
                let (compare, rest) = regs.as_slice().split_at(operands);
                let jump = conditional(cond, compare, 1);
                self.push(Item::Plain(jump));
                match no {
                    Src::Reg(_) => self.insn(class::ALU64 | alu::MOV | SRC_REG, dst, rest[0], 0, 0),
                    Src::Imm(imm) => self.insn(class::ALU64 | alu::MOV | SRC_IMM, dst, 0, 0, *imm),
                }
            }
            Op::Ret(_) => self.insn(class::JMP | jmp::EXIT, 0, 0, 0, 0),
            Op::Jump | Op::Branch(_) => unreachable!("terminators are emitted by their block"),
        }
    }
}

fn take(regs: &mut std::slice::Iter<'_, u8>) -> u8 {
    *regs.next().expect("register allocation gives every operand a register")
}

fn conditional(cond: &Cond, regs: &[u8], off: i16) -> Insn {
    let op = match cond.cc {
        Cc::Eq => jmp::JEQ,
        Cc::Ne => jmp::JNE,
        Cc::Ult => jmp::JLT,
        Cc::Ule => jmp::JLE,
        Cc::Ugt => jmp::JGT,
        Cc::Uge => jmp::JGE,
        Cc::Slt => jmp::JSLT,
        Cc::Sle => jmp::JSLE,
        Cc::Sgt => jmp::JSGT,
        Cc::Sge => jmp::JSGE,
        Cc::Set => jmp::JSET,
        Cc::NotSet => unreachable!("swapped with `Set` before encoding"),
    };
    let class = if cond.width == Width::W32 { class::JMP32 } else { class::JMP };
    match cond.rhs {
        Src::Reg(_) => Insn::new(class | op | SRC_REG, regs[0], regs[1], off, 0),
        Src::Imm(imm) => Insn::new(class | op | SRC_IMM, regs[0], 0, off, imm),
    }
}

const fn alu_class(width: Width) -> u8 {
    match width {
        Width::W32 => class::ALU32,
        Width::W64 => class::ALU64,
    }
}

const fn width_code(width: Width) -> u8 {
    match width {
        Width::W32 => size_code(Size::W),
        Width::W64 => size_code(Size::D),
    }
}

const fn size_code(size: Size) -> u8 {
    match size {
        Size::W => 0x00,
        Size::H => 0x08,
        Size::B => 0x10,
        Size::D => 0x18,
    }
}

/// Operation code, and the offset that marks the signed divisions.
const fn alu_code(op: AluOp) -> (u8, i16) {
    match op {
        AluOp::Add => (alu::ADD, 0),
        AluOp::Sub => (alu::SUB, 0),
        AluOp::Mul => (alu::MUL, 0),
        AluOp::Div => (alu::DIV, 0),
        AluOp::Mod => (alu::MOD, 0),
        AluOp::SDiv => (alu::DIV, 1),
        AluOp::SMod => (alu::MOD, 1),
        AluOp::Or => (alu::OR, 0),
        AluOp::And => (alu::AND, 0),
        AluOp::Xor => (alu::XOR, 0),
        AluOp::Lsh => (alu::LSH, 0),
        AluOp::Rsh => (alu::RSH, 0),
        AluOp::Arsh => (alu::ARSH, 0),
    }
}

type Linked = (Vec<Insn>, Vec<Reloc>, Vec<(u32, u32)>);

/// Gives every instruction its place and every jump its distance.
fn link(items: &[Placed], starts: &[usize], name: &str, isa: Isa) -> Result<Linked, BackendError> {
    // Jumps that need the long form. The set only grows, so this ends.
    let mut long = vec![false; items.len()];
    let places = loop {
        let places = place(items, &long);
        let mut changed = false;
        for (index, placed) in items.iter().enumerate() {
            if let Item::Jump(_, target) = placed.item
                && !long[index]
                && i16::try_from(distance(&places, index, starts[target])).is_err()
            {
                long[index] = true;
                changed = true;
            }
        }
        if !changed {
            break places;
        }
    };
    let mut insns = Vec::with_capacity(places.last().copied().unwrap_or(0) as usize);
    let mut relocs = Vec::new();
    let mut lines: Vec<(u32, u32)> = Vec::new();
    for (index, placed) in items.iter().enumerate() {
        let at = places[index] as u32;
        if placed.loc != !0 && lines.last().is_none_or(|(_, loc)| *loc != placed.loc) {
            lines.push((at, placed.loc));
        }
        match placed.item {
            Item::Plain(insn) => insns.push(insn),
            Item::Wide(first, second, reloc) => {
                insns.extend([first, second]);
                relocs.extend(reloc.map(|kind| Reloc { insn: at, kind }));
            }
            Item::Call(insn, kind) => {
                insns.push(insn);
                relocs.push(Reloc { insn: at, kind });
            }
            Item::Jump(mut insn, target) => {
                let distance = distance(&places, index, starts[target]);
                if !long[index] {
                    insn.off = distance as i16;
                    insns.push(insn);
                    continue;
                }
                if isa == Isa::V3 {
                    return Err(BackendError::BranchOutOfRange {
                        function: name.to_owned(),
                        distance,
                    });
                }
                if insn.code != class::JMP | jmp::JA {
                    insn.off = 1;
                    insns.extend([insn, Insn::new(class::JMP | jmp::JA, 0, 0, 1, 0)]);
                }
                insns.push(Insn::new(class::JMP32 | jmp::JA, 0, 0, 0, distance as i32));
            }
        }
    }
    Ok((insns, relocs, lines))
}

/// The slot each item starts at, and the end.
fn place(items: &[Placed], long: &[bool]) -> Vec<i64> {
    let mut at = 0;
    let mut places = Vec::with_capacity(items.len() + 1);
    for (placed, long) in items.iter().zip(long) {
        places.push(at);
        at += match placed.item {
            Item::Wide(..) => 2,
            // `if c goto +1; goto +1; gotol target`
            Item::Jump(insn, _) if *long && insn.code != class::JMP | jmp::JA => 3,
            _ => 1,
        };
    }
    places.push(at);
    places
}

/// Distance from behind the jump, whose last slot is the one that jumps, to the target.
fn distance(places: &[i64], from: usize, to: usize) -> i64 {
    places[to] - places[from + 1]
}
