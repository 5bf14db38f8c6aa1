//! Marks: each member's reports of what it knows and has executed (PROTOCOL.md §4, §8a).
//!
//! A replica may crash after reporting its progress to only some peers. Peers that already forgot
//! an instance include it in their votes; an owner that has not heard would take the slow path for
//! every command while that replica is away. So what all have executed (W) is gossiped, and
//! proposals cover what any member knows of it. *Forgetting* uses first-hand reports only: a W from
//! elsewhere does not tell how far the members had proposed.
//!
//! *Durably executed* (E): in the replica's durable snapshot. In memory mode: executed.

use std::cmp::Reverse;

use crate::protocol::View;
use crate::protocol::epaxos::Context;
use crate::protocol::epaxos::store::Store;
use crate::types::{Deps, ReplicaId, Slot, Time};

/// The members' reports.
#[derive(Debug)]
pub(crate) struct Marks {
    known: Vec<Deps>,
    executed: Vec<Deps>,
    /// W as far as any member has told, limited to what this replica has durably executed.
    by_all: Deps,
    /// Per member, the last slot it proposed in.
    proposed: Deps,
    /// When the next gossip is due.
    next_gossip: Time,
    trim: Option<Trim>,
    /// Everything up to here may be forgotten.
    forgettable: Deps,
}

/// What may be forgotten once two conditions hold.
#[derive(Debug)]
struct Trim {
    /// Every member has executed everything up to here.
    floor: Deps,
    /// By then the others know this too.
    when: Time,
    /// Everything that a member may have proposed before it executed `floor`. Only later proposals
    /// are sure to cover `floor`. While one of these is undecided here, a Validate of it may come,
    /// and the instances up to `floor` may speak against it.
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

    /// E of a member, as known here: it has durably executed everything up to there.
    pub(crate) fn executed_at(&self, who: ReplicaId) -> &Deps {
        &self.executed[who.index()]
    }

    /// Everything up to here may be forgotten.
    pub(super) fn forgettable(&self) -> &Deps {
        &self.forgettable
    }

    /// What was forgotten in an earlier life stays forgotten.
    pub(super) fn restore_forgotten(&mut self, floor: &Deps) {
        self.forgettable.merge(floor);
    }

    /// Whether gossip is due; if so, schedules the next.
    pub(super) fn is_gossip_due(&mut self, cx: &Context, now: Time) -> bool {
        if now < self.next_gossip {
            return false;
        }
        self.next_gossip = now + cx.timing().gossip;
        true
    }

    /// This replica has proposed up to `proposed`. It has forgotten everything up to `floor`, some
    /// of it perhaps in an earlier life or by an install.
    pub(super) fn note_own(&mut self, me: ReplicaId, proposed: Slot, floor: &Deps) {
        self.proposed.raise(me, proposed);
        let by_all = self.executed_by_all();
        self.by_all.merge(&by_all);
        self.by_all.merge(floor);
    }

    /// A member's report. `proposed` was read at the same moment as `executed`.
    pub(super) fn heard(&mut self, from: ReplicaId, proposed: Slot, known: &Deps, executed: &Deps) {
        self.proposed.raise(from, proposed);
        self.known[from.index()].merge(known);
        self.executed[from.index()].merge(executed);
    }

    /// Makes the next gossip due at `time` or earlier.
    pub(super) fn gossip_at(&mut self, time: Time) {
        self.next_gossip = self.next_gossip.min(time);
    }

    /// This replica has durably executed everything up to `executed`.
    pub(super) fn executed_here(&mut self, me: ReplicaId, executed: &Deps) {
        self.executed[me.index()].merge(executed);
    }

    /// Another replica knows that every member, `me` included, has executed everything up to
    /// `by_all`.
    pub(super) fn told_of_all(&mut self, me: ReplicaId, by_all: &Deps) {
        let mut by_all = by_all.clone();
        by_all.meet(&self.executed[me.index()]);
        self.by_all.merge(&by_all);
    }

    /// Slots that a proposal may depend on at no cost: as far as any member has told, every member
    /// has executed them. Refreshed at each gossip.
    pub(crate) fn free_to_cover(&self) -> &Deps {
        &self.by_all
    }

    /// W from first-hand reports: every member, including absent ones, has told this replica that
    /// it executed everything up to here.
    pub(super) fn executed_by_all(&self) -> Deps {
        let (first, rest) = self.executed.split_first().expect("a cluster has a member");
        rest.iter().fold(first.clone(), |mut all, deps| {
            all.meet(deps);
            all
        })
    }

    /// A member that knows decisions of `owner` above `slot`, and how far. Prefers the owner, then
    /// the member that knows most; `in_vain` unanswered requests select the next one.
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

    /// Marks as forgettable what every member has executed, under two conditions. First, some time
    /// has passed, so that the others know it too and cover it; otherwise proposals would go the
    /// slow path. Second, every instance that might not cover it is decided.
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
