//! An upstream whose every byte the test decides, and which keeps every byte it received.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::http::{find, is_timeout};

/// How long a test may wait for the upstream to see something.
const PATIENCE: Duration = Duration::from_secs(30);

/// Interval at which a step that waits looks whether the peer has left.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// One step of a reply.
#[derive(Clone, Debug)]
enum Step {
    Write(Vec<u8>),
    Pause(Duration),
    Gate(Gate),
    Repeat(Vec<u8>, Duration),
    HalfClose,
    Reset,
}

/// What happens to the connection behind a reply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum After {
    #[default]
    KeepAlive,
    Close,
    Reset,
}

/// What the upstream does on one request: bytes and waits in order.
///
/// The bytes are the whole message, status line and framing included; `json` and `sse`
/// make well-formed ones.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    steps: Vec<Step>,
    after: After,
    early: bool,
}

impl Reply {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// These bytes.
    pub fn bytes(bytes: impl AsRef<[u8]>) -> Self {
        Self::new().write(bytes)
    }

    /// A JSON reply with a length.
    pub fn json(status: u16, body: &str) -> Self {
        Self::with_headers(status, &[("Content-Type", "application/json")], body)
    }

    /// A reply with these headers and a length.
    pub fn with_headers(status: u16, headers: &[(&str, &str)], body: &str) -> Self {
        let mut head = format!("HTTP/1.1 {status} Status\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
        Self::bytes(head)
    }

    /// The head of a chunked event stream; `event`s and `end` follow.
    pub fn stream() -> Self {
        Self::bytes(
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
             Transfer-Encoding: chunked\r\n\r\n",
        )
    }

    /// A whole event stream, one chunk and one write per event, with `[DONE]`.
    pub fn sse(events: &[&str]) -> Self {
        let stream = events.iter().fold(Self::stream(), |reply, event| reply.event(event));
        stream.event("[DONE]").end()
    }

    /// One event as one chunk.
    pub fn event(self, data: &str) -> Self {
        self.chunk(format!("data: {data}\n\n"))
    }

    /// One chunk.
    pub fn chunk(self, bytes: impl AsRef<[u8]>) -> Self {
        self.write(chunk(bytes.as_ref()))
    }

    /// The last chunk.
    pub fn end(self) -> Self {
        self.write("0\r\n\r\n")
    }

    /// Writes these bytes at once.
    pub fn write(self, bytes: impl AsRef<[u8]>) -> Self {
        self.step(Step::Write(bytes.as_ref().to_vec()))
    }

    /// Waits. The peer's leaving ends the wait.
    pub fn pause(self, time: Duration) -> Self {
        self.step(Step::Pause(time))
    }

    /// This reply, and then another one.
    pub fn then(mut self, other: Self) -> Self {
        self.steps.extend(other.steps);
        self.after = other.after;
        self
    }

    /// The same reply, so much later.
    pub fn late_by(mut self, time: Duration) -> Self {
        self.steps.insert(0, Step::Pause(time));
        self
    }

    /// Waits until the test opens the gate. The peer's leaving ends the wait.
    pub fn wait_for(self, gate: &Gate) -> Self {
        self.step(Step::Gate(gate.clone()))
    }

    /// Writes these bytes again and again until the peer leaves or the test ends.
    pub fn for_ever(self, bytes: impl AsRef<[u8]>, pause: Duration) -> Self {
        self.step(Step::Repeat(bytes.as_ref().to_vec(), pause))
    }

    /// Closes the writing half.
    pub fn half_close(self) -> Self {
        self.step(Step::HalfClose)
    }

    /// Resets the connection, so that the peer reads an error and not an end of file.
    pub fn reset(self) -> Self {
        let mut reply = self.step(Step::Reset);
        reply.after = After::Reset;
        reply
    }

    /// Closes the connection behind the reply.
    pub fn close(mut self) -> Self {
        self.after = After::Close;
        self
    }

    /// Starts the reply when the head of the request is there, before its body.
    pub fn early(mut self) -> Self {
        self.early = true;
        self
    }

    /// The same bytes in writes of at most `size` bytes each.
    pub fn split_every(mut self, size: usize) -> Self {
        let steps = std::mem::take(&mut self.steps);
        for step in steps {
            match step {
                Step::Write(bytes) => {
                    self.steps.extend(bytes.chunks(size).map(|part| Step::Write(part.to_vec())));
                }
                other => self.steps.push(other),
            }
        }
        self
    }

    fn step(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }
}

/// The bytes of one chunk with its size.
fn chunk(bytes: &[u8]) -> Vec<u8> {
    let size = format!("{:x}\r\n", bytes.len());
    [size.as_bytes(), bytes, b"\r\n"].concat()
}

/// Something that replies wait for and the test opens, instead of a sleep.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<Mutex<bool>>);

impl Gate {
    /// A closed gate.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets all replies pass that wait here, now and later.
    pub fn open(&self) {
        *lock(&self.0) = true;
    }

    fn is_open(&self) -> bool {
        *lock(&self.0)
    }
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    /// Every byte of it, framing included.
    pub raw: Vec<u8>,
    /// The length of status line, headers and empty line in `raw`.
    pub head_len: usize,
    /// The body without its framing; empty for an `early` reply.
    pub body: Vec<u8>,
    /// The number of its connection, from 0 in the order of arrival.
    pub connection: usize,
    /// When its head was there.
    pub at: Instant,
}

impl Request {
    /// `POST /v1/chat/completions HTTP/1.1`.
    pub fn line(&self) -> String {
        self.head().lines().next().unwrap_or_default().to_owned()
    }

    /// Request line and headers as text.
    pub fn head(&self) -> String {
        String::from_utf8_lossy(&self.raw[..self.head_len]).into_owned()
    }

    /// The values of all headers of this name, whatever its case.
    pub fn headers(&self, name: &str) -> Vec<String> {
        let head = self.head();
        head.lines()
            .skip(1)
            .filter_map(|line| line.split_once(':'))
            .filter(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim().to_owned())
            .collect()
    }

    /// The value of the first header of this name.
    pub fn header(&self, name: &str) -> Option<String> {
        self.headers(name).into_iter().next()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

type Respond = dyn Fn(&Request) -> Reply + Send + Sync;

/// An upstream that is about to start.
#[derive(Default)]
pub struct ScriptBuilder {
    replies: VecDeque<Reply>,
    otherwise: Option<Box<Respond>>,
}

impl std::fmt::Debug for ScriptBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ScriptBuilder").field("replies", &self.replies).finish_non_exhaustive()
    }
}

impl ScriptBuilder {
    /// The reply to the next request, in the order of arrival.
    pub fn reply(mut self, reply: Reply) -> Self {
        self.replies.push_back(reply);
        self
    }

    /// The reply to every request after those. Without it, such a request gets status 500,
    /// and `Script::unexpected` counts it.
    pub fn otherwise(self, reply: Reply) -> Self {
        self.respond(move |_| reply.clone())
    }

    /// Makes the reply to every request after those.
    pub fn respond(mut self, make: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        self.otherwise = Some(Box::new(make));
        self
    }

    /// Starts to listen.
    pub fn start(self) -> Script {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            state: Mutex::new(State { replies: self.replies, ..State::default() }),
            changed: Condvar::new(),
            otherwise: self.otherwise,
        });
        let accepting = Arc::clone(&shared);
        std::thread::Builder::new()
            .name(format!("upstream {address}"))
            .spawn(move || accept(&listener, &accepting))
            .unwrap();
        Script { shared, address, url: format!("http://{address}") }
    }
}

/// A running upstream. Dropping it closes its connections.
pub struct Script {
    shared: Arc<Shared>,
    address: SocketAddr,
    url: String,
}

impl std::fmt::Debug for Script {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Script").field("url", &self.url).finish_non_exhaustive()
    }
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    otherwise: Option<Box<Respond>>,
}

#[derive(Default)]
struct State {
    replies: VecDeque<Reply>,
    requests: Vec<Request>,
    /// Every connection ever accepted, so that the end of the test closes the open ones.
    connections: Vec<Option<TcpStream>>,
    left: usize,
    finished: usize,
    unexpected: usize,
    stopping: bool,
}

impl Script {
    #[expect(clippy::new_ret_no_self, reason = "reads as what it makes; `start` ends the making")]
    /// An upstream without any reply.
    pub fn new() -> ScriptBuilder {
        ScriptBuilder::default()
    }

    /// The base URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The address.
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// Every request so far.
    pub fn requests(&self) -> Vec<Request> {
        self.state().requests.clone()
    }

    /// How many requests came.
    pub fn count(&self) -> usize {
        self.state().requests.len()
    }

    /// How many connections were opened.
    pub fn connections(&self) -> usize {
        self.state().connections.len()
    }

    /// How many requests found no scripted reply.
    pub fn unexpected(&self) -> usize {
        self.state().unexpected
    }

    /// How many times the peer left before its reply was written to the end.
    pub fn left(&self) -> usize {
        self.state().left
    }

    /// Waits until so many requests are there.
    pub fn wait_for_requests(&self, count: usize) {
        self.wait(&format!("{count} requests"), |state| state.requests.len() >= count);
    }

    /// Waits until the peer has left so many unfinished replies.
    pub fn wait_for_left(&self, count: usize) {
        self.wait(&format!("{count} disconnects"), |state| state.left >= count);
    }

    /// Waits until so many replies are written to the end.
    pub fn wait_for_finished(&self, count: usize) {
        self.wait(&format!("{count} finished replies"), |state| state.finished >= count);
    }

    fn wait(&self, what: &str, enough: impl Fn(&State) -> bool) {
        let state = self.state();
        let (state, waited) = self
            .shared
            .changed
            .wait_timeout_while(state, PATIENCE, |state| !enough(state))
            .unwrap();
        let (requests, left, finished) = (state.requests.len(), state.left, state.finished);
        drop(state);
        assert!(
            !waited.timed_out(),
            "the upstream waited in vain for {what}: \
             {requests} requests, {finished} finished, {left} left"
        );
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.shared.state)
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let mut state = self.state();
        state.stopping = true;
        for connection in state.connections.iter().flatten() {
            let _ = connection.shutdown(Shutdown::Both);
        }
        drop(state);
        // Wakes the accepting thread, which then sees `stopping`.
        let _ = TcpStream::connect(self.address);
    }
}

/// A panic of another thread of the test has its own message; its lock is as good as new.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        let number = {
            let mut state = lock(&shared.state);
            if state.stopping {
                return;
            }
            state.connections.push(Some(stream.try_clone().unwrap()));
            state.connections.len() - 1
        };
        let shared = Arc::clone(shared);
        std::thread::spawn(move || {
            let mut stream = stream;
            converse(&mut stream, number, &shared);
            // With the second handle gone, the socket closes here.
            lock(&shared.state).connections[number] = None;
        });
    }
}

/// Answers the requests of one connection in turn.
fn converse(stream: &mut TcpStream, number: usize, shared: &Shared) {
    let _ = stream.set_nodelay(true);
    let mut received = Vec::new();
    let head = |bytes: &[u8]| find(bytes, b"\r\n\r\n").map(|end| end + 4);
    while let Some(head_len) = read_until(stream, &mut received, head) {
        let at = Instant::now();
        let mut request = Request {
            raw: received[..head_len].to_vec(),
            head_len,
            body: Vec::new(),
            connection: number,
            at,
        };
        let planned = lock(&shared.state).replies.pop_front();
        let early = planned.as_ref().is_some_and(|reply| reply.early);
        if early {
            received.drain(..head_len);
        } else {
            let measure = |bytes: &[u8]| body(&request, bytes).map(|(length, _)| length);
            let Some(length) = read_until(stream, &mut received, measure) else { return };
            request.body = body(&request, &received).map(|(_, body)| body).unwrap_or_default();
            request.raw = received.drain(..length).collect();
        }
        let reply = planned.unwrap_or_else(|| shared.fallback(&request));
        lock(&shared.state).requests.push(request);
        shared.changed.notify_all();
        let finished = perform(stream, &reply);
        {
            let mut state = lock(&shared.state);
            if finished {
                state.finished += 1;
            } else if !state.stopping {
                state.left += 1;
            }
        }
        shared.changed.notify_all();
        match reply.after {
            After::Reset => return,
            After::KeepAlive if finished && !early => {}
            After::KeepAlive | After::Close => return close(stream),
        }
    }
}

/// Closes the connection so that the peer can still read what was written: unread input
/// would turn the close into a reset.
fn close(stream: &mut TcpStream) {
    let _ = stream.shutdown(Shutdown::Write);
    let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
    let mut bytes = [0; 65_536];
    while matches!(stream.read(&mut bytes), Ok(1..)) {}
}

impl Shared {
    fn fallback(&self, request: &Request) -> Reply {
        if let Some(make) = &self.otherwise {
            return make(request);
        }
        lock(&self.state).unexpected += 1;
        Reply::json(500, r#"{"error":{"message":"the script has no reply left"}}"#)
    }
}

/// Reads on until `complete` tells a length; `None` when the peer leaves before.
fn read_until(
    stream: &mut TcpStream,
    received: &mut Vec<u8>,
    complete: impl Fn(&[u8]) -> Option<usize>,
) -> Option<usize> {
    let mut bytes = [0; 65_536];
    loop {
        if let Some(length) = complete(received) {
            return Some(length);
        }
        match stream.read(&mut bytes) {
            Ok(0) | Err(_) => return None,
            Ok(length) => received.extend_from_slice(&bytes[..length]),
        }
    }
}

/// The length of the whole message in `bytes` and its body, once all of it is there.
fn body(request: &Request, bytes: &[u8]) -> Option<(usize, Vec<u8>)> {
    let rest = bytes.get(request.head_len..)?;
    let chunked = request
        .header("transfer-encoding")
        .is_some_and(|value| value.eq_ignore_ascii_case("chunked"));
    if !chunked {
        let declared = request.header("content-length");
        let length: usize = declared.map_or(0, |value| value.parse().unwrap());
        let body = rest.get(..length)?;
        return Some((request.head_len + length, body.to_vec()));
    }
    let mut at = 0;
    let mut body = Vec::new();
    loop {
        let line = find(rest.get(at..)?, b"\r\n")?;
        let digits = String::from_utf8_lossy(&rest[at..at + line]).into_owned();
        let size = usize::from_str_radix(digits.split(';').next()?.trim(), 16).ok()?;
        at += line + 2;
        if size == 0 {
            let end = find(rest.get(at - 2..)?, b"\r\n\r\n")?;
            return Some((request.head_len + at - 2 + end + 4, body));
        }
        body.extend_from_slice(rest.get(at..at + size)?);
        at += size + 2;
    }
}

/// Performs the steps; `false` when the peer left before the last one was done.
fn perform(stream: &mut TcpStream, reply: &Reply) -> bool {
    reply.steps.iter().all(|step| match step {
        Step::Write(bytes) => stream.write_all(bytes).is_ok(),
        Step::Pause(time) => {
            let until = Instant::now() + *time;
            wait_until(stream, || Instant::now() >= until)
        }
        Step::Gate(gate) => wait_until(stream, || gate.is_open()),
        Step::Repeat(bytes, pause) => loop {
            let until = Instant::now() + *pause;
            if stream.write_all(bytes).is_err() || !wait_until(stream, || Instant::now() >= until) {
                return false;
            }
        },
        Step::HalfClose => stream.shutdown(Shutdown::Write).is_ok(),
        Step::Reset => {
            // With no linger, the close that follows sends a reset.
            let socket = socket2::SockRef::from(&*stream);
            socket.set_linger(Some(Duration::ZERO)).is_ok()
        }
    })
}

/// Waits, and looks meanwhile whether the peer has left; `false` when it has.
fn wait_until(stream: &TcpStream, done: impl Fn() -> bool) -> bool {
    let mut byte = [0];
    while !done() {
        stream.set_read_timeout(Some(LOOK_EVERY)).unwrap();
        match stream.peek(&mut byte) {
            Ok(0) => return false,
            // The next request is here already, so the peer is, too.
            Ok(_) => std::thread::sleep(LOOK_EVERY),
            Err(error) if is_timeout(&error) => {}
            Err(_) => return false,
        }
    }
    stream.set_read_timeout(None).unwrap();
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{self, Connection, Ending};

    #[test]
    fn replies_come_in_order_and_requests_are_kept_byte_for_byte() {
        let upstream = Script::new()
            .reply(Reply::json(200, r#"{"n":1}"#))
            .reply(Reply::json(429, r#"{"n":2}"#))
            .start();
        let mut connection = Connection::to(upstream.url());
        let sent =
            b"POST /a HTTP/1.1\r\nHost: x\r\nX-Odd:  two  spaces\r\nContent-Length: 3\r\n\r\nabc";
        connection.send(sent);
        assert_eq!(connection.response().text(), r#"{"n":1}"#);
        let chunked = b"POST /b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nde\r\n1\r\nf\r\n0\r\n\r\n";
        connection.send(chunked);
        let second = connection.response();
        assert_eq!((second.status, second.ending), (429, Ending::Whole));

        let requests = upstream.requests();
        assert_eq!(requests[0].raw, sent);
        assert_eq!(requests[0].text(), "abc");
        assert_eq!(requests[0].line(), "POST /a HTTP/1.1");
        assert_eq!(requests[0].header("x-odd").as_deref(), Some("two  spaces"));
        assert_eq!(requests[1].raw, chunked);
        assert_eq!(requests[1].text(), "def");
        assert_eq!((upstream.connections(), upstream.unexpected()), (1, 0));

        assert_eq!(http::get(upstream.url()).status, 500);
        assert_eq!(upstream.unexpected(), 1);
    }

    #[test]
    fn a_gate_holds_the_rest_of_a_stream() {
        let gate = Gate::new();
        let reply = Reply::stream().event("one").wait_for(&gate).event("two").end();
        let upstream = Script::new().reply(reply).start();
        let mut connection = Connection::to(upstream.url());
        connection.send(&http::compose("GET", upstream.url(), &[], b""));
        let head = connection.head();
        let first = connection.piece().unwrap();
        assert_eq!(first.bytes, b"data: one\n\n");
        let opened_at = Instant::now();
        gate.open();
        let rest = connection.rest(head);
        assert_eq!(rest.events(), ["two"]);
        assert_eq!(rest.ending, Ending::Whole);
        assert!(rest.pieces[0].at >= opened_at);
        upstream.wait_for_finished(1);
    }

    #[test]
    fn every_ending_is_told_apart() {
        let check = |reply: Reply, expected: Ending, body: &str| {
            let upstream = Script::new().reply(reply).start();
            let response = http::get(upstream.url());
            assert_eq!((response.ending, response.text().as_str()), (expected, body));
        };
        let head = "HTTP/1.1 200 OK\r\n";
        check(Reply::bytes(format!("{head}\r\nall")).close(), Ending::Whole, "all");
        check(
            Reply::bytes(format!("{head}Content-Length: 9\r\n\r\nhalf")).close(),
            Ending::Cut,
            "half",
        );
        check(Reply::stream().chunk("a").close(), Ending::Cut, "a");
        check(Reply::stream().chunk("a").reset(), Ending::Cut, "a");
        check(Reply::stream().chunk("a").end().close(), Ending::Whole, "a");
        check(Reply::stream().chunk("ab").end().split_every(1), Ending::Whole, "ab");
    }

    #[test]
    fn a_peer_that_leaves_ends_a_stream_without_end() {
        let reply = Reply::stream().for_ever(chunk(b"x"), Duration::from_millis(1));
        let upstream = Script::new().otherwise(reply).start();
        let mut connection = Connection::to(upstream.url());
        connection.send(&http::compose("GET", upstream.url(), &[], b""));
        connection.head();
        connection.piece().unwrap();
        drop(connection);
        upstream.wait_for_left(1);
    }

    #[test]
    fn a_half_closed_client_still_gets_its_reply() {
        let upstream = Script::new().otherwise(Reply::json(200, "{}").close()).start();
        let request = http::compose("GET", upstream.url(), &[], b"");
        let reply = http::raw(upstream.addr(), &request);
        assert!(reply.ends_with(b"\r\n\r\n{}"));
    }

    #[test]
    fn an_early_reply_does_not_wait_for_the_body() {
        let upstream = Script::new().reply(Reply::json(413, "{}").early()).start();
        let mut connection = Connection::to(upstream.url());
        connection.send(b"POST / HTTP/1.1\r\nContent-Length: 1000000\r\n\r\nnot all");
        assert_eq!(connection.response().status, 413);
        assert!(connection.closes_within(PATIENCE));
    }
}
