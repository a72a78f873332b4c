//! What goes wrong around a blocklist while packets come: weir is killed, another one or somebody else's program is there, the interface
//! goes, the file is cut off, the list outgrows what was made ready for it.

use anyhow::{Context, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::Signal;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use weir_tests::frame::Frame;
use weir_tests::gate::HalfWriter;
use weir_tests::harness::Test;
use weir_tests::kernel::KernelState;
use weir_tests::net::{Lab, NODE_IF};
use weir_tests::traffic;
use weir_tests::weir::{Running, Weir};

pub const TESTS: &[Test] = &[
    Test::new("blocklist_killed_under_flood_and_reload_opens_the_gate", killed).alone(),
    Test::new("blocklist_that_outgrows_its_tables_stays_exact", outgrown),
    Test::new("blocklist_atomic_that_outgrows_its_tables_stays_exact", outgrown_atomic),
    Test::new("blocklist_hits_of_a_long_list_stay_with_their_entries", long_list),
    Test::new("blocklist_hits_of_a_long_list_are_zeroed_and_overflow", zeroed),
    Test::new("blocklist_atomic_hits_of_a_long_list_stay_with_their_entries", long_list_atomic),
    Test::new("blocklist_of_many_ipv6_networks_has_a_sieve_in_front", many_ipv6),
    Test::new("blocklist_hits_that_are_nearly_full_are_said", pressure),
    Test::new("blocklist_drops_every_fragment", || fragments("")),
    Test::new("blocklist_tc_drops_every_fragment", || fragments(", hook=\"tc\"")),
    Test::new("blocklist_second_on_one_interface_is_refused", second),
    Test::new("blocklist_outlives_its_interface", interface_gone),
    // A mount namespace that another test makes meanwhile would keep the file system.
    Test::new("blocklist_file_under_an_unmounted_folder_is_read", unmounted).alone(),
    Test::new("blocklist_file_cut_off_in_the_middle_changes_nothing", cut_off),
    Test::new("blocklist_file_that_is_written_while_it_is_read_is_read_again", written_while_read),
    Test::new("blocklist_file_that_stays_open_is_told", held_up),
];

const PORT: u16 = 5000;
const BAD: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

fn started(lab: &Lab, params: &str) -> Result<Running> {
    let script = format!(r#"use blocklist(iface="veth0", audit="off", {params}) as bl; bl:drop {{ @[ip.src] = count(); }}"#);
    Weir::script(&script).at(lab).start()
}

/// Hosts of a /16, after the one that is always there.
fn hosts(first: u8, second: u8, count: u32) -> String {
    let host = |i: u32| format!("{first}.{second}.{}.{}\n", i >> 8, i & 255);
    format!("{BAD}\n{}", (0..count).map(host).collect::<String>())
}

fn replace(lab: &Lab, text: &str) -> Result<()> {
    let (new, path) = (lab.dir.path().join("new"), lab.dir.path().join("bad.txt"));
    std::fs::write(&new, text)?;
    std::fs::rename(new, path).context("cannot replace the file")
}

/// Sends from these sources and returns how many arrive.
fn arrive(lab: &Lab, sources: &[Ipv4Addr], each: u32) -> Result<u32> {
    let address = SocketAddr::new(lab.node4().into(), PORT);
    let socket = weir_tests::wait_for("the port", || Ok(traffic::listen_udp(&lab.node, address).ok()))?;
    let frames: Vec<(u32, Frame)> = sources.iter().map(|s| (each, Frame::udp(*s, lab.node4(), PORT))).collect();
    traffic::send_frames(lab, &frames)?;
    traffic::settle(lab)?;
    traffic::received(&socket)
}

fn killed() -> Result<()> {
    let lab = Lab::new()?;
    let before = KernelState::now(Some(&lab.node))?;
    let lists = [hosts(172, 16, 3000), hosts(172, 17, 3000)];
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| -> Result<()> {
        let flood = scope.spawn(|| -> Result<()> {
            while !stop.load(Ordering::Relaxed) {
                traffic::send_frames(&lab, &[(64, Frame::udp(BAD, lab.node4(), PORT))])?;
            }
            Ok(())
        });
        let kills = (0..4).try_for_each(|round| {
            replace(&lab, &lists[0])?;
            let mut weir = started(&lab, "prefixes=file(\"bad.txt\")")?;
            replace(&lab, &lists[1])?;
            if round % 2 == 1 {
                weir.wait_stderr("word of the reload", |text| text.contains("read again"))?;
                replace(&lab, &lists[0])?;
            }
            weir.end_with(Signal::SIGKILL)?.nothing_left().map(drop)
        });
        stop.store(true, Ordering::Relaxed);
        flood.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        kills
    })?;
    before.assert_same(Some(&lab.node))?;
    ensure!(arrive(&lab, &[BAD], 5)? == 5, "something still drops");
    Ok(())
}

fn outgrown() -> Result<()> {
    outgrown_with("")
}

fn outgrown_atomic() -> Result<()> {
    outgrown_with(", atomic=true")
}

/// A list many times longer than at the start: some of it finds no room in the tables, and every entry counts all the same.
fn outgrown_with(extra: &str) -> Result<()> {
    let lab = Lab::new()?;
    replace(&lab, &hosts(172, 16, 600))?;
    let mut weir = started(&lab, &format!("prefixes=file(\"bad.txt\"){extra}"))?;
    let of = |second: u8, i: u32| Ipv4Addr::new(172, second, (i >> 8) as u8, (i & 255) as u8);
    ensure!(arrive(&lab, &[BAD, of(16, 599)], 2)? == 0, "the list is not in force");
    replace(&lab, &hosts(172, 17, 9000))?;
    weir.wait_stderr("word of the reload", |text| {
        text.contains("9000 added, 600 removed, 9001 in force") && text.contains("has outgrown the tables")
    })?;
    let sources: Vec<Ipv4Addr> = (0..9000).step_by(90).map(|i| of(17, i)).collect();
    ensure!(arrive(&lab, &sources, 1)? == 0, "an entry of the new list is not in force");
    ensure!(
        arrive(&lab, &[of(16, 599), of(17, 9000)], 2)? == 4,
        "something is dropped that is not listed"
    );
    // And back.
    replace(&lab, &hosts(172, 18, 10))?;
    weir.wait_stderr("word of the second reload", |text| {
        text.contains("10 added, 9000 removed, 11 in force")
    })?;
    ensure!(arrive(&lab, &sources, 1)? == sources.len() as u32, "an entry is left");
    ensure!(arrive(&lab, &[BAD, of(18, 3)], 3)? == 0, "the last list is not in force");
    let done = weir.stop()?.clean()?;
    let dropped = done.map("@");
    ensure!(dropped.len() == sources.len() + 3, "{dropped:?}");
    done.expect_entry("@", &BAD.to_string(), 5)?;
    done.expect_entry("@", &of(17, 90).to_string(), 1)
}

fn long_list() -> Result<()> {
    long_list_with("")
}

fn long_list_atomic() -> Result<()> {
    long_list_with(", atomic=true")
}

/// Entries of a long list that stay, that move because others come beside them, that go, and that come back: each keeps what it has counted.
/// The list is long enough for a sieve: a /24 that loses all of its entries passes, and drops again when they are back.
fn long_list_with(extra: &str) -> Result<()> {
    const MORE: u32 = 33_000;
    let lab = Lab::new()?;
    let more: String = (0..MORE).map(|i| format!("100.{}.{}.0/24\n", i >> 8, i & 255)).collect();
    let list = |count: u32, beside: &str| replace(&lab, &(hosts(172, 16, count) + &more + beside));
    let in_force = |count: u32| format!("{} in force", count + MORE);
    list(600, "")?;
    let script = format!(
        r#"
use blocklist(iface="veth0", audit="off", protect=false, prefixes=file("bad.txt"){extra}) as bl;
self:signal:SIGUSR1 {{ delete(@bl.hits, 172.16.1.1); printf("deleted\n"); }}
end {{ for ($kv : @bl.hits) {{ @walked[$kv.0] = $kv.1.packets; }} @dropped = @bl.stats["dropped"]; }}
"#
    );
    let mut weir = Weir::script(&script).at(&lab).start()?;
    let (stays, goes) = (Ipv4Addr::new(172, 16, 0, 7), Ipv4Addr::new(172, 16, 2, 80));
    let deleted = Ipv4Addr::new(172, 16, 1, 1);
    ensure!(arrive(&lab, &[BAD, stays, goes, deleted], 3)? == 0, "the list is not in force");
    // Neighbours of the first, so that its chain becomes a node; the last hundred are gone.
    let beside: String = (2..40).map(|i| format!("198.51.100.{i}\n")).collect();
    list(500, &beside)?;
    weir.wait_stderr("word of the reload", |text| {
        text.contains(&format!("38 added, 100 removed, {}", in_force(539)))
    })?;
    ensure!(
        arrive(&lab, &[BAD, stays, Ipv4Addr::new(198, 51, 100, 20)], 2)? == 0,
        "the new list is not in force"
    );
    ensure!(arrive(&lab, &[goes], 1)? == 1, "what has gone is still in force");
    ensure!(
        arrive(&lab, &[Ipv4Addr::new(11, 0, 0, 1)], 1)? == 1,
        "what was never listed is dropped"
    );
    weir.signal(Signal::SIGUSR1)?;
    weir.wait_stdout("word of the deletion", |text| text.contains("deleted"))?;
    list(600, "")?;
    weir.wait_stderr("word of the second reload", |text| {
        text.contains(&format!("100 added, 38 removed, {}", in_force(601)))
    })?;
    ensure!(arrive(&lab, &[BAD, goes, deleted], 1)? == 0, "the last list is not in force");
    let done = weir.stop()?.clean()?;
    done.expect_map(
        "@walked",
        [(BAD, 6), (stays, 5), (goes, 4), (deleted, 1), (Ipv4Addr::new(198, 51, 100, 20), 2)].map(|(ip, n)| (format!("{ip}/32"), n)),
    )?;
    ensure!(done.stdout.lines().any(|line| line == "@dropped: 21"), "{done}");
    Ok(())
}

/// Enough IPv6 entries for a sieve: what lies in a /24 with nothing listed passes, what is in one of an entry that comes is dropped from then on, and
/// passes again when it has gone.
fn many_ipv6() -> Result<()> {
    const MANY: u32 = 33_000;
    let lab = Lab::new()?;
    let many: String = (0..MANY).map(|i| format!("2001:db8:{i:x}::/48\n")).collect();
    let counts = |map: &str| format!("{map}[ip.src] = count();");
    replace(&lab, &many)?;
    let script = format!(
        "use blocklist(iface=\"veth0\", audit=\"off\", protect=false, prefixes=file(\"bad.txt\")) as bl;
         bl:drop {{ {} }} xdp:veth0 /udp.dport == {PORT}/ {{ {} }}",
        counts("@dropped"),
        counts("@passed")
    );
    let mut weir = Weir::script(&script).at(&lab).start()?;
    let [listed, beside, comes] = ["2001:db8:80e7::1", "2001:db8:80e8::1", "2a00:1234::9"].map(str::parse::<Ipv6Addr>);
    let (listed, beside, comes) = (listed?, beside?, comes?);
    let send = |each: u32| -> Result<()> {
        let frames = [listed, beside, comes].map(|source| (each, Frame::udp(source, lab.node6(), PORT)));
        traffic::send_frames(&lab, &frames)?;
        traffic::settle(&lab)
    };
    send(3)?;
    replace(&lab, &(many.clone() + "2a00:1234::/32\n"))?;
    weir.wait_stderr("word of the reload", |text| text.contains("1 added, 0 removed"))?;
    send(2)?;
    replace(&lab, &many)?;
    weir.wait_stderr("word of the second reload", |text| text.contains("0 added, 1 removed"))?;
    send(1)?;
    let done = weir.stop()?.clean()?;
    done.expect_map("@dropped", [(listed.to_string(), 6), (comes.to_string(), 2)])?;
    done.expect_map("@passed", [(beside.to_string(), 6), (comes.to_string(), 4)])
}

/// Zeroed entries are still there and count on. Of entries that go, `max_hits` keep what they have counted; the packets of others are `uncounted`.
fn zeroed() -> Result<()> {
    let lab = Lab::new()?;
    replace(&lab, &hosts(172, 16, 600))?;
    let script = r#"
use blocklist(iface="veth0", audit="off", protect=false, prefixes=file("bad.txt"), max_hits=2) as bl;
self:signal:SIGUSR1 { zero(@bl.hits); printf("zeroed\n"); }
end {
  for ($kv : @bl.hits) { @walked[$kv.0] = $kv.1.packets; }
  @uncounted = @bl.stats["uncounted"]; @dropped = @bl.stats["dropped"];
}
"#;
    let mut weir = Weir::script(script).at(&lab).start()?;
    let [stays, goes, late] = [(0, 7), (2, 80), (2, 81)].map(|(third, fourth)| Ipv4Addr::new(172, 16, third, fourth));
    ensure!(arrive(&lab, &[stays, goes], 3)? == 0, "the list is not in force");
    weir.signal(Signal::SIGUSR1)?;
    weir.wait_stdout("word of the zeroing", |text| text.contains("zeroed"))?;
    ensure!(
        arrive(&lab, &[late], 5)? + arrive(&lab, &[goes], 2)? == 0,
        "the list is not in force"
    );
    replace(&lab, &hosts(172, 16, 560))?;
    weir.wait_stderr("word of the reload", |text| text.contains("40 removed, 561 in force"))?;
    let done = weir.stop()?.clean()?;
    done.expect_map("@walked", [(stays, 0), (goes, 2)].map(|(ip, n)| (format!("{ip}/32"), n)))?;
    for line in ["@uncounted: 5", "@dropped: 13"] {
        ensure!(done.stdout.lines().any(|l| l == line), "{line}: {done}");
    }
    Ok(())
}

/// Four fifths of `max_hits` are taken: that is said while there is room.
fn pressure() -> Result<()> {
    let lab = Lab::new()?;
    let mut weir = started(&lab, "prefixes=198.51.100.0/24, max_hits=1")?;
    ensure!(arrive(&lab, &[BAD], 1)? == 0, "the list is not in force");
    weir.wait_stderr("a warning", |text| {
        text.contains("`.hits` has 1 prefixes of a family, of at most 1: give it more with `max_hits=4`")
    })?;
    let done = weir.stop()?.clean()?;
    ensure!(!done.stderr.contains("is full"), "{done}");
    Ok(())
}

/// Datagrams that the sender's kernel cuts into three packets each: all of them have the address, and each is a packet.
fn fragments(extra: &str) -> Result<()> {
    let lab = Lab::new()?;
    let (peer4, peer6) = (lab.peer4(), lab.peer6());
    let script = format!(
        r#"use blocklist(iface="veth0", audit="off", protect=false, prefixes=({peer4}, "{peer6}"){extra}) as bl; bl:drop {{ @[ip.src] = count(); }}"#
    );
    let weir = Weir::script(&script).at(&lab).start()?;
    for (source, to, count) in [
        (IpAddr::from(peer4), IpAddr::from(lab.node4()), 5),
        (peer6.into(), lab.node6().into(), 7),
    ] {
        lab.peer.run(|| {
            let socket = UdpSocket::bind((source, 0)).context("cannot bind")?;
            (0..count).try_for_each(|_| socket.send_to(&[0; 4000], (to, PORT)).map(drop).context("cannot send"))
        })?;
    }
    // One that is not listed comes behind them.
    let socket = traffic::listen_udp(&lab.node, SocketAddr::new(lab.node4().into(), PORT))?;
    traffic::send_frames(&lab, &[(1, Frame::udp(BAD, lab.node4(), PORT))])?;
    weir_tests::wait_for("the last packet", || Ok((traffic::received(&socket)? == 1).then_some(())))?;
    let done = weir.stop()?.clean()?;
    done.expect_map("@", [(peer4.to_string(), 15), (peer6.to_string(), 21)])?;
    let done = done.map("@bl.stats");
    ensure!(done["dropped"] == "36" && done["passed"] == "1", "{done:?}");
    Ok(())
}

/// The second weir is told who is there; the first one's list stays in force.
fn second() -> Result<()> {
    let lab = Lab::new()?;
    let first = started(&lab, &format!("prefixes={BAD}"))?;
    let other = r#"use blocklist(iface="veth0", audit="off", prefixes=203.0.113.1) as other; other:drop { @ = count(); }"#;
    Weir::script(other).at(&lab).run()?.refused(&["veth0", "blocklist", "weir"])?;
    ensure!(arrive(&lab, &[BAD], 3)? == 0, "the first list is gone");
    first.stop()?.clean()?.expect_map("@", [(BAD, 3)])
}

fn interface_gone() -> Result<()> {
    let lab = Lab::new()?;
    replace(&lab, &hosts(172, 16, 5))?;
    let mut weir = started(&lab, "prefixes=file(\"bad.txt\")")?;
    ensure!(arrive(&lab, &[BAD], 2)? == 0, "the list is not in force");
    lab.node.ip(&["link", "del", NODE_IF])?;
    weir.wait_stderr("word of the interface", |text| text.contains("veth0") && text.contains("gone"))?;
    // It goes on: the file is read again for when the interface comes back.
    replace(&lab, &hosts(172, 17, 5))?;
    weir.wait_stderr("word of the reload", |text| text.contains("5 added, 5 removed, 6 in force"))?;
    weir.stop()?.clean()?.expect_map("@", [(BAD, 2)])
}

/// A file system in memory, mounted on a folder.
struct Mounted(PathBuf);

impl Mounted {
    fn at(path: PathBuf) -> Result<Self> {
        mount(None::<&str>, &path, Some("tmpfs"), MsFlags::empty(), None::<&str>).context("cannot mount")?;
        Ok(Self(path))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Fails when it is gone already.
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// The folder that a file system was mounted on has a list of its own, which counts, and is watched, once the other has gone.
fn unmounted() -> Result<()> {
    let lab = Lab::new()?;
    let folder = lab.dir.path().join("lists");
    std::fs::create_dir(&folder)?;
    std::fs::write(folder.join("bad.txt"), hosts(172, 16, 5))?;
    let mounted = Mounted::at(folder.clone())?;
    std::fs::write(folder.join("bad.txt"), hosts(172, 17, 3))?;
    let mut weir = started(&lab, "prefixes=file(\"lists/bad.txt\")")?;
    drop(mounted);
    weir.wait_stderr("word of the list beneath", |text| text.contains("5 added, 3 removed, 6 in force"))?;
    std::fs::write(folder.join("bad.txt"), hosts(172, 16, 7))?;
    weir.wait_stderr("word of the change", |text| text.contains("2 added, 0 removed, 8 in force"))?;
    ensure!(arrive(&lab, &[BAD], 2)? == 0, "the list is not in force");
    weir.stop()?.clean()?.expect_map("@", [(BAD, 2)])
}

/// A writer that dies in the middle: the last line is half an address, or the file is empty. The old list stays in force.
fn cut_off() -> Result<()> {
    let lab = Lab::new()?;
    let list = hosts(172, 16, 3000);
    replace(&lab, &list)?;
    let mut weir = started(&lab, "prefixes=file(\"bad.txt\")")?;
    let path = lab.dir.path().join("bad.txt");
    let file = std::fs::File::options().write(true).open(&path)?;
    let len = list.trim_end().rfind('.').context("no address")?;
    file.set_len(len as u64)?;
    drop(file);
    let line = format!("bad.txt:{}: expected an address or a prefix", list.lines().count());
    weir.wait_stderr("a complaint", |text| {
        text.contains(&line) && text.contains("the list in force stays as it is")
    })?;
    let last = Ipv4Addr::new(172, 16, (2999_u32 >> 8) as u8, (2999_u32 & 255) as u8);
    ensure!(arrive(&lab, &[BAD, last], 2)? == 0, "the old list is not in force");
    std::fs::File::options().write(true).open(&path)?.set_len(0)?;
    weir.wait_stderr("a complaint about nothing", |text| text.contains("bad.txt is empty"))?;
    ensure!(arrive(&lab, &[BAD, last], 2)? == 0, "the old list is not in force");
    weir.stop()?.clean()?.expect_map("@", [(BAD, 4), (last, 4)])
}

/// Half of a new list is there when the file is read, whole lines all of them: what is not there yet stays in force.
fn written_while_read() -> Result<()> {
    let lab = Lab::new()?;
    replace(&lab, &hosts(172, 16, 50))?;
    let half = hosts(172, 16, 20).replace(&format!("{BAD}\n"), "");
    let mut writer = HalfWriter::new("bad.txt", lab.dir.path().join("bad.txt"), half)?;
    let script = r#"use blocklist(iface="veth0", audit="off", prefixes=file("bad.txt")) as bl;
        bl:drop { @[ip.src] = count(); } interval:ms:50 { printf("alive\n"); }"#;
    let mut weir = Weir::script(script).at(&lab).start_behind(&mut writer.opens)?;
    weir.wait_stdout("a sign of life", |text| text.contains("alive"))?;
    writer.arm();
    replace(&lab, &hosts(172, 16, 51))?;
    let mut file = writer.half()?;
    ensure!(arrive(&lab, &[BAD], 2)? == 0, "what is not written yet is no longer in force");
    file.write_all(hosts(172, 17, 3).as_bytes())?;
    drop(file);
    weir.wait_stderr("word of the whole", |text| text.contains("3 added"))?;
    ensure!(arrive(&lab, &[BAD], 2)? == 0, "the new list is not in force");
    let done = weir.stop()?.clean()?;
    ensure!(
        done.stderr.contains("read again: 3 added, 30 removed, 24 in force") && done.stderr.matches("read again").count() == 1,
        "half a list was in force: {done}"
    );
    done.expect_map("@", [(BAD, 4)])
}

/// A writer that does not close its file is told of, once, and what is in force stays; so is the end of it.
fn held_up() -> Result<()> {
    let lab = Lab::new()?;
    replace(&lab, &hosts(172, 16, 3))?;
    let mut weir = started(&lab, "prefixes=file(\"bad.txt\")")?;
    let path = lab.dir.path().join("bad.txt");
    let mut file = std::fs::File::create(&path)?;
    let half = |file: &mut std::fs::File| file.write_all(b"172.17.0.1\n");
    half(&mut file)?;
    weir.wait_stderr("word of the writer", |text| {
        let words = [
            "warning",
            "`bl`: `bad.txt` has been written since ",
            "what is in force stays",
            "`fuser -v bad.txt`",
            "prefixes=file",
        ];
        words.iter().all(|word| text.contains(word))
    })?;
    half(&mut file)?;
    ensure!(
        arrive(&lab, &[BAD, Ipv4Addr::new(172, 16, 0, 2)], 2)? == 0,
        "the old list is not in force"
    );
    ensure!(!weir.stderr().contains("is read now"), "it is not closed yet");
    drop(file);
    weir.wait_stderr("word of the list", |text| {
        text.contains("`bl`: `bad.txt` is read now, after ") && text.contains("read again: 1 added, 4 removed, 1 in force")
    })?;
    let done = weir.stop()?.clean()?;
    ensure!(done.stderr.matches("has been written since").count() == 1, "{done}");
    Ok(())
}
