//! The rules that a planted bug can break, by name (`protocol::rules`), and the moments at which
//! one can. Outside of tests nothing happens at any moment.

use super::instances::Instance;
#[cfg(test)]
use super::plant;
use super::store::Store;
use crate::protocol::rules::rules;
use crate::types::{Batch, Decision, InstanceId, Value};

rules! {
    /// §4.3: the fast path takes a fast quorum.
    fast_path_takes_a_fast_quorum = SmallFastQuorum;
    /// §5.3.4: the fast value is validated before it is proposed.
    fast_value_is_validated = NoValidate;
    /// §5.4: a payload learned by Validate is a conflict.
    validated_payload_is_a_conflict = NoIndexAtValidate;
    /// §5.5: a recovery yields to more than `n - f - e` fast votes.
    yields_to_enough_votes = YieldTooEarly;
    /// §7: an instance of unknown payload says nothing until it is known.
    unknown_says_nothing = YieldToUnknown;
    /// §5: a slot that nobody here has heard of is recovered.
    gaps_are_recovered = GapsStay;
    /// §7: a lost slot conflicts with everything.
    lost_slots_conflict = LostNotInConf;
    /// §7: it does so even once it is decided.
    decided_lost_slots_conflict = LostNopForgotten;
    /// §7: an owner covers what others have lost.
    covers_what_others_lost = LostNotCovered;
    /// §7: a commit is announced early only where some replica may fail.
    early_commit_needs_failures = SilentWithoutFailures;
    /// §7: an orphan stays one at every ballot.
    orphan_at_every_ballot = OrphanOnlyAtOwnersBallot;
    /// §7: what an earlier life may have announced early is not forgotten.
    early_commits_are_remembered = SilenceForgotten;
    /// §7: no other replica gets a promise for an orphan from its owner.
    orphan_is_silent_to_others = OrphanAnswers;
    /// §7: nor does the owner itself.
    orphan_is_silent_to_itself = OrphanCountsItself;
    /// §7: the owner counts no votes for its orphan.
    orphan_is_recovered = OrphanResumed;
    /// §8a: forgetting waits until nothing may come that it speaks against.
    forgetting_waits = ForgetEarly;
    /// §8a: what anybody knows to be executed by all is covered.
    word_of_all_is_believed = KeptToOneself;
    /// §8a: a member agrees to a cut only if it has executed all of it for good.
    cut_is_checked = CutUnchecked;
}

macro_rules! moments {
    ($($(#[$doc:meta])* $name:ident($($arg:ident: $type:ty),*) $(-> $out:ty = $sound:expr)?;)*) => {
        impl Rules {
            $(
                $(#[$doc])*
                #[cfg(test)]
                pub(super) fn $name(self, $($arg: $type),*) $(-> $out)? {
                    plant::$name(self, $($arg),*)
                }

                $(#[$doc])*
                #[cfg(not(test))]
                pub(super) fn $name(self, $($arg: $type),*) $(-> $out)? {
                    $(let _ = &$arg;)*
                    $($sound)?
                }
            )*
        }
    };
}

moments! {
    /// §3: it is accepted as `Nop`, and stays a conflict.
    nop_accepted(store: &mut Store, id: InstanceId);
    /// §3: it is decided, and stays a conflict if that is `Nop`.
    decided(store: &mut Store, decision: &Decision);
    /// §4.6: what a Commit of "the owner's batch" commits: its payload, never what was accepted.
    owners_value(payload: Option<Value>, instance: &Instance) -> Option<Value> = payload;
    /// §7: whether an instance reported as of unknown payload speaks against `batch`: not if it
    /// covers that.
    unknown_speaks(speaks: Option<bool>, batch: &Batch, other: Option<&Instance>)
        -> Option<bool> = speaks;
    /// §8a: some instances were dropped. They still speak for and against others.
    dropped(store: &mut Store);
    /// §8a: a snapshot is about to be installed. Promises and votes outside of it stay.
    installing(store: &mut Store);
}
