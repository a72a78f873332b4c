//! `weir net` on what is pinned where other processes have mounts of their own, as containers and `ip netns exec` do.

use super::inspect::{add_filter, add_generic_xdp, build, clsact, json, weir};
use super::pins::Name;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Stdio};
use weir_tests::harness::Test;
use weir_tests::net::{Lab, NODE_IF};
use weir_tests::weir::Weir;

pub const TESTS: &[Test] = &[
    Test::new("inspect_pins_in_other_mounts_are_owners", owners).alone(),
    Test::new("inspect_pins_of_a_container_are_not_of_our_instances", container).alone(),
    Test::new("inspect_our_pins_are_shown_once_from_other_mounts", once).alone(),
];

/// A shell with mounts of its own, which waits for its end when it has said a line.
struct Shell {
    child: Child,
    output: BufReader<ChildStdout>,
    /// The pid in the line that it said.
    pid: String,
}

impl Shell {
    /// The script finds a program's id in `$ID`, and its input in descriptor 3, for whom it starts beside.
    fn start(lab: &Lab, id: u32, script: &str) -> Result<Self> {
        let mut child = Command::new("unshare")
            .args(["--mount", "sh", "-c", &format!("exec 3<&0; {script} && read end; wait")])
            .env("ID", id.to_string())
            .current_dir(lab.dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start `unshare`")?;
        let output = child.stdout.take().context("it has an output")?;
        let mut shell = Self {
            child,
            output: BufReader::new(output),
            pid: String::new(),
        };
        let mut said = String::new();
        shell.output.read_line(&mut said)?;
        shell.pid = said.trim().to_owned();
        ensure!(!shell.pid.is_empty(), "`{script}` failed");
        Ok(shell)
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // All that it started has the same output, and ends as it does.
        let _ = self.output.read_to_end(&mut Vec::new());
        let _ = self.child.wait();
    }
}

/// The program that the picture shows first.
fn first(picture: &Value) -> &Value {
    &picture["namespaces"][0]["interfaces"][0]["hooks"][0]["programs"][0]["program"]
}

fn opens(path: &str) -> Result<()> {
    let done = Command::new("bpftool").args(["prog", "show", "pinned", path]).output()?;
    ensure!(
        done.status.success(),
        "{path} cannot be opened: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    Ok(())
}

/// Nobody is asked for a program's removal that is pinned anywhere.
fn owners() -> Result<()> {
    const PIN: &str = "mount -t bpf bpf /sys/fs/bpf && bpftool prog pin id $ID /sys/fs/bpf/theirs";
    // Who comes later, by its number too, and says when it has its mounts.
    const LATER: &str = "mkfifo up && { unshare --mount sh -c 'echo >up; read end' <&3 & } && read up <up";
    // Who comes first in each does not show the pin.
    let covered = format!("{PIN} && {LATER} && mount -t bpf bpf /sys/fs/bpf && echo $!");
    let subfolder = format!(
        "mkdir part && {PIN} && mkdir /sys/fs/bpf/sub && mount --bind /sys/fs/bpf/sub part && {LATER} && umount /sys/fs/bpf && echo $!"
    );
    let root = format!(
        "mkdir root && {PIN} && mount --bind / root && mkfifo up && {{ sh -c 'echo >up; read end' <&3 & }} && read up <up && \
         exec chroot root /bin/sh -c \"echo $!; read end\""
    );
    let lab = Lab::new()?;
    let blank = lab.dir.path().join("a place/theirs").to_string_lossy().into_owned();
    for (what, script, path) in [
        ("a file system of its own", format!("{PIN} && echo $$"), "/sys/fs/bpf/theirs"),
        ("one over another", covered, "/sys/fs/bpf/theirs"),
        ("a subfolder", subfolder, "/sys/fs/bpf/theirs"),
        ("another root", root, "/sys/fs/bpf/theirs"),
        (
            "a blank",
            "mkdir 'a place' && mount -t bpf bpf 'a place' && bpftool prog pin id $ID \"$PWD/a place/theirs\" && echo $$".to_owned(),
            &blank,
        ),
    ] {
        let lab = if what == "a blank" { &lab } else { &Lab::new()? };
        check_owner(lab, &script, path).with_context(|| what.to_owned())?;
    }
    Ok(())
}

fn check_owner(lab: &Lab, script: &str, path: &str) -> Result<()> {
    let object = build(lab, "tc.o", "tc:lo:ingress { @ = count(); }")?;
    clsact(lab)?;
    let id = add_filter(lab, &object, "ingress", "1")?;
    ensure!(first(&json(lab, &["net", NODE_IF], 3)?)["pins"] == serde_json::json!([]));
    let shell = Shell::start(lab, id, script)?;
    let picture = json(lab, &["net", NODE_IF], 0)?;
    let there = format!("/proc/{}/root{path}", shell.pid);
    let program = first(&picture);
    ensure!(
        program["pins"] == serde_json::json!([there]) && program["owners"] == serde_json::json!([]),
        "not {there}: {picture:#}"
    );
    opens(&there)?;
    let done = weir(lab, &["net", NODE_IF])?.clean()?;
    let words = format!("{path} in the mount namespace of pid {}", shell.pid);
    ensure!(done.stdout.contains(&words), "no `{words}`: {done}");
    Ok(())
}

/// Its folder is called like that of an instance here, and `weir stop` would end that one.
fn container() -> Result<()> {
    let lab = Lab::new()?;
    let id = add_generic_xdp(&lab)?;
    let script =
        "mount -t bpf bpf /sys/fs/bpf && mkdir -p /sys/fs/bpf/weir/bad && bpftool prog pin id $ID /sys/fs/bpf/weir/bad/prog_x && echo $$";
    let shell = Shell::start(&lab, id, script)?;
    let picture = json(&lab, &["net", NODE_IF], 3)?;
    let there = format!("/proc/{}/root/sys/fs/bpf/weir/bad/prog_x", shell.pid);
    ensure!(first(&picture)["pins"] == serde_json::json!([there]), "not {there}: {picture:#}");
    let fix = picture["findings"][0]["fix"].as_str().unwrap_or_default();
    ensure!(
        picture["findings"][0]["kind"] == "generic-xdp" && fix.contains("bpftool net attach xdpdrv"),
        "{picture:#}"
    );
    let done = weir(&lab, &["net", NODE_IF])?;
    let words = format!("/sys/fs/bpf/weir/bad/prog_x in the mount namespace of pid {}", shell.pid);
    ensure!(
        done.stdout.contains(&words) && !done.stdout.contains("pin bad") && !done.stdout.contains("weir stop"),
        "no `{words}`: {done}"
    );
    Ok(())
}

/// An instance of ours is known from anywhere, and its pins are not counted twice.
fn once() -> Result<()> {
    let (lab, name) = (Lab::new()?, Name::new("mounts"));
    let script = format!(
        r#"use blocklist(iface="{NODE_IF}", audit="off", mode="generic", pin="{}", prefixes=198.51.100.1) as bl;"#,
        name.0
    );
    Weir::script(&script).at(&lab).start()?.stop()?;
    let program = weir_tests::weir::program()?;
    let net = format!("--net=/run/netns/{}", lab.node.name());
    // With a file system of pins of its own, and with the same one in mounts of its own.
    for (command, pins_in) in [
        (&["ip", "netns", "exec", lab.node.name()][..], "/proc/"),
        (&["nsenter", &net, "unshare", "--mount"], "/sys/fs/bpf/"),
    ] {
        let run = |args: &[&str]| -> Result<String> {
            let done = Command::new(command[0])
                .args(&command[1..])
                .arg(&program)
                .args(args)
                .output()
                .with_context(|| format!("cannot start `{}`", command[0]))?;
            let text = String::from_utf8_lossy(&done.stdout).into_owned();
            ensure!(
                done.status.code() == Some(3),
                "{command:?}: {text}\n{}",
                String::from_utf8_lossy(&done.stderr)
            );
            Ok(text)
        };
        let picture: Value = serde_json::from_str(&run(&["net", NODE_IF, "--json"])?)?;
        let pins = first(&picture)["pins"].as_array().cloned().unwrap_or_default();
        let pins: Vec<&str> = pins.iter().filter_map(Value::as_str).collect();
        let files: BTreeSet<&str> = pins.iter().filter_map(|pin| pin.rsplit('/').next()).collect();
        ensure!(
            files.len() == pins.len() && !pins.is_empty() && pins.iter().all(|pin| pin.starts_with(pins_in)),
            "{command:?}: {picture:#}"
        );
        opens(pins.iter().find(|pin| pin.contains("/prog_")).context("no program is pinned")?)?;
        ensure!(
            picture["findings"][0]["fix"]
                .as_str()
                .is_some_and(|fix| fix.ends_with(&format!("weir stop {}", name.0))),
            "{command:?}: {picture:#}"
        );
        let text = run(&["net", NODE_IF])?;
        ensure!(text.contains(&format!("pin {}", name.0)), "{command:?}: {text}");
    }
    let stopped = name.tool("stop")?;
    ensure!(stopped.status.success(), "{stopped}");
    Ok(())
}
