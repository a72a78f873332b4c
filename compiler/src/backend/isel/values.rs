//! Values of the CLIF: what is known of them, and which register holds them.

use super::super::lir::{AluOp, Cc, Cond, Inst as LirInst, Op, Size, Src, Sym, V, Width};
use super::super::{Isa, check, ns};
use super::{Isel, mask, sign_extend};
use cranelift_codegen::ir::{FuncRef, GlobalValue, Inst, InstructionData, Opcode, Type, Value, ValueDef};

/// An arm of a select.
#[derive(Clone, Copy)]
pub(super) enum Pick {
    Reg(V),
    Const(i64),
}

impl Isel<'_> {
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

    pub(super) fn callee(&self, inst: Inst) -> Option<(u32, u32)> {
        match self.func.dfg.insts[inst] {
            InstructionData::Call { func_ref, .. } => self.func_name(func_ref),
            _ => None,
        }
    }

    pub(super) fn func_name(&self, func_ref: FuncRef) -> Option<(u32, u32)> {
        check::user_name(self.func, &self.func.dfg.ext_funcs[func_ref].name)
    }

    pub(super) fn symbol(&self, gv: GlobalValue) -> Option<(u32, u32, i64)> {
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

    pub(super) fn pick_reg(&mut self, pick: Pick) -> V {
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

    pub(super) fn vreg(&mut self, value: Value) -> V {
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
}
