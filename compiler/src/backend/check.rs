//! The allow-list: what instruction selection knows. Runs first, so that selection can assume and never panics.

use super::{BackendError, ns};
use cranelift_codegen::ir::{
    AtomicRmwOp, Endianness, ExternalName, Function, GlobalValue, GlobalValueData, Inst, InstructionData, Opcode, Type, types,
};

/// Refuses whatever selection cannot handle.
pub(super) fn check(func: &Function, name: &str, consts: &[i64]) -> Result<(), BackendError> {
    let refuse = |what: String| {
        Err(BackendError::Unsupported {
            function: name.to_owned(),
            inst: what,
        })
    };
    let signature = &func.signature;
    if signature.params.len() > 5 || signature.params.iter().any(|p| p.value_type != types::I64) || signature.returns.len() > 1 {
        return refuse(format!("signature {signature}"));
    }
    let entry = func.layout.entry_block();
    for block in func.layout.blocks() {
        if func.dfg.block_param_types(block).any(|ty| !is_int(ty)) {
            return refuse(format!("the parameters of {block}"));
        }
        for inst in func.layout.block_insts(block) {
            if !known(func, inst, consts) {
                return refuse(func.dfg.display_inst(inst).to_string());
            }
        }
        if func.block_successors(block).any(|b| Some(b) == entry) {
            return refuse("a jump to the entry block".to_owned());
        }
    }
    Ok(())
}

fn is_int(ty: Type) -> bool {
    matches!(ty, types::I8 | types::I16 | types::I32 | types::I64)
}

fn known(func: &Function, inst: Inst, consts: &[i64]) -> bool {
    let data = func.dfg.insts[inst];
    let results = func.dfg.inst_results(inst);
    let types_ok = results
        .iter()
        .chain(func.dfg.inst_args(inst))
        .all(|v| is_int(func.dfg.value_type(*v)));
    if !types_ok || results.len() > 1 {
        return false;
    }
    let big = |flags| func.dfg.mem_flags[flags].explicit_endianness() == Some(Endianness::Big);
    match data {
        InstructionData::UnaryImm { opcode, .. } => opcode == Opcode::Iconst,
        InstructionData::Unary { opcode, .. } => matches!(
            opcode,
            Opcode::Uextend
                | Opcode::Sextend
                | Opcode::Ireduce
                | Opcode::Ineg
                | Opcode::Bnot
                | Opcode::Iabs
                | Opcode::Bmask
                | Opcode::Popcnt
                | Opcode::Clz
                | Opcode::Ctz
                | Opcode::Bswap
        ),
        InstructionData::Binary { opcode, .. } => matches!(
            opcode,
            Opcode::Iadd
                | Opcode::Isub
                | Opcode::Imul
                | Opcode::Umulhi
                | Opcode::Smulhi
                | Opcode::Udiv
                | Opcode::Sdiv
                | Opcode::Urem
                | Opcode::Srem
                | Opcode::Band
                | Opcode::Bor
                | Opcode::Bxor
                | Opcode::Rotl
                | Opcode::Rotr
                | Opcode::Ishl
                | Opcode::Ushr
                | Opcode::Sshr
                | Opcode::Smin
                | Opcode::Umin
                | Opcode::Smax
                | Opcode::Umax
        ),
        InstructionData::Ternary { opcode, .. } => matches!(opcode, Opcode::Select | Opcode::SelectSpectreGuard | Opcode::Bitselect),
        InstructionData::IntCompare { .. }
        | InstructionData::StackAddr { .. }
        | InstructionData::Jump { .. }
        | InstructionData::Brif { .. }
        | InstructionData::BranchTable { .. } => true,
        InstructionData::MultiAry { opcode, .. } => opcode == Opcode::Return,
        InstructionData::Load { flags, .. } | InstructionData::Store { flags, .. } => !big(flags),
        InstructionData::LoadNoOffset { opcode, flags, .. } => opcode == Opcode::AtomicLoad && !big(flags),
        InstructionData::StoreNoOffset { opcode, flags, .. } => opcode == Opcode::AtomicStore && !big(flags),
        InstructionData::AtomicRmw { flags, op, .. } => {
            let ty = func.dfg.value_type(results[0]);
            let op = matches!(
                op,
                AtomicRmwOp::Add | AtomicRmwOp::Sub | AtomicRmwOp::And | AtomicRmwOp::Or | AtomicRmwOp::Xor | AtomicRmwOp::Xchg
            );
            op && matches!(ty, types::I32 | types::I64) && !big(flags)
        }
        InstructionData::AtomicCas { flags, .. } => matches!(func.dfg.value_type(results[0]), types::I32 | types::I64) && !big(flags),
        InstructionData::UnaryGlobalValue { opcode, global_value } => {
            opcode == Opcode::SymbolValue
                && match symbol(func, global_value) {
                    Some((ns::MAP, _, 0) | (ns::HIDDEN, _, _)) => true,
                    Some((ns::RODATA, 0, offset)) => u32::try_from(offset).is_ok(),
                    _ => false,
                }
        }
        InstructionData::FuncAddr { func_ref, .. } => {
            matches!(
                user_name(func, &func.dfg.ext_funcs[func_ref].name),
                Some((ns::SUBPROG | ns::SUBPROG_ADDR, _))
            )
        }
        InstructionData::Call { opcode, func_ref, .. } => {
            let args = func.dfg.inst_args(inst).len();
            opcode == Opcode::Call
                && match user_name(func, &func.dfg.ext_funcs[func_ref].name) {
                    Some((ns::HELPER | ns::SUBPROG, _)) => args <= 5,
                    Some((ns::CONST, index)) => args == 0 && results.len() == 1 && (index as usize) < consts.len(),
                    Some((ns::PIN, _)) => {
                        args == 1
                            && results.len() == 1
                            && func.dfg.value_type(results[0]) == func.dfg.value_type(func.dfg.inst_args(inst)[0])
                    }
                    _ => false,
                }
        }
        _ => false,
    }
}

/// Name space and index of a symbol.
pub(super) fn user_name(func: &Function, name: &ExternalName) -> Option<(u32, u32)> {
    let ExternalName::User(name) = name else { return None };
    let name = func.params.user_named_funcs().get(*name)?;
    Some((name.namespace, name.index))
}

/// Name space, index and offset of a global value.
pub(super) fn symbol(func: &Function, gv: GlobalValue) -> Option<(u32, u32, i64)> {
    match func.global_values.get(gv)? {
        GlobalValueData::Symbol { name, offset, .. } => {
            let (namespace, index) = user_name(func, name)?;
            Some((namespace, index, offset.bits()))
        }
        _ => None,
    }
}
