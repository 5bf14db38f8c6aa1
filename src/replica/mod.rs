//! The whole replica, still sans-IO: protocol, gate, execution order, failure detection. The
//! simulator and the node both drive this, unchanged.

mod io;

pub use io::{Committed, Execution, Input, Output, PeerMessage, Rejection};
