//! `GET /v1/models`: the configured names, and what open deployments list themselves.

use std::sync::Arc;
use std::time::Duration;

use ::http::{HeaderMap, Method, StatusCode};
use bytes::Bytes;
use paceline_core::{
    Body, Deadline, Dialect, Endpoint, Error, ErrorKind, Fields, Origin, RawRequest, Result, Retry,
};
use serde_json::{Map, Value, json};

use crate::http::edge::answer;
use crate::pipeline::Pipeline;
use crate::stages::admit::strip;
use crate::stages::prepare::headers as told_headers;
use crate::stages::record::Answer;
use crate::stages::routes::{Deployment, Models};

/// How long a deployment may take to list its models.
const LIST_TIMEOUT: Duration = Duration::from_secs(5);

/// The list of models, in the words of a dialect.
///
/// # Errors
/// A wrong key, or no upstream that gives a list where none is configured.
pub(crate) async fn list(
    pipeline: &Arc<Pipeline>,
    dialect: Dialect,
    headers: HeaderMap,
) -> Result<Answer> {
    let data = collect(pipeline, headers).await?;
    let body = match dialect {
        Dialect::OpenAi | Dialect::Bedrock => json!({"object": "list", "data": data}),
        Dialect::Anthropic => {
            let data: Vec<Value> = data.iter().map(|model| told(dialect, model)).collect();
            let id = |model: Option<&Value>| model.map(|model| model["id"].clone());
            let (first, last) = (id(data.first()), id(data.last()));
            json!({"data": data, "has_more": false, "first_id": first, "last_id": last})
        }
        Dialect::Gemini => {
            let models: Vec<Value> = data.iter().map(|model| told(dialect, model)).collect();
            json!({"models": models})
        }
    };
    Ok(answer(StatusCode::OK, "application/json", body.to_string()))
}

/// One model, in the words of a dialect.
///
/// # Errors
/// As [`list`], and when nobody lists it.
pub(crate) async fn get(
    pipeline: &Arc<Pipeline>,
    dialect: Dialect,
    headers: HeaderMap,
    id: &str,
) -> Result<Answer> {
    let data = collect(pipeline, headers).await?;
    match data.iter().find(|model| model.get("id").is_some_and(|found| found == id)) {
        Some(model) => {
            let body = told(dialect, model).to_string();
            Ok(answer(StatusCode::OK, "application/json", body))
        }
        None => {
            let message = format!("no deployment lists the model `{id}`");
            Err(Error::new(ErrorKind::ModelNotFound, Origin::Client, Retry::Never, message)
                .with_param("model"))
        }
    }
}

/// A model in the words of a dialect.
fn told(dialect: Dialect, model: &Map<String, Value>) -> Value {
    let id = model.get("id").and_then(Value::as_str).unwrap_or_default();
    match dialect {
        Dialect::OpenAi | Dialect::Bedrock => Value::Object(model.clone()),
        // The format wants a time; where none is known, the beginning of time says so.
        Dialect::Anthropic => json!({
            "type": "model", "id": id, "display_name": id, "created_at": "1970-01-01T00:00:00Z",
        }),
        Dialect::Gemini => json!({
            "name": format!("models/{id}"), "displayName": id, "version": "",
            "supportedGenerationMethods": ["generateContent", "streamGenerateContent"],
        }),
    }
}

async fn collect(
    pipeline: &Arc<Pipeline>,
    mut headers: HeaderMap,
) -> Result<Vec<Map<String, Value>>> {
    pipeline.check_key(&mut headers)?;
    strip(&mut headers);
    let send = pipeline.models();
    let routes = send.chains().map(|name| String::from_utf8_lossy(name).into_owned());
    let mut models: Vec<Map<String, Value>> =
        routes.map(|name| listed(&name, "paceline")).collect();
    models.sort_by_key(|model| model["id"].to_string());
    let mut failure = None;
    for (at, deployment) in send.deployments().iter().enumerate() {
        let found = match &deployment.models {
            Models::Named(names) => configured(deployment, names),
            Models::Any(names) if !names.is_empty() => configured(deployment, names),
            Models::Any(_) => match ask(pipeline, at, &headers).await {
                Ok(found) => found,
                Err(error) => {
                    failure = Some(error);
                    continue;
                }
            },
        };
        for model in found {
            if !models.iter().any(|known| known.get("id") == model.get("id")) {
                models.push(model);
            }
        }
    }
    match failure {
        // An empty list would say that nothing is served.
        Some(error) if models.is_empty() => Err(error),
        _ => Ok(models),
    }
}

fn configured(deployment: &Deployment, names: &[String]) -> Vec<Map<String, Value>> {
    let owner = if deployment.simulated { "paceline-sim" } else { &**deployment.target.name() };
    let model = |name: &String| {
        let mut model = listed(name, owner);
        if deployment.simulated {
            let note = "a simulated engine answers every model name; its texts are made up";
            model.insert("description".to_owned(), json!(note));
        }
        model
    };
    names.iter().map(model).collect()
}

fn listed(name: &str, owner: &str) -> Map<String, Value> {
    Map::from_iter([
        ("id".to_owned(), json!(name)),
        ("object".to_owned(), json!("model")),
        ("created".to_owned(), json!(0)),
        ("owned_by".to_owned(), json!(owner)),
    ])
}

/// What a deployment lists itself.
async fn ask(
    pipeline: &Arc<Pipeline>,
    at: usize,
    headers: &HeaderMap,
) -> Result<Vec<Map<String, Value>>> {
    let now = pipeline.clock().now();
    let deployment = &pipeline.models().deployments()[at];
    let (name, provider) = (deployment.target.name(), deployment.provider);
    let path = match provider.conversation {
        // By itself, each tells a page of its models.
        Endpoint::Messages => "/v1/models?limit=1000",
        Endpoint::Generate => "/v1beta/models?pageSize=1000",
        Endpoint::Converse => {
            let message = format!("`{name}` cannot list its models: name them in its `models`");
            return Err(Error::new(
                ErrorKind::NotFound,
                Origin::Paceline,
                Retry::OtherTarget,
                message,
            ));
        }
        _ => "/v1/models",
    };
    let translated = path != "/v1/models";
    let headers = if translated { told_headers(headers, provider, false) } else { headers.clone() };
    let request = RawRequest {
        endpoint: Endpoint::Other,
        method: Method::GET,
        path: Bytes::from_static(path.as_bytes()),
        headers,
        body: Bytes::new(),
        fields: Fields::default(),
    };
    let deadline = Deadline(Some(now.after(LIST_TIMEOUT)));
    let reply = pipeline.models().upstream(at).send(&request, deadline).await?;
    let list = match (reply.status, reply.body) {
        (StatusCode::OK, Body::Whole(bytes)) => serde_json::from_slice::<Value>(&bytes).ok(),
        _ => None,
    };
    list.as_ref().and_then(|list| models(list, translated, name)).ok_or_else(|| {
        let message =
            format!("the upstream `{name}` gave no list of models (status {})", reply.status);
        Error::new(ErrorKind::UpstreamBroken, Origin::Upstream, Retry::SameTarget, message)
    })
}

/// The models of a list in any vendor's words; `translated`, only their names are kept.
fn models(list: &Value, translated: bool, owner: &str) -> Option<Vec<Map<String, Value>>> {
    let models = list.get("data").or(list.get("models"))?.as_array()?.iter();
    let objects = models.filter_map(Value::as_object);
    if !translated {
        return Some(objects.cloned().collect());
    }
    let id = |model: &Map<String, Value>| {
        let name = model.get("id").or(model.get("name"))?.as_str()?;
        Some(listed(name.trim_start_matches("models/"), owner))
    };
    Some(objects.filter_map(id).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_other_dialects_are_read() {
        let check = |list: Value, translated: bool, expected: Value| {
            let found = models(&list, translated, "up").map(|models| json!(models));
            assert_eq!(found.unwrap_or_default(), expected);
        };
        let told = json!([{"id": "m", "object": "model", "created": 0, "owned_by": "up"}]);
        check(json!({"data": [{"type": "model", "id": "m"}]}), true, told.clone());
        check(json!({"models": [{"name": "models/m", "version": "1"}]}), true, told);
        let own = json!([{"id": "m", "object": "model", "max_model_len": 9}]);
        check(json!({"data": own}), false, own);
        check(json!({"error": {}}), false, Value::Null);
    }
}
