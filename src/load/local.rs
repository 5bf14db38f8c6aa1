//! Replicas in this process as endpoints of the load.

use super::drive::{Endpoint, Trouble};
use crate::machine::{Kv, KvCommand, KvOutput};
use crate::node::{ProposeError, Rejected, Replica, Unknown};
use crate::types::{Consistency, RequestId};

impl Endpoint for Replica<Kv> {
    async fn submit(
        &self,
        request: RequestId,
        floor: u64,
        command: KvCommand,
    ) -> Result<KvOutput, Trouble> {
        Replica::submit(self, request, floor, command).await.map_err(trouble)
    }

    async fn read(
        &self,
        command: KvCommand,
        consistency: Consistency,
    ) -> Result<KvOutput, Trouble> {
        Replica::read(self, command, consistency).await.map_err(trouble)
    }
}

fn trouble(error: ProposeError) -> Trouble {
    match error {
        ProposeError::Rejected(Rejected::Overloaded) => Trouble::Busy,
        ProposeError::Rejected(Rejected::Stopping)
        | ProposeError::Unknown(Unknown::Stopped | Unknown::TimedOut(_)) => Trouble::Gone,
        // A command of ours that is refused for good, an output that is lost though its client
        // waits for it, a replica that broke an invariant.
        other => Trouble::Failed(other.to_string()),
    }
}
