//! Frames of AWS event streams with true checksums, so that a fuzzer reaches what is behind
//! them. They share nothing with the reader.

use serde_json::Value;

/// A frame of these headers.
pub(crate) fn sealed(headers: &[(&str, &str)], payload: &[u8]) -> Vec<u8> {
    let mut told = Vec::new();
    for (name, value) in headers {
        told.push(name.len() as u8);
        told.extend(name.bytes());
        told.push(7);
        told.extend((value.len() as u16).to_be_bytes());
        told.extend(value.bytes());
    }
    let mut frame = Vec::new();
    frame.extend((16 + told.len() as u32 + payload.len() as u32).to_be_bytes());
    frame.extend((told.len() as u32).to_be_bytes());
    frame.extend(crc32(&frame).to_be_bytes());
    frame.extend(told);
    frame.extend(payload);
    frame.extend(crc32(&frame).to_be_bytes());
    frame
}

/// The frame of an event by its name; names of exceptions begin with a colon.
pub(crate) fn event(name: &str, payload: &[u8]) -> Vec<u8> {
    let (key, kind, name) = match name.strip_prefix(':') {
        Some(name) => (":exception-type", "exception", name),
        None => (":event-type", "event", name),
    };
    let json = (":content-type", "application/json");
    sealed(&[(key, name), json, (":message-type", kind)], payload)
}

/// The frames of events that are written down as server-sent ones; `None` where none are.
pub(crate) fn of_text(text: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(text).ok()?;
    let mut frames = Vec::new();
    for lines in text.split("\n\n").filter(|lines| !lines.is_empty()) {
        let (name, data) = lines.strip_prefix("event: ")?.split_once("\ndata: ")?;
        // A header holds no more.
        frames.extend(event(name.get(..name.len().min(99))?, data.as_bytes()));
    }
    (!frames.is_empty()).then_some(frames)
}

/// An event of a golden case: an object of one member, its name, or an exception.
pub(crate) fn of_case(case: &Value) -> Vec<u8> {
    let case = case.as_object().expect("each event is an object");
    if let Some(Value::String(exception)) = case.get(":exception") {
        return event(&format!(":{exception}"), case["payload"].to_string().as_bytes());
    }
    let (name, payload) = case.iter().next().expect("each event has a name");
    event(name, payload.to_string().as_bytes())
}

/// CRC-32 (IEEE 802.3), bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    })
}
