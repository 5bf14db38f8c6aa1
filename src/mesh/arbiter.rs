//! Which connection between two replicas is the one. Both dial, so two may be made at once, and
//! each end may lose a connection before the other notices.
//!
//! The replica with the lower id decides: it *commits* one connection at a time, numbered by
//! generation, and the higher id obeys the newest commit it has heard of. So both ends always
//! settle on the same connection, and two dials that cross end in one. Pure; `link` acts on it.

use super::hello::PeerHello;
use super::refusal::Refusal;

/// The standing of one peer.
///
/// Invariants:
/// 1. `seen_incarnation` never falls.
/// 2. For one session of the lower id, the generations obeyed rise strictly.
#[derive(Debug, Default)]
pub(super) struct Arbiter {
    live: Option<Live>,
    /// The newest incarnation of the peer that was ever connected.
    seen_incarnation: u64,
    /// The newest generation committed here (lower id).
    committed: u64,
    /// The newest commit obeyed here, as session and generation (higher id).
    heard: (u64, u64),
    /// The newest connection that has ended, as the peer's session and generation.
    lost: (u64, u64),
}

#[derive(Clone, Copy, Debug)]
struct Live {
    incarnation: u64,
    session: u64,
    generation: u64,
}

impl Arbiter {
    /// For the lower id: whether the connection on which the peer said `hello` becomes the one, and
    /// its generation. `session` is this end's own.
    pub(super) fn commit(&mut self, session: u64, hello: &PeerHello) -> Result<u64, Refusal> {
        self.check_process(hello)?;
        let lost = if hello.lost_session == session { hello.lost_generation } else { 0 };
        match self.live {
            // The peer has the live connection too, or is about to hear of it: two dials crossed.
            Some(live) if live.session == hello.session && live.generation > lost => {
                return Err(Refusal::Duplicate);
            }
            // The peer had the live connection and lost it, or it is a new process.
            Some(_) | None => {}
        }
        self.committed += 1;
        self.establish(hello, self.committed);
        Ok(self.committed)
    }

    /// For the higher id: whether the peer's commit of `generation` is news.
    pub(super) fn obey(&mut self, hello: &PeerHello, generation: u64) -> Result<(), Refusal> {
        self.check_process(hello)?;
        if generation == 0 {
            return Err(Refusal::BadHello);
        }
        if hello.session == self.heard.0 && generation <= self.heard.1 {
            return Err(Refusal::Duplicate);
        }
        self.heard = (hello.session, generation);
        self.establish(hello, generation);
        Ok(())
    }

    /// The connection established last is gone.
    pub(super) fn end(&mut self) {
        if let Some(live) = self.live.take() {
            self.lost = (live.session, live.generation);
        }
    }

    /// The peer's incarnation, while connected.
    pub(super) fn incarnation(&self) -> Option<u64> {
        self.live.map(|live| live.incarnation)
    }

    /// The newest connection that has ended, to be told in a hello: session and generation.
    pub(super) fn lost(&self) -> (u64, u64) {
        self.lost
    }

    fn check_process(&self, hello: &PeerHello) -> Result<(), Refusal> {
        let PeerHello { from: id, incarnation, session, .. } = *hello;
        if incarnation < self.seen_incarnation {
            let seen = self.seen_incarnation;
            return Err(Refusal::StaleIncarnation { id, theirs: incarnation, seen });
        }
        match self.live {
            Some(live) if live.session != session && live.incarnation == incarnation => {
                Err(Refusal::Clone(id))
            }
            _ => Ok(()),
        }
    }

    fn establish(&mut self, hello: &PeerHello, generation: u64) {
        let PeerHello { incarnation, session, .. } = *hello;
        self.seen_incarnation = incarnation;
        self.live = Some(Live { incarnation, session, generation });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ReplicaId;

    fn hello(incarnation: u64, session: u64, lost: (u64, u64)) -> PeerHello {
        PeerHello {
            cluster: "alpha".into(),
            from: ReplicaId::from_index(1),
            to: ReplicaId::from_index(0),
            directory: 0,
            origin: 0,
            incarnation,
            session,
            epoch: 0,
            lost_session: lost.0,
            lost_generation: lost.1,
            generation: 0,
            protocol: "epaxos".into(),
        }
    }

    #[test]
    fn of_two_crossing_dials_the_first_committed_stays() {
        let mut low = Arbiter::default();
        assert_eq!(low.commit(1, &hello(1, 2, (0, 0))), Ok(1));
        assert_eq!(low.commit(1, &hello(1, 2, (0, 0))), Err(Refusal::Duplicate));
    }

    #[test]
    fn a_peer_that_lost_the_connection_gets_a_new_one_at_once() {
        let mut low = Arbiter::default();
        assert_eq!(low.commit(1, &hello(1, 2, (0, 0))), Ok(1));
        assert_eq!(low.commit(1, &hello(1, 2, (1, 1))), Ok(2));
        // What it heard from an earlier process of this replica says nothing about this one.
        assert_eq!(low.commit(1, &hello(1, 2, (9, 7))), Err(Refusal::Duplicate));
    }

    #[test]
    fn a_dial_that_completes_late_does_not_replace_a_connection_both_have() {
        // The lower id's first packet was lost; the higher id dialled and was committed meanwhile.
        let (mut low, mut high) = (Arbiter::default(), Arbiter::default());
        assert_eq!(low.commit(1, &hello(1, 2, high.lost())), Ok(1));
        assert_eq!(high.obey(&hello(1, 1, (0, 0)), 1), Ok(()));
        assert_eq!(low.commit(1, &hello(1, 2, high.lost())), Err(Refusal::Duplicate));
        high.end();
        assert_eq!(low.commit(1, &hello(1, 2, high.lost())), Ok(2));
    }

    #[test]
    fn commits_that_overtake_each_other_end_at_the_newest() {
        let mut high = Arbiter::default();
        assert_eq!(high.obey(&hello(1, 2, (0, 0)), 2), Ok(()));
        assert_eq!(high.obey(&hello(1, 2, (0, 0)), 1), Err(Refusal::Duplicate));
        high.end();
        assert_eq!(high.obey(&hello(1, 2, (0, 0)), 2), Err(Refusal::Duplicate));
        assert_eq!(high.obey(&hello(1, 2, (0, 0)), 3), Ok(()));
        // A new process of the lower id numbers from 1 again.
        assert_eq!(high.obey(&hello(2, 3, (0, 0)), 1), Ok(()));
        assert_eq!(high.obey(&hello(2, 3, (0, 0)), 0), Err(Refusal::BadHello));
    }

    #[test]
    fn older_incarnations_and_clones_are_refused() {
        let mut low = Arbiter::default();
        assert_eq!(low.commit(1, &hello(5, 2, (0, 0))), Ok(1));
        assert_eq!(low.incarnation(), Some(5));
        let clone = low.commit(1, &hello(5, 3, (0, 0)));
        assert_eq!(clone, Err(Refusal::Clone(ReplicaId::from_index(1))));
        assert!(low.commit(1, &hello(6, 3, (0, 0))).is_ok(), "a restart replaces at once");
        let stale = low.commit(1, &hello(5, 2, (0, 0)));
        assert!(matches!(stale, Err(Refusal::StaleIncarnation { theirs: 5, seen: 6, .. })));
        low.end();
        assert!(low.commit(1, &hello(5, 2, (0, 0))).is_err(), "not even when it is gone");
        assert!(low.commit(1, &hello(6, 4, (0, 0))).is_ok());
    }
}
