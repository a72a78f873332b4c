//! Map operations.

use super::value::{Repr, Val};
use super::{Generator, card, plain};
use crate::hir::{Expr, MapValueTy};
use crate::object::{AttachPoint, CounterSpec, EventAction, HelperCall, MapKind, MapRole, MapSpec};
use crate::tables::{AggKind, helper};
use crate::types::{MapValue, Series, Type};
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{I8, I32, I64};
use cranelift_codegen::ir::{AtomicRmwOp, BlockArg, InstBuilder, Value};

/// `BPF_NOEXIST`
const NO_EXIST: i64 = 1;

impl<'h> Generator<'_, 'h> {
    /// Key and value type of one of the script's maps.
    fn map_types(&self, map: usize) -> (Option<Type>, MapValue) {
        match &self.plan.maps[map].role {
            MapRole::User { key, value, .. } => (key.clone(), value.clone()),
            MapRole::Copy { key, value, .. } => (Some(key.clone()), value.clone()),
            _ => (None, MapValue::Count),
        }
    }

    /// Puts the key into memory. Returns its address and whether all of it is there.
    pub fn map_key(&mut self, map: usize, key: Option<&'h Expr>) -> (Value, Option<Value>) {
        let (ty, _) = self.map_types(map);
        let (Some(ty), Some(key)) = (ty, key) else {
            let slot = self.index_slot();
            let zero = self.b.ins().iconst(I32, 0);
            self.b.ins().store(plain(), zero, slot, 0);
            return (slot, None);
        };
        let value = self.expr(key);
        // Text that already lies in memory of the right size is the key.
        if let Repr::Mem { pointer, size } = value.repr
            && size == ty.size()
        {
            return (pointer, value.present);
        }
        let slot = self.memory_slot(ty.size());
        self.store_value(&value, &ty, slot, 0);
        (slot, value.present)
    }

    /// Runs `then` where `present` holds.
    pub fn when(&mut self, present: Option<Value>, then: impl FnOnce(&mut Self)) {
        let Some(present) = present else { return then(self) };
        let (yes, done) = (self.b.create_block(), self.b.create_block());
        self.b.ins().brif(present, yes, &[], done, &[]);
        self.b.switch_to_block(yes);
        then(self);
        self.b.ins().jump(done, &[]);
        self.b.switch_to_block(done);
    }

    fn lookup(&mut self, map: usize, key: Value) -> Value {
        let map = self.map_address(map);
        self.helper(helper::MAP_LOOKUP_ELEM, &[map, key])
    }

    /// Finds the entry, making it with zeros if it is missing, and runs `then` with its address.
    /// A full map is counted.
    fn with_entry(&mut self, map: usize, key: Value, then: impl FnOnce(&mut Self, Value)) {
        let scalar = self.map_types(map).0.is_none();
        let (found, miss, done) = (self.b.create_block(), self.b.create_block(), self.b.create_block());
        let entry = self.b.append_block_param(found, I64);
        let first = self.lookup(map, key);
        self.b.ins().brif(first, found, &[BlockArg::Value(first)], miss, &[]);
        self.b.switch_to_block(miss);
        if scalar {
            // An array's element is always there.
            self.b.ins().jump(done, &[]);
        } else {
            let size = self.plan.maps[map].value_size;
            let zeros = self.zeros(size);
            let address = self.map_address(map);
            let flags = self.int(NO_EXIST);
            self.helper(helper::MAP_UPDATE_ELEM, &[address, key, zeros, flags]);
            // Whoever made it, ours or another CPU's, it is there now unless the map is full.
            let second = self.lookup(map, key);
            let full = self.b.create_block();
            self.b.ins().brif(second, found, &[BlockArg::Value(second)], full, &[]);
            self.b.switch_to_block(full);
            self.b.set_cold_block(full);
            let span = self.hir.maps[map].span;
            self.count(CounterSpec::MapFull { map, span });
            self.b.ins().jump(done, &[]);
        }
        self.b.switch_to_block(found);
        let entry = self.pin(entry);
        then(self, entry);
        self.b.ins().jump(done, &[]);
        self.b.switch_to_block(done);
    }

    /// Offset of the word that says a plain scalar was assigned.
    fn set_word(&self, map: usize) -> Option<i32> {
        match self.map_types(map) {
            (None, MapValue::Plain(ty)) => i32::try_from(ty.size().next_multiple_of(8)).ok(),
            _ => None,
        }
    }

    fn mark_set(&mut self, map: usize, entry: Value) {
        if let Some(offset) = self.set_word(map) {
            let one = self.int(1);
            if self.in_card {
                return self.bump(entry, offset, one);
            }
            self.b.ins().store(plain(), one, entry, offset);
        }
    }

    pub fn map_set(&mut self, map: usize, key: Option<&'h Expr>, value: &'h Expr) {
        // The value first: the key of a scalar lies in memory that evaluating the value may use, too.
        let value = self.expr(value);
        let (slot, key_present) = self.map_key(map, key);
        let present = self.both(key_present, value.present);
        let (key_ty, ty) = self.map_types(map);
        let MapValue::Plain(ty) = ty else { return };
        self.when(present, |g| {
            if key_ty.is_none() && !g.in_card {
                return g.with_entry(map, slot, |g, entry| {
                    g.store_value(&value, &ty, entry, 0);
                    g.mark_set(map, entry);
                });
            }
            let size = g.plan.maps[map].value_size;
            let from = g.memory_slot(size);
            if ty.size() < size {
                g.zero(from, 0, size);
            }
            g.store_value(&value, &ty, from, 0);
            if let Some(offset) = g.set_word(map) {
                let one = g.int(1);
                g.b.ins().store(plain(), one, from, offset);
            }
            let address = g.map_address(map);
            let any = g.int(0);
            let result = g.helper(helper::MAP_UPDATE_ELEM, &[address, slot, from, any]);
            if key_ty.is_none() {
                return;
            }
            let (full, done) = (g.b.create_block(), g.b.create_block());
            g.b.ins().brif(result, full, &[], done, &[]);
            g.b.switch_to_block(full);
            g.b.set_cold_block(full);
            let span = g.hir.maps[map].span;
            g.count(CounterSpec::MapFull { map, span });
            g.b.ins().jump(done, &[]);
            g.b.switch_to_block(done);
        });
    }

    /// `@m[k] += n`, atomically. Returns the old value (0 where nothing was added).
    pub fn map_add(&mut self, map: usize, key: Option<&'h Expr>, amount: &Val) -> Val {
        let (slot, key_present) = self.map_key(map, key);
        let present = self.both(key_present, amount.present);
        let n = self.as_int(amount);
        let old = self.b.declare_var(I64);
        let zero = self.int(0);
        self.b.def_var(old, zero);
        self.when(present, |g| {
            g.with_entry(map, slot, |g, entry| {
                let value = g.b.ins().atomic_rmw(I64, plain(), AtomicRmwOp::Add, entry, n);
                g.b.def_var(old, value);
                g.mark_set(map, entry);
            });
        });
        let old = self.b.use_var(old);
        Val {
            repr: Repr::Int(old),
            present,
        }
    }

    /// Reads an entry; a missing one is zero, as in bpftrace.
    pub fn map_get(&mut self, map: usize, key: Option<&'h Expr>) -> Val {
        let (slot, present) = self.map_key(map, key);
        let MapValueTy::Plain(hir_ty) = self.hir.maps[map].value.clone() else {
            return Val::int(slot);
        };
        let Some(ty) = hir_ty.stored() else { return Val::int(slot) };
        // A copy: the entry may change or go while the block still uses the value.
        let copy = self.memory_slot(ty.size());
        self.zero(copy, 0, ty.size());
        let (found, missing, done) = (self.b.create_block(), self.b.create_block(), self.b.create_block());
        let entry = self.lookup(map, slot);
        self.b.ins().brif(entry, found, &[], missing, &[]);
        self.b.switch_to_block(missing);
        self.warn_no_entry(present);
        self.b.ins().jump(done, &[]);
        self.b.switch_to_block(found);
        let entry = self.pin(entry);
        self.copy_text(entry, ty.size().next_multiple_of(8), copy, 0, ty.size().next_multiple_of(8));
        self.b.ins().jump(done, &[]);
        self.b.switch_to_block(done);
        let mut value = self.load_value(&ty, copy, 0);
        value.present = present;
        value
    }

    /// Address of an entry's value, 0 where there is none.
    pub fn map_value_address(&mut self, map: usize, key: Option<&'h Expr>) -> Val {
        let (slot, present) = self.map_key(map, key);
        let address = self.b.declare_var(I64);
        let zero = self.int(0);
        self.b.def_var(address, zero);
        let (found, done) = (self.b.create_block(), self.b.create_block());
        let entry = self.lookup(map, slot);
        self.b.ins().brif(entry, found, &[], done, &[]);
        self.b.switch_to_block(found);
        let entry = self.pin(entry);
        self.b.def_var(address, entry);
        self.b.ins().jump(done, &[]);
        self.b.switch_to_block(done);
        Val {
            repr: Repr::Int(self.b.use_var(address)),
            present,
        }
    }

    /// Whether a constant set has the value.
    pub fn in_map(&mut self, value: &'h Expr, set: usize) -> Val {
        let hir = self.hir;
        let set_map = &hir.sets[set];
        let ty = set_map.ty.stored().unwrap_or(Type::U64);
        let size = ty.size().next_multiple_of(8);
        let map = self.plan.map(MapSpec {
            name: format!("weir_set_{set}{}", if self.in_card { "_card" } else { "" }),
            kind: if set_map.lpm { MapKind::LpmTrie } else { MapKind::Hash },
            key_size: size,
            value_size: 8,
            max_entries: u32::try_from(set_map.keys.len()).unwrap_or(u32::MAX),
            flags: if set_map.lpm { crate::plan::NO_PREALLOC } else { 0 },
            role: MapRole::Set {
                keys: set_map.keys.clone(),
            },
        });
        let mut value = self.expr(value);
        if set_map.lpm
            && let Repr::Words(words) = &mut value.repr
        {
            // All bits count: those of the family and the longest address.
            let family = self.b.ins().ishl_imm_s(words[0], 32);
            words[0] = self.b.ins().iadd_imm_s(family, super::inet::lpm_head(0, 128));
        }
        let slot = self.memory_slot(size);
        if ty == Type::Bool {
            value.repr = Repr::Int(self.as_int(&value));
            self.store_value(&value, &Type::U64, slot, 0);
        } else {
            self.store_value(&value, &ty, slot, 0);
        }
        let entry = self.lookup(map, slot);
        let mut found = self.compare_imm(IntCC::NotEqual, entry, 0);
        if let Some(present) = value.present {
            found = self.b.ins().band(found, present);
        }
        Val::int(self.b.ins().uextend(I64, found))
    }

    /// Reads an aggregation, all CPUs together.
    pub fn map_aggregate(&mut self, map: usize, key: Option<&'h Expr>) -> Val {
        let (slot, present) = self.map_key(map, key);
        // The loop over the CPUs reads the key again and again: it must not lie where anything else writes.
        let own = match self.map_types(map).0 {
            None => {
                let own = self.memory_slot(8);
                let zero = self.int(0);
                self.b.ins().store(plain(), zero, own, 0);
                own
            }
            Some(_) => slot,
        };
        let mut value = self.combine_cpus(map, own);
        value.present = present;
        value
    }

    /// Combines the parts of all CPUs of the entry with this key; 0 where there is none.
    pub fn combine_cpus(&mut self, map: usize, key: Value) -> Val {
        let (_, kind) = self.map_types(map);
        if !self.plan.maps[map].kind.is_per_cpu() {
            return self.only_part(map, key, &kind);
        }
        let cpus = i64::from(self.hir.cpus.max(1));
        let (head, inside, found, next, done) = (
            self.b.create_block(),
            self.b.create_block(),
            self.b.create_block(),
            self.b.create_block(),
            self.b.create_block(),
        );
        let cpu = self.b.append_block_param(head, I64);
        let (first, second) = (self.b.declare_var(I64), self.b.declare_var(I64));
        let zero = self.int(0);
        self.b.def_var(first, zero);
        self.b.def_var(second, zero);
        self.b.ins().jump(head, &[BlockArg::Value(zero)]);
        self.b.switch_to_block(head);
        let more = self.compare_imm(IntCC::UnsignedLessThan, cpu, cpus);
        self.b.ins().brif(more, inside, &[], done, &[]);
        self.b.switch_to_block(inside);
        let address = self.map_address(map);
        let part = self.helper(helper::MAP_LOOKUP_PERCPU_ELEM, &[address, key, cpu]);
        self.b.ins().brif(part, found, &[], next, &[]);
        self.b.switch_to_block(found);
        let part = self.pin(part);
        let word = self.b.ins().load(I64, plain(), part, 0);
        let sofar = self.b.use_var(first);
        match kind {
            MapValue::Min { signed } | MapValue::Max { signed } => {
                let cc = match (matches!(kind, MapValue::Min { .. }), signed) {
                    (true, true) => IntCC::SignedLessThan,
                    (true, false) => IntCC::UnsignedLessThan,
                    (false, true) => IntCC::SignedGreaterThan,
                    (false, false) => IntCC::UnsignedGreaterThan,
                };
                let updates = self.b.ins().load(I64, plain(), part, 8);
                let seen = self.b.use_var(second);
                let fresh = self.compare_imm(IntCC::Equal, seen, 0);
                let better = self.b.ins().icmp(cc, word, sofar);
                let take = self.b.ins().bor(fresh, better);
                let some = self.compare_imm(IntCC::NotEqual, updates, 0);
                let take = self.b.ins().band(take, some);
                let new = self.b.ins().select(take, word, sofar);
                self.b.def_var(first, new);
                let seen = self.b.ins().bor(seen, updates);
                self.b.def_var(second, seen);
            }
            _ => {
                let sum = self.b.ins().iadd(sofar, word);
                self.b.def_var(first, sum);
                if let MapValue::Avg { .. } = kind {
                    let n = self.b.ins().load(I64, plain(), part, 8);
                    let seen = self.b.use_var(second);
                    let n = self.b.ins().iadd(seen, n);
                    self.b.def_var(second, n);
                }
            }
        }
        self.b.ins().jump(next, &[]);
        self.b.switch_to_block(next);
        let cpu = self.b.ins().iadd_imm_s(cpu, 1);
        self.b.ins().jump(head, &[BlockArg::Value(cpu)]);
        self.b.switch_to_block(done);
        let n = self.b.use_var(first);
        let count = self.b.use_var(second);
        Val::int(self.aggregate_value(&kind, n, count))
    }

    /// What an entry that is not divided among CPUs comes to; 0 where there is none.
    fn only_part(&mut self, map: usize, key: Value, kind: &MapValue) -> Val {
        let (first, second) = (self.b.declare_var(I64), self.b.declare_var(I64));
        let zero = self.int(0);
        self.b.def_var(first, zero);
        self.b.def_var(second, zero);
        let (found, done) = (self.b.create_block(), self.b.create_block());
        let entry = self.lookup(map, key);
        self.b.ins().brif(entry, found, &[], done, &[]);
        self.b.switch_to_block(found);
        let entry = self.pin(entry);
        let word = self.b.ins().load(I64, plain(), entry, 0);
        self.b.def_var(first, word);
        if matches!(kind, MapValue::Avg { .. }) {
            let count = self.b.ins().load(I64, plain(), entry, 8);
            self.b.def_var(second, count);
        }
        self.b.ins().jump(done, &[]);
        self.b.switch_to_block(done);
        let (n, count) = (self.b.use_var(first), self.b.use_var(second));
        Val::int(self.aggregate_value(kind, n, count))
    }

    /// What the words of an aggregation come to: an average is divided.
    fn aggregate_value(&mut self, kind: &MapValue, n: Value, count: Value) -> Value {
        let &MapValue::Avg { signed } = kind else { return n };
        let none = self.compare_imm(IntCC::Equal, count, 0);
        let zero = self.int(0);
        self.divide(weir_parser::ast::BinaryOp::Div, n, count, signed, Some((none, zero)))
    }

    pub fn map_has(&mut self, map: usize, key: &'h Expr) -> Val {
        let (slot, present) = self.map_key(map, Some(key));
        let entry = self.lookup(map, slot);
        let there = self.compare_imm(IntCC::NotEqual, entry, 0);
        // With an absent key the map does not have it.
        let there = match present {
            Some(present) => self.b.ins().band(there, present),
            None => there,
        };
        Val::int(self.b.ins().uextend(I64, there))
    }

    pub fn map_delete(&mut self, map: usize, key: Option<&'h Expr>) -> Val {
        if key.is_none() && self.plan.maps[map].kind.is_per_cpu() {
            // Only user space reaches the values of all CPUs.
            let span = self.hir.maps[map].span;
            self.send(&[], span, |_| crate::object::EventAction::Clear(crate::object::MapRef::Own(map)));
            return Val::int(self.int(1));
        }
        let (slot, present) = self.map_key(map, key);
        let done_flag = self.b.declare_var(I64);
        let zero = self.int(0);
        self.b.def_var(done_flag, zero);
        let scalar = key.is_none();
        let size = self.plan.maps[map].value_size;
        self.when(present, |g| {
            if scalar && g.in_card {
                // What lies in a card is written as a whole.
                let zeros = g.zeros(size);
                let (address, any) = (g.map_address(map), g.int(0));
                g.helper(helper::MAP_UPDATE_ELEM, &[address, slot, zeros, any]);
                let one = g.int(1);
                g.b.def_var(done_flag, one);
                return;
            }
            if scalar {
                g.with_entry(map, slot, |g, entry| {
                    g.zero(entry, 0, size);
                    let one = g.int(1);
                    g.b.def_var(done_flag, one);
                });
                return;
            }
            let address = g.map_address(map);
            let result = g.helper(helper::MAP_DELETE_ELEM, &[address, slot]);
            g.warn_failed(HelperCall::MapDelete, result);
            let result = g.b.ins().ireduce(I32, result);
            let zero = g.b.ins().iconst(I32, 0);
            let ok = g.b.ins().icmp(IntCC::Equal, result, zero);
            let ok = g.b.ins().uextend(I64, ok);
            g.b.def_var(done_flag, ok);
            g.delete_original(map, slot);
        });
        let result = self.b.use_var(done_flag);
        Val::int(result)
    }

    /// Where the map is a copy: its native is to forget the entry, too.
    fn delete_original(&mut self, map: usize, key: Value) {
        let MapRole::Copy {
            instance,
            map: original,
            key: ty,
            ..
        } = self.plan.maps[map].role.clone()
        else {
            return;
        };
        let value = self.load_value(&ty, key, 0);
        let span = self.hir.blocks[self.block].span;
        self.send(&[(value, ty)], span, |mut fields| EventAction::Delete {
            instance,
            map: original,
            key: fields.remove(0),
        });
    }

    pub fn aggregate(&mut self, map: usize, key: Option<&'h Expr>, agg: AggKind, value: Option<&'h Expr>) {
        let signed = value.is_some_and(|v| v.ty.is_signed());
        let value = value.map(|v| self.expr(v));
        let (slot, key_present) = self.map_key(map, key);
        let present = self.both(key_present, value.as_ref().and_then(|v| v.present));
        let n = match &value {
            Some(value) => self.as_int(value),
            None => self.int(1),
        };
        let (_, kind) = self.map_types(map);
        self.when(present, |g| {
            g.with_entry(map, slot, |g, entry| g.update_aggregate(agg, &kind, entry, n, signed))
        });
    }

    fn is_timer(&self) -> bool {
        let attach = &self.plan.programs[self.index].attach;
        attach.iter().any(|a| matches!(a.point, AttachPoint::Timer { .. }))
    }

    /// Adds to a word of this CPU, undisturbed by what may run in between.
    pub fn bump(&mut self, pointer: Value, offset: i32, by: Value) {
        // A block that weir runs may be interrupted by one that counts in the same map. A card has many processors and one map.
        if self.hook.may_nest() || self.is_timer() || self.in_card {
            let pointer = self.b.ins().iadd_imm_s(pointer, i64::from(offset));
            self.b.ins().atomic_rmw(I64, plain(), AtomicRmwOp::Add, pointer, by);
            return;
        }
        let old = self.b.ins().load(I64, plain(), pointer, offset);
        let new = self.b.ins().iadd(old, by);
        self.b.ins().store(plain(), new, pointer, offset);
    }

    fn update_aggregate(&mut self, agg: AggKind, kind: &MapValue, entry: Value, n: Value, value_signed: bool) {
        let one = self.int(1);
        if matches!(kind, MapValue::Min { .. } | MapValue::Max { .. } | MapValue::TSeries { .. }) {
            self.card_lacks(self.place, || {
                format!(
                    "`{}` compares and stores, and a card only adds to what lies in a map",
                    card::aggregation(agg)
                )
            });
        }
        match (agg, kind) {
            (AggKind::Count, _) => self.bump(entry, 0, one),
            (AggKind::Sum | AggKind::Avg | AggKind::Stats, _) => {
                self.bump(entry, 0, n);
                self.bump(entry, 8, one);
            }
            (AggKind::Min | AggKind::Max, MapValue::Min { signed } | MapValue::Max { signed }) => {
                let cc = match (agg, signed) {
                    (AggKind::Min, true) => IntCC::SignedLessThan,
                    (AggKind::Min, false) => IntCC::UnsignedLessThan,
                    (_, true) => IntCC::SignedGreaterThan,
                    (_, false) => IntCC::UnsignedGreaterThan,
                };
                let old = self.b.ins().load(I64, plain(), entry, 0);
                let updates = self.b.ins().load(I64, plain(), entry, 8);
                let fresh = self.compare_imm(IntCC::Equal, updates, 0);
                let better = self.b.ins().icmp(cc, n, old);
                let take = self.b.ins().bor(fresh, better);
                let new = self.b.ins().select(take, n, old);
                self.b.ins().store(plain(), new, entry, 0);
                self.bump(entry, 8, one);
            }
            (_, MapValue::Hist { bits }) => {
                let bucket = self.hist_bucket(n, *bits, value_signed);
                self.bump_bucket(entry, bucket);
            }
            (_, MapValue::LHist { min, max, step }) => {
                let last = (max - min) / step + 1;
                let shifted = self.b.ins().iadd_imm_s(n, min.wrapping_neg());
                let step_value = self.int(*step);
                let index = self.b.ins().udiv(shifted, step_value);
                let index = self.b.ins().iadd_imm_s(index, 1);
                let last_value = self.int(last);
                let above = self.compare_imm(IntCC::SignedGreaterThanOrEqual, n, *max);
                let index = self.b.ins().select(above, last_value, index);
                let below = self.compare_imm(IntCC::SignedLessThan, n, *min);
                let zero = self.int(0);
                let index = self.b.ins().select(below, zero, index);
                let index = self.b.ins().umin(index, last_value);
                self.bump_bucket(entry, index);
            }
            (_, MapValue::TSeries { .. }) => self.update_series(kind, entry, n),
            _ => {}
        }
    }

    /// Puts a value into the interval that it is in now; what an interval of long ago has left there goes.
    fn update_series(&mut self, kind: &MapValue, entry: Value, n: Value) {
        let &MapValue::TSeries {
            interval,
            count,
            series,
            signed,
        } = kind
        else {
            return;
        };
        // The clock of the wall but for whole seconds, so that intervals begin where people expect them to.
        let now = self.helper(helper::KTIME_GET_TAI_NS, &[]);
        let (interval, count) = (self.int(interval.cast_signed()), self.int(i64::from(count)));
        let epoch = self.b.ins().udiv(now, interval);
        let index = self.b.ins().urem(epoch, count);
        let last = self.b.ins().iadd_imm_s(count, -1);
        let index = self.b.ins().umin(index, last);
        let index = self.pin(index);
        let offset = self.b.ins().imul_imm_s(index, 24);
        let pointer = self.b.ins().iadd(entry, offset);
        let pointer = self.pin(pointer);
        let seen = self.b.ins().load(I64, plain(), pointer, 0);
        let old = self.b.ins().load(I64, plain(), pointer, 8);
        let updates = self.b.ins().load(I64, plain(), pointer, 16);
        let fresh = self.b.ins().icmp(IntCC::NotEqual, seen, epoch);
        let better = |g: &mut Self, less: bool| {
            let cc = match (less, signed) {
                (true, true) => IntCC::SignedLessThan,
                (true, false) => IntCC::UnsignedLessThan,
                (false, true) => IntCC::SignedGreaterThan,
                (false, false) => IntCC::UnsignedGreaterThan,
            };
            let better = g.b.ins().icmp(cc, n, old);
            let take = g.b.ins().bor(fresh, better);
            g.b.ins().select(take, n, old)
        };
        let value = match series {
            Series::Last => n,
            Series::Min => better(self, true),
            Series::Max => better(self, false),
            Series::Sum | Series::Avg => {
                let sum = self.b.ins().iadd(old, n);
                self.b.ins().select(fresh, n, sum)
            }
        };
        let updates = if series == Series::Last {
            now
        } else {
            let one = self.int(1);
            let more = self.b.ins().iadd(updates, one);
            self.b.ins().select(fresh, one, more)
        };
        for (word, offset) in [(epoch, 0), (value, 8), (updates, 16)] {
            self.b.ins().store(plain(), word, pointer, offset);
        }
    }

    fn bump_bucket(&mut self, entry: Value, bucket: Value) {
        let bucket = self.pin(bucket);
        let offset = self.b.ins().ishl_imm_s(bucket, 3);
        let pointer = self.b.ins().iadd(entry, offset);
        let pointer = self.pin(pointer);
        let one = self.int(1);
        self.bump(pointer, 0, one);
    }

    /// Number of the bucket that a value falls into, as [`MapValue::Hist`] says.
    fn hist_bucket(&mut self, n: Value, bits: u8, signed: bool) -> Value {
        // floor(log2(n)) by halving, 0 for 0.
        let mut rest = n;
        let mut log = self.int(0);
        for step in [32, 16, 8, 4, 2, 1] {
            let limit = self.int((1_i64 << step) - 1);
            let above = self.b.ins().icmp(IntCC::UnsignedGreaterThan, rest, limit);
            let (by, zero) = (self.int(step), self.int(0));
            let by = self.b.ins().select(above, by, zero);
            rest = self.b.ins().ushr(rest, by);
            log = self.b.ins().iadd(log, by);
        }
        let count = i64::from(MapValue::hist_bucket_count(bits));
        let bucket = if bits == 0 {
            let plain_bucket = self.b.ins().iadd_imm_s(log, 2);
            let is_zero = self.compare_imm(IntCC::Equal, n, 0);
            let one = self.int(1);
            self.b.ins().select(is_zero, one, plain_bucket)
        } else {
            let width = 1_i64 << bits;
            let k = self.int(i64::from(bits));
            let power = self.b.ins().umax(log, k);
            let power = self.b.ins().iadd_imm_s(power, -i64::from(bits));
            let sub = self.b.ins().ushr(n, power);
            let mask = self.int(width - 1);
            let sub = self.b.ins().band(sub, mask);
            let base = self.b.ins().ishl_imm_s(power, i64::from(bits));
            let large = self.b.ins().iadd(base, sub);
            let large = self.b.ins().iadd_imm_s(large, 1 + width);
            let small = self.b.ins().iadd_imm_s(n, 1);
            let is_small = self.compare_imm(IntCC::UnsignedLessThan, n, width);
            self.b.ins().select(is_small, small, large)
        };
        let bucket = if signed {
            let negative = self.compare_imm(IntCC::SignedLessThan, n, 0);
            let zero = self.int(0);
            self.b.ins().select(negative, zero, bucket)
        } else {
            bucket
        };
        let last = self.int(count - 1);
        self.b.ins().umin(bucket, last)
    }

    /// One byte of truth as a number.
    pub fn bool_to_int(&mut self, truth: Value) -> Value {
        debug_assert_eq!(self.b.func.dfg.value_type(truth), I8);
        self.b.ins().uextend(I64, truth)
    }
}
