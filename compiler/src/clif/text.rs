//! Text and bytes: reading them from memory, comparing, searching.
//!
//! Text in working memory is followed by zeros to the end of its room, so that it can be compared by words.

use super::value::{Repr, Val};
use super::{Generator, plain};
use crate::hir::{Expr, Space};
use crate::object::HelperCall;
use crate::tables::helper;
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{I8, I64};
use cranelift_codegen::ir::{BlockArg, InstBuilder, Value};

/// Texts up to this size are compared without a loop.
const UNROLLED_BYTES: u32 = 128;

impl<'h> Generator<'_, 'h> {
    /// `str(p)`: at most `cap` bytes with the NUL.
    pub fn read_str(&mut self, ptr: &'h Expr, len: Option<&'h Expr>, cap: u32, space: Space) -> Val {
        let pointer = self.expr(ptr);
        let len = len.map(|len| self.expr(len));
        let present = len.as_ref().map_or(pointer.present, |len| self.both(pointer.present, len.present));
        let from = self.as_int(&pointer);
        let size = cap.next_multiple_of(8);
        let to = self.memory_slot(size);
        self.zero(to, 0, size);
        let bytes = match len {
            None => self.int(i64::from(cap)),
            Some(len) => {
                let (n, most) = (self.as_int(&len), self.int(i64::from(cap) - 1));
                let n = self.b.ins().umin(n, most);
                let n = self.b.ins().iadd_imm_s(n, 1);
                self.pin(n)
            }
        };
        let number = if space == Space::User {
            helper::PROBE_READ_USER_STR
        } else {
            helper::PROBE_READ_KERNEL_STR
        };
        let result = self.helper(number, &[to, bytes, from]);
        self.warn_failed(HelperCall::read(space == Space::User, true), result);
        Val {
            repr: Repr::Mem { pointer: to, size },
            present,
        }
    }

    /// `buf(p, n)`: the length in four bytes, then the bytes.
    pub fn read_buf(&mut self, ptr: &'h Expr, len: &'h Expr, cap: u32, space: Space) -> Val {
        let (pointer, len) = (self.expr(ptr), self.expr(len));
        let present = self.both(pointer.present, len.present);
        let (from, n) = (self.as_int(&pointer), self.as_int(&len));
        let size = (cap + 4).next_multiple_of(8);
        let to = self.memory_slot(size);
        self.zero(to, 0, size);
        let most = self.int(i64::from(cap));
        let n = self.b.ins().umin(n, most);
        let n = self.pin(n);
        let short = self.b.ins().ireduce(cranelift_codegen::ir::types::I32, n);
        self.b.ins().store(plain(), short, to, 0);
        let data = self.b.ins().iadd_imm_s(to, 4);
        let number = if space == Space::User {
            helper::PROBE_READ_USER
        } else {
            helper::PROBE_READ_KERNEL
        };
        let result = self.helper(number, &[data, n, from]);
        self.warn_failed(HelperCall::read(space == Space::User, false), result);
        Val {
            repr: Repr::Mem { pointer: to, size },
            present,
        }
    }

    /// An array of the kernel, all of it.
    pub fn read_array(&mut self, place: &'h Expr, size: u32) -> Val {
        let crate::hir::Ty::Obj { space, .. } = place.ty else {
            return self.expr(place);
        };
        let value = self.expr(place);
        let address = self.as_int(&value);
        let pointer = self.copy_memory(address, size, space);
        Val {
            repr: Repr::Mem {
                pointer,
                size: size.next_multiple_of(8),
            },
            present: value.present,
        }
    }

    /// Whether two texts are the same; an `i8`.
    pub fn text_equal(&mut self, a: Value, x: u32, b: Value, y: u32) -> Value {
        let n = x.min(y) / 8 * 8;
        let difference = if n > UNROLLED_BYTES {
            self.difference_loop(a, b, n)
        } else {
            let mut difference = self.int(0);
            for at in (0..n).step_by(8) {
                let at = i32::try_from(at).unwrap_or(0);
                let (p, q) = (self.b.ins().load(I64, plain(), a, at), self.b.ins().load(I64, plain(), b, at));
                let d = self.b.ins().bxor(p, q);
                difference = self.b.ins().bor(difference, d);
            }
            difference
        };
        // The shorter room may be full: then the longer text must end there, too.
        let rest = match x.cmp(&y) {
            std::cmp::Ordering::Equal => return self.compare_imm(IntCC::Equal, difference, 0),
            std::cmp::Ordering::Less => b,
            std::cmp::Ordering::Greater => a,
        };
        let rest = self.b.ins().load(I8, plain(), rest, i32::try_from(n).unwrap_or(0));
        let rest = self.b.ins().uextend(I64, rest);
        let difference = self.b.ins().bor(difference, rest);
        self.compare_imm(IntCC::Equal, difference, 0)
    }

    /// Which of two texts comes first: below, at or above zero. Texts are padded with zeros.
    pub fn text_order(&mut self, a: Value, x: u32, b: Value, y: u32) -> Value {
        let n = x.min(y) / 8 * 8;
        let order = self.first_difference(a, b, n, 8, |g, p, q| {
            // The first byte of a text counts most.
            let (p, q) = (g.b.ins().bswap(p), g.b.ins().bswap(q));
            let (less, more) = (g.borrow(p, q), g.borrow(q, p));
            g.b.ins().isub(more, less)
        });
        let rest = |g: &mut Self, of: Value| {
            let byte = g.b.ins().load(I8, plain(), of, i32::try_from(n).unwrap_or(0));
            g.b.ins().uextend(I64, byte)
        };
        // What is left of the longer room makes its text the greater one.
        let rest = match x.cmp(&y) {
            std::cmp::Ordering::Equal => return order,
            std::cmp::Ordering::Less => {
                let rest = rest(self, b);
                self.b.ins().ineg(rest)
            }
            std::cmp::Ordering::Greater => rest(self, a),
        };
        self.unless_known(order, rest)
    }

    /// The first difference that is not zero, of the words or bytes of two places. Without branches, so that the verifier
    /// follows one way only.
    fn first_difference(&mut self, a: Value, b: Value, bytes: u32, step: u32, of: impl Fn(&mut Self, Value, Value) -> Value) -> Value {
        let one = |g: &mut Self, p: Value, q: Value, at: i32, sofar: Value| {
            let word = |g: &mut Self, from: Value| {
                if step == 8 {
                    return g.b.ins().load(I64, plain(), from, at);
                }
                let byte = g.b.ins().load(I8, plain(), from, at);
                g.b.ins().uextend(I64, byte)
            };
            let (p, q) = (word(g, p), word(g, q));
            let difference = of(g, p, q);
            g.unless_known(sofar, difference)
        };
        if bytes > UNROLLED_BYTES {
            return self.fold_offsets(bytes, i64::from(step), |g, offset, sofar| {
                let (p, q) = (g.b.ins().iadd(a, offset), g.b.ins().iadd(b, offset));
                one(g, p, q, 0, sofar)
            });
        }
        let mut sofar = self.int(0);
        for at in (0..bytes).step_by(step as usize) {
            sofar = one(self, a, b, i32::try_from(at).unwrap_or(0), sofar);
        }
        sofar
    }

    /// `known`, or `new` where that is zero.
    fn unless_known(&mut self, known: Value, new: Value) -> Value {
        let negative = self.b.ins().ineg(known);
        let sign = self.b.ins().bor(known, negative);
        let mask = self.b.ins().sshr_imm_s(sign, 63);
        let mask = self.b.ins().bnot(mask);
        let new = self.b.ins().band(new, mask);
        self.b.ins().bor(known, new)
    }

    /// 1 where `a` is the less one of two numbers without sign.
    fn borrow(&mut self, a: Value, b: Value) -> Value {
        let (not_a, difference) = (self.b.ins().bnot(a), self.b.ins().isub(a, b));
        let (both, either) = (self.b.ins().band(not_a, b), self.b.ins().bor(not_a, b));
        let same = self.b.ins().band(either, difference);
        let top = self.b.ins().bor(both, same);
        self.b.ins().ushr_imm_s(top, 63)
    }

    /// `memcmp(a, b, n)`: the difference of the first two bytes that are not the same.
    pub fn memcmp(&mut self, left: &'h Expr, right: &'h Expr, n: u32) -> Val {
        let (l, r) = (self.expr(left), self.expr(right));
        let present = self.both(l.present, r.present);
        let (Repr::Mem { pointer: a, .. }, Repr::Mem { pointer: b, .. }) = (&l.repr, &r.repr) else {
            return l;
        };
        let difference = self.first_difference(*a, *b, n, 1, |g, p, q| g.b.ins().isub(p, q));
        Val {
            repr: Repr::Int(difference),
            present,
        }
    }

    /// Runs `body` with the offset of each word of `bytes`, passing a value on from word to word.
    fn fold_offsets(&mut self, bytes: u32, step: i64, body: impl FnOnce(&mut Self, Value, Value) -> Value) -> Value {
        let (head, inside, done) = (self.b.create_block(), self.b.create_block(), self.b.create_block());
        let offset = self.b.append_block_param(head, I64);
        let sofar = self.b.append_block_param(head, I64);
        let (zero, none) = (self.int(0), self.int(0));
        self.b.ins().jump(head, &[BlockArg::Value(zero), BlockArg::Value(none)]);
        self.b.switch_to_block(head);
        let more = self.compare_imm(IntCC::UnsignedLessThan, offset, i64::from(bytes));
        self.b.ins().brif(more, inside, &[], done, &[]);
        self.b.switch_to_block(inside);
        let new = body(self, offset, sofar);
        let next = self.b.ins().iadd_imm_s(offset, step);
        self.b.ins().jump(head, &[BlockArg::Value(next), BlockArg::Value(new)]);
        self.b.switch_to_block(done);
        sofar
    }

    fn difference_loop(&mut self, a: Value, b: Value, bytes: u32) -> Value {
        self.fold_offsets(bytes, 8, |g, offset, sofar| {
            let (p, q) = (g.b.ins().iadd(a, offset), g.b.ins().iadd(b, offset));
            let (p, q) = (g.b.ins().load(I64, plain(), p, 0), g.b.ins().load(I64, plain(), q, 0));
            let d = g.b.ins().bxor(p, q);
            g.b.ins().bor(sofar, d)
        })
    }

    /// `strncmp(a, b, n)`: 0 when the first `n` bytes agree.
    pub fn strncmp(&mut self, left: &'h Expr, right: &'h Expr, n: u32) -> Val {
        let (l, r) = (self.expr(left), self.expr(right));
        let present = self.both(l.present, r.present);
        let (Repr::Mem { pointer: a, size: x }, Repr::Mem { pointer: b, size: y }) = (&l.repr, &r.repr) else {
            return l;
        };
        let (a, x, b, y) = (*a, *x, *b, *y);
        let equal = if n >= x.min(y) {
            self.text_equal(a, x, b, y)
        } else {
            let whole = n / 8 * 8;
            let mut difference = if whole > UNROLLED_BYTES {
                self.difference_loop(a, b, whole)
            } else {
                self.int(0)
            };
            let first = if whole > UNROLLED_BYTES { whole } else { 0 };
            for at in (first..n).step_by(8) {
                let offset = i32::try_from(at).unwrap_or(0);
                let (p, q) = (
                    self.b.ins().load(I64, plain(), a, offset),
                    self.b.ins().load(I64, plain(), b, offset),
                );
                let mut d = self.b.ins().bxor(p, q);
                if n - at < 8 {
                    let mask = self.int((1_i64 << (8 * (n - at))) - 1);
                    d = self.b.ins().band(d, mask);
                }
                difference = self.b.ins().bor(difference, d);
            }
            self.compare_imm(IntCC::Equal, difference, 0)
        };
        let one = self.b.ins().iconst(I8, 1);
        let differs = self.b.ins().bxor(equal, one);
        Val {
            repr: Repr::Int(self.bool_to_int(differs)),
            present,
        }
    }

    /// `strcontains(text, part)`: at every byte of the text, all words of the part at once, masked to its length.
    /// With `index` the value is where it is, or -1.
    pub fn strcontains(&mut self, text: &'h Expr, part: &'h Expr, index: bool) -> Val {
        let (t, p) = (self.expr(text), self.expr(part));
        let present = self.both(t.present, p.present);
        let (Repr::Mem { pointer: from, size: room }, Repr::Mem { pointer: part, size }) = (&t.repr, &p.repr) else {
            return t;
        };
        let (from, room, part, size) = (*from, *room, *part, *size);
        // Reads at any byte are only allowed outside the stack, and go beyond the text by the part's size.
        let copy = self.scratch_slot(room + size);
        self.copy_text(from, room, copy, 0, room + size);
        let mut words = Vec::new();
        for at in (0..size).step_by(8) {
            let word = self.b.ins().load(I64, plain(), part, i32::try_from(at).unwrap_or(0));
            let mask = self.nonzero_bytes(word);
            words.push((at, word, mask));
        }
        let place = index.then(|| {
            let place = self.scratch_slot(8);
            let none = self.int(-1);
            self.b.ins().store(plain(), none, place, 0);
            place
        });
        let found = self.fold_offsets(room, 1, |g, offset, sofar| {
            let at = g.b.ins().iadd(copy, offset);
            let mut difference = g.int(0);
            for (offset, word, mask) in words {
                let here = g.b.ins().load(I64, plain(), at, i32::try_from(offset).unwrap_or(0));
                let here = g.b.ins().band(here, mask);
                let d = g.b.ins().bxor(here, word);
                difference = g.b.ins().bor(difference, d);
            }
            let hit = g.compare_imm(IntCC::Equal, difference, 0);
            if let Some(place) = place {
                // What lies in memory the verifier does not follow: to it, all passes through the loop look alike.
                let known = g.b.ins().load(I64, plain(), place, 0);
                let none = g.compare_imm(IntCC::SignedLessThan, known, 0);
                let first = g.b.ins().band(hit, none);
                let new = g.b.ins().select(first, offset, known);
                g.b.ins().store(plain(), new, place, 0);
                return sofar;
            }
            let hit = g.b.ins().uextend(I64, hit);
            g.b.ins().bor(sofar, hit)
        });
        let found = match place {
            Some(place) => self.b.ins().load(I64, plain(), place, 0),
            None => found,
        };
        Val {
            repr: Repr::Int(found),
            present,
        }
    }

    /// All bits of every byte that is not zero.
    fn nonzero_bytes(&mut self, word: Value) -> Value {
        let low = self.int(0x7f7f_7f7f_7f7f_7f7f);
        let high = self.int(0x8080_8080_8080_8080_u64.cast_signed());
        let a = self.b.ins().band(word, low);
        let a = self.b.ins().iadd(a, low);
        let a = self.b.ins().bor(a, word);
        let tops = self.b.ins().band(a, high);
        let ones = self.b.ins().ushr_imm_s(tops, 7);
        self.b.ins().imul_imm_s(ones, 255)
    }

    /// `str_concat(a, b)`
    pub fn concat(&mut self, left: &'h Expr, right: &'h Expr) -> Val {
        let (l, r) = (self.expr(left), self.expr(right));
        let present = self.both(l.present, r.present);
        let (Repr::Mem { pointer: a, size: x }, Repr::Mem { pointer: b, size: y }) = (&l.repr, &r.repr) else {
            return l;
        };
        let (a, x, b, y) = (*a, *x, *b, *y);
        let size = x + y;
        // Behind the first text there are zeros, so its end can be found; only outside of the stack may an address be computed.
        let to = self.scratch_slot(size);
        self.copy_text(a, x, to, 0, size);
        let copy = self.scratch_slot(x + 8);
        let bytes = self.int(i64::from(x) + 1);
        let copied = self.helper(helper::PROBE_READ_KERNEL_STR, &[copy, bytes, to]);
        let len = self.b.ins().iadd_imm_s(copied, -1);
        let most = self.int(i64::from(x));
        let len = self.b.ins().umin(len, most);
        let len = self.pin(len);
        let end = self.b.ins().iadd(to, len);
        let bytes = self.int(i64::from(y));
        self.helper(helper::PROBE_READ_KERNEL, &[end, bytes, b]);
        Val {
            repr: Repr::Mem { pointer: to, size },
            present,
        }
    }

    /// `strlen(text)`: the kernel's own copy says it.
    pub fn strlen(&mut self, text: &'h Expr) -> Val {
        let value = self.expr(text);
        let Repr::Mem { pointer, size } = value.repr else { return value };
        let to = self.memory_slot(size + 8);
        // Text without a NUL in its room ends where the room ends.
        let bytes = self.int(i64::from(size));
        let copied = self.helper(helper::PROBE_READ_KERNEL_STR, &[to, bytes, pointer]);
        let len = self.b.ins().iadd_imm_s(copied, -1);
        Val {
            repr: Repr::Int(len),
            present: value.present,
        }
    }
}
