//! Lets a planted bug reach the epochs.

use crate::protocol::rules;

/// A rule broken on purpose, to see the checks find it.
#[cfg(test)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Plant {
    BeginsAtOnce,
    RetiresAtOnce,
    RetiresOnHearsay,
    LeavesOnHearsay,
    JoinsAtOnce,
    ForgetsTheOthers,
    TakesAnyDirectory,
    EndsInSilence,
    SkipsWhatItJoined,
    TakesCommandsForFresh,
    ActsOnOldFrames,
    CountsObservers,
    SaysItHasNothing,
    LeavesOutToTheEnd,
    FeedsPastAGap,
    InstallsTheOlder,
}

rules! {
    /// An epoch begins once the record of that is durable.
    begins_once_durable = BeginsAtOnce;
    /// A removed replica serves the state that its last epoch ended in.
    serves_the_last_state = RetiresAtOnce;
    /// A replica that was removed by a later epoch stays in its own until enough have begun that.
    stays_until_it_is_safe = RetiresOnHearsay;
    /// A replica takes part in its epoch while it fetches the state of a later one.
    takes_part_while_it_fetches = LeavesOnHearsay;
    /// A replica that fetched a state takes part once an own snapshot is durable.
    joins_once_durable = JoinsAtOnce;
    /// What is remembered of the others crosses to an epoch whose state was fetched.
    remembers_the_others = ForgetsTheOthers;
    /// A replica believes a list only if that names its own directory under its number, or none.
    a_number_is_of_one_directory = TakesAnyDirectory;
    /// A core that is dropped at the end of its epoch completes its records.
    concludes_an_epoch = EndsInSilence;
    /// A replica that has lost the snapshot with which it joined an epoch is refused.
    what_was_joined_is_needed = SkipsWhatItJoined;
    /// Commands that cross to an epoch whose state was fetched may have been executed.
    what_crosses_is_not_fresh = TakesCommandsForFresh;
    /// A frame of an older epoch is never acted on.
    old_frames_are_not_acted_on = ActsOnOldFrames;
    /// An observer has no vote and is in no quorum.
    observers_are_not_counted = CountsObservers;
    /// An observer names what it has executed when it asks to be fed.
    an_observer_says_what_it_has = SaysItHasNothing;
    /// A feeder leaves out what the observer has, and nothing else.
    what_an_observer_has_is_left_out_alone = LeavesOutToTheEnd;
    /// A feeder that no longer keeps all that the observer lacks sends it to a snapshot.
    a_gap_is_noticed = FeedsPastAGap;
    /// An observer installs only a snapshot that includes all that it has executed.
    a_state_never_goes_back = InstallsTheOlder;
}
