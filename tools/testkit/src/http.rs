//! A raw HTTP/1.1 client: it sends exactly the bytes that a test wants, and tells what
//! came back, when, and whether it was whole.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// A test that waits longer than this for bytes has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// How a message ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// At the length or the last chunk that it announced, or at the close that it chose.
    Whole,
    /// The connection broke before that.
    Cut,
}

/// A piece of a body, as it came out of the socket and without its framing.
#[derive(Clone, Debug)]
pub struct Piece {
    /// When it was there.
    pub at: Instant,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// The first part of a response.
#[derive(Clone, Debug)]
pub struct Head {
    /// The status.
    pub status: u16,
    /// Names in lower case, in the order of the message.
    pub headers: Vec<(String, String)>,
    /// The bytes as they came, with the empty line.
    pub raw: Vec<u8>,
    /// When the last byte of it was there.
    pub at: Instant,
}

impl Head {
    /// The value of the first header of this name (lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// A whole response.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// Status, headers and the bytes of them.
    pub head: Head,
    /// The body without its framing.
    pub body: Vec<u8>,
    /// The body in the pieces in which it came.
    pub pieces: Vec<Piece>,
    /// Whether the body came to its end.
    pub ending: Ending,
}

impl Response {
    /// The value of the first header of this name (lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.header(name)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The data of every server-sent event.
    pub fn events(&self) -> Vec<String> {
        let text = self.text();
        text.lines().filter_map(|line| line.strip_prefix("data:")).map(trimmed).collect()
    }
}

fn trimmed(text: &str) -> String {
    text.strip_prefix(' ').unwrap_or(text).to_owned()
}

/// The address in `http://127.0.0.1:8080/path`.
pub fn address(url: &str) -> SocketAddr {
    let authority = split(url).0;
    authority.parse().unwrap_or_else(|error| panic!("{url} has no IP address and port: {error}"))
}

/// Authority and path; the path of `http://host` is `/`.
fn split(url: &str) -> (&str, &str) {
    let rest = url.strip_prefix("http://").unwrap_or_else(|| panic!("{url} is no http:// URL"));
    rest.find('/').map_or((rest, "/"), |slash| rest.split_at(slash))
}

/// Sends `GET`, and reads the whole response.
pub fn get(url: &str) -> Response {
    request("GET", url, &[], b"")
}

/// Sends `POST` with a JSON body, and reads the whole response.
pub fn post(url: &str, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Response {
    request("POST", url, headers, body.as_ref())
}

/// Sends one request on a connection of its own, and reads the whole response.
pub fn request(method: &str, url: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
    let mut connection = Connection::open(address(url));
    connection.send(&compose(method, url, headers, body));
    connection.response()
}

/// The bytes of a request with `Host`, and with `Content-Length` and a JSON
/// `Content-Type` where it has a body.
pub fn compose(method: &str, url: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let (authority, path) = split(url);
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: {authority}\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() || method == "POST" {
        let length = body.len();
        text.push_str(&format!("Content-Type: application/json\r\nContent-Length: {length}\r\n"));
    }
    text.push_str("\r\n");
    [text.as_bytes(), body].concat()
}

/// Sends these bytes, closes the writing half, and returns all that comes back until the
/// peer closes.
pub fn raw(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut connection = Connection::open(address);
    connection.send(bytes);
    connection.finish_writing();
    connection.until_close()
}

/// One connection. Dropping it is the client's disconnect.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    /// Received and not yet used.
    buffer: Vec<u8>,
    framing: Framing,
    head_only: bool,
    ending: Option<Ending>,
}

/// How the end of the body is told.
#[derive(Clone, Copy, Debug)]
enum Framing {
    /// So many bytes are still to come.
    Length(u64),
    /// So many bytes of the current chunk are still to come; `None` before a size line.
    Chunked(Option<u64>),
    /// At the close of the connection.
    Close,
}

impl Connection {
    /// Connects.
    pub fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)
            .unwrap_or_else(|error| panic!("cannot connect to {address}: {error}"));
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self {
            stream,
            buffer: Vec::new(),
            framing: Framing::Length(0),
            head_only: false,
            ending: None,
        }
    }

    /// Connects to the server of a base URL.
    pub fn to(url: &str) -> Self {
        Self::open(address(url))
    }

    /// Sends bytes, as they are.
    pub fn send(&mut self, bytes: &[u8]) {
        self.head_only = bytes.starts_with(b"HEAD ");
        self.stream.write_all(bytes).unwrap();
    }

    /// Sends bytes; tells `false` where the peer takes no more, which is what a test of an
    /// early refusal expects.
    pub fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// Closes the writing half: the peer reads an end of file, and can still answer.
    pub fn finish_writing(&mut self) {
        // A peer that has closed already has read all that it wants.
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// The port of this end, by which a server's log knows the connection.
    pub fn local_port(&self) -> u16 {
        self.stream.local_addr().unwrap().port()
    }

    /// Reads status and headers. Responses of the 1xx kind are passed over.
    pub fn head(&mut self) -> Head {
        loop {
            let head = self.any_head().unwrap_or_else(|| panic!("closed before a response"));
            if !(100..200).contains(&head.status) {
                return head;
            }
        }
    }

    /// Reads status and headers of the next response, or `None` where the peer closed.
    pub fn any_head(&mut self) -> Option<Head> {
        let end = loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                break end + 4;
            }
            if !self.fill() {
                return None;
            }
        };
        let raw: Vec<u8> = self.buffer.drain(..end).collect();
        let head = parse_head(raw);
        self.framing = if self.head_only || head.status < 200 || matches!(head.status, 204 | 304) {
            Framing::Length(0)
        } else {
            framing(&head)
        };
        self.ending = None;
        Some(head)
    }

    /// Reads the next piece of the body, or `None` at its end; `ending` then tells which.
    pub fn piece(&mut self) -> Option<Piece> {
        while self.ending.is_none() {
            if let Some(bytes) = self.decode() {
                return Some(Piece { at: Instant::now(), bytes });
            }
            if self.ending.is_none() && !self.fill() {
                let closes = matches!(self.framing, Framing::Close);
                self.ending = Some(if closes { Ending::Whole } else { Ending::Cut });
            }
        }
        None
    }

    /// How the body ended; only known after the last piece.
    pub fn ending(&self) -> Option<Ending> {
        self.ending
    }

    /// Reads a whole response.
    pub fn response(&mut self) -> Response {
        let head = self.head();
        self.rest(head)
    }

    /// Reads what remains of a response.
    pub fn rest(&mut self, head: Head) -> Response {
        let mut pieces = Vec::new();
        while let Some(piece) = self.piece() {
            pieces.push(piece);
        }
        let body = pieces.iter().flat_map(|piece| piece.bytes.iter().copied()).collect();
        let ending = self.ending.unwrap_or(Ending::Cut);
        Response { status: head.status, head, body, pieces, ending }
    }

    /// Reads until the peer closes, without a look at the bytes.
    pub fn until_close(&mut self) -> Vec<u8> {
        while self.fill() {}
        std::mem::take(&mut self.buffer)
    }

    /// Whether the peer closes within this time. Bytes that come before are kept.
    pub fn closes_within(&mut self, time: Duration) -> bool {
        let until = Instant::now() + time;
        let mut open = true;
        while open && let Some(left) = until.checked_duration_since(Instant::now()) {
            self.stream.set_read_timeout(Some(left.max(Duration::from_millis(1)))).unwrap();
            open = self.try_fill().unwrap_or(true);
        }
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        !open
    }

    /// Takes a piece of the body out of the buffer, or sets the ending, or needs more.
    fn decode(&mut self) -> Option<Vec<u8>> {
        match self.framing {
            Framing::Length(0) => {
                self.ending = Some(Ending::Whole);
                None
            }
            Framing::Length(left) => {
                let bytes = self.take(left)?;
                self.framing = Framing::Length(left - bytes.len() as u64);
                Some(bytes)
            }
            Framing::Close => self.take(u64::MAX),
            Framing::Chunked(Some(0)) => {
                // The line break behind a chunk's data.
                if self.buffer.len() >= 2 {
                    assert_eq!(&self.buffer[..2], b"\r\n", "a chunk is longer than its size");
                    self.buffer.drain(..2);
                    self.framing = Framing::Chunked(None);
                    return self.decode();
                }
                None
            }
            Framing::Chunked(Some(left)) => {
                let bytes = self.take(left)?;
                self.framing = Framing::Chunked(Some(left - bytes.len() as u64));
                Some(bytes)
            }
            Framing::Chunked(None) => {
                let line = find(&self.buffer, b"\r\n")?;
                let size = chunk_size(&self.buffer[..line]);
                if size == 0 {
                    // Trailer fields, if any, and the empty line.
                    let end = find(&self.buffer[line..], b"\r\n\r\n")?;
                    self.buffer.drain(..line + end + 4);
                    self.ending = Some(Ending::Whole);
                    return None;
                }
                self.buffer.drain(..line + 2);
                self.framing = Framing::Chunked(Some(size));
                self.decode()
            }
        }
    }

    /// At most `limit` bytes of the buffer, or `None` when it is empty.
    fn take(&mut self, limit: u64) -> Option<Vec<u8>> {
        let length = usize::try_from(limit).unwrap_or(usize::MAX).min(self.buffer.len());
        (length > 0).then(|| self.buffer.drain(..length).collect())
    }

    /// Reads more; `false` at the end of file and when the peer reset the connection.
    fn fill(&mut self) -> bool {
        self.try_fill().unwrap_or_else(|| panic!("no bytes within {PATIENCE:?}"))
    }

    /// The same; `None` where nothing came in time.
    fn try_fill(&mut self) -> Option<bool> {
        let mut bytes = [0; 65_536];
        let read = loop {
            match self.stream.read(&mut bytes) {
                // A machine that was paused for a moment interrupts reads with a time limit.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        match read {
            Ok(0) => Some(false),
            Ok(length) => {
                self.buffer.extend_from_slice(&bytes[..length]);
                Some(true)
            }
            Err(error) if is_timeout(&error) => None,
            Err(_) => Some(false),
        }
    }
}

pub(crate) fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

pub(crate) fn find(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    bytes.windows(pattern.len()).position(|window| window == pattern)
}

fn parse_head(raw: Vec<u8>) -> Head {
    let text = String::from_utf8_lossy(&raw).into_owned();
    let mut lines = text.split("\r\n");
    let first = lines.next().unwrap_or_default();
    let status = first
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.get(2..5)?.parse().ok())
        .unwrap_or_else(|| panic!("{first:?} is no status line"));
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    Head { status, headers, raw, at: Instant::now() }
}

fn framing(head: &Head) -> Framing {
    let chunked = head
        .header("transfer-encoding")
        .is_some_and(|value| value.to_ascii_lowercase().ends_with("chunked"));
    if chunked {
        return Framing::Chunked(None);
    }
    match head.header("content-length") {
        Some(value) => Framing::Length(value.parse().unwrap()),
        None => Framing::Close,
    }
}

fn chunk_size(line: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(line);
    let digits = text.split(';').next().unwrap_or_default().trim();
    u64::from_str_radix(digits, 16).unwrap_or_else(|_| panic!("{text:?} is no chunk size"))
}
