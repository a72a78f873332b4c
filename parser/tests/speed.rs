//! How long parsing takes: printed, and held to a lenient bound so that a quadratic step cannot slip in.

use std::time::{Duration, Instant};

/// Processor time of this thread (first field of `schedstat`, in nanoseconds): other work on the machine does not
/// count. Falls back to the clock on a kernel without scheduler statistics.
fn cpu_time(start: Instant) -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    match stat.split(' ').next().and_then(|field| field.parse().ok()) {
        Some(nanos) if nanos > 0 => Duration::from_nanos(nanos),
        _ => start.elapsed(),
    }
}

use weir_parser::{SourceId, parse};

/// A script of about this many lines, of everyday code.
fn script(lines: usize) -> String {
    let mut text = String::from("#!/usr/bin/env weir\n");
    for number in 0..lines.div_ceil(10) {
        text += &format!(
            "kprobe:tcp_sendmsg_{number} /pid > {number} && comm != \"sshd\"/ {{\n\
             \x20   // The destination.\n\
             \x20   $sk = (struct sock *)arg0;\n\
             \x20   $daddr = ntop(AF_INET, $sk->__sk_common.skc_daddr);\n\
             \x20   if ($sk->__sk_common.skc_dport >> 8 == {number}) {{\n\
             \x20       @flows[comm, $daddr, {number}] = count();\n\
             \x20   }} else {{ @other++; }}\n\
             \x20   printf(\"%s %d\\n\", $daddr, (uint32)$sk->__sk_common.skc_num + 3 * {number});\n\
             }}\n\n"
        );
    }
    text
}

fn measure(text: &str) -> Duration {
    let clock = Instant::now();
    let start = cpu_time(clock);
    let parsed = parse(SourceId(0), text);
    let took = cpu_time(clock).saturating_sub(start);
    assert_eq!(parsed.diagnostics, []);
    assert!(!parsed.program.items.is_empty());
    took
}

#[test]
fn ten_thousand_lines() {
    let text = script(10_000);
    let best = (0..5).map(|_| measure(&text)).min().expect("measured");
    println!("10 000 lines, {} bytes: {best:?}", text.len());
    assert!(best < Duration::from_secs(2), "{best:?}");
}

#[test]
fn one_hundred_thousand_lines() {
    let text = script(100_000);
    let took = measure(&text);
    println!("100 000 lines: {took:?}");
    assert!(took < Duration::from_secs(20), "{took:?}");
}

/// One probe with a long body, one long set, and many errors: none of them may be quadratic to a degree that hurts.
#[test]
fn long_items() {
    let body = format!("BEGIN {{ {} }}", "@x[pid] = count();\n".repeat(10_000));
    println!("10 000 statements: {:?}", measure(&body));
    let set: Vec<String> = (0..20_000)
        .map(|number| format!("10.{}.{}.1", number / 256, number % 256))
        .collect();
    let set = format!("xdp:lo /ip.src in ({})/ {{ drop(); }}", set.join(", "));
    let took = measure(&set);
    println!("20 000 addresses in a set: {took:?}");
    assert!(took < Duration::from_secs(4), "{took:?}");
    let clock = Instant::now();
    let start = cpu_time(clock);
    let broken = parse(SourceId(0), &"kprobe:f { @x = ; }\n".repeat(5_000));
    let took = cpu_time(clock).saturating_sub(start);
    println!("5 000 errors: {took:?}");
    assert_eq!(broken.diagnostics.len(), 5_000);
    assert!(took < Duration::from_secs(4), "{took:?}");
}
