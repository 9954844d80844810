//! Copies of disks that are changed meanwhile, against a model in memory.

use super::*;
use crate::block::upkeep::Upkeep;
use replay::clusters::{Changes, touched};
use std::io::Read;
use std::os::unix::fs::FileExt;

/// Bytes of the disks: the last cluster is not whole.
const SIZE: u64 = 41 * CLUSTER + 1536;

/// Numbers that look random (Marsaglia's xorshift).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// A disk as a block process has it, and what must be on it.
struct Model {
    image: Image,
    bytes: Vec<u8>,
    upkeep: Upkeep,
    changes: Option<File>,
    dice: Dice,
}

impl Model {
    fn new(image: Image, seed: u64) -> Model {
        let upkeep = Upkeep::default();
        Model { image, bytes: vec![0; SIZE as usize], upkeep, changes: None, dice: Dice(seed) }
    }

    /// Some sectors get bytes, or become zero.
    fn change(&mut self) {
        let sectors = SIZE / 512;
        let first = self.dice.below(sectors);
        let spread = if self.dice.below(4) == 0 { 700 } else { 20 };
        let count = (1 + self.dice.below(spread)).min(sectors - first);
        let (offset, length) = (first * 512, count * 512);
        let range = offset as usize..(offset + length) as usize;
        self.upkeep.before_change(&mut self.image, offset, length);
        if self.dice.below(3) == 0 {
            self.bytes[range].fill(0);
            self.image.write_zeroes(offset, length, self.dice.below(2) == 0).unwrap();
        } else {
            self.bytes[range.clone()].fill(1 + self.dice.below(255) as u8);
            self.image.write_bytes(&self.bytes[range], offset).unwrap();
        }
    }

    /// Keeps what is there now; the disk is changed meanwhile.
    fn keep(&mut self, place: &Path, over: Option<&Path>) -> Vec<u8> {
        let due = self.changes.take().and_then(|file| ClusterSet::read(&file).unwrap());
        let (mut answer, pipe) = std::io::pipe().unwrap();
        let report = Report::new(File::from(std::os::fd::OwnedFd::from(pipe)));
        let due = due.filter(|_| over.is_some());
        let over = over.filter(|_| due.is_some()).map(Path::to_path_buf);
        let wanted = Wanted { place: place.into(), over, due };
        let kept = self.bytes.clone();
        self.upkeep.keep = Some(Keep::begin(wanted, SIZE, report).unwrap());
        let file = tempfile::tempfile().unwrap();
        ClusterSet::default().write(&file).unwrap();
        self.upkeep.changes = Some(Changes::new(file.try_clone().unwrap()).unwrap());
        self.changes = Some(file);
        while self.upkeep.is_busy() {
            assert!(!place.exists());
            match self.dice.below(3) {
                0 => self.change(),
                _ => self.upkeep.step(&mut self.image),
            }
        }
        let mut text = String::new();
        answer.read_to_string(&mut text).unwrap();
        assert_eq!(text, KEPT);
        kept
    }

    fn check(&mut self) {
        assert!(read(&mut self.image) == self.bytes, "the disk has what was written to it");
    }
}

fn read(image: &mut Image) -> Vec<u8> {
    let mut bytes = vec![0; SIZE as usize];
    image.read_bytes(&mut bytes, 0).unwrap();
    bytes
}

fn read_file(place: &Path) -> Vec<u8> {
    read(&mut open::open(place, Some(Format::Qcow2), Use::Read).unwrap())
}

fn disks(directory: &Path) -> Vec<Image> {
    let raw = directory.join("raw");
    File::create(&raw).unwrap().set_len(SIZE).unwrap();
    let (qcow2, part) = layer::create_part(&directory.join("q"), SIZE, None).unwrap();
    part.persist(directory.join("q")).unwrap();
    let below = open::open_memory(SIZE, None).unwrap();
    let over = layer::create_anonymous(below, &BaseName::of_driver("memory")).unwrap();
    let raw = open::open(&raw, Some(Format::Raw), Use::Write).unwrap();
    vec![open::open_memory(SIZE, None).unwrap(), raw, qcow2, over]
}

#[test]
fn what_is_kept_is_what_was_there_whatever_happens_meanwhile() {
    for (number, seed) in [0x5eed_0001, 0x5eed_0002, 0x5eed_0003].into_iter().enumerate() {
        println!("seed {seed:#x}");
        let directory = tempfile::tempdir().unwrap();
        for (kind, image) in disks(directory.path()).into_iter().enumerate() {
            let mut model = Model::new(image, seed + kind as u64);
            let mut kept: Vec<(PathBuf, Vec<u8>)> = vec![];
            for save in 0..5 {
                for _ in 0..model.dice.below(30) {
                    model.change();
                }
                let place = directory.path().join(format!("d.{number}.{kind}.{save}.qcow2"));
                let over = kept.last().map(|(place, _)| place.clone());
                let bytes = model.keep(&place, over.as_deref());
                kept.push((place, bytes));
                model.check();
            }
            for (place, bytes) in &kept {
                assert!(read_file(place) == *bytes, "{kind} {}", place.display());
            }
            // Back and forth between them, with changes in between.
            let (mut known, mut places) = (kept.last().unwrap().0.clone(), kept.clone());
            for _ in 0..6 {
                let at = model.dice.below(places.len() as u64) as usize;
                let (place, bytes) = places[at].clone();
                let changed = ClusterSet::read(model.changes.as_ref().unwrap()).unwrap().unwrap();
                let source = crate::block::restore::Source {
                    from: place.clone(),
                    mark: None,
                    known: Some((known, changed)),
                };
                crate::block::restore::restore(&mut model.image, None, &source).unwrap();
                model.bytes = bytes;
                model.check();
                let file = tempfile::tempfile().unwrap();
                ClusterSet::default().write(&file).unwrap();
                model.upkeep.changes = Some(Changes::new(file.try_clone().unwrap()).unwrap());
                model.changes = Some(file);
                (0..5).for_each(|_| model.change());
                known = place;
            }
            places.clear();
        }
    }
}

#[test]
fn a_copy_costs_what_changed() {
    let directory = tempfile::tempdir().unwrap();
    let mut image = open::open_memory(SIZE, None).unwrap();
    for cluster in 0..20 {
        image.write_bytes(&[7; 512], cluster * 2 * CLUSTER).unwrap();
    }
    let mut model = Model::new(image, 5);
    model.bytes = read(&mut model.image);
    let keep = |model: &mut Model, name: &str, over: Option<&Path>| {
        let place = directory.path().join(name);
        let due = model.changes.take().and_then(|file| ClusterSet::read(&file).unwrap());
        let (mut answer, pipe) = std::io::pipe().unwrap();
        let report = Report::new(File::from(std::os::fd::OwnedFd::from(pipe)));
        let wanted = Wanted { place: place.clone(), over: over.map(Path::to_path_buf), due };
        let mut keep = Keep::begin(wanted, SIZE, report).unwrap();
        while !keep.step(&mut model.image).unwrap() {}
        keep.complete();
        let mut text = String::new();
        answer.read_to_string(&mut text).unwrap();
        assert_eq!(text, KEPT);
        place
    };
    let data = |place: &Path| {
        let (image, _) = open::open_alone(place).unwrap();
        let clusters = (0..SIZE / CLUSTER).filter(|cluster| {
            let piece = crate::block::commit::piece_at(&image, cluster * CLUSTER).unwrap().0;
            !matches!(piece, crate::block::commit::Piece::Nothing)
        });
        clusters.count()
    };
    let first = keep(&mut model, "a", None);
    assert_eq!(data(&first), 20);
    let file = tempfile::tempfile().unwrap();
    ClusterSet::default().write(&file).unwrap();
    Changes::new(file.try_clone().unwrap()).unwrap().note(touched(3 * CLUSTER, CLUSTER));
    model.image.write_bytes(&[9; 512], 3 * CLUSTER).unwrap();
    model.changes = Some(file);
    let second = keep(&mut model, "b", Some(&first));
    assert_eq!(data(&second), 1);
    assert!(read_file(&second) == read(&mut model.image));
}

#[test]
fn a_failure_is_told_and_the_disk_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let (mut answer, pipe) = std::io::pipe().unwrap();
    let report = Report::new(File::from(std::os::fd::OwnedFd::from(pipe)));
    let place = directory.path().join("gone/x.qcow2");
    let wanted = Wanted { place: place.clone(), over: None, due: None };
    assert!(Keep::begin(wanted, SIZE, report).is_none());
    let mut text = String::new();
    answer.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("cannot make '") && text.contains("No such file"), "{text}");

    // The disk cannot be read: its file has become shorter.
    let raw = directory.path().join("raw");
    let file = File::create(&raw).unwrap();
    file.set_len(SIZE).unwrap();
    file.write_all_at(&[1; 4096], SIZE - 4096).unwrap();
    let image = open::open(&raw, Some(Format::Raw), Use::Write).unwrap();
    let mut model = Model::new(image, 9);
    let (mut answer, pipe) = std::io::pipe().unwrap();
    let report = Report::new(File::from(std::os::fd::OwnedFd::from(pipe)));
    let place = directory.path().join("x.qcow2");
    // A place that is taken meanwhile is left alone.
    model.upkeep.keep = Keep::begin(Wanted { place: place.clone(), over: None, due: None }, SIZE, report);
    std::fs::write(&place, "somebody's").unwrap();
    while model.upkeep.is_busy() {
        model.upkeep.step(&mut model.image);
    }
    let mut text = String::new();
    answer.read_to_string(&mut text).unwrap();
    assert!(text.contains("File exists"), "{text}");
    assert_eq!(std::fs::read(&place).unwrap(), b"somebody's");
    let left = std::fs::read_dir(directory.path()).unwrap().count();
    assert_eq!(left, 2, "no part of it is left");
}
