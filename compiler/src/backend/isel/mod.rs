//! Instruction selection: CLIF to [`super::lir`].
//!
//! Works backwards, block by block in reverse reverse-postorder, and only selects what something already selected needs:
//! dead code vanishes, and an instruction that was folded into its only user is never selected by itself. Constants,
//! symbols and stack addresses are made again at each use.
//!
//! Invariant: **a register that holds an `i8`, `i16` or `i32` is zero-extended to 64 bits.** So `uextend` is free, and a
//! 32-bit load of `ctx->data` stays a packet pointer for the kernel verifier.
//!
//! Here: which instructions, in which order, and the finished function. [`values`]: registers and constants.
//! [`order`]: the order of blocks. [`cond`]: conditions. [`arith`]: arithmetic. [`memory`]: loads, stores, atomics. [`control`]: branches.

mod arith;
mod cond;
mod control;
mod memory;
mod order;
mod values;

use super::lir::{Block as LirBlock, Callee, Inst as LirInst, Lir, Op, Size, V, Width};
use super::opt::Optimiser;
use super::{BackendError, Isa, check, ns};
use cranelift_codegen::entity::{EntityRef, SecondaryMap};
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{Block, BlockArg, BlockCall, Function, Inst, InstructionData, Opcode, Type, Value, ValueDef, types};
use order::Order;
use values::Pick;

/// Selects instructions for `func`, which has no unreachable blocks; `flow` is of the same function.
pub(super) fn select(func: &Function, flow: &Optimiser, name: &str, consts: &[i64], isa: Isa) -> Result<Lir, BackendError> {
    check::check(func, name, consts)?;
    let Order { blocks, cold } = order::order(func, flow.cfg(), flow.loops());
    let mut isel = Isel::new(func, consts, isa, &blocks);
    isel.mark_live(&blocks);
    for (index, &block) in blocks.iter().enumerate().rev() {
        isel.block(index, block);
    }
    let cold: Vec<bool> = blocks.iter().map(|b| cold[*b]).collect();
    Ok(isel.finish(name, &cold))
}

pub(super) struct Isel<'a> {
    pub(super) func: &'a Function,
    consts: &'a [i64],
    pub(super) isa: Isa,
    block_ids: SecondaryMap<Block, usize>,
    /// Number of incoming edges.
    preds: SecondaryMap<Block, u32>,
    live: SecondaryMap<Value, bool>,
    /// Uses by live instructions.
    uses: SecondaryMap<Value, u32>,
    vregs: SecondaryMap<Value, Option<V>>,
    /// `rename[v]`: the register that was found to hold what `v` stands for.
    rename: Vec<Option<V>>,
    blocks: Vec<LirBlock>,
    /// Blocks made for block `i` of the CLIF (split edges, tests of a jump table), in the order to lay them out.
    extras: Vec<Vec<usize>>,
    /// Instructions of the CLIF instruction being selected, forwards.
    cur: Vec<LirInst>,
    loc: u32,
}

impl<'a> Isel<'a> {
    fn new(func: &'a Function, consts: &'a [i64], isa: Isa, rpo: &[Block]) -> Self {
        let mut block_ids = SecondaryMap::new();
        let mut preds = SecondaryMap::with_default(0);
        for (id, &block) in rpo.iter().enumerate() {
            block_ids[block] = id;
            for call in destinations(func, block) {
                preds[call.block(&func.dfg.value_lists)] += 1;
            }
        }
        Self {
            func,
            consts,
            isa,
            block_ids,
            preds,
            live: SecondaryMap::new(),
            uses: SecondaryMap::new(),
            vregs: SecondaryMap::new(),
            rename: Vec::new(),
            blocks: rpo.iter().map(|_| LirBlock::default()).collect(),
            extras: vec![Vec::new(); rpo.len()],
            cur: Vec::new(),
            loc: !0,
        }
    }

    /// Finds the values that some effect depends on, through block parameters too, and counts their uses.
    fn mark_live(&mut self, rpo: &[Block]) {
        let func = self.func;
        // Arguments passed to each block parameter, from all edges.
        let mut incoming: SecondaryMap<Value, Vec<Value>> = SecondaryMap::new();
        let mut work: Vec<Value> = Vec::new();
        for &block in rpo {
            for call in destinations(func, block) {
                let params = func.dfg.block_params(call.block(&func.dfg.value_lists));
                for (param, arg) in params.iter().zip(self.call_args(&call)) {
                    incoming[*param].push(arg);
                }
            }
            for inst in func.layout.block_insts(block) {
                if self.has_effect(inst) {
                    work.extend(func.dfg.inst_args(inst));
                }
            }
        }
        while let Some(value) = work.pop() {
            let value = func.dfg.resolve_aliases(value);
            self.uses[value] += 1;
            if std::mem::replace(&mut self.live[value], true) {
                continue;
            }
            match func.dfg.value_def(value) {
                ValueDef::Result(inst, _) if !self.has_effect(inst) => work.extend(func.dfg.inst_args(inst)),
                ValueDef::Param(..) => work.extend(incoming[value].iter()),
                _ => {}
            }
        }
    }

    fn call_args(&self, call: &BlockCall) -> Vec<Value> {
        let values = call.args(&self.func.dfg.value_lists).filter_map(|arg| match arg {
            BlockArg::Value(v) => Some(self.func.dfg.resolve_aliases(v)),
            _ => None,
        });
        values.collect()
    }

    /// Whether the instruction must be selected even if nobody wants its result.
    fn has_effect(&self, inst: Inst) -> bool {
        let opcode = self.func.dfg.insts[inst].opcode();
        if opcode.is_call() {
            return !matches!(self.callee(inst), Some((ns::PIN | ns::CONST, _)));
        }
        opcode.is_terminator() || opcode.is_branch() || opcode.can_store()
    }

    fn block(&mut self, index: usize, block: Block) {
        let func = self.func;
        let mut reversed: Vec<LirInst> = Vec::new();
        let insts: Vec<Inst> = func.layout.block_insts(block).collect();
        for inst in insts.into_iter().rev() {
            self.loc = func.srcloc(inst).bits();
            let opcode = func.dfg.insts[inst].opcode();
            if opcode.is_terminator() || opcode.is_branch() {
                self.terminator(index, inst);
            } else {
                let wanted = func.dfg.inst_results(inst).first().and_then(|v| self.vregs[*v]);
                if wanted.is_none() && !self.has_effect(inst) {
                    continue;
                }
                let result = self.inst(inst);
                if let (Some(wanted), Some(result)) = (wanted, result) {
                    self.rename[wanted.0 as usize] = Some(result);
                }
            }
            reversed.extend(self.cur.drain(..).rev());
        }
        let params: Vec<V> = if index == 0 {
            // All of them, used or not: their position is their register.
            let params = func.dfg.block_params(block).iter().map(|p| self.vreg(*p)).collect();
            self.loc = !0;
            self.push(Op::Params(params));
            reversed.append(&mut self.cur);
            Vec::new()
        } else {
            let live: Vec<Value> = func.dfg.block_params(block).iter().copied().filter(|p| self.live[*p]).collect();
            live.into_iter().map(|p| self.vreg(p)).collect()
        };
        reversed.reverse();
        self.blocks[index].params = params;
        self.blocks[index].insts = reversed;
    }

    /// Selects one instruction and returns the register of its result.
    fn inst(&mut self, inst: Inst) -> Option<V> {
        let func = self.func;
        let data = func.dfg.insts[inst];
        let ty = func.dfg.inst_results(inst).first().map_or(types::I64, |v| self.ty(*v));
        let v = match data {
            InstructionData::Unary { opcode, arg } => self.unary(opcode, ty, arg),
            InstructionData::Binary { opcode, args } => self.binary(opcode, ty, args),
            InstructionData::Ternary {
                opcode: Opcode::Bitselect,
                args,
            } => self.bitselect(ty, args),
            InstructionData::Ternary { args, .. } => {
                let cond = self.cond(args[0], false);
                let (yes, no) = (self.pick(args[1]), self.pick(args[2]));
                self.select(cond, yes, no)
            }
            InstructionData::IntCompare { cond, args, .. } => {
                if cond == IntCC::NotEqual && self.constant(args[1]) == Some(0) && self.known_bits(args[0], 0) == 1 {
                    self.reg(args[0])
                } else {
                    let value = func.dfg.first_result(inst);
                    let cond = self.cond(value, false);
                    self.select(cond, Pick::Const(1), Pick::Const(0))
                }
            }
            InstructionData::Load { opcode, arg, offset, .. } => {
                let (size, signed) = match opcode {
                    Opcode::Uload8 => (Size::B, false),
                    Opcode::Sload8 => (Size::B, true),
                    Opcode::Uload16 => (Size::H, false),
                    Opcode::Sload16 => (Size::H, true),
                    Opcode::Uload32 => (Size::W, false),
                    Opcode::Sload32 => (Size::W, true),
                    _ => (size(ty), false),
                };
                self.load(size, signed, ty, arg, offset.into())
            }
            InstructionData::LoadNoOffset { arg, .. } => self.load(size(ty), false, ty, arg, 0),
            InstructionData::Store { opcode, args, offset, .. } => {
                let size = match opcode {
                    Opcode::Istore8 => Size::B,
                    Opcode::Istore16 => Size::H,
                    Opcode::Istore32 => Size::W,
                    _ => size(self.ty(args[0])),
                };
                self.store(size, args[0], args[1], offset.into());
                return None;
            }
            InstructionData::StoreNoOffset { args, .. } => {
                self.store(size(self.ty(args[0])), args[0], args[1], 0);
                return None;
            }
            InstructionData::AtomicRmw { op, args, .. } => return self.atomic(inst, op, args),
            InstructionData::AtomicCas { args, .. } => self.compare_exchange(ty, args),
            InstructionData::Call { .. } => return self.call(inst),
            // Made again at each use.
            _ => return None,
        };
        Some(v)
    }

    fn call(&mut self, inst: Inst) -> Option<V> {
        let func = self.func;
        let (namespace, index) = self.callee(inst).expect("checked before selection");
        let args: Vec<V> = func.dfg.inst_args(inst).iter().map(|v| self.reg(*v)).collect();
        let callee = if namespace == ns::HELPER {
            Callee::Helper(index)
        } else {
            Callee::Subprog(index)
        };
        let result = func.dfg.inst_results(inst).first().copied();
        let ret = result.filter(|v| self.vregs[*v].is_some()).map(|_| self.fresh());
        self.push(Op::Call { callee, args, ret });
        let (ret, bits) = (ret?, self.ty(result?).bits());
        // A helper that returns `int` or `u32` may leave anything in the high half.
        match bits {
            64 => Some(ret),
            32 => Some(self.mov32(ret)),
            _ => Some(self.narrow(ret, bits)),
        }
    }

    /// Puts the blocks in order, renumbers registers in order of definition and lays out the stack slots.
    /// `cold` is for the blocks of the CLIF.
    fn finish(self, name: &str, cold: &[bool]) -> Lir {
        // A branch on a constant (possible without the mid-end) has left blocks that nothing jumps to.
        let mut reachable = vec![false; self.blocks.len()];
        let mut work = vec![0];
        while let Some(index) = work.pop() {
            if !std::mem::replace(&mut reachable[index], true) {
                work.extend(self.blocks[index].succs.iter().map(|edge| edge.block));
            }
        }
        let mut order: Vec<usize> = Vec::with_capacity(self.blocks.len());
        for index in 0..cold.len() {
            order.push(index);
            order.extend(&self.extras[index]);
        }
        order.retain(|index| reachable[*index]);
        // A block on an edge to a cold one is cold too.
        let is_cold = |index: usize| match cold.get(index) {
            Some(cold) => *cold,
            None => self.blocks[index].succs.iter().all(|edge| cold.get(edge.block).is_some_and(|c| *c)),
        };
        let cold: Vec<bool> = order.iter().map(|index| is_cold(*index)).collect();
        let mut position = vec![0; self.blocks.len()];
        for (new, &old) in order.iter().enumerate() {
            position[old] = new;
        }
        let mut taken: Vec<Option<LirBlock>> = self.blocks.into_iter().map(Some).collect();
        let mut blocks: Vec<LirBlock> = order.iter().filter_map(|&old| taken[old].take()).collect();
        for (block, cold) in blocks.iter_mut().zip(cold) {
            block.cold = cold;
        }
        let root = |mut v: V| {
            while let Some(next) = self.rename[v.0 as usize] {
                v = next;
            }
            v
        };
        let mut numbers: Vec<Option<u32>> = vec![None; self.rename.len()];
        let mut next = 0;
        let mut number = |v: V| {
            let v = root(v).0 as usize;
            V(*numbers[v].get_or_insert_with(|| {
                next += 1;
                next - 1
            }))
        };
        let mut used = vec![false; self.func.sized_stack_slots.len()];
        for block in &mut blocks {
            for v in &mut block.params {
                *v = number(*v);
            }
            for inst in &mut block.insts {
                inst.op.map_regs(&mut number);
                if let Some(slot) = inst.op.slot() {
                    used[slot as usize] = true;
                }
            }
            for edge in &mut block.succs {
                edge.block = position[edge.block];
                for v in &mut edge.args {
                    *v = number(*v);
                }
            }
        }
        let mut slot_offsets = vec![0; used.len()];
        let mut bytes: u64 = 0;
        for (slot, data) in self.func.sized_stack_slots.iter() {
            if used[slot.index()] && data.size > 0 {
                // Eight bytes are the granularity of the verifier's view of the stack; a small slot may share one.
                let size = u64::from(data.size);
                let align = size.next_power_of_two().min(8).max(1 << data.align_shift.min(3));
                bytes = (bytes + size).next_multiple_of(align);
                slot_offsets[slot.index()] = i32::try_from(bytes).map_or(i32::MIN, |b| -b);
            }
        }
        let slot_bytes = u32::try_from(bytes.next_multiple_of(8)).unwrap_or(u32::MAX);
        Lir {
            name: name.to_owned(),
            blocks,
            num_vregs: next,
            slot_offsets,
            slot_bytes,
        }
    }
}

fn destinations(func: &Function, block: Block) -> Vec<BlockCall> {
    let Some(inst) = func.layout.last_inst(block) else {
        return Vec::new();
    };
    func.dfg.insts[inst]
        .branch_destination(&func.dfg.jump_tables, &func.dfg.exception_tables)
        .to_vec()
}

pub(super) const fn mask(bits: u32) -> u64 {
    if bits >= 64 { u64::MAX } else { (1 << bits) - 1 }
}

pub(super) const fn sign_extend(value: u64, bits: u32) -> i64 {
    let shift = 64 - bits;
    ((value << shift) as i64) >> shift
}

/// Operation width for a type: 32-bit operations also serve `i8` and `i16`.
pub(super) fn width(ty: Type) -> Width {
    if ty == types::I64 { Width::W64 } else { Width::W32 }
}

fn size(ty: Type) -> Size {
    match ty.bits() {
        8 => Size::B,
        16 => Size::H,
        32 => Size::W,
        _ => Size::D,
    }
}
