//! Several users of one interface's XDP hook: the first is attached, and each native goes on with the next by tail call.
//!
//! Where every interface of a native goes on with one and the same program, that program is in the native's array and costs a packet
//! nothing but the jump. Where interfaces differ, because patterns overlap only in part, a small program in its place looks up which one
//! is next. A native that nobody can come behind has neither: `.rodata` says so.

use crate::error::Error;
use crate::maps;
use crate::sys::Result as SysResult;
use crate::sys::bpf::{self, MapAttr, ProgAttr};
use aya_obj::generated::bpf_insn;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use weir_compiler::hir::{glob_match, is_glob};
use weir_compiler::object::{IfacePattern, MapKind, ProgramKind};
use weir_parser::Span;

/// Users that one may come behind: the kernel ends a packet's way after 33 tail calls; going on by interface takes two, and an event's block
/// may take one more.
pub const MOST: usize = 10;
/// Programs that may come behind one native, on one interface or another.
const PROGRAMS: usize = 256;
/// Interfaces of a pattern that are there at a time.
const INTERFACES: u32 = 1 << 16;
const NO_PREALLOC: u32 = 1;
/// Where the native's array has its program.
const NEXT: [u8; 4] = [0; 4];

/// What comes behind a native on its interfaces.
#[derive(Debug)]
pub struct Chain {
    alias: String,
    /// The native's own array.
    programs: OwnedFd,
    way: Way,
}

#[derive(Debug)]
enum Way {
    /// The same program on all interfaces, by the index of its target, once it is there.
    Same(Mutex<Option<usize>>),
    ByInterface(Arc<ByInterface>),
}

#[derive(Debug)]
struct ByInterface {
    /// Interface → place in `programs`.
    places: OwnedFd,
    programs: OwnedFd,
    /// Targets by their place.
    targets: Mutex<Vec<usize>>,
}

/// Who comes behind a native, as far as patterns tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behind {
    Nobody,
    Same,
    ByInterface,
}

/// Tells who may come behind a user of the XDP hook on `pattern`: `others` are those after it, in their order.
#[must_use]
pub fn behind(pattern: &IfacePattern, others: &[&IfacePattern]) -> Behind {
    match others.iter().find(|o| may_meet(pattern, o)) {
        None => Behind::Nobody,
        Some(first) if *first == pattern => Behind::Same,
        Some(_) => Behind::ByInterface,
    }
}

fn may_meet(a: &IfacePattern, b: &IfacePattern) -> bool {
    if a.netns != b.netns || a.link_layer != b.link_layer {
        return false;
    }
    match (is_glob(&a.pattern), is_glob(&b.pattern)) {
        (false, false) => a.pattern == b.pattern,
        (true, false) => names(a, &b.pattern),
        (false, true) => names(b, &a.pattern),
        // Both may name an interface that comes later.
        (true, true) => true,
    }
}

/// Whether a pattern names an interface of this name. Of `*` the loopback, which it does not name, is no matter here.
fn names(pattern: &IfacePattern, name: &str) -> bool {
    let matches = |p: &str| if is_glob(p) { glob_match(p, name) } else { p == name };
    matches(&pattern.pattern) && pattern.overlap.admits(matches)
}

/// A program behind another one on an interface; dropping it takes it out.
#[derive(Debug)]
pub struct Chained {
    by: Option<Arc<ByInterface>>,
    ifindex: u32,
    pub mode: &'static str,
}

impl Drop for Chained {
    fn drop(&mut self) {
        // What is behind all of a native's interfaces stays as long as the native.
        if let Some(by) = &self.by {
            // The kernel is out of memory, or our descriptor is no map: nothing to be done here.
            let _ = bpf::map_delete(by.places.as_fd(), &self.ifindex.to_ne_bytes(), "chain");
        }
    }
}

impl Chain {
    /// Prepares the chain behind a native, whose program array is `programs`.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn new(alias: &str, programs: BorrowedFd<'_>, behind: Behind) -> Result<Option<Self>, Error> {
        let way = match behind {
            Behind::Nobody => return Ok(None),
            Behind::Same => Way::Same(Mutex::new(None)),
            Behind::ByInterface => {
                let by = ByInterface::new()?;
                let dispatcher = by.dispatcher()?;
                bpf::map_update(programs, &NEXT, &dispatcher.as_raw_fd().to_ne_bytes(), 0, "chain")?;
                Way::ByInterface(Arc::new(by))
            }
        };
        Ok(Some(Self {
            alias: alias.to_owned(),
            programs: maps::dup(programs, "chain")?,
            way,
        }))
    }

    /// The native before.
    #[must_use]
    pub fn alias(&self) -> &str {
        &self.alias
    }

    /// Puts the program of a target behind the native on one interface.
    ///
    /// # Errors
    /// What the kernel says; when somebody is there already.
    pub fn put(&self, target: usize, program: BorrowedFd<'_>, ifindex: u32, mode: &'static str, span: Span) -> Result<Chained, Error> {
        let set = |array: &OwnedFd, place: &[u8]| bpf::map_update(array.as_fd(), place, &program.as_raw_fd().to_ne_bytes(), 0, "chain");
        let refused = |source| Error::Attach {
            point: format!("xdp, behind `{}`", self.alias),
            span,
            source,
        };
        let by = match &self.way {
            Way::Same(there) => {
                let mut there = there.lock().unwrap_or_else(PoisonError::into_inner);
                match *there {
                    Some(same) if same == target => {}
                    Some(_) => return Err(Error::Object(format!("two programs behind `{}`", self.alias))),
                    None => set(&self.programs, &NEXT).map_err(refused)?,
                }
                *there = Some(target);
                None
            }
            Way::ByInterface(by) => {
                let mut targets = by.targets.lock().unwrap_or_else(PoisonError::into_inner);
                let place = match targets.iter().position(|t| *t == target) {
                    Some(place) => place,
                    None if targets.len() == PROGRAMS => {
                        return Err(Error::Chain {
                            message: format!("more than {PROGRAMS} different programs come behind `{}`", self.alias),
                            help: "write fewer patterns that overlap".to_owned(),
                            span,
                        });
                    }
                    None => {
                        let place = targets.len();
                        set(&by.programs, &(place as u32).to_ne_bytes()).map_err(refused)?;
                        targets.push(target);
                        place
                    }
                };
                let place = (place as u32).to_ne_bytes();
                bpf::map_update(by.places.as_fd(), &ifindex.to_ne_bytes(), &place, 0, "chain").map_err(refused)?;
                Some(Arc::clone(by))
            }
        };
        Ok(Chained { by, ifindex, mode })
    }
}

impl ByInterface {
    fn new() -> SysResult<Self> {
        let map = |name, kind: MapKind, max_entries, flags| {
            bpf::map_create(&MapAttr {
                name,
                kind: kind as u32,
                key_size: 4,
                value_size: 4,
                max_entries,
                flags,
                btf: None,
                card: 0,
            })
        };
        Ok(Self {
            places: map("weir_places", MapKind::Hash, INTERFACES, NO_PREALLOC)?,
            programs: map("weir_chain", MapKind::ProgArray, PROGRAMS as u32, 0)?,
            targets: Mutex::default(),
        })
    }

    /// Loads the program that goes on with what is behind on the packet's interface.
    fn dispatcher(&self) -> Result<OwnedFd, Error> {
        let (kind, expected_attach_type, flags) = crate::load::kernel_kind(ProgramKind::Xdp);
        let insns = code(self.places.as_raw_fd(), self.programs.as_raw_fd());
        let attr = ProgAttr {
            flags,
            ..ProgAttr::new("weir_chain", kind, expected_attach_type, &insns)
        };
        bpf::prog_load(&attr).map_err(|e| crate::load::ProgramError::from(e).into_error(None, None))
    }
}

/// `if (place = places[ctx->ingress_ifindex]) tail_call(ctx, programs, *place); return XDP_PASS;`
fn code(places: i32, programs: i32) -> [bpf_insn; 16] {
    const LOAD_WORD: u8 = 0x61;
    const STORE_WORD: u8 = 0x63;
    const MOVE: u8 = 0xbf;
    const MOVE_CONSTANT: u8 = 0xb7;
    const ADD_CONSTANT: u8 = 0x07;
    const LOAD_LONG: u8 = 0x18;
    const CALL: u8 = 0x85;
    const JUMP_IF_ZERO: u8 = 0x15;
    const EXIT: u8 = 0x95;
    const INGRESS_IFINDEX: i16 = 12;
    const MAP_LOOKUP_ELEM: i32 = 1;
    const TAIL_CALL: i32 = 12;
    const XDP_PASS: i32 = 2;
    /// In the place of a source register: the constant is the descriptor of a map.
    const MAP: u8 = 1;
    const NONE: u8 = 0;
    let op = |code: u8, dst: u8, src: u8, off: i16, imm: i32| {
        // SAFETY: plain integers and bit fields.
        let mut insn: bpf_insn = unsafe { std::mem::zeroed() };
        insn.code = code;
        insn.set_dst_reg(dst);
        insn.set_src_reg(src);
        insn.off = off;
        insn.imm = imm;
        insn
    };
    [
        op(MOVE, 6, 1, 0, 0),
        op(LOAD_WORD, 2, 1, INGRESS_IFINDEX, 0),
        op(STORE_WORD, 10, 2, -4, 0),
        op(MOVE, 2, 10, 0, 0),
        op(ADD_CONSTANT, 2, NONE, 0, -4),
        op(LOAD_LONG, 1, MAP, 0, places),
        op(0, 0, NONE, 0, 0),
        op(CALL, 0, NONE, 0, MAP_LOOKUP_ELEM),
        op(JUMP_IF_ZERO, 0, NONE, 5, 0),
        op(LOAD_WORD, 3, 0, 0, 0),
        op(MOVE, 1, 6, 0, 0),
        op(LOAD_LONG, 2, MAP, 0, programs),
        op(0, 0, NONE, 0, 0),
        op(CALL, 0, NONE, 0, TAIL_CALL),
        op(MOVE_CONSTANT, 0, NONE, 0, XDP_PASS),
        op(EXIT, 0, NONE, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_compiler::object::{LinkLayer, Overlap};

    #[test]
    fn who_comes_behind() {
        let pattern = IfacePattern::parse;
        for (of, others, expected) in [
            ("v0", &[][..], Behind::Nobody),
            ("v0", &["v1", "v0@blue", "w*"], Behind::Nobody),
            ("v0", &["v1", "v0", "*"], Behind::Same),
            ("v0", &["v*"], Behind::ByInterface),
            ("v*", &["w0", "v*"], Behind::Same),
            ("v*", &["w0"], Behind::Nobody),
            ("v*", &["v0", "v*"], Behind::ByInterface),
            ("v*", &["w*"], Behind::ByInterface),
        ] {
            let others: Vec<IfacePattern> = others.iter().map(|o| pattern(o)).collect();
            let others: Vec<&IfacePattern> = others.iter().collect();
            assert_eq!(behind(&pattern(of), &others), expected, "{of} {others:?}");
        }
    }

    #[test]
    fn parts_of_a_pattern_that_leave_the_interface_out_do_not_meet() {
        let rest = IfacePattern {
            overlap: Overlap {
                also: Vec::new(),
                except: vec!["v0".to_owned()],
            },
            ..IfacePattern::parse("*")
        };
        let no_ethernet = IfacePattern {
            link_layer: LinkLayer::None,
            ..IfacePattern::parse("*")
        };
        assert_eq!(behind(&IfacePattern::parse("v0"), &[&rest, &no_ethernet]), Behind::Nobody);
        assert_eq!(behind(&IfacePattern::parse("v1"), &[&rest]), Behind::ByInterface);
    }
}
