//! Monitor commands about disks, networks and the processes behind them.

use super::args::Args;
use super::commands::Context;
use crate::cli::chardev::parse_chardev;
use replay::device::{DeviceKind, Disk, Image, VirtioKind};
use replay::machine::Machine;
use std::fmt::Write as _;

pub(super) fn device_restart(context: &mut Context<'_>, args: &Args) {
    let id = args.text("id").unwrap_or_default().to_owned();
    match context.host.restart_device(&id) {
        Ok(ticket) => context.wait = ticket,
        Err(why) => context.error(&why),
    }
}

pub(super) fn chardev_change(context: &mut Context<'_>, args: &Args) {
    let id = args.text("id").unwrap_or_default().replace(',', ",,");
    let spec = format!("{},id={id}", args.text("args").unwrap_or_default());
    match parse_chardev(&spec).and_then(|chardev| context.host.change_chardev(chardev)) {
        Ok(ticket) => context.wait = ticket,
        Err(why) => context.error(&why),
    }
}

fn show(context: &mut Context<'_>, text: fn(&Machine) -> String) {
    let text = context.host.machine().map(text).unwrap_or_default();
    context.out.push_str(&text);
}

pub(super) fn info_block(context: &mut Context<'_>, _: &Args) {
    show(context, block_text);
}

pub(super) fn info_network(context: &mut Context<'_>, _: &Args) {
    show(context, network_text);
}

/// `info block`, in QEMU's form.
fn block_text(machine: &Machine) -> String {
    let mut text = String::new();
    for function in &machine.functions {
        for (index, _) in function.kind.back_ends() {
            let Some(device) = machine.devices.get(usize::from(index)) else { continue };
            let DeviceKind::Block(disk) = &device.kind else { continue };
            if !text.is_empty() {
                text.push('\n');
            }
            let _ = writeln!(text, "{}: {}", device.id, image_text(disk));
            let _ =
                writeln!(text, "    Attached to:      /machine/peripheral/{}/virtio-backend", function.id);
            let flushes = if disk.cache_unsafe { ", ignore flushes" } else { "" };
            let _ = writeln!(text, "    Cache mode:       writeback{flushes}");
        }
    }
    text
}

fn image_text(disk: &Disk) -> String {
    let read_only = if disk.read_only { ", read-only" } else { "" };
    match &disk.image {
        Image::File { path, format } => {
            format!("{} ({}{read_only})", path.display(), format.as_deref().unwrap_or("raw"))
        }
        Image::Null { .. } => format!("null-co:// (null-co{read_only})"),
        Image::Memory { bytes } => format!("memory of {bytes} bytes (memory{read_only})"),
    }
}

/// `info network`, in QEMU's form.
fn network_text(machine: &Machine) -> String {
    let mut text = String::new();
    for function in &machine.functions {
        let VirtioKind::Net { device, mac } = &function.kind else { continue };
        let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
        let _ = writeln!(text, "{}: index=0,type=nic,model=virtio-net-pci,macaddr={mac}", function.id);
        let Some(device) = machine.devices.get(usize::from(*device)) else { continue };
        let (kind, rest) = match &device.kind {
            DeviceKind::Net { netdev } => {
                let (kind, rest) = netdev.split_once(',').unwrap_or((netdev, ""));
                // The name stands before the colon already.
                let own = |word: &&str| !word.starts_with("id=");
                (
                    kind.to_owned(),
                    rest.split(',').filter(own).map(|word| format!(",{word}")).collect::<String>(),
                )
            }
            DeviceKind::Foreign { socket } => {
                ("vhost-user".to_owned(), format!(",path={}", socket.display()))
            }
            DeviceKind::Chardev | DeviceKind::Block(_) | DeviceKind::Entropy { .. } => continue,
        };
        let _ = writeln!(text, " \\ {}: index=0,type={kind}{rest}", device.id);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::tests::machine;

    #[test]
    fn texts_have_the_form_of_qemu() {
        let machine = machine(
            "-drive file=/d,if=none,id=a,format=raw -device virtio-blk,drive=a,id=x -cdrom /c \
             -netdev user,id=n,restrict=on -device virtio-net,netdev=n -device virtio-rng",
        );
        assert_eq!(
            block_text(&machine),
            "a: /d (raw)\n    Attached to:      /machine/peripheral/x/virtio-backend\n    \
             Cache mode:       writeback\n\nide1-cd0: /c (raw, read-only)\n    \
             Attached to:      /machine/peripheral/virtio-disk0/virtio-backend\n    Cache mode:       writeback\n"
        );
        assert_eq!(
            network_text(&machine),
            "virtio-net0: index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00:12:34:56\n \
             \\ n: index=0,type=user,restrict=on\n"
        );
    }
}
