//! Packet blocks on a real kernel, packet by packet: `BPF_PROG_TEST_RUN` of what the compiler made, at XDP and at TC, with and
//! without the optimiser. Every sentence of the language's rules for absent values is a test here.
//! Needs the right to load programs; without it every test says so and passes.

#![allow(clippy::unwrap_used)] // A panic is the failure.

mod absent;
mod fields;
mod frames;
mod run;
mod sets;
#[path = "../common/test_run.rs"]
mod test_run;
mod writes;
