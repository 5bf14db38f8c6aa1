//! Upkeep: replicas report their progress, fetch decisions they have missed, and drop those that no
//! member needs (§L5, §L6). Beside `decided`.

use std::time::Duration;

use super::choice::need_snapshot;
use super::{Choice, DecidedLog, HORIZON, Path, Standing, Upkeep};
use crate::protocol::{Effects, View};
use crate::types::{ReplicaId, ReplicaSet, Slot, Written};

/// The most decisions that one Fetch may request.
const FETCH_AT_MOST: Slot = 512;
/// One Fetch is answered with about this many bytes.
const FETCH_BYTES: usize = 1 << 20;
/// How many decisions one call drops.
const DROP_AT_ONCE: usize = 2048;

impl DecidedLog {
    /// Time passed.
    pub(in crate::protocol) fn tick<M: From<Upkeep>, R>(
        &mut self,
        view: &View,
        fx: &mut Effects<M, R>,
    ) {
        if self.marks.stuck.0 != self.known || self.seen <= self.known {
            self.marks.stuck = (self.known, view.now);
        }
        if self.stuck_for(view) >= self.fetch_after(view) && view.now >= self.marks.next_fetch {
            self.fetch(view, fx);
        }
        if view.now >= self.marks.next_gossip {
            self.marks.next_gossip = view.now + self.settings.timing.gossip;
            let saved = self.marks.saved_at(self.settings.me);
            let mut others = ReplicaSet::all(self.settings.quorums.n);
            others.remove(self.settings.me);
            let marks = Upkeep::Marks { known: self.known, saved };
            // The others drop what all have reported as saved, so it must never be lost here.
            let after = fx.everything();
            fx.send(after, others, M::from(marks));
        }
        self.truncate(fx);
    }

    /// How long the decided prefix has not grown although later slots are in use.
    pub(in crate::protocol) fn stuck_for(&self, view: &View) -> Duration {
        if self.marks.stuck.0 == self.known {
            view.now.since(self.marks.stuck.1)
        } else {
            Duration::ZERO
        }
    }

    /// Drops what every member has durably executed. If more than `retention.keep` bytes are kept,
    /// also drops what `f + 1` members have: if `f` of them fail, one still has a snapshot of it.
    fn truncate<M, R>(&mut self, fx: &mut Effects<M, R>) {
        let own = self.marks.saved_at(self.settings.me).min(self.known);
        let quorums = self.settings.quorums;
        let by_all = self.marks.saved_by(quorums.n).min(own);
        if by_all > self.floor {
            fx.hit(Path::Trimmed);
            self.drop_to(by_all, DROP_AT_ONCE);
            return;
        }
        let by_enough = self.marks.saved_by(quorums.f + 1).min(own);
        if self.bytes > self.settings.retention.keep && by_enough > self.floor {
            fx.hit(Path::Dropped);
            while self.bytes > self.settings.retention.keep && by_enough > self.floor {
                self.drop_to(by_enough, 1);
            }
        }
    }

    /// How long a gap has to last before its messages are taken as lost.
    fn fetch_after(&self, view: &View) -> Duration {
        self.settings.timing.gossip + view.slowest_trip()
    }

    /// Requests decisions that another replica has and this one lacks.
    fn fetch<M: From<Upkeep>, R>(&mut self, view: &View, fx: &mut Effects<M, R>) {
        let Some((who, theirs)) = self.marks.who_knows(self.known, view) else { return };
        let from = self.known + 1;
        let to = theirs.min(self.known.saturating_add(FETCH_AT_MOST));
        // Do not request decisions already known above the gap.
        let to = (from..=to).rev().find(|slot| self.is_open(*slot)).unwrap_or(from);
        fx.hit(Path::Fetch);
        self.marks.asked = to;
        self.marks.in_vain += 1;
        self.marks.next_fetch = view.now + self.fetch_after(view);
        fx.answer(Written::default(), who, M::from(Upkeep::Fetch { from, to }));
    }

    /// A decision was learned. If everything requested is known, requests more at once: a replica
    /// that missed much need not wait for the clock.
    pub(in crate::protocol) fn fetch_on<M: From<Upkeep>, R>(
        &mut self,
        view: &View,
        fx: &mut Effects<M, R>,
    ) {
        if self.marks.asked > 0 && self.known >= self.marks.asked {
            self.marks.asked = 0;
            self.marks.in_vain = 0;
            self.fetch(view, fx);
        }
    }

    /// Handles a member's message. Returns a decision if it brings one; the protocol learns it.
    pub(in crate::protocol) fn on_upkeep<M: From<Upkeep>, R>(
        &mut self,
        from: ReplicaId,
        message: Upkeep,
        fx: &mut Effects<M, R>,
    ) -> Option<(Slot, Choice)> {
        match message {
            Upkeep::Marks { known, saved } => {
                self.marks.note(from, known, saved);
                self.see(known.min(self.known.saturating_add(HORIZON)));
            }
            Upkeep::Fetch { from: first, to } => self.on_fetch(from, first, to, fx),
            Upkeep::Decided { slot, choice } => return Some((slot, choice)),
            Upkeep::Truncated { up_to } => self.on_truncated(up_to, fx),
        }
        None
    }

    fn on_fetch<M: From<Upkeep>, R>(
        &self,
        from: ReplicaId,
        first: Slot,
        last: Slot,
        fx: &mut Effects<M, R>,
    ) {
        if first <= self.floor {
            // The sender lacks the first slot: it requests only what it lacks.
            self.answer_truncated(from, fx);
            return;
        }
        let last = last.min(first.saturating_add(FETCH_AT_MOST - 1));
        let mut bytes = 0;
        for (slot, choice) in self.above(first - 1) {
            bytes += choice.weight();
            if slot > last || (bytes > FETCH_BYTES && slot > first) {
                break;
            }
            fx.hit(Path::FetchAnswered);
            let decided = Upkeep::Decided { slot, choice: choice.clone() };
            fx.answer(Written::default(), from, M::from(decided));
        }
    }

    /// If the slot is decided here, answers with that. Returns whether it is.
    pub(in crate::protocol) fn answer_decided<M: From<Upkeep>, R>(
        &self,
        to: ReplicaId,
        slot: Slot,
        fx: &mut Effects<M, R>,
    ) -> bool {
        match self.standing(slot) {
            Standing::Dropped => {
                if to != self.settings.me {
                    self.answer_truncated(to, fx);
                }
                true
            }
            Standing::Decided(choice) => {
                if to != self.settings.me {
                    let choice = choice.clone();
                    let decided = Upkeep::Decided { slot, choice };
                    fx.answer(Written::default(), to, M::from(decided));
                }
                true
            }
            Standing::Open | Standing::Beyond => false,
        }
    }

    fn answer_truncated<M: From<Upkeep>, R>(&self, to: ReplicaId, fx: &mut Effects<M, R>) {
        fx.hit(Path::Truncated);
        let truncated = Upkeep::Truncated { up_to: self.floor };
        fx.answer(Written::default(), to, M::from(truncated));
    }

    /// The slots missing here are dropped elsewhere, so only a snapshot holds them.
    fn on_truncated<M, R>(&self, up_to: Slot, fx: &mut Effects<M, R>) {
        if up_to <= self.known {
            return;
        }
        fx.hit(Path::NeedsSnapshot);
        need_snapshot(self.settings.quorums.n, up_to, fx);
    }
}
