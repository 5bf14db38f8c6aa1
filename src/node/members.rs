//! When the members of a cluster may be changed, and why they were not. After `error`, which it
//! uses.

use tokio::sync::oneshot;

use super::error::Rejected;
use crate::types::{Address, BadChange, Change, Member, MemberId, Membership, Quorums};

/// A caller that asked for a change.
pub(super) type ChangeAsker = oneshot::Sender<Result<Membership, NotChanged>>;

/// Why the members were not changed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotChanged {
    /// The change makes no sense for the present list.
    #[error(transparent)]
    Bad(#[from] BadChange),
    /// This replica is no member: ask one.
    #[error("this replica is no member of the cluster: ask one that is")]
    NoMember,
    /// Another change was asked for here and is not done yet.
    #[error("another change is under way: try again when it is done")]
    UnderWay,
    /// Nobody can be reached at the address of a member after the change.
    #[error(
        "{id} would be at {address}, which {why}: give it another address first, with `isonomy \
         member move`"
    )]
    Unreachable {
        /// The member.
        id: MemberId,
        /// Its address.
        address: Address,
        /// Why.
        why: String,
    },
    /// The new member has not connected with this replica, so its address may be wrong, and it
    /// could not take part.
    #[error(
        "{0} is not connected with this replica: start it first (`isonomy serve`, with this \
         cluster's members in its file), and see that its address is right. One that was just \
         started is waited for, for some seconds"
    )]
    NotConnected(MemberId),
    /// A member that was added does not take part yet. If it does not come, it can be removed.
    #[error("{0} does not take part yet: wait until it has the state, or remove it")]
    NotBegun(MemberId),
    /// Too few of the next members can be reached now, so nothing could be decided after the
    /// change.
    #[error(
        "after it {reached} of {members} members could be reached, and {quorum} are needed: bring \
         back the others first"
    )]
    NoQuorum {
        /// The members that can be reached.
        reached: usize,
        /// All members.
        members: usize,
        /// How many are needed to decide anything.
        quorum: usize,
    },
    /// With so few members the cluster stands still whenever one of them does.
    #[error(
        "with {members} members, none may fail: with `--force` it is done nevertheless, for \
         example on the way to more"
    )]
    NoneMayFail {
        /// The members after the change.
        members: usize,
    },
    /// A member runs a release that knows no observers, or has not been connected since this
    /// replica was started.
    #[error(
        "{0} has not said that its release knows observers: upgrade it and let it connect, and \
         then add the first observer"
    )]
    Older(MemberId),
    /// Another list followed the present one. Look at it, and ask again if it is still needed.
    #[error("another change was made first: epoch {} has {}", .0.epoch(), numbers(.0))]
    Superseded(Membership),
    /// It was not proposed.
    #[error("not proposed: {0}")]
    Rejected(Rejected),
    /// It was proposed, and its outcome is not known here. `isonomy member list` shows it once it
    /// is.
    #[error("the outcome is not known yet: look at the list of members again in a while")]
    Unknown,
    /// The replica has stopped.
    #[error("the replica has stopped")]
    Stopped,
}

/// The members' numbers, for people.
fn numbers(list: &Membership) -> String {
    let ids = list.members().iter().map(|member| member.id.to_string());
    ids.collect::<Vec<_>>().join(", ")
}

/// What decides whether a change may be made now.
pub(super) struct Asked<'a> {
    pub(super) list: &'a Membership,
    /// The members that take part.
    pub(super) begun: &'a [MemberId],
    /// The members that are reached.
    pub(super) reached: &'a [MemberId],
    /// The directory of a replica that is connected, whether or not it is a member.
    pub(super) directory: &'a dyn Fn(MemberId) -> Option<u64>,
    pub(super) force: bool,
}

impl Asked<'_> {
    /// The list after `change`, if it may be made now.
    pub(super) fn next(&self, mut change: Change) -> Result<Membership, NotChanged> {
        let (mut added, mut absent) = (None, None);
        if let Change::Add(new) | Change::Observe(new) | Change::Replace { new, .. } = &mut change {
            added = Some(new.id);
            match (self.directory)(new.id) {
                Some(directory) => new.directory = directory,
                None => absent = Some(NotChanged::NotConnected(new.id)),
            }
        }
        // What makes no sense at all is said first.
        let next = self.list.after(&change)?;
        for Member { id, address, .. } in next.all() {
            address.check_reachable().map_err(|why| {
                let (id, address, why) = (*id, address.clone(), why.to_owned());
                NotChanged::Unreachable { id, address, why }
            })?;
        }
        if let Some(absent) = absent {
            return Err(absent);
        }
        if let Change::Promote(id) = change {
            // It has to be there, as a new member has, and take part before the next one.
            (self.directory)(id).ok_or(NotChanged::NotConnected(id))?;
            added = Some(id);
        }
        let stays = next.members().iter().map(|member| member.id).filter(|id| Some(*id) != added);
        let takes_part = |id: &MemberId| self.begun.contains(id);
        // One that is away is a failure like any other, which the quorum has to do without.
        let getting_ready = stays.clone().filter(|id| self.reached.contains(id));
        let mut getting_ready = getting_ready.filter(|id| !takes_part(id));
        if let (Some(id), false) = (getting_ready.next(), matches!(change, Change::Remove(_))) {
            return Err(NotChanged::NotBegun(id));
        }
        let (members, quorums) = (next.len(), Quorums::new(next.len()));
        let quorum = quorums.expect("a list is of a supported size").slow();
        // A new member has nothing yet, so it counts only where the others cannot do without it.
        let is_voter = added.is_some_and(|id| next.position(id).is_some());
        let new = usize::from(is_voter && members == 2);
        let reached = stays.filter(|id| takes_part(id) && self.reached.contains(id)).count() + new;
        if reached < quorum {
            return Err(NotChanged::NoQuorum { reached, members, quorum });
        }
        if members == 2 && self.list.len() != 2 && !self.force {
            return Err(NotChanged::NoneMayFail { members });
        }
        Ok(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::member_id as id;

    fn member(number: u32) -> Member {
        let address = format!("10.0.0.{number}:7400").parse().expect("an address");
        Member { id: id(number), address, directory: 0 }
    }

    /// Asks of a cluster of `members` members, of which `begun` take part and `reached` are
    /// reached. Replicas from 10 on are connected and no members.
    fn ask(
        members: u32,
        begun: &[u32],
        reached: &[u32],
        change: Change,
    ) -> Result<Membership, NotChanged> {
        let list = Membership::first((1..=members).map(member).collect()).expect("a list");
        let ids = |numbers: &[u32]| numbers.iter().map(|number| id(*number)).collect::<Vec<_>>();
        let directory = |it: MemberId| (it >= id(10)).then_some(7);
        Asked {
            list: &list,
            begun: &ids(begun),
            reached: &ids(reached),
            directory: &directory,
            force: false,
        }
        .next(change)
    }

    fn replace(old: u32, new: u32) -> Change {
        Change::Replace { old: id(old), new: member(new) }
    }

    #[test]
    fn a_change_needs_a_quorum_after_it_that_is_there_now() {
        let all = [1, 2, 3];
        let next = ask(3, &all, &[1, 2], replace(3, 10)).expect("two of three are there");
        assert_eq!(next.members()[2].directory, 7, "the list names the newcomer's directory");
        let refused = ask(3, &all, &[1, 2], replace(2, 10));
        let two_of_three = NotChanged::NoQuorum { reached: 1, members: 3, quorum: 2 };
        assert_eq!(refused, Err(two_of_three));
        let refused = ask(3, &all, &[1, 2], Change::Add(member(10)));
        assert_eq!(refused, Err(NotChanged::NoQuorum { reached: 2, members: 4, quorum: 3 }));
        assert!(ask(3, &all, &all, Change::Add(member(10))).is_ok());
        assert!(ask(5, &[1, 2, 3, 4, 5], &[1, 2, 3], Change::Remove(id(5))).is_ok());
        let refused = ask(5, &[1, 2, 3, 4, 5], &[1, 2, 3], Change::Remove(id(1)));
        assert_eq!(refused, Err(NotChanged::NoQuorum { reached: 2, members: 4, quorum: 3 }));
    }

    #[test]
    fn a_newcomer_has_to_be_there_and_the_one_before_it_has_to_take_part() {
        let all = [1, 2, 3];
        let absent = ask(3, &all, &all, Change::Add(member(4)));
        assert_eq!(absent, Err(NotChanged::NotConnected(id(4))));
        let refused = ask(4, &all, &[1, 2, 3, 4], Change::Add(member(10)));
        assert_eq!(refused, Err(NotChanged::NotBegun(id(4))));
        let away = ask(4, &all, &all, replace(4, 10));
        assert!(away.is_ok(), "it is not waited for when it is away: {away:?}");
        assert!(ask(5, &[1, 2, 3, 4], &[1, 2, 3, 4], replace(4, 10)).is_ok(), "nor is another");
        assert!(ask(4, &all, &[1, 2, 3, 4], Change::Remove(id(4))).is_ok());
        assert!(ask(4, &all, &[1, 2, 3, 4], replace(4, 10)).is_ok());
    }

    #[test]
    fn an_address_at_which_nobody_can_be_reached_is_in_no_list() {
        let all = [1, 2, 3];
        for address in ["0.0.0.0:7400", "10.0.0.2:0"] {
            let address: Address = address.parse().expect("an address");
            let change = Change::Move { id: id(2), address: address.clone() };
            let refused = ask(3, &all, &all, change);
            assert!(matches!(refused, Err(NotChanged::Unreachable { .. })), "{refused:?}");
            let change = Change::Add(Member { address, ..member(10) });
            let refused = ask(3, &all, &all, change);
            assert!(matches!(refused, Err(NotChanged::Unreachable { .. })), "{refused:?}");
        }
    }

    #[test]
    fn two_members_are_made_only_by_force() {
        for (members, change) in [(1, Change::Add(member(10))), (3, Change::Remove(id(3)))] {
            let all: Vec<u32> = (1..=members).collect();
            let refused = ask(members, &all, &all, change);
            assert_eq!(refused, Err(NotChanged::NoneMayFail { members: 2 }));
        }
        assert!(ask(2, &[1, 2], &[1, 2], Change::Remove(id(2))).is_ok());
        assert!(ask(2, &[1, 2], &[1, 2], Change::Add(member(10))).is_ok());
    }
}
