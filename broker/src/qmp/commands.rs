//! What QMP's commands do that change something.

use super::jobs::Verb;
use super::table::{Arguments, Outcome};
use crate::hmp::commands::{Context, execute};
use crate::hmp::host::{Host, Ticket};
use replay::message::Offer;
use replay::setup::Mode;

type Result = std::result::Result<Outcome, String>;

fn later(requested: std::result::Result<Option<Ticket>, String>) -> Result {
    Ok(requested?.map_or_else(Outcome::nothing, Outcome::Later))
}

fn offered(host: &mut dyn Host, offer: Offer) -> Result {
    host.offer(offer).map(|()| Outcome::nothing())
}

/// The session answers it before it comes here; again, it is an error of its own.
pub(super) fn negotiate(_: &mut dyn Host, _: &Arguments) -> Result {
    Ok(Outcome::nothing())
}

pub(super) fn stop(host: &mut dyn Host, _: &Arguments) -> Result {
    later(host.stop())
}

pub(super) fn cont(host: &mut dyn Host, _: &Arguments) -> Result {
    later(host.cont())
}

pub(super) fn quit(host: &mut dyn Host, _: &Arguments) -> Result {
    host.quit();
    Ok(Outcome::Quit)
}

pub(super) fn system_reset(host: &mut dyn Host, _: &Arguments) -> Result {
    offered(host, Offer::Reset)
}

pub(super) fn system_powerdown(host: &mut dyn Host, _: &Arguments) -> Result {
    offered(host, Offer::PowerButton)
}

/// `icount`; what is beyond every log for a number that is negative.
fn icount(arguments: &Arguments) -> u64 {
    arguments.get("icount").and_then(serde_json::Value::as_u64).unwrap_or(u64::MAX)
}

pub(super) fn replay_break(host: &mut dyn Host, arguments: &Arguments) -> Result {
    let (status, icount) = (host.replay_status(), icount(arguments));
    match status.mode {
        Mode::Replay if icount < status.icount => {
            Err("cannot set breakpoint at the instruction in the past".to_owned())
        }
        Mode::Replay => later(host.set_break(icount)),
        Mode::Plain | Mode::Record => Err("setting the breakpoint is allowed only in play mode".to_owned()),
    }
}

pub(super) fn replay_delete_break(host: &mut dyn Host, _: &Arguments) -> Result {
    match host.replay_status().mode {
        Mode::Replay => later(host.delete_break(None)),
        Mode::Plain | Mode::Record => Err("replay breakpoints are allowed only in play mode".to_owned()),
    }
}

/// Answers at once, as QEMU does; the event STOP tells of the arrival.
pub(super) fn replay_seek(host: &mut dyn Host, arguments: &Arguments) -> Result {
    match host.replay_status().mode {
        Mode::Replay => host.seek(icount(arguments)).map(|_| Outcome::nothing()),
        Mode::Plain | Mode::Record => Err("replay must be enabled to seek".to_owned()),
    }
}

fn to_job(host: &mut dyn Host, arguments: &Arguments, verb: Verb) -> Result {
    let id = arguments.get("id").and_then(serde_json::Value::as_str).unwrap_or_default();
    host.apply_to_job(id, verb).map(|()| Outcome::nothing())
}

pub(super) fn job_cancel(host: &mut dyn Host, arguments: &Arguments) -> Result {
    to_job(host, arguments, Verb::Cancel)
}

pub(super) fn job_dismiss(host: &mut dyn Host, arguments: &Arguments) -> Result {
    to_job(host, arguments, Verb::Dismiss)
}

pub(super) fn human(host: &mut dyn Host, arguments: &Arguments) -> Result {
    let line = arguments.get("command-line").and_then(serde_json::Value::as_str).unwrap_or_default();
    if let Some(index) = arguments.get("cpu-index").filter(|index| index.as_u64() != Some(0)) {
        return Err(format!("Parameter 'cpu-index' expects a CPU number, not {index}"));
    }
    let mut context = Context { host, history: &[], out: String::new(), wait: None, ended: false };
    execute(&mut context, line);
    let Context { out, wait, .. } = context;
    Ok(Outcome::Human(out, wait))
}
