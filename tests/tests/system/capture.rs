//! `capture()` on real traffic, and `weir replay` of what it wrote.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};
use weir_tests::frame::{Frame, Payload};
use weir_tests::harness::Test;
use weir_tests::net::{Lab, NODE_IF, TempDir};
use weir_tests::pcapng::{self, Captured};
use weir_tests::traffic;
use weir_tests::weir::{Weir, program};

pub const TESTS: &[Test] = &[
    Test::new("capture_has_each_packet_once_with_its_verdict", verdicts),
    Test::new("capture_says_what_it_lost", losses),
    Test::new("capture_needs_a_file_and_a_file_needs_capture", files),
    Test::new("replay_counts_what_was_captured", replay),
    Test::new("replay_streams_what_it_captures", stream),
    Test::new("replay_says_what_is_wrong", errors),
];

fn args(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

fn read(path: &Path) -> Result<Vec<Captured>> {
    pcapng::read(&std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?)
}

/// Captures 4 datagrams that are dropped, 3 that come in and 2 that go out.
fn captured(lab: &Lab, file: &Path) -> Result<()> {
    let script = "xdp:veth0 /udp.dport == 53/ { capture(50); capture(20); drop(); } \
                  tc:veth0:ingress /udp.dport == 53 || udp.dport == 80/ { capture(); } \
                  tc:veth0:egress /udp.dport == 90/ { for $i : 0..3 { if ($i == 1) { capture(42); } } }";
    let words = ["--pcap".into(), file.as_os_str().to_owned(), "-e".into(), script.into()];
    let weir = Weir::new(words).at(lab).start()?;
    let (node, peer) = (lab.node4(), lab.peer4());
    traffic::send_udp(&lab.peer, peer.into(), (node, 53).into(), 4)?;
    traffic::send_udp(&lab.peer, peer.into(), (node, 80).into(), 3)?;
    traffic::send_udp(&lab.node, node.into(), (peer, 90).into(), 2)?;
    traffic::settle(lab)?;
    weir.stop()?.clean().map(drop)
}

fn verdicts() -> Result<()> {
    let lab = Lab::new()?;
    let file = lab.dir.path().join("x.pcapng");
    let before = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64;
    captured(&lab, &file)?;
    let packets = read(&file)?;
    let count = |bytes: usize, way, verdict, word: &str| {
        let same = |p: &&Captured| (p.data.len(), p.way, p.verdict, p.comment.as_str()) == (bytes, way, verdict, word);
        packets.iter().filter(same).count()
    };
    // XDP_DROP is 1; TC leaves the packet to the next program: -1. Shorter datagrams than the limit come whole.
    let length = packets.first().context("nothing was captured")?.length as usize;
    ensure!(count(length.min(50), 1, (2, 1), "drop") == 4, "{packets:#?}");
    ensure!(count(length.min(128), 1, (1, -1), "next") == 3, "{packets:#?}");
    ensure!(count(42.min(length), 2, (1, -1), "next") == 2, "{packets:#?}");
    ensure!(packets.len() == 9, "a packet was captured twice: {packets:#?}");
    for packet in &packets {
        ensure!(packet.interface == NODE_IF && packet.length as usize == length, "{packet:#?}");
        let age = packet.time_ns.wrapping_sub(before);
        ensure!(age < 60_000_000_000, "{} is not now: {packet:#?}", packet.time_ns);
        let ports = [packet.data[36], packet.data[37]];
        ensure!([[0, 53], [0, 80], [0, 90]].contains(&ports), "{packet:#?}");
    }
    Ok(())
}

fn losses() -> Result<()> {
    const SENT: u32 = 12_000;
    let lab = Lab::new()?;
    let file = lab.dir.path().join("x.pcapng");
    let script = "tc:veth0:ingress /udp.dport == 53/ { capture(1200); @ = count(); }";
    let words = ["--pcap".into(), file.as_os_str().to_owned(), "-e".into(), script.into()];
    let weir = Weir::new(words).at(&lab).start()?;
    // Nobody reads the ring meanwhile, and it has not room for all.
    weir.signal(Signal::SIGSTOP)?;
    let payload = Payload::Udp {
        sport: 1,
        dport: 53,
        data: vec![7; 1200],
    };
    traffic::send_frames(&lab, &[(SENT, Frame::new(lab.peer4(), lab.node4(), payload))])?;
    traffic::settle(&lab)?;
    weir.signal(Signal::SIGCONT)?;
    let done = weir.stop()?.clean()?;
    done.expect_map("@", [("", SENT)])?;
    let there = read(&file)?.len() as u32;
    let lost: u32 = done
        .stderr
        .lines()
        .filter_map(|l| l.split_once(" packets are missing in the capture file"))
        .filter_map(|(before, _)| before.rsplit(' ').next()?.parse::<u32>().ok())
        .sum();
    ensure!(lost > 0 && there + lost == SENT, "{there} captured, {lost} lost of {SENT}: {done}");
    Ok(())
}

fn files() -> Result<()> {
    let lab = Lab::new()?;
    Weir::script("xdp:veth0 { capture(); }")
        .at(&lab)
        .run()?
        .refused(&["`capture()` has no file to write to", "--pcap FILE", "^"])?;
    let words = args(&["--pcap", "x.pcapng", "-e", "xdp:veth0 { @ = count(); }"]);
    Weir::new(words).at(&lab).run()?.refused(&["the script captures nothing"])?;
    let words = args(&["--pcap", "/no/such/folder/x", "-e", "xdp:veth0 { capture(); }"]);
    Weir::new(words)
        .at(&lab)
        .run()?
        .refused(&["cannot write to `/no/such/folder/x`"])
        .map(drop)
}

/// A replay in a folder.
fn replayed(dir: &Path, words: &[&str]) -> Result<(Option<i32>, String, String)> {
    let out = Command::new(program()?)
        .arg("replay")
        .args(words)
        .current_dir(dir)
        .stdin(Stdio::null())
        .output()
        .context("cannot run weir")?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok((out.status.code(), text(out.stdout), text(out.stderr)))
}

fn replay() -> Result<()> {
    let lab = Lab::new()?;
    let dir = lab.dir.path();
    captured(&lab, &dir.join("x.pcapng"))?;
    let script = "xdp:any /udp.dport == 53/ { @x[ip.src] = count(); drop(); } tc:any:egress { @out = count(); }";
    let (code, out, err) = replayed(
        dir,
        &[
            "x.pcapng",
            "-e",
            script,
            "--write-dropped",
            "d.pcapng",
            "--write-passed",
            "p.pcapng",
        ],
    )?;
    ensure!(code == Some(0), "{err}");
    ensure!(
        out.contains(&format!("@x[{}]: 4\n", lab.peer4())) && out.contains("@out: 2\n"),
        "{out}"
    );
    ensure!(err == "Replayed 9 packets: xdp 5 pass, 4 drop; tc 2 next\n", "{err}");
    let (code, out, _) = replayed(dir, &["d.pcapng", "-q", "-f", "json", "-e", "xdp:any { @ = count(); }"])?;
    ensure!(code == Some(0) && out.contains("{\"@\": 4}"), "{out}");
    let (_, out, _) = replayed(dir, &["p.pcapng", "-e", "xdp:any { @ = count(); }"])?;
    ensure!(out.contains("@: 5\n"), "{out}");
    Ok(())
}

/// A pcap of `count` datagrams to port 53.
fn pcap(count: u32) -> Result<Vec<u8>> {
    let frame = Frame::udp(
        "192.0.2.1".parse::<std::net::Ipv4Addr>()?,
        "192.0.2.2".parse::<std::net::Ipv4Addr>()?,
        53,
    )
    .bytes();
    let mut out: Vec<u8> = [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65535, 1]
        .iter()
        .flat_map(|w| w.to_le_bytes())
        .collect();
    for i in 0..count {
        let length = frame.len() as u32;
        out.extend([1_700_000_000 + i, 0, length, length].iter().flat_map(|w| w.to_le_bytes()));
        out.extend(&frame);
    }
    Ok(out)
}

fn stream() -> Result<()> {
    let dir = TempDir::new()?;
    std::fs::write(dir.path().join("x.pcap"), pcap(3)?)?;
    let out = Command::new(program()?)
        .args(["replay", "x.pcap", "--pcap", "-", "-e"])
        .arg("xdp:any { capture(14); printf(\"packet\\n\"); if (pkt.len > 0) { drop(); } }")
        .current_dir(dir.path())
        .output()?;
    let err = String::from_utf8_lossy(&out.stderr).into_owned();
    ensure!(out.status.success(), "{err}");
    // Text goes where packets do not.
    ensure!(err.lines().filter(|l| *l == "packet").count() == 3, "{err}");
    let packets = pcapng::read(&out.stdout)?;
    ensure!(
        packets.len() == 3 && packets.iter().all(|p| p.verdict == (2, 1) && p.data.len() == 14),
        "{packets:#?}"
    );
    ensure!(packets[2].time_ns == 1_700_000_002_000_000_000, "{packets:#?}");
    // What was dropped can be a stream, too.
    let out = Command::new(program()?)
        .args(["replay", "x.pcap", "--write-dropped", "-", "-e"])
        .arg("xdp:any { @n = count(); ip.ttl--; if (udp.dport == 53) { drop(); } }")
        .current_dir(dir.path())
        .output()?;
    let err = String::from_utf8_lossy(&out.stderr).into_owned();
    ensure!(err.contains("@n: 3\n") && !dir.path().join("-").exists(), "{err}");
    let packets = pcapng::read(&out.stdout)?;
    ensure!(packets.len() == 3 && packets.iter().all(|p| p.data[22] == 63), "{packets:#?}");
    Ok(())
}

fn errors() -> Result<()> {
    let dir = TempDir::new()?;
    let write = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes);
    let whole = pcap(3)?;
    write("x.pcap", &whole)?;
    write("cut.pcap", &whole[..whole.len() - 1])?;
    write("text.pcap", b"hello, world")?;
    write("gzip.pcap", &[0x1f, 0x8b, 8, 0, 0, 0])?;
    write("empty.pcap", b"")?;
    let mut wifi = whole.clone();
    wifi[20] = 105;
    write("wifi.pcap", &wifi)?;
    let mut damaged = whole.clone();
    damaged[24 + 8..24 + 12].copy_from_slice(&[0xff; 4]);
    write("damaged.pcap", &damaged)?;
    let count = "xdp:any { @ = count(); }";
    let cases: &[(&[&str], &[&str])] = &[
        (&["x.pcap"], &["no script", "weir replay CAPTURE -e"]),
        (&["none.pcap", "-e", count], &["there is no file `none.pcap`"]),
        (&[".", "-e", count], &["`.` is a directory"]),
        (
            &["text.pcap", "-e", count],
            &["`text.pcap`", "neither pcap nor pcapng", "68 65 6c 6c", "at byte 0"],
        ),
        (&["gzip.pcap", "-e", count], &["gunzip"]),
        (&["empty.pcap", "-e", count], &["this is no capture: the file ends at byte 0"]),
        (&["wifi.pcap", "-e", count], &["link type 105", "Ethernet"]),
        (
            &["x.pcap", "-e", "profile:hz:9 { @ = count(); }"],
            &["`profile` cannot be replayed", "`xdp:any { … }`", "^"],
        ),
        (
            &["x.pcap", "-e", "tracepoint:tcp:tcp_probe { @ = count(); }"],
            &["`tracepoint` cannot be replayed", "^"],
        ),
        (
            &["x.pcap", "-e", "kprobe:tcp_connect { @ = count(); }"],
            &["`kprobe` cannot be replayed", "`xdp:any { … }`", "^"],
        ),
        (
            &[
                "x.pcap",
                "-e",
                "use blocklist(iface=\"eth0\", prefixes=(10.0.0.0/8)) as bl; bl:drop { @ = count(); }",
            ],
            &["`blocklist` cannot be replayed", "lpm"],
        ),
        (&["x.pcap", "-e", "xdp:any { capture(); }"], &["`capture()` has no file"]),
        (
            &["x.pcap", "-e", count, "--write-dropped", "-", "--write-passed", "-"],
            &["`--write-dropped -` and `--write-passed -`", "standard output"],
        ),
        (&["x.pcap", "-e", "xdp:any { @ = ; }"], &["error", "^"]),
        (
            &["x.pcap", "-e", count, "--write-passed", "/no/such/folder/x"],
            &["cannot write to `/no/such/folder/x`"],
        ),
    ];
    for (words, said) in cases {
        let (code, out, err) = replayed(dir.path(), words)?;
        ensure!(code == Some(1) && out.is_empty(), "{words:?}: {code:?}\n{out}\n{err}");
        for word in *said {
            ensure!(err.contains(word), "{words:?} does not say `{word}`: {err}");
        }
    }
    // What could be read is counted.
    let (code, out, err) = replayed(dir.path(), &["cut.pcap", "-e", count])?;
    ensure!(code == Some(1) && out.contains("@: 2\n"), "{code:?} {out}");
    ensure!(err.contains("the file ends inside a packet") && err.contains("at byte"), "{err}");
    let (code, out, err) = replayed(
        dir.path(),
        &["damaged.pcap", "-e", "begin { printf(\"hello\\n\"); } xdp:any { @ = count(); }"],
    )?;
    ensure!(code == Some(1) && out.starts_with("hello\n"), "{code:?} {out}");
    ensure!(err.contains("the file is damaged at byte 24"), "{err}");
    Ok(())
}
