//! Bytes of the packet that are read where the script names them: `pkt.u8[off]`, `pkt.payload`.

use super::dns::bounded_by;
use crate::clif::value::{Repr, Val};
use crate::clif::{Generator, plain};
use crate::hir::{Expr, ExprKind, Ty};
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{I8, I32, I64};
use cranelift_codegen::ir::{InstBuilder, Value};

/// The helpers refuse more.
const MAX_OFFSET: i64 = 0xffff;
/// Constant offsets up to here are tried without a helper first.
const MAX_DIRECT_OFFSET: i64 = 4096;

impl<'h> Generator<'_, 'h> {
    /// `bytes` bytes at an offset from the packet's start, as a number in host order.
    pub fn packet_bytes(&mut self, offset: &'h Expr, bytes: u8) -> Val {
        let constant = match offset.kind {
            ExprKind::Int(n) => Some(n),
            _ => None,
        };
        let at = self.expr(offset);
        let n = self.as_int(&at);
        let (value, present) = (self.b.declare_var(I64), self.b.declare_var(I8));
        let zero = self.int(0);
        let absent = self.b.ins().iconst(I8, 0);
        self.b.def_var(value, zero);
        self.b.def_var(present, absent);
        let (copy, done) = (self.b.create_block(), self.b.create_block());
        if constant.is_some_and(|n| (0..=MAX_DIRECT_OFFSET).contains(&n)) {
            let (data, end) = self.linear();
            let pointer = self.b.ins().iadd(data, n);
            let limit = self.b.ins().iadd_imm_s(pointer, i64::from(bytes));
            let direct = self.b.create_block();
            let cut = self.b.ins().icmp(IntCC::UnsignedGreaterThan, limit, end);
            self.b.ins().brif(cut, copy, &[], direct, &[]);
            self.b.switch_to_block(direct);
            self.found_bytes(pointer, bytes, value, present);
            self.b.ins().jump(done, &[]);
            self.b.switch_to_block(copy);
            self.b.set_cold_block(copy);
        } else {
            let inside = self.compare_imm(IntCC::UnsignedLessThanOrEqual, n, MAX_OFFSET);
            let inside = match at.present {
                Some(known) => self.b.ins().band(inside, known),
                None => inside,
            };
            self.b.ins().brif(inside, copy, &[], done, &[]);
            self.b.switch_to_block(copy);
        }
        // What is not in the first piece of a packet is nowhere in a card.
        if !(self.in_card && constant.is_some()) {
            let room = self.memory_slot(8);
            let size = self.int(i64::from(bytes));
            let result = self.copy_bytes(n, room, size);
            let copied = self.b.create_block();
            self.b.ins().brif(result, done, &[], copied, &[]);
            self.b.switch_to_block(copied);
            self.found_bytes(room, bytes, value, present);
        }
        self.b.ins().jump(done, &[]);
        self.b.switch_to_block(done);
        Val {
            repr: Repr::Int(self.b.use_var(value)),
            present: Some(self.b.use_var(present)),
        }
    }

    fn found_bytes(&mut self, pointer: Value, bytes: u8, value: cranelift_frontend::Variable, present: cranelift_frontend::Variable) {
        let n = self.big_endian(pointer, 0, bytes);
        self.b.def_var(value, n);
        let one = self.b.ins().iconst(I8, 1);
        self.b.def_var(present, one);
    }

    /// Copies the payload, whose place the parser has found, into a buffer.
    pub(super) fn payload(&mut self, held: &Val) -> Val {
        let words = self.flatten(held);
        let (offset, length) = (words[0], words[1]);
        let Ty::Buf { cap } = Ty::buffer(self.hir.config.max_strlen) else {
            return held.clone();
        };
        let size = (cap + 4).next_multiple_of(8);
        let to = self.memory_slot((bounded_by(cap) + 4).next_multiple_of(8));
        self.zero(to, 0, size);
        let (some, done) = (self.b.create_block(), self.b.create_block());
        let most = self.int(i64::from(cap));
        let n = self.b.ins().umin(length, most);
        self.b.ins().brif(n, some, &[], done, &[]);
        self.b.switch_to_block(some);
        let n = self.bounded(n, cap);
        let data = self.b.ins().iadd_imm_s(to, 4);
        let result = self.copy_bytes(offset, data, n);
        let copied = self.b.create_block();
        self.b.ins().brif(result, done, &[], copied, &[]);
        self.b.switch_to_block(copied);
        let short = self.b.ins().ireduce(I32, n);
        self.b.ins().store(plain(), short, to, 0);
        self.b.ins().jump(done, &[]);
        self.b.switch_to_block(done);
        Val {
            repr: Repr::Mem { pointer: to, size },
            present: held.present,
        }
    }
}
