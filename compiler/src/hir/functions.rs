//! `fn name($a : type) : type { … }`: the functions that a script defines.
//!
//! A call is written out where it stands: BPF counts the depth of calls and the stack they take, and the optimiser sees more this way.
//! The body sees its parameters and nothing of the caller's variables; maps are everybody's. `return` ends the call, not the block.

use super::check::Checker;
use super::unify::storable;
use super::{Expr, ExprKind, Stmt, StmtKind, Ty, VarId};
use crate::tables::{self, Hook};
use std::collections::HashMap;
use weir_parser::ast;
use weir_parser::{Diagnostic, Span};

/// Calls inside of calls: more would be too much code.
const MAX_DEPTH: usize = 16;

/// A function that is being written out.
#[derive(Debug, Clone)]
pub(super) struct Inside {
    name: String,
    ret: Ty,
    result: Option<VarId>,
}

/// Collects the functions of a script by name.
pub(super) fn collect<'a>(
    program: &'a ast::Program,
    macros: &super::macros::Macros<'_>,
    out: &mut Vec<Diagnostic>,
) -> HashMap<String, &'a ast::FnDef> {
    let mut functions: HashMap<String, &'a ast::FnDef> = HashMap::new();
    for item in &program.items {
        let ast::Item::Fn(def) = item else { continue };
        let name = &def.name.name;
        if let Some(first) = functions.get(name) {
            let d = Diagnostic::error("duplicate-fn", def.name.span, format!("the function `{name}` is defined twice"));
            out.push(d.with(first.name.span, "first here"));
        } else if tables::function(name).is_some() || tables::builtin(name).is_some() {
            let d = Diagnostic::error(
                "fn-name",
                def.name.span,
                format!("`{name}` is a word of the language and cannot be a function"),
            );
            out.push(d);
        } else if macros.contains_key(name) {
            let d = Diagnostic::error("fn-name", def.name.span, format!("`{name}` is a macro of this script"));
            out.push(d.help("give one of the two another name"));
        } else {
            functions.insert(name.clone(), def);
        }
    }
    functions
}

impl Checker<'_> {
    /// Whether a word names a function of the script.
    pub(super) fn is_fn(&self, name: &str) -> bool {
        self.functions.contains_key(name)
    }

    /// Checks and writes out one call.
    pub(super) fn fn_call(&mut self, name: &ast::Ident, args: &[ast::Arg], span: Span) -> Expr {
        let functions = self.functions;
        let Some(def) = functions.get(&name.name).copied() else {
            return self.failed(span);
        };
        self.called.insert(name.name.clone());
        if args.len() != def.params.len() {
            let message = format!(
                "`{}` takes {} argument{}, found {}",
                name.name,
                def.params.len(),
                if def.params.len() == 1 { "" } else { "s" },
                args.len()
            );
            self.error(Diagnostic::error("argument-count", span, message).with(def.name.span, "defined here"));
            return self.failed(span);
        }
        if self.inside.iter().any(|f| f.name == name.name) || self.inside.len() >= MAX_DEPTH {
            let message = format!("`{}` calls itself", name.name);
            self.error(Diagnostic::error("recursion", span, message).help("use a loop: `while`, `for ($i : 0..10)`"));
            return self.failed(span);
        }
        let values: Vec<Expr> = args.iter().map(|a| self.value(&a.value)).collect();
        if values.iter().any(|v| v.ty == Ty::Error) {
            return self.failed(span);
        }
        self.write_out(def, values, span)
    }

    fn write_out(&mut self, def: &ast::FnDef, values: Vec<Expr>, span: Span) -> Expr {
        let outer = std::mem::replace(&mut self.scopes, vec![HashMap::new()]);
        let loops = std::mem::take(&mut self.loops);
        let mut body = Vec::new();
        for ((param, ty), value) in def.params.iter().zip(values) {
            let ty = self.type_expr(ty);
            let value = self.coerce(value, &ty);
            let id = self.declare_var(&param.name, storable(&ty), param.span);
            self.vars[id].declared = true;
            if value.ty != Ty::Error {
                body.push(Self::stmt(StmtKind::SetVar { var: id, value }, span));
            }
        }
        let ret = self.type_expr(&def.ret);
        let result = (!matches!(ret, Ty::Void | Ty::Error)).then(|| {
            let id = self.declare_var("", storable(&ret), def.name.span);
            // A name that no script can write.
            self.vars[id].name = format!("{}()", def.name.name);
            self.vars[id].declared = true;
            id
        });
        self.inside.push(Inside {
            name: def.name.name.clone(),
            ret: ret.clone(),
            result,
        });
        self.scopes.push(HashMap::new());
        for stmt in &def.body.stmts {
            self.statement(stmt, &mut body);
        }
        match &def.body.value {
            Some(value) if result.is_some() => {
                let ret = ast::Stmt {
                    kind: ast::StmtKind::Return(Some((**value).clone())),
                    span: value.span,
                };
                self.statement(&ret, &mut body);
            }
            Some(value) => {
                let stmt = ast::Stmt {
                    kind: ast::StmtKind::Expr((**value).clone()),
                    span: value.span,
                };
                self.statement(&stmt, &mut body);
            }
            None if result.is_some() && !returns(&body) => {
                let message = format!("`{}` can end without a value", def.name.name);
                let d = Diagnostic::error("missing-return", def.name.span, message);
                self.error(d.help("end it with `return VALUE;`"));
            }
            None => {}
        }
        self.scopes = outer;
        self.loops = loops;
        self.inside.pop();
        if ret == Ty::Error {
            return self.failed(span);
        }
        Self::make(ExprKind::Inline { body, result }, ret, span)
    }

    /// `return` inside of a function. Returns whether it was that.
    pub(super) fn fn_return(&mut self, value: Option<&ast::Expr>, span: Span, out: &mut Vec<Stmt>) -> bool {
        let Some(inside) = self.inside.last().cloned() else {
            return false;
        };
        match (value, inside.result) {
            (Some(value), Some(result)) => {
                let value = self.value(value);
                let value = self.coerce(value, &inside.ret);
                if value.ty != Ty::Error {
                    out.push(Self::stmt(StmtKind::SetVar { var: result, value }, span));
                }
            }
            (None, Some(_)) => {
                let message = format!("`{}` returns a value of type `{}`", inside.name, inside.ret);
                self.error(Diagnostic::error("return-value", span, message).help("write `return VALUE;`"));
            }
            (Some(value), None) if inside.ret == Ty::Void => {
                let message = format!("`{}` returns nothing", inside.name);
                self.error(Diagnostic::error("return-value", value.span, message).help("write `return;`"));
            }
            _ => {}
        }
        out.push(Self::stmt(StmtKind::Return(None), span));
        true
    }

    /// Checks the functions that nothing calls, so that their errors show.
    pub(super) fn uncalled_functions(&mut self) {
        let mut names: Vec<&ast::FnDef> = self
            .functions
            .values()
            .copied()
            .filter(|f| !self.called.contains(&f.name.name))
            .collect();
        names.sort_by_key(|f| f.span.start);
        for def in names {
            let errors = self.diagnostics.len();
            self.hook = Hook::RunOnce;
            self.native = None;
            self.target = super::probes::Target::None;
            self.vars = Vec::new();
            self.var_hints = Vec::new();
            self.inside.clear();
            let values = def.params.iter().map(|(param, ty)| {
                let ty = self.type_expr(ty);
                Self::make(ExprKind::Error, ty, param.span)
            });
            let values: Vec<Expr> = values.collect();
            self.write_out(def, values, def.name.span);
            // Where it would be called is not known.
            let mut kept = self.diagnostics.split_off(errors);
            kept.retain(|d| d.code != "not-at-this-hook");
            self.diagnostics.append(&mut kept);
        }
    }
}

/// Whether the statements always end with `return`.
fn returns(body: &[Stmt]) -> bool {
    body.last().is_some_and(|last| match &last.kind {
        StmtKind::Return(_) | StmtKind::Exit { .. } => true,
        StmtKind::If { then, otherwise, .. } => returns(then) && returns(otherwise),
        StmtKind::Block(inner) => returns(inner),
        _ => false,
    })
}
