//! On which layer each disk of a recording goes on.
//!
//! A save freezes the layer that the guest wrote to; the disk goes on in a new one over it. A load lets it go on in a new one over
//! what the snapshot froze. So layers form a tree, and the way from a disk's present layer down to its image is its chain.
//! `disks/chains.json` says which layer that is, for `reprise commit`. Long chains are made shorter (`merging`).

use crate::disk_images;
use crate::launch::plan::{Plan, Replayed, Top};
use replay::device::{DeviceKind, IMAGES_MAX, Image};
use replay::setup::Mode;
use replay::store::DiskState;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Which layer each disk is at: names of files beside this one, by device.
pub const CHAINS: &str = "chains.json";

/// Most layers of a disk: fewer than the images that its process opens, because there may be some below them.
const LAYERS_MAX: usize = IMAGES_MAX - 64;

/// Where the disks of a replay begin, by device; none: at the image that they had at power-on.
pub type Tops = Vec<(u16, Option<Top>)>;

/// One disk's chain.
#[derive(Clone, Debug)]
struct Chain {
    id: String,
    /// Layers from the top down.
    layers: Vec<PathBuf>,
    image: PathBuf,
    format: String,
}

impl Chain {
    /// Some of the layers may have been merged since they were written down: the headers tell which are left.
    fn leave_out_merged(&mut self) -> Result<(), String> {
        let Some(top) = self.layers.first().cloned() else { return Ok(()) };
        let identity = |path: &Path| fs::canonicalize(path).ok();
        let listed: Vec<_> = self.layers.iter().map(|layer| identity(layer)).collect();
        let found = disk_images::identify(&self.id, &top, Some("qcow2")).map_err(|error| error.0)?;
        let (mut path, mut left) = (top.clone(), vec![top]);
        for name in found.backing {
            path = disk_images::beside(&path, &name);
            let this = identity(&path);
            match listed.iter().position(|listed| *listed == this) {
                Some(at) => left.push(self.layers[at].clone()),
                None if this == identity(&self.image) => break,
                // Nobody knows what this is: better to need too many.
                None => return Ok(()),
            }
        }
        self.layers = left;
        Ok(())
    }
}

/// The chains of all disks that the guest can write to.
#[derive(Clone, Debug, Default)]
pub struct Disks {
    chains: BTreeMap<u16, Chain>,
    /// The store, to which names of layers are relative.
    root: PathBuf,
    /// Where layers are.
    directory: PathBuf,
    is_replay: bool,
    /// In names of layers, in a replay that keeps some; and the number of the next one.
    run: Option<(String, u32)>,
}

impl Disks {
    /// The disks of a run whose snapshots are in `root`.
    pub fn of(plan: &Plan, root: &Path) -> Disks {
        let mut disks = Disks { root: root.into(), is_replay: plan.mode == Mode::Replay, ..Disks::default() };
        if let Some(Replayed { directory, run, .. }) = &plan.replayed {
            // The first ones are there.
            (disks.directory, disks.run) = (directory.clone(), Some((run.clone(), 2)));
        }
        if let Some(directory) = &plan.layers {
            disks.directory = std::path::absolute(directory).unwrap_or_else(|_| directory.clone());
        }
        for (index, device) in plan.machine.devices.iter().enumerate() {
            let DeviceKind::Block(disk) = &device.kind else { continue };
            let id = device.id.clone();
            match (&disk.image, &plan.layers) {
                (Image::Null { .. }, _) => {}
                _ if disk.read_only => {}
                (Image::File { path, format }, Some(_)) => {
                    let layers = vec![disks.directory.join(format!("{id}.qcow2"))];
                    let format = format.clone().unwrap_or_else(|| "raw".to_owned());
                    disks.chains.insert(index as u16, Chain { id, layers, image: path.clone(), format });
                }
                (Image::File { path, format }, None) if disks.is_replay => {
                    let top = plan.tops.get(&(index as u16));
                    // Over a snapshot, if it starts from one.
                    let (image, format) = match top {
                        Some(Top { image, format, .. }) => (image.clone(), format.clone()),
                        None => (path.clone(), format.clone().unwrap_or_default()),
                    };
                    let layers = top.and_then(|top| top.layer.clone()).into_iter().collect();
                    disks.chains.insert(index as u16, Chain { id, layers, image, format });
                }
                (Image::Memory { .. }, _) if disks.is_replay => {
                    let chain = Chain { id, layers: vec![], image: PathBuf::new(), format: String::new() };
                    disks.chains.insert(index as u16, chain);
                }
                // `kept` has them.
                (Image::File { .. }, None) | (Image::Memory { .. }, _) => {}
            }
        }
        disks
    }

    /// Whether disks get other back-ends at a load. In a replay that is `travel`.
    pub fn change(&self) -> bool {
        !self.is_replay && !self.chains.is_empty()
    }

    /// Those disks.
    pub fn changing(&self) -> Vec<u16> {
        if self.change() { self.chains.keys().copied().collect() } else { vec![] }
    }

    /// Whether layers are frozen by a save.
    fn are_layered(&self) -> bool {
        !self.is_replay || self.run.is_some() && self.chains.values().all(|chain| !chain.layers.is_empty())
    }

    /// Disks that get other back-ends at a save.
    pub fn freezing(&self) -> Vec<u16> {
        let full = self.is_replay && self.are_full();
        if self.are_layered() && !full { self.chains.keys().copied().collect() } else { vec![] }
    }

    /// The devices.
    pub fn devices(&self) -> Vec<u16> {
        self.chains.keys().copied().collect()
    }

    /// In a replay: as they are at its start.
    pub fn at_start(&self) -> Disks {
        let mut there = self.clone();
        there.chains.values_mut().for_each(|chain| chain.layers.clear());
        there
    }

    /// In a replay: as they are at a snapshot in the store at `root`. The error is a line for the user.
    pub fn at(&self, states: &[DiskState], root: &Path) -> Result<Disks, String> {
        let mut there = self.clone();
        if self.is_replay {
            there.take_over(states, root)?;
        }
        Ok(there)
    }

    /// In a replay: lets the disks begin as they are `there`; with which images.
    pub fn begin(&mut self, there: Disks) -> Tops {
        if !self.is_replay {
            return vec![];
        }
        let left = if self.are_layered() { self.present() } else { vec![] };
        let is_layered = self.are_layered();
        let run = self.run.take();
        *self = Disks { run, ..there };
        // Its own process has it open until it has ended.
        left.iter().for_each(|layer| drop(fs::remove_file(layer)));
        if is_layered {
            return self.new_layers().into_iter().map(|(device, top)| (device, Some(top))).collect();
        }
        let top = |chain: &Chain| match chain.layers.first() {
            Some(image) => Some(Top { image: image.clone(), format: "qcow2".into(), layer: None }),
            None if chain.image == Path::new("") => None,
            None => Some(Top { image: chain.image.clone(), format: chain.format.clone(), layer: None }),
        };
        self.chains.iter().map(|(device, chain)| (*device, top(chain))).collect()
    }

    /// In a replay: removes what no snapshot names.
    pub fn remove_present(&self) {
        if self.is_replay && self.are_layered() {
            self.present().iter().for_each(|layer| drop(fs::remove_file(layer)));
        }
    }

    /// What the disks hold now, as a snapshot says it.
    pub fn states(&self) -> Vec<DiskState> {
        let name = |path: &PathBuf| path.strip_prefix(&self.root).unwrap_or(path).display().to_string();
        let state = |chain: &Chain| {
            let layers = self.are_layered().then(|| chain.layers.iter().map(name).collect());
            let (layers, replayed) = if self.is_replay { (None, layers) } else { (layers, None) };
            DiskState { id: chain.id.clone(), layers, replayed }
        };
        self.chains.values().map(state).collect()
    }

    /// Takes over the layers of a snapshot in the store at `root`. Nothing changes if one is not to be had.
    pub fn take_over(&mut self, states: &[DiskState], root: &Path) -> Result<(), String> {
        let mut chains = self.chains.clone();
        for chain in chains.values_mut() {
            let state = states.iter().find(|state| state.id == chain.id);
            let state =
                state.ok_or_else(|| format!("drive '{}': the snapshot has no such disk", chain.id))?;
            let replayed = state.replayed.as_ref().filter(|_| self.is_replay);
            let layers = state.layers.as_ref().or(replayed).ok_or_else(|| {
                format!("drive '{}': the snapshot was made in a replay, which keeps no disks", chain.id)
            })?;
            chain.layers = layers.iter().map(|layer| root.join(layer)).collect();
            if let Some(missing) = chain.layers.iter().find(|layer| !layer.exists()) {
                return Err(format!("drive '{}': its layer '{}' is gone", chain.id, missing.display()));
            }
            chain.leave_out_merged()?;
        }
        self.chains = chains;
        Ok(())
    }

    /// Whether a disk cannot get one more layer before some are merged: its process could not open them all.
    pub fn are_full(&self) -> bool {
        self.depth() >= LAYERS_MAX
    }

    /// Layers of the disk that has most.
    pub fn depth(&self) -> usize {
        self.chains.values().map(|chain| chain.layers.len()).max().unwrap_or(0)
    }

    /// The disk that has most layers, and those that are not written to any more, from the top down.
    pub fn longest(&self) -> Option<(u16, &[PathBuf])> {
        let (device, chain) = self.chains.iter().max_by_key(|(_, chain)| chain.layers.len())?;
        Some((*device, chain.layers.get(1..)?))
    }

    /// The first of some layers of a disk holds now what they all do.
    pub fn were_merged(&mut self, device: u16, layers: &[PathBuf]) {
        let Some(chain) = self.chains.get_mut(&device) else { return };
        // A load may have put the disk on other layers meanwhile.
        if let Some(at) = chain.layers.windows(layers.len()).position(|window| window == layers) {
            chain.layers.drain(at + 1..at + layers.len());
        }
    }

    /// All layers of all disks.
    pub fn all_layers(&self) -> Vec<PathBuf> {
        self.chains.values().flat_map(|chain| chain.layers.iter().cloned()).collect()
    }

    /// The layers to which the guest writes now: no snapshot has them, because a save freezes a layer before it names it.
    pub fn present(&self) -> Vec<PathBuf> {
        self.chains.values().filter_map(|chain| chain.layers.first().cloned()).collect()
    }

    /// For each disk, a new layer over its chain.
    pub fn new_layers(&mut self) -> Vec<(u16, Top)> {
        let (directory, run) = (self.directory.clone(), &mut self.run);
        let new = |(index, chain): (&u16, &mut Chain)| {
            let name = |number: u32| match run {
                Some((run, next)) => {
                    *next += 1;
                    directory.join(format!("{}.{run}.{}.qcow2", chain.id, *next - 1))
                }
                None => directory.join(format!("{}.{number}.qcow2", chain.id)),
            };
            let layer = (1..).map(name).find(|path| !path.exists()).unwrap_or_default();
            let (image, format) = match chain.layers.first() {
                Some(top) => (top.clone(), "qcow2".to_owned()),
                None => (chain.image.clone(), chain.format.clone()),
            };
            chain.layers.insert(0, layer.clone());
            (*index, Top { image, format, layer: Some(layer) })
        };
        self.chains.iter_mut().map(new).collect()
    }

    /// Writes down at which layer each disk is.
    pub fn write_down(&self) -> Result<(), String> {
        if self.is_replay {
            return Ok(());
        }
        let name = |chain: &Chain| {
            let file = chain.layers.first().and_then(|layer| layer.file_name());
            (chain.id.clone(), file.unwrap_or_default().to_string_lossy().into_owned())
        };
        let names: BTreeMap<String, String> = self.chains.values().map(name).collect();
        let place = self.directory.join(CHAINS);
        let new = self.directory.join(format!("{CHAINS}.new"));
        let text = serde_json::to_vec_pretty(&names).map_err(|error| error.to_string())?;
        let written = File::create(&new).and_then(|mut file| {
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&new, &place)
        });
        written.map_err(|error| format!("cannot write {}: {error}", place.display()))
    }
}

/// The layer at which a disk of a recording is; `directory`: its layers.
pub fn present_layer(directory: &Path, id: &str) -> Result<PathBuf, String> {
    let place = directory.join(CHAINS);
    let first = directory.join(format!("{id}.qcow2"));
    let text = match fs::read(&place) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(first),
        Err(error) => return Err(format!("cannot read {}: {error}", place.display())),
        Ok(text) => text,
    };
    let names: BTreeMap<String, String> =
        serde_json::from_slice(&text).map_err(|error| format!("{} is damaged: {error}", place.display()))?;
    match names.get(id) {
        Some(name) if !name.contains('/') && !name.is_empty() => Ok(directory.join(name)),
        Some(name) => Err(format!("{} is damaged: '{name}' is no layer", place.display())),
        None => Ok(first),
    }
}

/// Where the disks of a recording that starts from a snapshot begin.
pub fn tops_of_start(plan: &Plan, states: &[DiskState], root: &Path) -> BTreeMap<u16, Top> {
    let mut tops = BTreeMap::new();
    for (index, device) in plan.machine.devices.iter().enumerate() {
        let state = states.iter().find(|state| state.id == device.id);
        let layer = state.and_then(|state| state.layers.as_ref()?.first());
        if let Some(layer) = layer {
            let top = Top { image: root.join(layer), format: "qcow2".into(), layer: None };
            tops.insert(index as u16, top);
        }
    }
    tops
}

#[cfg(test)]
impl Disks {
    /// One disk with these layers, which need not be there.
    pub fn with_layers(id: &str, layers: Vec<PathBuf>) -> Disks {
        let chain = Chain { id: id.into(), layers, image: PathBuf::new(), format: "raw".into() };
        Disks { chains: BTreeMap::from([(0, chain)]), ..Disks::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merged_layers_leave_the_chain_that_they_are_in() {
        let layers =
            |numbers: &[u32]| numbers.iter().map(|n| PathBuf::from(n.to_string())).collect::<Vec<_>>();
        let mut disks = Disks::with_layers("d0", layers(&[9, 5, 4, 3, 2, 1]));
        assert_eq!(disks.longest(), Some((0, &layers(&[5, 4, 3, 2, 1])[..])));
        disks.were_merged(0, &layers(&[4, 3, 2]));
        assert_eq!(disks.all_layers(), layers(&[9, 5, 4, 1]));
        // Of another future, or of a disk that is not there.
        disks.were_merged(0, &layers(&[5, 3]));
        disks.were_merged(7, &layers(&[5, 4]));
        assert_eq!(disks.all_layers(), layers(&[9, 5, 4, 1]));
    }
}
