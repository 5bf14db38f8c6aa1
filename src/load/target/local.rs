//! A cluster in this process as the target of a load: its replicas as endpoints, its faults, and
//! its replicas' counters.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::load::driver::{Endpoint, Manner, Trouble};
use crate::load::result::tally::Tally;
use crate::load::scenario::LocalTarget;
use crate::load::scenario::faults::{Action, Who};
use crate::machine::{Kv, KvCommand, KvOutput};
use crate::mesh::WanControl;
use crate::node::{LocalCluster, Pause, ProposeError, Rejected, Replica, StartError, Unknown};
use crate::types::{MemberId, ReplicaId};

fn trouble(error: ProposeError) -> Trouble {
    match error {
        ProposeError::Rejected(Rejected::Overloaded) => Trouble::Busy,
        ProposeError::Rejected(Rejected::Stopping | Rejected::NoQuorum(_)) => Trouble::Gone,
        ProposeError::Unknown(Unknown::Stopped | Unknown::TimedOut(_)) => Trouble::Gone,
        ProposeError::Unknown(Unknown::NoQuorum(..)) => Trouble::Gone,
        // A valid command that is refused for good, a lost output for which its client still waits,
        // or a broken invariant in a replica.
        other => Trouble::Failed(other.to_string()),
    }
}

/// The current handle of a replica, which changes with its restarts.
#[derive(Clone, Debug)]
pub(in crate::load) struct Place(Arc<Mutex<Replica<Kv>>>);

impl Place {
    fn replica(&self) -> Replica<Kv> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn put(&self, replica: Replica<Kv>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = replica;
    }
}

impl Endpoint for Place {
    async fn ask(&self, command: KvCommand, manner: Manner) -> Result<KvOutput, Trouble> {
        let replica = self.replica();
        let answer = match manner {
            Manner::Once(request) => replica.submit(request, request.sequence, command).await,
            Manner::Read(consistency) => replica.read(command, consistency).await,
        };
        answer.map_err(trouble)
    }
}

/// A cluster and the faults done to it.
#[derive(Debug)]
pub(in crate::load) struct Local {
    pub(in crate::load) cluster: LocalCluster<Kv>,
    pub(in crate::load) places: Vec<Place>,
    network: Option<WanControl>,
    target: LocalTarget,
    paused: Vec<Option<Pause>>,
    /// The counters of each replica's earlier lives.
    former: Vec<Tally>,
}

impl Local {
    pub(in crate::load) fn new(
        cluster: LocalCluster<Kv>,
        network: Option<WanControl>,
        target: LocalTarget,
    ) -> Local {
        let place = |replica: &Replica<Kv>| Place(Arc::new(Mutex::new(replica.clone())));
        let places: Vec<Place> = cluster.replicas().iter().map(place).collect();
        Local {
            paused: places.iter().map(|_| None).collect(),
            former: places.iter().map(|_| Tally::default()).collect(),
            cluster,
            places,
            network,
            target,
        }
    }

    /// The live replica that most of the replicas that can be asked name as leader, if any.
    pub(in crate::load) async fn leader(&self) -> Option<ReplicaId> {
        let answers = |at: ReplicaId| self.paused[at.index()].is_none();
        let mut named = Vec::new();
        for replica in self.cluster.live().filter(|it| position(it).is_some_and(answers)) {
            let leader = replica.metrics().await.and_then(|metrics| metrics.leader);
            named.extend(leader.and_then(MemberId::position));
        }
        named.retain(|leader| self.cluster.live().filter_map(position).any(|it| it == *leader));
        let often = |who: ReplicaId| named.iter().filter(|named| **named == who).count();
        named.iter().copied().max_by_key(|who| (often(*who), std::cmp::Reverse(*who)))
    }

    /// The number of the leader. Without one, that of the preferred leader or else of the first
    /// replica, if it is alive.
    pub(in crate::load) async fn leader_or_stand_in(&self) -> u8 {
        let leader = self.leader().await;
        let mut live: Vec<ReplicaId> = self.cluster.live().filter_map(position).collect();
        live.sort_by_key(|id| (Some(*id) != self.target.leader, *id));
        leader.or(live.first().copied()).map_or(1, ReplicaId::number)
    }

    /// Carries out a fault that names its replica.
    ///
    /// # Errors
    /// If a replica does not start again.
    pub(in crate::load) async fn act(&mut self, action: &Action) -> Result<(), StartError> {
        let named = |who: Who| who.number().expect("the runner has put its number for the leader");
        let index = |number: u8| usize::from(number) - 1;
        match action {
            Action::Kill(who) => {
                let number = named(*who);
                // A dead replica is no longer paused.
                self.paused[index(number)] = None;
                self.cluster.crash(number.into());
            }
            Action::Restart(one) => {
                let number = u32::from(*one);
                self.paused[index(*one)] = None;
                self.cluster.crash(number);
                let old = self.places[index(*one)].replica();
                old.wait_stopped().await;
                if let Some(metrics) = old.metrics().await {
                    self.former[index(*one)].add(&Tally::of(&metrics));
                }
                self.cluster.restart(number).await?;
                self.places[index(*one)].put(self.cluster.replica(number).clone());
            }
            Action::Pause(who, _) => {
                let number = named(*who);
                if self.paused[index(number)].is_none() {
                    let replica = self.cluster.replica(number.into());
                    self.paused[index(number)] = replica.pause().await;
                }
            }
            Action::Resume(one) => self.paused[index(*one)] = None,
            Action::Partition(these, those) => {
                let sites =
                    |numbers: &[u8]| numbers.iter().map(|it| index(*it)).collect::<Vec<_>>();
                self.network().partition(&sites(these), &sites(those));
            }
            Action::Slow(one, late) => {
                let all = 0..self.places.len();
                all.filter(|site| *site != index(*one)).for_each(|site| {
                    self.delay(site, index(*one), *late, None);
                });
            }
            Action::Link(one, other, late, loss) => {
                self.delay(index(*one), index(*other), *late, Some(*loss));
            }
            Action::Heal => {
                self.network().heal();
                let all = 0..self.places.len();
                for (a, b) in all.clone().flat_map(|a| all.clone().map(move |b| (a, b))) {
                    if a < b {
                        let loss = self.target.area.as_ref().map_or(0.0, |area| area.loss_percent);
                        self.delay(a, b, Duration::ZERO, Some(loss / 100.0));
                    }
                }
            }
        }
        Ok(())
    }

    fn network(&self) -> &WanControl {
        self.network.as_ref().expect("a schedule that needs a network has one")
    }

    /// Delays both directions between two sites by this much more than usual.
    fn delay(&self, a: usize, b: usize, late: Duration, loss: Option<f64>) {
        let rtt_ms = self.target.area.as_ref().map_or(0.0, |area| area.rtt_ms[a][b]);
        let usual = Duration::from_secs_f64(rtt_ms / 2_000.0);
        for (from, to) in [(a, b), (b, a)] {
            self.network().set_delay(from, to, usual + late);
            if let Some(loss) = loss {
                self.network().set_loss(from, to, loss);
            }
        }
    }

    /// Resumes all paused replicas.
    pub(in crate::load) fn resume_all(&mut self) {
        self.paused.iter_mut().for_each(|paused| *paused = None);
    }

    /// The counters of each replica over all its lives. A paused replica is not asked, because it
    /// could not answer.
    pub(in crate::load) async fn tallies(&self) -> Vec<Tally> {
        let mut all = Vec::new();
        for ((place, former), paused) in self.places.iter().zip(&self.former).zip(&self.paused) {
            let mut tally = former.clone();
            if paused.is_none()
                && let Some(metrics) = place.replica().metrics().await
            {
                tally.add(&Tally::of(&metrics));
            }
            all.push(tally);
        }
        all
    }
}

/// A replica's position. The members of a local cluster never change.
fn position(replica: &Replica<Kv>) -> Option<ReplicaId> {
    replica.id().position()
}
