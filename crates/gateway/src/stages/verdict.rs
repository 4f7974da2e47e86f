//! What a failed attempt means: for the next attempt, and for the health of its deployment.

use paceline_core::{Error, ErrorKind, Origin, Retry};
use paceline_dialect::neutral::FailureClass;
use paceline_route::Outcome;

/// What follows from a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Where the same call may be sent now.
    pub(crate) again: Again,
    /// What it says of the deployment; nothing when that was not asked.
    pub(crate) outcome: Option<Outcome>,
    /// Whether another model may answer instead.
    pub(crate) fallback: Fallback,
}

/// Where the same call may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Again {
    /// Nowhere: it would fail again.
    Never,
    /// To another deployment of the model.
    Other,
    /// To any, after a while; another one first.
    Any,
}

/// Which other model may answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fallback {
    /// None.
    None,
    /// The next one in the declared order.
    Next,
    /// The one for prompts that are too long.
    Longer,
}

impl Verdict {
    const fn new(again: Again, outcome: Outcome, fallback: Fallback) -> Self {
        Self { again, outcome: Some(outcome), fallback }
    }

    /// Of an answer with an error status. `keyed` tells whether the key was the deployment's
    /// own, and not the caller's.
    pub(crate) const fn of_class(class: FailureClass, keyed: bool) -> Self {
        use FailureClass as C;
        match class {
            C::Unauthorized | C::Forbidden | C::Quota if !keyed => {
                Self::new(Again::Never, Outcome::Answered, Fallback::None)
            }
            C::Invalid | C::Filtered => Self::new(Again::Never, Outcome::Answered, Fallback::None),
            C::ContextTooLong => Self::new(Again::Never, Outcome::Answered, Fallback::Longer),
            // The key, not the service, is at fault.
            C::Unauthorized | C::Forbidden | C::Quota => {
                Self::new(Again::Other, Outcome::Barred, Fallback::Next)
            }
            C::NotFound => Self::new(Again::Other, Outcome::Answered, Fallback::Next),
            // A refusal for the rate is no illness.
            C::RateLimited => Self::new(Again::Any, Outcome::Answered, Fallback::Next),
            C::Overloaded | C::Timeout | C::Server => {
                Self::new(Again::Any, Outcome::Failed, Fallback::Next)
            }
        }
    }

    /// Of an attempt without an answer.
    pub(crate) fn of_error(error: &Error) -> Self {
        let by_upstream = error.origin() == Origin::Upstream;
        let (again, fallback) = match (error.kind(), error.retry()) {
            (ErrorKind::UpstreamConnect | ErrorKind::UpstreamBroken, _) => {
                (Again::Any, Fallback::Next)
            }
            (ErrorKind::UpstreamTimeout, _) | (_, Retry::OtherTarget) => {
                (Again::Other, Fallback::Next)
            }
            _ => (Again::Never, Fallback::None),
        };
        Self { again, outcome: by_upstream.then_some(Outcome::Failed), fallback }
    }
}

/// The class of a status, where the body tells no more.
pub(crate) const fn class_of_status(status: u16) -> FailureClass {
    use FailureClass as C;
    match status {
        401 => C::Unauthorized,
        402 => C::Quota,
        403 => C::Forbidden,
        404 => C::NotFound,
        408 | 504 => C::Timeout,
        429 => C::RateLimited,
        503 | 529 => C::Overloaded,
        // What is not implemented stays so.
        501 => C::Invalid,
        500..=599 => C::Server,
        _ => C::Invalid,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_class_has_its_way() {
        let check = |status, again, fallback| {
            let verdict = Verdict::of_class(class_of_status(status), true);
            assert_eq!((verdict.again, verdict.fallback), (again, fallback), "{status}");
        };
        check(400, Again::Never, Fallback::None);
        check(401, Again::Other, Fallback::Next);
        check(404, Again::Other, Fallback::Next);
        check(429, Again::Any, Fallback::Next);
        check(500, Again::Any, Fallback::Next);
        check(501, Again::Never, Fallback::None);
        check(529, Again::Any, Fallback::Next);
        let long = Verdict::of_class(FailureClass::ContextTooLong, true);
        assert_eq!(long.fallback, Fallback::Longer);
        assert_eq!(Verdict::of_class(FailureClass::Quota, true).outcome, Some(Outcome::Barred));
        assert_eq!(Verdict::of_class(FailureClass::Quota, false).again, Again::Never);
    }
}
