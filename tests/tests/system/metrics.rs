//! `--prometheus`: what a scraper gets, read by a strict parser of the text format that knows nothing of weir.

use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use weir_tests::frame::Frame;
use weir_tests::harness::Test;
use weir_tests::net::Lab;
use weir_tests::patience;
use weir_tests::traffic;
use weir_tests::victim;
use weir_tests::weir::{Running, Weir};

pub const TESTS: &[Test] = &[
    Test::new("metrics_of_every_kind_of_map_parse_and_count", kinds).alone(),
    Test::new("metrics_of_stacks_are_lines_of_frames", stacks),
    Test::new("metrics_of_natives", natives),
    Test::new("metrics_are_limited_and_say_so", limited),
    Test::new("metrics_help_is_the_comment_beside_a_map", help),
    Test::new("metrics_a_slow_client_keeps_nobody_waiting", slow_client),
    Test::new("metrics_refuse_an_address_that_is_taken", taken),
];

/// `name`, labels, value.
type Sample = (String, BTreeMap<String, String>, f64);

/// One metric with its samples.
#[derive(Debug, Default)]
struct Family {
    help: String,
    kind: String,
    samples: Vec<Sample>,
}

impl Family {
    /// The value of the sample with that name and these labels.
    fn value(&self, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
        let wanted: BTreeMap<String, String> = labels.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let found = self.samples.iter().find(|(n, l, _)| n == name && *l == wanted);
        Ok(found.with_context(|| format!("no `{name}` with {wanted:?} in {self:?}"))?.2)
    }
}

/// Reads the text format, and refuses what is not exactly in it.
fn parse(text: &str) -> Result<BTreeMap<String, Family>> {
    ensure!(text.ends_with('\n'), "the last line does not end");
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut current = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').with_context(|| format!("no text: {line}"))?;
            name_is_right(name)?;
            current = name.to_owned();
            let family = Family {
                help: help.to_owned(),
                ..Family::default()
            };
            ensure!(families.insert(current.clone(), family).is_none(), "`{name}` is there twice");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').with_context(|| format!("no type: {line}"))?;
            ensure!(name == current, "`{line}` is not behind its help");
            ensure!(
                ["counter", "gauge", "histogram", "summary"].contains(&kind),
                "no type of a metric: {line}"
            );
            families.entry(current.clone()).or_default().kind = kind.to_owned();
        } else {
            let (name, labels, value) = sample(line).with_context(|| format!("in `{line}`"))?;
            let family = families.get_mut(&current).with_context(|| format!("no metric before `{line}`"))?;
            let suffixes: &[&str] = match family.kind.as_str() {
                "histogram" => &["_bucket", "_count"],
                "summary" => &["_sum", "_count"],
                _ => &[""],
            };
            ensure!(
                suffixes.iter().any(|s| name == format!("{current}{s}")),
                "`{line}` stands behind `{current}`"
            );
            ensure!(family.kind != "counter" || value >= 0.0, "a counter below zero: {line}");
            ensure!(!family.samples.iter().any(|(n, l, _)| *n == name && *l == labels), "twice: {line}");
            family.samples.push((name, labels, value));
        }
    }
    for (name, family) in families.iter().filter(|(_, f)| f.kind == "histogram") {
        buckets_are_right(name, family)?;
    }
    Ok(families)
}

fn name_is_right(name: &str) -> Result<()> {
    let right =
        name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    ensure!(right, "`{name}` is no name");
    Ok(())
}

fn sample(line: &str) -> Result<Sample> {
    let end = line.find(['{', ' ']).context("no value")?;
    let (name, mut rest) = line.split_at(end);
    name_is_right(name)?;
    let mut labels = BTreeMap::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        loop {
            let (label, behind) = rest.split_once("=\"").context("no label")?;
            name_is_right(label)?;
            let (mut text, mut chars) = (String::new(), behind.char_indices());
            let close = loop {
                match chars.next().context("a label that never ends")? {
                    (at, '"') => break at,
                    (_, '\\') => match chars.next() {
                        Some((_, 'n')) => text.push('\n'),
                        Some((_, c @ ('\\' | '"'))) => text.push(c),
                        other => bail!("no escape: {other:?}"),
                    },
                    (_, c) => text.push(c),
                }
            };
            ensure!(
                labels.insert(label.to_owned(), text).is_none(),
                "the label `{label}` is there twice"
            );
            rest = &behind[close + 1..];
            match rest.chars().next() {
                Some(',') => rest = &rest[1..],
                Some('}') => break,
                other => bail!("{other:?} behind a label"),
            }
        }
        rest = &rest[1..];
    }
    let value = rest.strip_prefix(' ').context("no blank in front of the value")?;
    Ok((
        name.to_owned(),
        labels,
        value.parse().with_context(|| format!("`{value}` is no number"))?,
    ))
}

/// Bounds and counts only rise, and the last bucket is everything.
fn buckets_are_right(name: &str, family: &Family) -> Result<()> {
    let mut series: BTreeMap<Vec<(String, String)>, Vec<(f64, f64)>> = BTreeMap::new();
    for (_, labels, value) in family.samples.iter().filter(|(n, ..)| n.ends_with("_bucket")) {
        let le = &labels["le"];
        let bound = if le == "+Inf" { f64::INFINITY } else { le.parse()? };
        let others = labels
            .iter()
            .filter(|(n, _)| *n != "le")
            .map(|(n, v)| (n.clone(), v.clone()))
            .collect();
        series.entry(others).or_default().push((bound, *value));
    }
    for (labels, buckets) in series {
        let rises = buckets.windows(2).all(|w| w[0].0 < w[1].0 && w[0].1 <= w[1].1);
        ensure!(rises, "the buckets of {name} {labels:?} do not rise: {buckets:?}");
        let (bound, all) = *buckets.last().context("no bucket")?;
        let labels: Vec<(&str, &str)> = labels.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let count = family.value(&format!("{name}_count"), &labels)?;
        ensure!(
            bound.is_infinite() && all == count,
            "{name} {labels:?} counts {count}, its buckets {buckets:?}"
        );
    }
    Ok(())
}

/// Where a run says that it serves; the port was its own choice.
fn served(running: &mut Running) -> Result<SocketAddr> {
    running.wait_stderr("the address", |text| text.contains("/metrics\n"))?;
    let text = running.stderr();
    let address = text
        .lines()
        .find_map(|l| l.strip_prefix("Serving metrics at http://")?.strip_suffix("/metrics"));
    Ok(address.with_context(|| text.clone())?.parse()?)
}

fn get(lab: &Lab, address: SocketAddr, request: &str) -> Result<(String, String)> {
    let mut stream = lab.node.run(|| Ok(TcpStream::connect_timeout(&address, patience())?))?;
    stream.set_read_timeout(Some(patience()))?;
    stream.write_all(request.as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").with_context(|| format!("no answer: {text}"))?;
    Ok((head.to_owned(), body.to_owned()))
}

const GET: &str = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";

const SCRIPT: &str = "// Datagrams by sender.\n\
    tc:veth0:ingress /udp.dport == 5353/ { @seen[ip.src, udp.dport] = count(); @size[ip.src] = hist(pkt.len); @lin = lhist(pkt.len, 0, 100, 10);\n\
    @bytes = sum(pkt.len); @least = min(pkt.len); @mean[\"a\\\"b\"] = avg(pkt.len); @last = ip.src; @flag = -5; }\n";

fn kinds() -> Result<()> {
    let lab = Lab::new()?;
    let mut running = Weir::new(["--prometheus", "127.0.0.1:0", "-e", SCRIPT]).at(&lab).start()?;
    let address = served(&mut running)?;
    traffic::send_udp(&lab.peer, lab.peer4().into(), (lab.node4(), 5353).into(), 4)?;
    traffic::settle(&lab)?;
    let (head, body) = get(&lab, address, GET)?;
    ensure!(
        head.starts_with("HTTP/1.1 200 OK\r\n")
            && head.contains("text/plain; version=0.0.4")
            && head.contains(&format!("Content-Length: {}", body.len())),
        "{head}"
    );
    let families = parse(&body).with_context(|| body.clone())?;
    let family = |name: &str| families.get(name).with_context(|| format!("no {name} in {body}"));
    let peer = lab.peer4().to_string();
    let seen = family("weir_seen_total")?;
    ensure!(seen.kind == "counter" && seen.help == "Datagrams by sender.", "{seen:?}");
    ensure!(
        seen.value("weir_seen_total", &[("ip_src", &peer), ("udp_dport", "5353")])? == 4.0,
        "{body}"
    );
    let size = family("weir_size")?;
    ensure!(
        size.kind == "histogram" && size.value("weir_size_count", &[("ip_src", &peer)])? == 4.0,
        "{body}"
    );
    ensure!(family("weir_lin")?.value("weir_lin_count", &[])? == 4.0, "{body}");
    let bytes = family("weir_bytes_total")?.value("weir_bytes_total", &[])?;
    ensure!(bytes > 4.0 * 42.0, "{body}");
    ensure!(family("weir_least")?.value("weir_least", &[])? * 4.0 == bytes, "{body}");
    let mean = family("weir_mean")?;
    ensure!(
        mean.kind == "summary" && mean.value("weir_mean_sum", &[("key0", "a\"b")])? == bytes,
        "{body}"
    );
    ensure!(mean.value("weir_mean_count", &[("key0", "a\"b")])? == 4.0, "{body}");
    ensure!(family("weir_last")?.value("weir_last", &[("value", &peer)])? == 1.0, "{body}");
    ensure!(family("weir_flag")?.value("weir_flag", &[])? == -5.0, "{body}");
    ensure!(
        family("weir_map_entries")?.value("weir_map_entries", &[("map", "@seen")])? == 1.0,
        "{body}"
    );
    ensure!(
        family("weir_map_max_entries")?.value("weir_map_max_entries", &[("map", "@seen")])? >= 4096.0,
        "{body}"
    );
    ensure!(
        family("weir_lost_events_total")?.value("weir_lost_events_total", &[])? == 0.0,
        "{body}"
    );
    // What is no scrape gets an answer, too, and harms nothing.
    ensure!(
        get(&lab, address, "GET /other HTTP/1.1\r\n\r\n")?.0.starts_with("HTTP/1.1 404 "),
        "no 404"
    );
    ensure!(
        get(&lab, address, "POST /metrics HTTP/1.1\r\n\r\n")?.0.starts_with("HTTP/1.1 405 "),
        "no 405"
    );
    ensure!(
        get(&lab, address, "HEAD /metrics HTTP/1.1\r\n\r\n")?.1.is_empty(),
        "a body behind HEAD"
    );
    parse(&get(&lab, address, GET)?.1)?;
    running.stop()?.clean()?;
    ensure!(
        lab.node.run(|| Ok(TcpStream::connect_timeout(&address, patience())))?.is_err(),
        "it still serves"
    );
    Ok(())
}

fn stacks() -> Result<()> {
    let lab = Lab::new()?;
    let exe = victim::path()?.display().to_string();
    let script = format!(
        "uprobe:{exe}:weir_victim_add {{ @user[ustack] = count(); }}
         tracepoint:syscalls:sys_enter_getpriority /comm == \"{}\"/ {{ @kernel[kstack, comm] = count(); @last = kstack; }}",
        victim::COMM
    );
    let mut running = Weir::new(["--prometheus", "127.0.0.1:0", "-e", &script]).at(&lab).start()?;
    let address = served(&mut running)?;
    victim::run(&["call", "3"])?;
    // Two processes of one program, which are there to be asked for names.
    let mut processes = [victim::OnDemand::start(3)?, victim::OnDemand::start(3)?];
    processes.iter_mut().try_for_each(victim::OnDemand::work)?;
    let (_, body) = get(&lab, address, GET)?;
    let families = parse(&body)?;
    let labels = |family: &str, label: &str| -> Result<Vec<String>> {
        let samples = &families.get(family).with_context(|| format!("no `{family}`: {body}"))?.samples;
        let texts = samples.iter().map(|(_, labels, _)| labels.get(label).cloned());
        texts.collect::<Option<_>>().with_context(|| format!("no `{label}` in {samples:?}"))
    };
    // A system call enters the kernel at the same place in every kernel. How a process began is not known of those that have ended.
    for (family, label, outermost) in [
        ("weir_kernel_total", "kstack", Some("entry_SYSCALL_64")),
        ("weir_last", "value", Some("entry_SYSCALL_64")),
        ("weir_user_total", "ustack", None),
    ] {
        for text in labels(family, label)? {
            let frames: Vec<&str> = text.split(';').collect();
            let good = |frame: &&str| !frame.is_empty() && !frame.contains(char::is_whitespace);
            ensure!(frames.len() >= 2 && frames.iter().all(good), "{family}: no frames in `{text}`");
            ensure!(
                outermost.is_none_or(|name| frames[0].starts_with(name)),
                "{family}: the outermost does not stand first: `{text}`"
            );
        }
    }
    // What was called last stands last.
    let user = labels("weir_user_total", "ustack")?;
    ensure!(
        user.iter()
            .filter(|text| text.rsplit(';').next().is_some_and(|last| last.starts_with("weir_victim_add")))
            .count()
            >= 2,
        "{user:?}"
    );
    processes.into_iter().try_for_each(victim::OnDemand::end)?;
    running.stop()?.clean().map(drop)
}

/// Tables are gauges by column, numbers are counters.
fn natives() -> Result<()> {
    let lab = Lab::new()?;
    let bad = Ipv4Addr::new(198, 51, 100, 1);
    let script = r#"use blocklist(iface="veth0", hook="tc", dry_run=true, audit="off", prefixes=198.51.100.0/24) as bl; use flows(iface="veth0") as fl;"#;
    let mut running = Weir::new(["--prometheus", "127.0.0.1:0", "-e", script]).at(&lab).start()?;
    let address = served(&mut running)?;
    traffic::send_frames(&lab, &[(7, Frame::udp(bad, lab.node4(), 5000))])?;
    traffic::settle(&lab)?;
    let families = parse(&get(&lab, address, GET)?.1)?;
    let value = |name: &str, labels: &[(&str, &str)]| -> Result<f64> {
        families
            .get(name)
            .with_context(|| format!("no `{name}` among {:?}", families.keys()))?
            .value(name, labels)
    };
    ensure!(
        value("weir_bl_hits_packets", &[("prefix", "198.51.100.0/24")])? == 7.0,
        "{families:?}"
    );
    ensure!(value("weir_bl_stats_total", &[("name", "dropped")])? == 7.0, "{families:?}");
    let flow = format!("{bad}:40000 > {}:5000 udp", lab.node4());
    let labels = [("flow", flow.as_str()), ("interface", "veth0"), ("direction", "ingress/from_pod")];
    ensure!(value("weir_fl_flows_packets", &labels)? == 7.0, "{families:?}");
    ensure!(value("weir_fl_stats_total", &[("name", "overflow")])? == 0.0, "{families:?}");
    // What can become less is no counter.
    ensure!(value("weir_fl_stats", &[("name", "flows")])? >= 1.0, "{families:?}");
    ensure!(value("weir_bl_entries", &[("name", "ipv4")])? == 1.0, "{families:?}");
    for (name, kind) in [
        ("weir_fl_stats", "gauge"),
        ("weir_fl_stats_total", "counter"),
        ("weir_bl_entries", "gauge"),
    ] {
        ensure!(families[name].kind == kind, "{name}: {:?}", families[name]);
    }
    ensure!(value("weir_fl_stats_total", &[("name", "flows")]).is_err(), "{families:?}");
    running.stop()?.clean().map(drop)
}

fn limited() -> Result<()> {
    let lab = Lab::new()?;
    let script = "begin { @n[1] = 10; @n[2] = 20; @n[3] = 30; } interval:s:60 {}";
    let mut running = Weir::new(["--prometheus", "127.0.0.1:0", "--prometheus-limit", "2", "-e", script])
        .at(&lab)
        .start()?;
    let address = served(&mut running)?;
    let families = parse(&get(&lab, address, GET)?.1)?;
    parse(&get(&lab, address, GET)?.1)?;
    let n = &families["weir_n"];
    ensure!(n.samples.len() == 2 && n.value("weir_n", &[("key0", "3")])? == 30.0, "{n:?}");
    let left_out = &families["weir_series_left_out"];
    ensure!(left_out.value("weir_series_left_out", &[("map", "@n")])? == 1.0, "{left_out:?}");
    let done = running.stop()?;
    let warnings = done.stderr.matches("`@n` has 3 keys, more than the 2 series").count();
    ensure!(done.status.success() && warnings == 1, "{warnings} warnings: {done}");
    Ok(())
}

fn help() -> Result<()> {
    const MAIN: &str = "import \"lib.weir\";\nbegin {\n  // Said \"@other // is this\".\n  @text = \"@never // no\";\n\
        @str = 1; /* Of a number. */\n  // Long\n  // one.\n  @long[pid,\n    comm] = 1;\n\n  @plain = 1;\n}\ninterval:s:60 {}\n";
    let lab = Lab::new()?;
    lab.dir.write(
        "lib.weir",
        "// From elsewhere.\nlet @elsewhere = hash(8);\nbegin { @elsewhere[1] = 2; }\n",
    )?;
    lab.dir.write("main.weir", MAIN)?;
    let mut running = Weir::new(["--prometheus", "127.0.0.1:0", "main.weir"]).at(&lab).start()?;
    let address = served(&mut running)?;
    let families = parse(&get(&lab, address, GET)?.1)?;
    let help = |name: &str| families.get(name).map_or("not served", |f| f.help.as_str());
    for (name, text) in [
        ("weir_elsewhere", "From elsewhere."),
        ("weir_text", "Said \"@other // is this\"."),
        ("weir_str", "Of a number."),
        ("weir_long", "Long one."),
        ("weir_plain", "@plain of main.weir"),
    ] {
        ensure!(help(name) == text, "the help of {name} is `{}`", help(name));
    }
    ensure!(!families.contains_key("weir_other"), "a map that is none");
    let (_, labels, _) = &families["weir_long"].samples[0];
    ensure!(labels.keys().eq(["comm", "pid"]), "{labels:?}");
    running.stop()?.clean().map(drop)
}

fn slow_client() -> Result<()> {
    let lab = Lab::new()?;
    let mut running = Weir::new(["--prometheus", "127.0.0.1:0", "-e", "begin { @n = 1; } interval:s:60 {}"])
        .at(&lab)
        .start()?;
    let address = served(&mut running)?;
    let connect = || lab.node.run(|| Ok(TcpStream::connect_timeout(&address, patience())?));
    // One says nothing, one not enough.
    let silent = connect()?;
    let mut slow = connect()?;
    slow.write_all(b"GET /metrics HTTP/1.1\r\n")?;
    let begin = std::time::Instant::now();
    ensure!(get(&lab, address, GET)?.1.contains("weir_n 1\n"), "no answer beside a slow client");
    ensure!(
        begin.elapsed().as_secs() < 4,
        "it waited for the slow client: {:?}",
        begin.elapsed()
    );
    // More than there is room for are sent away at once, and are welcome when others have gone.
    let crowd = (0..14).map(|_| connect()).collect::<Result<Vec<_>>>()?;
    weir_tests::wait_for("the crowd's refusal", || {
        Ok(get(&lab, address, GET)
            .is_ok_and(|(head, _)| head.starts_with("HTTP/1.1 503 "))
            .then_some(()))
    })?;
    drop((crowd, slow, silent));
    weir_tests::wait_for("an answer after the crowd", || {
        Ok(get(&lab, address, GET)
            .is_ok_and(|(head, _)| head.starts_with("HTTP/1.1 200 "))
            .then_some(()))
    })?;
    running.stop()?.clean().map(drop)
}

fn taken() -> Result<()> {
    let lab = Lab::new()?;
    let listener = lab.node.run(|| Ok(TcpListener::bind("127.0.0.1:0")?))?;
    let address = listener.local_addr()?.to_string();
    let done = Weir::new(["--prometheus", &address, "-e", "interval:s:60 {}"]).at(&lab).run()?;
    ensure!(!done.refused(&["cannot serve metrics at", &address])?.attached, "it was attached");
    Weir::new(["--prometheus", "somewhere", "-e", "begin {}"])
        .run()?
        .refused(&["127.0.0.1:9464"])?;
    Weir::new(["--prometheus-limit", "5", "-e", "begin {}"])
        .run()?
        .refused(&["--prometheus"])
        .map(drop)
}
