//! Load on a cluster: what clients ask (`workload`), clients that ask it (`drive`), what they were
//! told (`record`), what came of it all (`report`); a wide area to do it over (`wide_area`), and
//! the run that shows it (`demo`); protocols
//! against each other (`compare`).

pub mod compare;
pub mod demo;
pub mod drive;
pub mod record;
pub mod report;
pub mod wide_area;
pub mod workload;
