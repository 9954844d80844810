//! Builds the demo guest: a freestanding x86-64 ELF file, by the compiler that builds everything else.
//!
//! The guest needs no target of its own: it is compiled for the host with no standard library, a static
//! link and its own linker script.

use std::env;
use std::path::PathBuf;
use std::process::Command;

fn main() {
    let source = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("guest");
    let output = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("demo-guest.elf");
    println!("cargo::rerun-if-changed={}", source.display());
    let script = format!("link-arg=-Wl,-T,{}", source.join("link.ld").display());
    let mut rustc = Command::new(env::var_os("RUSTC").expect("cargo sets it"));
    rustc.arg(source.join("main.rs")).arg("-o").arg(&output);
    rustc.args(["--edition=2024", "--crate-type=bin", "--crate-name=demo_guest"]);
    rustc.args(["--target=x86_64-unknown-linux-gnu", "-Cpanic=abort", "-Copt-level=2", "-Cstrip=symbols"]);
    // Interrupts use the current stack, so nothing may be kept below its pointer.
    rustc.args([
        "-Crelocation-model=static",
        "-Cno-redzone=yes",
        "-Ctarget-cpu=x86-64",
        "-Cdefault-linker-libraries=no",
    ]);
    for option in
        ["-nostdlib", "-nostartfiles", "-static", "-no-pie", "-Wl,--build-id=none", "-Wl,--gc-sections"]
    {
        rustc.arg(format!("-Clink-arg={option}"));
    }
    rustc.arg(format!("-C{script}"));
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        rustc.arg(format!("-Clinker={linker}"));
    }
    let status = rustc.status().expect("the compiler that cargo named can be run");
    assert!(status.success(), "the demo guest does not compile");
}
