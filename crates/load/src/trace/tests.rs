use super::*;

const SESSION: &str = r#"{"id":"s1","block":64,"tool":100,"sys":50,"reqs":[
{"t":0.0,"a":null,"m":"x","i":200,"o":5,"h":[[1,3]],"api":2.0,"think":0.0},
{"t":4.0,"a":"sub","m":"y","i":80,"o":0,"h":[[9,1]],"api":1.0,"think":null},
{"t":7.0,"a":"sub","m":"y","i":90,"o":3,"h":[[9,1]],"api":3.0,"think":2.0},
{"t":13.0,"a":null,"m":"x","i":300,"o":6,"h":[[1,3],[20,1]],"api":null,"think":11.0},
{"t":14.5,"a":"late","m":"y","i":70,"o":2,"h":[[9,1]],"api":9.0,"think":0.0},
{"t":15.0,"a":null,"m":"x","i":400,"o":7,"h":[[1,6]],"api":1.0,"think":null}]}"#;

fn one_line(text: &str) -> String {
    text.replace('\n', "")
}

fn gz(text: &str) -> Vec<u8> {
    use std::io::Write as _;
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(text.as_bytes()).unwrap();
    out.finish().unwrap()
}

fn secs(s: f64) -> Duration {
    Duration::from_secs_f64(s)
}

#[test]
fn a_session_with_sub_agents() {
    let trace = Trace::parse("/a/b/fleet.jsonl.gz", &gz(&one_line(SESSION))).unwrap();
    assert_eq!((trace.name.as_str(), trace.kind, trace.block_tokens), ("fleet", Kind::Closed, 64));
    assert_eq!(trace.calls(), 6);
    let session = &trace.sessions[0];
    assert_eq!((session.id.as_str(), session.system_tokens), ("s1", 128));
    let agents: Vec<_> = session
        .agents
        .iter()
        .map(|a| (a.name.as_deref(), a.after, a.delay, a.calls.len()))
        .collect();
    assert_eq!(
        agents,
        [
            (None, None, secs(0.0), 3),
            (Some("sub"), Some(0), secs(2.0), 2),
            (Some("late"), Some(1), secs(1.5), 1),
        ]
    );
    let main = &session.agents[0].calls;
    // The second call of the main agent waited for `sub`, which ended at 10.
    assert_eq!((main[1].think, main[1].joins.as_slice()), (secs(3.0), [1].as_slice()));
    // `late` went on beside the third; its null think is none.
    assert_eq!((main[2].think, main[2].joins.as_slice()), (secs(0.0), [].as_slice()));
    assert_eq!(main[1].blocks, [Run { start: 1, blocks: 3 }, Run { start: 20, blocks: 1 }]);
    // An answer has at least one token.
    assert_eq!(session.agents[1].calls[0].output_tokens, 1);
}

#[test]
fn an_open_trace_and_its_tick() {
    let lines: String = [(0, 1000, "[0,1]"), (0, 600, "[0,5]"), (3000, 512, "[0]"), (3000, 1, "[4]")]
        .iter()
        .map(|(at, input, ids)| {
            format!("{{\"timestamp\": {at}, \"input_length\": {input}, \"output_length\": 3, \"hash_ids\": {ids}}}\n")
        })
        .collect();
    let trace = Trace::parse("m.jsonl", lines.as_bytes()).unwrap();
    assert_eq!(trace.kind, Kind::Open { tick: secs(3.0) });
    assert_eq!(trace.block_tokens, 512);
    let calls: Vec<_> = trace.sessions.iter().map(|s| s.agents[0].calls[0].clone()).collect();
    assert_eq!(calls[0].blocks, [Run { start: 0, blocks: 2 }]);
    assert_eq!(calls[1].blocks, [Run { start: 0, blocks: 1 }, Run { start: 5, blocks: 1 }]);
    assert_eq!(calls[3].at, secs(3.0));
    assert_eq!(trace.sessions[2].id, "call-3");
}

#[test]
fn conversations_are_found_by_their_prefixes() {
    let check = |calls: &[(u32, &str)], expected: &[&str]| {
        let line = |(input, ids): &(u32, &str)| {
            format!(
                "{{\"timestamp\":5,\"input_length\":{input},\"output_length\":3,\"hash_ids\":[{ids}]}}\n"
            )
        };
        let text: String = calls.iter().map(line).collect();
        let trace = Trace::parse("m.jsonl", text.as_bytes()).unwrap();
        let names: Vec<_> = trace.sessions.iter().map(|s| s.id.as_str()).collect();
        assert_eq!(names, expected, "{calls:?}");
    };
    // The third goes on with the first, whose last block was not whole; the fourth with that.
    check(
        &[(1300, "0,1,2"), (1536, "0,5,6"), (2048, "0,1,7,8"), (2060, "0,1,7,8,9")],
        &["call-1", "call-2", "call-1", "call-1"],
    );
    // One block in common is a system prompt, and part of a prompt is not its whole.
    check(
        &[(512, "0"), (1024, "0,1"), (2048, "0,1,2,3"), (1536, "0,1,9")],
        &["call-1", "call-2", "call-2", "call-2"],
    );
    check(&[(2048, "0,1,2,3"), (2048, "0,1,2,9")], &["call-1", "call-2"]);
}

#[test]
fn an_azure_trace() {
    let text = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n2023-11-16 18:17:03.9799600,4808,10\r\n\
                2023-11-16 18:17:04.0319600,3180,0\r\n";
    let trace = Trace::parse("a.csv", text.as_bytes()).unwrap();
    let calls: Vec<_> = trace.sessions.iter().map(|s| s.agents[0].calls[0].clone()).collect();
    assert_eq!(calls[1].at, Duration::from_millis(52));
    assert_eq!((calls[1].input_tokens, calls[1].output_tokens), (3180, 1));
    assert_ne!(calls[0].blocks[0].start, calls[1].blocks[0].start);
    // Printed by sha256sum.
    assert_eq!(trace.sha256.len(), 64);
}

#[test]
fn bad_lines_say_where_what_and_how() {
    let session = one_line(SESSION);
    let mooncake = r#"{"timestamp":0,"input_length":9,"output_length":3,"hash_ids":[0]}"#;
    for (text, line, problem, hint) in [
        ("", None, "empty", "at least one call"),
        ("\n\nhello", Some(3), "unknown", "hash_ids"),
        (&session.replace("\"i\":300", "\"i\":\"x\""), Some(1), "invalid type: string", "`i`, `o`"),
        (&session.replace("\"t\":0.0,", ""), Some(1), "missing field `t`", "`t` (s)"),
        (&session.replace("\"t\":7.0", "\"t\":-7.0"), Some(1), "`t` -7", "0 to 1e9"),
        (&session.replace("\"i\":300", "\"i\":0"), Some(1), "`i` 0", "above 0"),
        (&session.replace("\"block\":64", "\"block\":0"), Some(1), "`block` is 0", "above 0"),
        (&format!("{mooncake}\n{{\"timestamp\":1"), Some(2), "EOF", "`timestamp` (ms)"),
        (
            &format!("{mooncake}\n{}", mooncake.replace(":9,", ":0,")),
            Some(2),
            "`input_length`",
            "one",
        ),
        ("TIMESTAMP,a\n", Some(1), "unknown columns", "ContextTokens"),
        (
            "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03,5\n",
            Some(2),
            "2 columns",
            "holds",
        ),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\nnow,5,5\n", Some(2), "`now`", "YYYY"),
        (
            "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03,x,5\n",
            Some(2),
            "`ContextTokens` is `x`",
            "holds",
        ),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n", Some(2), "no call", "at least one"),
    ] {
        let error = Trace::parse("dir/t.jsonl", text.as_bytes()).unwrap_err();
        let shown = error.to_string();
        assert!(shown.starts_with("dir/t.jsonl:"), "{shown}");
        assert!(error.line == line || line.is_none(), "{shown}");
        assert!(error.problem.contains(problem), "{shown}");
        assert!(error.hint.contains(hint), "{shown}");
    }
    assert!(Trace::read(Path::new("/nowhere.jsonl")).unwrap_err().problem.contains("cannot read"));
}

#[test]
fn what_does_not_fit_is_left_out_and_counted() {
    let small = one_line(SESSION).replace("\"s1\"", "\"s2\"").replace(":400", ":200");
    let text = format!("{}\n{small}\n", one_line(SESSION));
    let check = |fit: Fit, expected: LeftOut, calls: &[usize]| {
        let mut trace = Trace::parse("t.jsonl", text.as_bytes()).unwrap();
        assert_eq!(trace.fit(&fit), expected, "{fit:?}");
        let left: Vec<_> = trace.sessions.iter().map(Session::calls).collect();
        assert_eq!(left, calls, "{fit:?}");
        for session in &trace.sessions {
            for call in &session.agents[0].calls {
                assert!(call.joins.iter().all(|agent| !session.agents[*agent].calls.is_empty()));
            }
        }
    };
    let none = Fit::default();
    let left = |sessions, calls, sessions_cut, calls_cut| LeftOut {
        sessions,
        calls,
        sessions_cut,
        calls_cut,
    };
    check(none, left(0, 0, 0, 0), &[6, 6]);
    check(Fit { replica_tokens: Some(406), ..none }, left(1, 6, 0, 0), &[6]);
    check(Fit { replica_tokens: Some(407), ..none }, left(0, 0, 0, 0), &[6, 6]);
    check(Fit { prompt_tokens_max: Some(300), ..none }, left(1, 6, 0, 0), &[6]);
    check(Fit { prompt_tokens_cut: Some(300), ..none }, left(0, 0, 1, 1), &[5, 6]);
    check(Fit { prompt_tokens_cut: Some(100), ..none }, left(2, 12, 0, 0), &[]);
    check(Fit { calls_per_session_max: Some(2), ..none }, left(0, 0, 2, 8), &[2, 2]);
    check(Fit { calls_per_session_max: Some(0), ..none }, left(2, 12, 0, 0), &[]);
}

/// The files of [`../../bench/traces`], which the demo bundles.
#[test]
fn the_bundled_slices() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bench/traces");
    for (file, kind) in [
        ("claude_code_slice.jsonl.gz", Kind::Closed),
        ("mooncake_slice.jsonl.gz", Kind::Open { tick: secs(3.0) }),
    ] {
        let path = dir.join(file);
        let trace = Trace::read(&path).unwrap();
        assert_eq!(trace.kind, kind, "{file}");
        assert!(trace.calls() >= 1000, "{file}: {}", trace.calls());
        assert!(std::fs::metadata(&path).unwrap().len() < 150_000, "{file}");
    }
}
