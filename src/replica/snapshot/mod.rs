//! Snapshots in the core (PROTOCOL.md §8a). In the order of their lives: `checkpoint` takes what an
//! own one holds; `restore` begins a life with one, and with the log after it; `transfer` hands one
//! to another replica; `install` takes in another replica's.

mod checkpoint;
mod install;
mod restore;
#[cfg(test)]
mod tests;
mod transfer;
