//! `begin`, `end` and signal blocks: raw tracepoint programs run by `BPF_PROG_RUN`, attached nowhere.

use crate::error::Error;
use crate::load::Loaded;
use crate::sys::bpf::prog_run;
use std::os::fd::AsFd;
use weir_compiler::object::{AttachPoint, Object};

/// Runs every program that has an attach point like this, in the order of the script. Returns how many ran.
///
/// # Errors
/// What the kernel says.
pub fn run(object: &Object, loaded: &Loaded, point: impl Fn(&AttachPoint) -> bool) -> Result<usize, Error> {
    let mut ran = 0;
    for (spec, program) in object.programs.iter().zip(&loaded.programs) {
        for attach in spec.attach.iter().filter(|a| point(&a.point)) {
            prog_run(program.as_fd(), &spec.name).map_err(|source| Error::Attach {
                point: spec.section.clone(),
                span: attach.span,
                source,
            })?;
            ran += 1;
        }
    }
    Ok(ran)
}

/// Returns whether a script has anything that can happen after `begin`.
#[must_use]
pub fn only_runs_once(object: &Object) -> bool {
    let once = |point: &AttachPoint| matches!(point, AttachPoint::Begin | AttachPoint::End | AttachPoint::Iter { .. });
    object.natives.is_empty() && object.programs.iter().flat_map(|p| &p.attach).all(|a| once(&a.point))
}
