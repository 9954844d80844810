//! The tables of monitor commands: one row each.

use super::args::{Args, Argument, Kind, may, needs};
use super::commands::{self as run, Context};
use super::inquiry::{Asker, Task};
use super::{hardware, info, logging, memory, snapshots};

/// Carries a command out.
type Handler = fn(&mut Context<'_>, &Args);
/// The same for a command that asks the vCPU process; its arguments may name registers.
pub type Question = fn(Asker, Args) -> Task;

/// How a command is carried out.
#[derive(Clone, Copy)]
pub enum Run {
    /// With what the broker knows.
    Now(Handler),
    /// With answers of the vCPU process.
    Asks(Question),
}

/// One command.
pub struct Row {
    /// Its name and other names.
    pub names: &'static [&'static str],
    /// Its arguments.
    pub grammar: &'static [Argument],
    /// Its arguments as the help shows them.
    pub params: &'static str,
    /// What it does.
    pub help: &'static str,
    /// Carries it out.
    pub run: Run,
}

const fn row(
    names: &'static [&'static str],
    grammar: &'static [Argument],
    params: &'static str,
    help: &'static str,
    run: Handler,
) -> Row {
    Row { names, grammar, params, help, run: Run::Now(run) }
}

const fn asks(
    names: &'static [&'static str],
    grammar: &'static [Argument],
    params: &'static str,
    help: &'static str,
    run: Question,
) -> Row {
    Row { names, grammar, params, help, run: Run::Asks(run) }
}

use Kind::{Format, Integer, Place, Rest, Switch, Text};

/// Commands, sorted by name.
#[rustfmt::skip]
pub const COMMANDS: &[Row] = &[
    row(&["chardev-change"], &[needs("id", Text), needs("args", Rest)], "id args", "change chardev", hardware::chardev_change),
    row(&["cont", "c"], &[], "", "resume emulation", run::cont),
    row(&["delvm"], &[needs("name", Rest)], "tag", "delete a VM snapshot from its tag", snapshots::delvm),
    row(&["device_restart"], &[needs("id", Text)], "id",
        "start the back-end of a device again; requests without an answer are submitted once more", hardware::device_restart),
    row(&["gdbserver"], &[may("device", Rest)], "[device]",
        "start gdbserver on given device (default 'tcp::1234'), stop with 'none'", run::gdbserver),
    asks(&["gva2gpa"], &[needs("addr", Integer)], "addr",
        "print the guest physical address corresponding to a guest virtual address", memory::gva2gpa),
    row(&["help", "?"], &[may("name", Rest)], "[cmd]", "show the help", run::help),
    asks(&["i"], &[needs("fmt", Format), needs("addr", Integer)], "/fmt addr", "I/O port read", memory::port_read),
    row(&["info"], &[may("item", Rest)], "[subcommand]", "show various information about the system state", run::info),
    row(&["loadvm"], &[needs("name", Rest)], "tag", "restore a VM snapshot from its tag", snapshots::loadvm),
    row(&["log"], &[needs("items", Text)], "item1[,...]", "activate logging of the specified items", logging::log),
    row(&["logfile"], &[may("filename", Text)], "[filename]", "output logs to 'filename', without one to stderr", logging::logfile),
    asks(&["memsave"], &[needs("val", Integer), needs("size", Integer), needs("filename", Text)], "addr size file",
        "save to disk virtual memory dump starting at 'addr' of size 'size'", memory::memsave),
    row(&["mouse_button"], &[needs("button_state", Integer)], "state",
        "change mouse button state (1=L, 2=M, 4=R)", run::mouse_button),
    row(&["mouse_move"], &[needs("dx_str", Text), needs("dy_str", Text), may("dz_str", Text)], "dx dy [dz]",
        "send mouse move events", run::mouse_move),
    row(&["nmi"], &[], "", "inject an NMI", run::nmi),
    row(&["o"], &[needs("fmt", Format), needs("addr", Integer), needs("val", Integer)], "/fmt addr value",
        "I/O port write", run::port_write),
    asks(&["pmemsave"], &[needs("val", Integer), needs("size", Integer), needs("filename", Text)], "addr size file",
        "save to disk physical memory dump starting at 'addr' of size 'size'", memory::pmemsave),
    asks(&["print", "p"], &[needs("fmt", Format), needs("val", Integer)], "/fmt expr",
        "print expression value (use $reg for CPU register access)", memory::print),
    row(&["quit", "q"], &[], "", "quit the emulator", run::quit),
    row(&["replay_break"], &[needs("icount", Place)], "icount",
        "set breakpoint at the specified instruction count", run::replay_break),
    row(&["replay_delete_break"], &[], "", "remove replay breakpoint", run::replay_delete_break),
    row(&["replay_seek"], &[needs("icount", Place)], "icount",
        "replay execution to the specified instruction count", run::replay_seek),
    row(&["savevm"], &[may("name", Rest)], "tag",
        "save a VM snapshot. If no tag is provided, a new snapshot is created", snapshots::savevm),
    row(&["sendkey"], &[needs("keys", Text), may("hold-time", Integer)], "keys [hold_ms]",
        "send keys to the VM (e.g. 'sendkey ctrl-alt-f1', default hold time=100 ms)", run::sendkey),
    row(&["stop", "s"], &[], "", "stop emulation", run::stop),
    asks(&["sum"], &[needs("start", Integer), needs("size", Integer)], "addr size",
        "compute the checksum of a memory region", memory::sum),
    row(&["system_powerdown"], &[], "", "send system power down event", run::system_powerdown),
    row(&["system_reset"], &[], "", "reset the system", run::system_reset),
    asks(&["x"], &[needs("fmt", Format), needs("addr", Integer)], "/fmt addr",
        "virtual memory dump starting at 'addr'", memory::x),
    asks(&["xp"], &[needs("fmt", Format), needs("addr", Integer)], "/fmt addr",
        "physical memory dump starting at 'addr'", memory::xp),
];

/// What `info` can show, sorted by name.
#[rustfmt::skip]
pub const INFO: &[Row] = &[
    row(&["block"], &[], "", "show the block devices", hardware::info_block),
    row(&["chardev"], &[], "", "show the character devices", run::info_chardev),
    row(&["cpus"], &[], "", "show infos for each CPU", run::info_cpus),
    row(&["history"], &[], "", "show the command line history", run::info_history),
    asks(&["irq"], &[], "", "show the interrupts statistics (if available)", info::irq),
    row(&["kvm"], &[], "", "show KVM information", run::info_kvm),
    asks(&["lapic"], &[may("apic-id", Integer)], "[apic-id]",
        "show local apic state (apic-id: local apic to read, default is which of current CPU)", info::lapic),
    asks(&["mem"], &[], "", "show the active virtual memory mappings", info::mem),
    asks(&["mtree"], &[needs("f", Switch)], "[-f]",
        "show memory tree (-f: dump flat view for address spaces)", info::mtree),
    row(&["name"], &[], "", "show the current VM name", run::info_name),
    row(&["network"], &[], "", "show the network state", hardware::info_network),
    asks(&["pci"], &[], "", "show PCI info", info::pci),
    asks(&["pic"], &[], "", "show PIC state", info::pic),
    asks(&["registers"], &[needs("a", Switch), may("vcpu", Integer)], "[-a|vcpu]",
        "show the cpu registers (-a: show register info for all cpus; vcpu: specific vCPU to query; \
         show the current CPU's registers if no argument is specified)", info::registers),
    row(&["replay"], &[], "", "show record/replay information", run::info_replay),
    row(&["snapshots"], &[], "", "show the currently saved VM snapshots", snapshots::info_snapshots),
    row(&["status"], &[], "", "show the current VM status (running|paused)", run::info_status),
    asks(&["tlb"], &[], "", "show virtual to physical memory mappings", info::tlb),
    row(&["uuid"], &[], "", "show the current VM UUID", run::info_uuid),
    row(&["version"], &[], "", "show the version of the program", run::info_version),
];

/// Looks a command up by one of its names.
pub fn find<'a>(rows: &'a [Row], name: &str) -> Option<&'a Row> {
    rows.iter().find(|row| row.names.contains(&name))
}

/// A row of help: `name|alias params -- help`; without parameters two blanks stand before the dashes.
pub fn help_line(row: &Row, prefix: &str) -> String {
    format!("{prefix}{} {} -- {}\n", row.names.join("|"), row.params, row.help)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_sorted_and_unique() {
        for rows in [COMMANDS, INFO] {
            let names: Vec<_> = rows.iter().map(|row| row.names[0]).collect();
            let mut sorted = names.clone();
            sorted.sort_unstable();
            sorted.dedup();
            assert_eq!(names, sorted);
        }
    }

    #[test]
    fn help_lines_as_qemu_writes_them() {
        let line = |rows, name| help_line(find(rows, name).unwrap(), "");
        assert_eq!(
            line(COMMANDS, "replay_break"),
            "replay_break icount -- set breakpoint at the specified instruction count\n"
        );
        assert_eq!(
            line(COMMANDS, "replay_delete_break"),
            "replay_delete_break  -- remove replay breakpoint\n"
        );
        assert_eq!(line(COMMANDS, "c"), "cont|c  -- resume emulation\n");
        assert_eq!(
            help_line(find(INFO, "replay").unwrap(), "info "),
            "info replay  -- show record/replay information\n"
        );
    }
}
