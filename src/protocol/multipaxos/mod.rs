//! Multi-Paxos (Lamport, "Paxos Made Simple", §3; Chandra, Griesemer, Redstone, "Paxos Made Live"):
//! one log, one leader, one round trip from the leader to a majority. Its rules are
//! [§M1 to §M9](super::log#m-multi-paxos).
//!
//! This file is the only one that sees all parts: it hands each message to those that have to do
//! with it, and carries on what one part answers to the next. A part owns its state and knows
//! others only where it is lent them to look at. From the bottom up:
//!
//! - `promised`, `log`, `proposals`, and the `step` that lends them: what is known here.
//! - `learner`: how a decision is learned and told. `lease`: what a leader is granted.
//! - `proposer`: how own proposals come to the leader. `acceptor`: what others ask.
//! - `election`: when to stand. `candidate`: pre-vote and phase 1. `leader`: phase 2.
//! - `restore`: how a replica begins and goes on.
//!
//! A command's way: `proposals` (named) → `proposer` (forwarded to the leader) → `leader` (gets a
//! slot, Accept) → `acceptor` (votes) → `leader` (counts, tells) → `learner`. The side road, when
//! the leader is silent: `election` → `candidate` → (PreVote, Prepare) `acceptor` → `candidate` →
//! `leader`.
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

mod acceptor;
mod candidate;
mod election;
mod leader;
mod learner;
mod lease;
mod log;
mod message;
#[cfg(test)]
mod plant;
mod promised;
mod proposals;
mod proposer;
mod restore;
mod rules;
mod step;
#[cfg(test)]
mod tests;

pub use message::{Entry, MAX_RUN, Message, Proposal, ProtocolSnapshot, Record, Vote};
#[cfg(test)]
pub(crate) use plant::Plant;

use std::sync::Arc;

use super::log::log_floor;
use super::{Effects, Path, Protocol, View, context};
use crate::types::{
    Ballot, Batch, Deps, Executed, ExecutionOrder, InstanceId, ReplicaId, Settings, Slot, Time,
};

use candidate::{Candidate, Page};
use election::Election;
use leader::Leader;
use learner::Learner;
use lease::{Asked, Grant};
use restore::Restore;
use step::Core;

type Fx = Effects<Message, Record>;
type Context = context::Context<rules::Rules>;

/// What a replica is at its promised ballot.
#[derive(Debug)]
enum Role {
    Follower,
    Candidate(Box<Candidate>),
    Leader(Box<Leader>),
}

/// One replica's side of Multi-Paxos.
///
/// Invariant: its role is `Leader` exactly while its promised ballot's leader is this replica.
#[derive(Debug)]
pub struct MultiPaxos {
    core: Core,
    role: Role,
    election: Election,
    grant: Grant,
    learner: Learner,
    restore: Restore,
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
        let Core { promised, log, .. } = &self.core;
        Standing {
            ballot: promised.ballot(),
            leader: promised.leader(),
            commit: log.commit(),
            floor: log.floor(),
            slots: log.len(),
        }
    }

    /// How many of its proposals are not known decided yet.
    pub fn pending(&self) -> usize {
        self.core.proposals.len()
    }

    fn leader(&self) -> Option<&Leader> {
        match &self.role {
            Role::Leader(leader) => Some(leader),
            Role::Follower | Role::Candidate(_) => None,
        }
    }

    fn handle(&mut self, view: &View, from: ReplicaId, message: Message, fx: &mut Fx) {
        let s = &mut self.core.step(view, fx);
        match message {
            Message::PreVote { ballot, commit } => {
                acceptor::on_pre_vote(s, &self.grant, from, ballot, commit);
            }
            Message::PreVoteOk { ballot } => {
                if let Role::Candidate(candidate) = &mut self.role
                    && candidate.on_pre_vote_ok(s, from, ballot)
                {
                    self.start_phase_1(view, fx);
                }
            }
            Message::Prepare { ballot, first } => self.on_prepare(view, from, ballot, first, fx),
            Message::Promise { ballot, first, commit, votes, next } => {
                self.on_promise(view, from, Page { ballot, first, commit, votes, next }, fx);
            }
            Message::Accept { ballot, commit, first, entries } => {
                self.on_accept(view, from, ballot, commit, (first, entries), fx);
            }
            Message::AcceptOk { ballot, first, last } => {
                if let Role::Leader(leader) = &mut self.role {
                    leader.on_accept_ok(s, from, ballot, (first, last));
                }
            }
            Message::Commit { ballot, commit } => {
                if self.hear_leader(view, from, ballot, commit, fx) {
                    self.follow_commit(view, fx);
                }
            }
            Message::Heartbeat { ballot, commit, forget, barrier, sent, lease } => {
                if self.hear_leader(view, from, ballot, commit, fx) {
                    let s = &mut self.core.step(view, fx);
                    self.learner.follow_commit(s);
                    acceptor::drop_outdone(s, barrier);
                    self.grant.on_heartbeat(s, from, Asked { sent, lease }, forget);
                }
            }
            Message::HeartbeatOk { ballot, sent, lease, saved } => {
                if let Role::Leader(leader) = &mut self.role {
                    leader.on_heartbeat_ok(s, from, ballot, Asked { sent, lease }, saved);
                }
            }
            Message::Reject { ballot } => self.on_reject(view, ballot, fx),
            Message::Forward { proposals } => self.on_forward(view, from, proposals, fx),
            Message::Fetch { first } => learner::on_fetch(s, from, first),
            Message::Decided { first, entries } => {
                if !matches!(self.role, Role::Leader(_)) {
                    self.learner.on_decided(s, first, entries);
                }
            }
            Message::Truncated { floor } => learner::on_truncated(s, floor),
        }
    }

    /// The leader takes in what another replica proposes. From any other, its sender hears who
    /// leads, and then forwards it there.
    fn on_forward(
        &mut self,
        view: &View,
        from: ReplicaId,
        mut proposals: Vec<Proposal>,
        fx: &mut Fx,
    ) {
        if let Role::Leader(leader) = &mut self.role {
            proposals.retain(|proposal| proposal.name.replica == from);
            leader.propose(&mut self.core.step(view, fx), proposals);
        }
    }

    /// A message of the leader of `ballot`, saying what is decided: whether it is to be heeded.
    fn hear_leader(
        &mut self,
        view: &View,
        from: ReplicaId,
        ballot: Ballot,
        commit: Slot,
        fx: &mut Fx,
    ) -> bool {
        let s = &mut self.core.step(view, fx);
        if !acceptor::heeds(s, from, ballot) {
            return false;
        }
        assert!(
            s.promised.leader() != Some(s.cx.me()),
            "one replica leads a ballot, and here it is this one: {ballot:?} of {from}"
        );
        self.role = Role::Follower;
        self.election.postpone(s.cx, view);
        if s.promised.follow(from, commit) {
            s.fx.hit(Path::MpFollowed);
            proposer::forward_all(s);
        }
        true
    }

    /// Goes as far as the leader says all is decided.
    fn follow_commit(&mut self, view: &View, fx: &mut Fx) {
        self.learner.follow_commit(&mut self.core.step(view, fx));
    }

    /// Phase 2a.
    fn on_accept(
        &mut self,
        view: &View,
        from: ReplicaId,
        ballot: Ballot,
        commit: Slot,
        (first, entries): (Slot, Vec<Entry>),
        fx: &mut Fx,
    ) {
        if entries.is_empty() || !self.hear_leader(view, from, ballot, commit, fx) {
            return;
        }
        let s = &mut self.core.step(view, fx);
        self.learner.follow_commit(s);
        acceptor::on_accept(s, from, first, entries);
        // What is decided may have been told before.
        self.learner.follow_commit(s);
    }

    /// Phase 1a of somebody: who promises leads and asks for nothing at a lower ballot.
    fn on_prepare(
        &mut self,
        view: &View,
        from: ReplicaId,
        ballot: Ballot,
        first: Slot,
        fx: &mut Fx,
    ) {
        let s = &mut self.core.step(view, fx);
        if acceptor::on_prepare(s, &self.grant, from, ballot, first) {
            self.role = Role::Follower;
            self.election.postpone(s.cx, view);
        }
    }

    /// Phase 1b: with all that a majority has voted for, the candidate leads.
    fn on_promise(&mut self, view: &View, from: ReplicaId, page: Page, fx: &mut Fx) {
        let Role::Candidate(candidate) = &mut self.role else { return };
        let s = &mut self.core.step(view, fx);
        if let Some(suffix) = candidate.on_promise(s, from, page) {
            self.role = Role::Leader(Box::new(Leader::start(s, suffix)));
        }
    }

    /// Somebody has promised a higher ballot, so it cannot vote at this one.
    fn on_reject(&mut self, view: &View, ballot: Ballot, fx: &mut Fx) {
        self.election.note(ballot);
        if ballot <= self.core.promised.ballot() {
            return;
        }
        // A candidate asks at a higher one, later.
        let Some(leader) = self.leader() else { return };
        if leader.holds_lease(&self.core.cx, view) {
            // No other leader can be: whoever promised it was a candidate that came to nothing. A
            // ballot above brings it back.
            fx.hit(Path::MpLedAgain);
            self.start_phase_1(view, fx);
        } else {
            self.step_down(view, fx);
        }
    }

    /// It may not be able to lead any more: others may try.
    fn step_down(&mut self, view: &View, fx: &mut Fx) {
        fx.hit(Path::MpSteppedDown);
        self.follow_nobody(view);
    }

    /// Leads no more and stands no more, and knows of no leader.
    fn follow_nobody(&mut self, view: &View) {
        self.role = Role::Follower;
        self.core.promised.follow_nobody();
        self.election.postpone(&self.core.cx, view);
    }

    /// Stands for election: asks who would vote for this replica.
    fn stand(&mut self, view: &View, fx: &mut Fx) {
        let s = &mut self.core.step(view, fx);
        s.fx.hit(Path::MpPreVote);
        s.promised.lose_leader();
        let candidate = Candidate::new(s, self.election.next_ballot(s.cx.me(), s.promised));
        if candidate.is_wanted(s) {
            self.start_phase_1(view, fx);
        } else {
            candidate.ask(s);
            self.role = Role::Candidate(Box::new(candidate));
        }
    }

    /// Phase 1a, at a ballot above all that were heard of.
    fn start_phase_1(&mut self, view: &View, fx: &mut Fx) {
        let s = &mut self.core.step(view, fx);
        let ballot = self.election.next_ballot(s.cx.me(), s.promised);
        s.promised.join(ballot, s.fx);
        self.election.postpone(s.cx, view);
        self.role = Role::Candidate(Box::new(Candidate::start_phase_1(s)));
    }

    /// Leads as long as it is heard, or stands for election when it is time.
    fn drive_role(&mut self, view: &View, fx: &mut Fx) {
        let s = &mut self.core.step(view, fx);
        if let Role::Leader(leader) = &mut self.role {
            if leader.is_heard(s) {
                return leader.remind(s);
            }
            self.step_down(view, fx);
        }
        let s = &mut self.core.step(view, fx);
        if self.election.is_due(s, &self.grant) {
            self.stand(view, fx);
        }
        if let Role::Candidate(candidate) = &mut self.role {
            candidate.ask_again(&mut self.core.step(view, fx));
        }
    }

    /// Drops some of what nobody needs any more.
    fn truncate(&mut self, fx: &mut Fx) {
        let gone = self.core.log.truncate(self.core.cx.settings.retention.keep, fx);
        if let Role::Leader(leader) = &mut self.role {
            leader.forget(&gone);
        }
    }
}

impl Protocol for MultiPaxos {
    type Message = Message;
    type Record = Record;
    type Snapshot = ProtocolSnapshot;

    const NAME: &'static str = "multi-paxos";
    const ORDER: ExecutionOrder = ExecutionOrder::Log;

    fn new(settings: Settings) -> MultiPaxos {
        MultiPaxos {
            role: Role::Follower,
            election: Election::new(settings.seed),
            grant: Grant::default(),
            learner: Learner::default(),
            restore: Restore::default(),
            core: Core::new(settings),
        }
    }

    fn propose(&mut self, view: &View, batch: Arc<Batch>, fx: &mut Fx) -> InstanceId {
        let s = &mut self.core.step(view, fx);
        let proposal = s.proposals.add(s.cx, view, batch, s.fx);
        let name = proposal.name;
        match &mut self.role {
            Role::Leader(leader) => leader.propose(s, vec![proposal]),
            Role::Follower | Role::Candidate(_) => proposer::forward_new(s, proposal),
        }
        #[cfg(test)]
        self.after_step(fx);
        name
    }

    fn on_message(&mut self, view: &View, from: ReplicaId, message: Message, fx: &mut Fx) {
        if from.index() < self.core.cx.n() {
            self.handle(view, from, message, fx);
        }
        #[cfg(test)]
        self.after_step(fx);
    }

    fn on_tick(&mut self, view: &View, fx: &mut Fx) {
        self.drive_role(view, fx);
        let s = &mut self.core.step(view, fx);
        proposer::forward_again(s);
        self.learner.follow_commit(s);
        self.learner.record_commit(s);
        self.truncate(fx);
        #[cfg(test)]
        self.after_step(fx);
    }

    fn snapshot(&self, executed: &Executed) -> (ProtocolSnapshot, Vec<Record>) {
        (ProtocolSnapshot, restore::own_records(&self.core, &self.grant, executed))
    }

    fn on_snapshot(&mut self, executed: &Executed) {
        self.core.log.note_saved(log_floor(executed));
    }

    fn restore_snapshot(&mut self, _shared: ProtocolSnapshot, executed: &Executed) {
        self.core.log.note_saved(log_floor(executed));
        self.core.log.start_after(log_floor(executed));
    }

    fn restore(&mut self, record: Record, fx: &mut Fx) {
        self.restore.record(&mut self.core, &mut self.grant, record, fx);
    }

    fn may_install(&self, executed: &Executed, here: &Executed) -> bool {
        log_floor(executed) > log_floor(here)
    }

    fn install(
        &mut self,
        view: &View,
        _shared: ProtocolSnapshot,
        executed: &Executed,
        fx: &mut Fx,
    ) {
        fx.hit(Path::MpInstalled);
        let executed = log_floor(executed);
        if executed > self.core.log.commit() && !matches!(self.role, Role::Follower) {
            // What it would lead or ask for is decided.
            self.follow_nobody(view);
        }
        restore::install(&mut self.core.step(view, fx), executed);
        self.follow_commit(view, fx);
    }

    fn resume(&mut self, view: &View, _fx: &mut Fx) {
        let Core { cx, log, .. } = &mut self.core;
        log.note_recorded(log.commit());
        self.restore = Restore::default();
        self.grant.resume(cx, view.now);
        if cx.n() > 1 {
            self.election.postpone(cx, view);
        }
    }

    fn kept_bytes(&self) -> usize {
        self.core.log.bytes()
    }

    fn on_executed(&mut self, executed: &Deps) {
        if self.core.cx.settings.retention.volatile {
            self.core.log.note_saved(executed.slot(InstanceId::LOG));
        }
    }

    fn read_point(&self, view: &View) -> Option<Slot> {
        let Core { cx, log, .. } = &self.core;
        if cx.settings.leases { self.leader()?.read_point(cx, view, log) } else { None }
    }

    fn lease_end(&self) -> Time {
        let cx = &self.core.cx;
        let leader = self.leader().filter(|_| cx.settings.leases);
        leader.and_then(|leader| leader.lease_until(cx)).unwrap_or_default()
    }
}
