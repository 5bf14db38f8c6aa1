//! Applies each command once. The node's apply thread and the simulator drive it. After the
//! execution order, before the replies.

use std::collections::BTreeSet;
use std::io::{self, Read};

use bytes::Bytes;

use super::codec::{Encoded, encode_within};
use super::sessions::{ContentKey, Turn};
use super::state::{Frozen, Machine, StateView, Unrestored, begin};
use super::{
    CodecError, MAX_ANSWER, MachineSource, RESULT_BYTES, RESULTS, RestoreError, Sessions,
    StateMachine, decode, stream,
};
use crate::types::{Access, ClientId, Command, Era, Footprint, ReplicaId, RequestId};

/// A state machine and its sessions: the whole replicated state.
///
/// 1. The effect of a command depends only on the command and on earlier commands that conflict
///    with it. So replicas agree, whatever other commands came in between.
/// 2. A payload that is not a command, or that touches more than the footprint it was ordered by,
///    has no effect at any replica and leaves no trace.
/// 3. Two commands with one request id are two commands if their payloads differ.
/// 4. The effect on the state does not depend on who waits for an answer.
#[derive(Debug, Default)]
pub struct Applier<S> {
    machine: S,
    sessions: Sessions,
    /// Requests that the operator has excluded from execution; not part of a snapshot.
    skipped: BTreeSet<RequestId>,
}

/// A state that was restored.
#[derive(Debug)]
pub struct Restored<S> {
    /// The state.
    pub applier: Applier<S>,
    /// The snapshot had all of it, and did not refer to a machine's checkpoint.
    pub is_whole: bool,
}

/// A longer result is kept for a retry only if the command itself was as long. So a session's
/// memory is proportional to what its client has sent.
const KEPT_RESULT: usize = RESULT_BYTES / RESULTS;

/// The result of applying one command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Applied {
    /// The command.
    pub request: RequestId,
    /// The replica that answers the client.
    pub origin: ReplicaId,
    /// The answer.
    pub outcome: Outcome,
    /// Whether it was executed now; otherwise it had no (further) effect. A command that writes
    /// nothing is executed each time.
    pub first: bool,
}

/// The answer to a client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Executed: the machine's output, encoded. A retry gets the first output. A retry of a command
    /// that writes nothing is answered from the present state: the client is still waiting, so it
    /// may see that result.
    Output(Bytes),
    /// Executed once, but there is no output: the client's floor or the session's limits have
    /// passed it, or it could not be encoded.
    Forgotten,
    /// Executed, but the machine's output is longer than [`MAX_ANSWER`].
    TooLarge {
        /// The length of its encoding in bytes.
        bytes: usize,
    },
    /// No client waits for the output. A command that writes was executed; one that only reads was
    /// not.
    Unasked,
    /// Not executed; it had no effect.
    Refused(Refusal),
}

/// Why a command was refused. The same at every replica.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The payload is not a command of this machine.
    #[error("not a command of this state machine: {0}")]
    Undecodable(#[from] CodecError),
    /// The operator has excluded it from execution, at this replica and everywhere.
    #[error("the operator has it skipped: it is never executed")]
    Skipped,
    /// It touches keys that its footprint does not name, so it was not ordered with all commands
    /// that it conflicts with.
    #[error("the command touches more than its footprint says")]
    Footprint,
    /// Its session has expired, or the client had reported it as finished, or its sequence belongs
    /// to another era. It was not executed, and will not be under this id. A new session starts at
    /// the era's [first sequence](Era::first_sequence).
    #[error("the session has expired (it is {era} now): begin a new one")]
    Expired {
        /// The present era.
        era: Era,
    },
}

/// Why a local read failed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The payload is not a command of this machine, or its output cannot be encoded.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// It may write, so it has to be proposed.
    #[error("the command may write, so it cannot be a read")]
    Writes,
    /// The machine's output is longer than [`MAX_ANSWER`].
    #[error("an answer of {bytes} bytes, where {MAX_ANSWER} is the limit")]
    TooLarge {
        /// The length of its encoding in bytes.
        bytes: usize,
    },
}

impl<S: StateMachine> Applier<S> {
    /// Starts from this state, with no command executed. If commands come from strangers, add a
    /// [key](Applier::keyed).
    pub fn new(machine: S) -> Applier<S> {
        Applier { machine, sessions: Sessions::default(), skipped: BTreeSet::new() }
    }

    /// Never executes these requests. Configure all replicas the same, before any of them executes
    /// one.
    pub fn skip(&mut self, requests: impl IntoIterator<Item = RequestId>) {
        self.skipped.extend(requests);
    }

    /// Sets the secret key with which payloads are hashed to tell them apart. Draw it at random and
    /// keep it from clients, or they could construct two payloads with one hash. Replicas need not
    /// use the same key. After a restore from a snapshot with sessions, the snapshot's key stays.
    #[must_use]
    pub fn keyed(mut self, key: ContentKey) -> Applier<S> {
        self.sessions.set_key(key);
        self
    }

    /// Applies a command. The output is returned only if `wanted`.
    ///
    /// Any order is safe that keeps conflicting commands in theirs, whatever ids clients use: the
    /// machine's promises ensure that.
    pub fn apply(&mut self, command: &Command, wanted: bool) -> Applied {
        let (outcome, first) = self.outcome(command, wanted);
        Applied { request: command.request, origin: command.origin, outcome, first }
    }

    /// The outcome of a command, and whether it was executed now.
    fn outcome(&mut self, command: &Command, wanted: bool) -> (Outcome, bool) {
        if command.request.client == ClientId::CLUSTER {
            return self.look_after_sessions(command);
        }
        if command.request.client == ClientId::MEMBERS {
            // The list of members is no part of this state.
            return (Outcome::Output(Bytes::new()), true);
        }
        if !self.skipped.is_empty() && self.skipped.contains(&command.request) {
            return (Outcome::Refused(Refusal::Skipped), false);
        }
        // Before the turn: a refused command must not use up its id, for it may be refused because
        // of the footprint it came with.
        let (typed, writes) = match Self::admit(command) {
            Ok(admitted) => admitted,
            Err(refusal) => return (Outcome::Refused(refusal), false),
        };
        let Command { request, floor, payload, .. } = command;
        let content = writes.then(|| self.sessions.content(payload));
        match self.sessions.take_turn(*request, *floor, content) {
            Turn::First | Turn::Read => {
                let outcome = match content {
                    Some(content) => self.run(command, typed, content, wanted),
                    None => self.answer(typed, wanted),
                };
                (outcome, true)
            }
            Turn::Again if !wanted => (Outcome::Unasked, false),
            Turn::Again => {
                let result = content.and_then(|content| self.sessions.result(*request, content));
                let output = result.map(|it| Outcome::Output(Bytes::copy_from_slice(it)));
                (output.unwrap_or(Outcome::Forgotten), false)
            }
            Turn::Closed => {
                let era = self.sessions.era();
                (Outcome::Refused(Refusal::Expired { era }), false)
            }
        }
    }

    /// A command of the cluster itself. It must have been ordered relative to every other command.
    fn look_after_sessions(&mut self, command: &Command) -> (Outcome, bool) {
        if command.footprint != Footprint::Everything {
            return (Outcome::Refused(Refusal::Footprint), false);
        }
        let sequence = command.request.sequence;
        let era = Era::of(sequence);
        let first = match Era::nth_close(sequence) {
            None => self.sessions.end_era(era),
            Some(nth) => self.sessions.close(era, nth),
        };
        (Outcome::Output(Bytes::new()), first)
    }

    /// Executes a command that writes, and keeps its result.
    fn run(&mut self, command: &Command, typed: S::Command, content: u64, wanted: bool) -> Outcome {
        let output = self.machine.apply(typed);
        // The same at every replica, whoever waits.
        let kept = command.payload.len().clamp(KEPT_RESULT, MAX_ANSWER);
        let most = if wanted { MAX_ANSWER } else { kept };
        match encode_within(&output, most) {
            Ok(Encoded::Whole(output)) => {
                if output.len() <= kept {
                    self.sessions.keep(command.request, content, &output);
                }
                if wanted { Outcome::Output(output) } else { Outcome::Unasked }
            }
            Ok(Encoded::TooLarge(bytes)) if wanted => Outcome::TooLarge { bytes },
            Ok(Encoded::TooLarge(_)) => Outcome::Unasked,
            Err(_) => Outcome::Forgotten,
        }
    }

    /// The answer to a command that writes nothing.
    fn answer(&mut self, typed: S::Command, wanted: bool) -> Outcome {
        if !wanted {
            return Outcome::Unasked;
        }
        match encode_within(&self.machine.apply(typed), MAX_ANSWER) {
            Ok(Encoded::Whole(output)) => Outcome::Output(output),
            Ok(Encoded::TooLarge(bytes)) => Outcome::TooLarge { bytes },
            Err(_) => Outcome::Forgotten,
        }
    }

    /// The decoded command, and whether it writes.
    fn admit(command: &Command) -> Result<(S::Command, bool), Refusal> {
        let typed = decode(&command.payload)?;
        let footprint = S::footprint(&typed);
        if !covers(&command.footprint, &footprint) {
            return Err(Refusal::Footprint);
        }
        Ok((typed, !footprint.is_read_only()))
    }

    /// Answers a command that writes nothing from the present state. It enters neither the log nor
    /// the sessions. The caller decides whether the state is recent enough.
    ///
    /// # Errors
    /// If the payload is not a command, or is one that may write, or if there is no answer.
    pub fn read(&mut self, payload: &[u8]) -> Result<Bytes, ReadError> {
        let typed = decode(payload)?;
        if !S::footprint(&typed).is_read_only() {
            return Err(ReadError::Writes);
        }
        match encode_within(&self.machine.apply(typed), MAX_ANSWER)? {
            Encoded::Whole(output) => Ok(output),
            Encoded::TooLarge(bytes) => Err(ReadError::TooLarge { bytes }),
        }
    }

    /// The machine, for inspection.
    pub fn machine(&self) -> &S {
        &self.machine
    }

    /// The sessions, for inspection.
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// A hash of the state and the sessions: the same at every replica that applied the same set of
    /// instances.
    pub fn digest(&self) -> u64 {
        let parts = [self.machine.digest().to_le_bytes(), self.sessions.digest().to_le_bytes()];
        xxhash_rust::xxh3::xxh3_64(parts.as_flattened())
    }

    /// A view of the whole replicated state. Commands may be applied while it is written. Its bytes
    /// are equal if the digests are equal.
    pub fn view(&self) -> StateView {
        StateView { sessions: self.sessions.clone(), machine: self.machine.view() }
    }

    /// Fixes the whole replicated state for a snapshot. A machine that keeps its state on disk
    /// itself is frozen as the checkpoint `number`, if there is one. `lend` asks for a view, too,
    /// for other replicas.
    pub fn freeze(&mut self, number: Option<u64>, lend: bool) -> Frozen {
        let frozen = number.and_then(|number| Some((number, self.machine.freeze(number)?)));
        let Some((number, checkpoint)) = frozen else { return Frozen::Whole(self.view()) };
        let lent = lend.then(|| self.view());
        Frozen::OnDisk { sessions: self.sessions.clone(), number, checkpoint, lent }
    }

    /// The whole replicated state as bytes, for tests and small states.
    pub fn snapshot(&self) -> Vec<u8> {
        let mut snapshot = Vec::new();
        self.view().write_to(&mut snapshot).expect("memory takes all");
        snapshot
    }

    /// The state that a [`view`](Applier::view) wrote.
    ///
    /// # Errors
    /// If the bytes are of an unknown version or not a snapshot. They may come from a peer.
    pub fn restore_from(from: &mut dyn Read) -> Result<Applier<S>, RestoreError> {
        Ok(Applier::restore_whole(from)?)
    }

    /// The same, for an own snapshot: the error tells whether it refers to a machine's checkpoint.
    ///
    /// # Errors
    /// As for [`Applier::restore_from`].
    pub fn restore_whole(from: &mut dyn Read) -> Result<Applier<S>, Unrestored> {
        let restored = Applier::restore_by(from, |from| S::restore_from(from), None)?;
        Ok(restored.applier)
    }

    /// The state in a snapshot, with a machine of this source. `own` tells that it is an own
    /// snapshot, which may refer to a checkpoint of the machine.
    ///
    /// # Errors
    /// As for [`Applier::restore_from`], or if the machine does not have that checkpoint.
    pub fn restore_in(
        source: &dyn MachineSource<Machine = S>,
        from: &mut dyn Read,
        own: bool,
    ) -> Result<Restored<S>, Unrestored> {
        Applier::restore_by(from, |from| source.restore_from(from), own.then_some(source))
    }

    fn restore_by(
        from: &mut dyn Read,
        whole: impl FnOnce(&mut dyn Read) -> Result<S, RestoreError>,
        own: Option<&dyn MachineSource<Machine = S>>,
    ) -> Result<Restored<S>, Unrestored> {
        let (sessions, machine) = begin(from)?;
        let is_whole = !matches!(machine, Machine::OnDisk(_));
        let machine = match machine {
            Machine::Rest => whole(from)?,
            Machine::Read(bytes) => whole(&mut &bytes[..])?,
            Machine::OnDisk(number) => {
                stream::finish(from)?;
                let elsewhere = || io::Error::from(io::ErrorKind::Unsupported);
                let opened = own.map_or_else(|| Err(elsewhere()), |it| it.open(Some(number)));
                opened.map_err(|error| Unrestored::Checkpoint { number, error })?
            }
        };
        stream::finish(from)?;
        let applier = Applier { machine, sessions, skipped: BTreeSet::new() };
        Ok(Restored { applier, is_whole })
    }

    /// Like [`Applier::restore_from`], for bytes in memory.
    ///
    /// # Errors
    /// As for [`Applier::restore_from`].
    pub fn restore(mut snapshot: &[u8]) -> Result<Applier<S>, RestoreError> {
        Applier::restore_from(&mut snapshot)
    }
}

/// Whether everything that conflicts with `narrow` also conflicts with `wide`.
fn covers(wide: &Footprint, narrow: &Footprint) -> bool {
    let Some(wide) = wide.keys() else { return true };
    let Some(narrow) = narrow.keys() else { return false };
    narrow.iter().all(|(key, access)| {
        let named = wide.binary_search_by_key(key, |(it, _)| *it).map(|at| wide[at].1);
        named.is_ok_and(|named| named == Access::Write || *access == Access::Read)
    })
}

#[cfg(test)]
mod answer_tests;
#[cfg(test)]
mod content_tests;
#[cfg(test)]
mod tests;
