//! What clients asked, what they were told, and when. The simulator and real clients record it,
//! outside checkers read its file, and [`linearizability`](super::linearizability) checks it.
//!
//! The file has one JSON object on each line:
//!
//! ```json
//! {"c":1,"k":"x","op":"get|put|cas|del","v":"a","old":"b","call":5,"ret":9,"out":"b","ok":true,
//!  "st":"ok|fail|info"}
//! ```
//!
//! `v` is the written value. `old` is the value that a `cas` expects (null: none). `out` is what a
//! `get` or an unsuccessful `cas` found (null: nothing). `call` and `ret` are in nanoseconds; `ret`
//! is -1 if the client still waits. `ok` says whether the operation did what it should: it is false
//! for an unsuccessful `cas`, for a `del` that found nothing, and without an answer. `st` says
//! whether it happened: `fail` means surely not, `info` means unknown. Keys and values are text;
//! bytes that are not UTF-8 appear as `hex:…`.

use std::io::{self, BufRead, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::machine::{KvCommand, KvOutput};
use crate::types::Time;

/// One operation on one key, as seen by its client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Operation {
    /// The client. It asks one thing at a time, and nothing more after an operation without an
    /// answer.
    pub client: u64,
    /// The key.
    pub key: Bytes,
    /// The call.
    pub call: Call,
    /// When it was called, in nanoseconds of the history's single clock.
    pub called: u64,
    /// When the client stopped waiting; `None` while it waits.
    pub returned: Option<u64>,
    /// The result.
    pub outcome: Outcome,
}

/// A call about one key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Call {
    /// Read its value.
    Get,
    /// Set it to this.
    Put(Bytes),
    /// Set it if it has the expected value.
    Cas {
        /// The expected value; `None` if it must have none.
        expected: Option<Bytes>,
        /// The new value.
        value: Bytes,
    },
    /// Remove it.
    Del,
}

/// The result of an operation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It was executed.
    Ok(Answer),
    /// It was not executed and never will be.
    Fail,
    /// Unknown: it may have been executed, or may still be, at any time after the call.
    Info,
}

/// An answer of the store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// To a `Get`.
    Value(Option<Bytes>),
    /// To a `Put`.
    Done,
    /// To a `Cas`: swapped.
    Swapped,
    /// To a `Cas`: not swapped, because this was the value.
    Mismatch(Option<Bytes>),
    /// To a `Del`: whether there was a value.
    Deleted(bool),
}

impl Call {
    /// A command's key and call; `None` for commands of several keys, which checkers of single keys
    /// cannot handle.
    pub fn of(command: &KvCommand) -> Option<(Bytes, Call)> {
        Some(match command.clone() {
            KvCommand::Get { key } => (key, Call::Get),
            KvCommand::Put { key, value } => (key, Call::Put(value)),
            KvCommand::Del { key } => (key, Call::Del),
            KvCommand::Cas { key, expected, value } => (key, Call::Cas { expected, value }),
            KvCommand::GetMany { .. } | KvCommand::PutMany { .. } => return None,
        })
    }

    /// Whether this answer fits this call.
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

/// Collects a history from a simulated world or from many threads.
///
/// The times should come from one monotonic clock. Each event gets its own time. A time that is not
/// after the event recorded before is moved there, so that the order of times is the order of the
/// calls to the recorder. So record a call *before* you send it, and an answer *after* you receive
/// it.
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

    /// A new client id. Take another after each operation without an answer.
    pub fn client(&self) -> u64 {
        let mut recording = self.lock();
        recording.clients += 1;
        recording.clients
    }

    /// Records that a client is about to send a call.
    pub fn call(&self, now: Time, client: u64, key: Bytes, call: Call) -> Asked {
        let mut recording = self.lock();
        let called = recording.stamp(now);
        let (returned, outcome) = (None, Outcome::Info);
        let operation = Operation { client, key, call, called, returned, outcome };
        recording.operations.push(operation);
        Asked(recording.operations.len() - 1)
    }

    /// Records a client's answer, or that it has stopped waiting ([`Outcome::Info`]).
    ///
    /// # Panics
    /// If the answer does not fit the call.
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

    /// The history so far, in order of the calls. Operations without an answer are `Info`.
    pub fn history(&self) -> Vec<Operation> {
        self.lock().operations.clone()
    }

    /// The history, without a copy.
    pub fn into_history(self) -> Vec<Operation> {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner).operations
    }

    fn lock(&self) -> MutexGuard<'_, Recording> {
        // A recording is always consistent, also after a panic of another thread.
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
    /// The file cannot be read.
    #[error("the history cannot be read")]
    Io(#[from] io::Error),
    /// A line is not an operation.
    #[error("line {line} of the history: {reason}")]
    Line {
        /// The line's number, from 1.
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

/// Writes a history, one operation on each line.
///
/// # Errors
/// If the writer fails.
pub fn write_history(history: &[Operation], mut to: impl Write) -> io::Result<()> {
    for operation in history {
        serde_json::to_writer(&mut to, &Line::of(operation))?;
        to.write_all(b"\n")?;
    }
    to.flush()
}

/// Reads a history from [`write_history`], or from another program with the same format. Empty
/// lines are skipped.
///
/// # Errors
/// If the reader fails, or a line is not an operation.
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

/// Text for bytes; different bytes have different text.
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
    // Require two hex digits, because a number parser would accept a sign.
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
