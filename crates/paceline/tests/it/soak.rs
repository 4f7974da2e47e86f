//! A while under faults, with clients that come and go: afterwards nothing is left over.
//!
//! `PACELINE_TEST_SOAK_S` sets how long, 60 s by default.

use std::time::{Duration, Instant};

use testkit::http::{self, Connection};
use testkit::{Running, Sim};

use crate::support::{Gateway, chat, deployment, eventually, samples, two_threads};

const CLIENTS: u64 = 12;

/// More than the gateway takes for its caches, connections and allocator, in a debug build.
const RSS_MIB_MAX: u64 = 256;

/// Growth between the middle and the end, when all pools and caches are full.
const RSS_GROWTH_MIB_MAX: u64 = 32;

fn length() -> Duration {
    let text = std::env::var_os("PACELINE_TEST_SOAK_S");
    let seconds = text.and_then(|text| text.to_str()?.parse().ok());
    Duration::from_secs(seconds.unwrap_or(60))
}

/// One client: calls, some of them equal to those of others, and leaves at any moment.
struct Client<'a> {
    gateway: &'a Gateway,
    random: fastrand::Rng,
    began: Instant,
    kept: Option<Connection>,
    calls: u64,
}

impl Client<'_> {
    fn work(&mut self, until: Instant) -> u64 {
        while Instant::now() < until {
            self.call();
            self.calls += 1;
            // A think time, so that the machine has room for other tests.
            std::thread::sleep(Duration::from_millis(self.random.u64(..20)));
        }
        self.calls
    }

    fn body(&mut self) -> String {
        let stream = if self.random.bool() { ",\"stream\":true" } else { "" };
        let tokens = [5, 20, 60][self.random.usize(..3)];
        // Most questions are asked by several clients within a quarter of a second.
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap() / 250;
        let (question, heat) = match self.random.u32(..4) {
            0 => (self.random.u64(..), ""),
            _ => (now, ",\"temperature\":0"),
        };
        chat(&format!("question {question}"), &format!("{heat}{stream},\"max_tokens\":{tokens}"))
    }

    fn call(&mut self) {
        let body = self.body();
        let bytes = self.gateway.compose(&[], &body);
        let kept = self.kept.take();
        let mut connection = kept.unwrap_or_else(|| Connection::to(self.gateway.url()));
        if self.random.u32(..20) == 0 {
            // Leaves within the request.
            connection.try_send(&bytes[..self.random.usize(..bytes.len())]);
            return;
        }
        if !connection.try_send(&bytes) || self.random.u32(..20) == 0 {
            return;
        }
        // The connection may have been closed while it was not used.
        let Some(head) = connection.any_head() else { return };
        assert!(
            matches!(head.status, 200 | 429 | 500 | 502 | 503 | 504),
            "{}: {body}",
            head.status
        );
        if self.random.u32(..10) == 0 {
            connection.piece();
            return;
        }
        let stream = head.header("content-type").is_some_and(|kind| kind.contains("event-stream"));
        let response = connection.rest(head);
        assert_eq!(response.ending, http::Ending::Whole);
        if stream {
            let events = response.events();
            let last = events.last().unwrap();
            assert!(last == "[DONE]" || last.starts_with("{\"error\""), "{last}");
        }
        if self.random.bool() {
            self.kept = Some(connection);
        }
    }
}

fn rss_mib(server: &Running) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() >> 10
}

#[test]
fn faults_leave_nothing_behind() {
    let faults = "rate=150/s,error500=0.03,cut=0.04:3,stall=0.02:2s,malformed=0.02,slow-first=0.02:1s,huge=0.003:5m";
    let sim = Sim::new().replicas(2).arg("--speed").arg("20").fault(faults).start();
    let replica = |at: usize| {
        let more = "kind = \"engine\"\nidle_expiry_ms = 3000\ntimeouts = { idle_ms = 1000 }";
        deployment(&format!("r{at}"), &sim.urls()[at], more)
    };
    let bounds = "[cache]\nmemory_bytes_max = 4000000\nttl_s = 5\n[health]\nopen_ms = 100\nopen_ms_max = 200\n";
    let gateway =
        Gateway::start(two_threads().config(&[&replica(0), &replica(1), bounds].concat()));
    let (began, length) = (Instant::now(), length());
    let until = began + length;
    let (calls, middle) = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|seed| {
                let random = fastrand::Rng::with_seed(seed);
                let mut client = Client { gateway: &gateway, random, began, kept: None, calls: 0 };
                scope.spawn(move || client.work(until))
            })
            .collect();
        std::thread::sleep(length / 2);
        let middle = rss_mib(&gateway);
        let calls: u64 = clients.into_iter().map(|client| client.join().unwrap()).sum();
        (calls, middle)
    });
    gateway.wait_until_idle();
    eventually("the clients' connections are gone", || {
        gateway.metric("paceline_client_connections") <= 1.0
    });
    eventually("only idle connections to the upstreams are open", || {
        let metrics = gateway.metrics();
        let sum = |name: &str| -> f64 {
            let named = metrics.iter().filter(|(sample, _)| sample.starts_with(name));
            named.map(|(_, value)| value).sum()
        };
        sum("paceline_upstream_connections_open") == sum("paceline_upstream_connections_idle")
    });
    for url in sim.urls() {
        // What was cancelled does not run on.
        eventually("the engines are idle", || {
            let page = http::get(&format!("{url}/metrics")).text();
            let waits = |(name, value): (&String, &f64)| {
                name.starts_with("vllm:num_requests_") && *value != 0.0
            };
            !samples(&page).iter().any(waits)
        });
    }
    let end = rss_mib(&gateway);
    assert!(end < RSS_MIB_MAX, "{end} MiB after {calls} calls");
    assert!(end <= middle + RSS_GROWTH_MIB_MAX, "from {middle} to {end} MiB in {calls} calls");
    assert_eq!(http::get(&gateway.at("/health")).status, 200);
    if length >= Duration::from_secs(20) {
        // It was a test of what it claims to be.
        for outcome in ["answered", "cancelled", "broken"] {
            let sample = format!("paceline_requests_total{{outcome=\"{outcome}\"}}");
            assert!(gateway.metric(&sample) > 5.0, "{outcome}: {:?}", gateway.metrics());
        }
        assert!(gateway.metric("paceline_retries_total") > 5.0);
        assert!(gateway.metric("paceline_flights_joined_total") > 5.0);
        assert!(gateway.metric(r#"paceline_cache_requests_total{result="hit"}"#) > 5.0);
        assert!(calls > 500, "{calls} calls only");
    }
    println!("{calls} calls; {middle} MiB in the middle, {end} MiB at the end");
}
