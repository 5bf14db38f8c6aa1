//! Another replica's snapshot takes the place of the state here (PROTOCOL.md §8a).

use rustc_hash::FxHashSet;

use crate::execute::AnyExecutor;
use crate::protocol::Protocol;
use crate::replica::{Core, Output};
use crate::types::{Executed, InstanceId, Time};

impl<P: Protocol> Core<P> {
    /// Takes in another replica's snapshot: whether it does. If so, the state machine starts from
    /// the snapshot's state before it takes in `out.execute`: what was executed here and is not in
    /// the snapshot is executed again, the rest of it not. Take an own snapshot then. If not, no
    /// more is to be done: another one is asked for.
    ///
    /// Executed again at once, or later: what it covers has to be known again first, and of an
    /// instance that is not decided an earlier life may have known more than its records tell.
    /// Nothing that was told of as executed is among that.
    ///
    /// # Panics
    /// If `out` is not empty, or before [`Core::resume`] or the first step.
    pub fn install(
        &mut self,
        now: Time,
        shared: P::Snapshot,
        executed: &Executed,
        out: &mut Output<P::Message, P::Record>,
    ) -> bool {
        assert!(out.execute.is_empty(), "what is to be executed comes behind the new state");
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
        // An own snapshot from before says nothing of the state that is here now.
        self.saved_meanwhile = None;
        self.protocol.on_executed(self.executor.executed());
        self.receiver.installed(self.executor.executed(), now);
        self.installed += 1;
        self.write_heard(out);
        out.add_wishes(&mut self.wishes);
        true
    }

    /// Own proposals that are in a snapshot, or may be, and were not executed here.
    fn own_inside(&self, executed: &Executed) -> Vec<InstanceId> {
        let own = self.own.keys().copied();
        let mut inside: Vec<InstanceId> = match &self.executor {
            AnyExecutor::Graph(_) => own.filter(|id| executed.contains(*id)).collect(),
            // None has a slot before it is decided: in there may be any that is not known to be
            // decided after the snapshot.
            AnyExecutor::Log(log) => {
                let behind = log.waiting().filter(|decided| !executed.contains(decided.id));
                let behind: FxHashSet<InstanceId> = behind.map(|it| it.proposal).collect();
                own.filter(|name| !behind.contains(name)).collect()
            }
        };
        inside.sort_unstable();
        inside
    }

    /// Whether what is in a snapshot was executed as commands or as `Nop`, only the session table
    /// knows. So all of these are proposed again, before all that waits: what was executed is
    /// answered from the table, and each command happens once.
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
