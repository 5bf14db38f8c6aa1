//! What the room promises, on a stage of its own: directed stories, and schedules at random.

mod breaches;
mod chaos;
mod stage;
mod stories;
