//! A step of a replica: each input goes to the part that it concerns, and then each part does what
//! is due. After all other files of this folder.

use bytes::Bytes;

use super::{Epochs, Input, Output, Stage, Starting};
use crate::protocol::Protocol;
use crate::replica::{self, OwnSnapshot, Rejection, SnapshotRead};
use crate::types::{ClientId, Command, Time};

impl<P: Protocol> Epochs<P> {
    /// Takes one step over all `inputs`, as [`Core::step`].
    pub fn step(
        &mut self,
        now: Time,
        inputs: impl IntoIterator<Item = Input<P::Message>>,
        out: &mut Output<P::Message, P::Record>,
    ) {
        (self.now, self.resumed) = (now, true);
        let (mut ours, mut ticked) = (Vec::new(), false);
        for input in inputs {
            match input {
                Input::Core(replica::Input::Propose(command)) => {
                    self.on_propose(command, &mut ours, out);
                }
                Input::Core(replica::Input::Durable(durable)) => {
                    self.durable = durable;
                    ours.push(replica::Input::Durable(durable));
                }
                Input::Core(replica::Input::Tick) => {
                    ticked = true;
                    ours.push(replica::Input::Tick);
                }
                Input::Core(other) => {
                    panic!("a position means nothing without an epoch: {other:?}")
                }
                Input::Heard { peer, known } => self.on_heard(peer, known, &mut ours),
                Input::SentLarge(to) => ours.push(replica::Input::SentLarge(self.positions(&to))),
                Input::Saved { epoch, own } => self.on_saved(epoch, own, &mut ours, out),
                Input::Lent { epoch, own } => self.on_lent(epoch, own, &mut ours),
                Input::Read { epoch, read, bytes } => {
                    self.on_read(epoch, read, bytes, &mut ours);
                }
                Input::Peer { from, epoch, message } => {
                    self.on_peer(from, epoch, message, &mut ours, out);
                }
            }
        }
        self.begin_if_durable(out);
        self.run(ours, out);
        self.end_epoch(out);
        self.run_later(out);
        self.announce(out);
        self.serve(out);
        self.observe(ticked, out);
        self.feed(out);
    }

    /// A client of this replica wants a command executed. In which epoch it will be proposed, and
    /// so who answers it, is known here alone.
    fn on_propose(
        &mut self,
        command: Command,
        ours: &mut Vec<replica::Input<P::Message>>,
        out: &mut Output<P::Message, P::Record>,
    ) {
        if command.request.client == ClientId::MEMBERS && !self.may_change(&command, out) {
            return;
        }
        match &mut self.stage {
            Stage::Member(core) | Stage::Starting(Starting { core, .. }) => {
                let origin = core.me();
                ours.push(replica::Input::Propose(Command { origin, ..command }));
            }
            Stage::Stranger => out.rejected.push((command.request, Rejection::NoQuorum)),
            Stage::Observer(_) | Stage::Removed(_) => out.removed.push(command.request),
        }
    }

    /// Steps the present core.
    fn run(
        &mut self,
        inputs: Vec<replica::Input<P::Message>>,
        out: &mut Output<P::Message, P::Record>,
    ) {
        let now = self.now;
        let mut inner = replica::Output::default();
        match &mut self.stage {
            Stage::Member(core) => core.step(now, inputs, &mut inner),
            Stage::Starting(Starting { core, .. }) => core.wait_with(inputs, &mut inner),
            Stage::Observer(_) | Stage::Removed(_) | Stage::Stranger => return,
        }
        self.put_out(inner, out);
    }

    fn on_saved(
        &mut self,
        epoch: u32,
        own: OwnSnapshot,
        ours: &mut Vec<replica::Input<P::Message>>,
        out: &mut Output<P::Message, P::Record>,
    ) {
        let present = self.epoch() == Some(epoch);
        match &mut self.stage {
            Stage::Member(core) if present => {
                let joins = core.note_joined(&own.executed);
                ours.push(replica::Input::Snapshot(own));
                if joins {
                    self.join(out);
                }
            }
            Stage::Starting(_) if present => ours.push(replica::Input::Snapshot(own)),
            Stage::Removed(last) if last.next.epoch() == epoch => {
                last.is_saved = true;
                last.server.on_own(&own, self.now, &mut last.wishes);
            }
            // Of an epoch that is over.
            _ => {}
        }
    }

    fn on_lent(
        &mut self,
        epoch: u32,
        own: OwnSnapshot,
        ours: &mut Vec<replica::Input<P::Message>>,
    ) {
        let present = self.epoch() == Some(epoch);
        match &mut self.stage {
            Stage::Member(_) | Stage::Starting(_) if present => {
                ours.push(replica::Input::Lent(own));
            }
            Stage::Removed(last) if last.next.epoch() == epoch => {
                last.server.on_lent(&own, self.now, &mut last.wishes);
            }
            // Of an epoch that is over.
            _ => {}
        }
    }

    fn on_read(
        &mut self,
        epoch: u32,
        read: SnapshotRead,
        bytes: Option<Bytes>,
        ours: &mut Vec<replica::Input<P::Message>>,
    ) {
        let present = self.epoch() == Some(epoch);
        match &mut self.stage {
            Stage::Removed(last) if last.next.epoch() == epoch => {
                last.server.on_read(read, bytes, &mut last.wishes);
            }
            Stage::Member(_) if present => {
                ours.push(replica::Input::SnapshotRead { read, bytes });
            }
            _ => {}
        }
    }
}
