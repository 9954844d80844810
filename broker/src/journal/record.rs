//! A run that is recorded.

use super::{Journal, JournalError, send_offer};
use replay::branch::{Cut, Keeps};
use replay::event::{Event, ShutdownCause, Stamped};
use replay::lane::BrokerEnd;
use replay::log::{LogError, Storage, Writer};
use replay::manifest::{LogPlace, Manifest};
use replay::message::Offer;
use replay::recording::{Recording, RecordingError};
use replay::setup::Mode;
use replay::time::Icount;
use std::fs::File;
use std::path::Path;

/// Inputs from the host; events go to the log.
///
/// The first failure to write is returned once. From then on the run can be ended in peace: events are dropped, the log
/// stays as it was after its last whole block, and [`Journal::finish`] says that the recording is not whole.
pub struct Record<S: Storage = File> {
    recording: Recording,
    writer: Option<Writer<S>>,
    /// Progress in the log, kept for the time after a failure.
    written: Icount,
    has_shutdown: bool,
    /// Events in the log.
    events: u64,
    /// Puts another log in the place of the one that was complete on disk.
    branch: fn(&mut Recording, &Cut) -> Result<Writer<S>, RecordingError>,
}

impl Record<File> {
    /// Begins the log of a new recording.
    pub fn create(recording: Recording) -> Result<Record, JournalError> {
        let writer = recording.create_log()?;
        Ok(Record { branch: Recording::branch_off, ..Record::with_writer(recording, writer) })
    }
}

impl<S: Storage> Record<S> {
    /// Records into a given log.
    pub fn with_writer(recording: Recording, writer: Writer<S>) -> Record<S> {
        let branch =
            |recording: &mut Recording, _: &Cut| Err(RecordingError::NoLog(recording.path().to_owned()));
        Record { recording, writer: Some(writer), written: Icount(0), has_shutdown: false, events: 0, branch }
    }

    /// Does something with the writer unless it has failed before.
    fn write(
        &mut self,
        action: impl FnOnce(&mut Writer<S>) -> Result<(), LogError>,
    ) -> Result<(), JournalError> {
        let Some(writer) = &mut self.writer else { return Ok(()) };
        let result = action(writer);
        self.written = writer.progress();
        result.map_err(|source| {
            self.writer = None;
            JournalError::Log { path: self.recording.log_path(), source }
        })
    }
}

impl<S: Storage> Journal for Record<S> {
    fn mode(&self) -> Mode {
        Mode::Record
    }

    fn recording(&self) -> Option<&Path> {
        Some(self.recording.path())
    }

    fn pump(&mut self, lane: &mut BrokerEnd) -> Result<(), JournalError> {
        Ok(lane.pump()?)
    }

    fn offer(&mut self, lane: &mut BrokerEnd, offer: Offer) -> Result<(), JournalError> {
        send_offer(lane, offer)
    }

    fn on_event(&mut self, stamped: &Stamped) -> Result<(), JournalError> {
        // After a shutdown only digests follow, unless the machine goes on (-no-shutdown).
        if !matches!(stamped.event, Event::Digest { .. }) {
            self.has_shutdown = matches!(stamped.event, Event::Shutdown { .. });
        }
        self.events += 1;
        self.write(|writer| writer.append(stamped))
    }

    fn flush(&mut self, progress: Icount) -> Result<(), JournalError> {
        self.write(|writer| writer.flush(progress))
    }

    /// A vCPU process that ends by itself has journaled why. For one that died, the cause is written here, not before
    /// its last event: it may have died before it published that progress.
    fn finish(&mut self, icount: Icount, cause: ShutdownCause) -> Result<(), JournalError> {
        let icount = self.writer.as_ref().map_or(icount, |writer| writer.last().max(icount));
        if !self.has_shutdown {
            self.on_event(&Stamped { icount, event: Event::Shutdown { cause } })?;
        }
        let Some(writer) = self.writer.take() else {
            return Err(JournalError::Unfinished {
                path: self.recording.path().into(),
                icount: self.written,
            });
        };
        let path = self.recording.log_path();
        writer.finish(icount).map(drop).map_err(|source| JournalError::Log { path, source })
    }

    fn place(&self) -> Option<LogPlace> {
        Some(LogPlace { uuid: self.recording.manifest().uuid.clone(), events: self.events })
    }

    fn manifests(&self) -> Vec<Manifest> {
        let cut = self.recording.cut_logs().into_iter().map(|cut| cut.manifest);
        std::iter::once(self.recording.manifest().clone()).chain(cut).collect()
    }

    fn cut(&mut self, cut: &Cut) -> Result<(), JournalError> {
        let Some(writer) = self.writer.take() else { return Ok(()) };
        let path = self.recording.log_path();
        let last = writer.last();
        writer.finish(last).map_err(|source| JournalError::Log { path, source })?;
        self.writer = Some((self.branch)(&mut self.recording, cut)?);
        self.written = cut.icount;
        self.has_shutdown = false;
        self.events = match &cut.keeps {
            Keeps::Until(place) => place.events,
            Keeps::Start(_) => 0,
        };
        Ok(())
    }

    fn take_warning(&mut self) -> Option<String> {
        None
    }
}
