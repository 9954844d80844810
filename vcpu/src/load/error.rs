//! Why a machine's images could not be loaded; each message is one line for the user.

use crate::firmware::FirmwareError;
use std::io;
use std::path::PathBuf;

/// Why a machine could not be made ready to start.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// No `-kernel`.
    #[error("booting from firmware is not supported yet: give a kernel image with -kernel")]
    NoKernel,
    /// The kernel image is at fault.
    #[error("cannot load kernel '{path}': {problem}")]
    Kernel {
        /// Image file.
        path: PathBuf,
        /// What is wrong with it.
        problem: ImageError,
    },
    /// The initrd is at fault.
    #[error("cannot load initrd '{path}': {problem}")]
    Initrd {
        /// Image file.
        path: PathBuf,
        /// What is wrong with it.
        problem: ImageError,
    },
    /// The command line is longer than the kernel, or the room for it, takes.
    #[error("the kernel command line has {bytes} bytes, the kernel takes at most {bytes_max}")]
    CommandLineTooLong {
        /// Length without terminator.
        bytes: u64,
        /// Longest that is taken.
        bytes_max: u64,
    },
    /// The command line holds its own terminator.
    #[error("the kernel command line contains a zero byte")]
    CommandLineZero,
    /// Less RAM than firmware tables and loaders need.
    #[error("guest RAM of {bytes} bytes is too small: at least 2 MiB are needed")]
    RamTooSmall {
        /// RAM of the machine.
        bytes: u64,
    },
    /// The boot information could not be written; RAM is not laid out as the machine says.
    #[error("guest RAM has no memory at {gpa:#x}, where the boot information goes")]
    NoRam {
        /// First address that could not be written.
        gpa: u64,
    },
    /// ACPI or SMBIOS tables could not be made.
    #[error(transparent)]
    Firmware(#[from] FirmwareError),
}

/// What is wrong with an image file.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// Missing, or not readable.
    #[error("{0}")]
    Open(io::Error),
    /// A directory, a device, a pipe.
    #[error("not a regular file")]
    NotAFile,
    /// Reading failed half-way.
    #[error("reading failed: {0}")]
    Read(io::Error),
    /// None of the formats.
    #[error("not a kernel image (expected bzImage, ELF or multiboot)")]
    UnknownFormat,
    /// The file ends before what its headers promise.
    #[error("truncated: {what} ends at byte {needs}, the file has {has}")]
    Truncated {
        /// Part of the image.
        what: &'static str,
        /// End of that part in the file.
        needs: u64,
        /// Length of the file.
        has: u64,
    },
    /// A header field has a value that the format forbids.
    #[error("damaged: {0}")]
    Malformed(&'static str),
    /// A correct image that asks for what this machine does not do.
    #[error("not supported: {0}")]
    Unsupported(&'static str),
    /// linux-loader refused what our own checks had passed.
    #[error("{0}")]
    Loader(linux_loader::loader::Error),
    /// The file has more bytes than the machine.
    #[error("{bytes} bytes do not fit in the machine, whose limit is {ram_bytes}")]
    LargerThanRam {
        /// Length of the file.
        bytes: u64,
        /// What could be taken.
        ram_bytes: u64,
    },
    /// The kernel needs memory where the machine has none free.
    #[error(
        "needs memory from {start:#x} to {end:#x}, which is not free RAM in this machine (give more with -m)"
    )]
    OutsideRam {
        /// First byte.
        start: u64,
        /// Byte after the last.
        end: u64,
    },
    /// The initrd finds no room beside the kernel.
    #[error("{bytes} bytes do not fit in the {room} bytes of RAM that the kernel leaves (give more with -m)")]
    NoRoom {
        /// Length of the file.
        bytes: u64,
        /// Largest that would fit.
        room: u64,
    },
}
