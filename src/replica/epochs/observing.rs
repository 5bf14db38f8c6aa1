//! What an observer does in its epochs. After `feed`, which says why it is right, and `observer`.
//!
//! An observer has a list and no core. So it cannot vote, propose, or answer any message of a
//! protocol. Its log has a record for each state that it has installed, and no other: its own
//! snapshots are all that it starts again from, and what it lost it is fed again.

use super::feed::Follower;
use super::observer::Observer;
use super::{Epochs, Message, Output, Record, Stage};
use crate::protocol::Protocol;
use crate::replica::executions::list_after;
use crate::replica::{self, Execution, Memory, PeerMessage};
use crate::types::{Executed, MemberId, Membership};

impl<P: Protocol> Epochs<P> {
    /// Whether this replica observes the epoch of a list, and is no member that votes.
    pub(super) fn follows(&self, list: &Membership) -> bool {
        let may = matches!(self.stage, Stage::Stranger | Stage::Observer(_));
        may && list.is_observed_by(self.me, self.directory)
    }

    /// Observes the epoch of a list. With `executed`, the state machine has executed that in it;
    /// without, a state is fetched.
    pub(super) fn enter_as_observer(&mut self, list: Membership, executed: Option<Executed>) {
        let (was_readable, fed_bytes) = match &self.stage {
            Stage::Observer(before) => (before.is_readable, before.fed_bytes),
            _ => (false, 0),
        };
        let is_readable = was_readable || executed.is_some();
        // Another name for a feed in each epoch and life.
        let seed = self.settings.seed ^ u64::from(list.epoch()) << 48;
        let with = (self.settings.timing.clone(), &self.limits, seed);
        let follower = Follower::new(list.len(), executed, with, self.now, self.rules);
        let observer = Observer { follower, is_readable, later: None, fed_bytes };
        self.enter(list, Stage::Observer(Box::new(observer)));
    }

    /// Another replica has told of a later epoch, which this one observes. The command that ends
    /// the present one may be on its way: it saves fetching a state.
    pub(super) fn observe_later(
        &mut self,
        list: Membership,
        out: &mut Output<P::Message, P::Record>,
    ) {
        let now = self.now;
        match &mut self.stage {
            Stage::Observer(observer) => {
                let known = observer.later.as_ref();
                if known.is_none_or(|(known, _)| known.epoch() < list.epoch()) {
                    let since = known.map_or(now, |(_, since)| *since);
                    observer.later = Some((list, since));
                }
            }
            _ => self.enter_as_observer(list, None),
        }
        self.observe(false, out);
    }

    /// Takes a step as an observer.
    pub(super) fn observe(&mut self, ticked: bool, out: &mut Output<P::Message, P::Record>) {
        let (now, epoch) = (self.now, self.epoch());
        let patience = self.settings.timing.suspect * 2;
        let Stage::Observer(observer) = &mut self.stage else { return };
        if let Some((list, since)) = &observer.later {
            let is_next = epoch.is_some_and(|epoch| epoch + 1 == list.epoch());
            if !is_next || !observer.follower.has_state() || now.since(*since) >= patience {
                let list = list.clone();
                self.enter_as_observer(list, None);
                return;
            }
        }
        let (mut say, mut inner) = (Vec::new(), replica::Output::default());
        if ticked {
            observer.follower.tick(now, &mut say);
        }
        observer.follower.confirm(&mut say);
        inner.add_wishes(observer.follower.wishes());
        let Some(list) = &self.list else { return };
        // One that was promoted may fetch a state to vote in.
        let fetches = self.later.as_ref().is_some_and(|later| later.core.is_some());
        out.take(list, inner, false, fetches, None);
        for (to, feed) in say {
            let to = to.iter().filter_map(|position| list.at(position)).collect();
            out.messages.push((to, Some(list.epoch()), Message::Feed(feed)));
        }
    }

    /// A member says something to this observer.
    pub(super) fn on_member(
        &mut self,
        from: MemberId,
        epoch: Option<u32>,
        message: Option<Message<P::Message>>,
        out: &mut Output<P::Message, P::Record>,
    ) {
        let now = self.now;
        let Stage::Observer(observer) = &mut self.stage else { return };
        let Some(list) = self.list.as_ref().filter(|list| Some(list.epoch()) == epoch) else {
            return;
        };
        let Some(position) = list.position(from) else { return };
        match message {
            Some(Message::Core(PeerMessage::Transfer(transfer))) => {
                observer.follower.on_transfer(position, transfer, now);
            }
            Some(Message::Feed(feed)) => {
                let me = list.place_of_observer(self.me).expect("it observes this list");
                let mut ended = None;
                for fed in observer.follower.on_feed(position, feed, now) {
                    observer.fed_bytes += fed.batch.bytes() as u64;
                    ended = list_after(&fed.batch, list.epoch());
                    let (id, batch) = (fed.id, fed.batch);
                    let ends_component = fed.ends_component || ended.is_some();
                    out.execute.push(Execution { id, batch, ends_component, me });
                    if ended.is_some() {
                        // Nothing after it is executed in this epoch.
                        break;
                    }
                }
                if let Some(next) = ended {
                    self.end_at_observer(next, out);
                }
            }
            // It has no part in the rest.
            _ => {}
        }
    }

    /// The last command of an epoch is executed at an observer.
    fn end_at_observer(&mut self, next: Membership, out: &mut Output<P::Message, P::Record>) {
        out.ended.push(next.clone());
        if self.follows(&next) {
            let executed = Executed::none(next.len());
            self.enter_as_observer(next, Some(executed));
        } else if self.place_in(&next).is_some() {
            // It has a vote from here on. It says nothing before an own snapshot shows the state
            // with which it began, for its log does not lead to it.
            let mut core = self.core(&next, self.end, self.durable).silent();
            let memory = self.remembered(&Memory::default(), &next);
            core.take_over((Vec::new(), Vec::new()), memory, false);
            out.snapshot_wanted = true;
            self.enter(next, Stage::Member(Box::new(core)));
        } else {
            self.stop_observing(next, out);
        }
    }

    /// This observer was removed: nobody needs anything of it.
    pub(super) fn stop_observing(
        &mut self,
        list: Membership,
        out: &mut Output<P::Message, P::Record>,
    ) {
        (self.list, self.stage) = (None, Stage::Stranger);
        out.retired = Some(list);
    }

    /// Installs a snapshot that has arrived at an observer.
    pub(super) fn install_at_observer(
        &mut self,
        list: &Membership,
        executed: &Executed,
        out: &mut Output<P::Message, P::Record>,
    ) -> bool {
        let now = self.now;
        let Stage::Observer(observer) = &mut self.stage else { return false };
        if self.list.as_ref() != Some(list) || !observer.follower.install(executed, now) {
            return false;
        }
        observer.is_readable = true;
        // The log of a new directory has no record. It must not look like one that never began.
        self.write(list, Record::Joining(list.clone()), out);
        true
    }
}
