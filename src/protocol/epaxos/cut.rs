//! Cut: with a member away, the others agree up to where to drop what it has not executed
//! (protocol.md §8a). Beside `truncate`, which does the dropping.
//!
//! Any replica may propose a cut that `n - f` members have in their durable snapshots; it is
//! established when as many have agreed. A member agrees only to cuts at or above all that it
//! agreed to before. Two sets of `n - f` members share one, so established cuts form a chain:
//! whoever has executed the highest one can serve everyone. Cuts that did not compare would leave
//! two replicas each with what the other needs.
//!
//! Two proposers at once may each be agreed to by some, and neither by enough. An answer always
//! names what was agreed to last; whoever sees that it is not at or below its own proposal gives
//! that up, and proposes again, at or above all it has heard of, once `n - f` members are that far.
//! As they execute, they will be. The lowest live replica goes first.

use std::time::Duration;

use rand::RngExt;

use super::{EPaxos, Fx, Message, Record};
use crate::protocol::{Path, View};
use crate::types::{Deps, ReplicaId, ReplicaSet, Time, Written};

/// What this replica has agreed to, knows to be established, and proposes.
///
/// Invariants:
///
/// 1. `agreed` never moves back in any component, and is in the log (`written`) before it is told.
/// 2. `heard` includes `agreed`.
#[derive(Debug)]
pub(super) struct Cuts {
    /// C: `n - f` members have agreed to it; the highest known here.
    pub(super) established: Deps,
    /// The last cut agreed to here.
    agreed: Deps,
    written: Written,
    /// Includes every cut known here to be agreed to, or proposed, by anybody.
    heard: Deps,
    proposal: Option<Proposal>,
    /// No proposal before.
    not_before: Time,
    /// W as it stood when too much began to be kept, and since when.
    stood: (Deps, Time),
}

/// A cut proposed here.
#[derive(Debug)]
struct Proposal {
    cut: Deps,
    agreed: ReplicaSet,
    send_again: Time,
    give_up: Time,
}

impl Cuts {
    pub(super) fn new(n: usize) -> Cuts {
        Cuts {
            established: Deps::none(n),
            agreed: Deps::none(n),
            written: Written::default(),
            heard: Deps::none(n),
            proposal: None,
            not_before: Time::ZERO,
            stood: (Deps::none(n), Time::ZERO),
        }
    }

    /// An agreement of an earlier life.
    pub(super) fn restore(&mut self, cut: &Deps) {
        self.agreed.merge(cut);
        self.heard.merge(cut);
    }

    /// The record of the last agreement, if there was any.
    pub(super) fn record(&self) -> Option<Record> {
        let any = self.agreed.as_slots().iter().any(|slot| *slot > 0);
        any.then(|| Record::Agreed { cut: self.agreed.clone() })
    }

    fn agree(&mut self, cut: &Deps, fx: &mut Fx) {
        assert!(cut.includes(&self.agreed), "agreements form a chain");
        if *cut != self.agreed {
            self.agreed = cut.clone();
            self.heard.merge(cut);
            self.written = fx.append(Record::Agreed { cut: cut.clone() });
        }
    }
}

impl EPaxos {
    /// The highest cut known here to be established (C).
    pub fn established_cut(&self) -> &Deps {
        &self.cuts.established
    }

    /// Proposes a cut if too much is kept and W does not move; sends again what was not answered.
    pub(super) fn drive_cuts(&mut self, view: &View, fx: &mut Fx) {
        self.resend_cut(view, fx);
        if self.cuts.proposal.is_some() || !self.is_held_up(view) {
            return;
        }
        let Some(cut) = self.next_cut(view) else { return };
        let pause = self.cx.settings.timing.patience;
        self.cuts.not_before = view.now + pause + self.turn(view);
        self.start_cut(view, cut, fx);
    }

    /// Whether too much has been kept for some time because some member stands still, and it is
    /// this replica's turn to do something about it.
    fn is_held_up(&mut self, view: &View) -> bool {
        let keep = self.cx.settings.retention.keep;
        if self.store.instance_bytes() <= keep {
            self.cuts.stood.1 = view.now;
            return false;
        }
        let floor = self.marks.executed_by_all();
        if floor != self.cuts.stood.0 {
            self.cuts.stood.0 = floor;
            // A member that moves, but far too slowly, is no better than one that stands still.
            if self.store.instance_bytes() <= keep.saturating_mul(2) {
                self.cuts.stood.1 = view.now;
                return false;
            }
        }
        let due = self.cuts.stood.1 + self.cx.settings.timing.patience + self.turn(view);
        view.now >= due && view.now >= self.cuts.not_before
    }

    /// How long replicas before this one are given to propose.
    fn turn(&self, view: &View) -> Duration {
        (self.cx.settings.timing.gossip * 4 + view.slowest_round_trip() * 2) * self.cx.rank(view)
    }

    /// What `n - f` live members have executed for good, this one among them, if it is above all
    /// that was heard of and would let something go.
    fn next_cut(&self, view: &View) -> Option<Deps> {
        let able = |who: &ReplicaId| {
            !view.suspected.contains(*who) && self.saved_at(*who).includes(&self.cuts.heard)
        };
        let mut able: Vec<ReplicaId> = ReplicaId::all(self.cx.n()).filter(able).collect();
        // Oneself has to agree first; then those who have executed most.
        let total = |who: &ReplicaId| {
            let slots = self.saved_at(*who).as_slots();
            slots.iter().fold(0_u64, |sum, slot| sum.saturating_add(*slot))
        };
        able.sort_by_key(|who| std::cmp::Reverse((*who == self.cx.me(), total(who))));
        if able.first() != Some(&self.cx.me()) || able.len() < self.cx.settings.quorums.slow() {
            return None;
        }
        let mut cut = self.saved.clone();
        able[..self.cx.settings.quorums.slow()]
            .iter()
            .for_each(|who| cut.meet(self.saved_at(*who)));
        let mut gone = self.marks.executed_by_all();
        gone.merge(&self.cuts.established);
        gone.merge(self.store.instances.trimmed());
        (!gone.includes(&cut)).then_some(cut)
    }

    /// What a member has in its snapshot, as far as it is known here: others that never come back
    /// once they stop may have less than they say, and will not agree then.
    fn saved_at(&self, who: ReplicaId) -> &Deps {
        if who == self.cx.me() { &self.saved } else { self.marks.executed_at(who) }
    }

    pub(super) fn start_cut(&mut self, view: &View, cut: Deps, fx: &mut Fx) {
        fx.hit(Path::CutProposed);
        self.cuts.agree(&cut, fx);
        let (written, me, others) = (self.cuts.written, self.cx.me(), self.cx.others());
        self.cuts.proposal = Some(Proposal {
            cut: cut.clone(),
            agreed: ReplicaSet::EMPTY,
            send_again: view.now + self.cx.resend_after(view, 0),
            give_up: view.now + self.cx.settings.timing.patience,
        });
        fx.answer(written, me, Message::CutOk { cut: cut.clone() });
        fx.send(written, others, Message::Cut { cut });
    }

    fn resend_cut(&mut self, view: &View, fx: &mut Fx) {
        let resend = view.now + self.cx.resend_after(view, 1);
        let others = self.cx.others();
        let Some(proposal) = &mut self.cuts.proposal else { return };
        if proposal.give_up <= view.now {
            self.cuts.proposal = None;
            return;
        }
        if proposal.send_again <= view.now {
            fx.hit(Path::Retransmit);
            proposal.send_again = resend;
            let to = others.iter().filter(|r| !proposal.agreed.contains(*r)).collect();
            fx.send(self.cuts.written, to, Message::Cut { cut: proposal.cut.clone() });
        }
    }

    /// Whether it is all in the own snapshot, and takes back nothing that was agreed to.
    pub(super) fn may_agree(&self, cut: &Deps) -> bool {
        #[cfg(test)]
        let saved = if self.planted(super::Plant::CutUnchecked) { cut } else { &self.saved };
        #[cfg(not(test))]
        let saved = &self.saved;
        saved.includes(cut) && cut.includes(&self.cuts.agreed)
    }

    /// A cut is proposed: agrees to it if it may, and says what it has agreed to last.
    pub(super) fn on_cut(&mut self, from: ReplicaId, cut: &Deps, fx: &mut Fx) {
        self.cuts.heard.merge(cut);
        if self.may_agree(cut) {
            fx.hit(Path::CutAgreed);
            self.cuts.agree(cut, fx);
        } else {
            fx.hit(Path::CutRefused);
        }
        fx.answer(self.cuts.written, from, Message::CutOk { cut: self.cuts.agreed.clone() });
    }

    /// A member says what it has agreed to last.
    pub(super) fn on_cut_ok(&mut self, view: &View, from: ReplicaId, cut: &Deps, fx: &mut Fx) {
        self.cuts.heard.merge(cut);
        let slow = self.cx.settings.quorums.slow();
        let Some(proposal) = &mut self.cuts.proposal else { return };
        if *cut == proposal.cut {
            proposal.agreed.insert(from);
            if proposal.agreed.len() >= slow {
                fx.hit(Path::CutEstablished);
                self.cuts.established.merge(cut);
                self.cuts.proposal = None;
                // Told with the marks, soon.
                self.marks.gossip_at(view.now);
            }
        } else if !proposal.cut.includes(cut) {
            // It can't agree to this any more, and maybe not to what another proposes, either: so
            // both of us try again, above both, but not at the same time.
            self.cuts.proposal = None;
            let pause = self.cx.settings.timing.gossip * 4;
            let jitter = pause.mul_f64(self.rng.random::<f64>());
            self.cuts.not_before = view.now + pause + jitter + self.turn(view);
        }
    }
}
