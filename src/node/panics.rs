//! What a thread leaves behind that panicked: locks that count as poisoned, and what it said.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks, whoever panicked while holding it.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What runs under these locks leaves the value whole at every point.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a thread said when it panicked.
pub(super) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without words").to_owned()
}
