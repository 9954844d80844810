//! Bad input of every kind: one clear line on stderr, a status that is not 0, and nothing on stdout.

use crate::guests;
use crate::lab::Lab;

/// A laboratory with a good kernel `k`, and much that is wrong.
fn lab() -> Lab {
    let lab = Lab::new();
    lab.write("k", guests::power_off());
    lab.write("truncated", &broker::demo_guest::IMAGE[..broker::demo_guest::IMAGE.len() / 2]);
    lab.write("text", "this is no kernel\n");
    lab.write("big", vec![0; 20 << 20]);
    std::fs::create_dir(lab.path("empty")).unwrap();
    std::fs::create_dir(lab.path("foreign")).unwrap();
    lab.write("foreign/precious", "mine");
    lab.write("file", "mine");
    lab
}

/// Fails unless the line is refused in one line that holds `words`.
fn refused(lab: &Lab, line: &str, words: &[&str]) {
    let done = lab.run(line);
    assert_ne!(done.code(), 0, "{line}: {:?}", done.err);
    assert!(done.code() < 128, "{line}: killed");
    assert_eq!(done.err.lines().count(), 1, "{line}: {:?}", done.err);
    assert!(done.err.starts_with("reprise"), "{line}: {:?}", done.err);
    for word in words {
        assert!(done.err.contains(word), "{line}: no {word:?} in {:?}", done.err);
    }
    assert!(done.out.is_empty(), "{line}: {:?}", done.text());
}

#[test]
fn images() {
    let lab = lab();
    for (line, words) in [
        ("-kernel missing", &["-kernel", "missing", "No such file"][..]),
        ("-kernel truncated -serial stdio", &["truncated"]),
        ("-kernel text", &["text", "not a kernel image"]),
        ("-kernel foreign", &["foreign", "not a plain file"]),
        ("-kernel k -initrd missing", &["-initrd", "missing"]),
        ("-kernel k -initrd big -m 16", &["-initrd", "20 MiB", "16 MiB"]),
        ("-serial stdio", &["-kernel"]),
    ] {
        refused(&lab, line, words);
        refused(&lab, &format!("record -o rec {line}"), words);
        assert!(!lab.path("rec/events.log").exists() || line.contains("truncated") || line.contains("text"));
        let _ = std::fs::remove_dir_all(lab.path("rec"));
    }
}

#[test]
fn options() {
    let lab = lab();
    for (line, words) in [
        ("--nonsense", &["-nonsense", "invalid option"][..]),
        ("-kernel k -icount foo=1", &["-icount", "foo"]),
        ("-kernel k -icount shift=11", &["shift"]),
        ("-kernel k -icount rr=record", &["rr", "File name"]),
        ("-kernel k -cpu nosuch", &["-cpu", "nosuch"]),
        ("-kernel k -cpu x86-64-v3,+nosuch", &["-cpu", "nosuch"]),
        ("-kernel k -netdev bridge,id=n", &["-netdev", "not supported"]),
        ("-kernel k -smp 2", &["-smp", "one CPU"]),
        ("-kernel k -m 0", &["-m"]),
        ("-kernel k -m 65G", &["-m", "64 GiB"]),
        ("-kernel k -m 1", &["RAM"]),
        ("-kernel k -serial nosuch", &["-serial", "nosuch"]),
        ("-kernel k -serial stdio -monitor stdio", &["stdio"]),
        ("-kernel k -serial unix:missing/socket,server,nowait", &["missing/socket"]),
        ("-kernel k -serial file:missing/out", &["missing/out"]),
    ] {
        refused(&lab, line, words);
    }
}

#[test]
fn recordings() {
    let lab = lab();
    lab.run("record -o rec -kernel k").well();
    let replay = "-kernel k -icount shift=auto,rr=replay,rrfile=";
    let record = "-kernel k -icount shift=auto,rr=record,rrfile=";
    for (line, words) in [
        ("record -o rec -kernel k", &["rec", "--force"][..]),
        ("record -o missing/rec -kernel k", &["missing/rec", "No such file"]),
        (&format!("{record}missing/rec"), &["missing/rec", "No such file"]),
        (&format!("{record}foreign"), &["foreign", "other files"]),
        ("record --force -o foreign -kernel k", &["foreign", "other files"]),
        (&format!("{record}file"), &["file", "not the directory"]),
        ("record -kernel k", &["--output"]),
        ("replay", &["RECORDING"]),
        ("replay missing", &["no recording missing"]),
        ("replay empty", &["empty", "no manifest"]),
        ("replay file", &["file"]),
        (&format!("{replay}missing"), &["no recording missing"]),
        (&format!("{replay}empty"), &["empty", "no manifest"]),
        ("verify missing", &["missing"]),
        ("info missing", &["missing"]),
        ("log missing", &["missing"]),
        ("log rec --kind nosuch", &["nosuch"]),
        ("replay rec -icount rr=replay,rrfile=rec", &["rr="]),
        (&format!("{replay}rec,rrsnapshot=other"), &["other", "none"]),
    ] {
        refused(&lab, line, words);
    }
    assert_eq!(std::fs::read(lab.path("foreign/precious")).unwrap(), b"mine");
    assert_eq!(std::fs::read(lab.path("file")).unwrap(), b"mine");
}

#[test]
fn a_read_only_place() {
    // Even root cannot make a directory there.
    refused(&lab(), "record -o /proc/rec -kernel k", &["/proc/rec"]);
}

#[test]
fn a_busy_port() {
    let lab = lab();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    for option in ["-serial", "-monitor"] {
        let line = format!("-kernel k {option} tcp:127.0.0.1:{port},server,nowait");
        refused(&lab, &line, &[&port.to_string(), "in use"]);
    }
}
