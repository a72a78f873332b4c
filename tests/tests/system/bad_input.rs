//! Every command with what it cannot take: wrong words, missing files, vanished objects, missing rights. Always one clear error on standard
//! error, nothing on standard output, the exit code of a failure, and nothing left.

use anyhow::{Context, Result, ensure};
use std::os::unix::fs::PermissionsExt;
use weir_tests::harness::Test;
use weir_tests::net::{Lab, TempDir};
use weir_tests::weir::Weir;

pub const TESTS: &[Test] = &[
    Test::new("bad_words_are_refused_by_every_command", words),
    Test::new("bad_files_are_refused_by_every_command", files),
    Test::new("missing_rights_are_named_by_every_command", rights),
    Test::new("vanished_objects_are_named", vanished),
    Test::new("what_a_command_asks_is_refused_without_a_terminal", no_terminal),
];

/// Arguments, and what the error has to say.
type Case = (&'static [&'static str], &'static [&'static str]);

const WORDS: &[Case] = &[
    (&["build"], &["--output <FILE>", "weir build"]),
    (&["build", "-o", "x.o"], &["no script"]),
    (&["build", "-e", "begin { fake }", "-o", "x.o"], &["unknown name `fake`", "^"]),
    (&["check"], &["FILE"]),
    (&["check", "--json"], &["FILE"]),
    (&["check", "--what", "x.weir"], &["--what"]),
    (&["clean", "now"], &["now", "weir clean"]),
    (&["completions"], &["SHELL"]),
    (&["completions", "cmd.exe"], &["cmd.exe", "zsh"]),
    (&["demo", "--seconds", "0"], &["--seconds", "1..=60"]),
    (&["demo", "fast"], &["fast", "weir demo"]),
    (&["doc", "no-such-name"], &["nothing is called `no-such-name`", "weir doc"]),
    (&["doc", "blocklsit"], &["did you mean `blocklist`?"]),
    (&["doc", "a", "b"], &["'b'", "weir doc"]),
    (&["fmt"], &["FILE"]),
    (&["fmt", "--what"], &["--what"]),
    (&["maps", "--top", "many", "1"], &["--top", "many"]),
    (&["maps", "1", "2"], &["'2'", "weir maps"]),
    (&["net", "--netns"], &["--netns", "weir net"]),
    (&["net", "rm", "--id", "x"], &["--id", "x"]),
    (&["net", "rm", "lo", "ingress", "--priority", "70000"], &["70000", "65535"]),
    (&["progs", "1", "2"], &["'2'", "weir progs"]),
    (&["repl", "script.weir"], &["script.weir", "weir repl"]),
    (&["replay"], &["CAPTURE"]),
    (&["run"], &["Usage: weir run"]),
    (&["--format", "xml", "-e", "begin {}"], &["xml", "json"]),
    (&["--prometheus", "host:9", "-e", "begin {}"], &["127.0.0.1:9464"]),
    (&["--pid", "none", "-e", "begin {}"], &["none"]),
    (&["-p", "4194305", "-e", "begin {}"], &["4194305"]),
    (&["-c", "/no/such/program", "-e", "begin {}"], &["/no/such/program"]),
    (&["-e", ""], &["no probe"]),
    (&["-e", "begin {", "-q"], &["^"]),
    (&["-d", "soul", "-e", "begin {}"], &["tokens, ast"]),
    (&["-l", "no:such:probe*"], &["no probe matches `no:such:probe*`"]),
    (&["--before", "1", "-e", "begin {}"], &["`--before` orders `tc` programs"]),
    (&["--pcap", "x.pcapng", "-e", "begin {}"], &["capture()"]),
];

fn words() -> Result<()> {
    let dir = TempDir::new()?;
    for (args, parts) in WORDS {
        // None writes or reads a file here.
        let done = Weir::new(args.iter().copied())
            .env("TMPDIR", dir.path().display().to_string())
            .run()?;
        let shown = args.join(" ");
        ensure!(!done.stderr.contains("internal error") && !done.stderr.contains("panic"), "{done}");
        done.refused(parts).with_context(|| format!("`weir {shown}`"))?;
    }
    Ok(())
}

fn files() -> Result<()> {
    let dir = TempDir::new()?;
    let path = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    std::fs::write(path("bytes"), b"begin {\n\xff }")?;
    dir.write("right.weir", "xdp:lo { @ = count(); }\n")?;
    let (missing, folder, bytes, right) = (path("missing"), dir.path().display().to_string(), path("bytes"), path("right.weir"));
    let readers: [&[&str]; 6] = [
        &[],
        &["run"],
        &["check"],
        &["fmt"],
        &["build", "-o", "/dev/null"],
        &["replay", "/dev/null"],
    ];
    for reader in readers {
        for (file, part) in [(&missing, "there is no file"), (&folder, "directory"), (&bytes, "line 2")] {
            if reader.first() == Some(&"replay") && file == &missing {
                continue;
            }
            let done = Weir::new(reader.iter().copied().chain([file.as_str()])).run()?;
            done.refused(&[part, file]).with_context(|| format!("{reader:?} of {file}"))?;
        }
    }
    // Captures that are none.
    for (capture, part) in [(&missing, "missing"), (&folder, "directory"), (&right, "no capture")] {
        Weir::new(["replay", capture, &right]).run()?.refused(&[part])?;
    }
    // Where nothing can be written.
    let nowhere = format!("{missing}/x");
    Weir::new(["build", &right, "-o", &nowhere]).run()?.refused(&[&nowhere])?;
    Weir::new(["-o", &nowhere, "-e", "begin {}"]).run()?.refused(&[&nowhere])?;
    Weir::new(["--pcap", &nowhere, "-e", "xdp:lo { capture(); }"])
        .run()?
        .refused(&[&nowhere])?;
    Weir::new(["maps", &nowhere]).run()?.refused(&[&nowhere]).map(drop)
}

/// Without any capability.
fn rights() -> Result<()> {
    for (args, parts) in [
        (&["net"][..], &["CAP_SYS_ADMIN"][..]),
        (&["maps"], &["CAP_SYS_ADMIN"]),
        (&["progs"], &["CAP_SYS_ADMIN"]),
        (&["progs", "1"], &["CAP_SYS_ADMIN"]),
        (&["status"], &["CAP_BPF"]),
        (&["status", "--json"], &["CAP_BPF"]),
        (&["stop", "name"], &["CAP_BPF"]),
        (&["reload", "name"], &["CAP_BPF"]),
        (&["clean"], &["CAP_NET_ADMIN"]),
        (&["clean", "--yes"], &["CAP_NET_ADMIN"]),
        (&["-e", "xdp:lo { drop(); }"], &["CAP_NET_ADMIN", "CAP_BPF"]),
        (&["-e", "use blocklist(iface=\"lo\", prefixes=10.0.0.1);"], &["CAP_BPF"]),
        (&["--dry-run", "-e", "interval:s:1 {}"], &["CAP_BPF"]),
        (&["-p", "1", "-e", "interval:s:1 {}"], &["CAP_BPF"]),
        (&["demo", "--seconds", "1"], &["CAP_SYS_ADMIN"]),
    ] {
        let done = Weir::new(args.iter().copied()).capabilities(&[]).run()?;
        ensure!(!done.stderr.contains("internal error"), "{done}");
        done.refused(parts).with_context(|| format!("{args:?}"))?;
    }
    // Word by word, for root with no capability and for somebody else.
    const PINNED: &str = "cannot look at what is pinned\n |\n = help: this process lacks CAP_BPF: run it as root, or give it that";
    const FOLDER: &str = "cannot read `/sys/fs/bpf`: Permission denied (os error 13)\n |\n = help: this process lacks \
        CAP_DAC_READ_SEARCH, CAP_BPF: run it as root, or give it those";
    const FILTERS: &str = "cannot look for filters in all network namespaces and remove them\n |\n = help: this process lacks \
        CAP_SYS_ADMIN, CAP_NET_ADMIN: run it as root, or give it those";
    const NOBODY: u32 = 65534;
    const READ_BY_OTHERS: u32 = 0o004;
    // Who may read the folder is refused what is in it.
    let mode = std::fs::metadata("/sys/fs/bpf")?.permissions().mode();
    let folder = if mode & READ_BY_OTHERS == 0 { FOLDER } else { PINNED };
    let dir = TempDir::new()?;
    let program = dir.path().join("weir");
    std::fs::copy(weir_tests::weir::program()?, &program)?;
    for path in [dir.path(), &program] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?;
    }
    for (args, of_root, of_others) in [
        (&["status"][..], PINNED, folder),
        (&["status", "--json"], PINNED, folder),
        (&["stop", "name"], PINNED, folder),
        (&["reload", "name"], PINNED, folder),
        (&["clean"], FILTERS, FILTERS),
        (&["clean", "--yes"], FILTERS, FILTERS),
    ] {
        let bare = Weir::new(args.iter().copied()).capabilities(&[]);
        let other = Weir::new(args.iter().copied()).program(&program).user(NOBODY);
        // One that everybody may read.
        let open = Weir::new(args.iter().copied()).hidden("/sys/fs/bpf").program(&program).user(NOBODY);
        for (run, words) in [(bare, of_root), (other, of_others), (open, of_root)] {
            let done = run.run()?.refused(&[])?;
            ensure!(done.stderr == format!("error: {words}\n"), "{args:?}: not `{words}`: {done}");
        }
    }
    // In a session it is said, and the session goes on.
    let dir = TempDir::new()?;
    dir.write("input", "interval:s:1 {}\n:jobs\n")?;
    let done = Weir::new(["repl"]).stdin_from(&dir.path().join("input")).capabilities(&[]).run()?;
    ensure!(
        done.status.code() == Some(1) && done.stdout.contains("CAP_BPF") && done.stdout.ends_with("nothing runs in the background\n"),
        "{done}"
    );
    Ok(())
}

fn vanished() -> Result<()> {
    let lab = Lab::new()?;
    for (args, parts) in [
        (&["-e", "xdp:veth7 { @ = count(); }"][..], &["veth7", "veth0"][..]),
        (&["-e", "tc:veth0@no-such-ns:ingress { @ = count(); }"], &["no-such-ns"]),
        (&["-e", "cgroup:/no/such/group:connect4 { @ = count(); }"], &["/no/such/group"]),
        (&["-e", "tracepoint:tcp:no_such_event { @ = count(); }"], &["no_such_event"]),
        (&["-e", "uprobe:/no/such/file:f { @ = count(); }"], &["/no/such/file"]),
        (
            &["-e", "uprobe:/proc/self/exe:no_such_function { @ = count(); }"],
            &["no_such_function"],
        ),
        (&["-e", "use retransmits(netns=\"no-such-ns\") as re;"], &["no-such-ns"]),
        (&["-e", "use blocklist(iface=\"veth7\", prefixes=10.0.0.1);"], &["veth7"]),
        (&["net", "veth7"], &["no network interface `veth7`"]),
        (
            &["net", "rm", "veth0", "egress", "--priority", "9", "--yes"],
            &["no BPF filter with priority 9"],
        ),
        (&["maps", "4294967294"], &["no BPF map has id 4294967294"]),
        (&["maps", "@no_such_map"], &["no BPF map is called `@no_such_map`"]),
        (&["progs", "no_such_program"], &["no BPF program is called `no_such_program`"]),
        (
            &["--before", "no_such_program", "-e", "tc:veth0:ingress { @ = count(); }"],
            &["--before"],
        ),
    ] {
        let done = Weir::new(args.iter().copied()).at(&lab).run()?;
        if args[0] == "--before" && done.stderr.contains("needs tcx") {
            continue;
        }
        ensure!(!done.stderr.contains("internal error"), "{done}");
        let parts = if args[0] == "--before" { &["no_such_program"][..] } else { parts };
        done.refused(parts).with_context(|| format!("{args:?}"))?;
    }
    Ok(())
}

fn no_terminal() -> Result<()> {
    // The program's id does not matter: what it says without a terminal is the same.
    let lab = Lab::new()?;
    let running = Weir::script("tc:veth0:ingress { @ = count(); }").at(&lab).start()?;
    let picture = Weir::new(["net", "veth0", "--json"]).at(&lab).run()?;
    let picture: serde_json::Value = serde_json::from_str(&picture.stdout)?;
    let id = picture["namespaces"][0]["interfaces"][0]["hooks"][0]["programs"][0]["program"]["id"].to_string();
    let done = Weir::new(["net", "rm", "veth0", "--id", &id]).at(&lab).run()?;
    ensure!(
        done.status.code() == Some(1) && done.stdout.contains("remove:") && done.stderr.contains("add `--yes`"),
        "{done}"
    );
    running.stop()?.clean().map(drop)
}
