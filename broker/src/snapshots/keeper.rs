//! Carries out what is asked for with snapshots: one thing after the other, most of it in the vCPU process and in threads.
//!
//! A save: the vCPU process notes its state and goes on; disks go on in new layers, or copy what they hold; when all is copied, a
//! thread stores the pages; then the monitor is answered: the snapshot is on disk. A load: a thread unpacks the snapshot while the
//! machine runs; the vCPU process takes it; the log is cut; disks go on over the snapshot's layers, or get what they held. In a
//! replay a load is a seek.

use super::desk::{News, Request};
use super::disks::Disks;
use super::kept::{KeptDisks, Target};
use super::merging::Merging;
use super::places::{Periodic, Setup};
use super::travel::Travel;
use super::work::{self, Fetched, Stored, Worker};
use crate::hmp::host::{Host as _, RunStatus, Ticket};
use crate::hmp::session::date_digits;
use crate::host_clock;
use crate::launch::children::Children;
use crate::sequence::core::Core;
use crate::sequence::swap::Swapper;
use nix::sys::eventfd::EventFd;
use replay::branch::{Cut, Keeps};
use replay::event::DeviceIndex;
use replay::handover::Files;
use replay::manifest::{self, LogPlace};
use replay::message::Control;
use replay::setup::Mode;
use replay::store::{Info, PageTable, Snapshot, Store};
use replay::time::Icount;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

/// Who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// A monitor waits for the answer.
    Monitor(Ticket),
    /// The command line: without it there is no run.
    Start,
    /// Time.
    Clock,
    /// The vCPU process, on its way to a place.
    Machine,
}

/// What is being done.
enum Job {
    Saving {
        sequence: u64,
        tag: String,
        info: Option<Box<Info>>,
        files: Option<Files>,
        /// All pages are in their file.
        copied: bool,
        worker: Option<Worker<Result<Stored, String>>>,
    },
    Fetching {
        worker: Worker<Result<Fetched, String>>,
    },
    Loading {
        sequence: u64,
        store: Store,
        snapshot: Box<Snapshot>,
        /// What disks are to get that are written in place.
        targets: BTreeMap<u16, Target>,
    },
    Deleting {
        worker: Worker<Result<(), String>>,
    },
    /// Only disks are missing.
    Ending,
}

/// The keeper of a run's snapshots.
pub struct Keeper {
    pub(super) setup: Setup,
    pub(super) disks: Disks,
    pub(super) kept: KeptDisks,
    merging: Merging,
    doorbell: Arc<EventFd>,
    /// The snapshot on which a save builds: its pages, and its name.
    base: Option<(PageTable, String)>,
    queue: VecDeque<(Origin, Request)>,
    job: Option<(Origin, Job)>,
    /// Disks that are getting other back-ends.
    pub(super) swaps: BTreeMap<Ticket, u16>,
    pub(super) failure: Option<String>,
    /// The machine stands still until its disks have what was loaded.
    pub(super) stands_still: bool,
    next_periodic: Option<Instant>,
    made_by_clock: VecDeque<String>,
    /// A replay is on its way to the snapshot from which the user wants it to go on.
    start_seek: Option<Ticket>,
    /// The machine stands still until the snapshot of its start is made.
    starts_machine: bool,
    /// Ways of a replay from stored snapshots.
    pub(super) travel: Travel,
}

/// The things that a keeper works with.
pub struct Hands<'a> {
    /// The machine's side.
    pub core: &'a mut Core,
    /// Puts back-ends in the place of others.
    pub swapper: &'a mut Swapper,
    /// The processes.
    pub children: &'a mut Children,
}

impl Hands<'_> {
    /// Lets the machine take a state; the devices `held` then wait for other back-ends. Number of the request.
    pub(super) fn send_state(&mut self, files: &Files, held: Vec<DeviceIndex>) -> Result<u64, String> {
        files
            .send(self.swapper.control_fd())
            .map_err(|error| format!("cannot hand a state to the vcpu process: {error}"))?;
        let sequence = self.core.new_ticket();
        self.core.send_control(sequence, Control::Load { held })?;
        Ok(sequence)
    }
}

impl Keeper {
    /// For a run; `doorbell` wakes the broker's loop. `starts_machine`: the machine stands still until the snapshot of its start is made.
    pub fn new(
        setup: Setup,
        (disks, kept): (Disks, KeptDisks),
        doorbell: Arc<EventFd>,
        starts_machine: bool,
    ) -> Keeper {
        let mut queue = VecDeque::new();
        queue.extend(setup.load.clone().map(|tag| (Origin::Start, Request::Load(tag))));
        queue.extend(setup.save.clone().map(|tag| (Origin::Start, Request::Save(Some(tag)))));
        queue.extend(setup.go_to.clone().map(|(tag, _)| (Origin::Machine, Request::Load(tag))));
        let next_periodic = setup.periodic.map(|periodic| Instant::now() + periodic.interval);
        Keeper {
            setup,
            disks,
            kept,
            merging: Merging::default(),
            doorbell,
            base: None,
            queue,
            job: None,
            swaps: BTreeMap::new(),
            failure: None,
            stands_still: false,
            next_periodic,
            made_by_clock: VecDeque::new(),
            start_seek: None,
            starts_machine,
            travel: Travel::default(),
        }
    }

    /// The run is over.
    pub fn leave(&self) {
        self.disks.remove_present();
    }

    /// The next moment at which something is due.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.next_periodic
    }

    /// Goes on with what is to be done; an error ends the run.
    pub fn attend(&mut self, hands: &mut Hands<'_>) -> Result<(), String> {
        let requests = std::mem::take(&mut hands.core.desk.requests);
        self.queue.extend(requests.into_iter().map(|(ticket, request)| (Origin::Monitor(ticket), request)));
        self.look_at_the_clock();
        while hands.core.desk.news.front().is_some_and(|news| self.travel.hears(news, self.swaps.is_empty()))
            && let Some(news) = hands.core.desk.news.pop_front()
        {
            self.hear(news, hands)?;
        }
        self.poll(hands)?;
        if self.setup.mode != Mode::Replay {
            // There, layers of the recording are among them.
            self.merging.attend(&mut self.disks, self.swaps.is_empty());
        }
        while self.job.is_none() && self.travel.is_settled() && !self.waits_for_room() {
            let Some((origin, request)) = self.queue.pop_front() else { break };
            let begun = match request {
                Request::Save(tag) => self.begin_save(tag, hands.core),
                Request::Create(tag) => self.begin_new(tag, hands.core),
                Request::Load(tag) if self.setup.mode == Mode::Replay && origin != Origin::Start => {
                    self.seek(origin, &tag, hands.core)?;
                    continue;
                }
                Request::Load(tag) => self.begin_load(tag, hands.core),
                Request::Delete(tag) => self.begin_delete(tag, hands.core),
            };
            match begun {
                Ok(job) => self.job = Some((origin, job)),
                Err(why) => self.answer(origin, Some(why), hands.core)?,
            }
        }
        self.start_machine(hands.core)
    }

    /// A save comes next, and layers are being merged so that there is room for it.
    fn waits_for_room(&self) -> bool {
        let saves = matches!(self.queue.front(), Some((_, Request::Save(_) | Request::Create(_))));
        saves && self.setup.mode != Mode::Replay && self.disks.are_full() && self.merging.is_hopeful()
    }

    /// Lets the machine run once the snapshot of its start is made, or there is none to make.
    fn start_machine(&mut self, core: &mut Core) -> Result<(), String> {
        let waits =
            self.queue.iter().map(|(origin, _)| origin).chain(self.job.iter().map(|(origin, _)| origin));
        let is_start = |origin: &Origin| matches!(origin, Origin::Start);
        if !self.starts_machine || waits.into_iter().any(is_start) {
            return Ok(());
        }
        self.starts_machine = false;
        // Unless a monitor has stopped it meanwhile.
        if core.run_status() == RunStatus::Running {
            let ticket = core.new_ticket();
            core.send_control(ticket, Control::Continue)?;
        }
        Ok(())
    }

    fn look_at_the_clock(&mut self) {
        let (Some(at), Some(Periodic { interval, .. })) = (self.next_periodic, self.setup.periodic) else {
            return;
        };
        let now = Instant::now();
        if now >= at {
            self.next_periodic = Some(now + interval);
            self.queue.push_back((Origin::Clock, Request::Save(None)));
        }
    }

    /// Tells who asked how it ended.
    fn answer(&mut self, origin: Origin, failure: Option<String>, core: &mut Core) -> Result<(), String> {
        match (origin, failure) {
            (Origin::Monitor(ticket), failure) => core.complete(ticket, failure),
            (Origin::Start, Some(why)) => return Err(why),
            (Origin::Clock | Origin::Machine, Some(why)) => eprintln!("reprise: {why}"),
            (Origin::Start | Origin::Clock | Origin::Machine, None) => {}
        }
        Ok(())
    }

    fn begin_save(&mut self, tag: Option<String>, core: &mut Core) -> Result<Job, String> {
        let tag = tag.unwrap_or_else(|| self.new_tag());
        let builds_on = self.base.as_ref().is_some_and(|(_, tag)| self.setup.places.own.holds(tag));
        if self.disks.are_full()
            && let Some(why) = self.merging.take_failure()
        {
            return Err(format!("no room for one more layer of a disk: {why}"));
        }
        self.kept.prepare()?;
        let sequence = core.new_ticket();
        core.send_control(sequence, Control::Save { full: !builds_on, held: self.saved_disks() })?;
        if !builds_on {
            self.base = None;
        }
        Ok(Job::Saving { sequence, tag, info: None, files: None, copied: false, worker: None })
    }

    fn begin_new(&mut self, tag: String, core: &mut Core) -> Result<Job, String> {
        // The start of a recording has a name even where no file keeps it.
        if core.is_start_tag(&tag) || self.setup.places.all().any(|store| store.holds(&tag)) {
            return Err(format!("Snapshot '{tag}' already exists in one or more devices"));
        }
        self.begin_save(Some(tag), core)
    }

    /// As QEMU makes names up.
    fn new_tag(&self) -> String {
        let base = format!("vm-{}", date_digits(host_clock::now().utc));
        let mut names = std::iter::once(base.clone()).chain((2..).map(|number| format!("{base}-{number}")));
        names.find(|name| !self.setup.places.own.holds(name)).unwrap_or(base)
    }

    fn begin_load(&mut self, tag: String, core: &mut Core) -> Result<Job, String> {
        let (places, machine) = (self.setup.places.clone(), self.setup.machine.clone());
        let manifests = (self.setup.mode == Mode::Record).then(|| core.manifests());
        // A replay has applied nothing when it starts.
        let events = (self.setup.mode == Mode::Replay).then_some(0);
        let doorbell = Arc::clone(&self.doorbell);
        let work = move || work::fetch(&places, &tag, &machine, manifests.as_deref(), events);
        Ok(Job::Fetching { worker: Worker::<Fetched>::start(doorbell, work)? })
    }

    fn begin_delete(&mut self, tag: String, core: &mut Core) -> Result<Job, String> {
        let own = self.setup.places.own.clone();
        let is_start = |tag: &str| core.manifests().iter().any(|m| m.start_snapshot.as_deref() == Some(tag));
        if self.setup.mode == Mode::Record && is_start(&tag) {
            return Err(format!("snapshot '{tag}' is the start of the recording"));
        }
        if let Some(other) = self.setup.places.others.iter().find(|store| store.holds(&tag))
            && !own.holds(&tag)
        {
            return Err(format!(
                "snapshot '{tag}' is in '{}', which this run does not change",
                other.root().display()
            ));
        }
        if self.base.as_ref().is_some_and(|(_, base)| *base == tag) {
            self.base = None;
        }
        let (layers, ours) = (self.disks.all_layers(), self.setup.mode == Mode::Record);
        let work = move || {
            own.delete(&tag).map_err(|error| error.to_string())?;
            work::remove_unneeded_images(&own, layers, ours)
        };
        Ok(Job::Deleting { worker: Worker::<()>::start(Arc::clone(&self.doorbell), work)? })
    }

    /// In a replay: goes to the place of a snapshot.
    fn seek(&mut self, origin: Origin, tag: &str, core: &mut Core) -> Result<(), String> {
        let ticket = match origin {
            Origin::Monitor(ticket) => ticket,
            Origin::Start | Origin::Clock | Origin::Machine => core.new_ticket(),
        };
        let result = match self.setup.places.find(tag) {
            Err(error) => Err(format!("snapshot '{tag}': {error}")),
            Ok(None) if core.is_start_tag(tag) => core.seek_place(ticket, 0, 0),
            Ok(None) => Err(work::missing(tag)),
            Ok(Some((_, snapshot))) => {
                match snapshot.info.place.as_ref().filter(|place| core.passes(place)) {
                    Some(place) => core.seek_place(ticket, snapshot.info.icount, place.events),
                    None if core.is_start_of_recording(tag) => {
                        core.seek_place(ticket, snapshot.info.icount, 0)
                    }
                    None => Err(format!(
                        "snapshot '{tag}' is of another run: a replay goes only where its recording went"
                    )),
                }
            }
        };
        match (origin, result) {
            (Origin::Monitor(_), Err(why)) => core.complete(ticket, Some(why)),
            (_, Err(why)) => return Err(why),
            (Origin::Monitor(_), Ok(())) => {}
            (_, Ok(())) => self.start_seek = Some(ticket),
        }
        Ok(())
    }

    fn hear(&mut self, news: News, hands: &mut Hands<'_>) -> Result<(), String> {
        match news {
            News::Saved { sequence, place, with_disks } => self.saved(sequence, (place, with_disks), hands),
            News::Copied { sequence, error } => self.copied(sequence, error),
            News::Loaded { sequence, error } => self.loaded(sequence, error, hands),
            News::Fetch { icount, events } => self.fetch(icount, events, hands),
            News::FetchStart => self.fetch_start(hands),
        }
    }

    fn saved(
        &mut self,
        of: u64,
        (place, with_disks): (Option<LogPlace>, bool),
        hands: &mut Hands<'_>,
    ) -> Result<(), String> {
        let mut got = Files::receive(hands.swapper.control_fd())
            .map_err(|error| format!("cannot take a state from the vcpu process: {error}"))?;
        let (handover, _) = got.read()?;
        match &self.job {
            Some((_, Job::Saving { sequence, .. })) if *sequence == of => {}
            _ => return Ok(()),
        }
        let states = self.save_disks(with_disks, hands);
        let Some((_, Job::Saving { tag, info, files, .. })) = &mut self.job else { return Ok(()) };
        *info = Some(Box::new(Info {
            tag: tag.clone(),
            created_unix_s: host_clock::now().utc,
            icount: handover.icount,
            vtime_ns: handover.vtime_ns,
            place: place.map(|place| LogPlace { events: handover.events.unwrap_or(place.events), ..place }),
            build: manifest::build(),
            machine: self.setup.machine.clone(),
            disks: states,
            vm_bytes: 0,
        }));
        *files = Some(got);
        Ok(())
    }

    /// A ticket of ours may be done: a disk goes on.
    pub fn ticket_done(&mut self, ticket: Ticket, core: &mut Core) {
        if let Some(device) = self.swaps.remove(&ticket) {
            let failure = core.take_failure(ticket);
            self.kept.swapped(device, failure.is_none());
            self.failure = self.failure.take().or(failure);
        }
        self.travel.ticket_done(ticket, core);
        if self.start_seek.take_if(|seek| *seek == ticket).is_some()
            && self.setup.go_to.as_ref().is_some_and(|(_, runs_on)| *runs_on)
        {
            self.failure = self.failure.take().or(core.cont().err());
        }
    }

    fn copied(&mut self, of: u64, error: Option<String>) -> Result<(), String> {
        let Some((_, job)) = &mut self.job else { return Ok(()) };
        let Job::Saving { sequence, info, copied, .. } = job else { return Ok(()) };
        if *sequence != of {
            return Ok(());
        }
        match error {
            None if info.is_some() => *copied = true,
            error => {
                self.failure = self.failure.take().or(error);
                self.base = None;
                *job = Job::Ending;
            }
        }
        Ok(())
    }

    /// All pages are copied: stores them, once it is known that what disks hold is kept, too.
    fn go_on_storing(
        &mut self,
        (sequence, tag): (u64, String),
        info: Box<Info>,
        files: Files,
    ) -> Result<Job, String> {
        let kept = self.kept.poll();
        if let Some(Err(why)) = &kept {
            self.failure.get_or_insert_with(|| why.clone());
        }
        match kept {
            None => {
                let (info, files) = (Some(info), Some(files));
                Ok(Job::Saving { sequence, tag, info, files, copied: true, worker: None })
            }
            Some(_) if self.failure.is_some() && !self.kept.is_empty() => {
                // The pages that were written since the last save are in these files only.
                self.base = None;
                Ok(Job::Ending)
            }
            Some(_) => {
                let (bell, store) = (Arc::clone(&self.doorbell), self.setup.places.own.clone());
                let base = self.base.as_ref().map(|(table, _)| table.clone()).unwrap_or_default();
                let work = move || work::store(&store, *info, base, files);
                let worker = Some(Worker::<Stored>::start(bell, work)?);
                Ok(Job::Saving { sequence, tag, info: None, files: None, copied: true, worker })
            }
        }
    }

    fn loaded(&mut self, of: u64, error: Option<String>, hands: &mut Hands<'_>) -> Result<(), String> {
        self.travel.loaded((of, error.is_none()), &mut self.disks, hands);
        let Some((_, Job::Loading { sequence, .. })) = &self.job else { return Ok(()) };
        if *sequence != of {
            return Ok(());
        }
        let Some((origin, Job::Loading { store, snapshot, targets, .. })) = self.job.take() else {
            return Ok(());
        };
        self.job = Some((origin, Job::Ending));
        if let Some(why) = error {
            self.failure = Some(format!("snapshot '{}': {why}", snapshot.info.tag));
            return Ok(());
        }
        hands.core.state_was_loaded();
        self.load_disks(&snapshot.info.disks, store.root(), targets, hands)?;
        let Snapshot { info, table, .. } = *snapshot;
        self.base = (store == self.setup.places.own).then_some((table, info.tag));
        Ok(())
    }

    /// Looks at threads and disks.
    fn poll(&mut self, hands: &mut Hands<'_>) -> Result<(), String> {
        let Some((origin, job)) = self.job.take() else { return Ok(()) };
        let next = match job {
            Job::Saving { worker: Some(worker), tag, info, files, sequence, copied } => match worker.poll() {
                None => Job::Saving { worker: Some(worker), tag, info, files, sequence, copied },
                Some(result) => self.stored(origin, tag, result, hands)?,
            },
            Job::Saving {
                worker: None,
                copied: true,
                tag,
                info: Some(info),
                files: Some(files),
                sequence,
            } => self.go_on_storing((sequence, tag), info, files)?,
            Job::Fetching { worker } => match worker.poll() {
                None => Job::Fetching { worker },
                Some(Err(why)) => {
                    self.failure = Some(why);
                    Job::Ending
                }
                Some(Ok(fetched)) => match self.hand_to_machine(fetched, hands) {
                    Ok(job) => job,
                    Err(why) => {
                        self.failure = Some(why);
                        Job::Ending
                    }
                },
            },
            Job::Deleting { worker } => match worker.poll() {
                None => Job::Deleting { worker },
                Some(result) => {
                    self.failure = result.err();
                    Job::Ending
                }
            },
            other @ (Job::Saving { worker: None, .. } | Job::Loading { .. } | Job::Ending) => other,
        };
        if matches!(next, Job::Ending) && self.swaps.is_empty() {
            let failure = self.failure.take();
            self.kept.release();
            self.run_on(hands.core)?;
            return self.answer(origin, failure, hands.core);
        }
        self.job = Some((origin, next));
        Ok(())
    }

    /// A snapshot has taken the place of another one.
    fn remove_unneeded_images(&mut self) -> Result<Job, String> {
        self.kept.release();
        let (own, layers) = (self.setup.places.own.clone(), self.disks.all_layers());
        let ours = self.setup.mode == Mode::Record;
        let work = move || work::remove_unneeded_images(&own, layers, ours);
        Ok(Job::Deleting { worker: Worker::<()>::start(Arc::clone(&self.doorbell), work)? })
    }

    fn stored(
        &mut self,
        origin: Origin,
        tag: String,
        result: Result<Stored, String>,
        hands: &mut Hands<'_>,
    ) -> Result<Job, String> {
        self.base = None;
        match result {
            Ok(Stored::Yes { snapshot, replaces }) => {
                self.announce_one(hands.core, &snapshot.info, self.setup.places.own.root())?;
                self.base = Some((snapshot.table, tag.clone()));
                if origin == Origin::Clock {
                    self.made_by_clock.push_back(tag);
                    let count = self.setup.periodic.map_or(usize::MAX, |periodic| periodic.count);
                    if self.made_by_clock.len() > count
                        && let Some(oldest) = self.made_by_clock.pop_front()
                    {
                        self.queue.push_back((Origin::Clock, Request::Delete(oldest)));
                    }
                }
                if replaces {
                    return self.remove_unneeded_images();
                }
            }
            // Saved once more, all of it.
            Ok(Stored::BaseGone) => return self.begin_save(Some(tag), hands.core),
            Err(why) => self.failure = Some(why),
        }
        Ok(Job::Ending)
    }

    /// The snapshot is unpacked: the machine takes it between two instructions.
    fn hand_to_machine(&mut self, fetched: Fetched, hands: &mut Hands<'_>) -> Result<Job, String> {
        let Fetched { store, snapshot, files } = fetched;
        let targets = self.check_disks(&snapshot.info.disks, store.root())?;
        self.stand_still(hands.core)?;
        let sequence = hands.send_state(&files, self.changing_disks())?;
        if self.setup.mode == Mode::Record {
            let info = &snapshot.info;
            let known = info.place.clone().filter(|place| hands.core.knows(place));
            let keeps = known.map_or_else(|| Keeps::Start(info.tag.clone()), Keeps::Until);
            let uuid = uuid::Uuid::new_v4().hyphenated().to_string();
            hands.core.desk.cuts.insert(sequence, Cut { icount: Icount(info.icount), keeps, uuid });
        }
        Ok(Job::Loading { sequence, store, snapshot: Box::new(snapshot), targets })
    }
}
