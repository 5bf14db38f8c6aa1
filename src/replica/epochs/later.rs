//! A later epoch, of which another member has told: its state is fetched and installed. After
//! `end`: a replica that ends its own epoch in time needs none of this.

use std::time::Duration;

use super::{Epochs, Output, Record, Stage};
use crate::protocol::Protocol;
use crate::replica::{self, Core, Memory, PeerMessage};
use crate::types::{Executed, MAX_REPLICAS, MemberId, Membership, ReplicaId, Time};

/// A later epoch.
pub(super) struct Later<P: Protocol> {
    pub(super) list: Membership,
    pub(super) since: Time,
    /// A removed replica that told of it, and has the state that it began with.
    pub(super) server: Option<MemberId>,
    /// Fetches a state of it.
    pub(super) core: Option<Box<Core<P>>>,
    /// What its members have said since the last step.
    pub(super) heard: Vec<replica::Input<P::Message>>,
}

impl<P: Protocol> Epochs<P> {
    /// Fetches a state of a later epoch, unless this replica ends its own in time.
    pub(super) fn run_later(&mut self, out: &mut Output<P::Message, P::Record>) {
        let Some(later) = &self.later else { return };
        let behind = self.epoch().is_none_or(|epoch| epoch + 1 < later.list.epoch());
        let patience = self.settings.timing.suspect * 2;
        if later.core.is_none() && (behind || self.now.since(later.since) >= patience) {
            let core = self
                .core(&later.list, self.end, self.durable)
                .fetching(self.now, beyond(&later.list));
            self.later.as_mut().expect("it is there").core = Some(Box::new(core));
        }
        let Some(Later { list, core, heard, server, .. }) = &mut self.later else { return };
        let heard = std::mem::take(heard);
        let Some(core) = core else { return };
        let mut inner = replica::Output::default();
        let inputs = heard.into_iter().chain([replica::Input::Tick]);
        core.step(self.now, inputs, &mut inner);
        assert!(inner.records.is_empty(), "a replica that joins writes nothing before it installs");
        out.take(list, inner, true, false, *server);
    }

    /// Installs a snapshot that was received whole, as [`Core::install`]; `list` is that of its
    /// epoch. If it was taken, take an own snapshot then.
    pub fn install(
        &mut self,
        now: Time,
        list: &Membership,
        shared: P::Snapshot,
        executed: &Executed,
        out: &mut Output<P::Message, P::Record>,
    ) -> bool {
        self.now = now;
        if let Some(later) = self.later.take_if(|later| later.list == *list) {
            let Some(core) = later.core else { return false };
            // From here on this replica takes no part in its old epoch: its state is gone from
            // memory. On the disk it is still there, until the own snapshot is. What follows in the
            // log is of use only if a record says that it is.
            let after = self.write(list, Record::Joining(list.clone()), out);
            let mut core = Box::new(core.in_later_log(after, self.durable));
            let mut inner = replica::Output::default();
            self.past = self.paths();
            let stage = std::mem::replace(&mut self.stage, Stage::Stranger);
            let (proposed, waiting, memory) = stage.into_remains();
            let crosses = self.rules.remembers_the_others();
            let memory = if crosses { memory } else { Memory::default() };
            // Nobody here knows whether what was proposed is in the state that was fetched.
            let left = match self.rules.what_crosses_is_not_fresh() {
                true => (proposed, waiting),
                false => (Vec::new(), [proposed, waiting].concat()),
            };
            core.take_over(left, self.remembered(&memory, list), true);
            core.install_first(now, shared, executed, &mut inner);
            if !self.rules.joins_once_durable() {
                core.note_joined(executed);
            }
            self.settle_change(list, out);
            self.enter(later.list, Stage::Member(core));
            self.put_out(inner, out);
            return true;
        }
        if matches!(self.stage, Stage::Observer(_)) {
            return self.install_at_observer(list, executed, out);
        }
        let Stage::Member(core) = &mut self.stage else { return false };
        if self.list.as_ref() != Some(list) {
            return false;
        }
        let mut inner = replica::Output::default();
        let installed = core.install(now, shared, executed, &mut inner);
        if installed {
            // What is executed next follows the state that was installed.
            let before = core.executed_floor().clone();
            self.feed_from(executed.clone(), before);
        }
        self.put_out(inner, out);
        self.end_epoch(out);
        installed
    }

    /// The snapshot that was received is of no use, as [`Core::reject_snapshot`].
    pub fn reject_snapshot(&mut self, now: Time) {
        if let Some(core) = self.later.as_mut().and_then(|later| later.core.as_mut()) {
            core.reject_snapshot(now);
        } else if let Stage::Member(core) = &mut self.stage {
            core.reject_snapshot(now);
        } else if let Stage::Observer(observer) = &mut self.stage {
            observer.follower.reject_snapshot(now);
        }
    }
}

impl<P: Protocol> Later<P> {
    /// Whether nothing of its state has come for so long.
    pub(super) fn is_stuck(&self, now: Time, patience: Duration) -> bool {
        let receives = self.core.as_ref().is_some_and(|it| it.status().receiving.is_some());
        !receives && now.since(self.since) >= patience
    }

    /// A frame of the later epoch.
    pub(super) fn on_peer(&mut self, from: MemberId, message: PeerMessage<P::Message>) {
        match (self.list.position(from), &mut self.core) {
            (Some(from), _) => self.heard.push(replica::Input::Peer { from, message }),
            (None, Some(core)) if self.server == Some(from) => {
                if let (PeerMessage::Transfer(transfer), Some(from)) = (message, beyond(&self.list))
                {
                    core.on_transfer(from, transfer);
                }
            }
            _ => {}
        }
    }
}

/// The position of a removed replica that serves the state with which an epoch began, at a replica
/// that fetches it. There is none with the longest list, which a single change cannot replace.
pub(super) fn beyond(list: &Membership) -> Option<ReplicaId> {
    let index = list.all().count();
    (index < MAX_REPLICAS).then(|| ReplicaId::from_index(index))
}
