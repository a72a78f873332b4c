//! CLIF to CLIF: Cranelift's target-independent passes, arranged so that the kernel verifier still follows the program.
//!
//! Assumes: CLIF as described in [`super`]. Guarantees: CLIF without unreachable blocks and value aliases, in builds with
//! debug assertions verified before and after.
//!
//! Two things differ from what Cranelift does for its own targets:
//! - a division by a constant stays a division (the e-graph would make a 16-instruction multiplication of it): the
//!   constant is hidden behind a symbol before the e-graph runs;
//! - after the e-graph, equal expressions are merged again over the dominator tree. The e-graph places a pure value once
//!   per use block; the kernel verifier learns bounds per register, so a bound learnt on one copy would be lost on the
//!   other.

use super::{BackendError, ns};
use crate::FxHashMap;
use cranelift_codegen::Context;
use cranelift_codegen::control::ControlPlane;
use cranelift_codegen::flowgraph::ControlFlowGraph;
use cranelift_codegen::ir::{
    Block, ExternalName, Function, GlobalValue, GlobalValueData, Inst, InstBuilder, InstructionData, Opcode, Type, UserExternalName, Value,
    ValueDef, types,
};
use cranelift_codegen::loop_analysis::LoopAnalysis;
use cranelift_codegen::settings::{self, Configurable, Flags};
use rustc_hash::FxBuildHasher;
use std::collections::hash_map::Entry;

/// Runs the mid-end on `func`.
///
/// # Errors
///
/// In builds with debug assertions: the CLIF does not verify, before or after, because of a bug in what made it, or in a pass.
pub fn optimise(func: &mut Function) -> Result<(), BackendError> {
    Optimiser::default().run(func, true)
}

/// Cranelift's working memory and settings, for one function after the other.
pub(super) struct Optimiser {
    ctx: Context,
    flags: Flags,
}

impl Default for Optimiser {
    fn default() -> Self {
        let mut builder = settings::builder();
        // As Cranelift's authors advise: verifying takes longer than what it verifies. Every test runs with it.
        builder
            .set("enable_verifier", if cfg!(debug_assertions) { "true" } else { "false" })
            .ok();
        Self {
            ctx: Context::new(),
            flags: Flags::new(builder),
        }
    }
}

impl Optimiser {
    /// `full` is false: only what instruction selection needs (no unreachable blocks, no aliases).
    pub fn run(&mut self, func: &mut Function, full: bool) -> Result<(), BackendError> {
        // What `Context::clear` would do: nothing of the function before may be left.
        self.ctx.cfg.clear();
        self.ctx.domtree.clear();
        self.ctx.loop_analysis.clear();
        std::mem::swap(&mut self.ctx.func, func);
        let result = passes(&mut self.ctx, &self.flags, full);
        if result.is_ok() {
            self.ctx.compute_loop_analysis();
        }
        std::mem::swap(&mut self.ctx.func, func);
        result
    }

    /// The flow graph of the function that was run last.
    pub fn cfg(&self) -> &ControlFlowGraph {
        &self.ctx.cfg
    }

    /// The loops of the function that was run last.
    pub fn loops(&self) -> &LoopAnalysis {
        &self.ctx.loop_analysis
    }
}

fn passes(ctx: &mut Context, flags: &Flags, full: bool) -> Result<(), BackendError> {
    verify(ctx, flags, "input")?;
    ctx.flowgraph();
    ctx.eliminate_unreachable_code(flags)
        .map_err(|e| internal("unreachable code", &e))?;
    if !full {
        ctx.func.dfg.resolve_all_aliases();
        return Ok(());
    }
    ctx.remove_constant_phis(flags).map_err(|e| internal("constant phis", &e))?;
    ctx.func.dfg.resolve_all_aliases();
    hide_divisors(&mut ctx.func);
    ctx.egraph_pass(flags, &mut ControlPlane::default())
        .map_err(|e| internal("e-graph", &e))?;
    // The e-graph may have turned branches into jumps, for which it has computed graph and tree anew, and left aliases.
    ctx.eliminate_unreachable_code(flags)
        .map_err(|e| internal("unreachable code", &e))?;
    ctx.remove_constant_phis(flags).map_err(|e| internal("constant phis", &e))?;
    merge_equal(ctx);
    ctx.func.dfg.resolve_all_aliases();
    verify(ctx, flags, "output")
}

fn verify(ctx: &Context, flags: &Flags, stage: &'static str) -> Result<(), BackendError> {
    if !flags.enable_verifier() {
        return Ok(());
    }
    ctx.verify(flags).map_err(|e| BackendError::Verifier {
        stage,
        message: format!("{e}\n{}", ctx.func.display()),
    })
}

fn internal(stage: &'static str, e: &cranelift_codegen::CodegenError) -> BackendError {
    BackendError::Verifier {
        stage,
        message: e.to_string(),
    }
}

/// Replaces constant divisors that are not powers of two by symbols whose value the e-graph cannot know.
fn hide_divisors(func: &mut Function) {
    let mut hidden: FxHashMap<i64, GlobalValue> = FxHashMap::default();
    let blocks: Vec<Block> = func.layout.blocks().collect();
    for block in blocks {
        let insts: Vec<Inst> = func.layout.block_insts(block).collect();
        for inst in insts {
            let InstructionData::Binary {
                opcode: Opcode::Udiv | Opcode::Urem | Opcode::Sdiv | Opcode::Srem,
                args,
            } = func.dfg.insts[inst]
            else {
                continue;
            };
            let Some(value) = iconst(func, args[1]) else { continue };
            let ty = func.dfg.value_type(args[1]);
            let unsigned = (value as u64) & mask(ty);
            if unsigned.is_power_of_two() {
                continue;
            }
            let gv = *hidden.entry(value).or_insert_with(|| hidden_constant(func, value));
            let mut cursor = cranelift_codegen::cursor::FuncCursor::new(func).at_inst(inst);
            use cranelift_codegen::cursor::Cursor;
            let wide = cursor.ins().symbol_value(types::I64, gv);
            let divisor = if ty == types::I64 { wide } else { cursor.ins().ireduce(ty, wide) };
            func.dfg.inst_args_mut(inst)[1] = divisor;
        }
    }
}

fn hidden_constant(func: &mut Function, value: i64) -> GlobalValue {
    let name = func.declare_imported_user_function(UserExternalName {
        namespace: ns::HIDDEN,
        index: 0,
    });
    func.create_global_value(GlobalValueData::Symbol {
        name: ExternalName::User(name),
        offset: value.into(),
        colocated: false,
        tls: false,
    })
}

fn mask(ty: Type) -> u64 {
    if ty.bits() >= 64 { u64::MAX } else { (1 << ty.bits()) - 1 }
}

fn iconst(func: &Function, value: Value) -> Option<i64> {
    let ValueDef::Result(inst, _) = func.dfg.value_def(func.dfg.resolve_aliases(value)) else {
        return None;
    };
    match func.dfg.insts[inst] {
        InstructionData::UnaryImm {
            opcode: Opcode::Iconst,
            imm,
        } => Some(imm.bits()),
        _ => None,
    }
}

/// What makes two pure instructions equal.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    opcode: Opcode,
    ty: Type,
    args: [Option<Value>; 3],
    /// Condition code, immediate or entity, whichever the format has.
    extra: i64,
    extra2: i64,
}

fn key(func: &Function, inst: Inst) -> Option<Key> {
    let data = func.dfg.insts[inst];
    let opcode = data.opcode();
    let (extra, extra2) = match data {
        // Division traps in CLIF, but not in BPF.
        InstructionData::Unary { .. } | InstructionData::Binary { .. } | InstructionData::Ternary { .. } => (0, 0),
        InstructionData::IntCompare { cond, .. } => (cond as i64, 0),
        InstructionData::UnaryImm { imm, .. } => (imm.bits(), 0),
        InstructionData::UnaryGlobalValue { global_value, .. } => (i64::from(global_value.as_u32()), 0),
        InstructionData::StackAddr { stack_slot, offset, .. } => (i64::from(stack_slot.as_u32()), i64::from(offset)),
        InstructionData::FuncAddr { func_ref, .. } => (i64::from(func_ref.as_u32()), 0),
        _ => return None,
    };
    let [result] = func.dfg.inst_results(inst) else { return None };
    if opcode.can_load() || opcode.can_store() || opcode.is_call() || opcode.is_branch() || opcode.is_terminator() {
        return None;
    }
    let mut args = [None; 3];
    for (place, arg) in args.iter_mut().zip(func.dfg.inst_args(inst)) {
        *place = Some(func.dfg.resolve_aliases(*arg));
    }
    Some(Key {
        opcode,
        ty: func.dfg.value_type(*result),
        args,
        extra,
        extra2,
    })
}

/// Merges an instruction into an equal one that dominates it.
fn merge_equal(ctx: &mut Context) {
    enum Step {
        Enter(Block),
        Leave(usize),
    }
    let mut seen: FxHashMap<Key, Inst> = FxHashMap::with_capacity_and_hasher(ctx.func.dfg.num_insts(), FxBuildHasher);
    // Keys in the order they were added, so that leaving a subtree of the dominator tree can take them out again.
    let mut trail: Vec<Key> = Vec::new();
    let Some(entry) = ctx.func.layout.entry_block() else { return };
    let mut work = vec![Step::Enter(entry)];
    while let Some(step) = work.pop() {
        match step {
            Step::Leave(len) => trail.drain(len..).for_each(|key| {
                seen.remove(&key);
            }),
            Step::Enter(block) => {
                work.push(Step::Leave(trail.len()));
                let mut next = ctx.func.layout.first_inst(block);
                while let Some(inst) = next {
                    next = ctx.func.layout.next_inst(inst);
                    let Some(key) = key(&ctx.func, inst) else { continue };
                    match seen.entry(key) {
                        Entry::Occupied(earlier) => {
                            ctx.func.dfg.replace_with_aliases(inst, *earlier.get());
                            ctx.func.layout.remove_inst(inst);
                        }
                        Entry::Vacant(place) => {
                            place.insert(inst);
                            trail.push(key);
                        }
                    }
                }
                work.extend(ctx.domtree.children(block).map(Step::Enter));
            }
        }
    }
}
