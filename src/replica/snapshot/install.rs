//! Installs another replica's snapshot in place of the state here (PROTOCOL.md §8a), or rejects it:
//! [`Core::install`].

use crate::protocol::Protocol;
use crate::replica::{Core, Output};
use crate::types::{Executed, Time};

impl<P: Protocol> Core<P> {
    /// Installs a peer's snapshot; `false` if it is not new enough (then another is requested).
    ///
    /// If it was installed: load the snapshot's state into the state machine, then apply
    /// `out.execute`, then take a snapshot of this replica. `out.execute` holds what was executed
    /// here and is not in the snapshot; the rest is not executed again.
    ///
    /// Some of that may be executed only later: its dependencies have to be known first, and an
    /// earlier life may have known more about an undecided one than its records tell. Nothing that
    /// this replica reported as executed is affected.
    ///
    /// # Panics
    /// If `out.execute` is not empty, or before [`Core::resume`] or the first step.
    pub fn install(
        &mut self,
        now: Time,
        shared: P::Snapshot,
        executed: &Executed,
        out: &mut Output<P::Message, P::Record>,
    ) -> bool {
        assert!(out.execute.is_empty(), "no execution is pending before an install");
        assert!(self.started && now >= self.view.now, "a replica's clock never moves back");
        self.view.now = now;
        let here = self.executor.done();
        if !self.protocol.may_install(executed, &here) {
            self.transfers.refused(here.floor(), now);
            return false;
        }
        let inside = self.commands.own_inside(executed, &self.executor);
        self.executor.start_again(executed);
        self.commands.installed(executed, inside);
        self.protocol.install(&self.view, shared, executed, &mut self.fx);
        self.apply_effects(out);
        self.protocol.on_executed(self.executor.executed());
        self.transfers.installed(self.executor.executed(), now);
        self.installed += 1;
        self.unsaved_install = Some(executed.clone());
        self.unsure = true;
        self.write_heard(out);
        out.add_wishes(self.transfers.wishes());
        true
    }

    /// The complete snapshot of another replica is unusable, for example damaged or of another
    /// cluster. The transfer starts again, from another replica if possible.
    pub fn reject_snapshot(&mut self, now: Time) {
        self.transfers.rejected(now);
    }
}
