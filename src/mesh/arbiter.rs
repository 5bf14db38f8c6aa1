//! Decides which connection between two replicas stays. Both dial, so two may come about at once,
//! and each end may lose a connection before the other notices.
//!
//! The replica with the lower id decides. It *commits* one connection at a time, numbered by
//! generation, and the higher id obeys the newest commit that it has heard of. So both ends always
//! settle on the same connection, and two crossing dials leave one. Pure; `link` acts on it.

use super::hello::PeerHello;
use super::refusal::Refusal;

/// The state of the connection with one peer.
///
/// Invariants:
/// 1. At most one connection is live.
/// 2. During one life of the lower id, the generations obeyed strictly increase.
#[derive(Debug, Default)]
pub(super) struct Arbiter {
    live: Option<Live>,
    /// The newest generation committed here (lower id).
    committed: u64,
    /// The newest commit obeyed here, as life and generation (higher id).
    heard: (u64, u64),
    /// The newest connection that has ended, as the peer's life and generation.
    lost: (u64, u64),
}

#[derive(Clone, Copy, Debug)]
struct Live {
    life: u64,
    generation: u64,
}

impl Arbiter {
    /// The arbiter of a link. The lower id has committed generations up to `committed` on earlier
    /// links to the same peer, which may remember them.
    pub(super) fn after(committed: u64) -> Arbiter {
        Arbiter { committed, ..Arbiter::default() }
    }

    /// The newest generation committed here.
    pub(super) fn committed(&self) -> u64 {
        self.committed
    }

    /// For the lower id: decides whether the connection on which the peer sent `hello` is
    /// committed, and returns its generation. `life` is this end's own. `silent` is a life of the
    /// peer that has not answered a probe.
    pub(super) fn commit(
        &mut self,
        life: u64,
        hello: &PeerHello,
        silent: Option<u64>,
    ) -> Result<u64, Refusal> {
        self.check_process(hello, silent)?;
        let lost = if hello.lost_life == life { hello.lost_generation } else { 0 };
        match self.live {
            // The peer has the live connection too, or will soon hear of it: two dials crossed.
            Some(live) if live.life == hello.shown.life && live.generation > lost => {
                return Err(Refusal::Duplicate);
            }
            // The peer had the live connection and lost it, or it is a new process.
            Some(_) | None => {}
        }
        self.committed += 1;
        self.establish(hello, self.committed);
        Ok(self.committed)
    }

    /// For the higher id: decides whether the peer's commit of `generation` is new.
    pub(super) fn obey(
        &mut self,
        hello: &PeerHello,
        generation: u64,
        silent: Option<u64>,
    ) -> Result<(), Refusal> {
        self.check_process(hello, silent)?;
        if generation == 0 {
            return Err(Refusal::BadHello);
        }
        if hello.shown.life == self.heard.0 && generation <= self.heard.1 {
            return Err(Refusal::Duplicate);
        }
        self.heard = (hello.shown.life, generation);
        self.establish(hello, generation);
        Ok(())
    }

    /// The current connection has ended.
    pub(super) fn end(&mut self) {
        if let Some(live) = self.live.take() {
            self.lost = (live.life, live.generation);
        }
    }

    /// The peer's life, while connected.
    pub(super) fn life(&self) -> Option<u64> {
        self.live.map(|live| live.life)
    }

    /// The newest connection that has ended, for a hello: life and generation.
    pub(super) fn lost(&self) -> (u64, u64) {
        self.lost
    }

    /// Another process of the same replica may replace only a silent one.
    fn check_process(&self, hello: &PeerHello, silent: Option<u64>) -> Result<(), Refusal> {
        match self.live {
            Some(live) if live.life != hello.shown.life && Some(live.life) != silent => {
                Err(Refusal::Clone(hello.from))
            }
            _ => Ok(()),
        }
    }

    fn establish(&mut self, hello: &PeerHello, generation: u64) {
        self.live = Some(Live { life: hello.shown.life, generation });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::Terms;
    use crate::types::{MemberId, Presence};

    fn hello(life: u64, lost: (u64, u64)) -> PeerHello {
        PeerHello {
            cluster: "alpha".into(),
            from: MemberId::new(2).unwrap(),
            to: MemberId::new(1).unwrap(),
            shown: Presence { life, ..Presence::default() },
            knows: Vec::new(),
            origin: 0,
            epoch: None,
            members: Default::default(),
            lost_life: lost.0,
            lost_generation: lost.1,
            generation: 0,
            terms: Terms::default(),
        }
    }

    #[test]
    fn of_two_crossing_dials_the_first_committed_stays() {
        let mut low = Arbiter::default();
        assert_eq!(low.commit(1, &hello(2, (0, 0)), None), Ok(1));
        assert_eq!(low.commit(1, &hello(2, (0, 0)), None), Err(Refusal::Duplicate));
    }

    #[test]
    fn a_peer_that_lost_the_connection_gets_a_new_one_at_once() {
        let mut low = Arbiter::default();
        assert_eq!(low.commit(1, &hello(2, (0, 0)), None), Ok(1));
        assert_eq!(low.commit(1, &hello(2, (1, 1)), None), Ok(2));
        // What the peer heard from an earlier process of this replica does not count.
        assert_eq!(low.commit(1, &hello(2, (9, 7)), None), Err(Refusal::Duplicate));
    }

    #[test]
    fn a_dial_that_completes_late_does_not_replace_a_connection_both_have() {
        // The lower id's first packet was lost; the higher id dialled and was committed meanwhile.
        let (mut low, mut high) = (Arbiter::default(), Arbiter::default());
        assert_eq!(low.commit(1, &hello(2, high.lost()), None), Ok(1));
        assert_eq!(high.obey(&hello(1, (0, 0)), 1, None), Ok(()));
        assert_eq!(low.commit(1, &hello(2, high.lost()), None), Err(Refusal::Duplicate));
        high.end();
        assert_eq!(low.commit(1, &hello(2, high.lost()), None), Ok(2));
    }

    #[test]
    fn commits_that_overtake_each_other_end_at_the_newest() {
        let mut high = Arbiter::default();
        assert_eq!(high.obey(&hello(2, (0, 0)), 2, None), Ok(()));
        assert_eq!(high.obey(&hello(2, (0, 0)), 1, None), Err(Refusal::Duplicate));
        high.end();
        assert_eq!(high.obey(&hello(2, (0, 0)), 2, None), Err(Refusal::Duplicate));
        assert_eq!(high.obey(&hello(2, (0, 0)), 3, None), Ok(()));
        // A new process of the lower id starts again at generation 1.
        assert_eq!(high.obey(&hello(3, (0, 0)), 1, Some(2)), Ok(()));
        assert_eq!(high.obey(&hello(3, (0, 0)), 0, None), Err(Refusal::BadHello));
    }

    #[test]
    fn another_process_replaces_only_one_that_is_silent() {
        let clone = Refusal::Clone(MemberId::new(2).unwrap());
        let mut low = Arbiter::default();
        assert_eq!(low.commit(1, &hello(2, (0, 0)), None), Ok(1));
        assert_eq!(low.life(), Some(2));
        assert_eq!(low.commit(1, &hello(3, (0, 0)), None), Err(clone.clone()));
        assert_eq!(low.commit(1, &hello(3, (0, 0)), Some(9)), Err(clone.clone()));
        assert!(low.commit(1, &hello(3, (0, 0)), Some(2)).is_ok(), "a restart replaces it");
        assert_eq!(low.commit(1, &hello(2, (0, 0)), Some(2)), Err(clone));
        low.end();
        assert!(low.commit(1, &hello(2, (0, 0)), None).is_ok(), "nobody is there");
    }
}
