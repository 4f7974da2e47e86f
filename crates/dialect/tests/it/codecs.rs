//! The codecs on the corpus of their fuzz targets, and on copies that are changed where it
//! hurts: in the values of their JSON, and in the order of their events.

use std::path::Path;

use paceline_core::Endpoint;
use paceline_dialect::codec::{self, Codec, Quirks, Target};
use paceline_dialect::{Anthropic, Chat, Converse, Gemini, Responses};
use serde_json::{Value, json};

use crate::properties::{Random, codecs};
use crate::{corpus, mutated};

/// Changed copies for each codec.
const MUTATIONS: usize = 600;

/// Most of the values that take the places of others.
const VALUES_MAX: usize = 4_000;

#[test]
fn codecs_take_whatever_comes() {
    for (name, endpoint) in codecs::ALL {
        let corpus = corpus(&format!("codec_{name}"), 5);
        let values = values(&corpus);
        let check = |round: Option<usize>, bytes: &[u8]| {
            let result = std::panic::catch_unwind(|| codecs::codec(endpoint, bytes));
            let text = String::from_utf8_lossy(bytes);
            assert!(result.is_ok(), "round {round:?} of {name}: {text}");
        };
        corpus.iter().for_each(|bytes| check(None, bytes));
        let mut random = Random::new(11);
        for round in 0..MUTATIONS {
            check(Some(round), &changed(&mut random, &corpus, &values));
        }
    }
}

/// What real clients sent on the turn after two tool calls is read whole, and told in every
/// dialect to the strictest of its servers.
#[test]
fn recorded_clients_are_told_in_every_dialect() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/clients.json");
    let clients: Vec<Value> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!(clients.len(), 20);
    for client in clients {
        let (name, path) = (&client["client"], client["path"].as_str().unwrap());
        let endpoint = match path {
            "/v1/chat/completions" => Endpoint::Chat,
            "/v1/responses" => Endpoint::Responses,
            "/v1/messages" => Endpoint::Messages,
            _ => Endpoint::Generate,
        };
        let facts = crate::golden::facts_of(path);
        let read = codec::of(endpoint).unwrap().read_request(client["body"].clone(), &facts);
        let read = read.unwrap_or_else(|fault| panic!("{name}: {fault}"));
        assert_eq!(read.extra, [], "{name}");
        let mistral = Quirks { short_call_ids: true, max_tokens_only: true, ..Quirks::default() };
        for (codec, quirks) in [
            (&Chat as &dyn Codec, Quirks::default()),
            (&Chat, mistral),
            (&Responses, Quirks::default()),
            (&Anthropic, Quirks::default()),
            (&Gemini, Quirks::default()),
            (&Converse, Quirks::default()),
        ] {
            let target = Target { model: "m".to_owned(), quirks };
            let written = codec.write_request(&read, &target);
            let written = written.unwrap_or_else(|refused| panic!("{name}: {refused:?}"));
            assert!(written.body.to_string().contains("get_tide"), "{name}");
        }
    }
}

/// Values to put in the places of others: those of the corpus, and what is at the edges.
fn values(corpus: &[Vec<u8>]) -> Vec<Value> {
    let mut values = vec![
        json!(null),
        json!(true),
        json!(false),
        json!(0),
        json!(-1),
        json!(1.5),
        json!(1e300),
        json!(u64::MAX),
        json!(""),
        json!(" "),
        json!("\u{0}\n\"\\"),
        json!("ü🦀"),
        json!("{\"a\":1}"),
        json!("data:image/png;base64,AAAA"),
        json!([]),
        json!({}),
        json!([null]),
        json!({"": {}}),
    ];
    for bytes in corpus {
        let lines = bytes.split(|byte| *byte == b'\n');
        let lines = lines.map(|line| line.strip_prefix(b"data: ").unwrap_or(line));
        for value in lines.filter_map(|line| serde_json::from_slice::<Value>(line).ok()) {
            collect(&value, &mut values);
        }
    }
    values
}

fn collect(value: &Value, into: &mut Vec<Value>) {
    if into.len() < VALUES_MAX {
        into.push(value.clone());
    }
    match value {
        Value::Array(items) => items.iter().for_each(|item| collect(item, into)),
        Value::Object(map) => map.values().for_each(|item| collect(item, into)),
        _ => {}
    }
}

/// A copy of one of the corpus with a few changes.
fn changed(random: &mut Random, corpus: &[Vec<u8>], values: &[Value]) -> Vec<u8> {
    if random.below(8) == 0 {
        return mutated(random, corpus);
    }
    let base = &corpus[random.below(corpus.len())];
    if let Ok(mut body) = serde_json::from_slice::<Value>(base) {
        for _ in 0..1 + random.below(3) {
            change(&mut body, random, values);
        }
        return body.to_string().into_bytes();
    }
    let text = String::from_utf8_lossy(base);
    let mut events: Vec<String> = text.split_inclusive("\n\n").map(str::to_owned).collect();
    for _ in 0..1 + random.below(3) {
        let (at, other) = (random.below(events.len()), random.below(events.len()));
        match random.below(6) {
            0 => events.swap(at, other),
            1 => drop(events.remove(at)),
            2 => events.insert(other, events[at].clone()),
            _ => events[at] = change_event(&events[at], random, values),
        }
        if events.is_empty() {
            break;
        }
    }
    events.concat().into_bytes()
}

fn change_event(event: &str, random: &mut Random, values: &[Value]) -> String {
    let Some((head, rest)) = event.split_once("data: ") else { return event.to_owned() };
    let Ok(mut data) = serde_json::from_str::<Value>(rest.trim()) else { return event.to_owned() };
    change(&mut data, random, values);
    format!("{head}data: {data}\n\n")
}

/// Changes a value somewhere.
fn change(value: &mut Value, random: &mut Random, values: &[Value]) {
    let inner = random.below(8) != 0;
    match value {
        Value::Array(items) if inner && !items.is_empty() => {
            let at = random.below(items.len());
            match random.below(12) {
                0 => drop(items.remove(at)),
                1 => items.insert(at, items[at].clone()),
                2 => items.insert(at, values[random.below(values.len())].clone()),
                _ => change(&mut items[at], random, values),
            }
        }
        Value::Object(map) if inner && !map.is_empty() => {
            let name = map.keys().nth(random.below(map.len())).cloned().unwrap_or_default();
            let other = values[random.below(values.len())].clone();
            match (random.below(12), other) {
                (0, _) => drop(map.shift_remove(&name)),
                // A member by the name of one elsewhere.
                (1, Value::Object(other)) if !other.is_empty() => {
                    let at = random.below(other.len());
                    map.extend(other.into_iter().skip(at).take(1));
                }
                _ => {
                    if let Some(value) = map.get_mut(&name) {
                        change(value, random, values);
                    }
                }
            }
        }
        value => *value = values[random.below(values.len())].clone(),
    }
}
