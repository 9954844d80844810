//! Loading of generated images: the state they start in, and what happens to damaged ones.

use super::*;
use crate::firmware::layout::LowMemory;
use crate::firmware::tests::{machine, ram};
use std::path::PathBuf;
use vm_memory::{Bytes, GuestAddress};

const RAM_BYTES: u64 = 64 << 20;

/// A directory with image files, and the machine that boots them.
struct Bench {
    directory: tempfile::TempDir,
    machine: Machine,
}

impl Bench {
    fn new(kernel: &[u8]) -> Bench {
        let mut bench = Bench { directory: tempfile::tempdir().unwrap(), machine: machine(RAM_BYTES, 1) };
        bench.machine.boot.kernel = Some(bench.file("kernel", kernel));
        bench
    }

    fn file(&self, name: &str, contents: &[u8]) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, contents).unwrap();
        path
    }

    fn command_line(mut self, text: &str) -> Bench {
        self.machine.boot.cmdline = text.to_owned();
        self
    }

    fn initrd(mut self, contents: &[u8]) -> Bench {
        self.machine.boot.initrd = Some(self.file("initrd", contents));
        self
    }

    fn load(&self) -> Result<(GuestRam, Entry), LoadError> {
        let ram = ram(self.machine.ram_bytes);
        let entry = load(&ram, &self.machine)?;
        Ok((ram, entry))
    }

    fn error(&self) -> String {
        let text = self.load().expect_err("the image is bad").to_string();
        assert!(!text.contains('\n'), "{text}");
        text
    }
}

fn put(image: &mut [u8], offset: usize, bytes: &[u8]) {
    image[offset..offset + bytes.len()].copy_from_slice(bytes);
}

/// A bzImage of protocol 2.15 with one setup sector and 8 KiB of protected-mode code.
fn bzimage() -> Vec<u8> {
    let mut image = vec![0x90; 1024 + 8192];
    image[..1024].fill(0);
    image[0x1f1] = 1;
    put(&mut image, 0x1f4, &(8192u32 / 16).to_le_bytes());
    put(&mut image, 0x1fe, &[0x55, 0xaa, 0xeb, 0x6a]);
    put(&mut image, 0x202, b"HdrS\x0f\x02");
    image[0x211] = 1;
    put(&mut image, 0x22c, &0x7fff_ffffu32.to_le_bytes());
    put(&mut image, 0x230, &0x20_0000u32.to_le_bytes());
    put(&mut image, 0x234, &[1, 21, 0x3f, 0]);
    put(&mut image, 0x238, &2047u32.to_le_bytes());
    put(&mut image, 0x258, &0x100_0000u64.to_le_bytes());
    put(&mut image, 0x260, &0x20_0000u32.to_le_bytes());
    // Behind the header: code of the real-mode part, which must not reach boot_params.
    put(&mut image, 0x26c, &[0xee; 16]);
    image
}

/// ELF64 with one segment of 4 KiB (8 KiB in memory) at 2 MiB, and a note segment when a note is given.
fn elf64(pvh_entry: Option<u32>) -> Vec<u8> {
    let mut image = vec![0xf4; 0x2000];
    image[..0x1000].fill(0);
    put(&mut image, 0, b"\x7fELF\x02\x01\x01");
    put(&mut image, 16, &[2, 0, 62, 0, 1]);
    put(&mut image, 24, &0x20_0010u64.to_le_bytes());
    put(&mut image, 32, &64u64.to_le_bytes());
    put(&mut image, 52, &[64, 0, 56, 0, if pvh_entry.is_some() { 2 } else { 1 }, 0]);
    let mut row = |at: usize, kind: u64, fields: [u64; 5]| {
        let words = [kind, fields[0], fields[1], fields[2], fields[3], fields[4], 0];
        put(&mut image, at, &words.map(u64::to_le_bytes).concat());
    };
    row(64, 1, [0x1000, 0xffff_ffff_8020_0000, 0x20_0000, 0x1000, 0x2000]);
    if let Some(entry) = pvh_entry {
        row(120, 4, [0x200, 0, 0, 40, 40]);
        // A note of another owner comes first.
        put(&mut image, 0x200, b"\x04\0\0\0\x02\0\0\0\x12\0\0\0GNU\0\0\0\0\0");
        put(&mut image, 0x214, b"\x04\0\0\0\x04\0\0\0\x12\0\0\0Xen\0");
        put(&mut image, 0x224, &entry.to_le_bytes());
    }
    image
}

/// Multiboot header without addresses.
fn multiboot_header(flags: u32) -> Vec<u8> {
    let magic = 0x1bad_b002u32;
    [magic, flags, 0u32.wrapping_sub(magic).wrapping_sub(flags)].map(u32::to_le_bytes).concat()
}

/// ELF32 multiboot kernel with one segment at 1 MiB.
fn multiboot_elf() -> Vec<u8> {
    let mut image = vec![0xf4; 0x1000 + 0x800];
    image[..0x1000].fill(0);
    put(&mut image, 0, b"\x7fELF\x01\x01\x01");
    put(&mut image, 16, &[2, 0, 3, 0, 1]);
    put(&mut image, 24, &0xc010_0020u32.to_le_bytes());
    put(&mut image, 28, &52u32.to_le_bytes());
    put(&mut image, 40, &[52, 0, 32, 0, 1, 0]);
    let row = [1u32, 0x1000, 0xc010_0000, 0x10_0000, 0x800, 0x1800, 0, 0];
    put(&mut image, 52, &row.map(u32::to_le_bytes).concat());
    put(&mut image, 0x1000, &multiboot_header(3));
    image
}

/// Flat multiboot kernel: header at file offset 0x10, loaded to 1 MiB from the file's start.
fn multiboot_flat() -> Vec<u8> {
    let mut image = vec![0xf4; 0x400];
    put(&mut image, 0x10, &multiboot_header(1 << 16));
    let addresses = [0x10_0010u32, 0x10_0000, 0x10_0400, 0x10_1000, 0x10_0040];
    put(&mut image, 0x1c, &addresses.map(u32::to_le_bytes).concat());
    image
}

fn u32_at(ram: &GuestRam, gpa: u64) -> u32 {
    ram.read_obj(GuestAddress(gpa)).unwrap()
}

fn u64_at(ram: &GuestRam, gpa: u64) -> u64 {
    ram.read_obj(GuestAddress(gpa)).unwrap()
}

fn bytes_at(ram: &GuestRam, gpa: u64, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    ram.read_slice(&mut bytes, GuestAddress(gpa)).unwrap();
    bytes
}

#[test]
fn bzimage_starts_in_64_bit_mode() {
    let (ram, entry) =
        Bench::new(&bzimage()).command_line("console=ttyS0").initrd(&[7; 5000]).load().unwrap();
    let EntryMode::Long64 { rip, rsi, cr3, .. } = entry.mode else { panic!("{entry:?}") };
    assert_eq!((rip, bytes_at(&ram, 0x10_0000, 2)), (0x10_0200, vec![0x90, 0x90]));
    assert_eq!(u32_at(&ram, rsi + 0x1e4), 0, "scratch");
    assert_eq!(bytes_at(&ram, rsi + 0x202, 4), b"HdrS");
    assert_eq!(bytes_at(&ram, rsi + 0x210, 1), [0xff]);
    assert_eq!(bytes_at(&ram, rsi + 0x26c, 16), [0; 16], "only the header is copied");
    assert_eq!(bytes_at(&ram, u64::from(u32_at(&ram, rsi + 0x228)), 14), b"console=ttyS0\0");
    assert_eq!(u64_at(&ram, rsi + 0x70), LowMemory::RSDP);
    let (initrd, size) = (u64::from(u32_at(&ram, rsi + 0x218)), u32_at(&ram, rsi + 0x21c));
    assert_eq!((initrd, size), (RAM_BYTES - 8192, 5000));
    assert_eq!(bytes_at(&ram, initrd, 5000), [7; 5000]);
    assert_eq!(bytes_at(&ram, rsi + 0x1e8, 1), [5]);
    assert_eq!(
        (u64_at(&ram, rsi + 0x2d0), u64_at(&ram, rsi + 0x2d8), u32_at(&ram, rsi + 0x2e0)),
        (0, 0x9fc00, 1)
    );
    assert_eq!(u64_at(&ram, entry.gdt.base + 0x10), 0x00af_9b00_0000_ffff);
    // The last of the 4 GiB is mapped to itself.
    let pdpt = u64_at(&ram, cr3) & !0xfff;
    let directory = u64_at(&ram, pdpt + 24) & !0xfff;
    assert_eq!(u64_at(&ram, directory + 511 * 8), 0xffe0_0083);
}

#[test]
fn initrd_stays_below_the_kernel_s_limit() {
    let mut image = bzimage();
    put(&mut image, 0x22c, &0x1ff_ffffu32.to_le_bytes());
    let (ram, _) = Bench::new(&image).initrd(&[7; 4096]).load().unwrap();
    assert_eq!(u32_at(&ram, LowMemory::ZERO_PAGE + 0x218), 0x1ff_f000);
}

#[test]
fn initrd_goes_above_4_gib_when_it_must() {
    let mut image = bzimage();
    // No room below: the kernel takes what is under its limit.
    put(&mut image, 0x22c, &0x120_0fffu32.to_le_bytes());
    let mut bench = Bench::new(&image).initrd(&[7; 8192]);
    bench.machine.ram_bytes = (3 << 30) + (1 << 20);
    let ram =
        GuestRam::from_ranges(&[(GuestAddress(0), 64 << 20), (GuestAddress(4 << 30), 1 << 20)]).unwrap();
    load(&ram, &bench.machine).unwrap();
    let words = [0x218, 0x0c0, 0x21c, 0x0c4].map(|at| u32_at(&ram, LowMemory::ZERO_PAGE + at));
    assert_eq!(words, [0xfe000, 1, 8192, 0]);
    assert_eq!(bytes_at(&ram, 0x1_000f_e000, 8192), [7; 8192]);
}

#[test]
fn bzimage_faults_are_named() {
    let change = |offset: usize, bytes: &[u8]| {
        let mut image = bzimage();
        put(&mut image, offset, bytes);
        Bench::new(&image).error()
    };
    assert!(change(0x236, &[0x3e]).contains("no 64-bit entry point"));
    assert!(change(0x206, &[0x0b, 0x02]).contains("older than boot protocol 2.12"));
    assert!(change(0x211, &[0]).contains("zImage"));
    assert!(change(0x230, &[3]).contains("kernel_alignment"));
    assert!(change(0x230, &[0; 4]).contains("kernel_alignment"));
    assert!(change(0x258, &[0xff; 8]).contains("exceed 64 bits"));
    assert!(change(0x260, &[0, 0, 0, 0x70]).contains("is not free RAM"));
    assert!(change(0x1f4, &[0xff; 4]).contains("truncated: the protected-mode kernel"));
    assert!(change(0x1f4, &[0; 4]).contains("empty"));
}

#[test]
fn command_line_limits() {
    let long = "x".repeat(2048);
    let error = Bench::new(&bzimage()).command_line(&long).error();
    assert_eq!(error, "the kernel command line has 2048 bytes, the kernel takes at most 2047");
    assert!(Bench::new(&bzimage()).command_line(&long[1..]).load().is_ok());
    assert!(Bench::new(&bzimage()).command_line("a\0b").error().contains("zero byte"));
    assert!(
        Bench::new(&multiboot_elf()).command_line(&"x".repeat(0x1_0000)).error().contains("at most 65535")
    );
}

#[test]
fn initrds_that_do_not_fit_are_refused() {
    let larger = Bench::new(&bzimage()).initrd(&vec![0; RAM_BYTES as usize + 1]).error();
    assert!(
        larger.contains("cannot load initrd") && larger.contains("do not fit in the machine"),
        "{larger}"
    );
    let beside = Bench::new(&bzimage()).initrd(&vec![0; RAM_BYTES as usize]).error();
    assert!(beside.contains("bytes of RAM that the kernel leaves"), "{beside}");
    assert!(Bench::new(&bzimage()).initrd(&[]).load().is_ok());
}

#[test]
fn files_that_are_no_kernel_are_refused() {
    let mut bench = Bench::new(b"#!/bin/sh\n");
    assert!(bench.error().ends_with("not a kernel image (expected bzImage, ELF or multiboot)"));
    bench.machine.boot.kernel = Some(bench.directory.path().join("missing"));
    assert!(bench.error().contains("missing': No such file"));
    bench.machine.boot.kernel = Some(bench.directory.path().to_owned());
    assert!(bench.error().contains("not a regular file"));
    bench.machine.boot.kernel = None;
    assert!(bench.error().contains("give a kernel image with -kernel"));
    let mut bench = Bench::new(&bzimage());
    bench.machine.boot.initrd = Some(bench.directory.path().join("missing"));
    assert!(bench.error().contains("cannot load initrd"));
    bench.machine.ram_bytes = 1 << 20;
    assert!(bench.error().contains("too small"));
}

#[test]
fn pvh_kernel_gets_start_info() {
    let bench = Bench::new(&elf64(Some(0x20_0100))).command_line("quiet").initrd(&[9; 100]);
    let (ram, entry) = bench.load().unwrap();
    let EntryMode::Protected32 { eip, ebx, .. } = entry.mode else { panic!("{entry:?}") };
    let info = u64::from(ebx);
    assert_eq!((eip, u32_at(&ram, info), u32_at(&ram, info + 4)), (0x20_0100, 0x336e_c578, 1));
    assert_eq!(bytes_at(&ram, u64_at(&ram, info + 24), 6), b"quiet\0");
    assert_eq!(u64_at(&ram, info + 32), LowMemory::RSDP);
    let (modules, map) = (u64_at(&ram, info + 16), u64_at(&ram, info + 40));
    assert_eq!((u32_at(&ram, info + 12), u64_at(&ram, modules + 8)), (1, 100));
    assert_eq!(bytes_at(&ram, u64_at(&ram, modules), 100), [9; 100]);
    assert_eq!((u32_at(&ram, info + 48), u64_at(&ram, map + 8), u32_at(&ram, map + 16)), (5, 0x9fc00, 1));
    assert_eq!(u64_at(&ram, entry.gdt.base + 0x10), 0x00cf_9b00_0000_ffff);
    assert_eq!(bytes_at(&ram, 0x20_0fff, 2), [0xf4, 0]);
}

#[test]
fn elf64_without_note_starts_as_linux_does() {
    let (ram, entry) = Bench::new(&elf64(None)).command_line("quiet").load().unwrap();
    let EntryMode::Long64 { rip, rsi, .. } = entry.mode else { panic!("{entry:?}") };
    assert_eq!((rip, bytes_at(&ram, rip, 1)), (0x20_0010, vec![0xf4]));
    assert_eq!(bytes_at(&ram, u64::from(u32_at(&ram, rsi + 0x228)), 6), b"quiet\0");
}

#[test]
fn elf_faults_are_named() {
    let change = |offset: usize, bytes: &[u8]| {
        let mut image = elf64(None);
        put(&mut image, offset, bytes);
        Bench::new(&image).error()
    };
    assert!(change(18, &[183]).contains("another architecture"));
    assert!(change(16, &[1]).contains("not an executable"));
    assert!(change(54, &[55]).contains("wrong size"));
    assert!(change(32, &[8]).contains("overlap the ELF header"));
    assert!(change(32, &[0xff; 8]).contains("truncated: the ELF program headers"));
    assert!(change(72, &[0xff; 8]).contains("exceeds 64 bits"));
    assert!(change(24, &[0; 8]).contains("the entry point is in no segment"));
    assert!(change(88, &0x1000u64.to_le_bytes()).contains("in no segment"), "the entry is checked first");
    assert!(change(104, &u64::MAX.to_le_bytes()).contains("exceeds 64 bits"));
    assert!(change(104, &0x1000_0000u64.to_le_bytes()).contains("not free RAM"));
    assert!(change(64, &[0]).contains("in no segment"));
    assert!(Bench::new(&elf64(Some(0x10))).error().contains("PVH entry point"));
}

#[test]
fn multiboot_elf_gets_its_information() {
    let (ram, entry) = Bench::new(&multiboot_elf()).command_line("-v").initrd(&[3; 77]).load().unwrap();
    let EntryMode::Protected32 { eip, eax, ebx } = entry.mode else { panic!("{entry:?}") };
    assert_eq!((eip, eax), (0x10_0020, 0x2bad_b002), "the virtual entry address is translated");
    let info = u64::from(ebx);
    let field = |offset| u32_at(&ram, info + offset);
    assert_eq!(field(0), 1 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9);
    assert_eq!((field(4), field(8)), (639, (RAM_BYTES - (1 << 20)) as u32 / 1024));
    assert_eq!(bytes_at(&ram, field(16).into(), 10), b"kernel -v\0");
    let module = u64::from(field(24));
    assert_eq!((field(20), u32_at(&ram, module), u32_at(&ram, module + 4)), (1, 0x10_2000, 0x10_204d));
    assert_eq!(bytes_at(&ram, 0x10_2000, 77), [3; 77]);
    assert_eq!((field(44) % 24, u32_at(&ram, field(48).into())), (0, 20));
    assert_eq!(bytes_at(&ram, field(64).into(), 8), b"reprise\0");
}

#[test]
fn flat_multiboot_uses_the_header_s_addresses() {
    let (ram, entry) = Bench::new(&multiboot_flat()).load().unwrap();
    assert!(matches!(entry.mode, EntryMode::Protected32 { eip: 0x10_0040, eax: 0x2bad_b002, .. }));
    assert_eq!(u32_at(&ram, 0x10_0010), 0x1bad_b002);
    let mut video = multiboot_flat();
    put(&mut video, 0x10, &multiboot_header(1 << 16 | 1 << 2));
    assert!(Bench::new(&video).error().contains("video mode"));
    let mut early = multiboot_flat();
    put(&mut early, 0x20, &0u32.to_le_bytes());
    assert!(Bench::new(&early).error().contains("before the file"));
}

/// Every image, so that the tests below cover each format.
fn images() -> [Vec<u8>; 5] {
    [bzimage(), elf64(Some(0x20_0100)), elf64(None), multiboot_elf(), multiboot_flat()]
}

#[test]
fn truncated_images_are_refused() {
    for image in images() {
        let mut bench = Bench::new(&image);
        assert!(bench.load().is_ok());
        let ram = ram(RAM_BYTES);
        let headers =
            (0..0x300).chain([0x3ff, 0xfff, 0x1000, 0x1001, 0x1010, image.len() - 16, image.len() - 1]);
        for length in headers.filter(|length| *length < image.len()) {
            bench.machine.boot.kernel = Some(bench.file("kernel", &image[..length]));
            assert!(load(&ram, &bench.machine).is_err(), "{length} bytes");
        }
    }
}

#[test]
fn corrupted_images_never_panic() {
    // A small generator of our own keeps the cases the same everywhere (Numerical Recipes' LCG).
    let mut state = 0x5eed_u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let ram = ram(RAM_BYTES);
    for image in images() {
        let mut bench = Bench::new(&image).initrd(&[1; 100]);
        for _ in 0..400 {
            let mut damaged = image.clone();
            for _ in 0..=random(3) {
                let value = [0, 1, 0x7f, 0x80, 0xff, random(256) as u8][random(6)];
                let (start, count) = (random(0x2a0.min(image.len() - 8)), 1 + random(8));
                damaged[start..start + count].fill(value);
            }
            bench.machine.boot.kernel = Some(bench.file("kernel", &damaged));
            // Either result is right; what counts is that there is one.
            let _ = load(&ram, &bench.machine);
        }
    }
}
