//! Installs another replica's snapshot in place of the state here (PROTOCOL.md §8a):
//! [`Core::install`].

use rustc_hash::FxHashSet;

use crate::execute::AnyExecutor;
use crate::protocol::Protocol;
use crate::replica::{Core, Output};
use crate::types::{Executed, InstanceId, Time};

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
            self.receiver.refused(here.floor(), now);
            return false;
        }
        let inside = self.own_inside(executed);
        self.executor.start_again(executed);
        self.admission.executed(executed);
        self.propose_again(inside);
        self.protocol.install(&self.view, shared, executed, &mut self.fx);
        self.apply_effects(out);
        // A snapshot from before the install does not hold the state that is here now.
        self.saved_meanwhile = None;
        self.protocol.on_executed(self.executor.executed());
        self.receiver.installed(self.executor.executed(), now);
        self.installed += 1;
        self.unsaved_install = Some(executed.clone());
        self.unsure = true;
        self.write_heard(out);
        out.add_wishes(&mut self.wishes);
        true
    }

    /// Own proposals that are or may be in a snapshot and were not executed here.
    fn own_inside(&self, executed: &Executed) -> Vec<InstanceId> {
        let own = self.own.keys().copied();
        let mut inside: Vec<InstanceId> = match &self.executor {
            AnyExecutor::Graph(_) => own.filter(|id| executed.contains(*id)).collect(),
            // A proposal has no slot before it is decided. So each one may be in the snapshot,
            // unless it is known to be decided after it.
            AnyExecutor::Log(log) => {
                let behind = log.waiting().filter(|decided| !executed.contains(decided.id));
                let behind: FxHashSet<InstanceId> = behind.map(|it| it.proposal).collect();
                own.filter(|name| !behind.contains(name)).collect()
            }
        };
        inside.sort_unstable();
        inside
    }

    /// Whether a proposal in a snapshot was executed or became a `Nop`, only the session table
    /// knows. So all of them are proposed again, before all waiting commands. If a command was
    /// executed, the table answers it; it is never executed twice.
    fn propose_again(&mut self, own: Vec<InstanceId>) {
        let mut commands = Vec::new();
        for id in own {
            let (_, batch) = self.own.remove(&id).expect("it was found there");
            self.own_commands -= batch.commands().len();
            commands.extend_from_slice(batch.commands());
        }
        self.admission.push_front(commands.into_iter());
    }
}
