//! Every saved script in `examples/` attaches, sees traffic that makes it print what its head shows, and leaves nothing behind.

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use std::any::Any;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;
use weir_tests::cgroup::Cgroup;
use weir_tests::features::{Answer, Feature};
use weir_tests::frame::{Frame, Payload};
use weir_tests::harness::Test;
use weir_tests::kernel::KernelState;
use weir_tests::net::Lab;
use weir_tests::traffic::{self, Connection};
use weir_tests::weir::{Finished, Running, Weir, program};
use weir_tests::{patience, wait_for};

pub const TESTS: &[Test] = &[
    Test::new("every_example_runs", every_example).alone(),
    Test::new("the_unit_of_systemd_runs_a_script_and_ends_it", unit),
    Test::new("an_example_for_captures_prints_what_its_head_says", replayed),
];

/// What has to stay open until the script has ended.
type Held = Box<dyn Any>;

/// One saved script.
struct Case {
    name: &'static str,
    /// Its parameters; what stands in front of `SCRIPT` are switches.
    args: &'static [&'static str],
    /// What makes it print something.
    traffic: fn(&Lab) -> Result<Held>,
    /// Parts of what it then has printed; `{node}` and `{peer}` are the addresses.
    prints: &'static [&'static str],
}

const fn case(
    name: &'static str,
    args: &'static [&'static str],
    traffic: fn(&Lab) -> Result<Held>,
    prints: &'static [&'static str],
) -> Case {
    Case {
        name,
        args,
        traffic,
        prints,
    }
}

const NAMED: &[&str] = &["--iface", "veth0"];

const CASES: &[Case] = &[
    case("who-retransmits", &[], loss, &["> {peer}:4433 tcp  "]),
    case(
        "dns-answers",
        &[],
        dns,
        &["@asked[www.example, 1]: 3\n", "@asked[nope.example, 1]: 2\n"],
    ),
    case(
        "dnat",
        &["veth0", "{node}", "{peer}", "02:00:00:00:00:02", "veth1"],
        web_syns,
        &["@to[{peer}, 8080]: 2\n"],
    ),
    case(
        "blocklist",
        &["--iface", "veth0", "--list", "bad.txt"],
        listed,
        &["@dropped[10.66.1.2]: 3\n", "@bl.hits[10.66.0.0/16]: { .packets = 3"],
    ),
    case(
        "capture-refused",
        &["--pcap", "refused.pcapng", "SCRIPT", "--iface", "veth0"],
        syns,
        &["@refused[{peer}, 22]: 3\n"],
    ),
    case("close-waits", &[], half_closed, &["@close_wait[{peer}, 4433]: 1\n"]),
    case(
        "connect-failures",
        &[],
        refused,
        &["@failed[{peer}, 4434]: 1\n", "@after_ms[{peer}, 4434]: "],
    ),
    case("connect-latency", &[], connection, &["@latency_us[{peer}]:\n"]),
    case("connects-by-process", &[], connector, &["@connects[connector, {peer}, 4433]: 1\n"]),
    case("dns-clients", NAMED, dns, &["@dns[{peer}, 53]: 5\n"]),
    case("dns-errors", NAMED, dns, &["@errors[nope.example, 3, {peer}]: 2\n"]),
    case(
        "dns-latency",
        NAMED,
        dns,
        &[
            "@latency_us[{node}]:\n",
            "@slowest_us[www.example]: ",
            "@slowest_us[nope.example]: ",
        ],
    ),
    case("drop-port", &["--iface", "veth0", "--port", "22"], syns, &["@tried[{peer}]: 3\n"]),
    case("drop-reasons", &[], nobody_listens, &["NO_SOCKET, "]),
    case(
        "flows",
        NAMED,
        connection,
        &["> {peer}:4433 tcp, veth0, egress/to_pod", "> {node}:", "  stats: flows "],
    ),
    case("flows-by-process", &[], connection, &[", {peer}, 4433]: "]),
    case(
        "identity",
        &["--iface", "veth0", "--policy", "policy.toml"],
        pod,
        &[
            "web -> {node}:4440  denied\n",
            "  payments ",
            "web -> {node} tcp/4440 ",
            "@by_rule[]: ",
        ],
    ),
    case("listen-drops", &[], unfinished, &["@synack_again[8443, 10."]),
    case(
        "mtu-black-holes",
        NAMED,
        too_big,
        &["@too_big[{peer}]: 2\n", "@mtu[{peer}]: 1400\n"],
    ),
    case(
        "nat-check",
        &["--inside", "veth0", "--outside", "veth1"],
        forwarded,
        &["@unchanged[{peer}, 10.99.0.2]: 1\n", "@missing[{node}, 22, 1]: "],
    ),
    case("open-files", &[], files, &["@[example]: "]),
    case(
        "pod-traffic",
        &["--pods", "veth*"],
        connection,
        &["@sent_bytes[veth0]: ", "@received_bytes[veth0]: "],
    ),
    case("port-scans", NAMED, scan, &["@ports[{peer}]: 6\n"]),
    case(
        "resets-by-process",
        &[],
        resets,
        // Kernels before 6.10 do not tell of answers without a socket.
        &["@by_process[resetter, ", "@received[{peer}, 4434]: "],
    ),
    case("retransmit-ratio", &[], loss, &["{peer}]: "]),
    case("retransmits", &[], loss, &["@retransmits[{peer}, 4433]: "]),
    case("retransmits-kprobe", &[], loss, &["@retransmits[{peer}]: "]),
    case("rewrite-port", NAMED, web, &["@clients[{peer}]: 2\n", "@answers: 1\n"]),
    case("syns-by-source", NAMED, syns, &["@syns[{peer}]: "]),
    case("tag-at-xdp", NAMED, dns, &["@seen[1, {peer}]: 5\n", "@unknown: "]),
    case(
        "top-talkers",
        NAMED,
        connection,
        &["@bytes[{node}, {peer}]: ", "@packets[{node}, {peer}]: "],
    ),
    case("unanswered-syns", NAMED, syns, &["@unanswered[{peer}, {node}, 22]: 3\n"]),
];

fn examples() -> Result<Vec<PathBuf>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .with_context(|| folder.display().to_string())?
        .map(|e| Ok(e?.path()))
        .collect::<Result<_>>()?;
    files.retain(|f| f.extension().is_some_and(|e| e == "weir"));
    files.sort();
    ensure!(files.len() >= 25, "only {} examples in {}", files.len(), folder.display());
    Ok(files)
}

/// What the unit starts is started here by its own words, and ended by the signal that it names.
fn unit() -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let text = std::fs::read_to_string(folder.join("weir@.service"))?;
    let setting = |name: &str| -> Result<&str> {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.with_context(|| format!("the unit has no {name}"))
    };
    let lab = Lab::new()?;
    lab.dir.write(
        "edge.weir",
        "use blocklist(iface=\"veth0\", prefixes=198.51.100.1, audit=\"off\") as bl;\n",
    )?;
    let script = lab.dir.path().join("edge.weir").display().to_string();
    let mut words = setting("ExecStart")?.split(' ');
    ensure!(words.next().is_some_and(|program| program.ends_with("/weir")), "{text}");
    let args: Vec<String> = words.map(|word| word.replace("/etc/weir/%i.weir", &script)).collect();
    ensure!(args.contains(&script), "{args:?}");
    let weir = Weir::new(args).at(&lab).start()?;
    let signal: Signal = setting("KillSignal")?.parse()?;
    let done = weir.end_with(signal)?.clean()?;
    ensure!(done.status.success() && done.stdout.contains("@bl.stats[passed]: "), "{done}");
    Ok(())
}

fn every_example() -> Result<()> {
    let kprobes = matches!(Feature::Kprobe.probe(), Answer::Yes);
    let mut failures = Vec::new();
    for file in examples()? {
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let Some(case) = CASES.iter().find(|c| c.name == name) else {
            bail!("no traffic is declared for {}", file.display());
        };
        if let Err(e) = one(case, &file, kprobes) {
            failures.push(format!("{name}: {e:#}"));
        }
    }
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

fn one(case: &Case, file: &Path, kprobes: bool) -> Result<()> {
    let text = std::fs::read_to_string(file)?;
    // The head says what the script is and how it is called; what it prints is there to compare with.
    for part in ["usage: weir ", "// output:\n//     "] {
        ensure!(text.contains(part), "the head lacks `{part}`");
    }
    let lab = Lab::new()?;
    lab.dir.write("bad.txt", "10.66.0.0/16\n2001:db8:bad::/48\n")?;
    lab.add_cable("veth1", "peer1")?;
    let before = KernelState::now(Some(&lab.node))?;
    // The policy beside the script, for a cgroup that is there now.
    let group = Cgroup::new()?;
    let policy = std::fs::read_to_string(file.with_file_name("identity-policy.toml"))?;
    let last = "[[rule]]\nname = \"the last packet of the test\"\nport = 9\nverdict = \"allow\"\n";
    lab.dir
        .write("policy.toml", &format!("{}{last}", policy.replace("/weir-example", &group.path())))?;
    let _resident = (case.name == "identity").then(|| group.resident(&lab.peer)).transpose()?;
    let path = file.to_string_lossy().into_owned();
    let address = |text: &str| {
        text.replace("{node}", &lab.node4().to_string())
            .replace("{peer}", &lab.peer4().to_string())
    };
    let (switches, parameters) = match case.args.iter().position(|a| *a == "SCRIPT") {
        Some(at) => (&case.args[..at], &case.args[at + 1..]),
        None => (&[][..], case.args),
    };
    let args = ["run"]
        .iter()
        .chain(switches)
        .copied()
        .chain([path.as_str(), "--"])
        .chain(parameters.iter().copied());
    let weir = Weir::new(args.map(address)).at(&lab);
    if text.contains("\nkprobe:") && !kprobes {
        // The same words as for a one-liner, and nothing attached.
        weir.run()?.refused(&["kprobes"])?;
        return before.assert_same(Some(&lab.node));
    }
    let done = ran(weir.start()?, &lab, case)?;
    for part in case.prints {
        ensure!(done.stdout.contains(&address(part)), "`{}` was not printed: {done}", address(part));
    }
    before.assert_same(Some(&lab.node))
}

fn ran(running: Running, lab: &Lab, case: &Case) -> Result<Finished> {
    let held = (case.traffic)(lab)?;
    traffic::settle(lab)?;
    let done = running.stop()?.clean();
    drop(held);
    done
}

fn web_syns(lab: &Lab) -> Result<Held> {
    traffic::send_frames(lab, &[(2, Frame::syn(lab.peer4(), lab.node4(), 80))])?;
    none()
}

fn none() -> Result<Held> {
    Ok(Box::new(()))
}

/// Three SYNs to a closed port.
fn syns(lab: &Lab) -> Result<Held> {
    traffic::send_frames(lab, &[(3, Frame::syn(lab.peer4(), lab.node4(), 22))])?;
    none()
}

fn scan(lab: &Lab) -> Result<Held> {
    let frames: Vec<_> = (1001..=1006).map(|port| (2, Frame::syn(lab.peer4(), lab.node4(), port))).collect();
    traffic::send_frames(lab, &frames)?;
    none()
}

fn listed(lab: &Lab) -> Result<Held> {
    let source: IpAddr = "10.66.1.2".parse()?;
    traffic::send_frames(lab, &[(3, Frame::udp(source, lab.node4(), 443))])?;
    none()
}

fn nobody_listens(lab: &Lab) -> Result<Held> {
    traffic::send_udp(&lab.peer, lab.peer4().into(), (lab.node4(), 5999).into(), 4)?;
    none()
}

fn files(_: &Lab) -> Result<Held> {
    traffic::open_files("example", 3000)?;
    none()
}

/// A DNS message: a question, and the header's flags.
fn message(id: u16, flags: u16, labels: &[&str]) -> Vec<u8> {
    let mut out = [id, flags, 1, 0, 0, 0].map(u16::to_be_bytes).concat();
    for label in labels {
        out.push(label.len() as u8);
        out.extend(label.bytes());
    }
    out.extend([0, 0, 1, 0, 1]);
    out
}

/// Three questions that are answered and two whose name does not exist.
fn dns(lab: &Lab) -> Result<Held> {
    let server = traffic::listen_udp(&lab.node, SocketAddr::new(lab.node4().into(), 53))?;
    server.set_read_timeout(Some(patience()))?;
    let client = lab.peer.run(|| Ok(UdpSocket::bind((lab.peer4(), 40_053))?))?;
    client.set_read_timeout(Some(patience()))?;
    for id in 1..=5u16 {
        let (labels, code) = if id <= 3 {
            (["www", "example"], 0)
        } else {
            (["nope", "example"], 3)
        };
        client.send_to(&message(id, 0x0100, &labels), (lab.node4(), 53))?;
        let mut buffer = [0; 512];
        let (_, from) = server.recv_from(&mut buffer).context("the question did not arrive")?;
        server.send_to(&message(id, 0x8180 | code, &labels), from)?;
        client.recv_from(&mut buffer).context("the answer did not arrive")?;
    }
    none()
}

/// A pod that may ask for one port of the node and not for another.
fn pod(lab: &Lab) -> Result<Held> {
    let allowed = SocketAddr::new(lab.node4().into(), 4433);
    let listener = lab.node.run(|| Ok(std::net::TcpListener::bind(allowed)?))?;
    let stream = lab.peer.run(|| Ok(TcpStream::connect_timeout(&allowed, patience())?))?;
    let denied = SocketAddr::new(lab.node4().into(), 4440);
    let silence = Duration::from_millis(700);
    let connected = lab.peer.run(|| Ok(TcpStream::connect_timeout(&denied, silence)))?;
    ensure!(
        connected.is_err_and(|e| e.kind() == std::io::ErrorKind::TimedOut),
        "the denied port is open"
    );
    Ok(Box::new((listener, stream)))
}

fn connection(lab: &Lab) -> Result<Held> {
    let mut connection = Connection::open(lab, 4433)?;
    connection.transfer(10_000)?;
    Ok(Box::new(connection))
}

/// Does something in a thread of that name.
fn named<T: Send + 'static>(name: &'static str, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let builder = std::thread::Builder::new().name(name.to_owned());
        let thread = builder.spawn_scoped(scope, work)?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn connector(lab: &Lab) -> Result<Held> {
    let to = SocketAddr::new(lab.peer4().into(), 4433);
    let listener = lab.peer.run(|| Ok(std::net::TcpListener::bind(to)?))?;
    let stream = lab.node.run(|| {
        nix::sys::prctl::set_name(c"connector")?;
        Ok(TcpStream::connect_timeout(&to, patience())?)
    })?;
    Ok(Box::new((listener, stream)))
}

fn refused(lab: &Lab) -> Result<Held> {
    let to = SocketAddr::new(lab.peer4().into(), 4434);
    let connected = lab.node.run(|| Ok(TcpStream::connect_timeout(&to, patience())))?;
    ensure!(connected.is_err(), "somebody listens on {to}");
    none()
}

fn half_closed(lab: &Lab) -> Result<Held> {
    let Connection { node_side, peer_side } = Connection::open(lab, 4433)?;
    drop(peer_side);
    // The end of the stream is read once the FIN has arrived.
    node_side.set_read_timeout(Some(patience()))?;
    let read = std::io::Read::read(&mut &node_side, &mut [0])?;
    ensure!(read == 0, "the peer did not close");
    Ok(Box::new(node_side))
}

fn resets(lab: &Lab) -> Result<Held> {
    syns(lab)?;
    refused(lab)?;
    let Connection { node_side, peer_side } = Connection::open(lab, 4433)?;
    named("resetter", move || {
        let linger = libc::linger { l_onoff: 1, l_linger: 0 };
        nix::sys::socket::setsockopt(&node_side.as_fd(), nix::sys::socket::sockopt::Linger, &linger)?;
        drop(node_side);
        Ok(())
    })?;
    Ok(Box::new(peer_side))
}

fn loss(lab: &Lab) -> Result<Held> {
    let mut connection = Connection::open(lab, 4433)?;
    connection.lose(lab, 2)?;
    Ok(Box::new(connection))
}

/// A handshake whose client is not there: the SYN-ACK is sent again after a second.
fn unfinished(lab: &Lab) -> Result<Held> {
    let at = SocketAddr::new(lab.node4().into(), 8443);
    let listener = lab.node.run(|| Ok(std::net::TcpListener::bind(at)?))?;
    let before = lab.node.snmp("Tcp", "RetransSegs")?;
    let [a, b, c, _] = lab.peer4().octets();
    traffic::send_frames(lab, &[(1, Frame::syn(IpAddr::from([a, b, c, 77]), lab.node4(), 8443))])?;
    wait_for("a second SYN-ACK", || {
        let now = lab.node.snmp("Tcp", "RetransSegs")?;
        Ok((now > before).then_some(()))
    })?;
    Ok(Box::new(listener))
}

/// A router says twice that a packet is too big for an MTU of 1400.
fn too_big(lab: &Lab) -> Result<Held> {
    let mut data = vec![3, 4, 0, 0, 0, 0];
    data.extend(1400u16.to_be_bytes());
    data.extend([0; 28]);
    let payload = Payload::Raw { proto: 1, data };
    traffic::send_frames(lab, &[(2, Frame::new(lab.peer4(), lab.node4(), payload))])?;
    none()
}

/// A SYN that the node forwards, and one for itself, which never comes out.
fn forwarded(lab: &Lab) -> Result<Held> {
    lab.node.sysctl("net/ipv4/ip_forward", "1")?;
    lab.node.ip(&["addr", "add", "10.99.0.1/24", "dev", "veth1"])?;
    lab.node.ip(&[
        "neigh",
        "replace",
        "10.99.0.2",
        "lladdr",
        "02:00:00:00:00:99",
        "dev",
        "veth1",
        "nud",
        "permanent",
    ])?;
    let outside: IpAddr = "10.99.0.2".parse()?;
    traffic::send_frames(
        lab,
        &[
            (1, Frame::syn(lab.peer4(), outside, 443)),
            (1, Frame::syn(lab.peer4(), lab.node4(), 22)),
        ],
    )?;
    none()
}

/// A connection to port 80, where the server is on 8080.
fn web(lab: &Lab) -> Result<Held> {
    let at = SocketAddr::new(lab.node4().into(), 8080);
    let listener = lab.node.run(|| Ok(std::net::TcpListener::bind(at)?))?;
    let to = SocketAddr::new(lab.node4().into(), 80);
    let client = lab
        .peer
        .run(|| TcpStream::connect_timeout(&to, Duration::from_secs(20)).context("port 80 does not lead to 8080"))?;
    let server = listener.accept()?;
    Ok(Box::new((listener, client, server)))
}

/// The words behind `usage: weir`, up to the explanation in brackets.
fn usage(text: &str) -> Result<Vec<String>> {
    let line = text
        .lines()
        .find_map(|l| l.strip_prefix("// usage: weir "))
        .context("it lacks `usage: weir`")?;
    let words = line.split("    (").next().unwrap_or(line);
    Ok(words.split_whitespace().map(str::to_owned).collect())
}

/// What an example for captures prints of a capture of the repository is what its head says.
fn replayed() -> Result<()> {
    let captures = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases/captures");
    let mut ran = 0;
    for file in examples()? {
        let text = std::fs::read_to_string(&file)?;
        if !usage(&text)?.contains(&"CAPTURE".to_owned()) {
            continue;
        }
        let expected: String = text
            .lines()
            .skip_while(|l| *l != "// output:")
            .skip(1)
            .map_while(|l| l.strip_prefix("//"))
            .filter(|l| !l.is_empty())
            .map(|l| format!("{}\n", l.trim_start()))
            .collect();
        let out = std::process::Command::new(program()?)
            .args(["replay".as_ref(), captures.join("dns.pcap").as_os_str(), file.as_os_str()])
            .output()?;
        let printed: String = String::from_utf8_lossy(&out.stdout)
            .lines()
            .filter(|l| !l.is_empty())
            .map(|l| format!("{l}\n"))
            .collect();
        ensure!(printed == expected, "{} prints\n{printed}instead of\n{expected}", file.display());
        ran += 1;
    }
    ensure!(ran > 0, "no example is for captures");
    Ok(())
}
