//! Clients that misuse ids: they send a second command under the id of the first to another
//! replica. Its result must be the same at all replicas and must not affect the first. So answers
//! and refusals are identified by content.

use rand::RngExt;

use super::{Ask, Clients, Entry, key, value};
use crate::machine::{Kv, KvCommand, StateMachine as _, encode};
use crate::sim::checks::{Content, content};
use crate::types::{Command, ReplicaId, RequestId, Time};

impl Entry {
    pub(super) fn content(&self) -> Content {
        let sent = self.sent.as_ref().expect("what is in the log was sent");
        content(self.request, &sent.payload)
    }
}

impl Clients {
    /// Another command under the id of `first`. No client waits for it.
    pub(super) fn twin(&mut self, first: &Command, now: Time) -> Ask {
        let at = key(self.twin_rng.random_range(0..self.workload.keys));
        let RequestId { client, sequence } = first.request;
        let command = match self.twin_rng.random_range(0..4) {
            0 => KvCommand::Get { key: at },
            1 => KvCommand::Del { key: at },
            _ => KvCommand::Put { key: at, value: value(client, sequence, 9) },
        };
        let to = ReplicaId::from_index(self.twin_rng.random_range(0..self.n));
        let sent = Command {
            origin: to,
            footprint: Kv::footprint(&command),
            payload: encode(&command).expect("keys and values have an encoding"),
            ..first.clone()
        };
        self.log.push(Entry {
            request: sent.request,
            command,
            called: now,
            answer: None,
            sent: Some(sent.clone()),
            asked: 1,
            failed: false,
        });
        (to, sent)
    }

    /// The contents of commands that had no effect.
    pub(in crate::sim) fn failed_contents(&self) -> impl Iterator<Item = Content> + '_ {
        self.log.iter().filter(|entry| entry.failed).map(Entry::content)
    }

    /// The contents of answered commands.
    pub(in crate::sim) fn answered_contents(&self) -> impl Iterator<Item = Content> + '_ {
        self.log.iter().filter(|entry| entry.answer.is_some()).map(Entry::content)
    }
}
