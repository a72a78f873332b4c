//! Which capabilities this process lacks, so that a refusal can name them.

use std::fs;
use weir_compiler::object::{Object, ProgramKind};

/// Numbers of `linux/capability.h`.
const DAC_READ_SEARCH: (u32, &str) = (2, "CAP_DAC_READ_SEARCH");
const NET_ADMIN: (u32, &str) = (12, "CAP_NET_ADMIN");
const SYS_ADMIN: u32 = 21;
const SYS_ADMIN_NAMED: (u32, &str) = (SYS_ADMIN, "CAP_SYS_ADMIN");
const PERFMON: (u32, &str) = (38, "CAP_PERFMON");
const BPF: (u32, &str) = (39, "CAP_BPF");

/// The capabilities that loading and attaching some programs takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Needs(Vec<(u32, &'static str)>);

impl Needs {
    /// Every program is loaded with CAP_BPF; tracing takes CAP_PERFMON, packets CAP_NET_ADMIN.
    pub fn of(object: &Object) -> Self {
        let packets = ProgramKind::is_network;
        let mut needs = vec![BPF];
        if object.programs.iter().any(|p| !packets(p.kind)) {
            needs.push(PERFMON);
        }
        if !object.natives.is_empty() || object.programs.iter().any(|p| packets(p.kind)) {
            needs.push(NET_ADMIN);
        }
        Self(needs)
    }

    /// Seeing what others loaded takes CAP_SYS_ADMIN, and removing it CAP_NET_ADMIN.
    pub fn of_inspection() -> Self {
        Self(vec![SYS_ADMIN_NAMED, NET_ADMIN])
    }

    /// Seeing what is pinned: its folder is root's, and an object is opened with CAP_BPF.
    pub fn of_pins() -> Self {
        Self(vec![BPF])
    }

    /// Entering a folder that only root may read.
    pub fn of_folders() -> Self {
        Self(vec![DAC_READ_SEARCH, BPF])
    }

    /// What this process lacks, if it lacks something.
    pub fn unmet(&self) -> Option<String> {
        let effective = effective(&fs::read_to_string("/proc/self/status").ok()?)?;
        (!self.missing(Some(effective)).is_empty()).then(|| self.help_with(Some(effective)))
    }

    /// What to tell somebody whom the kernel refused for want of permission.
    pub fn help(&self) -> String {
        let effective = fs::read_to_string("/proc/self/status").ok().and_then(|text| effective(&text));
        self.help_with(effective)
    }

    /// CAP_SYS_ADMIN stands for what was split off it, not for rights to files.
    fn missing(&self, effective: Option<u64>) -> Vec<&'static str> {
        let has = |bit: u32| effective.is_some_and(|e| e & (1 << bit) != 0);
        let lacks = |need: &&(u32, &str)| !has(need.0) && (!has(SYS_ADMIN) || **need == DAC_READ_SEARCH);
        self.0.iter().filter(lacks).map(|(_, name)| *name).collect()
    }

    fn help_with(&self, effective: Option<u64>) -> String {
        let missing = self.missing(effective);
        if missing.is_empty() {
            return "this process has the capabilities that it takes; a container's seccomp profile, a security module or kernel lockdown \
                    may refuse bpf(2)"
                .to_owned();
        }
        format!(
            "this process lacks {}: run it as root, or give it {}",
            missing.join(", "),
            if missing.len() == 1 { "that" } else { "those" }
        )
    }
}

/// The effective capabilities in `/proc/PID/status`.
fn effective(status: &str) -> Option<u64> {
    let hex = status.lines().find_map(|l| l.strip_prefix("CapEff:"))?;
    u64::from_str_radix(hex.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let needs = Needs(vec![BPF, PERFMON, NET_ADMIN]);
        assert!(needs.help_with(Some(0)).contains("lacks CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN:"));
        assert!(needs.help_with(Some(1 << 39 | 1 << 12)).contains("lacks CAP_PERFMON:"));
        assert!(needs.help_with(Some(1 << SYS_ADMIN)).contains("seccomp"));
        assert!(
            Needs::of_folders()
                .help_with(Some(1 << SYS_ADMIN))
                .contains("lacks CAP_DAC_READ_SEARCH:")
        );
        assert!(needs.help_with(Some(1 << 39 | 1 << 38 | 1 << 12)).contains("seccomp"));
    }

    #[test]
    fn status_files() {
        assert_eq!(
            effective("Name:\tx\nCapPrm:\t0\nCapEff:\t000001ffffffffff\nCapBnd:\t0\n"),
            Some(0x1ff_ffff_ffff)
        );
        assert_eq!(effective("Name:\tx\n"), None);
    }
}
