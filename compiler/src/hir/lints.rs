//! Things that are legal and rarely meant. Each shows the fix.

use super::probes::{glob_match, is_glob};
use super::{Block, Expr, ExprKind, Map, Stmt, StmtKind, Ty, visit};
use crate::kernel::{KernelInfo, Whereabouts};
use crate::object::{Attach, AttachPoint, Direction, LinkLayer, NativeInstance, XdpMode};
use crate::overlap::{self, Names};
use crate::plan::same_hook;
use crate::tables::{self, FIELDS, FieldKind, Header, Hook, IpPart};
use std::collections::HashSet;
use weir_parser::ast::{self, BinaryOp};
use weir_parser::{Diagnostic, Span};

/// Kernel fields in network byte order that people compare or shift as they are.
const BIG_ENDIAN: &[&str] = &[
    "skc_dport",
    "inet_dport",
    "inet_sport",
    "sin_port",
    "sin6_port",
    "ir_rmt_port",
    "skc_daddr",
    "skc_rcv_saddr",
    "sin_addr",
    "protocol_be",
];

/// Warns where a field in network byte order meets an operator that sees its number.
pub(super) fn byte_order(op: BinaryOp, left: &ast::Expr, right: &ast::Expr, out: &mut Vec<Diagnostic>) {
    let sees_number = matches!(
        op,
        BinaryOp::Shr | BinaryOp::Shl | BinaryOp::Eq | BinaryOp::Ne | BinaryOp::Lt | BinaryOp::Le | BinaryOp::Gt | BinaryOp::Ge
    );
    if !sees_number {
        return;
    }
    for (side, other) in [(left, right), (right, left)] {
        if let ast::ExprKind::Field { name, .. } = &side.kind
            && BIG_ENDIAN.contains(&name.name.as_str())
            && !matches!(other.kind, ast::ExprKind::Int(0))
        {
            out.push(
                Diagnostic::lint("byte-order", side.span, format!("`{}` is in network byte order", name.name))
                    .label(format!("`{}` sees its bytes swapped", op.symbol()))
                    .help(format!("`bswap(….{})` is the number", name.name)),
            );
        }
    }
}

/// Patterns that meet in one place have one program there, with the blocks of both: it has one mode, and not any number of programs.
fn overlaps(blocks: &[Block], out: &mut Vec<Diagnostic>) {
    let points: Vec<&Attach> = blocks
        .iter()
        .flat_map(|b| &b.attach)
        .filter(|a| a.point.pattern().is_some())
        .collect();
    let mut told: Vec<Span> = Vec::new();
    for (i, attach) in points.iter().enumerate() {
        let AttachPoint::Xdp { iface, mode } = &attach.point else {
            continue;
        };
        if told.contains(&attach.span) {
            continue;
        }
        for other in &points[..i] {
            let AttachPoint::Xdp { iface: theirs, mode: n } = &other.point else {
                continue;
            };
            // The halves of a pattern never meet, and the card has a hook of its own.
            let in_card = |a: &Attach| a.point.is_in_card();
            let apart =
                in_card(attach) != in_card(other) || iface.netns != theirs.netns || iface.link_layer != theirs.link_layer || mode == n;
            if apart || !overlap::meet(Names::Interfaces, &iface.pattern, &theirs.pattern) {
                continue;
            }
            let message = if iface.pattern == theirs.pattern {
                format!("`{}` cannot have XDP in two modes", iface.pattern)
            } else {
                format!(
                    "`{}` and `{}` can be the same interface, which cannot have XDP in two modes",
                    iface.pattern, theirs.pattern
                )
            };
            told.push(attach.span);
            out.push(
                Diagnostic::error("xdp-mode", attach.span, message)
                    .with(other.span, "the other mode is asked for here")
                    .help("give both blocks the same mode"),
            );
            break;
        }
    }
    let mut said: Vec<&Attach> = Vec::new();
    // The other half of a pattern of interfaces overlaps as this one does.
    let is_half = |a: &Attach| a.point.iface().is_some_and(|i| i.link_layer == LinkLayer::None);
    for attach in points
        .iter()
        .filter(|a| a.point.pattern().is_some_and(|(_, p)| is_glob(p)) && !is_half(a))
    {
        if said.iter().any(|s| same_hook(&s.point, &attach.point) || s.span == attach.span) {
            continue;
        }
        let mut patterns: Vec<&str> = Vec::new();
        for point in points.iter().filter(|p| same_hook(&p.point, &attach.point)) {
            patterns.extend(point.point.pattern().map(|(_, p)| p).filter(|p| !patterns.contains(p)));
        }
        let Some((names, _)) = attach.point.pattern() else { continue };
        if (0..patterns.len()).any(|i| overlap::parts(names, &patterns, i).len() > overlap::MAX_PARTS) {
            said.push(attach);
            let message = format!("the patterns of these blocks overlap in more than {} ways", overlap::MAX_PARTS);
            out.push(
                Diagnostic::error("too-many-overlaps", attach.span, message)
                    .label("each of them is a program of its own")
                    .help("fewer patterns, or one for all: what a block is for can be a predicate, such as `/pkt.ifname == \"eth0\"/`"),
            );
        }
    }
}

/// Probes that run in softirq for the most part: whoever runs there was interrupted.
const SOFTIRQ_TRACEPOINTS: &[&str] = &[
    "irq:softirq_*",
    "napi:*",
    "net:netif_receive_skb*",
    "net:netif_rx*",
    "net:napi_gro_*",
    "tcp:tcp_retransmit_skb",
    "tcp:tcp_probe",
    "tcp:tcp_receive_reset",
    "xdp:*",
];
const SOFTIRQ_FUNCTIONS: &[&str] = &[
    "__netif_receive_skb*",
    "net_rx_action",
    "napi_gro_receive",
    "ip_rcv",
    "ipv6_rcv",
    "tcp_v4_rcv",
    "tcp_v6_rcv",
    "tcp_retransmit_skb",
    "__tcp_retransmit_skb",
    "tcp_retransmit_timer",
    "udp_rcv",
    "udpv6_rcv",
    "icmp_rcv",
];

/// Warns where a word of the current task stands in a probe that is about somebody else's packet.
pub(super) fn bystander(word: &str, point: Option<&AttachPoint>, span: Span, out: &mut Vec<Diagnostic>) {
    let in_softirq = match point {
        Some(AttachPoint::Tracepoint { category, name }) => {
            let path = format!("{category}:{name}");
            SOFTIRQ_TRACEPOINTS.iter().any(|p| glob_match(p, &path))
        }
        // Without the category, which only the others need.
        Some(AttachPoint::RawTracepoint { name }) => {
            let mut events = SOFTIRQ_TRACEPOINTS.iter().filter_map(|p| p.split_once(':'));
            events.any(|(_, event)| event != "*" && glob_match(event, name))
        }
        Some(AttachPoint::Kprobe { function, .. } | AttachPoint::Fentry { function, .. }) => {
            SOFTIRQ_FUNCTIONS.iter().any(|p| glob_match(p, function))
        }
        _ => false,
    };
    if in_softirq {
        out.push(
            Diagnostic::lint(
                "bystander",
                span,
                format!("`{word}` is mostly a bystander's here: this probe runs in softirq"),
            )
            .help("count by the socket's addresses and ports instead"),
        );
    }
}

/// Warns about a constant of the kernel that is rarely the verdict that is meant.
pub(super) fn verdict(hook: Hook, value: &ast::Expr, out: &mut Vec<Diagnostic>) {
    if let (Hook::Xdp, ast::ExprKind::Int(n @ 5..)) = (hook, &value.kind) {
        out.push(
            Diagnostic::lint(
                "xdp-unknown",
                value.span,
                format!("XDP knows no verdict {n}: the kernel drops the packet and warns once"),
            )
            .help("`return XDP_PASS;`, or one of `XDP_DROP`, `XDP_TX`"),
        );
    }
    let ast::ExprKind::Name(name) = &value.kind else { return };
    match (hook, name.as_str()) {
        (Hook::Xdp | Hook::NativeXdp, "XDP_ABORTED") => out.push(
            Diagnostic::lint(
                "xdp-aborted",
                value.span,
                "`XDP_ABORTED` drops the packet as a program's failure, and says so in `xdp:xdp_exception`",
            )
            .help("`drop()`, or `return XDP_DROP;`"),
        ),
        (Hook::Tc, "TC_ACT_OK") => out.push(
            Diagnostic::lint(
                "tc-ok",
                value.span,
                "`TC_ACT_OK` ends the chain: programs behind this one, such as those of a CNI, never see the packet",
            )
            .help("`next()` passes it on to them; `pass()` says that the end is meant"),
        ),
        _ => {}
    }
}

/// Maps that get an entry for every flow and forget none.
fn unbounded(maps: &[Map], out: &mut Vec<Diagnostic>) {
    fn has_flow(ty: &Ty) -> bool {
        match ty {
            Ty::Flow => true,
            Ty::Tuple(parts) => parts.iter().any(has_flow) || parts.iter().filter(|p| **p == Ty::Inet).count() > 1 && parts.len() > 3,
            _ => false,
        }
    }
    for map in maps {
        let lru = map
            .declared
            .is_some_and(|d| matches!(d.kind, super::DeclaredKind::LruHash | super::DeclaredKind::PerCpuLruHash));
        if !lru && map.copy.is_none() && map.key.as_ref().is_some_and(has_flow) {
            let kind = if matches!(&map.value, super::MapValueTy::Agg(agg) if agg.is_per_cpu()) {
                "percpulruhash"
            } else {
                "lruhash"
            };
            out.push(
                Diagnostic::lint(
                    "flows-without-lru",
                    map.span,
                    format!("`{}` gets an entry for every flow and is full one day", map.name),
                )
                .help(format!("`let {} = {kind}(65536);` forgets the oldest", map.name)),
            );
        }
    }
}

/// Whether the block changes bytes that a checksum covers.
fn writes_checksum(block: &Block) -> bool {
    let mut found = false;
    visit::each_stmt(&block.body, &mut |s| {
        if let StmtKind::SetField { field, .. } = s.kind {
            found |= matches!(FIELDS[field].kind, FieldKind::Ip { .. } | FieldKind::Bits { .. });
        }
    });
    found
}

fn is_veth(point: &AttachPoint, kernel: &dyn KernelInfo) -> bool {
    point
        .iface()
        .is_some_and(|i| i.netns.is_none() && !i.is_glob() && kernel.interface_kind(&i.pattern).as_deref() == Some("veth"))
}

/// Calls `each` for every `ip.src == ADDRESS` or `ip.dst == ADDRESS` without which a condition is false.
fn needed_addresses(condition: &Expr, each: &mut impl FnMut(&Expr, IpPart, std::net::IpAddr)) {
    let ExprKind::Binary { op, left, right } = &condition.kind else {
        return;
    };
    match (op, &left.kind, &right.kind) {
        (BinaryOp::And, _, _) => {
            needed_addresses(left, each);
            needed_addresses(right, each);
        }
        (BinaryOp::Eq, ExprKind::Field(field), ExprKind::Inet { bytes, v6 })
        | (BinaryOp::Eq, ExprKind::Inet { bytes, v6 }, ExprKind::Field(field)) => {
            if let FieldKind::Ip { part, .. } = FIELDS[*field].kind {
                let [a, b, c, d, ..] = *bytes;
                let address = if *v6 { std::net::IpAddr::from(*bytes) } else { [a, b, c, d].into() };
                each(condition, part, address);
            }
        }
        _ => {}
    }
}

/// The kernel's directions on a veth are those of its own side: what the other side sends comes in. A filter for an address that is
/// on the wrong side never matches.
fn veth_direction(block: &Block, kernel: &dyn KernelInfo, out: &mut Vec<Diagnostic>) {
    let Some(predicate) = &block.predicate else { return };
    for attach in block.attach.iter().filter(|a| is_veth(&a.point, kernel)) {
        let (name, comes_in) = match &attach.point {
            AttachPoint::Xdp { iface, .. } => (&iface.pattern, true),
            AttachPoint::Tc { iface, direction } => (&iface.pattern, *direction == Direction::Ingress),
            _ => continue,
        };
        needed_addresses(predicate, &mut |place, part, address| {
            let (whose, wants_here) = match part {
                IpPart::Src => ("from", !comes_in),
                IpPart::Dst => ("to", comes_in),
                _ => return,
            };
            let why = match kernel.whereabouts(address) {
                Some(Whereabouts::Here) if !wants_here => format!("`{address}` is this side's own address"),
                Some(Whereabouts::Behind(iface)) if wants_here && iface == *name => format!("`{address}` is behind `{name}`"),
                _ => return,
            };
            let (does, right) = if comes_in {
                ("comes from the other side", "egress` (`to_pod`)")
            } else {
                ("goes to the other side", "ingress` (`from_pod`)")
            };
            out.push(
                Diagnostic::lint(
                    "veth-direction",
                    place.span,
                    format!("nothing {whose} `{address}` {does} of `{name}`: the direction looks reversed"),
                )
                .label(why)
                .with(
                    attach.span,
                    if comes_in {
                        "sees what comes in here"
                    } else {
                        "sees what goes out here"
                    },
                )
                .help(format!("`tc:{name}:{right}")),
            );
        });
    }
}

/// XDP where it costs more than it saves, or meets checksums that are not complete.
/// What is true of an interface is said of the first block there: `told` has the lints and the interfaces.
fn xdp_places(block: &Block, kernel: &dyn KernelInfo, told: &mut HashSet<(&'static str, String)>, out: &mut Vec<Diagnostic>) {
    let mut seen = None;
    for attach in &block.attach {
        let AttachPoint::Xdp { iface, mode } = &attach.point else {
            continue;
        };
        // The halves of a pattern stand at one place.
        if seen.replace(attach.span) == Some(attach.span) {
            continue;
        }
        let name = &iface.pattern;
        if attach.point.is_in_card() {
            continue;
        }
        let veth = is_veth(&attach.point, kernel);
        let mut first = |lint| told.insert((lint, iface.to_string()));
        if *mode == XdpMode::Generic && first("xdp-generic") {
            out.push(
                Diagnostic::lint(
                    "xdp-generic",
                    attach.span,
                    "generic XDP runs after the kernel has made its buffer: it costs more than TC and saves nothing",
                )
                .help(format!("`tc:{name}:ingress`, or `xdp:{name}:native` where the driver has it")),
            );
        } else if *mode != XdpMode::Generic && veth && first("xdp-on-veth") {
            out.push(
                Diagnostic::lint(
                    "xdp-on-veth",
                    attach.span,
                    format!("`{name}` is a veth: XDP there drops later than TC does, and TCP that passes loses its large segments"),
                )
                .help(format!("`tc:{name}:ingress`")),
            );
        }
        if (veth || *mode == XdpMode::Generic) && writes_checksum(block) {
            out.push(
                Diagnostic::lint(
                    "xdp-checksum",
                    attach.span,
                    "packets from this host's own interfaces carry partial checksums here, which XDP cannot put right",
                )
                .help(format!(
                    "write at `tc:{name}:ingress`, or turn the sender's offload off: `ethtool -K PEER tx off`"
                )),
            );
        }
    }
}

/// Native XDP hands frames to a veth past its queue: without somebody who polls at the other end they are gone, and nothing says so.
fn redirected_into_veth(block: &Block, kernel: &dyn KernelInfo, out: &mut Vec<Diagnostic>) {
    let native = block
        .attach
        .iter()
        .find(|a| matches!(&a.point, AttachPoint::Xdp { iface, mode } if matches!(mode, XdpMode::Auto | XdpMode::Native) && iface.netns.is_none()));
    let Some(attach) = native else { return };
    visit::each_stmt(&block.body, &mut |s| {
        if let StmtKind::Redirect { device, .. } = &s.kind
            && kernel.interface_kind(device).as_deref() == Some("veth")
            && !out.iter().any(|d| d.span == s.span)
        {
            out.push(
                Diagnostic::lint(
                    "redirect-into-veth",
                    s.span,
                    format!("`{device}` is a veth: it drops frames of native XDP unless its other end has XDP or GRO"),
                )
                .with(attach.span, "native XDP, where the driver has it")
                .help("`ethtool -K PEER gro on` at the other end, or redirect at `tc` ingress"),
            );
        }
    });
}

/// Whether all that `later` names is named by `earlier`, on one hook.
fn runs_before(earlier: &AttachPoint, later: &AttachPoint) -> bool {
    let named = match (earlier.pattern(), later.pattern()) {
        (Some((names, pattern)), Some((_, name))) => !is_glob(name) && same_hook(earlier, later) && overlap::meet(names, pattern, name),
        _ => false,
    };
    named || earlier == later
}

/// A block behind one that always ends the chain.
fn behind_a_verdict(blocks: &[Block], out: &mut Vec<Diagnostic>) {
    for (i, block) in blocks.iter().enumerate() {
        let ends = block.predicate.is_none() && block.body.iter().any(|s| matches!(s.kind, StmtKind::Verdict(_)));
        if !ends {
            continue;
        }
        for later in &blocks[i + 1..] {
            if let Some(attach) = later
                .attach
                .iter()
                .find(|a| block.attach.iter().any(|b| runs_before(&b.point, &a.point)))
            {
                out.push(
                    Diagnostic::lint(
                        "never-reached",
                        attach.span,
                        "this block never runs: one before it on the same hook gives every packet a verdict",
                    )
                    .with(block.span, "ends the chain")
                    .help("put this block first, or give the other a predicate"),
                );
                break;
            }
        }
    }
}

/// What a condition says of a packet that makes it true: the headers that it has.
fn needed_headers(condition: &Expr, found: &mut Vec<Header>) {
    match &condition.kind {
        ExprKind::Binary {
            op: BinaryOp::And,
            left,
            right,
        } => {
            needed_headers(left, found);
            needed_headers(right, found);
        }
        ExprKind::HasHeader(header) => found.push(*header),
        ExprKind::Binary { op: BinaryOp::Or, .. } => {}
        // Absent with any of its parts, except where a part has a stand-in.
        ExprKind::Binary { .. } | ExprKind::Field(_) | ExprKind::Has(_) | ExprKind::In { .. } | ExprKind::InMap { .. } => {
            let mut total = true;
            let mut headers = Vec::new();
            visit::expr(condition, &mut |e| match &e.kind {
                ExprKind::Field(i) => headers.extend(header_of(*i)),
                ExprKind::Binary { op, .. } => total &= !matches!(op, BinaryOp::And | BinaryOp::Or),
                ExprKind::Not(_) | ExprKind::Ternary { .. } | ExprKind::Elvis { .. } | ExprKind::HasHeader(_) => total = false,
                _ => {}
            });
            if total {
                found.extend(headers);
            }
        }
        _ => {}
    }
}

fn header_of(field: usize) -> Option<Header> {
    tables::header(FIELDS[field].name.split(['.', '[']).next()?)
}

/// `!dns.qr` is true of every packet without DNS, too, unless the condition asks for DNS elsewhere.
fn negated_absent(condition: &Expr, given: &[Header], out: &mut Vec<Diagnostic>) {
    let mut given = given.to_vec();
    needed_headers(condition, &mut given);
    match &condition.kind {
        ExprKind::Binary {
            op: BinaryOp::And | BinaryOp::Or,
            left,
            right,
        } => {
            negated_absent(left, &given, out);
            negated_absent(right, &given, out);
        }
        ExprKind::Not(operand) => {
            let operand = match &operand.kind {
                ExprKind::Convert(inner) => inner,
                _ => operand,
            };
            if let ExprKind::Field(field) = operand.kind
                && let Some(header) = header_of(field)
                && !given.contains(&header)
            {
                let name = FIELDS[field].name;
                let word = name.split(['.', '[']).next().unwrap_or(name);
                out.push(
                    Diagnostic::lint(
                        "negated-absent",
                        condition.span,
                        format!("`!{name}` is also true of every packet without `{word}`"),
                    )
                    .help(format!("`has({word}) && !{name}`")),
                );
            }
        }
        _ => {}
    }
}

/// Where the kernel copies a packet for generic XDP it forgets that Ethernet is in front: TC sees IP first.
fn behind_generic_xdp(blocks: &[Block], out: &mut Vec<Diagnostic>) {
    let points = || blocks.iter().flat_map(|b| &b.attach);
    let mut told: Vec<Span> = Vec::new();
    for tc in points() {
        let AttachPoint::Tc {
            iface,
            direction: Direction::Ingress,
        } = &tc.point
        else {
            continue;
        };
        let generic = points().find(|a| {
            matches!(&a.point, AttachPoint::Xdp { iface: other, mode: XdpMode::Generic }
                if other.netns == iface.netns && overlap::meet(Names::Interfaces, &other.pattern, &iface.pattern))
        });
        if let Some(generic) = generic
            && iface.link_layer == LinkLayer::Ethernet
            && !told.contains(&tc.span)
        {
            told.push(tc.span);
            out.push(
                Diagnostic::lint(
                    "tc-behind-generic-xdp",
                    tc.span,
                    "behind generic XDP, Linux 6.9 and later hide the Ethernet header of most packets from TC: this block finds no header in them",
                )
                .with(generic.span, "copies the packets")
                .help("put both blocks on one hook, or use native XDP"),
            );
        }
    }
}

/// Looks at whole blocks and maps.
pub(super) fn lint(blocks: &[Block], maps: &[Map], natives: &[NativeInstance], kernel: &dyn KernelInfo, out: &mut Vec<Diagnostic>) {
    overlaps(blocks, out);
    behind_a_verdict(blocks, out);
    behind_generic_xdp(blocks, out);
    unbounded(maps, out);
    let mut told = HashSet::new();
    for block in blocks {
        xdp_places(block, kernel, &mut told, out);
        redirected_into_veth(block, kernel, out);
        if let Some(predicate) = block.predicate.as_ref().filter(|_| block.hook.has_packet()) {
            negated_absent(predicate, &[], out);
        }
        veth_direction(block, kernel, out);
        // Nobody waits for packets of a file.
        let often = block.hook.has_packet() && !kernel.any_interface() && block.attach.iter().any(|a| for_each_packet(&a.point, natives));
        if often && printf_per_packet(&block.body) {
            out.push(
                Diagnostic::lint("printf-per-packet", block.span, "this block prints for every packet")
                    .help("count in a map and print it on an interval, or keep it down: `limit(10/s) { … }`"),
            );
        }
    }
}

/// Tells whether packet after packet may come here; some events of natives are for one in many.
fn for_each_packet(point: &AttachPoint, natives: &[NativeInstance]) -> bool {
    match point {
        AttachPoint::NativeEvent { instance, event, .. } => natives[*instance].native.events[*event].each_packet,
        _ => true,
    }
}

fn printf_per_packet(body: &[Stmt]) -> bool {
    body.iter().any(|s| match &s.kind {
        StmtKind::Event(super::Event::Printf { .. } | super::Event::PrintValue(_)) => true,
        StmtKind::Block(body)
        | StmtKind::Unroll { body, .. }
        | StmtKind::While { body, .. }
        | StmtKind::ForRange { body, .. }
        | StmtKind::ForMap { body, .. } => printf_per_packet(body),
        _ => false,
    })
}
