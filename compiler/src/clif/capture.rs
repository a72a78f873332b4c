//! `capture`: the packet goes to user space once, when its verdict is known.
//!
//! A `capture` only notes how many bytes are wanted. The record is made at the program's exit, which every verdict passes,
//! so it holds what the packet has become and what happens to it, however many blocks asked for it.

use super::packet::skb;
use super::{Generator, plain};
use crate::hir::visit;
use crate::object::{CounterSpec, EventAction, EventSpec, MapKind, MapRole, MapSpec, capture};
use crate::tables::{Hook, helper};
use cranelift_codegen::ir::types::{I32, I64};
use cranelift_codegen::ir::{InstBuilder, Value};
use cranelift_frontend::Variable;
use weir_parser::Span;

/// Where the number of wanted bytes is kept while the program runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    place: Place,
    /// The largest number that any `capture` of the program asks for.
    most: u32,
    /// The first `capture`, for messages; the program's when it is in a loop.
    span: Option<Span>,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    Variable(Variable),
    /// In working memory, where the bodies of loops reach it.
    Frame(u32),
}

/// Offsets in `struct xdp_md` and `struct __sk_buff`.
const XDP_IFINDEX: i32 = 12;
const SKB_LEN: i32 = 0;

fn at(offset: u32) -> i32 {
    i32::try_from(offset).unwrap_or(0)
}

impl Generator<'_, '_> {
    /// Nothing is wanted yet. Comes before everything that can leave the program.
    pub fn start_capture(&mut self) {
        if self.in_card {
            return;
        }
        let blocks = &self.plan.programs[self.index].blocks;
        let Some(most) = blocks.iter().filter_map(|b| visit::capture_bytes(&self.hir.blocks[*b])).max() else {
            return;
        };
        let place = if self.has_loops {
            Place::Frame(self.frame_room(8))
        } else {
            Place::Variable(self.b.declare_var(I64))
        };
        self.capture = Some(Wish { place, most, span: None });
        let zero = self.int(0);
        self.set_wish(place, zero);
    }

    fn set_wish(&mut self, place: Place, value: Value) {
        match place {
            Place::Variable(var) => self.b.def_var(var, value),
            Place::Frame(offset) => {
                let frame = self.memory.frame();
                self.b.ins().store(plain(), value, frame, at(offset));
            }
        }
    }

    fn wish(&mut self, place: Place) -> Value {
        match place {
            Place::Variable(var) => self.b.use_var(var),
            Place::Frame(offset) => {
                let frame = self.memory.frame();
                self.b.ins().load(I64, plain(), frame, at(offset))
            }
        }
    }

    /// One `capture(bytes)`.
    pub fn want_capture(&mut self, bytes: u32, span: Span) {
        self.card_lacks_ring(span, "`capture`");
        let Some(wish) = &mut self.capture else { return };
        wish.span.get_or_insert(span);
        let place = wish.place;
        let old = self.wish(place);
        let bytes = self.int(i64::from(bytes));
        let new = self.b.ins().umax(old, bytes);
        self.set_wish(place, new);
    }

    /// At the exit: sends the packet if anything asked for it.
    pub fn send_capture(&mut self, verdict: Value) {
        let Some(Wish { place, most, span }) = self.capture else { return };
        let program = self.index;
        let name = self.plan.programs[program].name.clone();
        let span = span.unwrap_or(self.plan.programs[program].span);
        let (work, some, send, lost, done) = (
            self.b.create_block(),
            self.b.create_block(),
            self.b.create_block(),
            self.b.create_block(),
            self.b.create_block(),
        );
        let wanted = self.wish(place);
        self.b.ins().brif(wanted, work, &[], done, &[]);
        self.b.switch_to_block(work);
        let map = self.plan.map(MapSpec {
            name: format!("capture_{name}"),
            kind: MapKind::PerCpuArray,
            key_size: 4,
            value_size: capture::HEADER_BYTES + most.next_multiple_of(8),
            max_entries: 1,
            flags: 0,
            role: MapRole::Scratch,
        });
        let record = self.array_element(map, 0);
        self.b.ins().brif(record, some, &[], done, &[]);
        self.b.switch_to_block(some);
        let record = self.pin(record);
        let tc = self.hook == Hook::Tc;
        let length = if tc {
            self.load(self.ctx, SKB_LEN, 4)
        } else {
            self.helper(helper::XDP_GET_BUFF_LEN, &[self.ctx])
        };
        let n = self.b.ins().umin(length, wanted);
        // The verifier does not know how much was wished for.
        let limit = self.int(i64::from(most));
        let n = self.b.ins().umin(n, limit);
        let n = self.pin(n);
        let copy = self.b.create_block();
        self.b.ins().brif(n, copy, &[], done, &[]);
        self.b.switch_to_block(copy);
        let id = self.capture_event(program, capture::HEADER_BYTES + most, span);
        let header = self.int(id);
        self.b.ins().store(plain(), header, record, 0);
        self.b.ins().store(plain(), verdict, record, at(capture::VERDICT));
        let length = self.b.ins().ireduce(I32, length);
        self.b.ins().store(plain(), length, record, at(capture::LENGTH));
        let captured = self.b.ins().ireduce(I32, n);
        self.b.ins().store(plain(), captured, record, at(capture::CAPTURED));
        let ifindex = self.load(self.ctx, if tc { skb::IFINDEX } else { XDP_IFINDEX }, 4);
        self.b.ins().store(plain(), ifindex, record, at(capture::IFINDEX));
        let now = self.helper(helper::KTIME_GET_NS, &[]);
        self.b.ins().store(plain(), now, record, at(capture::TIME));
        let tag = [
            (skb::VLAN_PRESENT, capture::TAGGED),
            (skb::VLAN_TCI, capture::TAG),
            (skb::VLAN_PROTO, capture::TAG_TYPE),
        ];
        for (from, to) in tag {
            let value = if tc { self.load(self.ctx, from, 4) } else { self.int(0) };
            let value = self.b.ins().ireduce(I32, value);
            self.b.ins().store(plain(), value, record, at(to));
        }
        let bytes = self.b.ins().iadd_imm_s(record, i64::from(capture::HEADER_BYTES));
        let load = if tc { helper::SKB_LOAD_BYTES } else { helper::XDP_LOAD_BYTES };
        // Before Linux 6.8 the verifier learns nothing about the least value from `n != 0`.
        let one = self.int(1);
        let n = self.b.ins().umax(n, one);
        let n = self.pin(n);
        let zero = self.int(0);
        let failed = self.helper(load, &[self.ctx, zero, bytes, n]);
        self.b.ins().brif(failed, lost, &[], send, &[]);
        self.b.switch_to_block(send);
        let ring = self.plan.ring(true);
        let ring = self.map_address(ring);
        let size = self.b.ins().iadd_imm_s(n, i64::from(capture::HEADER_BYTES));
        let zero = self.int(0);
        let failed = self.helper(helper::RINGBUF_OUTPUT, &[ring, record, size, zero]);
        self.b.ins().brif(failed, lost, &[], done, &[]);
        self.b.switch_to_block(lost);
        self.b.set_cold_block(lost);
        self.count(CounterSpec::LostCaptures);
        self.b.ins().jump(done, &[]);
        self.b.switch_to_block(done);
    }

    fn capture_event(&mut self, program: usize, size: u32, span: Span) -> i64 {
        let events = &mut self.plan.events;
        events.push(EventSpec {
            action: EventAction::Capture { program },
            size,
            span,
        });
        i64::try_from(events.len() - 1).unwrap_or(0)
    }
}
