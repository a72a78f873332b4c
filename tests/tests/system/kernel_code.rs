//! Probes on code that is not the kernel's own, and iterators that others read.

use anyhow::{Context, Result, ensure};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use weir_tests::features::Feature;
use weir_tests::frame::Frame;
use weir_tests::harness::Need::Has;
use weir_tests::harness::Test;
use weir_tests::kernel::Kind;
use weir_tests::net::Lab;
use weir_tests::traffic;
use weir_tests::weir::Weir;

pub const TESTS: &[Test] = &[
    Test::new("code_in_a_module_has_typed_arguments", module).needs(&[Has(Feature::Fentry), Has(Feature::VethModule)]),
    Test::new("code_of_a_bpf_program_is_seen_with_its_verdicts", bpf_program).needs(&[Has(Feature::Fentry)]),
    Test::new("code_that_is_not_there_is_named", missing).needs(&[Has(Feature::Fentry), Has(Feature::VethModule)]),
    Test::new("code_of_modules_is_listed", listed).needs(&[Has(Feature::Fentry), Has(Feature::VethModule)]),
    Test::new("code_of_a_named_iterator_runs_for_its_readers", iter_name).alone(),
];

fn frame(lab: &Lab) -> Frame {
    Frame::udp(lab.peer4(), lab.node4(), 5000)
}

fn module() -> Result<()> {
    let lab = Lab::new()?;
    // Other tests have cables, too.
    let net = lab.peer.file().metadata()?.ino();
    let ours = "args.dev->nd_net.net->ns.inum";
    let script = format!(
        "fentry:veth:veth_xmit /{ours} == {net}/ {{ @[probe, func, str(args.dev->name)] = count(); @len = max(args.skb->len); }}
         fexit:veth_xmit /{ours} == {net}/ {{ @r[retval] = count(); }}"
    );
    let weir = Weir::script(&script).at(&lab).start()?;
    traffic::send_frames(&lab, &[(11, frame(&lab))])?;
    traffic::settle(&lab)?;
    let done = weir.stop()?.clean()?;
    // The last packet that `settle` sends, and what the kernel says by itself (neighbours), come on top.
    let count = |map: &str, key: &str| done.map(map).get(key).and_then(|n| n.parse::<u64>().ok());
    let sent = count("@", "fentry:veth:veth_xmit, veth_xmit, peer0");
    ensure!(sent >= Some(12) && sent < Some(40), "{done}");
    ensure!(count("@r", "NETDEV_TX_OK") == sent, "{done}");
    ensure!(count("@len", "") >= Some(42), "{done}");
    Ok(())
}

fn bpf_program() -> Result<()> {
    let lab = Lab::new()?;
    let filter = Weir::script("xdp:veth0 /udp.dport == 5000/ { drop(); }").at(&lab).start()?;
    let programs: Vec<u32> = filter.objects().iter().filter(|o| o.kind == Kind::Program).map(|o| o.id).collect();
    let [id] = programs.as_slice() else {
        anyhow::bail!("one program was expected, there are {programs:?}")
    };
    let script = format!(
        "fentry:bpf:{id}:w0_xdp {{ @in[probe, func] = count(); @on[str(((struct xdp_buff *)arg0)->rxq->dev->name)] = count(); }}
         fexit:bpf:{id}:w* {{ @out[retval] = count(); }}"
    );
    let weir = Weir::script(&script).start()?;
    traffic::send_frames(&lab, &[(7, frame(&lab))])?;
    traffic::settle(&lab)?;
    let done = weir.stop()?.clean()?;
    // XDP_DROP for what was sent, XDP_PASS for the last packet and what the kernel says by itself.
    done.expect_entry("@out", "1", 7)?;
    let number = |map: &str, key: &str| done.map(map).get(key).and_then(|n| n.parse::<u64>().ok());
    let all = number("@in", &format!("fentry:bpf:{id}:w0_xdp, w0_xdp"));
    ensure!(all >= Some(8) && number("@out", "2").map(|n| n + 7) == all, "{done}");
    ensure!(number("@on", "veth0") == all, "{done}");
    let list = Weir::new(["-l", &format!("fentry:bpf:{id}:*")]).run()?.clean()?;
    ensure!(list.stdout == format!("fentry:bpf:{id}:w0_xdp\n"), "{list}");
    let list = Weir::new(["-lv", &format!("fexit:bpf:{id}:*")]).run()?.clean()?;
    ensure!(list.stdout.contains("    arg0\n    int retval\n"), "{list}");
    Weir::script(&format!("fentry:bpf:{id}:w0_xdq {{ }}"))
        .run()?
        .refused(&[&format!("the BPF program {id} has no function `w0_xdq`"), "`fentry:bpf:w0_xdp`"])?;
    filter.stop()?.clean().map(drop)
}

fn missing() -> Result<()> {
    let _lab = Lab::new()?;
    for (script, words) in [
        (
            "fentry:veth:veth_xmi { }",
            &["`veth_xmi`", "did you mean `fentry:veth:veth_xmit`", "^"][..],
        ),
        (
            "fentry:vet:veth_xmit { }",
            &["no module `vet` is loaded", "`fentry:veth:veth_xmit`"][..],
        ),
        ("fentry:veth:veth_xmit { @ = args.de; }", &["no argument `de`", "`dev`"][..]),
        (
            "fentry:bpf:no_such_program { }",
            &["no BPF program has a function `no_such_program`"][..],
        ),
    ] {
        Weir::script(script).run()?.refused(words)?;
    }
    Ok(())
}

fn listed() -> Result<()> {
    let _lab = Lab::new()?;
    let list = Weir::new(["-l", "fentry:veth:veth_*"]).run()?.clean()?;
    ensure!(list.stdout.contains("fentry:veth:veth_xmit\n"), "{list}");
    let list = Weir::new(["-lv", "fexit:veth:veth_xmit"]).run()?.clean()?;
    for line in ["    struct sk_buff * skb\n", "    struct net_device * dev\n", "retval\n"] {
        ensure!(list.stdout.contains(line), "{list}");
    }
    Ok(())
}

fn iter_name() -> Result<()> {
    let name = format!("weir_test_{}", std::process::id());
    let path = format!("/sys/fs/bpf/{name}");
    let path = Path::new(&path);
    let pid = std::process::id();
    let script =
        format!("iter:task:{name} /ctx.task->pid == {pid}/ {{ printf(\"%-8s|%6d|%x|%c 100%%\\n\", \"pid\", ctx.task->tgid, 255, 65); }}");
    let done = Weir::script(&script).run()?;
    ensure!(
        done.status.success() && done.stderr.contains(&format!("Program pinned to {}\n", path.display())),
        "{done}"
    );
    // Nobody runs it now but the reader, and each reader anew.
    for _ in 0..2 {
        let text = std::fs::read_to_string(path).context("the iterator cannot be read")?;
        ensure!(text == format!("pid     |{pid:6}|ff|A 100%\n"), "{text}");
    }
    Weir::script(&script)
        .run()?
        .refused(&["there is something at `/sys/fs/bpf/weir_test_", "rm /sys/fs/bpf/weir_test_"])?;
    std::fs::remove_file(path)?;
    ensure!(!path.exists(), "the name is still there");
    // With its name the program goes.
    done.nothing_left()?;
    Weir::script("iter:task:/tmp/weir_test { printf(\"x\"); }")
        .run()?
        .refused(&["cannot have the name `/tmp/weir_test`", "/sys/fs/bpf/NAME"])
        .map(drop)
}
