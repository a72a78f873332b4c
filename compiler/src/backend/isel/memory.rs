//! Addresses, loads, stores and atomics.

use super::super::Isa;
use super::super::lir::{AluOp, AtomicOp, Base, Cc, Cond, Mem, Op, Size, Src, V, Width};
use super::values::Pick;
use super::{Isel, size, width};
use cranelift_codegen::ir::{AtomicRmwOp, Inst, InstructionData, Opcode, Type, Value, ValueDef, types};

impl Isel<'_> {
    pub(super) fn mem(&mut self, address: Value, offset: i32) -> Mem {
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

    pub(super) fn load(&mut self, size: Size, signed: bool, ty: Type, address: Value, offset: i32) -> V {
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

    pub(super) fn store(&mut self, size: Size, value: Value, address: Value, offset: i32) {
        let mem = self.mem(address, offset);
        // Before 6.4 the kernel refuses stores of immediates to the context.
        let to_context = self.is_context(address);
        let src = match self.constant(value) {
            Some(c) if !to_context && (size != Size::D || i32::try_from(c as i64).is_ok()) => Src::Imm(c as u32 as i32),
            _ => Src::Reg(self.low(value, size.bits())),
        };
        self.push(Op::Store { size, mem, src });
    }

    pub(super) fn is_context(&self, address: Value) -> bool {
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

    pub(super) fn atomic(&mut self, inst: Inst, op: AtomicRmwOp, args: [Value; 2]) -> Option<V> {
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
    pub(super) fn atomic_on_stack(&mut self, op: AtomicRmwOp, ty: Type, mem: Mem, src: V) -> V {
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

    pub(super) fn compare_exchange(&mut self, ty: Type, args: [Value; 3]) -> V {
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
}
