//! What an observer follows: the order in which one member, its *feeder*, executes commands.
//!
//! An observer has a state and the set X of the instances that it has executed. It tells its feeder
//! X. The feeder sends what it executes, in its own order, without what is in X. Replicas may
//! execute commands that do not conflict in different orders. So the next feeder may have executed
//! something after what is not in X, or lack something that is in X. Leaving out what is in X is
//! right all the same:
//!
//! - X is closed: it holds every command that conflicts with one in X and comes before it. A state
//!   that was fetched is what a member has executed, so it is closed. What is fed keeps it so: a
//!   prefix of a member's order is closed, and so is the union of X with it.
//! - Let the feeder execute c, which is not in X, and let d in X conflict with c. All replicas
//!   execute the two in one order. If c came first, c would be in X. So d comes first, as it does
//!   here.
//!
//! A feeder keeps only what it executed lately ([`Feeder`]). If that does not reach back to X, the
//! observer fetches a snapshot that includes X, so that its state never goes back.
//!
//! Nothing here is durable, and no member waits for any of it. A frame that is lost, a feeder that
//! stops or is replaced: the observer asks again, the same or another one, with what X is then.

mod feeder;
mod follower;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::types::{Batch, Deps, Executed, InstanceId, Time};

pub(super) use feeder::Feeder;
pub(super) use follower::Follower;

/// The most ranges of instances in one [`Feed::Ask`]. An observer with more names its prefix alone.
pub const MAX_RANGES: usize = 4096;

/// How many pieces may be on their way before the first is confirmed.
const WINDOW: u64 = 8;
/// The same at the end of an epoch: nothing more of it is sent later.
const LAST_WINDOW: u64 = 32;

/// What an observer and a member say to each other.
#[derive(Clone, PartialEq, Debug)]
pub enum Feed {
    /// An observer looks who is there. Answered by [`Feed::Here`].
    Look {
        /// The observer's clock.
        sent: Time,
        /// Up to here it has executed everything.
        executed: Deps,
    },
    /// A member that takes part is there.
    Here {
        /// The `sent` of the question.
        echo: Time,
        /// Up to here it has executed everything.
        executed: Deps,
    },
    /// An observer asks to be fed. It ends what the member has fed it before.
    Ask {
        /// The name of this feed, which the observer has not used before.
        feed: u64,
        /// What it has executed.
        have: Executed,
    },
    /// The next commands, in the order in which the feeder executed them. Without any, a sign of
    /// life.
    Piece {
        /// The feed.
        feed: u64,
        /// The number of this piece, from 0.
        number: u64,
        /// The commands.
        executions: Vec<Fed>,
        /// With the pieces before, the observer has everything up to here: the rest are `Nop`s.
        floor: Option<Deps>,
    },
    /// So many pieces of a feed have arrived.
    Got {
        /// The feed.
        feed: u64,
        /// The number of the first that has not.
        pieces: u64,
    },
    /// What the feeder keeps does not reach back to what the observer has: fetch a snapshot.
    Behind {
        /// The feed that was asked for.
        feed: u64,
        /// With this much the observer could be fed. A snapshot that holds only what the observer
        /// has would not help it.
        at_least: Deps,
    },
}

/// An instance that the feeder has executed.
#[derive(Clone, PartialEq, Debug)]
pub struct Fed {
    /// The instance.
    pub id: InstanceId,
    /// Its commands.
    pub batch: Arc<Batch>,
    /// The last of its component: the state may be observed after it, and not before.
    pub ends_component: bool,
}
