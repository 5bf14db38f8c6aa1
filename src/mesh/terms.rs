//! What all replicas of a cluster must agree on before any frame passes between two of them. Each
//! takes its terms from its own configuration, so every hello compares them.

use std::time::Duration;

use super::refusal::Refusal;
use super::votes::Votes;
use crate::types::MemberId;
use crate::types::Versions;

/// The default protocol.
const DEFAULT_PROTOCOL: &str = "epaxos";

/// The terms of a cluster, as one replica is configured.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Terms {
    /// The protocol, at most 255 bytes.
    pub protocol: String,
    /// How long sessions live without use; rounded down to milliseconds.
    pub session_idle: Duration,
    /// How durable a vote must be before it is sent.
    pub votes: Votes,
    /// A hash of the requests that the operator has excluded from execution; 0 if there are none.
    /// If one replica executes a command that another skips, their states differ from there on.
    pub skipped: u64,
    /// The versions of the frames between replicas.
    pub frames: Versions,
    /// The versions of the snapshots that replicas send each other.
    pub snapshots: Versions,
}

impl Default for Terms {
    fn default() -> Terms {
        Terms {
            protocol: DEFAULT_PROTOCOL.to_owned(),
            session_idle: Duration::from_secs(3600),
            votes: Votes::InMemory,
            skipped: 0,
            frames: Versions::only(0),
            snapshots: Versions::only(0),
        }
    }
}

impl Terms {
    /// Whether a replica with these terms and replica `id` with `theirs` may talk to each other,
    /// and in which version of the frames.
    pub(super) fn compare(&self, id: MemberId, theirs: &Terms) -> Result<u8, Refusal> {
        if self.protocol != theirs.protocol {
            let (ours, theirs) = (self.protocol.clone(), theirs.protocol.clone());
            return Err(Refusal::OtherProtocol { id, ours, theirs });
        }
        let agree = |what, ours: Versions, theirs: Versions| {
            ours.agreed(theirs).ok_or(Refusal::OtherFormat { id, what, ours, theirs })
        };
        let frames = agree("frames", self.frames, theirs.frames)?;
        agree("snapshots", self.snapshots, theirs.snapshots)?;
        let (ours, theirs_too) = (self.votes, theirs.votes);
        if (ours == Votes::InMemory) != (theirs_too == Votes::InMemory) {
            let theirs = theirs_too;
            return Err(Refusal::OtherDurability { id, ours, theirs });
        }
        if self.skipped != theirs.skipped {
            return Err(Refusal::OtherSkips { id });
        }
        let (ours, theirs) = (self.idle_ms(), theirs.idle_ms());
        if ours != theirs {
            return Err(Refusal::OtherSessionIdle { id, ours, theirs });
        }
        Ok(frames)
    }

    /// The session idle time in milliseconds, as it is encoded.
    pub(super) fn idle_ms(&self) -> u64 {
        u64::try_from(self.session_idle.as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_term_that_differs_is_named_with_both_values() {
        let id = MemberId::new(3).unwrap();
        let ours = Terms::default();
        assert_eq!(ours.compare(id, &ours), Ok(0));
        type Change = fn(&mut Terms);
        let cases: [(Change, [&str; 3]); 6] = [
            (|it| it.protocol = "paxos".into(), ["\"paxos\"", "\"epaxos\"", "`protocol`"]),
            (
                |it| it.frames = Versions::only(1),
                ["frames in version 1", "in version 0", "upgrade"],
            ),
            (|it| it.snapshots = Versions::only(1), ["snapshots", "version 1", "upgrade"]),
            (|it| it.skipped = 7, ["other requests", "`--skip`", "inspect"]),
            (|it| it.votes = Votes::HandedOver, ["in memory", "on disk", "`durability`"]),
            (
                |it| it.session_idle = Duration::from_secs(60),
                ["3600000 ms", "60000 ms", "stop all replicas"],
            ),
        ];
        for (change, words) in cases {
            let mut theirs = ours.clone();
            change(&mut theirs);
            let said = ours.compare(id, &theirs).expect_err("it differs").to_string();
            assert!(words.iter().all(|word| said.contains(word)), "{said}");
            assert!(theirs.compare(id, &ours).is_err(), "either end sees it: {said}");
        }
        let flushed = Terms { votes: Votes::Flushed, ..ours.clone() };
        let handed_over = Terms { votes: Votes::HandedOver, ..ours };
        assert_eq!(flushed.compare(id, &handed_over), Ok(0), "either promise can be kept");
    }
}
