//! The machines: a replica with its state machine, its disk, and what it does with them.

use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::Bytes;
use rand::RngExt;

use super::{Letter, Machine, World};
use crate::machine::{Applier, Kv};
use crate::protocol::Protocol;
use crate::replica::epochs::{Epochs, Input, LostState, Message, Output, Record, Role};
use crate::replica::{
    Arrival, Checkpoint, Input as CoreInput, Limits, Output as CoreOutput, OwnSnapshot,
    PeerMessage, SnapshotId, SnapshotRead, Transfer,
};
use crate::types::{Durable, Executed, Known, LogPosition, MemberId, Membership, RequestId};

/// A snapshot, as it is on disks and on its way.
pub(super) struct Saved<P: Protocol> {
    pub(super) list: Membership,
    pub(super) checkpoint: Checkpoint<P::Snapshot, P::Record>,
    pub(super) state: Vec<u8>,
    pub(super) id: SnapshotId,
}

impl<P: Protocol> Saved<P> {
    pub(super) fn saved_as(&self) -> OwnSnapshot {
        OwnSnapshot { id: self.id, executed: self.checkpoint.executed.clone(), bytes: 1 }
    }
}

pub(super) struct Host<P: Protocol> {
    pub(super) live: Option<Live<P>>,
    /// The number that its replica was given.
    pub(super) number: MemberId,
    /// How many times it has started.
    pub(super) lives: u64,
    /// The list that it is configured with; `None` for one that is added later.
    pub(super) first: Option<Membership>,
    pub(super) log: Vec<(u32, Record<P::Record>)>,
    pub(super) flushed: usize,
    pub(super) saved: Option<Rc<Saved<P>>>,
    /// The snapshot before, unless the log no longer reaches back to it.
    pub(super) older: Option<Rc<Saved<P>>>,
    /// The log is whole.
    pub(super) reaches_back: bool,
    pub(super) stalled: bool,
    /// Its machine is gone, with its disk.
    pub(super) lost: bool,
    pub(super) retired: bool,
}

impl<P: Protocol> Host<P> {
    /// The epoch in which its replica takes part, if any.
    #[cfg(test)]
    pub(super) fn epoch(&self) -> Option<u32> {
        let epochs = &self.live.as_ref()?.epochs;
        epochs.member().and(epochs.list()).map(Membership::epoch)
    }
}

pub(super) struct Live<P: Protocol> {
    pub(super) number: MemberId,
    pub(super) epochs: Epochs<P>,
    /// The name of this life, and where in the log it began.
    pub(super) life: u64,
    pub(super) began: LogPosition,
    /// What it was told of the others in this life, or had written before.
    pub(super) heard: BTreeMap<MemberId, Known>,
    pub(super) applier: Applier<Kv>,
    /// The epoch of what it executes.
    pub(super) epoch: u32,
    pub(super) receives: Option<SnapshotId>,
    /// An own snapshot that is not durable yet, and whether another is to follow.
    pub(super) unsaved: Option<Rc<Saved<P>>>,
    pub(super) wanted: bool,
    /// The last snapshot before the state of another replica was installed, within an epoch. The
    /// first one after it has nothing before it.
    pub(super) line: Option<SnapshotId>,
    /// What an observer has executed, as its clients have seen it: the epoch, and what in it.
    pub(super) read: Option<(u32, Executed)>,
}

impl<P: Protocol> World<P> {
    fn fresh(&mut self, at: Machine, me: MemberId, list: Option<Membership>) -> Live<P> {
        let settings = self.settings();
        // So little is kept for observers that they have to fetch snapshots.
        let limits = Limits { feed_instances: self.kept_for_observers, ..Limits::default() };
        let epochs = Epochs::new(me, at, list, settings, limits);
        #[cfg(test)]
        let epochs = epochs.with(self.plant);
        let applier = Applier::new(Kv::default());
        Live {
            number: me,
            epochs,
            life: 0,
            began: LogPosition::default(),
            heard: BTreeMap::new(),
            applier,
            epoch: 0,
            receives: None,
            unsaved: None,
            wanted: false,
            line: None,
            read: None,
        }
    }

    /// A machine starts for the first time; its replica has the number `me`.
    pub(super) fn add_host(&mut self, at: Machine, me: MemberId, first: Option<Membership>) {
        let live = Some(self.fresh(at, me, first.clone()));
        let host = Host {
            live,
            number: me,
            lives: 0,
            first,
            log: Vec::new(),
            flushed: 0,
            saved: None,
            older: None,
            reaches_back: true,
            stalled: false,
            lost: false,
            retired: false,
        };
        self.hosts.insert(at, host);
    }

    pub(super) fn feed(
        &mut self,
        at: Machine,
        inputs: Vec<Input<P::Message>>,
    ) -> Result<(), String> {
        let Some(live) = &mut self.hosts.get_mut(&at).expect("it is there").live else {
            return Ok(());
        };
        let mut out = Output::default();
        live.epochs.step(self.now, inputs, &mut out);
        live.check_memory(at)?;
        live.check_observer(at, &out)?;
        self.check_numbers(at)?;
        self.carry_out(at, out)
    }

    /// No two replicas take part under one number.
    fn check_numbers(&self, at: Machine) -> Result<(), String> {
        let takes_part =
            |host: &Host<P>| host.live.as_ref().is_some_and(|live| live.epochs.member().is_some());
        let this = &self.hosts[&at];
        let mut others = self.hosts.iter().filter(|(other, _)| **other != at);
        let twin = others.find(|(_, host)| host.number == this.number && takes_part(host));
        match twin.filter(|_| takes_part(this)) {
            Some((twin, _)) => Err(format!("{at} and {twin} are both member {}", this.number)),
            None => Ok(()),
        }
    }

    /// Does what a replica wants done.
    pub(super) fn carry_out(
        &mut self,
        at: Machine,
        out: Output<P::Message, P::Record>,
    ) -> Result<(), String> {
        let host = self.hosts.get_mut(&at).expect("it is there");
        host.log.extend(out.records);
        let live = host.live.as_mut().expect("it runs");
        let held = durable(host.flushed).position();
        let known = Known { directory: at, life: live.life, began: Some(live.began), held };
        for (to, epoch, message) in out.messages {
            let letter =
                |to| Letter { from: host.number, known, to, epoch, message: message.clone() };
            self.post.extend(to.into_iter().map(letter));
        }
        self.apply_all(at, out.execute)?;
        let denied: Vec<RequestId> = out.rejected.iter().map(|(request, _)| *request).collect();
        self.deny(at, &denied);
        self.deny(at, &out.removed);
        for (request, _) in &out.rejected {
            self.open.remove(&(at, *request));
        }
        let by_itself = !out.ended.is_empty();
        let (changed, superseded) = (out.changed, out.superseded);
        out.ended.into_iter().try_for_each(|list| self.end_epoch(at, list))?;
        self.answer_changes(at, &changed, &superseded, by_itself)?;
        let host = self.hosts.get_mut(&at).expect("it is there");
        let live = host.live.as_mut().expect("it runs");
        let mut inputs = Vec::new();
        for (epoch, read) in out.snapshot_reads {
            let SnapshotRead { snapshot, bytes, .. } = read;
            let mut readable = host.saved.iter().chain(&host.older);
            let has = readable.any(|saved| saved.id == snapshot);
            let bytes = has.then(|| Bytes::from(vec![0; bytes as usize]));
            inputs.push(Input::Read { epoch, read, bytes });
        }
        let retired = out.retired.is_some();
        let mut whole = None;
        for arrival in out.snapshot_received {
            match arrival {
                Arrival::Begins { snapshot, .. } => live.receives = Some(snapshot),
                Arrival::Bytes(_) => {}
                Arrival::Complete => whole = live.receives.take(),
                Arrival::GivenUp => live.receives = None,
            }
        }
        if retired {
            (host.live, host.retired) = (None, true);
            self.tally.retired += 1;
            return Ok(());
        }
        if let Some(whole) = whole {
            self.take_state(at, whole)?;
        }
        if out.snapshot_wanted {
            self.save(at)?;
        }
        self.write_out(at)?;
        inputs.extend(self.answer_reads(at, out.reads)?);
        if inputs.is_empty() { Ok(()) } else { self.feed(at, inputs) }
    }

    /// A replica has ended an epoch by itself: in the same state as all who do.
    fn end_epoch(&mut self, at: Machine, list: Membership) -> Result<(), String> {
        let host = self.hosts.get_mut(&at).expect("it is there");
        let live = host.live.as_mut().expect("it runs");
        self.tally.ended += 1;
        let begins = (list.clone(), live.applier.digest());
        if *self.begun.entry(list.epoch()).or_insert(begins.clone()) != begins {
            return Err(format!("{at} ends epoch {} otherwise than others", live.epoch));
        }
        if list.position_of(host.number, at).is_some() || list.is_observed_by(host.number, at) {
            live.epoch = list.epoch();
        }
        Ok(())
    }

    pub(super) fn take_state(&mut self, at: Machine, snapshot: SnapshotId) -> Result<(), String> {
        let saved = self.shelf[&snapshot].clone();
        let host = self.hosts.get_mut(&at).expect("it is there");
        let live = host.live.as_mut().expect("it runs");
        let mut out = Output::default();
        let Checkpoint { executed, shared, .. } = saved.checkpoint.clone();
        let later = live.epochs.list().map(Membership::epoch) != Some(saved.list.epoch());
        let had_state = live.epochs.role() == Role::Observer;
        let taken = live.epochs.install(self.now, &saved.list, shared, &executed, &mut out);
        if !taken {
            return self.carry_out(at, out);
        }
        if later {
            let new = host.log.is_empty() && host.saved.is_none();
            self.tally.newcomers += usize::from(new);
            self.tally.late += usize::from(!new);
        }
        self.tally.fetched += usize::from(had_state && !later);
        live.applier = Applier::restore(&saved.state).expect("a state");
        live.epoch = saved.list.epoch();
        if !later {
            live.line = Some(SnapshotId(self.shelf.len() as u64));
        }
        self.carry_out(at, out)?;
        self.save(at)
    }

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
        inputs.extend(self.complete_snapshot(at));
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
    fn complete_snapshot(&mut self, at: Machine) -> Option<Input<P::Message>> {
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

impl<P: Protocol> Live<P> {
    /// An observer says nothing of a protocol, and its state never goes back in a life.
    fn check_observer(
        &mut self,
        at: Machine,
        out: &Output<P::Message, P::Record>,
    ) -> Result<(), String> {
        let Some(list) = self.epochs.list().filter(|list| list.is_observed_by(self.number, at))
        else {
            return Ok(());
        };
        let only_follows = |message: &Message<P::Message>| match message {
            Message::Feed(_) => true,
            // To one that may know of a later epoch.
            Message::Core(PeerMessage::Ping { .. } | PeerMessage::Pong { .. }) => true,
            Message::Core(PeerMessage::Transfer(it)) => {
                matches!(it, Transfer::Request { .. } | Transfer::Fetch { .. })
            }
            _ => false,
        };
        if let Some((.., other)) = out.messages.iter().find(|(.., it)| !only_follows(it)) {
            return Err(format!("{at} observes, and says {other:?}"));
        }
        let Some((_, checkpoint)) = self.epochs.checkpoint() else { return Ok(()) };
        let now = (list.epoch(), checkpoint.executed);
        match self.read.replace(now.clone()) {
            Some((epoch, before)) if epoch == now.0 && !now.1.includes(&before) => {
                Err(format!("the state of {at} goes back from {before:?} to {:?}", now.1))
            }
            Some((epoch, _)) if epoch > now.0 => Err(format!("{at} goes back from {epoch}")),
            _ => Ok(()),
        }
    }

    /// What it was told of the members of its list is remembered, through all epochs.
    fn check_memory(&self, at: Machine) -> Result<(), String> {
        let memory: BTreeMap<MemberId, Known> = self.epochs.memory().into_iter().collect();
        let list = self.epochs.member().and(self.epochs.list());
        let members = list.into_iter().flat_map(Membership::members);
        let mut heard = members.filter_map(|it| Some((it.id, self.heard.get(&it.id)?)));
        let me = self.number;
        match heard.find(|(of, known)| *of != me && memory.get(of) != Some(*known)) {
            Some((of, known)) => Err(format!("{at} forgets of {of}: {known:?}")),
            None => Ok(()),
        }
    }
}

fn durable(records: usize) -> Durable {
    Durable::flushed(LogPosition::new(records as u64))
}
