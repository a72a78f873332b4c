//! The declaration tables: hooks, builtins, functions, packet fields.
//!
//! Each thing a script can name is declared once, here; type checker, code generator, `-l`, completion and the
//! reference manual are derived from it. Natives are declared in `weir-stdlib`, constants in [`crate::constants`].

use crate::object::TextKind;
use crate::types::Type;
use std::fmt;

/// Where a block can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Hook {
    /// `begin`, `end`, `self:signal`
    RunOnce,
    /// `interval`, `profile`
    PerfEvent,
    Tracepoint,
    Kprobe,
    Kretprobe,
    Xdp,
    Tc,
    /// A block on a native's event; runs as an XDP program.
    NativeXdp,
}

impl Hook {
    pub const ALL: [Hook; 8] = [
        Hook::RunOnce,
        Hook::PerfEvent,
        Hook::Tracepoint,
        Hook::Kprobe,
        Hook::Kretprobe,
        Hook::Xdp,
        Hook::Tc,
        Hook::NativeXdp,
    ];

    /// Returns the word the user knows the hook by.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Hook::RunOnce => "begin/end",
            Hook::PerfEvent => "interval/profile",
            Hook::Tracepoint => "tracepoint",
            Hook::Kprobe => "kprobe",
            Hook::Kretprobe => "kretprobe",
            Hook::Xdp => "xdp",
            Hook::Tc => "tc",
            Hook::NativeXdp => "native event",
        }
    }

    /// Returns the name as it stands in a sentence: ``an `xdp` ``.
    #[must_use]
    pub fn with_article(self) -> String {
        let article = if matches!(self, Hook::Xdp | Hook::PerfEvent) { "an" } else { "a" };
        format!("{article} `{}`", self.name())
    }

    /// Returns whether the block sees a packet.
    #[must_use]
    pub fn has_packet(self) -> bool {
        matches!(self, Hook::Xdp | Hook::Tc | Hook::NativeXdp)
    }
}

/// A set of hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hooks(u16);

impl Hooks {
    pub const XDP: Hooks = Hooks::of(&[Hook::Xdp, Hook::NativeXdp]);
    pub const TC: Hooks = Hooks::of(&[Hook::Tc]);
    pub const PACKET: Hooks = Hooks::of(&[Hook::Xdp, Hook::Tc, Hook::NativeXdp]);
    pub const ALL: Hooks = Hooks::of(&Hook::ALL);
    /// Hooks in which the current task is the one that caused the event.
    pub const PROCESS: Hooks = Hooks::of(&[Hook::RunOnce, Hook::PerfEvent, Hook::Tracepoint, Hook::Kprobe, Hook::Kretprobe]);

    /// Hooks in which a signal reaches the task that caused the event.
    pub const SIGNAL: Hooks = Hooks::of(&[Hook::PerfEvent, Hook::Tracepoint, Hook::Kprobe, Hook::Kretprobe]);

    #[must_use]
    pub const fn of(hooks: &[Hook]) -> Hooks {
        let mut bits = 0;
        let mut i = 0;
        while i < hooks.len() {
            bits |= 1 << hooks[i] as u16;
            i += 1;
        }
        Hooks(bits)
    }

    #[must_use]
    pub const fn contains(self, hook: Hook) -> bool {
        self.0 & (1 << hook as u16) != 0
    }

    pub fn iter(self) -> impl Iterator<Item = Hook> {
        Hook::ALL.into_iter().filter(move |h| self.contains(*h))
    }
}

impl fmt::Display for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self
            .iter()
            .filter(|h| *h != Hook::NativeXdp)
            .map(|h| format!("`{}`", h.name()))
            .collect();
        f.write_str(&names.join(", "))
    }
}

/// BPF helpers by name, numbered as in `enum bpf_func_id`.
pub mod helper {
    pub const MAP_LOOKUP_ELEM: u32 = 1;
    pub const MAP_UPDATE_ELEM: u32 = 2;
    pub const MAP_DELETE_ELEM: u32 = 3;
    pub const KTIME_GET_NS: u32 = 5;
    pub const GET_PRANDOM_U32: u32 = 7;
    pub const GET_SMP_PROCESSOR_ID: u32 = 8;
    pub const TAIL_CALL: u32 = 12;
    pub const GET_CURRENT_PID_TGID: u32 = 14;
    pub const GET_CURRENT_UID_GID: u32 = 15;
    pub const GET_CURRENT_COMM: u32 = 16;
    pub const GET_STACKID: u32 = 27;
    pub const GET_CURRENT_TASK: u32 = 35;
    pub const GET_NUMA_NODE_ID: u32 = 42;
    pub const OVERRIDE_RETURN: u32 = 58;
    pub const SEND_SIGNAL: u32 = 109;
    pub const SEND_SIGNAL_THREAD: u32 = 117;
    pub const KTIME_GET_TAI_NS: u32 = 208;
    pub const SKB_PULL_DATA: u32 = 39;
    pub const GET_CURRENT_CGROUP_ID: u32 = 80;
    pub const PROBE_READ_USER: u32 = 112;
    pub const PROBE_READ_KERNEL: u32 = 113;
    pub const PROBE_READ_USER_STR: u32 = 114;
    pub const PROBE_READ_KERNEL_STR: u32 = 115;
    pub const JIFFIES64: u32 = 118;
    pub const KTIME_GET_BOOT_NS: u32 = 125;
    pub const RINGBUF_RESERVE: u32 = 131;
    pub const RINGBUF_SUBMIT: u32 = 132;
    pub const RINGBUF_OUTPUT: u32 = 130;
    pub const KTIME_GET_COARSE_NS: u32 = 160;
    /// All fragments of the buffer; Linux 5.18.
    pub const XDP_GET_BUFF_LEN: u32 = 188;
    pub const FOR_EACH_MAP_ELEM: u32 = 164;
    pub const LOOP: u32 = 181;
    pub const MAP_LOOKUP_PERCPU_ELEM: u32 = 195;
}

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
    /// `arg0` … `arg5`
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
}

const SOFTIRQ: &str = "packets are handled in softirq, where the current task is a bystander; count by `ip.src` or `port.dst` instead";
const FUNC_HOOKS: Hooks = Hooks::of(&[Hook::Kprobe]);

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
    "kstack" BuiltinKind::Kstack, Hooks::PROCESS, SOFTIRQ, "the kernel's stack";
    "ustack" BuiltinKind::Ustack, Hooks::PROCESS, SOFTIRQ, "the current task's stack";
    "cpid" BuiltinKind::Cpid, Hooks::ALL, "", "process id of the command that was started with `-c`";
    "numaid" BuiltinKind::NumaId, Hooks::ALL, "", "number of the NUMA node";
    "elapsed" BuiltinKind::Elapsed, Hooks::ALL, "", "nanoseconds since the script started";
    "nsecs" BuiltinKind::Nsecs, Hooks::ALL, "", "nanoseconds since boot";
    "cpu" BuiltinKind::Cpu, Hooks::ALL, "", "number of the CPU that runs the block";
    "ncpus" BuiltinKind::Ncpus, Hooks::ALL, "", "number of possible CPUs";
    "rand" BuiltinKind::Rand, Hooks::ALL, "", "random 32-bit number";
    "jiffies" BuiltinKind::Jiffies, Hooks::ALL, "", "timer ticks since boot";
    "ctx" BuiltinKind::Ctx, Hooks::ALL, "", "address of the program's context";
    "args" BuiltinKind::Args, Hooks::of(&[Hook::Tracepoint]), "name the argument registers `arg0` … `arg5` in a kprobe", "arguments of the probe: `args.field`";
    "arg0" BuiltinKind::Arg(0), FUNC_HOOKS, "arguments are available in `kprobe`; a `tracepoint` has `args.field`", "first argument of the function";
    "arg1" BuiltinKind::Arg(1), FUNC_HOOKS, "arguments are available in `kprobe`; a `tracepoint` has `args.field`", "second argument";
    "arg2" BuiltinKind::Arg(2), FUNC_HOOKS, "arguments are available in `kprobe`; a `tracepoint` has `args.field`", "third argument";
    "arg3" BuiltinKind::Arg(3), FUNC_HOOKS, "arguments are available in `kprobe`; a `tracepoint` has `args.field`", "fourth argument";
    "arg4" BuiltinKind::Arg(4), FUNC_HOOKS, "arguments are available in `kprobe`; a `tracepoint` has `args.field`", "fifth argument";
    "arg5" BuiltinKind::Arg(5), FUNC_HOOKS, "arguments are available in `kprobe`; a `tracepoint` has `args.field`", "sixth argument";
    "retval" BuiltinKind::Retval, Hooks::of(&[Hook::Kretprobe]), "return values are available in `kretprobe`; a `sys_exit_*` tracepoint has `args.ret`", "return value of the function";
    "func" BuiltinKind::Func, Hooks::of(&[Hook::Kprobe, Hook::Kretprobe]), "`probe` names the whole attach point", "name of the traced function";
    "probe" BuiltinKind::Probe, Hooks::ALL, "", "the attach point as written";
}

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
    CgroupPath,
    Strerror,
    Len,
    Nsecs,
    Getopt,
    Ntop,
    Bswap,
    Kptr,
    Uptr,
    Has,
    Agg(AggKind),
    Verdict(Verdict),
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
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Drop,
    Pass,
    Next,
    Tx,
}

impl Verdict {
    /// Returns the value the program returns at the hook, or `None` where the verdict does not exist.
    #[must_use]
    pub fn code(self, hook: Hook) -> Option<i32> {
        match (self, hook) {
            (Verdict::Drop, Hook::Xdp | Hook::NativeXdp) => Some(1),
            (Verdict::Pass, Hook::Xdp | Hook::NativeXdp) => Some(2),
            (Verdict::Tx, Hook::Xdp | Hook::NativeXdp) => Some(3),
            (Verdict::Drop, Hook::Tc) => Some(2),
            (Verdict::Pass, Hook::Tc) => Some(0),
            (Verdict::Next, Hook::Tc) => Some(-1),
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
    "print" FunctionKind::Print, 1..=3, Hooks::ALL, "print(value) or print(@map[, top[, div]])", "prints a value or a map";
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
    "kstack" FunctionKind::Stack { user: false }, 0..=2, Hooks::PROCESS, "kstack([mode][, frames])", "the kernel's stack; modes are `bpftrace`, `perf`, `raw`";
    "ustack" FunctionKind::Stack { user: true }, 0..=2, Hooks::PROCESS, "ustack([mode][, frames])", "the current task's stack; modes are `bpftrace`, `perf`, `raw`";
    "ksym" FunctionKind::Ksym, 1..=1, Hooks::ALL, "ksym(address)", "the kernel's symbol at an address";
    "usym" FunctionKind::Usym, 1..=1, Hooks::PROCESS, "usym(address)", "the current process's symbol at an address";
    "kaddr" FunctionKind::Kaddr, 1..=1, Hooks::ALL, "kaddr(\"symbol\")", "the address of a symbol of the kernel";
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
    "override" FunctionKind::Override, 1..=1, FUNC_HOOKS, "override(value)", "makes the function return this without running (`--unsafe`)";
    "reg" FunctionKind::Reg, 1..=1, Hooks::of(&[Hook::Kprobe, Hook::Kretprobe, Hook::PerfEvent]), "reg(\"name\")", "a register of the CPU: `ip`, `sp`, `ax`, …";
    "cgroupid" FunctionKind::Cgroupid, 1..=1, Hooks::ALL, "cgroupid(\"/path\")", "id of a cgroup v2 directory";
    "cgroup_path" FunctionKind::CgroupPath, 1..=2, Hooks::ALL, "cgroup_path(id)", "path of a cgroup by its id";
    "strerror" FunctionKind::Strerror, 1..=1, Hooks::ALL, "strerror(errno)", "text of an error number";
    "len" FunctionKind::Len, 1..=1, Hooks::ALL, "len(@map)", "number of entries of a map";
    "nsecs" FunctionKind::Nsecs, 0..=1, Hooks::ALL, "nsecs([clock])", "nanoseconds; clocks are `boot`, `monotonic`, `tai`";
    "getopt" FunctionKind::Getopt, 1..=3, Hooks::ALL, "getopt(\"name\"[, default[, \"description\"]])", "a named argument of the script: `--name=value` after `--`";
    "ntop" FunctionKind::Ntop, 1..=2, Hooks::ALL, "ntop([family, ]address)", "makes an IPv4 or IPv6 address of its bytes";
    "bswap" FunctionKind::Bswap, 1..=1, Hooks::ALL, "bswap(n)", "reverses the bytes of an integer of 16, 32 or 64 bits";
    "kptr" FunctionKind::Kptr, 1..=1, Hooks::ALL, "kptr(p)", "says that a pointer is to kernel memory";
    "uptr" FunctionKind::Uptr, 1..=1, Hooks::ALL, "uptr(p)", "says that a pointer is to user memory";
    "has" FunctionKind::Has, 1..=1, Hooks::PACKET, "has(field)", "whether the packet has the header or the field";
    "count" FunctionKind::Agg(AggKind::Count), 0..=0, Hooks::ALL, "@ = count()", "counts";
    "sum" FunctionKind::Agg(AggKind::Sum), 1..=1, Hooks::ALL, "@ = sum(n)", "adds up";
    "avg" FunctionKind::Agg(AggKind::Avg), 1..=1, Hooks::ALL, "@ = avg(n)", "average";
    "min" FunctionKind::Agg(AggKind::Min), 1..=1, Hooks::ALL, "@ = min(n)", "least value seen";
    "max" FunctionKind::Agg(AggKind::Max), 1..=1, Hooks::ALL, "@ = max(n)", "greatest value seen";
    "stats" FunctionKind::Agg(AggKind::Stats), 1..=1, Hooks::ALL, "@ = stats(n)", "count, average and total";
    "hist" FunctionKind::Agg(AggKind::Hist), 1..=2, Hooks::ALL, "@ = hist(n[, k])", "histogram by powers of two, each split into 2^k";
    "lhist" FunctionKind::Agg(AggKind::LHist), 4..=4, Hooks::ALL, "@ = lhist(n, min, max, step)", "histogram with equal steps";
    "drop" FunctionKind::Verdict(Verdict::Drop), 0..=0, Hooks::PACKET, "drop()", "drops the packet and ends the block";
    "pass" FunctionKind::Verdict(Verdict::Pass), 0..=0, Hooks::PACKET, "pass()", "lets the packet pass and ends the chain";
    "next" FunctionKind::Verdict(Verdict::Next), 0..=0, Hooks::TC, "next()", "leaves the packet to the next program";
    "tx" FunctionKind::Verdict(Verdict::Tx), 0..=0, Hooks::XDP, "tx()", "sends the packet out of the interface it came from";
}

/// A field of a packet or of its context.
#[derive(Debug)]
pub struct Field {
    /// As written: `tcp.dport`.
    pub name: &'static str,
    pub kind: FieldKind,
    pub ty: FieldType,
    pub hooks: Hooks,
    pub doc: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldType {
    Bool,
    U8,
    U16,
    U32,
    U64,
    Inet,
    Mac,
    Flow,
}

impl FieldType {
    /// Returns the type of the value in memory.
    #[must_use]
    pub fn ty(self) -> Type {
        let int = |bits| Type::Int { bits, signed: false };
        match self {
            FieldType::Bool => Type::Bool,
            FieldType::U8 => int(8),
            FieldType::U16 => int(16),
            FieldType::U32 => int(32),
            FieldType::U64 => int(64),
            FieldType::Inet => Type::Inet,
            FieldType::Mac => Type::Mac,
            FieldType::Flow => Type::Flow,
        }
    }
}

/// Headers that the generated parser finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Header {
    Eth,
    Vlan,
    Arp,
    /// Either family.
    Ip,
    Ip4,
    Ip6,
    Tcp,
    Udp,
    Sctp,
    /// TCP, UDP or SCTP.
    Port,
    Icmp,
    Icmp6,
}

/// Where a field's value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldKind {
    /// `bytes` big-endian bytes at `offset` in the header, then shifted right and masked.
    Bits {
        header: Header,
        offset: u16,
        bytes: u8,
        shift: u8,
        mask: u64,
    },
    /// Six bytes at `offset`.
    MacAt { header: Header, offset: u16 },
    /// Four bytes at `offset`, as IPv4 address.
    Inet4At { header: Header, offset: u16 },
    /// Sixteen bytes at `offset`, as IPv6 address.
    Inet6At { header: Header, offset: u16 },
    /// A value that the parser computes; see `clif::packet`.
    Parsed(Parsed),
    /// `bytes` bytes at `offset` of the context, in host order (`struct xdp_md`, `struct __sk_buff`).
    Context { xdp: Option<(u16, u8)>, skb: Option<(u16, u8)> },
    /// All fragments of the buffer.
    PacketLen,
    /// `max(1, gso_segs)`
    Segments,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Parsed {
    /// EtherType after VLAN tags.
    EthType,
    VlanTci,
    VlanId,
    VlanPrio,
    IpSrc,
    IpDst,
    IpVersion,
    IpProto,
    IpTtl,
    IpTos,
    IpLen,
    PortSrc,
    PortDst,
    TcpHdrLen,
}

macro_rules! fields {
    ($($name:literal $ty:ident, $hooks:expr, $kind:expr, $doc:literal;)*) => {
        /// Every packet field.
        pub static FIELDS: &[Field] =
            &[$(Field { name: $name, kind: $kind, ty: FieldType::$ty, hooks: $hooks, doc: $doc },)*];
    };
}

const fn at(header: Header, offset: u16, bytes: u8) -> FieldKind {
    FieldKind::Bits {
        header,
        offset,
        bytes,
        shift: 0,
        mask: u64::MAX,
    }
}

const fn bits(header: Header, offset: u16, bytes: u8, shift: u8, mask: u64) -> FieldKind {
    FieldKind::Bits {
        header,
        offset,
        bytes,
        shift,
        mask,
    }
}

const fn flag(bit: u8) -> FieldKind {
    FieldKind::Bits {
        header: Header::Tcp,
        offset: 13,
        bytes: 1,
        shift: bit,
        mask: 1,
    }
}

const fn ctx(xdp: Option<(u16, u8)>, skb: Option<(u16, u8)>) -> FieldKind {
    FieldKind::Context { xdp, skb }
}

fields! {
    "eth.src" Mac, Hooks::PACKET, FieldKind::MacAt { header: Header::Eth, offset: 6 }, "source MAC address";
    "eth.dst" Mac, Hooks::PACKET, FieldKind::MacAt { header: Header::Eth, offset: 0 }, "destination MAC address";
    "eth.type" U16, Hooks::PACKET, FieldKind::Parsed(Parsed::EthType), "EtherType after VLAN tags";
    "vlan.id" U16, Hooks::PACKET, FieldKind::Parsed(Parsed::VlanId), "VLAN id of the outer tag";
    "vlan.prio" U8, Hooks::PACKET, FieldKind::Parsed(Parsed::VlanPrio), "priority of the outer tag";
    "arp.op" U16, Hooks::PACKET, at(Header::Arp, 6, 2), "ARP operation: 1 request, 2 reply";
    "arp.sip" Inet, Hooks::PACKET, FieldKind::Inet4At { header: Header::Arp, offset: 14 }, "sender's IPv4 address";
    "arp.dip" Inet, Hooks::PACKET, FieldKind::Inet4At { header: Header::Arp, offset: 24 }, "target's IPv4 address";
    "arp.smac" Mac, Hooks::PACKET, FieldKind::MacAt { header: Header::Arp, offset: 8 }, "sender's MAC address";
    "ip.src" Inet, Hooks::PACKET, FieldKind::Parsed(Parsed::IpSrc), "source address, either family";
    "ip.dst" Inet, Hooks::PACKET, FieldKind::Parsed(Parsed::IpDst), "destination address, either family";
    "ip.version" U8, Hooks::PACKET, FieldKind::Parsed(Parsed::IpVersion), "4 or 6";
    "ip.proto" U8, Hooks::PACKET, FieldKind::Parsed(Parsed::IpProto), "protocol, after IPv6 extension headers";
    "ip.ttl" U8, Hooks::PACKET, FieldKind::Parsed(Parsed::IpTtl), "time to live, or hop limit";
    "ip.tos" U8, Hooks::PACKET, FieldKind::Parsed(Parsed::IpTos), "type of service, or traffic class";
    "ip.len" U32, Hooks::PACKET, FieldKind::Parsed(Parsed::IpLen), "length of the IP packet with its headers, in bytes";
    "ip4.src" Inet, Hooks::PACKET, FieldKind::Inet4At { header: Header::Ip4, offset: 12 }, "IPv4 source address";
    "ip4.dst" Inet, Hooks::PACKET, FieldKind::Inet4At { header: Header::Ip4, offset: 16 }, "IPv4 destination address";
    "ip4.ttl" U8, Hooks::PACKET, at(Header::Ip4, 8, 1), "IPv4 time to live";
    "ip4.tos" U8, Hooks::PACKET, at(Header::Ip4, 1, 1), "IPv4 type of service";
    "ip4.len" U16, Hooks::PACKET, at(Header::Ip4, 2, 2), "IPv4 total length in bytes";
    "ip4.id" U16, Hooks::PACKET, at(Header::Ip4, 4, 2), "IPv4 identification";
    "ip4.frag" U16, Hooks::PACKET, bits(Header::Ip4, 6, 2, 0, 0x1fff), "fragment offset in units of 8 bytes";
    "ip4.proto" U8, Hooks::PACKET, at(Header::Ip4, 9, 1), "IPv4 protocol";
    "ip6.src" Inet, Hooks::PACKET, FieldKind::Inet6At { header: Header::Ip6, offset: 8 }, "IPv6 source address";
    "ip6.dst" Inet, Hooks::PACKET, FieldKind::Inet6At { header: Header::Ip6, offset: 24 }, "IPv6 destination address";
    "ip6.hop_limit" U8, Hooks::PACKET, at(Header::Ip6, 7, 1), "IPv6 hop limit";
    "ip6.flow_label" U32, Hooks::PACKET, bits(Header::Ip6, 0, 4, 0, 0xf_ffff), "IPv6 flow label";
    "tcp.sport" U16, Hooks::PACKET, at(Header::Tcp, 0, 2), "TCP source port";
    "tcp.dport" U16, Hooks::PACKET, at(Header::Tcp, 2, 2), "TCP destination port";
    "tcp.seq" U32, Hooks::PACKET, at(Header::Tcp, 4, 4), "sequence number";
    "tcp.ack" U32, Hooks::PACKET, at(Header::Tcp, 8, 4), "acknowledgement number";
    "tcp.window" U16, Hooks::PACKET, at(Header::Tcp, 14, 2), "receive window, unscaled";
    "tcp.hdr_len" U8, Hooks::PACKET, FieldKind::Parsed(Parsed::TcpHdrLen), "length of the TCP header in bytes";
    "tcp.flags" U8, Hooks::PACKET, at(Header::Tcp, 13, 1), "all flags as a number";
    "tcp.flags.fin" Bool, Hooks::PACKET, flag(0), "FIN";
    "tcp.flags.syn" Bool, Hooks::PACKET, flag(1), "SYN";
    "tcp.flags.rst" Bool, Hooks::PACKET, flag(2), "RST";
    "tcp.flags.psh" Bool, Hooks::PACKET, flag(3), "PSH";
    "tcp.flags.ack" Bool, Hooks::PACKET, flag(4), "ACK";
    "tcp.flags.urg" Bool, Hooks::PACKET, flag(5), "URG";
    "tcp.flags.ece" Bool, Hooks::PACKET, flag(6), "ECE";
    "tcp.flags.cwr" Bool, Hooks::PACKET, flag(7), "CWR";
    "tcp.fin" Bool, Hooks::PACKET, flag(0), "short for `tcp.flags.fin`";
    "tcp.syn" Bool, Hooks::PACKET, flag(1), "short for `tcp.flags.syn`";
    "tcp.rst" Bool, Hooks::PACKET, flag(2), "short for `tcp.flags.rst`";
    "tcp.psh" Bool, Hooks::PACKET, flag(3), "short for `tcp.flags.psh`";
    "udp.sport" U16, Hooks::PACKET, at(Header::Udp, 0, 2), "UDP source port";
    "udp.dport" U16, Hooks::PACKET, at(Header::Udp, 2, 2), "UDP destination port";
    "udp.len" U16, Hooks::PACKET, at(Header::Udp, 4, 2), "UDP length with its header, in bytes";
    "sctp.sport" U16, Hooks::PACKET, at(Header::Sctp, 0, 2), "SCTP source port";
    "sctp.dport" U16, Hooks::PACKET, at(Header::Sctp, 2, 2), "SCTP destination port";
    "port.src" U16, Hooks::PACKET, FieldKind::Parsed(Parsed::PortSrc), "source port of TCP, UDP or SCTP";
    "port.dst" U16, Hooks::PACKET, FieldKind::Parsed(Parsed::PortDst), "destination port of TCP, UDP or SCTP";
    "icmp.type" U8, Hooks::PACKET, at(Header::Icmp, 0, 1), "ICMP type";
    "icmp.code" U8, Hooks::PACKET, at(Header::Icmp, 1, 1), "ICMP code";
    "icmp6.type" U8, Hooks::PACKET, at(Header::Icmp6, 0, 1), "ICMPv6 type";
    "icmp6.code" U8, Hooks::PACKET, at(Header::Icmp6, 1, 1), "ICMPv6 code";
    "pkt.len" U32, Hooks::PACKET, FieldKind::PacketLen, "length of the frame in bytes";
    "pkt.segs" U32, Hooks::PACKET, FieldKind::Segments, "packets on the wire: segments of a GSO packet, else 1";
    "pkt.ifindex" U32, Hooks::PACKET, ctx(Some((12, 4)), Some((40, 4))), "interface number";
    "pkt.queue" U32, Hooks::PACKET, ctx(Some((16, 4)), Some((12, 4))), "receive queue";
    "skb.mark" U32, Hooks::TC, ctx(None, Some((8, 4))), "firewall mark";
    "skb.priority" U32, Hooks::TC, ctx(None, Some((32, 4))), "queueing priority";
    "skb.hash" U32, Hooks::TC, ctx(None, Some((68, 4))), "flow hash";
    "skb.queue" U32, Hooks::TC, ctx(None, Some((12, 4))), "queue mapping";
    "skb.tstamp" U64, Hooks::TC, ctx(None, Some((152, 8))), "time stamp in nanoseconds";
}

/// Words that can stand before the dot of a packet field.
#[must_use]
pub fn is_header_word(word: &str) -> bool {
    FIELDS.iter().any(|f| f.name.split('.').next() == Some(word))
}

#[must_use]
pub fn builtin(name: &str) -> Option<&'static Builtin> {
    BUILTINS.iter().find(|b| b.name == name)
}

#[must_use]
pub fn function(name: &str) -> Option<&'static Function> {
    FUNCTIONS.iter().find(|f| f.name == name)
}

/// Returns the index into [`FIELDS`].
#[must_use]
pub fn field(name: &str) -> Option<usize> {
    FIELDS.iter().position(|f| f.name == name)
}

/// Returns the header whose presence `has(word)` asks for.
#[must_use]
pub fn header(word: &str) -> Option<Header> {
    Some(match word {
        "eth" => Header::Eth,
        "vlan" => Header::Vlan,
        "arp" => Header::Arp,
        "ip" => Header::Ip,
        "ip4" => Header::Ip4,
        "ip6" => Header::Ip6,
        "tcp" => Header::Tcp,
        "udp" => Header::Udp,
        "sctp" => Header::Sctp,
        "port" => Header::Port,
        "icmp" => Header::Icmp,
        "icmp6" => Header::Icmp6,
        _ => return None,
    })
}

/// A probe type: the first part of an attach point.
#[derive(Debug)]
pub struct Provider {
    pub name: &'static str,
    /// Other spellings that mean the same.
    pub aliases: &'static [&'static str],
    pub form: &'static str,
    pub hook: Hook,
    pub doc: &'static str,
}

/// Every probe type.
pub static PROVIDERS: &[Provider] = &[
    Provider {
        name: "begin",
        aliases: &["BEGIN"],
        form: "begin",
        hook: Hook::RunOnce,
        doc: "once, before anything is attached",
    },
    Provider {
        name: "end",
        aliases: &["END"],
        form: "end",
        hook: Hook::RunOnce,
        doc: "once, after everything is detached",
    },
    Provider {
        name: "self",
        aliases: &[],
        form: "self:signal:NAME",
        hook: Hook::RunOnce,
        doc: "when weir itself receives the signal",
    },
    Provider {
        name: "interval",
        aliases: &["i"],
        form: "interval:s:N | ms:N | us:N | hz:N | interval:10ms",
        hook: Hook::PerfEvent,
        doc: "regularly, on one CPU",
    },
    Provider {
        name: "profile",
        aliases: &["p"],
        form: "profile:hz:N | s:N | ms:N | us:N",
        hook: Hook::PerfEvent,
        doc: "regularly, on every CPU",
    },
    Provider {
        name: "tracepoint",
        aliases: &["t"],
        form: "tracepoint:CATEGORY:NAME",
        hook: Hook::Tracepoint,
        doc: "a static event of the kernel",
    },
    Provider {
        name: "kprobe",
        aliases: &["k"],
        form: "kprobe:[MODULE:]FUNCTION[+OFFSET]",
        hook: Hook::Kprobe,
        doc: "entry of a kernel function",
    },
    Provider {
        name: "kretprobe",
        aliases: &["kr"],
        form: "kretprobe:[MODULE:]FUNCTION",
        hook: Hook::Kretprobe,
        doc: "return of a kernel function",
    },
    Provider {
        name: "xdp",
        aliases: &[],
        form: "xdp:IFACE[:native|generic|offload]",
        hook: Hook::Xdp,
        doc: "every packet that an interface receives, before the stack",
    },
    Provider {
        name: "tc",
        aliases: &[],
        form: "tc:IFACE:ingress|egress (or from_pod|to_pod)",
        hook: Hook::Tc,
        doc: "every packet into or out of an interface, as sk_buff",
    },
];

/// Finds a probe type; names are case-insensitive, as in bpftrace.
#[must_use]
pub fn provider(name: &str) -> Option<&'static Provider> {
    PROVIDERS
        .iter()
        .find(|p| p.name.eq_ignore_ascii_case(name) || p.aliases.iter().any(|a| a.eq_ignore_ascii_case(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_within_a_table() {
        fn unique<'a>(names: impl Iterator<Item = &'a str>) {
            let mut seen = std::collections::HashSet::new();
            for name in names {
                assert!(seen.insert(name), "`{name}` is declared twice");
            }
        }
        unique(BUILTINS.iter().map(|b| b.name));
        unique(FUNCTIONS.iter().map(|f| f.name));
        unique(FIELDS.iter().map(|f| f.name));
        unique(PROVIDERS.iter().map(|p| p.name));
    }

    #[test]
    fn every_builtin_missing_somewhere_says_what_to_use_instead() {
        for b in BUILTINS.iter().filter(|b| b.hooks != Hooks::ALL) {
            assert!(!b.instead.is_empty(), "{}", b.name);
        }
    }
}
