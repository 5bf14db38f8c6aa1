//! A client's sessions: the ids and sequences of its commands.

use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::lock;
use crate::types::{ClientId, Era, Numbering, RequestId};

/// How long a brief client's command may be tried.
pub(super) const BRIEF: Duration = Duration::from_secs(3600);
/// How many sessions the brief clients of one certificate share; below the limit of a certificate.
const BRIEF_SESSIONS: u64 = 1 << 14;

/// The id and the numbering of a client's commands.
pub(super) struct Session {
    pub(super) id: ClientId,
    pub(super) numbers: Numbering,
    /// The reported floor is this much below the lowest unfinished sequence.
    slack: u64,
}

impl Session {
    /// A session of its own. Its id is random in the certificate's share of 2^40, so two clients
    /// may draw the same id some day. So sequences start at random, too, in the first half of the
    /// era's.
    pub(super) fn begin(name: &str, era: Era) -> Session {
        let first = era.first_sequence() + rand::random_range(0..1 << 39);
        let id = ClientId::of(name, rand::random_range(BRIEF_SESSIONS..1 << 40));
        Session { id, numbers: Numbering::starting_at(first), slack: 0 }
    }

    /// A session shared with other brief clients. Sequences are microseconds. They ascend like
    /// those of one client, and two clients collide only if they also draw the same session. The
    /// lower floor leaves the others time to finish. If clocks differ by more, the sequence is
    /// closed, and the client begins a session of its own.
    pub(super) fn brief(name: &str, era: Era, now: SystemTime) -> Session {
        let micros = |span: Duration| u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        let now = micros(now.duration_since(UNIX_EPOCH).unwrap_or_default()) % ((1 << 40) - 1);
        let numbers = Numbering::starting_at(era.first_sequence() + now);
        let id = ClientId::of(name, rand::random_range(..BRIEF_SESSIONS));
        Session { id, numbers, slack: micros(BRIEF) }
    }
}

/// A sequence. Dropping it finishes the sequence, also with the future that holds it, because
/// whatever happened, it is never retried.
pub(super) struct Ticket<'a> {
    session: &'a Mutex<Session>,
    pub(super) request: RequestId,
    pub(super) floor: u64,
}

impl Ticket<'_> {
    pub(super) fn take(session: &Mutex<Session>) -> Ticket<'_> {
        let mut held = lock(session);
        let (sequence, floor) = held.numbers.start();
        let floor = floor.saturating_sub(held.slack);
        Ticket { session, request: RequestId::new(held.id, sequence), floor }
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut session = lock(self.session);
        if session.id == self.request.client {
            session.numbers.finish(self.request.sequence);
        }
    }
}
