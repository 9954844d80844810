//! Whether two outcomes are the same, apart from what the manual leaves open.

use crate::case::Case;
use crate::tolerate;
use iced_x86::{Mnemonic, OpKind};
use tests::arena::{self, Image};
use tests::state::Outcome;
use vcpu::isa::table;
use vcpu::state::Status;

/// What differs, as text; `None` when nothing does.
pub fn differences(
    case: &Case,
    host: (&Outcome, &Image),
    ours: (&mut Outcome, &mut Image),
) -> Option<String> {
    let (mine, memory) = ours;
    let open = undefined_flags(case);
    mine.state.rflags = mine.state.rflags & !open | host.0.state.rflags & open;
    tolerate::apply(case, host, (mine, memory));
    let mut text = String::new();
    if host.0.raised != mine.raised {
        text += &format!("    host {}\n    ours {}\n", raised(host.0), raised(mine));
    }
    if host.0.state != mine.state {
        text += &host.0.state.differences(&mine.state, ("host", "ours"));
    }
    if host.1 != memory {
        text += &memory_difference(&case.memory, host.1, memory);
    }
    if text.is_empty() {
        return None;
    }
    if host.0.raised == mine.raised {
        text = format!("    both {}\n{text}", raised(mine));
    }
    Some(text)
}

fn raised(outcome: &Outcome) -> String {
    outcome.raised.map_or("completes".into(), |raised| {
        format!("raises {}, code {:x}, at {}", raised.vector, raised.code, describe(raised.address))
    })
}

fn memory_difference(before: &Image, host: &Image, ours: &Image) -> String {
    let differs: Vec<usize> = (0..host.len()).filter(|&at| host[at] != ours[at]).collect();
    let (first, last) = (differs[0] & !7, differs[differs.len() - 1]);
    let shown = first..(last + 1).min(first + 64);
    format!(
        "    memory at arena+{first:#x}, {} bytes differ\n      was  {:02x?}\n      host {:02x?}\n      ours {:02x?}\n",
        differs.len(),
        &before[shown.clone()],
        &host[shown.clone()],
        &ours[shown]
    )
}

/// RFLAGS bits that the manual leaves undefined after this instruction with these operands.
fn undefined_flags(case: &Case) -> u64 {
    let code = case.instruction.code();
    let Some(entry) = table::entry(code) else {
        return status_of(case.instruction.rflags_undefined());
    };
    match shift_count(case) {
        Some(0) => 0,
        Some(_) | None => u64::from(Status(entry.row.undefined).to_rflags()),
    }
}

/// iced numbers flags its own way.
fn status_of(bits: u32) -> u64 {
    use iced_x86::RflagsBits as B;
    [(B::OF, 11), (B::SF, 7), (B::ZF, 6), (B::AF, 4), (B::CF, 0), (B::PF, 2)]
        .iter()
        .filter(|(mine, _)| bits & mine != 0)
        .fold(0, |flags, (_, bit)| flags | 1 << bit)
}

/// The masked count of a shift or rotate.
fn shift_count(case: &Case) -> Option<u64> {
    use Mnemonic::*;
    let instruction = &case.instruction;
    if !matches!(instruction.mnemonic(), Shl | Sal | Shr | Sar | Rol | Ror | Rcl | Rcr | Shld | Shrd) {
        return None;
    }
    let last = instruction.op_count() - 1;
    let count = if instruction.op_kind(last) == OpKind::Immediate8 {
        instruction.immediate8().into()
    } else {
        case.state.gpr[1]
    };
    let memory = instruction.op0_kind() == OpKind::Memory;
    let bytes = if memory { instruction.memory_size().size() } else { instruction.op0_register().size() };
    Some(count & if bytes == 8 { 63 } else { 31 })
}

/// Where a linear address lies.
fn describe(address: u64) -> String {
    arena::offset(address).map_or_else(|| format!("{address:#x}"), |at| format!("arena+{at:#x}"))
}
