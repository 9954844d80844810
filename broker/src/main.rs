//! `reprise`: one program that is the broker, and starts itself again as vCPU and device processes.
//!
//! The only file that knows the other crates' entry points.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = Vec::new();
    for argument in std::env::args_os().skip(1) {
        match argument.into_string() {
            Ok(argument) => arguments.push(argument),
            Err(argument) => {
                eprintln!("reprise: {}: not UTF-8", argument.to_string_lossy());
                return ExitCode::FAILURE;
            }
        }
    }
    broker::main(&arguments, &broker::Programs { vcpu, device, check_cpu })
}

fn vcpu(_setup_fd: i32) -> ExitCode {
    eprintln!("reprise vcpu: this build has no vCPU");
    ExitCode::FAILURE
}

fn device(_words: Vec<String>) -> ExitCode {
    eprintln!("reprise device: this build has no devices");
    ExitCode::FAILURE
}

fn check_cpu(_cpu: &replay::machine::CpuChoice) -> Result<(), String> {
    Ok(())
}
