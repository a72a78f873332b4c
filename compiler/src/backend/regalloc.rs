//! Registers and spill slots for [`super::lir`], by regalloc2.
//!
//! `r0`–`r9` are allocatable at equal cost: a program has no callee-saved registers to save. `r10` is the frame pointer.
//! There is no scratch register; regalloc2 finds one where a cycle of moves needs it.

use super::BackendError;
use super::lir::{Block, Lir, Op, Role, V};
use regalloc2::{
    Allocation, Block as RaBlock, Edit, Function, Inst, InstRange, MachineEnv, Operand, Output, PReg, PRegSet, ProgPoint, RegClass,
    RegallocOptions, VReg,
};

/// Where a register operand ended up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Loc {
    Reg(u8),
    /// Index of an 8-byte spill slot.
    Spill(u32),
}

/// A move to make before an instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Move {
    pub from: Loc,
    pub to: Loc,
}

/// What one LIR instruction got.
#[derive(Default)]
pub(super) struct Assigned {
    pub before: Vec<Move>,
    /// Registers of the operands in the order of [`Op::operands`].
    pub regs: Vec<u8>,
    pub after: Vec<Move>,
}

pub(super) struct Allocated {
    /// One for each instruction of each block.
    pub blocks: Vec<Vec<Assigned>>,
    pub num_spills: u32,
}

/// Allocates registers. In builds with debug assertions regalloc2's checker verifies the result.
pub(super) fn allocate(lir: &Lir, name: &str) -> Result<Allocated, BackendError> {
    // Always a bug of ours: the program with virtual registers is what one needs to find it.
    let fail = |message: String| BackendError::RegAlloc {
        function: name.to_owned(),
        message: format!("{message}\n{lir}"),
    };
    let view = View::new(lir);
    let env = environment();
    let options = RegallocOptions {
        validate_ssa: cfg!(debug_assertions),
        ..RegallocOptions::default()
    };
    let output = regalloc2::run(&view, &env, &options).map_err(|e| fail(e.to_string()))?;
    if cfg!(debug_assertions) {
        let mut checker = regalloc2::checker::Checker::new(&view, &env);
        checker.prepare(&output);
        checker.run().map_err(|e| fail(format!("checker: {e:?}")))?;
    }
    collect(&view, &output).map_err(fail)
}

fn environment() -> MachineEnv {
    let mut regs = PRegSet::empty();
    for reg in 0..10 {
        regs.add(preg(reg));
    }
    MachineEnv {
        preferred_regs_by_class: [regs, PRegSet::empty(), PRegSet::empty()],
        non_preferred_regs_by_class: [PRegSet::empty(); 3],
        scratch_by_class: [None; 3],
        fixed_stack_slots: Vec::new(),
    }
}

const fn preg(reg: u8) -> PReg {
    PReg::new(reg as usize, RegClass::Int)
}

const fn vreg(v: V) -> VReg {
    VReg::new(v.0 as usize, RegClass::Int)
}

fn collect(view: &View<'_>, output: &Output) -> Result<Allocated, String> {
    let mut all: Vec<Assigned> = Vec::with_capacity(view.insts.len());
    for index in 0..view.insts.len() {
        let mut regs = Vec::new();
        for alloc in output.inst_allocs(Inst::new(index)) {
            match location(*alloc)? {
                Loc::Reg(reg) => regs.push(reg),
                Loc::Spill(slot) => return Err(format!("instruction {index} got spill slot {slot} for a register")),
            }
        }
        all.push(Assigned {
            regs,
            ..Assigned::default()
        });
    }
    for (point, edit) in &output.edits {
        let Edit::Move { from, to } = edit;
        let step = Move {
            from: location(*from)?,
            to: location(*to)?,
        };
        if step.from == step.to {
            continue;
        }
        let assigned = &mut all[point.inst().index()];
        if *point == ProgPoint::before(point.inst()) {
            assigned.before.push(step)
        } else {
            assigned.after.push(step)
        }
    }
    let mut all = all.into_iter();
    let blocks = view.lir.blocks.iter().map(|b| all.by_ref().take(b.insts.len()).collect()).collect();
    Ok(Allocated {
        blocks,
        num_spills: u32::try_from(output.num_spillslots).unwrap_or(u32::MAX),
    })
}

fn location(alloc: Allocation) -> Result<Loc, String> {
    match (alloc.as_reg(), alloc.as_stack()) {
        (Some(reg), _) => Ok(Loc::Reg(reg.hw_enc() as u8)),
        (_, Some(slot)) => Ok(Loc::Spill(slot.index() as u32)),
        _ => Err("an operand got no place".to_owned()),
    }
}

/// The program as regalloc2 wants to see it.
struct View<'a> {
    lir: &'a Lir,
    insts: Vec<&'a Op>,
    operands: Vec<Vec<Operand>>,
    ranges: Vec<InstRange>,
    succs: Vec<Vec<RaBlock>>,
    preds: Vec<Vec<RaBlock>>,
    params: Vec<Vec<VReg>>,
    /// Arguments for each successor of each block.
    args: Vec<Vec<Vec<VReg>>>,
}

impl<'a> View<'a> {
    fn new(lir: &'a Lir) -> Self {
        let mut view = Self {
            lir,
            insts: Vec::new(),
            operands: Vec::new(),
            ranges: Vec::new(),
            succs: Vec::new(),
            preds: vec![Vec::new(); lir.blocks.len()],
            params: Vec::new(),
            args: Vec::new(),
        };
        for (index, block) in lir.blocks.iter().enumerate() {
            view.block(index, block);
        }
        view
    }

    fn block(&mut self, index: usize, block: &'a Block) {
        let first = Inst::new(self.insts.len());
        for inst in &block.insts {
            self.insts.push(&inst.op);
            let mut operands = Vec::new();
            inst.op.operands(&mut |v, role| {
                operands.push(match role {
                    Role::Use => Operand::reg_use(vreg(v)),
                    Role::UseFixed(reg) => Operand::reg_fixed_use(vreg(v), preg(reg)),
                    Role::Def => Operand::reg_def(vreg(v)),
                    Role::DefFixed(reg) => Operand::reg_fixed_def(vreg(v), preg(reg)),
                    Role::DefReuse(index) => Operand::reg_reuse_def(vreg(v), index),
                });
            });
            self.operands.push(operands);
        }
        self.ranges.push(InstRange::new(first, Inst::new(self.insts.len())));
        self.params.push(block.params.iter().map(|v| vreg(*v)).collect());
        self.succs.push(block.succs.iter().map(|e| RaBlock::new(e.block)).collect());
        self.args
            .push(block.succs.iter().map(|e| e.args.iter().map(|v| vreg(*v)).collect()).collect());
        for edge in &block.succs {
            self.preds[edge.block].push(RaBlock::new(index));
        }
    }
}

impl Function for View<'_> {
    fn num_insts(&self) -> usize {
        self.insts.len()
    }

    fn num_blocks(&self) -> usize {
        self.lir.blocks.len()
    }

    fn entry_block(&self) -> RaBlock {
        RaBlock::new(0)
    }

    fn block_insns(&self, block: RaBlock) -> InstRange {
        self.ranges[block.index()]
    }

    fn block_succs(&self, block: RaBlock) -> &[RaBlock] {
        &self.succs[block.index()]
    }

    fn block_preds(&self, block: RaBlock) -> &[RaBlock] {
        &self.preds[block.index()]
    }

    fn block_params(&self, block: RaBlock) -> &[VReg] {
        &self.params[block.index()]
    }

    fn is_ret(&self, inst: Inst) -> bool {
        matches!(self.insts[inst.index()], Op::Ret(_))
    }

    fn is_branch(&self, inst: Inst) -> bool {
        matches!(self.insts[inst.index()], Op::Jump | Op::Branch(_))
    }

    fn branch_blockparams(&self, block: RaBlock, _: Inst, succ: usize) -> &[VReg] {
        &self.args[block.index()][succ]
    }

    fn inst_operands(&self, inst: Inst) -> &[Operand] {
        &self.operands[inst.index()]
    }

    fn inst_clobbers(&self, inst: Inst) -> PRegSet {
        let mut set = PRegSet::empty();
        if let Op::Call { ret, .. } = self.insts[inst.index()] {
            for reg in u8::from(ret.is_some())..6 {
                set.add(preg(reg));
            }
        }
        set
    }

    fn num_vregs(&self) -> usize {
        self.lir.num_vregs as usize
    }

    fn spillslot_size(&self, _: RegClass) -> usize {
        1
    }
}
