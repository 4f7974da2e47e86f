//! What the stages read of a dialect's bytes without parsing them whole: the few fields of a
//! request, and of an answer its usage, whether it is complete, and whether it failed.

mod answer;
mod error;
mod request;
mod usage;

pub use answer::{is_answer, is_preamble, read_events};
pub use error::ErrorText;
pub use request::fields;
pub use usage::usage;

pub(crate) use usage::member_value;

/// A model's identifier or ARN as a segment of a path: all but RFC 3986's unreserved letters
/// is escaped, colons and slashes too.
pub fn path_segment(model: &str) -> String {
    let mut path = String::with_capacity(model.len() + 8);
    for byte in model.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("%{byte:02X}"));
        }
    }
    path
}
