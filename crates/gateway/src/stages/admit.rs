//! Authentication, and the facts of a call: who, which run, which fields.

use std::sync::Arc;
use std::time::Duration;

use ::http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;
use paceline_core::{
    CacheMode, Call, CallId, Caller, Deadline, Endpoint, Error, ErrorKind, Fields, Instant, Name,
    Origin, RawRequest, Result, Retry, RunId,
};
use paceline_dialect::{openai, wire};
use paceline_upstream::CREDENTIALS;
use smallvec::SmallVec;
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use crate::pipeline::{Incoming, Shared};
use crate::stages::digest::{Digests, sha256};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const BAGGAGE: HeaderName = HeaderName::from_static("baggage");

/// Who may call.
#[derive(Clone, Default)]
pub struct Config {
    /// The keys; when there are none, everybody may call, and the caller's own credential
    /// goes on to the upstream.
    pub keys: Vec<StaticKey>,
}

/// A key and the tenant that it stands for. Only the key's digest is held.
#[derive(Clone)]
pub struct StaticKey {
    tenant: Arc<str>,
    digest: [u8; 32],
}

impl StaticKey {
    /// A key of a tenant.
    pub fn new(tenant: impl Into<Arc<str>>, key: &str) -> Self {
        Self { tenant: tenant.into(), digest: sha256(key.as_bytes()) }
    }
}

/// The stage.
pub(crate) struct Admit {
    shared: Arc<Shared>,
    digests: Digests,
}

impl Admit {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, digests: Digests::default() }
    }

    /// Checks the caller and reads the call's facts.
    ///
    /// # Errors
    /// `Unauthorized`, or `InvalidRequest` with what is wrong and where.
    pub(crate) fn admit(&self, incoming: Incoming) -> Result<Call> {
        let Incoming { endpoint, method, path, run, mut headers, body, arrived } = incoming;
        let tenant = self.tenant(&mut headers)?;
        let query = memchr::memchr(b'?', &path).unwrap_or(path.len());
        let fields = match endpoint {
            Endpoint::Other => Fields::default(),
            _ => wire::fields(endpoint, &path.slice(..query), &body)?,
        };
        let mut ours = strip(&mut headers);
        let cache = cache_mode(ours.cache.take())?;
        let deadline = deadline(ours.deadline.take(), arrived)?;
        let priority = priority(ours.priority.take())?;
        let named = NamedRun::of(run, ours, &headers, &body, &fields)?;
        let shares = fields.repeatable || !matches!(cache, CacheMode::Auto | CacheMode::No);
        let shown = || CREDENTIALS.iter().find_map(|name| headers.get(name));
        let credential = match shares.then(shown).flatten() {
            Some(value) => self.digests.of(value.as_bytes()),
            None => [0; 32],
        };
        let run_named = named.run.is_some();
        let (run, id) = CallId::fresh(named.run);
        Ok(Call {
            id,
            run,
            run_named,
            parent: named.parent,
            agent: named.agent,
            caller: Caller { tenant, credential },
            deadline,
            priority,
            cache,
            arrived,
            request: RawRequest { endpoint, method, path, headers, body, fields },
        })
    }

    /// The tenant of the key, which is taken out so that it never goes upstream.
    pub(crate) fn tenant(&self, headers: &mut HeaderMap) -> Result<Option<Arc<str>>> {
        let keys = &self.shared.admit.keys;
        if keys.is_empty() {
            return Ok(None);
        }
        // Whatever was shown is ours, and goes no further.
        let mut given = None;
        for name in &CREDENTIALS {
            let shown = headers.remove(name);
            given = given.or_else(|| if *name == AUTHORIZATION { bearer(&shown?) } else { shown });
        }
        let given = given.as_ref().map(|value| value.as_bytes().trim_ascii());
        let Some(key) = given.filter(|key| !key.is_empty()) else {
            return Err(unauthorized(
                "no key; send it as `Authorization: Bearer KEY` or in `x-api-key`",
            ));
        };
        let digest = self.digests.of(key);
        // All keys are compared, and each in constant time.
        let mut found = u32::MAX;
        for (at, key) in (0..).zip(keys) {
            let same: Choice = key.digest.ct_eq(&digest);
            found = u32::conditional_select(&found, &at, same);
        }
        let tenant = usize::try_from(found).ok().and_then(|at| keys.get(at));
        tenant.map(|key| Some(Arc::clone(&key.tenant))).ok_or_else(|| {
            unauthorized("the key is not known; check its spelling, or ask the operator")
        })
    }
}

/// How the client placed its call.
#[derive(Default)]
struct NamedRun {
    run: Option<RunId>,
    parent: Option<Name>,
    agent: Option<Name>,
}

impl NamedRun {
    /// Headers come first, then the path, `metadata`, `baggage` and the trace.
    fn of(
        run: Option<RunId>,
        ours: Ours,
        headers: &HeaderMap,
        body: &Bytes,
        fields: &Fields,
    ) -> Result<Self> {
        let mut named = Self {
            run: name(ours.run, "x-paceline-run")?.map(RunId).or(run),
            parent: name(ours.parent, "x-paceline-parent")?,
            agent: name(ours.agent, "x-paceline-agent")?,
        };
        if let Some(span) = fields.metadata {
            let metadata = &body[span.range()];
            let text = |field: &'static str| {
                let text = openai::metadata_text(metadata, field);
                text.map(|text| checked(text.into_owned().into(), field)).transpose()
            };
            named.fill(text("paceline_run")?, text("paceline_parent")?, text("paceline_agent")?);
        }
        if named.run.is_none()
            && let Some(span) = fields.metadata
        {
            named.run = session(&body[span.range()]).map(RunId);
        }
        if named.run.is_none()
            && let Some(baggage) = headers.get(BAGGAGE)
        {
            let entry = |field: &str| baggage_entry(baggage, field);
            named.fill(entry("paceline.run"), entry("paceline.parent"), entry("paceline.agent"));
        }
        if named.run.is_none()
            && let Some((trace, span)) = headers.get(TRACEPARENT).and_then(trace)
        {
            named.fill(Some(trace), Some(span), None);
        }
        Ok(named)
    }

    fn fill(&mut self, run: Option<Name>, parent: Option<Name>, agent: Option<Name>) {
        self.run = self.run.take().or_else(|| run.map(RunId));
        self.parent = self.parent.take().or(parent);
        self.agent = self.agent.take().or(agent);
    }
}

fn name(value: Option<HeaderValue>, field: &'static str) -> Result<Option<Name>> {
    value.map(|value| checked(Bytes::copy_from_slice(value.as_bytes()), field)).transpose()
}

fn checked(text: Bytes, field: &'static str) -> Result<Name> {
    Name::new(text).map_err(|fault| {
        Error::invalid(format!("`{field}` is no valid name: {fault}")).with_param(field)
    })
}

/// The session that coding agents name in Anthropic's `metadata.user_id`:
/// `user_…_session_{id}`, or a JSON text with a `session_id`.
fn session(metadata: &[u8]) -> Option<Name> {
    let user = openai::metadata_text(metadata, "user_id")?;
    let (_, rest) =
        user.rsplit_once("session_id\":\"").or_else(|| user.rsplit_once("_session_"))?;
    let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '-').unwrap_or(rest.len());
    Name::new(format!("session_{}", rest.get(..end).filter(|id| !id.is_empty())?)).ok()
}

/// The value of a W3C baggage entry; what is no valid name is passed over, since other
/// systems write there as well.
fn baggage_entry(baggage: &HeaderValue, field: &str) -> Option<Name> {
    let entries = baggage.to_str().ok()?.split(',');
    let mut pairs = entries.filter_map(|entry| entry.split(';').next()?.split_once('='));
    let (_, value) = pairs.find(|(key, _)| key.trim() == field)?;
    Name::new(value.trim().to_owned()).ok()
}

/// The trace and span of a W3C `traceparent`, as a run and a parent.
fn trace(value: &HeaderValue) -> Option<(Name, Name)> {
    let mut parts = value.to_str().ok()?.split('-');
    let (version, trace, span) = (parts.next()?, parts.next()?, parts.next()?);
    let hex = |text: &str, len| {
        text.len() == len
            && text.bytes().all(|b| b.is_ascii_hexdigit())
            && text.bytes().any(|b| b != b'0')
    };
    let valid = version.len() == 2 && hex(trace, 32) && hex(span, 16);
    let name = |text: String| Name::new(text).ok();
    valid.then(|| Some((name(format!("trace_{trace}"))?, name(format!("span_{span}"))?)))?
}

fn cache_mode(value: Option<HeaderValue>) -> Result<CacheMode> {
    match value.as_ref().map(HeaderValue::as_bytes) {
        None => Ok(CacheMode::Auto),
        Some(b"yes") => Ok(CacheMode::Yes),
        Some(b"no") => Ok(CacheMode::No),
        Some(b"refresh") => Ok(CacheMode::Refresh),
        Some(b"only") => Ok(CacheMode::Only),
        Some(_) => {
            let message = "`x-paceline-cache` must be one of yes, no, refresh, only";
            Err(Error::invalid(message).with_param("x-paceline-cache"))
        }
    }
}

/// How urgent a call is where it does not say.
const PRIORITY_USUAL: u8 = 5;

fn priority(value: Option<HeaderValue>) -> Result<u8> {
    match value.as_ref().map(HeaderValue::as_bytes) {
        None => Ok(PRIORITY_USUAL),
        Some([digit @ b'0'..=b'9']) => Ok(digit - b'0'),
        Some(_) => {
            Err(Error::invalid("`x-paceline-priority` must be 0 to 9; 9 is the most urgent")
                .with_param("x-paceline-priority"))
        }
    }
}

fn deadline(value: Option<HeaderValue>, arrived: Instant) -> Result<Deadline> {
    let Some(value) = value else { return Ok(Deadline(None)) };
    let ms = value.to_str().ok().and_then(|text| text.parse::<u64>().ok()).filter(|ms| *ms > 0);
    let ms = ms.ok_or_else(|| {
        Error::invalid("`x-paceline-deadline-ms` must be a whole number of milliseconds above 0")
            .with_param("x-paceline-deadline-ms")
    })?;
    Ok(Deadline(Some(arrived.after(Duration::from_millis(ms)))))
}

/// The values of our own headers.
#[derive(Default)]
pub(crate) struct Ours {
    run: Option<HeaderValue>,
    parent: Option<HeaderValue>,
    agent: Option<HeaderValue>,
    deadline: Option<HeaderValue>,
    priority: Option<HeaderValue>,
    cache: Option<HeaderValue>,
}

/// Takes out what does not go upstream, and returns what of it is ours. One pass over the
/// headers that came is cheaper than a look-up for each one that might have.
pub(crate) fn strip(headers: &mut HeaderMap) -> Ours {
    let mut ours = Ours::default();
    let mut out: SmallVec<[HeaderName; 8]> = SmallVec::new();
    for (name, value) in &*headers {
        let slot = match name.as_str() {
            "x-paceline-run" => &mut ours.run,
            "x-paceline-parent" => &mut ours.parent,
            "x-paceline-agent" => &mut ours.agent,
            "x-paceline-deadline-ms" => &mut ours.deadline,
            "x-paceline-priority" => &mut ours.priority,
            "x-paceline-cache" => &mut ours.cache,
            "connection" => {
                let named = value.to_str().unwrap_or_default().split(',');
                out.extend(named.filter_map(|name| name.trim().parse::<HeaderName>().ok()));
                out.push(name.clone());
                continue;
            }
            text => {
                if is_hop_by_hop(text) || text.starts_with("x-paceline-") {
                    out.push(name.clone());
                }
                continue;
            }
        };
        // Of several the first counts.
        slot.get_or_insert_with(|| value.clone());
        out.push(name.clone());
    }
    for name in out {
        headers.remove(name);
    }
    ours
}

/// Headers that concern the connection to us alone. `Host` stays: an upstream puts its own
/// in that place, which costs less than to take one out and add the other. `Accept-Encoding` is among them,
/// because a compressed stream could neither be cut at its events nor kept.
fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "content-length"
            | "accept-encoding"
            | "keep-alive"
            | "transfer-encoding"
            | "te"
            | "trailer"
            | "upgrade"
            | "expect"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
    )
}

/// The key behind the scheme `Bearer`.
fn bearer(value: &HeaderValue) -> Option<HeaderValue> {
    let (scheme, key) = value.as_bytes().split_at_checked(7)?;
    let key = scheme.eq_ignore_ascii_case(b"bearer ").then_some(key)?;
    HeaderValue::from_bytes(key).ok()
}

fn unauthorized(message: &'static str) -> Error {
    Error::new(ErrorKind::Unauthorized, Origin::Client, Retry::Never, message)
}
