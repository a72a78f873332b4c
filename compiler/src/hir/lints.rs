//! Things that are legal and rarely meant. Each shows the fix.

use super::probes::glob_match;
use super::{Block, Stmt, StmtKind};
use crate::object::AttachPoint;
use weir_parser::Diagnostic;
use weir_parser::ast::{self, BinaryOp};

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

/// Two `xdp:` patterns that meet on one interface would be two programs on one hook.
fn overlaps(blocks: &[Block], out: &mut Vec<Diagnostic>) {
    let points: Vec<_> = blocks
        .iter()
        .flat_map(|b| &b.attach)
        .filter_map(|a| match &a.point {
            AttachPoint::Xdp { iface, mode } => Some((iface, *mode, a.span)),
            _ => None,
        })
        .collect();
    for (i, (iface, mode, span)) in points.iter().enumerate() {
        for (other, other_mode, other_span) in &points[..i] {
            // The halves of a pattern never meet.
            if iface.netns != other.netns || iface.link_layer != other.link_layer {
                continue;
            }
            if iface.pattern == other.pattern {
                if mode != other_mode {
                    out.push(
                        Diagnostic::error("xdp-mode", *span, format!("`{}` cannot have XDP in two modes", iface.pattern))
                            .with(*other_span, "the other mode is asked for here")
                            .help("give both blocks the same mode"),
                    );
                }
                continue;
            }
            let meets = |a: &str, b: &str| a.contains(['*', '?', '[']) && glob_match(a, b);
            if meets(&iface.pattern, &other.pattern) || meets(&other.pattern, &iface.pattern) {
                out.push(
                    Diagnostic::error(
                        "xdp-overlap",
                        *span,
                        format!("`{}` and `{}` can be the same interface", iface.pattern, other.pattern),
                    )
                    .with(*other_span, "the other block")
                    .help("give both blocks the same interface pattern; then they run one after the other"),
                );
            }
        }
    }
}

/// Looks at whole blocks.
pub(super) fn lint(blocks: &[Block], out: &mut Vec<Diagnostic>) {
    overlaps(blocks, out);
    for block in blocks {
        if block.hook.has_packet() && printf_per_packet(&block.body) {
            out.push(
                Diagnostic::lint("printf-per-packet", block.span, "this block prints for every packet")
                    .help("count in a map and print it on an interval, or narrow the predicate"),
            );
        }
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
