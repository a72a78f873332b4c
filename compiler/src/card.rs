//! What of a script goes to a network card: `xdp:IFACE:offload`.
//!
//! Input: [`hir::Program`]. Output: the [`Card`], with the maps of the script that lie in it. A map belongs to one card, and programs
//! elsewhere do not reach it. Not here: what cards lack, which is found where code is made for it.

use crate::hir::{self, Block, ExprKind, StmtKind, visit};
use crate::object::{AttachPoint, Card};
use std::collections::BTreeSet;
use weir_parser::Diagnostic;

/// The code of every message about what a card does not do.
pub const CODE: &str = "no-offload";

/// Finds the card that a script is for. Two of them are an error.
pub fn of(program: &hir::Program, diagnostics: &mut Vec<Diagnostic>) -> Option<Card> {
    let mut card: Option<Card> = None;
    let mut maps = BTreeSet::new();
    for block in &program.blocks {
        for attach in block.attach.iter().filter(|a| a.point.is_in_card()) {
            let AttachPoint::Xdp { iface, .. } = &attach.point else { continue };
            maps_of(block, &mut maps);
            let first = card.get_or_insert_with(|| Card {
                iface: iface.clone(),
                maps: Vec::new(),
                span: attach.span,
            });
            if (&first.iface.pattern, &first.iface.netns) != (&iface.pattern, &iface.netns) {
                let message = format!("a script is for one card, and this is `{iface}` behind `{}`", first.iface);
                diagnostics.push(
                    Diagnostic::error(CODE, attach.span, message)
                        .with(first.span, "the first")
                        .help("run one weir for each card"),
                );
            }
        }
    }
    card.map(|card| Card {
        maps: maps.into_iter().collect(),
        ..card
    })
}

/// Adds the maps that a block names.
fn maps_of(block: &Block, maps: &mut BTreeSet<usize>) {
    let mut statements = BTreeSet::new();
    let mut statement = |s: &hir::Stmt| match &s.kind {
        StmtKind::SetMap { map, .. } | StmtKind::AddMap { map, .. } | StmtKind::Aggregate { map, .. } | StmtKind::ForMap { map, .. } => {
            statements.insert(*map);
        }
        _ => {}
    };
    visit::each_stmt(&block.body, &mut statement);
    visit::block(block, &mut |e| match &e.kind {
        ExprKind::MapGet { map, .. }
        | ExprKind::MapAddr { map, .. }
        | ExprKind::AggGet { map, .. }
        | ExprKind::HasKey { map, .. }
        | ExprKind::Delete { map, .. }
        | ExprKind::Len(map) => {
            maps.insert(*map);
        }
        // A predicate may have statements inside.
        ExprKind::Block { body, .. } | ExprKind::Inline { body, .. } => visit::each_stmt(body, &mut statement),
        _ => {}
    });
    maps.append(&mut statements);
}
