//! `weir replay` beside the kernel, and by itself.
//!
//! What compares needs the right to load programs; without it such a test says so and passes.

#![allow(clippy::unwrap_used)] // A panic is the failure.

#[path = "../common/mod.rs"]
mod common;
mod compare;
mod equal;
mod generate;
#[path = "../common/test_run.rs"]
mod test_run;
mod whole;

use std::path::{Path, PathBuf};
use weir_compiler::clif::Code;
use weir_compiler::object::Object;
use weir_compiler::pipeline::{Options, Source, compile_portable};
use weir_runtime::replay::NoKernel;

fn source(script: &str) -> Source {
    Source {
        name: "stdin".to_owned(),
        text: script.to_owned(),
    }
}

fn portable(script: &str) -> (Object, Code) {
    let (output, code) = compile_portable(&source(script), &NoKernel, &Options::default());
    let object = output.object.unwrap_or_else(|| panic!("{script}\n{:#?}", output.diagnostics));
    (object, code.unwrap())
}

/// A capture of real traffic.
fn real(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/cases/captures").join(file)
}
