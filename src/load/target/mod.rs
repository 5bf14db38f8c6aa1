//! What a load is put on: a cluster in this process, or one that runs.

pub(super) mod local;
pub(super) mod remote;
