//! Background jobs: what a command has begun, as QEMU tells of it by `JOB_STATUS_CHANGE` and `query-jobs`.
//!
//! A job is one request to the keeper of snapshots. It stays in the list when it is over, until a client dismisses it, so that
//! its error can be asked for.

use crate::cli::id;
use crate::hmp::host::Ticket;
use crate::sequence::notices::{Notices, What};
use serde_json::{Value, json};

/// Jobs at once, with those that are over and not dismissed.
const JOBS_MAX: usize = 256;

/// Where a job is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It is there.
    Created,
    /// It is being done.
    Running,
    /// Done; others of its transaction would be waited for.
    Waiting,
    /// Done; what makes it final would be waited for.
    Pending,
    /// It has failed.
    Aborting,
    /// Over.
    Concluded,
    /// Dismissed.
    Null,
}

/// The ways that jobs go after `Running`.
const SUCCESS: [Status; 3] = [Status::Waiting, Status::Pending, Status::Concluded];
const FAILURE: [Status; 2] = [Status::Aborting, Status::Concluded];

impl Status {
    /// QEMU's word.
    pub fn name(self) -> &'static str {
        match self {
            Status::Created => "created",
            Status::Running => "running",
            Status::Waiting => "waiting",
            Status::Pending => "pending",
            Status::Aborting => "aborting",
            Status::Concluded => "concluded",
            Status::Null => "null",
        }
    }
}

/// What a job does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `snapshot-save`
    Save,
    /// `snapshot-load`
    Load,
    /// `snapshot-delete`
    Delete,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Save => "snapshot-save",
            Kind::Load => "snapshot-load",
            Kind::Delete => "snapshot-delete",
        }
    }
}

/// What a client may do to a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// End it early.
    Cancel,
    /// Forget it.
    Dismiss,
}

#[derive(Debug)]
struct Job {
    id: String,
    kind: Kind,
    /// The request, while it is being done.
    ticket: Option<Ticket>,
    error: Option<String>,
}

impl Job {
    fn status(&self) -> Status {
        if self.ticket.is_some() { Status::Running } else { Status::Concluded }
    }
}

/// All jobs of a run.
#[derive(Debug, Default)]
pub struct Jobs {
    list: Vec<Job>,
}

impl Jobs {
    /// Whether a job may have this name.
    ///
    /// # Errors
    /// A description for the client.
    pub fn check_new(&self, id: &str) -> Result<(), String> {
        if id::check("job-id", id).is_err() {
            return Err(format!("Invalid job ID '{id}'"));
        }
        if self.list.iter().any(|job| job.id == id) {
            return Err(format!("Job ID '{id}' already in use"));
        }
        if self.list.len() == JOBS_MAX {
            return Err(format!("there are {JOBS_MAX} jobs; dismiss some with job-dismiss"));
        }
        Ok(())
    }

    /// Takes in a job whose name was checked; `begun`: its request, nothing if it is done already, or why it cannot be done.
    pub fn begin(
        &mut self,
        id: &str,
        kind: Kind,
        begun: Result<Option<Ticket>, String>,
        notices: &mut Notices,
    ) {
        let (ticket, error) = match begun {
            Ok(ticket) => (ticket, None),
            Err(why) => (None, Some(why)),
        };
        let job = Job { id: id.to_owned(), kind, ticket, error };
        tell(&job, &[Status::Created, Status::Running], notices);
        if job.ticket.is_none() {
            tell_end(&job, notices);
        }
        self.list.push(job);
    }

    /// Whether a request is a job's.
    pub fn waits_for(&self, ticket: Ticket) -> bool {
        self.list.iter().any(|job| job.ticket == Some(ticket))
    }

    /// A job's request is done.
    pub fn done(&mut self, ticket: Ticket, failure: Option<String>, notices: &mut Notices) {
        let Some(job) = self.list.iter_mut().find(|job| job.ticket == Some(ticket)) else { return };
        (job.ticket, job.error) = (None, failure);
        tell_end(job, notices);
    }

    /// Carries out what a client wants with a job.
    ///
    /// # Errors
    /// A description for the client.
    pub fn apply(&mut self, id: &str, verb: Verb, notices: &mut Notices) -> Result<(), String> {
        let at = self.list.iter().position(|job| job.id == id).ok_or("Job not found")?;
        let status = self.list[at].status();
        let name = match verb {
            Verb::Dismiss if status == Status::Concluded => {
                tell(&self.list.remove(at), &[Status::Null], notices);
                return Ok(());
            }
            // A snapshot is made, loaded or deleted as a whole: nothing could be undone half way.
            Verb::Cancel => "cancel",
            Verb::Dismiss => "dismiss",
        };
        Err(format!("Job '{id}' in state '{}' cannot accept command verb '{name}'", status.name()))
    }

    /// All of them, as `query-jobs` tells.
    pub fn describe(&self) -> Value {
        let describe = |job: &Job| {
            let mut value = json!({
                "id": job.id,
                "type": job.kind.name(),
                "status": job.status().name(),
                "current-progress": u8::from(job.ticket.is_none()),
                "total-progress": 1,
            });
            if let Some(error) = &job.error {
                value["error"] = json!(error);
            }
            value
        };
        self.list.iter().map(describe).collect()
    }
}

fn tell(job: &Job, way: &[Status], notices: &mut Notices) {
    for status in way {
        notices.add(What::Job { id: job.id.clone(), status: *status });
    }
}

fn tell_end(job: &Job, notices: &mut Notices) {
    let way: &[Status] = if job.error.is_some() { &FAILURE } else { &SUCCESS };
    tell(job, way, notices);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(notices: &mut Notices) -> Vec<(String, &'static str)> {
        let told = notices.take().into_iter().map(|notice| match notice.what {
            What::Job { id, status } => (id, status.name()),
            other => panic!("{other:?}"),
        });
        told.collect()
    }

    fn of(id: &str, way: &[&'static str]) -> Vec<(String, &'static str)> {
        way.iter().map(|status| (id.to_owned(), *status)).collect()
    }

    #[test]
    fn a_job_lives_until_it_is_dismissed() {
        let (mut jobs, mut notices) = (Jobs::default(), Notices::default());
        jobs.begin("a", Kind::Save, Ok(Some(7)), &mut notices);
        assert_eq!(told(&mut notices), of("a", &["created", "running"]));
        assert_eq!(jobs.check_new("a").unwrap_err(), "Job ID 'a' already in use");
        for (verb, name) in [(Verb::Cancel, "cancel"), (Verb::Dismiss, "dismiss")] {
            let why = jobs.apply("a", verb, &mut notices).unwrap_err();
            assert_eq!(why, format!("Job 'a' in state 'running' cannot accept command verb '{name}'"));
        }
        let job = json!({"id": "a", "type": "snapshot-save", "status": "running", "current-progress": 0, "total-progress": 1});
        assert_eq!(jobs.describe(), json!([job]));
        assert!(jobs.waits_for(7) && !jobs.waits_for(8));
        jobs.done(8, None, &mut notices);
        jobs.done(7, None, &mut notices);
        jobs.done(7, Some("again".to_owned()), &mut notices);
        assert_eq!(told(&mut notices), of("a", &["waiting", "pending", "concluded"]));
        let job = json!({"id": "a", "type": "snapshot-save", "status": "concluded", "current-progress": 1, "total-progress": 1});
        assert_eq!(jobs.describe(), json!([job]));
        let why = jobs.apply("a", Verb::Cancel, &mut notices).unwrap_err();
        assert_eq!(why, "Job 'a' in state 'concluded' cannot accept command verb 'cancel'");
        assert_eq!(jobs.apply("a", Verb::Dismiss, &mut notices), Ok(()));
        assert_eq!(told(&mut notices), of("a", &["null"]));
        assert_eq!(jobs.describe(), json!([]));
        assert_eq!(jobs.apply("a", Verb::Dismiss, &mut notices).unwrap_err(), "Job not found");
    }

    #[test]
    fn failures_are_kept_with_the_job() {
        let (mut jobs, mut notices) = (Jobs::default(), Notices::default());
        jobs.begin("a", Kind::Load, Ok(Some(7)), &mut notices);
        jobs.done(7, Some("no".to_owned()), &mut notices);
        assert_eq!(told(&mut notices), of("a", &["created", "running", "aborting", "concluded"]));
        jobs.begin("b", Kind::Delete, Err("never".to_owned()), &mut notices);
        assert_eq!(told(&mut notices), of("b", &["created", "running", "aborting", "concluded"]));
        jobs.begin("c", Kind::Delete, Ok(None), &mut notices);
        assert_eq!(told(&mut notices).len(), 5);
        let all = jobs.describe();
        assert_eq!((&all[0]["error"], &all[1]["error"]), (&json!("no"), &json!("never")));
        assert_eq!((&all[1]["type"], &all[2]["error"]), (&json!("snapshot-delete"), &Value::Null));
    }

    #[test]
    fn names_and_numbers_are_bounded() {
        let (mut jobs, mut notices) = (Jobs::default(), Notices::default());
        for id in ["", "1a", "a b", "a/b", &"a".repeat(200)] {
            assert_eq!(jobs.check_new(id).unwrap_err(), format!("Invalid job ID '{id}'"));
        }
        for number in 0..JOBS_MAX {
            let id = format!("a{number}");
            assert_eq!(jobs.check_new(&id), Ok(()));
            jobs.begin(&id, Kind::Save, Ok(None), &mut notices);
        }
        assert!(jobs.check_new("b").unwrap_err().contains("job-dismiss"));
        jobs.apply("a9", Verb::Dismiss, &mut notices).unwrap();
        assert_eq!(jobs.check_new("b"), Ok(()));
    }
}
