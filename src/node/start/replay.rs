//! Reads a log into a core, and executes what it decides. Part of `start`.

use std::time::Duration;

use crossbeam::channel::{Receiver, bounded};
use tracing::info;

use crate::node::metrics::Restored;
use crate::node::records::Records;
use crate::node::shared::ReplicaShared;
use crate::node::status::NodeProtocol;
use crate::node::work::Work;
use crate::replica::Output;
use crate::replica::epochs::Epochs;
use crate::types::{LogPosition, MemberId};

/// While the log is read, executions are handed on in groups of this many, or this many bytes.
const TOGETHER: usize = 512;
const TOGETHER_BYTES: usize = 1 << 20;
/// Up to twice this many bytes may be handed on and not yet applied.
const AHEAD_BYTES: usize = 16 << 20;
/// How often the progress of reading the log is logged.
const PROGRESS: Duration = Duration::from_secs(2);

/// The state of reading a log into a replica.
pub(super) struct Replay<'a, P: NodeProtocol> {
    epochs: &'a mut Epochs<P>,
    out: &'a mut Output<P::Message, P::Record>,
    records: Records,
    shared: &'a ReplicaShared,
    us: MemberId,
    pub(super) restored: Restored,
    begun: Duration,
    said: Duration,
    /// Bytes to hand on, and how many of the executions put out they include.
    bytes: usize,
    counted: usize,
    /// Bytes handed on since the last question to the apply thread, and its answer.
    ahead: usize,
    reached: Option<Receiver<()>>,
}

impl<'a, P: NodeProtocol> Replay<'a, P> {
    pub(super) fn new(
        epochs: &'a mut Epochs<P>,
        shared: &'a ReplicaShared,
        out: &'a mut Output<P::Message, P::Record>,
    ) -> Replay<'a, P> {
        let now = elapsed(shared);
        let records = Records::after(epochs.lists());
        Replay {
            epochs,
            out,
            records,
            shared,
            us: shared.id,
            restored: Restored::default(),
            begun: now,
            said: now,
            bytes: 0,
            counted: 0,
            ahead: 0,
            reached: None,
        }
    }

    /// Takes in one record. An error says that it is damaged.
    pub(super) fn take(&mut self, position: LogPosition, record: &[u8]) -> Result<(), String> {
        let (epoch, decoded) = self
            .records
            .decode(record)
            .map_err(|error| format!("record {} makes no sense: {error}", position.records()))?;
        let restored = self.epochs.restore(epoch, decoded, self.out);
        restored.map_err(|error| format!("record {}: {error}", position.records()))?;
        self.restored.records += 1;
        self.restored.bytes += record.len() as u64;
        let new = self.out.execute[self.counted..].iter();
        self.bytes += new.map(|execution| execution.batch.bytes()).sum::<usize>();
        self.counted = self.out.execute.len();
        if self.counted >= TOGETHER || self.bytes >= TOGETHER_BYTES {
            self.hand_on().ok_or("the state machine failed")?;
            self.say_how_far();
        }
        Ok(())
    }

    /// Hands decisions on to the apply thread, and waits until it is close enough; `None` if the
    /// thread has ended.
    fn hand_on(&mut self) -> Option<()> {
        let executions = std::mem::take(&mut self.out.execute);
        self.ahead += std::mem::take(&mut self.bytes);
        self.counted = 0;
        let send = |work| self.shared.send_work(work).then_some(());
        send(Work::Execute(executions))?;
        if self.ahead >= AHEAD_BYTES {
            self.ahead = 0;
            let (sender, receiver) = bounded(1);
            send(Work::Reached(sender))?;
            if let Some(before) = self.reached.replace(receiver) {
                before.recv().ok()?;
            }
        }
        Some(())
    }

    fn say_how_far(&mut self) {
        let now = elapsed(self.shared);
        if now.saturating_sub(self.said) >= PROGRESS {
            self.said = now;
            let Restored { records, bytes, .. } = self.restored;
            info!(us = %self.us, records, bytes, "restoring");
        }
    }

    /// Waits until everything decided is applied. A replica that cannot apply it must not connect
    /// to others. `None` if the apply thread has ended.
    pub(super) fn finish(mut self) -> Option<Restored> {
        self.hand_on()?;
        let (sender, receiver) = bounded(1);
        let all = [Work::Reached(sender), Work::Restored];
        all.into_iter().all(|work| self.shared.send_work(work)).then_some(())?;
        receiver.recv().ok()?;
        self.restored.took = elapsed(self.shared).saturating_sub(self.begun);
        let Restored { snapshot_bytes, records, bytes, took } = self.restored;
        let seconds = took.as_secs_f64();
        info!(us = %self.us, snapshot_bytes, records, bytes, seconds, "restored");
        Some(self.restored)
    }
}

fn elapsed(shared: &ReplicaShared) -> Duration {
    shared.clock.now().since(crate::types::Time::ZERO)
}
