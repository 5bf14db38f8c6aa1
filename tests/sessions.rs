//! Sessions of a running cluster that end, and what their clients notice of it.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use std::time::Duration;

use common::*;
use isonomy::LocalCluster;
use isonomy::client::{Client, ClientConfig};
use isonomy::machine::{Kv, KvOutput};
use isonomy::node::Rejected;
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

    // Whoever goes on does so in a new session, without noticing.
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
