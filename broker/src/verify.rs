//! `reprise verify`: replays a recording in silence, compares every digest, says how it went.

use crate::run::{self, RunError, Verified};
use crate::sequence::ending::End;
use indicatif::{ProgressBar, ProgressStyle};
use replay::log::Ending;
use std::io::IsTerminal;
use std::path::Path;
use std::time::Instant;

/// Verifies and reports; the program's status.
pub fn verify(path: &Path, json: bool) -> Result<u8, RunError> {
    let bar = if json { ProgressBar::hidden() } else { progress_bar() };
    let start = Instant::now();
    let result = run::replay_silently(path, |_| Ok(vec![]), &mut |icount, last| {
        bar.set_length(last);
        bar.set_position(icount.min(last));
    });
    bar.finish_and_clear();
    let verified = result?;
    let seconds = start.elapsed().as_secs_f64();
    if json {
        println!("{}", report(path, &verified, seconds));
    } else {
        tell(path, &verified, seconds);
    }
    Ok(u8::from(!is_good(&verified)))
}

/// A bar for a replay, on a terminal.
pub fn progress_bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let template = "{bar:40} {percent:>3} % {human_pos} of {human_len} instructions, {eta} left";
    // The template is ours; one that indicatif does not take would only look plainer.
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(0).with_style(style)
}

/// A recording that was cut short is good as far as it goes.
pub fn is_good(verified: &Verified) -> bool {
    verified.end == End::Replayed && !matches!(verified.ending, Ending::Damaged(_))
}

fn tell(path: &Path, verified: &Verified, seconds: f64) {
    let path = path.display();
    if is_good(verified) {
        let Verified { icount, digests, ending, .. } = verified;
        println!(
            "{path}: {icount} instructions replayed in {seconds:.1} s, {digests} digests equal; {ending}"
        );
    } else if let Some(why) = verified.end.message() {
        eprintln!("reprise: {path}: {why}");
    } else {
        eprintln!(
            "reprise: {path}: not verified beyond instruction {}; {}",
            verified.icount, verified.ending
        );
    }
}

fn report(path: &Path, verified: &Verified, seconds: f64) -> serde_json::Value {
    let ending = match &verified.ending {
        Ending::Finished { .. } => "finished",
        Ending::Cut { .. } => "cut",
        Ending::Damaged(_) => "damaged",
    };
    let divergence = match &verified.end {
        End::Diverged(divergence) => Some(divergence),
        End::Shutdown(_) | End::PanicShutdown | End::Replayed | End::Failed(_) | End::FailedAndSaid => None,
    };
    serde_json::json!({
        "recording": path.display().to_string(),
        "ok": is_good(verified),
        "icount": verified.icount,
        "digests": verified.digests,
        "log": ending,
        "log_detail": verified.ending.to_string(),
        "error": verified.end.message(),
        "divergence": divergence,
        "seconds": seconds,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sequence::ending::Divergence;
    use replay::time::Icount;

    #[test]
    fn a_report_names_the_difference() {
        let verified = Verified {
            end: End::Diverged(Divergence {
                icount: 7,
                field: "digest of registers".to_owned(),
                expected: "1".to_owned(),
                found: "2".to_owned(),
            }),
            icount: 7,
            digests: 0,
            ending: Ending::Finished { icount: Icount(9) },
        };
        let report = report(Path::new("d"), &verified, 0.5);
        assert_eq!(report["ok"], false);
        assert_eq!(report["log"], "finished");
        assert_eq!(report["divergence"]["icount"], 7);
        assert!(report["error"].as_str().unwrap().contains("recorded 1, replayed 2"));
    }

    #[test]
    fn what_is_good() {
        let cut = Ending::Cut { at_offset: 1, last_icount: Icount(9) };
        assert!(is_good(&Verified { end: End::Replayed, icount: 9, digests: 0, ending: cut.clone() }));
        assert!(!is_good(&Verified { end: End::Failed("x".to_owned()), icount: 9, digests: 0, ending: cut }));
    }
}
