//! BPF with virtual registers.
//!
//! Is: the program between instruction selection and register allocation, in SSA form with block parameters. Is not:
//! CLIF: every operation is one BPF instruction, or a fixed short sequence that needs no scratch register.
//!
//! Invariants: block 0 is the entry and has no parameters; the last instruction of a block, and only that, is a
//! terminator; a block that ends in `Branch` passes no arguments and its successors have it as their only predecessor
//! (critical edges are split); every virtual register has one definition. The blocks are in reverse postorder, which is
//! what regalloc2 wants; the emitter puts the cold ones last.

use std::fmt;

/// Virtual register.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(super) struct V(pub u32);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Width {
    W32,
    W64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Size {
    B,
    H,
    W,
    D,
}

impl Size {
    pub const fn bits(self) -> u32 {
        match self {
            Self::B => 8,
            Self::H => 16,
            Self::W => 32,
            Self::D => 64,
        }
    }
}

/// Second operand: register or sign-extended immediate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Src {
    Reg(V),
    Imm(i32),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum AluOp {
    Add,
    Sub,
    Mul,
    Div,
    Mod,
    /// V4 only.
    SDiv,
    /// V4 only.
    SMod,
    Or,
    And,
    Xor,
    Lsh,
    Rsh,
    Arsh,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Cc {
    Eq,
    Ne,
    Ult,
    Ule,
    Ugt,
    Uge,
    Slt,
    Sle,
    Sgt,
    Sge,
    /// `lhs & rhs` is not zero.
    Set,
    /// `lhs & rhs` is zero: no such instruction; the emitter swaps the arms of `Set`.
    NotSet,
}

impl Cc {
    pub const fn negate(self) -> Self {
        match self {
            Self::Eq => Self::Ne,
            Self::Ne => Self::Eq,
            Self::Ult => Self::Uge,
            Self::Ule => Self::Ugt,
            Self::Ugt => Self::Ule,
            Self::Uge => Self::Ult,
            Self::Slt => Self::Sge,
            Self::Sle => Self::Sgt,
            Self::Sgt => Self::Sle,
            Self::Sge => Self::Slt,
            Self::Set => Self::NotSet,
            Self::NotSet => Self::Set,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Cond {
    pub width: Width,
    pub cc: Cc,
    pub lhs: V,
    pub rhs: Src,
}

impl Cond {
    pub const fn negate(self) -> Self {
        Self {
            cc: self.cc.negate(),
            ..self
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Base {
    Reg(V),
    /// Stack slot of the function, addressed from `r10`.
    Slot(u32),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Mem {
    pub base: Base,
    pub off: i16,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sym {
    Map(u32),
    Rodata(u32),
    SubprogAddr(u32),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Callee {
    Helper(u32),
    Subprog(u32),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum AtomicOp {
    Add,
    And,
    Or,
    Xor,
    Xchg,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Op {
    /// Defines the parameters of the function (`r1`…).
    Params(Vec<V>),
    Const {
        dst: V,
        value: i64,
    },
    Sym {
        dst: V,
        sym: Sym,
    },
    SlotAddr {
        dst: V,
        slot: u32,
        off: i32,
    },
    /// `W32` clears the high half.
    Mov {
        width: Width,
        dst: V,
        src: V,
    },
    /// Sign-extending move, V4 only; `W32` clears the high half.
    MovSx {
        width: Width,
        from: Size,
        dst: V,
        src: V,
    },
    Alu {
        op: AluOp,
        width: Width,
        dst: V,
        lhs: V,
        rhs: Src,
    },
    Neg {
        width: Width,
        dst: V,
        src: V,
    },
    /// Byte swap of the low `bits`, the rest is cleared.
    Swap {
        bits: u32,
        dst: V,
        src: V,
    },
    /// `signed` sign-extends to 64 bits, V4 only.
    Load {
        size: Size,
        signed: bool,
        dst: V,
        mem: Mem,
    },
    Store {
        size: Size,
        mem: Mem,
        src: Src,
    },
    /// `fetched` receives the old value.
    Atomic {
        op: AtomicOp,
        width: Width,
        mem: Mem,
        src: V,
        fetched: Option<V>,
    },
    CmpXchg {
        width: Width,
        dst: V,
        mem: Mem,
        expected: V,
        new: V,
    },
    Call {
        callee: Callee,
        args: Vec<V>,
        ret: Option<V>,
    },
    /// `dst = yes; if !cond { dst = no }`.
    Select {
        cond: Cond,
        dst: V,
        yes: V,
        no: Src,
    },
    Jump,
    Branch(Cond),
    Ret(V),
}

/// What an operation does with a register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Role {
    Use,
    UseFixed(u8),
    Def,
    DefFixed(u8),
    /// Must be in the register of the operand with this index.
    DefReuse(usize),
}

impl Op {
    /// Visits the register operands in a fixed order: the order of the allocations that [`super::emit`] reads back.
    pub fn operands(&self, f: &mut impl FnMut(V, Role)) {
        let base = |mem: &Mem, f: &mut dyn FnMut(V, Role)| -> usize {
            if let Base::Reg(v) = mem.base {
                f(v, Role::Use);
                1
            } else {
                0
            }
        };
        let src = |s: &Src, f: &mut dyn FnMut(V, Role)| {
            if let Src::Reg(v) = s {
                f(*v, Role::Use);
            }
        };
        match self {
            Self::Params(params) => {
                for (v, reg) in params.iter().zip(1..) {
                    f(*v, Role::DefFixed(reg));
                }
            }
            Self::Const { dst, .. } | Self::Sym { dst, .. } | Self::SlotAddr { dst, .. } => f(*dst, Role::Def),
            Self::Mov { dst, src, .. } | Self::MovSx { dst, src, .. } => {
                f(*src, Role::Use);
                f(*dst, Role::Def);
            }
            Self::Alu { dst, lhs, rhs, .. } => {
                f(*lhs, Role::Use);
                src(rhs, f);
                f(*dst, Role::DefReuse(0));
            }
            Self::Neg { dst, src, .. } | Self::Swap { dst, src, .. } => {
                f(*src, Role::Use);
                f(*dst, Role::DefReuse(0));
            }
            Self::Load { dst, mem, .. } => {
                base(mem, f);
                f(*dst, Role::Def);
            }
            Self::Store { mem, src: value, .. } => {
                base(mem, f);
                src(value, f);
            }
            Self::Atomic { mem, src, fetched, .. } => {
                let index = base(mem, f);
                f(*src, Role::Use);
                if let Some(v) = fetched {
                    f(*v, Role::DefReuse(index));
                }
            }
            Self::CmpXchg {
                dst, mem, expected, new, ..
            } => {
                base(mem, f);
                f(*new, Role::Use);
                f(*expected, Role::UseFixed(0));
                f(*dst, Role::DefFixed(0));
            }
            Self::Call { args, ret, .. } => {
                for (v, reg) in args.iter().zip(1..) {
                    f(*v, Role::UseFixed(reg));
                }
                if let Some(v) = ret {
                    f(*v, Role::DefFixed(0));
                }
            }
            Self::Select { cond, dst, yes, no } => {
                f(*yes, Role::Use);
                f(cond.lhs, Role::Use);
                src(&cond.rhs, f);
                src(no, f);
                f(*dst, Role::DefReuse(0));
            }
            Self::Branch(cond) => {
                f(cond.lhs, Role::Use);
                src(&cond.rhs, f);
            }
            Self::Ret(v) => f(*v, Role::UseFixed(0)),
            Self::Jump => {}
        }
    }
}

impl Op {
    /// Replaces every register.
    pub fn map_regs(&mut self, f: &mut impl FnMut(V) -> V) {
        fn base(mem: &mut Mem, f: &mut impl FnMut(V) -> V) {
            if let Base::Reg(v) = &mut mem.base {
                *v = f(*v);
            }
        }
        fn src(s: &mut Src, f: &mut impl FnMut(V) -> V) {
            if let Src::Reg(v) = s {
                *v = f(*v);
            }
        }
        match self {
            Self::Params(params) => params.iter_mut().for_each(|v| *v = f(*v)),
            Self::Const { dst, .. } | Self::Sym { dst, .. } | Self::SlotAddr { dst, .. } => *dst = f(*dst),
            Self::Mov { dst, src, .. } | Self::MovSx { dst, src, .. } | Self::Neg { dst, src, .. } | Self::Swap { dst, src, .. } => {
                *src = f(*src);
                *dst = f(*dst);
            }
            Self::Alu { dst, lhs, rhs, .. } => {
                *lhs = f(*lhs);
                src(rhs, f);
                *dst = f(*dst);
            }
            Self::Load { dst, mem, .. } => {
                base(mem, f);
                *dst = f(*dst);
            }
            Self::Store { mem, src: value, .. } => {
                base(mem, f);
                src(value, f);
            }
            Self::Atomic { mem, src, fetched, .. } => {
                base(mem, f);
                *src = f(*src);
                if let Some(v) = fetched {
                    *v = f(*v);
                }
            }
            Self::CmpXchg {
                dst, mem, expected, new, ..
            } => {
                base(mem, f);
                *expected = f(*expected);
                *new = f(*new);
                *dst = f(*dst);
            }
            Self::Call { args, ret, .. } => {
                args.iter_mut().for_each(|v| *v = f(*v));
                if let Some(v) = ret {
                    *v = f(*v);
                }
            }
            Self::Select { cond, dst, yes, no } => {
                *yes = f(*yes);
                cond.lhs = f(cond.lhs);
                src(&mut cond.rhs, f);
                src(no, f);
                *dst = f(*dst);
            }
            Self::Branch(cond) => {
                cond.lhs = f(cond.lhs);
                src(&mut cond.rhs, f);
            }
            Self::Ret(v) => *v = f(*v),
            Self::Jump => {}
        }
    }

    /// The stack slot that the operation addresses.
    pub fn slot(&self) -> Option<u32> {
        match self {
            Self::SlotAddr { slot, .. }
            | Self::Load {
                mem: Mem {
                    base: Base::Slot(slot), ..
                },
                ..
            }
            | Self::Store {
                mem: Mem {
                    base: Base::Slot(slot), ..
                },
                ..
            }
            | Self::Atomic {
                mem: Mem {
                    base: Base::Slot(slot), ..
                },
                ..
            }
            | Self::CmpXchg {
                mem: Mem {
                    base: Base::Slot(slot), ..
                },
                ..
            } => Some(*slot),
            _ => None,
        }
    }
}

pub(super) struct Inst {
    pub op: Op,
    /// Source location, `!0` if none.
    pub loc: u32,
}

/// An edge to block `block` with the values of its parameters.
#[derive(Clone, Debug)]
pub(super) struct Edge {
    pub block: usize,
    pub args: Vec<V>,
}

#[derive(Default)]
pub(super) struct Block {
    pub params: Vec<V>,
    pub insts: Vec<Inst>,
    /// `Jump`: one; `Branch`: taken, not taken; `Ret`: none.
    pub succs: Vec<Edge>,
    /// Rarely runs: emitted behind all others.
    pub cold: bool,
}

pub(super) struct Lir {
    pub name: String,
    pub blocks: Vec<Block>,
    pub num_vregs: u32,
    /// Offset from `r10` of every stack slot of the function; 0 for those that are not used.
    pub slot_offsets: Vec<i32>,
    /// Bytes that the slots take.
    pub slot_bytes: u32,
}

impl fmt::Display for V {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}", self.0)
    }
}

impl fmt::Display for Src {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reg(v) => v.fmt(f),
            Self::Imm(i) => i.fmt(f),
        }
    }
}

impl fmt::Display for Mem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.base {
            Base::Reg(v) => write!(f, "[{v}{:+}]", self.off),
            Base::Slot(s) => write!(f, "[slot{s}{:+}]", self.off),
        }
    }
}

impl fmt::Display for Cond {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cc = match self.cc {
            Cc::Eq => "==",
            Cc::Ne => "!=",
            Cc::Ult => "<",
            Cc::Ule => "<=",
            Cc::Ugt => ">",
            Cc::Uge => ">=",
            Cc::Slt => "s<",
            Cc::Sle => "s<=",
            Cc::Sgt => "s>",
            Cc::Sge => "s>=",
            Cc::Set => "&",
            Cc::NotSet => "!&",
        };
        write!(f, "{}{} {cc} {}", self.lhs, suffix(self.width), self.rhs)
    }
}

const fn suffix(width: Width) -> &'static str {
    match width {
        Width::W32 => ".w",
        Width::W64 => "",
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Params(p) => write!(f, "params {}", List(p)),
            Self::Const { dst, value } => write!(f, "{dst} = {value}"),
            Self::Sym { dst, sym } => match sym {
                Sym::Map(i) => write!(f, "{dst} = map {i}"),
                Sym::Rodata(o) => write!(f, "{dst} = rodata+{o}"),
                Sym::SubprogAddr(i) => write!(f, "{dst} = &subprog {i}"),
            },
            Self::SlotAddr { dst, slot, off } => write!(f, "{dst} = &slot{slot}{off:+}"),
            Self::Mov { width, dst, src } => write!(f, "{dst} = mov{} {src}", suffix(*width)),
            Self::MovSx { width, from, dst, src } => write!(f, "{dst} = sext{}{} {src}", from.bits(), suffix(*width)),
            Self::Alu { op, width, dst, lhs, rhs } => {
                let name = match op {
                    AluOp::Add => "add",
                    AluOp::Sub => "sub",
                    AluOp::Mul => "mul",
                    AluOp::Div => "div",
                    AluOp::Mod => "mod",
                    AluOp::SDiv => "sdiv",
                    AluOp::SMod => "smod",
                    AluOp::Or => "or",
                    AluOp::And => "and",
                    AluOp::Xor => "xor",
                    AluOp::Lsh => "lsh",
                    AluOp::Rsh => "rsh",
                    AluOp::Arsh => "arsh",
                };
                write!(f, "{dst} = {name}{} {lhs}, {rhs}", suffix(*width))
            }
            Self::Neg { width, dst, src } => write!(f, "{dst} = neg{} {src}", suffix(*width)),
            Self::Swap { bits, dst, src } => write!(f, "{dst} = swap{bits} {src}"),
            Self::Load { size, signed, dst, mem } => write!(f, "{dst} = load{}{} {mem}", if *signed { "s" } else { "" }, size.bits()),
            Self::Store { size, mem, src } => write!(f, "store{} {mem}, {src}", size.bits()),
            Self::Atomic {
                op,
                width,
                mem,
                src,
                fetched,
            } => {
                if let Some(v) = fetched {
                    write!(f, "{v} = ")?;
                }
                write!(f, "atomic {op:?}{} {mem}, {src}", suffix(*width))
            }
            Self::CmpXchg {
                width,
                dst,
                mem,
                expected,
                new,
            } => {
                write!(f, "{dst} = cmpxchg{} {mem}, {expected}, {new}", suffix(*width))
            }
            Self::Call { callee, args, ret } => {
                if let Some(v) = ret {
                    write!(f, "{v} = ")?;
                }
                match callee {
                    Callee::Helper(id) => write!(f, "call helper {id}({})", List(args)),
                    Callee::Subprog(id) => write!(f, "call subprog {id}({})", List(args)),
                }
            }
            Self::Select { cond, dst, yes, no } => write!(f, "{dst} = if {cond} then {yes} else {no}"),
            Self::Jump => f.write_str("goto"),
            Self::Branch(cond) => write!(f, "if {cond} goto"),
            Self::Ret(v) => write!(f, "ret {v}"),
        }
    }
}

struct List<'a>(&'a [V]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, v) in self.0.iter().enumerate() {
            write!(f, "{}{v}", if i == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

struct To<'a>(&'a Edge);

impl fmt::Display for To<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b{}", self.0.block)?;
        if self.0.args.is_empty() {
            Ok(())
        } else {
            write!(f, "({})", List(&self.0.args))
        }
    }
}

impl fmt::Display for Lir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "function {} {{", self.name)?;
        for (i, off) in self.slot_offsets.iter().enumerate().filter(|(_, off)| **off != 0) {
            writeln!(f, "  slot{i} = r10{off:+}")?;
        }
        for (i, block) in self.blocks.iter().enumerate() {
            let cold = if block.cold { " cold" } else { "" };
            match block.params.as_slice() {
                [] => writeln!(f, "b{i}{cold}:")?,
                params => writeln!(f, "b{i}({}){cold}:", List(params))?,
            }
            for inst in &block.insts {
                write!(f, "  {}", inst.op)?;
                match (&inst.op, block.succs.as_slice()) {
                    (Op::Jump, [to]) => write!(f, " {}", To(to))?,
                    (Op::Branch(_), [yes, no]) => write!(f, " {} else {}", To(yes), To(no))?,
                    _ => {}
                }
                writeln!(f)?;
            }
        }
        writeln!(f, "}}")
    }
}
