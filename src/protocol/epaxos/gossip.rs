//! Marks: what each replica knows and has executed (protocol.md §4, §8a). They heal lost Commits by
//! Fetch, and tell when every member has executed an instance for good, so that it can be forgotten
//! (`truncate`).
//!
//! Who dies may have told one replica more than another. What one has forgotten its votes cover,
//! and an owner that does not know it to be executed everywhere would go the slow path with every
//! command for as long as the dead one is away. So what all have executed (W) is passed on, and
//! proposals cover what anybody knows of it. *Forgetting* rests on what each member has said of
//! itself here: with a W from elsewhere it would not be known how far the members had proposed.
//!
//! *For good* (E): in its durable snapshot; or at all, if it never comes back once it stops.

use std::cmp::Reverse;
use std::time::Duration;

use super::{EPaxos, Fx, Message};
use crate::protocol::{Path, View};
use crate::types::{Deps, InstanceId, ReplicaId, Slot, Time, Written};

/// The most decisions that one Fetch asks for.
const FETCH_AT_MOST: Slot = 512;

/// The payload bytes after which one Fetch is answered with no more.
const FETCH_BYTES: usize = 1 << 20;

/// What the members have said of themselves.
#[derive(Debug)]
pub(super) struct Marks {
    known: Vec<Deps>,
    executed: Vec<Deps>,
    /// W as far as anybody has told, and of it what this replica has executed for good itself.
    by_all: Deps,
    /// Per member, the last slot it proposed in.
    proposed: Deps,
    /// When to say it again.
    next_gossip: Time,
    trim: Option<Trim>,
    /// Everything up to here may be forgotten.
    forgettable: Deps,
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
            by_all: Deps::none(n),
            proposed: Deps::none(n),
            next_gossip: Time::ZERO,
            trim: None,
            forgettable: Deps::none(n),
        }
    }

    /// E of a member, as far as it is known here: everything up to there it has executed for good.
    pub(super) fn executed_at(&self, who: ReplicaId) -> &Deps {
        &self.executed[who.index()]
    }

    /// Everything up to here may be forgotten.
    pub(super) fn forgettable(&self) -> &Deps {
        &self.forgettable
    }

    /// What was forgotten in an earlier life stays so.
    pub(super) fn restore_forgotten(&mut self, floor: &Deps) {
        self.forgettable.merge(floor);
    }

    /// The next gossip is due at `time`, if not sooner.
    pub(super) fn gossip_at(&mut self, time: Time) {
        self.next_gossip = self.next_gossip.min(time);
    }

    /// This replica has executed everything up to `executed` for good.
    pub(super) fn executed_here(&mut self, me: ReplicaId, executed: &Deps) {
        self.executed[me.index()].merge(executed);
    }

    /// Another replica knows that every member has executed everything up to `by_all`, `me` too.
    fn told_of_all(&mut self, me: ReplicaId, by_all: &Deps) {
        let mut by_all = by_all.clone();
        by_all.meet(&self.executed[me.index()]);
        self.by_all.merge(&by_all);
    }

    /// What a proposal may cover at no price: everybody has executed it, whoever it was that heard
    /// of that. Of what was heard here alone, as of the last gossip.
    pub(super) fn free_to_cover(&self) -> &Deps {
        &self.by_all
    }

    /// W, as every member has told this replica itself: everything up to here is executed by all,
    /// the absent ones included.
    pub(super) fn executed_by_all(&self) -> Deps {
        let (first, rest) = self.executed.split_first().expect("a cluster has a member");
        rest.iter().fold(first.clone(), |mut all, deps| {
            all.meet(deps);
            all
        })
    }

    /// A member that knows the decisions of `owner` beyond `slot`, and how far: the owner or who
    /// knows most, and after asking `in_vain` so many times another.
    fn who_knows(
        &self,
        owner: ReplicaId,
        slot: Slot,
        in_vain: usize,
        view: &View,
    ) -> Option<(ReplicaId, Slot)> {
        let claims = ReplicaId::all(self.known.len()).zip(&self.known);
        let claims = claims.map(|(who, known)| (who, known.slot(owner)));
        let mut claims: Vec<_> = claims.filter(|(_, known)| *known > slot).collect();
        claims.sort_by_key(|(who, known)| {
            Reverse((!view.suspected.contains(*who), *who == owner, *known))
        });
        claims.get(in_vain % claims.len().max(1)).copied()
    }
}

impl EPaxos {
    /// Tells the others how far this replica is, and forgets what it may.
    pub(super) fn gossip(&mut self, view: &View, fx: &mut Fx) {
        if view.now < self.marks.next_gossip {
            return;
        }
        self.marks.next_gossip = view.now + self.cx.settings.timing.gossip;
        let me = self.cx.me();
        let executed = self.marks.executed[me.index()].clone();
        let proposed = self.next_slot - 1;
        self.marks.proposed.raise(me, proposed);
        self.marks.by_all.merge(&self.marks.executed_by_all());
        // Of an earlier life, or of another's snapshot.
        self.marks.by_all.merge(self.store.index.floor());
        let (known, cut) = (self.store.known(), self.cuts.established.clone());
        let by_all = Box::new(self.marks.by_all.clone());
        let marks = Message::Marks { proposed, known, executed, by_all, cut };
        // Others forget what all say they have executed: so it may not be lost here any more.
        let after = fx.everything();
        fx.send(after, self.cx.others(), marks);
        self.watch_floor(view);
        self.drive_cuts(view, fx);
    }

    /// What a member says of itself; `proposed` is as of the moment when `executed` was.
    pub(super) fn on_marks(
        &mut self,
        from: ReplicaId,
        proposed: Slot,
        known: &Deps,
        executed: &Deps,
        by_all: &Deps,
        cut: &Deps,
    ) {
        self.marks.proposed.raise(from, proposed);
        self.marks.known[from.index()].merge(known);
        self.marks.executed[from.index()].merge(executed);
        self.hear_of_all(by_all);
        self.cuts.established.merge(cut);
        for (owner, slot) in known.iter() {
            self.store.see(owner, slot);
        }
    }

    fn hear_of_all(&mut self, by_all: &Deps) {
        #[cfg(test)]
        if self.planted(super::Plant::KeptToOneself) {
            return;
        }
        self.marks.told_of_all(self.cx.me(), by_all);
    }

    /// What every member has executed may be forgotten: a while after learning it, so that the
    /// others know it too and cover it, and no proposal goes the slow path for it; and not before
    /// everything that might not cover it is decided.
    fn watch_floor(&mut self, view: &View) {
        let wait = self.cx.settings.timing.gossip * 4 + view.slowest_round_trip() * 2;
        if let Some(trim) = self.marks.trim.take() {
            #[cfg(test)]
            let trim = match self.planted(super::Plant::ForgetEarly) {
                true => Trim { decided: Deps::none(self.cx.n()), ..trim },
                false => trim,
            };
            if trim.when > view.now || !self.store.known().includes(&trim.decided) {
                self.marks.trim = Some(trim);
                return;
            }
            self.marks.forgettable.merge(&trim.floor);
        }
        let floor = self.marks.executed_by_all();
        if !self.marks.forgettable.includes(&floor) {
            let decided = self.marks.proposed.clone();
            self.marks.trim = Some(Trim { floor, when: view.now + wait, decided });
        }
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
        if owner.index() >= self.cx.n() {
            return;
        }
        let last = last.min(first.saturating_add(FETCH_AT_MOST - 1));
        if self.store.instances.is_trimmed(InstanceId::new(owner, first)) {
            // The first is missing there, or it would not have been asked for.
            self.answer_truncated(from, InstanceId::new(owner, first), fx);
        }
        let wanted = self.store.instances.above(owner, first.saturating_sub(1));
        let known: Vec<_> = wanted
            .take_while(|(id, _)| id.slot <= last)
            .filter(|(_, instance)| instance.is_committed())
            .map(|(id, instance)| (id, instance.written))
            .collect();
        let mut bytes = 0;
        for (id, written) in known {
            bytes += self
                .store
                .instances
                .get(id)
                .and_then(|i| i.payload.as_ref())
                .map_or(0, |b| b.bytes());
            if bytes > FETCH_BYTES && id.slot > first {
                break;
            }
            let commit = self.store.full_commit(id).expect("only decisions were collected");
            fx.hit(Path::FetchAnswered);
            fx.answer(written, from, commit);
        }
    }

    /// Asks for the decisions of `owner` that somebody is known to have and this replica has not.
    pub(super) fn fetch(&mut self, view: &View, owner: ReplicaId, fx: &mut Fx) {
        let known = self.store.known_of(owner);
        let in_vain = self.frontiers[owner.index()].in_vain;
        let Some((who, up_to)) = self.marks.who_knows(owner, known, in_vain, view) else { return };
        // Those already decided above the gap are not asked for again.
        let missing = (known + 1..=up_to.min(known.saturating_add(FETCH_AT_MOST)))
            .filter(|slot| !self.store.instances.is_committed(InstanceId::new(owner, *slot)));
        let (first, last) =
            missing.fold((None, 0), |(first, _), slot| (first.or(Some(slot)), slot));
        if let Some(from) = first {
            fx.hit(Path::Fetch);
            let next_fetch = view.now + self.fetch_after(view, owner);
            let frontier = &mut self.frontiers[owner.index()];
            frontier.asked = last;
            frontier.in_vain += 1;
            frontier.next_fetch = next_fetch;
            fx.answer(Written::default(), who, Message::Fetch { owner, from, to: last });
        }
    }

    /// A decision of `owner` was learned: if it was the last that had been asked for, there may be
    /// more, and a replica that missed much need not wait for the clock.
    pub(super) fn fetch_on(&mut self, view: &View, owner: ReplicaId, fx: &mut Fx) {
        let known = self.store.known_of(owner);
        let frontier = &mut self.frontiers[owner.index()];
        if frontier.asked > 0 && known >= frontier.asked {
            frontier.asked = 0;
            frontier.in_vain = 0;
            self.fetch(view, owner, fx);
        }
    }

    /// How long a gap has to last before it is taken for a loss. While the owner lives its payloads
    /// may be under way, and take their time. But not for ever: a payload that came late because it
    /// was cut off says nothing of the next one.
    pub(super) fn fetch_after(&self, view: &View, owner: ReplicaId) -> Duration {
        let after = self.cx.settings.timing.gossip + view.slowest_trip();
        let alive = !view.suspected.contains(owner);
        let lag = self.frontiers[owner.index()].lag.min(self.cx.settings.timing.suspect * 2);
        after + if alive { lag * 2 } else { Duration::ZERO }
    }
}
