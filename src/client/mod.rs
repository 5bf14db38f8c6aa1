//! A client of a cluster over QUIC. It sends typed commands to the nearest replica. If that does
//! not answer, it retries at another under the same session, so each command is executed once.
//! After `wire` and `mesh`, which carry its requests; `node` is the replicas' side.

mod backup;
mod effort;
mod error;
mod link;
mod links;
mod session;

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

pub use backup::NoBackup;
use effort::Effort;
pub use error::{ClientError, ConnectError, Rejected};
use link::{Forget, Link, NotSent};
use links::Links;
use session::{BRIEF, Session, Ticket};

// From a private room, because public signatures here use them.
pub use crate::wire::{Members, NoAnswer, Refusal, Role, ServerInfo};

use crate::machine::{MAX_ANSWER, StateMachine, decode, encode};
use crate::mesh::{self, ClientEndpoint, Credentials};
use crate::types::{Address, Change, ClientId, Consistency, Era, MemberId, Membership};
use crate::wire::{Ask, CLIENT_HEADER_BYTES, CLIENT_VERSIONS, Outcome, Request};

/// The length of a frame with the longest answer.
const LEAST_FRAME: usize = MAX_ANSWER + CLIENT_HEADER_BYTES;

/// The configuration of a client.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClientConfig {
    /// The cluster's name, the client's name and credentials, and the bounds of its connections.
    pub network: mesh::ClientConfig,
    /// The replicas' addresses; one is enough.
    pub replicas: BTreeMap<MemberId, Address>,
    /// Whether to go on with the members that these replicas tell of, which change while the
    /// cluster runs. Without it, no other replica than these is asked.
    pub follow: bool,
    /// The replica to prefer while it answers; otherwise the nearest. If it is an observer, it gets
    /// the local reads, and the members get everything else.
    pub prefer: Option<MemberId>,
    /// How long one replica may take to answer before another is asked. It may take longer while it
    /// answers earlier requests of this client.
    pub attempt: Duration,
    /// How long a command is tried in all.
    pub patience: Duration,
    /// For a client that asks once or twice and ends, like a shell command. It uses one of a few
    /// sessions that all such clients of a certificate share, so that many of them do not leave one
    /// session each. This needs a clock that is right to the hour and a patience of at most half an
    /// hour; otherwise the setting has no effect.
    pub brief: bool,
}

impl ClientConfig {
    /// A configuration that prefers the nearest replica, asks another after 2 seconds, and gives up
    /// after 10. `name` is the client's name in its certificate.
    pub fn new(
        cluster: impl Into<String>,
        name: impl Into<String>,
        credentials: Credentials,
        replicas: impl IntoIterator<Item = (MemberId, impl Into<Address>)>,
    ) -> ClientConfig {
        let replicas = replicas.into_iter().map(|(id, address)| (id, address.into())).collect();
        ClientConfig {
            network: mesh::ClientConfig {
                frames: CLIENT_VERSIONS,
                ..mesh::ClientConfig::new(cluster, name, credentials)
            },
            replicas,
            follow: true,
            prefer: None,
            attempt: Duration::from_secs(2),
            patience: Duration::from_secs(10),
            brief: false,
        }
    }
}

/// A client. It asks the nearest replica, or the preferred one; an observer only for
/// [local reads](Consistency::Local), and to describe itself. Cheap to clone; clones share their
/// connections and their session. When the last clone is dropped, the connections are closed.
pub struct Client<S: StateMachine> {
    inner: Arc<Inner>,
    machine: PhantomData<fn() -> S>,
}

struct Inner {
    links: Arc<Links>,
    prefer: Option<MemberId>,
    attempt: Duration,
    patience: Duration,
    session: Mutex<Session>,
    /// The client's name in its certificate.
    name: String,
    changes: watch::Receiver<u64>,
    endpoint: ClientEndpoint,
}

impl<S: StateMachine> Client<S> {
    /// Connects to all replicas that answer. Completes when one has answered and, for a moment
    /// longer, when all have, so that the nearest is known. Must be called within a tokio runtime,
    /// which then runs the client's tasks.
    ///
    /// # Errors
    /// [`ConnectError`]. Replicas that do not answer are no error as long as one does.
    pub async fn connect(config: ClientConfig) -> Result<Client<S>, ConnectError> {
        if config.replicas.is_empty() {
            return Err(ConnectError::NoReplicas);
        }
        let bytes = config.network.limits.client_frame_bytes;
        if bytes < LEAST_FRAME {
            return Err(ConnectError::Frames { bytes, least: LEAST_FRAME });
        }
        let name = config.network.name.clone();
        let endpoint = ClientEndpoint::bind(config.network)?;
        let links = Links::start(config.replicas, endpoint.clone(), config.follow);
        let inner = Inner {
            changes: links.changes(),
            links,
            prefer: config.prefer,
            attempt: config.attempt,
            patience: config.patience,
            session: Mutex::new(Session::begin(&name, Era::FIRST)),
            name,
            endpoint,
        };
        inner.first_connection().await?;
        let era = inner.links.all().iter().map(|link| link.era()).max().unwrap_or_default();
        let brief = config.brief && config.patience <= BRIEF / 2;
        *lock(&inner.session) = match brief {
            true => Session::brief(&inner.name, era, SystemTime::now()),
            false => Session::begin(&inner.name, era),
        };
        Ok(Client { inner: Arc::new(inner), machine: PhantomData })
    }

    /// Executes a command once and returns its output. It is tried at one replica after the other,
    /// nearest first, under one session and sequence.
    ///
    /// # Errors
    /// [`ClientError`], by what the caller may conclude about the command.
    pub async fn execute(&self, command: S::Command) -> Result<S::Output, ClientError> {
        self.inner.output(Ask::Execute(encode_command(&command)?)).await
    }

    /// Answers a command that writes nothing; see [`Consistency`]. A local read may be answered by
    /// an observer.
    ///
    /// # Errors
    /// [`Rejected::Writes`] if its footprint writes, and as [`Client::execute`]. A read that ends
    /// as `Unknown` can be repeated.
    pub async fn read(
        &self,
        command: S::Command,
        consistency: Consistency,
    ) -> Result<S::Output, ClientError> {
        if !S::footprint(&command).is_read_only() {
            return Err(Rejected::Writes.into());
        }
        let payload = encode_command(&command)?;
        self.inner
            .output(match consistency {
                Consistency::Linearizable => Ask::ReadLinearizable(payload),
                Consistency::Local => Ask::ReadLocal(payload),
            })
            .await
    }

    /// What the next replica in order says about itself.
    ///
    /// # Errors
    /// As [`Client::execute`].
    pub async fn server(&self) -> Result<ServerInfo, ClientError> {
        match self.inner.ask(Ask::Status).await? {
            Outcome::Status(info) => Ok(info),
            _ => Err(ClientError::Unknown("another answer than was asked for".to_owned())),
        }
    }

    /// Asks the next replica in order to take a snapshot of everything that it has executed.
    /// Returns, once it is durable, the number of log records that the snapshot covers and its
    /// length in bytes.
    ///
    /// # Errors
    /// As [`Client::execute`]; [`Rejected::BadCommand`] with the reason if no snapshot could be
    /// taken.
    pub async fn snapshot(&self) -> Result<(u64, u64), ClientError> {
        match self.inner.ask(Ask::Snapshot).await? {
            Outcome::Snapshot { position, bytes } => Ok((position, bytes)),
            _ => Err(ClientError::Unknown("another answer than was asked for".to_owned())),
        }
    }

    /// The members of the cluster, as the next replica in order knows them.
    ///
    /// # Errors
    /// As [`Client::execute`].
    pub async fn members(&self) -> Result<Members, ClientError> {
        match self.inner.ask(Ask::Members).await? {
            Outcome::Members(members) => Ok(members),
            _ => Err(ClientError::Unknown("another answer than was asked for".to_owned())),
        }
    }

    /// Changes the members of the cluster while it runs, and returns the new list. Needs an
    /// administrator's certificate. A member that is added has to be running, and connected with
    /// the replica that is asked. With `force`, two members are accepted where neither may fail.
    ///
    /// # Errors
    /// [`Rejected::NotChanged`] with the reason if it was not made; [`ClientError::Unknown`] if it
    /// may be made later, which [`Client::members`] shows; otherwise as [`Client::execute`].
    pub async fn change_members(
        &self,
        change: Change,
        force: bool,
    ) -> Result<Membership, ClientError> {
        match self.inner.ask(Ask::ChangeMembers { change, force }).await? {
            Outcome::Changed(list) => Ok(list),
            _ => Err(ClientError::Unknown("another answer than was asked for".to_owned())),
        }
    }

    /// The connected replicas with their round trips, in the order of preference.
    pub fn connected(&self) -> Vec<(MemberId, Duration)> {
        self.inner.in_order().into_iter().map(|(rtt, link)| (link.replica, rtt)).collect()
    }

    /// The session of this client's commands. If it expires because the client was idle for long,
    /// the client continues with a new one.
    pub fn session(&self) -> ClientId {
        lock(&self.inner.session).id
    }

    /// Tells the replicas, and closes all connections.
    pub async fn close(self) {
        self.inner.endpoint.shutdown().await;
    }
}

fn encode_command<C: serde::Serialize>(command: &C) -> Result<Bytes, Rejected> {
    encode(command).map_err(|error| Rejected::BadCommand(error.to_string()))
}

impl Inner {
    /// Waits for one connection for up to `patience`, and then briefly for the others.
    async fn first_connection(&self) -> Result<(), ConnectError> {
        let start = Instant::now();
        let mut changes = self.changes.clone();
        let mut enough = start + self.patience;
        loop {
            let connected = self.in_order();
            let preferred = || connected.iter().any(|(_, link)| Some(link.replica) == self.prefer);
            let links = self.links.all();
            let all = connected.len() == links.len();
            if let Some((rtt, _)) = connected.first() {
                if all || preferred() {
                    return Ok(());
                }
                enough = enough.min(Instant::now() + (*rtt * 4).max(Duration::from_millis(20)));
            } else if links.iter().all(|link| link.last_error().is_some()) {
                return Err(self.not_connected());
            }
            if timeout_at(enough, changes.changed()).await.is_err() {
                let any = !self.in_order().is_empty();
                return if any { Ok(()) } else { Err(self.not_connected()) };
            }
        }
    }

    fn not_connected(&self) -> ConnectError {
        let mut answered = false;
        let links = self.links.all();
        let failures = links.iter().map(|link| {
            let why = link.last_error();
            answered |= why.as_ref().is_some_and(|why| why.answered);
            let words = why.map_or_else(|| "no answer".to_owned(), |why| why.words);
            format!("{}: {words}", link.replica)
        });
        let failures = failures.collect::<Vec<_>>().join("; ");
        if answered { ConnectError::Refused(failures) } else { ConnectError::Unreachable(failures) }
    }

    /// The connected links: the preferred one first, then by distance.
    fn in_order(&self) -> Vec<(Duration, Arc<Link>)> {
        self.links.in_order(self.prefer)
    }

    async fn output<O: serde::de::DeserializeOwned>(&self, ask: Ask) -> Result<O, ClientError> {
        let outcome = self.ask(ask).await?;
        let Outcome::Output(output) = outcome else {
            return Err(ClientError::Unknown("another answer than was asked for".to_owned()));
        };
        decode(&output)
            .map_err(|error| ClientError::Unknown(format!("it was executed, but {error}")))
    }

    /// Asks one replica after the other until one answers, all under one sequence.
    async fn ask(&self, ask: Ask) -> Result<Outcome, ClientError> {
        let mut ticket = Ticket::take(&self.session);
        let (request, floor) = (ticket.request, ticket.floor);
        let mut request = Request { request, floor, ask };
        let start = Instant::now();
        let deadline = start + self.patience;
        let mut effort = Effort::default();
        while Instant::now() < deadline {
            let Some(link) = self.choose(&effort.tried, &request.ask) else {
                if effort.is_without_quorum() {
                    break;
                }
                effort.next_round(deadline, self.changes.clone()).await;
                continue;
            };
            effort.tried.push(link.replica);
            let attempt_takes = if request.ask.takes_long() { self.patience } else { self.attempt };
            let enough = deadline.min(Instant::now() + attempt_takes);
            match attempt(&link, &request, enough, deadline).await {
                Attempt::Done(outcome) => return Ok(outcome),
                Attempt::NotSent(NotSent::Down) => {}
                Attempt::NotSent(NotSent::Older) => effort.note(Refusal::Older(link.replica)),
                Attempt::NotSent(NotSent::TooLarge { bytes, limit }) => {
                    return Err(Rejected::TooLarge { bytes, limit }.into());
                }
                Attempt::NoAnswer(why) => return Err(why.into()),
                Attempt::Refused(Refusal::BadRequest(why)) => {
                    return Err(Rejected::BadCommand(why).into());
                }
                // If no other replica can have it, it becomes a new command under a new session.
                Attempt::Refused(Refusal::Expired(era)) if effort.unknown.is_none() => {
                    self.renew(request.request.client, era);
                    ticket = Ticket::take(&self.session);
                    (request.request, request.floor) = (ticket.request, ticket.floor);
                    effort.tried.clear();
                    effort.without_quorum = 0;
                    effort.refusal = Some(Refusal::Expired(era));
                }
                Attempt::Refused(Refusal::NotChanged(why)) => {
                    return Err(Rejected::NotChanged(why).into());
                }
                Attempt::Refused(last @ Refusal::Observes) if self.links.is_single() => {
                    return Err(Rejected::Refused { patience: start.elapsed(), last }.into());
                }
                Attempt::Refused(refusal) => effort.note(refusal),
                // A change of the members is not numbered: a second attempt would be another one.
                Attempt::Unknown(why) if matches!(request.ask, Ask::ChangeMembers { .. }) => {
                    return Err(ClientError::Unknown(why));
                }
                Attempt::Unknown(why) => effort.unknown = Some(why),
            }
        }
        // Rounded to milliseconds for the error message.
        let tried = start.elapsed().min(self.patience).as_millis();
        Err(effort.result(Duration::from_millis(u64::try_from(tried).unwrap_or(u64::MAX))))
    }

    /// Replaces an expired session, unless that has been done already.
    fn renew(&self, expired: ClientId, era: Era) {
        let mut session = lock(&self.session);
        if session.id == expired {
            *session = Session::begin(&self.name, era);
        }
    }

    /// The first link in order that was not tried in this round. Observers are asked what each
    /// replica answers by itself.
    fn choose(&self, tried: &[MemberId], ask: &Ask) -> Option<Arc<Link>> {
        let mut order = self.in_order();
        if matches!(ask, Ask::Execute(_) | Ask::ReadLinearizable(_) | Ask::ChangeMembers { .. }) {
            order = self.links.voters(order);
        }
        let mut links = order.into_iter().map(|(_, link)| link);
        links.find(|link| !tried.contains(&link.replica))
    }
}

enum Attempt {
    Done(Outcome),
    NotSent(NotSent),
    Refused(Refusal),
    NoAnswer(NoAnswer),
    Unknown(String),
}

/// Asks one replica and waits until `enough`, or until `deadline` while the replica still answers
/// earlier requests. Asking another one then would add load, because the request only waits in a
/// queue.
async fn attempt(link: &Link, request: &Request, enough: Instant, deadline: Instant) -> Attempt {
    let patience = enough.saturating_duration_since(Instant::now());
    let mut enough = enough;
    let mut asked = match timeout_at(enough, link.ask(request)).await {
        Ok(Ok(asked)) => asked,
        Ok(Err(why)) => return Attempt::NotSent(why),
        // The replica has not read the earlier requests.
        Err(_) => return Attempt::Refused(Refusal::Overloaded),
    };
    let _forget = Forget { link, request: request.request };
    loop {
        return match timeout_at(enough, &mut asked.outcome).await {
            Ok(Ok(Outcome::Rejected(refusal))) => Attempt::Refused(refusal),
            Ok(Ok(Outcome::NoAnswer(why))) => Attempt::NoAnswer(why),
            Ok(Ok(Outcome::Unknown(why))) => Attempt::Unknown(format!("{}: {why}", link.replica)),
            Ok(Ok(outcome)) => Attempt::Done(outcome),
            Ok(Err(_)) => Attempt::Unknown(format!("the connection to {} is lost", link.replica)),
            Err(_) => match link.in_line_until(&asked, patience) {
                Some(until) if enough < deadline => {
                    enough = until.min(deadline);
                    continue;
                }
                _ => Attempt::Unknown(format!("{} has not answered", link.replica)),
            },
        };
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The code under this lock keeps the value consistent at every point.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S: StateMachine> Clone for Client<S> {
    fn clone(&self) -> Client<S> {
        Client { inner: Arc::clone(&self.inner), machine: PhantomData }
    }
}

impl<S: StateMachine> std::fmt::Debug for Client<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("session", &self.session()).finish_non_exhaustive()
    }
}
