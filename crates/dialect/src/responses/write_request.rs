//! Writing a request.

use serde_json::{Map, Value, json};

use super::{media, tools};
use crate::codec::Target;
use crate::neutral::{
    CacheMark, CacheTtl, Effort, Field, Format, Message, Part, Reasoning, Request, Role, Seal,
    Source, ToolChoice, Unsupported, Vendor, What, Written,
};

/// OpenAI refuses answers of fewer tokens.
const OUTPUT_TOKENS_MIN: u64 = 16;

/// OpenAI takes this many labels, of keys and values of these lengths in characters.
const LABELS_MAX: usize = 16;
const LABEL_KEY_MAX: usize = 64;
const LABEL_VALUE_MAX: usize = 512;

/// Longest end user's name and cache key that OpenAI takes, in characters.
const NAME_MAX: usize = 64;

/// Writes the body of `POST /v1/responses`.
pub(super) fn write(request: &Request, target: &Target) -> Result<Written, Unsupported> {
    refuse(request)?;
    let mut body = Map::new();
    let mut writer = Writer {
        marks: takes_breakpoints(&target.model),
        system_role: if target.quirks.no_developer_role { "system" } else { "developer" },
        warnings: Vec::new(),
    };
    let mut add = |name: &str, value: Value| drop(body.insert(name.to_owned(), value));
    add("model", json!(target.model));
    let (instructions, mut input) = writer.system(&request.system);
    if let Some(instructions) = instructions {
        add("instructions", json!(instructions));
    }
    for (at, message) in request.messages.iter().enumerate() {
        writer.message(at, message, &mut input)?;
    }
    if request.messages.last().is_some_and(|last| last.role == Role::Assistant) {
        writer
            .warn("the last turn is the model's, which OpenAI answers instead of going on with it");
    }
    add("input", Value::Array(input));
    if !request.tools.is_empty() {
        add("tools", request.tools.iter().map(tools::write).collect());
    }
    if let Some(choice) = &request.tool_choice {
        // Without tools these two say what is so anyway.
        if !request.tools.is_empty() || !matches!(choice, ToolChoice::Auto | ToolChoice::None) {
            add("tool_choice", tools::write_choice(choice));
        }
    }
    if let Some(parallel) = request.parallel_tools.filter(|_| !request.tools.is_empty()) {
        add("parallel_tool_calls", json!(parallel));
    }
    if let Some(max_tokens) = request.max_tokens {
        if max_tokens < OUTPUT_TOKENS_MIN {
            writer.warn(
                "OpenAI gives answers of at least 16 tokens, so the limit was raised to that",
            );
        }
        add("max_output_tokens", json!(max_tokens.max(OUTPUT_TOKENS_MIN)));
    }
    for (name, value) in [("temperature", request.temperature), ("top_p", request.top_p)] {
        if let Some(value) = value {
            add(name, json!(value));
        }
    }
    if let Some(format) = &request.format {
        add("text", json!({"format": write_format(format)}));
    }
    if let Some(reasoning) = writer.reasoning(&request.reasoning) {
        add("reasoning", reasoning);
    }
    if is_sealed(&request.reasoning) {
        add("include", json!(["reasoning.encrypted_content"]));
    }
    keep_books(request, &mut add);
    if request.stream {
        add("stream", json!(true));
    }
    // OpenAI keeps answers for 30 days unless told otherwise, and callers of other dialects
    // have not agreed to that.
    add("store", json!(false));
    Ok(Written { body: Value::Object(body), warnings: writer.warnings })
}

/// Refuses what this dialect has no word for and what changes the answer.
fn refuse(request: &Request) -> Result<(), Unsupported> {
    if let Some((path, _)) = request.extra.first() {
        let why = "it has no counterpart in OpenAI's Responses API; leave it out, or use a model \
                   that is served in your own API's format";
        return Err(Unsupported { what: What::Extra(path.clone()), why: why.to_owned() });
    }
    let lacking = [
        (Field::TopK, request.top_k.is_some(), "top-k sampling"),
        (Field::Stop, !request.stop.is_empty(), "stop texts"),
        (Field::Seed, request.seed.is_some(), "seed"),
        // A penalty of 0 is none.
        (Field::PresencePenalty, request.presence_penalty.is_some_and(|p| p != 0.0), "penalties"),
        (Field::FrequencyPenalty, request.frequency_penalty.is_some_and(|p| p != 0.0), "penalties"),
    ];
    match lacking.into_iter().find(|(_, given, _)| *given) {
        Some((field, _, what)) => {
            let why = format!("OpenAI's Responses API has no {what}; leave it out");
            Err(Unsupported::field(field, why))
        }
        None => Ok(()),
    }
}

/// Whether sealed thinking is to come back: where the caller asks for it, or thinks in a way
/// in which it always comes.
fn is_sealed(reasoning: &Reasoning) -> bool {
    reasoning.sealed || reasoning.adaptive || reasoning.budget.is_some_and(|budget| budget > 0)
}

/// Adds what does not change the answer. What OpenAI would refuse for its length is left
/// out, since its loss is harmless.
fn keep_books(request: &Request, add: &mut impl FnMut(&str, Value)) {
    let fits = |text: &str, max: usize| text.chars().count() <= max;
    let fit =
        |(key, value): &&(String, String)| fits(key, LABEL_KEY_MAX) && fits(value, LABEL_VALUE_MAX);
    let labels: Map<_, _> = request
        .labels
        .iter()
        .filter(fit)
        .take(LABELS_MAX)
        .map(|(key, value)| (key.clone(), json!(value)))
        .collect();
    if !labels.is_empty() {
        add("metadata", Value::Object(labels));
    }
    let names = [("safety_identifier", &request.user), ("prompt_cache_key", &request.cache_key)];
    for (name, value) in names {
        if let Some(value) = value.as_ref().filter(|value| fits(value, NAME_MAX)) {
            add(name, json!(value));
        }
    }
}

pub(super) fn write_format(format: &Format) -> Value {
    match format {
        Format::Json => json!({"type": "json_object"}),
        Format::Schema { name, description, schema, strict } => {
            let mut written = Map::new();
            written.insert("type".to_owned(), json!("json_schema"));
            written.insert("name".to_owned(), json!(format_name(name.as_deref())));
            if let Some(description) = description {
                written.insert("description".to_owned(), json!(description));
            }
            written.insert("schema".to_owned(), schema.clone());
            if let Some(strict) = strict {
                written.insert("strict".to_owned(), json!(strict));
            }
            Value::Object(written)
        }
    }
}

/// A name of letters, digits, `_` and `-`, of which OpenAI wants one.
pub(crate) fn format_name(name: Option<&str>) -> String {
    let letter = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    let name: String = name.unwrap_or_default().chars().take(NAME_MAX).map(letter).collect();
    if name.is_empty() { "answer".to_owned() } else { name }
}

/// Whether a model takes marks of where to cache: OpenAI's do from 5.6 on, and others refuse
/// them. They cache without marks.
pub(crate) fn takes_breakpoints(model: &str) -> bool {
    let name = model.rsplit('/').next().unwrap_or_default();
    let Some(version) = name.strip_prefix("gpt-") else { return false };
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    let major: u32 = numbers.next().and_then(Result::ok).unwrap_or_default();
    // A date follows a dash: `gpt-5-2025-08-07` is no 5.2025.
    let dotted = version.trim_start_matches(|c: char| c.is_ascii_digit()).starts_with('.');
    let minor: u32 = numbers.next().and_then(Result::ok).filter(|_| dotted).unwrap_or_default();
    (major, minor) >= (5, 6)
}

struct Writer {
    /// Whether cache marks are written.
    marks: bool,
    /// The role of instructions.
    system_role: &'static str,
    warnings: Vec<String>,
}

impl Writer {
    /// Notes an approximation, once.
    fn warn(&mut self, text: &str) {
        if !self.warnings.iter().any(|known| known == text) {
            self.warnings.push(text.to_owned());
        }
    }

    /// The instructions, or an item where they have cache marks.
    fn system(&self, parts: &[Part]) -> (Option<String>, Vec<Value>) {
        let marked = |part: &Part| matches!(part, Part::Text { cache: Some(_), .. });
        if self.marks && parts.iter().any(marked) {
            let content: Vec<_> = parts
                .iter()
                .filter_map(|part| match part {
                    Part::Text { text, cache } => Some(self.text_part(text, *cache)),
                    _ => None,
                })
                .collect();
            return (None, vec![json!({"role": self.system_role, "content": content})]);
        }
        let texts: Vec<_> = parts
            .iter()
            .filter_map(|part| match part {
                Part::Text { text, .. } if !text.is_empty() => Some(&**text),
                _ => None,
            })
            .collect();
        ((!texts.is_empty()).then(|| texts.join("\n\n")), Vec::new())
    }

    /// Writes a turn as items: messages, calls, results and thinking, in order.
    fn message(
        &mut self,
        at: usize,
        message: &Message,
        input: &mut Vec<Value>,
    ) -> Result<(), Unsupported> {
        if message.name.is_some() {
            self.warn("OpenAI's Responses API has no names of speakers, so they were left out");
        }
        // Parts of a message that have not been written yet.
        let mut content: Vec<&Part> = Vec::new();
        for (place, part) in message.parts.iter().enumerate() {
            let item = match part {
                // Some servers refuse an empty turn of the model's, and it says nothing.
                Part::Text { text, .. } if text.is_empty() && message.role == Role::Assistant => {
                    None
                }
                Part::Text { .. } | Part::Refusal { .. } => {
                    content.push(part);
                    continue;
                }
                Part::Image { .. } | Part::File { .. } | Part::Audio { .. } => {
                    if message.role != Role::User {
                        let why = "OpenAI takes images and files of the user and of tools only";
                        return Err(Unsupported::part(at, place, why));
                    }
                    self.check(part).map_err(|why| Unsupported::part(at, place, why))?;
                    content.push(part);
                    continue;
                }
                Part::ToolCall { id, name, arguments, .. } => {
                    let arguments = if arguments.trim().is_empty() { "{}" } else { arguments };
                    Some(
                        json!({"type": "function_call", "call_id": id, "name": name, "arguments": arguments}),
                    )
                }
                Part::ToolResult { .. } => {
                    Some(self.result(part).map_err(|why| Unsupported::part(at, place, why))?)
                }
                Part::Thinking { text, seal } => thought(text, seal.as_ref()),
                Part::Hidden { seal } => thought("", Some(seal)),
            };
            if let Some(item) = item {
                self.flush(message.role, &mut content, input);
                input.push(item);
            }
        }
        self.flush(message.role, &mut content, input);
        Ok(())
    }

    /// Writes the parts of a message, if there are any.
    fn flush(&mut self, role: Role, content: &mut Vec<&Part>, input: &mut Vec<Value>) {
        let parts = std::mem::take(content);
        let role_name = match role {
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::System => self.system_role,
        };
        let written = match (&*parts, role) {
            ([], _) => return,
            ([Part::Text { text, .. }], Role::Assistant) => json!(text),
            ([Part::Text { text, cache }], _) if cache.is_none() || !self.marks => json!(text),
            (_, Role::Assistant) => {
                let content: Vec<_> = parts.iter().map(|part| own_part(part)).collect();
                // Servers that check types want an identifier, of which OpenAI checks how it
                // begins.
                input.push(json!({
                    "type": "message", "id": format!("msg_{}", input.len()), "role": role_name,
                    "status": "completed", "content": content,
                }));
                return;
            }
            _ => parts.iter().map(|part| self.part(part)).collect(),
        };
        input.push(json!({"role": role_name, "content": written}));
    }

    /// Why a picture, file or sound cannot be written.
    fn check(&self, part: &Part) -> Result<(), &'static str> {
        match part {
            Part::Audio { .. } => Err("OpenAI's Responses API takes no sound; send a transcript"),
            Part::Image { source, .. } | Part::File { source, .. } => match source {
                Source::Uploaded { id, .. } if !media::is_own_file(id) => {
                    Err("the file was uploaded to another provider; send its bytes instead")
                }
                Source::Text { .. } if matches!(part, Part::Image { .. }) => {
                    Err("a text is no image")
                }
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// A part that the model reads. What it has no form for has been refused.
    fn part(&mut self, part: &Part) -> Value {
        match part {
            Part::Image { source, detail, cache } => {
                // The SDK's type wants a detail.
                let detail = detail.as_deref().unwrap_or("auto");
                let (name, value) = match source {
                    Source::Base64 { media_type, data } => {
                        ("image_url", media::address(media_type, data))
                    }
                    Source::Url { url, .. } => ("image_url", url.clone()),
                    Source::Uploaded { id, .. } => ("file_id", id.clone()),
                    Source::Text { text } => return self.text_part(text, *cache),
                };
                self.marked(json!({"type": "input_image", name: value, "detail": detail}), *cache)
            }
            Part::File { source, name, cache } => self.file(source, name.as_deref(), *cache),
            Part::Text { text, cache } => self.text_part(text, *cache),
            Part::Refusal { text } => self.text_part(text, None),
            _ => Value::Null,
        }
    }

    fn file(&mut self, source: &Source, name: Option<&str>, cache: Option<CacheMark>) -> Value {
        let written = match source {
            Source::Base64 { media_type, data } => {
                let name = name.map_or_else(|| media::file_name(media_type), str::to_owned);
                json!({"type": "input_file", "filename": name, "file_data": media::address(media_type, data)})
            }
            Source::Url { url, .. } => json!({"type": "input_file", "file_url": url}),
            Source::Uploaded { id, .. } => json!({"type": "input_file", "file_id": id}),
            Source::Text { text } => {
                self.warn("documents in plain text were sent as text");
                let titled = name.map(|name| format!("{name}\n\n{text}"));
                return self.text_part(titled.as_deref().unwrap_or(text), cache);
            }
        };
        self.marked(written, cache)
    }

    fn text_part(&self, text: &str, cache: Option<CacheMark>) -> Value {
        self.marked(json!({"type": "input_text", "text": text}), cache)
    }

    /// Adds a cache mark. Where none can be written, its loss is harmless: OpenAI caches long
    /// prompts without.
    fn marked(&self, mut part: Value, cache: Option<CacheMark>) -> Value {
        if let Some(mark) = cache.filter(|_| self.marks) {
            // An hour lies between the two times that there are.
            part["prompt_cache_breakpoint"] = match mark.ttl {
                CacheTtl::Usual => json!({"mode": "explicit"}),
                CacheTtl::Hour => json!({"mode": "explicit", "ttl": "12h"}),
            };
        }
        part
    }

    fn result(&mut self, part: &Part) -> Result<Value, &'static str> {
        let Part::ToolResult { id, content, error, cache, .. } = part else {
            return Ok(Value::Null);
        };
        let mut content = content.clone();
        for piece in &content {
            match piece {
                Part::Text { .. } | Part::Image { .. } | Part::File { .. } => self.check(piece)?,
                Part::Audio { .. } => return self.check(piece).map(|()| Value::Null),
                _ => return Err("a result holds text, images and files only"),
            }
        }
        if *error {
            self.tell_error(&mut content);
        }
        if let (
            Some(mark),
            Some(Part::Text { cache, .. } | Part::Image { cache, .. } | Part::File { cache, .. }),
        ) = (cache, content.last_mut())
        {
            cache.get_or_insert(*mark);
        }
        let output = match &*content {
            [] => json!(""),
            [Part::Text { text, cache }] if cache.is_none() || !self.marks => json!(text),
            parts => parts.iter().map(|part| self.part(part)).collect(),
        };
        let mut written = json!({"type": "function_call_output", "call_id": id, "output": output});
        if *error {
            written["status"] = json!("incomplete");
        }
        Ok(written)
    }

    /// Says in a failed result's text that it failed, since there is no flag for it.
    fn tell_error(&mut self, content: &mut Vec<Part>) {
        let text = content.iter_mut().find_map(|part| match part {
            Part::Text { text, .. } => Some(text),
            _ => None,
        });
        match text {
            Some(text)
                if text.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("error")) =>
            {
                return;
            }
            Some(text) => text.insert_str(0, "ERROR: "),
            None => content.insert(0, Part::Text { text: "ERROR".to_owned(), cache: None }),
        }
        self.warn("OpenAI has no error flag of tool results, so their texts say it");
    }

    fn reasoning(&mut self, reasoning: &Reasoning) -> Option<Value> {
        let mut written = Map::new();
        let effort = reasoning.effort.or_else(|| {
            let effort = effort_of(reasoning.budget?);
            if effort != Effort::None {
                self.warn("OpenAI has no budget of thinking tokens, so the nearest effort was set");
            }
            Some(effort)
        });
        if let Some(effort) = effort {
            written.insert("effort".to_owned(), json!(effort.as_str()));
        }
        if reasoning.shown == Some(true) {
            written.insert("summary".to_owned(), json!("auto"));
        }
        (!written.is_empty()).then_some(Value::Object(written))
    }
}

/// The effort nearest to a budget of tokens. Anthropic's guide takes 4,096 for short and
/// 16,384 for long thinking.
pub(crate) fn effort_of(budget: u64) -> Effort {
    match budget {
        0 => Effort::None,
        1..=4096 => Effort::Low,
        4097..=16_384 => Effort::Medium,
        _ => Effort::High,
    }
}

/// A part of the model's own turn. It carries no cache mark there, which is harmless.
fn own_part(part: &Part) -> Value {
    match part {
        Part::Text { text, .. } => json!({"type": "output_text", "text": text, "annotations": []}),
        Part::Refusal { text } => json!({"type": "refusal", "refusal": text}),
        _ => Value::Null,
    }
}

/// A reasoning item, where it is OpenAI's own. Thinking of others, and unsealed thinking,
/// is left out: OpenAI takes neither.
fn thought(text: &str, seal: Option<&Seal>) -> Option<Value> {
    let seal = seal.filter(|seal| seal.vendor == Vendor::OpenAi)?;
    let mut written = Map::new();
    written.insert("type".to_owned(), json!("reasoning"));
    if let Some(item) = &seal.item {
        written.insert("id".to_owned(), json!(item));
    }
    let summary =
        if text.is_empty() { json!([]) } else { json!([{"type": "summary_text", "text": text}]) };
    written.insert("summary".to_owned(), summary);
    written.insert("encrypted_content".to_owned(), json!(seal.data));
    Some(Value::Object(written))
}
