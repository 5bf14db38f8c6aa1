//! The clients' side of a replica: requests in, answers out, many under way on each connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tracing::{debug, warn};

use super::desk::{ClientWaiter, Waiter, send};
use super::error::{Rejected, SnapshotError};
use super::shared::{Question, Shared};
use crate::machine::{self, CodecError, StateMachine};
use crate::mesh::{ClientConnection, FrameSender};
use crate::types::{Footprint, RequestId};
use crate::wire::{self, Ask, Outcome, Refusal, Reply, Request, ServerInfo, decode_request};

/// Serves clients, whatever the state machine.
pub(super) struct Service {
    shared: Arc<Shared>,
    footprint: fn(&[u8]) -> Result<Footprint, CodecError>,
    info: ServerInfo,
}

/// The footprint of an encoded command.
fn footprint<S: StateMachine>(payload: &[u8]) -> Result<Footprint, CodecError> {
    machine::decode(payload).map(|command| S::footprint(&command))
}

impl Service {
    pub(super) fn new<S: StateMachine>(shared: Arc<Shared>, info: ServerInfo) -> Service {
        Service { shared, footprint: footprint::<S>, info }
    }

    /// Serves one client until it is gone.
    pub(super) async fn serve(self: Arc<Self>, mut client: ClientConnection) {
        let (sender, under_way) = (client.sender(), Arc::new(AtomicUsize::new(0)));
        send(&sender, &wire::greeting(self.shared.era(), self.info.clone()));
        let mut frames = Vec::new();
        while client.recv(&mut frames).await.is_ok() {
            for frame in frames.drain(..) {
                match decode_request(frame) {
                    Ok(request) => self.take(request, &sender, &under_way),
                    Err(why) => {
                        self.shared.bad_requests.fetch_add(1, Ordering::Relaxed);
                        warn!(us = %self.shared.id, client = client.name(), %why, "cut off");
                        return;
                    }
                }
            }
            // A client that never pauses must not keep the others from their turn.
            tokio::task::consume_budget().await;
        }
        debug!(us = %self.shared.id, client = client.name(), "gone");
    }

    fn take(&self, request: Request, sender: &FrameSender, under_way: &Arc<AtomicUsize>) {
        let Request { request, floor, ask } = request;
        let (payload, read, local) = match ask {
            Ask::Status => {
                let outcome = Outcome::Status(self.info.clone());
                return send(sender, &Reply { request, outcome });
            }
            Ask::Snapshot => return self.snapshot(request, sender.clone()),
            Ask::Execute(payload) => (payload, false, false),
            Ask::ReadLinearizable(payload) => (payload, true, false),
            Ask::ReadLocal(payload) => (payload, true, true),
        };
        let before = under_way.fetch_add(1, Ordering::Relaxed);
        let under_way = Arc::clone(under_way);
        let waiter = Waiter::Client(ClientWaiter { sender: sender.clone(), request, under_way });
        if before >= self.shared.limits.client_requests {
            self.shared.desk.overloaded.fetch_add(1, Ordering::Relaxed);
            return waiter.answer(Err(Rejected::Overloaded.into()));
        }
        match self.admit(&payload, read) {
            Err(rejected) => waiter.answer(Err(rejected.into())),
            Ok(_) if local => self.shared.read_local(payload, waiter),
            Ok(footprint) => self.shared.submit(request, floor, footprint, payload, waiter),
        }
    }

    /// Takes a snapshot for a client.
    fn snapshot(&self, request: RequestId, sender: FrameSender) {
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move {
            let taken = shared.ask(Question::Snapshot).await;
            let outcome = match taken.unwrap_or(Err(SnapshotError::Stopped)) {
                Ok(info) => {
                    Outcome::Snapshot { position: info.position.records(), bytes: info.bytes }
                }
                Err(SnapshotError::Stopped) => Outcome::Rejected(Refusal::Stopping),
                Err(why) => Outcome::Rejected(Refusal::BadRequest(why.to_string())),
            };
            send(&sender, &Reply { request, outcome });
        });
    }

    fn admit(&self, payload: &Bytes, read: bool) -> Result<Footprint, Rejected> {
        let footprint = (self.footprint)(payload)
            .map_err(|error| Rejected::BadCommand(machine::Refusal::from(error).to_string()))?;
        if read && !footprint.is_read_only() {
            return Err(Rejected::Writes);
        }
        Ok(footprint)
    }
}
