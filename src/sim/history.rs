//! What clients asked and were told, and when: recorded by the simulator and by real clients alike,
//! written for outside checkers, and handed to [`linearizability`](super::linearizability).
//!
//! The file has one JSON object a line:
//!
//! ```json
//! {"c":1,"k":"x","op":"get|put|cas|del","v":"a","old":"b","call":5,"ret":9,"out":"b","ok":true,
//!  "st":"ok|fail|info"}
//! ```
//!
//! `v` is the written value, `old` the one a `cas` expects (null: none), `out` what a `get`, or a
//! `cas` that did not swap, found (null: nothing). `call` and `ret` are nanoseconds, `ret` -1 where
//! the client still waits. `ok` says that it did what it was meant to: false for a `cas` that did
//! not swap, a `del` that found nothing, and whatever has no answer. `st` says whether it happened:
//! `fail` surely did not, `info` nobody knows. Keys and values are text; bytes that are not UTF-8
//! appear as `hex:…`.

use std::io::{self, BufRead, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::machine::{KvCommand, KvOutput};
use crate::types::Time;

/// One operation on one key, as its client saw it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Operation {
    /// Who asked. A client asks one thing at a time, and nothing more once it was left without an
    /// answer.
    pub client: u64,
    /// What about.
    pub key: Bytes,
    /// What was asked.
    pub call: Call,
    /// When it was asked, in nanoseconds on the history's one clock.
    pub called: u64,
    /// When the client stopped waiting; `None` while it waits.
    pub returned: Option<u64>,
    /// What came of it.
    pub outcome: Outcome,
}

/// What is asked about one key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Call {
    /// Its value.
    Get,
    /// Set it to this.
    Put(Bytes),
    /// Set it if it is as expected.
    Cas {
        /// The value it must have; `None`: it must have none.
        expected: Option<Bytes>,
        /// The new value.
        value: Bytes,
    },
    /// Remove it.
    Del,
}

/// What came of an operation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It was executed.
    Ok(Answer),
    /// It was surely not executed and never will be.
    Fail,
    /// Nobody knows: it may have been executed, or still be, at any time after the call.
    Info,
}

/// What the store answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// To a `Get`.
    Value(Option<Bytes>),
    /// To a `Put`.
    Done,
    /// To a `Cas`: done.
    Swapped,
    /// To a `Cas`: not done, since it was this.
    Mismatch(Option<Bytes>),
    /// To a `Del`: whether there was a value.
    Deleted(bool),
}

impl Call {
    /// The key and what is asked of it; `None` for commands of several keys, which no checker of
    /// single keys understands.
    pub fn of(command: &KvCommand) -> Option<(Bytes, Call)> {
        Some(match command.clone() {
            KvCommand::Get { key } => (key, Call::Get),
            KvCommand::Put { key, value } => (key, Call::Put(value)),
            KvCommand::Del { key } => (key, Call::Del),
            KvCommand::Cas { key, expected, value } => (key, Call::Cas { expected, value }),
            KvCommand::GetMany { .. } | KvCommand::PutMany { .. } => return None,
        })
    }

    /// Whether this is an answer to this call.
    fn fits(&self, answer: &Answer) -> bool {
        matches!(
            (self, answer),
            (Call::Get, Answer::Value(_))
                | (Call::Put(_), Answer::Done)
                | (Call::Cas { .. }, Answer::Swapped | Answer::Mismatch(_))
                | (Call::Del, Answer::Deleted(_))
        )
    }
}

impl Answer {
    /// The store's answer; `None` for the answer to a command of several keys.
    pub fn of(output: KvOutput) -> Option<Answer> {
        Some(match output {
            KvOutput::Value(value) => Answer::Value(value),
            KvOutput::Done => Answer::Done,
            KvOutput::Deleted(existed) => Answer::Deleted(existed),
            KvOutput::Swapped => Answer::Swapped,
            KvOutput::Mismatch(found) => Answer::Mismatch(found),
            KvOutput::Values(_) | KvOutput::TooLarge { .. } | KvOutput::TooManyKeys { .. } => {
                return None;
            }
        })
    }
}

/// Collects a history, from one simulated world or from many threads.
///
/// The times given should come from one monotonic clock. Each event gets a time of its own: one
/// that is not after the event recorded before it is moved there, so that the order of the times
/// is the order in which the recorder was told. Therefore tell it of a call *before* asking, and of
/// an answer *after* hearing it.
#[derive(Debug, Default)]
pub struct Recorder(Mutex<Recording>);

#[derive(Debug, Default)]
struct Recording {
    operations: Vec<Operation>,
    last: u64,
    clients: u64,
}

/// An operation under way.
#[derive(Debug)]
#[must_use = "an operation without an answer stays unknown"]
pub struct Asked(usize);

impl Recorder {
    /// An empty history.
    pub fn new() -> Recorder {
        Recorder::default()
    }

    /// A client id that nobody has had. Take another one after each operation left without answer.
    pub fn client(&self) -> u64 {
        let mut recording = self.lock();
        recording.clients += 1;
        recording.clients
    }

    /// A client is about to ask.
    pub fn call(&self, now: Time, client: u64, key: Bytes, call: Call) -> Asked {
        let mut recording = self.lock();
        let called = recording.stamp(now);
        let (returned, outcome) = (None, Outcome::Info);
        let operation = Operation { client, key, call, called, returned, outcome };
        recording.operations.push(operation);
        Asked(recording.operations.len() - 1)
    }

    /// A client has its answer, or has given up waiting ([`Outcome::Info`]).
    ///
    /// # Panics
    /// If the answer does not fit the question.
    pub fn answer(&self, asked: Asked, now: Time, outcome: Outcome) {
        let mut recording = self.lock();
        let returned = recording.stamp(now);
        let operation = &mut recording.operations[asked.0];
        if let Outcome::Ok(answer) = &outcome {
            assert!(operation.call.fits(answer), "{answer:?} is no answer to {:?}", operation.call);
        }
        operation.returned = Some(returned);
        operation.outcome = outcome;
    }

    /// Everything so far, in the order of the calls. What has no answer yet is `Info`.
    pub fn history(&self) -> Vec<Operation> {
        self.lock().operations.clone()
    }

    /// Everything, without a copy.
    pub fn into_history(self) -> Vec<Operation> {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner).operations
    }

    fn lock(&self) -> MutexGuard<'_, Recording> {
        // A recording is never left half-changed: a thread that panicked does no harm.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Recording {
    fn stamp(&mut self, now: Time) -> u64 {
        self.last = now.as_nanos().max(self.last + 1);
        self.last
    }
}

/// A history that cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HistoryError {
    /// The file.
    #[error("the history cannot be read")]
    Io(#[from] io::Error),
    /// A line of it.
    #[error("line {line} of the history: {reason}")]
    Line {
        /// From 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
}

/// A line of the file.
#[derive(Serialize, Deserialize)]
struct Line {
    c: u64,
    k: String,
    op: Op,
    #[serde(default)]
    v: Option<String>,
    #[serde(default)]
    old: Option<String>,
    call: u64,
    ret: i64,
    #[serde(default)]
    out: Option<String>,
    ok: bool,
    st: Status,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Op {
    Get,
    Put,
    Cas,
    Del,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    Fail,
    Info,
}

/// Writes a history, one line an operation.
///
/// # Errors
/// When the writer fails.
pub fn write_history(history: &[Operation], mut to: impl Write) -> io::Result<()> {
    for operation in history {
        serde_json::to_writer(&mut to, &Line::of(operation))?;
        to.write_all(b"\n")?;
    }
    to.flush()
}

/// Reads what [`write_history`] wrote, or another program in the same format. Empty lines are
/// skipped.
///
/// # Errors
/// When the reader fails, or a line is not an operation.
pub fn read_history(from: impl BufRead) -> Result<Vec<Operation>, HistoryError> {
    let mut history = Vec::new();
    for (number, line) in (1..).zip(from.lines()) {
        let line = line?;
        if line.trim().is_empty() {
            continue;
        }
        let parsed: Result<Line, _> = serde_json::from_str(&line);
        let operation = parsed.map_err(|error| error.to_string()).and_then(Line::into_operation);
        let operation = operation.map_err(|reason| HistoryError::Line { line: number, reason })?;
        history.push(operation);
    }
    Ok(history)
}

impl Line {
    fn of(operation: &Operation) -> Line {
        let some = |bytes: &Bytes| Some(to_text(bytes));
        let (op, v, old) = match &operation.call {
            Call::Get => (Op::Get, None, None),
            Call::Put(value) => (Op::Put, some(value), None),
            Call::Cas { expected, value } => {
                (Op::Cas, some(value), expected.as_ref().and_then(some))
            }
            Call::Del => (Op::Del, None, None),
        };
        let (st, out, ok) = match &operation.outcome {
            Outcome::Ok(answer) => {
                let (out, ok) = match answer {
                    Answer::Value(value) => (value.as_ref(), true),
                    Answer::Done | Answer::Swapped => (None, true),
                    Answer::Mismatch(found) => (found.as_ref(), false),
                    Answer::Deleted(existed) => (None, *existed),
                };
                (Status::Ok, out.and_then(some), ok)
            }
            Outcome::Fail => (Status::Fail, None, false),
            Outcome::Info => (Status::Info, None, false),
        };
        let nanos = |ret: u64| i64::try_from(ret).expect("a clock of less than 292 years");
        Line {
            c: operation.client,
            k: to_text(&operation.key),
            op,
            v,
            old,
            call: operation.called,
            ret: operation.returned.map_or(-1, nanos),
            out,
            ok,
            st,
        }
    }

    fn into_operation(self) -> Result<Operation, String> {
        let some = |text: Option<String>| text.as_deref().map(from_text).transpose();
        let value = some(self.v)?;
        let written = || value.clone().ok_or("a put or cas needs `v`");
        let call = match self.op {
            Op::Get => Call::Get,
            Op::Put => Call::Put(written()?),
            Op::Cas => Call::Cas { expected: some(self.old)?, value: written()? },
            Op::Del => Call::Del,
        };
        let returned = match self.ret {
            -1 => None,
            ret => Some(u64::try_from(ret).map_err(|_| "`ret` is a time or -1")?),
        };
        if returned.is_some_and(|returned| returned < self.call) {
            return Err("it returned before it was called".to_owned());
        }
        let outcome = match self.st {
            Status::Fail => Outcome::Fail,
            Status::Info => Outcome::Info,
            Status::Ok if returned.is_none() => return Err("`ok` needs `ret`".to_owned()),
            Status::Ok => Outcome::Ok(match (self.op, self.ok) {
                (Op::Get, _) => Answer::Value(some(self.out)?),
                (Op::Put, _) => Answer::Done,
                (Op::Cas, true) => Answer::Swapped,
                (Op::Cas, false) => Answer::Mismatch(some(self.out)?),
                (Op::Del, existed) => Answer::Deleted(existed),
            }),
        };
        let key = from_text(&self.k)?;
        Ok(Operation { client: self.c, key, call, called: self.call, returned, outcome })
    }
}

const HEX: &str = "hex:";

/// Text for bytes; different for different bytes.
pub(super) fn to_text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.starts_with(HEX) => text.to_owned(),
        _ => bytes.iter().fold(HEX.to_owned(), |text, byte| text + &format!("{byte:02x}")),
    }
}

fn from_text(text: &str) -> Result<Bytes, String> {
    let Some(hex) = text.strip_prefix(HEX) else {
        return Ok(Bytes::copy_from_slice(text.as_bytes()));
    };
    // Two digits: a sign would pass for one otherwise.
    let byte = |pair: &[u8]| match pair {
        [high, low] => {
            let digit = |it: u8| char::from(it).to_digit(16).and_then(|it| u8::try_from(it).ok());
            Some(digit(*high)? << 4 | digit(*low)?)
        }
        _ => None,
    };
    let bytes: Option<Vec<u8>> = hex.as_bytes().chunks(2).map(byte).collect();
    bytes.map(Bytes::from).ok_or_else(|| format!("{text:?} is not hexadecimal"))
}

#[cfg(test)]
mod tests;
