//! What the kernel knows: stacks, clocks, plain helper calls; and the limiter of rates.

use super::value::{Repr, Val};
use super::{Generator, plain};
use crate::hir::{Expr, Stmt};
use crate::object::{CounterSpec, MapKind, MapRole, MapSpec};
use crate::tables::helper;
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{I32, I64};
use cranelift_codegen::ir::{InstBuilder, Value};
use weir_parser::Span;

/// Stacks that are told apart at most.
const MAX_STACKS: u32 = 8192;
/// `BPF_F_USER_STACK`
const USER_STACK: i64 = 1 << 8;
/// `BPF_F_STACK_BUILD_ID`
const STACK_BUILD_ID: u32 = 1 << 5;
/// Size of a `struct bpf_stack_build_id`.
const BUILD_ID_BYTES: u32 = 32;

impl<'h> Generator<'_, 'h> {
    /// The id of the stack in the low half, the process in the high half for a user stack.
    pub fn stack(&mut self, user: bool, depth: u32, build_id: bool) -> Val {
        let map = self.plan.map(MapSpec {
            name: format!("weir_{}_{depth}", if build_id { "build_ids" } else { "stacks" }),
            kind: MapKind::StackTrace,
            key_size: 4,
            value_size: depth * if build_id { BUILD_ID_BYTES } else { 8 },
            max_entries: MAX_STACKS,
            flags: if build_id { STACK_BUILD_ID } else { 0 },
            role: MapRole::Stacks,
        });
        let (ctx, address) = (self.ctx, self.map_address(map));
        let flags = self.int(if user { USER_STACK } else { 0 });
        let id = self.helper(helper::GET_STACKID, &[ctx, address, flags]);
        let id = self.b.ins().ireduce(I32, id);
        let mut id = self.b.ins().uextend(I64, id);
        if user {
            let both = self.helper(helper::GET_CURRENT_PID_TGID, &[]);
            let mask = self.int(0xffff_ffff_0000_0000_u64.cast_signed());
            let pid = self.b.ins().band(both, mask);
            id = self.b.ins().bor(id, pid);
        }
        Val::int(id)
    }

    /// How many bytes the addresses of the stack take.
    pub fn stack_bytes(&mut self, user: bool, depth: u32) -> Val {
        let size = depth * 8;
        let to = self.scratch_slot(size);
        let (ctx, bytes) = (self.ctx, self.int(i64::from(size)));
        let flags = self.int(if user { USER_STACK } else { 0 });
        let n = self.helper(helper::GET_STACK, &[ctx, to, bytes, flags]);
        let zero = self.int(0);
        let failed = self.compare_imm(IntCC::SignedLessThan, n, 0);
        Val::int(self.b.ins().select(failed, zero, n))
    }

    /// A helper that writes into memory: its arguments, then where and how much.
    pub fn fill_call(&mut self, number: u32, size: u32, args: &'h [Expr]) -> Val {
        let mut present = None;
        let mut values = Vec::new();
        for arg in args {
            let value = self.expr(arg);
            present = self.both(present, value.present);
            values.push(self.as_int(&value));
        }
        let to = self.memory_slot(size);
        self.zero(to, 0, size.next_multiple_of(8));
        values.extend([to, self.int(i64::from(size))]);
        self.when(present, |g| {
            g.helper(number, &values);
        });
        Val {
            repr: Repr::Mem {
                pointer: to,
                size: size.next_multiple_of(8),
            },
            present,
        }
    }

    /// A helper that reads a value from memory: its arguments, then where and how much.
    pub fn give_call(&mut self, number: u32, args: &'h [Expr], value: &'h Expr, size: u32) -> Val {
        let mut present = None;
        let mut values = Vec::new();
        for arg in args {
            let value = self.expr(arg);
            present = self.both(present, value.present);
            values.push(self.as_int(&value));
        }
        let value = self.expr(value);
        let present = self.both(present, value.present);
        let from = match value.repr {
            Repr::Mem { pointer, .. } => pointer,
            _ => {
                let slot = self.memory_slot(8);
                let n = self.as_int(&value);
                self.b.ins().store(plain(), n, slot, 0);
                slot
            }
        };
        values.extend([from, self.int(i64::from(size))]);
        let result = self.b.declare_var(I64);
        let zero = self.int(0);
        self.b.def_var(result, zero);
        self.when(present, |g| {
            let n = g.helper(number, &values);
            g.b.def_var(result, n);
        });
        Val {
            repr: Repr::Int(self.b.use_var(result)),
            present,
        }
    }

    pub fn elapsed(&mut self) -> Val {
        let map = self.plan.map(MapSpec {
            name: "weir_started".to_owned(),
            kind: MapKind::Array,
            key_size: 4,
            value_size: 8,
            max_entries: 1,
            flags: 0,
            role: MapRole::Started,
        });
        let pointer = self.array_element(map, 0);
        let result = self.b.declare_var(I64);
        let zero = self.int(0);
        self.b.def_var(result, zero);
        let (some, done) = (self.b.create_block(), self.b.create_block());
        self.b.ins().brif(pointer, some, &[], done, &[]);
        self.b.switch_to_block(some);
        let pointer = self.pin(pointer);
        let started = self.b.ins().load(I64, plain(), pointer, 0);
        let now = self.helper(helper::KTIME_GET_BOOT_NS, &[]);
        let n = self.b.ins().isub(now, started);
        self.b.def_var(result, n);
        self.b.ins().jump(done, &[]);
        self.b.switch_to_block(done);
        Val::int(self.b.use_var(result))
    }

    /// Address of an array's element, or null.
    pub fn array_element(&mut self, map: usize, index: u32) -> Value {
        let key = self.index_slot();
        let index = self.b.ins().iconst(I32, i64::from(index));
        self.b.ins().store(plain(), index, key, 0);
        let map = self.map_address(map);
        self.helper(helper::MAP_LOOKUP_ELEM, &[map, key])
    }

    pub fn helper_call(&mut self, number: u32, args: &'h [Expr]) -> Val {
        let mut present = None;
        let mut values = Vec::new();
        for arg in args {
            // The one helper that takes a socket wants the pointer as the kernel gave it, not a copy.
            if number == helper::GET_SOCKET_COOKIE
                && let Some(pointer) = self.typed_address(arg)
            {
                values.push(pointer);
                continue;
            }
            let value = self.expr(arg);
            present = self.both(present, value.present);
            values.push(self.as_int(&value));
        }
        let result = self.b.declare_var(I64);
        let zero = self.int(0);
        self.b.def_var(result, zero);
        self.when(present, |g| {
            let n = g.helper(number, &values);
            g.b.def_var(result, n);
        });
        Val {
            repr: Repr::Int(self.b.use_var(result)),
            present,
        }
    }

    /// A token bucket for each CPU: its share of the rate, counted in nanoseconds of credit.
    pub fn limit(&mut self, number: u32, rate: u64, per: u64, body: &'h [Stmt], span: Span) {
        if self.in_card {
            let why = || "`limit` shares its rate among processors by the clock, and a card has neither".to_owned();
            return self.card_lacks(span, why);
        }
        let cpus = u64::from(self.hir.cpus.max(1));
        let cost = i64::try_from(per.saturating_mul(cpus) / rate.max(1)).unwrap_or(i64::MAX).max(1);
        let most = i64::try_from(per).unwrap_or(i64::MAX).max(cost);
        let map = self.plan.map(MapSpec {
            name: format!("weir_limit_{number}"),
            kind: MapKind::PerCpuArray,
            key_size: 4,
            value_size: 16,
            max_entries: 1,
            flags: 0,
            role: MapRole::Scratch,
        });
        // Two words: the time of the last look, the credit then.
        let state = self.array_element(map, 0);
        let (some, over, go, done) = (
            self.b.create_block(),
            self.b.create_block(),
            self.b.create_block(),
            self.b.create_block(),
        );
        self.b.ins().brif(state, some, &[], done, &[]);
        self.b.switch_to_block(some);
        let state = self.pin(state);
        let now = self.helper(helper::KTIME_GET_NS, &[]);
        let last = self.b.ins().load(I64, plain(), state, 0);
        let credit = self.b.ins().load(I64, plain(), state, 8);
        // The first look finds the time 0: the bucket is full, however short ago the machine was started.
        let gained = self.b.ins().isub(now, last);
        let most = self.int(most);
        let first = self.compare_imm(IntCC::Equal, last, 0);
        let gained = self.b.ins().select(first, most, gained);
        let credit = self.b.ins().iadd(credit, gained);
        let credit = self.b.ins().umin(credit, most);
        self.b.ins().store(plain(), now, state, 0);
        let cost = self.int(cost);
        let left = self.b.ins().isub(credit, cost);
        let enough = self.b.ins().icmp(IntCC::UnsignedGreaterThanOrEqual, credit, cost);
        let new = self.b.ins().select(enough, left, credit);
        self.b.ins().store(plain(), new, state, 8);
        self.b.ins().brif(enough, go, &[], over, &[]);
        self.b.switch_to_block(over);
        self.count(CounterSpec::Limited { span });
        self.b.ins().jump(done, &[]);
        self.b.switch_to_block(go);
        self.statements(body);
        self.b.ins().jump(done, &[]);
        self.b.switch_to_block(done);
    }
}
