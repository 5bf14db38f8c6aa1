//! Sessions: which commands of which client were executed, what they answered, and when all of it
//! is forgotten (protocol.md §8). Asked by the applier before it runs a command.
//!
//! # How sessions end
//!
//! Whatever forgets that a command was executed has to conflict with every command of its client,
//! or a replica that forgets early executes a retry that another refuses. It would do to let every
//! command read a key of its session, for the rare command that ends the session to write; but all
//! commands would pay for it, in every conflict index. Here nothing is paid: one command that
//! conflicts with *everything* ends an [`Era`] (for all sessions together, once an hour or so).
//! What lies between two such commands is the same set of commands at every replica, in whatever
//! order, and so is all that follows from the set and the era's number alone.
//!
//! Replicas propose the end of an era when it has lasted long enough by their own clocks. That may
//! come twice, or early, and does no harm: the command names the era it ends, and only the first to
//! do so has an effect. At the end of era `e`, when `e + 1` begins:
//!
//! - A session that no command used in all of `e` is removed: it was idle for the length of an era
//!   at least.
//! - In the others, what their clients have finished is *closed*: nothing below is executed any
//!   more, so whether it was executed need not be known. (Before the end of an era it must be: one
//!   client's commands are executed in different orders at different replicas, so a command below
//!   the floor may be one that is merely late here.)
//!
//! # Why nothing is executed twice
//!
//! A retry may come after its session was removed, however late. Its sequence says in which era it
//! was first numbered ([`Era::of`]). A session that is not in the table may begin only with a
//! sequence of the present era or the one before, and everything below those is closed to it. A
//! command that was executed in era `x` has a sequence of `x` or earlier, and keeps its session in
//! the table until era `x + 2` begins: from then on its sequence is too old to begin a session, or
//! is closed to a session that began anew. Sequences of eras yet to come are refused as well, or
//! that would not hold. No tombstones are needed; what is remembered for ever is the era's number.
//!
//! A command that is refused for its age leaves no trace. Its client begins a new session; after an
//! attempt that nobody answered, it knows no more than before it asked.

use std::collections::VecDeque;
use std::collections::hash_map::Entry;

use bytes::Bytes;
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use super::RestoreError;
use crate::types::{ClientId, Era, RequestId};
use ranges::Ranges;

mod ranges;

/// How many results a session keeps at most. A client with fewer requests under way that moves its
/// floor never notices.
pub const RESULTS: usize = 1024;

/// How many bytes of results a session keeps at most; the newest result is kept whatever its size.
pub const RESULT_BYTES: usize = 1 << 20;

/// The session table: replicated state, so everything here depends only on the *set* of commands
/// executed in each era, not on their order. Commands of one client that do not conflict are
/// executed in different orders at different replicas, so neither "above the last sequence" nor
/// "below the floor" says anything about whether a command was executed.
///
/// 1. Between the ends of eras membership is never pruned: a sequence, once executed, is so.
/// 2. The floor lets results go, and nothing else. A command below the floor that was not executed
///    is executed; but not once it is closed, at the end of the era.
/// 3. A session keeps the results of its highest sequences, at most [`RESULTS`] of them and
///    [`RESULT_BYTES`] in all. What a client that never moves its floor loses is the *results* of
///    its oldest commands, as if it had moved its floor past them; a retry of one of them has no
///    effect and no answer.
/// 4. Which results are kept follows from the set as well: letting one go raises the floor above
///    it, so that nothing below is kept later on.
/// 5. Every session was used in this era or in the one before.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Sessions {
    era: Era,
    table: FxHashMap<ClientId, Session>,
}

/// Invariant: `closed <= promised.max(closed at the beginning)`, `promised <= floor`, and what is
/// in `executed` or `results` is not below `closed`.
#[derive(Clone, PartialEq, Debug, Default)]
struct Session {
    executed: Ranges,
    /// Nothing below is executed any more.
    closed: u64,
    /// The client has finished everything below.
    promised: u64,
    /// When it was last used.
    used: Era,
    /// Results below are gone: what the client has finished, or what the bounds made of it.
    floor: u64,
    /// By sequence, ascending, all at or above `floor`.
    results: VecDeque<(u64, Bytes)>,
    /// The sum of the results' sizes.
    bytes: usize,
}

/// What is to be done with a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Turn {
    /// Execute it, from now on executed.
    First,
    /// It was executed.
    Again,
    /// It is too old, or from an era that has not begun.
    Closed,
}

impl Sessions {
    /// Whose turn it is, now that a command comes up that carries this floor.
    pub(super) fn take_turn(&mut self, request: RequestId, floor: u64) -> Turn {
        if Era::of(request.sequence) > self.era {
            return Turn::Closed;
        }
        let open_from = self.open_from();
        let session = match self.table.entry(request.client) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(_) if request.sequence < open_from => return Turn::Closed,
            Entry::Vacant(entry) => {
                entry.insert(Session { closed: open_from, ..Session::default() })
            }
        };
        if request.sequence < session.closed {
            return Turn::Closed;
        }
        session.used = self.era;
        session.promised = session.promised.max(floor);
        session.raise_floor(floor);
        if session.executed.insert(request.sequence) { Turn::First } else { Turn::Again }
    }

    /// The lowest sequence that a new session may begin with.
    fn open_from(&self) -> u64 {
        match self.era.previous() {
            Era::FIRST => 0,
            previous => previous.first_sequence(),
        }
    }

    /// Ends an era, if it is the present one; whether it was.
    pub(super) fn end_era(&mut self, era: Era) -> bool {
        let Some(next) = era.next().filter(|_| era == self.era) else { return false };
        self.era = next;
        self.table.retain(|_, session| {
            session.close();
            session.used >= era
        });
        // A map keeps the room of its largest days.
        let room = self.table.len() * 2;
        self.table.shrink_to(room);
        true
    }

    /// The present era.
    pub fn era(&self) -> Era {
        self.era
    }

    /// Keeps the first result of a command whose turn it was, unless the floor has passed it.
    pub(super) fn keep(&mut self, request: RequestId, result: Bytes) {
        if let Some(session) = self.table.get_mut(&request.client) {
            session.keep(request.sequence, result);
        }
    }

    /// Whether this command was executed, and is not closed yet.
    pub fn is_executed(&self, request: RequestId) -> bool {
        self.table.get(&request.client).is_some_and(|it| it.executed.contains(request.sequence))
    }

    /// The first result of a command, if it is still kept.
    pub fn result(&self, request: RequestId) -> Option<&Bytes> {
        let results = &self.table.get(&request.client)?.results;
        let at = results.binary_search_by_key(&request.sequence, |(it, _)| *it).ok()?;
        Some(&results[at].1)
    }

    /// The number of sessions that have not ended.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether there is no session.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// A hash of the table; the same wherever the same set of commands was executed.
    pub fn digest(&self) -> u64 {
        let digest_one = |(client, session): (&ClientId, &Session)| {
            let mut hash = Xxh3::new();
            let mut word = |word: u64| hash.update(&word.to_le_bytes());
            let era = u64::from(session.used.number());
            for number in [client.0, session.closed, session.promised, era, session.floor] {
                word(number);
            }
            let executed = session.executed.parts();
            word(executed.len() as u64);
            executed.iter().for_each(|(first, last)| {
                word(*first);
                word(*last);
            });
            session.results.iter().for_each(|(sequence, result)| {
                hash.update(&sequence.to_le_bytes());
                hash.update(&(result.len() as u64).to_le_bytes());
                hash.update(result);
            });
            hash.digest()
        };
        // A sum, so that the map's order does not matter.
        let era = u64::from(self.era.number());
        self.table.iter().map(digest_one).fold(era, u64::wrapping_add)
    }

    /// The table in a form with one spelling.
    pub(super) fn to_saved(&self) -> SavedSessions {
        let save = |(client, session): (&ClientId, &Session)| SavedSession {
            client: client.0,
            executed: session.executed.parts().to_vec(),
            closed: session.closed,
            promised: session.promised,
            used: session.used.number(),
            floor: session.floor,
            results: session.results.iter().cloned().collect(),
        };
        let mut sessions: Vec<_> = self.table.iter().map(save).collect();
        sessions.sort_unstable_by_key(|session| session.client);
        SavedSessions { era: self.era.number(), sessions }
    }

    /// The inverse of `to_saved`, for bytes of any origin.
    pub(super) fn from_saved(saved: SavedSessions) -> Result<Sessions, RestoreError> {
        let SavedSessions { era, sessions } = saved;
        let era = Era::new(era).ok_or_else(|| RestoreError::new("an era that never comes"))?;
        if !sessions.is_sorted_by(|a, b| a.client < b.client) {
            return Err(RestoreError::new("sessions are not in order"));
        }
        let load = |it: SavedSession| Ok((ClientId(it.client), Session::load(it, era)?));
        let table = sessions.into_iter().map(load).collect::<Result<_, RestoreError>>()?;
        Ok(Sessions { era, table })
    }
}

impl Session {
    fn raise_floor(&mut self, floor: u64) {
        self.floor = self.floor.max(floor);
        while self.results.front().is_some_and(|(sequence, _)| *sequence < self.floor) {
            self.drop_oldest();
        }
    }

    /// What the client has finished is never asked for again.
    fn close(&mut self) {
        self.closed = self.closed.max(self.promised);
        self.executed.drop_below(self.closed);
        self.results.shrink_to_fit();
    }

    fn keep(&mut self, sequence: u64, result: Bytes) {
        if sequence < self.floor {
            return;
        }
        self.bytes += result.len();
        // Nearly always the end.
        let at = self.results.partition_point(|(it, _)| *it < sequence);
        self.results.insert(at, (sequence, result));
        while self.results.len() > RESULTS || (self.bytes > RESULT_BYTES && self.results.len() > 1)
        {
            let lowest = self.drop_oldest().expect("more than one result is kept");
            self.floor = lowest.saturating_add(1);
        }
    }

    fn drop_oldest(&mut self) -> Option<u64> {
        let (sequence, result) = self.results.pop_front()?;
        self.bytes -= result.len();
        Some(sequence)
    }

    fn load(saved: SavedSession, era: Era) -> Result<Session, RestoreError> {
        let SavedSession { executed, closed, promised, used, floor, results, .. } = saved;
        let used = Era::new(used).filter(|used| *used == era || used.next() == Some(era));
        let used = used.ok_or_else(|| RestoreError::new("a session that ought to be removed"))?;
        let executed = Ranges::from_parts(executed)
            .ok_or_else(|| RestoreError::new("executed sequences are not in order"))?;
        let [first, last] = [executed.parts().first(), executed.parts().last()];
        let early = first.is_some_and(|(first, _)| *first < closed);
        let late = last.is_some_and(|(_, last)| Era::of(*last) > used);
        if early || late || floor < promised {
            return Err(RestoreError::new("sequences outside of their bounds"));
        }
        let known =
            |(sequence, _): &(u64, Bytes)| *sequence >= floor && executed.contains(*sequence);
        let bytes = results.iter().map(|(_, result)| result.len()).sum();
        if !results.is_sorted_by(|a, b| a.0 < b.0) || !results.iter().all(known) {
            return Err(RestoreError::new("results of commands that were not executed"));
        }
        if results.len() > RESULTS || (bytes > RESULT_BYTES && results.len() > 1) {
            return Err(RestoreError::new("more results than a session keeps"));
        }
        Ok(Session { executed, closed, promised, used, floor, results: results.into(), bytes })
    }
}

/// The table in a snapshot.
#[derive(Serialize, Deserialize)]
pub(super) struct SavedSessions {
    era: u32,
    sessions: Vec<SavedSession>,
}

/// A session in a snapshot.
#[derive(Serialize, Deserialize)]
struct SavedSession {
    client: u64,
    executed: Vec<(u64, u64)>,
    closed: u64,
    promised: u64,
    used: u32,
    floor: u64,
    results: Vec<(u64, Bytes)>,
}

#[cfg(test)]
mod tests;
