//! The load on every cluster that is measured, in process and over QUIC: writes of a key that all
//! share and of keys that nobody else uses at the time.

use bytes::Bytes;
use isonomy::machine::KvCommand;

/// Outstanding commands a replica, where there is more than one in all.
pub const WINDOW: usize = 64;
/// Keys that are used in turn: far more than there are commands under way.
const KEYS: u64 = 10_000;

/// What clients ask.
#[derive(Clone)]
pub struct Load {
    hot_percent: u64,
    value: Bytes,
}

impl Load {
    /// So many commands in a hundred write the shared key.
    pub fn new(hot_percent: u64, value_bytes: usize) -> Load {
        Load { hot_percent, value: vec![b'.'; value_bytes].into() }
    }

    /// The command of this number.
    pub fn command(&self, number: u64) -> KvCommand {
        // A prime, so that the hot ones are spread.
        let hot = number * 7919 % 100 < self.hot_percent;
        let key = if hot { 0 } else { number % KEYS + 1 };
        KvCommand::Put {
            key: Bytes::copy_from_slice(&key.to_le_bytes()),
            value: self.value.clone(),
        }
    }
}

/// How many commands a new cluster executes before it is measured. Whoever counts instructions
/// takes the difference between two of these.
pub fn opening() -> u64 {
    let commands = std::env::var("ISONOMY_COMMANDS").ok();
    commands.map_or(1_000, |commands| commands.parse().expect("`ISONOMY_COMMANDS` is a number"))
}
