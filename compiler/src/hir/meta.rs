//! Calls that are answered, or written out as other statements, while compiling: questions about types, assertions,
//! `find`, `container_of`.

use super::check::Checker;
use super::unify::storable;
use super::{CTy, Event, Expr, ExprKind, Space, Stmt, StmtKind, Ty};
use crate::object::{FormatPart, FormatSpec, TextKind};
use crate::tables::{self, BuiltinKind, Function, FunctionKind, Is, helper};
use crate::types::Type;
use weir_parser::ast::{self, BinaryOp};
use weir_parser::{Diagnostic, Span};

/// What `debugf` passes on at most: the kernel's `bpf_trace_printk` takes three arguments.
const DEBUGF_ARGS: usize = 3;
/// Longest format of `debugf`; the kernel copies it.
const DEBUGF_BYTES: usize = 128;

impl Checker<'_> {
    /// Calls that stand as statements and become other statements. `None`: it is a call like others.
    pub(super) fn meta_statement(&mut self, name: &ast::Ident, args: &[ast::Arg], span: Span, out: &mut Vec<Stmt>) -> Option<()> {
        let function = tables::function(&name.name)?;
        if !matches!(
            function.kind,
            FunctionKind::Assert | FunctionKind::StaticAssert | FunctionKind::Fail | FunctionKind::Debugf
        ) {
            return None;
        }
        if !self.call_allowed(function, name, args, span) {
            return Some(());
        }
        match function.kind {
            FunctionKind::Assert => self.assertion(args, span, out),
            FunctionKind::StaticAssert => {
                let cond = self.condition(&args[0].value);
                if cond.ty == Ty::Error {
                    return Some(());
                }
                match truth(&cond) {
                    Some(true) => {}
                    Some(false) => {
                        let text = self.message(args.get(1));
                        self.error(Diagnostic::error("static-assert", args[0].value.span, text));
                    }
                    None => {
                        let d = Diagnostic::error("not-constant", cond.span, "this is only known when the script runs");
                        self.error(d.help("`assert(…)` checks it then"));
                    }
                }
            }
            FunctionKind::Fail => {
                if let Some(text) = self.failure(args, span) {
                    self.error(Diagnostic::error("fail", span, text));
                }
            }
            _ => {
                if let Some(stmt) = self.debugf(args, span) {
                    out.push(stmt);
                }
            }
        }
        Some(())
    }

    /// The text of a message for the author of the script.
    fn message(&mut self, arg: Option<&ast::Arg>) -> String {
        match arg.map(|a| (&a.value.kind, self.expr(&a.value).kind)) {
            Some((_, ExprKind::Str(text))) => String::from_utf8_lossy(&text).into_owned(),
            _ => "the assertion does not hold".to_owned(),
        }
    }

    /// The text of `fail("format", …)`, whose values are constants; `None` if it is wrong.
    fn failure(&mut self, args: &[ast::Arg], span: Span) -> Option<String> {
        let Event::Printf { format, args: values, .. } = self.printf(TextKind::Error, "fail", args, span)? else {
            return None;
        };
        let mut values = values.into_iter();
        let mut text = String::new();
        for part in format {
            let spec = match part {
                FormatPart::Text(piece) => {
                    text.push_str(&piece);
                    continue;
                }
                FormatPart::Arg(spec) => spec,
            };
            let value = values.next()?;
            let plain = FormatSpec {
                conv: spec.conv,
                bits: spec.bits,
                ..FormatSpec::default()
            };
            if spec != plain || !matches!(spec.conv, 'd' | 'i' | 'u' | 'x' | 's') {
                let d = Diagnostic::error("bad-format", args[0].value.span, "`fail` writes values as they are");
                self.error(d.help("it knows `%d %u %x %s`, without a width; `errorf` knows all"));
                return None;
            }
            let unused = 64 - u32::from(spec.bits.unwrap_or(64).clamp(1, 64));
            match value.kind {
                ExprKind::Int(n) if spec.conv == 'x' => text.push_str(&format!("{:x}", (n as u64) << unused >> unused)),
                ExprKind::Int(n) if spec.conv == 'u' => text.push_str(&((n as u64) << unused >> unused).to_string()),
                ExprKind::Int(n) => text.push_str(&(n << unused >> unused).to_string()),
                ExprKind::Str(piece) => text.push_str(&String::from_utf8_lossy(&piece)),
                _ => {
                    let d = Diagnostic::error(
                        "not-constant",
                        value.span,
                        "`fail` speaks while the script is compiled, and takes numbers and texts that are known then",
                    );
                    self.error(d.help("`errorf(…)` is for when it runs"));
                    return None;
                }
            }
        }
        Some(text)
    }

    /// `assert(cond, "text")`: an error with its place, then the end of the script.
    fn assertion(&mut self, args: &[ast::Arg], span: Span, out: &mut Vec<Stmt>) {
        let cond = self.condition(&args[0].value);
        let text = format!("assert failed: {}", self.message(args.get(1)));
        if cond.ty == Ty::Error || self.is_pinned_iterator() && self.for_readers(StmtKind::Exit { code: None }, "assert", span).is_none() {
            return;
        }
        let code = Self::make(ExprKind::Int(1), Ty::I64, span);
        let print = Event::Printf {
            what: TextKind::Error,
            format: vec![FormatPart::Text(text)],
            args: Vec::new(),
        };
        let failed = vec![
            Self::stmt(StmtKind::Event(print), span),
            Self::stmt(StmtKind::Exit { code: Some(code) }, span),
        ];
        let cond_span = cond.span;
        let cond = Self::make(ExprKind::Not(Box::new(cond)), Ty::Bool, cond_span);
        let check = StmtKind::If {
            cond,
            then: failed,
            otherwise: Vec::new(),
        };
        out.push(Self::stmt(check, span));
    }

    /// `debugf("format", …)`: to the kernel's trace pipe.
    fn debugf(&mut self, args: &[ast::Arg], span: Span) -> Option<Stmt> {
        let Some(Event::Printf { format, args: values, .. }) = self.printf(TextKind::Print, "debugf", args, span) else {
            return None;
        };
        if values.len() > DEBUGF_ARGS {
            let message = format!("`debugf` takes at most {DEBUGF_ARGS} values, found {}", values.len());
            self.error(Diagnostic::error("argument-count", span, message).help("`printf` takes more"));
            return None;
        }
        let mut text = String::new();
        let mut used = values.iter();
        for part in &format {
            match part {
                crate::object::FormatPart::Text(part) => text.push_str(&part.replace('%', "%%")),
                crate::object::FormatPart::Arg(spec) => {
                    let value = used.next()?;
                    // All values are 64 bits wide there.
                    match (spec.conv, &value.ty) {
                        ('d' | 'i', _) => text.push_str("%lld"),
                        ('u' | 'x', _) => text.push_str(&format!("%ll{}", spec.conv)),
                        ('p', _) => text.push_str("%p"),
                        ('s', Ty::Str { .. }) => text.push_str("%s"),
                        _ => {
                            let message = format!("the kernel's trace pipe does not print `%{}` of `{}`", spec.conv, value.ty);
                            let d = Diagnostic::error("bad-format", value.span, message);
                            self.error(d.help("`debugf` knows `%d %u %x %p` and `%s` of text; `printf` knows all"));
                            return None;
                        }
                    }
                }
            }
        }
        if text.len() >= DEBUGF_BYTES {
            let message = format!("the format of `debugf` takes at most {} bytes", DEBUGF_BYTES - 1);
            self.error(Diagnostic::error("string-too-long", args[0].value.span, message));
            return None;
        }
        let size = i64::try_from(text.len() + 1).unwrap_or(0);
        let mut helper_args = vec![
            Self::make(ExprKind::Str(text.into_bytes()), Ty::Str { cap: 8 }, span),
            Self::make(ExprKind::Int(size), Ty::U64, span),
        ];
        helper_args.extend(values);
        helper_args.resize_with(2 + DEBUGF_ARGS, || Self::make(ExprKind::Int(0), Ty::U64, span));
        let call = ExprKind::Helper {
            number: helper::TRACE_PRINTK,
            args: helper_args,
        };
        Some(Self::stmt(StmtKind::Expr(Self::make(call, Ty::I64, span)), span))
    }

    /// Calls that have a value.
    pub(super) fn meta_call(&mut self, function: &'static Function, args: &[ast::Arg], span: Span) -> Option<Expr> {
        let yes_no = |yes: bool| Self::make(ExprKind::Int(i64::from(yes)), Ty::Bool, span);
        match function.kind {
            FunctionKind::Comptime => self.comptime(&args[0].value),
            FunctionKind::Is(what) => {
                let ty = match &args[0].value.kind {
                    ast::ExprKind::TypeOf(of) => self.type_of(of)?,
                    _ => {
                        let value = self.expr(&args[0].value);
                        if what == Is::Literal && value.ty != Ty::Error {
                            let literal = matches!(value.kind, ExprKind::Int(_) | ExprKind::Str(_));
                            return Some(yes_no(literal));
                        }
                        value.ty
                    }
                };
                (ty != Ty::Error).then_some(())?;
                let array = matches!(ty, Ty::Obj { ty: CTy::Array { .. }, .. } | Ty::Kept(Type::Array { .. }));
                Some(yes_no(match what {
                    Is::Array => array,
                    Is::Integer => matches!(ty, Ty::Int { .. }),
                    Is::UnsignedInteger => matches!(ty, Ty::Int { signed: false, .. }),
                    Is::Ptr => matches!(ty, Ty::Ptr { .. }),
                    Is::Str => matches!(ty, Ty::Str { .. }),
                    Is::Literal => false,
                }))
            }
            FunctionKind::IsErr => {
                // The last page of addresses stands for error numbers.
                let value = self.word(&args[0], function)?;
                let value = Self::make(ExprKind::Convert(Box::new(value)), Ty::U64, span);
                let first = Self::make(ExprKind::Int(-4095), Ty::U64, span);
                let kind = ExprKind::Binary {
                    op: BinaryOp::Ge,
                    left: Box::new(value),
                    right: Box::new(first),
                };
                Some(Self::make(kind, Ty::Bool, span))
            }
            FunctionKind::KfuncExist | FunctionKind::KfuncAllowed => {
                let name = self.literal(&args[0], function)?;
                let there = self.kernel.btf().is_some_and(|btf| btf.find_func(&name).is_some());
                Some(yes_no(there))
            }
            FunctionKind::ContainerOf => self.container_of(function, args, span),
            FunctionKind::Find => self.find(args, span),
            FunctionKind::Strcap => {
                let value = self.value(&args[0].value);
                match value.ty {
                    Ty::Str { cap } => Some(Self::make(ExprKind::Int(i64::from(cap)), Ty::I64, span)),
                    Ty::Error => None,
                    other => {
                        let message = format!("`strcap` takes a string, found `{other}`");
                        self.error(Diagnostic::error("argument-type", value.span, message));
                        None
                    }
                }
            }
            FunctionKind::DefaultStrLength => Some(Self::make(ExprKind::Int(i64::from(self.config.max_strlen)), Ty::U64, span)),
            FunctionKind::PercpuKaddr => self.percpu_kaddr(function, args, span),
            _ => None,
        }
    }

    /// An integer or pointer.
    fn word(&mut self, arg: &ast::Arg, function: &Function) -> Option<Expr> {
        let value = self.expr(&arg.value);
        match &value.ty {
            Ty::Int { .. } | Ty::Ptr { .. } => Some(value),
            Ty::Error => None,
            other => {
                let message = format!("`{}` takes an integer or a pointer, found `{other}`", function.name);
                self.error(Diagnostic::error("argument-type", value.span, message));
                None
            }
        }
    }

    /// `comptime e`: a value that is known while compiling.
    pub(super) fn comptime(&mut self, of: &ast::Expr) -> Option<Expr> {
        let value = self.value(of);
        if value.ty == Ty::Error {
            return None;
        }
        if matches!(value.kind, ExprKind::Int(_) | ExprKind::Str(_)) {
            return Some(value);
        }
        if let Some(yes) = truth(&value) {
            return Some(Self::make(ExprKind::Int(i64::from(yes)), Ty::Bool, of.span));
        }
        self.error(Diagnostic::error(
            "not-constant",
            of.span,
            "this is only known when the script runs",
        ));
        None
    }

    /// The condition of an `if` that is decided while compiling: only the branch that is taken is checked.
    pub(super) fn decided(&mut self, cond: &ast::Expr) -> Option<bool> {
        let ast::ExprKind::Call { name, args } = &cond.kind else {
            return None;
        };
        if name.name != "comptime" || args.len() != 1 {
            return None;
        }
        let value = self.comptime(&args[0].value)?;
        truth(&value)
    }

    /// The type that `typeof(…)` stands for.
    pub(super) fn type_of(&mut self, of: &ast::SizeOfArg) -> Option<Ty> {
        let ty = match of {
            ast::SizeOfArg::Type(ty) => self.type_expr(ty),
            ast::SizeOfArg::Expr(e) => super::sizes::written_type(&self.expr(e)),
        };
        (ty != Ty::Error).then_some(ty)
    }

    /// `container_of(pointer, struct x, member)`: the struct that the pointer's target lies in.
    fn container_of(&mut self, function: &Function, args: &[ast::Arg], span: Span) -> Option<Expr> {
        let pointer = self.word(&args[0], function)?;
        let of = match &args[1].value.kind {
            ast::ExprKind::TypeOf(of) => of.clone(),
            ast::ExprKind::Name(name) => ast::SizeOfArg::Type(ast::TypeExpr {
                kind: ast::TypeExprKind::Name(name.clone()),
                span: args[1].value.span,
            }),
            _ => {
                let d = Diagnostic::error(
                    "argument-type",
                    args[1].value.span,
                    "the second argument of `container_of` is a struct",
                );
                self.error(d.help("`container_of(pointer, struct task_struct, tasks)`"));
                return None;
            }
        };
        let Some(path) = member_path(&args[2].value) else {
            let d = Diagnostic::error(
                "argument-type",
                args[2].value.span,
                "the third argument of `container_of` is a member",
            );
            self.error(d.help("`container_of(pointer, struct task_struct, tasks)`"));
            return None;
        };
        let whole = match &of {
            ast::SizeOfArg::Type(ty) => self.type_expr_c(ty)?,
            ast::SizeOfArg::Expr(e) => super::ctypes::as_c(&self.expr(e).ty)?,
        };
        let ExprKind::Int(offset) = self.offset_of(&of, &path, span).kind else {
            return None;
        };
        let space = match pointer.ty {
            Ty::Ptr { space: Space::User, .. } => Space::User,
            _ => Space::Kernel,
        };
        let number = Self::make(ExprKind::Convert(Box::new(pointer)), Ty::U64, span);
        let offset = Self::make(ExprKind::Int(offset), Ty::U64, span);
        let kind = ExprKind::Binary {
            op: BinaryOp::Sub,
            left: Box::new(number),
            right: Box::new(offset),
        };
        let start = Self::make(kind, Ty::U64, span);
        let ty = Ty::Ptr {
            to: Box::new(whole),
            space,
        };
        Some(Self::make(ExprKind::Convert(Box::new(start)), ty, span))
    }

    /// `find(@m, key, $v)`: whether the key is there, and then its value in the variable.
    fn find(&mut self, args: &[ast::Arg], span: Span) -> Option<Expr> {
        let native = if self.is_native_map(&args[0].value) {
            Some(self.native_copy(&args[0].value, super::natives::Purpose::Key, "find")?)
        } else {
            None
        };
        let whole = match native {
            Some((map, key)) => key.is_none().then_some(map),
            None => match self.map_argument(&args[0].value, "find")? {
                (super::EventMap::Own(map), None) => Some(map),
                _ => None,
            },
        };
        let Some(map) = whole else {
            self.error(Diagnostic::error("not-a-map", args[0].value.span, "`find` takes a whole map").help("`find(@name, key, $value)`"));
            return None;
        };
        let ast::ExprKind::Var(name) = &args[2].value.kind else {
            let d = Diagnostic::error("argument-type", args[2].value.span, "the third argument of `find` is a variable");
            self.error(d.help("`if (find(@name, key, $value)) { … }`"));
            return None;
        };
        let (key, value) = if native.is_some() {
            let key = self.native_key(map, &args[1].value, args[1].value.span)?;
            let Some(super::MapValueTy::Plain(ty)) = self.maps[map].value.clone() else {
                return None;
            };
            let kind = ExprKind::MapGet {
                map,
                key: Some(Box::new(key.clone())),
            };
            (key, Self::make(kind, ty, span))
        } else {
            let key_arg = std::slice::from_ref(&args[1].value);
            let key = self.key(map, key_arg, args[1].value.span)?;
            self.map_key(map, Some(&key.ty), key.span);
            let whole = with_key(&args[0].value, &args[1].value);
            let value = self.map_get(&whole, map_name(&args[0].value)?, Some(key_arg));
            (key, value)
        };
        if value.ty == Ty::Error {
            return None;
        }
        let ty = storable(&value.ty);
        let var = match self.lookup_var(name) {
            Some(var) => {
                let old = self.vars[var].ty.clone();
                match super::unify::unify(&old, &ty) {
                    Some(ty) => {
                        self.var_grew |= old != ty;
                        self.vars[var].ty = ty;
                    }
                    None => {
                        let message = format!("`${name}` is `{old}` and cannot become `{ty}`");
                        let d = Diagnostic::error("variable-type", args[2].value.span, message);
                        self.error(d.with(self.vars[var].span, format!("`{old}` here")));
                        return None;
                    }
                }
                var
            }
            None => self.declare_var(name, ty, args[2].value.span),
        };
        // The key is computed once.
        let key_ty = storable(&key.ty);
        let key_var = self.hidden_var("key", key_ty.clone(), span);
        let found_var = self.hidden_var("found", Ty::Bool, span);
        let key_of = |span| Box::new(Self::make(ExprKind::Var(key_var), key_ty.clone(), span));
        let has = Self::make(ExprKind::HasKey { map, key: key_of(span) }, Ty::Bool, span);
        let found = || Self::make(ExprKind::Var(found_var), Ty::Bool, span);
        let kind = match value.kind {
            ExprKind::AggGet { .. } => ExprKind::AggGet {
                map,
                key: Some(key_of(span)),
            },
            _ => ExprKind::MapGet {
                map,
                key: Some(key_of(span)),
            },
        };
        let get = Self::make(kind, value.ty, span);
        let body = vec![
            Self::stmt(StmtKind::SetVar { var: key_var, value: key }, span),
            Self::stmt(
                StmtKind::SetVar {
                    var: found_var,
                    value: has,
                },
                span,
            ),
            Self::stmt(
                StmtKind::If {
                    cond: found(),
                    then: vec![Self::stmt(StmtKind::SetVar { var, value: get }, span)],
                    otherwise: Vec::new(),
                },
                span,
            ),
        ];
        let kind = ExprKind::Block {
            body,
            value: Box::new(found()),
        };
        Some(Self::make(kind, Ty::Bool, span))
    }

    /// A variable that no script can name.
    fn hidden_var(&mut self, what: &str, ty: Ty, span: Span) -> usize {
        let outer = self.scopes.len();
        self.scopes.push(std::collections::HashMap::new());
        let id = self.declare_var(&format!("{what} of find"), ty, span);
        self.scopes.truncate(outer);
        id
    }

    /// `percpu_kaddr("symbol"[, cpu])`: this CPU's, or another's, copy of a per-CPU variable of the kernel.
    fn percpu_kaddr(&mut self, function: &Function, args: &[ast::Arg], span: Span) -> Option<Expr> {
        let name = self.literal(&args[0], function)?;
        self.has_kernel(function.name, span).then_some(())?;
        let (Some(symbol), Some(offsets)) = (self.kernel.symbol_address(&name), self.kernel.symbol_address("__per_cpu_offset")) else {
            let message = format!("the kernel has no per-CPU symbol `{name}`, or hides its addresses");
            self.error(Diagnostic::error("unknown-symbol", args[0].value.span, message).help("/proc/kallsyms lists them"));
            return None;
        };
        let cpu = match args.get(1) {
            Some(arg) => self.word(arg, function)?,
            None => Self::make(ExprKind::Builtin(BuiltinKind::Cpu), Ty::U32, span),
        };
        let u64_array = Ty::Obj {
            ty: CTy::Int { bits: 64, signed: false },
            space: Space::Kernel,
        };
        let base = Self::make(
            ExprKind::Int(offsets.cast_signed()),
            Ty::Ptr {
                to: Box::new(CTy::Int { bits: 64, signed: false }),
                space: Space::Kernel,
            },
            span,
        );
        let element = ExprKind::Element {
            base: Box::new(base),
            index: Box::new(cpu),
            size: 8,
        };
        let read = ExprKind::Read {
            place: Box::new(Self::make(element, u64_array, span)),
            size: 8,
            bits: None,
        };
        let kind = ExprKind::Binary {
            op: BinaryOp::Add,
            left: Box::new(Self::make(ExprKind::Int(symbol.cast_signed()), Ty::U64, span)),
            right: Box::new(Self::make(read, Ty::U64, span)),
        };
        Some(Self::make(kind, Ty::U64, span))
    }
}

/// Whether the condition of an `if` starts with `comptime`.
pub(super) fn is_comptime(cond: &ast::Expr) -> bool {
    matches!(&cond.kind, ast::ExprKind::Call { name, .. } if name.name == "comptime")
}

fn map_name(map: &ast::Expr) -> Option<&str> {
    match &map.kind {
        ast::ExprKind::Map { name, .. } => Some(name),
        _ => None,
    }
}

/// `@m` with a key.
fn with_key(map: &ast::Expr, key: &ast::Expr) -> ast::Expr {
    let mut map = map.clone();
    if let ast::ExprKind::Map { keys, .. } = &mut map.kind {
        *keys = Some(vec![key.clone()]);
    }
    map
}

/// `a.b.c` as the words of a path.
fn member_path(e: &ast::Expr) -> Option<Vec<ast::Ident>> {
    match &e.kind {
        ast::ExprKind::Name(name) => Some(vec![ast::Ident {
            name: name.clone(),
            span: e.span,
        }]),
        ast::ExprKind::Field { base, name, .. } => {
            let mut path = member_path(base)?;
            path.push(name.clone());
            Some(path)
        }
        _ => None,
    }
}

/// Whether a value is true, where that is known while compiling.
pub(super) fn truth(e: &Expr) -> Option<bool> {
    Some(match &e.kind {
        ExprKind::Int(n) => *n != 0,
        ExprKind::Not(inner) => !truth(inner)?,
        ExprKind::Binary { op, left, right } => match op {
            BinaryOp::And => match truth(left)? {
                false => false,
                true => truth(right)?,
            },
            BinaryOp::Or => match truth(left)? {
                true => true,
                false => truth(right)?,
            },
            _ if op.is_comparison() => {
                let order = match (&left.kind, &right.kind) {
                    (ExprKind::Int(a), ExprKind::Int(b)) => {
                        let unsigned = |ty: &Ty| *ty == Ty::U64;
                        if unsigned(&left.ty) && unsigned(&right.ty) {
                            a.cast_unsigned().cmp(&b.cast_unsigned())
                        } else {
                            a.cmp(b)
                        }
                    }
                    (ExprKind::Str(a), ExprKind::Str(b)) => a.cmp(b),
                    _ => return None,
                };
                match op {
                    BinaryOp::Eq => order.is_eq(),
                    BinaryOp::Ne => order.is_ne(),
                    BinaryOp::Lt => order.is_lt(),
                    BinaryOp::Le => order.is_le(),
                    BinaryOp::Gt => order.is_gt(),
                    _ => order.is_ge(),
                }
            }
            _ => return None,
        },
        _ => return None,
    })
}
