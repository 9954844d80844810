//! Commands that need answers of the vCPU process: each is an `async fn`, so that it reads like one that has them at hand.
//!
//! Nothing runs beside the broker's loop: a command goes on when an answer arrives, and stands still otherwise. Commands of
//! several monitors do not disturb each other.

use super::format::Format;
use super::host::Ticket;
use replay::inspect::{Answer, Mapping, Query, Registers, Space};
use replay::machine::Machine;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Longest text of one answer.
pub const TEXT_BYTES_MAX: usize = 8 << 20;
/// Most mappings that one command looks at.
const MAPPINGS_MAX: usize = 1 << 20;

/// A command on its way: its result is a text, or why there is none.
pub type Task = Pin<Box<dyn Future<Output = Result<String, String>>>>;
/// Begins a command.
pub type Begin = Box<dyn FnOnce(Asker) -> Task>;

/// What a command begun has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inquired {
    /// It is done: its text.
    Text(String),
    /// Its text comes with this.
    Later(Ticket),
}

/// What stands between a command and its answers.
#[derive(Debug)]
enum Exchange {
    Idle,
    Asked(Query),
    Answered(Answer),
}

/// A command's way to ask.
#[derive(Clone, Debug)]
pub struct Asker {
    exchange: Rc<RefCell<Exchange>>,
    format: Rc<Cell<Format>>,
    machine: Rc<Option<Machine>>,
}

fn unfit() -> String {
    "Error: the vcpu process answered something else than was asked".to_owned()
}

impl Asker {
    /// Asks the vCPU process.
    pub async fn ask(&self, query: Query) -> Answer {
        let mut sent = false;
        std::future::poll_fn(move |_| {
            let mut exchange = self.exchange.borrow_mut();
            if !std::mem::replace(&mut sent, true) {
                *exchange = Exchange::Asked(query);
                return Poll::Pending;
            }
            match std::mem::replace(&mut *exchange, Exchange::Idle) {
                Exchange::Answered(answer) => Poll::Ready(answer),
                other => {
                    *exchange = other;
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// The registers of the CPU.
    pub async fn registers(&self) -> Result<Registers, String> {
        match self.ask(Query::Registers).await {
            Answer::Registers(registers) => Ok(*registers),
            _ => Err(unfit()),
        }
    }

    /// Bytes of memory, up to the first that cannot be read; not all of a long piece at once.
    pub async fn memory(&self, space: Space, address: u64, length: u64) -> Result<Vec<u8>, String> {
        let length = length.min(u64::from(replay::inspect::MEMORY_BYTES_MAX)) as u32;
        match self.ask(Query::Memory { space, address, length }).await {
            Answer::Memory(bytes) if bytes.len() <= length as usize => Ok(bytes),
            _ => Err(unfit()),
        }
    }

    /// Shows every page that is mapped to `each`, in rising order; false if paging is off.
    pub async fn mappings(&self, mut each: impl FnMut(&Mapping)) -> Result<bool, String> {
        let (mut from, mut count) = (0, 0);
        loop {
            let Answer::Mappings { paging, list, next } = self.ask(Query::Mappings { from }).await else {
                return Err(unfit());
            };
            list.iter().for_each(&mut each);
            count += list.len();
            match next {
                Some(next) if next > from && count < MAPPINGS_MAX => from = next,
                Some(_) => return Err(format!("Error: more than {MAPPINGS_MAX} pages are mapped")),
                None => return Ok(paging),
            }
        }
    }

    /// The format that a command used last.
    pub fn format(&self) -> Format {
        self.format.get()
    }

    /// Keeps a format for the next command.
    pub fn keep_format(&self, format: Format) {
        self.format.set(format.kept(self.format.get()));
    }

    /// The machine as it was described.
    pub fn machine(&self) -> Option<&Machine> {
        self.machine.as_ref().as_ref()
    }

    /// The error of an answer that does not fit the question.
    pub fn unfit(&self) -> String {
        unfit()
    }
}

struct Inquiry {
    task: Task,
    exchange: Rc<RefCell<Exchange>>,
}

/// What a command wants next.
enum Wants {
    Answer(Query),
    Nothing(String),
}

impl Inquiry {
    fn proceed(&mut self) -> Wants {
        let mut context = Context::from_waker(Waker::noop());
        match self.task.as_mut().poll(&mut context) {
            Poll::Ready(result) => Wants::Nothing(bounded(result)),
            Poll::Pending => match &*self.exchange.borrow() {
                Exchange::Asked(query) => Wants::Answer(*query),
                Exchange::Idle | Exchange::Answered(_) => Wants::Nothing(format!("{}\n", unfit())),
            },
        }
    }
}

/// The whole text of a result; what is too long is cut, with a line that says so.
fn bounded(result: Result<String, String>) -> String {
    let mut text = result.unwrap_or_else(|why| why + "\n");
    if text.len() > TEXT_BYTES_MAX {
        let end = (0..=TEXT_BYTES_MAX).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
        text.truncate(text[..end].rfind('\n').map_or(end, |at| at + 1));
        let _ = writeln!(text, "Error: the rest of more than {TEXT_BYTES_MAX} bytes is left out");
    }
    text
}

/// All commands of all monitors that wait for answers.
#[derive(Default)]
pub struct Inquiries {
    waiting: BTreeMap<Ticket, Inquiry>,
    texts: BTreeMap<Ticket, String>,
    format: Rc<Cell<Format>>,
}

impl Inquiries {
    /// Begins a command; `ask` sends its first question under the ticket.
    pub fn begin(
        &mut self,
        ticket: Ticket,
        machine: Option<Machine>,
        begin: Begin,
        ask: impl FnOnce(Query) -> Result<(), String>,
    ) -> Result<Inquired, String> {
        let exchange = Rc::new(RefCell::new(Exchange::Idle));
        let format = self.format.clone();
        let asker = Asker { exchange: exchange.clone(), format, machine: Rc::new(machine) };
        let mut inquiry = Inquiry { task: begin(asker), exchange };
        match inquiry.proceed() {
            Wants::Nothing(text) => Ok(Inquired::Text(text)),
            Wants::Answer(query) => {
                ask(query)?;
                self.waiting.insert(ticket, inquiry);
                Ok(Inquired::Later(ticket))
            }
        }
    }

    /// An answer for a ticket: the next question, or none when the command is done.
    pub fn answered(&mut self, ticket: Ticket, answer: Answer) -> Option<Query> {
        let mut inquiry = self.waiting.remove(&ticket)?;
        *inquiry.exchange.borrow_mut() = Exchange::Answered(answer);
        match inquiry.proceed() {
            Wants::Answer(query) => {
                self.waiting.insert(ticket, inquiry);
                Some(query)
            }
            Wants::Nothing(text) => {
                self.texts.insert(ticket, text);
                None
            }
        }
    }

    /// The text of a command that is done.
    pub fn take_text(&mut self, ticket: Ticket) -> Option<String> {
        self.texts.remove(&ticket)
    }

    /// The monitor that waited for this is gone.
    pub fn forget(&mut self, ticket: Ticket) {
        self.waiting.remove(&ticket);
        self.texts.remove(&ticket);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Runs a command with answers from a function.
    pub(crate) fn run(begin: Begin, mut answer: impl FnMut(Query) -> Answer) -> String {
        let mut inquiries = Inquiries::default();
        let mut asked = None;
        let begun = inquiries.begin(1, None, begin, |query| {
            asked = Some(query);
            Ok(())
        });
        if let Inquired::Text(text) = begun.unwrap() {
            return text;
        }
        while let Some(query) = asked {
            asked = inquiries.answered(1, answer(query));
        }
        inquiries.take_text(1).unwrap()
    }

    #[test]
    fn a_command_goes_on_with_each_answer() {
        let sum: Begin = Box::new(|asker| {
            Box::pin(async move {
                let first = asker.registers().await?.rip;
                let bytes = asker.memory(Space::Virtual, first, 2).await?;
                Ok(format!("{first:x} {bytes:?}\n"))
            })
        });
        let text = run(sum, |query| match query {
            Query::Registers => {
                Answer::Registers(Box::new(Registers { rip: 0x1000, ..Registers::default() }))
            }
            Query::Memory { address: 0x1000, length: 2, .. } => Answer::Memory(vec![7, 8]),
            other => panic!("{other:?}"),
        });
        assert_eq!(text, "1000 [7, 8]\n");
    }

    #[test]
    fn wrong_answers_and_long_texts_are_lines() {
        let registers: Begin =
            Box::new(|asker| Box::pin(async move { asker.registers().await.map(|_| String::new()) }));
        assert!(run(registers, |_| Answer::Port(0)).starts_with("Error: the vcpu process answered"));
        let long: Begin = Box::new(|_| Box::pin(async { Ok("é line\n".repeat(TEXT_BYTES_MAX)) }));
        let text = run(long, |_| Answer::Port(0));
        assert!(text.len() < TEXT_BYTES_MAX + 100 && text.ends_with("is left out\n"));
        let endless: Begin =
            Box::new(|asker| Box::pin(async move { asker.mappings(|_| {}).await.map(|_| String::new()) }));
        let text = run(endless, |query| match query {
            Query::Mappings { from } => {
                let page =
                    Mapping { address: 0, size: 1, physical: 0, entry: 0, user: false, writable: false };
                Answer::Mappings { paging: true, list: vec![page; 1024], next: Some(from + 1) }
            }
            other => panic!("{other:?}"),
        });
        assert!(text.contains("pages are mapped"), "{text}");
    }
}
