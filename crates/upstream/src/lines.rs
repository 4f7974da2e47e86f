//! The connections of an upstream: which one carries a call, and when another is opened.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::poll_immediate;
use http_body_util::Full;
use hyper::client::conn::http2;
use hyper_util::rt::TokioIo;
use paceline_core::{Error, ErrorKind, Instant, Origin, Result, Retry};
use paceline_telemetry::task;

use crate::config::Http2;
use crate::connect::{self, Io};
use crate::http::Http;
use crate::pool::Connection;

type Http2Sender = http2::SendRequest<Full<Bytes>>;

type Http2Driver = http2::Connection<TokioIo<Io>, Full<Bytes>, Tasks>;

/// A connection that carries a call.
pub(crate) enum Line {
    Http1(Box<Connection>),
    Http2(Http2Line),
}

/// An HTTP/2 connection, which calls share.
#[derive(Clone)]
pub(crate) struct Http2Line {
    pub(crate) sender: Http2Sender,
    /// Each stream under way holds a copy.
    pub(crate) streams: Arc<()>,
    /// How many the server allows, as the connection's task saw it last.
    streams_max: Arc<AtomicUsize>,
    /// Since when it was seen without a stream; of use in the list of the upstream only.
    idle_since: Option<Instant>,
}

impl Http2Line {
    /// Streams under way.
    fn busy(&self) -> usize {
        Arc::strong_count(&self.streams) - 1
    }

    /// Whether it has had no stream for so long, as far as anybody looked.
    fn is_idle(&mut self, now: Instant, expiry: Duration) -> bool {
        if self.busy() > 0 {
            self.idle_since = None;
            return false;
        }
        now.since(*self.idle_since.get_or_insert(now)) >= expiry
    }

    fn has_room(&self) -> bool {
        self.busy() < self.streams_max.load(Ordering::Relaxed)
    }
}

/// Most HTTP/2 connections of one core: further calls wait for a stream.
const HTTP2_LINES_MAX: usize = 16;

/// The number of streams of a server that has told none yet; none can tell it.
const STREAMS_UNTOLD: usize = usize::MAX - 1;

/// How often a new HTTP/2 connection is asked whether its server has told them.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// How often it is seen to that the least number of connections is open.
const WARM_EVERY: Duration = Duration::from_secs(5);

impl Http {
    /// A connection: the shared HTTP/2 one, an idle one, or a new one.
    pub(crate) async fn line(&self, fresh: bool) -> Result<Line> {
        if !fresh {
            if let Some(line) = self.shared_http2() {
                self.metrics.reused.inc();
                return Ok(Line::Http2(line));
            }
            if let Some(connection) = self.pool.take() {
                self.metrics.reused.inc();
                return Ok(Line::Http1(connection));
            }
        }
        // Boxed, so that calls on open connections carry no room for it.
        Box::pin(self.new_line()).await
    }

    /// A new connection, or a shared one that others have opened meanwhile.
    async fn new_line(&self) -> Result<Line> {
        let _turn = if self.speaks_http2.load(Ordering::Relaxed) {
            let turn = self.http2_gate.acquire().await.ok();
            if let Some(line) = self.shared_http2() {
                self.metrics.reused.inc();
                return Ok(Line::Http2(line));
            }
            turn
        } else {
            None
        };
        self.open_line().await
    }

    /// A new connection.
    async fn open_line(&self) -> Result<Line> {
        let until = self.clock.now().after(self.config.timeouts.connect);
        let opening = connect::open(&self.config, self.tls.as_ref(), &self.dns);
        let (mut io, chose_http2) = match self.clock.timeout_at(until, opening).await {
            Some(Ok(opened)) => opened,
            Some(Err(error)) => {
                return Err(self.unreachable(&not_opened(&error)).with_source(error));
            }
            None => return Err(self.unreachable("did not accept a connection in time")),
        };
        self.metrics.opened.inc();
        io.open = Some(self.metrics.open.hold());
        let broken = |error| self.unreachable("broke the handshake").with_source(error);
        if chose_http2 || self.config.http2 == Http2::Always {
            let mut builder = http2::Builder::new(Tasks);
            builder.initial_max_send_streams(STREAMS_UNTOLD);
            let (sender, mut driver) = builder.handshake(TokioIo::new(io)).await.map_err(broken)?;
            self.settings(&mut driver, until).await?;
            let streams_max = Arc::new(AtomicUsize::new(driver.current_max_send_streams()));
            let seen = Arc::clone(&streams_max);
            task::spawn("upstream.http2", async move {
                // Its end shows in the calls that use it.
                let _ = std::future::poll_fn(|cx| {
                    let ended = std::pin::Pin::new(&mut driver).poll(cx);
                    seen.store(driver.current_max_send_streams(), Ordering::Relaxed);
                    ended
                })
                .await;
            });
            self.speaks_http2.store(true, Ordering::Relaxed);
            let line = Http2Line { sender, streams: Arc::default(), streams_max, idle_since: None };
            self.http2.lock().push(line.clone());
            return Ok(Line::Http2(line));
        }
        Ok(Line::Http1(Connection::open(io).await.map_err(broken)?))
    }

    /// Waits until the server has told how many streams it allows, which it does first of all
    /// (RFC 9113, 3.4): the calls of a burst would else all go to the connection that is there,
    /// and those beyond its bound wait there for a stream.
    async fn settings(&self, driver: &mut Http2Driver, until: Instant) -> Result<()> {
        loop {
            // The frames are read by a task of hyper's, which tells nobody.
            if driver.current_max_send_streams() != STREAMS_UNTOLD {
                return Ok(());
            }
            if let Some(ended) = poll_immediate(&mut *driver).await {
                let error = self.unreachable("does not speak HTTP/2");
                return Err(match ended {
                    Ok(()) => error,
                    Err(why) => error.with_source(why),
                });
            }
            if self.clock.now() >= until {
                return Err(self.unreachable("did not begin to speak HTTP/2 in time"));
            }
            self.clock.sleep(LOOK_EVERY).await;
        }
    }

    /// An HTTP/2 connection with a stream to spare; the least busy one where there may be no
    /// further one.
    fn shared_http2(&self) -> Option<Http2Line> {
        if !self.speaks_http2.load(Ordering::Relaxed) {
            return None;
        }
        let mut lines = self.http2.lock();
        self.let_go(&mut lines);
        match lines.iter().find(|line| line.has_room()) {
            None if lines.len() < HTTP2_LINES_MAX => None,
            None => lines.iter().min_by_key(|line| line.busy()).cloned(),
            found => found.cloned(),
        }
    }

    /// Drops the connections that have ended, and those that a burst left without use. The
    /// first one with room is taken, so that the last ones are left.
    fn let_go(&self, lines: &mut Vec<Http2Line>) {
        lines.retain(|line| !line.sender.is_closed() && line.sender.is_ready());
        if lines.len() > 1 {
            let (now, expiry) = (self.clock.now(), self.config.idle_expiry);
            let mut first = true;
            lines.retain_mut(|line| std::mem::take(&mut first) || !line.is_idle(now, expiry));
        }
    }

    /// Opens connections until the least number is there, or one cannot be opened.
    async fn warm_up(&self) {
        loop {
            let under_way = self.config.calls_max - self.slots.available_permits();
            let lines = {
                let mut lines = self.http2.lock();
                self.let_go(&mut lines);
                lines.len()
            };
            if lines > 0 || self.pool.len() + under_way >= self.config.idle_connections_min {
                return;
            }
            match self.open_line().await {
                Ok(Line::Http1(connection)) => self.pool.put(connection),
                // What is the matter shows in the calls.
                Ok(Line::Http2(_)) | Err(_) => return,
            }
        }
    }

    fn unreachable(&self, what: &str) -> Error {
        self.metrics.refused.inc();
        let message = format!("the upstream `{}` at {} {what}", self.config.name, self.config.url);
        Error::new(ErrorKind::UpstreamConnect, Origin::Upstream, Retry::OtherTarget, message)
    }
}

/// Keeps the least number of connections open.
pub(crate) async fn warm(http: Weak<Http>) {
    loop {
        let Some(this) = http.upgrade() else { return };
        this.warm_up().await;
        let clock = this.clock.clone();
        drop(this);
        clock.sleep(WARM_EVERY).await;
    }
}

/// Where hyper's HTTP/2 connections start their tasks.
#[derive(Clone)]
struct Tasks;

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, future: F) {
        task::spawn("upstream.http2_stream", future);
    }
}

/// Why no connection came about, as far as the caller can do something about it.
fn not_opened(error: &std::io::Error) -> String {
    let tls = error.get_ref().and_then(|source| source.downcast_ref::<rustls::Error>());
    match tls {
        None if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            "refused the connection".to_owned()
        }
        None => format!("cannot be connected to: {error}"),
        Some(rustls::Error::InvalidCertificate(why)) => format!(
            "shows a certificate that is not trusted ({why}); `ca_file` names further authorities"
        ),
        Some(error) => format!("failed the TLS handshake: {error}"),
    }
}
