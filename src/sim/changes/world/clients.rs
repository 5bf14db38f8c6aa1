//! Clients that ask for something, and an operator who changes the members.

use bytes::Bytes;
use rand::RngExt;
use rand::seq::{IndexedRandom, IteratorRandom};

use super::answers::Asking;
use super::{MOST, Machine, World, machine_of, member};
use crate::machine::{Kv, KvCommand, StateMachine, encode};
use crate::protocol::Protocol;
use crate::replica::Input as CoreInput;
use crate::replica::epochs::Input;
use crate::types::{Change, ClientId, Command, MemberId, Membership, ReplicaId, RequestId};

impl<P: Protocol> World<P> {
    /// A client asks for something, new or again.
    pub(super) fn request(&mut self, at: Machine) -> Result<(), String> {
        let open = self.asked.keys().filter(|request| !self.answered.contains_key(*request));
        let open = open.filter(|request| !self.given_up.contains(*request)).copied();
        let again = open.choose(&mut self.rng).filter(|_| self.rng.random_range(0..4) == 0);
        let request = match again {
            Some(request) => request,
            None => self.think_of_something(),
        };
        self.request_at(at, request)
    }

    /// Every value is written once, so that a read shows which write it has seen.
    fn think_of_something(&mut self) -> RequestId {
        let request = RequestId::new(ClientId(7), self.asked.len() as u64 + 1);
        let key = Bytes::from(vec![b'a' + self.rng.random_range(0..3u8)]);
        let value = Bytes::from(format!("{request}"));
        let typed = match self.rng.random_range(0..8) {
            0 => KvCommand::Cas { key, expected: None, value },
            1 => {
                let latest = self.asked.len() as u64;
                let expected = RequestId::new(ClientId(7), self.rng.random_range(0..=latest));
                let expected = Some(Bytes::from(format!("{expected}")));
                KvCommand::Cas { key, expected, value }
            }
            2 => {
                let other = Bytes::from_static(b"a");
                KvCommand::PutMany { entries: vec![(key, value.clone()), (other, value)] }
            }
            3 | 4 => KvCommand::Get { key },
            5 => KvCommand::Del { key },
            _ => KvCommand::Put { key, value },
        };
        let asking = Asking::new(typed, &self.history, self.now);
        self.asked.insert(request, asking);
        request
    }

    pub(super) fn request_at(&mut self, at: Machine, request: RequestId) -> Result<(), String> {
        let typed = &self.asked[&request].typed;
        let footprint = Kv::footprint(typed);
        let payload = encode(typed).expect("it has an encoding");
        if self.hosts[&at].live.is_some() {
            *self.asked_at.entry((request, at)).or_default() += 1;
        }
        // Any: the caller does not know the epoch in which it will be proposed.
        let origin = ReplicaId::from_index(self.rng.random_range(0..MOST));
        let command = Command { request, floor: 0, origin, footprint, payload };
        self.feed(at, vec![Input::Core(CoreInput::Propose(command))])
    }

    /// Somebody wants the list changed.
    pub(super) fn change(&mut self, at: Machine) -> Result<(), String> {
        let live = self.hosts[&at].live.as_ref();
        let Some(list) = live.and_then(|it| it.epochs.member().and(it.epochs.list())).cloned()
        else {
            return Ok(());
        };
        let machine = self.hosts.keys().max().map_or(0, |machine| *machine) + 1;
        let mut new = member(u32::try_from(machine).expect("few machines"));
        // Two operators may give one number to two machines.
        let waits = self.hosts.values().map(|host| host.number).filter(|it| *it > list.highest());
        if let Some(same) = waits.choose(&mut self.rng).filter(|_| self.rng.random()) {
            new.id = same;
        }
        let members: Vec<MemberId> = list.members().iter().map(|member| member.id).collect();
        let lost = list.members().iter().find(|it| self.hosts[&machine_of(it)].lost);
        let old = lost.map(|it| it.id);
        let old = old.unwrap_or(*members.choose(&mut self.rng).expect("there is one"));
        let observers = list.observers().iter();
        let observer = observers.choose(&mut self.rng).map(|it| (it.id, machine_of(it)));
        let live = |(_, machine): &(MemberId, Machine)| self.hosts[machine].live.is_some();
        let change = match (self.rng.random_range(0..6), observer) {
            _ if lost.is_some() => Change::Replace { old, new: new.clone() },
            (0, _) if members.len() < MOST => Change::Add(new.clone()),
            (1, _) if members.len() > 1 => Change::Remove(old),
            (2 | 3, _) if list.observers().len() < 2 => Change::Observe(new.clone()),
            (2, Some((observer, _))) => Change::Remove(observer),
            (3, Some((observer, _))) => Change::Replace { old: observer, new: new.clone() },
            (4, Some(it)) if members.len() < MOST && live(&it) => Change::Promote(it.0),
            _ => Change::Replace { old, new: new.clone() },
        };
        let next = list.after(&change).expect("it is one that can be made");
        if !matches!(change, Change::Remove(_) | Change::Promote(_)) {
            self.add_host(machine, new.id, None);
        }
        self.propose(at, next)
    }

    /// A list is proposed to follow. Of several at one replica, the first that is open counts.
    pub(super) fn propose(&mut self, at: Machine, next: Membership) -> Result<(), String> {
        let command = next.command(ReplicaId::from_index(0));
        self.open.entry((at, command.request)).or_insert(next);
        self.feed(at, vec![Input::Core(CoreInput::Propose(command))])
    }
}
