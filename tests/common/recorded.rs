//! Clients that ask a cluster of processes all the time, record every operation, and check in the
//! end that nothing that was answered is lost or was done twice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use isonomy::client::{Client, ClientConfig, ClientError};
use isonomy::internals::sim::history::{Answer, Call, Outcome, Recorder};
use isonomy::internals::sim::linearizability::{BUDGET, Verdict, check};
use isonomy::machine::{Kv, KvCommand, KvOutput};
use isonomy::types::Time;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::task::JoinHandle;

use super::processes::{Cluster, connect};
use super::{bytes, get, put};

/// Clients that ask all the time, each one command after the other.
const CLIENTS: u64 = 12;
/// Keys that all clients share.
const SHARED_KEYS: u32 = 6;

/// A load that records every operation and its outcome.
pub struct Load {
    asking: Arc<Asking>,
    clients: Vec<JoinHandle<()>>,
}

struct Asking {
    recorder: Recorder,
    start: Instant,
    stop: AtomicBool,
    answered: AtomicU64,
    rejected: AtomicU64,
    /// Why some were.
    rejections: Mutex<BTreeSet<String>>,
    unknown: AtomicU64,
    /// By client: the newest number known to be stored under the client's own key, and the newest
    /// number it asked to store.
    own: Mutex<BTreeMap<u64, (u64, u64)>>,
    /// Stands before the name of every key: no other load may use it.
    prefix: String,
    /// How long a client waits after each operation.
    pause: Duration,
}

impl Load {
    /// Starts clients that know these replicas.
    pub async fn start(cluster: &Cluster, replicas: impl IntoIterator<Item = usize>) -> Load {
        Load::start_with(cluster.client_config(replicas), "", Duration::ZERO).await
    }

    /// Starts clients with this configuration, whose keys begin with `prefix`, and that wait for
    /// `pause` after each operation.
    pub async fn start_with(config: ClientConfig, prefix: &str, pause: Duration) -> Load {
        let asking = Arc::new(Asking {
            recorder: Recorder::new(),
            start: Instant::now(),
            stop: AtomicBool::new(false),
            answered: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            rejections: Mutex::default(),
            unknown: AtomicU64::new(0),
            own: Mutex::default(),
            prefix: prefix.to_owned(),
            pause,
        });
        let mut clients = Vec::new();
        for number in 1..=CLIENTS {
            let client = connect(config.clone()).await;
            clients.push(tokio::spawn(Arc::clone(&asking).run(client, number)));
        }
        Load { asking, clients }
    }

    /// How many operations were answered so far.
    pub fn answered(&self) -> u64 {
        self.asking.answered.load(Ordering::Relaxed)
    }

    /// Why operations were rejected.
    pub fn rejections(&self) -> BTreeSet<String> {
        self.asking.rejections.lock().unwrap().clone()
    }

    /// Stops the clients and checks, with one more client, that no acknowledged write is lost and
    /// that the recorded history is linearizable. Returns how many operations were answered, and of
    /// how many the outcome is unknown.
    pub async fn end(self, last: &Client<Kv>) -> (u64, u64) {
        self.asking.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await.unwrap();
        }
        self.asking.judge(last).await;
        let counts = [&self.asking.answered, &self.asking.unknown];
        let [answered, unknown] = counts.map(|count| count.load(Ordering::Relaxed));
        (answered, unknown)
    }
}

impl Asking {
    fn now(&self) -> Time {
        Time::ZERO + self.start.elapsed()
    }

    /// One recorded operation. Returns whether it was done; `None` if that is unknown.
    async fn ask(&self, client: &Client<Kv>, name: u64, command: KvCommand) -> Option<bool> {
        let (key, call) = Call::of(&command).expect("a command of one key");
        let asked = self.recorder.call(self.now(), name, key, call);
        let answer = client.execute(command).await;
        let (outcome, done, count) = match answer {
            Ok(output) => {
                let answer = Answer::of(output).expect("an answer for one key");
                (Outcome::Ok(answer), Some(true), &self.answered)
            }
            Err(ClientError::Rejected(why)) => {
                self.rejections.lock().unwrap().insert(why.to_string());
                (Outcome::Fail, Some(false), &self.rejected)
            }
            Err(_) => (Outcome::Info, None, &self.unknown),
        };
        self.recorder.answer(asked, self.now(), outcome);
        count.fetch_add(1, Ordering::Relaxed);
        done
    }

    /// Runs one client until it is told to stop.
    async fn run(self: Arc<Self>, client: Client<Kv>, number: u64) {
        let mut rng = ChaCha8Rng::seed_from_u64(number);
        let mut name = self.recorder.client();
        for count in 1.. {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let unique = format!("{number}/{count}");
            let key = self.shared_key(rng.random_range(0..SHARED_KEYS));
            let own = self.own_key(number);
            let done = match rng.random_range(0..8) {
                0 | 1 => self.ask(&client, name, get(&key)).await,
                2 => {
                    let cas =
                        KvCommand::Cas { key: bytes(&key), expected: None, value: bytes(&unique) };
                    self.ask(&client, name, cas).await
                }
                3 => self.ask(&client, name, KvCommand::Del { key: bytes(&key) }).await,
                4 | 5 => self.ask(&client, name, put(&key, &unique)).await,
                _ => {
                    self.note(number, |(_, asked)| *asked = count);
                    let done = self.ask(&client, name, put(&own, &count.to_string())).await;
                    if done == Some(true) {
                        self.note(number, |(told, _)| *told = count);
                    }
                    done
                }
            };
            if done.is_none() {
                name = self.recorder.client();
            }
            if !self.pause.is_zero() {
                tokio::time::sleep(self.pause).await;
            }
        }
    }

    /// The name of a key that all clients share.
    fn shared_key(&self, key: u32) -> String {
        format!("{}shared{key}", self.prefix)
    }

    /// The name of a client's own key.
    fn own_key(&self, client: u64) -> String {
        format!("{}own{client}", self.prefix)
    }

    fn note(&self, client: u64, change: impl FnOnce(&mut (u64, u64))) {
        change(self.own.lock().unwrap().entry(client).or_default());
    }

    /// Checks at the end that no acknowledged write is lost, and that the recorded history is
    /// linearizable.
    async fn judge(&self, client: &Client<Kv>) {
        let name = self.recorder.client();
        for key in 0..SHARED_KEYS {
            assert_eq!(self.ask(client, name, get(&self.shared_key(key))).await, Some(true));
        }
        let own = self.own.lock().unwrap().clone();
        for (number, (told, asked)) in own {
            let key = self.own_key(number);
            let KvOutput::Value(found) = client.execute(get(&key)).await.unwrap() else {
                panic!("a get answers with a value")
            };
            let found = found.map_or(0, |found| {
                String::from_utf8(found.to_vec()).unwrap().parse::<u64>().unwrap()
            });
            assert!((told..=asked).contains(&found), "{key}: {told} was acknowledged, {found} is");
            assert_eq!(self.ask(client, name, get(&key)).await, Some(true));
        }
        let history = self.recorder.history();
        match check(&history, BUDGET) {
            Verdict::Linearizable => {}
            verdict => panic!("{} operations: {verdict:?}", history.len()),
        }
    }
}
