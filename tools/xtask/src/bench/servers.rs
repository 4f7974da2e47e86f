//! The upstream that both gateways call, nginx as a gateway, and Paceline as one.

use std::path::Path;

use anyhow::{Context, Result, bail};
use testkit::tls::Certificates;
use testkit::{Litellm, Model, Nginx, Paceline, Running, http, tools};

use super::{CLIENT_CORE, GATEWAY_CORE};
use crate::install::NGINX_ECHO;

/// The length of a whole reply, in bytes.
pub(super) const REPLY_BYTES: usize = 1024;

/// Events of a streamed reply, `[DONE]` included; all are there at once.
pub(super) const EVENTS: usize = 52;

/// Idle connections to an upstream that a gateway keeps.
const KEEP_ALIVE: usize = 128;

/// Kept replies of the measured gateway, in bytes: every miss is kept, and evicts another.
const CACHE_BYTES: &str = "16777216";

/// The model of whole replies, and that of streamed ones: a gateway may have to know them.
pub(super) const MODEL: &str = "bench";
pub(super) const MODEL_STREAMED: &str = "bench-events";

/// The caller of every call; a reply is kept for it alone.
pub(super) const KEY: &str = "sk-bench";

/// LiteLLM's name in every table.
pub(super) const LITELLM: &str = "litellm";

/// The query by which a client asks for a streamed reply.
pub(super) const STREAM_QUERY: &str = "?events";

/// What a connection lives through before nginx closes it: never in a benchmark.
const ENDLESS: &str = "keepalive_requests 1000000000; keepalive_timeout 1h;";

/// One nginx that answers like a model, over plain TCP and over TLS.
#[derive(Debug)]
pub(super) struct Mock {
    nginx: Nginx,
    pub(super) certificates: Certificates,
}

impl Mock {
    pub(super) fn start() -> Result<Self> {
        let certificates = Certificates::new();
        let module =
            tools::find_nginx_module(NGINX_ECHO).context("nginx's echo module is missing")?;
        let answer = format!(
            "location / {{ if ($args) {{ rewrite ^ /events last; }}
               if ($http_accept = text/event-stream) {{ rewrite ^ /events last; }}
               default_type application/json; return 200 '{whole}'; }}
             location = /events {{ internal; default_type text/event-stream;
               postpone_output 65536; {events} }}",
            whole = whole_reply(),
            events = events(),
        );
        let http = format!(
            "{ENDLESS} client_body_buffer_size 128k;
             server {{ listen 127.0.0.1:{{port}} backlog=4096; {answer} }}
             server {{ listen 127.0.0.1:{{port2}} ssl backlog=4096; {answer}
               ssl_certificate {certificate}; ssl_certificate_key {key};
               ssl_session_cache shared:tls:4m; }}
             server {{ listen 127.0.0.1:{{port3}}; location / {{ stub_status; }} }}
             server {{ listen 127.0.0.1:{{port4}} backlog=4096; {answer}
               rewrite ^ /events last; }}",
            certificate = certificates.certificate().display(),
            key = certificates.key().display(),
        );
        let nginx = Nginx::new(&http)
            .main(&format!("load_module {}; {}", module.display(), affinity(CLIENT_CORE)))
            .ports(4)
            .start();
        Ok(Self { nginx, certificates })
    }

    pub(super) fn url(&self) -> String {
        self.nginx.url()
    }

    pub(super) fn pids(&self) -> Vec<u32> {
        self.nginx.pids()
    }

    /// Where every reply is streamed, for a gateway that passes no query on.
    fn streamed_url(&self) -> String {
        self.nginx.url_of(3)
    }

    fn port(&self) -> u16 {
        self.nginx.ports()[0]
    }

    fn tls_port(&self) -> u16 {
        self.nginx.ports()[1]
    }

    /// How many requests it has answered, those of this method left out.
    pub(super) fn requests(&self, asked: &mut u64) -> Result<u64> {
        *asked += 1;
        let text = http::get(&self.nginx.url_of(2)).text();
        // The third line: accepted connections, handled ones, requests.
        let line = text.lines().nth(2).context("stub_status looks different")?;
        let all: u64 = line.split_whitespace().nth(2).context("no requests")?.parse()?;
        Ok(all - *asked)
    }
}

/// A gateway under test.
#[derive(Debug)]
pub(super) struct Gateway {
    pub(super) name: String,
    /// Before the plain upstream.
    pub(super) plain: String,
    /// Before the upstream with TLS.
    pub(super) tls: String,
    /// Where an answer comes from the gateway's own memory.
    pub(super) hit: String,
    /// Whether a hit is what the cache kept of an earlier call, which nginx's is not.
    pub(super) caches: bool,
    servers: Servers,
}

#[derive(Debug)]
enum Servers {
    Nginx(Nginx),
    Litellm(Litellm),
    Paceline { plain: Running, tls: Running },
}

impl Gateway {
    /// nginx as a plain reverse proxy.
    pub(super) fn nginx(name: &str, mock: &Mock) -> Self {
        let proxy = "proxy_http_version 1.1; proxy_set_header Connection '';
                     proxy_buffering off; proxy_request_buffering off;";
        let upstream = |name: &str, port: u16| {
            format!(
                "upstream {name} {{ server 127.0.0.1:{port}; keepalive {KEEP_ALIVE}; {ENDLESS} }}"
            )
        };
        let http = format!(
            "{ENDLESS} {plain} {tls}
             server {{ listen 127.0.0.1:{{port}} backlog=4096;
               location / {{ {proxy} proxy_pass http://plain; }} }}
             server {{ listen 127.0.0.1:{{port2}} backlog=4096;
               location / {{ {proxy} proxy_pass https://tls; proxy_ssl_session_reuse on;
                 proxy_ssl_verify on; proxy_ssl_name localhost; proxy_ssl_server_name on;
                 proxy_ssl_trusted_certificate {authority}; }} }}
             server {{ listen 127.0.0.1:{{port3}} backlog=4096;
               client_body_buffer_size 128k;
               location / {{ default_type application/json; return 200 '{whole}'; }} }}",
            plain = upstream("plain", mock.port()),
            tls = upstream("tls", mock.tls_port()),
            authority = mock.certificates.authority().display(),
            whole = whole_reply(),
        );
        let nginx = Nginx::new(&http).main(&affinity(GATEWAY_CORE)).ports(3).start();
        Self {
            name: name.to_owned(),
            plain: nginx.url_of(0),
            tls: nginx.url_of(1),
            hit: nginx.url_of(2),
            caches: false,
            servers: Servers::Nginx(nginx),
        }
    }

    /// LiteLLM's proxy with one worker. It has only the plain way.
    pub(super) fn litellm(mock: &Mock) -> Self {
        let (whole, streamed) = (mock.url(), mock.streamed_url());
        let models =
            [Model { name: MODEL, url: &whole }, Model { name: MODEL_STREAMED, url: &streamed }];
        let litellm = Litellm::start(&models, KEY, Some(GATEWAY_CORE));
        let url = litellm.url();
        Self {
            name: LITELLM.to_owned(),
            plain: url.clone(),
            tls: url.clone(),
            hit: url,
            caches: false,
            servers: Servers::Litellm(litellm),
        }
    }

    /// Whether it is orders of magnitude slower than the others.
    pub(super) fn is_slow(&self) -> bool {
        matches!(self.servers, Servers::Litellm(_))
    }

    /// Paceline with one thread, from this build.
    pub(super) fn paceline(name: &str, program: &Path, mock: &Mock) -> Self {
        // A small cache is full after a moment. A large one would grow through the whole
        // measurement, which would then be one of the kernel's first touch of each page.
        let serve = || {
            let serve = Paceline::serve_pinned(program, GATEWAY_CORE).arg("--threads").arg("1");
            serve.env("PACELINE__CACHE__MEMORY_BYTES_MAX", CACHE_BYTES)
        };
        let plain = serve().upstream(&mock.url()).start();
        let authority = mock.certificates.authority().display().to_string();
        let tls = serve()
            .upstream(&format!("https://localhost:{}", mock.tls_port()))
            .env("SSL_CERT_FILE", &authority)
            .start();
        Self {
            name: name.to_owned(),
            plain: plain.url().to_owned(),
            tls: tls.url().to_owned(),
            hit: plain.url().to_owned(),
            caches: true,
            servers: Servers::Paceline { plain, tls },
        }
    }

    /// The processes whose cost is measured.
    pub(super) fn pids(&self) -> Vec<u32> {
        match &self.servers {
            Servers::Nginx(nginx) => nginx.pids(),
            Servers::Litellm(litellm) => vec![litellm.pid()],
            Servers::Paceline { plain, tls } => vec![plain.pid(), tls.pid()],
        }
    }

    /// The processes that serve `plain`, for the measurement of memory.
    pub(super) fn plain_pids(&self) -> Vec<u32> {
        match &self.servers {
            Servers::Nginx(nginx) => nginx.pids(),
            Servers::Litellm(litellm) => vec![litellm.pid()],
            Servers::Paceline { plain, .. } => vec![plain.pid()],
        }
    }

    /// Whether it answers as the mock does, on every path that is measured.
    pub(super) fn check(&self) -> Result<()> {
        if self.is_slow() {
            return self.check_contents();
        }
        let body = r#"{"model":"m","messages":[{"role":"user","content":"check"}]}"#;
        for (base, query, expected) in [
            (&self.plain, "", whole_reply()),
            (&self.tls, "", whole_reply()),
            (&self.hit, "", whole_reply()),
            (&self.plain, STREAM_QUERY, events_text()),
        ] {
            let url = format!("{base}/v1/chat/completions{query}");
            let response = http::post(&url, &[], body);
            if response.status != 200 || response.text() != expected {
                let text = response.text();
                bail!("{} answers {url} with {} {text}", self.name, response.status);
            }
        }
        if self.caches {
            let url = format!("{}/v1/messages{STREAM_QUERY}", self.plain);
            let body = body.replacen('{', r#"{"stream":true,"max_tokens":64,"#, 1);
            let text = http::post(&url, &[], body).text();
            // All but the first event, the one that stops, and `[DONE]` hold text.
            if text.matches("event: content_block_delta").count() != EVENTS - 3
                || !text.contains("event: message_stop")
            {
                bail!("{} tells the events in Anthropic's words as {text}", self.name);
            }
        }
        Ok(())
    }
}

impl Gateway {
    /// The same for a gateway that writes answers anew: whether the contents are all there.
    fn check_contents(&self) -> Result<()> {
        let last = format!(" token{:02}", EVENTS - 3);
        for (model, more, expected) in [
            (MODEL, "", "A reply of plain words. A reply of"),
            (MODEL_STREAMED, r#","stream":true"#, last.as_str()),
        ] {
            let message = r#""messages":[{"role":"user","content":"check"}]"#;
            let body = format!(r#"{{"model":"{model}"{more},{message}}}"#);
            let url = format!("{}/v1/chat/completions", self.plain);
            let key = format!("Bearer {KEY}");
            let response = http::post(&url, &[("Authorization", &key)], body);
            if response.status != 200 || !response.text().contains(expected) {
                let text = response.text();
                bail!("{} answers {url} with {} {text}", self.name, response.status);
            }
        }
        Ok(())
    }
}

fn affinity(core: usize) -> String {
    // A mask that is read from its right end.
    format!("worker_cpu_affinity {:b};", 1_u32 << core)
}

/// A chat completion of exactly `REPLY_BYTES`.
fn whole_reply() -> String {
    let make = |content: &str| {
        format!(
            "{{\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion\",\"created\":1764000000,\
             \"model\":\"bench\",\"choices\":[{{\"index\":0,\"message\":{{\"role\":\"assistant\",\
             \"content\":\"{content}\"}},\"logprobs\":null,\"finish_reason\":\"stop\"}}],\
             \"usage\":{{\"prompt_tokens\":256,\"completion_tokens\":128,\"total_tokens\":384}}}}"
        )
    };
    let room = REPLY_BYTES - make("").len();
    let content: String = "A reply of plain words. ".chars().cycle().take(room).collect();
    make(&content)
}

/// The data of each event, as engines write them.
fn event_data() -> Vec<String> {
    let chunk = |delta: &str, reason: &str| {
        format!(
            "{{\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion.chunk\",\
             \"created\":1764000000,\"model\":\"bench\",\"choices\":[{{\"index\":0,\
             \"delta\":{{{delta}}},\"logprobs\":null,\"finish_reason\":{reason}}}]}}"
        )
    };
    let mut data = vec![chunk("\"role\":\"assistant\",\"content\":\"\"", "null")];
    while data.len() < EVENTS - 2 {
        data.push(chunk(&format!("\"content\":\" token{:02}\"", data.len()), "null"));
    }
    data.push(chunk("", "\"stop\""));
    data.push("[DONE]".to_owned());
    data
}

/// nginx directives that write each event as a chunk of its own.
fn events() -> String {
    // echo ends its text with one line break; an event ends with two.
    event_data().iter().map(|data| format!("echo 'data: {data}\\n';\n")).collect()
}

fn events_text() -> String {
    event_data().iter().map(|data| format!("data: {data}\n\n")).collect()
}
