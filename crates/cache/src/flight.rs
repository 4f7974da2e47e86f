//! Single flight: equal calls under way share one upstream exchange.
//!
//! There is no task behind a flight. Its members, the first caller and those who joined,
//! poll the exchange themselves: whoever is polled when there is something to do does it,
//! and the others read what has come from one shared list. So the plain path costs a few
//! uncontended locks, a member that leaves or reads slowly never holds up the others, and
//! the last one that leaves drops the exchange, which cancels it.

use std::collections::VecDeque;
use std::collections::hash_map::{Entry, HashMap};
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use futures_core::Stream;
use http::{HeaderMap, StatusCode};
use paceline_core::{
    Body, BoxFuture, CacheStatus, Call, Chunks, Error, ErrorKind, Origin, Reply, Result, Retry,
};
use paceline_telemetry::metrics::GaugeHold;
use parking_lot::Mutex;
use slab::Slab;
use smallvec::SmallVec;

use crate::key::{Canonical, Form, Key};
use crate::metrics::Metrics;

const SHARDS: usize = 16;

/// Bounds of the flights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlightsConfig {
    /// Bytes of an answer that a flight holds for those who join. Beyond it nobody can
    /// join any more, and a reader that is further behind is cut off. Default: 4 MiB.
    pub bytes_max: usize,
}

impl Default for FlightsConfig {
    fn default() -> Self {
        Self { bytes_max: 4 << 20 }
    }
}

/// The flights under way, shared by all cores.
pub struct Flights {
    shards: [Mutex<HashMap<Key, Arc<Flight>>>; SHARDS],
    config: FlightsConfig,
    metrics: Metrics,
}

impl Flights {
    /// No flights.
    pub fn new(config: FlightsConfig, metrics: Metrics) -> Arc<Self> {
        Arc::new(Self { shards: Default::default(), config, metrics })
    }

    /// Joins the flight of an equal call, or starts one with `answer`.
    ///
    /// # Errors
    /// What `answer` returned, for every member alike.
    ///
    /// # Cancel safety
    /// Dropping the future, or the reply's body, leaves the flight; the exchange goes on
    /// for as long as it has another member.
    pub async fn join<F>(self: &Arc<Self>, call: &Arc<Call>, key: Key, answer: F) -> Result<Reply>
    where
        F: FnOnce() -> BoxFuture<'static, Result<Reply>>,
    {
        let mut member = match self.board(call, key, answer) {
            Boarded::Member(member) => member,
            Boarded::Alone(answer) => return answer.await,
        };
        std::future::poll_fn(|cx| member.poll_head(cx)).await?;
        member.into_reply()
    }

    fn board<F>(self: &Arc<Self>, call: &Arc<Call>, key: Key, answer: F) -> Boarded
    where
        F: FnOnce() -> BoxFuture<'static, Result<Reply>>,
    {
        let key = key.form(Form::of(call));
        let mut flights = self.shard(key).lock();
        match flights.entry(key) {
            Entry::Occupied(entry) => {
                let flight = entry.get();
                if !Canonical::of(&flight.call).matches(call) {
                    drop(flights);
                    return Boarded::Alone(answer());
                }
                let member = Member::enter(flight, CacheStatus::Joined);
                self.metrics.joined.inc();
                Boarded::Member(member)
            }
            Entry::Vacant(entry) => {
                let flight = Arc::new_cyclic(|flight| Flight {
                    waker: Waker::from(Arc::new(WakeAll(Weak::clone(flight)))),
                    call: Arc::clone(call),
                    key,
                    flights: Arc::downgrade(self),
                    bytes_max: self.config.bytes_max,
                    metrics: self.metrics.clone(),
                    work: Mutex::new(Work::Head(answer())),
                    shared: Mutex::default(),
                    _open: self.metrics.flights.hold(),
                });
                let member = Member::enter(&flight, CacheStatus::Miss);
                entry.insert(flight);
                Boarded::Member(member)
            }
        }
    }

    fn shard(&self, key: Key) -> &Mutex<HashMap<Key, Arc<Flight>>> {
        &self.shards[key.0 as usize % SHARDS]
    }
}

enum Boarded {
    Member(Member),
    /// Another call has the same hash and is not equal; it goes alone.
    Alone(BoxFuture<'static, Result<Reply>>),
}

/// One upstream exchange and what came of it so far.
struct Flight {
    /// What the exchange is polled with.
    waker: Waker,
    call: Arc<Call>,
    key: Key,
    flights: Weak<Flights>,
    bytes_max: usize,
    metrics: Metrics,
    /// Locked only while it is polled, and never waited for.
    work: Mutex<Work>,
    shared: Mutex<Shared>,
    _open: GaugeHold,
}

enum Work {
    Head(BoxFuture<'static, Result<Reply>>),
    Body(Chunks),
    Done,
}

#[derive(Default)]
struct Shared {
    head: Option<Result<Head>>,
    /// A whole answer; others come in chunks.
    whole: Bytes,
    chunks: VecDeque<Bytes>,
    /// Chunks dropped from the front of the list.
    dropped: usize,
    bytes: usize,
    end: Option<Result<(), Error>>,
    members: Slab<Seat>,
    /// Removed from the table: nobody can join any more.
    closed: bool,
}

/// What the flight knows of a member.
#[derive(Default)]
struct Seat {
    /// The next chunk that it will read.
    next: usize,
    waker: Option<Waker>,
}

#[derive(Clone)]
struct Head {
    status: StatusCode,
    headers: HeaderMap,
    deployment: Option<Arc<str>>,
    /// An equal call may have been answered between the look-up and the start of the flight.
    kept: bool,
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    Whole,
    Events,
    Bytes(Option<u64>),
}

/// What came out of one poll of the work.
enum Step {
    Head(Result<Reply>),
    Chunk(Option<Result<Bytes>>),
}

/// Wakes all members: whoever runs first goes on with the work. It does not keep the
/// flight alive, as a pooled connection may hold its last waker for long.
struct WakeAll(Weak<Flight>);

impl Wake for WakeAll {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if let Some(flight) = self.0.upgrade() {
            flight.wake_members(usize::MAX);
        }
    }
}

impl Flight {
    fn wake_members(&self, except: usize) {
        let wakers: SmallVec<[Waker; 4]> = {
            let shared = self.shared.lock();
            let others = shared.members.iter().filter(|(seat, _)| *seat != except);
            others.filter_map(|(_, seat)| seat.waker.clone()).collect()
        };
        for waker in wakers {
            waker.wake();
        }
    }

    /// Polls the work unless another member is at it; whether something came of it.
    fn advance(&self, seat: usize) -> bool {
        let Some(mut slot) = self.work.try_lock() else { return false };
        let mut cx = Context::from_waker(&self.waker);
        // Taken out, so that a panic leaves it done instead of half-way.
        let mut work = std::mem::replace(&mut *slot, Work::Done);
        let polled = match &mut work {
            Work::Head(answer) => answer.as_mut().poll(&mut cx).map(Step::Head),
            Work::Body(chunks) => chunks.as_mut().poll_next(&mut cx).map(Step::Chunk),
            Work::Done => Poll::Ready(Step::Chunk(Some(Err(died())))),
        };
        let Poll::Ready(step) = polled else {
            *slot = work;
            return false;
        };
        *slot = self.publish(step, work);
        drop(slot);
        self.wake_members(seat);
        true
    }

    /// Puts into the shared list what came, and returns the work that is left.
    fn publish(&self, step: Step, work: Work) -> Work {
        let mut shared = self.shared.lock();
        let rest = match step {
            Step::Head(Ok(reply)) => {
                let Reply { status, headers, body, deployment, cache } = reply;
                let kept = cache == CacheStatus::Hit;
                let (kind, rest) = match body {
                    Body::Whole(bytes) => {
                        shared.whole = bytes;
                        shared.end = Some(Ok(()));
                        (Kind::Whole, Work::Done)
                    }
                    Body::Events(chunks) => (Kind::Events, Work::Body(chunks)),
                    Body::Bytes(chunks, length) => (Kind::Bytes(length), Work::Body(chunks)),
                };
                shared.head = Some(Ok(Head { status, headers, deployment, kept, kind }));
                rest
            }
            Step::Head(Err(error)) => {
                shared.head = Some(Err(error.clone()));
                shared.end = Some(Err(error));
                Work::Done
            }
            Step::Chunk(Some(Ok(chunk))) => {
                shared.push(chunk);
                work
            }
            Step::Chunk(Some(Err(error))) => {
                if shared.head.is_none() {
                    shared.head = Some(Err(error.clone()));
                }
                shared.end.get_or_insert(Err(error));
                Work::Done
            }
            Step::Chunk(None) => {
                shared.end = Some(Ok(()));
                Work::Done
            }
        };
        let full = shared.bytes > self.bytes_max;
        let close = !shared.closed && (full || shared.end.is_some());
        shared.closed |= close;
        if full {
            shared.trim(self.bytes_max);
        }
        drop(shared);
        if close {
            self.leave_table();
        }
        rest
    }

    fn leave_table(&self) {
        if let Some(flights) = self.flights.upgrade() {
            let mut table = flights.shard(self.key).lock();
            if table.get(&self.key).is_some_and(|found| std::ptr::eq(&**found, self)) {
                table.remove(&self.key);
            }
        }
    }
}

impl Shared {
    fn push(&mut self, chunk: Bytes) {
        self.bytes += chunk.len();
        self.chunks.push_back(chunk);
    }

    /// Drops the chunks that all members have read, and then the oldest ones until the
    /// rest is within the bound.
    fn trim(&mut self, bytes_max: usize) {
        let read = self.members.iter().map(|(_, seat)| seat.next).min().unwrap_or(usize::MAX);
        while let Some(first) = self.chunks.front() {
            let needed = self.dropped >= read && self.bytes <= bytes_max;
            // The newest chunk stays, however large, for those who have yet to read it.
            if needed || self.chunks.len() == 1 {
                return;
            }
            self.bytes -= first.len();
            self.chunks.pop_front();
            self.dropped += 1;
        }
    }
}

/// One caller's place in a flight; a stream of the answer's chunks once the head has come.
struct Member {
    flight: Arc<Flight>,
    seat: usize,
    status: CacheStatus,
    next: usize,
    over: bool,
}

impl Member {
    /// Must be called with the table locked, so that the flight is not just being left.
    fn enter(flight: &Arc<Flight>, status: CacheStatus) -> Self {
        let seat = flight.shared.lock().members.insert(Seat::default());
        Self { flight: Arc::clone(flight), seat, status, next: 0, over: false }
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        loop {
            {
                let mut shared = self.flight.shared.lock();
                match &shared.head {
                    Some(Ok(_)) => return Poll::Ready(Ok(())),
                    Some(Err(error)) => return Poll::Ready(Err(error.clone())),
                    None => shared.members[self.seat].register(cx.waker()),
                }
            }
            if !self.flight.advance(self.seat) {
                return Poll::Pending;
            }
        }
    }

    fn into_reply(self) -> Result<Reply> {
        let mut shared = self.flight.shared.lock();
        let alone = shared.closed && shared.members.len() == 1;
        let head = match &mut shared.head {
            // Nobody else will read it.
            Some(Ok(head)) if alone => Head {
                status: head.status,
                headers: std::mem::take(&mut head.headers),
                deployment: head.deployment.take(),
                kept: head.kept,
                kind: head.kind,
            },
            Some(Ok(head)) => head.clone(),
            Some(Err(error)) => return Err(error.clone()),
            None => return Err(died()),
        };
        let whole = shared.whole.clone();
        drop(shared);
        let cache = if head.kept { CacheStatus::Hit } else { self.status };
        let body = match head.kind {
            Kind::Whole => Body::Whole(whole),
            Kind::Events => Body::Events(Box::pin(self)),
            Kind::Bytes(length) => Body::Bytes(Box::pin(self), length),
        };
        let Head { status, mut headers, deployment, .. } = head;
        if cache == CacheStatus::Joined {
            headers.remove(http::header::SET_COOKIE);
        }
        Ok(Reply { status, headers, body, cache, deployment })
    }
}

impl Seat {
    fn register(&mut self, waker: &Waker) {
        match &mut self.waker {
            Some(known) => known.clone_from(waker),
            None => self.waker = Some(waker.clone()),
        }
    }
}

impl Stream for Member {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.over {
            return Poll::Ready(None);
        }
        loop {
            {
                let mut shared = this.flight.shared.lock();
                let Some(at) = this.next.checked_sub(shared.dropped) else {
                    this.over = true;
                    this.flight.metrics.lagged.inc();
                    return Poll::Ready(Some(Err(lagged())));
                };
                if let Some(chunk) = shared.chunks.get(at).cloned() {
                    this.next += 1;
                    shared.members[this.seat].next = this.next;
                    return Poll::Ready(Some(Ok(chunk)));
                }
                if let Some(end) = &shared.end {
                    this.over = true;
                    return Poll::Ready(end.clone().err().map(Err));
                }
                shared.members[this.seat].register(cx.waker());
            }
            if !this.flight.advance(this.seat) {
                return Poll::Pending;
            }
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // The table is locked first, as in `board`, so that nobody joins what is ending.
        let flights = self.flight.flights.upgrade();
        let mut table = flights.as_ref().map(|flights| flights.shard(self.flight.key).lock());
        let (seat, last, closed) = {
            let mut shared = self.flight.shared.lock();
            let seat = shared.members.try_remove(self.seat);
            let last = shared.members.is_empty();
            let closed = shared.closed;
            shared.closed |= last;
            (seat, last, closed)
        };
        let entry = match &mut table {
            Some(table) if last && !closed => table.remove(&self.flight.key),
            _ => None,
        };
        drop(table);
        drop((seat, entry));
        if last {
            // Nobody else polls it now, so this does not wait.
            let work = std::mem::replace(&mut *self.flight.work.lock(), Work::Done);
            drop(work);
        } else {
            self.flight.wake_members(usize::MAX);
        }
    }
}

fn died() -> Error {
    let message = "the shared call ended without an answer; this is a bug of Paceline";
    Error::new(ErrorKind::Internal, Origin::Paceline, Retry::SameTarget, message)
}

fn lagged() -> Error {
    let message = "this reader fell too far behind in an answer that it shares with equal calls";
    Error::new(ErrorKind::ReaderTooSlow, Origin::Client, Retry::SameTarget, message)
}

#[cfg(test)]
mod tests;
