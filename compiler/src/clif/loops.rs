//! Loops: `bpf_loop` and `bpf_for_each_map_elem` call their body, which is a function of its own.
//!
//! A body reaches what it shares with the code around it through working memory: variables, packet fields and the presence
//! of headers lie there at fixed offsets. It gets the address of that memory and of the program's context from two words
//! on the caller's stack. How it ended, when not by going on, it leaves in another word there.

use super::memory::Mark;
use super::value::{Room, VarSlot};
use super::{Generator, plain};
use crate::backend::ns;
use crate::clif::packet::Places;
use crate::hir::loops::MAX_ITERATIONS;
use crate::hir::{Expr, ExprKind, MapValueTy, Stmt, StmtKind, Ty, visit};
use crate::tables::{FIELDS, Header, helper};
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::I64;
use cranelift_codegen::ir::{BlockArg, InstBuilder, Value};
use std::collections::{BTreeSet, HashMap};

/// What the signal word says after a loop.
const NEXT: i64 = 1;
const EXIT: i64 = 2;

#[derive(Clone)]
pub(crate) enum Kind<'h> {
    Range {
        var: usize,
        start: u32,
    },
    Map {
        var: usize,
        map: usize,
    },
    While {
        cond: &'h Expr,
    },
    /// Only to be counted.
    Count,
}

/// A body that waits to be generated.
#[derive(Clone)]
pub(crate) struct Pending<'h> {
    kind: Kind<'h>,
    body: &'h [Stmt],
    block: usize,
    vars: Vec<VarSlot>,
    fields: HashMap<usize, VarSlot>,
    headers: HashMap<Header, u32>,
    places: Option<Places>,
    /// Where its own part of working memory starts.
    scratch_bytes: u32,
    /// The signal word; the value of `return` lies behind it.
    signal: u32,
    capture: Option<super::capture::Wish>,
    pub parent: Option<usize>,
}

impl Pending<'_> {
    pub fn params(&self) -> u8 {
        if matches!(self.kind, Kind::Map { .. } | Kind::Count) {
            4
        } else {
            2
        }
    }

    /// Says whose loop it is.
    pub fn inside(mut self, parent: usize) -> Self {
        self.parent = Some(parent);
        self
    }
}

/// Whether a body assigns to a field of the packet or its context.
fn writes(body: &[Stmt]) -> bool {
    let mut found = false;
    visit::each_stmt(body, &mut |s| found |= matches!(s.kind, StmtKind::SetField { .. }));
    found
}

impl<'h> Generator<'_, 'h> {
    pub fn for_range(&mut self, var: usize, start: &'h Expr, end: &'h Expr, body: &'h [Stmt]) {
        let (start, end) = (self.expr(start), self.expr(end));
        let present = self.both(start.present, end.present);
        let (first, last) = (self.as_int(&start), self.as_int(&end));
        self.when(present, |g| {
            let n = g.b.ins().isub(last, first);
            let zero = g.int(0);
            let some = g.b.ins().icmp(IntCC::SignedGreaterThan, last, first);
            let n = g.b.ins().select(some, n, zero);
            let most = g.int(MAX_ITERATIONS);
            let n = g.b.ins().umin(n, most);
            // A body that the kernel knows to be called never is dropped, and then its address is missing.
            let (some, none) = (g.b.create_block(), g.b.create_block());
            g.b.ins().brif(n, some, &[], none, &[]);
            g.b.switch_to_block(some);
            let room = g.frame_room(8);
            let frame = g.memory.frame();
            g.b.ins().store(plain(), first, frame, i32::try_from(room).unwrap_or(0));
            g.call_loop(Kind::Range { var, start: room }, body, helper::LOOP, n);
            g.b.ins().jump(none, &[]);
            g.b.switch_to_block(none);
        });
    }

    pub fn while_loop(&mut self, cond: &'h Expr, body: &'h [Stmt]) {
        let n = self.int(MAX_ITERATIONS);
        self.call_loop(Kind::While { cond }, body, helper::LOOP, n);
    }

    pub fn for_map(&mut self, var: usize, map: usize, body: &'h [Stmt]) {
        let address = self.map_address(map);
        self.call_loop(Kind::Map { var, map }, body, helper::FOR_EACH_MAP_ELEM, address);
    }

    /// Number of entries of a map: the helper returns how often it has called an empty body.
    pub fn map_len(&mut self, map: usize) -> Value {
        let address = self.map_address(map);
        self.call_loop(Kind::Count, &[], helper::FOR_EACH_MAP_ELEM, address)
    }

    /// Calls the helper with the body, then does what the body asked for.
    fn call_loop(&mut self, kind: Kind<'h>, body: &'h [Stmt], number: u32, first: Value) -> Value {
        let signal = self.frame_room(16);
        let writes = writes(body);
        let (fields, headers) = self.capture(&kind, body, writes);
        let places = if writes { self.places_in_frame() } else { None };
        let frame = self.memory.frame();
        let zero = self.int(0);
        let signal_at = i32::try_from(signal).unwrap_or(0);
        self.b.ins().store(plain(), zero, frame, signal_at);
        let shared = self.shared_slot();
        self.b.ins().store(plain(), frame, shared, 0);
        self.b.ins().store(plain(), self.ctx, shared, 8);
        let index = self.first_subprogram + self.pending.len();
        self.pending.push(Pending {
            kind,
            body,
            block: self.block,
            vars: self.vars.clone(),
            fields: fields.clone(),
            headers,
            places,
            scratch_bytes: self.memory.scratch_bytes(),
            signal,
            capture: self.capture,
            parent: None,
        });
        let function = self.external(ns::SUBPROG_ADDR, u32::try_from(index).unwrap_or(u32::MAX), 2);
        let function = self.b.ins().func_addr(I64, function);
        let result = self.helper(number, &[first, function, shared, zero]);
        if writes {
            self.read_back(&fields);
        }
        let frame = self.memory.frame();
        let how = self.b.ins().load(I64, plain(), frame, signal_at);
        let (ended, done) = (self.b.create_block(), self.b.create_block());
        self.b.ins().brif(how, ended, &[], done, &[]);
        self.b.switch_to_block(ended);
        let exits = self.compare_imm(IntCC::Equal, how, EXIT);
        let leave = self.b.create_block();
        let next = self.next;
        self.b.ins().brif(exits, leave, &[], next, &[]);
        self.b.switch_to_block(leave);
        let frame = self.memory.frame();
        let value = self.b.ins().load(I64, plain(), frame, signal_at + 8);
        let exit = self.exit;
        self.b.ins().jump(exit, &[BlockArg::Value(value)]);
        self.b.switch_to_block(done);
        result
    }

    /// Puts the packet fields and headers that the body names into working memory.
    fn capture(&mut self, kind: &Kind<'h>, body: &'h [Stmt], writes: bool) -> (HashMap<usize, VarSlot>, HashMap<Header, u32>) {
        let (mut fields, mut headers) = (BTreeSet::new(), BTreeSet::new());
        if writes {
            // An assignment changes every field that is made of the same bytes.
            fields.extend(self.fields.keys().copied());
        }
        let mut note = |e: &Expr| match e.kind {
            ExprKind::Field(field) => {
                fields.insert(field);
            }
            ExprKind::HasHeader(header) => {
                headers.insert(header);
            }
            _ => {}
        };
        visit::stmts(body, &mut note);
        if let Kind::While { cond } = kind {
            visit::expr(cond, &mut note);
        }
        let mut slots = HashMap::new();
        for field in fields {
            let ty = super::packet::field_ty(FIELDS[field].ty);
            let slot = self.frame_slot(&ty);
            let value = self.held_field(field);
            self.write_slot(&slot, &ty, &value);
            slots.insert(field, slot);
        }
        let mut rooms = HashMap::new();
        for header in headers {
            let value = self.header_present(header);
            let room = self.frame_room(8);
            let frame = self.memory.frame();
            self.b.ins().store(plain(), value, frame, i32::try_from(room).unwrap_or(0));
            rooms.insert(header, room);
        }
        (slots, rooms)
    }

    /// Holds from now on what a body has left of the packet fields.
    fn read_back(&mut self, fields: &HashMap<usize, VarSlot>) {
        let mut fields: Vec<(usize, &VarSlot)> = fields.iter().map(|(field, slot)| (*field, slot)).collect();
        fields.sort_unstable_by_key(|(field, _)| *field);
        for (field, slot) in fields {
            let ty = super::packet::field_ty(FIELDS[field].ty);
            if !ty.in_memory() {
                let value = self.read_slot(slot, &ty);
                let words = self.flatten(&value);
                self.hold(field, &words);
            }
        }
    }

    /// Storage that bodies of loops reach.
    pub fn frame_slot(&mut self, ty: &Ty) -> VarSlot {
        let size = ty.stored().map_or(8, |t| t.size());
        VarSlot {
            words: Vec::new(),
            present: None,
            memory: Some(Room::Frame(self.frame_room(size))),
            present_at: self.hook.has_packet().then(|| self.frame_room(8)),
        }
    }

    /// Generates the function of a body.
    pub fn loop_body(&mut self, pending: &Pending<'h>) {
        let (entry, body) = (self.memory.entry, self.memory.body);
        self.memory.continue_at(pending.scratch_bytes);
        let ctx = self.b.append_block_param(body, I64);
        let params = self.b.block_params(entry).to_vec();
        self.ctx = ctx;
        self.block = pending.block;
        self.capture = pending.capture;
        self.vars.clone_from(&pending.vars);
        self.fields.clone_from(&pending.fields);
        self.header_rooms.clone_from(&pending.headers);
        self.places = pending.places;
        let (go_on, stop, next) = (self.b.create_block(), self.b.create_block(), self.b.create_block());
        self.next = next;
        self.loops.push((go_on, stop));
        self.b.switch_to_block(body);
        match &pending.kind {
            Kind::Range { var, start } => {
                let frame = self.memory.frame();
                let start = self.b.ins().load(I64, plain(), frame, i32::try_from(*start).unwrap_or(0));
                let n = self.b.ins().ireduce(cranelift_codegen::ir::types::I32, params[0]);
                let n = self.b.ins().uextend(I64, n);
                let value = self.b.ins().iadd(start, n);
                let slot = self.vars[*var].clone();
                self.write_slot(&slot, &Ty::I64, &super::value::Val::int(value));
            }
            Kind::While { cond } => {
                let value = self.expr(cond);
                let truth = self.truth(&value);
                let inside = self.b.create_block();
                self.b.ins().brif(truth, inside, &[], stop, &[]);
                self.b.switch_to_block(inside);
            }
            Kind::Count => {}
            Kind::Map { var, map } => self.entry_variable(*var, *map, params[1], params[2]),
        }
        self.statements(pending.body);
        self.b.ins().jump(go_on, &[]);
        let signal = i32::try_from(pending.signal).unwrap_or(0);
        self.b.switch_to_block(next);
        let (frame, how) = (self.memory.frame(), self.int(NEXT));
        self.b.ins().store(plain(), how, frame, signal);
        self.b.ins().jump(stop, &[]);
        let exit = self.exit;
        self.b.switch_to_block(exit);
        let value = self.b.block_params(exit)[0];
        let (frame, how) = (self.memory.frame(), self.int(EXIT));
        self.b.ins().store(plain(), how, frame, signal);
        self.b.ins().store(plain(), value, frame, signal + 8);
        self.b.ins().jump(stop, &[]);
        for (block, result) in [(go_on, 0), (stop, 1)] {
            self.b.switch_to_block(block);
            let result = self.int(result);
            self.b.ins().return_(&[result]);
        }
        self.b.switch_to_block(entry);
        let shared = params[params.len() - 1];
        let scratch = self.b.ins().load(I64, plain(), shared, 0);
        let scratch = self.pin(scratch);
        let ctx = self.b.ins().load(I64, plain(), shared, 8);
        let ctx = self.pin(ctx);
        self.b.ins().jump(body, &[BlockArg::Value(scratch), BlockArg::Value(ctx)]);
    }

    /// Makes the tuple of key and value.
    fn entry_variable(&mut self, var: usize, map: usize, key: Value, value: Value) {
        let slot = self.vars[var].clone();
        let ty = self.hir.blocks[self.block].vars[var].ty.clone();
        let (Ty::Tuple(fields), Some(stored), Some(room)) = (&ty, ty.stored(), slot.memory) else {
            return;
        };
        let offsets = stored.field_offsets();
        let types: Vec<_> = stored.fields().into_iter().cloned().collect();
        let pointer = self.room(room);
        let key_value = self.load_value(&types[0], key, 0);
        self.store_value(&key_value, &types[0], pointer, offsets[0]);
        if fields.len() > 1 {
            let content = match &self.hir.maps[map].value {
                MapValueTy::Plain(_) => self.load_value(&types[1], value, 0),
                MapValueTy::Agg(_) => {
                    let copy = self.memory_slot(types[0].size());
                    self.store_value(&key_value, &types[0], copy, 0);
                    self.combine_cpus(map, copy)
                }
            };
            self.store_value(&content, &types[1], pointer, offsets[1]);
        }
        if let Some(at) = slot.present_at {
            let frame = self.memory.frame();
            let one = self.b.ins().iconst(cranelift_codegen::ir::types::I8, 1);
            self.b.ins().store(plain(), one, frame, i32::try_from(at).unwrap_or(0));
        }
    }

    /// Runs `work` with working memory that is free again behind it.
    pub fn with_memory(&mut self, work: impl FnOnce(&mut Self)) {
        let mark: Mark = self.memory.mark();
        work(self);
        self.memory.release(mark);
    }
}
