//! `reprise device block`: a disk.
//!
//! Reading order: `open`, `ordered` and `layer` (image files), `image` (bytes of a disk), `request` (what a driver asks for),
//! `disk` (what is done then), `blkreplay` (in which order), `config` (what the driver is told), `device` (the
//! back-end). `upkeep` and `keep`: what the disk holds is copied while it is in use; `restore`: it gets such contents
//! again. `commit` merges a layer into its base.

pub mod arguments;
pub mod blkreplay;
pub mod commit;
pub mod complaints;
pub mod config;
pub mod device;
pub mod disk;
pub mod header;
pub mod image;
pub mod keep;
pub mod layer;
pub mod lock;
pub mod merge;
pub mod open;
pub mod ordered;
pub mod request;
pub mod restore;
pub mod upkeep;

use crate::front_end::{self, Common};
use crate::lifetime::Stop;
use arguments::Keeping;
use clap::{Parser, ValueEnum};
use complaints::Complaints;
use config::Config;
use device::BlockDevice;
use disk::{Behaviour, Discard, Disk, ID_BYTES};
use image::Image;
use layer::BaseName;
use lock::Use;
use open::Format;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Largest disk: what a host file can hold.
const SIZE_MAX: u64 = i64::MAX as u64 & !(request::SECTOR - 1);
/// Bytes of a null disk whose size is not given, as in QEMU.
const NULL_SIZE: u64 = 1 << 30;
/// Most virtqueues.
const QUEUES_MAX: i64 = 64;

/// Serve a disk over vhost-user-blk.
#[derive(Parser)]
#[command(name = "reprise device block", disable_help_subcommand = true)]
struct Arguments {
    /// Image file.
    #[arg(long, visible_alias = "blk-file", value_name = "PATH", required_unless_present_any = ["print_capabilities", "driver", "size", "commit", "commit_chain", "merge"])]
    image: Option<PathBuf>,
    /// Format of the image; without it, it is found out.
    #[arg(long)]
    format: Option<Format>,
    /// What the disk lies on.
    #[arg(long, default_value = "file")]
    driver: Driver,
    /// Size of a disk that lies on no file.
    #[arg(long, value_name = "BYTES")]
    size: Option<u64>,
    /// Make a qcow2 image there for everything that is written, and leave the image as it is.
    #[arg(long, value_name = "PATH", conflicts_with = "snapshot")]
    layer: Option<PathBuf>,
    /// Forget at the end what was written, and leave the image as it is.
    #[arg(long)]
    snapshot: bool,
    /// Refuse to write.
    #[arg(long)]
    read_only: bool,
    /// Serial number, at most 20 bytes.
    #[arg(long, value_name = "TEXT", default_value = "")]
    serial: String,
    /// Number of virtqueues.
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u16).range(1..=QUEUES_MAX))]
    num_queues: u16,
    /// What discarding does.
    #[arg(long, default_value = "ignore")]
    discard: Discard,
    /// Whether a flush waits for the host's disk.
    #[arg(long, default_value = "writeback")]
    cache: Cache,
    /// Bytes of a block: 512, 1024, 2048 or 4096.
    #[arg(long, value_name = "N", default_value = "512")]
    logical_block_size: u32,
    /// Serve nothing: write what this layer holds into the image below it, print how much, and exit.
    #[arg(long, value_name = "LAYER", exclusive = true)]
    commit: Option<PathBuf>,
    /// Serve nothing: write what this layer and those below it hold into this base of this format, print how much, and exit.
    #[arg(long, value_names = ["LAYER", "BASE", "FORMAT"], num_args = 3, exclusive = true)]
    commit_chain: Vec<PathBuf>,
    /// Serve nothing: let the layer TOP hold what those below it hold, down to BOTTOM, print how much that is, and exit.
    #[arg(long, value_names = ["TOP", "BOTTOM"], num_args = 2, exclusive = true)]
    merge: Vec<PathBuf>,
    /// Hand what a request changes to the host before the request is complete: another process may go on after this one dies.
    #[arg(long)]
    restartable: bool,
    #[command(flatten)]
    keeping: Keeping,
    #[command(flatten)]
    common: Common,
}

/// What a disk lies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Driver {
    /// A file.
    File,
    /// Nothing: reads are zeros, writes are forgotten.
    NullCo,
    /// Memory, zeros at first.
    Memory,
}

/// What a flush does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Cache {
    /// Waits for the host's disk.
    Writeback,
    /// Does not wait.
    Unsafe,
}

/// Runs the program; `arguments` are those after `block`.
pub fn run(arguments: impl Iterator<Item = OsString>) -> Result<(), String> {
    let Some(arguments) = front_end::parse::<Arguments>("reprise device block", arguments)? else {
        return Ok(());
    };
    let common = &arguments.common;
    if common.print_capabilities {
        println!("{{\"type\": \"block\", \"features\": [\"blk-file\", \"read-only\"]}}");
        return Ok(());
    }
    if let Some(layer) = &arguments.commit {
        println!("{}", commit::report(&commit::commit(layer)?));
        return Ok(());
    }
    if let [layer, base, format] = &arguments.commit_chain[..] {
        let name = format.to_string_lossy();
        let format = Format::from_str(&name, false).map_err(|_| format!("'{name}' is not raw or qcow2"))?;
        println!("{}", commit::report(&commit::commit_chain(layer, base, format)?));
        return Ok(());
    }
    if let [top, bottom] = &arguments.merge[..] {
        println!("{}", commit::report(&merge::merge(top, bottom)?));
        return Ok(());
    }
    let label = common.label.clone().unwrap_or_else(|| "block".into());
    let stop = Stop::default();
    common.take_signals(&stop)?;
    let Some(front_end) = common.open()? else {
        return Err("one of --listen-fd, --socket-path and --fd is missing".into());
    };
    let ready = common.take_ready()?;
    let device = arguments.device(&label).map_err(|message| format!("{label}: {message}"))?;
    replay::confine::confine(replay::confine::Role::Device).map_err(|error| error.to_string())?;
    front_end::tell_ready(ready);
    front_end::serve(front_end, device, &label, &stop)
}

impl Arguments {
    fn device(&self, label: &str) -> Result<BlockDevice, String> {
        let behaviour = self.behaviour()?;
        let (base, name) = self.open_base()?;
        let (size, block) = (base.size(), self.logical_block_size);
        if !size.is_multiple_of(u64::from(block)) {
            return Err(format!("the disk has {size} bytes, which are not whole blocks of {block} bytes"));
        }
        let mut image = match &self.layer {
            Some(path) => layer::create(path, base, &name.seen_from(path))?,
            None if self.snapshot => match self.keeping.contents()? {
                Some(contents) => layer::open_contents(contents, base, &name)?,
                None => layer::create_anonymous(base, &name)?,
            },
            None => base,
        };
        let in_place = self.image.as_deref().filter(|_| self.is_in_place());
        let upkeep = self.keeping.begin(&mut image, in_place)?;
        let config = Config::new(size, block, self.num_queues, self.read_only, self.discard);
        let disk = Disk::new(image, behaviour, Complaints::new(label)).with_upkeep(upkeep);
        BlockDevice::new(disk, config)
    }

    fn behaviour(&self) -> Result<Behaviour, String> {
        let mut serial = [0; ID_BYTES];
        let text = self.serial.as_bytes();
        match serial.get_mut(..text.len()) {
            Some(place) => place.copy_from_slice(text),
            None => return Err(format!("--serial has {} bytes, at most {ID_BYTES} are allowed", text.len())),
        }
        if !matches!(self.logical_block_size, 512 | 1024 | 2048 | 4096) {
            return Err("--logical-block-size is 512, 1024, 2048 or 4096".into());
        }
        Ok(Behaviour {
            serial,
            discard: self.discard,
            flush_to_disk: self.cache == Cache::Writeback,
            restartable: self.restartable,
        })
    }

    /// The image below the layer, or that which is written to, and how a layer names it.
    fn open_base(&self) -> Result<(Image, BaseName), String> {
        if self.driver == Driver::File {
            let path = self.image.as_deref().ok_or("--image is missing")?;
            if self.size.is_some() {
                return Err("--size is for disks that lie on no file".into());
            }
            return self.open_file(path);
        }
        if self.image.is_some() || self.format.is_some() || self.layer.is_some() {
            return Err("--image, --format and --layer are for disks that lie on a file".into());
        }
        let size = match (self.driver, self.size) {
            (_, Some(size)) => size,
            (Driver::NullCo, None) => NULL_SIZE,
            (Driver::Memory | Driver::File, None) => return Err("--size is missing".into()),
        };
        if size == 0 || size > SIZE_MAX || !size.is_multiple_of(request::SECTOR) {
            return Err(format!("--size is a multiple of 512, at least 512, not {size}"));
        }
        match self.driver {
            Driver::NullCo => Ok((open::open_null(size)?, BaseName::of_driver("null-co"))),
            Driver::Memory | Driver::File => {
                Ok((open::open_memory(size, self.keeping.contents()?)?, BaseName::of_driver("memory")))
            }
        }
    }

    fn open_file(&self, path: &Path) -> Result<(Image, BaseName), String> {
        let format = match self.format {
            Some(format) => format,
            None => open::probe(path)?,
        };
        let use_ = if self.is_in_place() { Use::Write } else { Use::Read };
        Ok((open::open(path, Some(format), use_)?, BaseName::of_file(path, format)?))
    }

    /// Whether what is written goes to the image.
    fn is_in_place(&self) -> bool {
        self.layer.is_none() && !self.snapshot && !self.read_only
    }
}
