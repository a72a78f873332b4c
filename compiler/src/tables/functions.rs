//! Functions of the language.

use super::hooks::{Hook, Hooks};
use crate::object::TextKind;

/// A function of the language.
#[derive(Debug)]
pub struct Function {
    pub name: &'static str,
    pub kind: FunctionKind,
    /// Least and greatest number of arguments.
    pub args: (usize, usize),
    pub hooks: Hooks,
    pub signature: &'static str,
    pub doc: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FunctionKind {
    Printf,
    Print,
    Clear,
    Zero,
    Delete,
    HasKey,
    Exit,
    Time,
    Str,
    Buf,
    Strncmp,
    Strcontains,
    Strlen,
    /// `kstack`, `ustack`
    Stack {
        user: bool,
    },
    Ksym,
    Usym,
    Kaddr,
    Uaddr,
    /// `path(p)`
    Path,
    Strftime,
    Macaddr,
    Pton,
    Join,
    /// `errorf`, `warnf`, `cat`, `system`
    Text(TextKind),
    /// `signal`, `signal_thread`
    Signal {
        thread: bool,
    },
    Override,
    Reg,
    Cgroupid,
    SocketCookie,
    CgroupPath,
    Strerror,
    Len,
    Nsecs,
    Getopt,
    /// `pid(ns)`, `tid(ns)`
    Pid {
        thread: bool,
    },
    /// `comm(pid)`
    CommOf,
    /// `signal_name`, `syscall_name`
    SignalName,
    SyscallName,
    Strstr,
    Strcap,
    StrConcat,
    Memcmp,
    DefaultStrLength,
    Find,
    ContainerOf,
    PercpuKaddr,
    WriteUser,
    Debugf,
    Assert,
    StaticAssert,
    Fail,
    Comptime,
    Is(Is),
    IsErr,
    KfuncExist,
    KfuncAllowed,
    /// What bpftrace has and weir answers with what to use instead.
    Instead(&'static str),
    Ntop,
    Bswap,
    Kptr,
    Uptr,
    Has,
    Agg(AggKind),
    Verdict(Verdict),
    Redirect,
    Mirror,
    Capture,
}

/// Functions that only stand on the right of `@map = …`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AggKind {
    Count,
    Sum,
    Avg,
    Min,
    Max,
    Stats,
    Hist,
    LHist,
    TSeries,
}

/// Questions about the type of an expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Is {
    Array,
    Integer,
    UnsignedInteger,
    Ptr,
    Str,
    Literal,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Drop,
    Pass,
    Next,
    Tx,
    Allow,
    Deny,
}

impl Verdict {
    /// Returns the value the program returns at the hook, or `None` where the verdict does not exist.
    #[must_use]
    pub fn code(self, hook: Hook) -> Option<i32> {
        match (self, hook) {
            (Verdict::Drop, Hook::Xdp | Hook::NativeXdp) => Some(1),
            (Verdict::Pass, Hook::Xdp | Hook::NativeXdp) => Some(2),
            (Verdict::Tx, Hook::Xdp | Hook::NativeXdp) => Some(3),
            (Verdict::Drop, Hook::Tc | Hook::NativeTc) => Some(2),
            (Verdict::Pass, Hook::Tc | Hook::NativeTc) => Some(0),
            (Verdict::Next, Hook::Tc | Hook::NativeTc) => Some(-1),
            (Verdict::Drop | Verdict::Deny, Hook::CgroupSkb) => Some(0),
            (Verdict::Pass | Verdict::Allow, Hook::CgroupSkb) => Some(1),
            (Verdict::Deny, hook) if hook.is_cgroup_call() => Some(0),
            (Verdict::Allow, hook) if hook.is_cgroup_call() => Some(1),
            _ => None,
        }
    }
}

macro_rules! functions {
    ($($name:literal $kind:expr, $min:literal..=$max:literal, $hooks:expr, $sig:literal, $doc:literal;)*) => {
        /// Every function.
        pub static FUNCTIONS: &[Function] =
            &[$(Function { name: $name, kind: $kind, args: ($min, $max), hooks: $hooks, signature: $sig, doc: $doc },)*];
    };
}

functions! {
    "printf" FunctionKind::Printf, 1..=128, Hooks::ALL, "printf(format, ...)", "prints formatted text";
    "print" FunctionKind::Print, 1..=3, Hooks::ALL, "print(value), print(@map[, top[, div]]) or print(@ALIAS[, top])", "prints a value, a map, or what a native has found out";
    "clear" FunctionKind::Clear, 1..=1, Hooks::ALL, "clear(@map)", "removes every entry of a map";
    "zero" FunctionKind::Zero, 1..=1, Hooks::ALL, "zero(@map)", "sets every value of a map to zero";
    "delete" FunctionKind::Delete, 1..=2, Hooks::ALL, "delete(@map, key)", "removes one entry; true if it was there";
    "has_key" FunctionKind::HasKey, 2..=2, Hooks::ALL, "has_key(@map, key)", "whether the map has the key";
    "exit" FunctionKind::Exit, 0..=1, Hooks::ALL, "exit([code])", "ends the script";
    "time" FunctionKind::Time, 0..=1, Hooks::ALL, "time([format])", "prints the time of day, `%H:%M:%S` and a line break unless said otherwise";
    "str" FunctionKind::Str, 1..=2, Hooks::ALL, "str(pointer[, length])", "reads a NUL-terminated string from memory, at most `max_strlen` bytes";
    "buf" FunctionKind::Buf, 1..=2, Hooks::ALL, "buf(pointer[, length])", "reads bytes from memory, at most `max_strlen`; an array needs no length";
    "strncmp" FunctionKind::Strncmp, 3..=3, Hooks::ALL, "strncmp(a, b, n)", "0 when the first n bytes of two strings agree";
    "strcontains" FunctionKind::Strcontains, 2..=2, Hooks::ALL, "strcontains(text, part)", "whether a string contains another of at most 63 bytes";
    "strlen" FunctionKind::Strlen, 1..=1, Hooks::ALL, "strlen(text)", "length of a string in bytes";
    "kstack" FunctionKind::Stack { user: false }, 0..=2, Hooks::STACK, "kstack([mode][, frames])", "the kernel's stack; modes are `bpftrace`, `perf`, `raw`";
    "ustack" FunctionKind::Stack { user: true }, 0..=2, Hooks::STACK, "ustack([mode][, frames])", "the current task's stack; modes are `bpftrace`, `perf`, `raw`, `build_id`";
    "ksym" FunctionKind::Ksym, 1..=1, Hooks::ALL, "ksym(address)", "the kernel's symbol at an address";
    "usym" FunctionKind::Usym, 1..=1, Hooks::PROCESS, "usym(address)", "the current process's symbol at an address";
    "kaddr" FunctionKind::Kaddr, 1..=1, Hooks::ALL, "kaddr(\"symbol\")", "the address of a symbol of the kernel";
    "uaddr" FunctionKind::Uaddr, 1..=1, Hooks::of(&[Hook::Uprobe, Hook::Usdt]), "uaddr(\"symbol\")", "the address of a symbol of the probed program or library, wherever it is loaded; a pointer to an integer of the symbol's size";
    "path" FunctionKind::Path, 1..=2, Hooks::of(&[Hook::Fentry, Hook::Fexit, Hook::Iter]), "path(struct path[, length])", "the whole name of a file: `path(args.file->f_path)`, `path(ctx.file->f_path)`; in `fentry` only in the functions for which the kernel allows it, such as `vfs_getattr`";
    "strftime" FunctionKind::Strftime, 2..=2, Hooks::ALL, "strftime(format, nsecs)", "a time of the boot clock as text; `%f` is microseconds";
    "macaddr" FunctionKind::Macaddr, 1..=1, Hooks::ALL, "macaddr(bytes)", "makes a MAC address of six bytes";
    "pton" FunctionKind::Pton, 1..=1, Hooks::ALL, "pton(\"address\")", "an IPv4 or IPv6 address from text";
    "join" FunctionKind::Join, 1..=2, Hooks::PROCESS, "join(argv[, separator])", "prints up to 16 strings of an array of pointers";
    "errorf" FunctionKind::Text(TextKind::Error), 1..=128, Hooks::ALL, "errorf(format, ...)", "prints an error with its place in the script";
    "warnf" FunctionKind::Text(TextKind::Warning), 1..=128, Hooks::ALL, "warnf(format, ...)", "prints a warning with its place in the script";
    "cat" FunctionKind::Text(TextKind::Cat), 1..=128, Hooks::ALL, "cat(format, ...)", "prints the file of this name";
    "system" FunctionKind::Text(TextKind::System), 1..=128, Hooks::ALL, "system(format, ...)", "runs a command (`--unsafe`)";
    "signal" FunctionKind::Signal { thread: false }, 1..=1, Hooks::SIGNAL, "signal(number or \"NAME\")", "sends a signal to the current process (`--unsafe`)";
    "signal_thread" FunctionKind::Signal { thread: true }, 1..=1, Hooks::SIGNAL, "signal_thread(number or \"NAME\")", "sends a signal to the current thread (`--unsafe`)";
    "override" FunctionKind::Override, 1..=1, Hooks::of(&[Hook::Kprobe]), "override(value)", "makes the function return this without running (`--unsafe`)";
    "reg" FunctionKind::Reg, 1..=1, Hooks::REGISTERS, "reg(\"name\")", "a register of the CPU: `ip`, `sp`, `ax`, …";
    "cgroupid" FunctionKind::Cgroupid, 1..=1, Hooks::ALL, "cgroupid(\"/path\")", "id of a cgroup v2 directory";
    "socket_cookie" FunctionKind::SocketCookie, 1..=1, Hooks::of(&[Hook::Fentry, Hook::Fexit]), "socket_cookie(sk)", "the number that the kernel gives a socket for its life: `socket_cookie(args.sk)`; packet blocks have it as `skb.cookie`";
    "cgroup_path" FunctionKind::CgroupPath, 1..=2, Hooks::ALL, "cgroup_path(id)", "path of a cgroup by its id";
    "strerror" FunctionKind::Strerror, 1..=1, Hooks::ALL, "strerror(errno)", "text of an error number";
    "len" FunctionKind::Len, 1..=1, Hooks::ALL, "len(@map) or len(kstack)", "number of entries of a map, or of frames of a stack";
    "nsecs" FunctionKind::Nsecs, 0..=1, Hooks::ALL, "nsecs([clock])", "nanoseconds; clocks are `boot`, `monotonic`, `tai`, `sw_tai`";
    "getopt" FunctionKind::Getopt, 1..=3, Hooks::ALL, "getopt(\"name\"[, default[, \"description\"]])", "a named argument behind the script: `--name=value`, `--name value`, or `--name` alone for a switch; also in attach points and in the parameters of `use`";
    "ntop" FunctionKind::Ntop, 1..=2, Hooks::ALL, "ntop([family, ]address)", "makes an IPv4 or IPv6 address of its bytes";
    "bswap" FunctionKind::Bswap, 1..=1, Hooks::ALL, "bswap(n)", "reverses the bytes of an integer of 16, 32 or 64 bits";
    "kptr" FunctionKind::Kptr, 1..=1, Hooks::ALL, "kptr(p)", "says that a pointer is to kernel memory";
    "uptr" FunctionKind::Uptr, 1..=1, Hooks::ALL, "uptr(p)", "says that a pointer is to user memory";
    "pid" FunctionKind::Pid { thread: false }, 0..=1, Hooks::PROCESS, "pid([init or curr_ns])", "process id of the current task, in the first or weir's own pid namespace";
    "tid" FunctionKind::Pid { thread: true }, 0..=1, Hooks::PROCESS, "tid([init or curr_ns])", "thread id of the current task, in the first or weir's own pid namespace";
    "comm" FunctionKind::CommOf, 0..=1, Hooks::PROCESS, "comm([pid])", "name of the current task, or of a process when it is printed";
    "signal_name" FunctionKind::SignalName, 1..=1, Hooks::ALL, "signal_name(number)", "a signal in words: `Killed`";
    "syscall_name" FunctionKind::SyscallName, 1..=1, Hooks::ALL, "syscall_name(number)", "name of a system call: `openat`";
    "strstr" FunctionKind::Strstr, 2..=2, Hooks::ALL, "strstr(text, part)", "where a text has another of at most 63 bytes, -1 where it has not";
    "strcap" FunctionKind::Strcap, 1..=1, Hooks::ALL, "strcap(text)", "room of a string in bytes";
    "str_concat" FunctionKind::StrConcat, 2..=2, Hooks::ALL, "str_concat(a, b)", "two strings, one behind the other";
    "memcmp" FunctionKind::Memcmp, 3..=3, Hooks::ALL, "memcmp(a, b, n)", "0 when the first n bytes of two arrays, strings or places in memory agree, else the difference of the first two that do not";
    "default_str_length" FunctionKind::DefaultStrLength, 0..=0, Hooks::ALL, "default_str_length()", "the setting `max_strlen`";
    "find" FunctionKind::Find, 3..=3, Hooks::ALL, "find(@map, key, $value)", "whether the map has the key; if so, the variable gets its value";
    "container_of" FunctionKind::ContainerOf, 3..=3, Hooks::ALL, "container_of(pointer, struct x, member)", "the struct whose member a pointer points to";
    "percpu_kaddr" FunctionKind::PercpuKaddr, 1..=2, Hooks::ALL, "percpu_kaddr(\"symbol\"[, cpu])", "address of a per-CPU variable of the kernel";
    "write_user" FunctionKind::WriteUser, 2..=2, Hooks::STACK, "write_user(pointer, value)", "writes a value into the current process's memory (`--unsafe`)";
    "debugf" FunctionKind::Debugf, 1..=4, Hooks::ALL, "debugf(format, ...)", "prints to the kernel's trace pipe";
    "assert" FunctionKind::Assert, 2..=2, Hooks::ALL, "assert(condition, \"message\")", "ends the script with an error unless the condition holds";
    "static_assert" FunctionKind::StaticAssert, 2..=2, Hooks::ALL, "static_assert(condition, \"message\")", "an error of the compiler unless the condition holds";
    "fail" FunctionKind::Fail, 1..=128, Hooks::ALL, "fail(\"format\"[, values])", "an error of the compiler where it is reached; for branches of `if comptime`";
    "comptime" FunctionKind::Comptime, 1..=1, Hooks::ALL, "comptime expression", "a value that must be known while compiling";
    "is_array" FunctionKind::Is(Is::Array), 1..=1, Hooks::ALL, "is_array(x)", "whether something is an array";
    "is_integer" FunctionKind::Is(Is::Integer), 1..=1, Hooks::ALL, "is_integer(x)", "whether something is an integer";
    "is_unsigned_integer" FunctionKind::Is(Is::UnsignedInteger), 1..=1, Hooks::ALL, "is_unsigned_integer(x)", "whether something is an integer without sign";
    "is_ptr" FunctionKind::Is(Is::Ptr), 1..=1, Hooks::ALL, "is_ptr(x)", "whether something is a pointer";
    "is_str" FunctionKind::Is(Is::Str), 1..=1, Hooks::ALL, "is_str(x)", "whether something is a string";
    "is_literal" FunctionKind::Is(Is::Literal), 1..=1, Hooks::ALL, "is_literal(x)", "whether something is a constant";
    "is_err" FunctionKind::IsErr, 1..=1, Hooks::ALL, "is_err(pointer)", "whether a pointer of the kernel stands for an error number";
    "kfunc_exist" FunctionKind::KfuncExist, 1..=1, Hooks::ALL, "kfunc_exist(\"name\")", "whether the kernel has a function";
    "kfunc_allowed" FunctionKind::KfuncAllowed, 1..=1, Hooks::ALL, "kfunc_allowed(\"name\")", "whether the kernel has a function; weir calls none of them";
    "skboutput" FunctionKind::Instead("`capture()` in a `tc` or `xdp` block writes the packet to `--pcap FILE`"), 4..=4, Hooks::ALL, "skboutput(path, skb, length, offset)", "writes a packet to a file: use `capture()` of packet probes instead";
    "unwatch" FunctionKind::Instead("leave it out: a watchpoint ends with the script"), 1..=1, Hooks::ALL, "unwatch(address)", "removes a watchpoint; weir has none that a script makes";
    "typeinfo" FunctionKind::Instead("`typeof(a) == typeof(b)` compares types, `is_ptr(x)` and its like ask for one"), 1..=1, Hooks::ALL, "typeinfo(x)", "the type of an expression as a value; unstable in bpftrace";
    "has" FunctionKind::Has, 1..=1, Hooks::PACKET, "has(field)", "whether the packet has the header or the field";
    "count" FunctionKind::Agg(AggKind::Count), 0..=0, Hooks::ALL, "@ = count()", "counts";
    "sum" FunctionKind::Agg(AggKind::Sum), 1..=1, Hooks::ALL, "@ = sum(n)", "adds up";
    "avg" FunctionKind::Agg(AggKind::Avg), 1..=1, Hooks::ALL, "@ = avg(n)", "average";
    "min" FunctionKind::Agg(AggKind::Min), 1..=1, Hooks::ALL, "@ = min(n)", "least value seen";
    "max" FunctionKind::Agg(AggKind::Max), 1..=1, Hooks::ALL, "@ = max(n)", "greatest value seen";
    "stats" FunctionKind::Agg(AggKind::Stats), 1..=1, Hooks::ALL, "@ = stats(n)", "count, average and total";
    "hist" FunctionKind::Agg(AggKind::Hist), 1..=2, Hooks::ALL, "@ = hist(n[, k])", "histogram by powers of two, each split into 2^k";
    "lhist" FunctionKind::Agg(AggKind::LHist), 4..=4, Hooks::ALL, "@ = lhist(n, min, max, step)", "histogram with equal steps";
    "tseries" FunctionKind::Agg(AggKind::TSeries), 3..=4, Hooks::ALL, "@ = tseries(n, interval, count[, \"avg\" or \"max\", \"min\", \"sum\"])", "the last `count` intervals, and what the values of each came to: the last one unless said otherwise";
    "drop" FunctionKind::Verdict(Verdict::Drop), 0..=0, Hooks::PACKET, "drop()", "drops the packet and ends the block";
    "pass" FunctionKind::Verdict(Verdict::Pass), 0..=0, Hooks::PACKET, "pass()", "lets the packet pass and ends the chain";
    "next" FunctionKind::Verdict(Verdict::Next), 0..=0, Hooks::TC, "next()", "leaves the packet to the next program";
    "capture" FunctionKind::Capture, 0..=1, Hooks::of(&[Hook::Xdp, Hook::Tc]), "capture([bytes])", "writes the first bytes of the packet (128 unless said) and its verdict to the file of `--pcap`, once a packet";
    "tx" FunctionKind::Verdict(Verdict::Tx), 0..=0, Hooks::XDP, "tx()", "sends the packet out of the interface it came from";
    "redirect" FunctionKind::Redirect, 1..=1, Hooks::of(&[Hook::Xdp, Hook::Tc]), "redirect(\"if\")", "sends the packet out of another interface and ends the block";
    "mirror" FunctionKind::Mirror, 1..=1, Hooks::TC, "mirror(\"if\")", "sends a copy of the packet out of another interface; the block goes on";
    "allow" FunctionKind::Verdict(Verdict::Allow), 0..=0, Hooks::CGROUP, "allow()", "lets the packet or the system call go on";
    "deny" FunctionKind::Verdict(Verdict::Deny), 0..=0, Hooks::CGROUP, "deny()", "drops the packet, or refuses the system call with EPERM";
}

#[must_use]
pub fn function(name: &str) -> Option<&'static Function> {
    FUNCTIONS.iter().find(|f| f.name == name)
}
