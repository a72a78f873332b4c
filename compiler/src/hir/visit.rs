//! Walks over every expression of a block.

use super::{Block, Event, Expr, ExprKind, SetElem, Stmt, StmtKind};

/// Calls `f` for every expression of the block, outer ones first.
pub fn block(block: &Block, f: &mut dyn FnMut(&Expr)) {
    if let Some(predicate) = &block.predicate {
        expr(predicate, f);
    }
    stmts(&block.body, f);
}

/// Returns whether the block has a part that the kernel calls: the body of any loop but `unroll`.
#[must_use]
pub fn has_loop(whole: &Block) -> bool {
    let mut found = stmts_have_loop(&whole.body);
    block(whole, &mut |e| {
        found |= match &e.kind {
            ExprKind::Len(_) => true,
            ExprKind::Block { body, .. } | ExprKind::Inline { body, .. } => stmts_have_loop(body),
            _ => false,
        }
    });
    found
}

fn stmts_have_loop(body: &[Stmt]) -> bool {
    body.iter().any(|s| match &s.kind {
        StmtKind::While { .. } | StmtKind::ForRange { .. } | StmtKind::ForMap { .. } => true,
        StmtKind::If { then, otherwise, .. } => stmts_have_loop(then) || stmts_have_loop(otherwise),
        StmtKind::Unroll { body, .. } | StmtKind::Block(body) | StmtKind::Limit { body, .. } => stmts_have_loop(body),
        _ => false,
    })
}

/// Calls `f` for every statement, outer ones first.
pub fn each_stmt(body: &[Stmt], f: &mut dyn FnMut(&Stmt)) {
    for s in body {
        f(s);
        match &s.kind {
            StmtKind::If { then, otherwise, .. } => {
                each_stmt(then, f);
                each_stmt(otherwise, f);
            }
            StmtKind::While { body, .. }
            | StmtKind::ForRange { body, .. }
            | StmtKind::ForMap { body, .. }
            | StmtKind::Unroll { body, .. }
            | StmtKind::Block(body)
            | StmtKind::Limit { body, .. } => each_stmt(body, f),
            _ => {}
        }
        // A macro's value may come with statements.
        stmt(s, &mut |e| {
            if let ExprKind::Block { body, .. } | ExprKind::Inline { body, .. } = &e.kind {
                each_stmt(body, &mut *f);
            }
        });
    }
}

/// Returns whether the block reads, deletes from or goes over one of these maps.
pub fn names_map(whole: &Block, wanted: &dyn Fn(usize) -> bool) -> bool {
    let mut found = false;
    each_stmt(&whole.body, &mut |s| {
        found |= matches!(&s.kind, StmtKind::ForMap { map, .. } if wanted(*map))
    });
    block(whole, &mut |e| {
        found |= match &e.kind {
            ExprKind::MapGet { map, .. }
            | ExprKind::MapAddr { map, .. }
            | ExprKind::AggGet { map, .. }
            | ExprKind::HasKey { map, .. }
            | ExprKind::Delete { map, .. }
            | ExprKind::Len(map) => wanted(*map),
            ExprKind::Block { body, .. } | ExprKind::Inline { body, .. } => {
                let mut inside = false;
                each_stmt(body, &mut |s| {
                    inside |= matches!(&s.kind, StmtKind::ForMap { map, .. } if wanted(*map))
                });
                inside
            }
            _ => false,
        }
    });
    found
}

/// Returns the largest number of bytes that a `capture` of the block asks for.
#[must_use]
pub fn capture_bytes(whole: &Block) -> Option<u32> {
    let mut most = stmts_capture(&whole.body);
    block(whole, &mut |e| {
        if let ExprKind::Block { body, .. } | ExprKind::Inline { body, .. } = &e.kind {
            most = most.max(stmts_capture(body));
        }
    });
    most
}

fn stmts_capture(body: &[Stmt]) -> Option<u32> {
    let one = |s: &Stmt| match &s.kind {
        StmtKind::Capture { bytes } => Some(*bytes),
        StmtKind::If { then, otherwise, .. } => stmts_capture(then).max(stmts_capture(otherwise)),
        StmtKind::While { body, .. }
        | StmtKind::ForRange { body, .. }
        | StmtKind::ForMap { body, .. }
        | StmtKind::Unroll { body, .. }
        | StmtKind::Block(body)
        | StmtKind::Limit { body, .. } => stmts_capture(body),
        _ => None,
    };
    body.iter().filter_map(one).max()
}

/// Calls `f` for every expression of the statements, outer ones first.
pub fn stmts(body: &[Stmt], f: &mut dyn FnMut(&Expr)) {
    for s in body {
        stmt(s, f);
    }
}

/// Calls `f` for every expression of one statement, outer ones first.
pub fn stmt(stmt: &Stmt, f: &mut dyn FnMut(&Expr)) {
    match &stmt.kind {
        StmtKind::Expr(e) | StmtKind::SetVar { value: e, .. } | StmtKind::SetField { value: e, .. } => expr(e, f),
        StmtKind::SetMap { key, value, .. } | StmtKind::AddMap { key, value, .. } => {
            key.iter().for_each(|k| expr(k, f));
            expr(value, f);
        }
        StmtKind::Aggregate { key, value, .. } => key.iter().chain(value).for_each(|e| expr(e, f)),
        StmtKind::Event(event) => match event {
            Event::Printf { args, .. } | Event::SeqPrintf { args, .. } => args.iter().for_each(|a| expr(a, f)),
            Event::PrintValue(e) | Event::PrintMapKey { key: e, .. } => expr(e, f),
            Event::Join { args, .. } => args.iter().for_each(|a| expr(a, f)),
            Event::PrintMap { .. } | Event::PrintNative { .. } | Event::Clear(_) | Event::Zero(_) | Event::Time(_) => {}
        },
        StmtKind::If { cond, then, otherwise } => {
            expr(cond, f);
            stmts(then, f);
            stmts(otherwise, f);
        }
        StmtKind::While { cond, body } => {
            expr(cond, f);
            stmts(body, f);
        }
        StmtKind::ForRange { start, end, body, .. } => {
            expr(start, f);
            expr(end, f);
            stmts(body, f);
        }
        StmtKind::ForMap { body, .. } | StmtKind::Unroll { body, .. } | StmtKind::Block(body) | StmtKind::Limit { body, .. } => {
            stmts(body, f)
        }
        StmtKind::Return(e) | StmtKind::Exit { code: e } => e.iter().for_each(|e| expr(e, f)),
        StmtKind::Break | StmtKind::Continue | StmtKind::Verdict(_) | StmtKind::Capture { .. } | StmtKind::Redirect { .. } => {}
    }
}

/// Number of statements, those in loops once and those of `unroll` as often as they are written out.
pub fn count(stmts: &[Stmt]) -> u64 {
    let one = |stmt: &Stmt| match &stmt.kind {
        StmtKind::If { then, otherwise, .. } => 1 + count(then) + count(otherwise),
        StmtKind::While { body, .. }
        | StmtKind::ForRange { body, .. }
        | StmtKind::ForMap { body, .. }
        | StmtKind::Limit { body, .. }
        | StmtKind::Block(body) => 1 + count(body),
        StmtKind::Unroll { count: times, body } => 1 + count(body).saturating_mul(u64::from(*times)),
        _ => 1,
    };
    stmts.iter().map(one).fold(0, u64::saturating_add)
}

/// Calls `f` for the expression and all in it, outer ones first.
pub fn expr(e: &Expr, f: &mut dyn FnMut(&Expr)) {
    f(e);
    children(e, &mut |child| expr(child, f));
}

/// Calls `f` for the direct operands of an expression.
pub fn children(e: &Expr, f: &mut dyn FnMut(&Expr)) {
    match &e.kind {
        ExprKind::Int(_)
        | ExprKind::Str(_)
        | ExprKind::Inet { .. }
        | ExprKind::Mac(_)
        | ExprKind::Prefix(..)
        | ExprKind::Builtin(_)
        | ExprKind::Field(_)
        | ExprKind::HasHeader(_)
        | ExprKind::EventVar { .. }
        | ExprKind::Var(_)
        | ExprKind::CtxLoad { .. }
        | ExprKind::DataLoc { .. }
        | ExprKind::Stack { .. }
        | ExprKind::StackBytes { .. }
        | ExprKind::AddrOf(_)
        | ExprKind::Elapsed
        | ExprKind::Len(_)
        | ExprKind::Error => {}
        ExprKind::Helper { args, .. } | ExprKind::Fill { args, .. } => args.iter().for_each(f),
        ExprKind::Give { args, value, .. } => {
            for arg in args {
                f(arg);
            }
            f(value);
        }
        ExprKind::Inline { body, .. } => stmts(body, &mut |e| f(e)),
        ExprKind::Block { body, value } => {
            // Its statements have operands of their own.
            stmts(body, &mut |e| f(e));
            f(value);
        }
        ExprKind::MapGet { key, .. } | ExprKind::MapAddr { key, .. } | ExprKind::AggGet { key, .. } | ExprKind::Delete { key, .. } => {
            key.iter().for_each(|k| f(k))
        }
        ExprKind::HasKey { key: e, .. }
        | ExprKind::Has(e)
        | ExprKind::IncDec { target: e, .. }
        | ExprKind::Not(e)
        | ExprKind::BitNot(e)
        | ExprKind::Neg(e)
        | ExprKind::Convert(e)
        | ExprKind::Place { base: e, .. }
        | ExprKind::Read { place: e, .. }
        | ExprKind::ReadArray { place: e, .. }
        | ExprKind::Strlen(e)
        | ExprKind::FilePath { place: e, .. }
        | ExprKind::InMap { value: e, .. }
        | ExprKind::Bswap { value: e, .. }
        | ExprKind::PacketBytes { offset: e, .. }
        | ExprKind::TupleGet { base: e, .. } => f(e),
        ExprKind::ReadStr { ptr, len, .. } => {
            f(ptr);
            len.iter().for_each(|n| f(n));
        }
        ExprKind::Binary { left, right, .. }
        | ExprKind::Elvis {
            value: left,
            otherwise: right,
        }
        | ExprKind::Element {
            base: left, index: right, ..
        }
        | ExprKind::ReadBuf { ptr: left, len: right, .. }
        | ExprKind::Memcmp { left, right, .. }
        | ExprKind::Strncmp { left, right, .. }
        | ExprKind::Concat { left, right }
        | ExprKind::Strcontains {
            text: left, part: right, ..
        } => {
            f(left);
            f(right);
        }
        ExprKind::Ternary { cond, then, otherwise } => {
            f(cond);
            f(then);
            f(otherwise);
        }
        ExprKind::In { value, set } => {
            f(value);
            for elem in set {
                match elem {
                    SetElem::One(e) => f(e),
                    SetElem::Range(a, b) => {
                        f(a);
                        f(b);
                    }
                    SetElem::Prefix(..) => {}
                }
            }
        }
        ExprKind::Ntop { family, addr } => {
            family.iter().for_each(|e| f(e));
            f(addr);
        }
        ExprKind::Tuple(parts) => parts.iter().for_each(f),
    }
}
