//! One clock for all waiting: real time, or virtual time that jumps to the next deadline.
//!
//! Everything in Paceline that waits or takes a time stamp goes through a [`Clock`], so that
//! a replay runs the same code in virtual time, where an hour passes in seconds. Virtual
//! time is exact in nanoseconds: it does not use the runtime's timers, which round up to
//! 1 ms while a decode step takes about 6 ms.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use slab::Slab;

/// A point in time, in nanoseconds since the clock's origin.
///
/// The origin of the real clock is its first use in the process, that of a virtual clock
/// the start of the replay; points of different clocks must not be compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// The point `ns` nanoseconds after the clock's origin.
    pub const fn from_nanos(ns: u64) -> Self {
        Self(ns)
    }

    /// Nanoseconds since the clock's origin.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Seconds since the clock's origin.
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / 1e9
    }

    /// The time from `earlier` to here; zero when `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The point `by` later; saturates at the end of time (584 years).
    pub fn after(self, by: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// The source of time for everything that waits. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Clock(Option<Arc<Timers>>);

impl Clock {
    /// The monotonic clock of the machine; waits use the tokio runtime's timers, which are
    /// exact to 1 ms.
    pub const fn real() -> Self {
        Self(None)
    }

    /// Whether this clock jumps instead of waiting.
    pub const fn is_virtual(&self) -> bool {
        self.0.is_some()
    }

    /// The present time.
    pub fn now(&self) -> Instant {
        match &self.0 {
            None => Instant(u64::try_from(origin().elapsed().as_nanos()).unwrap_or(u64::MAX)),
            Some(timers) => Instant(timers.now.load(Ordering::Relaxed)),
        }
    }

    /// Waits until `at`; returns at once when that has passed.
    ///
    /// # Panics
    /// When it is first polled outside a tokio runtime with timers (real clock only).
    pub fn sleep_until(&self, at: Instant) -> Sleep {
        match &self.0 {
            None => Sleep(Kind::Real {
                at,
                sleep: Box::pin(tokio::time::sleep_until(
                    (origin() + Duration::from_nanos(at.0)).into(),
                )),
            }),
            Some(timers) => {
                Sleep(Kind::Virtual { timers: Arc::clone(timers), at: at.0, slot: None })
            }
        }
    }

    /// Waits for `time` from now.
    pub fn sleep(&self, time: Duration) -> Sleep {
        self.sleep_until(self.now().after(time))
    }

    /// Runs `future` until `at`; `None` when the time ran out first.
    pub async fn timeout_at<F: Future>(&self, at: Instant, future: F) -> Option<F::Output> {
        let mut future = std::pin::pin!(future);
        let mut sleep = self.sleep_until(at);
        std::future::poll_fn(move |cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Some(output));
            }
            Pin::new(&mut sleep).poll(cx).map(|()| None)
        })
        .await
    }
}

/// The future of [`Clock::sleep_until`]. Dropping it cancels the wait.
#[derive(Debug)]
pub struct Sleep(Kind);

#[derive(Debug)]
enum Kind {
    Real { at: Instant, sleep: Pin<Box<tokio::time::Sleep>> },
    Virtual { timers: Arc<Timers>, at: u64, slot: Option<usize> },
}

impl Sleep {
    /// When this sleep ends.
    pub fn deadline(&self) -> Instant {
        match &self.0 {
            Kind::Real { at, .. } => *at,
            Kind::Virtual { at, .. } => Instant(*at),
        }
    }

    /// Moves the end of this sleep, also after it has ended.
    pub fn reset(&mut self, to: Instant) {
        match &mut self.0 {
            Kind::Real { at, sleep } => {
                *at = to;
                sleep.as_mut().reset((origin() + Duration::from_nanos(to.0)).into());
            }
            Kind::Virtual { timers, at, slot } => {
                *at = to.0;
                timers.forget(slot.take());
            }
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.0 {
            Kind::Real { sleep, .. } => sleep.as_mut().poll(cx),
            Kind::Virtual { timers, at, slot } => {
                if timers.now.load(Ordering::Relaxed) >= *at {
                    timers.forget(slot.take());
                    return Poll::Ready(());
                }
                timers.register(*at, slot, cx.waker());
                Poll::Pending
            }
        }
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Kind::Virtual { timers, slot, .. } = &mut self.0 {
            timers.forget(slot.take());
        }
    }
}

/// A virtual run stood still: every task waits, and none of them for the clock.
#[derive(Debug, thiserror::Error)]
#[error("virtual time stands still at {at_s:.3} s: every task waits for another one")]
pub struct Stalled {
    /// Virtual time when it happened, in seconds.
    pub at_s: f64,
}

/// Runs `main` to its end in virtual time, on this thread, starting at zero.
///
/// All tasks run on one current-thread runtime; when none can go on, the clock jumps to
/// the next deadline. Deadlines that fall together fire in the order of their
/// registration, so the same program gives the same result each time.
///
/// # Errors
/// [`Stalled`] when no task can go on and nobody waits for the clock.
pub fn run_virtual<F, Fut>(main: F) -> Result<Fut::Output, Stalled>
where
    F: FnOnce(Clock) -> Fut,
    Fut: Future,
{
    let timers = Arc::new(Timers::default());
    let idle = Arc::clone(&timers);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .on_thread_park(move || idle.advance())
        .build()
        .expect("a runtime without I/O needs nothing from the system");
    let mut main = std::pin::pin!(main(Clock(Some(Arc::clone(&timers)))));
    runtime.block_on(std::future::poll_fn(|cx| {
        if let Poll::Ready(output) = main.as_mut().poll(cx) {
            return Poll::Ready(Ok(output));
        }
        if timers.stalled.load(Ordering::Relaxed) {
            let at_s = timers.now.load(Ordering::Relaxed) as f64 / 1e9;
            return Poll::Ready(Err(Stalled { at_s }));
        }
        *timers.main.lock() = Some(cx.waker().clone());
        Poll::Pending
    }))
}

fn origin() -> std::time::Instant {
    static ORIGIN: OnceLock<std::time::Instant> = OnceLock::new();
    *ORIGIN.get_or_init(std::time::Instant::now)
}

/// The timers of a virtual clock.
#[derive(Debug, Default)]
struct Timers {
    now: AtomicU64,
    queue: Mutex<Queue>,
    main: Mutex<Option<Waker>>,
    stalled: AtomicBool,
}

#[derive(Debug, Default)]
struct Queue {
    /// Deadline, registration number, slot. A heap entry whose slot holds another number
    /// has been cancelled.
    heap: BinaryHeap<Reverse<(u64, u64, usize)>>,
    slots: Slab<(u64, Waker)>,
    registered: u64,
}

impl Timers {
    fn register(&self, at: u64, slot: &mut Option<usize>, waker: &Waker) {
        let mut queue = self.queue.lock();
        if let Some((_, old)) = slot.and_then(|slot| queue.slots.get_mut(slot)) {
            old.clone_from(waker);
            return;
        }
        queue.registered += 1;
        let number = queue.registered;
        let key = queue.slots.insert((number, waker.clone()));
        queue.heap.push(Reverse((at, number, key)));
        *slot = Some(key);
    }

    fn forget(&self, slot: Option<usize>) {
        if let Some(slot) = slot {
            self.queue.lock().slots.try_remove(slot);
        }
    }

    /// Jumps to the next deadline and wakes the one task that waits for it. Called when no
    /// task can go on.
    fn advance(&self) {
        let mut queue = self.queue.lock();
        while let Some(Reverse((at, number, slot))) = queue.heap.pop() {
            let live = queue.slots.get(slot).filter(|(current, _)| *current == number);
            if let Some((_, waker)) = live {
                let waker = waker.clone();
                self.now.fetch_max(at, Ordering::Relaxed);
                drop(queue);
                waker.wake();
                return;
            }
        }
        drop(queue);
        self.stalled.store(true, Ordering::Relaxed);
        if let Some(main) = self.main.lock().take() {
            main.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn virtual_time_is_exact_and_ordered() {
        let log = run_virtual(|clock| async move {
            let log = Arc::new(Mutex::new(Vec::new()));
            let waits: Vec<_> = [7_000_001u64, 3, 7_000_001, 5]
                .into_iter()
                .enumerate()
                .map(|(name, ns)| {
                    let (clock, log) = (clock.clone(), Arc::clone(&log));
                    async move {
                        clock.sleep(Duration::from_nanos(ns)).await;
                        log.lock().push((name, clock.now().as_nanos()));
                    }
                })
                .collect();
            join_all(waits).await;
            Arc::try_unwrap(log).unwrap().into_inner()
        })
        .unwrap();
        assert_eq!(log, [(1, 3), (3, 5), (0, 7_000_001), (2, 7_000_001)]);
    }

    #[test]
    fn a_dropped_or_moved_sleep_does_not_hold_time() {
        let end = run_virtual(|clock| async move {
            let lost = clock.timeout_at(Instant::from_nanos(10), clock.sleep(Duration::MAX)).await;
            assert!(lost.is_none());
            let mut sleep = clock.sleep(Duration::from_secs(9));
            sleep.reset(Instant::from_nanos(25));
            sleep.await;
            clock.now().as_nanos()
        });
        assert_eq!(end.unwrap(), 25);
    }

    #[test]
    fn a_deadlock_is_an_error() {
        let stalled = run_virtual(|clock| async move {
            clock.sleep(Duration::from_secs(2)).await;
            std::future::pending::<()>().await;
        });
        assert_eq!(stalled.unwrap_err().at_s, 2.0);
    }

    /// Polls all futures in turn until each has ended.
    async fn join_all<F: Future<Output = ()>>(futures: Vec<F>) {
        let mut futures: Vec<_> = futures.into_iter().map(|f| Some(Box::pin(f))).collect();
        std::future::poll_fn(move |cx| {
            for slot in &mut futures {
                if slot.as_mut().is_some_and(|future| future.as_mut().poll(cx).is_ready()) {
                    *slot = None;
                }
            }
            if futures.iter().all(Option::is_none) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}
