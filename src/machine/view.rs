//! Views: the state at one moment, to be written later. A state machine makes a view on the apply
//! thread. Another thread writes it while commands are applied.

use std::fmt;
use std::io::{self, Write};

type WriteAll = Box<dyn FnOnce(&mut dyn Write) -> io::Result<()> + Send>;

/// The state of a [`StateMachine`](super::StateMachine) at one moment, which is written later. It
/// owns everything that it needs, so changes of the machine do not affect it.
///
/// A replica has at most one view at a time and drops it when it is written or has failed. Until
/// then the view keeps the old state, or its changed parts, in memory.
///
/// ```
/// use std::sync::Arc;
/// use isonomy::machine::View;
///
/// # fn main() -> std::io::Result<()> {
/// // The machine changes its map through `Arc::make_mut`, which copies it while a view exists.
/// let map = Arc::new(std::collections::BTreeMap::from([(1, "one")]));
/// let shared = Arc::clone(&map);
/// let view = View::new(move |to| shared.values().try_for_each(|it| to.write_all(it.as_bytes())));
/// let mut bytes = Vec::new();
/// view.write_to(&mut bytes)?;
/// assert_eq!(bytes, b"one");
/// # Ok(())
/// # }
/// ```
pub struct View {
    write: WriteAll,
    /// The number of bytes it will write, if that is known before.
    bytes: Option<u64>,
}

impl View {
    /// A view that is written by `write`, in pieces of any length. It is called on another thread
    /// and returns the errors of the writer that it is given. If it fails or panics, the snapshot
    /// fails and is tried again later with a new view.
    pub fn new(write: impl FnOnce(&mut dyn Write) -> io::Result<()> + Send + 'static) -> View {
        View { write: Box::new(write), bytes: None }
    }

    /// Writes the state.
    ///
    /// # Errors
    /// If `to` fails, or if the state cannot be read.
    pub fn write_to(self, to: &mut dyn Write) -> io::Result<()> {
        (self.write)(to)
    }

    /// The number of bytes it will write, if that is known before.
    pub(crate) fn bytes(&self) -> Option<u64> {
        self.bytes
    }
}

/// A view of a state that is already encoded.
impl From<Vec<u8>> for View {
    fn from(state: Vec<u8>) -> View {
        let bytes = Some(state.len() as u64);
        View { write: Box::new(move |to| to.write_all(&state)), bytes }
    }
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}
