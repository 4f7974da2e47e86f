//! `GET /v1/responses/{id}` and what else may be asked of a stored answer.

use ::http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use ::http::{Method, StatusCode};
use bytes::Bytes;
use paceline_core::{
    Body, CacheStatus, Call, Endpoint, Error, ErrorKind, Origin, Reply, Result, Retry,
};
use serde_json::{Value, json};

use super::{Kept, Owner};
use crate::stages::send::Send;

/// The path of a stored answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StoredPath<'a> {
    /// The answer's identifier.
    pub(crate) id: &'a str,
    /// What is asked of it.
    pub(crate) what: What,
}

/// What is asked of a stored answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// Itself, or that it be deleted.
    Answer,
    /// The items of the conversation before it.
    InputItems,
    /// That it be stopped.
    Cancel,
}

impl<'a> StoredPath<'a> {
    /// Of what comes behind `/v1/responses/`.
    pub(crate) fn of(rest: &'a str) -> Option<Self> {
        let (id, what) = match rest.split_once('/') {
            None => (rest, What::Answer),
            Some((id, "input_items")) => (id, What::InputItems),
            Some((id, "cancel")) => (id, What::Cancel),
            Some(_) => return None,
        };
        (!id.is_empty()).then_some(Self { id, what })
    }
}

impl Send {
    /// Answers what is asked of a stored answer: by the deployment that stores it, or from
    /// here. Where nothing is known of it, as after a restart, all that may store it are
    /// asked; not so where tenants share a deployment's key, as one might ask for what
    /// another's is.
    ///
    /// # Errors
    /// `NotFound`, or what asking the deployment gave.
    pub(crate) async fn stored(&self, call: &Call, path: StoredPath<'_>) -> Result<Reply> {
        let (stored, owner) = (&self.shared.stored, Owner::of(call));
        let deletes = call.request.method == Method::DELETE;
        let Some(entry) = stored.find(&owner, path.id) else {
            return self.ask_all(call, path).await;
        };
        if deletes {
            stored.table.remove(&owner.place(path.id));
        }
        match &entry.kept {
            Kept::At(at) => self.ask_stored(call, *at).await,
            Kept::Answer { .. } if deletes => {
                Ok(whole(&json!({"id": path.id, "object": "response", "deleted": true})))
            }
            Kept::Answer { answer, input } => match path.what {
                What::Answer if asks(call, "stream", "true") => {
                    Err(Error::invalid("only answers made in the background can be streamed again")
                        .with_param("stream"))
                }
                What::Answer => Ok(whole(answer)),
                What::InputItems => Ok(whole(&items(call, path.id, input))),
                What::Cancel => {
                    Err(Error::invalid("only answers made in the background can be cancelled"))
                }
            },
            Kept::Item(_) => Err(unknown(path.id)),
        }
    }

    async fn ask_all(&self, call: &Call, path: StoredPath<'_>) -> Result<Reply> {
        if call.caller.tenant.is_some() {
            return Err(unknown(path.id));
        }
        let stores = |at: &usize| self.deployments()[*at].provider.speaks(Endpoint::Responses);
        for at in (0..self.deployments().len()).filter(stores) {
            let reply = self.ask_stored(call, at).await?;
            if reply.status != StatusCode::NOT_FOUND {
                return Ok(reply);
            }
        }
        Err(unknown(path.id))
    }

    async fn ask_stored(&self, call: &Call, at: usize) -> Result<Reply> {
        let mut reply = self.upstreams[at].send(&call.request, call.deadline).await?;
        reply.deployment = Some(self.deployments()[at].target.name().clone());
        Ok(reply)
    }
}

/// The list of the items before an answer, the latest first unless asked otherwise.
fn items(call: &Call, id: &str, input: &[Value]) -> Value {
    let named = input.iter().enumerate().map(|(at, item)| {
        let mut item = item.clone();
        if let Some(item) = item.as_object_mut() {
            item.entry("id").or_insert_with(|| json!(format!("{id}_in_{at}")));
            item.entry("type").or_insert_with(|| json!("message"));
        }
        item
    });
    let mut data: Vec<Value> = named.collect();
    if !asks(call, "order", "asc") {
        data.reverse();
    }
    let of = |item: Option<&Value>| item.map(|item| item["id"].clone());
    let (first, last) = (of(data.first()), of(data.last()));
    json!({"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": false})
}

/// Whether the query of a request has this pair.
fn asks(call: &Call, name: &str, value: &str) -> bool {
    let path = String::from_utf8_lossy(&call.request.path);
    let query = path.split_once('?').map_or("", |(_, query)| query);
    query.split('&').any(|pair| pair.split_once('=') == Some((name, value)))
}

fn whole(body: &Value) -> Reply {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let body = Body::Whole(Bytes::from(body.to_string()));
    let cache = CacheStatus::default();
    Reply { status: StatusCode::OK, headers, body, cache, deployment: None }
}

fn unknown(id: &str) -> Error {
    let message = format!(
        "no answer `{id}` is stored, or not for this key; answers are kept for `ttl_s` of \
         [responses], and none that asked for `\"store\": false`"
    );
    Error::new(ErrorKind::NotFound, Origin::Client, Retry::Never, message).with_param("response_id")
}
