//! Snapshots in the core (PROTOCOL.md §8a). `checkpoint` collects the content of a snapshot of this
//! replica; `restore` starts from one and the log after it; `install` replaces the state here by
//! another replica's. How one gets from replica to replica is in `replica::transfer`.

mod checkpoint;
mod install;
mod restore;
#[cfg(test)]
mod tests;
