//! The same CLIF as native x86-64 code, by Cranelift's own back end.
//!
//! Is: the oracle of the differential tests, and the engine that replays capture files without privileges. Is not: a
//! sandbox. No kernel verifier stands behind it; memory accesses are bounded by the program's own checks only.

use super::{BackendError, check, ns, opt};
use cranelift_codegen::Context;
use cranelift_codegen::binemit::Reloc;
use cranelift_codegen::control::ControlPlane;
use cranelift_codegen::cursor::{Cursor, FuncCursor};
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{Function, Inst, InstBuilder, InstructionData, Opcode, types};
use cranelift_codegen::isa::{self, CallConv};
use cranelift_codegen::settings::{self, Configurable, Flags};
use std::ptr::NonNull;

/// What a function refers to; the caller gives it a number or an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Symbol {
    /// Address of an `extern "C"` function that stands in for a kernel helper.
    Helper(u32),
    /// Whatever the stand-ins take for a map.
    Map(u32),
    /// Address of a compiled subprogram.
    Subprog(u32),
    /// Address of the byte at this offset of `.rodata`.
    Rodata(u32),
}

#[derive(Debug, thiserror::Error)]
pub enum NativeError {
    #[error(transparent)]
    Backend(#[from] BackendError),
    #[error("no native code for this machine: {0}")]
    NoTarget(String),
    #[error("cranelift: {0}")]
    Codegen(String),
    #[error("`{0:?}` has no native counterpart")]
    Unresolved(Symbol),
    #[error("cannot map {bytes} bytes of executable memory: {source}")]
    Map { bytes: usize, source: std::io::Error },
}

/// Executable code of one function. Unmapped when dropped.
#[derive(Debug)]
pub struct Native {
    start: NonNull<libc::c_void>,
    len: usize,
}

// SAFETY: the mapping is read-only after construction and owned by this value.
unsafe impl Send for Native {}
// SAFETY: see above.
unsafe impl Sync for Native {}

impl Native {
    /// Address of the function, `extern "C" fn(i64, …) -> i64` with the parameters of the CLIF.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.start.as_ptr() as u64
    }

    /// Calls a function that takes one argument.
    ///
    /// # Safety
    ///
    /// The function was compiled from CLIF with the signature `(i64) -> i64`, and every address that it computes from
    /// `ctx` and from what its symbols resolved to is valid for the access it makes there.
    pub unsafe fn call(&self, ctx: u64) -> i64 {
        // SAFETY: the mapping holds code for this signature, by the caller's promise.
        let function: extern "C" fn(u64) -> i64 = unsafe { std::mem::transmute(self.start.as_ptr()) };
        function(ctx)
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        // SAFETY: `start` and `len` are those of a mapping that nobody else has.
        unsafe { libc::munmap(self.start.as_ptr(), self.len) };
    }
}

/// Compiles `func` for this machine. `resolve` gives symbols their values.
///
/// # Errors
///
/// The machine is not x86-64, a symbol has no value, or Cranelift cannot compile the function.
pub fn compile(func: &Function, consts: &[i64], resolve: &dyn Fn(Symbol) -> Option<u64>) -> Result<Native, NativeError> {
    let mut func = func.clone();
    guard_divisions(&mut func);
    opt::Optimiser::default().run(&mut func, false)?;
    check::check(&func, "native", consts)?;
    resolve_symbols(&mut func, consts, resolve)?;
    func.signature.call_conv = CallConv::SystemV;
    for signature in func.dfg.signatures.values_mut() {
        signature.call_conv = CallConv::SystemV;
    }
    for callee in func.dfg.ext_funcs.values_mut() {
        // Far away: called through a 64-bit address.
        callee.colocated = false;
    }

    let mut flags = settings::builder();
    for (name, value) in [("opt_level", "speed"), ("is_pic", "false")] {
        flags.set(name, value).map_err(|e| NativeError::Codegen(e.to_string()))?;
    }
    let isa = isa::lookup_by_name("x86_64-unknown-linux-gnu").map_err(|e| NativeError::NoTarget(e.to_string()))?;
    let isa = isa.finish(Flags::new(flags)).map_err(|e| NativeError::NoTarget(e.to_string()))?;
    let mut ctx = Context::for_function(func);
    ctx.compile(&*isa, &mut ControlPlane::default())
        .map_err(|e| NativeError::Codegen(e.inner.to_string()))?;
    let code = ctx.compiled_code().ok_or_else(|| NativeError::Codegen("no code".to_owned()))?;
    let mut bytes = code.code_buffer().to_vec();
    for reloc in code.buffer.relocs() {
        let target = match &reloc.target {
            cranelift_codegen::FinalizedRelocTarget::ExternalName(name) => check::user_name(&ctx.func, name),
            cranelift_codegen::FinalizedRelocTarget::Func(_) => None,
        };
        let symbol = match target {
            Some((ns::HELPER, index)) => Symbol::Helper(index),
            Some((ns::SUBPROG, index)) => Symbol::Subprog(index),
            _ => return Err(NativeError::Codegen(format!("relocation against {:?}", reloc.target))),
        };
        let address = resolve(symbol)
            .ok_or(NativeError::Unresolved(symbol))?
            .wrapping_add_signed(reloc.addend);
        let at = reloc.offset as usize;
        match (reloc.kind, bytes.get_mut(at..at + 8)) {
            (Reloc::Abs8, Some(place)) => place.copy_from_slice(&address.to_le_bytes()),
            _ => return Err(NativeError::Codegen(format!("relocation of kind {:?}", reloc.kind))),
        }
    }
    map(&bytes)
}

/// Makes division total, as it is in BPF: by zero it gives 0, a remainder the dividend, and the least number divided by -1 is
/// itself. The machine would stop at all of these.
fn guard_divisions(func: &mut Function) {
    let insts: Vec<Inst> = func.layout.blocks().flat_map(|b| func.layout.block_insts(b)).collect();
    for inst in insts {
        let opcode = func.dfg.insts[inst].opcode();
        let (signed, remainder) = match opcode {
            Opcode::Udiv => (false, false),
            Opcode::Urem => (false, true),
            Opcode::Sdiv => (true, false),
            Opcode::Srem => (true, true),
            _ => continue,
        };
        let (dividend, divisor) = (func.dfg.inst_args(inst)[0], func.dfg.inst_args(inst)[1]);
        let ty = func.dfg.value_type(divisor);
        let result = func.dfg.first_result(inst);
        let mut cursor = FuncCursor::new(func).at_inst(inst);
        let (zero, one) = (cursor.ins().iconst(ty, 0), cursor.ins().iconst(ty, 1));
        let is_zero = cursor.ins().icmp(IntCC::Equal, divisor, zero);
        let mut safe = cursor.ins().select(is_zero, one, divisor);
        let mut minus = None;
        if signed {
            let all = cursor.ins().bnot(zero);
            let is_minus = cursor.ins().icmp(IntCC::Equal, divisor, all);
            safe = cursor.ins().select(is_minus, one, safe);
            minus = Some(is_minus);
        }
        let mut value = match opcode {
            Opcode::Udiv => cursor.ins().udiv(dividend, safe),
            Opcode::Urem => cursor.ins().urem(dividend, safe),
            Opcode::Sdiv => cursor.ins().sdiv(dividend, safe),
            _ => cursor.ins().srem(dividend, safe),
        };
        if let Some(is_minus) = minus
            && !remainder
        {
            let negated = cursor.ins().ineg(dividend);
            value = cursor.ins().select(is_minus, negated, value);
        }
        let by_zero = if remainder { dividend } else { zero };
        value = cursor.ins().select(is_zero, by_zero, value);
        func.dfg.clear_results(inst);
        func.dfg.change_to_alias(result, value);
        func.layout.remove_inst(inst);
    }
}

/// Replaces symbols by numbers, opaque constants by constants and pins by their argument.
fn resolve_symbols(func: &mut Function, consts: &[i64], resolve: &dyn Fn(Symbol) -> Option<u64>) -> Result<(), NativeError> {
    let number = |symbol| resolve(symbol).ok_or(NativeError::Unresolved(symbol));
    let insts: Vec<Inst> = func.layout.blocks().flat_map(|b| func.layout.block_insts(b)).collect();
    for inst in insts {
        let value = match func.dfg.insts[inst] {
            InstructionData::UnaryGlobalValue { global_value, .. } => match check::symbol(func, global_value) {
                Some((ns::MAP, index, _)) => number(Symbol::Map(index))?,
                Some((ns::RODATA, _, offset)) => number(Symbol::Rodata(offset as u32))?,
                Some((ns::HIDDEN, _, value)) => value as u64,
                _ => continue,
            },
            InstructionData::FuncAddr { func_ref, .. } => match check::user_name(func, &func.dfg.ext_funcs[func_ref].name) {
                Some((_, index)) => number(Symbol::Subprog(index))?,
                None => continue,
            },
            InstructionData::Call { func_ref, .. } => match check::user_name(func, &func.dfg.ext_funcs[func_ref].name) {
                Some((ns::CONST, index)) => consts[index as usize] as u64,
                Some((ns::PIN, _)) => {
                    let (result, arg) = (func.dfg.first_result(inst), func.dfg.inst_args(inst)[0]);
                    func.dfg.clear_results(inst);
                    func.dfg.change_to_alias(result, arg);
                    func.layout.remove_inst(inst);
                    continue;
                }
                _ => continue,
            },
            _ => continue,
        };
        let result = func.dfg.first_result(inst);
        let ty = func.dfg.value_type(result);
        let mut cursor = FuncCursor::new(func).at_inst(inst);
        let constant = cursor.ins().iconst(types::I64, value as i64);
        let constant = if ty == types::I64 {
            constant
        } else {
            cursor.ins().ireduce(ty, constant)
        };
        func.dfg.clear_results(inst);
        func.dfg.change_to_alias(result, constant);
        func.layout.remove_inst(inst);
    }
    Ok(())
}

fn map(code: &[u8]) -> Result<Native, NativeError> {
    let len = code.len().max(1);
    let fail = || NativeError::Map {
        bytes: len,
        source: std::io::Error::last_os_error(),
    };
    // SAFETY: an anonymous mapping at an address of the kernel's choice touches no memory of ours.
    let start = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if start == libc::MAP_FAILED {
        return Err(fail());
    }
    let native = Native {
        start: NonNull::new(start).ok_or_else(fail)?,
        len,
    };
    // SAFETY: the mapping is writable, at least `code.len()` long, and does not overlap `code`.
    unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), start.cast::<u8>(), code.len()) };
    // SAFETY: `start` and `len` are those of the mapping.
    if unsafe { libc::mprotect(start, len, libc::PROT_READ | libc::PROT_EXEC) } != 0 {
        return Err(fail());
    }
    Ok(native)
}
