//! What replicas execute, and what they answer.

use std::collections::BTreeMap;

use rand::RngExt;

use super::{Machine, World};
use crate::machine::{Kv, KvCommand, KvOutput, Outcome, StateMachine, decode};
use crate::protocol::Protocol;
use crate::replica::epochs::Input;
use crate::replica::{Execution, Input as CoreInput};
use crate::sim::history::{self, Answer, Asked, Call, Recorder};
use crate::types::{ClientId, Command, RequestId, Time};

/// What a client has asked for.
pub(super) struct Asking {
    pub(super) typed: KvCommand,
    /// One operation for each key that it names, until there is an answer.
    operations: Vec<Asked>,
}

impl Asking {
    pub(super) fn new(typed: KvCommand, history: &Recorder, now: Time) -> Asking {
        let calls = match &typed {
            KvCommand::PutMany { entries } => {
                // The last entry of a key counts.
                let entries: BTreeMap<_, _> = entries.iter().cloned().collect();
                entries.into_iter().map(|(key, value)| (key, Call::Put(value))).collect()
            }
            single => Vec::from_iter(Call::of(single)),
        };
        let call = |(key, call)| history.call(now, history.client(), key, call);
        let operations = calls.into_iter().map(call).collect();
        Asking { typed, operations }
    }

    pub(super) fn writes(&self) -> bool {
        !Kv::footprint(&self.typed).is_read_only()
    }
}

impl<P: Protocol> World<P> {
    /// Applies what a replica executes, and answers what it was asked for.
    pub(super) fn apply_all(
        &mut self,
        at: Machine,
        executions: Vec<Execution>,
    ) -> Result<(), String> {
        let host = self.hosts.get_mut(&at).expect("it is there");
        let live = host.live.as_mut().expect("it runs");
        let epoch = live.epoch;
        let list = self.begun.get(&epoch).map(|(list, _)| list);
        let me = list.and_then(|list| {
            list.position(host.number).or_else(|| list.place_of_observer(host.number))
        });
        if list.is_some_and(|list| list.is_observer(host.number)) {
            self.tally.fed += executions.len();
        }
        let mut answers = Vec::new();
        for execution in executions {
            if Some(execution.me) != me {
                return Err(format!("{at} executes as {} in epoch {epoch}", execution.me));
            }
            for command in execution.batch.commands() {
                let request = command.request;
                let wanted = command.origin == execution.me;
                let applied = live.applier.apply(command, wanted);
                if request.client == ClientId::MEMBERS {
                    if request.sequence != u64::from(epoch) + 1 {
                        return Err(format!("{at} executes {request} in epoch {epoch}"));
                    }
                } else if wanted {
                    answers.push((request, applied.outcome));
                }
            }
        }
        answers.into_iter().try_for_each(|(request, outcome)| self.answer(at, request, outcome))
    }

    /// A replica reads for its clients without a proposal, as long as its lease lasts. Returns what
    /// it has to propose.
    pub(super) fn answer_reads(
        &mut self,
        at: Machine,
        reads: Vec<Command>,
    ) -> Result<Vec<Input<P::Message>>, String> {
        let mut late = Vec::new();
        for read in reads {
            let host = self.hosts.get_mut(&at).expect("it is there");
            let live = host.live.as_mut().expect("it runs");
            let lease_end = live.epochs.member().map_or(Time::ZERO, |core| core.lease_end());
            if self.now < lease_end {
                self.tally.reads += 1;
                let output = live.applier.read(&read.payload).expect("it is a read");
                self.answer(at, read.request, Outcome::Output(output))?;
            } else {
                late.push(Input::Core(CoreInput::Propose(read)));
            }
        }
        Ok(late)
    }

    /// A client hears what came of its request.
    fn answer(&mut self, at: Machine, request: RequestId, outcome: Outcome) -> Result<(), String> {
        if !self.asked_at.contains_key(&(request, at)) {
            return Err(format!("{at} answers {request}, which another was asked"));
        }
        let asking = self.asked.get_mut(&request).expect("somebody asked for it");
        let output = match &outcome {
            Outcome::Output(output) => decode::<KvOutput>(output).expect("its own encoding"),
            Outcome::Forgotten if self.answered.contains_key(&request) => return Ok(()),
            other => return Err(format!("{at} answers {request} with {other:?}")),
        };
        match self.answered.get(&request) {
            Some(before) if asking.writes() && *before != outcome => {
                return Err(format!("{request} was answered with {before:?}, then {outcome:?}"));
            }
            Some(_) => return Ok(()),
            None => self.answered.insert(request, outcome),
        };
        for operation in asking.operations.drain(..) {
            let answer = Answer::of(output.clone()).expect("to an operation on one key");
            self.history.answer(operation, self.now, history::Outcome::Ok(answer));
        }
        Ok(())
    }

    /// A replica says that these had no effect. Some clients ask no more.
    pub(super) fn deny(&mut self, at: Machine, requests: &[RequestId]) {
        for request in requests {
            let times: usize =
                self.asked_at.range((*request, 0)..=(*request, Machine::MAX)).map(|it| *it.1).sum();
            let once = times == 1 && self.asked_at.contains_key(&(*request, at));
            let gives_up = !self.rough || self.rng.random();
            if once && gives_up && self.asked.contains_key(request) {
                self.tally.denied += 1;
                self.given_up.insert(*request);
            }
        }
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
