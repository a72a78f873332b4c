//! The declaration of `flows`.

use crate::decl::{
    Attach, Column, EventDecl, EventVar, EventVarType, Hook, IFACE_DOC, KeyShape, MapDecl, MapShape, Native, ONLY_WATCHES, ParamDecl,
    ParamType, ProgramDecl, Room, Writable,
};
use std::mem::{offset_of, size_of};
use weir_ebpf_builtins::flows::{self as object, Event};

pub static FLOWS: Native = Native {
    name: "flows",
    summary: "what flows there are: packets, bytes, flags, retransmits, round-trip time (TC, XDP)",
    doc: "\
Packets are added up in the kernel, by addresses, ports, protocol, VLAN, interface and direction; each direction of a connection is a \
flow of its own. IPv4 and IPv6, behind up to two VLAN tags (the outer one counts) and IPv6 extension headers. Fragments belong to the flow \
of their first fragment; where that was not seen, to one without ports. Packets are those on the wire, before the host puts them together \
and after it cuts them up, bytes are those of frames. Nothing is dropped or changed.

No flow is lost without a word. When `max` flows are there, packets of others are handed to user space one by one (`unlisted`); where that is \
too slow, they are counted as `overflow`. What is live, exported and overflow is what was sent, to the packet. From 80 % of `max` on, idle \
flows end sooner.

A flow ends when it was `idle` for so long, soon after a FIN or a reset, or when weir ends; one that goes on is reported every `active`. With \
`export` each such report is a line of JSON, named after the information elements of IPFIX: \
`sourceIPv4Address`, `packetDeltaCount` (since the last report of this flow), `octetDeltaCount` (IP), `layer2OctetDeltaCount` (frames, as in \
`.flows`), `tcpControlBits`, `flowEndReason` (1 idle, 2 active, 3 end of flow, 4 weir has ended, 5 no room) and so on. Names of our own: \
`retransmittedSegments`, `retransmitsKnownBy`, `smoothedRttMicroseconds`, `processName`, `processId`, `podDirection`. \
What is made anew when the file was moved away is opened as at the start, by symbolic links, too: nobody else should be able to write in its \
folder.

Of connections whose sender is on this host, pods included, the kernel's socket tells retransmits and round-trip time. Retransmits of \
forwarded flows are an estimate by sequence numbers: packets that overtook each other are among them.

The process is the one that has the socket of the sender open, or has closed it; of what comes from elsewhere, the one that has the \
receiver's, if it sends anything back through this interface. `kernel`, with a pid of 0, is the kernel itself: a reset from a port where nobody \
listens, or by a rule of the firewall, answers to pings, neighbour discovery, tunnels. `?` is a socket of which no process is known: one that \
its peer has closed before it was accepted, say, or one of MPTCP. `-` is nobody here: no socket was seen. `kernel` and `?` are words of \
`retransmits`, too, but in its events `comm` is empty instead of `?`.

On the host's side of a pod's interface, ingress is what the pod sends (from_pod), and egress what it gets (to_pod).

It decides nothing, so there is no `dry_run`, no `duration` and no `pin` as natives have that do, and no audit log: `--timeout 5m`, or \
`interval:m:5 { exit(); }`, ends the run.",
    example: "\
use flows(iface=\"veth0\") as fl;
fl:new /fl.dport == 443/ { @new[fl.src] = count(); }
interval:s:1 { print(@fl, 5); }
",
    programs: &[
        ProgramDecl {
            symbol: object::INGRESS,
            attach: Attach::TcIngress,
            when: &[("hook", &["tc"]), ("direction", &["both", "ingress", "from_pod"])],
        },
        ProgramDecl {
            symbol: object::EGRESS,
            attach: Attach::TcEgress,
            when: &[("hook", &["tc"]), ("direction", &["both", "egress", "to_pod"])],
        },
        ProgramDecl {
            symbol: object::XDP,
            attach: Attach::Xdp,
            when: &[("hook", &["xdp"])],
        },
        ProgramDecl {
            symbol: object::OPEN_SOCKETS,
            attach: Attach::Iter("task_file"),
            when: &[("hook", &["tc"])],
        },
        ProgramDecl {
            symbol: object::CLOSED_SOCKETS,
            attach: Attach::Cgroup("sock_release"),
            when: &[("hook", &["tc"])],
        },
    ],
    params: PARAMS,
    maps: MAPS,
    events: EVENTS,
    event_size: size_of::<Event>() as u32,
    without: ONLY_WATCHES,
    apart: &[],
};

/// Default of `max`.
pub const MAX_DEFAULT: u64 = 1 << 16;
/// Default of `idle`, nanoseconds.
pub const IDLE_DEFAULT: u64 = 15_000_000_000;
/// Default of `active`, nanoseconds.
pub const ACTIVE_DEFAULT: u64 = 30 * 60_000_000_000;

static PARAMS: &[ParamDecl] = &[
    ParamDecl {
        name: "iface",
        ty: ParamType::Iface,
        required: true,
        default: "",
        doc: IFACE_DOC,
    },
    ParamDecl {
        name: "hook",
        ty: ParamType::Choice(&["tc", "xdp"]),
        required: false,
        default: "\"tc\"",
        doc: "`xdp` sees what comes in before anything else does, and nothing of what goes out or of sockets",
    },
    ParamDecl {
        name: "direction",
        ty: ParamType::Choice(&["both", "ingress", "egress", "from_pod", "to_pod"]),
        required: false,
        default: "\"both\"",
        doc: "one direction only. On the host's side of a pod's interface `from_pod` is ingress, `to_pod` egress",
    },
    ParamDecl {
        name: "max",
        ty: ParamType::Int { min: 1, max: 1 << 22 },
        required: false,
        default: "65536",
        doc: "how many flows can be live at a time; each takes about 250 bytes of the kernel's memory",
    },
    ParamDecl {
        name: "idle",
        ty: ParamType::Duration { min_ns: 1_000_000_000 },
        required: false,
        default: "15s",
        doc: "a flow ends when it had no packet for so long",
    },
    ParamDecl {
        name: "active",
        ty: ParamType::Duration { min_ns: 1_000_000_000 },
        required: false,
        default: "30m",
        doc: "a flow that goes on is reported so often, unless it had no packet since",
    },
    ParamDecl {
        name: "export",
        ty: ParamType::Path { none: Some("off") },
        required: false,
        default: "\"off\"",
        doc: "file that reports are appended to, a line of JSON each, and that is made anew when it was moved away; `-` is standard output",
    },
];

/// Names of the numbers of `.stats`.
pub const STATS: &[&str] = &[
    "flows",
    "max",
    "live_packets",
    "live_bytes",
    "exported_flows",
    "exported_packets",
    "exported_bytes",
    "unlisted",
    "overflow",
    "overflow_bytes",
    "non_ip",
    "malformed",
    "stray_fragments",
];

const FLOW_COLUMNS: &[Column] = &[
    Column::count("packets"),
    Column::count("bytes"),
    Column::text("flags"),
    Column::count("retransmits"),
    Column::text("known_by"),
    Column::count("rtt_us"),
    Column::text("process"),
    Column::count("pid"),
    Column::count("vlan"),
    Column::count("age_s"),
];

static MAPS: &[MapDecl] = &[
    MapDecl {
        name: "flows",
        symbols: &[],
        shape: MapShape::Table {
            key: KeyShape::FlowAt,
            columns: FLOW_COLUMNS,
            spare: &["known_by", "age_s", "vlan", "pid", "flags", "direction", "packets"],
        },
        levels: &[],
        writable: Writable::Entries,
        room: Room::Param("max", 1),
        doc: "the live ones, most bytes last. `flags` that were seen, of CEUAPRSF; `known_by` says where `retransmits` are from, `kernel` or \
              `estimate`; `rtt_us` only of senders on this host; `process` may be `kernel`, `?` or `-`, as told above. To clear it ends all flows, to delete an entry that flow",
    },
    MapDecl {
        name: "stats",
        symbols: &[],
        shape: MapShape::Known(STATS),
        levels: &["flows", "max", "live_packets", "live_bytes"],
        writable: Writable::No,
        room: Room::Fixed(STATS.len() as u32),
        doc: "how many flows are live, of `max`; packets and bytes of live flows that no report has yet, and those of reports; `unlisted`, \
              packets that found no room among the flows, and are reported all the same; `overflow`, those that are not. Beside these: \
              packets that are not IP, or cut off, and fragments whose first was not seen",
    },
];

static EVENTS: &[EventDecl] = &[
    event(
        "new",
        object::SLOT_NEW,
        "the first packet of a flow. A packet has one event: of a flow that begins with a reset, say, `rst` where a block is there for it",
    ),
    event("close", object::SLOT_CLOSE, "the first FIN: the sender has sent all"),
    event("rst", object::SLOT_RST, "a reset"),
    event("retransmit", object::SLOT_RETRANSMIT, "`segs` segments were sent again"),
];

const fn event(name: &'static str, slot: u32, doc: &'static str) -> EventDecl {
    EventDecl {
        name,
        slot,
        record: 0,
        hook: Hook::Tc,
        decides: false,
        // A flow begins once and ends once.
        each_packet: !matches!(slot, object::SLOT_NEW | object::SLOT_CLOSE),
        vars: VARS,
        doc,
    }
}

const fn var(name: &'static str, offset: usize, ty: EventVarType, doc: &'static str) -> EventVar {
    EventVar {
        name,
        offset: offset as u32,
        ty,
        doc,
    }
}

static VARS: &[EventVar] = &[
    var("flow", offset_of!(Event, flow), EventVarType::Flow, "who to whom"),
    var("src", offset_of!(Event, src), EventVarType::Inet, "the sender's address"),
    var("dst", offset_of!(Event, dst), EventVarType::Inet, "the receiver's address"),
    var("sport", offset_of!(Event, sport), EventVarType::U32, "the sender's port"),
    var("dport", offset_of!(Event, dport), EventVarType::U32, "the receiver's port"),
    var(
        "packets",
        offset_of!(Event, packets),
        EventVarType::U64,
        "of the flow so far, this one included",
    ),
    var("bytes", offset_of!(Event, bytes), EventVarType::U64, "likewise"),
    var(
        "age_ns",
        offset_of!(Event, age_ns),
        EventVarType::U64,
        "nanoseconds since the first packet",
    ),
    var(
        "retransmits",
        offset_of!(Event, retransmits),
        EventVarType::U32,
        "segments sent again so far",
    ),
    var("segs", offset_of!(Event, segs), EventVarType::U32, "segments sent again now"),
    var(
        "rtt_us",
        offset_of!(Event, srtt_us),
        EventVarType::U32,
        "smoothed round-trip time; 0 if the sender is not on this host",
    ),
    var(
        "egress",
        offset_of!(Event, egress),
        EventVarType::U32,
        "1 for what goes out of the interface (to a pod), 0 for what comes in (from a pod)",
    ),
    var(
        "vlan",
        offset_of!(Event, vlan),
        EventVarType::U32,
        "number of the outer VLAN, 0 without one",
    ),
];
