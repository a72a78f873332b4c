//! Addresses: made from memory and numbers, compared with prefixes, ranges and sets.

use super::Generator;
use super::value::{Repr, Val};
use crate::hir::{CTy, Expr, ExprKind, SetElem, Space, Ty};
use crate::tables::BuiltinKind;
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{I8, I32, I64};
use cranelift_codegen::ir::{InstBuilder, Value};
use weir_parser::ast::BinaryOp;

pub(super) const AF_INET6: i64 = 10;

impl<'h> Generator<'_, 'h> {
    pub(super) fn inet_const(&mut self, bytes: &[u8; 16], v6: bool) -> Vec<Value> {
        let (high, low) = halves(bytes);
        vec![self.int(if v6 { AF_INET6 } else { 2 }), self.int(high), self.int(low)]
    }

    pub(super) fn in_set(&mut self, value: &'h Expr, set: &'h [SetElem]) -> Val {
        let v = self.expr(value);
        let signed = value.ty.is_signed();
        let mut found = self.b.ins().iconst(I8, 0);
        for elem in set {
            let hit = match elem {
                SetElem::One(e) => {
                    let e = self.expr(e);
                    self.equal(&v, &e)
                }
                SetElem::Range(a, b) => {
                    let (a, b) = (self.expr(a), self.expr(b));
                    match (&v.repr, &a.repr, &b.repr) {
                        (Repr::Words(v), Repr::Words(a), Repr::Words(b)) => self.inet_between(&v.clone(), &a.clone(), &b.clone()),
                        _ => {
                            let low = self.compare(BinaryOp::Ge, &v, &a, signed, false);
                            let high = self.compare(BinaryOp::Le, &v, &b, signed, false);
                            self.b.ins().band(low, high)
                        }
                    }
                }
                SetElem::Prefix(bytes, len, v6) => {
                    let Repr::Words(words) = &v.repr else { continue };
                    let words = words.clone();
                    self.in_prefix(&words, bytes, *len, *v6)
                }
            };
            found = self.b.ins().bor(found, hit);
        }
        let found = match v.present {
            Some(present) => self.b.ins().band(found, present),
            None => found,
        };
        Val::int(self.bool_to_int(found))
    }

    fn in_prefix(&mut self, words: &[Value], bytes: &[u8; 16], len: u8, v6: bool) -> Value {
        let mut mask = [0_u8; 16];
        for bit in 0..usize::from(len) {
            mask[bit / 8] |= 0x80 >> (bit % 8);
        }
        let ((address_high, address_low), (mask_high, mask_low)) = (halves(bytes), halves(&mask));
        let mut hit = self.compare_imm(IntCC::Equal, words[0], if v6 { AF_INET6 } else { 2 });
        for (word, address, mask) in [(words[1], address_high, mask_high), (words[2], address_low, mask_low)] {
            if mask == 0 {
                continue;
            }
            let mask = self.int(mask);
            let network = self.b.ins().band(word, mask);
            let same = self.compare_imm(IntCC::Equal, network, address);
            hit = self.b.ins().band(hit, same);
        }
        hit
    }

    fn inet_between(&mut self, v: &[Value], low: &[Value], high: &[Value]) -> Value {
        let family = self.b.ins().icmp(IntCC::Equal, v[0], low[0]);
        let at_least = self.inet_le(low, v);
        let at_most = self.inet_le(v, high);
        let both = self.b.ins().band(at_least, at_most);
        self.b.ins().band(family, both)
    }

    /// `a <= b` as numbers in network order.
    fn inet_le(&mut self, a: &[Value], b: &[Value]) -> Value {
        let (a1, b1) = (self.b.ins().bswap(a[1]), self.b.ins().bswap(b[1]));
        let (a2, b2) = (self.b.ins().bswap(a[2]), self.b.ins().bswap(b[2]));
        let less = self.b.ins().icmp(IntCC::UnsignedLessThan, a1, b1);
        let same = self.b.ins().icmp(IntCC::Equal, a1, b1);
        let low = self.b.ins().icmp(IntCC::UnsignedLessThanOrEqual, a2, b2);
        let tie = self.b.ins().band(same, low);
        self.b.ins().bor(less, tie)
    }

    pub(super) fn ntop(&mut self, family: Option<&'h Expr>, addr: &'h Expr) -> Val {
        let constant = match family.map(|f| &f.kind) {
            None => None,
            Some(ExprKind::Int(n)) => Some(*n),
            Some(_) => None,
        };
        let dynamic = match (family, constant) {
            (Some(family), None) => {
                let value = self.expr(family);
                Some((self.as_int(&value), value.present))
            }
            _ => None,
        };
        let value = self.expr(addr);
        let zero = self.int(0);
        let (default_family, high, low) = match &addr.ty {
            Ty::Int { .. } => {
                let n = self.as_int(&value);
                let n = self.b.ins().ireduce(I32, n);
                (2, self.b.ins().uextend(I64, n), zero)
            }
            other => {
                let (space, wide) = match other {
                    Ty::Obj { ty, space } => (*space, self.is_wide(ty)),
                    Ty::Ptr { space, .. } => (*space, constant != Some(2)),
                    _ => (Space::Kernel, true),
                };
                let address = self.as_int(&value);
                let bytes: u32 = if wide { 16 } else { 4 };
                let (high, low) = if space == Space::Context {
                    self.context_words(address, bytes, context_alignment(addr))
                } else {
                    let slot = self.copy_memory(address, bytes, space);
                    let high = self.load(slot, 0, if wide { 8 } else { 4 });
                    let low = if wide { self.load(slot, 8, 8) } else { zero };
                    (high, low)
                };
                (if wide { AF_INET6 } else { 2 }, high, low)
            }
        };
        let Some((family, family_present)) = dynamic else {
            let family = constant.unwrap_or(default_family);
            let (high, low) = if family == 2 && default_family == AF_INET6 {
                (self.low_half(high), zero)
            } else {
                (high, low)
            };
            let family = self.int(family);
            return Val {
                repr: Repr::Words(vec![family, high, low]),
                present: value.present,
            };
        };
        // The first four bytes are the address when the family turns out to be IPv4.
        let is_v4 = self.compare_imm(IntCC::Equal, family, 2);
        let short = self.low_half(high);
        let high = self.b.ins().select(is_v4, short, high);
        let low = self.b.ins().select(is_v4, zero, low);
        let present = self.both(value.present, family_present);
        Val {
            repr: Repr::Words(vec![family, high, low]),
            present,
        }
    }

    /// Makes the first word of a trie's key of an address's family: the address is all of its bits. A shorter entry would be found with any
    /// length, but deleted is the one that has just this.
    pub fn address_head(&mut self, family: Value) -> Value {
        // Without a branch: the line through (2, 32) and (10, 128).
        let (v4, v6) = (lpm_head(2, 32), lpm_head(AF_INET6, 128));
        let slope = (v6 - v4) / (AF_INET6 - 2);
        let slope = self.int(slope);
        let scaled = self.b.ins().imul(family, slope);
        self.b.ins().iadd_imm_s(scaled, v4 - 2 * ((v6 - v4) / (AF_INET6 - 2)))
    }

    fn low_half(&mut self, n: Value) -> Value {
        let n = self.b.ins().ireduce(I32, n);
        self.b.ins().uextend(I64, n)
    }

    fn is_wide(&self, ty: &CTy) -> bool {
        match ty {
            CTy::Array { elem, len } => elem.size().unwrap_or(1) * len == 16,
            // The only struct of an address that is not four bytes: `struct in6_addr`.
            CTy::Struct { name, .. } => name != "in_addr",
            _ => false,
        }
    }

    /// The context is loaded in pieces that are aligned for sure.
    fn context_words(&mut self, address: Value, bytes: u32, piece: u32) -> (Value, Value) {
        let zero = self.int(0);
        let mut halves = [zero; 2];
        for at in (0..bytes).step_by(usize::try_from(piece).unwrap_or(1)) {
            let part = self.load(address, i32::try_from(at).unwrap_or(0), piece);
            let part = self.b.ins().ishl_imm_s(part, i64::from(at % 8 * 8));
            let half = &mut halves[usize::from(at >= 8)];
            *half = self.b.ins().bor(*half, part);
        }
        (halves[0], halves[1])
    }
}

/// Largest piece, up to 4 bytes, in which a place in the context may be loaded: the kernel wants every load there aligned.
fn context_alignment(place: &Expr) -> u32 {
    match &place.kind {
        ExprKind::Place { base, offset } if matches!(base.kind, ExprKind::Builtin(BuiltinKind::Ctx)) => match offset % 4 {
            0 => 4,
            2 => 2,
            _ => 1,
        },
        _ => 1,
    }
}

/// First word of an LPM map's key: the number of bits that count, those of the family included, then the family.
pub(super) fn lpm_head(family: i64, len: u8) -> i64 {
    family << 32 | i64::from(32 + u32::from(len))
}

/// The two 8-byte halves as a little-endian load sees them.
fn halves(bytes: &[u8; 16]) -> (i64, i64) {
    let mut high = [0; 8];
    let mut low = [0; 8];
    high.copy_from_slice(&bytes[..8]);
    low.copy_from_slice(&bytes[8..]);
    (i64::from_le_bytes(high), i64::from_le_bytes(low))
}
