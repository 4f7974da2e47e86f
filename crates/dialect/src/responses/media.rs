//! Images and files: the forms in which their bytes come.

use crate::neutral::Source;

/// The source of a `data:` address in base64; any other address as it is.
pub(crate) fn from_address(address: String) -> Source {
    match split(&address) {
        Some((media_type, data)) => {
            Source::Base64 { media_type: media_type.to_owned(), data: data.to_owned() }
        }
        None => Source::Url { url: address, media_type: None },
    }
}

/// The source of `file_data`, which is a `data:` address; some clients send bare base64.
pub(crate) fn from_file_data(text: String, name: Option<&str>) -> Source {
    match split(&text) {
        Some((media_type, data)) => {
            Source::Base64 { media_type: media_type.to_owned(), data: data.to_owned() }
        }
        None => Source::Base64 { media_type: media_type_of(name).to_owned(), data: text },
    }
}

/// The `data:` address of bytes.
pub(crate) fn address(media_type: &str, data: &str) -> String {
    format!("data:{media_type};base64,{data}")
}

/// A name for a file that has none, since OpenAI wants one beside its bytes.
pub(crate) fn file_name(media_type: &str) -> String {
    let known = TYPES.iter().find(|(_, known)| *known == media_type);
    format!("document.{}", known.map_or("bin", |(end, _)| *end))
}

/// Whether an identifier is one of OpenAI's files; others mean nothing there.
pub(crate) fn is_own_file(id: &str) -> bool {
    // Azure's are named after its assistants.
    id.starts_with("file-") || id.starts_with("assistant-")
}

const TYPES: [(&str, &str); 8] = [
    ("pdf", "application/pdf"),
    ("txt", "text/plain"),
    ("md", "text/markdown"),
    ("csv", "text/csv"),
    ("html", "text/html"),
    ("json", "application/json"),
    ("docx", "application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
    ("xlsx", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"),
];

fn media_type_of(name: Option<&str>) -> &'static str {
    let end = name.and_then(|name| name.rsplit_once('.')).map(|(_, end)| end.to_ascii_lowercase());
    let known = end.and_then(|end| TYPES.iter().find(|(known, _)| *known == end));
    // The API took nothing but PDF for long, so bare base64 without a name is one.
    known.map_or("application/pdf", |(_, media_type)| media_type)
}

/// The media type and the data of a `data:` address in base64.
fn split(address: &str) -> Option<(&str, &str)> {
    let (head, data) = address.strip_prefix("data:")?.split_once(',')?;
    let media_type = head.strip_suffix(";base64")?;
    // Parameters such as `charset` say nothing that a provider takes.
    let media_type = media_type.split(';').next().unwrap_or_default();
    Some((if media_type.is_empty() { "text/plain" } else { media_type }, data))
}
