//! What replicas execute, and what they answer.

use super::{Machine, World};
use crate::protocol::Protocol;
use crate::replica::Execution;
use crate::types::{ClientId, RequestId};

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
                    if request.sequence != u64::from(epoch) + 1 {
                        return Err(format!("{at} executes {request} in epoch {epoch}"));
                    }
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

    /// A replica says what came of lists that were proposed to it.
    pub(super) fn answer_changes(
        &mut self,
        at: Machine,
        changed: &[RequestId],
        superseded: &[RequestId],
        by_itself: bool,
    ) -> Result<(), String> {
        let newest = *self.begun.last_key_value().expect("there is one").0;
        for (request, took_effect) in
            changed.iter().map(|it| (it, true)).chain(superseded.iter().map(|it| (it, false)))
        {
            let Some(list) = self.open.remove(&(at, *request)) else {
                return Err(format!("{at} answers {request} twice, or unasked"));
            };
            let begun = self.begun.get(&list.epoch()).map(|(begun, _)| *begun == list);
            // It may not know what followed if it did not end the epoch itself.
            let missed = !took_effect && !by_itself && newest > list.epoch();
            if begun != Some(took_effect) && !missed {
                return Err(format!("{at} says {took_effect} of {list:?}, which is {begun:?}"));
            }
            self.tally.superseded += usize::from(!took_effect);
        }
        Ok(())
    }
}
