use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks what no panic leaves half changed, so that a thread that panicked with the lock does not end the others.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
