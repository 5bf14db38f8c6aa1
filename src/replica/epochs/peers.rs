//! What members of this and of other epochs say, and what they are told.

use std::cmp::Ordering;

use super::later::Later;
use super::{Epochs, Message, Output, Stage};
use crate::protocol::Protocol;
use crate::replica::{self, PeerMessage};
use crate::types::{MemberId, Membership, Quorums};

impl<P: Protocol> Epochs<P> {
    pub(super) fn on_peer(
        &mut self,
        from: MemberId,
        epoch: Option<u32>,
        message: Option<Message<P::Message>>,
        ours: &mut Vec<replica::Input<P::Message>>,
        out: &mut Output<P::Message, P::Record>,
    ) {
        if from == self.me {
            return;
        }
        if let Some(Message::Over { list, safe }) = message {
            return self.on_over(from, list, safe, out);
        }
        if let (Some(later), Some(Message::Core(message))) = (&mut self.later, &message)
            && Some(later.list.epoch()) == epoch
        {
            return later.on_peer(from, message.clone());
        }
        if matches!(self.stage, Stage::Observer(_)) {
            return match epoch > self.epoch() {
                true => self.ask(from, out),
                false => self.on_member(from, epoch, message, out),
            };
        }
        if self.next_list().is_some_and(|next| Some(next.epoch()) == epoch) {
            return self.on_successor(from, message);
        }
        if self.is_removed() {
            return self.tell(from, out);
        }
        let is_observer = self.list.as_ref().is_some_and(|list| list.is_observer(from));
        match epoch.cmp(&self.epoch()) {
            // An observer tells nobody of an epoch: it has no state to offer.
            Ordering::Greater if is_observer => return,
            Ordering::Greater => return self.ask(from, out),
            Ordering::Less => {
                self.tell(from, out);
                if self.rules.old_frames_are_not_acted_on() {
                    return;
                }
            }
            Ordering::Equal if is_observer => return self.on_observer(from, message),
            Ordering::Equal => {}
        }
        let list = self.list.as_ref();
        let Some(position) = list.and_then(|list| list.position(from)) else { return };
        match message {
            Some(Message::Entered { asks }) => {
                self.entered.insert(from);
                // It may have forgotten in a restart what it was told.
                if asks && self.member().is_some() {
                    let answer = Message::Entered { asks: false };
                    out.messages.push((vec![from], epoch, answer));
                }
            }
            Some(Message::Core(message)) => {
                ours.push(replica::Input::Peer { from: position, message });
            }
            Some(Message::Over { .. }) => unreachable!("it was handled above"),
            // An observer of an epoch before was meant.
            Some(Message::Feed(_)) | None => {}
        }
    }

    /// Whether enough members of the present epoch have begun it, so that the state before is
    /// needed no more.
    pub(super) fn is_safe(&self) -> bool {
        let Some(list) = &self.list else { return false };
        let quorums = Quorums::new(list.len()).expect("a supported size");
        let me = usize::from(self.member().is_some());
        self.entered.len() + me >= quorums.slow()
    }

    /// Answers a frame of an older epoch, now and then.
    pub(super) fn tell(&mut self, to: MemberId, out: &mut Output<P::Message, P::Record>) {
        let list = match &self.stage {
            Stage::Removed(last) => Some(&last.next),
            _ => self.list.as_ref(),
        };
        let Some(list) = list.cloned() else { return };
        if !self.is_due(to) {
            return;
        }
        let safe = self.is_safe();
        out.messages.push((vec![to], Some(list.epoch()), Message::Over { list, safe }));
    }

    /// Asks a replica of a later epoch for the list, now and then.
    pub(super) fn ask(&mut self, to: MemberId, out: &mut Output<P::Message, P::Record>) {
        if self.is_due(to) {
            let ping = Message::Core(PeerMessage::Ping { sent: self.now });
            out.messages.push((vec![to], self.epoch(), ping));
        }
    }

    pub(super) fn is_due(&mut self, to: MemberId) -> bool {
        let gossip = self.settings.timing.gossip;
        let due = self.told.get(&to).is_none_or(|told| self.now.since(*told) >= gossip);
        if due {
            self.told.insert(to, self.now);
        }
        due
    }

    /// Another replica is in a later epoch.
    pub(super) fn on_over(
        &mut self,
        from: MemberId,
        list: Membership,
        safe: bool,
        out: &mut Output<P::Message, P::Record>,
    ) {
        if self.epoch().is_some_and(|epoch| epoch >= list.epoch()) {
            return;
        }
        if self.follows(&list) {
            return self.observe_later(list, out);
        }
        if matches!(self.stage, Stage::Observer(_)) && self.place_in(&list).is_none() {
            return self.stop_observing(list, out);
        }
        // Who told of a later one may be lost, and with it the only state of that epoch.
        let patience = self.settings.timing.suspect * 8;
        let known = self.later.as_ref().is_some_and(|it| {
            it.list.epoch() == list.epoch()
                || it.list.epoch() > list.epoch() && !it.is_stuck(self.now, patience)
        });
        let server = Some(from).filter(|from| list.position(*from).is_none());
        if let Some(later) = self.later.as_mut().filter(|later| later.list == list) {
            later.server = server.or(later.server);
        }
        if self.place_in(&list).is_none() {
            // Removed. Until it is safe, the others may still need its votes or its state.
            let safe = safe || !self.rules.stays_until_it_is_safe();
            // A later epoch than the next: enough members had begun the next to end it.
            let passed = self.next_list().is_some_and(|next| next.epoch() < list.epoch());
            if safe && self.list.is_some() || (safe || passed) && self.is_removed() {
                self.settle_change(&list, out);
                out.retired = Some(list);
            }
        } else if !known {
            self.later =
                Some(Later { list, since: self.now, server, core: None, heard: Vec::new() });
            if !self.rules.takes_part_while_it_fetches() {
                self.stage = Stage::Stranger;
            }
        }
    }

    /// Says to all that it has begun the epoch, until all have; or, if it was removed, asks whether
    /// its state is still needed.
    pub(super) fn announce(&mut self, out: &mut Output<P::Message, P::Record>) {
        if self.now < self.announce {
            return;
        }
        self.announce = self.now + self.settings.timing.gossip;
        let all = |list: &Membership| -> Vec<MemberId> {
            let others = list.members().iter().map(|member| member.id);
            others.filter(|id| *id != self.me).collect()
        };
        if let Stage::Removed(last) = &self.stage {
            out.snapshot_wanted |= !last.is_saved;
            let ping = Message::Core(PeerMessage::Ping { sent: self.now });
            out.messages.push((all(&last.next), self.epoch(), ping));
            return;
        }
        if let Stage::Member(core) = &self.stage {
            // An attempt may have failed, and nothing is said before one succeeds.
            out.snapshot_wanted |= core.is_joining() && core.has_state();
        }
        let Some(list) = self.list.as_ref().filter(|list| list.epoch() > 0) else { return };
        if self.member().is_some() && self.entered.len() + 1 < list.len() {
            out.messages.push((all(list), Some(list.epoch()), Message::Entered { asks: true }));
        }
        let absent = self.absent_observers();
        if self.member().is_some() && !absent.is_empty() {
            // One that knows nothing of this epoch asks then, and is told.
            out.messages.push((absent, Some(list.epoch()), Message::Entered { asks: false }));
        }
    }
}
