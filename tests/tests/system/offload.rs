//! `xdp:IFACE:offload`: programs and maps in a network card. The card is simulated: the kernel checks programs for it and keeps its maps,
//! but nobody runs them on packets, so nothing is counted here.

use anyhow::{Result, ensure};
use weir_tests::features::Feature;
use weir_tests::harness::Need::Has;
use weir_tests::harness::Test;
use weir_tests::kernel::KernelState;
use weir_tests::net::{Lab, NODE_IF, Simulated};
use weir_tests::weir::Weir;

pub const TESTS: &[Test] = &[
    Test::new("offload_to_a_card_attaches_shows_and_leaves_nothing", attached)
        .needs(&[Has(Feature::Netdevsim)])
        .alone(),
    Test::new("offload_to_a_card_refuses_what_it_cannot_hold", refused).needs(&[Has(Feature::Netdevsim)]),
    Test::new("offload_without_such_a_card_is_refused", no_card),
];

/// This card has room for two entries in a map.
const SCRIPT: &str = "let @from = hash(2);
    xdp:card0:offload /tcp.dport == 443/ { @ = count(); @bytes = sum(pkt.len); @from[ip.src] = count(); @last = ip.ttl; drop(); }
    xdp:card0:offload { if (ip.ttl > 1) { ip.ttl--; } @others++; }
    interval:ms:50 { print(@); clear(@from); zero(@); }";

/// The kernel's name of the program that it becomes.
const OURS: &str = "w1_xdp";

fn attached() -> Result<()> {
    let lab = Lab::new()?;
    let card = Simulated::new(&lab.node, "card0")?;
    let before = KernelState::now(Some(&lab.node))?;
    let mut weir = Weir::script(SCRIPT).at(&lab).start()?;
    ensure!(
        weir.stderr().contains("XDP runs in offload mode on `card0`"),
        "no word of the mode: {}",
        weir.stderr()
    );
    // The map is read in the card.
    weir.wait_stdout("a count", |text| text.lines().any(|l| l == "@: 0"))?;
    let link = lab.node.ip(&["-d", "link", "show", "card0"])?;
    ensure!(link.contains("xdpoffload") && link.contains(OURS), "not in the card: {link}");
    let shown = Weir::new(["net", "card0"]).at(&lab).run()?;
    ensure!(
        shown.stdout.contains("offload") && shown.stdout.contains(OURS),
        "`weir net` says: {}{}",
        shown.stdout,
        shown.stderr
    );
    // Another is refused there.
    let second = Weir::script("xdp:card0:offload { pass(); }").at(&lab).run()?;
    second.refused(&["`card0` already has an XDP program", OURS, &weir.pid()?.to_string(), "^"])?;
    weir.stop()?.clean()?;
    // The machine's own hook is another one.
    let both = Weir::script("xdp:card0:offload { @card = count(); } xdp:card0:native { @machine = count(); }")
        .at(&lab)
        .start()?;
    for mode in ["offload", "native"] {
        ensure!(
            both.stderr().contains(&format!("XDP runs in {mode} mode on `card0`")),
            "{}",
            both.stderr()
        );
    }
    let link = lab.node.ip(&["-d", "link", "show", "card0"])?;
    ensure!(link.contains("xdpmulti"), "not both: {link}");
    both.stop()?.clean()?;
    before.assert_same(Some(&lab.node))?;
    drop(card);
    Ok(())
}

fn refused() -> Result<()> {
    let lab = Lab::new()?;
    let card = Simulated::new(&lab.node, "card0")?;
    let before = KernelState::now(Some(&lab.node))?;
    let large = Weir::script("xdp:card0:offload { @from[ip.src] = count(); }").at(&lab).run()?;
    large.refused(&[
        "the card of `card0` does not take `@from`, a hash of 4096 entries",
        "`let @from = hash(N);`",
        "`xdp:card0:native`",
        "^",
    ])?;
    before.assert_same(Some(&lab.node))?;
    drop(card);
    Ok(())
}

fn no_card() -> Result<()> {
    let lab = Lab::new()?;
    let before = KernelState::now(Some(&lab.node))?;
    let script = format!("xdp:{NODE_IF}:offload {{ @ = count(); }}");
    let answer = Weir::script(&script).at(&lab).run()?;
    answer.refused(&["the card of `veth0` does not take XDP programs", "write `xdp:veth0:native`", "^^^"])?;
    let native = format!("use blocklist(iface=\"{NODE_IF}\", prefixes=\"192.0.2.0/24\", mode=\"offload\") as bl;");
    let answer = Weir::script(&native).at(&lab).run()?;
    answer.refused(&["`bl` does not run in a card", "write `mode=\"native\"`", "^^^"])?;
    before.assert_same(Some(&lab.node))
}
