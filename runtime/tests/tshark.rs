//! What weir writes, read by Wireshark's own reader. Needs `tshark`, which the test runner installs.

#![allow(clippy::unwrap_used)] // A panic is the failure.

use std::process::Command;
use weir_runtime::pcap::{LinkType, Verdict, Way, Writer, WrittenPacket};

#[test]
fn tshark_reads_every_field() {
    let path = std::env::temp_dir().join(format!("weir-tshark-{}.pcapng", std::process::id()));
    let mut writer = Writer::new(std::fs::File::create(&path).unwrap()).unwrap();
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    frame.extend([0x45, 0, 0, 28, 0, 1, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    frame.extend([0, 7, 0, 53, 0, 8, 0, 0]);
    let ethernet = writer.interface("eth0", LinkType::Ethernet, 0).unwrap();
    let raw = writer.interface("tun0", LinkType::Raw, 0).unwrap();
    let packets = [
        (ethernet, Way::In, Verdict::Xdp(1), "drop", &frame[..]),
        (raw, Way::Out, Verdict::Tc(-1), "next", &frame[14..]),
        (ethernet, Way::Out, Verdict::Tc(2), "", &frame[..41]),
    ];
    for (i, (interface, way, verdict, comment, data)) in packets.into_iter().enumerate() {
        writer
            .packet(&WrittenPacket {
                interface,
                time_ns: 1_700_000_000_123_456_789 + i as u64,
                data,
                length: 500,
                way: Some(way),
                verdict: Some(verdict),
                comment,
            })
            .unwrap();
    }
    writer.flush().unwrap();
    let fields = [
        "frame.interface_name",
        "frame.len",
        "frame.cap_len",
        "frame.time_epoch",
        "frame.packet_flags_direction",
        "frame.verdict.ebpf_xdp",
        "frame.verdict.ebpf_tc",
        "frame.comment",
        "ip.dst",
        "udp.dstport",
    ];
    let mut command = Command::new("tshark");
    command.arg("-r").arg(&path).args(["-T", "fields", "-E", "separator=,"]);
    for field in fields {
        command.args(["-e", field]);
    }
    let out = command.output().expect("tshark, from the Debian package of that name");
    std::fs::remove_file(&path).unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines,
        [
            "eth0,500,42,1700000000.123456789,0x00000001,1,,drop,10.0.0.2,53",
            "tun0,500,28,1700000000.123456790,0x00000002,,-1,next,10.0.0.2,53",
            "eth0,500,41,1700000000.123456791,0x00000002,,2,,10.0.0.2,53",
        ]
    );
}
