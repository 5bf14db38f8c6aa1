//! One replica as a client sees it: a connection that is kept up, and the requests under way on it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rustc_hash::FxHashMap;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tracing::debug;

use crate::mesh::{ClientChannel, ClientEndpoint, Closed, Dropped, FrameSender};
use crate::types::{Address, Era, ReplicaId, RequestId};
use crate::wire::{Outcome, Request, decode_reply, encode_request};

/// Between two attempts to connect: this, doubled up to the other.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// One replica. Its connection is kept up by a task of its own, see [`keep_connected`].
pub(super) struct Link {
    pub(super) replica: ReplicaId,
    address: Address,
    state: Mutex<State>,
    /// Changes whenever any link of the client comes up or fails to.
    changes: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    sender: Option<FrameSender>,
    under_way: FxHashMap<RequestId, Waiting>,
    /// How many requests were sent, and the latest of them that is answered.
    sent: u64,
    answered: u64,
    /// When an answer came last.
    heard: Option<Instant>,
    last_error: Option<Failure>,
    /// As the replica said last.
    era: Era,
}

/// Why there is no connection.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) words: String,
    /// Somebody was there.
    pub(super) answered: bool,
}

impl From<Closed> for Failure {
    fn from(why: Closed) -> Failure {
        Failure { words: why.to_string(), answered: why.is_answered() }
    }
}

/// Whoever waits for an answer, and how many requests were sent up to this one.
struct Waiting {
    place: u64,
    sender: oneshot::Sender<Outcome>,
}

/// A request that was sent.
pub(super) struct Asked {
    pub(super) outcome: oneshot::Receiver<Outcome>,
    place: u64,
}

/// Why a request could not even be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum NotSent {
    Down,
    TooLarge { bytes: usize, limit: usize },
}

impl Link {
    pub(super) fn new(replica: ReplicaId, address: Address, changes: watch::Sender<u64>) -> Link {
        Link { replica, address, state: Mutex::default(), changes }
    }

    /// The round trip, while connected.
    pub(super) fn rtt(&self) -> Option<Duration> {
        let state = self.lock();
        state.sender.as_ref().filter(|sender| sender.closed().is_none()).map(FrameSender::rtt)
    }

    /// The era that the replica named when it was connected last.
    pub(super) fn era(&self) -> Era {
        self.lock().era
    }

    /// Why the last attempt or connection failed.
    pub(super) fn last_error(&self) -> Option<Failure> {
        self.lock().last_error.clone()
    }

    /// Sends a request, once there is room before the connection; its outcome comes through the
    /// receiver, or an error when the connection is lost before it. If this is dropped, the request
    /// was not sent.
    pub(super) async fn ask(&self, request: &Request) -> Result<Asked, NotSent> {
        let mut frame = BytesMut::new();
        encode_request(request, &mut frame);
        let frame = frame.freeze();
        loop {
            let link = self.lock().sender.clone().ok_or(NotSent::Down)?;
            let room = link.room();
            tokio::pin!(room);
            room.as_mut().enable();
            if let Some(asked) = self.send(&link, request.request, frame.clone())? {
                return Ok(asked);
            }
            room.await;
        }
    }

    /// Sends a request; `None` if the replica reads more slowly than this client asks.
    fn send(
        &self,
        link: &FrameSender,
        request: RequestId,
        frame: Bytes,
    ) -> Result<Option<Asked>, NotSent> {
        let (sender, outcome) = oneshot::channel();
        // Held meanwhile, so that the answer finds whoever waits for it.
        let mut state = self.lock();
        match link.send(frame) {
            Ok(()) => {}
            Err(Dropped::Full) => return Ok(None),
            Err(Dropped::TooLarge { bytes, limit }) => {
                return Err(NotSent::TooLarge { bytes, limit });
            }
            Err(_) => return Err(NotSent::Down),
        }
        state.sent += 1;
        let place = state.sent;
        state.under_way.insert(request, Waiting { place, sender });
        Ok(Some(Asked { outcome, place }))
    }

    /// Until when the request may be worth waiting for, if the replica is busy with those before
    /// it: it answers within `attempt` of each other, and none yet that was sent later.
    pub(super) fn in_line_until(&self, asked: &Asked, attempt: Duration) -> Option<Instant> {
        let state = self.lock();
        let until = state.heard? + attempt;
        (state.answered < asked.place && until > Instant::now()).then_some(until)
    }

    /// Nobody waits for the outcome any more.
    pub(super) fn forget(&self, request: RequestId) {
        self.lock().under_way.remove(&request);
    }

    fn up(&self, sender: FrameSender) {
        self.lock().sender = Some(sender);
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// The connection is lost, or none came about; whoever waits is told by a closed channel.
    fn down(&self, why: Failure) {
        debug!(replica = %self.replica, why = why.words, "not connected");
        let waiting = {
            let mut state = self.lock();
            state.sender = None;
            state.last_error = Some(why);
            std::mem::take(&mut state.under_way)
        };
        drop(waiting);
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// Hands replies to those who wait for them.
    fn deliver(&self, frames: &mut Vec<Bytes>) -> Result<(), String> {
        let mut done = Vec::with_capacity(frames.len());
        {
            let mut state = self.lock();
            for frame in frames.drain(..) {
                let reply = decode_reply(frame).map_err(|error| error.to_string())?;
                if let Some(era) = reply.greeting() {
                    state.era = era;
                    continue;
                }
                // Answers that come after their patience are not waited for any more.
                if let Some(Waiting { place, sender }) = state.under_way.remove(&reply.request) {
                    state.answered = state.answered.max(place);
                    done.push((sender, reply.outcome));
                }
            }
            state.heard = Some(Instant::now());
        }
        for (waiter, outcome) in done {
            let _ = waiter.send(outcome);
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // What runs under it leaves the state whole at every point.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Connects, hands replies on, and connects again, until the task is aborted.
pub(super) async fn keep_connected(link: Arc<Link>, endpoint: ClientEndpoint) {
    let mut pause = FIRST_PAUSE;
    loop {
        match endpoint.connect(link.address.clone(), link.replica).await {
            Ok(channel) => {
                let why = listen(&link, channel, &mut pause).await;
                link.down(why);
            }
            Err(why) => link.down(why.into()),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Waits to be greeted, which tells the era to number commands in; then the link is up.
async fn listen(link: &Link, mut channel: ClientChannel, pause: &mut Duration) -> Failure {
    let mut frames = Vec::new();
    let mut greeted = false;
    loop {
        if let Err(why) = channel.recv(&mut frames).await {
            return why.into();
        }
        if let Err(why) = link.deliver(&mut frames) {
            return Failure { words: format!("a reply makes no sense: {why}"), answered: true };
        }
        if !greeted {
            greeted = true;
            *pause = FIRST_PAUSE;
            link.up(channel.sender());
        }
    }
}
