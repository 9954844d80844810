//! Disks that get contents again: what is written, and what is said meanwhile.

use super::*;
use crate::block::layer;

const SIZE: u64 = 9 * CLUSTER + 512;

fn raw(directory: &Path, name: &str, fill: impl Fn(u64) -> u8) -> PathBuf {
    let bytes: Vec<u8> = (0..SIZE).map(|at| fill(at / CLUSTER)).collect();
    let path = directory.join(name);
    fs::write(&path, bytes).unwrap();
    path
}

fn kept(directory: &Path, name: &str, fill: impl Fn(u64) -> u8) -> PathBuf {
    let place = directory.join(name);
    let (mut image, part) = layer::create_part(&place, SIZE, None).unwrap();
    let mut at = 0;
    while at < SIZE {
        let length = CLUSTER.min(SIZE - at);
        image.write_bytes(&vec![fill(at / CLUSTER); length as usize], at).unwrap();
        at += length;
    }
    image.flush(true).unwrap();
    part.persist(&place).unwrap();
    place
}

#[test]
fn only_what_differs_is_written_and_a_mark_is_there_meanwhile() {
    let directory = tempfile::tempdir().unwrap();
    let path = raw(directory.path(), "d", |cluster| cluster as u8);
    let from = kept(directory.path(), "k.qcow2", |cluster| if cluster == 4 { 0 } else { cluster as u8 });
    let place = directory.path().join("d.restoring");
    let source = Source { from: from.clone(), mark: Some(place.clone()), known: None };
    let mut image = open::open(&path, Some(Format::Raw), Use::Write).unwrap();
    restore(&mut image, Some(&path), &source).unwrap();
    let bytes = fs::read(&path).unwrap();
    assert!(bytes.chunks(CLUSTER as usize).zip(0..).all(|(bytes, cluster)| {
        bytes.iter().all(|byte| *byte == if cluster == 4 { 0 } else { cluster })
    }));
    assert!(!place.exists());

    // It cannot be completed: the mark stays, and says of what.
    fs::write(&path, vec![1; SIZE as usize]).unwrap();
    let read_only = open::open(&path, Some(Format::Raw), Use::Read);
    drop(image);
    let mut image = read_only.or_else(|_| open::open(&path, Some(Format::Raw), Use::Read)).unwrap();
    assert!(restore(&mut image, Some(&path), &source).is_err());
    let text = fs::read_to_string(&place).unwrap();
    assert!(text.contains(path.to_str().unwrap()) && text.contains(from.to_str().unwrap()), "{text}");
    drop(image);
    let mut image = open::open(&path, Some(Format::Raw), Use::Write).unwrap();
    restore(&mut image, Some(&path), &source).unwrap();
    assert!(!place.exists());
    assert!(fs::read(&path).unwrap() == bytes);
}

#[test]
fn layers_over_the_image_itself_are_merged_into_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = raw(directory.path(), "d", |_| 5);
    let top = directory.path().join("l.qcow2");
    let base = open::open(&path, Some(Format::Raw), Use::Read).unwrap();
    let name = layer::BaseName::of_file(&path, Format::Raw).unwrap();
    let mut over = layer::create(&top, base, &name).unwrap();
    over.write_bytes(&[9; 512], 2 * CLUSTER).unwrap();
    over.write_zeroes(7 * CLUSTER, CLUSTER, true).unwrap();
    over.flush(true).unwrap();
    drop(over);
    let mut image = open::open(&path, Some(Format::Raw), Use::Write).unwrap();
    restore(&mut image, Some(&path), &Source { from: top, mark: None, known: None }).unwrap();
    let bytes = fs::read(&path).unwrap();
    let at = |cluster: u64| bytes[(cluster * CLUSTER) as usize];
    assert_eq!((at(1), at(2), at(7), at(8)), (5, 9, 0, 5));
}

#[test]
fn a_disk_of_another_size_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let from = kept(directory.path(), "k.qcow2", |_| 1);
    let mut image = open::open_memory(SIZE + 512, None).unwrap();
    let why = restore(&mut image, None, &Source { from, mark: None, known: None }).unwrap_err();
    assert!(why.contains("is of a disk of") && why.contains("this one has"), "{why}");
    assert_eq!(image.zeros_at(0, SIZE).unwrap(), SIZE);
}
