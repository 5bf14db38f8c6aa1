//! Multi-Paxos (Lamport, "Paxos Made Simple", §3; Chandra, Griesemer, Redstone, "Paxos Made Live"):
//! one log, one leader, one round trip from the leader to a majority. Its rules are
//! [§M1 to §M9](super::log#m-multi-paxos).
//!
//! This is the only file that sees all parts. It passes each message to the parts concerned, and
//! passes one part's result to the next. A part owns its state; it reads another part only through
//! a reference that it is given. From the bottom up:
//!
//! - `promised`, `log`, `proposals`, and the `step` that lends them: what is known here.
//! - `learner`: learns and announces decisions. `lease`: what a leader is granted.
//! - `proposer`: forwards own proposals to the leader. `acceptor`: answers candidates and leaders.
//! - `election`: when to stand for election. `candidate`: pre-vote and phase 1. `leader`: phase 2.
//! - `restore`: how a replica restarts, and installs a snapshot.
//!
//! The path of a command: `proposals` (named) → `proposer` (forwarded to the leader) → `leader`
//! (gets a slot, Accept) → `acceptor` (votes) → `leader` (counts, announces) → `learner`. If the
//! leader is silent: `election` → `candidate` → (PreVote, Prepare) `acceptor` → `candidate` →
//! `leader`.
//!
//! # Message delays
//!
//! A command of the leader is decided after two delays (Accept, AcceptOk). A follower learns the
//! decision of its own after four (Forward, Accept, AcceptOk, Commit). Votes go to the leader
//! alone: at most 3(n-1)+1 messages a slot. If votes went to all, a follower would know after three
//! delays, for n(n-1) votes a slot. But then the follower and its client could know before the
//! leader does. The leader's lease would then let it answer a read only once all its proposals were
//! decided. So reads at the leader take no delay, and a follower's command takes one more than it
//! could.
//!
//! The leader announces decisions with the next Accept; at once to a proposer that waits; and to
//! the others with the next tick if there was no Accept.

mod acceptor;
mod candidate;
mod election;
mod leader;
mod learner;
mod lease;
mod log;
mod message;
mod path;
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
pub use path::Path;
#[cfg(test)]
pub(crate) use plant::Plant;

use std::sync::Arc;

use super::log::log_floor;
use super::{Effects, Paths, Protocol, View, context};
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

/// The role of a replica at its promised ballot.
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

/// The state of one replica, for inspection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Standing {
    /// The highest ballot it has promised.
    pub ballot: Ballot,
    /// Its leader, if known; may be this replica.
    pub leader: Option<ReplicaId>,
    /// Everything up to here is decided.
    pub commit: Slot,
    /// Everything up to here is dropped.
    pub floor: Slot,
    /// How many slots it keeps.
    pub slots: usize,
}

impl MultiPaxos {
    /// The state of this replica.
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

    /// How many of its proposals are not known to be decided.
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

    /// The leader accepts another replica's proposals. A replica that does not lead ignores them:
    /// their sender will hear who leads, and forward them there.
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

    /// A leader's message at `ballot`, with what is decided. Returns whether to handle it.
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
            s.fx.hit(Path::Followed);
            proposer::forward_all(s);
        }
        true
    }

    /// Decides as far as the leader says, if the slots are here.
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
        // The leader may have announced these slots as decided before they arrived.
        self.learner.follow_commit(s);
    }

    /// Phase 1a of another replica. A replica that promises no longer leads or stands at a lower
    /// ballot.
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

    /// Phase 1b. Once it has all votes of a majority, the candidate leads.
    fn on_promise(&mut self, view: &View, from: ReplicaId, page: Page, fx: &mut Fx) {
        let Role::Candidate(candidate) = &mut self.role else { return };
        let s = &mut self.core.step(view, fx);
        if let Some(suffix) = candidate.on_promise(s, from, page) {
            self.role = Role::Leader(Box::new(Leader::start(s, suffix)));
        }
    }

    /// A replica has promised a higher ballot, so it cannot vote at this one.
    fn on_reject(&mut self, view: &View, ballot: Ballot, fx: &mut Fx) {
        self.election.note(ballot);
        if ballot <= self.core.promised.ballot() {
            return;
        }
        // A candidate tries again later, at a higher ballot.
        let Some(leader) = self.leader() else { return };
        if leader.holds_lease(&self.core.cx, view) {
            // While the lease holds there can be no other leader: the ballot is that of a failed
            // candidate. A ballot above it wins that replica back.
            fx.hit(Path::LedAgain);
            self.start_phase_1(view, fx);
        } else {
            self.step_down(view, fx);
        }
    }

    /// It may no longer be able to lead, so others may try.
    fn step_down(&mut self, view: &View, fx: &mut Fx) {
        fx.hit(Path::SteppedDown);
        self.follow_nobody(view);
    }

    /// Neither leads nor stands, and knows no leader.
    fn follow_nobody(&mut self, view: &View) {
        self.role = Role::Follower;
        self.core.promised.follow_nobody();
        self.election.postpone(&self.core.cx, view);
    }

    /// Stands for election: asks the others for pre-votes.
    fn stand(&mut self, view: &View, fx: &mut Fx) {
        let s = &mut self.core.step(view, fx);
        s.fx.hit(Path::PreVote);
        s.promised.lose_leader();
        let candidate = Candidate::new(s, self.election.next_ballot(s.cx.me(), s.promised));
        if candidate.is_wanted(s) {
            self.start_phase_1(view, fx);
        } else {
            candidate.ask(s);
            self.role = Role::Candidate(Box::new(candidate));
        }
    }

    /// Phase 1a, at a ballot above all seen.
    fn start_phase_1(&mut self, view: &View, fx: &mut Fx) {
        let s = &mut self.core.step(view, fx);
        let ballot = self.election.next_ballot(s.cx.me(), s.promised);
        s.promised.join(ballot, s.fx);
        self.election.postpone(s.cx, view);
        self.role = Role::Candidate(Box::new(Candidate::start_phase_1(s)));
    }

    /// A leader continues while a majority answers; any other replica stands for election when due.
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

    /// Drops some slots that are no longer needed.
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

    fn paths() -> Paths {
        Paths::of::<Path>()
    }

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
        fx.hit(Path::Installed);
        let executed = log_floor(executed);
        if executed > self.core.log.commit() && !matches!(self.role, Role::Follower) {
            // The slots it would lead or ask for are decided.
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

    fn on_end(&mut self, view: &View, fx: &mut Fx) {
        let s = &mut self.core.step(view, fx);
        learner::record_all(s);
        if let Role::Leader(leader) = &mut self.role {
            leader.tell_all(s);
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
