//! The list of members while the replica runs: changes that are asked for here, and what follows
//! from a new list. Part of the runner.

use std::sync::atomic::Ordering;

use tracing::{debug, info, warn};

use super::Runner;
use crate::node::error::{Fault, Rejected};
use crate::node::members::{Asked, ChangeAsker, NotChanged};
use crate::node::panics::lock;
use crate::node::status::NodeProtocol;
use crate::replica::epochs::Role;
use crate::types::{Change, Command, MemberId, Membership, Time};
use crate::wire::{Members, OBSERVERS};

/// What the runner knows of the members besides its core.
pub(super) struct Known {
    /// The list of the first epoch.
    first: Membership,
    /// What others here were told last: the epochs known, and the replica's role.
    told: Option<(Vec<u32>, Role)>,
    change: Option<Open>,
    /// To be proposed at the next turn.
    proposal: Option<Command>,
}

/// A change that was proposed here.
struct Open {
    next: Membership,
    asker: ChangeAsker,
    until: Time,
}

impl Known {
    pub(super) fn new(first: Membership) -> Known {
        Known { first, told: None, change: None, proposal: None }
    }

    /// The list of the first epoch.
    pub(super) fn first(&self) -> &Membership {
        &self.first
    }

    /// The command to propose now, if a change was asked for.
    pub(super) fn take_proposal(&mut self) -> Option<Command> {
        self.proposal.take()
    }

    /// The change was not proposed.
    pub(super) fn rejected(&mut self, why: Rejected) {
        self.answer(|_| Err(NotChanged::Rejected(why)));
    }

    fn answer(&mut self, answer: impl FnOnce(Membership) -> Result<Membership, NotChanged>) {
        if let Some(Open { next, asker, .. }) = self.change.take() {
            // The caller may be gone.
            let _ = asker.send(answer(next));
        }
    }
}

impl<P: NodeProtocol> Runner<P> {
    /// Begins a change of the members, or refuses it.
    pub(super) fn change_members(&mut self, change: Change, force: bool, asker: ChangeAsker) {
        match self.next_list(change, force) {
            Err(why) => drop(asker.send(Err(why))),
            Ok((next, command)) => {
                let until = self.shared.clock.now() + self.shared.propose_timeout;
                info!(us = %self.shared.id, epoch = next.epoch(), %next, "members are to be");
                self.members.change = Some(Open { next, asker, until });
                self.members.proposal = Some(command);
                self.shared.wake.notify_one();
            }
        }
    }

    fn next_list(&self, change: Change, force: bool) -> Result<(Membership, Command), NotChanged> {
        // A change whose caller has given up may still be made.
        if self.members.change.is_some() || self.epochs.has_open_change() {
            return Err(NotChanged::UnderWay);
        }
        let list = self.epochs.list().filter(|_| self.epochs.role() == Role::Member);
        let (list, core) = list.zip(self.epochs.present()).ok_or(NotChanged::NoMember)?;
        if core.has_lost_quorum() {
            let reach = self.epochs.reach().expect("a member has a list");
            return Err(NotChanged::Rejected(Rejected::NoQuorum(reach)));
        }
        let (begun, reached) = (self.epochs.begun(), self.reached());
        let directory = |id| self.inbox.newcomer(id);
        let asked = Asked { list, begun: &begun, reached: &reached, directory: &directory, force };
        let next = asked.next(change)?;
        if !next.observers().is_empty() {
            // To an older release the command that brings such a list would mean nothing.
            let others = next.members().iter().map(|it| it.id).filter(|id| *id != self.epochs.me());
            let knows = |id| self.mesh.frames(id).is_some_and(|version| version >= OBSERVERS);
            if let Some(older) = others.into_iter().find(|id| !knows(*id)) {
                return Err(NotChanged::Older(older));
            }
        }
        let me = list.position(self.epochs.me()).expect("a member is in its list");
        let command = next.command(me);
        Ok((next, command))
    }

    /// The members that can be reached, this one included.
    fn reached(&self) -> Vec<MemberId> {
        if let Some(reached) = self.epochs.reached_by_observer() {
            return reached;
        }
        let Some((list, reach)) = self.epochs.list().zip(self.epochs.reach()) else {
            return Vec::new();
        };
        let is_silent = |id| reach.silent.iter().any(|(silent, _)| *silent == id);
        list.members().iter().map(|it| it.id).filter(|id| !is_silent(*id)).collect()
    }

    /// Answers a caller whose change is not known to be made or refused after long.
    pub(super) fn expire_change(&mut self, now: Time) {
        if self.members.change.as_ref().is_some_and(|change| change.until <= now) {
            self.members.answer(|_| Err(NotChanged::Unknown));
        }
    }

    /// The members as this replica knows them.
    pub(super) fn members(&self) -> Members {
        let list = self.epochs.last_list();
        let receiving = self.epochs.receiving();
        Members {
            list: list.cloned(),
            begun: self.epochs.begun(),
            reached: self.reached(),
            receiving: receiving.map(|it| (it.received, it.bytes)),
            behind: self.epochs.observed(),
            ..Members::unknown(self.epochs.me(), self.epochs.role())
        }
    }

    /// Handles what the core has put out about members.
    pub(super) fn follow_members(&mut self) {
        let settled = !self.out.changed.is_empty() || !self.out.superseded.is_empty();
        self.out.changed.clear();
        self.out.superseded.clear();
        let ended = std::mem::take(&mut self.out.ended);
        for list in &ended {
            let (us, epoch) = (self.shared.id, list.epoch());
            info!(%us, epoch, members = %list, "the members changed");
        }
        if settled {
            let known: Vec<_> = ended.into_iter().chain(self.epochs.lists().cloned()).collect();
            // The answer rests on the list that followed, and on nothing else.
            self.members.answer(|next| {
                let followed = known.into_iter().find(|list| list.epoch() == next.epoch());
                match followed.ok_or(NotChanged::Unknown)? {
                    list if list == next => Ok(list),
                    other => Err(NotChanged::Superseded(other)),
                }
            });
        }
        if let Some(list) = self.out.retired.take() {
            self.retire(list);
        }
        let role = self.epochs.role();
        let is_told = self.members.told.as_ref().is_some_and(|(epochs, told)| {
            let now = self.epochs.lists().map(Membership::epoch);
            *told == role && now.eq(epochs.iter().copied())
        });
        if !is_told {
            self.shared.role.send_replace(role);
            self.tell_of_lists();
            let epochs = self.epochs.lists().map(Membership::epoch).collect();
            self.members.told = Some((epochs, role));
        }
    }

    /// The list has changed, or what the replica knows of later ones.
    fn tell_of_lists(&mut self) {
        let lists: Vec<Membership> = self.epochs.lists().cloned().collect();
        self.shared.has_state.store(self.epochs.has_state(), Ordering::Release);
        *lock(&self.shared.members) = Some(self.members());
        for (peer, why) in self.inbox.set_lists(self.epochs.list(), &lists) {
            debug!(us = %self.shared.id, %peer, %why, "a guest is to say hello again");
            self.mesh.disconnect(peer, &why);
        }
        if lists.is_empty() {
            // A replica that waits to be made a member dials those that it was told of.
            return;
        }
        self.mesh.set_peers(self.epochs.reaches());
        let list = self.epochs.last_list();
        self.shared.list.send_replace(list.cloned());
        if self.epochs.role() == Role::Removed {
            warn!(
                us = %self.shared.id,
                "this replica was removed from the cluster; it ends when the others need nothing \
                 of it any more"
            );
        }
    }

    /// This replica is no member any more, and nobody needs it.
    fn retire(&mut self, list: Membership) {
        let me = self.epochs.me();
        if me > list.highest() {
            let fault = Fault::NoMember { list };
            return self.shared.fail(fault);
        }
        self.inbox.retire(&list);
        self.shared.fail(Fault::Removed { list });
    }
}
