//! `log` and `logfile`: other settings for this process and all of its children while they run.

use super::core::Core;
use super::swap::Swapper;
use crate::hmp::host::Ticket;
use crate::launch::children::Children;
use crate::logging::{self, Change};
use std::time::{Duration, Instant};

/// How long processes may take to hear of it; one that is stopped hears of it when it goes on.
const TIMEOUT: Duration = Duration::from_secs(2);

/// A change that not all have heard of.
#[derive(Debug, Default)]
pub struct Relog {
    waiting: Option<(Ticket, Instant)>,
}

impl Relog {
    /// Begins with what monitors asked for, one after the other, and answers when all processes have heard of it.
    pub fn attend(&mut self, core: &mut Core, swapper: &mut Swapper, children: &mut Children) {
        loop {
            match self.waiting {
                Some((ticket, deadline)) => {
                    let deaf = children.deaf();
                    if !deaf.is_empty() && Instant::now() < deadline {
                        return;
                    }
                    self.waiting = None;
                    let why = format!("{} has not heard of it yet", deaf.join(", "));
                    core.complete(ticket, (!deaf.is_empty()).then_some(why));
                }
                None => match core.next_log_change() {
                    Some((ticket, change)) => match change_all(change, swapper, children) {
                        Ok(()) => self.waiting = Some((ticket, Instant::now() + TIMEOUT)),
                        Err(why) => core.complete(ticket, Some(why)),
                    },
                    None => return,
                },
            }
        }
    }
}

fn change_all(change: Change, swapper: &mut Swapper, children: &mut Children) -> Result<(), String> {
    let settings = swapper.plan().log.with(change).map_err(|error| error.to_string())?;
    logging::apply(&settings)?;
    children.tell_log(&settings);
    swapper.set_log(settings);
    Ok(())
}
