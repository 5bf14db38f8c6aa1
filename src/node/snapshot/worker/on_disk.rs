//! The part of a snapshot that a state machine keeps on disk itself.

use std::io;
use std::thread;
use std::time::Duration;

use crate::machine;
use crate::node::panics::panic_text;
use crate::node::snapshot::lend::Loan;
use crate::types::MemberId;

/// While the machine writes its part, other work is looked after this often.
const MOMENT: Duration = Duration::from_millis(2);

/// The machine's part of a snapshot.
pub(super) struct MachinePart<H, R> {
    pub(super) number: u64,
    pub(super) checkpoint: machine::Checkpoint,
    /// A copy for others is wanted.
    pub(super) loan: Option<Loan<H, R>>,
}

/// Makes the machine's part durable on another thread, and does something else `meanwhile`.
pub(super) fn write(
    us: MemberId,
    checkpoint: machine::Checkpoint,
    mut meanwhile: impl FnMut(),
) -> io::Result<()> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name(format!("isonomy-{us}-check"));
        let writes = thread.spawn_scoped(scope, move || checkpoint.write())?;
        while !writes.is_finished() {
            meanwhile();
            thread::sleep(MOMENT);
        }
        writes.join().unwrap_or_else(|panic| Err(io::Error::other(panic_text(&*panic))))
    })
}
