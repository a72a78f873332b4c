//! `weir repl` as a person meets it: keys, a screen, jobs that print while a line is typed; and as a script meets it: a pipe.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};
use weir_tests::harness::Test;
use weir_tests::in_vm;
use weir_tests::net::{Lab, TempDir};
use weir_tests::terminal::{CTRL_C, CTRL_D, TAB, Terminal, UP};
use weir_tests::weir::program;

pub const TESTS: &[Test] = &[
    Test::new("repl_entries_share_maps_and_leave_nothing", entries),
    Test::new("repl_a_line_being_typed_survives_output", output_while_typing),
    Test::new("repl_edits_completes_and_remembers", editing),
    Test::new("repl_completes_members_and_drops_what_is_half_typed", completing),
    Test::new("repl_commands_do_what_they_say", commands),
    Test::new("repl_keys_typed_ahead_wait_for_the_prompt", typed_ahead),
    Test::new("repl_watch_redraws_in_place", watch),
    Test::new("repl_errors_have_carets_and_cost_nothing", errors),
    Test::new("repl_killed_leaves_nothing", killed),
    Test::new("repl_stays_usable_under_ten_thousand_lines_a_second", flood),
    Test::new("repl_stays_usable_over_a_slow_line", slow_line),
    Test::new("repl_keys_come_before_a_flood_on_a_slow_line", slow_flood),
    Test::new("repl_settings_are_checked", settings),
    Test::new("repl_takes_a_pipe", pipe),
    Test::new("repl_saves_what_runs", save),
];

fn start(dir: &TempDir) -> Result<Terminal> {
    let mut terminal = Terminal::start(&["repl"], dir.path())?;
    terminal.wait_prompt()?;
    Ok(terminal)
}

fn leave(terminal: Terminal, objects: &BTreeSet<weir_tests::kernel::Object>) -> Result<()> {
    let status = terminal.left(objects)?;
    ensure!(status.success(), "it ended with {status}");
    Ok(())
}

fn entries() -> Result<()> {
    let dir = TempDir::new()?;
    let mut t = start(&dir)?;
    // Several lines, until the braces close.
    t.line("interval:ms:20 {")?;
    t.line("  @ticks++; @by[cpu >= 0] = count();")?;
    t.line("}")?;
    t.wait_for("job 1: attached 1 probe")?;
    // The next entry reads what the first one fills.
    t.line("interval:ms:20 /@ticks > 3/ { @late = count(); }")?;
    t.wait_for("job 2: attached 1 probe")?;
    let objects = t.objects();
    ensure!(!objects.is_empty(), "it holds no BPF object");
    t.line("begin { while (@ticks < 10) { @spins++; if (@spins > 100000) { break; } } }")?;
    t.line(":wait 500ms")?;
    t.line("@late > 0 ? 4242 : 0")?;
    t.wait("the value", |t| t.shown().lines().any(|l| l == "4242" || l == "0"))?;
    t.line(":maps")?;
    t.wait_for("@by[bool]: count_t")?;
    t.line(":jobs")?;
    t.wait_for("interval:ms:20 /@ticks > 3/")?;
    t.line(":stop 1")?;
    t.wait_for("job 1 stopped")?;
    // The map outlives the job that made it.
    t.line(":print @by")?;
    t.wait_for("@by[true]: ")?;
    leave(t, &objects)
}

fn output_while_typing() -> Result<()> {
    let dir = TempDir::new()?;
    let mut t = start(&dir)?;
    t.line("profile:hz:199 { printf(\"line %d of a job that prints a lot\\n\", nsecs); }")?;
    t.wait_for("of a job that prints a lot")?;
    let objects = t.objects();
    t.keys("begin { printf(\"typed ")?;
    t.wait("what was typed", |t| t.cursor_line().starts_with("weir> begin { printf(\"typed"))?;
    // Some hundred lines go by above it.
    let so_far = t.printed().len();
    t.wait("much output", |t| t.printed().len() > so_far + 20_000)?;
    t.keys("whole\\n\"); }")?;
    t.wait("the whole line", |t| {
        t.cursor_line() == "weir> begin { printf(\"typed whole\\n\"); }"
    })?;
    t.resize(30, 60)?;
    t.keys("\r")?;
    t.wait("its output", |t| {
        t.printed().contains("typed whole\r\n") || t.shown().contains("typed whole")
    })?;
    t.line(":stop all")?;
    t.wait_for("stopped")?;
    leave(t, &objects)
}

fn editing() -> Result<()> {
    let dir = TempDir::new()?;
    let mut t = start(&dir)?;
    t.keys(":jo")?;
    t.keys(TAB)?;
    t.wait("the completed command", |t| t.cursor_line().starts_with("weir> :jobs"))?;
    t.keys("\r")?;
    t.wait_for("nothing runs in the background")?;
    t.wait_prompt()?;
    // Ctrl-C clears the line and ends nothing.
    t.keys("begin { print(1")?;
    t.wait("what was typed", |t| t.cursor_line().ends_with("print(1"))?;
    t.keys(CTRL_C)?;
    t.wait_prompt()?;
    t.keys("xdp:lo { @[tcp.dpo")?;
    t.keys(TAB)?;
    t.wait("the completed field", |t| t.cursor_line().ends_with("@[tcp.dport"))?;
    // Words that weir knows have colours, those that it does not have none.
    t.keys("] = count(); kount(")?;
    t.wait("the whole line", |t| t.cursor_line().ends_with("kount("))?;
    ensure!(
        t.is_coloured("xdp:lo") && t.is_coloured("tcp.dport") && t.is_coloured("count()") && !t.is_coloured("kount("),
        "colours:\n{:?}",
        t.printed()
    );
    t.keys(CTRL_C)?;
    t.wait_prompt()?;
    t.keys("begin { strncmp(")?;
    t.wait_for("a, b, n)")?;
    t.keys(CTRL_C)?;
    t.wait_prompt()?;
    leave(t, &BTreeSet::new())?;
    // The history is there in the next session.
    let mut t = start(&dir)?;
    t.keys(UP)?;
    t.wait("the last line of the first session", |t| t.cursor_line().starts_with("weir> :jobs"))?;
    t.keys(CTRL_C)?;
    t.wait_prompt()?;
    leave(t, &BTreeSet::new())
}

fn completing() -> Result<()> {
    let dir = TempDir::new()?;
    // An interface of its own, in a namespace of its own.
    let lab = Lab::new()?;
    lab.node
        .ip(&["link", "add", "weirtest-if", "type", "veth", "peer", "name", "other"])?;
    let mut t = lab.node.run(|| Terminal::start(&["repl"], dir.path()))?;
    t.wait_prompt()?;
    for (typed, whole) in [
        ("tracepoint:syscalls:sys_enter_openat { @[args.filen", "@[args.filename"),
        ("begin { $s = (struct sock *)curtask; @ = $s->__sk_com", "$s->__sk_common"),
        ("begin { $long_name = 1; @ = $lon", "@ = $long_name"),
        ("use blocklist(ifa", "use blocklist(iface="),
        ("tc:lo:ingr", "tc:lo:ingress"),
        ("xdp:weirtest-i", "xdp:weirtest-if"),
        (":dump cl", ":dump clif"),
        (":doc strnc", ":doc strncmp"),
    ] {
        t.keys(typed)?;
        t.keys(TAB)?;
        t.wait(whole, |t| t.cursor_line().ends_with(whole))?;
        t.keys(CTRL_C)?;
        t.wait_prompt()?;
    }
    // Ctrl-C in the third line of an entry drops all three.
    t.line("interval:s:1 {")?;
    t.line("  @x++;")?;
    t.keys("  @half")?;
    t.wait("the third line", |t| t.cursor_line().ends_with("@half"))?;
    t.keys(CTRL_C)?;
    t.wait_prompt()?;
    t.line(":jobs")?;
    t.wait_for("nothing runs in the background")?;
    t.line(":maps")?;
    t.wait_for("no maps yet")?;
    leave(t, &BTreeSet::new())
}

/// Each command once, in a pipe, with what it has to answer.
fn commands() -> Result<()> {
    let dir = TempDir::new()?;
    dir.write("loaded.weir", "begin { @loaded[str($1)] = 7; }\n")?;
    let script = dir.path().join("loaded.weir");
    let (text, good) = piped(&format!(
        ":help\n:help every\nbegin {{ @x[1] = 5; @x[2] = 6; }}\n:every 50ms @x 1\n:wait 2s\n:jobs\n:stop all\n:jobs\n:maps\n:type @x\n\
         :type nsecs\n:dump ast\n:list 'interval:*'\n:doc strncmp\n:net lo\n:load {} word\n:print @loaded\n:clear @x\n:print @x\n1234 + 1\n:quit\n1 + 9999\n",
        script.display()
    ))?;
    for part in [
        ":watch",
        ":every",
        "job 2: prints @x every 50ms",
        "@x[2]: 6",
        ":every 50ms @x 1",
        "job 2 stopped",
        "nothing runs in the background",
        "@x[int64]: int64",
        "uint64",
        "interval:s:",
        "strncmp(",
        "@loaded[word]: 7",
        "1235",
        // `:dump ast`, and `:net lo`, whose programs depend on the machine.
        "(probe\n  (attach \"begin\")",
        "(assign = (map @x[] (int 2)) (int 6))",
        "\nlo\n  ",
    ] {
        ensure!(text.contains(part), "no `{part}` in {text}");
    }
    // Only the largest was asked for, each time, and after `:clear` there is none.
    ensure!(!text.contains("@x[1]: 5") && !text.contains("10000"), "{text}");
    ensure!(good, "{text}");
    Ok(())
}

/// Whatever is typed while a command runs is done at the next prompts, key by key.
fn typed_ahead() -> Result<()> {
    let dir = TempDir::new()?;
    let mut t = start(&dir)?;
    t.line("begin { printf(\"%d\\n\", 4200 + 42); }")?;
    t.wait("the first output", |t| t.printed().contains("4242\r\n"))?;
    t.wait_prompt()?;
    t.line(":wait 5s")?;
    t.wait_busy()?;
    // A line with a word taken back, a search in the history, and the end.
    t.keys(":jbos\x17:jobs\r")?;
    t.keys("\x12printf\r")?;
    t.keys(CTRL_D)?;
    t.wait("the second output", |t| t.printed().matches("4242\r\n").count() == 2)?;
    ensure!(
        t.printed().contains("nothing runs in the background"),
        "`:jobs` did not run:\n{}",
        t.shown()
    );
    let status = t.ended(&BTreeSet::new())?;
    ensure!(status.success(), "it ended with {status}");
    // Ctrl-C ends what is waited for, not the session.
    let mut t = start(&dir)?;
    t.line(":wait 1h")?;
    t.wait_busy()?;
    t.keys(CTRL_C)?;
    t.wait_prompt()?;
    leave(t, &BTreeSet::new())
}

fn watch() -> Result<()> {
    let dir = TempDir::new()?;
    let mut t = start(&dir)?;
    t.line("interval:ms:50 { @[\"one\"] = count(); @[\"two\"] = count(); }")?;
    t.wait_for("job 1: attached")?;
    let objects = t.objects();
    t.line(":watch @")?;
    t.wait_for("any key returns")?;
    t.wait("bars and changes", |t| {
        let text = t.shown();
        text.lines()
            .any(|l| l.starts_with("one ") && l.contains('+') && l.contains(['▁', '█']))
    })?;
    // It fits into a smaller terminal.
    t.resize(10, 40)?;
    t.wait("a shorter head", |t| {
        let text = t.shown();
        text.starts_with("@   2 entries") && text.lines().next().is_some_and(|l| l.ends_with('…'))
    })?;
    t.resize(24, 100)?;
    t.wait_for("any key returns")?;
    t.keys("q")?;
    t.wait_prompt()?;
    ensure!(!t.shown().contains("any key returns"), "the view is still there");
    leave(t, &objects)
}

fn errors() -> Result<()> {
    let dir = TempDir::new()?;
    let mut t = start(&dir)?;
    t.line("begin { @x[1] = nsec; }")?;
    t.wait_for("did you mean `nsecs`?")?;
    ensure!(t.shown().contains("^^^^"), "no caret:\n{}", t.shown());
    t.wait_prompt()?;
    t.line("begin { @x[1] = 5; }")?;
    t.line("@x = 7;")?;
    t.wait_for("`@x` is of entry 1: `begin { @x[1] = 5; }`")?;
    t.line(":pritn @x")?;
    t.wait_for("did you mean `:print`?")?;
    t.line(":print @y")?;
    t.wait_for("there is no map `@y`")?;
    t.line("@x")?;
    t.wait_for("@x[1]: 5")?;
    leave(t, &BTreeSet::new())
}

fn killed() -> Result<()> {
    for signal in [Signal::SIGKILL, Signal::SIGTERM, Signal::SIGHUP] {
        let dir = TempDir::new()?;
        let mut t = start(&dir)?;
        t.line("interval:ms:50 { @++; }")?;
        t.wait_for("job 1: attached")?;
        let objects = t.objects();
        ensure!(!objects.is_empty(), "it holds no BPF object");
        t.signal(signal)?;
        t.ended(&objects)?;
    }
    Ok(())
}

/// 100 lines, 100 times a second.
const FLOOD: &str = "interval:ms:10 { for ($i : 0..100) { printf(\"flood %d\\n\", $i); } }";

/// Waits until so many more bytes have come than now.
fn wait_bytes(t: &mut Terminal, more: usize) -> Result<()> {
    let so_far = t.printed().len();
    t.wait("the flood", |t| t.printed().len() > so_far + more)
}

fn flood() -> Result<()> {
    // Three seconds' worth of lines of ten bytes, and what the prompt takes.
    const MUCH: usize = 30_000 * 15;
    let dir = TempDir::new()?;
    let mut t = start(&dir)?;
    t.line(FLOOD)?;
    t.wait("the first lines", |t| t.printed().contains("flood 99"))?;
    let objects = t.objects();
    t.keys("print(4")?;
    wait_bytes(&mut t, MUCH)?;
    t.keys("2);")?;
    t.wait("the line being typed", |t| t.cursor_line() == "weir> print(42);")?;
    t.keys("\r")?;
    t.wait("its output", |t| t.printed().contains("\n42\r\n"))?;
    // Whole lines only, never two in one; before it was attached there is only the script as it was typed.
    let (_, output) = t.printed().split_once("job 1: attached").context("it was not attached")?;
    let lines: Vec<&str> = output
        .split("flood ")
        .skip(1)
        .map(|l| l.split(['\r', '\n', '\x1b']).next().unwrap_or(""))
        .collect();
    // The last may still be on its way.
    let torn = lines.iter().rev().skip(1).find(|l| !l.parse::<u32>().is_ok_and(|n| n < 100));
    ensure!(
        torn.is_none() && lines.len() > 30_000,
        "a torn line `{torn:?}` among {}",
        lines.len()
    );
    t.line(":stop all")?;
    t.wait("its end", |t| t.printed().contains("job 1 stopped"))?;
    t.line(":jobs")?;
    t.wait_for("nothing runs in the background")?;
    leave(t, &objects)?;
    // And killed in the middle of it.
    for signal in [Signal::SIGKILL, Signal::SIGHUP] {
        let mut t = start(&dir)?;
        t.line(FLOOD)?;
        wait_bytes(&mut t, MUCH / 10)?;
        let objects = t.objects();
        ensure!(!objects.is_empty(), "it holds no BPF object");
        t.signal(signal)?;
        t.ended(&objects)?;
    }
    Ok(())
}

/// What an ssh session over a bad mobile network carries, and a job that prints all the time.
fn slow_line() -> Result<()> {
    const RATE: u32 = 16 << 10;
    let dir = TempDir::new()?;
    let mut t = start(&dir)?;
    t.slow_line(RATE);
    t.line("interval:ms:100 { @n++; printf(\"line %d of a job that never ends\\n\", @n); }")?;
    t.wait("the first lines", |t| t.printed().contains("line 9 of"))?;
    let objects = t.objects();
    t.keys("print(4200 + 42);")?;
    t.wait("the line being typed", |t| t.cursor_line() == "weir> print(4200 + 42);")?;
    t.keys("\r")?;
    t.wait("its output", |t| t.printed().contains("\n4242\r\n"))?;
    t.keys("half a line")?;
    t.wait("half a line", |t| t.cursor_line() == "weir> half a line")?;
    t.keys(CTRL_C)?;
    t.wait_prompt()?;
    t.line(":stop all")?;
    t.wait("its end", |t| t.printed().contains("job 1 stopped"))?;
    leave(t, &objects)?;
    // Killed while it has more to say than the line carries.
    let mut t = start(&dir)?;
    t.slow_line(RATE);
    t.line(FLOOD)?;
    wait_bytes(&mut t, RATE as usize)?;
    let objects = t.objects();
    t.signal(Signal::SIGHUP)?;
    t.ended(&objects).map(drop)
}

/// A job that prints far more than the line carries: what is typed is on the screen before much more has come, whatever the line.
fn slow_flood() -> Result<()> {
    // An emulated machine is slow enough itself.
    let lines = if in_vm() { 1 } else { 3 };
    let lines = [(9_600, true), (115_200, true), (9_600, false)].into_iter().take(lines);
    std::thread::scope(|scope| {
        let all: Vec<_> = lines
            .map(|(baud, answers)| {
                scope.spawn(move || flood_over(baud, answers).with_context(|| format!("{baud} baud, a terminal that answers: {answers}")))
            })
            .collect();
        all.into_iter()
            .try_for_each(|one| one.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?)
    })
}

fn flood_over(baud: u32, answers: bool) -> Result<()> {
    const TYPED: &str = "print(4242);";
    // What a key may have before it: a piece or two of output, and the line drawn again. The buffers of a terminal hold twenty times as much.
    const MOST: usize = 800;
    let dir = TempDir::new()?;
    let mut t = Terminal::start(&["repl"], dir.path())?;
    if !answers {
        t.mute();
    }
    t.slow_line(baud / 10);
    t.wait_prompt()?;
    t.line(FLOOD)?;
    t.wait("the flood", |t| t.printed().contains("flood 9"))?;
    let objects = t.objects();
    let mut between = Vec::new();
    for end in 1..=TYPED.len() {
        let before = t.bytes();
        t.keys(&TYPED[end - 1..end])?;
        let whole = format!("weir> {}", &TYPED[..end]);
        t.wait(&format!("`{whole}`"), |t| t.cursor_line().starts_with(&whole))?;
        between.push(t.bytes() - before);
    }
    between.sort_unstable();
    // A machine that is busy with other things may have let one or the other wait.
    ensure!(between[between.len() * 3 / 4] <= MOST, "bytes before each key: {between:?}");
    t.keys("\r")?;
    t.wait("its output", |t| t.printed().contains("\n4242\r\n"))?;
    if answers && baud < 10_000 {
        t.wait("word of what waits", |t| t.printed().contains(" lines wait: "))?;
        t.keys(CTRL_C)?;
        t.wait("word of what was left out", |t| t.printed().contains(" lines were left out)"))?;
    }
    t.line(":stop all")?;
    t.wait("its end", |t| t.printed().contains("job 1 stopped"))?;
    t.keys(CTRL_D)?;
    let status = t.ended(&objects)?;
    ensure!(status.success(), "it ended with {status}");
    Ok(())
}

fn settings() -> Result<()> {
    let (text, good) = piped(
        ":set foo 3\n:set max_strlen abc\n:set max_strlne 3\n:set unsafe maybe\n:set stack_mode\n:set max_strlen 16\n:set\n\
         begin { print(str(\"0123456789\", 32)); }\n",
    )?;
    for part in [
        "unknown setting `foo`",
        "`max_strlen` cannot have this value\n --> :set:1:14",
        "did you mean `max_strlen`?",
        "`unsafe` is `on` or `off`",
        "`stack_mode` needs a value",
        "unsafe off\nmax_strlen 16\n",
        "`max_strlen`, which is 16",
    ] {
        ensure!(text.contains(part), "no `{part}` in {text}");
    }
    ensure!(!good, "errors in a pipe are a failure");
    Ok(())
}

/// What a pipe's session prints, and whether it went well.
fn piped(text: impl AsRef<[u8]>) -> Result<(String, bool)> {
    let mut child = Command::new(program()?)
        .arg("repl")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    child.stdin.take().map(|mut i| i.write_all(text.as_ref())).transpose()?;
    let output = child.wait_with_output()?;
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(err.is_empty(), "on standard error: {err}");
    Ok((String::from_utf8_lossy(&output.stdout).into_owned(), output.status.success()))
}

fn pipe() -> Result<()> {
    let (text, good) = piped("macro twice(x) { x * 2 }\nbegin {\n  @x[\"a\"] = twice(21);\n}\n@x\n1 + 1\n:type @x\n:quit\nnever read\n")?;
    ensure!(
        text == "defined for the entries that follow\n@x[a]: 42\n2\n@x[string[8]]: int64\n",
        "it printed {text:?}"
    );
    ensure!(good, "it failed");
    // An error in what was imported or defined before is shown where it is.
    let dir = TempDir::new()?;
    dir.write("lib.weir", "macro wrong(x) { x + no_such }\n")?;
    dir.write("main.weir", "import \"lib.weir\";\nbegin { print(wrong(1)); }\n")?;
    let folder = dir.path().display();
    let (text, good) = piped(&format!(
        "import \"{folder}/lib.weir\";\nprint(wrong(1));\n:load {folder}/main.weir\nmacro own(x) {{ x + nor_this }}\nprint(own(2));\n"
    ))?;
    ensure!(
        text.matches("/lib.weir:1:22\n").count() == 2 && text.contains("main.weir:2:15\n"),
        "{text}"
    );
    ensure!(
        text.contains(" --> earlier definitions:2:20\n") && text.contains("::: entry 1:1:7") && !good,
        "{text}"
    );
    let (text, good) = piped("nonsense(\n")?;
    ensure!(text.contains("entry 1:1:") && !good, "an error in a pipe is a failure: {text}");
    // A native that runs is printed by later entries, as a whole, too; blocks on its events must come with it.
    let (text, good) =
        piped("use retransmits() as re;\n@re.stats\nprint(@re.stats);\nprint(@re, 3)\n@re\nre:retransmit { @x = count(); }\n")?;
    ensure!(
        text.matches("@re.stats[rto]: 0\n").count() >= 3 && text.contains("error: `re` runs already, in job 1\n"),
        "{text}"
    );
    ensure!(text.contains("`:stop 1`, then `use … as re; re:retransmit {") && !good, "{text}");
    // What cannot be read is left out, and said.
    let (text, good) = piped(b"1 + 1\n\xff\xfe\n2 + 2\n")?;
    ensure!(
        text.starts_with("2\nerror: line 2 is not UTF-8 (byte 1)") && text.ends_with("\n4\n") && !good,
        "{text:?}"
    );
    Ok(())
}

fn save() -> Result<()> {
    let dir = TempDir::new()?;
    let file = dir.path().join("session.weir");
    let name = file.display();
    let (text, good) = piped(&format!("begin {{ @x = 5; }}\n:save {name}\n"))?;
    ensure!(good && text.contains("has the session"), "{text}");
    let output = Command::new(program()?).arg(&file).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(text.contains("@x: 5"), "the saved script printed {text}");
    // A file that is there is not overwritten.
    let (text, good) = piped(&format!("begin {{ @x = 6; }}\n:save {name}\n"))?;
    ensure!(!good && text.contains("cannot write"), "{text}");
    Ok(())
}
