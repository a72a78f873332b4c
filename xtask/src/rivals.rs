//! `cargo xtask bench rivals`: the blocklist beside what else drops a list of sources: the same job in C, xdp-filter, nft, iptables.
//!
//! All on one veth in a namespace of its own, fed by live XDP frames: `BPF_PROG_TEST_RUN` sends them from the other end, each with another
//! source, and the receiving side runs on the same processor. Input: the program to measure. Output: a table on standard output.

use crate::blocklist::{SPREAD, entry4};
use crate::packets::{Pins, bpftool};
use crate::{apt, proc};
use anyhow::{Context, Result, ensure};
use nix::mount::{MsFlags, mount};
use std::fmt::Write;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use weir_tests::frame::Frame;
use weir_tests::kernel::{self, Kind, Object};
use weir_tests::net::{Lab, NODE_IF, PEER_IF};
use weir_tests::weir::{Running, Weir};

/// Frames in one run, which is timed as a whole: short enough that some runs are not disturbed.
const FRAMES: u32 = 20_000;
/// Such runs for one figure, which is the fastest: what else the machine does only adds.
const ROUNDS: usize = 8;
/// Packets a second of 10 Gbit/s, with preamble and gap: 84 and 1538 bytes on the wire.
const RATES: [f64; 2] = [14.88e6, 0.8127e6];

/// What drops.
#[derive(Clone, Copy, PartialEq)]
enum Who {
    /// An XDP program that drops all, or nothing attached: what sending and receiving cost by themselves.
    Floor,
    Weir,
    C,
    XdpFilter,
    Nft,
    Iptables,
}

impl Who {
    fn name(self) -> &'static str {
        match self {
            Who::Floor => "nothing to look up",
            Who::Weir => "weir, blocklist",
            Who::C => "C, trie",
            Who::XdpFilter => "xdp-filter",
            Who::Nft => "nft, ingress set",
            Who::Iptables => "iptables, raw",
        }
    }
}

/// A list, and who can hold it: xdp-filter knows addresses and no prefixes, and has room for 10 000; iptables looks at one rule after the
/// other.
struct List {
    name: &'static str,
    drawn: &'static str,
    count: u32,
    who: &'static [Who],
}

const LISTS: &[List] = &[
    List {
        name: "1024 addresses",
        drawn: "1k",
        count: 1 << 10,
        who: &[Who::Floor, Who::Weir, Who::C, Who::XdpFilter, Who::Nft, Who::Iptables],
    },
    List {
        name: "131 072 prefixes",
        drawn: "128k",
        count: 1 << 17,
        who: &[Who::Floor, Who::Weir, Who::C, Who::Nft],
    },
];

impl List {
    fn entries(&self) -> impl Iterator<Item = (Ipv4Addr, u32)> {
        let hosts = self.who.contains(&Who::XdpFilter);
        (0..self.count).map(move |number| match hosts {
            true => (number.wrapping_mul(SPREAD).into(), 32),
            false => entry4(number),
        })
    }
}

/// One list at work, until [`Rig::remove`].
struct Rig<'a> {
    lab: &'a Lab,
    who: Who,
    weir: Option<Running>,
}

impl<'a> Rig<'a> {
    /// `attack`: whether all frames will be dropped; the floor is another one then.
    fn new(lab: &'a Lab, pins: &Pins, weir: &Path, who: Who, list: &List, attack: bool) -> Result<Self> {
        let mut rig = Self { lab, who, weir: None };
        match who {
            Who::Floor if !attack => (),
            Who::Floor => rig.attach(&pins.program("draw", "drop"))?,
            Who::Weir => {
                let script =
                    "use blocklist(iface=\"veth0\", prefixes=file(\"bad.txt\"), audit=\"off\", max_hits=1048576, protect=false) as bl;";
                rig.weir = Some(Weir::script(script).program(weir).at(lab).start()?);
            }
            Who::C => {
                let object = format!("c-{}", list.drawn);
                if !pins.maps(&object).exists() {
                    pins.load(&proc::repo().join("ebpf-builtins/bench/blocklist.c"), &object)?;
                    let mut commands = String::new();
                    for (addr, len) in list.entries() {
                        let element = [len.to_le_bytes(), addr.octets()].concat();
                        let bytes: String = element.iter().map(|b| format!("{b:02x} ")).collect();
                        // Writing to a `String` cannot fail.
                        let map = pins.map(&object, "BLOCK4");
                        let _ = writeln!(commands, "map update pinned {} key hex {bytes}value hex {bytes}", map.display());
                    }
                    let file = lab.dir.path().join("commands");
                    std::fs::write(&file, commands)?;
                    proc::check(Command::new("bpftool").args(["batch", "file"]).arg(&file).stdout(Stdio::null()))?;
                }
                rig.attach(&pins.program(&object, "blocklist_c"))?;
            }
            Who::XdpFilter => {
                rig.inside(
                    "xdp-filter",
                    &["load", NODE_IF, "--mode", "native", "--features", "ipv4", "--policy", "allow"],
                )?;
                for (addr, _) in list.entries() {
                    rig.inside("xdp-filter", &["ip", "--mode", "src", &addr.to_string()])?;
                }
            }
            Who::Nft => {
                let mut rules = format!(
                    "table netdev bench {{\nset bad {{\ntype ipv4_addr\nflags interval\nauto-merge\nelements = {{ {} }}\n}}\n",
                    list.entries()
                        .map(|(addr, len)| format!("{addr}/{len}"))
                        .collect::<Vec<_>>()
                        .join(", ")
                );
                let _ = writeln!(
                    rules,
                    "chain in {{\ntype filter hook ingress device {NODE_IF} priority 0; policy accept;\nip saddr @bad counter drop\n}}\n}}"
                );
                let file = lab.dir.path().join("rules");
                std::fs::write(&file, rules)?;
                rig.inside("nft", &["-f", file.to_str().context("a path that is no text")?])?;
            }
            Who::Iptables => {
                let mut rules = "*raw\n".to_owned();
                for (addr, _) in list.entries() {
                    let _ = writeln!(rules, "-A PREROUTING -s {addr} -j DROP");
                }
                rules.push_str("COMMIT\n");
                let file = lab.dir.path().join("rules");
                std::fs::write(&file, rules)?;
                rig.inside("iptables-restore", &[file.to_str().context("a path that is no text")?])?;
            }
        }
        Ok(rig)
    }

    /// Runs a program in the namespace, but with our own mounts: `ip netns exec` would hide the BPF file system.
    fn inside(&self, program: &str, args: &[&str]) -> Result<String> {
        let net = format!("--net=/run/netns/{}", self.lab.node.name());
        proc::output(Command::new("nsenter").arg(net).arg(program).args(args))
    }

    fn attach(&self, program: &Path) -> Result<()> {
        let program = program.to_str().context("a path that is no text")?;
        self.inside("ip", &["link", "set", NODE_IF, "xdpdrv", "pinned", program])?;
        Ok(())
    }

    /// The fastest run with frames from these sources, in nanoseconds a packet.
    fn measure(&self, sender: &OwnedFd, frame: &[u8]) -> Result<f64> {
        let received = || self.lab.node.run(|| packets_of(NODE_IF));
        let mut fastest = f64::INFINITY;
        for _ in 0..ROUNDS {
            let before = received()?;
            let ns = self
                .lab
                .peer
                .run(|| kernel::send_frames(sender, PEER_IF, frame, FRAMES).context("this kernel sends no live XDP frames"))?;
            let arrived = received()? - before;
            // What a full queue has lost costs nothing at the receiver and would flatter it.
            if arrived >= u64::from(FRAMES) {
                fastest = fastest.min(f64::from(ns));
            }
        }
        ensure!(fastest.is_finite(), "{}: frames were lost in every run", self.who.name());
        Ok(fastest)
    }

    fn remove(mut self) -> Result<()> {
        match self.who {
            Who::Floor | Who::C => drop(self.inside("ip", &["link", "set", NODE_IF, "xdpdrv", "off"])?),
            Who::Weir => {
                if let Some(weir) = self.weir.take() {
                    weir.stop()?.nothing_left()?;
                }
            }
            Who::XdpFilter => drop(self.inside("xdp-filter", &["unload", NODE_IF])?),
            Who::Nft => drop(self.inside("nft", &["flush", "ruleset"])?),
            Who::Iptables => drop(self.inside("iptables", &["-t", "raw", "-F"])?),
        }
        Ok(())
    }

    /// The program that draws sources, with the one behind it that sends.
    fn sender(pins: &Pins, drawn: &str) -> Result<OwnedFd> {
        let (next, send) = (pins.map("draw", "next"), pins.program("draw", "send4"));
        let (next, send) = (
            next.to_str().context("a path that is no text")?,
            send.to_str().context("a path that is no text")?,
        );
        bpftool(&["map", "update", "pinned", next, "key", "0", "0", "0", "0", "value", "pinned", send])?;
        let draw = pins.program("draw", &format!("v4_{drawn}"));
        let shown = bpftool(&["prog", "show", "pinned", draw.to_str().context("a path that is no text")?])?;
        let id = shown["id"].as_u64().with_context(|| format!("no id in {shown}"))? as u32;
        Ok(kernel::open(Object { kind: Kind::Program, id })?)
    }
}

/// Packets that an interface of the calling thread's namespace has received, those that XDP dropped included.
fn packets_of(name: &str) -> Result<u64> {
    let text = std::fs::read_to_string("/proc/thread-self/net/dev")?;
    let line = text.lines().find_map(|l| l.trim_start().strip_prefix(name)?.strip_prefix(':'));
    let word = line
        .and_then(|l| l.split_whitespace().nth(1))
        .with_context(|| format!("no {name} in {text}"))?;
    Ok(word.parse()?)
}

/// # Errors
/// Something is missing on the machine, or a rival refuses its list.
pub fn run(weir: &Path, runs: usize) -> Result<ExitCode> {
    apt::install(apt::PACKETS)?;
    apt::install(apt::RIVALS)?;
    let pins = Pins::new()?;
    // xdp-filter pins at a fixed place: into a file system of our own.
    mount(Some("bpf"), "/sys/fs/bpf", Some("bpf"), MsFlags::empty(), None::<&str>).context("cannot mount bpffs")?;
    pins.load(&proc::repo().join("xtask/bench/draw.bpf.c"), "draw")?;
    let lab = Lab::new()?;
    // A veth takes XDP frames when it polls.
    proc::output(
        Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", lab.node.name()))
            .args(["ethtool", "-K", NODE_IF, "gro", "on"]),
    )?;
    // To an address that is not the node's: what passes ends at the route.
    let mut frame = Frame::udp(lab.peer4(), Ipv4Addr::new(203, 0, 113, 1), 5000).bytes();
    frame.resize(frame.len().max(64), 0);
    println!(
        "| list | | attack, ns a packet | over the floor | processors for 10 Gbit/s of 64 bytes | of 1500 bytes | passing, ns a packet | over nothing attached |"
    );
    println!("|---|---|---:|---:|---:|---:|---:|---:|");
    for list in LISTS {
        let text: String = list.entries().map(|(addr, len)| format!("{addr}/{len}\n")).collect();
        std::fs::write(lab.dir.path().join("bad.txt"), text)?;
        let mut best = vec![[f64::INFINITY; 2]; list.who.len()];
        for run in 1..=runs {
            for (who, best) in list.who.iter().zip(&mut best) {
                proc::progress(&format!("{}, run {run} of {runs}: {}", list.name, who.name()));
                for (path, drawn) in [list.drawn, "any"].into_iter().enumerate() {
                    let sender = Rig::sender(&pins, drawn)?;
                    let rig = Rig::new(&lab, &pins, weir, *who, list, path == 0)?;
                    best[path] = rig.measure(&sender, &frame)?.min(best[path]);
                    rig.remove()?;
                }
            }
        }
        proc::progress("");
        let floor = best[0];
        for (who, [attack, pass]) in list.who.iter().zip(best) {
            let over = attack - floor[0];
            let cores = |rate: f64| {
                if *who == Who::Floor {
                    "–".to_owned()
                } else {
                    format!("{:.2}", over * rate / 1e9)
                }
            };
            println!(
                "| {} | {} | {attack:.0} | {over:.0} | {} | {} | {pass:.0} | {:.0} |",
                list.name,
                who.name(),
                cores(RATES[0]),
                cores(RATES[1]),
                pass - floor[1]
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}
