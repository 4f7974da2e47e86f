//! Idle HTTP/1.1 connections of one deployment on one core.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use paceline_core::{Clock, Instant};
use paceline_telemetry::metrics::GaugeHold;
use paceline_telemetry::task;
use parking_lot::Mutex;

use crate::connect::Io;
use crate::metrics::Metrics;

/// How often dead and expired connections are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// An HTTP/1.1 connection with both of its ends: whoever holds it polls it.
pub(crate) struct Connection {
    pub(crate) sender: http1::SendRequest<Full<Bytes>>,
    pub(crate) driver: http1::Connection<TokioIo<Io>, Full<Bytes>>,
    heard: Arc<AtomicBool>,
    pub(crate) reused: bool,
    /// How long the server keeps it, where it says so.
    kept_for: Option<Duration>,
}

impl Connection {
    pub(crate) async fn open(io: Io) -> hyper::Result<Box<Self>> {
        let heard = io.heard();
        let (sender, driver) =
            http1::Builder::new().max_headers(200).handshake(TokioIo::new(io)).await?;
        Ok(Box::new(Self { sender, driver, heard, reused: false, kept_for: None }))
    }

    /// Lets the connection read and write; ready when it has ended.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.driver).poll(cx).map(|_| ())
    }

    /// Whether a byte was read since it was taken from the pool.
    pub(crate) fn heard(&self) -> bool {
        self.heard.load(Ordering::Relaxed)
    }

    /// The server keeps it so long when it is idle; it is left before that.
    pub(crate) fn kept_for(&mut self, time: Duration) {
        self.kept_for = Some(time.saturating_sub(KEPT_MARGIN));
    }

    /// Whether it is still open. One poll; it makes no system call unless something came.
    fn alive(&mut self) -> bool {
        self.poll(&mut Context::from_waker(Waker::noop())).is_pending() && self.sender.is_ready()
    }
}

/// How much sooner than the server an idle connection is left.
const KEPT_MARGIN: Duration = Duration::from_secs(1);

/// An idle connection, until when it is kept, and the gauge that counts it.
type Idle = (Box<Connection>, Instant, GaugeHold);

/// The idle connections; the last one used is the first one taken.
pub(crate) struct Pool {
    idle: Mutex<Vec<Idle>>,
    idle_max: usize,
    expiry: Duration,
    clock: Clock,
    metrics: Metrics,
}

impl Pool {
    /// Makes a pool and starts the task that sweeps it until it drops.
    pub(crate) fn start(
        idle_max: usize,
        expiry: Duration,
        clock: Clock,
        metrics: Metrics,
    ) -> Arc<Self> {
        let pool = Arc::new(Self { idle: Mutex::default(), idle_max, expiry, clock, metrics });
        task::spawn("upstream.sweep", sweep(Arc::downgrade(&pool)));
        pool
    }

    /// A live idle connection.
    pub(crate) fn take(&self) -> Option<Box<Connection>> {
        loop {
            let (mut connection, ..) = self.idle.lock().pop()?;
            if connection.alive() {
                connection.reused = true;
                connection.heard.store(false, Ordering::Relaxed);
                return Some(connection);
            }
        }
    }

    /// Takes a connection back after its exchange, when it can carry another one.
    pub(crate) fn put(&self, mut connection: Box<Connection>) {
        if !connection.alive() {
            return;
        }
        let time = connection.kept_for.map_or(self.expiry, |time| time.min(self.expiry));
        let until = self.clock.now().after(time);
        let entry = (connection, until, self.metrics.idle.hold());
        let mut idle = self.idle.lock();
        if idle.len() < self.idle_max {
            idle.push(entry);
        }
    }

    /// Drops the connections that the server closed or that were idle for too long.
    fn sweep(&self) {
        let now = self.clock.now();
        self.idle.lock().retain_mut(|(connection, until, _)| now < *until && connection.alive());
    }

    /// How many are idle.
    pub(crate) fn len(&self) -> usize {
        self.idle.lock().len()
    }
}

async fn sweep(pool: Weak<Pool>) {
    let Some(clock) = pool.upgrade().map(|pool| pool.clock.clone()) else { return };
    loop {
        clock.sleep(SWEEP_EVERY).await;
        let Some(pool) = pool.upgrade() else { return };
        pool.sweep();
    }
}
