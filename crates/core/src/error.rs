//! The only error of the request path: what happened, who caused it, whether to try again.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// The result of a stage of the request path.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong. Decides the HTTP status, the stable `code` and the metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The request is malformed or contradicts itself.
    InvalidRequest,
    /// No or a wrong key.
    Unauthorized,
    /// No such path.
    NotFound,
    /// The path exists, but not for this method.
    MethodNotAllowed,
    /// The request body exceeds the limit.
    BodyTooLarge,
    /// The request's headers or its path exceed the limits.
    HeadTooLarge,
    /// The body did not arrive in time.
    RequestTimeout,
    /// No deployment serves the model.
    ModelNotFound,
    /// The reply is not in the cache, and the caller asked for nothing else (`only`).
    NotCached,
    /// Every deployment of the model is failing.
    NoHealthyTarget,
    /// Paceline is at one of its bounds.
    Overloaded,
    /// Too many calls wait for a provider's limits.
    QueueFull,
    /// The call waited as long as it may for a provider's limits.
    QueueTimeout,
    /// Paceline is stopping.
    ShuttingDown,
    /// The upstream could not be reached.
    UpstreamConnect,
    /// The upstream did not answer within a time limit.
    UpstreamTimeout,
    /// The upstream broke off or sent what is no valid answer.
    UpstreamBroken,
    /// The caller's deadline has passed.
    DeadlineExceeded,
    /// The caller reads a shared answer more slowly than the bound allows.
    ReaderTooSlow,
    /// A bug of ours.
    Internal,
}

/// Who caused an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// The caller.
    Client,
    /// Paceline itself.
    Paceline,
    /// The provider or engine, or the way to it.
    Upstream,
}

/// Whether and how the same call may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Not at all: it would fail again, or the caller already has output.
    Never,
    /// At once, to the same target.
    SameTarget,
    /// At once, to another target.
    OtherTarget,
    /// After this time.
    After(Duration),
}

/// The only error of the request path. Cheap to clone, since the members of a flight share it.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    origin: Origin,
    retry: Retry,
    message: Cow<'static, str>,
    param: Option<Cow<'static, str>>,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error with a message that says what is wrong and how to mend it.
    pub fn new(
        kind: ErrorKind,
        origin: Origin,
        retry: Retry,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        let message = message.into();
        Self(Arc::new(Inner { kind, origin, retry, message, param: None, source: None }))
    }

    /// A malformed request; `message` says where and how to mend it.
    pub fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::InvalidRequest, Origin::Client, Retry::Never, message)
    }

    /// Adds the request field at fault.
    pub fn with_param(mut self, param: impl Into<Cow<'static, str>>) -> Self {
        Arc::make_mut(&mut self.0).param = Some(param.into());
        self
    }

    /// Adds the cause, for logs; it is never shown to a caller.
    pub fn with_source(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Arc::make_mut(&mut self.0).source = Some(Arc::new(source));
        self
    }

    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Who caused it.
    pub fn origin(&self) -> Origin {
        self.0.origin
    }

    /// Whether the call may be sent again.
    pub fn retry(&self) -> Retry {
        self.0.retry
    }

    /// What to tell the caller.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The request field at fault.
    pub fn param(&self) -> Option<&str> {
        self.0.param.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("origin", &self.0.origin)
            .field("message", &self.0.message)
            .field("source", &self.0.source)
            .finish_non_exhaustive()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|source| &**source as _)
    }
}
