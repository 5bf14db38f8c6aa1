//! One world: machines with disks, a network that loses and reorders, and what is known to be true.

mod answers;
mod calm;
mod clients;
mod machines;
mod post;
mod schedule;
#[cfg(test)]
mod story;

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::tally::Tally;
use crate::machine::{Applier, Kv, Outcome};
use crate::protocol::Protocol;
use crate::replica::SnapshotId;
use crate::replica::epochs::Message;
#[cfg(test)]
use crate::replica::epochs::Plant;
use crate::sim::history::Recorder;
pub(in crate::sim::changes) use crate::types::member_id as id;
use crate::types::{
    Known, Member, MemberId, Membership, Optimisations, Quorums, ReplicaId, RequestId, Retention,
    Settings, Time, Timing,
};
use answers::Asking;
use machines::{Host, Saved};

/// The most members at a time.
const MOST: usize = 5;

/// A machine has the number of its directory. The replicas of two of them may have been given one
/// number as members.
pub(in crate::sim::changes) type Machine = u64;

/// A frame on its way.
#[derive(Clone)]
struct Letter<M> {
    from: MemberId,
    /// The sender's life, and how far its log was durable.
    known: Known,
    to: MemberId,
    epoch: Option<u32>,
    message: Message<M>,
}

pub(super) struct World<P: Protocol> {
    rng: ChaCha8Rng,
    /// The list that the cluster begins with.
    first: Membership,
    #[cfg(test)]
    plant: Option<Plant>,
    optimisations: Optimisations,
    retention: Retention,
    /// How many instances each member keeps for observers.
    kept_for_observers: usize,
    /// Disks are slow, and damaged now and then.
    rough: bool,
    now: Time,
    hosts: BTreeMap<Machine, Host<P>>,
    post: Vec<Letter<P::Message>>,
    /// What arrives much later, and perhaps arrived before.
    late: Vec<Letter<P::Message>>,
    /// Who hears and says nothing for now.
    away: BTreeSet<Machine>,
    /// All snapshots that were ever taken.
    shelf: BTreeMap<SnapshotId, Rc<Saved<P>>>,
    /// By epoch and what was executed in it: the state. What was executed in an epoch before is the
    /// same for all.
    states: BTreeMap<(u32, String), u64>,
    /// By epoch: the list, and the state it begins with.
    begun: BTreeMap<u32, (Membership, u64)>,
    /// What clients have asked for, what was answered, and how that looked to the clients.
    asked: BTreeMap<RequestId, Asking>,
    answered: BTreeMap<RequestId, Outcome>,
    history: Recorder,
    /// Requests of which a replica has said that they had no effect, and that nobody repeats.
    given_up: BTreeSet<RequestId>,
    /// Lists that were proposed at replicas, and not answered yet.
    open: BTreeMap<(Machine, RequestId), Membership>,
    /// Which replicas were asked for what, and how often.
    asked_at: BTreeMap<(RequestId, Machine), usize>,
    tally: Tally,
}

/// The machine on which a member runs.
fn machine_of(member: &Member) -> Machine {
    if member.directory > 0 { member.directory } else { u64::from(member.id.number()) }
}

pub(in crate::sim::changes) fn member(number: u32) -> Member {
    let address = format!("10.0.{}.{}:7400", number / 256, number % 256);
    let directory = u64::from(number);
    Member { id: id(number), address: address.parse().expect("an address"), directory }
}

impl<P: Protocol> World<P> {
    /// The world of a seed.
    pub(super) fn new(seed: u64) -> World<P> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let n = rng.random_range(1..=4u32);
        let silent_orphans = rng.random();
        let keep = 1 << rng.random_range(8..13);
        let mut world = World::of_members(n, rng);
        world.optimisations.silent_orphans = silent_orphans;
        world.retention.keep = keep;
        world
    }

    /// A cluster of `n` members, of which none has started.
    fn of_members(n: u32, rng: ChaCha8Rng) -> World<P> {
        let members = (1..=n).map(|number| Member { directory: 0, ..member(number) });
        let list = Membership::first(members.collect()).expect("a list");
        let mut world = World {
            rng,
            first: list.clone(),
            #[cfg(test)]
            plant: None,
            optimisations: Optimisations { silent_orphans: false, reserved_slots: 2 },
            retention: Retention { volatile: false, keep: 1 << 10 },
            kept_for_observers: 16,
            rough: false,
            now: Time::ZERO,
            hosts: BTreeMap::new(),
            post: Vec::new(),
            late: Vec::new(),
            away: BTreeSet::new(),
            shelf: BTreeMap::new(),
            states: BTreeMap::new(),
            begun: BTreeMap::new(),
            asked: BTreeMap::new(),
            answered: BTreeMap::new(),
            history: Recorder::new(),
            given_up: BTreeSet::new(),
            open: BTreeMap::new(),
            asked_at: BTreeMap::new(),
            tally: Tally::default(),
        };
        let empty = Applier::new(Kv::default()).digest();
        world.begun.insert(0, (list, empty));
        world
    }

    /// The same with a rule broken.
    #[cfg(test)]
    pub(super) fn with(mut self, plant: Option<Plant>) -> World<P> {
        self.plant = plant;
        self
    }

    fn settings(&mut self) -> Settings {
        Settings {
            me: ReplicaId::from_index(0),
            quorums: Quorums::new(1).expect("a size"),
            seed: self.rng.random(),
            timing: Timing::default(),
            optimisations: self.optimisations,
            retention: self.retention,
            leases: true,
        }
    }

    /// Whether the last lists can do without a machine: whoever is in an earlier epoch fetches the
    /// state of one of these.
    fn can_do_without(&self, at: Machine) -> bool {
        let mut last = self.begun.values().rev().map(|(list, _)| list).take(3);
        let enough = |list: &Membership| {
            let gone = |it: &&Member| machine_of(it) == at || self.hosts[&machine_of(it)].lost;
            let gone = list.members().iter().filter(gone).count();
            gone <= Quorums::new(list.len()).expect("a size").f
        };
        // A replica that was restarted may count as a failure already.
        let orphans = self.optimisations.silent_orphans;
        !orphans && !self.hosts[&at].lost && last.all(enough)
    }
}
