//! Device programs: vhost-user back-ends that run as processes of their own.
//!
//! Reading order: `serve` (the skeleton every back-end runs on), `front_end` (its options and its socket), `lifetime`
//! (signals and the way out),
//! then one module a kind. How they are started and what they promise: `docs/devices.md`.

pub mod batch;
pub mod block;
pub mod chardev;
pub mod early_enable;
pub mod front_end;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
pub mod lifetime;
pub mod net;
pub mod options;
pub mod relay;
pub mod rings;
pub mod rng;
pub mod serve;

use std::ffi::OsString;
use std::process::ExitCode;

/// Kinds of device, for messages.
const KINDS: &str = "block, chardev, net, rng";

/// Runs `reprise device KIND …`; `args` starts with KIND.
pub fn run(mut args: impl Iterator<Item = OsString>) -> ExitCode {
    let kind = args.next();
    let result = match kind.as_deref().and_then(|kind| kind.to_str()) {
        Some("block") => block::run(args),
        Some("chardev") => chardev::run(args),
        Some("net") => net::run(args),
        Some("rng") => rng::run(args),
        Some(other) => Err(format!("no device of kind '{other}'; there are: {KINDS}")),
        None => Err(format!("which kind of device? there are: {KINDS}")),
    };
    lifetime::clean_up();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("reprise device: {message}");
            ExitCode::FAILURE
        }
    }
}
