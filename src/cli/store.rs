//! Where a replica of the key-value store keeps its state: in memory, or on disk with redb.

use std::fmt::{self, Display};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::ValueEnum;
use serde::Deserialize;

use crate::machine::{RedbOptions, RedbSource};

/// The directory of the state, in the data directory.
const STATE: &str = "state";

/// What to tell an operator whose replica is started with the wrong store.
pub(super) const OTHER_STORE: &str = "\
Start it with `--store redb`, or set `kind = \"redb\"` under [store] in its file. A replica that \
is to have its state in memory again begins anew, as if its disk was lost: see \"Members\" in the \
guide.";

/// The section `[store]` of a replica's file.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StoreFile {
    #[serde(default)]
    kind: StoreName,
    /// The most bytes of redb's file that are kept in memory.
    #[serde(default)]
    cache_bytes: Option<usize>,
    /// The most bytes of changes in memory that are not on disk.
    #[serde(default)]
    changes_bytes: Option<usize>,
}

/// The kinds of store, as named in files and flags.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(super) enum StoreName {
    /// All of it in memory; each snapshot writes it again
    #[default]
    Memory,
    /// In the data directory, with redb; it may be larger than memory
    Redb,
}

impl Display for StoreName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            StoreName::Memory => "memory",
            StoreName::Redb => "redb",
        })
    }
}

/// The smallest sizes that make sense. With less, every command waits for the disk.
const LEAST: usize = 1 << 20;

impl StoreFile {
    /// The kind of store: that of the flag, or that of the file.
    pub(super) fn kind(&self, flag: Option<StoreName>) -> StoreName {
        flag.unwrap_or(self.kind)
    }

    /// What redb may take of the memory.
    pub(super) fn options(&self) -> anyhow::Result<RedbOptions> {
        let usual = RedbOptions::default();
        let size = |name: &str, bytes: Option<usize>, usual| match bytes {
            Some(bytes) if bytes < LEAST => {
                bail!("[store]: `{name} = {bytes}` is too small: take {LEAST} or more")
            }
            _ => Ok(bytes.unwrap_or(usual)),
        };
        Ok(RedbOptions {
            cache_bytes: size("cache_bytes", self.cache_bytes, usual.cache_bytes)?,
            changes_bytes: size("changes_bytes", self.changes_bytes, usual.changes_bytes)?,
        })
    }
}

/// The state below a data directory, which a replica that keeps nothing does not have.
pub(super) fn source(data_dir: Option<&Path>, options: RedbOptions) -> anyhow::Result<RedbSource> {
    let data_dir = data_dir.context(
        "`durability = \"memory\"` keeps nothing, and the store redb keeps its state on disk: \
         change one of the two",
    )?;
    let place: PathBuf = data_dir.join(STATE);
    let (cache_bytes, changes_bytes) = (options.cache_bytes, options.changes_bytes);
    let file = place.display().to_string();
    tracing::info!(
        store = "redb",
        place = file,
        cache_bytes,
        changes_bytes,
        "the state is on disk"
    );
    Ok(RedbSource::new(place, options))
}
