//! When two calls are equal, and what a call may use of the cache.

use http::HeaderName;
use paceline_core::{CacheMode, Call};
use smallvec::SmallVec;
use xxhash_rust::xxh3::xxh3_128_with_seed;

/// The index of a call among equal ones. It finds candidates only: whether two calls are
/// equal is decided on their canonical bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key(pub(crate) u128);

/// The form in which an answer is wanted or kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// One JSON object.
    Whole,
    /// A stream of events without usage.
    Stream,
    /// A stream of events that ends with usage.
    StreamWithUsage,
}

impl Form {
    /// The form that a call asks for.
    pub fn of(call: &Call) -> Self {
        match (call.request.fields.stream, call.request.fields.include_usage) {
            (false, _) => Self::Whole,
            (true, false) => Self::Stream,
            (true, true) => Self::StreamWithUsage,
        }
    }
}

/// What a call may use of the cache and the flights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Use {
    /// A kept answer, or that of an equal call under way, will do.
    pub share: bool,
    /// The fresh answer may be kept.
    pub keep: bool,
    /// Nothing may be sent upstream.
    pub only: bool,
}

impl Use {
    /// What the call's temperature and its `x-paceline-cache` header allow.
    pub fn of(call: &Call) -> Self {
        let (share, keep, only) = match call.cache {
            CacheMode::Auto => {
                let repeatable = call.request.fields.repeatable;
                (repeatable, repeatable, false)
            }
            CacheMode::Yes => (true, true, false),
            CacheMode::No => (false, false, false),
            CacheMode::Refresh => (false, true, false),
            CacheMode::Only => (true, true, true),
        };
        Self { share, keep, only }
    }
}

impl Key {
    /// The key of a call.
    pub fn of(call: &Call) -> Self {
        let mut hash = 0u128;
        for_each_part(call, |tag, part| {
            let seed = (hash as u64) ^ ((hash >> 64) as u64).rotate_left(29) ^ u64::from(tag) << 56;
            hash = xxh3_128_with_seed(part, seed ^ (part.len() as u64) << 20);
        });
        Self(hash)
    }

    /// The key of one form of the answer.
    pub(crate) fn form(self, form: Form) -> Self {
        Self(self.0 ^ (form as u128 + 1) << 96)
    }
}

/// The canonical bytes of a call: equal bytes, equal calls.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Canonical(Box<[u8]>);

impl Canonical {
    pub(crate) fn of(call: &Call) -> Self {
        let mut len = 0;
        for_each_part(call, |_, part| len += HEAD + part.len());
        let mut bytes = Vec::with_capacity(len);
        for_each_part(call, |tag, part| {
            bytes.extend_from_slice(&head(tag, part));
            bytes.extend_from_slice(part);
        });
        Self(bytes.into_boxed_slice())
    }

    /// Whether these are the canonical bytes of `call`, without making those.
    pub(crate) fn matches(&self, call: &Call) -> bool {
        let mut rest = Some(&*self.0);
        for_each_part(call, |tag, part| {
            let expect = |rest: &[u8], bytes: &[u8]| rest.starts_with(bytes);
            rest = rest
                .filter(|rest| expect(rest, &head(tag, part)) && expect(&rest[HEAD..], part))
                .map(|rest| &rest[HEAD + part.len()..]);
        });
        rest.is_some_and(<[u8]>::is_empty)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

/// Bytes before each part: its tag and its length.
const HEAD: usize = 9;

fn head(tag: u8, part: &[u8]) -> [u8; HEAD] {
    let mut head = [tag; HEAD];
    head[1..].copy_from_slice(&(part.len() as u64).to_le_bytes());
    head
}

/// Calls `visit` with everything of a call that can change its answer, in canonical order:
/// members of the body by name, whatever the order or spacing in the text.
fn for_each_part(call: &Call, mut visit: impl FnMut(u8, &[u8])) {
    match &call.caller.tenant {
        Some(tenant) => visit(b't', tenant.as_bytes()),
        None => visit(b'a', b""),
    }
    visit(b'c', &call.caller.credential);
    visit(b'p', &call.request.path);
    let mut headers: SmallVec<[(&HeaderName, &[u8]); 4]> = call
        .request
        .headers
        .iter()
        .filter(|(name, _)| selects(name.as_str()))
        .map(|(name, value)| (name, value.as_bytes()))
        .collect();
    headers.sort_unstable_by_key(|(name, value)| (name.as_str(), *value));
    for (name, value) in headers {
        visit(b'h', name.as_str().as_bytes());
        visit(b'v', value);
    }
    for member in &call.request.fields.members {
        visit(b'k', call.request.get(member.key));
        visit(b'v', call.request.get(member.value));
    }
}

/// Headers that choose an account, a project or a feature at the provider.
fn selects(name: &str) -> bool {
    name.starts_with("openai-")
        || name.starts_with("anthropic-")
        || name == "x-api-key"
        || name == "api-key"
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use http::HeaderMap;
    use paceline_core::{CallId, Caller, Deadline, Endpoint, Instant, RawRequest};
    use paceline_dialect::wire::fields;
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn call(body: &str) -> Call {
        let body = Bytes::from(body.to_owned());
        let (run, id) = CallId::fresh(None);
        Call {
            id,
            run,
            run_named: false,
            parent: None,
            agent: None,
            caller: Caller { tenant: None, credential: [0; 32] },
            deadline: Deadline(None),
            cache: CacheMode::Auto,
            priority: 5,
            arrived: Instant::default(),
            request: RawRequest {
                endpoint: Endpoint::Chat,
                method: http::Method::POST,
                path: Bytes::from_static(b"/v1/chat/completions"),
                headers: HeaderMap::new(),
                fields: fields(Endpoint::Chat, &Bytes::new(), &body).unwrap(),
                body,
            },
        }
    }

    fn equal(a: &Call, b: &Call) -> bool {
        let equal = Canonical::of(a) == Canonical::of(b);
        assert_eq!(equal, Canonical::of(a).matches(b));
        assert_eq!(equal, Canonical::of(b).matches(a));
        assert!(!equal || Key::of(a) == Key::of(b), "equal calls have equal keys");
        equal
    }

    #[test]
    fn form_and_labels_are_no_part_of_the_key() {
        let plain = call(r#"{"model":"m","messages":[1],"temperature":0}"#);
        for same in [
            r#"{ "temperature": 0, "messages": [1], "model": "m" }"#,
            r#"{"model":"m","messages":[1],"temperature":0,"stream":true,"stream_options":{"include_usage":true}}"#,
            r#"{"model":"m","messages":[1],"temperature":0,"metadata":{"paceline_run":"x"}}"#,
        ] {
            assert!(equal(&plain, &call(same)), "{same}");
        }
    }

    #[test]
    fn callers_are_kept_apart() {
        let body = r#"{"model":"m","temperature":0}"#;
        let mut tenant = call(body);
        tenant.caller.tenant = Some(Arc::from("t"));
        let mut credential = call(body);
        credential.caller.credential = [1; 32];
        let mut project = call(body);
        project.request.headers.insert("openai-project", "p".parse().unwrap());
        let mut path = call(body);
        path.request.path = Bytes::from_static(b"/v1/chat/completions?x=1");
        let calls = [call(body), tenant, credential, project, path];
        for (i, a) in calls.iter().enumerate() {
            for (j, b) in calls.iter().enumerate() {
                assert_eq!(equal(a, b), i == j, "{i} {j}");
            }
        }
    }

    /// A request body as a list of members, so that a test can change one of them.
    fn members() -> impl Strategy<Value = Vec<(String, String)>> {
        let value = prop_oneof![
            "[1-9][0-9]{0,2}",
            "\"[a-z ,:{}]{0,8}\"",
            Just("null".to_owned()),
            Just("[{\"role\":\"user\",\"content\":\"x\"}]".to_owned()),
        ];
        let name = prop_oneof![
            Just("messages"),
            Just("temperature"),
            Just("top_p"),
            Just("tools"),
            Just("seed"),
            Just("max_tokens"),
            Just("stop"),
            Just("n"),
            Just("user"),
            Just("response_format"),
        ];
        proptest::collection::btree_map(name.prop_map(str::to_owned), value, 0..8)
            .prop_map(|map| map.into_iter().collect())
    }

    fn body(members: &[(String, String)]) -> String {
        let members: String = members.iter().map(|(k, v)| format!(",\"{k}\":{v}")).collect();
        format!("{{\"model\":\"m\"{members}}}")
    }

    proptest! {
        /// Two requests that differ in any answer-changing field never share a key.
        #[test]
        fn different_requests_never_share(a in members(), b in members(), swap in any::<bool>()) {
            let mut reordered = a.clone();
            if swap {
                reordered.reverse();
            }
            prop_assert!(equal(&call(&body(&a)), &call(&body(&reordered))));
            prop_assert_eq!(equal(&call(&body(&a)), &call(&body(&b))), a == b);
            if a != b {
                prop_assert_ne!(Key::of(&call(&body(&a))), Key::of(&call(&body(&b))));
            }
        }

        #[test]
        fn any_change_of_one_member_changes_the_key(a in members(), at in any::<prop::sample::Index>(), to in "[a-z]{1,9}") {
            prop_assume!(!a.is_empty());
            let mut changed = a.clone();
            changed[at.index(a.len())].1 = format!("\"{to}!\"");
            let mut missing = a.clone();
            missing.remove(at.index(a.len()));
            for other in [changed, missing] {
                prop_assert!(!equal(&call(&body(&a)), &call(&body(&other))));
                prop_assert_ne!(Key::of(&call(&body(&a))), Key::of(&call(&body(&other))));
            }
        }
    }
}
