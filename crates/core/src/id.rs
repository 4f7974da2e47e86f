//! Identifiers: short printable names that go into headers and logs as they are.

use std::fmt;

use bytes::{Bytes, BytesMut};
use http::HeaderValue;

/// A name that a client may give: 1 to 128 printable ASCII characters without spaces.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Bytes);

/// Why a text is no [`Name`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// It has no characters.
    #[error("it is empty")]
    Empty,
    /// It has more than [`Name::LEN_MAX`] characters.
    #[error("it is longer than 128 characters")]
    TooLong,
    /// It has a character other than printable ASCII, or a space.
    #[error("it has a character other than printable ASCII without spaces")]
    BadCharacter,
}

impl Name {
    /// The longest name, in bytes.
    pub const LEN_MAX: usize = 128;

    /// Checks a text.
    ///
    /// # Errors
    /// [`NameError`] says which rule it breaks.
    pub fn new(text: impl Into<Bytes>) -> Result<Self, NameError> {
        let text = text.into();
        match text.len() {
            0 => Err(NameError::Empty),
            len if len > Self::LEN_MAX => Err(NameError::TooLong),
            _ if !text.iter().all(u8::is_ascii_graphic) => Err(NameError::BadCharacter),
            _ => Ok(Self(text)),
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("`new` lets only ASCII in")
    }

    /// The name as a header value, without a copy.
    pub fn to_header(&self) -> HeaderValue {
        HeaderValue::from_maybe_shared(self.0.clone()).expect("`new` lets only printable ASCII in")
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// An agent run: the tree of calls of one agent job.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RunId(pub Name);

/// One call of a run.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallId(pub Name);

impl CallId {
    /// A fresh call and, where the client names none, a fresh run: `call_` and `run_` with
    /// 120 random bits each in base 32. They are unguessable only by chance: never use one
    /// as a secret.
    pub fn fresh(run: Option<RunId>) -> (RunId, Self) {
        let mut text = BytesMut::with_capacity(2 * (5 + RANDOM_LEN));
        push_random(&mut text, b"call_");
        let call = Self(Name(text.split().freeze()));
        let run = run.unwrap_or_else(|| {
            push_random(&mut text, b"run_");
            RunId(Name(text.freeze()))
        });
        (run, call)
    }
}

const RANDOM_LEN: usize = 24;

fn push_random(text: &mut BytesMut, prefix: &[u8]) {
    const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
    text.extend_from_slice(prefix);
    for _ in 0..2 {
        let mut bits = fastrand::u64(..);
        let mut part = [0; RANDOM_LEN / 2];
        for digit in &mut part {
            *digit = DIGITS[(bits & 31) as usize];
            bits >>= 5;
        }
        text.extend_from_slice(&part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        let check = |text: &'static str, expected: Option<NameError>| {
            assert_eq!(Name::new(text).err(), expected, "{text:?}");
        };
        check("agent-7/α", Some(NameError::BadCharacter));
        check("a b", Some(NameError::BadCharacter));
        check("", Some(NameError::Empty));
        check("job:42", None);
        assert_eq!(Name::new("x".repeat(129)).err(), Some(NameError::TooLong));
    }

    #[test]
    fn fresh_ids_differ_and_keep_a_given_run() {
        let (run, call) = CallId::fresh(None);
        let (kept, other) = CallId::fresh(Some(run.clone()));
        assert_eq!(kept, run);
        assert_ne!(call, other);
        assert_eq!(run.0.as_str().len(), 4 + RANDOM_LEN);
        assert!(call.0.as_str().starts_with("call_"));
    }
}
