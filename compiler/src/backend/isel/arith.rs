//! Arithmetic: one CLIF operation to one or a few BPF operations.
//!
//! Registers that come in hold zero-extended values, and so do those that go out (see [`super`]). Operations on
//! `i8` and `i16` work on 32 bits and cut the result off.

use super::super::Isa;
use super::super::lir::{AluOp, Op, Src, V, Width};
use super::values::Pick;
use super::{Isel, mask, sign_extend, width};
use Width::{W32, W64};
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{Opcode, Type, Value, types};

impl Isel<'_> {
    pub(super) fn unary(&mut self, opcode: Opcode, ty: Type, arg: Value) -> V {
        let bits = ty.bits();
        let w = width(ty);
        match opcode {
            // Free by the invariant; `resolve` never lets it come here.
            Opcode::Uextend => self.reg(arg),
            Opcode::Sextend => {
                let from = self.ty(arg).bits();
                if self.known_bits(arg, 0) < from {
                    return self.reg(arg);
                }
                let src = self.low(arg, from);
                let wide = self.sext(src, from, w);
                self.narrow(wide, bits)
            }
            Opcode::Ireduce => {
                let src = self.low(arg, bits);
                if bits == 32 { self.mov32(src) } else { self.narrow(src, bits) }
            }
            Opcode::Ineg => {
                let src = self.low(arg, bits);
                let v = self.neg(w, src);
                self.narrow(v, bits)
            }
            Opcode::Bnot => {
                let src = self.reg(arg);
                self.alu_imm(AluOp::Xor, w, src, if bits < 32 { mask(bits) as i32 } else { -1 })
            }
            Opcode::Iabs => {
                // `(x ^ sign) - sign`, where sign is 0 or -1.
                let x = self.reg(arg);
                let x = if bits < 32 { self.sext(x, bits, W32) } else { x };
                let sign = self.alu_imm(AluOp::Arsh, w, x, if bits == 64 { 63 } else { 31 });
                let flipped = self.alu_reg(AluOp::Xor, w, x, sign);
                let v = self.alu_reg(AluOp::Sub, w, flipped, sign);
                self.narrow(v, bits)
            }
            Opcode::Bmask => {
                let cond = self.cond(arg, false);
                self.select(cond, Pick::Const(mask(bits) as i64), Pick::Const(0))
            }
            Opcode::Popcnt => {
                let x = self.reg(arg);
                self.popcnt(x)
            }
            Opcode::Ctz => {
                // The bits below the lowest one: `(x & -x) - 1`. A guard bit makes the answer for 0 right.
                let x = self.reg(arg);
                let x = match bits {
                    64 => x,
                    32 => {
                        let guard = self.constant_reg(1 << 32);
                        self.alu_reg(AluOp::Or, W64, x, guard)
                    }
                    _ => self.alu_imm(AluOp::Or, W64, x, 1 << bits),
                };
                let minus = self.neg(W64, x);
                let lowest = self.alu_reg(AluOp::And, W64, x, minus);
                let below = self.alu_imm(AluOp::Add, W64, lowest, -1);
                self.popcnt(below)
            }
            Opcode::Clz => {
                let mut x = self.reg(arg);
                let mut shift = 1;
                while shift < bits {
                    let shifted = self.alu_imm(AluOp::Rsh, W64, x, shift as i32);
                    x = self.alu_reg(AluOp::Or, W64, x, shifted);
                    shift *= 2;
                }
                // All bits from the highest one down are set now.
                let count = self.popcnt(x);
                let width = self.constant_reg(i64::from(bits));
                self.alu_reg(AluOp::Sub, W64, width, count)
            }
            Opcode::Bswap => {
                let src = self.low(arg, bits);
                let dst = self.fresh();
                self.push(Op::Swap { bits, dst, src });
                dst
            }
            _ => unreachable!("checked before selection"),
        }
    }

    /// Counts the bits of a 64-bit register.
    fn popcnt(&mut self, x: V) -> V {
        let m1 = self.constant_reg(0x5555_5555_5555_5555);
        let half = self.alu_imm(AluOp::Rsh, W64, x, 1);
        let odd = self.alu_reg(AluOp::And, W64, half, m1);
        let pairs = self.alu_reg(AluOp::Sub, W64, x, odd);
        let m2 = self.constant_reg(0x3333_3333_3333_3333);
        let low = self.alu_reg(AluOp::And, W64, pairs, m2);
        let high = self.alu_imm(AluOp::Rsh, W64, pairs, 2);
        let high = self.alu_reg(AluOp::And, W64, high, m2);
        let nibbles = self.alu_reg(AluOp::Add, W64, low, high);
        let high = self.alu_imm(AluOp::Rsh, W64, nibbles, 4);
        let sum = self.alu_reg(AluOp::Add, W64, nibbles, high);
        let m4 = self.constant_reg(0x0f0f_0f0f_0f0f_0f0f);
        let bytes = self.alu_reg(AluOp::And, W64, sum, m4);
        let ones = self.constant_reg(0x0101_0101_0101_0101);
        let total = self.alu_reg(AluOp::Mul, W64, bytes, ones);
        self.alu_imm(AluOp::Rsh, W64, total, 56)
    }

    pub(super) fn binary(&mut self, opcode: Opcode, ty: Type, args: [Value; 2]) -> V {
        let bits = ty.bits();
        let w = width(ty);
        match opcode {
            Opcode::Iadd => self.simple(AluOp::Add, ty, args, true),
            Opcode::Imul => self.simple(AluOp::Mul, ty, args, true),
            Opcode::Isub => match self.constant(args[1]).map(|c| i32::try_from((c as i64).wrapping_neg())) {
                Some(Ok(imm)) => {
                    let lhs = self.low(args[0], bits);
                    let v = self.alu_imm(AluOp::Add, w, lhs, imm);
                    self.narrow(v, bits)
                }
                _ => self.simple(AluOp::Sub, ty, args, false),
            },
            Opcode::Band => self.band(ty, args),
            Opcode::Bor => self.bitwise(AluOp::Or, ty, args),
            Opcode::Bxor => self.bitwise(AluOp::Xor, ty, args),
            Opcode::Ishl => {
                let lhs = self.low(args[0], bits);
                let amount = self.amount(args[1], bits);
                let v = self.alu(AluOp::Lsh, w, lhs, amount);
                self.narrow(v, bits)
            }
            Opcode::Ushr => {
                let lhs = self.reg(args[0]);
                let amount = self.amount(args[1], bits);
                self.alu(AluOp::Rsh, w, lhs, amount)
            }
            Opcode::Sshr => {
                let lhs = self.reg(args[0]);
                let lhs = if bits < 32 { self.sext(lhs, bits, W32) } else { lhs };
                let amount = self.amount(args[1], bits);
                let v = self.alu(AluOp::Arsh, w, lhs, amount);
                self.narrow(v, bits)
            }
            Opcode::Rotl => self.rotate(ty, args, false),
            Opcode::Rotr => self.rotate(ty, args, true),
            Opcode::Udiv => self.unsigned_division(AluOp::Div, ty, args),
            Opcode::Urem => self.unsigned_division(AluOp::Mod, ty, args),
            Opcode::Sdiv => self.signed_division(false, ty, args),
            Opcode::Srem => self.signed_division(true, ty, args),
            Opcode::Umulhi => self.umulhi(ty, args),
            Opcode::Smulhi => self.smulhi(ty, args),
            Opcode::Umin => self.minmax(IntCC::UnsignedLessThanOrEqual, args),
            Opcode::Umax => self.minmax(IntCC::UnsignedGreaterThanOrEqual, args),
            Opcode::Smin => self.minmax(IntCC::SignedLessThanOrEqual, args),
            Opcode::Smax => self.minmax(IntCC::SignedGreaterThanOrEqual, args),
            _ => unreachable!("checked before selection"),
        }
    }

    /// An operation whose low bits depend on the low bits of its operands only.
    fn simple(&mut self, op: AluOp, ty: Type, args: [Value; 2], commutes: bool) -> V {
        let [a, b] = if commutes && self.constant(args[0]).is_some() {
            [args[1], args[0]]
        } else {
            args
        };
        let (lhs, rhs) = (self.low(a, ty.bits()), self.operand(b, ty));
        let v = self.alu(op, width(ty), lhs, rhs);
        self.narrow(v, ty.bits())
    }

    fn operand(&mut self, value: Value, ty: Type) -> Src {
        if ty == types::I64 { self.src64(value) } else { self.src32(value) }
    }

    /// Or, exclusive or: nothing to cut off.
    fn bitwise(&mut self, op: AluOp, ty: Type, args: [Value; 2]) -> V {
        let [a, b] = if self.constant(args[0]).is_some() {
            [args[1], args[0]]
        } else {
            args
        };
        let lhs = self.reg(a);
        let rhs = match self.constant(b) {
            Some(c) if ty != types::I64 => Src::Imm(c as u32 as i32),
            Some(_) => self.src64(b),
            None => Src::Reg(self.reg(b)),
        };
        self.alu(op, width(ty), lhs, rhs)
    }

    fn band(&mut self, ty: Type, args: [Value; 2]) -> V {
        let [a, b] = if self.constant(args[0]).is_some() {
            [args[1], args[0]]
        } else {
            args
        };
        match self.constant(b) {
            // The 32-bit forms clear the high half.
            Some(0xffff_ffff) if ty == types::I64 => {
                let src = self.low(a, 32);
                self.mov32(src)
            }
            Some(c) if ty != types::I64 || u32::try_from(c).is_ok_and(|c| i32::try_from(c).is_err()) => {
                let lhs = self.low(a, 32);
                self.alu_imm(AluOp::And, W32, lhs, c as u32 as i32)
            }
            Some(_) => {
                let lhs = self.reg(a);
                let rhs = self.src64(b);
                self.alu(AluOp::And, W64, lhs, rhs)
            }
            None => {
                let (lhs, rhs) = (self.reg(a), self.reg(b));
                self.alu_reg(AluOp::And, width(ty), lhs, rhs)
            }
        }
    }

    /// A shift amount, modulo the width of the type. BPF takes it modulo 32 or 64 by itself.
    fn amount(&mut self, value: Value, bits: u32) -> Src {
        match self.constant(value) {
            Some(c) => Src::Imm((c % u64::from(bits)) as i32),
            None => {
                let amount = self.low(value, 8);
                Src::Reg(if bits < 32 {
                    self.alu_imm(AluOp::And, W32, amount, bits as i32 - 1)
                } else {
                    amount
                })
            }
        }
    }

    fn rotate(&mut self, ty: Type, args: [Value; 2], right: bool) -> V {
        let bits = ty.bits();
        let x = self.reg(args[0]);
        if let Some(c) = self.constant(args[1]) {
            let n = (c % u64::from(bits)) as i32;
            let left = if right { (bits as i32 - n) % bits as i32 } else { n };
            if left == 0 {
                return x;
            }
            let w = width(ty);
            let high = self.alu_imm(AluOp::Lsh, w, x, left);
            let low = self.alu_imm(AluOp::Rsh, w, x, bits as i32 - left);
            let v = self.alu_reg(AluOp::Or, w, high, low);
            return self.narrow(v, bits);
        }
        let amount = self.low(args[1], 8);
        if bits == 64 {
            // Shifting by `-n` is shifting by `64 - n`, and for n = 0 both halves are x.
            let minus = self.neg(W64, amount);
            let (l, r) = if right { (minus, amount) } else { (amount, minus) };
            let high = self.alu_reg(AluOp::Lsh, W64, x, l);
            let low = self.alu_reg(AluOp::Rsh, W64, x, r);
            return self.alu_reg(AluOp::Or, W64, high, low);
        }
        // Two copies side by side in one register: the rotated value slides out of them.
        let amount = self.alu_imm(AluOp::And, W32, amount, bits as i32 - 1);
        let copy = self.alu_imm(AluOp::Lsh, W64, x, bits as i32);
        let double = self.alu_reg(AluOp::Or, W64, copy, x);
        let v = if right {
            self.alu_reg(AluOp::Rsh, W64, double, amount)
        } else {
            let v = self.alu_reg(AluOp::Lsh, W64, double, amount);
            self.alu_imm(AluOp::Rsh, W64, v, bits as i32)
        };
        if bits == 32 { self.mov32(v) } else { self.narrow(v, bits) }
    }

    pub(super) fn bitselect(&mut self, ty: Type, args: [Value; 3]) -> V {
        let w = width(ty);
        let mask = self.reg(args[0]);
        let (x, y) = (self.reg(args[1]), self.reg(args[2]));
        // `((x ^ y) & mask) ^ y`
        let diff = self.alu_reg(AluOp::Xor, w, x, y);
        let taken = self.alu_reg(AluOp::And, w, diff, mask);
        self.alu_reg(AluOp::Xor, w, taken, y)
    }

    fn minmax(&mut self, cc: IntCC, args: [Value; 2]) -> V {
        let cond = self.compare(cc, args[0], args[1]);
        let (yes, no) = (self.pick(args[0]), self.pick(args[1]));
        self.select(cond, yes, no)
    }

    fn unsigned_division(&mut self, op: AluOp, ty: Type, args: [Value; 2]) -> V {
        let lhs = self.reg(args[0]);
        let rhs = self.divisor(args[1], ty);
        self.alu(op, width(ty), lhs, rhs)
    }

    /// The kernel refuses an immediate divisor of 0, but not a register that happens to hold 0.
    fn divisor(&mut self, value: Value, ty: Type) -> Src {
        match self.constant(value) {
            Some(0) => Src::Reg(self.constant_reg(0)),
            Some(c) if ty != types::I64 => Src::Imm(c as u32 as i32),
            Some(_) => self.src64(value),
            None => Src::Reg(self.reg(value)),
        }
    }

    fn signed_division(&mut self, remainder: bool, ty: Type, args: [Value; 2]) -> V {
        let bits = ty.bits();
        let w = width(ty);
        let extend = |isel: &mut Self, value: Value| {
            let v = isel.reg(value);
            if bits < 32 { isel.sext(v, bits, W32) } else { v }
        };
        let a = extend(self, args[0]);
        let constant = self.constant(args[1]).map(|c| sign_extend(c, bits));
        if self.isa == Isa::V4 {
            let rhs = match constant.map(i32::try_from) {
                Some(Ok(imm)) if imm != 0 => Src::Imm(imm),
                _ => Src::Reg(extend(self, args[1])),
            };
            let v = self.alu(if remainder { AluOp::SMod } else { AluOp::SDiv }, w, a, rhs);
            return self.narrow(v, bits);
        }
        // Divide magnitudes, then put the sign back: `|x| = (x ^ s) - s` where s is 0 or -1.
        let top = if bits == 64 { 63 } else { 31 };
        let magnitude = |isel: &mut Self, x: V| {
            let sign = isel.alu_imm(AluOp::Arsh, w, x, top);
            let flipped = isel.alu_reg(AluOp::Xor, w, x, sign);
            (isel.alu_reg(AluOp::Sub, w, flipped, sign), sign)
        };
        let (abs_a, sign_a) = magnitude(self, a);
        let (abs_b, sign_b) = match constant {
            Some(c) if c != 0 => {
                let abs = c.unsigned_abs();
                let rhs = match (w, i32::try_from(abs)) {
                    (W32, _) => Src::Imm(abs as u32 as i32),
                    (W64, Ok(imm)) => Src::Imm(imm),
                    (W64, Err(_)) => Src::Reg(self.constant_reg(abs as i64)),
                };
                (rhs, if c < 0 { Sign::Negative } else { Sign::Positive })
            }
            _ => {
                let b = extend(self, args[1]);
                let (abs, sign) = magnitude(self, b);
                (Src::Reg(abs), Sign::Reg(sign))
            }
        };
        let v = self.alu(if remainder { AluOp::Mod } else { AluOp::Div }, w, abs_a, abs_b);
        // A remainder has the sign of the dividend.
        let sign = match sign_b {
            _ if remainder => sign_a,
            Sign::Positive => sign_a,
            Sign::Negative => self.alu_imm(AluOp::Xor, w, sign_a, -1),
            Sign::Reg(sign_b) => self.alu_reg(AluOp::Xor, w, sign_a, sign_b),
        };
        let flipped = self.alu_reg(AluOp::Xor, w, v, sign);
        let v = self.alu_reg(AluOp::Sub, w, flipped, sign);
        self.narrow(v, bits)
    }

    fn umulhi(&mut self, ty: Type, args: [Value; 2]) -> V {
        let (a, b) = (self.reg(args[0]), self.reg(args[1]));
        if ty != types::I64 {
            let product = self.alu_reg(AluOp::Mul, W64, a, b);
            return self.alu_imm(AluOp::Rsh, W64, product, ty.bits() as i32);
        }
        self.umulhi64(a, b)
    }

    /// High half of a 64 by 64 bit product, from four 32-bit products.
    fn umulhi64(&mut self, a: V, b: V) -> V {
        let (a0, b0) = (self.mov32(a), self.mov32(b));
        let a1 = self.alu_imm(AluOp::Rsh, W64, a, 32);
        let b1 = self.alu_imm(AluOp::Rsh, W64, b, 32);
        let p00 = self.alu_reg(AluOp::Mul, W64, a0, b0);
        let p01 = self.alu_reg(AluOp::Mul, W64, a0, b1);
        let p10 = self.alu_reg(AluOp::Mul, W64, a1, b0);
        let p11 = self.alu_reg(AluOp::Mul, W64, a1, b1);
        // None of these sums overflows: (2^32-1)^2 + 2 (2^32-1) < 2^64.
        let carry = self.alu_imm(AluOp::Rsh, W64, p00, 32);
        let mid = self.alu_reg(AluOp::Add, W64, p01, carry);
        let mid_low = self.mov32(mid);
        let mid_high = self.alu_imm(AluOp::Rsh, W64, mid, 32);
        let mid2 = self.alu_reg(AluOp::Add, W64, p10, mid_low);
        let carry = self.alu_imm(AluOp::Rsh, W64, mid2, 32);
        let high = self.alu_reg(AluOp::Add, W64, p11, mid_high);
        self.alu_reg(AluOp::Add, W64, high, carry)
    }

    fn smulhi(&mut self, ty: Type, args: [Value; 2]) -> V {
        let bits = ty.bits();
        let (a, b) = (self.reg(args[0]), self.reg(args[1]));
        if bits < 64 {
            let (a, b) = (self.sext(a, bits, W64), self.sext(b, bits, W64));
            let product = self.alu_reg(AluOp::Mul, W64, a, b);
            let high = self.alu_imm(AluOp::Rsh, W64, product, bits as i32);
            return if bits == 32 { self.mov32(high) } else { self.narrow(high, bits) };
        }
        // Reading a negative number as unsigned adds 2^64 times the other factor.
        let high = self.umulhi64(a, b);
        let sign_a = self.alu_imm(AluOp::Arsh, W64, a, 63);
        let sign_b = self.alu_imm(AluOp::Arsh, W64, b, 63);
        let excess_a = self.alu_reg(AluOp::And, W64, sign_a, b);
        let excess_b = self.alu_reg(AluOp::And, W64, sign_b, a);
        let high = self.alu_reg(AluOp::Sub, W64, high, excess_a);
        self.alu_reg(AluOp::Sub, W64, high, excess_b)
    }
}

enum Sign {
    Positive,
    Negative,
    Reg(V),
}
