//! Instruction selection: CLIF to [`super::lir`].
//!
//! Works backwards, block by block in reverse reverse-postorder, and only selects what something already selected needs:
//! dead code vanishes, and an instruction that was folded into its only user is never selected by itself. Constants,
//! symbols and stack addresses are made again at each use.
//!
//! Invariant: **a register that holds an `i8`, `i16` or `i32` is zero-extended to 64 bits.** So `uextend` is free, and a
//! 32-bit load of `ctx->data` stays a packet pointer for the kernel verifier.

use super::lir::{
    AluOp, AtomicOp, Base, Block as LirBlock, Callee, Cc, Cond, Edge, Inst as LirInst, Lir, Mem, Op, Size, Src, Sym, V, Width,
};
use super::{BackendError, Isa, check, ns};
use cranelift_codegen::dominator_tree::DominatorTree;
use cranelift_codegen::entity::{EntityRef, SecondaryMap};
use cranelift_codegen::flowgraph::ControlFlowGraph;
use cranelift_codegen::ir::condcodes::{CondCode, IntCC};
use cranelift_codegen::ir::{
    AtomicRmwOp, Block, BlockArg, BlockCall, FuncRef, Function, GlobalValue, Inst, InstructionData, Opcode, Type, Value, ValueDef, types,
};

/// Selects instructions for `func`, which has no unreachable blocks.
pub(super) fn select(func: &Function, name: &str, consts: &[i64], isa: Isa) -> Result<Lir, BackendError> {
    check::check(func, name, consts)?;
    let cfg = ControlFlowGraph::with_function(func);
    let domtree = DominatorTree::with_function(func, &cfg);
    let rpo: Vec<Block> = domtree.cfg_postorder().iter().rev().copied().collect();
    let mut isel = Isel::new(func, consts, isa, &rpo);
    isel.mark_live(&rpo);
    for (index, &block) in rpo.iter().enumerate().rev() {
        isel.block(index, block);
    }
    Ok(isel.finish(name, rpo.len()))
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

    // ---- The values of CLIF -----------------------------------------------------------------------------------------

    pub(super) fn data(&self, value: Value) -> Option<(Inst, InstructionData)> {
        match self.func.dfg.value_def(self.func.dfg.resolve_aliases(value)) {
            ValueDef::Result(inst, 0) => Some((inst, self.func.dfg.insts[inst])),
            _ => None,
        }
    }

    pub(super) fn ty(&self, value: Value) -> Type {
        self.func.dfg.value_type(value)
    }

    pub(super) fn single_use(&self, value: Value) -> bool {
        self.uses[self.func.dfg.resolve_aliases(value)] == 1
    }

    fn callee(&self, inst: Inst) -> Option<(u32, u32)> {
        match self.func.dfg.insts[inst] {
            InstructionData::Call { func_ref, .. } => self.func_name(func_ref),
            _ => None,
        }
    }

    fn func_name(&self, func_ref: FuncRef) -> Option<(u32, u32)> {
        check::user_name(self.func, &self.func.dfg.ext_funcs[func_ref].name)
    }

    fn symbol(&self, gv: GlobalValue) -> Option<(u32, u32, i64)> {
        check::symbol(self.func, gv)
    }

    /// Follows a value to the one whose register holds it: through aliases, pins, zero-extension and truncation that
    /// changes nothing. The result may be of another width, its register has the same 64 bits.
    pub(super) fn resolve(&self, value: Value) -> Value {
        let mut value = self.func.dfg.resolve_aliases(value);
        while let Some((inst, data)) = self.data(value) {
            let next = match data {
                InstructionData::Unary {
                    opcode: Opcode::Uextend,
                    arg,
                } => arg,
                InstructionData::Unary {
                    opcode: Opcode::Ireduce,
                    arg,
                } if self.known_bits(arg, 0) <= self.ty(value).bits() => arg,
                InstructionData::Call { .. } => match self.callee(inst) {
                    Some((ns::PIN, _)) => self.func.dfg.inst_args(inst)[0],
                    _ => break,
                },
                _ => break,
            };
            value = self.func.dfg.resolve_aliases(next);
        }
        value
    }

    /// An upper bound for the number of significant bits.
    pub(super) fn known_bits(&self, value: Value, depth: u32) -> u32 {
        let full = self.ty(value).bits();
        let Some((_, data)) = self.data(value) else { return full };
        if depth > 6 {
            return full;
        }
        let of = |v: Value| self.known_bits(v, depth + 1);
        let bits = match data {
            InstructionData::Unary {
                opcode: Opcode::Uextend | Opcode::Ireduce,
                arg,
            } => of(arg),
            InstructionData::UnaryImm {
                opcode: Opcode::Iconst,
                imm,
            } => 64 - (imm.bits() as u64 & mask(full)).leading_zeros(),
            InstructionData::Load {
                opcode: Opcode::Uload8, ..
            } => 8,
            InstructionData::Load {
                opcode: Opcode::Uload16, ..
            } => 16,
            InstructionData::Load {
                opcode: Opcode::Uload32, ..
            } => 32,
            InstructionData::IntCompare { .. } => 1,
            InstructionData::Binary {
                opcode: Opcode::Band,
                args,
            } => of(args[0]).min(of(args[1])),
            InstructionData::Binary {
                opcode: Opcode::Bor | Opcode::Bxor,
                args,
            } => of(args[0]).max(of(args[1])),
            InstructionData::Binary {
                opcode: Opcode::Ushr,
                args,
            } => match self.constant(args[1]) {
                Some(n) => of(args[0]).saturating_sub((n % u64::from(full)) as u32),
                None => of(args[0]),
            },
            InstructionData::Binary {
                opcode: Opcode::Umin,
                args,
            } => of(args[0]).min(of(args[1])),
            InstructionData::Binary {
                opcode: Opcode::Umax,
                args,
            } => of(args[0]).max(of(args[1])),
            InstructionData::Binary {
                opcode: Opcode::Udiv,
                args,
            } => of(args[0]),
            InstructionData::Ternary {
                opcode: Opcode::Select | Opcode::SelectSpectreGuard,
                args,
            } => of(args[1]).max(of(args[2])),
            _ => full,
        };
        bits.min(full)
    }

    /// The value of a constant, zero-extended from its type.
    pub(super) fn constant(&self, value: Value) -> Option<u64> {
        let bits = self.ty(value).bits();
        let (inst, data) = self.data(value)?;
        let raw = match data {
            InstructionData::UnaryImm {
                opcode: Opcode::Iconst,
                imm,
            } => imm.bits() as u64,
            InstructionData::Unary {
                opcode: Opcode::Uextend | Opcode::Ireduce,
                arg,
            } => self.constant(arg)?,
            InstructionData::Unary {
                opcode: Opcode::Sextend,
                arg,
            } => sign_extend(self.constant(arg)?, self.ty(arg).bits()) as u64,
            InstructionData::UnaryGlobalValue { global_value, .. } => match self.symbol(global_value)? {
                (ns::HIDDEN, _, value) => value as u64,
                _ => return None,
            },
            InstructionData::Call { .. } => match self.callee(inst)? {
                (ns::CONST, index) => *self.consts.get(index as usize)? as u64,
                (ns::PIN, _) => self.constant(self.func.dfg.inst_args(inst)[0])?,
                _ => return None,
            },
            _ => return None,
        };
        Some(raw & mask(bits))
    }

    // ---- Making LIR -------------------------------------------------------------------------------------------------

    pub(super) fn fresh(&mut self) -> V {
        self.rename.push(None);
        V(u32::try_from(self.rename.len() - 1).unwrap_or(u32::MAX))
    }

    pub(super) fn push(&mut self, op: Op) {
        self.cur.push(LirInst { op, loc: self.loc });
    }

    pub(super) fn alu(&mut self, op: AluOp, width: Width, lhs: V, rhs: Src) -> V {
        let dst = self.fresh();
        self.push(Op::Alu { op, width, dst, lhs, rhs });
        dst
    }

    pub(super) fn alu_imm(&mut self, op: AluOp, width: Width, lhs: V, imm: i32) -> V {
        self.alu(op, width, lhs, Src::Imm(imm))
    }

    pub(super) fn alu_reg(&mut self, op: AluOp, width: Width, lhs: V, rhs: V) -> V {
        self.alu(op, width, lhs, Src::Reg(rhs))
    }

    pub(super) fn neg(&mut self, width: Width, src: V) -> V {
        let dst = self.fresh();
        self.push(Op::Neg { width, dst, src });
        dst
    }

    pub(super) fn mov32(&mut self, src: V) -> V {
        let dst = self.fresh();
        self.push(Op::Mov {
            width: Width::W32,
            dst,
            src,
        });
        dst
    }

    pub(super) fn constant_reg(&mut self, value: i64) -> V {
        let dst = self.fresh();
        self.push(Op::Const { dst, value });
        dst
    }

    pub(super) fn select(&mut self, mut cond: Cond, mut yes: Pick, mut no: Pick) -> V {
        // The first arm is a register that the result takes over, the second may be an immediate.
        if matches!(yes, Pick::Const(_)) && matches!(no, Pick::Reg(_)) || cond.cc == Cc::NotSet {
            std::mem::swap(&mut yes, &mut no);
            cond = cond.negate();
        }
        if cond.cc == Cc::NotSet {
            std::mem::swap(&mut yes, &mut no);
            cond = cond.negate();
        }
        let yes = self.pick_reg(yes);
        let no = match no {
            Pick::Const(c) => match i32::try_from(c) {
                Ok(imm) => Src::Imm(imm),
                Err(_) => Src::Reg(self.constant_reg(c)),
            },
            Pick::Reg(v) => Src::Reg(v),
        };
        let dst = self.fresh();
        self.push(Op::Select { cond, dst, yes, no });
        dst
    }

    fn pick_reg(&mut self, pick: Pick) -> V {
        match pick {
            Pick::Reg(v) => v,
            Pick::Const(c) => self.constant_reg(c),
        }
    }

    pub(super) fn pick(&mut self, value: Value) -> Pick {
        match self.constant(value) {
            Some(c) => Pick::Const(c as i64),
            None => Pick::Reg(self.reg(value)),
        }
    }

    /// The register of a value; constants and addresses are made here and now.
    pub(super) fn reg(&mut self, value: Value) -> V {
        let value = self.resolve(value);
        if let Some(c) = self.constant(value) {
            return self.constant_reg(c as i64);
        }
        match self.data(value) {
            Some((_, InstructionData::UnaryGlobalValue { global_value, .. })) => {
                let sym = match self.symbol(global_value) {
                    Some((ns::RODATA, _, offset)) => Sym::Rodata(offset as u32),
                    Some((_, index, _)) => Sym::Map(index),
                    None => unreachable!("checked before selection"),
                };
                let dst = self.fresh();
                self.push(Op::Sym { dst, sym });
                dst
            }
            Some((_, InstructionData::FuncAddr { func_ref, .. })) => {
                let (_, index) = self.func_name(func_ref).expect("checked before selection");
                let dst = self.fresh();
                self.push(Op::Sym {
                    dst,
                    sym: Sym::SubprogAddr(index),
                });
                dst
            }
            Some((_, InstructionData::StackAddr { stack_slot, offset, .. })) => {
                let dst = self.fresh();
                self.push(Op::SlotAddr {
                    dst,
                    slot: stack_slot.as_u32(),
                    off: offset.into(),
                });
                dst
            }
            _ => self.vreg(value),
        }
    }

    fn vreg(&mut self, value: Value) -> V {
        if let Some(v) = self.vregs[value] {
            return v;
        }
        let v = self.fresh();
        self.vregs[value] = Some(v);
        v
    }

    /// A register whose low `bits` bits are those of the value; the rest is anything.
    pub(super) fn low(&mut self, value: Value, bits: u32) -> V {
        let mut value = self.func.dfg.resolve_aliases(value);
        while self.constant(value).is_none() && self.single_use(value) {
            value = match self.data(value) {
                Some((
                    _,
                    InstructionData::Unary {
                        opcode: Opcode::Ireduce,
                        arg,
                    },
                )) => arg,
                Some((
                    _,
                    InstructionData::Unary {
                        opcode: Opcode::Uextend | Opcode::Sextend,
                        arg,
                    },
                )) if self.ty(arg).bits() >= bits => arg,
                Some((
                    _,
                    InstructionData::Binary {
                        opcode: Opcode::Band,
                        args,
                    },
                )) if self.constant(args[1]).is_some_and(|m| m & mask(bits) == mask(bits)) => args[0],
                _ => break,
            };
            value = self.func.dfg.resolve_aliases(value);
        }
        self.reg(value)
    }

    /// Second operand of a 64-bit operation.
    pub(super) fn src64(&mut self, value: Value) -> Src {
        match self.constant(value).map(|c| i32::try_from(c as i64)) {
            Some(Ok(imm)) => Src::Imm(imm),
            _ => Src::Reg(self.reg(value)),
        }
    }

    /// Second operand of a 32-bit operation.
    pub(super) fn src32(&mut self, value: Value) -> Src {
        match self.constant(value) {
            Some(c) => Src::Imm(c as u32 as i32),
            None => Src::Reg(self.low(value, 32)),
        }
    }

    /// Sign-extends the low `from` bits of a register. `W32` clears the high half.
    pub(super) fn sext(&mut self, src: V, from: u32, width: Width) -> V {
        let to = if width == Width::W64 { 64 } else { 32 };
        if from >= to {
            return src;
        }
        if self.isa == Isa::V4 {
            let dst = self.fresh();
            let from = match from {
                8 => Size::B,
                16 => Size::H,
                _ => Size::W,
            };
            self.push(Op::MovSx { width, from, dst, src });
            return dst;
        }
        let shift = (to - from) as i32;
        let high = self.alu_imm(AluOp::Lsh, width, src, shift);
        self.alu_imm(AluOp::Arsh, width, high, shift)
    }

    /// Restores the invariant after an operation on `i8` or `i16` that may have carried into higher bits.
    pub(super) fn narrow(&mut self, v: V, bits: u32) -> V {
        if bits < 32 {
            self.alu_imm(AluOp::And, Width::W32, v, mask(bits) as i32)
        } else {
            v
        }
    }

    // ---- Conditions -------------------------------------------------------------------------------------------------

    /// The condition "`value` is not zero", or its negation.
    pub(super) fn cond(&mut self, value: Value, negate: bool) -> Cond {
        let value = self.resolve(value);
        let finish = |c: Cond| if negate { c.negate() } else { c };
        match self.data(value) {
            Some((_, InstructionData::IntCompare { cond, args, .. })) => {
                if matches!(cond, IntCC::Equal | IntCC::NotEqual) && self.constant(args[1]) == Some(0) {
                    let negate = negate ^ (cond == IntCC::Equal);
                    let inner = self.resolve(args[0]);
                    // `(a < b) != 0`, `(a & b) != 0`: the inner operation is the test.
                    match self.data(inner) {
                        Some((_, InstructionData::IntCompare { .. })) => return self.cond(inner, negate),
                        Some((
                            _,
                            InstructionData::Binary {
                                opcode: Opcode::Band,
                                args,
                            },
                        )) if self.single_use(inner) => {
                            let c = self.bit_test(args);
                            return if negate { c.negate() } else { c };
                        }
                        _ => {}
                    }
                }
                finish(self.compare(cond, args[0], args[1]))
            }
            Some((
                _,
                InstructionData::Binary {
                    opcode: Opcode::Band,
                    args,
                },
            )) if self.single_use(value) => finish(self.bit_test(args)),
            Some((
                _,
                InstructionData::Binary {
                    opcode: Opcode::Bxor,
                    args,
                },
            )) if self.constant(args[1]) == Some(1) && self.known_bits(args[0], 0) == 1 => self.cond(args[0], !negate),
            _ => finish(Cond {
                width: Width::W64,
                cc: Cc::Ne,
                lhs: self.reg(value),
                rhs: Src::Imm(0),
            }),
        }
    }

    fn bit_test(&mut self, args: [Value; 2]) -> Cond {
        let [a, b] = if self.constant(args[0]).is_some() {
            [args[1], args[0]]
        } else {
            args
        };
        let (width, rhs) = self.unsigned_rhs(b);
        Cond {
            width,
            cc: Cc::Set,
            lhs: self.reg(a),
            rhs,
        }
    }

    /// Right side of a comparison that does not look at signs. 64-bit where possible: the kernel verifier keeps better
    /// bounds for 64-bit registers than for halves.
    fn unsigned_rhs(&mut self, value: Value) -> (Width, Src) {
        match self.constant(value) {
            Some(c) if i32::try_from(c as i64).is_err() && self.ty(value).bits() <= 32 => (Width::W32, Src::Imm(c as u32 as i32)),
            _ => (Width::W64, self.src64(value)),
        }
    }

    pub(super) fn compare(&mut self, cc: IntCC, a: Value, b: Value) -> Cond {
        let (cc, a, b) = if self.constant(a).is_some() && self.constant(b).is_none() {
            (cc.swap_args(), b, a)
        } else {
            (cc, a, b)
        };
        let bits = self.ty(a).bits();
        // Numbers whose sign bit is known to be clear compare the same as unsigned.
        let positive = bits < 64 && self.known_bits(a, 0) < bits && self.known_bits(b, 0) < bits;
        let cc = if positive { cc.unsigned() } else { cc };
        let signed = cc.unsigned() != cc;
        let lir_cc = match cc {
            IntCC::Equal => Cc::Eq,
            IntCC::NotEqual => Cc::Ne,
            IntCC::UnsignedLessThan => Cc::Ult,
            IntCC::UnsignedLessThanOrEqual => Cc::Ule,
            IntCC::UnsignedGreaterThan => Cc::Ugt,
            IntCC::UnsignedGreaterThanOrEqual => Cc::Uge,
            IntCC::SignedLessThan => Cc::Slt,
            IntCC::SignedLessThanOrEqual => Cc::Sle,
            IntCC::SignedGreaterThan => Cc::Sgt,
            IntCC::SignedGreaterThanOrEqual => Cc::Sge,
        };
        if signed && bits < 32 {
            let lhs = self.reg(a);
            let lhs = self.sext(lhs, bits, Width::W32);
            let rhs = match self.constant(b) {
                Some(c) => Src::Imm(sign_extend(c, bits) as i32),
                None => {
                    let rhs = self.reg(b);
                    Src::Reg(self.sext(rhs, bits, Width::W32))
                }
            };
            return Cond {
                width: Width::W32,
                cc: lir_cc,
                lhs,
                rhs,
            };
        }
        if signed && bits == 32 {
            return Cond {
                width: Width::W32,
                cc: lir_cc,
                lhs: self.low(a, 32),
                rhs: self.src32(b),
            };
        }
        let lhs = self.reg(a);
        let (width, rhs) = self.unsigned_rhs(b);
        Cond {
            width,
            cc: lir_cc,
            lhs,
            rhs,
        }
    }

    // ---- Memory -----------------------------------------------------------------------------------------------------

    fn mem(&mut self, address: Value, offset: i32) -> Mem {
        let mut off = i64::from(offset);
        let mut base = self.resolve(address);
        while let Some((
            _,
            InstructionData::Binary {
                opcode: Opcode::Iadd,
                args,
            },
        )) = self.data(base)
        {
            let (next, add) = match (self.constant(args[0]), self.constant(args[1])) {
                (None, Some(c)) => (args[0], c as i64),
                (Some(c), None) => (args[1], c as i64),
                _ => break,
            };
            let Some(sum) = off.checked_add(add).filter(|s| i16::try_from(*s).is_ok()) else {
                break;
            };
            off = sum;
            base = self.resolve(next);
        }
        if let Some((_, InstructionData::StackAddr { stack_slot, offset, .. })) = self.data(base)
            && let Ok(off) = i16::try_from(off + i64::from(offset))
        {
            return Mem {
                base: Base::Slot(stack_slot.as_u32()),
                off,
            };
        }
        match i16::try_from(off) {
            Ok(off) => Mem {
                base: Base::Reg(self.reg(base)),
                off,
            },
            // Only the offset of the instruction itself can be this large.
            Err(_) => {
                let base = self.reg(base);
                let base = match i32::try_from(off) {
                    Ok(imm) => self.alu_imm(AluOp::Add, Width::W64, base, imm),
                    Err(_) => {
                        let c = self.constant_reg(off);
                        self.alu_reg(AluOp::Add, Width::W64, base, c)
                    }
                };
                Mem {
                    base: Base::Reg(base),
                    off: 0,
                }
            }
        }
    }

    fn load(&mut self, size: Size, signed: bool, ty: Type, address: Value, offset: i32) -> V {
        let mem = self.mem(address, offset);
        let dst = self.fresh();
        let extend_in_load = signed && ty == types::I64 && self.isa == Isa::V4;
        self.push(Op::Load {
            size,
            signed: extend_in_load,
            dst,
            mem,
        });
        if !signed || extend_in_load {
            return dst;
        }
        let width = if ty == types::I64 { Width::W64 } else { Width::W32 };
        let wide = self.sext(dst, size.bits(), width);
        self.narrow(wide, ty.bits())
    }

    fn store(&mut self, size: Size, value: Value, address: Value, offset: i32) {
        let mem = self.mem(address, offset);
        // Before 6.4 the kernel refuses stores of immediates to the context.
        let to_context = self.is_context(address);
        let src = match self.constant(value) {
            Some(c) if !to_context && (size != Size::D || i32::try_from(c as i64).is_ok()) => Src::Imm(c as u32 as i32),
            _ => Src::Reg(self.low(value, size.bits())),
        };
        self.push(Op::Store { size, mem, src });
    }

    fn is_context(&self, address: Value) -> bool {
        let mut base = self.resolve(address);
        while let Some((
            _,
            InstructionData::Binary {
                opcode: Opcode::Iadd,
                args,
            },
        )) = self.data(base)
        {
            base = self.resolve(args[0]);
        }
        let entry = self.func.layout.entry_block();
        matches!(self.func.dfg.value_def(base), ValueDef::Param(block, _) if Some(block) == entry)
    }

    fn atomic(&mut self, inst: Inst, op: AtomicRmwOp, args: [Value; 2]) -> Option<V> {
        let result = self.func.dfg.first_result(inst);
        let ty = self.ty(result);
        let width = width(ty);
        let mem = self.mem(args[0], 0);
        let src = self.low(args[1], ty.bits());
        if let Base::Slot(_) = mem.base {
            return Some(self.atomic_on_stack(op, ty, mem, src));
        }
        let (op, src) = match op {
            AtomicRmwOp::Add => (AtomicOp::Add, src),
            AtomicRmwOp::Sub => (AtomicOp::Add, self.neg(width, src)),
            AtomicRmwOp::And => (AtomicOp::And, src),
            AtomicRmwOp::Or => (AtomicOp::Or, src),
            AtomicRmwOp::Xor => (AtomicOp::Xor, src),
            AtomicRmwOp::Xchg => (AtomicOp::Xchg, src),
            _ => unreachable!("checked before selection"),
        };
        let wanted = self.vregs[result].is_some();
        // An exchange always writes the register.
        let fetched = (wanted || op == AtomicOp::Xchg).then(|| self.fresh());
        self.push(Op::Atomic {
            op,
            width,
            mem,
            src,
            fetched,
        });
        fetched
    }

    /// Nobody else sees the stack, so a load and a store will do. They must: the verifier of Linux 6.18 forgets to mark
    /// the stack slot when it tracks a fetched value back (`backtrack_insn`), prunes a path with another value in the
    /// slot, and removes the branches only that path takes.
    fn atomic_on_stack(&mut self, op: AtomicRmwOp, ty: Type, mem: Mem, src: V) -> V {
        let width = width(ty);
        let old = self.fresh();
        self.push(Op::Load {
            size: size(ty),
            signed: false,
            dst: old,
            mem,
        });
        let new = match op {
            AtomicRmwOp::Add => self.alu_reg(AluOp::Add, width, old, src),
            AtomicRmwOp::Sub => self.alu_reg(AluOp::Sub, width, old, src),
            AtomicRmwOp::And => self.alu_reg(AluOp::And, width, old, src),
            AtomicRmwOp::Or => self.alu_reg(AluOp::Or, width, old, src),
            AtomicRmwOp::Xor => self.alu_reg(AluOp::Xor, width, old, src),
            _ => src,
        };
        self.push(Op::Store {
            size: size(ty),
            mem,
            src: Src::Reg(new),
        });
        old
    }

    fn compare_exchange(&mut self, ty: Type, args: [Value; 3]) -> V {
        let mem = self.mem(args[0], 0);
        let expected = self.reg(args[1]);
        let new = self.low(args[2], ty.bits());
        let dst = self.fresh();
        if let Base::Slot(_) = mem.base {
            // As in `atomic_on_stack`.
            self.push(Op::Load {
                size: size(ty),
                signed: false,
                dst,
                mem,
            });
            let cond = Cond {
                width: Width::W64,
                cc: Cc::Eq,
                lhs: dst,
                rhs: Src::Reg(expected),
            };
            let stored = self.select(cond, Pick::Reg(new), Pick::Reg(dst));
            self.push(Op::Store {
                size: size(ty),
                mem,
                src: Src::Reg(stored),
            });
        } else {
            // The 32-bit form leaves the old value zero-extended.
            self.push(Op::CmpXchg {
                width: width(ty),
                dst,
                mem,
                expected,
                new,
            });
        }
        dst
    }

    // ---- Instructions -----------------------------------------------------------------------------------------------

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

    // ---- Control flow -----------------------------------------------------------------------------------------------

    fn terminator(&mut self, index: usize, inst: Inst) {
        let func = self.func;
        match func.dfg.insts[inst] {
            InstructionData::Jump { destination, .. } => self.jump(index, &destination),
            InstructionData::Brif { arg, blocks, .. } => {
                let pool = &func.dfg.value_lists;
                let same = blocks[0].block(pool) == blocks[1].block(pool) && self.call_args(&blocks[0]) == self.call_args(&blocks[1]);
                match self.constant(arg) {
                    Some(0) => self.jump(index, &blocks[1]),
                    Some(_) => self.jump(index, &blocks[0]),
                    None if same => self.jump(index, &blocks[0]),
                    None => {
                        let cond = self.cond(arg, false);
                        let (yes, no) = (self.branch_edge(index, &blocks[0]), self.branch_edge(index, &blocks[1]));
                        self.push(Op::Branch(cond));
                        self.blocks[index].succs = vec![yes, no];
                    }
                }
            }
            InstructionData::BranchTable { arg, table, .. } => {
                let table = &func.dfg.jump_tables[table];
                self.branch_table(index, arg, table.as_slice(), &table.default_block());
            }
            InstructionData::MultiAry { .. } => {
                let value = func.dfg.inst_args(inst).first().copied();
                let v = match value {
                    Some(value) => self.reg(value),
                    None => self.constant_reg(0),
                };
                self.push(Op::Ret(v));
            }
            _ => unreachable!("checked before selection"),
        }
    }

    /// The registers to pass along an edge: those of the parameters that are live.
    fn edge(&mut self, call: &BlockCall) -> Edge {
        let func = self.func;
        let block = call.block(&func.dfg.value_lists);
        let params = func.dfg.block_params(block);
        let args = self.call_args(call);
        let live: Vec<Value> = params
            .iter()
            .zip(args)
            .filter(|(p, _)| self.live[**p])
            .map(|(_, arg)| arg)
            .collect();
        Edge {
            block: self.block_ids[block],
            args: live.into_iter().map(|arg| self.reg(arg)).collect(),
        }
    }

    fn jump(&mut self, index: usize, call: &BlockCall) {
        let edge = self.edge(call);
        self.push(Op::Jump);
        self.blocks[index].succs = vec![edge];
    }

    /// An edge out of a conditional branch; it goes through a block of its own if it is critical or passes arguments.
    fn branch_edge(&mut self, index: usize, call: &BlockCall) -> Edge {
        let block = call.block(&self.func.dfg.value_lists);
        if self.preds[block] == 1 && call.len(&self.func.dfg.value_lists) == 0 {
            return Edge {
                block: self.block_ids[block],
                args: Vec::new(),
            };
        }
        let saved = std::mem::take(&mut self.cur);
        let edge = self.edge(call);
        self.push(Op::Jump);
        let insts = std::mem::replace(&mut self.cur, saved);
        let id = self.extra_block(index);
        self.blocks[id] = LirBlock {
            params: Vec::new(),
            insts,
            succs: vec![edge],
        };
        Edge {
            block: id,
            args: Vec::new(),
        }
    }

    fn extra_block(&mut self, index: usize) -> usize {
        let id = self.blocks.len();
        self.blocks.push(LirBlock::default());
        self.extras[index].push(id);
        id
    }

    /// A jump table is a chain of tests: BPF has no indirect jump on the kernels this is for.
    fn branch_table(&mut self, index: usize, arg: Value, table: &[BlockCall], default: &BlockCall) {
        if let Some(c) = self.constant(arg) {
            let call = usize::try_from(c).ok().and_then(|c| table.get(c)).unwrap_or(default);
            return self.jump(index, call);
        }
        let lhs = self.reg(arg);
        // Filled in from block `index` on; each test falls through to the next.
        let mut current = index;
        let mut insts = std::mem::take(&mut self.cur);
        for (i, call) in table.iter().enumerate() {
            let last = i + 1 == table.len();
            let yes = self.branch_edge(index, call);
            let no = if last {
                self.branch_edge(index, default)
            } else {
                Edge {
                    block: self.extra_block(index),
                    args: Vec::new(),
                }
            };
            let rhs = Src::Imm(i as i32);
            insts.push(LirInst {
                op: Op::Branch(Cond {
                    width: Width::W64,
                    cc: Cc::Eq,
                    lhs,
                    rhs,
                }),
                loc: self.loc,
            });
            let next = no.block;
            if current == index {
                self.cur = std::mem::take(&mut insts);
            } else {
                self.blocks[current].insts = std::mem::take(&mut insts);
            }
            self.blocks[current].succs = vec![yes, no];
            current = next;
        }
        if table.is_empty() {
            self.cur = insts;
            self.jump(index, default);
        }
    }

    // ---- The end ----------------------------------------------------------------------------------------------------

    /// Puts the blocks in order, renumbers registers in order of definition and lays out the stack slots.
    fn finish(self, name: &str, num_clif_blocks: usize) -> Lir {
        // A branch on a constant (possible without the mid-end) has left blocks that nothing jumps to.
        let mut reachable = vec![false; self.blocks.len()];
        let mut work = vec![0];
        while let Some(index) = work.pop() {
            if !std::mem::replace(&mut reachable[index], true) {
                work.extend(self.blocks[index].succs.iter().map(|edge| edge.block));
            }
        }
        let mut order: Vec<usize> = Vec::with_capacity(self.blocks.len());
        for index in 0..num_clif_blocks {
            order.push(index);
            order.extend(&self.extras[index]);
        }
        order.retain(|index| reachable[*index]);
        let mut position = vec![0; self.blocks.len()];
        for (new, &old) in order.iter().enumerate() {
            position[old] = new;
        }
        let mut taken: Vec<Option<LirBlock>> = self.blocks.into_iter().map(Some).collect();
        let mut blocks: Vec<LirBlock> = order.iter().filter_map(|&old| taken[old].take()).collect();
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

/// An arm of a select.
#[derive(Clone, Copy)]
pub(super) enum Pick {
    Reg(V),
    Const(i64),
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
