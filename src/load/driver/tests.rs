//! Clients with several doors to one store, and a server with given response times.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::*;
use crate::machine::{Kv, StateMachine};
use crate::node::Latency;
use crate::sim::linearizability::{BUDGET, Verdict, check};

/// One store behind several doors, each with a fault of its own.
#[derive(Clone)]
struct Door {
    store: Arc<Mutex<(Kv, HashMap<RequestId, KvOutput>)>>,
    fault: Fault,
}

#[derive(Clone)]
enum Fault {
    Good,
    /// Every third request is executed but its answer is lost, with this error.
    Forgetful(Trouble),
    Closed,
    Broken,
    Silent,
    /// Every `get` is answered with no value.
    Lying,
}

impl Endpoint for Door {
    async fn ask(&self, command: KvCommand, manner: Manner) -> Result<KvOutput, Trouble> {
        self.enter().await?;
        let mut store = lock(&self.store);
        let (kv, done) = &mut *store;
        let Manner::Once(request) = manner else {
            return match self.fault {
                Fault::Lying => Ok(KvOutput::Value(None)),
                _ => Ok(kv.apply(command)),
            };
        };
        let known = done.contains_key(&request);
        let output = done.entry(request).or_insert_with(|| kv.apply(command)).clone();
        match &self.fault {
            Fault::Forgetful(trouble) if !known && request.sequence.is_multiple_of(3) => {
                Err(trouble.clone())
            }
            _ => Ok(output),
        }
    }
}

impl Door {
    async fn enter(&self) -> Result<(), Trouble> {
        tokio::task::yield_now().await;
        match self.fault {
            Fault::Closed => Err(Trouble::Gone),
            Fault::Broken => Err(Trouble::Failed("it is broken".into())),
            Fault::Silent => std::future::pending().await,
            _ => Ok(()),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn drive(faults: &[Fault]) -> Driven {
    let store = Arc::default();
    let door = |fault: &Fault| Door { store: Arc::clone(&store), fault: fault.clone() };
    let plan = Plan::closed(Workload::demo(50.0, 30.0, 16, 1), 4, 100_000);
    let drive = Drive::start(&plan, faults.iter().map(door).collect(), 1);
    while drive.answered() < 2_000 && drive.elapsed() < Duration::from_secs(20) {
        if drive.failed() > 0 {
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

fn counts(driven: &Driven) -> Vec<u64> {
    driven.figures.iter().map(|figures| figures.latency().count()).collect()
}

#[tokio::test]
async fn clients_ask_and_answers_are_counted() {
    let driven = drive(&[Fault::Good, Fault::Good]).await;
    let counts: u64 = counts(&driven).iter().sum();
    assert!(driven.answered >= 2_000 && counts >= driven.answered);
    assert_eq!((driven.unanswered, driven.errors.len()), (0, 0));
    assert_eq!((driven.offered, driven.dropped), (counts, 0));
    assert_eq!(verdict(&driven), Verdict::Linearizable);
}

#[tokio::test]
async fn a_retry_goes_under_the_same_id_wherever_it_goes() {
    let forgetful = |trouble| Fault::Forgetful(trouble);
    let faults = [forgetful(Trouble::Gone), Fault::Closed, forgetful(Trouble::Busy)];
    let driven = drive(&faults).await;
    assert!(
        counts(&driven).iter().all(|count| *count > 0),
        "clients of a closed door go elsewhere"
    );
    assert_eq!(verdict(&driven), Verdict::Linearizable);
}

#[tokio::test]
async fn what_nobody_answers_stays_open() {
    let driven = drive(&[Fault::Good, Fault::Silent]).await;
    assert_eq!(driven.unanswered, 4);
    let finished = driven.record.finish();
    let open = finished.pieces().flatten().filter(|operation| operation.returned.is_none());
    assert_eq!(open.count(), 4);
}

#[tokio::test]
async fn what_fails_is_counted_in_its_words() {
    let driven = drive(&[Fault::Broken]).await;
    let [(words, count)] = &driven.errors[..] else { panic!("{:?}", driven.errors) };
    assert_eq!((words.as_str(), *count), ("it is broken", driven.figures[0].errors));
}

#[tokio::test]
async fn a_lie_is_found_out() {
    let driven = drive(&[Fault::Good, Fault::Lying]).await;
    assert!(matches!(verdict(&driven), Verdict::Violation(_)));
}

/// A server with given response times, used in turn, that pauses for all clients at a given time.
struct Server {
    took: Vec<Duration>,
    asked: AtomicU64,
    start: Instant,
    /// The start and the end of the pause.
    stall: (Duration, Duration),
}

impl Server {
    fn new(took: Vec<Duration>, stall: (Duration, Duration)) -> Server {
        Server { took, asked: AtomicU64::new(0), start: Instant::now(), stall }
    }
}

impl Endpoint for Arc<Server> {
    async fn ask(&self, _: KvCommand, _: Manner) -> Result<KvOutput, Trouble> {
        let number = self.asked.fetch_add(1, Ordering::Relaxed);
        let took = self.took[usize::try_from(number).expect("few") % self.took.len()];
        let mut done = self.start.elapsed() + took;
        let (from, until) = self.stall;
        if (from..until).contains(&done) {
            done = until;
        }
        tokio::time::sleep(done.saturating_sub(self.start.elapsed())).await;
        Ok(KvOutput::Done)
    }
}

/// Runs a load on one server.
async fn load(server: Server, plan: &Plan, seconds: f64) -> Driven {
    let drive = Drive::start(plan, vec![Arc::new(server)], 0);
    while drive.elapsed().as_secs_f64() < seconds && !drive.is_exhausted() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drive.finish(Duration::from_secs(20)).await
}

fn open(rate: f64, spread: ArrivalProcess, outstanding: u32) -> Plan {
    let workload = Workload { checked: false, ..Workload::default() };
    let pace = Pace::Open { rate, spread, outstanding };
    Plan { pace, ..Plan::closed(workload, 1, 0) }
}

/// Checks that a quantile is right, within the histogram's precision and the delays of timers and a
/// busy machine.
#[track_caller]
fn near(latency: &Latency, share: f64, wanted_ms: f64, slack_ms: f64) {
    let found = latency.quantile(share).as_secs_f64() * 1e3;
    let least = wanted_ms * 0.999 - 0.001;
    assert!((least..wanted_ms + slack_ms).contains(&found), "{share}: {found} for {wanted_ms}");
}

const NO_STALL: (Duration, Duration) = (Duration::ZERO, Duration::ZERO);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn percentiles_are_those_of_the_server() {
    // Of a hundred answers, 90 take 50 ms, nine take 200 ms, and one takes a second.
    let took = |index| match index {
        0..90 => 50,
        90..99 => 200,
        _ => 1_000,
    };
    let took = (0..100).map(|index| Duration::from_millis(took(index))).collect();
    let mut plan = open(1_000.0, ArrivalProcess::Constant, 2_000);
    plan.count = Some(2_000);
    let driven = load(Server::new(took, NO_STALL), &plan, 30.0).await;
    let latency = driven.figures[0].latency();
    assert_eq!((latency.count(), driven.offered, driven.unanswered), (2_000, 2_000, 0));
    for (share, wanted) in
        [(0.5, 50.0), (0.895, 50.0), (0.92, 200.0), (0.985, 200.0), (0.995, 1e3), (1.0, 1e3)]
    {
        near(&latency, share, wanted, 45.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stall_is_charged_to_all_who_would_have_asked() {
    // Half of the time is a pause. So in any schedule every second operation waits, half a second
    // in the middle. With 300 clients some of these could not even be sent. Latency from the actual
    // start would not show how long they waited.
    let stall = (Duration::from_millis(500), Duration::from_millis(1_500));
    for (spread, outstanding) in [(ArrivalProcess::Constant, 1_000), (ArrivalProcess::Poisson, 300)]
    {
        let plan = open(400.0, spread, outstanding);
        let server = Server::new(vec![Duration::from_millis(1)], stall);
        let driven = load(server, &plan, 2.0).await;
        let latency = driven.figures[0].latency();
        assert_eq!((driven.dropped, driven.unanswered), (0, 0), "{spread:?}");
        near(&latency, 1.0, 960.0, 200.0);
        near(&latency, 0.99, 940.0, 200.0);
        near(&latency, 0.75, 440.0, 160.0);
        assert!(latency.quantile(0.4) < Duration::from_millis(100), "{spread:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_a_client_is_charged_and_what_is_too_much_is_dropped() {
    // One client with 20 ms per answer, asked 100 times a second: twice as much as it can do.
    let plan = open(100.0, ArrivalProcess::Constant, 1);
    let server = Server::new(vec![Duration::from_millis(20)], NO_STALL);
    let driven = load(server, &plan, 2.0).await;
    let figures = &driven.figures[0];
    let answered = figures.latency().count();
    assert!((190..=201).contains(&driven.offered), "{driven:?}");
    assert!((70..=101).contains(&answered), "{answered}");
    assert_eq!(answered + driven.dropped + driven.unanswered as u64, driven.offered);
    assert!(driven.late > answered / 2, "{} late of {answered}", driven.late);
    near(&figures.lateness, 0.5, 5.0, 60.0);
    near(&figures.latency(), 0.5, 25.0, 60.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_warm_up_does_not_count_and_neither_does_a_timeout_as_an_answer() {
    let mut plan = open(200.0, ArrivalProcess::Poisson, 100);
    plan.warm_up = Duration::from_millis(500);
    plan.timeout = Duration::from_millis(100);
    // It is slow until the warm-up ends; then every tenth answer is too slow.
    let mut took = vec![Duration::from_millis(2); 10];
    took[9] = Duration::from_secs(1);
    let server = Server::new(took, (Duration::ZERO, Duration::from_millis(300)));
    let driven = load(server, &plan, 2.5).await;
    let figures = &driven.figures[0];
    let (answered, errors) = (figures.latency().count(), figures.errors);
    assert!((300..500).contains(&driven.offered), "{driven:?}");
    assert_eq!(answered + errors, driven.offered);
    assert!((20..80).contains(&errors), "{errors}");
    assert!(driven.errors[0].0.contains("no answer within 100ms"), "{:?}", driven.errors);
    assert!(figures.latency().max() < Duration::from_millis(100), "{:?}", figures.latency().max());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_a_closed_loop_think() {
    let workload = Workload { checked: false, ..Workload::default() };
    let mut plan = Plan::closed(workload, 10, 0);
    plan.pace = Pace::Closed { clients: 10, think: Duration::from_millis(30) };
    let driven = load(Server::new(vec![Duration::from_millis(20)], NO_STALL), &plan, 1.0).await;
    // Ten clients, each with a command every 50 ms.
    assert!((100..=210).contains(&driven.answered), "{}", driven.answered);
    near(&driven.figures[0].latency(), 0.5, 20.0, 20.0);
}
