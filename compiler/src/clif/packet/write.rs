//! Assignments to packet fields: the bytes, every checksum that covers them, and the values that the program holds of them.
//!
//! Where headers lie was noted by the parser as plain offsets, so nothing here depends on packet pointers that a helper made
//! stale. At TC the kernel's helpers change checksums, which is right whatever the device computes itself. XDP has none, and
//! the checksum is updated by the difference (RFC 1624); for that it must be complete.

use super::{META_BYTES, META_MAGIC, Places, field_ty, skb, xdp};
use crate::clif::value::{Repr, Val};
use crate::clif::{Generator, plain};
use crate::hir::Expr;
use crate::object::CounterSpec;
use crate::tables::{FIELDS, Family, FieldKind, Header, IpPart, Parsed, helper};
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{I8, I16, I32, I64};
use cranelift_codegen::ir::{BlockArg, InstBuilder, Value};
use weir_parser::Span;

/// `BPF_F_RECOMPUTE_CSUM`
const RECOMPUTE: i64 = 1;
/// `BPF_F_PSEUDO_HDR`
const PSEUDO: i64 = 0x10;
/// `BPF_F_MARK_MANGLED_0`: a UDP checksum of zero means that there is none.
const MANGLED_0: i64 = 0x20;

const TCP: i64 = 6;
const UDP: i64 = 17;
const ICMP6: i64 = 58;

/// Offsets of checksums in their headers.
const IP4_CHECK: i64 = 10;
const TCP_CHECK: i64 = 16;
const UDP_CHECK: i64 = 6;
const ICMP6_CHECK: i64 = 2;

/// Headers lie before this offset; a mask with it shows the verifier that an offset is small.
const MAX_PLACE: u64 = 0x3fff;

/// Bytes in the packet's order, as a little-endian load sees them: one word for up to 8 bytes, two for 16.
#[derive(Clone)]
struct Raw {
    words: Vec<Value>,
    bytes: u32,
}

/// An offset in the packet: those with the same base are checked at once.
#[derive(Clone, Copy)]
struct At {
    base: Value,
    offset: i64,
}

/// One change of the packet.
enum Edit {
    Bytes {
        at: At,
        new: Raw,
    },
    /// A checksum that covers bytes which change from `old` to `new`.
    Sum {
        at: At,
        old: Raw,
        new: Raw,
        of: Sum,
    },
}

impl Edit {
    fn place(&self) -> (At, i64) {
        match self {
            Edit::Bytes { at, new } => (*at, i64::from(new.bytes)),
            Edit::Sum { at, .. } => (*at, 2),
        }
    }
}

#[derive(Clone, Copy)]
enum Sum {
    /// Of the IPv4 header.
    Network,
    /// Of TCP or ICMPv6.
    Transport,
    /// Of UDP where this `i8` says so: zero means that there is none.
    Udp(Value),
}

impl<'h> Generator<'_, 'h> {
    /// Assigns to a field. Without the header, or with an absent value, nothing happens.
    pub fn assign_field(&mut self, field: usize, value: &'h Expr, span: Span) {
        let value = self.expr(value);
        match FIELDS[field].kind {
            FieldKind::Context {
                skb: Some((offset, _)), ..
            } => {
                let n = self.as_int(&value);
                self.when(value.present, |g| {
                    let short = g.b.ins().ireduce(I32, n);
                    g.b.ins().store(plain(), short, g.ctx, i32::from(offset));
                    g.hold(field, &[n]);
                });
            }
            FieldKind::Meta => {
                let n = self.as_int(&value);
                self.when(value.present, |g| g.write_meta(n, span));
            }
            FieldKind::Address(part) => self.assign_address(field, part, &value),
            _ => {
                let Some(places) = self.places else { return };
                let current = self.held_field(field);
                let mut present = self.both(current.present, value.present);
                if let (Repr::Words(old), Repr::Words(new)) = (&current.repr, &value.repr) {
                    // An address of the other family has no place in this packet.
                    let same = self.b.ins().icmp(IntCC::Equal, old[0], new[0]);
                    present = self.both(present, Some(same));
                }
                self.when(present, |g| g.write_header(field, places, &current, &value));
            }
        }
    }

    /// Notes the new value of a field, if the program holds it. Whether it is there does not change.
    pub(in crate::clif) fn hold(&mut self, field: usize, values: &[Value]) {
        let Some(slot) = self.fields.get(&field).cloned() else { return };
        for (var, value) in slot.words.iter().zip(values) {
            self.b.def_var(*var, *value);
        }
        // In the body of a loop it lies in memory.
        let ty = field_ty(FIELDS[field].ty);
        if let (Some(room), Some(stored), false) = (slot.memory, ty.stored(), ty.in_memory()) {
            let value = Val {
                repr: Self::unflatten(&ty, values),
                present: None,
            };
            let pointer = self.room(room);
            self.store_value(&value, &stored, pointer, 0);
        }
    }

    /// Changes words of the flow, if the program holds it.
    fn hold_flow(&mut self, field: usize, change: impl FnOnce(&mut Self, &mut Vec<Value>)) {
        let held = self.held_field(field);
        let mut words = self.flatten(&held);
        change(self, &mut words);
        self.hold(field, &words);
    }

    fn held(&self) -> Vec<usize> {
        let mut fields: Vec<usize> = self.fields.keys().copied().collect();
        fields.sort_unstable();
        fields
    }

    fn write_header(&mut self, field: usize, places: Places, current: &Val, value: &Val) {
        match FIELDS[field].kind {
            FieldKind::MacAt { offset, .. } => {
                let at = At {
                    base: self.int(0),
                    offset: i64::from(offset),
                };
                let n = self.as_int(value);
                let new = Raw { words: vec![n], bytes: 6 };
                self.apply(&[Edit::Bytes { at, new }], 0);
                self.hold(field, &[n]);
            }
            FieldKind::Bits { header, offset, bytes, .. } => self.write_transport(places, header, offset, bytes, current, value),
            FieldKind::Ip { family, part } => self.write_network(places, family, part, current, value),
            FieldKind::Parsed(Parsed::VlanId { .. }) => self.write_tag(places, field, value, 0, 0xfff),
            FieldKind::Parsed(Parsed::VlanPrio { .. }) => self.write_tag(places, field, value, 13, 7),
            _ => {}
        }
    }

    /// A number as it lies in the packet.
    fn raw(&mut self, n: Value, bytes: u8) -> Raw {
        let word = match bytes {
            2 => {
                let n = self.b.ins().ireduce(I16, n);
                let n = self.b.ins().bswap(n);
                self.b.ins().uextend(I64, n)
            }
            4 => {
                let n = self.b.ins().ireduce(I32, n);
                let n = self.b.ins().bswap(n);
                self.b.ins().uextend(I64, n)
            }
            _ => n,
        };
        Raw {
            words: vec![word],
            bytes: u32::from(bytes),
        }
    }

    /// A single byte as the 16-bit word that a checksum takes it in.
    fn in_word(&mut self, raw: &Raw, odd: bool) -> Raw {
        if raw.bytes != 1 {
            return raw.clone();
        }
        let word = if odd {
            self.b.ins().ishl_imm_s(raw.words[0], 8)
        } else {
            raw.words[0]
        };
        Raw {
            words: vec![word],
            bytes: 2,
        }
    }

    /// Cuts a number to the bytes that the field has.
    fn cut(&mut self, n: Value, bytes: u8) -> Value {
        let mask = if bytes >= 8 { u64::MAX } else { (1 << (8 * u32::from(bytes))) - 1 };
        let n = self.bits(n, 0, mask);
        // Computed once, for the checksum and for the packet.
        self.pin(n)
    }

    fn write_transport(&mut self, places: Places, header: Header, offset: u16, bytes: u8, current: &Val, value: &Val) {
        let n = self.as_int(value);
        let n = self.cut(n, bytes);
        let old = self.as_int(current);
        let (old, new) = (self.raw(old, bytes), self.raw(n, bytes));
        let base = self.place(places.transport);
        let at = At {
            base,
            offset: i64::from(offset),
        };
        let udp = header == Header::Udp;
        let check = At {
            base,
            offset: if udp { UDP_CHECK } else { TCP_CHECK },
        };
        let odd = offset % 2 == 1;
        let sum = Edit::Sum {
            at: check,
            old: self.in_word(&old, odd),
            new: self.in_word(&new, odd),
            of: if udp {
                Sum::Udp(self.b.ins().iconst(I8, 1))
            } else {
                Sum::Transport
            },
        };
        self.apply(&[sum, Edit::Bytes { at, new }], 0);
        // Every field that is made of the same bytes.
        for other in self.held() {
            match FIELDS[other].kind {
                FieldKind::Bits {
                    header: h,
                    offset: o,
                    bytes: b,
                    shift,
                    mask,
                } if h == header && o == offset && b == bytes => {
                    let part = self.bits(n, shift, mask);
                    self.hold(other, &[part]);
                }
                FieldKind::Parsed(Parsed::PortSrc) if offset == 0 => self.hold(other, &[n]),
                FieldKind::Parsed(Parsed::PortDst) if offset == 2 && bytes == 2 => self.hold(other, &[n]),
                FieldKind::Parsed(Parsed::Flow) if offset < 4 => {
                    let shift = i64::from(offset) * 8;
                    self.hold_flow(other, |g, words| {
                        let rest = g.bits(words[4], 0, !(0xffff << shift));
                        let port = g.b.ins().ishl_imm_s(n, shift);
                        words[4] = g.b.ins().bor(rest, port);
                    });
                }
                _ => {}
            }
        }
    }

    fn write_network(&mut self, places: Places, family: Family, part: IpPart, current: &Val, value: &Val) {
        let values: Vec<Value> = match &value.repr {
            Repr::Words(words) => words.clone(),
            _ => {
                let n = self.as_int(value);
                vec![self.cut(n, 1)]
            }
        };
        let olds = self.flatten(current);
        let base = self.place(places.network);
        let (v4, v6, done) = (self.b.create_block(), self.b.create_block(), self.b.create_block());
        match family {
            Family::V4 => self.b.ins().jump(v4, &[]),
            Family::V6 => self.b.ins().jump(v6, &[]),
            Family::Any => {
                let version = self.place(places.version);
                let is_v4 = self.compare_imm(IntCC::Equal, version, 4);
                self.b.ins().brif(is_v4, v4, &[], v6, &[])
            }
        };
        if family.has(false) {
            self.b.switch_to_block(v4);
            let (offset, bytes, word) = match part {
                IpPart::Src => (12, 4, 1),
                IpPart::Dst => (16, 4, 1),
                IpPart::Ttl => (8, 1, 0),
                _ => (1, 1, 0),
            };
            let at = At { base, offset };
            let check = At { base, offset: IP4_CHECK };
            let raw = |v: &[Value]| Raw {
                words: vec![v[word]],
                bytes,
            };
            let (old, new) = (raw(&olds), raw(&values));
            let odd = offset % 2 == 1;
            let header = Edit::Sum {
                at: check,
                old: self.in_word(&old, odd),
                new: self.in_word(&new, odd),
                of: Sum::Network,
            };
            let store = Edit::Bytes { at, new: new.clone() };
            if bytes == 4 {
                self.with_pseudo_header(places, false, &old, &new, vec![header, store]);
            } else {
                self.apply(&[header, store], 0);
            }
            self.b.ins().jump(done, &[]);
        }
        if family.has(true) {
            self.b.switch_to_block(v6);
            match part {
                IpPart::Src | IpPart::Dst => {
                    let at = At {
                        base,
                        offset: if part == IpPart::Src { 8 } else { 24 },
                    };
                    let raw = |v: &[Value]| Raw {
                        words: vec![v[1], v[2]],
                        bytes: 16,
                    };
                    let (old, new) = (raw(&olds), raw(&values));
                    let store = Edit::Bytes { at, new: new.clone() };
                    self.with_pseudo_header(places, true, &old, &new, vec![store]);
                }
                IpPart::Ttl => {
                    let at = At { base, offset: 7 };
                    let new = Raw {
                        words: vec![values[0]],
                        bytes: 1,
                    };
                    self.apply(&[Edit::Bytes { at, new }], RECOMPUTE);
                }
                _ => self.write_class(base, values[0]),
            }
            self.b.ins().jump(done, &[]);
        }
        self.b.switch_to_block(done);
        for other in self.held() {
            match FIELDS[other].kind {
                FieldKind::Ip { part: p, .. } if p == part => self.hold(other, &values),
                FieldKind::Parsed(Parsed::Flow) if matches!(part, IpPart::Src | IpPart::Dst) => {
                    let first = if part == IpPart::Src { 0 } else { 2 };
                    self.hold_flow(other, |_, words| words[first..first + 2].copy_from_slice(&values[1..3]));
                }
                _ => {}
            }
        }
    }

    /// The traffic class of IPv6 lies across two bytes, beside version and flow label.
    fn write_class(&mut self, start: Value, class: Value) {
        let room = self.memory_slot(8);
        let two = self.int(2);
        let result = self.copy_bytes(start, room, two);
        let (good, done) = (self.b.create_block(), self.b.create_block());
        self.b.ins().brif(result, done, &[], good, &[]);
        self.b.switch_to_block(good);
        let second = self.load(room, 1, 1);
        let label = self.bits(second, 0, 15);
        let low = self.bits(class, -4, 0xf0);
        let low = self.b.ins().bor(low, label);
        let low = self.b.ins().ishl_imm_s(low, 8);
        let high = self.bits(class, 4, 0xf);
        let version = self.int(0x60);
        let high = self.b.ins().bor(high, version);
        let word = self.b.ins().bor(high, low);
        let new = Raw {
            words: vec![word],
            bytes: 2,
        };
        let at = At { base: start, offset: 0 };
        self.apply(&[Edit::Bytes { at, new }], RECOMPUTE);
        self.b.ins().jump(done, &[]);
        self.b.switch_to_block(done);
    }

    /// Applies edits of an address, and that of the transport checksum whose pseudo-header has it.
    fn with_pseudo_header(&mut self, places: Places, v6: bool, old: &Raw, new: &Raw, edits: Vec<Edit>) {
        let proto = self.place(places.proto);
        let start = self.place(places.transport);
        let is_tcp = self.compare_imm(IntCC::Equal, proto, TCP);
        let is_udp = self.compare_imm(IntCC::Equal, proto, UDP);
        let mut covered = self.b.ins().bor(is_tcp, is_udp);
        let (tcp, udp) = (self.int(TCP_CHECK), self.int(UDP_CHECK));
        let mut offset = self.b.ins().select(is_tcp, tcp, udp);
        if v6 {
            let is_icmp6 = self.compare_imm(IntCC::Equal, proto, ICMP6);
            covered = self.b.ins().bor(covered, is_icmp6);
            let icmp6 = self.int(ICMP6_CHECK);
            offset = self.b.ins().select(is_icmp6, icmp6, offset);
        }
        let at = self.b.ins().iadd(start, offset);
        // The packet's own sum, where the device has made one, changes with an IPv6 address: no header checksum evens that out.
        let flags = if v6 { RECOMPUTE } else { 0 };
        if self.hook.is_skb() {
            let (yes, done) = (self.b.create_block(), self.b.create_block());
            self.b.ins().brif(covered, yes, &[], done, &[]);
            self.b.switch_to_block(yes);
            let (mangled, none) = (self.int(MANGLED_0), self.int(0));
            let udp_flag = self.b.ins().select(is_udp, mangled, none);
            if v6 {
                let (from, to) = (self.memory_slot(16), self.memory_slot(16));
                self.put(from, 0, old);
                self.put(to, 0, new);
                let (size, zero) = (self.int(16), self.int(0));
                let difference = self.helper(helper::CSUM_DIFF, &[from, size, to, size, zero]);
                let pseudo = self.int(PSEUDO);
                let flags = self.b.ins().bor(udp_flag, pseudo);
                self.helper(helper::L4_CSUM_REPLACE, &[self.ctx, at, zero, difference, flags]);
            } else {
                let pseudo = self.int(PSEUDO | 4);
                let flags = self.b.ins().bor(udp_flag, pseudo);
                self.helper(helper::L4_CSUM_REPLACE, &[self.ctx, at, old.words[0], new.words[0], flags]);
            }
            self.b.ins().jump(done, &[]);
            self.b.switch_to_block(done);
            return self.apply(&edits, flags);
        }
        let (with, without, done) = (self.b.create_block(), self.b.create_block(), self.b.create_block());
        self.b.ins().brif(covered, with, &[], without, &[]);
        self.b.switch_to_block(without);
        self.apply(&edits, flags);
        self.b.ins().jump(done, &[]);
        self.b.switch_to_block(with);
        let sum = Edit::Sum {
            at: At { base: at, offset: 0 },
            old: old.clone(),
            new: new.clone(),
            of: Sum::Udp(is_udp),
        };
        let mut all = edits;
        all.push(sum);
        self.apply(&all, flags);
        self.b.ins().jump(done, &[]);
        self.b.switch_to_block(done);
    }

    /// Puts bytes into memory.
    fn put(&mut self, pointer: Value, offset: i32, raw: &Raw) {
        match raw.bytes {
            1 => {
                let n = self.b.ins().ireduce(I8, raw.words[0]);
                self.b.ins().store(plain(), n, pointer, offset);
            }
            2 => {
                let n = self.b.ins().ireduce(I16, raw.words[0]);
                self.b.ins().store(plain(), n, pointer, offset);
            }
            4 => {
                let n = self.b.ins().ireduce(I32, raw.words[0]);
                self.b.ins().store(plain(), n, pointer, offset);
            }
            6 => {
                let low = self.b.ins().ireduce(I32, raw.words[0]);
                self.b.ins().store(plain(), low, pointer, offset);
                let high = self.b.ins().ushr_imm_s(raw.words[0], 32);
                let high = self.b.ins().ireduce(I16, high);
                self.b.ins().store(plain(), high, pointer, offset + 4);
            }
            _ => {
                self.b.ins().store(plain(), raw.words[0], pointer, offset);
                self.b.ins().store(plain(), raw.words[1], pointer, offset + 8);
            }
        }
    }

    /// Makes the changes; `flags` are those of the store at TC.
    fn apply(&mut self, edits: &[Edit], flags: i64) {
        if self.hook.is_skb() {
            for edit in edits {
                self.apply_skb(edit, flags);
            }
        } else {
            self.apply_xdp(edits);
        }
    }

    /// An offset as the helpers take it.
    fn offset(&mut self, at: At) -> Value {
        self.b.ins().iadd_imm_s(at.base, at.offset)
    }

    fn apply_skb(&mut self, edit: &Edit, flags: i64) {
        let (at, _) = edit.place();
        let at = self.offset(at);
        match edit {
            Edit::Bytes { new, .. } => {
                let room = self.memory_slot(new.bytes);
                self.put(room, 0, new);
                let (n, flags) = (self.int(i64::from(new.bytes)), self.int(flags));
                self.helper(helper::SKB_STORE_BYTES, &[self.ctx, at, room, n, flags]);
            }
            Edit::Sum {
                old,
                new,
                of: Sum::Network,
                ..
            } => {
                let size = self.int(i64::from(new.bytes));
                self.helper(helper::L3_CSUM_REPLACE, &[self.ctx, at, old.words[0], new.words[0], size]);
            }
            Edit::Sum { old, new, of, .. } => {
                let mangled = if matches!(of, Sum::Udp(_)) { MANGLED_0 } else { 0 };
                let flags = self.int(mangled | i64::from(new.bytes));
                self.helper(helper::L4_CSUM_REPLACE, &[self.ctx, at, old.words[0], new.words[0], flags]);
            }
        }
    }

    /// All of it by pointers where the first buffer has the bytes, else all of it by helpers.
    fn apply_xdp(&mut self, edits: &[Edit]) {
        let (slow, done) = (self.b.create_block(), self.b.create_block());
        let (data, end) = self.linear();
        let mut pointers: Vec<(Value, Value)> = Vec::new();
        for edit in edits {
            let (at, _) = edit.place();
            if pointers.iter().any(|(base, _)| *base == at.base) {
                continue;
            }
            // One check for everything with this base.
            let ends = edits.iter().map(Edit::place).filter(|(a, _)| a.base == at.base);
            let most = ends.map(|(a, bytes)| a.offset + bytes).max().unwrap_or(0);
            let masked = self.bits(at.base, 0, MAX_PLACE);
            let pointer = self.b.ins().iadd(data, masked);
            let pointer = self.pin(pointer);
            let limit = self.b.ins().iadd_imm_s(pointer, most);
            let cut = self.b.ins().icmp(IntCC::UnsignedGreaterThan, limit, end);
            let go = self.b.create_block();
            self.b.ins().brif(cut, slow, &[], go, &[]);
            self.b.switch_to_block(go);
            pointers.push((at.base, pointer));
        }
        for edit in edits {
            let (at, _) = edit.place();
            if let Some((_, pointer)) = pointers.iter().find(|(base, _)| *base == at.base) {
                self.change(edit, *pointer, i32::try_from(at.offset).unwrap_or(0));
            }
        }
        self.b.ins().jump(done, &[]);
        self.b.switch_to_block(slow);
        self.b.set_cold_block(slow);
        if self.in_card {
            self.b.ins().jump(done, &[]);
            self.b.switch_to_block(done);
            return;
        }
        let room = self.memory_slot(16);
        for edit in edits {
            let (at, bytes) = edit.place();
            let at = self.offset(at);
            let n = self.int(bytes);
            match edit {
                Edit::Bytes { new, .. } => {
                    self.put(room, 0, new);
                    self.helper(helper::XDP_STORE_BYTES, &[self.ctx, at, room, n]);
                }
                Edit::Sum { .. } => {
                    let result = self.copy_bytes(at, room, n);
                    let (read, next) = (self.b.create_block(), self.b.create_block());
                    self.b.ins().brif(result, next, &[], read, &[]);
                    self.b.switch_to_block(read);
                    self.change(edit, room, 0);
                    self.helper(helper::XDP_STORE_BYTES, &[self.ctx, at, room, n]);
                    self.b.ins().jump(next, &[]);
                    self.b.switch_to_block(next);
                }
            }
        }
        self.b.ins().jump(done, &[]);
        self.b.switch_to_block(done);
    }

    /// Makes one change at an address.
    fn change(&mut self, edit: &Edit, pointer: Value, offset: i32) {
        match edit {
            Edit::Bytes { new, .. } => self.put(pointer, offset, new),
            Edit::Sum { old, new, of, .. } => {
                let sum = self.load(pointer, offset, 2);
                let changed = self.updated_sum(sum, old, new);
                let result = match of {
                    Sum::Udp(is_udp) => {
                        let changed = self.bits(changed, 0, 0xffff);
                        let zero = self.compare_imm(IntCC::Equal, changed, 0);
                        let zero = self.b.ins().band(zero, *is_udp);
                        let all = self.int(0xffff);
                        let changed = self.b.ins().select(zero, all, changed);
                        let none = self.compare_imm(IntCC::Equal, sum, 0);
                        let none = self.b.ins().band(none, *is_udp);
                        self.b.ins().select(none, sum, changed)
                    }
                    _ => changed,
                };
                let result = self.b.ins().ireduce(I16, result);
                self.b.ins().store(plain(), result, pointer, offset);
            }
        }
    }

    /// RFC 1624, equation 3: the complement of the old checksum, of what goes, and what comes, added up.
    /// Only the lowest 16 bits of what it returns are the checksum.
    fn updated_sum(&mut self, sum: Value, old: &Raw, new: &Raw) -> Value {
        let mut total = self.complement(sum, 2);
        for (goes, comes) in old.words.iter().zip(&new.words) {
            if old.bytes <= 4 {
                let goes = self.complement(*goes, old.bytes);
                total = self.b.ins().iadd(total, goes);
                total = self.b.ins().iadd(total, *comes);
                continue;
            }
            for shift in [0, 32] {
                let goes = self.bits(*goes, shift, 0xffff_ffff);
                let goes = self.complement(goes, 4);
                let comes = self.bits(*comes, shift, 0xffff_ffff);
                total = self.b.ins().iadd(total, goes);
                total = self.b.ins().iadd(total, comes);
            }
        }
        if old.bytes > 2 {
            let high = self.b.ins().ushr_imm_s(total, 32);
            let low = self.bits(total, 0, 0xffff_ffff);
            total = self.b.ins().iadd(high, low);
            let high = self.b.ins().ushr_imm_s(total, 16);
            let low = self.bits(total, 0, 0xffff);
            total = self.b.ins().iadd(high, low);
        }
        let high = self.b.ins().ushr_imm_s(total, 16);
        let low = self.bits(total, 0, 0xffff);
        total = self.b.ins().iadd(high, low);
        // What this carries is at most 1; above it, only the low half counts.
        let high = self.b.ins().ushr_imm_s(total, 16);
        total = self.b.ins().iadd(total, high);
        let all = self.int(0xffff);
        let sum = self.b.ins().bxor(total, all);
        // Else the optimiser adds it up once more in 16 bits.
        self.pin(sum)
    }

    /// A number of two bytes has no others set.
    fn complement(&mut self, n: Value, bytes: u32) -> Value {
        let mask = self.int(if bytes == 2 { 0xffff } else { 0xffff_ffff });
        let n = self.b.ins().bxor(n, mask);
        if bytes == 2 { n } else { self.b.ins().band(n, mask) }
    }

    /// Changes a part of the outer tag, in the frame or beside it.
    fn write_tag(&mut self, places: Places, field: usize, value: &Val, shift: i8, mask: u64) {
        let n = self.as_int(value);
        let n = self.bits(n, 0, mask);
        let new_part = self.bits(n, -shift, u64::MAX);
        let at = self.place(places.tag);
        let (in_frame, beside, done) = (self.b.create_block(), self.b.create_block(), self.b.create_block());
        self.b.ins().brif(at, in_frame, &[], beside, &[]);
        self.b.switch_to_block(in_frame);
        let room = self.memory_slot(8);
        let two = self.int(2);
        let result = self.copy_bytes(at, room, two);
        let at = At { base: at, offset: 0 };
        let good = self.b.create_block();
        self.b.ins().brif(result, done, &[], good, &[]);
        self.b.switch_to_block(good);
        let tci = self.big_endian(room, 0, 2);
        let rest = self.bits(tci, 0, !(mask << shift));
        let tci = self.b.ins().bor(rest, new_part);
        let new = self.raw(tci, 2);
        self.apply(&[Edit::Bytes { at, new }], RECOMPUTE);
        self.hold(field, &[n]);
        self.b.ins().jump(done, &[]);
        self.b.switch_to_block(beside);
        if self.hook.is_skb() {
            let tci = self.load(self.ctx, skb::VLAN_TCI, 4);
            let protocol = self.load(self.ctx, skb::VLAN_PROTO, 4);
            let rest = self.bits(tci, 0, 0xffff & !(mask << shift));
            let tci = self.b.ins().bor(rest, new_part);
            self.helper(helper::SKB_VLAN_POP, &[self.ctx]);
            self.helper(helper::SKB_VLAN_PUSH, &[self.ctx, protocol, tci]);
            self.hold(field, &[n]);
        }
        self.b.ins().jump(done, &[]);
        self.b.switch_to_block(done);
    }

    /// Leaves a number before the packet, with the magic that says it is ours.
    fn write_meta(&mut self, n: Value, span: Span) {
        let (have, make, made, none, store, done) = (
            self.b.create_block(),
            self.b.create_block(),
            self.b.create_block(),
            self.b.create_block(),
            self.b.create_block(),
            self.b.create_block(),
        );
        let place = self.b.append_block_param(store, I64);
        // Written before, by an earlier statement?
        let meta = self.load(self.ctx, xdp::DATA_META, 4);
        let data = self.load(self.ctx, xdp::DATA, 4);
        let limit = self.b.ins().iadd_imm_s(meta, META_BYTES);
        let cut = self.b.ins().icmp(IntCC::UnsignedGreaterThan, limit, data);
        self.b.ins().brif(cut, make, &[], have, &[]);
        self.b.switch_to_block(have);
        let magic = self.load(meta, 0, 4);
        let ours = self.compare_imm(IntCC::Equal, magic, META_MAGIC);
        let args = [BlockArg::Value(meta)];
        self.b.ins().brif(ours, store, &args, make, &[]);
        self.b.switch_to_block(make);
        let by = self.int(-META_BYTES);
        let result = self.helper(helper::XDP_ADJUST_META, &[self.ctx, by]);
        self.b.ins().brif(result, none, &[], made, &[]);
        self.b.switch_to_block(made);
        let meta = self.load(self.ctx, xdp::DATA_META, 4);
        let data = self.load(self.ctx, xdp::DATA, 4);
        let limit = self.b.ins().iadd_imm_s(meta, META_BYTES);
        let cut = self.b.ins().icmp(IntCC::UnsignedGreaterThan, limit, data);
        let args = [BlockArg::Value(meta)];
        self.b.ins().brif(cut, none, &[], store, &args);
        self.b.switch_to_block(none);
        self.b.set_cold_block(none);
        self.count(CounterSpec::NoMetadata { span });
        self.b.ins().jump(done, &[]);
        self.b.switch_to_block(store);
        let magic = self.int(META_MAGIC);
        let magic = self.b.ins().ireduce(I32, magic);
        self.b.ins().store(plain(), magic, place, 0);
        let short = self.b.ins().ireduce(I32, n);
        self.b.ins().store(plain(), short, place, 4);
        self.b.ins().jump(done, &[]);
        self.b.switch_to_block(done);
    }

    /// The number of a device that the script names, 0 while there is none.
    pub fn device(&mut self, name: &str, span: Span) -> Value {
        let (map, number) = self.plan.device(self.index, name, span);
        let key = self.index_slot();
        let index = self.b.ins().iconst(I32, i64::try_from(number).unwrap_or(0));
        self.b.ins().store(plain(), index, key, 0);
        let map = self.map_address(map);
        let entry = self.helper(helper::MAP_LOOKUP_ELEM, &[map, key]);
        let (some, done) = (self.b.create_block(), self.b.create_block());
        let result = self.b.append_block_param(done, I64);
        let zero = self.int(0);
        let none = [BlockArg::Value(zero)];
        self.b.ins().brif(entry, some, &[], done, &none);
        self.b.switch_to_block(some);
        let entry = self.pin(entry);
        let n = self.load(entry, 0, 4);
        self.b.ins().jump(done, &[BlockArg::Value(n)]);
        self.b.switch_to_block(done);
        result
    }
}
