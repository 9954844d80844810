//! `reprise vcpu`: takes its setup, connects, runs the machine, ends.

use super::connect::{connect, inherited};
use super::error::RunError;
use super::inputs::{Flow, Inputs};
use super::live::Live;
use super::machine::{Machine, Request};
use super::pace::RealClock;
use super::playback::Playback;
use crate::gdb;
use crate::interp::Stop;
use crate::virtio::service::Progress;
use replay::event::ShutdownCause;
use replay::lane::VcpuEnd;
use replay::setup::{Mode, VcpuSetup};
use std::io::Read;

/// Runs a vCPU process whose setup is in the inherited descriptor `setup_fd`.
pub fn run(setup_fd: i32) -> Result<(), RunError> {
    let setup = read_setup(setup_fd)?;
    let lane = VcpuEnd::from_fd(inherited(setup.lane_fd)?, Some(inherited(setup.doorbell_fd)?))?;
    let outside = connect(&setup)?;
    let clock = Box::new(RealClock::new());
    let mut machine = Machine::new(&setup, outside)?;
    if let Some(fd) = setup.debugger_fd {
        machine.debugger.listen(Some(inherited(fd)?), lane.waker())?;
    }
    if setup.mode == Mode::Replay {
        machine.keep_answers()?;
    }
    if setup.mode == Mode::Replay && setup.keeps_past {
        machine.keep_history();
    }
    replay::confine::confine(replay::confine::Role::Vcpu)?;
    let result = match setup.mode {
        Mode::Plain | Mode::Record => {
            let mut inputs = Live::new(lane, &setup, &mut machine, host_entropy()?, clock)?;
            run_machine(&mut machine, &mut inputs)
        }
        Mode::Replay => run_machine(&mut machine, &mut Playback::new(lane, &setup, clock)),
    };
    gdb::finish(&mut machine, result.is_ok());
    result.map_err(RunError::while_running)
}

/// The loop: timers, what the guest asked for, events, instructions.
pub fn run_machine(machine: &mut Machine, inputs: &mut dyn Inputs) -> Result<(), RunError> {
    loop {
        machine.advance_timers();
        let waits_for = match machine.serve_virtio()? {
            Progress::Waiting(device) => Some(device),
            Progress::Done => machine.backlogged()?,
        };
        if let Some(device) = waits_for {
            if inputs.stalled(machine, device)? == Flow::Leave {
                return Ok(());
            }
            continue;
        }
        if let Some(request) = machine.serve_effects() {
            if obey(machine, inputs, request)? == Flow::Leave {
                return Ok(());
            }
            continue;
        }
        match inputs.checkpoint(machine)? {
            Flow::Leave => return Ok(()),
            Flow::Again => continue,
            Flow::Go => {}
        }
        let flow = match machine.run(inputs.limit(machine)) {
            Stop::Limit | Stop::Service | Stop::Probe => Flow::Go,
            Stop::Halted => inputs.idle(machine)?,
            Stop::TripleFault => {
                let request = machine.guest_resets(ShutdownCause::TripleFault);
                obey(machine, inputs, request)?
            }
            Stop::Stuck => inputs.stuck(machine)?,
        };
        if flow == Flow::Leave {
            return Ok(());
        }
    }
}

fn obey(machine: &mut Machine, inputs: &mut dyn Inputs, request: Request) -> Result<Flow, RunError> {
    match request {
        Request::Reset { guest } => {
            machine.reset()?;
            inputs.was_reset(guest)?;
            Ok(Flow::Go)
        }
        Request::Pause(cause) => inputs.guest_pauses(machine, cause),
        Request::End(cause) => inputs.guest_ended(machine, cause),
    }
}

fn read_setup(fd: i32) -> Result<VcpuSetup, RunError> {
    let mut text = String::new();
    let mut file = std::fs::File::from(inherited(fd)?);
    file.read_to_string(&mut text).map_err(|error| RunError::Setup(error.to_string()))?;
    serde_json::from_str(&text).map_err(|error| RunError::Setup(error.to_string()))
}

fn host_entropy() -> Result<[u8; 32], RunError> {
    let mut bytes = [0; 32];
    let mut file = std::fs::File::open("/dev/urandom").map_err(RunError::Entropy)?;
    file.read_exact(&mut bytes).map_err(RunError::Entropy)?;
    Ok(bytes)
}
