//! `info registers`, `info tlb`, `info mem`.

use crate::hmp::args::Args;
use crate::hmp::inquiry::{Asker, TEXT_BYTES_MAX, Task};
use crate::hmp::registers as shown;
use replay::inspect::Mapping;
use std::fmt::Write as _;

/// What is shown while the guest does not translate addresses.
const NO_PAGING: &str = "PG disabled\n";

pub(in crate::hmp) fn registers(asker: Asker, args: Args) -> Task {
    Box::pin(async move {
        match args.integer("vcpu") {
            Some(cpu) if cpu != 0 => Ok(format!("CPU#{cpu} not available\n")),
            _ => Ok(shown::text(&asker.registers().await?, 0)),
        }
    })
}

pub(in crate::hmp) fn tlb(asker: Asker, _: Args) -> Task {
    Box::pin(async move {
        let mut text = String::new();
        let paging = asker.mappings(|page| page_line(page, &mut text)).await?;
        Ok(if paging { text } else { NO_PAGING.to_owned() })
    })
}

/// Flags of a page-table entry in the order in which they are shown.
const FLAGS: [(u32, char); 9] =
    [(63, 'X'), (8, 'G'), (7, 'P'), (6, 'D'), (5, 'A'), (4, 'C'), (3, 'T'), (2, 'U'), (1, 'W')];

fn page_line(page: &Mapping, text: &mut String) {
    if text.len() > TEXT_BYTES_MAX {
        return;
    }
    let flags = FLAGS.map(|(bit, letter)| if page.entry & 1 << bit != 0 { letter } else { '-' });
    let flags: String = flags.iter().collect();
    let _ = writeln!(text, "{:016x}: {:016x} {flags}", page.address, page.physical);
}

/// A piece of the address space whose pages have the same rights.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Piece {
    start: u64,
    size: u64,
    user: bool,
    writable: bool,
}

impl Piece {
    fn line(self) -> String {
        let Piece { start, size, user, writable } = self;
        let (user, writable) = (if user { 'u' } else { '-' }, if writable { 'w' } else { '-' });
        format!("{start:016x}-{:016x} {size:016x} {user}r{writable}\n", start.wrapping_add(size))
    }
}

pub(in crate::hmp) fn mem(asker: Asker, _: Args) -> Task {
    Box::pin(async move {
        let (mut text, mut last): (String, Option<Piece>) = (String::new(), None);
        let paging = asker
            .mappings(|page| {
                let Mapping { address, size, user, writable, .. } = *page;
                match &mut last {
                    Some(piece)
                        if piece.start.wrapping_add(piece.size) == address
                            && (piece.user, piece.writable) == (user, writable) =>
                    {
                        piece.size += size;
                    }
                    last => {
                        let piece = Piece { start: address, size, user, writable };
                        text.extend(last.replace(piece).map(Piece::line));
                    }
                }
            })
            .await?;
        text.extend(last.map(Piece::line));
        Ok(if paging { text } else { NO_PAGING.to_owned() })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hmp::inquiry::tests::run;
    use replay::inspect::Answer;

    fn mapped() -> Vec<Mapping> {
        let page = |address, physical, entry, user, writable| Mapping {
            address,
            size: 0x1000,
            physical,
            entry,
            user,
            writable,
        };
        vec![
            page(0x40_1000, 0xe6a_e000, 0x24, true, false),
            page(0x40_2000, 0xe6a_d000, 0x24, true, false),
            page(0x40_3000, 0x1000, 0x67, true, true),
            page(0xffff_ffff_ffff_f000, 0x2000, 1 << 63 | 0x1e3, false, true),
        ]
    }

    #[test]
    fn texts_are_those_of_qemu() {
        let answer = |_| Answer::Mappings { paging: true, list: mapped(), next: None };
        assert_eq!(
            run(Box::new(|asker| tlb(asker, Args::default())), answer),
            "0000000000401000: 000000000e6ae000 ----A--U-\n\
             0000000000402000: 000000000e6ad000 ----A--U-\n\
             0000000000403000: 0000000000001000 ---DA--UW\n\
             fffffffffffff000: 0000000000002000 XGPDA---W\n"
        );
        assert_eq!(
            run(Box::new(|asker| mem(asker, Args::default())), answer),
            "0000000000401000-0000000000403000 0000000000002000 ur-\n\
             0000000000403000-0000000000404000 0000000000001000 urw\n\
             fffffffffffff000-0000000000000000 0000000000001000 -rw\n"
        );
        let off = |_| Answer::Mappings { paging: false, list: vec![], next: None };
        assert_eq!(run(Box::new(|asker| tlb(asker, Args::default())), off), NO_PAGING);
        assert_eq!(run(Box::new(|asker| mem(asker, Args::default())), off), NO_PAGING);
    }
}
