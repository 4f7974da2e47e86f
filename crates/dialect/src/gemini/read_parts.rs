//! Reading the contents of a request.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use crate::members::Members;
use crate::neutral::{Fault, Message, Part, Role, Seal, Source, Vendor};

/// Takes a member by its name in camel case, or in snake case as Python clients send it.
pub(super) fn take(owner: &mut Members, camel: &str, snake: &str) -> Option<Value> {
    owner.take(camel).or_else(|| owner.take(snake))
}

/// What is gathered while all contents are read.
pub(super) struct Contents<'a> {
    /// What has no word in the neutral form.
    pub(super) extra: &'a mut Vec<(String, Value)>,
    calls: usize,
    /// Calls without a result yet, by the function's name.
    open: HashMap<String, Vec<String>>,
    /// The identifiers of all calls.
    known: HashSet<String>,
}

impl<'a> Contents<'a> {
    pub(super) fn new(extra: &'a mut Vec<(String, Value)>) -> Self {
        Self { extra, calls: 0, open: HashMap::new(), known: HashSet::new() }
    }

    /// A turn.
    pub(super) fn message(&mut self, value: Value, path: String) -> Result<Message, Fault> {
        let mut content = Members::of(value, path)?;
        let role = match content.text("role")?.as_deref() {
            None | Some("user" | "function") => Role::User,
            Some("model") => Role::Assistant,
            Some(_) => return Err(content.fault("role", "must be user or model")),
        };
        let parts = self.parts(&mut content)?;
        let misplaced = |part: &Part| match part {
            Part::ToolCall { .. } => role == Role::User,
            Part::ToolResult { .. } => role == Role::Assistant,
            _ => false,
        };
        if let Some(at) = parts.iter().position(misplaced) {
            let why = "is a call in a turn of the user, or a result in one of the model";
            return Err(content.fault(&format!("parts[{at}]"), why));
        }
        content.rest(self.extra);
        Ok(Message { role, parts, name: None })
    }

    pub(super) fn parts(&mut self, content: &mut Members) -> Result<Vec<Part>, Fault> {
        let items = content.list("parts")?.ok_or_else(|| content.fault("parts", "is missing"))?;
        let mut parts = Vec::new();
        for (path, item) in items {
            self.part(item, path, &mut parts)?;
        }
        Ok(parts)
    }

    fn part(&mut self, item: Value, path: String, parts: &mut Vec<Part>) -> Result<(), Fault> {
        let whole = item.clone();
        let mut part = Members::of(item, path.clone())?;
        let thought = part.flag("thought")?.unwrap_or(false);
        let seal = match take(&mut part, "thoughtSignature", "thought_signature") {
            Some(Value::String(data)) => Some(Seal { vendor: Vendor::Google, data, item: None }),
            Some(_) => return Err(part.fault("thoughtSignature", "must be a text")),
            None => None,
        };
        if let Some(text) = part.text("text")? {
            if thought {
                parts.push(Part::Thinking { text, seal });
            } else {
                if !text.is_empty() || seal.is_none() {
                    parts.push(Part::Text { text, cache: None });
                }
                // A seal beside a text stands alone behind it.
                parts.extend(
                    seal.map(|seal| Part::Thinking { text: String::new(), seal: Some(seal) }),
                );
            }
        } else if let Some(value) = take(&mut part, "inlineData", "inline_data") {
            parts.push(inline(Members::of(value, part.path("inlineData"))?, self.extra)?);
        } else if let Some(value) = take(&mut part, "fileData", "file_data") {
            parts.push(file(Members::of(value, part.path("fileData"))?, self.extra)?);
        } else if let Some(value) = take(&mut part, "functionCall", "function_call") {
            let call = Members::of(value, part.path("functionCall"))?;
            parts.push(self.call(call, seal)?);
        } else if let Some(value) = take(&mut part, "functionResponse", "function_response") {
            let result = Members::of(value, part.path("functionResponse"))?;
            parts.push(self.result(result)?);
        } else {
            // Code that Google ran, and what is not known.
            self.extra.push((path, whole));
            return Ok(());
        }
        part.rest(self.extra);
        Ok(())
    }

    fn call(&mut self, mut call: Members, seal: Option<Seal>) -> Result<Part, Fault> {
        let name = call.required_text("name")?;
        let id = call.text("id")?.unwrap_or_else(|| format!("call_{}", self.calls));
        self.calls += 1;
        let arguments = match call.take("args") {
            None => "{}".to_owned(),
            Some(args @ Value::Object(_)) => args.to_string(),
            Some(_) => return Err(call.fault("args", "must be an object")),
        };
        self.open.entry(name.clone()).or_default().push(id.clone());
        self.known.insert(id.clone());
        call.rest(self.extra);
        Ok(Part::ToolCall { id, name, arguments, seal, cache: None })
    }

    fn result(&mut self, mut result: Members) -> Result<Part, Fault> {
        let name = result.required_text("name")?;
        // Results without an identifier belong to the calls of that name, in order.
        let open = self.open.entry(name.clone()).or_default();
        let id = match result.text("id")? {
            Some(id) if self.known.contains(&id) => {
                open.retain(|known| *known != id);
                id
            }
            None if !open.is_empty() => open.remove(0),
            _ => return Err(result.fault("name", "is of no functionCall before it")),
        };
        let response = result.take("response").unwrap_or_default();
        let (said, error) = match response.as_object() {
            Some(object) if object.len() == 1 && object.contains_key("output") => {
                (response["output"].clone(), false)
            }
            Some(object) if object.len() == 1 && object.contains_key("error") => {
                (response["error"].clone(), true)
            }
            _ => (response, false),
        };
        let text = match said {
            Value::Null => None,
            Value::String(text) => Some(text),
            other => Some(other.to_string()),
        };
        let text = text.filter(|text| !text.is_empty());
        let content = text.map(|text| Part::Text { text, cache: None }).into_iter().collect();
        result.rest(self.extra);
        Ok(Part::ToolResult { id, name, content, error, cache: None })
    }
}

fn mime(data: &mut Members) -> Result<Option<String>, Fault> {
    match take(data, "mimeType", "mime_type") {
        None => Ok(None),
        Some(Value::String(mime)) => Ok(Some(mime)),
        Some(_) => Err(data.fault("mimeType", "must be a text")),
    }
}

fn name(data: &mut Members) -> Option<String> {
    take(data, "displayName", "display_name").and_then(|name| name.as_str().map(str::to_owned))
}

type Extra = Vec<(String, Value)>;

fn inline(mut data: Members, extra: &mut Extra) -> Result<Part, Fault> {
    let media_type = mime(&mut data)?.ok_or_else(|| data.fault("mimeType", "is missing"))?;
    let name = name(&mut data);
    let source =
        Source::Base64 { media_type: media_type.clone(), data: data.required_text("data")? };
    data.rest(extra);
    Ok(of_kind(&media_type, source, name))
}

fn file(mut data: Members, extra: &mut Extra) -> Result<Part, Fault> {
    let media_type = mime(&mut data)?;
    let name = name(&mut data);
    let url = match take(&mut data, "fileUri", "file_uri") {
        Some(Value::String(url)) => url,
        _ => return Err(data.fault("fileUri", "is missing")),
    };
    data.rest(extra);
    let kind = media_type.clone().unwrap_or_default();
    let source = if url.contains("generativelanguage.googleapis.com/") || url.starts_with("gs://") {
        Source::Uploaded { id: url, media_type }
    } else {
        Source::Url { url, media_type }
    };
    Ok(of_kind(&kind, source, name))
}

fn of_kind(media_type: &str, source: Source, name: Option<String>) -> Part {
    if media_type.starts_with("image/") {
        Part::Image { source, detail: None, cache: None }
    } else if media_type.starts_with("audio/") {
        Part::Audio { source }
    } else {
        Part::File { source, name, cache: None }
    }
}
