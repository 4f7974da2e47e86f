//! One listening socket a core, its connections, and their graceful end.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use ::http::{Request, Response};
use bytes::Bytes;
use hyper::body::Incoming as HyperBody;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use paceline_core::Error;
use paceline_telemetry::metrics::Gauge;
use paceline_telemetry::task;
use parking_lot::Mutex;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

use crate::http::edge::{Edge, Refused};
use crate::http::tls::ServerTls;
use crate::stages::record::AnswerBody;

/// Connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 4096;

/// How long a connection without a byte may take to show its request when the end begins.
const LAST_REQUEST_TIMEOUT: Duration = Duration::from_millis(200);

/// How long a TLS handshake may take, where the head of a request may take as long.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// The least room for a head that hyper knows.
const HEAD_BYTES_MIN: usize = 8192;

/// A listening socket of one core.
pub type Listener = StdListener;

/// A listening socket could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}")]
pub struct ListenError {
    address: SocketAddr,
    source: io::Error,
}

/// Opens a socket for each of `cores` on one address, so that the kernel spreads the
/// connections; with port 0 all share the port that the first one got.
///
/// # Errors
/// When the address is taken, or not this machine's.
pub fn bind(address: SocketAddr, cores: usize) -> Result<Vec<Listener>, ListenError> {
    let fail = |source| ListenError { address, source };
    // With SO_REUSEPORT a second process could quietly take half of the connections, so
    // the address must be free for one that does not share.
    open(address, false).map_err(fail)?;
    let first = open(address, true).map_err(fail)?;
    let bound = first.local_addr().map_err(fail)?;
    let mut listeners = vec![first];
    for _ in 1..cores {
        listeners.push(open(bound, true).map_err(fail)?);
    }
    Ok(listeners)
}

fn open(address: SocketAddr, shared: bool) -> io::Result<StdListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Tells the listeners to stop.
#[derive(Clone, Default)]
pub struct Stopper(Arc<StopState>);

/// Learns that it is time to stop.
#[derive(Clone)]
pub struct Stop(Arc<StopState>);

#[derive(Default)]
struct StopState {
    stopping: AtomicBool,
    changed: Notify,
}

impl Stopper {
    /// The side that waits.
    pub fn stop(&self) -> Stop {
        Stop(Arc::clone(&self.0))
    }

    /// No new connections; those that are open end with their answers.
    pub fn begin(&self) {
        self.0.stopping.store(true, Ordering::SeqCst);
        self.0.changed.notify_waiters();
    }
}

impl Stop {
    /// Whether it is time.
    pub fn stopping(&self) -> bool {
        self.0.stopping.load(Ordering::SeqCst)
    }

    /// Waits until it is time.
    pub async fn begun(&self) {
        let mut changed = pin!(self.0.changed.notified());
        changed.as_mut().enable();
        if !self.stopping() {
            changed.await;
        }
    }
}

/// Serves a core's connections until `stop`, then waits for them at most `drain`.
///
/// # Errors
/// When the socket cannot be used at all; single failed connections are only logged.
pub async fn serve(
    listener: Listener,
    edge: Arc<Edge>,
    tls: Option<Arc<ServerTls>>,
    open: Gauge,
    stop: Stop,
    drain: Duration,
) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let mut begun = pin!(stop.begun());
    let connections = Connections { live: Arc::default(), edge, tls, open, stop: stop.clone() };
    loop {
        let accepted = std::future::poll_fn(|cx| {
            if begun.as_mut().poll(cx).is_ready() {
                return Poll::Ready(None);
            }
            listener.poll_accept(cx).map(Some)
        })
        .await;
        match accepted {
            None => break,
            Some(Ok((stream, _))) => connections.start(stream),
            Some(Err(error)) => refused(&error).await,
        }
    }
    // What the kernel has already accepted is answered, not reset. It is asked directly, as
    // the runtime may not have heard of it yet.
    let listener = listener.into_std()?;
    while let Ok((stream, _)) = listener.accept() {
        stream.set_nonblocking(true)?;
        connections.start(TcpStream::from_std(stream)?);
    }
    drop(listener);
    connections.drained(drain).await;
    Ok(())
}

async fn refused(error: &io::Error) {
    // Without a free file descriptor the connection stays in the queue; a pause keeps
    // this from spinning.
    warn!(%error, "cannot accept a connection");
    tokio::time::sleep(Duration::from_millis(50)).await;
}

/// The connections of one core.
struct Connections {
    live: Arc<Live>,
    edge: Arc<Edge>,
    tls: Option<Arc<ServerTls>>,
    open: Gauge,
    stop: Stop,
}

#[derive(Default)]
struct Live {
    count: AtomicUsize,
    changed: Notify,
}

struct Alive(Arc<Live>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::SeqCst);
        self.0.changed.notify_waiters();
    }
}

impl Connections {
    fn start(&self, stream: TcpStream) {
        if self.live.count.load(Ordering::SeqCst) >= self.edge.config().connections_max {
            // It is closed at once: a client that hears nothing would wait.
            self.edge.refused(Refused::Connections);
            return;
        }
        self.live.count.fetch_add(1, Ordering::SeqCst);
        let held = (Alive(Arc::clone(&self.live)), self.open.hold());
        let (edge, tls, stop) = (Arc::clone(&self.edge), self.tls.clone(), self.stop.clone());
        task::spawn("gateway.connection", async move {
            let _held = held;
            connection(stream, edge, tls, stop).await;
        });
    }

    /// Waits until all have ended; those left over end with their runtime.
    async fn drained(&self, bound: Duration) {
        let all = async {
            loop {
                let changed = self.live.changed.notified();
                if self.live.count.load(Ordering::SeqCst) == 0 {
                    return;
                }
                changed.await;
            }
        };
        if tokio::time::timeout(bound, all).await.is_err() {
            let open = self.live.count.load(Ordering::SeqCst);
            warn!(open, "connections were still open at the end of the drain time");
        }
    }
}

async fn connection(stream: TcpStream, edge: Arc<Edge>, tls: Option<Arc<ServerTls>>, stop: Stop) {
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "connection was lost at once");
        return;
    }
    let Some(over) = first_sign(&stream, &edge, &stop).await else { return };
    let Some(tls) = tls else {
        return converse(stream, edge, stop, over).await;
    };
    let handshake = TlsAcceptor::from(tls.current()).accept(stream);
    match tokio::time::timeout(edge.config().head_timeout.min(HANDSHAKE_TIMEOUT), handshake).await {
        Ok(Ok(stream)) => converse(stream, edge, stop, over).await,
        Ok(Err(error)) => {
            debug!(%error, "TLS handshake failed");
            edge.refused(Refused::Tls);
        }
        Err(_) => edge.refused(Refused::Tls),
    }
}

/// Waits for the first byte of a connection: whether the end had begun before it came, `None`
/// where none came in time.
async fn first_sign(stream: &TcpStream, edge: &Edge, stop: &Stop) -> Option<bool> {
    let head_timeout = edge.config().head_timeout;
    let mut begun = pin!(stop.begun());
    let mut expiry = pin!(tokio::time::sleep(head_timeout));
    // Waited for once: each further poll would take a lock that all cores share.
    let mut waiting = false;
    // hyper drops a connection without a byte as soon as the end begins, although its
    // request may be there already and is only not seen yet.
    let first = {
        let mut readable = pin!(stream.readable());
        std::future::poll_fn(|cx| {
            if readable.as_mut().poll(cx).is_ready() {
                return Poll::Ready(First::Byte);
            }
            if (!waiting || stop.stopping()) && begun.as_mut().poll(cx).is_ready() {
                return Poll::Ready(First::End);
            }
            waiting = true;
            expiry.as_mut().poll(cx).map(|()| First::Expiry)
        })
        .await
    };
    let over = matches!(first, First::End);
    let late = over && tokio::time::timeout(LAST_REQUEST_TIMEOUT, stream.readable()).await.is_err();
    (!late && !matches!(first, First::Expiry)).then_some(over)
}

/// Serves the requests of a connection; `over` tells that the end has begun already.
async fn converse<S>(stream: S, edge: Arc<Edge>, stop: Stop, over: bool)
where
    S: AsyncRead + AsyncWrite + Unpin + std::marker::Send + 'static,
{
    let config = *edge.config();
    let head_timeout = config.head_timeout;
    let mut begun = pin!(stop.begun());
    let mut expiry = pin!(tokio::time::sleep(head_timeout));
    let mut waiting = false;
    let mut builder = auto::Builder::new(Tasks);
    // The head's time limit is ours: hyper's sets a timer for every request.
    builder
        .http1()
        .header_read_timeout(None)
        .max_buf_size(config.head_bytes_max.max(HEAD_BYTES_MIN));
    let list_max = u32::try_from(config.head_bytes_max).unwrap_or(u32::MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(1024)
        .max_header_list_size(list_max);
    let activity = Arc::new(Activity::default());
    let busy = Arc::clone(&activity);
    let service =
        service_fn(move |request| guarded(Arc::clone(&edge), request, Busy::enter(&busy)));
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut ending = false;
    let result = std::future::poll_fn(|cx| {
        // First the connection, so that a request that is there is begun before the end.
        if let Poll::Ready(result) = connection.as_mut().poll(cx) {
            return Poll::Ready(result);
        }
        let mut ends = || (!waiting || stop.stopping()) && begun.as_mut().poll(cx).is_ready();
        if !ending && (over || ends()) {
            ending = true;
            connection.as_mut().graceful_shutdown();
            if let Poll::Ready(result) = connection.as_mut().poll(cx) {
                return Poll::Ready(result);
            }
        }
        waiting = true;
        while expiry.as_mut().poll(cx).is_ready() {
            let idle = activity.idle();
            if idle >= head_timeout {
                return Poll::Ready(Ok(()));
            }
            expiry.as_mut().reset(tokio::time::Instant::now() + (head_timeout - idle));
        }
        Poll::Pending
    })
    .await;
    if let Err(error) = result {
        debug!(error = &*error, "connection ended early");
    }
}

/// Answers one request, and holds `busy` until the answer has gone. The future is moved once a
/// request, so it does not hold that of the answer twice.
async fn guarded(
    edge: Arc<Edge>,
    request: Request<HyperBody>,
    busy: Busy,
) -> Result<Response<Guarded>, Infallible> {
    let response = edge.respond(request).await?;
    Ok(response.map(|body| Guarded { body, _busy: busy }))
}

/// What a new connection sees first.
enum First {
    Byte,
    End,
    Expiry,
}

/// Whether a connection is of use: a request is under way, or since when none is.
struct Activity {
    busy: AtomicUsize,
    idle_since: Mutex<Instant>,
}

impl Default for Activity {
    fn default() -> Self {
        Self { busy: AtomicUsize::new(0), idle_since: Mutex::new(Instant::now()) }
    }
}

impl Activity {
    /// For how long no request has been under way.
    fn idle(&self) -> Duration {
        match self.busy.load(Ordering::Relaxed) {
            0 => self.idle_since.lock().elapsed(),
            _ => Duration::ZERO,
        }
    }
}

/// A request under way, until its answer has gone out.
struct Busy(Arc<Activity>);

impl Busy {
    fn enter(activity: &Arc<Activity>) -> Self {
        activity.busy.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(activity))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        *self.0.idle_since.lock() = Instant::now();
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An answer's body that keeps its connection busy until it has gone out.
struct Guarded {
    body: AnswerBody,
    _busy: Busy,
}

impl http_body::Body for Guarded {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

/// Where hyper's HTTP/2 connections start their tasks.
#[derive(Clone)]
struct Tasks;

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future<Output: std::marker::Send> + std::marker::Send + 'static,
{
    fn execute(&self, future: F) {
        task::spawn("gateway.http2_stream", future);
    }
}
