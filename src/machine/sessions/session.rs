//! One session: what of it was executed, what is closed, and the results that are kept. For
//! `sessions`, which says when.

use std::collections::VecDeque;

use smallvec::SmallVec;

use super::contents::{Content, Contents};
use super::ranges::Ranges;
use super::{RESULT_BYTES, RESULTS};
use crate::types::Era;

/// About what a result takes beside its bytes.
const RESULT_OVERHEAD: usize = 64;

/// A result that is kept.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Kept {
    pub(super) content: Content,
    /// Most are a word or two, and need no room of their own.
    pub(super) result: SmallVec<[u8; 16]>,
}

/// Invariant: `promised <= floor`; what is in `executed` or `before` is not below `closed`, and the
/// results ascend and are not below `floor`.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Session {
    pub(super) executed: Contents,
    /// What was executed before contents were told apart: these sequences count as executed,
    /// whatever they contain.
    pub(super) before: Option<Box<Ranges>>,
    /// Nothing below is executed any more.
    pub(super) closed: u64,
    /// The client has finished everything below.
    pub(super) promised: u64,
    /// When it was last used.
    pub(super) used: Era,
    /// Results below are gone: what the client has finished, or what the bounds made of it.
    pub(super) floor: u64,
    pub(super) results: VecDeque<Kept>,
    /// The sum of the results' sizes.
    pub(super) bytes: usize,
}

impl Session {
    /// Whether a sequence was executed before contents were told apart.
    pub(super) fn is_before(&self, sequence: u64) -> bool {
        self.before.as_ref().is_some_and(|before| before.contains(sequence))
    }

    /// All sequences that were executed.
    pub(super) fn sequences(&self) -> Ranges {
        let mut all = self.before.as_deref().cloned().unwrap_or_default();
        for (sequence, _) in self.executed.sorted() {
            all.insert(sequence);
        }
        all
    }

    pub(super) fn raise_floor(&mut self, floor: u64) {
        if floor > self.floor {
            self.floor = floor;
            while self.results.front().is_some_and(|kept| kept.content.0 < floor) {
                self.drop_oldest();
            }
        }
    }

    /// What the client has finished is never asked for again.
    pub(super) fn close_promised(&mut self) {
        self.close_below(self.promised);
        self.results.shrink_to_fit();
    }

    /// Closes the lowest sequences, so that at most so many contents are left. Their results go as
    /// well: nobody is answered with them any more.
    pub(super) fn close_to(&mut self, most: usize) {
        let floor = self.executed.floor_for(most);
        self.close_below(floor);
        self.raise_floor(floor);
    }

    fn close_below(&mut self, sequence: u64) {
        self.closed = self.closed.max(sequence);
        self.executed.drop_below(self.closed);
        if let Some(before) = &mut self.before {
            before.drop_below(self.closed);
            if before.parts().is_empty() {
                self.before = None;
            }
        }
    }

    /// Keeps a result, unless the floor has passed it.
    pub(super) fn keep(&mut self, content: Content, result: &[u8]) {
        if content.0 < self.floor {
            return;
        }
        self.bytes += result.len();
        if self.results.capacity() == 0 {
            self.results.reserve_exact(1);
        }
        let kept = Kept { content, result: SmallVec::from_slice(result) };
        // Nearly always the end.
        if self.results.back().is_none_or(|last| last.content < content) {
            self.results.push_back(kept);
        } else {
            let at = self.results.partition_point(|kept| kept.content < content);
            self.results.insert(at, kept);
        }
        while self.results.len() > RESULTS || (self.bytes > RESULT_BYTES && self.results.len() > 1)
        {
            self.drop_sequence();
        }
    }

    /// The result of a command, if it is kept.
    pub(super) fn result(&self, content: Content) -> Option<&[u8]> {
        let at = self.results.partition_point(|kept| kept.content < content);
        let found = self.results.get(at).filter(|kept| kept.content == content);
        let found = found.or_else(|| {
            // Whatever it contained.
            let before = self.is_before(content.0);
            self.results.iter().find(|kept| before && kept.content.0 == content.0)
        });
        found.map(|kept| &kept.result[..])
    }

    /// About how many bytes its results take.
    pub(super) fn result_bytes(&self) -> usize {
        self.bytes + self.results.len() * RESULT_OVERHEAD
    }

    /// Lets results of the lowest sequences go, until they take so many bytes.
    pub(super) fn trim_results(&mut self, most: usize) {
        while self.result_bytes() > most {
            self.drop_sequence();
        }
    }

    /// The results of the lowest sequence go, all of them: nothing says which came first. Nothing
    /// at or below it is kept later on.
    fn drop_sequence(&mut self) {
        let Some(lowest) = self.results.front().map(|kept| kept.content.0) else { return };
        while self.results.front().is_some_and(|kept| kept.content.0 == lowest) {
            self.drop_oldest();
        }
        self.floor = self.floor.max(lowest.saturating_add(1));
    }

    fn drop_oldest(&mut self) {
        if let Some(kept) = self.results.pop_front() {
            self.bytes -= kept.result.len();
        }
    }
}
