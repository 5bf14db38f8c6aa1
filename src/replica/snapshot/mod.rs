//! Snapshots in the core (PROTOCOL.md §8a). `checkpoint` collects the content of a snapshot of this
//! replica; `restore` starts from one and the log after it; `transfer` sends one to another
//! replica; `install` replaces the state here by another replica's.

mod checkpoint;
mod install;
mod restore;
#[cfg(test)]
mod tests;
mod transfer;
