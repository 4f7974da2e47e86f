//! The form between the dialects: what a conversation says, in no vendor's words.
//!
//! Each dialect has one reader into this form and one writer out of it, so that a pair of
//! dialects needs no code of its own. A reader refuses what is malformed and keeps what it
//! has no word for in [`Request::extra`]; a writer says of everything that it cannot
//! express which field that was ([`Unsupported`]), so that nothing is dropped silently. What
//! it can only approximate it notes in [`Written::warnings`].
//!
//! Requests whose dialect is that of the upstream never come here: their bytes are forwarded.

use serde_json::Value;

/// A conversation to be continued.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Request {
    /// The model, as the caller names it; a writer gets the upstream's name apart from it.
    pub model: String,
    /// Instructions before the first message; only [`Part::Text`].
    pub system: Vec<Part>,
    /// The turns, oldest first. Consecutive turns of one role are allowed.
    pub messages: Vec<Message>,
    /// Where they stood in the caller's body, where that does not follow from their number.
    pub places: Places,
    /// Functions that the model may call.
    pub tools: Vec<Tool>,
    /// Which of them it must call; `None` is the dialect's default (auto where there are any).
    pub tool_choice: Option<ToolChoice>,
    /// Whether several calls may come in one turn. `None` is the dialect's default (yes).
    pub parallel_tools: Option<bool>,
    /// The form of the answer's text.
    pub format: Option<Format>,
    /// How much the model thinks, and what it shows of that.
    pub reasoning: Reasoning,
    /// Most tokens of the answer, thinking included.
    pub max_tokens: Option<u64>,
    /// Sampling temperature, on the scale of the caller's dialect (0 to 2, or 0 to 1).
    pub temperature: Option<f64>,
    /// Nucleus sampling.
    pub top_p: Option<f64>,
    /// Sampling among the k likeliest tokens.
    pub top_k: Option<u64>,
    /// Texts that end the answer.
    pub stop: Vec<String>,
    /// Seed of the sampling.
    pub seed: Option<i64>,
    /// Penalty on tokens that have come, -2 to 2.
    pub presence_penalty: Option<f64>,
    /// Penalty on tokens by how often they have come, -2 to 2.
    pub frequency_penalty: Option<f64>,
    /// An opaque name of the end user (`user`, `safety_identifier`, `metadata.user_id`).
    pub user: Option<String>,
    /// Labels that the caller put on the call, without those that Paceline reads itself.
    pub labels: Vec<(String, String)>,
    /// The key by which OpenAI routes to a machine with the prompt in its cache.
    pub cache_key: Option<String>,
    /// Whether the answer is wanted as a stream.
    pub stream: bool,
    /// Whether a stream is to end with usage, where the dialect leaves that to the caller.
    pub include_usage: bool,
    /// When the call came in, in seconds since 1970, for answers whose dialect tells no time;
    /// 0 where nobody says. Readers leave it alone: there is no clock in this crate.
    pub asked_s: u64,
    /// What the caller sent beyond this form: its path in the caller's dialect, and its value.
    /// Readers leave out members that change nothing (null, or the dialect's default). A
    /// writer of another dialect refuses any that is left.
    pub extra: Vec<(String, Value)>,
}

/// The paths of turns in the body that they were read from, such as `messages[3]`; empty where
/// they follow from the turns' numbers. They are no part of what a request says, so that all
/// are equal.
#[derive(Clone, Debug, Default)]
pub struct Places(pub Vec<String>);

impl PartialEq for Places {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Request {
    /// When an answer was made, in seconds since 1970: as it says, or else when the call came.
    pub const fn answered_s(&self, response: &Response) -> u64 {
        if response.created == 0 { self.asked_s } else { response.created }
    }
}

/// One turn.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Whose turn.
    pub role: Role,
    /// What it holds, in order.
    pub parts: Vec<Part>,
    /// The speaker's name among several of one role (OpenAI chat's `name`).
    pub name: Option<String>,
}

/// Whose turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Instructions in the middle of a conversation.
    System,
    /// The caller. Results of tools are the user's too: [`Part::ToolResult`].
    User,
    /// The model.
    Assistant,
}

/// A piece of a turn or of an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    /// Text.
    Text {
        /// The text.
        text: String,
        /// A prompt-cache mark behind this piece.
        cache: Option<CacheMark>,
    },
    /// A picture.
    Image {
        /// Where its bytes are.
        source: Source,
        /// How closely to look: OpenAI's `low`, `high`, `auto`.
        detail: Option<String>,
        /// A prompt-cache mark behind this piece.
        cache: Option<CacheMark>,
    },
    /// A document.
    File {
        /// Where its bytes are.
        source: Source,
        /// Its name.
        name: Option<String>,
        /// A prompt-cache mark behind this piece.
        cache: Option<CacheMark>,
    },
    /// Sound: OpenAI's `input_audio`, Gemini's inline data of an audio type.
    Audio {
        /// Where its bytes are.
        source: Source,
    },
    /// The model calls a function.
    ToolCall {
        /// Pairs the call with its result. Readers make one where the dialect has none.
        id: String,
        /// The function.
        name: String,
        /// The arguments: a JSON object as text, as the model wrote it.
        arguments: String,
        /// A vendor's seal on this call (Gemini's `thoughtSignature`).
        seal: Option<Seal>,
        /// A prompt-cache mark behind this piece.
        cache: Option<CacheMark>,
    },
    /// What a function gave.
    ToolResult {
        /// The call's identifier.
        id: String,
        /// The function. Readers fill it in from the call, since some dialects need it.
        name: String,
        /// Text, images or files.
        content: Vec<Part>,
        /// Whether it failed.
        error: bool,
        /// A prompt-cache mark behind this piece.
        cache: Option<CacheMark>,
    },
    /// What the model thought before it answered.
    Thinking {
        /// What is shown of it; may be empty.
        text: String,
        /// What must come back unchanged on the next turn.
        seal: Option<Seal>,
    },
    /// Thinking of which nothing is shown.
    Hidden {
        /// What must come back unchanged on the next turn.
        seal: Seal,
    },
    /// The model declines.
    Refusal {
        /// What it says.
        text: String,
    },
}

/// A vendor's sealed bytes: a signature or encrypted thinking. Only that vendor can open it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seal {
    /// Whose it is.
    pub vendor: Vendor,
    /// As it came.
    pub data: String,
    /// The identifier of the item that carries it, where the dialect has one (`rs_…`).
    pub item: Option<String>,
}

/// Who made a seal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    /// Anthropic's models, at Anthropic, Bedrock or Vertex.
    Anthropic,
    /// OpenAI's.
    OpenAi,
    /// Google's.
    Google,
}

/// Where the bytes of an image, file or sound are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Here, in base64.
    Base64 {
        /// Such as `image/png`.
        media_type: String,
        /// The bytes in base64.
        data: String,
    },
    /// At an address that the provider fetches.
    Url {
        /// The address.
        url: String,
        /// Its type, where the caller gives it.
        media_type: Option<String>,
    },
    /// Uploaded to the provider before; only there does the identifier mean something.
    Uploaded {
        /// The provider's identifier.
        id: String,
        /// Its type, where the caller gives it.
        media_type: Option<String>,
    },
    /// Plain text as a document (Anthropic's `text` source).
    Text {
        /// The text.
        text: String,
    },
}

/// A place up to which the provider is to cache the prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheMark {
    /// How long to keep it.
    pub ttl: CacheTtl,
}

/// How long a cached prompt is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheTtl {
    /// The provider's usual time (Anthropic: 5 minutes).
    #[default]
    Usual,
    /// An hour.
    Hour,
}

/// A function that the model may call.
#[derive(Clone, Debug, PartialEq)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// What it does.
    pub description: Option<String>,
    /// The JSON Schema of its arguments; `None` where it takes none.
    pub schema: Option<Value>,
    /// Whether arguments must follow the schema exactly.
    pub strict: Option<bool>,
    /// A prompt-cache mark behind this tool.
    pub cache: Option<CacheMark>,
}

/// Which tool the model must call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToolChoice {
    /// As it sees fit.
    Auto,
    /// None.
    None,
    /// At least one.
    Any,
    /// This one.
    Named(String),
    /// As it sees fit, or at least one, among these.
    Among {
        /// The names.
        names: Vec<String>,
        /// Whether one must be called.
        required: bool,
    },
}

/// The form of an answer's text.
#[derive(Clone, Debug, PartialEq)]
pub enum Format {
    /// Any JSON object.
    Json,
    /// JSON that follows a schema.
    Schema {
        /// The schema's name, where the dialect has one.
        name: Option<String>,
        /// What it is for.
        description: Option<String>,
        /// The schema.
        schema: Value,
        /// Whether it must be followed exactly.
        strict: Option<bool>,
    },
}

/// How much a model thinks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reasoning {
    /// OpenAI's and Anthropic's levels.
    pub effort: Option<Effort>,
    /// Most tokens of thinking; 0 switches it off.
    pub budget: Option<u64>,
    /// Whether the model decides by itself how much (Anthropic's `adaptive`, Gemini's -1).
    pub adaptive: bool,
    /// Whether a summary of the thinking is to be shown.
    pub shown: Option<bool>,
    /// Whether sealed thinking is to come back with the answer (OpenAI's `include`).
    pub sealed: bool,
}

/// A level of thinking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are the vendors' and say it")]
pub enum Effort {
    None,
    Minimal,
    Low,
    Medium,
    High,
    XHigh,
    Max,
}

impl Effort {
    /// All levels with their names, which the vendors share.
    pub const ALL: [(Self, &'static str); 7] = [
        (Self::None, "none"),
        (Self::Minimal, "minimal"),
        (Self::Low, "low"),
        (Self::Medium, "medium"),
        (Self::High, "high"),
        (Self::XHigh, "xhigh"),
        (Self::Max, "max"),
    ];

    /// The level of a name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == name).map(|(effort, _)| *effort)
    }

    /// Its name.
    pub fn as_str(self) -> &'static str {
        Self::ALL[self as usize].1
    }
}

/// A whole answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Response {
    /// The upstream's identifier.
    pub id: String,
    /// The model that answered, as the upstream names it.
    pub model: String,
    /// When it was made, in seconds since 1970; 0 where the dialect does not say.
    pub created: u64,
    /// The answer: text, thinking, calls, refusals.
    pub parts: Vec<Part>,
    /// Why it ended.
    pub stop: Stop,
    /// Which of the stop texts ended it.
    pub stop_sequence: Option<String>,
    /// What it used.
    pub usage: Usage,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stop {
    /// It is complete.
    #[default]
    End,
    /// It calls tools.
    Tool,
    /// The limit on tokens.
    Length,
    /// A stop text came.
    Sequence,
    /// The model declined.
    Refusal,
    /// A content filter ended it.
    Filter,
    /// A long turn of the provider's own tools paused; the caller may continue it.
    Pause,
}

/// Tokens, each counted once whatever the dialect adds up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Prompt tokens that neither came from a cache nor were written to one.
    pub input_uncached: u64,
    /// Prompt tokens read from the provider's cache.
    pub cache_read: u64,
    /// Prompt tokens written to the provider's cache.
    pub cache_write: u64,
    /// Tokens of the answer, thinking included.
    pub output: u64,
    /// Those of them that were thinking.
    pub reasoning: u64,
}

impl Usage {
    /// All tokens of the prompt.
    pub const fn input(&self) -> u64 {
        self.input_uncached.saturating_add(self.cache_read).saturating_add(self.cache_write)
    }

    /// All tokens.
    pub const fn total(&self) -> u64 {
        self.input().saturating_add(self.output)
    }
}

/// A step of a streamed answer. Parts are numbered from 0 without gaps in the order of
/// their start, and one ends before the next begins; readers see to both.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The answer begins.
    Start {
        /// The upstream's identifier.
        id: String,
        /// The model that answers.
        model: String,
        /// What is known of the usage already.
        usage: Option<Usage>,
    },
    /// A part begins; its texts are what has come with its beginning.
    PartStart {
        /// Its number.
        index: usize,
        /// The part.
        part: Part,
    },
    /// More of a part's text: of text, thinking or a refusal.
    Text {
        /// The part's number.
        index: usize,
        /// The text.
        text: String,
    },
    /// More of a call's arguments, as JSON text.
    Arguments {
        /// The part's number.
        index: usize,
        /// The text.
        json: String,
    },
    /// The seal of a thinking part or of a call.
    Seal {
        /// The part's number.
        index: usize,
        /// The seal.
        seal: Seal,
    },
    /// A part is complete.
    PartEnd {
        /// Its number.
        index: usize,
    },
    /// What the answer used so far; a later one replaces an earlier one.
    Usage(Usage),
    /// Why the answer ended.
    Stop {
        /// The reason.
        stop: Stop,
        /// Which of the stop texts ended it.
        sequence: Option<String>,
    },
    /// The stream came to its proper end.
    End,
    /// The stream failed.
    Error(Failure),
}

/// An upstream's error, whole or in a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What kind of error.
    pub class: FailureClass,
    /// The upstream's words.
    pub message: String,
    /// The upstream's own code or type, as it came.
    pub code: Option<String>,
    /// The field at fault, in the upstream's dialect.
    pub param: Option<String>,
}

/// What kind of error an upstream reported. The class decides retries and fallbacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureClass {
    /// The request is wrong; another upstream would refuse it too.
    Invalid,
    /// The prompt does not fit the model's context.
    ContextTooLong,
    /// A content filter refused the prompt.
    Filtered,
    /// The key is wrong (401).
    Unauthorized,
    /// The key may not do this (403).
    Forbidden,
    /// No such model, or no such thing (404).
    NotFound,
    /// The account has no money or quota left: waiting does not help.
    Quota,
    /// Too many requests or tokens: waiting helps (429).
    RateLimited,
    /// The provider is overloaded (503, 529).
    Overloaded,
    /// The provider took too long (408, 504).
    Timeout,
    /// The provider failed (5xx).
    Server,
}

/// A request in the words of an upstream.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// The body.
    pub body: Value,
    /// What could only be approximated, one sentence each, for `x-paceline-warning`.
    pub warnings: Vec<String>,
}

/// Something that a dialect has no word for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsupported {
    /// What it is.
    pub what: What,
    /// Why not, such as "Anthropic has no seed".
    pub why: String,
}

/// A part of the neutral form, to be named in the caller's dialect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// One of the caller's own fields, from [`Request::extra`]: its path is known.
    Extra(String),
    /// A field of the request.
    Field(Field),
    /// A part of a message.
    Part {
        /// The message's place.
        message: usize,
        /// The part's place in it.
        part: usize,
    },
    /// A tool.
    Tool(usize),
}

/// The fields that some dialects lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the field of `Request` with its name")]
pub enum Field {
    System,
    ToolChoice,
    ParallelTools,
    Format,
    Reasoning,
    MaxTokens,
    Temperature,
    TopP,
    TopK,
    Stop,
    Seed,
    PresencePenalty,
    FrequencyPenalty,
    User,
    Labels,
    CacheKey,
}

/// A request that its reader cannot make sense of.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{field}` {problem}")]
pub struct Fault {
    /// The path of the field, as in `messages[2].content[0].type`.
    pub field: String,
    /// What is wrong with it, to be read behind its name: "must be a text".
    pub problem: String,
}

impl Fault {
    /// A fault of a field.
    pub fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }
}

impl Unsupported {
    /// A field that the upstream's dialect lacks.
    pub fn field(field: Field, why: impl Into<String>) -> Self {
        Self { what: What::Field(field), why: why.into() }
    }

    /// A part that the upstream's dialect lacks.
    pub fn part(message: usize, part: usize, why: impl Into<String>) -> Self {
        Self { what: What::Part { message, part }, why: why.into() }
    }
}
