//! One step of a protocol, as its parts see it: one event, one log, one set of effects.

use super::{Choice, DecidedLog, LogRecord, ProtocolSnapshot, Reserve};
use crate::protocol::context::Context;
use crate::protocol::{Effects, View};
use crate::types::{Settings, Slot};

/// The state that all parts of a protocol share; `Q` are its rules.
#[derive(Debug)]
pub(in crate::protocol) struct Core<Q> {
    pub(in crate::protocol) cx: Context<Q>,
    pub(in crate::protocol) log: DecidedLog,
    pub(in crate::protocol) reserve: Reserve,
}

/// What a part may use during one step.
pub(in crate::protocol) struct Step<'a, M, R, Q> {
    pub(in crate::protocol) cx: &'a Context<Q>,
    pub(in crate::protocol) view: &'a View,
    pub(in crate::protocol) log: &'a mut DecidedLog,
    pub(in crate::protocol) reserve: &'a mut Reserve,
    pub(in crate::protocol) fx: &'a mut Effects<M, R>,
}

impl<Q: Default> Core<Q> {
    pub(in crate::protocol) fn new(settings: Settings) -> Core<Q> {
        Core {
            log: DecidedLog::new(&settings),
            reserve: Reserve::new(settings.me),
            cx: Context::new(settings),
        }
    }
}

impl<Q> Core<Q> {
    pub(in crate::protocol) fn step<'a, M, R>(
        &'a mut self,
        view: &'a View,
        fx: &'a mut Effects<M, R>,
    ) -> Step<'a, M, R, Q> {
        let Core { cx, log, reserve } = self;
        Step { cx, view, log, reserve, fx }
    }

    /// For a snapshot: reservations, decisions that others may request, and the protocol's own
    /// records.
    pub(in crate::protocol) fn snapshot<R: From<LogRecord>>(
        &self,
        own: impl Iterator<Item = R>,
    ) -> (ProtocolSnapshot, Vec<R>) {
        let records = self.reserve.record().into_iter().chain(self.log.records());
        (ProtocolSnapshot { floor: self.log.floor() }, records.map(R::from).chain(own).collect())
    }

    /// Restores a record of an earlier life. `voted`: the last vote on record in a slot. Returns
    /// the slot if it is now decided; votes in it are then useless.
    pub(in crate::protocol) fn restore<'a, M, R>(
        &mut self,
        record: LogRecord,
        voted: impl FnOnce(Slot) -> Option<&'a Choice>,
        fx: &mut Effects<M, R>,
    ) -> Option<Slot> {
        match record {
            LogRecord::Decided { slot, proposal, value } => {
                self.log.restore(slot, proposal, value, voted(slot), fx);
                (!self.log.is_open(slot)).then_some(slot)
            }
            LogRecord::Reserved { names, rounds } => {
                self.reserve.restore(names, rounds);
                None
            }
        }
    }
}
