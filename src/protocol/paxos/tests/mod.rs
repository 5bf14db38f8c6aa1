//! Tests of Paxos: directed stories, random schedules, and bugs that these must find.

mod chaos;
mod stories;
