//! What is remembered of other replicas, by member (PROTOCOL.md §7a). A core knows positions of its
//! epoch alone; what it remembers crosses to the next core here.

use super::{Epochs, Stage, Starting};
use crate::protocol::Protocol;
use crate::replica::{self, Memory};
use crate::types::{Known, MAX_REPLICAS, MemberId, Membership, ReplicaSet};

impl<P: Protocol> Epochs<P> {
    /// What is remembered of other replicas. Of a member, a record or a snapshot says it, too.
    pub fn memory(&self) -> Vec<(MemberId, Known)> {
        let core = match &self.stage {
            Stage::Member(core) | Stage::Starting(Starting { core, .. }) => Some(core.memory()),
            Stage::Observer(_) | Stage::Removed(_) | Stage::Stranger => None,
        };
        let members = core.into_iter().flat_map(|memory| self.by_member(memory));
        members.chain(self.strangers.iter().map(|(id, known)| (*id, *known))).collect()
    }

    fn by_member<'a>(&'a self, memory: &'a Memory) -> impl Iterator<Item = (MemberId, Known)> + 'a {
        let member = |position| self.list.as_ref()?.at(position);
        memory.known().filter_map(move |(position, known)| Some((member(position)?, known)))
    }

    /// A peer's frame shows the peer's life, and how far its log is durable.
    pub(super) fn on_heard(
        &mut self,
        peer: MemberId,
        known: Known,
        ours: &mut Vec<replica::Input<P::Message>>,
    ) {
        let observes = matches!(self.stage, Stage::Observer(_));
        match &self.list {
            _ if peer == self.me || self.is_removed() => {}
            Some(list) if list.position(peer).is_some() && !observes => {
                let peer = list.position(peer).expect("it was found there");
                ours.push(replica::Input::Heard { peer, known });
            }
            // Its number is used up.
            Some(list) if !self.may_vote_later(list, peer) => {}
            _ => {
                let before = self.strangers.get(&peer).copied();
                self.strangers.insert(peer, Known::or_later(before, known));
                // No list has room for more. The next numbers to join are the highest.
                let most = if observes { 2 * MAX_REPLICAS } else { MAX_REPLICAS };
                while self.strangers.len() > most {
                    self.strangers.pop_first();
                }
            }
        }
    }

    /// What a core of the epoch of `next` remembers of its members, after one of the present epoch
    /// that remembers `memory`.
    pub(super) fn remembered(&self, memory: &Memory, next: &Membership) -> Memory {
        let mut remembered = Memory::default();
        let strangers = self.strangers.iter().map(|(id, known)| (*id, *known));
        for (member, known) in self.by_member(memory).chain(strangers) {
            if let Some(position) = next.position(member) {
                remembered.met(position, known);
            }
        }
        remembered
    }

    /// The positions of these members in the present epoch.
    pub(super) fn positions(&self, of: &[MemberId]) -> ReplicaSet {
        let list = self.list.as_ref();
        of.iter().filter_map(|member| list?.position(*member)).collect()
    }
}
