//! Typed tree to Cranelift IR: one function for each program.
//!
//! Input: [`hir::Program`] and its [`Plan`], to which event formats, counters and working memory are added.
//! Output: [`Function`]s by the conventions of [`crate::backend`]. Not here: optimisation, BPF.
//!
//! Invariants, all for the kernel verifier's sake:
//! - Integers are `i64`, kept sign- or zero-extended by their type.
//! - Packet contents are read once, right after the bounds check that allows it; what the script names later are
//!   plain values. So no packet pointer lives longer than the parser.
//! - A pointer to a map's value is pinned after its null check.
//! - Arguments of an event are computed before its record is reserved, so no path can leak the reservation.

mod addr;
mod builtins;
mod capture;
mod card;
mod expr;
mod file_path;
mod inet;
mod loops;
mod maps;
mod memory;
mod packet;
mod stmt;
mod system;
mod text;
mod value;
mod warn;

use crate::FxHashMap;
use crate::backend::ns;
use crate::hir;
use crate::object::{AttachPoint, CounterSpec, MapKind, MapRole, MapSpec};
use crate::plan::Plan;
use crate::tables::{Hook, helper};
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::immediates::Imm64;
use cranelift_codegen::ir::types::{I8, I16, I32, I64};
use cranelift_codegen::ir::{
    self, AbiParam, AtomicRmwOp, Block, BlockArg, ExtFuncData, ExternalName, FuncRef, GlobalValueData, InstBuilder, MemFlagsData,
    Signature, SourceLoc, Type, Value,
};
use cranelift_codegen::isa::{CallConv, TargetFrontendConfig};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext, Variable};
use std::collections::HashMap;
use weir_parser::Span;

/// The code of one program, before optimisation.
pub struct Function {
    pub func: ir::Function,
    /// Values of the opaque constants.
    pub consts: Vec<i64>,
    /// What the source locations of the instructions stand for.
    pub spans: Vec<Span>,
}

/// The body of a loop, called by the kernel.
pub struct Subprogram {
    /// A C identifier, unique in the object.
    pub name: String,
    /// Number of arguments.
    pub params: u8,
    pub function: Function,
    /// Index of the program it belongs to.
    pub program: usize,
    /// Index of the subprogram whose loop it is the body of; `None` for a loop of the program itself.
    pub parent: Option<usize>,
}

/// Everything that becomes machine code.
pub struct Code {
    /// In the order of the plan's programs.
    pub programs: Vec<Function>,
    pub subprograms: Vec<Subprogram>,
}

/// Generates all programs.
pub fn generate(program: &hir::Program, plan: &mut Plan) -> Code {
    let mut code = Code {
        programs: Vec::new(),
        subprograms: Vec::new(),
    };
    for index in 0..plan.programs.len() {
        generate_one(program, plan, index, &mut code);
    }
    code
}

fn generate_one(program: &hir::Program, plan: &mut Plan, index: usize, code: &mut Code) {
    let name = plan.programs[index].name.clone();
    let mut next_subprogram = code.subprograms.len();
    let (function, mut queue, mut peak) = {
        let mut func = new_function(index, 1);
        let mut context = FunctionBuilderContext::new();
        let builder = FunctionBuilder::new(&mut func, &mut context);
        let mut generator = Generator::new(program, plan, index, builder, next_subprogram);
        generator.program();
        let peak = generator.memory.scratch_peak();
        let queue = std::mem::take(&mut generator.pending);
        let (consts, spans) = generator.finish();
        (Function { func, consts, spans }, queue, peak)
    };
    code.programs.push(function);
    next_subprogram += queue.len();
    // The bodies' own loops come behind all that wait already, in the order of their numbers.
    let mut at = 0;
    while at < queue.len() {
        let number = code.subprograms.len();
        let body = queue[at].clone();
        let params = body.params();
        let mut func = new_function(number, usize::from(params));
        let mut context = FunctionBuilderContext::new();
        let builder = FunctionBuilder::new(&mut func, &mut context);
        let mut generator = Generator::new(program, plan, index, builder, next_subprogram);
        generator.loop_body(&body);
        peak = peak.max(generator.memory.scratch_peak());
        let more: Vec<_> = std::mem::take(&mut generator.pending);
        next_subprogram += more.len();
        queue.extend(more.into_iter().map(|p| p.inside(number)));
        let (consts, spans) = generator.finish();
        code.subprograms.push(Subprogram {
            name: format!("{name}_loop{at}"),
            params,
            function: Function { func, consts, spans },
            program: index,
            parent: body.parent,
        });
        at += 1;
    }
    let scratch = format!("scratch_{name}");
    if let Some(map) = plan.map_number(&scratch) {
        let map = &mut plan.maps[map];
        map.value_size = map.value_size.max(peak);
    }
}

fn new_function(index: usize, params: usize) -> ir::Function {
    let mut signature = Signature::new(CallConv::SystemV);
    signature.params.extend(std::iter::repeat_n(AbiParam::new(I64), params));
    signature.returns.push(AbiParam::new(I64));
    let name = ir::UserFuncName::user(0, u32::try_from(index).unwrap_or(0));
    ir::Function::with_name_signature(name, signature)
}

/// Memory access without promises: the optimiser may move or merge nothing.
pub(crate) fn plain() -> MemFlagsData {
    MemFlagsData::new()
}

/// Working state of one program's generation.
pub(crate) struct Generator<'a, 'h> {
    pub hir: &'h hir::Program,
    pub plan: &'a mut Plan,
    pub index: usize,
    pub hook: Hook,
    pub b: FunctionBuilder<'a>,
    pub ctx: Value,
    /// The block being generated, as an index into the typed tree.
    pub block: usize,
    helpers: FxHashMap<(u32, u32), FuncRef>,
    globals: FxHashMap<u32, ir::GlobalValue>,
    consts: Vec<i64>,
    spans: Vec<Span>,
    /// Takes the return value.
    pub exit: Block,
    /// Where the current block ends without a verdict.
    pub next: Block,
    pub vars: Vec<value::VarSlot>,
    pub fields: HashMap<usize, value::VarSlot>,
    pub headers: HashMap<crate::tables::Header, Variable>,
    /// Where headers are, if the program writes to any.
    pub places: Option<packet::Places>,
    /// Presence of headers where that lies in the frame.
    pub header_rooms: HashMap<crate::tables::Header, u32>,
    /// Bodies of loops that are still to be generated.
    pub pending: Vec<loops::Pending<'h>>,
    /// The number of the first of them.
    pub first_subprogram: usize,
    /// Whether the program has such loops: then variables lie where the bodies can reach them.
    pub has_loops: bool,
    /// What `capture` has asked for, in a program that has it.
    pub capture: Option<capture::Wish>,
    /// `(continue, break)` targets.
    pub loops: Vec<(Block, Block)>,
    pub memory: memory::Memory,
    /// What is being generated, for messages that the code sends.
    pub place: Span,
    /// The program goes to a network card.
    pub in_card: bool,
}

impl<'a, 'h> Generator<'a, 'h> {
    fn new(program: &'h hir::Program, plan: &'a mut Plan, index: usize, mut b: FunctionBuilder<'a>, first_subprogram: usize) -> Self {
        let entry = b.create_block();
        b.append_block_params_for_function_params(entry);
        b.switch_to_block(entry);
        // The entry block is filled last but must come first.
        b.func.layout.append_block(entry);
        let ctx = b.block_params(entry)[0];
        let exit = b.create_block();
        b.append_block_param(exit, I64);
        let body = b.create_block();
        let scratch = b.append_block_param(body, I64);
        let hook = plan.programs[index].hook;
        let has_loops = plan.programs[index]
            .blocks
            .iter()
            .any(|b| hir::visit::has_loop(&program.blocks[*b]));
        let budget = if has_loops {
            memory::LOOP_STACK_BUDGET_BYTES
        } else {
            memory::STACK_BUDGET_BYTES
        };
        let in_card = plan.programs[index].attach.iter().any(|a| a.point.is_in_card());
        let next = body;
        Self {
            hir: program,
            plan,
            index,
            hook,
            b,
            ctx,
            block: 0,
            helpers: FxHashMap::default(),
            globals: FxHashMap::default(),
            consts: Vec::new(),
            spans: Vec::new(),
            exit,
            next,
            vars: Vec::new(),
            fields: HashMap::new(),
            headers: HashMap::new(),
            places: None,
            header_rooms: HashMap::new(),
            pending: Vec::new(),
            first_subprogram,
            has_loops,
            capture: None,
            loops: Vec::new(),
            memory: memory::Memory::new(entry, body, scratch, budget, hook.may_nest()),
            place: Span::default(),
            in_card,
        }
    }

    /// What the program returns when no block gives a verdict.
    fn default_verdict(&self) -> i64 {
        i64::from(self.hook.default_verdict())
    }

    fn program(&mut self) {
        let body = self.memory.body;
        self.b.switch_to_block(body);
        self.start_capture();
        self.loops_in_card();
        if self.hook == Hook::Tc {
            self.heartbeat();
        }
        let blocks = self.plan.programs[self.index].blocks.clone();
        if self.hook.has_packet() {
            self.parse_packet(&blocks);
        } else if self.hook.is_cgroup_call() {
            self.read_address(&blocks);
        }
        for &index in &blocks {
            self.script_block(index);
        }
        let verdict = if self.hook.is_native_event() {
            self.native_verdict(blocks[0])
        } else {
            self.int(self.default_verdict())
        };
        self.b.ins().jump(self.exit, &[BlockArg::Value(verdict)]);
        self.b.switch_to_block(self.exit);
        if self.hook.may_nest() && self.memory.scratch_peak() > 0 {
            let (zero, scratch) = (self.int(0), self.memory.frame());
            self.b.ins().store(plain(), zero, scratch, memory::TAKEN_OFFSET);
        }
        let mut result = self.b.block_params(self.exit)[0];
        if self.hook.may_nest() && self.memory.scratch_peak() > 0 {
            let (zero, scratch) = (self.int(0), self.memory.frame());
            self.b.ins().store(plain(), zero, scratch, memory::TAKEN_OFFSET);
        }
        if self.hook == Hook::CgroupSkb || self.hook.is_cgroup_call() {
            result = self.cgroup_answer(result);
        }
        self.send_capture(result);
        self.b.ins().return_(&[result]);
        self.enter_scratch();
    }

    /// Fills the entry block: working memory is looked up once, if anything turned out to need it.
    fn enter_scratch(&mut self) {
        // A card has none, which has been said where it was wanted.
        let size = if self.in_card { 0 } else { self.memory.scratch_peak() };
        let (entry, body) = (self.memory.entry, self.memory.body);
        self.b.switch_to_block(entry);
        self.b.set_srcloc(SourceLoc::default());
        if size == 0 {
            let zero = self.int(0);
            self.b.ins().jump(body, &[BlockArg::Value(zero)]);
            return;
        }
        let program = self.plan.programs[self.index].name.clone();
        let slots = if self.hook.may_nest() { memory::SLOTS } else { 1 };
        let map = self.plan.map(MapSpec {
            name: format!("scratch_{program}"),
            kind: MapKind::PerCpuArray,
            key_size: 4,
            value_size: size,
            max_entries: slots,
            flags: 0,
            role: MapRole::Scratch,
        });
        let verdict = self.default_verdict();
        for slot in 0..slots {
            let key = self.index_slot();
            let number = self.b.ins().iconst(I32, i64::from(slot));
            self.b.ins().store(plain(), number, key, 0);
            let address = self.map_address(map);
            let pointer = self.helper(helper::MAP_LOOKUP_ELEM, &[address, key]);
            let (some, none) = (self.b.create_block(), self.b.create_block());
            self.b.ins().brif(pointer, some, &[], none, &[]);
            self.b.switch_to_block(none);
            self.b.set_cold_block(none);
            let result = self.int(verdict);
            self.b.ins().return_(&[result]);
            self.b.switch_to_block(some);
            let pointer = self.pin(pointer);
            if slots == 1 {
                self.b.ins().jump(body, &[BlockArg::Value(pointer)]);
                return;
            }
            // Runs that preempt each other need not end in the order of a stack, so each slot has a word of its own.
            let one = self.int(1);
            let word = self.b.ins().iadd_imm_s(pointer, i64::from(memory::TAKEN_OFFSET));
            let taken = self.b.ins().atomic_rmw(I64, plain(), AtomicRmwOp::Xchg, word, one);
            let next = self.b.create_block();
            self.b.ins().brif(taken, next, &[], body, &[BlockArg::Value(pointer)]);
            self.b.switch_to_block(next);
            self.b.set_cold_block(next);
        }
        self.count(CounterSpec::ScratchExhausted);
        let result = self.int(verdict);
        self.b.ins().return_(&[result]);
    }

    fn finish(mut self) -> (Vec<i64>, Vec<Span>) {
        self.b.seal_all_blocks();
        let config = TargetFrontendConfig {
            default_call_conv: CallConv::SystemV,
            pointer_width: target_lexicon::PointerWidth::U64,
            page_size_align_log2: 12,
        };
        self.b.finalize(config);
        (self.consts, self.spans)
    }

    /// A clsact filter outlives a killed owner: without a heartbeat for ten seconds it passes everything.
    fn heartbeat(&mut self) {
        let Some(map) = self.plan.heartbeat else { return };
        let key = self.index_slot();
        let zero = self.b.ins().iconst(I32, 0);
        self.b.ins().store(plain(), zero, key, 0);
        let map = self.map_address(map);
        let beat = self.helper(helper::MAP_LOOKUP_ELEM, &[map, key]);
        let (some, dead, alive) = (self.b.create_block(), self.b.create_block(), self.b.create_block());
        self.b.ins().brif(beat, some, &[], dead, &[]);
        self.b.switch_to_block(some);
        let beat = self.pin(beat);
        let last = self.b.ins().load(I64, plain(), beat, 0);
        let now = self.helper(helper::KTIME_GET_COARSE_NS, &[]);
        let limit = self.b.ins().iadd_imm_s(last, Imm64::new(10_000_000_000));
        let late = self.b.ins().icmp(IntCC::UnsignedGreaterThan, now, limit);
        self.b.ins().brif(late, dead, &[], alive, &[]);
        self.b.switch_to_block(dead);
        self.b.set_cold_block(dead);
        let verdict = self.int(-1);
        self.b.ins().jump(self.exit, &[BlockArg::Value(verdict)]);
        self.b.switch_to_block(alive);
    }

    /// The end of a block on a native's event: the native's verdict, after the rest of the chain had its say.
    fn native_verdict(&mut self, block: usize) -> Value {
        let default = self.default_verdict();
        // Nobody asks a tracing program for its opinion.
        let instance = self.hir.blocks[block].native.filter(|_| self.hook != Hook::NativeTrace);
        let Some(instance) = instance else {
            return self.int(default);
        };
        let Some(record) = self.event_record() else {
            return self.int(default);
        };
        let verdict32 = self.b.ins().load(I32, plain(), record, 0);
        let verdict = self.b.ins().uextend(I64, verdict32);
        // At TC the kernel goes on with the next program by itself.
        if self.hook != Hook::NativeXdp {
            return verdict;
        }
        let (chain, done) = (self.b.create_block(), self.b.create_block());
        let passes = self.compare_imm(IntCC::Equal, verdict, 2);
        self.b.ins().brif(passes, chain, &[], done, &[]);
        self.b.switch_to_block(chain);
        let mut symbol = weir_ebpf_builtins::CHAIN.to_owned();
        if self.starts_with_ip() {
            symbol = weir_ebpf_builtins::of_ip(&symbol);
        }
        let map = self.plan.native_map(instance, &symbol, MapKind::ProgArray, 4, 4, 1);
        let map = self.map_address(map);
        let (ctx, zero) = (self.ctx, self.int(0));
        self.helper(helper::TAIL_CALL, &[ctx, map, zero]);
        self.b.ins().jump(done, &[]);
        self.b.switch_to_block(done);
        verdict
    }

    /// Address of the native's event record. The element always exists, so the missing branch just ends the block.
    pub fn event_record(&mut self) -> Option<Value> {
        let AttachPoint::NativeEvent { instance, event, .. } = self.plan.programs[self.index].attach.first()?.point else {
            return None;
        };
        let native = self.hir.natives[instance].native;
        let (element, elements) = (native.events[event].record, native.records());
        let map = self.plan.native_map(
            instance,
            weir_ebpf_builtins::EVENT,
            MapKind::PerCpuArray,
            4,
            native.event_size,
            elements,
        );
        let key = self.index_slot();
        let element = self.b.ins().iconst(I32, i64::from(element));
        self.b.ins().store(plain(), element, key, 0);
        let map = self.map_address(map);
        let record = self.helper(helper::MAP_LOOKUP_ELEM, &[map, key]);
        let (some, none) = (self.b.create_block(), self.b.create_block());
        self.b.ins().brif(record, some, &[], none, &[]);
        self.b.switch_to_block(none);
        self.b.set_cold_block(none);
        let pass = self.int(self.default_verdict());
        self.b.ins().jump(self.exit, &[BlockArg::Value(pass)]);
        self.b.switch_to_block(some);
        Some(self.pin(record))
    }

    // ---- small things -------------------------------------------------------------------------

    pub fn int(&mut self, n: i64) -> Value {
        self.b.ins().iconst(I64, n)
    }

    pub fn at(&mut self, span: Span) {
        self.place = span;
        // Only the last: a search through all of them would make long scripts quadratic.
        let id = match self.spans.last().filter(|s| **s == span).map(|_| self.spans.len() - 1) {
            Some(id) => id,
            None => {
                self.spans.push(span);
                self.spans.len() - 1
            }
        };
        self.b.set_srcloc(SourceLoc::new(u32::try_from(id).unwrap_or(0)));
    }

    pub fn external(&mut self, namespace: u32, index: u32, params: usize) -> FuncRef {
        // Variadic use is not needed: every helper is called with one number of arguments.
        if let Some(func) = self.helpers.get(&(namespace, index)) {
            return *func;
        }
        let mut signature = Signature::new(CallConv::SystemV);
        signature.params.extend(std::iter::repeat_n(AbiParam::new(I64), params));
        signature.returns.push(AbiParam::new(I64));
        let signature = self.b.import_signature(signature);
        let name = self
            .b
            .func
            .declare_imported_user_function(ir::UserExternalName { namespace, index });
        let func = self.b.import_function(ExtFuncData {
            name: ExternalName::user(name),
            signature,
            colocated: false,
            patchable: false,
        });
        self.helpers.insert((namespace, index), func);
        func
    }

    pub fn helper(&mut self, number: u32, args: &[Value]) -> Value {
        if self.in_card && !helper::IN_CARD.contains(&number) {
            self.card_lacks_helper(number);
        }
        let func = self.external(ns::HELPER, number, args.len());
        let call = self.b.ins().call(func, args);
        self.b.inst_results(call)[0]
    }

    /// Keeps the optimiser from computing the value again elsewhere: the verifier knows only this register.
    pub fn pin(&mut self, value: Value) -> Value {
        let func = self.external(ns::PIN, 0, 1);
        let call = self.b.ins().call(func, &[value]);
        self.b.inst_results(call)[0]
    }

    pub fn map_address(&mut self, map: usize) -> Value {
        self.check_card(map);
        let index = u32::try_from(map).unwrap_or(u32::MAX);
        let global = match self.globals.get(&index) {
            Some(global) => *global,
            None => {
                let name = self
                    .b
                    .func
                    .declare_imported_user_function(ir::UserExternalName { namespace: ns::MAP, index });
                let data = GlobalValueData::Symbol {
                    name: ExternalName::user(name),
                    offset: Imm64::new(0),
                    colocated: false,
                    tls: false,
                };
                let global = self.b.create_global_value(data);
                self.globals.insert(index, global);
                global
            }
        };
        self.b.ins().symbol_value(I64, global)
    }

    pub fn compare_imm(&mut self, cc: IntCC, value: Value, n: i64) -> Value {
        let n = self.int(n);
        self.b.ins().icmp(cc, value, n)
    }

    /// Loads `bytes` bytes in host order, zero-extended.
    pub fn load(&mut self, pointer: Value, offset: i32, bytes: u32) -> Value {
        let ty: Type = match bytes {
            1 => I8,
            2 => I16,
            4 => I32,
            _ => return self.b.ins().load(I64, plain(), pointer, offset),
        };
        let value = self.b.ins().load(ty, plain(), pointer, offset);
        self.b.ins().uextend(I64, value)
    }

    /// Counts something that went wrong.
    pub fn count(&mut self, counter: CounterSpec) {
        let (map, number) = self.plan.counter(counter, self.in_card);
        let key = self.index_slot();
        let index = self.b.ins().iconst(I32, i64::try_from(number).unwrap_or(0));
        self.b.ins().store(plain(), index, key, 0);
        let map = self.map_address(map);
        let pointer = self.helper(helper::MAP_LOOKUP_ELEM, &[map, key]);
        let (some, done) = (self.b.create_block(), self.b.create_block());
        self.b.ins().brif(pointer, some, &[], done, &[]);
        self.b.switch_to_block(some);
        let pointer = self.pin(pointer);
        let one = self.int(1);
        self.bump(pointer, 0, one);
        self.b.ins().jump(done, &[]);
        self.b.switch_to_block(done);
    }
}

/// Text form of one program, for `-d clif`.
#[must_use]
pub fn dump(function: &Function) -> String {
    function.func.display().to_string()
}
