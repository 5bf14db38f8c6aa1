//! Drives operations in one of two ways. In a closed loop, each client has one operation at a time,
//! and starts the next after the answer and a pause. In an open loop, operations start at scheduled
//! times (`arrivals`), whatever happens to earlier ones.
//!
//! Latency counts from the *intended* start of an operation. So a cluster that pauses for a second
//! is charged for every operation of that second, although most of them could not even be sent.
//! Leaving them out is known as coordinated omission.
//!
//! A client whose replica is gone continues at another under the same session and request, so that
//! no command is executed twice. This module sits between `workload`, which generates operations,
//! and `record` and `book`, which record the results.

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
pub use self::book::{Figures, LATE};
use self::client::Client;
use self::lanes::Lane;
use self::record::Record;
use crate::load::workload::{Population, Workload};
use crate::machine::{KvCommand, KvOutput};
use crate::types::{Consistency, RequestId};

/// The name of the generator's threads, by which its CPU time is separated from the cluster's. To
/// count the runtime's threads, too, give them this name.
pub const THREAD: &str = "isonomy-load";

/// The longest sleep of the schedule before it checks whether it must stop.
const NAP: Duration = Duration::from_millis(20);

/// Answers commands.
pub trait Endpoint: Send + Sync + 'static {
    /// Answers a command, or says why there is no answer.
    fn ask(
        &self,
        command: KvCommand,
        manner: Manner,
    ) -> impl Future<Output = Result<KvOutput, Trouble>> + Send;
}

/// How a command is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Manner {
    /// To be executed once, however often it is sent under this id. Its client retries no earlier
    /// request.
    Once(RequestId),
    /// As a read.
    Read(Consistency),
}

/// Why a command has no answer, as far as the client needs to know.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Trouble {
    /// Retry here a little later.
    #[error("the replica has too much waiting")]
    Busy,
    /// Ask another endpoint.
    #[error("the replica has stopped, or does not answer")]
    Gone,
    /// No endpoint will ever answer this, for this reason.
    #[error("{0}")]
    Failed(String),
}

/// What starts the next operation.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Pace {
    /// The previous answer.
    Closed {
        /// Clients at each endpoint.
        clients: u32,
        /// The pause between an answer and the next command.
        think: Duration,
    },
    /// A schedule.
    Open {
        /// Operations per second over all endpoints.
        rate: f64,
        /// How they are distributed.
        spread: ArrivalProcess,
        /// How many may be under way at one endpoint. As many again may wait, and their latency
        /// includes the wait; any further ones are dropped and counted.
        outstanding: u32,
    },
}

/// What clients do, and how much of it is recorded.
#[derive(Clone, PartialEq, Debug)]
pub struct Plan {
    /// The operations.
    pub workload: Workload,
    /// When they start.
    pub pace: Pace,
    /// The consistency of reads.
    pub reads: Consistency,
    /// How long one replica may take before another is asked.
    pub attempt: Duration,
    /// How long an operation may take in all before it fails.
    pub timeout: Duration,
    /// Operations started before this do not count.
    pub warm_up: Duration,
    /// How many operations are started after the warm-up, if there is a limit.
    pub count: Option<u64>,
    /// The approximate number of operations to record; see [`record`].
    pub record: usize,
    /// The one-way travel time from a client at the first site to a replica at the second, if the
    /// endpoints do not have it already.
    pub distance: Option<Vec<Vec<Duration>>>,
}

impl Plan {
    /// A closed loop of clients without pauses, which count from the start.
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

/// Running clients.
#[derive(Debug)]
pub struct Drive<E: Endpoint> {
    shared: Arc<RunShared<E>>,
    tasks: JoinSet<()>,
    schedule: Option<std::thread::JoinHandle<JoinSet<()>>>,
    /// When the clients were told to stop, and how many operations were answered by then.
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
    lanes: Vec<Lane>,
    start: Instant,
    stop: AtomicBool,
    /// Started operations that count.
    started: AtomicU64,
    /// Notified when all operations of a limited run have been started.
    exhausted: Notify,
    session_base: u64,
}

/// The results of a drive.
#[derive(Debug)]
pub struct Driven {
    /// Operations answered before the clients were told to stop, including the warm-up.
    pub answered: u64,
    /// Figures of the operations that count, by the endpoint of their client.
    pub figures: Vec<Figures>,
    /// Operations whose intended start was after the warm-up, whatever happened to them.
    pub offered: u64,
    /// How many of these started more than [`LATE`] after the intended start.
    pub late: u64,
    /// Operations that were never started because too many were under way.
    pub dropped: u64,
    /// Operations without an answer at the end of the patience.
    pub unanswered: usize,
    /// When the last of them ended, or the patience did.
    pub ended: Duration,
    /// Figures since the last call of [`Drive::recent`], by endpoint.
    pub rest: Vec<Figures>,
    /// The first few error texts, and how often each occurred.
    pub errors: Vec<(String, u64)>,
    /// The recorded calls and answers.
    pub record: Record,
}

impl<E: Endpoint> Drive<E> {
    /// Starts the clients. Must be called within a tokio runtime. Sessions are numbered from
    /// `session_base`; each run on a cluster needs 2^32 numbers of its own.
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
        self.shared.book.answered.load(Ordering::Relaxed)
    }

    /// The number of operations that have failed so far.
    pub fn failed(&self) -> u64 {
        self.shared.book.failed.load(Ordering::Relaxed)
    }

    /// Whether all operations of a limited run have been started.
    pub fn is_exhausted(&self) -> bool {
        let started = self.shared.started.load(Ordering::Relaxed);
        self.shared.plan.count.is_some_and(|count| started >= count)
    }

    /// Waits until all operations of a limited run have been started.
    pub async fn exhausted(&self) {
        while !self.is_exhausted() {
            self.shared.exhausted.notified().await;
        }
    }

    /// Figures since the last call, by endpoint.
    pub fn recent(&self) -> Vec<Figures> {
        self.shared.book.take_recent()
    }

    /// Lets every client stop after its current operation. Returns when this was first called.
    pub fn stop(&self) -> Duration {
        let stopped = self.stopped.get_or_init(|| {
            self.shared.stop.store(true, Ordering::SeqCst);
            (self.elapsed(), self.answered())
        });
        stopped.0
    }

    /// The same, and then waits for them, at most for `patience`.
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
        // Late operations are cut off and stay open in the record.
        let _ = tokio::time::timeout(patience, all).await;
        let (ended, rest) = (self.elapsed(), self.recent());
        let (waiting, dropped): (Vec<usize>, Vec<u64>) =
            self.shared.lanes.iter().map(Lane::close).unzip();
        let unanswered =
            waiting.iter().sum::<usize>() + parts.iter().map(JoinSet::len).sum::<usize>();
        for part in &mut parts {
            part.shutdown().await;
        }
        let shared = Arc::into_inner(self.shared).expect("all tasks have ended");
        Driven {
            answered,
            figures: shared.book.figures(),
            offered: shared.started.load(Ordering::Relaxed),
            late: shared.book.late.load(Ordering::Relaxed),
            dropped: dropped.iter().sum(),
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

    /// Whether an operation with this intended start may still begin. If it counts, this counts it.
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

/// Starts operations when they are due, each with a free client of its site. It needs a thread of
/// its own, because the runtime's timers have a resolution of only a millisecond.
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
        if let Some(client) = lane.take(due, outstanding, |it| Client::new(shared, it, place)) {
            tasks.spawn_on(client.ask_when_due(Arc::clone(shared), due), runtime);
        }
        while tasks.try_join_next().is_some() {}
    }
}
