//! What `capture` writes: records of the ring buffer, as pcapng.

use crate::error::Error;
use crate::pcap::{LinkType, Verdict, Way, Writer, WrittenPacket};
use crate::sink::stdout;
use crate::sys::netlink::Netlink;
use crate::sys::{netns, proc};
use crate::verdict;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use weir_compiler::hir::glob_match;
use weir_compiler::object::{AttachPoint, Direction, IfacePattern, LinkLayer, ProgramKind, ProgramSpec, capture};

/// Where captured packets go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CaptureTarget {
    Stdout,
    File(PathBuf),
}

impl CaptureTarget {
    /// Opens it for writing; returns what it is called, too.
    pub(crate) fn open(&self) -> (io::Result<File>, PathBuf) {
        match self {
            CaptureTarget::Stdout => (stdout(), PathBuf::from("standard output")),
            CaptureTarget::File(path) => (File::create(path), path.clone()),
        }
    }
}

/// A capture file being written.
#[derive(Debug)]
pub struct CaptureFile {
    path: PathBuf,
    writer: Writer<BufWriter<File>>,
    /// Numbers in the file: by program, since programs may be in different network namespaces, and interface.
    interfaces: HashMap<(String, u32), u32>,
    /// Interfaces that the kernel cannot be asked about.
    known: HashMap<u32, String>,
    /// Whether times in records are already those of the packet.
    packet_time: bool,
}

/// `ARPHRD_NONE`: a tunnel, whose packets start at IP.
const ARPHRD_NONE: u16 = 65534;

/// Headers as `capture()` takes them say nothing of a snap length; 0 means there is none.
const NO_SNAP_LENGTH: u32 = 0;

/// Both addresses of an Ethernet header.
const ADDRESSES: usize = 12;

impl CaptureFile {
    /// Makes the file and writes its header.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn create(target: &CaptureTarget) -> Result<Self, Error> {
        let (file, path) = target.open();
        let start = |file| {
            let mut writer = Writer::new(BufWriter::with_capacity(64 * 1024, file))?;
            // A reader of a stream waits for the header.
            writer.flush()?;
            Ok(writer)
        };
        match file.and_then(start) {
            Ok(writer) => Ok(Self {
                path,
                writer,
                interfaces: HashMap::new(),
                known: HashMap::new(),
                packet_time: false,
            }),
            Err(source) => Err(Error::Output { path, source }),
        }
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Says that records have the packets' own times, and what an interface is called.
    pub(crate) fn replayed_interface(&mut self, ifindex: u32, name: &str) {
        self.packet_time = true;
        self.known.insert(ifindex, name.to_owned());
    }

    /// Writes the packet of a record.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn record(&mut self, program: &ProgramSpec, record: &[u8]) -> io::Result<()> {
        let word = |at: u32| {
            let mut bytes = [0; 8];
            if let Some(part) = record.get(at as usize..at as usize + 8) {
                bytes.copy_from_slice(part);
            }
            u64::from_le_bytes(bytes)
        };
        let verdict_code = word(capture::VERDICT) as i32;
        let (length, captured) = (word(capture::LENGTH) as u32, word(capture::CAPTURED) as u32);
        let start = capture::HEADER_BYTES as usize;
        // A record is rounded up to whole words on its way.
        let Some(data) = record.get(start..start + captured as usize) else {
            return Ok(());
        };
        let interface = self.interface(program, word(capture::IFINDEX) as u32)?;
        // On the wire a tag that lies beside the packet stands behind the addresses.
        let mut tagged = Vec::new();
        let (data, length) = match data.split_at_checked(ADDRESSES) {
            Some((addresses, rest)) if word(capture::TAGGED) as u32 != 0 => {
                let tag_type = (word(capture::TAG_TYPE) as u16).to_le_bytes();
                let tag = (word(capture::TAG) as u16).to_be_bytes();
                tagged.extend_from_slice(&[addresses, &tag_type, &tag, rest].concat());
                (tagged.as_slice(), length + 4)
            }
            _ => (data, length),
        };
        let time_ns = match word(capture::TIME) {
            time if self.packet_time => time,
            time => wall_clock(time),
        };
        let way = program.attach.first().map(|a| match &a.point {
            AttachPoint::Tc {
                direction: Direction::Egress,
                ..
            } => Way::Out,
            _ => Way::In,
        });
        let verdict = match program.kind {
            ProgramKind::SchedCls => Verdict::Tc(verdict_code.into()),
            _ => Verdict::Xdp(verdict_code.into()),
        };
        self.writer.packet(&WrittenPacket {
            interface,
            time_ns,
            data,
            length,
            way,
            verdict: Some(verdict),
            comment: &verdict::word(program.kind, verdict_code),
        })
    }

    /// Returns an interface's number in the file, and describes it there when it is new.
    fn interface(&mut self, program: &ProgramSpec, ifindex: u32) -> io::Result<u32> {
        if let Some(number) = self.interfaces.get(&(program.name.clone(), ifindex)) {
            return Ok(*number);
        }
        let (name, link) = match self.known.get(&ifindex) {
            Some(name) => {
                let link = match program.attach.first().map(|a| a.point.link_layer()) {
                    Some(LinkLayer::None) => LinkType::Raw,
                    _ => LinkType::Ethernet,
                };
                (name.clone(), link)
            }
            None => find(program, ifindex).unwrap_or_else(|| (format!("interface {ifindex}"), LinkType::Ethernet)),
        };
        let number = self.writer.interface(&name, link, NO_SNAP_LENGTH)?;
        self.interfaces.insert((program.name.clone(), ifindex), number);
        Ok(number)
    }

    /// # Errors
    /// When it cannot be written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// Converts a time of the monotonic clock.
fn wall_clock(monotonic_ns: u64) -> u64 {
    let now = proc::clock_ns(libc::CLOCK_REALTIME);
    let ago = proc::clock_ns(libc::CLOCK_MONOTONIC).saturating_sub(monotonic_ns);
    now.saturating_sub(ago)
}

/// Asks the kernel for an interface, in the network namespaces that the program is attached in.
fn find(program: &ProgramSpec, ifindex: u32) -> Option<(String, LinkType)> {
    program.attach.iter().find_map(|attach| {
        let (AttachPoint::Xdp {
            iface: IfacePattern { pattern, netns, .. },
            ..
        }
        | AttachPoint::Tc {
            iface: IfacePattern { pattern, netns, .. },
            ..
        }) = &attach.point
        else {
            return None;
        };
        let links = netns::run_in(netns.as_deref(), || Netlink::open().and_then(|mut n| n.links()))
            .ok()?
            .ok()?;
        let link = links.into_iter().find(|l| l.ifindex == ifindex && glob_match(pattern, &l.name))?;
        let kind = if link.arphrd == ARPHRD_NONE {
            LinkType::Raw
        } else {
            LinkType::Ethernet
        };
        Some((link.name, kind))
    })
}
