//! Images, documents, videos and sound: their formats, and where their bytes are. Formats:
//! the Bedrock API reference, and botocore's service model 1.44.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::members::Members;
use crate::neutral::{Fault, Source};

/// Formats by Converse's own names, each with its type; the first type of a format is its own.
pub(super) type Formats = [(&'static str, &'static str)];

/// Formats of images.
pub(super) const IMAGES: &Formats = &[
    ("png", "image/png"),
    ("jpeg", "image/jpeg"),
    ("jpeg", "image/jpg"),
    ("gif", "image/gif"),
    ("webp", "image/webp"),
];

/// Formats of documents.
pub(super) const DOCUMENTS: &Formats = &[
    ("pdf", "application/pdf"),
    ("csv", "text/csv"),
    ("doc", "application/msword"),
    ("docx", "application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
    ("xls", "application/vnd.ms-excel"),
    ("xlsx", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"),
    ("html", "text/html"),
    ("txt", "text/plain"),
    ("md", "text/markdown"),
];

/// Formats of videos.
pub(super) const VIDEOS: &Formats = &[
    ("mp4", "video/mp4"),
    ("mkv", "video/x-matroska"),
    ("mov", "video/quicktime"),
    ("mov", "video/mov"),
    ("webm", "video/webm"),
    ("flv", "video/x-flv"),
    ("mpeg", "video/mpeg"),
    ("mpg", "video/mpg"),
    ("wmv", "video/x-ms-wmv"),
    ("wmv", "video/wmv"),
    ("three_gp", "video/3gpp"),
];

/// Formats of sound.
pub(super) const SOUNDS: &Formats = &[
    ("mp3", "audio/mp3"),
    ("mpeg", "audio/mpeg"),
    ("wav", "audio/wav"),
    ("wav", "audio/x-wav"),
    ("opus", "audio/opus"),
    ("aac", "audio/aac"),
    ("x-aac", "audio/x-aac"),
    ("flac", "audio/flac"),
    ("flac", "audio/x-flac"),
    ("mp4", "audio/mp4"),
    ("ogg", "audio/ogg"),
    ("mkv", "audio/x-matroska"),
    ("mka", "audio/mka"),
    ("m4a", "audio/m4a"),
    ("m4a", "audio/x-m4a"),
    ("mpga", "audio/mpga"),
    ("pcm", "audio/pcm"),
    ("webm", "audio/webm"),
];

/// Takes the `format` of a block, as a type.
///
/// # Errors
/// Where it is missing, or none of `formats`.
pub(super) fn media_type(block: &mut Members, formats: &Formats) -> Result<String, Fault> {
    let format = block.required_text("format")?;
    match formats.iter().find(|(known, _)| *known == format) {
        Some((_, media_type)) => Ok((*media_type).to_owned()),
        None => {
            let mut known: Vec<_> = formats.iter().map(|(known, _)| *known).collect();
            known.dedup();
            Err(block.fault("format", format!("must be one of {}", known.join(", "))))
        }
    }
}

/// Reads where the bytes of an image, document, video or sound are.
pub(super) fn source(block: &mut Members, media_type: String) -> Result<Source, Fault> {
    let Some(mut source) = block.object("source")? else {
        return Err(block.fault("source", "is missing"));
    };
    if let Some(data) = source.text("bytes")? {
        return Ok(Source::Base64 { media_type, data });
    }
    if let Some(text) = source.text("text")? {
        return Ok(Source::Text { text });
    }
    match source.object("s3Location")? {
        Some(mut place) => {
            let url = place.required_text("uri")?;
            Ok(Source::Url { url, media_type: Some(media_type) })
        }
        None => Err(source.fault("bytes", "is missing")),
    }
}

/// Writes an image.
pub(super) fn image(source: &Source) -> Result<Value, &'static str> {
    let written = with_format(source, IMAGES)?;
    written.ok_or("Converse takes images as PNG, JPEG, GIF or WebP only")
}

/// Writes a sound.
pub(super) fn sound(source: &Source) -> Result<Value, &'static str> {
    with_format(source, SOUNDS)?.ok_or("Converse takes no sound of this type")
}

/// Writes the block of a file: a video, or a document.
pub(super) fn file(source: &Source, name: Option<&str>) -> Result<Value, &'static str> {
    if let Some(video) = with_format(source, VIDEOS)? {
        return Ok(json!({"video": video}));
    }
    let document = with_format(source, DOCUMENTS)?;
    let mut document = document.ok_or("Converse takes no files of this type")?;
    document["name"] = json!(document_name(name));
    Ok(json!({ "document": document }))
}

/// A format and a source; `None` where the type is none of the formats.
fn with_format(source: &Source, formats: &Formats) -> Result<Option<Value>, &'static str> {
    let (media_type, place) = match source {
        Source::Base64 { media_type, data } => (Some(&**media_type), json!({"bytes": data})),
        Source::Url { url, media_type } if url.starts_with("s3://") => {
            (media_type.as_deref(), json!({"s3Location": {"uri": url}}))
        }
        Source::Url { .. } => return Err("Converse fetches nothing but from S3; send the bytes"),
        Source::Uploaded { .. } => {
            return Err("the file was uploaded to another provider; send its bytes");
        }
        Source::Text { text } => (Some("text/plain"), json!({"text": text})),
    };
    let format = match (media_type, source) {
        (Some(media_type), _) => {
            // Parameters, such as a charset, are no part of the format.
            let kind = media_type.split(';').next().unwrap_or_default().trim();
            formats.iter().find(|(_, known)| known.eq_ignore_ascii_case(kind))
        }
        (None, Source::Url { url, .. }) => {
            let ending = url.rsplit_once('.').map_or("", |(_, ending)| ending);
            formats.iter().find(|(known, _)| known.eq_ignore_ascii_case(ending))
        }
        (None, _) => None,
    };
    Ok(format.map(|(format, _)| json!({"format": format, "source": place})))
}

/// Longest name of a document.
const NAME_MAX: usize = 200;

/// A name of the letters that are taken, without its ending and without runs of spaces.
fn document_name(name: Option<&str>) -> String {
    let name = name.map_or("document", |name| name.rsplit_once('.').map_or(name, |(stem, _)| stem));
    let letter = |c: char| match c {
        c if c.is_ascii_alphanumeric() || " -()[]".contains(c) => c,
        _ => '-',
    };
    let name: String = name.chars().map(letter).take(NAME_MAX).collect();
    let name = name.split_whitespace().collect::<Vec<_>>().join(" ");
    if name.is_empty() { "document".to_owned() } else { name }
}

/// Numbers the documents whose name another has: two of one name in a request are refused
/// ("Messages can't contain duplicate document names"). Earlier ones keep their names as a
/// conversation grows, so that prompt caches keep hitting.
pub(super) fn number_documents(messages: &mut [Value]) {
    let mut taken = HashMap::new();
    let contents = messages.iter_mut().filter_map(|message| message["content"].as_array_mut());
    for block in contents.flatten() {
        match block.pointer_mut("/toolResult/content").and_then(Value::as_array_mut) {
            Some(blocks) => blocks.iter_mut().for_each(|block| number_document(block, &mut taken)),
            None => number_document(block, &mut taken),
        }
    }
}

/// `taken` has the names in small letters, with the next number to try for each.
fn number_document(block: &mut Value, taken: &mut HashMap<String, usize>) {
    let Some(Value::String(name)) = block.pointer_mut("/document/name") else { return };
    let key = name.to_ascii_lowercase();
    let Some(next) = taken.get(&key).copied() else {
        taken.insert(key, 2);
        return;
    };
    // Ends, since the names that are taken are finite.
    for number in next.. {
        let ending = format!("-{number}");
        let stem: String = name.chars().take(NAME_MAX - ending.len()).collect();
        let numbered = stem + &ending;
        let other = numbered.to_ascii_lowercase();
        if !taken.contains_key(&other) {
            taken.insert(other, 2);
            taken.insert(key, number + 1);
            *name = numbered;
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_documents_are_made_acceptable() {
        assert_eq!(document_name(Some("Q3  report_v2.pdf")), "Q3 report-v2");
        assert_eq!(document_name(None), "document");
    }

    #[test]
    fn numbered_names_are_free_and_short_enough() {
        let named = |name: &str| json!({"document": {"name": name}});
        let long = "x".repeat(NAME_MAX);
        let results = json!([named("a"), {"text": "a"}]);
        let mut messages = [json!({"content": [
            named("a-2"), named("a"), {"toolResult": {"content": results}}, named("A"),
            named(&long), named(&long),
        ]})];
        number_documents(&mut messages);
        let content = &messages[0]["content"];
        assert_eq!(content[2]["toolResult"]["content"][0]["document"]["name"], "a-3");
        assert_eq!(content[3]["document"]["name"], "A-4");
        let last = content[5]["document"]["name"].as_str().unwrap();
        assert!(last.len() == NAME_MAX && last.ends_with("x-2"), "{last}");
    }

    #[test]
    fn types_are_known_with_their_parameters() {
        let source = Source::Base64 {
            media_type: "Text/CSV; charset=utf-8".to_owned(),
            data: "YQ==".to_owned(),
        };
        assert_eq!(file(&source, None).unwrap()["document"]["format"], "csv");
    }
}
