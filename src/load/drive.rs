//! Drives clients: each asks one thing at a time, and the next as soon as it has its answer (a
//! closed loop). A client whose replica is gone goes on at the next one, under the same session and
//! request, so that nothing happens twice. Between `workload`, which says what to ask, and
//! `record`, which notes what was answered.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::record::Record;
use super::workload::Workload;
use crate::machine::{KvCommand, KvOutput};
use crate::node::Latency;
use crate::types::{ClientId, RequestId};

/// How long a client waits before it asks a busy replica again.
const BUSY_PAUSE: Duration = Duration::from_millis(2);

/// How long a client waits once it has been turned away everywhere.
const NOWHERE_PAUSE: Duration = Duration::from_millis(50);

/// Something that executes a command once, however often it is asked under one id.
pub trait Endpoint: Send + Sync + 'static {
    /// Executes a command; `floor` is the lowest sequence of its client that may be retried.
    fn submit(
        &self,
        request: RequestId,
        floor: u64,
        command: KvCommand,
    ) -> impl Future<Output = Result<KvOutput, Trouble>> + Send;
}

/// Why a command has no answer, as far as the client has to know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Trouble {
    /// Ask again here, a little later.
    Busy,
    /// Ask elsewhere.
    Gone,
    /// Nobody will ever answer this, in these words: the run is over.
    Hopeless(String),
}

/// How many ask what, and how much of it is kept.
#[derive(Clone, PartialEq, Debug)]
pub struct Plan {
    /// What they ask.
    pub workload: Workload,
    /// Clients at each endpoint to begin with.
    pub clients: u32,
    /// About so many operations are recorded; see [`record`](super::record).
    pub record: usize,
}

/// Clients at work.
#[derive(Debug)]
pub struct Drive<E> {
    shared: Arc<Shared<E>>,
    tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Shared<E> {
    endpoints: Vec<E>,
    workload: Workload,
    record: Record,
    /// By the endpoint that answered, from the first attempt at any.
    latency: Vec<Mutex<Latency>>,
    answered: AtomicU64,
    start: Instant,
    stop: AtomicBool,
    hopeless: Mutex<Option<String>>,
    session_base: u64,
}

/// What clients have seen.
#[derive(Debug)]
pub struct Driven {
    /// Operations that were answered before the clients were told to stop.
    pub operations: u64,
    /// From the start until then.
    pub seconds: f64,
    /// From asking to the answer, by the endpoint that answered.
    pub latency: Vec<Latency>,
    /// Operations that had no answer when patience ended.
    pub unanswered: usize,
    /// Why an operation can never be answered, if that happened.
    pub hopeless: Option<String>,
    /// What was asked and answered.
    pub record: Record,
}

impl<E: Endpoint> Drive<E> {
    /// Starts the clients, in the tokio runtime this is called in. Sessions are numbered from
    /// `session_base`, which no other run on the same cluster may share.
    pub fn start(plan: &Plan, endpoints: Vec<E>, session_base: u64) -> Drive<E> {
        let places = u32::try_from(endpoints.len()).expect("a cluster has few replicas");
        let clients = plan.clients * places;
        let record = Record::new(plan.record, plan.workload.value_bytes);
        let shared = Arc::new(Shared {
            latency: endpoints.iter().map(|_| Mutex::default()).collect(),
            endpoints,
            workload: plan.workload.clone(),
            record,
            answered: AtomicU64::new(0),
            start: Instant::now(),
            stop: AtomicBool::new(false),
            hopeless: Mutex::new(None),
            session_base,
        });
        let mut tasks = JoinSet::new();
        for client in 0..clients {
            tasks.spawn(Arc::clone(&shared).client(client, (client % places) as usize));
        }
        Drive { shared, tasks }
    }

    /// The time since the start.
    pub fn elapsed(&self) -> Duration {
        self.shared.start.elapsed()
    }

    /// Operations answered so far.
    pub fn answered(&self) -> u64 {
        self.shared.answered.load(Ordering::Relaxed)
    }

    /// Whether an operation can never be answered, so that there is no use in going on.
    pub fn is_hopeless(&self) -> bool {
        lock(&self.shared.hopeless).is_some()
    }

    /// Lets every client end with its present operation, and waits for them with this patience.
    pub async fn finish(mut self, patience: Duration) -> Driven {
        let (operations, seconds) = (self.answered(), self.elapsed().as_secs_f64());
        self.shared.stop.store(true, Ordering::Relaxed);
        let all = async { while self.tasks.join_next().await.is_some() {} };
        // Those that are late are cut off: their operations stay open in the record.
        let _ = tokio::time::timeout(patience, all).await;
        let unanswered = self.tasks.len();
        self.tasks.shutdown().await;
        let shared = Arc::into_inner(self.shared).expect("all tasks have ended");
        Driven {
            operations,
            seconds,
            latency: shared.latency.iter().map(|latency| lock(latency).clone()).collect(),
            unanswered,
            hopeless: lock(&shared.hopeless).clone(),
            record: shared.record,
        }
    }
}

impl<E: Endpoint> Shared<E> {
    /// One client, from start to stop. `at` is the endpoint it prefers at first.
    async fn client(self: Arc<Self>, client: u32, mut at: usize) {
        // Clients of one replica that is gone spread over the others.
        let places = self.endpoints.len();
        let mut hop = 1 + client as usize / places % places.saturating_sub(1).max(1);
        let mut stream = self.workload.client(client);
        let session = ClientId(self.session_base + u64::from(client));
        for sequence in 1.. {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let asked = self.start.elapsed();
            let (key, ask) = stream.next(asked);
            // Dropped with this task if need be: an operation without an answer.
            let open = self.record.call(client, nanos(asked), key, ask);
            let request = RequestId::new(session, sequence);
            let mut refusals = 0;
            let output = loop {
                let command = stream.command(key, ask);
                match self.endpoints[at].submit(request, sequence, command).await {
                    Ok(output) => break output,
                    Err(Trouble::Busy) => tokio::time::sleep(BUSY_PAUSE).await,
                    Err(Trouble::Gone) => {
                        refusals += 1;
                        at = (at + std::mem::replace(&mut hop, 1)) % places;
                        if refusals % places == 0 {
                            tokio::time::sleep(NOWHERE_PAUSE).await;
                        }
                    }
                    Err(Trouble::Hopeless(why)) => {
                        lock(&self.hopeless).get_or_insert(why);
                        return;
                    }
                }
            };
            let answered = self.start.elapsed();
            let answer = stream.answered(key, ask, &output);
            open.answered(nanos(answered), answer);
            lock(&self.latency[at]).record(answered.saturating_sub(asked));
            self.answered.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn nanos(elapsed: Duration) -> u64 {
    u64::try_from(elapsed.as_nanos()).expect("a run is shorter than 584 years")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is in these is never left half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::machine::{Kv, StateMachine};
    use crate::sim::linearizability::{BUDGET, Verdict, check};

    /// One store behind several doors, each of which may be broken in its way.
    #[derive(Clone)]
    struct Door {
        store: Arc<Mutex<(Kv, HashMap<RequestId, KvOutput>)>>,
        manner: Manner,
    }

    #[derive(Clone)]
    enum Manner {
        Good,
        /// Every third request is executed and its answer is lost, with this trouble.
        Forgetful(Trouble),
        Closed,
        Broken,
        Silent,
        /// Every answer to a `get` is that there is nothing.
        Lying,
    }

    impl Endpoint for Door {
        async fn submit(
            &self,
            request: RequestId,
            floor: u64,
            command: KvCommand,
        ) -> Result<KvOutput, Trouble> {
            assert_eq!(floor, request.sequence, "a client asks one thing at a time");
            tokio::task::yield_now().await;
            match self.manner {
                Manner::Closed => return Err(Trouble::Gone),
                Manner::Broken => return Err(Trouble::Hopeless("it is broken".into())),
                Manner::Silent => std::future::pending().await,
                _ => {}
            }
            let mut store = lock(&self.store);
            let (kv, done) = &mut *store;
            let known = done.contains_key(&request);
            let output = done.entry(request).or_insert_with(|| kv.apply(command)).clone();
            match (&self.manner, output) {
                (Manner::Forgetful(trouble), _) if !known && request.sequence.is_multiple_of(3) => {
                    Err(trouble.clone())
                }
                (Manner::Lying, KvOutput::Value(_)) => Ok(KvOutput::Value(None)),
                (_, output) => Ok(output),
            }
        }
    }

    async fn drive(manners: &[Manner]) -> Driven {
        let store = Arc::default();
        let door = |manner: &Manner| Door { store: Arc::clone(&store), manner: manner.clone() };
        let workload = Workload { conflict_percent: 50.0, ..Workload::default() };
        let plan = Plan { workload, clients: 4, record: 100_000 };
        let drive = Drive::start(&plan, manners.iter().map(door).collect(), 1);
        while drive.answered() < 2_000 && drive.elapsed() < Duration::from_secs(20) {
            if drive.is_hopeless() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        drive.finish(Duration::from_millis(50)).await
    }

    fn verdict(driven: &Driven) -> Verdict {
        let finished = driven.record.finish();
        let verdicts = finished.pieces().map(|piece| check(&piece, BUDGET));
        verdicts.reduce(|a, b| if a == Verdict::Linearizable { b } else { a }).expect("a piece")
    }

    #[tokio::test]
    async fn clients_ask_and_answers_are_counted() {
        let driven = drive(&[Manner::Good, Manner::Good]).await;
        let latencies: u64 = driven.latency.iter().map(Latency::count).sum();
        assert!(driven.operations >= 2_000 && latencies >= driven.operations);
        assert_eq!((driven.unanswered, driven.hopeless.as_ref()), (0, None));
        assert_eq!(verdict(&driven), Verdict::Linearizable);
    }

    #[tokio::test]
    async fn a_retry_goes_under_the_same_id_wherever_it_goes() {
        let forgetful = |trouble| Manner::Forgetful(trouble);
        let manners = [forgetful(Trouble::Gone), Manner::Closed, forgetful(Trouble::Busy)];
        let driven = drive(&manners).await;
        assert_eq!(driven.latency[1].count(), 0, "nobody is answered at a closed door");
        assert!(driven.latency[0].count() > 0 && driven.latency[2].count() > 0);
        assert_eq!(verdict(&driven), Verdict::Linearizable);
    }

    #[tokio::test]
    async fn what_nobody_answers_stays_open() {
        let driven = drive(&[Manner::Good, Manner::Silent]).await;
        assert_eq!(driven.unanswered, 4);
        let finished = driven.record.finish();
        let open = finished.pieces().flatten().filter(|operation| operation.returned.is_none());
        assert_eq!(open.count(), 4);
    }

    #[tokio::test]
    async fn a_hopeless_run_ends_and_says_why() {
        let driven = drive(&[Manner::Broken]).await;
        assert_eq!(driven.hopeless.as_deref(), Some("it is broken"));
    }

    #[tokio::test]
    async fn a_lie_is_found_out() {
        let driven = drive(&[Manner::Good, Manner::Lying]).await;
        assert!(matches!(verdict(&driven), Verdict::Violation(_)));
    }
}
