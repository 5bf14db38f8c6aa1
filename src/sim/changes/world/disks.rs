//! The disks: what is durable of a log and of snapshots, and what a replica starts from.

use std::rc::Rc;

use rand::RngExt;

use super::machines::{Live, Saved, durable};
use super::{Machine, World};
use crate::machine::Applier;
use crate::protocol::Protocol;
use crate::replica::epochs::{Input, LostState, Output, Record};
use crate::replica::{Checkpoint, Input as CoreInput, Output as CoreOutput, SnapshotId};
use crate::types::Membership;

impl<P: Protocol> World<P> {
    pub(super) fn fail(&mut self, at: Machine) -> Result<(), String> {
        let host = self.hosts.get_mut(&at).expect("it is there");
        self.open.retain(|(machine, _), _| *machine != at);
        if host.live.take().is_some() {
            host.log.truncate(host.flushed);
            host.stalled = false;
        }
        Ok(())
    }

    pub(super) fn boot(&mut self, at: Machine) -> Result<(), String> {
        let host = &self.hosts[&at];
        if host.live.is_some() || host.lost || host.retired {
            return Ok(());
        }
        self.tally.restarts += 1;
        let damaged = self.rough && self.rng.random_range(0..6) == 0 && self.damage(at);
        self.start_again(at, damaged)
    }

    pub(super) fn start_again(&mut self, at: Machine, damaged: bool) -> Result<(), String> {
        let live = match self.restored(at) {
            Ok(live) => live,
            Err(_) if damaged => {
                self.tally.refused += 1;
                self.hosts.get_mut(&at).expect("it is there").lost = true;
                return Ok(());
            }
            Err(lost) => return Err(format!("{at} does not start again: {lost}")),
        };
        let host = self.hosts.get_mut(&at).expect("it is there");
        host.lives += 1;
        let live = host.live.insert(live);
        live.life = host.lives;
        live.began = durable(host.flushed).position();
        let own = host.saved.as_ref().map(|saved| (saved.list.epoch(), saved.saved_as()));
        let mut out = Output::default();
        live.epochs.resume(self.now, durable(host.flushed), &mut out);
        self.carry_out(at, out)?;
        match own {
            Some((epoch, own)) => self.feed(at, vec![Input::Saved { epoch, own }]),
            None => Ok(()),
        }
    }

    /// The newest snapshot of a machine cannot be read any more, if there is something before it,
    /// and if the machine can be done without.
    fn damage(&mut self, at: Machine) -> bool {
        let can_do_without = self.can_do_without(at);
        let host = self.hosts.get_mut(&at).expect("it is there");
        let has_older = host.older.is_some() || host.reaches_back;
        if host.saved.is_none() || !has_older || !can_do_without {
            return false;
        }
        host.saved = host.older.take();
        self.tally.damaged += 1;
        true
    }

    /// A replica from its newest snapshot, and the log after that.
    fn restored(&mut self, at: Machine) -> Result<Live<P>, LostState> {
        let host = &self.hosts[&at];
        let (first, saved) = (host.first.clone(), host.saved.clone());
        let (log, number) = (host.log.clone(), host.number);
        let mut live = self.fresh(at, number, first);
        let mut past = CoreOutput::default();
        let mut begin = 0;
        if let Some(saved) = &saved {
            let Checkpoint { position, executed, shared, own } = saved.checkpoint.clone();
            live.epochs.restore_snapshot(saved.list.clone(), shared, &executed, position);
            live.applier = Applier::restore(&saved.state).expect("its own state");
            for record in own {
                live.epochs.restore(saved.list.epoch(), Record::Core(record), &mut past)?;
            }
            begin = usize::try_from(position.records()).expect("a short log");
        }
        for (epoch, record) in log[begin..].iter().cloned() {
            self.tally.replayed += usize::from(matches!(record, Record::Start(_)));
            live.epochs.restore(epoch, record, &mut past)?;
        }
        for execution in std::mem::take(&mut past.execute) {
            for command in execution.batch.commands() {
                live.applier.apply(command, false);
            }
        }
        live.epoch = live.epochs.list().map_or(0, Membership::epoch);
        live.heard = live.epochs.memory().into_iter().collect();
        Ok(live)
    }

    /// Takes an own snapshot, once the one that is being taken is done.
    pub(super) fn save(&mut self, at: Machine) -> Result<(), String> {
        let id = SnapshotId(self.shelf.len() as u64 + 1);
        let host = self.hosts.get_mut(&at).expect("it is there");
        let Some(live) = &mut host.live else { return Ok(()) };
        if live.unsaved.is_some() {
            live.wanted = true;
            return Ok(());
        }
        let Some((list, checkpoint)) = live.epochs.checkpoint() else { return Ok(()) };
        let state = live.applier.snapshot();
        let digest = live.applier.digest();
        let executed = (list.epoch(), format!("{:?}", checkpoint.executed));
        let known = *self.states.entry(executed).or_insert(digest);
        if known != digest || self.begun.get(&list.epoch()).is_none_or(|(begun, _)| *begun != list)
        {
            return Err(format!("{at} has another state than others: {:?}", checkpoint.executed));
        }
        let saved = Rc::new(Saved { list, checkpoint, state, id });
        self.shelf.insert(id, saved.clone());
        live.unsaved = Some(saved);
        self.write_out(at)
    }

    /// The disk does what it can.
    pub(super) fn write_out(&mut self, at: Machine) -> Result<(), String> {
        let host = self.hosts.get_mut(&at).expect("it is there");
        if host.live.is_none() || host.stalled {
            return Ok(());
        }
        let mut inputs = Vec::new();
        if host.flushed < host.log.len() {
            let part = self.rough && self.rng.random_range(0..8) == 0;
            let least = if part { host.flushed + 1 } else { host.log.len() };
            host.flushed = self.rng.random_range(least..=host.log.len());
            inputs.push(Input::Core(CoreInput::Durable(durable(host.flushed))));
        }
        inputs.extend(self.finish_snapshot(at));
        if inputs.is_empty() {
            return Ok(());
        }
        self.feed(at, inputs)?;
        let live = self.hosts.get_mut(&at).and_then(|host| host.live.as_mut());
        match live.filter(|live| live.unsaved.is_none() && live.wanted) {
            Some(live) => {
                live.wanted = false;
                self.save(at)
            }
            None => Ok(()),
        }
    }

    /// The snapshot that is being taken takes its time, fails, or is durable.
    fn finish_snapshot(&mut self, at: Machine) -> Option<Input<P::Message>> {
        let fate = if self.rough { self.rng.random_range(0..24) } else { 1 };
        let host = self.hosts.get_mut(&at).expect("it is there");
        let live = host.live.as_mut().expect("it runs");
        let flushed = durable(host.flushed).position();
        let saved =
            live.unsaved.take_if(|saved| fate <= 2 && saved.checkpoint.position <= flushed)?;
        if fate == 0 {
            self.tally.failed += 1;
            return None;
        }
        if live.line.take_if(|line| saved.id > *line).is_some() {
            host.reaches_back = false;
            host.older = None;
        } else {
            host.older = host.saved.take();
        }
        let saved = host.saved.insert(saved);
        Some(Input::Saved { epoch: saved.list.epoch(), own: saved.saved_as() })
    }
}
