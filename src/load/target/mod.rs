//! What a load is put on: a cluster in this process, one that runs, or one in virtual time.

pub(super) mod local;
pub(super) mod remote;
pub(super) mod virtual_time;
