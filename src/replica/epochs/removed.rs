//! A replica that was removed serves the state in which its last epoch ended: the next members may
//! have it from nobody else.

use super::{Epochs, Message, Output, Stage};
use crate::protocol::Protocol;
use crate::replica::transfer::{Server, Wishes};
use crate::replica::{self, PeerMessage, Transfer};
use crate::types::{Deps, MemberId, Membership, Time};

/// The state with which the next epoch began, at a replica that is no member of it.
pub(super) struct Last {
    pub(super) next: Membership,
    pub(super) server: Server,
    pub(super) wishes: Wishes,
    /// Whether an own snapshot holds it.
    pub(super) is_saved: bool,
}

impl<P: Protocol> Epochs<P> {
    /// A member of the epoch that follows the last one of this replica says something.
    pub(super) fn on_successor(&mut self, from: MemberId, message: Option<Message<P::Message>>) {
        match (&mut self.stage, message) {
            (Stage::Removed(last), Some(Message::Core(PeerMessage::Transfer(transfer)))) => {
                last.on_transfer(from, transfer, self.now)
            }
            (_, Some(Message::Entered { .. })) => {
                self.entered.insert(from);
            }
            _ => {}
        }
    }

    /// What a removed replica serves.
    pub(super) fn serve(&mut self, out: &mut Output<P::Message, P::Record>) {
        let Stage::Removed(last) = &mut self.stage else { return };
        last.server.let_go(self.now);
        let mut inner = replica::Output::<P::Message, P::Record>::default();
        inner.add_wishes(&mut last.wishes);
        let next = last.next.clone();
        out.take(&next, inner, true, false, None);
    }
}

impl Last {
    /// What a member of the next epoch says about snapshots.
    pub(super) fn on_transfer(&mut self, from: MemberId, transfer: Transfer, now: Time) {
        let Some(from) = self.next.position(from) else { return };
        let here = Deps::none(self.next.len());
        match transfer {
            Transfer::Request { at_least, part_of } => {
                self.server.on_request(from, at_least, part_of, &here, now, &mut self.wishes);
            }
            Transfer::Fetch { snapshot, offset, bytes } => {
                self.server.on_fetch(from, snapshot, (offset, bytes), now, &mut self.wishes);
            }
            Transfer::Offer { .. } | Transfer::Chunk { .. } | Transfer::Gone { .. } => {}
        }
    }
}
