//! The targets of a load: a cluster in this process, a running cluster, or one in virtual time.

pub(super) mod local;
pub(super) mod remote;
pub(super) mod virtual_time;
