//! Words of the language that stand for a value.

use super::hooks::{Hook, Hooks};

/// A word of the language that stands for a value.
#[derive(Debug)]
pub struct Builtin {
    pub name: &'static str,
    pub kind: BuiltinKind,
    pub hooks: Hooks,
    /// What to use where the hook does not have it.
    pub instead: &'static str,
    pub doc: &'static str,
}

/// How a builtin gets its value; the code generator matches on this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuiltinKind {
    Pid,
    Tid,
    Uid,
    Gid,
    Comm,
    Nsecs,
    Cpu,
    Ncpus,
    Curtask,
    Cgroup,
    Rand,
    Jiffies,
    Ctx,
    Args,
    /// `arg0` … `arg11`
    Arg(u8),
    Retval,
    Func,
    Probe,
    Kstack,
    Ustack,
    Username,
    Elapsed,
    Ppid,
    Pcomm,
    Cpid,
    NumaId,
    LeaderTid,
    LeaderComm,
    Usermode,
    ProbeType,
    HasCpid,
}

const SOFTIRQ: &str = "packets are handled in softirq, where the current task is a bystander; count by `ip.src` or `port.dst` instead";
const NO_STACK: &str =
    "the kernel takes no stacks here; take them in a probe of the function that you want to see, such as `kprobe:tcp_v4_connect`";
const ARG_HOOKS: Hooks = Hooks::of(&[
    Hook::Kprobe,
    Hook::RawTracepoint,
    Hook::Fentry,
    Hook::Fexit,
    Hook::Uprobe,
    Hook::Usdt,
]);
/// More than six arguments do not fit into registers.
const STACK_ARG_HOOKS: Hooks = Hooks::of(&[Hook::RawTracepoint, Hook::Usdt]);
const NO_STACK_ARG: &str = "a function has `arg0` … `arg5`; what does not fit into registers lies on the stack at `reg(\"sp\")`";
const NO_ARG: &str = "a `tracepoint` has `args.field`; an argument seen on entry can be kept in a map by `tid`";
const FUNC_HOOKS: Hooks = Hooks::of(&[
    Hook::Kprobe,
    Hook::Kretprobe,
    Hook::Fentry,
    Hook::Fexit,
    Hook::Uprobe,
    Hook::Uretprobe,
]);

macro_rules! builtins {
    ($($name:literal $kind:expr, $hooks:expr, $instead:expr, $doc:literal;)*) => {
        /// Every builtin variable.
        pub static BUILTINS: &[Builtin] = &[$(Builtin { name: $name, kind: $kind, hooks: $hooks, instead: $instead, doc: $doc },)*];
    };
}

builtins! {
    "pid" BuiltinKind::Pid, Hooks::PROCESS, SOFTIRQ, "process id of the current task";
    "tid" BuiltinKind::Tid, Hooks::PROCESS, SOFTIRQ, "thread id of the current task";
    "uid" BuiltinKind::Uid, Hooks::PROCESS, SOFTIRQ, "user id of the current task";
    "gid" BuiltinKind::Gid, Hooks::PROCESS, SOFTIRQ, "group id of the current task";
    "comm" BuiltinKind::Comm, Hooks::PROCESS, SOFTIRQ, "name of the current task, at most 15 bytes";
    "cgroup" BuiltinKind::Cgroup, Hooks::PROCESS, SOFTIRQ, "cgroup v2 id of the current task";
    "curtask" BuiltinKind::Curtask, Hooks::PROCESS, SOFTIRQ, "address of the current `struct task_struct`";
    "username" BuiltinKind::Username, Hooks::PROCESS, SOFTIRQ, "name of the current task's user";
    "ppid" BuiltinKind::Ppid, Hooks::PROCESS, SOFTIRQ, "process id of the current task's parent";
    "pcomm" BuiltinKind::Pcomm, Hooks::PROCESS, SOFTIRQ, "name of the current task's parent";
    "kstack" BuiltinKind::Kstack, Hooks::STACK, NO_STACK, "the kernel's stack";
    "ustack" BuiltinKind::Ustack, Hooks::STACK, NO_STACK, "the current task's stack";
    "leader_tid" BuiltinKind::LeaderTid, Hooks::PROCESS, SOFTIRQ, "thread id of the first thread of the current process";
    "leader_comm" BuiltinKind::LeaderComm, Hooks::PROCESS, SOFTIRQ, "name of the first thread of the current process";
    "cpid" BuiltinKind::Cpid, Hooks::ALL, "", "process id of the command that was started with `-c`";
    "has_cpid" BuiltinKind::HasCpid, Hooks::ALL, "", "whether a command was started with `-c`";
    "numaid" BuiltinKind::NumaId, Hooks::ALL, "", "number of the NUMA node";
    "elapsed" BuiltinKind::Elapsed, Hooks::ALL, "", "nanoseconds since the script started";
    "nsecs" BuiltinKind::Nsecs, Hooks::ALL, "", "nanoseconds since boot";
    "cpu" BuiltinKind::Cpu, Hooks::ALL, "", "number of the CPU that runs the block";
    "ncpus" BuiltinKind::Ncpus, Hooks::ALL, "", "number of possible CPUs";
    "rand" BuiltinKind::Rand, Hooks::ALL, "", "random 32-bit number";
    "jiffies" BuiltinKind::Jiffies, Hooks::ALL, "", "timer ticks since boot";
    "ctx" BuiltinKind::Ctx, Hooks::ALL, "", "address of the program's context";
    "args" BuiltinKind::Args, Hooks::of(&[Hook::Tracepoint, Hook::RawTracepoint, Hook::Fentry, Hook::Fexit]), "name the arguments by number there: `arg0`, `arg1`, …", "arguments of the probe: `args.field`";
    "arg0" BuiltinKind::Arg(0), ARG_HOOKS, NO_ARG, "first argument of the function";
    "arg1" BuiltinKind::Arg(1), ARG_HOOKS, NO_ARG, "second argument";
    "arg2" BuiltinKind::Arg(2), ARG_HOOKS, NO_ARG, "third argument";
    "arg3" BuiltinKind::Arg(3), ARG_HOOKS, NO_ARG, "fourth argument";
    "arg4" BuiltinKind::Arg(4), ARG_HOOKS, NO_ARG, "fifth argument";
    "arg5" BuiltinKind::Arg(5), ARG_HOOKS, NO_ARG, "sixth argument";
    "arg6" BuiltinKind::Arg(6), STACK_ARG_HOOKS, NO_STACK_ARG, "seventh argument";
    "arg7" BuiltinKind::Arg(7), STACK_ARG_HOOKS, NO_STACK_ARG, "eighth argument";
    "arg8" BuiltinKind::Arg(8), STACK_ARG_HOOKS, NO_STACK_ARG, "ninth argument";
    "arg9" BuiltinKind::Arg(9), STACK_ARG_HOOKS, NO_STACK_ARG, "tenth argument";
    "arg10" BuiltinKind::Arg(10), STACK_ARG_HOOKS, NO_STACK_ARG, "eleventh argument";
    "arg11" BuiltinKind::Arg(11), STACK_ARG_HOOKS, NO_STACK_ARG, "twelfth argument";
    "retval" BuiltinKind::Retval, Hooks::of(&[Hook::Kretprobe, Hook::Fexit, Hook::Uretprobe]), "return values are available in `kretprobe`, `fexit` and `uretprobe`; a `sys_exit_*` tracepoint has `args.ret`", "return value of the function";
    "func" BuiltinKind::Func, FUNC_HOOKS, "`probe` names the whole attach point", "name of the traced function";
    "probe" BuiltinKind::Probe, Hooks::ALL, "", "the attach point, wildcards filled in";
    "probetype" BuiltinKind::ProbeType, Hooks::ALL, "", "the probe type: first word of the attach point";
    "usermode" BuiltinKind::Usermode, Hooks::REGISTERS, "the registers tell; `profile` has them", "whether the CPU was in user mode";
}

impl Builtin {
    /// Tells whether it is about the task that runs, whoever that is.
    #[must_use]
    pub fn is_of_current_task(&self) -> bool {
        self.hooks == Hooks::PROCESS || self.kind == BuiltinKind::Ustack
    }
}

#[must_use]
pub fn builtin(name: &str) -> Option<&'static Builtin> {
    BUILTINS.iter().find(|b| b.name == name)
}
