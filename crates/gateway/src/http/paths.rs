//! What a path asks for, and in whose words it is answered.

use ::http::{HeaderMap, Method};
use paceline_core::{Dialect, Endpoint};

use crate::stages::stored::{StoredPath, What as Stored};

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked<'a> {
    /// A call of a model.
    Call(Endpoint),
    /// An answer that was given before.
    Stored(StoredPath<'a>),
    /// The models.
    Models,
    /// One of them.
    Model(&'a str),
    /// Whether the process lives.
    Health,
    /// Whether it can take calls.
    Ready,
    /// What is measured.
    Metrics,
    /// What is believed of the limits of providers.
    Limits,
    /// Nothing that is served.
    Unknown,
}

impl Asked<'_> {
    /// The method that it takes, for those who used another.
    pub(crate) const fn method(self) -> Method {
        match self {
            Self::Call(_) | Self::Stored(StoredPath { what: Stored::Cancel, .. }) => Method::POST,
            _ => Method::GET,
        }
    }

    /// Whether a method is taken.
    pub(crate) fn takes(self, method: &Method) -> bool {
        let probe = matches!(self, Self::Health | Self::Ready) && method == Method::HEAD;
        let deletes = matches!(self, Self::Stored(StoredPath { what: Stored::Answer, .. }));
        *method == self.method() || probe || (deletes && method == Method::DELETE)
    }
}

const RESPONSES: &str = "/v1/responses/";

/// What the path asks for.
pub(crate) fn asked(path: &str) -> Asked<'_> {
    match path {
        "/v1/chat/completions" => Asked::Call(Endpoint::Chat),
        "/v1/messages" => Asked::Call(Endpoint::Messages),
        "/v1/responses" => Asked::Call(Endpoint::Responses),
        "/v1/embeddings" => Asked::Call(Endpoint::Embeddings),
        "/v1/completions" => Asked::Call(Endpoint::Completions),
        "/v1/messages/count_tokens" => Asked::Call(Endpoint::CountTokens),
        "/v1/models" | "/v1beta/models" => Asked::Models,
        "/health" => Asked::Health,
        "/ready" => Asked::Ready,
        "/metrics" => Asked::Metrics,
        "/limits" => Asked::Limits,
        _ if path.starts_with(RESPONSES) => {
            StoredPath::of(&path[RESPONSES.len()..]).map_or(Asked::Unknown, Asked::Stored)
        }
        _ => {
            let id = path.strip_prefix("/v1/models/").or(path.strip_prefix("/v1beta/models/"));
            let method = id.and_then(|id| id.rsplit_once(':'));
            match (id, method) {
                (_, Some((_, "generateContent" | "streamGenerateContent"))) => {
                    Asked::Call(Endpoint::Generate)
                }
                (Some(id), _) if !id.is_empty() => Asked::Model(id),
                _ => Asked::Unknown,
            }
        }
    }
}

/// Whose words an answer is in. Three dialects list models at one path; their clients are
/// told by the headers that only they send.
pub(crate) fn dialect(asked: Asked<'_>, path: &str, headers: &HeaderMap) -> Dialect {
    match asked {
        Asked::Call(endpoint) => endpoint.dialect(),
        _ if headers.contains_key("anthropic-version") => Dialect::Anthropic,
        _ if path.starts_with("/v1beta/") || headers.contains_key("x-goog-api-key") => {
            Dialect::Gemini
        }
        _ => Dialect::OpenAi,
    }
}

/// Takes a key out of a query, as Google's clients may send it, so that it never stands in a
/// log or goes out in a path.
pub(crate) fn take_key(query: &str) -> (String, Option<&str>) {
    let mut key = None;
    let rest: Vec<&str> = query
        .split('&')
        .filter(|pair| match pair.strip_prefix("key=") {
            Some(value) => {
                key = Some(value);
                false
            }
            None => !pair.is_empty(),
        })
        .collect();
    (rest.join("&"), key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_told_apart() {
        let check = |path: &str, expected: Asked<'_>| assert_eq!(asked(path), expected, "{path}");
        check("/v1/chat/completions", Asked::Call(Endpoint::Chat));
        check("/v1/messages/count_tokens", Asked::Call(Endpoint::CountTokens));
        check("/v1beta/models/g-3:generateContent", Asked::Call(Endpoint::Generate));
        check("/v1/models/g:x:streamGenerateContent", Asked::Call(Endpoint::Generate));
        check("/v1/models/qwen:7b", Asked::Model("qwen:7b"));
        check("/v1beta/models", Asked::Models);
        check("/v1/models/", Asked::Unknown);
        check("/v1", Asked::Unknown);
        let stored = |id, what| Asked::Stored(StoredPath { id, what });
        check("/v1/responses/resp_1", stored("resp_1", Stored::Answer));
        check("/v1/responses/resp_1/input_items", stored("resp_1", Stored::InputItems));
        check("/v1/responses/resp_1/cancel", stored("resp_1", Stored::Cancel));
        check("/v1/responses/", Asked::Unknown);
        check("/v1/responses/resp_1/other", Asked::Unknown);
    }

    #[test]
    fn keys_leave_the_query() {
        assert_eq!(take_key("alt=sse&key=K&x=1"), ("alt=sse&x=1".to_owned(), Some("K")));
        assert_eq!(take_key("key=K"), (String::new(), Some("K")));
        assert_eq!(take_key("monkey=K"), ("monkey=K".to_owned(), None));
    }
}
