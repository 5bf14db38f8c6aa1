//! Sessions: which commands of which client were executed, and what they answered
//! (protocol.md §8). Asked by the applier before it runs a command.

use std::collections::VecDeque;

use bytes::Bytes;
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};
use smallvec::{SmallVec, smallvec};
use xxhash_rust::xxh3::Xxh3;

use super::RestoreError;
use crate::types::{ClientId, RequestId};

/// How many results a session keeps at most. A client with fewer requests under way that moves its
/// floor never notices.
pub const RESULTS: usize = 1024;

/// How many bytes of results a session keeps at most; the newest result is kept whatever its size.
pub const RESULT_BYTES: usize = 1 << 20;

/// The session table: replicated state, so everything here depends only on the *set* of executed
/// commands, not on their order. Commands of one client that do not conflict are executed in
/// different orders at different replicas, so neither "above the last sequence" nor "below the
/// floor" says anything about whether a command was executed.
///
/// 1. Membership is never pruned: a sequence, once executed, is so for ever.
/// 2. The floor lets results go, and nothing else. A command below the floor that was not executed
///    is executed.
/// 3. A session keeps the results of its highest sequences, at most [`RESULTS`] of them and
///    [`RESULT_BYTES`] in all. What a client that never moves its floor loses is the *results* of
///    its oldest commands, as if it had moved its floor past them; a retry of one of them has no
///    effect and no answer.
/// 4. Which results are kept follows from the set as well: letting one go raises the floor above
///    it, so that nothing below is kept later on.
///
/// Sessions themselves stay. Whatever will end them has to be a command that conflicts with every
/// command of its client, or replicas would disagree about who came too late.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Sessions(FxHashMap<ClientId, Session>);

#[derive(Clone, PartialEq, Debug, Default)]
struct Session {
    executed: Ranges,
    /// Results below are gone: the client's floor, or what the bounds made of it.
    floor: u64,
    /// By sequence, ascending, all at or above `floor`.
    results: VecDeque<(u64, Bytes)>,
    /// The sum of the results' sizes.
    bytes: usize,
}

impl Sessions {
    /// Notes that a command is executed now, and the floor that it carries; whether it was new.
    pub(super) fn execute(&mut self, request: RequestId, floor: u64) -> bool {
        let session = self.0.entry(request.client).or_default();
        session.raise_floor(floor);
        session.executed.insert(request.sequence)
    }

    /// Keeps the first result of a command, unless the floor has passed it.
    pub(super) fn keep(&mut self, request: RequestId, result: Bytes) {
        self.0.entry(request.client).or_default().keep(request.sequence, result);
    }

    /// Whether this command was executed.
    pub fn is_executed(&self, request: RequestId) -> bool {
        self.0.get(&request.client).is_some_and(|it| it.executed.contains(request.sequence))
    }

    /// The first result of a command, if it is still kept.
    pub fn result(&self, request: RequestId) -> Option<&Bytes> {
        let results = &self.0.get(&request.client)?.results;
        let at = results.binary_search_by_key(&request.sequence, |(it, _)| *it).ok()?;
        Some(&results[at].1)
    }

    /// The number of sessions.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no client has had a command executed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A hash of the table; the same wherever the same set of commands was executed.
    pub fn digest(&self) -> u64 {
        let digest_one = |(client, session): (&ClientId, &Session)| {
            let mut hash = Xxh3::new();
            let mut word = |word: u64| hash.update(&word.to_le_bytes());
            word(client.0);
            word(session.floor);
            word(session.executed.0.len() as u64);
            session.executed.0.iter().for_each(|(first, last)| {
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
        self.0.iter().map(digest_one).fold(0, u64::wrapping_add)
    }

    /// The table in a form with one spelling.
    pub(super) fn to_saved(&self) -> Vec<SavedSession> {
        let save = |(client, session): (&ClientId, &Session)| SavedSession {
            client: client.0,
            executed: session.executed.0.to_vec(),
            floor: session.floor,
            results: session.results.iter().cloned().collect(),
        };
        let mut saved: Vec<_> = self.0.iter().map(save).collect();
        saved.sort_unstable_by_key(|session| session.client);
        saved
    }

    /// The inverse of `to_saved`, for bytes of any origin.
    pub(super) fn from_saved(saved: Vec<SavedSession>) -> Result<Sessions, RestoreError> {
        if !saved.is_sorted_by(|a, b| a.client < b.client) {
            return Err(RestoreError::new("sessions are not in order"));
        }
        let sessions = saved.into_iter().map(|it| Ok((ClientId(it.client), Session::load(it)?)));
        Ok(Sessions(sessions.collect::<Result<_, RestoreError>>()?))
    }
}

impl Session {
    fn raise_floor(&mut self, floor: u64) {
        self.floor = self.floor.max(floor);
        while self.results.front().is_some_and(|(sequence, _)| *sequence < self.floor) {
            self.drop_oldest();
        }
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

    fn load(saved: SavedSession) -> Result<Session, RestoreError> {
        let SavedSession { executed, floor, results, .. } = saved;
        let executed = Ranges::from_parts(executed)
            .ok_or_else(|| RestoreError::new("executed sequences are not in order"))?;
        let known =
            |(sequence, _): &(u64, Bytes)| *sequence >= floor && executed.contains(*sequence);
        let bytes = results.iter().map(|(_, result)| result.len()).sum();
        if !results.is_sorted_by(|a, b| a.0 < b.0) || !results.iter().all(known) {
            return Err(RestoreError::new("results of commands that were not executed"));
        }
        if results.len() > RESULTS || (bytes > RESULT_BYTES && results.len() > 1) {
            return Err(RestoreError::new("more results than a session keeps"));
        }
        Ok(Session { executed, floor, results: results.into(), bytes })
    }
}

/// A session in a snapshot.
#[derive(Serialize, Deserialize)]
pub(super) struct SavedSession {
    client: u64,
    executed: Vec<(u64, u64)>,
    floor: u64,
    results: Vec<(u64, Bytes)>,
}

/// A set of numbers as inclusive ranges: ascending, with a gap between any two. A client that uses
/// its sequences without leaving any out needs one, however many it used.
#[derive(Clone, PartialEq, Debug, Default)]
struct Ranges(SmallVec<[(u64, u64); 1]>);

impl Ranges {
    /// `None` unless they are ascending and apart.
    fn from_parts(parts: Vec<(u64, u64)>) -> Option<Ranges> {
        let well_formed = parts.iter().all(|(first, last)| first <= last)
            && parts.is_sorted_by(|a, b| a.1.checked_add(1).is_some_and(|next| next < b.0));
        well_formed.then(|| Ranges(SmallVec::from_vec(parts)))
    }

    fn contains(&self, number: u64) -> bool {
        let at = self.0.partition_point(|(_, last)| *last < number);
        self.0.get(at).is_some_and(|(first, _)| *first <= number)
    }

    /// Whether it was missing.
    fn insert(&mut self, number: u64) -> bool {
        // Usually the number behind the last range.
        let at = match self.0.last() {
            None => {
                self.0 = smallvec![(number, number)];
                return true;
            }
            Some((_, last)) if *last < number => self.0.len(),
            Some(_) => self.0.partition_point(|(_, last)| *last < number),
        };
        if self.0.get(at).is_some_and(|(first, _)| *first <= number) {
            return false;
        }
        let joins_left = at > 0 && self.0[at - 1].1.checked_add(1) == Some(number);
        let joins_right =
            self.0.get(at).is_some_and(|(first, _)| number.checked_add(1) == Some(*first));
        match (joins_left, joins_right) {
            (true, true) => {
                self.0[at - 1].1 = self.0[at].1;
                self.0.remove(at);
            }
            (true, false) => self.0[at - 1].1 = number,
            (false, true) => self.0[at].0 = number,
            (false, false) => self.0.insert(at, (number, number)),
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn result(size: usize) -> Bytes {
        Bytes::from(vec![7; size])
    }

    fn request(sequence: u64) -> RequestId {
        RequestId::new(ClientId(1), sequence)
    }

    proptest! {
        #[test]
        fn ranges_are_a_set(numbers in proptest::collection::vec(prop_oneof![
            4 => 0u64..40, 1 => u64::MAX - 5..=u64::MAX], 0..60)) {
            let mut ranges = Ranges::default();
            let mut set = BTreeSet::new();
            for number in numbers {
                prop_assert_eq!(ranges.insert(number), set.insert(number));
                prop_assert!(Ranges::from_parts(ranges.0.to_vec()).is_some(), "{:?}", ranges);
            }
            for number in (0..=41).chain(u64::MAX - 6..=u64::MAX) {
                prop_assert_eq!(ranges.contains(number), set.contains(&number));
            }
        }

        /// What is kept follows from the set of executed commands: sizes around the bound in bytes,
        /// any floors, any order.
        #[test]
        fn the_order_of_execution_leaves_no_trace(
            commands in proptest::collection::vec((0usize..RESULT_BYTES / 2, 0u64..6), 1..12),
            shuffled in Just((0..12usize).collect::<Vec<_>>()).prop_shuffle(),
        ) {
            let run = |order: &mut dyn Iterator<Item = usize>| {
                let mut sessions = Sessions::default();
                for index in order.filter(|index| *index < commands.len()) {
                    let (size, floor) = commands[index];
                    assert!(sessions.execute(request(index as u64 + 1), floor));
                    sessions.keep(request(index as u64 + 1), result(size));
                }
                sessions
            };
            let (straight, other) = (run(&mut (0..12)), run(&mut shuffled.iter().copied()));
            prop_assert_eq!(straight.digest(), other.digest());
            prop_assert_eq!(straight, other);
        }
    }

    #[test]
    fn results_are_bounded_in_number_and_membership_is_not() {
        let mut sessions = Sessions::default();
        let many = RESULTS as u64 * 3;
        for sequence in 1..=many {
            assert!(sessions.execute(request(sequence), 0));
            sessions.keep(request(sequence), result(1));
        }
        let kept = (1..=many).filter(|it| sessions.result(request(*it)).is_some()).count();
        assert_eq!(kept, RESULTS);
        assert!(sessions.result(request(many)).is_some(), "the newest are kept");
        assert!((1..=many).all(|it| sessions.is_executed(request(it))));
        assert!(!sessions.execute(request(1), 0), "forgotten, but still executed");
    }

    #[test]
    fn a_huge_result_is_kept_while_it_is_the_newest() {
        let mut sessions = Sessions::default();
        for sequence in 1..=2 {
            assert!(sessions.execute(request(sequence), 0));
            sessions.keep(request(sequence), result(RESULT_BYTES + 1));
        }
        assert_eq!(sessions.result(request(1)), None);
        assert!(sessions.result(request(2)).is_some());
    }

    #[test]
    fn a_saved_table_is_the_same_table_and_a_bent_one_is_refused() {
        let mut sessions = Sessions::default();
        for sequence in [1, 2, 5, 9] {
            assert!(sessions.execute(request(sequence), 2));
            sessions.keep(request(sequence), result(3));
        }
        assert_eq!(Sessions::from_saved(sessions.to_saved()).as_ref(), Ok(&sessions));
        let bend = |bend: fn(&mut SavedSession)| {
            let mut saved = sessions.to_saved();
            bend(&mut saved[0]);
            Sessions::from_saved(saved)
        };
        assert!(bend(|it| it.executed = vec![(1, 2), (3, 4)]).is_err(), "adjacent");
        assert!(bend(|it| it.executed = vec![(5, 4)]).is_err(), "backwards");
        assert!(bend(|it| it.results[0].0 = 3).is_err(), "never executed");
        assert!(bend(|it| it.floor = 6).is_err(), "below the floor");
    }
}
