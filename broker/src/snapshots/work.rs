//! What takes long and is done in threads: compressing and writing, reading and unpacking, deleting.

use super::kept_file::{self, Lock};
use super::places::Places;
use nix::sys::eventfd::EventFd;
use replay::difference;
use replay::handover::{Files, Handover};
use replay::machine::Machine;
use replay::manifest::{self, Manifest};
use replay::store::{Info, NewPages, PageTable, Snapshot, Store, StoreError};
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::thread;

/// A piece of work in a thread.
#[derive(Debug)]
pub struct Worker<T> {
    result: Receiver<T>,
}

impl<T: Send + 'static> Worker<T> {
    /// Begins; `doorbell` is rung at the end.
    pub fn start(
        doorbell: Arc<EventFd>,
        work: impl FnOnce() -> Result<T, String> + Send + 'static,
    ) -> Result<Worker<Result<T, String>>, String> {
        let (send, result) = mpsc::channel();
        let run = move || {
            // Nobody may want it any more.
            let _ = send.send(work());
            let _ = doorbell.write(1);
        };
        let started = thread::Builder::new().name("snapshots".into()).spawn(run);
        started.map(|_| Worker { result }).map_err(|error| format!("cannot start a thread: {error}"))
    }
}

impl<T> Worker<Result<T, String>> {
    /// The result when it is there.
    pub fn poll(&self) -> Option<Result<T, String>> {
        match self.result.try_recv() {
            Ok(result) => Some(result),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Err("the thread for snapshots ended early".into())),
        }
    }
}

/// A snapshot that was stored, or that must be saved whole because what it builds on is gone.
#[derive(Debug)]
pub enum Stored {
    /// It is on disk.
    Yes {
        /// As it is there.
        snapshot: Box<Snapshot>,
        /// There was another one with its name.
        replaces: bool,
    },
    /// Pages of the one before it are gone.
    BaseGone,
}

/// Stores a state whose pages are all there.
pub fn store(store: &Store, info: Info, base: PageTable, mut files: Files) -> Result<Stored, String> {
    let (handover, state) = files.read()?;
    let base = if handover.is_partial { base } else { PageTable::new() };
    let pages = NewPages { base, numbers: &handover.pages, contents: &files.pages };
    let replaces = store.holds(&info.tag);
    match store.save(info, state, pages) {
        Ok(snapshot) => Ok(Stored::Yes { snapshot: Box::new(snapshot), replaces }),
        Err(StoreError::BaseGone(_)) => Ok(Stored::BaseGone),
        Err(error) => Err(error.to_string()),
    }
}

/// Removes images of disks that no snapshot in a store needs, nor the run (`layers`). `ours`: all there are belong to this run.
pub fn remove_unneeded_images(store: &Store, layers: Vec<PathBuf>, ours: bool) -> Result<(), String> {
    let directory = store.root().join(kept_file::DIRECTORY);
    // Before it is looked at who needs what: nobody stores a snapshot from here on.
    let Some(lock) = Lock::exclusive(&directory) else { return Ok(()) };
    let (snapshots, unreadable) = store.list().map_err(|error| error.to_string())?;
    if !unreadable.is_empty() {
        // Nobody knows what it needs.
        return Ok(());
    }
    let of_disks = snapshots.iter().flat_map(|info| &info.disks);
    let of_disks = of_disks.flat_map(|disk| disk.layers.iter().chain(&disk.replayed));
    let mut needed = layers;
    needed.extend(of_disks.flatten().map(|layer| store.root().join(layer)));
    kept_file::remove_unneeded(&lock, &directory, &needed, ours)
}

/// A snapshot that is ready to be handed to the vCPU process.
#[derive(Debug)]
pub struct Fetched {
    /// Where it is.
    pub store: Store,
    /// The snapshot.
    pub snapshot: Snapshot,
    /// Its state and pages.
    pub files: Files,
}

/// Reads a snapshot for a machine. A recording whose manifests (its own, and those of what was cut off it) do not pass the
/// snapshot's place gets a copy of the snapshot, to start from. `events`: how many events a replay has applied there.
pub fn fetch(
    places: &Places,
    tag: &str,
    machine: &Machine,
    recorded: Option<&[Manifest]>,
    events: Option<u64>,
) -> Result<Fetched, String> {
    let found = places.find(tag).map_err(|error| format!("snapshot '{tag}': {error}"))?;
    let (store, snapshot) = found.ok_or_else(|| missing(tag))?;
    check_fits(&snapshot.info, machine)?;
    let files = unpack(&store, &snapshot, events)?;
    let passes =
        |manifest: &Manifest| snapshot.info.place.as_ref().is_some_and(|place| manifest.passes(place));
    if let Some(recorded) = recorded
        && !recorded.iter().any(passes)
        && store != places.own
    {
        let mut info = snapshot.info.clone();
        for disk in &mut info.disks {
            if let Some(layers) = &mut disk.layers {
                *layers = kept_file::bring(store.root(), layers, places.own.root())?;
            }
        }
        let numbers = files.numbers.clone();
        let pages = NewPages { base: PageTable::new(), numbers: &numbers, contents: &files.files.pages };
        let saved = places.own.save(info, snapshot.state.clone(), pages);
        let snapshot = saved.map_err(|error| error.to_string())?;
        return Ok(Fetched { store: places.own.clone(), snapshot, files: files.files });
    }
    Ok(Fetched { store, snapshot, files: files.files })
}

/// QEMU's words.
pub fn missing(tag: &str) -> String {
    format!("Snapshot '{tag}' does not exist in one or more devices")
}

/// Files, and numbers of the pages in them.
struct Unpacked {
    files: Files,
    numbers: Vec<u64>,
}

fn handover_of(snapshot: &Snapshot, events: Option<u64>) -> Handover {
    Handover {
        icount: snapshot.info.icount,
        vtime_ns: snapshot.info.vtime_ns,
        events,
        is_partial: false,
        pages: vec![],
    }
}

/// State and pages of a snapshot.
fn unpack(store: &Store, snapshot: &Snapshot, events: Option<u64>) -> Result<Unpacked, String> {
    let host = |error: std::io::Error| format!("cannot unpack snapshot '{}': {error}", snapshot.info.tag);
    // The numbers come first, in the order in which the pages are read.
    let mut numbers = Vec::with_capacity(snapshot.table.len());
    let empty = Files::new(&handover_of(snapshot, events), &[]).map_err(host)?;
    let mut pages = BufWriter::with_capacity(1 << 20, empty.pages);
    store
        .read_pages(snapshot, &mut |number, page| {
            numbers.push(number);
            pages.write_all(page)
        })
        .map_err(|error| error.to_string())?;
    let pages = pages.into_inner().map_err(|error| host(error.into_error()))?;
    let handover = Handover { pages: numbers, ..handover_of(snapshot, events) };
    let files = Files::new(&handover, &snapshot.state).map_err(host)?;
    Ok(Unpacked { files: Files { state: files.state, pages }, numbers: handover.pages })
}

/// Whether a snapshot can be of this machine; the error names what differs.
pub fn check_fits(info: &Info, machine: &Machine) -> Result<(), String> {
    let tag = &info.tag;
    if info.build != manifest::build() {
        return Err(format!(
            "snapshot '{tag}' was made by reprise {}, this is {}: its state is of no use here",
            info.build,
            manifest::build()
        ));
    }
    // The date at power-on and where images lie are not the state's.
    let mut given = machine.clone();
    given.clock.rtc_base = info.machine.clock.rtc_base;
    given.clock.host_offset_s = info.machine.clock.host_offset_s;
    let differences = difference::compare(&info.machine, &given);
    if differences.is_empty() {
        return Ok(());
    }
    let words: Vec<String> = differences.iter().map(ToString::to_string).collect();
    Err(format!("snapshot '{tag}' is of another machine: {}", words.join("; ")))
}
