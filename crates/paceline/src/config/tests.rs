use super::*;

fn faults(text: &str, environment: &[(&str, &str)]) -> String {
    let text = Text { path: Some("paceline.toml".into()), text: text.to_owned() };
    let environment = Environment::of(environment);
    let found = match parse(&text, &environment) {
        Err(fault) => vec![fault],
        Ok(raw) => resolve(&raw, &environment).err().unwrap_or_default(),
    };
    found.iter().map(|fault| fault.render(&text, false)).collect::<Vec<_>>().join("\n\n")
}

#[test]
fn faults_say_what_where_and_how_to_mend() {
    let check = |text: &str, environment: &[(&str, &str)], expected: &[&str]| {
        let shown = faults(text, environment);
        for part in expected {
            assert!(shown.contains(part), "{part:?} is not in:\n{shown}");
        }
        assert_eq!(expected.is_empty(), shown.is_empty(), "{shown}");
    };
    check("", &[], &[]);
    check(
        "[server]\nlisten = \"x\"",
        &[],
        &["paceline.toml:2:10", "`listen` is no address: x", "127.0.0.1:8000"],
    );
    check("[cache]\nttl = 3", &[], &["paceline.toml:2:1", "unknown field `ttl`", "`ttl_s`"]);
    check("[cache]\nttl_s = \"3\"", &[], &["paceline.toml:2:9", "invalid type: string \"3\""]);
    check("[[deployments]]\nname = \"a\"", &[], &["`a` has no `url`", "paceline.toml:2"]);
    let of = |more: &str| format!("[[deployments]]\nname = \"a\"\nmodels = [\"x\"]\n{more}");
    check(&of("provider = \"anthropic\""), &[], &[]);
    check(&of("provider = \"claude\""), &[], &["`provider` of `a` is unknown", "anthropic"]);
    let url = of("url = \"http://x\"\n");
    check(&(url.clone() + "api_key = \"k\"\napi_keys = [\"l\"]"), &[], &["both `api_key` and"]);
    for (route, part) in [
        ("model = \"r\"\nmodels = [\"nope\"]", "which nobody serves"),
        ("model = \"r\"\nmodels = []", "names no models"),
        ("model = \"x\"\nmodels = [\"x\"]", "names itself"),
        ("model = \"r\"\nmodels = [\"x\"]\nlonger = \"y\"", "which nobody serves"),
    ] {
        check(&format!("{url}[[routes]]\n{route}"), &[], &[part, "paceline.toml:"]);
    }
    check(
        "[[deployments]]\nname = \"a\"\nurl = \"http://x\"\napi_key = \"${A_KEY}\"\n\n[[deployments]]\nname = \"b c\"\nurl = \"y\"",
        &[],
        &[
            "paceline.toml:4:11",
            "environment variable A_KEY is not set",
            "export A_KEY",
            "paceline.toml:7:8",
            "paceline.toml:8:7",
            "http:// or https://",
        ],
    );
    let two = "[[deployments]]\nname = \"a\"\nurl = \"http://x\"\n[[deployments]]\nname = \"a\"\nurl = \"http://y\"";
    check(two, &[], &["paceline.toml:5:8", "two deployments are named `a`"]);
    check("[[keys]]\ntenant = \"t\"\nkey = \"${K}\"", &[("K", "short")], &["shorter than 16"]);
    check("a = ", &[], &["paceline.toml:1"]);
    check("", &[("PACELINE__CACHE__TTL", "3")], &["PACELINE__CACHE__TTL", "unknown field `ttl`"]);
    check("", &[("PACELINE__CACHE__TTL_S", "soon")], &["PACELINE__CACHE__TTL_S", "invalid type"]);
    check("", &[("PACELINE__CACHE__TTL_S", "3"), ("PACELINE__SERVER__LISTEN", "127.0.0.1:1")], &[]);
}

#[test]
fn the_environment_overrides_the_file() {
    let text = Text { path: None, text: "[cache]\nttl_s = 3\nentry_bytes_max = 7".to_owned() };
    let raw = parse(&text, &Environment::of(&[("PACELINE__CACHE__TTL_S", "60")])).unwrap();
    assert_eq!((raw.cache.ttl_s, raw.cache.entry_bytes_max), (60, 7));
}

#[test]
fn secrets_stay_out_of_faults() {
    let shown = faults("[[keys]]\ntenant = \"t\"\nkey = \"${K}\"", &[("K", "hunter2")]);
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[test]
fn proxies_come_from_the_environment_or_the_file() {
    let check = |url: &str, more: &str, environment: &[(&str, &str)], expected: Option<&str>| {
        let text = format!("[[deployments]]\nname = \"a\"\nurl = \"{url}\"\n{more}");
        let text = Text { path: None, text };
        let environment = Environment::of(environment);
        let raw = parse(&text, &environment).unwrap_or_else(|_| panic!("it parses"));
        let resolved = resolve(&raw, &environment).unwrap_or_else(|_| panic!("it resolves"));
        let Source::Http(config, _) = &resolved.deployments[0].source else { panic!("a server") };
        let found = config.proxy.as_ref().map(|proxy| format!("{proxy:?}"));
        assert_eq!(found.as_deref(), expected, "{url} {more}");
    };
    let both = [("HTTPS_PROXY", "http://s:1"), ("http_proxy", "p:2"), ("NO_PROXY", ".inside")];
    check("https://x.example", "", &both, Some("http://s:1"));
    check("http://x.example", "", &both, Some("http://p:2"));
    check("https://x.inside", "", &both, None);
    check("http://127.0.0.1:9", "", &both, None);
    check("https://x.example", "", &[("ALL_PROXY", "http://a:3")], Some("http://a:3"));
    check("https://x.example", "proxy = \"none\"", &both, None);
    check("https://x.inside", "proxy = \"http://o:4\"", &both, Some("http://o:4"));
    check("https://x.example", "", &[], None);
    let wrong = faults(
        "[[deployments]]\nname = \"a\"\nurl = \"https://x\"\nproxy = \"socks5://u:geheim@p\"",
        &[],
    );
    assert!(wrong.contains("paceline.toml:4:9") && wrong.contains("http://"), "{wrong}");
}
