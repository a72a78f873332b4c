//! `weir check` and `weir completions`: what needs neither root nor a kernel that could run the script.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::process::Command;
use weir_tests::features::Feature;
use weir_tests::harness::Need::{Has, Lacks};
use weir_tests::harness::Test;
use weir_tests::net::TempDir;
use weir_tests::weir::{Finished, Weir};

pub const TESTS: &[Test] = &[
    Test::new("check_takes_right_scripts_and_refuses_wrong_ones", check),
    Test::new("check_says_in_json_what_is_wrong_where", json),
    Test::new("check_does_not_repeat_an_error_for_each_of_a_million_macros", repeated),
    Test::new("check_takes_the_types_of_another_kernel", other_kernel),
    Test::new("check_goes_on_where_this_kernel_lacks_something", lacking).needs(&[Lacks(Feature::Kprobe)]),
    Test::new("check_types_what_is_not_given", not_given),
    Test::new("check_takes_every_example_and_its_head", examples),
    Test::new("completions_know_every_command", completions),
    Test::new("completions_complete_in_bash", bash),
    Test::new("completions_complete_in_zsh", zsh).needs(&[Has(Feature::Zsh)]),
    Test::new("completions_complete_in_fish", fish).needs(&[Has(Feature::Fish)]),
];

/// CAP_DAC_OVERRIDE, CAP_NET_ADMIN, CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF
const PRIVILEGED: &[u32] = &[1, 12, 21, 38, 39];

fn weir(args: &[&str]) -> Result<Finished> {
    Weir::new(args.iter().copied()).without_capabilities(PRIVILEGED).run()
}

/// Twenty macros, each with two of the one before, and none with what the first one wants.
fn repeated() -> Result<()> {
    let macros = (1..20).map(|n| format!("macro a{n}($x) {{ a{0}($x) + a{0}($x) }}\n", n - 1));
    let script = format!("{}begin {{ $y = 1; @ = a19($y); @b = a19($y); }}\n", macros.collect::<String>());
    let dir = TempDir::new()?;
    dir.write("deep.weir", &script)?;
    let done = weir(&["check", "--json", &dir.path().join("deep.weir").to_string_lossy()])?;
    ensure!(done.status.code() == Some(1), "{done}");
    let told = done.stdout.matches("unknown function `a0`").count();
    ensure!((1..=1000).contains(&told), "told {told} times");
    // Warnings do not count: a macro behind a thousand of them is what it is.
    let script = format!("macro two() {{ 2 }}\nbegin {{\n{}exit(two()); }}\n", "@a = cpid;\n".repeat(1100));
    dir.write("warned.weir", &script)?;
    let plan = weir(&["-d", "hir", &dir.path().join("warned.weir").to_string_lossy()])?;
    ensure!(plan.status.success() && plan.stdout.contains("\n  exit 2"), "{plan}");
    Ok(())
}

/// A folder with a right and a wrong script, and their paths.
fn scripts() -> Result<(TempDir, String, String)> {
    let dir = TempDir::new()?;
    dir.write("right.weir", "begin { @x = count(); }\ninterval:s:1 { print(@x); exit(); }\n")?;
    dir.write("wrong.weir", "begin {\n    @x = no_such_name;\n}\n")?;
    let path = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    let (right, wrong) = (path("right.weir"), path("wrong.weir"));
    Ok((dir, right, wrong))
}

fn check() -> Result<()> {
    let (_dir, right, wrong) = scripts()?;
    let done = weir(&["check", &right])?.clean()?;
    ensure!(done.stdout.is_empty() && done.stderr.is_empty() && !done.attached, "{done}");
    weir(&["check", &wrong])?.refused(&["no_such_name", "wrong.weir:2:10", "^"])?;
    // One wrong script is enough, wherever it stands.
    weir(&["check", &wrong, &right])?.refused(&["no_such_name"])?;
    weir(&["check", "/no/such/file.weir"])?.refused(&["/no/such/file.weir"])?;
    weir(&["check"])?.refused(&["FILE"]).map(drop)
}

fn json() -> Result<()> {
    let (_dir, right, wrong) = scripts()?;
    let done = weir(&["check", "--json", &right, &wrong])?;
    ensure!(done.status.code() == Some(1) && done.stderr.is_empty(), "{done}");
    let files: Value = serde_json::from_str(&done.stdout).with_context(|| format!("no JSON: {done}"))?;
    ensure!(files[0]["ok"] == true && files[0]["file"] == right.as_str(), "{files:#}");
    let problem = &files[1]["problems"][0];
    ensure!(files[1]["ok"] == false && problem["severity"] == "error", "{files:#}");
    ensure!(
        problem["line"] == 2 && problem["column"] == 10 && problem["end_column"] == 22,
        "{problem:#}"
    );
    ensure!(
        problem["message"].as_str().is_some_and(|m| m.contains("no_such_name")),
        "{problem:#}"
    );
    Ok(())
}

fn other_kernel() -> Result<()> {
    const VMLINUX: &str = "/sys/kernel/btf/vmlinux";
    let (dir, right, _) = scripts()?;
    dir.write(
        "types.weir",
        "kprobe:tcp_sendmsg { $sk = (struct sock *)arg0; @[$sk->__sk_common.skc_dport] = count(); }\n",
    )?;
    let types = dir.path().join("types.weir").to_string_lossy().into_owned();
    // Kprobes are not asked for here: the other kernel may have them.
    weir(&["check", "--btf", VMLINUX, &types])?.clean()?;
    dir.write(
        "field.weir",
        "kprobe:tcp_sendmsg { $sk = (struct sock *)arg0; @ = $sk->no_such_field; }\n",
    )?;
    let field = dir.path().join("field.weir").to_string_lossy().into_owned();
    weir(&["check", "--btf", VMLINUX, &field])?.refused(&["no_such_field"])?;
    weir(&["check", "--btf", &right, &right])?.refused(&["is not the BTF of a kernel", "/sys/kernel/btf/vmlinux"])?;
    weir(&["check", "--btf", "/proc/self/exe", &right])?.refused(&["objcopy"])?;
    weir(&["check", "--btf", "/no/such.btf", &right])?
        .refused(&["/no/such.btf"])
        .map(drop)
}

/// What this kernel has no probes for is a remark about the machine; what is wrong in the script is an error here as anywhere.
fn lacking() -> Result<()> {
    let dir = TempDir::new()?;
    dir.write(
        "right.weir",
        "kprobe:tcp_sendmsg { $sk = (struct sock *)arg0; @[$sk->__sk_common.skc_dport] = count(); }\n",
    )?;
    dir.write("wrong.weir", "kprobe:tcp_sendmsg { @ = ((struct sock *)arg0)->no_such_field; }\n")?;
    dir.write("name.weir", "kprobe:tcp_sendmgs { @ = count(); }\n")?;
    let path = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    let right = path("right.weir");
    let done = weir(&["check", &right])?.clean()?;
    ensure!(
        done.stderr.starts_with("warning[no-kprobes]: this kernel has no kprobes") && done.stderr.contains("right.weir:1:1"),
        "{done}"
    );
    let done = weir(&["check", "-q", &right])?.clean()?;
    ensure!(done.stderr.is_empty(), "{done}");
    let done = weir(&["check", "--json", &right])?.clean()?;
    let files: Value = serde_json::from_str(&done.stdout).with_context(|| format!("no JSON: {done}"))?;
    let problem = &files[0]["problems"][0];
    ensure!(
        files[0]["ok"] == true && problem["severity"] == "warning" && problem["code"] == "no-kprobes",
        "{files:#}"
    );
    weir(&["check", &path("wrong.weir")])?.refused(&["no_such_field"])?;
    weir(&["check", &path("name.weir")])?.refused(&["no function `tcp_sendmgs`", "did you mean `kprobe:tcp_sendmsg`?"])?;
    // To run it, the machine has to have them.
    weir(&["run", &right])?.refused(&["this kernel has no kprobes"]).map(drop)
}

/// Parameters without values have the types that their defaults and uses give them; interfaces may be another machine's.
fn not_given() -> Result<()> {
    let dir = TempDir::new()?;
    let path = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    dir.write(
        "open.weir",
        "use blocklist(iface=$1, prefixes=file($2)) as bl;
         use blocklist(iface=getopt(\"other\", \"\", \"d\"), prefixes=(10.0.0.0/8), ttl=$3) as b2;
         bl:drop { @[ip.src] = count(); }
         tc:$1:ingress /ip.src == str($4) || ip6.dst == str($4)/ { eth.dst = str($5); tcp.dport = $6; redirect(str($7)); }
         xdp:getopt(\"iface\")@somewhere /tcp.dport == $6 && pkt.len > getopt(\"min\", 10)/ { drop(); }
         tc:no-such-interface:egress { @out = count(); }
         begin { @names[comm == str($8)] = 1; @n = $9; if (comm == $10) { exit(); } }\n",
    )?;
    let open = path("open.weir");
    weir(&["check", &open])?.clean()?;
    // Nor is the name of a file, whatever is in it.
    dir.write(
        "files.weir",
        "let @n = lpm(64, file($1)); let @m = lpm(64, file(getopt(\"more\")));
         xdp:lo /ip.src in file($1) || ip.src in file(getopt(\"list\")) || ip.dst in @n || ip.dst in @m/ { drop(); }\n",
    )?;
    let files = path("files.weir");
    weir(&["check", &files])?.clean()?;
    weir(&["check", &files, "--", "/no/such/list"])?.refused(&["cannot read `/no/such/list`"])?;
    // One script that refuses what the others take is no end of the others.
    dir.write("min.weir", "begin { @ = getopt(\"min\", 1); }\n")?;
    dir.write("none.weir", "begin { exit(); }\n")?;
    dir.write("imports.weir", "import \"min.weir\"; begin { exit(); }\n")?;
    dir.write("late.weir", "begin { @ = getopt(\"min\", 1) + no_such_name; }\n")?;
    let (min, none, imports, late) = (path("min.weir"), path("none.weir"), path("imports.weir"), path("late.weir"));
    weir(&["check", &min, &none, &late, "--", "--min", "5"])?.refused(&["none.weir` has no parameter `--min`", "no_such_name"])?;
    weir(&["check", "/no/such.weir", &late])?.refused(&["/no/such.weir", "no_such_name"])?;
    weir(&["check", &imports, "--", "--min", "5"])?.clean()?;
    weir(&["check", &imports, "--", "--mni", "5"])?.refused(&["did you mean `--min`?"])?;
    let done = weir(&["run", &imports, "--help"])?.clean()?;
    ensure!(done.stdout.contains("--min N"), "{done}");
    let done = weir(&["check", "--json", &min, "--", "--help"])?;
    let answer: Value = serde_json::from_str(&done.stdout).with_context(|| format!("no JSON: {done}"))?;
    ensure!(answer[0]["problems"][0]["code"] == "bad-argument", "{answer:#}");
    // What is given is looked at, in the words of `run`.
    weir(&["check", &open, "--", "--iface", "eth7", "--min", "5"])?.clean()?;
    weir(&["check", &open, "--", "--min", "many"])?.refused(&["`--min` is an integer, found `many`", "^"])?;
    weir(&["check", &open, "--", "--mni", "5"])?.refused(&["no parameter `--mni`", "did you mean `--min`?"])?;
    weir(&["check", &open, "--", "lo", "list", "1m", "not an address"])?.refused(&["`not an address` is not an IP address"])?;
    weir(&["check", &open, "--", "lo", "list", "ever"])?.refused(&["`ttl` takes a time"])?;
    let done = weir(&["check", "--json", &open, "--", "--mni", "5"])?;
    let files: Value = serde_json::from_str(&done.stdout).with_context(|| format!("no JSON: {done}"))?;
    ensure!(
        done.status.code() == Some(1) && files[0]["problems"][0]["code"] == "bad-argument",
        "{files:#}"
    );
    // Wrong uses are wrong without a value, too.
    dir.write("wrong.weir", "tc:$1:ingress { tcp.dprot = $2; }\n")?;
    weir(&["check", &path("wrong.weir")])?.refused(&["tcp.dprot"])?;
    // Where any value would change the types, one is asked for.
    dir.write("func.weir", "kprobe:getopt(\"func\") { @ = count(); }\n")?;
    weir(&["check", "--btf", "/sys/kernel/btf/vmlinux", &path("func.weir")])?.refused(&["`--func` is not given"])?;
    let given = [
        "check",
        "--btf",
        "/sys/kernel/btf/vmlinux",
        &path("func.weir"),
        "--",
        "--func",
        "vfs_read",
    ];
    weir(&given)?.clean()?;
    // And to run it, everything is.
    weir(&["run", &open])?.refused(&["`--other`", "is missing"]).map(drop)
}

/// Every saved script is right without parameters, for kernels with kprobes, and its head says how to call it.
fn examples() -> Result<()> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut files = Vec::new();
    for entry in std::fs::read_dir(&folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "weir") {
            files.push(path.to_string_lossy().into_owned());
        }
    }
    files.sort();
    ensure!(files.len() >= 25, "{files:?}");
    let all = ["check", "--btf", "/sys/kernel/btf/vmlinux"]
        .into_iter()
        .chain(files.iter().map(String::as_str));
    let done = weir(&all.collect::<Vec<_>>())?.clean()?;
    ensure!(!done.stderr.contains("error"), "{done}");
    for file in &files {
        let text = std::fs::read_to_string(file)?;
        let name = file.rsplit('/').next().unwrap_or_default();
        let usage = text
            .lines()
            .find_map(|l| l.strip_prefix("// usage: "))
            .with_context(|| format!("{name} has no usage"))?;
        // What stands behind four blanks is a remark.
        let usage = usage.split("    ").next().unwrap_or_default();
        let replayed = format!("weir replay CAPTURE {name}");
        ensure!(
            usage == replayed || (usage.starts_with("weir run ") && usage.contains(name)),
            "{name}: {usage}"
        );
        let (_, given) = usage.split_once(name).unwrap_or_default();
        ensure!(
            given.is_empty() || given.starts_with(" -- "),
            "parameters stand behind `--`: {usage}"
        );
        let help = weir(&["run", file, "--help"])?.clean()?;
        for word in given.split([' ', '[', ']']).filter(|w| w.starts_with("--") && *w != "--") {
            ensure!(
                help.stdout.contains(&format!("\n  {word}")),
                "`{word}` of the head is no parameter: {help}"
            );
        }
        for line in help.stdout.lines().filter(|l| l.ends_with("(needed)")) {
            let needed = line.split_whitespace().next().unwrap_or_default();
            ensure!(given.contains(&format!("{needed} ")), "{name}: `{needed}` is not in `{usage}`");
        }
    }
    Ok(())
}

fn completions() -> Result<()> {
    for shell in ["bash", "zsh", "fish"] {
        let done = weir(&["completions", shell])?.clean()?;
        for word in ["build", "check", "net", "maps", "progs", "repl", "all-netns", "priority", "format"] {
            ensure!(done.stdout.contains(word), "`{word}` is missing for {shell}");
        }
    }
    weir(&["completions", "tcsh"])?.refused(&["tcsh", "bash"]).map(drop)
}

/// What bash offers for a word at the end of a line.
fn bash() -> Result<()> {
    let dir = TempDir::new()?;
    dir.write("weir.bash", &weir(&["completions", "bash"])?.clean()?.stdout)?;
    for (words, offered) in [
        (&["ma"][..], "maps"),
        (&["net", "r"], "rm"),
        (&["check", "--bt"], "--btf"),
        (&["completions", "fi"], "fish"),
        (&["--format", "js"], "json"),
    ] {
        // As bash does it: the function that the script registered is called with the command, the word, and the one before it.
        let call = r#"source ./weir.bash && f=$(complete -p weir) && f=${f##*-F } && f=${f%% *} && COMP_WORDS=(weir "$@") && COMP_CWORD=$# \
            && COMP_LINE="weir $*" && COMP_POINT=${#COMP_LINE} && "$f" weir "${!#}" "${COMP_WORDS[$#-1]}"; printf '%s\n' "${COMPREPLY[@]}""#;
        let output = Command::new("bash")
            .args(["--norc", "-c", call, "bash"])
            .args(words)
            .current_dir(dir.path())
            .output()
            .context("there is no bash")?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(
            output.status.success() && text.lines().any(|l| l == offered),
            "{words:?}: no `{offered}` in {text:?}, {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

/// What a shell offers with a script of ours: a line each, without descriptions.
fn offered(shell: &str, args: &[&str], dir: &TempDir) -> Result<Vec<String>> {
    // A shell that waits for what never comes would wait for ever; an emulated machine takes a while.
    let output = Command::new("timeout")
        .args(["180", shell])
        .args(args)
        .env("HOME", dir.path())
        .env("TERM", "xterm")
        .current_dir(dir.path())
        .stdin(std::process::Stdio::null())
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "{shell}: {}: {text}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(text
        .lines()
        .map(|l| l.split(['\t', '\r']).next().unwrap_or_default().trim().to_owned())
        .collect())
}

const ASKED: [(&str, &str); 7] = [
    ("weir map", "maps"),
    ("weir net r", "rm"),
    ("weir check --bt", "--btf"),
    ("weir net rm --pri", "--priority"),
    ("weir --format js", "json"),
    ("weir completions fi", "fish"),
    ("weir net rm lo ing", "ingress"),
];

fn zsh() -> Result<()> {
    let dir = TempDir::new()?;
    dir.write("_weir", &weir(&["completions", "zsh"])?.clean()?.stdout)?;
    // A shell of its own on a pseudo-terminal completes a line, and says which line it has then.
    dir.write(
        "ask.zsh",
        r#"zmodload zsh/zpty || exit 1
zpty asked 'zsh -f -i'
zpty -w asked 'fpath=($PWD $fpath); autoload -Uz compinit && compinit -u -d $PWD/dump; PS1=; bindkey "^I" complete-word; show() { print -r -- "LINE<$BUFFER>"; BUFFER=; zle accept-line }; zle -N show; bindkey "^X" show; print READY$((1+1))'
seen=
until [[ $seen == *READY2* ]]; do zpty -r asked more || exit 1; seen+=$more; done
zpty -w -n asked "$1"$'\t\x18'
seen=
until [[ $seen == *LINE\<*\>* ]]; do zpty -r asked more || exit 1; seen+=$more; done
print -r -- ${${seen##*LINE<}%%>*}
"#,
    )?;
    for (line, word) in ASKED {
        let shown = offered("zsh", &["-f", "ask.zsh", line], &dir)?;
        ensure!(
            shown.iter().any(|l| l.split(' ').any(|w| w.trim_end_matches('=') == word)),
            "`{line}`: no `{word}` in {shown:?}"
        );
    }
    Ok(())
}

fn fish() -> Result<()> {
    let dir = TempDir::new()?;
    dir.write("weir.fish", &weir(&["completions", "fish"])?.clean()?.stdout)?;
    for (line, word) in ASKED {
        let call = format!("source weir.fish; complete -C '{line}'");
        let shown = offered("fish", &["--no-config", "-c", &call], &dir)?;
        ensure!(shown.iter().any(|l| l == word), "`{line}`: no `{word}` in {shown:?}");
    }
    Ok(())
}
