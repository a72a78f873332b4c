//! Every saved script in `examples/` attaches, sees traffic and leaves nothing behind; so do the examples in the natives' documentation.

use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use weir_tests::features::{Answer, Feature};
use weir_tests::harness::Test;
use weir_tests::kernel::KernelState;
use weir_tests::net::Lab;
use weir_tests::traffic;
use weir_tests::weir::Weir;

pub const TESTS: &[Test] = &[Test::new("every_example_runs", every_example).alone()];

fn examples() -> Result<Vec<PathBuf>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .with_context(|| folder.display().to_string())?
        .map(|e| Ok(e?.path()))
        .collect::<Result<_>>()?;
    files.retain(|f| f.extension().is_some_and(|e| e == "weir"));
    files.sort();
    ensure!(files.len() >= 10, "only {} examples in {}", files.len(), folder.display());
    Ok(files)
}

fn every_example() -> Result<()> {
    let lab = Lab::new()?;
    lab.dir.write("bad.txt", "10.66.0.0/16\n2001:db8:bad::/48\n")?;
    let before = KernelState::now(Some(&lab.node))?;
    let kprobes = matches!(Feature::Kprobe.probe(), Answer::Yes);
    let mut ran = 0;
    for file in examples()? {
        let text = std::fs::read_to_string(&file)?;
        let path = file.to_string_lossy().into_owned();
        // The head says what the script is and how it is called; what it prints is there to compare with.
        for part in ["usage: weir ", "output:"] {
            ensure!(text.contains(part), "{path} lacks `{part}`");
        }
        let mut args = vec![path.clone()];
        if text.contains("$1") {
            args.push("veth0".to_owned());
        }
        if text.contains("$2") {
            args.push(if text.contains("file($2)") { "bad.txt" } else { "22" }.to_owned());
        }
        let weir = Weir::new(args).at(&lab);
        if text.contains("\nkprobe:") && !kprobes {
            // The same words as for a one-liner, and nothing attached.
            weir.run()?.refused(&["kprobes"])?;
            continue;
        }
        let running = weir.start().with_context(|| path.clone())?;
        traffic::send_udp(&lab.peer, lab.peer4().into(), (lab.node4(), 53).into(), 3)?;
        traffic::settle(&lab)?;
        running.stop()?.clean().with_context(|| path.clone())?;
        ran += 1;
    }
    ensure!(ran >= 7, "only {ran} examples ran");
    before.assert_same(Some(&lab.node))
}
