//! An open-loop client: requests leave at their times, whether answers are there or not.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::measure::at;

/// Before a request is due, the client stops to sleep and spins. It is longer than a timer
/// is late, and short, because the mock upstream has the same core.
const SPIN: Duration = Duration::from_micros(80);

/// Latencies of one run, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Latency {
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
}

/// Keep-alive connections to one server.
pub(super) struct Client {
    connections: Vec<Connection>,
}

struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
    /// When the request was due that is under way.
    due: Option<Instant>,
}

impl Client {
    pub(super) fn connect(address: SocketAddr, connections: usize) -> Result<Self> {
        let open = || -> Result<Connection> {
            let stream = TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            Ok(Connection { stream, received: Vec::new(), due: None })
        };
        Ok(Self { connections: (0..connections).map(|_| open()).collect::<Result<_>>()? })
    }

    /// Sends `count` requests, `interval` apart, over the connections in turn. A latency
    /// begins when its request was due, so a stall counts for all that it delays.
    pub(super) fn run(
        &mut self,
        count: usize,
        interval: Duration,
        mut request: impl FnMut(usize) -> Vec<u8>,
    ) -> Result<Latency> {
        let begin = Instant::now() + interval;
        let mut latencies = Vec::with_capacity(count);
        for number in 0..count {
            let due = begin + interval * u32::try_from(number)?;
            let message = request(number);
            self.receive_until(due, &mut latencies)?;
            let turn = self.free_connection(number, &mut latencies)?;
            let connection = &mut self.connections[turn];
            connection.due = Some(due);
            connection.send(&message)?;
        }
        let patience = Instant::now() + Duration::from_secs(10);
        while self.connections.iter().any(|connection| connection.due.is_some()) {
            if Instant::now() > patience {
                bail!("an answer did not come within 10 s");
            }
            self.receive(Duration::from_millis(100), &mut latencies)?;
        }
        latencies.sort_by(f64::total_cmp);
        Ok(Latency { p50_ms: at(&latencies, 0.5), p99_ms: at(&latencies, 0.99) })
    }

    /// Sends one request on every connection at once, and waits for all answers.
    pub(super) fn burst(&mut self, mut request: impl FnMut(usize) -> Vec<u8>) -> Result<()> {
        let mut latencies = Vec::new();
        for number in 0..self.connections.len() {
            let connection = &mut self.connections[number];
            connection.due = Some(Instant::now());
            connection.send(&request(number))?;
        }
        while self.connections.iter().any(|connection| connection.due.is_some()) {
            self.receive(Duration::from_secs(10), &mut latencies)?;
        }
        Ok(())
    }

    /// The next connection without a request under way. Where all have one, the request
    /// waits, and its latency with it.
    fn free_connection(&mut self, number: usize, latencies: &mut Vec<f64>) -> Result<usize> {
        let patience = Instant::now() + Duration::from_secs(10);
        let count = self.connections.len();
        loop {
            let turns = (0..count).map(|step| (number + step) % count);
            let free = turns.into_iter().find(|turn| self.connections[*turn].due.is_none());
            if let Some(turn) = free {
                return Ok(turn);
            }
            if Instant::now() > patience {
                bail!("no answer on any connection within 10 s");
            }
            self.receive(Duration::from_millis(100), latencies)?;
        }
    }

    fn receive_until(&mut self, due: Instant, latencies: &mut Vec<f64>) -> Result<()> {
        loop {
            let left = due.saturating_duration_since(Instant::now());
            if left > SPIN {
                self.receive(left - SPIN, latencies)?;
            } else if self.connections.iter().any(|connection| connection.due.is_some()) {
                // Spinning would keep the upstream off its core, and the answer with it.
                if left.is_zero() {
                    return Ok(());
                }
                self.receive(left, latencies)?;
            } else {
                while Instant::now() < due {
                    std::hint::spin_loop();
                }
                return Ok(());
            }
        }
    }

    /// Waits for answers, at most so long.
    fn receive(&mut self, wait: Duration, latencies: &mut Vec<f64>) -> Result<()> {
        let waiting: Vec<usize> = (0..self.connections.len())
            .filter(|number| self.connections[*number].due.is_some())
            .collect();
        let ready: Vec<bool> = {
            let mut polled: Vec<PollFd<'_>> = waiting
                .iter()
                .map(|number| PollFd::new(&self.connections[*number].stream, PollFlags::IN))
                .collect();
            let timeout =
                Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() };
            match poll(&mut polled, Some(&timeout)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error).context("cannot poll"),
            }
            polled.iter().map(|fd| !fd.revents().is_empty()).collect()
        };
        for (number, _) in waiting.into_iter().zip(ready).filter(|(_, ready)| *ready) {
            let connection = &mut self.connections[number];
            if connection.is_answered()?
                && let Some(due) = connection.due.take()
            {
                latencies.push(due.elapsed().as_secs_f64() * 1e3);
            }
        }
        Ok(())
    }
}

impl Connection {
    /// Writes a whole request; its socket takes that much unless the server hangs.
    fn send(&mut self, message: &[u8]) -> Result<()> {
        let mut left = message;
        while !left.is_empty() {
            match self.stream.write(left) {
                Ok(length) => left = &left[length..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
                Err(error) => return Err(error).context("cannot send a request"),
            }
        }
        Ok(())
    }

    /// Reads what is there; whether the answer is whole.
    fn is_answered(&mut self) -> Result<bool> {
        let mut bytes = [0; 16 * 1024];
        match self.stream.read(&mut bytes) {
            Ok(0) => bail!("the server closed a connection"),
            Ok(length) => self.received.extend_from_slice(&bytes[..length]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error).context("cannot read an answer"),
        }
        let Some(length) = message_length(&self.received)? else { return Ok(false) };
        if self.received.len() < length {
            return Ok(false);
        }
        self.received.clear();
        Ok(true)
    }
}

/// The length of a response with status 200 and a `Content-Length`, once its head is there.
fn message_length(bytes: &[u8]) -> Result<Option<usize>> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    if !head.starts_with("http/1.1 200") {
        bail!("the answer is {head}");
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length: usize = length.context("the answer has no length")?.trim().parse()?;
    Ok(Some(end + 4 + length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use testkit::{Reply, Script};

    #[test]
    fn every_request_is_sent_and_answered() {
        let upstream = Script::new().otherwise(Reply::json(200, "{}")).start();
        let mut client = Client::connect(upstream.addr(), 4).unwrap();
        let request = |_| b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec();
        let latency = client.run(40, Duration::from_millis(1), request).unwrap();
        assert!(0.0 < latency.p50_ms && latency.p50_ms <= latency.p99_ms);
        client.burst(request).unwrap();
        assert_eq!((upstream.count(), upstream.connections()), (44, 4));
    }

    #[test]
    fn an_error_ends_the_run() {
        let upstream = Script::new().otherwise(Reply::json(503, "{}")).start();
        let mut client = Client::connect(upstream.addr(), 1).unwrap();
        let request = |_| b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec();
        assert!(client.run(1, Duration::from_millis(1), request).is_err());
    }
}
