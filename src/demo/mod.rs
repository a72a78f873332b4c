use crate::args::Demo;
use crate::render::Failure;
use std::process::ExitCode;
pub fn main(_a: &Demo) -> Result<ExitCode, Failure> {
    Err(Failure::new("x"))
}
