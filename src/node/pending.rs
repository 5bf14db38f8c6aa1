//! Pending requests: which callers wait for the answer to which request. Every caller enters here
//! first, and the apply thread answers. When the replica ends, every waiting caller gets an answer.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use smallvec::{SmallVec, smallvec};
use tokio::sync::oneshot;

use super::error::{ProposeError, Rejected, Unknown};
use super::flow::{Expected, Kind};
use super::turns::Turn;
use crate::mesh::Dropped;
use crate::types::{Command, KeyedMap, RequestId, Time};
use crate::wire::{self, NoAnswer, Reply, encode_reply};

/// An output of at least this many bytes counts as long.
const LONG: usize = 64 << 10;

/// An encoded output, or the reason why there is none.
pub(super) type Answer = Result<Bytes, ProposeError>;

/// A caller that waits for an answer.
pub(super) enum Waiter {
    /// A caller in this process, and its turn.
    Local(oneshot::Sender<Answer>, Option<Turn>),
    /// A client on the network.
    Client(ClientWaiter),
}

/// A client's request under way.
pub(super) struct ClientWaiter {
    pub(super) request: RequestId,
    pub(super) expected: Expected,
}

impl ClientWaiter {
    /// Sends the answer, unless the client is gone. A waiting client always gets one. If the answer
    /// finds no room in the queue, because the client was slow to read earlier ones, the client is
    /// told to ask again.
    pub(super) fn reply(self, outcome: wire::Outcome) {
        let ClientWaiter { request, expected } = self;
        let output = match &outcome {
            wire::Outcome::Output(output) | wire::Outcome::Part(output) => output.len(),
            _ => 0,
        };
        // Do not build a long frame for a closed connection. (The check takes a lock.)
        if output >= LONG && expected.sender().closed().is_some() {
            return;
        }
        let version = expected.sender().version();
        let frame = encoded(version, &Reply { request, outcome }, output);
        let (kind, bytes) = (expected.kind(), frame.len());
        let sender = expected.answered(bytes);
        let outcome = match (sender.send(frame), kind) {
            (Err(Dropped::TooLarge { bytes, limit }), _) => {
                self::outcome(Err(ProposeError::AnswerTooLarge { bytes, limit }))
            }
            (Err(Dropped::Full), Kind::Read) => wire::Outcome::Rejected(wire::Refusal::Overloaded),
            (Err(Dropped::Full), Kind::Write) => wire::Outcome::Unknown(format!(
                "it was executed, but its answer of {bytes} bytes found no room: ask again"
            )),
            _ => return,
        };
        // If this has no room either, the connection is as good as lost.
        let _ = sender.send(encoded(version, &Reply { request, outcome }, 0));
    }
}

/// The frame of a reply. `output` is the length of its output in bytes.
fn encoded(version: u8, reply: &Reply, output: usize) -> Bytes {
    let mut frame = BytesMut::with_capacity(output + wire::CLIENT_HEADER_BYTES);
    encode_reply(version, reply, &mut frame);
    frame.freeze()
}

impl Waiter {
    /// Sends the answer, unless the caller is gone.
    pub(super) fn answer(self, answer: Answer) {
        match self {
            Waiter::Local(sender, turn) => {
                drop(turn);
                let _ = sender.send(answer);
            }
            Waiter::Client(client) => client.reply(outcome(answer)),
        }
    }
}

/// What a network client is told.
pub(super) fn outcome(answer: Answer) -> wire::Outcome {
    let refused = |refusal| wire::Outcome::Rejected(refusal);
    match answer {
        Ok(output) => wire::Outcome::Output(output),
        Err(ProposeError::Rejected(Rejected::TooManySessions)) => {
            refused(wire::Refusal::TooManySessions)
        }
        Err(ProposeError::Rejected(Rejected::Overloaded | Rejected::Full)) => {
            refused(wire::Refusal::Overloaded)
        }
        Err(ProposeError::Rejected(Rejected::DiskFull)) => refused(wire::Refusal::DiskFull),
        Err(ProposeError::Rejected(Rejected::NoQuorum(reach))) => {
            refused(wire::Refusal::NoQuorum(reach.to_string()))
        }
        Err(ProposeError::Rejected(Rejected::Stopping)) => refused(wire::Refusal::Stopping),
        Err(ProposeError::Rejected(Rejected::NoMember)) => refused(wire::Refusal::NoMember),
        Err(ProposeError::Rejected(Rejected::Observes)) => refused(wire::Refusal::Observes),
        Err(ProposeError::Rejected(Rejected::Expired(era))) => refused(wire::Refusal::Expired(era)),
        Err(ProposeError::Rejected(other)) => refused(wire::Refusal::BadRequest(other.to_string())),
        Err(ProposeError::AnswerTooLarge { bytes, limit }) => {
            wire::Outcome::NoAnswer(NoAnswer::TooLarge { bytes: bytes as u64, limit: limit as u64 })
        }
        Err(ProposeError::Unknown(why)) => match why {
            Unknown::Forgotten => wire::Outcome::NoAnswer(NoAnswer::Forgotten),
            why => wire::Outcome::Unknown(why.to_string()),
        },
        Err(error @ ProposeError::Fatal(_)) => wire::Outcome::Unknown(error.to_string()),
    }
}

struct Entry {
    since: Time,
    /// Whether it was committed on the fast path; `None` until it is committed here.
    fast: Option<bool>,
    /// The command: an id alone does not identify it.
    payload: Bytes,
    bytes: usize,
    waiters: SmallVec<[Waiter; 1]>,
}

/// A request taken out: its callers, and when they began to wait.
pub(super) struct Waited(Entry);

impl Waited {
    pub(super) fn since(&self) -> Time {
        self.0.since
    }

    /// Whether it was committed on the fast path, if it was committed here.
    pub(super) fn fast(&self) -> Option<bool> {
        self.0.fast
    }

    /// Answers every caller of the request.
    pub(super) fn answer(self, answer: Answer) {
        let mut waiters = self.0.waiters;
        let last = waiters.pop();
        for waiter in waiters {
            waiter.answer(answer.clone());
        }
        if let Some(last) = last {
            last.answer(answer);
        }
    }
}

/// Invariants:
///
/// 1. Every caller that entered is answered exactly once.
/// 2. Once closed, no caller waits and none enters.
/// 3. `Table::bytes` is the sum of the entries' bytes.
/// 4. An answer goes only to callers with the same id *and* payload.
pub(super) struct Pending {
    most: Most,
    state: Mutex<Table>,
    /// Requests refused because too many were waiting.
    pub(super) overloaded: AtomicU64,
}

/// The most that may wait at a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Most {
    pub(super) commands: usize,
    pub(super) bytes: usize,
}

#[derive(Default)]
struct Table {
    /// If set, no caller may enter, and this is the answer.
    closed: Option<ProposeError>,
    waiting: KeyedMap<RequestId, Entry>,
    bytes: usize,
}

impl Table {
    fn remove(&mut self, request: RequestId) -> Option<Waited> {
        let entry = self.waiting.remove(&request)?;
        self.bytes -= entry.bytes;
        Some(Waited(entry))
    }

    fn is_waited_for(&self, request: RequestId, payload: &Bytes) -> bool {
        self.waiting.get(&request).is_some_and(|entry| entry.payload == payload)
    }
}

/// Whether a request that entered has to be proposed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Entered {
    New,
    /// The same request is under way here; this caller gets its answer, too.
    Joined,
}

impl Pending {
    /// Accepts at most this many requests and bytes at a time.
    pub(super) fn new(most: Most) -> Pending {
        Pending { most, state: Mutex::default(), overloaded: AtomicU64::new(0) }
    }

    /// Lets a caller in, or returns it with the error to answer. The request counts as `bytes`.
    pub(super) fn enter(
        &self,
        request: RequestId,
        payload: &Bytes,
        bytes: usize,
        now: Time,
        waiter: Waiter,
    ) -> Result<Entered, Box<(Waiter, ProposeError)>> {
        let mut state = self.lock();
        if let Some(closed) = &state.closed {
            return Err(Box::new((waiter, closed.clone())));
        }
        if let Some(entry) = state.waiting.get_mut(&request) {
            if entry.payload != payload {
                return Err(Box::new((waiter, Rejected::InUse.into())));
            }
            entry.waiters.push(waiter);
            return Ok(Entered::Joined);
        }
        if state.waiting.len() >= self.most.commands || state.bytes + bytes > self.most.bytes {
            drop(state);
            self.count_overloaded();
            return Err(Box::new((waiter, Rejected::Overloaded.into())));
        }
        state.bytes += bytes;
        let (payload, waiters) = (payload.clone(), smallvec![waiter]);
        let entry = Entry { since: now, fast: None, payload, bytes, waiters };
        state.waiting.insert(request, entry);
        Ok(Entered::New)
    }

    /// Whether a caller waits for each of these `commands`; false for `None`.
    pub(super) fn look_who_waits<'a>(
        &self,
        commands: impl Iterator<Item = Option<&'a Command>>,
        waits: &mut Vec<bool>,
    ) {
        let state = self.lock();
        let is_waited_for = |it: &Command| state.is_waited_for(it.request, &it.payload);
        waits.extend(commands.map(|it| it.is_some_and(is_waited_for)));
    }

    /// Takes out those `items` that a caller waits for, under one lock. `asked` gives the request
    /// and the payload that an item answers.
    pub(super) fn take<T>(
        &self,
        items: impl Iterator<Item = T>,
        asked: impl Fn(&T) -> (RequestId, &Bytes),
        mut taken: impl FnMut(T, Waited),
    ) {
        let mut state = self.lock();
        for item in items {
            let (request, payload) = asked(&item);
            if !state.is_waited_for(request, payload) {
                continue;
            }
            if let Some(waited) = state.remove(request) {
                taken(item, waited);
            }
        }
    }

    /// Refuses one request that was let in before.
    pub(super) fn turn_away(&self, request: RequestId, rejected: Rejected) {
        if rejected == Rejected::Overloaded {
            self.count_overloaded();
        }
        self.end(request, rejected.into());
    }

    /// Answers one request that was let in before with an error.
    pub(super) fn end(&self, request: RequestId, why: ProposeError) {
        let Some(waited) = self.lock().remove(request) else { return };
        waited.answer(Err(why));
    }

    /// Notes that these `requests` were committed, and whether on the fast path. Calls `found` with
    /// the time since which each has been waited for.
    pub(super) fn committed(
        &self,
        requests: impl Iterator<Item = RequestId>,
        fast: bool,
        mut found: impl FnMut(Time),
    ) {
        let mut state = self.lock();
        for request in requests {
            if let Some(entry) = state.waiting.get_mut(&request) {
                entry.fast = Some(fast);
                found(entry.since);
            }
        }
    }

    /// Answers callers that have waited for `patience`: the outcome is unknown, for the reason
    /// `why`. It looks at every entry, so call it every quarter of a second and not at every step.
    pub(super) fn expire(&self, now: Time, patience: Duration, why: &Unknown) {
        let late: Vec<Waited> = {
            let mut state = self.lock();
            let is_late = |entry: &Entry| now.since(entry.since) >= patience;
            let late = state.waiting.unordered().filter(|(_, entry)| is_late(entry));
            let late: Vec<RequestId> = late.map(|(request, _)| *request).collect();
            late.into_iter().filter_map(|request| state.remove(request)).collect()
        };
        late.into_iter().for_each(|waited| waited.answer(Err(why.clone().into())));
    }

    /// Lets no caller in any more; those inside are still answered.
    pub(super) fn stop(&self) {
        self.lock().closed.get_or_insert(Rejected::Stopping.into());
    }

    /// Answers all callers: those inside with `inside`, later ones with `after`.
    pub(super) fn close(&self, inside: &ProposeError, after: ProposeError) {
        let waiting = {
            let mut state = self.lock();
            state.closed = Some(after);
            state.bytes = 0;
            std::mem::take(&mut state.waiting)
        };
        for (_, entry) in waiting.into_unordered() {
            Waited(entry).answer(Err(inside.clone()));
        }
    }

    /// The number of requests under way.
    pub(super) fn len(&self) -> usize {
        self.lock().waiting.len()
    }

    fn count_overloaded(&self) {
        self.overloaded.fetch_add(1, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // The code under this lock keeps the table consistent at every point.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{ClientId, Footprint, ReplicaId};

    const MOST: Most = Most { commands: 2, bytes: 100 };

    fn request(sequence: u64) -> RequestId {
        RequestId::new(ClientId(1), sequence)
    }

    fn at(ms: u64) -> Time {
        Time::ZERO + Duration::from_millis(ms)
    }

    struct Caller(oneshot::Receiver<Answer>);

    impl Caller {
        fn answer(mut self) -> Option<Answer> {
            self.0.try_recv().ok()
        }
    }

    fn enter(
        pending: &Pending,
        sequence: u64,
        bytes: usize,
        ms: u64,
    ) -> (Caller, Result<Entered, ProposeError>) {
        let (sender, receiver) = oneshot::channel();
        let payload = Bytes::from(vec![7; bytes]);
        let waiter = Waiter::Local(sender, None);
        let entered = pending.enter(request(sequence), &payload, bytes, at(ms), waiter);
        (Caller(receiver), entered.map_err(|turned_away| turned_away.1))
    }

    fn command(sequence: u64, bytes: usize) -> Command {
        Command {
            request: request(sequence),
            floor: 0,
            origin: ReplicaId::from_index(0),
            footprint: Footprint::nothing(),
            payload: Bytes::from(vec![7; bytes]),
        }
    }

    fn answer_all(pending: &Pending, executed: &[(u64, usize)], output: &'static [u8]) {
        let commands: Vec<_> = executed.iter().map(|(at, bytes)| command(*at, *bytes)).collect();
        pending.take(
            commands.iter(),
            |command| (command.request, &command.payload),
            |_, waited| waited.answer(Ok(Bytes::from_static(output))),
        );
    }

    /// Two commands under one id: the waiting one must not get the other's answer.
    #[test]
    fn one_id_with_two_contents_is_refused_and_never_answered_for_the_other() {
        let pending = Pending::new(MOST);
        let (first, entered) = enter(&pending, 1, 10, 0);
        assert_eq!(entered, Ok(Entered::New));
        assert_eq!(enter(&pending, 1, 11, 0).1, Err(Rejected::InUse.into()));
        answer_all(&pending, &[(1, 11)], b"the other's");
        assert_eq!(pending.len(), 1);
        answer_all(&pending, &[(1, 10)], b"its own");
        assert_eq!(first.answer(), Some(Ok(Bytes::from_static(b"its own"))));
        assert_eq!(enter(&pending, 1, 11, 0).1, Ok(Entered::New), "it is not under way any more");
    }

    #[test]
    fn everybody_who_asks_for_the_same_gets_the_one_answer() {
        let pending = Pending::new(MOST);
        let (first, entered) = enter(&pending, 1, 10, 0);
        assert_eq!(entered, Ok(Entered::New));
        let (second, entered) = enter(&pending, 1, 10, 5);
        assert_eq!((entered, pending.len()), (Ok(Entered::Joined), 1));
        let mut waited = Vec::new();
        pending.committed([request(1), request(2)].into_iter(), false, |since| waited.push(since));
        assert_eq!(waited, [at(0)]);
        answer_all(&pending, &[(2, 10), (1, 10), (1, 10)], b"x");
        for caller in [first, second] {
            assert_eq!(caller.answer(), Some(Ok(Bytes::from_static(b"x"))));
        }
        assert_eq!(pending.len(), 0);
    }

    #[test]
    fn who_is_answered_knows_the_path() {
        let pending = Pending::new(Most { commands: 3, ..MOST });
        let _callers = [1, 2, 3].map(|sequence| enter(&pending, sequence, 10, 0));
        pending.committed([request(1)].into_iter(), true, drop);
        pending.committed([request(2)].into_iter(), false, drop);
        let mut paths = Vec::new();
        let all = [1, 2, 3].map(|sequence| command(sequence, 10));
        pending.take(
            all.iter(),
            |command| (command.request, &command.payload),
            |_, waited| paths.push(waited.fast()),
        );
        assert_eq!(paths, [Some(true), Some(false), None]);
    }

    #[test]
    fn commands_and_bytes_are_bounded_and_given_back() {
        let pending = Pending::new(MOST);
        let overloaded = Err(Rejected::Overloaded.into());
        let (_one, entered) = enter(&pending, 1, 90, 0);
        assert_eq!(entered, Ok(Entered::New));
        assert_eq!(enter(&pending, 2, 11, 0).1, overloaded);
        let (_two, entered) = enter(&pending, 2, 10, 0);
        assert_eq!(entered, Ok(Entered::New));
        assert_eq!(enter(&pending, 3, 0, 0).1, overloaded);
        answer_all(&pending, &[(1, 90)], b"");
        let (three, entered) = enter(&pending, 3, 90, 0);
        assert_eq!(entered, Ok(Entered::New));
        assert_eq!(pending.overloaded.load(Ordering::Relaxed), 2);
        pending.turn_away(request(3), Rejected::Overloaded);
        assert_eq!(three.answer(), Some(Err(Rejected::Overloaded.into())));
        assert_eq!(pending.overloaded.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn who_has_waited_too_long_is_told_and_the_others_wait_on() {
        let pending = Pending::new(MOST);
        let (early, _) = enter(&pending, 1, 10, 0);
        let (late, _) = enter(&pending, 2, 10, 50);
        let patience = Duration::from_millis(100);
        pending.expire(at(120), patience, &Unknown::TimedOut(patience));
        assert_eq!(early.answer(), Some(Err(Unknown::TimedOut(patience).into())));
        assert_eq!((late.answer(), pending.len()), (None, 1));
    }

    #[test]
    fn what_is_pending_is_answered_after_a_stop_and_nobody_enters_after_the_close() {
        let pending = Pending::new(MOST);
        let (one, _) = enter(&pending, 1, 10, 0);
        let (two, _) = enter(&pending, 2, 10, 0);
        pending.stop();
        let stopping = ProposeError::from(Rejected::Stopping);
        assert_eq!(enter(&pending, 3, 0, 0).1, Err(stopping.clone()));
        answer_all(&pending, &[(1, 10)], b"x");
        assert_eq!(one.answer(), Some(Ok(Bytes::from_static(b"x"))));
        let fatal = ProposeError::Fatal("a fault".to_owned());
        pending.close(&fatal, fatal.clone());
        assert_eq!(two.answer(), Some(Err(fatal.clone())));
        assert_eq!((enter(&pending, 3, 0, 0).1, pending.len()), (Err(fatal), 0));
    }
}
