//! Programs and maps in a network card (`xdp:IFACE:offload`): the kernel checks them and hands them to the card's driver.
//!
//! Input: the [`object::Card`] of a script. Output: maps and programs bound to that card, or what it refuses. Attaching is in
//! [`crate::attach::xdp`].

use crate::attach::iface;
use crate::error::Error;
use crate::kernel::insn;
use crate::load::{AttachTo, Elf, ProgramError, kernel_kind};
use crate::sys::bpf::{self, ProgAttr, ProgLoadError};
use crate::sys::{SysError, netns};
use crate::verifier;
use std::os::fd::OwnedFd;
use weir_compiler::object::{self, MapRole, MapSpec, ProgramKind, ProgramSpec};
use weir_parser::Span;

/// `enum xdp_action`
const XDP_PASS: i32 = 2;

/// A card that takes programs.
pub(crate) struct Card<'a> {
    spec: &'a object::Card,
    ifindex: u32,
}

impl<'a> Card<'a> {
    /// Finds the interface and tries whether there is such a card behind it.
    pub fn find(spec: &'a object::Card) -> Result<Self, Error> {
        let links = iface::resolve(&spec.iface, spec.span)?;
        let link = links.first().ok_or_else(|| Error::Object("a card without a name".to_owned()))?;
        let card = Self {
            spec,
            ifindex: link.ifindex,
        };
        // Any driver can load this. Asked first: a map that is refused may be too large for a good card.
        let insns = [insn(0xb7, XDP_PASS), insn(0x95, 0)];
        let (kind, attach_type, _) = kernel_kind(ProgramKind::Xdp);
        let attr = ProgAttr {
            card: card.ifindex,
            ..ProgAttr::new("weir_probe", kind, attach_type, &insns)
        };
        card.there(|| bpf::prog_load(&attr))?
            .map_err(|e| card.refused("XDP programs", ProgramError::from(e), spec.span))?;
        Ok(card)
    }

    /// Whether a map of the object lies in the card.
    pub fn has(&self, map: usize) -> bool {
        self.spec.maps.contains(&map)
    }

    /// Creates a map in the card.
    pub fn create_map(&self, elf: &Elf, spec: &MapSpec) -> Result<OwnedFd, Error> {
        let created = self.there(|| elf.create_map(&spec.name, |attr| attr.card = self.ifindex))?;
        created.map_err(|e| match e {
            Error::Sys(e) if e.errno() != libc::EPERM => {
                let (name, map, span) = match &spec.role {
                    MapRole::User { name, key, span, .. } => (format!("`{name}`"), key.is_some().then(|| name.clone()), *span),
                    _ => ("one of weir's own maps".to_owned(), None, self.spec.span),
                };
                let what = format!("{name}, {} of {} entries", spec.kind.words(), spec.max_entries);
                let reason = crate::sys::describe(&e.source).to_lowercase();
                self.no_offload(what, reason, map, span)
            }
            other => other,
        })
    }

    /// Loads a program into the card.
    pub fn load_program(&self, elf: &Elf, spec: &ProgramSpec) -> Result<OwnedFd, Error> {
        let target = AttachTo::card(self.ifindex);
        self.there(|| elf.load_program(&spec.name, spec.kind, &target))?
            .map_err(|e| self.refused("this program", e, spec.span))
    }

    /// Runs something where the interface's number stands for it.
    fn there<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, SysError> {
        netns::run_in(self.spec.iface.netns.as_deref(), work)
    }

    fn refused(&self, what: &str, error: ProgramError, span: Span) -> Error {
        let reason = match error {
            // The last word is the driver's, or the kernel's for it.
            ProgramError::Load(ProgLoadError::Rejected { log, source, .. }) => {
                let said = verifier::digest(&log, &[]).message.pop();
                said.unwrap_or_else(|| crate::sys::describe(&source))
            }
            ProgramError::Load(ProgLoadError::Sys(e)) if e.errno() != libc::EPERM => crate::sys::describe(&e.source).to_lowercase(),
            other => return other.into_error(None, Some(span)),
        };
        self.no_offload(what.to_owned(), reason, None, span)
    }

    fn no_offload(&self, what: String, reason: String, map: Option<String>, span: Span) -> Error {
        Error::NoOffload {
            iface: self.spec.iface.to_string(),
            what,
            reason,
            map,
            span,
        }
    }
}
