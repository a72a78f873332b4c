//! The declaration of `blocklist`.

use crate::decl::{
    Apart, Attach, EventDecl, EventVar, EventVarType, Hook, IFACE_DOC, MapDecl, MapShape, Native, ParamDecl, ParamType, ProgramDecl, Room,
    ValueShape, Writable,
};
use weir_ebpf_builtins::blocklist as object;

pub static BLOCKLIST: Native = Native {
    name: "blocklist",
    summary: "drops packets from, or to, a list of address prefixes (XDP, TC)",
    doc: "\
One longest-prefix lookup for each family, made in the driver before the kernel has spent anything on the packet, or with \
`hook=\"tc\"` behind it: for what goes out, for interfaces whose driver has no XDP, and for those of containers (veth), where TC drops for less. \
IPv4 and IPv6, behind up to two VLAN tags. Fragments are matched like other packets: each of them carries the addresses.

What always passes, whatever the list says: ARP and everything else that is not IP (more than two VLAN tags included; at TC the kernel has taken one out before), \
neighbour discovery (ICMPv6 133 to 137, looked for behind up to eight extension headers), and packets cut off before the \
end of their IP header, its options left aside. So a list that covers the gateway stops its traffic, but does not make the host forget the gateway.

The allow list is looked up first, and a packet on it is not looked up in the block list. With `match=\"either\"` \
the source is looked up before the destination, in the allow list and then in the block list.

At TC a packet that the host has put together of several, or will cut into several, counts as those. What passes goes on to the next program \
there, tcx or clsact; XDP has room for one program an interface. On kernels without tcx, if weir is killed and what cleans up after it, too, \
everything passes ten seconds later.

A file is read again when it has changed: weir notices by itself. What is new in it is added before what is gone is removed, in \
batches, while traffic flows, so that an address that is in the old and in the new list is dropped at every moment. A file with a \
bad line, an empty one, and one that is gone change nothing, and are complained about; to empty a list, leave a comment in its file. One \
that somebody writes is read when it is closed; where that takes longer than five seconds, weir says so, and when it has read it after all.

An entry with a `ttl` ends by itself, somewhat later than that, up to a tenth, so that a list does not end all at once. Each reading \
of the file starts its entries' time again (`touch` is enough).

With `ports` or `proto`, a listed address's other packets pass and count as `passed`. Ports are destination ports; fragments behind \
the first have none and pass with `ports`: without their first fragment they are worth nothing to the receiver.

`.hits` has an entry for a prefix from its first hit on; at most `max_hits` for each family. What came after it was full is \
dropped all the same and counted in `.stats` as `uncounted`. A list of 512 entries of a family, or more, counts beside its entries: each of \
them, whatever `max_hits` says. What an entry has counted stays when it is taken out of the list, for as many as `max_hits`; \
packets of further ones are `uncounted` then.

The program is detached when weir ends, and the list with it, unless it has a name: `pin=\"NAME\"`. Then it stays in force, on the \
interfaces that are there; without weir nothing ends by its `ttl`, and files are read again only by `weir reload NAME`. The next start \
with the name builds its list beside the one in force and then exchanges the programs, so that each packet meets the old list or the \
new one; `.hits` and `.stats` go on. Blocks on events end with their script.",
    example: "\
use blocklist(iface=\"veth0\", prefixes=(192.0.2.0/24, \"2001:db8:bad::/48\")) as bl;
bl:drop { @dropped[ip.src] = count(); }
interval:s:1 { print(@bl.hits, 10); print(@bl.stats); }
",
    programs: &[
        ProgramDecl {
            symbol: object::PROGRAM,
            attach: Attach::Xdp,
            when: &[("hook", &["xdp"])],
        },
        ProgramDecl {
            symbol: object::TC,
            attach: Attach::TcIngress,
            when: &[("hook", &["tc"]), ("direction", &["ingress", "from_pod", "both"])],
        },
        ProgramDecl {
            symbol: object::TC,
            attach: Attach::TcEgress,
            when: &[("hook", &["tc"]), ("direction", &["egress", "to_pod", "both"])],
        },
    ],
    params: PARAMS,
    maps: MAPS,
    events: EVENTS,
    event_size: std::mem::size_of::<weir_ebpf_builtins::EventRecord>() as u32,
    without: &[],
    apart: &[Apart {
        param: "ports",
        with: ("proto", &["icmp"]),
        message: "ICMP has no `ports`: nothing would be dropped",
        help: "leave out `ports` or `proto`",
    }],
};

/// Default of `max`.
pub const MAX_DEFAULT: u64 = 1 << 20;
/// Default of `max_hits`.
pub const MAX_HITS_DEFAULT: u64 = 1 << 16;

static PARAMS: &[ParamDecl] = &[
    ParamDecl {
        name: "iface",
        ty: ParamType::Iface,
        required: true,
        default: "",
        doc: IFACE_DOC,
    },
    ParamDecl {
        name: "prefixes",
        ty: ParamType::Prefixes,
        required: true,
        default: "",
        doc: "what to drop: `file(\"PATH\")` with one address or prefix a line and comments behind `#` or `;`, a list, or `\"-\"` to read such a \
              file from standard input. A line may say how long it lasts: `192.0.2.7 ttl=10m`",
    },
    ParamDecl {
        name: "hook",
        ty: ParamType::Choice(&["xdp", "tc"]),
        required: false,
        default: "\"xdp\"",
        doc: "`tc` for what goes out, where the driver has no XDP, and on interfaces of containers (veth)",
    },
    ParamDecl {
        name: "direction",
        ty: ParamType::Choice(&["ingress", "egress", "both", "from_pod", "to_pod"]),
        required: false,
        default: "\"ingress\"",
        doc: "which way packets go; XDP sees what comes in only (`ingress`, `from_pod`). On the host's side of a pod's interface `from_pod` is ingress, `to_pod` egress",
    },
    ParamDecl {
        name: "mode",
        ty: ParamType::Choice(&["auto", "native", "generic", "offload"]),
        required: false,
        default: "\"auto\"",
        doc: "where XDP runs (not with `hook=\"tc\"`): in the driver, in the kernel's generic code, or in the driver if it can, else generic with a warning",
    },
    ParamDecl {
        name: "match",
        ty: ParamType::Choice(&["src", "dst", "either"]),
        required: false,
        default: "\"src\"",
        doc: "which address of the packet is looked up. With `direction` the default is the far end's: `src` of what comes in (`ingress`) or \
              is sent to a pod (`to_pod`), `dst` of what goes out (`egress`) or a pod sends (`from_pod`), and with `both` it is `either`",
    },
    ParamDecl {
        name: "allow",
        ty: ParamType::Prefixes,
        required: false,
        default: "none",
        doc: "what always passes, as `prefixes`; looked up first",
    },
    ParamDecl {
        name: "proto",
        ty: ParamType::Choice(&["any", "tcp", "udp", "icmp", "sctp"]),
        required: false,
        default: "\"any\"",
        doc: "drop packets of this protocol only; `icmp` is both ICMP and ICMPv6",
    },
    ParamDecl {
        name: "ports",
        ty: ParamType::Ports,
        required: false,
        default: "all",
        doc: "drop packets to these TCP, UDP or SCTP ports only: `443`, `(80, 443, 8000-8080)`",
    },
    ParamDecl {
        name: "ttl",
        ty: ParamType::Duration { min_ns: 1_000_000_000 },
        required: false,
        default: "none",
        doc: "how long an entry of `prefixes` lasts, counted from when its file was last read; a line's own `ttl=` goes before it",
    },
    ParamDecl {
        name: "atomic",
        ty: ParamType::Bool,
        required: false,
        default: "false",
        doc: "put a file's new content in force all at once, at double memory; else new entries come before old ones go",
    },
    ParamDecl {
        name: "protect",
        ty: ParamType::Bool,
        required: false,
        default: "true",
        doc: "refuse a list that covers the default gateway, a resolver, or the peer of an SSH session, unless `allow` has it; and any list where \
              routes or connections cannot be read",
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
        ty: ParamType::Int { min: 1, max: 1 << 26 },
        required: false,
        default: "1048576",
        doc: "capacity in entries of each list and family; a longer list is an error before anything is attached",
    },
    ParamDecl {
        name: "audit",
        ty: ParamType::Path { none: Some("off") },
        required: false,
        default: "\"/var/log/weir-audit.log\"",
        doc: "file that every change of the lists, their start and their end are appended to as a line of JSON: who, when, what; `\"off\"` for none. A \
              start that takes over a `pin` has what it changes, and no numbers of that where it is not known (another version of weir's)",
    },
    ParamDecl {
        name: "max_hits",
        ty: ParamType::Int { min: 1, max: 1 << 24 },
        required: false,
        default: "65536",
        doc: "how many prefixes of each family `.hits` can count beside those that count in a long list; memory is taken on a prefix's first hit",
    },
];

/// Names of the counters of `.stats`, in the order of the `STAT_*` constants; the last of these is added to `uncounted`.
pub const STATS: &[&str] = &["passed", "dropped", "allowed", "malformed", "non_ip", "neighbour", UNCOUNTED];
/// The counter that user space has a part of.
pub const UNCOUNTED: &str = "uncounted";
const _: () = assert!(STATS.len() == object::STAT_UNCOUNTED_PAST as usize);

static MAPS: &[MapDecl] = &[
    MapDecl {
        name: "hits",
        symbols: &[object::HITS4, object::HITS6, object::PAST4, object::PAST6],
        shape: MapShape::ByPrefix(ValueShape::PacketsBytes),
        levels: &[],
        writable: Writable::Entries,
        room: Room::Param("max_hits", 2),
        doc: "packets and bytes of each listed prefix that was hit; the most specific one counts",
    },
    MapDecl {
        name: "stats",
        symbols: &[object::STATS_MAP],
        shape: MapShape::Counters(STATS),
        levels: &[],
        writable: Writable::No,
        room: Room::Fixed(STATS.len() as u32),
        doc: "packets by what became of them, each in one counter: `passed` (on no list), `dropped` (listed), `allowed` (on the allow \
              list), and let through unjudged: `malformed`, `non_ip`, `neighbour` (neighbour discovery of a listed address). \
              `uncounted` are those of `dropped` that `.hits` had no room for",
    },
    MapDecl {
        name: "entries",
        symbols: &[],
        shape: MapShape::Known(ENTRIES),
        levels: ENTRIES,
        writable: Writable::No,
        room: Room::Fixed(ENTRIES.len() as u32),
        doc: "how many entries the lists have now, of `max` each, and how many prefixes `.hits` has, of `max_hits` for each family",
    },
];

/// Names of the numbers of `.entries`.
pub const ENTRIES: &[&str] = &["ipv4", "ipv6", "allow_ipv4", "allow_ipv6", "max", "hits", "max_hits"];
/// Default of `audit`.
pub const AUDIT_DEFAULT: &str = "/var/log/weir-audit.log";

static EVENTS: &[EventDecl] = &[
    EventDecl {
        name: "drop",
        slot: object::SLOT_DROP,
        record: 0,
        hook: Hook::Tc,
        decides: false,
        each_packet: true,
        vars: PREFIX_VAR,
        doc: "a packet that the list matched, before it is dropped (with `dry_run`: before it passes)",
    },
    EventDecl {
        name: "allow",
        slot: object::SLOT_ALLOW,
        record: 0,
        hook: Hook::Tc,
        decides: false,
        each_packet: true,
        vars: PREFIX_VAR,
        doc: "a packet that the allow list matched",
    },
];

static PREFIX_VAR: &[EventVar] = &[EventVar {
    name: "prefix",
    offset: std::mem::offset_of!(weir_ebpf_builtins::EventRecord, prefix) as u32,
    ty: EventVarType::Prefix,
    doc: "the entry that matched, the longest one",
}];
