//! A change of the list that was proposed here: whether it may be, and what came of it.

use super::{Epochs, Output, Stage};
use crate::protocol::Protocol;
use crate::types::{Command, Membership};

impl<P: Protocol> Epochs<P> {
    /// Whether a change of the list may be proposed; answers one that is of no use.
    pub(super) fn may_change(
        &mut self,
        command: &Command,
        out: &mut Output<P::Message, P::Record>,
    ) -> bool {
        if self.change.as_ref().is_some_and(|open| open.request() == command.request) {
            return false;
        }
        let takes_part = matches!(self.stage, Stage::Member(_) | Stage::Starting(..));
        let list = self.list.as_ref().filter(|_| takes_part);
        match list.and_then(|list| Membership::begun_by(command, list.epoch())) {
            Some(Ok(next)) => {
                self.change = Some(next);
                true
            }
            Some(Err(_)) | None => {
                out.superseded.push(command.request);
                false
            }
        }
    }

    /// The epoch of this list follows the present one, at once or later.
    pub(super) fn settle_change(
        &mut self,
        list: &Membership,
        out: &mut Output<P::Message, P::Record>,
    ) {
        let Some(change) = self.change.take() else { return };
        assert!(change.epoch() <= list.epoch(), "a change is of the present epoch");
        let answer = if change == *list { &mut out.changed } else { &mut out.superseded };
        answer.push(change.request());
    }
}
