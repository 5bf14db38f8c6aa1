//! How many sessions the clients of each certificate may use. Every replica remembers a session for
//! hours, so their number is bounded where clients ask for them. Used by `clients`.

use std::sync::{Mutex, PoisonError};

use super::error::Rejected;
use crate::types::{ClientId, Era, KeyedMap};

/// The sessions admitted at this replica.
pub(super) struct SessionQuotas {
    /// Sessions of one certificate in one era.
    most_each: usize,
    /// Sessions in the table; beyond this limit, only sessions admitted before are let in.
    most: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    era: Era,
    /// By the certificate's name.
    certificates: KeyedMap<String, Used>,
}

/// Invariant: neither map exceeds `most_each`.
#[derive(Default)]
struct Used {
    in_this_era: KeyedMap<ClientId, ()>,
    in_the_last: KeyedMap<ClientId, ()>,
}

impl SessionQuotas {
    pub(super) fn new(most_each: usize, most: usize) -> SessionQuotas {
        SessionQuotas { most_each, most, state: Mutex::default() }
    }

    /// Admits a session of the client with this name in this era. `held` is the number of sessions
    /// in the table.
    pub(super) fn admit(
        &self,
        name: &str,
        session: ClientId,
        era: Era,
        held: usize,
    ) -> Result<(), Rejected> {
        // The code under this lock keeps the state consistent at every point.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.move_on(era);
        if !state.certificates.contains_key(name) {
            state.certificates.insert(name.to_owned(), Used::default());
        }
        let used = state.certificates.get_mut(name).expect("it was put in");
        if used.in_this_era.contains_key(&session) {
            return Ok(());
        }
        let is_new = !used.in_the_last.contains_key(&session);
        if used.in_this_era.len() >= self.most_each || is_new && held >= self.most {
            return Err(Rejected::TooManySessions);
        }
        used.in_this_era.insert(session, ());
        Ok(())
    }
}

impl State {
    /// A new era starts new counts; the sessions of the last era stay known.
    fn move_on(&mut self, era: Era) {
        if era <= self.era {
            return;
        }
        let follows = self.era.next() == Some(era);
        self.era = era;
        self.certificates.retain_unordered(|_, used| {
            used.in_the_last = std::mem::take(&mut used.in_this_era);
            follows && !used.in_the_last.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn era(number: u32) -> Era {
        Era::new(number).expect("a number")
    }

    #[test]
    fn a_certificate_has_so_many_sessions_an_era_and_others_have_their_own() {
        let quotas = SessionQuotas::new(2, 100);
        let ask = |name, session, number| quotas.admit(name, ClientId(session), era(number), 0);
        assert_eq!([1, 2, 1, 2].map(|session| ask("eve", session, 0)), [const { Ok(()) }; 4]);
        assert_eq!(ask("eve", 3, 0), Err(Rejected::TooManySessions));
        assert_eq!(ask("alice", 3, 0), Ok(()));
        assert_eq!([3, 4].map(|session| ask("eve", session, 1)), [const { Ok(()) }; 2]);
        assert_eq!(ask("eve", 1, 1), Err(Rejected::TooManySessions));
    }

    #[test]
    fn a_full_table_takes_no_new_session_and_those_of_before_go_on() {
        let quotas = SessionQuotas::new(10, 5);
        let ask =
            |session, number, held| quotas.admit("alice", ClientId(session), era(number), held);
        assert_eq!(ask(1, 3, 4), Ok(()));
        assert_eq!(ask(2, 3, 5), Err(Rejected::TooManySessions));
        assert_eq!([ask(1, 3, 5), ask(1, 4, 5), ask(1, 4, 9)], [const { Ok(()) }; 3]);
        assert_eq!(ask(1, 6, 5), Err(Rejected::TooManySessions), "it has been forgotten");
        assert!(quotas.state.lock().expect("sound").certificates.len() <= 1);
    }
}
