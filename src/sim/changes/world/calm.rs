//! The end of a world: nothing fails any more, and what was promised comes about.

use std::collections::BTreeSet;
use std::time::Duration;

use rand::seq::IteratorRandom;

use super::{Letter, Machine, World, machine_of};
use crate::protocol::Protocol;
use crate::replica::Input as CoreInput;
use crate::replica::epochs::{Input, Role};
use crate::sim::linearizability::{BUDGET, Verdict, check};
use crate::types::{Member, Membership, Quorums, RequestId};

impl<P: Protocol> World<P> {
    /// Nothing fails any more: all that is promised comes about.
    pub(super) fn calm_down(&mut self) -> Result<(), String> {
        self.away.clear();
        let ids: Vec<Machine> = self.hosts.keys().copied().collect();
        for at in ids {
            self.hosts.get_mut(&at).expect("it is there").stalled = false;
            self.write_out(at)?;
            self.boot(at)?;
        }
        for round in 0..1200u32 {
            self.now = self.now + Duration::from_millis(50);
            let ids: Vec<Machine> = self.hosts.keys().copied().collect();
            for at in ids {
                self.feed(at, vec![Input::Core(CoreInput::Tick)])?;
            }
            let letters: Vec<Letter<P::Message>> = std::mem::take(&mut self.post);
            for letter in letters {
                self.arrive(letter)?;
            }
            if round % 60 == 59 {
                self.retry()?;
            }
            if round % 20 == 19 && self.check_settled().is_ok() {
                break;
            }
        }
        let newest = &self.begun.last_key_value().expect("there is one").1.0;
        let lost = newest.members().iter().filter(|it| self.hosts[&machine_of(it)].lost).count();
        if lost > Quorums::new(newest.len()).expect("a size").f {
            // A machine was lost while the list grew shorter: so was the quorum.
            self.tally.excused += 1;
            return self.check_history();
        }
        self.check_settled()?;
        self.check_history()
    }

    /// What clients were told fits one order.
    fn check_history(&self) -> Result<(), String> {
        match check(&self.history.history(), BUDGET) {
            Verdict::Linearizable => Ok(()),
            Verdict::TooHard { key } => Err(format!("nobody knows about {key:?}: too hard")),
            Verdict::Violation(found) => Err(found.to_string()),
        }
    }

    /// What was not answered is asked of members of the newest list.
    pub(super) fn retry(&mut self) -> Result<(), String> {
        let newest = self.begun.last_key_value().expect("there is one").1.0.clone();
        let open = self.asked.keys().filter(|request| !self.answered.contains_key(*request));
        let open = open.filter(|request| !self.given_up.contains(*request));
        let open: Vec<RequestId> = open.copied().collect();
        for request in open {
            let up = |member: &&Member| self.hosts[&machine_of(member)].live.is_some();
            let member = newest.members().iter().filter(up).choose(&mut self.rng);
            if let Some(at) = member.map(machine_of) {
                self.request_at(at, request)?;
            }
        }
        Ok(())
    }

    pub(super) fn check_settled(&self) -> Result<(), String> {
        let (newest, _) = &self.begun.last_key_value().expect("there is one").1;
        let mut states = BTreeSet::new();
        for (at, host) in &self.hosts {
            let observes = newest.is_observed_by(host.number, *at);
            let is_member = newest.position_of(host.number, *at).is_some() || observes;
            let Some(live) = &host.live else {
                if is_member && !host.lost {
                    return Err(format!("{at} is a member, and does not run"));
                }
                continue;
            };
            if !is_member {
                // It was removed, and has to find that out if it knows anybody who is left. (Or it
                // is a stranger still.)
                let knows = live.epochs.last_list();
                let mut known = knows.into_iter().flat_map(Membership::members);
                if known
                    .any(|it| newest.members().contains(it) && !self.hosts[&machine_of(it)].lost)
                {
                    return Err(format!("{at} was removed, and goes on"));
                }
                continue;
            }
            let role = if observes { Role::Observer } else { Role::Member };
            if live.epochs.role() != role || live.epochs.list() != Some(newest) {
                let epoch = live.epochs.list().map(Membership::epoch);
                return Err(format!("{at} is in epoch {epoch:?} of {}", newest.epoch()));
            }
            states.insert(live.applier.digest());
            let used = |request: &RequestId| live.applier.sessions().is_used(*request);
            let written = |request: &&RequestId| self.asked[*request].writes();
            if let Some(lost) = self.answered.keys().filter(written).find(|it| !used(it)) {
                return Err(format!("{lost} was answered, and {at} does not know it"));
            }
            if let Some(done) = self.given_up.iter().find(|it| used(it)) {
                return Err(format!("{done} had no effect, it was said, and {at} has executed it"));
            }
        }
        if states.len() != 1 {
            return Err(format!("{} states at the end", states.len()));
        }
        let mut open = self.open.keys().filter(|(at, _)| self.hosts[at].live.is_some());
        if let Some((at, request)) = open.next() {
            return Err(format!("{at} never says what came of {request}"));
        }
        let open = self.asked.keys().filter(|request| !self.answered.contains_key(*request));
        let open = open.filter(|request| !self.given_up.contains(*request)).count();
        if open > 0 { Err(format!("{open} commands were never answered")) } else { Ok(()) }
    }
}
