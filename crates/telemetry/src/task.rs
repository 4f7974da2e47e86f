//! The only way to start a task: named, counted, and drained at the end.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinHandle;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static CHANGED: Notify = Notify::const_new();

/// Starts a task on the current runtime. Its name appears in logs when it panics.
///
/// # Panics
/// Outside a tokio runtime.
pub fn spawn<F>(name: &'static str, future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let live = Live::enter(name);
    #[expect(clippy::disallowed_methods, reason = "this is the one place that spawns")]
    tokio::spawn(async move {
        let _live = live;
        future.await
    })
}

/// Runs work that takes long on a thread of its own, counted like a task.
///
/// # Panics
/// Outside a tokio runtime.
pub fn spawn_blocking<F, T>(name: &'static str, work: F) -> JoinHandle<T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    let live = Live::enter(name);
    tokio::task::spawn_blocking(move || {
        let _live = live;
        work()
    })
}

/// How many tasks are alive in this process.
pub fn live() -> usize {
    LIVE.load(Ordering::Relaxed)
}

/// Waits until at most `rest` tasks are alive, for at most `bound`; whether they came down.
pub async fn drained(rest: usize, bound: Duration) -> bool {
    tokio::time::timeout(bound, async {
        loop {
            let changed = CHANGED.notified();
            if live() <= rest {
                return;
            }
            changed.await;
        }
    })
    .await
    .is_ok()
}

struct Live(&'static str);

impl Live {
    fn enter(name: &'static str) -> Self {
        LIVE.fetch_add(1, Ordering::Relaxed);
        Self(name)
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(task = self.0, "a task panicked; this is a bug");
        }
        LIVE.fetch_sub(1, Ordering::Relaxed);
        CHANGED.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tasks_are_counted_until_they_end() {
        let before = live();
        let (send, receive) = tokio::sync::oneshot::channel::<()>();
        let task = spawn("test", receive);
        assert_eq!(live(), before + 1);
        send.send(()).unwrap();
        task.await.unwrap().unwrap();
        assert!(drained(before, Duration::from_secs(5)).await);
    }
}
