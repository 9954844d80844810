//! The program itself. That this file is here also makes cargo build it before any test of the workspace runs.

use std::process::Command;

#[test]
fn it_says_what_it_is() {
    let output = Command::new(env!("CARGO_BIN_EXE_reprise")).arg("-version").output().unwrap();
    assert!(output.status.success());
    assert_eq!(output.stdout, concat!("reprise ", env!("CARGO_PKG_VERSION"), "\n").as_bytes());
}
