//! Rules about the source that a reader relies on, checked: edges between crates, lengths, where `unsafe` may
//! stand, which calls are banned. To change a rule, change it here, in a commit of its own.

mod rules;
mod source;

use source::{Source, all_sources, crate_dependencies};

/// Lines a file may have.
const FILE_LINES_MAX: usize = 600;
/// Lines a function may have.
const FUNCTION_LINES_MAX: usize = 70;

fn report(problems: Vec<String>) {
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

#[test]
fn crates_depend_one_way() {
    let mut problems = vec![];
    for (name, allowed) in rules::EDGES {
        for dependency in crate_dependencies(name) {
            let ours = rules::EDGES.iter().any(|(crate_name, _)| *crate_name == dependency);
            if ours && !allowed.contains(&dependency.as_str()) {
                problems.push(format!("{name} must not depend on {dependency}"));
            }
        }
    }
    for source in all_sources() {
        let is_main = source.path == "broker/src/main.rs";
        let entry = ["vcpu::", "devices::"].iter().find(|entry| source.code.contains(*entry));
        if let (true, false, Some(entry)) = (source.path.starts_with("broker/"), is_main, entry) {
            problems.push(format!("{}: only broker/src/main.rs may name {entry}", source.path));
        }
    }
    report(problems);
}

#[test]
fn files_and_functions_are_short() {
    let mut problems = vec![];
    for source in all_sources() {
        let lines = source.text.lines().count();
        if lines > FILE_LINES_MAX && !rules::TABLES.contains(&source.path.as_str()) {
            problems.push(format!("{}: {lines} lines, {FILE_LINES_MAX} allowed", source.path));
        }
        for (name, lines) in source.functions() {
            if lines > FUNCTION_LINES_MAX {
                problems.push(format!(
                    "{}: fn {name} has {lines} lines, {FUNCTION_LINES_MAX} allowed",
                    source.path
                ));
            }
        }
    }
    report(problems);
}

#[test]
fn unsafe_stands_where_it_may() {
    let mut problems = vec![];
    for source in all_sources() {
        let used = source.has_word("unsafe");
        let listed = rules::UNSAFE.contains(&source.path.as_str());
        if used && !listed {
            problems
                .push(format!("{}: `unsafe` outside the files listed in tests/tidy/rules.rs", source.path));
        }
        if listed && !used {
            problems.push(format!("{}: listed for `unsafe` but has none", source.path));
        }
    }
    report(problems);
}

#[test]
fn banned_calls_stay_out() {
    let mut problems = vec![];
    for source in all_sources() {
        for ban in rules::BANS {
            let exempt = ban.except.iter().any(|prefix| source.path.starts_with(prefix));
            if !exempt && source.production.contains(ban.call) {
                problems.push(format!("{}: {} — {}", source.path, ban.call, ban.instead));
            }
        }
    }
    report(problems);
}

#[test]
fn every_file_says_what_it_holds() {
    let silent = |source: &Source| !source.text.starts_with("//!");
    report(
        all_sources().iter().filter(|s| silent(s)).map(|s| format!("{}: no //! header", s.path)).collect(),
    );
}

#[test]
fn documents_have_one_title() {
    let mut problems = vec![];
    for (path, text) in source::documents() {
        let titles = text.lines().filter(|line| line.starts_with("# ")).count();
        let fenced =
            text.split("```").step_by(2).flat_map(str::lines).filter(|line| line.starts_with("# ")).count();
        if fenced != 1 {
            problems.push(format!("{path}: {fenced} titles outside code ({titles} in all), one wanted"));
        }
    }
    report(problems);
}
