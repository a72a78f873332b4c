//! Calls that ask the kernel or the system: stacks, symbols, times, signals, cgroups, arguments of the script.

use super::check::{Checker, nearest};
use super::{CTy, Event, Expr, ExprKind, Space, Ty};
use crate::object::AttachPoint;
use crate::tables::{BuiltinKind, Function, FunctionKind, Hook, helper};
use crate::types::{StackMode, Type};
use weir_parser::ast;
use weir_parser::{Diagnostic, Span};

/// Frames that the kernel records at most (`perf_event_max_stack`).
const MAX_FRAMES: u32 = 127;
/// Structs that begin with a `struct sock_common`.
const SOCKETS: &[&str] = &[
    "sock",
    "sock_common",
    "inet_sock",
    "tcp_sock",
    "udp_sock",
    "tcp6_sock",
    "udp6_sock",
    "inet_connection_sock",
];
/// Strings that `join` prints at most, and the room of each.
const JOIN_STRINGS: u32 = 16;
const JOIN_BYTES: u32 = 512;

/// Offsets in `struct pt_regs` of x86-64.
const REGISTERS: &[(&str, u32)] = &[
    ("r15", 0),
    ("r14", 8),
    ("r13", 16),
    ("r12", 24),
    ("bp", 32),
    ("bx", 40),
    ("r11", 48),
    ("r10", 56),
    ("r9", 64),
    ("r8", 72),
    ("ax", 80),
    ("cx", 88),
    ("dx", 96),
    ("si", 104),
    ("di", 112),
    ("orig_ax", 120),
    ("ip", 128),
    ("cs", 136),
    ("flags", 144),
    ("sp", 152),
    ("ss", 160),
];

impl Checker<'_> {
    /// Says that a function needs `--unsafe`, unless it was given.
    pub(super) fn allowed_unsafe(&mut self, name: &str, span: Span) -> bool {
        if !self.options.unsafe_functions {
            let message = format!("`{name}` changes the system and is not allowed by default");
            self.error(Diagnostic::error("unsafe", span, message).help("`--unsafe` allows it"));
        }
        self.options.unsafe_functions
    }

    /// Whether there is a kernel to look things up in: a replay has none, and says so.
    pub(super) fn has_kernel(&mut self, word: &str, span: Span) -> bool {
        let there = !self.kernel.any_interface();
        if !there {
            let message = format!("`{word}` needs a kernel, and a replay has none");
            self.error(Diagnostic::error("replay", span, message));
        }
        there
    }

    pub(super) fn system_call(&mut self, function: &'static Function, args: &[ast::Arg], span: Span) -> Option<Expr> {
        match function.kind {
            FunctionKind::Stack { user } => self.stack_call(user, args, span),
            FunctionKind::Ksym => self.kept(function, &args[0], Type::KSym, span),
            FunctionKind::Usym => self.kept(function, &args[0], Type::USym, span),
            FunctionKind::CgroupPath => self.kept(function, &args[0], Type::CgroupPath, span),
            FunctionKind::Strerror => self.kept(function, &args[0], Type::Strerror, span),
            FunctionKind::Strftime => {
                let format = self.literal(&args[0], function)?;
                self.kept(function, &args[1], Type::Timestamp { format }, span)
            }
            FunctionKind::Kaddr => {
                let name = self.literal(&args[0], function)?;
                self.has_kernel(function.name, span).then_some(())?;
                match self.kernel.symbol_address(&name) {
                    Some(address) => Some(Self::make(ExprKind::Int(address.cast_signed()), Ty::U64, span)),
                    None => {
                        let message = format!("the kernel has no symbol `{name}`, or hides its addresses");
                        self.error(Diagnostic::error("unknown-symbol", args[0].value.span, message).help("/proc/kallsyms lists them"));
                        None
                    }
                }
            }
            FunctionKind::Uaddr => self.uaddr(function, &args[0], span),
            FunctionKind::Path => self.path_call(args, span),
            FunctionKind::Macaddr => self.macaddr(&args[0], span),
            FunctionKind::Pton => {
                let text = self.literal(&args[0], function)?;
                match text.parse() {
                    Ok(address) => {
                        let (bytes, v6) = super::ops::inet_bytes(address);
                        Some(Self::make(ExprKind::Inet { bytes, v6 }, Ty::Inet, span))
                    }
                    Err(_) => {
                        let message = format!("`{text}` is not an IP address");
                        self.error(Diagnostic::error("bad-address", args[0].value.span, message));
                        None
                    }
                }
            }
            FunctionKind::Signal { thread } => {
                // Also where one block is on both: each is looked at by itself.
                self.site_dependent |= self.hook == Hook::PerfEvent;
                if let Some(AttachPoint::Interval { .. } | AttachPoint::Timer { .. }) = self.point {
                    let message = format!(
                        "`{}` is not available in an `interval` block: it would hit whatever runs when the time is up",
                        function.name
                    );
                    let d = Diagnostic::error("not-at-this-hook", span, message);
                    self.error(d.help("send it where the process does something: `tracepoint:syscalls:sys_enter_… /pid == 1234/ { … }`"));
                    return None;
                }
                let number = self.signal_number(&args[0])?;
                self.allowed_unsafe(function.name, span).then_some(())?;
                let helper = if thread { helper::SEND_SIGNAL_THREAD } else { helper::SEND_SIGNAL };
                let args = vec![number];
                Some(Self::make(ExprKind::Helper { number: helper, args }, Ty::I64, span))
            }
            FunctionKind::Override => {
                let value = self.integer(&args[0], function)?;
                self.allowed_unsafe(function.name, span).then_some(())?;
                let ctx = Self::make(ExprKind::Builtin(BuiltinKind::Ctx), Ty::U64, span);
                let kind = ExprKind::Helper {
                    number: helper::OVERRIDE_RETURN,
                    args: vec![ctx, value],
                };
                Some(Self::make(kind, Ty::I64, span))
            }
            FunctionKind::Reg => {
                let name = self.literal(&args[0], function)?;
                match REGISTERS.iter().find(|(n, _)| *n == name) {
                    Some((_, offset)) => Some(Self::make(ExprKind::CtxLoad { offset: *offset, size: 8 }, Ty::U64, span)),
                    None => {
                        let d = Diagnostic::error("unknown-register", args[0].value.span, format!("x86-64 has no register `{name}`"));
                        self.error(nearest(d, &name, REGISTERS.iter().map(|(n, _)| *n)));
                        None
                    }
                }
            }
            FunctionKind::Cgroupid => {
                let path = self.literal(&args[0], function)?;
                self.has_kernel(function.name, span).then_some(())?;
                match self.kernel.cgroup_id(&path) {
                    Some(id) => Some(Self::make(ExprKind::Int(id.cast_signed()), Ty::U64, span)),
                    None => {
                        let message = format!("there is no cgroup v2 directory `{path}`");
                        self.error(Diagnostic::error("unknown-cgroup", args[0].value.span, message));
                        None
                    }
                }
            }
            FunctionKind::SocketCookie => self.socket_cookie(&args[0], span),
            FunctionKind::Len => self.len(&args[0], span),
            FunctionKind::SignalName => self.kept(function, &args[0], Type::SignalName, span),
            FunctionKind::SyscallName => self.kept(function, &args[0], Type::SyscallName, span),
            FunctionKind::CommOf => match args.first() {
                Some(arg) => self.kept(function, arg, Type::CommOf, span),
                None => Some(self.name("comm", span)),
            },
            FunctionKind::Pid { thread } => self.pid_call(thread, args, span),
            FunctionKind::WriteUser => self.write_user(function, args, span),
            FunctionKind::Nsecs => self.nsecs(args, span),
            FunctionKind::Getopt => self.getopt(function, args, span),
            _ => None,
        }
    }

    /// `pid()`, `pid(init)`, `pid(curr_ns)`
    fn pid_call(&mut self, thread: bool, args: &[ast::Arg], span: Span) -> Option<Expr> {
        let name = if thread { "tid" } else { "pid" };
        let plain = Self::make(
            ExprKind::Builtin(if thread { BuiltinKind::Tid } else { BuiltinKind::Pid }),
            Ty::U32,
            span,
        );
        let own = match args.first().map(|a| &a.value.kind) {
            None => return Some(plain),
            Some(ast::ExprKind::Name(word)) if word == "init" => false,
            Some(ast::ExprKind::Name(word)) if word == "curr_ns" => true,
            Some(_) => {
                let d = Diagnostic::error(
                    "argument-type",
                    args[0].value.span,
                    format!("`{name}` takes the name of a namespace"),
                );
                self.error(d.help("there are `init` and `curr_ns`"));
                return None;
            }
        };
        // The first namespace's numbers are what the kernel itself uses.
        let Some((device, inode)) = self.kernel.pid_namespace().filter(|_| own) else {
            return Some(plain);
        };
        let number = |n: u64| Self::make(ExprKind::Int(n.cast_signed()), Ty::U64, span);
        let kind = ExprKind::Fill {
            number: helper::GET_NS_CURRENT_PID_TGID,
            size: 8,
            args: vec![number(device), number(inode)],
        };
        let both = Type::Array {
            elem: Box::new(Type::U32),
            len: 2,
        };
        let both = Self::own_object(Self::make(kind, Ty::Kept(both), span));
        let place = ExprKind::Place {
            base: Box::new(both),
            offset: if thread { 0 } else { 4 },
        };
        let ty = Ty::Obj {
            ty: CTy::Int { bits: 32, signed: false },
            space: Space::Kernel,
        };
        let read = ExprKind::Read {
            place: Box::new(Self::make(place, ty, span)),
            size: 4,
            bits: None,
        };
        Some(Self::make(read, Ty::U32, span))
    }

    /// `write_user(pointer, value)`
    fn write_user(&mut self, function: &Function, args: &[ast::Arg], span: Span) -> Option<Expr> {
        self.allowed_unsafe(function.name, span).then_some(())?;
        let pointer = self.expr(&args[0].value);
        let to = match &pointer.ty {
            Ty::Ptr { to, .. } => (**to).clone(),
            Ty::Error => return None,
            other => {
                let message = format!("`write_user` takes a pointer, found `{other}`");
                let d = Diagnostic::error("argument-type", pointer.span, message);
                self.error(d.help("say what it points to: `write_user((uint32 *)arg0, 1)`"));
                return None;
            }
        };
        let value = self.value(&args[1].value);
        let ty = match (&value.ty, &to) {
            (Ty::Error, _) => return None,
            (Ty::Int { .. }, CTy::Int { bits, .. } | CTy::Enum { bits, .. }) => u32::from(*bits) / 8,
            (Ty::Int { .. }, CTy::Char) => 1,
            (Ty::Ptr { .. } | Ty::Int { .. }, CTy::Ptr(_)) => 8,
            (Ty::Str { cap }, CTy::Char) => *cap,
            (other, _) => {
                let message = format!("a value of type `{other}` cannot be written to a `{to} *`");
                self.error(Diagnostic::error("argument-type", value.span, message));
                return None;
            }
        };
        let kind = ExprKind::Give {
            number: helper::PROBE_WRITE_USER,
            args: vec![pointer],
            value: Box::new(value),
            size: ty,
        };
        Some(Self::make(kind, Ty::I64, span))
    }

    /// A literal string.
    pub(super) fn literal(&mut self, arg: &ast::Arg, function: &Function) -> Option<String> {
        if let ast::ExprKind::Str(text) = &arg.value.kind {
            return Some(String::from_utf8_lossy(text).into_owned());
        }
        let value = self.expr(&arg.value);
        match value.kind {
            ExprKind::Str(text) => Some(String::from_utf8_lossy(&text).into_owned()),
            ExprKind::Error => None,
            _ => {
                let message = format!("`{}` takes a string literal here", function.name);
                self.error(Diagnostic::error("argument-type", arg.value.span, message).help(format!("`{}`", function.signature)));
                None
            }
        }
    }

    fn integer(&mut self, arg: &ast::Arg, function: &Function) -> Option<Expr> {
        let value = self.expr(&arg.value);
        match &value.ty {
            Ty::Int { .. } | Ty::Bool | Ty::Ptr { .. } => Some(value),
            Ty::Error => None,
            other => {
                let message = format!("`{}` takes an integer, found `{other}`", function.name);
                self.error(Diagnostic::error("argument-type", value.span, message));
                None
            }
        }
    }

    /// An integer that is printed in another way.
    fn kept(&mut self, function: &Function, arg: &ast::Arg, ty: Type, span: Span) -> Option<Expr> {
        let value = self.integer(arg, function)?;
        Some(Self::make(ExprKind::Convert(Box::new(value)), Ty::Kept(ty), span))
    }

    fn stack_call(&mut self, user: bool, args: &[ast::Arg], span: Span) -> Option<Expr> {
        let (mut mode, mut depth) = (None, None);
        for (i, arg) in args.iter().enumerate() {
            if let ast::ExprKind::Name(word) = &arg.value.kind
                && i == 0
                && (StackMode::by_name(word).is_some() || crate::constants::constant(word).is_none() && !self.defines.contains_key(word))
            {
                let Some(found) = StackMode::by_name(word) else {
                    let d = Diagnostic::error("unknown-mode", arg.value.span, format!("unknown stack mode `{word}`"))
                        .help("there are `bpftrace`, `perf`, `raw` and for `ustack` `build_id`");
                    self.error(d);
                    return None;
                };
                if found == StackMode::BuildId && !user {
                    let d = Diagnostic::error("unknown-mode", arg.value.span, "the kernel has no build id in its own stack");
                    self.error(d.help("`ustack(build_id)`, or `kstack(raw)`"));
                    return None;
                }
                mode = Some(found);
                continue;
            }
            let frames = self.constant(&arg.value, 1..=i64::from(MAX_FRAMES), "the number of frames")?;
            depth = u32::try_from(frames).ok();
        }
        Some(self.stack(user, mode, depth, span))
    }

    pub(super) fn stack(&mut self, user: bool, mode: Option<StackMode>, depth: Option<u32>, span: Span) -> Expr {
        if !self.has_kernel(if user { "ustack" } else { "kstack" }, span) {
            return self.failed(span);
        }
        let mode = mode.unwrap_or(match self.config.stack_mode {
            StackMode::BuildId if !user => StackMode::Bpftrace,
            mode => mode,
        });
        let depth = depth.unwrap_or(MAX_FRAMES);
        let ty = if user {
            Type::UStack { depth, mode }
        } else {
            Type::KStack { depth, mode }
        };
        let build_id = mode == StackMode::BuildId;
        Self::make(ExprKind::Stack { user, depth, build_id }, Ty::Kept(ty), span)
    }

    /// `socket_cookie(sk)`: of a socket that the kernel itself has given us.
    fn socket_cookie(&mut self, arg: &ast::Arg, span: Span) -> Option<Expr> {
        let socket = self.expr(&arg.value);
        match &socket.ty {
            Ty::Error => None,
            Ty::Ptr { to, space: Space::Btf } if matches!(&**to, CTy::Struct { name, .. } if SOCKETS.contains(&name.as_str())) => {
                let kind = ExprKind::Helper {
                    number: helper::GET_SOCKET_COOKIE,
                    args: vec![socket],
                };
                Some(Self::make(kind, Ty::U64, span))
            }
            other => {
                let message = format!("`socket_cookie` takes a socket as the kernel gives it, found `{other}`");
                let d = Diagnostic::error("argument-type", socket.span, message);
                self.error(d.help("`socket_cookie(args.sk)`; not a copy in a variable or a map, and no cast"));
                None
            }
        }
    }

    fn macaddr(&mut self, arg: &ast::Arg, span: Span) -> Option<Expr> {
        let value = self.expr(&arg.value);
        let (base, space) = match &value.ty {
            Ty::Error => return None,
            Ty::Mac => return Some(value),
            Ty::Obj {
                ty: ty @ CTy::Array { .. },
                space,
            } if self.c_size(ty).is_some_and(|size| size >= 6) => (value.clone(), *space),
            Ty::Ptr { space, .. } => (value.clone(), *space),
            other => {
                let message = format!("`macaddr` takes an array of 6 bytes or a pointer, found `{other}`");
                self.error(Diagnostic::error("argument-type", value.span, message));
                return None;
            }
        };
        // What lies in the context is read like the kernel memory that it is.
        let space = if space == Space::Context { Space::Kernel } else { space };
        let place = ExprKind::Place {
            base: Box::new(base),
            offset: 0,
        };
        let bytes = CTy::Array {
            elem: Box::new(CTy::Int { bits: 8, signed: false }),
            len: 6,
        };
        let place = Self::make(place, Ty::Obj { ty: bytes, space }, span);
        let read = ExprKind::Read {
            place: Box::new(place),
            size: 6,
            bits: None,
        };
        Some(Self::make(read, Ty::Mac, span))
    }

    fn signal_number(&mut self, arg: &ast::Arg) -> Option<Expr> {
        if let ast::ExprKind::Str(text) = &arg.value.kind {
            let text = String::from_utf8_lossy(text).to_ascii_uppercase();
            let name = if text.starts_with("SIG") {
                text.clone()
            } else {
                format!("SIG{text}")
            };
            return match crate::constants::constant(&name) {
                Some(number) => Some(Self::make(ExprKind::Int(number), Ty::I64, arg.value.span)),
                None => {
                    let d = Diagnostic::error("unknown-signal", arg.value.span, format!("unknown signal `{text}`"));
                    let names = crate::constants::CONSTANTS.iter().map(|(n, _)| *n).filter(|n| n.starts_with("SIG"));
                    self.error(nearest(d, &name, names));
                    None
                }
            };
        }
        let value = self.expr(&arg.value);
        match (&value.kind, &value.ty) {
            (_, Ty::Error) => None,
            (ExprKind::Int(n), _) if !(1..=64).contains(n) => {
                let message = format!("signals are numbered from 1 to 64, found {n}");
                self.error(Diagnostic::error("out-of-range", value.span, message));
                None
            }
            (_, Ty::Int { .. }) => Some(value),
            (_, other) => {
                let message = format!("`signal` takes a number or a name, found `{other}`");
                self.error(Diagnostic::error("argument-type", value.span, message));
                None
            }
        }
    }

    fn len(&mut self, arg: &ast::Arg, span: Span) -> Option<Expr> {
        let stack = matches!(&arg.value.kind, ast::ExprKind::Name(n) if n == "kstack" || n == "ustack")
            || matches!(&arg.value.kind, ast::ExprKind::Call { name, .. } if name.name == "kstack" || name.name == "ustack");
        if stack {
            let ExprKind::Stack { user, depth, .. } = self.expr(&arg.value).kind else {
                return None;
            };
            // Eight bytes a frame; what went wrong counts as none.
            let bytes = Self::make(ExprKind::StackBytes { user, depth }, Ty::U64, span);
            let eight = Self::make(ExprKind::Int(8), Ty::U64, span);
            let kind = ExprKind::Binary {
                op: ast::BinaryOp::Div,
                left: Box::new(bytes),
                right: Box::new(eight),
            };
            return Some(Self::make(kind, Ty::U64, span));
        }
        if self.is_native_map(&arg.value)
            && let (map, None) = self.native_copy(&arg.value, super::natives::Purpose::Walk, "len")?
        {
            return Some(Self::make(ExprKind::Len(map), Ty::U64, span));
        }
        let (super::EventMap::Own(map), None) = self.map_argument(&arg.value, "len")? else {
            self.error(Diagnostic::error("not-a-map", arg.value.span, "`len` takes a whole map").help("`len(@name)`"));
            return None;
        };
        if self.maps[map].key == Some(None) {
            let d = Diagnostic::error("key-missing", arg.value.span, "`len` takes a map with keys, this one is a scalar")
                .with(self.maps[map].key_span, "used without a key here");
            self.error(d);
            return None;
        }
        if self.is_lpm(map) {
            let message = "the kernel cannot count the entries of a map keyed by prefix";
            self.error(Diagnostic::error("not-iterable", arg.value.span, message));
            return None;
        }
        Some(Self::make(ExprKind::Len(map), Ty::U64, span))
    }

    fn nsecs(&mut self, args: &[ast::Arg], span: Span) -> Option<Expr> {
        let number = match args.first().map(|a| &a.value.kind) {
            None => helper::KTIME_GET_BOOT_NS,
            Some(ast::ExprKind::Name(word)) => match word.as_str() {
                "boot" => helper::KTIME_GET_BOOT_NS,
                "monotonic" => helper::KTIME_GET_NS,
                "tai" | "sw_tai" => helper::KTIME_GET_TAI_NS,
                _ => {
                    let d = Diagnostic::error("unknown-clock", args[0].value.span, format!("unknown clock `{word}`"))
                        .help("there are `boot`, `monotonic`, `tai` and `sw_tai`");
                    self.error(d);
                    return None;
                }
            },
            Some(_) => {
                let d = Diagnostic::error("argument-type", args[0].value.span, "`nsecs` takes the name of a clock")
                    .help("there are `boot`, `monotonic`, `tai` and `sw_tai`");
                self.error(d);
                return None;
            }
        };
        Some(Self::make(ExprKind::Helper { number, args: Vec::new() }, Ty::U64, span))
    }

    /// `getopt("name", default)`: the type is the default's, a switch without one.
    fn getopt(&mut self, function: &Function, args: &[ast::Arg], span: Span) -> Option<Expr> {
        let name = self.literal(&args[0], function)?;
        if name.is_empty() || name.starts_with('-') || name.contains(|c: char| c.is_whitespace() || c == '=') {
            let message = format!("`{name}` cannot be the name of a parameter: nobody can give it as `--NAME=VALUE`");
            let d = Diagnostic::error("bad-name", args[0].value.span, message);
            self.error(d.help("use letters, digits, `-` and `_`: `getopt(\"max-size\", 1)`"));
            return None;
        }
        let given = self
            .options
            .named
            .iter()
            .rev()
            .find(|(n, _)| *n == name)
            .map(|(_, value)| value.clone());
        let default = match args.get(1) {
            None => Self::make(ExprKind::Int(0), Ty::Bool, span),
            Some(arg) => self.expr(&arg.value),
        };
        let refuse = |cx: &mut Self, text: &str, expected: &str| {
            let message = format!("`--{name}` is {expected}, found `{text}`");
            cx.error(Diagnostic::error("param-type", span, message));
        };
        match (&default.kind, &default.ty, given) {
            (_, Ty::Error, _) => None,
            (ExprKind::Int(_) | ExprKind::Str(_), _, None) => Some(Expr { span, ..default }),
            (ExprKind::Int(_), Ty::Bool, Some(value)) => match value.as_deref() {
                None | Some("true" | "1") => Some(Self::make(ExprKind::Int(1), Ty::Bool, span)),
                Some("false" | "0") => Some(Self::make(ExprKind::Int(0), Ty::Bool, span)),
                Some(other) => {
                    refuse(self, other, "`true` or `false`");
                    None
                }
            },
            // Not a switch: the word behind it is another parameter's, or there is none.
            (ExprKind::Str(_), _, Some(None)) => {
                self.error(super::sets::value_missing(&name, span, "TEXT"));
                None
            }
            (ExprKind::Int(_), _, Some(text)) if text.as_deref().is_none_or(str::is_empty) => {
                self.error(super::sets::value_missing(&name, span, "N"));
                None
            }
            (ExprKind::Int(_), ty, Some(Some(text))) => match super::expr::parse_int(&text) {
                Some(n) => Some(Self::make(ExprKind::Int(n), ty.clone(), span)),
                None => {
                    refuse(self, &text, "an integer");
                    None
                }
            },
            (ExprKind::Str(_), _, Some(Some(text))) => {
                let text = self.given_text(&text, span);
                (text.ty != Ty::Error).then_some(text)
            }
            _ => {
                let d =
                    Diagnostic::error("not-constant", default.span, "the default of `getopt` is a constant").help("`getopt(\"n\", 10)`");
                self.error(d);
                None
            }
        }
    }

    /// `join(argv)`: pointers to text, the last one null.
    pub(super) fn join(&mut self, args: &[ast::Arg]) -> Option<Event> {
        let separator = match args.get(1).map(|a| &a.value.kind) {
            None => " ".to_owned(),
            Some(ast::ExprKind::Str(text)) => String::from_utf8_lossy(text).into_owned(),
            Some(_) => {
                let d = Diagnostic::error("argument-type", args[1].value.span, "the separator of `join` is a string literal");
                self.error(d);
                return None;
            }
        };
        let array = self.expr(&args[0].value);
        let space = self.pointed_space(&array, "join")?;
        let span = array.span;
        let char_pointer = CTy::Ptr(Box::new(CTy::Char));
        let strings = (0..JOIN_STRINGS).map(|i| {
            let place = ExprKind::Place {
                base: Box::new(array.clone()),
                offset: i * 8,
            };
            let place_ty = Ty::Obj {
                ty: char_pointer.clone(),
                space,
            };
            let read = ExprKind::Read {
                place: Box::new(Self::make(place, place_ty, span)),
                size: 8,
                bits: None,
            };
            let pointer_ty = Ty::Ptr {
                to: Box::new(CTy::Char),
                space,
            };
            let kind = ExprKind::ReadStr {
                ptr: Box::new(Self::make(read, pointer_ty, span)),
                len: None,
                cap: JOIN_BYTES,
                space,
            };
            Self::make(kind, Ty::Str { cap: JOIN_BYTES }, span)
        });
        Some(Event::Join {
            separator,
            args: strings.collect(),
        })
    }
}
