//! Silent orphans: a fast-path commit is told before it is durable (protocol.md §7). Used by
//! `commit`, which then waits for nothing, and by `restore` and `recover`, which pay for it.
//!
//! An owner that has told of a fast-path commit and lost its Committed record knows no more than
//! that it proposed. So whatever its records show as proposed and no further when it comes back is
//! its *orphan*: it may be committed, for all the owner knows. Where the protocol trusts an owner
//! to know (§5.3.3), the owner of an orphan is silent, as if it had not come back. Then the others
//! decide as they do for any owner that crashed: that is one of the `f` failures.
//!
//! What makes an orphan are records of an earlier life alone. A later life may add a promise to
//! them (it led the recovery, or was told of a ballot), which shows nothing about how the first one
//! ended; so an instance is an orphan at whatever ballot. Only Accepted and Committed end it: from
//! then on its owner knows as much as any other voter.
//!
//! Whether a life was ready to do so is in its records, before the first proposal that it may have
//! told of: the owner's own vote is counted once it is durable, and so is all before it. So it may
//! be given up: a later life that never does so proposes without having to be silent, and is silent
//! only about what is older. One that begins to do so is silent about all that it finds.

use super::{EPaxos, Fx, Phase, Record};
use crate::types::{InstanceId, MAX_SLOT};

impl EPaxos {
    /// Whether fast-path commits are told before they are durable.
    pub(super) fn is_silent(&self) -> bool {
        let wanted = self.cx.settings.optimisations.silent_orphans;
        #[cfg(test)]
        if self.planted(super::Plant::SilentWithoutFailures) {
            return wanted;
        }
        // Where nobody may fail, nothing can be decided without the owner.
        wanted && self.cx.settings.quorums.f > 0
    }

    /// Whether this replica proposed it in an earlier life, told of its commit or not, and knows no
    /// more about it. It counts no votes for an orphan at the owner's ballot, and neither promises
    /// nor validates; it may accept.
    pub(super) fn is_orphan(&self, id: InstanceId) -> bool {
        let unfinished =
            |id| self.store.instances.get(id).filter(|i| i.phase == Phase::PreAccepted);
        let inherited = id.replica == self.cx.me() && id.slot < self.born;
        #[cfg(test)]
        if self.planted(super::Plant::OrphanOnlyAtOwnersBallot) {
            let untouched = unfinished(id).is_some_and(|i| i.ballot.is_owner());
            return inherited && self.may_have_told(id) && untouched;
        }
        inherited && self.may_have_told(id) && unfinished(id).is_some()
    }

    /// Whether an earlier life may have told of it before it was durable. In a life that is silent
    /// itself, that is said of all: it may have counted votes for what an earlier one proposed.
    fn may_have_told(&self, id: InstanceId) -> bool {
        #[cfg(test)]
        if self.planted(super::Plant::SilenceForgotten) {
            return self.is_silent();
        }
        self.is_silent() || id.slot <= self.silent
    }

    /// Something is about to be proposed that may be told of before it is durable.
    pub(super) fn note_silence(&mut self, fx: &mut Fx) {
        if self.is_silent() && self.silent < MAX_SLOT {
            self.silent = MAX_SLOT;
            fx.append(Record::Silent { up_to: MAX_SLOT });
        }
    }

    /// This life begins. Should the record be lost, so is all that it proposed.
    pub(super) fn end_silence(&mut self, fx: &mut Fx) {
        if !self.is_silent() && self.silent >= self.born {
            self.silent = self.born - 1;
            fx.append(Record::Silent { up_to: self.silent });
        }
    }
}
