//! What the clients asked and were told, as the history that is checked.

use bytes::Bytes;

use super::{Clients, Entry};
use crate::machine::{KvCommand, KvOutput};
use crate::sim::history::{Answer, Call, Operation, Outcome};

impl Clients {
    /// What clients asked and were told, key by key.
    pub(in crate::sim) fn history(&self) -> Vec<Operation> {
        let mut history = Vec::with_capacity(self.log.len());
        for (number, entry) in self.log.iter().enumerate() {
            for (key, call, answer) in parts(entry) {
                history.push(Operation {
                    client: number as u64,
                    key,
                    call,
                    called: entry.called.as_nanos(),
                    returned: entry.answer.as_ref().map(|(at, _)| at.as_nanos()),
                    outcome: if entry.failed {
                        Outcome::Fail
                    } else {
                        answer.map_or(Outcome::Info, Outcome::Ok)
                    },
                });
            }
        }
        history
    }
}

/// A command of several keys as one command per key; what is true of it is true of these, too.
fn parts(entry: &Entry) -> Vec<(Bytes, Call, Option<Answer>)> {
    let output = entry.answer.as_ref().map(|(_, output)| output);
    match &entry.command {
        KvCommand::GetMany { keys } => {
            let values = match output {
                Some(KvOutput::Values(values)) => Some(values),
                _ => None,
            };
            let answer = |at: usize| values.map(|it| Answer::Value(it[at].clone()));
            keys.iter().enumerate().map(|(at, it)| (it.clone(), Call::Get, answer(at))).collect()
        }
        KvCommand::PutMany { entries } => entries
            .iter()
            .map(|(key, value)| {
                (key.clone(), Call::Put(value.clone()), output.map(|_| Answer::Done))
            })
            .collect(),
        single => {
            let (key, call) = Call::of(single).expect("a command of one key");
            vec![(key, call, output.cloned().and_then(Answer::of))]
        }
    }
}
