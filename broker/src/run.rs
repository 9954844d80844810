//! The flows: run, record, replay, verify. Each checks all it can, then starts the tree and waits for its end.

use crate::Programs;
use crate::cli::CliError;
use crate::cli::icount::RecordReplay;
use crate::cli::options::{DeviceExit, Options, ReplayEnd};
use crate::cli::subcommand::RecordWords;
use crate::debugger::{self, Debugger, Place};
use crate::demo::DemoError;
use crate::disk_images;
use crate::host_clock;
use crate::images;
use crate::inspect::InspectError;
use crate::journal::{Journal, JournalError, Plain, Playback, Record};
use crate::launch::back_end;
use crate::launch::plan::Plan;
use crate::launch::signals::Signals;
use crate::launch::terminal::Terminal;
use crate::launch::tree::{self, Tree};
use crate::launch::{HostError, LaunchError};
use crate::logging::{self, LogSettings};
use crate::machine;
use crate::monitor_port::MonitorPort;
use crate::pidfile::PidFile;
use crate::sequence::Sequence;
use crate::sequence::core::{Core, Facts};
use crate::sequence::ending::End;
use crate::sequence::relog::Relog;
use crate::sequence::swap::Swapper;
use crate::snapshots::disks::{Disks, tops_of_start};
use crate::snapshots::kept::KeptDisks;
use crate::snapshots::kept_file;
use crate::snapshots::places::{Places, Setup};
use crate::snapshots::replayed;
use crate::snapshots::{Keeper, check_fits};
use crate::streams::Stream;
use crate::wiring::Wiring;
use replay::difference::compare_image;
use replay::event::Event;
use replay::log::{Ending, Step};
use replay::machine::Machine;
use replay::manifest::{self, DiskIdentity, FORMAT, Manifest};
use replay::recording::{self, Prepared, Recording, RecordingError, Replace};
use replay::setup::Mode;
use replay::store::Store;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

/// Instructions between two digests of a recording.
pub const DIGEST_INTERVAL: u64 = 10_000_000;

/// Why a run did not come to be.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The command line cannot be obeyed.
    #[error(transparent)]
    Cli(#[from] CliError),
    /// The recording cannot be made or used.
    #[error(transparent)]
    Recording(#[from] RecordingError),
    /// The recording cannot be shown.
    #[error(transparent)]
    Inspect(#[from] InspectError),
    /// The demo did not succeed.
    #[error(transparent)]
    Demo(#[from] DemoError),
    /// The journal cannot be begun.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The host refused something.
    #[error(transparent)]
    Host(#[from] HostError),
    /// A layer cannot be merged, or a network's packets cannot be exported.
    #[error("{0}")]
    Tool(String),
    /// The tree could not be started.
    #[error(transparent)]
    Launch(#[from] LaunchError),
}

/// How many digests a recording's log holds, as far as it can be read.
pub fn count_digests(recording: &Recording) -> Result<u64, RecordingError> {
    let mut reader = recording.open_log()?;
    let mut count = 0;
    while let Ok(Step::Event(entry)) = reader.next() {
        count += u64::from(matches!(entry.stamped.event, Event::Digest { .. }));
    }
    Ok(count)
}

/// Runs, records or replays what a command line in QEMU's grammar describes.
pub fn command_line(options: &Options, arguments: &[String], programs: &Programs) -> Result<End, RunError> {
    match &options.icount.record_replay {
        None => new_run(options, None, arguments, programs),
        Some(rr) if rr.record => {
            let target = Target { rr, replace: Replace::Yes, digest_interval: DIGEST_INTERVAL };
            new_run(options, Some(target), arguments, programs)
        }
        Some(rr) => replay(options, &rr.file, rr.snapshot.as_deref(), false),
    }
}

/// `reprise record -o DIR …`.
pub fn record(
    words: &RecordWords,
    options: &Options,
    arguments: &[String],
    programs: &Programs,
) -> Result<End, RunError> {
    let rr = RecordReplay { record: true, file: words.output.clone(), snapshot: None, periodic: None };
    if !words.force && Recording::open(&rr.file).is_ok() {
        return Err(RecordingError::Exists(rr.file).into());
    }
    let replace = if words.force { Replace::Yes } else { Replace::No };
    let target = Target { rr: &rr, replace, digest_interval: words.digest_interval };
    new_run(options, Some(target), arguments, programs)
}

/// Where a run is recorded, and how.
#[derive(Clone, Copy)]
struct Target<'a> {
    rr: &'a RecordReplay,
    replace: Replace,
    digest_interval: u64,
}

/// A machine that is made new; recorded if there is a target.
fn new_run(
    options: &Options,
    target: Option<Target<'_>>,
    arguments: &[String],
    programs: &Programs,
) -> Result<End, RunError> {
    if options.replay_end.is_some() {
        return Err(CliError("-action replay-end= is of use to a replay only".to_owned()).into());
    }
    let time = host_clock::now();
    let mut wiring = Wiring::of_new(options)?;
    let mut machine = machine::new_machine(options, &wiring, time)?;
    (programs.check_cpu)(&machine.cpu).map_err(|why| CliError(format!("-cpu: {why}")))?;
    if target.is_some() {
        machine::check_recordable(&machine)?;
    }
    images::check(&machine)?;
    let (disks, warnings) = disk_images::identify_all(&mut machine)?;
    wiring.warnings.extend(warnings);
    let manifest = target.map(|target| manifest(&machine, disks, target, time.utc, arguments)).transpose()?;
    let mode = if target.is_some() { Mode::Record } else { Mode::Plain };
    let facts = facts(options, &machine, target.map(|target| (target.rr, time.utc)), &wiring);
    let prepared = target.map(|target| Prepared::new(&target.rr.file, target.replace)).transpose()?;
    warn(options, &wiring);
    if let Some(tag) = &options.loadvm {
        check_start(options, tag, &machine)?;
    }
    let layered = prepared.as_ref().filter(|_| back_end::has_layers(&machine));
    let plan = Plan {
        layers: layered.map(Prepared::make_disks).transpose()?,
        awaits_state: options.loadvm.is_some(),
        ..plan(machine, wiring, mode, options, target.map_or(0, |target| target.digest_interval))?
    };
    let panic_action = plan.machine.panic_action;
    let end = run(plan, options, facts, &mut |_| {}, || {
        let Some((prepared, manifest)) = prepared.zip(manifest) else { return Ok(Box::new(Plain)) };
        // Only now, when everything can start, may a recording be replaced.
        Ok(Box::new(Record::create(prepared.create(manifest)?)?))
    })?;
    Ok(end.under(panic_action))
}

/// Finds out whether a machine can start from a snapshot, before anything is replaced.
fn check_start(options: &Options, tag: &str, machine: &Machine) -> Result<(), RunError> {
    let places = Places::of_start(options.snapshot_directory.as_deref())?;
    let found = places.find(tag).map_err(|error| CliError(format!("-loadvm: {error}")))?;
    let Some((_, snapshot)) = found else {
        let place = places.own.root().display();
        return Err(CliError(format!("-loadvm: there is no snapshot '{tag}' in '{place}' (-snapdir)")).into());
    };
    check_fits(&snapshot.info, machine).map_err(|why| CliError(format!("-loadvm: {why}")).into())
}

/// Lets a replay begin where its recording began: at a snapshot in it.
fn begin_at_start(plan: &mut Plan, path: &Path, manifest: &Manifest) -> Result<(), RunError> {
    let Some(tag) = &manifest.start_snapshot else { return Ok(()) };
    let store = Store::new(&std::path::absolute(path).unwrap_or_else(|_| path.to_owned()));
    let cannot = |why: String| RunError::Tool(format!("{}: its start: {why}", path.display()));
    let found = store.read(tag).map_err(|error| cannot(error.to_string()))?;
    let snapshot = found.ok_or_else(|| cannot(format!("there is no snapshot '{tag}'")))?;
    check_fits(&snapshot.info, &plan.machine).map_err(cannot)?;
    plan.tops = tops_of_start(plan, &snapshot.info.disks, store.root());
    plan.awaits_state = true;
    Ok(())
}

/// Lets the disks of a replay write to layers beside its snapshots, which keep them then.
fn keep_disks(plan: &mut Plan, path: &Path, given: Option<&Path>) -> Result<(), RunError> {
    let places = Places::of(Mode::Replay, Some(path), given)?;
    match replayed::begin(plan, &places.own) {
        Ok(layers) => plan.replayed = layers,
        Err(why) => eprintln!("reprise: warning: {why}; snapshots of this replay keep no disks"),
    }
    Ok(())
}

fn manifest(
    machine: &Machine,
    disks: Vec<DiskIdentity>,
    target: Target<'_>,
    created_unix_s: i64,
    arguments: &[String],
) -> Result<Manifest, CliError> {
    let identify =
        |option, path: &Option<_>| path.as_deref().map(|path| images::identify(option, path)).transpose();
    Ok(Manifest {
        format: FORMAT,
        build: manifest::build(),
        uuid: uuid::Uuid::new_v4().hyphenated().to_string(),
        created_unix_s,
        machine: machine.clone(),
        command_line: arguments.to_vec(),
        kernel: identify("-kernel", &machine.boot.kernel)?,
        initrd: identify("-initrd", &machine.boot.initrd)?,
        disks,
        snapshot_tag: target.rr.snapshot.clone(),
        start_snapshot: None,
        ancestors: Vec::new(),
        host_cpu_vendor: host_cpu_vendor(),
        digest_interval: target.digest_interval,
    })
}

/// Vendor string of the host CPU; empty if the host does not tell.
fn host_cpu_vendor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("vendor_id"));
    line.and_then(|line| line.split_once(':')).map(|(_, vendor)| vendor.trim().to_owned()).unwrap_or_default()
}

/// Replays a recording; `show` sends the first serial port to stdout when nothing else is said.
pub fn replay(options: &Options, path: &Path, snapshot: Option<&str>, show: bool) -> Result<End, RunError> {
    let recording = Recording::open(path)?;
    let manifest = recording.manifest().clone();
    if let (Some(asked), recorded) = (snapshot, &manifest.snapshot_tag)
        && recorded.as_deref() != Some(asked)
    {
        let has = recorded.as_deref().unwrap_or("none");
        return Err(CliError(format!("rrsnapshot={asked}: the recording's snapshot is {has}")).into());
    }
    let wiring = Wiring::of_replay(options, &manifest.machine, show)?;
    let machine = recorded_machine(options, &wiring, &manifest)?;
    let journal = Playback::open(recording)?;
    let rr = RecordReplay {
        record: false,
        file: path.to_owned(),
        snapshot: manifest.snapshot_tag.clone(),
        periodic: None,
    };
    let facts = facts(options, &machine, Some((&rr, manifest.created_unix_s)), &wiring);
    warn(options, &wiring);
    warn_of_build(path, &manifest);
    let mut plan = plan(machine, wiring, Mode::Replay, options, manifest.digest_interval)?;
    begin_at_start(&mut plan, path, &manifest)?;
    if options.snapshot_directory.is_some()
        || options.icount.record_replay.as_ref().is_some_and(|rr| rr.periodic.is_some())
    {
        keep_disks(&mut plan, path, options.snapshot_directory.as_deref())?;
    }
    run(plan, options, facts, &mut |_| {}, || Ok(Box::new(journal)))
}

/// What a silent replay found.
#[derive(Debug)]
pub struct Verified {
    /// How the replay ended.
    pub end: End,
    /// Instructions that were replayed.
    pub icount: u64,
    /// Digests in the log; all were compared if the end was reached.
    pub digests: u64,
    /// How the log ends.
    pub ending: Ending,
}

/// Replays a recording without any output; `progress` is told the icount, and that of the end of the log. `captures`
/// opens files for packets of the network functions.
pub fn replay_silently(
    path: &Path,
    captures: impl FnOnce(&Machine) -> Result<Vec<(u16, File)>, RunError>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Verified, RunError> {
    let recording = Recording::open(path)?;
    let manifest = recording.manifest().clone();
    let options = Options::default();
    let wiring = Wiring::silent(&manifest.machine);
    let machine = recorded_machine(&options, &wiring, &manifest)?;
    let digests = count_digests(&recording)?;
    let journal = Playback::open(recording)?;
    let ending = journal.ending().clone();
    let last = match &ending {
        Ending::Finished { icount } => icount.0,
        Ending::Cut { last_icount, .. } => last_icount.0,
        Ending::Damaged(damage) => damage.from.0,
    };
    let mut reached = 0;
    warn_of_build(path, &manifest);
    let captures = captures(&machine)?;
    let mut plan = plan(machine, wiring, Mode::Replay, &options, manifest.digest_interval)?;
    begin_at_start(&mut plan, path, &manifest)?;
    let end = run(
        Plan { captures, ..plan },
        &options,
        Facts::default(),
        &mut |icount| {
            reached = icount;
            progress(icount, last);
        },
        || Ok(Box::new(journal)),
    )?;
    let icount = if end == End::Replayed { last } else { reached };
    Ok(Verified { end, icount, digests, ending })
}

fn plan(
    machine: Machine,
    wiring: Wiring,
    mode: Mode,
    options: &Options,
    digest_interval: u64,
) -> Result<Plan, HostError> {
    let Wiring { streams, limits, servers, .. } = wiring;
    Ok(Plan {
        machine,
        streams,
        mode,
        start_paused: options.start_paused,
        digest_interval,
        log: log_settings(options)?,
        layers: None,
        replayed: None,
        tops: BTreeMap::new(),
        upkeep: BTreeMap::new(),
        saves_first: mode == Mode::Record
            && options.icount.record_replay.as_ref().is_some_and(|rr| rr.snapshot.is_some()),
        awaits_state: false,
        seeks: options.loadvm.is_some(),
        restarts_disks: options.on_device_exit == DeviceExit::Pause,
        running: false,
        limits,
        servers,
        debugger: None,
        captures: Vec::new(),
    })
}

fn log_settings(options: &Options) -> Result<LogSettings, HostError> {
    LogSettings::new(options.log_filter.as_deref(), options.log_file.as_deref())
}

/// The recorded machine, after comparing what was given with what was recorded.
fn recorded_machine(options: &Options, wiring: &Wiring, manifest: &Manifest) -> Result<Machine, CliError> {
    let mut machine = machine::over_recorded(options, wiring, &manifest.machine)?;
    machine::check_against(&manifest.machine, &machine)?;
    disk_images::check_all(&mut machine, &manifest.disks)?;
    for (option, path, recorded) in [
        ("-kernel", &machine.boot.kernel, &manifest.kernel),
        ("-initrd", &machine.boot.initrd, &manifest.initrd),
    ] {
        let given = path.as_deref().map(|path| images::identify(option, path)).transpose()?;
        if let Some(difference) = compare_image(option, recorded.as_ref(), given.as_ref()) {
            return Err(CliError(format!("the recording is of another machine: {difference}")));
        }
    }
    Ok(machine)
}

fn facts(options: &Options, machine: &Machine, rr: Option<(&RecordReplay, i64)>, wiring: &Wiring) -> Facts {
    let tag = |(rr, unix_s): (&RecordReplay, i64)| rr.snapshot.clone().map(|tag| (tag, unix_s));
    Facts {
        name: options.name.clone(),
        uuid: machine.uuid.clone(),
        recording: rr.map(|(rr, _)| rr.file.display().to_string()).unwrap_or_default(),
        start_snapshot: rr.and_then(tag),
        machine: Some(machine.clone()),
        pauses_at_end: options.replay_end == Some(ReplayEnd::Pause),
        chardevs: wiring
            .streams
            .iter()
            .map(|Stream { chardev, .. }| (chardev.id.clone(), chardev.filename()))
            .collect(),
        vcpu_pid: 0,
    }
}

fn warn(options: &Options, wiring: &Wiring) {
    for warning in options.warnings.iter().chain(&wiring.warnings) {
        eprintln!("reprise: warning: {warning}");
    }
}

fn warn_of_build(path: &Path, manifest: &Manifest) {
    if let Some(warning) = manifest.build_warning() {
        eprintln!("reprise: warning: {}: {warning}", path.display());
    }
}

/// Starts the tree and waits for the end. `journal` is made when everything else is ready.
fn run(
    mut plan: Plan,
    options: &Options,
    mut facts: Facts,
    progress: &mut dyn FnMut(u64),
    journal: impl FnOnce() -> Result<Box<dyn Journal>, RunError>,
) -> Result<End, RunError> {
    logging::init(&plan.log);
    let stores = Places::of_start(options.snapshot_directory.as_deref())?;
    let begun = kept_file::begin(&plan, stores.own.root()).map_err(CliError)?;
    begun.notes.iter().for_each(|note| eprintln!("reprise: {note}"));
    plan.upkeep = begun.upkeep;
    let _pidfile = options.pidfile.as_deref().map(PidFile::create).transpose()?;
    let place = expect_debugger(&mut plan, options)?;
    let terminal = Terminal::save();
    let signals = Signals::block()?;
    let result = start(&plan, &signals, journal).map(|(tree, journal)| {
        let Tree { lane, doorbell, calls, monitors, children, pids, control, foreign, .. } = tree;
        // The disks of a recording have become part of it.
        plan.layers = plan.layers.take().and(journal.recording().map(recording::disks_path));
        plan.captures.clear();
        plan.debugger = None;
        plan.running = true;
        let setup = snapshot_setup(&plan, options, journal.as_ref())?;
        let root = setup.places.own.root();
        let disks = (Disks::of(&plan, root), KeptDisks::of(&plan, root));
        let start_paused = plan.start_paused;
        let runs_after_save = plan.saves_first && !start_paused;
        facts.vcpu_pid = children.vcpu().map_or(0, |vcpu| vcpu.pid());
        let monitors = monitors.into_iter().map(|tree::MonitorLink { socket, stream }| {
            MonitorPort::new(socket, &stream.chardev, stream.language, stream.device.is_some())
        });
        let monitors = monitors.collect();
        let doorbell = Arc::new(doorbell);
        let debugger = Debugger::new(control.try_clone().ok(), place);
        let mut core = Core::new(lane, journal, facts, start_paused).with_debugger(debugger);
        core.desk.places = Some(setup.places.clone());
        let keeper = Keeper::new(setup, disks, Arc::clone(&doorbell), runs_after_save);
        let swapper = Swapper::new(plan, control, pids, foreign);
        let on_device_exit = options.on_device_exit;
        let (signals, relog) = (&signals, Relog::default());
        let mut sequence = Sequence {
            core,
            doorbell,
            calls,
            monitors,
            children,
            swapper,
            keeper,
            relog,
            on_device_exit,
            signals,
        };
        let end = sequence.run(progress);
        sequence.keeper.leave();
        Ok(end)
    });
    let result = result.and_then(|end| end);
    terminal.restore();
    match result {
        // The child has said why.
        Err(RunError::Launch(LaunchError::Child { said_why: true, .. })) => Ok(End::FailedAndSaid),
        Err(RunError::Launch(LaunchError::Signal(signal))) => {
            Ok(End::Shutdown(replay::event::ShutdownCause::HostSignal { signal }))
        }
        other => other,
    }
}

/// Listens where a debugger is expected; the socket's place in the file system.
fn expect_debugger(plan: &mut Plan, options: &Options) -> Result<Place, RunError> {
    let Some(device) = &options.gdb else { return Ok(Place::default()) };
    let listener = debugger::listen(device).map_err(CliError)?;
    plan.debugger = Some(listener.fd);
    if let Some(warning) = listener.warning {
        eprintln!("reprise: {warning}");
    }
    Ok(listener.place)
}

/// Where a run's snapshots are and which of them it begins with.
fn snapshot_setup(plan: &Plan, options: &Options, journal: &dyn Journal) -> Result<Setup, RunError> {
    let mode = journal.mode();
    let rr = options.icount.record_replay.as_ref();
    let start = journal.manifests().into_iter().next().and_then(|manifest| manifest.start_snapshot);
    let given = options.loadvm.clone();
    let is_replay = mode == Mode::Replay;
    Ok(Setup {
        places: Places::of(mode, journal.recording(), options.snapshot_directory.as_deref())?,
        mode,
        machine: plan.machine.clone(),
        load: if is_replay { start } else { given.clone() },
        go_to: given.filter(|_| is_replay).map(|tag| (tag, !plan.start_paused)),
        save: rr.filter(|rr| rr.record).and_then(|rr| rr.snapshot.clone()),
        periodic: rr.and_then(|rr| rr.periodic),
    })
}

fn start(
    plan: &Plan,
    signals: &Signals,
    journal: impl FnOnce() -> Result<Box<dyn Journal>, RunError>,
) -> Result<(Tree, Box<dyn Journal>), RunError> {
    let mut tree = tree::start_devices(plan, signals)?;
    let journal = journal()?;
    tree.start_vcpu(plan)?;
    Ok((tree, journal))
}
