//! The machine as gdbstub sees it: registers, memory, breakpoints, and what to do next.
//!
//! Reading leaves no trace in the guest: no translation, no accessed bit, no device. gdbstub itself is only asked for what
//! `session` lets through.

use super::description;
use super::registers;
use super::{Action, Back, Debugger};
use crate::mem::ram::PAGE_SIZE;
use crate::probe::{Watched, Watchpoint};
use crate::run::machine::Machine;
use gdbstub::arch::{Arch, RegId, Registers};
use gdbstub::common::Signal;
use gdbstub::target::ext::base::BaseOps;
use gdbstub::target::ext::base::reverse_exec::{ReverseCont, ReverseContOps, ReverseStep, ReverseStepOps};
use gdbstub::target::ext::base::single_register_access::{SingleRegisterAccess, SingleRegisterAccessOps};
use gdbstub::target::ext::base::singlethread::{
    SingleThreadBase, SingleThreadRangeStepping, SingleThreadRangeSteppingOps, SingleThreadResume,
    SingleThreadResumeOps, SingleThreadSingleStep, SingleThreadSingleStepOps,
};
use gdbstub::target::ext::breakpoints::{
    Breakpoints, BreakpointsOps, HwBreakpoint, HwBreakpointOps, HwWatchpoint, HwWatchpointOps, SwBreakpoint,
    SwBreakpointOps, WatchKind,
};
use gdbstub::target::ext::target_description_xml_override::{
    TargetDescriptionXmlOverride, TargetDescriptionXmlOverrideOps,
};
use gdbstub::target::{Target, TargetError, TargetResult};
use std::convert::Infallible;
use std::num::NonZeroUsize;

/// Longest watchpoint.
const WATCH_BYTES_MAX: u64 = PAGE_SIZE;

/// x86 with our own descriptions.
#[derive(Debug)]
pub enum X86 {}

/// All registers as bytes, in the order of `registers`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Image(Vec<u8>);

/// Number of a register.
#[derive(Clone, Copy, Debug)]
pub struct Number(usize);

impl Arch for X86 {
    type Usize = u64;
    type Registers = Image;
    type BreakpointKind = usize;
    type RegId = Number;
}

impl Registers for Image {
    type ProgramCounter = u64;

    fn pc(&self) -> u64 {
        // gdbstub has no use for it.
        0
    }

    fn gdb_serialize(&self, mut write_byte: impl FnMut(Option<u8>)) {
        self.0.iter().for_each(|byte| write_byte(Some(*byte)));
    }

    fn gdb_deserialize(&mut self, bytes: &[u8]) -> Result<(), ()> {
        self.0 = bytes.to_vec();
        Ok(())
    }
}

impl RegId for Number {
    fn from_raw_id(id: usize) -> Option<(Number, Option<NonZeroUsize>)> {
        // How wide it is depends on the architecture that the client was told.
        Some((Number(id), None))
    }

    fn to_raw_id(&self) -> Option<usize> {
        Some(self.0)
    }
}

fn done(well: bool) -> TargetResult<(), Machine> {
    if well { Ok(()) } else { Err(TargetError::NonFatal) }
}

impl Target for Machine {
    type Arch = X86;
    type Error = Infallible;

    fn base_ops(&mut self) -> BaseOps<'_, X86, Infallible> {
        BaseOps::SingleThread(self)
    }

    fn guard_rail_implicit_sw_breakpoints(&self) -> bool {
        true
    }

    fn use_fork_stop_reason(&self) -> bool {
        false
    }

    fn use_vfork_stop_reason(&self) -> bool {
        false
    }

    fn use_vforkdone_stop_reason(&self) -> bool {
        false
    }

    fn support_breakpoints(&mut self) -> Option<BreakpointsOps<'_, Machine>> {
        Some(self)
    }

    fn support_target_description_xml_override(
        &mut self,
    ) -> Option<TargetDescriptionXmlOverrideOps<'_, Machine>> {
        Some(self)
    }
}

impl SingleThreadBase for Machine {
    fn read_registers(&mut self, image: &mut Image) -> TargetResult<(), Machine> {
        image.0 = registers::read_all(&self.core, self.debugger.shown);
        Ok(())
    }

    fn write_registers(&mut self, image: &Image) -> TargetResult<(), Machine> {
        done(self.debugger.may_write() && registers::write_all(&mut self.core, self.debugger.shown, &image.0))
    }

    fn support_single_register_access(&mut self) -> Option<SingleRegisterAccessOps<'_, (), Machine>> {
        Some(self)
    }

    fn read_addrs(&mut self, start: u64, data: &mut [u8]) -> TargetResult<usize, Machine> {
        let read = read_memory(self, start, data);
        if read == 0 && !data.is_empty() { Err(TargetError::Errno(14)) } else { Ok(read) }
    }

    fn write_addrs(&mut self, start: u64, data: &[u8]) -> TargetResult<(), Machine> {
        done(data.is_empty() || self.debugger.may_write() && write_memory(self, start, data))
    }

    fn support_resume(&mut self) -> Option<SingleThreadResumeOps<'_, Machine>> {
        Some(self)
    }
}

/// The bytes of an address range that lie in one page each: address, where in the buffer, length.
fn parts(start: u64, length: usize) -> impl Iterator<Item = (u64, usize, usize)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let address = start.wrapping_add(at as u64);
        let part = ((PAGE_SIZE - address % PAGE_SIZE) as usize).min(length - at);
        at += part;
        (part > 0).then_some((address, at - part, part))
    })
}

/// Guest physical address of RAM.
fn ram_address(machine: &Machine, address: u64) -> Option<u64> {
    let core = &machine.core;
    let gpa = if machine.debugger.physical() { Some(address) } else { core.look_up(address) };
    gpa.filter(|gpa| core.mem.ram.contains(*gpa))
}

/// How many bytes could be read: up to the first page that is not there, or is a device.
fn read_memory(machine: &Machine, start: u64, data: &mut [u8]) -> usize {
    let mut read = 0;
    for (address, at, length) in parts(start, data.len()) {
        let Some(gpa) = ram_address(machine, address) else { break };
        if !machine.core.mem.ram.read_bytes(gpa, &mut data[at..at + length]) {
            break;
        }
        read += length;
    }
    read
}

/// Writes all or nothing, whatever the page tables say of rights.
fn write_memory(machine: &mut Machine, start: u64, data: &[u8]) -> bool {
    let places: Option<Vec<_>> = parts(start, data.len())
        .map(|(address, at, length)| Some((ram_address(machine, address)?, at, length)))
        .collect();
    let Some(places) = places else { return false };
    places.iter().all(|(gpa, at, length)| machine.core.mem.ram.write_bytes(*gpa, &data[*at..at + length]))
}

impl SingleRegisterAccess<()> for Machine {
    fn read_register(&mut self, _: (), number: Number, into: &mut [u8]) -> TargetResult<usize, Machine> {
        let bytes =
            registers::read(&self.core, self.debugger.shown, number.0).ok_or(TargetError::NonFatal)?;
        into.get_mut(..bytes.len()).ok_or(TargetError::NonFatal)?.copy_from_slice(&bytes);
        Ok(bytes.len())
    }

    fn write_register(&mut self, _: (), number: Number, bytes: &[u8]) -> TargetResult<(), Machine> {
        done(
            self.debugger.may_write()
                && registers::write(&mut self.core, self.debugger.shown, number.0, bytes),
        )
    }
}

impl TargetDescriptionXmlOverride for Machine {
    fn target_description_xml(
        &self,
        annex: &[u8],
        offset: u64,
        length: usize,
        into: &mut [u8],
    ) -> TargetResult<usize, Machine> {
        if annex != b"target.xml" {
            return Err(TargetError::NonFatal);
        }
        let text = description::description(self.debugger.shown);
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(text.len());
        let count = length.min(into.len()).min(text.len() - from);
        into[..count].copy_from_slice(&text.as_bytes()[from..from + count]);
        Ok(count)
    }
}

impl Debugger {
    fn intend(&mut self, action: Action) {
        self.action = Some(action);
    }
}

impl SingleThreadResume for Machine {
    fn resume(&mut self, _: Option<Signal>) -> Result<(), Infallible> {
        self.debugger.intend(Action::Continue);
        Ok(())
    }

    fn support_single_step(&mut self) -> Option<SingleThreadSingleStepOps<'_, Machine>> {
        Some(self)
    }

    fn support_range_step(&mut self) -> Option<SingleThreadRangeSteppingOps<'_, Machine>> {
        Some(self)
    }

    fn support_reverse_step(&mut self) -> Option<ReverseStepOps<'_, (), Machine>> {
        if self.debugger.is_replay() { Some(self) } else { None }
    }

    fn support_reverse_cont(&mut self) -> Option<ReverseContOps<'_, (), Machine>> {
        if self.debugger.is_replay() { Some(self) } else { None }
    }
}

impl SingleThreadSingleStep for Machine {
    fn step(&mut self, _: Option<Signal>) -> Result<(), Infallible> {
        self.debugger.intend(Action::Step);
        Ok(())
    }
}

impl SingleThreadRangeStepping for Machine {
    fn resume_range_step(&mut self, start: u64, end: u64) -> Result<(), Infallible> {
        self.debugger.intend(Action::StepWithin { start, end });
        Ok(())
    }
}

impl ReverseStep<()> for Machine {
    fn reverse_step(&mut self, (): ()) -> Result<(), Infallible> {
        self.debugger.intend(Action::Back(Back::Step));
        Ok(())
    }
}

impl ReverseCont<()> for Machine {
    fn reverse_cont(&mut self) -> Result<(), Infallible> {
        self.debugger.intend(Action::Back(Back::Continue));
        Ok(())
    }
}

impl Breakpoints for Machine {
    fn support_sw_breakpoint(&mut self) -> Option<SwBreakpointOps<'_, Machine>> {
        Some(self)
    }

    fn support_hw_breakpoint(&mut self) -> Option<HwBreakpointOps<'_, Machine>> {
        Some(self)
    }

    fn support_hw_watchpoint(&mut self) -> Option<HwWatchpointOps<'_, Machine>> {
        Some(self)
    }
}

/// Kept outside guest memory like hardware breakpoints.
impl SwBreakpoint for Machine {
    fn add_sw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Machine> {
        Ok(self.core.probe.add_breakpoint(address, false))
    }

    fn remove_sw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Machine> {
        Ok(self.core.probe.remove_breakpoint(address, false))
    }
}

impl HwBreakpoint for Machine {
    fn add_hw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Machine> {
        Ok(self.core.probe.add_breakpoint(address, true))
    }

    fn remove_hw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Machine> {
        Ok(self.core.probe.remove_breakpoint(address, true))
    }
}

fn watchpoint(address: u64, length: u64, kind: WatchKind) -> Watchpoint {
    let accesses = match kind {
        WatchKind::Write => Watched::Writes,
        WatchKind::Read => Watched::Reads,
        WatchKind::ReadWrite => Watched::Both,
    };
    Watchpoint { address, length, accesses }
}

impl HwWatchpoint for Machine {
    fn add_hw_watchpoint(&mut self, at: u64, length: u64, kind: WatchKind) -> TargetResult<bool, Machine> {
        let fits = (1..=WATCH_BYTES_MAX).contains(&length);
        Ok(fits && self.core.add_watchpoint(watchpoint(at, length, kind)))
    }

    fn remove_hw_watchpoint(&mut self, at: u64, length: u64, kind: WatchKind) -> TargetResult<bool, Machine> {
        Ok(self.core.remove_watchpoint(watchpoint(at, length, kind)))
    }
}
