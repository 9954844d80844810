//! `reprise device net`: a network back-end over a netdev of the host.
//!
//! Reading order: `spec` and `spec_user` (the command line), `frame` (what travels), `card` (the virtio device), `netdev` (the host
//! side) and its kinds: `user` over `fragments` and `slirp`, `tap` over `tun`, `stream` over `framing`, `dgram`, `nothing`.

pub mod card;
pub mod checksum;
pub mod dgram;
pub mod fragments;
pub mod frame;
pub mod framing;
pub mod netdev;
pub mod nothing;
pub mod slirp;
pub mod spec;
pub mod spec_user;
pub mod stream;
pub mod tap;
pub mod tun;
pub mod user;

use crate::front_end::{self, Common, FrontEnd};
use crate::lifetime::Stop;
use card::Card;
use clap::Parser;
use spec::NetdevSpec;
use std::ffi::OsString;
use virtio_bindings::virtio_net::{VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM};

/// What a netdev without a header of its own can do: complete the driver's checksums. Its frames have right checksums
/// themselves, so a driver that would take others is served as well.
const CSUM_FEATURES: u64 = 1 << VIRTIO_NET_F_CSUM | 1 << VIRTIO_NET_F_GUEST_CSUM;

/// Serve a virtio network device on a netdev of the host.
#[derive(Parser)]
#[command(name = "reprise device net", disable_help_subcommand = true)]
struct Arguments {
    /// The host side, in the syntax of QEMU's -netdev.
    #[arg(long, value_name = "SPEC", required_unless_present = "print_capabilities")]
    netdev: Option<String>,
    #[command(flatten)]
    common: Common,
}

/// Runs the program; `arguments` are those after `net`.
pub fn run(arguments: impl Iterator<Item = OsString>) -> Result<(), String> {
    let Some(arguments) = front_end::parse::<Arguments>("reprise device net", arguments)? else {
        return Ok(());
    };
    let common = &arguments.common;
    if common.print_capabilities {
        println!("{{\"type\": \"net\", \"features\": []}}");
        return Ok(());
    }
    let spec = NetdevSpec::parse(arguments.netdev.as_deref().unwrap_or_default())?;
    let label = common.label.clone().or_else(|| spec.id.clone()).unwrap_or_else(|| "net".into());
    let stop = Stop::default();
    common.take_signals(&stop)?;
    let front_end = common.open()?.ok_or("one of --listen-fd, --socket-path and --fd is missing")?;
    let ready = common.take_ready()?;
    let card = Card::new(netdev::open(&spec, &label)?, &label);
    replay::confine::confine(replay::confine::Role::Device).map_err(|error| error.to_string())?;
    front_end::tell_ready(ready);
    // Through the relay in any case, for QEMU's sake: see `early_enable`.
    let connected = match front_end {
        FrontEnd::Connected(stream) => stream,
        FrontEnd::Listening(listener) => {
            listener.accept().map_err(|error| format!("{label}: no front-end connected: {error}"))?.0
        }
    };
    front_end::serve(FrontEnd::Connected(connected), card, &label, &stop)
}
