//! Waiting: a recovery that cannot decide yet waits for the interfering instances to end, and
//! announces it. The announcement resolves two recoveries that wait for each other (PROTOCOL.md
//! §5.5).

use std::collections::{BTreeMap, BTreeSet};

use super::decide::{Candidate, must_yield, speaks_against};
use crate::protocol::epaxos::step::Step;
use crate::protocol::epaxos::{Message, Path, Standing};
use crate::types::{Executed, InstanceId};

/// Which recovery waits for which instances, and what waiting recoveries have announced.
///
/// Invariant: `waiting[x]` holds `id` only while `id` is under recovery here and in its Waiting
/// stage, and `x` is undecided here.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    waiting: BTreeMap<InstanceId, BTreeSet<InstanceId>>,
    /// The most fast votes that any recovery of an instance has announced. They are votes at the
    /// owner's ballot, so the number stays valid at every ballot.
    heard: BTreeMap<InstanceId, usize>,
}

impl Waiters {
    /// The recovery of `id` waits for `other`.
    pub(super) fn add(&mut self, id: InstanceId, other: InstanceId) {
        self.waiting.entry(other).or_default().insert(id);
    }

    /// A recovery of `id` announced its fast votes. Returns the recoveries that wait for `id`.
    pub(super) fn heard(&mut self, id: InstanceId, fast_votes: usize) -> BTreeSet<InstanceId> {
        let heard = self.heard.entry(id).or_default();
        *heard = (*heard).max(fast_votes);
        self.waiting.get(&id).cloned().unwrap_or_default()
    }

    /// `id` is decided. Returns the recoveries that waited for it.
    pub(super) fn decided(&mut self, id: InstanceId) -> BTreeSet<InstanceId> {
        self.heard.remove(&id);
        self.waiting.remove(&id).unwrap_or_default()
    }

    /// Ends all waits. Announcements about decided instances no longer matter.
    pub(super) fn stop_all(&mut self, decided: &Executed) {
        self.waiting.clear();
        self.heard.retain(|id, _| !decided.contains(*id));
    }

    /// Ends all waits of `id`.
    pub(super) fn stop(&mut self, id: InstanceId) {
        self.waiting.retain(|_, waiters| {
            waiters.remove(&id);
            !waiters.is_empty()
        });
    }
}

/// A recovery that waits for the interfering instances to end.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) candidate: Candidate,
    /// Each interfering instance, and whether it turned out harmless.
    pending: BTreeMap<InstanceId, bool>,
    /// Those of them that may not even conflict (PROTOCOL.md §7).
    unknown: BTreeSet<InstanceId>,
}

impl Waiting {
    pub(super) fn new(
        candidate: Candidate,
        interfering: &BTreeMap<InstanceId, Standing>,
    ) -> Waiting {
        let unknown = interfering.iter().filter(|(_, standing)| **standing == Standing::Unknown);
        let unknown = unknown.map(|(other, _)| *other).collect();
        let pending = interfering.keys().map(|other| (*other, false)).collect();
        Waiting { candidate, pending, unknown }
    }

    /// The instances that it waits for.
    pub(super) fn others(&self) -> impl Iterator<Item = InstanceId> + '_ {
        self.pending.keys().copied()
    }

    /// Says to all that the recovery of `id` waits.
    pub(super) fn announcement(&self, id: InstanceId) -> Message {
        let fast_votes = self.candidate.fast_votes;
        let fast_votes = u8::try_from(fast_votes).expect("there are fewer replicas than 256");
        Message::Waiting { id, fast_votes }
    }

    /// Examines all instances that the recovery of `id` waits for.
    pub(super) fn examine(
        &mut self,
        s: &mut Step<'_>,
        id: InstanceId,
        waiters: &Waiters,
    ) -> Outcome {
        let mut outcome = Outcome::Clean;
        for (other, harmless) in self.pending.iter_mut().filter(|(_, harmless)| !**harmless) {
            let unknown = self.unknown.contains(other);
            let heard = waiters.heard.get(other).copied().unwrap_or(0);
            match look_at(s, id, &self.candidate, *other, unknown, heard) {
                Seen::Harmless => *harmless = true,
                Seen::Open => outcome = Outcome::Open,
                Seen::Forgotten => return Outcome::Forgotten,
                Seen::Against(path) => return Outcome::Against(path),
            }
        }
        outcome
    }
}

/// The result of examining all instances that a recovery waits for.
pub(super) enum Outcome {
    /// None of them speaks against the fast path.
    Clean,
    /// At least one is still open.
    Open,
    /// This replica has forgotten how one of them ended.
    Forgotten,
    /// The fast path did not succeed.
    Against(Path),
}

/// What one instance says about the fast path of a recovery that waits for it.
enum Seen {
    Harmless,
    Open,
    /// This replica has forgotten how it ended.
    Forgotten,
    Against(Path),
}

/// Examines one instance that the recovery of `id` waits for (§5.5). `unknown`: it was reported as
/// of unknown payload. `heard`: the most fast votes that a recovery of it has announced.
fn look_at(
    s: &mut Step<'_>,
    id: InstanceId,
    candidate: &Candidate,
    other: InstanceId,
    unknown: bool,
    heard: usize,
) -> Seen {
    match s.store.dropped_conflict(other, candidate.batch.footprint()) {
        Some(true) => return Seen::Against(Path::WaitingNop),
        Some(false) => return Seen::Harmless,
        None if s.store.instances.is_trimmed(other) => return Seen::Forgotten,
        None => {}
    }
    let instance = s.store.instances.get(other);
    if unknown {
        // It counts only once it is known to conflict and not to cover `id`.
        let known = match s.cx.rules.unknown_says_nothing() {
            true => speaks_against(id, &candidate.batch, instance),
            false => Some(true),
        };
        match known {
            Some(true) => {}
            Some(false) => {
                s.fx.hit(Path::UnknownHarmless);
                return Seen::Harmless;
            }
            None if s.store.instances.is_committed(other) => {}
            None => return Seen::Open,
        }
    }
    if let Some((value, deps)) = instance.and_then(|instance| instance.decision()) {
        if value.is_nop() || deps.covers(id) {
            return Seen::Harmless;
        }
        return Seen::Against(Path::WaitingNop);
    }
    let votes = heard + usize::from(!s.cx.rules.yields_to_enough_votes());
    if heard > 0 && must_yield(s.cx.quorums(), votes) {
        return Seen::Against(Path::WaitingYield);
    }
    Seen::Open
}
