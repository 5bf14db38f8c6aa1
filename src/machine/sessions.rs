//! Sessions: which commands of each client were executed, their results, and when both are
//! forgotten (PROTOCOL.md §8). The applier asks here before it runs a command.
//!
//! # The identity of a command
//!
//! A command is a request id *and* a content. If a client uses one id for two commands, both are
//! executed, at every replica, in whatever order. If only the id were remembered, the first would
//! win; and if the two do not conflict, replicas differ on which is first. Two commands with one id
//! and one content write the same keys and so conflict; all replicas therefore agree on which is
//! the retry. A read changes nothing and may be repeated, so it is not remembered.
//!
//! Contents are compared by a hash under a key that clients do not know; otherwise they could
//! search for two contents with one hash. Each replica may have its own key: nothing that replicas
//! must agree on depends on it.
//!
//! # How sessions end
//!
//! A step that forgets executed commands has to conflict with every command of their client.
//! Otherwise a replica that forgets early executes a retry that another refuses. Every command
//! could read a key of its session, and the rare command that ends the session could write it; but
//! then every command would pay for it in every conflict index. Instead, one command that conflicts
//! with *everything* ends an [`Era`], for all sessions together, about once an hour. Between two
//! such commands every replica executes the same set of commands, in some order. So whatever
//! depends only on that set and the era's number is the same everywhere.
//!
//! A replica proposes the end of an era when the era has lasted long enough by its own clock. The
//! proposal may come twice, or early, without harm: the command names the era it ends, and only the
//! first one for that era has an effect. At the end of era `e`, when `e + 1` begins:
//!
//! - A session that no command used in all of `e` is removed: it was idle for at least an era.
//! - In the others, what their clients have finished is *closed*: no command below is executed any
//!   more, so it need not be known which were. (Before the end of an era this must be known: one
//!   client's commands are executed in different orders at different replicas, so a command below
//!   the floor may just be late here.)
//!
//! Many commands within an era would take much memory. So a second command that conflicts with
//! everything, the *close*, closes what is finished without ending the era. Replicas propose it
//! when the table has grown by the allowed amount ([`Sessions::growth`]); it names which of the
//! era's closes it is. If the table is still too large, the largest sessions lose their lowest
//! sequences and results, as many as needed. This affects first the clients that never report what
//! is finished, or have far more in progress than others. A command that is closed before it was
//! executed is refused like one of an expired session.
//!
//! # Why nothing is executed twice
//!
//! A retry may come long after its session was removed. Its sequence tells in which era it was
//! first numbered ([`Era::of`]). A session that is not in the table may begin only with a sequence
//! of the present era or the previous one, and everything below those is closed to it. A command
//! that was executed in era `x` has a sequence of `x` or earlier, and keeps its session in the
//! table until era `x + 2` begins. From then on its sequence is too old to begin a session, or is
//! closed to a session that began again. For this to hold, sequences of future eras are refused
//! too. No tombstones are needed: only the era's number is remembered for ever.
//!
//! A refused command leaves no trace. If it was refused for its age, its client begins a new
//! session. After an attempt without an answer, the client still does not know whether that was
//! executed.

use std::sync::Arc;

use siphasher::sip::SipHasher13;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::types::{ClientId, CowMap, Era, RequestId};
#[cfg(test)]
pub(super) use saved::sessions_v2;
pub(super) use saved::{SavedSessions, SavedSessionsV2};
use session::Session;

mod contents;
mod ranges;
mod saved;
mod session;

/// The most results that a session keeps. A client with fewer requests in progress that advances
/// its floor never notices the limit.
pub const RESULTS: usize = 1024;

/// The most bytes of results that a session keeps. The newest result is kept whatever its size.
pub const RESULT_BYTES: usize = 1 << 20;

/// How many contents and bytes of results the table may gain between two closes.
const GROWTH: Size = Size { contents: 3 << 18, result_bytes: 192 << 20 };

/// The size to which a close reduces all sessions together, if closing what clients have finished
/// is not enough. More only if one content each exceeds it.
const LEFT: Size = Size { contents: 1 << 18, result_bytes: 64 << 20 };

/// The parts of the table that grow with commands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Size {
    contents: usize,
    result_bytes: usize,
}

/// The secret key under which contents are hashed.
pub type ContentKey = [u64; 2];

/// Under this key all contents have one hash: tests break a rule with it.
#[cfg(test)]
#[cfg(feature = "sim")]
pub(crate) const BLIND: ContentKey = [u64::MAX; 2];

/// The session table. It is replicated state, so everything here depends only on the *set* of
/// commands executed between two commands that conflict with everything, not on their order. One
/// client's commands that do not conflict are executed in different orders at different replicas.
/// So neither "above the last sequence" nor "below the floor" tells whether a command was executed.
///
/// 1. Between ends of eras and closes, executed contents are never removed.
/// 2. The floor removes results and nothing else. A command below the floor that was not executed
///    is executed, unless it is closed.
/// 3. A session keeps the results of its highest sequences, at most [`RESULTS`] of them and
///    [`RESULT_BYTES`] in all. A client that never advances its floor loses the *results* of its
///    oldest commands, as if it had. A retry of one of those has no effect and gets no answer.
/// 4. The set also determines which results are kept: removing one raises the floor above its
///    sequence, so no result at or below it is kept later.
/// 5. Every session was used in this era or the previous one.
/// 6. `size` is the sum over the sessions.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Sessions {
    era: Era,
    /// The number of closes in this era.
    closes: u64,
    key: ContentKey,
    // A clone of this map is cheap. Sessions are behind an `Arc`, so that a change after that
    // copies one session and no others of its shard.
    table: CowMap<ClientId, Arc<Session>>,
    size: Size,
    /// What the last close left, or less since an era ended. It determines only when to propose the
    /// next close, so a restarted replica may start from zero.
    left: Size,
}

/// How to handle a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Turn {
    /// Execute it; it now counts as executed.
    First,
    /// It was executed before.
    Again,
    /// Execute it, even if it was executed before: it writes nothing.
    Read,
    /// It is too old, or from an era that has not begun.
    Closed,
}

impl Sessions {
    /// Decides how to handle a command that carries this floor. `content` is the hash of a command
    /// that writes, `None` for a read.
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
        let session = match self.table.get_mut(&request.client) {
            Some(session) => session,
            None if request.sequence < open_from => return Turn::Closed,
            None => {
                let session = Session { closed: open_from, ..Session::default() };
                self.table.insert(request.client, Arc::new(session));
                self.table.get_mut(&request.client).expect("it was just put in")
            }
        };
        if request.sequence < session.closed {
            return Turn::Closed;
        }
        let session = Arc::make_mut(session);
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

    /// Sets the key for hashing contents, unless contents hashed under another key are stored.
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

    /// Ends an era if it is the present one. Returns whether it did.
    pub(super) fn end_era(&mut self, era: Era) -> bool {
        let Some(next) = era.next().filter(|_| era == self.era) else { return false };
        (self.era, self.closes) = (next, 0);
        self.table.retain_unordered(|_, session| {
            let stays = session.used >= era;
            if stays {
                Arc::make_mut(session).close_promised();
            }
            stays
        });
        self.measure();
        // Only part of the table was removed. What was left before still counts as growth, or
        // frequent ends of eras would let the table grow for ever.
        self.left.contents = self.left.contents.min(self.size.contents);
        self.left.result_bytes = self.left.result_bytes.min(self.size.result_bytes);
        true
    }

    /// Closes what clients have finished, and more if the table is then too large. It has an effect
    /// only if it is the next close of this era. Returns whether it had.
    pub(super) fn close(&mut self, era: Era, nth: u64) -> bool {
        if (era, nth) != (self.era, self.closes) {
            return false;
        }
        self.closes += 1;
        let sessions = self.table.unordered_mut();
        sessions.for_each(|(_, session)| Arc::make_mut(session).close_promised());
        self.cut(LEFT);
        self.measure();
        self.left = self.size;
        true
    }

    /// Cuts the largest sessions down to one common level, so that all together have at most
    /// `allowed`.
    fn cut(&mut self, allowed: Size) {
        let contents = self.table.unordered().map(|(_, session)| session.executed.len());
        let contents = level(contents, allowed.contents).max(1);
        let results = self.table.unordered().map(|(_, session)| session.result_bytes());
        let results = level(results, allowed.result_bytes);
        for (_, session) in self.table.unordered_mut() {
            let session = Arc::make_mut(session);
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

    /// The number of the era's next close, from 0.
    pub fn next_close(&self) -> u64 {
        self.closes
    }

    /// How much the table has grown since the last close, in thousandths of the allowed growth. A
    /// close is due from 1000 on.
    pub fn growth(&self) -> usize {
        let share = |now: usize, left: usize, most: usize| now.saturating_sub(left) / (most / 1000);
        let contents = share(self.size.contents, self.left.contents, GROWTH.contents);
        contents.max(share(self.size.result_bytes, self.left.result_bytes, GROWTH.result_bytes))
    }

    /// Keeps the first result of an executed command, unless the floor has passed it.
    pub(super) fn keep(&mut self, request: RequestId, content: u64, result: &[u8]) {
        if let Some(session) = self.table.get_mut(&request.client) {
            let session = Arc::make_mut(session);
            self.size.result_bytes -= session.result_bytes();
            session.keep((request.sequence, content), result);
            self.size.result_bytes += session.result_bytes();
        }
    }

    /// Whether any command with this id was executed and is not yet closed. Takes time proportional
    /// to the number of commands that the session has executed.
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

    /// A hash of the table: the same wherever the same set of commands was executed, whatever the
    /// key.
    pub fn digest(&self) -> u64 {
        // Sums, so that neither the map's order nor the order of the keyed hashes matters.
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
    // Sequences with more than one content.
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

/// The largest power of two to which each of these sizes may be cut so that the sum is within
/// `total`; 0 if not even one each fits.
fn level(sizes: impl Iterator<Item = usize>, total: usize) -> usize {
    // For each b: how many sizes are in [2^b, 2^(b+1)), and their sum.
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
