//! Types of values as they lie in memory that both sides see: map keys and values, event arguments.
//!
//! The runtime formats values by these types alone; it never looks at the script. All integers are little-endian
//! (the host's order), addresses are in network order.

use std::fmt;

/// The type of a value in a map or an event record.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Type {
    /// One byte, 0 or 1.
    Bool,
    /// `bits` is 8, 16, 32 or 64; stored in that many bits. Map keys and values made by weir always use 64.
    Int {
        bits: u8,
        signed: bool,
    },
    /// NUL-terminated text in `cap` bytes; text that fills all of it has no NUL and was truncated.
    Str {
        cap: u32,
    },
    /// `u32` length in bytes, then `cap` bytes, padded to 4.
    Buf {
        cap: u32,
    },
    /// IPv4 or IPv6 address, 24 bytes: `u64` address family (`AF_INET` 2, `AF_INET6` 10), then 16 bytes in network
    /// order; an IPv4 address fills the first 4 and the rest is zero.
    Inet,
    /// An address prefix, 24 bytes: `u32` prefix length in bits of its own family, `u32` address family, 16 bytes
    /// in network order as in `Inet`.
    Prefix,
    /// MAC address: 6 bytes in network order, then 2 zero bytes.
    Mac,
    /// Pointer, 8 bytes; `pointee` is the C type for messages (`struct sock`).
    Ptr {
        pointee: String,
    },
    /// An enumeration of the kernel: value in 64 bits, printed by name where it has one.
    Enum {
        name: String,
        values: Vec<(String, i64)>,
    },
    /// 64-bit kernel address, printed as `symbol+offset`.
    KSym,
    /// `u64` address, `u32` pid, `u32` 0.
    USym,
    /// 64-bit id in the stack map: `u32` stack id (negative errno when none), `u32` pid (0 for a kernel stack).
    KStack {
        depth: u32,
        mode: StackMode,
    },
    UStack {
        depth: u32,
        mode: StackMode,
    },
    /// `u64` user id, printed by name.
    Username,
    /// `u64` nanoseconds of the boot clock, printed with `strftime` format.
    Timestamp {
        format: String,
    },
    /// `u64` cgroup v2 id.
    CgroupPath,
    /// `u64` errno, printed as text.
    Strerror,
    /// 5-tuple, 40 bytes: source `Inet` address bytes (16), destination address bytes (16), `u16` source port,
    /// `u16` destination port (host order; 0 when absent), `u8` protocol, `u8` family (2 or 10), `u8` 1 if ports are present, `u8` 0.
    Flow,
    /// Fields in order, each at its own alignment; see [`Type::field_offsets`].
    Tuple(Vec<Type>),
    Record(Vec<(String, Type)>),
    Array {
        elem: Box<Type>,
        len: u32,
    },
    /// A whole struct or union of C, as it lies in memory. `id` is the compiler's number of it.
    Struct {
        name: String,
        id: u32,
        union: bool,
        size: u32,
        fields: Vec<StructField>,
    },
    /// `u64` number of a signal, printed by name.
    SignalName,
    /// `u64` number of a system call, printed by name.
    SyscallName,
    /// `u64` id of a process, printed as its name at that time.
    CommOf,
}

/// One member of a C struct.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StructField {
    pub name: String,
    /// Bytes from the start of the struct.
    pub offset: u32,
    /// Bytes in memory; less than the type's own for an enumeration.
    pub size: u32,
    /// Shift and width of a bitfield in the integer at the offset.
    pub bits: Option<(u8, u8)>,
    pub ty: Type,
}

/// How the frames of a stack are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StackMode {
    /// `symbol+offset`
    Bpftrace,
    /// `address symbol+offset (module)`
    Perf,
    /// `address`
    Raw,
    /// `build-id offset`, of user stacks only
    BuildId,
}

impl StackMode {
    /// Returns the word of the language.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            StackMode::Bpftrace => "bpftrace",
            StackMode::Perf => "perf",
            StackMode::Raw => "raw",
            StackMode::BuildId => "build_id",
        }
    }

    /// Finds a mode by the word of the language.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Some(match name {
            "bpftrace" => StackMode::Bpftrace,
            "perf" => StackMode::Perf,
            "raw" => StackMode::Raw,
            "build_id" => StackMode::BuildId,
            _ => return None,
        })
    }
}

impl Type {
    pub const U64: Type = Type::Int { bits: 64, signed: false };
    pub const I64: Type = Type::Int { bits: 64, signed: true };
    pub const U32: Type = Type::Int { bits: 32, signed: false };

    /// Returns the size in bytes.
    #[must_use]
    pub fn size(&self) -> u32 {
        match self {
            Type::Bool => 1,
            Type::Int { bits, .. } => u32::from(*bits) / 8,
            Type::Str { cap } => *cap,
            Type::Buf { cap } => 4 + cap.next_multiple_of(4),
            Type::Inet | Type::Prefix => 24,
            Type::USym => 16,
            Type::Flow => 40,
            Type::Mac
            | Type::Ptr { .. }
            | Type::Enum { .. }
            | Type::KSym
            | Type::KStack { .. }
            | Type::UStack { .. }
            | Type::Username
            | Type::Timestamp { .. }
            | Type::CgroupPath
            | Type::SignalName
            | Type::SyscallName
            | Type::CommOf
            | Type::Strerror => 8,
            Type::Struct { size, .. } => *size,
            Type::Tuple(_) | Type::Record(_) => {
                let fields = self.fields();
                let end = self
                    .field_offsets()
                    .last()
                    .zip(fields.last())
                    .map_or(0, |(offset, field)| offset + field.size());
                end.next_multiple_of(self.align())
            }
            Type::Array { elem, len } => elem.size() * len,
        }
    }

    /// Returns the alignment in bytes: 1, 2, 4 or 8.
    #[must_use]
    pub fn align(&self) -> u32 {
        match self {
            Type::Bool => 1,
            Type::Int { bits, .. } => u32::from(*bits) / 8,
            Type::Tuple(_) | Type::Record(_) => self.fields().iter().map(|f| f.align()).max().unwrap_or(1),
            _ => 8,
        }
    }

    /// Returns the fields of a tuple or record, else nothing.
    #[must_use]
    pub fn fields(&self) -> Vec<&Type> {
        match self {
            Type::Tuple(fields) => fields.iter().collect(),
            Type::Record(fields) => fields.iter().map(|(_, ty)| ty).collect(),
            _ => Vec::new(),
        }
    }

    /// Returns the byte offset of each field of a tuple or record. Bytes between fields are zero.
    #[must_use]
    pub fn field_offsets(&self) -> Vec<u32> {
        let mut end = 0;
        let mut offsets = Vec::new();
        for field in self.fields() {
            let offset = u32::next_multiple_of(end, field.align());
            offsets.push(offset);
            end = offset + field.size();
        }
        offsets
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Bool => f.write_str("bool"),
            Type::Int { bits, signed: true } => write!(f, "int{bits}"),
            Type::Int { bits, signed: false } => write!(f, "uint{bits}"),
            Type::Str { cap } => write!(f, "string[{cap}]"),
            Type::Buf { cap } => write!(f, "buffer[{cap}]"),
            Type::Inet => f.write_str("inet"),
            Type::Prefix => f.write_str("prefix"),
            Type::Mac => f.write_str("macaddr_t"),
            Type::Ptr { pointee } => write!(f, "{pointee} *"),
            Type::Enum { name, .. } => write!(f, "enum {name}"),
            Type::KSym => f.write_str("ksym_t"),
            Type::USym => f.write_str("usym_t"),
            Type::KStack { .. } => f.write_str("kstack_t"),
            Type::UStack { .. } => f.write_str("ustack_t"),
            Type::Username => f.write_str("username_t"),
            Type::Timestamp { .. } => f.write_str("timestamp"),
            Type::CgroupPath => f.write_str("cgroup_path_t"),
            Type::Strerror => f.write_str("strerror_t"),
            Type::Flow => f.write_str("flow"),
            Type::Tuple(fields) => {
                f.write_str("(")?;
                for (i, field) in fields.iter().enumerate() {
                    if i > 0 {
                        f.write_str(",")?;
                    }
                    write!(f, "{field}")?;
                }
                f.write_str(")")
            }
            Type::Record(fields) => {
                f.write_str("{ ")?;
                for (i, (name, field)) in fields.iter().enumerate() {
                    if i > 0 {
                        f.write_str(", ")?;
                    }
                    write!(f, ".{name} = {field}")?;
                }
                f.write_str(" }")
            }
            Type::Array { elem, len } => write!(f, "{elem}[{len}]"),
            Type::Struct { name, union, .. } => write!(f, "{} {name}", if *union { "union" } else { "struct" }),
            Type::SignalName => f.write_str("signal_t"),
            Type::SyscallName => f.write_str("syscall_t"),
            Type::CommOf => f.write_str("comm_t"),
        }
    }
}

/// What a map of the script holds, with the layout of one value. Per-CPU kinds have one such value a CPU.
///
/// All words are `u64`/`i64`. A *scalar* map (no key) of a plain type carries one more word after the value (at the
/// next multiple of 8): 1 once the script has assigned it, so that an untouched scalar is not printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MapValue {
    Plain(Type),
    /// `{ n }`
    Count,
    /// `{ sum, n }`: `n` is the number of updates.
    Sum {
        signed: bool,
    },
    /// `{ min, n }`: `min` means nothing while `n` is 0.
    Min {
        signed: bool,
    },
    /// `{ max, n }`
    Max {
        signed: bool,
    },
    /// `{ sum, n }`
    Avg {
        signed: bool,
    },
    /// `{ sum, n }`
    Stats {
        signed: bool,
    },
    /// Buckets, see [`MapValue::hist_bucket_count`]. `bits` is the second argument of `hist` (0–5): each power of two is
    /// split into `2^bits` buckets. For `bits` 0: bucket 0 counts negative values, bucket 1 the value 0, bucket
    /// `2 + k` the values with `floor(log2(v)) = k`.
    /// For `bits` > 0: bucket 0 negative values, bucket `1 + v` for `v < 2^bits`, then `2^bits` buckets for each power.
    Hist {
        bits: u8,
    },
    /// Buckets: below `min`, then `(max - min) / step` steps, then `max` and above.
    LHist {
        min: i64,
        max: i64,
        step: i64,
    },
    /// The last `count` intervals of `interval` nanoseconds: `count` times `{ epoch, value, n }`. `epoch` is the number of the interval
    /// since 1970 (0: never written) and has its place at `epoch % count`; `n` is the number of updates, for [`Series::Last`] when it
    /// was written, by the TAI clock.
    TSeries {
        interval: u64,
        count: u32,
        series: Series,
        signed: bool,
    },
}

/// What the values of one interval of a [`MapValue::TSeries`] come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Series {
    Last,
    Avg,
    Max,
    Min,
    Sum,
}

impl Series {
    /// The words of the language; the last value needs none.
    pub const WORDS: [(&'static str, Series); 4] = [
        ("avg", Series::Avg),
        ("max", Series::Max),
        ("min", Series::Min),
        ("sum", Series::Sum),
    ];
}

impl MapValue {
    /// Returns whether the map has one value a CPU, to be combined by the reader.
    #[must_use]
    pub fn is_per_cpu(&self) -> bool {
        !matches!(self, MapValue::Plain(_))
    }

    #[must_use]
    pub fn hist_bucket_count(bits: u8) -> u32 {
        if bits == 0 {
            66
        } else {
            1 + (1 << bits) + (64 - u32::from(bits)) * (1 << bits)
        }
    }

    /// Returns the size of one value in bytes, a multiple of 8 for per-CPU kinds; `scalar` adds the word of a plain scalar.
    #[must_use]
    pub fn size(&self, scalar: bool) -> u32 {
        match self {
            MapValue::Plain(ty) if scalar => ty.size().next_multiple_of(8) + 8,
            MapValue::Plain(ty) => ty.size(),
            MapValue::Count => 8,
            MapValue::Sum { .. } | MapValue::Min { .. } | MapValue::Max { .. } | MapValue::Avg { .. } | MapValue::Stats { .. } => 16,
            MapValue::Hist { bits } => Self::hist_bucket_count(*bits) * 8,
            MapValue::TSeries { count, .. } => count * 24,
            MapValue::LHist { min, max, step } => u32::try_from((max - min) / step + 2).unwrap_or(u32::MAX / 8) * 8,
        }
    }
}

impl fmt::Display for MapValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MapValue::Plain(ty) => write!(f, "{ty}"),
            MapValue::Count => f.write_str("count_t"),
            MapValue::Sum { signed } => f.write_str(if *signed { "sum_t" } else { "usum_t" }),
            MapValue::Min { signed } => f.write_str(if *signed { "min_t" } else { "umin_t" }),
            MapValue::Max { signed } => f.write_str(if *signed { "max_t" } else { "umax_t" }),
            MapValue::Avg { signed } => f.write_str(if *signed { "avg_t" } else { "uavg_t" }),
            MapValue::Stats { signed } => f.write_str(if *signed { "stats_t" } else { "ustats_t" }),
            MapValue::Hist { .. } => f.write_str("hist_t"),
            MapValue::LHist { .. } => f.write_str("lhist_t"),
            MapValue::TSeries { .. } => f.write_str("tseries_t"),
        }
    }
}
