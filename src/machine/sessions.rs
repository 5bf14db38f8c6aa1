//! Sessions: which commands of which client were executed, what they answered, and when all of it
//! is forgotten (PROTOCOL.md §8). Asked by the applier before it runs a command.
//!
//! # What is one command
//!
//! A request id *and* what it contains. A client that uses one id for two commands has made two:
//! both are executed, at every replica, whichever comes first there. Were the id alone remembered,
//! the first would win, and which is first differs from replica to replica where the two do not
//! conflict. Two of one id and one content conflict with each other, as both write the same keys,
//! so all replicas agree which is the retry. A read changes nothing and may be repeated: it is
//! not remembered.
//!
//! Contents are told apart by a hash under a key that clients do not know, or they could look for
//! two with one hash. Each replica may have a key of its own: nothing that replicas must agree on
//! depends on it.
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
//! Many commands within an era would take much memory. So a second command that conflicts with
//! everything, the *close*, closes what is finished without ending the era. Replicas propose it
//! when the table has grown by as much as is allowed ([`Sessions::growth`]); it names which of the
//! era's closes it is. If the table is too large even then, the sessions that hold most lose their
//! lowest sequences and results, as many as it takes: a client that never says what is finished, or
//! has far more under way than others, pays first. A command that is closed before it was executed
//! is refused as one of an expired session is.
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
//! A command that is refused leaves no trace. If it was for its age, its client begins a new
//! session; after an attempt that nobody answered, it knows no more than before it asked.

use std::collections::hash_map::Entry;

use siphasher::sip::SipHasher13;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::types::{ClientId, Era, KeyedMap, RequestId};
#[cfg(test)]
pub(super) use saved::sessions_v2;
pub(super) use saved::{SavedSessions, SavedSessionsV2};
use session::Session;

mod contents;
mod ranges;
mod saved;
mod session;

/// How many results a session keeps at most. A client with fewer requests under way that moves its
/// floor never notices.
pub const RESULTS: usize = 1024;

/// How many bytes of results a session keeps at most; the newest result is kept whatever its size.
pub const RESULT_BYTES: usize = 1 << 20;

/// How many contents and how many bytes of results the table may gain between two closes.
const GROWTH: Size = Size { contents: 3 << 18, result_bytes: 192 << 20 };

/// To how much a close brings all sessions together, if what their clients have finished is not
/// enough: beyond this, one content each.
const LEFT: Size = Size { contents: 1 << 18, result_bytes: 64 << 20 };

/// What grows with commands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Size {
    contents: usize,
    result_bytes: usize,
}

/// The secret that contents are hashed with.
pub type ContentKey = [u64; 2];

/// Under this key all contents are the same: a rule that tests break.
#[cfg(test)]
#[cfg(feature = "sim")]
pub(crate) const BLIND: ContentKey = [u64::MAX; 2];

/// The session table: replicated state, so everything here depends only on the *set* of commands
/// executed between two that conflict with everything, not on their order. Commands of one client
/// that do not conflict are executed in different orders at different replicas, so neither "above
/// the last sequence" nor "below the floor" says anything about whether a command was executed.
///
/// 1. Between ends of eras and closes membership is never pruned: a content of a sequence, once
///    executed, is so.
/// 2. The floor lets results go, and nothing else. A command below the floor that was not executed
///    is executed; but not once it is closed.
/// 3. A session keeps the results of its highest sequences, at most [`RESULTS`] of them and
///    [`RESULT_BYTES`] in all. What a client that never moves its floor loses is the *results* of
///    its oldest commands, as if it had moved its floor past them; a retry of one of them has no
///    effect and no answer.
/// 4. Which results are kept follows from the set as well: letting one go raises the floor above
///    its sequence, so that nothing at or below is kept later on.
/// 5. Every session was used in this era or in the one before.
/// 6. `size` is the sum over the sessions.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Sessions {
    era: Era,
    /// How many closes there were in this era.
    closes: u64,
    key: ContentKey,
    // Boxed: a map has room to spare, and half of it may be empty.
    table: KeyedMap<ClientId, Box<Session>>,
    size: Size,
    /// What the last close left, or less since an era ended. It says when to propose the next and
    /// nothing else, so a replica that has started again may take it for nothing.
    left: Size,
}

/// What is to be done with a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Turn {
    /// Execute it, from now on executed.
    First,
    /// It was executed.
    Again,
    /// Execute it, whether or not it was: it writes nothing.
    Read,
    /// It is too old, or from an era that has not begun.
    Closed,
}

impl Sessions {
    /// Whose turn it is, now that a command comes up that carries this floor. `content` is the hash
    /// of one that writes.
    pub(super) fn take_turn(
        &mut self,
        request: RequestId,
        floor: u64,
        content: Option<u64>,
    ) -> Turn {
        if Era::of(request.sequence) > self.era {
            return Turn::Closed;
        }
        let open_from = self.open_from();
        let session = match self.table.entry(request.client) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(_) if request.sequence < open_from => return Turn::Closed,
            Entry::Vacant(entry) => {
                entry.insert(Box::new(Session { closed: open_from, ..Session::default() }))
            }
        };
        if request.sequence < session.closed {
            return Turn::Closed;
        }
        session.used = self.era;
        session.promised = session.promised.max(floor);
        let before = session.result_bytes();
        session.raise_floor(floor);
        self.size.result_bytes -= before - session.result_bytes();
        let Some(content) = content else { return Turn::Read };
        if session.is_before(request.sequence)
            || !session.executed.insert((request.sequence, content))
        {
            return Turn::Again;
        }
        self.size.contents += 1;
        Turn::First
    }

    /// The hash of a command's payload.
    pub(super) fn content(&self, payload: &[u8]) -> u64 {
        #[cfg(test)]
        #[cfg(feature = "sim")]
        if self.key == BLIND {
            return 0;
        }
        SipHasher13::new_with_keys(self.key[0], self.key[1]).hash(payload)
    }

    /// Hashes contents with this key from now on, unless there are some that were hashed with
    /// another.
    pub(super) fn set_key(&mut self, key: ContentKey) {
        if self.size.contents == 0 {
            self.key = key;
        }
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
        (self.era, self.closes) = (next, 0);
        self.table.retain_unordered(|_, session| {
            session.close_promised();
            session.used >= era
        });
        // A map keeps the room of its largest days.
        let room = self.table.len() * 2;
        self.table.shrink_to(room);
        self.measure();
        // Not all of this was cut: what was before still counts as growth, or eras that end often
        // would let the table grow for ever.
        self.left.contents = self.left.contents.min(self.size.contents);
        self.left.result_bytes = self.left.result_bytes.min(self.size.result_bytes);
        true
    }

    /// Closes what clients have finished, and more if the table is too large then. It has an effect
    /// if it is the close that comes next; whether it had.
    pub(super) fn close(&mut self, era: Era, nth: u64) -> bool {
        if (era, nth) != (self.era, self.closes) {
            return false;
        }
        self.closes += 1;
        self.table.unordered_mut().for_each(|(_, session)| session.close_promised());
        self.cut(LEFT);
        self.measure();
        self.left = self.size;
        true
    }

    /// Brings the sessions that hold most down to one level each, so that all together have what
    /// is allowed.
    fn cut(&mut self, allowed: Size) {
        let contents = self.table.unordered().map(|(_, session)| session.executed.len());
        let contents = level(contents, allowed.contents).max(1);
        let results = self.table.unordered().map(|(_, session)| session.result_bytes());
        let results = level(results, allowed.result_bytes);
        for (_, session) in self.table.unordered_mut() {
            session.close_to(contents);
            session.trim_results(results);
        }
    }

    fn measure(&mut self) {
        self.size = Size::default();
        for (_, session) in self.table.unordered() {
            self.size.contents += session.executed.len();
            self.size.result_bytes += session.result_bytes();
        }
    }

    /// The present era.
    pub fn era(&self) -> Era {
        self.era
    }

    /// Which of the era's closes comes next, from 0.
    pub fn next_close(&self) -> u64 {
        self.closes
    }

    /// By how much the table has grown since it was closed last, in thousandths of what it may: a
    /// close is due from 1000 on.
    pub fn growth(&self) -> usize {
        let share = |now: usize, left: usize, most: usize| now.saturating_sub(left) / (most / 1000);
        let contents = share(self.size.contents, self.left.contents, GROWTH.contents);
        contents.max(share(self.size.result_bytes, self.left.result_bytes, GROWTH.result_bytes))
    }

    /// Keeps the first result of a command whose turn it was, unless the floor has passed it.
    pub(super) fn keep(&mut self, request: RequestId, content: u64, result: &[u8]) {
        if let Some(session) = self.table.get_mut(&request.client) {
            self.size.result_bytes -= session.result_bytes();
            session.keep((request.sequence, content), result);
            self.size.result_bytes += session.result_bytes();
        }
    }

    /// Whether any command under this id was executed, and is not closed yet. Takes time in
    /// proportion to what the session has executed.
    pub fn is_used(&self, request: RequestId) -> bool {
        let session = self.table.get(&request.client);
        session.is_some_and(|session| session.sequences().contains(request.sequence))
    }

    /// The first result of a command, if it is still kept.
    pub(super) fn result(&self, request: RequestId, content: u64) -> Option<&[u8]> {
        self.table.get(&request.client)?.result((request.sequence, content))
    }

    /// The number of sessions that have not ended.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether there is no session.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// A hash of the table; the same wherever the same set of commands was executed, whatever the
    /// key.
    pub fn digest(&self) -> u64 {
        // Sums, so that no order matters: neither the map's nor that of hashes under the key.
        let era = u64::from(self.era.number()).wrapping_add(self.closes << 32);
        let sessions = self.table.unordered().map(|(client, session)| digest(*client, session));
        sessions.fold(era, u64::wrapping_add)
    }
}

fn digest(client: ClientId, session: &Session) -> u64 {
    let mut hash = Xxh3::new();
    let mut word = |word: u64| hash.update(&word.to_le_bytes());
    let Session { closed, promised, used, floor, .. } = session;
    for number in [client.0, *closed, *promised, u64::from(used.number()), *floor] {
        word(number);
    }
    let sequences = session.sequences();
    word(sequences.parts().len() as u64);
    for (first, last) in sequences.parts() {
        word(*first);
        word(*last);
    }
    // What goes beyond one content a sequence.
    for two in session.executed.sorted().windows(2).filter(|two| two[0].0 == two[1].0) {
        word(two[0].0);
    }
    let result = |kept: &session::Kept| {
        let parts = [kept.content.0.to_le_bytes(), xxh3_64(&kept.result).to_le_bytes()];
        xxh3_64(parts.as_flattened())
    };
    word(session.results.iter().map(result).fold(0, u64::wrapping_add));
    hash.digest()
}

/// The largest power of two (or more than any) to which each of these sizes may go so that the sum
/// is within `total`; 0 if not even one each is.
fn level(sizes: impl Iterator<Item = usize>, total: usize) -> usize {
    // How many are in [2^b, 2^(b+1)), and their sum.
    let mut classes = [(0usize, 0usize); usize::BITS as usize];
    for size in sizes.filter(|size| *size > 0) {
        let class = &mut classes[size.ilog2() as usize];
        *class = (class.0 + 1, class.1 + size);
    }
    let sum_at = |power: usize| {
        let (below, above) = classes.split_at(power);
        let cut: usize = above.iter().map(|(count, _)| count).sum();
        let whole: usize = below.iter().map(|(_, sum)| sum).sum();
        cut.saturating_mul(1 << power).saturating_add(whole)
    };
    let fitting = (0..classes.len()).rev().find(|power| sum_at(*power) <= total);
    fitting.map_or(0, |power| 1 << power)
}

#[cfg(test)]
mod tests;
