//! `weir check` and `weir completions`: what needs neither root nor a kernel that could run the script.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::process::Command;
use weir_tests::harness::Test;
use weir_tests::net::TempDir;
use weir_tests::weir::{Finished, Weir};

pub const TESTS: &[Test] = &[
    Test::new("check_takes_right_scripts_and_refuses_wrong_ones", check),
    Test::new("check_says_in_json_what_is_wrong_where", json),
    Test::new("check_takes_the_types_of_another_kernel", other_kernel),
    Test::new("completions_know_every_command", completions),
    Test::new("completions_complete_in_bash", bash),
];

/// CAP_DAC_OVERRIDE, CAP_NET_ADMIN, CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF
const PRIVILEGED: &[u32] = &[1, 12, 21, 38, 39];

fn weir(args: &[&str]) -> Result<Finished> {
    Weir::new(args.iter().copied()).without_capabilities(PRIVILEGED).run()
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
