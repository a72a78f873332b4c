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
#[derive(Clone, Copy)]
pub(super) struct Assigned<'a> {
    pub before: &'a [Move],
    /// Registers of the operands in the order of [`Op::operands`].
    pub regs: &'a [u8],
    pub after: &'a [Move],
}

/// What all instructions got, numbered through all blocks.
pub(super) struct Allocated {
    regs: Vec<u8>,
    /// For each instruction, and for the end, the first of its `regs`.
    first_reg: Vec<u32>,
    moves: Vec<Move>,
    /// For the places before and after each instruction, and for the end, the first of its `moves`.
    first_move: Vec<u32>,
    /// Number of each block's first instruction.
    first_inst: Vec<u32>,
    pub num_spills: u32,
}

impl Allocated {
    /// Of an instruction, by block and position in it.
    pub fn assigned(&self, block: usize, position: usize) -> Assigned<'_> {
        let inst = self.first_inst[block] as usize + position;
        let moves = |place: usize| &self.moves[self.first_move[place] as usize..self.first_move[place + 1] as usize];
        Assigned {
            before: moves(2 * inst),
            regs: &self.regs[self.first_reg[inst] as usize..self.first_reg[inst + 1] as usize],
            after: moves(2 * inst + 1),
        }
    }
}

/// regalloc2's working memory, for one function after the other.
pub(super) struct Allocator {
    ctx: regalloc2::Ctx,
    env: MachineEnv,
}

impl Default for Allocator {
    fn default() -> Self {
        Self {
            ctx: regalloc2::Ctx::default(),
            env: environment(),
        }
    }
}

impl Allocator {
    /// Allocates registers. In builds with debug assertions regalloc2's checker verifies the result.
    pub fn allocate(&mut self, lir: &Lir, name: &str) -> Result<Allocated, BackendError> {
        // Always a bug of ours: the program with virtual registers is what one needs to find it.
        let fail = |message: String| BackendError::RegAlloc {
            function: name.to_owned(),
            message: format!("{message}\n{lir}"),
        };
        let view = View::new(lir);
        let options = RegallocOptions {
            validate_ssa: cfg!(debug_assertions),
            ..RegallocOptions::default()
        };
        let output = regalloc2::run_with_ctx(&view, &self.env, &options, &mut self.ctx).map_err(|e| fail(e.to_string()))?;
        if cfg!(debug_assertions) {
            let mut checker = regalloc2::checker::Checker::new(&view, &self.env);
            checker.prepare(output);
            checker.run().map_err(|e| fail(format!("checker: {e:?}")))?;
        }
        collect(&view, output).map_err(fail)
    }
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
    let count = view.insts.len();
    let mut regs = Vec::with_capacity(view.operands.len());
    let mut first_reg = Vec::with_capacity(count + 1);
    for index in 0..count {
        first_reg.push(regs.len() as u32);
        for alloc in output.inst_allocs(Inst::new(index)) {
            match location(*alloc)? {
                Loc::Reg(reg) => regs.push(reg),
                Loc::Spill(slot) => return Err(format!("instruction {index} got spill slot {slot} for a register")),
            }
        }
    }
    first_reg.push(regs.len() as u32);
    let mut moves = Vec::with_capacity(output.edits.len());
    let mut first_move = Vec::with_capacity(2 * count + 1);
    let mut edits = output.edits.iter().peekable();
    for place in 0..2 * count {
        first_move.push(moves.len() as u32);
        let inst = Inst::new(place / 2);
        let point = if place % 2 == 0 {
            ProgPoint::before(inst)
        } else {
            ProgPoint::after(inst)
        };
        // In the order of the program, so says regalloc2.
        while let Some((_, edit)) = edits.next_if(|(at, _)| *at <= point) {
            let Edit::Move { from, to } = edit;
            let step = Move {
                from: location(*from)?,
                to: location(*to)?,
            };
            if step.from != step.to {
                moves.push(step);
            }
        }
    }
    first_move.push(moves.len() as u32);
    Ok(Allocated {
        regs,
        first_reg,
        moves,
        first_move,
        first_inst: view.ranges.iter().map(|range| range.first().index() as u32).collect(),
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
    operands: Vec<Operand>,
    /// For each instruction, and for the end, the first of its `operands`.
    first_operand: Vec<u32>,
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
            first_operand: vec![0],
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
            inst.op.operands(&mut |v, role| {
                self.operands.push(match role {
                    Role::Use => Operand::reg_use(vreg(v)),
                    Role::UseFixed(reg) => Operand::reg_fixed_use(vreg(v), preg(reg)),
                    Role::Def => Operand::reg_def(vreg(v)),
                    Role::DefFixed(reg) => Operand::reg_fixed_def(vreg(v), preg(reg)),
                    Role::DefReuse(index) => Operand::reg_reuse_def(vreg(v), index),
                });
            });
            self.first_operand.push(self.operands.len() as u32);
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
        let index = inst.index();
        &self.operands[self.first_operand[index] as usize..self.first_operand[index + 1] as usize]
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
