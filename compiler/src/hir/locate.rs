//! What has a name elsewhere: files by `path()`, symbols of programs by `uaddr()`.

use super::check::{Checker, nearest};
use super::{CTy, Expr, ExprKind, Space, Ty};
use crate::object::AttachPoint;
use crate::tables::{BuiltinKind, Function, Hook};
use weir_parser::{Diagnostic, Span, ast};

/// Functions in which the kernel lets programs ask for the name of a file (`btf_allowlist_d_path`, kernel/trace/bpf_trace.c).
const NAMES_FILES: &[&str] = &[
    "dentry_open",
    "filp_close",
    "security_file_open",
    "security_file_permission",
    "security_inode_getattr",
    "security_path_truncate",
    "vfs_fallocate",
    "vfs_getattr",
    "vfs_truncate",
];

/// Where the instruction pointer lies in `struct pt_regs` of x86-64.
const IP_OFFSET: u32 = 128;

impl Checker<'_> {
    /// `path(place[, length])`
    pub(super) fn path_call(&mut self, args: &[ast::Arg], span: Span) -> Option<Expr> {
        let max = self.config.max_strlen;
        let cap = match args.get(1) {
            None => max,
            Some(arg) => {
                let n = self.constant(&arg.value, 1..=i64::from(max), "the length of `path`")?;
                u32::try_from(n).unwrap_or(max)
            }
        };
        let value = self.expr(&args[0].value);
        let place = match (value.kind, value.ty) {
            (_, Ty::Error) => return None,
            (kind, ty @ Ty::Obj { .. }) => Self::make(kind, ty, value.span),
            // `&p->f_path`
            (ExprKind::Convert(place), Ty::Ptr { .. }) if matches!(place.ty, Ty::Obj { .. }) => *place,
            (kind, Ty::Ptr { to, space }) => {
                let base = Self::make(kind, Ty::Ptr { to: to.clone(), space }, value.span);
                let kind = ExprKind::Place {
                    base: Box::new(base),
                    offset: 0,
                };
                Self::make(kind, Ty::Obj { ty: *to, space }, value.span)
            }
            (_, other) => {
                let message = format!("`path` takes a `struct path`, found `{other}`");
                self.error(Diagnostic::error("argument-type", value.span, message).help("such as `args.file->f_path`"));
                return None;
            }
        };
        if !matches!(&place.ty, Ty::Obj { ty: CTy::Struct { name, .. }, .. } if name == "path") {
            let found = match &place.ty {
                Ty::Obj { ty, .. } => ty.to_string(),
                other => other.to_string(),
            };
            let d = Diagnostic::error(
                "argument-type",
                place.span,
                format!("`path` takes a `struct path`, found `{found}`"),
            );
            self.error(d.help("a `struct file` has it as `f_path`"));
            return None;
        }
        if let Some(AttachPoint::Fentry { function, .. }) = &self.point
            && !NAMES_FILES.contains(&function.as_str())
        {
            let message = format!("the kernel does not name files in `{function}`");
            let d = Diagnostic::error("path-not-here", span, message);
            self.error(d.help(format!("it does in `{}`, and in `iter:task_file`", NAMES_FILES.join("`, `"))));
            return None;
        }
        if !self.is_followed(&place) {
            let d = Diagnostic::error("path-not-here", place.span, "the kernel cannot tell that this is a `struct path`");
            let from = if self.hook == Hook::Iter { "ctx" } else { "args" };
            self.error(d.help(format!("write the whole way to it, without variables: `path({from}.file->f_path)`")));
            return None;
        }
        let kind = ExprKind::FilePath {
            place: Box::new(place),
            cap,
        };
        Some(Self::make(kind, Ty::Str { cap }, span))
    }

    /// Whether the way from the context to a place is nothing but members and pointers.
    fn is_followed(&self, e: &Expr) -> bool {
        match &e.kind {
            ExprKind::CtxLoad { .. } => matches!(e.ty, Ty::Ptr { space: Space::Btf, .. }),
            ExprKind::Builtin(BuiltinKind::Ctx) => self.hook == Hook::Iter,
            ExprKind::Place { base, .. } => self.is_followed(base),
            ExprKind::Read {
                place,
                size: 8,
                bits: None,
            } => {
                let typed = match &e.ty {
                    Ty::Ptr { to, space } => self.hook == Hook::Iter && matches!(**to, CTy::Struct { .. }) || *space == Space::Btf,
                    _ => false,
                };
                typed && self.is_followed(place)
            }
            _ => false,
        }
    }

    /// `uaddr("symbol")`: how far the symbol is from the probe, added to where the probe is in this process.
    pub(super) fn uaddr(&mut self, function: &Function, arg: &ast::Arg, span: Span) -> Option<Expr> {
        let name = self.literal(arg, function)?;
        let (Some(AttachPoint::Uprobe { path, offset, .. }) | Some(AttachPoint::Usdt { path, offset, .. })) = self.point.clone() else {
            let d = Diagnostic::error("no-program", span, "`uaddr` needs a probe of a program");
            self.error(d.help("call it in the block of a `uprobe` or `usdt`"));
            return None;
        };
        // Every place is at another distance.
        self.site_dependent = true;
        let symbols = match self.kernel.user_symbols(&path) {
            Ok(symbols) => symbols,
            Err(why) => {
                self.error(Diagnostic::error("unknown-symbol", arg.value.span, why));
                return None;
            }
        };
        let (Some(symbol), Some(here)) = (symbols.iter().find(|s| s.name == name), self.kernel.code_address(&path, offset)) else {
            let d = Diagnostic::error("unknown-symbol", arg.value.span, format!("`{path}` has no symbol `{name}`"));
            let d = if symbols.is_empty() {
                d.help("its symbols have been stripped")
            } else {
                nearest(d, &name, symbols.iter().map(|s| s.name.as_str()))
            };
            self.error(d);
            return None;
        };
        let bits = match symbol.size {
            1 => 8,
            2 => 16,
            4 => 32,
            _ => 64,
        };
        let ip = Self::make(
            ExprKind::CtxLoad {
                offset: IP_OFFSET,
                size: 8,
            },
            Ty::U64,
            span,
        );
        let distance = Self::make(ExprKind::Int(symbol.address.wrapping_sub(here).cast_signed()), Ty::U64, span);
        let sum = ExprKind::Binary {
            op: ast::BinaryOp::Add,
            left: Box::new(ip),
            right: Box::new(distance),
        };
        let ty = Ty::Ptr {
            to: Box::new(CTy::Int { bits, signed: false }),
            space: Space::User,
        };
        Some(Self::make(ExprKind::Convert(Box::new(Self::make(sum, Ty::U64, span))), ty, span))
    }
}
