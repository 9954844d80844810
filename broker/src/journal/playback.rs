//! A run whose inputs come from a recording.

use super::{JOURNAL_SEQUENCE, Journal, JournalError};
use replay::event::{Event, ShutdownCause, Stamped};
use replay::lane::{BrokerEnd, RING_BYTES};
use replay::log::{Ending, Reader, Step};
use replay::manifest::{LogPlace, Manifest};
use replay::message::{Control, Inbound, LogEnding, Offer};
use replay::recording::{Recording, RecordingError};
use replay::setup::Mode;
use replay::time::Icount;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

/// Inputs from the log, sent ahead so that the vCPU never waits for them.
pub struct Playback<R: Read = BufReader<File>> {
    recording: Recording,
    reader: Reader<R>,
    /// How the log ends, known from the start.
    ending: Ending,
    warning: Option<String>,
    sent_all: bool,
    /// Opens the log once more.
    open_again: fn(&Recording) -> Result<Reader<R>, RecordingError>,
}

impl Playback<BufReader<File>> {
    /// Opens a recording and verifies all of its log, so that damage is known before the first instruction.
    ///
    /// A log that is cut or damaged is replayed up to there; [`Journal::take_warning`] says so.
    pub fn open(recording: Recording) -> Result<Playback, JournalError> {
        let ending = recording.survey_log()?.ending;
        let reader = recording.open_log()?;
        let open_again = Recording::open_log;
        Ok(Playback { open_again, ..Playback::with_reader(recording, reader, ending) })
    }
}

impl<R: Read> Playback<R> {
    /// Plays a given log, whose survey found `ending`.
    pub fn with_reader(recording: Recording, reader: Reader<R>, ending: Ending) -> Playback<R> {
        let open_again = |recording: &Recording| Err(RecordingError::NoLog(recording.path().into()));
        let mut playback = Playback { recording, reader, ending, warning: None, sent_all: false, open_again };
        playback.warn();
        playback
    }

    /// How the log ends.
    pub fn ending(&self) -> &Ending {
        &self.ending
    }

    /// Sends the next event of the log, or once how the log ends. The End event is sent as `LogEnds`.
    pub fn send_next(&mut self, lane: &mut BrokerEnd) -> Result<(), JournalError> {
        if self.sent_all {
            return Ok(());
        }
        let step = self.reader.next();
        match step.map_err(|source| JournalError::Log { path: self.recording.log_path(), source })? {
            Step::Event(entry) if entry.stamped.event == Event::End => Ok(()),
            Step::Event(entry) => Ok(lane.send(&Inbound::Apply(entry.stamped))?),
            Step::Ended(ending) => self.send_ending(lane, ending),
        }
    }

    fn warn(&mut self) {
        self.warning = match &self.ending {
            Ending::Finished { .. } => None,
            Ending::Cut { .. } | Ending::Damaged(_) => Some(format!(
                "{}: {}; it is replayed up to there",
                self.recording.log_path().display(),
                self.ending
            )),
        };
    }

    fn send_ending(&mut self, lane: &mut BrokerEnd, ending: Ending) -> Result<(), JournalError> {
        self.sent_all = true;
        let (icount, how) = match &ending {
            Ending::Finished { icount } => (*icount, LogEnding::Finished),
            Ending::Cut { last_icount, .. } => (*last_icount, LogEnding::CutShort),
            Ending::Damaged(damage) => (damage.from, LogEnding::Damaged),
        };
        // An event that does not decode under a right checksum shows only now; it has not been sent either.
        if ending != self.ending {
            self.ending = ending;
            self.warn();
        }
        Ok(lane.send(&Inbound::LogEnds { icount, how })?)
    }
}

impl<R: Read> Journal for Playback<R> {
    fn mode(&self) -> Mode {
        Mode::Replay
    }

    fn recording(&self) -> Option<&Path> {
        Some(self.recording.path())
    }

    /// Keeps the inbound ring more than half full.
    fn pump(&mut self, lane: &mut BrokerEnd) -> Result<(), JournalError> {
        lane.pump()?;
        while !self.sent_all && lane.room_bytes()? > RING_BYTES / 2 {
            self.send_next(lane)?;
        }
        if !self.sent_all {
            lane.want_room();
        }
        Ok(())
    }

    fn offer(&mut self, lane: &mut BrokerEnd, offer: Offer) -> Result<(), JournalError> {
        let what = match offer {
            Offer::Quit { .. } => {
                lane.send(&Inbound::Control { sequence: JOURNAL_SEQUENCE, control: Control::Quit })?;
                lane.raise_attention();
                return Ok(());
            }
            Offer::DeviceReady { .. } => "input of a device",
            Offer::Input(_) => "keyboard and mouse input",
            Offer::PowerButton => "system_powerdown",
            Offer::Nmi => "nmi",
            Offer::Reset => "system_reset",
            Offer::PortWrite { .. } => "o",
        };
        Err(JournalError::Refused { what })
    }

    /// In a replay nothing new happens.
    fn on_event(&mut self, stamped: &Stamped) -> Result<(), JournalError> {
        Err(JournalError::Unexpected(Box::new(stamped.clone())))
    }

    fn flush(&mut self, _progress: Icount) -> Result<(), JournalError> {
        Ok(())
    }

    fn finish(&mut self, _icount: Icount, _cause: ShutdownCause) -> Result<(), JournalError> {
        match &self.ending {
            Ending::Damaged(damage) => {
                Err(JournalError::Damaged { path: self.recording.log_path(), what: damage.to_string() })
            }
            Ending::Finished { .. } | Ending::Cut { .. } => Ok(()),
        }
    }

    fn log_end(&self) -> Option<Icount> {
        Some(match &self.ending {
            Ending::Finished { icount } => *icount,
            Ending::Cut { last_icount, .. } => *last_icount,
            Ending::Damaged(damage) => damage.from,
        })
    }

    fn place(&self) -> Option<LogPlace> {
        Some(LogPlace { uuid: self.recording.manifest().uuid.clone(), events: 0 })
    }

    fn manifests(&self) -> Vec<Manifest> {
        vec![self.recording.manifest().clone()]
    }

    fn take_warning(&mut self) -> Option<String> {
        self.warning.take()
    }

    fn rewind(&mut self, lane: &mut BrokerEnd, events: u64) -> Result<(), JournalError> {
        self.reader = (self.open_again)(&self.recording)?;
        for _ in 0..events {
            self.reader
                .next()
                .map_err(|source| JournalError::Log { path: self.recording.log_path(), source })?;
        }
        self.sent_all = false;
        lane.send(&Inbound::Rewound)?;
        self.pump(lane)?;
        lane.raise_attention();
        Ok(())
    }
}
