//! The step back: a replay is taken to its middle, one instruction on, one instruction back, and is where it was.

use super::screen::{self, Screen};
use super::step::{Script, Stage};
use super::{DemoError, claim};

/// The monitor's prompt.
const PROMPT: &str = "(reprise) ";

/// Goes back and forth in the recording, which has `icount` instructions.
pub(super) fn step(stage: &Stage<'_>, screen: &mut Screen, icount: u64) -> Result<(), DemoError> {
    let (middle, next) = (icount / 2, icount / 2 + 1);
    screen.begin("back", "from the end to the middle, one instruction on, one instruction back")?;
    let places = ["end".to_owned(), middle.to_string(), next.to_string(), middle.to_string()];
    let mut lines = String::new();
    for place in &places {
        lines.push_str(&format!("replay_seek {place}\nprint $pc\ninfo registers\n"));
    }
    lines.push_str("quit\n");
    let script = Script { question: PROMPT.as_bytes(), answer: lines.as_bytes() };
    let words = ["replay", "recording", "-serial", "null", "-monitor", "stdio"];
    let done = stage.run(&words, Some(&script), None)?;
    done.expect_success()?;

    let text = done.text();
    // The greeting comes before the first prompt.
    let answers: Vec<&str> = text.split(PROMPT).skip(1).map(str::trim).collect();
    let seen: Vec<(&str, &str)> = answers
        .chunks_exact(3)
        .filter(|chunk| chunk[0].is_empty())
        .map(|chunk| (chunk[1], chunk[2]))
        .collect();
    let [_, before, after, again] = seen[..] else {
        return Err(DemoError::Claim(format!("the monitor answered {text:?}")));
    };
    for ((pc, _), place) in [before, after, again].iter().zip(&places[1..]) {
        let place = place.parse().map_or_else(|_| place.clone(), screen::grouped);
        screen.line(&format!("  | instruction {place}: the next one is at {pc}"))?;
    }
    claim(before == again && before.1.contains("CR0="), || {
        format!("one instruction on and one back are not the same place: {:?} and {:?}", before.1, again.1)
    })?;
    claim(before.1 != after.1, || "one instruction on is the same place".to_owned())?;
    screen.done("every register is what it was", done.time)?;
    Ok(())
}
