//! The declaration of `identity`.

use crate::decl::{
    Attach, Column, EventDecl, EventVar, EventVarType, Hook, KeyShape, MapDecl, MapShape, Native, ParamDecl, ParamType, ProgramDecl, Room,
    Writable,
};
use std::mem::offset_of;
use weir_ebpf_builtins::identity as object;

pub static IDENTITY: Native = Native {
    name: "identity",
    summary: "decides which pod may talk to whom (cgroup hooks and TC)",
    doc: "\
A policy file names identities (cgroups, or pods of Kubernetes) and rules: who may send what where. It is TOML, or JSON of the same \
shape if its name ends in `.json`:

    default = \"deny\"               # where no rule says anything; deny unless it says allow
    [[identity]]
    name = \"web\"                   # `number` may be given: 1, 2, ...
    pod = \"shop/web-*\"             # NAMESPACE/NAME; or cgroup = \"/path/*\", or members = [\"a\"]
    [[rule]]
    verdict = \"allow\"              # everything else may be left out
    from = \"web\"                   # one or a list; without it everybody, known or not
    to = [\"10.0.0.0/8\", \"db\"]     # prefixes and identities (their pods' addresses)
    port = [5432, \"8000-8080\"]     # the destination's
    proto = \"tcp\"                  # tcp, udp, sctp, icmp, icmpv6
    name = \"database\"              # what `.verdicts` calls it

Of the rules that match, the one with the longest prefix decides, then the one with the fewest ports, then a named protocol, then a named \
sender, then the first in the file. What was decided for a sender, destination, port and protocol is remembered, so the rules cost only \
once.

`iface` is the host side of the pods' interfaces. What a pod sends arrives there as TC ingress, what is sent to it leaves as TC egress: \
`direction` says it from the pod's side. The direction that is not enforced is watched all the same, since replies to what came that \
way pass: an address and port that has been let through once may be answered.

Whom a packet is from: the pod behind the interface it came through; else the cgroup of its socket, the mark of its socket, its own \
mark. To have a mark, every socket of a process with an identity gets its number, at socket(2), and at connect(2) and sendmsg(2) if \
it is older. Only the bits of `mark_mask` are written, and only if they are zero; a value of others in them stays and is counted. \
Processes with an identity cannot set those bits to anything else.

Always let through: ARP and what else is not IP, neighbour discovery, fragments behind the first (worth nothing without it), and \
packets cut off within their headers. What has no known sender, unless a rule for everybody matches, is `unknown`; ICMP errors, resets and \
packets of TCP connections older than the program are `undecided` where the rules would deny them. Both are treated as `unknown` says.

The file is read again when it changes, and put in force all at once; one with a fault in it changes nothing. Who is who is looked up \
about once a second. Rules keep their counters while they keep their names.

The programs are detached when weir ends, and everything may talk to everything again; marks of sockets stay as they are. With \
`pin=\"NAME\"` they stay in force: without weir pods that come have no identity until the next start with that name, which takes over \
the counters and what may be answered, and exchanges the programs so that each packet meets the old policy or the new one.",
    example: "\
use identity(iface=\"veth0\", policy=file(\"policy.toml\"), dry_run=true) as id;
id:deny { @denied[id.sender, ip.dst, port.dst] = count(); }
interval:s:1 { print(@id.verdicts); }
",
    programs: &[
        cgroup(object::CREATE, "sock_create"),
        cgroup(object::CONNECT4, "connect4"),
        cgroup(object::CONNECT6, "connect6"),
        cgroup(object::SENDMSG4, "sendmsg4"),
        cgroup(object::SENDMSG6, "sendmsg6"),
        ProgramDecl {
            symbol: object::SETSOCKOPT,
            attach: Attach::CgroupSetsockopt,
            when: &[],
        },
        ProgramDecl {
            symbol: object::FROM_POD_PROGRAM,
            attach: Attach::TcIngress,
            when: &[],
        },
        ProgramDecl {
            symbol: object::TO_POD_PROGRAM,
            attach: Attach::TcEgress,
            when: &[],
        },
    ],
    params: PARAMS,
    maps: MAPS,
    events: EVENTS,
    event_size: std::mem::size_of::<object::EventRecord>() as u32,
    without: &[
        (
            "default",
            "it is in the policy file: `default = \"deny\"`; `unknown` says what becomes of those whom no identity is known of",
        ),
        ("rules", "they are in the policy file: `policy=file(\"policy.toml\")`"),
        ("hook", "it decides at TC: XDP sees neither the socket nor the cgroup of a packet"),
    ],
    apart: &[],
};

const fn cgroup(symbol: &'static str, hook: &'static str) -> ProgramDecl {
    ProgramDecl {
        symbol,
        attach: Attach::Cgroup(hook),
        when: &[],
    }
}

/// Default of `max`.
pub const MAX_DEFAULT: u64 = 4096;
/// Default of `mark_mask`.
pub const MASK_DEFAULT: u64 = 0xffff;
/// Default of `pods`: where kubelet keeps a directory for each pod.
pub const PODS_DEFAULT: &str = "/var/log/pods";

static PARAMS: &[ParamDecl] = &[
    ParamDecl {
        name: "iface",
        ty: ParamType::Iface,
        required: true,
        default: "",
        doc: "the host side of the pods' interfaces: a name, or a glob for several",
    },
    ParamDecl {
        name: "policy",
        ty: ParamType::File,
        required: true,
        default: "",
        doc: "who is who and who may talk to whom: `file(\"PATH\")`, TOML or JSON",
    },
    ParamDecl {
        name: "direction",
        ty: ParamType::Choice(&["from_pod", "to_pod", "both"]),
        required: false,
        default: "\"from_pod\"",
        doc: "what the rules are for: what pods send (TC ingress of the host's side), what is sent to them (TC egress), or both",
    },
    ParamDecl {
        name: "unknown",
        ty: ParamType::Choice(&["allow", "deny"]),
        required: false,
        default: "\"allow\"",
        doc: "what happens to packets whose sender is not known, and to those that cannot be decided on",
    },
    ParamDecl {
        name: "mark_mask",
        ty: ParamType::Int {
            min: 1,
            max: u32::MAX as u64,
        },
        required: false,
        default: "0xffff",
        doc: "which bits of a mark are ours, side by side; other tools have theirs in the rest",
    },
    ParamDecl {
        name: "dry_run",
        ty: ParamType::Bool,
        required: false,
        default: "false",
        doc: "count and run the event blocks, but drop nothing",
    },
    ParamDecl {
        name: "duration",
        ty: ParamType::Duration { min_ns: 1_000_000_000 },
        required: false,
        default: "none",
        doc: "let everything pass after this time",
    },
    ParamDecl {
        name: "pin",
        ty: ParamType::Name,
        required: false,
        default: "none",
        doc: "a name under which it stays in force when weir ends or is killed, with its counters; the next start with that name takes \
              it over without a gap, `weir status` lists it, `weir reload NAME` reads its files again, `weir stop NAME` ends it",
    },
    ParamDecl {
        name: "max",
        ty: ParamType::Int { min: 1, max: 1 << 20 },
        required: false,
        default: "4096",
        doc: "how many rows the policy may take: each sender, prefix and range of ports of a rule is one",
    },
    ParamDecl {
        name: "pods",
        ty: ParamType::Path { none: None },
        required: false,
        default: "\"/var/log/pods\"",
        doc: "the directory by whose entries, NAMESPACE_NAME_UID, pods are known",
    },
    ParamDecl {
        name: "audit",
        ty: ParamType::Path { none: Some("off") },
        required: false,
        default: "\"/var/log/weir-audit.log\"",
        doc: "file that every change of the policy, its start and its end are appended to as a line of JSON: who, when, what; `\"off\"` for none. A \
              start that takes over a `pin` has what it changes, and no numbers of that where it is not known (another version of weir's)",
    },
];

/// Names of the counters of `.stats`, in the order of the `STAT_*` constants.
pub const STATS: &[&str] = &[
    "allowed",
    "denied",
    "replies",
    "unknown",
    "undecided",
    "fragments",
    "neighbour",
    "non_ip",
    "malformed",
    "watched",
    "foreign_mark",
    "disagree",
    "stamped",
    "refused",
    "uncounted",
];
const _: () = assert!(STATS.len() == object::STATS as usize);

/// Names of the numbers of `.entries`.
pub const ENTRIES: &[&str] = &["identities", "cgroups", "interfaces", "rules", "rows", "max"];

const PACKETS_BYTES: &[Column] = &[Column::count("packets"), Column::count("bytes")];

static MAPS: &[MapDecl] = &[
    MapDecl {
        name: "verdicts",
        symbols: &[],
        shape: MapShape::Table {
            key: KeyShape::Text("rule"),
            columns: PACKETS_BYTES,
            spare: &[],
        },
        levels: &[],
        writable: Writable::Entries,
        room: Room::Param("max", 1),
        doc: "packets and bytes that each rule decided on",
    },
    MapDecl {
        name: "denied",
        symbols: &[],
        shape: MapShape::Table {
            key: KeyShape::Text("who to whom"),
            columns: PACKETS_BYTES,
            spare: &[],
        },
        levels: &[],
        writable: Writable::Entries,
        room: Room::Fixed(16384),
        doc: "what was denied, by sender, destination, port and protocol; what was not seen for long is forgotten",
    },
    MapDecl {
        name: "stats",
        symbols: &[object::STATS_MAP],
        shape: MapShape::Counters(STATS),
        levels: &[],
        writable: Writable::No,
        room: Room::Fixed(STATS.len() as u32),
        doc: "packets by what became of them, each in one counter: `allowed`, `denied` (by rules and by the default), `replies`, `unknown` \
              (no known sender), `undecided`, and let through unjudged: `fragments`, `neighbour`, `non_ip`, `malformed`, `watched` (the \
              direction that is not enforced). Beside these: `foreign_mark` (a value of others in our bits), `disagree` (interface, cgroup \
              and mark name different senders), `stamped` (sockets that got their mark), `refused` (attempts to set another), \
              `uncounted` (those of `denied` that `.denied` had no room for)",
    },
    MapDecl {
        name: "entries",
        symbols: &[],
        shape: MapShape::Known(ENTRIES),
        levels: ENTRIES,
        writable: Writable::No,
        room: Room::Fixed(ENTRIES.len() as u32),
        doc: "how many identities there are, cgroups and interfaces that have one now, rules, and rows of them, of `max`",
    },
];

static EVENTS: &[EventDecl] = &[
    EventDecl {
        name: "deny",
        slot: object::SLOT_DENY,
        record: 0,
        hook: Hook::Tc,
        decides: false,
        each_packet: true,
        vars: VARS,
        doc: "a packet that the policy denies, before it is dropped (with `dry_run`: before it passes)",
    },
    EventDecl {
        name: "allow",
        slot: object::SLOT_ALLOW,
        record: 0,
        hook: Hook::Tc,
        decides: false,
        each_packet: true,
        vars: VARS,
        doc: "a packet that the policy allows; replies are none",
    },
    EventDecl {
        name: "unknown",
        slot: object::SLOT_UNKNOWN,
        record: 0,
        hook: Hook::Tc,
        decides: false,
        each_packet: true,
        vars: VARS,
        doc: "a packet whose sender is not known, or that cannot be decided on",
    },
];

static VARS: &[EventVar] = &[
    EventVar {
        name: "sender",
        offset: offset_of!(object::EventRecord, name) as u32,
        ty: EventVarType::Text {
            cap: object::NAME_WORDS as u32 * 8,
        },
        doc: "the identity it is from; empty if that is not known",
    },
    EventVar {
        name: "rule",
        offset: offset_of!(object::EventRecord, rule_name) as u32,
        ty: EventVarType::Text {
            cap: object::RULE_WORDS as u32 * 8,
        },
        doc: "the rule that decided; empty if none did",
    },
    EventVar {
        name: "from_pod",
        offset: offset_of!(object::EventRecord, from_pod) as u32,
        ty: EventVarType::U32,
        doc: "1 for what a pod sends, 0 for what is sent to it",
    },
];
