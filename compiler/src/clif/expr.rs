//! Expressions.

use super::inet::{AF_INET6, lpm_head};
use super::value::{Repr, Room, Val, VarSlot};
use super::{Generator, plain};
use crate::hir::{Expr, ExprKind, Space, Ty};
use crate::object::EventAction;
use crate::object::HelperCall;
use crate::tables::Hook;
use crate::tables::{BuiltinKind, helper};
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{I8, I16, I32, I64};
use cranelift_codegen::ir::{InstBuilder, Value};
use weir_parser::ast::BinaryOp;

impl<'h> Generator<'_, 'h> {
    pub fn expr(&mut self, e: &'h Expr) -> Val {
        // What a failing helper is blamed on is the expression, not its statement.
        let outer = std::mem::replace(&mut self.place, e.span);
        let value = self.expr_here(e);
        self.place = outer;
        value
    }

    fn expr_here(&mut self, e: &'h Expr) -> Val {
        match &e.kind {
            ExprKind::Int(n) => Val::int(self.int(*n)),
            ExprKind::Str(text) => {
                let size = u32::try_from(text.len() + 1).unwrap_or(8).next_multiple_of(8);
                let pointer = self.literal(text, size);
                Val {
                    repr: Repr::Mem { pointer, size },
                    present: None,
                }
            }
            ExprKind::Inet { bytes, v6 } => {
                let words = self.inet_const(bytes, *v6);
                Val {
                    repr: Repr::Words(words),
                    present: None,
                }
            }
            ExprKind::Mac(mac) => {
                let mut bytes = [0; 8];
                bytes[..6].copy_from_slice(mac);
                Val::int(self.int(i64::from_le_bytes(bytes)))
            }
            ExprKind::Prefix(bytes, len, v6) => {
                let mut words = self.inet_const(bytes, *v6);
                words[0] = self.int(lpm_head(if *v6 { AF_INET6 } else { 2 }, *len));
                Val {
                    repr: Repr::Words(words),
                    present: None,
                }
            }
            ExprKind::Builtin(kind) => self.builtin(*kind),
            ExprKind::Field(field) => self.field_value(*field),
            ExprKind::PacketBytes { offset, bytes } => self.packet_bytes(offset, *bytes),
            ExprKind::HasHeader(header) => {
                let value = self.header_present(*header);
                Val::int(self.bool_to_int(value))
            }
            ExprKind::Has(inner) => {
                let value = self.expr(inner);
                match value.present {
                    Some(present) => Val::int(self.bool_to_int(present)),
                    None => Val::int(self.int(1)),
                }
            }
            ExprKind::EventVar { offset, size } => self.event_var(&e.ty, *offset, *size),
            ExprKind::Var(id) => {
                let ty = self.hir.blocks[self.block].vars[*id].ty.clone();
                let slot = self.vars[*id].clone();
                self.read_slot(&slot, &ty)
            }
            ExprKind::MapGet { map, key } => self.map_get(*map, key.as_deref()),
            ExprKind::AggGet { map, key } => self.map_aggregate(*map, key.as_deref()),
            ExprKind::HasKey { map, key } => self.map_has(*map, key),
            ExprKind::Delete { map, key } => self.map_delete(*map, key.as_deref()),
            ExprKind::IncDec {
                target,
                increment,
                postfix,
            } => self.inc_dec(target, *increment, *postfix),
            ExprKind::Not(inner) => {
                let value = self.expr(inner);
                let truth = self.truth(&value);
                let one = self.b.ins().iconst(I8, 1);
                let not = self.b.ins().bxor(truth, one);
                Val::int(self.bool_to_int(not))
            }
            ExprKind::BitNot(inner) => self.map_int(inner, |g, n| g.b.ins().bnot(n)),
            ExprKind::Neg(inner) => self.map_int(inner, |g, n| g.b.ins().ineg(n)),
            ExprKind::Binary { op, left, right } => self.binary(*op, left, right, &e.ty),
            ExprKind::Ternary { cond, then, otherwise } => self.ternary(cond, then, otherwise, &e.ty),
            ExprKind::Elvis { value, otherwise } => self.elvis(value, otherwise, &e.ty),
            ExprKind::In { value, set } => self.in_set(value, set),
            ExprKind::InMap { value, set } => self.in_map(value, *set),
            ExprKind::Convert(inner) => {
                let value = self.expr(inner);
                if let (Ty::Prefix, Repr::Words(words)) = (&e.ty, &value.repr) {
                    let mut words = words.clone();
                    // A trie's key counts the bits of the family, a prefix does not.
                    words[0] = match inner.ty {
                        Ty::Prefix => self.b.ins().iadd_imm_s(words[0], lpm_head(0, 0)),
                        _ => self.address_head(words[0]),
                    };
                    return Val {
                        repr: Repr::Words(words),
                        present: value.present,
                    };
                }
                let n = match (&value.repr, &inner.ty) {
                    (Repr::Mem { pointer, .. }, Ty::Kept(array)) => self.load_sized(*pointer, array.size()),
                    _ => self.as_int(&value),
                };
                if let Ty::Kept(array @ crate::types::Type::Array { .. }) = &e.ty {
                    return self.bytes_of(&value, n, array.size());
                }
                if e.ty == Ty::Kept(crate::types::Type::USym) {
                    let both = self.helper(helper::GET_CURRENT_PID_TGID, &[]);
                    let pid = self.b.ins().ushr_imm_s(both, 32);
                    return Val {
                        repr: Repr::Words(vec![n, pid]),
                        present: value.present,
                    };
                }
                let n = self.normalise(n, &e.ty);
                Val {
                    repr: Repr::Int(n),
                    present: value.present,
                }
            }
            ExprKind::CtxLoad { offset, size } => {
                if matches!(e.ty, Ty::Ptr { .. }) && matches!(self.hook, Hook::Fentry | Hook::Fexit) {
                    return Val::int(self.untyped(*offset));
                }
                let n = self.load(self.ctx, i32::try_from(*offset).unwrap_or(0), *size);
                Val::int(self.normalise(n, &e.ty))
            }
            ExprKind::Place { base, offset } => {
                let value = self.expr(base);
                let address = self.as_int(&value);
                let address = if *offset == 0 {
                    address
                } else {
                    self.b.ins().iadd_imm_s(address, i64::from(*offset))
                };
                Val {
                    repr: Repr::Place(address),
                    present: value.present,
                }
            }
            ExprKind::Element { base, index, size } => {
                let base = self.expr(base);
                let index = self.expr(index);
                let (address, n) = (self.as_int(&base), self.as_int(&index));
                let scaled = self.b.ins().imul_imm_s(n, i64::from(*size));
                let address = self.b.ins().iadd(address, scaled);
                let present = self.both(base.present, index.present);
                Val {
                    repr: Repr::Place(address),
                    present,
                }
            }
            ExprKind::Read { place, size, bits } => self.read(place, *size, *bits, &e.ty),
            ExprKind::ReadStr { ptr, len, cap, space } => self.read_str(ptr, len.as_deref(), *cap, *space),
            ExprKind::ReadBuf { ptr, len, cap, space } => self.read_buf(ptr, len, *cap, *space),
            ExprKind::ReadArray { place, size } => self.read_array(place, *size),
            ExprKind::Memcmp { left, right, n } => self.memcmp(left, right, *n),
            ExprKind::Strncmp { left, right, n } => self.strncmp(left, right, *n),
            ExprKind::Strcontains { text, part, index } => self.strcontains(text, part, *index),
            ExprKind::Concat { left, right } => self.concat(left, right),
            ExprKind::Fill { number, size, args } => self.fill_call(*number, *size, args),
            ExprKind::Give { number, args, value, size } => self.give_call(*number, args, value, *size),
            ExprKind::StackBytes { user, depth } => self.stack_bytes(*user, *depth),
            ExprKind::AddrOf(id) => match self.vars[*id].memory {
                Some(room) => Val::int(self.room(room)),
                None => Val::int(self.int(0)),
            },
            ExprKind::MapAddr { map, key } => self.map_value_address(*map, key.as_deref()),
            ExprKind::Inline { body, result } => self.inline(body, *result),
            ExprKind::Strlen(text) => self.strlen(text),
            ExprKind::FilePath { place, cap } => self.file_path(place, *cap),
            ExprKind::Stack { user, depth, build_id } => self.stack(*user, *depth, *build_id),
            ExprKind::Len(map) => Val::int(self.map_len(*map)),
            ExprKind::Elapsed => self.elapsed(),
            ExprKind::Helper { number, args } => self.helper_call(*number, args),
            ExprKind::Block { body, value } => {
                self.statements(body);
                self.expr(value)
            }
            ExprKind::DataLoc { offset } => {
                let word = self.load(self.ctx, i32::try_from(*offset).unwrap_or(0), 4);
                let mask = self.int(0xffff);
                let at = self.b.ins().band(word, mask);
                Val::int(self.b.ins().iadd(self.ctx, at))
            }
            ExprKind::Ntop { family, addr } => self.ntop(family.as_deref(), addr),
            ExprKind::Bswap { value, bits } => {
                let value = self.expr(value);
                let n = self.as_int(&value);
                let swapped = match bits {
                    16 => {
                        let n = self.b.ins().ireduce(I16, n);
                        let n = self.b.ins().bswap(n);
                        self.b.ins().uextend(I64, n)
                    }
                    32 => {
                        let n = self.b.ins().ireduce(I32, n);
                        let n = self.b.ins().bswap(n);
                        self.b.ins().uextend(I64, n)
                    }
                    _ => self.b.ins().bswap(n),
                };
                Val {
                    repr: Repr::Int(swapped),
                    present: value.present,
                }
            }
            ExprKind::Tuple(parts) => {
                let parts: Vec<Val> = parts.iter().map(|p| self.expr(p)).collect();
                let mut present = None;
                for part in &parts {
                    present = self.both(present, part.present);
                }
                Val {
                    repr: Repr::Tuple(parts),
                    present,
                }
            }
            ExprKind::TupleGet { base, index } => {
                let value = self.expr(base);
                match &value.repr {
                    Repr::Tuple(parts) if *index < parts.len() => Val {
                        repr: parts[*index].repr.clone(),
                        present: value.present,
                    },
                    _ => value,
                }
            }
            ExprKind::Error => Val::int(self.ctx),
        }
    }

    /// Extends or cuts a number to what its type can hold.
    fn normalise(&mut self, n: Value, ty: &Ty) -> Value {
        let (bits, signed) = match ty {
            Ty::Int { bits, signed } => (*bits, *signed),
            Ty::Bool => {
                let truth = self.compare_imm(IntCC::NotEqual, n, 0);
                return self.bool_to_int(truth);
            }
            _ => return n,
        };
        let narrow = match bits {
            8 => I8,
            16 => I16,
            32 => I32,
            _ => return n,
        };
        let n = self.b.ins().ireduce(narrow, n);
        if signed {
            self.b.ins().sextend(I64, n)
        } else {
            self.b.ins().uextend(I64, n)
        }
    }

    fn map_int(&mut self, inner: &'h Expr, f: impl FnOnce(&mut Self, Value) -> Value) -> Val {
        let value = self.expr(inner);
        let n = self.as_int(&value);
        Val {
            repr: Repr::Int(f(self, n)),
            present: value.present,
        }
    }

    /// Eight bytes of the context as a plain number: the kernel knows the type of what a direct load gives, and forbids arithmetic
    /// on it.
    fn untyped(&mut self, offset: u32) -> Value {
        let at = self.b.ins().iadd_imm_s(self.ctx, i64::from(offset));
        let slot = self.copy_memory(at, 8, Space::Kernel);
        self.load(slot, 0, 8)
    }

    /// Address of a place whose type the kernel knows, by nothing but direct loads; `None` where there is no such way.
    pub fn typed_address(&mut self, e: &Expr) -> Option<Value> {
        match &e.kind {
            ExprKind::CtxLoad { offset, .. } if matches!(e.ty, Ty::Ptr { space: Space::Btf, .. }) => {
                Some(self.load(self.ctx, i32::try_from(*offset).ok()?, 8))
            }
            ExprKind::Place { base, offset } => {
                let base = self.typed_address(base)?;
                Some(self.b.ins().iadd_imm_s(base, i64::from(*offset)))
            }
            ExprKind::Read {
                place,
                size: 8,
                bits: None,
            } if matches!(e.ty, Ty::Ptr { space: Space::Btf, .. }) => {
                let address = self.typed_address(place)?;
                Some(self.load(address, 0, 8))
            }
            _ => None,
        }
    }

    fn event_var(&mut self, ty: &Ty, offset: u32, size: u32) -> Val {
        let Some(record) = self.event_record() else {
            return Val::int(self.ctx);
        };
        match ty.stored() {
            Some(stored) if !matches!(ty, Ty::Int { .. }) => self.load_value(&stored, record, offset),
            _ => Val::int(self.load(record, i32::try_from(offset).unwrap_or(0), size)),
        }
    }

    /// Whether a variable or field has a value; `None` for what always has one.
    pub fn slot_present(&mut self, slot: &VarSlot) -> Option<Value> {
        if let Some(at) = slot.present_at {
            let frame = self.memory.frame();
            return Some(self.b.ins().load(I8, super::plain(), frame, i32::try_from(at).unwrap_or(0)));
        }
        slot.present.map(|p| self.b.use_var(p))
    }

    pub fn read_slot(&mut self, slot: &VarSlot, ty: &Ty) -> Val {
        let present = self.slot_present(slot);
        if let Some(room) = slot.memory {
            let pointer = self.room(room);
            let stored = ty.stored().unwrap_or(crate::types::Type::U64);
            let mut value = self.load_value(&stored, pointer, 0);
            value.present = present;
            return value;
        }
        let words: Vec<Value> = slot.words.iter().map(|w| self.b.use_var(*w)).collect();
        Val {
            repr: Self::unflatten(ty, &words),
            present,
        }
    }

    pub fn write_slot(&mut self, slot: &VarSlot, ty: &Ty, value: &Val) {
        if let Some(room) = slot.memory {
            let pointer = self.room(room);
            let stored = ty.stored().unwrap_or(crate::types::Type::U64);
            self.when(value.present, |g| g.store_value(value, &stored, pointer, 0));
        } else {
            let words = self.flatten(value);
            for (var, word) in slot.words.iter().zip(words) {
                self.b.def_var(*var, word);
            }
        }
        if let Some(var) = slot.present {
            let present = match value.present {
                Some(present) => present,
                None => self.b.ins().iconst(I8, 1),
            };
            self.b.def_var(var, present);
        }
        if let Some(at) = slot.present_at {
            let present = match value.present {
                Some(present) => present,
                None => self.b.ins().iconst(I8, 1),
            };
            let frame = self.memory.frame();
            self.b.ins().store(super::plain(), present, frame, i32::try_from(at).unwrap_or(0));
        }
    }

    fn inc_dec(&mut self, target: &'h Expr, increment: bool, postfix: bool) -> Val {
        let by = self.int(if increment { 1 } else { -1 });
        let old = match &target.kind {
            ExprKind::MapGet { map, key } => self.map_add(*map, key.as_deref(), &Val::int(by)),
            ExprKind::Var(id) => {
                let old = self.expr(target);
                let n = self.as_int(&old);
                let new = self.b.ins().iadd(n, by);
                let new = self.normalise(new, &target.ty);
                let slot = self.vars[*id].clone();
                self.write_slot(
                    &slot,
                    &target.ty,
                    &Val {
                        repr: Repr::Int(new),
                        present: old.present,
                    },
                );
                old
            }
            _ => Val::int(by),
        };
        if postfix {
            return old;
        }
        let n = self.as_int(&old);
        let new = self.b.ins().iadd(n, by);
        let new = self.normalise(new, &target.ty);
        Val {
            repr: Repr::Int(new),
            present: old.present,
        }
    }

    /// Up to eight bytes of memory as a number.
    fn load_sized(&mut self, pointer: Value, size: u32) -> Value {
        if matches!(size, 1 | 2 | 4) {
            return self.load(pointer, 0, size);
        }
        let n = self.load(pointer, 0, 8);
        if size >= 8 {
            return n;
        }
        let mask = self.int((1_i64 << (size * 8)) - 1);
        self.b.ins().band(n, mask)
    }

    /// The bytes of a number, or those of another array, as an array.
    fn bytes_of(&mut self, value: &Val, n: Value, size: u32) -> Val {
        if let Repr::Mem { .. } = value.repr {
            return value.clone();
        }
        let slot = self.memory_slot(8);
        let n = if size < 8 {
            let mask = self.int((1_i64 << (size * 8)) - 1);
            self.b.ins().band(n, mask)
        } else {
            n
        };
        self.b.ins().store(super::plain(), n, slot, 0);
        Val {
            repr: Repr::Mem { pointer: slot, size: 8 },
            present: value.present,
        }
    }

    /// The body of a function of the script: `return` in it goes on behind it.
    fn inline(&mut self, body: &'h [crate::hir::Stmt], result: Option<usize>) -> Val {
        let done = self.b.create_block();
        let next = std::mem::replace(&mut self.next, done);
        let loops = std::mem::take(&mut self.loops);
        let ty = result.map(|id| self.hir.blocks[self.block].vars[id].ty.clone());
        // Nothing is left from a call before.
        if let (Some(id), Some(ty)) = (result, &ty) {
            let slot = self.vars[id].clone();
            self.clear_slot(&slot, ty);
        }
        self.statements(body);
        self.b.ins().jump(done, &[]);
        self.b.switch_to_block(done);
        self.next = next;
        self.loops = loops;
        match (result, ty) {
            (Some(id), Some(ty)) => {
                let slot = self.vars[id].clone();
                self.read_slot(&slot, &ty)
            }
            _ => Val::int(self.int(0)),
        }
    }

    fn binary(&mut self, op: BinaryOp, left: &'h Expr, right: &'h Expr, ty: &Ty) -> Val {
        if matches!(op, BinaryOp::And | BinaryOp::Or) {
            return self.short_circuit(op, left, right);
        }
        let (l, r) = (self.expr(left), self.expr(right));
        let present = self.both(l.present, r.present);
        if op.is_comparison() {
            // A literal takes the sign of the other side. Else one sign is enough: what is below zero is never the greater.
            let literal = |e: &Expr| matches!(e.kind, ExprKind::Int(0..)) && !matches!(e.ty, Ty::Bool);
            // Addresses have no sign, nor what only fits into a word without one.
            let unsigned = |e: &Expr| matches!(e.ty, Ty::Ptr { .. }) || matches!(e.kind, ExprKind::Int(..0)) && !e.ty.is_signed();
            let signed = !unsigned(left)
                && !unsigned(right)
                && match (literal(left), literal(right)) {
                    (true, true) => true,
                    (true, false) => right.ty.is_signed(),
                    (false, true) => left.ty.is_signed(),
                    (false, false) => left.ty.is_signed() || right.ty.is_signed(),
                };
            let truth = self.compare(
                op,
                &l,
                &r,
                signed,
                !(left.ty.is_int() || matches!(left.ty, Ty::Ptr { .. } | Ty::Mac)),
            );
            // With an absent operand every comparison is false.
            let truth = match present {
                Some(present) => self.b.ins().band(truth, present),
                None => truth,
            };
            return Val::int(self.bool_to_int(truth));
        }
        let (a, b) = (self.as_int(&l), self.as_int(&r));
        let signed = ty.is_signed();
        let ins = self.b.ins();
        let n = match op {
            BinaryOp::Add => ins.iadd(a, b),
            BinaryOp::Sub => ins.isub(a, b),
            BinaryOp::Mul => ins.imul(a, b),
            BinaryOp::Div | BinaryOp::Mod if matches!(right.kind, ExprKind::Int(_)) => self.divide(op, a, b, signed, None),
            BinaryOp::Div | BinaryOp::Mod => self.divide_warned(op, (a, b), signed, present),
            BinaryOp::BitAnd => ins.band(a, b),
            BinaryOp::BitOr => ins.bor(a, b),
            BinaryOp::BitXor => ins.bxor(a, b),
            BinaryOp::Shl => ins.ishl(a, b),
            BinaryOp::Shr if left.ty.is_signed() => ins.sshr(a, b),
            BinaryOp::Shr => ins.ushr(a, b),
            _ => a,
        };
        Val {
            repr: Repr::Int(n),
            present,
        }
    }

    /// Division by what the script computed: by zero it gives 1, as in bpftrace, and is told.
    fn divide_warned(&mut self, op: BinaryOp, (a, b): (Value, Value), signed: bool, present: Option<Value>) -> Value {
        let is_zero = self.compare_imm(IntCC::Equal, b, 0);
        let place = self.place;
        let told = self.both(Some(is_zero), present);
        self.when(told, |g| g.send(&[], place, |_| EventAction::DividedByZero));
        let one = self.int(1);
        self.divide(op, a, b, signed, Some((is_zero, one)))
    }

    /// Divides. By zero, where that can be, the result is the value given.
    pub fn divide(&mut self, op: BinaryOp, a: Value, b: Value, signed: bool, by_zero: Option<(Value, Value)>) -> Value {
        let divisor = match by_zero {
            None => b,
            Some((is_zero, _)) => {
                let one = self.int(1);
                self.b.ins().select(is_zero, one, b)
            }
        };
        let ins = self.b.ins();
        let n = match (op, signed) {
            (BinaryOp::Div, true) => ins.sdiv(a, divisor),
            (BinaryOp::Div, false) => ins.udiv(a, divisor),
            (_, true) => ins.srem(a, divisor),
            (_, false) => ins.urem(a, divisor),
        };
        match by_zero {
            None => n,
            Some((is_zero, other)) => self.b.ins().select(is_zero, other, n),
        }
    }

    fn short_circuit(&mut self, op: BinaryOp, left: &'h Expr, right: &'h Expr) -> Val {
        let result = self.b.declare_var(I8);
        let l = self.expr(left);
        let l = self.truth(&l);
        self.b.def_var(result, l);
        let (more, done) = (self.b.create_block(), self.b.create_block());
        if op == BinaryOp::And {
            self.b.ins().brif(l, more, &[], done, &[]);
        } else {
            self.b.ins().brif(l, done, &[], more, &[]);
        }
        self.b.switch_to_block(more);
        let r = self.expr(right);
        let r = self.truth(&r);
        self.b.def_var(result, r);
        self.b.ins().jump(done, &[]);
        self.b.switch_to_block(done);
        let result = self.b.use_var(result);
        Val::int(self.bool_to_int(result))
    }

    /// Compares two present values; the result is an `i8`.
    pub(super) fn compare(&mut self, op: BinaryOp, l: &Val, r: &Val, signed: bool, deep: bool) -> Value {
        if let (Repr::Mem { pointer: a, size: x }, Repr::Mem { pointer: b, size: y }) = (&l.repr, &r.repr)
            && !matches!(op, BinaryOp::Eq | BinaryOp::Ne)
        {
            let order = self.text_order(*a, *x, *b, *y);
            let cc = match op {
                BinaryOp::Lt => IntCC::SignedLessThan,
                BinaryOp::Le => IntCC::SignedLessThanOrEqual,
                BinaryOp::Gt => IntCC::SignedGreaterThan,
                _ => IntCC::SignedGreaterThanOrEqual,
            };
            return self.compare_imm(cc, order, 0);
        }
        if deep {
            let equal = self.equal(l, r);
            if op == BinaryOp::Ne {
                let one = self.b.ins().iconst(I8, 1);
                return self.b.ins().bxor(equal, one);
            }
            return equal;
        }
        let (a, b) = (self.as_int(l), self.as_int(r));
        let cc = match (op, signed) {
            (BinaryOp::Eq, _) => IntCC::Equal,
            (BinaryOp::Ne, _) => IntCC::NotEqual,
            (BinaryOp::Lt, true) => IntCC::SignedLessThan,
            (BinaryOp::Lt, false) => IntCC::UnsignedLessThan,
            (BinaryOp::Le, true) => IntCC::SignedLessThanOrEqual,
            (BinaryOp::Le, false) => IntCC::UnsignedLessThanOrEqual,
            (BinaryOp::Gt, true) => IntCC::SignedGreaterThan,
            (BinaryOp::Gt, false) => IntCC::UnsignedGreaterThan,
            (_, true) => IntCC::SignedGreaterThanOrEqual,
            (_, false) => IntCC::UnsignedGreaterThanOrEqual,
        };
        self.b.ins().icmp(cc, a, b)
    }

    pub(super) fn equal(&mut self, l: &Val, r: &Val) -> Value {
        match (&l.repr, &r.repr) {
            (Repr::Words(a), Repr::Words(b)) => {
                let mut difference = self.int(0);
                for (a, b) in a.iter().zip(b) {
                    let d = self.b.ins().bxor(*a, *b);
                    difference = self.b.ins().bor(difference, d);
                }
                self.compare_imm(IntCC::Equal, difference, 0)
            }
            (Repr::Mem { pointer: a, size: x }, Repr::Mem { pointer: b, size: y }) => self.text_equal(*a, *x, *b, *y),
            (Repr::Tuple(a), Repr::Tuple(b)) => {
                let pairs: Vec<(Val, Val)> = a.iter().cloned().zip(b.iter().cloned()).collect();
                let mut all = self.b.ins().iconst(I8, 1);
                for (a, b) in &pairs {
                    let same = self.equal(a, b);
                    all = self.b.ins().band(all, same);
                }
                all
            }
            _ => {
                let (a, b) = (self.as_int(l), self.as_int(r));
                self.b.ins().icmp(IntCC::Equal, a, b)
            }
        }
    }

    /// Puts the value of one of two branches into fresh variables of the type.
    fn branches(&mut self, cond: Value, ty: &Ty, then: impl FnOnce(&mut Self) -> Val, otherwise: impl FnOnce(&mut Self) -> Val) -> Val {
        let slot = self.new_slot(ty, true);
        let (yes, no, done) = (self.b.create_block(), self.b.create_block(), self.b.create_block());
        self.b.ins().brif(cond, yes, &[], no, &[]);
        self.b.switch_to_block(yes);
        let value = then(self);
        self.write_slot(&slot, ty, &value);
        self.b.ins().jump(done, &[]);
        self.b.switch_to_block(no);
        let value = otherwise(self);
        self.write_slot(&slot, ty, &value);
        self.b.ins().jump(done, &[]);
        self.b.switch_to_block(done);
        self.read_slot(&slot, ty)
    }

    fn ternary(&mut self, cond: &'h Expr, then: &'h Expr, otherwise: &'h Expr, ty: &Ty) -> Val {
        let cond = self.expr(cond);
        let cond = self.truth(&cond);
        self.branches(cond, ty, |g| g.expr(then), |g| g.expr(otherwise))
    }

    /// `a ?: b`: b where a is absent, or, for a value that can be asked for its truth, false.
    fn elvis(&mut self, value: &'h Expr, otherwise: &'h Expr, ty: &Ty) -> Val {
        let first = self.expr(value);
        // As in bpftrace: zero and the empty text take the other value, too.
        let mut take = match (&first.repr, &value.ty) {
            (Repr::Mem { pointer, .. }, Ty::Str { .. }) => {
                let byte = self.b.ins().uload8(I64, plain(), *pointer, 0);
                self.compare_imm(IntCC::NotEqual, byte, 0)
            }
            _ => self.truth(&first),
        };
        if let Some(present) = first.present {
            take = self.b.ins().band(take, present);
        }
        let kept = Val {
            repr: first.repr.clone(),
            present: None,
        };
        self.branches(take, ty, |_| kept, |g| g.expr(otherwise))
    }

    /// Makes storage for a value of the type.
    pub fn new_slot(&mut self, ty: &Ty, may_be_absent: bool) -> VarSlot {
        let memory = if ty.in_memory() {
            let size = ty.stored().map_or(8, |t| t.size());
            Some(Room::At(self.memory_slot(size)))
        } else {
            None
        };
        let n = if memory.is_some() { 0 } else { super::value::words(ty) };
        let words = (0..n).map(|_| self.b.declare_var(I64)).collect();
        let present = (may_be_absent && self.hook.has_packet()).then(|| self.b.declare_var(I8));
        VarSlot {
            words,
            present,
            memory,
            present_at: None,
        }
    }

    /// Reads `size` bytes of kernel or user memory, or of the context, into a slot and returns its address.
    pub fn copy_memory(&mut self, address: Value, size: u32, space: Space) -> Value {
        let slot = self.memory_slot(size);
        if size < 8 || !size.is_multiple_of(8) {
            self.zero(slot, 0, size.next_multiple_of(8));
        }
        let n = self.int(i64::from(size));
        let number = if space == Space::User {
            helper::PROBE_READ_USER
        } else {
            helper::PROBE_READ_KERNEL
        };
        let result = self.helper(number, &[slot, n, address]);
        self.warn_failed(HelperCall::read(space == Space::User, false), result);
        slot
    }

    fn read(&mut self, place: &'h Expr, size: u32, bits: Option<(u8, u8)>, ty: &Ty) -> Val {
        if let (Ty::Obj { space: Space::Btf, .. }, None) = (&place.ty, bits)
            && !matches!(ty, Ty::Ptr { .. })
            && let Some(address) = self.typed_address(place)
        {
            let n = self.load(address, 0, size);
            return Val::int(self.normalise(n, ty));
        }
        if let (Hook::Iter, Ty::Ptr { .. }, ExprKind::Place { base, offset }) = (self.hook, ty, &place.kind)
            && matches!(base.kind, ExprKind::Builtin(BuiltinKind::Ctx))
        {
            return Val::int(self.untyped(*offset));
        }
        let value = self.expr(place);
        let address = self.as_int(&value);
        let Ty::Obj { space, .. } = place.ty else { return value };
        let mut n = if space == Space::Context {
            self.load(address, 0, size)
        } else {
            let slot = self.copy_memory(address, size, space);
            self.load(slot, 0, size)
        };
        if let Some((shift, width)) = bits {
            let left = 64 - i64::from(shift) - i64::from(width);
            n = self.b.ins().ishl_imm_s(n, left);
            let right = 64 - i64::from(width);
            n = if ty.is_signed() {
                self.b.ins().sshr_imm_s(n, right)
            } else {
                self.b.ins().ushr_imm_s(n, right)
            };
        } else {
            n = self.normalise(n, ty);
        }
        Val {
            repr: Repr::Int(n),
            present: value.present,
        }
    }
}
