//! Marks: what each replica knows and has executed (protocol.md §4, §8a). They heal lost Commits by
//! Fetch, and tell when every member has executed an instance, so that it can be forgotten.
//!
//! Deviation: forgetting here needs no durable snapshot, because in memory mode a replica that
//! stopped never returns. The durable log brings the marks C and W of protocol.md §8a.

use std::time::Duration;

use super::{EPaxos, Fx, Message};
use crate::protocol::{Path, View};
use crate::types::{Deps, InstanceId, ReplicaId, Slot, Time, Written};

/// The most decisions that one Fetch is answered with.
const FETCH_AT_MOST: Slot = 64;

/// What the members have said of themselves.
#[derive(Debug)]
pub(super) struct Marks {
    known: Vec<Deps>,
    executed: Vec<Deps>,
    /// Per member, the last slot it proposed in.
    proposed: Deps,
    /// When to say it again.
    next_gossip: Time,
    trim: Option<Trim>,
}

/// What may be forgotten once two things have come true.
#[derive(Debug)]
struct Trim {
    /// Every member has executed everything up to here.
    floor: Deps,
    /// The others know this too by then.
    when: Time,
    /// Everything that a member may have proposed before it executed `floor`. Only what is proposed
    /// later is sure to cover `floor`. As long as one of these is undecided here, a Validate of it
    /// may come, and what `floor` holds is what speaks against it.
    decided: Deps,
}

impl Marks {
    pub(super) fn new(n: usize) -> Marks {
        let none = vec![Deps::none(n); n];
        Marks {
            known: none.clone(),
            executed: none,
            proposed: Deps::none(n),
            next_gossip: Time::ZERO,
            trim: None,
        }
    }

    /// This replica has executed everything up to `executed`.
    pub(super) fn executed_here(&mut self, me: ReplicaId, executed: &Deps) {
        self.executed[me.index()].merge(executed);
    }

    /// W: everything up to here is executed by every member, the absent ones included.
    pub(super) fn executed_by_all(&self) -> Deps {
        let (first, rest) = self.executed.split_first().expect("a cluster has a member");
        rest.iter().fold(first.clone(), |mut all, deps| {
            all.meet(deps);
            all
        })
    }

    /// A member, best the owner, that knows the decisions of `owner` beyond `slot`; and how far.
    pub(super) fn who_knows(
        &self,
        owner: ReplicaId,
        slot: Slot,
        view: &View,
    ) -> Option<(ReplicaId, Slot)> {
        let claims = self
            .known
            .iter()
            .enumerate()
            .map(|(index, known)| (ReplicaId::from_index(index), known.slot(owner)));
        claims
            .filter(|(_, known)| *known > slot)
            .max_by_key(|(who, known)| (!view.suspected.contains(*who), *who == owner, *known))
    }
}

impl EPaxos {
    /// Tells the others how far this replica is, and forgets what it may.
    pub(super) fn gossip(&mut self, view: &View, fx: &mut Fx) {
        if view.now < self.marks.next_gossip {
            return;
        }
        self.marks.next_gossip = view.now + self.settings.timing.gossip;
        let me = self.me();
        let executed = self.marks.executed[me.index()].clone();
        let proposed = self.next_slot - 1;
        self.marks.proposed.raise(me, proposed);
        let marks = Message::Marks { proposed, known: self.known(), executed };
        fx.send(Written::default(), self.others(), marks);
        self.trim(view, fx);
    }

    pub(super) fn on_marks(
        &mut self,
        from: ReplicaId,
        proposed: Slot,
        known: &Deps,
        executed: &Deps,
    ) {
        self.marks.proposed.raise(from, proposed);
        self.marks.known[from.index()].merge(known);
        self.marks.executed[from.index()].merge(executed);
        for (owner, slot) in known.iter() {
            self.see(owner, slot);
        }
    }

    /// Forgets what every member has executed: a while after learning it, so that the others know
    /// it too and cover it, and no proposal goes the slow path for it; and not before everything
    /// that might not cover it is decided.
    fn trim(&mut self, view: &View, fx: &mut Fx) {
        let wait = self.settings.timing.gossip * 4 + view.slowest_round_trip() * 2;
        if let Some(trim) = self.marks.trim.take() {
            #[cfg(test)]
            let trim = match self.planted(super::Plant::ForgetEarly) {
                true => Trim { decided: Deps::none(self.n()), ..trim },
                false => trim,
            };
            if trim.when > view.now || !self.known().includes(&trim.decided) {
                self.marks.trim = Some(trim);
                return;
            }
            self.forget(&trim.floor, fx);
        }
        let floor = self.marks.executed_by_all();
        if !self.instances.trimmed().includes(&floor) {
            let decided = self.marks.proposed.clone();
            self.marks.trim = Some(Trim { floor, when: view.now + wait, decided });
        }
    }

    fn forget(&mut self, floor: &Deps, fx: &mut Fx) {
        let gone = self.instances.trim(floor);
        if gone.is_empty() {
            return;
        }
        fx.hit(Path::Trimmed);
        let footprints = gone.iter().filter_map(|i| i.payload.as_ref()).map(|b| b.footprint());
        self.index.forget(floor, footprints);
    }

    /// Answers with the decisions it knows; about the rest it says nothing.
    pub(super) fn on_fetch(
        &mut self,
        from: ReplicaId,
        owner: ReplicaId,
        first: Slot,
        last: Slot,
        fx: &mut Fx,
    ) {
        if owner.index() >= self.n() {
            return;
        }
        let last = last.min(first.saturating_add(FETCH_AT_MOST - 1));
        let wanted = self.instances.above(owner, first.saturating_sub(1));
        let known: Vec<_> = wanted
            .take_while(|(id, _)| id.slot <= last)
            .filter(|(_, instance)| instance.is_committed())
            .map(|(id, instance)| (id, instance.written))
            .collect();
        for (id, written) in known {
            let commit = self.full_commit(id).expect("only decisions were collected");
            fx.hit(Path::FetchAnswered);
            fx.answer(written, from, commit);
        }
    }

    /// Asks for the decisions of `owner` that somebody is known to have and this replica has not.
    pub(super) fn fetch(&mut self, view: &View, owner: ReplicaId, fx: &mut Fx) {
        let known = self.frontiers[owner.index()].known;
        let Some((who, up_to)) = self.marks.who_knows(owner, known, view) else { return };
        // Those already decided above the gap are not asked for again.
        let missing = (known + 1..=up_to.min(known.saturating_add(FETCH_AT_MOST)))
            .filter(|slot| !self.instances.is_committed(InstanceId::new(owner, *slot)));
        let (first, last) =
            missing.fold((None, 0), |(first, _), slot| (first.or(Some(slot)), slot));
        if let Some(from) = first {
            fx.hit(Path::Fetch);
            fx.answer(Written::default(), who, Message::Fetch { owner, from, to: last });
        }
    }

    /// How long a gap has to last before it is taken for a loss.
    pub(super) fn fetch_after(&self, view: &View) -> Duration {
        self.settings.timing.gossip + view.slowest_round_trip()
    }
}
