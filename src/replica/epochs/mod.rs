//! A replica through all its epochs: one [`Core`] after the other, each with its own list of
//! members (PROTOCOL.md §8c).
//!
//! The list is changed by a command that conflicts with every other ([`Membership::command`]). So
//! all replicas execute it after the same commands, in the same state: there the epoch ends. What
//! was ordered after it is not executed in this epoch by anybody; the replicas that proposed it
//! propose it again in the next. Nothing else crosses: ballots, votes, marks and slots begin anew.
//!
//! A replica begins the next epoch
//!
//! - by itself, if it has executed the last command and a record of that is durable; or
//! - with a snapshot of that epoch from a member that has begun it, once an own snapshot of the
//!   same is durable. Until it installs that, it still takes part in its own epoch: whoever has
//!   left may not come back, and then the others need its votes.
//!
//! An observer is in no quorum: it follows what a member executes (`feed`). It knows the list of
//! its epoch, and what it has executed there.
//!
//! A frame of an older epoch is never acted on: the answer is the present list ([`Message::Over`]).
//! A removed replica serves the state that its epoch ended in, until enough of the next members
//! have begun. Then its number speaks no more.

mod change;
mod checkpoint;
mod core;
mod end;
mod feed;
mod feeding;
mod io;
mod later;
mod memory;
mod observer;
mod observing;
mod peers;
mod removed;
mod restart;
mod rules;
mod status;
mod step;
#[cfg(test)]
mod tests;

pub use self::feed::{Fed, Feed, MAX_RANGES};
pub use self::io::{Input, Message, Output, Record};
pub use self::restart::LostState;
#[cfg(test)]
pub(crate) use self::rules::Plant;
pub use self::status::Role;

use std::collections::{BTreeMap, BTreeSet};

use super::transfer::{Server, Wishes};
use super::{Checkpoint, Core, Limits, Memory};
use crate::protocol::{Paths, Protocol};
use crate::types::{
    ClientId, Command, Deps, Durable, Executed, Known, LogPosition, MemberId, Membership, Quorums,
    ReplicaId, ReplicaSet, Settings, Time,
};

use self::core::Remains;
use self::feed::Feeder;
use self::later::{Later, beyond};
use self::observer::Observer;
use self::removed::Last;
use self::rules::Rules;

/// What a snapshot holds besides the state of the state machine, and the list of its epoch.
pub type EpochCheckpoint<P> =
    (Membership, Checkpoint<<P as Protocol>::Snapshot, <P as Protocol>::Record>);

/// A replica through all its epochs.
///
/// Invariants:
///
/// 1. Nothing is said in an epoch before this replica has begun it durably.
/// 2. The state that an epoch ended in can be had from this replica until enough members of the
///    next have begun that.
pub struct Epochs<P: Protocol> {
    me: MemberId,
    /// The number of its data directory, or of its life if it keeps its records in memory.
    directory: u64,
    settings: Settings,
    limits: Limits,
    /// The list of the present epoch; `None` for a replica that has not heard of one yet.
    list: Option<Membership>,
    stage: Stage<P>,
    /// A later epoch, of which another member has told.
    later: Option<Later<P>>,
    /// What was heard of replicas that are in no list that this one has been in, and may be in the
    /// next.
    strangers: BTreeMap<MemberId, Known>,
    /// The list that was proposed here to follow the present one.
    change: Option<Membership>,
    /// The members of the present epoch that have begun it.
    entered: BTreeSet<MemberId>,
    /// Whom the present list was told to, and when.
    told: BTreeMap<MemberId, Time>,
    /// When the present epoch is announced again.
    announce: Time,
    end: LogPosition,
    durable: Durable,
    now: Time,
    resumed: bool,
    /// How often each path was taken in epochs that are over.
    past: Paths,
    /// While it is restored: whether the log says that the present epoch has begun here.
    is_marked: bool,
    /// Feeds the observers of the present epoch, if it has any.
    feeder: Option<Feeder>,
    rules: Rules,
}

enum Stage<P: Protocol> {
    /// It takes part, or is about to: see [`Core::is_joining`].
    Member(Box<Core<P>>),
    /// It begins the epoch once the record of that is durable.
    Starting(Starting<P>),
    /// It observes.
    Observer(Box<Observer>),
    /// It was removed, and serves the state that its last epoch ended in.
    Removed(Box<Last>),
    /// It has heard of no epoch that it is a member of.
    Stranger,
}

/// A core that has not begun.
struct Starting<P: Protocol> {
    core: Box<Core<P>>,
    /// The log is to be durable up to here.
    after: LogPosition,
    /// It comes from the disk, and has yet to resume.
    is_restored: bool,
}

impl<P: Protocol> Epochs<P> {
    /// A replica that was never started before. Of `settings`, `me` and `quorums` are of no
    /// meaning: they follow from the list. Without a list it is a stranger: it waits until a member
    /// tells it of a list that it is in. `directory` is the number of its data directory, or of its
    /// life if it keeps its records in memory: it is in a list that names no other one.
    pub fn new(
        me: MemberId,
        directory: u64,
        list: Option<Membership>,
        settings: Settings,
        limits: Limits,
    ) -> Epochs<P> {
        let start = LogPosition::default();
        let mut this = Epochs {
            me,
            directory,
            settings,
            limits,
            list: None,
            stage: Stage::Stranger,
            later: None,
            strangers: BTreeMap::new(),
            change: None,
            entered: BTreeSet::new(),
            told: BTreeMap::new(),
            announce: Time::ZERO,
            end: start,
            durable: Durable::flushed(LogPosition::default()),
            now: Time::ZERO,
            resumed: false,
            past: P::paths(),
            is_marked: true,
            feeder: None,
            rules: Rules::default(),
        };
        if let Some(list) = list.filter(|list| this.place_in(list).is_some()) {
            let core = this.core(&list, start, this.durable);
            this.enter(list, Stage::Member(Box::new(core)));
        }
        this
    }

    /// The same with a rule broken.
    #[cfg(all(test, feature = "sim"))]
    pub(crate) fn with(mut self, plant: Option<rules::Plant>) -> Epochs<P> {
        self.rules.broken = plant;
        self
    }

    /// Its position in a list; `None` if it is not a member. Nor is it if another directory has its
    /// number: two replicas would vote as one.
    fn place_in(&self, list: &Membership) -> Option<ReplicaId> {
        if self.rules.a_number_is_of_one_directory() {
            list.position_of(self.me, self.directory)
        } else {
            list.position(self.me)
        }
    }

    /// A core of an epoch that this replica is a member of.
    fn core(&self, list: &Membership, end: LogPosition, durable: Durable) -> Core<P> {
        let mut settings = Settings {
            me: self.place_in(list).expect("it is a member"),
            quorums: Quorums::new(self.voters(list)).expect("a list is of a supported size"),
            seed: self.settings.seed ^ u64::from(list.epoch()) << 32,
            ..self.settings.clone()
        };
        // The wish is for a member, wherever it is in the list.
        let leader = settings.timing.leader.map(MemberId::of);
        settings.timing.leader = leader.and_then(|leader| list.position(leader));
        let protocol = P::new(settings.clone());
        Core::new(settings, self.limits, protocol).in_epoch(list.epoch(), end, durable)
    }

    /// How many replicas of a list are counted.
    fn voters(&self, list: &Membership) -> usize {
        let all = !self.rules.observers_are_not_counted();
        if all { list.all().count() } else { list.len() }
    }

    fn enter(&mut self, list: Membership, stage: Stage<P>) {
        self.later = self.later.take().filter(|later| later.list.epoch() > list.epoch());
        self.entered.clear();
        self.told.clear();
        self.announce = self.now;
        let mut strangers = std::mem::take(&mut self.strangers);
        strangers.retain(|member, _| self.may_vote_later(&list, *member));
        self.strangers = strangers;
        self.feeder = match &stage {
            Stage::Member(core) | Stage::Starting(Starting { core, .. }) => {
                self.feeder_of(&list, core.done(), core.executed_floor().clone())
            }
            _ => None,
        };
        self.list = Some(list);
        self.stage = stage;
    }

    /// Whether a replica that has no vote here may be a member of a later list: a newcomer, or an
    /// observer. An observer remembers the members, too, in case that it becomes one.
    fn may_vote_later(&self, list: &Membership, id: MemberId) -> bool {
        let observes = list.is_observed_by(self.me, self.directory);
        id > list.highest() || list.is_observer(id) || observes && list.position(id).is_some()
    }

    /// What feeds the observers of a list, if it has any.
    fn feeder_of(&self, list: &Membership, done: Executed, floor: Deps) -> Option<Feeder> {
        (!list.observers().is_empty())
            .then(|| Feeder::new(done, floor, self.limits.feed_instances, self.rules))
    }

    /// It is no member of the list that begins with the state here.
    fn leave(&mut self, next: Membership) {
        let (server, wishes) = (Server::default(), Wishes::default());
        let last = Last { next, server, wishes, is_saved: false };
        self.later = None;
        self.told.clear();
        self.announce = self.now;
        (self.list, self.feeder) = (None, None);
        self.stage = Stage::Removed(Box::new(last));
    }

    /// The list of the present epoch, if there is one.
    pub fn list(&self) -> Option<&Membership> {
        self.list.as_ref()
    }

    /// The list of an epoch, if messages of it are of use here: of the present one, or of one whose
    /// state is fetched or served. Only with it can they be decoded, except for
    /// [`Message::Over`] and [`Message::Entered`].
    pub fn list_of(&self, epoch: u32) -> Option<&Membership> {
        let later = self.later.as_ref().map(|later| &later.list);
        let lists = [self.list(), later, self.next_list()];
        lists.into_iter().flatten().find(|list| list.epoch() == epoch)
    }

    /// The present epoch's core, once this replica takes part in it.
    pub fn member(&self) -> Option<&Core<P>> {
        match &self.stage {
            Stage::Member(core) if !core.is_joining() => Some(core),
            _ => None,
        }
    }

    /// Whether it was removed, and still serves the state that its last epoch ended in.
    pub fn is_removed(&self) -> bool {
        matches!(self.stage, Stage::Removed(_))
    }

    /// Whether another member has told of a later epoch.
    #[cfg(all(test, feature = "sim"))]
    pub(crate) fn has_heard_of_a_later(&self) -> bool {
        self.later.is_some()
    }

    /// The list that follows the last epoch of a replica that was removed.
    pub fn next_list(&self) -> Option<&Membership> {
        match &self.stage {
            Stage::Removed(last) => Some(&last.next),
            _ => None,
        }
    }

    fn epoch(&self) -> Option<u32> {
        match &self.stage {
            Stage::Removed(last) => Some(last.next.epoch() - 1),
            _ => self.list.as_ref().map(Membership::epoch),
        }
    }

    /// Puts out what the present core has put out.
    fn put_out(
        &mut self,
        inner: super::Output<P::Message, P::Record>,
        out: &mut Output<P::Message, P::Record>,
    ) {
        let (Stage::Member(core) | Stage::Starting(Starting { core, .. })) = &self.stage else {
            return;
        };
        let Some(list) = &self.list else { return };
        self.end = core.log_end();
        if let Some(feeder) = &mut self.feeder {
            feeder.note(&inner.execute, core.executed_floor());
        }
        if inner.rejected.iter().any(|(request, _)| request.client == ClientId::MEMBERS) {
            self.change = None;
        }
        let fetches = self.later.as_ref().is_some_and(|later| later.core.is_some());
        out.take(list, inner, core.is_joining(), fetches, None);
    }
}

impl<P: Protocol> Stage<P> {
    /// Its commands, those that were proposed first, and what it remembers of the others.
    fn into_remains(self) -> (Vec<Command>, Vec<Command>, Memory) {
        match self {
            Stage::Member(core) | Stage::Starting(Starting { core, .. }) => {
                let Remains { proposed, waiting, memory, .. } = core.into_remains();
                (proposed, waiting, memory)
            }
            Stage::Observer(_) | Stage::Stranger | Stage::Removed(_) => {
                (Vec::new(), Vec::new(), Memory::default())
            }
        }
    }
}

/// The members at these positions, and the observers at the places after them; `server` is at the
/// place [`beyond`] all of these.
fn members(list: &Membership, positions: ReplicaSet, server: Option<MemberId>) -> Vec<MemberId> {
    let at = |position| match list.at_place(position) {
        None if Some(position) == beyond(list) => server,
        member => member,
    };
    positions.iter().filter_map(at).collect()
}
