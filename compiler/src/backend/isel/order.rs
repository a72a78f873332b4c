//! The order of blocks: a reverse postorder that keeps loops together, and which blocks are cold.

use super::destinations;
use cranelift_codegen::entity::SecondaryMap;
use cranelift_codegen::flowgraph::ControlFlowGraph;
use cranelift_codegen::ir::{Block, Function};
use cranelift_codegen::loop_analysis::LoopAnalysis;

pub(super) struct Order {
    /// A block comes after those that dominate it, and the body of a loop before what follows the loop.
    pub blocks: Vec<Block>,
    /// Marked as cold in the CLIF, or reached from such blocks only.
    pub cold: SecondaryMap<Block, bool>,
}

/// Orders the blocks of `func`, all of which are reachable.
pub(super) fn order(func: &Function, cfg: &ControlFlowGraph, loops: &LoopAnalysis) -> Order {
    let mut postorder: Vec<Block> = Vec::new();
    let mut seen: SecondaryMap<Block, bool> = SecondaryMap::new();
    // Blocks being visited, with the successors that are still to do, the next one last.
    let mut stack: Vec<(Block, Vec<Block>)> = Vec::new();
    let visit = |block: Block| -> (Block, Vec<Block>) {
        let calls = destinations(func, block);
        let mut next: Vec<Block> = calls.iter().map(|call| call.block(&func.dfg.value_lists)).collect();
        // Taken from the end, and what is taken first comes last in the result: first cold blocks, then the way out of a
        // loop, then the arms of a branch in their order, so that the second one falls through.
        let leaves = |to: Block| loops.innermost_loop(block).is_some_and(|l| !loops.is_in_loop(to, l));
        next.reverse();
        next.sort_by_key(|to| (func.layout.is_cold(*to), leaves(*to)));
        (block, next)
    };
    if let Some(entry) = func.layout.entry_block() {
        seen[entry] = true;
        stack.push(visit(entry));
    }
    while let Some((block, todo)) = stack.last_mut() {
        match todo.pop() {
            Some(next) => {
                if !std::mem::replace(&mut seen[next], true) {
                    stack.push(visit(next));
                }
            }
            None => {
                postorder.push(*block);
                stack.pop();
            }
        }
    }
    let blocks: Vec<Block> = postorder.into_iter().rev().collect();

    let mut cold: SecondaryMap<Block, bool> = SecondaryMap::new();
    for &block in &blocks {
        let mut preds = cfg.pred_iter(block).map(|p| p.block).filter(|p| *p != block).peekable();
        // A back edge comes from a block that is not decided yet, and does not count as cold.
        cold[block] = func.layout.is_cold(block) || (preds.peek().is_some() && preds.all(|p| cold[p]));
    }
    Order { blocks, cold }
}
