//! Faults on demand: by configuration, drawn from the seed, or by a header of one request.
//!
//! A fault is written `kind`, `kind=when` or `kind=when:argument`. `when` is a probability
//! (`0.1`) or a turn (`every3`, the third, sixth … request).
//!
//! | Fault | Effect |
//! |---|---|
//! | `rate=10/s[:burst]` (`/m`, `/h`) | a token bucket; beyond it 429 with `retry-after` |
//! | `concurrency=4` | calls at a time; beyond them 429 with `retry-after: 1` |
//! | `429`, `500`, `503` (`error500=0.1`) | that status at once |
//! | `stall=0.05:30s` | the stream stands still after its first token, by default for an hour |
//! | `cut=0.1[:3]` | the connection breaks after so many tokens, by default 1 |
//! | `malformed=0.02` | the second event is no valid JSON |
//! | `slow-first=0.1:5s` | the first token is late |
//! | `huge=0.01[:32m]` | one event of that many bytes |
//!
//! In the header `x-sim-fault` the kinds stand alone, with their argument in place of
//! `when`: `500`, `stall=2s`, `cut=3`, `malformed`, `slow-first=2s`, `huge=64m`.

use std::time::Duration;

use paceline_core::Instant;

use crate::text::{mix, uniform};

/// The header that asks for faults in one request.
pub const FAULT_HEADER: &str = "x-sim-fault";

/// A fault that is not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the fault {fault:?} is not understood: {reason}; write for example {EXAMPLES}")]
pub struct FaultError {
    /// What was written.
    pub fault: String,
    /// What is wrong with it.
    pub reason: String,
}

const EXAMPLES: &str = "rate=10/s, concurrency=4, error500=0.1, stall=0.05:30s, cut=every3:5, \
                        malformed=0.02, slow-first=0.1:5s or huge=0.01:32m";

/// What goes wrong in one call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mishap {
    /// This status at once.
    pub(crate) status: Option<u16>,
    /// Stands still after the first token.
    pub(crate) stall: Option<Duration>,
    /// Breaks after so many tokens.
    pub(crate) cut: Option<u32>,
    /// The second event is broken.
    pub(crate) malformed: bool,
    /// The first token is late.
    pub(crate) slow_first: Option<Duration>,
    /// One event of so many bytes.
    pub(crate) huge: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum When {
    Chance(f64),
    Every(u64),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Status(u16),
    Stall(Duration),
    Cut(u32),
    Malformed,
    SlowFirst(Duration),
    Huge(usize),
}

impl Kind {
    fn apply(self, mishap: &mut Mishap) {
        match self {
            Self::Status(status) => mishap.status = Some(status),
            Self::Stall(time) => mishap.stall = Some(time),
            Self::Cut(tokens) => mishap.cut = Some(tokens),
            Self::Malformed => mishap.malformed = true,
            Self::SlowFirst(time) => mishap.slow_first = Some(time),
            Self::Huge(bytes) => mishap.huge = Some(bytes),
        }
    }
}

/// A stated rate limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rate {
    /// Requests in `per`.
    requests: f64,
    per: Duration,
    /// Requests at once at most.
    burst: f64,
}

/// All faults of one engine.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Faults {
    drawn: Vec<(Kind, When)>,
    pub(crate) rate: Option<Rate>,
    pub(crate) concurrency: Option<usize>,
}

impl Faults {
    /// Reads faults; each text may hold several, parted by commas.
    pub(crate) fn parse(texts: &[String]) -> Result<Self, FaultError> {
        let mut faults = Self::default();
        for text in texts.iter().flat_map(|text| text.split(',')).map(str::trim) {
            if !text.is_empty() {
                faults.add(text).map_err(|reason| FaultError { fault: text.to_owned(), reason })?;
            }
        }
        Ok(faults)
    }

    fn add(&mut self, text: &str) -> Result<(), String> {
        let (kind, value) = text.split_once('=').ok_or("it has no `=`")?;
        let (value, argument) = match value.split_once(':') {
            Some((value, argument)) => (value, Some(argument)),
            None => (value, None),
        };
        match kind {
            "rate" => self.rate = Some(parse_rate(value, argument)?),
            "concurrency" => {
                let limit = value.parse().ok().filter(|n| *n > 0);
                self.concurrency = Some(limit.ok_or("the limit is a number of at least 1")?);
            }
            _ => self.drawn.push((parse_kind(kind, argument)?, parse_when(value)?)),
        }
        Ok(())
    }

    /// Draws the faults of the call with this number, counted from 0.
    pub(crate) fn draw(&self, seed: u64, number: u64) -> Mishap {
        let mut mishap = Mishap::default();
        for (i, (kind, when)) in self.drawn.iter().enumerate() {
            let hit = match *when {
                When::Chance(chance) => {
                    uniform(mix(mix(seed ^ mix(i as u64)).wrapping_add(number))) < chance
                }
                When::Every(n) => (number + 1).is_multiple_of(n),
            };
            if hit {
                kind.apply(&mut mishap);
            }
        }
        mishap
    }
}

impl Mishap {
    /// Adds what the header of a request asks for.
    pub(crate) fn add_header(&mut self, header: &str) -> Result<(), FaultError> {
        for text in header.split(',').map(str::trim).filter(|text| !text.is_empty()) {
            let (kind, argument) = match text.split_once('=') {
                Some((kind, argument)) => (kind, Some(argument)),
                None => (text, None),
            };
            parse_kind(kind, argument)
                .map_err(|reason| FaultError { fault: text.to_owned(), reason })?
                .apply(self);
        }
        Ok(())
    }
}

fn parse_kind(kind: &str, argument: Option<&str>) -> Result<Kind, String> {
    let time = |default: Duration| argument.map_or(Ok(default), parse_time);
    let kind = kind.strip_prefix("error").unwrap_or(kind);
    Ok(match kind {
        "stall" => Kind::Stall(time(Duration::from_secs(3600))?),
        "slow-first" | "slow_first" => Kind::SlowFirst(time(Duration::from_secs(5))?),
        "cut" | "cut-after" => Kind::Cut(match argument {
            None => 1,
            Some(tokens) => tokens.parse().map_err(|_| "`cut` takes a number of tokens")?,
        }),
        "huge" => Kind::Huge(argument.map_or(Ok(32 << 20), parse_size)?),
        "malformed" if argument.is_none() => Kind::Malformed,
        _ => match kind.parse() {
            Ok(status @ 400..=599) if argument.is_none() => Kind::Status(status),
            _ => return Err(format!("there is no fault {kind:?} of that form")),
        },
    })
}

fn parse_when(text: &str) -> Result<When, String> {
    let turn = text.strip_prefix("every").and_then(|n| n.parse().ok()).filter(|n| *n > 0);
    let chance = || text.parse().ok().filter(|chance| (0.0..=1.0).contains(chance));
    turn.map(When::Every)
        .or_else(|| chance().map(When::Chance))
        .ok_or_else(|| format!("{text:?} is neither a probability from 0 to 1 nor `everyN`"))
}

fn parse_time(text: &str) -> Result<Duration, String> {
    let (number, scale) = if let Some(number) = text.strip_suffix("ms") {
        (number, 1e-3)
    } else if let Some(number) = text.strip_suffix('s') {
        (number, 1.0)
    } else if let Some(number) = text.strip_suffix('m') {
        (number, 60.0)
    } else {
        (text, f64::NAN)
    };
    let seconds = number.parse::<f64>().map_or(f64::NAN, |number| number * scale);
    Duration::try_from_secs_f64(seconds)
        .map_err(|_| format!("{text:?} is no time such as `500ms`, `30s` or `5m`"))
}

fn parse_size(text: &str) -> Result<usize, String> {
    let (number, scale) = match text.as_bytes().last() {
        Some(b'k') => (&text[..text.len() - 1], 1 << 10),
        Some(b'm') => (&text[..text.len() - 1], 1 << 20),
        _ => (text, 1),
    };
    let size = number.parse::<usize>().ok().and_then(|number| number.checked_mul(scale));
    size.filter(|size| *size <= 1 << 30)
        .ok_or_else(|| format!("{text:?} is no size such as `64k` or `32m`, at most 1024m"))
}

fn parse_rate(text: &str, burst: Option<&str>) -> Result<Rate, String> {
    let wrong = || format!("{text:?} is no rate such as `10/s`, `600/m` or `1000/h`");
    let (number, unit) = text.split_once('/').ok_or_else(wrong)?;
    let requests = number.parse::<f64>().ok().filter(|n| n.is_finite() && *n > 0.0);
    let requests = requests.ok_or_else(wrong)?;
    let per = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(wrong()),
    };
    let burst = match burst {
        None => requests,
        Some(n) => n.parse().map_err(|_| "the burst is a number of requests")?,
    };
    if !(burst >= 1.0 || requests < 1.0 && burst > 0.0) {
        return Err("the burst must let one request through".to_owned());
    }
    Ok(Rate { requests, per: Duration::from_secs(per), burst: burst.max(1.0) })
}

/// The bucket of a [`Rate`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    rate: Rate,
    level: f64,
    at: Instant,
}

/// What the bucket says of one request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Verdict {
    /// The stated limit, in requests.
    pub(crate) limit: u64,
    /// Requests left at once.
    pub(crate) remaining: u64,
    /// Until the bucket is full again.
    pub(crate) reset: Duration,
    /// When refused: how long until one request is left.
    pub(crate) retry_after: Option<Duration>,
}

impl Bucket {
    pub(crate) fn new(rate: Rate, now: Instant) -> Self {
        Self { rate, level: rate.burst, at: now }
    }

    pub(crate) fn take(&mut self, now: Instant) -> Verdict {
        let per_second = self.rate.requests / self.rate.per.as_secs_f64();
        let filled = now.since(self.at).as_secs_f64() * per_second;
        self.level = (self.level + filled).min(self.rate.burst);
        self.at = now;
        let wait = |missing: f64| Duration::from_secs_f64(missing / per_second);
        // What a caller that waits as told brings is enough, in spite of rounding.
        let retry_after = (self.level < 1.0 - 1e-9).then(|| wait(1.0 - self.level));
        if retry_after.is_none() {
            self.level -= 1.0;
        }
        Verdict {
            limit: self.rate.requests as u64,
            remaining: self.level.max(0.0) as u64,
            reset: wait(self.rate.burst - self.level),
            retry_after,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Faults, FaultError> {
        Faults::parse(&[text.to_owned()])
    }

    #[test]
    fn faults_are_read() {
        let check = |text: &str, kind: Kind, when: When| {
            assert_eq!(parse(text).unwrap().drawn, [(kind, when)], "{text}");
        };
        check("error500=0.1", Kind::Status(500), When::Chance(0.1));
        check("stall=0.05:30s", Kind::Stall(Duration::from_secs(30)), When::Chance(0.05));
        check("cut=every3:5", Kind::Cut(5), When::Every(3));
        check("slow_first=1:250ms", Kind::SlowFirst(Duration::from_millis(250)), When::Chance(1.0));
        check("huge=0:2m", Kind::Huge(2 << 20), When::Chance(0.0));
        let both = parse("rate=600/m, concurrency=4,").unwrap();
        assert_eq!((both.rate.unwrap().burst, both.concurrency), (600.0, Some(4)));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let check = |text: &str, expected: &str| {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("for example"), "{error}");
        };
        check("cut", "no `=`");
        check("cut=2", "neither a probability");
        check("stall=0.1:3", "no time");
        check("oops=0.1", "no fault \"oops\"");
        check("error200=0.1", "no fault");
        check("rate=10/d", "no rate");
        check("rate=10/s:0", "the burst");
        check("concurrency=0", "at least 1");
        assert!(Mishap::default().add_header("stall=x").is_err());
    }

    #[test]
    fn headers_add_to_what_is_drawn() {
        let mut mishap = parse("error500=every2").unwrap().draw(0, 1);
        mishap.add_header("cut-after=3, slow-first=2s,malformed").unwrap();
        let slow_first = Some(Duration::from_secs(2));
        let expected = Mishap {
            status: Some(500),
            cut: Some(3),
            malformed: true,
            slow_first,
            ..<_>::default()
        };
        assert_eq!(mishap, expected);
    }

    #[test]
    fn draws_follow_the_seed_and_the_chance() {
        let faults = parse("cut=0.1,error500=every4").unwrap();
        let draws = |seed| (0..10_000).map(|n| faults.draw(seed, n)).collect::<Vec<_>>();
        assert_eq!(draws(1), draws(1));
        assert_ne!(draws(1), draws(2));
        let cuts = draws(1).iter().filter(|m| m.cut.is_some()).count();
        assert!((900..1100).contains(&cuts), "{cuts}");
        assert_eq!(draws(1).iter().filter(|m| m.status.is_some()).count(), 2500);
    }

    #[test]
    fn the_bucket_keeps_its_rate() {
        let at = |ms: u64| Instant::from_nanos(ms * 1_000_000);
        let mut bucket = Bucket::new(parse("rate=2/s").unwrap().rate.unwrap(), at(0));
        let mut check = |ms: u64, remaining: u64, wait_ms: Option<u64>| {
            let verdict = bucket.take(at(ms));
            let wait = verdict.retry_after.map(|wait| wait.as_millis() as u64);
            assert_eq!((verdict.limit, verdict.remaining, wait), (2, remaining, wait_ms));
        };
        check(0, 1, None);
        check(0, 0, None);
        check(0, 0, Some(500));
        check(250, 0, Some(250));
        check(500, 0, None);
        check(10_000, 1, None);
    }
}
