//! Load on a cluster: what clients ask (`workload`), what they were told (`record`), how long it
//! took (`latency`), and over which wide area (`wide_area`).

pub mod latency;
pub mod record;
pub mod wide_area;
pub mod workload;
