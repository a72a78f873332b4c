//! Builtins: what each is where the block runs.

use super::check::Checker;
use super::{CTy, Expr, ExprKind, Space, Ty};
use crate::kernel::KernelVersion;
use crate::tables::{self, BuiltinKind};
use crate::types::Type;
use weir_parser::ast;
use weir_parser::{Diagnostic, Span};

/// Size of `comm` in `struct task_struct` (`TASK_COMM_LEN`).
const COMM_BYTES: u32 = 16;

/// The first kernel whose BTF can be mapped: older ones have it read, which costs a script more than many calls of a helper.
/// All from 5.17 on keep zeros behind a task's name.
const MAPPED_BTF: KernelVersion = KernelVersion::new(6, 16, 0);

impl Checker<'_> {
    pub(super) fn builtin(&mut self, builtin: &'static tables::Builtin, span: Span) -> Expr {
        if !builtin.hooks.contains(self.hook) {
            // An event may know what the task that runs does not tell.
            let own = self.native.and_then(|native| {
                let instance = &self.natives[native];
                let var = instance.native.events[self.event].vars.iter().find(|v| v.name == builtin.name)?;
                Some(format!("`{}.{}`: {}", instance.alias, var.name, var.doc))
            });
            self.error(
                Diagnostic::error(
                    "not-at-this-hook",
                    span,
                    format!("`{}` is not available in {} block", builtin.name, self.hook.with_article()),
                )
                .label(format!("available in {}", builtin.hooks))
                .help(own.unwrap_or_else(|| builtin.instead.to_owned())),
            );
            return self.failed(span);
        }
        if builtin.is_of_current_task() {
            super::lints::bystander(builtin.name, self.point.as_ref(), span, &mut self.diagnostics);
        }
        let ty = match builtin.kind {
            BuiltinKind::Pid
            | BuiltinKind::Tid
            | BuiltinKind::Uid
            | BuiltinKind::Gid
            | BuiltinKind::Cpu
            | BuiltinKind::Ncpus
            | BuiltinKind::NumaId
            | BuiltinKind::Rand => Ty::U32,
            BuiltinKind::Kstack | BuiltinKind::Ustack => {
                return self.stack(builtin.kind == BuiltinKind::Ustack, None, None, span);
            }
            BuiltinKind::Username => {
                let uid = Self::make(ExprKind::Builtin(BuiltinKind::Uid), Ty::U32, span);
                return Self::make(ExprKind::Convert(Box::new(uid)), Ty::Kept(Type::Username), span);
            }
            BuiltinKind::Elapsed => return Self::make(ExprKind::Elapsed, Ty::U64, span),
            BuiltinKind::Ppid => return self.of_parent("tgid", span),
            BuiltinKind::Pcomm => return self.of_parent("comm", span),
            BuiltinKind::LeaderTid => return self.of_leader("pid", span),
            BuiltinKind::LeaderComm => return self.of_leader("comm", span),
            BuiltinKind::HasCpid => {
                let has = self.options.child.is_some();
                return Self::make(ExprKind::Int(i64::from(has)), Ty::Bool, span);
            }
            BuiltinKind::Cpid => {
                if self.options.child.is_none() {
                    let d = Diagnostic::warning("no-child", span, "there is no command, so `cpid` is 0");
                    self.error(d.help("`-c COMMAND` starts one"));
                }
                let child = self.options.child.unwrap_or(0);
                return Self::make(ExprKind::Int(i64::from(child)), Ty::U32, span);
            }
            BuiltinKind::Arg(n) => return self.numbered_argument(n, span),
            BuiltinKind::Retval => return self.return_value(span),
            // A number, as in bpftrace: keys and `print` show it.
            BuiltinKind::Usermode => Ty::Int { bits: 8, signed: false },
            BuiltinKind::Nsecs | BuiltinKind::Jiffies | BuiltinKind::Cgroup => Ty::U64,
            BuiltinKind::Comm => {
                self.comm_offset = self.offset_of_comm();
                Ty::Str { cap: COMM_BYTES }
            }
            BuiltinKind::Curtask => {
                let task = self.kernel.btf().and_then(|b| b.find_struct("task_struct"));
                let to = task.map_or(CTy::Void, |id| CTy::Struct {
                    name: "task_struct".to_owned(),
                    id: id.0,
                    union: false,
                });
                Ty::Ptr {
                    to: Box::new(to),
                    space: Space::Kernel,
                }
            }
            BuiltinKind::Ctx => return self.context_pointer(span),
            BuiltinKind::Args => {
                self.error(
                    Diagnostic::error("args-alone", span, "`args` is a group of arguments, not a value")
                        .help("name one: `args.field`; `weir -lv PROBE` lists them"),
                );
                return self.failed(span);
            }
            BuiltinKind::Func | BuiltinKind::Probe => {
                // Where the kernel tells them apart, one program serves all places.
                self.site_dependent |= !self.hook.has_cookie();
                Ty::Str { cap: name_cap(self.hook) }
            }
            BuiltinKind::ProbeType => Ty::Str { cap: 16 },
        };
        if builtin.kind == BuiltinKind::Ncpus {
            return Self::make(ExprKind::Int(i64::from(self.kernel.cpus())), ty, span);
        }
        Self::make(ExprKind::Builtin(builtin.kind), ty, span)
    }

    /// Where programs may read the name of the current task instead of calling the helper, which takes 20 ns longer.
    fn offset_of_comm(&self) -> Option<u32> {
        if self.options.portable || self.kernel.version() < MAPPED_BTF {
            return None;
        }
        let btf = self.kernel.btf()?;
        let comm = btf.member(btf.find_struct("task_struct")?, "comm")?;
        (btf.size_of(comm.ty) == Some(COMM_BYTES)).then(|| comm.byte_offset())
    }

    /// A member of the current task's parent.
    fn of_parent(&mut self, member: &str, span: Span) -> Expr {
        self.of_relative("real_parent", member, span)
    }

    fn of_leader(&mut self, member: &str, span: Span) -> Expr {
        self.of_relative("group_leader", member, span)
    }

    /// A member of a task that belongs to the current one.
    fn of_relative(&mut self, relative: &str, member: &str, span: Span) -> Expr {
        let Some(curtask) = tables::builtin("curtask") else {
            return self.failed(span);
        };
        let task = self.builtin(curtask, span);
        let ident = |name: &str| ast::Ident {
            name: name.to_owned(),
            span,
        };
        let parent = self.member(task, &ident(relative), span);
        let value = self.member(parent, &ident(member), span);
        self.loaded(value)
    }
}

/// Room for `probe` and `func`: paths are longer than names of the kernel.
pub(crate) fn name_cap(hook: tables::Hook) -> u32 {
    use tables::Hook::{Uprobe, Uretprobe, Usdt};
    if matches!(hook, Uprobe | Uretprobe | Usdt) { 128 } else { 64 }
}
