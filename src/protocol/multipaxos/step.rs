//! One step of the protocol, as its parts see it: one event, one log, one set of effects.

use super::log::Log;
use super::promised::Promised;
use super::proposals::Proposals;
use super::{Context, Fx};
use crate::protocol::View;
use crate::types::Settings;

/// The state that all parts share.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) cx: Context,
    pub(super) promised: Promised,
    pub(super) log: Log,
    pub(super) proposals: Proposals,
}

/// What a part may use during one step.
pub(super) struct Step<'a> {
    pub(super) cx: &'a Context,
    pub(super) view: &'a View,
    pub(super) promised: &'a mut Promised,
    pub(super) log: &'a mut Log,
    pub(super) proposals: &'a mut Proposals,
    pub(super) fx: &'a mut Fx,
}

impl Core {
    pub(super) fn new(settings: Settings) -> Core {
        Core {
            cx: Context::new(settings),
            promised: Promised::default(),
            log: Log::default(),
            proposals: Proposals::default(),
        }
    }

    pub(super) fn step<'a>(&'a mut self, view: &'a View, fx: &'a mut Fx) -> Step<'a> {
        let Core { cx, promised, log, proposals } = self;
        Step { cx, view, promised, log, proposals, fx }
    }
}
