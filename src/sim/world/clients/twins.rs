//! Clients that misuse ids: they send a second command under the id of the first to another
//! replica. Its result must be the same at all replicas and must not affect the first. So answers
//! and refusals are identified by content.

use bytes::Bytes;
use rand::RngExt;

use super::{Ask, Clients, Entry, key, value};
use crate::machine::{Kv, KvCommand, StateMachine as _, encode};
use crate::sim::checks::{Content, content};
use crate::types::{ReplicaId, RequestId, Time};

impl Entry {
    pub(super) fn content(&self) -> Content {
        let sent = self.sent.as_ref().expect("what is in the log was sent");
        content(self.request, &sent.payload)
    }
}

impl Clients {
    /// Another command under the same id. No client waits for it.
    pub(super) fn twin(&mut self, index: usize, sequence: u64, now: Time) -> Ask {
        let at = key(self.twin_rng.random_range(0..self.workload.keys));
        let session = self.clients[index].session;
        let command = match self.twin_rng.random_range(0..4) {
            0 => KvCommand::Get { key: at },
            1 => KvCommand::Del { key: at },
            _ => KvCommand::Put { key: at, value: value(session, sequence, 9) },
        };
        let to = ReplicaId::from_index(self.twin_rng.random_range(0..self.n));
        let (_, mut sent) = self.ask(index, sequence, to);
        sent.footprint = Kv::footprint(&command);
        sent.payload = encode(&command).expect("keys and values have an encoding");
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

    /// Whether a command's result may be given to the client waiting under that id; not if it waits
    /// for another command.
    pub(in crate::sim) fn may_hear(&self, request: RequestId, payload: &Bytes) -> bool {
        let client = &self.clients[Clients::of(request.client)];
        let pending = client.pending.get(&request.sequence);
        client.session != request.client || pending.is_none_or(|it| it.payload == *payload)
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
