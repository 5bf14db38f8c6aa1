//! A replica's step in the world and its consequences: records, messages, executions, answers.
//! `checks` examine all of it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::RngExt;

use super::agenda::{Event, Letter};
use super::sabotage::Forget;
use super::state::World;
use super::trace::digest;
use crate::machine::{Applied, KvOutput, Outcome, Refusal, encode};
use crate::replica::{
    Committed, Execution, Input, Output, PeerMessage, Record, Rejection, Transfer,
};
use crate::sim::checks::content;
use crate::sim::plan::Disk;
use crate::sim::report::{Breach, Broken, Counter};
use crate::sim::subject::{Noted, Subject, noted};
use crate::types::{ClientId, Command, Footprint, LogPosition, ReplicaId, ReplicaSet};
use crate::wire::{self, Frame};

impl<P: Subject> World<'_, P> {
    /// An input reaches a replica.
    pub(in crate::sim) fn input(
        &mut self,
        replica: ReplicaId,
        input: Input<P::Message>,
    ) -> Result<(), Breach> {
        let host = &mut self.hosts[replica.index()];
        // Time passes for a replica that takes no steps, but it does nothing about it.
        if !host.alive || host.full && matches!(input, Input::Tick) {
            return Ok(());
        }
        host.inbox.push(input);
        self.take_step(replica)
    }

    /// A replica takes a step over its inbox now, or once it is free.
    pub(in crate::sim) fn take_step(&mut self, replica: ReplicaId) -> Result<(), Breach> {
        let host = &mut self.hosts[replica.index()];
        if !host.alive || host.full {
            return Ok(());
        }
        if host.free_at > self.now {
            if !host.called {
                host.called = true;
                let at = host.free_at;
                self.at(at, Event::Free(replica));
            }
            return Ok(());
        }
        let mut inputs = std::mem::take(&mut host.inbox);
        host.free_at = self.now + self.plan.step;
        if inputs.len() > 1 {
            self.counters.hit(Counter::Batched);
        }
        loop {
            self.step(replica, &mut inputs)?;
            let host = &mut self.hosts[replica.index()];
            if !host.alive || host.disk != Disk::Instant || host.flushing {
                break;
            }
            // Repeat until no new records can become durable at once.
            if host.durable == host.appended {
                break;
            }
            host.hand_over();
            let position = host.durable;
            let Some(durable) = self.finish_flush(replica, position)? else { break };
            inputs.push(Input::Durable(durable));
        }
        let host = &mut self.hosts[replica.index()];
        host.inbox = inputs;
        Ok(())
    }

    /// One step of a replica with all its consequences.
    pub(in crate::sim) fn step(
        &mut self,
        me: ReplicaId,
        inputs: &mut Vec<Input<P::Message>>,
    ) -> Result<(), Breach> {
        // Records of a step may depend on everything heard in it, whatever the order, so hear
        // first.
        inputs.sort_by_key(|input| !matches!(input, Input::Heard { .. }));
        self.note_inputs(me, inputs);
        let mut out = std::mem::take(&mut self.out);
        let host = &mut self.hosts[me.index()];
        host.fresh.acts();
        let now = host.clock.local(self.now);
        host.core.step(now, inputs.drain(..), &mut out);
        let followed = self.follow(me, &mut out);
        out.clear();
        self.out = out;
        self.arrange_wake(me);
        followed
    }

    fn note_inputs(&mut self, me: ReplicaId, inputs: &[Input<P::Message>]) {
        let who = u64::from(me.number()) << 60;
        self.trace.mix(self.now.as_nanos() ^ who);
        for input in inputs {
            let word = match input {
                Input::Peer { from, message } => {
                    digest::<P>(message) ^ u64::from(from.number()) << 52
                }
                Input::Heard { peer, known } => {
                    known.held.records() ^ u64::from(peer.number()) << 51
                }
                Input::Propose(command) => command.request.sequence,
                Input::Durable(durable) => durable.position().records(),
                Input::Snapshot(own) | Input::Lent(own) => own.id.0,
                Input::SnapshotRead { read, .. } => read.offset,
                // Never an input here, because the simulated network has no lanes.
                Input::SentLarge(_) | Input::Tick => continue,
            };
            self.trace.mix(word);
            self.trace.say(self.now, || match input {
                Input::Peer { from, message } => format!("{me} <- {from} {}", shown::<P>(message)),
                other => format!("{me} {other:?}"),
            });
        }
    }

    pub(in crate::sim) fn follow(
        &mut self,
        me: ReplicaId,
        out: &mut Output<P::Message, P::Record>,
    ) -> Result<(), Breach> {
        if self.sabotage.forget == Some(Forget::Heard) {
            for record in out.records.iter_mut().filter(|record| record.protocol().is_none()) {
                *record = Record::Heard(Vec::new());
            }
        }
        if self.sabotage.forget == Some(Forget::Began) {
            for record in &mut out.records {
                let Record::Heard(news) = record else { continue };
                news.iter_mut().filter_map(|it| it.since.as_mut()).for_each(|it| it.began = None);
            }
        }
        for record in &out.records {
            self.trace.say(self.now, || format!("{me} writes {}", show_record::<P>(record)));
            self.checks.written::<P>(me, record)?;
            if let Noted::Decided(_, _, deps) = noted::<P>(record) {
                deps.as_slots().iter().for_each(|slot| self.trace.mix(*slot));
            }
        }
        let host = &mut self.hosts[me.index()];
        host.appended += out.records.len() as u64;
        let speaks = !(out.messages.is_empty() && out.execute.is_empty() && out.reads.is_empty());
        self.note_records(me, out.records.len(), speaks);
        let host = &mut self.hosts[me.index()];
        if self.plan.restarts || host.room.is_some() {
            host.log.append(&mut out.records);
        }
        self.flush(me)?;
        let doom = self.hosts[me.index()].doom;
        let doom =
            doom.filter(|doom| out.messages.iter().any(|(_, said)| doom.comes_with::<P>(said)));
        for (to, message) in out.messages.drain(..) {
            self.send(me, to, message, doom.is_some())?;
        }
        if self.sabotage.answer_at_commit {
            self.answer_early(me, &out.committed);
        }
        for execution in &out.execute {
            self.execute(me, execution)?;
        }
        for read in &out.reads {
            self.read(me, read)?;
        }
        for (request, why) in &out.rejected {
            // Without a quorum a client waits for its timeout, as without an answer. An absence may
            // last for long, and the client must not retry faster and faster.
            if *why != Rejection::NoQuorum {
                self.later(Duration::from_micros(100), Event::Refused(*request));
            }
        }
        self.follow_snapshots(me, out);
        self.check_truncation(me)?;
        if let Some(doom) = doom {
            self.meet(me, doom)?;
        }
        Ok(())
    }

    fn send(
        &mut self,
        me: ReplicaId,
        to: ReplicaSet,
        message: PeerMessage<P::Message>,
        dies: bool,
    ) -> Result<(), Breach> {
        self.trace.say(self.now, || format!("{me} -> {to:?} {}", shown::<P>(&message)));
        if let (true, PeerMessage::Protocol(said)) = (self.plan.restarts, &message) {
            self.checks.said::<P>(self.hosts[me.index()].life, said)?;
        }
        let held = LogPosition::new(self.hosts[me.index()].flushed);
        let message = if self.plan.wire { self.through_wire(held, message)? } else { message };
        for to in to.iter() {
            if dies && self.rng.random_ratio(1, 2) {
                continue;
            }
            let arrivals = self.network.send::<P>(self.now, me, to, &message, &mut self.counters);
            for at in arrivals.into_iter().flatten() {
                let said = if self.plan.older_disks { self.says(me) } else { None };
                self.post(at, Letter { from: me, to, said, message: message.clone() });
            }
        }
        Ok(())
    }

    /// The message as its receivers would decode it.
    fn through_wire(
        &mut self,
        held: LogPosition,
        message: PeerMessage<P::Message>,
    ) -> Result<PeerMessage<P::Message>, Breach> {
        self.frame.clear();
        wire::encode_peer(0, held, &message, &mut self.frame);
        let frame = Bytes::copy_from_slice(&self.frame);
        let limits = wire::Limits::new(self.plan.replicas);
        match wire::decode_peer::<P::Message>(frame, &limits) {
            Ok(frame) if frame == Frame { epoch: 0, held, message: message.clone() } => Ok(message),
            Ok(_) => Err((Broken::Wire, format!("{} is read otherwise", shown::<P>(&message)))),
            Err(error) => {
                Err((Broken::Wire, format!("{} is refused: {error}", shown::<P>(&message))))
            }
        }
    }

    fn execute(&mut self, me: ReplicaId, execution: &Execution) -> Result<(), Breach> {
        self.trace.mix(execution.id.slot << 8 | u64::from(execution.id.replica.number()));
        self.trace.say(self.now, || format!("{me} executes {}", execution.id));
        self.checks.executed(me, execution)?;
        if !execution.ends_component {
            self.counters.hit(Counter::Component);
        }
        if execution.batch.commands().len() > 1 {
            self.counters.hit(Counter::LargeBatch);
        }
        for command in execution.batch.commands() {
            match &command.footprint {
                Footprint::Everything => self.counters.hit(Counter::Everything),
                keys if keys.keys().is_some_and(|keys| keys.len() > 1) => {
                    self.counters.hit(Counter::SeveralKeys);
                }
                _ => {}
            }
        }
        for command in execution.batch.commands() {
            // In worlds with restarts, only requests that this life has heard get an answer.
            let host = &mut self.hosts[me.index()];
            let heard = !self.plan.restarts || host.waiting.contains(&command.request);
            let wanted = command.origin == me && heard;
            let applied = host.applier.apply(command, wanted);
            self.checks.applied(me, command, &applied)?;
            self.note_refusal(me, command, &applied);
            if applied.request.client == ClientId::CLUSTER {
                continue;
            }
            if !applied.first {
                self.counters.hit(Counter::SecondTime);
            }
            let host = &self.hosts[me.index()];
            let refused = matches!(applied.outcome, Outcome::Refused(Refusal::Expired { .. }));
            // Like a node, which answers that the outcome is unknown: the client asks another
            // replica.
            let unsure = refused && host.unsure.contains(&applied.request);
            if wanted && !unsure {
                self.reply(command, applied.outcome);
            }
        }
        Ok(())
    }

    /// Answers a read from the current state, bypassing the log and the sessions.
    fn read(&mut self, me: ReplicaId, read: &Command) -> Result<(), Breach> {
        self.trace.mix(read.request.sequence << 8);
        self.trace.say(self.now, || format!("{me} reads for {:?}", read.request));
        self.counters.hit(Counter::ReadUnproposed);
        self.checks.is_read(read);
        let host = &mut self.hosts[me.index()];
        let output = host.applier.read(&read.payload);
        let output = output
            .map_err(|error| (Broken::Integrity, format!("{me} takes for a read: {error}")))?;
        self.reply(read, Outcome::Output(output));
        Ok(())
    }

    fn note_refusal(&mut self, me: ReplicaId, command: &Command, applied: &Applied) {
        if matches!(applied.outcome, Outcome::Refused(Refusal::Expired { .. })) {
            self.counters.hit(Counter::RefusedLate);
            if self.checks.has_applied(me, content(command.request, &command.payload)) {
                self.counters.hit(Counter::RefusedAgain);
            }
        }
    }

    fn reply(&mut self, command: &Command, outcome: Outcome) {
        // Like a node: an answer goes only to a client that sent the same command under that id.
        let request = command.request;
        if !self.clients.may_hear(request, &command.payload) {
            self.counters.hit(Counter::TwinAnswered);
            return;
        }
        if let Some(at) = self.network.send_client(self.now, &mut self.counters) {
            self.at(at, Event::Reply(Box::new((request, outcome))));
        }
    }

    /// A deliberate bug; PROTOCOL.md §6 says why it is one.
    fn answer_early(&mut self, me: ReplicaId, committed: &[Committed]) {
        let done = encode(&KvOutput::Done).expect("an output without content");
        for committed in committed {
            let batch = Arc::clone(&committed.batch);
            for command in batch.commands().iter().filter(|command| command.origin == me) {
                let cluster = command.request.client == ClientId::CLUSTER;
                if !cluster && self.clients.is_put(command.request) {
                    self.reply(command, Outcome::Output(done.clone()));
                }
            }
        }
    }

    pub(super) fn arrange_wake(&mut self, me: ReplicaId) {
        let host = &mut self.hosts[me.index()];
        let Some(wake) = host.core.wake() else { return };
        let at = host.clock.world(wake).max(self.now);
        if host.wake_at.is_none_or(|soonest| at < soonest) {
            host.wake_at = Some(at);
            self.at(at, Event::Wake(me));
        }
    }
}

fn show_record<P: Subject>(record: &Record<P::Record>) -> String {
    match record {
        Record::Heard(news) => format!("{news:?}"),
        Record::Protocol(record) => P::show_record(record),
    }
}

/// A message without its payloads.
fn shown<P: Subject>(message: &PeerMessage<P::Message>) -> String {
    match message {
        PeerMessage::Protocol(message) => P::show(message),
        PeerMessage::Transfer(Transfer::Chunk { snapshot, offset, .. }) => {
            format!("Chunk of {snapshot:?} at {offset}")
        }
        other => format!("{other:?}"),
    }
}
