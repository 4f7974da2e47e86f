//! A request that gives a deployment the beginning of the answer to go on with.

use bytes::Bytes;
use paceline_core::{Endpoint, Error, ErrorKind, Origin, RawRequest, Result, Retry};
use paceline_upstream::Prefill;
use serde_json::{Value, json};

/// The request with the beginning of its answer, and room for so much less of it.
///
/// # Errors
/// `Internal`, where the provider or the operation knows no such thing.
pub(crate) fn prefill(request: &RawRequest, how: Prefill, begun: &str) -> Result<RawRequest> {
    let fits = matches!(request.endpoint, Endpoint::Chat | Endpoint::Messages);
    let body = serde_json::from_slice::<Value>(&request.body).ok();
    let Some(mut body) = body.filter(|_| fits && how != Prefill::None) else {
        let message = "the deployment cannot go on with an answer";
        return Err(Error::new(ErrorKind::Internal, Origin::Paceline, Retry::OtherTarget, message));
    };
    let mut message = json!({"role": "assistant", "content": begun});
    match how {
        Prefill::Prefix => message["prefix"] = json!(true),
        Prefill::Flags => {
            body["continue_final_message"] = json!(true);
            body["add_generation_prompt"] = json!(false);
        }
        Prefill::None | Prefill::Plain => {}
    }
    if let Some(messages) = body["messages"].as_array_mut() {
        messages.push(message);
    }
    // Four bytes to a token; what is left may be little, but not nothing.
    let gone = begun.len() as u64 / 4;
    for limit in ["max_tokens", "max_completion_tokens"] {
        if let Some(max) = body[limit].as_u64() {
            body[limit] = json!(max.saturating_sub(gone).max(1));
        }
    }
    let mut request = request.clone();
    request.body = Bytes::from(body.to_string());
    // The spans are those of the other body, and nobody upstream of here reads them.
    request.fields.members.clear();
    request.fields.metadata = None;
    Ok(request)
}

#[cfg(test)]
mod tests {
    use ::http::{HeaderMap, Method};
    use paceline_core::Fields;

    use super::*;

    fn prefilled(endpoint: Endpoint, how: Prefill, body: &Value) -> Option<Value> {
        let request = RawRequest {
            endpoint,
            method: Method::POST,
            path: Bytes::new(),
            headers: HeaderMap::new(),
            body: Bytes::from(body.to_string()),
            fields: Fields::default(),
        };
        let request = prefill(&request, how, "Once upon").ok()?;
        serde_json::from_slice(&request.body).ok()
    }

    #[test]
    fn each_provider_is_asked_in_its_way() {
        let body = json!({"max_tokens": 10, "messages": [{"role": "user", "content": "x"}]});
        let told = |how| prefilled(Endpoint::Chat, how, &body).unwrap();
        let plain = told(Prefill::Plain);
        assert_eq!(plain["messages"][1], json!({"role": "assistant", "content": "Once upon"}));
        assert_eq!(plain["max_tokens"], 8);
        assert_eq!(told(Prefill::Prefix)["messages"][1]["prefix"], true);
        assert_eq!(told(Prefill::Flags)["continue_final_message"], true);
        assert_eq!(told(Prefill::Flags)["add_generation_prompt"], false);
        assert_eq!(prefilled(Endpoint::Chat, Prefill::None, &body), None);
        assert_eq!(prefilled(Endpoint::Generate, Prefill::Plain, &body), None);
        let least = json!({"max_tokens": 1, "messages": []});
        let least = prefilled(Endpoint::Messages, Prefill::Plain, &least).unwrap();
        assert_eq!(least["max_tokens"], 1);
    }
}
