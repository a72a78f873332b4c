//! The identity enforcer: which pod may talk to whom. cgroup hooks and TC.

pub use crate::HEARTBEAT;
pub use crate::abi::identity::*;

/// The object file: little-endian BPF ELF with BTF, 16-byte aligned.
pub static OBJECT: std::sync::LazyLock<crate::Object> = crate::packed::object!("identity");

/// On `sock_create`: a new socket gets its maker's identity.
pub const CREATE: &str = "identity_create";
/// On `connect4`, and so on: an older socket gets its user's identity.
pub const CONNECT4: &str = "identity_connect4";
/// As [`CONNECT4`].
pub const CONNECT6: &str = "identity_connect6";
/// As [`CONNECT4`].
pub const SENDMSG4: &str = "identity_sendmsg4";
/// As [`CONNECT4`].
pub const SENDMSG6: &str = "identity_sendmsg6";
/// On `setsockopt`: refuses other values in our bits of `SO_MARK`.
pub const SETSOCKOPT: &str = "identity_setsockopt";
/// At TC ingress of a pod's interface: what it sends.
pub const FROM_POD_PROGRAM: &str = "identity_from_pod";
/// At TC egress: what is sent to it.
pub const TO_POD_PROGRAM: &str = "identity_to_pod";

/// Hash `u64` cgroup id → `u32` identity, as it lies in a mark. A cgroup below one with an identity has it, too.
pub const CGROUPS: &str = "CGROUPS";
/// LRU hash `u64` cgroup id → `u32`: what the programs have found out about ancestors. User space clears it when `CGROUPS` changes.
pub const KNOWN: &str = "KNOWN";
/// Hash `u32` interface index → `u32` identity of the pod behind it.
pub const IFACES: &str = "IFACES";
/// Array of [`Rule`], two halves of [`RODATA_HALF`] each.
pub const RULES: &str = "RULES";
/// Array with one [`Policy`].
pub const POLICY: &str = "POLICY";
/// LRU hash [`Question`] → [`Answer`].
pub const CACHE: &str = "CACHE";
/// LRU hash [`Flow`] → [`FROM_POD`] or [`TO_POD`].
pub const FLOWS: &str = "FLOWS";
/// Per-CPU array [`PacketsBytes`](crate::PacketsBytes), indexed by [`Rule::rule`].
pub const VERDICTS: &str = "VERDICTS";
/// LRU per-CPU hash [`Denied`] → [`PacketsBytes`](crate::PacketsBytes).
pub const DENIED: &str = "DENIED";
/// Per-CPU array `u32` → `u64`, indexed by the `STAT_*` constants.
pub const STATS_MAP: &str = "STATS";
/// Hash `u32` identity → its name, zeros behind it.
pub const NAMES: &str = "NAMES";
/// Array of rules' names, indexed by [`Rule::rule`].
pub const RULE_NAMES: &str = "RULE_NAMES";
/// Per-CPU array with one [`EventRecord`].
pub const EVENT: &str = "EVENT";
/// Program array, indexed by the `SLOT_*` constants.
pub const EVENTS: &str = "EVENTS";

/// Per-CPU array with one element, for the programs alone.
pub const SCRATCH: &str = "SCRATCH";

/// `.rodata` `u32`: [`ENFORCE_FROM_POD`], [`ENFORCE_TO_POD`] or both; the other direction is only watched.
pub const RODATA_ENFORCE: &str = "ENFORCE";
/// `.rodata` `u32`: our bits of a mark.
pub const RODATA_MASK: &str = "MASK";
/// `.rodata` `u32`: elements of a half of `RULES`.
pub const RODATA_HALF: &str = "HALF";
/// `.rodata` `u32`: 1 = drop what is not known; default 0.
pub const RODATA_DENY_UNKNOWN: &str = "DENY_UNKNOWN";
/// `.rodata` `u32`: 1 = count and report, but let everything pass; default 0.
pub const RODATA_DRY_RUN: &str = "DRY_RUN";
/// `.rodata` `u32`: 1 = fill `EVENT` and tail-call [`SLOT_DENY`]; default 0.
pub const RODATA_ON_DENY: &str = "ON_DENY";
/// `.rodata` `u32`: the same for [`SLOT_ALLOW`].
pub const RODATA_ON_ALLOW: &str = "ON_ALLOW";
/// `.rodata` `u32`: the same for [`SLOT_UNKNOWN`].
pub const RODATA_ON_UNKNOWN: &str = "ON_UNKNOWN";
/// `.rodata` `u32`: 1 = let everything pass when `HEARTBEAT` is older than ten seconds; default 0.
pub const RODATA_NEEDS_HEARTBEAT: &str = "NEEDS_HEARTBEAT";

/// Every map of the object.
pub const MAPS: &[&str] = &[
    CGROUPS, KNOWN, IFACES, RULES, POLICY, CACHE, FLOWS, VERDICTS, DENIED, STATS_MAP, NAMES, RULE_NAMES, EVENT, EVENTS, HEARTBEAT, SCRATCH,
];
/// Every setting of the object.
pub const RODATA: &[&str] = &[
    RODATA_ENFORCE,
    RODATA_MASK,
    RODATA_HALF,
    RODATA_DENY_UNKNOWN,
    RODATA_DRY_RUN,
    RODATA_ON_DENY,
    RODATA_ON_ALLOW,
    RODATA_ON_UNKNOWN,
    RODATA_NEEDS_HEARTBEAT,
    crate::RODATA_IP_FIRST,
];
