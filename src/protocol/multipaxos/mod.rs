//! Multi-Paxos (Lamport, "Paxos Made Simple", §3; Chandra, Griesemer, Redstone, "Paxos Made Live"):
//! one log, one leader, one round trip from the leader to a majority. Its rules are
//! [§M1 to §M9](super::log#m-multi-paxos).
//!
//! A command's way: `propose` (named, and forwarded to the leader) → `lead` (gets a slot, Accept) →
//! `accept` (votes) → `lead` (counts, tells). The side road, when the leader is silent: `elect`
//! (pre-vote, then phase 1 over the whole suffix) → `lead`. `lease` keeps a leader that lives where
//! it is, and lets it answer reads alone. `keep` forgets, restarts and installs.
//!
//! # Message delays
//!
//! A command of the leader's is decided after two (Accept, AcceptOk), one of a follower's is known
//! to it after four (Forward, Accept, AcceptOk, Commit). Votes go to the leader alone, 3(n-1)+1
//! messages a slot at most: were they told to all, a follower would know after three, for n(n-1)
//! votes a slot; but then it could know, and its client, before the leader does, and the leader's
//! lease would let it answer a read only once all it had ever proposed was decided. So reads at the
//! leader take no delay, and a follower's command one more than it might.
//!
//! What is decided is told with the next Accept; at once to the proposer who waits for it; and to
//! the others with the next tick if no Accept came before.

mod accept;
mod elect;
mod keep;
mod lead;
mod lease;
mod log;
mod message;
#[cfg(test)]
mod plant;
mod propose;
#[cfg(test)]
mod tests;

pub use message::{Entry, MAX_RUN, Message, Proposal, Record, Shared, Vote};
#[cfg(test)]
pub(crate) use plant::Plant;

use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::{Effects, Protocol, View};
use crate::types::{
    Ballot, Batch, Deps, Executed, ExecutionOrder, InstanceId, ReplicaId, ReplicaSet, Settings,
    Slot, Time, Written,
};

use elect::{Candidate, Election};
use lead::Leading;
use lease::Grant;
use log::Log;
use propose::Own;

type Fx = Effects<Message, Record>;

/// What a replica is at its promised ballot.
#[derive(Debug)]
enum Role {
    Follower,
    Candidate(Box<Candidate>),
    Leader(Box<Leading>),
}

/// One replica's side of Multi-Paxos.
///
/// Invariants:
///
/// 1. `promised` never moves back, and nothing at a lower ballot is voted for or promised.
/// 2. It leads (phase 2) only the ballot that it has promised, after a majority promised it in this
///    life; so it proposes one value for each slot and ballot.
/// 3. `leader` is whom it has heard at `promised`, and `told` what that one said is decided.
/// 4. Every proposal of this life is in `own` until it is known decided here, or a snapshot that
///    may hold it is installed.
#[derive(Debug)]
pub struct MultiPaxos {
    settings: Settings,
    rng: ChaCha8Rng,
    promised: Ballot,
    /// Of the record that holds `promised`.
    promise_written: Written,
    role: Role,
    leader: Option<ReplicaId>,
    told: Slot,
    log: Log,
    own: Own,
    election: Election,
    grant: Grant,
    /// Everything up to here is executed here for good.
    saved: Slot,
    /// Everything up to here is executed for good by every member.
    forgettable: Slot,
    /// What the records say is decided.
    recorded: Slot,
    /// While it is restored: everything up to here was in a snapshot that may be lost.
    hole: Slot,
    /// When to ask again for what is missing.
    next_fetch: Time,
    /// The last slot known decided when this replica was last seen to lack what is behind it.
    stands_at: Option<Slot>,
    /// When to write down what is decided, if no vote did.
    next_record: Time,
    #[cfg(test)]
    plant: Option<Plant>,
}

/// What one replica is doing, to look at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Standing {
    /// The highest ballot it has promised.
    pub ballot: Ballot,
    /// Who leads it, if that is known; possibly itself.
    pub leader: Option<ReplicaId>,
    /// Everything up to here is decided.
    pub commit: Slot,
    /// Everything up to here is dropped.
    pub floor: Slot,
    /// How many slots it keeps.
    pub slots: usize,
}

impl MultiPaxos {
    /// What it is doing.
    pub fn standing(&self) -> Standing {
        Standing {
            ballot: self.promised,
            leader: self.leader,
            commit: self.log.commit(),
            floor: self.log.floor(),
            slots: self.log.len(),
        }
    }

    fn me(&self) -> ReplicaId {
        self.settings.me
    }

    fn n(&self) -> usize {
        self.settings.quorums.n
    }

    /// A majority: any two have a member in common.
    fn quorum(&self) -> usize {
        #[cfg(test)]
        if self.planted(Plant::SmallQuorum) {
            return (self.settings.quorums.slow() - 1).max(1);
        }
        self.settings.quorums.slow()
    }

    fn others(&self) -> ReplicaSet {
        let mut others = ReplicaSet::all(self.n());
        others.remove(self.me());
        others
    }

    fn leading(&self) -> Option<&Leading> {
        match &self.role {
            Role::Leader(leading) => Some(leading),
            _ => None,
        }
    }

    /// Promises a higher ballot; whoever leads it.
    fn join(&mut self, ballot: Ballot) {
        assert!(ballot > self.promised, "a promise never moves back");
        self.promised = ballot;
        self.follow_nobody();
    }

    /// Leads no more, and knows of no leader.
    fn follow_nobody(&mut self) {
        self.role = Role::Follower;
        self.leader = None;
        self.told = 0;
    }

    /// How long to wait for an answer before asking again, for the `tries`-th time.
    fn resend_after(&self, view: &View, tries: u32) -> Duration {
        let retransmit = self.settings.timing.retransmit;
        let base = retransmit.max(view.slowest_trip() * 2);
        (base * (1 << tries.min(4))).min(base.max(retransmit * 10))
    }

    #[cfg(test)]
    fn planted(&self, plant: Plant) -> bool {
        self.plant == Some(plant)
    }

    /// Breaks one rule, to see whether the checks notice.
    #[cfg(test)]
    pub(crate) fn plant(&mut self, plant: Plant) {
        self.plant = Some(plant);
    }
}

impl Protocol for MultiPaxos {
    type Message = Message;
    type Record = Record;
    type Shared = Shared;

    const NAME: &'static str = "multi-paxos";
    const ORDER: ExecutionOrder = ExecutionOrder::Log;

    fn new(settings: Settings) -> MultiPaxos {
        MultiPaxos {
            rng: ChaCha8Rng::seed_from_u64(settings.seed),
            promised: Ballot::OWNER,
            promise_written: Written::default(),
            role: Role::Follower,
            leader: None,
            told: 0,
            log: Log::default(),
            own: Own::default(),
            election: Election::default(),
            grant: Grant::default(),
            saved: 0,
            forgettable: 0,
            recorded: 0,
            hole: 0,
            next_fetch: Time::ZERO,
            stands_at: None,
            next_record: Time::ZERO,
            #[cfg(test)]
            plant: None,
            settings,
        }
    }

    fn propose(&mut self, view: &View, batch: Arc<Batch>, fx: &mut Fx) -> InstanceId {
        let name = self.start_proposal(view, batch, fx);
        #[cfg(test)]
        self.release_early_if_planted(fx);
        name
    }

    fn on_message(&mut self, view: &View, from: ReplicaId, message: Message, fx: &mut Fx) {
        if from.index() >= self.n() {
            return;
        }
        match message {
            Message::PreVote { ballot, commit } => {
                self.on_pre_vote(view, from, ballot, commit, fx);
            }
            Message::PreVoteOk { ballot } => self.on_pre_vote_ok(view, from, ballot, fx),
            Message::Prepare { ballot, first } => self.on_prepare(view, from, ballot, first, fx),
            Message::Promise { ballot, first, commit, votes, next } => {
                self.on_promise(view, from, ballot, (first, next), commit, votes, fx);
            }
            Message::Accept { ballot, commit, first, entries } => {
                self.on_accept(view, from, ballot, commit, (first, entries), fx);
            }
            Message::AcceptOk { ballot, first, last } => {
                self.on_accept_ok(view, from, ballot, (first, last), fx);
            }
            Message::Commit { ballot, commit } => {
                if self.hear_leader(view, from, ballot, commit, fx) {
                    self.follow_commit(view, fx);
                }
            }
            Message::Heartbeat { ballot, commit, forget, barrier, sent, lease } => {
                if self.hear_leader(view, from, ballot, commit, fx) {
                    self.follow_commit(view, fx);
                    self.drop_outdone(barrier, fx);
                    self.on_heartbeat(view, from, (sent, lease), forget, fx);
                }
            }
            Message::HeartbeatOk { ballot, sent, lease, saved } => {
                self.on_heartbeat_ok(view, from, ballot, (sent, lease), saved);
            }
            Message::Reject { ballot } => self.on_reject(view, ballot, fx),
            Message::Forward { proposals } => self.on_forward(view, from, proposals, fx),
            Message::Fetch { first } => self.on_fetch(from, first, fx),
            Message::Decided { first, entries } => self.on_decided(view, first, entries, fx),
            Message::Truncated { floor } => self.on_truncated(floor, fx),
        }
        #[cfg(test)]
        self.release_early_if_planted(fx);
    }

    fn on_tick(&mut self, view: &View, fx: &mut Fx) {
        self.drive_leadership(view, fx);
        self.drive_election(view, fx);
        self.forward_again(view, fx);
        self.follow_commit(view, fx);
        self.record_commit(view, fx);
        self.truncate(fx);
        #[cfg(test)]
        self.release_early_if_planted(fx);
    }

    fn snapshot(&self, executed: &Executed) -> (Shared, Vec<Record>) {
        (Shared, self.own_records(executed))
    }

    fn on_snapshot(&mut self, executed: &Executed) {
        self.saved = self.saved.max(executed.floor().slot(InstanceId::LOG));
    }

    fn restore_shared(&mut self, _shared: Shared, executed: &Executed) {
        self.restore_snapshot(executed);
    }

    fn restore(&mut self, record: Record, fx: &mut Fx) {
        self.restore_record(record, fx);
    }

    fn may_install(&self, executed: &Executed, here: &Executed) -> bool {
        executed.floor().slot(InstanceId::LOG) > here.floor().slot(InstanceId::LOG)
    }

    fn install(&mut self, view: &View, _shared: Shared, executed: &Executed, fx: &mut Fx) {
        self.install_snapshot(view, executed, fx);
    }

    fn resume(&mut self, view: &View, _fx: &mut Fx) {
        self.resume_life(view);
    }

    fn kept_bytes(&self) -> usize {
        self.log.bytes()
    }

    fn on_executed(&mut self, executed: &Deps) {
        if self.settings.retention.volatile {
            self.saved = self.saved.max(executed.slot(InstanceId::LOG));
        }
    }

    fn read_point(&self, view: &View) -> Option<Slot> {
        if self.settings.leases { self.lease_read_point(view) } else { None }
    }

    fn lease_end(&self) -> Time {
        let end = if self.settings.leases { self.lease_until() } else { None };
        end.unwrap_or_default()
    }
}
