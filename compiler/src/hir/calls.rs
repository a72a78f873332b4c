//! Calls of functions that have a value.

use super::check::{Checker, nearest};
use super::{CTy, Expr, ExprKind, Space, Ty};
use crate::tables::{self, FunctionKind};
use weir_parser::ast;
use weir_parser::{Diagnostic, Span};

/// Longest text that `strcontains` looks for, with its end.
const MAX_PART_BYTES: u32 = 64;

/// What verdicts are called by other tools.
const FOREIGN_VERDICTS: &[&str] = &["accept", "reject", "permit", "forward", "discard", "block"];

impl Checker<'_> {
    /// Checks number of arguments and hook. Returns whether the call may be checked further.
    pub(super) fn call_allowed(&mut self, function: &'static tables::Function, name: &ast::Ident, args: &[ast::Arg], span: Span) -> bool {
        let (min, max) = function.args;
        if !(min..=max).contains(&args.len()) {
            let expected = match (min, max) {
                (0, 0) => "no argument".to_owned(),
                (1, 1) => "one argument".to_owned(),
                (a, b) if a == b => format!("{a} arguments"),
                (a, b) => format!("{a} to {b} arguments"),
            };
            self.error(
                Diagnostic::error(
                    "argument-count",
                    span,
                    format!("`{}` takes {expected}, found {}", name.name, args.len()),
                )
                .help(format!("`{}`", function.signature)),
            );
            return false;
        }
        if !function.hooks.contains(self.hook) {
            let mut d = Diagnostic::error(
                "not-at-this-hook",
                name.span,
                format!("`{}` is not available in {} block", name.name, self.hook.with_article()),
            )
            .label(format!("available in {}", function.hooks));
            if matches!(function.kind, FunctionKind::Verdict(_)) && self.hook.has_verdict() {
                d = d.help(self.verdicts_here());
            }
            self.error(d);
            return false;
        }
        true
    }

    pub(super) fn call(&mut self, name: &ast::Ident, args: &[ast::Arg], span: Span) -> Expr {
        if self.is_macro(&name.name) {
            return self.macro_value(name, args, span);
        }
        if self.is_fn(&name.name) {
            return self.fn_call(name, args, span);
        }
        let Some(function) = tables::function(&name.name) else {
            if args.is_empty() && tables::builtin(&name.name).is_some() {
                return self.name(&name.name, span);
            }
            let d = Diagnostic::error("unknown-function", name.span, format!("unknown function `{}`", name.name));
            // Of a word from elsewhere the similar one is another thing: `redirect` does not reject.
            self.error(if !FOREIGN_VERDICTS.contains(&name.name.as_str()) {
                let functions = tables::FUNCTIONS.iter().map(|f| f.name);
                let own = self.macros.keys().chain(self.functions.keys()).map(String::as_str);
                nearest(d, &name.name, functions.chain(own))
            } else if self.hook.has_verdict() {
                d.help(self.verdicts_here())
            } else {
                d
            });
            return self.failed(span);
        };
        if !self.call_allowed(function, name, args, span) {
            return self.failed(span);
        }
        match function.kind {
            FunctionKind::Delete | FunctionKind::HasKey => self.map_call(function, args, span),
            FunctionKind::Str => self.str_call(args, span),
            FunctionKind::Ntop => self.ntop(args, span),
            FunctionKind::Buf => self.buf_call(args, span),
            FunctionKind::Strncmp => self.strncmp(args, span).unwrap_or_else(|| self.failed(span)),
            FunctionKind::Strcontains => self.search("strcontains", args, span).unwrap_or_else(|| self.failed(span)),
            FunctionKind::Strlen => match self.text(&args[0], "strlen") {
                Some(text) => Self::make(ExprKind::Strlen(Box::new(text)), Ty::U64, span),
                None => self.failed(span),
            },
            FunctionKind::Bswap => {
                let value = self.expr(&args[0].value);
                match super::sizes::written_type(&value) {
                    Ty::Int { bits: 8, .. } => value,
                    Ty::Int { bits, .. } => Self::make(
                        ExprKind::Bswap {
                            value: Box::new(value),
                            bits,
                        },
                        Ty::Int { bits, signed: false },
                        span,
                    ),
                    Ty::Error => self.failed(span),
                    other => {
                        self.error(Diagnostic::error(
                            "argument-type",
                            value.span,
                            format!("`bswap` takes an integer, found `{other}`"),
                        ));
                        self.failed(span)
                    }
                }
            }
            FunctionKind::Kptr | FunctionKind::Uptr => {
                let value = self.expr(&args[0].value);
                let space = if function.kind == FunctionKind::Kptr {
                    Space::Kernel
                } else {
                    Space::User
                };
                match value.ty.clone() {
                    Ty::Ptr { to, .. } => Expr {
                        ty: Ty::Ptr { to, space },
                        ..value
                    },
                    Ty::Int { .. } => Self::make(
                        ExprKind::Convert(Box::new(value)),
                        Ty::Ptr {
                            to: Box::new(CTy::Void),
                            space,
                        },
                        span,
                    ),
                    Ty::Error => self.failed(span),
                    other => {
                        self.error(Diagnostic::error(
                            "argument-type",
                            value.span,
                            format!("`{}` takes a pointer, found `{other}`", name.name),
                        ));
                        self.failed(span)
                    }
                }
            }
            FunctionKind::Has => {
                if let ast::ExprKind::Name(word) = &args[0].value.kind
                    && let Some(header) = tables::header(word)
                {
                    return Self::make(ExprKind::HasHeader(header), Ty::Bool, span);
                }
                let value = self.expr(&args[0].value);
                if value.ty == Ty::Error {
                    return self.failed(span);
                }
                Self::make(ExprKind::Has(Box::new(value)), Ty::Bool, span)
            }
            FunctionKind::Agg(_) => {
                self.error(
                    Diagnostic::error("aggregate-alone", span, format!("`{}()` can only be assigned to a map", name.name))
                        .help(format!("`@ = {}(…);`", name.name)),
                );
                self.failed(span)
            }
            FunctionKind::Stack { .. }
            | FunctionKind::Ksym
            | FunctionKind::Usym
            | FunctionKind::Kaddr
            | FunctionKind::Uaddr
            | FunctionKind::Path
            | FunctionKind::Strftime
            | FunctionKind::Macaddr
            | FunctionKind::Pton
            | FunctionKind::Signal { .. }
            | FunctionKind::Override
            | FunctionKind::Reg
            | FunctionKind::Cgroupid
            | FunctionKind::SocketCookie
            | FunctionKind::CgroupPath
            | FunctionKind::Strerror
            | FunctionKind::Len
            | FunctionKind::Nsecs
            | FunctionKind::Pid { .. }
            | FunctionKind::CommOf
            | FunctionKind::SignalName
            | FunctionKind::SyscallName
            | FunctionKind::WriteUser
            | FunctionKind::Getopt => self.system_call(function, args, span).unwrap_or_else(|| self.failed(span)),
            FunctionKind::Strstr => self.strstr(args, span).unwrap_or_else(|| self.failed(span)),
            FunctionKind::StrConcat => self.str_concat(args, span).unwrap_or_else(|| self.failed(span)),
            FunctionKind::Memcmp => self.memcmp(args, span).unwrap_or_else(|| self.failed(span)),
            FunctionKind::Strcap
            | FunctionKind::DefaultStrLength
            | FunctionKind::Find
            | FunctionKind::ContainerOf
            | FunctionKind::PercpuKaddr
            | FunctionKind::Comptime
            | FunctionKind::Is(_)
            | FunctionKind::IsErr
            | FunctionKind::KfuncExist
            | FunctionKind::KfuncAllowed => self.meta_call(function, args, span).unwrap_or_else(|| self.failed(span)),
            FunctionKind::Instead(what) => {
                let d = Diagnostic::error("unsupported", name.span, format!("weir has no `{}`", name.name));
                self.error(d.help(what));
                self.failed(span)
            }
            FunctionKind::Printf
            | FunctionKind::Text(_)
            | FunctionKind::Debugf
            | FunctionKind::Assert
            | FunctionKind::StaticAssert
            | FunctionKind::Fail
            | FunctionKind::Join
            | FunctionKind::Print
            | FunctionKind::Clear
            | FunctionKind::Zero
            | FunctionKind::Exit
            | FunctionKind::Time
            | FunctionKind::Redirect
            | FunctionKind::Mirror
            | FunctionKind::Capture
            | FunctionKind::Verdict(_) => {
                self.error(
                    Diagnostic::error("no-value", span, format!("`{}` has no value", name.name))
                        .help("let it stand as a statement of its own"),
                );
                self.failed(span)
            }
        }
    }

    fn map_call(&mut self, function: &'static tables::Function, args: &[ast::Arg], span: Span) -> Expr {
        if self.is_native_map(&args[0].value) {
            let deletes = function.kind == FunctionKind::Delete;
            return self.native_call(function.name, deletes, &args[0].value, args.get(1).map(|a| &a.value), span);
        }
        // `delete(@m[key])` is the older form of `delete(@m, key)`.
        let Some((map, key)) = self.map_argument(&args[0].value, function.name) else {
            return self.failed(span);
        };
        let super::EventMap::Own(map) = map else {
            return self.failed(span);
        };
        let key = match (key, args.get(1)) {
            (Some(key), None) => Some(key),
            (None, Some(arg)) => {
                let key = if self.is_lpm(map) {
                    let Some(key) = self.prefix_key(&arg.value) else {
                        return self.failed(span);
                    };
                    key
                } else {
                    self.value(&arg.value)
                };
                self.map_key(map, Some(&key.ty), key.span);
                Some(key)
            }
            (None, None) => {
                self.map_key(map, None, args[0].value.span);
                None
            }
            (Some(_), Some(_)) => {
                self.error(Diagnostic::error("argument-count", span, "the key is given twice").help(format!("`{}`", function.signature)));
                return self.failed(span);
            }
        };
        if key.as_ref().is_some_and(|k| k.ty == Ty::Error) {
            return self.failed(span);
        }
        let kind = match (function.kind, key) {
            (FunctionKind::Delete, key) => ExprKind::Delete {
                map,
                key: key.map(Box::new),
            },
            (_, Some(key)) => ExprKind::HasKey { map, key: Box::new(key) },
            (_, None) => return self.failed(span),
        };
        Self::make(kind, Ty::Bool, span)
    }

    fn verdicts_here(&self) -> String {
        let here = tables::FUNCTIONS
            .iter()
            .filter(|f| matches!(f.kind, FunctionKind::Verdict(_)) && f.hooks.contains(self.hook))
            .map(|f| format!("`{}()`", f.name));
        format!("verdicts here are {}", here.collect::<Vec<_>>().join(", "))
    }

    fn str_call(&mut self, args: &[ast::Arg], span: Span) -> Expr {
        // The text may take all of its room; one byte more is for its end.
        let max = self.config.max_strlen;
        let mut len = None;
        let most = match args.get(1) {
            None => max,
            Some(arg) => {
                let n = self.expr(&arg.value);
                match (&n.kind, &n.ty) {
                    (_, Ty::Error) => return self.failed(span),
                    (ExprKind::Int(n), _) if (1..=i64::from(max)).contains(n) => u32::try_from(*n).unwrap_or(max),
                    (ExprKind::Int(n), _) => {
                        let message = format!("the length of `str` is from 1 to `max_strlen`, which is {max}, found {n}");
                        self.error(Diagnostic::error("out-of-range", arg.value.span, message));
                        return self.failed(span);
                    }
                    (_, Ty::Int { .. }) => {
                        len = Some(Box::new(n));
                        max
                    }
                    (_, other) => {
                        let d = Diagnostic::error("argument-type", n.span, format!("a length is an integer, found `{other}`"));
                        self.error(d);
                        return self.failed(span);
                    }
                }
            }
        };
        if let ast::ExprKind::Param(n) = args[0].value.kind {
            self.may_stand_in(n, span);
            let text = usize::try_from(n)
                .ok()
                .and_then(|n| n.checked_sub(1))
                .and_then(|i| self.options.positional.get(i))
                .cloned()
                .unwrap_or_default();
            let cap = u32::try_from(text.len() + 1).unwrap_or(u32::MAX);
            let max = self.config.max_strlen;
            if cap > max {
                self.error(Diagnostic::error(
                    "string-too-long",
                    span,
                    format!(
                        "the parameter `${n}` has {} bytes; `max_strlen`, which is {max}, allows {}",
                        text.len(),
                        max - 1
                    ),
                ));
                return self.failed(span);
            }
            return self.cut_literal(text.into_bytes(), len.is_some(), args.get(1).map(|_| most), span);
        }
        let ptr = self.expr(&args[0].value);
        match (&ptr.kind, &ptr.ty) {
            (ExprKind::Str(text), _) => return self.cut_literal(text.clone(), len.is_some(), args.get(1).map(|_| most), span),
            (_, Ty::Str { .. }) if args.len() == 1 => return ptr,
            (_, Ty::Str { .. }) => return self.no_cut(span),
            _ => {}
        }
        let Some(space) = self.pointed_space(&ptr, "str") else {
            return self.failed(span);
        };
        Self::make(
            ExprKind::ReadStr {
                ptr: Box::new(ptr),
                len,
                cap: most + 1,
                space,
            },
            Ty::Str { cap: most + 1 },
            span,
        )
    }

    /// `str` of text that is known already, cut while compiling.
    fn cut_literal(&mut self, mut text: Vec<u8>, len_comes_later: bool, most: Option<u32>, span: Span) -> Expr {
        if len_comes_later {
            return self.no_cut(span);
        }
        text.truncate(most.map_or(usize::MAX, |most| most as usize));
        let cap = u32::try_from(text.len() + 1).unwrap_or(u32::MAX);
        Self::make(ExprKind::Str(text), Ty::Str { cap }, span)
    }

    fn no_cut(&mut self, span: Span) -> Expr {
        let message = "`str` cuts what it reads from memory, and text that is written down by a constant";
        let d = Diagnostic::error("argument-type", span, message);
        self.error(d.help("`printf(\"%.3s\", text)` prints its first three bytes"));
        self.failed(span)
    }

    /// Returns where a value points to, for functions that read memory.
    pub(super) fn pointed_space(&mut self, ptr: &Expr, function: &str) -> Option<Space> {
        match &ptr.ty {
            Ty::Error => None,
            Ty::Ptr { space, .. } => Some(*space),
            Ty::Obj {
                ty: CTy::Array { .. },
                space,
            } => Some(*space),
            Ty::Int { bits: 64, .. } => Some(self.default_space()),
            other => {
                let mut d = Diagnostic::error("argument-type", ptr.span, format!("`{function}` takes a pointer, found `{other}`"));
                if function == "str" && matches!(other, Ty::Flow | Ty::Inet | Ty::Prefix) {
                    d = d.help(format!("`%s` prints a value of type `{other}` as it is"));
                }
                self.error(d);
                None
            }
        }
    }

    fn buf_call(&mut self, args: &[ast::Arg], span: Span) -> Expr {
        let max = self.config.max_strlen;
        let ptr = self.expr(&args[0].value);
        let ptr = Self::own_object(ptr);
        let Some(space) = self.pointed_space(&ptr, "buf") else {
            return self.failed(span);
        };
        let whole = match &ptr.ty {
            Ty::Obj { ty, .. } => self.c_size(ty),
            _ => None,
        };
        let (len, cap) = match args.get(1) {
            None => match whole {
                Some(size) => (Self::make(ExprKind::Int(i64::from(size.min(max))), Ty::U64, span), size.min(max)),
                None => {
                    let d = Diagnostic::error("argument-count", span, "`buf` needs the length of what is no array")
                        .help("`buf(pointer, length)`");
                    self.error(d);
                    return self.failed(span);
                }
            },
            Some(arg) => {
                let len = self.expr(&arg.value);
                match (&len.kind, &len.ty) {
                    (_, Ty::Error) => return self.failed(span),
                    (ExprKind::Int(n), _) if (1..=i64::from(max)).contains(n) => {
                        let n = u32::try_from(*n).unwrap_or(max);
                        (len, n)
                    }
                    (ExprKind::Int(n), _) => {
                        let d = Diagnostic::error(
                            "out-of-range",
                            len.span,
                            format!("the length of `buf` is from 1 to `max_strlen`, which is {max}, found {n}"),
                        );
                        self.error(d);
                        return self.failed(span);
                    }
                    (_, Ty::Int { .. }) => (len, whole.map_or(max, |w| w.min(max))),
                    (_, other) => {
                        let d = Diagnostic::error("argument-type", len.span, format!("a length is an integer, found `{other}`"));
                        self.error(d);
                        return self.failed(span);
                    }
                }
            }
        };
        let kind = ExprKind::ReadBuf {
            ptr: Box::new(ptr),
            len: Box::new(len),
            cap,
            space,
        };
        Self::make(kind, Ty::buffer(cap), span)
    }

    /// An argument that must be text.
    fn text(&mut self, arg: &ast::Arg, function: &str) -> Option<Expr> {
        let value = self.value(&arg.value);
        match &value.ty {
            Ty::Str { .. } => Some(value),
            Ty::Error => None,
            other => {
                let mut d = Diagnostic::error("argument-type", value.span, format!("`{function}` takes a string, found `{other}`"));
                if matches!(other, Ty::Ptr { .. }) {
                    d = d.help("`str(pointer)` reads it");
                }
                self.error(d);
                None
            }
        }
    }

    /// `strstr(text, part)`
    fn strstr(&mut self, args: &[ast::Arg], span: Span) -> Option<Expr> {
        let found = self.search("strstr", args, span)?;
        let ExprKind::Strcontains { text, part, .. } = found.kind else {
            return None;
        };
        let kind = ExprKind::Strcontains { text, part, index: true };
        Some(Self::make(kind, Ty::I64, span))
    }

    fn str_concat(&mut self, args: &[ast::Arg], span: Span) -> Option<Expr> {
        let (left, right) = (self.text(&args[0], "str_concat"), self.text(&args[1], "str_concat"));
        let (left, right) = (left?, right?);
        let room = |e: &Expr| if let Ty::Str { cap } = e.ty { cap } else { 0 };
        let cap = (room(&left) + room(&right)).next_multiple_of(8);
        let kind = ExprKind::Concat {
            left: Box::new(left),
            right: Box::new(right),
        };
        Some(Self::make(kind, Ty::Str { cap }, span))
    }

    /// `memcmp(a, b, n)`: 0 when the bytes agree, else the difference of the first two that do not.
    fn memcmp(&mut self, args: &[ast::Arg], span: Span) -> Option<Expr> {
        let n = self.constant(&args[2].value, 1..=i64::from(self.config.max_strlen), "the length of `memcmp`")?;
        let n = u32::try_from(n).unwrap_or(1);
        let mut side = |arg: &ast::Arg| -> Option<Expr> {
            let value = self.expr(&arg.value);
            let value = Self::own_object(value);
            let space = self.pointed_space(&value, "memcmp")?;
            if let Ty::Obj { ty, .. } = &value.ty
                && let Some(size) = self.c_size(ty)
                && size < n
            {
                let d = Diagnostic::error("out-of-range", value.span, format!("this has {size} bytes, fewer than {n}"));
                self.error(d);
                return None;
            }
            // Bytes as they are in memory, up to whole words.
            let kind = ExprKind::ReadArray {
                place: Box::new(Self::make(
                    ExprKind::Place {
                        base: Box::new(value),
                        offset: 0,
                    },
                    Ty::Obj { ty: CTy::Void, space },
                    arg.value.span,
                )),
                size: n,
            };
            Some(Self::make(kind, Ty::Str { cap: n }, arg.value.span))
        };
        let (left, right) = (side(&args[0]), side(&args[1]));
        let kind = ExprKind::Memcmp {
            left: Box::new(left?),
            right: Box::new(right?),
            n,
        };
        Some(Self::make(kind, Ty::I64, span))
    }

    fn strncmp(&mut self, args: &[ast::Arg], span: Span) -> Option<Expr> {
        let (left, right) = (self.text(&args[0], "strncmp"), self.text(&args[1], "strncmp"));
        let n = self.constant(&args[2].value, 0..=i64::from(u32::MAX), "the length of `strncmp`");
        let (left, right, n) = (left?, right?, n?);
        let kind = ExprKind::Strncmp {
            left: Box::new(left),
            right: Box::new(right),
            n: u32::try_from(n).unwrap_or(u32::MAX),
        };
        Some(Self::make(kind, Ty::U64, span))
    }

    fn search(&mut self, function: &str, args: &[ast::Arg], span: Span) -> Option<Expr> {
        let (text, part) = (self.text(&args[0], function), self.text(&args[1], function));
        let (text, part) = (text?, part?);
        if let Ty::Str { cap } = part.ty
            && cap > MAX_PART_BYTES
        {
            let d = Diagnostic::error(
                "string-too-long",
                part.span,
                format!("`{function}` looks for at most {} bytes, found room for {cap}", MAX_PART_BYTES - 1),
            )
            .help(format!("`str(p, {})` reads less", MAX_PART_BYTES - 1));
            self.error(d);
            return None;
        }
        let kind = ExprKind::Strcontains {
            text: Box::new(text),
            part: Box::new(part),
            index: false,
        };
        Some(Self::make(kind, Ty::Bool, span))
    }

    fn ntop(&mut self, args: &[ast::Arg], span: Span) -> Expr {
        let family = (args.len() == 2).then(|| self.expr(&args[0].value));
        if let Some(family) = &family
            && !matches!(family.ty, Ty::Int { .. } | Ty::Error)
        {
            let d = Diagnostic::error(
                "argument-type",
                family.span,
                format!("the family of `ntop` is an integer, found `{}`", family.ty),
            )
            .help("`AF_INET` or `AF_INET6`");
            self.error(d);
        }
        let Some(last) = args.last() else { return self.failed(span) };
        let addr = self.expr(&last.value);
        let ok = match &addr.ty {
            Ty::Error => return self.failed(span),
            Ty::Int { .. } | Ty::Inet => true,
            Ty::Obj { ty, .. } => matches!(self.c_size(ty), Some(4 | 16)),
            Ty::Ptr { .. } => family.is_some(),
            _ => false,
        };
        if !ok {
            let d = Diagnostic::error(
                "argument-type",
                addr.span,
                format!("`ntop` takes an integer or an array of 4 or 16 bytes, found `{}`", addr.ty),
            );
            self.error(d);
            return self.failed(span);
        }
        if addr.ty == Ty::Inet {
            return addr;
        }
        if let Some(Expr {
            kind: ExprKind::Int(n),
            span: family_span,
            ..
        }) = &family
            && !matches!(*n, 2 | 10)
        {
            self.error(Diagnostic::error(
                "out-of-range",
                *family_span,
                format!("`ntop` knows the families `AF_INET` (2) and `AF_INET6` (10), not {n}"),
            ));
            return self.failed(span);
        }
        Self::make(
            ExprKind::Ntop {
                family: family.map(Box::new),
                addr: Box::new(addr),
            },
            Ty::Inet,
            span,
        )
    }
}
