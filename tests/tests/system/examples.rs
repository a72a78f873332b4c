//! Every saved script in `examples/` attaches, sees traffic and leaves nothing behind; so do the examples in the natives' documentation.

use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use weir_tests::features::{Answer, Feature};
use weir_tests::harness::Test;
use weir_tests::kernel::KernelState;
use weir_tests::net::Lab;
use weir_tests::traffic;
use weir_tests::weir::{Weir, program};

pub const TESTS: &[Test] = &[
    Test::new("every_example_runs", every_example).alone(),
    Test::new("an_example_for_captures_prints_what_its_head_says", replayed),
];

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

/// The words behind `usage: weir`, up to the explanation in brackets.
fn usage(text: &str) -> Result<Vec<String>> {
    let line = text
        .lines()
        .find_map(|l| l.strip_prefix("// usage: weir "))
        .context("it lacks `usage: weir`")?;
    let words = line.split("    (").next().unwrap_or(line);
    Ok(words.split_whitespace().map(str::to_owned).collect())
}

/// What stands for a word of a usage line; the example's own name is its path.
fn argument(word: &str, lab: &Lab, file: &Path) -> Result<String> {
    Ok(match word {
        "IFACE" => "veth0".to_owned(),
        "OTHER" => "veth1".to_owned(),
        "PORT" => "22".to_owned(),
        "FILE" => "bad.txt".to_owned(),
        "ADDRESS" => lab.node4().to_string(),
        "SERVER" => lab.peer4().to_string(),
        "MAC-OF-SERVER" => "02:00:00:00:00:02".to_owned(),
        name if name.ends_with(".weir") => {
            ensure!(file.ends_with(name), "its usage calls it `{name}`");
            file.to_string_lossy().into_owned()
        }
        word => {
            ensure!(word.chars().any(|c| !c.is_uppercase()), "nothing stands for `{word}` here");
            word.to_owned()
        }
    })
}

fn every_example() -> Result<()> {
    let lab = Lab::new()?;
    lab.add_cable("veth1", "peer1")?;
    lab.dir.write("bad.txt", "10.66.0.0/16\n2001:db8:bad::/48\n")?;
    let before = KernelState::now(Some(&lab.node))?;
    let kprobes = matches!(Feature::Kprobe.probe(), Answer::Yes);
    let mut ran = 0;
    for file in examples()? {
        let text = std::fs::read_to_string(&file)?;
        let path = file.to_string_lossy().into_owned();
        // The head says what the script is and how it is called; what it prints is there to compare with.
        ensure!(
            text.lines()
                .skip_while(|l| *l != "// output:")
                .nth(1)
                .is_some_and(|l| l.starts_with("//     ")),
            "{path} lacks its output"
        );
        let words = usage(&text).with_context(|| path.clone())?;
        // What is for a capture works on live packets, too.
        let live: Vec<&String> = match words.iter().position(|w| w == "CAPTURE") {
            Some(capture) => words[capture + 1..].iter().collect(),
            None => words.iter().collect(),
        };
        let args: Vec<String> = live
            .into_iter()
            .map(|w| argument(w, &lab, &file))
            .collect::<Result<_>>()
            .with_context(|| path.clone())?;
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
    ensure!(ran >= 10, "only {ran} examples ran");
    before.assert_same(Some(&lab.node))
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
