//! The observer's side of a feed: it looks who is there, asks the nearest member, and puts out what
//! that one sends; or it fetches a snapshot.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::rules::Rules;
use super::feeder::lacks;
use super::{Fed, Feed, LAST_WINDOW, MAX_RANGES};
use crate::protocol::View;
use crate::replica::transfer::{Receiver, Wishes};
use crate::replica::{Limits, Receiving, Transfer};
use crate::types::{Deps, Executed, ReplicaId, ReplicaSet, Time, Timing};

/// What an observer knows of one epoch.
///
/// Invariants:
///
/// 1. `executed` is closed (see the top of `feed`), and the state machine is in its state, if
///    `has_state`.
/// 2. There is no `feed` while a snapshot is needed.
#[derive(Debug)]
pub(in crate::replica::epochs) struct Follower {
    rules: Rules,
    executed: Executed,
    has_state: bool,
    receiver: Receiver,
    wishes: Wishes,
    view: View,
    timing: Timing,
    members: Vec<Peer>,
    feed: Option<Following>,
    /// The name of the last feed.
    last: u64,
    /// When the state last moved on.
    moved: Time,
    next_look: Time,
}

/// What an observer knows of a member.
#[derive(Clone, Debug)]
struct Peer {
    spoke: Option<Time>,
    trip: Option<Duration>,
    executed: Deps,
    /// It has not fed as it should: another is asked until then.
    shunned: Time,
}

/// A feed.
#[derive(Debug)]
struct Following {
    from: ReplicaId,
    feed: u64,
    /// The number of the next piece.
    next: u64,
    /// Pieces that have overtaken others; each within a window of `next`.
    ahead: BTreeMap<u64, (Vec<Fed>, Option<Deps>)>,
    /// The part of a component that has arrived.
    part: Vec<Fed>,
    since: Time,
    heard: Time,
    /// Whether the feeder is to be told how much has arrived.
    is_due: bool,
}

/// What an observer says, and to which members.
pub(in crate::replica::epochs) type Saying = (ReplicaSet, Feed);

impl Follower {
    /// In an epoch of `n` members. With `executed` the state machine has executed that in this
    /// epoch; without it a state is fetched. `seed` is another one in each life.
    pub(in crate::replica::epochs) fn new(
        n: usize,
        executed: Option<Executed>,
        (timing, limits, seed): (Timing, &Limits, u64),
        now: Time,
        rules: Rules,
    ) -> Follower {
        let has_state = executed.is_some();
        let mut receiver = Receiver::new(ReplicaSet::all(n), limits);
        if !has_state {
            receiver.need(&Deps::none(n), now);
        }
        let peer = Peer { spoke: None, trip: None, executed: Deps::none(n), shunned: Time::ZERO };
        Follower {
            rules,
            executed: executed.unwrap_or_else(|| Executed::none(n)),
            has_state,
            receiver,
            wishes: Wishes::default(),
            view: View::new(n),
            timing,
            members: vec![peer; n],
            feed: None,
            last: seed,
            moved: now,
            next_look: now,
        }
    }

    /// What is executed in the state here.
    pub(in crate::replica::epochs) fn executed(&self) -> &Executed {
        &self.executed
    }

    /// Whether the state machine is in a state of this epoch.
    pub(in crate::replica::epochs) fn has_state(&self) -> bool {
        self.has_state
    }

    /// How many instances it lacks that a member has executed.
    pub(in crate::replica::epochs) fn behind(&self) -> u64 {
        let here = self.executed.floor();
        self.members.iter().map(|member| lacks(here, &member.executed)).max().unwrap_or(0)
    }

    /// The members that have spoken lately.
    pub(in crate::replica::epochs) fn reached(&self, now: Time) -> ReplicaSet {
        let all = ReplicaId::all(self.members.len());
        all.filter(|id| !self.members[id.index()].is_silent(now, &self.timing)).collect()
    }

    /// The progress of a transfer.
    pub(in crate::replica::epochs) fn receiving(&self) -> Option<Receiving> {
        self.receiver.receiving()
    }

    /// Time passed.
    pub(in crate::replica::epochs) fn tick(&mut self, now: Time, say: &mut Vec<Saying>) {
        self.view.now = now;
        let all = ReplicaId::all(self.members.len());
        let silent = |id: &ReplicaId| self.members[id.index()].is_silent(now, &self.timing);
        self.view.suspected = all.clone().filter(silent).collect();
        let trips = self.members.iter().map(|member| member.trip.unwrap_or_default());
        self.view.round_trips = trips.collect();
        if self.next_look <= now {
            self.next_look = now + self.timing.gossip;
            let executed = self.executed.floor().clone();
            say.push((all.collect(), Feed::Look { sent: now, executed }));
            // What was said before may be lost.
            self.feed.iter_mut().for_each(|feed| feed.is_due = true);
        }
        self.receiver.tick(&self.view, &mut self.wishes);
        if self.receiver.needs_any() {
            return;
        }
        self.leave_if_stuck(now);
        if self.feed.is_none()
            && let Some(from) = self.nearest(now)
        {
            self.ask(from, now, say);
        }
    }

    /// Leaves a feeder that is silent, or that has nothing for long where others have.
    fn leave_if_stuck(&mut self, now: Time) {
        let Some(feed) = &self.feed else { return };
        let patience = self.patience(feed.from);
        let from = feed.from;
        let others = ReplicaId::all(self.members.len()).filter(|id| *id != from);
        let mut others = others.filter(|id| !self.view.suspected.contains(*id));
        let ahead =
            others.any(|id| !self.executed.floor().includes(&self.members[id.index()].executed));
        let is_silent = now.since(feed.heard) > patience;
        if is_silent || ahead && now.since(self.moved.max(feed.since)) > patience * 2 {
            self.feed = None;
            self.members[from.index()].shunned = now + patience * 4;
        }
    }

    fn patience(&self, of: ReplicaId) -> Duration {
        let trip = self.members[of.index()].trip.unwrap_or_default();
        (self.timing.suspect * 2).max(trip * 4 + self.timing.gossip * 4)
    }

    /// The nearest member that is there; one that has not failed lately, if there is one.
    fn nearest(&self, now: Time) -> Option<ReplicaId> {
        let all = ReplicaId::all(self.members.len());
        let there = all.filter(|id| !self.view.suspected.contains(*id));
        there.min_by_key(|id| {
            let Peer { trip, shunned, .. } = &self.members[id.index()];
            (*shunned > now, trip.unwrap_or(Duration::MAX))
        })
    }

    fn ask(&mut self, from: ReplicaId, now: Time, say: &mut Vec<Saying>) {
        self.last = self.last.wrapping_add(1);
        let (feed, n) = (self.last, self.members.len());
        let ranges = |owner| self.executed.above(owner).len();
        let have = match ReplicaId::all(n).map(ranges).sum::<usize>() {
            _ if !self.rules.an_observer_says_what_it_has() => Executed::none(n),
            few if few <= MAX_RANGES => self.executed.clone(),
            _ => Executed::up_to(self.executed.floor().clone()),
        };
        let (ahead, part) = (BTreeMap::new(), Vec::new());
        let (since, heard, is_due) = (now, now, false);
        self.feed = Some(Following { from, feed, next: 0, ahead, part, since, heard, is_due });
        say.push((ReplicaSet::from_iter([from]), Feed::Ask { feed, have }));
    }

    /// What a member says. Returns what is to be executed next, in this order.
    pub(in crate::replica::epochs) fn on_feed(
        &mut self,
        from: ReplicaId,
        feed: Feed,
        now: Time,
    ) -> Vec<Fed> {
        match feed {
            Feed::Here { echo, executed } => self.members[from.index()].here(echo, executed, now),
            Feed::Behind { feed, mut at_least } => {
                if self.feed.take_if(|it| it.from == from && it.feed == feed).is_some() {
                    at_least.merge(&self.executed.ends());
                    self.receiver.need(&at_least, now);
                }
            }
            Feed::Piece { feed, number, executions, floor } => {
                return self.on_piece((from, feed, number), executions, floor, now);
            }
            // An observer says these.
            Feed::Look { .. } | Feed::Ask { .. } | Feed::Got { .. } => {}
        }
        Vec::new()
    }

    fn on_piece(
        &mut self,
        (from, feed, number): (ReplicaId, u64, u64),
        executions: Vec<Fed>,
        floor: Option<Deps>,
        now: Time,
    ) -> Vec<Fed> {
        let Some(it) = self.feed.as_mut().filter(|it| it.from == from && it.feed == feed) else {
            return Vec::new();
        };
        if number < it.next || number >= it.next + LAST_WINDOW {
            return Vec::new();
        }
        it.ahead.insert(number, (executions, floor));
        let mut whole = Vec::new();
        while let Some((executions, floor)) = it.ahead.remove(&it.next) {
            it.next += 1;
            (it.heard, it.is_due) = (now, true);
            it.part.extend(executions);
            let ends = it.part.iter().rposition(|fed| fed.ends_component);
            for fed in it.part.drain(..ends.map_or(0, |last| last + 1)) {
                // The feeder leaves out what was named to it, which need not be all.
                if self.executed.insert(fed.id) {
                    self.moved = now;
                    whole.push(fed);
                }
            }
            if let Some(floor) = floor {
                self.executed.raise(&floor);
            }
        }
        whole
    }

    /// Confirms what has arrived.
    pub(in crate::replica::epochs) fn confirm(&mut self, say: &mut Vec<Saying>) {
        if let Some(it) = self.feed.as_mut().filter(|it| it.is_due) {
            it.is_due = false;
            let got = Feed::Got { feed: it.feed, pieces: it.next };
            say.push((ReplicaSet::from_iter([it.from]), got));
        }
    }

    /// What a member says of snapshots.
    pub(in crate::replica::epochs) fn on_transfer(
        &mut self,
        from: ReplicaId,
        transfer: Transfer,
        now: Time,
    ) {
        let wish = &mut self.wishes;
        match transfer {
            Transfer::Offer { snapshot, executed, bytes } => {
                self.receiver.on_offer(from, snapshot, (&executed, bytes), now, wish);
            }
            Transfer::Chunk { snapshot, offset, bytes } => {
                self.receiver.on_chunk(snapshot, offset, bytes, now, wish);
            }
            Transfer::Gone { snapshot } => self.receiver.on_gone(from, snapshot, now, wish),
            // An observer serves no snapshot.
            Transfer::Request { .. } | Transfer::Fetch { .. } => {}
        }
    }

    /// What the transfer wants done.
    pub(in crate::replica::epochs) fn wishes(&mut self) -> &mut Wishes {
        &mut self.wishes
    }

    /// A snapshot of this epoch is there, in which this is executed. Returns whether it takes the
    /// place of the state here: never of one that has executed something else.
    pub(in crate::replica::epochs) fn install(&mut self, executed: &Executed, now: Time) -> bool {
        let goes_back = self.has_state && !executed.includes(&self.executed);
        if goes_back && self.rules.a_state_never_goes_back() {
            self.receiver.refused(&self.executed.ends(), now);
            return false;
        }
        self.executed = executed.clone();
        (self.has_state, self.moved, self.feed) = (true, now, None);
        self.receiver.installed(&executed.ends(), now);
        true
    }

    /// The snapshot that has arrived cannot be used.
    pub(in crate::replica::epochs) fn reject_snapshot(&mut self, now: Time) {
        self.receiver.rejected(now);
    }
}

impl Peer {
    fn here(&mut self, echo: Time, executed: Deps, now: Time) {
        // A wrong time counts as a minute at most.
        let sample = now.since(echo).min(Duration::from_secs(60));
        self.spoke = Some(now);
        self.trip = Some(match self.trip {
            Some(known) if sample >= known => (known * 7 + sample) / 8,
            Some(known) => (known + sample) / 2,
            None => sample,
        });
        self.executed = executed;
    }

    fn is_silent(&self, now: Time, timing: &Timing) -> bool {
        let patience = timing.suspect.max(self.trip.unwrap_or_default() * 4 + timing.gossip * 2);
        self.spoke.is_none_or(|spoke| now.since(spoke) > patience)
    }
}
