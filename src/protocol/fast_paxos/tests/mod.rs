//! Fast Paxos on the stage: directed stories, chaos, and bugs that chaos has to find.

mod chaos;
mod quorums;
mod stories;
