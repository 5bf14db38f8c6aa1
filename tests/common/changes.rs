//! Changes of the members of a cluster of processes.

use std::thread;
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::processes::{Cluster, PATIENCE};

/// What a change is refused with that can be made a little later.
const NOT_YET: [&str; 6] = [
    "not proposed: ",
    "is not connected with this replica",
    "does not take part yet",
    "could be reached, and",
    "another change is under way",
    "is no member of the cluster: ask one that is",
];

/// What a change is refused with that is made already.
const DONE: [&str; 2] = ["the cluster has no member", "is used or was used"];

/// Asks for a change until it is made. Returns what the command prints.
#[track_caller]
pub fn change(cluster: &Cluster, arguments: &[&str]) -> String {
    change_again(cluster, arguments, false)
}

/// The same. If `is_unknown`, it may have been made by an attempt before.
#[track_caller]
fn change_again(cluster: &Cluster, arguments: &[&str], mut is_unknown: bool) -> String {
    let start = Instant::now();
    let arguments = [&["member"], arguments].concat();
    loop {
        let output = cluster.client(&arguments);
        let [out, err] = [output.stdout, output.stderr].map(|it| String::from_utf8(it).unwrap());
        match output.status.code() {
            Some(0) => return out,
            Some(2) if NOT_YET.iter().any(|why| err.contains(why)) => {}
            // It was not done.
            Some(5) => {}
            // A replica was killed while it was asked. The next attempt tells.
            Some(2) if is_unknown && DONE.iter().any(|why| err.contains(why)) => return out,
            Some(3) => is_unknown = true,
            code => panic!("{arguments:?}: {code:?}: {err}"),
        }
        assert!(start.elapsed() < PATIENCE, "{arguments:?}: {err}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// A cluster whose members change again and again.
pub struct Story {
    pub cluster: Cluster,
    /// The present members.
    pub members: Vec<usize>,
    /// A member that is never killed, replaced or removed.
    spared: Option<usize>,
    /// The number of the next replica that joins.
    next: usize,
    rng: ChaCha8Rng,
}

impl Story {
    /// All replicas of the cluster run.
    pub fn of(cluster: Cluster, spared: Option<usize>, seed: u64) -> Story {
        let members: Vec<usize> = (1..=cluster.replicas()).collect();
        let next = members.len() + 1;
        Story { cluster, members, spared, next, rng: ChaCha8Rng::seed_from_u64(seed) }
    }

    /// Makes one change. Of five in a row, two make the cluster larger, two make it smaller, and
    /// one replaces a member.
    pub fn next_change(&mut self, count: u16) {
        match count % 5 {
            0 | 1 => self.join(None),
            2 | 3 => self.remove(),
            _ => {
                let old = self.one_of_them(None);
                self.join(Some(old));
            }
        }
    }

    /// A member that may be lost.
    fn one_of_them(&mut self, other_than: Option<usize>) -> usize {
        let out = [other_than, self.spared];
        let among = self.members.iter().copied().filter(|it| !out.contains(&Some(*it)));
        let among: Vec<usize> = among.collect();
        among[self.rng.random_range(0..among.len())]
    }

    /// Asks for a change, and kills a member meanwhile that stays one.
    fn change(&mut self, old: Option<usize>, arguments: &[&str]) {
        if self.rng.random_bool(0.5) {
            change(&self.cluster, arguments);
            return;
        }
        let asking = self.cluster.start_client(&[&["member"], arguments].concat());
        thread::sleep(Duration::from_millis(self.rng.random_range(0..150)));
        self.kill_one(old);
        let output = asking.wait_with_output().expect("isonomy runs");
        if !output.status.success() {
            change_again(&self.cluster, arguments, output.status.code() == Some(3));
        }
    }

    /// Kills a member in the middle of something, and starts it again.
    pub fn kill_one(&mut self, other_than: Option<usize>) {
        let victim = self.one_of_them(other_than);
        self.cluster.kill(&[victim]);
        let pause = self.rng.random_range(0..200);
        thread::sleep(Duration::from_millis(pause));
        self.cluster.serve(victim);
    }

    /// A new replica joins, in the place of a member or as one more. It is killed before or after
    /// it is asked for.
    fn join(&mut self, old: Option<usize>) {
        let new = self.next;
        self.next += 1;
        let mut lines = self.cluster.start_to_join(new);
        if self.rng.random_bool(0.3) {
            self.cluster.kill(&[new]);
            lines = self.cluster.spawn(new);
        }
        let place = self.cluster.place(new);
        if let Some(old) = old {
            // Half of those that are replaced are lost before.
            let is_lost = self.rng.random_bool(0.5);
            if is_lost {
                self.cluster.kill(&[old]);
            }
            self.change(Some(old), &["replace", &old.to_string(), &place]);
            self.members.retain(|it| *it != old);
            if !is_lost {
                assert_eq!(self.cluster.wait_exit(old), Some(6), "{}", self.cluster.log(old));
            }
        } else {
            self.change(None, &["add", &place, "--force"]);
        }
        if self.rng.random_bool(0.3) {
            self.cluster.kill(&[new]);
            lines = self.cluster.spawn(new);
        }
        self.cluster.wait_ready(new, &lines);
        self.members.push(new);
    }

    fn remove(&mut self) {
        let old = self.one_of_them(None);
        self.change(Some(old), &["remove", &old.to_string(), "--force"]);
        self.members.retain(|it| *it != old);
        assert_eq!(self.cluster.wait_exit(old), Some(6), "{}", self.cluster.log(old));
    }
}
