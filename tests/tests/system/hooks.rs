//! The packet hooks: what they refuse, how they attach on which kernel, what they see.

use anyhow::{Result, ensure};
use std::net::Ipv4Addr;
use weir_tests::features::Feature;
use weir_tests::frame::Frame;
use weir_tests::harness::Need::{Has, Lacks};
use weir_tests::harness::Test;
use weir_tests::kernel::Kind;
use weir_tests::net::{Lab, NODE_IF};
use weir_tests::traffic;
use weir_tests::weir::Weir;

pub const TESTS: &[Test] = &[
    Test::new("comm_in_xdp_is_a_compile_error_that_says_why", comm_in_xdp),
    Test::new("an_unknown_interface_is_named", unknown_interface),
    Test::new("xdp_sees_through_two_vlan_tags", vlan),
    Test::new("tc_is_a_link_where_there_is_tcx", tcx).needs(&[Has(Feature::Tcx)]),
    Test::new("tc_is_clsact_where_there_is_no_tcx", clsact).needs(&[Lacks(Feature::Tcx)]),
];

const TC: &str = "tc:veth0:ingress /udp.dport == 53/ { @in = count(); } tc:veth0:egress /udp.dport == 53/ { @out = count(); }";

fn comm_in_xdp() -> Result<()> {
    let lab = Lab::new()?;
    let done = Weir::script("xdp:veth0 { @[comm] = count(); }").at(&lab).run()?;
    // The name, the place, and that the process there is a bystander.
    done.refused(&["comm", "xdp", "^", "bystander"]).map(drop)
}

fn unknown_interface() -> Result<()> {
    let lab = Lab::new()?;
    Weir::script("xdp:veth9 { @ = count(); }")
        .at(&lab)
        .run()?
        .refused(&["veth9"])
        .map(drop)
}

fn vlan() -> Result<()> {
    let lab = Lab::new()?;
    let source = Ipv4Addr::new(192, 0, 2, 9);
    let weir = Weir::script("xdp:veth0 /tcp.dport == 22/ { @[ip.src] = count(); drop(); }")
        .at(&lab)
        .start()?;
    let syn = Frame::syn(source, lab.node4(), 22);
    traffic::send_frames(&lab, &[(2, syn.clone()), (3, syn.clone().vlan(5)), (4, syn.vlan(5).vlan(6))])?;
    traffic::settle(&lab)?;
    weir.stop()?.clean()?.expect_map("@", [(source.to_string(), 2 + 3 + 4)])
}

/// Sends 4 datagrams in and 6 out.
fn both_ways(lab: &Lab) -> Result<()> {
    let (node, peer) = (lab.node4(), lab.peer4());
    traffic::send_udp(&lab.peer, peer.into(), (node, 53).into(), 4)?;
    traffic::send_udp(&lab.node, node.into(), (peer, 53).into(), 6)?;
    traffic::settle(lab)
}

fn tcx() -> Result<()> {
    let lab = Lab::new()?;
    let before = lab.node.tc(&["qdisc", "show", "dev", NODE_IF])?;
    let weir = Weir::script(TC).at(&lab).start()?;
    let links = weir.objects().iter().filter(|o| o.kind == Kind::Link).count();
    ensure!(links >= 2, "expected a link for each direction, found {:?}", weir.objects());
    ensure!(
        lab.node.tc(&["qdisc", "show", "dev", NODE_IF])? == before,
        "with tcx no qdisc is needed"
    );
    both_ways(&lab)?;
    let done = weir.stop()?.clean()?;
    done.expect_map("@in", [("", 4)])?;
    done.expect_map("@out", [("", 6)])
}

fn clsact() -> Result<()> {
    let lab = Lab::new()?;
    let weir = Weir::script(TC).at(&lab).start()?;
    for hook in ["ingress", "egress"] {
        let filters = lab.node.tc(&["filter", "show", "dev", NODE_IF, hook])?;
        ensure!(filters.contains("bpf") && filters.contains("direct-action"), "{hook}: `{filters}`");
    }
    both_ways(&lab)?;
    let done = weir.stop()?.clean()?;
    done.expect_map("@in", [("", 4)])?;
    done.expect_map("@out", [("", 6)])?;
    let after = lab.node.tc(&["qdisc", "show", "dev", NODE_IF])?;
    ensure!(!after.contains("clsact"), "the qdisc that weir made is left: `{after}`");
    Ok(())
}
