//! What a snapshot holds of epochs.

use super::{EpochCheckpoint, Epochs, Stage, Starting};
use crate::protocol::Protocol;
use crate::replica::Checkpoint;
use crate::types::{Executed, Membership, Quorums, ReplicaId, Settings};

impl<P: Protocol> Epochs<P> {
    /// What a snapshot has to hold besides the state of the state machine, as
    /// [`Core::checkpoint`], and the list of its epoch. `None` while there is no state.
    pub fn checkpoint(&self) -> Option<EpochCheckpoint<P>> {
        match &self.stage {
            Stage::Member(core) => {
                if core.is_joining() && !core.has_state() {
                    return None;
                }
                // A log may end where the epoch does.
                match core.ended() {
                    Some(next) => Some((next.clone(), self.first_checkpoint(next))),
                    None => Some((self.list.clone()?, core.checkpoint())),
                }
            }
            Stage::Starting(Starting { is_restored: true, .. }) => None,
            Stage::Starting(starting) => Some((self.list.clone()?, starting.core.checkpoint())),
            Stage::Observer(observer) => {
                // Nobody else starts from it, so nothing of a protocol is needed.
                let follower = Some(&observer.follower).filter(|it| it.has_state())?;
                let list = self.list.clone()?;
                let (executed, shared) = (follower.executed().clone(), self.first_snapshot(&list));
                Some((list, Checkpoint { position: self.end, executed, shared, own: Vec::new() }))
            }
            Stage::Removed(last) => Some((last.next.clone(), self.first_checkpoint(&last.next))),
            Stage::Stranger => None,
        }
    }

    /// What all members of an epoch begin with.
    fn first_checkpoint(&self, list: &Membership) -> Checkpoint<P::Snapshot, P::Record> {
        let executed = Executed::none(list.len());
        Checkpoint {
            position: self.end,
            shared: self.first_snapshot(list),
            executed,
            own: Vec::new(),
        }
    }

    /// What a protocol has to say of an epoch in which it has done nothing.
    pub(super) fn first_snapshot(&self, list: &Membership) -> P::Snapshot {
        let settings = Settings {
            me: ReplicaId::from_index(0),
            quorums: Quorums::new(list.len()).expect("a supported size"),
            ..self.settings.clone()
        };
        P::new(settings).snapshot(&Executed::none(list.len())).0
    }
}
