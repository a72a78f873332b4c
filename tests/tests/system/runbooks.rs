//! Saved scripts: `weir run` with parameters, `--help`, the `#!` line, `weir fmt`.

use anyhow::{Result, ensure};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use weir_tests::harness::Test;
use weir_tests::net::{Lab, TempDir};
use weir_tests::traffic;
use weir_tests::weir::{Weir, program};

pub const TESTS: &[Test] = &[
    Test::new("run_puts_parameters_into_a_script", parameters).alone(),
    Test::new("run_says_what_a_script_takes", help),
    Test::new("run_refuses_what_a_script_does_not_take", refused),
    Test::new("a_script_runs_by_its_first_line", shebang).alone(),
    Test::new("fmt_changes_form_and_nothing_else", fmt),
];

const SCRIPT: &str = r#"// Datagrams by source.
// For one port.
//
// usage: weir run udp.weir -- --iface eth0

tc:getopt("iface", "", "where to listen"):ingress /udp.dport == getopt("port", 53, "which port")/ { @[ip.src] = count(); }
tc:getopt("iface"):egress { @out = count(); }
"#;

fn parameters() -> Result<()> {
    let lab = Lab::new()?;
    lab.dir.write("udp.weir", SCRIPT)?;
    let weir = Weir::new(["run", "udp.weir", "--", "--iface", "veth0", "--port=5353"])
        .at(&lab)
        .start()?;
    traffic::send_udp(&lab.peer, lab.peer4().into(), (lab.node4(), 53).into(), 2)?;
    traffic::send_udp(&lab.peer, lab.peer4().into(), (lab.node4(), 5353).into(), 3)?;
    traffic::settle(&lab)?;
    let done = weir.stop()?.clean()?;
    let counts = done.map("@");
    ensure!(counts.len() == 1 && counts[&lab.peer4().to_string()] == "3", "{done}");
    Ok(())
}

fn help() -> Result<()> {
    let dir = TempDir::new()?;
    dir.write("udp.weir", SCRIPT)?;
    let path = dir.path().join("udp.weir").to_string_lossy().into_owned();
    for words in [["--help"].as_slice(), &["--", "--help"], &["--port", "1", "-h"]] {
        let done = Weir::new(["run", &path].iter().chain(words).copied()).run()?.clean()?;
        for part in [
            "Datagrams by source.\nFor one port.\n\nUsage: weir run ",
            "udp.weir -- --iface TEXT [--port N]\n",
            "--iface TEXT  where to listen (needed)\n",
            "--port N      which port [default: 53]\n",
        ] {
            ensure!(done.stdout.contains(part), "`{part}` is missing: {done}");
        }
        ensure!(!done.attached, "{done}");
    }
    Ok(())
}

fn refused() -> Result<()> {
    let dir = TempDir::new()?;
    dir.write("udp.weir", SCRIPT)?;
    dir.write("needs.weir", "xdp:getopt(\"iface\") /tcp.dport == $1/ { @ = count(); }\n")?;
    let path = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    let refuse = |name: &str, words: &[&str], parts: &[&str]| -> Result<()> {
        let args = ["run".to_owned(), path(name)]
            .into_iter()
            .chain(words.iter().map(|w| (*w).to_owned()));
        let done = Weir::new(args).run()?.refused(parts)?;
        ensure!(!done.attached, "{done}");
        Ok(())
    };
    refuse(
        "udp.weir",
        &["--ifaec", "x"],
        &["no parameter `--ifaec`", "did you mean `--iface`?"],
    )?;
    refuse("udp.weir", &["--iface", "lo", "22"], &["no use for the argument `22`"])?;
    refuse(
        "udp.weir",
        &["--port", "many", "--iface", "lo"],
        &["`--port` is an integer, found `many`", "^"],
    )?;
    refuse("needs.weir", &["22"], &["`--iface`", "is missing"])?;
    refuse("needs.weir", &["--iface", "lo"], &["`$1` is missing"])?;
    refuse("needs.weir", &["--iface"], &["needs a value"])?;
    // Without `run` the compiler says it, with the place.
    Weir::new([path("needs.weir"), "22".to_owned()])
        .run()?
        .refused(&["`--iface` is not given", "^"])?;
    Weir::new(["run", "--iface", "lo"])
        .run()?
        .refused(&["unexpected argument '--iface'", "behind it"])?;
    // Behind a script without `run`, a switch that weir does not have is most likely the script's.
    let needs = path("needs.weir");
    Weir::new([needs.as_str(), "22", "--iface", "lo"])
        .run()?
        .refused(&["unexpected argument '--iface'", &format!("weir run {needs} --iface")])?;
    Weir::new(["run", "/no/such.weir"]).run()?.refused(&["/no/such.weir"]).map(drop)
}

fn shebang() -> Result<()> {
    let dir = TempDir::new()?;
    let script = dir.path().join("hello");
    // The `#!` line takes a path of 255 bytes at most, and `env` looks for `weir`, which is not installed here.
    let text = format!(
        "#!/usr/bin/env -S {} run -q\nbegin {{ printf(\"%s %d\\n\", getopt(\"who\", \"you\"), $1); exit(); }}\n",
        program()?.display()
    );
    dir.write("hello", &text)?;
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755))?;
    let done = Weir::new(["--who", "world", "7"]).program(&script).run()?.clean()?;
    ensure!(done.stdout.trim_end() == "world 7", "{done}");
    Ok(())
}

fn fmt() -> Result<()> {
    const UGLY: &str = "begin{print( 0x10 );} // why\n";
    const NEAT: &str = "begin { print(0x10); } // why\n";
    let dir = TempDir::new()?;
    dir.write("ugly.weir", UGLY)?;
    dir.write("neat.weir", NEAT)?;
    dir.write("wrong.weir", "begin { print( ; }\n")?;
    let path = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    let read = |name: &str| std::fs::read_to_string(Path::new(&path(name)));
    std::fs::set_permissions(path("ugly.weir"), std::fs::Permissions::from_mode(0o750))?;
    let checked = Weir::new(["fmt", "--check", &path("ugly.weir"), &path("neat.weir")]).run()?;
    ensure!(
        checked.status.code() == Some(1) && checked.stdout == format!("{}\n", path("ugly.weir")),
        "{checked}"
    );
    ensure!(read("ugly.weir")? == UGLY, "--check changed the file");
    let done = Weir::new(["fmt", &path("ugly.weir"), &path("neat.weir")]).run()?.clean()?;
    ensure!(
        done.stdout.is_empty() && read("ugly.weir")? == NEAT && read("neat.weir")? == NEAT,
        "{done}"
    );
    let mode = std::fs::metadata(path("ugly.weir"))?.permissions().mode();
    ensure!(mode & 0o777 == 0o750, "the mode became {mode:o}");
    Weir::new(["fmt", "--check", &path("ugly.weir")]).run()?.clean()?;
    let piped = Weir::new(["fmt", "-"]).stdin_from(Path::new(&path("neat.weir"))).run()?.clean()?;
    ensure!(piped.stdout == NEAT, "{piped}");
    Weir::new(["fmt", &path("wrong.weir")]).run()?.refused(&["wrong.weir:1", "^"])?;
    ensure!(read("wrong.weir")? == "begin { print( ; }\n", "a broken script was changed");
    Weir::new(["fmt", "/no/such.weir"]).run()?.refused(&["/no/such.weir"])?;
    Weir::new(["fmt"]).run()?.refused(&["FILE"]).map(drop)
}
