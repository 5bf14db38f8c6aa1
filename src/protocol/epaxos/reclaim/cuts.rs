//! Cut: while a member is away, the others agree on how far to drop records that it still needs
//! (PROTOCOL.md §8a). Beside `truncate`, which drops them.
//!
//! Any replica may propose a cut that `n - f` members hold in their durable snapshots. It is
//! established once `n - f` have agreed. A member agrees only to a cut at or above all that it
//! agreed to before. Any two sets of `n - f` members share one, so established cuts form a chain: a
//! replica that has executed the highest can serve every other. Without the chain, two replicas
//! could each hold what the other needs.
//!
//! With two proposers at once, each may get some agreements and neither enough. An answer always
//! names the last cut agreed to. A proposer that sees one not at or below its own proposal gives
//! up. It proposes again, at or above all it has heard of, once `n - f` members have executed that
//! far, which they will. The lowest live replica goes first.

use std::time::Duration;

use rand::RngExt;

use super::Marks;
use crate::protocol::epaxos::step::Step;
use crate::protocol::epaxos::{Context, Path};
use crate::protocol::epaxos::{Fx, Message, Record};
use crate::types::{Deps, ReplicaId, ReplicaSet, Time, Written};

/// The cuts that this replica has agreed to, knows to be established, and proposes.
///
/// Invariants:
///
/// 1. `agreed` never moves back in any component, and is in the log (`written`) before it is told.
/// 2. `heard` includes `agreed`.
#[derive(Debug)]
pub(super) struct Cuts {
    /// C: the highest cut known here to which `n - f` members have agreed.
    established: Deps,
    /// Everything up to here is in this replica's last snapshot, from which it can serve others.
    saved: Deps,
    /// The last cut agreed to here.
    agreed: Deps,
    written: Written,
    /// At or above every cut that any replica is known to have agreed to or proposed.
    heard: Deps,
    proposal: Option<Proposal>,
    /// Do not propose before this time.
    not_before: Time,
    /// W when the limit of kept bytes was exceeded, and since when W has not moved.
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
            saved: Deps::none(n),
            agreed: Deps::none(n),
            written: Written::default(),
            heard: Deps::none(n),
            proposal: None,
            not_before: Time::ZERO,
            stood: (Deps::none(n), Time::ZERO),
        }
    }

    /// Restores an agreement of an earlier life.
    pub(super) fn restore(&mut self, cut: &Deps) {
        self.agreed.merge(cut);
        self.heard.merge(cut);
    }

    /// The record of the last agreement, if there is one.
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

    /// The highest established cut known here (C).
    pub(super) fn established(&self) -> &Deps {
        &self.established
    }

    /// A member knows this cut to be established.
    pub(super) fn note_established(&mut self, cut: &Deps) {
        self.established.merge(cut);
    }

    /// What is in this replica's last snapshot.
    pub(super) fn saved(&self) -> &Deps {
        &self.saved
    }

    /// Everything up to here is in this replica's own durable snapshot.
    pub(super) fn note_saved(&mut self, executed: &Deps) {
        self.saved.merge(executed);
    }

    /// Proposes a cut if too much is kept and W does not move; resends what was not answered.
    pub(super) fn drive(&mut self, s: &mut Step<'_>, marks: &Marks) {
        self.resend(s);
        if self.proposal.is_some() || !self.is_held_up(s, marks) {
            return;
        }
        let Some(cut) = self.next_cut(s, marks) else { return };
        self.not_before = s.view.now + s.cx.timing().patience + turn(s);
        self.start(s, cut);
    }

    /// Whether too much has been kept for some time because a member does not move, and it is this
    /// replica's turn to propose a cut.
    fn is_held_up(&mut self, s: &Step<'_>, marks: &Marks) -> bool {
        let (keep, kept) = (s.cx.settings.retention.keep, s.store.instance_bytes());
        if kept <= keep {
            self.stood.1 = s.view.now;
            return false;
        }
        let floor = marks.executed_by_all();
        if floor != self.stood.0 {
            self.stood.0 = floor;
            // A member that moves far too slowly counts as one that does not move.
            if kept <= keep.saturating_mul(2) {
                self.stood.1 = s.view.now;
                return false;
            }
        }
        let due = self.stood.1 + s.cx.timing().patience + turn(s);
        s.view.now >= due && s.view.now >= self.not_before
    }

    /// The highest cut that `n - f` live members, this one included, have durably executed. `None`
    /// unless it is above all cuts heard of and lets something be dropped.
    fn next_cut(&self, s: &Step<'_>, marks: &Marks) -> Option<Deps> {
        let (me, slow) = (s.cx.me(), s.cx.quorums().slow());
        // What a member has in its snapshot, as far as it is known here. In memory mode a member
        // may have saved less than it reports as executed; then it will not agree.
        let saved_at = |who: ReplicaId| {
            if who == me { &self.saved } else { marks.executed_at(who) }
        };
        let able = |who: &ReplicaId| {
            !s.view.suspected.contains(*who) && saved_at(*who).includes(&self.heard)
        };
        let mut able: Vec<ReplicaId> = ReplicaId::all(s.cx.n()).filter(able).collect();
        // This replica has to agree first; then take those that have executed most.
        let total = |who: &ReplicaId| {
            let slots = saved_at(*who).as_slots();
            slots.iter().fold(0_u64, |sum, slot| sum.saturating_add(*slot))
        };
        able.sort_by_key(|who| std::cmp::Reverse((*who == me, total(who))));
        if able.first() != Some(&me) || able.len() < slow {
            return None;
        }
        let mut cut = self.saved.clone();
        able[..slow].iter().for_each(|who| cut.meet(saved_at(*who)));
        let mut gone = marks.executed_by_all();
        gone.merge(&self.established);
        gone.merge(s.store.instances.trimmed());
        (!gone.includes(&cut)).then_some(cut)
    }

    /// Proposes a cut; this replica agrees to it first.
    pub(super) fn start(&mut self, s: &mut Step<'_>, cut: Deps) {
        s.fx.hit(Path::CutProposed);
        self.agree(&cut, s.fx);
        self.proposal = Some(Proposal {
            cut: cut.clone(),
            agreed: ReplicaSet::EMPTY,
            send_again: s.view.now + s.cx.resend_after(s.view, 0),
            give_up: s.view.now + s.cx.timing().patience,
        });
        s.fx.answer(self.written, s.cx.me(), Message::CutOk { cut: cut.clone() });
        s.fx.send(self.written, s.cx.others(), Message::Cut { cut });
    }

    fn resend(&mut self, s: &mut Step<'_>) {
        let Some(proposal) = &mut self.proposal else { return };
        if proposal.give_up <= s.view.now {
            self.proposal = None;
            return;
        }
        if proposal.send_again <= s.view.now {
            s.fx.hit(Path::Retransmit);
            proposal.send_again = s.view.now + s.cx.resend_after(s.view, 1);
            let others = s.cx.others();
            let to = others.iter().filter(|r| !proposal.agreed.contains(*r)).collect();
            s.fx.send(self.written, to, Message::Cut { cut: proposal.cut.clone() });
        }
    }

    /// Whether the cut is in this replica's own snapshot and at or above all earlier agreements.
    pub(super) fn may_agree(&self, cx: &Context, cut: &Deps) -> bool {
        let saved = self.saved.includes(cut) || !cx.rules.cut_is_checked();
        saved && cut.includes(&self.agreed)
    }

    /// A member proposes a cut: agrees to it if allowed, and answers with the last agreement.
    pub(super) fn on_cut(&mut self, s: &mut Step<'_>, from: ReplicaId, cut: &Deps) {
        self.heard.merge(cut);
        if self.may_agree(s.cx, cut) {
            s.fx.hit(Path::CutAgreed);
            self.agree(cut, s.fx);
        } else {
            s.fx.hit(Path::CutRefused);
        }
        s.fx.answer(self.written, from, Message::CutOk { cut: self.agreed.clone() });
    }

    /// A member tells which cut it has agreed to last. Returns whether that establishes a cut.
    pub(super) fn on_cut_ok(&mut self, s: &mut Step<'_>, from: ReplicaId, cut: &Deps) -> bool {
        self.heard.merge(cut);
        let Some(proposal) = &mut self.proposal else { return false };
        if *cut == proposal.cut {
            proposal.agreed.insert(from);
            if proposal.agreed.len() < s.cx.quorums().slow() {
                return false;
            }
            s.fx.hit(Path::CutEstablished);
            self.established.merge(cut);
            self.proposal = None;
            return true;
        }
        if !proposal.cut.includes(cut) {
            // The sender can no longer agree to this cut, and perhaps not to another proposer's
            // either. Both proposers try again above both cuts, at different times.
            self.proposal = None;
            let pause = s.cx.timing().gossip * 4;
            let jitter = pause.mul_f64(s.rng.random::<f64>());
            self.not_before = s.view.now + pause + jitter + turn(s);
        }
        false
    }
}

/// How long this replica waits so that those before it may propose.
fn turn(s: &Step<'_>) -> Duration {
    (s.cx.timing().gossip * 4 + s.view.slowest_round_trip() * 2) * s.cx.rank(s.view)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::epaxos::step::Alone;
    use crate::types::{Optimisations, Slot};

    fn replica(number: u8) -> ReplicaId {
        ReplicaId::new(number).expect("a number")
    }

    fn saved(slots: [Slot; 3]) -> (Alone, Cuts) {
        let mut cuts = Cuts::new(3);
        cuts.note_saved(&Deps::from_slots(slots));
        (Alone::new(3, Optimisations::NONE), cuts)
    }

    fn answer(alone: &mut Alone, cuts: &mut Cuts, slots: [Slot; 3]) -> Message {
        cuts.on_cut(&mut alone.step(), replica(2), &Deps::from_slots(slots));
        let (to, message) = alone.said().pop().expect("every proposal is answered");
        assert_eq!(to, [2]);
        message
    }

    #[test]
    fn agreements_form_a_chain_of_what_is_saved() {
        let (mut alone, mut cuts) = saved([5, 5, 5]);
        let ok = |slots: [Slot; 3]| Message::CutOk { cut: Deps::from_slots(slots) };
        assert_eq!(answer(&mut alone, &mut cuts, [3, 6, 1]), ok([0, 0, 0]), "not saved here");
        assert_eq!(answer(&mut alone, &mut cuts, [3, 2, 1]), ok([3, 2, 1]));
        assert_eq!(answer(&mut alone, &mut cuts, [2, 4, 4]), ok([3, 2, 1]), "not above the first");
        assert_eq!(answer(&mut alone, &mut cuts, [3, 4, 1]), ok([3, 4, 1]));
        assert_eq!(alone.fx.records.len(), 2, "one record an agreement");
    }

    #[test]
    fn a_quorum_that_agrees_establishes_it_and_one_that_is_ahead_ends_it() {
        let (mut alone, mut cuts) = saved([5, 5, 5]);
        let cut = Deps::from_slots([3, 3, 3]);
        cuts.start(&mut alone.step(), cut.clone());
        assert!(!cuts.on_cut_ok(&mut alone.step(), replica(1), &cut));
        assert!(!cuts.on_cut_ok(&mut alone.step(), replica(1), &cut), "counted once");
        assert_eq!(cuts.established(), &Deps::none(3));
        assert!(cuts.on_cut_ok(&mut alone.step(), replica(2), &cut));
        assert_eq!(cuts.established(), &cut);

        let next = Deps::from_slots([4, 4, 4]);
        cuts.start(&mut alone.step(), next.clone());
        assert!(!cuts.on_cut_ok(&mut alone.step(), replica(3), &Deps::from_slots([3, 5, 3])));
        assert!(!cuts.on_cut_ok(&mut alone.step(), replica(1), &next));
        assert!(!cuts.on_cut_ok(&mut alone.step(), replica(2), &next), "it is given up");
        assert_eq!(cuts.established(), &cut);
    }
}
