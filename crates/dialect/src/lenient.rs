//! Members of what servers send, read with forbearance: many servers copy a dialect, each
//! with its own slips, and a member of another kind than expected is no reason to give up an
//! answer. Texts are borrowed where they hold no escapes.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// A text; what is none counts as absent.
pub(crate) fn text<'de: 'a, 'a, D>(from: D) -> Result<Option<Cow<'a, str>>, D::Error>
where
    D: Deserializer<'de>,
{
    from.deserialize_any(Text)
}

/// A whole number that is not negative; what is none counts as absent.
pub(crate) fn count<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    from.deserialize_any(Count)
}

struct Text;

impl<'de> Visitor<'de> for Text {
    type Value = Option<Cow<'de, str>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Some(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Some(Cow::Owned(text.to_owned())))
    }

    fn visit_string<E>(self, text: String) -> Result<Self::Value, E> {
        Ok(Some(Cow::Owned(text)))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Self::Value, A::Error> {
        skip_list(items)
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<Self::Value, A::Error> {
        skip_object(members)
    }
}

struct Count;

impl<'de> Visitor<'de> for Count {
    type Value = Option<u64>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number")
    }

    fn visit_u64<E>(self, count: u64) -> Result<Self::Value, E> {
        Ok(Some(count))
    }

    fn visit_i64<E>(self, count: i64) -> Result<Self::Value, E> {
        Ok(u64::try_from(count).ok())
    }

    fn visit_f64<E>(self, count: f64) -> Result<Self::Value, E> {
        // Up to 2^53 every whole number is exact.
        Ok((0.0..9e15).contains(&count).then_some(count as u64))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Self::Value, A::Error> {
        skip_list(items)
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<Self::Value, A::Error> {
        skip_object(members)
    }
}

fn skip_list<'de, T, A: SeqAccess<'de>>(mut items: A) -> Result<Option<T>, A::Error> {
    while items.next_element::<IgnoredAny>()?.is_some() {}
    Ok(None)
}

fn skip_object<'de, T, A: MapAccess<'de>>(mut members: A) -> Result<Option<T>, A::Error> {
    while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Deserialize)]
    struct Read<'a> {
        #[serde(default, borrow, deserialize_with = "text")]
        text: Option<Cow<'a, str>>,
        #[serde(default, deserialize_with = "count")]
        count: Option<u64>,
    }

    #[test]
    fn what_is_of_another_kind_is_absent() {
        for (json, text, count) in [
            ("{}", None, None),
            (r#"{"text":"a","count":3}"#, Some("a"), Some(3)),
            (r#"{"text":"a\n","count":3.0}"#, Some("a\n"), Some(3)),
            (r#"{"text":null,"count":null}"#, None, None),
            (r#"{"text":[1,{"a":2}],"count":[1]}"#, None, None),
            (r#"{"text":{"a":[2]},"count":{"a":1}}"#, None, None),
            (r#"{"text":1,"count":-1}"#, None, None),
            (r#"{"text":true,"count":"7"}"#, None, None),
        ] {
            let read: Read<'_> = serde_json::from_str(json).unwrap();
            assert_eq!((read.text.as_deref(), read.count), (text, count), "{json}");
        }
    }

    #[test]
    fn texts_without_escapes_are_borrowed() {
        let read: Read<'_> = serde_json::from_str(r#"{"text":"plain"}"#).unwrap();
        assert!(matches!(read.text, Some(Cow::Borrowed(_))));
    }
}
