//! Files of kept disks: removed, brought, marked.

use super::*;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt;

fn files(directory: &Path) -> Vec<String> {
    let mut found = vec![];
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        match entry.path().is_dir() {
            true => found.extend(files(&entry.path()).iter().map(|inside| format!("{name}/{inside}"))),
            false => found.push(name),
        }
    }
    found.sort();
    found
}

#[test]
fn only_images_that_nobody_needs_are_removed() {
    let names =
        ["d.0123abcd.1.qcow2", "d.0123abcd.2.qcow2", "d.qcow2", "d.1.qcow2", ".kept-x.part", "chains.json"];
    for (ours, left) in [
        (
            false,
            vec!["chains.json", "d.0123abcd.2.qcow2", "d.1.qcow2", "d.qcow2", "start.1/b.0123abcd.1.qcow2"],
        ),
        (true, vec!["chains.json", "d.0123abcd.2.qcow2"]),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        fs::create_dir(directory.join("start.1")).unwrap();
        for name in names.iter().chain(&["start.1/b.0123abcd.1.qcow2"]) {
            fs::write(directory.join(name), "").unwrap();
        }
        let needed = [directory.join("d.0123abcd.2.qcow2")];
        let somebody = Lock::shared(directory).unwrap();
        assert!(Lock::exclusive(directory).is_none(), "somebody makes one");
        drop(somebody);
        let lock = Lock::exclusive(directory).unwrap();
        let mark = directory.join("0123.restoring");
        fs::write(&mark, "").unwrap();
        remove_unneeded(&lock, directory, &needed, ours).unwrap();
        assert_eq!(files(directory).len(), 8, "an image that is not whole may need any of them");
        fs::remove_file(&mark).unwrap();
        remove_unneeded(&lock, directory, &needed, ours).unwrap();
        assert_eq!(files(directory), left);
        assert_eq!(directory.join("start.1").exists(), !ours);
    }
}

#[test]
fn images_are_brought_with_their_places() {
    let directory = tempfile::tempdir().unwrap();
    let (from, to) = (directory.path().join("from"), directory.path().join("to"));
    fs::create_dir_all(from.join("disks/start.1")).unwrap();
    let layers = ["disks/d.2.qcow2".to_owned(), "disks/start.1/d.0123abcd.1.qcow2".to_owned()];
    layers.iter().for_each(|layer| fs::write(from.join(layer), layer).unwrap());
    for number in 1..3 {
        let brought = bring(&from, &layers, &to).unwrap();
        let place = format!("disks/start.{number}");
        assert_eq!(brought, [format!("{place}/d.2.qcow2"), format!("{place}/start.1/d.0123abcd.1.qcow2")]);
        for (layer, brought) in layers.iter().zip(&brought) {
            let inode = |path: PathBuf| fs::metadata(path).unwrap().ino();
            assert_eq!(inode(from.join(layer)), inode(to.join(brought)));
        }
    }
    let gone = bring(&from, &["disks/x.qcow2".to_owned()], &to).unwrap_err();
    assert!(gone.contains("x.qcow2") && gone.contains("No such file"), "{gone}");
}

#[test]
fn answers_come_in_pieces_and_are_not_without_end() {
    let (ours, theirs) = pipe().unwrap();
    let (mut theirs, mut said) = (File::from(theirs), vec![]);
    assert_eq!(read_answer(&ours, &mut said), Answer::Nothing);
    theirs.write_all(b"ke").unwrap();
    assert_eq!(read_answer(&ours, &mut said), Answer::Nothing);
    theirs.write_all(b"pt\n").unwrap();
    theirs.write_all(&[b'x'; 10_000]).unwrap();
    drop(theirs);
    assert_eq!(read_answer(&ours, &mut said), Answer::Ended);
    assert!(said.starts_with(b"kept\nxxx") && said.len() == ANSWER_BYTES_MAX);
}

#[test]
fn a_mark_is_of_one_image_whatever_it_is_called() {
    let directory = tempfile::tempdir().unwrap();
    let image = |name: &str| directory.path().join(name);
    fs::write(image("d"), "").unwrap();
    fs::write(image("e"), "").unwrap();
    std::os::unix::fs::symlink(image("d"), image("l")).unwrap();
    let store = directory.path().join("s");
    fs::create_dir_all(store.join(DIRECTORY)).unwrap();
    assert_eq!(cut_short(&image("d"), &store), Ok(None));
    let mark = mark_of(&store.join(DIRECTORY), &image("l")).unwrap();
    fs::write(&mark, r#"{"image":"/d","from":"/k.qcow2"}"#).unwrap();
    assert_eq!(cut_short(&image("d"), &store), Ok(Some((mark.clone(), PathBuf::from("/k.qcow2")))));
    assert_eq!(cut_short(&image("e"), &store), Ok(None));
    fs::write(&mark, "nonsense").unwrap();
    assert!(cut_short(&image("d"), &store).unwrap_err().contains("is damaged"));
}
