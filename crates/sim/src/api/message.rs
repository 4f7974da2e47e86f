//! The messages of a request: read without a copy, and rendered into the prompt.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{self, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use xxhash_rust::xxh3::xxh3_64;

use super::{ApiError, required};
use crate::text::Blocks;

/// Renders the messages; the text of the last one where a user wrote it.
pub(super) fn push_messages<'a>(
    prompt: &mut Blocks,
    messages: Option<&'a RawValue>,
) -> Result<Cow<'a, str>, ApiError> {
    let messages: Vec<Message<'_>> = required("messages", messages)?;
    if messages.is_empty() {
        let message = "Invalid 'messages': empty array. Expected an array with minimum length 1.";
        return Err(ApiError::invalid("messages", message).with_code("empty_array"));
    }
    let mut last_user = Cow::Borrowed("");
    for (i, message) in messages.into_iter().enumerate() {
        let bad = |field: &str, text: String| {
            Err(ApiError::invalid(&format!("messages[{i}].{field}"), text))
        };
        let role = &*message.role;
        if !ROLES.contains(&role) {
            let roles = ROLES.join("', '");
            return bad(
                "role",
                format!("Invalid value: '{role}'. Supported values are: '{roles}'."),
            )
            .map_err(|e| e.with_code("invalid_value"));
        }
        let calls = message.tool_calls.as_deref().unwrap_or_default();
        if !calls.is_empty() && role != "assistant" {
            return bad("tool_calls", format!("A message of role '{role}' calls no tools."));
        }
        if matches!(message.content, Content::None) && (role != "assistant" || calls.is_empty()) {
            let empty_ok = role == "assistant" && message.has_other;
            if !empty_ok {
                return bad("content", format!("A message of role '{role}' needs a content."));
            }
        }
        if role == "tool" && message.tool_call_id.is_none() {
            return bad(
                "tool_call_id",
                "A message of role 'tool' needs a tool_call_id.".to_owned(),
            );
        }
        prompt.header(role);
        push_content(prompt, &message.content);
        for call in calls {
            prompt.tool_call(&call.function.name, &call.function.arguments);
        }
        // Only a question asks for a tool by its name: after the tool's result comes prose.
        last_user = match message.content {
            Content::Text(text) if role == "user" => text,
            Content::Parts(parts) if role == "user" => parts.iter().map(Part::text).collect(),
            _ => Cow::Borrowed(""),
        };
    }
    Ok(last_user)
}

const ROLES: [&str; 6] = ["system", "developer", "user", "assistant", "tool", "function"];

fn push_content(prompt: &mut Blocks, content: &Content<'_>) {
    match content {
        Content::None => {}
        Content::Text(text) => prompt.push(text.as_bytes()),
        Content::Parts(parts) => {
            for part in parts {
                match part {
                    Part::Text(text) => prompt.push(text.as_bytes()),
                    // As many tokens as a small image takes, told apart by their hash.
                    Part::Media(hash) => (0..MEDIA_WORDS).for_each(|i| {
                        prompt.push(&crate::text::mix(hash ^ i).to_le_bytes());
                    }),
                }
            }
        }
    }
    prompt.pad();
}

/// 1 KiB: 256 tokens of 4 bytes.
const MEDIA_WORDS: u64 = 128;

struct Message<'a> {
    role: Cow<'a, str>,
    content: Content<'a>,
    tool_calls: Option<Vec<ToolCall>>,
    tool_call_id: Option<String>,
    /// A refusal or an older function call stands in place of a content.
    has_other: bool,
}

#[derive(Deserialize)]
struct ToolCall {
    function: CalledFunction,
}

#[derive(Deserialize)]
struct CalledFunction {
    name: String,
    arguments: String,
}

enum Content<'a> {
    None,
    Text(Cow<'a, str>),
    Parts(Vec<Part<'a>>),
}

enum Part<'a> {
    Text(Cow<'a, str>),
    /// The hash of an image, a sound or a file.
    Media(u64),
}

impl Part<'_> {
    fn text(&self) -> &str {
        match self {
            Self::Text(text) => text,
            Self::Media(_) => "",
        }
    }
}

/// A text that is borrowed where it has no escapes.
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Message<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Message<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a message object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut role = None;
                let mut message = Message {
                    role: Cow::Borrowed(""),
                    content: Content::None,
                    tool_calls: None,
                    tool_call_id: None,
                    has_other: false,
                };
                while let Some(Text(key)) = map.next_key()? {
                    match &*key {
                        "role" => role = Some(map.next_value::<Text<'de>>()?.0),
                        "content" => message.content = map.next_value()?,
                        "tool_calls" => message.tool_calls = map.next_value()?,
                        "tool_call_id" => message.tool_call_id = map.next_value()?,
                        "refusal" | "function_call" | "audio" => {
                            message.has_other |= map.next_value::<Option<IgnoredAny>>()?.is_some();
                        }
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                message.role = role.ok_or_else(|| de::Error::missing_field("role"))?;
                Ok(message)
            }
        }
        deserializer.deserialize_map(V)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Content<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Content<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, an array of content parts, or null")
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Content::None)
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Content::Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Content::Text(Cow::Owned(text.to_owned())))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut parts = Vec::new();
                while let Some(part) = seq.next_element()? {
                    parts.push(part);
                }
                Ok(Content::Parts(parts))
            }
        }
        deserializer.deserialize_any(V)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Part<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Raw<'a> {
            #[serde(borrow)]
            r#type: Cow<'a, str>,
            #[serde(borrow)]
            text: Option<Cow<'a, str>>,
            #[serde(borrow)]
            refusal: Option<Cow<'a, str>>,
            #[serde(borrow)]
            image_url: Option<&'a RawValue>,
            #[serde(borrow)]
            input_audio: Option<&'a RawValue>,
            #[serde(borrow)]
            file: Option<&'a RawValue>,
        }
        let raw = Raw::deserialize(deserializer)?;
        let media = match &*raw.r#type {
            "text" => {
                return raw.text.map(Self::Text).ok_or_else(|| de::Error::missing_field("text"));
            }
            "refusal" => {
                return raw
                    .refusal
                    .map(Self::Text)
                    .ok_or_else(|| de::Error::missing_field("refusal"));
            }
            "image_url" => raw.image_url.ok_or_else(|| de::Error::missing_field("image_url"))?,
            "input_audio" => {
                raw.input_audio.ok_or_else(|| de::Error::missing_field("input_audio"))?
            }
            "file" => raw.file.ok_or_else(|| de::Error::missing_field("file"))?,
            other => return Err(de::Error::custom(format_args!("unknown content part '{other}'"))),
        };
        Ok(Self::Media(xxh3_64(media.get().as_bytes())))
    }
}
