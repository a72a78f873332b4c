//! Statements and events.

use super::value::{Repr, Val, VarSlot};
use super::{Generator, card, plain};
use crate::hir::{Event, EventMap, Expr, ExprKind, Stmt, StmtKind, Ty, visit};
use crate::object::{CounterSpec, EventAction, EventField, EventSpec, MapRef, TextKind};
use crate::tables::{FIELDS, Hook, helper};
use crate::types::Type;
use cranelift_codegen::ir::types::I8;
use cranelift_codegen::ir::{BlockArg, InstBuilder, Value};
use weir_parser::Span;

/// Records up to this size are reserved in the ring; larger ones are built in scratch and copied.
const MAX_RESERVED_BYTES: u32 = 256;

impl<'h> Generator<'_, 'h> {
    /// One block of the script: predicate, body; goes on behind it when there is no verdict.
    pub fn script_block(&mut self, index: usize) {
        self.block = index;
        let hir: &'h crate::hir::Program = self.hir;
        let block = &hir.blocks[index];
        self.at(block.span);
        let next = self.b.create_block();
        self.next = next;
        let types: Vec<_> = block.vars.iter().map(|v| (v.ty.clone(), v.addressed)).collect();
        self.vars = types
            .iter()
            .map(|ty| {
                let (ty, addressed) = ty;
                if self.has_loops {
                    self.frame_slot(ty)
                } else if *addressed && !ty.in_memory() {
                    self.memory_variable(ty)
                } else {
                    self.new_slot(ty, true)
                }
            })
            .collect();
        for (slot, (ty, _)) in self.vars.clone().iter().zip(&types) {
            self.clear_slot(slot, ty);
        }
        if let Some(offset) = block.wants {
            let pointer = self.load(self.ctx, i32::try_from(offset).unwrap_or(0), 8);
            let some = self.b.create_block();
            self.b.ins().brif(pointer, some, &[], next, &[]);
            self.b.switch_to_block(some);
        }
        if let Some(predicate) = &block.predicate {
            self.at(predicate.span);
            let value = self.expr(predicate);
            let truth = self.truth(&value);
            let body = self.b.create_block();
            self.b.ins().brif(truth, body, &[], next, &[]);
            self.b.switch_to_block(body);
        }
        self.statements(&block.body);
        self.b.ins().jump(next, &[]);
        self.b.switch_to_block(next);
    }

    /// Before it is assigned a variable is absent, or zero where nothing can be absent.
    pub fn clear_slot(&mut self, slot: &VarSlot, ty: &Ty) {
        let zero = self.int(0);
        for word in &slot.words {
            self.b.def_var(*word, zero);
        }
        if let Some(at) = slot.present_at {
            let frame = self.memory.frame();
            self.b.ins().store(plain(), zero, frame, i32::try_from(at).unwrap_or(0));
        }
        if let Some(room) = slot.memory {
            let pointer = self.room(room);
            let size = ty.stored().map_or(8, |t| t.size().next_multiple_of(8));
            self.zero(pointer, 0, size);
        }
        if let Some(present) = slot.present {
            let absent = self.b.ins().iconst(I8, 0);
            self.b.def_var(present, absent);
        }
    }

    /// Storage of a number whose address is taken.
    fn memory_variable(&mut self, ty: &Ty) -> VarSlot {
        let size = ty.stored().map_or(8, |t| t.size());
        let mut slot = self.new_slot(ty, true);
        slot.words.clear();
        slot.memory = Some(super::value::Room::At(self.memory_slot(size)));
        slot
    }

    pub fn statements(&mut self, stmts: &'h [Stmt]) {
        for stmt in stmts {
            self.with_memory(|g| g.statement(stmt));
        }
    }

    /// Presence of everything that a simple statement cannot do without: with any of it absent, the statement has no
    /// effect, not even that of an inner `@x++`. Only needed where there is such an inner effect.
    fn required(&mut self, stmt: &Stmt) -> Option<Value> {
        let mut effects = false;
        let mut leaves = Vec::new();
        visit::stmt(stmt, &mut |e| {
            effects |= matches!(e.kind, ExprKind::IncDec { .. } | ExprKind::Delete { .. })
        });
        if !effects || !self.hook.has_packet() {
            return None;
        }
        let mut collect = |e: &Expr| required_leaves(e, &mut leaves);
        match &stmt.kind {
            StmtKind::Expr(e) | StmtKind::SetVar { value: e, .. } | StmtKind::SetField { value: e, .. } => collect(e),
            StmtKind::SetMap { key, value, .. } | StmtKind::AddMap { key, value, .. } => {
                key.iter().for_each(&mut collect);
                collect(value);
            }
            StmtKind::Aggregate { key, value, .. } => key.iter().chain(value).for_each(collect),
            StmtKind::Event(Event::Printf { args, .. }) => args.iter().for_each(collect),
            StmtKind::Event(Event::PrintValue(e) | Event::PrintMapKey { key: e, .. }) => collect(e),
            StmtKind::Return(e) | StmtKind::Exit { code: e } => e.iter().for_each(collect),
            _ => {}
        }
        let mut present = None;
        for leaf in leaves {
            let value = match leaf {
                Leaf::Field(field) => self.field_value(field).present,
                Leaf::Var(var) => {
                    let slot = self.vars[var].clone();
                    self.slot_present(&slot)
                }
            };
            present = self.both(present, value);
        }
        present
    }

    fn statement(&mut self, stmt: &'h Stmt) {
        self.at(stmt.span);
        match &stmt.kind {
            StmtKind::If { .. }
            | StmtKind::While { .. }
            | StmtKind::ForRange { .. }
            | StmtKind::ForMap { .. }
            | StmtKind::Unroll { .. }
            | StmtKind::Limit { .. }
            | StmtKind::Block(_)
            | StmtKind::Break
            | StmtKind::Continue => {
                self.control(stmt);
            }
            _ => {
                let required = self.required(stmt);
                if let (StmtKind::SetVar { var, .. }, Some(present)) = (&stmt.kind, required) {
                    return self.set_var_if(present, *var, stmt);
                }
                self.when(required, |g| g.simple(stmt));
            }
        }
    }

    /// An assignment of which a part may be absent: the variable is absent then, whatever it was.
    fn set_var_if(&mut self, present: Value, var: usize, stmt: &'h Stmt) {
        let (yes, no, done) = (self.b.create_block(), self.b.create_block(), self.b.create_block());
        self.b.ins().brif(present, yes, &[], no, &[]);
        self.b.switch_to_block(yes);
        self.simple(stmt);
        self.b.ins().jump(done, &[]);
        self.b.switch_to_block(no);
        let slot = self.vars[var].clone();
        let ty = self.hir.blocks[self.block].vars[var].ty.clone();
        self.clear_slot(&slot, &ty);
        self.b.ins().jump(done, &[]);
        self.b.switch_to_block(done);
    }

    fn control(&mut self, stmt: &'h Stmt) {
        match &stmt.kind {
            StmtKind::If { cond, then, otherwise } => {
                let value = self.expr(cond);
                let truth = self.truth(&value);
                let (yes, no, done) = (self.b.create_block(), self.b.create_block(), self.b.create_block());
                self.b.ins().brif(truth, yes, &[], no, &[]);
                self.b.switch_to_block(yes);
                self.statements(then);
                self.b.ins().jump(done, &[]);
                self.b.switch_to_block(no);
                self.statements(otherwise);
                self.b.ins().jump(done, &[]);
                self.b.switch_to_block(done);
            }
            StmtKind::While { cond, body } => self.while_loop(cond, body),
            StmtKind::ForRange { var, start, end, body } => self.for_range(*var, start, end, body),
            StmtKind::ForMap { var, map, body } => self.for_map(*var, *map, body),
            StmtKind::Unroll { count, body } => {
                let done = self.b.create_block();
                for _ in 0..*count {
                    let next = self.b.create_block();
                    self.loops.push((next, done));
                    self.statements(body);
                    self.loops.pop();
                    self.b.ins().jump(next, &[]);
                    self.b.switch_to_block(next);
                }
                self.b.ins().jump(done, &[]);
                self.b.switch_to_block(done);
            }
            StmtKind::Limit { number, rate, per, body } => self.limit(*number, *rate, *per, body, stmt.span),
            StmtKind::Block(body) => self.statements(body),
            StmtKind::Break | StmtKind::Continue => {
                let Some((next, done)) = self.loops.last().copied() else { return };
                let target = if matches!(stmt.kind, StmtKind::Break) { done } else { next };
                self.leave(target, &[]);
            }
            _ => {}
        }
    }

    /// Jumps away; what follows in the script is unreachable but still needs a place.
    fn leave(&mut self, target: cranelift_codegen::ir::Block, args: &[BlockArg]) {
        self.b.ins().jump(target, args);
        let dead = self.b.create_block();
        self.b.switch_to_block(dead);
    }

    fn simple(&mut self, stmt: &'h Stmt) {
        match &stmt.kind {
            StmtKind::Expr(e) => {
                self.expr(e);
            }
            StmtKind::SetVar { var, value } => {
                let value = self.expr(value);
                let slot = self.vars[*var].clone();
                let ty = self.hir.blocks[self.block].vars[*var].ty.clone();
                self.write_slot(&slot, &ty, &value);
            }
            StmtKind::SetField { field, value } => self.assign_field(*field, value, stmt.span),
            StmtKind::Redirect { device, mirror } => self.redirect(device, *mirror, stmt.span),
            StmtKind::SetMap { map, key, value } => self.map_set(*map, key.as_ref(), value),
            StmtKind::AddMap { map, key, value } => {
                let value = self.expr(value);
                self.map_add(*map, key.as_ref(), &value);
            }
            StmtKind::Aggregate { map, key, agg, value } => self.aggregate(*map, key.as_ref(), *agg, value.as_ref()),
            StmtKind::Event(event) => self.event(event, stmt.span),
            StmtKind::Return(None) => {
                let next = self.next;
                self.leave(next, &[]);
            }
            StmtKind::Return(Some(value)) => {
                let value = self.expr(value);
                let n = self.as_int(&value);
                let exit = self.exit;
                self.when(value.present, |g| g.leave(exit, &[BlockArg::Value(n)]));
            }
            StmtKind::Verdict(verdict) => {
                let Some(code) = verdict.code(self.hook) else { return };
                let code = self.int(i64::from(code));
                let exit = self.exit;
                self.leave(exit, &[BlockArg::Value(code)]);
            }
            StmtKind::Capture { bytes } => self.want_capture(*bytes, stmt.span),
            StmtKind::Exit { code } => {
                let code = code.as_ref().map(|c| self.expr(c));
                let present = code.as_ref().and_then(|c| c.present);
                self.when(present, |g| {
                    let values: Vec<(Val, Type)> = code.iter().map(|c| (c.clone(), Type::I64)).collect();
                    g.send(&values, stmt.span, |fields| EventAction::Exit {
                        code: fields.into_iter().next(),
                    });
                    let verdict = if g.hook.is_native_event() {
                        g.native_verdict(g.block)
                    } else {
                        g.int(g.default_verdict())
                    };
                    let exit = g.exit;
                    g.leave(exit, &[BlockArg::Value(verdict)]);
                });
            }
            _ => {}
        }
    }

    /// Sends the packet, or for `mirror` a copy of it, out of another interface.
    fn redirect(&mut self, device: &str, mirror: bool, span: Span) {
        if self.in_card {
            return self.card_lacks_helper(helper::REDIRECT);
        }
        let ifindex = self.device(device, span);
        // What is sent to number 0 is lost: no device has it, so it stands for one that is gone.
        let (gone, known) = (self.b.create_block(), self.b.create_block());
        self.b.ins().brif(ifindex, known, &[], gone, &[]);
        self.b.switch_to_block(gone);
        self.b.set_cold_block(gone);
        self.count(CounterSpec::NoDevice {
            device: device.to_owned(),
            span,
        });
        self.b.ins().jump(known, &[]);
        self.b.switch_to_block(known);
        let flags = self.int(0);
        if mirror {
            self.helper(helper::CLONE_REDIRECT, &[self.ctx, ifindex, flags]);
            return;
        }
        let verdict = self.helper(helper::REDIRECT, &[ifindex, flags]);
        let exit = self.exit;
        self.leave(exit, &[BlockArg::Value(verdict)]);
    }

    fn event(&mut self, event: &'h Event, span: Span) {
        let map_ref = |map: &EventMap| match map {
            EventMap::Own(map) => MapRef::Own(*map),
            EventMap::Native { instance, map } => MapRef::Native {
                instance: *instance,
                map: *map,
            },
        };
        match event {
            Event::Printf { what, format, args } => {
                let (what, format) = (*what, format.clone());
                self.send_exprs(args, span, |args| match what {
                    TextKind::Print => EventAction::Printf { format, args },
                    _ => EventAction::Text { what, format, args },
                });
            }
            Event::SeqPrintf { format, args } => self.seq_printf(format, args),
            Event::Join { separator, args } => {
                let separator = separator.clone();
                self.send_exprs(args, span, |args| EventAction::Join { separator, args });
            }
            Event::PrintValue(e) => {
                self.send_exprs(std::slice::from_ref(e), span, |mut fields| {
                    EventAction::PrintValue(fields.remove(0))
                });
            }
            Event::PrintMapKey { map, key } => {
                let ty = self.hir.maps[*map]
                    .key
                    .as_ref()
                    .and_then(crate::hir::Ty::stored)
                    .unwrap_or(Type::U64);
                let value = self.expr(key);
                let map = MapRef::Own(*map);
                self.when(value.present, |g| {
                    let present_value = Val {
                        repr: value.repr.clone(),
                        present: None,
                    };
                    g.send(&[(present_value, ty)], span, |mut fields| EventAction::PrintMapKey {
                        map,
                        key: fields.remove(0),
                    });
                });
            }
            Event::PrintNative { instance, top } => {
                let action = EventAction::PrintNative {
                    instance: *instance,
                    top: *top,
                };
                self.send(&[], span, |_| action);
            }
            Event::PrintMap { map, top, div } => {
                let action = EventAction::PrintMap {
                    map: map_ref(map),
                    top: *top,
                    div: *div,
                };
                self.send(&[], span, |_| action);
            }
            Event::Clear(map) => {
                let action = EventAction::Clear(map_ref(map));
                self.send(&[], span, |_| action);
            }
            Event::Zero(map) => {
                let action = EventAction::Zero(map_ref(map));
                self.send(&[], span, |_| action);
            }
            Event::Time(format) => {
                let action = EventAction::Time { format: format.clone() };
                self.send(&[], span, |_| action);
            }
        }
    }

    /// `bpf_seq_printf`: each number in 64 bits, each text by its address.
    fn seq_printf(&mut self, format: &[u8], args: &'h [Expr]) {
        let mut present = None;
        let mut words = Vec::new();
        for e in args {
            let value = self.expr(e);
            present = self.both(present, value.present);
            words.push(match value.repr {
                Repr::Mem { pointer, .. } => pointer,
                _ => self.as_int(&value),
            });
        }
        self.when(present, |g| {
            let bytes = u32::try_from(8 * words.len()).unwrap_or(0);
            let data = g.memory_slot(bytes.max(8));
            for (at, word) in (0..).step_by(8).zip(&words) {
                g.b.ins().store(plain(), *word, data, at);
            }
            let len = u32::try_from(format.len() + 1).unwrap_or(u32::MAX);
            let format = g.literal(format, len.next_multiple_of(8));
            // `ctx->meta->seq`: both are the first member.
            let meta = g.load(g.ctx, 0, 8);
            let seq = g.load(meta, 0, 8);
            let (len, bytes) = (g.int(i64::from(len)), g.int(i64::from(bytes)));
            g.helper(helper::SEQ_PRINTF, &[seq, format, len, data, bytes]);
        });
    }

    fn send_exprs(&mut self, exprs: &'h [Expr], span: Span, action: impl FnOnce(Vec<EventField>) -> EventAction) {
        let mut present = None;
        let mut values = Vec::new();
        for e in exprs {
            let value = self.expr(e);
            present = self.both(present, value.present);
            let ty = e.ty.stored().unwrap_or(Type::U64);
            values.push((value, ty));
        }
        self.when(present, |g| g.send(&values, span, action));
    }

    /// Whether records can come faster than an interval brings them.
    fn sends_often(&self) -> bool {
        use crate::object::AttachPoint as P;
        let seldom =
            |a: &crate::object::Attach| matches!(a.point, P::Begin | P::End | P::Signal { .. } | P::Interval { .. } | P::Timer { .. });
        !self.plan.programs[self.index].attach.iter().all(seldom) || !self.loops.is_empty()
    }

    /// Sends one record to user space.
    pub fn send(&mut self, values: &[(Val, Type)], span: Span, action: impl FnOnce(Vec<EventField>) -> EventAction) {
        let mut offset = 8_u32;
        let mut fields = Vec::new();
        for (_, ty) in values {
            let ty = match ty {
                // One word each: nothing in a record needs padding.
                Type::Bool => Type::Bool,
                other => other.clone(),
            };
            fields.push(EventField { offset, ty: ty.clone() });
            offset += ty.size().next_multiple_of(8);
        }
        let size = offset;
        let action = action(fields.clone());
        if self.in_card {
            return self.card_lacks_ring(span, card::subject(&action));
        }
        let id = match self
            .plan
            .events
            .iter()
            .position(|e| e.span == span && format!("{:?}", e.action) == format!("{action:?}"))
        {
            // `unroll` repeats the statement, not the format.
            Some(id) => id,
            None => {
                self.plan.events.push(EventSpec { action, size, span });
                self.plan.events.len() - 1
            }
        };
        let busy = self.sends_often();
        let ring = self.plan.ring(busy);
        let header = self.int(i64::try_from(id).unwrap_or(0));
        if size > MAX_RESERVED_BYTES {
            let record = self.memory_slot(size);
            self.fill(record, header, values, &fields);
            let ring = self.map_address(ring);
            let (bytes, flags) = (self.int(i64::from(size)), self.int(0));
            let result = self.helper(helper::RINGBUF_OUTPUT, &[ring, record, bytes, flags]);
            let (lost, done) = (self.b.create_block(), self.b.create_block());
            self.b.ins().brif(result, lost, &[], done, &[]);
            self.b.switch_to_block(lost);
            self.b.set_cold_block(lost);
            self.count(CounterSpec::LostEvents);
            self.b.ins().jump(done, &[]);
            self.b.switch_to_block(done);
            return;
        }
        let ring = self.map_address(ring);
        let (bytes, flags) = (self.int(i64::from(size)), self.int(0));
        let record = self.helper(helper::RINGBUF_RESERVE, &[ring, bytes, flags]);
        let (some, lost, done) = (self.b.create_block(), self.b.create_block(), self.b.create_block());
        self.b.ins().brif(record, some, &[], lost, &[]);
        self.b.switch_to_block(lost);
        self.b.set_cold_block(lost);
        self.count(CounterSpec::LostEvents);
        self.b.ins().jump(done, &[]);
        self.b.switch_to_block(some);
        let record = self.pin(record);
        self.fill(record, header, values, &fields);
        let flags = self.int(0);
        self.helper(helper::RINGBUF_SUBMIT, &[record, flags]);
        self.b.ins().jump(done, &[]);
        self.b.switch_to_block(done);
    }

    fn fill(&mut self, record: Value, header: Value, values: &[(Val, Type)], fields: &[EventField]) {
        self.b.ins().store(plain(), header, record, 0);
        for ((value, ty), field) in values.iter().zip(fields) {
            if !ty.size().is_multiple_of(8) {
                let zero = self.int(0);
                let last = field.offset + ty.size() / 8 * 8;
                self.b.ins().store(plain(), zero, record, i32::try_from(last).unwrap_or(0));
            }
            self.store_value(value, ty, record, field.offset);
        }
    }
}

enum Leaf {
    Field(usize),
    Var(usize),
}

/// Fields and variables without which the expression is absent.
fn required_leaves(e: &Expr, out: &mut Vec<Leaf>) {
    use weir_parser::ast::BinaryOp;
    match &e.kind {
        ExprKind::Field(field) if FIELDS[*field].hooks.contains(Hook::Tc) || FIELDS[*field].hooks.contains(Hook::Xdp) => {
            out.push(Leaf::Field(*field))
        }
        ExprKind::Var(var) => out.push(Leaf::Var(*var)),
        // These have a value whatever their operands are.
        ExprKind::Not(_)
        // Their statements see to themselves.
        | ExprKind::Block { .. }
        | ExprKind::Inline { .. }
        | ExprKind::Has(_)
        | ExprKind::In { .. }
        | ExprKind::InMap { .. }
        | ExprKind::HasKey { .. }
        | ExprKind::Elvis { .. }
        | ExprKind::Ternary { .. } => {}
        ExprKind::Binary { op, .. } if op.is_comparison() || matches!(op, BinaryOp::And | BinaryOp::Or) => {}
        _ => visit::children(e, &mut |child| required_leaves(child, out)),
    }
}
