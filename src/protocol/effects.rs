//! The effects of a protocol's step, as data: what the replica has to write, send and execute.

use std::sync::Arc;

use super::{PathSet, Paths};
use crate::types::{
    Batch, Command, Decision, Deps, Durable, Held, InstanceId, Journal, LogPosition, ReplicaId,
    ReplicaSet, Written,
};

/// A message and its receivers: a set, so that it is encoded once.
#[derive(Clone, PartialEq, Debug)]
pub struct Outgoing<M> {
    /// The receivers; may include the sender.
    pub to: ReplicaSet,
    /// The message.
    pub message: M,
}

/// The effects of a step. The protocol fills it; the replica empties it.
///
/// Invariants:
///
/// 1. A message or a decision enters only together with the [`Written`] it depends on, and leaves
///    only against a [`Durable`] mark.
/// 2. `records` are in journal order; a record of the replica itself precedes the one at `front`.
#[derive(Debug)]
pub struct Effects<M, R> {
    journal: Journal,
    /// A record of the replica itself has to precede the next record.
    wants_front: bool,
    /// The index in `records` of the record that it precedes.
    front: Option<usize>,
    /// To be appended to the log, in this order.
    pub records: Vec<R>,
    /// To be sent when durable.
    pub messages: Vec<Held<Outgoing<M>>>,
    /// To be executed when durable.
    pub decisions: Vec<Held<Decision>>,
    /// Payloads that became known here, decided or not. The executor and admission read them.
    pub learned: Vec<(InstanceId, Arc<Batch>)>,
    /// Commands of this replica's proposals that were not executed: to be proposed again.
    pub returned: Vec<Command>,
    /// Own proposals that were decided as commands, and whether it took one round trip.
    pub own_commits: Vec<(InstanceId, bool)>,
    /// A snapshot that holds at least this is needed from another replica: what is missing here is
    /// dropped elsewhere.
    pub needs_snapshot: Option<Deps>,
    /// How often each path was taken.
    pub paths: Paths,
}

impl<M, R> Default for Effects<M, R> {
    fn default() -> Effects<M, R> {
        Effects::new(Paths::default())
    }
}

impl<M, R> Effects<M, R> {
    /// No effects yet. `paths` are those of the protocol: a path that is never taken is shown, too.
    pub fn new(paths: Paths) -> Effects<M, R> {
        Effects {
            journal: Journal::default(),
            wants_front: false,
            front: None,
            records: Vec::new(),
            messages: Vec::new(),
            decisions: Vec::new(),
            learned: Vec::new(),
            returned: Vec::new(),
            own_commits: Vec::new(),
            needs_snapshot: None,
            paths,
        }
    }

    /// Appends a record. Effects that depend on it take the returned token.
    pub fn append(&mut self, record: R) -> Written {
        if std::mem::take(&mut self.wants_front) {
            self.front = Some(self.records.len());
            self.journal.append();
        }
        self.records.push(record);
        self.journal.append()
    }

    /// The replica has a record of its own to write. If a protocol record follows, it goes in front
    /// of that: it has to be durable no later.
    pub fn put_in_front(&mut self) {
        self.wants_front = self.front.is_none();
    }

    /// The index in `records` in front of which the replica's own record goes, if there is one.
    pub fn take_front(&mut self) -> Option<usize> {
        self.front.take()
    }

    /// The log of an earlier life ends at `end`; records appended from now on come after it.
    pub fn start_at(&mut self, end: LogPosition) {
        self.journal = Journal::starting_at(end);
    }

    /// The position after everything appended so far.
    pub fn end(&self) -> LogPosition {
        self.journal.end()
    }

    /// A token for everything appended so far.
    pub fn everything(&self) -> Written {
        self.journal.everything()
    }

    /// Sends `message` to all in `to` once `after` is durable.
    pub fn send(&mut self, after: Written, to: ReplicaSet, message: M) {
        self.messages.push(Held::new(after, Outgoing { to, message }));
    }

    /// Sends `message` to one replica once `after` is durable.
    pub fn answer(&mut self, after: Written, to: ReplicaId, message: M) {
        self.send(after, ReplicaSet::from_iter([to]), message);
    }

    /// Executes a decision once `after` is durable.
    pub fn decide(&mut self, after: Written, decision: Decision) {
        self.decisions.push(Held::new(after, decision));
    }

    /// Counts a path.
    pub fn hit<P: PathSet>(&mut self, path: P) {
        self.paths.hit(path);
    }

    /// Whether a mark covers everything appended so far.
    pub fn is_durable(&self, durable: Durable) -> bool {
        Held::new(self.everything(), ()).release(durable).is_ok()
    }
}
