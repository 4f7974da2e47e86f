//! The few fields of a request that the stages read.

use bytes::Bytes;
use paceline_core::{Dialect, Endpoint, Error, Fields, Member};

use crate::scan;

/// Reads the fields of a request that the stages need. `path` is the request's, without the
/// query; a Gemini model stands in it.
///
/// # Errors
/// `InvalidRequest`, with the field at fault where it is one.
pub fn fields(endpoint: Endpoint, path: &Bytes, body: &Bytes) -> Result<Fields, Error> {
    let mut members = scan::members(body)?;
    let name = |member: &Member| &body[member.key.range()];
    members.sort_unstable_by(|a, b| name(a).cmp(name(b)));
    if let Some(pair) = members.windows(2).find(|pair| name(&pair[0]) == name(&pair[1])) {
        let name = String::from_utf8_lossy(name(&pair[0])).into_owned();
        let message = format!("the field `{name}` appears twice; send it once");
        return Err(Error::invalid(message).with_param(name));
    }
    let mut fields = Fields::default();
    let mut effects = Effects::of(endpoint);
    for member in &members {
        read_member(endpoint, body, *member, &mut fields, &mut effects)?;
    }
    if endpoint == Endpoint::Generate {
        (fields.model, fields.stream) = in_path(path)?;
    }
    if fields.model.is_empty() {
        return Err(Error::invalid("the field `model` is missing or empty").with_param("model"));
    }
    fields.repeatable = effects.repeatable();
    fields.members = members.iter().filter(|m| !is_form(endpoint, name(m))).copied().collect();
    Ok(fields)
}

/// Members that do not change the answer, only its form or its bookkeeping: they are no part
/// of a cache key.
fn is_form(endpoint: Endpoint, name: &[u8]) -> bool {
    match endpoint.dialect() {
        Dialect::Gemini => name == b"labels",
        _ => matches!(name, b"metadata" | b"stream" | b"stream_options"),
    }
}

/// What of a call lets an earlier answer serve as well.
struct Effects {
    zero_temperature: bool,
    /// The answer depends on the request alone, such as an embedding.
    pure: bool,
    /// The upstream is to keep something of it.
    stored: bool,
    /// The answer is only a promise of one.
    in_background: bool,
}

impl Effects {
    fn of(endpoint: Endpoint) -> Self {
        Self {
            zero_temperature: false,
            pure: matches!(endpoint, Endpoint::Embeddings | Endpoint::CountTokens),
            // Responses are stored unless the caller says otherwise.
            stored: endpoint == Endpoint::Responses,
            in_background: false,
        }
    }

    /// A call that the upstream is to store has an effect beyond its answer.
    const fn repeatable(&self) -> bool {
        (self.zero_temperature || self.pure) && !self.stored && !self.in_background
    }
}

fn read_member(
    endpoint: Endpoint,
    body: &Bytes,
    member: Member,
    fields: &mut Fields,
    effects: &mut Effects,
) -> Result<(), Error> {
    let value = &body[member.value.range()];
    match &body[member.key.range()] {
        b"generationConfig" | b"generation_config" if endpoint == Endpoint::Generate => {
            let config = scan::members(value).unwrap_or_default();
            let temperature = config.iter().find(|m| &value[m.key.range()] == b"temperature");
            effects.zero_temperature =
                temperature.is_some_and(|m| is_zero(&value[m.value.range()]));
        }
        b"model" if endpoint != Endpoint::Generate => {
            fields.model = model(body, value)?;
            fields.model_span = member.value;
        }
        b"stream" => fields.stream = flag(value, "stream")?,
        b"stream_options" => fields.include_usage = includes_usage(value),
        b"temperature" => effects.zero_temperature = is_zero(value),
        b"metadata" => fields.metadata = Some(member.value),
        b"store" => effects.stored = value == b"true",
        b"background" => effects.in_background = value == b"true",
        _ => {}
    }
    Ok(())
}

/// The model and whether a stream is asked for: `/v1beta/models/{model}:{method}`.
fn in_path(path: &Bytes) -> Result<(Bytes, bool), Error> {
    let bad = || {
        Error::invalid(
            "the path must be /v1beta/models/{model}:generateContent or :streamGenerateContent",
        )
        .with_param("model")
    };
    let start = memchr::memmem::find(path, b"/models/").ok_or_else(bad)? + b"/models/".len();
    let end = start + memchr::memrchr(b':', &path[start..]).ok_or_else(bad)?;
    Ok((path.slice(start..end), path[end..].starts_with(b":stream")))
}

fn model(body: &Bytes, value: &[u8]) -> Result<Bytes, Error> {
    match scan::string(value) {
        Some(std::borrow::Cow::Borrowed(text)) => Ok(body.slice_ref(text.as_bytes())),
        Some(std::borrow::Cow::Owned(text)) => Ok(Bytes::from(text)),
        None => Err(Error::invalid("the field `model` must be a text").with_param("model")),
    }
}

fn flag(value: &[u8], name: &'static str) -> Result<bool, Error> {
    match value {
        b"true" => Ok(true),
        b"false" | b"null" => Ok(false),
        _ => {
            Err(Error::invalid(format!("the field `{name}` must be true or false"))
                .with_param(name))
        }
    }
}

fn includes_usage(options: &[u8]) -> bool {
    scan::members(options).is_ok_and(|members| {
        members.iter().any(|m| {
            &options[m.key.range()] == b"include_usage" && &options[m.value.range()] == b"true"
        })
    })
}

fn is_zero(value: &[u8]) -> bool {
    std::str::from_utf8(value).ok().and_then(|text| text.parse::<f64>().ok()) == Some(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(endpoint: Endpoint, body: &'static str) -> Result<Fields, Error> {
        fields(endpoint, &Bytes::from_static(b"/v1/x"), &Bytes::from_static(body.as_bytes()))
    }

    #[test]
    fn reads_the_fields_of_a_request() {
        let body = Bytes::from_static(
            br#"{"model":"gpt\u002d5","messages":[],"stream":true,"temperature":0.0,
                "stream_options": {"include_usage" : true},"metadata":{"paceline_run":"r1"}}"#,
        );
        let fields = fields(Endpoint::Chat, &Bytes::new(), &body).unwrap();
        assert_eq!(fields.model, "gpt-5");
        assert!(fields.stream && fields.include_usage && fields.repeatable);
        let keys: Vec<_> = fields.members.iter().map(|m| &body[m.key.range()]).collect();
        assert_eq!(keys, [b"messages".as_slice(), b"model", b"temperature"]);
        let metadata = &body[fields.metadata.unwrap().range()];
        assert_eq!(crate::openai::metadata_text(metadata, "paceline_run").unwrap(), "r1");
        assert_eq!(crate::openai::metadata_text(metadata, "paceline_agent"), None);
    }

    #[test]
    fn says_which_field_is_at_fault() {
        let check = |body: &'static str, param: &str| {
            let error = read(Endpoint::Chat, body).unwrap_err();
            assert_eq!(error.param(), Some(param), "{body}: {error}");
        };
        check("{}", "model");
        check(r#"{"model":7}"#, "model");
        check(r#"{"model":""}"#, "model");
        check(r#"{"model":"m","stream":"yes"}"#, "stream");
        check(r#"{"model":"m","temperature":0,"temperature":1}"#, "temperature");
    }

    #[test]
    fn what_may_be_repeated() {
        use Endpoint::{Chat, CountTokens, Embeddings, Messages, Responses};
        let check = |endpoint, body: &'static str, expected: bool| {
            assert_eq!(read(endpoint, body).unwrap().repeatable, expected, "{body}");
        };
        check(Chat, r#"{"model":"m"}"#, false);
        check(Chat, r#"{"model":"m","temperature":0}"#, true);
        check(Chat, r#"{"model":"m","temperature":-0.0e5}"#, true);
        check(Chat, r#"{"model":"m","temperature":0.2}"#, false);
        check(Chat, r#"{"model":"m","temperature":0,"store":true}"#, false);
        check(Messages, r#"{"model":"m","temperature":0}"#, true);
        check(Responses, r#"{"model":"m","temperature":0}"#, false);
        check(Responses, r#"{"model":"m","temperature":0,"store":false}"#, true);
        check(Responses, r#"{"background":true,"model":"m","store":false,"temperature":0}"#, false);
        check(Embeddings, r#"{"model":"m","input":"x"}"#, true);
        check(CountTokens, r#"{"model":"m","messages":[]}"#, true);
    }

    #[test]
    fn a_gemini_model_stands_in_the_path() {
        let path = Bytes::from_static(b"/v1beta/models/gemini-3.8:flash:streamGenerateContent");
        let body = Bytes::from_static(br#"{"generationConfig":{"temperature":0},"contents":[]}"#);
        let found = fields(Endpoint::Generate, &path, &body).unwrap();
        assert_eq!(found.model, "gemini-3.8:flash");
        assert!(found.stream && found.repeatable);
        let path = Bytes::from_static(b"/v1beta/models/gemini");
        assert!(fields(Endpoint::Generate, &path, &body).is_err());
    }
}
