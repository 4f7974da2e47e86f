//! What a request must look like, as tables: one for each vendor, after its reference.

use serde_json::Value;

/// What a value must be.
#[derive(Debug)]
pub(crate) enum Kind {
    /// Anything.
    Any,
    /// A text.
    Text,
    /// A text that is not empty.
    Some,
    /// Letters, digits, `_` and `-`, at most so many: the names of tools.
    Name(usize),
    /// True or false.
    Flag,
    /// A number within these bounds.
    Number(f64, f64),
    /// A whole number of at least this.
    Whole(u64),
    /// One of these texts.
    OneOf(&'static [&'static str]),
    /// A list of these.
    List(&'static Kind),
    /// A list of these that is not empty.
    Filled(&'static Kind),
    /// An object with any members.
    Map,
    /// An object with these members.
    Object(&'static [Member]),
    /// An object whose member of the first name tells which of these it is.
    Tagged(&'static str, &'static [(&'static str, &'static [Member])]),
    /// A text, or else the other.
    TextOr(&'static Kind),
    /// The first, or else the second.
    Either(&'static Kind, &'static Kind),
}

/// A member of an object.
#[derive(Debug)]
pub(crate) struct Member {
    name: &'static str,
    kind: Kind,
    needed: bool,
}

/// A member that may be missing, or null.
pub(crate) const fn may(name: &'static str, kind: Kind) -> Member {
    Member { name, kind, needed: false }
}

/// A member that must be there.
pub(crate) const fn must(name: &'static str, kind: Kind) -> Member {
    Member { name, kind, needed: true }
}

/// What is wrong with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wrong {
    /// Where: `messages[0].role`.
    pub(crate) path: String,
    /// What.
    pub(crate) what: What,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// It is missing.
    Missing,
    /// It is not known.
    Unknown,
    /// It must be something else, which the text tells.
    Must(String),
}

impl Wrong {
    pub(crate) fn must(path: impl Into<String>, what: impl Into<String>) -> Self {
        Self { path: path.into(), what: What::Must(what.into()) }
    }

    /// What is wrong, without its place.
    pub(crate) fn text(&self) -> String {
        match &self.what {
            What::Missing => "is missing".to_owned(),
            What::Unknown => "is not known".to_owned(),
            What::Must(what) => format!("must be {what}"),
        }
    }
}

/// Checks a value, and gives the first thing that is wrong with it.
pub(crate) fn check(value: &Value, kind: &Kind, path: &str, strict: bool) -> Result<(), Wrong> {
    let must = |fits: bool, what: &str| {
        if fits { Ok(()) } else { Err(Wrong::must(path, what)) }
    };
    match kind {
        Kind::Any => Ok(()),
        Kind::Text => must(value.is_string(), "a string"),
        Kind::Some => {
            must(value.as_str().is_some_and(|text| !text.is_empty()), "a string that is not empty")
        }
        Kind::Name(max) => {
            let letter = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
            let fits = |text: &str| (1..=*max).contains(&text.len()) && text.chars().all(letter);
            let what = format!("a string that matches '^[a-zA-Z0-9_-]{{1,{max}}}$'");
            must(value.as_str().is_some_and(fits), &what)
        }
        Kind::Flag => must(value.is_boolean(), "a boolean"),
        Kind::Number(least, most) => must(
            value.as_f64().is_some_and(|number| (*least..=*most).contains(&number)),
            &format!("a number from {least} to {most}"),
        ),
        Kind::Whole(least) => must(
            value.as_u64().is_some_and(|number| number >= *least),
            &format!("an integer of at least {least}"),
        ),
        Kind::OneOf(texts) => must(
            value.as_str().is_some_and(|text| texts.contains(&text)),
            &format!("one of '{}'", texts.join("', '")),
        ),
        Kind::Map => must(value.is_object(), "an object"),
        Kind::List(item) | Kind::Filled(item) => {
            let Some(items) = value.as_array() else { return must(false, "a list") };
            must(
                !matches!(kind, Kind::Filled(_)) || !items.is_empty(),
                "a list that is not empty",
            )?;
            items
                .iter()
                .enumerate()
                .try_for_each(|(at, value)| check(value, item, &format!("{path}[{at}]"), strict))
        }
        Kind::Object(members) => object(value, members, path, strict),
        Kind::Tagged(tag, kinds) => {
            must(value.is_object(), "an object")?;
            let names: Vec<&str> = kinds.iter().map(|(name, _)| *name).collect();
            let named = value[*tag].as_str();
            match kinds.iter().find(|(name, _)| Some(*name) == named) {
                Some((_, members)) => object(value, members, path, strict),
                None => {
                    let what = format!("one of '{}'", names.join("', '"));
                    Err(Wrong::must(join(path, tag), what))
                }
            }
        }
        Kind::TextOr(_) if value.is_string() => Ok(()),
        Kind::TextOr(other) => check(value, other, path, strict),
        Kind::Either(first, second) => {
            check(value, first, path, strict).or_else(|_| check(value, second, path, strict))
        }
    }
}

fn object(value: &Value, members: &[Member], path: &str, strict: bool) -> Result<(), Wrong> {
    let Some(map) = value.as_object() else { return Err(Wrong::must(path, "an object")) };
    for member in members {
        match map.get(member.name).filter(|value| !value.is_null()) {
            Some(value) => check(value, &member.kind, &join(path, member.name), strict)?,
            None if member.needed => {
                return Err(Wrong { path: join(path, member.name), what: What::Missing });
            }
            None => {}
        }
    }
    let unknown = map.keys().find(|name| !members.iter().any(|member| member.name == *name));
    match unknown.filter(|_| strict) {
        Some(name) => Err(Wrong { path: join(path, name), what: What::Unknown }),
        None => Ok(()),
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SHAPE: Kind = Kind::Object(&[
        must("role", Kind::OneOf(&["user", "tool"])),
        may("n", Kind::Whole(1)),
        may(
            "parts",
            Kind::List(&Kind::Tagged(
                "type",
                &[("text", &[must("type", Kind::Any), must("text", Kind::Some)])],
            )),
        ),
    ]);

    #[test]
    fn the_first_wrong_thing_is_named() {
        let wrong = |value: Value| {
            let found = check(&value, &SHAPE, "", true).err()?;
            Some(format!("{} {}", found.path, found.text()))
        };
        let expect = |value: Value, text: &str| assert_eq!(wrong(value).as_deref(), Some(text));
        assert_eq!(wrong(json!({"role": "user", "n": null})), None);
        expect(json!({}), "role is missing");
        expect(json!({"role": "robot"}), "role must be one of 'user', 'tool'");
        expect(json!({"role": "user", "n": 0}), "n must be an integer of at least 1");
        expect(json!({"role": "user", "m": 0}), "m is not known");
        let part = json!({"type": "text", "text": ""});
        expect(
            json!({"role": "user", "parts": [part]}),
            "parts[0].text must be a string that is not empty",
        );
        expect(json!({"role": "user", "parts": [{}]}), "parts[0].type must be one of 'text'");
    }
}
