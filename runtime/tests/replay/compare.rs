//! The same script on the same packets in the kernel (`BPF_PROG_TEST_RUN`) and in a replay.
//!
//! A program that sends packets elsewhere does so: the kernel's side runs in a network namespace of its own.

use crate::test_run::test_run;
use crate::{portable, source};
use std::os::fd::AsFd;
use weir_compiler::object::{EventAction, LinkLayer, MapRole, MapSpec, Object, capture};
use weir_compiler::pipeline::{Options, compile};
use weir_runtime::Kernel;
use weir_runtime::format::Context;
use weir_runtime::load::load;
use weir_runtime::maps::Contents;
use weir_runtime::replay::Engine;
use weir_runtime::ring::Ring;

#[derive(Default)]
pub struct Result {
    pub verdicts: Vec<i32>,
    pub packets: Vec<Vec<u8>>,
    pub maps: String,
    /// Verdict, length on the wire and bytes of what was captured.
    pub captures: Vec<(i32, u32, Vec<u8>)>,
}

/// The packet in a record, if the record is one.
fn captured(object: &Object, record: &[u8]) -> Option<(i32, u32, Vec<u8>)> {
    let word = |at: u32| u32::from_ne_bytes(record[at as usize..at as usize + 4].try_into().unwrap());
    let event = &object.events[word(0) as usize];
    matches!(event.action, EventAction::Capture { .. }).then(|| {
        let start = capture::HEADER_BYTES as usize;
        let data = record[start..start + word(capture::CAPTURED) as usize].to_vec();
        (word(capture::VERDICT) as i32, word(capture::LENGTH), data)
    })
}

fn show<'a>(maps: impl Iterator<Item = (&'a MapSpec, &'a dyn Contents)>) -> String {
    let mut text = Vec::new();
    for (spec, map) in maps {
        if let MapRole::User { name, key, value, .. } = &spec.role {
            let mut snapshot = map.snapshot(name, key.as_ref(), value, true).unwrap();
            snapshot.sort();
            weir_runtime::format::map::text(&snapshot, 0, 1, &Context::default(), &mut text);
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// Runs the script's programs for packets of one kind; of a script with a pattern there are two, since the code differs.
pub fn in_kernel(script: &str, frames: &[Vec<u8>], layer: LinkLayer) -> Result {
    std::thread::scope(|scope| {
        let work = || {
            // SAFETY: plain system call without pointers.
            let alone = unsafe { libc::unshare(libc::CLONE_NEWNET) };
            assert_eq!(alone, 0, "unshare: {}", std::io::Error::last_os_error());
            in_this_namespace(script, frames, layer)
        };
        scope.spawn(work).join().unwrap()
    })
}

fn in_this_namespace(script: &str, frames: &[Vec<u8>], layer: LinkLayer) -> Result {
    let output = compile(&source(script), &Kernel::new(), &Options::default());
    let object = output.object.unwrap_or_else(|| panic!("{script}\n{:#?}", output.diagnostics));
    let loaded = load(&object, &|_, _| None).unwrap_or_else(|e| panic!("{script}\n{e}"));
    if let Some(map) = loaded.map_with(&object, |role| matches!(role, MapRole::Heartbeat)) {
        let beat = weir_runtime::sys::proc::clock_ns(libc::CLOCK_MONOTONIC);
        map.put(&0_u32.to_ne_bytes(), &beat.to_ne_bytes(), 0).unwrap();
    }
    let ring = loaded
        .map_with(&object, |role| matches!(role, MapRole::Ring))
        .map(|map| Ring::new(map.fd.try_clone().unwrap(), loaded.ring_size).unwrap());
    let program = object
        .programs
        .iter()
        .position(|p| p.attach.iter().any(|a| a.point.iface().is_some_and(|i| i.link_layer == layer)))
        .unwrap();
    let mut result = Result::default();
    for frame in frames {
        let ran = test_run(loaded.programs[program].as_fd(), frame, None).unwrap_or_else(|e| panic!("{script}\ntest run: {e}"));
        result.verdicts.push(ran.verdict.cast_signed());
        result.packets.push(ran.frame);
        if let Some(ring) = &ring {
            ring.drain(usize::MAX, |record| {
                result.captures.extend(captured(&object, record));
                true
            });
        }
    }
    result.maps = show(object.maps.iter().zip(loaded.maps.iter().map(|m| m as &dyn Contents)));
    result
}

pub fn in_replay(script: &str, frames: &[Vec<u8>], layer: LinkLayer) -> Result {
    let (object, code) = portable(script);
    let (maps, mut machine) = Engine::new(&object, &code).unwrap_or_else(|e| panic!("{script}\n{e}")).into_parts();
    let mut result = Result::default();
    for frame in frames {
        machine.state.frame.set(frame, layer, u32::try_from(frame.len()).unwrap());
        let verdict = if machine.has_xdp {
            machine.run_xdp(1)
        } else {
            machine.run_tc(1, true, false).unwrap()
        };
        result.verdicts.push(verdict);
        result.packets.push(machine.state.frame.bytes().to_vec());
        let records = std::mem::take(&mut machine.state.records);
        let mut rest = records.as_slice();
        while let Some((length, tail)) = rest.split_first_chunk::<8>() {
            let length = u64::from_ne_bytes(*length) as usize;
            result.captures.extend(captured(&object, &tail[..length]));
            rest = &tail[length.next_multiple_of(8)..];
        }
    }
    result.maps = show(object.maps.iter().zip(maps.iter().map(|m| m as &dyn Contents)));
    result
}

/// Runs both and compares everything; returns what both say.
pub fn same(script: &str, frames: &[Vec<u8>], layer: LinkLayer) -> Result {
    let (kernel, replay) = (in_kernel(script, frames, layer), in_replay(script, frames, layer));
    for (i, frame) in frames.iter().enumerate() {
        assert_eq!(kernel.verdicts[i], replay.verdicts[i], "{script}\npacket {i}: {frame:02x?}");
        let (ours, theirs) = (&replay.packets[i], &kernel.packets[i]);
        // The kernel hands out what XDP has left before a packet with it.
        let theirs = &theirs[theirs.len().saturating_sub(ours.len())..];
        assert!(
            ours == theirs,
            "{script}\npacket {i}: {frame:02x?}\nkernel: {theirs:02x?}\nreplay: {ours:02x?}"
        );
    }
    assert_eq!(kernel.maps, replay.maps, "{script}");
    assert_eq!(kernel.captures.len(), replay.captures.len(), "{script}");
    for (kernel, replay) in kernel.captures.iter().zip(&replay.captures) {
        assert_eq!(kernel, replay, "{script}");
    }
    replay
}
