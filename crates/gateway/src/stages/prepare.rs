//! A call as a deployment gets it: as it came, with another model's name spliced in, or
//! translated.

use std::borrow::Cow;

use ::http::HeaderMap;
use ::http::header::{ACCEPT, CONTENT_TYPE, HeaderName, HeaderValue, USER_AGENT};
use bytes::{Bytes, BytesMut};
use paceline_core::{
    Call, Endpoint, Error, ErrorKind, Fields, Origin, RawRequest, Result, Retry, Span,
};
use paceline_upstream::{Auth, CREDENTIALS, Provider};

use crate::stages::routes::Deployment;
use crate::stages::translate::{self, Translation};

/// What a deployment is sent, and how its answer is to be read.
pub(crate) struct Prepared<'a> {
    /// The request.
    pub(crate) request: Cow<'a, RawRequest>,
    /// How the answer is told to the caller, where the deployment speaks another dialect.
    pub(crate) translation: Option<Box<Translation>>,
}

/// Prepares a call for a deployment, of which it asks `model` by the name that callers use.
///
/// # Errors
/// `InvalidRequest` that names the field of which the deployment's dialect has no word.
pub(crate) async fn prepare<'a>(
    call: &'a Call,
    model: &Bytes,
    deployment: &Deployment,
) -> Result<Prepared<'a>> {
    let raw = &call.request;
    let name = match deployment.rename.get(model) {
        Some(name) => Some(Cow::Borrowed(name.as_str())),
        None => (raw.fields.model != *model).then(|| String::from_utf8_lossy(model)),
    };
    if deployment.provider.speaks(raw.endpoint) {
        let request = match name {
            None => Cow::Borrowed(raw),
            Some(name) => Cow::Owned(renamed(raw, &name)?),
        };
        return Ok(Prepared { request, translation: None });
    }
    if !raw.endpoint.is_conversation() {
        return Err(unspoken(deployment));
    }
    let model = name.unwrap_or_else(|| String::from_utf8_lossy(model)).into_owned();
    let provider = deployment.provider;
    let (body, translation) = translate::request(raw, model.clone(), provider).await?;
    let stream = raw.fields.stream;
    let request = RawRequest {
        endpoint: provider.conversation,
        method: raw.method.clone(),
        path: Bytes::from(translation.path(&model)),
        headers: headers(&raw.headers, provider, stream),
        body,
        fields: Fields { model: Bytes::from(model), stream, ..Fields::default() },
    };
    Ok(Prepared { request: Cow::Owned(request), translation: Some(Box::new(translation)) })
}

/// The request with another name of the model, and not a byte else changed.
fn renamed(raw: &RawRequest, name: &str) -> Result<RawRequest> {
    let mut fields = raw.fields.clone();
    let (mut path, mut body) = (raw.path.clone(), raw.body.clone());
    if raw.endpoint == Endpoint::Generate {
        let text = String::from_utf8_lossy(&raw.path);
        let old = String::from_utf8_lossy(&raw.fields.model);
        path = Bytes::from(text.replacen(&format!("/{old}:"), &format!("/{name}:"), 1));
    } else {
        let quoted = serde_json::to_string(name).map_err(|error| {
            Error::invalid("the model's name cannot be written").with_source(error)
        })?;
        (body, fields.model_span) = spliced(&raw.body, raw.fields.model_span, &quoted);
        // Behind the splice all spans have moved, and nobody upstream of here reads them.
        fields.members.clear();
        fields.metadata = None;
    }
    fields.model = Bytes::from(name.to_owned());
    let (endpoint, method) = (raw.endpoint, raw.method.clone());
    Ok(RawRequest { endpoint, method, path, headers: raw.headers.clone(), body, fields })
}

fn spliced(body: &Bytes, span: Span, text: &str) -> (Bytes, Span) {
    let range = span.range();
    let mut out = BytesMut::with_capacity(body.len() - range.len() + text.len());
    out.extend_from_slice(&body[..range.start]);
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(&body[range.end..]);
    let end = range.start + text.len();
    (out.freeze(), Span { start: span.start, end: u32::try_from(end).unwrap_or(u32::MAX) })
}

/// The headers that mean the same to every upstream, and the caller's key where this one
/// looks for it. What belongs to the caller's dialect stays here.
pub(crate) fn headers(from: &HeaderMap, provider: &Provider, stream: bool) -> HeaderMap {
    const KEPT: [HeaderName; 4] = [
        USER_AGENT,
        HeaderName::from_static("traceparent"),
        HeaderName::from_static("tracestate"),
        HeaderName::from_static("baggage"),
    ];
    let mut headers = HeaderMap::with_capacity(8);
    for name in KEPT {
        if let Some(value) = from.get(&name) {
            headers.insert(name, value.clone());
        }
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let accept = match (provider.conversation, stream) {
        (Endpoint::Converse, true) => "application/vnd.amazon.eventstream",
        (_, true) => "text/event-stream",
        (_, false) => "application/json",
    };
    headers.insert(ACCEPT, HeaderValue::from_static(accept));
    if provider.conversation == Endpoint::Messages {
        // The version whose requests may set a temperature.
        headers.insert("anthropic-version", HeaderValue::from_static("2023-06-01"));
    }
    if let Some(key) = CREDENTIALS.iter().find_map(|name| from.get(name)) {
        headers.extend(as_shown(key, provider.auth).map(|key| (provider.auth.header(), key)));
    }
    headers
}

/// A caller's key as a provider wants it shown.
fn as_shown(given: &HeaderValue, auth: Auth) -> Option<HeaderValue> {
    let text = given.to_str().ok()?;
    let key = text.strip_prefix("Bearer ").unwrap_or(text);
    let text = match auth {
        Auth::Bearer | Auth::SigV4 => format!("Bearer {key}"),
        Auth::Header(_) => key.to_owned(),
    };
    let mut value = HeaderValue::try_from(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn unspoken(deployment: &Deployment) -> Error {
    let (name, provider) = (deployment.target.name(), deployment.provider.name);
    let message = format!("the deployment `{name}` ({provider}) has no such operation");
    Error::new(ErrorKind::NotFound, Origin::Client, Retry::OtherTarget, message)
}

#[cfg(test)]
mod tests {
    use ::http::Method;
    use paceline_dialect::wire;

    use super::*;

    fn raw(endpoint: Endpoint, path: &'static str, body: &'static str) -> RawRequest {
        let (path, body) =
            (Bytes::from_static(path.as_bytes()), Bytes::from_static(body.as_bytes()));
        let fields = wire::fields(endpoint, &path, &body).unwrap();
        RawRequest { endpoint, method: Method::POST, path, headers: HeaderMap::new(), body, fields }
    }

    #[test]
    fn another_name_is_spliced_and_no_byte_else_changes() {
        let text = r#"{ "x" : 1.0,"model":"fast" , "messages":[{"model":"fast"}]}"#;
        let out = renamed(&raw(Endpoint::Chat, "/v1/chat/completions", text), "gpt \"5\"").unwrap();
        let expected = r#"{ "x" : 1.0,"model":"gpt \"5\"" , "messages":[{"model":"fast"}]}"#;
        assert_eq!(out.body, expected);
        assert_eq!(&out.body[out.fields.model_span.range()], br#""gpt \"5\"""#);
        let path = "/v1beta/models/fast:streamGenerateContent?alt=sse";
        let out = renamed(&raw(Endpoint::Generate, path, "{}"), "gemini-3").unwrap();
        assert_eq!(out.path, "/v1beta/models/gemini-3:streamGenerateContent?alt=sse");
    }

    #[test]
    fn a_key_moves_to_where_the_provider_looks_for_it() {
        let check = |name: &'static str, given: &'static str, provider: &str, expected: &str| {
            let mut from = HeaderMap::new();
            from.insert(name, HeaderValue::from_static(given));
            from.insert("openai-organization", HeaderValue::from_static("o"));
            let provider = Provider::find(provider).unwrap();
            let out = headers(&from, provider, false);
            assert_eq!(out.get(provider.auth.header()).unwrap(), expected);
            assert!(!out.contains_key("openai-organization"));
            assert_eq!(out.keys().filter(|name| CREDENTIALS.contains(name)).count(), 1);
        };
        check("authorization", "Bearer k", "anthropic", "k");
        check("x-api-key", "k", "openai", "Bearer k");
        check("x-goog-api-key", "k", "gemini", "k");
        check("authorization", "Bearer k", "gemini", "k");
    }
}
