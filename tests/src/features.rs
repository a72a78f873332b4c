//! What the running kernel can do, and which shells there are, by trying it. A probe's "no" is the only reason to skip a test.
//!
//! Input: the running kernel. Output: yes, no with the reason, or cannot tell, which is never a reason to skip.

use crate::{kernel, net};
use anyhow::{Context, Result};
use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;

/// Something that not every kernel has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// `kprobe` events.
    Kprobe,
    /// TC programs by link.
    Tcx,
    /// The queueing discipline that loses packets.
    Netem,
    /// Interfaces that a program feeds.
    Tun,
    /// Interfaces on a VLAN of another one.
    Vlan,
    /// Interfaces whose packets go through another one inside packets.
    Tunnel,
    /// `fentry` and `fexit` programs.
    Fentry,
    /// Probes that decide what a function returns.
    Override,
    /// Breakpoints on data.
    Watchpoint,
    /// Counters of the processor.
    Pmu,
    /// Pairs of devices with programs of their own.
    Netkit,
    /// The driver of cables as a module.
    VethModule,
    /// Encrypted tunnels, whose packets start with IP.
    Wireguard,
    /// Cards that exist in the kernel alone and take XDP programs.
    Netdevsim,
    /// Programs on the hooks of netfilter.
    NetfilterLink,
    /// A shell: a program on this machine, and not of the kernel.
    Zsh,
    Fish,
}

pub enum Answer {
    Yes,
    No(String),
    CannotTell(String),
}

impl Feature {
    pub const ALL: [Feature; 17] = [
        Feature::Kprobe,
        Feature::Tcx,
        Feature::Netem,
        Feature::Tun,
        Feature::Vlan,
        Feature::Tunnel,
        Feature::Fentry,
        Feature::Override,
        Feature::Watchpoint,
        Feature::Pmu,
        Feature::Netkit,
        Feature::VethModule,
        Feature::Wireguard,
        Feature::Netdevsim,
        Feature::NetfilterLink,
        Feature::Zsh,
        Feature::Fish,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Feature::Kprobe => "kprobe",
            Feature::Tcx => "tcx",
            Feature::Netem => "netem",
            Feature::Tun => "tun",
            Feature::Vlan => "vlan",
            Feature::Tunnel => "tunnel",
            Feature::Fentry => "fentry",
            Feature::Override => "override",
            Feature::Watchpoint => "watchpoint",
            Feature::Pmu => "pmu",
            Feature::Netkit => "netkit",
            Feature::VethModule => "veth_module",
            Feature::Wireguard => "wireguard",
            Feature::Netdevsim => "netdevsim",
            Feature::NetfilterLink => "netfilter_link",
            Feature::Zsh => "zsh",
            Feature::Fish => "fish",
        }
    }

    /// The version from which on every kernel has it; none if it is a build option.
    fn since(self) -> Option<(u32, u32)> {
        match self {
            Feature::Tcx => Some((6, 6)),
            _ => None,
        }
    }

    pub fn probe(self) -> Answer {
        match self {
            Feature::Kprobe => {
                if Path::new("/sys/bus/event_source/devices/kprobe").exists() {
                    Answer::Yes
                } else {
                    Answer::No("this kernel has no kprobes".to_owned())
                }
            }
            Feature::Tcx => match kernel::query_tcx() {
                Ok(()) => Answer::Yes,
                Err(e) if e.raw_os_error() == Some(libc::EINVAL) => Answer::No("this kernel has no tcx".to_owned()),
                Err(e) => Answer::CannotTell(format!("asking for tcx programs: {e}")),
            },
            Feature::Tun => match std::fs::File::open("/dev/net/tun") {
                Ok(_) => Answer::Yes,
                Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => {
                    Answer::No("this kernel has no tun interfaces".to_owned())
                }
                Err(e) => Answer::CannotTell(format!("opening /dev/net/tun: {e}")),
            },
            Feature::Fentry => match kernel::load_fentry() {
                Ok(()) => Answer::Yes,
                Err(e) if e.raw_os_error() == Some(libc::EPERM) => Answer::No("this kernel refuses fentry programs".to_owned()),
                Err(e) => Answer::CannotTell(format!("loading an fentry program: {e}")),
            },
            Feature::Override => match kernel::load_override() {
                Ok(()) => Answer::Yes,
                // The helper is not there: `unknown func`.
                Err(e) if e.raw_os_error() == Some(libc::EINVAL) => Answer::No("this kernel lets no probe decide results".to_owned()),
                Err(e) => Answer::CannotTell(format!("loading a program with `bpf_override_return`: {e}")),
            },
            Feature::Watchpoint => match kernel::open_watchpoint() {
                Ok(()) => Answer::Yes,
                Err(e)
                    if matches!(
                        e.raw_os_error(),
                        Some(libc::ENOENT | libc::ENODEV | libc::EOPNOTSUPP | libc::ENOSPC)
                    ) =>
                {
                    Answer::No(format!("this machine has no breakpoints on data: {e}"))
                }
                Err(e) => Answer::CannotTell(format!("opening a breakpoint: {e}")),
            },
            Feature::Pmu => match kernel::open_counter() {
                Ok(()) => Answer::Yes,
                Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENODEV | libc::EOPNOTSUPP)) => {
                    Answer::No(format!("this machine has no counters of the processor: {e}"))
                }
                Err(e) => Answer::CannotTell(format!("opening a counter: {e}")),
            },
            Feature::Vlan => kind_of_link("VLAN interfaces", try_vlan()),
            Feature::Tunnel => kind_of_link("tunnels", try_tunnel()),
            Feature::Netkit => kind_of_link("netkit", try_netkit()),
            Feature::Wireguard => kind_of_link("WireGuard", net::Lab::new().and_then(|lab| lab.add_wireguard().map(drop))),
            Feature::VethModule => match veth_is_a_module() {
                Ok(true) => Answer::Yes,
                Ok(false) => Answer::No("this kernel has `veth` built in".to_owned()),
                Err(e) => Answer::CannotTell(format!("{e:#}")),
            },
            Feature::Netdevsim => match net::Simulated::kind_is_known() {
                Ok(true) => Answer::Yes,
                Ok(false) => Answer::No("this kernel has no netdevsim".to_owned()),
                Err(e) => Answer::CannotTell(format!("{e:#}")),
            },
            Feature::NetfilterLink => match kernel::load_program(kernel::ProgramType::Netfilter, "probe", 1) {
                Ok(_) => Answer::Yes,
                Err(e) if e.raw_os_error() == Some(libc::EINVAL) => Answer::No("this kernel has no programs for netfilter".to_owned()),
                Err(e) => Answer::CannotTell(format!("loading a program for netfilter: {e}")),
            },
            Feature::Zsh | Feature::Fish => match Command::new(self.name()).arg("--version").output() {
                Ok(output) if output.status.success() => Answer::Yes,
                Ok(output) => Answer::CannotTell(format!("`{} --version` failed: {}", self.name(), output.status)),
                Err(e) if e.kind() == ErrorKind::NotFound => Answer::No(format!("there is no {} on this machine", self.name())),
                Err(e) => Answer::CannotTell(format!("starting {}: {e}", self.name())),
            },
            Feature::Netem => match try_netem() {
                Ok(()) => Answer::Yes,
                Err(e) => {
                    let text = format!("{e:#}");
                    // What `tc` says when the kernel has neither the discipline nor a module for it.
                    if text.contains("qdisc kind is unknown") {
                        Answer::No("this kernel has no netem".to_owned())
                    } else {
                        Answer::CannotTell(text)
                    }
                }
            },
        }
    }

    /// Whether a "no" is wrong here: the version has it, or `WEIR_TEST_REQUIRE` (set for the virtual machines, whose kernels
    /// we know, and on this one for what `xtask` installs) lists it.
    ///
    /// # Errors
    /// The kernel's version cannot be read.
    pub fn must_be_there(self) -> Result<bool> {
        let listed = std::env::var("WEIR_TEST_REQUIRE").unwrap_or_default();
        if listed.split(',').any(|name| name == self.name()) {
            return Ok(true);
        }
        let version = kernel_version()?;
        Ok(self.since().is_some_and(|since| version >= since))
    }
}

fn try_netem() -> Result<()> {
    let lab = net::Lab::new()?;
    lab.node
        .tc(&["qdisc", "add", "dev", net::NODE_IF, "root", "netem", "loss", "0%"])
        .map(drop)
}

fn veth_is_a_module() -> Result<bool> {
    // The first cable loads it.
    let _lab = net::Lab::new()?;
    let modules = std::fs::read_to_string("/proc/modules").or_else(|e| match e.kind() {
        // A kernel that loads none.
        std::io::ErrorKind::NotFound => Ok(String::new()),
        _ => Err(e),
    });
    let modules = modules.context("cannot read the list of modules")?;
    Ok(modules.lines().any(|line| line.starts_with("veth ")))
}

fn try_netkit() -> Result<()> {
    let lab = net::Lab::new()?;
    // The other end is called `nk0`.
    lab.node.ip(&["link", "add", "nkhost", "type", "netkit"]).map(drop)
}

fn try_vlan() -> Result<()> {
    let lab = net::Lab::new()?;
    let vlan = ["type", "vlan", "id", "7"];
    lab.node
        .ip(&[&["link", "add", "link", net::NODE_IF, "name", "try7"][..], &vlan].concat())
        .map(drop)
}

fn try_tunnel() -> Result<()> {
    let lab = net::Lab::new()?;
    lab.node
        .ip(&["link", "add", "try7", "type", "ipip", "remote", &lab.peer4().to_string()])
        .map(drop)
}

/// What an attempt to make an interface says of the kernel.
fn kind_of_link(what: &str, tried: Result<()>) -> Answer {
    let Err(e) = tried else { return Answer::Yes };
    let text = format!("{e:#}");
    // What `ip` says when the kernel has neither the type nor a module for it.
    if text.contains("Unknown device type") || text.contains("Operation not supported") {
        Answer::No(format!("this kernel has no {what}"))
    } else {
        Answer::CannotTell(text)
    }
}

/// Major and minor version of the running kernel.
///
/// # Errors
/// `/proc` is not there.
pub fn kernel_version() -> Result<(u32, u32)> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").context("cannot read the kernel's version")?;
    let mut numbers = release.split(['.', '-', '+']).map(str::parse::<u32>);
    let (major, minor) = (numbers.next().transpose()?, numbers.next().transpose()?);
    major.zip(minor).with_context(|| format!("`{release}` has no version"))
}
