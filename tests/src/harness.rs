//! A list of tests, each with what it needs of the kernel, run by libtest-mimic.
//!
//! Input: [`Test`]s. Output: libtest's own lines and exit code, plus `skipped: NAME: reason` for each test that a probe's "no"
//! rules out. A "no" from a kernel that should say yes is a failure, and so is "cannot tell".

use crate::features::{Answer, Feature};
use anyhow::{Result, anyhow};
use libtest_mimic::{Arguments, Conclusion, Trial};
use nix::sys::signal::{SigHandler, Signal};
use std::collections::HashMap;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::RwLock;

/// What a test needs of the kernel.
#[derive(Clone, Copy, Debug)]
pub enum Need {
    Has(Feature),
    Lacks(Feature),
}

/// One test.
pub struct Test {
    pub name: &'static str,
    pub needs: &'static [Need],
    /// Whether nothing else of ours may run meanwhile, because it compares the whole kernel before and after.
    pub alone: bool,
    pub run: fn() -> Result<()>,
}

impl Test {
    pub const fn new(name: &'static str, run: fn() -> Result<()>) -> Self {
        Self {
            name,
            needs: &[],
            alone: false,
            run,
        }
    }

    pub const fn needs(mut self, needs: &'static [Need]) -> Self {
        self.needs = needs;
        self
    }

    pub const fn alone(mut self) -> Self {
        self.alone = true;
        self
    }
}

/// Runs the tests of all the lists as the command line says and returns how it went.
pub fn run(lists: &[&'static [Test]]) -> Conclusion {
    // A shell starts what it puts into the background, and `nohup` all of its own, with signals ignored that tests send.
    for signal in [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGHUP] {
        // SAFETY: no handler is installed; the one in force is the inherited one.
        let _ = unsafe { nix::sys::signal::signal(signal, SigHandler::SigDfl) };
    }
    let args = Arguments::from_args();
    let tests: Vec<&'static Test> = lists.iter().copied().flatten().collect();
    // Listing must work without root and touches nothing.
    let answers = if args.list { HashMap::new() } else { probe(&tests) };
    let trials = tests.into_iter().map(|test| trial(test, &answers, args.list)).collect();
    libtest_mimic::run(&args, trials)
}

/// The kernel's answer for each feature that a test names, asked once.
fn probe(tests: &[&Test]) -> HashMap<&'static str, Answer> {
    let named = |f: Feature| {
        tests
            .iter()
            .flat_map(|t| t.needs)
            .any(|n| matches!(n, Need::Has(g) | Need::Lacks(g) if *g == f))
    };
    Feature::ALL
        .into_iter()
        .filter(|f| named(*f))
        .map(|f| (f.name(), f.probe()))
        .collect()
}

enum Fate {
    Run,
    Skip(String),
    Fail(String),
}

fn trial(test: &'static Test, answers: &HashMap<&'static str, Answer>, listing: bool) -> Trial {
    let fate = if listing { Fate::Run } else { fate(test, answers) };
    let skip = matches!(fate, Fate::Skip(_));
    if let Fate::Skip(reason) = &fate {
        // Where libtest's lines go too, so that whoever reads those sees the reason.
        let _ = writeln!(std::io::stdout(), "skipped: {}: {reason}", test.name);
    }
    let trial = Trial::test(test.name, move || match fate {
        Fate::Fail(why) => Err(why.into()),
        // A skipped test runs all the same when the caller insists with `--include-ignored`.
        Fate::Run | Fate::Skip(_) => guarded(test).map_err(|e| format!("{e:#}").into()),
    });
    trial.with_ignored_flag(skip)
}

fn fate(test: &Test, answers: &HashMap<&'static str, Answer>) -> Fate {
    for need in test.needs {
        let (Need::Has(feature) | Need::Lacks(feature)) = *need;
        match (need, answers.get(feature.name())) {
            (_, None) => return Fate::Fail(format!("`{}` was not probed", feature.name())),
            (_, Some(Answer::CannotTell(why))) => return Fate::Fail(format!("cannot tell whether there is `{}`: {why}", feature.name())),
            (Need::Has(_), Some(Answer::No(why))) => match feature.must_be_there() {
                Ok(false) => return Fate::Skip(why.clone()),
                Ok(true) => return Fate::Fail(format!("{why}, but it should have `{}`", feature.name())),
                Err(e) => return Fate::Fail(format!("{e:#}")),
            },
            (Need::Lacks(_), Some(Answer::Yes)) => return Fate::Skip(format!("this kernel has `{}`", feature.name())),
            (Need::Has(_), Some(Answer::Yes)) | (Need::Lacks(_), Some(Answer::No(_))) => {}
        }
    }
    Fate::Run
}

fn guarded(test: &Test) -> Result<()> {
    static MACHINE: RwLock<()> = RwLock::new(());
    // A test that panicked left nothing half done in the lock, which guards no data.
    let run = || catch_unwind(AssertUnwindSafe(test.run)).unwrap_or_else(|panic| Err(anyhow!("panic: {}", text_of(&*panic))));
    if test.alone {
        let _alone = MACHINE.write().unwrap_or_else(|e| e.into_inner());
        run()
    } else {
        let _shared = MACHINE.read().unwrap_or_else(|e| e.into_inner());
        run()
    }
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()))
        .unwrap_or_else(|| "not a text".to_owned())
}
