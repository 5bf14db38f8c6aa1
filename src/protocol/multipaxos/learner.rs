//! The learner: decides as far as the leader says, and fetches what it lacks (§M4, §L5).

use super::log::Log;
use super::message::{Entry, take_run};
use super::proposals::Proposals;
use super::step::{Core, Step};
use super::{Context, Fx, Message, Path, Record};
use crate::protocol::log::{decision, need_snapshot, weight};
use crate::types::{MAX_SLOT, ReplicaId, Slot, Time, Written};

/// When to fetch missing decisions, and when to record learned ones.
#[derive(Debug, Default)]
pub(super) struct Learner {
    /// When to fetch again.
    next_fetch: Time,
    /// The end of the decided prefix when this replica last noticed that later slots are missing.
    stands_at: Option<Slot>,
    /// When to record how far all is decided, unless a vote did.
    next_record: Time,
}

impl Learner {
    /// Decides as far as the leader says, and fetches what is missing.
    pub(super) fn follow_commit(&mut self, s: &mut Step<'_>) {
        decide_told(s);
        self.fetch_missing(s);
    }

    /// Fetches missing decisions once the gap has lasted. A large Accept may be overtaken by the
    /// small message that announces the decision, and need not be sent twice because of that.
    fn fetch_missing(&mut self, s: &mut Step<'_>) {
        let (now, commit) = (s.view.now, s.log.commit());
        if commit >= s.promised.told() {
            return;
        }
        if self.stands_at != Some(commit) {
            self.stands_at = Some(commit);
            let patience = s.cx.timing().gossip + s.view.slowest_trip();
            self.next_fetch = self.next_fetch.max(now + patience);
        }
        if self.next_fetch <= now {
            let Some(leader) = s.promised.leader() else { return };
            s.fx.hit(Path::Fetch);
            self.next_fetch = now + s.cx.resend_after(s.view, 0);
            let first = commit + 1;
            s.fx.answer(Written::default(), leader, Message::Fetch { first });
        }
    }

    /// Decisions that a follower or a candidate fetched. A leader ignores them: at its ballot it
    /// learns decisions only from its own count.
    pub(super) fn on_decided(&mut self, s: &mut Step<'_>, first: Slot, entries: Vec<Entry>) {
        let any = learn(s, first, entries);
        decide_told(s);
        if any {
            // There may be more, and none is on its way.
            self.stands_at = Some(s.log.commit());
            self.next_fetch = s.view.now;
        }
        self.fetch_missing(s);
    }

    /// Records how far all is decided, at intervals, so that a restart begins there. Nothing waits
    /// for this record.
    pub(super) fn record_commit(&mut self, s: &mut Step<'_>) {
        if s.log.recorded() < s.log.commit() && self.next_record <= s.view.now {
            self.next_record = s.view.now + s.cx.timing().gossip;
            record_all(s);
        }
    }
}

/// Records how far all is decided.
pub(super) fn record_all(s: &mut Step<'_>) {
    let commit = s.log.commit();
    if s.log.recorded() < commit {
        s.log.note_recorded(commit);
        s.fx.append(Record::Committed { commit });
    }
}

/// Decides the slots that the leader has announced, as far as they are here.
///
/// A vote at the leader's own ballot is for the decided value. The leader proposed it at that
/// ballot, after phase 1; if a lower ballot had chosen another value for the slot, the leader would
/// have proposed that one. A vote at a lower ballot may be for any value.
fn decide_told(s: &mut Step<'_>) {
    while s.log.commit() < s.promised.told() {
        let Some(held) = s.log.get(s.log.commit() + 1) else { return };
        let is_old = held.ballot != s.promised.ballot();
        if is_old && s.cx.rules.old_votes_decide_nothing() {
            return;
        }
        decide_next(s);
    }
}

/// The next slot is decided as it stands in the log: passes the decision to the executor. Returns
/// whose proposal it was.
pub(super) fn decide_next(s: &mut Step<'_>) -> ReplicaId {
    let leads = s.promised.leader() == Some(s.cx.me());
    decide(s.cx, s.log, s.proposals, leads, s.fx)
}

/// An earlier life knew that the next slot was decided.
pub(super) fn restore_next(core: &mut Core, fx: &mut Fx) {
    decide(&core.cx, &mut core.log, &mut core.proposals, false, fx);
}

fn decide(
    cx: &Context,
    log: &mut Log,
    proposals: &mut Proposals,
    leads: bool,
    fx: &mut Fx,
) -> ReplicaId {
    let (slot, entry) = log.decide_next();
    let (proposal, value) = (entry.proposal, entry.value.clone());
    if proposal.replica == cx.me() && proposals.end(proposal.slot) {
        fx.own_commits.push((proposal, leads));
    }
    // A majority stores it durably, so nothing here need be durable.
    fx.decide(Written::default(), decision(cx.n(), slot, proposal, value));
    proposal.replica
}

/// Takes in decisions, as far as they follow without a gap. Returns whether any is new.
pub(super) fn learn(s: &mut Step<'_>, first: Slot, entries: Vec<Entry>) -> bool {
    let next = s.log.commit() + 1;
    if first == 0 || first > next {
        return false;
    }
    let mut news = Vec::new();
    for (slot, entry) in (first..).zip(entries) {
        if slot >= next {
            news.push(entry);
        } else if let Some(held) = s.log.get(slot) {
            assert!(held.entry.value == entry.value, "one decision a slot: {slot}");
        }
    }
    if news.is_empty() || next > MAX_SLOT - news.len() as Slot {
        return false;
    }
    let written = s.fx.append(Record::Decided { first: next, entries: news.clone() });
    for (slot, entry) in (next..).zip(news) {
        s.log.put_decided(slot, entry, written);
        s.log.note_recorded(slot);
        decide_next(s);
    }
    true
}

/// A member requests decisions.
pub(super) fn on_fetch(s: &mut Step<'_>, from: ReplicaId, first: Slot) {
    let commit = s.log.commit();
    if first == 0 || first > commit {
        return;
    }
    if first <= s.log.floor() {
        answer_truncated(s, from);
        return;
    }
    let decided = s.log.from(first).take_while(|(slot, _)| *slot <= commit);
    let mut decided = decided.map(|(_, accepted)| &accepted.entry);
    let run = take_run(&mut decided, |entry| weight(&entry.value));
    let entries: Vec<Entry> = run.into_iter().cloned().collect();
    s.fx.hit(Path::FetchAnswered);
    s.fx.answer(Written::default(), from, Message::Decided { first, entries });
}

/// A member lacks slots that are dropped here.
pub(super) fn answer_truncated(s: &mut Step<'_>, to: ReplicaId) {
    s.fx.hit(Path::Truncated);
    let floor = s.log.floor();
    s.fx.answer(Written::default(), to, Message::Truncated { floor });
}

/// The slots missing here are dropped at the sender.
pub(super) fn on_truncated(s: &mut Step<'_>, floor: Slot) {
    if floor <= s.log.commit() || floor > MAX_SLOT {
        return;
    }
    s.fx.hit(Path::NeedsSnapshot);
    need_snapshot(s.cx.n(), floor, s.fx);
}
