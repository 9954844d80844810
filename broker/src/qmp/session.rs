//! One conversation in QMP: greeting, negotiation, commands in order, answers, events.

use super::queries;
use super::reader::{Read, Reader};
use super::table::{Arguments, COMMANDS, NEGOTIATE, Outcome, Row, check};
use crate::hmp::host::{Host, Ticket};
use crate::sequence::notices::{Notice, What};
use serde_json::{Map, Value, json};
use std::collections::VecDeque;

const COMMAND_NOT_FOUND: &str = "CommandNotFound";
const GENERIC_ERROR: &str = "GenericError";

/// Input that is kept while an answer is outstanding.
const UNREAD_BYTES_MAX: usize = 1 << 16;

/// A command whose answer is to come.
#[derive(Debug)]
struct Waiting {
    ticket: Ticket,
    id: Option<Value>,
    /// The text so far of a line of the human monitor; other commands have none.
    text: Option<String>,
}

/// One conversation.
#[derive(Debug)]
pub struct Session {
    pretty: bool,
    reader: Reader,
    /// Bytes not looked at yet, because an answer is still to come.
    unread: VecDeque<u8>,
    negotiated: bool,
    waiting: Option<Waiting>,
    ended: bool,
    out: Vec<u8>,
}

/// An error: its class and description.
type Refusal = (&'static str, String);

impl Session {
    /// A conversation; `pretty` answers take several lines.
    pub fn new(pretty: bool) -> Session {
        Session {
            pretty,
            reader: Reader::default(),
            unread: VecDeque::new(),
            negotiated: false,
            waiting: None,
            ended: false,
            out: Vec::new(),
        }
    }

    /// The greeting.
    pub fn greet(&mut self) {
        self.put(&json!({"QMP": {"version": queries::version_value(), "capabilities": []}}));
    }

    /// Takes what is to be sent.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// More input can be taken: no answer is outstanding.
    pub fn wants_input(&self) -> bool {
        self.waiting.is_none() && !self.ended
    }

    /// There is room for more input, which may wait for an answer that is outstanding.
    pub fn has_room(&self) -> bool {
        !self.ended && self.unread.len() < UNREAD_BYTES_MAX
    }

    /// Takes input and carries out the commands in it.
    pub fn input(&mut self, bytes: &[u8], host: &mut dyn Host) {
        self.unread.extend(bytes);
        self.proceed(host);
    }

    /// A request is done: its answer follows, and the next command.
    pub fn ticket_done(&mut self, ticket: Ticket, host: &mut dyn Host) {
        let Some(waiting) = self.waiting.take_if(|waiting| waiting.ticket == ticket) else { return };
        let (more, failure) = (host.take_text(ticket), host.take_failure(ticket));
        match (waiting.text, failure) {
            (Some(text), failure) => {
                let failure = failure.map(|why| format!("Error: {why}\n")).unwrap_or_default();
                self.human(text + &more.unwrap_or_default() + &failure, waiting.id);
            }
            (None, Some(why)) => self.refuse((GENERIC_ERROR, why), waiting.id),
            (None, None) => self.answer(json!({}), waiting.id),
        }
        self.proceed(host);
    }

    /// Something happened; who has not negotiated is told nothing.
    pub fn notice(&mut self, notice: &Notice) {
        if !self.negotiated {
            return;
        }
        let (name, data) = match &notice.what {
            What::Stop => ("STOP", None),
            What::Resume => ("RESUME", None),
            What::Powerdown => ("POWERDOWN", None),
            What::Shutdown { guest, reason } => ("SHUTDOWN", Some(json!({"guest": guest, "reason": reason}))),
            What::Reset { guest } => {
                let reason = if *guest { "guest-reset" } else { "host-qmp-system-reset" };
                ("RESET", Some(json!({"guest": guest, "reason": reason})))
            }
            What::Job { id, status } => {
                ("JOB_STATUS_CHANGE", Some(json!({"id": id, "status": status.name()})))
            }
        };
        let seconds = notice.unix_us / 1_000_000;
        let timestamp = json!({"seconds": seconds, "microseconds": notice.unix_us % 1_000_000});
        let mut event = json!({"event": name, "timestamp": timestamp});
        if let Some(data) = data {
            event["data"] = data;
        }
        self.put(&event);
    }

    fn proceed(&mut self, host: &mut dyn Host) {
        while self.wants_input() {
            let Some(byte) = self.unread.pop_front() else { return };
            if let Some(read) = self.reader.feed(byte) {
                self.run(read, host);
            }
        }
    }

    fn run(&mut self, read: Read, host: &mut dyn Host) {
        let (request, id) = match read {
            Err(why) => return self.refuse((GENERIC_ERROR, why), None),
            Ok(Value::Object(mut request)) => {
                let id = request.remove("id");
                (request, id)
            }
            Ok(_) => {
                let why = "QMP input must be a JSON object".to_owned();
                return self.refuse((GENERIC_ERROR, why), None);
            }
        };
        match self.carry_out(request, host) {
            Err(refusal) => self.refuse(refusal, id),
            Ok(Outcome::Done(value)) => self.answer(value, id),
            Ok(Outcome::Later(ticket)) => self.waiting = Some(Waiting { ticket, id, text: None }),
            Ok(Outcome::Human(text, None)) => self.human(text, id),
            Ok(Outcome::Human(text, Some(ticket))) => {
                self.waiting = Some(Waiting { ticket, id, text: Some(text) });
            }
            Ok(Outcome::Quit) => {
                self.answer(json!({}), id);
                self.ended = true;
            }
        }
    }

    fn carry_out(&mut self, request: Map<String, Value>, host: &mut dyn Host) -> Result<Outcome, Refusal> {
        let (row, arguments) = parse(request, self.negotiated)?;
        check(row, &arguments).map_err(|why| (GENERIC_ERROR, why))?;
        if row.name == NEGOTIATE {
            return self.negotiate(&arguments);
        }
        (row.run)(host, &arguments).map_err(|why| (GENERIC_ERROR, why))
    }

    fn negotiate(&mut self, arguments: &Arguments) -> Result<Outcome, Refusal> {
        if self.negotiated {
            let why = "Capabilities negotiation is already complete, command ignored".to_owned();
            return Err((COMMAND_NOT_FOUND, why));
        }
        let wanted = arguments.get("enable").and_then(Value::as_array);
        if let Some(capability) = wanted.and_then(|list| list.first()) {
            return Err((GENERIC_ERROR, format!("Parameter 'enable' does not accept value {capability}")));
        }
        self.negotiated = true;
        Ok(Outcome::nothing())
    }

    /// Lines end with CR LF, as the human monitor's do.
    fn human(&mut self, text: String, id: Option<Value>) {
        self.answer(Value::String(text.replace('\n', "\r\n")), id);
    }

    fn answer(&mut self, value: Value, id: Option<Value>) {
        self.reply("return", value, id);
    }

    fn refuse(&mut self, (class, description): Refusal, id: Option<Value>) {
        self.reply("error", json!({"class": class, "desc": description}), id);
    }

    fn reply(&mut self, name: &str, value: Value, id: Option<Value>) {
        let mut reply = Map::new();
        reply.insert(name.to_owned(), value);
        reply.extend(id.map(|id| ("id".to_owned(), id)));
        self.put(&Value::Object(reply));
    }

    fn put(&mut self, value: &Value) {
        let text = if self.pretty { format!("{value:#}") } else { value.to_string() };
        self.out.extend(text.into_bytes());
        self.out.extend(b"\r\n");
    }
}

/// The command that a request names, and its arguments.
fn parse(mut request: Map<String, Value>, negotiated: bool) -> Result<(&'static Row, Arguments), Refusal> {
    let refuse = |why: &str| Err((GENERIC_ERROR, why.to_owned()));
    let Some(name) = request.remove("execute") else {
        return match request.keys().next() {
            Some(other) => refuse(&format!("QMP input member '{other}' is unexpected")),
            None => refuse("QMP input lacks member 'execute'"),
        };
    };
    let Value::String(name) = name else { return refuse("QMP input member 'execute' must be a string") };
    let arguments = match request.remove("arguments") {
        None => Map::new(),
        Some(Value::Object(arguments)) => arguments,
        Some(_) => return refuse("QMP input member 'arguments' must be an object"),
    };
    if let Some(other) = request.keys().next() {
        return refuse(&format!("QMP input member '{other}' is unexpected"));
    }
    if !negotiated && name != NEGOTIATE {
        let why = "Expecting capabilities negotiation with 'qmp_capabilities'".to_owned();
        return Err((COMMAND_NOT_FOUND, why));
    }
    match COMMANDS.iter().find(|row| row.name == name) {
        Some(row) => Ok((row, arguments)),
        None => Err((COMMAND_NOT_FOUND, format!("The command {name} has not been found"))),
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
