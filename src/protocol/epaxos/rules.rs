//! The rules that a planted bug can break, by name (`protocol::rules`), and the points in the code
//! where a planted bug can act. Outside of tests those points do nothing.

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
    /// §7: an instance of unknown payload proves nothing until its payload is known.
    unknown_says_nothing = YieldToUnknown;
    /// §5: a slot without state here is recovered.
    gaps_are_recovered = GapsStay;
    /// §7: a lost slot conflicts with everything.
    lost_slots_conflict = LostNotInConf;
    /// §7: a lost slot conflicts with everything even after it is decided.
    decided_lost_slots_conflict = LostNopForgotten;
    /// §7: an owner's proposals cover the slots that others have lost.
    covers_what_others_lost = LostNotCovered;
    /// §7: a commit is announced early only if `f > 0`.
    early_commit_needs_failures = SilentWithoutFailures;
    /// §7: an orphan stays one at every ballot.
    orphan_at_every_ballot = OrphanOnlyAtOwnersBallot;
    /// §7: an earlier life's early commits are remembered.
    early_commits_are_remembered = SilenceForgotten;
    /// §7: the owner of an orphan gives no other replica a promise for it.
    orphan_is_silent_to_others = OrphanAnswers;
    /// §7: the owner of an orphan gives itself no promise for it.
    orphan_is_silent_to_itself = OrphanCountsItself;
    /// §7: the owner counts no votes for its orphan.
    orphan_is_recovered = OrphanResumed;
    /// §8a: an instance is forgotten only once no undecided instance may need it as a conflict.
    forgetting_waits = ForgetEarly;
    /// §8a: proposals cover what any member says that all have executed.
    word_of_all_is_believed = KeptToOneself;
    /// §8a: a member agrees to a cut only if it has durably executed all of it.
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
    /// §3: an instance is accepted as `Nop`. It stays a conflict.
    nop_accepted(store: &mut Store, id: InstanceId);
    /// §3: an instance is decided. It stays a conflict even as `Nop`.
    decided(store: &mut Store, decision: &Decision);
    /// §4.6: the value of a Commit of "the owner's batch": the payload, never the accepted value.
    owners_value(payload: Option<Value>, instance: &Instance) -> Option<Value> = payload;
    /// §7: whether an instance reported as of unknown payload speaks against `batch`. It does not
    /// if it covers `batch`'s instance.
    unknown_speaks(speaks: Option<bool>, batch: &Batch, other: Option<&Instance>)
        -> Option<bool> = speaks;
    /// §8a: some instances were dropped. They still count as conflicts.
    dropped(store: &mut Store);
    /// §8a: a snapshot is about to be installed. Promises and votes outside of it stay.
    installing(store: &mut Store);
}
