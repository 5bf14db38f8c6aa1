//! What a member does for the observers of its epoch. After `feed`.

use super::feed::Feeder;
use super::{Epochs, Message, Output, Stage};
use crate::protocol::Protocol;
use crate::replica::{PeerMessage, Transfer};
use crate::types::{Deps, Executed, MemberId};

impl<P: Protocol> Epochs<P> {
    /// An observer of the present epoch says something to this member.
    pub(super) fn on_observer(&mut self, from: MemberId, message: Option<Message<P::Message>>) {
        let Some(list) = &self.list else { return };
        let takes_part = self.member().is_some();
        let gossip = self.settings.timing.gossip;
        match message {
            Some(Message::Feed(feed)) if takes_part => {
                if let Some(feeder) = &mut self.feeder {
                    feeder.on_feed(from, feed, (self.now, gossip));
                }
            }
            Some(Message::Core(PeerMessage::Transfer(
                transfer @ (Transfer::Request { .. } | Transfer::Fetch { .. }),
            ))) => {
                let place = list.place_of_observer(from).expect("it observes this list");
                if let Stage::Member(core) = &mut self.stage {
                    core.on_transfer(place, transfer);
                }
            }
            // It has no vote, and takes no part in the rest.
            _ => {}
        }
    }

    /// Feeds the observers of the present epoch.
    pub(super) fn feed(&mut self, out: &mut Output<P::Message, P::Record>) {
        let (now, gossip) = (self.now, self.settings.timing.gossip);
        if let Some(feeder) = &mut self.feeder {
            feeder.feed((now, gossip));
        }
        self.put_out_feed(out);
    }

    /// The epoch ends: the observers are sent what there is of it.
    pub(super) fn finish_feed(&mut self, out: &mut Output<P::Message, P::Record>) {
        let now = self.now;
        if let Some(feeder) = &mut self.feeder {
            feeder.finish(now);
        }
        self.put_out_feed(out);
    }

    fn put_out_feed(&mut self, out: &mut Output<P::Message, P::Record>) {
        let epoch = self.epoch();
        let Some(feeder) = &mut self.feeder else { return };
        let say = feeder.take_said().into_iter();
        out.messages.extend(say.map(|(to, feed)| (vec![to], epoch, Message::Feed(feed))));
    }

    /// What was kept for observers is of another order than what this replica executes next, after
    /// `done`.
    pub(super) fn feed_from(&mut self, done: Executed, floor: Deps) {
        if let Some(list) = &self.list {
            self.feeder = self.feeder_of(list, done, floor);
        }
    }

    /// The observers that have looked lately, and how many instances each is behind.
    pub(super) fn heard_observers(&self) -> Vec<(MemberId, u64)> {
        let patience = self.settings.timing.suspect * 2;
        let heard = self.feeder.iter().flat_map(Feeder::progress);
        let recent = heard.filter(|(_, at, _)| self.now.since(*at) < patience);
        recent.map(|(id, _, behind)| (id, behind)).collect()
    }

    /// The observers that have not looked lately.
    pub(super) fn absent_observers(&self) -> Vec<MemberId> {
        let Some(list) = &self.list else { return Vec::new() };
        let there = self.heard_observers();
        let is_absent = |id: &MemberId| there.iter().all(|(it, _)| it != id);
        list.observers().iter().map(|observer| observer.id).filter(is_absent).collect()
    }
}
