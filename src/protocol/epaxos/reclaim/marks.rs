//! Marks: what each member knows and has executed, as it says of itself (PROTOCOL.md §4, §8a).
//!
//! A replica may crash after it told of its progress to only some peers. Peers that already forgot
//! an instance include it in their votes; an owner that has not heard would go the slow path with
//! every command for as long as the crashed one is away. So what all have executed (W) is passed
//! on, and proposals cover what anybody knows of it. *Forgetting* rests on first-hand reports only:
//! with a W from elsewhere it would not be known how far the members had proposed.
//!
//! *For good* (E): in its durable snapshot; or at all, if it never comes back once it stops.

use std::cmp::Reverse;

use crate::protocol::View;
use crate::protocol::epaxos::Context;
use crate::protocol::epaxos::store::Store;
use crate::types::{Deps, ReplicaId, Slot, Time};

/// What the members have said of themselves.
#[derive(Debug)]
pub(crate) struct Marks {
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
    pub(crate) fn executed_at(&self, who: ReplicaId) -> &Deps {
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

    /// Whether it is time to say it again; if so, the next time is set.
    pub(super) fn is_gossip_due(&mut self, cx: &Context, now: Time) -> bool {
        if now < self.next_gossip {
            return false;
        }
        self.next_gossip = now + cx.timing().gossip;
        true
    }

    /// This replica has proposed up to `proposed`, and forgotten everything up to `floor`, in an
    /// earlier life or with another's snapshot.
    pub(super) fn note_own(&mut self, me: ReplicaId, proposed: Slot, floor: &Deps) {
        self.proposed.raise(me, proposed);
        let by_all = self.executed_by_all();
        self.by_all.merge(&by_all);
        self.by_all.merge(floor);
    }

    /// What a member says of itself; `proposed` is as of the moment when `executed` was.
    pub(super) fn heard(&mut self, from: ReplicaId, proposed: Slot, known: &Deps, executed: &Deps) {
        self.proposed.raise(from, proposed);
        self.known[from.index()].merge(known);
        self.executed[from.index()].merge(executed);
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
    pub(super) fn told_of_all(&mut self, me: ReplicaId, by_all: &Deps) {
        let mut by_all = by_all.clone();
        by_all.meet(&self.executed[me.index()]);
        self.by_all.merge(&by_all);
    }

    /// Slots that a proposal may depend on for free: every member has executed them, as far as
    /// anybody has told. Refreshed at each gossip.
    pub(crate) fn free_to_cover(&self) -> &Deps {
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
    pub(crate) fn who_knows(
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

    /// What every member has executed may be forgotten: a while after learning it, so that the
    /// others know it too and cover it, and no proposal goes the slow path for it; and not before
    /// everything that might not cover it is decided.
    pub(super) fn watch_floor(&mut self, cx: &Context, store: &Store, view: &View) {
        let wait = cx.timing().gossip * 4 + view.slowest_round_trip() * 2;
        if let Some(trim) = self.trim.take() {
            let decided = store.known().includes(&trim.decided) || !cx.rules.forgetting_waits();
            if trim.when > view.now || !decided {
                self.trim = Some(trim);
                return;
            }
            self.forgettable.merge(&trim.floor);
        }
        let floor = self.executed_by_all();
        if !self.forgettable.includes(&floor) {
            let decided = self.proposed.clone();
            self.trim = Some(Trim { floor, when: view.now + wait, decided });
        }
    }
}
