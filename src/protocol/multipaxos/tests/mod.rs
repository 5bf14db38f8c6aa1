//! Tests of the protocol on a stage of its own: directed stories and random schedules.

mod breaches;
mod chaos;
mod stage;
mod stories;
