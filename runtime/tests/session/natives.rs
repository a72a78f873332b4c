//! Natives in a session: blocks on their events, chains, lists with bad lines, their maps.

use super::*;

fn blocklist(net: &Net, prefixes: ParamValue) -> NativeInstance {
    let native = weir_stdlib::native("blocklist").unwrap();
    let params = native
        .params
        .iter()
        .map(|p| match p.name {
            "iface" => Some(ParamValue::Str(format!("va@{}", net.a))),
            "prefixes" => Some(prefixes.clone()),
            _ => None,
        })
        .collect();
    NativeInstance {
        native,
        alias: "bl".into(),
        params,
        span: span(),
        param_spans: vec![None; native.params.len()],
    }
}

const DROP: AttachPoint = AttachPoint::NativeEvent {
    instance: 0,
    event: 0,
    link_layer: weir_compiler::object::LinkLayer::Ethernet,
};

/// The blocklist drops, counts by prefix, and a block on its drop event runs for each dropped packet.
#[test]
fn the_blocklist_with_a_block_on_its_event() {
    if !root() {
        return;
    }
    let net = Net::new();
    let list = ParamValue::List(vec!["10.77.0.2".into(), "2001:db8::/32".into()]);
    // The event's program ends with the native's verdict: XDP_DROP here.
    let object = Builder::default()
        .count("dropped")
        .native(blocklist(&net, list))
        .program(ProgramKind::NativeEventXdp, &[DROP], Asm::default().count(0).ret(1))
        .build();
    let (text, _) = packets(object, &Kernel::new(), &net, 9);
    assert!(text.contains("@dropped: 9\n"), "{text}");
    assert!(text.contains("@bl.hits[10.77.0.2/32]: { .packets = 9, .bytes = "), "{text}");
    assert!(text.contains("@bl.stats[dropped]: 9\n"), "{text}");
    assert!(!run(&format!("ip -n {} link show dev va", net.a)).contains("xdp"));
}

/// An `xdp:` block behind a native on the same interface sees what the native lets through.
#[test]
fn a_block_behind_a_native_is_chained() {
    if !root() {
        return;
    }
    let net = Net::new();
    let point = AttachPoint::Xdp {
        iface: iface(&net.a, "va"),
        mode: XdpMode::Auto,
    };
    let list = ParamValue::List(vec!["192.0.2.0/24".into()]);
    let object = Builder::default()
        .count("seen")
        .native(blocklist(&net, list))
        .program(ProgramKind::Xdp, &[point], count_udp_xdp(0, 2))
        .build();
    let (text, _) = packets(object, &Kernel::new(), &net, 6);
    assert!(text.contains("@seen: 6\n"), "{text}");
}

#[test]
fn a_bad_line_of_a_prefix_file_is_named_before_anything_is_attached() {
    if !root() {
        return;
    }
    let net = Net::new();
    let file = Capture::new();
    std::fs::write(&file.path, "10.0.0.0/8\n10.1.2.3/8\n").unwrap();
    let object = Builder::default()
        .native(blocklist(&net, ParamValue::File(file.path.display().to_string())))
        .build();
    let error = Session::start(object, &Kernel::new(), Capture::new().options(OutputFormat::Text))
        .err()
        .unwrap();
    let text = error.to_string();
    assert_eq!(
        text,
        format!(
            "{}:2: `10.1.2.3/8` has host bits beyond the prefix; write `10.0.0.0/8` or `10.1.2.3`",
            file.path.display()
        )
    );
}

/// The event record of the native is reachable for the script's programs as a map.
#[test]
fn maps_of_a_native_stand_in_for_the_scripts() {
    if !root() {
        return;
    }
    let net = Net::new();
    let object = Builder::default()
        .native(blocklist(&net, ParamValue::List(vec!["10.77.0.2".into()])))
        .native_map(0, "STATS", MapKind::PerCpuArray, (4, 8, 7))
        .program(ProgramKind::NativeEventXdp, &[DROP], Asm::default().count(0).ret(1))
        .build();
    // The block adds to `passed` (element 0) once for each dropped packet.
    let (text, _) = packets(object, &Kernel::new(), &net, 4);
    assert!(text.contains("@bl.stats[dropped]: 4\n"), "{text}");
    let passed: u64 = text
        .lines()
        .find_map(|l| l.strip_prefix("@bl.stats[passed]: "))
        .unwrap()
        .parse()
        .unwrap();
    assert!(passed >= 4, "{text}");
}
