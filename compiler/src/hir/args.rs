//! `args.name`, `arg0`, `retval`, `ctx`: what a probe has to tell, by where it lies.

use super::check::{Checker, nearest_name};
use super::ctypes::from_btf;
use super::probes::Target;
use super::usdt::{Operand, UsdtArg};
use super::{CTy, Expr, ExprKind, Space, Ty};
use crate::btf::{Btf, BtfType, TypeId};
use crate::tables::{BuiltinKind, Hook};
use weir_parser::{Diagnostic, Span, ast};

/// One parameter of a function whose arguments lie in the context, 8 bytes each.
pub struct Parameter {
    pub name: String,
    pub ty: TypeId,
    /// In the context.
    pub offset: u32,
}

/// The parameters of a prototype without the first `skip`, and where the return value lies.
pub fn parameters(btf: &Btf, proto: TypeId, skip: usize) -> (Vec<Parameter>, u32, TypeId) {
    let Some(BtfType::FuncProto(proto)) = btf.type_by_id(proto) else {
        return (Vec::new(), 0, TypeId::VOID);
    };
    let mut out = Vec::new();
    let mut offset = 0;
    for (i, param) in proto.params().skip(skip).enumerate() {
        let name = if param.name.is_empty() {
            format!("arg{i}")
        } else {
            param.name.to_owned()
        };
        out.push(Parameter {
            name,
            ty: param.ty,
            offset,
        });
        // A struct of up to 16 bytes goes in two registers.
        offset += btf.size_of(param.ty).unwrap_or(8).max(1).next_multiple_of(8);
    }
    (out, offset, proto.ret)
}

impl Checker<'_> {
    /// `args.name`
    pub(super) fn argument(&mut self, name: &ast::Ident, span: Span) -> Expr {
        self.site_dependent = true;
        match self.target.clone() {
            Target::Tracepoint(category, event) => self.tracepoint_arg(&category, &event, name, span),
            Target::Proto { proto, skip } => {
                let kernel = self.kernel;
                let Some(btf) = kernel.btf() else { return self.failed(span) };
                let (params, ..) = parameters(btf, proto, skip);
                if let Some(param) = params.iter().find(|p| p.name == name.name) {
                    return self.context_value(btf, param.ty, param.offset, span);
                }
                let message = format!("`{}` has no argument `{}`", self.site, name.name);
                let mut d = Diagnostic::error("unknown-arg", name.span, message);
                let names = || params.iter().map(|p| p.name.as_str());
                d = match nearest_name(&name.name, names()) {
                    Some(near) => d.help(format!("did you mean `{near}`?")),
                    None if params.is_empty() => d.help("it has none"),
                    None => d.help(format!("it has `{}`", names().collect::<Vec<_>>().join("`, `"))),
                };
                self.error(d);
                self.failed(span)
            }
            Target::Numbered => {
                let d = Diagnostic::error(
                    "no-types",
                    name.span,
                    format!("the kernel has no types of the arguments of `{}`", self.site),
                );
                self.error(d.help("`arg0`, `arg1`, … are its arguments"));
                self.failed(span)
            }
            Target::BpfFunction { .. } => {
                let d = Diagnostic::error("no-types", name.span, "arguments of a BPF program have no names here");
                self.error(d.help("`arg0`, `arg1`, … are its arguments: `((struct xdp_buff *)arg0)->data`"));
                self.failed(span)
            }
            Target::None | Target::Usdt(_) | Target::Iter(_) => self.failed(span),
        }
    }

    /// A value of 8 bytes in the context, of a type that the kernel knows.
    fn context_value(&mut self, btf: &Btf, id: TypeId, offset: u32, span: Span) -> Expr {
        let ty = match from_btf(btf, id) {
            CTy::Ptr(to) => Ty::Ptr {
                // Only these programs get pointers that the kernel vouches for.
                space: if matches!((self.hook, &*to), (Hook::Fentry | Hook::Fexit, CTy::Struct { .. })) {
                    Space::Btf
                } else {
                    Space::Kernel
                },
                to,
            },
            CTy::Int { bits, signed } => Ty::Int { bits, signed },
            CTy::Char => Ty::Int { bits: 8, signed: true },
            CTy::Enum { id, bits, signed, .. } => {
                let number = Self::make(ExprKind::CtxLoad { offset, size: 8 }, Ty::Int { bits, signed }, span);
                let ty = self.enumeration(id);
                return Self::make(ExprKind::Convert(Box::new(number)), ty, span);
            }
            ty @ CTy::Struct { .. } => {
                let base = self.context(span);
                let kind = ExprKind::Place {
                    base: Box::new(base),
                    offset,
                };
                return Self::make(kind, Ty::Obj { ty, space: Space::Kernel }, span);
            }
            other => {
                self.error(Diagnostic::error(
                    "bad-type",
                    span,
                    format!("an argument of type `{other}` cannot be read"),
                ));
                return self.failed(span);
            }
        };
        Self::make(ExprKind::CtxLoad { offset, size: 8 }, ty, span)
    }

    fn context(&self, span: Span) -> Expr {
        let ty = Ty::Ptr {
            to: Box::new(CTy::Void),
            space: Space::Context,
        };
        Self::make(ExprKind::Builtin(BuiltinKind::Ctx), ty, span)
    }

    /// `ctx`: in an iterator the struct that the kernel declares for it.
    pub(super) fn context_pointer(&mut self, span: Span) -> Expr {
        let mut ctx = self.context(span);
        if let Target::Iter(id) = &self.target
            && let Some(btf) = self.kernel.btf()
        {
            ctx.ty = Ty::Ptr {
                to: Box::new(from_btf(btf, *id)),
                space: Space::Context,
            };
        }
        ctx
    }

    /// `arg0` and the like.
    pub(super) fn numbered_argument(&mut self, n: u8, span: Span) -> Expr {
        match self.target.clone() {
            Target::Proto { proto, skip } => {
                self.site_dependent = true;
                let kernel = self.kernel;
                let Some(btf) = kernel.btf() else { return self.failed(span) };
                let (params, ..) = parameters(btf, proto, skip);
                let Some(param) = params.get(usize::from(n)) else {
                    return self.no_such_argument(n, params.len(), span);
                };
                Self::argument_as_number(param.offset, span)
            }
            Target::BpfFunction { args, .. } => {
                self.site_dependent = true;
                match args.get(usize::from(n)) {
                    None => self.no_such_argument(n, args.len(), span),
                    Some(true) => Self::argument_as_number(u32::from(n) * 8, span),
                    Some(false) => {
                        let message = format!("the kernel does not show `arg{n}` of `{}`", self.site);
                        let d = Diagnostic::error("unknown-arg", span, message);
                        self.error(d.help("of a BPF program's arguments it shows numbers and the program's context"));
                        self.failed(span)
                    }
                }
            }
            Target::Numbered => {
                let kind = ExprKind::CtxLoad {
                    offset: u32::from(n) * 8,
                    size: 8,
                };
                Self::make(kind, Ty::U64, span)
            }
            Target::Usdt(args) => {
                self.site_dependent = true;
                match args.get(usize::from(n)) {
                    Some(arg) => self.usdt_argument(arg, n, span),
                    None => self.no_such_argument(n, args.len(), span),
                }
            }
            _ => Self::make(ExprKind::Builtin(BuiltinKind::Arg(n)), Ty::U64, span),
        }
    }

    /// A value in the context, whatever it is.
    fn argument_as_number(offset: u32, span: Span) -> Expr {
        let kind = ExprKind::CtxLoad { offset, size: 8 };
        // As a pointer it is loaded so that the kernel takes it for a number.
        let pointer = Ty::Ptr {
            to: Box::new(CTy::Void),
            space: Space::Kernel,
        };
        let load = Self::make(kind, pointer, span);
        Self::make(ExprKind::Convert(Box::new(load)), Ty::U64, span)
    }

    fn no_such_argument(&mut self, n: u8, len: usize, span: Span) -> Expr {
        let d = Diagnostic::error("unknown-arg", span, format!("`{}` has no argument `arg{n}`", self.site));
        let d = match len {
            0 => d.help("it has none"),
            1 => d.help("it has `arg0`"),
            _ => d.help(format!("it has `arg0` to `arg{}`", len - 1)),
        };
        self.error(d);
        self.failed(span)
    }

    fn usdt_argument(&mut self, arg: &UsdtArg, n: u8, span: Span) -> Expr {
        let ty = Ty::Int {
            bits: arg.size * 8,
            signed: arg.signed,
        };
        let register = |offset: u32| Self::make(ExprKind::CtxLoad { offset, size: 8 }, Ty::U64, span);
        let number = |n: i64| Self::make(ExprKind::Int(n), Ty::I64, span);
        let binary = |op, left: Expr, right: Expr| {
            let kind = ExprKind::Binary {
                op,
                left: Box::new(left),
                right: Box::new(right),
            };
            Self::make(kind, Ty::U64, span)
        };
        match &arg.at {
            Operand::Constant(n) => Self::make(ExprKind::Convert(Box::new(number(*n))), ty, span),
            Operand::Register { offset, shift } => {
                let mut value = register(*offset);
                if *shift > 0 {
                    value = binary(ast::BinaryOp::Shr, value, number(i64::from(*shift)));
                }
                Self::make(ExprKind::Convert(Box::new(value)), ty, span)
            }
            Operand::Memory { displacement, base, index } => {
                let mut address = binary(ast::BinaryOp::Add, register(*base), number(*displacement));
                if let Some((index, scale)) = index {
                    let scaled = binary(ast::BinaryOp::Mul, register(*index), number(i64::from(*scale)));
                    address = binary(ast::BinaryOp::Add, address, scaled);
                }
                let object = CTy::Int {
                    bits: arg.size * 8,
                    signed: arg.signed,
                };
                let kind = ExprKind::Place {
                    base: Box::new(address),
                    offset: 0,
                };
                let ty = Ty::Obj {
                    ty: object,
                    space: Space::User,
                };
                self.load(Self::make(kind, ty, span))
            }
            Operand::Unknown(text) => {
                let message = format!("`arg{n}` of `{}` lies where weir cannot read it: `{text}`", self.site);
                self.error(Diagnostic::error("unknown-arg", span, message));
                self.failed(span)
            }
        }
    }

    /// `retval`
    pub(super) fn return_value(&mut self, span: Span) -> Expr {
        if let Target::BpfFunction { args, returns } = self.target.clone() {
            self.site_dependent = true;
            if !returns {
                return self.returns_nothing(span);
            }
            let offset = u32::try_from(args.len()).unwrap_or(0) * 8;
            let load = Self::make(ExprKind::CtxLoad { offset, size: 8 }, Ty::I64, span);
            // A verdict is an `int`.
            let ty = Ty::Int { bits: 32, signed: true };
            return Self::make(ExprKind::Convert(Box::new(load)), ty, span);
        }
        let Target::Proto { proto, skip } = self.target else {
            return Self::make(ExprKind::Builtin(BuiltinKind::Retval), Ty::U64, span);
        };
        self.site_dependent = true;
        let kernel = self.kernel;
        let Some(btf) = kernel.btf() else { return self.failed(span) };
        let (_, offset, ret) = parameters(btf, proto, skip);
        if btf.resolve(ret) == TypeId::VOID {
            return self.returns_nothing(span);
        }
        let mut value = self.context_value(btf, ret, offset, span);
        if let Ty::Ptr { space, .. } = &mut value.ty {
            // It may be an error number.
            *space = Space::Kernel;
        }
        value
    }

    fn returns_nothing(&mut self, span: Span) -> Expr {
        let message = format!("the function of `{}` returns nothing", self.site);
        self.error(Diagnostic::error("no-return-value", span, message));
        self.failed(span)
    }

    /// Where numbers that are used as pointers point to.
    pub(super) fn default_space(&self) -> Space {
        if matches!(self.hook, Hook::Uprobe | Hook::Uretprobe | Hook::Usdt) {
            Space::User
        } else {
            Space::Kernel
        }
    }
}
