//! CLIF → code for this machine, with maps and helpers put in.

use super::frame::Frame;
use super::helpers::{self, State};
use super::maps::MemoryMap;
use crate::error::Error;
use std::collections::HashMap;
use weir_compiler::backend::helper_name;
use weir_compiler::backend::x86::{self, Native, NativeError, Symbol};
use weir_compiler::clif::{Code, Function};
use weir_compiler::object::{Attach, AttachPoint, Direction, LinkLayer, MapRole, Object};

pub const XDP_PASS: i32 = 2;
const XDP_REDIRECT: u64 = 4;
const TC_ACT_REDIRECT: u64 = 7;
const TC_NEXT: i32 = -1;

/// A script ready to run.
#[derive(Debug)]
pub struct Engine {
    maps: Vec<MemoryMap>,
    machine: Machine,
}

/// The programs of a script and what they run on.
#[derive(Debug)]
pub struct Machine {
    pub state: State,
    programs: Vec<Native>,
    /// Kept since programs call them.
    _subprograms: HashMap<u32, Native>,
    /// For packets with and without Ethernet.
    hooks: [Hooks; 2],
    pub has_xdp: bool,
    pub has_tc: bool,
    intervals: Vec<Interval>,
    /// The time of the first one that is due.
    pub next_interval: u64,
}

/// Indices of the programs that see a packet.
#[derive(Debug, Default)]
struct Hooks {
    xdp: Vec<usize>,
    ingress: Vec<usize>,
    egress: Vec<usize>,
}

#[derive(Clone, Copy, Debug)]
struct Interval {
    program: usize,
    period_ns: u64,
    next: u64,
}

impl Engine {
    /// Makes the maps and compiles the programs.
    ///
    /// # Errors
    /// A probe, a map or a helper that only a kernel has.
    pub fn new(object: &Object, code: &Code) -> Result<Self, Error> {
        if let Some(native) = object.natives.first() {
            return Err(Error::Replay {
                message: format!("`{}` cannot be replayed: natives run in the kernel only", native.native.name),
                help: Some(match native.native.name {
                    "blocklist" => "put its addresses into a set: `ip.src in (10.0.0.0/8, …)`, or into an `lpm` map".to_owned(),
                    _ => "`xdp:` and `tc:` blocks are replayed, with maps of their own".to_owned(),
                }),
                span: Some(native.span),
            });
        }
        // Boxed by the vector: their addresses are in the code, and the vector does not grow any more.
        let maps: Vec<MemoryMap> = object
            .maps
            .iter()
            .map(MemoryMap::new)
            .collect::<Result<_, _>>()
            .map_err(|name| Error::Replay {
                message: format!("the map `{name}` exists in a kernel only"),
                help: None,
                span: None,
            })?;
        let rodata = object.maps.iter().position(|m| matches!(m.role, MapRole::Rodata { .. }));
        let rodata = rodata.and_then(|i| maps[i].region()).map(|(start, _)| start);
        let mut subprograms: HashMap<u32, Native> = HashMap::new();
        let compile = |function: &Function, subprograms: &HashMap<u32, Native>, program: usize| {
            x86::compile(&function.func, &function.consts, &|symbol| match symbol {
                Symbol::Helper(number) => helpers::address(number),
                Symbol::Map(index) => maps.get(index as usize).map(|m| std::ptr::from_ref(m) as u64),
                Symbol::Subprog(index) => subprograms.get(&index).map(Native::address),
                Symbol::Rodata(offset) => rodata.map(|start| start + u64::from(offset)),
            })
            .map_err(|e| describe(&e, object, program))
        };
        // A loop's body comes before the loops inside it, so the last are compiled first.
        for (index, sub) in code.subprograms.iter().enumerate().rev() {
            let native = compile(&sub.function, &subprograms, sub.program)?;
            subprograms.insert(u32::try_from(index).unwrap_or(u32::MAX), native);
        }
        let mut programs = Vec::new();
        for (index, function) in code.programs.iter().enumerate() {
            programs.push(compile(function, &subprograms, index)?);
        }
        let frame = Frame::new().map_err(|e| Error::Replay {
            message: format!("cannot map memory for packets: {e}"),
            help: None,
            span: None,
        })?;
        let state = State::new(frame, maps.iter().filter_map(MemoryMap::region).collect());
        let mut machine = Machine {
            state,
            programs,
            _subprograms: subprograms,
            hooks: Default::default(),
            has_xdp: false,
            has_tc: false,
            intervals: Vec::new(),
            next_interval: u64::MAX,
        };
        for (i, program) in object.programs.iter().enumerate() {
            machine.place(i, &program.attach);
        }
        Ok(Self { maps, machine })
    }

    /// Returns the maps, in the order of the object, and the programs. The maps must outlive the programs and not move.
    #[must_use]
    pub fn into_parts(self) -> (Vec<MemoryMap>, Machine) {
        (self.maps, self.machine)
    }
}

/// Says in the user's words why there is no code.
fn describe(error: &NativeError, object: &Object, program: usize) -> Error {
    let span = object.programs.get(program).map(|p| p.span);
    let (message, help) = match error {
        NativeError::Unresolved(Symbol::Helper(number)) => (
            format!(
                "this block needs the kernel (`{}`), and a replay has none",
                helper_name(*number).unwrap_or_else(|| format!("helper {number}"))
            ),
            Some("leave out stacks, symbols and tasks".to_owned()),
        ),
        NativeError::NoTarget(_) => ("weir replays captures on x86-64 only".to_owned(), None),
        NativeError::Map { .. } => (error.to_string(), None),
        _ => return Error::Object(error.to_string()),
    };
    Error::Replay { message, help, span }
}

impl Machine {
    /// Notes when a program runs.
    fn place(&mut self, program: usize, attach: &[Attach]) {
        for point in attach.iter().map(|a| &a.point) {
            let hooks = &mut self.hooks[usize::from(point.link_layer() == LinkLayer::None)];
            // One program on several interfaces still sees each packet once.
            match point {
                AttachPoint::Interval { period } => self.intervals.push(Interval {
                    program,
                    period_ns: u64::try_from(period.as_nanos()).unwrap_or(u64::MAX).max(1),
                    next: u64::MAX,
                }),
                AttachPoint::Xdp { .. } => {
                    self.has_xdp = true;
                    push_once(&mut hooks.xdp, program);
                }
                AttachPoint::Tc { direction, .. } => {
                    self.has_tc = true;
                    let list = match direction {
                        Direction::Ingress => &mut hooks.ingress,
                        Direction::Egress => &mut hooks.egress,
                    };
                    push_once(list, program);
                }
                _ => {}
            }
        }
    }

    /// Runs a program on a context.
    #[inline]
    pub fn run(&mut self, program: usize, context: u64) -> i64 {
        let native = &self.programs[program];
        helpers::with(&mut self.state, || {
            // SAFETY: the code was compiled from a program of the script, whose packet accesses are behind its own bounds
            // checks, for contexts, maps and helpers as they are here.
            unsafe { native.call(context) }
        })
    }

    /// Runs the programs at XDP until one of them does not pass the packet on.
    #[inline]
    pub fn run_xdp(&mut self, ifindex: u32) -> i32 {
        self.state.redirect = XDP_REDIRECT;
        let layer = self.layer();
        for i in 0..self.hooks[layer].xdp.len() {
            let context = self.state.frame.xdp(ifindex);
            let code = self.run(self.hooks[layer].xdp[i], context) as i32;
            if code != XDP_PASS {
                return code;
            }
        }
        XDP_PASS
    }

    /// Runs the programs at TC until one does not leave the packet to the next. `None`: there is none for the direction.
    pub fn run_tc(&mut self, ifindex: u32, ingress: bool, egress: bool) -> Option<i32> {
        self.state.redirect = TC_ACT_REDIRECT;
        let layer = self.layer();
        let mut last = None;
        for (wanted, inwards) in [(ingress, true), (egress, false)] {
            if !wanted {
                continue;
            }
            let list = |hooks: &Hooks, i: usize| if inwards { hooks.ingress.get(i) } else { hooks.egress.get(i) }.copied();
            let mut i = 0;
            while let Some(program) = list(&self.hooks[layer], i) {
                i += 1;
                let time = self.state.now_ns;
                let context = self.state.frame.skb(ifindex, inwards, time);
                let code = self.run(program, context) as i32;
                last = Some(code);
                if code != TC_NEXT {
                    break;
                }
            }
            if last.is_some_and(|code| code != TC_NEXT && code != 0) {
                break;
            }
        }
        last
    }

    /// The programs for the packet in the frame.
    fn layer(&self) -> usize {
        usize::from(self.state.frame.link_layer == LinkLayer::None)
    }

    /// Lets the intervals begin at a time.
    pub fn start_intervals(&mut self, now: u64) {
        for interval in &mut self.intervals {
            interval.next = now.saturating_add(interval.period_ns);
        }
        self.note_next();
    }

    fn note_next(&mut self) {
        self.next_interval = self.intervals.iter().map(|i| i.next).min().unwrap_or(u64::MAX);
    }

    /// Runs the interval that is due first, at the time when it is due.
    pub fn run_interval(&mut self) {
        let due = self.next_interval;
        let Some(i) = self.intervals.iter().position(|i| i.next == due) else {
            self.note_next();
            return;
        };
        self.intervals[i].next = due.saturating_add(self.intervals[i].period_ns);
        self.note_next();
        self.state.now_ns = due;
        self.run(self.intervals[i].program, super::NOTHING.as_ptr() as u64);
    }
}

fn push_once(list: &mut Vec<usize>, program: usize) {
    if !list.contains(&program) {
        list.push(program);
    }
}
