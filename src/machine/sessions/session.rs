//! One session: what was executed, what is closed, and which results are kept. `sessions` decides
//! when each changes.

use std::collections::VecDeque;

use smallvec::SmallVec;

use super::contents::{Content, Contents};
use super::ranges::Ranges;
use super::{RESULT_BYTES, RESULTS};
use crate::types::Era;

/// Roughly the memory that a result takes in addition to its bytes.
const RESULT_OVERHEAD: usize = 64;

/// A stored result.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Kept {
    pub(super) content: Content,
    /// Most results are a word or two, and are stored inline.
    pub(super) result: SmallVec<[u8; 16]>,
}

/// Invariants: `promised <= floor`. Nothing in `executed` or `before` is below `closed`. Results
/// ascend, and none is below `floor`.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Session {
    pub(super) executed: Contents,
    /// Sequences executed by a version that did not record contents. They count as executed,
    /// whatever the content.
    pub(super) before: Option<Box<Ranges>>,
    /// No command below is executed any more.
    pub(super) closed: u64,
    /// The client has reported everything below as finished.
    pub(super) promised: u64,
    /// The era in which it was last used.
    pub(super) used: Era,
    /// Results below are gone: the client has finished them, or the limits removed them.
    pub(super) floor: u64,
    pub(super) results: VecDeque<Kept>,
    /// The sum of the results' sizes.
    pub(super) bytes: usize,
}

impl Session {
    /// Whether a version that did not record contents executed this sequence.
    pub(super) fn is_before(&self, sequence: u64) -> bool {
        self.before.as_ref().is_some_and(|before| before.contains(sequence))
    }

    /// All executed sequences.
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

    /// The client never asks again for what it has finished.
    pub(super) fn close_promised(&mut self) {
        self.close_below(self.promised);
        self.results.shrink_to_fit();
    }

    /// Closes the lowest sequences, so that at most `most` contents are left. Their results are
    /// removed too, since closed commands are not answered from them.
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
        // Almost always the end.
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

    /// The result of a command, if it is still kept.
    pub(super) fn result(&self, content: Content) -> Option<&[u8]> {
        let at = self.results.partition_point(|kept| kept.content < content);
        let found = self.results.get(at).filter(|kept| kept.content == content);
        let found = found.or_else(|| {
            // Whatever its content was.
            let before = self.is_before(content.0);
            self.results.iter().find(|kept| before && kept.content.0 == content.0)
        });
        found.map(|kept| &kept.result[..])
    }

    /// Roughly how many bytes its results take.
    pub(super) fn result_bytes(&self) -> usize {
        self.bytes + self.results.len() * RESULT_OVERHEAD
    }

    /// Removes results of the lowest sequences, until they take at most `most` bytes.
    pub(super) fn trim_results(&mut self, most: usize) {
        while self.result_bytes() > most {
            self.drop_sequence();
        }
    }

    /// Removes all results of the lowest sequence, since nothing tells which came first. No result
    /// at or below it is kept later.
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
