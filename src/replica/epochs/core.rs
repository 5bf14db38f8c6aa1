//! What one epoch's core knows of epochs: when its own ends, what is left of it then, and how a new
//! one begins.

use crate::protocol::Protocol;
use crate::replica::transfer::Transfers;
use crate::replica::{Core, Input, Memory, Output, others};
use crate::types::{Command, Deps, Durable, Executed, LogPosition, Membership, ReplicaId, Time};

/// What the next epoch takes over from a core: own commands that will not be executed in this one,
/// and more.
pub(super) struct Remains {
    /// Those that were proposed.
    pub(super) proposed: Vec<Command>,
    /// Those that waited, then reads. They had no effect.
    pub(super) waiting: Vec<Command>,
    /// What was proposed may have been executed in a state that was installed.
    pub(super) unsure: bool,
    /// What is remembered of the others.
    pub(super) memory: Memory,
    /// Where the log ends.
    pub(super) end: LogPosition,
    /// How far it is durable.
    pub(super) durable: Durable,
}

impl<P: Protocol> Core<P> {
    /// The same in this epoch, after a log of an earlier one that ends at `end`.
    pub(super) fn in_epoch(mut self, epoch: u32, end: LogPosition, durable: Durable) -> Core<P> {
        assert!(!self.started, "an epoch is set before anything happens in it");
        self.epoch = epoch;
        self.in_later_log(end, durable)
    }

    /// The same, but without a state of its epoch: it fetches one, from other members or from the
    /// replica at `server`.
    pub(super) fn fetching(mut self, now: Time, server: Option<ReplicaId>) -> Core<P> {
        self.view.now = now;
        let others = others(&self.settings).union(server.into_iter().collect());
        self.transfers = Transfers::new(others, &self.limits);
        self.transfers.need(&Deps::none(self.settings.quorums.n), now);
        self.silent()
    }

    /// The same, but it says and proposes nothing until an own snapshot of the epoch is durable.
    pub(super) fn silent(mut self) -> Core<P> {
        self.joining = true;
        self
    }

    /// Installs the snapshot that it has fetched to begin with.
    pub(super) fn install_first(
        &mut self,
        now: Time,
        shared: P::Snapshot,
        executed: &Executed,
        out: &mut Output<P::Message, P::Record>,
    ) {
        if self.executor.done().includes(executed) {
            // The state with which the epoch began.
            self.transfers.installed(self.executor.executed(), now);
        } else {
            let installed = self.install(now, shared, executed, out);
            assert!(installed, "a replica without a state takes any");
        }
    }

    /// The position of this replica in the epoch.
    pub(super) fn me(&self) -> ReplicaId {
        self.settings.me
    }

    /// Whether it has taken a step or resumed.
    pub(super) fn has_begun(&self) -> bool {
        self.started
    }

    /// Whether it still says nothing.
    pub(super) fn is_joining(&self) -> bool {
        self.joining
    }

    /// Whether the state machine is in a state of this epoch.
    pub(super) fn has_state(&self) -> bool {
        !self.transfers.needs_any()
    }

    /// An own snapshot of the epoch that stands for so much is durable. One that was begun before
    /// an install says nothing of what was installed. Returns whether it joins with this.
    pub(super) fn note_joined(&mut self, executed: &Executed) -> bool {
        if self.unsaved_install.as_ref().is_none_or(|installed| executed.includes(installed)) {
            self.unsaved_install = None;
            return std::mem::take(&mut self.joining);
        }
        false
    }

    /// Whether the log alone leads to the state here, once the core has concluded the epoch.
    pub(super) fn is_in_log(&self) -> bool {
        self.unsaved_install.is_none()
    }

    /// The epoch's last command is executed: completes the records, and tells the others.
    pub(super) fn conclude(&mut self, out: &mut Output<P::Message, P::Record>) {
        self.protocol.on_end(&self.view, &mut self.fx);
        self.apply_effects(out);
        self.write_heard(out);
    }

    /// The list of members that comes next, once the epoch's last command is executed.
    pub(super) fn ended(&self) -> Option<&Membership> {
        self.ended.as_ref()
    }

    /// What is executed here.
    pub(super) fn done(&self) -> Executed {
        self.executor.done()
    }

    /// Everything up to here is executed here.
    pub(super) fn executed_floor(&self) -> &Deps {
        self.executor.executed()
    }

    /// The epoch is over for this replica.
    pub(super) fn into_remains(self) -> Remains {
        let (proposed, waiting) = self.commands.into_waiting();
        let (memory, unsure) = (self.memory, self.unsure);
        let end = self.fx.end();
        Remains { proposed, waiting, unsure, memory, end, durable: self.durable }
    }

    /// What waits until the epoch begins here. The rest of what arrives before is lost, as on the
    /// network.
    pub(super) fn wait_with(
        &mut self,
        inputs: impl IntoIterator<Item = Input<P::Message>>,
        out: &mut Output<P::Message, P::Record>,
    ) {
        for input in inputs {
            match input {
                Input::Propose(command) => match self.commands.has_no_room_for(&command) {
                    Some(rejection) => out.rejected.push((command.request, rejection)),
                    None => self.commands.push_back(command),
                },
                Input::Heard { peer, known } => self.memory.met(peer, known),
                Input::Snapshot(own) => self.on_own_snapshot(&own),
                Input::Lent(own) => self.transfers.on_lent(&own, self.view.now),
                _ => {}
            }
        }
    }

    /// Takes over what an earlier epoch left: what is remembered of the others, and commands. If it
    /// is `unsure`, those that were proposed may have been executed.
    pub(super) fn take_over(
        &mut self,
        left: (Vec<Command>, Vec<Command>),
        memory: Memory,
        unsure: bool,
    ) {
        let me = self.settings.me;
        self.memory = memory;
        if self.started && self.memory.is_ahead() {
            self.fx.put_in_front();
        }
        self.unsure = unsure;
        let ours = |command| Command { origin: me, ..command };
        let (proposed, waiting) = left;
        let ours = |commands: Vec<Command>| commands.into_iter().map(ours).collect();
        self.commands.take_over(ours(proposed), ours(waiting));
    }

    /// The same after a log that has grown meanwhile. Records that this core has written before are
    /// durable.
    pub(super) fn in_later_log(mut self, end: LogPosition, durable: Durable) -> Core<P> {
        self.fx.start_at(end);
        self.durable = durable;
        self
    }
}
