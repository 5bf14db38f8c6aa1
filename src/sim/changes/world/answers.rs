//! What replicas execute, and what they answer.

use super::{Machine, World};
use crate::protocol::Protocol;
use crate::replica::Execution;
use crate::types::ClientId;

impl<P: Protocol> World<P> {
    /// Applies what a replica executes, and answers what it was asked for.
    pub(super) fn execute(
        &mut self,
        at: Machine,
        executions: Vec<Execution>,
    ) -> Result<(), String> {
        let host = self.hosts.get_mut(&at).expect("it is there");
        let live = host.live.as_mut().expect("it runs");
        let epoch = live.epoch;
        let me = self.begun.get(&epoch).and_then(|(list, _)| list.position(host.number));
        for execution in executions {
            if Some(execution.me) != me {
                return Err(format!("{at} executes as {} in epoch {epoch}", execution.me));
            }
            for command in execution.batch.commands() {
                let request = command.request;
                live.applier.apply(command, true);
                if request.client == ClientId::MEMBERS {
                    self.tally.superseded += usize::from(request.sequence != u64::from(epoch) + 1);
                } else if command.origin == execution.me {
                    if !self.asked_at.contains(&(request, at)) {
                        return Err(format!("{at} answers {request}, which another was asked"));
                    }
                    self.answered.insert(request);
                }
            }
        }
        Ok(())
    }
}
