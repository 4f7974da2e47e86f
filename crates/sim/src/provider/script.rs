//! What the provider says: scripted, or made up from the request.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::answer::instance;
use crate::text::{Vocabulary, mix, output_tokens};

/// What a request asks, whatever its dialect.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Asked {
    pub(crate) model: String,
    /// The last text of the user's.
    pub(crate) last: String,
    /// Turns of the model so far.
    pub(crate) turns: usize,
    /// Whether the last turn brings results of tools.
    pub(crate) results: bool,
    /// These results, as JSON; empty where there are none.
    pub(crate) given: String,
    /// The tools, with their schemas.
    pub(crate) tools: Vec<(String, Value)>,
    /// Whether one must be called.
    pub(crate) must_call: Must,
    pub(crate) stream: bool,
    pub(crate) include_usage: bool,
    pub(crate) thinks: bool,
    pub(crate) max_tokens: Option<u64>,
    /// The schema of the answer, where it is to be JSON.
    pub(crate) schema: Option<Value>,
    pub(crate) prompt_bytes: usize,
}

/// Whether a tool must be called.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum Must {
    #[default]
    Free,
    Never,
    Any,
    This(String),
}

/// What is said.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Say {
    pub(crate) thinking: Option<String>,
    pub(crate) text: String,
    pub(crate) calls: Vec<Call>,
    pub(crate) cut: bool,
    pub(crate) input: u64,
    pub(crate) output: u64,
}

/// A call of a tool.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Call {
    pub(crate) name: String,
    pub(crate) arguments: Value,
}

/// A file of replies: the first that fits a request is given.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Script {
    #[serde(default)]
    replies: Vec<Scripted>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Scripted {
    #[serde(default)]
    when: When,
    #[serde(default)]
    text: String,
    #[serde(default)]
    thinking: Option<String>,
    #[serde(default)]
    calls: Vec<ScriptedCall>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ScriptedCall {
    name: String,
    #[serde(default)]
    arguments: Value,
}

/// What a request must be for a reply.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct When {
    /// The model's name holds this.
    model: Option<String>,
    /// The last text of the user's holds this.
    contains: Option<String>,
    /// So many turns of the model came before.
    turn: Option<usize>,
    /// Whether results of tools came last.
    results: Option<bool>,
    /// Results of tools came last, and hold all of these.
    given: Option<Vec<String>>,
}

impl Script {
    /// Reads a file: JSON where its name ends so, else TOML.
    pub(crate) fn load(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
        if path.extension().is_some_and(|ending| ending == "json") {
            return serde_json::from_str(&text).map_err(|error| error.to_string());
        }
        toml::from_str(&text).map_err(|error| error.to_string())
    }

    /// The reply to a request: of the script, or else one that is made up.
    pub(crate) fn reply(&self, asked: &Asked, seed: u64, words: &Vocabulary) -> Say {
        let fits = |reply: &&Scripted| reply.when.fits(asked);
        let mut say = match self.replies.iter().find(fits) {
            Some(reply) => Say {
                thinking: reply.thinking.clone(),
                text: reply.text.clone(),
                calls: reply.calls.iter().map(ScriptedCall::call).collect(),
                ..Say::default()
            },
            None => made_up(asked, seed, words),
        };
        say.count(asked);
        say
    }
}

impl ScriptedCall {
    fn call(&self) -> Call {
        let arguments = match &self.arguments {
            Value::Null => Value::Object(serde_json::Map::new()),
            arguments => arguments.clone(),
        };
        Call { name: self.name.clone(), arguments }
    }
}

impl When {
    fn fits(&self, asked: &Asked) -> bool {
        let holds = |text: &str, part: &Option<String>| {
            part.as_ref().is_none_or(|part| text.contains(part.as_str()))
        };
        holds(&asked.model, &self.model)
            && holds(&asked.last, &self.contains)
            && self.turn.is_none_or(|turn| turn == asked.turns)
            && self.results.is_none_or(|results| results == asked.results)
            && self.given.iter().flatten().all(|part| asked.given.contains(part.as_str()))
    }
}

/// A made-up answer: a call of the tool that must be called, or that the user names; else
/// JSON after the schema that is asked for, or prose.
fn made_up(asked: &Asked, seed: u64, words: &Vocabulary) -> Say {
    let named = |(name, _): &&(String, Value)| asked.last.contains(name.as_str());
    let tool = match &asked.must_call {
        Must::Never => None,
        Must::This(name) => asked.tools.iter().find(|(known, _)| known == name),
        Must::Any => asked.tools.iter().find(named).or(asked.tools.first()),
        Must::Free if asked.results => None,
        Must::Free => asked.tools.iter().find(named),
    };
    let thinking = asked.thinks.then(|| prose(words, mix(seed ^ 7), 20));
    if let Some((name, schema)) = tool {
        let arguments = instance(schema, schema, words, seed, 0);
        let arguments = if arguments.is_object() { arguments } else { serde_json::json!({}) };
        let calls = vec![Call { name: name.clone(), arguments }];
        return Say { thinking, calls, ..Say::default() };
    }
    let text = match &asked.schema {
        Some(schema) => instance(schema, schema, words, seed, 0).to_string(),
        None => prose(words, seed, output_tokens(seed, 40).min(400)),
    };
    Say { thinking, text, ..Say::default() }
}

fn prose(words: &Vocabulary, seed: u64, tokens: u32) -> String {
    words.text(seed, 0, tokens).trim_end().to_owned()
}

impl Say {
    /// Counts tokens, at four bytes each, and cuts the text at the limit.
    fn count(&mut self, asked: &Asked) {
        let tokens = |bytes: usize| bytes.div_ceil(4) as u64;
        self.input = tokens(asked.prompt_bytes).max(1);
        let calls: usize =
            self.calls.iter().map(|call| call.name.len() + call.arguments.to_string().len()).sum();
        let thinking = self.thinking.as_ref().map_or(0, String::len);
        self.output = tokens(self.text.len() + calls + thinking).max(1);
        let Some(max) = asked.max_tokens.filter(|max| *max < self.output) else { return };
        let keep = usize::try_from(max).unwrap_or(usize::MAX).saturating_mul(4);
        let mut end = keep.min(self.text.len());
        while !self.text.is_char_boundary(end) {
            end -= 1;
        }
        self.text.truncate(end);
        if self.calls.is_empty() {
            (self.cut, self.output) = (true, max);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reply_that_fits_is_given() {
        let script: Script = toml::from_str(
            "[[replies]]\nwhen = { results = true }\ntext = \"It rains.\"\n\
             [[replies]]\nwhen = { contains = \"weather\", turn = 0 }\n\
             calls = [{ name = \"look\", arguments = { city = \"Oslo\" } }]\n",
        )
        .unwrap();
        let words = Vocabulary::new(4);
        let asked = |last: &str, results| Asked {
            last: last.to_owned(),
            results,
            prompt_bytes: 41,
            ..Asked::default()
        };
        let say = script.reply(&asked("the weather?", false), 1, &words);
        assert_eq!((say.calls[0].name.as_str(), say.input), ("look", 11));
        assert_eq!(script.reply(&asked("the weather?", true), 1, &words).text, "It rains.");
        let other = script.reply(&asked("hello", false), 1, &words);
        assert!(!other.text.is_empty() && other.calls.is_empty(), "prose where nothing fits");
        let short = Asked { max_tokens: Some(2), ..asked("x", true) };
        let say = script.reply(&short, 1, &words);
        assert_eq!((say.text.as_str(), say.cut, say.output), ("It rains", true, 2));
        assert!(toml::from_str::<Script>("[[replies]]\nwhen = { turns = 1 }").is_err());
        let given: Script =
            toml::from_str("[[replies]]\nwhen = { given = [\"4\", \"rain\"] }\ntext = \"Wet.\"")
                .unwrap();
        let check = |text: &str, expected: bool| {
            let asked = Asked { given: text.to_owned(), ..Asked::default() };
            assert_eq!(given.reply(&asked, 1, &words).text == "Wet.", expected, "{text}");
        };
        check("rain, 4 degrees", true);
        check("rain", false);
        check("", false);
    }

    #[test]
    fn a_tool_is_called_where_it_must_be_or_is_named() {
        let words = Vocabulary::new(4);
        let schema = serde_json::json!({
            "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"],
        });
        let check = |last: &str, must_call: Must, expected: bool| {
            let tools = vec![("look".to_owned(), schema.clone())];
            let asked = Asked { last: last.to_owned(), must_call, tools, ..Asked::default() };
            let say = Script::default().reply(&asked, 3, &words);
            assert_eq!(say.calls.len() == 1, expected, "{last}");
            assert!(say.calls.iter().all(|call| call.arguments["city"].is_string()));
        };
        check("hello", Must::Free, false);
        check("please look", Must::Free, true);
        check("please look", Must::Never, false);
        check("hello", Must::Any, true);
        check("hello", Must::This("look".to_owned()), true);
    }
}
