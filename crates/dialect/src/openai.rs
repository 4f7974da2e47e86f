//! The OpenAI chat format: the events of a stream, the metadata of a request, the error shape.

use std::sync::LazyLock;

use memchr::memmem;
use paceline_core::Endpoint;

use crate::scan;
use crate::sse::Facts;

/// The value of a text member of a request's `metadata` object.
pub fn metadata_text<'a>(metadata: &'a [u8], name: &str) -> Option<std::borrow::Cow<'a, str>> {
    let members = scan::members(metadata).ok()?;
    let member = members.iter().rfind(|m| &metadata[m.key.range()] == name.as_bytes())?;
    scan::string(&metadata[member.value.range()])
}

/// Notes what whole events say: how many they are, `[DONE]`, an error, and, from the last
/// few, a finish reason and usage. (Each choice's finish reason comes with its last event,
/// so that of the last choice is among the stream's last events.)
pub fn read_events(events: &[u8], facts: &mut Facts) {
    let mut last: [&[u8]; 3] = [&[]; 3];
    let mut start = 0;
    for end in memchr::memchr2_iter(b'\n', b'\r', events) {
        let line = &events[start..end];
        start = end + 1;
        let Some(value) = line.strip_prefix(b"data:") else { continue };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        if value == b"[DONE]" {
            facts.done = true;
            continue;
        }
        facts.events += 1;
        facts.failed |= value.starts_with(b"{\"error\"");
        last = [last[1], last[2], value];
    }
    for value in last {
        facts.finished |= has_finished(value);
        if let Some(usage) = crate::wire::usage(Endpoint::Chat, value) {
            facts.usage = Some(usage);
        }
    }
}

/// Whether a whole reply, or an event, gives a finish reason that is not null.
pub fn has_finished(json: &[u8]) -> bool {
    static NAME: LazyLock<memmem::Finder<'static>> =
        LazyLock::new(|| memmem::Finder::new(b"\"finish_reason\""));
    NAME.find_iter(json)
        .any(|at| crate::wire::member_value(&json[at + 15..]).is_some_and(|v| v.starts_with(b"\"")))
}
