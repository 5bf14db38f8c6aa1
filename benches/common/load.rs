//! The load for every cluster that is measured, in this process and over QUIC. Some commands write
//! one shared key, and the others write keys that no other command uses at the time.

use bytes::Bytes;
use isonomy::machine::KvCommand;

/// Commands under way at each replica, in benchmarks with more than one command at a time.
pub const WINDOW: usize = 64;
/// Keys that are used in turn. There are far more of them than commands under way.
const KEYS: u64 = 10_000;

/// The commands that clients send.
#[derive(Clone)]
pub struct Load {
    hot_percent: u64,
    value: Bytes,
}

impl Load {
    /// Of a hundred commands, `hot_percent` write the shared key.
    pub fn new(hot_percent: u64, value_bytes: usize) -> Load {
        Load { hot_percent, value: vec![b'.'; value_bytes].into() }
    }

    /// The command with this number.
    pub fn command(&self, number: u64) -> KvCommand {
        // The factor is a prime number, which spreads the hot commands.
        let hot = number * 7919 % 100 < self.hot_percent;
        let key = if hot { 0 } else { number % KEYS + 1 };
        KvCommand::Put {
            key: Bytes::copy_from_slice(&key.to_le_bytes()),
            value: self.value.clone(),
        }
    }
}

/// How many commands a new cluster executes before it is measured. To count instructions, take the
/// difference between two runs with different values.
pub fn opening() -> u64 {
    let commands = std::env::var("ISONOMY_COMMANDS").ok();
    commands.map_or(1_000, |commands| commands.parse().expect("`ISONOMY_COMMANDS` is a number"))
}
