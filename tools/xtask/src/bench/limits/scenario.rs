//! The scenarios: named ones for each kind of hidden limit, and random ones.

use fastrand::Rng;

use super::provider::{Hint, Limit, Manners, Provider, Unit};

/// Length of a run, in seconds.
const RUN_S: f64 = 900.0;

/// When a limit halves and when it doubles again, in seconds.
const HALVED_AT_S: f64 = 300.0;
const DOUBLED_AT_S: f64 = 600.0;

/// How much more the agents offer than the limit lets through.
const OVERLOAD: f64 = 3.0;

/// Mean tokens of a call: prompt and answer.
const PROMPT: f64 = 1500.0;
const OUTPUT: f64 = 300.0;

/// Mean of prompt and the most that may be answered, from the distribution of the answers.
const ADMITTED: f64 = PROMPT + 640.0;

/// The calls of a fleet.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) prompt: f64,
    pub(crate) output: f64,
    pub(crate) tokens_cv: f64,
    pub(crate) reply_s: f64,
    pub(crate) reply_cv: f64,
    pub(crate) think_s: f64,
    pub(crate) streamed: bool,
}

/// Other clients of the same key: their calls a second, in slow waves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Others {
    pub(crate) per_s: f64,
    pub(crate) swing_s: f64,
}

/// One scenario.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) group: &'static str,
    pub(crate) name: String,
    pub(crate) provider: Provider,
    pub(crate) shape: Shape,
    pub(crate) agents: usize,
    pub(crate) seconds: f64,
    /// Time and factor of each change of the limits.
    pub(crate) changes: Vec<(f64, f64)>,
    pub(crate) others: Option<Others>,
    /// No call begins in this span.
    pub(crate) pause: Option<(f64, f64)>,
}

impl Scenario {
    /// Whether a window limits it, for which the bars are lower.
    pub(crate) fn window_s(&self) -> Option<f64> {
        self.provider.limits.iter().find_map(Limit::period_s)
    }

    /// Whether other clients or random refusals blur the limit: no bar holds then.
    pub(crate) fn is_blurred(&self) -> bool {
        self.others.is_some() || self.provider.manners.noise > 0.0
    }
}

/// A scenario in the making.
struct Draft(Scenario);

fn draft(group: &'static str, name: &str, limits: Vec<Limit>, per_min: f64, reply_s: f64) -> Draft {
    let per_s = per_min / 60.0;
    let agents = (OVERLOAD * per_s * (reply_s + 1.0)).clamp(50.0, 200.0).round();
    let think_s = (agents / (OVERLOAD * per_s) - reply_s).max(0.2);
    let manners = Manners {
        hint: Hint::None,
        overloaded: false,
        headers: false,
        noise: 0.0,
        refusals_count: false,
    };
    Draft(Scenario {
        group,
        name: name.to_owned(),
        provider: Provider { limits, manners },
        shape: Shape {
            prompt: PROMPT,
            output: OUTPUT,
            tokens_cv: 1.0,
            reply_s,
            reply_cv: 0.7,
            think_s,
            streamed: true,
        },
        agents: agents as usize,
        seconds: RUN_S,
        changes: Vec::new(),
        others: None,
        pause: None,
    })
}

fn bucket(group: &'static str, name: &str, per_min: f64, depth: f64, reply_s: f64) -> Draft {
    let limit = Limit::bucket(Unit::Requests, per_min, depth);
    draft(group, name, vec![limit], per_min, reply_s)
}

fn window(group: &'static str, name: &str, per_min: f64, period_s: f64, offset_s: f64) -> Draft {
    let limit = Limit::window(Unit::Requests, period_s, offset_s, per_min);
    draft(group, name, vec![limit], per_min, 8.0)
}

fn rolling(group: &'static str, name: &str, per_min: f64, period_s: f64, reply_s: f64) -> Draft {
    draft(group, name, vec![Limit::rolling(Unit::Requests, period_s, per_min)], per_min, reply_s)
}

fn concurrency(group: &'static str, name: &str, most: f64, reply_s: f64) -> Draft {
    draft(group, name, vec![Limit::concurrency(most)], most * 60.0 / reply_s, reply_s)
}

impl Draft {
    fn whole(mut self) -> Self {
        self.0.shape.streamed = false;
        self
    }

    fn with(mut self, change: impl FnOnce(&mut Scenario)) -> Self {
        change(&mut self.0);
        self
    }

    fn manners(mut self, change: impl FnOnce(&mut Manners)) -> Self {
        change(&mut self.0.provider.manners);
        self
    }

    fn hint(self, hint: Hint) -> Self {
        self.manners(|manners| manners.hint = hint)
    }

    fn headers(self) -> Self {
        self.manners(|manners| {
            manners.headers = true;
            manners.hint = Hint::True;
        })
    }

    fn changing(mut self) -> Self {
        self.0.changes = vec![(HALVED_AT_S, 0.5), (DOUBLED_AT_S, 2.0)];
        self
    }

    fn shared(mut self, per_s: f64) -> Self {
        self.0.others = Some(Others { per_s, swing_s: 200.0 });
        self
    }
}

/// The named scenarios.
pub(crate) fn named() -> Vec<Scenario> {
    let mut all = Vec::new();
    all.extend(buckets());
    all.extend(windows());
    all.extend(tokens());
    all.extend(concurrent());
    all.extend(several());
    all.extend(changing());
    all.extend(truthful());
    all.extend(blurred());
    all.into_iter().map(|draft| draft.0).collect()
}

fn buckets() -> Vec<Draft> {
    let group = "request buckets";
    let slow = "30 requests/min";
    vec![
        bucket(group, "300/min, depth 10", 300.0, 10.0, 6.0),
        bucket(group, "300/min, no burst", 300.0, 1.0, 6.0),
        bucket(group, "300/min, depth 300", 300.0, 300.0, 6.0),
        bucket(group, "1200/min, depth 40", 1200.0, 40.0, 2.0),
        bucket(group, "300/min, depth 20, unstreamed 30 s", 300.0, 20.0, 12.0).whole(),
        bucket(group, "300/min, depth 10, 529", 300.0, 10.0, 6.0)
            .manners(|manners| manners.overloaded = true),
        bucket(group, "300/min, depth 10, true hints", 300.0, 10.0, 6.0).hint(Hint::True),
        bucket(group, "300/min, depth 10, refusals count", 300.0, 10.0, 6.0)
            .manners(|manners| manners.refusals_count = true),
        bucket(slow, "depth 3", 30.0, 3.0, 15.0),
        bucket(slow, "depth 30", 30.0, 30.0, 15.0),
        bucket(slow, "depth 5, unstreamed 30 s", 30.0, 5.0, 30.0).whole(),
    ]
}

fn windows() -> Vec<Draft> {
    let group = "windows, rolling";
    vec![
        window(group, "minute, 300", 300.0, 60.0, 0.0),
        window(group, "minute, 300, unaligned", 300.0, 60.0, 37.0),
        window(group, "minute, 60, unaligned", 60.0, 60.0, 23.0),
        window(group, "minute, 300, true hints", 300.0, 60.0, 11.0).hint(Hint::True),
        window(group, "minute, 300, refusals count", 300.0, 60.0, 41.0)
            .manners(|manners| manners.refusals_count = true),
        window(group, "10 s, 50", 300.0, 10.0, 3.0),
        rolling(group, "rolling minute, 300", 300.0, 60.0, 8.0),
        rolling(group, "rolling minute, 60", 60.0, 60.0, 15.0),
        rolling(group, "rolling minute, 20, unstreamed", 20.0, 60.0, 40.0).whole(),
    ]
}

fn tokens() -> Vec<Draft> {
    let group = "tokens/min";
    let admitted = |name: &str, per_min: f64, depth: f64| {
        let limit = Limit::bucket(Unit::Admitted, per_min * ADMITTED, depth * ADMITTED);
        draft(group, name, vec![limit], per_min, 8.0)
    };
    let used = Limit::bucket(Unit::Used, 240.0 * (PROMPT + OUTPUT), 40.0 * (PROMPT + OUTPUT));
    let window = Limit::window(Unit::Admitted, 60.0, 17.0, 240.0 * ADMITTED);
    vec![
        admitted("at admission, 240 calls, depth 20", 240.0, 20.0),
        admitted("at admission, 240 calls, depth 240", 240.0, 240.0),
        admitted("at admission, 60 calls, depth 15", 60.0, 15.0),
        draft(group, "at completion, 240 calls, depth 40", vec![used], 240.0, 8.0),
        draft(group, "minute window, 240 calls", vec![window], 240.0, 8.0),
    ]
}

fn concurrent() -> Vec<Draft> {
    let group = "concurrency";
    vec![
        concurrency(group, "20, 5 s", 20.0, 5.0),
        concurrency(group, "50, 10 s", 50.0, 10.0),
        concurrency(group, "5, 4 s", 5.0, 4.0),
        concurrency(group, "20, unstreamed 20 s", 20.0, 20.0).whole(),
        concurrency(group, "20, 5 s, 529", 20.0, 5.0).manners(|manners| manners.overloaded = true),
    ]
}

fn several() -> Vec<Draft> {
    let group = "two limits";
    let tokens = |per_min: f64| Limit::bucket(Unit::Admitted, per_min * ADMITTED, 20.0 * ADMITTED);
    let requests = |per_min: f64| Limit::bucket(Unit::Requests, per_min, 10.0);
    let lies = "Retry-After lies";
    vec![
        draft(group, "requests, tokens alike", vec![requests(240.0), tokens(240.0)], 240.0, 8.0),
        draft(group, "requests, tokens 1.3×", vec![requests(240.0), tokens(312.0)], 240.0, 8.0),
        draft(
            group,
            "requests, concurrency alike",
            vec![requests(240.0), Limit::concurrency(32.0)],
            240.0,
            8.0,
        ),
        draft(
            group,
            "second and minute",
            vec![
                Limit::bucket(Unit::Requests, 600.0, 5.0),
                Limit::window(Unit::Requests, 60.0, 29.0, 240.0),
            ],
            240.0,
            8.0,
        ),
        bucket(lies, "bucket, always 60", 300.0, 10.0, 6.0).hint(Hint::Always(60.0)),
        bucket(lies, "bucket, always 1", 300.0, 10.0, 6.0).hint(Hint::Always(1.0)),
        window(lies, "window, always 60", 300.0, 60.0, 19.0).hint(Hint::Always(60.0)),
        window(lies, "window, always 1", 300.0, 60.0, 19.0).hint(Hint::Always(1.0)),
        concurrency(lies, "concurrency, always 60", 20.0, 5.0).hint(Hint::Always(60.0)),
        bucket(lies, "30/min, always 1", 30.0, 5.0, 15.0).hint(Hint::Always(1.0)),
    ]
}

fn changing() -> Vec<Draft> {
    let (buckets, windows, caps) = ("bucket changes", "window changes", "concurrency changes");
    let tokens = Limit::bucket(Unit::Admitted, 240.0 * ADMITTED, 30.0 * ADMITTED);
    vec![
        bucket(buckets, "300/min, depth 10", 300.0, 10.0, 6.0).changing(),
        bucket(buckets, "300/min, depth 150", 300.0, 150.0, 6.0).changing(),
        bucket(buckets, "1200/min, depth 20", 1200.0, 20.0, 2.0).changing(),
        bucket(buckets, "60/min, depth 5", 60.0, 5.0, 15.0).changing(),
        draft(buckets, "tokens, 240 calls", vec![tokens], 240.0, 8.0).changing(),
        window(windows, "minute, 300", 300.0, 60.0, 13.0).changing(),
        window(windows, "minute, 120", 120.0, 60.0, 31.0).changing(),
        window(windows, "10 s, 50", 300.0, 10.0, 3.0).changing(),
        rolling(windows, "rolling minute, 300", 300.0, 60.0, 8.0).changing(),
        concurrency(caps, "20, 5 s", 20.0, 5.0).changing(),
        concurrency(caps, "50, 10 s", 50.0, 10.0).changing(),
        concurrency(caps, "20, unstreamed 10 s", 20.0, 10.0).whole().changing(),
    ]
}

fn truthful() -> Vec<Draft> {
    let group = "headers";
    let tokens = Limit::bucket(Unit::Admitted, 240.0 * ADMITTED, 60.0 * ADMITTED);
    let both = vec![tokens.clone(), Limit::bucket(Unit::Requests, 240.0, 240.0)];
    vec![
        bucket(group, "bucket, 300/min, depth 300", 300.0, 300.0, 6.0).headers(),
        bucket(group, "bucket, 300/min, depth 10", 300.0, 10.0, 6.0).headers(),
        window(group, "minute window, 300", 300.0, 60.0, 37.0).headers(),
        draft(group, "tokens, 240 calls", vec![tokens], 240.0, 8.0).headers(),
        draft(group, "requests and tokens", both, 240.0, 8.0).headers(),
        bucket(group, "bucket, changes", 300.0, 60.0, 6.0).headers().changing(),
    ]
}

fn blurred() -> Vec<Draft> {
    vec![
        bucket("shared bucket", "300/min, depth 20, 30 %", 300.0, 20.0, 6.0).shared(1.5),
        bucket("shared bucket", "600/min, depth 60, 50 %", 600.0, 60.0, 6.0).shared(5.0),
        concurrency("shared concurrency", "30, 30 %", 30.0, 6.0).shared(1.5),
        concurrency("shared concurrency", "30, 50 %", 30.0, 6.0).shared(2.5),
        bucket("random refusals", "bucket 300/min, 2 %", 300.0, 10.0, 6.0)
            .manners(|manners| manners.noise = 0.02),
        concurrency("random refusals", "concurrency 20, 2 %", 20.0, 5.0)
            .manners(|manners| manners.noise = 0.02),
        bucket("idle, then burst", "300/min, depth 30", 300.0, 30.0, 6.0)
            .with(|scenario| scenario.pause = Some((300.0, 420.0))),
        window("idle, then burst", "minute, 300", 300.0, 60.0, 21.0)
            .with(|scenario| scenario.pause = Some((300.0, 420.0))),
    ]
}

/// A scenario drawn by chance, without sharing and random refusals.
pub(crate) fn random(seed: u64) -> Scenario {
    let mut rng = Rng::with_seed(seed.wrapping_mul(0xD134_2543_DE82_EF95) ^ 0xFACE);
    let per_min = between(&mut rng, 20.0, 900.0).round();
    let reply_s = between(&mut rng, 1.5, 40.0).min(190.0 * 60.0 / (OVERLOAD * per_min)).max(1.5);
    let first = draw_limit(&mut rng, per_min, reply_s, 1.0);
    let mut name = first.0;
    let mut limits = vec![first.1];
    if rng.f64() < 0.15 {
        let over = between(&mut rng, 1.0, 2.0);
        let (second, limit) = draw_limit(&mut rng, per_min, reply_s, over);
        name = format!("{name} + {second}");
        limits.push(limit);
    }
    let mut draft = draft("random", "", limits, per_min, reply_s);
    if rng.f64() < 0.3 {
        name += ", whole";
        draft = draft.whole();
    }
    let hint = match rng.u8(0..10) {
        0 => Hint::Always(60.0),
        1 => Hint::Always(1.0),
        2..=4 => Hint::True,
        _ => Hint::None,
    };
    name += match hint {
        Hint::None => "",
        Hint::True => ", true hints",
        Hint::Always(_) => ", false hints",
    };
    draft = draft.hint(hint);
    if rng.f64() < 0.12 {
        name += ", headers";
        draft = draft.headers();
    }
    if rng.f64() < 0.25 {
        name += ", changes";
        draft = draft.changing();
    }
    if rng.f64() < 0.1 {
        name += ", refusals count";
        draft = draft.manners(|manners| manners.refusals_count = true);
    }
    draft = draft.manners(|manners| manners.overloaded = seed.is_multiple_of(4));
    draft.0.shape.reply_cv = between(&mut rng, 0.2, 1.2);
    draft.0.shape.tokens_cv = between(&mut rng, 0.3, 1.2);
    draft.0.name = format!("#{seed} {per_min:.0}/min, {reply_s:.0} s: {name}");
    draft.0
}

/// A limit that lets `over` times `per_min` calls of the mean size through.
fn draw_limit(rng: &mut Rng, per_min: f64, reply_s: f64, over: f64) -> (String, Limit) {
    let per_min = per_min * over;
    let unit = [
        Unit::Requests,
        Unit::Requests,
        Unit::Requests,
        Unit::Admitted,
        Unit::Admitted,
        Unit::Used,
    ][rng.usize(0..6)];
    let (text, size) = match unit {
        Unit::Requests => ("requests", 1.0),
        Unit::Admitted => ("admitted tokens", ADMITTED),
        Unit::Used => ("used tokens", PROMPT + OUTPUT),
    };
    let amount = (per_min * size).round().max(1.0);
    // Windows forgive what was charged after their end, so that an oracle could send
    // without bound: no measure. So tokens that are charged at the end come in buckets.
    let kind = if unit == Unit::Used { 0 } else { rng.u8(0..10) };
    match kind {
        0..=3 => {
            let least = if unit == Unit::Requests { 1.0 } else { 15.0 };
            let calls = between(rng, least, per_min.max(least * 2.0)).round();
            let depth = calls * size;
            (format!("bucket of {text}, depth {calls:.0}"), Limit::bucket(unit, amount, depth))
        }
        4..=6 => {
            let period = if per_min >= 120.0 && rng.u8(0..4) == 0 { 10.0 } else { 60.0 };
            let offset = rng.f64() * period;
            (
                format!("window of {text}, {period:.0} s"),
                Limit::window(unit, period, offset, amount),
            )
        }
        7 => (format!("rolling {text}"), Limit::rolling(unit, 60.0, amount)),
        _ => {
            let most = (per_min / 60.0 * reply_s).round().max(2.0);
            (format!("concurrency {most:.0}"), Limit::concurrency(most))
        }
    }
}

/// Log-uniform.
fn between(rng: &mut Rng, low: f64, high: f64) -> f64 {
    low * (high / low).powf(rng.f64())
}
