//! Sessions of a replica's callers: each command under an id that makes a retry safe.

use std::sync::{Arc, Mutex};

use super::Replica;
use super::error::{ProposeError, Rejected};
use super::panics::lock;
use crate::machine::StateMachine;
use crate::types::{ClientId, Numbering, RequestId};

/// A session: commands that are executed once each, however often and at whatever replica they are
/// tried. Cheap to clone; the clones number their commands together.
///
/// The numbering lives as long as the session does. Whoever wants to go on after a crash of its own
/// process writes down the session's id and sequence before each command.
pub struct Session<S: StateMachine> {
    replica: Replica<S>,
    id: ClientId,
    numbers: Arc<Mutex<Numbering>>,
}

/// A command of a session that has no answer yet, and the sequence to try it again under.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("command {sequence} of the session: {error}")]
#[non_exhaustive]
pub struct Unanswered {
    /// Its sequence; give it to [`Session::retry`], or to [`Session::give_up`].
    pub sequence: u64,
    /// What went wrong.
    #[source]
    pub error: ProposeError,
}

impl<S: StateMachine> Session<S> {
    pub(super) fn new(replica: Replica<S>, id: ClientId, numbers: Numbering) -> Session<S> {
        Session { replica, id, numbers: Arc::new(Mutex::new(numbers)) }
    }

    /// The session's id.
    pub fn id(&self) -> ClientId {
        self.id
    }

    /// The same session, continued at another replica.
    pub fn at(&self, replica: &Replica<S>) -> Session<S> {
        Session { replica: replica.clone(), id: self.id, numbers: Arc::clone(&self.numbers) }
    }

    /// Executes a command, and answers with its output.
    ///
    /// # Errors
    /// [`Unanswered`]. Unless it was `Rejected`, the sequence stays open, and the session's results
    /// are kept from there on, until it is retried with success or given up.
    pub async fn propose(&self, command: S::Command) -> Result<S::Output, Unanswered> {
        let (sequence, floor) = self.replica.inner.shared.next_of(&self.numbers);
        let answer = self.attempt(sequence, floor, command).await;
        if let Err(Unanswered { error: ProposeError::Rejected(_), .. }) = &answer {
            // No attempt but this one was made.
            self.give_up(sequence);
        }
        answer
    }

    /// Tries the command again that was first tried under `sequence`, here or at another replica.
    /// It has to be the same command.
    ///
    /// # Errors
    /// [`Unanswered`]; `Rejected` then says nothing about the attempts before.
    pub async fn retry(&self, sequence: u64, command: S::Command) -> Result<S::Output, Unanswered> {
        let floor = lock(&self.numbers).restart(sequence);
        let finished = || Unanswered { sequence, error: Rejected::Finished(sequence).into() };
        self.attempt(sequence, floor.ok_or_else(finished)?, command).await
    }

    /// Says that `sequence` will never be retried: nothing of its result needs to be kept.
    pub fn give_up(&self, sequence: u64) {
        lock(&self.numbers).finish(sequence);
    }

    async fn attempt(
        &self,
        sequence: u64,
        floor: u64,
        command: S::Command,
    ) -> Result<S::Output, Unanswered> {
        let request = RequestId::new(self.id, sequence);
        match self.replica.submit(request, floor, command).await {
            Ok(output) => {
                self.give_up(sequence);
                Ok(output)
            }
            Err(error) => Err(Unanswered { sequence, error }),
        }
    }
}

impl<S: StateMachine> Clone for Session<S> {
    fn clone(&self) -> Session<S> {
        self.at(&self.replica)
    }
}

impl<S: StateMachine> std::fmt::Debug for Session<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("id", &self.id).finish_non_exhaustive()
    }
}
