//! The declaration of `retransmits`.

use crate::decl::{
    Attach, Column, EventDecl, EventVar, EventVarType, Hook, KeyShape, MapDecl, MapShape, Native, ONLY_WATCHES, ParamDecl, ParamType,
    ProgramDecl, Room, Writable,
};
use std::mem::{offset_of, size_of};
use weir_ebpf_builtins::retransmits::{self as object, Event};

pub static RETRANSMITS: Native = Native {
    name: "retransmits",
    summary: "who sends TCP segments again, to whom, and how many of all (tracepoints)",
    doc: "\
One line answers who is retransmitting to whom, and whether it is 0.01 % or 5 %: by destination, by process and by connection, \
segments sent with data, those of them sent again, and the ratio, in segments per segment. What counts is the kernel's own counters \
of each socket, so the sum is `RetransSegs` of /proc/net/snmp: tail-loss probes, SYNs, SYN-ACKs and segments that the host itself has \
dropped are in it. The counts of a connection stay when its socket is closed.

Why a segment was sent again: `rto`, the timer ran out; `fast`, the peer's acknowledgements told of the loss; `tlp`, a tail-loss \
probe; `syn`; `synack`; `other`, which includes segments that never left this host on kernels before 6.16, which have no event for them.

`print(@re)` shows what something was sent again of, or reset; where that is nothing, it shows what there is.

SYNs and ACKs without data are not in `sent`, as in `ss -ti` (data_segs_out). Where more was sent again than sent, which are \
SYNs to nobody, the ratio is 100%.

The process is the one that has connected, or that has the socket open; until that is known, of an accepted connection, the one that \
listens; its name is that of its first thread, as in `ss -p`. Who runs when a segment is sent again is a bystander. Connections older than weir count from its start.

All network namespaces are counted, containers' too; the addresses are as each of them sees them. `netns` narrows it to one; \
when that is gone, weir says so, and what was counted stays.

It decides nothing, so there is no `dry_run`, no `duration` and no `pin` as natives have that do, and no audit log: `--timeout 5m`, or \
`interval:m:5 { exit(); }`, ends the run.",
    example: "\
use retransmits() as re;
re:retransmit { @[re.dst, re.kind] = sum(re.segs); }
interval:s:1 { print(@re); }
",
    programs: &[
        program(object::STATE, Attach::RawTracepoint("inet_sock_set_state")),
        program(object::RETRANSMIT, Attach::RawTracepoint("tcp_retransmit_skb")),
        program(object::SYNACK, Attach::RawTracepoint("tcp_retransmit_synack")),
        program(object::RESET_IN, Attach::RawTracepoint("tcp_receive_reset")),
        program(object::RESET_OUT, Attach::RawTracepoint("tcp_send_reset")),
        program(object::OPEN_SOCKETS, Attach::Iter("task_file")),
    ],
    params: PARAMS,
    maps: MAPS,
    events: EVENTS,
    event_size: size_of::<Event>() as u32,
    without: ONLY_WATCHES,
    apart: &[],
};

const fn program(symbol: &'static str, attach: Attach) -> ProgramDecl {
    ProgramDecl { symbol, attach, when: &[] }
}

/// Default of `max`.
pub const MAX_DEFAULT: u64 = 1 << 16;
/// Default of `max_destinations`.
pub const MAX_DESTINATIONS_DEFAULT: u64 = 1 << 14;
/// Default of `keep`.
pub const KEEP_DEFAULT: u64 = 1000;

static PARAMS: &[ParamDecl] = &[
    ParamDecl {
        name: "netns",
        ty: ParamType::Text,
        required: false,
        default: "all",
        doc: "count connections of this network namespace only: a name of `ip netns`, a pid, or a path",
    },
    ParamDecl {
        name: "max",
        ty: ParamType::Int { min: 1, max: 1 << 24 },
        required: false,
        default: "65536",
        doc: "how many connections can be open at a time; what others send again is counted as `untracked`",
    },
    ParamDecl {
        name: "max_destinations",
        ty: ParamType::Int { min: 1, max: 1 << 24 },
        required: false,
        default: "16384",
        doc: "how many peers SYN-ACKs and resets are counted for",
    },
    ParamDecl {
        name: "keep",
        ty: ParamType::Int { min: 0, max: 1 << 24 },
        required: false,
        default: "1000",
        doc: "how many closed connections `.connections` shows, the latest; destinations and processes keep their counts anyway",
    },
];

/// Names of the numbers of `.stats`.
pub const STATS: &[&str] = &[
    "retransmits",
    "rto",
    "fast",
    "tlp",
    "syn",
    "synack",
    "other",
    "resets_in",
    "resets_out",
    "connections",
    "max",
    "untracked",
];

const DESTINATION_COLUMNS: &[Column] = &[
    Column::count("retransmits"),
    Column::count("sent"),
    Column::text("ratio"),
    Column::count("rto"),
    Column::count("fast"),
    Column::count("tlp"),
    Column::count("syn"),
    Column::count("synack"),
    Column::count("other"),
    Column::count("resets_in"),
    Column::count("resets_out"),
];

const PROCESS_COLUMNS: &[Column] = &[
    Column::count("retransmits"),
    Column::count("sent"),
    Column::text("ratio"),
    Column::count("resets_in"),
    Column::count("resets_out"),
];

const CONNECTION_COLUMNS: &[Column] = &[
    Column::count("retransmits"),
    Column::count("sent"),
    Column::text("ratio"),
    Column::count("rto"),
    Column::count("fast"),
    Column::count("tlp"),
    Column::count("syn"),
    Column::text("state"),
    Column::count("pid"),
    Column::text("process"),
];

static MAPS: &[MapDecl] = &[
    MapDecl {
        name: "destinations",
        symbols: &[],
        shape: MapShape::Table {
            key: KeyShape::Address,
            columns: DESTINATION_COLUMNS,
            spare: &["other", "synack", "syn", "tlp", "fast", "rto"],
        },
        levels: &[],
        writable: Writable::Whole,
        room: Room::Fixed(1 << 16),
        doc: "by the peer's address, most retransmits last; the `synack` are not in `sent`",
    },
    MapDecl {
        name: "processes",
        symbols: &[],
        shape: MapShape::Table {
            key: KeyShape::Text("process"),
            columns: PROCESS_COLUMNS,
            spare: &[],
        },
        levels: &[],
        writable: Writable::Whole,
        room: Room::Fixed(1 << 14),
        doc: "by the name of the process; `?` for sockets of which none is known: nobody has them open, as after `close`. SYN-ACKs belong to none",
    },
    MapDecl {
        name: "connections",
        symbols: &[],
        shape: MapShape::Table {
            key: KeyShape::Flow,
            columns: CONNECTION_COLUMNS,
            spare: &["pid", "syn", "tlp", "fast", "rto", "state"],
        },
        levels: &[],
        writable: Writable::Whole,
        room: Room::Param("max", 2),
        doc: "open ones, and the last `keep` that are closed (state `CLOSE`), seen from this host",
    },
    MapDecl {
        name: "stats",
        symbols: &[],
        shape: MapShape::Known(STATS),
        levels: &["connections", "max"],
        writable: Writable::Whole,
        room: Room::Fixed(STATS.len() as u32),
        doc: "all segments sent again, and of which kind; resets; how many connections are open, of `max`; `untracked` are those of \
              `retransmits` that belong to no row, for want of room (`max`). To clear one map clears all of them",
    },
];

static EVENTS: &[EventDecl] = &[
    EventDecl {
        name: "retransmit",
        slot: object::SLOT_RETRANSMIT,
        record: object::SLOT_RETRANSMIT,
        hook: Hook::Trace,
        decides: false,
        each_packet: true,
        vars: VARS,
        doc: "a segment of a connection is sent again",
    },
    EventDecl {
        name: "synack",
        slot: object::SLOT_SYNACK,
        record: object::SLOT_SYNACK,
        hook: Hook::Trace,
        decides: false,
        each_packet: true,
        vars: VARS,
        doc: "a SYN-ACK is sent again; `comm` and `pid` are of the process that listens",
    },
    EventDecl {
        name: "reset_in",
        slot: object::SLOT_RESET_IN,
        record: object::SLOT_RESET_IN,
        hook: Hook::Trace,
        decides: false,
        each_packet: true,
        vars: VARS,
        doc: "a connection is reset by its peer",
    },
    EventDecl {
        name: "reset_out",
        slot: object::SLOT_RESET_OUT,
        record: object::SLOT_RESET_OUT,
        hook: Hook::Trace,
        decides: false,
        each_packet: true,
        vars: VARS,
        doc: "a reset is sent; before Linux 6.10 only those of a socket",
    },
];

const fn var(name: &'static str, offset: usize, ty: EventVarType, doc: &'static str) -> EventVar {
    EventVar {
        name,
        offset: offset as u32,
        ty,
        doc,
    }
}

static VARS: &[EventVar] = &[
    var(
        "flow",
        offset_of!(Event, flow),
        EventVarType::Flow,
        "the connection, seen from this host",
    ),
    var("src", offset_of!(Event, src), EventVarType::Inet, "this host's address"),
    var("dst", offset_of!(Event, dst), EventVarType::Inet, "the peer's address"),
    var("sport", offset_of!(Event, sport), EventVarType::U32, "this host's port"),
    var("dport", offset_of!(Event, dport), EventVarType::U32, "the peer's port"),
    var(
        "comm",
        offset_of!(Event, comm),
        EventVarType::Text { cap: 16 },
        "the process of the socket; `kernel` if a reset has none, as from a port where nobody listens; empty if unknown",
    ),
    var("pid", offset_of!(Event, pid), EventVarType::U32, "its pid; 0 if unknown"),
    var(
        "kind",
        offset_of!(Event, kind),
        EventVarType::Text { cap: 8 },
        "`rto`, `fast`, `tlp`, `syn`, `synack` or `other`; empty for resets",
    ),
    var(
        "segs",
        offset_of!(Event, segs),
        EventVarType::U32,
        "how many segments are sent again; 0 for resets",
    ),
    var(
        "total",
        offset_of!(Event, total),
        EventVarType::U32,
        "how many of the connection so far; 0 for resets",
    ),
    var(
        "state",
        offset_of!(Event, state),
        EventVarType::U32,
        "state of the connection: `TCP_ESTABLISHED` …",
    ),
];
