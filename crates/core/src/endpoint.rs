//! What is asked of a model, and in whose words.

/// Whose wire format a request, an answer or an error has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// OpenAI's API and that of everybody who copies it.
    #[default]
    OpenAi,
    /// Anthropic's.
    Anthropic,
    /// Google's Gemini API.
    Gemini,
    /// Amazon Bedrock's Converse; spoken to upstreams only.
    Bedrock,
}

/// An operation of a dialect: what the body of a request and of its answer mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// `POST /v1/chat/completions`.
    #[default]
    Chat,
    /// `POST /v1/completions`, OpenAI's older form.
    Completions,
    /// `POST /v1/responses`.
    Responses,
    /// `POST /v1/embeddings`.
    Embeddings,
    /// `POST /v1/messages`.
    Messages,
    /// `POST /v1/messages/count_tokens`.
    CountTokens,
    /// `POST /v1beta/models/{model}:generateContent` and `:streamGenerateContent`.
    Generate,
    /// `POST /model/{model}/converse` and `/converse-stream`.
    Converse,
    /// A request that is no call of a model, such as a list: its path goes out as it is.
    Other,
}

impl Endpoint {
    /// All that are calls of a model from a client.
    pub const CALLS: [Self; 7] = [
        Self::Chat,
        Self::Completions,
        Self::Responses,
        Self::Embeddings,
        Self::Messages,
        Self::CountTokens,
        Self::Generate,
    ];

    /// Whose words.
    pub const fn dialect(self) -> Dialect {
        match self {
            Self::Messages | Self::CountTokens => Dialect::Anthropic,
            Self::Generate => Dialect::Gemini,
            Self::Converse => Dialect::Bedrock,
            _ => Dialect::OpenAi,
        }
    }

    /// Whether it continues a conversation, so that it can be told in another dialect.
    pub const fn is_conversation(self) -> bool {
        !matches!(self, Self::Embeddings | Self::CountTokens | Self::Other)
    }
}
