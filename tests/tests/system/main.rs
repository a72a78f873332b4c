//! The program before real traffic on a real kernel: natively and, the same file, on the Debian kernels in QEMU.
//!
//! `cargo xtask test` runs it. By hand, as root: `cargo build && cargo test -p weir-tests --test system [FILTER]`.

mod absent;
mod audit;
mod bad_input;
mod blocklist;
mod blocklist_tc;
mod buffers;
mod capture;
mod cgroups;
mod chains;
mod check;
mod cli;
mod clocks;
mod command_line;
mod ends;
mod environment;
mod examples;
mod faults;
mod flows;
mod hooks;
mod identity;
mod inspect;
mod interfaces;
mod kernel_code;
mod kprobes;
mod leftovers;
mod mends;
mod metrics;
mod native_links;
mod native_maps;
mod natives;
mod offload;
mod one_liners;
mod output;
mod patterns;
mod pinned;
mod pins;
mod rejection;
mod repl;
mod retransmits;
mod rewrites;
mod runbooks;
mod scenarios;
mod support;
mod tracing;

fn main() {
    if let Some(result) = weir_tests::victim::main() {
        if let Err(e) = result {
            panic!("{e:#}");
        }
        return;
    }
    // What asks the kernel something runs on every kernel.
    let mut lists = vec![
        support::TESTS,
        one_liners::TESTS,
        scenarios::TESTS,
        absent::TESTS,
        hooks::TESTS,
        buffers::TESTS,
        capture::TESTS,
        interfaces::TESTS,
        offload::TESTS,
        patterns::TESTS,
        chains::TESTS,
        cgroups::TESTS,
        inspect::TESTS,
        pinned::TESTS,
        tracing::TESTS,
        clocks::TESTS,
        kernel_code::TESTS,
        kprobes::TESTS,
        natives::TESTS,
        blocklist_tc::TESTS,
        native_links::TESTS,
        native_maps::TESTS,
        flows::TESTS,
        identity::TESTS,
        pins::TESTS,
        audit::TESTS,
        retransmits::TESTS,
        examples::TESTS,
        faults::TESTS,
        leftovers::TESTS,
        ends::TESTS,
        rewrites::TESTS,
    ];
    if weir_tests::in_vm() {
        // The machine is ours there.
        lists.push(faults::ALONE_ON_A_MACHINE);
    }
    // What the program does by itself is the same on all of them: once is enough, and an emulated machine is slow.
    if !weir_tests::in_vm() {
        lists.extend([
            bad_input::TESTS,
            natives::ONCE,
            blocklist::TESTS,
            blocklist_tc::ONCE,
            native_links::ONCE,
            hooks::ONCE,
            check::TESTS,
            mends::TESTS,
            metrics::TESTS,
            runbooks::TESTS,
            repl::TESTS,
            cli::TESTS,
            command_line::TESTS,
            inspect::ONCE,
            environment::TESTS,
            output::TESTS,
            rejection::TESTS,
        ]);
    }
    weir_tests::harness::run(&lists).exit()
}
