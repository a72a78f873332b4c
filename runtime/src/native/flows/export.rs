//! Reports of flows as lines of JSON, named after IPFIX information elements (IANA's registry, RFC 7012).

use crate::sink::stdout;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use serde::Serialize;
use std::fs::{File, Metadata};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use weir_ebpf_builtins::abi::FAMILY_IPV6;
use weir_ebpf_builtins::flows::{DIRECTION_EGRESS, Key};

/// As the name of a file: standard output.
const STDOUT: &str = "-";

/// `flowEndReason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    Idle = 1,
    Active = 2,
    End = 3,
    Forced = 4,
    NoRoom = 5,
}

/// What a report says.
#[derive(Clone, Debug)]
pub(super) struct Report<'a> {
    pub key: Key,
    pub reason: Reason,
    /// Of the report's time, milliseconds since 1970.
    pub start_ms: u64,
    pub end_ms: u64,
    /// Since the last report of this flow.
    pub packets: u64,
    pub bytes: u64,
    /// Bytes in front of the IP header.
    pub link: u64,
    pub flags: u8,
    /// Of the whole flow.
    pub syns: u32,
    pub fins: u32,
    pub rsts: u32,
    pub retransmits: u32,
    pub known_by: &'static str,
    pub srtt_us: u32,
    pub owner: Option<(&'a str, u32)>,
    pub interface: &'a str,
    pub is_pod: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    flow_start_milliseconds: u64,
    flow_end_milliseconds: u64,
    flow_end_reason: u8,
    ip_version: u8,
    #[serde(rename = "sourceIPv4Address", skip_serializing_if = "Option::is_none")]
    source4: Option<Ipv4Addr>,
    #[serde(rename = "destinationIPv4Address", skip_serializing_if = "Option::is_none")]
    destination4: Option<Ipv4Addr>,
    #[serde(rename = "sourceIPv6Address", skip_serializing_if = "Option::is_none")]
    source6: Option<Ipv6Addr>,
    #[serde(rename = "destinationIPv6Address", skip_serializing_if = "Option::is_none")]
    destination6: Option<Ipv6Addr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_transport_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    destination_transport_port: Option<u16>,
    protocol_identifier: u8,
    #[serde(skip_serializing_if = "is_zero16")]
    vlan_id: u16,
    interface_name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ingress_interface: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    egress_interface: Option<u32>,
    flow_direction: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod_direction: Option<&'static str>,
    packet_delta_count: u64,
    octet_delta_count: u64,
    layer2_octet_delta_count: u64,
    #[serde(flatten)]
    tcp: Option<Tcp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    process_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    process_id: Option<u32>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Tcp {
    tcp_control_bits: u8,
    tcp_syn_total_count: u32,
    tcp_fin_total_count: u32,
    tcp_rst_total_count: u32,
    retransmitted_segments: u32,
    retransmits_known_by: &'static str,
    #[serde(skip_serializing_if = "is_zero32")]
    smoothed_rtt_microseconds: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
fn is_zero16(n: &u16) -> bool {
    *n == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
fn is_zero32(n: &u32) -> bool {
    *n == 0
}

/// Which way a flow goes, in the words of the pod behind the interface.
pub(super) fn pod_direction(direction: u8) -> &'static str {
    if direction == DIRECTION_EGRESS { "to_pod" } else { "from_pod" }
}

fn bytes(words: [u64; 2]) -> [u8; 16] {
    let mut out = [0; 16];
    out[..8].copy_from_slice(&words[0].to_ne_bytes());
    out[8..].copy_from_slice(&words[1].to_ne_bytes());
    out
}

impl Report<'_> {
    /// Gives the report as a line, without its end.
    pub fn json(&self) -> String {
        let flow = &self.key.flow;
        let is_v6 = u32::from(flow.family) == FAMILY_IPV6;
        let v4 = |words| {
            let b = bytes(words);
            (!is_v6).then(|| Ipv4Addr::new(b[0], b[1], b[2], b[3]))
        };
        let v6 = |words| is_v6.then(|| Ipv6Addr::from(bytes(words)));
        let is_egress = self.key.direction == DIRECTION_EGRESS;
        let tcp = (flow.proto == 6).then_some(Tcp {
            tcp_control_bits: self.flags,
            tcp_syn_total_count: self.syns,
            tcp_fin_total_count: self.fins,
            tcp_rst_total_count: self.rsts,
            retransmitted_segments: self.retransmits,
            retransmits_known_by: self.known_by,
            smoothed_rtt_microseconds: self.srtt_us,
        });
        let line = Line {
            flow_start_milliseconds: self.start_ms,
            flow_end_milliseconds: self.end_ms,
            flow_end_reason: self.reason as u8,
            ip_version: if is_v6 { 6 } else { 4 },
            source4: v4(flow.src),
            destination4: v4(flow.dst),
            source6: v6(flow.src),
            destination6: v6(flow.dst),
            source_transport_port: (flow.has_ports != 0).then_some(flow.sport),
            destination_transport_port: (flow.has_ports != 0).then_some(flow.dport),
            protocol_identifier: flow.proto,
            vlan_id: self.key.vlan,
            interface_name: self.interface,
            ingress_interface: (!is_egress).then_some(self.key.ifindex),
            egress_interface: is_egress.then_some(self.key.ifindex),
            flow_direction: self.key.direction,
            pod_direction: self.is_pod.then(|| pod_direction(self.key.direction)),
            packet_delta_count: self.packets,
            octet_delta_count: self.bytes.saturating_sub(self.packets * self.link),
            layer2_octet_delta_count: self.bytes,
            tcp,
            process_name: self.owner.map(|(name, _)| name),
            process_id: self.owner.map(|(_, pid)| pid),
        };
        // Numbers, words and addresses: there is nothing that could fail.
        serde_json::to_string(&line).unwrap_or_default()
    }
}

/// So much is written at a time, and the rest of a line.
const BATCH: usize = 64 << 10;
/// So much waits for a file that cannot be written.
const WAITING: usize = 1 << 20;

/// The file that reports go to. Only whole lines are written: somebody may read it meanwhile, or write there, too.
///
/// One that cannot be written, as the disk is full, is tried again with every flush. One that was moved away or deleted, as `logrotate`
/// does, is made anew.
#[derive(Debug)]
pub(super) struct Export {
    /// `None` where standard output is closed: that is for good.
    file: Option<File>,
    path: String,
    /// What is still to be written.
    lines: Vec<u8>,
    /// A part of the first of them is written.
    is_half: bool,
    fault: Option<Fault>,
}

/// Why the file cannot be written.
#[derive(Debug)]
struct Fault {
    /// What the last attempt has said.
    error: String,
    /// So many reports did not find room in [`Export::lines`] since.
    missing: u64,
}

impl Export {
    /// Opens the file, or makes it. `-` is standard output.
    ///
    /// # Errors
    /// What open(2) says.
    pub fn open(path: &str) -> io::Result<Self> {
        // Standard output as it is: what the script prints goes there, too, and opened anew a file would have another end, and a socket none.
        let (file, lines) = if path == STDOUT {
            (stdout()?, Vec::new())
        } else {
            open_file(path)?
        };
        Ok(Self {
            file: Some(file),
            path: path.to_owned(),
            lines,
            is_half: false,
            fault: None,
        })
    }

    /// Takes a report, and writes when there are many. Returns what a person should hear.
    pub fn write(&mut self, report: &Report<'_>) -> Option<String> {
        self.file.as_ref()?;
        let json = report.json();
        if let Some(fault) = &mut self.fault {
            // The next flush tries again.
            if self.lines.len() + json.len() < WAITING {
                self.add(&json);
            } else {
                fault.missing += 1;
            }
            return None;
        }
        self.add(&json);
        if self.lines.len() < BATCH { None } else { self.flush() }
    }

    fn add(&mut self, json: &str) {
        self.lines.extend_from_slice(json.as_bytes());
        self.lines.push(b'\n');
    }

    /// Writes what waits. Returns what a person should hear: that it cannot be done, or can be done again.
    pub fn flush(&mut self) -> Option<String> {
        if self.lines.is_empty() {
            return None;
        }
        let result = self.put();
        match (result, &mut self.fault) {
            (Ok(()), None) => None,
            (Ok(()), Some(Fault { missing, .. })) => {
                let told = format!("`{}` can be written again; reports that are missing there: {missing}", self.path);
                self.fault = None;
                Some(told)
            }
            (Err(error), _) if self.path == STDOUT && error.kind() == io::ErrorKind::BrokenPipe => {
                self.file = None;
                Some("standard output is closed; no more reports go there".to_owned())
            }
            (Err(error), None) => {
                let told = format!("`{}` cannot be written ({error}); it is tried again every second", self.path);
                let error = error.to_string();
                self.fault = Some(Fault { error, missing: 0 });
                Some(told)
            }
            (Err(error), Some(fault)) => {
                fault.error = error.to_string();
                None
            }
        }
    }

    /// Writes for the last time. Returns what a person should hear.
    pub fn end(&mut self) -> Option<String> {
        let told = self.flush();
        let waiting = self.lines.iter().filter(|byte| **byte == b'\n').count() as u64;
        match &self.fault {
            Some(Fault { error, missing }) if self.file.is_some() => {
                let missing = missing + waiting;
                Some(format!(
                    "`{}` could not be written any more ({error}); reports that are missing there: {missing}",
                    self.path
                ))
            }
            _ => told,
        }
    }

    fn put(&mut self) -> io::Result<()> {
        if self.is_moved() {
            let (file, mut lines) = open_file(&self.path)?;
            self.file = Some(file);
            // The other part is in the old file.
            if std::mem::take(&mut self.is_half) {
                let end = self
                    .lines
                    .iter()
                    .position(|byte| *byte == b'\n')
                    .map_or(self.lines.len(), |end| end + 1);
                self.lines.drain(..end);
                if let Some(fault) = &mut self.fault {
                    fault.missing += 1;
                }
            }
            lines.append(&mut self.lines);
            self.lines = lines;
        }
        let Some(mut file) = self.file.as_ref() else { return Ok(()) };
        // As [`crate::sink::write_alone`], with how far it came.
        let _alone = (self.path == STDOUT).then(|| io::stdout().lock());
        let mut written = 0;
        let mut result = Ok(());
        while result.is_ok() && written < self.lines.len() {
            match file.write(&self.lines[written..]) {
                Ok(0) => result = Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => written += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => result = Err(error),
            }
        }
        if let Some(last) = written.checked_sub(1) {
            self.is_half = self.lines[last] != b'\n';
        }
        self.lines.drain(..written);
        result
    }

    /// Whether what is open is a file that has its name no more.
    fn is_moved(&self) -> bool {
        let is_file = |m: &Metadata| m.is_file();
        let open = self.file.as_ref().filter(|_| self.path != STDOUT);
        let Some(open) = open.and_then(|file| file.metadata().ok()).filter(is_file) else {
            return false;
        };
        match std::fs::metadata(&self.path) {
            Ok(named) => (named.dev(), named.ino()) != (open.dev(), open.ino()),
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }
}

/// Opens a file for appending, or makes it. Returns also what ends the line that somebody left there: who wrote there last may have been
/// killed, or the disk was full.
fn open_file(path: &str) -> io::Result<(File, Vec<u8>)> {
    // A named pipe that nobody reads is an error, instead of waiting for somebody.
    let file = File::options()
        .append(true)
        .create(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    fcntl(&file, FcntlArg::F_SETFL(OFlag::O_APPEND))?;
    let lines = if has_half_a_line(path) { b"\n".to_vec() } else { Vec::new() };
    Ok((file, lines))
}

/// Whether a file, and nothing else, ends without the end of a line.
fn has_half_a_line(path: &str) -> bool {
    let last = || {
        let mut file = File::open(path)?;
        let len = file.metadata()?.len();
        let mut byte = [0];
        file.seek(SeekFrom::Start(len.saturating_sub(1)))?;
        file.read_exact(&mut byte)?;
        io::Result::Ok(byte[0])
    };
    // Of a pipe somebody else would miss the byte.
    std::fs::metadata(path).is_ok_and(|m| m.is_file()) && last().is_ok_and(|byte| byte != b'\n')
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_ebpf_builtins::abi::net::Flow;

    fn report(family: u8, proto: u8) -> Report<'static> {
        Report {
            key: Key {
                flow: Flow {
                    src: [u64::from_ne_bytes([10, 0, 0, 1, 0, 0, 0, 0]), 0],
                    dst: [u64::from_ne_bytes([10, 0, 0, 2, 0, 0, 0, 0]), 0],
                    sport: 4000,
                    dport: 443,
                    proto,
                    family,
                    has_ports: 1,
                    zero: 0,
                },
                ifindex: 7,
                vlan: 0,
                direction: DIRECTION_EGRESS,
                zero: 0,
            },
            reason: Reason::End,
            start_ms: 1000,
            end_ms: 2500,
            packets: 3,
            bytes: 300,
            link: 14,
            flags: 0x13,
            syns: 1,
            fins: 1,
            rsts: 0,
            retransmits: 2,
            known_by: "kernel",
            srtt_us: 0,
            owner: None,
            interface: "veth0",
            is_pod: false,
        }
    }

    #[test]
    fn a_line_has_the_names_of_ipfix() {
        assert_eq!(
            report(2, 6).json(),
            "{\"flowStartMilliseconds\":1000,\"flowEndMilliseconds\":2500,\"flowEndReason\":3,\"ipVersion\":4,\
             \"sourceIPv4Address\":\"10.0.0.1\",\"destinationIPv4Address\":\"10.0.0.2\",\"sourceTransportPort\":4000,\
             \"destinationTransportPort\":443,\"protocolIdentifier\":6,\"interfaceName\":\"veth0\",\"egressInterface\":7,\
             \"flowDirection\":1,\"packetDeltaCount\":3,\"octetDeltaCount\":258,\"layer2OctetDeltaCount\":300,\
             \"tcpControlBits\":19,\"tcpSynTotalCount\":1,\"tcpFinTotalCount\":1,\"tcpRstTotalCount\":0,\
             \"retransmittedSegments\":2,\"retransmitsKnownBy\":\"kernel\"}"
        );
    }

    #[test]
    fn a_line_that_somebody_left_unfinished_ends_before_ours() {
        let path = std::env::temp_dir().join(format!("weir-export-{}", std::process::id()));
        let text = path.to_str().unwrap();
        let line = report(2, 6).json();
        for (before, after) in [
            ("", format!("{line}\n")),
            ("{}\n", format!("{{}}\n{line}\n")),
            ("{\"flow", format!("{{\"flow\n{line}\n")),
        ] {
            std::fs::write(&path, before).unwrap();
            let mut export = Export::open(text).unwrap();
            assert_eq!(export.write(&report(2, 6)), None);
            assert_eq!(std::fs::read_to_string(&path).unwrap(), before, "not yet");
            assert_eq!(export.flush(), None);
            assert_eq!(std::fs::read_to_string(&path).unwrap(), after);
        }
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_pipe_that_nobody_reads_is_an_error() {
        let path = std::env::temp_dir().join(format!("weir-fifo-{}", std::process::id()));
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let text = path.to_str().unwrap();
        assert_eq!(Export::open(text).unwrap_err().raw_os_error(), Some(libc::ENXIO));
        let reader = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&path).unwrap();
        let mut export = Export::open(text).unwrap();
        assert_eq!((export.write(&report(2, 6)), export.flush()), (None, None));
        let mut byte = [0];
        (&reader).read_exact(&mut byte).unwrap();
        assert_eq!(byte, *b"{");
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn what_cannot_be_written_waits_as_far_as_there_is_room() {
        let path = std::env::temp_dir().join(format!("weir-export-again-{}", std::process::id()));
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let text = path.to_str().unwrap();
        let reader = || File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&path).unwrap();
        let read = |mut file: &File| {
            let mut bytes = vec![0; 4096];
            let n = file.read(&mut bytes).unwrap();
            String::from_utf8(bytes[..n].to_vec()).unwrap()
        };
        let line = report(2, 6).json() + "\n";
        let nobody = reader();
        let mut export = Export::open(text).unwrap();
        drop(nobody);
        assert_eq!(export.write(&report(2, 6)), None);
        let told = export.flush().unwrap();
        assert!(told.contains("cannot be written (Broken pipe"), "{told}");
        assert_eq!((export.flush(), export.write(&report(2, 6))), (None, None));

        let somebody = reader();
        let told = export.flush().unwrap();
        assert!(told.ends_with("can be written again; reports that are missing there: 0"), "{told}");
        assert_eq!((read(&somebody), export.flush()), (line.repeat(2), None));

        drop(somebody);
        let most = WAITING / line.len();
        assert!((0..most + 3).filter_map(|_| export.write(&report(2, 6))).eq([told_once(text)]));
        assert!(export.lines.len() <= WAITING);
        let never = |missing: usize| {
            let end = format!("reports that are missing there: {missing}");
            Some(format!("`{text}` could not be written any more (Broken pipe (os error 32)); {end}"))
        };
        assert_eq!(export.end(), never(most + 3));

        // The first fault is also the last.
        let nobody = reader();
        let mut export = Export::open(text).unwrap();
        drop(nobody);
        assert_eq!((export.write(&report(2, 6)), export.end()), (None, never(1)));
        std::fs::remove_file(&path).unwrap();
    }

    fn told_once(path: &str) -> String {
        format!("`{path}` cannot be written (Broken pipe (os error 32)); it is tried again every second")
    }

    #[test]
    fn a_file_that_was_moved_away_is_made_anew() {
        let path = std::env::temp_dir().join(format!("weir-export-moved-{}", std::process::id()));
        let old = path.with_extension("1");
        let mut export = Export::open(path.to_str().unwrap()).unwrap();
        let line = report(2, 6).json() + "\n";
        let lines = |path: &std::path::Path| std::fs::read_to_string(path).unwrap();
        for _ in 0..2 {
            assert_eq!((export.write(&report(2, 6)), export.flush()), (None, None));
        }
        std::fs::rename(&path, &old).unwrap();
        assert_eq!((export.write(&report(2, 6)), export.flush()), (None, None));
        assert_eq!((lines(&old), lines(&path)), (line.repeat(2), line.clone()));
        // As on a disk that was full in the middle of a line, whose other half would be the first of the new file.
        std::fs::rename(&path, &old).unwrap();
        export.lines = b"half\"}\n".to_vec();
        export.is_half = true;
        export.fault = Some(Fault {
            error: "no room".to_owned(),
            missing: 0,
        });
        assert_eq!(export.write(&report(2, 6)), None);
        let told = export.flush().unwrap();
        assert!(told.ends_with("missing there: 1"), "{told}");
        assert_eq!(lines(&path), line);
        std::fs::remove_file(&path).unwrap();
        std::fs::remove_file(&old).unwrap();
    }

    #[test]
    fn what_there_is_not_is_not_in_the_line() {
        let mut report = report(10, 58);
        report.key.flow.has_ports = 0;
        report.key.vlan = 12;
        report.is_pod = true;
        report.owner = Some(("curl", 99));
        let line: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!(line["sourceIPv6Address"], "a00:1::");
        assert_eq!(
            (&line["vlanId"], &line["processName"], &line["podDirection"]),
            (&12.into(), &"curl".into(), &"to_pod".into())
        );
        for name in ["sourceIPv4Address", "sourceTransportPort", "tcpControlBits", "ingressInterface"] {
            assert!(line.get(name).is_none(), "{name}");
        }
    }
}
