//! Every tracing probe on the running kernel, before a program that does exactly what it is told.

use anyhow::{Context, Result, ensure};
use std::io::{BufRead, BufReader};
use weir_tests::features::Feature;
use weir_tests::harness::Need::{Has, Lacks};
use weir_tests::harness::Test;
use weir_tests::net::Lab;
use weir_tests::traffic;
use weir_tests::victim::{self, OnDemand};
use weir_tests::weir::{Finished, Weir};

/// Those with `alone` probe this test's own program file, whose functions others would call, too.
pub const TESTS: &[Test] = &[
    Test::new("uprobes_see_arguments_return_values_and_names", uprobes).alone(),
    Test::new("a_uprobe_on_an_address_or_a_pattern", uprobe_places).alone(),
    Test::new("uprobe_working_memory_survives_preemption", preemption).alone(),
    Test::new("usdt_reads_arguments_and_tells_the_program", usdt).alone(),
    Test::new("rawtracepoint_reads_arguments_by_type", raw_tracepoint).alone(),
    Test::new("software_events_are_counted", software),
    Test::new("a_run_bound_to_a_process_sees_only_its_calls", one_process).alone(),
    Test::new("uaddr_finds_a_variable_wherever_the_program_is", uaddr).alone(),
    Test::new("a_probed_file_may_go_while_it_is_probed", vanished),
    Test::new("watchpoints_see_every_write", watchpoint).needs(&[Has(Feature::Watchpoint)]),
    Test::new("iter_task_visits_every_thread", iter_task),
    Test::new("iter_names_the_files_of_a_process", iter_files),
    Test::new("arguments_of_tracepoints_lead_to_structs", typed_arguments),
    Test::new("fentry_names_files_where_the_kernel_lets_it", fentry_path).needs(&[Has(Feature::Fentry)]),
    Test::new("iter_tcp_visits_every_socket", iter_tcp),
    Test::new("tracepoints_by_the_hundred_are_told_apart", many_tracepoints),
    Test::new("kprobe_patterns_are_one_program_that_tells_functions_apart", kprobe_pattern).needs(&[Has(Feature::Kprobe)]),
    Test::new("kprobe_in_a_module", kprobe_module).needs(&[Has(Feature::Kprobe), Has(Feature::Netem)]),
    Test::new("fentry_and_fexit_have_typed_arguments", fentry).needs(&[Has(Feature::Fentry)]),
    Test::new("fentry_knows_the_cookie_of_a_socket", socket_cookie).needs(&[Has(Feature::Fentry)]),
    Test::new("fentry_missing_is_named_and_something_else_offered", fentry_missing).needs(&[Lacks(Feature::Fentry)]),
    Test::new("missing_places_are_named_with_the_nearest", missing),
];

const CALLS: u64 = 50;

fn start(script: &str) -> Result<weir_tests::weir::Running> {
    Weir::script(script).start()
}

/// Runs the victim under a script and returns what both said.
fn with_victim(script: &str, work: &[&str]) -> Result<(Finished, String)> {
    let weir = start(script)?;
    let said = victim::run(work)?;
    Ok((weir.stop()?.clean()?, said))
}

fn exe() -> Result<String> {
    Ok(victim::path()?.to_string_lossy().into_owned())
}

fn uprobes() -> Result<()> {
    let exe = exe()?;
    let script = format!(
        "uprobe:{exe}:weir_victim_add {{ @a = sum(arg0); @b = max(arg2); @text[str(arg1)] = count(); }}
         uprobe:{exe}:weir_victim_add, uprobe:{exe}:weir_victim_double {{ @func[func] = count(); @type[probetype, comm] = count(); }}
         uretprobe:{exe}:weir_victim_double {{ @r = sum(retval); @name[func] = count(); }}"
    );
    let (done, _) = with_victim(&script, &["call", &CALLS.to_string()])?;
    let sum = CALLS * (CALLS - 1) / 2;
    done.expect_map("@a", [("", sum)])?;
    done.expect_map("@b", [("", 100)])?;
    done.expect_map("@r", [("", 2 * sum)])?;
    done.expect_map("@func", [("weir_victim_add", CALLS), ("weir_victim_double", CALLS)])?;
    done.expect_map("@name", [("weir_victim_double", CALLS)])?;
    done.expect_map("@type", [(format!("uprobe, {}", victim::COMM), 2 * CALLS)])?;
    // The page of the text may not be in memory at the first call.
    let seen: u64 = done.map("@text").values().filter_map(|n| n.parse::<u64>().ok()).sum();
    ensure!(seen == CALLS && done.map("@text").contains_key("hello"), "{done}");
    Ok(())
}

fn uprobe_places() -> Result<()> {
    let exe = exe()?;
    let said = victim::run(&["call", "1"])?;
    let address = said.split_whitespace().nth(3).context("no address")?.to_owned();
    let script = format!(
        "uprobe:{exe}:{address} {{ @address = count(); }}
         uprobe:{exe}:weir_victim_*, uprobe:{exe}:weir_victim_add {{ @pattern[probe] = count(); }}"
    );
    let (done, _) = with_victim(&script, &["call", &CALLS.to_string()])?;
    done.expect_map("@address", [("", CALLS)])?;
    let name = |f: &str| format!("uprobe:{exe}:{f}").chars().take(127).collect::<String>();
    done.expect_map("@pattern", [(name("weir_victim_add"), CALLS), (name("weir_victim_double"), CALLS)])
}

fn preemption() -> Result<()> {
    let exe = exe()?;
    let script = format!("uprobe:{exe}:weir_victim_add {{ @[str(arg1)] = count(); @all = count(); @sum = sum(1); }}");
    let (threads, calls) = (4, 500);
    let (done, _) = with_victim(&script, &["preempt", &threads.to_string(), &calls.to_string()])?;
    let expected: Vec<(String, u64)> = (0..threads).map(|i| (format!("thread {i}"), calls)).collect();
    done.expect_map("@", expected)?;
    done.expect_map("@all", [("", threads * calls)])?;
    done.expect_map("@sum", [("", threads * calls)])?;
    ensure!(!done.stderr.contains("working memory"), "{done}");
    Ok(())
}

fn usdt() -> Result<()> {
    let exe = exe()?;
    let script = format!(
        "usdt:{exe}:weir_test:tick {{ @number[arg0] = count(); @memory = sum(arg1); @constant[arg2] = count(); }}
         usdt:{exe}:tick {{ @probe[probetype] = count(); }}"
    );
    let (done, said) = with_victim(&script, &["call", &CALLS.to_string()])?;
    // The event is in two places of the program, and both blocks are at both; the kernel counts each place once.
    ensure!(said.contains("listeners 2"), "{said}");
    ensure!(done.stderr.contains("Attached 2 probes"), "{done}");
    done.expect_map("@number", [("-7", CALLS)])?;
    done.expect_map("@memory", [("", CALLS * (CALLS - 1) / 2)])?;
    done.expect_map("@constant", [("42", CALLS)])?;
    done.expect_map("@probe", [("usdt", CALLS)])?;
    ensure!(victim::run(&["call", "1"])?.contains("listeners 0"), "somebody still listens");
    Ok(())
}

fn raw_tracepoint() -> Result<()> {
    let exe = exe()?;
    let script = "rawtracepoint:sched_process_exec { @[str(args.bprm->filename)] = count(); @old[args.old_pid == tid] = count(); @n[arg1 == args.old_pid, probe] = count(); }";
    let weir = start(script)?;
    for _ in 0..7 {
        victim::run(&["call", "0"])?;
    }
    let done = weir.stop()?.clean()?;
    done.expect_entry("@", &exe, 7)?;
    ensure!(done.map("@old").keys().all(|k| k == "true"), "{done}");
    ensure!(
        done.map("@n").keys().all(|k| k == "true, rawtracepoint:sched_process_exec"),
        "{done}"
    );
    Ok(())
}

fn software() -> Result<()> {
    const PAGES: u64 = 500;
    let comm = victim::COMM;
    let script = format!(
        "software:minor-faults:1 /comm == \"{comm}\"/ {{ @ = count(); }} software:faults:50 /comm == \"{comm}\"/ {{ @every = count(); }}"
    );
    let (done, _) = with_victim(&script, &["touch", &PAGES.to_string()])?;
    let count = |map: &str| done.map(map).get("").and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    // The program's own start faults some pages, too.
    ensure!((PAGES..2 * PAGES).contains(&count("@")), "{done}");
    ensure!((PAGES / 50 - 1..PAGES / 25).contains(&count("@every")), "{done}");
    Ok(())
}

/// `-p` says whose calls count; the other victim does the same.
fn one_process() -> Result<()> {
    let exe = exe()?;
    let (one, other) = (OnDemand::start(CALLS)?, OnDemand::start(CALLS)?);
    let script = format!(
        "uprobe:{exe}:weir_victim_add {{ @[pid] = count(); }} uretprobe:{exe}:weir_victim_add {{ @ret[pid] = count(); }}
         software:minor-faults:1 {{ @faults[pid] = count(); }}"
    );
    let pid = one.pid();
    let weir = Weir::new(["-p", &pid, "-e", &script]).start()?;
    other.go()?;
    one.go()?;
    // It ends with the process.
    let done = weir.wait()?.clean()?;
    done.expect_map("@", [(&pid, CALLS)])?;
    done.expect_map("@ret", [(&pid, CALLS)])?;
    ensure!(done.map("@faults").keys().all(|k| *k == pid), "{done}");
    Ok(())
}

fn uaddr() -> Result<()> {
    let exe = exe()?;
    let script =
        format!("uprobe:{exe}:weir_victim_add, uprobe:{exe}:weir_victim_double {{ @[func, *uaddr(\"weir_victim_level\")] = count(); }}");
    let (done, _) = with_victim(&script, &["call", &CALLS.to_string()])?;
    done.expect_map("@", [("weir_victim_add, 7", CALLS), ("weir_victim_double, 7", CALLS)])?;
    Weir::script(&format!("uprobe:{exe}:weir_victim_add {{ print(uaddr(\"weir_victim_levl\")); }}"))
        .run()?
        .refused(&["has no symbol `weir_victim_levl`", "did you mean `weir_victim_level`?"])
        .map(drop)
}

fn vanished() -> Result<()> {
    let dir = weir_tests::net::TempDir::new()?;
    let copy = dir.path().join("victim");
    std::fs::copy(victim::path()?, &copy)?;
    let name = copy.to_str().context("a path")?;
    let weir = start(&format!("uprobe:{name}:weir_victim_add {{ @ = count(); }}"))?;
    let run = || -> Result<()> {
        let status = std::process::Command::new(&copy)
            .args([victim::ARG, "on-demand", "5"])
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .status()?;
        ensure!(status.success(), "the victim failed: {status}");
        Ok(())
    };
    run()?;
    std::fs::remove_file(&copy)?;
    // Another file of that name is another file.
    std::fs::copy(victim::path()?, &copy)?;
    run()?;
    let done = weir.stop()?.clean()?;
    done.expect_map("@", [("", 5)])
}

fn watchpoint() -> Result<()> {
    let (victim, other) = (OnDemand::start(CALLS)?, OnDemand::start(CALLS)?);
    let script = format!("watchpoint:{}:8:w {{ @[pid] = count(); }}", victim.address);
    let pid = victim.pid();
    let weir = Weir::new(["-p", &pid, "-e", &script]).start()?;
    other.go()?;
    victim.go()?;
    let done = weir.wait()?.clean()?;
    if weir_tests::in_vm() {
        // An emulated processor misses one now and then.
        let seen = done.map("@").get(&pid).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
        ensure!((CALLS - 2..=CALLS).contains(&seen), "{seen} of {CALLS}: {done}");
        return Ok(());
    }
    done.expect_map("@", [(&pid, CALLS)])
}

fn iter_files() -> Result<()> {
    let dir = weir_tests::net::TempDir::new()?;
    let path = dir.path().join("open-file");
    let file = std::fs::File::create(&path)?;
    let fd = std::os::fd::AsRawFd::as_raw_fd(&file);
    let script = format!(
        "iter:task_file /ctx.task->tgid == {} && ctx.fd == {fd}/ {{ @[path(ctx.file->f_path)] = count(); @short[path(&ctx.file->f_path, 5)] = count(); }}",
        std::process::id()
    );
    let done = Weir::script(&script).run()?.clean()?;
    // Once for each thread of this program.
    ensure!(done.map("@").keys().eq([path.to_str().context("a path")?]), "{done}");
    ensure!(done.map("@short").len() == 1, "{done}");
    Ok(())
}

fn typed_arguments() -> Result<()> {
    let probe = "tracepoint:syscalls:sys_enter_clock_nanosleep /pid == cpid/";
    let script = format!("{probe} {{ print((args.rqtp->tv_sec, args.rqtp.tv_nsec)); }}");
    let done = Weir::new(&["-c", "sleep 0.25", "-e", &script]).run()?.clean()?;
    ensure!(done.stdout.starts_with("(0, 250000000)\n"), "{done}");
    // A pointer to pointers to text.
    let script = "tracepoint:syscalls:sys_enter_execve /pid == cpid/ { print((str(*args.argv), str(args.argv[1]))); }";
    let done = Weir::new(&["-c", "/bin/echo weir", "-e", script]).run()?.clean()?;
    ensure!(done.stdout.contains("(/bin/echo, weir)\n"), "{done}");
    Ok(())
}

fn fentry_path() -> Result<()> {
    // In memory: an overlay file system asks the file system below, by the same function, and each look counts twice.
    let dir = weir_tests::net::TempDir::below("/dev/shm")?;
    let path = dir.path().join("looked-at");
    std::fs::write(&path, "x")?;
    let script = "fentry:security_inode_getattr /comm == \"weir-looker\"/ { @[path(args.path)] = count(); }";
    let weir = start(script)?;
    std::thread::scope(|scope| {
        let looker = scope.spawn(|| -> Result<()> {
            nix::sys::prctl::set_name(c"weir-looker")?;
            (0..CALLS).try_for_each(|_| Ok(drop(std::fs::metadata(&path)?)))
        });
        looker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    let done = weir.stop()?.clean()?;
    done.expect_map("@", [(path.display(), CALLS)])?;
    Weir::script("fentry:vfs_write { print(path(args.file->f_path)); }")
        .run()?
        .refused(&["does not name files in `vfs_write`", "`vfs_getattr`"])
        .map(drop)
}

fn iter_task() -> Result<()> {
    let mut child = victim::start(&["threads", "6"])?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("no output")?).read_line(&mut line)?;
    ensure!(line == "ready\n", "{line}");
    let pid = child.id();
    let script = format!(
        "iter:task /ctx.task->comm == \"{}\"/ {{ @[ctx.task->tgid] = count(); printf(\"%s\\n\", ctx.task->comm); }} end {{ printf(\"done\\n\"); }}",
        victim::COMM
    );
    let done = Weir::script(&script).run()?.clean()?;
    drop(child.stdin.take());
    child.wait()?;
    done.expect_entry("@", &pid.to_string(), 7)?;
    ensure!(done.stdout.lines().filter(|l| *l == victim::COMM).count() >= 7, "{done}");
    ensure!(done.stdout.contains("done\n"), "it did not end by itself: {done}");
    Ok(())
}

fn iter_tcp() -> Result<()> {
    let lab = Lab::new()?;
    let sockets: Vec<_> = (0..4)
        .map(|i| lab.node.run(|| Ok(std::net::TcpListener::bind((lab.node4(), 7000 + i))?)))
        .collect::<Result<_>>()?;
    let done = Weir::script("iter:tcp { @[ctx.sk_common->skc_num, ctx.sk_common->skc_state] = count(); }")
        .at(&lab)
        .run()?
        .clean()?;
    // TCP_LISTEN
    done.expect_map("@", (0..4).map(|i| (format!("{}, 10", 7000 + i), 1)))?;
    drop(sockets);
    Ok(())
}

fn many_tracepoints() -> Result<()> {
    let comm = victim::COMM;
    // Each costs a grace period of RCU at the end, which takes long where the processor is emulated: there some are enough.
    let pattern = if weir_tests::in_vm() { "sys_enter_?etp*" } else { "sys_enter_*" };
    let script = format!("tracepoint:syscalls:{pattern} /comm == \"{comm}\"/ {{ @[probe] = count(); }}");
    let (done, _) = with_victim(&script, &["call", &CALLS.to_string()])?;
    done.expect_entry("@", "tracepoint:syscalls:sys_enter_getpriority", CALLS)?;
    done.expect_entry("@", "tracepoint:syscalls:sys_enter_setpriority", CALLS)
}

fn kprobe_pattern() -> Result<()> {
    let comm = victim::COMM;
    let script = format!(
        "kprobe:__x64_sys_?etpriority /comm == \"{comm}\"/ {{ @[func, probe] = count(); }}
         kretprobe:__x64_sys_?etpriority /comm == \"{comm}\"/ {{ @ret[func, retval] = count(); }}
         kprobe:vmlinux:__x64_sys_getpriority /comm == \"{comm}\"/ {{ @one = count(); }}"
    );
    let (done, _) = with_victim(&script, &["call", &CALLS.to_string()])?;
    let key = |f: &str| format!("{f}, kprobe:{f}");
    done.expect_map("@", [(key("__x64_sys_getpriority"), CALLS), (key("__x64_sys_setpriority"), CALLS)])?;
    // The kernel's own convention: 20 minus the priority.
    done.expect_map("@ret", [("__x64_sys_getpriority, 20", CALLS), ("__x64_sys_setpriority, 0", CALLS)])?;
    done.expect_map("@one", [("", CALLS)])
}

fn kprobe_module() -> Result<()> {
    let lab = Lab::new()?;
    let weir = Weir::script("kprobe:veth:veth_xmit { @[probe] = count(); }").at(&lab).start()?;
    traffic::send_udp(&lab.peer, lab.peer4().into(), (lab.node4(), 5000).into(), 20)?;
    traffic::settle(&lab)?;
    let done = weir.stop()?.clean()?;
    let sent = done.map("@").get("kprobe:veth:veth_xmit").and_then(|n| n.parse::<u64>().ok());
    ensure!(sent >= Some(20), "{done}");
    Ok(())
}

fn fentry() -> Result<()> {
    let comm = victim::COMM;
    let script = format!(
        "fentry:__x64_sys_setpriority /comm == \"{comm}\"/ {{ @[func, args.regs->di, args.regs->dx] = count(); @arg[arg0 == (uint64)args.regs] = count(); }}
         fexit:__x64_sys_getpriority /comm == \"{comm}\"/ {{ @ret[retval, probe] = count(); }}
         fentry:vfs_write /comm == \"{comm}\"/ {{ @wrote[args.count > 0, args.file->f_inode->i_sb->s_magic != 0] = count(); }}"
    );
    let (done, _) = with_victim(&script, &["call", &CALLS.to_string()])?;
    done.expect_map("@", [("__x64_sys_setpriority, 0, 0", CALLS)])?;
    done.expect_map("@arg", [("true", CALLS)])?;
    done.expect_map("@ret", [("20, fexit:vmlinux:__x64_sys_getpriority", CALLS)])?;
    ensure!(done.map("@wrote").contains_key("true, true"), "{done}");
    Ok(())
}

fn socket_cookie() -> Result<()> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let comm = "weir-cookie";
    let weir = start(&format!(
        "fentry:tcp_connect /comm == \"{comm}\"/ {{ @[socket_cookie(args.sk)] = count(); }}"
    ))?;
    let stream = std::thread::scope(|scope| {
        let client = scope.spawn(|| -> Result<std::net::TcpStream> {
            nix::sys::prctl::set_name(c"weir-cookie")?;
            Ok(std::net::TcpStream::connect(address)?)
        });
        client.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    let (mut cookie, mut len) = (0u64, 8 as libc::socklen_t);
    // SAFETY: the descriptor is open, the value and its length are live and of the size that is said.
    let done = unsafe {
        libc::getsockopt(
            std::os::fd::AsRawFd::as_raw_fd(&stream),
            libc::SOL_SOCKET,
            libc::SO_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    ensure!(done == 0, "no cookie: {}", std::io::Error::last_os_error());
    let done = weir.stop()?.clean()?;
    done.expect_map("@", [(cookie, 1)])?;
    Weir::script("fentry:tcp_connect { $s = args.sk; print(socket_cookie($s)); }")
        .run()?
        .refused(&["a socket as the kernel gives it", "`socket_cookie(args.sk)`"])
        .map(drop)
}

fn fentry_missing() -> Result<()> {
    let done = Weir::script("fentry:tcp_retransmit_skb { @ = count(); }").run()?;
    done.refused(&["no `fentry`", "tracepoint:tcp:tcp_retransmit_skb", "^"]).map(drop)
}

fn missing() -> Result<()> {
    let exe = exe()?;
    let refused = |script: String, words: &[&str]| Weir::script(&script).run()?.refused(words).map(drop);
    refused(
        format!("uprobe:{exe}:weir_victim_ad {{ }}"),
        &["no function called `weir_victim_ad`", "weir_victim_add"],
    )?;
    refused(format!("usdt:{exe}:tock {{ }}"), &["no static event `tock`", ":tick`"])?;
    refused("uprobe:libc:strlen { }".to_owned(), &["chosen when the program is loaded"])?;
    refused("uprobe:/etc/passwd:f { }".to_owned(), &["/etc/passwd", "not a 64-bit program"])?;
    refused("rawtracepoint:sched_swich { }".to_owned(), &["rawtracepoint:sched_switch"])?;
    refused("iter:tsk { }".to_owned(), &["iter:task"])
}
