//! Sessions of a running cluster that end, and what their clients see of it.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use std::task::Poll;
use std::time::Duration;

use ::bytes::BytesMut;
use common::*;
use isonomy::LocalCluster;
use isonomy::client::{Client, ClientConfig};
use isonomy::internals::mesh::{self, ClientChannel, ClientEndpoint};
use isonomy::internals::wire::{
    Ask, CLIENT_VERSIONS, Outcome, Refusal, Request, decode_reply, encode_request,
};
use isonomy::machine::{Kv, KvCommand, KvOutput, encode};
use isonomy::node::{Limits, Rejected};
use isonomy::types::{ClientId, RequestId};

/// Sessions expire within twice this time.
const IDLE: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_session_ends_when_it_is_idle_and_nothing_of_it_happens_again() {
    let cluster = LocalCluster::<Kv>::of(3, |_| Kv::new());
    let cluster = cluster.configure(|replica| replica.session_idle(IDLE)).start().await.unwrap();
    let credentials = cluster.client_credentials("alice").unwrap();
    let name = LocalCluster::<Kv>::NAME;
    let config = ClientConfig::new(name, "alice", credentials, cluster.addrs());
    let client = Client::<Kv>::connect(config.clone()).await.unwrap();
    assert_eq!(client.execute(put("from", "afar")).await, Ok(KvOutput::Done));
    let first_session = client.session();

    let session = cluster.replica(1).session(ClientId(9));
    assert_eq!(session.propose(create("a", "1")).await.unwrap(), KvOutput::Swapped);
    let once = RequestId::new(ClientId(9), 1);
    let retry = |at| cluster.replica(at).submit(once, 0, create("a", "1"));
    assert_eq!(retry(2).await, Ok(KvOutput::Swapped), "the first result");
    let old = async || cluster.live().all(|replica| replica.era().number() >= 2);
    eventually("two eras end", old).await;
    for at in 1..=3 {
        let refused = retry(at).await;
        assert!(
            matches!(&refused, Err(error) if error.to_string().contains("expired")),
            "{refused:?}"
        );
    }

    // The client goes on in a new session without noticing.
    assert_eq!(client.execute(get("from")).await, Ok(value("afar")));
    assert_ne!(client.session(), first_session);
    assert_eq!(session.propose(get("a")).await.unwrap(), value("1"));
    assert_eq!(cluster.replica(3).propose(get("a")).await, Ok(value("1")));
    let late = Client::<Kv>::connect(config).await.unwrap();
    let began = late.session();
    assert_eq!(late.execute(get("a")).await, Ok(value("1")));
    assert_eq!(late.session(), began, "it was told which era it is");
    let reserved = RequestId::new(ClientId::CLUSTER, u64::MAX);
    let refused = cluster.replica(1).submit(reserved, 0, get("a")).await;
    assert!(matches!(refused, Err(error) if error == Rejected::BadCommand(
        "this session is the cluster's own".to_owned()).into()));
    assert_same(&cluster, 3).await;
    client.close().await;
    late.close().await;
    cluster.shutdown().await;
}

/// A client that uses one id for two commands, at two replicas at the same time, harms only itself.
/// Either both replicas execute both commands, or one command is refused because the other is under
/// way.
#[tokio::test]
async fn one_id_for_two_commands_leaves_the_replicas_alike() {
    let cluster = LocalCluster::<Kv>::start(3).await.unwrap();
    let (one, two) = (cluster.replica(1), cluster.replica(2));
    for round in 0..10 {
        let twins = (1..=20).map(|number| {
            let request = RequestId::new(ClientId(7), round * 20 + number);
            let key = move |side| format!("{side}{}", request.sequence);
            async move {
                tokio::join!(
                    one.submit(request, 0, create(&key("left"), "1")),
                    two.submit(request, 0, create(&key("right"), "2")),
                    one.submit(request, 0, create(&key("third"), "3")),
                )
            }
        });
        for (left, right, third) in futures(twins).await {
            assert_eq!((left, right), (Ok(KvOutput::Swapped), Ok(KvOutput::Swapped)));
            // Unless the first command was answered in between.
            assert!([Err(Rejected::InUse.into()), Ok(KvOutput::Swapped)].contains(&third));
        }
    }
    // Each command is answered with its own result.
    let again = RequestId::new(ClientId(7), 200);
    assert_eq!(two.submit(again, 0, create("left200", "1")).await, Ok(KvOutput::Swapped));
    assert_eq!(one.submit(again, 0, create("left1", "9")).await, Ok(mismatch("1")));
    assert_eq!(one.submit(again, 0, create("right200", "2")).await, Ok(KvOutput::Swapped));
    assert_same(&cluster, 3).await;
    for replica in cluster.replicas() {
        assert_eq!(replica.propose(get("left7")).await, Ok(value("1")));
        assert_eq!(replica.propose(get("right7")).await, Ok(value("2")));
    }
    cluster.shutdown().await;
}

fn mismatch(found: &str) -> KvOutput {
    KvOutput::Mismatch(Some(bytes(found)))
}

/// Runs all these futures at the same time.
async fn futures<F: Future>(all: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut all: Vec<_> = all.map(|one| (Some(Box::pin(one)), None)).collect();
    std::future::poll_fn(|context| {
        for (future, output) in &mut all {
            if let Some(polled) = future
                && let Poll::Ready(ready) = polled.as_mut().poll(context)
            {
                (*future, *output) = (None, Some(ready));
            }
        }
        if all.iter().all(|(future, _)| future.is_none()) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    all.into_iter().filter_map(|(_, output)| output).collect()
}

/// A channel with a certificate of this cluster, on which the test speaks the protocol itself.
async fn raw_client(cluster: &LocalCluster<Kv>, name: &str) -> ClientChannel {
    let credentials = cluster.client_credentials(name).unwrap();
    let mut config = mesh::ClientConfig::new(LocalCluster::<Kv>::NAME, name, credentials);
    config.local = Some("127.0.0.1:0".parse().unwrap());
    let endpoint = ClientEndpoint::bind(config).unwrap();
    let (id, addr) = cluster.addrs().into_iter().next().unwrap();
    endpoint.connect(addr, id).await.unwrap()
}

async fn ask(client: &mut ClientChannel, request: RequestId, ask: Ask) -> Outcome {
    let mut frame = BytesMut::new();
    encode_request(CLIENT_VERSIONS.newest, &Request { request, floor: 0, ask }, &mut frame);
    client.send(frame.freeze()).unwrap();
    let mut frames = Vec::new();
    loop {
        client.recv(&mut frames).await.unwrap();
        for frame in frames.drain(..) {
            let reply = decode_reply(frame).unwrap();
            if reply.greeting().is_none() {
                assert_eq!(reply.request, request);
                return reply.outcome;
            }
        }
    }
}

fn execute(command: &KvCommand) -> Ask {
    Ask::Execute(encode(command).unwrap())
}

#[tokio::test]
async fn a_certificate_uses_sessions_of_its_own_and_no_more_than_its_share() {
    let limits = Limits { client_sessions: 3, ..Limits::default() };
    let cluster = LocalCluster::<Kv>::builder(1).limits(limits).start().await.unwrap();
    let [mut eve, mut alice] =
        [raw_client(&cluster, "eve").await, raw_client(&cluster, "alice").await];
    let request = |name, session| RequestId::new(ClientId::of(name, session), 1);
    let done = Outcome::Output(encode(&KvOutput::Done).unwrap());

    assert_eq!(ask(&mut alice, request("alice", 1), execute(&put("a", "1"))).await, done);
    let read = Ask::ReadLinearizable(encode(&get("a")).unwrap());
    for foreign in [execute(&put("a", "2")), read] {
        let outcome = ask(&mut eve, request("alice", 1), foreign).await;
        let Outcome::Rejected(Refusal::BadRequest(why)) = outcome else { panic!("{outcome:?}") };
        assert!(why.contains("not one of client \"eve\""), "{why}");
    }
    for number in [1, 2, 3, 1] {
        let outcome = ask(&mut eve, request("eve", number), execute(&put("e", "1"))).await;
        assert_eq!(outcome, done, "session {number}");
    }
    for _ in 0..2 {
        let outcome = ask(&mut eve, request("eve", 4), execute(&put("e", "2"))).await;
        assert_eq!(outcome, Outcome::Rejected(Refusal::TooManySessions));
    }
    assert_eq!(ask(&mut alice, request("alice", 2), execute(&put("a", "3"))).await, done);
    assert_eq!(cluster.replica(1).propose(get("e")).await, Ok(value("1")));
    cluster.shutdown().await;
}

/// Clients that ask only once, several at a time and one after the other, share a few sessions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn brief_clients_share_sessions_and_lose_nothing() {
    let cluster = LocalCluster::<Kv>::builder(1).start().await.unwrap();
    let credentials = cluster.client_credentials("shell").unwrap();
    let name = LocalCluster::<Kv>::NAME;
    let mut config = ClientConfig::new(name, "shell", credentials, cluster.addrs());
    config.network.local = Some("127.0.0.1:0".parse().unwrap());
    config.brief = true;
    let once = |number: u64| {
        let config = config.clone();
        async move {
            let client = Client::<Kv>::connect(config).await.unwrap();
            let key = format!("k{number}");
            assert_eq!(client.execute(create(&key, "1")).await, Ok(KvOutput::Swapped));
            let session = client.session();
            client.close().await;
            session
        }
    };
    let mut sessions = futures((0..8).map(once)).await;
    for number in 8..20 {
        sessions.push(once(number).await);
    }
    assert!(sessions.iter().all(|session| session.belongs_to("shell")));
    assert!(sessions.iter().all(|session| session.0 & 0xff_ffff_ffff < 1 << 14));
    cluster.shutdown().await;
}
