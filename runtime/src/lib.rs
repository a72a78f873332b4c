//! From a compiled [`Object`](weir_compiler::object::Object) to output: loading, attaching, reading, printing.
//!
//! The only crate that touches the kernel. Everything that it makes is owned by file descriptors and is gone with
//! the process; what an old kernel cannot tie to a descriptor is removed by [`attach::reaper`].

pub mod attach;
pub mod binary;
pub mod capture;
mod card;
pub mod error;
pub mod format;
pub mod inspect;
pub mod kernel;
pub mod load;
pub mod maps;
pub mod native;
pub mod pcap;
pub mod pin;
pub mod printer;
pub mod replay;
pub mod ring;
pub mod session;
pub mod sink;
pub mod symbols;
pub mod sys;
mod types;
mod usym;
pub mod verdict;
pub mod verifier;

pub use attach::Observer;
pub use attach::reaper::{REAPER_ARG, Stale, clean, reaper_main, stale};
pub use capture::CaptureTarget;
pub use error::{Error, Notice};
pub use kernel::Kernel;
pub use session::{MapsHandle, Options, Outcome, Output, OutputFormat, Reason, Session, SharedMaps};
pub use sink::{Buffering, JsonSink, Sink, TextSink};
