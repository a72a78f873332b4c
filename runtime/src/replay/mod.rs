//! A script on a capture file: the same CLIF as for the kernel, compiled for this machine, with helpers and maps of our own.
//!
//! No root, no kernel. Every packet passes the `xdp:` blocks and then, unless one of them kept it, the `tc:` blocks of its
//! direction; a packet whose direction the file does not tell passes both. Interface patterns play no part. The clock is the
//! packets' time: `interval` blocks run when a packet comes that is late enough, and `begin` runs at the time of the first one.

mod code;
pub mod frame;
pub mod helpers;
mod kernel;
pub mod maps;
mod source;
pub mod table;
mod write;

pub use code::{Engine, Machine};
pub use kernel::NoKernel;

use crate::attach::Observer;
use crate::capture::{CaptureFile, CaptureTarget};
use crate::error::{Error, Notice};
use crate::format::Context;
use crate::load::Loaded;
use crate::pcap::{LinkType, Packet, PcapError, Reader, Way};
use crate::printer::{Outputs, Report, Shared, Worker};
use crate::session::{Output, OutputFormat, make_sink};
use crate::sink::Buffering;
use crate::symbols::Symbols;
use crate::verdict;
use source::Source;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::mpsc;
use weir_compiler::clif::Code;
use weir_compiler::object::{AttachPoint, LinkLayer, MapRole, Object, ProgramKind};
use weir_compiler::tables::IFNAME_BYTES;
use write::PacketFile;

/// How a replay goes.
#[derive(Clone)]
pub struct Options {
    pub output: Output,
    pub format: OutputFormat,
    pub buffering: Buffering,
    /// No closing line.
    pub quiet: bool,
    /// Where `capture` writes to.
    pub capture: Option<CaptureTarget>,
    /// Takes the packets that were dropped, as they were then.
    pub write_dropped: Option<CaptureTarget>,
    /// Takes all others.
    pub write_passed: Option<CaptureTarget>,
    pub observer: Observer,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            output: Output::Stdout,
            format: OutputFormat::Text,
            buffering: Buffering::Full,
            quiet: false,
            capture: None,
            write_dropped: None,
            write_passed: None,
            observer: Arc::new(|_| {}),
        }
    }
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("replay::Options")
            .field("output", &self.output)
            .finish_non_exhaustive()
    }
}

/// What came of a replay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What `exit(code)` said.
    pub code: i32,
    /// Where reading ended early, if the file is damaged.
    pub damage: Option<PcapError>,
}

/// Set by SIGINT and SIGTERM.
static STOP: AtomicBool = AtomicBool::new(false);

/// How many packets pass between two looks at [`STOP`].
const LOOK_EVERY: u64 = 1024;

/// An interval that would run more often than this between two packets is a clock that jumped.
const MOST_RUNS: u64 = 100_000;

/// `BPF_PROG_TEST_RUN` and drivers alike give `begin` and the like a context that holds nothing.
static NOTHING: [u64; 8] = [0; 8];

/// Runs a script on a capture.
///
/// # Errors
/// A script that needs more than packets, a file that cannot be read or is no capture, output that cannot be written. A file
/// that turns out to be damaged later is no error here, see [`Outcome::damage`].
pub fn run(object: Object, code: &Code, file: &Path, options: &Options) -> Result<Outcome, Error> {
    let engine = Engine::new(&object, code)?;
    let source = Source::open(file)?;
    let describe = |e: &PcapError| Error::Replay {
        message: format!("cannot replay `{}`: {e}", file.display()),
        help: None,
        span: None,
    };
    let reader = Reader::new(source.as_ref()).map_err(|e| describe(&e))?;
    let sink = make_sink(&options.output, options.format, options.buffering)?;
    let capture = options.capture.as_ref().map(CaptureFile::create).transpose()?;
    let open = |target: &Option<CaptureTarget>| target.as_ref().map(PacketFile::create).transpose();
    let (dropped, passed) = (open(&options.write_dropped)?, open(&options.write_passed)?);
    STOP.store(false, Ordering::Relaxed);
    stop_on_signals();
    let (maps, machine) = engine.into_parts();
    let ctx = Context {
        symbols: Symbols::default(),
        trunc_trailer: object.config.str_trunc_trailer.clone(),
        max_strlen: object.config.max_strlen,
        escapes: false,
        screen: false,
    };
    let shared = Arc::new(Shared {
        object,
        loaded: Loaded::default(),
        natives: Vec::new(),
        replayed: Some(maps),
    });
    let (reporter, reports) = mpsc::unbounded_channel();
    let worker = Worker::new(
        Arc::clone(&shared),
        None,
        Outputs {
            sink,
            capture,
            places: None,
        },
        ctx,
        Arc::clone(&options.observer),
        reporter,
    );
    let mut replay = Replay {
        machine,
        worker,
        shared,
        reports,
        counts: Counts::default(),
        dropped,
        passed,
        seen_interfaces: Vec::new(),
        observer: Arc::clone(&options.observer),
        code: None,
        failed: None,
    };
    let damage = replay.all(reader)?;
    replay.end()?;
    if !options.quiet {
        (options.observer)(&Notice::Replayed {
            packets: replay.counts.packets,
            verdicts: replay.counts.text(),
        });
    }
    match replay.failed {
        Some((path, source)) => Err(Error::Output {
            path: path.unwrap_or_else(|| options.output.path()),
            source,
        }),
        None => Ok(Outcome {
            code: replay.code.unwrap_or(0),
            damage,
        }),
    }
}

/// Ctrl-C ends the reading, and what was counted so far is printed; the second one ends everything.
fn stop_on_signals() {
    extern "C" fn stop(_: libc::c_int) {
        STOP.store(true, Ordering::Relaxed);
    }
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: zeroed is an empty mask and no flags; the handler only stores to an atomic.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = stop as *const () as usize;
            action.sa_flags = libc::SA_RESETHAND | libc::SA_RESTART;
            libc::sigaction(signal, &raw const action, std::ptr::null_mut());
        }
    }
}

/// Verdicts given, by hook.
#[derive(Debug, Default)]
struct Counts {
    packets: u64,
    xdp: Vec<(i32, u64)>,
    tc: Vec<(i32, u64)>,
}

impl Counts {
    #[inline]
    fn add(counts: &mut Vec<(i32, u64)>, code: i32) {
        match counts.iter_mut().find(|(c, _)| *c == code) {
            Some((_, n)) => *n += 1,
            None => counts.push((code, 1)),
        }
    }

    /// `990 pass, 10 drop`, with the hooks where there are two.
    fn text(&self) -> String {
        let hooks = [("xdp", ProgramKind::Xdp, &self.xdp), ("tc", ProgramKind::SchedCls, &self.tc)];
        let both = hooks.iter().all(|(_, _, counts)| !counts.is_empty());
        let mut parts = Vec::new();
        for (name, kind, counts) in hooks {
            let mut counts = counts.clone();
            counts.sort_by_key(|(code, n)| (std::cmp::Reverse(*n), *code));
            let words: Vec<String> = counts
                .iter()
                .map(|(code, n)| format!("{n} {}", verdict::word(kind, *code)))
                .collect();
            if !words.is_empty() {
                let words = words.join(", ");
                parts.push(if both { format!("{name} {words}") } else { words });
            }
        }
        parts.join("; ")
    }
}

/// A replay under way.
struct Replay {
    machine: code::Machine,
    worker: Worker,
    shared: Arc<Shared>,
    reports: mpsc::UnboundedReceiver<Report>,
    counts: Counts,
    dropped: Option<PacketFile>,
    passed: Option<PacketFile>,
    /// Interfaces of the file that the capture file has been told of.
    seen_interfaces: Vec<u32>,
    observer: Observer,
    /// What `exit` said.
    code: Option<i32>,
    failed: Option<(Option<PathBuf>, std::io::Error)>,
}

impl Replay {
    /// `begin`, then every packet. Returns what ended it early, if the file is damaged.
    fn all(&mut self, mut reader: Reader<'_>) -> Result<Option<PcapError>, Error> {
        let mut next = reader.next_packet();
        // The clock of `begin`, of `elapsed` and of intervals starts with the first packet.
        let start = next.as_ref().ok().and_then(Option::as_ref).map_or(0, |p| p.time_ns);
        self.machine.state.now_ns = start;
        for (i, spec) in self.shared.object.maps.iter().enumerate() {
            if matches!(spec.role, MapRole::Started)
                && let Some(map) = self.shared.replayed.as_ref().and_then(|m| m.get(i))
            {
                // The one element of an array is always there.
                let _ = map.update(&0_u32.to_ne_bytes(), &start.to_ne_bytes(), 0);
            }
        }
        self.run_once(&AttachPoint::Begin);
        self.machine.start_intervals(start);
        let mut jumped = false;
        loop {
            let packet = match next {
                Ok(Some(packet)) => packet,
                Ok(None) => return Ok(None),
                Err(damage) => return Ok(Some(damage)),
            };
            if self.worker.is_done() || (self.counts.packets.is_multiple_of(LOOK_EVERY) && STOP.load(Ordering::Relaxed)) {
                return Ok(None);
            }
            if packet.time_ns >= self.machine.next_interval {
                jumped |= self.intervals(packet.time_ns);
                if self.worker.is_done() {
                    return Ok(None);
                }
            }
            self.packet(&reader, &packet)?;
            if !self.machine.state.records.is_empty() {
                self.records();
            }
            next = reader.next_packet();
            if jumped {
                jumped = false;
                (self.observer)(&Notice::Other {
                    message: format!(
                        "the clock of packet {} jumps; intervals in between did not run",
                        self.counts.packets
                    ),
                    span: None,
                });
            }
        }
    }

    #[inline]
    fn packet(&mut self, reader: &Reader<'_>, packet: &Packet<'_>) -> Result<(), Error> {
        self.counts.packets += 1;
        let machine = &mut self.machine;
        let (skip, way) = write::start(packet.link, packet.data);
        let way = packet.way.or(way);
        let layer = match packet.link {
            LinkType::Ethernet => LinkLayer::Ethernet,
            LinkType::Raw | LinkType::Sll | LinkType::Sll2 => LinkLayer::None,
        };
        let length = packet.length.saturating_sub(skip as u32);
        machine.state.frame.set(&packet.data[skip..], layer, length);
        machine.state.now_ns = packet.time_ns;
        let ifindex = packet.interface + 1;
        if self.seen_interfaces.get(packet.interface as usize).is_none() {
            self.new_interface(reader, packet.interface);
        }
        let machine = &mut self.machine;
        let mut kept = false;
        if machine.has_xdp {
            let code = machine.run_xdp(ifindex);
            Counts::add(&mut self.counts.xdp, code);
            kept = verdict::drops(ProgramKind::Xdp, code);
            // Sent back or elsewhere: no TC on the way in.
            if code != code::XDP_PASS {
                return self.write(packet, skip, kept);
            }
        }
        if machine.has_tc {
            let (ingress, egress) = (way != Some(Way::Out), way != Some(Way::In));
            if let Some(code) = machine.run_tc(ifindex, ingress, egress) {
                Counts::add(&mut self.counts.tc, code);
                kept = verdict::drops(ProgramKind::SchedCls, code);
            }
        }
        self.write(packet, skip, kept)
    }

    #[inline]
    fn write(&mut self, packet: &Packet<'_>, skip: usize, dropped: bool) -> Result<(), Error> {
        let file = if dropped { &mut self.dropped } else { &mut self.passed };
        match file {
            Some(file) => file.write(packet, skip, self.machine.state.frame.bytes()),
            None => Ok(()),
        }
    }

    #[cold]
    fn new_interface(&mut self, reader: &Reader<'_>, interface: u32) {
        while self.seen_interfaces.len() <= interface as usize {
            let number = self.seen_interfaces.len() as u32;
            let name = reader.interface_name(number).unwrap_or("");
            if let Some(capture) = self.worker.capture_mut() {
                capture.replayed_interface(number + 1, name);
            }
            for file in [&mut self.dropped, &mut self.passed].into_iter().flatten() {
                file.name(number, name);
            }
            self.name_interface(number + 1, name);
            self.seen_interfaces.push(number);
        }
    }

    /// Tells `pkt.ifname` what the file calls an interface, where it does.
    fn name_interface(&self, ifindex: u32, name: &str) {
        let mut text = [0; IFNAME_BYTES as usize];
        let n = name.len().min(text.len() - 1);
        text[..n].copy_from_slice(&name.as_bytes()[..n]);
        for (spec, i) in self.shared.object.maps.iter().zip(0..) {
            if matches!(spec.role, MapRole::Interfaces { .. })
                && n > 0
                && let Some(map) = self.shared.replayed.as_ref().and_then(|m| m.get(i))
            {
                // A file with more interfaces than there is room for leaves some without a name.
                let _ = map.update(&ifindex.to_ne_bytes(), &text, 0);
            }
        }
    }

    /// Runs the intervals that are due. Returns whether the clock has jumped.
    #[cold]
    fn intervals(&mut self, now: u64) -> bool {
        let mut runs = 0;
        while self.machine.next_interval <= now && !self.worker.is_done() {
            runs += 1;
            if runs > MOST_RUNS {
                self.machine.start_intervals(now);
                return true;
            }
            self.machine.run_interval();
            self.records();
        }
        false
    }

    fn run_once(&mut self, point: &AttachPoint) {
        let programs: Vec<usize> = (0..self.shared.object.programs.len())
            .filter(|i| self.shared.object.programs[*i].attach.iter().any(|a| a.point == *point))
            .collect();
        for program in programs {
            self.machine.run(program, NOTHING.as_ptr() as u64);
            self.records();
        }
    }

    /// Does what the programs have sent.
    fn records(&mut self) {
        let records = std::mem::take(&mut self.machine.state.records);
        let mut rest = records.as_slice();
        while let Some((length, tail)) = rest.split_first_chunk::<8>() {
            let length = (u64::from_ne_bytes(*length) as usize).min(tail.len());
            if !self.worker.is_done() {
                self.worker.record(&tail[..length]);
            }
            rest = &tail[length.next_multiple_of(8).min(tail.len())..];
        }
        self.machine.state.records = records;
        self.machine.state.records.clear();
        while let Ok(report) = self.reports.try_recv() {
            match report {
                Report::Exit(code) => {
                    self.code.get_or_insert(code);
                }
                // Nobody reads any more: no failure.
                Report::Closed => {}
                Report::Failed(path, e) => self.failed = Some((path, e)),
            }
        }
    }

    /// `end`, and the maps.
    fn end(&mut self) -> Result<(), Error> {
        self.worker.resume();
        self.run_once(&AttachPoint::End);
        self.worker.finish(self.shared.object.config.print_maps_on_exit);
        self.records();
        for file in [&mut self.dropped, &mut self.passed].into_iter().flatten() {
            file.flush()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_are_summed_up_in_words() {
        let mut counts = Counts::default();
        for code in [2, 1, 2, 2] {
            Counts::add(&mut counts.xdp, code);
        }
        assert_eq!(counts.text(), "3 pass, 1 drop");
        Counts::add(&mut counts.tc, -1);
        assert_eq!(counts.text(), "xdp 3 pass, 1 drop; tc 1 next");
    }
}
