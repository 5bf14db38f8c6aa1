//! What a driver asks of a replica between its steps.

use std::collections::BTreeMap;

use super::{Epochs, Stage, Starting};
use crate::protocol::{Paths, Protocol};
use crate::replica::{Core, Reach, Receiving, ReplicaStatus, SnapshotId};
use crate::types::{Address, LogPosition, Member, MemberId, Membership, Time};

/// What a replica is to its cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Role {
    /// It takes part.
    Member,
    /// It is in the list, and gets ready to take part.
    Joining,
    /// It has no vote: it follows the members, and answers local reads.
    Observer,
    /// It was removed. It serves the state that its last epoch ended in, for those who need it.
    Removed,
    /// It has heard of no list that it is in.
    Stranger,
}

impl<P: Protocol> Epochs<P> {
    /// This replica's number.
    pub fn me(&self) -> MemberId {
        self.me
    }

    /// What it is to its cluster.
    pub fn role(&self) -> Role {
        match &self.stage {
            Stage::Member(core) if !core.is_joining() => Role::Member,
            Stage::Member(_) | Stage::Starting(..) => Role::Joining,
            Stage::Observer(observer) if observer.is_readable => Role::Observer,
            Stage::Observer(_) => Role::Joining,
            Stage::Removed(_) => Role::Removed,
            Stage::Stranger => Role::Stranger,
        }
    }

    /// The core of the present epoch, whether or not it takes part yet.
    pub fn present(&self) -> Option<&Core<P>> {
        match &self.stage {
            Stage::Member(core) | Stage::Starting(Starting { core, .. }) => Some(core),
            Stage::Observer(_) | Stage::Removed(_) | Stage::Stranger => None,
        }
    }

    /// The members of the present epoch that are known to have begun it, this one included.
    pub fn begun(&self) -> Vec<MemberId> {
        let Some(list) = &self.list else { return Vec::new() };
        // Only members that take part answer an observer.
        if let Some(answered) = self.reached_by_observer() {
            return answered;
        }
        let ids = list.members().iter().map(|member| member.id);
        // Nobody announces the first epoch.
        let first = list.epoch() == 0;
        let me = (self.role() == Role::Member).then_some(self.me);
        ids.filter(|id| first || Some(*id) == me || self.entered.contains(id)).collect()
    }

    /// The lists that it knows: that of the present epoch, that of a later one, and the one that
    /// removed it.
    pub fn lists(&self) -> impl Iterator<Item = &Membership> {
        let later = self.later.as_ref().map(|later| &later.list);
        let later = later.or(self.list_to_observe());
        self.list.iter().chain(later).chain(self.next_list())
    }

    /// The list of the present epoch, or the one that removed it.
    pub fn last_list(&self) -> Option<&Membership> {
        self.list().or(self.next_list())
    }

    /// Whether there is a state of the cluster here, of which a snapshot can be taken.
    pub fn has_state(&self) -> bool {
        match &self.stage {
            Stage::Member(core) => !core.is_joining() || core.has_state(),
            Stage::Starting(starting) => !starting.is_restored,
            Stage::Observer(observer) => observer.is_readable,
            Stage::Removed(_) => true,
            Stage::Stranger => false,
        }
    }

    /// Whether a change of the list was proposed here whose outcome is not known yet.
    pub fn has_open_change(&self) -> bool {
        self.change.is_some()
    }

    /// The replicas that it needs to reach, and where.
    pub fn reaches(&self) -> BTreeMap<MemberId, Address> {
        // Observers have nothing to say to each other.
        let observes = self.observes();
        let of = |list: &'_ Membership| if observes { list.len() } else { list.all().count() };
        let members = self.lists().flat_map(|list| list.all().take(of(list)));
        // The newest list is the last: addresses change.
        members.map(|Member { id, address, .. }| (*id, address.clone())).collect()
    }

    /// When the next step is due even without an input.
    pub fn wake(&self) -> Option<Time> {
        self.present().and_then(Core::wake)
    }

    /// Until when reads may be answered, as [`Core::lease_end`].
    pub fn lease_end(&self) -> Time {
        match &self.stage {
            Stage::Member(core) => core.lease_end(),
            _ => Time::ZERO,
        }
    }

    /// The position after the last record that it has put out.
    pub fn log_end(&self) -> LogPosition {
        self.end
    }

    /// Whether no quorum has been reachable for so long that new commands are rejected.
    pub fn has_lost_quorum(&self) -> bool {
        self.present().is_some_and(Core::has_lost_quorum)
    }

    /// Which members this one can reach; `None` while it is none.
    pub fn reach(&self) -> Option<Reach> {
        let (core, list) = self.present().zip(self.list.as_ref())?;
        let mut reach = core.reach();
        for (id, _) in &mut reach.silent {
            *id = id.position().and_then(|at| list.at(at)).unwrap_or(*id);
        }
        Some(reach)
    }

    /// The state of the present core, in numbers; `None` while this replica is no member.
    pub fn status(&self) -> Option<ReplicaStatus> {
        let (core, reach) = self.present().zip(self.reach())?;
        Some(ReplicaStatus { reach, ..core.status() })
    }

    /// Whether other replicas may still fetch this snapshot.
    pub fn serves(&self, snapshot: SnapshotId) -> bool {
        match &self.stage {
            Stage::Removed(last) => last.server.serves(snapshot),
            _ => self.present().is_some_and(|core| core.serves(snapshot)),
        }
    }

    /// The snapshot of another replica that is being received.
    pub fn receiving(&self) -> Option<Receiving> {
        if let Stage::Observer(observer) = &self.stage {
            return observer.follower.receiving();
        }
        let later = self.later.as_ref().and_then(|later| later.core.as_deref());
        later.or(self.present())?.status().receiving
    }

    /// How often the replica took each path, in all epochs since it was started.
    pub fn paths(&self) -> Paths {
        let mut paths = self.past.clone();
        if let Some(core) = self.present() {
            paths.add(core.paths());
        }
        paths
    }

    /// Roughly the bytes that instances take, as [`Protocol::kept_bytes`].
    pub fn kept_bytes(&self) -> usize {
        self.present().map_or(0, |core| core.protocol().kept_bytes())
    }
}
