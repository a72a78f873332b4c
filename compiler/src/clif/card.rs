//! What a program in a network card does not have, said where the script asks for it.
//!
//! A card takes the code that every program is made of, arrays and hashes without flags, and the helpers of maps. It has no ring
//! buffer, no memory for each processor, no clock and nothing that calls back. Where the generator comes to anything else in such a
//! program it says so here and goes on; the code is then never used.

use super::Generator;
use crate::backend::helper_name;
use crate::card::CODE;
use crate::hir::{ExprKind, StmtKind, visit};
use crate::object::{EventAction, MapKind, MapRole, TextKind};
use crate::tables::{AggKind, FUNCTIONS, FunctionKind};
use weir_parser::{Diagnostic, Span};

impl Generator<'_, '_> {
    /// In a program for a card: says what it lacks. Of several things that one statement lacks the first.
    pub(super) fn card_lacks(&mut self, span: Span, what: impl FnOnce() -> String) {
        if self.in_card {
            self.refuse(span, what(), |iface| format!("write `xdp:{iface}:native`"));
        }
    }

    fn refuse(&mut self, span: Span, what: String, help: impl FnOnce(&str) -> String) {
        let Some(card) = &self.plan.card else { return };
        if self.plan.refused.iter().any(|d| d.span == span) {
            return;
        }
        let help = help(&card.iface.to_string());
        self.plan.refused.push(Diagnostic::error(CODE, span, what).help(help));
    }

    pub(super) fn card_lacks_memory(&mut self) {
        // With loops everything lies there, and they are refused anyway.
        if !self.has_loops {
            self.card_lacks(self.place, || {
                "this needs more memory than the stack has, and a card has no other".to_owned()
            });
        }
    }

    pub(super) fn card_lacks_helper(&mut self, number: u32) {
        let name = helper_name(number).unwrap_or_else(|| format!("helper {number}"));
        self.card_lacks(self.place, || {
            format!("this calls `{name}`, and a card has only the helpers of maps")
        });
    }

    /// `subject` sends something to user space.
    pub(super) fn card_lacks_ring(&mut self, span: Span, subject: &str) {
        if !self.in_card {
            return;
        }
        let what = format!("{subject} does not work in a card: it needs a ring buffer, which cards do not have");
        self.refuse(span, what, |iface| {
            format!("count in a map and print that in an `interval` block, or write `xdp:{iface}:native`")
        });
    }

    /// Only arrays and hashes are in a card, and only its own programs reach them.
    pub(super) fn check_card(&mut self, map: usize) {
        let Some(card) = &mut self.plan.card else { return };
        let spec = &self.plan.maps[map];
        let name = match &spec.role {
            MapRole::User { name, .. } => format!("`{name}`"),
            _ => "what this needs".to_owned(),
        };
        let known = card.maps.binary_search(&map);
        if !self.in_card {
            if known.is_ok() {
                let what = format!("{name} lies in the card of `{}`, and only programs there reach it", card.iface);
                self.refuse(self.place, what, |_| {
                    "`print`, `clear` and `zero` of the whole map do: weir itself goes to the card for them".to_owned()
                });
            }
            return;
        }
        if let Err(at) = known {
            card.maps.insert(at, map);
        }
        let kind = spec.kind;
        if !matches!(kind, MapKind::Array | MapKind::Hash) {
            self.card_lacks(self.place, || {
                format!("{name} is {}, and a card has arrays and hashes", kind.words())
            });
        }
    }

    /// A loop is a call of a helper that calls its body.
    pub(super) fn loops_in_card(&mut self) {
        if !self.in_card || !self.has_loops {
            return;
        }
        let hir = self.hir;
        for index in self.plan.programs[self.index].blocks.clone() {
            let mut found = Vec::new();
            visit::each_stmt(&hir.blocks[index].body, &mut |s| {
                if matches!(s.kind, StmtKind::While { .. } | StmtKind::ForRange { .. } | StmtKind::ForMap { .. }) {
                    found.push(s.span);
                }
            });
            visit::block(&hir.blocks[index], &mut |e| {
                if matches!(e.kind, ExprKind::Len(_)) {
                    found.push(e.span);
                }
            });
            for span in found {
                let what = "this is a loop that the kernel calls, and a card calls nothing back".to_owned();
                self.refuse(span, what, |iface| {
                    format!("`unroll (N) {{ … }}` repeats statements without one, or write `xdp:{iface}:native`")
                });
            }
        }
    }

    /// Where a block first names a packet field, or the block.
    pub(super) fn first_use(&self, blocks: &[usize], field: usize) -> Span {
        let mut first = None;
        for block in blocks {
            visit::block(&self.hir.blocks[*block], &mut |e| {
                if matches!(e.kind, ExprKind::Field(f) if f == field) {
                    first.get_or_insert(e.span);
                }
            });
        }
        first.unwrap_or(self.plan.programs[self.index].span)
    }
}

/// What it is in the script that sends this, as the start of a sentence.
pub(super) fn subject(action: &EventAction) -> &'static str {
    match action {
        EventAction::Printf { .. } => "`printf`",
        EventAction::Text { what, .. } => match what {
            TextKind::Print => "`printf`",
            TextKind::Error => "`errorf`",
            TextKind::Warning => "`warnf`",
            TextKind::Cat => "`cat`",
            TextKind::System => "`system`",
        },
        EventAction::Join { .. } => "`join`",
        EventAction::PrintValue(_) | EventAction::PrintMap { .. } | EventAction::PrintMapKey { .. } | EventAction::PrintNative { .. } => {
            "`print`"
        }
        EventAction::Clear(_) => "`clear`",
        EventAction::Zero(_) => "`zero`",
        EventAction::Delete { .. } => "`delete`",
        EventAction::Exit { .. } => "`exit`",
        EventAction::HelperError { .. } => "`-k`",
        EventAction::DividedByZero => "a division by what may be zero",
        EventAction::Capture { .. } => "`capture`",
        EventAction::Time { .. } => "`time`",
    }
}

/// What the script calls an aggregation.
pub(super) fn aggregation(kind: AggKind) -> &'static str {
    let known = FUNCTIONS.iter().find(|f| f.kind == FunctionKind::Agg(kind));
    known.map_or("aggregation", |f| f.name)
}
