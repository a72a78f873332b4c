//! The DNS message behind a UDP or TCP header on port 53 (RFC 1035, section 4).
//!
//! The first question is copied out; its labels are walked in place, dots put between them, then the name goes to the
//! field's room. A name that is cut off, compressed or too long is absent, the header's fields are there all the same.

use super::{Demand, FieldKind};
use crate::clif::value::Room;
use crate::clif::{Generator, plain};
use crate::tables::{FIELDS, Header, NAME_BYTES, Parsed, helper};
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{I8, I64};
use cranelift_codegen::ir::{Block, BlockArg, InstBuilder, Value};

const HEADER_BYTES: i64 = 12;
/// The longest name, type and class.
const QUESTION_BYTES: u32 = 255 + 4;
/// The labels start one byte before a whole word, so that the text behind the first length is aligned.
const START: i32 = 7;
/// Positions are masked so that the verifier sees where they end.
const POSITION_MASK: u64 = 511;
/// More labels do not fit in a name.
const MAX_LABELS: i64 = 128;
const MAX_LABEL_BYTES: i64 = 63;

impl Generator<'_, '_> {
    /// Reads the message at `offset`.
    pub(super) fn dns(&mut self, demand: &Demand, done: Block, offset: Value) {
        let header = self.memory_slot(16);
        let n = self.int(HEADER_BYTES);
        self.only_copied(offset, header, n, done);
        self.set_header(Header::Dns);
        if demand.wants(Parsed::DnsId) {
            let id = self.big_endian(header, 0, 2);
            self.parsed(demand, Parsed::DnsId, &[id]);
        }
        if demand.wants(Parsed::DnsQr) {
            let flags = self.load(header, 2, 1);
            let qr = self.bits(flags, 7, 1);
            self.parsed(demand, Parsed::DnsQr, &[qr]);
        }
        if demand.wants(Parsed::DnsRcode) {
            let flags = self.load(header, 3, 1);
            let rcode = self.bits(flags, 0, 15);
            self.parsed(demand, Parsed::DnsRcode, &[rcode]);
        }
        if demand.wants(Parsed::DnsQname) || demand.wants(Parsed::DnsQtype) {
            let questions = self.load(header, 4, 2);
            let some = self.b.create_block();
            self.b.ins().brif(questions, some, &[], done, &[]);
            self.b.switch_to_block(some);
            let at = self.b.ins().iadd_imm_s(offset, HEADER_BYTES);
            self.question(demand, done, at);
        }
    }

    /// Copies bytes of the packet, or leaves for `done`.
    fn only_copied(&mut self, offset: Value, to: Value, bytes: Value, done: Block) {
        let go = self.b.create_block();
        let result = self.copy_bytes(offset, to, bytes);
        self.b.ins().brif(result, done, &[], go, &[]);
        self.b.switch_to_block(go);
    }

    fn question(&mut self, demand: &Demand, done: Block, at: Value) {
        // Type and class are behind the last label, wherever the mask lets that be.
        let room = self.scratch_slot(8 + bounded_by(QUESTION_BYTES) + 8);
        let whole = self.packet_len();
        let rest = self.b.ins().isub(whole, at);
        let most = self.int(i64::from(QUESTION_BYTES));
        let some = self.b.create_block();
        let c = self.compare_imm(IntCC::SignedGreaterThan, rest, 0);
        self.b.ins().brif(c, some, &[], done, &[]);
        self.b.switch_to_block(some);
        let n = self.b.ins().umin(rest, most);
        let n = self.bounded(n, QUESTION_BYTES);
        let labels = self.b.ins().iadd_imm_s(room, i64::from(START));
        self.only_copied(at, labels, n, done);
        // Walks the labels: each starts with its length, the last has none.
        let head = self.b.create_block();
        let position = self.b.append_block_param(head, I64);
        let count = self.b.append_block_param(head, I64);
        let zero = self.int(0);
        self.b.ins().jump(head, &[BlockArg::Value(zero), BlockArg::Value(zero)]);
        self.b.switch_to_block(head);
        let (label, walk, step, end) = (
            self.b.create_block(),
            self.b.create_block(),
            self.b.create_block(),
            self.b.create_block(),
        );
        let more = self.compare_imm(IntCC::UnsignedLessThan, count, MAX_LABELS);
        self.b.ins().brif(more, label, &[], done, &[]);
        self.b.switch_to_block(label);
        let masked = self.bits(position, 0, POSITION_MASK);
        let pointer = self.b.ins().iadd(room, masked);
        let pointer = self.pin(pointer);
        let length = self.load(pointer, START, 1);
        self.b.ins().brif(length, walk, &[], end, &[]);
        self.b.switch_to_block(walk);
        let plain_label = self.compare_imm(IntCC::UnsignedLessThanOrEqual, length, MAX_LABEL_BYTES);
        self.b.ins().brif(plain_label, step, &[], done, &[]);
        self.b.switch_to_block(step);
        let dot = self.b.ins().iconst(I8, i64::from(b'.'));
        self.b.ins().store(plain(), dot, pointer, START);
        let next = self.b.ins().iadd(masked, length);
        let next = self.b.ins().iadd_imm_s(next, 1);
        let count = self.b.ins().iadd_imm_s(count, 1);
        let inside = self.b.ins().icmp(IntCC::UnsignedLessThan, next, n);
        self.b
            .ins()
            .brif(inside, head, &[BlockArg::Value(next), BlockArg::Value(count)], done, &[]);
        self.b.switch_to_block(end);
        self.name(demand, room, masked);
        if demand.wants(Parsed::DnsQtype) {
            let behind = self.b.ins().iadd_imm_s(masked, 3);
            let whole = self.b.create_block();
            let c = self.b.ins().icmp(IntCC::UnsignedLessThanOrEqual, behind, n);
            self.b.ins().brif(c, whole, &[], done, &[]);
            self.b.switch_to_block(whole);
            let high = self.load(pointer, START + 1, 1);
            let low = self.load(pointer, START + 2, 1);
            let high = self.b.ins().ishl_imm_s(high, 8);
            let qtype = self.b.ins().bor(high, low);
            self.parsed(demand, Parsed::DnsQtype, &[qtype]);
        }
    }

    /// Puts the name, whose labels end at `end`, into the field's room.
    fn name(&mut self, demand: &Demand, room: Value, end: Value) {
        let field = demand
            .fields
            .iter()
            .copied()
            .find(|f| FIELDS[*f].kind == FieldKind::Parsed(Parsed::DnsQname));
        let Some(field) = field else { return };
        let Some(Room::Frame(at)) = self.fields.get(&field).and_then(|s| s.memory) else {
            return;
        };
        let to = self.room(Room::Frame(at));
        self.zero(to, 0, NAME_BYTES);
        let (root, text, named) = (self.b.create_block(), self.b.create_block(), self.b.create_block());
        self.b.ins().brif(end, text, &[], root, &[]);
        self.b.switch_to_block(root);
        let dot = self.b.ins().iconst(I8, i64::from(b'.'));
        self.b.ins().store(plain(), dot, to, 0);
        self.b.ins().jump(named, &[]);
        self.b.switch_to_block(text);
        let n = self.b.ins().iadd_imm_s(end, -1);
        let n = self.bits(n, 0, 0xff);
        let n = self.pin(n);
        let from = self.b.ins().iadd_imm_s(room, i64::from(START) + 1);
        self.helper(helper::PROBE_READ_KERNEL, &[to, n, from]);
        self.b.ins().jump(named, &[]);
        self.b.switch_to_block(named);
        self.set_field(field, &[]);
    }

    /// Tells the verifier the bounds of a number that is at least 1 and at most `most` anyway. What it learns is 1 to
    /// [`bounded_by`]`(most)`: by arithmetic, because old kernels forget the bound of a comparison where the compared
    /// copy is not the one that is used (before 6.8 `n != 0` teaches nothing, and a spilled number without bounds
    /// comes back as another).
    pub(super) fn bounded(&mut self, n: Value, most: u32) -> Value {
        let n = self.pin(n);
        let n = self.b.ins().iadd_imm_s(n, -1);
        let n = self.bits(n, 0, u64::from(bounded_by(most)) - 1);
        let n = self.b.ins().iadd_imm_s(n, 1);
        self.pin(n)
    }
}

/// The bound that the verifier knows of [`Generator::bounded`]: what is copied needs so much room.
pub(super) const fn bounded_by(most: u32) -> u32 {
    most.next_power_of_two()
}
