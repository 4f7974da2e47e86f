//! Rate-limit headers and retry hints of the providers, as numbers.

/// One limit as a provider's headers show it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bucket {
    /// Units in each period.
    pub limit: Option<f64>,
    /// Units that are left.
    pub remaining: Option<f64>,
    /// Seconds until all are back.
    pub reset_s: Option<f64>,
    /// Length of the period in seconds, where it is not a minute.
    pub period_s: Option<f64>,
}

/// All limits that an answer shows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Headers {
    /// Requests.
    pub requests: Option<Bucket>,
    /// Tokens of both kinds.
    pub tokens: Option<Bucket>,
    /// Tokens of prompts.
    pub input_tokens: Option<Bucket>,
    /// Tokens of answers.
    pub output_tokens: Option<Bucket>,
}
