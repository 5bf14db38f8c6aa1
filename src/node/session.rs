//! Sessions of callers in this process: each command has an id that makes a retry safe.

use std::sync::{Arc, Mutex};

use super::Replica;
use super::error::{ProposeError, Rejected};
use super::panics::lock;
use crate::machine::StateMachine;
use crate::types::{ClientId, Numbering, RequestId};

/// A session. It executes each command once, however often and at whichever replica the caller
/// tries it. Cloning it is cheap; the clones share one numbering.
///
/// The numbering lives as long as the session. A caller that wants to continue after a crash of its
/// own process must store the session's id and sequence before each command.
pub struct Session<S: StateMachine> {
    replica: Replica<S>,
    id: ClientId,
    numbers: Arc<Mutex<Numbering>>,
}

/// A session's command without an answer, and the sequence for a retry.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("command {sequence} of the session: {error}")]
#[non_exhaustive]
pub struct Unanswered {
    /// The command's sequence: pass it to [`Session::retry`] or [`Session::give_up`].
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

    /// Executes a command and returns its output.
    ///
    /// # Errors
    /// [`Unanswered`]. Unless the command was `Rejected`, its sequence stays open. The session's
    /// results are kept from there on, until a retry succeeds or the caller gives the sequence up.
    pub async fn propose(&self, command: S::Command) -> Result<S::Output, Unanswered> {
        let (sequence, floor) = self.replica.inner.shared.next_of(&self.numbers);
        let answer = self.attempt(sequence, floor, command).await;
        if let Err(Unanswered { error: ProposeError::Rejected(_), .. }) = &answer {
            // This was the only attempt.
            self.give_up(sequence);
        }
        answer
    }

    /// Retries the command first tried under `sequence`, here or at another replica. It must be the
    /// same command.
    ///
    /// # Errors
    /// [`Unanswered`]. `Rejected` then says nothing about earlier attempts.
    pub async fn retry(&self, sequence: u64, command: S::Command) -> Result<S::Output, Unanswered> {
        let floor = lock(&self.numbers).restart(sequence);
        let finished = || Unanswered { sequence, error: Rejected::Finished(sequence).into() };
        self.attempt(sequence, floor.ok_or_else(finished)?, command).await
    }

    /// Declares that `sequence` will never be retried, so its result need not be kept.
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
