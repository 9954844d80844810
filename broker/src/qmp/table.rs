//! The table of QMP commands: one row each.

use super::{commands, queries, snapshots};
use crate::hmp::host::{Host, Ticket};
use serde_json::{Map, Value, json};

/// Arguments by name.
pub type Arguments = Map<String, Value>;

/// What a command comes to.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Its return value.
    Done(Value),
    /// It is done when this is; its return value is an empty object.
    Later(Ticket),
    /// A line of the human monitor, whose text so far is this; it is done when the ticket is, if there is one.
    Human(String, Option<Ticket>),
    /// The run ends.
    Quit,
}

impl Outcome {
    /// Done, with nothing to say.
    pub fn nothing() -> Outcome {
        Outcome::Done(json!({}))
    }
}

/// The type of an argument, as errors name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A number without fraction.
    Integer,
    /// A string.
    Text,
    /// An array.
    List,
    /// An array of strings.
    Texts,
}

/// An argument.
pub struct Parameter {
    pub name: &'static str,
    pub kind: Kind,
    pub optional: bool,
}

/// One command. An error is the description in the answer.
pub struct Row {
    pub name: &'static str,
    pub parameters: &'static [Parameter],
    pub run: fn(&mut dyn Host, &Arguments) -> Result<Outcome, String>,
}

const fn needs(name: &'static str, kind: Kind) -> Parameter {
    Parameter { name, kind, optional: false }
}

const fn may(name: &'static str, kind: Kind) -> Parameter {
    Parameter { name, kind, optional: true }
}

const fn row(
    name: &'static str,
    parameters: &'static [Parameter],
    run: fn(&mut dyn Host, &Arguments) -> Result<Outcome, String>,
) -> Row {
    Row { name, parameters, run }
}

/// The command that begins a conversation; the session carries it out itself.
pub const NEGOTIATE: &str = "qmp_capabilities";

/// Commands, sorted by name.
#[rustfmt::skip]
pub const COMMANDS: &[Row] = &[
    row("cont", &[], commands::cont),
    row("human-monitor-command", &[needs("command-line", Kind::Text), may("cpu-index", Kind::Integer)], commands::human),
    row("job-cancel", &[needs("id", Kind::Text)], commands::job_cancel),
    row("job-dismiss", &[needs("id", Kind::Text)], commands::job_dismiss),
    row(NEGOTIATE, &[may("enable", Kind::List)], commands::negotiate),
    row("query-block", &[], queries::block),
    row("query-chardev", &[], queries::chardev),
    row("query-commands", &[], queries::commands),
    row("query-cpus-fast", &[], queries::cpus),
    row("query-jobs", &[], queries::jobs),
    row("query-name", &[], queries::name),
    row("query-replay", &[], queries::replay),
    row("query-status", &[], queries::status),
    row("query-uuid", &[], queries::uuid),
    row("query-version", &[], queries::version),
    row("quit", &[], commands::quit),
    row("replay-break", &[needs("icount", Kind::Integer)], commands::replay_break),
    row("replay-delete-break", &[], commands::replay_delete_break),
    row("replay-seek", &[needs("icount", Kind::Integer)], commands::replay_seek),
    row("snapshot-delete", &[needs("job-id", Kind::Text), needs("tag", Kind::Text), needs("devices", Kind::Texts)], snapshots::delete),
    row("snapshot-load", &[needs("job-id", Kind::Text), needs("tag", Kind::Text), needs("vmstate", Kind::Text),
        needs("devices", Kind::Texts)], snapshots::load),
    row("snapshot-save", &[needs("job-id", Kind::Text), needs("tag", Kind::Text), needs("vmstate", Kind::Text),
        needs("devices", Kind::Texts)], snapshots::save),
    row("stop", &[], commands::stop),
    row("system_powerdown", &[], commands::system_powerdown),
    row("system_reset", &[], commands::system_reset),
];

/// Checks arguments against a command's row.
pub fn check(row: &Row, arguments: &Arguments) -> Result<(), String> {
    for parameter in row.parameters {
        let Some(value) = arguments.get(parameter.name) else {
            if parameter.optional {
                continue;
            }
            return Err(format!("Parameter '{}' is missing", parameter.name));
        };
        let (fits, kind) = match parameter.kind {
            Kind::Integer => (value.is_i64() || value.is_u64(), "integer"),
            Kind::Text => (value.is_string(), "string"),
            Kind::List | Kind::Texts => (value.is_array(), "array"),
        };
        if !fits {
            return Err(format!("Invalid parameter type for '{}', expected: {kind}", parameter.name));
        }
        let elements = value.as_array().filter(|_| parameter.kind == Kind::Texts);
        if let Some(at) = elements.and_then(|list| list.iter().position(|element| !element.is_string())) {
            let name = parameter.name;
            return Err(format!("Invalid parameter type for '{name}[{at}]', expected: string"));
        }
    }
    match arguments.keys().find(|name| !row.parameters.iter().any(|known| known.name == *name)) {
        Some(name) => Err(format!("Parameter '{name}' is unexpected")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_sorted_and_unique() {
        assert!(COMMANDS.windows(2).all(|pair| pair[0].name < pair[1].name));
    }
}
