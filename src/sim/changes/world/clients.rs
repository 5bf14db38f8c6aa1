//! Clients that ask for something, and an operator who changes the members.

use bytes::Bytes;
use rand::RngExt;
use rand::seq::{IndexedRandom, IteratorRandom};

use super::{MOST, World, id, member};
use crate::machine::{Kv, KvCommand, StateMachine, encode};
use crate::protocol::Protocol;
use crate::replica::Input as CoreInput;
use crate::replica::epochs::Input;
use crate::types::{Change, ClientId, Command, MemberId, ReplicaId, RequestId};

impl<P: Protocol> World<P> {
    /// A client asks for something, new or again.
    pub(super) fn request(&mut self, at: MemberId) -> Result<(), String> {
        let open = self.asked.iter().filter(|(request, _)| !self.answered.contains(request));
        let again = open.choose(&mut self.rng).map(|(request, typed)| (*request, typed.clone()));
        let (request, typed) = match again.filter(|_| self.rng.random_range(0..4) == 0) {
            Some(again) => again,
            None => {
                let request = RequestId::new(ClientId(7), self.asked.len() as u64 + 1);
                let key = Bytes::from(vec![b'a' + self.rng.random_range(0..3u8)]);
                let value = Bytes::from(format!("{request}"));
                let typed = match self.rng.random_range(0..4) {
                    0 => KvCommand::Cas { key, expected: None, value },
                    1 => {
                        let other = Bytes::from_static(b"a");
                        KvCommand::PutMany { entries: vec![(key, value.clone()), (other, value)] }
                    }
                    _ => KvCommand::Put { key, value },
                };
                (request, typed)
            }
        };
        self.request_at(at, request, typed)
    }

    pub(super) fn request_at(
        &mut self,
        at: MemberId,
        request: RequestId,
        typed: KvCommand,
    ) -> Result<(), String> {
        let footprint = Kv::footprint(&typed);
        let payload = encode(&typed).expect("it has an encoding");
        self.asked.insert(request, typed);
        let origin = self.place_of(at);
        let command = Command { request, floor: 0, origin, footprint, payload };
        self.feed(at, vec![Input::Core(CoreInput::Propose(command))])
    }

    /// Where it is in its list, or would be.
    pub(super) fn place_of(&self, at: MemberId) -> ReplicaId {
        let live = self.hosts[&at].live.as_ref();
        let list = live.and_then(|live| live.epochs.list());
        list.and_then(|list| list.position(at)).unwrap_or(ReplicaId::from_index(0))
    }

    /// Somebody wants the list changed.
    pub(super) fn change(&mut self, at: MemberId) -> Result<(), String> {
        let live = self.hosts[&at].live.as_ref();
        let Some(list) = live.and_then(|it| it.epochs.member().and(it.epochs.list())).cloned()
        else {
            return Ok(());
        };
        let used = self.hosts.keys().max().map_or(0, |id| id.number());
        let new = member(used + 1);
        let members: Vec<MemberId> = list.members().iter().map(|member| member.id).collect();
        let lost = members.iter().find(|id| self.hosts[*id].lost).copied();
        let old = lost.unwrap_or(*members.choose(&mut self.rng).expect("there is one"));
        let change = match self.rng.random_range(0..3) {
            _ if lost.is_some() => Change::Replace { old, new },
            0 if members.len() < MOST => Change::Add(new),
            1 if members.len() > 1 => Change::Remove(old),
            _ => Change::Replace { old, new },
        };
        let next = list.after(&change).expect("it is one that can be made");
        if !matches!(change, Change::Remove(_)) {
            self.add_host(id(used + 1), None);
        }
        let command = next.command(list.position(at).expect("it is a member"));
        self.feed(at, vec![Input::Core(CoreInput::Propose(command))])
    }
}
