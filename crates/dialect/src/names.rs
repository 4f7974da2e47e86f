//! Names of tools as an upstream takes them.
//!
//! Agents build names from those of servers and files (`mcp__…`, `files.read`), which are
//! longer, or hold other letters, than some vendors take. Such a name is shortened by a rule
//! that gives the same in each call, so that prompt caches keep hitting, and what the model
//! calls by the short name is told to the caller by its own.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::neutral::{Event, Part, Request, Response, ToolChoice};

/// The names that a dialect's strictest server takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameRule {
    /// Most letters.
    pub max: usize,
    /// The letters that are taken beside those of ASCII and digits.
    pub beside: &'static [u8],
    /// Whether it must begin with a letter or `_`.
    pub letter_first: bool,
}

impl NameRule {
    /// What OpenAI, Anthropic and Bedrock take: 64 letters, digits, `_` and `-` (their API
    /// references).
    pub const STRICT: Self = Self { max: 64, beside: b"_-", letter_first: false };
    /// What Gemini takes (API reference, `FunctionDeclaration.name`).
    pub const GEMINI: Self = Self { max: 64, beside: b"_.:-", letter_first: true };

    /// Whether a name is taken as it is.
    pub fn takes(&self, name: &str) -> bool {
        let first = name.bytes().next();
        let begins = first.is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
        name.len() <= self.max
            && name.bytes().all(|byte| self.is_letter(byte))
            && (begins || (!self.letter_first && first.is_some()))
    }

    fn is_letter(&self, byte: u8) -> bool {
        byte.is_ascii_alphanumeric() || self.beside.contains(&byte)
    }

    /// A name that is taken, and that follows from `name` and `seed` alone.
    fn short(&self, name: &str, seed: u64) -> String {
        const HASH: usize = 8;
        let letter = |c: char| {
            if u8::try_from(c).is_ok_and(|byte| self.is_letter(byte)) { c } else { '_' }
        };
        let mut short = String::with_capacity(self.max);
        if self.letter_first && !name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
            short.push('_');
        }
        short.extend(name.chars().map(letter).take(self.max - HASH - 2));
        short.push('_');
        short.push_str(&digits(xxh3_64_with_seed(name.as_bytes(), seed), HASH));
        short
    }
}

/// Names that an upstream was told in place of the caller's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// What the upstream was told, and what it stands for.
    pairs: Vec<(String, String)>,
}

impl Names {
    /// The request with names that an upstream takes, and what they stand for; `None` where
    /// it takes all of them as they are.
    pub fn fit(request: &Request, rule: NameRule) -> Option<(Request, Self)> {
        let used = used(request);
        if used.iter().all(|name| rule.takes(name)) {
            return None;
        }
        let mut names = Self::default();
        for name in used.iter().filter(|name| !rule.takes(name)) {
            if names.pairs.iter().any(|(_, own)| own == name) {
                continue;
            }
            let taken = |short: &String| {
                used.contains(&short.as_str()) || names.pairs.iter().any(|(told, _)| told == short)
            };
            // Names of a request are finite, so one of the seeds gives a free one.
            let short = (0..).map(|seed| rule.short(name, seed)).find(|short| !taken(short))?;
            names.pairs.push((short, (*name).to_owned()));
        }
        let mut request = request.clone();
        each(&mut request, |name| {
            if let Some((told, _)) = names.pairs.iter().find(|(_, own)| own == name) {
                name.clone_from(told);
            }
        });
        Some((request, names))
    }

    /// Gives the calls of an answer their tools' own names.
    pub fn restore(&self, response: &mut Response) {
        response.parts.iter_mut().for_each(|part| self.restore_part(part));
    }

    /// Gives the call that an event begins, where it begins one, its tool's own name.
    pub fn restore_event(&self, event: &mut Event) {
        if let Event::PartStart { part, .. } = event {
            self.restore_part(part);
        }
    }

    fn restore_part(&self, part: &mut Part) {
        if let Part::ToolCall { name, .. } = part
            && let Some((_, own)) = self.pairs.iter().find(|(told, _)| told == name)
        {
            name.clone_from(own);
        }
    }
}

/// All names in a request; those of results that are not known are left out.
fn used(request: &Request) -> Vec<&str> {
    let mut names: Vec<&str> = request.tools.iter().map(|tool| &*tool.name).collect();
    match &request.tool_choice {
        Some(ToolChoice::Named(name)) => names.push(name),
        Some(ToolChoice::Among { names: among, .. }) => {
            names.extend(among.iter().map(String::as_str));
        }
        _ => {}
    }
    for part in request.messages.iter().flat_map(|message| &message.parts) {
        if let Part::ToolCall { name, .. } | Part::ToolResult { name, .. } = part {
            names.push(name);
        }
    }
    names.retain(|name| !name.is_empty());
    names.sort_unstable();
    names.dedup();
    names
}

fn each(request: &mut Request, mut change: impl FnMut(&mut String)) {
    request.tools.iter_mut().for_each(|tool| change(&mut tool.name));
    match &mut request.tool_choice {
        Some(ToolChoice::Named(name)) => change(name),
        Some(ToolChoice::Among { names, .. }) => names.iter_mut().for_each(&mut change),
        _ => {}
    }
    for part in request.messages.iter_mut().flat_map(|message| &mut message.parts) {
        if let Part::ToolCall { name, .. } | Part::ToolResult { name, .. } = part {
            change(name);
        }
    }
}

/// So many digits and small letters that follow from a hash.
pub(crate) fn digits(mut hash: u64, count: usize) -> String {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let digit = |_| {
        let digit = DIGITS[(hash % 36) as usize];
        hash /= 36;
        char::from(digit)
    };
    (0..count).map(digit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::neutral::{Message, Role, Tool};

    fn tool(name: &str) -> Tool {
        Tool { name: name.to_owned(), description: None, schema: None, strict: None, cache: None }
    }

    fn call(name: &str) -> Part {
        Part::ToolCall {
            id: "x".to_owned(),
            name: name.to_owned(),
            arguments: String::new(),
            seal: None,
            cache: None,
        }
    }

    #[test]
    fn names_that_are_refused_are_told_by_others_and_come_back() {
        let long = format!("mcp__{}", "a".repeat(90));
        let alike = format!("mcp__{}b", "a".repeat(90));
        let own = ["read", "files.read", "files/read", "grüße", "7up", &long, &alike];
        let request = Request {
            tools: own.iter().map(|name| tool(name)).collect(),
            tool_choice: Some(ToolChoice::Named(long.clone())),
            messages: vec![Message { role: Role::Assistant, parts: vec![call(&long)], name: None }],
            ..Request::default()
        };
        for rule in [NameRule::STRICT, NameRule::GEMINI] {
            let (told, names) = Names::fit(&request, rule).unwrap();
            let mut short: Vec<_> = told.tools.iter().map(|tool| tool.name.clone()).collect();
            assert!(short.iter().all(|name| rule.takes(name)), "{short:?}");
            assert_eq!(short[0], "read");
            let choice = ToolChoice::Named(short[5].clone());
            assert_eq!(told.tool_choice, Some(choice));
            assert_eq!(told.messages[0].parts, [call(&short[5])]);
            // The same in every call, or prompt caches would miss.
            assert_eq!(Names::fit(&request, rule).unwrap().0, told);
            let parts = short.iter().map(|name| call(name)).collect();
            let mut answer = Response { parts, ..Response::default() };
            names.restore(&mut answer);
            assert_eq!(answer.parts, own.map(call));
            let mut event = Event::PartStart { index: 0, part: call(&short[6]) };
            names.restore_event(&mut event);
            assert_eq!(event, Event::PartStart { index: 0, part: call(&alike) });
            short.sort_unstable();
            short.dedup();
            assert_eq!(short.len(), own.len());
        }
    }

    #[test]
    fn names_that_are_taken_stay() {
        let mut request = Request { tools: vec![tool("read"), tool("7-up")], ..Request::default() };
        assert_eq!(Names::fit(&request, NameRule::STRICT), None);
        assert!(Names::fit(&request, NameRule::GEMINI).is_some());
        request.tools[1].name = "ns:read.it".to_owned();
        assert_eq!(Names::fit(&request, NameRule::GEMINI), None);
    }

    #[test]
    fn a_short_name_never_hides_another_tool() {
        let squatter = NameRule::STRICT.short("a.b", 0);
        let tools = vec![tool("a.b"), tool(&squatter)];
        let request = Request { tools, ..Request::default() };
        let (told, names) = Names::fit(&request, NameRule::STRICT).unwrap();
        assert_eq!(told.tools[1].name, squatter);
        assert_ne!(told.tools[0].name, squatter);
        let mut answer = Response { parts: vec![call(&squatter)], ..Response::default() };
        names.restore(&mut answer);
        assert_eq!(answer.parts, [call(&squatter)]);
    }
}
