//! Running replicas with real sockets and real certificates, several in one process.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::*;
use isonomy::machine::{Kv, KvCommand, KvOutput, RestoreError, StateMachine};
use isonomy::node::{
    Durability, Limits, Phase, Progress, ProposeError, Rejected, Standing, StartError, Unknown,
};
use isonomy::types::{
    Ballot, ClientId, Consistency, Footprint, InstanceId, MemberId, ReplicaId, RequestId, Timing,
};
use isonomy::{LocalCluster, Replica};

#[tokio::test]
async fn every_replica_leads_and_every_other_sees() {
    let cluster = LocalCluster::<Kv>::start(3).await.unwrap();
    for (writer, key) in (1..=3).zip(["a", "b", "c"]) {
        let done = cluster.replica(writer).propose(put(key, key)).await;
        assert_eq!(done, Ok(KvOutput::Done));
        for reader in 1..=3 {
            let seen = cluster.replica(reader).read(get(key), Consistency::Linearizable).await;
            assert_eq!(seen, Ok(value(key)), "written at {writer}, read at {reader}");
        }
    }
    assert_same(&cluster, 3).await;
    let metrics = cluster.replica(1).metrics().await.unwrap();
    assert_eq!((metrics.proposed, metrics.executed, metrics.repeated), (4, 12, 0));
    assert_eq!((metrics.commit.count(), metrics.execute.count()), (4, 4));
    assert_eq!((metrics.commands.total(), metrics.wrong_frames, metrics.overloaded), (4, 0, 0));
    assert!(metrics.frames_in > 0 && metrics.bytes_out > 0);
    cluster.shutdown().await;
    let last = cluster.replica(1).metrics().await.unwrap();
    assert_eq!(last.executed, 12, "the last figures stay");
    let late = cluster.replica(1).propose(get("a")).await;
    assert_eq!(late, Err(Rejected::Stopping.into()));
}

#[tokio::test]
async fn without_a_quorum_commands_are_turned_away_and_it_is_said_who_is_missing() {
    let patience = Duration::from_millis(500);
    let builder = LocalCluster::<Kv>::builder(3);
    let builder = builder.configure(move |replica| replica.propose_timeout(patience));
    let cluster = builder.start().await.unwrap();
    let one = cluster.replica(1);
    one.propose(put("a", "1")).await.unwrap();
    assert!(one.status().await.unwrap().core.unwrap().reach.has_quorum());
    cluster.crash(2);
    cluster.crash(3);
    // At first the replica cannot know that it has no quorum. The outcome of what it proposes then
    // stays unknown.
    let reach = loop {
        match one.propose(put("a", "2")).await {
            Err(ProposeError::Rejected(Rejected::NoQuorum(reach))) => break reach,
            Err(ProposeError::Unknown(_)) => {}
            other => panic!("nobody can decide it: {other:?}"),
        }
    };
    assert_eq!((reach.reachable(), reach.has_quorum()), (1, false));
    let said = reach.to_string();
    assert!(said.starts_with("no quorum: 1 of 3 reachable (r2 silent for "), "{said}");
    assert!(!one.status().await.unwrap().core.unwrap().reach.has_quorum());
    // Operations that need no quorum still work.
    assert_eq!(one.read(get("a"), Consistency::Local).await, Ok(value("1")));
}

#[tokio::test]
async fn one_replica_is_a_cluster() {
    let cluster = LocalCluster::<Kv>::start(1).await.unwrap();
    cluster.replica(1).propose(put("a", "1")).await.unwrap();
    assert_eq!(cluster.replica(1).propose(get("a")).await, Ok(value("1")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conflicting_commands_at_all_replicas_leave_one_state() {
    const EACH: u64 = 40;
    let cluster = LocalCluster::<Kv>::start(5).await.unwrap();
    let mut tasks = Vec::new();
    for replica in cluster.replicas() {
        for _ in 0..2 {
            let replica = replica.clone();
            tasks.push(tokio::spawn(async move {
                for _ in 0..EACH {
                    increment(&replica, "hot").await;
                }
            }));
        }
    }
    for task in tasks {
        task.await.unwrap();
    }
    let total = value(&(EACH * 10).to_string());
    assert_eq!(cluster.replica(3).propose(get("hot")).await, Ok(total), "no update is lost");
    assert_same(&cluster, 5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rest_goes_on_when_one_crashes() {
    let cluster = LocalCluster::<Kv>::builder(3).timing(hasty()).start().await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let mut tasks = Vec::new();
    for replica in cluster.replicas() {
        let (replica, stop) = (replica.clone(), Arc::clone(&stop));
        tasks.push(tokio::spawn(async move {
            let (mut done, mut failed) = (0u64, 0u64);
            while !stop.load(Ordering::Relaxed) && failed == 0 {
                // Half of the commands use one key, so that unfinished commands of the crashed
                // replica get in their way.
                let key = if done % 2 == 0 { "hot".to_owned() } else { format!("k{done}") };
                match replica.propose(put(&key, "v")).await {
                    Ok(_) => done += 1,
                    Err(_) => failed += 1,
                }
            }
            (done, failed)
        }));
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    cluster.crash(3);
    assert!(matches!(
        cluster.replica(3).propose(get("hot")).await,
        Err(ProposeError::Rejected(Rejected::Stopping) | ProposeError::Unknown(Unknown::Stopped))
    ));
    tokio::time::sleep(Duration::from_millis(1500)).await;
    stop.store(true, Ordering::Relaxed);
    let mut results = Vec::new();
    for task in tasks {
        results.push(task.await.unwrap());
    }
    assert_eq!((results[0].1, results[1].1), (0, 0), "the live ones answer everything");
    assert_eq!(results[2].1, 1, "the crashed one's caller is told");
    for survivor in 1..=2 {
        let done = cluster.replica(survivor).propose(put("hot", "after")).await;
        assert_eq!(done, Ok(KvOutput::Done));
    }
    assert_same(&cluster, 2).await;
}

#[tokio::test]
async fn a_retry_at_another_replica_executes_once() {
    let cluster = LocalCluster::<Kv>::start(3).await.unwrap();
    let (one, two) = (cluster.replica(1), cluster.replica(2));
    let request = RequestId::new(ClientId(77), 1);
    assert_eq!(one.submit(request, 1, create("a", "x")).await, Ok(KvOutput::Swapped));
    assert_eq!(two.submit(request, 1, create("a", "x")).await, Ok(KvOutput::Swapped));
    // Submit the command at two replicas at the same time, and twice at one of them.
    let request = RequestId::new(ClientId(77), 2);
    let answers = tokio::join!(
        one.submit(request, 1, create("b", "x")),
        two.submit(request, 1, create("b", "x")),
        two.submit(request, 1, create("b", "x")),
    );
    let swapped = Ok(KvOutput::Swapped);
    assert_eq!(answers, (swapped.clone(), swapped.clone(), swapped));
    assert_same(&cluster, 3).await;
}

#[tokio::test]
async fn a_session_goes_on_at_another_replica_after_a_crash() {
    let build = LocalCluster::<Kv>::builder(3).timing(hasty());
    let cluster = build.start().await.unwrap();
    let session = cluster.replica(1).session(ClientId(5));
    assert_eq!(session.propose(create("a", "1")).await, Ok(KvOutput::Swapped));
    let pending = tokio::spawn({
        let session = session.clone();
        async move { session.propose(create("b", "1")).await }
    });
    tokio::task::yield_now().await;
    cluster.crash(1);
    let elsewhere = session.at(cluster.replica(2));
    match pending.await.unwrap() {
        Ok(output) => assert_eq!(output, KvOutput::Swapped),
        Err(unanswered) => {
            assert!(!matches!(unanswered.error, ProposeError::Fatal(_)), "{unanswered}");
            let sequence = match unanswered.error {
                ProposeError::Rejected(_) => None,
                _ => Some(unanswered.sequence),
            };
            let answer = match sequence {
                Some(sequence) => elsewhere.retry(sequence, create("b", "1")).await,
                None => elsewhere.propose(create("b", "1")).await,
            };
            assert_eq!(answer, Ok(KvOutput::Swapped), "once, whether or not the first one counted");
        }
    }
    let finished = elsewhere.retry(1, create("a", "1")).await.unwrap_err();
    assert_eq!(finished.error, Rejected::Finished(1).into());
    assert_eq!(elsewhere.propose(get("b")).await, Ok(value("1")));
}

#[tokio::test]
async fn local_reads_answer_from_here_and_refuse_writes() {
    let cluster = LocalCluster::<Kv>::start(3).await.unwrap();
    let replica = cluster.replica(1);
    replica.propose(put("a", "1")).await.unwrap();
    for consistency in [Consistency::Local, Consistency::Linearizable] {
        assert_eq!(replica.read(get("a"), consistency).await, Ok(value("1")));
        let refused = replica.read(put("a", "2"), consistency).await;
        assert_eq!(refused, Err(Rejected::Writes.into()));
    }
    assert_eq!(replica.propose(get("a")).await, Ok(value("1")), "nothing was written");
    // Without the others, this replica can still answer from its own state.
    cluster.crash(2);
    cluster.crash(3);
    assert_eq!(replica.read(get("a"), Consistency::Local).await, Ok(value("1")));
    assert_eq!(replica.metrics().await.unwrap().local_reads, 2);
}

#[tokio::test]
async fn without_a_majority_callers_learn_that_the_outcome_is_unknown() {
    let patience = Duration::from_millis(300);
    let build = LocalCluster::<Kv>::builder(3);
    let build = build.configure(move |replica| {
        replica.propose_timeout(patience).shutdown_patience(Duration::from_millis(100))
    });
    // No replica may be suspected meanwhile, however slow the machine is.
    let timing = Timing { suspect: Duration::from_secs(600), ..Timing::default() };
    let cluster = build.timing(timing).start().await.unwrap();
    cluster.crash(2);
    cluster.crash(3);
    let replica = cluster.replica(1);
    let answer = replica.propose(put("a", "1")).await;
    assert_eq!(answer, Err(Unknown::TimedOut(patience).into()));
    let instance = InstanceId::new(ReplicaId::new(1).unwrap(), 1);
    let explained = replica.explain(instance).await.unwrap();
    let words = explained.to_string();
    assert!(words.starts_with("r1.1: PreAccepted at ballot b0"), "{words}");
    let Standing::Known(Progress::EPaxos { phase, ballot, deps, recovering, .. }) =
        &explained.standing
    else {
        panic!("{words}");
    };
    assert_eq!((*phase, *ballot, *recovering), (Phase::PreAccepted, Ballot::OWNER, false));
    assert_eq!(deps.as_slots(), [0, 0, 0]);
    let never = InstanceId::new(ReplicaId::new(3).unwrap(), 9);
    assert_eq!(replica.explain(never).await.unwrap().standing, Standing::Unheard);
    let status = replica.status().await.unwrap();
    assert_eq!((status.under_way, status.core.unwrap().in_flight, status.replicas), (0, 1, 3));
    // A shutdown does not wait for it either.
    let (left, ()) = tokio::join!(replica.propose(put("b", "1")), async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        replica.shutdown().await;
    });
    assert_eq!(left, Err(Unknown::Stopped.into()));
}

#[tokio::test]
async fn too_much_at_once_is_turned_away_before_it_is_proposed() {
    let limits = Limits { commands: 10, ..Limits::default() };
    let cluster = LocalCluster::<Kv>::builder(3).limits(limits).start().await.unwrap();
    let replica = cluster.replica(1);
    let all: Vec<_> = (0..50).map(|i| replica.propose(create(&format!("k{i}"), "v"))).collect();
    let answers = futures_join(all).await;
    let done = answers.iter().filter(|answer| **answer == Ok(KvOutput::Swapped)).count();
    let overloaded = Err(Rejected::Overloaded.into());
    let turned_away = answers.iter().filter(|answer| **answer == overloaded).count();
    assert!(done >= 10 && done + turned_away == 50 && turned_away > 0, "{done} {turned_away}");
    assert_eq!(replica.metrics().await.unwrap().overloaded, turned_away as u64);
    // The commands that were turned away had no effect.
    let keys = (0..50).map(|i| bytes(format!("k{i}"))).collect();
    let KvOutput::Values(values) = replica.propose(KvCommand::GetMany { keys }).await.unwrap()
    else {
        panic!("many values")
    };
    assert_eq!(values.iter().flatten().count(), done);
}

/// Polls all these futures, in order, until all are done.
async fn futures_join<T>(futures: Vec<impl Future<Output = T>>) -> Vec<T> {
    let mut futures: Vec<_> = futures.into_iter().map(Box::pin).collect();
    let mut done: Vec<Option<T>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(move |context| {
        for (future, done) in futures.iter_mut().zip(&mut done) {
            if done.is_none()
                && let std::task::Poll::Ready(value) = future.as_mut().poll(context)
            {
                *done = Some(value);
            }
        }
        if done.iter().all(Option::is_some) {
            std::task::Poll::Ready(done.iter_mut().filter_map(Option::take).collect())
        } else {
            std::task::Poll::Pending
        }
    })
    .await
}

#[tokio::test]
async fn what_peers_could_not_take_is_refused() {
    let limits = Limits { command_bytes: 1000, ..Limits::default() };
    let cluster = LocalCluster::<Kv>::builder(1).limits(limits).start().await.unwrap();
    let long = cluster.replica(1).propose(put("a", &"x".repeat(1000))).await;
    let Err(ProposeError::Rejected(Rejected::TooLarge { bytes: found, limit: 1000 })) = long else {
        panic!("{long:?}")
    };
    assert!(found > 1000);
}

#[tokio::test]
async fn a_shutdown_answers_what_is_under_way() {
    let cluster = LocalCluster::<Kv>::start(3).await.unwrap();
    let replica = cluster.replica(1).clone();
    let all: Vec<_> = (0..200)
        .map(|i| {
            let replica = replica.clone();
            tokio::spawn(async move { replica.propose(put(&format!("k{i}"), "v")).await })
        })
        .collect();
    tokio::task::yield_now().await;
    replica.shutdown().await;
    let mut done = 0;
    for answer in all {
        match answer.await.unwrap() {
            Ok(output) => {
                assert_eq!(output, KvOutput::Done);
                done += 1;
            }
            Err(why) => assert_eq!(why, Rejected::Stopping.into(), "nobody is left in doubt"),
        }
    }
    assert!(done > 0);
    // The other replicas have all the commands, and keep working.
    let keys = (0..200).map(|i| bytes(format!("k{i}"))).collect();
    let seen = cluster.replica(2).propose(KvCommand::GetMany { keys }).await.unwrap();
    let KvOutput::Values(values) = seen else { panic!("many values") };
    assert_eq!(values.iter().flatten().count(), done);
}

#[test]
fn the_handle_needs_no_runtime_and_the_last_one_ends_the_replica() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let cluster = runtime.block_on(LocalCluster::<Kv>::start(3)).unwrap();
    let replica = cluster.replica(1).clone();
    drop(runtime);
    let addr = replica.local_addr();
    assert_eq!(block_on(replica.propose(put("a", "1"))), Ok(KvOutput::Done));
    drop(cluster);
    // There is no majority without the others, but this replica still answers local reads.
    assert_eq!(block_on(replica.read(get("a"), Consistency::Local)), Ok(value("1")));
    drop(replica);
    let free = || std::net::UdpSocket::bind(addr).is_ok();
    let start = std::time::Instant::now();
    while !free() {
        assert!(start.elapsed() < PATIENCE, "the replica's socket is still there");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// An executor that does not use tokio.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut std::task::Context::from_waker(&waker)) {
            std::task::Poll::Ready(value) => return value,
            std::task::Poll::Pending => std::thread::park(),
        }
    }
}

/// A machine that panics at one command. If it has a channel, it waits for a message before it
/// applies a command.
struct Gated(Option<Arc<Mutex<Receiver<()>>>>);

impl StateMachine for Gated {
    type Command = u32;
    type Output = u32;

    fn footprint(command: &u32) -> Footprint {
        Footprint::write(&command.to_le_bytes())
    }

    fn apply(&mut self, command: u32) -> u32 {
        assert!(command != u32::MAX, "a bug in the state machine");
        if let Some(gate) = &self.0 {
            // An error means that the sender is gone: go on.
            let _ = gate.lock().unwrap().recv();
        }
        command
    }

    fn snapshot(&self) -> Vec<u8> {
        Vec::new()
    }

    fn restore(_: &[u8]) -> Result<Gated, RestoreError> {
        Ok(Gated(None))
    }
}

#[tokio::test]
async fn a_slow_state_machine_holds_up_its_own_callers_and_nobody_else() {
    let (go, gate): (Sender<()>, Receiver<()>) = channel();
    let gate = Arc::new(Mutex::new(gate));
    let limits = Limits { unapplied: 4, commands: 5000, ..Limits::default() };
    let build = LocalCluster::of(3, move |id| Gated((id.number() == 1).then(|| Arc::clone(&gate))));
    let cluster = build.limits(limits).start().await.unwrap();
    let slow = cluster.replica(1);
    // Far more steps than the queue in front of the apply thread holds.
    for command in 0..3000 {
        assert_eq!(cluster.replica(2).propose(command).await, Ok(command));
    }
    let behind = slow.status().await.unwrap();
    assert!(behind.unapplied > 0, "{behind:?}");
    let mine = slow.propose(1_000_000);
    let mine = tokio::time::timeout(Duration::from_millis(50), mine);
    assert!(mine.await.is_err(), "it waits for its turn");
    assert_eq!(cluster.replica(3).propose(7).await, Ok(7), "the others don't");
    drop(go);
    // It heard nobody while it was behind, so it may take the others for gone at first.
    eventually("it goes on", async || match slow.propose(1_000_001).await {
        Err(ProposeError::Rejected(Rejected::NoQuorum(_))) => false,
        answer => answer == Ok(1_000_001),
    })
    .await;
    let digests = cluster.digests().await.unwrap();
    assert_eq!(digests.len(), 3);
    assert!(digests.values().all(|digest| *digest == digests[&slow.id()]));
}

#[tokio::test]
async fn a_panic_of_the_state_machine_fences_the_replica() {
    let cluster = LocalCluster::of(1, |_| Gated(None)).start().await.unwrap();
    let replica = cluster.replica(1);
    assert_eq!(replica.propose(1).await, Ok(1));
    let request = RequestId::new(ClientId(0x1f), 1);
    let digest = xxhash_rust::xxh3::xxh3_64(&isonomy::machine::encode(&u32::MAX).unwrap());
    let fault = format!(
        "the state machine panicked at request c1f#1 in instance r1.2, a payload of 5 bytes with \
         XXH3-64 {digest:016x}: a bug in the state machine"
    );
    let fatal = Err(ProposeError::Fatal(fault.clone()));
    let (bad, other) =
        tokio::join!(replica.submit(request, 1, u32::MAX), replica.submit(request, 1, u32::MAX));
    assert_eq!((bad, other), (fatal.clone(), fatal.clone()));
    assert_eq!(replica.propose(2).await, fatal, "whoever comes later is told the same");
    replica.wait_stopped().await;
    assert_eq!(replica.fault().map(|it| it.to_string()), Some(fault));
    assert_eq!(replica.status().await.map(|status| status.id), None);
}

#[tokio::test]
async fn a_configuration_that_cannot_work_is_refused_in_words() {
    let tls = || {
        let authority = isonomy::network::Authority::new("c").unwrap();
        authority.issue_replica(MemberId::new(1).unwrap()).unwrap().credentials().unwrap()
    };
    let addr: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let durable = || Replica::builder(Kv::new()).cluster("c");
    let new = || durable().durability(Durability::Memory);
    let said = |error: Result<Replica<Kv>, StartError>| error.unwrap_err().to_string();
    assert_eq!(said(new().tls(tls()).start().await), "`id` has to be set");
    assert_eq!(said(new().id(1).start().await), "`tls` has to be set");
    let nowhere = new().id(1).tls(tls()).peers([(2, addr)]).start().await;
    assert_eq!(
        said(nowhere),
        "replica 2 at 127.0.0.1:0 has port 0, which nobody can be reached at"
    );
    let limits = Limits { commands: 0, ..Limits::default() };
    let zero = new().id(1).tls(tls()).limits(limits).start().await;
    assert_eq!(said(zero), "limits: `commands` must not be 0: no command would be let in");
    let other = new().cluster("d").id(1).tls(tls()).start().await;
    assert!(said(other).contains("r1.d"), "the certificate is another cluster's");
    let nowhere = said(durable().id(1).tls(tls()).start().await);
    assert_eq!(
        nowhere,
        "`data_dir` has to be set for `Durability::Fsync`; `Durability::Memory` needs none"
    );
    let unused = said(new().id(1).tls(tls()).data_dir("nowhere").start().await);
    assert!(unused.contains("`data_dir` is set, but"), "{unused}");
    assert!(!std::path::Path::new("nowhere").exists());
    let fine = new().id(1).tls(tls()).start().await.unwrap();
    assert_eq!(fine.propose(put("a", "1")).await, Ok(KvOutput::Done));
}
