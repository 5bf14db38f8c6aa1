//! Snapshots of a state machine that keeps its state on disk itself: this replica's part refers to
//! the machine's part, and a copy is made if another replica wants to read it.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::{News, Readable, SnapshotWorker, Work};
use crate::machine;
use crate::node::error::Fault;
use crate::node::panics::panic_text;
use crate::node::snapshot::lend::{Lender, Lending, Lent, Loan};
use crate::storage::{SnapshotInfo, SnapshotWriter, StorageError};
use crate::wire::Wire;

/// While the machine writes its part, others' reads are answered this often.
const MOMENT: Duration = Duration::from_millis(2);

/// The machine's part of a snapshot.
pub(super) struct MachinePart<H, R> {
    pub(super) number: u64,
    pub(super) checkpoint: machine::Checkpoint,
    /// A copy for others is wanted.
    pub(super) loan: Option<Loan<H, R>>,
}

impl<H, R> Work<H, R>
where
    H: Wire + Send + 'static,
    R: Wire + Send + 'static,
{
    /// First this replica's part, then the machine's: see `machine::checkpoint`.
    pub(super) fn finish_reference(
        &mut self,
        writer: SnapshotWriter,
        part: MachinePart<H, R>,
    ) -> Result<SnapshotInfo, StorageError> {
        let MachinePart { number, checkpoint, loan } = part;
        let prepared = writer.prepare(number)?;
        if let Err(error) = self.write_machine(checkpoint) {
            let error = StorageError::of_machine("writing", error);
            if error.is_full() {
                prepared.discard()?;
            } else {
                // Whether the machine has this checkpoint, the next start will find out.
                self.worker.shared.fail(Fault::Storage(error.clone()));
            }
            return Err(error);
        }
        let info = prepared.adopt()?;
        self.loan = loan;
        Ok(info)
    }

    /// Makes the machine's part durable on another thread, and answers reads meanwhile.
    fn write_machine(&mut self, checkpoint: machine::Checkpoint) -> io::Result<()> {
        let name = format!("isonomy-{}-check", self.worker.shared.id);
        thread::scope(|scope| {
            let thread = thread::Builder::new().name(name);
            let writes = thread.spawn_scoped(scope, move || checkpoint.write())?;
            while !writes.is_finished() {
                // Even if nobody wants it any more, it has to end before the machine does.
                let _ = self.look_up();
                thread::sleep(MOMENT);
            }
            writes.join().unwrap_or_else(|panic| Err(io::Error::other(panic_text(&*panic))))
        })
    }

    /// Begins the copy for others that was asked for together with the last snapshot.
    pub(super) fn lend(&mut self) {
        let Some(loan) = self.loan.take() else { return };
        let SnapshotWorker { store, shared, over, cluster, .. } = &self.worker;
        let (store, cluster) = (store.clone(), cluster.clone());
        let (shared, over) = (Arc::clone(shared), Arc::clone(over));
        self.lending = Lender { store, shared, cluster, over }.begin(loan);
    }

    /// A copy for others was made, or came to nothing.
    pub(super) fn lent(&mut self, lent: Lent) {
        self.lending = Lending::none();
        let own = lent.copy.map(|(own, reader)| {
            self.readable.retain(|(id, _)| *id != own.id);
            self.readable.push((own.id, Readable::File(reader)));
            own
        });
        self.tell(News::Lent(lent.epoch, own));
    }
}
