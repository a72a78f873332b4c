//! `weir --info`: what this kernel can do, found out now.

use crate::out;
use crate::render::Failure;
use std::fmt::Write;
use std::process::ExitCode;
use weir_compiler::kernel::{Feature, KernelInfo, Support};
use weir_runtime::Kernel;

const FEATURES: &[(Feature, &str)] = &[
    (Feature::Btf, "BTF of the kernel"),
    (Feature::Tracefs, "tracepoints"),
    (Feature::Kprobe, "kprobe"),
    (Feature::KprobeMulti, "kprobe.multi"),
    (Feature::Fentry, "fentry"),
    (Feature::Tcx, "tcx links"),
    (Feature::IsaV4, "instruction set v4"),
];

pub fn main(kernel: &Kernel) -> Result<ExitCode, Failure> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut text = String::new();
    // Writing to a `String` cannot fail.
    let _ = writeln!(
        text,
        "System\n  kernel:   Linux {}\n  machine:  {}\n  CPUs:     {}\n",
        release.trim(),
        std::env::consts::ARCH,
        kernel.cpus()
    );
    let _ = writeln!(text, "Build\n  weir: v{}\n", env!("CARGO_PKG_VERSION"));
    let _ = writeln!(text, "Kernel features");
    let width = FEATURES.iter().map(|(_, name)| name.len() + 1).max().unwrap_or(0);
    for (feature, name) in FEATURES {
        let answer = match kernel.feature(*feature) {
            Support::Yes => "yes".to_owned(),
            Support::No(why) => format!("no ({why})"),
            Support::Unknown(why) => format!("cannot tell ({why})"),
        };
        let _ = writeln!(text, "  {:width$}  {answer}", format!("{name}:"));
    }
    let _ = writeln!(text, "\nNatives");
    let width = weir_stdlib::NATIVES.iter().map(|n| n.name.len() + 1).max().unwrap_or(0);
    for native in weir_stdlib::NATIVES {
        let _ = writeln!(text, "  {:width$}  {}", format!("{}:", native.name), native.summary);
    }
    out::stdout(&text)?;
    Ok(ExitCode::SUCCESS)
}
