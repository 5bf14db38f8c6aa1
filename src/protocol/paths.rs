//! Counters of the paths that a protocol takes. Each protocol declares its own paths, and so does
//! the log that some of them share. The code that counts and shows them does not depend on the
//! protocol.

use std::any::TypeId;
use std::fmt;

/// The name of the path "a replica begins to finish another's instance", in every protocol that has
/// one. Status and metrics show its count.
pub const RECOVERY: &str = "recovery";
/// The name of the path "commands of a failed proposal are proposed again", in every protocol that
/// has one. Metrics show its count.
pub const RESUBMITTED: &str = "resubmitted";

/// The paths of a protocol, or of a part that protocols share; an enum declared by `paths!`.
pub trait PathSet: Copy + fmt::Debug + 'static {
    /// All of them, in declaration order.
    const ALL: &'static [Self];
    /// Their names in reports, in declaration order. A protocol never has two paths of one name,
    /// including those of the parts that it shares.
    const NAMES: &'static [&'static str];

    /// The index in declaration order.
    fn index(self) -> usize;

    /// The name in reports.
    fn name(self) -> &'static str {
        Self::NAMES[self.index()]
    }
}

/// Declares the enum `Path`.
macro_rules! paths {
    ($($(#[$doc:meta])* $variant:ident = $name:expr,)*) => {
        /// A path that a protocol may take. The simulator demands that most of them were taken.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Path { $($(#[$doc])* $variant,)* }

        impl $crate::protocol::PathSet for Path {
            const ALL: &'static [Path] = &[$(Path::$variant,)*];
            const NAMES: &'static [&'static str] = &[$($name,)*];

            fn index(self) -> usize {
                self as usize
            }
        }
    };
}
pub(super) use paths;

/// How often each path of a protocol was taken.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Paths(Vec<Counts>);

/// How often each path of one set was taken.
#[derive(Clone, PartialEq, Eq)]
struct Counts {
    /// The type of the set.
    set: TypeId,
    names: &'static [&'static str],
    /// The counts, in declaration order.
    counts: Vec<u64>,
}

impl Paths {
    /// The paths of `P`, all with count 0.
    pub(crate) fn of<P: PathSet>() -> Paths {
        Paths::default().and::<P>()
    }

    /// Adds the paths of `P`, all with count 0.
    pub(crate) fn and<P: PathSet>(mut self) -> Paths {
        self.counts(TypeId::of::<P>(), P::NAMES);
        self
    }

    /// Counts one.
    pub(crate) fn hit<P: PathSet>(&mut self, path: P) {
        self.counts(TypeId::of::<P>(), P::NAMES)[path.index()] += 1;
    }

    /// How often `path` was taken.
    #[cfg(test)]
    pub(crate) fn count<P: PathSet>(&self, path: P) -> u64 {
        let set = self.0.iter().find(|set| set.set == TypeId::of::<P>());
        set.map_or(0, |set| set.counts[path.index()])
    }

    /// How often the path with this name was taken; `None` if the protocol has no such path.
    pub fn named(&self, name: &str) -> Option<u64> {
        self.iter().find(|(path, _)| *path == name).map(|(_, count)| count)
    }

    /// Adds the counts of another.
    pub fn add(&mut self, other: &Paths) {
        for theirs in &other.0 {
            let mine = self.counts(theirs.set, theirs.names);
            mine.iter_mut().zip(&theirs.counts).for_each(|(mine, theirs)| *mine += theirs);
        }
    }

    /// Each path's name and count.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.0.iter().flat_map(|set| set.names.iter().copied().zip(set.counts.iter().copied()))
    }

    fn counts(&mut self, set: TypeId, names: &'static [&'static str]) -> &mut [u64] {
        let at = self.0.iter().position(|counts| counts.set == set).unwrap_or_else(|| {
            self.0.push(Counts { set, names, counts: vec![0; names.len()] });
            self.0.len() - 1
        });
        &mut self.0[at].counts
    }
}

impl fmt::Debug for Paths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::protocol::Protocol;
    use crate::protocol::epaxos::{self, EPaxos};
    use crate::protocol::fast_paxos::FastPaxos;
    use crate::protocol::log;
    use crate::protocol::multipaxos::MultiPaxos;
    use crate::protocol::paxos::{self, Paxos};

    /// The names of a protocol's paths; fails if one occurs twice.
    #[track_caller]
    fn names<P: Protocol>() -> BTreeSet<&'static str> {
        let paths = P::paths();
        let names: BTreeSet<_> = paths.iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), paths.iter().count(), "{}: a name comes twice", P::NAME);
        names
    }

    #[test]
    fn a_protocol_has_its_own_paths_and_no_name_twice() {
        let [epaxos, multi, fast, paxos] =
            [names::<EPaxos>(), names::<MultiPaxos>(), names::<FastPaxos>(), names::<Paxos>()];
        assert!(epaxos.contains(RECOVERY) && epaxos.contains(RESUBMITTED));
        assert!(
            multi.is_disjoint(&epaxos) && multi.is_disjoint(&fast) && multi.is_disjoint(&paxos)
        );
        assert!(log::Path::NAMES.iter().all(|name| fast.contains(name) && paxos.contains(name)));
        assert!(fast.contains("fp_collision") && !paxos.contains("fp_collision"));
        assert!(paxos.contains("sp_collision") && !fast.contains("sp_collision"));
    }

    #[test]
    fn each_path_is_counted_by_itself_and_sums_add_up() {
        let mut paths = Paxos::paths();
        paths.hit(paxos::Path::Nop);
        paths.hit(log::Path::Fetch);
        paths.hit(log::Path::Fetch);
        assert_eq!((paths.count(paxos::Path::Nop), paths.count(paxos::Path::Gap)), (1, 0));
        assert_eq!((paths.named("sp_nop"), paths.named("fetch")), (Some(1), Some(2)));
        assert_eq!(paths.count(epaxos::Path::Fetch), 0, "of the same name, and not the same");
        assert_eq!(paths.named(RECOVERY), None, "Paxos has none");
        let mut sum = Paths::default();
        sum.add(&paths);
        sum.add(&paths);
        assert_eq!((sum.count(paxos::Path::Nop), sum.named("fetch")), (2, Some(4)));
        assert_eq!(sum.iter().count(), paths.iter().count(), "those that were not taken, too");
    }
}
