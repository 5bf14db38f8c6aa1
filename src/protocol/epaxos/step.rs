//! One step of the protocol, as its parts see it: one event, one store, one set of effects.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::Context;
use super::Fx;
use super::store::Store;
use crate::protocol::View;
use crate::types::Settings;

/// The state that all parts share.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) cx: Context,
    pub(super) store: Store,
    rng: ChaCha8Rng,
}

/// What a part may use during one step.
pub(super) struct Step<'a> {
    pub(super) cx: &'a Context,
    pub(super) view: &'a View,
    pub(super) store: &'a mut Store,
    pub(super) rng: &'a mut ChaCha8Rng,
    pub(super) fx: &'a mut Fx,
}

impl Core {
    pub(super) fn new(settings: Settings) -> Core {
        Core {
            store: Store::new(settings.quorums.n),
            rng: ChaCha8Rng::seed_from_u64(settings.seed),
            cx: Context::new(settings),
        }
    }

    pub(super) fn step<'a>(&'a mut self, view: &'a View, fx: &'a mut Fx) -> Step<'a> {
        Step { cx: &self.cx, view, store: &mut self.store, rng: &mut self.rng, fx }
    }
}

/// A part's surroundings in a unit test: replica 1 of a cluster.
#[cfg(test)]
pub(super) struct Alone {
    pub(super) core: Core,
    pub(super) view: View,
    pub(super) fx: Fx,
}

#[cfg(test)]
impl Alone {
    pub(super) fn new(n: usize, optimisations: crate::types::Optimisations) -> Alone {
        let settings = Settings {
            me: crate::types::ReplicaId::from_index(0),
            quorums: crate::types::Quorums::new(n).expect("a supported size"),
            seed: 1,
            timing: crate::types::Timing::default(),
            optimisations,
            retention: crate::types::Retention::default(),
            leases: false,
        };
        Alone { core: Core::new(settings), view: View::new(n), fx: Fx::default() }
    }

    pub(super) fn step(&mut self) -> Step<'_> {
        self.core.step(&self.view, &mut self.fx)
    }

    /// All messages since the last call, whether durable or not, each with its receivers.
    pub(super) fn said(&mut self) -> Vec<(Vec<u8>, super::Message)> {
        let all = crate::types::Durable::flushed(self.fx.end());
        let said = self.fx.messages.drain(..).filter_map(|held| held.release(all).ok());
        said.map(|out| (out.to.iter().map(|to| to.number()).collect(), out.message)).collect()
    }
}
