//! One replica as a client sees it: a connection that a task keeps up, and the requests under way.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rustc_hash::FxHashMap;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tracing::debug;

use crate::mesh::{ClientChannel, ClientEndpoint, Closed, Dropped, FrameSender};
use crate::types::{Address, Era, MemberId, Membership, RequestId};
use crate::wire::{Outcome, Request, ServerInfo, decode_reply, encode_request};

/// The pause between two attempts to connect: it doubles from the first value up to the second.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// One replica. The task [`keep_connected`] keeps its connection up.
pub(super) struct Link {
    pub(super) replica: MemberId,
    /// Where it is reached: the newest address first, then earlier ones that may still work.
    addresses: Vec<Address>,
    state: Mutex<State>,
    /// Notified whenever any link of the client connects or fails to.
    changes: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    sender: Option<FrameSender>,
    under_way: FxHashMap<RequestId, Waiting>,
    /// How many requests were sent, and the highest place among those answered.
    sent: u64,
    answered: u64,
    /// When the last answer came.
    heard: Option<Instant>,
    last_error: Option<Failure>,
    /// The era in the replica's last greeting.
    era: Era,
    /// The list of members in it.
    list: Option<Membership>,
}

/// Why there is no connection.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) words: String,
    /// Whether the other end answered.
    pub(super) answered: bool,
}

impl From<Closed> for Failure {
    fn from(why: Closed) -> Failure {
        Failure { words: why.to_string(), answered: why.is_answered() }
    }
}

/// A caller that waits for an answer. `place` is the number of requests sent up to this one.
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
    /// The replica's release does not know such requests.
    Older,
    TooLarge {
        bytes: usize,
        limit: usize,
    },
}

impl Link {
    /// `addresses` are tried in turn; there is at least one.
    pub(super) fn new(
        replica: MemberId,
        addresses: Vec<Address>,
        changes: watch::Sender<u64>,
    ) -> Link {
        Link { replica, addresses, state: Mutex::default(), changes }
    }

    /// The round trip, while connected.
    pub(super) fn rtt(&self) -> Option<Duration> {
        let state = self.lock();
        state.sender.as_ref().filter(|sender| sender.closed().is_none()).map(FrameSender::rtt)
    }

    /// The era that the replica named at the last connection.
    pub(super) fn era(&self) -> Era {
        self.lock().era
    }

    /// Where the replica is reached, the newest address first.
    pub(super) fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// The list of members that the replica has told last.
    pub(super) fn list(&self) -> Option<Membership> {
        self.lock().list.clone()
    }

    /// The replica is no member any more, or moved: nothing more comes from here.
    pub(super) fn end(&self) {
        let words = "it is no member any more, or it moved".to_owned();
        self.down(Failure { words, answered: true });
    }

    /// Why the last attempt or connection failed.
    pub(super) fn last_error(&self) -> Option<Failure> {
        self.lock().last_error.clone()
    }

    /// Sends a request once its connection's queue has room. The receiver gets its outcome, or an
    /// error if the connection is lost first. If this future is dropped, the request was not sent.
    pub(super) async fn ask(&self, request: &Request) -> Result<Asked, NotSent> {
        loop {
            let link = self.lock().sender.clone().ok_or(NotSent::Down)?;
            let version = link.version();
            if version < request.ask.since() {
                return Err(NotSent::Older);
            }
            let mut frame = BytesMut::new();
            encode_request(version, request, &mut frame);
            let frame = frame.freeze();
            let room = link.room();
            tokio::pin!(room);
            room.as_mut().enable();
            if let Some(asked) = self.send(&link, request.request, frame.clone())? {
                return Ok(asked);
            }
            room.await;
        }
    }

    /// Sends a request; `None` if the queue is full, because the replica reads too slowly.
    fn send(
        &self,
        link: &FrameSender,
        request: RequestId,
        frame: Bytes,
    ) -> Result<Option<Asked>, NotSent> {
        let (sender, outcome) = oneshot::channel();
        // Keep the lock until the caller is stored, so that the answer finds it.
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

    /// Until when to keep waiting for a request that may only be queued behind earlier ones: the
    /// replica has answered within `attempt` of now, and no request sent later.
    pub(super) fn in_line_until(&self, asked: &Asked, attempt: Duration) -> Option<Instant> {
        let state = self.lock();
        let until = state.heard? + attempt;
        (state.answered < asked.place && until > Instant::now()).then_some(until)
    }

    /// No caller waits for the outcome any more.
    pub(super) fn forget(&self, request: RequestId) {
        self.lock().under_way.remove(&request);
    }

    fn up(&self, sender: FrameSender) {
        self.lock().sender = Some(sender);
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// The connection is lost or failed. Dropping the channels tells the callers.
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

    /// Passes replies to the callers that wait for them.
    fn deliver(&self, frames: &mut Vec<Bytes>) -> Result<(), String> {
        let mut done = Vec::with_capacity(frames.len());
        let mut greeted = false;
        {
            let mut state = self.lock();
            for frame in frames.drain(..) {
                let reply = decode_reply(frame).map_err(|error| error.to_string())?;
                if let Some(era) = reply.greeting() {
                    state.era = era;
                    if let Outcome::Status(ServerInfo { list: Some(list), .. }) = reply.outcome {
                        state.list = Some(list);
                        greeted = true;
                    }
                    continue;
                }
                // The caller of a late answer may have given up.
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
        if greeted {
            self.changes.send_modify(|changes| *changes += 1);
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The code under this lock keeps the state consistent at every point.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Stops waiting when it is dropped, also if the future that holds it is dropped.
pub(super) struct Forget<'a> {
    pub(super) link: &'a Link,
    pub(super) request: RequestId,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.link.forget(self.request);
    }
}

/// Connects, passes replies on, and reconnects, until the task is aborted.
pub(super) async fn keep_connected(link: Arc<Link>, endpoint: ClientEndpoint) {
    let mut pause = FIRST_PAUSE;
    for address in link.addresses.iter().cycle() {
        match endpoint.connect(address.clone(), link.replica).await {
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

/// Waits for the greeting, which contains the era for numbering commands; then the link is up.
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
