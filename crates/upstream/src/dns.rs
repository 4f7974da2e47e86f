//! Addresses of hosts, remembered for a while.
//!
//! The machine's own resolver is asked (`getaddrinfo`), so that `/etc/hosts`, search domains
//! and whatever else the operator has set up hold here too. It tells no times to live; what it
//! says is good for a bounded time of our own, and where it fails the last good answer serves.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use paceline_core::{Clock, Instant};
use parking_lot::Mutex;
use tracing::warn;

/// How long answers are good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DnsConfig {
    /// An answer. Default: 30 s.
    pub ttl: Duration,
    /// That a name has no address. Default: 1 s.
    pub negative_ttl: Duration,
    /// The last answer, while the resolver fails. Default: 1 h.
    pub stale: Duration,
}

impl Default for DnsConfig {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(30),
            negative_ttl: Duration::from_secs(1),
            stale: Duration::from_secs(3600),
        }
    }
}

/// How long the resolver may take where the last answer can serve.
const PATIENCE: Duration = Duration::from_secs(1);

/// Looks up hosts; shared by all cores.
#[derive(Debug)]
pub struct Dns {
    config: DnsConfig,
    clock: Clock,
    /// One entry a host; hosts come from the configuration only, so they are few.
    known: Mutex<HashMap<String, Entry>>,
}

#[derive(Clone, Debug, Default)]
struct Entry {
    addresses: Arc<[IpAddr]>,
    /// When they were given; `None` before the first time.
    given: Option<Instant>,
    /// Until when the resolver is not asked again.
    until: Instant,
    /// Why it failed the last time.
    failure: Option<String>,
}

impl Dns {
    /// Knows nothing yet.
    pub fn new(config: DnsConfig, clock: Clock) -> Arc<Self> {
        Arc::new(Self { config, clock, known: Mutex::default() })
    }

    /// The addresses of a host, at least one.
    ///
    /// # Errors
    /// The resolver's, where nothing is known of the host from before.
    pub(crate) async fn look_up(&self, host: &str) -> io::Result<Arc<[IpAddr]>> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(Arc::from([address]));
        }
        if let Some(known) = self.known(host) {
            return known;
        }
        self.ask(host, resolve(host)).await
    }

    /// Waits for the resolver; not for long where the last answer can serve, since a resolver
    /// that is down mostly says nothing, and the time for a connection would be over before.
    async fn ask(
        &self,
        host: &str,
        resolving: impl Future<Output = io::Result<Arc<[IpAddr]>>>,
    ) -> io::Result<Arc<[IpAddr]>> {
        let found = if self.last_serves(host) {
            let until = self.clock.now().after(PATIENCE);
            let late = || Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time"));
            self.clock.timeout_at(until, resolving).await.unwrap_or_else(late)
        } else {
            resolving.await
        };
        self.answered(host, found)
    }

    /// Whether the last answer can serve. If so it does for all others who ask meanwhile.
    fn last_serves(&self, host: &str) -> bool {
        let now = self.clock.now();
        let mut known = self.known.lock();
        let last = known.get_mut(host).filter(|entry| self.is_good(entry, now));
        last.map(|entry| entry.until = now.after(PATIENCE)).is_some()
    }

    fn is_good(&self, entry: &Entry, now: Instant) -> bool {
        entry.given.is_some_and(|given| now.since(given) < self.config.stale)
    }

    /// What is known of a host, where that is good still.
    fn known(&self, host: &str) -> Option<io::Result<Arc<[IpAddr]>>> {
        let known = self.known.lock();
        let entry = known.get(host).filter(|entry| self.clock.now() < entry.until)?;
        Some(match &entry.failure {
            Some(why) if entry.addresses.is_empty() => Err(io::Error::other(why.clone())),
            _ => Ok(Arc::clone(&entry.addresses)),
        })
    }

    /// Takes an answer of the resolver, and gives what is to be used.
    fn answered(&self, host: &str, found: io::Result<Arc<[IpAddr]>>) -> io::Result<Arc<[IpAddr]>> {
        let now = self.clock.now();
        let mut known = self.known.lock();
        let entry = known.entry(host.to_owned()).or_default();
        match found {
            Ok(addresses) => {
                *entry = Entry {
                    addresses,
                    given: Some(now),
                    until: now.after(self.config.ttl),
                    failure: None,
                };
                Ok(Arc::clone(&entry.addresses))
            }
            Err(error) => {
                entry.until = now.after(self.config.negative_ttl);
                if self.is_good(entry, now) {
                    if entry.failure.is_none() {
                        warn!(host, %error, "the resolver fails; the last addresses serve");
                    }
                    entry.failure = Some(error.to_string());
                    return Ok(Arc::clone(&entry.addresses));
                }
                entry.addresses = Arc::from([]);
                entry.failure = Some(error.to_string());
                Err(error)
            }
        }
    }
}

/// Asks the machine's resolver.
async fn resolve(host: &str) -> io::Result<Arc<[IpAddr]>> {
    let found = tokio::net::lookup_host((host, 0)).await?;
    let addresses: Arc<[IpAddr]> = found.map(|address| address.ip()).collect();
    if addresses.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const B: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    fn fails() -> io::Result<Arc<[IpAddr]>> {
        Err(io::Error::other("no resolver"))
    }

    #[test]
    fn answers_are_good_for_a_while_and_longer_where_the_resolver_fails() {
        let run = paceline_core::clock::run_virtual(|clock| async move {
            let dns = Dns::new(DnsConfig::default(), clock.clone());
            let known = |host: &str| dns.known(host).map(|known| known.map(|found| found[0]));
            assert!(known("a").is_none(), "the resolver is asked");
            assert_eq!(dns.answered("a", Ok(Arc::from([A]))).unwrap()[0], A);
            clock.sleep(Duration::from_secs(29)).await;
            assert_eq!(known("a").unwrap().unwrap(), A);
            clock.sleep(Duration::from_secs(2)).await;
            assert!(known("a").is_none(), "and again after its time");
            assert_eq!(dns.answered("a", fails()).unwrap()[0], A, "which fails");
            assert_eq!(known("a").unwrap().unwrap(), A, "and is left alone for a moment");
            clock.sleep(Duration::from_secs(2)).await;
            assert!(known("a").is_none());
            assert_eq!(dns.answered("a", Ok(Arc::from([B]))).unwrap()[0], B);
            clock.sleep(Duration::from_secs(3601)).await;
            assert!(dns.answered("a", fails()).is_err(), "what is too old serves no more");
            assert!(known("a").unwrap().is_err(), "and that is remembered too");
            clock.sleep(Duration::from_secs(2)).await;
            assert!(known("a").is_none());
        });
        assert!(run.is_ok());
    }

    #[test]
    fn the_last_answer_serves_where_the_resolver_is_silent() {
        let run = paceline_core::clock::run_virtual(|clock| async move {
            let dns = Dns::new(DnsConfig::default(), clock.clone());
            assert_eq!(dns.answered("a", Ok(Arc::from([A]))).unwrap()[0], A);
            clock.sleep(Duration::from_secs(31)).await;
            assert!(dns.known("a").is_none(), "its time is over");
            let began = clock.now();
            let mut asking = std::pin::pin!(dns.ask("a", std::future::pending()));
            let pending = futures_util::future::poll_immediate(asking.as_mut()).await.is_none();
            assert!(pending);
            // Others do not wait for the same question, nor ask it again.
            assert_eq!(dns.known("a").unwrap().unwrap()[0], A);
            assert_eq!(asking.await.unwrap()[0], A);
            assert_eq!(clock.now().since(began), PATIENCE);
            // The next one asks again.
            clock.sleep(Duration::from_secs(2)).await;
            assert!(dns.known("a").is_none());
            assert_eq!(dns.ask("a", async { Ok(Arc::from([B])) }).await.unwrap()[0], B);
            assert_eq!(dns.known("a").unwrap().unwrap()[0], B);
            // Without a last answer there is nothing but to wait.
            let mut asking = std::pin::pin!(dns.ask("b", std::future::pending()));
            let until = clock.now().after(Duration::from_secs(60));
            assert!(clock.timeout_at(until, asking.as_mut()).await.is_none());
        });
        assert!(run.is_ok());
    }
}
