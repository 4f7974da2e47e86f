//! One attempt at a deployment, and what it tells of its health, its speed and its limits.

use std::borrow::Cow;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use ::http::HeaderMap;
use bytes::Bytes;
use paceline_core::{
    Body, Call, Clock, Endpoint, Error, ErrorKind, Instant, Origin, Reply, Result, Retry,
};
use paceline_dialect::codec;
use paceline_dialect::neutral::FailureClass;
use paceline_route::{Lease, Outcome};
use paceline_upstream::limits::{Class, Headers, Refusal, headers};
use tracing::{error, warn};

use crate::stages::answer::{Begun, hold};
use crate::stages::line::Pass;
use crate::stages::prefill::prefill;
use crate::stages::prepare::prepare;
use crate::stages::routes::Route;
use crate::stages::send::Send;
use crate::stages::translate;
use crate::stages::verdict::{Verdict, class_of_status};

/// A call on its way to the deployments of a model, which it names as callers do.
#[derive(Clone, Copy)]
pub(crate) struct Errand<'a> {
    pub(crate) call: &'a Arc<Call>,
    pub(crate) model: &'a Bytes,
    pub(crate) route: &'a Route,
    /// The beginning of an answer, which the deployment is to go on with.
    pub(crate) begun: Option<&'a str>,
}

/// How one attempt failed.
pub(crate) struct Failed {
    pub(crate) result: Result<Reply>,
    pub(crate) verdict: Verdict,
    /// What the upstream asks to wait.
    pub(crate) wait: Option<Duration>,
    /// The upstream refused the call for a limit of its own; after the attempt, only where
    /// the learner of limits decides when it goes again.
    pub(crate) limited: Option<Refusal>,
}

impl Send {
    /// Tries one deployment of a route. A stream has begun to answer when this returns.
    pub(crate) async fn attempt(
        &self,
        errand: Errand<'_>,
        (mut lease, pass): (Lease, Option<Pass>),
    ) -> Result<Reply, Failed> {
        let Errand { call, model, route, begun } = errand;
        let place = lease.index();
        let at = route.deployments[place];
        if let Some(deadline) = call.deadline.0 {
            self.in_time(call, deadline, &lease).map_err(Failed::of)?;
        }
        let once = pin!(self.once(call, model, at, begun));
        let (sent, pass) = watched(once, pass, &self.shared.clock).await;
        let shown = match &sent {
            Ok(reply) | Err(Failed { result: Ok(reply), .. }) => Some(&reply.headers),
            Err(_) => None,
        };
        if let Some(limits) = shown.and_then(|headers| self.limits_in(at, headers)) {
            route.line.shown(place, pass.as_ref(), &limits);
        }
        let mut failed = match sent {
            Ok(reply) => {
                let reply = self.shared.stored.note(call, at, self.speaks(at, call), reply);
                match reply.body {
                    Body::Whole(_) => _ = lease.report(Outcome::Answered),
                    Body::Events(_) | Body::Bytes(..) => lease.streams(),
                }
                let target = lease.target();
                target.retries().answered();
                let time = self.shared.clock.now().since(lease.taken());
                target.times(call.request.fields.stream).record(time);
                let keyed = self.shared.routes.deployments()[at].keyed;
                return Ok(hold(call, reply, (lease, keyed), pass));
            }
            Err(failed) => failed,
        };
        let why = match &failed.result {
            Ok(reply) => reply.status.as_str().to_owned(),
            Err(error) => error.message().to_owned(),
        };
        let outcome = match failed.limited {
            Some(_) => Some(Outcome::Answered),
            None => failed.verdict.outcome,
        };
        if let Some(outcome) = outcome {
            report(&mut lease, outcome, &why);
        }
        drop(lease);
        failed.limited = failed.limited.filter(|_| self.shared.limits_learned(failed.wait));
        if let Some(refusal) = &failed.limited {
            route.line.refused(place, pass, refusal);
        }
        Err(failed)
    }

    fn speaks(&self, at: usize, call: &Call) -> bool {
        self.shared.routes.deployments()[at].provider.speaks(call.request.endpoint)
    }

    /// Whether an answer can still begin before the call's deadline.
    ///
    /// # Errors
    /// `DeadlineExceeded` when it has passed, or when hardly any answer of the deployment has
    /// begun so soon.
    fn in_time(&self, call: &Call, deadline: Instant, lease: &Lease) -> Result<()> {
        let now = self.shared.clock.now();
        let left = deadline.since(now);
        if deadline <= now {
            let message = "the call's deadline has passed before it could be sent";
            return Err(too_late(message.to_owned(), Retry::Never));
        }
        let times = lease.target().times(call.request.fields.stream);
        let Some(least) = times.quantile(0.01).filter(|least| *least > left) else {
            return Ok(());
        };
        let name = lease.target().name();
        let message = format!(
            "the call's deadline is in {} ms, and of {name}'s answers 99 % take at least {} ms \
             to begin; the call was not sent",
            left.as_millis(),
            least.as_millis()
        );
        Err(too_late(message, Retry::OtherTarget))
    }

    /// The limits that an answer of a deployment shows, where they are of use.
    fn limits_in(&self, at: usize, headers: &HeaderMap) -> Option<Headers> {
        // Most answers show none, and are not searched.
        let shows = |name: &::http::HeaderName| name.as_str().contains("ratelimit-");
        if !self.shared.lines.learn || !headers.keys().any(shows) {
            return None;
        }
        let provider = self.shared.routes.deployments()[at].provider;
        Headers::read(headers, provider.limits, unix_s())
    }

    /// One attempt at a deployment. A stream has begun to answer when this returns.
    async fn once(
        &self,
        call: &Call,
        model: &Bytes,
        at: usize,
        begun: Option<&str>,
    ) -> Result<Reply, Failed> {
        let deployment = &self.shared.routes.deployments()[at];
        let raw = &call.request;
        if raw.endpoint == Endpoint::CountTokens && !deployment.provider.speaks(raw.endpoint) {
            return translate::count_tokens(raw).map_err(Failed::of);
        }
        let mut prepared = prepare(call, model, deployment).await.map_err(Failed::of)?;
        if let Some(text) = begun {
            let prefilled = prefill(&prepared.request, deployment.provider.prefill, text);
            prepared.request = Cow::Owned(prefilled.map_err(Failed::of)?);
        }
        let sent = self.upstreams[at].send(&prepared.request, call.deadline).await;
        let mut reply = sent.map_err(Failed::of)?;
        reply.deployment = Some(Arc::clone(deployment.target.name()));
        let endpoint = prepared.request.endpoint;
        if reply.status.as_u16() < 400 {
            let reply = match prepared.translation {
                None => reply,
                Some(translation) => translation.reply(reply).map_err(Failed::of)?,
            };
            return once_begun(reply, raw.endpoint, deployment.keyed).await;
        }
        let class = match whole(&reply) {
            Some(body) => classify(endpoint, &reply, body),
            None => class_of_status(reply.status.as_u16()),
        };
        let verdict = Verdict::of_class(class, deployment.keyed);
        let wait = retry_after(&reply);
        let limited = limit_of(class, reply.status.as_u16()).map(|class| Refusal {
            class,
            retry_after: wait,
            dimension: whole(&reply).and_then(headers::refused_dimension),
        });
        let result = match prepared.translation {
            None => Ok(reply),
            Some(translation) => translation.reply(reply),
        };
        Err(Failed { result, verdict, wait, limited })
    }
}

/// The answer, once its stream has begun to say something.
async fn once_begun(mut reply: Reply, endpoint: Endpoint, keyed: bool) -> Result<Reply, Failed> {
    let Body::Events(chunks) = reply.body else { return Ok(reply) };
    let begun = Begun::wait(chunks, endpoint).await.map_err(Failed::of)?;
    let failure = begun.failure(endpoint);
    reply.body = Body::Events(Box::pin(begun));
    let Some(class) = failure else { return Ok(reply) };
    // Nothing has gone to the caller but an error, which is told where nobody else answers.
    let status = if endpoint == Endpoint::Messages { 529 } else { 503 };
    let limited =
        limit_of(class, status).map(|class| Refusal { class, retry_after: None, dimension: None });
    let verdict = Verdict::of_class(class, keyed);
    Err(Failed { result: Ok(reply), verdict, wait: None, limited })
}

fn too_late(message: String, retry: Retry) -> Error {
    Error::new(ErrorKind::DeadlineExceeded, Origin::Client, retry, message)
}

impl Failed {
    fn of(error: Error) -> Self {
        let verdict = Verdict::of_error(&error);
        Self { result: Err(error), verdict, wait: None, limited: None }
    }
}

/// What kind of error an upstream's answer is.
fn classify(endpoint: Endpoint, reply: &Reply, body: &[u8]) -> FailureClass {
    let status = reply.status.as_u16();
    match codec::of(endpoint) {
        Some(codec) => codec.read_failure(status, &reply.headers, body).class,
        None => class_of_status(status),
    }
}

/// What an answer asks to wait, in its `retry-after-ms` or `Retry-After`, or in Google's body.
fn retry_after(reply: &Reply) -> Option<Duration> {
    let asked = headers::retry_after(&reply.headers, unix_s());
    asked.or_else(|| headers::retry_info(whole(reply)?))
}

/// The body of an answer that is no stream.
fn whole(reply: &Reply) -> Option<&[u8]> {
    match &reply.body {
        Body::Whole(body) => Some(body),
        _ => None,
    }
}

/// The time in seconds since 1970.
pub(super) fn unix_s() -> f64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.unwrap_or_default().as_secs_f64()
}

/// The kind of limit that a class of errors speaks of.
const fn limit_of(class: FailureClass, status: u16) -> Option<Class> {
    match (class, status) {
        (FailureClass::RateLimited, _) => Some(Class::RateLimit),
        // Anthropic's word for it; a 503 is an outage as likely as not.
        (FailureClass::Overloaded, 529) => Some(Class::Overloaded),
        _ => None,
    }
}

/// Lets an attempt run, and tells its pass after a second without a refusal that it was
/// accepted: some providers refuse at once or never.
async fn watched(
    mut attempt: Pin<&mut impl Future<Output = Result<Reply, Failed>>>,
    pass: Option<Pass>,
    clock: &Clock,
) -> (Result<Reply, Failed>, Option<Pass>) {
    let Some(mut pass) = pass else { return (attempt.await, None) };
    if let Some(sent) = clock.timeout_at(clock.now().after(ACCEPTED_AFTER), &mut attempt).await {
        return (sent, Some(pass));
    }
    pass.accepted();
    (attempt.await, Some(pass))
}

/// A call that was not refused for so long is taken as accepted (`limit-learning.md` of our
/// own research: refusals come within a second).
const ACCEPTED_AFTER: Duration = Duration::from_secs(1);

pub(crate) fn report(lease: &mut Lease, outcome: Outcome, why: &str) {
    if !lease.report(outcome) {
        return;
    }
    let upstream = &**lease.target().name();
    if outcome == Outcome::Barred {
        error!(upstream, why, "upstream refuses its key; left out until that is mended");
    } else {
        warn!(upstream, why, "upstream keeps failing; left out while others are healthy");
    }
}
