//! What is stored comes back, costs what is new, and damage is named.

use super::*;
use std::io::Write;

fn info(tag: &str, icount: u64) -> Info {
    Info {
        tag: tag.into(),
        created_unix_s: 7,
        icount,
        vtime_ns: 0,
        place: None,
        build: crate::manifest::build(),
        machine: crate::manifest::example().machine,
        disks: vec![],
        vm_bytes: 0,
    }
}

type Ram = BTreeMap<u64, u8>;

/// Stores pages that hold one byte all over.
fn save(store: &Store, tag: &str, base: PageTable, pages: &Ram) -> Result<Snapshot, StoreError> {
    let mut contents = tempfile::tempfile().unwrap();
    for byte in pages.values() {
        contents.write_all(&[*byte; PAGE_BYTES]).unwrap();
    }
    let numbers: Vec<u64> = pages.keys().copied().collect();
    let new = NewPages { base, numbers: &numbers, contents: &contents };
    store.save(info(tag, 5), vec![b"state".to_vec()], new)
}

fn load(store: &Store, tag: &str) -> Result<Ram, StoreError> {
    let snapshot = store.read(tag)?.unwrap();
    let mut ram = Ram::new();
    store.read_pages(&snapshot, &mut |number, page| {
        assert!(page.iter().all(|byte| *byte == page[0]));
        ram.insert(number, page[0]);
        Ok(())
    })?;
    Ok(ram)
}

fn chunks(store: &Store) -> usize {
    chunk::names(&store.pages()).unwrap().len()
}

#[test]
fn equal_pages_and_zeros_cost_nothing_and_each_snapshot_keeps_its_own() {
    let place = tempfile::tempdir().unwrap();
    let store = Store::new(&place.path().join("deep/store"));
    assert_eq!(store.list().unwrap().0.len(), 0);
    assert!(store.read("a").unwrap().is_none() && !store.delete("a").unwrap());
    let first: Ram = (0..600).map(|number| (number * 3, (number % 200) as u8)).collect();
    let a = save(&store, "a", PageTable::new(), &first).unwrap();
    assert_eq!(chunks(&store), 1, "199 different pages that are not zero");
    assert_eq!(a.info.vm_bytes, 5 + 597 * PAGE_BYTES as u64);
    let change: Ram = [(3, 0), (6, 250), (9, 7)].into();
    save(&store, "b", a.table.clone(), &change).unwrap();
    assert_eq!(chunks(&store), 2);
    save(&store, "c/../: d", a.table.clone(), &[(9, 8)].into()).unwrap();
    assert_eq!(chunks(&store), 2, "the page was there already");
    let not_zero = |ram: Ram| -> Ram { ram.into_iter().filter(|(_, byte)| *byte != 0).collect() };
    assert_eq!(load(&store, "a").unwrap(), not_zero(first.clone()));
    let second: Ram = first.clone().into_iter().chain(change).collect();
    assert_eq!(load(&store, "b").unwrap(), not_zero(second.clone()));
    let (found, bad) = store.list().unwrap();
    assert_eq!((found.len(), bad.len()), (3, 0));
    assert!(store.delete("a").unwrap());
    assert_eq!(load(&store, "b").unwrap(), not_zero(second));
    assert!(store.delete("b").unwrap() && chunks(&store) == 1);
    assert!(save(&store, "x", a.table.clone(), &Ram::new()).is_ok());
    assert!(store.delete("c/../: d").unwrap() && store.delete("x").unwrap() && chunks(&store) == 0);
    assert!(matches!(save(&store, "x", a.table, &Ram::new()), Err(StoreError::BaseGone(_))));
}

#[test]
fn a_new_snapshot_takes_the_place_of_one_with_its_name() {
    let place = tempfile::tempdir().unwrap();
    let store = Store::new(place.path());
    save(&store, "a", PageTable::new(), &[(1, 1)].into()).unwrap();
    save(&store, "a", PageTable::new(), &[(1, 2)].into()).unwrap();
    assert_eq!(load(&store, "a").unwrap(), [(1, 2)].into());
    assert_eq!((chunks(&store), store.list().unwrap().0.len()), (1, 1));
    for tag in ["", &"x".repeat(201)] {
        assert!(matches!(
            save(&store, tag, PageTable::new(), &Ram::new()),
            Err(StoreError::Unwritable { .. })
        ));
    }
}

#[test]
fn damage_is_found_and_named() {
    let place = tempfile::tempdir().unwrap();
    let store = Store::new(place.path());
    let pages: Ram = (1..9).map(|number| (number, number as u8)).collect();
    let whole = save(&store, "a", PageTable::new(), &pages).unwrap();
    assert_eq!(store.read("a").unwrap().as_ref(), Some(&whole));
    let name = chunk::names(&store.pages()).unwrap()[0];
    let text = chunk::hex(&name);
    let paths = [store.place("a").unwrap(), store.pages().join(&text[..2]).join(&text)];
    let mut unseen = 0;
    for path in paths {
        let bytes = fs::read(&path).unwrap();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0x10;
            fs::write(&path, changed).unwrap();
            let file = path.file_name().unwrap().to_str().unwrap();
            match load(&store, "a") {
                Err(error) => {
                    let message = error.to_string();
                    assert!(message.contains(file) && !message.contains('\n'), "byte {at}: {message}");
                }
                // zstd does not look at every bit; what it unpacks is checked.
                Ok(ram) => {
                    assert_eq!(ram, pages, "byte {at}");
                    unseen += 1;
                }
            }
        }
        for end in [0, 7, 20, bytes.len() - 1] {
            fs::write(&path, &bytes[..end]).unwrap();
            assert!(load(&store, "a").is_err(), "{end}");
        }
        fs::write(&path, bytes).unwrap();
    }
    assert!(unseen <= 1, "{unseen}");
    assert_eq!(load(&store, "a").unwrap(), pages);
    fs::write(store.root().join(SNAPSHOTS).join("b.snapshot"), "nonsense").unwrap();
    let (found, bad) = store.list().unwrap();
    assert_eq!((found.len(), bad.len()), (1, 1));
}
