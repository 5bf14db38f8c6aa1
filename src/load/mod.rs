//! Load on a cluster: what clients ask (`keys`, `values`, `workload`), when (`arrivals`), clients
//! that ask it (`drive`), what is counted (`book`) and recorded (`record`), what came of it all
//! (`report`); a wide area to do it over (`wide_area`), and the run that shows it (`demo`);
//! protocols against each other (`compare`).

mod arrivals;
mod book;
pub mod compare;
pub mod demo;
pub mod drive;
pub mod keys;
mod local;
pub mod record;
pub mod report;
pub mod values;
mod verify;
pub mod wide_area;
pub mod workload;
