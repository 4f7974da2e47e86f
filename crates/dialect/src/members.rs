//! Reading JSON objects member by member, so that what is unknown is left over and every
//! fault is named by its path.

use serde_json::{Map, Value};

use crate::neutral::{Fault, Part};

/// The members of an object that have not been read yet. A null counts as absent.
pub(crate) struct Members {
    path: String,
    map: Map<String, Value>,
}

impl Members {
    /// The members of the object at `path`; the path of the body itself is empty.
    pub(crate) fn of(value: Value, path: impl Into<String>) -> Result<Self, Fault> {
        let path = path.into();
        match value {
            Value::Object(map) => Ok(Self { path, map }),
            _ => Err(Fault::new(path, "must be an object")),
        }
    }

    /// The path of a member.
    pub(crate) fn path(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// A fault of a member.
    pub(crate) fn fault(&self, name: &str, problem: impl Into<String>) -> Fault {
        Fault::new(self.path(name), problem)
    }

    /// Takes a member of any kind.
    pub(crate) fn take(&mut self, name: &str) -> Option<Value> {
        // Shifted, so that what is left over keeps its order.
        self.map.shift_remove(name).filter(|value| !value.is_null())
    }

    /// Gives a member another name, unless that is there already.
    pub(crate) fn rename(&mut self, from: &str, to: &str) {
        if let Some(value) = self.take(from) {
            self.map.entry(to).or_insert(value);
        }
    }

    /// Whether a member is there.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.map.get(name).is_some_and(|value| !value.is_null())
    }

    /// A look at a member that is not taken.
    pub(crate) fn peek_text(&self, name: &str) -> Option<&str> {
        self.map.get(name)?.as_str()
    }

    /// Takes a text.
    pub(crate) fn text(&mut self, name: &str) -> Result<Option<String>, Fault> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.fault(name, "must be a text")),
        }
    }

    /// Takes a text that must be there.
    pub(crate) fn required_text(&mut self, name: &str) -> Result<String, Fault> {
        self.text(name)?.ok_or_else(|| self.fault(name, "is missing"))
    }

    /// Takes a truth value.
    pub(crate) fn flag(&mut self, name: &str) -> Result<Option<bool>, Fault> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(_) => Err(self.fault(name, "must be true or false")),
        }
    }

    /// Takes a number.
    pub(crate) fn number(&mut self, name: &str) -> Result<Option<f64>, Fault> {
        let Some(value) = self.take(name) else { return Ok(None) };
        value.as_f64().map(Some).ok_or_else(|| self.fault(name, "must be a number"))
    }

    /// Takes a whole number that is not negative.
    pub(crate) fn whole(&mut self, name: &str) -> Result<Option<u64>, Fault> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let whole = value.as_u64().or_else(|| {
            // Some clients write 100.0.
            value.as_f64().filter(|n| n.fract() == 0.0 && (0.0..9e15).contains(n)).map(|n| n as u64)
        });
        whole.map(Some).ok_or_else(|| self.fault(name, "must be a whole number of at least 0"))
    }

    /// Takes a whole number that may be negative.
    pub(crate) fn integer(&mut self, name: &str) -> Result<Option<i64>, Fault> {
        let Some(value) = self.take(name) else { return Ok(None) };
        value.as_i64().map(Some).ok_or_else(|| self.fault(name, "must be a whole number"))
    }

    /// Takes a list; the paths of its items come with them.
    pub(crate) fn list(&mut self, name: &str) -> Result<Option<Vec<(String, Value)>>, Fault> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Array(items)) => {
                let path = self.path(name);
                let item = |(at, value)| (format!("{path}[{at}]"), value);
                Ok(Some(items.into_iter().enumerate().map(item).collect()))
            }
            Some(_) => Err(self.fault(name, "must be a list")),
        }
    }

    /// Takes a list of texts.
    pub(crate) fn texts(&mut self, name: &str) -> Result<Option<Vec<String>>, Fault> {
        let Some(items) = self.list(name)? else { return Ok(None) };
        let text = |(path, value)| match value {
            Value::String(text) => Ok(text),
            _ => Err(Fault::new(path, "must be a text")),
        };
        items.into_iter().map(text).collect::<Result<_, _>>().map(Some)
    }

    /// Checks that instructions, whose parts stood in the list `name`, are text: no dialect
    /// takes anything else there, and writers would leave it out.
    pub(crate) fn check_instructions(&self, name: &str, parts: &[Part]) -> Result<(), Fault> {
        let other = parts.iter().position(|part| !matches!(part, Part::Text { .. }));
        other.map_or(Ok(()), |at| {
            Err(self.fault(&format!("{name}[{at}]"), "must be text, as instructions are"))
        })
    }

    /// Takes an object.
    pub(crate) fn object(&mut self, name: &str) -> Result<Option<Self>, Fault> {
        let path = self.path(name);
        self.take(name).map(|value| Self::of(value, path)).transpose()
    }

    /// Moves what is left over, with its paths, to `extra`. An empty list asks for nothing:
    /// some clients send one for each option that they have.
    pub(crate) fn rest(self, extra: &mut Vec<(String, Value)>) {
        let Self { path, map } = self;
        let named = |name: String| if path.is_empty() { name } else { format!("{path}.{name}") };
        let asks =
            |value: &Value| !value.is_null() && value.as_array().is_none_or(|l| !l.is_empty());
        let left = map.into_iter().filter(|(_, value)| asks(value));
        extra.extend(left.map(|(name, value)| (named(name), value)));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_asks_for_nothing_is_not_left_over() {
        let body = json!({"a": null, "b": [], "c": {}, "d": [1], "e": false});
        let mut extra = Vec::new();
        Members::of(body, "x").unwrap().rest(&mut extra);
        let names: Vec<_> = extra.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["x.c", "x.d", "x.e"]);
    }
}
