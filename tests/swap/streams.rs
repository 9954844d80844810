//! Streams that are replaced while the guest writes to them: no byte is lost, none is written twice.

use crate::guests;
use crate::lab::{Lab, PATIENCE};
use crate::monitor_client::Monitor;
use crate::process::assert_same;
use std::time::{Duration, Instant};

#[test]
fn replaced_streams_hold_every_byte_once() {
    const CHANGES: usize = 25;
    let lab = Lab::new();
    lab.write("k", guests::ticker());
    let line = "record -o rec -kernel k -m 16 -serial file:s0 -monitor unix:m,server=on,wait=off";
    let child = lab.start(line);
    let mut monitor = Monitor::connect(&lab.path("m"));
    for change in 1..=CHANGES {
        std::thread::sleep(Duration::from_millis(7 * (change as u64 % 5)));
        let command = format!("chardev-change serial0 file,path=s{change}");
        assert_eq!(monitor.ask(&command), "", "{command}");
        // Meanwhile the guest writes, however slow the host is.
        let deadline = Instant::now() + PATIENCE;
        while !std::fs::read(lab.path(&format!("s{change}"))).is_ok_and(|bytes| guests::lines(&bytes) > 0) {
            assert!(Instant::now() < deadline, "nothing in s{change}");
            std::thread::sleep(Duration::from_millis(1));
        }
        if change % 4 == 0 {
            assert_eq!(monitor.ask("device_restart serial0"), "");
        }
    }
    std::thread::sleep(Duration::from_millis(50));
    monitor.send("quit");
    child.end(PATIENCE).well();
    let written: Vec<u8> =
        (0..=CHANGES).flat_map(|number| std::fs::read(lab.path(&format!("s{number}"))).unwrap()).collect();
    let replayed = lab.run("replay rec -serial stdio").well();
    assert_same("all streams together", &replayed.out, &written);
}
