//! Tests of Fast Paxos: directed stories, random schedules, and bugs that these must find.

mod chaos;
mod quorums;
mod stories;
