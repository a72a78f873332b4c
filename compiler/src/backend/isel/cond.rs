//! Conditions: what a branch or a select tests.

use super::super::lir::{Cc, Cond, Src, Width};
use super::{Isel, sign_extend};
use cranelift_codegen::ir::condcodes::{CondCode, IntCC};
use cranelift_codegen::ir::{InstructionData, Opcode, Value};

impl Isel<'_> {
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

    pub(super) fn bit_test(&mut self, args: [Value; 2]) -> Cond {
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
    pub(super) fn unsigned_rhs(&mut self, value: Value) -> (Width, Src) {
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
}
