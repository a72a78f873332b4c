//! Branches, and the blocks that they need in between.

use super::super::lir::{Block as LirBlock, Cc, Cond, Edge, Inst as LirInst, Op, Src, Width};
use super::Isel;
use cranelift_codegen::ir::{BlockCall, Inst, InstructionData, Value};

impl Isel<'_> {
    pub(super) fn terminator(&mut self, index: usize, inst: Inst) {
        let func = self.func;
        match func.dfg.insts[inst] {
            InstructionData::Jump { destination, .. } => self.jump(index, &destination),
            InstructionData::Brif { arg, blocks, .. } => {
                let pool = &func.dfg.value_lists;
                let same = blocks[0].block(pool) == blocks[1].block(pool) && self.call_args(&blocks[0]) == self.call_args(&blocks[1]);
                match self.constant(arg) {
                    Some(0) => self.jump(index, &blocks[1]),
                    Some(_) => self.jump(index, &blocks[0]),
                    None if same => self.jump(index, &blocks[0]),
                    None => {
                        let cond = self.cond(arg, false);
                        let (yes, no) = (self.branch_edge(index, &blocks[0]), self.branch_edge(index, &blocks[1]));
                        self.push(Op::Branch(cond));
                        self.blocks[index].succs = vec![yes, no];
                    }
                }
            }
            InstructionData::BranchTable { arg, table, .. } => {
                let table = &func.dfg.jump_tables[table];
                self.branch_table(index, arg, table.as_slice(), &table.default_block());
            }
            InstructionData::MultiAry { .. } => {
                let value = func.dfg.inst_args(inst).first().copied();
                let v = match value {
                    Some(value) => self.reg(value),
                    None => self.constant_reg(0),
                };
                self.push(Op::Ret(v));
            }
            _ => unreachable!("checked before selection"),
        }
    }

    /// The registers to pass along an edge: those of the parameters that are live.
    pub(super) fn edge(&mut self, call: &BlockCall) -> Edge {
        let func = self.func;
        let block = call.block(&func.dfg.value_lists);
        let params = func.dfg.block_params(block);
        let args = self.call_args(call);
        let live: Vec<Value> = params
            .iter()
            .zip(args)
            .filter(|(p, _)| self.live[**p])
            .map(|(_, arg)| arg)
            .collect();
        Edge {
            block: self.block_ids[block],
            args: live.into_iter().map(|arg| self.reg(arg)).collect(),
        }
    }

    pub(super) fn jump(&mut self, index: usize, call: &BlockCall) {
        let edge = self.edge(call);
        self.push(Op::Jump);
        self.blocks[index].succs = vec![edge];
    }

    /// An edge out of a conditional branch; it goes through a block of its own if it is critical or passes arguments.
    pub(super) fn branch_edge(&mut self, index: usize, call: &BlockCall) -> Edge {
        let block = call.block(&self.func.dfg.value_lists);
        if self.preds[block] == 1 && call.len(&self.func.dfg.value_lists) == 0 {
            return Edge {
                block: self.block_ids[block],
                args: Vec::new(),
            };
        }
        let saved = std::mem::take(&mut self.cur);
        let edge = self.edge(call);
        self.push(Op::Jump);
        let insts = std::mem::replace(&mut self.cur, saved);
        let id = self.extra_block(index);
        self.blocks[id].insts = insts;
        self.blocks[id].succs = vec![edge];
        Edge {
            block: id,
            args: Vec::new(),
        }
    }

    pub(super) fn extra_block(&mut self, index: usize) -> usize {
        let id = self.blocks.len();
        self.blocks.push(LirBlock::default());
        self.extras[index].push(id);
        id
    }

    /// A jump table is a chain of tests: BPF has no indirect jump on the kernels this is for.
    pub(super) fn branch_table(&mut self, index: usize, arg: Value, table: &[BlockCall], default: &BlockCall) {
        if let Some(c) = self.constant(arg) {
            let call = usize::try_from(c).ok().and_then(|c| table.get(c)).unwrap_or(default);
            return self.jump(index, call);
        }
        let lhs = self.reg(arg);
        // Filled in from block `index` on; each test falls through to the next.
        let mut current = index;
        let mut insts = std::mem::take(&mut self.cur);
        for (i, call) in table.iter().enumerate() {
            let last = i + 1 == table.len();
            let yes = self.branch_edge(index, call);
            let no = if last {
                self.branch_edge(index, default)
            } else {
                Edge {
                    block: self.extra_block(index),
                    args: Vec::new(),
                }
            };
            let rhs = Src::Imm(i as i32);
            insts.push(LirInst {
                op: Op::Branch(Cond {
                    width: Width::W64,
                    cc: Cc::Eq,
                    lhs,
                    rhs,
                }),
                loc: self.loc,
            });
            let next = no.block;
            if current == index {
                self.cur = std::mem::take(&mut insts);
            } else {
                self.blocks[current].insts = std::mem::take(&mut insts);
            }
            self.blocks[current].succs = vec![yes, no];
            current = next;
        }
        if table.is_empty() {
            self.cur = insts;
            self.jump(index, default);
        }
    }
}
