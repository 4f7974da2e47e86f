//! What each provider and engine speaks, and how it differs from the others. A provider is a
//! row of a table: the exchange itself is the same for all.

use ::http::HeaderName;
use ::http::header::AUTHORIZATION;
use paceline_core::Endpoint;
use paceline_dialect::codec::Quirks;

use crate::limits::Family;

/// A kind of upstream.
#[derive(Debug, PartialEq)]
pub struct Provider {
    /// Its name in the configuration.
    pub name: &'static str,
    /// Its base URL, where it has one for everybody.
    pub url: Option<&'static str>,
    /// What goes before `/v1` in its paths, beyond its URL.
    pub prefix: &'static str,
    /// The operations that it answers itself, so that a caller's bytes are forwarded.
    pub native: &'static [Endpoint],
    /// The operation into which other conversations are translated.
    pub conversation: Endpoint,
    /// How it wants its key.
    pub auth: Auth,
    /// Where it departs from its dialect's first vendor.
    pub quirks: Quirks,
    /// Whether it is an engine of the operator's own, with a prefix cache that runs should
    /// find again.
    pub engine: bool,
    /// How it goes on with an answer that it is given the beginning of.
    pub prefill: Prefill,
    /// How its rate-limit headers are meant.
    pub limits: Family,
    /// Connections that are kept open when they are idle, at least and at most, in all.
    pub idle: (usize, usize),
}

/// How a key is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Auth {
    /// `Authorization: Bearer KEY`.
    Bearer,
    /// A header of its own that holds just the key.
    Header(&'static str),
    /// A signature over each request (AWS Signature Version 4).
    SigV4,
}

/// How a provider goes on with an answer whose beginning comes as the last message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefill {
    /// It would answer anew.
    None,
    /// Always: Anthropic (but for its newest models and with thinking, which refuse that),
    /// OpenRouter, llama.cpp, Ollama.
    Plain,
    /// Where that message says `"prefix": true`: Mistral.
    Prefix,
    /// Where the request says `"continue_final_message": true` and
    /// `"add_generation_prompt": false`: vLLM, SGLang.
    Flags,
}

impl Auth {
    /// The header that shows the key.
    pub fn header(self) -> HeaderName {
        match self {
            Self::Bearer | Self::SigV4 => AUTHORIZATION,
            Self::Header(name) => HeaderName::from_static(name),
        }
    }
}

/// Headers in which clients of any dialect show a key.
pub const CREDENTIALS: [HeaderName; 4] = [
    AUTHORIZATION,
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("x-goog-api-key"),
    HeaderName::from_static("api-key"),
];

const OPENAI: &[Endpoint] =
    &[Endpoint::Chat, Endpoint::Completions, Endpoint::Responses, Endpoint::Embeddings];
const COMPATIBLE: &[Endpoint] = &[Endpoint::Chat, Endpoint::Completions, Endpoint::Embeddings];

const NONE: Quirks = Quirks {
    max_tokens_only: false,
    no_stream_options: false,
    reasoning_content: false,
    reasoning_details: false,
    top_k: false,
    short_call_ids: false,
    no_developer_role: false,
    max_tokens_default: 0,
};

/// Connections kept to a provider with a service of its own.
const HOSTED: (usize, usize) = (10, 100);

/// An OpenAI-compatible server that nothing more is known of.
const OTHER: Provider = Provider {
    name: "openai-compatible",
    url: None,
    prefix: "",
    native: COMPATIBLE,
    conversation: Endpoint::Chat,
    auth: Auth::Bearer,
    quirks: Quirks { max_tokens_only: true, no_developer_role: true, ..NONE },
    engine: false,
    prefill: Prefill::None,
    limits: Family::Minute,
    idle: (0, 512),
};

/// A server of open models.
const OPEN: Provider = Provider { quirks: Quirks { top_k: true, ..OTHER.quirks }, ..OTHER };

const ENGINE: Provider = Provider { engine: true, prefill: Prefill::Flags, ..OPEN };

/// All providers. Sources of the differences: each vendor's API reference and SDK of
/// November 2026; the bounds of kept connections are the product's defaults.
pub static PROVIDERS: &[Provider] = &[
    OTHER,
    Provider {
        name: "openai",
        url: Some("https://api.openai.com"),
        native: OPENAI,
        quirks: NONE,
        idle: (50, 100),
        ..OTHER
    },
    Provider {
        name: "azure",
        prefix: "/openai",
        native: OPENAI,
        auth: Auth::Header("api-key"),
        quirks: NONE,
        idle: HOSTED,
        ..OTHER
    },
    Provider {
        name: "anthropic",
        url: Some("https://api.anthropic.com"),
        native: &[Endpoint::Messages, Endpoint::CountTokens],
        conversation: Endpoint::Messages,
        auth: Auth::Header("x-api-key"),
        quirks: NONE,
        prefill: Prefill::Plain,
        idle: (25, 50),
        ..OTHER
    },
    Provider {
        name: "gemini",
        url: Some("https://generativelanguage.googleapis.com"),
        native: &[Endpoint::Generate],
        conversation: Endpoint::Generate,
        auth: Auth::Header("x-goog-api-key"),
        quirks: NONE,
        idle: HOSTED,
        ..OTHER
    },
    Provider {
        name: "bedrock",
        native: &[],
        conversation: Endpoint::Converse,
        auth: Auth::SigV4,
        quirks: NONE,
        idle: HOSTED,
        ..OTHER
    },
    Provider {
        name: "mistral",
        url: Some("https://api.mistral.ai"),
        quirks: Quirks { no_stream_options: true, short_call_ids: true, ..OTHER.quirks },
        prefill: Prefill::Prefix,
        idle: HOSTED,
        ..OTHER
    },
    Provider {
        name: "groq",
        url: Some("https://api.groq.com/openai"),
        limits: Family::RequestsPerDay,
        idle: HOSTED,
        ..OTHER
    },
    Provider {
        name: "deepseek",
        url: Some("https://api.deepseek.com"),
        quirks: Quirks { reasoning_content: true, ..OTHER.quirks },
        idle: HOSTED,
        ..OTHER
    },
    Provider { name: "together", url: Some("https://api.together.xyz"), idle: HOSTED, ..OPEN },
    Provider {
        name: "fireworks",
        url: Some("https://api.fireworks.ai/inference"),
        idle: HOSTED,
        ..OPEN
    },
    Provider {
        name: "openrouter",
        url: Some("https://openrouter.ai/api"),
        quirks: Quirks { reasoning_details: true, ..OPEN.quirks },
        prefill: Prefill::Plain,
        idle: HOSTED,
        ..OPEN
    },
    Provider {
        name: "vllm",
        native: OPENAI,
        quirks: Quirks { max_tokens_only: false, ..ENGINE.quirks },
        ..ENGINE
    },
    // The engine of `paceline sim`, and the embedded one.
    Provider { name: "paceline-sim", native: &[Endpoint::Chat], prefill: Prefill::None, ..ENGINE },
    Provider { name: "sglang", ..ENGINE },
    Provider { name: "llama.cpp", prefill: Prefill::Plain, ..ENGINE },
    Provider {
        name: "ollama",
        url: Some("http://127.0.0.1:11434"),
        quirks: Quirks { no_stream_options: true, ..ENGINE.quirks },
        prefill: Prefill::Plain,
        ..ENGINE
    },
];

impl Provider {
    /// The provider of that name.
    pub fn find(name: &str) -> Option<&'static Self> {
        PROVIDERS.iter().find(|provider| provider.name == name)
    }

    /// The same provider where it is asked by the date of its API; `None` where it has none.
    pub fn dated(&self) -> Option<&'static Self> {
        (self.name == AZURE_DATED.name).then_some(&AZURE_DATED)
    }

    /// The simulated engine.
    pub fn simulated() -> &'static Self {
        Self::find("paceline-sim").unwrap_or(Self::compatible())
    }

    /// The provider of a server that nothing is known of but that it copies OpenAI.
    pub fn compatible() -> &'static Self {
        &PROVIDERS[0]
    }

    /// Whether it answers an operation itself.
    pub fn speaks(&self, endpoint: Endpoint) -> bool {
        endpoint == Endpoint::Other || self.native.contains(&endpoint)
    }
}

/// Azure's API by date, whose paths name the deployment: it has no Responses.
static AZURE_DATED: Provider = Provider {
    name: "azure",
    prefix: "/openai",
    native: COMPATIBLE,
    auth: Auth::Header("api-key"),
    quirks: NONE,
    idle: HOSTED,
    ..OTHER
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Url;

    #[test]
    fn the_table_is_sound() {
        for (at, provider) in PROVIDERS.iter().enumerate() {
            let name = provider.name;
            assert!(PROVIDERS[..at].iter().all(|other| other.name != name), "{name} twice");
            assert!(provider.conversation.is_conversation(), "{name}");
            assert!(provider.idle.0 <= provider.idle.1, "{name}");
            assert!(provider.url.is_none_or(|url| url.parse::<Url>().is_ok()), "{name}");
            assert_eq!(Provider::find(name), Some(provider));
            let _ = provider.auth.header();
        }
        assert_eq!(Provider::find("nobody"), None);
        assert_eq!(Provider::compatible().name, "openai-compatible");
        assert_eq!(Provider::simulated().name, "paceline-sim");
    }
}
