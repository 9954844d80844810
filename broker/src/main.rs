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

fn vcpu(setup_fd: i32) -> ExitCode {
    match vcpu::run::process::run(setup_fd) {
        Ok(()) => ExitCode::SUCCESS,
        // The broker tells the user; a quiet end leaves the blame where it belongs.
        Err(vcpu::run::error::RunError::BackEndEnded(_)) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("reprise vcpu: {error}");
            ExitCode::FAILURE
        }
    }
}

fn device(words: Vec<String>) -> ExitCode {
    devices::run(words.into_iter().map(Into::into))
}

fn check_cpu(choice: &replay::machine::CpuChoice) -> Result<(), String> {
    let model = vcpu::system::cpuid::Model::new(choice);
    model.and_then(|model| model.check_host()).map_err(|error| error.to_string())
}
