//! Compiles, loads and runs a script on frames, with and without the optimiser.

pub use crate::test_run::{Ran, test_run, test_run_in};
use std::os::fd::AsFd;
use weir_compiler::kernel::KernelInfo;
use weir_compiler::object::{MapRole, Object};
use weir_compiler::pipeline::{Options, Source, compile};
use weir_runtime::format::Context;
use weir_runtime::load::{Loaded, load};
use weir_runtime::maps::Contents;
use weir_runtime::{Kernel, native};

pub const XDP_DROP: u32 = 1;
pub const XDP_PASS: u32 = 2;
pub const TC_UNSPEC: u32 = u32::MAX;
pub const TC_SHOT: u32 = 2;

/// Whether this process may load programs at all.
pub fn allowed() -> bool {
    // SAFETY: plain system call without pointers.
    if unsafe { libc::geteuid() } == 0 {
        return true;
    }
    eprintln!("skipped: loading BPF programs needs root");
    false
}

pub struct Result {
    pub verdicts: Vec<u32>,
    /// As the program left them.
    pub frames: Vec<Vec<u8>>,
    pub maps: String,
}

pub fn compiled(script: &str, optimise: bool) -> Object {
    let source = Source {
        name: "stdin".to_owned(),
        text: script.to_owned(),
    };
    let kernel = Kernel::new();
    let output = compile(
        &source,
        &kernel as &dyn KernelInfo,
        &Options {
            optimise,
            ..Options::default()
        },
    );
    let errors: Vec<_> = output.diagnostics.iter().filter(|d| d.is_error()).collect();
    output
        .object
        .unwrap_or_else(|| panic!("{script}\n{errors:#?}\n{:?}", output.internal))
}

/// Runs the frames through the first packet program of the script.
pub fn run(script: &str, frames: &[Vec<u8>]) -> Result {
    let [with, without] = [true, false].map(|optimise| run_one(script, frames, optimise, None));
    assert_eq!(with.verdicts, without.verdicts, "the optimiser changed the verdicts of {script}");
    assert_eq!(with.maps, without.maps, "the optimiser changed the maps of {script}");
    assert_eq!(with.frames, without.frames, "the optimiser changed what {script} writes");
    with
}

pub fn run_one(script: &str, frames: &[Vec<u8>], optimise: bool, linear: Option<usize>) -> Result {
    let session = Session::new(script, optimise);
    let ran: Vec<Ran> = frames.iter().map(|f| session.run(f, linear.filter(|n| *n < f.len()))).collect();
    Result {
        verdicts: ran.iter().map(|r| r.verdict).collect(),
        frames: ran.into_iter().map(|r| r.frame).collect(),
        maps: session.maps(),
    }
}

/// A loaded script, for tests that run one more than once: loading is what takes time, above all in a virtual machine.
pub struct Session {
    script: String,
    object: Object,
    loaded: Loaded,
}

impl Session {
    pub fn new(script: &str, optimise: bool) -> Session {
        let object = compiled(script, optimise);
        let natives = native::load_all(&object, &Kernel::new()).unwrap_or_else(|e| panic!("{script}\n{e}"));
        let of_native = |instance: usize, symbol: &str| natives.get(instance).and_then(|n| n.map_fd(symbol));
        let loaded = load(&object, &of_native).unwrap_or_else(|e| match e {
            weir_runtime::Error::Rejected { log, .. } => panic!("{script}\n{log}"),
            other => panic!("{script}\n{other}"),
        });
        // Where there is no tcx, programs pass everything unless their owner says regularly that it lives.
        if let Some(map) = loaded.map_with(&object, |role| matches!(role, MapRole::Heartbeat)) {
            let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
            // SAFETY: the kernel writes one timespec.
            unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
            let beat = u64::try_from(now.tv_sec).unwrap() * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap();
            weir_runtime::sys::bpf::map_update(map.fd.as_fd(), &0_u32.to_ne_bytes(), &beat.to_ne_bytes(), 0, "heartbeat").unwrap();
        }
        Session {
            script: script.to_owned(),
            object,
            loaded,
        }
    }

    pub fn run(&self, frame: &[u8], linear: Option<usize>) -> Ran {
        test_run(self.loaded.programs[0].as_fd(), frame, linear).unwrap_or_else(|e| panic!("{}\ntest run: {e}", self.script))
    }

    /// Runs it with fields of a context.
    pub fn run_in(&self, frame: &[u8], context: &[u8]) -> Ran {
        test_run_in(self.loaded.programs[0].as_fd(), frame, context).unwrap_or_else(|e| panic!("{}\ntest run: {e}", self.script))
    }

    /// All maps of the script as they are printed.
    pub fn maps(&self) -> String {
        let mut text = Vec::new();
        let context = Context::default();
        for (spec, map) in self.object.maps.iter().zip(&self.loaded.maps) {
            if let MapRole::User { name, key, value, .. } = &spec.role {
                let mut snapshot = map.snapshot(name, key.as_ref(), value, true).unwrap();
                snapshot.sort();
                weir_runtime::format::map::text(&snapshot, 0, 1, &context, &mut text);
            }
        }
        String::from_utf8(text).unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// How many records the script has sent since this was asked last.
    pub fn records(&self) -> usize {
        let Some(map) = self.loaded.map_with(&self.object, |role| matches!(role, MapRole::Ring)) else {
            return 0;
        };
        let ring = weir_runtime::ring::Ring::new(map.fd.try_clone().unwrap(), self.loaded.ring_size).unwrap();
        let mut count = 0;
        ring.drain(usize::MAX, |_| {
            count += 1;
            true
        });
        count
    }

    pub fn clear(&self) {
        for (spec, map) in self.object.maps.iter().zip(&self.loaded.maps) {
            if matches!(spec.role, MapRole::User { .. }) {
                map.clear().unwrap();
            }
        }
    }
}

/// Whether this is an emulated machine, where loading takes ten times as long.
pub fn is_guest() -> bool {
    std::env::var_os("WEIR_TEST_VM").is_some()
}

/// The same block at both hooks: `{}` in the script stands for the attach point. Returns XDP's result after checking that TC's maps
/// are the same and that both dropped the same packets.
pub fn both(block: &str, frames: &[Vec<u8>]) -> Result {
    let xdp = run(&format!("xdp:lo {block}"), frames);
    let tc = run(&format!("tc:lo:ingress {block}"), frames);
    assert_eq!(xdp.maps, tc.maps, "{block}");
    assert_eq!(xdp.frames, tc.frames, "{block}");
    let dropped = |r: &Result, code| r.verdicts.iter().map(|v| *v == code).collect::<Vec<_>>();
    assert_eq!(dropped(&xdp, XDP_DROP), dropped(&tc, TC_SHOT), "{block}");
    xdp
}

pub fn drops(predicate: &str, frames: &[Vec<u8>]) -> Vec<bool> {
    both(&format!("/{predicate}/ {{ drop(); }}"), frames)
        .verdicts
        .iter()
        .map(|v| *v == XDP_DROP)
        .collect()
}

/// Whether a test run can put a part of the frame into fragments.
pub fn can_split() -> bool {
    let object = compiled("xdp:lo { pass(); }", true);
    let loaded = load(&object, &|_, _| None).unwrap();
    let mut frame = crate::frames::tcp4(1);
    frame.resize(200, 0);
    match test_run(loaded.programs[0].as_fd(), &frame, Some(20)) {
        Ok(_) => true,
        Err(e) => {
            eprintln!("skipped: this kernel's test runs put nothing into fragments ({e})");
            false
        }
    }
}
