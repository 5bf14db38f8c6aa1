//! What goes into a step of a replica with epochs and what comes out: as of one epoch, with the
//! epoch beside it.

use bytes::Bytes;

use super::feed::Feed;
use super::members;
use crate::replica::{
    Arrival, Committed, Execution, OwnSnapshot, PeerMessage, Rejection, SnapshotRead,
};
use crate::types::{Command, Known, MemberId, Membership, RequestId};

/// What replicas say to each other.
#[derive(Clone, PartialEq, Debug)]
pub enum Message<M> {
    /// The present list, to a replica of an earlier epoch: that one is over.
    Over {
        /// The list of the sender's epoch.
        list: Membership,
        /// Whether the state in which the receiver's epoch ended is needed no more: enough members
        /// have begun a later one.
        safe: bool,
    },
    /// The sender has begun the epoch durably.
    Entered {
        /// The sender does not know of all members yet that they have: say whether you have.
        asks: bool,
    },
    /// Between an observer and a member.
    Feed(Feed),
    /// As within one epoch.
    Core(PeerMessage<M>),
}

/// A record of the log.
#[derive(Clone, PartialEq, Debug)]
pub enum Record<R> {
    /// The epoch before has ended here, in the state that all records before this lead to; the one
    /// of this list begins.
    Start(Membership),
    /// The state of the epoch of this list was installed, and is not durable: if the replica
    /// restarts now, the records of that epoch are of no use.
    Joining(Membership),
    /// An own snapshot of the epoch of this list is durable, and the records of that epoch rest on
    /// it: what they say was told to others, so without the snapshot the replica must not go on.
    Joined(Membership),
    /// As within one epoch.
    Core(crate::replica::Record<R>),
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Input<M> {
    /// As within one epoch: a proposal, a tick, or that the log is durable. All that names a
    /// position comes in another form; the `origin` of a command is of no meaning here. While a
    /// change of the list is open, another one is ignored: both would have one request id.
    Core(crate::replica::Input<M>),
    /// As [`replica::Input::Heard`](crate::replica::Input::Heard).
    Heard {
        /// The peer; of this epoch or not.
        peer: MemberId,
        /// What is known of the peer now.
        known: Known,
    },
    /// As [`replica::Input::SentLarge`](crate::replica::Input::SentLarge).
    SentLarge(Vec<MemberId>),
    /// A peer said something.
    Peer {
        /// The peer.
        from: MemberId,
        /// The epoch it is in; `None` if it has heard of none.
        epoch: Option<u32>,
        /// What it said; `None` if that was not decoded, because the list of its epoch is not known
        /// here: see [`Epochs::list_of`](super::Epochs::list_of).
        message: Option<Message<M>>,
    },
    /// An own snapshot of this epoch is durable.
    Saved {
        /// The epoch of the list that it was taken with.
        epoch: u32,
        /// The snapshot.
        own: OwnSnapshot,
    },
    /// As [`replica::Input::Lent`](crate::replica::Input::Lent).
    Lent {
        /// The epoch of the list that it was taken with.
        epoch: u32,
        /// The snapshot.
        own: OwnSnapshot,
    },
    /// What was read for one of [`Output::snapshot_reads`].
    Read {
        /// As it was asked for.
        epoch: u32,
        /// As it was asked for.
        read: SnapshotRead,
        /// As many bytes as were asked for, or none could be read.
        bytes: Option<Bytes>,
    },
}

/// What has to follow, as of [`crate::replica::Output`].
#[derive(Debug)]
pub struct Output<M, R> {
    /// To be appended to the log, in order, each with its epoch.
    pub records: Vec<(u32, Record<R>)>,
    /// To be sent: to whom, from which epoch, and what.
    pub messages: Vec<(Vec<MemberId>, Option<u32>, Message<M>)>,
    /// To be applied, in this order.
    pub execute: Vec<Execution>,
    /// Reads to be answered from the state after that.
    pub reads: Vec<Command>,
    /// Commands that surely had no effect.
    pub rejected: Vec<(RequestId, Rejection)>,
    /// Commands that surely had no effect here: this replica is no member any more. Another may
    /// be asked under the same ids.
    pub removed: Vec<RequestId>,
    /// Commands that may have had an effect, or not: this replica is no member any more. Another
    /// may be asked under the same ids.
    pub unsure: Vec<RequestId>,
    /// Own instances whose decision became known.
    pub committed: Vec<Committed>,
    /// An epoch ended after all of `execute`; the next has this list.
    pub ended: Vec<Membership>,
    /// Changes of the list that were proposed here and have taken effect. They are answered by this
    /// and by `superseded`: that such a command was executed says nothing.
    pub changed: Vec<RequestId>,
    /// Changes of the list that were proposed here, and are not proposed again: the epoch that each
    /// would end is over, and another list followed it. After several epochs at once, which list
    /// followed is not known. Also those that are of no epoch, or cannot be decoded.
    pub superseded: Vec<RequestId>,
    /// This replica is no member any more, and nobody needs it: it writes down that its number is
    /// used up, and stops.
    pub retired: Option<Membership>,
    /// A snapshot is to be taken soon.
    pub snapshot_wanted: bool,
    /// To be read from own snapshots of these epochs.
    pub snapshot_reads: Vec<(u32, SnapshotRead)>,
    /// What came of another replica's snapshot, in this order.
    pub snapshot_received: Vec<Arrival>,
}

impl<M, R> Default for Output<M, R> {
    fn default() -> Output<M, R> {
        Output {
            records: Vec::new(),
            messages: Vec::new(),
            execute: Vec::new(),
            reads: Vec::new(),
            rejected: Vec::new(),
            removed: Vec::new(),
            unsure: Vec::new(),
            committed: Vec::new(),
            ended: Vec::new(),
            changed: Vec::new(),
            superseded: Vec::new(),
            retired: None,
            snapshot_wanted: false,
            snapshot_reads: Vec::new(),
            snapshot_received: Vec::new(),
        }
    }
}

impl<M, R> Output<M, R> {
    /// Takes over what a core of the epoch with this list has put out. One that is `joining` says
    /// nothing of its protocol. One that `fetches` from a later epoch does not go on with what it
    /// receives in its own.
    pub(super) fn take(
        &mut self,
        list: &Membership,
        inner: crate::replica::Output<M, R>,
        joining: bool,
        fetches: bool,
        server: Option<MemberId>,
    ) {
        let epoch = list.epoch();
        self.records.extend(inner.records.into_iter().map(|it| (epoch, Record::Core(it))));
        for (to, message) in inner.messages {
            let may = !(joining && matches!(message, PeerMessage::Protocol(_)));
            let to = members(list, to, server);
            if may && !to.is_empty() {
                self.messages.push((to, Some(epoch), Message::Core(message)));
            }
        }
        self.execute.extend(inner.execute);
        self.reads.extend(inner.reads);
        self.rejected.extend(inner.rejected);
        self.committed.extend(inner.committed);
        self.snapshot_wanted |= inner.snapshot_wanted;
        self.snapshot_reads.extend(inner.snapshot_reads.into_iter().map(|it| (epoch, it)));
        if !fetches {
            self.snapshot_received.extend(inner.snapshot_received);
        }
    }
}
