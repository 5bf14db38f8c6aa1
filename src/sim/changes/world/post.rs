//! The network of a world: frames arrive, some late, twice or never.

use rand::RngExt;

use super::machines::Host;
use super::{Letter, Machine, World};
use crate::protocol::Protocol;
#[cfg(test)]
use crate::replica::epochs::Plant;
use crate::replica::epochs::{Input, Message};
use crate::types::{Known, MemberId};

impl<P: Protocol> World<P> {
    pub(super) fn deliver(&mut self) -> Result<(), String> {
        if self.post.is_empty() {
            return Ok(());
        }
        // Mostly in order.
        let most = if self.rng.random_range(0..8) == 0 { self.post.len() } else { 1 };
        let letter = self.post.remove(self.rng.random_range(0..most));
        if self.away.contains(&letter.known.directory) {
            return Ok(());
        }
        match self.rng.random_range(0..64) {
            0 => self.post.push(letter.clone()),
            1 => self.late.push(letter.clone()),
            2 => {
                self.late.push(letter);
                return Ok(());
            }
            _ => {}
        }
        self.arrive(letter)
    }

    /// A frame of long ago arrives, perhaps of an epoch before.
    pub(super) fn deliver_late(&mut self) -> Result<(), String> {
        if self.late.is_empty() {
            return Ok(());
        }
        let letter = self.late.swap_remove(self.rng.random_range(0..self.late.len()));
        self.arrive(letter)
    }

    pub(super) fn arrive(&mut self, letter: Letter<P::Message>) -> Result<(), String> {
        let Letter { from, known, to, epoch, message } = letter;
        let is_there =
            |(at, host): &(&Machine, &Host<P>)| host.number == to && !self.away.contains(*at);
        let there: Vec<Machine> = self.hosts.iter().filter(is_there).map(|it| *it.0).collect();
        for at in there {
            self.note_heard(at, from, known)?;
            let message = self.decoded(at, epoch, &message);
            self.feed(at, vec![Input::Peer { from, epoch, message }])?;
        }
        Ok(())
    }

    /// What a replica can decode of a frame: messages hold a number for each member of their epoch.
    fn decoded(
        &self,
        at: Machine,
        epoch: Option<u32>,
        message: &Message<P::Message>,
    ) -> Option<Message<P::Message>> {
        let live = self.hosts[&at].live.as_ref()?;
        let known = epoch.is_some_and(|epoch| live.epochs.list_of(epoch).is_some());
        let always = matches!(message, Message::Over { .. } | Message::Entered { .. });
        #[cfg(test)]
        let always = always || self.plant == Some(Plant::ActsOnOldFrames);
        (known || always).then(|| message.clone())
    }

    /// A frame shows `of` in a life. Nobody goes by one of an earlier life.
    pub(super) fn note_heard(
        &mut self,
        at: Machine,
        of: MemberId,
        known: Known,
    ) -> Result<(), String> {
        let Some(live) = &mut self.hosts.get_mut(&at).expect("it is there").live else {
            return Ok(());
        };
        let before = live.heard.get(&of).copied();
        if before.is_some_and(|before| {
            before.life > known.life || before.life == known.life && before.held >= known.held
        }) {
            return Ok(());
        }
        live.heard.insert(of, known);
        self.feed(at, vec![Input::Heard { peer: of, known }])
    }
}
