//! The device programs without the broker: `cargo run -p devices --example device -- chardev …`.

use std::process::ExitCode;

fn main() -> ExitCode {
    devices::run(std::env::args_os().skip(1))
}
