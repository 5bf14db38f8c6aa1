//! What stories need: a world in which the test says what happens.

use std::time::Duration;

use bytes::Bytes;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::answers::Asking;
use super::{World, id};
use crate::machine::KvCommand;
use crate::protocol::Protocol;
use crate::protocol::multipaxos::MultiPaxos;
use crate::replica::Input as CoreInput;
use crate::replica::epochs::{Input, Plant, Record};
use crate::types::{Change, ClientId, Known, RequestId, Time};

impl<P: Protocol> World<P> {
    /// A cluster of `n` members that has just started.
    pub(in crate::sim::changes) fn story(n: u32, plant: Option<Plant>) -> World<P> {
        let mut world = World::of_members(n, ChaCha8Rng::seed_from_u64(1)).with(plant);
        world.start_all();
        world
    }

    /// The list is to be changed, as `at` proposes.
    pub(in crate::sim::changes) fn propose_change(&mut self, at: u32, change: &Change) {
        let live = self.hosts[&u64::from(at)].live.as_ref();
        let list = live.and_then(|live| live.epochs.list()).expect("it is in an epoch").clone();
        let next = list.after(change).expect("it can be made");
        self.propose(u64::from(at), next).expect("no violation");
    }

    /// Another machine with the number of one that may be added.
    pub(in crate::sim::changes) fn add_twin(&mut self, machine: u32, number: u32) {
        self.add_host(u64::from(machine), id(number), None);
    }

    /// A machine that may be added.
    pub(in crate::sim::changes) fn add(&mut self, number: u32) {
        self.add_host(u64::from(number), id(number), None);
    }

    /// Time passes in steps of 20 ms, until `holds`: what is on its way between these arrives, and
    /// the rest is lost.
    pub(in crate::sim::changes) fn run_among(
        &mut self,
        among: &[u32],
        holds: impl Fn(&World<P>) -> bool,
    ) {
        for _ in 0..2000 {
            if holds(self) {
                return;
            }
            self.now = self.now + Duration::from_millis(20);
            for at in among {
                self.feed(u64::from(*at), vec![Input::Core(CoreInput::Tick)])
                    .expect("no violation");
            }
            for letter in std::mem::take(&mut self.post) {
                let mut ends = [letter.from, letter.to].into_iter();
                if ends.all(|it| among.contains(&it.number())) && !holds(self) {
                    self.arrive(letter).expect("no violation");
                }
            }
        }
        let epochs: Vec<_> = self.hosts.values().map(|host| (host.number, host.epoch())).collect();
        panic!("it never comes about: {epochs:?}");
    }

    /// All that is on its way is lost.
    pub(in crate::sim::changes) fn lose_all_messages(&mut self) {
        self.post.clear();
    }

    pub(in crate::sim::changes) fn now(&self) -> Time {
        self.now
    }

    /// The epoch in which a replica takes part; `None` if it takes part in none.
    pub(in crate::sim::changes) fn epoch(&self, at: u32) -> Option<u32> {
        self.hosts[&u64::from(at)].epoch()
    }

    pub(in crate::sim::changes) fn has_heard_of_a_later_epoch(&self, at: u32) -> bool {
        let live = self.hosts[&u64::from(at)].live.as_ref();
        live.is_some_and(|live| live.epochs.has_heard_of_a_later())
    }

    /// A frame shows how far the log of `of` is durable.
    pub(in crate::sim::changes) fn hear(&mut self, at: u32, of: u32, known: Known) {
        self.note_heard(u64::from(at), id(of), known).expect("no violation");
    }

    /// It has ended an epoch, and the record of the next is not durable.
    pub(in crate::sim::changes) fn is_starting(&self, at: u32) -> bool {
        let host = &self.hosts[&u64::from(at)];
        host.log[host.flushed..].iter().any(|(_, record)| matches!(record, Record::Start(_)))
    }

    /// Its disk writes again.
    pub(in crate::sim::changes) fn flush(&mut self, at: u32) {
        self.hosts.get_mut(&u64::from(at)).expect("it is there").stalled = false;
        self.write_out(u64::from(at)).expect("no violation");
    }

    /// What a replica remembers of another.
    pub(in crate::sim::changes) fn remembers(&self, at: u32, of: u32) -> Option<Known> {
        let memory = self.hosts[&u64::from(at)].live.as_ref()?.epochs.memory();
        memory.into_iter().find(|(member, _)| *member == id(of)).map(|(_, known)| known)
    }

    pub(in crate::sim::changes) fn has_retired(&self, at: u32) -> bool {
        self.hosts[&u64::from(at)].retired
    }

    /// Its disk writes nothing from now on.
    pub(in crate::sim::changes) fn stall(&mut self, at: u32) {
        self.hosts.get_mut(&u64::from(at)).expect("it is there").stalled = true;
    }

    /// It stops at once, and starts again with what was durable.
    pub(in crate::sim::changes) fn restart(&mut self, at: u32) {
        self.fail(u64::from(at)).expect("no violation");
        self.boot(u64::from(at)).expect("no violation");
    }

    /// It stops at once, and starts again without its snapshots.
    pub(in crate::sim::changes) fn restart_damaged(&mut self, at: u32) {
        let at = u64::from(at);
        self.fail(at).expect("no violation");
        let host = self.hosts.get_mut(&at).expect("it is there");
        assert!(host.saved.is_some() && host.reaches_back, "there is a snapshot, and a whole log");
        (host.saved, host.older) = (None, None);
        self.start_again(at, true).expect("no violation");
    }

    /// Its directory lacks what its log rests on.
    pub(in crate::sim::changes) fn is_refused(&self, at: u32) -> bool {
        self.hosts[&u64::from(at)].lost
    }

    pub(in crate::sim::changes) fn has_saved(&self, at: u32) -> bool {
        self.hosts[&u64::from(at)].saved.is_some()
    }

    /// A client asks for something.
    pub(in crate::sim::changes) fn ask(&mut self, at: u32) {
        self.request(u64::from(at)).expect("no violation");
    }

    /// A client writes something; a second one writes something else.
    pub(in crate::sim::changes) fn write(&mut self, at: u32) {
        let request = RequestId::new(ClientId(7), self.asked.len() as u64 + 1);
        let (key, value) = (Bytes::from_static(b"k"), Bytes::from(format!("{request}")));
        let asking = Asking::new(KvCommand::Put { key, value }, &self.history, self.now);
        self.asked.insert(request, asking);
        self.request_at(u64::from(at), request).expect("no violation");
    }

    /// Whether its state holds the first so many requests.
    pub(in crate::sim::changes) fn has_executed(&self, at: u32, requests: u64) -> bool {
        let live = self.hosts[&u64::from(at)].live.as_ref();
        let used = |sequence| {
            let request = RequestId::new(ClientId(7), sequence);
            live.is_some_and(|live| live.applier.sessions().is_used(request))
        };
        (1..=requests).all(used)
    }

    /// It has installed the state of a later epoch, and nothing of that is durable.
    pub(in crate::sim::changes) fn is_joining(&self, at: u32) -> bool {
        let host = &self.hosts[&u64::from(at)];
        host.log[host.flushed..].iter().any(|(_, record)| matches!(record, Record::Joining(_)))
    }

    /// Whether so many requests were answered.
    pub(in crate::sim::changes) fn has_answered(&self, requests: usize) -> bool {
        self.answered.len() >= requests
    }

    /// Its machine is lost.
    pub(in crate::sim::changes) fn lose_for_good(&mut self, at: u32) {
        let host = self.hosts.get_mut(&u64::from(at)).expect("it is there");
        (host.lost, host.live) = (true, None);
    }

    /// Nothing fails any more.
    pub(in crate::sim::changes) fn end_story(mut self) -> Result<(), String> {
        self.calm_down()
    }
}

impl World<MultiPaxos> {
    pub(in crate::sim::changes) fn leads(&self, at: u32) -> bool {
        let live = self.hosts[&u64::from(at)].live.as_ref();
        let core = live.and_then(|live| live.epochs.member());
        let leader = core.and_then(|core| core.protocol().standing().leader);
        leader.is_some_and(|leader| u32::from(leader.number()) == at)
    }
}
