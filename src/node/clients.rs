//! The clients' side of a replica: it reads requests and sends answers. Each connection may have
//! many requests under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::debug;

use super::error::{Rejected, SnapshotError};
use super::fetched::Asker;
use super::flow::{Flow, Kind};
use super::members::NotChanged;
use super::panics::lock;
use super::pending::{ClientWaiter, Waiter, outcome};
use super::quotas::SessionQuotas;
use super::rota::Line;
use super::shared::{Question, ReplicaShared};
use super::turns::{self, Turn};
use crate::machine::{self, StateMachine};
use crate::mesh::ClientConnection;
use crate::types::{Change, ClientId, Era, Footprint, Membership};
use crate::wire::{self, Ask, Outcome, Refusal, Request, ServerInfo, decode_request, encode_reply};

/// How long a new member may take to connect before a change is refused for it.
const NEWCOMER: Duration = Duration::from_secs(5);
/// How often to look whether it has.
const LOOK: Duration = Duration::from_millis(100);
/// The answer of a replica that has stopped.
const STOPPING: Outcome = Outcome::Rejected(Refusal::Stopping);

/// Serves clients; independent of the state machine's type.
pub(super) struct Service {
    shared: Arc<ReplicaShared>,
    footprint: fn(&[u8]) -> Result<Footprint, String>,
    info: ServerInfo,
    quotas: SessionQuotas,
    /// The number of connections so far; numbers the next one.
    connections: AtomicU64,
}

/// One connection of a client.
struct Visit {
    /// The name in its certificate.
    name: String,
    /// Whether the certificate is an administrator's.
    is_admin: bool,
    flow: Arc<Flow>,
    /// The session admitted last, and its era.
    admitted: Option<(Era, ClientId)>,
}

/// A client's place in the queue for turns. Dropping it gives the place up.
struct Entry<'a> {
    shared: &'a ReplicaShared,
    line: Line,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.shared.turns.leave(self.line);
    }
}

/// The kind of a request: requests of one kind have answers of similar length.
fn kind(ask: &Ask) -> Kind {
    match ask {
        Ask::ReadLocal(_) | Ask::ReadLinearizable(_) | Ask::Fetch { .. } => Kind::Read,
        _ => Kind::Write,
    }
}

/// What a client is told of a change of the members.
fn outcome_of(changed: Result<Membership, NotChanged>) -> Outcome {
    match changed {
        Ok(list) => Outcome::Changed(list),
        Err(NotChanged::Stopped) => STOPPING,
        // Another replica is asked then.
        Err(NotChanged::NoMember) => Outcome::Rejected(Refusal::NoMember),
        Err(NotChanged::Rejected(why)) => outcome(Err(why.into())),
        Err(why @ NotChanged::Unknown) => Outcome::Unknown(why.to_string()),
        Err(why) => Outcome::Rejected(Refusal::NotChanged(why.to_string())),
    }
}

/// The footprint of an encoded command, or why it is refused.
fn footprint<S: StateMachine>(payload: &[u8]) -> Result<Footprint, String> {
    let command =
        machine::decode(payload).map_err(|error| machine::Refusal::from(error).to_string())?;
    S::check(&command)?;
    Ok(S::footprint(&command))
}

impl Service {
    pub(super) fn new<S: StateMachine>(shared: Arc<ReplicaShared>, info: ServerInfo) -> Service {
        let quotas = SessionQuotas::new(shared.limits.client_sessions, shared.limits.sessions);
        let (footprint, connections) = (footprint::<S>, AtomicU64::new(0));
        Service { shared, footprint, info, quotas, connections }
    }

    /// Serves one client until its connection ends.
    pub(super) async fn serve(self: Arc<Self>, mut client: ClientConnection) {
        let account = Arc::clone(client.account());
        let number = self.connections.fetch_add(1, Ordering::Relaxed) + 1;
        let entry =
            Entry { shared: &self.shared, line: Line { account: account.number(), number } };
        let flow = Flow::new(client.sender(), account, &self.shared.limits.mesh);
        let mut list = self.shared.list.subscribe();
        self.greet(&flow, &mut list);
        let (name, is_admin) = (client.name().to_owned(), client.is_administrator());
        let mut visit = Visit { name, is_admin, flow: Arc::clone(&flow), admitted: None };
        let mut frames = Vec::new();
        loop {
            tokio::select! {
                biased;
                // The sender lives as long as the replica.
                Ok(()) = list.changed() => {
                    self.greet(&flow, &mut list);
                    continue;
                }
                received = client.recv(&mut frames) => {
                    if received.is_err() {
                        break;
                    }
                }
            }
            for frame in frames.drain(..) {
                match decode_request(frame) {
                    // Nothing more is read from this connection while the request waits.
                    Ok(request) => {
                        if !flow.ready(kind(&request.ask)).await {
                            return;
                        }
                        let turn = tokio::select! {
                            biased;
                            turn = self.turn(&request.ask, entry.line) => turn,
                            // When the client is gone, drop its request at once instead of at its
                            // turn.
                            () = flow.sender().over() => return,
                        };
                        self.take(request, &mut visit, turn);
                    }
                    Err(why) => {
                        self.shared.bad_requests.fetch_add(1, Ordering::Relaxed);
                        return client.cut_off(&why.to_string());
                    }
                }
            }
            // A client that never pauses must not starve the others.
            tokio::task::consume_budget().await;
        }
        debug!(us = %self.shared.id, client = client.name(), "gone");
    }

    /// Tells a client of this replica and of the members.
    fn greet(&self, flow: &Flow, list: &mut watch::Receiver<Option<Membership>>) {
        list.mark_unchanged();
        let mut greeting = BytesMut::new();
        let version = flow.sender().version();
        encode_reply(version, &wire::greeting(self.shared.era(), self.info()), &mut greeting);
        // The client may be gone already.
        let _ = flow.sender().send(greeting.freeze());
    }

    /// Waits for a turn, if the request is a command.
    async fn turn(&self, ask: &Ask, line: Line) -> Option<Turn> {
        match ask {
            Ask::Execute(payload) | Ask::ReadLinearizable(payload) | Ask::ReadLocal(payload) => {
                Some(self.shared.turns.take(line, turns::cost(payload.len())).await)
            }
            _ => None,
        }
    }

    fn take(&self, request: Request, visit: &mut Visit, turn: Option<Turn>) {
        let Request { request, floor, ask } = request;
        let flow = &visit.flow;
        let is_full = flow.under_way() >= self.shared.limits.client_requests;
        let waiter = ClientWaiter { request, expected: flow.begin(kind(&ask), turn) };
        if is_full {
            self.shared.pending.overloaded.fetch_add(1, Ordering::Relaxed);
            return waiter.reply(Outcome::Rejected(Refusal::Overloaded));
        }
        let (payload, read, local) = match ask {
            Ask::Status => return waiter.reply(Outcome::Status(self.info())),
            Ask::Snapshot => return self.snapshot(waiter),
            Ask::Members => return waiter.reply(self.members()),
            Ask::ChangeMembers { change, force } if visit.is_admin => {
                return self.change_members(change, force, waiter);
            }
            Ask::Backup if visit.is_admin => return self.backup(waiter),
            Ask::Fetch { snapshot, offset, bytes } if visit.is_admin => {
                return self.fetch(snapshot, offset, bytes, waiter);
            }
            Ask::ChangeMembers { .. } | Ask::Backup | Ask::Fetch { .. } => {
                let why = "only a client with an administrator's certificate may do this";
                return waiter.reply(Outcome::Rejected(Refusal::BadRequest(why.to_owned())));
            }
            Ask::Execute(payload) => (payload, false, false),
            Ask::ReadLinearizable(payload) => (payload, true, false),
            Ask::ReadLocal(payload) => (payload, true, true),
        };
        let waiter = Waiter::Client(waiter);
        let mut enters = || if local { Ok(()) } else { self.admit_session(request.client, visit) };
        match self.admit(&payload, read).and_then(|footprint| enters().map(|()| footprint)) {
            Err(rejected) => waiter.answer(Err(rejected.into())),
            Ok(_) if local => self.shared.read_local(payload, waiter),
            Ok(footprint) => self.shared.submit(request, floor, footprint, payload, waiter),
        }
    }

    /// What to tell a client of this replica.
    fn info(&self) -> ServerInfo {
        ServerInfo { list: self.shared.list.borrow().clone(), ..self.info.clone() }
    }

    /// The answer to a client that asks for the members. The core thread is not asked: clients
    /// could keep it busy.
    fn members(&self) -> Outcome {
        let members = lock(&self.shared.members).clone();
        members.map_or(Outcome::Rejected(Refusal::Overloaded), Outcome::Members)
    }

    /// Changes the members at a client's request. A new member that was just started may still be
    /// about to connect, so it is waited for.
    fn change_members(&self, change: Change, force: bool, waiter: ClientWaiter) {
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move {
            let begun = Instant::now();
            let changed = loop {
                let change = change.clone();
                let ask = |asker| Question::ChangeMembers(change, force, asker);
                let changed = shared.ask(ask).await.unwrap_or(Err(NotChanged::Stopped));
                let may_come = matches!(changed, Err(NotChanged::NotConnected(_)));
                if !may_come || begun.elapsed() >= NEWCOMER {
                    break changed;
                }
                sleep(LOOK).await;
            };
            waiter.reply(outcome_of(changed));
        });
    }

    /// Takes a snapshot at a client's request.
    fn snapshot(&self, waiter: ClientWaiter) {
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move {
            let ask = |asker| Question::Snapshot(Asker::Snapshot(asker));
            let taken = shared.ask(ask).await;
            let outcome = match taken.unwrap_or(Err(SnapshotError::Stopped)) {
                Ok(info) => {
                    Outcome::Snapshot { position: info.position.records(), bytes: info.bytes }
                }
                Err(SnapshotError::Stopped) => STOPPING,
                Err(why) => Outcome::Rejected(Refusal::BadRequest(why.to_string())),
            };
            waiter.reply(outcome);
        });
    }

    /// Takes a snapshot for a client's backup.
    fn backup(&self, waiter: ClientWaiter) {
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move {
            waiter.reply(match shared.lend().await {
                Ok(offer) => Outcome::Backup(offer),
                // Another replica is asked then.
                Err(why) => Outcome::Rejected(Refusal::NoBackup(why.to_string())),
            });
        });
    }

    /// Sends a part of a snapshot that was taken for a backup.
    fn fetch(&self, snapshot: u64, offset: u64, bytes: u32, waiter: ClientWaiter) {
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move {
            let part = shared.fetch(snapshot, offset, bytes).await;
            waiter.reply(part.map_or(Outcome::Rejected(Refusal::Gone), Outcome::Part));
        });
    }

    /// Admits a session that may be new. It checks the owner first, so that a client learns nothing
    /// about another client's session.
    fn admit_session(&self, session: ClientId, visit: &mut Visit) -> Result<(), Rejected> {
        if !session.belongs_to(&visit.name) {
            return Err(Rejected::ForeignSession { session, client: visit.name.clone() });
        }
        let era = self.shared.era();
        if visit.admitted != Some((era, session)) {
            self.quotas.admit(&visit.name, session, era, self.shared.sessions())?;
            visit.admitted = Some((era, session));
        }
        Ok(())
    }

    fn admit(&self, payload: &Bytes, read: bool) -> Result<Footprint, Rejected> {
        let footprint = (self.footprint)(payload).map_err(Rejected::BadCommand)?;
        if read && !footprint.is_read_only() {
            return Err(Rejected::Writes);
        }
        Ok(footprint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The client tries another replica, and says in the end that nothing was done. It does not say
    /// that the cluster refuses the change.
    #[test]
    fn a_change_that_was_not_proposed_is_not_a_change_that_was_refused() {
        for (why, refusal) in [
            (Rejected::Overloaded, Refusal::Overloaded),
            (Rejected::DiskFull, Refusal::DiskFull),
            (Rejected::Stopping, Refusal::Stopping),
            (Rejected::NoMember, Refusal::NoMember),
        ] {
            let told = outcome_of(Err(NotChanged::Rejected(why)));
            assert_eq!(told, Outcome::Rejected(refusal));
        }
        let told = outcome_of(Err(NotChanged::NoneMayFail { members: 2 }));
        assert!(matches!(told, Outcome::Rejected(Refusal::NotChanged(_))), "{told:?}");
    }
}
