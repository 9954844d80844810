//! `info mtree`: what answers at which address.

use crate::hmp::args::Args;
use crate::hmp::inquiry::{Asker, Task};
use replay::inspect::{Answer, Query, Region};
use std::collections::BTreeSet;
use std::fmt::Write as _;

pub(in crate::hmp) fn mtree(asker: Asker, args: Args) -> Task {
    Box::pin(async move {
        let Answer::AddressMap(map) = asker.ask(Query::AddressMap).await else {
            return Err(asker.unfit());
        };
        let spaces = [("memory", "system", u64::MAX, map.memory), ("I/O", "io", 0xffff, map.ports)];
        Ok(spaces.map(|space| if args.has("f") { flat(space) } else { tree(space) }).concat())
    })
}

type SpaceView = (&'static str, &'static str, u64, Vec<Region>);

fn line(text: &mut String, indent: &str, first: u64, last: u64, region: &Region, offset: u64) {
    let kind = if region.ram { "ram" } else { "i/o" };
    let _ =
        write!(text, "{indent}{first:016x}-{last:016x} (prio {}, {kind}): {}", region.priority, region.name);
    if offset > 0 {
        let _ = write!(text, " @{offset:016x}");
    }
    text.push('\n');
}

fn tree((name, root, last, regions): SpaceView) -> String {
    let mut text = format!("address-space: {name}\n  {:016x}-{last:016x} (prio 0, i/o): {root}\n", 0);
    for region in &regions {
        line(&mut text, "    ", region.first, region.last, region, 0);
    }
    text + "\n"
}

/// Each address has one region: of those that contain it, that of the highest priority, else the one that begins last.
fn flat((name, root, _, regions): SpaceView) -> String {
    let mut text = format!("FlatView #{}\n", u8::from(name == "I/O"));
    let _ = writeln!(text, " AS \"{name}\", root: {root}\n Root memory region: {root}");
    let ends = regions.iter().filter_map(|region| region.last.checked_add(1));
    let borders: BTreeSet<u64> = regions.iter().map(|region| region.first).chain(ends).collect();
    let mut borders = borders.into_iter().peekable();
    let mut pieces: Vec<(u64, u64, &Region)> = vec![];
    while let Some(first) = borders.next() {
        let last = borders.peek().map_or(u64::MAX, |next| next - 1);
        let owners = regions.iter().filter(|region| region.first <= first && first <= region.last);
        let Some(owner) = owners.max_by_key(|region| (region.priority, region.first)) else { continue };
        match pieces.last_mut() {
            Some((_, end, region)) if std::ptr::eq(*region, owner) && *end == first.wrapping_sub(1) => {
                *end = last
            }
            _ => pieces.push((first, last.min(owner.last), owner)),
        }
    }
    for (first, last, region) in pieces {
        line(&mut text, "  ", first, last, region, first - region.first);
    }
    text + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(first: u64, last: u64, priority: u8, name: &str) -> Region {
        Region { first, last, priority, ram: name == "pc.ram", name: name.to_owned() }
    }

    #[test]
    fn the_tree_has_the_lines_of_qemu() {
        let regions = vec![region(0, 0xff_ffff, 0, "pc.ram"), region(0xfee0_0000, 0xfee0_0fff, 2, "apic")];
        assert_eq!(
            tree(("memory", "system", u64::MAX, regions)),
            "address-space: memory\n  0000000000000000-ffffffffffffffff (prio 0, i/o): system\n    \
             0000000000000000-0000000000ffffff (prio 0, ram): pc.ram\n    \
             00000000fee00000-00000000fee00fff (prio 2, i/o): apic\n\n"
        );
    }

    #[test]
    fn what_lies_over_another_splits_it() {
        let regions = vec![region(0xcf8, 0xcff, 0, "pci-conf"), region(0xcf9, 0xcf9, 1, "reset-control")];
        assert_eq!(
            flat(("I/O", "io", 0xffff, regions)),
            "FlatView #1\n AS \"I/O\", root: io\n Root memory region: io\n  \
             0000000000000cf8-0000000000000cf8 (prio 0, i/o): pci-conf\n  \
             0000000000000cf9-0000000000000cf9 (prio 1, i/o): reset-control\n  \
             0000000000000cfa-0000000000000cff (prio 0, i/o): pci-conf @0000000000000002\n\n"
        );
        let whole = vec![region(0, u64::MAX, 0, "all"), region(5, 5, 0, "one")];
        assert_eq!(flat(("memory", "system", u64::MAX, whole)).lines().count(), 7);
    }
}
