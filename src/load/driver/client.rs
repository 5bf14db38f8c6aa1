//! One client: a session, a stream of operations, and a preferred endpoint.

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use super::record::OpenCall;
use super::{Endpoint, Manner, Pace, RunShared, Trouble};
use crate::load::workload::{Ask, Asks, Key, Stream};
use crate::machine::KvOutput;
use crate::types::{ClientId, Consistency, RequestId};

/// The pause before a client asks a busy replica again.
const BUSY_PAUSE: Duration = Duration::from_millis(2);

/// The pause after all replicas have refused a client, or after a failure.
const NOWHERE_PAUSE: Duration = Duration::from_millis(50);

/// The longest sleep before a client checks whether it must stop.
const NAP: Duration = Duration::from_millis(100);

/// A client, which has one operation at a time.
#[derive(Debug)]
pub(super) struct Client {
    /// Its number among all clients of the run.
    number: u32,
    /// The endpoint it asks first.
    home: usize,
    /// How far from home the endpoint is that it asks next.
    hop: usize,
    session: ClientId,
    sequence: u64,
    stream: Stream,
}

impl Client {
    /// The client with this number at its home.
    pub(super) fn new<E: Endpoint>(shared: &RunShared<E>, number: u32, home: usize) -> Client {
        let places = shared.endpoints.len();
        // The numbers of different homes interleave, and the clients of a lost home spread over the
        // others.
        let spread = number as usize % places.saturating_sub(1).max(1);
        let place = u32::try_from(home).expect("a cluster has few replicas");
        let number = number * u32::try_from(places).expect("a cluster has few replicas") + place;
        Client {
            number,
            home,
            hop: 1 + spread,
            session: ClientId(shared.session_base + u64::from(number)),
            sequence: 0,
            stream: shared.plan.workload.client(number, &shared.population),
        }
    }

    /// Runs a client of a closed loop, from start to stop.
    pub(super) async fn ask_in_turn<E: Endpoint>(mut self, shared: Arc<RunShared<E>>) {
        let Pace::Closed { think, .. } = shared.plan.pace else { return };
        while !shared.is_stopping() {
            let due = shared.start.elapsed();
            if !shared.admit(due) {
                return;
            }
            if !self.operate(&shared, due).await {
                // Without this pause, an immediate failure would repeat in a busy loop.
                tokio::time::sleep(NOWHERE_PAUSE).await;
            }
            let mut left = think;
            while !left.is_zero() && !shared.is_stopping() {
                tokio::time::sleep(left.min(NAP)).await;
                left = left.saturating_sub(NAP);
            }
        }
    }

    /// Runs a client of an open loop, as long as there are operations.
    pub(super) async fn ask_when_due<E: Endpoint>(
        self: Box<Client>,
        shared: Arc<RunShared<E>>,
        due: Duration,
    ) {
        let mut next = Some((self, due));
        while let Some((mut client, due)) = next {
            client.operate(&shared, due).await;
            next = shared.lanes[client.home].give_back(client);
        }
    }

    /// Runs one operation that should start at `due`. Returns whether it was answered.
    async fn operate<E: Endpoint>(&mut self, shared: &RunShared<E>, due: Duration) -> bool {
        let start = shared.start.elapsed();
        let op = self.stream.next(start);
        let all = async {
            self.ask(shared, &op.asks).await?;
            match &op.then {
                Some(then) => self.ask(shared, then).await,
                None => Ok(()),
            }
        };
        let timeout = shared.plan.timeout;
        let answered = tokio::time::timeout(timeout, all).await;
        let answered = answered.unwrap_or_else(|_| Err(format!("no answer within {timeout:?}")));
        let now = shared.start.elapsed();
        let is_answered = answered.is_ok();
        let counts = due >= shared.plan.warm_up;
        let outcome = answered.map(|()| now.saturating_sub(due));
        shared.book.note(self.home, op.kind, counts, start.saturating_sub(due), outcome);
        is_answered
    }

    /// Sends one command until it is answered, and records it.
    async fn ask<E: Endpoint>(&mut self, shared: &RunShared<E>, asks: &Asks) -> Result<(), String> {
        let is_read = asks.iter().all(|(_, ask)| *ask == Ask::Get);
        self.sequence += 1;
        let called = nanos(shared.start.elapsed());
        // If this future is dropped, the calls are recorded without an answer. Local reads are not
        // recorded, because they may be stale.
        let is_recorded = !(is_read && shared.plan.reads == Consistency::Local);
        let asked = asks.iter().filter(|_| is_recorded);
        let record = |(key, ask): &(Key, Ask)| shared.record.call(self.number, called, *key, *ask);
        let open: SmallVec<[OpenCall<'_>; 1]> = asked.map(record).collect();
        let output = self.answer(shared, asks, is_read).await?;
        let now = nanos(shared.start.elapsed());
        for (open, answer) in open.into_iter().zip(self.stream.answered(asks, &output)) {
            open.answered(now, answer);
        }
        Ok(())
    }

    /// Asks at home first, and then at other endpoints.
    async fn answer<E: Endpoint>(
        &self,
        shared: &RunShared<E>,
        asks: &Asks,
        is_read: bool,
    ) -> Result<KvOutput, String> {
        let manner = match is_read {
            true => Manner::Read(shared.plan.reads),
            false => Manner::Once(RequestId::new(self.session, self.sequence)),
        };
        let places = shared.endpoints.len();
        let (mut at, mut refusals) = (self.home, 0);
        loop {
            let (command, endpoint) = (self.stream.command(asks), &shared.endpoints[at]);
            shared.travel(self.home, at).await;
            let attempt = endpoint.ask(command, manner);
            match tokio::time::timeout(shared.plan.attempt, attempt).await {
                // The text leaves out the length, because equal texts are counted together.
                Ok(Ok(KvOutput::TooLarge { limit, .. })) => {
                    return Err(format!(
                        "the answer is above {limit} bytes: read fewer keys, or shorter values"
                    ));
                }
                Ok(Ok(output)) => {
                    shared.travel(at, self.home).await;
                    return Ok(output);
                }
                Ok(Err(Trouble::Failed(why))) => return Err(why),
                Ok(Err(Trouble::Busy)) => tokio::time::sleep(BUSY_PAUSE).await,
                Ok(Err(Trouble::Gone)) | Err(_) => {
                    let step = if refusals == 0 { self.hop } else { 1 };
                    refusals += 1;
                    at = (at + step) % places;
                    if refusals % places == 0 {
                        tokio::time::sleep(NOWHERE_PAUSE).await;
                    }
                }
            }
        }
    }
}

impl<E> RunShared<E> {
    /// The travel time of a command or answer between two sites.
    async fn travel(&self, from: usize, to: usize) {
        let distance = self.plan.distance.as_ref().map(|distance| distance[from][to]);
        if let Some(time) = distance.filter(|time| !time.is_zero()) {
            tokio::time::sleep(time).await;
        }
    }
}

fn nanos(elapsed: Duration) -> u64 {
    u64::try_from(elapsed.as_nanos()).expect("a run is shorter than 584 years")
}
