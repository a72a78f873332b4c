//! `macro name(expr, $var, @map) { … }`: expansion on the syntax tree, hygienic.
//!
//! Expressions stand for the parameters wherever these are named; variables and maps that are parameters are the
//! caller's; every other variable is the expansion's own, renamed so that no other can have its name.

use super::check::{Checker, nearest};
use super::{Expr, ExprKind, Stmt, StmtKind, Ty};
use crate::tables;
use std::collections::HashMap;
use weir_parser::ast::{self, MacroParam};
use weir_parser::{Diagnostic, Span};

/// Macros inside of macros, before it is a recursion.
const MAX_DEPTH: usize = 32;
/// Errors after which no macro is expanded any more.
const MAX_ERRORS: usize = 1000;

/// Pieces of code that all macros, functions and `#define`s of a script may come to: each use may double what is inside of it.
const MAX_WRITTEN_OUT: usize = 100_000;

/// Macros by name; several of one name differ in their parameters.
pub(super) type Macros<'a> = HashMap<String, Vec<&'a ast::Macro>>;

/// Collects the macros of a script.
pub(super) fn collect<'a>(program: &'a ast::Program, out: &mut Vec<Diagnostic>) -> Macros<'a> {
    let mut macros: Macros<'a> = HashMap::new();
    for item in &program.items {
        let ast::Item::Macro(item) = item else { continue };
        let same = |other: &&ast::Macro| {
            other.params.len() == item.params.len() && other.params.iter().zip(&item.params).all(|(a, b)| kind(a) == kind(b))
        };
        let all = macros.entry(item.name.name.clone()).or_default();
        if let Some(first) = all.iter().find(|m| same(m)) {
            let message = format!("the macro `{}` is defined twice", item.name.name);
            out.push(Diagnostic::error("duplicate-macro", item.name.span, message).with(first.name.span, "first here"));
        } else if crate::tables::builtin(&item.name.name).is_some() {
            let message = format!("`{}` is a builtin and cannot be a macro", item.name.name);
            out.push(Diagnostic::error("macro-name", item.name.span, message));
        } else {
            all.push(item);
        }
    }
    macros
}

fn kind(param: &MacroParam) -> &'static str {
    match param {
        MacroParam::Expr(_) => "an expression",
        MacroParam::Var(_) => "a variable",
        MacroParam::Map(_) => "a map",
    }
}

/// Whether an argument can stand for a parameter, and how well: a variable for a variable is better than for an expression.
fn fits(param: &MacroParam, arg: &ast::Expr) -> Option<u32> {
    match (param, &arg.kind) {
        (MacroParam::Var(_), ast::ExprKind::Var(_)) | (MacroParam::Map(_), ast::ExprKind::Map { keys: None, .. }) => Some(1),
        (MacroParam::Expr(_), _) => Some(0),
        _ => None,
    }
}

/// Writes arguments into a macro's body.
struct Expansion<'a> {
    exprs: HashMap<&'a str, (&'a ast::Expr, usize)>,
    vars: HashMap<&'a str, String>,
    maps: HashMap<&'a str, String>,
    number: usize,
    /// Maps that are no parameters.
    foreign: Vec<(String, Span)>,
    /// Pieces that the body has, those of the arguments among them.
    size: usize,
}

impl<'a> Expansion<'a> {
    fn new(number: usize) -> Self {
        Self {
            exprs: HashMap::new(),
            vars: HashMap::new(),
            maps: HashMap::new(),
            number,
            foreign: Vec::new(),
            size: 0,
        }
    }

    /// Returns the argument that a word stands for, unless there is too much of it by now.
    fn argument(&mut self, name: &str) -> Option<&'a ast::Expr> {
        let (theirs, size) = *self.exprs.get(name)?;
        self.size = self.size.saturating_add(size);
        (self.size <= MAX_WRITTEN_OUT).then_some(theirs)
    }

    fn block(&mut self, block: &mut ast::Block) {
        block.stmts.iter_mut().for_each(|s| self.stmt(s));
        if let Some(value) = &mut block.value {
            self.expr(value);
        }
    }

    fn var(&self, name: &mut String) {
        *name = match self.vars.get(name.as_str()) {
            Some(theirs) => theirs.clone(),
            None => format!("{name}#{}", self.number),
        };
    }

    fn stmt(&mut self, stmt: &mut ast::Stmt) {
        use ast::StmtKind as S;
        match &mut stmt.kind {
            S::Expr(e) | S::Return(Some(e)) => self.expr(e),
            S::Assign { target, value, .. } => {
                self.expr(target);
                self.expr(value);
            }
            S::Let { var, ty, value } => {
                self.var(&mut var.name);
                ty.iter_mut().for_each(|t| self.ty(t));
                value.iter_mut().for_each(|v| self.expr(v));
            }
            S::If { cond, then, otherwise } => {
                self.expr(cond);
                self.block(then);
                otherwise.iter_mut().for_each(|b| self.block(b));
            }
            S::While { cond: e, body } | S::Unroll { count: e, body } | S::Limit { rate: e, body } => {
                self.expr(e);
                self.block(body);
            }
            S::For { var, range, body } => {
                self.var(&mut var.name);
                match range {
                    ast::ForRange::Over(e) => self.expr(e),
                    ast::ForRange::Range { start, end } => {
                        self.expr(start);
                        self.expr(end);
                    }
                }
                self.block(body);
            }
            S::Block(block) => self.block(block),
            S::Break | S::Continue | S::Return(None) => {}
        }
    }

    fn ty(&mut self, ty: &mut ast::TypeExpr) {
        use ast::TypeExprKind as T;
        match &mut ty.kind {
            T::Pointer(inner) | T::Array(inner, _) => self.ty(inner),
            T::TypeOf(e) => self.expr(e),
            T::Name(_) | T::Sized(..) | T::Struct(_) | T::Union(_) | T::Enum(_) => {}
        }
    }

    fn size_of(&mut self, arg: &mut ast::SizeOfArg) {
        match arg {
            ast::SizeOfArg::Type(ty) => {
                // A bare parameter looks like a type.
                if let ast::TypeExprKind::Name(name) = &ty.kind
                    && let Some(theirs) = self.argument(name)
                {
                    *arg = ast::SizeOfArg::Expr(Box::new(theirs.clone()));
                } else {
                    self.ty(ty);
                }
            }
            ast::SizeOfArg::Expr(e) => self.expr(e),
        }
    }

    fn expr(&mut self, e: &mut ast::Expr) {
        use ast::ExprKind as E;
        self.size = self.size.saturating_add(1);
        match &mut e.kind {
            E::Name(name) => {
                if let Some(theirs) = self.argument(name) {
                    *e = theirs.clone();
                }
            }
            E::Var(name) => self.var(name),
            E::Map { name, keys } => {
                match self.maps.get(name.as_str()) {
                    Some(theirs) => theirs.clone_into(name),
                    None => self.foreign.push((name.clone(), e.span)),
                }
                keys.iter_mut().flatten().for_each(|k| self.expr(k));
            }
            E::Field { base: inner, .. }
            | E::TupleIndex { base: inner, .. }
            | E::Unary { expr: inner, .. }
            | E::IncDec { expr: inner, .. } => {
                self.expr(inner);
            }
            E::Index { base: a, index: b } | E::Binary { left: a, right: b, .. } | E::Elvis { value: a, otherwise: b } => {
                self.expr(a);
                self.expr(b);
            }
            E::Call { args, .. } => args.iter_mut().for_each(|a| self.expr(&mut a.value)),
            E::Ternary { cond, then, otherwise } => {
                self.expr(cond);
                self.expr(then);
                self.expr(otherwise);
            }
            E::Cast { ty, expr } => {
                self.ty(ty);
                self.expr(expr);
            }
            E::Tuple(parts) => parts.iter_mut().for_each(|p| self.expr(p)),
            E::Record(fields) => fields.iter_mut().for_each(|(_, v)| self.expr(v)),
            E::In { value, set } => {
                self.expr(value);
                match set {
                    ast::InSet::Expr(e) => self.expr(e),
                    ast::InSet::List(elems) => elems.iter_mut().for_each(|elem| match elem {
                        ast::SetElem::One(e) => self.expr(e),
                        ast::SetElem::Range(a, b) => {
                            self.expr(a);
                            self.expr(b);
                        }
                    }),
                }
            }
            E::Block(block) => self.block(block),
            E::SizeOf(arg) | E::OffsetOf { of: arg, .. } | E::TypeOf(arg) => self.size_of(arg),
            E::Int(_)
            | E::Duration(_)
            | E::Bool(_)
            | E::Str(_)
            | E::Ipv4(_)
            | E::Ipv4Prefix(..)
            | E::Param(_)
            | E::ParamCount
            | E::Error => {}
        }
    }
}

/// How many pieces an expression has.
fn size(expr: &ast::Expr) -> usize {
    let mut counted = Expansion::new(0);
    counted.expr(&mut expr.clone());
    counted.size
}

impl Checker<'_> {
    /// Counts what is written out for a macro, a function or a `#define`. Returns false once it is too much, and says it the first time.
    pub(super) fn may_write_out(&mut self, pieces: usize, span: Span) -> bool {
        if self.macro_depth == 0 && self.inside.is_empty() && self.expanding.is_empty() && pieces <= MAX_WRITTEN_OUT {
            return true;
        }
        let before = self.written_out;
        self.written_out = before.saturating_add(pieces);
        if self.written_out <= MAX_WRITTEN_OUT {
            return true;
        }
        if before <= MAX_WRITTEN_OUT {
            let message = format!("macros, functions and `#define`s come to more than {MAX_WRITTEN_OUT} pieces of code here");
            let d = Diagnostic::error("too-long", span, message);
            self.error(d.help("each use is written out where it stands: compute a value once, keep it in a variable, use that"));
        }
        false
    }

    /// Whether a bare word is a macro: builtins and definitions come before.
    pub(super) fn names_macro(&self, name: &str) -> bool {
        self.is_macro(name) && tables::builtin(name).is_none() && !self.defines.contains_key(name)
    }

    /// Whether a word names a macro of the script.
    pub(super) fn is_macro(&self, name: &str) -> bool {
        self.macros.contains_key(name)
    }

    /// Writes out one use of a macro.
    fn expand(&mut self, name: &ast::Ident, args: &[ast::Arg], span: Span) -> Option<ast::Block> {
        if self.written_out > MAX_WRITTEN_OUT {
            return None;
        }
        let all = self.macros.get(&name.name)?;
        let score = |m: &ast::Macro| -> Option<u32> {
            (m.params.len() == args.len()).then_some(())?;
            m.params.iter().zip(args).map(|(p, a)| fits(p, &a.value)).sum()
        };
        let best = all.iter().filter_map(|m| Some((score(m)?, *m))).max_by_key(|(score, _)| *score);
        let Some((_, found)) = best else {
            let forms: Vec<String> = all
                .iter()
                .map(|m| {
                    let params: Vec<String> = m
                        .params
                        .iter()
                        .map(|p| match p {
                            MacroParam::Expr(i) => i.name.clone(),
                            MacroParam::Var(i) => format!("${}", i.name),
                            MacroParam::Map(i) => format!("@{}", i.name),
                        })
                        .collect();
                    format!("`{}({})`", name.name, params.join(", "))
                })
                .collect();
            let message = format!("no form of the macro `{}` takes these arguments", name.name);
            let d = Diagnostic::error("macro-arguments", span, message).help(format!("there is {}", forms.join(", ")));
            self.error(d);
            return None;
        };
        if self.macro_depth >= MAX_DEPTH {
            let message = format!("the macro `{}` is expanded inside of itself", name.name);
            self.error(Diagnostic::error("recursion", span, message));
            return None;
        }
        // Macros inside of macros repeat their errors by the thousand: nobody reads on, and each looks for names that are near.
        if self.diagnostics.len() >= MAX_ERRORS && self.diagnostics.iter().filter(|d| d.is_error()).count() >= MAX_ERRORS {
            return None;
        }
        self.expansions += 1;
        let mut expansion = Expansion::new(self.expansions);
        for (param, arg) in found.params.iter().zip(args) {
            match (param, &arg.value.kind) {
                (MacroParam::Expr(i), _) => drop(expansion.exprs.insert(&i.name, (&arg.value, size(&arg.value)))),
                (MacroParam::Var(i), ast::ExprKind::Var(theirs)) => drop(expansion.vars.insert(&i.name, theirs.clone())),
                (MacroParam::Map(i), ast::ExprKind::Map { name, .. }) => drop(expansion.maps.insert(&i.name, name.clone())),
                _ => {}
            }
        }
        let mut body = found.body.clone();
        expansion.block(&mut body);
        // The pieces of the body count once more where they are checked; what counts here is that they are held in memory.
        if !self.may_write_out(expansion.size, span) {
            return None;
        }
        let foreign = std::mem::take(&mut expansion.foreign);
        for (map, at) in &foreign {
            let params: Vec<&str> = found
                .params
                .iter()
                .filter_map(|p| if let MacroParam::Map(i) = p { Some(i.name.as_str()) } else { None })
                .collect();
            let d = Diagnostic::error("macro-map", *at, format!("`@{map}` is no parameter of the macro `{}`", name.name));
            let d = nearest(d, map, params.into_iter());
            self.error(d.help(format!("pass it: `macro {}(@{map}) {{ … }}`", name.name)));
        }
        foreign.is_empty().then_some(body)
    }

    /// Checks one expansion; what is wrong in it says where it comes from.
    fn expanded<T>(&mut self, span: Span, check: impl FnOnce(&mut Self) -> T) -> T {
        let errors = self.diagnostics.len();
        self.macro_depth += 1;
        let result = check(self);
        self.macro_depth -= 1;
        for d in &mut self.diagnostics[errors..] {
            // The innermost uses say enough of a recursion, and each of them once.
            let label = (span, "expanded from here".to_owned());
            if d.labels.len() < 4 && span != d.span && !d.labels.contains(&label) {
                d.labels.push(label);
            }
        }
        result
    }

    /// A macro where a value is wanted.
    pub(super) fn macro_value(&mut self, name: &ast::Ident, args: &[ast::Arg], span: Span) -> Expr {
        match self.expand(name, args, span) {
            Some(body) => self.expanded(span, |cx| cx.block_value(&body, span)),
            None => self.failed(span),
        }
    }

    /// A macro that stands as a statement.
    pub(super) fn macro_statement(&mut self, name: &ast::Ident, args: &[ast::Arg], span: Span, out: &mut Vec<Stmt>) {
        let Some(body) = self.expand(name, args, span) else { return };
        let body = self.expanded(span, |cx| cx.statements(&body));
        out.push(Self::stmt(StmtKind::Block(body), span));
    }

    /// `{ statements; value }` where a value is wanted.
    pub(super) fn block_value(&mut self, block: &ast::Block, span: Span) -> Expr {
        let Some(value) = &block.value else {
            let d = Diagnostic::error("no-value", span, "this block has no value").help("its last expression without `;` is the value");
            self.error(d);
            return self.failed(span);
        };
        self.scopes.push(HashMap::new());
        let mut body = Vec::new();
        for stmt in &block.stmts {
            self.statement(stmt, &mut body);
        }
        let value = self.value(value);
        self.scopes.pop();
        if value.ty == Ty::Error || body.is_empty() {
            return value;
        }
        let ty = value.ty.clone();
        let kind = ExprKind::Block {
            body,
            value: Box::new(value),
        };
        Self::make(kind, ty, span)
    }
}
