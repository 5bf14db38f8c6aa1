//! Drives operations, in one of two ways. In a closed loop, each client asks one thing at a time
//! and the next once it has its answer and has thought a while. In an open loop, operations start
//! when the schedule says so (`arrivals`), whatever became of those before.
//!
//! Latency counts from when an operation was *meant* to start. So a cluster that stands still for a
//! second is charged with every operation of that second, although most of them could not even be
//! sent: what is left out otherwise is known as coordinated omission.
//!
//! A client whose replica is gone goes on at another, under the same session and request, so that
//! nothing happens twice. Between `workload`, which says what to ask, and `record` and `book`,
//! which note what came of it.

mod arrivals;
mod book;
mod client;
mod lanes;
pub mod record;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::JoinSet;

pub use self::arrivals::ArrivalProcess;
use self::arrivals::Arrivals;
use self::book::Book;
pub use self::book::{Figures, LATE, Recent};
use self::client::Client;
use self::lanes::{Lane, Taken};
use self::record::Record;
use crate::load::workload::{Population, Workload};
use crate::machine::{KvCommand, KvOutput};
use crate::types::{Consistency, RequestId};

/// What threads of the load generator are called, so that its own share of the machine can be told
/// from the cluster's: those of the runtime, too, if it is to be counted.
pub const THREAD: &str = "isonomy-load";

/// The longest the schedule sleeps before it looks whether it is to stop.
const NAP: Duration = Duration::from_millis(20);

/// Something that executes a command once, however often it is asked under one id.
pub trait Endpoint: Send + Sync + 'static {
    /// Executes a command; `floor` is the lowest sequence of its client that may be retried.
    fn submit(
        &self,
        request: RequestId,
        floor: u64,
        command: KvCommand,
    ) -> impl Future<Output = Result<KvOutput, Trouble>> + Send;

    /// Answers a command that only reads.
    fn read(
        &self,
        command: KvCommand,
        consistency: Consistency,
    ) -> impl Future<Output = Result<KvOutput, Trouble>> + Send;
}

/// Why a command has no answer, as far as the client has to know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Trouble {
    /// Ask again here, a little later.
    Busy,
    /// Ask elsewhere.
    Gone,
    /// Nobody will ever answer this, in these words.
    Failed(String),
}

/// What decides when the next operation starts.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Pace {
    /// The answer to the one before.
    Closed {
        /// Clients at each endpoint.
        clients: u32,
        /// How long a client thinks between an answer and its next question.
        think: Duration,
    },
    /// A schedule.
    Open {
        /// Operations a second, at all endpoints together.
        rate: f64,
        /// How they are spread.
        spread: ArrivalProcess,
        /// How many may be under way at one endpoint. As many again wait for their turn, and their
        /// latency counts that; what comes on top is dropped, and counted.
        outstanding: u32,
    },
}

/// How many ask what, and how much of it is kept.
#[derive(Clone, PartialEq, Debug)]
pub struct Plan {
    /// What they ask.
    pub workload: Workload,
    /// When.
    pub pace: Pace,
    /// How reads are asked.
    pub reads: Consistency,
    /// How long one replica may take before another is asked.
    pub attempt: Duration,
    /// How long an operation may take altogether; then it has failed.
    pub timeout: Duration,
    /// What starts before this does not count.
    pub warm_up: Duration,
    /// So many operations are started after the warm-up, if there is a limit.
    pub count: Option<u64>,
    /// About so many operations are recorded; see [`record`].
    pub record: usize,
    /// How long a command travels one way from a client at the first site to a replica at the
    /// second, if the endpoints do not take that time anyway.
    pub distance: Option<Vec<Vec<Duration>>>,
}

impl Plan {
    /// A closed loop of clients that count from the start and never think.
    pub fn closed(workload: Workload, clients: u32, record: usize) -> Plan {
        Plan {
            workload,
            pace: Pace::Closed { clients, think: Duration::ZERO },
            reads: Consistency::Linearizable,
            attempt: Duration::from_secs(2),
            timeout: Duration::from_secs(600),
            warm_up: Duration::ZERO,
            count: None,
            record,
            distance: None,
        }
    }
}

/// Clients at work.
#[derive(Debug)]
pub struct Drive<E: Endpoint> {
    shared: Arc<RunShared<E>>,
    tasks: JoinSet<()>,
    schedule: Option<std::thread::JoinHandle<JoinSet<()>>>,
    /// When the clients were told to stop, and what had been answered by then.
    stopped: OnceLock<(Duration, u64)>,
}

/// What all clients of a run share.
#[derive(Debug)]
struct RunShared<E> {
    endpoints: Vec<E>,
    plan: Plan,
    population: Population,
    record: Record,
    book: Book,
    lanes: Vec<Lane<Client>>,
    start: Instant,
    stop: AtomicBool,
    /// Operations started that count.
    started: AtomicU64,
    /// As many have been started as there were to be.
    exhausted: Notify,
    session_base: u64,
}

/// What clients have seen.
#[derive(Debug)]
pub struct Driven {
    /// Operations that were answered before the clients were told to stop, the warm-up's included.
    pub answered: u64,
    /// What the operations that count have seen, by the endpoint whose clients asked.
    pub figures: Vec<Figures>,
    /// Operations that were meant to start after the warm-up, whatever became of them.
    pub offered: u64,
    /// Of those, the ones started more than [`LATE`] after they were meant to.
    pub late: u64,
    /// Those that were never started: too much was under way.
    pub dropped: u64,
    /// Operations that had no answer when patience ended.
    pub unanswered: usize,
    /// When the last of them ended, or patience.
    pub ended: Duration,
    /// What has come since [`Drive::recent`] was asked last, by endpoint.
    pub rest: Vec<Recent>,
    /// What errors said, and how often; the first few.
    pub errors: Vec<(String, u64)>,
    /// What was asked and answered.
    pub record: Record,
}

impl<E: Endpoint> Drive<E> {
    /// Starts the clients, in the tokio runtime this is called in. Sessions are numbered from
    /// `session_base`, which no other run on the same cluster may share: 2^32 belong to a run.
    pub fn start(plan: &Plan, endpoints: Vec<E>, session_base: u64) -> Drive<E> {
        let places = endpoints.len();
        let shared = Arc::new(RunShared {
            book: Book::new(places),
            lanes: endpoints.iter().map(|_| Lane::default()).collect(),
            endpoints,
            population: Population::of(&plan.workload.keys),
            record: Record::new(plan.record, plan.workload.values.clone()),
            plan: plan.clone(),
            start: Instant::now(),
            stop: AtomicBool::new(false),
            started: AtomicU64::new(0),
            exhausted: Notify::new(),
            session_base,
        });
        let (mut tasks, mut schedule) = (JoinSet::new(), None);
        match plan.pace {
            Pace::Closed { clients, .. } => {
                for place in 0..places {
                    for number in 0..clients {
                        let client = Client::new(&shared, number, place);
                        tasks.spawn(client.ask_in_turn(Arc::clone(&shared)));
                    }
                }
            }
            Pace::Open { rate, spread, .. } => {
                let arrivals = Arrivals::new(spread, rate, places, plan.workload.seed);
                let (shared, runtime) = (Arc::clone(&shared), Handle::current());
                let thread = std::thread::Builder::new().name(THREAD.to_owned());
                let work = move || follow(&shared, arrivals, &runtime);
                schedule = Some(thread.spawn(work).expect("a thread can be had"));
            }
        }
        Drive { shared, tasks, schedule, stopped: OnceLock::new() }
    }

    /// The time since the start.
    pub fn elapsed(&self) -> Duration {
        self.shared.start.elapsed()
    }

    /// Operations answered so far.
    pub fn answered(&self) -> u64 {
        self.shared.book.answered()
    }

    /// Operations that have failed so far.
    pub fn failed(&self) -> u64 {
        self.shared.book.failed()
    }

    /// Whether as many operations have been started as there were to be.
    pub fn is_exhausted(&self) -> bool {
        let started = self.shared.started.load(Ordering::Relaxed);
        self.shared.plan.count.is_some_and(|count| started >= count)
    }

    /// Waits until as many operations have been started as there were to be.
    pub async fn exhausted(&self) {
        while !self.is_exhausted() {
            self.shared.exhausted.notified().await;
        }
    }

    /// What has come since this was asked last, by endpoint.
    pub fn recent(&self) -> Vec<Recent> {
        self.shared.book.take_recent()
    }

    /// Lets every client end with its present operation. Returns when they were told so first.
    pub fn stop(&self) -> Duration {
        let stopped = self.stopped.get_or_init(|| {
            self.shared.stop.store(true, Ordering::SeqCst);
            (self.elapsed(), self.answered())
        });
        stopped.0
    }

    /// The same, and waits for them with this patience.
    pub async fn finish(mut self, patience: Duration) -> Driven {
        self.stop();
        let answered = self.stopped.get().map_or(0, |(_, answered)| *answered);
        let mut parts = vec![std::mem::take(&mut self.tasks)];
        if let Some(schedule) = self.schedule.take() {
            let joined = tokio::task::spawn_blocking(|| schedule.join()).await;
            parts.push(joined.expect("nobody aborts it").expect("the schedule does not panic"));
        }
        let all = async {
            for part in &mut parts {
                while part.join_next().await.is_some() {}
            }
        };
        // Those that are late are cut off: their operations stay open in the record.
        let _ = tokio::time::timeout(patience, all).await;
        let (ended, rest) = (self.elapsed(), self.recent());
        let waiting: usize = self.shared.lanes.iter().map(Lane::close).sum();
        let unanswered = waiting + parts.iter().map(JoinSet::len).sum::<usize>();
        for part in &mut parts {
            part.shutdown().await;
        }
        let shared = Arc::into_inner(self.shared).expect("all tasks have ended");
        Driven {
            answered,
            figures: shared.book.figures(),
            offered: shared.started.load(Ordering::Relaxed),
            late: shared.book.late(),
            dropped: shared.book.dropped(),
            unanswered,
            ended,
            rest,
            errors: shared.book.words(),
            record: shared.record,
        }
    }
}

impl<E> RunShared<E> {
    fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Whether an operation that is meant to start at this moment may still do so; if it counts, it
    /// is counted.
    fn admit(&self, due: Duration) -> bool {
        if due < self.plan.warm_up {
            return true;
        }
        let before = self.started.fetch_add(1, Ordering::Relaxed);
        let is_admitted = self.plan.count.is_none_or(|count| before < count);
        if !is_admitted {
            self.started.fetch_sub(1, Ordering::Relaxed);
            self.exhausted.notify_one();
        }
        is_admitted
    }
}

/// Starts operations when they are due, each at a free client of its site. On a thread of its own:
/// the runtime's timers are a millisecond coarse.
fn follow<E: Endpoint>(
    shared: &Arc<RunShared<E>>,
    mut arrivals: Arrivals,
    runtime: &Handle,
) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let Pace::Open { outstanding, .. } = shared.plan.pace else { return tasks };
    loop {
        let (due, place) = arrivals.next();
        loop {
            if shared.is_stopping() {
                return tasks;
            }
            let left = due.saturating_sub(shared.start.elapsed());
            if left.is_zero() {
                break;
            }
            std::thread::sleep(left.min(NAP));
        }
        if !shared.admit(due) {
            return tasks;
        }
        let lane = &shared.lanes[place];
        match lane.take(due, outstanding, |number| Client::new(shared, number, place)) {
            Taken::Client(client) => {
                tasks.spawn_on(client.ask_when_due(Arc::clone(shared), due), runtime);
            }
            Taken::Waits => {}
            Taken::Dropped => shared.book.drop_one(),
        }
        while tasks.try_join_next().is_some() {}
    }
}
